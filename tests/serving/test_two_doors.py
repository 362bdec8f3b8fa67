"""The two doors, files and REST, keep the same of a row, or refuse it for the same reason.

They differ on purpose in what is not generated here. REST takes times in ISO 8601 and numbers as
numbers, and a row must have its id; a file also takes Unix times, other ways of writing a time,
numbers and ids of any type, NaN for a missing place, labels, and makes an id where there is none.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aegis_core.intake import import_files
from aegis_core.intake.links import link
from aegis_core.schema import ENTITIES, SCHEMA_VERSION
from aegis_core.serving import batches, schemas
from aegis_core.store import Store, connect
from aegis_core.store.meaning import Meaning

# ---- rows

BLANKS: Final = " \u00a0\u2003\u3000"
ODD: Final = "\t\n\v\r\x00\x1c\x7f\x85\u2028\u2029\u200b\ufeff\u0301🂡"
TIMES = ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000001Z", "1970-01-01T00:00:00.0000009Z",
         "2099-12-31T23:59:59.9999999Z", "2100-01-01T00:00:00Z", "2100-01-01T00:30:00+01:00",
         "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "9999-12-31T24:00:00",
         "2026-03-01t12:00:00z", "2026-03-01T12:00Z", "2026-03-01 12:00:00+02",
         "2026-03-01T12:00:00,5", "2016-12-31T23:59:60Z", "2026-03-01T24:00:00",
         "2026-03-01T24:00:00.5", "2026-03-01T12:00:00+24:00", "2026-03-01T12:00:00+02:60",
         "0000-02-30T00:00:00"]  # fmt: skip


def mostly(usual: st.SearchStrategy[Any], *odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Three of four as usual, the others odd."""
    return st.integers(0, 3).flatmap(lambda n: usual if n else st.one_of(*odd))


def digits(usual: int, most: int, width: int = 2) -> st.SearchStrategy[str]:
    """A part of a time, now and then beyond its end."""
    return mostly(st.integers(1, usual), st.integers(0, most)).map(lambda n: f"{n:0{width}d}")


PAD = mostly(st.just(""), st.text(BLANKS, max_size=3), st.text(BLANKS + ODD, max_size=2))
WORDS = st.sampled_from(
    ["c1", "Zoë", "x" * 200, "ä" * 200, "🂡" * 200, "x" * 201, "'; --", "nan", "4.1E+15", "NaNa"]
)
WORD = mostly(WORDS, st.text(BLANKS + ODD + "ab", max_size=4), st.text(max_size=4))
TEXT = mostly(st.builds("{}{}{}".format, PAD, WORD, PAD), st.none(), st.text(BLANKS, max_size=2))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers().map(str)
AMOUNTS = ["0", "-0.0", "-1", "1e12", "1000000000000.0001", "1000000000001", "1E2", "1e-300",
           "0.001", "1e-3",
           "0.0009999999999999999", "5e-324", "1e-400", "1e400", "-1e400", "9" * 400]  # fmt: skip
AMOUNT = mostly(st.floats(0.01, 1e6).map(repr), NUMBERS, st.sampled_from(AMOUNTS), st.none())
DEGREES = ["90", "-90", "90.00000000000001", "180", "-180", "-180.00000000000003", "1e400", "-0"]
DEGREE = mostly(st.floats(-90, 90).map(repr), NUMBERS, st.sampled_from(DEGREES), st.none())
DATE = st.builds(
    "{}-{}-{}".format,
    mostly(st.just("2026"), st.sampled_from(["0000", "0001", "1969", "1970", "2099", "2100"])),
    *(digits(12, 13), digits(28, 32)),
)  # fmt: skip
CLOCK = st.builds(
    "{}{}:{}{}{}{}".format,
    *(st.sampled_from("TTT t"), digits(23, 25), digits(59, 61)),
    mostly(digits(59, 61).map(":{}".format), st.just("")),
    mostly(st.just(""), st.from_regex(r"[.,][0-9]{1,12}", fullmatch=True)),
    st.one_of(
        st.sampled_from(["", "Z", "z"]),
        st.builds("{}{}{}".format, st.sampled_from("+-"), digits(14, 25), st.just("")),
        st.builds(
            "{}{}{}{}".format,
            *(st.sampled_from("+-"), digits(14, 25), st.sampled_from(["", ":"]), digits(59, 61)),
        ),
    ),
)
TIME = mostly(
    st.builds("{}{}{}".format, st.text(BLANKS, max_size=1), DATE, mostly(CLOCK, st.just(""))),
    *(st.sampled_from(TIMES), st.sampled_from(["soon", "", " ", None])),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"before": PAD, "after": PAD, "customer_id": TEXT, "timestamp": TIME, "amount": AMOUNT},
        optional={
            **dict.fromkeys(("merchant_id", "channel", "zone", "original_id", *ENTITIES), TEXT),
            "ip": TEXT
            | st.sampled_from(["2001:DB8:0::1", "::FFFF:192.0.2.1", "1::2::3", "fe80::1%A"]),
            "category": TEXT | st.sampled_from(["Salary", "wage"]),
            "currency": TEXT | st.sampled_from(["eur", "392", "048", "GBp", "ſ"]),
            "kind": TEXT | st.sampled_from(["Refund", "CASH-OUT", "payment", "crdt", "ı"]),
            "status": TEXT | st.sampled_from(["Paid", "DECLINED", "timed out", "K"]),
            **dict.fromkeys(("lat", "lon"), DEGREE),
        },
    ),
    min_size=25,
    max_size=40,
)
COLUMNS = ("transaction_id", "customer_id", "timestamp", "amount", "currency", "merchant_id",
           "category", "channel", "lat", "lon", "kind", "status", "zone",
           "original_id", "card_id", "device_id", "email", "ip")  # fmt: skip
