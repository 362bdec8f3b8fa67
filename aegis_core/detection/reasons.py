"""From facts to an analyst's words: why there is an alert, and what would have cleared it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from aegis_core.detection.counter import CODES, Counts
from aegis_core.features.arrays import Floats, Ints, Rows
from aegis_core.features.frauds import HISTORY, weight_of_share
from aegis_core.features.signals import FACTS, N_WINDOWS, RING, SIGNAL_FACTOR, SIGNALS, WINDOWS_S
from aegis_core.schema import FACTORS, TOLD_FACTORS
from aegis_core.units.clocks import of_day, sent
from aegis_core.units.money import digits, worth

_SEEN: Final = ("{} transactions", "{} customers with this card", "{} {} at this device",
                "{} {} with this e-mail", "{} {} from this address",
                "{} declined {} at this merchant")  # fmt: skip
"""What was counted: a customer's own, then of each of `ENTITIES`."""


def counted(counts: Counts, limits: Ints, *, card: bool = False) -> dict[str, object]:
    """The reason of an alert that the counter raised: the shortest window whose limit was met.

    Of cards at an entity it is the window that most of them came in. `counts` has shape
    (N_COUNTS,) or (N_WINDOWS,), `limits` is `Policy.limits`; a block is told before a review, and
    the customer's own before what others share. `card` says that cards have names of their own.

    >>> from aegis_core.detection.policy import Policy
    >>> counts = np.ones(24, int)
    >>> counts[9] = 31
    >>> limits = Policy(0.6, 0.8, 0.01, entity_limits=(5,) * 20).limits
    >>> counted(counts, limits)["text"]
    '31 customers at this device in 60 s; from 10 on they are blocked'
    """
    limits = limits[:, : len(counts)]
    blocked = bool((counts >= limits[1]).any())
    met = counts >= limits[int(blocked)]
    entity, window = divmod(first := int(np.argmax(met)), N_WINDOWS)
    if entity > 0:
        of = slice(N_WINDOWS * entity, N_WINDOWS * (1 + entity))
        first = of.start + (window := int(np.argmax(np.where(met[of], counts[of], 0))))
    text = (
        f"{_SEEN[entity].format(counts[first], 'cards' if card else 'customers')} in "
        f"{_duration(WINDOWS_S[window])}; from "
        f"{limits[int(blocked)][first]} on {'they are blocked' if blocked else 'somebody looks'}"
    )
    code = ("BURST-LIMIT", *CODES.values())[entity]
    return {"factor": "burst", "code": code, "text": text, "contribution": 0.0}


class Paid(NamedTuple):
    """What was paid, as it is told: the amount, and what it is worth in the base currency.

    Without a `rate` the latter is by the scale of its own currency, and told in that. `zone` and
    `utc_offset` are those of the local time, as stored.
    """

    amount: float
    currency: str | None = None
    base_amount: float = math.nan
    base_currency: str | None = None
    rate: float = 1.0
    zone: str | None = None
    utc_offset: float = 0.0

    def told(self) -> str:
        """The amount in words.

        >>> Paid(6500.0, "JPY", 40.37, "EUR").told(), Paid(9.5, "EUR", 9.5, "EUR").told()
        ('JPY 6,500, about EUR 40.37,', 'EUR 9.50')
        """
        own = worth(self.amount, self.currency)
        if not self.is_converted or self.has_no_rate:
            return own
        return f"{own}, about {worth(self.base_amount, self.base_currency)},"

    def usual(self, amount: float) -> str:
        """Another amount of the base currency, which is named where the own one is another."""
        if self.has_no_rate:
            return worth(amount * self.amount / self.compared, self.currency)
        if self.is_converted:
            return worth(amount, self.base_currency)
        return f"{amount:,.{digits(self.base_currency or self.currency)}f}"

    @property
    def has_no_rate(self) -> bool:
        """Whether nobody knew a rate of its currency."""
        return self.base_currency is not None and math.isnan(self.rate)

    @property
    def is_converted(self) -> bool:
        """Whether the amount is compared in another currency than it was paid in."""
        return bool(self.base_currency and self.currency) and self.currency != self.base_currency

    @property
    def compared(self) -> float:
        """The amount that usual ones are held against."""
        return self.amount if math.isnan(self.base_amount) else self.base_amount


