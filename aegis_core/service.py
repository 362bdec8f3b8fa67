"""The REST service: transactions in, verdicts out, nothing answered before it is committed.

Requests put their rows into one queue. A committer takes all that is there, lets the engine score
and commit it in a thread, and answers; what arrives meanwhile is the next group. So one commit
serves many requests, and a busy service commits larger groups and not more of them. Where the queue
is full the answer is 429 at once, and where the disk is, 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hmac
import json
import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import prometheus_client as prometheus
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
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

from aegis_core import __version__
from aegis_core.config import Settings
from aegis_core.engine import Engine, Outcome
from aegis_core.errors import AegisError, InputError, StoreError
from aegis_core.live import answer
from aegis_core.models import roles
from aegis_core.staging import HIGHEST_AMOUNT, LONGEST_TEXT
from aegis_core.store import Store, connect

_LOG: Final = logging.getLogger("aegis.service")
LARGEST_BATCH: Final = 10_000
LARGEST_BODY: Final = 8 * 2**20
QUEUE_ROWS: Final = 20_000
"""Rows that may wait for a commit; beyond that the answer is 429."""
GROUP_ROWS: Final = 10_000
"""Rows of one commit at most."""
SNAPSHOT_S: Final = 600.0
"""How often the state is saved while transactions arrive."""
_LONGEST_RAW: Final = 10_000
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


def _text(value: str) -> str:
    if any(
        not c.isprintable() and ord(c) < 0xA0 and (ord(c) < 0x20 or ord(c) >= 0x7F) for c in value
    ):
        raise ValueError("has a control character")
    return value


def _utc(value: dt.datetime) -> dt.datetime:
    try:
        moment = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    except OverflowError:  # the year 1 or 9999 in another zone
        moment = _END
    if not _EPOCH < moment < _END:
        raise ValueError("is not between 1970 and 2100")
    return moment


def _no_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is not a number")
    return value


def _iso(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is not a time in ISO 8601")
    return value


Text = Annotated[
    str, Field(min_length=1, max_length=LONGEST_TEXT, strict=True), AfterValidator(_text)
]
Number = Annotated[float, BeforeValidator(_no_number), Field(allow_inf_nan=False, strict=True)]


class Transaction(BaseModel):
    """A payment, as it is sent."""

    model_config = ConfigDict(extra="forbid")

    transaction_id: Text
    customer_id: Text
    timestamp: Annotated[
        dt.datetime,
        BeforeValidator(_iso),
        AfterValidator(_utc),
        Field(
            description="ISO 8601; without an offset it is UTC.", examples=["2026-03-01T12:00:00Z"]
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
        values = dict(self)
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
    note: Annotated[str, Field(max_length=2_000), AfterValidator(_text)] = ""


class Problem(BaseModel):
    """Why a request was not done."""

    detail: str


@dataclass
class _Waiting:
    """Rows of one request, and where their outcomes go."""

    rows: Sequence[Mapping[str, Any]]
    refused: Sequence[Mapping[str, Any]]
    outcomes: asyncio.Future[list[Outcome]]
    work: Callable[[], Any] | None = None


@dataclass
class _Meters:
    """What `/v1/metrics` tells, in a registry of its own."""

    registry: prometheus.CollectorRegistry = field(default_factory=prometheus.CollectorRegistry)

    def __post_init__(self) -> None:
        steps = (0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
        registry = self.registry
        self.latency = prometheus.Histogram(
            "aegis_request_seconds", "From a request's arrival to its answer.", ["path"],
            buckets=steps, registry=registry,
        )  # fmt: skip
        self.decisions = prometheus.Counter(
            "aegis_decisions", "Verdicts by decision.", ["decision"], registry=registry
        )
        self.refused = prometheus.Counter(
            "aegis_refused", "Rows refused at the door.", registry=registry
        )
        self.waiting = prometheus.Gauge(
            "aegis_queue_rows", "Rows waiting for a commit.", registry=registry
        )
        self.commits = prometheus.Histogram(
            "aegis_commit_seconds", "Scoring and committing one group.", buckets=steps,
            registry=registry,
        )  # fmt: skip


class Committer:
    """The one who writes: takes what waits, lets the engine score and commit it, answers."""

    def __init__(self, engine: Engine, meters: _Meters) -> None:
        self.engine, self.meters = engine, meters
        self.committed_at = time.time()
        self.failed: str | None = None
        self._queue: list[_Waiting] = []
        self._rows = 0
        self._some = asyncio.Event()
        self._ended = False
        self._saved = (time.monotonic(), engine.next_seq)

    @property
    def waiting(self) -> int:
        """Rows that wait for a commit."""
        return self._rows

    async def put(
        self, rows: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, Any]] = ()
    ) -> list[Outcome]:
        """Outcomes of `rows`, once they are committed.

        Raises
        ------
        HTTPException
            429 where too many wait already, 503 where the commit failed.
        """
        n = len(rows) + len(refused)
        if self._ended:
            raise HTTPException(503, "The service is ending.", {"Retry-After": "5"})
        if self._rows + n > QUEUE_ROWS:
            raise HTTPException(
                429, f"{self._rows} transactions are waiting; try again.", {"Retry-After": "1"}
            )
        waiting = _Waiting(rows, refused, asyncio.get_running_loop().create_future())
        self._enqueue(waiting)
        return await waiting.outcomes

    async def do(self, work: Callable[[], Any]) -> Any:
        """The result of `work`, done between two commits."""
        if self._ended:
            raise HTTPException(503, "The service is ending.", {"Retry-After": "5"})
        waiting = _Waiting((), (), asyncio.get_running_loop().create_future(), work)
        self._enqueue(waiting)
        return await waiting.outcomes

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._rows += len(waiting.rows) + len(waiting.refused)
        self.meters.waiting.set(self._rows)
        self._some.set()

    async def run(self) -> None:
        """Commit until `end` was called and nothing waits any more."""
        while not (self._ended and not self._queue):
            await self._some.wait()
            group = self._next_group()
            if group:
                await self._commit(group)
            if not self._queue and not self._ended:
                self._some.clear()

    def end(self) -> None:
        """Take nothing more."""
        self._ended = True
        self._some.set()

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        n = 0
        while self._queue:
            first = self._queue[0]
            if group and (first.work or group[0].work or n + len(first.rows) > GROUP_ROWS):
                break
            group.append(self._queue.pop(0))
            n += len(first.rows)
        self._rows -= sum(len(w.rows) + len(w.refused) for w in group)
        self.meters.waiting.set(self._rows)
        return group

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        work = group[0].work
        rows = [row for waiting in group for row in waiting.rows]
        refused = [row for waiting in group for row in waiting.refused]
        began = time.perf_counter()
        try:
            if work is not None:
                found = await asyncio.to_thread(work)
                _answer(group[0].outcomes, found)
                return
            outcomes = await asyncio.to_thread(self.engine.score, rows, refused)
        except Exception as e:
            told = e if isinstance(e, InputError) else _unavailable(e)
            if work is None:
                self.failed = str(e)
                _log("commit_failed", error=str(e), rows=len(rows))
            for waiting in group:
                if not waiting.outcomes.done():
                    waiting.outcomes.set_exception(told)
            return
        self.meters.commits.observe(time.perf_counter() - began)
        self.failed, self.committed_at = None, time.time()
        at = 0
        for waiting in group:
            part = outcomes[at : at + len(waiting.rows)]
            at += len(waiting.rows)
            _answer(waiting.outcomes, part)
        for outcome in outcomes:
            if outcome.verdict is not None and not outcome.repeat:
                self.meters.decisions.labels(outcome.verdict["decision"]).inc()
        if refused:
            self.meters.refused.inc(len(refused))
        await self._save_now_and_then()

    async def _save_now_and_then(self) -> None:
        when, seq = self._saved
        if time.monotonic() - when < SNAPSHOT_S or seq == self.engine.next_seq:
            return
        try:
            await asyncio.to_thread(self.engine.save)
        except (OSError, AegisError) as e:
            _log("snapshot_failed", error=str(e))
        self._saved = (time.monotonic(), self.engine.next_seq)


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # the client may have gone away
        future.set_result(result)


def _unavailable(e: Exception) -> HTTPException:
    if not isinstance(e, AegisError | OSError):
        _LOG.exception("unexpected error", exc_info=e)
        return HTTPException(503, "The transactions could not be kept.", {"Retry-After": "5"})
    return HTTPException(503, f"The transactions could not be kept: {e}", {"Retry-After": "5"})


def _log(event: str, **what: object) -> None:
    """One line of JSON on the log; ids at most, no other personal data."""
    moment = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    _LOG.info(json.dumps({"time": moment, "event": event, **what}, ensure_ascii=False))


def token_of(store: Store) -> str:
    """The token that requests must bring: of `AEGIS_TOKEN`, or of a file made on the first start.

    Raises
    ------
    InputError
        The file can be read by others, or is too short.
    """
    given = os.environ.get("AEGIS_TOKEN", "")
    path = token_file(store)
    if not given and path.exists():
        if path.stat().st_mode & 0o077:
            raise InputError(f"{path} can be read by others; `chmod 600` it or delete it.")
        given = path.read_text().strip()
    if not given:
        given = secrets.token_urlsafe(32)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(given + "\n")
    if len(given) < 16:
        raise InputError("The token is too short to be safe; use 16 characters or more.")
    return given


def token_file(store: Store) -> Path:
    """Where `token_of` keeps the token: beside the database, readable by its owner alone."""
    return store.path.with_name(store.path.name + ".token")


_ROW: Final = TypeAdapter(Transaction)
_BEARER: Final = HTTPBearer(auto_error=False)


def create_app(store: Store, settings: Settings, token: str) -> FastAPI:
    """The service on a database that this process owns.

    Parameters
    ----------
    store : inside of its `owned()` block.
    token : what requests must bring as `Authorization: Bearer`.
    """
    meters = _Meters()
    place: dict[str, Committer] = {}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = await asyncio.to_thread(Engine, store, settings)
        place["committer"] = committer = Committer(engine, meters)
        running = asyncio.create_task(committer.run())
        _log("ready", transactions=engine.next_seq, model=engine.champion.version)
        yield
        committer.end()
        await running
        with contextlib.suppress(OSError, AegisError):
            await asyncio.to_thread(engine.save)
        _log("ended", transactions=engine.next_seq)

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
        responses=Problems | {409: {"model": Problem}}, openapi_extra=_takes(Transaction),
    )  # fmt: skip
    async def score(request: Request) -> Response:
        """Score one transaction; the same one again returns the verdict it has."""
        body = await body_of(request, ["application/json"])
        row, problem = _checked(body)
        if row is None:
            await committer().put([], [_refusal(body.decode("utf-8", "replace"), problem)])
            raise HTTPException(422, problem)
        (outcome,) = await committer().put([row])
        return _told(outcome)

    @app.post(
        "/v1/transactions:batch", dependencies=Admitted, responses=Problems,
        openapi_extra=_takes_many(),
    )  # fmt: skip
    async def score_batch(request: Request) -> Response:
        """Score up to 10,000 transactions, a JSON array or NDJSON; an answer a row."""
        kinds = ["application/json", "application/x-ndjson"]
        body = await body_of(request, kinds)
        rows: list[dict[str, Any]] = []
        answers: list[dict[str, Any] | None] = []
        refused = []
        for raw in _parts(body, request.headers.get("content-type", "")):
            row, problem = _checked(raw)
            if row is None:
                text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else _plain(raw)
                refused.append(_refusal(text, problem))
                answers.append({"error": problem, "status": 422})
            else:
                rows.append(row)
                answers.append(None)
        outcomes = iter(await committer().put(rows, refused) if answers else ())
        told = [_in_batch(next(outcomes)) if a is None else a for a in answers]
        return _json(told)

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
        return _json({"transaction": _shown(transaction), "verdict": _public(verdict)})

    @app.post(
        "/v1/reviews", status_code=201, dependencies=Admitted,
        responses=Problems | {404: {"model": Problem}},
    )  # fmt: skip
    async def review(given: Annotated[Review, Body()]) -> Response:
        """Keep an analyst's answer; it teaches the next learner."""
        if await asyncio.to_thread(committer().engine.find, given.transaction_id) is None:
            raise HTTPException(404, f"There is no transaction {given.transaction_id!r}.")

        def keep() -> str:
            return answer(
                store, given.transaction_id, given.answer, analyst=given.analyst, note=given.note
            )

        review_id = await committer().do(keep)
        return _json({"review_id": review_id}, 201)

    @app.get("/v1/reviews/queue", dependencies=Admitted, responses=Problems)
    async def queue(limit: Annotated[int, Query(ge=1, le=1_000)] = 50) -> Response:
        """Alerts and the audit sample that nobody answered yet, the highest risk first."""
        found = await asyncio.to_thread(store.rows, _QUEUE, [limit])
        return _json([_shown(row) for row in found])

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
        return _json(told, 200 if now.failed is None else 503)

    @app.get("/v1/metrics", dependencies=Admitted, responses={401: {"model": Problem}})
    async def metrics() -> Response:
        """Prometheus' text format."""
        text = prometheus.generate_latest(meters.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.exception_handler(InputError)
    async def wrong(request: Request, e: InputError) -> Response:
        return _json({"detail": str(e)}, 422)

    @app.exception_handler(StoreError)
    async def unavailable(request: Request, e: StoreError) -> Response:
        return JSONResponse({"detail": str(e)}, 503, {"Retry-After": "5"})

    return app


_QUEUE = """
    SELECT v.transaction_id, v.seq, t.customer_id, t.ts, t.amount, t.currency, v.decision, v.risk,
      v.score, v.reasons, v.cleared, v.inclusion, v.model_version
    FROM verdicts v JOIN transactions t USING (seq)
    WHERE v.inclusion IS NOT NULL AND v.transaction_id NOT IN (SELECT transaction_id FROM reviews)
    ORDER BY v.risk DESC, v.seq LIMIT ?
"""


def _checked(raw: bytes | object) -> tuple[dict[str, Any] | None, str]:
    """The row, or None and the problem, naming the field."""
    try:
        if isinstance(raw, bytes):
            return _ROW.validate_json(raw).row(), ""
        return _ROW.validate_python(raw).row(), ""
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        told = str(first["msg"]).removeprefix("Value error, ")
        return None, f"{where}: {told}" if where else told


def _parts(body: bytes, kind: str) -> Sequence[bytes | object]:
    if "ndjson" in kind:
        parts: Sequence[bytes | object] = [line for line in body.split(b"\n") if line.strip()]
    else:
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError) as e:
            raise HTTPException(400, f"The body is not JSON: {e}") from None
        if not isinstance(parsed, list):
            raise HTTPException(400, "A batch is a JSON array, or NDJSON with one row a line.")
        parts = parsed
    if len(parts) > LARGEST_BATCH:
        raise HTTPException(413, f"A batch has at most {LARGEST_BATCH:,} rows, not {len(parts):,}.")
    return parts


