"""Statements of accounts in the older forms: MT940 by `mt-940`, BAI2 by `bai2`.

They tell the day of an entry alone. A day has no hour and no burst.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from aegis_core.intake.messages.parts import (
    LONGEST,
    Item,
    NotWhole,
    Refused,
    Row,
    Skipped,
    extra,
    joined,
    plain,
)
from aegis_core.intake.said import PLAIN, Said
from aegis_core.units.money import digits

_NONE: Final = ("NONREF", "NOTPROVIDED")
_MARKS: Final = {"D": "payment", "C": "credit", "RD": "reversal", "RC": "reversal"}
_REVERSED: Final = ("252", "258", "395", "552", "558", "694")
_RETURNED: Final = ("123", "255", "257", "266", "423", "555", "557", "566")
"""Type codes of BAI2 for what is taken back, and for what came back."""


def read_mt940(file: BinaryIO, form: str = "mt940", said: Said = PLAIN) -> Iterator[Item]:
    """The entries of MT940, statement by statement, each of them whole or refused.

    Amounts are in the currency of the opening balance. An entry with a reference of the bank has an
    id made of account, day and that.

    Raises
    ------
    NotWhole : It does not begin as such a file does.
    """
    models = extra("mt940.models", "mt-940")
    logging.getLogger("mt940").addHandler(logging.NullHandler())  # it would print the message
    seen: Counter[str] = Counter()
    text = _text(file, said)
    starts = [found.start() for found in re.finditer(r"^:20:", text, re.MULTILINE)]
    if not starts or ":61:" in text[: starts[0]]:
        raise NotWhole("no MT940: no :20: begins its first statement")
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        one = re.sub(r"^-\}?\s*(\{.*)?$", "", text[start:end], flags=re.MULTILINE)
        place = f"line {text.count(chr(10), 0, start) + 1}"
        try:
            told = models.Transactions()
            told.parse(one)
            rows = [_of_mt940(entry.data, told.data) for entry in told.transactions]
            expected = len(re.findall("^:61:", one, re.MULTILINE))
        except Exception as e:  # whatever it raises, its reader says which line it is
            yield Refused(place, one[:LONGEST], f"no MT940: {type(e).__name__}")
            continue
        if len(rows) != expected:
            yield Refused(place, one[:LONGEST], "not every :61: of it is an entry")
            continue
        if any(row["currency"] is None for row in rows):
            yield Refused(place, one[:LONGEST], "no balance :60F: or :60M: tells its currency")
            continue
        for i, row in enumerate(rows, 1):
            yield _numbered(row, seen) | {"place": f"{place}, :61: {i}"}


def _of_mt940(entry: dict[str, Any], statement: dict[str, Any]) -> Row:
    account = plain(statement.get("account_identification"))
    day = entry.get("entry_date") or entry["date"]
    ours, theirs = (_reference(entry.get(f"{who}_reference")) for who in ("bank", "customer"))
    kind = _MARKS[entry["status"]]
    return {
        "transaction_id": joined(account, f"{day:%Y-%m-%d}", ours) if ours else None,
        "customer_id": account,
        "ts": f"{day:%Y-%m-%d}",
        "amount": float(abs(entry["amount"].amount)),
        "currency": entry["amount"].currency or None,
        "merchant_id": plain(entry.get("applicant_name")),
        "category": plain(entry.get("id")),
        "channel": None,
        "kind": kind,
        "status": "booked",
        "original_id": theirs if kind == "reversal" else None,
    }


def read_bai2(file: BinaryIO, form: str = "bai2", said: Said = PLAIN) -> Iterator[Item]:
    """The entries of BAI2, whose totals have to be right; amounts by the digits of the currency.

    A group of another status than `update` takes something back or tries something, and is skipped.

    Raises
    ------
    NotWhole : It cannot be read, or its totals are wrong.
    """
    library = extra("bai2.bai2", "bai2")
    seen: Counter[str] = Counter()
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for at, line in enumerate(_text(file, said).splitlines(), 1):  # noqa: B007
            if line.strip():
                yield line.strip()

    try:
        groups = library.parse_from_lines(lines()).children
    except Exception as e:  # its own errors, and whatever a broken number raises in it
        raise NotWhole(f"no BAI2 by line {at}: {e}") from e
    for g, group in enumerate(groups, 1):
        status, day = group.header.group_status, group.header.as_of_date
        if day is None:
            raise NotWhole(f"no BAI2: its group {g} has no date")
        for a, account in enumerate(group.children, 1):
            for t, entry in enumerate(account.children, 1):
                if status is None or status.name != "update":
                    name = "without a status" if status is None else status.name.replace("_", " ")
                    yield Skipped(f"of a group {name}")
                    continue
                place = f"02 {g}, 03 {a}, 16 {t}"
                currency = account.header.currency or group.header.currency
                row = _of_bai2(entry, account.header.customer_account_number, currency)
                row["ts"] = f"{day:%Y-%m-%d}"
                if reference := _reference(entry.bank_reference):
                    row["transaction_id"] = joined(row["customer_id"], row["ts"], reference)
                if entry.amount is None:
                    whole = ",".join((entry.rows[0][0].value, entry.rows[0][1]))
                    yield Refused(place, whole[:LONGEST], "it has no amount")
                    continue
                yield _numbered(row, seen) | {"place": place}


def _of_bai2(entry: Any, account: str, currency: str) -> Row:
    code = entry.type_code
    back = code.transaction is not None and code.transaction.name == "credit"
    kind = "credit" if back else "payment"
    kind = "reversal" if code.code in _REVERSED else "refund" if code.code in _RETURNED else kind
    own = kind in ("reversal", "refund")
    return {
        "transaction_id": None,
        "customer_id": plain(account),
        "ts": None,
        "amount": (entry.amount or 0) / 10 ** digits(currency),
        "currency": currency,
        "merchant_id": None,
        "category": code.code,
        "channel": None,
        "kind": kind,
        "status": "booked",
        "original_id": _reference(entry.customer_reference) if own else None,
    }


def _numbered(row: Row, seen: Counter[str]) -> Row:
    """A row whose id, the n-th equal one of a file, says so."""
    if one := row["transaction_id"]:
        seen[one] += 1
        row["transaction_id"] = one if seen[one] == 1 else f"{one}/{seen[one]}"
    return row


def _reference(text: str | None) -> str | None:
    found = plain(text)
    return None if found in _NONE else found


def _text(file: BinaryIO, said: Said) -> str:
    raw = file.read()
    if said.encoding:
        return raw.decode(said.encoding, "replace").replace("\r\n", "\n")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n")
