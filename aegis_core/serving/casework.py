"""The analysts' part of the REST interface: cases, claims, answers taken back, snoozes, proposals.

Everything that writes is done between two commits, as one transaction of the database, under the
name of the token's analyst. An answer becomes a label when it can no longer be taken back:
`Service` sees to that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from aegis_core.evaluation import budgets
from aegis_core.review import answers, cases, statistics
from aegis_core.schema import EPOCH, WORTH
from aegis_core.serving.schemas import Moment, Note, Number, Text, as_json, shown
from aegis_core.serving.service import ADMITTED, NOT_FOUND, PROBLEMS, Serves, opened_to
from aegis_core.serving.token import CASEWORK, VIEW

MOST_AT_ONCE: Final = 10_000
"""Transactions or answers that one request may name."""

Order = Literal["risk", "age", "sample"]


class Sent(BaseModel):
    """Who acts; letting go of a case needs no more."""

    model_config = ConfigDict(extra="forbid")
    analyst: Text | None = Field(None, description="Who acts, where the token does not say it.")


class ClaimAsked(Sent):
    """A claim: of a case, or of the next one that nobody else holds."""

    case_id: Text | None = None
    order: Order = "risk"
    after: Text | None = Field(None, description="The case to go on from.")


class Review(Sent):
    """An answer about one transaction."""

    transaction_id: Text
    answer: Literal["fraud", "legitimate"]
    note: Note = ""


class CaseAnswer(Sent):
    """An answer about all open transactions of a case, or about some of them."""

    case_id: Text
    answer: Literal["fraud", "legitimate"]
    note: Note = ""
    transaction_ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_AT_ONCE)] | None = (
        None
    )


class UndoAsked(Sent):
    """Answers to be taken back."""

    review_ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_AT_ONCE)]


class SnoozeAsked(Sent):
    """Asking nothing about a customer until a date."""

    customer_id: Text
    until: Moment = Field(
        examples=["2026-03-31"], description="A date or time on the transactions' clock, UTC."
    )
    why: Text


class PolicyAsked(Sent):
    """A budget that somebody proposes; it is only recorded."""

    alert_budget: Annotated[Number, Field(gt=0, lt=1)]
    note: Note = ""


looking, routes = (
    APIRouter(
        route_class=opened_to(*roles), dependencies=ADMITTED, responses=PROBLEMS, tags=["casework"]
    )
    for roles in ((CASEWORK, VIEW), (CASEWORK,))
)


def _by(request: Request, given: Sent) -> dict[str, Any]:
    """What was sent, under the name of who acts: that of the token, if it has one."""
    return vars(given) | {"analyst": request.user.acts_as(given.analyst)}


@looking.get("/v1/cases")
async def open_cases(
    request: Request,
    service: Serves,
    order: Order = "risk",
    analyst: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
) -> Response:
    """Open cases: alerts of one customer and burst, with who holds them."""
    if request.user.role == CASEWORK and (request.user.name or analyst):
        analyst = request.user.acts_as(analyst or None)
    found = await service.lookups.read(
        cases.queue, service.store, order=order, analyst=analyst, limit=limit
    )
    return as_json({**vars(found), "cases": [shown(case) for case in found.cases]})


@looking.get("/v1/cases/statistics")
async def queue_statistics(service: Serves) -> Response:
    """Age of the queue, answers a day, agreement and precision with intervals."""
    return as_json(await service.lookups.read(statistics.statistics, service.store))


@looking.get("/v1/cases/what-if")
async def what_if(
    service: Serves, days: Annotated[float, Query(gt=0, le=31)] = budgets.DAYS
) -> Response:
    """What other alert budgets would have done with the last days; nothing changes."""
    found = await service.lookups.read(
        budgets.of_verdicts, service.store, service.settings, days=days
    )
    return as_json(found)


@routes.post("/v1/cases/claim")
async def claim(request: Request, service: Serves, given: ClaimAsked) -> Response:
    """Keep a case for ten minutes: a given one, or the next; null where none is free."""
    asked = {k: v for k, v in _by(request, given).items() if v is not None}
    claimed = await service.work(cases.claim, **asked)
    return as_json({"claim": None if claimed is None else shown(vars(claimed))})


@routes.post("/v1/cases/release")
async def release(request: Request, service: Serves, given: Sent) -> Response:
    """Let go of what the analyst holds."""
    asked = _by(request, given)
    released = await service.do(lambda: cases.release(service.store, **asked))
    return as_json({"released": released})


@routes.post("/v1/cases/answer", status_code=201)
async def answer_case(request: Request, service: Serves, given: CaseAnswer) -> Response:
    """Answer a case as a whole, or some of it; it becomes labels when undo is over."""
    made = await service.work(cases.answer_case, **_by(request, given))
    service.remind()
    return as_json({"review_ids": made, "undo_s": answers.UNDO_S}, 201)


@routes.post("/v1/reviews", status_code=201, responses=NOT_FOUND)
async def answer(request: Request, service: Serves, given: Review) -> Response:
    """Answer one transaction, in a case or not; it becomes a label when undo is over."""
    asked = _by(request, given)

    def keep() -> str | None:
        if service.engine.find(given.transaction_id) is None:
            return None
        return answers.answer(service.store, **asked, hold_s=answers.UNDO_S)

    review_id = await service.do(keep)
    if review_id is None:
        raise HTTPException(404, f"There is no transaction {given.transaction_id!r}.")
    service.remind()
    return as_json({"review_id": review_id}, 201)


@routes.post("/v1/reviews/undo")
async def undo(request: Request, service: Serves, given: UndoAsked) -> Response:
    """Take answers back, within ten seconds and by whom they were given."""
    asked = _by(request, given)
    about = await service.do(lambda: answers.undo(service.store, **asked))
    return as_json({"transaction_ids": about})


@looking.get("/v1/reviews/queue")
async def queue(service: Serves, limit: Annotated[int, Query(ge=1, le=1_000)] = 50) -> Response:
    """Alerts and the audit sample that nobody answered yet, the largest risk × amount first."""
    found = await service.lookups.read(service.store.rows, _QUEUE, [limit])
    return as_json([shown(row) for row in found])


@routes.post("/v1/cases/snooze", status_code=201)
async def snooze(request: Request, service: Serves, given: SnoozeAsked) -> Response:
    """Ask nothing about a customer until a date, `snooze_days` of the settings away at most."""
    asked = _by(request, given)
    asked["until"] = (EPOCH + timedelta(microseconds=int(given.until))).isoformat()
    days = service.settings.snooze_days
    entry = await service.do(lambda: cases.snooze(service.store, **asked, most_days=days))
    return as_json({"entry_id": entry}, 201)


@routes.post("/v1/proposals", status_code=201)
async def propose(request: Request, service: Serves, given: PolicyAsked) -> Response:
    """Record a proposal of an alert budget; nothing else changes."""
    asked = _by(request, given)
    proposal = await service.do(lambda: budgets.propose(service.store, **asked))
    return as_json({"proposal_id": proposal}, 201)


_QUEUE = f"""
    SELECT v.transaction_id, v.seq, t.customer_id, t.ts, t.amount, t.currency, v.decision, v.risk,
      v.score, v.reasons, v.cleared, v.inclusion, v.model_version
    FROM verdicts v JOIN transactions t USING (seq)
    WHERE v.inclusion <= 1 AND v.transaction_id NOT IN
      (SELECT transaction_id FROM ({answers.STANDING}))
    ORDER BY v.risk * {WORTH} DESC, v.seq LIMIT ?
"""
