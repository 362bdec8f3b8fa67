"""The REST interface: routes, tokens, the limits of a body, what an error is answered with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Annotated, Final

import prometheus_client as prometheus
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from pydantic import Field
from starlette.types import Message, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from aegis_core import __version__
from aegis_core.errors import AegisError, InputError, QueueFull
from aegis_core.intake import links
from aegis_core.intake.messages.parts import NotWhole
from aegis_core.serving import casework
from aegis_core.serving.batches import Many, checked_all, checked_message
from aegis_core.serving.engine import Engine
from aegis_core.serving.schemas import (
    LARGEST_BATCH,
    LARGEST_ROW,
    Later,
    Link,
    Transaction,
    Unsent,
    Verdict,
    as_json,
    checked,
    in_batch,
    public,
    refusal,
    shown,
    takes,
    takes_many,
    takes_message,
    told,
)
from aegis_core.serving.service import (
    ADMITTED,
    NOT_FOUND,
    PROBLEMS,
    Problem,
    Serves,
    Service,
    opened_to,
)
from aegis_core.serving.strangers import Tokens
from aegis_core.serving.token import ROLES, SCORE
from aegis_core.units.words import STATES, word

LARGEST_BODY: Final = 8 * 2**20
LARGEST_OTHER: Final = 3 * 2**20
MOST_FAULTS: Final = 10
"""Bytes of a body that brings no transactions; it may name ten thousand."""
_NO_SUCH: Final = "There is no transaction {!r}."
_STRANGER: Final = as_json(
    {"detail": "A bearer token is required."},
    401,
    {"WWW-Authenticate": "Bearer", "Connection": "close"},
)


class Door:
    """What every request comes through: it asks for a token and notes the time taken.

    The one request that comes by the thousand is handed to `score`, past FastAPI's layers.

    Parameters
    ----------
    app : everything else.
    tokens : one of them is what requests must bring as `Authorization: Bearer`.
    """

    def __init__(self, app: FastAPI, service: Service, tokens: Tokens) -> None:
        self.app, self._service, self.tokens = app, service, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, path = time.perf_counter(), scope["path"]
        token = None
        if path.startswith("/v1/") and path != "/v1/health":
            if "user" not in scope:  # the connection has asked, where it is a `Guarded` one
                scope["user"] = self.tokens.known(scope["headers"])
            token = scope["user"]
            if token is None:
                await self.tokens.refused()
                await _STRANGER(scope, receive, send)
                return
        scores = token is not None and token.role == SCORE
        if scores and path == "/v1/transactions" and scope["method"] == "POST":
            response = await self._answered(Request(scope, _at_most(LARGEST_ROW, receive)))
            await response(scope, receive, send)
        else:
            many = path.startswith(("/v1/transactions", "/v1/messages"))
            most = LARGEST_BODY if many else LARGEST_OTHER
            await self.app(scope, _at_most(most, receive), send)
            path = getattr(scope.get("route"), "path", "other")
        self._service.meters.took(path, time.perf_counter() - began)

    async def _answered(self, request: Request) -> Response:
        try:
            return await score(request, self._service)
        except HTTPException as e:  # what FastAPI would make of it
            return as_json({"detail": e.detail}, e.status_code, e.headers)
        except AegisError as e:
            return problem(e)


def create_app(engine: Engine, score: str, desk: str) -> Door:
    """The service around an engine, which stays the caller's to close; tokens as for `Tokens`."""
    service = Service(engine)
    app = FastAPI(
        title="Aegis", version=__version__, lifespan=service.running,
        description="Scores payment transactions: a decision, its reasons, and what would have "
        "cleared it. A verdict is answered once it is on the disk, once for each transaction_id. "
        "Each token is for one role: score, casework (under the name it was given for), or view.",
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.service = service
    app.mount("/docs/static", StaticFiles(directory=swagger_ui_path))
    for router in (openly, scoring, looking, casework.looking, casework.routes):
        app.include_router(router)

    @app.exception_handler(AegisError)
    async def refused(request: Request, e: AegisError) -> Response:
        return problem(e)

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, e: RequestValidationError) -> Response:
        told = [
            {"loc": [str(part) for part in error["loc"]], "msg": error["msg"]}
            for error in e.errors()[:MOST_FAULTS]
        ]  # without what came, which is as long as it is, and may be no text
        return Response(json.dumps({"detail": told}), 422, media_type="application/json")

    return Door(app, service, Tokens(service.store.path, score, desk, service.meters))


def problem(e: AegisError) -> Response:
    """What an error is answered with: who has to change something, or when to come again."""
    if isinstance(e, InputError):
        return as_json({"detail": str(e)}, 422)
    if isinstance(e, QueueFull):
        return as_json({"detail": str(e)}, 429, {"Retry-After": "1"})
    return as_json({"detail": str(e)}, 503, {"Retry-After": "5"})


scoring, looking = (
    APIRouter(route_class=opened_to(*roles), dependencies=ADMITTED, responses=PROBLEMS)
    for roles in ((SCORE,), ROLES)
)
openly = APIRouter()