def paid(frame: Rows, base: Floats, rows: Ints) -> list[Paid]:
    """What was paid in some rows of `frame`, by their numbers; `base` of all in base currency."""
    columns = {name: frame.get(name) for name in _TOLD_OF}
    if isinstance(frame, pd.DataFrame):
        columns = {c: None if of is None else of.to_numpy(object) for c, of in columns.items()}

    def text(name: str, i: int) -> str | None:
        of = columns[name]
        return None if of is None or not isinstance(of[i], str) else of[i]

    def number(name: str, i: int, otherwise: float = 0.0) -> float:
        of = columns[name]
        return otherwise if of is None or of[i] is None else float(of[i])

    return [
        Paid(number("amount", i), text("currency", i), float(base[i]), text("base_currency", i),
             number("rate", i, 1.0), text("local_zone", i), number("utc_offset", i))
        for i in rows.tolist()
    ]  # fmt: skip


_TOLD_OF: Final = ("amount", "currency", "base_currency", "rate", "local_zone", "utc_offset")
"""Columns of transactions that `Paid` is made of, beside the amount in the base currency."""


def reasons(
    paid: Paid,
    facts: Floats,
    contributions: Floats,
    signal_evidence: Floats,
    history: Floats | None = None,
    *,
    floor: float = 0.1,
) -> list[dict[str, object]]:
    """Reasons for one verdict, the strongest first, in the customer's own units.

    Parameters
    ----------
    paid : what was paid.
    facts : of shape (len(FACTS),).
    contributions : of shape (len(TOLD_FACTORS),), to the score.
    signal_evidence :
        Of shape (len(SIGNALS),), see `Detector.spread`; a factor is told by its strongest signal.
    history :
        Of shape (len(HISTORY),): what was answered about merchant and customer, for a learner.
    floor : smallest share of the strongest contribution that is still a reason.

    Returns
    -------
    list of dict with `factor`, `code`, `text`, `contribution`, as in `verdicts.reasons`.
    """
    known = dict(zip(FACTS, facts.tolist(), strict=True))
    top = contributions.max()
    out: list[dict[str, object]] = []
    for f in np.argsort(-contributions, kind="stable"):
        if contributions[f] <= 0 or contributions[f] < floor * top:
            break
        factor = TOLD_FACTORS[f]
        if factor in FACTORS:
            own = [j for j in range(len(SIGNALS)) if SIGNAL_FACTOR[j] == f]
            signal = SIGNALS[max(own, key=lambda j: signal_evidence[j])]
            code, tell = _WORDS[signal]
            if signal == "burst_count" and known["n_declined"] > 1:
                code = "BURST-DECLINED"
            text = tell(paid, known)
        elif history is not None:
            code = f"{factor}-ANSWERS".upper()
            text = _answered(factor, dict(zip(HISTORY, history.tolist(), strict=True)))
        else:
            continue
        weight = float(contributions[f])
        out.append({"factor": factor, "code": code, "text": text, "contribution": weight})
    return out


def clearance(currency: str | None, cleared: Floats) -> str:
    """What would have cleared an alert, in a sentence.

    Parameters
    ----------
    cleared : of shape (1 + len(TOLD_FACTORS),), see `scoring.Scored`.

    >>> clearance("EUR", np.array([180.0, 1, 0, 0, 0, 0, 0]))
    'It would have passed at EUR 180.00 or less.'
    >>> clearance("EUR", np.array([np.nan, 0, 1, 1, 0, 0, 0]))
    'It would have passed without the travel, or at a usual hour.'
    """
    ways = []
    if not math.isnan(cleared[0]):
        ways.append(f"at {worth(cleared[0], currency)} or less")
    elif cleared[1]:
        ways.append(_ABSENT["amount"])
    ways += [_ABSENT[f] for f, alone in zip(TOLD_FACTORS[1:], cleared[2:], strict=True) if alone]
    if not ways:
        return "No single change would have cleared it."
    return f"It would have passed {', or '.join(ways)}."


