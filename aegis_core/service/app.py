"""The REST interface: routes, the token, the limits of a body."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final

import prometheus_client as prometheus
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from aegis_core import __version__
from aegis_core.config import Settings
from aegis_core.errors import AegisError, InputError, StoreError
from aegis_core.reviews import STANDING, UNDO_S, answer
from aegis_core.service import casework
from aegis_core.service.committer import Committer, Meters, log
from aegis_core.service.engine import Engine
from aegis_core.service.messages import (
    Problem,
    Review,
    Transaction,
    Verdict,
    as_json,
    checked,
    in_batch,
    parts,
    plain,
    public,
    refusal,
    shown,
    takes,
    takes_many,
    told,
)
from aegis_core.store import Store

LARGEST_BODY: Final = 8 * 2**20
_BEARER: Final = HTTPBearer(auto_error=False)


def create_app(store: Store, settings: Settings, token: str) -> FastAPI:
    """The service on a database that this process owns.

    Parameters
    ----------
    store : inside of its `owned()` block.
    token : what requests must bring as `Authorization: Bearer`.
    """
    meters = Meters()
    place: dict[str, Committer] = {}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = await asyncio.to_thread(Engine, store, settings)
        place["committer"] = committer = Committer(engine, meters)
        running = asyncio.create_task(committer.run())
        settling = asyncio.create_task(settler.run())
        log("ready", transactions=engine.next_seq, model=engine.champion.version)
        yield
        settling.cancel()
        committer.end()
        await running
        with contextlib.suppress(OSError, AegisError):
            await asyncio.to_thread(engine.save)
        log("ended", transactions=engine.next_seq)

    app = FastAPI(
        title="Aegis", version=__version__, lifespan=lifespan,
        description="Scores payment transactions: a decision, its reasons, and what would have "
        "cleared it. A verdict is answered after it is committed, once for each transaction_id.",
    )  # fmt: skip

    def admitted(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        given = credentials.credentials if credentials is not None else ""
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "A bearer token is required.", {"WWW-Authenticate": "Bearer"})

    def committer() -> Committer:
        return place["committer"]

    settler = casework.Settling(store, committer)
    Admitted = [Depends(admitted)]
    Problems: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem} for code in (400, 401, 413, 415, 422, 429, 503)
    }

    @app.middleware("http")
    async def timed(request: Request, call_next: Any) -> Response:
        began = time.perf_counter()
        response: Response = await call_next(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        meters.latency.labels(path).observe(time.perf_counter() - began)
        return response

    async def body_of(request: Request, kinds: Sequence[str]) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in kinds:
            raise HTTPException(415, f"Send {' or '.join(kinds)}, not {kind or 'nothing'}.")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                raise HTTPException(413, f"The body is larger than {LARGEST_BODY:,} bytes.")
        return bytes(body)

    @app.post(
        "/v1/transactions", response_model=Verdict, dependencies=Admitted,
        responses=Problems | {409: {"model": Problem}}, openapi_extra=takes(Transaction),
    )  # fmt: skip
    async def score(request: Request) -> Response:
        """Score one transaction; the same one again returns the verdict it has."""
        body = await body_of(request, ["application/json"])
        row, problem = checked(body)
        if row is None:
            await committer().put([], [refusal(body.decode("utf-8", "replace"), problem)])
            raise HTTPException(422, problem)
        (outcome,) = await committer().put([row])
        return told(outcome)

    @app.post(
        "/v1/transactions:batch", dependencies=Admitted, responses=Problems,
        openapi_extra=takes_many(),
    )  # fmt: skip
    async def score_batch(request: Request) -> Response:
        """Score up to 10,000 transactions, a JSON array or NDJSON; an answer a row."""
        kinds = ["application/json", "application/x-ndjson"]
        body = await body_of(request, kinds)
        rows: list[dict[str, Any]] = []
        answers: list[dict[str, Any] | None] = []
        refused = []
        for raw in parts(body, request.headers.get("content-type", "")):
            row, problem = checked(raw)
            if row is None:
                text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else plain(raw)
                refused.append(refusal(text, problem))
                answers.append({"error": problem, "status": 422})
            else:
                rows.append(row)
                answers.append(None)
        outcomes = iter(await committer().put(rows, refused) if answers else ())
        told = [in_batch(next(outcomes)) if a is None else a for a in answers]
        return as_json(told)

    @app.get(
        "/v1/transactions/{transaction_id}", dependencies=Admitted,
        responses=Problems | {404: {"model": Problem}},
    )  # fmt: skip
    async def look_up(transaction_id: str) -> Response:
        """A transaction and its verdict."""
        found = await asyncio.to_thread(committer().engine.find, transaction_id)
        if found is None:
            raise HTTPException(404, f"There is no transaction {transaction_id!r}.")
        transaction, verdict = found
        return as_json({"transaction": shown(transaction), "verdict": public(verdict)})

    @app.post(
        "/v1/reviews", status_code=201, dependencies=Admitted,
        responses=Problems | {404: {"model": Problem}},
    )  # fmt: skip
    async def review(given: Annotated[Review, Body()]) -> Response:
        """Keep an analyst's answer; it teaches learners once it can no longer be taken back."""
        if await asyncio.to_thread(committer().engine.find, given.transaction_id) is None:
            raise HTTPException(404, f"There is no transaction {given.transaction_id!r}.")

        def keep() -> str:
            return answer(
                store, given.transaction_id, given.answer, analyst=given.analyst, note=given.note,
                hold_s=UNDO_S,
            )  # fmt: skip

        review_id = await committer().do(keep)
        settler.remind()
        return as_json({"review_id": review_id}, 201)

    @app.get("/v1/reviews/queue", dependencies=Admitted, responses=Problems)
    async def queue(limit: Annotated[int, Query(ge=1, le=1_000)] = 50) -> Response:
        """Alerts and the audit sample that nobody answered yet, the highest risk first."""
        found = await asyncio.to_thread(store.rows, _QUEUE, [limit])
        return as_json([shown(row) for row in found])

    app.include_router(casework.router(store, settings, committer, settler, Admitted, Problems))

    @app.get("/v1/health", responses={503: {"model": Problem}})
    async def health() -> Response:
        """Whether it lives, can commit, and how long ago the last commit was."""
        now = committer()
        told = {
            "live": True,
            "ready": now.failed is None,
            "seconds_since_commit": round(time.time() - now.committed_at, 3),
            "waiting": now.waiting,
            "transactions": now.engine.next_seq,
            "model_version": now.engine.champion.version,
        }
        if now.failed:
            told["detail"] = now.failed
        return as_json(told, 200 if now.failed is None else 503)

    @app.get("/v1/metrics", dependencies=Admitted, responses={401: {"model": Problem}})
    async def metrics() -> Response:
        """Prometheus' text format."""
        text = prometheus.generate_latest(meters.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.exception_handler(InputError)
    async def wrong(request: Request, e: InputError) -> Response:
        return as_json({"detail": str(e)}, 422)

    @app.exception_handler(StoreError)
    async def unavailable(request: Request, e: StoreError) -> Response:
        return JSONResponse({"detail": str(e)}, 503, {"Retry-After": "5"})

    return app


_QUEUE = f"""
    SELECT v.transaction_id, v.seq, t.customer_id, t.ts, t.amount, t.currency, v.decision, v.risk,
      v.score, v.reasons, v.cleared, v.inclusion, v.model_version
    FROM verdicts v JOIN transactions t USING (seq)
    WHERE v.inclusion <= 1 AND v.transaction_id NOT IN (SELECT transaction_id FROM ({STANDING}))
    ORDER BY v.risk DESC, v.seq LIMIT ?
"""
