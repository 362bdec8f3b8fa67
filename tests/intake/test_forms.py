# ruff: noqa: E501
"""A column has one form, told by all its values: what could be two is asked for."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aegis_core.cli import main
from aegis_core.errors import AegisError, ColumnError, InputError, NotReady
from aegis_core.intake.importing import ImportSummary, import_files
from aegis_core.intake.presets import PRESETS
from aegis_core.intake.said import Said
from aegis_core.store import Store

Read = Callable[..., ImportSummary]


@pytest.fixture
def read(store: Store, tmp_path: Path) -> Read:
    """Import the lines of a file."""

    def read(*lines: str, encoding: str = "utf-8", name: str = "f.csv", **given: Any) -> Any:
        (tmp_path / name).write_bytes("\n".join([*lines, ""]).encode(encoding))
        return import_files(tmp_path / name, store, progress=False, **given)

    return read


def column(store: Store, name: str) -> list[Any]:
    return [row[name] for row in store.rows(f"SELECT {name} FROM transactions ORDER BY rowid")]


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


TIMES: dict[str, tuple[list[str], Said, list[str]]] = {
    "digits to the minute": (["202604010000", "202604010500"], Said(), ["2026-04-01", "2026-04-01T05:00"]),
    "digits to the second": (["20260401235959"], Said(), ["2026-04-01T23:59:59"]),
    "digits of a day": (["20260401", "20260402"], Said(), ["2026-04-01", "2026-04-02"]),
    "two digits of the year": (["930101", "930212"], Said(), ["1993-01-01", "1993-02-12"]),
    "Unix seconds": (["1777629600", "1777629601.5"], Said(), ["2026-05-01T10:00", "2026-05-01T10:00:01.5"]),
    "the day first": (["13/02/2026 10:00", "01/02/2026 11:30"], Said(), ["2026-02-13T10:00", "2026-02-01T11:30"]),
    "the month first": (["02/13/2026", "01/02/2026"], Said(), ["2026-02-13", "2026-01-02"]),
    "afternoon": (["02/13/2026 1:05 PM"], Said(), ["2026-02-13T13:05"]),
    "points": (["1.2.26 10:00"], Said(), ["2026-02-01T10:00"]),
    "months in words": (["01-Mar-2026 10:00"], Said(), ["2026-03-01T10:00"]),
    "a spreadsheet's days": (["46113.5", "46114"], Said(), ["2026-04-01T12:00", "2026-04-02"]),
    "as said": (["01.02.2026 h10"], Said(time_format="%m.%d.%Y h%H"), ["2026-01-02T10:00"]),
    "hours from a day": (["1", "25.5"], Said(time_from="2026-01-01", time_unit="h"), ["2026-01-01T01:00", "2026-01-02T01:30"]),
    "no year": (["1231235959", "0101000001"], Said(time_from="2025-12-01"), ["2025-12-31T23:59:59", "2026-01-01T00:00:01"]),
    "local": (["2026-03-29 01:59", "2026-03-29 03:00", "2026-03-29 06:00+00:00"], Said(timezone="Europe/Berlin"), ["2026-03-29T00:59", "2026-03-29T01:00", "2026-03-29T06:00"]),
    "twice the hour": (["2026-10-25 02:30", "2026-10-25 03:00"], Said(timezone="europe/berlin"), ["2026-10-25T00:30", "2026-10-25T02:00"]),
}  # fmt: skip


@pytest.mark.parametrize("form", TIMES)
def test_a_time_is_read_in_the_form_of_its_column(form: str, read: Read, store: Store) -> None:
    times, said, meant = TIMES[form]
    summary = read("c,ts,amount", *(f"c,{t},1" for t in times), mapping={"customer_id": "c"},
                   forms=said)  # fmt: skip
    assert summary.rejected == {}
    assert column(store, "ts") == sorted(map(utc, meant))
    assert ("ts" in summary.forms) == (form != "Unix seconds")


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (["01/02/2026", "03/04/2026"], r"could be dd/mm/yyyy .* or mm/dd/yyyy"),
        (["0401000000", "0401090300"], "has no year.*--time-from 2026-01-01"),
        (["0", "743"], "--time-from 2026-01-01 --time-unit h"),
        (["yesterday", "today"], "no time in any known form: today, yesterday"),
    ],
)
def test_what_could_be_two_times_or_none_is_asked_for(
    times: list[str], told: str, read: Read, store: Store
) -> None:
    with pytest.raises(ColumnError, match=told):
        read("customer_id,ts,amount", *(f"c,{t},1" for t in times))
    with pytest.raises(NotReady):
        store.rows("FROM transactions")


def test_one_bad_row_does_not_change_the_form(read: Read, store: Store) -> None:
    rows = [f"c,{1 + i % 12:02d}/02/2026,1" for i in range(99)]
    summary = read("customer_id,ts,amount", *rows, "c,13/02/2026,1", "c,soon,1")
    assert summary.forms == {"ts": "dd/mm/yyyy"}
    assert list(summary.rejected.values()) == [1]
    assert utc("2026-02-13") in column(store, "ts")


def test_each_row_may_have_a_zone_of_its_own(read: Read, store: Store) -> None:
    zones = [
        "2026-03-28 00:00:00,CET",
        "2026-03-29 06:00:00,CEST",
        "2026-03-29 06:00:00,Asia/Tokyo",
    ]
    lines = ["customer_id,ts,z,amount", *(f"c,{z},1" for z in zones)]
    assert read(*lines, forms=Said(timezone="z")).accepted == 3
    wanted = ["2026-03-28T21:00", "2026-03-27T23:00", "2026-03-29T04:00"]
    assert column(store, "ts") == sorted(map(utc, [wanted[1], wanted[0], wanted[2]]))
    with pytest.raises(ColumnError, match=r"'IST'.*means several"):
        read(*lines, "c,2026-03-29 06:00:00,IST,1", forms=Said(timezone="z"))
    with pytest.raises(ColumnError, match="neither a time zone"):
        read(*lines, forms=Said(timezone="Europe/Berlinn"))


NUMBERS = {
    "12.5": ["12.5", "1,234.56", "7"],
    "decimal comma": ["12,5", "1.234,56", "7"],
    "currency": ["$12.50", "$1,234.56", "$7"],
    "blanks and a code": ["EUR 12,50", "1 234,56 EUR", "7 €"],
    "Swiss": ["12.50", "1'234.56", "7"],
    "sign behind": ["12.50", "1,234.56", "7.00"],
}


@pytest.mark.parametrize("form", NUMBERS)
def test_a_number_is_read_in_the_form_of_its_column(form: str, read: Read, store: Store) -> None:
    rows = [f'"c","2026-04-0{i}","{n}"' for i, n in enumerate(NUMBERS[form], 1)]
    assert read("customer_id,ts,amount", *rows).rejected == {}
    assert column(store, "amount") == [12.5, 1234.56, 7.0]


def test_thousands_are_never_taken_for_thousandths(read: Read, store: Store) -> None:
    rows = [f"c;2026-04-0{i};{n}" for i, n in enumerate(["127", "2.336", "1.361"], 1)]
    with pytest.raises(ColumnError, match=r"1\.361, 2\.336 could be thousands or thousandths"):
        read("customer_id;ts;amount", *rows)
    assert read("customer_id;ts;amount", *rows, forms=Said(decimal=",")).accepted == 3
    assert column(store, "amount") == [127, 2336, 1361]


def test_a_place_is_never_thousands(read: Read, store: Store) -> None:
    read("customer_id;ts;amount;lat;lon", "c;2026-04-01;1,5;48,137;11,575")
    assert (column(store, "lat"), column(store, "lon")) == ([48.137], [11.575])


def test_a_refund_in_brackets_or_with_its_sign_behind_is_one(read: Read, store: Store) -> None:
    rows = [f"c,2026-04-0{i},{n}" for i, n in enumerate(["12.50", "(3.00)", "4.00-", "$-5.00"], 1)]
    read("customer_id,ts,amount", *rows, *["c,2026-05-01,9.99"] * 3)
    assert column(store, "amount")[:4] == [12.5, 3.0, 4.0, 5.0]
    assert column(store, "kind")[:4] == [None, "refund", "refund", "refund"]


def test_an_amount_may_be_what_was_paid_less_what_came_back(read: Read, store: Store) -> None:
    rows = ['c,2026-04-01,"12,50",', 'c,2026-04-02,"1.012,50","0,00"', 'c,2026-04-03,,"3,00"']
    rows += ["c,2026-04-04,,", "c,2026-04-05,x,"]
    summary = read("customer_id,ts,Out,In", *rows, mapping={"amount": "out-in"})
    assert summary.columns["amount"] == "Out-In"
    assert column(store, "amount") == [12.5, 1012.5, 3.0]
    assert column(store, "kind") == [None, None, "refund"]
    assert summary.rejected == {"amount is missing": 1, "amount is not a number": 1}


def test_two_columns_make_no_place(read: Read) -> None:
    mapping = {"lat": "north+south"}
    rows = ["customer_id,ts,amount,north,south,lon", "c,2026-04-01,1,52.5,0.5,13"]
    assert read(*rows, mapping=mapping).rejected == {"lat is not a number": 1}


def test_minor_units_have_the_digits_of_their_currency(read: Read, store: Store) -> None:
    rows = ["c,2026-04-01,000000001250,978", "c,2026-04-02,1250,JPY", "c,2026-04-03,1250,KWD"]
    read("customer_id,ts,amount,currency", *rows, forms=Said(minor_units=True))
    assert column(store, "amount") == [12.5, 1250.0, 1.25]


def test_ids_that_a_spreadsheet_damaged_are_refused(read: Read, store: Store) -> None:
    ids = ["4.11111E+15", "nan", '"=""00123"""', "00123"]
    summary = read(
        "customer_id,ts,amount", *(f"{i},2026-04-01 0{n}:00,1" for n, i in enumerate(ids))
    )
    assert summary.rejected == {"customer_id looks damaged, as by a spreadsheet": 2}
    assert column(store, "customer_id") == ["00123", "00123"]


