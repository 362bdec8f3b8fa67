"""The staging table: rows from outside are parsed, checked and compared there before they count.

What passes goes on to `transactions` and `labels`; what does not goes to `rejected`, with its
reason and the row as it came, so that nothing is dropped silently. A row that is already stored is
counted and left alone.

Times are stored in UTC. A time with an offset is converted, one without is taken as UTC, and a
number is read as Unix time in seconds, milliseconds, microseconds or nanoseconds by its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aegis_core.intake.columns import FILE_COLUMNS
from aegis_core.intake.refusals import MAY_BE_CARD, USED_UP, masked
from aegis_core.schema import (
    COLUMNS,
    CONTENT,
    CONTROL,
    END,
    EPOCH,
    HALF_PLACE,
    ISO_TIME,
    LABEL_COLUMNS,
    LONGEST_TEXT,
    NUMBER,
    TIME,
    TRANSACTION_COLUMNS,
    TRUTH,
    Column,
)
from aegis_core.store.connection import literal, quoted
from aegis_core.store.session import Session

_THERE: Final = "already there"
REPEATED: Final = "transaction_id is known with other content"

_FAULTS: Final = {
    "missing": "NOT {0.name}_given",
    "time": "{0.name}_given AND {0.name} IS NULL",
    "years": f"NOT ({{0.name}} > TIMESTAMP '{EPOCH:%Y-%m-%d}'"
    f" AND {{0.name}} < TIMESTAMP '{END:%Y-%m-%d}')",
    "number": "{0.name}_given AND NOT isfinite(coalesce({0.name}, 'inf'::DOUBLE))",
    "positive": "{0.name} <= 0",
    "low": "{0.name} < {0.low}",
    "high": "{0.name} > {0.high}",
    "control": "regexp_matches({0.name}, '[{1}]')",
    "longest": f"length({{0.name}}) > {LONGEST_TEXT}",
    "truth": "{0.name}_given AND {0.name} IS NULL",
}
"""SQL for each fault of `Column.faults`; that a text is none cannot happen to a file."""


def _checks(columns: Sequence[Column]) -> list[tuple[str, str]]:
    return [
        (f"{column.name} {said}", _FAULTS[fault].format(column, CONTROL))
        for column in columns
        for fault, said in column.faults.items()
        if fault in _FAULTS and not (fault == "missing" and column.made)
    ]


CHECKS: Final = (*_checks(COLUMNS), (HALF_PLACE, "lat_given <> lon_given"), *_checks(LABEL_COLUMNS))
"""(reason, SQL condition on the parsed row); the first condition that holds rejects the row."""

_BROKEN_LINES = {
    "MISSING COLUMNS": "line has too few columns",
    "TOO MANY COLUMNS": "line has too many columns",
    "UNQUOTED VALUE": "line has a stray quotation mark",
    "INVALID ENCODING": "line is not UTF-8",
    "LINE SIZE OVER MAXIMUM": "line is too long",
}
_LONGEST_RAW = 10_000
_YES = ("1", "1.0", "true", "t", "yes", "y")
_NO = ("0", "0.0", "false", "f", "no", "n")

GOOD: Final = f"coalesce(s.reason, {literal(_THERE)}) = {literal(_THERE)}"
"""SQL condition on a staged row `s`: nothing is wrong with it, new or already there."""

_SAME = " AND ".join(f"s.{name} IS NOT DISTINCT FROM o.{name}" for name in CONTENT)
# A column that came later changes no id that was made before it.
_MADE_OF = ", ".join(
    f"{column.name}::VARCHAR" if column.since else f"coalesce({column.name}::VARCHAR, '')"
    for column in COLUMNS
    if not column.made
)


def stage(
    session: Session,
    relation: str,
    names: Sequence[str],
    columns: Mapping[str, str],
    source: str,
    tell: Callable[[float], object] | None,
    checks: Sequence[tuple[str, str]] = CHECKS,
) -> None:
    """Parse and check the rows of `relation`, adding them to the temporary table `aegis_staged`."""
    described = session.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    session.execute("DROP TABLE IF EXISTS aegis_broken")
    session.execute("DROP TABLE IF EXISTS aegis_scans")
    kinds = {name: row[1] for name, row in zip(names, described, strict=True)}
    staged = ", ".join(f"{name} {column.kind}" for name, column in FILE_COLUMNS.items())
    session.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS aegis_staged ({staged}, source VARCHAR, reason VARCHAR, "
        "raw VARCHAR)"
    )
    parsed = [
        part
        for column in FILE_COLUMNS.values()
        for part in _parsed(column, columns.get(column.name), kinds)
    ]
    reason = " ".join(f"WHEN {condition} THEN {literal(name)}" for name, condition in checks)
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
    session.execute(
        f"""UPDATE aegis_staged SET transaction_id = 'row-' || md5(concat_ws(chr(31), {_MADE_OF},
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


def _parsed(wanted: Column, column: str | None, kinds: Mapping[str, str]) -> list[str]:
    """SQL for one canonical column and, since a check may ask, for whether it has any value."""
    name = wanted.name
    if column is None:
        return [f"NULL::{wanted.kind} AS {name}", f"false AS {name}_given"]
    raw, kind = f'"aegis row".{quoted(column)}', kinds[column]
    if kind in ("FLOAT", "DOUBLE"):  # NaN is how pandas says missing, except of an amount
        raw = raw if name == "amount" else f"CASE WHEN NOT isnan({raw}) THEN {raw} END"
    elif not _is_number(kind) and not kind.startswith(("TIMESTAMP", "DATE", "BOOLEAN")):
        raw, kind = f"nullif(trim({raw}::VARCHAR), '')", "VARCHAR"
    if wanted.kind == TIME:
        value = _time(raw, kind)
    elif wanted.kind == TRUTH:
        value = _truth(raw, kind)
    elif wanted.kind == NUMBER and kind == "BOOLEAN":
        value = "NULL::DOUBLE"
    elif wanted.kind == NUMBER:
        # by way of text a FLOAT of 96.45 stays 96.45
        value = f"TRY_CAST({f'({raw})::VARCHAR' if kind == 'FLOAT' else raw} AS DOUBLE)"
    elif kind in ("FLOAT", "DOUBLE"):
        # pandas makes floats of whole numbers with gaps: 596.0 is customer 596
        whole = f"TRY_CAST(CASE WHEN {raw} = trunc({raw}) THEN {raw} END AS BIGINT)"
        value = f"coalesce({whole}::VARCHAR, ({raw})::VARCHAR)"
    else:
        value = f"({raw})::VARCHAR"
    return [f"{value} AS {name}", f"{raw} IS NOT NULL AS {name}_given"]


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
    if kind != "VARCHAR":
        return f"TRY_CAST({raw} AS TIMESTAMP)"
    # DuckDB takes offsets of a day and more, and no letters of lower case, no comma, and no offset
    # that follows the minute. Read as a plain TIMESTAMP a text would lose its offset unnoticed.
    no_offset = r":[0-9.]+[+-](2[4-9]|[3-9]|[0-9]{2}:?[6-9])"
    plain = f"replace(upper({raw}), ',', '.')"
    whole = rf"regexp_replace({plain}, '^(.{{11}}[0-9:]{{5}})([Z+-]|$)', '\1:00\2')"
    return (
        f"CASE WHEN length({raw}) > 21 AND regexp_matches({raw}, '{no_offset}') THEN NULL "
        f"ELSE coalesce(TRY_CAST({raw} AS TIMESTAMPTZ)::TIMESTAMP, "
        f"CASE WHEN regexp_matches({raw}, '{ISO_TIME}') "
        f"THEN TRY_CAST({whole} AS TIMESTAMPTZ)::TIMESTAMP ELSE CASE {unix} END END) END"
    )


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


def mark_repeated(session: Session) -> bool:
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
                FROM aegis_staged s WHERE {GOOD}
                GROUP BY transaction_id HAVING count(DISTINCT is_fraud) > 1
            ) o
            WHERE s.transaction_id = o.transaction_id AND s.is_fraud <> o.is_fraud AND {GOOD}"""
        )
    return stored + earlier > 0


def insert_transactions(session: Session, tell: Callable[[float], object]) -> None:
    """Store the staged rows that are good and new, in the order of their times."""
    names = ", ".join(name for name in TRANSACTION_COLUMNS if name != "seq")
    insert = f"""
        INSERT INTO transactions (seq, {names})
        SELECT {session.next_seq()} + row_number() OVER () - 1, {names} FROM (
            SELECT {names} FROM aegis_staged WHERE reason IS NULL ORDER BY ts, rowid)"""
    session.watched(insert, None, tell)


def insert_labels(session: Session, delay_days: float, repeats: bool, after_seq: int) -> int:
    """Store the labels of good rows whose transaction has none yet; how many.

    `after_seq` is the last transaction that had arrived before these files.
    """
    first = "QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY s.rowid) = 1"
    return _count(
        session,
        f"""INSERT INTO labels (transaction_id, is_fraud, scenario, known_at, source, after_seq)
        SELECT transaction_id, is_fraud, CASE WHEN is_fraud THEN scenario END,
            ts + to_microseconds({round(delay_days * 86_400e6)}), source, {after_seq}
        FROM aegis_staged s ANTI JOIN labels USING (transaction_id)
        WHERE {GOOD} AND is_fraud IS NOT NULL
        {first if repeats else ""}""",
    )


def keep_rejected(session: Session, most_mb: float) -> int:
    """Store the rejected rows, except as many equal ones as are stored from this source.

    Card numbers are masked. Of a source, no more than `most_mb` megabytes a day are kept; how many
    rows were not.
    """
    _mask(session)
    said = literal(USED_UP)
    session.execute(
        f"""CREATE TEMP TABLE aegis_refused AS
        WITH bad AS (
            SELECT rowid AS row_no, source, raw, reason,
                row_number() OVER (PARTITION BY source, raw, reason ORDER BY rowid) AS copy
            FROM aegis_staged WHERE reason <> {literal(_THERE)}
        ), stored AS (
            SELECT source, raw, reason, count(*) AS copies FROM rejected GROUP BY ALL
        ), today AS (
            SELECT source, sum(strlen(raw)) AS spent, count(*) FILTER (reason = {said}) > 0 AS said
            FROM rejected WHERE received_at >= date_trunc('day', now()::TIMESTAMP) GROUP BY source
        )
        SELECT row_no, source, raw, reason, coalesce(said, false) AS said, NOT coalesce(said, false)
            AND coalesce(spent, 0) + sum(coalesce(strlen(raw), 0)) OVER
            (PARTITION BY source ORDER BY row_no) <= {round(most_mb * 1e6)} AS fits
        FROM bad LEFT JOIN stored USING (source, raw, reason) LEFT JOIN today USING (source)
        WHERE copy > coalesce(copies, 0)"""
    )
    session.execute(
        f"""INSERT INTO rejected (received_at, source, raw, reason)
        (SELECT now(), source, raw, reason FROM aegis_refused WHERE fits ORDER BY row_no)
        UNION ALL
        (SELECT DISTINCT now(), source, '', {said} FROM aegis_refused
            WHERE NOT fits AND NOT said)"""
    )
    (left,) = session.rows("SELECT count(*) FILTER (NOT fits) AS n FROM aegis_refused")
    session.execute("DROP TABLE aegis_refused")
    return int(left["n"])


def _mask(session: Session) -> None:
    """Mask card numbers in what is about to be kept, some rows at a time."""
    import pyarrow as pa

    last = -1
    while some := session.rows(
        f"""SELECT rowid AS row_no, raw FROM aegis_staged
        WHERE reason <> {literal(_THERE)} AND rowid > {last}
            AND regexp_matches(raw, {literal(MAY_BE_CARD)})
        ORDER BY rowid LIMIT 50_000"""
    ):
        last = some[-1]["row_no"]
        hidden = {
            "row_no": [row["row_no"] for row in some],
            "raw": [masked(row["raw"]) for row in some],
        }
        with session.lent("aegis_masked", pa.table(hidden)):
            session.execute(
                "UPDATE aegis_staged AS s SET raw = m.raw FROM aegis_masked m "
                "WHERE s.rowid = m.row_no"
            )


def outcome(session: Session) -> tuple[int, int, dict[str, int]]:
    """How many staged rows are new, already there, and rejected for each reason."""
    found = session.rows(
        "SELECT reason, count(*) AS n FROM aegis_staged GROUP BY reason ORDER BY n DESC, reason"
    )
    counts = {row["reason"]: int(row["n"]) for row in found}
    return counts.pop(None, 0), counts.pop(_THERE, 0), counts


def _count(session: Session, statement: str) -> int:
    found = session.execute(statement).fetchone()
    return int(found[0]) if found else 0
