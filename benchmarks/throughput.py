"""How fast history is replayed and scored, beside what people use otherwise, in the same run.

The peers do less: scikit-learn's `score_samples` only scores ready-made features, and the pandas
pipeline only makes features (rolling counts and means, gaps, distances), scores nothing and cannot
go on from where it stopped. Each line is the best of `--repeat` runs on one core.

    python benchmarks/throughput.py --rows 500000 --repeat 3
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import pandas as pd
import pyarrow as pa

from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.verdicts import VERDICTS
from aegis_core.features.geo import haversine_km
from aegis_core.intake.synthetic import SyntheticConfig, generate
from aegis_core.store.journal import as_table

GROUPS = (1, 8, 64)
"""Transactions that arrive together, as in the service."""


def best(work: Callable[[], object], repeat: int) -> float:
    """Seconds of the fastest of `repeat` calls."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def history(n_rows: int) -> pd.DataFrame:
    """Synthetic transactions in order of arrival."""
    config = SyntheticConfig(n_transactions=n_rows, n_customers=max(1, n_rows // 100))
    tables = [transactions.unify_dictionaries() for transactions, _ in generate(config)]
    frame: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    return frame.assign(seq=np.arange(len(frame)))


def rolling_pipeline(frame: pd.DataFrame) -> pd.DataFrame:
    """The usual features, the usual way."""
    rows = frame[["customer_id", "ts", "amount", "lat", "lon"]].sort_values(["customer_id", "ts"])
    by_customer = rows.set_index("ts").groupby("customer_id", observed=True)
    out = {}
    for window in ("1h", "1D", "7D"):
        amounts = by_customer["amount"].rolling(window)
        out[f"count_{window}"] = amounts.count().to_numpy()
        out[f"mean_{window}"] = amounts.mean().to_numpy()
    before = rows.groupby("customer_id", observed=True)[["ts", "lat", "lon"]].shift()
    km = haversine_km(*(np.asarray(c) for c in (before.lat, before.lon, rows.lat, rows.lon)))
    out["speed"] = km / ((rows.ts - before.ts).dt.total_seconds() / 3600 + 1e-3)
    out["hour"] = rows.ts.dt.hour.to_numpy()
    return pd.DataFrame(out)


def groups(detector: Detector, policy: Policy, frame: pd.DataFrame, size: int) -> str:
    """How long a small group takes, columns given as lists: the tenth and the half of 500."""
    scorer, n_past = Scorer(detector, policy), len(frame) - 500 * size
    scorer.run(frame.iloc[:n_past])
    texts = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c]) and c != "ts"]
    times = []
    for start in range(n_past, len(frame), size):
        rows = frame.iloc[start : start + size]
        batch = {c: rows[c].astype(object).where(rows[c].notna(), None).tolist() for c in texts}
        batch |= {c: rows[c].to_numpy() for c in frame if c not in texts}
        began = time.perf_counter()
        scorer.verdicts_of(batch, scorer.run(batch, signals=True, explain=True), "v1")
        times.append(time.perf_counter() - began)
    tenth, half = np.quantile(times, (0.1, 0.5)) * 1e3
    return f"{tenth:.3f} / {half:.3f} ms"


def main() -> None:
    """Print rows a second, one line a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="transactions (default 500000)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (default 3)")
    given = parser.parse_args()
    frame = history(given.rows)
    learnt = Scorer().run(frame, signals=True)
    detector = Detector().fit(learnt.signals[len(frame) // 2 :])
    policy = Policy.from_budget(detector)
    evidence = detector.weigh(learnt.signals)[1]
    features = detector.features(evidence)
    Scorer(detector, policy).run(frame.head(100), explain=True)
    forest = detector.forest_
    assert forest is not None
    scored = Scorer(detector, policy).run(frame, signals=True, explain=True)
    teller = Scorer(detector, policy)
    verdicts = teller.verdicts_of(frame, scored, "v1")
    ways: dict[str, Callable[[], object]] = {
        "replay, evidence, score, decision": lambda: Scorer(detector, policy).run(frame),
        "the same with contributions and facts": lambda: Scorer(detector, policy).run(
            frame, explain=True
        ),
        "contributions alone": lambda: detector.contributions(evidence, scored.score),
        "verdicts in columns": lambda: teller.verdicts_of(frame, scored, "v1"),
        "verdicts as an Arrow table": lambda: as_table([verdicts.columns()], VERDICTS),
        "verdicts as answers": verdicts.answers,
        "replay and signals alone": lambda: Scorer().run(frame),
        "compiled forest alone": lambda: detector.score(evidence),
        "scikit-learn score_samples alone": lambda: forest.score_samples(features),
        "pandas rolling features alone": lambda: rolling_pipeline(frame),
    }
    print(f"{len(frame):,} transactions of {frame.customer_id.nunique():,} customers, one core")
    for name, work in ways.items():
        seconds = best(work, given.repeat)
        print(f"{name:<40}{len(frame) / seconds:>12,.0f} rows/s")
    for size in GROUPS:
        print(
            f"{f'a group of {size}, run and told':<40}{groups(detector, policy, frame, size):>12}"
        )
    exact = np.abs(-forest.score_samples(features[:50_000]) - detector.score(evidence[:50_000]))
    print(f"{'largest difference to score_samples':<40}{exact.max():>12.1e}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{'peak memory':<40}{peak:>12.2f} GB")


if __name__ == "__main__":
    main()
