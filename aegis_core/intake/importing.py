"""The door: files and frames come in through one list of checks, that of `staging`.

Importing the same file twice changes nothing. A label that differs from the one that is there is a
newer one, and takes its place from then on; both are kept (`schema.held_labels`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis_core.errors import AegisError, ColumnError, FileUnreadable, InputError, did_you_mean
from aegis_core.intake import footers, keeping, settling, staging
from aegis_core.intake.columns import (
    check_preset,
    choose_columns,
    customer_in_doubt,
    label_words,
)
from aegis_core.intake.files import find_files, last_lines, relation_of
from aegis_core.intake.forms import forms_of
from aegis_core.intake.messages.parts import NAMES
from aegis_core.intake.messages.tables import as_tables, recognised
from aegis_core.intake.presets import PRESETS, Preset
from aegis_core.intake.refusals import masked
from aegis_core.intake.said import PLAIN, Said
from aegis_core.machine import utc_now_us
from aegis_core.review.answers import NEWEST
from aegis_core.schema import ANSWERED, COLUMNS, LABEL_COLUMNS, REQUIRED, ahead
from aegis_core.store import Store, meaning
from aegis_core.store.connection import quoted
from aegis_core.store.session import Session

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_MEMORY = "3GB"  # 10 million rows fit; more go through the disk


@dataclass
class ImportSummary:
    """What an import did: every row read is accepted, already there, or rejected.

    `first_refused` is the place of the first message that could not be read.
    """

    files: list[str]
    rows: int = 0
    accepted: int = 0
    already_there: int = 0
    later_states: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    first_refused: str = ""
    not_kept: int = 0
    labels: int = 0
    labels_changed: int = 0
    labels_under_answers: int = 0
    unread: dict[str, int] = field(default_factory=dict)
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    preset: str | None = None
    zeros_read: int = 0
    zeros_as: float = 0.0
    columns: dict[str, str] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0


_UNKNOWN = Preset("", {})
_SETTLED = (settling.settle_signs, settling.settle_dates)


def import_files(
    files: Iterable[Path | str] | Path | str,
    store: Store,
    *,
    preset: str | None = None,
    mapping: Mapping[str, str] | None = None,
    label: str | None = None,
    scenario: str | None = None,
    label_delay_days: float = 7.0,
    words: Mapping[str, str] | None = None,
    forms: Said = PLAIN,
    strict: bool = False,
    most_rejected: float = 1.0,
    rejected_mb: float = 10.0,
    base_currency: str = "",
    zone: str = "UTC",
    source: str | None = None,
    progress: bool = True,
) -> ImportSummary:
    """Read history from files, or messages of banks, into `store`, all in one transaction.

    `seq` follows (time, place in the files), after what is stored already. A row without
    `transaction_id` gets one made of its content and place in its file. Memory stays bounded: the
    rows wait in a temporary table that DuckDB moves to disk when it must.

    Parameters
    ----------
    files :
        paths or globs, `.csv`, `.tsv`, `.txt` (each also `.gz`), `.parquet`, or of any name with
        messages in them (`messages.tables.FORMATS`).
    preset :
        a key of `PRESETS` or `FORMATS`. Without it a file that has all columns of one, or begins
        like one, is recognised.
    mapping :
        canonical name → column of the file, or several joined by `+` (of an amount, one less
        another: `paid-back`), over preset and guesses; "" means none.
    label, scenario : columns that hold the truth; short for `mapping` of `is_fraud` and `scenario`.
    label_delay_days : a label without a date of its own is known this long after its transaction.
    words : what words of the label mean, beside the usual ones (`columns.label_words`).
    forms : what is said of the forms of times and numbers; else the columns tell.
    strict : import nothing if any row is bad.
    most_rejected : import nothing if a larger share of the rows is bad.
    rejected_mb : megabytes of bad rows that are kept of a source and day; the rest is counted.
    base_currency, zone : see `Settings.base_currency` and `Settings.timezone`.
    source : stored with each row; the file's name by default.

    Raises
    ------
    FileUnreadable : A file is missing, empty, or not what its name says.
    ColumnError
        A required column is missing or ambiguous, `mapping` names one that is not there, or a
        column is in no known form, or in more than one.
    InputError : More rows are bad than may be.
    """
    started = time.monotonic()
    if not 0 <= label_delay_days <= 36500:
        raise InputError(f"A label delay of {label_delay_days:g} days is not possible.")
    mapping = dict(mapping or {})
    mapping |= {k: v for k, v in (("is_fraud", label), ("scenario", scenario)) if v}
    _require_of_files(source)
    said = label_words(words or {})
    check_preset(preset)
    summary, tables = _found(files, mapping, forms, messages=True, preset=preset)
    known = PRESETS.get(summary.preset or "", _UNKNOWN)
    forms = known.forms.unless(forms)
    store.require_no_service()
    with (
        tempfile.TemporaryDirectory(prefix="aegis-") as folder,
        store.writing() as session,
        _bar(len(tables) + 1, progress) as step,
    ):
        session.execute(f"SET memory_limit = '{_MEMORY}'")
        for path, file, names, columns, message in tables:
            tell = step(f"reading {path.name}")
            relation, told, refused = file, forms, ""
            if message:
                made = as_tables(path, message, forms, Path(folder))
                relation, refused = (relation_of(table)[0] for table in (made.rows, made.refused))
                told = Said(timezone=forms.timezone)
                summary.remarks += made.remarks(path.name)
                if idle := forms.options(but=("timezone", "time_from", "encoding")):
                    summary.remarks.append(
                        f"{path.name}: a {message} says its own forms, and not {', '.join(idle)}."
                    )
                if made.first_refused and not summary.first_refused:
                    summary.first_refused = f"{path.name}, {made.first_refused}"
            with _said_of(path, relation):
                rows = relation
                if (unit := known.rounded_down) and columns["amount"] in names:
                    rows, n_zero = _without_zeros(session, relation, names, columns, unit)
                    summary.zeros_read, summary.zeros_as = summary.zeros_read + n_zero, unit
                first = staging.next_row(session)
                kinds = staging.kinds_of(session, rows, names)
                read = forms_of(session, rows, names, kinds, columns, told, known.words)
                summary.forms |= {name: form.name for name, form in read.items()}
                given = names, columns, source or path.name, tell
                staging.stage(session, rows, *given, words=said, forms=read)
                if "read_csv(" in relation:
                    lines = partial(last_lines, path, forms.encoding)
                    footers.mark_footer(session, first, len(names), lines)
                if refused:
                    staging.stage_refused(session, refused, source or path.name)
                found = (settle(session, first) for settle in _SETTLED)
                summary.remarks += [f"{path.name}: {remark}" for remark in found if remark]
        tell = step("storing")
        meaning.settle_words(session, "aegis_staged")
        staging.mark_repeated(session, meaning.settle_links(session, "aegis_staged"))
        _count(session, summary, 0.0 if strict else most_rejected)
        after_seq = session.next_seq() - 1
        meaning.choose_base(session, f"(FROM aegis_staged s WHERE {staging.GOOD})", base_currency)
        meant = meaning.Meaning.read(session, base_currency, zone)
        summary.remarks += settling.remarks(session, meant)
        keeping.insert_transactions(session, meant, tell)
        summary.later_states = keeping.keep_states(session)
        good = f"SELECT s.*, s.rowid AS place FROM aegis_staged s WHERE {staging.GOOD}"
        known_at = f"s.ts + to_microseconds({round(label_delay_days * 86_400e6)})"
        _insert_labels(session, summary, good, known_at, after_seq)
        summary.not_kept = keeping.keep_rejected(session, rejected_mb)
        (span,) = session.rows(
            f"SELECT min(ts) AS a, max(ts) AS b FROM aegis_staged s WHERE {staging.GOOD}"
        )
        summary.first_ts, summary.last_ts = span["a"], span["b"]
        session.execute("DROP TABLE aegis_staged")
    summary.seconds = time.monotonic() - started
    return summary


def import_labels(
    files: Iterable[Path | str] | Path | str,
    store: Store,
    *,
    mapping: Mapping[str, str] | None = None,
    words: Mapping[str, str] | None = None,
    forms: Said = PLAIN,
    strict: bool = False,
    rejected_mb: float = 10.0,
    source: str | None = None,
) -> ImportSummary:
    """Read labels of stored transactions from files of their own; a service may run meanwhile.

    Of each row: `transaction_id`, `is_fraud` and, where there are such columns, `scenario` and
    `known_at`. A label without that date is known from now on, by the transactions' clock. A row
    that is no label, or of no transaction, is rejected. For the parameters see `import_files`.

    Raises
    ------
    NotReady : There is no database.
    FileUnreadable, ColumnError, InputError : As `import_files`.
    """
    started = time.monotonic()
    _require_of_files(source)
    wanted = ("transaction_id", *(column.name for column in LABEL_COLUMNS))
    said = label_words(words or {})
    summary, tables = _found(files, mapping or {}, forms, required=wanted[:2], wanted=wanted)
    kept = f"{', '.join(wanted)}, unread, source, reason, raw"
    with store.reading() as session:
        session.last_seq()  # there is a database
    with (
        tempfile.TemporaryDirectory(prefix="aegis-") as folder,  # an owner reads no files
        Store(Path(folder) / "labels.duckdb").writing() as scratch,
    ):
        for path, relation, names, columns, _ in tables:
            with _said_of(path, relation):
                kinds = staging.kinds_of(scratch, relation, names)
                read = forms_of(scratch, relation, names, kinds, columns, forms)
                summary.forms |= {name: form.name for name, form in read.items()}
                given = names, columns, source or path.name, None
                staging.stage(scratch, relation, *given, staging.LABEL_CHECKS, said, read)
        rows = scratch.arrow(f"SELECT {kept} FROM aegis_staged ORDER BY rowid")
    with store.writing() as session, session.lent("aegis_given", rows):
        session.execute(f"CREATE TEMP TABLE aegis_staged AS SELECT {kept} FROM aegis_given")
        staging.mark_unknown(session, wanted)
        labels = """SELECT s.*, t.ts, s.rowid AS place FROM aegis_staged s
            JOIN (SELECT transaction_id, min(ts) AS ts FROM transactions GROUP BY ALL) t
                USING (transaction_id) WHERE s.reason IS NULL"""
        _count(session, summary, 0.0 if strict else 1.0)
        now = f"greatest(s.ts, ({NEWEST}))"
        _insert_labels(session, summary, labels, now, session.last_seq())
        summary.not_kept = keeping.keep_rejected(session, rejected_mb)
        session.execute("DROP TABLE aegis_staged")
    summary.already_there, summary.accepted = summary.accepted - summary.labels, summary.labels
    summary.seconds = time.monotonic() - started
    return summary


def preview(
    files: Iterable[Path | str] | Path | str, **given: Any
) -> tuple[ImportSummary, pd.DataFrame, list[str]]:
    """What an import of files would do: its summary, the first rows, and what the data lack.

    Nothing is stored, and what is stored already plays no part. `given` is that of `import_files`.
    """
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
        store = Store(Path(folder) / "preview.duckdb")
        summary = import_files(files, store, **given)
        first = store.query("FROM transactions ORDER BY seq LIMIT 5").dropna(
            axis="columns", how="all"
        )
        lacks = settling.lacks(store)
        if "customer_id" in summary.guessed:
            asked = given.get("mapping") or {}, given.get("forms", PLAIN)
            _, tables = _found(files, *asked, preset=given.get("preset"))
            with store.writing() as session:
                doubts = (
                    customer_in_doubt(session, file, names, columns)
                    for _, file, names, columns, message in tables
                    if not message
                )
                summary.remarks += dict.fromkeys(filter(None, doubts))
    return summary, first, lacks


Table = tuple[Path, str, list[str], dict[str, str], str]
"""A file, its SQL, its columns, which of them is which, and the kind of its messages, if any."""


def _require_of_files(source: str | None) -> None:
    if source is not None and source.strip() == ANSWERED:
        raise InputError(f"{ANSWERED!r} is the source of analysts' answers; name another.")


def _found(
    files: Iterable[Path | str] | Path | str,
    mapping: Mapping[str, str],
    forms: Said = PLAIN,
    *,
    messages: bool = False,
    preset: str | None = None,
    **wanted: Any,
) -> tuple[ImportSummary, list[Table]]:
    """The files, as `Table`s; `messages` says whether they may hold some."""

    @cache  # each file is asked of twice, and begins alike
    def message_of(path: Path) -> str:
        return recognised(path, preset) if messages else ""

    given = [files] if isinstance(files, str | Path) else files
    paths = find_files(given, forms.encoding, message_of)
    summary, tables = ImportSummary([str(path) for path in paths]), []
    for path in paths:
        if message := message_of(path):
            columns, _, _ = choose_columns(NAMES, mapping=mapping, where=path.name, **wanted)
            tables.append((path, "", [*NAMES], columns, message))
            summary.columns |= columns
            summary.preset = message
            continue
        relation, names, before = relation_of(path, forms.encoding, forms.skip)
        if before and not forms.skip:
            summary.remarks.append(
                f"{path.name}: the names of the columns are in line {before + 1}."
            )
        columns, guessed, recognised_ = choose_columns(
            names, mapping=mapping, where=path.name, preset=preset, **wanted
        )
        tables.append((path, relation, names, columns, ""))
        summary.columns |= columns
        summary.guessed |= guessed
        summary.preset = recognised_ or summary.preset
    return summary, tables


@contextmanager
def _said_of(path: Path, relation: str) -> Iterator[None]:
    """Say of which file something is that cannot be read."""
    try:
        yield
    except ColumnError as e:
        raise ColumnError(f"{path.name}: {e}") from e
    except AegisError as e:
        kind = "CSV" if "read_csv(" in relation else "Parquet"
        raise FileUnreadable(f"{path} cannot be read as {kind}: {masked(str(e)[:300])}") from e


def _count(session: Session, summary: ImportSummary, most_rejected: float) -> None:
    """Count what was read; `InputError` if a larger share is bad than may be."""
    summary.accepted, summary.already_there, summary.rejected = staging.outcome(session)
    summary.unread = staging.unread(session)
    n_rejected = sum(summary.rejected.values())
    summary.rows = summary.accepted + summary.already_there + n_rejected
    if not summary.rows:
        nothing = f"{', '.join(summary.files)}: a header but no rows."
        raise FileUnreadable(" ".join(summary.remarks) or nothing)
    n_rejected -= sum(n for r, n in summary.rejected.items() if r.startswith(footers.FOOTER))
    if n_rejected > most_rejected * summary.rows:
        told = "; ".join(f"{reason}: {n:,}" for reason, n in summary.rejected.items())
        told += f"; the first at {summary.first_refused}" * bool(summary.first_refused)
        way = "With --partial" if most_rejected else "Without --strict, or with --partial,"
        raise InputError(
            f"Nothing was imported: {n_rejected:,} of {summary.rows:,} "
            f"rows are bad ({told}). {way} the good rows go in and the bad ones "
            "to the table `rejected`."
        )


def _insert_labels(
    session: Session, summary: ImportSummary, rows: str, known_at: str, after_seq: int | None
) -> None:
    told = keeping.insert_labels(session, rows, known_at, f"({NEWEST})", after_seq)
    summary.labels, summary.labels_changed, summary.labels_under_answers = told


def checked(
    session: Session, rows: pa.Table | pd.DataFrame, source: str, future_minutes: float = 0.0
) -> tuple[pa.Table, pa.Table]:
    """Rows that arrive live after the checks of files: the good ones, in order, and the refused.

    Columns have their canonical names; `seq` and `source` are given elsewhere, whatever `rows`
    says. Labels do not come this way. `future_minutes` is that of the settings. The good ones have
    the columns of `transactions` and what came with their times, `ts` in microseconds since 1970;
    the refused `source`, `raw` and `reason`, as in the table `rejected`.

    Raises
    ------
    ColumnError : A required column is missing, or one is not a column of `transactions`.
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
    meaning.settle_words(session, "aegis_staged")
    columns = ", ".join(
        "epoch_us(ts) AS ts" if name == "ts" else name for name in (*known, "utc_offset", "clock")
    )
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
    n_zero = session.value(f"SELECT count(*) FROM ({named}) WHERE {zero}")
    read = f"SELECT * REPLACE (CASE WHEN {zero} THEN '{unit}' ELSE {amount} END AS {amount})"
    return f"({read} FROM ({named}))", n_zero


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
