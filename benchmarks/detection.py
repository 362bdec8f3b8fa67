"""How well the detector does without labels, beside single factors and the usual forest.

Three data sets, one configuration. The public ones are read from `--data FOLDER` (handbook.parquet,
sparkov.parquet, as `aegis import` takes them) and left out where they are not there. Chosen on
(handbook: weeks from 2018-06-13 to 07-17; sparkov: 2020-01-15 to 06-21), reported on what follows.
The usual forest is scikit-learn's IsolationForest with its defaults on eight raw features: amount,
z-score, hour rarity, distance, speed, counts in 10 s, 1 h and 24 h, from a plain pandas pipeline.

    python benchmarks/detection.py --data ~/fraud-data --seeds 5
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from sklearn.ensemble import IsolationForest

from aegis_core.evaluation import Evaluation, evaluate, mean_and_spread
from aegis_core.geo import haversine_km
from aegis_core.intake import import_files
from aegis_core.metrics import auc_roc, average_precision, recall_at_budget
from aegis_core.models import history
from aegis_core.splits import Fold, prequential
from aegis_core.store import connect
from aegis_core.synthetic import SyntheticConfig, generate

BUDGET = 0.005
"""Share of transactions that may become alerts, where recall is reported."""


@dataclass(frozen=True)
class Task:
    """A data set with its folds."""

    name: str
    frame: pd.DataFrame
    labels: pd.DataFrame
    folds: list[Fold]
    exclude_known: bool = False
    only: tuple[str, ...] | None = None


def tasks(folder: Path) -> Iterator[Task]:
    """The protocols, each on the data it needs."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("handbook", "sparkov"):
            file = folder / f"{name}.parquet"
            if not file.exists():
                print(f"{name}: left out, there is no {file}")
                continue
            store = connect(Path(scratch) / f"{name}.duckdb")
            import_files([file], store, preset=name, progress=False)
            frame = history(store)
            labels = store.query("SELECT transaction_id, is_fraud, scenario, known_at FROM labels")
            if name == "handbook":
                week = prequential("2018-07-25", folds=4)
                yield Task("handbook, test 08-08", frame, labels, week[:1], True)
                yield Task("handbook, 4 folds", frame, labels, week, True)
                yield Task("handbook, 4 folds, scenarios 1 + 3", frame, labels, week, True, ("2",))
            else:
                cut, end = pd.Timestamp("2020-06-21 12:14:25"), pd.Timestamp("2021-01-01")
                single = [Fold(0, pd.Timestamp("2019-01-01"), cut, cut, end)]
                yield Task("sparkov, test from 2020-06-21", frame, labels, single)
    parts = list(generate(SyntheticConfig()))
    frame = pa.concat_tables([t.unify_dictionaries() for t, _ in parts]).to_pandas()
    frame.insert(0, "seq", np.arange(len(frame)))
    labels = pa.concat_tables([known for _, known in parts]).to_pandas()
    yield Task("synthetic default", frame, labels, prequential("2026-01-29", train_days=28))


