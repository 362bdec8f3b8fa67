"""Verdicts counted by bar of time, decision, factor and currency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aegis_core.views.dashboard.filters import BARS, DECISIONS

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]
MOST_BARS: Final = 96
WIDTHS_S: Final = (60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 604800, 2592000)
_NONE: Final = np.empty(0)


@dataclass(frozen=True)
class Counts:
    """Verdicts counted by bar, decision, factor and currency; keys may come more than once.

    Attributes
    ----------
    start : Beginning of the bar in seconds since 1970, of shape (n,), as all columns.
    decision : 0, 1 or 2, as `schema.Decision`.
    n, amount : Number of verdicts and sum of their amounts in the base currency.
    width_s : Length of a bar in seconds.
    """

    start: Floats
    decision: npt.NDArray[np.int64]
    factor: npt.NDArray[np.object_]
    currency: npt.NDArray[np.object_]
    n: Floats
    amount: Floats
    width_s: int = 60

    def total(self, *decisions: int) -> int:
        """Number of verdicts with one of `decisions`; without any, of all."""
        return int(self.n[np.isin(self.decision, decisions)].sum() if decisions else self.n.sum())

    def bars(self, first: float, last: float) -> tuple[Floats, Floats]:
        """Starts of the bars from `first` to `last`, and counts of shape (3, n_bars)."""
        begin = first // self.width_s
        n_bars = max(1, int(last // self.width_s - begin) + 1)
        counts = np.zeros((len(DECISIONS), n_bars))
        place = (self.start // self.width_s - begin).astype(np.int64)
        inside = (place >= 0) & (place < n_bars)
        np.add.at(counts, (self.decision[inside], place[inside]), self.n[inside])
        starts: Floats = np.asarray((begin + np.arange(n_bars)) * self.width_s, np.float64)
        return starts, counts

    def joined(self, other: Counts) -> Counts:
        """Both together; the same verdict must not be in both."""
        mine, theirs = vars(self), vars(other)
        both: dict[str, Any] = {
            k: np.concatenate([mine[k], theirs[k]]) for k in mine if k != "width_s"
        }
        return replace(self, **both)

    def only(self, mask: npt.NDArray[np.bool_]) -> Counts:
        """What was counted in the rows of `mask`, such as those whose bar starts in time."""
        columns: dict[str, Any] = {k: v[mask] for k, v in vars(self).items() if k != "width_s"}
        return replace(self, **columns)


def counted(rows: Columns, width_s: int = 60) -> Counts:
    """`Counts` of a query's answer, or of columns of the window, one verdict each."""
    n = len(rows["decision"])
    decision = rows["decision"]
    codes = [DECISIONS.index(d) for d in decision] if decision.dtype == object else decision
    start = rows.get("start")
    return Counts(
        np.asarray(rows["scored_at"] // width_s * width_s if start is None else start, np.float64),
        np.asarray(codes, np.int64).reshape(n),
        np.asarray(rows["factor"], object),
        np.asarray(rows.get("unit", rows["currency"]), object),
        np.asarray(rows["n"] if "n" in rows else np.ones(n), np.float64),
        np.asarray(rows.get("worth", rows["amount"]), np.float64),
        width_s,
    )


def nothing(width_s: int = 60) -> Counts:
    """No verdicts at all."""
    return counted(
        dict.fromkeys(("start", "decision", "factor", "currency", "amount"), _NONE), width_s
    )


def appended(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> int:
    """How many were added at the end of `before`, some lost at its beginning; -1: it is another.

    >>> appended(np.array([1, 2, 3]), np.array([2, 3, 4])), appended(np.array([1]), np.array([]))
    (1, -1)
    """
    if not len(before) or not len(after):
        return -1
    n_new = int((after > before[-1]).sum())
    kept = len(after) - n_new
    same = 0 < kept <= len(before) and np.array_equal(before[-kept:], after[:kept])
    return n_new if same else -1


def width_of(first: float, last: float, asked: str = "auto") -> int:
    """Length of a bar in seconds such that there are at most `MOST_BARS`, or as asked for.

    What is asked for gives way where it would make more than ten times as many.

    >>> width_of(0, 3600), width_of(0, 86_400), width_of(0, 30 * 86_400), width_of(0, 60, "day")
    (60, 1800, 43200, 86400)
    """
    wanted = BARS[asked]
    most = 10 * MOST_BARS if wanted else MOST_BARS
    fits = (w for w in WIDTHS_S if w >= wanted and (last - first) / w <= most)
    return next(fits, WIDTHS_S[-1])
