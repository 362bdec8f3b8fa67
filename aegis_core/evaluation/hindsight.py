"""What the thresholds promised beside what came, and what others would have cost.

Functions of the tested transactions (`Evaluation.scores`) and of what each fold learnt; thresholds
come from the training windows and never from what is judged. An undefined figure is `<NA>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.detection.policy import NO_LIMITS, Counter, Policy, Ranked
from aegis_core.evaluation.splits import Fold
from aegis_core.features.arrays import Floats, Ints
from aegis_core.metrics import daily_counts, predictive_interval
from aegis_core.schema import Decision

BUDGETS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05)
"""Alert budgets that are compared, as shares of the transactions."""
RISKS: Final = (50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9)
"""Levels of `risk` whose promise is checked."""
BUSY: Final = ((0.01, "busiest 1 %"), (0.05, "next 4 %"), (0.2, "next 15 %"), (1.0, "other 80 %"))
"""Customers by their number of transactions: cumulative share and name."""
SWARM: Final = 10
"""Frauds of one customer, each within a minute of the last, that make a burst nobody named."""

Bools = npt.NDArray[np.bool_]
_DAY = pd.Timedelta(days=1)


def days_of(
    fold: Fold, ts: pd.Series, decision: npt.NDArray[np.int8], trained: bool
) -> pd.DataFrame:
    """Days of 24 hours of a window: `fold`, `window`, `day`, `transactions`, `alerts`, `blocks`.

    A window's last hours that make no whole day are left out.
    """
    start, end = (
        (fold.train_from, fold.train_to) if trained else (fold.test_from, fold.test_to)
    )  # fmt: skip
    chosen = {
        "transactions": np.ones(len(ts), bool),
        "alerts": decision != Decision.APPROVE,
        "blocks": decision == Decision.BLOCK,
    }
    counts = {name: daily_counts(ts, rows, start, end) for name, rows in chosen.items()}
    return pd.DataFrame(
        {
            "fold": fold.number,
            "window": "train" if trained else "test",
            "day": start + np.arange(len(counts["alerts"])) * _DAY,
            **counts,
        }
    )


def no_days() -> pd.DataFrame:
    """`days_of` no window."""
    kinds = {"fold": int, "window": "str", "day": "datetime64[us]"}
    return _typed([], kinds | dict.fromkeys(("transactions", "alerts", "blocks"), float))


def forecast(days: pd.DataFrame) -> pd.DataFrame:
    """Alerts and blocks a day that the training windows promised, and what the test windows gave.

    A forecast that asks for nine days of ten held on 24 of 28 days of the handbook's data (training
    windows of a week), 58 of 63 of the synthetic and 191 of 193 of Sparkov's: too narrow where a
    threshold from one week meets the drift of the next ones.

    Returns
    -------
    DataFrame with a row a fold and kind: `fold`, `kind` (`alerts` or `blocks`), `mean`, `low`,
    `high` (see `metrics.predictive_interval`), `came` (mean a day of the test window), `days` (of
    the test window), `inside` (test days from `low` to `high`, both included).
    """
    rows = []
    for number, part in days.groupby("fold"):
        train, test = (part[part.window == name] for name in ("train", "test"))
        for kind in ("alerts", "blocks"):
            came, told = test[kind], predictive_interval(train[kind].to_numpy(float))
            inside = int(((came >= told.low) & (came <= told.high)).sum())
            rows.append((number, kind, *told, came.mean(), len(test), inside))
    kinds: dict[str, Any] = {"fold": int, "kind": "str", "mean": float, "low": float, "high": float}
    return _typed(rows, kinds | {"came": float, "days": int, "inside": int})


def forecast_summary(table: pd.DataFrame) -> str:
    """`forecast` in one sentence: what was promised, what came, how many days were inside."""
    alerts = table[table.kind == "alerts"]
    if alerts.empty:
        return "There was no test window, and so no forecast to check."
    days, inside = int(alerts.days.sum()), int(alerts.inside.sum())
    came = (alerts.came * alerts.days).sum() / days
    return (
        f"The training windows promised {alerts['mean'].mean():,.1f} alerts a day on average, "
        f"{came:,.1f} came; {inside} of {days} test days ({inside / days:.0%}) lay within their "
        "forecast, which asks for nine of ten."
    )


def reliability(scores: pd.DataFrame) -> pd.DataFrame:
    """Whether `risk`, the percentile in the training window, is one on later weeks.

    What is promised speaks of all traffic of the training window, unknown frauds included; what
    came are the test window's transactions that are not labelled as fraud.

    Returns
    -------
    DataFrame with a row a fold and level: `fold`, `risk`, `promised` (share of traffic above it),
    `came` (share of the test window's ordinary transactions above it), `n` (all of these).
    """
    rows = [
        (number, level, 1 - level / 100, float((part.risk > level).mean()), len(part))
        for number, part in scores[~scores.is_fraud].groupby("fold")
        for level in RISKS
    ]
    kinds = {"fold": int, "risk": float, "promised": float, "came": float, "n": int}
    return _typed(rows, kinds)


def alerted(
    scores: pd.DataFrame,
    detector: str,
    models: Sequence[Ranked],
    counters: Sequence[Counter],
    folds: Sequence[Fold],
    budget: float,
) -> Bools:
    """Rows of `scores` that a policy of `budget` would have alerted on, fold by fold.

    Parameters
    ----------
    detector : the column of `scores` to judge by.
    models : its models, one a fold.
    counters : the exact counters beside them, one a fold, or none at all.
    """
    out = np.zeros(len(scores), bool)
    for i, (fold, model) in enumerate(zip(folds, models, strict=True)):
        policy = Policy.from_budget(model, budget, counter=counters[i] if counters else None)
        alert = (scores[detector] > policy.review_above).to_numpy()
        if policy.burst_limits != NO_LIMITS:
            alert = alert | scores["counted"].to_numpy(bool)
        out |= alert & (scores.fold == fold.number).to_numpy()
    return out


def budgets(
    scores: pd.DataFrame,
    models: Mapping[str, tuple[Sequence[Ranked], Sequence[Counter]]],
    folds: Sequence[Fold],
    levels: Sequence[float],
    review_cost: float,
) -> pd.DataFrame:
    """What each alert budget would have caught and cost, all folds together.

    An alert saves the amount of its transaction and costs one review, whether it blocks or not;
    what a fraud that was not alerted took is lost. The profiles stay as the policy of the
    evaluation left them.

    Parameters
    ----------
    models : for each column of `scores` to judge, its models and counters as `alerted` takes them.
    levels : budgets, shares of the transactions in (0, 1).
    review_cost : of one alert, in the units of the amounts.

    Returns
    -------
    DataFrame with a row a detector and budget: `detector`, `budget`, `alerts_a_day`, `fraud_share`
    (of the alerts), `caught`, `frauds`, `recall`, and a day and in the units of the amounts
    `amount_caught`, `amount_lost`, `review_cost`, `cost` (the last two added).
    """
    fraud, money = scores.is_fraud.to_numpy(bool), scores.amount.to_numpy(float)
    n_days = days_tested(folds)
    rows = []
    for detector, (fitted, counters) in models.items():
        for budget in levels if len(scores) else ():
            alert = alerted(scores, detector, fitted, counters, folds, budget)
            n_alerts, caught = int(alert.sum()), alert & fraud
            lost = money[fraud & ~alert].sum() / n_days
            reviews = review_cost * n_alerts / n_days
            rows.append(
                {
                    "detector": detector,
                    "budget": budget,
                    "alerts_a_day": n_alerts / n_days,
                    "fraud_share": caught.sum() / n_alerts if n_alerts else None,
                    "caught": int(caught.sum()),
                    "frauds": int(fraud.sum()),
                    "recall": caught.sum() / fraud.sum() if fraud.any() else None,
                    "amount_caught": money[caught].sum() / n_days,
                    "amount_lost": lost,
                    "review_cost": reviews,
                    "cost": lost + reviews,
                }
            )
    kinds: dict[str, Any] = {"detector": "str", "budget": float, "alerts_a_day": float}
    kinds |= {"fraud_share": "Float64", "caught": int, "frauds": int, "recall": "Float64"}
    kinds |= dict.fromkeys(("amount_caught", "amount_lost", "review_cost", "cost"), float)
    return _typed(rows, kinds)


def cheapest(
    table: pd.DataFrame, scores: pd.DataFrame, n_days: float, review_cost: float, currency: str
) -> str:
    """The budget of least cost in `budgets`, beside no alerts at all and a perfect order."""
    fraud = scores.amount.to_numpy(float)[scores.is_fraud.to_numpy(bool)]
    if table.empty:
        return "Nothing was tested, so no budget has a cost."
    if not len(fraud):
        return "No fraud is labelled in the test windows, so no budget is worth its reviews."
    unit = f" {currency}" if currency else ""
    never, perfect = fraud.sum() / n_days, np.minimum(fraud, review_cost).sum() / n_days
    told = []
    for name, part in table.groupby("detector", sort=False):
        best = part.iloc[int(part.cost.argmin())]
        worth = "" if best.cost < never else ", so no alert pays"
        told.append(
            f"the {name} costs least at a budget of {best.budget:.2%}: {best.cost:,.0f}{unit} a "
            f"day ({best.amount_lost:,.0f} lost to fraud, {best.review_cost:,.0f} for "
            f"{best.alerts_a_day:,.1f} reviews){worth}"
        )
    return (
        f"Where a review costs {review_cost:g}{unit}, {'; '.join(told)}. No alerts at all would "
        f"cost {never:,.0f}{unit} a day, a perfect order {perfect:,.0f}{unit}."
    )


def by_budget_and_day(
    scores: pd.DataFrame,
    models: Sequence[Ranked],
    counters: Sequence[Counter],
    folds: Sequence[Fold],
    levels: Sequence[float],
) -> pd.DataFrame:
    """Alerts of the forest on each calendar day with each budget; days without traffic are 0.

    Returns
    -------
    DataFrame with a row a budget and day: `budget`, `day`, `right` and `wrong` (alerts on fraud and
    on others), `frauds` (of the day, alerted or not).
    """
    days, at = calendar(scores, folds)
    fraud = scores.is_fraud.to_numpy(bool)
    frauds = np.bincount(at[fraud], minlength=len(days))
    parts = []
    for budget in levels:
        alert = alerted(scores, "forest", models, counters, folds, budget)
        right, wrong = (
            np.bincount(at[rows], minlength=len(days)) for rows in (alert & fraud, alert & ~fraud)
        )
        counts = {"right": right, "wrong": wrong, "frauds": frauds}
        parts.append(pd.DataFrame({"budget": float(budget), "day": days, **counts}))
    return pd.concat(parts, ignore_index=True)


def alerts_per_day(scores: pd.DataFrame, folds: Sequence[Fold]) -> pd.DataFrame:
    """Each calendar day: `day`, `transactions`, `alerts`, `blocks`, `frauds`, `caught`."""
    days, at = calendar(scores, folds)
    alert, fraud = scores.decision != Decision.APPROVE, scores.is_fraud
    counted = {
        "transactions": np.ones(len(scores), bool),
        "alerts": alert,
        "blocks": scores.decision == Decision.BLOCK,
        "frauds": fraud,
        "caught": alert & fraud,
    }
    counts = {
        name: np.bincount(at[np.asarray(rows, bool)], minlength=len(days))
        for name, rows in counted.items()
    }
    return pd.DataFrame({"day": days, **counts})


def calendar(scores: pd.DataFrame, folds: Sequence[Fold]) -> tuple[pd.DatetimeIndex, Ints]:
    """Days of the test windows that any fold touches, and each row's place among them."""
    days = pd.DatetimeIndex([], dtype="datetime64[us]")
    for f in folds:
        last = f.test_to - pd.Timedelta(microseconds=1)
        days = days.union(pd.date_range(f.test_from.floor("D"), last.floor("D"), unit="us"))
    return days, days.get_indexer(pd.DatetimeIndex(scores.ts.dt.floor("D"))).astype(np.int64)


def days_tested(folds: Sequence[Fold]) -> float:
    """Length of all test windows together, in days."""
    return sum((f.test_to - f.test_from) / _DAY for f in folds)


def bursts(scores: pd.DataFrame, gap: str = "1h") -> pd.DataFrame:
    """How much of each labelled burst went through before its first alert.

    A burst is a row of frauds of the scenario `burst` of one customer without a pause longer than
    `gap`; where no fraud is named so, at least `SWARM` frauds of a customer, each within a minute
    of the last.

    Parameters
    ----------
    scores :
        Of an `Evaluation`; `counted` says where the exact counter alone raised an alert, with the
        limits that the policy took from the training window.

    Returns
    -------
    DataFrame with a row a burst: `fold`, `customer_id`, `start`, `transactions`, `let_through`
    (before the first alert) and `seconds` (from the first transaction to the first alert), both
    `<NA>` if there was none; `counter_let_through`, `counter_seconds` (the same of the counter);
    `detected` (by the policy).
    """
    named = scores.is_fraud & scores.scenario.eq("burst").fillna(False).astype(bool)
    smallest = 1
    if not named.any():
        named, gap, smallest = scores.is_fraud, "1min", SWARM
    rows = scores[named].sort_values(["fold", "customer_id", "ts"], kind="stable")
    same = rows[["fold", "customer_id"]].eq(rows[["fold", "customer_id"]].shift()).all(axis=1)
    begins = ~same | (rows.ts.diff() > pd.Timedelta(gap))
    found = []
    for _, part in rows.groupby(begins.cumsum()):
        if len(part) < smallest:
            continue
        ours = (part.decision != Decision.APPROVE).to_numpy()
        counters = part["counted"].to_numpy()
        first = part.iloc[0]
        seconds = (part.ts - first.ts).dt.total_seconds().to_numpy()
        found.append(
            (first.fold, first.customer_id, first.ts, len(part), *_first(ours, seconds),
             *_first(counters, seconds), bool(ours.any()))
        )  # fmt: skip
    kinds: dict[str, Any] = {"fold": int, "customer_id": "str", "start": "datetime64[us]"}
    kinds |= {"transactions": int}
    kinds |= {"let_through": "Int64", "seconds": "Float64", "counter_let_through": "Int64"}
    kinds |= {"counter_seconds": "Float64", "detected": bool}
    out = _typed(found, kinds)
    return out.sort_values(["fold", "start"], kind="stable", ignore_index=True)


def _first(alert: Bools, seconds: Floats) -> tuple[int | None, float | None]:
    """Rows before the first alert, and the seconds until it; None without one."""
    if not alert.any():
        return None, None
    at = int(alert.argmax())
    return at, float(seconds[at])


def burst_summary(table: pd.DataFrame) -> str:
    """`bursts` in words; a burst that was never detected counts as let through as a whole."""
    if table.empty:
        return "There is no burst among the labelled frauds of the test windows."
    told = []
    for name, prefix in (("the policy", ""), ("the exact counter alone", "counter_")):
        through, seconds = table[f"{prefix}let_through"], table[f"{prefix}seconds"].dropna()
        whole = through.fillna(table.transactions).to_numpy(float)
        sentence = (
            f"{name} detected {through.notna().sum()} of {len(table)} bursts "
            f"({through.notna().mean():.0%}) and let {np.median(whole):.0f} transactions through "
            f"before its first alert (median; {_ninth(whole):.0f} at the 90th percentile)"
        )
        if len(seconds):
            quick = seconds.to_numpy(float)
            sentence += (
                f", {np.median(quick):.0f} s after the first one where it did ({_ninth(quick):.0f} "
                "s at the 90th percentile)"
            )
        told.append(sentence)
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def _ninth(values: Floats) -> float:
    return float(np.quantile(values, 0.9, method="higher"))


def busy_customers(
    scores: pd.DataFrame, folds: Sequence[Fold], strongest: pd.Series
) -> pd.DataFrame:
    """False alarms on busy but ordinary customers: those without any fraud in a test window.

    Parameters
    ----------
    strongest :
        For the alerts, indexed by `seq`: the factor with the largest contribution.

    Returns
    -------
    DataFrame with a row a group of `BUSY`, by transactions in the test window: `group`,
    `customers` (counted once a fold), `transactions`, `transactions_a_day` (of one customer),
    `alerts`, `alert_share` (of the transactions), `burst_alerts`, `burst_alert_share` (those with
    burst as the strongest factor).
    """
    rows = scores[["fold", "customer_id", "is_fraud"]].assign(
        alert=scores.decision != Decision.APPROVE,
        burst=scores.seq.map(strongest).eq("burst").fillna(False).astype(bool),
    )
    by = rows.groupby(["fold", "customer_id"], sort=False, observed=True)
    people = by.agg(
        transactions=("alert", "size"), fraud=("is_fraud", "any"), alerts=("alert", "sum"),
        burst_alerts=("burst", "sum"),
    ).reset_index()  # fmt: skip
    people = people[~people.fraud]
    place = people.groupby("fold").transactions.rank(ascending=False, method="first")
    share = place / people.groupby("fold").transactions.transform("size")
    ends, names = [end for end, _ in BUSY], [name for _, name in BUSY]
    people["group"] = np.array(names)[np.searchsorted(ends, share.to_numpy(float))]
    people["days"] = people.fold.map({f.number: days_tested([f]) for f in folds}).astype(float)
    counted = ["transactions", "alerts", "burst_alerts", "days"]
    out = people.groupby("group")[counted].sum()
    out.insert(0, "customers", people.groupby("group").size())
    out = out.reindex([name for name in names if name in out.index]).reset_index()
    out["transactions_a_day"] = out.transactions / out.pop("days")
    out["alert_share"] = out.alerts / out.transactions
    out["burst_alert_share"] = out.burst_alerts / out.transactions
    order = ["group", "customers", "transactions", "transactions_a_day", "alerts", "alert_share"]
    return out[[*order, "burst_alerts", "burst_alert_share"]]


def remarks(frame: pd.DataFrame, labels: pd.DataFrame, folds: Sequence[Fold]) -> list[str]:
    """Sentences about a history in which a factor or a figure cannot say anything."""
    notes = []
    if (frame.customer_id == frame.customer_id.iloc[0]).all():
        notes.append("All transactions are of one customer: nobody is there to compare with.")
    if frame.amount.min() == frame.amount.max():
        notes.append("All amounts are the same: the factor amount says nothing.")
    if "lat" not in frame or frame["lat"].isna().all():
        notes.append("No transaction has a place: the factor travel says nothing.")
    if "currency" in frame and (several := sorted(frame.currency.dropna().unique()))[1:]:
        notes.append(f"Amounts of {', '.join(several)} are added as if they were one currency.")
    if len(labels) and labels.known_at.min() >= folds[-1].test_to:
        notes.append(
            "All labels became known after the last test window: they judge, but nothing could "
            "have been learnt from them."
        )
    tested = pd.DataFrame({"ts": frame.ts[(frame.ts >= folds[0].test_from)]})
    days, at = calendar(tested[tested.ts < folds[-1].test_to], folds)
    empty = days[np.bincount(at[at >= 0], minlength=len(days)) == 0]
    if len(empty):
        notes.append(
            f"{len(empty)} of the {len(days)} days of the test windows have no transactions, the "
            f"first of them {empty[0]:%Y-%m-%d}; they count as days without alerts."
        )
    return notes


def _typed(rows: Sequence[Any], kinds: Mapping[str, Any]) -> pd.DataFrame:
    """A table with the columns and types of `kinds`, also without rows."""
    return pd.DataFrame(rows, columns=list(kinds)).astype(dict(kinds))
