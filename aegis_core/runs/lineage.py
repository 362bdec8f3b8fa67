"""Where a number comes from: the run that made it, what that run saw, and what it was made with."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import aegis_core
from aegis_core.config import CHECKOUT, PACKAGE, Settings
from aegis_core.errors import InputError, did_you_mean
from aegis_core.machine import utc_now
from aegis_core.store import Store
from aegis_core.store.session import Session
from aegis_core.store.tables import hashed

_DISTRIBUTION: Final = "aegis-fraud"
_LATEST: Final = """
    SELECT m.run_id, name, slice, value FROM metrics m JOIN runs r USING (run_id)
    WHERE name = $name AND $slice IN ('', slice) AND status = 'done'
    QUALIFY started_at = max(started_at) OVER () ORDER BY slice
"""
_SOURCES: Final = """
    SELECT source, count(*) AS transactions, min(ts) AS first, max(ts) AS last FROM transactions
    WHERE seq <= ? GROUP BY source ORDER BY min(seq)
"""
_FIRST_SEEN: Final = """
    SELECT run_id, notebook FROM runs WHERE data_hash = ? AND notebook != 'verify'
    ORDER BY started_at LIMIT 1
"""


class Seen(NamedTuple):
    """What a run saw of the data, and when (UTC).

    `data_hash` is of the transactions up to `last_seq` (-1: none) and the first `n_labels` labels.
    """

    data_hash: str
    last_seq: int
    n_labels: int
    seen_at: datetime

    def columns(self) -> dict[str, Any]:
        """The same as columns of `runs`."""
        return self._asdict() | {"seen_at": self.seen_at.isoformat()}


def seen(
    source: Store | Session, last_seq: float | None = None, n_labels: int | None = None
) -> Seen:
    """The hash of the first transactions and labels; all that are there unless numbers are given.

    NaN, the largest number of no transactions, counts as -1. The hash does not change when more
    arrive, as long as nothing of it is changed or deleted, and equals `Store.data_hash` where
    everything was seen.
    """
    if isinstance(source, Store):
        with source.reading() as session:
            return seen(session, last_seq, n_labels)
    (there,) = source.rows(
        "SELECT (SELECT coalesce(max(seq), -1) FROM transactions) AS last_seq, "
        "(SELECT count(*) FROM labels) AS n_labels"
    )
    last = there["last_seq"] if last_seq is None else -1 if last_seq != last_seq else int(last_seq)
    first = int(there["n_labels"]) if n_labels is None else n_labels
    now = utc_now()
    return Seen(hashed(source, "seq <= ?", [last], n_labels=first), last, first, now)


def code_version() -> str:
    """Version of the package, and the commit of its checkout or else a hash of its modules."""
    return f"{aegis_core.__version__}+{_commit() or f'source.{_source_hash()}'}"


def _commit() -> str:
    """The checkout's commit, and whether files differ from it; "" without git or a checkout."""
    if CHECKOUT is None or not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@functools.cache
