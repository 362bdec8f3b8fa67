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
from collections.abc import Iterator

from aegis_core.board.launcher import serve
from aegis_core.config import Settings
from aegis_core.errors import AegisError, NotReady, RunFailed
from aegis_core.reports import duration
from aegis_core.runs import run_notebook
from aegis_core.store import connect

STREAM_S = 8 * 3600.0
"""How long the stream goes on when nobody says when to end."""
STREAM_RATE = 50.0
"""Its transactions a second."""
STREAM_FRAUD = 5.0
"""Its fraud rates, as a multiple of the history's, so that the board has something to show."""
REPORT_WITHIN_S = 60.0


def first_light(
    settings: Settings,
    *,
    transactions: int = 500_000,
    port: int = 8866,
    for_s: float | None = None,
) -> None:
    """Generate, train and evaluate what is not there yet; then stream and serve the dashboard.

    Each step is a notebook run. Ends with Ctrl-C, or after `for_s` seconds of serving.

    Parameters
    ----------
    transactions : int
        How many to generate in an empty database.
    port : int
        Of the dashboard, on the loopback interface; 0 takes any free one.

    Raises
    ------
    RunFailed
        A notebook or the stream failed. What earlier steps made stays, and the next call goes on
        from there.
    """
    there = what_is_there(settings)
    if there["transactions"]:
        print(f"Using the {there['transactions']:,} transactions in {settings.db}.")
    else:
        _run("generate", {"n_transactions": transactions}, settings)
    if there["champion"]:
        print(f"Using the champion model {there['champion']}.")
    else:
        _run("train", {}, settings)
    if there["evaluation"]:
        print(f"Using the evaluation {there['evaluation']}.")
    else:
        _run("evaluate", {}, settings)
    print(f"Reports: {settings.reports / 'index.html'}", flush=True)
    with _stream(settings, for_s):
        serve(settings, port, for_s=for_s)


def what_is_there(settings: Settings) -> dict[str, object]:
    """Number of transactions, version of the champion, and the last evaluation that was done."""
    try:
        with connect(settings.db).reading() as session:
            return session.rows(
                """
                SELECT (SELECT count(*) FROM transactions) AS transactions,
                  (SELECT arg_max(version, promoted_at) FROM models) AS champion,
                  (SELECT arg_max(run_id, started_at) FROM runs
                    WHERE notebook = 'evaluate' AND status = 'done') AS evaluation
                """
            )[0]
    except NotReady:
        return {"transactions": 0, "champion": None, "evaluation": None}


def _run(name: str, parameters: dict[str, object], settings: Settings) -> None:
    result = run_notebook(name, parameters, settings)
    print(f"{name} took {duration(result.seconds)}: {result.report_path}", flush=True)


@contextlib.contextmanager
def _stream(settings: Settings, for_s: float | None) -> Iterator[None]:
    """New transactions arrive and are scored in a process of their own, while the block runs.

    A stream that ends by itself is given the time to write its report.
    """
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_simulate, args=(settings, for_s or STREAM_S), name="stream")
    process.start()
    began = time.monotonic()
    try:
        yield
        if for_s and time.monotonic() - began >= for_s:
            process.join(REPORT_WITHIN_S)
    finally:
        failed = process.exitcode
        process.terminate()
        process.join()
    if failed:
        raise RunFailed("The dashboard was served, but the stream failed; see above.")


def _simulate(settings: Settings, seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which terminates us
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    stream = {
        "n_transactions": 0,
        "seconds": seconds,
        "rate": STREAM_RATE,
        "fraud_multiplier": STREAM_FRAUD,
    }
    try:
        run_notebook("simulate", stream, settings, progress=False)
    except AegisError as e:
        sys.exit(f"The stream failed. {e}")
    except KeyboardInterrupt:
        return


def _end_with_the_parent() -> None:
    """Without this, a parent that was killed would leave the stream behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
