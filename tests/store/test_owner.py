"""The owner of the database: one open file, one writer, readers beside it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from datetime import time as dt_time
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest

from aegis_core.errors import (
    AegisError,
    ColumnError,
    InputError,
    StoreBusy,
    StoreError,
    StoreVersion,
)
from aegis_core.schema import SCHEMA_VERSION
from aegis_core.store import Store, connect
from aegis_core.store.attached import Attached
from aegis_core.store.endpoint import STOP, Asker, Endpoint, files_of, find, publish, started
from aegis_core.store.gate import _SCHEMAS, Gate, Limits
from aegis_core.store.session import Session

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


# --- others attach ---------------------------------------------------------------------------

OWN = """
import json, sys
from aegis_core.store.gate import Limits
from aegis_core.store import connect
with connect(sys.argv[1]).owned(limits=Limits(**json.loads(sys.argv[2]))) as endpoint:
    print(endpoint.pid, flush=True)
    sys.stdin.read()
"""


class Owner:
    """Another process that owns a database of six transactions."""

    def __init__(self, path: Path, **limits: float) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN, str(path), json.dumps(limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == str(self.process.pid)

    @property
    def for_readers(self) -> dict[str, str]:
        """What the operator hands to those who shall only read."""
        found: dict[str, str] = json.loads(files_of(self.path)[1].read_text("utf-8"))
        return found

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(10)


@contextmanager
def owner_of(path: Path, **limits: float) -> Iterator[Owner]:
    with connect(path).writing() as session:
        session.append("transactions", rows(6))
    owner = Owner(path, **limits)
    try:
        yield owner
    finally:
        owner.end(kill=True)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    with owner_of(
        tmp_path_factory.mktemp("owned") / "a.duckdb", longest_s=1, rows=1000, idle_s=1
    ) as owner:
        yield owner


@pytest.fixture
def attached(owner: Owner) -> Iterator[Store]:
    """A store of this process on the database that the other one owns; changes are undone."""
    store = connect(owner.path)
    yield store
    with store.writing() as session:
        session.execute("DELETE FROM transactions WHERE seq > 5")
        session.execute("DELETE FROM labels")
    assert owner.process.poll() is None


@pytest.fixture(scope="module")
def shell(owner: Owner) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB alone, attached as a reader by what the operator handed out."""
    with plain_duckdb() as connection:
        found = owner.for_readers
        connection.execute(f"ATTACH '{found['address']}' AS aegis (TOKEN '{found['token']}')")
        yield connection
    assert owner.process.poll() is None


@contextmanager
def plain_duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        for name in ("httpfs", "quack"):
            (file,) = files(f"duckdb_extension_{name}").glob("extensions/*/*.duckdb_extension")
            connection.execute(f"LOAD '{file}'")
        yield connection


def test_an_attached_store_gives_the_same_answers(attached: Store) -> None:
    sql = "SELECT seq, ts, amount, category FROM transactions WHERE seq >= $from ORDER BY seq"
    with attached.reading() as session:
        table = session.arrow(sql, {"from": 2})
        assert session.query(sql, {"from": 2}).equals(table.to_pandas())
        assert session.rows(sql, {"from": 2}) == table.to_pylist()
        assert session.numpy(sql, {"from": 2})["seq"].tolist() == [2, 3, 4, 5]
        names, streamed = session.stream(sql.replace("$from", "2"))
        assert [dict(zip(names, row, strict=True)) for row in streamed] == table.to_pylist()
        assert session.columns("labels")[:2] == ["transaction_id", "is_fraud"]
        assert session.next_seq() == 6
    assert table["ts"].to_pylist()[0] == NOON + timedelta(minutes=2)
    assert attached.rows("SELECT ? AS a, ? AS b", ["it's; -- ?", None]) == [
        {"a": "it's; -- ?", "b": None}
    ]
    assert attached.rows("SELECT 1 AS a, 2 AS A, sum(seq) AS s FROM transactions")[0]["s"] == 15
    of_one = attached.query("FROM transactions WHERE customer_id = ? ORDER BY seq", ["c1"])
    assert of_one["seq"].tolist() == [1, 4]
    assert len(attached.data_hash()) == 16
    with pytest.raises(InputError, match="amount"):
        attached.query("SELECT amout FROM transactions")
    with pytest.raises(InputError, match="empty"):
        attached.query(" ; ")


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone of the machine is not UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