def test_two_columns_make_one_customer(read: Read, store: Store) -> None:
    rows = ["0,0,2026-04-01,1", "1,0,2026-04-02,1", "0,1,2026-04-03,1", ",1,2026-04-04,1"]
    summary = read("User,Card,ts,amount", *rows, mapping={"customer_id": "user+card"})
    assert column(store, "customer_id") == ["0/0", "1/0", "0/1"]
    assert summary.rejected == {"customer_id is missing": 1}


def test_exports_that_overlap_bring_each_payment_once(read: Read, store: Store) -> None:
    head = "customer_id,ts,amount"
    week = [f"c,2026-04-{day:02d},5" for day in range(1, 9)]
    read(head, *week[:6], week[5], name="one.csv")  # the last came twice
    second = read(head, *week[4:6], week[5], *week[6:], name="two.csv")
    assert (second.accepted, second.already_there) == (2, 3)
    assert len(column(store, "ts")) == 9
    assert read(head, *week[:6], week[5], name="one.csv").already_there == 7


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_an_encoding_is_said(encoding: str, read: Read, store: Store) -> None:
    lines = ["customer_id,ts,amount,merchant", "c,2026-04-01,1,Bäckerei"]
    with pytest.raises(AegisError):
        read(*lines, encoding=encoding, strict=True)
    read(*lines, encoding=encoding, forms=Said(encoding=encoding))
    assert column(store, "merchant_id") == ["Bäckerei"]


