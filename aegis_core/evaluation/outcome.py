"""What an evaluation found: its figures, tables and sentences.

Each method is one question of someone who has to trust the detector. What the thresholds promised
is asked of `calibration`, what others would have cost of `budgets`, how soon bursts are noticed of
`bursts`, and single transactions of `cases`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd

from aegis_core.detection.counter import Counter
from aegis_core.detection.detector import Detector
from aegis_core.detection.learner import Learner
from aegis_core.evaluation.calibration import alerts_per_day
from aegis_core.evaluation.splits import Fold, typed
from aegis_core.metrics import (
    auc_roc,
    average_precision,
    card_precision_at_k,
    paired_bootstrap,
    precision_at_recall,
    recall_at_budget,
    recall_by_scenario,
)
from aegis_core.runs.lineage import Seen
from aegis_core.schema import FACTORS, Decision

DETECTORS = ("forest", "amount", *(f"factor:{f}" for f in FACTORS), "random")
"""What is compared on every fold: the forest, and what it has to beat."""
FEWEST: Final = 10
"""Labelled frauds below which nothing is judged: one more or less would be another verdict."""
LEARNER: Final = "learner"
"""Beside `DETECTORS` where an evaluation was asked to learn from answers."""


@dataclass
class Evaluation:
    """What the folds gave.

    Attributes
    ----------
    scores :
        One row a tested transaction: `fold`, `seq`, `transaction_id`, `customer_id`, `ts`,
        `amount`, `is_fraud`, `scenario`, `decision`, `risk`, and one column each of `compared`.
    detectors : the fitted model of each fold that `forest` in the scores is of.
    learners : the fitted learner of each fold, where it was asked for.
    notes : sentences about what could not be measured, for the report.
    evidence :
        What the reasons of alerts and frauds are told from, indexed by `seq`; see `cases.evidence`.
    days :
        Alerts of each day of the training and test windows; see `calibration.daily`. Customers left
        out of the test are in.
    counters : the exact counter of each fold, with the thresholds of the forest that leave it room.
    frauds : every `transaction_id` that is labelled as fraud, tested or not.
    currency : the one of the amounts; "" where none or several are named.
    history : all transactions, tested or not.
    saw : all the data that was there, where it came out of a database.
    """

    folds: list[Fold]
    scores: pd.DataFrame
    detectors: list[Detector | Learner]
    n_train: list[int]
    alert_budget: float
    notes: list[str] = field(default_factory=list)
    learners: list[Learner] = field(default_factory=list)
    evidence: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    days: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    counters: list[Counter] = field(default_factory=list, repr=False)
    frauds: pd.Index = field(default_factory=lambda: pd.Index([], dtype="str"), repr=False)
    currency: str = ""
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    saw: Seen | None = None
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
            who, day, fraud = part.customer_id, part.ts.dt.floor("D"), part.is_fraud
            for detector in self.compared:
                score = part[detector]
                figures = {
                    "auc_roc": auc_roc(fraud, score),
                    "average_precision": average_precision(fraud, score),
                    f"card_precision_at_{k}": card_precision_at_k(who, day, fraud, score, k),
                    "recall_at_budget": recall_at_budget(fraud, score, self.alert_budget),
                }
                for name, f in figures.items():
                    rows.append((number, detector, name, f.value, f.floor, f.ceiling))
        names = ["fold", "detector", "name"]
        kinds = dict.fromkeys(("value", "floor", "ceiling"), float)
        return pd.DataFrame(rows, columns=[*names, *kinds]).astype(kinds)

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
        """`detector`, `recall` (.01, .02 … 1), `precision`: the mean of the folds with fraud."""
        levels = np.arange(1, 101) / 100
        parts = [part for _, part in self.scores.groupby("fold") if part.is_fraud.any()]
        if not parts:
            return pd.DataFrame(columns=["detector", "recall", "precision"])
        tables = []
        for detector in self.compared:
            found = [precision_at_recall(p.is_fraud, p[detector], levels) for p in parts]
            curve = {"detector": detector, "recall": levels, "precision": np.mean(found, axis=0)}
            tables.append(pd.DataFrame(curve))
        return pd.concat(tables)

    def recall(self) -> pd.DataFrame:
        """Frauds and recall of each scenario at the policy's own decisions, all folds together."""
        return recall_by_scenario(
            self.scores.is_fraud, self.scores.scenario, self.scores.decision != Decision.APPROVE
        )

    def differences(self, other: str = LEARNER, than: str = "forest") -> pd.DataFrame:
        """Average precision of `other` minus that of `than`, customers drawn 200 times.

        Returns
        -------
        DataFrame with a row a fold and one `all` (the mean of the folds): `fold` (text),
        `difference`, `low`, `high` (nine draws of ten); `<NA>` where it is undefined.
        """
        rows, s = [], self.scores
        for name in [*dict.fromkeys(s.fold), "all"] if other in s and than in s else []:
            part = s if name == "all" else s[s.fold == name]
            told = paired_bootstrap(
                part.is_fraud, part[other], part[than], part.customer_id, within=part.fold
            )
            rows.append((str(name), *told))
        numbers = dict.fromkeys(("difference", "low", "high"), "Float64")
        return typed(rows, {"fold": "str", **numbers})

    def comparison(self, other: str = LEARNER, than: str = "forest") -> str:
        """`differences` in words: whether the one is better, and how sure that is."""
        table = self.differences(other, than).dropna()
        if table.empty:
            return f"The {other} cannot be compared with the {than} here."

        def signed(row: list[float]) -> str:
            return f"{row[0]:+.3f} ({row[1]:+.3f} to {row[2]:+.3f})"

        *folds, whole = table[["difference", "low", "high"]].to_numpy(float).tolist()
        word = "better" if whole[1] > 0 else "worse" if whole[2] < 0 else "neither better nor worse"
        return (
            f"In average precision the {other} is {word} than the {than}: {signed(whole)} over all "
            f"folds, by fold {', '.join(map(signed, folds))}; in brackets nine of ten draws of the "
            "customers."
        )

    def figures(self, k: int = 100) -> dict[tuple[str, str], float | None]:
        """The figures as `runs.record` takes them, by name and slice (detector/fold).

        Figures that could not be computed are left out; `notes` says which. There is none where it
        is `unjudged`.
        """
        if self.unjudged():
            return {}
        table, recall = self.table(k).dropna(subset="value"), self.recall()
        slices = table.detector + "/" + table.fold.astype(str)
        found = dict(zip(zip(table.name, slices, strict=True), table.value, strict=True))
        by_scenario = zip(recall.scenario, recall.recall, strict=True)
        return found | {("recall", f"forest/{scenario}"): value for scenario, value in by_scenario}

    def long_scores(self) -> pd.DataFrame:
        """The scores as rows of `evaluation_scores`: `transaction_id`, `detector`, `score`."""
        return self.scores.melt(
            "transaction_id", list(self.compared), var_name="detector", value_name="score"
        )

    def unjudged(self) -> str:
        """Why nothing is judged, in one sentence; "" where there are labels enough."""
        if not self.folds:
            return "Nothing was tested."
        frauds = int(self.scores.is_fraud.sum())
        return "" if frauds >= FEWEST else (
            f"Too few labels to judge: {frauds} of {len(self.scores):,} payments in the test "
            f"windows are labelled as fraud, and {FEWEST} would do."
        )  # fmt: skip

    def summary(self) -> str:
        """The bottom line in one sentence: the forest beside the best single factor."""
        if unjudged := self.unjudged():
            return unjudged
        t = self.table()
        ap = t[t.name == "average_precision"].groupby("detector").value.mean().dropna()
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
        days = alerts_per_day(self.scores, self.folds)
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
