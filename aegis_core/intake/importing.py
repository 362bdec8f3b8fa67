"""The door: files and frames come in through one list of checks, that of `staging`.

Importing the same file twice changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_core.errors import AegisError, ColumnError, FileUnreadable, InputError, did_you_mean
from aegis_core.intake import staging
from aegis_core.intake.columns import ROUNDED_DOWN, choose_columns
from aegis_core.intake.files import find_files, relation_of
from aegis_core.intake.refusals import masked
from aegis_core.machine import utc_now_us
from aegis_core.schema import COLUMNS, REQUIRED, ahead
from aegis_core.store import Store
from aegis_core.store.connection import quoted
from aegis_core.store.session import Session

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_MEMORY = "3GB"  # 10 million rows fit; more go through the disk


@dataclass
class ImportSummary:
    """What an import did: every row read is accepted, already there, or rejected."""

    files: list[str]
    rows: int = 0
    accepted: int = 0
    already_there: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    not_kept: int = 0
    labels: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    preset: str | None = None
    zeros_read: int = 0
    zeros_as: float = 0.0
    columns: dict[str, str] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def import_files(
    files: Iterable[Path | str] | Path | str,
    store: Store,
    *,
    preset: str | None = None,
    mapping: Mapping[str, str] | None = None,
    label: str | None = None,
    scenario: str | None = None,
    label_delay_days: float = 7.0,
    strict: bool = False,
    rejected_mb: float = 10.0,
    source: str | None = None,
    progress: bool = True,
) -> ImportSummary:
    """Read history from CSV, TSV or Parquet files into `store`, all in one transaction.

    `seq` follows (time, place in the files), after what is stored already. A row without
    `transaction_id` gets one made of its content and place in its file. Memory stays bounded: the
    rows wait in a temporary table that DuckDB moves to disk when it must.

    Parameters
    ----------
    files : paths or globs, `.csv`, `.tsv`, `.txt` (each also `.gz`), `.parquet`.
    preset : a key of `PRESETS`. Without it a file that has all columns of one is recognised.
    mapping : canonical name → column of the file, over preset and guesses; "" means none.
    label, scenario : columns that hold the truth; short for `mapping` of `is_fraud` and `scenario`.
    label_delay_days : a label is known this long after its transaction.
    strict : import nothing if any row is bad.
    rejected_mb : megabytes of bad rows that are kept of a source and day; the rest is counted.
    source : stored with each row; the file's name by default.

    Raises
    ------
    FileUnreadable
        A file is missing, empty, or not what its name says.
    ColumnError
        A required column is missing or ambiguous, or `mapping` names one that is not there.
    InputError
        `strict`, and a row is bad.
    """
    started = time.monotonic()
    if not 0 <= label_delay_days <= 36500:
        raise InputError(f"A label delay of {label_delay_days:g} days is not possible.")
    mapping = dict(mapping or {})
    mapping |= {k: v for k, v in (("is_fraud", label), ("scenario", scenario)) if v}
    paths = find_files([files] if isinstance(files, str | Path) else files)
    summary = ImportSummary([str(path) for path in paths])
    tables = []
    for path in paths:
        relation, names = relation_of(path)
        columns, guessed, recognised = choose_columns(
            names, preset=preset, mapping=mapping, where=path.name
        )
        tables.append((path, relation, names, columns))
        summary.columns |= columns
        summary.guessed |= guessed
        summary.preset = recognised or summary.preset
    store.require_no_service()
    with store.writing() as session, _bar(len(paths) + 1, progress) as step:
        session.execute(f"SET memory_limit = '{_MEMORY}'")
        for path, relation, names, columns in tables:
            tell = step(f"reading {path.name}")
            try:
                rows = relation
                if unit := ROUNDED_DOWN.get(summary.preset or ""):
                    rows, n_zero = _without_zeros(session, relation, names, columns, unit)
                    summary.zeros_read, summary.zeros_as = summary.zeros_read + n_zero, unit
                staging.stage(session, rows, names, columns, source or path.name, tell)
            except AegisError as e:
                kind = "CSV" if "read_csv(" in relation else "Parquet"
                raise FileUnreadable(
                    f"{path} cannot be read as {kind}: {masked(str(e)[:300])}"
                ) from e
        tell = step("storing")
        repeats = staging.mark_repeated(session)
        summary.accepted, summary.already_there, summary.rejected = staging.outcome(session)
        n_rejected = sum(summary.rejected.values())
        summary.rows = summary.accepted + summary.already_there + n_rejected
        if not summary.rows:
            raise FileUnreadable(f"{', '.join(summary.files)}: a header but no rows.")
        if strict and n_rejected:
            told = "; ".join(f"{reason}: {n:,}" for reason, n in summary.rejected.items())
            raise InputError(
                f"Nothing was imported: {n_rejected:,} of {summary.rows:,} "
                f"rows are bad ({told}). Without --strict the good rows go in and the bad ones "
                "to the table `rejected`."
            )
        after_seq = session.next_seq() - 1
        staging.insert_transactions(session, tell)
        summary.labels = staging.insert_labels(session, label_delay_days, repeats, after_seq)
        summary.not_kept = staging.keep_rejected(session, rejected_mb)
        (span,) = session.rows(
            f"SELECT min(ts) AS a, max(ts) AS b FROM aegis_staged s WHERE {staging.GOOD}"
        )
        summary.first_ts, summary.last_ts = span["a"], span["b"]
        session.execute("DROP TABLE aegis_staged")
    summary.seconds = time.monotonic() - started
    return summary


def checked(
    session: Session, rows: pa.Table | pd.DataFrame, source: str, future_minutes: float = 0.0
) -> tuple[pa.Table, pa.Table]:
    """Rows that arrive live after the checks of files: the good ones, in order, and the refused.

    Columns have their canonical names; `seq` and `source` are given elsewhere, whatever `rows`
    says. Labels do not come this way. `future_minutes` is that of the settings. The good ones have
    the columns of `transactions`, `ts` in microseconds since 1970; the refused `source`, `raw` and
    `reason`, as in the table `rejected`.

    Raises
    ------
    ColumnError
        A required column is missing, or one is not a column of `transactions`.
    """
    import pyarrow as pa

    arrow = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    present = [name for name in arrow.column_names if name not in ("seq", "source")]
    known = [column.name for column in COLUMNS]
    if unknown := [name for name in present if name not in known]:
        raise ColumnError(
            f"Rows have the column {unknown}, which transactions has not; it has {known}."
            + did_you_mean(unknown[0], known)
        )
    if missing := [name for name in REQUIRED if name not in present]:
        raise ColumnError(f"Rows lack {missing}; they have {present}.")
    with session.lent("aegis_lent", arrow):
        own = {name: name for name in present}
        checks = list(staging.CHECKS)
        if future_minutes:
            latest = utc_now_us() + round(future_minutes * 60e6)
            checks.append((ahead("ts", future_minutes), f"ts > make_timestamp({latest})"))
        staging.stage(session, "aegis_lent", arrow.column_names, own, source, None, checks)
    columns = ", ".join("epoch_us(ts) AS ts" if name == "ts" else name for name in known)
    good = session.arrow(f"SELECT {columns} FROM aegis_staged WHERE reason IS NULL ORDER BY rowid")
    refused = session.arrow(
        "SELECT source, raw, reason FROM aegis_staged WHERE reason IS NOT NULL ORDER BY rowid"
    )
    session.execute("DROP TABLE aegis_staged")
    return good, refused


def _without_zeros(
    session: Session, relation: str, names: Sequence[str], columns: Mapping[str, str], unit: float
) -> tuple[str, int]:
    """`relation` with amounts of exactly 0 read as `unit`, and how many these are."""
    amount = quoted(columns["amount"])
    zero = f"TRY_CAST({amount} AS DOUBLE) = 0"
    named = f'SELECT * FROM {relation} AS "aegis file"({", ".join(map(quoted, names))})'
    (found,) = session.rows(f"SELECT count(*) AS n FROM ({named}) WHERE {zero}")
    read = f"SELECT * REPLACE (CASE WHEN {zero} THEN '{unit}' ELSE {amount} END AS {amount})"
    return f"({read} FROM ({named}))", int(found["n"])


@contextmanager
def _bar(steps: int, visible: bool) -> Iterator[Callable[[str], Callable[[float], object]]]:
    """A bar of equal steps, silent where nobody looks: each has a name and tells its share done."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    form = "{desc:<28} {percentage:3.0f}% |{bar}| {elapsed}"
    hidden = None if visible else True  # None shows it on a terminal alone
    with tqdm(total=float(steps), disable=hidden, bar_format=form, leave=False) as bar:
        numbers = count()

        def step(name: str) -> Callable[[float], object]:
            done = next(numbers)
            bar.set_description_str(name[:28])
            return lambda share: bar.update(max(0.0, done + share - bar.n))

        yield step
