"""The learner: what answers teach, on top of what needs none.

scikit-learn's ExtraTreesClassifier on the amount, the signals, the detector's evidence and score,
and what `answers` remembers of merchant and customer. Transactions that nobody answered count as
ordinary, thinned to a background: fraud is rare, so few of them are wrong. The trees are flattened
into arrays that a compiled kernel walks: equal to `predict_proba` to 1e-12.

The score leans on the detector's own ranking as long as confirmed frauds are few:
`score = trust * p + (1 - trust) * q`, where `trust = n / (n + PRIOR_FRAUDS)` for n confirmed frauds
in the training window, `p` is the share of trees' votes for fraud and `q` the detector's score
squeezed so that it halves with each `ALERT_SHARE` of traffic. Below `MIN_FRAUDS` trust is 0 and the
learner ranks exactly as the detector does.

When it fails: a kind of fraud that was never confirmed, because nobody was asked about it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier

from aegis_core.answers import HISTORY, N_HISTORY, N_OF_EACH
from aegis_core.detector import (
    LANES,
    N_FACTORS,
    N_SIGNALS,
    Detector,
    Model,
    isolate,
    score_levels,
    weigh,
)
from aegis_core.errors import InputError, NotReady
from aegis_core.kernels import kernel
from aegis_core.profiles import SIGNAL_FACTOR, SIGNALS, Floats, Ints
from aegis_core.schema import FACTORS, TOLD_FACTORS

FEATURES: Final = (
    "log_amount",
    *SIGNALS,
    *(f"evidence_{f}" for f in FACTORS),
    "total",
    "score",
    *HISTORY,
)
"""Columns that the trees are grown on."""

N_TOLD: Final = len(TOLD_FACTORS)
N_FEATURES: Final = len(FEATURES)
MIN_FRAUDS: Final = 10
"""Confirmed frauds below which the trees have no say."""
PRIOR_FRAUDS: Final = 30.0
"""Confirmed frauds that the detector's own ranking counts for."""
ALERT_SHARE: Final = 0.005
BACKGROUND: Final = 20
"""Ordinary transactions kept for each confirmed fraud; the rest of them only costs time."""
MIN_BACKGROUND: Final = 2_000
UNKNOWN: Final = -1
"""In an array of answers: nobody said."""

_MERCHANT, _CUSTOMER = N_FACTORS, N_FACTORS + 1
_TINY: Final = 1e-3  # of the detector's score itself: no two ranks of it fall together

