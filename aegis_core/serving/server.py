"""The service: the process that owns the database, scores over REST and serves readers."""

from __future__ import annotations

import gc
import json
import logging
import socket
import sys
import threading
from typing import Final

from aegis_core.config import Settings
from aegis_core.detection.registry import roles
from aegis_core.errors import InputError
from aegis_core.machine import stop_signals
from aegis_core.serving.api import create_app
from aegis_core.serving.engine import Engine
from aegis_core.serving.strangers import MOST_CONNECTIONS, guarded
from aegis_core.serving.token import token_file, token_of
from aegis_core.store import Store, audit, connect
from aegis_core.store.endpoint import find
from aegis_core.store.files import open_to_others

_NOT_NOTED: Final = {
    *("home", "db", "models", "reports", "token", "review_token", "schedule", "notify", "analyst")
}


def serve(
    settings: Settings, *, host: str = "127.0.0.1", port: int = 8000, for_s: float | None = None
) -> None:
    """Own the database and serve until a signal ends it, or `for_s` seconds are over.

    Raises
    ------
    NotReady : There is no champion model yet, or its files are broken.
    StoreBusy : Another process holds the database.
    InputError : The port is taken, or a file of tokens cannot be used.
    """
    store = connect(settings.db)
    roles(store)
    token = token_of(store, settings)
    with _listener(host, port) as listener:
        _serve(store, settings, token, listener, for_s)


def _serve(
    store: Store, settings: Settings, token: str, listener: socket.socket, for_s: float | None
) -> None:
    import uvicorn
    from tqdm import tqdm  # type: ignore[import-untyped]

    if exposed := open_to_others(store.path, settings.models, settings.reports):
        names = " ".join(map(str, exposed))
        print(f"Other accounts of this machine can read {names}; `chmod -R go= {names}` ends that.",
              flush=True)  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    address = "http://{}:{}".format(*_reached(listener))
    bar = tqdm(unit="tx", desc="Reading the history", delay=2)
    with Engine.open(store, settings, rest=address, wait_s=1.0, progress=bar.update) as engine:
        bar.close()
        if changed := note_settings(store, settings):
            print(f"Other settings than at the last start: {changed}", flush=True)
        endpoint = find(store.path)
        assert endpoint is not None  # this process's own
        app = create_app(engine, token, endpoint.desk_token)
        _without_long_breaths()
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", access_log=False, timeout_graceful_shutdown=10,
                limit_concurrency=MOST_CONNECTIONS, http=guarded(app.tokens.known), ws="none",
                proxy_headers=False, server_header=False,
            )
        )  # fmt: skip
        print(f"Scoring on {address}/v1/transactions, described at {address}/docs", flush=True)
        where = "AEGIS_TOKEN" if settings.token.get_secret_value() else token_file(store)
        print(f"The token for scoring is in {where}; `aegis tokens add` gives analysts and viewers "
              "theirs", flush=True)  # fmt: skip
        if for_s is not None:
            timer = threading.Timer(for_s, lambda: setattr(server, "should_exit", True))
            timer.daemon = True
            timer.start()
        with stop_signals(lambda *_: None):  # uvicorn raises them again when it is done
            server.run(sockets=[listener])


def note_settings(store: Store, settings: Settings) -> str:
    """Which settings are others than at the last start, for a human; the audit keeps it, too.

    Of the schedule and of the rules of notification only the names count.
    """
    now = settings.model_dump(mode="json", exclude=_NOT_NOTED)
    now |= {
        "schedule": sorted(settings.schedule),
        "notify": [rule.name for rule in settings.notify],
    }
    with store.changing() as session:
        found = session.noted("settings")
        before = json.loads(found) if found else now
        if before == now and found:
            return ""
        changed = {key: [before.get(key), now[key]] for key in now if before.get(key) != now[key]}
        if changed:
            audit.record(session, "aegis", "settings", "aegis.toml", changed)
        session.execute(
            "INSERT INTO meta VALUES ('settings', ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value",
            [json.dumps(now)],
        )
    return ", ".join(f"{key} {then} → {is_now}" for key, (then, is_now) in changed.items())


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
