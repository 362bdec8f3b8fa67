"""The batcher: takes what waits, lets the engine score and keep it in groups, answers.

What arrives while a group is forced to the disk is the next group. So one wait for the disk serves
many requests, and a busy service makes larger groups and not more of them. Where the queue is full
that is said at once, and where the disk is, after the try.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import prometheus_client as prometheus

from aegis_core.errors import AegisError, InputError, QueueFull, StoreError
from aegis_core.intake.refusals import masked
from aegis_core.machine import utc_now, utc_now_us
from aegis_core.serving.engine import Engine
from aegis_core.serving.rows import Outcome

_LOG: Final = logging.getLogger("aegis.service")
QUEUE_ROWS: Final = 20_000
"""Rows that may wait for a commit; beyond that no more are taken."""
GROUP_ROWS: Final = 10_000
"""Rows of one commit at most."""
GATHER_S: Final = 0.0005
"""How long a group waits to become as large as the one before."""
STATS_S: Final = 5.0
"""How often rate and latency are noted in the table `service_stats`."""
SNAPSHOT_S: Final = 600.0
"""How often the state is saved while transactions arrive."""


@dataclass
class _Waiting:
    """Rows of one request, or its work, and where what comes of it goes."""

    rows: Sequence[Mapping[str, Any]] = ()
    refused: Sequence[Mapping[str, Any]] = ()
    work: Callable[[], Any] | None = None
    outcomes: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def n_rows(self) -> int:
        return len(self.rows) + len(self.refused)


@dataclass
class Meters:
    """What `/v1/metrics` tells, in a registry of its own."""

    registry: prometheus.CollectorRegistry = field(default_factory=prometheus.CollectorRegistry)
    lately: list[float] = field(default_factory=list)

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
        self.wrong_tokens = prometheus.Counter(
            "aegis_wrong_tokens", "Requests refused since they lack the token.", registry=registry
        )
        self.waiting = prometheus.Gauge(
            "aegis_queue_rows", "Rows waiting for a commit.", registry=registry
        )
        self.commits = prometheus.Histogram(
            "aegis_commit_seconds", "Scoring and committing one group.", buckets=steps,
            registry=registry,
        )  # fmt: skip

    def took(self, path: str, seconds: float) -> None:
        """Note how long one request took."""
        self.latency.labels(path).observe(seconds)
        if path.startswith("/v1/transactions"):
            self.lately.append(seconds)

    def drained(self) -> list[float]:
        """How long the scoring requests took since the last call, in seconds."""
        lately, self.lately = self.lately, []
        return lately


class Batcher:
    """Takes what waits, lets the engine score and keep it in its thread, answers.

    Attributes
    ----------
    committed_at : when, in seconds since 1970.
    waiting : rows that wait for a commit.
    """

    def __init__(self, engine: Engine, meters: Meters) -> None:
        self.engine, self.meters = engine, meters
        self.committed_at = time.time()
        self.failed: str | None = None
        self._queue: deque[_Waiting] = deque()
        self.waiting = 0
        self._some = asyncio.Event()
        self._ended = False
        self._before = 0
        self._saved = (time.monotonic(), engine.state.next_seq)

    async def put(
        self, rows: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, Any]] = ()
    ) -> list[Outcome]:
        """Outcomes of `rows`, once they are committed.

        Raises
        ------
        QueueFull : Too many wait already.
        StoreError : They could not be kept, or the service is ending.
        """
        if self.waiting + len(rows) + len(refused) > QUEUE_ROWS:
            raise QueueFull(f"{self.waiting} transactions are waiting; try again.")
        outcomes: list[Outcome] = await self._enqueued(_Waiting(rows, refused))
        return outcomes

    async def do(self, work: Callable[[], Any]) -> Any:
        """The result of `work`, done between two groups, in the engine's thread.

        Raises
        ------
        StoreError : The service is ending.
        """
        return await self._enqueued(_Waiting(work=work))

    def _enqueued(self, waiting: _Waiting) -> asyncio.Future[Any]:
        if self._ended:
            raise StoreError("The service is ending.")
        self._queue.append(waiting)
        self.waiting += waiting.n_rows
        self.meters.waiting.set(self.waiting)
        self._some.set()
        return waiting.outcomes

    async def run(self) -> None:
        """Commit until `end` was called and nothing waits any more."""
        while not (self._ended and not self._queue):
            await self._some.wait()
            await self._gather()
            group = self._next_group()
            if group:
                self._before = len(group)
                await self._commit(group)
            if not self._queue and not self._ended:
                self._some.clear()

    async def check(self) -> str | None:
        """Why nothing can be scored at the moment, or None; after a failure it is tried again."""
        if self.failed is not None:
            try:
                await self.do(self.engine.check)
                self.failed = None
            except AegisError as e:
                self.failed = str(e)
        return self.failed

    async def tell(self) -> None:
        """Note rate and latency every `STATS_S` in `service_stats`, until it is cancelled."""
        seq, began = self.engine.state.next_seq, time.monotonic()
        while True:
            await asyncio.sleep(STATS_S)
            now, took = time.monotonic(), np.array(self.meters.drained())
            p50, p99 = np.quantile(took, [0.5, 0.99]) * 1e3 if len(took) else (None, None)
            stats = {
                "noted_at": utc_now_us(),
                "seconds": now - began,
                "transactions": self.engine.state.next_seq - seq,
                "p50_ms": p50,
                "p99_ms": p99,
                "waiting": self.waiting,
            }
            self.engine.table_writer.note({"service_stats": {k: [v] for k, v in stats.items()}})
            seq, began = self.engine.state.next_seq, now

    async def _gather(self) -> None:
        """Wait a moment for those who were just answered: they tend to come again together."""
        until = time.perf_counter() + GATHER_S
        while len(self._queue) < self._before and time.perf_counter() < until:
            await asyncio.sleep(0)

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
            group.append(self._queue.popleft())
            n += len(first.rows)
        self.waiting -= sum(w.n_rows for w in group)
        self.meters.waiting.set(self.waiting)
        return group

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        work = group[0].work
        rows = group[0].rows
        if len(group) > 1:
            rows = [row for waiting in group for row in waiting.rows]
        refused = [row for waiting in group for row in waiting.refused]
        began, loop = time.perf_counter(), asyncio.get_running_loop()
        try:
            if work is not None:
                _answer(group[0].outcomes, await loop.run_in_executor(self.engine.thread, work))
                self._count()
                return
            outcomes = await loop.run_in_executor(
                self.engine.thread, self.engine.score, rows, refused
            )
        except Exception as e:
            problem = e if work and isinstance(e, InputError) else _not_kept(e)
            if work is None:
                self.failed = str(problem)
                log("commit_failed", error=str(e), rows=len(rows))
            for waiting in group:
                if not waiting.outcomes.done():
                    waiting.outcomes.set_exception(problem)
            return
        self.meters.commits.observe(time.perf_counter() - began)
        self.failed, self.committed_at = None, time.time()
        at = 0
        for waiting in group:
            part = outcomes[at : at + len(waiting.rows)]
            at += len(waiting.rows)
            _answer(waiting.outcomes, part)
        self._count()
        if refused:
            self.meters.refused.inc(len(refused))
        await self._save_now_and_then()

    def _count(self) -> None:
        made, self.engine.decided = self.engine.decided, Counter()
        for decision, n in made.items():
            self.meters.decisions.labels(decision).inc(n)

    async def _save_now_and_then(self) -> None:
        when, seq = self._saved
        if time.monotonic() - when < SNAPSHOT_S or seq == self.engine.state.next_seq:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self.engine.thread, self.engine.save)
        except Exception as e:  # whatever it is, the next group is scored
            log("snapshot_failed", error=str(e))
        self._saved = (time.monotonic(), self.engine.state.next_seq)


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # the client may have gone away
        future.set_result(result)


def _not_kept(e: Exception) -> StoreError:
    if not isinstance(e, AegisError | OSError):
        _LOG.error("unexpected error: %s", masked("".join(traceback.format_exception(e))))
        told = f"unexpected {type(e).__name__}, the log says more."
        return StoreError(f"The transactions could not be scored and kept: {told}")
    return StoreError(f"The transactions could not be kept: {e}")


def log(event: str, **what: object) -> None:
    """One line of JSON on the log; ids at most, no other personal data."""
    moment = f"{utc_now().isoformat(timespec='milliseconds')}+00:00"
    _LOG.info(masked(json.dumps({"time": moment, "event": event, **what}, ensure_ascii=False)))
