"""The staging table: rows from outside are parsed, checked and compared there before they count.

Each row gets the reason that it is refused for, if there is one. `settling` then says what the file
means as a whole, and `keeping` brings the rows into the tables.

Times are stored in UTC. A time with an offset is converted, one without is taken as UTC, and a
number is read as Unix time in seconds, milliseconds, microseconds or nanoseconds by its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from aegis_core.intake.columns import FILE_COLUMNS
from aegis_core.intake.refusals import LONGEST_RAW
from aegis_core.intake.samples import Form
from aegis_core.intake.times import own_offset
from aegis_core.schema import (
    ANSWERS,
    ATTEMPT,
    COLUMNS,
    CONTENT,
    CONTROL,
    DAMAGED,
    END,
    EPOCH,
    HALF_PLACE,
    ISO_TIME,
    LABEL_COLUMNS,
    LONGEST_TEXT,
    NUMBER,
    RETRY_DAYS,
    TEXT,
    TIME,
    TRUTH,
    Column,
)
from aegis_core.store.connection import literal, quoted
from aegis_core.store.meaning import kept_since
from aegis_core.store.session import Session
from aegis_core.units.words import LABEL_WORDS, folded_in_sql, paid_in_sql

THERE: Final = "already there"
"""The reason of a staged row with which nothing is wrong, but it is stored already."""
REPEATED: Final = "transaction_id is known with other content"

_FAULTS: Final = {
    "missing": "NOT {0.name}_given",
    "time": "{0.name}_given AND {0.name} IS NULL",
    "years": f"NOT ({{0.name}} > TIMESTAMP '{EPOCH:%Y-%m-%d}'"
    f" AND {{0.name}} < TIMESTAMP '{END:%Y-%m-%d}')",
    "number": "{0.name}_given AND NOT isfinite(coalesce({0.name}, 'inf'::DOUBLE))",
    "low": "{0.name} < {0.low}",
    "high": "{0.name} > {0.high}",
    "least": "{0.name} <> 0 AND abs({0.name}) < {0.least}",
    "control": "regexp_matches({0.name}, '[{1}]')",
    "longest": f"length({{0.name}}) > {LONGEST_TEXT}",
    "damaged": "regexp_matches({0.name}, '{2}')",
    "truth": "{0.name}_given AND {0.name} IS NULL",
}
"""SQL for each fault of `Column.faults`; that a text is none cannot happen to a file."""


def _checks(columns: Sequence[Column]) -> list[tuple[str, str]]:
    return [
        (f"{column.name} {said}", _FAULTS[fault].format(column, CONTROL, DAMAGED))
        for column in columns
        for fault, said in column.faults.items()
        if fault in _FAULTS and not (fault == "missing" and column.made)
    ]


CHECKS: Final = (
    *_checks(COLUMNS),
    (HALF_PLACE, "lat_given <> lon_given"),
    *_checks([column for column in LABEL_COLUMNS if column.kind == TEXT]),
)
"""(reason, SQL condition on the parsed row); the first condition that holds rejects the row. What a
label says cannot: where that is neither yes nor no, or its date is none, there is no label."""
LABEL_CHECKS: Final = _checks(
    [
        replace(column, required=column.name in ("transaction_id", "is_fraud"), made=False)
        for column in (COLUMNS[0], *LABEL_COLUMNS)
    ]
)
"""`CHECKS` of a file that has labels alone."""
NO_SUCH: Final = "there is no transaction of this id"

_BROKEN_LINES = {
    "MISSING COLUMNS": "line has too few columns",
    "TOO MANY COLUMNS": "line has too many columns",
    "UNQUOTED VALUE": "line has a stray quotation mark",
    "INVALID ENCODING": "line is not UTF-8",
    "LINE SIZE OVER MAXIMUM": "line is too long",
}
_IS_CODE: Final = re.compile("mcc|category.?code", re.IGNORECASE)
NO_FORMS: Final[Mapping[str, Form]] = {}
_NO_DATE: Final = " OR ".join(
    f"coalesce({_FAULTS[fault].format(FILE_COLUMNS['known_at'])}, false)"
    for fault in ("time", "years")
).join("()")

GOOD: Final = f"coalesce(s.reason, {literal(THERE)}) = {literal(THERE)}"
"""SQL condition on a staged row `s`: nothing is wrong with it, new or already there."""

_LATER = f"s.ts BETWEEN o.ts AND o.ts + INTERVAL {RETRY_DAYS} DAY"
# With another status it is the same one in a later state, see `keeping.keep_states`; what was
# pending may have another time by then (`serving.rows.settles`).
_EQUAL = {name: f"s.{name} IS NOT DISTINCT FROM o.{name}" for name in CONTENT} | {
    "status": "(s.status IS NOT NULL OR o.status IS NULL)",
    "ts": f"(s.ts = o.ts OR (o.status = 'pending' AND s.status <> 'pending' AND {_LATER}))",
}
_SAME = " AND ".join(_EQUAL.values())
# Older versions kept nothing of a column that came later.
_SAME_BUT_LATER = " AND ".join(
    f"({_EQUAL[column.name]}"
    + (
        f" OR (o.{column.name} IS NULL AND o.seq < {{since[{column.since}]}}))"
        if column.since
        else ")"
    )
    for column in COLUMNS
    if not column.made
)
_BECOMES = " AND ".join(
    [
        f"{paid_in_sql('s')} AND NOT {paid_in_sql('o')}",
        _LATER,
        *(_EQUAL[name] for name in ATTEMPT),
    ]
)
# A column that came later is no part of an id, which may have been made before it.
_MADE_OF = ", ".join(
    f"coalesce({column.name}::VARCHAR, '')"
    for column in COLUMNS
    if not column.made and not column.since
)


def stage(
    session: Session,
    relation: str,
    names: Sequence[str],
    columns: Mapping[str, str],
    source: str,
    tell: Callable[[float], object] | None,
    checks: Sequence[tuple[str, str]] = CHECKS,
    words: Mapping[str, str] = LABEL_WORDS,
    forms: Mapping[str, Form] = NO_FORMS,
) -> None:
    """Parse and check the rows of `relation`, adding them to the temporary table `aegis_staged`.

    `words` says what each word of a label means, see `columns.label_words`; `forms` how columns
    are read that are not in the plain form.
    """
    kinds = kinds_of(session, relation, names)
    session.execute("DROP TABLE IF EXISTS aegis_broken")
    session.execute("DROP TABLE IF EXISTS aegis_scans")
    staged = ", ".join(f"{name} {column.kind}" for name, column in FILE_COLUMNS.items())
    session.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS aegis_staged ({staged}, utc_offset INTEGER, "
        "clock VARCHAR, unread VARCHAR, source VARCHAR, reason VARCHAR, raw VARCHAR)"
    )
    parsed = [
        part
        for column in FILE_COLUMNS.values()
        for part in _parsed(column, columns.get(column.name), kinds, words, forms.get(column.name))
    ]
    failing = [(f"{name} cannot be computed", form.fails)
               for name, form in forms.items() if form.fails]  # fmt: skip
    reason = " ".join(
        f"WHEN {condition} THEN {literal(name)}" for name, condition in [*failing, *checks]
    )
    raw = ", ".join(f"{literal(name)}, {_as_json(name, kind)}" for name, kind in kinds.items())
    offset, clock = _clock(columns.get("ts"), kinds, forms.get("ts"))
    read = "CASE WHEN unread IS NULL THEN is_fraud END"
    labelled = [read if name == "is_fraud" else name for name in FILE_COLUMNS]
    no_label = ", ".join(literal(w) for w, of in words.items() if of == "unknown")
    first = next_row(session)
    insert = f"""
        INSERT INTO aegis_staged
        WITH parsed AS (
            SELECT {", ".join(parsed)}, {offset} AS utc_offset, {clock} AS clock, "aegis row"
            FROM {relation} AS "aegis row"({", ".join(map(quoted, names))})
        ), checked AS (
            SELECT *, CASE {reason} END AS reason, left(CASE
                WHEN is_fraud_given AND is_fraud IS NULL
                    AND NOT list_contains([{no_label}], {folded_in_sql("is_fraud_said")})
                    THEN is_fraud_said
                WHEN is_fraud_given AND known_at_given AND {_NO_DATE} THEN known_at_said
                END, 40) AS unread
            FROM parsed
        )
        SELECT {", ".join(labelled)}, utc_offset, clock, unread, {literal(source)}, reason,
            CASE WHEN reason IS NOT NULL THEN json_object({raw})::VARCHAR END
        FROM checked"""
    if tell:
        session.watched(insert, None, tell)
    else:
        session.execute(insert)
    _make_ids(session, first)
    if "read_csv(" in relation:
        reasons = " ".join(f"WHEN {literal(k)} THEN {literal(v)}" for k, v in _BROKEN_LINES.items())
        session.execute(
            f"""INSERT INTO aegis_staged (source, reason, raw)
            SELECT {literal(source)},
                CASE any_value(error_type::VARCHAR) {reasons} ELSE 'line is not CSV' END,
                to_json(left(any_value(csv_line), {LONGEST_RAW}))::VARCHAR
            FROM aegis_broken WHERE regexp_matches(csv_line, '\\S') GROUP BY line ORDER BY line"""
        )


def stage_refused(session: Session, relation: str, source: str) -> None:
    """Add what was refused before: rows of `relation` with `reason` and `raw`."""
    session.execute(
        "INSERT INTO aegis_staged (source, reason, raw) "
        f"SELECT {literal(source)}, reason, raw FROM {relation}"
    )


def _make_ids(session: Session, first: int) -> None:
    """Give rows without an id one made of their content, the n-th equal one of a file the n-th.

    So two files that overlap bring a payment once. Versions before counted the place in the file;
    an id that is stored like that stays.
    """
    made = f"'row-' || md5(concat_ws(chr(31), {_MADE_OF}, {{}}))[:20]"
    place = f"rowid - greatest({first}, (SELECT min(rowid) FROM aegis_staged))"
    nth = f"'n', row_number() OVER (PARTITION BY {_MADE_OF} ORDER BY rowid)"
    session.execute(
        f"""UPDATE aegis_staged AS s SET transaction_id = m.id FROM (
            SELECT r, coalesce(t.transaction_id, fresh) AS id FROM (
                SELECT rowid AS r, {made.format(place)} AS placed, {made.format(nth)} AS fresh
                FROM aegis_staged WHERE transaction_id IS NULL AND reason IS NULL
            ) LEFT JOIN transactions t ON t.transaction_id = placed
        ) m WHERE s.rowid = m.r"""
    )


def kinds_of(session: Session, relation: str, names: Sequence[str]) -> dict[str, str]:
    """The type of each column of a file."""
    described = session.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return {name: row[1] for name, row in zip(names, described, strict=True)}


def next_row(session: Session) -> int:
    """A number of the next staged row, beyond those of all that are staged.

    DuckDB does not begin at 0 where a table is made in the same transaction.
    """
    there = "SELECT 1 FROM duckdb_tables() WHERE temporary AND table_name = 'aegis_staged'"
    last = "SELECT coalesce(max(rowid) + 1, 0) FROM aegis_staged"
    return session.value(last) if session.value(there) else 0


def _parsed(
    wanted: Column,
    column: str | None,
    kinds: Mapping[str, str],
    words: Mapping[str, str],
    form: Form | None,
) -> list[str]:
    """SQL for one canonical column and, since a check may ask, for whether it has any value."""
    name = wanted.name
    if column is None:
        nothing = [f"NULL::{wanted.kind} AS {name}", f"false AS {name}_given"]
        return [*nothing, f"NULL::VARCHAR AS {name}_said"] if wanted in LABEL_COLUMNS else nothing
    if form:
        raw, kind = f"({form.text})", "VARCHAR"
    else:
        raw, kind = f'"aegis row".{quoted(column)}', kinds[column]
    if kind in ("FLOAT", "DOUBLE"):  # NaN is how pandas says missing, except of an amount
        raw = raw if name == "amount" else f"CASE WHEN NOT isnan({raw}) THEN {raw} END"
    elif not _is_number(kind) and not kind.startswith(("TIMESTAMP", "DATE", "BOOLEAN")):
        raw, kind = f"nullif(trim({raw}::VARCHAR), '')", "VARCHAR"
    # pandas makes floats of whole numbers with gaps: 596.0 is customer 596
    whole = f"TRY_CAST(CASE WHEN {raw} = trunc({raw}) THEN {raw} END AS BIGINT)"
    text = f"coalesce({whole}::VARCHAR, ({raw})::VARCHAR)"
    if form and form.value:
        value = form.value if form.ahead == "0" else f"{form.value} - to_minutes({form.ahead})"
    elif wanted.kind == TIME:
        value = _time(raw, kind)
    elif wanted.kind == TRUTH:
        text = text if _is_number(kind) else f"({raw})::VARCHAR"
        yes, no = (
            ", ".join(literal(w) for w, meant in words.items() if meant == said) for said in ANSWERS
        )
        # DuckDB makes a join of a long IN, after which rows are no longer in the order of the file
        value = f"CASE WHEN list_contains([{yes}], {folded_in_sql(text)}) THEN true"
        value += f" WHEN list_contains([{no}], {folded_in_sql(text)}) THEN false END"
    elif wanted.kind == NUMBER and kind == "BOOLEAN":
        value = "NULL::DOUBLE"
    elif wanted.kind == NUMBER:
        # by way of text a FLOAT of 96.45 stays 96.45
        value = f"TRY_CAST({f'({raw})::VARCHAR' if kind == 'FLOAT' else raw} AS DOUBLE)"
    elif kind in ("FLOAT", "DOUBLE"):
        value = text
    else:
        value = f"({raw})::VARCHAR"
    if name == "category" and _IS_CODE.search(column):  # 742 was 0742 until it was a number
        value = (
            f"CASE WHEN regexp_full_match({value}, '[0-9]+') AND length({value}) < 4 "
            f"THEN lpad({value}, 4, '0') ELSE {value} END"
        )
    parts = [f"{value} AS {name}", f"{raw} IS NOT NULL AS {name}_given"]
    said = text if wanted.kind == TRUTH else f"({raw})::VARCHAR"
    return [*parts, f"{said} AS {name}_said"] if wanted in LABEL_COLUMNS else parts


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


def _clock(column: str | None, kinds: Mapping[str, str], form: Form | None) -> tuple[str, str]:
    """SQL for the minutes that a time says it is ahead of UTC, and for how it says so, if it does.

    That of UTC itself says nothing of where somebody was.
    """
    nothing = "NULL::INTEGER", "NULL::VARCHAR"
    if column is None:
        return nothing
    if form and form.value:
        offset, date = f"nullif({form.ahead}, 0)", form.dated
    elif form or kinds[column] == "VARCHAR":
        raw = form.text if form else f'trim("aegis row".{quoted(column)})'
        offset = f"nullif({own_offset(raw)}, 0)"
        date = rf"regexp_full_match({raw}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}')"
    else:
        return ("NULL::INTEGER", "'date'") if kinds[column] == "DATE" else nothing
    return offset, f"CASE WHEN {date} THEN 'date' WHEN {offset} <> 0 THEN 'sent' END"


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
    return f"left({column}, {LONGEST_RAW})" if kind == "VARCHAR" else column


def mark_repeated(session: Session, there: str = "transactions") -> None:
    """Mark staged rows whose id is stored or came earlier; what is kept is as it was read.

    `there` is SQL for what is stored, see `meaning.settle_links`.

    The first payment of an id that came as none before, such as a declined try, is new
    (`serving.rows.becomes_payment`).
    """
    raw = "json_object(" + ", ".join(f"{literal(n)}, s.{n}" for n in FILE_COLUMNS) + ")::VARCHAR"
    first = """SELECT min(rowid) AS first FROM aegis_staged s WHERE reason IS NULL AND {}
        GROUP BY transaction_id HAVING count(*) > 1"""
    staged = f"(SELECT r.first, f.* FROM aegis_staged f JOIN ({first}) r ON f.rowid = r.first)"
    same_but_later = _SAME_BUT_LATER.format(since=kept_since(session))
    paid = paid_in_sql("s")
    tried = f"SELECT count(*) FROM aegis_staged s WHERE reason IS NULL AND NOT {paid}"
    stored = session.value("SELECT count(*) FROM transactions") > 0
    for older, same, where in (
        *([(there, same_but_later, same_but_later)] * stored),
        *([(there, "false", "true")] * stored),  # an id may be stored twice
        (staged.format("true"), _SAME, "s.rowid > o.first"),
        *([(staged.format(paid), _SAME, "s.rowid > o.first")] if session.value(tried) else []),
    ):
        session.execute(
            f"""UPDATE aegis_staged AS s SET
                reason = CASE WHEN {same} THEN {literal(THERE)} ELSE {literal(REPEATED)} END,
                raw = CASE WHEN {same} THEN NULL ELSE {raw} END
            FROM {older} o WHERE s.transaction_id = o.transaction_id AND s.reason IS NULL
                AND ({where}) AND NOT ({_BECOMES})"""
        )


def mark_unknown(session: Session, names: Sequence[str]) -> None:
    """Mark staged labels, of the columns `names`, that are of no transaction."""
    raw = "json_object(" + ", ".join(f"{literal(n)}, s.{n}" for n in names) + ")::VARCHAR"
    session.execute(
        f"""UPDATE aegis_staged AS s SET reason = {literal(NO_SUCH)}, raw = {raw}
        WHERE reason IS NULL AND transaction_id NOT IN (SELECT transaction_id FROM transactions)"""
    )


def unread(session: Session) -> dict[str, int]:
    """What labels said that means nothing, in how many rows, the most frequent first."""
    found = session.rows(
        "SELECT unread, count(*) AS n FROM aegis_staged WHERE unread IS NOT NULL GROUP BY ALL "
        "ORDER BY n DESC, unread"
    )
    return {row["unread"]: row["n"] for row in found}


def outcome(session: Session) -> tuple[int, int, dict[str, int]]:
    """How many staged rows are new, already there, and rejected for each reason."""
    found = session.rows(
        "SELECT reason, count(*) AS n FROM aegis_staged GROUP BY reason ORDER BY n DESC, reason"
    )
    counts = {row["reason"]: int(row["n"]) for row in found}
    return counts.pop(None, 0), counts.pop(THERE, 0), counts
