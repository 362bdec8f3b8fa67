"""The door: files and live rows come in through one list of checks.

What passes goes to `transactions` and `labels`; what does not goes to `rejected`, with its reason
and the row as it came, so that nothing is dropped silently. A row that is already stored is
counted and left alone: importing the same file twice changes nothing.

Times are stored in UTC. A time with an offset is converted, one without is taken as UTC, and a
number is read as Unix time in seconds, milliseconds, microseconds or nanoseconds by its size.
"""

from __future__ import annotations

import csv
import glob
import gzip
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aegis_core.errors import AegisError, ColumnError, FileUnreadable, InputError, did_you_mean
from aegis_core.schema import REQUIRED, TRANSACTION_COLUMNS
from aegis_core.store import Session, Store, literal, quoted

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

LABEL_COLUMNS: Final = {"is_fraud": "BOOLEAN", "scenario": "VARCHAR"}
"""Columns that a file may bring for `labels`, beside those of `transactions`."""

FILE_COLUMNS: Final = {
    name: kind
    for name, kind in (TRANSACTION_COLUMNS | LABEL_COLUMNS).items()
    if name not in ("seq", "source")
}
"""Every column that `--map` can name; `seq` and `source` are given at the door."""

USUAL_NAMES: Final = {
    "transaction_id": "trans_id tx_id txn_id trans_num transaction_number payment_id id",
    "customer_id": "customer cust_id client_id account_id account user_id card_id card_number "
    "cc_num card card_no",
    "ts": "timestamp datetime date_time time date transaction_time transaction_date "
    "transaction_datetime transaction_timestamp tx_datetime tx_time trans_date_trans_time "
    "event_time created_at occurred_at",
    "amount": "amt tx_amount transaction_amount trans_amount payment_amount value",
    "currency": "currency_code ccy",
    "merchant_id": "merchant merchant_name terminal_id terminal shop payee",
    "category": "merchant_category category_code mcc",
    "channel": "entry_mode payment_channel",
    "lat": "latitude merchant_lat merch_lat",
    "lon": "lng long longitude merchant_lon merchant_long merch_lon merch_long",
    "is_fraud": "isfraud fraud tx_fraud fraud_label is_fraudulent",
    "scenario": "fraud_scenario tx_fraud_scenario",
}
"""Names, beside its own, by which a column is recognised, whatever the case and separators."""

PRESETS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "handbook": {
        "transaction_id": ("TRANSACTION_ID",),
        "ts": ("TX_DATETIME",),
        "customer_id": ("CUSTOMER_ID",),
        "merchant_id": ("TERMINAL_ID",),
        "amount": ("TX_AMOUNT",),
        "is_fraud": ("TX_FRAUD",),
        "scenario": ("TX_FRAUD_SCENARIO",),
    },
    "sparkov": {
        "transaction_id": ("trans_id", "trans_num"),
        "ts": ("trans_date_trans_time",),
        "customer_id": ("cc_num",),
        "merchant_id": ("merchant",),
        "category": ("category",),
        "amount": ("amt",),
        "lat": ("merch_lat",),
        "lon": ("merch_long",),
        "is_fraud": ("is_fraud",),
    },
}
"""Columns of known public data sets, each with its names in the versions that are about."""

ROUNDED_DOWN: Final = {"handbook": 0.01}
"""Smallest unit of presets whose simulator rounds amounts to it: there, 0 stands for less than half
of it and is read as one. Elsewhere an amount of 0 is rejected."""

HIGHEST_AMOUNT: Final = 1e12
LONGEST_TEXT: Final = 200
_THERE: Final = "already there"
REPEATED: Final = "transaction_id is known with other content"

_TEXTS = [name for name, kind in FILE_COLUMNS.items() if kind == "VARCHAR"]

