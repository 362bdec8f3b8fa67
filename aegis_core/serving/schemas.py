"""What the service is sent and what it answers: checked, named by field, sayable in JSON."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import chain_schema, str_schema

from aegis_core.detection.verdicts import ANSWERED
from aegis_core.intake.refusals import LONGEST_RAW, masked
from aegis_core.machine import utc_now_us
from aegis_core.schema import (
    COLUMNS,
    DAMAGED,
    DAY_US,
    END,
    EPOCH,
    HALF_PLACE,
    ISO_TIME,
    LONGEST_TEXT,
    NUMBER,
    TEXT,
    TIME,
    TRUTH,
    Column,
    ahead,
)
from aegis_core.serving.rows import Outcome, rejected
from aegis_core.store.meaning import each_once, said
from aegis_core.units.words import address, small

_PLAIN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""Without the characters of `schema.CONTROL`, in the dialect of JSON Schema."""
_DAMAGED: Final = re.compile(DAMAGED).search
LARGEST_BATCH: Final = 10_000
LARGEST_ROW: Final = 16 * 2**10
"""Bytes of one transaction; the longest that keeps the rules has 15 kB, every character escaped."""
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_END_US: Final = (END - EPOCH) // _MICROSECOND
_NAIVE_EPOCH: Final = EPOCH.replace(tzinfo=None)


class _Sent(int):
    """Microseconds since 1970; `utc_offset` and `clock` as in the table, where the text told."""

    utc_offset: int | None = None
    clock: str | None = None


def _microseconds(text: str) -> _Sent:
    """Microseconds since 1970 of a text that looks like `schema.ISO_TIME`."""
    late = text[11:13] == "24"  # the end of a day
    try:
        at = dt.datetime.fromisoformat((f"{text[:11]}00{text[13:]}" if late else text).upper())
    except ValueError:
        if text.startswith("0000"):  # Python knows no year 0, which was a leap year as 4000 is
            return _microseconds(f"4{text[1:]}")
        raise PydanticCustomError("time", "is not a time") from None
    offset = at.utcoffset()
    us = (at - (_NAIVE_EPOCH if offset is None else EPOCH)) // _MICROSECOND + late * DAY_US
    if not 0 < us < _END_US:
        raise PydanticCustomError("years", "is out of range")
    sent = _Sent(us)
    if offset:
        sent.utc_offset, sent.clock = round(offset.total_seconds() / 60), "sent"
    elif len(text) == 10:
        sent.clock = "date"
    return sent


def _undamaged(text: str) -> str:
    if _DAMAGED(text):
        raise PydanticCustomError("damaged", "looks damaged")
    return text