MOMENT = "TIMESTAMPTZ '2026-01-02 03:04:05+02'"
EXACT = {
    MOMENT: datetime(2026, 1, 2, 1, 4, 5, tzinfo=ZoneInfo("UTC")),
    f"({MOMENT})::VARCHAR": "2026-01-02 01:04:05+00",
    f"date_trunc('day', {MOMENT})": datetime(2026, 1, 2, tzinfo=ZoneInfo("UTC")),
    f"hour({MOMENT})": 1,
    "'2026-01-02 03:04:05'::TIMESTAMPTZ": datetime(2026, 1, 2, 3, 4, 5, tzinfo=ZoneInfo("UTC")),
    f"{{'a': 5::HUGEINT, 'b': [{MOMENT}]}}": {
        "a": Decimal(5), "b": [datetime(2026, 1, 2, 1, 4, 5, tzinfo=ZoneInfo("UTC"))],
    },
    "5::HUGEINT": 5, "sum(5)": 5, "NULL::HUGEINT": None, "18446744073709551615::UBIGINT": 2**64 - 1,
    "1.25::DECIMAL(10, 2)": 1.25, "[1.25, 2.5]": [Decimal("1.25"), Decimal("2.50")],
    "MAP {'a': 1.5}": [("a", Decimal("1.5"))], "'b'::ENUM('a', 'b')": "b", "[1, 2]::INT[2]": [1, 2],
    "'00000000-0000-0000-0000-000000000001'::UUID": "00000000-0000-0000-0000-000000000001",
    "'\\xAA'::BLOB": b"\xaa", "TIME '01:02:03'": dt_time(1, 2, 3), "'{}'::JSON": "{}",
    "(170141183460469231731687303715884105727::HUGEINT)::VARCHAR": str(2**127 - 1),
}  # fmt: skip
AS_TEXT = (
    *("'0101'::BIT", "['0101'::BIT]", "{'a': MAP {'b': '1'::BIT}}", "5::VARIANT", "5::BIGNUM"),
    *("union_value(num := 2)", "5::UHUGEINT", "TIMETZ '01:02:03+05'", "'POINT(1 2)'::GEOMETRY"),
    *("TIME_NS '01:02:03.123456789'", "(2::HUGEINT ** 64)::HUGEINT", "'infinity'::DATE"),
    *("'infinity'::TIMESTAMP", "TIMESTAMPTZ '290000-01-01'"),
)


@pytest.mark.attack("types of an analyst's own expressions, with a service and without")
def test_an_expression_has_one_answer_or_one_sentence_with_and_without_an_owner(
    attached: Store, tmp_path: Path, far_away: None
) -> None:
    alone = connect(tmp_path / "alone.duckdb")
    with alone.writing():
        pass

    def found(session: Session, expression: str) -> list[str]:
        told = []
        for form in (Session.arrow, Session.rows, Session.query, Session.stream):
            try:
                result: Any = form(session, f"SELECT {expression} AS v")
                result = list(result[1]) if form is Session.stream else result
            except InputError as e:
                told.append(f"refused: {e}")
                continue
            try:
                told.append(repr(result) + str(getattr(result, "dtypes", "")))
            except NotImplementedError:  # pandas holds times that it cannot show
                told.append(f"{result.dtypes} {result['v'].to_numpy('int64')}")
        return told

    with attached.reading() as one, alone.reading() as other:
        for expression, value in EXACT.items():
            assert one.rows(f"SELECT {expression} AS v") == [{"v": value}]
            assert found(one, expression) == found(other, expression)
        _, rows = one.stream("SELECT (2::HUGEINT ** 64)::HUGEINT, 1.10::DECIMAL(38, 2)")
        assert list(rows) == [(Decimal(2**64), Decimal("1.10"))]
        for expression in AS_TEXT:
            told = found(one, expression)
            assert told == found(other, expression)
            assert "as text" in told[1]
            as_text = f"SELECT ({expression})::VARCHAR AS v"
            assert one.rows(as_text) == other.rows(as_text)


