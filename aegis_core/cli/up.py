"""From nothing to the live dashboard, using again what is there."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

from aegis_core.config import Settings
from aegis_core.errors import AegisError, NotReady, RunFailed
from aegis_core.machine import free_port
from aegis_core.runs.execution import run_notebook
from aegis_core.runs.reports import duration
from aegis_core.store import connect
from aegis_core.store.endpoint import files_of
from aegis_core.views.launcher import answers, serve

STREAM_S = 8 * 3600.0
"""How long the stream goes on when nobody says when to end."""
STREAM_RATE = 50.0
"""Its transactions a second."""
STREAM_FRAUD = 5.0
"""Its fraud rates, as a multiple of the history's, so that the board has something to show."""
REPORT_WITHIN_S = 60.0
READY_WITHIN_S = 300.0
"""How long the service may take to fold the history before it is ready."""
OFTEN = 3
"""So many ends of a process within a minute, and it is not started again."""
TOLD = 3
"""Exit code of a process that says why it ends and would do so again."""


def first_light(
    settings: Settings,
    *,
    transactions: int = 500_000,
    port: int = 8866,
    api_port: int = 8000,
    rate: float = STREAM_RATE,
    simulate: bool | None = None,
    for_s: float | None = None,
) -> None:
    """Generate, train and evaluate what is not there yet; then start what lives.

    Each step is a notebook run. What lives are the service, which owns the database and scores over
    REST, a simulated stream that sends transactions to it, and the dashboard. Ends with Ctrl-C, or
    after `for_s` seconds of serving. Into data that somebody brought nothing is simulated.

    Parameters
    ----------
    transactions : How many to generate in an empty database.
    port : Of the dashboard, on the loopback interface; 0 takes any free one.
    api_port : Of the service; where it is taken, any free one.
    rate : Simulated transactions a second.
    simulate : Whether there is a stream; None: only where all data are made up.

    Raises
    ------
    RunFailed
        A notebook or the stream failed. What earlier steps made stays, and the next call goes on
        from there.
    """
    there = what_is_there(settings)
    if not there["transactions"]:  # what training needs is compiled while they are generated
        spawn = multiprocessing.get_context("spawn")
        spawn.Process(target=_compile, daemon=True).start()
    for name, found, words, parameters in (
        ("generate", "transactions", "{:,} transactions in {db}", {"n_transactions": transactions}),
        ("train", "champion", "champion model {}", {}),
        ("evaluate", "evaluation", "evaluation {}", {}),
    ):
        if there[found]:
            print(f"Using the {words.format(there[found], db=settings.db)}.")
            continue
        result = run_notebook(name, parameters, settings)
        print(f"{name} took {duration(result.seconds)}: {result.report_path}", flush=True)
    streams = not there["own"] if simulate is None else simulate
    if there["own"] and not streams:
        print(f"The data in {settings.db} are your own: nothing is simulated into them.")
        if not there["verdicts"]:
            print(
                "None of them has a verdict. End this (Ctrl-C) and fill the board with "
                f"`aegis score --since 30d --db {settings.db}`."
            )
    print(f"Reports: {settings.reports / 'index.html'}", flush=True)
    served = settings.with_any_clock() if streams else settings  # the stream's clock is its own
    with _service(served, api_port) as address, contextlib.ExitStack() as stack:
        readers = files_of(settings.db)[1]
        print(f"Scoring service: {address}/docs", flush=True)
        print(f"To read with DuckDB while it runs, use the statements in {readers}", flush=True)
        if streams:
            stack.enter_context(_stream(settings, for_s, address, rate))
        serve(settings, port, for_s=for_s)


def _compile() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    from aegis_core.serving.warming import compile_all

    compile_all()


