"""The forest in arrays: what compiled code reads and computes of a fitted `Detector`.

Calibration, weights and the flattened trees are one tuple, `Model`, so that the loop in `scoring`
weighs and scores a transaction without leaving compiled code: equal to scikit-learn's
`score_samples` to 1e-12.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aegis_core.arrays import Floats, Ints
from aegis_core.kernels import kernel
from aegis_core.profiles import SIGNAL_FACTOR, SIGNALS
from aegis_core.schema import FACTORS

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

N_FACTORS: Final = len(FACTORS)
N_SIGNALS: Final = len(SIGNALS)
BULK: Final = 0.99
"""Share of traffic that a signal's tail is extrapolated from."""
KNEE: Final = -math.log(1 - BULK)
"""Nats from which the factors' tails are brought to one unit."""
LANES: Final = 10
"""Trees walked side by side."""
STEPS: Final = 256
"""Steps of a signal's calibration curve."""
_SELF_CALIBRATED: Final = SIGNALS.index("burst_swarm")


class Model(NamedTuple):
    """What the kernel reads: calibration, flattened trees and the score's quantiles."""

    curve: Floats  # (N_SIGNALS, STEPS + 1) nats at evenly spaced values of the signal, from 0
    density: Floats  # (N_SIGNALS,) steps of the curve per unit of the signal
    slope: Floats  # (N_SIGNALS,) nats per step beyond the curve
    weight: Floats  # (N_SIGNALS,) within the range seen in training, in [0, 1]
    reach: Floats  # (N_SIGNALS,) nats that span this range
    tail: Floats  # (N_FACTORS,) worth of a nat beyond the knee
    floor: npt.NDArray[np.float32]  # (1 + N_FACTORS,) medians of total and factors in training
    feature: npt.NDArray[np.int8]  # complete trees, node i of all trees side by side
    threshold: npt.NDArray[np.float32]  # a node's left child if x <= threshold
    path: Floats  # path length of each leaf, in the same layout
    shape: Ints  # (3,) trees, nodes of a tree (2**depth), depth
    scale: Floats  # (1,) -1 / (number of trees * c(max_samples))


NO_MODEL: Final = Model(
    np.zeros((0, 0)),
    np.zeros(0),
    np.zeros(0),
    np.zeros(0),
    np.zeros(0),
    np.zeros(0),
    np.zeros(0, np.float32),
    np.zeros(0, np.int8),
    np.zeros(0, np.float32),
    np.zeros(0),
    np.zeros(3, np.int64),
    np.zeros(1),
)


@kernel
def weigh(
    model: Model, signals: Floats, strength: Floats, evidence: Floats, spread: Floats
) -> None:
    """Write strength and evidence of each factor, both of shape (N_FACTORS,), in nats.

    Strength is the strongest recalibrated signal, evidence the same after weighting; neither falls
    when a signal rises. `spread` takes the evidence of each signal, or has length 0.
    """
    curve, density, slope = model.curve, model.density, model.slope
    weight, reach = model.weight, model.reach
    for f in range(N_FACTORS):
        strength[f] = evidence[f] = 0.0
    for j in range(N_SIGNALS):
        f, value = SIGNAL_FACTOR[j], signals[j]
        if j == _SELF_CALIBRATED:
            nats = weighted = value
        else:
            place = value * density[j]
            if place < STEPS:
                k = int(place)
                nats = curve[j, k] + (place - k) * (curve[j, k + 1] - curve[j, k])
            else:
                nats = curve[j, STEPS] + (place - STEPS) * slope[j]
            seen = min(nats, reach[j])
            weighted = weight[j] * seen + (nats - seen)
        if model.tail[f] != 1.0:  # else to the last bit as it came
            nats = min(nats, KNEE) + max(nats - KNEE, 0.0) * model.tail[f]
            weighted = min(weighted, KNEE) + max(weighted - KNEE, 0.0) * model.tail[f]
        strength[f] = max(strength[f], nats)
        evidence[f] = max(evidence[f], weighted)
        if len(spread) > 0:
            spread[j] = weighted


@kernel
def isolate(model: Model, evidence: Floats, scratch: npt.NDArray[np.float32], lanes: Ints) -> float:
    """Score of one transaction, in (0, 1); higher is more suspicious.

    `scratch` has room for 1 + N_FACTORS values; the total joins the factors as the first. Trees
    are walked `LANES` at a time, level by level, so that no comparison waits for the one before.
    """
    total = 0.0
    for f in range(N_FACTORS):
        total += evidence[f]
        scratch[1 + f] = max(np.float32(evidence[f]), model.floor[1 + f])
    scratch[0] = max(np.float32(total), model.floor[0])
    n_trees, n_nodes, depth = model.shape[0], model.shape[1], model.shape[2]
    length = 0.0
    for first in range(0, n_trees, LANES):
        for k in range(LANES):
            lanes[k] = 1
        for _ in range(depth):  # the children of node i are the nodes 2i and 2i + 1
            for k in range(LANES):
                at = lanes[k] * n_trees + first + k
                right = scratch[model.feature[at]] > model.threshold[at]
                lanes[k] = 2 * lanes[k] + right
        for k in range(LANES):
            length += model.path[(lanes[k] - n_nodes) * n_trees + first + k]
    return math.pow(2.0, length * model.scale[0])


