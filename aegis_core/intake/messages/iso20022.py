"""ISO 20022: statements (camt.053), notifications (camt.054) and transfers (pacs.008).

XML is read piece by piece; a DOCTYPE ends it, so that no entity is ever looked at.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, Final, cast
from xml.etree import ElementTree

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import DefusedXMLParser  # type: ignore[import-untyped]

from aegis_core.intake.messages.parts import (
    LONGEST,
    Item,
    NoPayment,
    NotWhole,
    Refused,
    Row,
    joined,
    number,
    plain,
)
from aegis_core.schema import ISO_TIME

BODIES: Final = {
    "BkToCstmrStmt": "camt.053",
    "BkToCstmrDbtCdtNtfctn": "camt.054",
    "FIToFICstmrCdtTrf": "pacs.008",
}
"""The element that holds a message, and which message that is."""
_ACCOUNTS: Final = ("Stmt", "Ntfctn")
_PARTS: Final = ("Acct", "GrpHdr", "Ntry", "CdtTrfTxInf")
_DEEPEST: Final = 64
_PIECE: Final = 1 << 16
_NO_IDS: Final = (None, "NOTPROVIDED")
_AGAIN: Final = ("reversal", "refund")
_MOST_KNOWN: Final = 100_000
Element = ElementTree.Element
_Rows = Callable[[Element, Element], list[Row]]
_Known = OrderedDict[tuple[object, ...], str | None]
"""Ids of entries by account, amount and each of their references; None where several share them."""
_NOTHING: Final = Element("TxDtls")


def read(file: BinaryIO, form: str = "") -> Iterator[Item]:
    """The payments of a message, and what of it is refused, in memory for one entry at a time.

    The customer is whose account a camt is of, and who pays in a pacs.008. What a reversal or a
    return names is the id of the only entry before it in the file with its account, amount and one
    of its references, else what the bank refers to. `form` is the message that it has to be, ""
    for any of `BODIES`.

    Raises
    ------
    NotWhole : It is no XML to its end, has a DOCTYPE, or is another message.
    """
    try:
        yield from _read(file, form)
    except DefusedXmlException as e:
        raise NotWhole(
            "it has a DOCTYPE, which no message of a bank has; entities are not read"
        ) from e
    except (ElementTree.ParseError, ValueError, LookupError) as e:
        raise NotWhole(f"it is no well-formed XML: {e}") from e


def _read(file: BinaryIO, form: str) -> Iterator[Item]:
    body, root, expected = "", "", None
    accounts: set[str] = set()
    names: dict[str, str] = {}
    entries = partial(_entry, known=OrderedDict())
    outer = holder = head = _NOTHING  # holder is what the parts are in, at a depth of `level`
    depth = level = base = of = n = 0
    for event, element in _parsed(file):
        tag = element.tag
        if event == "start":
            depth += 1
            if depth > _DEEPEST:
                raise NotWhole(f"its XML is nested deeper than {_DEEPEST}")
            if tag in accounts and depth == base + 1:
                of, n, head, holder, level = of + 1, 0, _NOTHING, element, depth
            elif not body:
                space, _, root = tag.rpartition("}")
                body = BODIES.get(root, "")
                if body and form not in ("", body):
                    raise NotWhole(f"it is a {body}, not a {form}")
                if body:
                    outer, holder, level, base = element, element, depth, depth
                    named = f"{space}}}" if space else ""
                    accounts = {named + name for name in _ACCOUNTS}
                    names = {named + name: name for name in _PARTS}
            continue
        depth -= 1
        if tag in accounts and depth == base:
            outer.remove(element)
        if depth != level or tag not in names:
            continue
        name = names[tag]
        for part in element.iter():  # paths need no namespace then
            part.tag = part.tag.rpartition("}")[2]
        if name in ("Acct", "GrpHdr"):
            head = element
            expected = _text(element, "NbOfTxs")
        elif name == "Ntry":
            n += 1
            account = holder.tag.rpartition("}")[2]
            yield from _kept(element, f"{account} {of}, Ntry {n}", entries, head)
        else:
            n += 1
            yield from _kept(element, f"CdtTrfTxInf {n}", _transfer, head)
        holder.remove(element)
    if not body:
        raise NotWhole(f"it is XML of <{root}>, which holds none of {', '.join(BODIES.values())}")
    if body == "pacs.008" and expected not in (None, str(n)):
        raise NotWhole(f"it says NbOfTxs {expected} and has {n}")


def _parsed(file: BinaryIO) -> Iterator[tuple[str, Element]]:
    """The beginnings and ends of elements, by the fast parser, behind one that knows of attacks.

    A DOCTYPE stands before the first element, so that afterwards there is nothing to guard.
    """
    guard = DefusedXMLParser(forbid_dtd=True)
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(("start", "end"))
    while piece := file.read(_PIECE):
        if guard:
            guard.feed(piece)
        parser.feed(piece)
        for event in parser.read_events():
            guard = None
            yield cast(Any, event)
    parser.close()
    yield from cast(Any, parser.read_events())


def _kept(element: Element, place: str, rows: _Rows, head: Element) -> list[Item]:
    """The rows of one part of a message, all of them or none."""
    try:
        found = rows(element, head)
    except NoPayment as e:
        whole = ElementTree.tostring(element, "unicode")[:LONGEST]
        return [Refused(_within(place, e.place), whole, e.reason)]
    return [row | {"place": _within(place, row.get("place"))} for row in found]


def _within(place: str, within: str | None) -> str:
    """A place, and the one within it where there is one."""
    return f"{place}, {within}" if within else place


def _entry(entry: Element, account: Element, known: _Known) -> list[Row]:
    details = entry.findall("NtryDtls/TxDtls")
    said = [number(e.text) or 0 for e in entry.findall("NtryDtls/Btch/NbOfTxs")]
    if len(details) < 2 and sum(said) > 1:
        raise NoPayment("a batch without its details: a sum of payments is none")
    rows = []
    seen: Counter[str] = Counter()
    for i, detail in enumerate(details or [_NOTHING], 1):
        place = f"TxDtls {i}" if details else ""
        try:
            row = _of_entry(entry, detail, account, alone=len(details) < 2)
        except NoPayment as e:
            raise NoPayment(e.reason, place) from e
        if one := row["transaction_id"]:
            seen[one] += 1
            row["transaction_id"] = one if seen[one] == 1 else f"{one}/{seen[one]}"
        _remember(row, _references(entry, detail), known)
        rows.append(row | {"place": place})
    return rows


def _references(entry: Element, detail: Element) -> list[str]:
    """The bank's own reference and those of the payment, as far as there are any."""
    found = (
        _text(detail, "Refs/AcctSvcrRef") or _text(entry, "AcctSvcrRef"),
        *(_text(detail, f"Refs/{name}") for name in ("UETR", "TxId", "EndToEndId")),
    )
    return [name for name in found if name not in _NO_IDS]


