"""Who has not the token is counted, waits, and holds no place that others need."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from aegis_core.serving import strangers
from aegis_core.serving.batcher import Meters
from aegis_core.serving.strangers import Tokens, guarded

TOKEN = "a-token-for-the-tests"
KNOWN = b"authorization: Bearer a-token-for-the-tests\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n%s\r\n"
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def test_wrong_tokens_are_counted_wait_and_are_told_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(strangers, "DELAY_S", 3_600.0)
    caplog.set_level(logging.INFO, "aegis.service")
    meters = Meters()

    async def many() -> tuple[int, int]:
        tokens = Tokens(tmp_path / "a.duckdb", TOKEN, "of-the-desk", meters)
        waiting = [asyncio.create_task(tokens.refused()) for _ in range(300)]
        for _ in range(3):
            await asyncio.sleep(0)
        done = sum(task.done() for task in waiting)
        tokens.tell()
        tokens.tell()  # a minute without any
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return done, tokens._delayed

    assert asyncio.run(many()) == (300 - strangers.MOST_DELAYED, 0)
    assert [json.loads(r.getMessage())["count"] for r in caplog.records] == [1, 299]
    assert meters.registry.get_sample_value("aegis_wrong_tokens_total") == 300


async def answer(scope: Any, receive: Any, send: Any) -> None:
    n = len(await Request(scope, receive).body())
    await PlainTextResponse(f"{n} bytes")(scope, receive, send)


@asynccontextmanager
async def served() -> AsyncIterator[Callable[..., Awaitable[Line]]]:
    """A server of guarded connections; what opens one more to it."""
    tokens = Tokens(Path("there-is-none.duckdb"), TOKEN, "of-the-desk", Meters())
    config = uvicorn.Config(answer, log_config=None, ws="none")
    kind, state = guarded(tokens.known), ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: kind(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    lines: list[Line] = []

    async def opened(sent: bytes = b"") -> Line:
        port = server.sockets[0].getsockname()[1]
        lines.append(await asyncio.open_connection("127.0.0.1", port))
        lines[-1][1].write(sent)
        return lines[-1]

    yield opened
    for _, writer in lines:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    server.close()


async def answered(line: Line, sent: bytes = b"") -> bytes:
    line[1].write(sent)
    head = await line[0].readuntil(b"\r\n\r\n")
    return head[9:12] + b" " + await line[0].readexactly(7)


async def closed(line: Line) -> bool:
    """Whether the other side hangs up; waits until it does."""
    try:
        return await asyncio.wait_for(line[0].read(), 30) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("HEAD_S", b""),
        ("HEAD_S", b"GET / HTTP/1.1\r\nhost: x\r\n"),
        ("BODY_S", b"POST / HTTP/1.1\r\nhost: x\r\n%scontent-length: 9\r\n\r\nabc" % KNOWN),
        ("", b"GET / HTTP/1.1\r\nx: " + b"y" * (strangers.LARGEST_HEAD + 1)),
    ],
)
def test_what_is_slow_or_has_no_end_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, limit: str, sent: bytes
) -> None:
    if limit:
        monkeypatch.setattr(strangers, limit, 0.05)

    async def slow() -> bool:
        async with served() as opened:
            return await closed(await opened(sent))

    assert asyncio.run(slow())


def test_a_connection_goes_on_after_an_answer_and_is_limited_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def twice() -> list[object]:
        async with served() as opened:
            line = await opened()
            told: list[object] = [await answered(line, GET % KNOWN) for _ in range(2)]
            monkeypatch.setattr(strangers, "HEAD_S", 0.05)
            line[1].write(b"GET /")
            return [*told, await closed(line)]

    assert asyncio.run(twice()) == [b"200 0 bytes", b"200 0 bytes", True]


@pytest.mark.parametrize(
    ("limit", "unless"), [("MOST_STRANGERS", "GRACE_S"), ("MOST_OF_ADDRESS", "CROWDED")]
)
def test_who_has_no_token_makes_room_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch, limit: str, unless: str
) -> None:
    monkeypatch.setattr(strangers, limit, 4)
    monkeypatch.setattr(strangers, "GRACE_S", 3_600.0)
    monkeypatch.setattr(strangers, unless, 0)

    async def crowd() -> list[object]:
        async with served() as opened:
            mine = await opened()
            told: list[object] = [await answered(mine, GET % KNOWN)]
            idle = [await opened() for _ in range(3)]
            asked = await opened()
            told.append(await answered(asked, GET % b""))
            late = [await opened() for _ in range(3)]
            told += [await closed(line) for line in idle]
            told += [await answered(line, GET % KNOWN) for line in (mine, asked, *late)]
            return told

    assert asyncio.run(crowd()) == [b"200 0 bytes"] * 2 + [True] * 3 + [b"200 0 bytes"] * 5
