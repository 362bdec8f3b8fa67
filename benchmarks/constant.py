"""A server that does nothing: what HTTP and the load generator cost by themselves.

A bare ASGI function under Uvicorn (uvloop, httptools) that reads the body and answers always the
same, of about the size of a verdict.

    python benchmarks/constant.py 8001
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

ANSWER = json.dumps(
    {
        "transaction_id": "constant-0000001", "decision": "approve", "risk": 50.0, "score": 0.5,
        "reasons": [], "cleared": None, "model_version": "constant", "seq": 0, "repeat": False,
    }
).encode()  # fmt: skip
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))],
}
_BODY = {"type": "http.response.body", "body": ANSWER}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Take anything, answer the constant."""
    while (await receive()).get("more_body"):
        continue
    await send(_START)
    await send(_BODY)


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", lifespan="off",
        log_level="warning", access_log=False,
    )  # fmt: skip
