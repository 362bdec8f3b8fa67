"""The ledger of runs: one row of the table `runs` for each attempt, and who is running now.

A run that was killed cannot say so; whoever comes next finds its lock free and closes its row. The
same row is kept as `run.json` beside the report, so that the list of runs needs no database.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil  # type: ignore[import-untyped]

from aegis_core.config import Settings
from aegis_core.errors import RunBusy
from aegis_core.machine import locked, try_lock, utc_now
from aegis_core.runs import lineage, notebooks, reports
from aegis_core.store import Store

KILLED: Final = "Killed."
"""The error of a run that was killed, once another one finds its row."""
_ASKED_EVERY_S: Final = 0.2
_GLANCE_S: Final = 0.1  # somebody may hold a lock for a moment, to see whether it is free


@dataclass(frozen=True)
class Row:
    """One row of the ledger; see `schema.TABLES`."""

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
    heading: str | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    attempt: int = 1
    retry_of: str | None = None
    entry: str | None = None
    due_at: str | None = None
    notebook_hash: str | None = None
    lock_hash: str | None = None
    settings: str | None = None
    seed: int | None = None
    last_seq: int | None = None
    n_labels: int | None = None
    model_version: str | None = None
    pid: int | None = None
    seen_at: str | None = None


_NOTED: Final = ("data_hash", "last_seq", "n_labels", "seen_at", "model_version")
"""Columns that the notebook fills in while it runs."""


class Due(NamedTuple):
    """The line of a schedule that starts a run, and the time (UTC) at which it was due."""

    entry: str
    at: datetime


def begun(
    name: str,
    notebook: Path | None,
    values: Mapping[str, object],
    settings: Settings,
    due: Due | None = None,
    **more: Any,
) -> Row:
    """A row that begins now.

    The id of a first due attempt is made of entry and time alone: two schedulers begin one row.
    """
    if due and not more.get("retry_of"):
        stamp = due.at
        mark = hashlib.sha256(f"{due.entry}|{due.at.isoformat()}".encode()).hexdigest()[:4]
    else:
        stamp, mark = datetime.now(UTC), secrets.token_hex(2)
    seed = values.get("seed", -1)
    return Row(
        run_id=f"{stamp:%Y%m%d-%H%M%S}-{name}-{mark}",
        notebook=name,
        parameters=json.dumps(values),
        started_at=now(),
        code_version=lineage.code_version(),
        cells_total=notebooks.n_code_cells(notebook) if notebook else 0,
        entry=due.entry if due else None,
        due_at=due.at.isoformat() if due else None,
        notebook_hash=notebooks.content_hash(notebook) if notebook else None,
        lock_hash=lineage.lock_hash(),
        settings=json.dumps(lineage.numbers_of(settings)),
        seed=seed if isinstance(seed, int) and seed >= 0 else settings.seed,
        pid=os.getpid(),
        **more,
    )


def insert(store: Store, row: Row) -> bool:
    """Begin a row; False where a run of this id is there already."""
    values = asdict(row)
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    with store.writing() as session:
        if session.rows("SELECT 1 FROM runs WHERE run_id = ?", [row.run_id]):
            return False
        session.execute(f"INSERT INTO runs ({columns}) VALUES ({marks})", list(values.values()))
    return True


def update(store: Store, row: Row) -> None:
    """Bring a row up to date."""
    values = asdict(row)
    changed = ", ".join(f"{name} = ${name}" for name in values if name != "run_id")
    with store.writing() as session:
        session.execute(f"UPDATE runs SET {changed} WHERE run_id = $run_id", values)


def noted(store: Store, run_id: str) -> dict[str, Any]:
    """What the notebook itself told of the run."""
    (found,) = store.rows(f"SELECT {', '.join(_NOTED)} FROM runs WHERE run_id = ?", [run_id])
    seen_at = found["seen_at"]
    return found | {"seen_at": seen_at and seen_at.isoformat()}


def keep(folder: Path, row: Row, figures: Mapping[str, float] | None = None) -> None:
    """Keep the row beside the report, with the run's headline figures."""
    facts = json.dumps(asdict(row) | {"figures": dict(figures or {})}, indent=1)
    reports.write_whole(folder / "run.json", facts)


