"""From a score to a decision, within an alert budget, and from facts to an analyst's words."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aegis_core.detector import Detector
from aegis_core.errors import InputError, NotReady
from aegis_core.profiles import FACTS, RING, Floats
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
        """Read what `save` wrote."""
        try:
            return cls(**json.loads((folder / "policy.json").read_text()))
        except (OSError, ValueError, TypeError) as e:
            raise NotReady(
                f"The policy in {folder} cannot be read ({e}). Train with `aegis run train`."
            ) from None


REASON_CODES = dict(zip(FACTORS, ("AMT-HIGH", "TRV-FAST", "HR-UNUSUAL", "BST-RAPID"), strict=True))


def reasons(
    amount: float, currency: str | None, facts: Floats, contributions: Floats, *, floor: float = 0.1
) -> list[dict[str, object]]:
    """Reasons for one verdict, the strongest first, in the customer's own units.

    Parameters
    ----------
    facts : of shape (len(FACTS),).
    contributions : of shape (len(FACTORS),), to the score.
    floor :
        Smallest share of the strongest contribution that is still a reason.

    Returns
    -------
    list of dict with `factor`, `code`, `text`, `contribution`, as in `verdicts.reasons`.
    """
    known = dict(zip(FACTS, facts.tolist(), strict=True))
    top = contributions.max()
    return [
        {
            "factor": FACTORS[f],
            "code": REASON_CODES[FACTORS[f]],
            "text": _TEXT[FACTORS[f]](amount, currency, known),
            "contribution": float(contributions[f]),
        }
        for f in np.argsort(-contributions, kind="stable")
        if contributions[f] > 0 and contributions[f] >= floor * top
    ]


def _amount_text(amount: float, currency: str | None, k: dict[str, float]) -> str:
    money = f"{currency or ''} {amount:,.2f}".strip()
    usual, category = k["usual_amount"], k["category_amount"]
    if k["n_history"] < 5:
        return f"{money} is {_times(amount / usual)} what a customer without history pays"
    if not math.isnan(category) and amount / category > amount / usual:
        return f"{money} is {_times(amount / category)} the usual amount in this category"
    return f"{money} is {_times(amount / usual)} this customer's usual {usual:,.2f}"


def _travel_text(amount: float, currency: str | None, k: dict[str, float]) -> str:
    return (
        f"{k['distance_km']:,.0f} km from the last purchase {_duration(k['gap_s'])} ago "
        f"(at least {k['speed_kmh']:,.0f} km/h)"
    )


def _hour_text(amount: float, currency: str | None, k: dict[str, float]) -> str:
    clock = f"{int(k['hour']):02d}:{int(k['hour'] % 1 * 60):02d} UTC"
    n, n_hour = int(k["n_history"]), int(k["n_hour"])
    if n < 5:
        return f"{clock}, an hour at which few customers pay"
    if n_hour == 0:
        return f"{clock}, an hour at which this customer never paid in {n:,} transactions"
    return f"{clock}, an hour of {n_hour:,} of this customer's {n:,} transactions"


def _burst_text(amount: float, currency: str | None, k: dict[str, float]) -> str:
    count, window = int(k["burst_count"]), k["burst_window_s"]
    if count <= 2 and k["n_unusual_day"] >= 1:
        n = round(k["n_unusual_day"])
        return f"{n} other unusual amount{'s' if n > 1 else ''} of this customer within a day"
    more = "more than " if count > RING else ""
    return (
        f"{more}{min(count, RING)} transactions in {_duration(window)}; "
        f"usual {k['rate_per_hour']:.2g} an hour"
    )


_TEXT = {
    "amount": _amount_text,
    "travel": _travel_text,
    "hour": _hour_text,
    "burst": _burst_text,
}


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


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