def test_a_line_that_names_the_separator_is_no_header(read: Read) -> None:
    assert read("sep=;", "customer_id;ts;amount", "c;2026-04-01;12.5").accepted == 1


HEADER = ["Kontoauszug von 01.04.2026", "Saldo: 1.234,56 EUR", "", "Kunde;Tag;Betrag;Text"]
STATEMENT = [f"c{i % 3};{1 + i:02d}.04.2026;{i},50;x" for i in range(20)]
GERMAN = {"customer_id": "Kunde", "ts": "Tag", "amount": "Betrag"}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
@pytest.mark.parametrize("skip", [0, 3])
def test_lines_before_the_names_of_the_columns_are_passed_over(
    skip: int, encoding: str, read: Read, store: Store
) -> None:
    said = Said(skip=skip, encoding=encoding)
    summary = read(*HEADER, *STATEMENT, mapping=GERMAN, forms=said, encoding=encoding)
    assert (summary.accepted, summary.rejected) == (20, {})
    assert column(store, "amount")[:2] == [0.5, 1.5]
    told = "f.csv: the names of the columns are in line 4."
    assert (told in summary.remarks) is (skip == 0)


def test_a_title_that_is_filled_with_separators_is_passed_over(read: Read) -> None:
    title = ["Kontoauszug;Q1;;", "April;;;"]
    summary = read(*title, HEADER[-1], *STATEMENT, mapping=GERMAN)
    assert (summary.accepted, summary.rejected) == (20, {})


def test_names_in_the_first_line_stay_there(read: Read) -> None:
    rows = ["c,2026-04-01,5,", "word,word,word,", *["c,2026-04-02,6,"] * 5]
    with pytest.raises(ColumnError, match="it has customer_id, when, amount"):
        read("customer_id,when,amount", *rows)


