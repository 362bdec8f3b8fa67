"""Staged rows go into the tables: transactions, later states of them, labels, and what is refused.

What passed goes to `transactions` and `labels`; what did not goes to `rejected`, with its reason
and the row as it came, so that nothing is dropped silently. A row that is already stored is
counted and left alone.
"""

from __future__ import annotations

from collections.abc import Callable

from aegis_core.intake.refusals import MAY_BE_CARD, USED_UP, masked
from aegis_core.intake.staging import THERE
from aegis_core.machine import utc_now
from aegis_core.schema import ANSWERED, LATER_STATES, MEANT, TRANSACTION_COLUMNS, held_labels
from aegis_core.store.connection import literal
from aegis_core.store.meaning import Meaning, kept_since
from aegis_core.store.session import Session


def insert_transactions(
    session: Session, meaning: Meaning, tell: Callable[[float], object]
) -> None:
    """Store the staged rows that are good and new, in the order of their times."""
    given = [name for name in TRANSACTION_COLUMNS if name != "seq" and name not in MEANT]
    fresh = "(SELECT *, rowid AS place FROM aegis_staged WHERE reason IS NULL)"
    meant, joins = meaning.prepared(session, fresh)
    # a place counted beside the rows: a window over whole rows would run on one core, and so would
    # what follows one that numbers rows as they come
    insert = f"""
        INSERT INTO transactions (seq, {", ".join([*given, *MEANT])})
        SELECT o.seq, {", ".join(f"s.{name}" for name in given)}, {meant} FROM {fresh} s
            JOIN (SELECT rowid AS place,
                {session.next_seq()} + row_number() OVER (ORDER BY ts, rowid) - 1 AS seq
                FROM aegis_staged WHERE reason IS NULL) o USING (place) {joins}
        ORDER BY o.seq"""
    session.watched(insert, None, tell)


def keep_states(session: Session) -> int:
    """Keep what staged rows tell of the later states of transactions that are there; how many.

    A state that it had before is no later one. Of what an older version kept no state of, the
    first one that is told is none either. Where an id is stored twice it is of the payment, unless
    that came after it.
    """
    told = session.execute(
        f"""INSERT INTO states
        WITH told AS (
            SELECT s.rowid AS place, t.seq, s.transaction_id, s.status, s.source,
                list_contains({LATER_STATES}, s.status) AS known
            FROM aegis_staged s JOIN transactions t USING (transaction_id)
            WHERE s.reason = {literal(THERE)} AND s.status IS NOT NULL
                AND s.status IS DISTINCT FROM t.status
                AND NOT (t.status IS NULL AND t.seq < {kept_since(session)[5]}))
        SELECT if(max(p.rowid) > min(place), min(told.seq), max(told.seq)), told.transaction_id,
            told.status, any_value(told.source), ?
        FROM told
            LEFT JOIN aegis_staged p ON p.transaction_id = told.transaction_id AND p.reason IS NULL
            LEFT JOIN transactions o
                ON o.transaction_id = told.transaction_id AND o.status = told.status
        GROUP BY told.transaction_id, told.status
        HAVING count(o.seq) = 0 AND NOT coalesce(bool_or(known), false) ORDER BY min(place)""",
        [utc_now()],
    ).fetchall()
    return int(told[0][0])


