"""People who read while the service writes: dashboards, and an analyst.

Each dashboard attaches through `store.connect` and asks its figures once a second; with `--board`
it asks all that Aegis' own dashboard asks. An analyst runs an aggregation over everything, one
after the other without pause. Says `ready` when everybody has got a first answer, reads on until
its standard input ends, and then says what was answered, as JSON.

    python benchmarks/readers.py data/aegis.duckdb --dashboards 10 --analysts 1
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aegis_core.errors import AegisError
from aegis_core.store import Store, connect
from aegis_core.views.dashboard.feed import Feed, Filters

FIGURES = """
    SELECT count(*) AS verdicts, count(*) FILTER (decision = 'review') AS review,
      count(*) FILTER (decision = 'block') AS block, avg(risk) AS risk, max(scored_at) AS last
    FROM verdicts WHERE seq > (SELECT max(seq) FROM transactions) - 100_000"""
"""What a dashboard asks."""
AGGREGATION = """
    SELECT t.category, v.decision, hour(t.ts) AS hour, count(*) AS n, sum(t.amount) AS amount,
      quantile_cont(v.risk, 0.9) AS risk
    FROM transactions t LEFT JOIN verdicts v USING (seq) GROUP BY ALL ORDER BY n DESC"""
"""What the analyst asks."""


class Reader(threading.Thread):
    """Asks `work` again and again, each `every_s` at the most, until `ended`."""

    def __init__(self, work: Callable[[], object], every_s: float, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self._work, self._every_s, self._ended = work, every_s, ended
        self.answered = threading.Event()
        self.took_s: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        while not self._ended.is_set():
            began = time.perf_counter()
            try:
                self._work()
                self.took_s.append(time.perf_counter() - began)
            except AegisError as e:
                self.errors.append(str(e))
                time.sleep(0.05)
            self.answered.set()
            self._ended.wait(max(0.0, began + self._every_s - time.perf_counter()))


def told(readers: list[Reader]) -> dict[str, object]:
    """How many answers there were, how long they took, and what went wrong."""
    took = [s for reader in readers for s in reader.took_s]
    errors = [e for reader in readers for e in reader.errors]
    return {
        "answers": len(took),
        "p50_ms": float(np.median(took)) * 1e3 if took else None,
        "p99_ms": float(np.quantile(took, 0.99)) * 1e3 if took else None,
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
    }


def dashboard(store: Store, board: bool) -> Callable[[], object]:
    """What one dashboard asks once a second."""
    if not board:
        return lambda: store.rows(FIGURES)
    feed = Feed(store)
    return lambda: feed.read(Filters())


def analyst(store: Store) -> Callable[[], object]:
    """What the analyst asks without pause."""
    return lambda: store.query(AGGREGATION)


def main() -> None:
    """Read until the standard input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("db", type=Path, help="the DuckDB file")
    parser.add_argument("--dashboards", type=int, default=0, help="how many (default 0)")
    parser.add_argument("--analysts", type=int, default=0, help="how many (default 0)")
    parser.add_argument("--board", action="store_true", help="ask what Aegis' dashboard asks")
    given = parser.parse_args()
    ended = threading.Event()
    dashboards = [
        Reader(dashboard(connect(given.db), given.board), 1.0, ended)
        for _ in range(given.dashboards)
    ]
    analysts = [Reader(analyst(connect(given.db)), 0.0, ended) for _ in range(given.analysts)]
    for i, reader in enumerate([*dashboards, *analysts]):
        reader.start()
        if i < len(dashboards):
            time.sleep(1 / len(dashboards))  # people do not look all at once
    for reader in [*dashboards, *analysts]:
        reader.answered.wait()
    for reader in [*dashboards, *analysts]:
        reader.took_s.clear()  # attaching, all at once, is over
    print("ready", flush=True)
    sys.stdin.read()
    ended.set()
    for reader in [*dashboards, *analysts]:
        reader.join(60)
    print(json.dumps({"dashboards": told(dashboards), "analysts": told(analysts)}), flush=True)


if __name__ == "__main__":
    main()