CHECKS: Final = (
    ("customer_id is missing", "customer_id IS NULL"),
    ("ts is missing", "NOT ts_given"),
    ("ts is not a time (ISO 8601 or Unix)", "ts IS NULL"),
    (
        "ts is not between 1970 and 2100",
        "NOT (ts > TIMESTAMP '1970-01-01' AND ts < TIMESTAMP '2100-01-01')",
    ),
    ("amount is missing", "NOT amount_given"),
    ("amount is not a number", "amount IS NULL OR NOT isfinite(amount)"),
    ("amount is not positive", "amount <= 0"),
    (f"amount is above {HIGHEST_AMOUNT:g}", f"amount > {HIGHEST_AMOUNT}"),
    (
        "lat or lon is not a number",
        "(lat_given AND NOT isfinite(coalesce(lat, 'inf'::DOUBLE))) "
        "OR (lon_given AND NOT isfinite(coalesce(lon, 'inf'::DOUBLE)))",
    ),
    ("lat without lon, or lon without lat", "lat_given <> lon_given"),
    ("lat or lon is out of range", "abs(lat) > 90 OR abs(lon) > 180"),
    ("is_fraud is neither yes nor no", "is_fraud_given AND is_fraud IS NULL"),
    *(
        (f"{n} is longer than {LONGEST_TEXT} characters", f"length({n}) > {LONGEST_TEXT}")
        for n in _TEXTS
    ),
    *((f"{n} has a control character", f"regexp_matches({n}, '\\p{{Cc}}')") for n in _TEXTS),
)
"""(reason, SQL condition on the parsed row); the first condition that holds rejects the row."""

_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": ",", ".parquet": "", ".pq": ""}
_DELIMITERS = (",", ";", "\t", "|")
_SIGNATURES = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a ZIP archive or spreadsheet",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"SQLite": "an SQLite database",
    b"%PDF": "a PDF",
}
_BROKEN_LINES = {
    "MISSING COLUMNS": "line has too few columns",
    "TOO MANY COLUMNS": "line has too many columns",
    "UNQUOTED VALUE": "line has a stray quotation mark",
    "INVALID ENCODING": "line is not UTF-8",
    "LINE SIZE OVER MAXIMUM": "line is too long",
}
_LONGEST_RAW = 10_000
_MEMORY = "3GB"  # 10 million rows fit; more go through the disk
_YES = ("1", "1.0", "true", "t", "yes", "y")
_NO = ("0", "0.0", "false", "f", "no", "n")
_GOOD = f"coalesce(s.reason, {literal(_THERE)}) = {literal(_THERE)}"
_SAME = " AND ".join(
    f"s.{name} IS NOT DISTINCT FROM o.{name}" for name in FILE_COLUMNS if name not in LABEL_COLUMNS
)