@openly.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The description as a page that asks no other server for anything."""
    static = "/docs/static"
    return get_swagger_ui_html(
        openapi_url="/openapi.json", title="Aegis",
        swagger_js_url=f"{static}/swagger-ui-bundle.js",
        swagger_css_url=f"{static}/swagger-ui.css",
        swagger_favicon_url=f"{static}/favicon-32x32.png",
    )  # fmt: skip


@scoring.post(
    "/v1/transactions",
    response_model=Verdict,
    responses={409: {"model": Problem}},
    openapi_extra=takes(Transaction),
)
async def score(request: Request, service: Serves) -> Response:
    """Score one transaction; the same one again returns the verdict it has."""
    body = await _body(request, ["application/json"])
    row, wrong = checked(body, service.settings.future_minutes)
    if row is None:
        await service.batcher.put([], [refusal(body, wrong)])
        raise HTTPException(422, wrong)
    (outcome,) = await service.batcher.put([row])
    return told(outcome)


@scoring.post("/v1/transactions:batch", openapi_extra=takes_many())
async def score_batch(request: Request, service: Serves) -> Response:
    """Score up to 10,000 transactions, a JSON array or NDJSON; an answer a row."""
    body = await _body(request, ["application/json", "application/x-ndjson"])
    kind, future = request.headers.get("content-type", ""), service.settings.future_minutes
    return await _each(service, await asyncio.to_thread(checked_all, body, kind, future))


@scoring.post("/v1/messages/pacs.008", openapi_extra=takes_message())
async def score_message(request: Request, service: Serves) -> Response:
    """Score the transfers of one ISO 20022 message; an answer a transfer, as of a batch.

    The customer is the debtor's account. A message that cannot be read is refused as a whole.
    """
    body = await _body(request, ["application/xml", "text/xml"])
    future = service.settings.future_minutes
    try:
        many = await asyncio.to_thread(checked_message, body, future)
    except NotWhole as e:
        wrong = f"The message is refused: {e}."
        await service.batcher.put([], [refusal(body, wrong)])
        raise HTTPException(422, wrong) from None
    return await _each(service, many)


async def _each(service: Service, many: Many) -> Response:
    """Score what is good of many, and answer each in its place."""
    refused = [refusal(raw, why) for why, raw in many.wrong.values()]
    n = len(many.rows) + len(refused)
    outcomes = iter(await service.batcher.put(many.rows, refused) if n else ())
    answers = [
        {"error": many.wrong[place][0], "status": 422}
        if place in many.wrong
        else in_batch(next(outcomes))
        for place in range(n)
    ]
    return await asyncio.to_thread(as_json, answers)


@scoring.post("/v1/transactions:refused")
async def keep(
    rows: Annotated[list[Unsent], Field(min_length=1, max_length=LARGEST_BATCH)], service: Serves
) -> Response:
    """Keep rows that their sender refused, with why; what is there is not kept again."""
    refused = [refusal(row.raw.encode("utf-8", "replace"), row.reason) for row in rows]
    new = await service.batcher.do(lambda: service.engine.keep(refused))
    return as_json({"new": new})


@scoring.post("/v1/links", status_code=201)
async def link(
    request: Request,
    given: Link | Annotated[list[Link], Field(min_length=1, max_length=LARGEST_BATCH)],
    service: Serves,
) -> Response:
    """Keep payments of a newer number under the customer whose number it replaces, from now on.

    All or none. Answered are how many links were new, and how many payments stay under the newer
    numbers, since they came before.
    """
    rows = given if isinstance(given, list) else [given]
    pairs, who = [(row.customer_id, row.replaces) for row in rows], request.user.name or "api"
    found = await service.work(links.link, pairs, "api", who=who)
    return as_json(found._asdict(), 201)


@looking.get("/v1/transactions/{transaction_id}", responses=NOT_FOUND)
async def look_up(transaction_id: str, service: Serves) -> Response:
    """A transaction and its verdict."""
    found = await service.lookups.find(transaction_id)
    if found is None:
        raise HTTPException(404, _NO_SUCH.format(transaction_id))
    transaction, verdict = found
    return as_json({"transaction": shown(transaction), "verdict": public(verdict)})


@scoring.put("/v1/transactions/{transaction_id}/status", responses=NOT_FOUND)
async def change(transaction_id: str, later: Later, service: Serves) -> Response:
    """Say what became of a transaction: kept, and judged where that makes a payment of it."""
    status = word(later.status, STATES) or later.status
    found = await service.batcher.do(lambda: service.engine.change(transaction_id, status))
    if found is None:
        raise HTTPException(404, _NO_SUCH.format(transaction_id))
    transaction, verdict = found
    return as_json({"transaction": shown(transaction), "verdict": public(verdict)})


@openly.get("/v1/health", responses={503: {"model": Problem}})
async def health(service: Serves) -> Response:
    """Whether it lives, can commit, and how long ago the last commit was."""
    engine, batcher = service.engine, service.batcher
    failed = await batcher.check()
    state = {
        "live": True,
        "ready": failed is None,
        "seconds_since_commit": round(time.time() - batcher.committed_at, 3),
        "waiting": batcher.waiting,
        "transactions": engine.state.next_seq,
        "model_version": engine.state.champion.version,
    }
    if (behind := engine.table_writer.failed) is not None:
        state["detail"] = f"The tables cannot be written: {behind}"
    if failed is not None:
        state["detail"] = failed
    return as_json(state, 200 if failed is None else 503)


@looking.get("/v1/metrics")
async def metrics(service: Serves) -> Response:
    """Prometheus' text format."""
    text = prometheus.generate_latest(service.meters.registry)
    return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)


def _at_most(most: int, receive: Receive) -> Receive:
    """`receive`, which raises an HTTPException, 413, beyond `most` bytes."""
    so_far = 0

    async def limited() -> Message:
        nonlocal so_far
        message = await receive()
        so_far += len(message.get("body", b""))
        if so_far > most:
            raise HTTPException(413, f"The body is larger than {most:,} bytes.")
        return message

    return limited


async def _body(request: Request, kinds: Sequence[str]) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise HTTPException(415, f"Send {' or '.join(kinds)}, not {kind or 'nothing'}.")
    parts, more = list[bytes](), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":  # nobody hears it
            raise HTTPException(408, "The body did not come to its end.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