def insert_labels(
    session: Session, relation: str, known_at: str, now: str, after_seq: int | None
) -> tuple[int, int, int]:
    """Store the labels of a relation that say something new; nothing that was stored is changed.

    A label with a date is new unless the same is there with that date; of the others the last one
    of a transaction is, where it differs from the last one of files. It then holds from `now` on.

    Parameters
    ----------
    relation :
        `transaction_id`, `ts`, `place` (its order), `is_fraud`, `scenario`, `known_at`, `source`.
    known_at, now : SQL of the time a first label without a date, or a changed one, is known from.
    after_seq : the last transaction that had arrived before; None where a service says it later.

    Returns
    -------
    How many there are, how many of them replace another one, and how many do not hold since an
    analyst answered otherwise.
    """
    of_files = f"l.source IS DISTINCT FROM {literal(ANSWERED)}"
    session.execute(
        f"""CREATE TEMP TABLE aegis_labels AS
        WITH told AS (SELECT * FROM ({relation}) WHERE is_fraud IS NOT NULL)
        SELECT s.transaction_id, s.is_fraud, CASE WHEN s.is_fraud THEN s.scenario END AS scenario,
            CASE WHEN s.known_at IS NOT NULL THEN greatest(s.known_at, s.ts)
                WHEN b.is_fraud IS NULL THEN {known_at}
                ELSE greatest({known_at}, {now}) END AS known_at, s.source,
            coalesce(b.is_fraud <> s.is_fraud, false) AS changed, s.place,
            s.known_at IS NOT NULL AS dated
        FROM (FROM told WHERE place IN (SELECT max(place) FROM told
            GROUP BY transaction_id, known_at, if(known_at IS NULL, NULL, is_fraud))) s
        LEFT JOIN (SELECT transaction_id, arg_max(is_fraud, rowid) AS is_fraud
            FROM labels l WHERE {of_files} GROUP BY 1) b USING (transaction_id)
        WHERE s.known_at IS NOT NULL OR b.is_fraud IS DISTINCT FROM s.is_fraud"""
    )
    session.execute(
        f"""DELETE FROM aegis_labels s USING labels l
        WHERE {of_files} AND s.dated AND s.transaction_id = l.transaction_id
            AND s.is_fraud = l.is_fraud AND s.known_at = l.known_at"""
    )
    names = "transaction_id, is_fraud, scenario, known_at, source"
    session.execute(
        f"INSERT INTO labels ({names}, after_seq) SELECT {names}, "
        f"{'NULL' if after_seq is None else after_seq} FROM aegis_labels ORDER BY known_at, place"
    )
    (told,) = session.rows(
        "SELECT count(*) AS n, count(*) FILTER (changed) AS changed FROM aegis_labels"
    )
    answered = f"FROM labels WHERE source = {literal(ANSWERED)}"
    under = session.value(answered + " LIMIT 1") and session.value(
        f"""SELECT count(*) FROM aegis_labels s JOIN ({held_labels()}) l USING (transaction_id)
        WHERE l.source = {literal(ANSWERED)} AND l.is_fraud <> s.is_fraud"""
    )
    session.execute("DROP TABLE aegis_labels")
    return told["n"], told["changed"], under or 0


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
            FROM aegis_staged WHERE reason <> {literal(THERE)}
        ), stored AS (
            SELECT source, raw, reason, count(*) AS copies FROM rejected GROUP BY ALL
        ), today AS (
            SELECT source, sum(strlen(raw)) AS spent, count(*) FILTER (reason = {said}) > 0 AS said
            FROM rejected WHERE received_at >= date_trunc('day', now()::TIMESTAMP) GROUP BY source
        )
        SELECT row_no, source, raw, reason, coalesce(said, false) AS said, NOT coalesce(said, false)
            AND coalesce(spent, 0) + sum(coalesce(strlen(raw), 0)) OVER
            (PARTITION BY source ORDER BY row_no) <= {round(min(most_mb, 1e9) * 1e6)} AS fits
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
    left = session.value("SELECT count(*) FILTER (NOT fits) FROM aegis_refused")
    session.execute("DROP TABLE aegis_refused")
    return int(left)


def _mask(session: Session) -> None:
    """Mask card numbers in what is about to be kept, some rows at a time."""
    import pyarrow as pa

    last = -1
    while some := session.rows(
        f"""SELECT rowid AS row_no, raw FROM aegis_staged
        WHERE reason <> {literal(THERE)} AND rowid > {last}
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
