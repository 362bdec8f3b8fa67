"""The forest in arrays: what compiled code reads and computes of a fitted `Detector`.

Calibration, weights and the trees are one tuple, `Model`, so that the loop in `scoring` weighs and
scores a transaction without leaving compiled code: equal to scikit-learn's `score_samples` to
1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from numba.cpython.unsafe.numbers import trailing_zeros

from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.kernels import kernel
from aegis_core.features.signals import SIGNAL_FACTOR, SIGNALS
from aegis_core.schema import FACTORS, TOLD_FACTORS

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

N_FACTORS: Final = len(FACTORS)
N_SIGNALS: Final = len(SIGNALS)
BULK: Final = 0.99
"""Share of traffic that a signal's tail is extrapolated from."""
KNEE: Final = -math.log(1 - BULK)
"""Nats from which the factors' tails are brought to one unit."""
STEPS: Final = 256
"""Steps of a signal's calibration curve."""
N_TOLD: Final = len(TOLD_FACTORS)
PADDED: Final = 10
"""Stored forests are filled up with empty trees to a multiple of this."""
_BLOCK: Final = 4
"""Fewest cuts between two rows of `Model.before`, as a power of two."""
_LARGEST: Final = 1 << 24
"""Bytes of `Model.before`; where trees have thousands of leaves, it gets fewer rows."""
_SELF_CALIBRATED: Final = SIGNALS.index("burst_swarm")
_ALL: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_first_bit: Final = cast("Callable[[np.uint64], int]", trailing_zeros)
_SIZE: Final = np.array([subset.bit_count() for subset in range(1 << N_TOLD)])
"""Members of each subset of the factors, a subset being the bits of its number."""
_WAYS: Final = np.array(
    [
        [1 / (max(k - m, 1) * math.comb(k, m)) if m < k else 0.0 for m in range(N_TOLD)]
        for k in range(N_TOLD + 1)
    ]
)
"""Share of the orders of k factors in which m certain ones come just before another, by k, m."""


Words = npt.NDArray[np.uint64]


class Model(NamedTuple):
    """What the kernel reads: calibration, and the trees by their cuts.

    The leaves of a tree, from the left, are bits of its words. A value above a cut rules out the
    leaves to the left of the cut, wherever in the tree it stands; of those that no value rules
    out, the first is the one that a transaction falls into (QuickScorer: Lucchese et al., SIGIR
    2015, section 3). The cuts of a feature are in ascending order, so that what a value rules out
    is a row of `before` and a few cuts more.
    """

    curve: Floats  # (N_SIGNALS, STEPS + 1) nats at evenly spaced values of the signal, from 0
    density: Floats  # (N_SIGNALS,) steps of the curve per unit of the signal
    slope: Floats  # (N_SIGNALS,) nats per step beyond the curve
    weight: Floats  # (N_SIGNALS,) within the range seen in training, in [0, 1]
    reach: Floats  # (N_SIGNALS,) nats that span this range
    tail: Floats  # (N_FACTORS,) worth of a nat beyond the knee
    floor: npt.NDArray[np.float32]  # (1 + N_FACTORS,) medians of total and factors in training
    scale: Floats  # (1,) -1 / (number of trees * c(max_samples))
    cut: npt.NDArray[np.float32]  # (n_cuts,) of the total and of each factor, the last ones inf
    first: Ints  # (2 + N_FACTORS,) the first cut of each, then n_cuts
    word: npt.NDArray[np.int32]  # (n_cuts,) which word a cut changes
    keep: Words  # (n_cuts,) and what it keeps of it
    before: Words  # (n_cuts >> shift, n_words) what is left before each block of cuts
    shift: Ints  # (1,)
    root: Ints  # (n_trees,) first word of each tree
    path: Floats  # (64 * n_words,) path length of each leaf


NO_MODEL: Final = Model(
    np.zeros((N_SIGNALS, STEPS + 1)),
    np.zeros(N_SIGNALS),
    np.zeros(N_SIGNALS),
    np.zeros(N_SIGNALS),
    np.zeros(N_SIGNALS),
    np.zeros(N_FACTORS),
    np.zeros(1 + N_FACTORS, np.float32),
    np.zeros(1),
    np.zeros(0, np.float32),
    np.zeros(0, np.int64),
    np.zeros(0, np.int32),
    np.zeros(0, np.uint64),
    np.zeros((0, 0), np.uint64),
    np.zeros(1, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0),
)


class Forest(NamedTuple):
    """Complete trees as they are stored, node i of all trees side by side."""

    feature: npt.NDArray[np.int8]  # 0 for the total, 1 + f for a factor
    threshold: npt.NDArray[np.float32]  # a node's left child if x <= threshold; inf in leaves
    path: Floats  # path length of each leaf, in the same layout
    shape: Ints  # (3,) trees, nodes of a tree (2**depth), depth


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
def room(model: Model) -> Words:
    """What `isolate` keeps the leaves in that are left."""
    return np.empty(model.before.shape[1], np.uint64)


