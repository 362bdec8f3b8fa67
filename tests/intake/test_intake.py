"""The door: what comes in, what does not and why, and that twice is once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis_core.errors import ColumnError, FileUnreadable, InputError
from aegis_core.intake import ImportSummary, import_files
from aegis_core.intake.importing import checked
from aegis_core.intake.staging import CHECKS
from aegis_core.schema import MEANT, held_labels
from aegis_core.store import Store, connect

HEADER = "transaction_id,customer_id,ts,amount,merchant_id,category,lat,lon,is_fraud"
GOOD = "a1,c1,2026-01-05 10:00:00,12.5,m1,grocery,52.5,13.4,0"

Take = Callable[..., ImportSummary]


@pytest.fixture
def take(tmp_path: Path, store: Store) -> Take:
    """Import lines under `HEADER`, or any text or bytes, from a file with the name given."""

    def taken(
        *lines: str, name: str = "a.csv", content: str | bytes | None = None, **options: Any
    ) -> ImportSummary:
        if content is None:
            content = "\n".join((HEADER, *lines)) + "\n"
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return import_files([path], store, progress=False, **options)

    return taken


def everything(store: Store) -> dict[str, list[dict[str, Any]]]:
    """All that an import can change."""
    return {
        table: store.rows(f"SELECT * FROM {table} ORDER BY ALL")
        for table in ("transactions", "labels", "rejected")
    }


def reasons(store: Store) -> dict[str, int]:
    found = store.rows("SELECT reason, count(*) AS n FROM rejected GROUP BY ALL")
    return {row["reason"]: row["n"] for row in found}


# --- each check ------------------------------------------------------------------------------

BAD = {
    "customer_id is missing": "b,,2026-01-05,1,m,,,,0",
    "ts is missing": "b,c,,1,m,,,,0",
    "ts is not a time, such as 2026-03-01T12:00:00Z": "b,c,2026-02-30,1,m,,,,0",
    "ts is not between 1970 and 2100": "b,c,2100-01-01,1,m,,,,0",
    "amount is missing": "b,c,2026-01-05,,m,,,,0",
    "amount is not a number": "b,c,2026-01-05,12 or so,m,,,,0",
    "amount is below -1e+12": "b,c,2026-01-05,-1000000000001,m,,,,0",
    "amount is below 0.001": "b,c,2026-01-05,0.0009,m,,,,0",
    "amount is above 1e+12": "b,c,2026-01-05,1000000000001,m,,,,0",
    "lat is not a number": "b,c,2026-01-05,1,m,,north,,0",
    "lat is below -90": "b,c,2026-01-05,1,m,,-90.1,0,0",
    "lat is above 90": "b,c,2026-01-05,1,m,,90.1,0,0",
    "lon is not a number": "b,c,2026-01-05,1,m,,52,east,0",
    "lon is below -180": "b,c,2026-01-05,1,m,,0,-180.1,0",
    "lon is above 180": "b,c,2026-01-05,1,m,,0,180.1,0",
    "lat without lon, or lon without lat": "b,c,2026-01-05,1,m,,52,,0",
    "transaction_id is longer than 200 characters": f"{'b' * 201},c,2026-01-05,1,m,,,,0",
    "customer_id looks damaged, as by a spreadsheet": "b,4.11111E+15,2026-01-05,1,m,,,,0",
    "customer_id is longer than 200 characters": f"b,{'c' * 201},2026-01-05,1,m,,,,0",
    "merchant_id is longer than 200 characters": f"b,c,2026-01-05,1,{'m' * 201},,,,0",
    "transaction_id has a control character": "b\x7f,c,2026-01-05,1,m,,,,0",
    "customer_id has a control character": "b,c\x00,2026-01-05,1,m,,,,0",
    "category has a control character": "b,c,2026-01-05,1,m,\x1b[31m,,,0",
    "line has too few columns": "b,c,2026-01-05",
    "line has too many columns": "b,c,2026-01-05,1,m,,,,0,more",
    "line has a stray quotation mark": 'b,"c"c,2026-01-05,1,m,,,,0',
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_kept_with_its_reason_and_as_it_came(
    take: Take, store: Store, reason: str
) -> None:
    summary = take(GOOD, BAD[reason])
    assert (summary.rows, summary.accepted, summary.rejected) == (2, 1, {reason: 1})
    (row,) = store.rows("SELECT * FROM rejected")
    assert (row["reason"], row["source"]) == (reason, "a.csv")
    raw = json.loads(row["raw"])
    if isinstance(raw, dict):
        given = dict(zip(HEADER.split(","), BAD[reason].split(","), strict=True))
        assert raw == {name: value or None for name, value in given.items()}
    else:
        assert raw == BAD[reason]


def test_every_check_is_tried_above_or_is_of_the_same_kind() -> None:
    tried = {reason.partition(" ")[2] for reason in BAD}
    assert {reason.partition(" ")[2] for reason, _ in CHECKS} <= tried


@pytest.mark.parametrize("amount", ["nan", "inf", "-inf", "1e400", "x", "1,5", "0x10", "٥"])
def test_an_amount_is_a_number(take: Take, amount: str) -> None:
    summary = take(GOOD, f'b,c,2026-01-05,"{amount}",m,,,,0')
    assert sum(summary.rejected.values()) == 1


def test_a_line_that_is_not_utf8_is_kept_and_the_rest_goes_in(take: Take, store: Store) -> None:
    lines = [HEADER.encode(), GOOD.encode(), GOOD.replace("a1", "café").encode("latin-1")]
    assert take(content=b"\n".join(lines)).rejected == {"line is not UTF-8": 1}
    assert "caf" in store.rows("SELECT raw FROM rejected")[0]["raw"]


def test_an_open_quotation_mark_loses_nothing(take: Take, store: Store) -> None:
    take(GOOD, 'b,"c,2026-01-05,1,m,,,,0', "d,c,2026-01-05,1,m,,,,0")
    assert reasons(store) == {"line has a stray quotation mark": 1}
    assert "d,c,2026-01-05" in json.loads(store.rows("SELECT raw FROM rejected")[0]["raw"])


def test_what_looks_like_sql_or_html_is_data(take: Take, store: Store) -> None:
    hostile = ["'; DROP TABLE transactions; --", '"quoted"', "<script>alert(1)</script>", "{}\\"]
    lines = [
        '{},"{}",2026-01-05,1,"{}",x,,,0'.format(i, *[h.replace('"', '""')] * 2)
        for i, h in enumerate(hostile)
    ]
    assert take(*lines, name='it\'s; -- "x".csv').accepted == 4
    stored = store.rows("SELECT customer_id, merchant_id, source FROM transactions ORDER BY seq")
    assert [row["customer_id"] for row in stored] == hostile
    assert [row["merchant_id"] for row in stored] == hostile
    assert stored[0]["source"] == 'it\'s; -- "x".csv'


def test_a_hostile_header_is_data(take: Take, store: Store) -> None:
    content = 'customer_id,ts,amount,"x""; DROP TABLE y; --",AMOUNT,\nc,2026-01-05,?,q,7,z\n'
    assert take(content=content).rejected == {"amount is not a number": 1}
    raw = json.loads(store.rows("SELECT raw FROM rejected")[0]["raw"])
    assert raw['x"; DROP TABLE y; --'] == "q"
    assert (raw["AMOUNT_5"], raw["column_6"]) == ("7", "z")


# --- once and twice --------------------------------------------------------------------------


def test_importing_again_changes_nothing(take: Take, store: Store) -> None:
    lines = [GOOD, GOOD, *BAD.values(), BAD["ts is missing"], GOOD.replace("12.5", "13")]
    lines += [",c1,2026-01-05,1,m,,,,1", ",c1,2026-01-05,1,m,,,,1", "l,c,2026-01-06,1,,,,,"]
    lines += ["l,c,2026-01-06,1,,,,,1", "l,c,2026-01-06,1,,,,,0"]
    first = take(*lines)
    before, data_hash = everything(store), store.data_hash()
    second = take(*lines)
    assert everything(store) == before
    assert store.data_hash() == data_hash
    assert second.rejected == first.rejected
    assert (second.accepted, second.labels) == (0, 0)
    assert second.already_there == first.accepted + first.already_there
    for summary in (first, second):
        counted = summary.accepted + summary.already_there + sum(summary.rejected.values())
        assert counted == summary.rows == len(lines)


ROW = st.tuples(
    st.sampled_from(["", "x", "y", "z"]),
    st.sampled_from(["", "c", "d"]),
    st.sampled_from(["2026-01-05", "2026-01-05T00:00:00Z", "1767571200", "never"]),
    st.sampled_from(["1", "1.0", "2", "0"]),
    st.sampled_from(["", "0", "1", "no"]),
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(ROW, min_size=1, max_size=20).filter(
        lambda rows: any(row[2] != "never" for row in rows)  # else the column is none of times
    )
)
def test_whatever_the_rows_every_one_is_counted_and_twice_is_once(
    tmp_path: Path, rows: list[tuple[str, ...]]
) -> None:
    rows = [("", "c", "2026-01-05", "1", ""), *rows]  # a column without any time is refused whole
    store = connect(tmp_path / "h.duckdb")
    store.path.unlink(missing_ok=True)
    path = tmp_path / "rows.csv"
    names = "transaction_id,customer_id,ts,amount,is_fraud"
    path.write_text("\n".join([names, *(",".join(row) for row in rows)]) + "\n")
    first = import_files(path, store, progress=False)
    before = everything(store)
    second = import_files(path, store, progress=False)
    assert everything(store) == before
    assert first.rows == len(rows) == second.rows
    assert first.accepted == len(before["transactions"])
    assert first.labels == len(before["labels"])
    assert sum(first.rejected.values()) == len(before["rejected"])
    assert first.accepted + first.already_there + len(before["rejected"]) == first.rows
    assert second.already_there == first.accepted + first.already_there
    labelled = [row["transaction_id"] for row in before["labels"]]
    assert len(set(labelled)) == len(labelled)


def test_a_repeated_id_with_other_content_is_rejected(take: Take, store: Store) -> None:
    other = GOOD.replace("c1", "c2")
    known = {"transaction_id is known with other content": 1}
    within = take(GOOD, other)
    assert (within.accepted, within.rejected) == (1, known)
    later = take(other.replace("c2", "c3"), name="b.csv")
    assert (later.accepted, later.rejected) == (0, known)
    assert store.rows("SELECT customer_id FROM transactions") == [{"customer_id": "c1"}]
    raw = json.loads(store.rows("SELECT raw FROM rejected WHERE source = 'b.csv'")[0]["raw"])
    assert (raw["customer_id"], raw["amount"], raw["is_fraud"]) == ("c3", 12.5, False)


def test_a_label_that_says_otherwise_takes_the_place_of_the_one_before(
    take: Take, store: Store
) -> None:
    first = take(GOOD, GOOD[:-1] + "1")
    assert (first.already_there, first.labels, first.labels_changed) == (1, 1, 0)
    back = take(GOOD, name="b.csv")
    assert (back.already_there, back.labels, back.labels_changed) == (1, 1, 1)
    assert take(GOOD, name="b.csv").labels == 0
    assert [row["is_fraud"] for row in store.rows("FROM labels")] == [True, False]
    assert [row["is_fraud"] for row in store.rows(held_labels())] == [False]


def test_a_label_may_come_after_its_transaction(take: Take, store: Store) -> None:
    assert take(GOOD[:-1]).labels == 0
    later = take(GOOD[:-1] + "1")
    assert (later.accepted, later.already_there, later.labels) == (0, 1, 1)
    assert store.rows("SELECT is_fraud FROM labels") == [{"is_fraud": True}]


def test_rows_without_id_get_one_that_stays_and_differs(take: Take, store: Store) -> None:
    line = ",c,2026-01-05,1,m,,,,0"
    assert take(line, line, line).accepted == 3
    assert take(line, line, line, line).accepted == 1
    ids = [row["transaction_id"] for row in store.rows("SELECT * FROM transactions")]
    assert len(set(ids)) == 4
    assert all(len(made) == 24 for made in ids)


# --- order -----------------------------------------------------------------------------------


def test_seq_follows_time_then_place_and_goes_on_after_what_is_there(
    take: Take, store: Store
) -> None:
    take("late,c,2026-01-07,1,,,,,", "tie1,c,2026-01-06,1,,,,,", "tie2,c,2026-01-06,1,,,,,")
    take("early,c,2026-01-01,1,,,,,", name="b.csv")
    ordered = store.rows("SELECT seq, transaction_id AS id FROM transactions ORDER BY seq")
    assert [(row["seq"], row["id"]) for row in ordered] == [
        (0, "tie1"),
        (1, "tie2"),
        (2, "late"),
        (3, "early"),
    ]


def test_several_files_are_one_history(tmp_path: Path, store: Store) -> None:
    for name, day in (("b", 1), ("a", 2), ("c", 3)):
        text = f"{HEADER}\n{name},c,2026-01-0{day},1,,,,,\n"
        (tmp_path / f"part-{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    summary = import_files(
        [tmp_path / "part-*.csv.gz", tmp_path / "part-a.csv.gz"], store, progress=False
    )
    assert (len(summary.files), summary.accepted) == (3, 3)
    found = store.rows("SELECT transaction_id, source FROM transactions ORDER BY seq")
    assert [row["transaction_id"] for row in found] == ["b", "a", "c"]
    assert found[0]["source"] == "part-b.csv.gz"


def test_rows_of_one_time_keep_the_order_of_their_file(tmp_path: Path, store: Store) -> None:
    n = 300_000  # in pieces that two threads read at once
    ids = [f"t{i}" for i in range(n)]
    same = {"customer_id": ["c"] * n, "ts": ["2026-01-01"] * n, "amount": [5.0] * n}
    table = pa.table({"transaction_id": ids, **same, "is_fraud": [0] * n})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=20_000)
    import_files(tmp_path / "rows.parquet", store, progress=False)
    stored = store.query("SELECT transaction_id FROM transactions ORDER BY seq")
    assert stored["transaction_id"].tolist() == ids


def test_the_order_of_arrival_is_kept_for_live_rows(store: Store) -> None:
    with store.writing() as session:
        good, _ = checked(session, live(["b", "a"], minutes=[5, 0]), "stream")
    assert good["transaction_id"].to_pylist() == ["b", "a"]


# --- time, numbers, texts --------------------------------------------------------------------

NOON = "2026-01-05 12:00:00"


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-05 12:00:00",
        "2026-01-05T12:00:00Z",
        "2026-01-05T14:00:00+02:00",
        "2026-01-05T07:00:00.000000-0500",
        "2026-01-05 13:00:00 Europe/Berlin",
        "2026/01/05 12:00",
        " 2026-01-05 12:00:00 ",
        "1767614400",
        "1767614400.0",
        "1767614400000",
        "1767614400000000",
        "1767614400000000000",
    ],
)
def test_a_time_becomes_utc_however_it_is_written(take: Take, store: Store, written: str) -> None:
    take(f"a,c,{written},1,,,,,")
    assert store.rows("SELECT ts::VARCHAR AS ts FROM transactions") == [{"ts": NOON}]


@pytest.mark.parametrize(
    "written", ["05/06/2026", "yesterday", "20260105", "12:00", "1970-01-01", "infinity", "-1", "2"]
)
def test_a_time_that_could_be_several_or_none_is_not_guessed(take: Take, written: str) -> None:
    assert sum(take(f"a,c,{written},1,,,,,", GOOD).rejected.values()) == 1


NOON_PARQUET = [
    pa.array([datetime(2026, 1, 5, 12)], pa.timestamp("ns")),
    pa.array([datetime(2026, 1, 5, 12)], pa.timestamp("s")),
    pa.array([datetime(2026, 1, 5, 12, tzinfo=UTC)], pa.timestamp("us", "America/New_York")),
    pa.array(["2026-01-05T12:00:00Z"]),
    pa.array([1767614400], pa.int32()),
    pa.array([1767614400000], pa.int64()),
    pa.array([1767614400.0]),
]


@pytest.mark.parametrize("ts", NOON_PARQUET, ids=lambda array: str(array.type))
def test_a_parquet_column_of_times_may_have_any_type(
    tmp_path: Path, store: Store, ts: pa.Array
) -> None:
    table = pa.table({"customer_id": [7.0], "ts": ts, "amount": pa.array([96.45], pa.float32())})
    pq.write_table(table, tmp_path / "a.parquet")
    import_files(tmp_path / "a.parquet", store, progress=False)
    (row,) = store.rows("SELECT customer_id, ts::VARCHAR AS ts, amount FROM transactions")
    assert row == {"customer_id": "7", "ts": NOON, "amount": 96.45}


def test_a_frame_with_gaps_keeps_its_meaning(tmp_path: Path, store: Store) -> None:
    frame = pd.DataFrame(
        {
            "customer_id": [596.0, np.nan, 3.5],
            "ts": pd.to_datetime(["2026-01-05", "2026-01-05", None]),
            "amount": [np.nan, 1.0, 1.0],
            "lat": [np.nan, 1.0, 2.0],
            "lon": [np.nan, np.nan, 2.0],
            "is_fraud": [1.0, np.nan, 2.0],
        }
    )
    good = frame.assign(
        customer_id=596.0, ts=frame["ts"][0], amount=1.0, lon=frame["lat"], is_fraud=1.0
    )
    pd.concat([frame, good]).to_parquet(tmp_path / "a.parquet")
    summary = import_files(tmp_path / "a.parquet", store, progress=False)
    assert summary.accepted == 3
    assert sum(summary.rejected.values()) == 3
    assert store.rows("SELECT DISTINCT customer_id FROM transactions") == [{"customer_id": "596"}]
    for row in store.rows("SELECT raw FROM rejected"):
        json.loads(row["raw"], parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((word, True) for word in ("1", "true", "Yes", "1.0", "T")),
        *((word, False) for word in ("0", "FALSE", "no", "0.0", "f")),
        ("", None),
    ],
)
def test_a_label_is_yes_or_no_or_not_known(
    take: Take, store: Store, written: str, meant: bool | None
) -> None:
    take(GOOD[:-1] + written)
    found = [row["is_fraud"] for row in store.rows("SELECT is_fraud FROM labels")]
    assert found == ([] if meant is None else [meant])


def test_a_label_is_known_after_the_delay_and_only_a_fraud_has_a_scenario(
    take: Take, store: Store
) -> None:
    content = "customer,time,amt,fraud,kind\nc,2026-01-05,1,1,spike\nc,2026-01-05,2,0,none\n"
    take(content=content, label="fraud", scenario="kind", label_delay_days=0.5)
    found = store.rows("SELECT is_fraud, scenario, known_at FROM labels ORDER BY is_fraud")
    known_at = datetime(2026, 1, 5, 12)
    assert found == [
        {"is_fraud": False, "scenario": None, "known_at": known_at},
        {"is_fraud": True, "scenario": "spike", "known_at": known_at},
    ]
    with pytest.raises(InputError, match="delay"):
        take(GOOD, label_delay_days=-1)


# --- columns ---------------------------------------------------------------------------------


def test_usual_names_are_recognised_and_told(take: Take) -> None:
    content = "Card Number;Date-Time;AMT;Merchant.Name;MCC\nc;2026-01-05;1;m;5411\n"
    summary = take(content=content)
    assert summary.accepted == 1
    assert summary.guessed == {
        "customer_id": "Card Number",
        "ts": "Date-Time",
        "amount": "AMT",
        "merchant_id": "Merchant.Name",
        "category": "MCC",
    }


def test_sparkov_takes_the_place_of_the_merchant(take: Take, store: Store) -> None:
    content = (
        "trans_num,trans_date_trans_time,cc_num,merchant,category,amt,lat,long,merch_lat,"
        "merch_long,is_fraud\n"
        "x,2020-01-01 00:00:01,4263,fraud_A,misc,4.97,36.07,-81.1,36.01,-82.04,0\n"
    )
    assert take(content=content, preset="sparkov").accepted == 1
    (row,) = store.rows("SELECT transaction_id, lat, lon FROM transactions")
    assert row == {"transaction_id": "x", "lat": 36.01, "lon": -82.04}


# --- files -----------------------------------------------------------------------------------

LINES = f"{HEADER}\n{GOOD}\n".encode()
PARQUET = pa.BufferOutputStream()
pq.write_table(pa.table({"a": list(range(1000))}), PARQUET)
PARQUET_BYTES = PARQUET.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", HEADER.encode(), "no rows"),
        ("a.csv", PARQUET_BYTES, "looks like a Parquet file"),
        ("a.csv", gzip.compress(LINES), "looks like gzip"),
        ("a.csv", b"PK\x03\x04" + LINES, "ZIP archive or spreadsheet"),
        ("a.csv", LINES.decode().encode("utf-16"), "UTF-16"),
        ("a.csv", "café".encode("latin-1") + b"\n" + LINES, "not UTF-8"),
        ("a.csv", b"\x00\x01\x02\n" + LINES, "not text"),
        ("a.csv", b"\n\n", "line of names first"),
        ("a.csv", LINES.replace(b"\n", b"\r\n", 1), "cannot be read as CSV"),
        ("a.parquet", LINES, "is not a Parquet file"),
        ("a.parquet", PARQUET_BYTES[:-9], "cut off"),
        ("a.parquet", b"PAR1" + b"x" * 50 + b"PAR1", "cannot be read as Parquet"),
        ("a.csv.gz", LINES, "is not gzip"),
        ("a.csv.gz", gzip.compress(LINES * 99)[:-9], "cut off"),
        ("a.csv.gz", gzip.compress(LINES)[:-6] + b"xxxxxx", "damaged"),
        ("a.xlsx", b"PK\x03\x04", "does not say what it is"),
        ("noname", LINES, "does not say what it is"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused_in_one_line(
    take: Take, store: Store, name: str, content: bytes, told: str
) -> None:
    with pytest.raises(FileUnreadable, match=told) as e:
        take(name=name, content=content)
    assert name in str(e.value)
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there_is_named_with_close_ones(tmp_path: Path, store: Store) -> None:
    (tmp_path / "payments.csv").write_bytes(LINES)
    for name, told in (
        ("payment.csv", "There is no file .*Did you mean payments.csv"),
        ("*.tsv", "No file matches"),
        (".", "is a folder"),
    ):
        with pytest.raises(FileUnreadable, match=told):
            import_files(tmp_path / name, store)
    with pytest.raises(FileUnreadable, match="No file was given"):
        import_files([], store)
    assert not store.path.exists()


@pytest.mark.parametrize("name", ["a[1]*?.csv", "a b'c.CSV", "year=2020/a.csv", "a.tsv", "a.txt"])
def test_any_name_of_a_file_is_fine(tmp_path: Path, store: Store, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(LINES.replace(b",", b"\t") if name.endswith(".tsv") else LINES)
    assert import_files(path, store, progress=False).accepted == 1


@pytest.mark.parametrize("between", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_do_not_matter(
    take: Take, between: bytes, start: bytes
) -> None:
    summary = take(content=start + LINES.replace(b"\n", between))
    assert (summary.accepted, summary.rejected) == (1, {})


def test_strict_imports_nothing_if_a_row_is_bad(take: Take, store: Store) -> None:
    with pytest.raises(InputError, match=r"1 of 2 rows are bad \(ts is missing: 1\)"):
        take(GOOD, BAD["ts is missing"], strict=True)
    assert take(GOOD, strict=True).accepted == 1
    assert reasons(store) == {}


def test_a_failure_at_the_second_file_leaves_nothing_of_the_first(
    tmp_path: Path, store: Store
) -> None:
    (tmp_path / "1.csv").write_bytes(LINES)
    (tmp_path / "2.csv").write_bytes(LINES.replace(b"\n", b"\r\n", 1))
    with pytest.raises(FileUnreadable, match=r"2\.csv"):
        import_files(tmp_path / "*.csv", store, progress=False)
    with store.writing() as session:
        assert session.rows("SELECT * FROM transactions") == []


# --- live rows -------------------------------------------------------------------------------


def live(ids: list[str], minutes: list[int] | None = None, **columns: Any) -> pa.Table:
    start = datetime(2026, 1, 5)
    times = [start + timedelta(minutes=m) for m in minutes or range(len(ids))]
    table = {"transaction_id": ids, "customer_id": ["c"] * len(ids), "amount": [1.0] * len(ids)}
    return pa.table(table | {"ts": pa.array(times, pa.timestamp("us"))} | columns)


def test_live_rows_pass_the_same_checks(store: Store) -> None:
    rows = live(["a", "b", "c", "a"], amount=[1.0, float("nan"), 2.0, 1.0], minutes=[0, 1, 2, 0])
    with store.writing() as session:
        good, refused = checked(session, rows, "stream")
        again, _ = checked(session, rows.to_pandas(), "stream")
        more, _ = checked(session, live(["d"]).append_column("seq", [[77]]), "stream")
    assert good["transaction_id"].to_pylist() == ["a", "c", "a"]
    assert refused["reason"].to_pylist() == ["amount is not a number"]
    assert refused["source"].to_pylist() == ["stream"]
    assert json.loads(refused["raw"][0].as_py())["transaction_id"] == "b"
    assert again.equals(good)
    assert "seq" not in more.column_names
    assert store.rows("FROM transactions") == []


def test_live_rows_with_wrong_columns_are_refused(store: Store) -> None:
    with store.writing() as session:
        with pytest.raises(ColumnError, match="Did you mean amount"):
            checked(session, live(["a"]).append_column("amout", [[1.0]]), "stream")
        with pytest.raises(ColumnError, match="lack"):
            checked(session, live(["a"]).drop_columns("ts"), "stream")


def test_file_and_stream_store_the_same_row(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "live.parquet"
    pq.write_table(live(["a"]), path)
    import_files(path, store, source="live", progress=False)
    other = connect(tmp_path / "other.duckdb")
    with other.writing() as session:
        good, _ = checked(session, live(["a"]), "live")
    (kept,) = store.rows("SELECT * EXCLUDE (seq, source) FROM transactions")
    meant = {name: kept.pop(name) for name in MEANT}
    assert meant["clock"] == "assumed"
    kept |= {"utc_offset": None, "clock": None}  # settled when it is scored
    moment = kept["ts"].replace(tzinfo=UTC).timestamp()
    assert good.to_pylist() == [kept | {"ts": round(moment * 1e6)}]


# --- amounts that a simulator rounded down ---------------------------------------------------

HANDBOOK = (
    "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO\n"
)


def test_only_a_preset_that_rounds_down_reads_an_amount_of_zero(take: Take, store: Store) -> None:
    rows = (
        "1,2018-04-01 00:00:31,596,3156,0.00,0,0\n"
        "2,2018-04-01 00:02:10,4961,3412,-0.01,0,0\n"
        "broken,line\n"
        "3,2018-04-01 00:03:00,4961,3412,81.51,0,0\n"
    )
    summary = take(content=HANDBOOK + rows, preset="handbook")
    assert (summary.accepted, summary.zeros_read, summary.zeros_as) == (3, 1, 0.01)
    kept = "SELECT amount, kind FROM transactions ORDER BY seq"
    assert [tuple(row.values()) for row in store.rows(kept)] == [
        (0.01, None), (0.01, "refund"), (81.51, None),
    ]  # fmt: skip
    assert reasons(store) == {"line has too few columns": 1}
    assert take("z1,c1,2026-01-05 10:00:00,0,m1,grocery,,,0").accepted == 1
    assert tuple(store.rows(kept)[-1].values()) == (0, "verification")


@pytest.mark.parametrize("column", ["MCC", "merchant_category_code"])
def test_a_category_code_that_was_a_number_has_its_zeros_again(
    take: Take, store: Store, column: str
) -> None:
    lines = ["742", "5411", "0743", "food", "", "54111"]
    head = f"transaction_id,customer_id,ts,amount,{column}\n"
    rows = (f"t{i},c1,2026-01-05 10:00:0{i},5,{said}\n" for i, said in enumerate(lines))
    assert take(content=head + "".join(rows), mapping={"category": column}).accepted == 6
    kept = [row["category"] for row in store.rows("SELECT category FROM transactions ORDER BY seq")]
    assert kept == ["0742", "5411", "0743", "food", None, "54111"]


def test_a_number_that_is_a_category_of_their_own_stays(take: Take, store: Store) -> None:
    head = "transaction_id,customer_id,ts,amount,category\n"
    assert take(content=head + "t1,c1,2026-01-05 10:00:00,5,7\n").accepted == 1
    assert store.value("SELECT category FROM transactions") == "7"
