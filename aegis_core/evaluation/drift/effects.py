"""How far one day lies from others: samples of one size, effect sizes, and what is usual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from aegis_core.features.arrays import Floats
from aegis_core.schema import FACTORS


class Measure(NamedTuple):
    """One thing that may drift.

    `name` and `part` are as in the table `drift`, `column` of `Traffic.rows` (empty for the
    volume); `least` is an effect not worth an alarm, however unusual, `form` how it is written.
    """

    name: str
    part: str
    column: str
    least: float
    form: str = ""

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.part} evidence" if self.part else self.name.replace("_", " ")


MEASURES: Final = (
    Measure("volume", "", "", 0.1, "{:,.0f} transactions"),
    Measure("amounts", "", "paid", 0.05, "{:,.2f} as the median amount"),
    *(Measure("evidence", factor, factor, 0.05, "{:.3f} nats on average") for factor in FACTORS),
    Measure("score", "", "score", 0.05, "{:.4f} on average"),
    Measure("alert_rate", "", "alert", 0.05, "{:.2%} of the customers alerted"),
)
"""What is measured, in the order in which it is shown."""
SAMPLED: Final = tuple(m.column for m in MEASURES if m.column)
"""Columns of a sample."""
MIN_SAMPLE: Final = 50
"""Fewest customers that a sample may have."""


def sample(rows: pd.DataFrame, size: int, seed: int) -> Floats | None:
    """Transactions of `size` customers of one day, drawn by chance; None if there are fewer.

    One transaction a customer: a burst of a thousand is one customer's affair, and must not look
    like a day on which everybody changed. `alert` says whether any of the customer's was one.
    `rows` have the columns `customer_id` and `SAMPLED`; the sample is of shape
    (size, len(SAMPLED)).

    >>> rows = pd.DataFrame({"customer_id": ["a", "b", "a"], "alert": [False, False, True]})
    >>> rows = rows.reindex(columns=["customer_id", *SAMPLED], fill_value=1.0)
    >>> sample(rows, 2, 0)[:, -1].sum(), sample(rows, 3, 0) is None
    (np.float64(1.0), True)
    """
    customer, _ = pd.factorize(rows["customer_id"])
    order = np.random.default_rng(seed).permutation(len(rows))
    _, first = np.unique(customer[order], return_index=True)
    if len(first) < size:
        return None
    drawn = order[np.sort(first)[:size]]
    values = rows[list(SAMPLED)].to_numpy(float)[drawn]
    alerted = np.bincount(customer, rows["alert"].to_numpy(float))
    values[:, SAMPLED.index("alert")] = alerted[customer[drawn]] > 0
    return values


def dominance(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cliff's delta in [-1, 1]: how much oftener a value of `a` is above one of `b` than below.

    It knows no unit and no shape of a distribution, and does not grow with the number of values
    (Cliff, Dominance statistics, 1993).

    >>> dominance([2, 3], [1, 1]), dominance([1, 2], [1, 2]), dominance([1, 1], [1, 2])
    (1.0, 0.0, -0.5)
    """
    return float(placement(a, b).mean())


def placement(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """For each of `a`, the share of `b` below it minus the share above it, in [-1, 1]."""
    ordered = np.sort(np.asarray(b, float))
    below = np.searchsorted(ordered, a, "left")
    up_to = np.searchsorted(ordered, a, "right")
    found: Floats = (below + up_to) / len(ordered) - 1
    return found


def effect(measure: Measure, a: Floats, b: Floats) -> float:
    """How far the values of one day lie above those of another.

    For the volume the logarithm of the ratio, for shares Cohen's h, else `dominance`. `a` and `b`
    are the column of a sample; for the volume the number of transactions, of shape (1,).

    >>> round(effect(MEASURES[0], np.array([120.0]), np.array([100.0])), 2)
    0.18
    """
    if measure.name == "volume":
        return float(np.log((a[0] + 0.5) / (b[0] + 0.5)))
    if measure.name == "alert_rate":
        one, other = (2 * np.arcsin(np.sqrt(np.mean(x))) for x in (a, b))
        return float(one - other)
    return dominance(a, b)


def typical(measure: Measure, values: Floats) -> float:
    """The level of one day in its own unit: a number, a median amount, a mean, a share."""
    if measure.name == "volume":
        return float(values[0])
    return float(np.median(values) if measure.name == "amounts" else values.mean())


def limit(measure: Measure, quiet: Sequence[float], groups: int, quiet_days: float) -> float:
    """The effect beyond which a day is an alarm.

    The quiet days' effects give the spread, Student's t with the degrees of freedom that they
    leave how many spreads are as rare as wanted, shared among all measures. What lies beyond three
    robust deviations counts as three: some days that were no quiet ones hide no later alarm.

    `quiet` holds the effect of each day of the reference weeks against its fellows, days of
    `groups` weekdays; there is one false alarm in `quiet_days`, all measures together.

    >>> few, many = (limit(MEASURES[1], [0.02, -0.02] * n, 1, 180) for n in (4, 400))
    >>> round(few, 2), round(many, 2)
    (0.12, 0.07)
    """
    values = np.abs(np.asarray(quiet))
    robust = 3 * 1.4826 * np.median(values)
    if robust > 0:
        values = np.minimum(values, robust)
    freedom = max(len(values) - groups, 1)
    rare = 1 / (2 * len(MEASURES) * quiet_days)
    spread = np.sqrt(np.square(values).sum() / len(values))
    return max(float(spread * special.stdtrit(freedom, 1 - rare)), measure.least)