Answer = npt.NDArray[np.int8]


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
    features[0] = math.log(amount)
    at = 1 + N_SIGNALS
    features[1:at] = signals
    features[at : at + N_FACTORS] = evidence
    features[at + N_FACTORS] = evidence.sum()
    features[at + N_FACTORS + 1] = score
    features[at + N_FACTORS + 2 :] = history


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
    scratch: npt.NDArray[np.float32],
    lanes: Ints,
    features: npt.NDArray[np.float32],
) -> float:
    """Score of one transaction, in (0, 1): the learner's, or the detector's with `NO_TREES`.

    `evidence` is what `weigh` wrote; `features`, of shape (N_FEATURES,), is filled for a learner.
    """
    score = isolate(model, evidence, scratch, lanes)
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
def _judge_all(
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
    scratch, nothing = np.empty(1 + N_FACTORS, np.float32), np.empty(0)
    lanes, one_row = np.empty(LANES, np.int64), np.empty(N_FEATURES, np.float32)
    for i in range(len(amount)):
        row = features[i] if len(features) > 0 else one_row
        weigh(model, signals[i], strength, evidence, nothing)
        score = rate(
            model, trees, signals[i], amount[i], history[i], evidence, scratch, lanes, row
        )  # fmt: skip
        if len(out) > 0:
            out[i] = score


@kernel
def _attribute_all(
    model: Model,
    trees: Trees,
    signals: Floats,
    amount: Floats,
    history: Floats,
    contributions: Floats,
) -> None:
    """Write the Shapley values of the factors against a usual amount without any evidence."""
    strength, evidence = np.empty(N_FACTORS), np.empty(N_FACTORS)
    scratch, nothing = np.empty(1 + N_FACTORS, np.float32), np.empty(0)
    lanes, row = np.empty(LANES, np.int64), np.empty(N_FEATURES, np.float32)
    part, past, kept = np.empty(N_SIGNALS), np.empty(N_HISTORY), np.empty(N_TOLD)
    active, worth = np.empty(N_TOLD, np.int64), np.empty(1 << N_TOLD)
    contributions[:] = 0.0
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
            worth[subset] = rate(
                model, trees, part, money, past, evidence, scratch, lanes, row
            )  # fmt: skip
        for a in range(k):
            for subset in range(1 << k):
                if subset >> a & 1 == 0:
                    size = 0
                    for j in range(k):
                        size += subset >> j & 1
                    ways = (
                        math.gamma(size + 1.0) * math.gamma(float(k - size)) / math.gamma(k + 1.0)
                    )
                    gain = worth[subset | 1 << a] - worth[subset]
                    contributions[i, active[a]] += ways * gain


class Learner:
    """Extremely randomised trees on evidence and answers (Geurts et al. 2006).

    Parameters
    ----------
    detector :
        Fitted, of the same training window; the learner carries it.
    n_trees, seed :
        Of the ExtraTreesClassifier. The same rows, answers and seed give the same learner.

    Attributes
    ----------
    trees_ : what the kernel reads.
    forest_ : the fitted ExtraTreesClassifier; None after `load` or without enough frauds.
    n_frauds_, n_answers_ : in the training window.
    base_ : score of a usual amount without any evidence.
    score_quantiles_ : ordinates of recent scores, for `risk` and the thresholds.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> signals, amount = rng.exponential(size=(2000, N_SIGNALS)), rng.lognormal(size=2000)
    >>> history, answer = np.zeros((2000, N_HISTORY)), np.zeros(2000, np.int8)
    >>> history[:40, 0] = answer[:40] = 1
    >>> learner = Learner(Detector().fit(signals)).fit(signals, amount, history, answer)
    >>> score = learner.score(signals, amount, history)
    >>> bool(score[:40].min() > score[40:].max())
    True
    """

    trees_: Trees
    base_: float
    n_frauds_: int
    n_answers_: int
    score_quantiles_: Floats

    def __init__(self, detector: Detector, n_trees: int = 100, seed: int = 0) -> None:
        if n_trees < 1:
            raise InputError(f"n_trees must be at least 1, not {n_trees}.")
        self.detector, self.n_trees, self.seed = detector, n_trees, seed
        self.forest_: ExtraTreesClassifier | None = None

    def fit(self, signals: Floats, amount: Floats, history: Floats, answer: Answer) -> Learner:
        """Learn from the training window.

        Parameters
        ----------
        signals, amount, history :
            Of shape (n, N_SIGNALS), (n,) and (n, N_HISTORY), as the pass gave them.
        answer :
            Of shape (n,): 1 fraud, 0 ordinary, `UNKNOWN`. Only what was known when the learner
            is trained belongs here.
        """
        known = self.detector.score_quantiles_
        rising = np.concatenate([np.diff(known) > 0, [True]])
        levels, shares = known[rising], (1 - score_levels())[rising]
        self.n_frauds_ = int((answer == 1).sum())
        self.n_answers_ = int((answer != UNKNOWN).sum())
        enough = self.n_frauds_ >= MIN_FRAUDS and (answer != 1).any()
        trust = self.n_frauds_ / (self.n_frauds_ + PRIOR_FRAUDS) if enough else 0.0
        usual = float(np.median(amount))
        self.trees_ = NO_TREES._replace(
            trust=np.array([trust]), usual=np.array([usual]), levels=levels, shares=shares
        )
        if enough:
            rows, weight = thinned(answer, self.seed)
            features = self.features(signals[rows], amount[rows], history[rows])
            self.forest_ = ExtraTreesClassifier(
                self.n_trees, min_samples_leaf=3, max_features=0.4, random_state=self.seed
            ).fit(features, answer[rows] == 1, sample_weight=weight)
            self.trees_ = self.trees_._replace(**_flatten(self.forest_))
        nothing = np.zeros((1, N_SIGNALS)), np.array([usual]), np.zeros((1, N_HISTORY))
        self.base_ = float(self.score(*nothing)[0])
        return self.calibrate(signals, amount, history)

    def calibrate(self, signals: Floats, amount: Floats, history: Floats) -> Learner:
        """Take the quantiles for `risk` and thresholds from other traffic.

        Trees are sure of the rows they were grown on: traffic that came after the training window
        (nobody has to have answered it) gives thresholds that keep an alert budget.
        """
        scores = np.sort(self.score(signals, amount, history))
        self.score_quantiles_ = np.quantile(scores, score_levels(), method="higher")
        return self

    def features(self, signals: Floats, amount: Floats, history: Floats) -> npt.NDArray[np.float32]:
        """What the trees are grown on, of shape (n, N_FEATURES)."""
        out = np.empty((len(amount), N_FEATURES), np.float32)
        self._judge(signals, amount, history, out, np.empty(0))
        return out

    def score(self, signals: Floats, amount: Floats, history: Floats) -> Floats:
        """Scores of shape (n,), in (0, 1); higher is more suspicious."""
        out = np.empty(len(amount))
        self._judge(signals, amount, history, np.empty((0, N_FEATURES), np.float32), out)
        return out

    def contributions(self, signals: Floats, amount: Floats, history: Floats) -> Floats:
        """Shapley values of shape (n, N_TOLD); each row sums to score − `base_`.

        The columns are `TOLD_FACTORS`. A factor that says nothing gets exactly 0.
        """
        out = np.empty((len(amount), N_TOLD))
        _attribute_all(self.detector.model_, self.trees_, *_rows(signals, amount, history), out)
        return out

    def risk(self, score: Floats) -> Floats:
        """Percentile of `score` among the traffic of `calibrate`, in [0, 100]."""
        q = self.score_quantiles_
        rising = np.concatenate([[True], np.diff(q) > 0])
        risk: Floats = np.interp(score, q[rising], score_levels()[rising], left=0.0, right=1.0)
        return 100.0 * risk

    def threshold(self, share: float) -> float:
        """Score that at most `share` of the traffic of `calibrate` lies strictly above."""
        return float(self.score_quantiles_[np.searchsorted(score_levels(), 1 - share)])

    def save(self, folder: Path) -> None:
        """Write arrays and JSON into `folder`, the detector's too; loading them runs no code."""
        self.detector.save(folder)
        with (folder / "learner.npz").open("wb") as f:
            np.savez_compressed(f, score_quantiles=self.score_quantiles_, **self.trees_._asdict())
        parameters = {
            "n_trees": self.n_trees,
            "seed": self.seed,
            "base": self.base_,
            "n_frauds": self.n_frauds_,
            "n_answers": self.n_answers_,
            "factors": TOLD_FACTORS,
            "features": FEATURES,
        }
        (folder / "learner.json").write_text(json.dumps(parameters, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Learner:
        """Read what `save` wrote.

        Raises
        ------
        NotReady
            The model is not there, broken, or made for other features.
        """
        detector = Detector.load(folder)
        try:
            parameters = json.loads((folder / "learner.json").read_text())
            with (folder / "learner.npz").open("rb") as f, np.load(f, allow_pickle=False) as z:
                arrays = {name: z[name] for name in z.files}
            if tuple(parameters["features"]) != FEATURES:
                raise ValueError("it was made for other features")
            self = cls(detector, parameters["n_trees"], parameters["seed"])
            self.base_ = float(parameters["base"])
            self.n_frauds_ = int(parameters["n_frauds"])
            self.n_answers_ = int(parameters["n_answers"])
            self.score_quantiles_ = arrays.pop("score_quantiles")
            self.trees_ = Trees(**arrays)
            _check(self.trees_)
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as e:
            raise NotReady(
                f"The learner in {folder} cannot be read ({e}). Train one with `aegis run train`."
            ) from None
        return self

    def _judge(
        self,
        signals: Floats,
        amount: Floats,
        history: Floats,
        features: npt.NDArray[np.float32],
        out: Floats,
    ) -> None:
        if not len(amount) == len(signals) == len(history):
            raise ValueError("signals, amount and history must have as many rows as each other.")
        rows = _rows(signals, amount, history)
        _judge_all(self.detector.model_, self.trees_, *rows, features, out)


def _rows(signals: Floats, amount: Floats, history: Floats) -> tuple[Floats, Floats, Floats]:
    return (
        np.ascontiguousarray(signals, np.float64),
        np.ascontiguousarray(amount, np.float64),
        np.ascontiguousarray(history, np.float64),
    )


def thinned(answer: Answer, seed: int) -> tuple[Ints, Floats]:
    """Rows to learn from and their weights: all that were answered, and a thinned background.

    An answered transaction is kept, unless nearly all are answered: of the ordinary and the
    unknown ones together no more than `BACKGROUND` for each fraud stay, each counting for those
    that went.

    >>> rows, weight = thinned(np.repeat(np.array([1, 0], np.int8), [10, 90_000]), seed=0)
    >>> len(rows), float(weight.sum())
    (2010, 90010.0)
    """
    rng = np.random.default_rng(seed)
    frauds = np.flatnonzero(answer == 1)
    room = max(BACKGROUND * len(frauds), MIN_BACKGROUND)
    cleared, unknown = np.flatnonzero(answer == 0), np.flatnonzero(answer == UNKNOWN)
    n_cleared = min(len(cleared), room // 2 if len(unknown) else room)
    n_unknown = min(len(unknown), room - n_cleared)
    parts = [(frauds, len(frauds)), (cleared, n_cleared), (unknown, n_unknown)]
    rows = np.concatenate([rng.choice(part, n, replace=False) for part, n in parts])
    weight = np.concatenate([np.full(n, len(part) / max(n, 1)) for part, n in parts])
    order = np.argsort(rows)
    return rows[order], weight[order]


def _flatten(forest: ExtraTreesClassifier) -> dict[str, np.ndarray]:
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


def _check(trees: Trees) -> None:
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
