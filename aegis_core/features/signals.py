"""The one pass: what is normal for each customer, and how surprising each transaction is.

`observe` reads the state and writes the signals of one transaction; `learn` folds the transaction
into the state. Both are called row after row in order of arrival, by training, evaluation and live
scoring alike, from the loop in `scoring`. There is no other way to compute a signal.

A signal is the surprise of one view on the transaction, −log of a tail probability under a simple
model of the customer (`surprise`), in nats: 0 where the view has nothing to say, one-sided, higher
is more suspicious. `detector` recalibrates every signal on real traffic, so only the order and the
shape of the bulk matter.

Customers with a short history lean on the population's figures of the days that have ended
(`population`): `PRIOR_*` say how many transactions these count for.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from aegis_core.features.arrays import Floats, Ints, slot_of
from aegis_core.features.entries import LEAST_AMOUNT, Entry
from aegis_core.features.geo import LOCAL_KM, ROAD_KMH, could_travel, haversine_km
from aegis_core.features.kernels import kernel
from aegis_core.features.population import (
    ABOVE,
    GAP,
    HOURS,
    MEAN,
    MOST_OF_SCALE,
    NOWHERE,
    ODD,
    PRIOR_POPULATION,
    VAR,
    WITHIN,
    N,
    add,
    add_gap,
    add_hour,
    add_odd,
    add_place,
    add_to_scale,
    place_of,
    recent,
    weight_of,
    within,
)
from aegis_core.features.surprise import (
    PRIOR_MEAN,
    PRIOR_VARIANCE,
    expected,
    faded,
    hour_surprise,
    normal_score,
    poisson_surprise,
    surprise,
    welford,
)
from aegis_core.schema import DAY_US
from aegis_core.units.words import ASIDE, DECLINED, PAYMENT

SIGNALS: Final = (
    "amount_customer",  # above this customer's own amounts
    "amount_habit",  # above this customer's amounts in this category
    "amount_category",  # above everybody's amounts in this category
    "amount_population",  # above everybody's amounts
    "travel_speed",  # faster than people travel, between here and the last place
    "hour_customer",  # at an hour that this customer rarely uses
    "hour_quiet",  # close to the middle of this customer's quiet time
    "burst_count",  # more transactions in 10 s, 1 min, 10 min or 1 h than the usual rate explains
    "burst_swarm",  # several unusual amounts within about a day
)
"""The views, in the order of every signal array."""

SIGNAL_FACTOR: Final = (0, 0, 0, 0, 1, 2, 2, 3, 3)
"""Index into `schema.FACTORS` of the factor that each signal speaks for."""

FACTS: Final = (
    "usual_amount",  # exp of the customer's mean log amount; as paid where nobody knows its worth
    "habit_amount",  # the same of this customer in this category; NaN without one
    "category_amount",  # the same of everybody in this category; NaN without one
    "population_amount",  # the same of everybody
    "n_history",  # transactions this customer's amounts were learnt from
    "distance_km",  # from the last place; NaN without one
    "gap_s",  # since the last place, in seconds; below 0 where that was later
    "speed_kmh",
    "hour",  # local hour of day with fraction; NaN where it says nothing
    "utc_offset",  # minutes that this is ahead of UTC
    "n_hour",  # transactions this customer made at this hour of day
    "burst_count",  # transactions in the most surprising window, this one included
    "burst_window_s",
    "n_declined",  # of these, declined ones
    "rate_per_hour",  # usual
    "n_unusual_day",  # unusual amounts of about the last day, decayed
    "n_raised",  # transactions before this one that were above the usual without a pause
)
"""What a reason is told with, in the customer's own units, one column each."""

