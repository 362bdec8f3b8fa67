"""Verification: a run is executed again, on the data that it saw, and every number is compared.

The data of then are the first transactions and labels of now, as the ledger counted them; a scratch
database gets them, the verdicts and answers of that time, and the models with the roles that they
had. What was changed or deleted since cannot be rebuilt, and then nothing is executed at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from aegis_core import ledger, lineage, notebooks, reports, runs
from aegis_core.config import Settings
from aegis_core.errors import InputError, NotVerifiable, did_you_mean
from aegis_core.ledger import Row
from aegis_core.store import Store, connect
from aegis_core.store.session import Session

_BATCH: Final = 500_000
_TOLD: Final = 5
_TEXTS: Final = ("text/plain", "text/html", "application/vnd.plotly.v1+json")
_PASSING: Final = (  # says how long something took, and when
    re.compile(r"\d[\d,.]* (?:s|ms|min|h)\b"),
    re.compile(r"\d[\d,]* (?:a second|tx/s)"),
    re.compile(r"\b\d{8}-\d{6}-\w+(?:-\w+)?"),
    re.compile(r"\b[0-9a-f]{32}\b|at 0x[0-9a-f]+|id=\"[^\"]*\"|plotlyServerURL"),
)
_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?")
_FILES: Final = (".npz", ".npy", ".json")


@dataclass(frozen=True)
class Difference:
    """A number that came out otherwise: where it stands, what it was, what it is."""

    where: str
    then: object
    now: object

    def __str__(self) -> str:
        return f"{self.where}: {self.then} then, {self.now} now"


@dataclass(frozen=True)
class Verification:
    """What executing a run again gave.

    Attributes
    ----------
    compared : how many numbers.
    differences : those that differ.
    notes : what has changed since, such as the code.
    run_id : of this verification itself, in the ledger.
    """

    of: str
    compared: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    run_id: str

    def lines(self) -> Iterator[str]:
        """The result in words."""
        yield from self.notes
        if not self.differences:
            yield f"{self.of}: all {self.compared:,} numbers came out the same."
            return
        yield f"{self.of}: {len(self.differences):,} of {self.compared:,} numbers DIFFER."
        yield from map(str, self.differences)


def verify(
    what: str, settings: Settings, *, progress: bool = True, due: runs.Due | None = None
) -> Verification:
    """Execute a run again in a scratch database and compare every number.

    Compared are the run's rows of `metrics` and `evaluation_scores`, the model that it made, the
    data that it left, and the numbers that the executed notebook prints and draws, except for
    durations and for the names of runs and models. The verification is a row of the ledger
    itself: `failed` where numbers differ.

    Parameters
    ----------
    what : str
        The id of a run that is done, or a notebook's name for its last one.
    due : runs.Due, optional
        What a schedule started; it takes place once.

    Raises
    ------
    InputError
        There is no such run, or it is not done.
    NotVerifiable
        The data or the model of then are not there any more, or the run used what lies outside.
    RunBusy
        The run is being verified already.
    RunFailed
        The notebook fails now.
    """
    store = connect(settings.db)
    run = _run_of(store, what)
    began, row = ledger.now(), _row(run, settings, due)
    with ledger.alone(settings.db, f"verify-{run['run_id']}"):
        if not ledger.insert(store, row):
            return Verification(run["run_id"], 0, (), ("Verified for this time already.",), row.run_id)
        folder = settings.reports / row.run_id
        last = replace(row, status="interrupted", error="Stopped from outside.")
        try:
            found = _verified(store, run, row.run_id, settings, folder, progress)
            told = "; ".join(str(d) for d in found.differences[:_TOLD])
            more = "; …" if len(found.differences) > _TOLD else ""
            last = replace(
                row,
                status="failed" if found.differences else "done",
                error=f"{len(found.differences)} numbers differ: {told}{more}"
                if found.differences
                else None,
                cells_done=row.cells_total,
                report_path=str(folder / "report.html"),
            )
            return found
        except Exception as e:
            last = replace(row, status="failed", error=str(e))
            raise
        finally:
            ended = ledger.now()
            last = replace(last, ended_at=ended, seconds=_seconds(began, ended))
            ledger.update(store, last)
            if folder.exists():
                ledger.keep(folder, last)
                reports.write_index(settings.reports)


def _run_of(store: Store, what: str) -> dict[str, Any]:
    done = "status = 'done' AND notebook != 'verify'"
    with store.reading() as session:
        rows = session.rows(
            f"SELECT * FROM runs WHERE run_id = $what OR (notebook = $what AND {done}) "
            "ORDER BY run_id = $what DESC, started_at DESC LIMIT 1",
            {"what": what},
        )
        if not rows:
            known = [r["run_id"] for r in session.rows(f"SELECT run_id FROM runs WHERE {done}")]
            raise InputError(
                f"There is no run {what!r}, and no run of such a notebook that is done; "
                "`aegis status` shows the last ones." + did_you_mean(what, known)
            )
    run: dict[str, Any] = rows[0]
    if run["status"] != "done" or run["notebook"] == "verify":
        raise InputError(f"{what} is {run['status']}; only a run that is done has numbers.")
    if run["notebook"] not in notebooks.NOTEBOOKS:
        raise NotVerifiable(f"The notebook {run['notebook']} is not there any more.")
    return run


def _row(run: dict[str, Any], settings: Settings, due: runs.Due | None) -> Row:
    work = runs.Work.of("verify", {"run": run["run_id"]}, settings, run["notebook"])
    return replace(work.row(due), data_hash=run["data_hash"], last_seq=run["last_seq"],
                   n_labels=run["n_labels"], seed=run["seed"])  # fmt: skip


def _verified(
    store: Store,
    run: dict[str, Any],
    run_id: str,
    settings: Settings,
    folder: Path,
    progress: bool,
) -> Verification:
    parameters = json.loads(run["parameters"])
    _must_be_repeatable(run, parameters)
    numbers = json.loads(run["settings"] or "{}")
    with tempfile.TemporaryDirectory(prefix="aegis-verify-") as place:
        scratch = settings.model_copy(
            update={
                **{k: v for k, v in numbers.items() if k in type(settings).model_fields},
                "db": Path(place) / "scratch.duckdb",
                "models": Path(place) / "models",
                "reports": Path(place) / "reports",
                "keep_runs": 0,
                "keep_days": 0.0,
            }
        )
        if run["notebook"] != "generate":
            _rebuild(store, run, scratch)
        again = runs.run_notebook(run["notebook"], parameters, scratch, progress=progress)
        new = connect(scratch.db)
        then, now = dict(_stored(store, run, settings)), dict(_stored(new, _again(new, again), scratch))
        executed = settings.reports / run["run_id"] / again.notebook_path.name
        notes = list(_notes(run))
        if executed.exists():
            then |= _printed(executed)
            now |= _printed(again.notebook_path)
        else:
            notes.append("The executed notebook was cleared away; what it printed is not compared.")
        again.report_path.parent.rename(folder) if _same_disk(place, folder) else _moved(
            again.report_path.parent, folder
        )
    keys = [*then, *(key for key in now if key not in then)]
    differences = tuple(
        Difference(key, then.get(key, "nothing"), now.get(key, "nothing"))
        for key in keys
        if then.get(key, "nothing") != now.get(key, "nothing")
    )
    return Verification(run["run_id"], len(keys), differences, tuple(notes), run_id)
