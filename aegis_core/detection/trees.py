"""The learner's trees in arrays: what compiled code reads and computes of a fitted `Learner`.

The flattened trees, their trust and the detector's ranking are one tuple, `Trees`. Without a
learner it is `NO_TREES`, and `rate` gives the detector's own score.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aegis_core.detection.forest import (
    N_FACTORS,
    N_SIGNALS,
    N_TOLD,
    Model,
    Words,
    isolate,
    room,
    share,
    weigh,
)
from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.entries import LEAST_AMOUNT
from aegis_core.features.frauds import HISTORY, N_HISTORY, N_OF_EACH
from aegis_core.features.kernels import kernel
from aegis_core.features.signals import SIGNAL_FACTOR, SIGNALS
from aegis_core.schema import FACTORS

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesClassifier

FEATURES: Final = (
    "log_amount",
    *SIGNALS,
    *(f"evidence_{f}" for f in FACTORS),
    "total",
    "score",
    *HISTORY,
)
"""Columns that the trees are grown on."""

N_FEATURES: Final = len(FEATURES)
ALERT_SHARE: Final = 0.005
"""Share of traffic with which the detector's say halves."""
_MERCHANT, _CUSTOMER = N_FACTORS, N_FACTORS + 1
_TINY: Final = 1e-3  # of the detector's score itself: no two ranks of it fall together


class Trees(NamedTuple):
    """Flattened trees, and how far they are trusted."""

    feature: npt.NDArray[np.int16]  # of each node; −1 for a leaf
    threshold: Floats  # left if the float32 value <= threshold
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    vote: Floats  # share of fraud in a leaf
    roots: Ints  # (n_trees,)
    trust: Floats  # (1,)
    usual: Floats  # (1,) the training window's median amount
    levels: Floats  # detector's scores at rising shares of the training traffic
    shares: Floats  # share of traffic above each of them


NO_TREES: Final = Trees(
    np.zeros(0, np.int16), np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32),
    np.zeros(0), np.zeros(0, np.int64), np.zeros(1), np.ones(1), np.zeros(0), np.zeros(0),
)  # fmt: skip
"""No learner: the detector's score stands."""


@kernel
def grow(trees: Trees, x: npt.NDArray[np.float32]) -> float:
    """Mean vote of the trees for one row of features, in [0, 1]."""
    votes: float = 0.0
    for root in trees.roots:
        at = root
        while trees.feature[at] >= 0:
            below = x[trees.feature[at]] <= trees.threshold[at]
            at = trees.left[at] if below else trees.right[at]
        votes += trees.vote[at]
    return votes / max(len(trees.roots), 1)


@kernel
def describe(
    signals: Floats,
    amount: float,
    history: Floats,
    evidence: Floats,
    score: float,
    features: npt.NDArray[np.float32],
) -> None:
    """Write what the trees are asked about, from one transaction and the detector's view of it."""
    features[0] = math.log(amount if amount > LEAST_AMOUNT else LEAST_AMOUNT)
    at = 1 + N_SIGNALS
    for j in range(N_SIGNALS):  # slices take seconds more to compile
        features[1 + j] = signals[j]
    for f in range(N_FACTORS):
        features[at + f] = evidence[f]
    features[at + N_FACTORS] = evidence.sum()
    features[at + N_FACTORS + 1] = score
    for k in range(N_HISTORY):
        features[at + N_FACTORS + 2 + k] = history[k]


@kernel
def judge(trees: Trees, features: npt.NDArray[np.float32], score: float) -> float:
    """Score of the learner from the features and the detector's score, in (0, 1)."""
    share = np.interp(score, trees.levels, trees.shares)
    rank: float = (1 - _TINY) * math.pow(2.0, -share / ALERT_SHARE) + _TINY * score
    trust: float = trees.trust[0]
    return (1 - trust) * rank + trust * grow(trees, features)


@kernel
def rate(
    model: Model,
    trees: Trees,
    signals: Floats,
    amount: float,
    history: Floats,
    evidence: Floats,
    left: Words,
    features: npt.NDArray[np.float32],
) -> float:
    """Score of one transaction, in (0, 1): the learner's, or the detector's with `NO_TREES`.

    `evidence` is what `weigh` wrote; `features`, of shape (N_FEATURES,), is filled for a learner.
    """
    score = isolate(model, evidence, left)
    if len(trees.levels) == 0:
        return score
    describe(signals, amount, history, evidence, score, features)
    return judge(trees, features, score)


