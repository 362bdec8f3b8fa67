"""How good a ranking is, with its ceiling and its floor.

Every function takes scores where higher is more suspicious. Where a figure is undefined (no fraud,
nothing but fraud, no day) the result is None and never NaN, so that a report can say why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure between what chance reaches (floor) and what is possible (ceiling)."""

    value: float | None
    floor: float | None
    ceiling: float | None


def auc_roc(is_fraud: npt.ArrayLike, score: npt.ArrayLike) -> Figure:
    """Share of pairs of a fraud and an ordinary transaction ranked rightly, in [0, 1].

    Says little where fraud is rare: a thousand false alarms before the first fraud hardly move it.

    >>> auc_roc([0, 0, 1], [0.1, 0.2, 0.9]).value
    1.0
    >>> auc_roc([0, 0, 0], [0.1, 0.2, 0.9]).value is None
    True
    """
    y = np.asarray(is_fraud, bool)
    if not len(y) or y.all() or not y.any():
        return Figure(None, None, None)
    return Figure(float(roc_auc_score(y, score)), 0.5, 1.0)


def average_precision(is_fraud: npt.ArrayLike, score: npt.ArrayLike) -> Figure:
    """Mean precision over the ranks of the frauds, in [0, 1]; the floor is the share of fraud.

    >>> average_precision([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.2]).value
    1.0
    """
    y = np.asarray(is_fraud, bool)
    if not y.any():
        return Figure(None, None, None)
    return Figure(float(average_precision_score(y, score)), float(y.mean()), 1.0)


def precision_at_recall(is_fraud: npt.ArrayLike, score: npt.ArrayLike, levels: Floats) -> Floats:
    """Precision at the highest threshold that reaches each recall of `levels`, each in (0, 1].

    >>> precision_at_recall([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], np.array([0.5, 1.0])).round(3)
    array([1.   , 0.667])
    """
    precision, recall, _ = precision_recall_curve(np.asarray(is_fraud, bool), score)
    at: Floats = precision[::-1][np.searchsorted(recall[::-1], levels - 1e-12)]
    return at


def card_precision_at_k(
    customer: npt.ArrayLike,
    day: npt.ArrayLike,
    is_fraud: npt.ArrayLike,
    score: npt.ArrayLike,
    k: int = 100,
) -> Figure:
    """Share of compromised customers among the `k` most suspicious of each day, mean over days.

    A customer's score is that of the day's most suspicious transaction. One found to be compromised
    is blocked and leaves the later days. The ceiling is reached where each compromised customer is
    found once, at most `k` a day; the floor is that of a ranking by chance without removal.

    References
    ----------
    Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection (2022), ch. 4.

    >>> card_precision_at_k([1, 2, 3], [0, 0, 0], [0, 1, 0], [0.1, 0.9, 0.2], k=2)
    Figure(value=0.5, floor=0.3333333333333333, ceiling=0.5)
    """
    cards = (
        pd.DataFrame(
            {
                "customer": np.asarray(customer),
                "day": np.asarray(day),
                "fraud": np.asarray(is_fraud, bool),
                "score": np.asarray(score, float),
            }
        )
        .groupby(["day", "customer"], as_index=False, sort=True)
        .agg(fraud=("fraud", "max"), score=("score", "max"))
    )
    if not len(cards):
        return Figure(None, None, None)
    found: set[object] = set()
    for _, day in cards.groupby("day"):
        left = day[~day.customer.isin(found)]
        top = left.sort_values("score", ascending=False, kind="stable").head(k)
        found.update(top.customer[top.fraud])
    days = cards.groupby("day").fraud.agg(["mean", "size", "sum"])
    floor = float((days["mean"] * np.minimum(days["size"], k) / k).mean())
    most = min(np.minimum(days["sum"], k).sum(), cards.customer[cards.fraud].nunique())
    return Figure(len(found) / k / len(days), floor, float(most) / k / len(days))


def recall_at_budget(is_fraud: npt.ArrayLike, score: npt.ArrayLike, budget: float) -> Figure:
    """Share of the frauds among the `budget` (a share of all rows) most suspicious, in [0, 1].

    Where equal scores straddle the budget, what drawing among them finds on average.

    >>> recall_at_budget([1, 0, 0, 1], [0.9, 0.1, 0.2, 0.3], 0.25)
    Figure(value=0.5, floor=0.25, ceiling=0.5)
    """
    y, s = np.asarray(is_fraud, bool), np.asarray(score, float)
    if not y.any():
        return Figure(None, None, None)
    n_alerts, n_frauds = int(budget * len(y) + 1e-9), int(y.sum())
    last = np.sort(s)[len(y) - max(n_alerts, 1)]
    above, tied = s > last, s == last
    caught = y[above].sum() + y[tied].mean() * (n_alerts - above.sum())
    return Figure(float(caught) / n_frauds, n_alerts / len(y), min(1.0, n_alerts / n_frauds))


def recall_by_scenario(
    is_fraud: npt.ArrayLike, scenario: pd.Series, alerted: npt.ArrayLike
) -> pd.DataFrame:
    """Frauds, alerts and recall of each scenario, the best caught first.

    Returns
    -------
    DataFrame with columns `scenario`, `frauds`, `caught`, `recall`.
    """
    y = np.asarray(is_fraud, bool)
    table = pd.DataFrame(
        {
            "scenario": scenario.astype("string").fillna("not named").to_numpy()[y],
            "caught": np.asarray(alerted, bool)[y],
        }
    )
    out = table.groupby("scenario").caught.agg(frauds="size", caught="sum").reset_index()
    out["recall"] = out.caught / out.frauds
    return out.sort_values("recall", ascending=False, kind="stable").reset_index(drop=True)