NUMERIC = ("amount", "lat", "lon")

Came = dict[int, str | Mapping[str, Any]]
"""What became of each row: why it was refused, or what is stored of it."""


# ---- doors


def parts(many: batches.Many) -> list[tuple[dict[str, Any] | None, str]]:
    """Each row of a batch as it is told of one that is sent alone."""
    rows, n = iter(many.rows), len(many.rows) + len(many.wrong)
    wrong = many.wrong
    return [(None, wrong[i][0]) if i in wrong else (next(rows), "") for i in range(n)]


def by_rest(rows: list[dict[str, Any]]) -> Came:
    """What the check of a POST makes of rows, alone and in both kinds of batches."""
    bodies = []
    for row in rows:
        sent = {k: v if k in NUMERIC and v else json.dumps(v) for k, v in row.items()}
        bodies.append("{" + ", ".join(f'"{k}": {v}' for k, v in sent.items() if k in COLUMNS) + "}")
    alone = [schemas.checked(body.encode()) for body in bodies]
    for kind, batch in (
        ("application/json", f"[{', '.join(bodies)}]"),
        ("application/x-ndjson", "\n".join(bodies)),
    ):
        assert parts(batches.checked_all(batch.encode(), kind)) == alone
    return {
        i: why.replace("timestamp", "ts") if row is None else row
        for i, (row, why) in enumerate(alone)
    }


def from_store(store: Store, source: str) -> Came:
    """What became of the rows of a file."""
    stored = store.rows(
        "SELECT * REPLACE (epoch_us(ts) AS ts), seq FROM transactions WHERE source = ?", [source]
    )
    refused = store.rows("SELECT raw, reason FROM rejected WHERE source = ?", [source])
    came: Came = {int(json.loads(row["raw"])["place"]): row["reason"] for row in refused}
    for row in stored:
        kept = {name: value for name, value in row.items() if name not in ("seq", "source")}
        if kept["clock"] != "sent":  # what REST finds when it is scored
            kept |= {"utc_offset": None, "clock": "date" if kept["clock"] == "date" else None}
        names = ("ts" if name == "timestamp" else name for name in COLUMNS)
        kept = {name: kept[name] for name in (*names, "utc_offset", "clock")}
        came[int(row["transaction_id"].split("#")[1])] = kept
    return came


def by_parquet(store: Store, folder: Path, table: pa.Table, source: str) -> None:
    """Numbers as numbers, times as text."""
    path = folder / "rows.parquet"
    pq.write_table(table, path)
    import_files([path], store, source=source, progress=False)


def by_csv(store: Store, folder: Path, table: pa.Table, source: str) -> None:
    """All of it as text, numbers in the digits of the JSON."""
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [table.column_names, *zip(*table.to_pydict().values(), strict=True)]
        )
    import_files([path], store, source=source, progress=False)