def test_an_attached_writing_is_one_transaction(attached: Store) -> None:
    other = connect(attached.path)
    with attached.writing() as session:
        assert session.append("transactions", rows(2, first=session.next_seq())) == 2
        session.execute("INSERT INTO labels VALUES (?, true, NULL, now(), NULL, -1)", ["t6"])
        assert attached.rows("SELECT count(*) AS n FROM transactions") == [{"n": 8}]
        assert count(other) == 6
    assert count(other) == 8
    assert other.rows("SELECT transaction_id FROM labels") == [{"transaction_id": "t6"}]

    def fails() -> None:
        with attached.writing() as session:
            session.append("transactions", rows(1, first=8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert count(attached) == 8


def test_an_attached_writing_that_broke_is_never_half_there(attached: Store) -> None:
    bad = rows(1, first=7).set_column(4, "amount", pa.array([None], pa.float64()))

    def broken() -> None:
        with attached.writing() as session:
            session.append("transactions", rows(1, first=6))
            with pytest.raises(StoreError, match="amount"):
                session.append("transactions", bad)

    with pytest.raises(StoreError, match="aborted"):
        broken()
    assert count(attached) == 6
    with attached.writing() as session, pytest.raises(ColumnError, match="Did you mean amount"):
        session.append("transactions", pa.table({"amout": [1.0]}))


def test_rows_can_be_lent_to_an_attached_writing(attached: Store) -> None:
    with attached.writing() as session:
        with session.lent("mine", rows(3)):
            found = session.rows("SELECT count(*) AS n, max(ts) AS last FROM mine")
        assert found == [{"n": 3, "last": NOON + timedelta(minutes=2)}]
        told: list[float] = []
        session.watched("CREATE TEMP TABLE x AS SELECT 1", None, told.append)
        assert told == [1.0]


def test_a_writer_that_hangs_loses_its_transaction_not_its_owner(attached: Store) -> None:
    def hang() -> None:
        with attached.writing() as session:
            session.append("transactions", rows(1, first=6))
            time.sleep(2.5)

    with pytest.raises(StoreError):
        hang()
    assert count(attached) == 6
    with attached.writing() as session:
        session.append("transactions", rows(1, first=6))
    assert count(attached) == 7


def test_many_read_while_others_write(attached: Store) -> None:
    failed: list[Exception] = []

    def read() -> None:
        try:
            mine = connect(attached.path)
            for _ in range(10):
                assert count(mine) >= 6
                mine.rows("SELECT count(*) AS n FROM transactions a JOIN transactions b USING (ts)")
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(10):
        with attached.writing() as session:
            session.append("transactions", rows(1, first=6 + i))
    for thread in threads:
        thread.join()
    assert failed == []
    assert count(attached) == 16


def test_duckdb_alone_reads_the_database(shell: duckdb.DuckDBPyConnection) -> None:
    assert shell.execute("FROM aegis.query('SELECT count(*) FROM transactions')").fetchall() == [
        (6,)
    ]
    found = shell.execute(
        "SELECT customer_id, sum(amount) FROM aegis.transactions WHERE seq > 1 "
        "GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert found == [("c0", 4.0), ("c1", 5.0), ("c2", 9.0)]


READS = [
    "SELECT count(*) FROM transactions",
    "WITH a AS (SELECT * FROM transactions) SELECT a.seq FROM a JOIN labels USING (transaction_id)",
    "SELECT date_trunc('hour', ts) AS hour, median(amount) FROM transactions GROUP BY ALL",
    "SELECT *, row_number() OVER (ORDER BY ts) FROM transactions QUALIFY seq > 1",
    "SELECT unnest([1, 2, 3])",
    "FROM range(3)",
    "DESCRIBE transactions",
    "SHOW TABLES",
    "SELECT table_name FROM information_schema.tables",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 9) FROM n",
    "SELECT 1 AS a, 2 AS a",
    "SELECT seq FROM main.transactions -- the end",
]


@pytest.mark.parametrize("sql", READS)
def test_a_reader_may_ask_what_only_reads(shell: duckdb.DuckDBPyConnection, sql: str) -> None:
    quoted = sql.replace("'", "''")
    assert shell.execute(f"FROM aegis.query('{quoted}')").fetchall() is not None


ATTACKS = [
    "INSERT INTO labels VALUES ('t1', true, NULL, now(), NULL, -1)",
    "WITH a AS (SELECT 1) INSERT INTO metrics SELECT 'r', 'n', 's', 1 FROM a",
    "DELETE FROM transactions",
    "UPDATE transactions SET amount = 1",
    "TRUNCATE transactions",
    "DROP TABLE transactions",
    "CREATE TABLE x AS SELECT 1",
    "CREATE MACRO aegis_admits(a, b) AS b",
    "COPY transactions TO '/tmp/aegis-stolen.csv'",
    "COPY (SELECT 1) TO '/tmp/aegis-stolen.csv'",
    "EXPORT DATABASE '/tmp/aegis-stolen'",
    "ATTACH ':memory:' AS mine",
    "DETACH aegis_answers",
    "SET threads = 1",
    "RESET quack_authorization_function",
    "SET VARIABLE a = 1",
    "PRAGMA database_list",
    "CALL quack_server_list()",
    "CHECKPOINT",
    "BEGIN",
    "LOAD httpfs",
    "EXPLAIN ANALYZE DELETE FROM transactions",
    "PREPARE a AS DELETE FROM transactions",
    "EXECUTE a",
    "SELECT 1; SELECT 2",
    "SELECT 1; DELETE FROM transactions",
    "FROM quack_stop('{address}')",
    "SELECT * FROM quack_serve('quack:127.0.0.1:1')",
    "FROM QUACK_QUERY('{address}', 'SELECT 1')",
    'FROM main."quack_active_connections"()',
    "SELECT (SELECT max(query) FROM quack_active_connections())",
    "SELECT 1 WHERE EXISTS (FROM quack_stop('{address}'))",
    "WITH a AS (FROM quack_server_list()) FROM a",
    "SELECT 1 UNION ALL SELECT 2 FROM quack_server_list()",
    "SELECT 1 ORDER BY (SELECT count(*) FROM quack_server_list())",
    "SELECT 1 LIMIT (SELECT count(*) FROM quack_server_list())",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM quack_server_list()))",
    "SELECT sum(1) OVER (ORDER BY (SELECT count(*) FROM quack_server_list()))",
    "SELECT 1 FROM transactions JOIN quack_server_list() ON true",
    "FROM query('SELECT 1')",
    "FROM query_table('transactions')",
    "FROM duckdb_settings()",
    "FROM duckdb_logs()",
    "FROM duckdb_logs",
    "FROM duckdb_secrets()",
    "FROM pg_settings",
    "FROM pg_catalog.pg_settings",
    "FROM system.pg_catalog.pg_settings",
    "SELECT * FROM (WITH pg_settings AS (SELECT 1) FROM pg_settings) a, pg_settings",
    "SELECT current_setting('temp_directory')",
    "SELECT getvariable('a')",
    "SELECT aegis_admits('a', 'b')",
    "SELECT repeat('x', 3)",
    "SELECT quack_check_token('a', 'b', 'c')",
    "FROM aegis_answers.main.a0",
    "FROM aegis_answers.a0",
    "FROM read_text('/etc/hostname')",
    "FROM read_csv('/etc/hostname')",
    "FROM glob('/*')",
    "FROM '/etc/hostname'",
    "FROM '/tmp/x.csv'",
    "DESCRIBE '/tmp/x.csv'",
    "SUMMARIZE '/tmp/x.csv'",
    "SELECT * FROM transactions AT (VERSION => 1)",
    "FROM nowhere",
    "",
    ";",
    "SELECT",
]


