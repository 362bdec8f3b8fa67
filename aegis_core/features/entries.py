"""Transactions as the pass reads them: what counts as a payment, its worth, its place and hour.

The meaning of a row was settled when it came (`store.meaning`). What is left is what only the pass
knows: how much a currency without a rate is usually worth, and on which clock a customer lives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.features.arrays import Floats, Ints, Rows, encode
from aegis_core.features.kernels import kernel
from aegis_core.features.population import MEAN, N, scale_of
from aegis_core.schema import CLOCKS
from aegis_core.units.money import digits
from aegis_core.units.words import ASIDE, by_itself, folded, present, role_of

STATED, ASSUMED, UNTIMED, NO_CLOCK = range(4)
"""How an hour is known: as it was said, as nothing said it, as that of a machine, or not at all."""
LEAST_AMOUNT: Final = 0.001
"""What a smaller amount of an older history counts as; no door takes one today."""

Codes = npt.NDArray[np.int8]


class Columns(NamedTuple):
    """A frame of transactions as the arrays that the pass reads, each of shape (n,).

    `scale` is the code of a currency without a rate, −1 of others; `units` how many of the smallest
    amounts of its currency make one; `offset` minutes ahead of UTC; `role` and `clock` codes.
    """

    customer: Ints
    category: Ints
    ts_us: Ints
    amount: Floats
    rate: Floats
    scale: Ints
    units: Floats
    offset: Floats
    lat: Floats
    lon: Floats
    role: Codes
    clock: Codes


class Entry(NamedTuple):
    """One transaction; `amount` is in the base currency, NaN where nobody knows what it is worth.

    `hour` is local, in [0, 24), NaN without one; `offset` minutes ahead of UTC, told by whether it
    was `stated`; `x` the log of the amount as it was paid. `place` is the number of its place, −1
    without one, and `nowhere` whether that counts as none (`population`).
    """

    customer: int
    category: int
    scale: int
    ts_us: int
    x: float
    amount: float
    hour: float
    offset: float
    stated: bool
    timed: bool
    lat: float
    lon: float
    place: int
    nowhere: bool
    role: int


@lru_cache(10_000)
def _clock_of(clock: str | None, channel: str | None) -> int:
    if clock == CLOCKS[-1]:
        return NO_CLOCK
    if by_itself(channel):
        return UNTIMED
    sent, place, customer = CLOCKS[:3]
    # the offset of a shop that the customer is not in is the shop's
    return STATED if clock == customer or (clock in (sent, place) and present(channel)) else ASSUMED


def columns(frame: Rows, customers: dict[str, int], categories: dict[str, int], most: int,
            currencies: dict[str, int]) -> Columns:  # fmt: skip
    """Arrays of `frame`; whoever is new in it gets a code in the dictionaries.

    What `frame` lacks is missing in all rows, and an amount without a rate, in a row that nobody
    asked the meaning of, is in the base currency. Categories are one however they are written
    (`folded`). Of these, and of currencies without a rate, what is new after `most` is one.
    """
    n = len(frame["customer_id"])
    amount, rate, lat, lon, offset = (
        np.array(frame[name], np.float64) if name in frame else np.full(n, np.nan)
        for name in ("amount", "rate", "lat", "lon", "utc_offset")
    )
    if (unknown := np.isnan(rate)).any():
        rate[unknown & ~without_rate(frame)] = 1.0
    clock = _mapped(frame, ("clock", "channel"), _clock_of, np.int8)
    _leave_out(_mapped(frame, ("channel",), present, bool), lat, lon, offset)
    scale = np.full(n, -1, np.int64)
    if unknown.any() and (odd := np.flatnonzero(np.isnan(rate))).size:
        names: list[str | None] = [_text(frame["currency"][i] if isinstance(frame["currency"], list)
                       else frame["currency"].iloc[i]) for i in odd]  # fmt: skip
        scale[odd] = encode(names, currencies, most)
    return Columns(
        encode(frame["customer_id"], customers),
        encode(frame["category"], categories, most, folded)
        if "category" in frame
        else np.full(n, -1, np.int64),
        np.asarray(frame["ts"], "datetime64[us]").astype(np.int64),
        amount, rate, scale,
        _mapped(frame, ("currency",), lambda currency: 10.0 ** digits(currency), np.float64),
        offset, lat, lon,
        _mapped(frame, ("kind", "status"), role_of, np.int8), clock,
    )  # fmt: skip


@kernel
def _leave_out(
    there: npt.NDArray[np.bool_], lat: Floats, lon: Floats, offset: Floats
) -> None:  # fmt: skip
    """Take away places where nobody is, or that stand for none; an offset nobody told is 0."""
    for i in range(len(there)):
        if not there[i] or (lat[i] == 0.0 and lon[i] == 0.0) or abs(lat[i]) == 90.0:
            lat[i], lon[i] = math.nan, math.nan
        if math.isnan(offset[i]):
            offset[i] = 0.0


def without_rate(frame: Rows) -> npt.NDArray[np.bool_]:
    """Which rows of `frame` are in a currency that nobody knew a rate of when they came."""
    if "rate" not in frame:
        return np.zeros(len(frame["customer_id"]), bool)
    asked = _mapped(frame, ("base_currency",), lambda base: base is not None, bool)
    return np.asarray(asked & np.isnan(np.asarray(frame["rate"], np.float64)))


def judged_rows(frame: Rows) -> npt.NDArray[np.bool_]:
    """Which rows of `frame` somebody paid, or tried to pay; the others are left aside."""
    roles: npt.NDArray[Any] = _mapped(frame, ("kind", "status"), role_of, np.int8)
    return np.asarray(roles != ASIDE)


def _mapped(
    frame: Rows, names: tuple[str, ...], of: Callable[..., Any], kind: type
) -> npt.NDArray[Any]:
    """`of` the texts in some columns of each row; None stands for a missing one."""
    there = [name for name in names if name in frame]
    n = len(frame["customer_id"])
    if not there:
        return np.full(n, of(*(None for _ in names)), kind)
    if isinstance(frame[there[0]], list):
        texts = [frame[name] if name in there else [None] * n for name in names]
        return np.array(list(map(of, *texts)), kind)
    codes, uniques = np.zeros(n, np.int64), list[tuple[Any, ...]]([()])
    for name in names:
        local, values = np.full(n, -1), pd.Index([])
        if name in there:
            local, values = pd.factorize(frame[name])
        known: list[str | None] = [*(str(v) for v in values), None]  # −1 is the last one
        pair = codes * len(known) + np.where(local < 0, len(known) - 1, local)
        codes, kept = pd.factorize(pair)
        uniques = [(*uniques[p // len(known)], known[p % len(known)]) for p in kept]
    return np.array([of(*texts) for texts in uniques], kind)[codes]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


@kernel
def entry_of(
    customer: int, category: int, scale: int, ts_us: int, paid: float, amount: float,
    offset: float, lat: float, lon: float, place: int, nowhere: bool, role: int, clock: int,
    zoned: float, lived: float,
) -> Entry:  # fmt: skip
    """One row of `Columns`, with what is known when it comes.

    `amount` is in the base currency, see `by_scale`. `zoned` says whether the customer's own clock
    is known and `lived` its minutes ahead of UTC. Numbers alone: handed the columns, numba would
    count references to each of them for every row, which costs more than all that is done here.
    """
    if clock == ASSUMED and zoned > 0:
        offset = lived
    hour = (ts_us / 3.6e9 + offset / 60.0) % 24.0
    if clock >= UNTIMED:
        hour = math.nan
    return Entry(
        customer, category, scale, ts_us, math.log(max(paid, LEAST_AMOUNT)), amount, hour, offset,
        clock == STATED, clock != NO_CLOCK, lat, lon, place, nowhere, role,
    )  # fmt: skip


@kernel
def by_scale(paid: float, scale: Ints, population: Floats) -> float:
    """What is worth as much in the base currency, by the scale of the currency it was paid in.

    NaN where nobody knows yet what is usual in one of them.
    """
    if not population[N] > 0:
        return math.nan
    return math.exp(math.log(max(paid, LEAST_AMOUNT)) - scale_of(scale) + population[MEAN])
