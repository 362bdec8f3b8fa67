"""What the service is sent and what it answers: checked, named by field, sayable in JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import HTTPException, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from aegis_core.detection.verdicts import ANSWERED
from aegis_core.intake.staging import HIGHEST_AMOUNT, LONGEST_TEXT
from aegis_core.serving.rows import Outcome, rejected

LARGEST_BATCH: Final = 10_000
_LONGEST_RAW: Final = 10_000
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


def _utc(value: dt.datetime) -> dt.datetime:
    try:
        moment = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    except OverflowError:  # the year 1 or 9999 in another zone
        moment = _END
    if not _EPOCH < moment < _END:
        raise ValueError("is not between 1970 and 2100")
    return moment


def _iso(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is not a time in ISO 8601")
    return value


_PLAIN: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, strict=True, pattern=_PLAIN)]
Note = Annotated[str, Field(max_length=2_000, pattern=_PLAIN)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Moment = Annotated[dt.datetime, BeforeValidator(_iso), AfterValidator(_utc)]


class Transaction(BaseModel):
    """A payment, as it is sent."""

    model_config = ConfigDict(extra="forbid")

    transaction_id: Text
    customer_id: Text
    timestamp: Annotated[
        dt.datetime,
        AfterValidator(_utc),
        Field(
            strict=True,
            description="ISO 8601; without an offset it is UTC.",
            examples=["2026-03-01T12:00:00Z"],
        ),
    ]
    amount: Annotated[
        Number, Field(gt=0, le=HIGHEST_AMOUNT, description="In the transaction's currency.")
    ]
    currency: Text | None = None
    merchant_id: Text | None = None
    category: Text | None = None
    channel: Text | None = None
    lat: Annotated[Number, Field(ge=-90, le=90)] | None = None
    lon: Annotated[Number, Field(ge=-180, le=180)] | None = None

    @model_validator(mode="after")
    def _whole_place(self) -> Transaction:
        if (self.lat is None) != (self.lon is None):
            raise ValueError("lat without lon, or lon without lat")
        return self

    def row(self) -> dict[str, Any]:
        """The columns of the table `transactions`; `ts` in microseconds since 1970."""
        values = self.__dict__.copy()
        moment = values.pop("timestamp") - _EPOCH
        values["ts"] = (moment.days * 86_400 + moment.seconds) * 1_000_000 + moment.microseconds
        return values


class Reason(BaseModel):
    """One reason of a verdict, the strongest first."""

    factor: str
    code: str
    text: str
    contribution: float


class Verdict(BaseModel):
    """What was decided, and why."""

    transaction_id: str
    decision: Literal["approve", "review", "block"]
    risk: float = Field(description="Percentile among ordinary traffic, 0 to 100.")
    score: float = Field(description="Higher is more suspicious; not a probability.")
    reasons: list[Reason]
    cleared: str | None = Field(None, description="What would have cleared an alert.")
    model_version: str
    seq: int
    repeat: bool = Field(False, description="The verdict was there before.")


class Review(BaseModel):
    """An analyst's answer."""

    model_config = ConfigDict(extra="forbid")

    transaction_id: Text
    answer: Literal["fraud", "legitimate"]
    analyst: Text
    note: Note = ""


_ROW: Final = TypeAdapter(Transaction)
_ROWS: Final = TypeAdapter(list[Transaction])
_TOLD: Final = {
    "string_pattern_mismatch": "has a control character",
    "datetime_type": "is not a time in ISO 8601",
    "datetime_parsing": "is not a time in ISO 8601",
}


def checked(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """The row, or None and the problem, naming the field."""
    try:
        return _ROW.validate_json(raw).row(), ""
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        told = _TOLD.get(first["type"], str(first["msg"]).removeprefix("Value error, "))
        return None, f"{where}: {told}" if where else told


def checked_all(body: bytes, kind: str) -> list[tuple[dict[str, Any] | None, str, bytes]]:
    """Each row of a batch as `checked` gives it, and how it came; what came of good rows is b"".

    Raises
    ------
    HTTPException
        400 where there are no rows to be had, 413 where there are too many.
    """
    lines = [line for line in body.split(b"\n") if line.strip()] if "ndjson" in kind else None
    if lines is not None:
        _not_too_many(len(lines))
        body = b"[" + b",".join(lines) + b"]"
    try:
        rows = _ROWS.validate_json(body)
    except ValidationError:  # one of them is wrong, or all of it: row by row
        parts = lines if lines is not None else _parts(body)
    else:
        _not_too_many(len(rows))
        if lines is None or len(rows) == len(lines):
            return [(row.row(), "", b"") for row in rows]
        parts = lines  # a line held more than one row
    return [(*checked(raw), raw) for raw in parts]


def _parts(body: bytes) -> list[bytes]:
    try:
        parsed = from_json(body)
    except ValueError as e:
        raise HTTPException(400, f"The body is not JSON: {e}") from None
    if not isinstance(parsed, list):
        raise HTTPException(400, "A batch is a JSON array, or NDJSON with one row a line.")
    _not_too_many(len(parsed))
    return [json.dumps(part, ensure_ascii=False).encode() for part in parsed]


def _not_too_many(n: int) -> None:
    if n > LARGEST_BATCH:
        raise HTTPException(413, f"A batch has at most {LARGEST_BATCH:,} rows, not {n:,}.")


def refusal(raw: bytes, problem: str) -> dict[str, Any]:
    """A row of the table `rejected`."""
    text = raw[: 4 * _LONGEST_RAW].decode("utf-8", "replace")
    return rejected("api", text[:_LONGEST_RAW].replace("\0", "\\u0000"), problem)


def told(outcome: Outcome) -> Response:
    """The answer about one transaction."""
    if outcome.conflict:
        return as_json(
            {
                "detail": "This transaction_id is known with other content.",
                "stored": shown(outcome.stored),
                "verdict": public(outcome.verdict),
            },
            409,
        )
    if outcome.verdict is None:
        return as_json(
            {"detail": "This transaction is part of the imported history and was never scored."},
            409,
        )
    return as_json(public(outcome.verdict, outcome.repeat))


def in_batch(outcome: Outcome) -> dict[str, Any]:
    """The answer about one transaction of many."""
    if outcome.conflict or outcome.verdict is None:
        told = "known with other content" if outcome.conflict else "imported, never scored"
        return {"error": f"transaction_id: {told}", "status": 409}
    return public(outcome.verdict, outcome.repeat) or {}


def public(verdict: Mapping[str, Any] | None, repeat: bool = False) -> dict[str, Any] | None:
    """A row of `verdicts` as `Verdict` has it."""
    if verdict is None:
        return None
    return {name: verdict[name] for name in ANSWERED} | {"repeat": repeat}


def shown(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row with times as text and without what JSON cannot say."""
    return {
        "timestamp" if name == "ts" else name: _sayable(name, value)
        for name, value in (row or {}).items()
    }


def _sayable(name: str, value: Any) -> object:
    if name == "ts" and isinstance(value, int):
        return (_EPOCH + dt.timedelta(microseconds=value)).isoformat()
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=dt.UTC).isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """How OpenAPI describes a body of one `model`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def takes_many() -> dict[str, Any]:
    """How OpenAPI describes a batch."""
    schema = Transaction.model_json_schema()
    many = {"type": "array", "items": schema, "maxItems": LARGEST_BATCH}
    lines = {"type": "string", "description": "One JSON object a line."}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": many},
                "application/x-ndjson": {"schema": lines},
            },
        }
    }