def as_table(rows: list[dict[str, Any]], *, numbers: bool) -> pa.Table:
    """The rows as columns, `place` beside them."""
    columns: dict[str, Any] = {"place": pa.array([str(i) for i in range(len(rows))])}
    for name in COLUMNS:
        values = [row.get(name) for row in rows]
        if numbers and name in NUMERIC:
            values = [None if v is None else float(v) for v in values]
            columns[name] = pa.array(values, pa.float64())
        else:
            columns["ts" if name == "timestamp" else name] = pa.array(values, pa.string())
    return pa.table(columns)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, count[int]]:
    folder = tmp_path_factory.mktemp("doors")
    store = connect(folder / "aegis.duckdb")
    link(store, [("Zoë", "c1"), ("ä" * 200, "Zoë")], "test", who="anna")
    return store, folder, count()


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(rows=ROWS)
def test_files_and_rest_keep_the_same_and_refuse_for_the_same_reason(
    kept: tuple[Store, Path, count[int]], rows: list[dict[str, Any]]
) -> None:
    store, folder, number = kept
    with store.reading() as session:
        linked = Meaning.read(session).linked
    paid = {"before": "", "after": "", "customer_id": "c", "timestamp": "2026-03-01", "amount": "5"}
    rows += [dict(paid) for _ in rows]  # so that most of a file's amounts are above 0
    for door, numbers in ((by_parquet, True), (by_csv, False)):
        source = f"{door.__name__} {next(number)}"
        for i, row in enumerate(rows):
            row["transaction_id"] = f"{row['before']}{source}#{i}#{row['after']}"
        door(store, folder, as_table(rows, numbers=numbers), source)
        filed, posted = from_store(store, source), by_rest(rows)
        posted = {i: row if isinstance(row, str) else linked(row) for i, row in posted.items()}
        differ = [i for i in posted if filed.get(i) != posted[i]]
        assert [(rows[i], filed.get(i), posted[i]) for i in differ] == []


@pytest.mark.parametrize(
    ("name", "filed", "posted", "kept"),
    [
        ("email", "Anna@Example.org", "ANNA@example.ORG", "anna@example.org"),
        ("ip", "2001:DB8:0:0::1", "2001:db8::0:1", "2001:db8::1"),
        ("ip", "::FFFF:192.0.2.1", "192.0.2.1", "192.0.2.1"),
    ],
)
def test_who_is_one_is_one_however_it_is_written(
    tmp_path: Path, name: str, filed: str, posted: str, kept: str
) -> None:
    store, file = connect(tmp_path / "aegis.duckdb"), tmp_path / "who.csv"
    file.write_text(f"transaction_id,customer_id,ts,amount,{name}\na,c,2026-01-01,1,{filed}\n")
    import_files([file], store, progress=False)
    sent = {"transaction_id": "a", "customer_id": "c", "timestamp": "2026-01-01T00:00", "amount": 1}
    row, why = schemas.checked(json.dumps(sent | {name: posted}).encode())
    assert row is not None, why
    assert store.value(f"SELECT {name} FROM transactions") == row[name] == kept
    assert import_files([file], store, progress=False).already_there == 1


ONE_MORE = (
    f"since = {SCHEMA_VERSION + 1}"
    """
import importlib.util, json, sys
from pathlib import Path

spec = importlib.util.find_spec("aegis_core.schema")
text = Path(spec.origin).read_text("utf-8")
entry = f'    Column(name="tablet", title="Tablet", replayed=True, since={since}),\\n'
end = ')  # fmt: skip\\n' + '"' * 3 + 'What a transaction brings'
assert text.count(end) == 1
schema = sys.modules["aegis_core.schema"] = importlib.util.module_from_spec(spec)
exec(compile(text.replace(end, entry + end), spec.origin, "exec"), schema.__dict__)

from aegis_core.detection.history import transactions
from aegis_core.intake import import_files
from aegis_core.serving import client, rows, schemas
from aegis_core.store import connect
from aegis_core.views.dashboard import feed, log

store = connect(Path(sys.argv[1]))
path = Path(sys.argv[1]).with_name("more.csv")
path.write_text("customer_id,ts,amount,tablet\\nc,2026-01-01,2, d1 \\n")
import_files([path], store, progress=False)
row, why = schemas.checked(json.dumps({"transaction_id": "a", "customer_id": "c", "amount": 1,
    "timestamp": "2026-01-01", "tablet": " d1 "}).encode())
print(json.dumps({
    "stored": store.rows("SELECT tablet FROM transactions ORDER BY seq"),
    "replayed": transactions(store).tablet.tolist(), "posted": row["tablet"], "why": why,
    "sent": "tablet" in client.SENT, "content": "tablet" in rows.CONTENT,
    "log": ["tablet", "Tablet", "text"] in [list(c) for c in log.COLUMNS],
    "file": "tablet" in log._IN_FILE, "window": "AS tablet" in feed._WINDOW,
}))
"""
)


def test_an_optional_column_is_one_entry(tmp_path: Path) -> None:
    database, first = tmp_path / "older.duckdb", tmp_path / "first.csv"
    first.write_text("customer_id,ts,amount\nc,2026-01-01,1\n")
    import_files([first], connect(database), progress=False)
    found = subprocess.run(
        [sys.executable, "-c", ONE_MORE, str(database)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    assert told.pop("stored") == [{"tablet": None}, {"tablet": "d1"}]
    assert told.pop("replayed")[1] == "d1"
    assert (told.pop("posted"), told.pop("why")) == ("d1", "")
    assert list(told.values()) == [True] * 5, told
