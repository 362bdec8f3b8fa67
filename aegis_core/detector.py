"""From signals to a score: recalibration, Isolation Forest, contributions.

1. Each signal is recalibrated to the population it was trained on: the share of traffic at least
   as extreme, in nats, up to the 99th percentile, and the exponential tail that the bulk predicts
   beyond it. A signal whose tail is far heavier than its bulk predicts holds a second population.
2. A signal that shows nothing of the kind is weighted down within the range seen in training: its
   tail is no heavier than its bulk, and it is no more extreme where the amount is. What lies
   beyond that range counts in full. Beyond the 99th percentile the tails of all factors are brought
   to one unit, since ordinary journeys and shopping sprees have longer tails than ordinary amounts.
3. The evidence of a factor is the strongest of its signals; the total is the sum of the factors.
4. scikit-learn's IsolationForest is trained on the factors and, in as many columns, the total, so
   that half of its splits look at the whole. With the total once, the factors' noise cost it a
   tenth of its average precision and it fell behind its best factor. What lies below the training
   median counts as the median: a forest is two-sided, and without this floor it found the most
   ordinary transactions more suspicious than nine in ten others. Its trees are flattened into
   arrays that a compiled kernel walks: equal to `score_samples` to 1e-12.

Higher is more suspicious: `score` is minus scikit-learn's `score_samples`, in (0, 1). It is not a
probability. When it fails: a fraud that looks ordinary in amount, place, hour and pace is invisible
without answers, and isolation is blind to what most of the training window does.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import IsolationForest

from aegis_core.errors import InputError, NotReady
from aegis_core.kernels import kernel
from aegis_core.profiles import SIGNAL_FACTOR, SIGNALS, Floats, Ints
from aegis_core.schema import FACTORS

N_FACTORS: Final = len(FACTORS)
N_SIGNALS: Final = len(SIGNALS)
BULK: Final = 0.99
"""Share of traffic that a signal's tail is extrapolated from."""
KNEE: Final = -math.log(1 - BULK)
"""Nats from which the factors' tails are brought to one unit."""
MIN_TAIL: Final = 20
"""Fewest training transactions beyond the knee that a factor's unit is measured on."""
MIN_UNIT: Final = 0.25
RANGE: Final = 0.9995
"""Share of traffic that spans the range seen in training."""
MIN_TRAIN: Final = 50
"""Fewest transactions that a detector can be fitted on."""
LANES: Final = 10
"""Trees walked side by side."""
_STEPS: Final = 256
_SELF_CALIBRATED: Final = SIGNALS.index("burst_swarm")
_EXPECTED_EXCESS: Final = (0.75, 1.5)  # silent below the first, in full above the second
_EXPECTED_COMPANY: Final = (1.25, 2.0)


class Model(NamedTuple):
    """What the kernel reads: calibration, flattened trees and the score's quantiles."""

    curve: Floats  # (N_SIGNALS, _STEPS + 1) nats at evenly spaced values of the signal, from 0
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
            if place < _STEPS:
                k = int(place)
                nats = curve[j, k] + (place - k) * (curve[j, k + 1] - curve[j, k])
            else:
                nats = curve[j, _STEPS] + (place - _STEPS) * slope[j]
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
def _weigh_all(
    model: Model, signals: Floats, strength: Floats, evidence: Floats, spread: Floats
) -> None:
    for i in range(len(signals)):
        weigh(model, signals[i], strength[i], evidence[i], spread[i])


@kernel
def _isolate_all(model: Model, evidence: Floats, score: Floats) -> None:
    scratch, lanes = np.empty(1 + N_FACTORS, np.float32), np.empty(LANES, np.int64)
    for i in range(len(evidence)):
        score[i] = isolate(model, evidence[i], scratch, lanes)


@kernel
def _attribute_all(model: Model, evidence: Floats, contributions: Floats) -> None:
    for i in range(len(evidence)):
        attribute(model, evidence[i], contributions[i])