FOOTERS = {
    "a total": (["Summe;;10.200,50;"], 1),
    "a total under an id": ([";;10.200,50;"], 1),
    "a total in place of an id": (["Total;;10.200,50;x"], 1),
    "a sentence": (["20 Buchungen"], 1),
    "none, but a line that is cut off": (["c1;21.04.2026"], 0),
    "several, with blanks between": (["", ";;;", "Summe;;10.200,50;", "   ", "Ende des Auszugs", ""], 3),
    "none, after a bad row": (["c1;bald;3,50;x"], 0),
    "none, before a good row": (["Summe;;10.200,50;", "c1;21.04.2026;3,50;x"], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", FOOTERS)
@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz"])
def test_lines_after_the_data_are_no_bad_rows(
    name: str, case: str, read: Read, store: Store, tmp_path: Path
) -> None:
    lines, n = FOOTERS[case]
    content = "\r\n".join(["Kunde;Tag;Betrag;Text", *STATEMENT, *lines, ""])
    (tmp_path / name).write_bytes(
        gzip.compress(content.encode()) if name.endswith("gz") else content.encode()
    )
    given: dict[str, Any] = {"mapping": GERMAN, "most_rejected": 0.01, "progress": False}
    if not n:
        with pytest.raises(InputError, match=r"1 of 2\d rows are bad"):
            import_files(tmp_path / name, store, **given)
        return
    summary = import_files(tmp_path / name, store, **given)
    assert summary.accepted == 20
    assert sum(summary.rejected.values()) == n
    assert all(reason.startswith("looks like a footer: ") for reason in summary.rejected)
    assert len(store.rows("FROM rejected")) == n


def test_a_file_with_too_many_bad_rows_is_not_taken(read: Read, store: Store) -> None:
    lines = ["customer_id,ts,amount", *(f"c,2026-04-01 00:{m:02d},1" for m in range(50))]
    with pytest.raises(InputError, match=r"2 of 52 rows are bad.*--partial"):
        read(*lines, "c,,1", "c,,2", most_rejected=0.01)
    with pytest.raises(NotReady):
        store.rows("FROM rejected")
    assert read(*lines, "c,,1", most_rejected=0.02).accepted == 50


@pytest.mark.parametrize(
    "given",
    [
        {"time_unit": "h"}, {"time_unit": "fortnights", "time_from": "2026-01-01"},
        {"time_from": "soon"}, {"skip": -1}, {"decimal": ";"}, {"encoding": "ebcdic"},
    ],
)  # fmt: skip
def test_what_is_said_of_a_form_is_checked(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Said(**given)


SAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "handbook": (
        "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO\n"
        "0,2018-04-01 00:00:31,596,3156,57.16,1,2",
        {"ts": utc("2018-04-01T00:00:31"), "customer_id": "596", "amount": 57.16},
    ),
    "sparkov": (
        ",trans_date_trans_time,cc_num,merchant,category,amt,lat,long,trans_num,unix_time,"
        "merch_lat,merch_long,is_fraud\n"
        "0,2019-01-01 00:00:18,2703186189652095,fraud_Rippin,misc_net,4.97,36.1,-81.2,t1,"
        "1325376018,36.011293,-82.048315,0",
        {"ts": utc("2019-01-01T00:00:18"), "lat": 36.011293, "merchant_id": "fraud_Rippin"},
    ),
    "tabformer": (
        "User,Card,Year,Month,Day,Time,Amount,Use Chip,Merchant Name,Merchant City,Merchant State,"
        "Zip,MCC,Errors?,Is Fraud?\n"
        "3,1,2002,9,1,06:21,$134.09,Swipe Transaction,3527213246127876953,La Verne,CA,91750.0,5300,,No",
        {"ts": utc("2002-09-01T06:21"), "customer_id": "3/1", "amount": 134.09, "category": "5300"},
    ),
    "paysim": (
        "step,type,amount,nameOrig,oldbalanceOrg,newbalanceOrig,nameDest,oldbalanceDest,"
        "newbalanceDest,isFraud,isFlaggedFraud\n"
        "25,CASH_IN,9839.64,C12,1.0,0.0,M19,0.0,0.0,0,0",
        {"ts": utc("2026-01-02T01:00"), "customer_id": "C12", "kind": "credit"},
    ),
    "banksim": (
        "step,customer,age,gender,zipcodeOri,merchant,zipMerchant,category,amount,fraud\n"
        "3,'C100','4','M','28007','M348','28007','es_transportation',4.55,0",
        {"ts": utc("2026-01-04"), "customer_id": "C100", "category": "es_transportation"},
    ),
    "ieee-cis": (
        "TransactionID,isFraud,TransactionDT,TransactionAmt,ProductCD,card1,addr1\n2987000,0,86400,68.5,W,13926,",
        {"ts": utc("2017-12-02"), "customer_id": "13926", "amount": 68.5},
    ),
    "amlworld": (
        "Timestamp,From Bank,Account,To Bank,Account,Amount Received,Receiving Currency,Amount Paid,"
        "Payment Currency,Payment Format,Is Laundering\n"
        "2022/09/01 00:20,010,8000EBD30,03208,8000F5340,0.01,US Dollar,3697.34,US Dollar,Cheque,1",
        {"ts": utc("2022-09-01T00:20"), "customer_id": "010/8000EBD30", "merchant_id": "03208/8000F5340",
         "currency": "USD"},
    ),
    "berka": (
        '"trans_id";"account_id";"date";"type";"operation";"amount";"balance";"k_symbol";"bank";"account"\n'
        '695247;2378;930101;"PRIJEM";"VKLAD";700.00;700.00;"";;',
        {"ts": utc("1993-01-01"), "kind": "credit", "transaction_id": "695247"},
    ),
    "stripe": (
        "id,Created date (UTC),Amount,Amount Refunded,Currency,Status,Decline Reason,Customer ID\n"
        "ch_1,2026-04-01 00:14:09,50.86,0.00,eur,Failed,,cus_1",
        {"ts": utc("2026-04-01T00:14:09"), "status": "declined", "currency": "EUR"},
    ),
    "adyen": (
        "Company Account,Psp Reference,Payment Method,Creation Date,TimeZone,Type,Gross Currency,"
        "Gross Debit (GC),Gross Credit (GC),Shopper Reference\n"
        "Co,88,visa,2026-03-29 06:00:00,CEST,Settled,EUR,,29.53,s0",
        {"ts": utc("2026-03-29T04:00"), "amount": 29.53, "customer_id": "s0", "kind": None},
    ),
    "paypal": (
        '"Date","Time","TimeZone","Name","Type","Status","Currency","Gross","From Email Address",'
        '"Transaction ID"\n'
        '"03/25/2026","00:00:00","PDT","A","Express Checkout Payment","Completed","USD","1,036.03",'
        '"b@example.org","T1"',
        {"ts": utc("2026-03-25T07:00"), "amount": 1036.03, "status": "approved"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reads_what_people_start_with(preset: str, read: Read, store: Store) -> None:
    lines, wanted = SAMPLES[preset]
    summary = read(lines)
    assert (summary.preset, summary.rejected) == (preset, {})
    (row,) = store.rows("FROM transactions")
    assert {name: row[name] for name in wanted} == wanted


def test_a_dry_run_shows_all_and_stores_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    file = tmp_path / "f.csv"
    file.write_text(
        "customer_id;ts;amount;category\nc;13.02.2026 10:00;1.234,5;\nc;14.02.2026 10:00;x;\n"
        "c;15.02.2026 10:00;2,5;food\n"
    )
    command = ["import", str(file), "--map", "ts=ts", "--decimal", ",", "--save-as",
               str(tmp_path / "mybank.toml")]  # fmt: skip
    assert main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    for part in ("dd/mm/yyyy", "decimal comma", "as said", "by its name", "1234.5",
                 "1 × amount is not a number", "travel: 2 of 2 have no place", "Nothing was stored"):  # fmt: skip
        assert part in told
    assert "nan" not in told.split()
    assert not (tmp_path / "data" / "aegis.duckdb").exists()
    again = ["import", str(file), "--as", str(tmp_path / "mybank.toml")]
    assert main(again) == 2
    assert "With --partial the good rows go in" in capsys.readouterr().err
    assert main([*again, "--partial"]) == 0
    assert "decimal comma" in capsys.readouterr().out


def test_ids_that_come_again_within_others_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    rows = [f"{b},{c},{b},2026-04-01 0{b}:{c:02d},5" for b in range(8) for c in range(12)]
    file = tmp_path / "f.csv"
    for other, asked in (("Branch No", True), ("Age", False)):
        file.write_text("\n".join([f"{other},Account,Region,ts,amount", *rows, ""]))
        assert main(["import", str(file), "--dry-run"]) == 0
        told = capsys.readouterr().out
        assert ("Account repeats within Branch No (12 and 8 values, 96 together)" in told) is asked
        assert ("--map customer_id=Branch No+Account" in told) is asked
    file.write_text("\n".join(["Branch No,Account,Region,ts,amount", *rows, ""]))
    assert main(["import", str(file), "--dry-run", "--map", "customer_id=Branch No+Account"]) == 0
    assert "repeats within" not in capsys.readouterr().out


def test_every_preset_is_listed_with_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--list-presets"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in (*PRESETS, "ulb", "it has no customer"))