class _Plain:
    """Refuses control characters before blanks are taken off, which could hide them."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return chain_schema([str_schema(strict=True, pattern=_PLAIN), handler(source)])

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema["steps"][1])


MayBeBlank = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=LONGEST_TEXT), _Plain()
]
Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_TEXT), _Plain()
]
Id = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_TEXT),
    AfterValidator(_undamaged),
    _Plain(),
]
Note = Annotated[str, Field(max_length=2_000, pattern=_PLAIN)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Moment = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, pattern=ISO_TIME),
    AfterValidator(_microseconds),
    _Plain(),
]
"""A time as text, which becomes microseconds since 1970."""


def _large_enough(least: float) -> Callable[[float], float]:
    def check(number: float) -> float:
        if 0 < abs(number) < least:
            raise PydanticCustomError("least", "is too small")
        return number

    return check


def rules_of(column: Column) -> Any:
    """What pydantic is to check of a value of a column."""
    kind: Any = {
        TEXT: Id if column.required else MayBeBlank,
        TIME: Moment,
        NUMBER: Annotated[
            Number,
            Field(ge=column.low, le=column.high),
            *([] if column.least is None else [AfterValidator(_large_enough(column.least))]),
        ],
        TRUTH: Annotated[bool, Strict()],
    }[column.kind]
    return kind if column.required else kind | None


def _field(column: Column) -> tuple[Any, Any]:
    example = ["2026-03-01T12:00:00Z"] if column.kind == TIME else None
    field = Field(
        ... if column.required else None,
        alias=column.sent or None, description=column.about, examples=example,
    )  # fmt: skip
    return rules_of(column), field


Transaction: Final[type[BaseModel]] = create_model(
    "Transaction",
    __config__=ConfigDict(extra="forbid"),
    __doc__="A payment, as it is sent.",
    **{column.name: _field(column) for column in COLUMNS},  # type: ignore[call-overload]
)
"""A payment, as it is sent: the columns of `schema.COLUMNS`, with their rules."""
_MAY_BE_BLANK: Final = tuple(c.name for c in COLUMNS if c.kind == TEXT and not c.required)


class Later(BaseModel):
    """What became of a transaction."""

    model_config = ConfigDict(extra="forbid")
    status: Text = Field(examples=["declined"], description="In the words of a payment's status.")


class Link(BaseModel):
    """A newer number of a customer, such as that of a reissued card."""

    model_config = ConfigDict(extra="forbid")
    customer_id: Id = Field(description="The newer number.")
    replaces: Id = Field(description="The one that it replaces.")


class Unsent(BaseModel):
    """A row that its sender refused, and why."""

    model_config = ConfigDict(extra="forbid")
    raw: Annotated[str, Field(max_length=LONGEST_RAW, description="As it came.")]
    reason: Annotated[Text, Field(examples=["amount is not a number"])]


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
    replayed_at: dt.datetime | None = Field(
        None, description="Only of a verdict that was not given live: when it was replayed."
    )


_ROW: Final = TypeAdapter(Transaction)
_TOLD: Final = (*ANSWERED, "repeat")
_ANSWERED: Final = itemgetter(*ANSWERED)
_SENT: Final = {column.sent or column.name: column for column in COLUMNS}
_FAULTS: Final = {
    "missing": "missing", "string_too_short": "missing", "string_type": "text",
    "string_pattern_mismatch": "control", "string_too_long": "longest", "float_type": "number",
    "finite_number": "number", "greater_than_equal": "low",
    "less_than_equal": "high", "bool_type": "truth",
}  # fmt: skip
"""What pydantic finds, and the fault of `Column.faults` that it is."""


def settled(rows: dict[str, list[Any]], future_minutes: float) -> dict[int, str]:
    """Columns whose values keep their rules become those of the table, in place.

    `ts` is then in microseconds since 1970. Returned is what is wrong with rows of which the values
    are right one by one, but not together, by their places.
    """
    for name in _MAY_BE_BLANK:
        if "" in rows[name]:
            rows[name] = [text or None for text in rows[name]]
    for name, spelled in (("email", small), ("ip", address)):
        if any(rows[name]):
            rows[name] = [text and spelled(text) for text in rows[name]]
    amounts, kinds, times = rows["amount"], rows["kind"], rows["ts"]
    words = each_once(
        said, rows["currency"], kinds, rows["status"],
        [None if kind else text for kind, text in zip(kinds, rows["category"], strict=True)],
        [(amount > 0) - (amount < 0) for amount in amounts],
    )  # fmt: skip
    for place, name in enumerate(("currency", "kind", "status")):
        rows[name] = [one[place] for one in words]
    rows["amount"] = [abs(amount) for amount in amounts]
    rows["utc_offset"] = [at.utc_offset for at in times]
    rows["clock"] = [at.clock for at in times]
    rows["ts"] = [int(at) for at in times]
    wrong = {}
    if future_minutes:
        latest = utc_now_us() + future_minutes * 60e6
        too_late = ahead("timestamp", future_minutes)
        wrong = {i: too_late for i, at in enumerate(rows["ts"]) if at > latest}
    places = zip(rows["lat"], rows["lon"], strict=True)
    return wrong | {
        i: HALF_PLACE for i, (lat, lon) in enumerate(places) if (lat is None) != (lon is None)
    }


def _reason(e: ValidationError) -> str:
    """What is wrong with a row, in the words of `Column.faults`."""
    first = e.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    column = _SENT.get(where)
    fault = "missing" if first["input"] is None else _FAULTS.get(first["type"], first["type"])
    if column is not None and column.kind == TIME and fault in ("text", "control"):
        fault = "time"
    if column is not None and fault in column.faults:
        return f"{where} {column.faults[fault]}"
    return masked(f"{where}: {first['msg']}" if where else str(first["msg"]))


def checked(raw: bytes, future_minutes: float = 0.0) -> tuple[dict[str, Any] | None, str]:
    """The row, or None and the problem, naming the field; `future_minutes` as in the settings."""
    try:
        sent = _ROW.validate_json(raw)
    except ValidationError as e:
        return None, _reason(e)
    columns = {name: [value] for name, value in sent.__dict__.items()}
    if wrong := settled(columns, future_minutes):
        return None, wrong[0]
    return {name: column[0] for name, column in columns.items()}, ""


def refusal(raw: bytes, problem: str) -> dict[str, Any]:
    """A row of the table `rejected`."""
    text = raw[: 4 * LONGEST_RAW].decode("utf-8", "replace")
    return rejected("api", text[:LONGEST_RAW].replace("\0", "\\u0000"), problem)


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


def in_batch(outcome: Outcome) -> Mapping[str, Any]:
    """The answer about one transaction of many."""
    if outcome.conflict or outcome.verdict is None:
        told = "known with other content" if outcome.conflict else "imported, never scored"
        return {"error": f"transaction_id: {told}", "status": 409}
    return public(outcome.verdict, outcome.repeat) or {}


def public(verdict: Mapping[str, Any] | None, repeat: bool = False) -> Mapping[str, Any] | None:
    """A row of `verdicts` as `Verdict` has it; an answer that is no repeat is that already."""
    if verdict is None or ("repeat" in verdict and not repeat):
        return verdict
    told = dict(zip(_TOLD, (*_ANSWERED(verdict), repeat), strict=True))
    if replayed_at := verdict.get("replayed_at"):
        told["replayed_at"] = _sayable("replayed_at", replayed_at)
    return told


def shown(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row with times as text and without what JSON cannot say."""
    return {
        "timestamp" if name == "ts" else name: _sayable(name, value)
        for name, value in (row or {}).items()
    }


def _sayable(name: str, value: Any) -> object:
    if name == "ts" and isinstance(value, int):
        return (EPOCH + dt.timedelta(microseconds=value)).isoformat()
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


def takes_message() -> dict[str, Any]:
    """How OpenAPI describes a message in XML."""
    schema = {"type": "string", "description": "An ISO 20022 pacs.008 without a DOCTYPE."}
    return {"requestBody": {"required": True, "content": {"application/xml": {"schema": schema}}}}
