"""Many transactions in one body: checked by column, and one by one where something is wrong.

A column is checked by the rules of its field (`schemas.Transaction`), in one call for all rows and
once for each value where many are the same. That costs a third of what it costs row by row. A row
of which a value does not pass is checked alone, as if it had been sent alone, which says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson
from fastapi import HTTPException
from pydantic import TypeAdapter, ValidationError

from aegis_core.intake.messages import iso20022
from aegis_core.intake.messages.parts import Refused
from aegis_core.machine import utc_now_us
from aegis_core.schema import COLUMNS, NUMBER, TEXT, TIME, Column
from aegis_core.serving.rows import Rows
from aegis_core.serving.schemas import LARGEST_BATCH, checked, rules_of
from aegis_core.store.meaning import each_once, said
from aegis_core.units.words import address, small

_MOST_VALUES: Final = 2 * LARGEST_BATCH * len(COLUMNS)
_JSON: Final = json.JSONDecoder(parse_int=str, parse_float=str, strict=False)
_BLANKS: Final = re.compile(r"[ \t\n\r]*")
_LINE: Final = re.compile(rb"[^\s][^\n]*")
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SENT: Final = {column.sent or column.name: column for column in COLUMNS}
_RULES: Final = {column.name: TypeAdapter[list[Any]](list[rules_of(column)]) for column in COLUMNS}  # type: ignore[misc, arg-type]


_FIT: Final = {TEXT: "x", TIME: "2000-01-01", NUMBER: 0.0}
"""What keeps the rules of a required column, in the place of what does not."""
Part = tuple[dict[str, Any] | None, str, bytes]
"""A row or None, the problem, and how it came."""


class Many(NamedTuple):
    """Transactions of one body: the good ones, and by their places those that are none.

    Of these it is told what is wrong, and how they came.
    """

    rows: Rows
    wrong: dict[int, tuple[str, bytes]]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Many:
        """Rows that were checked one by one, each or None, with the problem and how it came."""
        good: list[dict[str, Any]] = []
        wrong = {}
        for place, (row, why, raw) in enumerate(parts):
            if row is None:
                wrong[place] = why, raw
            else:
                good.append(row)
        return cls(Rows.of(good), wrong)


def checked_message(body: bytes, future_minutes: float = 0.0) -> Many:
    """Each transfer of a pacs.008; a problem names the place.

    Raises
    ------
    HTTPException : 413 where there are too many.
    NotWhole : It is no such message, or not to its end.
    """
    parts: list[Part] = []
    for item in iso20022.read(BytesIO(body), "pacs.008"):
        _not_too_many(len(parts) + 1)
        if isinstance(item, Refused):
            parts.append((None, f"{item.place}: {item.reason}", item.message.encode()))
        elif isinstance(item, dict):
            place, at = item.pop("place"), item.pop("ts")
            sent = orjson.dumps(item | {"timestamp": at})
            row, wrong = checked(sent, future_minutes)
            parts.append((row, wrong and f"{place}: {wrong}", sent))
    return Many.of(parts)


def checked_all(body: bytes, kind: str, future_minutes: float = 0.0) -> Many:
    """Each row of a batch as `schemas.checked` gives it.

    Raises
    ------
    HTTPException : 400 where there are no rows to be had, 413 where there are too many.
    """
    commas = body.count(b",")
    if commas > _MOST_VALUES and _STRING.sub(b"", body).count(b",") > _MOST_VALUES:
        raise HTTPException(413, f"The body has more values than {LARGEST_BATCH:,} rows can have.")
    lines = None
    if "ndjson" in kind:
        lines = [line[0] for line in islice(_LINE.finditer(body), LARGEST_BATCH + 1)]
        _not_too_many(len(lines))
        body = b"[" + b",".join(lines) + b"]"
    try:
        sent = orjson.loads(body)
    except ValueError:
        sent = None
    if isinstance(sent, list):
        _not_too_many(len(sent))
        if lines is None or len(sent) == len(lines):  # a line may hold more than one row
            rows, doubtful = _by_column(sent, future_minutes)
            if not doubtful:
                return Many(rows, {})
            lines = _parts(body) if lines is None else lines
            parts = {place: checked(lines[place], future_minutes) for place in doubtful}
            if all(row is None for row, _ in parts.values()):
                good = [place for place in range(len(sent)) if place not in parts]
                wrong = {place: (why, lines[place]) for place, (_, why) in parts.items()}
                return Many(rows.take(good), wrong)
    raws = _parts(body) if lines is None else lines
    return Many.of((*checked(raw, future_minutes), raw) for raw in raws)


def _by_column(sent: list[Any], future_minutes: float) -> tuple[Rows, list[int]]:
    """Rows as `schemas.checked` gives them, by column, and the places of those that may be wrong.

    What stands at these places says nothing.
    """
    doubtful = set[int]()
    there = _names(sent)
    if there is None or not there <= _SENT.keys():
        doubtful = {i for i, row in enumerate(sent) if _names([row]) is None or row.keys() - _SENT}
        sent = [{} if i in doubtful else row for i, row in enumerate(sent)]
    rows: dict[str, list[Any]] = {}
    for name, column in _SENT.items():
        if there is not None and name not in there and not column.required:
            rows[column.name] = [None] * len(sent)
            continue
        values, wrong = _checked([row.get(name) for row in sent], column)
        rows[column.name] = values
        doubtful |= wrong
    for name, spelled in (("email", small), ("ip", address)):
        if any(rows[name]):
            rows[name] = [text and spelled(text) for text in rows[name]]
    amounts, kinds = rows["amount"], rows["kind"]
    words = each_once(
        said, rows["currency"], kinds, rows["status"],
        [None if kind else text for kind, text in zip(kinds, rows["category"], strict=True)],
        [(amount > 0) - (amount < 0) for amount in amounts],
    )  # fmt: skip
    for place, name in enumerate(("currency", "kind", "status")):
        rows[name] = [one[place] for one in words]
    rows["amount"] = [abs(amount) for amount in amounts]
    times = rows["ts"]
    rows["utc_offset"] = [at.utc_offset for at in times]
    rows["clock"] = [at.clock for at in times]
    rows["ts"] = [int(at) for at in times]
    doubtful |= {
        i
        for i, (lat, lon) in enumerate(zip(rows["lat"], rows["lon"], strict=True))
        if (lat is None) != (lon is None)
    }
    if future_minutes:
        latest = utc_now_us() + future_minutes * 60e6
        doubtful |= {i for i, at in enumerate(rows["ts"]) if at > latest}
    return Rows(rows), sorted(doubtful)


def _names(sent: list[Any]) -> set[str] | None:
    """The names in some rows; None where one of them is no object."""
    return set().union(*sent) if all(type(row) is dict for row in sent) else None


def _checked(values: list[Any], column: Column) -> tuple[list[Any], set[int]]:
    """A column as its rules have it, and the places of what does not keep them: `_FIT` is there.

    >>> _checked([" b ", 1, None], _SENT["customer_id"])
    (['b', 'x', 'x'], {1, 2})
    """
    rules, wrong = _RULES[column.name], set[int]()
    with suppress(ValidationError, TypeError):  # what does not keep them, or has no hash
        different = list(dict.fromkeys(values)) if column.kind == TEXT else values
        if 2 * len(different) > len(values):
            return _filled(rules.validate_python(values), column), wrong
        told = _filled(rules.validate_python(different), column)
        by_value = dict(zip(different, told, strict=True))
        return [by_value[value] for value in values], wrong
    try:
        rules.validate_python(values)
    except ValidationError as e:
        faults = e.errors(include_url=False, include_context=False, include_input=False)
        wrong = {int(fault["loc"][0]) for fault in faults}
    fit = _FIT[column.kind] if column.required else None
    values = [fit if i in wrong else value for i, value in enumerate(values)]
    return _filled(rules.validate_python(values), column), wrong


def _filled(values: list[Any], column: Column) -> list[Any]:
    """Texts that may be missing, and are where they are blank."""
    return [value or None for value in values] if column.kind == TEXT else values


def _parts(body: bytes) -> list[bytes]:
    """The rows of an array as they were sent, one read after the other and no more than allowed."""
    parts: list[bytes] = []
    try:
        text = body.decode()
        at = _after_blanks(text, 0)
        if text[at : at + 1] != "[":
            _JSON.decode(text)
            raise HTTPException(400, "A batch is a JSON array, or NDJSON with one row a line.")
        end = ","
        while end == ",":
            first = _after_blanks(text, at + 1)
            _, last = _JSON.raw_decode(text, first)
            parts.append(text[first:last].encode())
            _not_too_many(len(parts))
            at = _after_blanks(text, last)
            end = text[at : at + 1]
        if end != "]" or _after_blanks(text, at + 1) < len(text):
            raise ValueError(f"what follows row {len(parts):,} is neither a row nor the end")
    except (ValueError, RecursionError) as e:
        raise HTTPException(400, f"The body is not JSON: {e}") from None
    return parts


def _after_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _not_too_many(n: int) -> None:
    if n > LARGEST_BATCH:
        raise HTTPException(413, f"A batch has at most {LARGEST_BATCH:,} rows.")
