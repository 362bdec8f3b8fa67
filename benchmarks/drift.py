"""How soon drift is found, and how often there is an alarm on quiet days.

The synthetic history changes on a known day; asked for is that amounts 20 % higher are found within
2 days, with at most one false alarm in 60 quiet days. Quiet days are those without any change, of
the same seeds. `--data FOLDER` adds the handbook's data (handbook.parquet), in which nothing was
changed on purpose: every alarm there counts as false.

    python benchmarks/drift.py --seeds 5
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pyarrow as pa
from drifts import drifted
from protocols import tasks

from aegis_core.detection.counter import Counter, burst_limits
from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scorer
from aegis_core.evaluation.drift import Drift, Traffic, judge
from aegis_core.intake.synthetic import SyntheticConfig, generate
from aegis_core.schema import FACTORS, Decision

DAY = pd.Timedelta(days=1)
DAYS, TRAINED, QUIET, WATCHED = 130, 40, 60, 5
"""Days of a history, of training and after it, of watching for false alarms, and after a change."""
CHANGES = (
    ("amounts", 1.2),
    ("amounts", 1.1),
    ("amounts", 1 / 1.2),
    ("category", 1.5),
    ("hours", 3.0),
    ("volume", 0.7),
)


def model(frame: pd.DataFrame, until: pd.Timestamp) -> tuple[Detector, Policy]:
    """A forest on all that came before a day, and a policy of 0.5 % alerts."""
    seen = frame[frame.ts < until]
    passed = Scorer().run(seen, signals=True)
    detector = Detector().fit(passed.signals, seen.customer_id)
    score = detector.score(detector.weigh(passed.signals)[1])
    limits = burst_limits(passed.counts, seen)
    counter = Counter.beside(limits, passed.counts, score, seen)
    return detector, Policy.from_budget(detector, 0.005, counter=counter)


def judged(frame: pd.DataFrame, made: tuple[Detector, Policy]) -> Traffic:
    """The whole history, replayed, as `drift.observe` brings the days of a database."""
    scored = Scorer(*made).run(frame)
    columns = {
        "day": frame.ts.dt.normalize(),
        **{c: frame[c] for c in ("customer_id", "merchant_id", "category")},
        "paid": frame.amount,
        **{f: scored.evidence[:, i] for i, f in enumerate(FACTORS)},
        "score": scored.score,
        "alert": scored.decision != Decision.APPROVE,
    }
    return Traffic(pd.DataFrame(columns))


def found(traffic: Traffic, days: pd.DatetimeIndex, seed: int) -> list[Drift]:
    """Each day, judged as it would have been on its evening."""
    rows = traffic.rows
    return [
        judge(Traffic(rows[(rows.day <= day) & (rows.day >= day - 28 * DAY)]), day, seed=seed)
        for day in days
    ]


def names(drift: Drift) -> str:
    """The measures in alarm."""
    return ", ".join(drift.alarms.part.where(drift.alarms.part != "", drift.alarms.measure))


def synthetic(seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """A history at the default pace, and which of it is fraud."""
    config = SyntheticConfig(n_transactions=500_000 * DAYS // 90, days=DAYS, seed=seed)
    parts, labels = zip(*generate(config), strict=True)
    whole = pa.concat_tables([t.unify_dictionaries() for t in parts]).unify_dictionaries()
    return whole.to_pandas(), pa.concat_tables(labels)["is_fraud"].to_numpy()


def quiet(name: str, traffic: Traffic, first: pd.Timestamp, n: int, seed: int) -> int:
    """Print and count the days with a false alarm."""
    alarms = {
        d.day: names(d)
        for d in found(traffic, pd.date_range(first, periods=n), seed)
        if len(d.alarms)
    }
    told = "; ".join(f"{day:%m-%d} {what}" for day, what in alarms.items())
    print(f"{name:24} {len(alarms):2} of {n} quiet days with an alarm  {told}", flush=True)
    return len(alarms)


def main() -> None:
    """Print delays and false alarms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="histories (default 5)")
    parser.add_argument("--data", type=Path, help="folder of handbook.parquet")
    given = parser.parse_args()
    began, wrong, delays = time.monotonic(), 0, {change: [] for change in CHANGES}
    for seed in range(given.seeds):
        frame, fraud = synthetic(seed)
        start = frame.ts.min().normalize()
        made = model(frame, start + TRAINED * DAY)
        watch = start + (TRAINED + 28) * DAY
        wrong += quiet(f"synthetic, seed {seed}", judged(frame, made), watch, QUIET, seed)
        for kind, factor in CHANGES:
            since = watch + (20 + seed % 7) * DAY
            changed = drifted(frame, fraud, since, kind, factor, seed)
            changed = changed[changed.ts < since + WATCHED * DAY]
            days = pd.date_range(since, periods=WATCHED)
            after = found(judged(changed, made), days, seed)
            first = next((i for i, d in enumerate(after, 1) if len(d.alarms)), None)
            delays[kind, factor].append(first)
            at = f"day {first}: {names(after[first - 1])}" if first else "not found"
            print(f"  {kind} × {factor:.2f} from {since:%a %m-%d}: {at}", flush=True)
    print(f"\n{wrong} false alarms in {given.seeds} × {QUIET} quiet days")
    for (kind, factor), took in delays.items():
        in_two = sum(t is not None and t <= 2 for t in took)
        print(f"{kind} × {factor:.2f}: within 2 days {in_two} of {len(took)}, days {took}")
    for task in tasks(given.data, "handbook, test week") if given.data else []:
        frame = task.frame
        start = frame.ts.min().normalize()
        made = model(frame, start + TRAINED * DAY)
        n = (frame.ts.max().normalize() - start).days - TRAINED - 28
        quiet("handbook", judged(frame, made), start + (TRAINED + 28) * DAY, n, 0)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