class Detector:
    """Isolation Forest on the evidence of the risk factors.

    Parameters
    ----------
    n_trees, max_samples :
        Of scikit-learn's IsolationForest. `max_samples` at most 4096: the flattened trees are
        complete, with depth ⌈log2 max_samples⌉.
    seed :
        Of the forest. The same signals and seed give the same detector.

    Attributes
    ----------
    model_ : what the kernel reads.
    forest_ : the fitted IsolationForest; None after `load`.
    base_ : score of a transaction without any evidence.
    score_quantiles_ : ordinates of the training scores, for `risk` and the thresholds.

    Examples
    --------
    >>> signals = np.random.default_rng(0).exponential(size=(2000, N_SIGNALS))
    >>> detector = Detector().fit(signals)
    >>> strange, ordinary = detector.score(np.array([[12.0, 0, 0, 0], [0.5, 0, 0, 0]]))
    >>> bool(strange > ordinary)
    True
    """

    model_: Model
    base_: float
    score_quantiles_: Floats

    def __init__(self, n_trees: int = 100, max_samples: int = 256, seed: int = 0) -> None:
        if not 2 <= max_samples <= 4096:
            raise InputError(f"max_samples must lie in [2, 4096], not {max_samples}.")
        if n_trees < 1:
            raise InputError(f"n_trees must be at least 1, not {n_trees}.")
        self.n_trees, self.max_samples, self.seed = n_trees, max_samples, seed
        self.forest_: IsolationForest | None = None

    def fit(self, signals: Floats) -> Detector:
        """Fit calibration and forest on signals of shape (n, N_SIGNALS) of the training window.

        Raises
        ------
        NotReady
            Fewer than `MIN_TRAIN` transactions.
        """
        if len(signals) < MIN_TRAIN:
            raise NotReady(
                f"{len(signals)} transactions are too few to train on; at least {MIN_TRAIN} are "
                "needed. Widen the training window or import more history."
            )
        curves = [_calibrate(signals[:, j]) for j in range(N_SIGNALS)]
        curve, density, slope = (np.array(part) for part in zip(*curves, strict=True))
        model = NO_MODEL._replace(
            curve=curve, density=density, slope=slope,
            weight=np.ones(N_SIGNALS), reach=np.zeros(N_SIGNALS), tail=np.ones(N_FACTORS),
        )  # fmt: skip
        _, _, nats = _weighed(model, signals)
        model = model._replace(weight=_weights(nats), reach=np.quantile(nats, RANGE, axis=0))
        _, evidence, _ = _weighed(model, signals)
        model = model._replace(tail=_tails(evidence))
        _, evidence, _ = _weighed(model, signals)
        middle = np.median(np.column_stack([evidence.sum(axis=1), evidence]), axis=0)
        model = model._replace(floor=middle.astype(np.float32))
        features = _features(model, evidence)
        self.forest_ = IsolationForest(
            n_estimators=self.n_trees,
            max_samples=min(self.max_samples, len(features)),
            random_state=self.seed,
        ).fit(features)
        self.model_ = model._replace(**_flatten(self.forest_))
        self.base_ = float(self.score(np.zeros((1, N_FACTORS)))[0])
        scores = np.sort(self.score(evidence))
        self.score_quantiles_ = np.quantile(scores, _QUANTILE_LEVELS, method="higher")
        return self

    def weigh(self, signals: Floats) -> tuple[Floats, Floats]:
        """Strength and evidence of each factor, each of shape (n, N_FACTORS), in nats."""
        return _weighed(self.model_, signals)[:2]

    def spread(self, signals: Floats) -> Floats:
        """Evidence of each signal, of shape (n, N_SIGNALS); a factor's is their maximum."""
        return _weighed(self.model_, signals)[2]

    def features(self, evidence: Floats) -> npt.NDArray[np.float32]:
        """What the forest is asked about, of shape (n, 2 * N_FACTORS): the total, then factors."""
        return _features(self.model_, evidence)

    def score(self, evidence: Floats) -> Floats:
        """Scores of shape (n,), in (0, 1); higher is more suspicious."""
        score = np.empty(len(evidence))
        _isolate_all(self.model_, np.ascontiguousarray(evidence, np.float64), score)
        return score

    def contributions(self, evidence: Floats) -> Floats:
        """Shapley values of shape (n, N_FACTORS); each row sums to score − `base_`."""
        out = np.empty((len(evidence), N_FACTORS))
        _attribute_all(self.model_, np.ascontiguousarray(evidence, np.float64), out)
        return out

    def risk(self, score: Floats) -> Floats:
        """Percentile of `score` among the training window's traffic, in [0, 100]."""
        q, levels = self.score_quantiles_, _QUANTILE_LEVELS
        rising = np.concatenate([[True], np.diff(q) > 0])
        risk: Floats = np.interp(score, q[rising], levels[rising], left=0.0, right=1.0)
        return 100.0 * risk

    def threshold(self, share: float) -> float:
        """Score that at most `share` of the training window's traffic lies strictly above."""
        level = np.searchsorted(_QUANTILE_LEVELS, 1 - share)  # the next one up keeps the promise
        return float(self.score_quantiles_[level])

    def save(self, folder: Path) -> None:
        """Write arrays and JSON into `folder`; loading them runs no code."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "detector.npz").open("wb") as f:
            np.savez_compressed(f, score_quantiles=self.score_quantiles_, **self.model_._asdict())
        parameters = {
            "n_trees": self.n_trees,
            "max_samples": self.max_samples,
            "seed": self.seed,
            "base": self.base_,
            "factors": FACTORS,
            "signals": SIGNALS,
        }
        (folder / "detector.json").write_text(json.dumps(parameters, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Detector:
        """Read what `save` wrote.

        Raises
        ------
        NotReady
            The model is not there, broken, or made for other signals.
        """
        try:
            parameters = json.loads((folder / "detector.json").read_text())
            with (folder / "detector.npz").open("rb") as f, np.load(f, allow_pickle=False) as z:
                arrays = {name: z[name] for name in z.files}
            if tuple(parameters["signals"]) != SIGNALS or tuple(parameters["factors"]) != FACTORS:
                raise ValueError("it was made for other signals")
            self = cls(parameters["n_trees"], parameters["max_samples"], parameters["seed"])
            self.base_ = float(parameters["base"])
            self.score_quantiles_ = arrays.pop("score_quantiles")
            self.model_ = Model(**arrays)
            _check_layout(self.model_, self.score_quantiles_)
        except Exception as e:  # a broken archive raises anything, from OSError to zlib.error
            raise NotReady(
                f"The model in {folder} cannot be read ({e}). Train one with `aegis run train`."
            ) from None
        return self


_QUANTILE_LEVELS: Final = np.unique(
    np.concatenate([np.linspace(0, 1, 401), 1 - np.geomspace(1, 1e-6, 601)])
)


def score_levels() -> Floats:
    """Shares of traffic below the ordinates of `score_quantiles_`, from 0 to 1."""
    return _QUANTILE_LEVELS


def _check_layout(model: Model, score_quantiles: Floats) -> None:
    """Raise ValueError where the kernel would read beside the arrays."""
    n_trees, n_nodes, depth = model.shape.tolist()
    signal, tree = (N_SIGNALS,), (n_trees * n_nodes,)
    curve = (N_SIGNALS, _STEPS + 1)
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
    if score_quantiles.shape != _QUANTILE_LEVELS.shape:
        raise ValueError("its quantiles have another layout")


def _weighed(model: Model, signals: Floats) -> tuple[Floats, Floats, Floats]:
    """Strength, evidence and spread of all rows."""
    strength, evidence = np.empty((2, len(signals), N_FACTORS))
    spread = np.empty((len(signals), N_SIGNALS))
    _weigh_all(model, np.ascontiguousarray(signals), strength, evidence, spread)
    return strength, evidence, spread


def _features(model: Model, evidence: Floats) -> npt.NDArray[np.float32]:
    joined = np.column_stack([evidence.sum(axis=1), evidence]).astype(np.float32)
    return np.maximum(joined, model.floor)[:, [0] * N_FACTORS + list(range(1, 1 + N_FACTORS))]


def _calibrate(values: Floats) -> tuple[Floats, float, float]:
    """Curve, density and slope of one signal; see `Model`.

    The slope is that of an exponential law through the 90th and 99th percentile, or through 0 and
    the 99th where those coincide.
    """
    ordered = np.sort(values)
    lower, upper = np.quantile(ordered, (0.9, BULK), method="lower")
    if upper <= 0:  # says nothing of nearly all traffic: whatever it says counts as it is
        return np.zeros(_STEPS + 1), float(_STEPS), 1 / _STEPS
    grid = np.linspace(0.0, upper, _STEPS + 1)
    at_least = len(ordered) - np.searchsorted(ordered, grid, side="left")
    rise, run = upper - lower, math.log(10.0)
    if rise <= 0:
        rise, run = upper, -math.log(1 - BULK)
    return -np.log(at_least / len(ordered)), _STEPS / upper, run / rise * upper / _STEPS


def _weights(nats: Floats) -> Floats:
    """Weight of each signal in [0, 1], from recalibrated signals of shape (n, N_SIGNALS).

    Excess: mean excess over the `RANGE`-near quantile, 1 for an exponential tail. Company: mean
    among the rows with the most extreme amounts, over the mean of all; 1 for independence.
    """
    factor = np.array(SIGNAL_FACTOR)
    amount = nats[:, factor == FACTORS.index("amount")].max(axis=1)
    n_top = max(len(nats) // 200, 20)
    top = np.argpartition(amount, -n_top)[-n_top:]
    weight = np.zeros(N_SIGNALS)
    for j in range(N_SIGNALS):
        q = np.quantile(nats[:, j], 0.999)
        beyond = nats[nats[:, j] > q, j] - q
        excess = beyond.mean() if len(beyond) else 0.0
        w = np.interp(excess, _EXPECTED_EXCESS, (0.0, 1.0))
        mean = nats[:, j].mean()
        if factor[j] != FACTORS.index("amount") and mean > 0:
            company = nats[top, j].mean() / mean
            w = max(w, np.interp(company, _EXPECTED_COMPANY, (0.0, 1.0)))
        weight[j] = w
    return weight


def _tails(evidence: Floats) -> Floats:
    """Worth of a nat beyond the knee in each factor, of shape (N_FACTORS,).

    A factor's unit is the mean excess of the exponential law with the upper quartile of its own
    excess; frauds among the rarest rows hardly move it. Units are brought to their mean; a factor
    that hardly ever gets there has none, and counts as it is.
    """
    units = np.full(evidence.shape[1], np.nan)
    for f in range(evidence.shape[1]):
        beyond = evidence[evidence[:, f] > KNEE, f] - KNEE
        if len(beyond) >= MIN_TAIL:
            units[f] = max(float(np.quantile(beyond, 0.75)) / math.log(4.0), MIN_UNIT)
    known = ~np.isnan(units)
    tail = np.ones(len(units))
    tail[known] = units[known].mean() / units[known] if known.any() else 1.0
    return tail


def average_path_length(n: npt.NDArray[np.int64]) -> Floats:
    """Mean path length of an unsuccessful search among `n` points (Liu et al. 2008, eq. 1).

    >>> average_path_length(np.array([1, 2, 256])).round(3).tolist()
    [0.0, 1.0, 10.245]
    """
    n = np.asarray(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = 2 * (np.log(n - 1.0) + np.euler_gamma) - 2 * (n - 1.0) / n
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, c))


def _flatten(forest: IsolationForest) -> dict[str, Any]:
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