def raw_features(frame: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Eight features as most people make them, of shape (n, 8), in the order of `frame`."""
    rows = frame[["customer_id", "ts", "amount"]].copy()
    for c in ("lat", "lon"):
        rows[c] = frame.get(c, np.nan)
    rows["place"] = np.arange(len(rows))
    rows = rows.sort_values(["customer_id", "ts", "place"])
    groups = rows.groupby("customer_id", observed=True)
    n = groups.cumcount()
    past = (groups.amount.cumsum() - rows.amount) / n.clip(lower=1)
    square = (rows.amount**2).groupby(rows.customer_id, observed=True).cumsum() - rows.amount**2
    spread = np.sqrt((square / n.clip(lower=1) - past**2).clip(lower=1e-4))
    hour = rows.ts.dt.hour
    rarity = -np.log(hour.map(hour.value_counts(normalize=True)))
    before = groups[["ts", "lat", "lon"]].shift()
    km = haversine_km(*(np.asarray(c, float) for c in (before.lat, before.lon, rows.lat, rows.lon)))
    hours = (rows.ts - before.ts).dt.total_seconds().to_numpy() / 3600
    counts = [
        rows.set_index("ts").groupby("customer_id", observed=True).amount.rolling(w).count()
        for w in ("10s", "1h", "24h")
    ]
    features = np.column_stack(
        [
            rows.amount,
            np.where(n > 1, (rows.amount - past) / spread, 0.0),
            rarity,
            np.nan_to_num(km),
            np.nan_to_num(km / (hours + 1 / 60)),
            *(c.to_numpy() for c in counts),
        ]
    ).astype(np.float32)
    out = np.empty_like(features)
    out[rows.place.to_numpy()] = features
    return out


def usual_forest(task: Task, tested: pd.DataFrame, features: np.ndarray, seed: int) -> pd.Series:
    """Scores of scikit-learn's forest with its defaults for the rows of `tested`."""
    row = pd.Series(np.arange(len(task.frame)), index=task.frame.seq)
    score = pd.Series(np.nan, index=tested.index)
    for fold, part in tested.groupby("fold"):
        window = task.folds[int(str(fold))]
        train = (
            (task.frame.ts >= window.train_from) & (task.frame.ts < window.train_to)
        ).to_numpy()
        forest = IsolationForest(random_state=seed).fit(features[train])
        score[part.index] = -forest.score_samples(features[row[part.seq].to_numpy()])
    return score


def restricted(evaluation: Evaluation, without: tuple[str, ...]) -> Evaluation:
    """The same evaluation without the transactions of some scenarios."""
    keep = ~evaluation.scores.scenario.isin(without)
    return Evaluation(
        evaluation.folds,
        evaluation.scores[keep],
        evaluation.detectors,
        evaluation.n_train,
        evaluation.alert_budget,
    )


def report(task: Task, seeds: int, features: np.ndarray) -> None:
    """Print one data set's table: mean over folds and seeds, spread over seeds."""
    rows, recalls = [], []
    for seed in range(seeds):
        done = evaluate(
            task.frame, task.labels, task.folds,
            alert_budget=BUDGET, exclude_known=task.exclude_known, seed=seed,
        )  # fmt: skip
        if task.only:
            done = restricted(done, task.only)
        table = done.table()
        usual = usual_forest(task, done.scores, features, seed)
        for fold, part in done.scores.groupby("fold"):
            for name, figure in (
                ("auc_roc", auc_roc(part.is_fraud, usual[part.index])),
                ("average_precision", average_precision(part.is_fraud, usual[part.index])),
                ("recall_at_budget", recall_at_budget(part.is_fraud, usual[part.index], BUDGET)),
            ):
                row = (fold, "usual forest", name, figure.value, figure.floor, figure.ceiling)
                table.loc[len(table)] = row
        rows.append(mean_and_spread(table).assign(seed=seed))
        top = done.scores.groupby("fold").forest.rank(pct=True) > 1 - BUDGET
        recalls.append(top[done.scores.is_fraud].groupby(done.scores.scenario).mean())
    all_rows = pd.concat(rows)
    by_seed = all_rows.groupby(["detector", "name"]).value.agg(["mean", lambda v: v.std(ddof=0)])
    by_seed.columns = ["mean", "spread"]
    names = ["auc_roc", "average_precision", "recall_at_budget"]
    print(f"\n{task.name}: {len(task.folds)} test window(s), {seeds} seed(s)")
    print(f"{'':<16}" + "".join(f"{n:>24}" for n in names))
    for detector in ("forest", "usual forest", "amount", *done_factors(all_rows)):
        cells = [by_seed.loc[(detector, n)] for n in names]
        print(f"{detector:<16}" + "".join(f"{c['mean']:>16.3f} ± {c['spread']:.3f}" for c in cells))
    if task.frame.columns.isin(["channel"]).any():
        mean = pd.concat(recalls, axis=1)
        told = (f"{s} {v.mean():.2f} ± {v.std(ddof=0):.2f}" for s, v in mean.iterrows())
        print(f"recall of the forest at {BUDGET:.1%} of the transactions: " + ", ".join(told))


def done_factors(rows: pd.DataFrame) -> list[str]:
    """The single factors in `rows`, in order of appearance."""
    return [d for d in rows.detector.unique() if str(d).startswith("factor:")]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path("data/public"), help="the public files")
    parser.add_argument("--seeds", type=int, default=5, help="forests fitted on each (default 5)")
    given = parser.parse_args()
    features: tuple[int, np.ndarray] = (0, np.empty(0))
    for task in tasks(given.data):
        if features[0] != id(task.frame):
            features = (id(task.frame), raw_features(task.frame))
        report(task, given.seeds, features[1])


if __name__ == "__main__":
    main()
