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
from aegis_core.schema import COLUMNS, NUMBER, TEXT, TIME, Column
from aegis_core.serving.rows import Rows
from aegis_core.serving.schemas import LARGEST_BATCH, checked, rules_of, settled

_MOST_VALUES: Final = 2 * LARGEST_BATCH * len(COLUMNS)
_JSON: Final = json.JSONDecoder(parse_int=str, parse_float=str, strict=False)
_BLANKS: Final = re.compile(r"[ \t\n\r]*")
_LINE: Final = re.compile(rb"[^\s][^\n]*")
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SENT: Final = {column.sent or column.name: column for column in COLUMNS}
_RULES: Final = {
    column.name: TypeAdapter[list[Any]](list[rules_of(column)])  # type: ignore[misc, arg-type]
    for column in COLUMNS
}
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
            rows, doubtful, wrong = _by_column(sent, future_minutes)
            if not doubtful and not wrong:
                return Many(rows, {})
            lines = _parts(body) if lines is None else lines
            alone = {place: checked(lines[place], future_minutes) for place in doubtful}
            if all(row is None for row, _ in alone.values()):
                wrong |= {place: why for place, (_, why) in alone.items()}
                good = [place for place in range(len(sent)) if place not in wrong]
                return Many(rows.take(good), {i: (wrong[i], lines[i]) for i in sorted(wrong)})
    raws = _parts(body) if lines is None else lines
    return Many.of((*checked(raw, future_minutes), raw) for raw in raws)


def _by_column(sent: list[Any], future_minutes: float) -> tuple[Rows, set[int], dict[int, str]]:
    """Rows by column, the places of those of which a value may be wrong, and what is in others.

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
        rows[column.name], unfit = _checked([row.get(name) for row in sent], column)
        doubtful |= unfit
    wrong = settled(rows, future_minutes)
    return Rows(rows), doubtful, {i: why for i, why in wrong.items() if i not in doubtful}


def _names(sent: list[Any]) -> set[str] | None:
    """The names in some rows; None where one of them is no object."""
    return set().union(*sent) if all(type(row) is dict for row in sent) else None


def _checked(values: list[Any], column: Column) -> tuple[list[Any], set[int]]:
    """A column as its rules have it, and the places of what does not keep them: `_FIT` is there.

    >>> _checked([" b ", 1, None], _SENT["customer_id"])
    (['b', 'x', 'x'], {1, 2})
    """
    rules = _RULES[column.name]
    with suppress(ValidationError, TypeError):  # what does not keep them, or has no hash
        different = list(dict.fromkeys(values)) if column.kind == TEXT else values
        if 2 * len(different) > len(values):
            return rules.validate_python(values), set()
        told = dict(zip(different, rules.validate_python(different), strict=True))
        return [told[value] for value in values], set()
    unfit = set[int]()
    try:
        rules.validate_python(values)
    except ValidationError as e:
        faults = e.errors(include_url=False, include_context=False, include_input=False)
        unfit = {int(fault["loc"][0]) for fault in faults}
    fit = _FIT[column.kind] if column.required else None
    kept = [fit if i in unfit else value for i, value in enumerate(values)]
    return rules.validate_python(kept), unfit


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