_ABSENT: Final = {
    "amount": "with a usual amount",
    "travel": "without the travel",
    "hour": "at a usual hour",
    "burst": "without the transactions just before",
    "merchant": "without what was answered about the merchant",
    "customer": "without what was answered about the customer",
}


Known = dict[str, float]


def _amount_customer(paid: Paid, k: Known) -> str:
    if k["n_history"] < 5:
        return f"{paid.told()} is much for a customer without history"
    rise = f", in a rise over {k['n_raised']:.0f} transactions" if k["n_raised"] else ""
    usual = k["usual_amount"]
    return f"{_multiple(paid, usual)} this customer's usual {paid.usual(usual)}{rise}"


def _amount_habit(paid: Paid, k: Known) -> str:
    usual = k["habit_amount"]
    if math.isclose(usual, k["category_amount"]):  # never paid in this category
        return _amount_category(paid, k)
    return f"{_multiple(paid, usual)} this customer's usual {paid.usual(usual)} in the category"


def _amount_category(paid: Paid, k: Known) -> str:
    usual = k["category_amount"]
    return f"{_multiple(paid, usual)} the {paid.usual(usual)} that is usual in the category"


def _amount_population(paid: Paid, k: Known) -> str:
    usual = k["population_amount"]
    return f"{_multiple(paid, usual)} the {paid.usual(usual)} that customers usually pay"


def _multiple(paid: Paid, usual: float) -> str:
    return f"{paid.told()} is {_times(paid.compared / usual)}"


def _travel_speed(paid: Paid, k: Known) -> str:
    gap = k["gap_s"]
    apart = f"last purchase {_duration(gap)} ago" if gap >= 0 else f"one {_duration(-gap)} later"
    return f"{k['distance_km']:,.0f} km from the {apart} (at least {k['speed_kmh']:,.0f} km/h)"


def _hour(paid: Paid, k: Known) -> str:
    own = k["utc_offset"] == paid.utc_offset  # else of where the customer was before
    clock = of_day(k["hour"], paid.zone if own else sent(int(k["utc_offset"])))
    n, n_hour = int(k["n_history"]), int(k["n_hour"])
    if n < 5:
        return f"{clock}, an hour at which few customers pay"
    if n_hour == 0:
        return f"{clock}, an hour at which this customer never paid in {n:,} transactions"
    times = "once" if n_hour == 1 else f"{n_hour:,} times"
    return f"{clock}, an hour at which this customer paid {times} in {n:,} transactions"


def _burst_count(paid: Paid, k: Known) -> str:
    count, within = k["burst_count"], _duration(k["burst_window_s"])
    more = "more than " if count > RING else ""
    told = f"{more}{min(count, RING):.0f} transactions in {within}"
    declined = k["n_declined"]
    if declined > 1:
        told = f"{declined:.0f} declined tries in {within}"
        told += f" among {count:.0f} transactions" if count > declined else ""
    return f"{told}; usual {_rate(k['rate_per_hour'])} an hour"


def _answered(who: str, h: Known) -> str:
    """What the answers say of a merchant or customer, from `HISTORY` by name."""
    of = "at this merchant" if who == "merchant" else "of this customer"
    share = h[f"{who}_per_payment"]
    if share <= 0:
        cleared = max(1, round(h[f"{who}_cleared"]))
        return f"no fraud among {cleared} answered transactions {of}"
    weight = weight_of_share(share)
    frauds = max(1, round(h[f"{who}_weighed_frauds"] / weight))
    payments = max(frauds, float(f"{frauds / share:.1g}"))
    ago = _duration(86_400 * (weight / h[f"{who}_weighed_recency"] - 1))
    return (
        f"{frauds} confirmed fraud{'s' if frauds > 1 else ''} {of} within about a month, of about "
        f"{payments:,.0f} payment{'s' if payments > 1 else ''}, the newest {ago} ago"
    )


def _burst_swarm(paid: Paid, k: Known) -> str:
    n = max(1, round(k["n_unusual_day"]))
    return f"{n} other unusual amount{'s' if n > 1 else ''} of this customer within about a day"


_WORDS: dict[str, tuple[str, Callable[[Paid, Known], str]]] = {
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
