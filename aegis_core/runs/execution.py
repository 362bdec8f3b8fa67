"""Notebook runs: executed with a lock, a limit of time, retries, a row in the ledger and a report.

A run is one notebook, executed from the top, with a row in the table `runs` and a folder
`reports/<run_id>/` that holds the executed notebook, an HTML report that needs no network, and
`run.json`. The same notebook does not run twice at once on the same database.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from aegis_core.config import SECRET, Settings, secret
from aegis_core.errors import InputError, RunBusy, RunFailed, RunRefused
from aegis_core.machine import private, stop_signals
from aegis_core.runs import ledger, lineage, notebooks, reports
from aegis_core.runs.ledger import Due, Row
from aegis_core.runs.lineage import Seen
from aegis_core.runs.parameters import NOTEBOOKS, check_parameters, inspect
from aegis_core.runs.redaction import SHORTEST, Redactor, secrets_of
from aegis_core.store import Store, connect

if TYPE_CHECKING:
    import pandas as pd

ON_OVERLAP: Final = ("fail", "skip", "wait")
"""What to do when the same notebook is already running."""
LONGEST_BACKOFF_S: Final = 3600.0
"""The pause before a retry doubles up to this."""
_HEADLINES: Final = """
    SELECT name, avg(value) AS mean
    FROM (SELECT *, rowid AS place FROM metrics WHERE run_id = ? QUALIFY slice LIKE 'forest/%'
      OR NOT bool_or(slice LIKE 'forest/%') OVER ())
    WHERE value IS NOT NULL GROUP BY name ORDER BY name = 'auc_roc', min(place) LIMIT 3
