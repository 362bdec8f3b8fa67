"""Other people's detectors, as most use them: defaults, on eight raw features, one core.

Each gets the same features of the same training and test rows. River's half-space trees want
features in [0, 1]: here from the 0.1 % to the 99.9 % quantile of the training window, clipped. They
learn row by row and forget what lies two windows (of 250 rows) back, so they get the last
`HST_ROWS` rows of the training window. PyOD's ECOD takes its tail probabilities from training and
test rows together, so it has seen the whole test window when it judges the first of its rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from protocols import Task, say
from sklearn.ensemble import IsolationForest

from aegis_core.features.geo import haversine_km

HST_ROWS = 50_000
"""Rows of the training window, the last ones, that half-space trees learn from."""

Features = npt.NDArray[np.float32]
Score = Callable[[Features], npt.NDArray[np.float64]]


def raw_features(frame: pd.DataFrame) -> Features:
    """Eight features as most people make them, of shape (n, 8), in the order of `frame`.

    Amount, z-score of the amount, rarity of the hour, distance, speed, counts in 10 s, 1 h, 24 h.
    """
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


def _scikit_learn(train: Features, seed: int) -> Score:
    forest = IsolationForest(random_state=seed).fit(train)
    return lambda rows: -forest.score_samples(rows)


def _coniferest(train: Features, seed: int) -> Score:
    from coniferest.isoforest import IsolationForest as Forest

    forest = Forest(random_seed=seed, n_jobs=1).fit(train)
    return lambda rows: -forest.score_samples(rows)


def _ecod(train: Features, seed: int) -> Score:
    from pyod.models.ecod import ECOD

    return ECOD().fit(train).decision_function


def _half_space_trees(train: Features, seed: int) -> Score:
    from river.anomaly import HalfSpaceTrees

    low, high = np.quantile(train, [0.001, 0.999], axis=0)

    def named(rows: Features) -> list[dict[int, float]]:
        scaled = np.clip((rows - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
        return [dict(enumerate(row)) for row in scaled.tolist()]

    trees = HalfSpaceTrees(seed=seed)
    for row in named(train[-HST_ROWS:]):
        trees.learn_one(row)
    return lambda rows: np.array([trees.score_one(row) for row in named(rows)])


class Peer(NamedTuple):
    """A detector of others: its package, whether a seed matters, how it is fitted, what to know."""

    name: str
    package: str
    seeded: bool
    fit: Callable[[Features, int], Score]
    note: str = ""


USUAL = Peer("usual forest (scikit-learn)", "sklearn", True, _scikit_learn)
PEERS = (
    Peer("coniferest's IsolationForest", "coniferest", True, _coniferest),
    Peer("PyOD's ECOD", "pyod", False, _ecod, "has no seed and saw the whole test window"),
    Peer(
        "River's HalfSpaceTrees",
        "river",
        True,
        _half_space_trees,
        f"learned from at most {HST_ROWS:,} rows, the last of each training window",
    ),
)


def present(asked: bool) -> list[Peer]:
    """The peers to measure; the ones that are not are named."""
    there = [p for p in PEERS if asked and find_spec(p.package) is not None]
    for peer in PEERS:
        if peer not in there:
            why = f"{peer.package} is not installed" if asked else "not asked for"
            print(f"{peer.name}: left out, {why} (`make bench-peers` installs and measures it)")
    return [USUAL, *there]


class Run(NamedTuple):
    """Scores of a peer in the order of the tested rows, and what they took."""

    score: pd.Series
    fit_s: float
    score_s: float


def run(peer: Peer, task: Task, tested: pd.DataFrame, features: Features, seed: int) -> Run:
    """Fit `peer` on each training window and score the rows of `tested`.

    Seconds: to fit, mean of the folds; to score a million rows.
    """
    row = pd.Series(np.arange(len(task.frame)), index=task.frame.seq)
    score = pd.Series(np.nan, index=tested.index)
    fitting, scoring = [], 0.0
    for fold, part in tested.groupby("fold"):
        say(f"{task.name}: {peer.name}, seed {seed}, fold {fold}")
        window = task.folds[int(str(fold))]
        inside = (task.frame.ts >= window.train_from) & (task.frame.ts < window.train_to)
        train, test = features[inside.to_numpy()], features[row[part.seq].to_numpy()]
        began = time.perf_counter()
        fitted = peer.fit(train, seed)
        ready = time.perf_counter()
        score[part.index] = fitted(test)
        fitting.append(ready - began)
        scoring += time.perf_counter() - ready
    return Run(score, float(np.mean(fitting)), scoring / len(tested) * 1e6)
