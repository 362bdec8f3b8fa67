"""Windows of time: what a fold trains on and tests on, and where they cut a history.

A fold trains on one window, waits as long as labels take, and tests on the next. Windows are cut
through the order of arrival, which a late event or a clock that jumped does not move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.errors import InputError, NotReady
from aegis_core.features.arrays import Ints


@dataclass(frozen=True)
class Fold:
    """One training window and the test window that follows after the label delay; ends excluded."""

    number: int
    train_from: pd.Timestamp
    train_to: pd.Timestamp
    test_from: pd.Timestamp
    test_to: pd.Timestamp


def prequential(
    train_from: str | pd.Timestamp,
    *,
    train_days: float = 7,
    delay_days: float = 7,
    test_days: float = 7,
    folds: int = 4,
) -> list[Fold]:
    """Folds that move forward by the length of the test window, so that no test row comes twice.

    >>> [str(f.test_from.date()) for f in prequential("2018-07-25", folds=2)]
    ['2018-08-08', '2018-08-15']

    Raises
    ------
    InputError : A length is not positive, or `train_from` is no date.
    """
    if not (train_days > 0 and test_days > 0 and delay_days >= 0 and folds >= 1):
        raise InputError(
            "train_days and test_days must be positive, delay_days not negative and folds at least "
            f"1; got {train_days}, {test_days}, {delay_days} and {folds}."
        )
    try:
        start = pd.Timestamp(train_from)
        if pd.isna(start) or start.tz is not None:
            raise ValueError
    except ValueError:
        raise InputError(
            f"train_from must be a date (UTC) such as 2018-07-25, not {train_from!r}."
        ) from None
    day = pd.Timedelta(days=1)
    out = []
    for i in range(folds):
        a = start + i * test_days * day
        b = a + train_days * day
        c = b + delay_days * day
        out.append(Fold(i, a, b, c, c + test_days * day))
    return out


def plan(
    first: pd.Timestamp,
    last: pd.Timestamp,
    train_from: str = "",
    *,
    folds: int = 4,
    **lengths: float,
) -> tuple[list[Fold], list[str]]:
    """The folds that a history has room for, perhaps none, and a sentence if they are too few.

    Parameters
    ----------
    first, last : times of the first and of the last transaction.
    train_from : first day of the first training window; "" lets the folds end with the history.
    lengths : as `prequential` takes them.

    Raises
    ------
    InputError : No fold from `train_from` on lies within the history, or a length is out of range.
    NotReady : There are no transactions: `first` and `last` are NaT.

    >>> days = pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-29 20:00")
    >>> found, notes = plan(*days)
    >>> [str(f.test_from.date()) for f in found], notes
    (['2026-01-16', '2026-01-23'], ['2 of the 4 folds asked for fit into the history.'])
    """
    if pd.isna(first):
        raise NotReady(
            "There are no transactions to evaluate on. Run `aegis import FILE` or "
            "`aegis run generate` first."
        )
    end = (last + pd.Timedelta(microseconds=1)).ceil("D")
    if train_from:
        asked = prequential(train_from, **lengths, folds=folds)
        found = [f for f in asked if first < f.train_to and f.test_to <= end]
        if not found:
            raise InputError(
                f"The history runs from {first} to {last}, the first fold from "
                f"{asked[0].train_from} to {asked[0].test_to}. Choose another train_from, or "
                "leave it empty."
            )
    else:
        asked = prequential(first.floor("D"), **lengths, folds=folds)
        there = [f for f in asked if f.test_to <= end]
        if not there:
            needed = (asked[0].test_to - asked[0].train_from) / pd.Timedelta(days=1)
            return [], [
                f"The history runs from {first} to {last}; one fold needs {needed:g} days. Choose "
                "shorter windows."
            ]
        start = there[0].train_from + (end - there[-1].test_to)
        found = prequential(start, **lengths, folds=len(there))
    few = f"{len(found)} of the {folds} folds asked for fit into the history."
    return found, [few] if len(found) < folds else []


def clipped(fold: Fold, first: pd.Timestamp, last: pd.Timestamp) -> Fold:
    """`fold` without whole days before the first and behind the last transaction of a history.

    Days that nobody could pay on are no days without alerts. A window that lies outside altogether
    stays as it is.

    >>> first, last = pd.Timestamp("2026-01-04 10:00"), pd.Timestamp("2026-01-18 10:00")
    >>> fold = clipped(prequential("2026-01-01", folds=1)[0], first, last)
    >>> str(fold.train_from), str(fold.test_to)
    ('2026-01-04 00:00:00', '2026-01-19 00:00:00')
    """
    start, end = first.floor("D"), (last + pd.Timedelta(microseconds=1)).ceil("D")
    return replace(
        fold,
        train_from=max(fold.train_from, start) if start < fold.train_to else fold.train_from,
        test_to=min(fold.test_to, end) if end > fold.test_from else fold.test_to,
    )


def known_compromised(
    test: pd.DataFrame, labels: pd.DataFrame, since: pd.Timestamp
) -> npt.NDArray[np.bool_]:
    """Whether the customer of each row of `test` was known as compromised when its day began.

    Known: a fraud of the customer since `since` whose `known_at` lies before that midnight. The
    protocol of the fraud detection handbook, where such cards count as blocked. `test` has
    `customer_id` and `ts`, `labels` these and `is_fraud`, `known_at`.
    """
    frauds = labels[labels.is_fraud & (labels.ts >= since)]
    first_known = frauds.groupby("customer_id").known_at.min()
    known_at = first_known.reindex(test.customer_id).to_numpy()
    known: npt.NDArray[np.bool_] = known_at < test.ts.dt.floor("D").to_numpy()
    return known


def microseconds(t: pd.Timestamp) -> int:
    """`t` in microseconds since 1970, as the pass counts time."""
    return t.value // 1000  # always nanoseconds, whatever the unit


def cut_at(ts: Ints, t: pd.Timestamp) -> int:
    """Place in the order of arrival that parts before `t` from after, with the fewest mistakes.

    Exact where time rises; a few late events or clocks that jumped do not move it.
    """
    late = ts >= microseconds(t)
    mistakes = np.concatenate([[0], np.cumsum(np.where(late, 1, -1))])
    return int(mistakes.argmin())


def cuts(a: int, b: int, middle: int) -> Iterable[tuple[int, int]]:
    """The rows from `a` to `b`, cut at `middle` where it lies between; nothing if empty."""
    for start, stop in ((a, min(b, max(a, middle))), (max(a, min(b, middle)), b)):
        if start < stop:
            yield start, stop


def calendar(scores: pd.DataFrame, folds: Sequence[Fold]) -> tuple[pd.DatetimeIndex, Ints]:
    """Days of the test windows that any fold touches, and each row's place among them."""
    days = pd.DatetimeIndex([], dtype="datetime64[us]")
    for f in folds:
        last = f.test_to - pd.Timedelta(microseconds=1)
        days = days.union(pd.date_range(f.test_from.floor("D"), last.floor("D"), unit="us"))
    return days, days.get_indexer(pd.DatetimeIndex(scores.ts.dt.floor("D"))).astype(np.int64)


def days_tested(folds: Sequence[Fold]) -> float:
    """Length of all test windows together, in days."""
    return sum((f.test_to - f.test_from) / pd.Timedelta(days=1) for f in folds)


def typed(rows: Sequence[Any], kinds: Mapping[str, Any]) -> pd.DataFrame:
    """A table with the columns and types of `kinds`, also without rows."""
    return pd.DataFrame(rows, columns=list(kinds)).astype(dict(kinds))
