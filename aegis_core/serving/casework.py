"""The analysts' part of the REST interface: cases, claims, answers taken back, snoozes, proposals.

Everything that writes is done between two commits, as one transaction of the database. An answer
becomes a label when it can no longer be taken back: `Settling` sees to that, also for answers that
an earlier service left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from aegis_core.config import Settings
from aegis_core.errors import AegisError, NotReady
from aegis_core.evaluation import budgets
from aegis_core.review import answering, answers, caseload, statistics
from aegis_core.serving.batcher import Committer, log
from aegis_core.serving.schemas import Moment, Note, Number, Text, as_json, shown
from aegis_core.store import Store

MOST_AT_ONCE: Final = 10_000
"""Transactions or answers that one request may name."""

Order = Literal["risk", "age"]


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


async def _done(committer: Callable[[], Committer], work: Callable[[], Any]) -> Any:
    """The result of `work`, done between two groups; an answer is heard before the next one."""
    return await committer().do(lambda: committer().engine.do(work))


class Settling:
    """Makes labels of answers when they can no longer be taken back.

    Parameters
    ----------
    committer : called for the one who writes.
    """

    def __init__(self, store: Store, committer: Callable[[], Committer]) -> None:
        self.store, self.committer = store, committer
        self._some = asyncio.Event()
        self._some.set()  # what an earlier service left

    def remind(self) -> None:
        """There is an answer that will have to be settled."""
        self._some.set()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while await self._settled():
                await asyncio.sleep(1.0)

    async def _settled(self) -> bool:
        """Settle what is due; whether anything is left to settle later."""
        try:
            if await asyncio.to_thread(answers.held, self.store):
                await _done(self.committer, lambda: answers.settle(self.store))
            (pending,) = await asyncio.to_thread(self.store.rows, _PENDING)
        except (AegisError, OSError, HTTPException) as e:
            log("settling_failed", error=str(e))
            return True
        return bool(pending["n"])


_PENDING: Final = f"""
    SELECT count(*) AS n FROM ({answers.STANDING})
    WHERE held_until IS NOT NULL AND review_id NOT IN (SELECT review_id FROM taught)"""


def router(
    store: Store,
    settings: Settings,
    committer: Callable[[], Committer],
    settling: Settling,
    dependencies: Sequence[Any],
    problems: dict[int | str, dict[str, Any]],
) -> APIRouter:
    """The routes, to be included in the service.

    Parameters
    ----------
    dependencies : what admits a request.
    problems : how OpenAPI describes what may go wrong.
    """
    routes = APIRouter(dependencies=list(dependencies), responses=problems, tags=["casework"])

    @routes.get("/v1/cases")
    async def cases(
        order: Order = "risk",
        analyst: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
    ) -> Response:
        """Open cases: alerts of one customer and burst, with who holds them."""
        found = await asyncio.to_thread(
            caseload.queue, store, order=order, analyst=analyst, limit=limit
        )
        return as_json({**vars(found), "cases": [shown(case) for case in found.cases]})

    @routes.get("/v1/cases/statistics")
    async def queue_statistics() -> Response:
        """Age of the queue, answers a day, agreement and precision with intervals."""
        return as_json(await asyncio.to_thread(statistics.statistics, store))

    @routes.get("/v1/cases/what-if")
    async def what_if(days: Annotated[float, Query(gt=0, le=31)] = budgets.DAYS) -> Response:
        """What other alert budgets would have done with the last days; nothing changes."""
        try:
            return as_json(await asyncio.to_thread(budgets.of_verdicts, store, settings, days=days))
        except NotReady as e:
            raise HTTPException(503, str(e)) from None

    @routes.post("/v1/cases/claim")
    async def claim(given: Annotated[ClaimAsked, Body()]) -> Response:
        """Keep a case for ten minutes: a given one, or the next; null where none is free."""
        found = await asyncio.to_thread(
            caseload.wanted, store, given.analyst, given.case_id or "", order=given.order,
            after=given.after or "",
        )  # fmt: skip
        claimed = await _done(
            committer,
            lambda: caseload.take(store, given.analyst, found, only=given.case_id is not None),
        )
        return as_json({"claim": None if claimed is None else shown(vars(claimed))})

    @routes.post("/v1/cases/release")
    async def release(given: Annotated[ReleaseAsked, Body()]) -> Response:
        """Let go of what the analyst holds."""
        released = await _done(committer, lambda: caseload.release(store, given.analyst))
        return as_json({"released": released})

    @routes.post("/v1/cases/answer", status_code=201)
    async def answer(given: Annotated[CaseAnswer, Body()]) -> Response:
        """Answer a case as a whole, or some of it; it becomes labels when undo is over."""
        found = await asyncio.to_thread(
            answering.asked, store, given.case_id, given.analyst, given.transaction_ids
        )
        made = await _done(
            committer,
            lambda: answering.give(
                store, found, given.answer, analyst=given.analyst, note=given.note
            ),
        )
        settling.remind()
        return as_json({"review_ids": made, "undo_s": answers.UNDO_S}, 201)

    @routes.post("/v1/reviews/undo")
    async def undo(given: Annotated[UndoAsked, Body()]) -> Response:
        """Take answers back, within ten seconds and by whom they were given."""
        about = await _done(
            committer, lambda: answers.undo(store, given.review_ids, analyst=given.analyst)
        )
        return as_json({"transaction_ids": about})

    @routes.post("/v1/cases/snooze", status_code=201)
    async def snooze(given: Annotated[SnoozeAsked, Body()]) -> Response:
        """Ask nothing about a customer until a date."""
        entry = await _done(committer,
            lambda: answering.snooze(
                store, given.customer_id, given.until.isoformat(), analyst=given.analyst,
                why=given.why,
            )
        )  # fmt: skip
        return as_json({"entry_id": entry}, 201)

    @routes.post("/v1/proposals", status_code=201)
    async def propose(given: Annotated[PolicyAsked, Body()]) -> Response:
        """Record a proposal of an alert budget; nothing else changes."""
        content = {"alert_budget": given.alert_budget}
        proposal = await _done(
            committer,
            lambda: budgets.propose(store, "policy", content, who=given.analyst, note=given.note),
        )
        return as_json({"proposal_id": proposal}, 201)

    return routes
