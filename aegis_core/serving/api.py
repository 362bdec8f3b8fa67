"""The REST interface: routes, the token, the limits of a body."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

import prometheus_client as prometheus
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from aegis_core import __version__
from aegis_core.errors import AegisError, InputError, StoreError
from aegis_core.review.answers import STANDING, UNDO_S, answer
from aegis_core.serving import casework
from aegis_core.serving.batcher import Committer, Meters, log
from aegis_core.serving.engine import Engine
from aegis_core.serving.schemas import (
    Problem,
    Review,
    Transaction,
    Verdict,
    as_json,
    checked,
    checked_all,
    in_batch,
    problem,
    public,
    refusal,
    shown,
    takes,
    takes_many,
    told,
)

LARGEST_BODY: Final = 8 * 2**20
_BEARER: Final = HTTPBearer(auto_error=False)
_STRANGER: Final = as_json(
    {"detail": "A bearer token is required."}, 401, {"WWW-Authenticate": "Bearer"}
)


class Door:
    """What every request comes through: it asks for the token and notes the time taken.

    The one request that comes by the thousand is handed to its handler, past FastAPI's layers.

    Parameters
    ----------
    app : everything else.
    score : the handler of `POST /v1/transactions`.
    """

    def __init__(
        self, app: FastAPI, score: Callable[[Request], Awaitable[Response]], token: str,
        meters: Meters,
    ) -> None:  # fmt: skip
        self.app, self._score, self._meters = app, score, meters
        self._expected = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, path = time.perf_counter(), scope["path"]
        if path.startswith("/v1/") and path != "/v1/health" and not self._knows(scope["headers"]):
            await _STRANGER(scope, receive, send)
        elif path == "/v1/transactions" and scope["method"] == "POST":
            response = await answered(self._score, Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self.app(scope, receive, send)
            path = getattr(scope.get("route"), "path", "other")
        self._meters.took(path, time.perf_counter() - began)

    def _knows(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        given = next((value for name, value in headers if name == b"authorization"), b"")
        return given[:7].lower() == b"bearer " and hmac.compare_digest(given[7:], self._expected)


async def answered(
    handler: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:  # fmt: skip
    """What `handler` answers; of what it raises, the same that FastAPI makes of it."""
    try:
        return await handler(request)
    except HTTPException as e:
        return problem(e)
    except InputError as e:
        return as_json({"detail": str(e)}, 422)
    except StoreError as e:
        return as_json({"detail": str(e)}, 503, {"Retry-After": "5"})


def create_app(engine: Engine, token: str) -> Door:
    """The service around an engine, which it closes when it ends.

    Parameters
    ----------
    token : what requests must bring as `Authorization: Bearer`.
    """
    meters, store = Meters(), engine.store
    place: dict[str, Committer] = {}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        place["committer"] = committer = Committer(engine, meters)
        running = asyncio.create_task(committer.run())
        settling = asyncio.create_task(settler.run())
        log("ready", transactions=engine.next_seq, model=engine.champion.version)
        telling = asyncio.create_task(committer.tell())
        yield
        telling.cancel()
        settling.cancel()
        committer.end()
        await running
        with contextlib.suppress(OSError, AegisError):
            await asyncio.to_thread(engine.save)
        await asyncio.to_thread(engine.close)
        log("ended", transactions=engine.next_seq)

    app = FastAPI(
        title="Aegis", version=__version__, lifespan=lifespan,
        description="Scores payment transactions: a decision, its reasons, and what would have "
        "cleared it. A verdict is answered once it is on the disk, once for each transaction_id.",
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.mount("/docs/static", StaticFiles(directory=swagger_ui_path))

    def committer() -> Committer:
        return place["committer"]

    settler = casework.Settling(store, committer)
    Admitted = [Depends(_BEARER)]  # for the description; `Door` asks for it
    Problems: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem} for code in (400, 401, 413, 415, 422, 429, 503)
    }

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The description as a page that asks no other server for anything."""
        static = "/docs/static"
        return get_swagger_ui_html(
            openapi_url="/openapi.json", title="Aegis",
            swagger_js_url=f"{static}/swagger-ui-bundle.js",
            swagger_css_url=f"{static}/swagger-ui.css",
            swagger_favicon_url=f"{static}/favicon-32x32.png",
        )  # fmt: skip

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
        row, wrong = checked(body)
        if row is None:
            await committer().put([], [refusal(body, wrong)])
            raise HTTPException(422, wrong)
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
        kind = request.headers.get("content-type", "")
        for row, wrong, raw in await asyncio.to_thread(checked_all, body, kind):
            if row is None:
                refused.append(refusal(raw, wrong))
                answers.append({"error": wrong, "status": 422})
            else:
                rows.append(row)
                answers.append(None)
        outcomes = iter(await committer().put(rows, refused) if answers else ())
        told = [in_batch(next(outcomes)) if a is None else a for a in answers]
        return await asyncio.to_thread(as_json, told)

    @app.get(
        "/v1/transactions/{transaction_id}", dependencies=Admitted,
        responses=Problems | {404: {"model": Problem}},
    )  # fmt: skip
    async def look_up(transaction_id: str) -> Response:
        """A transaction and its verdict."""
        found = await committer().do(lambda: engine.find(transaction_id))
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

        def keep() -> str | None:
            if engine.find(given.transaction_id) is None:
                return None
            return answer(
                store, given.transaction_id, given.answer, analyst=given.analyst, note=given.note,
                hold_s=UNDO_S,
            )  # fmt: skip

        review_id = await committer().do(lambda: engine.do(keep))
        if review_id is None:
            raise HTTPException(404, f"There is no transaction {given.transaction_id!r}.")
        settler.remind()
        return as_json({"review_id": review_id}, 201)

    @app.get("/v1/reviews/queue", dependencies=Admitted, responses=Problems)
    async def queue(limit: Annotated[int, Query(ge=1, le=1_000)] = 50) -> Response:
        """Alerts and the audit sample that nobody answered yet, the highest risk first."""
        found = await asyncio.to_thread(store.rows, _QUEUE, [limit])
        return as_json([shown(row) for row in found])

    cases = casework.router(store, engine.settings, committer, settler, Admitted, Problems)
    app.include_router(cases)

    @app.get("/v1/health", responses={503: {"model": Problem}})
    async def health() -> Response:
        """Whether it lives, can commit, and how long ago the last commit was."""
        now = committer()
        failed = await now.check()
        told = {
            "live": True,
            "ready": failed is None,
            "seconds_since_commit": round(time.time() - now.committed_at, 3),
            "waiting": now.waiting,
            "transactions": now.engine.next_seq,
            "model_version": now.engine.champion.version,
        }
        if (behind := now.engine.keeper.failed) is not None:
            told["detail"] = f"The tables cannot be written: {behind}"
        if failed is not None:
            told["detail"] = failed
        return as_json(told, 200 if failed is None else 503)

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
        return as_json({"detail": str(e)}, 503, {"Retry-After": "5"})

    return Door(app, score, token, meters)


_QUEUE = f"""
    SELECT v.transaction_id, v.seq, t.customer_id, t.ts, t.amount, t.currency, v.decision, v.risk,
      v.score, v.reasons, v.cleared, v.inclusion, v.model_version
    FROM verdicts v JOIN transactions t USING (seq)
    WHERE v.inclusion <= 1 AND v.transaction_id NOT IN (SELECT transaction_id FROM ({STANDING}))
    ORDER BY v.risk DESC, v.seq LIMIT ?
"""