@dataclass
class ImportSummary:
    """What an import did: every row read is accepted, already there, or rejected."""

    files: list[str]
    rows: int = 0
    accepted: int = 0
    already_there: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    labels: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    preset: str | None = None
    zeros_read: int = 0
    zeros_as: float = 0.0
    columns: dict[str, str] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Admitted:
    """What came of rows at the door; `accepted` holds the new ones, with their `seq`."""

    accepted: pa.Table
    already_there: int
    rejected: dict[str, int]


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
    source: str | None = None,
    progress: bool = True,
) -> ImportSummary:
    """Read history from CSV, TSV or Parquet files into `store`, all in one transaction.

    `seq` follows (time, place in the files), after what is stored already. A row without
    `transaction_id` gets one made of its content and place in its file. Memory stays bounded: the
    rows wait in a temporary table that DuckDB moves to disk when it must.

    Parameters
    ----------
    files
        Paths or globs, `.csv`, `.tsv`, `.txt` (each also `.gz`), `.parquet`.
    preset
        A key of `PRESETS`. Without it a file that has all columns of one is recognised.
    mapping
        Canonical name → column of the file, over preset and guesses; "" means none.
    label, scenario
        Columns that hold the truth; short for `mapping` of `is_fraud` and `scenario`.
    label_delay_days
        A label is known this long after its transaction.
    strict
        Import nothing if any row is bad.
    source
        Stored with each row; the file's name by default.

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
    relations = [_relation(path) for path in paths]
    summary = ImportSummary([str(path) for path in paths])
    chosen = []
    for path, (_, names) in zip(paths, relations, strict=True):
        columns, guessed, recognised = choose_columns(
            names, preset=preset, mapping=mapping, where=path.name
        )
        chosen.append(columns)
        summary.columns |= columns
        summary.guessed |= guessed
        summary.preset = recognised or summary.preset
    with store.writing() as session, _Bar(len(paths) + 1, progress) as bar:
        session.execute(f"SET memory_limit = '{_MEMORY}'")
        for path, (relation, names), columns in zip(paths, relations, chosen, strict=True):
            bar.step(f"reading {path.name}")
            try:
                rows = relation
                if unit := ROUNDED_DOWN.get(summary.preset or ""):
                    rows, n_zero = _without_zeros(session, relation, names, columns, unit)
                    summary.zeros_read, summary.zeros_as = summary.zeros_read + n_zero, unit
                _stage(session, rows, names, columns, source or path.name, bar.tell)
            except AegisError as e:
                kind = "CSV" if "read_csv(" in relation else "Parquet"
                raise FileUnreadable(f"{path} cannot be read as {kind}: {str(e)[:300]}") from e
        bar.step("storing")
        repeats = _mark_repeated(session)
        outcome = _outcome(session)
        summary.rows = sum(outcome.values())
        if not summary.rows:
            raise FileUnreadable(f"{', '.join(summary.files)}: a header but no rows.")
        summary.accepted = outcome.pop(None, 0)
        summary.already_there = outcome.pop(_THERE, 0)
        summary.rejected = {str(reason): n for reason, n in outcome.items()}
        if strict and summary.rejected:
            told = "; ".join(f"{reason}: {n:,}" for reason, n in summary.rejected.items())
            raise InputError(
                f"Nothing was imported: {sum(summary.rejected.values()):,} of {summary.rows:,} "
                f"rows are bad ({told}). Without --strict the good rows go in and the bad ones "
                "to the table `rejected`."
            )
        _insert(session, order="ts, rowid", tell=bar.tell)
        summary.labels = _insert_labels(session, label_delay_days, repeats=repeats)
        _keep_rejected(session)
        (span,) = session.rows(
            f"SELECT min(ts) AS a, max(ts) AS b FROM aegis_staged s WHERE {_GOOD}"
        )
        summary.first_ts, summary.last_ts = span["a"], span["b"]
        session.execute("DROP TABLE aegis_staged")
    summary.seconds = time.monotonic() - started
    return summary


def admit(session: Session, rows: pa.Table | pd.DataFrame, source: str) -> Admitted:
    """Check rows that arrive live, number them in the order given, and store them.

    Columns have their canonical names; `seq` and `source` are given here, whatever `rows` says.
    Labels do not come this way.

    Raises
    ------
    ColumnError
        A required column is missing, or one is not a column of `transactions`.
    """
    import pyarrow as pa

    arrow = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    present = [name for name in arrow.column_names if name not in ("seq", "source")]
    known = [name for name in FILE_COLUMNS if name not in LABEL_COLUMNS]
    if unknown := [name for name in present if name not in known]:
        raise ColumnError(
            f"Rows have the column {unknown}, which transactions has not; it has {known}."
            + did_you_mean(unknown[0], known)
        )
    if missing := [name for name in REQUIRED if name not in present]:
        raise ColumnError(f"Rows lack {missing}; they have {present}.")
    with session.lent("aegis_lent", arrow):
        own = {name: name for name in present}
        _stage(session, "aegis_lent", arrow.column_names, own, source, None)
    _mark_repeated(session)
    outcome = _outcome(session)
    first = session.next_seq()
    if outcome.pop(None, 0):
        _insert(session, order="rowid", tell=None)
    there = outcome.pop(_THERE, 0)
    if outcome:
        _keep_rejected(session)
    accepted = session.arrow("SELECT * FROM transactions WHERE seq >= ? ORDER BY seq", [first])
    session.execute("DROP TABLE aegis_staged")
    return Admitted(accepted, there, {str(reason): n for reason, n in outcome.items()})


def find_files(files: Iterable[Path | str]) -> list[Path]:
    """The files that paths and globs name, each once, checked to be what their names say.

    Raises
    ------
    FileUnreadable
        Nothing is there, or it is a folder, empty, or of another kind than its name says.
    """
    found: list[Path] = []
    for given in files:
        path = Path(given).expanduser()
        if path.exists():
            found.append(path)
            continue
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            what = "No file matches" if glob.has_magic(str(path)) else "There is no file"
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise FileUnreadable(f"{what} {given}.{did_you_mean(path.name, beside)}")
        found += matches
    if not found:
        raise FileUnreadable("No file was given; name at least one, such as data/*.csv.")
    unique = list({path.resolve(): path for path in found}.values())
    for path in unique:
        _check_is_what_it_says(path)
    return unique


def choose_columns(
    names: Sequence[str],
    *,
    preset: str | None = None,
    mapping: Mapping[str, str] | None = None,
    where: str = "the file",
) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Which column of a file is which: (all chosen, those that were guessed, the preset used).

    >>> choose_columns(["Card Number", "time", "amt"], mapping={"ts": "time"})[0]
    {'customer_id': 'Card Number', 'ts': 'time', 'amount': 'amt'}

    Raises
    ------
    ColumnError
        A required column is missing or ambiguous, or `mapping` names what is not there.
    InputError
        There is no such preset.
    """
    chosen: dict[str, str] = {}
    for canonical, column in (mapping or {}).items():
        if canonical not in FILE_COLUMNS:
            raise ColumnError(
                f"--map {canonical}=…: there is no {canonical!r}; it is one of "
                f"{', '.join(FILE_COLUMNS)}." + did_you_mean(canonical, FILE_COLUMNS)
            )
        match = [n for n in names if n == column] or [
            n for n in names if _plain(n) == _plain(column)
        ]
        if column and not match:
            raise ColumnError(
                f"{where} has no column {column!r}; it has {_listed(names)}."
                + did_you_mean(column, names)
            )
        chosen[canonical] = match[0] if column else ""
    if preset is not None and preset not in PRESETS:
        raise InputError(
            f"There is no preset {preset!r}; there are {', '.join(PRESETS)}."
            + did_you_mean(preset, PRESETS)
        )
    recognised = preset or next((name for name in PRESETS if _fits(PRESETS[name], names)), None)
    guessed: dict[str, str] = {}
    for canonical in FILE_COLUMNS:
        if canonical in chosen:
            continue
        if recognised:
            wanted = [_plain(name) for name in PRESETS[recognised].get(canonical, ())]
        else:
            wanted = [_plain(name) for name in (canonical, *USUAL_NAMES[canonical].split())]
        matches = [name for name in names if _plain(name) in wanted]
        # A home's place beside the merchant's is common, so an exact `lat` proves nothing.
        if len(matches) > 1 and canonical not in ("lat", "lon"):
            matches = [n for n in matches if _plain(n) == canonical] or matches
        if len(matches) > 1 and not recognised:
            raise ColumnError(
                f"{where}: {_listed(matches)} could each be {canonical}. "
                f"Choose with --map {canonical}={matches[0]}, or --map {canonical}= for none."
            )
        if matches:
            chosen[canonical] = matches[0]
            if preset is None:
                guessed[canonical] = matches[0]
    chosen = {canonical: chosen[canonical] for canonical in FILE_COLUMNS if chosen.get(canonical)}
    if missing := [name for name in REQUIRED if name not in chosen]:
        raise ColumnError(
            f"{where} has no column for {' and '.join(missing)}; it has {_listed(names)}. "
            f"Say which one it is with --map {missing[0]}=COLUMN."
        )
    if "scenario" in chosen and "is_fraud" not in chosen:
        raise ColumnError(f"{where}: a scenario needs a label; name its column with --label.")
    return chosen, guessed, recognised