"""  # auc_roc flatters where fraud is rare, so it comes last


@dataclass(frozen=True)
class RunResult:
    """A finished run and where to read it; `told` says why it was skipped, or is unjudged."""

    run_id: str
    status: str
    notebook_path: Path
    report_path: Path
    seconds: float
    told: str = ""


def run_notebook(
    name: str,
    parameters: Mapping[str, object],
    settings: Settings,
    *,
    progress: bool = True,
    timeout_s: float | None = None,
    retries: int = 0,
    backoff_s: float = 30.0,
    on_overlap: str = "fail",
    due: Due | None = None,
) -> RunResult:
    """Execute a notebook from the top and record the run.

    Parameters
    ----------
    name : one of `NOTEBOOKS`.
    parameters : values for the notebook's own parameters. Strings are read as the parameter's type;
        a secret is given as `env:NAME`, never as its value.
    settings : hold in the kernel as well, whatever the caller's environment says.
    progress : whether papermill's progress bar is shown on the standard error.
    timeout_s : an attempt fails when it takes longer; None: no limit. Waiting for the same notebook
        to end is limited by as much.
    retries : how many further attempts follow a failed one, each with its own row in the ledger.
    backoff_s : seconds before the first retry; the pause doubles with each.
    on_overlap : of `ON_OVERLAP`.
    due : what a schedule started. However many schedulers try, it runs once.

    Raises
    ------
    InputError : No such notebook or parameter, or a value of the wrong type.
    NotReady : There is no database yet and the notebook does not make one.
    RunBusy : The same notebook is running on the same database.
    RunFailed
        A cell raised, the kernel died, time ran out or the report could not be written; ledger and
        report say which. `RunRefused`, after the first attempt, where another would fail as well.
    KeyboardInterrupt : Ctrl-C or SIGTERM; the ledger says `interrupted`.
    """
    values = check_parameters(name, parameters)
    lasts = timeout_s is None or 0 < timeout_s < float("inf")
    if on_overlap not in ON_OVERLAP or retries < 0 or backoff_s < 0 or not lasts:
        raise InputError(
            f"on_overlap is one of {', '.join(ON_OVERLAP)}, not {on_overlap!r}; retries and "
            "backoff are not negative; a timeout is a number of seconds above 0, or left out."
        )
    redactor = Redactor(secrets_of(values) | _secrets_of_the_house(settings))
    store = connect(settings.db)
    if name != "generate":
        store.rows("SELECT 1")  # no database, or not one of ours: said before anything starts
    work = _Work(name, values, settings, store, redactor, progress, timeout_s)
    claim = work.row(due, status="waiting") if due else None
    if claim and not ledger.insert(store, claim):
        return work.skipped(claim.run_id, "It was started for this time already.")
    wait_s = {"wait": timeout_s}.get(on_overlap, 0.0)
    with ended_in_order(), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(ledger.alone(settings.db, name, wait_s))
        except (RunBusy, KeyboardInterrupt) as e:
            busy, skips = isinstance(e, RunBusy), on_overlap == "skip"
            if claim:
                status = ("skipped" if skips else "failed") if busy else "interrupted"
                error = str(e) if busy else "Stopped while it waited."
                ended = replace(claim, status=status, ended_at=ledger.now(), error=error)
                ledger.update(store, ended)
            if busy and skips:
                return work.skipped(claim.run_id if claim else "", str(e))
            raise
        ledger.close_killed(store, settings.reports, name)
        return _attempts(work, claim, due, retries, backoff_s)


def record(
    store: Store,
    run_id: str,
    *,
    data: Seen | None = None,
    model: str | None = None,
    metrics: Mapping[tuple[str, str], float | None] | None = None,
    scores: pd.DataFrame | None = None,
    drift: pd.DataFrame | None = None,
    unjudged: str = "",
) -> str:
    """Note in the ledger what a run saw, used and found; what was kept, in a sentence.

    Outside a run (`run_id` empty) nothing happens. Rows that the run had in a table are replaced.

    Parameters
    ----------
    data : what `lineage.seen` told when the data was read.
    model : version of the model that the run made or used.
    metrics : figures of the table `metrics` by (name, slice).
    scores : rows of `evaluation_scores`: `transaction_id`, `detector`, `score`.
    drift : rows of `drift`, as `Drift.rows` gives them.
    unjudged : why there was too little to judge by; the run then ends so, and is not `done`.
    """
    if not run_id:
        return "Nothing was kept: this is not a run. `aegis run` keeps what it finds."
    columns = {} if data is None else data.columns()
    columns |= {} if model is None else {"model_version": model}
    columns |= {"error": unjudged} if unjudged else {}
    given: dict[str, pd.DataFrame | pa.Table | None] = {
        "metrics": None if metrics is None else _rows(metrics, run_id),
        "evaluation_scores": None if scores is None else scores.assign(run_id=run_id),
        "drift": None if drift is None else drift.assign(run_id=run_id),
    }
    tables = {table: rows for table, rows in given.items() if rows is not None}
    with store.writing() as session:
        if columns:
            session.execute(
                f"UPDATE runs SET {', '.join(f'{name} = ${name}' for name in columns)} "
                "WHERE run_id = $run_id",
                columns | {"run_id": run_id},
            )
        for table, rows in tables.items():
            session.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
            session.append(table, rows)
    kept = [f"{len(rows):,} rows in the table {table}" for table, rows in tables.items()]
    return f"{' and '.join(kept) or 'Data and model in the table runs'}, with run_id {run_id}."


def _rows(metrics: Mapping[tuple[str, str], float | None], run_id: str) -> pa.Table:
    names, slices = zip(*metrics, strict=True) if metrics else ((), ())
    kinds = pa.schema([(c, pa.string()) for c in ("run_id", "name", "slice")])
    columns = [[run_id] * len(metrics), names, slices, list(metrics.values())]
    return pa.table(columns, schema=kinds.append(pa.field("value", pa.float64())))


def record_data(store: Store, run_id: str, seen: Seen | int | None = None) -> None:
    """`record` the data: all up to now, or to the transaction of a number, or what was `seen`."""
    if run_id:
        record(store, run_id, data=seen if isinstance(seen, Seen) else lineage.seen(store, seen))


def record_proof(store: Store, checked: int, different: int) -> None:
    """Note for the dashboard that stored verdicts were replayed, and how many came out differently.

    Where nothing was checked nothing is noted.
    """
    if checked:
        proof = [ledger.now(), checked, different]
        with store.writing() as session:
            session.execute("INSERT INTO proofs VALUES (?, ?, ?)", proof)


def headlines(store: Store, run_id: str) -> dict[str, float]:
    """The first few figures of a run by name, each the mean over its slices.

    Where a figure was measured for several detectors, it is the forest's.
    """
    return {row["name"]: row["mean"] for row in store.rows(_HEADLINES, [run_id])}


@dataclass(frozen=True)
class _Work:
    """What is to be run, the same for every attempt."""

    name: str
    given: dict[str, object]
    settings: Settings
    store: Store
    redactor: Redactor
    progress: bool
    timeout_s: float | None

    def row(self, due: Due | None, **more: Any) -> Row:
        """A new row of the ledger."""
        return ledger.begun(self.name, NOTEBOOKS[self.name], self.given, self.settings, due, **more)

    def skipped(self, run_id: str, why: str) -> RunResult:
        """The result of a run that did not take place."""
        nothing = self.settings.reports / "index.html"
        return RunResult(run_id, "skipped", NOTEBOOKS[self.name], nothing, 0.0, why)


def _attempts(
    work: _Work, claim: Row | None, due: Due | None, retries: int, backoff_s: float
) -> RunResult:
    row = replace(claim, status="running", started_at=ledger.now()) if claim else work.row(due)
    if claim:
        ledger.update(work.store, row)
    else:
        ledger.insert(work.store, row)
    while True:
        try:
            return _Attempt(work, row).run()
        except RunFailed as e:
            if row.attempt > retries or isinstance(e, RunRefused):
                raise
            time.sleep(min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** (row.attempt - 1)))
        row = work.row(due, attempt=row.attempt + 1, retry_of=row.run_id)
        ledger.insert(work.store, row)


class _Attempt:
    """One attempt, whose row is in the ledger already."""

    def __init__(self, work: _Work, row: Row) -> None:
        self.work, self.row, self.began = work, row, time.monotonic()
        self.notebook = NOTEBOOKS[work.name]
        self.declared = inspect(self.notebook)
        self.folder = work.settings.reports / row.run_id
        self.executed, self.report = self.folder / self.notebook.name, self.folder / "report.html"
        self.progress = notebooks.Progress(work.store, row.run_id, work.redactor)

    @private()
    def run(self) -> RunResult:
        """Execute the notebook and close the run, however it ends."""
        work = self.work
        own = {"db": str(work.settings.db), "run_id": self.row.run_id}
        try:
            self.folder.mkdir(parents=True)
            shutil.copyfile(self.notebook, self.executed)  # to be read, however early it ends
            ledger.keep(self.folder, self.row)
            reports.write_index(self.folder.parent)
            with self.progress.told():
                notebooks.execute(
                    self.notebook,
                    self.executed,
                    work.given | {k: v for k, v in own.items() if k in self.declared},
                    work.settings,
                    watch=self.progress,
                    deadline=None if work.timeout_s is None else self.began + work.timeout_s,
                    bar=work.name if work.progress else None,
                )
        except KeyboardInterrupt:
            self._close("interrupted", "Stopped from outside.")
            raise
        except Exception as e:  # whatever ends a run belongs in the ledger
            failure = notebooks.explain(e, work.timeout_s)
            last = self._close("failed", work.redactor.text(failure.error))
            kind, where = RunRefused if failure.final else RunFailed, failure.where
        else:
            asked = "SELECT error FROM runs WHERE run_id = ?"
            unjudged = work.store.value(asked, [self.row.run_id])
            last = self._close("unjudged" if unjudged else "done", unjudged)
            kind, where = RunFailed, ""
        if last.status == "interrupted":
            raise KeyboardInterrupt
        if last.status not in ("done", "unjudged"):
            raise kind(
                f"{work.name} failed{where}: {last.error} Executed notebook: {self.executed}"
            )
        files, told = (self.executed, self.report), last.error or ""
        return RunResult(last.run_id, last.status, *files, last.seconds or 0.0, told)

    def _close(self, status: str, error: str | None = None) -> Row:
        """The run's last row; it says `failed` where the end itself went wrong."""
        work, store, run_id = self.work, self.work.store, self.row.run_id
        row = replace(
            self.row,
            status=status,
            error=error,
            ended_at=ledger.now(),
            seconds=round(time.monotonic() - self.began, 3),
            cells_done=self.progress.n_done,
            peak_memory_mb=self.progress.peak_memory_mb,
            **ledger.noted(store, run_id),
        )
        if row.data_hash is None:
            row = replace(row, **lineage.seen(store).columns())
        figures = headlines(store, run_id)
        try:
            row = self._written(row)
            ledger.keep(self.folder, row, figures)
            reports.renew(work.settings, run_id)
        except KeyboardInterrupt:
            row = replace(row, status="interrupted", error="Stopped while the report was written.")
        except Exception as e:  # a full disk, or an output that no page can show
            why = f"The report could not be written: {type(e).__name__}: {e}."
            why = work.redactor.text(why)
            row = replace(row, status="failed", error=f"{row.error} {why}" if row.error else why)
        ledger.update(store, row)
        with contextlib.suppress(OSError):
            ledger.keep(self.folder, row, figures)
        return row

    def _written(self, row: Row) -> Row:
        """Write the report, unless a secret is in it: then mask it and let the run fail."""
        redactor = self.work.redactor
        for path in (self.executed, self.folder / "kernel.log"):
            if path.exists():
                text = path.read_text("utf-8", errors="replace")
                if (masked := redactor.text(text)) != text:
                    reports.write_whole(path, masked)
        asked = [(k, v, self.declared[k]["help"]) for k, v in self.work.given.items()]
        row = replace(row, report_path=str(self.report))
        for _ in range(2):  # once more where the page itself showed what the notebook hid
            known, told = len(redactor.found), self._with_secrets(row)
            page = redactor.text(reports.render(self.executed, asdict(told), asked))
            if len(redactor.found) == known:
                break
        reports.write_whole(self.report, page)
        return told

    def _with_secrets(self, row: Row) -> Row:
        if not self.work.redactor.found:
            return row
        names = ", ".join(sorted(self.work.redactor.found))
        why = f"An output held the value of {names}; it was masked. Do not print secrets."
        status = "failed" if row.status in ("done", "unjudged") else row.status
        return replace(row, status=status, error=f"{why} {row.error}" if row.error else why)


def _secrets_of_the_house(settings: Settings) -> dict[str, str]:
    """What no output may show either, since a kernel has the environment of its caller."""
    found = {
        "AEGIS_TOKEN": settings.token.get_secret_value(),
        "AEGIS_REVIEW_TOKEN": settings.review_token.get_secret_value(),
    }
    for reference in (to.get_secret_value() for rule in settings.notify for to in rule.to):
        if reference.startswith(SECRET):
            with contextlib.suppress(InputError):  # not set, so nothing can show it
                found[reference] = secret(reference)
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM, as schedulers send it, end a run in the same orderly way as Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough: the end needs its time
        raise KeyboardInterrupt

    with stop_signals(stop, (signal.SIGTERM,)):
        yield