def what_is_there(settings: Settings) -> dict[str, object]:
    """Number of transactions and verdicts, whether some are `own`, champion, last evaluation."""
    try:
        with connect(settings.db).reading() as session:
            return session.rows(
                """
                SELECT (SELECT count(*) FROM transactions) AS transactions,
                  (SELECT count(*) FROM verdicts) AS verdicts,
                  EXISTS (FROM transactions) AND (NOT EXISTS (FROM meta WHERE key = 'synthetic')
                    OR EXISTS (FROM transactions WHERE source NOT IN (
                      'synthetic', 'simulate', 'api'))) AS own,
                  (SELECT arg_max(version, promoted_at) FROM models) AS champion,
                  (SELECT arg_max(run_id, started_at) FROM runs
                    WHERE notebook = 'evaluate' AND status IN ('done', 'unjudged')) AS evaluation
                """
            )[0]
    except NotReady:
        return {"transactions": 0, "own": False, "champion": None, "evaluation": None}


@contextlib.contextmanager
def _service(settings: Settings, port: int) -> Iterator[str]:
    """The service in a process of its own, started again where it dies; its address."""
    try:
        port = free_port(port)
    except OSError:
        port = free_port(0)
    with _kept("service", _serve, settings, port) as started:
        if not answers(started[-1].is_alive, port, "/v1/health", READY_WITHIN_S):
            raise RunFailed("The service did not get ready; see above.")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _kept(name: str, work: Callable[..., None], *args: object) -> Iterator[list[BaseProcess]]:
    """A process that is started again where it dies, while the block runs; the last is the newest.

    One that ends by itself, done or for a reason that it told, is left in peace.
    """
    started: list[BaseProcess] = []
    over = threading.Event()

    def start() -> None:
        spawn = multiprocessing.get_context("spawn")
        started.append(spawn.Process(target=work, args=args, name=name))
        started[-1].start()

    def watch() -> None:
        ends: list[float] = []
        while not over.wait(0.1):
            if started[-1].exitcode is None:
                continue
            if started[-1].exitcode in (0, TOLD):
                return
            ends.append(time.monotonic())
            if len(ends) >= OFTEN and ends[-1] - ends[-OFTEN] < 60:
                print(f"The {name} ends again and again; it is not started any more.")
                return
            print(f"The {name} ended and is started again.", flush=True)
            start()

    start()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield started
    finally:
        over.set()
        watcher.join()
        started[-1].terminate()
        started[-1].join()


def _serve(settings: Settings, port: int) -> None:
    os.setsid()  # Ctrl-C reaches the parent, which ends the stream before it ends us
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    from aegis_core.serving.server import serve as run_service

    try:
        run_service(settings, port=port)
    except AegisError as e:
        print(f"The service failed. {e}", file=sys.stderr)
        sys.exit(TOLD)


@contextlib.contextmanager
def _stream(
    settings: Settings, for_s: float | None, target: str = "", rate: float = STREAM_RATE
) -> Iterator[None]:
    """New transactions arrive at `target` from a process of their own, while the block runs.

    A stream that ends by itself is given the time to write its report.
    """
    began = time.monotonic()
    with _kept("stream", _simulate, settings, for_s or STREAM_S, target, rate) as started:
        yield
        if for_s and time.monotonic() - began >= for_s:
            started[-1].join(REPORT_WITHIN_S)
        failed = started[-1].exitcode
    if failed:
        raise RunFailed("The dashboard was served, but the stream failed; see above.")


def _simulate(settings: Settings, seconds: float, target: str, rate: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which terminates us
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    stream = {
        "n_transactions": 0,
        "seconds": seconds,
        "rate": rate,
        "fraud_multiplier": STREAM_FRAUD,
        "target": target,
    }
    try:
        run_notebook("simulate", stream, settings, progress=False)
    except AegisError as e:
        print(f"The stream failed. {e}", file=sys.stderr)
        sys.exit(TOLD)
    except KeyboardInterrupt:
        return


def _end_with_the_parent() -> None:
    """Without this, a parent that was killed would leave the stream behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