@kernel
def _rule_out(model: Model, feature: int, value: np.float32, left: Words) -> None:
    """Take away the leaves that a value rules out."""
    at, n = model.first[feature], model.first[feature + 1] - model.first[feature]
    if not model.cut[at] < value:
        return
    while n > 1:  # the first cut that is not below it, without a branch that depends on the value
        half = n >> 1
        at += half * (model.cut[at + half - 1] < value)
        n -= half
    at += model.cut[at] < value
    block = at >> model.shift[0]
    row = model.before[block]
    for w in range(len(left)):
        left[w] &= row[w]
    for c in range(block << model.shift[0], at):
        left[model.word[c]] &= model.keep[c]


@kernel
def _score(model: Model, left: Words) -> float:
    """Score of a transaction from the leaves that are left; the first of each tree is its own."""
    length = 0.0
    for t in range(len(model.root)):
        w = model.root[t]
        while left[w] == 0:
            w += 1
        length += model.path[(w << 6) + np.int64(_first_bit(left[w]))]
    return math.pow(2.0, length * model.scale[0])


@kernel
def isolate(model: Model, evidence: Floats, left: Words) -> float:
    """Score of one transaction, in (0, 1); higher is more suspicious.

    The total joins the factors as the first feature; `left` is `room(model)`.
    """
    left[:] = _ALL
    total = 0.0
    for f in range(N_FACTORS):
        total += evidence[f]
        _rule_out(model, 1 + f, max(np.float32(evidence[f]), model.floor[1 + f]), left)
    _rule_out(model, 0, max(np.float32(total), model.floor[0]), left)
    return _score(model, left)


@kernel
def share(worth: Floats, active: Ints, k: int, contributions: Floats) -> None:
    """Write the Shapley values of the `k` active factors from the worth of all their subsets.

    The bits of a subset's number are its members, places in `active`.
    """
    contributions[:] = 0.0
    for i in range(k):
        value = 0.0
        for subset in range(1 << k):
            if subset >> i & 1 == 0:
                value += _WAYS[k, _SIZE[subset]] * (worth[subset | 1 << i] - worth[subset])
        contributions[active[i]] = value


@kernel
def attribute_all(model: Model, evidence: Floats, score: Floats, contributions: Floats) -> None:
    """Write the Shapley values of the factors against no evidence at all, shape (n, N_FACTORS).

    They sum to `score(evidence) - score(0)`. A factor without evidence gets exactly 0, so that
    only the 2**k subsets of k factors with evidence count (Lundberg & Lee, NIPS 2017, section 2);
    of these, a subset is worth as much as one without a member that lies below the floor and does
    not lift the total above its own.
    """
    left, alone = room(model), np.empty((N_FACTORS, model.before.shape[1]), np.uint64)
    worth, total = np.empty(1 << N_FACTORS), np.empty(1 << N_FACTORS, np.float32)
    active, high = np.empty(N_FACTORS, np.int64), np.empty(N_FACTORS, np.bool_)
    worth[0], total[0] = isolate(model, np.zeros(N_FACTORS), left), model.floor[0]
    for i in range(len(evidence)):
        k = 0
        for f in range(N_FACTORS):
            if evidence[i, f] > 0:
                active[k] = f
                value = np.float32(evidence[i, f])
                high[k] = value > model.floor[1 + f]
                if high[k]:
                    alone[k, :] = _ALL
                    _rule_out(model, 1 + f, value, alone[k])
                k += 1
        for subset in range(1, 1 << k):
            summed = 0.0
            for m in range(k):
                if subset >> m & 1:
                    summed += evidence[i, active[m]]
            total[subset] = max(np.float32(summed), model.floor[0])
            known = False
            for m in range(k):
                smaller = subset & ~(1 << m)
                if smaller != subset and not high[m] and total[smaller] == total[subset]:
                    worth[subset], known = worth[smaller], True
                    break
            if known:
                continue
            if subset == (1 << k) - 1:
                worth[subset] = score[i]
                continue
            left[:] = _ALL
            for m in range(k):
                if subset >> m & 1 and high[m]:
                    for w in range(len(left)):
                        left[w] &= alone[m, w]
            _rule_out(model, 0, total[subset], left)
            worth[subset] = _score(model, left)
        share(worth, active, k, contributions[i])


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
    left = room(model)
    for i in range(len(evidence)):
        score[i] = isolate(model, evidence[i], left)


def average_path_length(n: npt.NDArray[np.int64]) -> Floats:
    """Mean path length of an unsuccessful search among `n` points (Liu et al. 2008, eq. 1).

    >>> average_path_length(np.array([1, 2, 256])).round(3).tolist()
    [0.0, 1.0, 10.245]
    """
    n = np.asarray(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = 2 * (np.log(n - 1.0) + np.euler_gamma) - 2 * (n - 1.0) / n
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, c))


def flatten(forest: IsolationForest) -> tuple[Forest, Floats]:
    """The trees of `forest` as complete binary trees, and the scale of their path lengths.

    scikit-learn compares a float32 value with a float64 threshold. Rounding the threshold down to
    float32 keeps every comparison: x <= t exactly when x <= floor32(t).
    """
    trees = [e.tree_ for e in forest.estimators_]
    depth = max(t.max_depth for t in trees)
    size = 1 << depth
    n_padded = len(trees) + -len(trees) % PADDED  # empty trees, of path 0
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
    shape = np.array([n_padded, size, depth])
    return Forest(feature.T.ravel(), threshold.T.ravel(), path.T.ravel(), shape), scale


