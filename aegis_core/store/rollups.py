"""Verdicts counted by minute, so that a month costs as much to ask for as a minute does.

A row of `rollups` stands for the verdicts that were given in one minute (`scored_at`) with one
decision, one factor (of the first reason; "" without one), one category and one base currency (""
where none is known). It has their number, the sum of their amounts in that currency, and the first
and last `seq` among them, which tell where in the tables to look for the verdicts themselves.
Amounts are added as decimals with six places, so that the sum does not depend on the order: the
rollups are equal to the full query, at any time.

Whoever writes verdicts calls `add` in the same transaction. A database of an older version gets its
rollups when it is brought up to date.
"""

from __future__ import annotations

from aegis_core.schema import ROLLED_UP
from aegis_core.store.session import Params, Session

_ADD = f"""
    INSERT INTO rollups {ROLLED_UP}
    WHERE v.seq BETWEEN {{0}} AND {{1}} AND t.seq BETWEEN {{0}} AND {{1}} GROUP BY ALL
    ON CONFLICT DO UPDATE SET n = rollups.n + excluded.n,
      amount = rollups.amount + excluded.amount,
      first_seq = least(rollups.first_seq, excluded.first_seq),
      last_seq = greatest(rollups.last_seq, excluded.last_seq)"""

_TAKE = f"""
    UPDATE rollups r SET n = r.n - gone.n, amount = r.amount - gone.amount
    FROM ({ROLLED_UP} WHERE {{0}} GROUP BY ALL) gone
    WHERE (r.minute, r.decision, r.factor, r.category, r.currency)
      = (gone.minute, gone.decision, gone.factor, gone.category, gone.currency)"""


def add(session: Session, first_seq: int, last_seq: int) -> None:
    """Count the verdicts from `first_seq` to `last_seq`, which this transaction writes.

    Each verdict is to be counted once; both ends are included.
    """
    session.execute(_ADD.format(int(first_seq), int(last_seq)))


def take(session: Session, where: str, params: Params) -> None:
    """Count some verdicts no more, which this transaction deletes: those of transactions `t`."""
    session.execute(_TAKE.format(where), params)
    session.execute("DELETE FROM rollups WHERE n = 0")


def missing(session: Session) -> int:
    """How many verdicts the rollups do not count; 0 says that they are whole."""
    counted = session.value("SELECT coalesce(sum(n), 0)::BIGINT FROM rollups")
    return int(session.value("SELECT count(*) FROM verdicts") - counted)