@kernel
def attribute(model: Model, evidence: Floats, contributions: Floats) -> None:
    """Write the Shapley values of the factors against no evidence at all, shape (N_FACTORS,).

    They sum to `score(evidence) - score(0)`. A factor without evidence gets exactly 0, so the cost
    is 2**k scores for k factors with evidence (Lundberg & Lee, NIPS 2017, section 2).
    """
    contributions[:] = 0.0
    active = np.empty(N_FACTORS, np.int64)
    k = 0
    for f in range(N_FACTORS):
        if evidence[f] > 0:
            active[k] = f
            k += 1
    worth, part = np.empty(1 << k), np.zeros(N_FACTORS)
    scratch, lanes = np.empty(1 + N_FACTORS, np.float32), np.empty(LANES, np.int64)
    for subset in range(1 << k):
        part[:] = 0.0
        for i in range(k):
            if subset >> i & 1:
                part[active[i]] = evidence[active[i]]
        worth[subset] = isolate(model, part, scratch, lanes)
    for i in range(k):
        for subset in range(1 << k):
            if subset >> i & 1 == 0:
                size = 0
                for j in range(k):
                    size += subset >> j & 1
                ways = math.gamma(size + 1.0) * math.gamma(float(k - size)) / math.gamma(k + 1.0)
                contributions[active[i]] += ways * (worth[subset | 1 << i] - worth[subset])


@kernel
def weigh_all(
    model: Model, signals: Floats, strength: Floats, evidence: Floats, spread: Floats
) -> None:
    """`weigh` of each row; `spread` has as many rows as the others."""
    for i in range(len(signals)):
        weigh(model, signals[i], strength[i], evidence[i], spread[i])


@kernel
def isolate_all(model: Model, evidence: Floats, score: Floats) -> None:
    """`isolate` of each row."""
    scratch, lanes = np.empty(1 + N_FACTORS, np.float32), np.empty(LANES, np.int64)
    for i in range(len(evidence)):
        score[i] = isolate(model, evidence[i], scratch, lanes)


@kernel
def attribute_all(model: Model, evidence: Floats, contributions: Floats) -> None:
    """`attribute` of each row."""
    for i in range(len(evidence)):
        attribute(model, evidence[i], contributions[i])


def average_path_length(n: npt.NDArray[np.int64]) -> Floats:
    """Mean path length of an unsuccessful search among `n` points (Liu et al. 2008, eq. 1).

    >>> average_path_length(np.array([1, 2, 256])).round(3).tolist()
    [0.0, 1.0, 10.245]
    """
    n = np.asarray(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = 2 * (np.log(n - 1.0) + np.euler_gamma) - 2 * (n - 1.0) / n
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, c))


def flatten(forest: IsolationForest) -> dict[str, Any]:
    """The trees of `forest` as complete binary trees in arrays.

    scikit-learn compares a float32 value with a float64 threshold. Rounding the threshold down to
    float32 keeps every comparison: x <= t exactly when x <= floor32(t).
    """
    trees = [e.tree_ for e in forest.estimators_]
    depth = max(t.max_depth for t in trees)
    size = 1 << depth
    n_padded = len(trees) + -len(trees) % LANES  # empty trees, of path 0, fill the last lanes
    feature = np.zeros((n_padded, size), np.int8)
    threshold = np.full((n_padded, size), np.inf, np.float32)
    path = np.zeros((n_padded, size))
    for k, tree in enumerate(trees):
        leaf_path = average_path_length(tree.n_node_samples)
        stack = [(0, 1, 0)]
        while stack:
            node, place, level = stack.pop()
            if tree.children_left[node] == -1:
                first = (place << (depth - level)) - size
                path[k, first : first + (1 << (depth - level))] = level + leaf_path[node]
                continue
            t32 = np.float32(tree.threshold[node])
            if t32 > tree.threshold[node]:
                t32 = np.nextafter(t32, np.float32(-np.inf))
            feature[k, place] = max(tree.feature[node] - (N_FACTORS - 1), 0)
            threshold[k, place] = t32
            stack.append((tree.children_left[node], 2 * place, level + 1))
            stack.append((tree.children_right[node], 2 * place + 1, level + 1))
    c = average_path_length(np.array([forest.max_samples_]))[0]
    scale = np.array([-1.0 / (len(trees) * c)]) if c > 0 else np.array([-1.0])
    return {
        "feature": feature.T.ravel(),
        "threshold": threshold.T.ravel(),
        "path": path.T.ravel(),
        "shape": np.array([n_padded, size, depth]),
        "scale": scale,
    }


def check(model: Model) -> None:
    """Raise ValueError where a kernel would read beside the arrays."""
    n_trees, n_nodes, depth = model.shape.tolist()
    signal, tree = (N_SIGNALS,), (n_trees * n_nodes,)
    curve = (N_SIGNALS, STEPS + 1)
    factor, floor = (N_FACTORS,), (1 + N_FACTORS,)
    shapes = (curve, signal, signal, signal, signal, factor, floor, tree, tree, tree, (3,), (1,))
    for name, shape in zip(Model._fields, shapes, strict=True):
        array, like = getattr(model, name), getattr(NO_MODEL, name)
        if array.shape != shape or array.dtype != like.dtype:
            raise ValueError(f"{name} has another layout")
    if n_nodes != 1 << depth or n_trees % LANES or n_trees < 1:
        raise ValueError("its trees have another layout")
    if not 0 <= model.feature.min() <= model.feature.max() <= N_FACTORS:
        raise ValueError("its trees split other features")
