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
   ordinary transactions more suspicious than nine in ten others. Its trees become arrays
   of cuts that a compiled kernel reads: equal to `score_samples` to 1e-12.

Higher is more suspicious: `score` is minus scikit-learn's `score_samples`, in (0, 1). It is not a
probability. When it fails: a fraud that looks ordinary in amount, place, hour and pace is invisible
without answers, and isolation is blind to what most of the training window does.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.detection.forest import (
    BULK,
    KNEE,
    N_FACTORS,
    N_SIGNALS,
    NO_MODEL,
    STEPS,
    STORED,
    Forest,
    Model,
    attribute_all,
    check,
    flatten,
    indexed,
    isolate_all,
    weigh_all,
)
from aegis_core.errors import InputError, NotReady
from aegis_core.features.arrays import Floats, read_arrays, reading, write_arrays
from aegis_core.features.signals import SIGNAL_FACTOR, SIGNALS
from aegis_core.schema import FACTORS

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

MIN_TAIL: Final = 20
"""Fewest training transactions beyond the knee that a factor's unit is measured on."""
MIN_UNIT: Final = 0.25
RAREST: Final = 0.01
"""Share of the training transactions, by their score, that no customer may crowd."""
OF_THE_RAREST: Final = 0.1
"""Part of these that are a customer's at most; what they have more of teaches nothing."""
FEWEST_RARE: Final = 30
"""So many of a customer's may be rare in any case."""
OF_A_SIGNAL: Final = 0.01
"""`OF_THE_RAREST` of the largest hundredth of one signal, before anything is fitted."""
FEWEST_OF_A_SIGNAL: Final = 8
"""`FEWEST_RARE` of one signal."""
CROWDED: Final = 0.25
"""Part of the largest hundredth of a signal beyond which what is too much of some is left out. In
synthetic traffic it is .15 at most, and .34 and .54 where five and ten customers agree."""
RANGE: Final = 0.9995
"""Share of traffic that spans the range seen in training."""
MIN_TRAIN: Final = 50
"""Fewest transactions that a detector can be fitted on."""
_EXPECTED_EXCESS: Final = (0.75, 1.5)  # silent below the first, in full above the second
_EXPECTED_COMPANY: Final = (1.25, 2.0)


class Calibrated:
    """A model that knows how the scores of ordinary traffic are spread.

    Attributes
    ----------
    score_quantiles_ : scores at the shares `score_levels` of that traffic.
    """

    score_quantiles_: Floats
    _steps_of: tuple[Floats, Floats, Floats] | None = None

    def risk(self, score: Floats) -> Floats:
        """Percentile of `score` among the traffic it was calibrated on, in [0, 100]."""
        at, share = self._steps()
        risk: Floats = np.interp(score, at, share, left=0.0, right=1.0)
        return 100.0 * risk

    def _steps(self) -> tuple[Floats, Floats]:
        """Scores that rise, and the shares that belong to them."""
        q = self.score_quantiles_
        if self._steps_of is None or self._steps_of[0] is not q:
            rising = np.concatenate([[True], np.diff(q) > 0])
            self._steps_of = q, q[rising], score_levels()[rising]
        return self._steps_of[1:]

    def threshold(self, share: float) -> float:
        """Score that at most `share` of the traffic it was calibrated on lies strictly above."""
        level = np.searchsorted(score_levels(), 1 - share)  # the next one up keeps the promise
        return float(self.score_quantiles_[level])


