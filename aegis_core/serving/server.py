"""The service: the process that owns the database, scores over REST and serves readers."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading

from aegis_core.config import Settings
from aegis_core.detection.registry import roles
from aegis_core.errors import InputError, StoreError
from aegis_core.serving.api import create_app
from aegis_core.serving.client import kept_token, token_file
from aegis_core.serving.engine import Engine
from aegis_core.store import Store, connect
from aegis_core.store.gate import Limits


def token_of(store: Store, settings: Settings) -> str:
    """The token that requests must bring: of the settings, or of a file made on the first start.

    Raises
    ------
    InputError
        The file can be read by others, or the token is too short.
    StoreError
        The folder takes no file.
    """
    token = settings.token.get_secret_value() or kept_token(store)
    if not token:
        token = secrets.token_urlsafe(32)
        try:
            new = os.open(token_file(store), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(new, "w") as f:
                f.write(token + "\n")
        except OSError as e:
            raise StoreError(f"{token_file(store)} cannot be written: {e.strerror}.") from None
    if len(token) < 16:
        raise InputError("The token is too short to be safe; use 16 characters or more.")
    return token


def serve(
    settings: Settings, *, host: str = "127.0.0.1", port: int = 8000, for_s: float | None = None
) -> None:
    """Own the database and serve until a signal ends it, or `for_s` seconds are over.

    Raises
    ------
    NotReady
        There is no champion model yet, or its files are broken.
    StoreBusy
        Another process holds the database.
    InputError
        The port is taken, or the token is not safe.
    """
    import uvicorn
    from tqdm import tqdm  # type: ignore[import-untyped]

    store = connect(settings.db)
    roles(store)
    token = token_of(store, settings)
    listener = _listener(host, port)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    address = "http://{}:{}".format(*_reached(listener))
    limits = Limits(rows=10_000_000, memory=settings.service_memory)
    with store.owned(limits=limits, rest=address):
        with tqdm(unit="tx", desc="Reading the history", delay=2) as bar:
            engine = Engine(store, settings, progress=bar.update)
        app = create_app(engine, token)
        _without_long_breaths()
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", access_log=False, timeout_graceful_shutdown=10,
                limit_concurrency=1_000, h11_max_incomplete_event_size=65_536,
                proxy_headers=False, server_header=False,
            )
        )  # fmt: skip
        print(f"Scoring on {address}/v1/transactions, described at {address}/docs", flush=True)
        print(f"The token is in {token_file(store)}" if not settings.token.get_secret_value() else
              "The token is that of AEGIS_TOKEN", flush=True)  # fmt: skip
        if for_s is not None:
            timer = threading.Timer(for_s, lambda: setattr(server, "should_exit", True))
            timer.daemon = True
            timer.start()
        for end in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it is done
            signal.signal(end, lambda *_: None)
        server.run(sockets=[listener])


def _without_long_breaths() -> None:
    """Keep Python from stopping for long while requests wait."""
    gc.collect()
    gc.freeze()  # what the start left is never looked at again
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.001)  # the engine's thread and the one that answers take turns


def _reached(listener: socket.socket) -> tuple[str, int]:
    """Host and port at which this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"[{host}]" if ":" in host else host, port


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as e:
        listener.close()
        raise InputError(
            f"{host}:{port} cannot be used ({e.strerror}); choose another with --port."
        ) from None
    return listener
