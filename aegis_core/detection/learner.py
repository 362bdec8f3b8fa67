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
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from aegis_core.detection.detector import Calibrated, Detector, score_levels
from aegis_core.detection.forest import N_SIGNALS, N_TOLD
from aegis_core.detection.trees import (
    FEATURES,
    N_FEATURES,
    NO_TREES,
    Trees,
    attribute_all,
    check,
    flatten,
    judge_all,
)
from aegis_core.errors import InputError
from aegis_core.features.arrays import Floats, Ints, read_arrays, reading, write_arrays
from aegis_core.features.frauds import N_HISTORY
from aegis_core.schema import TOLD_FACTORS

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesClassifier

MIN_FRAUDS: Final = 10
"""Confirmed frauds below which the trees have no say."""
PRIOR_FRAUDS: Final = 30.0
"""Confirmed frauds that the detector's own ranking counts for."""
BACKGROUND: Final = 20
"""Ordinary transactions kept for each confirmed fraud; the rest of them only costs time."""
MIN_BACKGROUND: Final = 2_000
UNKNOWN: Final = -1
"""In an array of answers: nobody said."""

Answer = npt.NDArray[np.int8]


class Learner(Calibrated):
    """Extremely randomised trees on evidence and answers (Geurts et al. 2006).

    Parameters
    ----------
    detector : fitted, of the same training window; the learner carries it.
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
        usual = float(np.nanmedian(amount))
        self.trees_ = NO_TREES._replace(
            trust=np.array([trust]), usual=np.array([usual]), levels=levels, shares=shares
        )
        if enough:
            from sklearn.ensemble import ExtraTreesClassifier

            rows, weight = thinned(answer, self.seed)
            features = self.features(signals[rows], amount[rows], history[rows])
            self.forest_ = ExtraTreesClassifier(
                self.n_trees, min_samples_leaf=3, max_features=0.4, random_state=self.seed
            ).fit(features, answer[rows] == 1, sample_weight=weight)
            self.trees_ = self.trees_._replace(**flatten(self.forest_))
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
        rows, out = _rows(signals, amount, history), np.empty((len(amount), N_FEATURES), np.float32)
        judge_all(self.detector.model_, self.trees_, *rows, out, np.empty(0))
        return out

    def score(self, signals: Floats, amount: Floats, history: Floats) -> Floats:
        """Scores of shape (n,), in (0, 1); higher is more suspicious."""
        rows, out = _rows(signals, amount, history), np.empty(len(amount))
        judge_all(self.detector.model_, self.trees_, *rows, np.empty((0, 0), np.float32), out)
        return out

    def contributions(self, signals: Floats, amount: Floats, history: Floats) -> Floats:
        """Shapley values of shape (n, N_TOLD); each row sums to score − `base_`.

        The columns are `TOLD_FACTORS`. A factor that says nothing gets exactly 0.
        """
        rows, out = _rows(signals, amount, history), np.empty((len(amount), N_TOLD))
        attribute_all(self.detector.model_, self.trees_, *rows, out)
        return out

    def save(self, folder: Path) -> None:
        """Write arrays and JSON into `folder`, the detector's too; loading them runs no code."""
        self.detector.save(folder)
        arrays = {"score_quantiles": self.score_quantiles_, **self.trees_._asdict()}
        write_arrays(folder / "learner.npz", arrays, compress=True)
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
        NotReady : The model is not there, broken, or made for other features.
        """
        detector = Detector.load(folder)
        with reading(f"The learner in {folder}", "Train one with `aegis run train`."):
            parameters = json.loads((folder / "learner.json").read_text())
            arrays = read_arrays(folder / "learner.npz")
            if tuple(parameters["features"]) != FEATURES:
                raise ValueError("it was made for other features")
            self = cls(detector, parameters["n_trees"], parameters["seed"])
            self.base_ = float(parameters["base"])
            self.n_frauds_ = int(parameters["n_frauds"])
            self.n_answers_ = int(parameters["n_answers"])
            self.score_quantiles_ = arrays.pop("score_quantiles")
            self.trees_ = Trees(**arrays)
            check(self.trees_)
        return self


def _rows(signals: Floats, amount: Floats, history: Floats) -> tuple[Floats, Floats, Floats]:
    """The three as compiled code takes them."""
    if not len(amount) == len(signals) == len(history):
        raise ValueError("signals, amount and history must have as many rows as each other.")
    a, b, c = (np.ascontiguousarray(part, np.float64) for part in (signals, amount, history))
    return a, b, c


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