def _refusal(raw: str, problem: str) -> dict[str, Any]:
    return {
        "received_at": dt.datetime.now(dt.UTC).replace(tzinfo=None),
        "source": "api",
        "raw": raw[:_LONGEST_RAW].replace("\0", "\\u0000"),
        "reason": problem,
    }


def _told(outcome: Outcome) -> Response:
    if outcome.conflict:
        return _json(
            {
                "detail": "This transaction_id is known with other content.",
                "stored": _shown(outcome.stored),
                "verdict": _public(outcome.verdict),
            },
            409,
        )
    if outcome.verdict is None:
        return _json(
            {"detail": "This transaction is part of the imported history and was never scored."},
            409,
        )
    return _json(_public(outcome.verdict, outcome.repeat))


def _in_batch(outcome: Outcome) -> dict[str, Any]:
    if outcome.conflict or outcome.verdict is None:
        told = "known with other content" if outcome.conflict else "imported, never scored"
        return {"error": f"transaction_id: {told}", "status": 409}
    return _public(outcome.verdict, outcome.repeat) or {}


def _public(verdict: Mapping[str, Any] | None, repeat: bool = False) -> dict[str, Any] | None:
    """A row of `verdicts` as `Verdict` has it."""
    if verdict is None:
        return None
    names = ("transaction_id", "decision", "risk", "score", "reasons", "cleared", "model_version")
    return {n: _plain_number(verdict[n]) for n in names} | {
        "seq": int(verdict["seq"]),
        "repeat": repeat,
    }


