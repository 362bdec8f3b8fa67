"""What a visitor chose: period, filters, axes. All of it comes from a page or an address."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from aegis_core.schema import ENTITIES, LONGEST_TEXT, TOLD_FACTORS, WORTH, Decision

DECISIONS: Final = tuple(decision.label for decision in Decision)
ALERTS: Final = "alerts"
"""What a filter calls all decisions but `approve`."""
NAMED: Final = {
    "customer": "Customer", "merchant_id": "Merchant", "card_id": "Card", "device_id": "Device",
    "email": "E-mail", "ip": "Address",
}  # fmt: skip
"""Of what a filter can show the verdicts alone, and its title."""
REASONS: Final = (*TOLD_FACTORS, "list")
"""What the first reason of a verdict can speak of."""
PERIODS: Final = {
    "15m": ("15 min", 900.0),
    "1h": ("1 hour", 3_600.0),
    "today": ("Today", None),
    "7d": ("7 days", 7 * 86_400.0),
    "30d": ("30 days", 30 * 86_400.0),
    "all": ("All", None),
}
"""Periods to choose from: their names and lengths in seconds; a day begins at midnight UTC."""


@dataclass(frozen=True)
class Axis:
    """A column of the window that the scatter can show, and how."""

    title: str
    format: str
    layout: Mapping[str, object] = field(default_factory=dict)


AXES: Final = {
    "hour": Axis("hour of day (UTC)", ".1f", {"range": [0, 24], "dtick": 3}),
    "amount": Axis("amount", ",.2f", {"type": "log"}),
    "distance": Axis("distance from the last place (km)", ",.0f", {"rangemode": "tozero"}),
    "travel": Axis("travel evidence (nats)", ".2f", {"rangemode": "tozero"}),
    "risk": Axis("risk (percentile of ordinary traffic)", ".2f"),
    "score": Axis("anomaly score", ".3f"),
}
BARS: Final = {"auto": 0, "minute": 60, "hour": 3_600, "day": 86_400}
_LAST_TIME: Final = 253_402_300_799.0
_ROLLED: Final = {
    "decision": "decision = ?",
    "factor": "factor = ?",
    "category": f"left(category, {LONGEST_TEXT}) = ?",
}
_BY_ROW: Final = {
    "decision": "v.decision = ?",
    "factor": "v.reasons[1].factor = ?",
    "category": f"left(t.category, {LONGEST_TEXT}) = ?",
    "min_amount": f"{WORTH} >= ?",
    "max_amount": f"{WORTH} <= ?",
    "customer": f"left(t.customer_id, {LONGEST_TEXT}) = ?",
    **{name: f"left(t.{name}, {LONGEST_TEXT}) = ?" for name in ENTITIES},
}


@dataclass(frozen=True)
class Filters:
    """Which verdicts the board shows, and over which axes; "" means all.

    Attributes
    ----------
    period : A key of `PERIODS`, or "between" for `start` to `end`, in seconds since 1970. Periods
        count by the time of the verdict.
    decision : One of `DECISIONS`, or `ALERTS`.
    factor : Of the first reason, one of `REASONS`.
    min_amount, max_amount : In the base currency; `max_amount` 0 means no limit.
    x, y, z : Axes of the scatter; `z` "" draws it flat.
    bars : Width of a bar over time, a key of `BARS`.
    """

    period: str = "today"
    start: float = 0.0
    end: float = 0.0
    decision: str = ""
    factor: str = ""
    category: str = ""
    min_amount: float = 0.0
    max_amount: float = 0.0
    customer: str = ""
    merchant_id: str = ""
    card_id: str = ""
    device_id: str = ""
    email: str = ""
    ip: str = ""
    x: str = "hour"
    y: str = "amount"
    z: str = ""
    bars: str = "auto"

    @classmethod
    def parse(cls, given: object) -> Filters:
        """The filters that a page asked for; what cannot be is left at its default.

        >>> Filters.parse({"decision": "block", "min_amount": "12.5", "x": "' OR 1=1"}).chosen()
        {'decision': 'block', 'min_amount': 12.5}
        >>> Filters.parse(["no", "mapping"]) == Filters()
        True
        """
        told: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        allowed = {
            "period": (*PERIODS, "between"),
            "decision": ("", *DECISIONS, ALERTS),
            "factor": ("", *REASONS),
            "bars": tuple(BARS),
            "x": tuple(AXES),
            "y": tuple(AXES),
            "z": ("", *AXES),
        }
        values: dict[str, Any] = {}
        for name, default in asdict(cls()).items():
            value = told.get(name, default)
            if name in allowed:
                values[name] = value if value in allowed[name] else default
            elif isinstance(default, float):
                values[name] = _number(value, _LAST_TIME if name in ("start", "end") else 1e12)
            else:
                text = value if isinstance(value, str) else ""
                values[name] = text.replace("\0", "")[:LONGEST_TEXT]
        made = cls(**values)
        if made.period == "between" and made.start < made.end:
            return made
        period = "today" if made.period == "between" else made.period
        return replace(made, period=period, start=0.0, end=0.0)

    def chosen(self) -> dict[str, Any]:
        """What differs from the default, as it stands in the address."""
        default = asdict(Filters())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    def seen(self) -> Filters:
        """The same without axes, which change no number."""
        return replace(self, x="hour", y="amount", z="")

    def from_to(self, now: dt.datetime) -> tuple[dt.datetime, dt.datetime | None]:
        """First minute of the period at `now`, and the one after its last; None: to the newest.

        >>> Filters("15m").from_to(dt.datetime(2026, 4, 1, 12, 0, 30))[0].isoformat()
        '2026-04-01T11:45:00'
        """
        if self.period == "between":
            epoch = dt.datetime(1970, 1, 1)
            first = epoch + dt.timedelta(seconds=self.start // 60 * 60)
            return first, epoch + dt.timedelta(seconds=-(-self.end // 60) * 60)
        if self.period == "all":
            return dt.datetime(1970, 1, 1), None
        if self.period == "today":
            return now.replace(hour=0, minute=0, second=0, microsecond=0), None
        length = PERIODS[self.period][1]
        first = now - dt.timedelta(seconds=length or 0.0)
        return first.replace(second=0, microsecond=0), None

    @property
    def by_row(self) -> bool:
        """Whether rollups cannot answer, so that transactions must be looked through."""
        return any(getattr(self, name) for name in ("min_amount", "max_amount", *NAMED))

    @property
    def all_rows(self) -> bool:
        """Whether every verdict of the period passes."""
        return not (self.by_row or self.decision or self.factor or self.category)

    def condition(self, *, rolled: bool = False) -> tuple[str, list[object]]:
        """The SQL condition on `v` (verdicts) and `t` (transactions), with its parameters.

        Where `rolled`, the one on `rollups`, as far as these know.

        >>> Filters(decision="block").condition(), Filters().condition()
        (('v.decision = ?', ['block']), ('true', []))
        >>> Filters(decision="alerts").condition()
        ("v.decision <> 'approve'", [])
        >>> Filters(category="food").condition(rolled=True)
        ('left(category, 200) = ?', ['food'])
        """
        known = _ROLLED if rolled else _BY_ROW
        chosen = {name: value for name in known if (value := getattr(self, name))}
        sql = " AND ".join(known[name] for name in chosen) or "true"
        if self.decision == ALERTS:
            del chosen["decision"]
            sql = sql.replace("decision = ?", "decision <> 'approve'", 1)
        return sql, list(chosen.values())


def _number(value: object, most: float) -> float:
    """A number of [0, most] from what a page sent; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return min(number, most) if math.isfinite(number) and number > 0 else 0.0
