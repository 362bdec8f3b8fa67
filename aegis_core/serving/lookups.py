"""Look-ups beside the scoring: few at a time, on threads of their own.

Whoever reads asks the tables to catch up with what was answered, which costs the scoring as much
for one transaction as for a hundred. So all that are looked for at a moment share one reading.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from aegis_core.errors import QueueFull, StoreError
from aegis_core.serving.engine import Engine
from aegis_core.serving.rows import Row

MOST_WAITING: Final = 500
"""Look-ups that may wait; beyond, it is said at once that there are too many."""
AT_ONCE: Final = 100
"""Transactions that one reading looks for."""
PAUSE_S: Final = 0.2
"""Between two readings the scoring has the machine to itself, three times as long as one took, but
no longer than this."""
_THREADS: Final = 2


class Lookups:
    """Answers look-ups of one transaction, and other readings, beside an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: list[tuple[str, asyncio.Future[Row | None]]] = []
        self._answering: asyncio.Task[None] | None = None
        self._n_reading = 0
        self._threads = ThreadPoolExecutor(_THREADS, "aegis-look-up")
        self._one = ThreadPoolExecutor(1, "aegis-look-up-one")

    async def find(self, transaction_id: str) -> Row | None:
        """A transaction and its verdict, or None where it never arrived.

        Raises
        ------
        QueueFull : Too many wait already.
        """
        self._admit(len(self._asked))
        answer: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._asked.append((transaction_id, answer))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())
        return await answer

    async def read(self, work: Callable[..., Any], *args: Any, **given: Any) -> Any:
        """The result of `work`, which reads; `QueueFull` where too many wait already."""
        self._admit(self._n_reading)
        self._n_reading += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: work(*args, **given))
        finally:
            self._n_reading -= 1

    def close(self) -> None:
        """Begin nothing more; who waits is told so."""
        for _, answer in self._asked:
            if not answer.done():
                answer.set_exception(StoreError("The service is ending."))
        self._asked = []
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._one.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _admit(n: int) -> None:
        if n >= MOST_WAITING:
            raise QueueFull(f"{n} look-ups are waiting; try again.")

    async def _answer(self) -> None:
        loop, engine = asyncio.get_running_loop(), self._engine
        while self._asked:
            some, self._asked = self._asked[:AT_ONCE], self._asked[AT_ONCE:]
            ids, began = [one for one, _ in some], time.monotonic()
            try:
                places = await loop.run_in_executor(engine.thread, engine.places, ids)
                found = await loop.run_in_executor(self._one, engine.told, ids, places)
            except Exception as e:
                for _, answer in some:
                    if not answer.done():
                        answer.set_exception(e)
            else:
                for (_, answer), row in zip(some, found, strict=True):
                    if not answer.done():  # the client may have gone away
                        answer.set_result(row)
            await asyncio.sleep(min(PAUSE_S, 3 * (time.monotonic() - began)))
