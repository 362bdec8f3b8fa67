"""What is usual for everybody, and for everybody in a category: the figures that customers share.

They are sums of whole numbers, so that neither the order of simultaneous rows nor how a history is
split changes a bit, and are published when a day ends. No sender rules them: what a customer sends
enters within a few standard deviations of what was published (`BELOW`, `ABOVE`), many transactions
of one customer count for few (`weight_of`), and days fade. So a day ends once, whoever says that it
is over.
"""

from __future__ import annotations

import math
from typing import Final

from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.kernels import kernel
from aegis_core.schema import DAY_US

PRIOR_POPULATION: Final = 10.0
"""Transactions that what is expected beforehand counts for."""
BELOW: Final = 2.0
"""Standard deviations below the usual beyond which an amount teaches only that much: none is too
small to be judged ordinary, so that small ones must not widen what is."""
ABOVE: Final = 4.0
"""The same above the usual."""
GAP_WINSOR: Final = 5.0
"""Mean gaps beyond which a longer one teaches only that much."""
REMEMBERED_DAYS: Final = 56
"""Days with traffic that the figures remember."""
FULL_WEIGHT: Final = 10.0
"""Transactions of a customer in `REMEMBERED_DAYS` that count in full; of more, each counts for
this number over theirs."""
FEWEST_A_DAY: Final = 16
"""Arrivals after which a day may end; a shorter one ends with the next."""
MOST_BEHIND: Final = 256
"""Arrivals from before yesterday, more than others, that set a clock back."""

_REMEMBERED_US = REMEMBERED_DAYS * float(DAY_US)
_UNIT = 65_536.0  # of the weights, and so of all sums, in fixed point
_MINUTE_US = 60e6

# Columns of the sums and of what is published from them, each followed by the hours of the day.
_S_N, _S_X, _S_XX, _S_WITHIN, _S_GAPS, _S_GAP, _S_HOURS = range(7)
# Of a category: customers who ever paid in it, whole numbers. Of the population: payments without
# a category that says something.
_S_WHO = _S_HOURS + 24
SUMS: Final = _S_WHO + 1
N, MEAN, VAR, WITHIN, GAP, HOURS = range(6)
ODD: Final = HOURS + 24
PUBLISHED: Final = ODD + 1
# Of a currency without a rate: the number and the sum of log amounts of the day, and of those
# before it.
_D_N, _D_X, _K_N, _K_X = range(4)
SCALE: Final = 4
FEWEST_OF_SCALE: Final = 40
"""Amounts of a currency after which it is known how much is usual."""
# Of a place: what was paid there, and what of it came by or went on a journey that nobody can make,
# of the day and of those before it; then whether it counts as none.
_P_N, _P_ODD, _Q_N, _Q_ODD, NOWHERE = range(5)
PLACE: Final = 5
PLACES: Final = 2048
"""Numbers that places have by their coordinates; two may share one."""
LEAST_SHARE: Final = 0.01
"""Share of all payments with a place below which a place is told from no other."""
ODD_SHARE: Final = 0.1
"""Share of what was paid at a place, on journeys that nobody can make, from which it is none."""
FEWEST_ODD: Final = 150.0
"""Such payments, as `weight_of` counts them, of which there have to be as many."""
MOST_OF_SCALE: Final = 4.0
"""Of these, a customer's at most: so that ten say it, and no one for the others."""
# The day that has not ended, arrivals since the last one did, votes that it never began, and the
# last day that they name.
_DAY, _SINCE, _AGAINST, _BEFORE = range(4)
NO_CLOCK: Final = (-1, 0, 0, 0)


