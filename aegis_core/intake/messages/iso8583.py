"""ISO 8583 in files: card messages of the versions 1987 and 1993, by `pyiso8583`.

That takes a message apart into texts. What they mean is here: year, zone and decimals, which of two
versions a field is of, what an answer says of its question, what a capture says of what was
authorised, and what a reversal reverses.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

from aegis_core.errors import InputError
from aegis_core.intake.messages.parts import (
    LONGEST,
    Item,
    NoPayment,
    Refused,
    Row,
    Skipped,
    extra,
    joined,
    plain,
)
from aegis_core.intake.said import PLAIN, Said
from aegis_core.units.money import coded, digits, known
from aegis_core.units.words import BACK

FRAMES: Final = {"iso8583": 0, "iso8583-length2": 2, "iso8583-length4": 4}
"""What parts messages in a file: lines, a length in two bytes, or one in four digits."""
Fields = Mapping[str, str]
_Asked = tuple[str | None, ...]
_FIXED_1993: Final = {
    "12": 12, "15": 6, "22": 12, "25": 4, "26": 4, "28": 6, "29": 3, "30": 24, "39": 3, "57": 3,
    "71": 8, "82": 10, "83": 10, "84": 10, "85": 10, "90": 10, "91": 3, "92": 3, "105": 16,
    "106": 16, "107": 10, "108": 10,
}  # fmt: skip
"""Fields that have another length in the version of 1993 than in that of 1987."""
_VARIABLE_1993: Final = {
    2: {"31": 99, "43": 99, "44": 99, "56": 35, "58": 11, "93": 11, "94": 11, "95": 99, "109": 84,
        "110": 84},
    3: {"46": 204, "54": 120, "66": 204, "72": 999},
}  # fmt: skip
"""The same for those with a length before them, by its digits."""
_BYTES_1993: Final = {2: {"53": 48}, 3: {"96": 999}}
_SECRET: Final = ("35", "36", "45", "52", "53", "55", "96")
"""Tracks, PIN, keys and chip data, which are not kept of what is refused."""
_MOST_WAITING: Final = 100_000
_APPROVED: Final = ("00", "08", "10", "11", "16", "85")
_FAILED: Final = ("06", "30", "68", "90", "91", "92", "96")
"""Of the answers of 1987; the others decline."""
_ENTERED: Final = {
    "01": "manual", "02": "swipe", "05": "chip", "07": "contactless", "10": "card_not_present",
    "81": "ecommerce", "90": "swipe", "91": "contactless",
}  # fmt: skip
_LATE_S: Final = 120
"""So long after the clock at the till a question is sent at most."""


def read(file: BinaryIO, form: str = "iso8583", said: Said = PLAIN) -> Iterator[Item]:
    """The payments of a file: an answer is the status of its question, where both are there.

    What nobody answered is pending, and so is what was authorised, until a capture or an advice
    says that it was done. That is the same payment of the same card in a later state, by field 37
    with the terminal, or since field 90 or 56 names the first. Within a file it stays as it was
    authorised, also where less is captured. More, such as a tip, was not authorised: it keeps its
    own amount, and is refused as known with other content (ADR 26).

    The year of 1987's times comes from `said.time_from`, the zone of local ones from
    `said.timezone`, else from field 7, which is UTC. The customer is the card.

    Raises
    ------
    InputError : Times have no year or no zone, and nobody said which; or the package is missing.
    """
    library = extra("iso8583", "pyiso8583")
    specs = {(year, binary): _spec(library, year, binary) for year in "01" for binary in (0, 1)}
    # ordered, as a plain dictionary looks at all that it lost for the first that it still has
    waiting: OrderedDict[_Asked, Row] = OrderedDict()
    firsts: OrderedDict[tuple[str | None, str | None], tuple[_Asked, Row]] = OrderedDict()
    for place, message, fault in _framed(file, FRAMES[form]):
        if fault:
            yield Refused(place, _hidden(message), fault)
            continue
        if message[:1] not in (b"0", b"1") or not message[:4].isdigit():
            yield Refused(place, _hidden(message), "no message type of 1987 or 1993 begins it")
            continue
        binary = re.match(rb"[0-9A-Fa-f]{16}", message[4:20]) is None
        try:
            fields, _ = library.decode(message, specs[chr(message[0]), binary])
        except (library.DecodeError, ValueError) as e:
            told = f"it cannot be taken apart at field {getattr(e, 'field', '?')}"
            yield Refused(place, _hidden(message), told)
            continue
        if fields["t"][1] not in "124":
            yield Skipped(fields["t"])
            continue
        asked = (fields["t"][1], *map(fields.get, ("11", "12", "13", "32")))
        answers = fields["t"][2] in "13"
        try:
            if answers and asked in waiting:
                waiting[asked]["status"] = _status(fields)
                row = waiting.pop(asked)
            else:
                row = _row(fields, said) | {"place": place}
                one, card = row["transaction_id"], row["customer_id"]
                first = firsts.get((one, card)) or firsts.get((_named(fields), card))
                if first and _completes(fields["t"]) and first[1]["kind"] == row["kind"]:
                    waiting.pop(first[0], None)
                    row = _completed(row, first[1])
                elif fields["t"][1] == "1":
                    for name in filter(None, (one, _sent(fields))):
                        firsts.setdefault((name, card), (asked, row))
                    while len(firsts) > _MOST_WAITING:
                        firsts.popitem(last=False)
        except NoPayment as e:
            yield Refused(place, _told(fields), e.reason)
            continue
        if answers or row["status"]:
            yield row
            continue
        if asked in waiting:  # sent again
            yield waiting.pop(asked)
        row["status"] = "pending"
        waiting[asked] = row
        if len(waiting) > _MOST_WAITING:
            yield waiting.popitem(last=False)[1]
    yield from waiting.values()


def _framed(file: BinaryIO, length: int) -> Iterator[tuple[str, bytes, str]]:
    """Each message with its place, and what is wrong with its frame."""
    if not length:
        for i, line in enumerate(file, 1):
            if message := line.strip(b"\r\n"):
                yield f"line {i}", message, ""
        return
    n = 0
    while prefix := file.read(length):
        n += 1
        place = f"message {n}"
        if length == 4 and not prefix.isdigit():
            yield place, prefix + file.read(LONGEST), "no length of four digits stands before it"
            return
        size = int(prefix) if length == 4 else int.from_bytes(prefix, "big")
        message = file.read(size)
        if len(prefix) < length or len(message) < size:
            yield place, prefix + message, "the file ends within it"
            return
        yield place, message, ""


def _spec(library: Any, version: str, binary: int) -> dict[str, dict[str, Any]]:
    specs = extra("iso8583.specs", "pyiso8583")
    given = specs.default if binary else specs.default_ascii
    spec = {name: dict(field) for name, field in given.items()}
    if version == "1":
        changed = {0: _FIXED_1993} | _VARIABLE_1993
        for kind, fields in changed.items():
            for name, size in fields.items():
                spec[name] |= {"data_enc": "ascii", "len_type": kind, "max_len": size}
        for kind, fields in _BYTES_1993.items():
            for name, size in fields.items():
                spec[name] |= {"len_type": kind, "max_len": size}
    return spec


def _row(fields: Fields, said: Said) -> Row:
    later, reverses = fields["t"][0] == "1", fields["t"][1] == "4"
    code = fields.get("3", "")[:2]
    kind = (
        "reversal" if reverses else "withdrawal" if code == "01" else "refund" if code == "20"
        else "credit" if code[:1] == "2" else "verification" if code[:1] == "3"
        else "transfer" if code[:1] == "4" else "payment"
    )  # fmt: skip
    currency = coded(fields.get("49", ""))
    if not known(currency):
        raise NoPayment("field 49 names no currency, without which field 4 has no decimals")
    if not fields.get("4", "").isdigit():
        raise NoPayment("field 4 is not a number" if "4" in fields else "field 4 is missing")
    status = None
    if "39" in fields:
        status = _status(fields)
    elif fields["t"][2] == "2":  # advice of what was done
        status = "approved"
    reference, named, one = _reference(fields), _named(fields), _sent(fields)
    if kind not in BACK:
        one = reference or named or one
    elif reference:  # that of the payment, of which it is none
        one = joined(reference, fields.get("11"))
    return {
        "transaction_id": joined(one, kind) if one and reverses else one,
        "customer_id": _card(fields),
        "ts": _time(fields, said),
        "amount": int(fields["4"]) / 10 ** digits(currency),
        "currency": currency,
        "merchant_id": plain(fields.get("42")) or _merchant(fields.get("43", ""), later),
        "category": plain(fields.get("26" if later else "18")),
        "channel": _channel(fields.get("22", ""), later),
        "kind": kind,
        "status": status,
        "original_id": reference or named if reverses else None,
    }


def _completes(kind: str) -> bool:
    """Whether a message may say what became of an authorisation: captures and advices.

    >>> [_completes(kind) for kind in ("0100", "0120", "1200", "0420")]
    [False, True, True, False]
    """
    return kind[1] == "2" or (kind[1] == "1" and kind[2] in "23")


def _completed(row: Row, first: Row) -> Row:
    """What was authorised, in its later state; with the new amount of more, or of what was not."""
    less = row["currency"] == first["currency"] and row["amount"] <= first["amount"]
    changed = {"status", "place"}
    if not less or first["status"] in ("declined", "failed"):
        changed |= {"amount", "currency"}
    return first | {name: row[name] for name in changed}


def _reference(fields: Fields) -> str | None:
    """What all messages of one purchase share: field 37, of zeros none, with the terminal."""
    reference = plain(fields.get("37", "").strip("0")) and plain(fields.get("37"))
    terminal = plain(fields.get("41")) or plain(fields.get("42"))
    return joined(reference, terminal) if reference else None


def _sent(fields: Fields) -> str | None:
    """A message by its trace number, the time that field 90 or 56 would name, and the acquirer."""
    at = fields.get("12" if fields["t"][0] == "1" else "7")
    trace = fields.get("11")
    return joined(trace, at, plain(fields.get("32"))) if trace and at else None


def _named(fields: Fields) -> str | None:
    """The message that field 90 or 56 names, as `_sent` has it; zeros name none."""
    later = fields["t"][0] == "1"
    told = fields.get("56" if later else "90", "")
    trace, at = told[4:10], told[10 : 22 if later else 20]
    return joined(trace, at, plain(fields.get("32"))) if trace.strip("0") and at else None


def _card(fields: Fields) -> str | None:
    track = re.match("[0-9]{12,19}(?=[=D])", fields.get("35", ""))
    return plain(fields.get("2")) or (track[0] if track else None) or plain(fields.get("102"))


def _merchant(text: str, later: bool) -> str | None:
    """The name of field 43: its first 25 characters, in 1993 what stands before a backslash."""
    return plain(text.partition("\\")[0] if later else text[:25])


def _channel(entered: str, later: bool) -> str | None:
    if later:
        return "card_not_present" if entered[5:6] == "0" else None
    return _ENTERED.get(entered[:2])


def _status(fields: Fields) -> str:
    code, kind = fields.get("39", ""), fields["t"]
    if kind[0] == "1":
        means = {"0": "approved", "4": "approved", "1": "declined", "2": "declined", "9": "failed"}
        if code[:1] not in means:
            raise NoPayment("field 39 says neither approved nor declined")
        status = means[code[0]]
    elif not code:
        raise NoPayment("field 39 is missing in an answer")
    else:
        status = "approved" if code in _APPROVED else "failed" if code in _FAILED else "declined"
    held = kind[1] == "1" and not _completes(kind) and fields.get("3", "")[:1] != "3"
    return "pending" if held and status == "approved" else status


def _time(fields: Fields, said: Said) -> str:
    """When it was: by the clock at the till and its zone, else by field 7, in UTC."""
    later = fields["t"][0] == "1"
    local, sent = fields.get("12", ""), fields.get("7", "")
    if later:
        local = f"20{local}" if local else ""
    elif local or "13" in fields:
        local = fields.get("13", "") + local
    if not local and not sent:
        raise NoPayment("neither field 7 nor field 12 says when it was")
    anchor = local or sent
    if len(anchor) == 14:
        at = _moment(anchor)
    elif not said.time_from:
        raise InputError(
            "Times of ISO 8583 in the version of 1987 have no year. Say from when they are, such "
            "as --time-from 2026-01-01."
        )
    else:
        first = said.origin()
        years = [_moment(f"{first.year + more}{anchor}") for more in (0, 1)]
        at = next((m for m in years if m and m.date() >= first.date()), None)
    if at is None:
        raise NoPayment("field 12 or 7 is no time")
    if not local:
        return f"{at.isoformat()}Z"
    if said.timezone:
        return at.isoformat()
    if not sent:
        raise InputError(
            "Local times of ISO 8583 need the zone of the tills, such as --timezone Europe/Berlin."
        )
    near = (_moment(f"{at.year + more}{sent}") for more in (-1, 0, 1))
    utc = min((m for m in near if m), key=lambda m: abs(m - at), default=None)
    if utc is None:
        raise NoPayment("field 7 is no time")
    ahead = _ahead(at, utc, fields["t"])
    return f"{utc.isoformat()}Z" if ahead is None else f"{at.isoformat()}{ahead}"


def _ahead(local: dt.datetime, utc: dt.datetime, kind: str) -> str | None:
    """The offset of a clock at the till, where a question was sent at once; else None.

    >>> at = dt.datetime(2026, 3, 1, 21, 30)
    >>> _ahead(at, dt.datetime(2026, 3, 1, 12, 30, 40), "0200")
    '+09:00'
    """
    quarters = round((local - utc).total_seconds() / 900)
    late = (utc + dt.timedelta(minutes=15 * quarters) - local).total_seconds()
    if kind[2] not in "01" or kind[3] in "135" or abs(late) > _LATE_S or not -48 <= quarters <= 56:
        return None
    hours, minutes = divmod(15 * abs(quarters), 60)
    return f"{'-' if quarters < 0 else '+'}{hours:02}:{minutes:02}"


def _moment(text: str) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(text, "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _told(fields: Fields) -> str:
    """What is kept of a message that was taken apart."""
    return json.dumps({k: "…" if k in _SECRET else v for k, v in fields.items()})[:LONGEST]


def _hidden(message: bytes) -> str:
    """What is kept of one that was not: no number in it is as long as a card's."""
    text = message[:LONGEST].decode("ascii", "replace")
    if not text.isprintable():
        text = message[: LONGEST // 2].hex()
    return re.sub("[0-9]{11,}", lambda run: run[0][:6] + "*" * (len(run[0]) - 6), text)
