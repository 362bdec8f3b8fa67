"""The analysts' part of the REST interface: cases, claims, answers taken back, snoozes, proposals.

Everything that writes is done between two commits, as one transaction of the database. An answer
becomes a label when it can no longer be taken back: `Service` sees to that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from aegis_core.evaluation import budgets
from aegis_core.review import answers, cases, statistics
from aegis_core.schema import EPOCH
from aegis_core.serving.schemas import Moment, Note, Number, Text, as_json, shown
from aegis_core.serving.service import ADMITTED, PROBLEMS, Serves

MOST_AT_ONCE: Final = 10_000
"""Transactions or answers that one request may name."""

Order = Literal["risk", "age", "sample"]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")
    analyst: Text


class ClaimAsked(_Sent):
    """A claim: of a case, or of the next one that nobody else holds."""

    case_id: Text | None = None
    order: Order = "risk"
    after: Text | None = Field(None, description="The case to go on from.")


class ReleaseAsked(_Sent):
    """Letting go of what one holds."""


class CaseAnswer(_Sent):
    """An answer about all open transactions of a case, or about some of them."""

    case_id: Text
    answer: Literal["fraud", "legitimate"]
    note: Note = ""
    transaction_ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_AT_ONCE)] | None = (
        None
    )


class UndoAsked(_Sent):
    """Answers to be taken back."""

    review_ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_AT_ONCE)]


class SnoozeAsked(_Sent):
    """Asking nothing about a customer until a date."""

    customer_id: Text
    until: Moment = Field(
        examples=["2026-03-31"], description="A date or time on the transactions' clock, UTC."
    )
    why: Text


class PolicyAsked(_Sent):
    """A budget that somebody proposes; it is only recorded."""

    alert_budget: Annotated[Number, Field(gt=0, lt=1)]
    note: Note = ""


routes = APIRouter(dependencies=ADMITTED, responses=PROBLEMS, tags=["casework"])


@routes.get("/v1/cases")
async def open_cases(
    service: Serves,
    order: Order = "risk",
    analyst: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
) -> Response:
    """Open cases: alerts of one customer and burst, with who holds them."""
    found = await service.lookups.read(
        cases.queue, service.store, order=order, analyst=analyst, limit=limit
    )
    return as_json({**vars(found), "cases": [shown(case) for case in found.cases]})


@routes.get("/v1/cases/statistics")
async def queue_statistics(service: Serves) -> Response:
    """Age of the queue, answers a day, agreement and precision with intervals."""
    return as_json(await service.lookups.read(statistics.statistics, service.store))


@routes.get("/v1/cases/what-if")
async def what_if(
    service: Serves, days: Annotated[float, Query(gt=0, le=31)] = budgets.DAYS
) -> Response:
    """What other alert budgets would have done with the last days; nothing changes."""
    found = await service.lookups.read(
        budgets.of_verdicts, service.store, service.settings, days=days
    )
    return as_json(found)


@routes.post("/v1/cases/claim")
async def claim(service: Serves, given: Annotated[ClaimAsked, Body()]) -> Response:
    """Keep a case for ten minutes: a given one, or the next; null where none is free."""
    asked = {"order": given.order, "after": given.after or ""}
    claimed = await service.work(cases.claim, given.analyst, given.case_id or "", **asked)
    return as_json({"claim": None if claimed is None else shown(vars(claimed))})


@routes.post("/v1/cases/release")
async def release(service: Serves, given: Annotated[ReleaseAsked, Body()]) -> Response:
    """Let go of what the analyst holds."""
    released = await service.do(lambda: cases.release(service.store, given.analyst))
    return as_json({"released": released})


@routes.post("/v1/cases/answer", status_code=201)
async def answer(service: Serves, given: Annotated[CaseAnswer, Body()]) -> Response:
    """Answer a case as a whole, or some of it; it becomes labels when undo is over."""
    made = await service.work(cases.answer_case, **given.model_dump())
    service.remind()
    return as_json({"review_ids": made, "undo_s": answers.UNDO_S}, 201)


@routes.post("/v1/reviews/undo")
async def undo(service: Serves, given: Annotated[UndoAsked, Body()]) -> Response:
    """Take answers back, within ten seconds and by whom they were given."""
    about = await service.do(lambda: answers.undo(service.store, **given.model_dump()))
    return as_json({"transaction_ids": about})


@routes.post("/v1/cases/snooze", status_code=201)
async def snooze(service: Serves, given: Annotated[SnoozeAsked, Body()]) -> Response:
    """Ask nothing about a customer until a date."""
    until = (EPOCH + timedelta(microseconds=int(given.until))).isoformat()
    asked = vars(given) | {"until": until}
    entry = await service.do(lambda: cases.snooze(service.store, **asked))
    return as_json({"entry_id": entry}, 201)


@routes.post("/v1/proposals", status_code=201)
async def propose(service: Serves, given: Annotated[PolicyAsked, Body()]) -> Response:
    """Record a proposal of an alert budget; nothing else changes."""
    proposal = await service.do(lambda: budgets.propose(service.store, **given.model_dump()))
    return as_json({"proposal_id": proposal}, 201)
