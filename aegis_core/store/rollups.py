"""Verdicts counted by minute, so that a month costs as much to ask for as a minute does.

A row of `rollups` stands for the verdicts that were given in one minute (`scored_at`) with one
decision, one factor (of the first reason; "" without one), one category and one currency ("" where
none is known). It has their number, the sum of their amounts, and the first and last `seq` among
them, which tell where in the tables to look for the verdicts themselves. Amounts are added as
decimals with six places, so that the sum does not depend on the order: the rollups are equal to the
full query, at any time.

Whoever writes verdicts calls `add` in the same transaction. A database of an older version gets its
rollups when it is brought up to date.
"""

from __future__ import annotations

from aegis_core.schema import ROLLED_UP
from aegis_core.store.session import Session

_ADD = f"""
    INSERT INTO rollups {ROLLED_UP}
    WHERE v.seq BETWEEN {{0}} AND {{1}} AND t.seq BETWEEN {{0}} AND {{1}} GROUP BY ALL
    ON CONFLICT DO UPDATE SET n = rollups.n + excluded.n,
      amount = rollups.amount + excluded.amount,
      first_seq = least(rollups.first_seq, excluded.first_seq),
      last_seq = greatest(rollups.last_seq, excluded.last_seq)"""


def add(session: Session, first_seq: int, last_seq: int) -> None:
    """Count the verdicts from `first_seq` to `last_seq`, which this transaction writes.

    Each verdict is to be counted once; both ends are included.
    """
    session.execute(_ADD.format(int(first_seq), int(last_seq)))


def missing(session: Session) -> int:
    """How many verdicts the rollups do not count; 0 says that they are whole."""
    counted = _one(session, "SELECT coalesce(sum(n), 0)::BIGINT AS n FROM rollups")
    return _one(session, "SELECT count(*) AS n FROM verdicts") - counted


def _one(session: Session, sql: str) -> int:
    return int(session.numpy(sql)["n"][0])