@pytest.mark.parametrize("sql", ATTACKS)
def test_a_reader_cannot_do_anything_but_read(
    shell: duckdb.DuckDBPyConnection, owner: Owner, sql: str
) -> None:
    attack = sql.format(address=owner.for_readers["address"]).replace("'", "''")
    with pytest.raises(duckdb.Error):
        shell.execute(f"FROM aegis.query('{attack}')").fetchall()
    assert shell.execute("FROM aegis.query('SELECT count(*) FROM transactions')").fetchall() == [
        (6,)
    ]
    assert not Path("/tmp/aegis-stolen.csv").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO aegis.labels VALUES ('t1', true, NULL, now()::TIMESTAMP, NULL, -1)",
        "CREATE TABLE aegis.x (a INT)",
        "DROP TABLE aegis.labels",
        "DELETE FROM aegis.labels",
        "UPDATE aegis.labels SET is_fraud = true",
    ],
)
def test_a_reader_cannot_write_through_the_attached_catalog(
    shell: duckdb.DuckDBPyConnection, attached: Store, sql: str
) -> None:
    with pytest.raises(duckdb.Error):
        shell.execute(sql).fetchall()
    assert attached.rows("SELECT count(*) AS n FROM labels") == [{"n": 0}]
    assert attached.rows("SELECT count(*) AS n FROM transactions") == [{"n": 6}]


