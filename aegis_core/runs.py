"""Notebook runs: the ledger, and the reports that people read.

A run is one notebook, executed from the top, with a row in the table `runs` and a folder
`reports/<run_id>/` that holds the executed notebook, an HTML report that needs no network, and
`run.json`. The same notebook does not run twice at once on the same database.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

import aegis_core
from aegis_core import notebooks, reports
from aegis_core.config import CHECKOUT, Settings
from aegis_core.errors import InputError, RunBusy, RunFailed, StoreBusy, did_you_mean
from aegis_core.notebooks import NOTEBOOKS, check_parameters, inspect
from aegis_core.store import Store, connect

if TYPE_CHECKING:
    import pandas as pd

_LEDGER_EVERY_S: Final = 1.0  # an opening of the database costs about 50 ms


@dataclass(frozen=True)
class RunResult:
    """A finished run and where to read it."""

    run_id: str
    status: str
    notebook_path: Path
    report_path: Path
    seconds: float


@dataclass(frozen=True)
class _Row:
    """One row of the ledger."""

    run_id: str
    notebook: str
    parameters: str
    started_at: str
    code_version: str
    cells_total: int
    cells_done: int = 0
    status: str = "running"
    ended_at: str | None = None
    data_hash: str | None = None
    report_path: str | None = None
    error: str | None = None


def run_notebook(
    name: str,
    parameters: Mapping[str, object],
    settings: Settings,
    *,
    progress: bool = True,
    timeout_s: float | None = None,
) -> RunResult:
    """Execute a notebook from the top and record the run.

    Parameters
    ----------
    name : str
        One of `NOTEBOOKS`.
    parameters : mapping
        Values for the notebook's own parameters. Strings are read as the parameter's type.
    settings : Settings
        Hold in the kernel as well, whatever the caller's environment says.
    progress : bool
        Show papermill's progress bar on the standard error.
    timeout_s : float, optional
        The run fails when it takes longer; None: no limit.

    Raises
    ------
    InputError
        No such notebook or parameter, or a value of the wrong type.
    NotReady
        There is no database yet and the notebook does not make one.
    RunBusy
        The same notebook is running on the same database.
    RunFailed
        A cell raised, the kernel died or time ran out; ledger and report say which.
    KeyboardInterrupt
        Ctrl-C or SIGTERM; the ledger says `interrupted`.
    """
    if name not in NOTEBOOKS:
        known = ", ".join(NOTEBOOKS)
        raise InputError(f"No notebook {name!r}; there are {known}.{did_you_mean(name, NOTEBOOKS)}")
    values = check_parameters(name, parameters)
    store = connect(settings.db)
    if name != "generate":
        store.rows("SELECT 1")  # no database, or not one of ours: said before anything starts
    with _alone(settings.db, name), _terminate_as_interrupt():
        return _run(name, values, settings, store, progress, timeout_s)


def record_data(store: Store, run_id: str, data_hash: str) -> None:
    """Note in the ledger what data a run saw. Outside a run (`run_id` empty) nothing happens."""
    if run_id:
        with store.writing() as session:
            session.execute("UPDATE runs SET data_hash = ? WHERE run_id = ?", [data_hash, run_id])


def record_metrics(
    store: Store, run_id: str, values: Mapping[tuple[str, str], float | None]
) -> None:
    """Replace the rows of `metrics` of a run by `values`, keyed by (name, slice).

    Outside a run (`run_id` empty) nothing happens.
    """
    if not run_id:
        return
    rows = pa.table(
        {
            "run_id": [run_id] * len(values),
            "name": [name for name, _ in values],
            "slice": [part for _, part in values],
            "value": pa.array(values.values(), pa.float64()),
        }
    )
    with store.writing() as session:
        session.execute("DELETE FROM metrics WHERE run_id = ?", [run_id])
        session.append("metrics", rows)


def record_proof(store: Store, checked: int, different: int) -> None:
    """Note for the dashboard that stored verdicts were replayed, and how many came out differently.

    Where nothing was checked nothing is noted.
    """
    if checked:
        with store.writing() as session:
            session.execute("INSERT INTO proofs VALUES (?, ?, ?)", [_now(), checked, different])


def record_scores(store: Store, run_id: str, scores: pd.DataFrame) -> None:
    """Replace the rows of `evaluation_scores` of a run: `transaction_id`, `detector`, `score`.

    Outside a run (`run_id` empty) nothing happens.
    """
    if not run_id:
        return
    with store.writing() as session:
        session.execute("DELETE FROM evaluation_scores WHERE run_id = ?", [run_id])
        session.append("evaluation_scores", scores.assign(run_id=run_id))


def code_version() -> str:
    """Version of the package, with the commit when it runs from a checkout."""
    version = aegis_core.__version__
    if not (CHECKOUT / ".git").exists():
        return version
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git: no commit
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        version += "+" + found.stdout.strip()
    return version


def _run(
    name: str,
    values: dict[str, object],
    settings: Settings,
    store: Store,
    progress: bool,
    timeout_s: float | None,
) -> RunResult:
    began, notebook = time.monotonic(), NOTEBOOKS[name]
    declared = inspect(notebook)
    row = _Row(
        run_id=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}",
        notebook=name,
        parameters=json.dumps(values),
        started_at=_now(),
        code_version=code_version(),
        cells_total=notebooks.n_code_cells(notebook),
    )
    folder = settings.reports / row.run_id
    folder.mkdir(parents=True)
    executed, report = folder / notebook.name, folder / "report.html"
    _insert(store, row)
    _note(folder, row)
    counter = _Counter(store, row.run_id)

    def finish(status: str, error: str | None = None) -> RunResult:
        ended = replace(
            row,
            status=status,
            error=error,
            ended_at=_now(),
            cells_done=counter.done,
            data_hash=_data_hash(store, row.run_id),
            report_path=str(report),
        )
        _update(store, ended)
        asked = [(key, value, declared[key]["help"]) for key, value in values.items()]
        report.write_text(reports.render(executed, asdict(ended), asked), "utf-8")
        _note(folder, ended)
        return RunResult(row.run_id, status, executed, report, time.monotonic() - began)

    shutil.copyfile(notebook, executed)  # there to be read, however early the run ends
    own = {"db": str(settings.db), "run_id": row.run_id}
    try:
        notebooks.execute(
            notebook,
            executed,
            values | {k: v for k, v in own.items() if k in declared},
            settings,
            count=counter,
            deadline=None if timeout_s is None else began + timeout_s,
            bar=name if progress else None,
        )
    except KeyboardInterrupt:
        finish("interrupted", "Stopped from outside.")
        raise
    except Exception as e:  # whatever ends a run belongs in the ledger
        where, error = notebooks.explain(e, timeout_s)
        finish("failed", error)
        raise RunFailed(f"{name} failed{where}: {error} Executed notebook: {executed}") from None
    return finish("done")


class _Counter:
    """Counts the code cells that are done and tells the ledger, at most once a second."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = connect(store.path, wait_s=0.2)
        self.run_id = run_id
        self.done = 0
        self.told_at = time.monotonic()

    def __call__(self, cell: Mapping[str, Any]) -> None:
        injected = "injected-parameters" in cell["metadata"].get("tags", [])
        self.done += cell["cell_type"] == "code" and not injected
        if time.monotonic() - self.told_at < _LEDGER_EVERY_S:
            return
        self.told_at = time.monotonic()
        with contextlib.suppress(StoreBusy), self.store.writing() as session:  # the next will do
            session.execute(
                "UPDATE runs SET cells_done = ? WHERE run_id = ?", [self.done, self.run_id]
            )