def _source_hash() -> str:
    digest = hashlib.sha256()
    for module in sorted(PACKAGE.rglob("*.py")):
        digest.update(module.relative_to(PACKAGE).as_posix().encode() + module.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def lock_hash() -> str | None:
    """A short hash of the versions that are installed of all that the package requires.

    So it is the same for the same versions, however they came there: by the lock, in a checkout,
    beside a wheel. None where the package itself is not installed.
    """
    versions: dict[tuple[str, str], str] = {}
    wanted = [(_DISTRIBUTION, "")]
    while wanted:
        name, extra = one = wanted.pop()
        if one in versions:
            continue
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            versions[one] = "missing"
            continue
        versions[one] = about["Version"]
        for needed in map(Requirement, about.get_all("Requires-Dist") or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                wanted += [(canonicalize_name(needed.name), e) for e in ("", *needed.extras)]
    if versions.pop((_DISTRIBUTION, "")) == "missing":
        return None
    told = "\n".join(sorted({f"{name}=={version}" for (name, _), version in versions.items()}))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def numbers_of(settings: Settings) -> dict[str, float]:
    """The settings that are numbers: those that a run's figures may depend on."""
    return {k: v for k, v in settings.model_dump().items() if isinstance(v, int | float)}


def chain(store: Store, what: str) -> dict[str, Any]:
    """Where a metric, a model or a run comes from; `InputError` where there is no such thing.

    Parameters
    ----------
    what : the id of a run, the version of a model, or the name of a metric, which means its values
        of the last run that has it; `name:slice` means one of them.

    Returns
    -------
    dict
        With `metric` (values by slice) or `model` (its row of the register) where one was asked
        for, and `run`, `data`, `metrics`, `made` and `used` (models) and `verified`.
    """
    with store.reading() as session:
        if rows := session.rows("SELECT * FROM runs WHERE run_id = ?", [what]):
            return _of_run(session, rows[0])
        if rows := session.rows("SELECT * FROM models WHERE version = ?", [what]):
            model = rows[0]
            return {"model": model} | _named_run(session, model["run_id"])
        name, _, part = what.partition(":")
        if values := session.rows(_LATEST, {"name": name, "slice": part}):
            metric = {"name": name, "values": {v["slice"]: v["value"] for v in values}}
            return {"metric": metric} | _named_run(session, values[0]["run_id"])
        known = session.rows(
            "SELECT name FROM metrics UNION SELECT name || ':' || slice FROM metrics "
            "UNION SELECT run_id FROM runs UNION SELECT version FROM models"
        )
    raise InputError(
        f"There is no run, model or metric {what!r}. `aegis status` shows runs, `aegis models` "
        "models." + did_you_mean(what, [row["name"] for row in known])
    )


def _named_run(session: Session, run_id: str | None) -> dict[str, Any]:
    rows = session.rows("SELECT * FROM runs WHERE run_id = ?", [run_id]) if run_id else []
    return _of_run(session, rows[0]) if rows else {"run": None}


def _of_run(session: Session, row: dict[str, Any]) -> dict[str, Any]:
    run = row | {key: json.loads(row[key] or "{}") for key in ("parameters", "settings")}
    run_id, last_seq = row["run_id"], row["last_seq"]
    first = session.rows(_FIRST_SEEN, [row["data_hash"]])
    data = {key: row[key] for key in ("data_hash", "last_seq", "n_labels", "seen_at")} | {
        "sources": [] if last_seq is None else session.rows(_SOURCES, [last_seq]),
        "first_seen_by": first[0] if first else None,
    }
    rows = session.rows
    return {
        "run": run,
        "data": data,
        "metrics": rows(
            "SELECT name, slice, value FROM metrics WHERE run_id = ? ORDER BY name, slice", [run_id]
        ),
        "made": rows("SELECT version, run_id FROM models WHERE run_id = ?", [run_id]),
        "used": rows(
            "SELECT version, run_id FROM models WHERE version = ? AND run_id IS DISTINCT FROM ?",
            [row["model_version"], run_id],
        ),
        "verified": rows(
            "SELECT run_id, status, started_at, error FROM runs WHERE notebook = 'verify' "
            "AND parameters = ? ORDER BY started_at",
            [json.dumps({"run": run_id})],
        ),
    }


def told(found: dict[str, Any]) -> Iterator[str]:
    """A chain as lines to read, from the number down to the data."""
    if metric := found.get("metric"):
        for part, value in metric["values"].items():
            yield f"{metric['name']} {part} = {value:.6g}"
    if model := found.get("model"):
        yield f"model     {model['version']} ({model['detector']}), files in {model['path']}"
        yield f"  data    {model['data_hash']}"
    run = found["run"]
    if run is None:
        yield "run       none: it was not made by a run, so nothing more is known of it"
        return
    took = "" if run["seconds"] is None else f", {run['seconds']:.1f} s"
    began = f"{run['started_at']:%Y-%m-%d %H:%M:%S} UTC"
    yield f"run       {run['run_id']}, {run['status']}, {began}{took}"
    if run["retry_of"]:
        yield f"  attempt {run['attempt']}, after {run['retry_of']} had failed"
    if run["entry"]:
        yield f"  due     {run['due_at']:%Y-%m-%d %H:%M} UTC, by the schedule's {run['entry']}"
    if run["error"]:
        yield f"  error   {run['error']}"
    yield f"notebook  {run['notebook']}, hash {run['notebook_hash'] or 'not recorded'}"
    report = run["report_path"]
    cleared = ", cleared away since" if report and not Path(report).exists() else ""
    yield f"  report  {report or 'none'}{cleared}"
    yield "  given   " + (", ".join(f"{k}={v}" for k, v in run["parameters"].items()) or "nothing")
    yield f"code      {run['code_version']}, packages {run['lock_hash'] or 'not recorded'}"
    yield f"  seed    {'not recorded' if run['seed'] is None else run['seed']}"
    for word, models in (("made", found["made"]), ("used", found["used"])):
        for one in models:
            by = f" of run {one['run_id']}" if word == "used" and one["run_id"] else ""
            yield f"model     {word} {one['version']}{by}"
    data = found["data"]
    yield f"data      {data['data_hash'] or 'not recorded'}" + (
        ""
        if data["last_seq"] is None
        else f": transactions up to number {data['last_seq']:,}, {data['n_labels']:,} labels"
    )
    if data["seen_at"]:
        yield f"  seen    {data['seen_at']:%Y-%m-%d %H:%M:%S} UTC"
    for source in data["sources"]:
        yield (
            f"  from    {source['source'] or 'an unnamed source'}: {source['transactions']:,} "
            f"transactions, {source['first']:%Y-%m-%d} to {source['last']:%Y-%m-%d}"
        )
    first = data["first_seen_by"]
    if first and first["run_id"] != run["run_id"]:
        yield f"  first   seen like this by {first['run_id']}"
    for check in found["verified"]:
        came = check["error"] or "every number came out the same"
        yield f"verified  {check['started_at']:%Y-%m-%d %H:%M} UTC: {came}"