def close_killed(store: Store, folder: Path, mine: str) -> None:
    """Mark as interrupted, also in the `folder` of reports, what counts as running and is not.

    The lock of the notebook `mine` is the caller's.
    """
    ended = {"status": "interrupted", "ended_at": now(), "error": KILLED}
    asked = "SELECT run_id, notebook, status, pid FROM runs WHERE status IN ('waiting', 'running')"
    with store.writing() as session:
        dead = over(session.rows(asked), store.path, mine)
        for run_id in dead:
            session.execute(
                "UPDATE runs SET status = $status, ended_at = $ended_at, error = $error, "
                "heading = NULL WHERE run_id = $run_id",
                ended | {"run_id": run_id},
            )
    for run_id in dead:
        path = folder / run_id / "run.json"
        with contextlib.suppress(OSError, ValueError):  # it may not have come to that
            facts = json.loads(path.read_text("utf-8")) | ended
            reports.write_whole(path, json.dumps(facts, indent=1))


def over(rows: Sequence[Mapping[str, Any]], db: Path, mine: str = "") -> set[str]:
    """Ids of those runs, of rows that are not done, of which nothing more comes.

    A killed one cannot say so: its row goes on saying that it waits or runs. One that failed may be
    tried again as long as its own process holds the lock. Of `mine` the caller holds it.
    """
    held = {name: holder(db, name) for name in {row["notebook"] for row in rows} - {mine}}
    return {row["run_id"] for row in rows if _is_over(row, held.get(row["notebook"]))}


def _is_over(row: Mapping[str, Any], held: str | None) -> bool:
    if row["status"] == "waiting":
        return not (row["pid"] and psutil.pid_exists(row["pid"]))
    if row["status"] == "running":
        return held is None
    return held is None or not held.startswith(_named(row["pid"]))


def holder(db: Path, name: str) -> str | None:
    """Who runs a notebook on a database, in words; None: nobody."""
    try:
        handle = os.open(_lock_of(db, name), os.O_RDWR)
    except FileNotFoundError:
        return None
    except PermissionError:
        return "another user's process"
    try:
        if try_lock(handle):
            return None
        return os.pread(handle, 200, 0).decode(errors="replace").strip() or "a process"
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone(db: Path, name: str, wait_s: float | None = 0.0) -> Iterator[None]:
    """Hold the lock of a notebook on a database; the system lets go when the process ends.

    `RunBusy` tells who held it for `wait_s` seconds (None: wait for ever), or that another user's
    file is in its place.
    """
    db.parent.mkdir(parents=True, exist_ok=True)
    path = _lock_of(db, name)
    patience_s = None if wait_s is None else max(wait_s, _GLANCE_S)
    with contextlib.ExitStack() as held:
        try:
            every_s = _ASKED_EVERY_S if wait_s != 0 else _GLANCE_S / 4
            handle = held.enter_context(locked(path, patience_s, every_s))
        except PermissionError:
            raise RunBusy(
                f"{name} is running on {db}, or was: {path} belongs to another user, who alone may "
                "run it on this database. Run it as that user."
            ) from None
        except BlockingIOError:
            raise RunBusy(
                f"{name} is already running on {db} ({holder(db, name) or 'a process'}). "
                "Wait for it or stop it, then start again."
            ) from None
        held.callback(path.unlink, missing_ok=True)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{_named(os.getpid())} since {now()[:19]} UTC".encode(), 0)
        yield


def now() -> str:
    """The time, UTC, as the ledger has it."""
    return utc_now().isoformat()


def _named(pid: int | None) -> str:
    """How a lock begins that a process holds."""
    return f"process {pid},"


def _lock_of(db: Path, name: str) -> Path:
    whole = db.resolve()  # one lock, also for who comes through a link
    return whole.with_name(f".{whole.name}.{name}.lock")
