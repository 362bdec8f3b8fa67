"""How good a ranking is, with its ceiling and its floor.

Every function takes scores where higher is more suspicious. Where a figure is undefined (no fraud,
nothing but fraud, no day) the result is None and never NaN, so that a report can say why. SciPy and
scikit-learn take a second to import, and whoever asks for a share does not wait for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Figure:
    """A figure between what chance reaches (floor) and what is possible (ceiling)."""

    value: float | None
    floor: float | None
    ceiling: float | None


class Interval(NamedTuple):
    """An estimate between the ends of its interval; what is undefined is None."""

    value: float | None
    low: float | None
    high: float | None


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
    from sklearn.metrics import roc_auc_score

    return Figure(float(roc_auc_score(y, score)), 0.5, 1.0)


def average_precision(is_fraud: npt.ArrayLike, score: npt.ArrayLike) -> Figure:
    """Mean precision over the ranks of the frauds, in [0, 1]; the floor is the share of fraud.

    >>> average_precision([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.2]).value
    1.0
    """
    y = np.asarray(is_fraud, bool)
    if not y.any():
        return Figure(None, None, None)
    from sklearn.metrics import average_precision_score

    return Figure(float(average_precision_score(y, score)), float(y.mean()), 1.0)


def precision_at_recall(is_fraud: npt.ArrayLike, score: npt.ArrayLike, levels: Floats) -> Floats:
    """Precision at the highest threshold that reaches each recall of `levels`, each in (0, 1].

    >>> precision_at_recall([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], np.array([0.5, 1.0])).round(3)
    array([1.   , 0.667])
    """
    from sklearn.metrics import precision_recall_curve

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


def families(scenario: pd.Series) -> pd.Series:
    """The kind of each scenario, without the single incident that may stand behind a colon.

    >>> families(pd.Series(["testing:2026-03-05-1", "night", None])).tolist()
    ['testing', 'night', <NA>]
    """
    return scenario.astype("string").str.replace(":.*", "", regex=True)


def recall_by_scenario(
    is_fraud: npt.ArrayLike, scenario: pd.Series, alerted: npt.ArrayLike
) -> pd.DataFrame:
    """`scenario` (its `families`), `frauds`, `caught` and `recall`, the best caught first."""
    y = np.asarray(is_fraud, bool)
    table = pd.DataFrame(
        {
            "scenario": families(scenario).fillna("not named").to_numpy()[y],
            "caught": np.asarray(alerted, bool)[y],
        }
    )
    out = table.groupby("scenario").caught.agg(frauds="size", caught="sum").reset_index()
    out["recall"] = out.caught / out.frauds
    return out.sort_values("recall", ascending=False, kind="stable").reset_index(drop=True)


def daily_counts(
    ts: pd.Series,
    chosen: npt.ArrayLike,
    start: pd.Timestamp | None = None,
    end: pd.Timestamp | None = None,
) -> Floats:
    """How many rows are `chosen` on each day between `start` and `end`, a day without any as 0.

    Days are 24 hours long and begin at `start`; hours behind the last whole day do not count. A
    window shorter than a day is taken as if it went on like this for a day.

    `ts` is in any order, `chosen` (bool) of its shape; the window is by default that between the
    midnights around all of `ts`.

    >>> ts = pd.Series(pd.to_datetime(["2026-01-01 08:00", "2026-01-03 09:00", "2026-01-03 10:00"]))
    >>> daily_counts(ts, [True, True, True]).tolist()
    [1.0, 0.0, 2.0]
    """
    if ts.empty and (start is None or end is None):
        return np.zeros(0)
    day = pd.Timedelta(days=1)
    start = ts.min().floor("D") if start is None else start
    end = (ts.max() + pd.Timedelta(microseconds=1)).ceil("D") if end is None else end
    length = (end - start) / day
    n_days = max(int(length + 1e-9), 1)
    seconds = (ts[np.asarray(chosen, bool)] - start).dt.total_seconds().to_numpy(float)
    at = np.floor(seconds / day.total_seconds())
    inside = at[(at >= 0) & (at < n_days)].astype(np.int64)
    return np.bincount(inside, minlength=n_days) / min(1.0, length)


def predictive_interval(counts: Floats, level: float = 0.9) -> Interval:
    """Mean of daily `counts`, and the interval in which a single later day should lie.

    A negative binomial distribution with the mean of the days. Its variance is that of the days,
    widened by what so few of them leave unknown (the factor 1 + 1/n of a forecast, and Student's t
    in place of the normal distribution, at 95 %), and no less than a Poisson distribution has. The
    interval also spans the same quantiles of the days themselves. When it fails: it knows of no
    trend, no season and no change of the traffic, and of a single day no more than Poisson's
    distribution.

    `counts` is of shape (n_days,), `level` the share of later days within, both ends included.

    >>> predictive_interval(np.array([9.0, 12, 11, 8, 10, 14, 6]))
    Interval(value=10.0, low=5.0, high=16.0)
    """
    from scipy import stats

    n = len(counts)
    if not n:
        return Interval(None, None, None)
    mean, tail = float(counts.mean()), (1 - level) / 2
    expected = mean + 0.5 / n  # none was seen on n days: still possible on the next
    variance = expected * (1 + 1 / n)
    if n > 1:
        # at one level, so that a higher one spans more: of few days Student.s t has no end
        wider = float(stats.t.ppf(0.95, n - 1)) / NormalDist().inv_cdf(0.95)
        variance = max(variance, float(counts.var(ddof=1)) * (1 + 1 / n) * wider**2)
    size = expected**2 / (variance - expected)
    low, high = map(float, stats.nbinom.ppf((tail, 1 - tail), size, expected / variance))
    seen_low, seen_high = np.quantile(counts, (tail, 1 - tail))
    return Interval(mean, min(low, math.floor(seen_low)), max(high, math.ceil(seen_high)))


def paired_bootstrap(
    is_fraud: npt.ArrayLike,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    cluster: npt.ArrayLike,
    *,
    within: npt.ArrayLike | None = None,
    n: int = 200,
) -> Interval:
    """How much higher the average precision of scores `a` is than that of `b`, and how surely.

    Clusters (customers, or days) are drawn with replacement `n` times, each as often as a Poisson
    variable of mean 1 says, and bring all of their rows; both scores are judged on the same draw.
    When it fails: fraud in a handful of clusters; then the interval is too narrow.

    Parameters
    ----------
    is_fraud, a, b, cluster : of shape (n_rows,).
    within : of shape (n_rows,), such as the fold: computed within each and averaged.

    Returns
    -------
    Interval of the difference, nine draws of ten: no ends where fewer than two clusters have fraud,
    nothing where there is none.

    >>> rng = np.random.default_rng(0)
    >>> fraud = rng.random(4000) < 0.05
    >>> noise = rng.normal(size=(2, 4000))
    >>> paired_bootstrap(fraud, fraud + noise[0], noise[1], np.arange(4000) % 400).low > 0
    True
    """
    y, (code, names) = np.asarray(is_fraud, bool), pd.factorize(np.asarray(cluster))
    group = np.zeros(len(y), np.int64) if within is None else pd.factorize(np.asarray(within))[0]
    judges = []
    for g in range(group.max(initial=-1) + 1):
        rows = np.flatnonzero(group == g)
        pair = [np.asarray(s, float)[rows] for s in (a, b)]
        judges.append([_weighing(y[rows], s, code[rows]) for s in pair])

    def difference(weight: Floats) -> float | None:
        found = [(one(weight), other(weight)) for one, other in judges]
        told = [x - z for x, z in found if x is not None and z is not None]
        return float(np.mean(told)) if told else None

    value = difference(np.ones(len(names)))
    if value is None or len(np.unique(code[y])) < 2:
        return Interval(value, None, None)
    rng = np.random.default_rng(0)
    draws = [difference(rng.poisson(1.0, len(names)).astype(float)) for _ in range(n)]
    told = [d for d in draws if d is not None]
    low, high = np.quantile(told, ((1 - 0.9) / 2, (1 + 0.9) / 2))
    return Interval(value, float(low), float(high))


def weighted_share(value: npt.ArrayLike, inclusion: npt.ArrayLike, level: float = 0.9) -> Interval:
    """Share of all for which `value` holds, estimated from those that were asked.

    Hájek's estimate: each answer counts for 1 / inclusion others. Answers that were certain to be
    asked (inclusion 1) stand for themselves and add no doubt. The interval of the others is
    Wilson's with continuity correction, which keeps its promise with few answers and does not
    shrink to nothing where all of them agree; their number is the effective one: that of equally
    weighted answers with as much doubt (Kish's, or less where the answers say so).

    `value` (bool) and `inclusion`, the probability in (0, 1] with which each was asked, are of
    shape (n,); `level` is that of the two-sided interval.

    References
    ----------
    Korn & Graubard, Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data (1998); Newcombe, Two-sided confidence intervals for the
    single proportion (1998), method 4.

    >>> share, low, high = weighted_share([True, True, False, False], [1, 1, 1, 0.01])
    >>> round(share, 3), round(low, 3), round(high, 3)
    (0.019, 0.019, 0.92)

    Raises
    ------
    ValueError : An inclusion probability is not in (0, 1].
    """
    v, p = np.asarray(value, bool), np.asarray(inclusion, float)
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError("Inclusion probabilities lie in (0, 1].")
    if not len(v):
        return Interval(None, None, None)
    drawn = p < 1
    weight = 1 / p[drawn]
    n_certain, n_drawn = int((~drawn).sum()), float(weight.sum())
    ends = np.zeros(3)
    if drawn.any():
        share = float(weight[v[drawn]].sum()) / n_drawn
        size = n_drawn**2 / float((weight**2).sum())
        if 0 < share < 1:
            doubt = float((weight**2 * (v[drawn] - share) ** 2).sum()) / n_drawn**2
            size = min(size, share * (1 - share) / doubt)
        ends = np.array([share, *_wilson(share, size, level)])
    out = (v[~drawn].sum() + n_drawn * ends) / (n_certain + n_drawn)
    return Interval(*(float(x) for x in out))


def share_of(n_true: int, n: int) -> Interval:
    """Share of `n_true` among `n` answers, with Wilson's interval at 0.9; of nothing it is None.

    >>> share, low, high = share_of(3, 4)
    >>> share, round(low, 2), round(high, 2)
    (0.75, 0.26, 0.98)
    """
    share = n_true / n if n else 0.0
    return Interval(share, *_wilson(share, n, 0.9)) if n else Interval(None, None, None)


def _wilson(share: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's interval with continuity correction for a share among `n` answers."""
    if n < 1:  # one answer that speaks for more than all others
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)

    def upper(p: float) -> float:
        root = math.sqrt(max(z * z + 2 - 1 / n + 4 * p * (n * (1 - p) - 1), 0.0))
        return min(1.0, (2 * n * p + z * z + 1 + z * root) / (2 * (n + z * z)))

    low = 0.0 if share == 0 else 1 - upper(1 - share)
    return min(low, share), max(1.0 if share == 1 else upper(share), share)


def _weighing(
    is_fraud: npt.NDArray[np.bool_], score: Floats, cluster: Ints
) -> Callable[[Floats], float | None]:
    """Average precision as a function of whole weights of the clusters, sorted once for all."""
    order = np.argsort(-score, kind="stable")
    ordered, cluster = score[order], cluster[order]
    frauds = np.flatnonzero(is_fraud[order])
    if not len(frauds):
        return lambda weight: None
    ties_end = np.append(np.flatnonzero(np.diff(ordered) != 0), len(ordered) - 1)
    ends, first = np.unique(ties_end[np.searchsorted(ties_end, frauds)], return_index=True)
    starts = np.append(0, ends[:-1] + 1)
    rows, hits = cluster[: ends[-1] + 1], cluster[frauds]

    def weighted(weight: Floats) -> float | None:
        seen = np.cumsum(np.add.reduceat(weight[rows], starts))
        caught = np.add.reduceat(weight[hits], first)
        if not caught.any():
            return None
        total = np.cumsum(caught)
        return float((caught * total / np.maximum(seen, 1)).sum() / total[-1])

    return weighted