def _remember(row: Row, references: list[str], known: _Known) -> None:
    """Keep under what an entry may be named, or have one that takes another back name its id."""
    keys = [(row["customer_id"], row["amount"], row["currency"], name) for name in references]
    if row["kind"] in _AGAIN:
        row["original_id"] = next(filter(None, map(known.get, keys)), row["original_id"])
        return
    for key in keys:
        if known.setdefault(key, row["transaction_id"]) != row["transaction_id"]:
            known[key] = None
    while len(known) > _MOST_KNOWN:
        known.popitem(last=False)


def _of_entry(entry: Element, detail: Element, account: Element, *, alone: bool) -> Row:
    to = _text(detail, "CdtDbtInd") or _text(entry, "CdtDbtInd")
    if to not in ("DBIT", "CRDT"):
        raise NoPayment("CdtDbtInd is neither DBIT nor CRDT")
    reversed_ = _text(entry, "RvslInd") in ("true", "1")
    code = _first((detail, "BkTxCd"), (entry, "BkTxCd"))
    domain = [_text(code, f"Domn/{path}") for path in ("Cd", "Fmly/Cd", "Fmly/SubFmlyCd")]
    returned = detail.find("RtrInf") is not None
    kind = "payment" if to == "DBIT" else "credit"
    kind = "withdrawal" if to == "DBIT" and domain[2] == "CWDL" else kind
    kind = "reversal" if reversed_ else "refund" if returned else kind
    amount, currency = _amount(entry, detail, account, alone)
    end_to_end = _text(detail, "Refs/EndToEndId")
    end_to_end = None if end_to_end in _NO_IDS else end_to_end
    own = _text(account, "Id/IBAN", "Id/Othr/Id")
    by_bank = _text(detail, "Refs/AcctSvcrRef") or _text(entry, "AcctSvcrRef")
    of_payment = _text(detail, "Refs/UETR", "Refs/TxId")
    reference = by_bank or of_payment
    again = kind if kind in _AGAIN else None
    # without a reference of the entry's own, both have that of the payment
    original = (
        end_to_end or of_payment or by_bank if by_bank else joined(own, reference, end_to_end)
    )
    # whose role is turned round by a reversal: its parties are those of what it reverses
    other, us = ("Cdtr", "Dbtr") if (to == "DBIT") != reversed_ else ("Dbtr", "Cdtr")
    parties = _first((detail, "RltdPties"))
    ts = _text(detail, "RltdDts/AccptncDtTm", "RltdDts/TxDtTm") or _text(
        entry, "BookgDt/DtTm", "BookgDt/Dt", "ValDt/DtTm", "ValDt/Dt"
    )
    batch = not alone or entry.find("NtryDtls/Btch") is not None
    return {
        "transaction_id": joined(own, reference, end_to_end, again) if reference else None,
        "customer_id": own,
        "ts": _when(ts),
        "amount": amount,
        "currency": currency,
        "merchant_id": _party(parties, other) or _party(parties, us),
        "category": "-".join(filter(None, domain)) or _text(code, "Prtry/Cd"),
        "channel": "batch" if batch else _CHANNELS.get(domain[1] or ""),
        "kind": kind,
        "status": _text(entry, "Sts/Cd", "Sts/Prtry", "Sts"),
        "original_id": original if again else None,
    }


