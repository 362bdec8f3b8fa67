"""Who has shown no token: counted, answered a little later, and never in the way of others."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aegis_core.errors import InputError
from aegis_core.serving.batcher import Meters, log
from aegis_core.serving.token import CASEWORK, SCORE, Token, given, given_file, hashed, holder

DELAY_S: Final = 0.25
"""How long a wrong token waits for its answer."""
MOST_DELAYED: Final = 200
"""So many wait at a time; more are answered at once, so that waiting holds no place of others."""
LOOK_S: Final = 0.25
"""How often it is looked whether tokens were given or revoked, in seconds."""
TELL_S: Final = 60.0
"""Wrong tokens are one line of the log in so many seconds."""
HEAD_S: Final = 10.0
"""How long the head of a request may take, in seconds."""
LARGEST_HEAD: Final = 64 * 2**10
"""Bytes of a head."""
BODY_S: Final = 30.0
"""How long a body may take after its head."""
MOST_CONNECTIONS: Final = 1_000
MOST_STRANGERS: Final = 500
"""Of these connections so many may be without a token; then the oldest such one is closed."""
MOST_OF_ADDRESS: Final = 200
"""As many may come from one address."""
GRACE_S: Final = 1.0
"""A connection is not closed for another one before it is so old, in seconds..."""
CROWDED: Final = 900
"""...unless so many are without one."""


class Tokens:
    """Knows the tokens, counts who brings a wrong one, and says so once a minute.

    Parameters
    ----------
    path : Of the database, beside which the tokens lie that were given to somebody.
    score, desk : The service's own secrets for `SCORE`, and for `CASEWORK` under any name.

    Raises
    ------
    InputError
        The file of the given tokens cannot be used. Later that is logged, and none of them counts.
    """

    def __init__(self, path: Path, score: str, desk: str, meters: Meters) -> None:
        self._path, self._file, self._meters = path, str(given_file(path)), meters
        self._own = [Token("", SCORE, hashed(score)), Token("", CASEWORK, hashed(desk))]
        self._looked_at, self._stamp = time.monotonic(), self._look()
        self._all = [*self._own, *given(path).values()]
        self._untold = self._delayed = 0
        self._telling: asyncio.TimerHandle | None = None

    def known(self, headers: Iterable[tuple[bytes, bytes]]) -> Token | None:
        """The token that a request brings, of those of `LOOK_S` ago at the most; None: of none."""
        sent = next((value for name, value in headers if name == b"authorization"), b"")
        if sent[:7].lower() != b"bearer ":
            return None
        if (now := time.monotonic()) - self._looked_at >= LOOK_S:
            self._looked_at = now
            if (stamp := self._look()) != self._stamp:
                self._stamp, self._all = stamp, self._own
                try:
                    self._all = [*self._own, *given(self._path).values()]
                except InputError as e:
                    log("tokens_unusable", error=str(e))
        return holder(sent[7:], self._all)

    def _look(self) -> tuple[int, ...]:
        """What changes with the file of the given tokens."""
        try:
            file = os.stat(self._file)
        except OSError:
            return ()
        return file.st_mtime_ns, file.st_ino, file.st_size, file.st_mode

    async def refused(self) -> None:
        """Count a request without a token, and let it wait for a moment."""
        self._meters.wrong_tokens.inc()
        self._untold += 1
        if self._telling is None:
            self.tell()
        if self._delayed < MOST_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(DELAY_S)
            finally:
                self._delayed -= 1

    def tell(self) -> None:
        """Say how many came since the last time, and look again in a minute if any did."""
        n, self._untold, self._telling = self._untold, 0, None
        if n:
            log("wrong_tokens", count=n)
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self.tell)


class Guarded(HttpToolsProtocol):
    """A connection of uvicorn's with limits of time; those without a token make room for others.

    `known` gives the one that a head's headers have, or None; it is the request's `user`.
    """

    known: Callable[[Iterable[tuple[bytes, bytes]]], Token | None]
    _head_size: int | None
    strangers: dict[Guarded, float]
    """The connections without a token, the oldest first, and since when."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._due, self._looks_at = math.inf, math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._await_head()
        host = (self.client or ("",))[0]
        near = [other for other in self.strangers if (other.client or ("",))[0] == host]
        self._make_room(near, MOST_OF_ADDRESS)
        self._make_room(list(self.strangers), MOST_STRANGERS)
        self.strangers[self] = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        if self._timer is not None:
            self._timer.cancel()
        self.strangers.pop(self, None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Wait for the head of a further request."""
        super().on_message_begin()
        if self._due == math.inf:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head has no end."""
        super().data_received(data)
        if self._head_size is not None:
            self._head_size += len(data)
            if self._head_size > LARGEST_HEAD:
                self.transport.abort()

    def on_headers_complete(self) -> None:
        """Look whose request it is, and wait for its body."""
        if (token := type(self).known(self.headers)) is not None:
            self.strangers.pop(self, None)
        else:
            self.strangers.setdefault(self, self.loop.time())
        self._head_size = None
        self._within(BODY_S)
        super().on_headers_complete()
        self.scope["user"] = token  # type: ignore[typeddict-unknown-key]

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._within(None)
        super().on_message_complete()

    def _make_room(self, there: Sequence[Guarded], most: int) -> None:
        """Let there be fewer than `most`, if those beyond are old enough or it is too crowded."""
        for oldest in there[: max(0, len(there) - most + 1)]:
            aged = self.loop.time() - self.strangers.get(oldest, 0.0) >= GRACE_S
            if oldest in self.strangers and (aged or len(self.strangers) >= CROWDED):
                del self.strangers[oldest]
                self.connections.discard(oldest)
                oldest.transport.close()

    def _await_head(self) -> None:
        self._head_size = 0
        self._within(HEAD_S)

    def _within(self, seconds: float | None) -> None:
        """Close the connection in so many seconds, unless this is called again; None: never.

        A timer is looked at when it is over and not stopped before: a request would stop two.
        """
        self._due = math.inf if seconds is None else self.loop.time() + seconds
        if self._due < self._looks_at:
            self._look_at(self._due)

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at, self._timer = moment, self.loop.call_at(moment, self._look)

    def _look(self) -> None:
        self._looks_at, self._timer = math.inf, None
        if self.loop.time() >= self._due:
            self.transport.abort()
        elif self._due < math.inf:
            self._look_at(self._due)


def guarded(known: Callable[[Iterable[tuple[bytes, bytes]]], Token | None]) -> type[Any]:
    """The connections of one server, which together know who of them has a token."""
    return type("Connections", (Guarded,), {"known": staticmethod(known), "strangers": {}})