PRIOR_RATE: Final = 2.0
LONGEST_GAP_US: Final = 14.0 * DAY_US
"""What a longer gap counts as in the usual rate: one wrong time makes nobody a rare customer."""
OWN_BELOW: Final = 2.5
"""`population.BELOW` of a customer's own amounts."""
SMALL_BELOW: Final = 1.0
"""The same in a run of small ones."""
RUN_OF_SMALL: Final = 3.0
"""Amounts below the usual that are a run; each other one takes a quarter of those before it."""
FEWEST_IN_CURRENCY: Final = 3
"""Amounts of a customer in a currency from which these are their habit, where nobody knows what it
is worth."""
FEW_ODD: Final = 0.01
"""Share of payments without a category that says something, below which one of them is judged as if
it was where most of the customer's are: else who leaves it out, or makes one up, would have most
amounts for ordinary ones."""
MOST_LEAD: Final = 20.0
"""Payments elsewhere after which another category is where most are (Boyer and Moore 1981)."""
RISE_SLACK: Final = 1.0
"""Standard deviations above the usual that are no rise yet."""
RISE_STEP: Final = 2.0
"""Standard deviations that one transaction counts for at most in a rise."""
RISE_FLOOR: Final = 5.0
"""Standard deviations that a rise adds up to before it says anything."""
RISE_HOURS: Final = 24.0 * 30
"""Hours after which a rise is forgotten by a factor of e."""
SWARM_HOURS: Final = 24.0
SWARM_FLOOR: Final = 4.0
"""Nats of amount surprise from which a transaction counts towards a swarm."""
SWARM_GAIN: Final = 1.5
WINDOWS_S: Final = (10.0, 60.0, 600.0, 3600.0)
N_WINDOWS: Final = len(WINDOWS_S)
SPEED_SLACK_H: Final = 1 / 12
"""Added to the time between two places, so that near and quick is not fast."""
SPEED_UNIT_KMH: Final = 50.0
_LEAST_ODD: Final = math.log1p(LOCAL_KM / (LOCAL_KM / ROAD_KMH + SPEED_SLACK_H) / SPEED_UNIT_KMH)
# what the signal is at least, of a journey that nobody can make
BURST_FLOOR: Final = 3.0
"""Nats of surprise below which the usual rate explains a count."""
OWN_RUN: Final = 5
"""Fewest in a window that are a run of the customer's own, such as a daily posting. What fewer say
stays, whether or not they came before: a detector learns from it how ordinary counts are spread."""
OWN_MOST: Final = (9, 15, 23, 29)
"""Of each window, what a count becomes the customer's own up to if somebody was to look at it: less
than twice the least of everybody's limits, whether or not a policy blocks from there on."""
RING: Final = 64
"""Recent timestamps kept of each customer, in their order; counts end there."""
MOST_BEHIND: Final = 8
"""Arrivals in turn, each more than a day before the newest, that set a customer's clock back."""

_CURRENCY = 1 << 19  # and its code, in the place of a category's
_HOUR_US = 3.6e9
_LONGEST_US = WINDOWS_S[-1] * 1e6

# Columns of a customer's row; the first three are also those of a customer and category.
_N, _MEAN, _M2, _SEEN, _SPAN, _LAST, _LAT, _LON, _PLACE_TS, _SWARM, _UNUSUAL, _HEAD = range(12)
_RECENT, _RISE, _RAISED, _BEHIND, _SMALL = range(12, 17)
_HOURS = 17
_TIMES = _HOURS + 24
# Of the customer's clock: whether it is known, and its minutes ahead of UTC. Of each window: the
# largest count of a day, of the days before it, the largest of another of these, and the day of the
# largest.
ZONED, LIVED, _DAY = range(_TIMES + RING, _TIMES + RING + 3)
_TODAY = _DAY + 1
_ONCE, _TWICE, _ONCE_DAY = (_TODAY + n * N_WINDOWS for n in (1, 2, 3))
# The category that most of the payments were in, 1 more than its code, and by how many.
MAIN: Final = _TODAY + 4 * N_WINDOWS
_LEAD = MAIN + 1
WIDTH: Final = _LEAD + 1
"""Columns of a customer's row."""


class State(NamedTuple):
    """All that the pass remembers, as flat arrays.

    `customers` one row each; `pair_keys` and `pairs` an open-addressing table of customer and
    category. Of the population (row 0) and the categories (row 1 + code): `sums` of the day that
    has not ended, `kept` of those before it, `published` until it ends; `clock` which day it is.
    `scales` one row for each currency without a rate, `places` for each number of a place.
    """

    customers: Floats
    pair_keys: Ints
    pairs: Floats
    sums: Ints
    kept: Ints
    published: Floats
    clock: Ints
    scales: Ints
    places: Ints


