"""The usual stack: FastAPI, pydantic, scikit-learn's IsolationForest a row a call, SQLite.

What people write for this task, written with care, so that the comparison is fair:

- a pydantic model checks the payment; a bearer token is asked for; a second payment of one id is
  a 409 (the primary key says so), so nothing is stored twice;
- features of the customer's last `PAST` payments, by one look-up through an index, in plain Python
  (pandas for one row would take longer than all of the rest);
- `IsolationForest(n_estimators=100)`, the default, trained on features made by the same function;
  `score_samples` on one row; two thresholds for review and block;
- payment and verdict are committed before the answer: SQLite with a write-ahead log and
  `synchronous=FULL`, so that an answered verdict survives a loss of power, as with Aegis;
- Uvicorn with uvloop and httptools, one worker (SQLite has one writer, and a second worker would
  take the other core from the load generator), no access log;
- the work is done in the event loop. Most would write `def` and get FastAPI's threads, which is
  slower with many connections, since the threads take turns (on 2 cores and 8 connections 126 a
  second and p99 0.59 s instead of 147 and 0.10 s). `--style threads` does it.

It does less than Aegis: no reasons, no profiles older than `PAST` payments, no audit sample, no
lists, nothing that replays, and a payment that is sent again is not answered with its verdict.

    python benchmarks/usual_stack.py FOLDER --port 8001
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import math
import os
import pickle
import secrets
import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from sklearn.ensemble import IsolationForest

from aegis_core.features.geo import haversine_km

PAST: Final = 50
"""Payments of the customer that the features look back on."""
TRAINED_ON: Final = 30_000
"""Last payments of the history that the forest is trained on."""
BUDGET: Final = 0.005
"""Share of payments for review, and a fifth of it for block."""
FEATURES: Final = (
    *("amount", "mean", "times_mean", "deviations", "hour", "weekday", "count_1h", "count_24h"),
    *("gap_h", "km", "kmh"),
)

Past = tuple[float, float, float | None, float | None]
"""Time in seconds since 1970, amount, place."""

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS transactions (
      transaction_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, ts REAL NOT NULL,
      amount REAL NOT NULL, currency TEXT, merchant_id TEXT, category TEXT, channel TEXT,
      lat REAL, lon REAL);
    CREATE INDEX IF NOT EXISTS of_customer ON transactions (customer_id, ts);
    CREATE TABLE IF NOT EXISTS verdicts (
      transaction_id TEXT PRIMARY KEY, score REAL NOT NULL, decision TEXT NOT NULL,
      scored_at REAL NOT NULL);
"""
_COLUMNS = (
    *("transaction_id", "customer_id", "ts", "amount", "currency", "merchant_id", "category"),
    *("channel", "lat", "lon"),
)
_INSERT = f"INSERT INTO transactions VALUES ({', '.join('?' * len(_COLUMNS))})"
_PAST = (
    "SELECT ts, amount, lat, lon FROM transactions WHERE customer_id = ? AND ts <= ? "
    f"ORDER BY ts DESC LIMIT {PAST}"
)
_BEARER: Final = HTTPBearer(auto_error=False)


class Payment(BaseModel):
    transaction_id: Annotated[str, Field(min_length=1)]
    customer_id: Annotated[str, Field(min_length=1)]
    timestamp: dt.datetime
    amount: Annotated[float, Field(gt=0)]
    currency: str | None = None
    merchant_id: str | None = None
    category: str | None = None
    channel: str | None = None
    lat: float | None = None
    lon: float | None = None


class Answer(BaseModel):
    transaction_id: str
    decision: str
    score: float


def features(now: Past, past: Sequence[Past]) -> list[float]:
    """The values of `FEATURES` of one payment; `past` has the customer's last ones, newest first.

    A customer never seen is told by means and distances of 0, as most would do.
    """
    ts, amount, lat, lon = now
    n = len(past)
    mean = sum(p[1] for p in past) / n if n else 0.0
    spread = math.sqrt(sum((p[1] - mean) ** 2 for p in past) / n) if n else 0.0
    hour, weekday = ts / 3600 % 24, ts // 86_400 % 7
    gap_h = (ts - past[0][0]) / 3600 if n else 0.0
    km = 0.0
    if n and None not in (lat, lon, past[0][2], past[0][3]):
        km = float(haversine_km(past[0][2], past[0][3], lat, lon))
    return [
        *(amount, mean, amount / mean if mean else 0.0),
        *((amount - mean) / spread if spread else 0.0, hour, weekday),
        *(sum(ts - p[0] <= 3600 for p in past), sum(ts - p[0] <= 86_400 for p in past)),
        *(gap_h, km, km / max(gap_h, 1 / 60)),
    ]


