"""The owner of the database: one open file, one writer, readers beside it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from aegis_core.errors import ColumnError, InputError, StoreBusy, StoreError
from aegis_core.store import Store, connect

NOON = datetime(2026, 3, 1, 12)


def rows(n: int, first: int = 0) -> pa.Table:
    """Transactions `first` … `first + n - 1`, a minute apart."""
    number = range(first, first + n)
    return pa.table(
        {
            "seq": list(number),
            "transaction_id": [f"t{i}" for i in number],
            "customer_id": [f"c{i % 3}" for i in number],
            "ts": pa.array([NOON + timedelta(minutes=i) for i in number], pa.timestamp("us")),
            "amount": [float(i + 1) for i in number],
        }
    )


def count(store: Store) -> int:
    return int(store.rows("SELECT count(*) AS n FROM transactions")[0]["n"])


@pytest.fixture
def owned(store: Store) -> Iterator[Store]:
    """A store on six transactions that this process owns."""
    with store.owned():
        with store.writing() as session:
            session.append("transactions", rows(6))
        yield store


# --- the owner itself ------------------------------------------------------------------------


def test_what_the_owner_wrote_is_in_the_file_afterwards(store: Store) -> None:
    with store.owned():
        with store.writing() as session:
            assert session.next_seq() == 0
            session.append("transactions", rows(6))
        assert count(store) == 6
    assert not store.path.with_name(store.path.name + ".wal").exists()
    assert count(store) == 6
    with store.owned():
        assert count(store) == 6


def test_a_writing_that_fails_leaves_nothing_and_the_next_one_works(owned: Store) -> None:
    def interrupted() -> None:
        with owned.writing() as session:
            session.append("transactions", rows(1, first=6))
            raise KeyboardInterrupt

    def broken() -> None:
        with owned.writing() as session:
            session.append("transactions", rows(1, first=6))
            session.execute("INSERT INTO transactions (seq) VALUES (7)")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(StoreError, match="NOT NULL"):
        broken()
    with owned.writing() as session, pytest.raises(ColumnError, match="Did you mean amount"):
        session.append("transactions", pa.table({"amout": [1.0]}))
    with owned.writing() as session:
        session.append("transactions", rows(1, first=session.next_seq()))
    assert count(owned) == 7


def test_readings_go_on_beside_a_writing_and_see_what_was_committed(owned: Store) -> None:
    seen: list[int] = []

    def read() -> None:
        seen.append(count(owned))

    with owned.writing() as session:
        session.append("transactions", rows(1, first=6))
        assert count(owned) == 7
        thread = threading.Thread(target=read)
        thread.start()
        thread.join(5)
        assert seen == [6]
    assert count(owned) == 7


def test_the_statements_of_a_reading_see_the_same_state(owned: Store) -> None:
    def write() -> None:
        with owned.writing() as session:
            session.append("transactions", rows(1, first=6))

    sql = "SELECT count(*) AS n FROM transactions"
    with owned.reading() as session:
        before = session.rows(sql)
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(5)
        assert session.rows(sql) == before == [{"n": 6}]
    assert count(owned) == 7


def test_writings_of_threads_follow_each_other(owned: Store) -> None:
    def write() -> None:
        for _ in range(10):
            with owned.writing() as session:
                session.append("transactions", rows(1, first=session.next_seq()))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = owned.rows("SELECT count(*) AS n, max(seq) AS last FROM transactions")
    assert found == [{"n": 46, "last": 45}]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO labels VALUES ('t1', true, NULL, now(), NULL, -1)",
        "WITH a AS (SELECT 1) INSERT INTO metrics SELECT 'r', 'n', 's', 1 FROM a",
        "SELECT 1; DELETE FROM transactions",
        "COMMIT; DELETE FROM transactions",
        "ROLLBACK",
        "CHECKPOINT",
        "CREATE TEMP TABLE x (a INT)",
        "ATTACH ':memory:' AS other",
        "SET enable_external_access = true",
        "COPY transactions TO '{file}'",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM secret_frame",
    ],
)
def test_a_reading_of_the_owner_only_reads_and_reaches_nothing_else(
    owned: Store, tmp_path: Path, sql: str
) -> None:
    secret, file = tmp_path / "secret.csv", tmp_path / "out.csv"
    secret.write_text("a,b\n1,2\n")
    secret_frame = pa.table({"a": [1]})
    with pytest.raises((InputError, StoreError)):
        owned.query(sql.format(secret=secret, file=file))
    assert not file.exists()
    assert count(owned) == 6
    assert len(secret_frame) == 1


def test_parameters_streams_and_progress_work_for_the_owner(owned: Store) -> None:
    assert owned.rows("SELECT seq FROM transactions WHERE seq > ?", [4]) == [{"seq": 5}]
    with owned.reading() as session:
        names, streamed = session.stream("SELECT seq FROM transactions ORDER BY seq")
        assert (names, list(streamed)) == (["seq"], [(i,) for i in range(6)])
    told: list[float] = []
    with owned.writing() as session:
        session.watched("CREATE TEMP TABLE x AS SELECT * FROM range(10)", None, told.append)
    assert told[-1] == 1.0


def test_a_second_owner_is_refused_at_once(owned: Store) -> None:
    with pytest.raises(StoreError, match="owned by this store already"), owned.owned():
        pass
    with pytest.raises(StoreBusy, match="in use"), connect(owned.path).owned(wait_s=0.1):
        pass
    code = "import sys\nfrom aegis_core.store import connect\nwith connect(sys.argv[1]).owned(): 0"
    other = subprocess.run(
        [sys.executable, "-c", code, str(owned.path)], capture_output=True, text=True, check=False
    )
    assert "StoreBusy" in other.stderr.splitlines()[-1]
    assert count(owned) == 6


def test_an_owner_that_ends_ends_the_readings_that_go_on(store: Store) -> None:
    raised: list[Exception] = []
    started = threading.Event()

    def read() -> None:
        try:
            with store.reading() as session:
                started.set()
                session.rows("SELECT count(*) FROM range(100000000) a, range(100000000) b")
        except StoreError as e:
            raised.append(e)

    with store.owned():
        thread = threading.Thread(target=read)
        thread.start()
        started.wait(5)
    thread.join(5)
    assert len(raised) == 1
    assert store.rows("SELECT 1 AS a") == [{"a": 1}]
