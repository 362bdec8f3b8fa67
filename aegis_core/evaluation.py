"""Prequential evaluation: train on a window, wait for the labels, test on the next one; again.

Each fold does what would have happened: profiles learn every transaction in order of arrival, the
detector is fitted on the training window's signals, and from the first test transaction on the
live `Scorer` decides, with the consequences that a block has for the profiles. A random split would
let a customer's fraud of Tuesday teach what is found on Monday.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd

from aegis_core import answers
from aegis_core.detector import MIN_TRAIN, Detector
from aegis_core.errors import NotReady
from aegis_core.learner import MIN_FRAUDS, Learner
from aegis_core.learning import answered
from aegis_core.metrics import (
    Figure,
    auc_roc,
    average_precision,
    card_precision_at_k,
    precision_at_recall,
    recall_at_budget,
    recall_by_scenario,
)
from aegis_core.policy import Policy
from aegis_core.profiles import Floats
from aegis_core.schema import FACTORS, Decision
from aegis_core.scoring import Decisions, Scorer
from aegis_core.splits import Fold, cut_at, cuts, known_compromised, microseconds

DETECTORS = ("forest", "amount", *(f"factor:{f}" for f in FACTORS), "random")
"""What is compared on every fold: the forest, and what it has to beat."""
LEARNER: Final = "learner"
"""Beside `DETECTORS` where an evaluation was asked to learn from answers."""


@dataclass
class Evaluation:
    """What the folds gave.

    Attributes
    ----------
    scores :
        One row a tested transaction: `fold`, `seq`, `transaction_id`, `customer_id`, `ts`,
        `amount`, `is_fraud`, `scenario`, `decision`, and one column each of `compared`.
    detectors :
        The fitted detector of each fold.
    learners :
        The fitted learner of each fold, where it was asked for.
    notes :
        Sentences about what could not be measured, for the report.
    """

    folds: list[Fold]
    scores: pd.DataFrame
    detectors: list[Detector]
    n_train: list[int]
    alert_budget: float
    notes: list[str] = field(default_factory=list)
    learners: list[Learner] = field(default_factory=list)
    _tables: dict[int, pd.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def compared(self) -> tuple[str, ...]:
        """`DETECTORS`, and the learner where it was asked for."""
        return (LEARNER, *DETECTORS) if self.learners else DETECTORS

    def table(self, k: int = 100) -> pd.DataFrame:
        """Every figure: columns `fold`, `detector`, `name`, `value`, `floor`, `ceiling`."""
        if k not in self._tables:
            self._tables[k] = self._measured(k)
        return self._tables[k].copy()

    def _measured(self, k: int) -> pd.DataFrame:
        rows = []
        for number, part in self.scores.groupby("fold"):
            day = part.ts.dt.floor("D")
            for detector in self.compared:
                figures = {
                    "auc_roc": auc_roc(part.is_fraud, part[detector]),
                    "average_precision": average_precision(part.is_fraud, part[detector]),
                    f"card_precision_at_{k}": card_precision_at_k(
                        part.customer_id, day, part.is_fraud, part[detector], k
                    ),
                    "recall_at_budget": recall_at_budget(
                        part.is_fraud, part[detector], self.alert_budget
                    ),
                }
                for name, f in figures.items():
                    rows.append((number, detector, name, f.value, f.floor, f.ceiling))
        return pd.DataFrame(
            rows, columns=["fold", "detector", "name", "value", "floor", "ceiling"]
        ).astype({"value": float, "floor": float, "ceiling": float})

    def windows(self) -> pd.DataFrame:
        """One row a fold: its windows, ends excluded, and what they hold."""
        tested = self.scores.groupby("fold").is_fraud.agg(["size", "sum"])
        tested = tested.reindex([f.number for f in self.folds], fill_value=0)
        return pd.DataFrame(
            {
                "train from": [f.train_from.round("s") for f in self.folds],
                "train to": [f.train_to.round("s") for f in self.folds],
                "training transactions": self.n_train,
                "test from": [f.test_from.round("s") for f in self.folds],
                "test to": [f.test_to.round("s") for f in self.folds],
                "test transactions": tested["size"],
                "frauds": tested["sum"],
            },
            index=tested.index,
        )

    def curves(self) -> pd.DataFrame:
        """Precision at each hundredth of recall, mean over the folds that have fraud.

        Returns
        -------
        DataFrame with columns `detector`, `recall`, `precision`.
        """
        levels = np.arange(1, 101) / 100
        parts = [part for _, part in self.scores.groupby("fold") if part.is_fraud.any()]
        return pd.concat(
            pd.DataFrame(
                {
                    "detector": detector,
                    "recall": levels if parts else [],
                    "precision": np.mean(
                        [precision_at_recall(p.is_fraud, p[detector], levels) for p in parts],
                        axis=0,
                    )
                    if parts
                    else [],
                }
            )
            for detector in self.compared
        )

    def cases(self, n: int = 5, seed: int = 0) -> pd.DataFrame:
        """`n` frauds that were caught, `n` that were missed and `n` false alarms, by chance."""
        s = self.scores
        alert = s.decision != Decision.APPROVE
        kinds = {
            "caught": s.is_fraud & alert,
            "missed": s.is_fraud & ~alert,
            "false alarm": ~s.is_fraud & alert,
        }
        drawn = [
            s[chosen].sample(min(n, int(chosen.sum())), random_state=seed).assign(outcome=name)
            for name, chosen in kinds.items()
        ]
        shown = pd.concat(drawn)
        columns = ["outcome", "transaction_id", "customer_id", "ts", "amount", "scenario"]
        return pd.DataFrame(
            {
                **{c: shown[c] for c in columns},
                "ts": shown.ts.dt.strftime("%Y-%m-%d %H:%M"),
                "scenario": shown.scenario.astype("string").fillna(""),
                "score": shown.forest.round(3),
                **{f"{f} (nats)": shown[f"factor:{f}"].round(1) for f in FACTORS},
            }
        ).reset_index(drop=True)

    def recall(self) -> pd.DataFrame:
        """Frauds and recall of each scenario at the policy's own decisions, all folds together."""
        return recall_by_scenario(
            self.scores.is_fraud, self.scores.scenario, self.scores.decision != Decision.APPROVE
        )

    def alerts_per_day(self) -> pd.DataFrame:
        """Per day: `transactions`, `alerts`, `blocks`, `frauds`, `caught`."""
        s = self.scores
        alert = s.decision != Decision.APPROVE
        return (
            pd.DataFrame(
                {
                    "day": s.ts.dt.floor("D"),
                    "transactions": 1,
                    "alerts": alert.astype(int),
                    "blocks": (s.decision == Decision.BLOCK).astype(int),
                    "frauds": s.is_fraud.astype(int),
                    "caught": (alert & s.is_fraud).astype(int),
                }
            )
            .groupby("day", as_index=False)
            .sum()
        )

    def metrics(self, k: int = 100) -> pd.DataFrame:
        """The figures as rows of the table `metrics`: `name`, `slice` (detector/fold), `value`.

        Figures that could not be computed are left out; `notes` says which.
        """
        table = self.table(k)
        main = table.assign(slice=table.detector + "/" + table.fold.astype(str))
        recall = self.recall()
        by_scenario = pd.DataFrame(
            {
                "name": "recall",
                "slice": "forest/" + recall.scenario.astype(str),
                "value": recall.recall,
            }
        )
        columns = ["name", "slice", "value"]
        return pd.concat([main[columns], by_scenario[columns]]).dropna(subset="value")

    def long_scores(self) -> pd.DataFrame:
        """The scores as rows of `evaluation_scores`: `transaction_id`, `detector`, `score`."""
        return self.scores.melt(
            id_vars="transaction_id",
            value_vars=list(self.compared),
            var_name="detector",
            value_name="score",
        )

    def summary(self) -> str:
        """The bottom line in one sentence: the forest beside the best single factor."""
        t = self.table()
        ap = t[t.name == "average_precision"].groupby("detector").value.mean().dropna()
        if not self.folds:
            return "Nothing was tested."
        if ap.empty:
            return "No fraud is labelled in the test windows, so nothing can be measured."
        singles = ap.drop(["forest", "random", LEARNER], errors="ignore")
        best = str(singles.idxmax())
        word = "ahead of" if ap["forest"] >= singles[best] else "BEHIND"
        floor = t[t.name == "average_precision"].floor.mean()
        return (
            f"Average precision of the forest: {ap['forest']:.3f}, {word} the best single "
            f"detector ({best}, {singles[best]:.3f}); by chance {floor:.4f}, at best 1."
            + (f" With answers, the learner: {ap[LEARNER]:.3f}." if LEARNER in ap else "")
        )

    def price(self) -> str:
        """What the alerts of the test windows cost and brought, in one sentence."""
        days = self.alerts_per_day()
        if days.empty:
            return "There was no test window, and so no alert."
        alerts, caught, frauds = (int(days[c].sum()) for c in ("alerts", "caught", "frauds"))
        told = f"The policy raised {alerts / len(days):.1f} alerts a day"
        if not caught:
            return f"{told}, none of them a known fraud."
        return (
            f"{told}, {caught / alerts:.0%} of them fraud, and caught {caught:,} of {frauds:,} "
            f"frauds ({caught / frauds:.0%}): {(alerts - caught) / caught:.1f} false alarms for "
            "each fraud caught."
        )

    def accuracy(self) -> str:
        """How often never alerting is right, and how often the policy: a warning, in one sentence.

        Both are high wherever fraud is rare, whatever was caught.
        """
        s = self.scores
        if s.empty:
            return "Nothing was tested."
        never, policy = (~s.is_fraud).mean(), (s.is_fraud == (s.decision > 0)).mean()
        return (
            f"Never raising an alert is right for {never:.2%} of the transactions, the forest with "
            f"its thresholds for {policy:.2%}."
        )