@kernel
def ends_day(clock: Ints, ts_us: int) -> bool:
    """Whether an arrival ends the day before it.

    A day ends once, however late what belongs to it arrives. Where many more arrivals than not are
    from long before, the clock was ahead: it goes back, and nothing ends.
    """
    day, today = ts_us // DAY_US, clock[_DAY]
    clock[_SINCE] += 1
    if day > today:
        clock[_DAY], clock[_AGAINST] = day, 0
        if today < 0 or clock[_SINCE] < FEWEST_A_DAY:  # no sender makes a day of each arrival
            return False
        clock[_SINCE] = 0
        return True
    if day < today - 1:
        clock[_BEFORE] = day if clock[_AGAINST] == 0 else max(day, clock[_BEFORE])
        clock[_AGAINST] += 1
        if clock[_AGAINST] >= MOST_BEHIND:
            clock[_DAY], clock[_AGAINST] = clock[_BEFORE], 0
    elif clock[_AGAINST] > 0:
        clock[_AGAINST] -= 1
    return False


@kernel
def publish(sums: Ints, kept: Ints, published: Floats, scales: Ints, places: Ints) -> None:
    """Fade what was kept, add the day that ended, and publish.

    A day of little traffic fades the others less.
    """
    usual = max(kept[0, _S_N] // REMEMBERED_DAYS, 1)
    full = 256 * min(sums[0, _S_N], usual) // usual
    for r in range(len(sums)):
        for c in range(SUMS):
            gone = 0 if c == _S_WHO and r > 0 else kept[r, c] // REMEMBERED_DAYS * full // 256
            kept[r, c] += sums[r, c] - gone
            sums[r, c] = 0
    for scale in scales:
        for c in range(SCALE // 2):
            kept_c = c + SCALE // 2
            scale[kept_c] += scale[c] - scale[kept_c] // REMEMBERED_DAYS * full // 256
            scale[c] = 0
    _publish_places(places, full)
    figures(kept, published, 0)


@kernel
def figures(kept: Ints, published: Floats, from_row: int) -> None:
    """Turn sums into the figures that the next day is judged by.

    Row 0 is the population's, `N, MEAN, VAR, WITHIN` of its log amounts, the mean `GAP` between a
    customer's transactions in microseconds, the share of each of the `HOURS`, and of payments whose
    category is `ODD`; the others are the categories', which lean on it, with `N` no more than the
    customers who paid there.
    """
    for r in range(from_row, len(kept)):
        s, p, everybody = kept[r], published[r], published[0]
        mean, var, within = 0.0, 1.0, 1.0  # the prior: of the population for a category
        if r > 0:
            mean, var, within = everybody[MEAN], everybody[VAR], everybody[WITHIN]
        n = s[_S_N] / _UNIT
        p[ODD] = s[_S_WHO] / s[_S_N] if r == 0 and n > 0 else 0.0
        if n > 0:
            own = s[_S_X] / s[_S_N]
            own_var = max(s[_S_XX] / s[_S_N] - own * own, 0.0)
            own_within = s[_S_WITHIN] / s[_S_N]
            told = n if r == 0 else min(n, float(s[_S_WHO]))  # no one says what is usual for all
            share, n = told / (told + PRIOR_POPULATION), told
            mean = own if r == 0 else mean + share * (own - mean)
            var += share * (own_var - var)
            within += share * (own_within - within)
        p[N], p[MEAN] = n, mean
        p[VAR], p[WITHIN] = max(var, 1e-4), max(within, 1e-4)
        p[GAP] = float(DAY_US)
        if s[_S_GAPS] > 20 * _UNIT:  # at least a second: whole days may stand at the same instant
            p[GAP] = max(s[_S_GAP] * _MINUTE_US / s[_S_GAPS], 1e6)
        hours = 24.0 * _UNIT
        for h in range(24):
            hours += s[_S_HOURS + h]
        for h in range(24):
            p[HOURS + h] = (s[_S_HOURS + h] + _UNIT) / hours


@kernel
def _publish_places(places: Ints, full: int) -> None:
    """Likewise of places; one more of those that cannot be one counts as none.

    That is the one with the most impossible journeys, since the others may owe theirs to it.
    """
    everywhere = 0
    for p in range(len(places)):
        for c in range(2):
            places[p, c + 2] += places[p, c] - places[p, c + 2] // REMEMBERED_DAYS * full // 256
            places[p, c] = 0
        everywhere += places[p, _Q_N]
    worst, most = -1, 0
    for p in range(len(places)):
        n, odd = places[p, _Q_N], places[p, _Q_ODD]
        if odd < FEWEST_ODD * _UNIT or odd < ODD_SHARE * n or n < LEAST_SHARE * everywhere:
            places[p, NOWHERE] = 0
        elif places[p, NOWHERE] == 0 and odd > most:
            worst, most = p, odd
    if worst >= 0:
        places[worst, NOWHERE] = 1


@kernel
def place_of(lat: float, lon: float) -> int:
    """The number of a place in `PLACES`, by its coordinates to a metre; −1 where there is none."""
    if math.isnan(lat):
        return -1
    key = round(lat * 1e5) * 36_000_001 + round(lon * 1e5)
    return (key * 0x9E3779B97F4A7C1 >> 40) & (PLACES - 1)


@kernel
def add_place(places: Ints, place: int, weight: int) -> None:
    """Add a payment to its place."""
    places[place, _P_N] += weight


@kernel
def add_odd(places: Ints, here: int, there: int, weight: int) -> None:
    """Add an impossible journey to the end that had more of them, before today, for its payments.

    Where neither had any it is where the journey ended.
    """
    odd_here, odd_there = places[here, _Q_ODD], places[there, _Q_ODD]
    if odd_there / max(places[there, _Q_N], 1) > odd_here / max(places[here, _Q_N], 1):
        here = there
    places[here, _P_ODD] += weight


@kernel
def recent(before: float, gap_us: float) -> float:
    """A customer's transactions in about `REMEMBERED_DAYS`, with one more after a gap."""
    return before * math.exp(-max(gap_us, 0.0) / _REMEMBERED_US) + 1.0


@kernel
def weight_of(n_recent: float) -> int:
    """What one of so many transactions of a customer weighs, as a whole number."""
    return round(_UNIT * min(1.0, FULL_WEIGHT / n_recent))


@kernel
def within(x: float, usual: float, below: float, above: float) -> float:
    """The nearest number to `x` that is no further than that from the usual."""
    return min(max(x, usual - below), usual + above)


@kernel
def add(
    sums: Ints, published: Floats, known: bool, who: int, weight: int, x: float, deviation: float
) -> None:
    """Add a log amount and its deviation from the customer's own, near what was published.

    `sums` and `published` are rows of the population or of a category; `who` is 1 for a customer
    who is new in it, or the weight of what is `ODD`. Where nothing was published of a category,
    that is the population's, if it is `known`.
    """
    if known:
        sd, own_sd = math.sqrt(published[VAR]), math.sqrt(published[WITHIN])
        x = within(x, published[MEAN], BELOW * sd, ABOVE * sd)
        deviation = within(deviation, 0.0, BELOW * own_sd, ABOVE * own_sd)
    sums[_S_WHO] += who
    sums[_S_N] += weight
    sums[_S_X] += round(x * weight)
    sums[_S_XX] += round(x * x * weight)
    sums[_S_WITHIN] += round(deviation * deviation * weight)


@kernel
def scale_of(scale: Ints) -> float:
    """The mean log amount in a currency without a rate; NaN where it is not known yet."""
    if scale[_K_N] < FEWEST_OF_SCALE * _UNIT:
        return math.nan
    mean: float = scale[_K_X] / scale[_K_N]
    return mean


@kernel
def add_to_scale(scale: Ints, weight: int, x: float) -> None:
    """Add a log amount to its currency, near what is usual in it."""
    usual = scale_of(scale)
    if not math.isnan(usual):
        x = within(x, usual, BELOW, ABOVE)
    scale[_D_N] += weight
    scale[_D_X] += round(x * weight)


@kernel
def add_gap(sums: Ints, published: Floats, weight: int, gap_us: float) -> None:
    """Add the time since the customer's transaction before, near what was published."""
    longest = min(30.0 * DAY_US, GAP_WINSOR * published[GAP])
    sums[_S_GAPS] += weight
    sums[_S_GAP] += round(weight * min(max(gap_us, 0.0), longest) / _MINUTE_US)


@kernel
def add_hour(sums: Ints, weight: int, hour: int) -> None:
    """Add a transaction to its hour of the day, 0 to 23."""
    sums[_S_HOURS + hour] += weight
