"""The one who writes: takes what waits, lets the engine score and commit it, answers.

What arrives while a group is committed is the next group. So one commit serves many requests, and a
busy service commits larger groups and not more of them. Where the queue is full the answer is 429
at once, and where the disk is, 503.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import prometheus_client as prometheus
from fastapi import HTTPException

from aegis_core.errors import AegisError, InputError
from aegis_core.service.engine import Engine, Outcome

_LOG: Final = logging.getLogger("aegis.service")
QUEUE_ROWS: Final = 20_000
"""Rows that may wait for a commit; beyond that the answer is 429."""
GROUP_ROWS: Final = 10_000
"""Rows of one commit at most."""
SNAPSHOT_S: Final = 600.0
"""How often the state is saved while transactions arrive."""


@dataclass
class _Waiting:
    """Rows of one request, and where their outcomes go."""

    rows: Sequence[Mapping[str, Any]]
    refused: Sequence[Mapping[str, Any]]
    outcomes: asyncio.Future[list[Outcome]]
    work: Callable[[], Any] | None = None


@dataclass
class Meters:
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

    def __init__(self, engine: Engine, meters: Meters) -> None:
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
                log("commit_failed", error=str(e), rows=len(rows))
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
            log("snapshot_failed", error=str(e))
        self._saved = (time.monotonic(), self.engine.next_seq)


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # the client may have gone away
        future.set_result(result)


def _unavailable(e: Exception) -> HTTPException:
    if not isinstance(e, AegisError | OSError):
        _LOG.exception("unexpected error", exc_info=e)
        return HTTPException(503, "The transactions could not be kept.", {"Retry-After": "5"})
    return HTTPException(503, f"The transactions could not be kept: {e}", {"Retry-After": "5"})


def log(event: str, **what: object) -> None:
    """One line of JSON on the log; ids at most, no other personal data."""
    moment = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    _LOG.info(json.dumps({"time": moment, "event": event, **what}, ensure_ascii=False))