@kernel
def observe(
    s: Floats,
    published: Floats,
    pair_keys: Ints,
    pairs: Floats,
    places: Ints,
    entry: Entry,
    amount: float,
    signals: Floats,
    facts: Floats,
    counts: Ints,
    raw: Ints,
) -> None:
    """Write the signals and facts of one transaction, from what is known before it.

    `s` is the row of its customer; it and the other arrays are parts of `State`, one by one, since
    numba would count references to all of a tuple for every row.
    `amount`, in the base currency, may be another than the entry's own. `category` is −1 and what
    else is missing NaN; their views then say 0. `counts` takes the customer's transactions within
    each of `WINDOWS_S`, this one included, exact up to `RING` and `RING + 1` beyond, and 1 where
    the usual rate explains them, or where `OWN_RUN` or more came, as on two days before; `raw` all
    of them. `facts`, `counts` and `raw` may have length 0. The state stays as it is.
    """
    population = published[0]
    ts, paid = float(entry.ts_us), entry.role == PAYMENT
    signals[:] = 0.0

    p_mean, mean, c_mean, h_mean, raised = math.nan, math.nan, math.nan, math.nan, False
    if paid and not math.isnan(amount):
        x = math.log(max(amount, LEAST_AMOUNT))
        p_mean = population[MEAN] if population[N] > 0 else x
        mean, sd = _usual(s, population, p_mean)
        z = normal_score((x - mean) / sd, PRIOR_VARIANCE + s[_N])
        signals[0] = surprise(z)
        told = population[N] > 0 and population[ODD] < FEW_ODD and s[MAIN] > 0
        if told and _is_odd(published, pair_keys, pairs, entry):
            main = int(s[MAIN]) - 1
            m, c = pairs[slot_of(pair_keys, (entry.customer << 20) | main)], published[1 + main]
            m_mean, m_sd = expected(m[_N], m[_MEAN], m[_M2], c[MEAN], c[WITHIN])
            as_usual = surprise(normal_score((x - m_mean) / m_sd, PRIOR_VARIANCE + m[_N]))
            if as_usual > signals[0]:
                signals[0], mean = as_usual, m_mean
        if z > RISE_SLACK and s[_RISE] + RISE_STEP > RISE_FLOOR:
            rise = s[_RISE] * faded(ts - s[_LAST], RISE_HOURS) + min(z, RISE_STEP) - RISE_SLACK
            raised = 2 * (rise - RISE_FLOOR) > signals[0]  # by chance at most e^(−2 · slack · rise)
            signals[0] = max(signals[0], 2 * (rise - RISE_FLOOR))
        signals[3] = surprise((x - p_mean) / math.sqrt(population[VAR]))
        if entry.category >= 0 and population[N] > 0:
            c = published[1 + entry.category]
            c_mean = c[MEAN]
            signals[2] = surprise((x - c_mean) / math.sqrt(c[VAR]))
            pair = pairs[slot_of(pair_keys, (entry.customer << 20) | entry.category)]
            h_mean, h_sd = expected(pair[_N], pair[_MEAN], pair[_M2], c_mean, c[WITHIN])
            signals[1] = surprise(normal_score((x - h_mean) / h_sd, PRIOR_VARIANCE + pair[_N]))
    elif paid and entry.scale >= 0:  # what is it worth? their own amounts in it are, to them
        pair = pairs[slot_of(pair_keys, (entry.customer << 20) | _CURRENCY | entry.scale)]
        if pair[_N] >= FEWEST_IN_CURRENCY:
            mean, sd = _usual(pair, population, pair[_MEAN])
            signals[0] = surprise(normal_score((entry.x - mean) / sd, PRIOR_VARIANCE + pair[_N]))

    distance, gap_h, speed = math.nan, math.nan, math.nan
    placed = entry.place >= 0 and not entry.nowhere
    if paid and entry.timed and placed and s[_PLACE_TS] > 0:
        distance = haversine_km(s[_LAT], s[_LON], entry.lat, entry.lon)
        gap_h = abs(ts - s[_PLACE_TS]) / _HOUR_US
        speed = distance / (gap_h + SPEED_SLACK_H)
        if distance > LOCAL_KM and places[last_place(s), NOWHERE] > 0:
            distance, speed = math.nan, math.nan
        elif not could_travel(distance, gap_h):
            signals[4] = math.log1p(speed / SPEED_UNIT_KMH)

    if paid and not math.isnan(entry.hour):
        signals[5], signals[6] = hour_surprise(
            s[_HOURS : _HOURS + 24], population[HOURS : HOURS + 24], entry.hour
        )

    rate = (PRIOR_RATE + s[_SEEN]) / (PRIOR_RATE * population[GAP] + s[_SPAN])
    best, best_count, best_window, count, back = 0.0, 1, WINDOWS_S[0], 1, 1
    declined = 1 if entry.role == DECLINED else 0
    best_declined, counted = declined, entry.timed and entry.role != ASIDE
    head = int(s[_HEAD])
    newest = abs(s[_TIMES + (head - 1) % RING])
    late, alone = ts < newest, ts - newest > _LONGEST_US
    if alone or not counted:
        counts[:], raw[:] = 1, 1
    for k in range(0 if alone or not counted else N_WINDOWS):
        window = WINDOWS_S[k] * 1e6
        if late:  # there are some after it, which the window before had not
            count, back, declined = 1, 1, 1 if entry.role == DECLINED else 0
        while back <= RING:
            t = s[_TIMES + (head - back) % RING]  # below 0 where it was declined
            if t == 0.0 or ts - abs(t) > window:
                break
            inside = abs(t) - ts <= window
            count += inside
            declined += inside and t < 0.0
            back += 1
        nats = poisson_surprise(float(count - 1), rate * window)
        own = OWN_RUN <= count <= s[_TWICE + k]
        if own:
            nats = min(nats, BURST_FLOOR)
        if nats > best:
            best, best_count, best_window, best_declined = nats, count, WINDOWS_S[k], declined
        if len(counts) > 0:
            counts[k] = count if nats >= BURST_FLOOR and not own else 1
        if len(raw) > 0:
            raw[k] = count
    signals[7] = best

    fade = 0.0 if s[_UNUSUAL] == 0 else faded(ts - s[_LAST], SWARM_HOURS)
    if paid and s[_SWARM] > 0:
        signals[8] = SWARM_GAIN * math.log1p(s[_SWARM] * fade)

    if len(facts) > 0:
        facts[0], facts[1] = math.exp(mean), math.exp(h_mean)
        facts[2], facts[3], facts[4] = math.exp(c_mean), math.exp(p_mean), 0.0
        for h in range(24):
            facts[4] += s[_HOURS + h]  # `n` itself ends at MEMORY
        facts[5], facts[6], facts[7] = distance, (ts - s[_PLACE_TS]) / 1e6, speed
        facts[8], facts[9], facts[10] = entry.hour, entry.offset, math.nan
        if not math.isnan(entry.hour):
            facts[10] = s[_HOURS + int(entry.hour)]
        facts[11], facts[12], facts[13] = best_count, best_window, best_declined
        facts[14], facts[15] = rate * _HOUR_US, s[_UNUSUAL] * fade
        facts[16] = s[_RAISED] if raised else 0.0


