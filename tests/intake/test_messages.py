"""Messages of banks: each payment once, with its own amount; what is none is kept as it came."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iso8583
import pytest
from iso8583.specs import default, default_ascii

from aegis_core.errors import InputError
from aegis_core.intake import ImportSummary, import_files
from aegis_core.intake.importing import preview
from aegis_core.intake.messages import parts
from aegis_core.intake.messages.iso8583 import _spec
from aegis_core.intake.said import Said
from aegis_core.store import Store

Take = Callable[..., ImportSummary]
SEEN = "transaction_id, customer_id, strftime(ts, '%Y-%m-%dT%H:%M:%S') AS ts, amount, currency"


@pytest.fixture
def take(tmp_path: Path, store: Store) -> Take:
    """Import a file of messages."""

    def taken(content: str | bytes, name: str = "m.xml", **options: Any) -> ImportSummary:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return import_files([path], store, progress=False, **options)

    return taken


def rows(store: Store, columns: str) -> list[tuple[Any, ...]]:
    """Columns of what is stored, in the order of arrival."""
    found = store.rows(f"SELECT {columns} FROM transactions ORDER BY seq")
    return [tuple(row.values()) for row in found]


def refused(store: Store) -> list[tuple[str, str, str]]:
    """Reason, place and message of each refused one."""
    found = store.rows("SELECT reason, raw FROM rejected ORDER BY raw")
    told = [(row["reason"], json.loads(row["raw"])) for row in found]
    return [(reason, raw["place"], raw["message"]) for reason, raw in told]


# --- ISO 20022 ---------------------------------------------------------------------------------


def camt(entries: str, version: str = "053.001.08", account: str = "<IBAN>XX01</IBAN>") -> str:
    """A statement or notification of one account."""
    body, of = {"053": ("BkToCstmrStmt", "Stmt"), "054": ("BkToCstmrDbtCdtNtfctn", "Ntfctn")}[
        version[:3]
    ]
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="urn:iso:std:iso:20022:tech:xsd:'
        f'camt.{version}"><{body}><GrpHdr><MsgId>M1</MsgId></GrpHdr><{of}><Id>S1</Id>'
        f"<Acct><Id>{account}</Id></Acct>{entries}</{of}></{body}></Document>"
    )


def entry(
    amount: str = "10.00", to: str = "DBIT", *, status: str = "<Cd>BOOK</Cd>",
    ref: str = "R1", currency: str = "EUR", details: str = "", more: str = "",
    booked: str = "<Dt>2026-03-02</Dt>",
) -> str:  # fmt: skip
    """An entry of a statement."""
    return (
        f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{to}</CdtDbtInd>{more}'
        f"<Sts>{status}</Sts><BookgDt>{booked}</BookgDt><AcctSvcrRef>{ref}</AcctSvcrRef>"
        f"<BkTxCd/>{details and f'<NtryDtls>{details}</NtryDtls>'}</Ntry>"
    )


def detail(end_to_end: str = "NOTPROVIDED", *, inside: str = "", name: str = "Quill Ltd") -> str:
    """A payment of an entry, in the form of version 08."""
    return (
        f"<TxDtls><Refs><EndToEndId>{end_to_end}</EndToEndId></Refs>{inside}<RltdPties><Cdtr><Pty>"
        f"<Nm>{name}</Nm></Pty></Cdtr></RltdPties></TxDtls>"
    )


def test_each_detail_of_a_batch_is_a_payment_with_its_own_amount(take: Take, store: Store) -> None:
    both = detail("E1", inside='<Amt Ccy="EUR">4.00</Amt>') + detail(
        "E2", inside='<Amt Ccy="USD">7.50</Amt>', name="Other Inc"
    )
    told = take(camt(entry("10.00", details=f"<Btch><NbOfTxs>2</NbOfTxs></Btch>{both}")))
    assert (told.accepted, told.preset) == (2, "camt.053")
    assert rows(store, f"{SEEN}, merchant_id, channel, kind, status, clock") == [
        ("XX01/R1/E1", "XX01", "2026-03-02T00:00:00", 4.0, "EUR", "Quill Ltd", "batch", "payment",
         "approved", "date"),
        ("XX01/R1/E2", "XX01", "2026-03-02T00:00:00", 7.5, "USD", "Other Inc", "batch", "payment",
         "approved", "date"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("details", "place"),
    [
        (detail("E1") + detail("E2"), "Stmt 1, Ntry 2, TxDtls 1"),
        ("<Btch><NbOfTxs>3</NbOfTxs></Btch>", "Stmt 1, Ntry 2"),
    ],
)
def test_the_sum_of_a_batch_is_nobodys_payment(
    take: Take, store: Store, details: str, place: str
) -> None:
    take(camt(entry(ref="R0") + entry("600.00", details=details)))
    assert rows(store, "amount") == [(10.0,)]
    ((reason, where, whole),) = refused(store)
    assert "sum" in reason
    assert where == place
    assert whole.startswith("<Ntry>")
    assert "600.00" in whole


def test_the_amount_of_an_entry_is_that_of_its_only_detail(take: Take, store: Store) -> None:
    take(camt(entry("1234", currency="JPY", details=detail("E1"))))
    assert rows(store, "amount, currency") == [(1234.0, "JPY")]


def test_an_option_that_says_nothing_of_a_message_is_named(take: Take, store: Store) -> None:
    told = take(camt(entry("12.34")), forms=Said(decimal=",", timezone="Europe/Berlin"))
    assert any(remark.endswith("says its own forms, and not --decimal.") for remark in told.remarks)
    assert rows(store, "amount") == [(12.34,)]
    assert not [r for r in take(camt(entry("9", ref="Z"))).remarks if "its own forms" in r]


def test_pending_informational_and_reversed_are_told_apart(take: Take, store: Store) -> None:
    take(
        camt(
            entry(ref="A", status="PDNG")
            + entry(ref="B", status="INFO")
            + entry(ref="C", to="CRDT", more="<RvslInd>true</RvslInd>", details=detail("E9"))
            + entry(ref="D", to="CRDT", details=detail("E8", inside="<RtrInf/>"))
            + entry(ref="E", to="CRDT")
            + entry(ref="F", status="<Cd>PDNG</Cd>"),
            "053.001.02",
        )
    )
    assert rows(store, "transaction_id, kind, status, original_id, merchant_id") == [
        ("XX01/A", "payment", "pending", None, None),
        ("XX01/B", "payment", "informational", None, None),
        ("XX01/C/E9/reversal", "reversal", "approved", "E9", "Quill Ltd"),
        ("XX01/D/E8/refund", "refund", "approved", "E8", "Quill Ltd"),
        ("XX01/E", "credit", "approved", None, None),
        ("XX01/F", "payment", "pending", None, None),
    ]
    from aegis_core.units.words import ASIDE, role_of

    assert role_of("payment", "informational") == ASIDE


BACK = "<RvslInd>true</RvslInd>"


@pytest.mark.parametrize(
    ("before", "back", "original"),
    [
        # by the reference of the payment, or by the bank's own
        (entry(ref="A", details=detail("E1")), entry(ref="B", details=detail("E1")), "XX01/A/E1"),
        (entry(ref="A"), entry(ref="A"), "XX01/A"),
        (entry(ref="A", details=detail("E1")), entry(ref="A"), "XX01/A/E1"),
        # of several, of another amount, or of none in the file the id is not known
        (
            entry(ref="A", details=detail("E1")) + entry(ref="B", details=detail("E1")),
            entry(ref="C", details=detail("E1")),
            "E1",
        ),
        (entry("9", ref="A", details=detail("E1")), entry(ref="B", details=detail("E1")), "E1"),
        (entry(ref="A"), entry(ref="B"), "B"),
        # both have the reference of the payment
        ("", entry(ref="", details=detail("E1").replace("<Refs>", "<Refs><UETR>u</UETR>")),
         "XX01/u/E1"),
    ],
)  # fmt: skip
def test_a_reversal_names_the_id_of_the_entry_that_it_reverses_where_that_is_known(
    take: Take, store: Store, before: str, back: str, original: str
) -> None:
    back = back.replace("<CdtDbtInd>DBIT</CdtDbtInd>", f"<CdtDbtInd>CRDT</CdtDbtInd>{BACK}")
    told = take(camt(before + back))
    assert told.rejected == {}
    (named,) = (row[1] for row in rows(store, "kind, original_id") if row[0] == "reversal")
    assert named == original


def test_a_time_keeps_the_offset_it_came_with(take: Take, store: Store) -> None:
    at = "<RltdDts><AccptncDtTm>2026-03-01T23:30:00+09:00</AccptncDtTm></RltdDts>"
    take(camt(entry(details=detail(inside=at))))
    assert rows(store, "strftime(ts, '%Y-%m-%d %H:%M'), utc_offset, clock") == [
        ("2026-03-01 14:30", 540, "sent")
    ]


def test_a_notification_is_read_by_its_own_names(take: Take, store: Store) -> None:
    old = (
        "<TxDtls><AmtDtls><TxAmt><Amt Ccy='EUR'>3.25</Amt></TxAmt></AmtDtls><RltdPties><Dbtr>"
        "<Nm>Ada\n Example</Nm></Dbtr></RltdPties></TxDtls>"
    )
    other = "<Othr><Id>4711</Id></Othr>"
    told = take(camt(entry("9", "CRDT", details=old), "054.001.02", other))
    assert told.preset == "camt.054"
    assert rows(store, "customer_id, amount, merchant_id, kind") == [
        ("4711", 3.25, "Ada Example", "credit")
    ]


def pacs(transfers: str, n: int | str = 2, head: str = "") -> str:
    """A message of transfers."""
    return (
        f'<?xml version="1.0"?>{head}<Document xmlns="urn:iso:std:iso:20022:tech:xsd:'
        f'pacs.008.001.08"><FIToFICstmrCdtTrf><GrpHdr><MsgId>M7</MsgId><CreDtTm>2026-03-02T08:00:00Z'
        f"</CreDtTm><NbOfTxs>{n}</NbOfTxs></GrpHdr>{transfers}</FIToFICstmrCdtTrf></Document>"
    )


def transfer(ids: str, inside: str = "", debtor: str = "XX01") -> str:
    """A transfer between banks."""
    return (
        f"<CdtTrfTxInf><PmtId>{ids}</PmtId><IntrBkSttlmAmt Ccy='EUR'>90.00</IntrBkSttlmAmt>{inside}"
        f"<Dbtr><Nm>Ada Example</Nm></Dbtr><DbtrAcct><Id><IBAN>{debtor}</IBAN></Id></DbtrAcct>"
        "<Cdtr><Nm>Quill Ltd</Nm></Cdtr><Purp><Cd>GDDS</Cd></Purp></CdtTrfTxInf>"
    )


TWO = transfer(
    "<EndToEndId>E1</EndToEndId><UETR>u-1</UETR>",
    "<AccptncDtTm>2026-03-02T09:00:00+01:00</AccptncDtTm><InstdAmt Ccy='USD'>100.00</InstdAmt>",
) + transfer("<EndToEndId>E2</EndToEndId>", debtor="XX02")


def test_a_transfer_is_what_the_debtor_wanted_to_pay(take: Take, store: Store) -> None:
    told = take(pacs(TWO))
    assert told.preset == "pacs.008"
    assert rows(store, f"{SEEN}, merchant_id, category, channel, kind") == [
        ("u-1", "XX01", "2026-03-02T08:00:00", 100.0, "USD", "Quill Ltd", "GDDS", "transfer",
         "transfer"),
        ("M7/E2", "XX02", "2026-03-02T08:00:00", 90.0, "EUR", "Quill Ltd", "GDDS", "transfer",
         "transfer"),
    ]  # fmt: skip


DOCTYPE = '<!DOCTYPE Document [<!ENTITY hello "hello">]>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pacs(TWO, head=DOCTYPE), "DOCTYPE"),
        (pacs(TWO, head='<!DOCTYPE Document SYSTEM "nothing.dtd">'), "DOCTYPE"),
        (pacs(TWO)[:-60], "well-formed"),
        (pacs(TWO.replace("Quill", "&hello;")), "well-formed"),
        (pacs(TWO, 3), "NbOfTxs 3 and has 2"),
        (pacs("<a>" * 80 + "</a>" * 80), "nested"),
    ],
)
def test_a_message_that_is_not_whole_is_refused_and_kept_whole(
    take: Take, store: Store, content: str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        take(content, most_rejected=0.01)
    told = take(content)
    assert (told.accepted, sum(told.rejected.values())) == (0, 1)
    ((why, _, whole),) = refused(store)
    assert reason in why
    assert whole == content


def test_an_entry_that_cannot_be_read_says_where_it_is(take: Take, store: Store) -> None:
    bad = [
        entry("ten"), entry(to="UP"), entry(currency=""), entry(booked=""),
        entry(booked="<Dt>soon</Dt>"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"the first at m\.xml, Stmt 1, Ntry 1\)"):
        take(camt("".join(bad)), most_rejected=0.5)
    told = take(camt("".join(bad)), preset="camt.053")
    assert told.rejected == {
        "Amt is not a number": 1, "CdtDbtInd is neither DBIT nor CRDT": 1, "Amt has no currency": 1,
        "nothing says when it was": 1, "its time is not in ISO 8601": 1,
    }  # fmt: skip
    found = [json.loads(row["raw"]) for row in store.rows("FROM rejected")]
    assert {raw["place"] for raw in found} == {f"Stmt 1, Ntry {i}" for i in range(1, 6)}


def test_another_message_than_was_said_is_refused(take: Take) -> None:
    assert "it is a camt.053, not a pacs.008" in str(take(camt(""), preset="pacs.008").rejected)


def test_what_is_no_message_is_told_how_to_name_one(take: Take) -> None:
    with pytest.raises(InputError, match="list-presets"):
        take("<a/>", "a.xml")
    with pytest.raises(InputError, match=r"Did you mean camt\.05"):
        take("<a/>", "a.xml", preset="camt.53")


def test_twice_is_once_and_a_dry_run_stores_nothing(
    take: Take, store: Store, tmp_path: Path
) -> None:
    take(pacs(TWO))
    assert take(pacs(TWO), "again.xml").already_there == 2
    summary, first, _ = preview([tmp_path / "m.xml"], progress=False)
    assert (summary.accepted, len(first), len(rows(store, "seq"))) == (2, 2, 2)


# --- ISO 8583 ----------------------------------------------------------------------------------

CARD = {
    "2": "4000000000000002", "3": "000000", "4": "000000012345", "7": "0302123010",
    "11": "000042", "12": "133005", "13": "0302", "18": "5411", "22": "051", "32": "123456",
    "37": "606112000042", "41": "TERM0001", "42": "SHOP00000000001", "49": "978",
}  # fmt: skip
SINCE = Said(time_from="2026-01-01")


def message(kind: str, *without: str, binary: bool = False, **fields: str) -> bytes:
    """One message; fields are named `f4`."""
    of = {"t": kind} | CARD | {name[1:]: value for name, value in fields.items()}
    of = {name: value for name, value in of.items() if name not in without}
    spec = _spec(iso8583, kind[0], int(binary))
    assert kind[0] == "1" or spec == (default if binary else default_ascii)
    return bytes(iso8583.encode(of, spec)[0])


def test_an_answer_is_the_status_of_its_question(take: Take, store: Store) -> None:
    told = take(
        b"\n".join(
            [
                message("0200"), message("0210", "18", "22", "42", f39="00"),
                message("0200", f11="000043", f37="606112000043"),
                message("0210", f11="000043", f37="606112000043", f39="51"),
                message("0100", f11="000044", f37="606112000044"),
                message("0800", f11="000045", f70="301"),
            ]
        ),
        "cards.log", preset="iso8583", forms=SINCE,
    )  # fmt: skip
    assert told.remarks[0] == ("cards.log: left out, since no payments: 1 × 0800.")
    columns = f"{SEEN}, merchant_id, category, channel, status, utc_offset"
    assert rows(store, columns)[0] == (
        "606112000042/TERM0001", CARD["2"], "2026-03-02T12:30:05", 123.45, "EUR",
        "SHOP00000000001", "5411", "chip", "approved", 60,
    )  # fmt: skip
    assert [row[8] for row in rows(store, columns)] == ["approved", "declined", "pending"]


def test_a_reversal_names_what_it_reverses(take: Take, store: Store) -> None:
    original = "0200" + "000042" + "0302123010" + "0" * 22
    take(
        b"\n".join(
            [message("0220"), message("0420", f11="000050", f90=original)]
        ),
        "cards.log", preset="iso8583", forms=SINCE,
    )  # fmt: skip
    first, back = rows(store, "transaction_id, kind, original_id")
    assert first[1:] == ("payment", None)
    assert back == ("606112000042/TERM0001/000050/reversal", "reversal", first[0])


LATER = {"f11": "000050", "f7": "0303090000", "f12": "100000", "f13": "0303"}
NAMED = "0100" + "000042" + "0302123010" + "0" * 22


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize(
    "captured",
    [
        [message("0220", **LATER)],
        [message("0200", **LATER), message("0210", f39="00", **LATER)],
        [message("0120", "37", f90=NAMED, **LATER)],
    ],
)
def test_what_is_authorised_and_captured_is_one_payment(
    take: Take, store: Store, captured: list[bytes], files: int
) -> None:
    without = ["37"] if b"0100000042" in captured[0] else []
    asked = [message("0100", *without), message("0110", *without, f39="00")]
    parted = [asked + captured] if files == 1 else [asked, captured]
    for i, part in enumerate(parted):
        told = take(b"\n".join(part), f"{i}.log", preset="iso8583", forms=SINCE)
        assert told.rejected == {}
    one = "000042/0302123010/123456" if without else "606112000042/TERM0001"
    assert rows(store, f"{SEEN}, status") == [
        (one, CARD["2"], "2026-03-02T12:30:05", 123.45, "EUR", "pending")
    ]
    assert store.rows("SELECT transaction_id, status FROM states") == [
        {"transaction_id": one, "status": "approved"}
    ]


def test_the_version_of_1993_names_what_is_captured_by_its_time_at_the_till(
    take: Take, store: Store
) -> None:
    asked = {"f12": "260302133005", "f13": "2812", "f22": "510101511000"}
    later = {"f11": "000050", "f7": "0303090000", "f12": "260303100000",
             "f13": "2812", "f56": "1100" + "000042" + "260302133005"}  # fmt: skip
    sent = [
        message("1100", "18", "37", **asked), message("1110", "18", "37", f39="000", **asked),
        message("1220", "18", "22", "37", **later),
    ]  # fmt: skip
    take(b"\n".join(sent), "cards.log", preset="iso8583")
    assert rows(store, "transaction_id, status") == [("000042/260302133005/123456", "pending")]
    assert [row["status"] for row in store.rows("FROM states")] == ["approved"]


@pytest.mark.parametrize(
    ("answer", "amount", "kept", "state", "refused"),
    [
        ("00", "000000009900", [(123.45, "pending")], ["approved"], 0),  # a part of it
        ("00", "000000014900", [(123.45, "pending")], [], 1),  # a tip
        (None, "000000009900", [(123.45, "approved")], [], 0),  # nobody answered
        ("51", "000000009900", [(123.45, "declined"), (99.0, "approved")], [], 0),
    ],
)
def test_no_more_is_captured_than_was_authorised(
    take: Take, store: Store, answer: str | None, amount: str, kept: list[tuple[float, str]],
    state: list[str], refused: int,
) -> None:  # fmt: skip
    sent = [message("0100"), message("0220", "18", "22", f4=amount, **LATER)]
    if answer:
        sent.insert(1, message("0110", f39=answer))
    told = take(b"\n".join(sent), "cards.log", preset="iso8583", forms=SINCE)
    assert rows(store, "amount, status") == kept
    assert [row["status"] for row in store.rows("FROM states")] == state
    assert sum(told.rejected.values()) == refused


@pytest.mark.parametrize(
    "other",
    [
        message("0220", f37="606112000043", **LATER),
        message("0220", f37="606112000042", f41="TERM0002", **LATER),
        message("0220", f3="200000", **LATER),  # a refund
    ],
)
def test_what_is_another_purchase_or_none_is_no_capture(
    take: Take, store: Store, other: bytes
) -> None:
    take(b"\n".join([message("0100"), other]), "cards.log", preset="iso8583", forms=SINCE)
    assert sorted(rows(store, "status")) == [("approved",), ("pending",)]


@pytest.mark.parametrize(
    ("number", "code", "amount"), [("414", "KWD", 12.345), ("392", "JPY", 12345.0)]
)
def test_decimals_are_those_of_the_currency(
    take: Take, store: Store, number: str, code: str, amount: float
) -> None:
    take(message("0220", f49=number), "cards.log", preset="iso8583", forms=SINCE)
    assert rows(store, "amount, currency") == [(amount, code)]


def test_the_version_of_1993_has_the_year_in_field_12(take: Take, store: Store) -> None:
    of = {"f12": "251231235955", "f13": "2512", "f7": "0101045958", "f26": "5999",
          "f22": "510100511000", "f43": "Quill Ltd\\High Street\\Town\\"}  # fmt: skip
    body = message("1200", "18", "42", **of)
    answer = message("1210", "18", "42", **(of | {"f39": "116"}))
    framed = b"".join(len(one).to_bytes(2, "big") + one for one in (body, answer))
    take(framed, "cards.bin", preset="iso8583-length2")
    assert rows(store, "ts, utc_offset, category, merchant_id, channel, status") == [
        (dt.datetime(2026, 1, 1, 4, 59, 55), -300, "5999", "Quill Ltd", "card_not_present",
         "declined")
    ]  # fmt: skip


def test_a_year_rolls_over_at_the_till_before_it_does_in_utc(take: Take, store: Store) -> None:
    of = {"f7": "1231150010", "f12": "000005", "f13": "0101"}
    take(
        b"\n".join([message("0200", **of), message("0210", f39="00", **of)]),
        "cards.log", preset="iso8583", forms=SINCE,
    )  # fmt: skip
    assert rows(store, "ts, utc_offset") == [(dt.datetime(2025, 12, 31, 15, 0, 5), 540)]


@pytest.mark.parametrize(
    ("without", "said", "told"),
    [((), Said(), "--time-from"), (("7",), SINCE, "--timezone")],
)
def test_a_year_or_a_zone_is_asked_for_not_guessed(
    take: Take, without: tuple[str, ...], said: Said, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        take(message("0220", *without), "cards.log", preset="iso8583", forms=said)


def test_a_card_number_is_hidden_in_what_is_refused(take: Take, store: Store) -> None:
    bad = message("0220", f4="00000000000X", f35="4000000000000002=2812101123456789")
    cut = message("0220")[:-9]
    framed = b"".join(b"%04d" % len(one) + one for one in (message("0220", binary=True), bad, cut))
    told = take(framed[:-3], "cards.bin", preset="iso8583-length4", forms=SINCE)
    assert told.accepted == 1
    assert told.rejected == {"field 4 is not a number": 1, "the file ends within it": 1}
    kept = str(store.rows("FROM rejected"))
    assert CARD["2"] not in kept
    assert "2812101123456789" not in kept
    assert {place for _, place, _ in refused(store)} == {"message 2", "message 3"}


# --- MT940, BAI2 -------------------------------------------------------------------------------

MT940 = """:20:REF1
:25:12345678/0000001
:28C:1/1
:60{mark}:C260101{currency}1000,00
:61:2601021230D12,50NTRFNONREF//B1
:86:166?00TRANSFER?32Quill Ltd
:61:2601020102RD5,00NTRFC77//B2
:61:2601020102C7,NMSCNONREF
:62F:C260102{currency}999,50
-
"""


def test_mt940_is_read_statement_by_statement(take: Take, store: Store) -> None:
    one, other = (MT940.format(mark=m, currency=c) for m, c in (("F", "JPY"), ("M", "USD")))
    bad = MT940.format(mark="F", currency="EUR").replace("D12,50", "Dxx")
    told = take(one + other.replace("0000001", "0000002") + bad, "a.sta")
    assert (told.accepted, told.preset) == (6, "mt940")
    found = rows(store, f"{SEEN}, kind, original_id, merchant_id, clock")
    assert sorted(found, key=str)[:3] == [
        ("12345678/0000001/2025-12-30/B1", "12345678/0000001", "2025-12-30T00:00:00", 12.5, "JPY",
         "payment", None, "Quill Ltd", "date"),
        ("12345678/0000001/2026-01-02/B2", "12345678/0000001", "2026-01-02T00:00:00", 5.0, "JPY",
         "reversal", "C77", None, "date"),
        ("12345678/0000002/2025-12-30/B1", "12345678/0000002", "2025-12-30T00:00:00", 12.5, "USD",
         "payment", None, "Quill Ltd", "date"),
    ]  # fmt: skip
    ((reason, place, whole),) = refused(store)
    assert (place, whole) == ("line 21", bad[:-2])
    assert reason.startswith("no MT940")


def test_what_is_said_to_be_mt940_and_is_not_is_refused_whole(take: Take, store: Store) -> None:
    take(MT940.partition("\n")[2], "a.sta", preset="mt940")
    ((reason, _, whole),) = refused(store)
    assert "no :20:" in reason
    assert whole == MT940.partition("\n")[2]


@pytest.mark.parametrize("cut", [0, 20])
def test_a_zipped_message_is_read_or_is_refused_where_it_is_cut_off(
    take: Take, store: Store, cut: int
) -> None:
    zipped = gzip.compress(pacs(TWO).encode())
    told = take(zipped[: len(zipped) - cut], "a.xml.gz")
    assert (told.accepted, len(told.rejected)) == ((0, 1) if cut else (2, 0))


def test_a_day_stays_that_day_in_every_zone(take: Take, store: Store) -> None:
    take(MT940.format(mark="F", currency="EUR"), "a.txt", forms=Said(timezone="Asia/Tokyo"))
    assert {row[0] for row in rows(store, "strftime(ts, '%d %H:%M')")} == {"30 00:00", "02 00:00"}
    assert {row[0] for row in rows(store, "clock")} == {"date"}


BAI2 = """01,BANK,AEGIS,260302,0800,1,80,,2/
02,AEGIS,BANK,{status},260301,2359,JPY,2/
03,1234567,,010,500000,,/
16,475,1200,,B1,C1,CHECK PAID/
88,MORE/
16,165,5000,,B1,C2,Quill Ltd/
16,252,300,,,C1,/
49,506500,6/
98,506500,1,8/
99,506500,1,10/
"""


def test_bai2_is_in_minor_units_of_its_currency(take: Take, store: Store) -> None:
    told = take(BAI2.format(status=1), "a.bai")
    assert (told.accepted, told.preset) == (3, "bai2")
    found = rows(store, "transaction_id, amount, currency, kind, category, original_id, clock")
    assert found[:2] == [
        ("1234567/2026-03-01/B1", 1200.0, "JPY", "payment", "475", None, "date"),
        ("1234567/2026-03-01/B1/2", 5000.0, "JPY", "credit", "165", None, "date"),
    ]
    assert found[2][1:] == (300.0, "JPY", "reversal", "252", "C1", "date")


def test_bai2_with_wrong_totals_or_of_a_test_brings_nothing(take: Take, store: Store) -> None:
    told = take(BAI2.format(status=1).replace("16,475,1200", "16,475,1300"), "a.bai")
    assert "control total" in str(told.rejected)
    with pytest.raises(InputError, match="left out, since no payments: 3 × of a group test only"):
        take(BAI2.format(status=4), "b.bai", most_rejected=0.01)
    assert rows(store, "seq") == []


def test_a_missing_package_is_named(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(parts, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'aegis-fraud\[messages\]'"):
        take(BAI2.format(status=1), "a.bai")