_CHANNELS: Final = {
    "RDDT": "direct_debit", "IDDT": "direct_debit", "RCDT": "transfer", "ICDT": "transfer",
    "RRCT": "transfer", "IRCT": "transfer",
}  # fmt: skip
"""Families of bank transactions in which nobody stands at a till."""


def _amount(
    entry: Element, detail: Element, account: Element, alone: bool
) -> tuple[float, str | None]:
    """The amount of one payment. That of an entry is its only detail's, never that of several."""
    found = detail.find("Amt")
    found = detail.find("AmtDtls/TxAmt/Amt") if found is None else found
    if found is None:
        found = entry.find("Amt") if alone else detail.find("AmtDtls/InstdAmt/Amt")
    if found is None and not alone:
        raise NoPayment("a detail of a batch has no amount of its own, and the sum is not copied")
    return _money(found, "Amt", _text(account, "Ccy"))


def _transfer(transfer: Element, head: Element) -> list[Row]:
    # InstdAmt is what somebody wanted to pay, in their currency; between banks charges may be taken
    # off it, and it may be exchanged.
    instructed = transfer.find("InstdAmt")
    between = transfer.find("IntrBkSttlmAmt")
    amount, currency = _money(between if instructed is None else instructed, "IntrBkSttlmAmt")
    end_to_end = _text(transfer, "PmtId/EndToEndId")
    message = _text(head, "MsgId")
    if end_to_end not in _NO_IDS and message:
        end_to_end = f"{message}/{end_to_end}"
    row = {
        "transaction_id": _text(transfer, "PmtId/UETR", "PmtId/TxId") or end_to_end,
        "customer_id": _account(transfer, "DbtrAcct"),
        "ts": _when(_text(transfer, "AccptncDtTm") or _text(head, "CreDtTm")),
        "amount": amount,
        "currency": currency,
        "merchant_id": _party(transfer, "Cdtr"),
        "category": _text(transfer, "Purp/Cd", "PmtTpInf/CtgyPurp/Cd"),
        "channel": "transfer",
        "kind": "transfer",
        "status": None,
        "original_id": None,
    }
    if row["transaction_id"] in _NO_IDS:
        raise NoPayment("PmtId has neither UETR nor TxId nor EndToEndId")
    return [row]


def _when(text: str | None) -> str:
    """A time of XML, whose dates may have an offset."""
    found = re.sub(r"^([0-9-]{10})(Z|[+-][0-9:]{5})$", r"\1", text or "")
    if not re.match(ISO_TIME, found):
        raise NoPayment("its time is not in ISO 8601" if text else "nothing says when it was")
    return found


def _money(found: Element | None, name: str, currency: str | None = None) -> tuple[float, str]:
    amount = None if found is None else number(plain(found.text))
    if found is None or amount is None:
        raise NoPayment(f"{name} is missing" if found is None else f"{name} is not a number")
    currency = found.get("Ccy") or currency
    if not currency:
        raise NoPayment(f"{name} has no currency")
    return amount, currency


def _party(parties: Element, role: str) -> str | None:
    """Who it is: by name, else by account."""
    return (
        _text(parties, f"{role}/Nm", f"{role}/Pty/Nm")
        or _account(parties, f"{role}Acct")
        or _text(parties, f"Ultmt{role}/Nm", f"Ultmt{role}/Pty/Nm")
    )


def _account(element: Element, name: str) -> str | None:
    return _text(element, f"{name}/Id/IBAN", f"{name}/Id/Othr/Id")


def _text(element: Element, *paths: str) -> str | None:
    return next((text for path in paths if (text := plain(element.findtext(path)))), None)


def _first(*places: tuple[Element, str]) -> Element:
    found = (element.find(path) for element, path in places)
    return next((element for element in found if element is not None), _NOTHING)