def _plain_number(value: object) -> object:
    return value.item() if hasattr(value, "item") else value


def _shown(row: Mapping[str, Any] | None) -> dict[str, Any]:
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


def _plain(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _json(content: object, status: int = 200) -> Response:
    return Response(
        json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"),
        status, media_type="application/json",
    )  # fmt: skip


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _takes_many() -> dict[str, Any]:
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


def serve(
    settings: Settings, *, host: str = "127.0.0.1", port: int = 8000, for_s: float | None = None
) -> None:
    """Own the database and serve until a signal ends it, or `for_s` seconds are over.

    Raises
    ------
    NotReady
        There is no champion model yet.
    StoreBusy
        Another process holds the database.
    InputError
        The port is taken, or the token is not safe.
    """
    import uvicorn

    store = connect(settings.db)
    roles(store)
    token = token_of(store)
    listener = _listener(host, port)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with store.owned():
        app = create_app(store, settings, token)
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", access_log=False, timeout_graceful_shutdown=10,
                limit_concurrency=1_000, h11_max_incomplete_event_size=65_536,
            )
        )  # fmt: skip
        address = "http://{}:{}".format(*listener.getsockname()[:2])
        print(f"Scoring on {address}/v1/transactions, described at {address}/docs", flush=True)
        print(f"The token is in {token_file(store)}" if "AEGIS_TOKEN" not in os.environ else
              "The token is that of AEGIS_TOKEN", flush=True)  # fmt: skip
        if for_s is not None:
            timer = threading.Timer(for_s, lambda: setattr(server, "should_exit", True))
            timer.daemon = True
            timer.start()
        for end in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it is done
            signal.signal(end, lambda *_: None)
        server.run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as e:
        listener.close()
        raise InputError(
            f"{host}:{port} cannot be used ({e.strerror}); choose another with --port."
        ) from None
    return listener