class Detector(Calibrated):
    """Isolation Forest on the evidence of the risk factors.

    Parameters
    ----------
    n_trees, max_samples :
        Of scikit-learn's IsolationForest. `max_samples` at most 4096: the flattened trees are
        complete, with depth ⌈log2 max_samples⌉.
    seed : of the forest. The same signals and seed give the same detector.

    Attributes
    ----------
    model_ : what the kernel reads.
    trees_ : the trees as they are stored.
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
    trees_: Forest
    base_: float

    def __init__(self, n_trees: int = 100, max_samples: int = 256, seed: int = 0) -> None:
        if not 2 <= max_samples <= 4096:
            raise InputError(f"max_samples must lie in [2, 4096], not {max_samples}.")
        if n_trees < 1:
            raise InputError(f"n_trees must be at least 1, not {n_trees}.")
        self.n_trees, self.max_samples, self.seed = n_trees, max_samples, seed
        self.forest_: IsolationForest | None = None

    def fit(self, signals: Floats, customer: pd.Series | None = None) -> Detector:
        """Fit calibration and forest on the signals of a training window.

        Parameters
        ----------
        signals : of shape (n, N_SIGNALS).
        customer :
            Whose transactions these are, of shape (n,). If some of them crowd the largest of a
            signal, what is too much of each is left out: else what ten who agree do would be taken
            for ordinary, and nothing fitted to it would find it rare. If one of them still crowds
            what is rare, the detector is fitted again without that.

        Raises
        ------
        NotReady : Fewer than `MIN_TRAIN` transactions.
        """
        if len(signals) < MIN_TRAIN:
            raise NotReady(
                f"{len(signals)} transactions are too few to train on; at least {MIN_TRAIN} are "
                "needed. Widen the training window or import more history."
            )
        if customer is not None:
            few = uncrowded_signals(customer, signals)
            signals, customer = signals[few], customer[few]
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
        from sklearn.ensemble import IsolationForest  # seconds, which who only scores does without

        self.forest_ = IsolationForest(
            n_estimators=self.n_trees,
            max_samples=min(self.max_samples, len(features)),
            random_state=self.seed,
        ).fit(features)
        self.trees_, scale = flatten(self.forest_)
        self.model_ = model._replace(scale=scale, **indexed(self.trees_))
        self.base_ = float(self.score(np.zeros((1, N_FACTORS)))[0])
        scores = self.score(evidence)
        if customer is not None and not (kept := uncrowded(customer, scores)).all():
            return self.fit(signals[kept])
        self.score_quantiles_ = np.quantile(np.sort(scores), _QUANTILE_LEVELS, method="higher")
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
        isolate_all(self.model_, np.ascontiguousarray(evidence, np.float64), score)
        return score

    def contributions(self, evidence: Floats, score: Floats | None = None) -> Floats:
        """Shapley values of shape (n, N_FACTORS); each row sums to score − `base_`.

        Parameters
        ----------
        score : of shape (n,), what `score` gives for this evidence, where it is known already.
        """
        out = np.empty((len(evidence), N_FACTORS))
        known = self.score(evidence) if score is None else score
        attribute_all(self.model_, np.ascontiguousarray(evidence, np.float64), known, out)
        return out

    def save(self, folder: Path) -> None:
        """Write arrays and JSON into `folder`; loading them runs no code."""
        folder.mkdir(parents=True, exist_ok=True)
        of = {**self.model_._asdict(), **self.trees_._asdict()}  # both have paths, and order counts
        arrays = {"score_quantiles": self.score_quantiles_, **{name: of[name] for name in STORED}}
        write_arrays(folder / "detector.npz", arrays, compress=True)
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
        NotReady : The model is not there, broken, or made for other signals.
        """
        with reading(f"The model in {folder}", "Train one with `aegis run train`."):
            parameters = json.loads((folder / "detector.json").read_text())
            arrays = read_arrays(folder / "detector.npz")
            if tuple(parameters["signals"]) != SIGNALS or tuple(parameters["factors"]) != FACTORS:
                raise ValueError("it was made for other signals")
            self = cls(parameters["n_trees"], parameters["max_samples"], parameters["seed"])
            self.base_ = float(parameters["base"])
            self.score_quantiles_ = arrays.pop("score_quantiles")
            check(arrays)
            self.trees_ = Forest(*(arrays.pop(name) for name in Forest._fields))
            self.model_ = NO_MODEL._replace(**arrays, **indexed(self.trees_))
            if self.score_quantiles_.shape != _QUANTILE_LEVELS.shape:
                raise ValueError("its quantiles have another layout")
        return self


def ranks(customer: pd.Series, worth: Floats) -> npt.NDArray[np.int64]:
    """How many of the customer's transactions are worth more than each, of equal ones the first.

    >>> ranks(pd.Series(["a", "a", "b", "a"]), np.array([1.0, 3, 2, 1])).tolist()
    [1, 0, 0, 2]
    """
    code = pd.factorize(customer)[0]
    order = np.lexsort((-worth, code))
    begins = np.searchsorted(code[order], code[order])
    out = np.empty(len(order), np.int64)
    out[order] = np.arange(len(order)) - begins
    return out


