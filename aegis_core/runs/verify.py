"""Verification: a run is executed again, on the data that it saw, and every number is compared.

The data of then are the first transactions and labels of now, as the ledger counted them; a scratch
database gets them, the verdicts and answers of that time, and the models with the roles that they
had. What was changed or deleted since cannot be rebuilt, and then nothing is executed at all.
`as_run` makes a run of any check.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from aegis_core.config import Settings
from aegis_core.errors import InputError, NotVerifiable, RunFailed, Unjudged, did_you_mean
from aegis_core.runs import execution, ledger, lineage, notebooks, reports
from aegis_core.runs.ledger import Row
from aegis_core.runs.parameters import NOTEBOOKS, inspect
from aegis_core.store import Store, connect
from aegis_core.store.files import checksums

Found = TypeVar("Found")
LIVE: Final = "live"
"""What is verified besides runs: the verdicts that were given; see `evaluation.parity`."""
_BATCH: Final = 500_000
_AS_THEN: Final = ("data_hash", "last_seq", "n_labels", "seed", "model_version")
_TOLD: Final = 5
_LONG_LIST: Final = 20
_FIGURE: Final = "application/vnd.plotly.v1+json"
_PASSING: Final = (  # says how long something took, and when
    re.compile(r"\d[\d,.]* (?:s|ms|min|h)\b"),
    re.compile(r"\d[\d,]* (?:a second|tx/s)"),
    re.compile(r"\b\d{8}-\d{6}-\w+(?:-\w+)?"),
    re.compile(r"at 0x[0-9a-f]+"),
)
_LEFT: Final = (  # what a run left in tables, by where it stands
    "SELECT 'metric ' || name || ' ' || slice AS place, value FROM metrics WHERE run_id = ?",
    "SELECT 'scores of ' || detector AS place, count(*) || ':' || "
    "sum(hash(transaction_id, score)::HUGEINT) AS told FROM evaluation_scores WHERE run_id = ? "
    "GROUP BY detector",
    "SELECT 'drift ' || measure || ' ' || part AS place, * EXCLUDE (measure, part, day, found_at, "
    "run_id) FROM drift WHERE run_id = ?",
)
_ARRIVED: Final = """
    SELECT count(*) || ':'
      || sum(hash(t.transaction_id, ts, amount, score, risk, decision)::HUGEINT)
      AS "transactions and verdicts that arrived"
    FROM transactions t LEFT JOIN verdicts USING (seq) WHERE seq > ? AND seq <= ?