class _Bar:
    """A progress bar of equal steps, silent where nobody looks."""

    def __init__(self, steps: int, visible: bool) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._bar = tqdm(
            total=float(steps),
            disable=None if visible else True,
            bar_format="{desc:<28} {percentage:3.0f}% |{bar}| {elapsed}",
            leave=False,
        )
        self._done = -1

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, name: str) -> None:
        self._done += 1
        self._bar.set_description_str(name[:28])
        self.tell(0.0)

    def tell(self, share: float) -> None:
        self._bar.update(max(0.0, self._done + share - self._bar.n))


def _delimiter(path: Path) -> str:
    return _SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix, "")


def _check_is_what_it_says(path: Path) -> None:
    if path.is_dir():
        raise FileUnreadable(f"{path} is a folder; name its files, such as '{path}/*.csv'.")
    zipped = path.name.lower().endswith(".gz")
    if Path(path.name.lower().removesuffix(".gz")).suffix not in _SUFFIXES:
        raise FileUnreadable(
            f"{path}: its name does not say what it is. It may end in {', '.join(_SUFFIXES)}, "
            "text also with .gz."
        )
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(max(0, path.stat().st_size - 4))
            tail = file.read(4)
        if not head:
            raise FileUnreadable(f"{path} is empty.")
        looks_like = next((k for s, k in _SIGNATURES.items() if head.startswith(s)), "text")
        expected = "gzip" if zipped else "text" if _delimiter(path) else "a Parquet file"
        if looks_like != expected:
            raise FileUnreadable(
                f"{path} is not {expected}, as its name says; it looks like {looks_like}."
            )
        if expected == "a Parquet file" and tail != b"PAR1":
            raise FileUnreadable(f"{path} is cut off: a Parquet file ends in PAR1. Copy it again.")
        if zipped:  # DuckDB takes a damaged gzip for one that ends early
            with gzip.open(path) as unzipped:
                while unzipped.read(1 << 20):
                    pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise FileUnreadable(f"{path} is damaged or cut off: {e}. Copy it again.") from e
    except OSError as e:
        raise FileUnreadable(f"{path} cannot be read: {e.strerror}.") from e


