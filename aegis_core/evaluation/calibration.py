"""What the thresholds promised beside what came: alerts a day, and the percentile of a risk.

Thresholds come from the training windows and never from what is judged. An undefined figure is
`<NA>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.evaluation.splits import Fold, calendar, typed
from aegis_core.metrics import daily_counts, predictive_interval
from aegis_core.schema import Decision

RISKS: Final = (50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9)
"""Levels of `risk` whose promise is checked."""


def daily(fold: Fold, ts: pd.Series, decision: npt.NDArray[np.int8], trained: bool) -> pd.DataFrame:
    """Days of 24 hours of a window: `fold`, `window`, `day`, `transactions`, `alerts`, `blocks`.

    A window's last hours that make no whole day are left out.
    """
    name = "train" if trained else "test"
    start, end = getattr(fold, f"{name}_from"), getattr(fold, f"{name}_to")
    counts = {c: daily_counts(ts, rows, start, end) for c, rows in _decided(decision).items()}
    day = start + np.arange(len(counts["alerts"])) * pd.Timedelta(days=1)
    return pd.DataFrame({"fold": fold.number, "window": name, "day": day, **counts})


def _decided(decision: npt.ArrayLike) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows count as `transactions`, all of them, as `alerts` and as `blocks`."""
    given = np.asarray(decision)
    alerts, blocks = given != Decision.APPROVE, given == Decision.BLOCK
    return {"transactions": np.ones(len(given), bool), "alerts": alerts, "blocks": blocks}


def no_days() -> pd.DataFrame:
    """`daily` no window."""
    kinds = {"fold": int, "window": "str", "day": "datetime64[us]"}
    return typed([], kinds | dict.fromkeys(("transactions", "alerts", "blocks"), float))


def alerts_per_day(scores: pd.DataFrame, folds: Sequence[Fold]) -> pd.DataFrame:
    """Each calendar day: `day`, `transactions`, `alerts`, `blocks`, `frauds`, `caught`."""
    days, at = calendar(scores, folds)
    counted, fraud = _decided(scores.decision), scores.is_fraud.to_numpy(bool)
    counted |= {"frauds": fraud, "caught": counted["alerts"] & fraud}
    counts = {c: np.bincount(at[rows], minlength=len(days)) for c, rows in counted.items()}
    return pd.DataFrame({"day": days, **counts})


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
    return typed(rows, kinds | {"came": float, "days": int, "inside": int})


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
    return typed(rows, kinds)