@kernel
def _is_odd(published: Floats, pair_keys: Ints, pairs: Floats, entry: Entry) -> bool:
    """Whether there is no category, or one in which hardly anybody paid, nor the customer."""
    if entry.category < 0:
        return True
    pair = pairs[slot_of(pair_keys, (entry.customer << 20) | entry.category)]
    few: bool = published[1 + entry.category][N] < PRIOR_POPULATION and pair[_N] < PRIOR_MEAN
    return few


@kernel
def learn(
    s: Floats,
    published: Floats,
    pair_keys: Ints,
    pairs: Floats,
    sums: Ints,
    scales: Ints,
    places: Ints,
    entry: Entry,
    signals: Floats,
    raw: Ints,
    teach: bool,
    looked_at: bool,
) -> None:
    """Fold one transaction into the state; `raw` are its counts, as `observe` wrote them.

    Without `teach` (it was blocked) it leaves what is normal untouched and still counts for
    bursts and swarms. One that nobody paid with counts for bursts alone, or for nothing. Of one
    that is `looked_at` the count becomes the customer's own up to `OWN_MOST` alone.
    """
    if entry.role == ASIDE:
        return
    ts = float(entry.ts_us)
    if entry.timed:
        _remember_time(s, ts, entry.role == DECLINED)
    if entry.role != PAYMENT:
        return
    first, gap = s[_SEEN] == 0, ts - s[_LAST]

    fade = 0.0 if s[_UNUSUAL] == 0 else faded(gap, SWARM_HOURS)
    unusual = max(signals[0], signals[1], signals[2], signals[3]) - SWARM_FLOOR
    s[_SWARM] = s[_SWARM] * fade + max(0.0, unusual)
    s[_UNUSUAL] = s[_UNUSUAL] * fade + (1.0 if unusual > 0 else 0.0)

    worth, x = not math.isnan(entry.amount), math.log(max(entry.amount, LEAST_AMOUNT))
    population = published[0]
    p_known = population[N] > 0
    mean, sd = _usual(s, population, population[MEAN] if p_known else x)
    t = (x - mean) / sd
    if worth and (s[_RISE] > 0 or t > RISE_SLACK):  # else there is none, nor does one begin
        z = normal_score(t, PRIOR_VARIANCE + s[_N])
        rise = s[_RISE] * faded(gap, RISE_HOURS) + min(z, RISE_STEP) - RISE_SLACK
        s[_RISE], s[_RAISED] = max(rise, 0.0), s[_RAISED] + 1 if rise > 0 else 0.0

    s[_RECENT] = recent(s[_RECENT], gap)
    weight = weight_of(s[_RECENT])
    if teach and not first:
        add_gap(sums[0], population, weight, gap)
    if not first:
        s[_SPAN] += min(max(gap, 0.0), LONGEST_GAP_US)
    s[_SEEN] += 1
    # what is late says nothing of now; many such in turn, that the newest time was ahead
    s[_BEHIND] = s[_BEHIND] + 1.0 if gap < -DAY_US else 0.0
    s[_LAST] = ts if s[_BEHIND] >= MOST_BEHIND else max(s[_LAST], ts)
    if entry.place >= 0:  # blocked or not: where a place is wrong, most may be
        add_place(places, entry.place, weight)
        if entry.nowhere or signals[4] > _LEAST_ODD:
            _add_journey(s, places, entry, weight)
    if not teach:
        return

    if entry.timed:
        _remember_counts(s, entry.ts_us // DAY_US, raw, looked_at)
    # nor does it say where somebody is
    placed = entry.place >= 0 and not entry.nowhere
    if placed and (ts >= s[_PLACE_TS] or s[_PLACE_TS] > s[_LAST]):
        s[_LAT], s[_LON], s[_PLACE_TS] = entry.lat, entry.lon, ts
    if entry.stated:
        s[ZONED], s[LIVED] = 1.0, entry.offset
    below = OWN_BELOW if s[_SMALL] < RUN_OF_SMALL else SMALL_BELOW
    if worth:
        if entry.scale >= 0:
            add_to_scale(scales[entry.scale], weight, entry.x)
        s[_SMALL] = s[_SMALL] + 1.0 if t < -1.0 else 0.75 * s[_SMALL]
        xw = within(x, mean, below * sd, ABOVE * sd)
        odd = weight if p_known and _is_odd(published, pair_keys, pairs, entry) else 0
        add(sums[0], population, p_known, odd, weight, x, xw - mean)
        s[_N], s[_MEAN], s[_M2] = welford(s[_N], s[_MEAN], s[_M2], xw)
    elif entry.scale >= 0:
        key = (entry.customer << 20) | _CURRENCY | entry.scale
        slot = slot_of(pair_keys, key)
        pair, pair_keys[slot] = pairs[slot], key
        if pair[_N] < MOST_OF_SCALE:
            add_to_scale(scales[entry.scale], weight, entry.x)
        mean, sd = _usual(pair, population, pair[_MEAN] if pair[_N] > 0 else entry.x)
        xw = within(entry.x, mean, below * sd, ABOVE * sd)
        pair[_N], pair[_MEAN], pair[_M2] = welford(pair[_N], pair[_MEAN], pair[_M2], xw)
    if worth and entry.category >= 0:
        same = s[MAIN] == entry.category + 1
        s[_LEAD] = min(s[_LEAD] + 1.0, MOST_LEAD) if same else s[_LEAD] - 1.0
        if s[_LEAD] < 0:
            s[MAIN], s[_LEAD] = entry.category + 1, 1.0
        key = (entry.customer << 20) | entry.category
        slot = slot_of(pair_keys, key)
        pair, c = pairs[slot], published[1 + entry.category]
        pair_keys[slot] = key
        mean, sd = expected(pair[_N], pair[_MEAN], pair[_M2], c[MEAN] if p_known else x, c[WITHIN])
        xw = within(x, mean, below * sd, ABOVE * sd)
        add(sums[1 + entry.category], c, p_known, 1 if pair[_N] == 0 else 0, weight, x, xw - mean)
        pair[_N], pair[_MEAN], pair[_M2] = welford(pair[_N], pair[_MEAN], pair[_M2], xw)
    if not math.isnan(entry.hour):
        h = int(entry.hour)
        s[_HOURS + h] += 1.0
        add_hour(sums[0], weight, h)


@kernel
def last_place(s: Floats) -> int:
    """The number of the place where a customer was last, −1 where none is known."""
    return place_of(s[_LAT], s[_LON]) if s[_PLACE_TS] > 0 else -1


@kernel
def _add_journey(s: Floats, places: Ints, entry: Entry, weight: int) -> None:
    """Add the journey from the last place to its ends, if nobody can make it."""
    there = last_place(s)
    if not entry.timed or there < 0:
        return
    distance = haversine_km(s[_LAT], s[_LON], entry.lat, entry.lon)
    gap_h = abs(entry.ts_us - s[_PLACE_TS]) / _HOUR_US
    if distance > LOCAL_KM and not could_travel(distance, gap_h):
        add_odd(places, entry.place, there, weight)


@kernel
def _remember_time(s: Floats, ts: float, declined: bool) -> None:
    """Keep a time in its place among the newest ones, of which one goes: the oldest.

    Of one that is late it is the oldest that is near neither it nor the newest, so that what is
    dated back does not end the count of what comes now; what is far ahead of all payments is none.
    """
    head, stored = int(s[_HEAD]), -ts if declined else ts
    newest = abs(s[_TIMES + (head - 1) % RING])
    if ts >= newest:
        s[_TIMES + head], s[_HEAD] = stored, (head + 1) % RING
        return
    times = s[_TIMES : _TIMES + RING]
    if 0 < s[_LAST] < newest - 30 * DAY_US:
        newest = s[_LAST]
    place = 0
    for j in range(RING):  # from the oldest on
        t = abs(times[(head + j) % RING])
        if abs(t - ts) > _LONGEST_US and abs(t - newest) > _LONGEST_US:
            place = j
            break
    while place < RING - 1 and abs(times[(head + place + 1) % RING]) <= ts:
        times[(head + place) % RING] = times[(head + place + 1) % RING]
        place += 1
    while place > 0 and abs(times[(head + place - 1) % RING]) > ts:
        times[(head + place) % RING] = times[(head + place - 1) % RING]
        place -= 1
    times[(head + place) % RING] = stored


@kernel
def _remember_counts(s: Floats, day: int, raw: Ints, looked_at: bool) -> None:
    """Keep the customer's largest counts: what came on two days is theirs.

    Of a count that reaches over midnight, a day has no more than came on it.
    """
    if day != s[_DAY]:
        for k in range(N_WINDOWS):
            of_day = s[_TODAY + k]
            if s[_ONCE_DAY + k] != s[_DAY]:
                s[_TWICE + k] = max(s[_TWICE + k], min(s[_ONCE + k], of_day))
            if of_day >= s[_ONCE + k]:
                s[_ONCE + k], s[_ONCE_DAY + k] = of_day, s[_DAY]
            s[_TODAY + k] = 0.0
        s[_DAY] = day
    larger = False
    for k in range(N_WINDOWS):
        larger |= raw[k] > s[_TODAY + k]
    if not larger:
        return
    of_day = 1.0
    if raw[N_WINDOWS - 1] > 1:  # else nothing is near, and most often so
        begin, end, of_day = float(day * DAY_US), float((day + 1) * DAY_US), 0.0
        for j in range(RING):
            of_day += begin <= abs(s[_TIMES + j]) < end
    for k in range(N_WINDOWS):
        most = min(raw[k], OWN_MOST[k]) if looked_at else raw[k]
        s[_TODAY + k] = max(s[_TODAY + k], min(most, of_day))


@kernel
def _usual(s: Floats, population: Floats, p_mean: float) -> tuple[float, float]:
    """Mean and standard deviation that are expected of a customer's next log amount."""
    p_var: float = population[WITHIN] if population[N] > 50 else population[VAR]
    return expected(s[_N], s[_MEAN], s[_M2], p_mean, p_var)
