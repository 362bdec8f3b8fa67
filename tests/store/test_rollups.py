"""The rollups equal the full query, whoever wrote the verdicts and however they came."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_core.schema import ROLLED_UP
from aegis_core.store import Store, connect, rollups
from aegis_core.store.session import Session

NOON = dt.datetime(2026, 4, 1, 12)
ROWS = "FROM rollups ORDER BY minute, decision, factor, category, currency"


def write(session: Session, first: int, n: int, *, at: dt.datetime = NOON) -> None:
    """Transactions `first` to `first + n - 1`, one a second, with every kind of missing value."""
    session.execute(
        """
        INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount, currency,
          merchant_id, category, channel, lat, lon, source)
        SELECT seq, 't' || seq, 'c', now()::TIMESTAMP, 0.01 + seq % 7 / 10,
          CASE seq % 4 WHEN 0 THEN 'USD' WHEN 1 THEN NULL ELSE 'EUR' END, NULL,
          CASE seq % 3 WHEN 0 THEN NULL ELSE 'a"; DROP TABLE rollups; --' END,
          NULL, NULL, NULL, 'test' FROM range(?, ?) r(seq)""",
        [first, first + n],
    )
    session.execute(
        """
        INSERT INTO verdicts SELECT seq, transaction_id, 'v1', 0, 0,
          CASE WHEN seq % 5 = 0 THEN 'block' WHEN seq % 5 = 1 THEN 'review' ELSE 'approve' END,
          CASE WHEN seq % 10 = 0
            THEN [{'factor': 'hour', 'code': '', 'text': '', 'contribution': 1}]
            WHEN seq % 5 = 0
            THEN [{'factor': 'amount', 'code': '', 'text': '', 'contribution': 1},
                  {'factor': 'hour', 'code': '', 'text': '', 'contribution': 1}]
            WHEN seq % 2 = 0 THEN [] END,
          NULL, NULL, NULL, ?::TIMESTAMP + to_seconds(seq), NULL, NULL, NULL, NULL, NULL
        FROM transactions WHERE seq >= ? AND seq < ?""",
        [at, first, first + n],
    )


def truth(session: Session) -> list[tuple[object, ...]]:
    return session.execute(f"SELECT * FROM ({ROLLED_UP} GROUP BY ALL) AS r ORDER BY ALL").fetchall()


def kept(session: Session) -> list[tuple[object, ...]]:
    return session.execute(f"SELECT * {ROWS}").fetchall()


@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6), jump_s=st.integers(-300, 300))
@settings(max_examples=8, deadline=None)
def test_what_is_added_commit_by_commit_equals_the_full_query(
    sizes: list[int], jump_s: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, first = connect(tmp_path_factory.mktemp("r") / "a.duckdb"), 0
    for i, n in enumerate(sizes):
        with store.writing(checkpoint=False) as session:
            write(session, first, n, at=NOON + dt.timedelta(seconds=i * jump_s))
            rollups.add(session, first, first + n - 1)
        first += n
    with store.writing() as session:
        assert kept(session) == truth(session)
        assert rollups.missing(session) == 0


def test_a_failed_commit_counts_nothing(store: Store) -> None:
    with store.writing() as session:
        write(session, 0, 10)
        rollups.add(session, 0, 9)

    def half() -> None:
        with store.writing() as session:
            write(session, 10, 10)
            rollups.add(session, 10, 19)
            raise RuntimeError("the disk")

    with pytest.raises(RuntimeError, match="the disk"):
        half()
    with store.reading() as session:
        assert kept(session) == truth(session)


def test_an_older_database_gets_its_rollups_when_it_is_opened(tmp_path: Path) -> None:
    store = connect(tmp_path / "old.duckdb")
    with store.writing() as session:
        write(session, 0, 200)
        for table in ("rollups", "service_stats", "proofs"):
            session.execute(f"DROP TABLE {table}")
        session.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    with connect(store.path).reading() as session:
        assert kept(session) == truth(session)
        assert rollups.missing(session) == 0


def test_what_is_not_counted_is_noticed(store: Store) -> None:
    with store.writing() as session:
        write(session, 0, 30)
        rollups.add(session, 0, 19)
        assert rollups.missing(session) == 10
        rollups.add(session, 20, 29)
        assert rollups.missing(session) == 0