@kernel
def without(
    trees: Trees, kept: Floats, signals: Floats, amount: float, history: Floats,
    part: Floats, past: Floats,
) -> float:  # fmt: skip
    """Write signals and history of the factors `kept` alone; the amount that goes with them.

    `kept`, of shape (N_TOLD,), is 1 for each of `TOLD_FACTORS` that stays.
    """
    for j in range(N_SIGNALS):
        part[j] = signals[j] * kept[SIGNAL_FACTOR[j]]
    past[:N_OF_EACH] = history[:N_OF_EACH] * kept[_MERCHANT]
    past[N_OF_EACH:] = history[N_OF_EACH:] * kept[_CUSTOMER]
    return amount if kept[0] > 0 else trees.usual[0]


@kernel
def judge_all(
    model: Model,
    trees: Trees,
    signals: Floats,
    amount: Floats,
    history: Floats,
    features: npt.NDArray[np.float32],
    out: Floats,
) -> None:
    """Fill `features` if it has rows, and `out` if that has."""
    strength, evidence = np.empty(N_FACTORS), np.empty(N_FACTORS)
    nothing, left, one_row = np.empty(0), room(model), np.empty(N_FEATURES, np.float32)
    for i in range(len(amount)):
        row = features[i] if len(features) > 0 else one_row
        weigh(model, signals[i], strength, evidence, nothing)
        score = rate(model, trees, signals[i], amount[i], history[i], evidence, left, row)
        if len(out) > 0:
            out[i] = score


@kernel
def attribute_all(
    model: Model,
    trees: Trees,
    signals: Floats,
    amount: Floats,
    history: Floats,
    contributions: Floats,
) -> None:
    """Write the Shapley values of the factors against a usual amount without any evidence."""
    strength, evidence = np.empty(N_FACTORS), np.empty(N_FACTORS)
    nothing, left, row = np.empty(0), room(model), np.empty(N_FEATURES, np.float32)
    part, past, kept = np.empty(N_SIGNALS), np.empty(N_HISTORY), np.empty(N_TOLD)
    active, worth = np.empty(N_TOLD, np.int64), np.empty(1 << N_TOLD)
    for i in range(len(amount)):
        k = 0
        for f in range(N_TOLD):
            speaks = f == 0 and amount[i] != trees.usual[0]
            if f == _MERCHANT:
                speaks = np.any(history[i, :N_OF_EACH] != 0)
            elif f == _CUSTOMER:
                speaks = np.any(history[i, N_OF_EACH:] != 0)
            else:
                for j in range(N_SIGNALS):
                    speaks = speaks or (SIGNAL_FACTOR[j] == f and signals[i, j] != 0)
            if speaks:
                active[k] = f
                k += 1
        for subset in range(1 << k):
            kept[:] = 0.0
            for a in range(k):
                if subset >> a & 1:
                    kept[active[a]] = 1.0
            money = without(trees, kept, signals[i], amount[i], history[i], part, past)
            weigh(model, part, strength, evidence, nothing)
            worth[subset] = rate(model, trees, part, money, past, evidence, left, row)
        share(worth, active, k, contributions[i])


def flatten(forest: ExtraTreesClassifier) -> dict[str, np.ndarray]:
    """The trees of `forest` one behind the other."""
    trees = [e.tree_ for e in forest.estimators_]
    sizes = np.array([t.node_count for t in trees])
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    leaf = np.concatenate([t.children_left == -1 for t in trees])
    shift = np.repeat(roots, sizes)
    left, right = (
        np.where(leaf, -1, np.concatenate([getattr(t, side) for t in trees]) + shift)
        for side in ("children_left", "children_right")
    )
    fraud = list(forest.classes_).index(True)
    value = np.concatenate([t.value[:, 0, :] for t in trees])
    return {
        "feature": np.where(leaf, -1, np.concatenate([t.feature for t in trees])).astype(np.int16),
        "threshold": np.concatenate([t.threshold for t in trees]),
        "left": left.astype(np.int32),
        "right": right.astype(np.int32),
        "vote": value[:, fraud] / value.sum(axis=1),
        "roots": roots,
    }


def check(trees: Trees) -> None:
    """Refuse arrays that would lead the kernel out of bounds or round in circles."""
    n = len(trees.feature)
    inner = np.flatnonzero(trees.feature >= 0)
    if any(len(part) != n for part in (trees.threshold, trees.left, trees.right, trees.vote)):
        raise ValueError("its nodes do not fit together")
    for child in (trees.left[inner], trees.right[inner]):
        if ((child <= inner) | (child >= n)).any():
            raise ValueError("its nodes do not form trees")
    if (trees.feature >= N_FEATURES).any() or ((trees.roots < 0) | (trees.roots >= n)).any():
        raise ValueError("its nodes do not fit the features")