def test_a_query_that_is_long_or_large_is_ended(
    shell: duckdb.DuckDBPyConnection, attached: Store
) -> None:
    ten = ", ".join(f"range(1000000) t{i}" for i in range(10))
    for sql in (
        f"SELECT count(*) FROM {ten}",
        f"FROM {ten} LIMIT 10 OFFSET 100000000000",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    ):
        began = time.monotonic()
        with pytest.raises(duckdb.Error, match="ran for 1 s"):
            shell.execute(f"FROM aegis.query('{sql}')").fetchall()
        assert time.monotonic() - began < 5
    with pytest.raises(duckdb.Error, match="more than 1,000 rows"):
        shell.execute("FROM aegis.query('FROM range(1001)')").fetchall()
    assert len(shell.execute("FROM aegis.query('FROM range(1000)')").fetchall()) == 1000
    with pytest.raises(StoreError, match="ran for 1 s"):
        attached.query(f"SELECT count(*) FROM {ten}")


def test_a_query_that_needs_much_memory_is_ended_before_a_commit_could_fail(
    tmp_path: Path,
) -> None:
    with owner_of(tmp_path / "a.duckdb", longest_s=20, memory="400MB") as owner:
        writer = connect(owner.path)
        raised: list[Exception] = []

        def read() -> None:
            try:
                connect(owner.path).query("SELECT len(list(range)) FROM range(1000000000)")
            except StoreError as e:
                raised.append(e)

        thread = threading.Thread(target=read)
        thread.start()
        n = 6
        while thread.is_alive():
            with writer.writing() as session:
                session.append("transactions", rows(50, first=n))
            n += 50
        assert "too much memory" in str(raised[0])
        assert count(writer) == n


def test_a_caller_of_a_busy_machine_is_not_forgotten_before_its_first_statement(
    store: Store,
) -> None:
    with gate_of(store) as gate:
        gate._look_after_callers(time.monotonic() + 60)
        assert gate._admits("one", _SCHEMAS) is not None
        gate._look_after_callers(time.monotonic() + 4000)
        assert gate._admits("one", _SCHEMAS) is None, "nobody for an hour"


ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"


@contextmanager
def gate_of(store: Store, **limits: float) -> Iterator[Gate]:
    """The gate of an owner in this process, with a reader who knocked."""
    with store.owned(limits=Limits(**limits)) as endpoint:  # type: ignore[arg-type]
        assert store._held is not None
        assert store._held.gate is not None
        assert endpoint is not None
        for name in ("one", "two"):
            store._held.gate._knows(name, endpoint.readers_token, endpoint.readers_token)
        yield store._held.gate