def evaluate(
    frame: pd.DataFrame,
    labels: pd.DataFrame,
    folds: Sequence[Fold],
    *,
    alert_budget: float = 0.005,
    block_share: float = 0.2,
    exclude_known: bool = False,
    learner: bool = False,
    seed: int = 0,
    recorded: Decisions | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Run the folds over a history.

    Parameters
    ----------
    frame :
        All transactions in order of arrival, from the first on: what comes before the first
        training window teaches the profiles.
    labels :
        `transaction_id`, `is_fraud`, `scenario`, `known_at`; a transaction without a label counts
        as ordinary.
    exclude_known :
        Leave out, day by day, customers already known as compromised (`known_compromised`).
    learner :
        Also learn from the labels, each from its `known_at` on: what is known when a test window
        begins trains the learner, what becomes known during it is history to it.
    recorded :
        Decisions given when the transactions came; see `Scorer.run`.
    progress :
        Called with the number of transactions done since the last call.

    Raises
    ------
    NotReady
        A training or test window holds too few transactions.
    """
    if not folds:
        return Evaluation([], _untested(frame), [], [], alert_budget)
    ts = frame["ts"].to_numpy("datetime64[us]").astype(np.int64)
    truth = frame[["transaction_id", "customer_id", "ts"]].merge(
        labels.drop_duplicates("transaction_id", keep="last"), on="transaction_id", how="left"
    )
    truth["is_fraud"] = truth.is_fraud.eq(True).fillna(False).astype(bool)
    teacher = Scorer()
    if learner:
        teacher.answers = answers.Answers()
        teacher.answers.tell(answers.of(frame, labels))
    learnt = 0
    first_kept = cut_at(ts, min(f.train_from for f in folds))
    signals: list[Floats] = []
    history: list[Floats] = []
    parts, detectors, learners, n_train, notes = [], [], [], [], []
    for fold in folds:
        start, stop = cut_at(ts, fold.test_from), cut_at(ts, fold.test_to)
        for a, b in cuts(learnt, start, first_kept):
            past = None if recorded is None else recorded[a:b]
            out = teacher.run(
                frame.iloc[a:b], recorded=past, signals=a >= first_kept, progress=progress
            )
            if a >= first_kept:
                signals.append(out.signals)
                history.append(out.history)
        learnt = max(learnt, start)
        seen = np.concatenate(signals) if signals else np.empty((0, 0))
        window = ts[first_kept:learnt]
        chosen = (window >= microseconds(fold.train_from)) & (window < microseconds(fold.train_to))
        if stop <= start or not chosen.any():
            raise NotReady(
                f"Fold {fold.number} has {int(chosen.sum()):,} transactions to train on "
                f"({fold.train_from:%Y-%m-%d} to {fold.train_to:%Y-%m-%d}) and "
                f"{max(0, stop - start):,} to test on ({fold.test_from:%Y-%m-%d} to "
                f"{fold.test_to:%Y-%m-%d}); the history covers {frame.ts.min()} to "
                f"{frame.ts.max()}."
            )
        detector = Detector(seed=seed).fit(seen[chosen])
        policy = Policy.from_budget(detector, alert_budget, block_share)
        live = Scorer(
            detector, policy, teacher.profiles.copy(),
            None if teacher.answers is None else teacher.answers.copy(),
        )  # fmt: skip
        rows = frame.iloc[start:stop]
        scored = live.run(rows, signals=learner, progress=progress)
        part = pd.DataFrame(
            {
                "fold": fold.number,
                "seq": rows.seq.to_numpy(),
                "transaction_id": rows.transaction_id.to_numpy(),
                "customer_id": rows.customer_id.to_numpy(),
                "ts": rows.ts.to_numpy(),
                "is_fraud": truth.is_fraud.to_numpy()[start:stop],
                "scenario": truth.scenario.to_numpy()[start:stop],
                "decision": scored.decision,
                "forest": scored.score,
                "amount": rows.amount.to_numpy(),
                **{f"factor:{f}": scored.strength[:, i] for i, f in enumerate(FACTORS)},
                "random": np.random.default_rng([seed, fold.number]).random(len(rows)),
            }
        )
        if learner:
            money, told = frame["amount"].to_numpy(float), np.concatenate(history)
            answer = answered(frame.iloc[first_kept:learnt][chosen], labels, fold.test_from)
            taught = Learner(detector, seed=seed).fit(
                seen[chosen], money[first_kept:learnt][chosen], told[chosen], answer
            )
            later = window >= microseconds(fold.train_to)
            if later.sum() >= MIN_TRAIN:
                taught.calibrate(seen[later], money[first_kept:learnt][later], told[later])
            part[LEARNER] = taught.score(scored.signals, money[start:stop], scored.history)
            learners.append(taught)
            if taught.n_frauds_ < MIN_FRAUDS:
                notes.append(
                    f"Fold {fold.number}: {taught.n_frauds_} frauds of the training window were "
                    f"known by {fold.test_from:%Y-%m-%d}; below {MIN_FRAUDS} the learner ranks as "
                    "the forest does."
                )
        keep = ((part.ts >= fold.test_from) & (part.ts < fold.test_to)).to_numpy()
        if exclude_known:
            keep = keep & ~known_compromised(part, truth, fold.train_from)
        part = part[keep]
        if not part.is_fraud.any():
            notes.append(
                f"Fold {fold.number} ({fold.test_from:%Y-%m-%d} to {fold.test_to:%Y-%m-%d}) has no "
                "labelled fraud: recall and precision are undefined there."
            )
        parts.append(part)
        detectors.append(detector)
        n_train.append(int(chosen.sum()))
    return Evaluation(
        list(folds), pd.concat(parts, ignore_index=True), detectors, n_train, alert_budget, notes,
        learners,
    )  # fmt: skip


def mean_and_spread(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the folds of `Evaluation.table`, one row a detector."""
    by = table.groupby(["name", "detector"], sort=False)
    mean = by[["value", "floor", "ceiling"]].mean()
    mean["spread"] = by["value"].std(ddof=0)
    return mean.reset_index()


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """`Evaluation.table` for people: a row a detector, a column a figure, mean ± spread as text.

    The rows `by chance` and `at best` are floor and ceiling of the same folds. A single fold has no
    spread. What could not be measured is a dash, and so is a figure of which even the best order
    reaches nothing.
    """
    several = len(table["fold"].unique()) > 1
    shown = {}
    for name, part in mean_and_spread(table).groupby("name", sort=False):
        values = zip(part["value"], part["spread"], strict=True)
        texts = [f"{v:.3f}" + (f" ± {s:.3f}" if several else "") for v, s in values]
        column = {
            **dict(zip(part["detector"], texts, strict=True)),
            "by chance": f"{part['floor'].mean():.3f}",
            "at best": f"{part['ceiling'].mean():.3f}",
        }
        told = part["ceiling"].max() > 0
        shown[str(name).replace("_", " ")] = {
            key: text if told and "nan" not in text else "–" for key, text in column.items()
        }
    return pd.DataFrame(shown).rename_axis("detector")


def _untested(frame: pd.DataFrame) -> pd.DataFrame:
    """`Evaluation.scores` without rows."""
    kinds = {"fold": int, "is_fraud": bool, "scenario": str, "decision": np.int8}
    kinds |= dict.fromkeys((d for d in DETECTORS if d != "amount"), float)
    known = frame.loc[:, ["seq", "transaction_id", "customer_id", "ts", "amount"]].head(0)
    return known.assign(**{name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def figure_text(f: Figure, digits: int = 3) -> str:
    """A figure with its floor and ceiling in words.

    >>> figure_text(Figure(0.5, 0.01, 0.9))
    '0.500 (chance 0.010, at best 0.900)'
    """
    if f.value is None:
        return "undefined"
    return f"{f.value:.{digits}f} (chance {f.floor:.{digits}f}, at best {f.ceiling:.{digits}f})"
