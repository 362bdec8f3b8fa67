"""From a score to a decision, within an alert budget, and from facts to an analyst's words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aegis_core.detector import Detector
from aegis_core.errors import InputError, NotReady
from aegis_core.profiles import FACTS, RING, SIGNAL_FACTOR, SIGNALS, Floats
from aegis_core.schema import FACTORS


@dataclass(frozen=True)
class Policy:
    """Thresholds of an alert budget.

    Parameters
    ----------
    review_above, block_above :
        Scores above which a transaction is reviewed and blocked; `block_above` is not lower.
    alert_budget :
        Share of transactions that may become alerts (reviewed or blocked), in (0, 1).
    """

    review_above: float
    block_above: float
    alert_budget: float

    @classmethod
    def from_budget(
        cls, detector: Detector, alert_budget: float = 0.005, block_share: float = 0.2
    ) -> Policy:
        """Thresholds that keep the training window within `alert_budget`.

        Of the alerts, the `block_share` with the highest scores are blocked. A larger budget never
        raises a threshold.
        """
        if not 0 < alert_budget < 1:
            raise InputError(f"alert_budget is a share in (0, 1), not {alert_budget}.")
        if not 0 <= block_share <= 1:
            raise InputError(f"block_share is a share in [0, 1], not {block_share}.")
        return cls(
            detector.threshold(alert_budget),
            detector.threshold(alert_budget * block_share) if block_share else math.inf,
            alert_budget,
        )

    def decide(self, score: Floats) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
        """Decisions as values of `schema.Decision`, shape (n,).

        >>> Policy(0.6, 0.8, 0.01).decide(np.array([0.5, 0.7, 0.9])).tolist()
        [0, 1, 2]
        """
        return (score > self.review_above).astype(np.int8) + (score > self.block_above)

    def save(self, folder: Path) -> None:
        """Write `policy.json` into `folder`."""
        (folder / "policy.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """Read what `save` wrote.

        Raises
        ------
        NotReady
            The file is not there, or not a policy.
        """
        try:
            written = json.loads((folder / "policy.json").read_text())
            return cls(**{name: float(value) for name, value in written.items()})
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise NotReady(
                f"The policy in {folder} cannot be read ({e}). Train with `aegis run train`."
            ) from None


def reasons(
    amount: float,
    currency: str | None,
    facts: Floats,
    contributions: Floats,
    signal_evidence: Floats,
    *,
    floor: float = 0.1,
) -> list[dict[str, object]]:
    """Reasons for one verdict, the strongest first, in the customer's own units.

    Parameters
    ----------
    facts : of shape (len(FACTS),).
    contributions : of shape (len(FACTORS),), to the score.
    signal_evidence :
        Of shape (len(SIGNALS),), see `Detector.spread`; a factor is told by its strongest signal.
    floor :
        Smallest share of the strongest contribution that is still a reason.

    Returns
    -------
    list of dict with `factor`, `code`, `text`, `contribution`, as in `verdicts.reasons`.
    """
    known = dict(zip(FACTS, facts.tolist(), strict=True))
    money = f"{currency or ''} {amount:,.2f}".strip()
    top = contributions.max()
    out: list[dict[str, object]] = []
    for f in np.argsort(-contributions, kind="stable"):
        if contributions[f] <= 0 or contributions[f] < floor * top:
            break
        own = [j for j in range(len(SIGNALS)) if SIGNAL_FACTOR[j] == f]
        signal = SIGNALS[max(own, key=lambda j: signal_evidence[j])]
        code, tell = _WORDS[signal]
        out.append(
            {
                "factor": FACTORS[f],
                "code": code,
                "text": tell(amount, money, known),
                "contribution": float(contributions[f]),
            }
        )
    return out


Known = dict[str, float]


def _amount_customer(amount: float, money: str, k: Known) -> str:
    if k["n_history"] < 5:
        return f"{money} is much for a customer without history"
    usual = k["usual_amount"]
    return f"{money} is {_times(amount / usual)} this customer's usual {usual:,.2f}"


def _amount_habit(amount: float, money: str, k: Known) -> str:
    usual = k["habit_amount"]
    if math.isclose(usual, k["category_amount"]):  # never paid in this category
        return _amount_category(amount, money, k)
    return f"{money} is {_times(amount / usual)} this customer's usual {usual:,.2f} in the category"


def _amount_category(amount: float, money: str, k: Known) -> str:
    usual = k["category_amount"]
    return f"{money} is {_times(amount / usual)} the {usual:,.2f} that is usual in the category"


def _amount_population(amount: float, money: str, k: Known) -> str:
    usual = k["population_amount"]
    return f"{money} is {_times(amount / usual)} the {usual:,.2f} that customers usually pay"


def _travel_speed(amount: float, money: str, k: Known) -> str:
    return (
        f"{k['distance_km']:,.0f} km from the last purchase {_duration(k['gap_s'])} ago "
        f"(at least {k['speed_kmh']:,.0f} km/h)"
    )


def _hour(amount: float, money: str, k: Known) -> str:
    minutes = int(k["hour"] * 60 + 1e-6) % 1440  # rounding may leave a whole minute just below
    clock = f"{minutes // 60:02d}:{minutes % 60:02d} UTC"
    n, n_hour = int(k["n_history"]), int(k["n_hour"])
    if n < 5:
        return f"{clock}, an hour at which few customers pay"
    if n_hour == 0:
        return f"{clock}, an hour at which this customer never paid in {n:,} transactions"
    times = "once" if n_hour == 1 else f"{n_hour:,} times"
    return f"{clock}, an hour at which this customer paid {times} in {n:,} transactions"


def _burst_count(amount: float, money: str, k: Known) -> str:
    count = int(k["burst_count"])
    more = "more than " if count > RING else ""
    return (
        f"{more}{min(count, RING)} transactions in {_duration(k['burst_window_s'])}; "
        f"usual {_rate(k['rate_per_hour'])} an hour"
    )


def _burst_swarm(amount: float, money: str, k: Known) -> str:
    n = max(1, round(k["n_unusual_day"]))
    return f"{n} other unusual amount{'s' if n > 1 else ''} of this customer within about a day"


_WORDS: dict[str, tuple[str, Callable[[float, str, Known], str]]] = {
    "amount_customer": ("AMOUNT-CUSTOMER", _amount_customer),
    "amount_habit": ("AMOUNT-HABIT", _amount_habit),
    "amount_category": ("AMOUNT-CATEGORY", _amount_category),
    "amount_population": ("AMOUNT-HIGH", _amount_population),
    "travel_speed": ("TRAVEL-SPEED", _travel_speed),
    "hour_customer": ("HOUR-RARE", _hour),
    "hour_quiet": ("HOUR-QUIET", _hour),
    "burst_count": ("BURST-COUNT", _burst_count),
    "burst_swarm": ("BURST-SWARM", _burst_swarm),
}
"""Reason code and sentence of each signal."""


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def _rate(per_hour: float) -> str:
    return f"{per_hour:,.0f}" if per_hour >= 10 else f"{per_hour:.2g}"


def _duration(seconds: float) -> str:
    """A length of time in its natural unit.

    >>> [_duration(s) for s in (9, 1320, 7200, 300_000)]
    ['9 s', '22 min', '2 h', '3 days']
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} days"