@contextmanager
def asking(gate: Gate, asker: Asker) -> Iterator[list[str | None]]:
    """An endless query that runs for `asker` inside of the block, which waits for its end."""
    told: list[str | None] = []
    thread = threading.Thread(target=lambda: told.append(gate._admits("one", f"{asker}{ENDLESS}")))
    thread.start()
    while not (told or any(r.deadline < math.inf for r in list(gate._running.values()))):
        time.sleep(0.01)  # one that is ended at once may never be seen to run
    yield told
    thread.join(30)
    assert not thread.is_alive()


def test_who_is_gone_or_gives_up_loses_the_turn(store: Store) -> None:
    with gate_of(store, at_once=1) as gate:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        gone = Asker(ended.pid, "5", board=False, key="0" * 16)
        with asking(gate, gone) as told:
            pass
        assert "who asked is gone" in str(told[0])
        mine = Asker.me(board=False)
        with asking(gate, mine) as told:
            gate._admits("two", f"{STOP}{'f' * 16}")
            assert told == [], "of somebody else's key"
            gate._admits("two", f"{STOP}{mine.key}")
        assert "it was given up" in str(told[0])


def test_a_board_is_not_held_up_by_the_queries_of_others(store: Store) -> None:
    with gate_of(store, at_once=1) as gate, asking(gate, mine := Asker.me(board=False)) as told:
        small = "SELECT count(*) FROM transactions JOIN labels USING (transaction_id)"
        assert "aegis_answers" in str(gate._admits("two", f"{Asker.me(board=True)}{small}"))
        assert told == [], "the other one runs on"
        gate._admits("two", f"{STOP}{mine.key}")


def interrupted_soon() -> threading.Timer:
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_ends_a_query_with_and_without_an_owner(store: Store, tmp_path: Path) -> None:
    with store.writing():
        pass
    with owner_of(tmp_path / "owned.duckdb", longest_s=600, at_once=1) as owner:
        other = connect(owner.path)
        assert count(other) == 6
        for asked in (store, other):
            timer = interrupted_soon()
            with pytest.raises(KeyboardInterrupt):
                asked.rows(ENDLESS)
            timer.join()
        assert other.rows("SELECT count(*) + 1 AS n FROM transactions") == [{"n": 7}]


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE mine (a TIMESTAMP DEFAULT current_timestamp, b UUID DEFAULT uuid())",
        "CREATE SEQUENCE mine_n; CREATE TABLE mine (a INT DEFAULT nextval('mine_n'))",
        "CREATE MACRO mine_m(x) AS x + 1; CREATE TABLE mine (a INT DEFAULT mine_m(1))",
        'CREATE TABLE mine (a INT[] DEFAULT [1, 2], "b ""{}" INT CHECK (a[1] > 0))',
        "CREATE TABLE mine_k (a INT PRIMARY KEY); CREATE TABLE mine (a INT REFERENCES mine_k)",
    ],
)
def test_what_an_analyst_makes_keeps_nobody_from_attaching(store: Store, made: str) -> None:
    with store.owned(limits=Limits()) as endpoint:
        with store.writing() as session:
            for statement in made.split("; "):
                session.execute(statement)
        assert endpoint is not None
        with Attached(endpoint).session(writable=True) as session:
            assert session.rows("SELECT count(*) AS n FROM mine") == [{"n": 0}]
            known = {"transaction_id": ["t1"], "is_fraud": [True], "known_at": [NOON]}
            session.append("labels", pa.table(known))
        assert store.rows("SELECT after_seq FROM labels") == [{"after_seq": -1}], "by default"


def test_a_wrong_token_opens_nothing(owner: Owner) -> None:
    endpoint = find(owner.path)
    assert endpoint is not None
    with plain_duckdb() as connection:
        for address, token in (
            (endpoint.readers, "guessed"),
            (endpoint.writers, endpoint.readers_token),
            (endpoint.readers, endpoint.writers_token),
        ):
            with pytest.raises(duckdb.Error, match="Authentication"):
                connection.execute(f"ATTACH '{address}' AS aegis (TOKEN '{token}')")