def most_of_one(
    rare: float, n_customers: int, part: float = OF_THE_RAREST, fewest: int = FEWEST_RARE
) -> float:
    """How many of `rare` transactions may be one customer's."""
    return max(fewest, part * rare, 2 * rare / max(n_customers, 1))


def uncrowded(
    customer: pd.Series,
    worth: Floats,
    share: float = RAREST,
    part: float = OF_THE_RAREST,
    fewest: int = FEWEST_RARE,
) -> npt.NDArray[np.bool_]:
    """Which rows are left, so that no customer has too many among this share that is worth most.

    >>> who = pd.Series(["one"] * 300 + [f"c{i}" for i in range(700)])
    >>> kept = uncrowded(who, np.append(np.full(300, 0.9), np.linspace(0, 0.8, 700)), 0.1)
    >>> int(kept[:300].sum()), bool(kept[300:].all())
    (30, True)
    """
    rare, order = share * len(worth), np.argsort(-worth, kind="stable")
    most = most_of_one(rare, customer.nunique(), part, fewest)
    fits = (ranks(customer, worth) < most)[order]
    kept = np.ones(len(worth), bool)
    kept[order] = fits | (np.cumsum(fits) >= rare)
    return kept


def uncrowded_signals(customer: pd.Series, signals: Floats) -> npt.NDArray[np.bool_]:
    """`uncrowded` by each signal of which some customers have more than `CROWDED`.

    Those of bursts do not count: the counter knows these exactly.
    """
    code, of_bursts = pd.Series(pd.factorize(customer)[0]), FACTORS.index("burst")
    out = np.ones(len(signals), bool)
    for j in np.flatnonzero(np.array(SIGNAL_FACTOR) != of_bursts).tolist():
        kept = uncrowded(code, signals[:, j], part=OF_A_SIGNAL, fewest=FEWEST_OF_A_SIGNAL)
        if (~kept).sum() > CROWDED * RAREST * len(kept):
            out &= kept
    return out


_QUANTILE_LEVELS: Final = np.unique(
    np.concatenate([np.linspace(0, 1, 401), 1 - np.geomspace(1, 1e-6, 601)])
)


def score_levels() -> Floats:
    """Shares of traffic below the ordinates of `score_quantiles_`, from 0 to 1."""
    return _QUANTILE_LEVELS


def _weighed(model: Model, signals: Floats) -> tuple[Floats, Floats, Floats]:
    """Strength, evidence and spread of all rows."""
    strength, evidence = np.empty((2, len(signals), N_FACTORS))
    spread = np.empty((len(signals), N_SIGNALS))
    weigh_all(model, np.ascontiguousarray(signals), strength, evidence, spread)
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
        return np.zeros(STEPS + 1), float(STEPS), 1 / STEPS
    grid = np.linspace(0.0, upper, STEPS + 1)
    at_least = len(ordered) - np.searchsorted(ordered, grid, side="left")
    rise, run = upper - lower, math.log(10.0)
    if rise <= 0:
        rise, run = upper, -math.log(1 - BULK)
    return -np.log(at_least / len(ordered)), STEPS / upper, run / rise * upper / STEPS


def _weights(nats: Floats) -> Floats:
    """Weight of each signal in [0, 1], from recalibrated signals of shape (n, N_SIGNALS).

    Excess: mean excess over the `RANGE`-near quantile, 1 for an exponential tail. Company: mean
    among the rows with the most extreme amounts (of ties all, whatever their order), over the mean
    of all; 1 for independence.
    """
    factor = np.array(SIGNAL_FACTOR)
    amount = nats[:, factor == FACTORS.index("amount")].max(axis=1)
    n_top = max(len(nats) // 200, 20)
    top = amount >= np.partition(amount, -n_top)[-n_top]
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

    A factor's unit is the mean excess of the exponential law with the median of its own excess:
    frauds hardly move it, while they are less than half of the rarest rows. Units are brought to
    their mean; a factor
    that hardly ever gets there has none, and counts as it is.
    """
    units = np.full(evidence.shape[1], np.nan)
    for f in range(evidence.shape[1]):
        beyond = evidence[evidence[:, f] > KNEE, f] - KNEE
        if len(beyond) >= MIN_TAIL:
            units[f] = max(float(np.median(beyond)) / math.log(2.0), MIN_UNIT)
    known = ~np.isnan(units)
    tail = np.ones(len(units))
    tail[known] = units[known].mean() / units[known] if known.any() else 1.0
    return tail
