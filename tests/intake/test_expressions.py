"""A column may be computed by SQL that can do nothing else."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aegis_core.cli import main
from aegis_core.errors import ColumnError, InputError, NotReady
from aegis_core.intake.importing import import_files
from aegis_core.store import Store

HEAD = "User,Card No,Year,Month,Day,Clock,Cents,Fee,Ref,z"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f.csv"
    rows = ["u1,007,2026,4,1,06:21:30.5,1250,0.5,tx:a1,", "u1,008,2026,4,2,23:00:00,990,1,tx:a2,Y"]
    path.write_text("\n".join([HEAD, *rows, ""]))
    return path


USUAL = {"customer_id": "User", "ts": "make_date(Year, Month, Day)", "amount": "Cents / 100"}


def read(file: Path, store: Store, **mapping: str) -> list[dict[str, Any]]:
    summary = import_files(file, store, mapping=USUAL | mapping, progress=False)
    assert summary.rejected == {}
    return store.rows("FROM transactions ORDER BY seq")


@pytest.mark.parametrize(
    ("name", "expression", "values"),
    [
        ("amount", "Cents / 100", [12.5, 9.9]),
        ("amount", "round(Cents / 100 - Fee, 1)", [12.0, 8.9]),
        ("amount", "CASE WHEN z = 'Y' THEN Cents ELSE Fee END", [0.5, 990]),
        ("amount", "if(Cents > 1000, 1, 2)", [1, 2]),
        ("amount", "Cents::INT + 1", [1251, 991]),
        ("customer_id", "concat(User, '-', \"Card No\")", ["u1-007", "u1-008"]),
        ("customer_id", "upper(user) || right(\"Card No\", 1)", ["U17", "U18"]),
        ("merchant_id", "nullif(lower(z), 'y')", [None, None]),
        ("merchant_id", "coalesce(z, 'none')", ["none", "Y"]),
        ("transaction_id", "split_part(Ref, ':', 2)", ["a1", "a2"]),
        ("transaction_id", r"regexp_extract(Ref, '(\d)$', 1)", ["1", "2"]),
        ("ts", "make_timestamp(Year, Month, Day, 6, 21, 30.5)",
         [dt.datetime(2026, 4, d, 6, 21, 30, 500_000) for d in (1, 2)]),
        ("ts", "make_date(Year, Month, Day) + Clock::TIME",
         [dt.datetime(2026, 4, 1, 6, 21, 30, 500_000), dt.datetime(2026, 4, 2, 23)]),
        ("ts", "make_timestamp(Year, Month, Day, 0, 0, 0) + INTERVAL 90 MINUTE",
         [dt.datetime(2026, 4, d, 1, 30) for d in (1, 2)]),
        ("ts", "lpad(Day, 2, '0') || '.04.' || Year",
         [dt.datetime(2026, 4, d) for d in (1, 2)]),
    ],
)  # fmt: skip
def test_a_column_is_computed(
    name: str, expression: str, values: list[Any], file: Path, store: Store
) -> None:
    assert [row[name] for row in read(file, store, **{name: expression})] == values


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("(SELECT 1)", "a query cannot be used"),
        ("Cents = ANY (SELECT 1)", "a query cannot be used"),
        ("Cents) FROM range(3) WHERE (true", "no single expression"),
        ("1), (2", "no single expression"),
        ("1); SELECT (2", "no single expression"),
        ("lower(Nothing)", r"no column 'Nothing'; it has User, Card No"),
        ("coalesce(current_date, z)", "no column 'current_date'"),
        ("(f.Cents)", "f.Cents: a column's name with a point"),
        ("current_setting('memory_limit')", "the function current_setting cannot be used"),
        ("random() * 2", "the function random cannot"),
        ("now()::TIMESTAMP", "the function now cannot"),
        ("nextval('s')", "the function nextval cannot"),
        ("sum(Cents)", "the function sum cannot"),
        ("uper(z)", r"the function uper cannot.*Did you mean upper"),
        ("z.lower()", "the function lower cannot"),
        ("lower(DISTINCT z)", "DISTINCT, FILTER and ORDER BY of lower"),
        ("row_number() OVER ()", "a window cannot"),
        ("list_transform([1], x -> x)", "the function list_transform cannot"),
        ("coalesce(x -> x, 1)", "a lambda cannot"),
        ("coalesce(*COLUMNS('C.*'))", "the operator OPERATOR_UNPACK cannot"),
        ("coalesce($1, 1)", "no single expression"),
        ("(z COLLATE nocase)", "COLLATE cannot"),
        ("z::blob", "no cast to BLOB"),
        ("z::something", "no cast to something"),
        ("('a')[1]", "the operator ARRAY_EXTRACT cannot"),
        ("lower(", "no column, and no SQL expression: syntax error"),
        ("date_part('year', z)", r"date_part.*Day::DATE a date"),
        ("INTERVAL (Cents) DAY", "it gives INTERVAL"),
    ],
)  # fmt: skip
def test_what_is_more_than_computing_is_refused_by_its_name(
    expression: str, told: str, file: Path, store: Store
) -> None:
    with pytest.raises(ColumnError, match=f"--map amount=.*{told}"):
        read(file, store, amount=expression)
    with pytest.raises(NotReady):
        store.rows("FROM transactions")


def test_a_macro_of_the_database_is_no_function_of_an_expression(file: Path, store: Store) -> None:
    with store.writing() as session:
        session.execute("CREATE MACRO upper(x) AS 'another'")
    assert read(file, store, merchant_id="upper(Ref)")[0]["merchant_id"] == "TX:A1"


def test_a_row_whose_value_cannot_be_computed_is_refused(file: Path, store: Store) -> None:
    lines = file.read_text().splitlines()
    months = [
        line.replace(",2026,4,", f",2026,{m},") for m, line in ((13, lines[1]), (4, lines[2]))
    ]
    file.write_text("\n".join([HEAD, *months, ""]))
    with pytest.raises(InputError, match=r"1 of 2 rows are bad.*--partial"):
        import_files(file, store, mapping=USUAL, most_rejected=0.01, progress=False)
    summary = import_files(file, store, mapping=USUAL, progress=False)
    assert summary.rejected == {"ts cannot be computed": 1}
    (kept,) = store.rows("FROM rejected")
    assert '"Month":"13"' in kept["raw"]
    assert "make_date" not in kept["raw"]


def test_a_value_that_is_none_is_no_failure(file: Path, store: Store) -> None:
    assert [row["category"] for row in read(file, store, category="nullif(z, 'Y')")] == [None, None]
    summary = import_files(file, store, mapping=USUAL | {"customer_id": "lower(z)"}, progress=False)
    assert summary.rejected == {"customer_id is missing": 1}


def test_columns_that_have_a_type_keep_it(tmp_path: Path, store: Store) -> None:
    at = dt.datetime(2026, 4, 1, 10, tzinfo=dt.UTC).replace(tzinfo=None)
    rows = pa.table(
        {"who": [7], "at": pa.array([at], pa.timestamp("us")), "cents": [1250], "f": [2.5]}
    )
    pq.write_table(rows, tmp_path / "f.parquet")
    mapping = {"customer_id": "who", "ts": '"at" - INTERVAL 1 DAY', "amount": "cents / 100 + f"}
    import_files(tmp_path / "f.parquet", store, mapping=mapping, progress=False)
    (row,) = store.rows("FROM transactions")
    assert (row["ts"], row["amount"]) == (at - dt.timedelta(days=1), 15.0)


def test_a_name_with_brackets_is_a_column_before_it_is_sql(tmp_path: Path, store: Store) -> None:
    (tmp_path / "f.csv").write_text("c,lower(x),Paid (EUR)\nc,2026-04-01,5\n")
    mapping = {"customer_id": "c", "ts": "lower(x)", "amount": "Paid (EUR)"}
    assert import_files(tmp_path / "f.csv", store, mapping=mapping, progress=False).accepted == 1


def test_a_dry_run_shows_what_is_computed_and_it_is_kept_with_the_form(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    said = [part for name, text in USUAL.items() for part in ("--map", f"{name}={text}")]
    kept = str(tmp_path / "mybank.toml")
    assert main(["import", str(file), *said, "--dry-run", "--save-as", kept]) == 0
    told = capsys.readouterr().out
    assert "Cents / 100" in told
    assert "computed: 12.5, 9.9" in told
    assert "computed: 2026-04-01, 2026-04-02" in told
    assert main(["import", str(file), "--as", kept]) == 0
    assert "2 accepted" in capsys.readouterr().out