def test_only_this_user_can_read_the_tokens(owner: Owner) -> None:
    for path in files_of(owner.path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert set(owner.for_readers) == {"address", "token", "sql"}
    endpoint = find(owner.path)
    assert endpoint is not None
    assert endpoint.writers_token not in files_of(owner.path)[1].read_text("utf-8")


# --- the owner goes away ---------------------------------------------------------------------


def test_what_a_killed_owner_committed_is_there_for_the_next(tmp_path: Path) -> None:
    with owner_of(tmp_path / "a.duckdb") as owner:
        store = connect(owner.path)
        with store.writing() as session:
            session.append("transactions", rows(1, first=6))

        def cut_off() -> None:
            with store.writing() as session:
                session.append("transactions", rows(1, first=7))
                owner.process.kill()
                owner.process.wait()
                session.rows("SELECT 1")

        with pytest.raises(StoreBusy, match="ended in the middle"):
            cut_off()
        assert files_of(owner.path)[0].exists()
        assert count(store) == 7
        with store.writing() as session:
            session.append("transactions", rows(1, first=7))
        assert count(store) == 8


def test_an_owner_that_ends_takes_its_files_along_and_the_next_statement_works(
    tmp_path: Path,
) -> None:
    with owner_of(tmp_path / "a.duckdb") as owner:
        store = connect(owner.path)
        assert count(store) == 6
        owner.end()
        assert owner.process.returncode == 0
        assert not any(path.exists() for path in files_of(owner.path))
        assert not store.path.with_name(store.path.name + ".wal").exists()
        assert count(store) == 6
        again = Owner(owner.path)
        try:
            assert count(store) == 6
        finally:
            again.end()


def test_what_a_dead_owner_left_is_ignored(store: Store) -> None:
    with store.writing() as session:
        session.append("transactions", rows(6))
    port = "quack:127.0.0.1:9"
    dead = {"schema_version": SCHEMA_VERSION, "writers": port, "writers_token": "abcd"}
    dead |= {"readers": port, "readers_token": "abcd"}
    for pid, since in ((2**22 + 1, "5"), (os.getpid(), "5"), (os.getpid(), started(os.getpid()))):
        publish(store.path, Endpoint(pid=pid, started=since, **dead))  # type: ignore[arg-type]
        assert count(store) == 6
    files_of(store.path)[0].write_text("{")
    assert count(store) == 6


def test_an_owner_that_died_is_ignored_also_where_there_is_no_proc(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core.store.endpoint._PROC", tmp_path / "none")
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        since = started(other.pid)
        assert since is not None
        assert since == started(other.pid) != started(os.getpid())
        alive = Endpoint(other.pid, since, SCHEMA_VERSION, "", "", "", "")
        publish(store.path, alive)
        assert find(store.path) == alive
        publish(store.path, replace(alive, pid=os.getpid()))  # a later process of that number
        assert find(store.path) is None
        publish(store.path, alive)
    assert find(store.path) is None
    publish(store.path, replace(alive, started=None))
    assert find(store.path) is None


def test_an_owner_of_another_version_is_named(owner: Owner, store: Store) -> None:
    endpoint = find(owner.path)
    assert endpoint is not None
    store.path.touch()
    publish(store.path, replace(endpoint, schema_version=99, inode=0))
    with pytest.raises(StoreVersion, match="99"):
        store.query("SELECT 1")


@pytest.mark.parametrize(
    ("sql", "passes"),
    [
        ("UPDATE transactions SET amount = 1", False),
        ("UPDATE transactions SET source = 'x', amount = 1 WHERE seq = 1", False),
        ("UPDATE verdicts SET reasons = NULL, score = 1", False),
        ("UPDATE transactions SET source = 'it''s' WHERE source = 'x'", True),
        ("UPDATE verdicts SET reasons = list_transform(reasons, lambda r: r) WHERE false", True),
    ],
)
def test_beside_an_engine_only_free_text_may_be_changed(
    store: Store, sql: str, passes: bool
) -> None:
    with store.owned(limits=Limits()):
        store.settle_with(lambda: None)
        other = connect(store.path)
        with nullcontext() if passes else pytest.raises(AegisError), other.writing() as session:
            session.execute(sql)