def _relation(path: Path) -> tuple[str, list[str]]:
    """The SQL that reads a file, every text as it is written, and the names of its columns."""
    file = literal(glob.escape(str(path.absolute())))
    delimiter = _delimiter(path)
    if not delimiter:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names = _distinct(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as e:
            raise FileUnreadable(f"{path} cannot be read as Parquet: {str(e)[:300]}") from e
        return f"read_parquet({file}, hive_partitioning=false)", names
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            first = text.readline(1 << 20)
            if delimiter == ",":
                delimiter = max(_DELIMITERS, key=first.count)
            names = _distinct(next(csv.reader(chain([first], text), delimiter=delimiter)))
            "".join(names).encode()
    except (UnicodeEncodeError, csv.Error) as e:
        raise FileUnreadable(f"{path} is not UTF-8 text with a line of names first.") from e
    if not names or "\0" in first:
        raise FileUnreadable(f"{path} is not text with a line of names first.")
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({file}, auto_detect=false, columns={{{columns}}}, header=true, "
        f"delim={literal(delimiter)}, quote='\"', escape='\"', hive_partitioning=false, "
        "ignore_errors=true, store_rejects=true, rejects_table='aegis_broken', "
        "rejects_scan='aegis_scans')"
    ), names


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns that differ for SQL, which does not tell upper from lower case.

    >>> _distinct(["a", "A", ""])
    ['a', 'A_2', 'column_3']
    """
    seen: set[str] = set()
    distinct = []
    for i, given in enumerate(names, 1):
        name = given.strip() or f"column_{i}"
        if name.lower() in seen:
            name = f"{name}_{i}"
        seen.add(name.lower())
        distinct.append(name)
    return distinct


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_").replace(".", "_")


def _fits(preset: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> bool:
    have = {_plain(name) for name in names}
    return all(any(_plain(n) in have for n in known) for known in preset.values())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def _without_zeros(
    session: Session,
    relation: str,
    names: Sequence[str],
    columns: Mapping[str, str],
    unit: float,
) -> tuple[str, int]:
    """`relation` with amounts of exactly 0 read as `unit`, and how many these are."""
    amount = quoted(columns["amount"])
    zero = f"TRY_CAST({amount} AS DOUBLE) = 0"
    named = f'SELECT * FROM {relation} AS "aegis file"({", ".join(map(quoted, names))})'
    (found,) = session.rows(f"SELECT count(*) AS n FROM ({named}) WHERE {zero}")
    read = f"SELECT * REPLACE (CASE WHEN {zero} THEN '{unit}' ELSE {amount} END AS {amount})"
    return f"({read} FROM ({named}))", int(found["n"])


def _stage(
    session: Session,
    relation: str,
    names: Sequence[str],
    columns: Mapping[str, str],
    source: str,
    tell: Callable[[float], None] | None,
) -> None:
    """Parse and check the rows of `relation`, adding them to the temporary table `aegis_staged`."""
    described = session.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    session.execute("DROP TABLE IF EXISTS aegis_broken")
    session.execute("DROP TABLE IF EXISTS aegis_scans")
    kinds = {name: row[1] for name, row in zip(names, described, strict=True)}
    staged = ", ".join(f"{name} {kind}" for name, kind in FILE_COLUMNS.items())
    session.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS aegis_staged ({staged}, source VARCHAR, reason VARCHAR, "
        "raw VARCHAR)"
    )
    parsed = [
        part
        for canonical in FILE_COLUMNS
        for part in _parsed(canonical, columns.get(canonical), kinds)
    ]
    reason = " ".join(f"WHEN {condition} THEN {literal(name)}" for name, condition in CHECKS)
    raw = ", ".join(f"{literal(name)}, {_as_json(name, kind)}" for name, kind in kinds.items())
    (before,) = session.rows("SELECT count(*) AS n FROM aegis_staged")
    insert = f"""
        INSERT INTO aegis_staged
        WITH parsed AS (
            SELECT {", ".join(parsed)}, "aegis row"
            FROM {relation} AS "aegis row"({", ".join(map(quoted, names))})
        ), checked AS (
            SELECT *, CASE {reason} END AS reason FROM parsed
        )
        SELECT {", ".join(FILE_COLUMNS)}, {literal(source)}, reason,
            CASE WHEN reason IS NOT NULL THEN json_object({raw})::VARCHAR END
        FROM checked"""
    if tell:
        session.watched(insert, None, tell)
    else:
        session.execute(insert)
    content = ", ".join(
        f"coalesce({name}::VARCHAR, '')"
        for name in FILE_COLUMNS
        if name not in ("transaction_id", *LABEL_COLUMNS)
    )
    session.execute(
        f"""UPDATE aegis_staged SET transaction_id = 'row-' || md5(concat_ws(chr(31), {content},
            rowid - (SELECT min(rowid) FROM aegis_staged) - {before["n"]}))[:20]
        WHERE transaction_id IS NULL AND reason IS NULL"""
    )
    if "read_csv(" in relation:
        reasons = " ".join(f"WHEN {literal(k)} THEN {literal(v)}" for k, v in _BROKEN_LINES.items())
        session.execute(
            f"""INSERT INTO aegis_staged (source, reason, raw)
            SELECT {literal(source)},
                CASE any_value(error_type::VARCHAR) {reasons} ELSE 'line is not CSV' END,
                to_json(left(any_value(csv_line), {_LONGEST_RAW}))::VARCHAR
            FROM aegis_broken GROUP BY line ORDER BY line"""
        )


def _parsed(canonical: str, column: str | None, kinds: Mapping[str, str]) -> list[str]:
    """SQL for one canonical column and, since a check may ask, for whether it has any value."""
    wanted = FILE_COLUMNS[canonical]
    if column is None:
        return [f"NULL::{wanted} AS {canonical}", f"false AS {canonical}_given"]
    raw, kind = f'"aegis row".{quoted(column)}', kinds[column]
    if kind in ("FLOAT", "DOUBLE"):  # NaN is how pandas says missing, except of an amount
        raw = raw if canonical == "amount" else f"CASE WHEN NOT isnan({raw}) THEN {raw} END"
    elif not _is_number(kind) and not kind.startswith(("TIMESTAMP", "DATE", "BOOLEAN")):
        raw, kind = f"nullif(trim({raw}::VARCHAR), '')", "VARCHAR"
    if wanted == "TIMESTAMP":
        value = _time(raw, kind)
    elif wanted == "BOOLEAN":
        value = _truth(raw, kind)
    elif wanted == "DOUBLE":
        # by way of text a FLOAT of 96.45 stays 96.45
        value = f"TRY_CAST({f'({raw})::VARCHAR' if kind == 'FLOAT' else raw} AS DOUBLE)"
    elif kind in ("FLOAT", "DOUBLE"):
        # pandas makes floats of whole numbers with gaps: 596.0 is customer 596
        whole = f"TRY_CAST(CASE WHEN {raw} = trunc({raw}) THEN {raw} END AS BIGINT)"
        value = f"coalesce({whole}::VARCHAR, ({raw})::VARCHAR)"
    else:
        value = f"({raw})::VARCHAR"
    return [f"{value} AS {canonical}", f"{raw} IS NOT NULL AS {canonical}_given"]


def _time(raw: str, kind: str) -> str:
    """SQL for a time in UTC from a column of any type; null where it is none."""
    number = f"TRY_CAST({raw} AS DOUBLE)"
    units = ((1e8, 1e10, 1e6), (1e11, 1e13, 1e3), (1e14, 1e16, 1.0), (1e17, 1e19, 1e-3))
    unix = " ".join(
        f"WHEN {number} BETWEEN {low} AND {high} "
        f"THEN make_timestamp(round({number} * {us})::BIGINT)"
        for low, high, us in units
    )
    if _is_number(kind):
        return f"CASE {unix} END"
    if kind == "VARCHAR":  # read as a plain TIMESTAMP a text would lose its offset unnoticed
        return f"coalesce(TRY_CAST({raw} AS TIMESTAMPTZ)::TIMESTAMP, CASE {unix} END)"
    return f"TRY_CAST({raw} AS TIMESTAMP)"


def _truth(raw: str, kind: str) -> str:
    """SQL for yes or no from a column of any type; null where it is neither."""
    if kind == "BOOLEAN":
        return raw
    if _is_number(kind):
        return f"CASE {raw} WHEN 1 THEN true WHEN 0 THEN false END"
    yes, no = (", ".join(map(literal, words)) for words in (_YES, _NO))
    word = f"lower(({raw})::VARCHAR)"
    return f"CASE WHEN {word} IN ({yes}) THEN true WHEN {word} IN ({no}) THEN false END"


def _is_number(kind: str) -> bool:
    return (
        kind.startswith("DECIMAL")
        or kind.endswith("INT")
        or kind in ("INTEGER", "UINTEGER", "FLOAT", "DOUBLE")
    )


def _as_json(name: str, kind: str) -> str:
    column = f'"aegis row".{quoted(name)}'
    if kind in ("FLOAT", "DOUBLE"):  # JSON has no NaN
        return (
            f"CASE WHEN isfinite({column}) THEN to_json({column}) "
            f"ELSE to_json({column}::VARCHAR) END"
        )
    return f"left({column}, {_LONGEST_RAW})" if kind == "VARCHAR" else column


def _mark_repeated(session: Session) -> bool:
    """Mark staged rows whose id is stored or came earlier; whether there are any."""
    raw = "json_object(" + ", ".join(f"{literal(n)}, s.{n}" for n in FILE_COLUMNS) + ")::VARCHAR"
    mark = f"""UPDATE aegis_staged AS s SET
        reason = CASE WHEN {{same}} THEN {literal(_THERE)} ELSE {literal(REPEATED)} END,
        raw = CASE WHEN {{same}} THEN NULL ELSE {raw} END"""
    (has,) = session.rows("SELECT count(is_fraud) > 0 AS labels FROM aegis_staged")
    agrees, labels = "", ""
    if has["labels"]:
        agrees = " AND coalesce(s.is_fraud = l.is_fraud, true)"
        labels = "LEFT JOIN labels l USING (transaction_id)"
    stored = _count(
        session,
        f"""{mark.format(same=_SAME + agrees)} FROM transactions o {labels}
        WHERE s.transaction_id = o.transaction_id AND s.reason IS NULL""",
    )
    earlier = _count(
        session,
        f"""{mark.format(same=_SAME)} FROM (
            SELECT r.first, f.* FROM aegis_staged f JOIN (
                SELECT min(rowid) AS first FROM aegis_staged WHERE reason IS NULL
                GROUP BY transaction_id HAVING count(*) > 1
            ) r ON f.rowid = r.first
        ) o
        WHERE s.transaction_id = o.transaction_id AND s.rowid <> o.first AND s.reason IS NULL""",
    )
    if has["labels"] and stored + earlier:
        session.execute(
            f"""{mark.format(same="false")} FROM (
                SELECT transaction_id, arg_min(is_fraud, rowid) AS is_fraud
                FROM aegis_staged s WHERE {_GOOD}
                GROUP BY transaction_id HAVING count(DISTINCT is_fraud) > 1
            ) o
            WHERE s.transaction_id = o.transaction_id AND s.is_fraud <> o.is_fraud AND {_GOOD}"""
        )
    return stored + earlier > 0


def _insert(session: Session, *, order: str, tell: Callable[[float], None] | None) -> None:
    """Store the staged rows that are good and new, numbered in `order`."""
    names = ", ".join(name for name in TRANSACTION_COLUMNS if name != "seq")
    insert = f"""
        INSERT INTO transactions (seq, {names})
        SELECT {session.next_seq()} + row_number() OVER () - 1, {names} FROM (
            SELECT {names} FROM aegis_staged WHERE reason IS NULL ORDER BY {order})"""
    if tell:
        session.watched(insert, None, tell)
    else:
        session.execute(insert)


def _insert_labels(session: Session, delay_days: float, *, repeats: bool) -> int:
    """Store the labels of good rows whose transaction has none yet; how many."""
    first = "QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY s.rowid) = 1"
    return _count(
        session,
        f"""INSERT INTO labels (transaction_id, is_fraud, scenario, known_at, source)
        SELECT transaction_id, is_fraud, CASE WHEN is_fraud THEN scenario END,
            ts + to_microseconds({round(delay_days * 86_400e6)}), source
        FROM aegis_staged s ANTI JOIN labels USING (transaction_id)
        WHERE {_GOOD} AND is_fraud IS NOT NULL
        {first if repeats else ""}""",
    )


def _keep_rejected(session: Session) -> None:
    """Store the rejected rows, except as many equal ones as are stored from this source."""
    session.execute(
        f"""INSERT INTO rejected (received_at, source, raw, reason)
        WITH bad AS (
            SELECT rowid AS row_no, source, raw, reason,
                row_number() OVER (PARTITION BY source, raw, reason ORDER BY rowid) AS copy
            FROM aegis_staged WHERE reason <> {literal(_THERE)}
        ), stored AS (
            SELECT source, raw, reason, count(*) AS copies FROM rejected GROUP BY ALL
        )
        SELECT now(), source, raw, reason FROM bad LEFT JOIN stored USING (source, raw, reason)
        WHERE copy > coalesce(copies, 0) ORDER BY row_no"""
    )


def _outcome(session: Session) -> dict[str | None, int]:
    """How many staged rows are new (None), already there, and rejected for each reason."""
    found = session.rows(
        "SELECT reason, count(*) AS n FROM aegis_staged GROUP BY reason ORDER BY n DESC, reason"
    )
    return {row["reason"]: row["n"] for row in found}


def _count(session: Session, statement: str) -> int:
    found = session.execute(statement).fetchone()
    return int(found[0]) if found else 0