@contextlib.contextmanager
def _alone(db: Path, name: str) -> Iterator[None]:
    """Hold the lock of a notebook on a database; the system lets go when the process ends."""
    db.parent.mkdir(parents=True, exist_ok=True)
    path = db.with_name(f".{db.name}.{name}.lock")
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode().strip() or "unknown"
            os.close(handle)
            raise RunBusy(
                f"{name} is already running on {db} (process {holder}). "
                "Wait for it or stop it, then start again."
            ) from None
        # whoever held the lock before may have removed the file in between
        if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
            break
        os.close(handle)
    try:
        os.pwrite(handle, f"{os.getpid():<20}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, as schedulers send it, end a run in the same orderly way as Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _insert(store: Store, row: _Row) -> None:
    values = asdict(row)
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    with store.writing() as session:
        # we hold the lock of this notebook, so what still counts as running was killed
        session.execute(
            "UPDATE runs SET status = 'interrupted', ended_at = ?, error = 'Killed.' "
            "WHERE notebook = ? AND status = 'running'",
            [row.started_at, row.notebook],
        )
        session.execute(f"INSERT INTO runs ({columns}) VALUES ({marks})", list(values.values()))


def _update(store: Store, row: _Row) -> None:
    values = asdict(row)
    changed = ["status", "ended_at", "cells_done", "data_hash", "report_path", "error"]
    with store.writing() as session:
        session.execute(
            f"UPDATE runs SET {', '.join(f'{name} = ${name}' for name in changed)} "
            "WHERE run_id = $run_id",
            {name: values[name] for name in [*changed, "run_id"]},
        )


def _data_hash(store: Store, run_id: str) -> str | None:
    """What the notebook noted that it saw, or else what is there now."""
    with store.reading() as session:
        noted = session.rows("SELECT data_hash FROM runs WHERE run_id = ?", [run_id])[0]
    return noted["data_hash"] or store.data_hash()


def _note(folder: Path, row: _Row) -> None:
    """Keep the ledger's row beside the report, and bring the list of runs up to date."""
    (folder / "run.json").write_text(json.dumps(asdict(row), indent=1), "utf-8")
    reports.write_index(folder.parent)


def _now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat()