"""
_NOT_LATER: Final = " AND coalesce(replayed_at <= $seen, true)"
_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?")


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
    what: str,
    settings: Settings,
    *,
    progress: bool = True,
    timeout_s: float | None = None,
    due: ledger.Due | None = None,
) -> Verification:
    """Execute a run again in a scratch database and compare every number.

    Compared are the run's rows of `metrics`, `evaluation_scores` and `drift`, the model that it
    made, the data that it left, and the numbers that the executed notebook prints and draws, except
    for durations and for the names of runs and models. A notebook with a parameter `now` is told
    the moment of then. The verification is a row of the ledger itself: `failed` where numbers
    differ.

    Parameters
    ----------
    what : the id of a run that is done, or a notebook's name for its last one.
    timeout_s : the execution fails when it takes longer; None: no limit.
    due : what a schedule started; it takes place once, and waits while another one goes on.

    Raises
    ------
    InputError : There is no such run, or it is not done.
    NotVerifiable
        The data or the model of then are not there any more, or the run used what lies outside.
    RunBusy : Another verification goes on.
    RunFailed : The notebook fails now.
    KeyboardInterrupt
        Ctrl-C or SIGTERM; the ledger says `interrupted` and the scratch database is gone.
    """
    store = connect(settings.db)
    run = _run_of(store, what)
    row = ledger.begun("verify", NOTEBOOKS[run["notebook"]], {"run": run["run_id"]}, settings, due)
    row = replace(row, **{key: run[key] for key in _AS_THEN})

    def repeated() -> tuple[Verification, str]:
        found = _repeated(store, run, row, settings, progress, timeout_s)
        told = "; ".join(map(str, found.differences[:_TOLD]))
        more = f"{len(found.differences):,} of {found.compared:,} numbers differ: {told}."
        return found, more if found.differences else ""

    found = as_run(settings, row, repeated)
    return found or Verification(run["run_id"], 0, (), ("It was verified already.",), row.run_id)


def as_run(settings: Settings, row: Row, check: Callable[[], tuple[Found, str]]) -> Found | None:
    """What a check found, as the run of a `row` of the ledger that has begun.

    `check` also says what differs, "" for nothing: then the run has `failed`. One that a schedule
    started waits for another to end, and where it took place already there is None.
    """
    store, began = connect(settings.db), time.monotonic()
    with execution.ended_in_order(), ledger.alone(settings.db, "verify", None if row.due_at else 0):
        ledger.close_killed(store, settings.reports, "verify")
        if not ledger.insert(store, row):
            return None
        last = replace(row, status="interrupted", error="Stopped from outside.")
        try:
            found, differs = check()
            status = "failed" if differs else "done"
            last = replace(row, status=status, error=differs or None, cells_done=row.cells_total)
            return found
        except Exception as e:
            status = "unjudged" if isinstance(e, Unjudged) else "failed"
            last = replace(row, status=status, error=str(e))
            raise
        finally:
            folder = settings.reports / row.run_id
            report = folder / "report.html"
            last = replace(
                last,
                ended_at=ledger.now(),
                seconds=round(time.monotonic() - began, 3),
                report_path=str(report) if report.exists() else None,
                **ledger.noted(store, row.run_id),
            )
            ledger.update(store, last)
            folder.mkdir(parents=True, exist_ok=True)
            ledger.keep(folder, last, execution.headlines(store, row.run_id))
            reports.renew(settings, row.run_id)


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
    if run["notebook"] not in NOTEBOOKS:
        raise NotVerifiable(f"The notebook {run['notebook']} is not there any more.")
    return run


def _repeated(
    store: Store,
    run: dict[str, Any],
    row: Row,
    settings: Settings,
    progress: bool,
    timeout_s: float | None,
) -> Verification:
    parameters, numbers = json.loads(run["parameters"]), json.loads(run["settings"] or "{}")
    _must_be_repeatable(store, run, parameters, settings)
    folder = settings.reports / row.run_id
    with tempfile.TemporaryDirectory(prefix="aegis-verify-") as place:
        scratch = settings.model_copy(
            update={
                **{k: v for k, v in numbers.items() if k in Settings.model_fields},
                **{"db": Path(place) / "scratch.duckdb", "models": Path(place) / "models"},
                **{"reports": Path(place) / "reports", "keep_runs": 0, "keep_days": 0.0},
            }
        )
        if run["notebook"] != "generate":
            _rebuild(store, run, connect(scratch.db))
        if "now" in inspect(NOTEBOOKS[run["notebook"]]) and run["seen_at"]:
            parameters = {"now": run["seen_at"].isoformat()} | parameters
        try:
            again = execution.run_notebook(
                run["notebook"], parameters, scratch, progress=progress, timeout_s=timeout_s
            )
        except RunFailed:
            (failed,) = scratch.reports.glob("*/run.json")
            shutil.move(failed.parent, folder)
            error = json.loads((folder / "run.json").read_text("utf-8"))["error"]
            raise RunFailed(f"{run['notebook']} fails now: {error} See {folder}.") from None
        new = connect(scratch.db)
        (rerun,) = new.rows("SELECT * FROM runs WHERE run_id = ?", [again.run_id])
        last = new.value("SELECT max(seq) FROM transactions")
        then, now = _stored(store, run, last, settings), _stored(new, rerun, last, scratch)
        executed, notes = settings.reports / run["run_id"] / again.notebook_path.name, _notes(run)
        if executed.exists():
            then |= printed(executed, str(settings.db))
            now |= printed(again.notebook_path, str(scratch.db))
        else:
            notes.append("Its executed notebook was cleared away; what it printed is not compared.")
        shutil.move(again.report_path.parent, folder)
    return Verification(run["run_id"], len(then), _compared(then, now), tuple(notes), row.run_id)


def _compared(then: Mapping[str, object], now: Mapping[str, object]) -> tuple[Difference, ...]:
    pairs = ((key, then.get(key, "nothing"), now.get(key, "nothing")) for key in {**then, **now})
    return tuple(Difference(*pair) for pair in pairs if pair[1] != pair[2])


def _must_be_repeatable(
    store: Store, run: dict[str, Any], parameters: dict[str, Any], settings: Settings
) -> None:
    """Say what is missing before anything starts."""
    run_id = run["run_id"]
    if run["last_seq"] is None:
        raise NotVerifiable(f"{run_id} was recorded by an Aegis that did not keep what it saw.")
    if target := parameters.get("target"):
        raise NotVerifiable(f"{run_id} sent its transactions to {target}, and did not score them.")
    used = run["model_version"]
    models = store.rows(
        "SELECT path FROM models WHERE version = ? AND run_id IS DISTINCT FROM ?", [used, run_id]
    )
    if models and not (settings.home / models[0]["path"]).is_dir():
        raise NotVerifiable(f"The files of the model {used} that {run_id} used are gone.")
    if run["notebook"] == "generate":
        return
    seen = lineage.seen(store, run["last_seq"], run["n_labels"])
    if seen.data_hash != run["data_hash"]:
        raise NotVerifiable(
            f"The data that {run_id} saw are not the data of now: transactions up to number "
            f"{run['last_seq']:,} and the first {run['n_labels']:,} labels had the hash "
            f"{run['data_hash']}, and have {seen.data_hash}. Some were changed or deleted since; "
            "restore a backup of that time and verify there."
        )


def _rebuild(store: Store, run: dict[str, Any], scratch: Store) -> None:
    """Fill a scratch database with what was there when the run began."""
    last, began = run["last_seq"], run["started_at"]
    seen = run["seen_at"] or began
    with store.reading() as old, scratch.writing() as new:
        for start in range(0, last + 1, _BATCH):
            part = {"a": start, "b": min(start + _BATCH - 1, last)}
            for table, values in (
                ("transactions", part),
                ("verdicts", part | {"seen": seen}),
                ("shadow_scores", part),
            ):
                chosen = "seq BETWEEN $a AND $b" + _NOT_LATER * ("seen" in values)
                new.append(table, old.arrow(f"FROM {table} WHERE {chosen} ORDER BY seq", values))
        for table, chosen, given in (
            ("carried", "ORDER BY rowid", []),  # a later forgetting changes the hash of the data
            ("remains", "ORDER BY rowid", []),
            ("labels", "ORDER BY rowid LIMIT ?", [run["n_labels"]]),
            ("reviews", "WHERE answered_at <= ? ORDER BY rowid", [seen]),
            ("taught", "WHERE taught_at <= ? ORDER BY rowid", [seen]),  # or labels once more
            ("lists", "WHERE added_at <= ? ORDER BY rowid", [seen]),
            ("claims", "WHERE claimed_at <= ? ORDER BY rowid", [seen]),
            ("models", "WHERE created_at <= ? ORDER BY rowid", [began]),
            ("promotions", "WHERE promoted_at <= ? ORDER BY rowid", [began]),
            ("meta", "WHERE key != 'schema_version'", []),
        ):
            new.append(table, old.arrow(f"FROM {table} {chosen}", given))
        new.execute("UPDATE claims SET released_at = NULL WHERE released_at > ?", [seen])
        new.execute(
            """
            UPDATE models SET
              promoted_at = (SELECT max(promoted_at) FROM promotions p
                WHERE p.version = models.version AND role IN ('champion', 'rollback')),
              shadow_since = (SELECT max(promoted_at) FROM promotions p
                WHERE p.version = models.version
                HAVING arg_max(role, promoted_at) = 'shadow' AND max(promoted_at) = (
                  SELECT max(q.promoted_at) FROM promotions q JOIN models o USING (version)
                  WHERE q.role = 'shadow' AND o.detector = models.detector))
            """
        )


def _stored(
    store: Store, run: dict[str, Any], last_seq: int, settings: Settings
) -> dict[str, object]:
    """What a run left in the database and in the folder of models, by where it stands."""
    found: dict[str, object] = {"data hash": run["data_hash"]}
    with store.reading() as session:
        for row in (row for sql in _LEFT for row in session.rows(sql, [run["run_id"]])):
            place, several = row.pop("place"), len(row) > 1
            found |= {f"{place} {key}" if several else place: v for key, v in row.items()}
        found |= session.rows(_ARRIVED, [run["last_seq"], last_seq])[0]
        models = session.rows("SELECT * FROM models WHERE run_id = ?", [run["run_id"]])
    for i, model in enumerate(models):
        for key in ("detector", "n_train", "trained_from", "trained_to", "data_hash", "parameters"):
            found[f"model {i} {key}"] = model[key]
        sums = checksums(settings.home / model["path"])
        found |= {f"model {i} {name}": digest for name, digest in sums.items()}
    return found


def printed(executed: Path, db: str = "") -> dict[str, object]:
    """The numbers that an executed notebook prints and draws, by cell.

    Durations, run ids and versions of models are left out, and so is the database's name `db`.
    """
    found: dict[str, object] = {}
    cells = json.loads(executed.read_text("utf-8"))["cells"]
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        if "injected-parameters" in cell["metadata"].get("tags", []):
            continue
        name = f"cell {cell.get('id', number)}"
        places, figures = itertools.count(1), itertools.count(1)
        for output in cell["outputs"]:
            if output.get("name") == "stderr":
                continue
            data = output.get("data", {})
            texts = output.get("text") or ([] if _FIGURE in data else data.get("text/plain", ""))
            text = "".join(texts).replace(db, "") if db else "".join(texts)
            for passing in _PASSING:
                text = passing.sub("", text)
            found |= {f"{name}, number {next(places)}": v for v in _NUMBER.findall(text)}
            if _FIGURE in data:
                found |= _leaves(data[_FIGURE], f"{name}, figure {next(figures)}")
    return found


def _leaves(node: Any, path: str) -> Iterator[tuple[str, object]]:
    """Numbers and packed arrays of a figure with their paths; long lists as one."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key != "template":
                yield from _leaves(value, f"{path}.{key}")
    elif isinstance(node, list) and len(node) > _LONG_LIST:
        yield path, hashlib.sha256(json.dumps(node).encode()).hexdigest()[:16]
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{path}[{i}]")
    elif isinstance(node, int | float):
        yield path, node
    elif isinstance(node, str) and path.endswith(".bdata"):
        yield path, hashlib.sha256(node.encode()).hexdigest()[:16]


def _notes(run: dict[str, Any]) -> list[str]:
    """What has changed since a run, and may be why numbers differ."""
    notebook = notebooks.content_hash(NOTEBOOKS[run["notebook"]])
    return [
        f"The {what} changed since: {old or 'not recorded'} then, {new or 'not known'} now."
        for what, old, new in (
            ("code", run["code_version"], lineage.code_version()),
            ("packages", run["lock_hash"], lineage.lock_hash()),
            ("notebook", run["notebook_hash"], notebook),
        )
        if old != new
    ]