_NO_FOREST: Final = Forest(
    np.zeros(0, np.int8), np.zeros(0, np.float32), np.zeros(0), np.zeros(3, np.int64)
)


def indexed(forest: Forest) -> dict[str, Any]:
    """The fields of `Model` that stand for the trees."""
    n_trees, size, depth = forest.shape.tolist()
    feature, threshold, path = (a.reshape(size, n_trees).T for a in forest[:3])
    inner = np.isfinite(threshold)
    inner[:, 0] = False  # there is no node 0
    for place in range(2, size):
        inner[:, place] &= inner[:, place // 2]
    starts = np.zeros((n_trees, size), bool)  # whether a leaf begins at a place of the last row
    starts[:, 0] = True
    tree, node = np.nonzero(inner)
    levels = np.floor(np.log2(node)).astype(np.int64)
    leftmost = (node << (depth - levels)) - size
    middle = leftmost + (1 << (depth - levels - 1))
    starts[tree, middle] = True
    number = np.cumsum(starts, axis=1) - 1  # of the leaf that holds a place
    n_words = number[:, -1] // 64 + 1
    root = np.concatenate([[0], np.cumsum(n_words)])
    leaves = np.zeros(64 * root[-1])
    of_tree, of_place = np.nonzero(starts)
    leaves[64 * root[of_tree] + number[of_tree, of_place]] = path[of_tree, of_place]
    cuts = []
    begin, end = number[tree, leftmost], number[tree, middle]
    for w in range(int(n_words.max())):
        lower, upper = np.clip(begin - 64 * w, 0, 64), np.clip(end - 64 * w, 0, 64)
        some = lower < upper
        keep = ~(_ones(upper) & ~_ones(lower))
        parts = threshold[tree, node], feature[tree, node], root[tree] + w, keep
        cuts.append([part[some] for part in parts])
    cut, of, word, keep = (np.concatenate(part) for part in zip(*cuts, strict=True))
    shift = _BLOCK
    while (len(cut) >> shift) * 8 * root[-1] > _LARGEST:
        shift += 1
    order, first = [], [0]
    for f in range(1 + N_FACTORS):
        own = np.flatnonzero(of == f)
        own = own[np.argsort(cut[own], kind="stable")]
        spare = -(len(own) + 1) % (1 << shift) + 1
        order.append(np.concatenate([own, np.full(spare, len(cut))]))
        first.append(first[-1] + len(order[-1]))
    last = np.concatenate(order)
    ends = np.float32(np.inf), np.int32(0), ~np.uint64(0)
    cut, word, keep = (
        np.concatenate([part, [end]])[last]
        for part, end in zip((cut, word, keep), ends, strict=True)
    )
    before = np.empty((len(cut) >> shift, root[-1]), np.uint64)
    fields = {
        "cut": cut.astype(np.float32), "first": np.array(first), "word": word.astype(np.int32),
        "keep": keep.astype(np.uint64), "before": before, "shift": np.array([shift]),
        "root": root[:-1], "path": leaves,
    }  # fmt: skip
    _fill(fields["first"], fields["word"], fields["keep"], shift, before)
    return fields


def _ones(n: Ints) -> Words:
    """Words whose lowest `n` bits are set, n in [0, 64]."""
    some: Words = ~np.uint64(0) >> (64 - np.maximum(n, 1)).astype(np.uint64)
    return np.where(n > 0, some, np.uint64(0))


@kernel
def _fill(first: Ints, word: npt.NDArray[np.int32], keep: Words, shift: int, before: Words) -> None:
    """Write `Model.before`."""
    left = np.empty(before.shape[1], np.uint64)
    for f in range(len(first) - 1):
        left[:] = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
        for c in range(first[f], first[f + 1]):
            if c & ((1 << shift) - 1) == 0:
                before[c >> shift] = left
            left[word[c]] &= keep[c]


STORED: Final = (*Model._fields[:8], *Forest._fields)
"""Arrays that are stored of a model and its forest; the others are made of them."""


def check(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ValueError where stored arrays have another layout than a fitted model's."""
    n_trees, n_nodes, depth = arrays["shape"].tolist()
    like = {**NO_MODEL._asdict(), **_NO_FOREST._asdict()}
    of_trees = dict.fromkeys(("feature", "threshold", "path"), (n_trees * n_nodes,))
    if set(arrays) != set(STORED):
        raise ValueError("its arrays are others")
    for name, array in arrays.items():
        if array.shape != of_trees.get(name, like[name].shape) or array.dtype != like[name].dtype:
            raise ValueError(f"{name} has another layout")
    if n_nodes != 1 << depth or n_trees % PADDED or n_trees < 1:
        raise ValueError("its trees have another layout")
    if not 0 <= arrays["feature"].min() <= arrays["feature"].max() <= N_FACTORS:
        raise ValueError("its trees split other features")