def prepare(folder: Path, history: pd.DataFrame) -> None:
    """Fill the database with `history`, in order of arrival, and train the forest on its end."""
    folder.mkdir(parents=True)
    frame = history.assign(ts=history.ts.astype("datetime64[us]").astype("int64") / 1e6)
    rows = frame[list(_COLUMNS)].astype(object)
    rows = rows.where(rows.notna(), None)
    with contextlib.closing(_connect(folder)) as connection:
        connection.executescript(_SCHEMA)
        connection.executemany(_INSERT, rows.itertuples(index=False, name=None))
        connection.commit()
    seen: dict[str, deque[Past]] = defaultdict(lambda: deque(maxlen=PAST))
    made: list[list[float]] = []
    for _, customer, ts, amount, *_, lat, lon in rows.itertuples(index=False, name=None):
        now = (ts, amount, lat, lon)
        made.append(features(now, seen[customer]) if len(rows) - len(made) <= TRAINED_ON else [])
        seen[customer].appendleft(now)
    table = np.array(made[-TRAINED_ON:])
    forest = IsolationForest(n_estimators=100, random_state=0).fit(table)
    scores = -forest.score_samples(table)
    review, block = np.quantile(scores, (1 - BUDGET, 1 - BUDGET / 5))
    with (folder / "model.pickle").open("wb") as f:
        pickle.dump({"forest": forest, "review": float(review), "block": float(block)}, f)


def create_app(folder: Path, token: str, style: str = "async") -> FastAPI:
    """The service on what `prepare` made."""
    with (folder / "model.pickle").open("rb") as f:  # made by `prepare` a moment ago
        model = pickle.load(f)
    forest: IsolationForest = model["forest"]
    of_thread = threading.local()
    opened: list[sqlite3.Connection] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for connection in opened:
            connection.close()

    app = FastAPI(title="The usual stack", lifespan=lifespan)

    def database() -> sqlite3.Connection:
        if not hasattr(of_thread, "connection"):
            of_thread.connection = _connect(folder)
            opened.append(of_thread.connection)
        connection: sqlite3.Connection = of_thread.connection
        return connection

    def admitted(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        given = credentials.credentials if credentials is not None else ""
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "A bearer token is required.")

    def judged(payment: Payment) -> Answer:
        connection = database()
        ts = payment.timestamp.timestamp()
        past = connection.execute(_PAST, (payment.customer_id, ts)).fetchall()
        row = features((ts, payment.amount, payment.lat, payment.lon), past)
        score = float(-forest.score_samples([row])[0])
        decision = (
            "block" if score >= model["block"]
            else "review" if score >= model["review"] else "approve"
        )  # fmt: skip
        values: dict[str, Any] = {**dict(payment), "ts": ts}
        now = dt.datetime.now(dt.UTC).timestamp()
        try:
            with connection:
                connection.execute(_INSERT, [values[c] for c in _COLUMNS])
                connection.execute(
                    "INSERT INTO verdicts VALUES (?, ?, ?, ?)",
                    (payment.transaction_id, score, decision, now),
                )
        except sqlite3.IntegrityError:
            raise HTTPException(409, "This transaction_id is known.") from None
        return Answer(transaction_id=payment.transaction_id, decision=decision, score=score)

    if style == "async":

        @app.post("/v1/transactions", dependencies=[Depends(admitted)])
        async def score_in_the_loop(payment: Payment) -> Answer:
            return judged(payment)
    else:

        @app.post("/v1/transactions", dependencies=[Depends(admitted)])
        def score(payment: Payment) -> Answer:
            return judged(payment)

    @app.get("/v1/health")
    def health() -> dict[str, bool]:
        return {"ready": True}

    return app


def stored(folder: Path, prefix: str) -> int:
    """How many payments with ids that begin with `prefix` have a verdict."""
    with contextlib.closing(_connect(folder)) as connection:
        found = connection.execute(
            "SELECT count(*) FROM transactions JOIN verdicts USING (transaction_id) "
            "WHERE substr(transaction_id, 1, ?) = ?",
            (len(prefix), prefix),
        )
        return int(found.fetchone()[0])


def _connect(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "usual.sqlite", timeout=30, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def main() -> None:
    """Serve until a signal ends it; the token is that of AEGIS_TOKEN."""
    import uvicorn

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `prepare` made")
    parser.add_argument("--port", type=int, default=8001, help="default 8001")
    parser.add_argument("--style", choices=("async", "threads"), default="async")
    given = parser.parse_args()
    app = create_app(given.folder, os.environ["AEGIS_TOKEN"], given.style)
    uvicorn.run(app, port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
