"""The store: taking turns, one transaction, and readings that can only read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from aegis_core.errors import (
    ColumnError,
    FileUnreadable,
    InputError,
    NotReady,
    StoreBusy,
    StoreError,
    StoreVersion,
)
from aegis_core.schema import SCHEMA_VERSION, TABLES
from aegis_core.store import Store, audit, compaction, connect
from aegis_core.store.connection import literal
from aegis_core.store.endpoint import find
from aegis_core.store.gate import Limits

NOON = datetime(2026, 3, 1, 12)
PREAMBLE = "import os, sys\nfrom aegis_core.store import connect"


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
            "category": ["grocery" if i % 2 else None for i in number],
        }
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of six transactions, to be copied: making one takes longer."""
    store = connect(tmp_path_factory.mktemp("original") / "six.duckdb")
    with store.writing() as session:
        session.append("transactions", rows(6))
    return store.path


@pytest.fixture
def filled(store: Store, original: Path) -> Store:
    """A store on six transactions."""
    shutil.copy(original, store.path)
    return store


def count(store: Store, table: str = "transactions") -> int:
    return int(store.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that has imported `connect`."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{PREAMBLE}\n{code}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out.strip()


# --- opening ---------------------------------------------------------------------------------


def test_connecting_and_a_failed_reading_make_no_file(store: Store) -> None:
    with pytest.raises(NotReady, match="aegis import"):
        store.query("SELECT 1")
    assert not store.path.exists()


def test_the_first_writing_makes_folder_file_and_every_table(tmp_path: Path) -> None:
    store = connect(tmp_path / "new" / "deep" / "a.duckdb")
    with store.writing() as session:
        for table in TABLES:
            assert session.columns(table)
    assert {row["table_name"] for row in store.rows("SELECT table_name FROM duckdb_tables()")} == {
        *TABLES,
        "meta",
    }


def test_a_table_that_a_database_lacks_is_added_by_the_next_writing(filled: Store) -> None:
    with filled.writing() as session:
        session.execute("DROP TABLE metrics")
    with filled.writing() as session:
        assert session.columns("metrics") == ["run_id", "name", "slice", "value"]


def test_a_link_to_a_database_is_another_name_of_it(filled: Store, tmp_path: Path) -> None:
    (link := tmp_path / "elsewhere" / "link.duckdb").parent.mkdir()
    link.symlink_to(filled.path)
    other = connect(link)
    assert other.path == filled.path
    with other.writing(checkpoint=False) as session:
        session.append("transactions", rows(1, first=6))
    assert count(filled) == 7
    with (
        audit.alone(filled.path, 1),
        pytest.raises(StoreBusy, match="Another change"),
        connect(link, wait_s=0.05).changing(),
    ):
        pass
    with filled.owned(limits=Limits()):
        assert find(link) == find(filled.path) is not None
        with pytest.raises(StoreBusy, match="end it first"):
            compaction.compact(other, who="anna")
    compaction.compact(other, who="anna")
    assert link.is_symlink()
    assert count(connect(link)) == count(filled) == 7
    assert [p.name for p in link.parent.iterdir()] == [link.name]


def test_a_link_to_a_database_that_is_not_there_yet_is_kept(store: Store, tmp_path: Path) -> None:
    (link := tmp_path / "link.duckdb").symlink_to(store.path)
    with connect(link).writing() as session:
        session.append("transactions", rows(1))
    assert link.is_symlink()
    assert count(store) == 1


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database")
    for block in (connect(path).reading, connect(path).writing):
        with pytest.raises(FileUnreadable, match="not a DuckDB database"), block():
            pass
    assert path.read_text() == "not a database"
    with pytest.raises(FileUnreadable, match="folder"):
        connect(tmp_path).query("SELECT 1")


def test_the_first_row_or_what_is_wrong(filled: Store) -> None:
    sql = "SELECT seq FROM transactions WHERE customer_id = ? ORDER BY seq"
    first = filled.rows("SELECT seq, customer_id FROM transactions ORDER BY seq")[0]
    assert filled.first(sql, [first["customer_id"]], "None.") == {"seq": first["seq"]}
    with pytest.raises(InputError, match="no transaction of NOBODY"):
        filled.first(sql, ["NOBODY"], "There is no transaction of NOBODY.")


@pytest.mark.parametrize("left", [3000, 0.5])
def test_a_database_that_is_cut_short_says_what_to_do(filled: Store, left: float) -> None:
    whole = filled.path.read_bytes()
    filled.path.write_bytes(whole[: int(left * len(whole) if left < 1 else left)])
    with pytest.raises(StoreError, match="aegis restore FILE --force"):
        count(filled)


FIRST_VERSION = """
    CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR);
    INSERT INTO meta VALUES ('schema_version', '1');
    CREATE TABLE labels (
        transaction_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, scenario VARCHAR,
        known_at TIMESTAMP NOT NULL, source VARCHAR);
    INSERT INTO labels VALUES ('t1', true, 'spike', '2026-03-08', 'bank');
    CREATE TABLE verdicts (
        seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
        score DOUBLE NOT NULL, risk DOUBLE NOT NULL, decision VARCHAR NOT NULL,
        reasons STRUCT(factor VARCHAR, code VARCHAR, text VARCHAR, contribution DOUBLE)[],
        contributions STRUCT(amount DOUBLE, travel DOUBLE, hour DOUBLE, burst DOUBLE),
        evidence STRUCT(amount DOUBLE, travel DOUBLE, hour DOUBLE, burst DOUBLE),
        distance_km DOUBLE, scored_at TIMESTAMP NOT NULL);
    INSERT INTO verdicts VALUES (
        0, 't1', 'v1', 0.7, 99.9, 'block', [('amount', 'AMOUNT-HIGH', 'much', 0.3)],
        (0.3, 0.0, 0.0, 0.0), (5.0, 0.0, 0.0, 0.0), 3.0, '2026-03-01');
    CREATE TABLE models (
        version VARCHAR PRIMARY KEY, detector VARCHAR NOT NULL, path VARCHAR NOT NULL,
        trained_from TIMESTAMP, trained_to TIMESTAMP, n_train BIGINT, parameters VARCHAR,
        data_hash VARCHAR, run_id VARCHAR, created_at TIMESTAMP NOT NULL, promoted_at TIMESTAMP);
    INSERT INTO models (version, detector, path, created_at)
        VALUES ('v1', 'forest', 'm', '2026-01-01')
"""
"""A database as version 0.1.0 first wrote it."""


@pytest.mark.parametrize("first", ["reading", "writing"])
def test_a_database_of_an_older_version_is_brought_up_to_date_and_loses_nothing(
    tmp_path: Path, first: str
) -> None:
    path = tmp_path / "old.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(FIRST_VERSION)
    store = connect(path)
    with getattr(store, first)() as session:
        (verdict,) = session.rows("SELECT * FROM verdicts")
        assert session.rows("FROM meta") == [
            {"key": "schema_version", "value": str(SCHEMA_VERSION)},
            {"key": "columns 6 since", "value": "0"},
            {"key": "columns 7 since", "value": "0"},
            {"key": "meant since", "value": "0"},
        ]
        for table in TABLES:
            assert session.columns(table)
    assert verdict["contributions"] == {
        **{"amount": 0.3, "travel": 0.0, "hour": 0.0, "burst": 0.0},
        **{"merchant": None, "customer": None},
    }
    assert verdict["cleared"] is None
    assert verdict["reasons"][0]["text"] == "much"
    assert store.rows("SELECT scenario, after_seq FROM labels") == [
        {"scenario": "spike", "after_seq": -1}
    ]
    assert store.rows("SELECT version, shadow_since FROM models") == [
        {"version": "v1", "shadow_since": None}
    ]


def test_a_database_of_another_version_is_refused(filled: Store) -> None:
    with filled.writing() as session:
        session.execute("UPDATE meta SET value = '99'")
    with pytest.raises(StoreVersion, match="99"):
        filled.query("SELECT 1")
    with pytest.raises(StoreVersion, match="99"), filled.writing():
        pass


def test_a_database_that_others_made_is_refused_and_left_as_it_is(filled: Store) -> None:
    with filled.writing() as session:
        session.execute("DROP TABLE meta")
    with pytest.raises(StoreError, match="did not make"), filled.writing():
        pass
    with pytest.raises(StoreError, match="did not make"):
        filled.query("SELECT 1")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"), connect(tmp_path / "file/a").writing():
        pass


# --- transactions ----------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(filled: Store, failure: type[BaseException]) -> None:
    def interrupted() -> None:
        with filled.writing() as session:
            session.append("transactions", rows(1, first=6))
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert count(filled) == 6


def test_a_reading_inside_a_writing_sees_what_is_being_written(filled: Store) -> None:
    with filled.writing() as session:
        session.append("transactions", rows(1, first=6))
        assert count(filled) == 7
        with filled.writing() as inner:
            inner.append("transactions", rows(1, first=7))
    assert count(filled) == 8


def test_a_writing_inside_a_reading_is_refused(filled: Store) -> None:
    with filled.reading(), pytest.raises(StoreError, match="inside a reading"), filled.writing():
        pass


@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_was_committed_survives_a_process_that_dies(filled: Store, checkpoint: bool) -> None:
    died = python(
        f"""
store = connect(sys.argv[1])
with store.writing(checkpoint={checkpoint}) as session:
    session.execute("INSERT INTO labels VALUES ('t0', true, NULL, now(), NULL, -1)")
with store.writing(checkpoint={checkpoint}) as session:
    session.execute("INSERT INTO labels VALUES ('t1', true, NULL, now(), NULL, -1)")
    os._exit(0)""",
        str(filled.path),
    )
    output(died)
    assert filled.rows("SELECT transaction_id FROM labels") == [{"transaction_id": "t0"}]


def test_only_a_writing_without_checkpoint_leaves_a_log_beside_the_file(filled: Store) -> None:
    log = filled.path.with_name(filled.path.name + ".wal")
    assert not log.exists()
    with filled.writing(checkpoint=False) as session:
        session.append("transactions", rows(1, first=6))
    assert log.exists()
    assert count(filled) == 7
    with filled.writing() as session:
        session.append("transactions", rows(1, first=7))
    assert not log.exists()


# --- turns -----------------------------------------------------------------------------------


@pytest.fixture
def holder(filled: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the file until its standard output is read to the end."""
    process = python(
        """
import time
with connect(sys.argv[1]).writing():
    print("held", flush=True)
    time.sleep(0.5)""",
        str(filled.path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_an_opening_waits_for_the_other_process(
    filled: Store, holder: subprocess.Popen[str]
) -> None:
    assert count(filled) == 6
    assert holder.wait(5) == 0


def test_an_opening_that_waited_long_enough_says_what_to_do(
    filled: Store, holder: subprocess.Popen[str]
) -> None:
    for block in (connect(filled.path, wait_s=0.1).reading, connect(filled.path, wait_s=0).writing):
        with pytest.raises(StoreBusy, match="close the program"), block():
            pass


def test_readers_do_not_wait_for_each_other(filled: Store) -> None:
    impatient = connect(filled.path, wait_s=0)
    with filled.reading():
        assert count(impatient) == 6
        other = python(
            "print(connect(sys.argv[1], wait_s=0).rows('SELECT 1 AS a'))", str(filled.path)
        )
        assert output(other) == "[{'a': 1}]"


@pytest.mark.parametrize("shared", [True, False])
def test_threads_never_get_the_same_seq(filled: Store, shared: bool) -> None:
    failed = []

    def work(number: int) -> None:
        store = filled if shared else connect(filled.path, wait_s=20)
        try:
            for i in range(3):
                with store.writing() as session:
                    one = rows(1, first=session.next_seq())
                    renamed = one.set_column(1, "transaction_id", pa.array([f"x{number}-{i}"]))
                    session.append("transactions", renamed)
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert filled.rows("SELECT seq FROM transactions ORDER BY seq") == [
        {"seq": i} for i in range(6 + 9)
    ]


def test_a_thread_waits_no_longer_than_asked_for_its_turn(filled: Store) -> None:
    filled.wait_s = 0.1
    raised: list[Exception] = []

    def read() -> None:
        try:
            filled.query("SELECT 1")
        except StoreBusy as e:
            raised.append(e)

    with filled.writing():
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert "Another thread" in str(raised[0])


# --- readings only read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO labels VALUES ('t1', true, NULL, now(), NULL, -1)",
        "DELETE FROM transactions",
        "UPDATE transactions SET amount = 1",
        "DROP TABLE labels",
        "CREATE TABLE x (a INT)",
        "SELECT 1; DELETE FROM transactions",
        "WITH a AS (SELECT 1) INSERT INTO metrics SELECT 'r', 'n', 's', 1 FROM a",
    ],
)
def test_a_query_cannot_change_the_database(filled: Store, sql: str) -> None:
    with pytest.raises(InputError, match="reading only"):
        filled.query(sql)
    assert count(filled) == 6


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "COPY transactions TO '{file}.csv'",
        "EXPORT DATABASE '{file}.export'",
        "ATTACH '{file}.duckdb'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM secret_frame",
    ],
)
def test_a_query_reaches_nothing_but_the_database(filled: Store, tmp_path: Path, sql: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    secret_frame = pd.DataFrame({"a": [1]})
    before = sorted(tmp_path.iterdir())
    with pytest.raises((InputError, StoreError)):
        filled.query(sql.format(file=file))
    assert sorted(tmp_path.iterdir()) == before
    assert len(secret_frame) == 1


def test_a_wrong_query_is_explained_in_one_line(filled: Store) -> None:
    with pytest.raises(InputError, match="amount") as e:
        filled.query("SELECT amout FROM transactions")
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="empty"):
        filled.query(" ; ")


# --- answers ---------------------------------------------------------------------------------

VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.none(),
    st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)).map(lambda t: t.replace(fold=0)),
    st.lists(st.text("a'\"\\;-"), min_size=1),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(VALUES, min_size=20, max_size=20))
def test_a_parameter_is_data_whatever_it_contains(filled: Store, values: list[object]) -> None:
    marks = ", ".join(f"${i + 1} AS c{i}" for i in range(len(values)))
    with filled.reading() as session:
        (row,) = session.rows(f"SELECT {marks}", values)
        named = {f"c{i}": value for i, value in enumerate(values)}
        (again,) = session.rows(f"SELECT {', '.join(f'${n} AS {n}' for n in named)}", named)
    assert repr(list(row.values())) == repr(values) == repr(list(again.values()))


def test_a_text_with_nul_and_numpy_numbers_pass_as_parameters(filled: Store) -> None:
    found = filled.rows("SELECT ? AS a, ? AS b, ? AS c", ["x\0y", np.int64(3), np.float32(0.5)])
    assert found == [{"a": "x\0y", "b": 3, "c": 0.5}]
    with pytest.raises(InputError, match="set"):
        literal({1})


def test_times_are_utc_whatever_the_zone_of_the_machine(filled: Store) -> None:
    east = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    with filled.writing() as session:
        session.execute("INSERT INTO labels VALUES ('t1', true, NULL, ?, NULL, -1)", [east])
        session.append(
            "labels",
            pd.DataFrame({"transaction_id": ["t2"], "is_fraud": [False], "known_at": [east]}),
        )
    stored = filled.rows("SELECT DISTINCT known_at FROM labels")
    assert stored == [{"known_at": datetime(2025, 12, 31, 23, 30)}]
    code = """
os.environ["TZ"] = "America/New_York"
print(connect(sys.argv[1]).rows("SELECT $a::TIMESTAMPTZ::TIMESTAMP AS t", {"a": "2026-01-01"}))"""
    assert output(python(code, str(filled.path))) == "[{'t': datetime.datetime(2026, 1, 1, 0, 0)}]"
    assert filled.rows("SELECT now() AS now")[0]["now"].utcoffset() == UTC.utcoffset(None)


def test_the_four_answers_agree(filled: Store) -> None:
    sql = "SELECT seq, ts, amount, category FROM transactions WHERE seq >= ? ORDER BY seq"
    with filled.reading() as session:
        frame, table = session.query(sql, [2]), session.arrow(sql, [2])
        arrays, dictionaries = session.numpy(sql, [2]), session.rows(sql, [2])
        names, streamed = session.stream(sql.replace("?", "2"))
        assert [dict(zip(names, row, strict=True)) for row in streamed] == dictionaries
    assert table.to_pylist() == dictionaries
    pd.testing.assert_frame_equal(table.to_pandas(), frame)
    assert arrays["seq"].tolist() == frame["seq"].tolist() == [2, 3, 4, 5]
    assert arrays["ts"].dtype == "datetime64[us]"
    assert arrays["category"].tolist() == [None, "grocery", None, "grocery"]


def test_missing_values_as_arrays(filled: Store) -> None:
    with filled.reading() as session:
        arrays = session.numpy(
            """SELECT nullif(seq, 1) AS whole, nullif(amount, 2) AS number, nullif(ts, ts) AS time,
            nullif(seq > 1, true) AS truth, nullif(category, category) AS text
            FROM transactions WHERE seq < 3 ORDER BY seq"""
        )
    np.testing.assert_array_equal(arrays["whole"], [0.0, np.nan, 2.0])
    np.testing.assert_array_equal(arrays["number"], [1.0, np.nan, 3.0])
    assert np.isnat(arrays["time"]).all()
    assert arrays["truth"].tolist() == [False, False, None]
    assert arrays["text"].tolist() == [None, None, None]


def test_a_sum_of_whole_numbers_is_a_whole_number(filled: Store) -> None:
    found = filled.rows("SELECT sum(seq) AS a, sum(seq) + 10::HUGEINT ** 30 AS b FROM transactions")
    assert found == [{"a": 15, "b": pytest.approx(1e30)}]
    assert isinstance(found[0]["a"], int)
    assert filled.query("SELECT sum(seq) AS a FROM transactions")["a"].dtype == np.int64


def test_reading_without_frames_does_not_import_pandas(filled: Store) -> None:
    code = """
with connect(sys.argv[1]).reading() as session:
    session.rows("SELECT * FROM transactions WHERE seq > ?", [1])
    session.numpy("SELECT * FROM transactions WHERE customer_id = $c", {"c": "c1"})
    session.arrow("SELECT 1")
print("pandas" in sys.modules)"""
    assert output(python(code, str(filled.path))) == "False"


# --- writing rows ----------------------------------------------------------------------------


def test_rows_are_appended_by_the_name_of_the_column(filled: Store) -> None:
    frame = pd.DataFrame(
        {
            "amount": [5.0],
            "lat": [np.nan],
            "ts": [pd.Timestamp("2026-01-01T00:00:00.000001")],
            "customer_id": ['"; DROP TABLE transactions; --'],
            "transaction_id": ["new"],
            "seq": [6],
        }
    )
    with filled.writing() as session:
        assert session.append("transactions", frame) == 1
    (row,) = filled.rows("SELECT * FROM transactions WHERE transaction_id = 'new'")
    assert row["customer_id"] == '"; DROP TABLE transactions; --'
    assert row["lat"] is None
    assert row["ts"].microsecond == 1


def test_an_unknown_column_or_table_is_named(filled: Store) -> None:
    with filled.writing() as session:
        with pytest.raises(ColumnError, match="Did you mean amount"):
            session.append("transactions", pd.DataFrame({"amout": [1]}))
        with pytest.raises(ColumnError, match="Did you mean labels"):
            session.append("label", pd.DataFrame({"is_fraud": [True]}))


def test_a_broken_constraint_stores_nothing_of_the_block(filled: Store) -> None:
    good, bad = rows(3, first=6), rows(3, first=9).to_pandas().assign(amount=np.nan)

    def write_both() -> None:
        with filled.writing() as session:
            session.append("transactions", good)
            session.append("transactions", bad)

    with pytest.raises(StoreError, match="amount"):
        write_both()
    assert count(filled) == 6


def test_a_long_statement_tells_how_far_it_is_and_can_be_ended(filled: Store) -> None:
    told: list[float] = []
    with filled.writing() as session:
        session.watched("CREATE TEMP TABLE x AS SELECT * FROM range(10)", None, told.append)
        assert told[-1] == 1.0
        assert session.rows("SELECT count(*) AS n FROM x") == [{"n": 10}]
        with pytest.raises(InputError, match="nowhere"):
            session.watched("SELECT * FROM nowhere", None, told.append)

    def end(_: float) -> None:
        raise KeyboardInterrupt

    endless = "SELECT sum(a.i * b.i) FROM range(1000000) a(i), range(1000000) b(i)"

    def interrupted() -> None:
        with filled.writing() as session:
            session.append("transactions", rows(1, first=6))
            session.watched(endless, None, end)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert count(filled) == 6


# --- the hash of the data --------------------------------------------------------------------


def test_the_hash_does_not_depend_on_the_order_of_the_rows(filled: Store, tmp_path: Path) -> None:
    other = connect(tmp_path / "other.duckdb")
    with other.writing() as session:
        session.append("transactions", rows(6).take([5, 3, 1, 0, 2, 4]))
    assert filled.data_hash() == other.data_hash()
    assert filled.data_hash("seq < ?", [3]) == other.data_hash("seq < ?", [3])
    assert filled.data_hash("seq < 3") != filled.data_hash()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE transactions SET seq = 99 WHERE seq = 5",
        "UPDATE transactions SET transaction_id = 'other' WHERE seq = 5",
        "UPDATE transactions SET ts = ts + INTERVAL 1 MICROSECOND WHERE seq = 5",
        "UPDATE transactions SET amount = amount + 1e-9 WHERE seq = 5",
        "UPDATE transactions SET category = '' WHERE seq = 4",
        "UPDATE transactions SET lat = 0, lon = 0 WHERE seq = 4",
        "UPDATE transactions SET customer_id = category, category = customer_id WHERE seq = 5",
        "DELETE FROM transactions WHERE seq = 0",
        "INSERT INTO labels VALUES ('t1', true, NULL, TIMESTAMP '2026-03-08', NULL, -1)",
    ],
)
def test_the_hash_changes_with_any_value(filled: Store, change: str) -> None:
    before = filled.data_hash()
    with filled.writing() as session:
        session.execute(change)
    assert filled.data_hash() != before


def test_the_hash_of_a_part_ignores_labels_of_the_rest(filled: Store) -> None:
    before = filled.data_hash("seq < 3")
    with filled.writing() as session:
        session.execute("INSERT INTO labels VALUES ('t5', true, NULL, now(), NULL, -1)")
    assert filled.data_hash("seq < 3") == before


def test_a_slow_query_draws_nothing_into_a_notebook(original: Path) -> None:
    """DuckDB would draw a bar of its own, which stays in the report."""
    ask = "rows(\"SELECT current_setting('enable_progress_bar') AS drawn\")"
    source = f"from aegis_core.store import connect\nprint(connect({str(original)!r}).{ask})"
    notebook = new_notebook(cells=[new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert [output.text for output in notebook.cells[0].outputs] == ["[{'drawn': False}]\n"]
