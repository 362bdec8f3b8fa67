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
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from aegis_core.features.arrays import (
    Arrays,
    Floats,
    Ints,
    Rows,
    encode,
    grown,
    packed,
    read_arrays,
    reading,
    rehash,
    slot_of,
    unpacked,
    write_arrays,
)
from aegis_core.features.geo import haversine_km
from aegis_core.features.kernels import kernel
from aegis_core.features.population import (
    DAY_US,
    GAP,
    HOURS,
    MEAN,
    NO_CLOCK,
    PUBLISHED,
    SUMS,
    VAR,
    WINSOR,
    WITHIN,
    N,
    add,
    add_gap,
    add_hour,
    ends_day,
    figures,
    publish,
    recent,
    weight_of,
    within,
)
from aegis_core.features.surprise import (
    PRIOR_VARIANCE,
    expected,
    faded,
    hour_surprise,
    normal_score,
    poisson_surprise,
    surprise,
    welford,
)

SIGNALS: Final = (
    "amount_customer",  # above this customer's own amounts
    "amount_habit",  # above this customer's amounts in this category
    "amount_category",  # above everybody's amounts in this category
    "amount_population",  # above everybody's amounts
    "travel_speed",  # faster than people travel, from the last place
    "hour_customer",  # at an hour that this customer rarely uses
    "hour_quiet",  # close to the middle of this customer's quiet time
    "burst_count",  # more transactions in 10 s, 1 min, 10 min or 1 h than the usual rate explains
    "burst_swarm",  # several unusual amounts within about a day
)
"""The views, in the order of every signal array."""

SIGNAL_FACTOR: Final = (0, 0, 0, 0, 1, 2, 2, 3, 3)
"""Index into `schema.FACTORS` of the factor that each signal speaks for."""

FACTS: Final = (
    "usual_amount",  # exp of the customer's mean log amount
    "habit_amount",  # the same of this customer in this category; NaN without one
    "category_amount",  # the same of everybody in this category; NaN without one
    "population_amount",  # the same of everybody
    "n_history",  # transactions this customer's amounts were learnt from
    "distance_km",  # from the last place; NaN without one
    "gap_s",  # since the last place, in seconds
    "speed_kmh",
    "hour",  # UTC hour of day with fraction
    "n_hour",  # transactions this customer made at this hour of day
    "burst_count",  # transactions in the most surprising window, this one included
    "burst_window_s",
    "rate_per_hour",  # usual
    "n_unusual_day",  # unusual amounts of about the last day, decayed
    "n_raised",  # transactions before this one that were above the usual without a pause
)
"""What a reason is told with, in the customer's own units, one column each."""

PRIOR_RATE: Final = 2.0
LEAST_AMOUNT: Final = 0.001
"""What a smaller amount of an older history counts as; no door takes one today."""
MAX_CATEGORIES: Final = 20_000
"""With more of them, `category` is an identifier by mistake."""
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
BURST_FLOOR: Final = 3.0
"""Nats of surprise below which the usual rate explains a count."""
RING: Final = 64
"""Recent timestamps kept of each customer; counts end there."""

_HOUR_US = 3.6e9

# Columns of a customer's row; the first three are also those of a customer and category.
_N, _MEAN, _M2, _SEEN, _FIRST, _LAST, _LAT, _LON, _PLACE_TS, _SWARM, _UNUSUAL, _HEAD = range(12)
_RECENT, _RISE, _RAISED, _LOOSE = range(12, 16)
_HOURS = 16
_TIMES, _WIDTH = _HOURS + 24, _HOURS + 24 + RING


class State(NamedTuple):
    """All that the pass remembers, as flat arrays.

    `customers` one row each; `pair_keys` and `pairs` an open-addressing table of customer and
    category. Of the population (row 0) and the categories (row 1 + code): `sums` of the day that
    has not ended, `kept` of those before it, `published` until it ends; `clock` which day it is.
    """

    customers: Floats
    pair_keys: Ints
    pairs: Floats
    sums: Ints
    kept: Ints
    published: Floats
    clock: Ints


@kernel
def arrive(state: State, ts_us: int) -> None:
    """End the day before, where this arrival does; once an arrival, before it is observed."""
    if ends_day(state.clock, ts_us):
        publish(state.sums, state.kept, state.published)


@kernel
def observe(
    state: State,
    customer: int,
    category: int,
    ts_us: int,
    amount: float,
    lat: float,
    lon: float,
    signals: Floats,
    facts: Floats,
    counts: Ints,
) -> None:
    """Write the signals and facts of one transaction, from what is known before it.

    `category` is −1 and `lat`, `lon` are NaN where missing; their views then say 0. `counts` takes
    the customer's transactions within each of `WINDOWS_S`, this one included, exact up to `RING`
    and `RING + 1` beyond, and 1 where the usual rate explains them. `facts` and `counts` may have
    length 0. The state stays as it is.
    """
    s, population = state.customers[customer], state.published[0]
    x, ts = math.log(max(amount, LEAST_AMOUNT)), float(ts_us)

    p_mean = population[MEAN] if population[N] > 0 else x
    mean, sd = _usual(s, population, p_mean)
    z = normal_score((x - mean) / sd, PRIOR_VARIANCE + s[_N])
    signals[0], raised = surprise(z), False
    if z > RISE_SLACK and s[_RISE] + RISE_STEP > RISE_FLOOR:
        rise = s[_RISE] * faded(ts - s[_LAST], RISE_HOURS) + min(z, RISE_STEP) - RISE_SLACK
        raised = 2 * (rise - RISE_FLOOR) > signals[0]  # by chance at most e^(−2 · slack · rise)
        signals[0] = max(signals[0], 2 * (rise - RISE_FLOOR))
    signals[3] = surprise((x - p_mean) / math.sqrt(population[VAR]))
    signals[1] = signals[2] = 0.0
    c_mean = h_mean = math.nan
    if category >= 0 and population[N] > 0:
        c = state.published[1 + category]
        c_mean = c[MEAN]
        signals[2] = surprise((x - c_mean) / math.sqrt(c[VAR]))
        slot = slot_of(state.pair_keys, (customer << 20) | category)
        pair = state.pairs[slot]
        h_mean, h_sd = expected(pair[_N], pair[_MEAN], pair[_M2], c_mean, c[WITHIN])
        signals[1] = surprise(normal_score((x - h_mean) / h_sd, PRIOR_VARIANCE + pair[_N]))

    signals[4] = 0.0
    distance, gap_h, speed = math.nan, math.nan, math.nan
    if not math.isnan(lat) and s[_PLACE_TS] > 0:
        distance = haversine_km(s[_LAT], s[_LON], lat, lon)
        gap_h = abs(ts - s[_PLACE_TS]) / _HOUR_US
        speed = distance / (gap_h + SPEED_SLACK_H)
        signals[4] = math.log1p(speed / SPEED_UNIT_KMH)

    hour = ts / _HOUR_US % 24.0
    signals[5], signals[6] = hour_surprise(
        s[_HOURS : _HOURS + 24], population[HOURS : HOURS + 24], hour
    )

    rate = (PRIOR_RATE + s[_SEEN]) / (PRIOR_RATE * population[GAP] + s[_LAST] - s[_FIRST])
    best, best_count, best_window, count, back = 0.0, 1, WINDOWS_S[0], 1, 1
    head, loose = int(s[_HEAD]), s[_LOOSE] > 0 or ts < s[_LAST]
    for k in range(N_WINDOWS):
        window = WINDOWS_S[k] * 1e6
        if loose:  # not in the order of their times: all are looked at
            count, back = 1, 1
        while back <= RING:
            t = s[_TIMES + (head - back) % RING]
            inside = t > 0.0 and abs(ts - t) <= window
            if not inside and not loose:
                break
            count += inside
            back += 1
        nats = poisson_surprise(float(count - 1), rate * window)
        if nats > best:
            best, best_count, best_window = nats, count, WINDOWS_S[k]
        if len(counts) > 0:
            counts[k] = count if nats >= BURST_FLOOR else 1
    signals[7] = best

    fade = faded(ts - s[_LAST], SWARM_HOURS)
    signals[8] = SWARM_GAIN * math.log1p(s[_SWARM] * fade)

    if len(facts) > 0:
        facts[0], facts[1] = math.exp(mean), math.exp(h_mean)
        facts[2], facts[3], facts[4] = math.exp(c_mean), math.exp(p_mean), 0.0
        for h in range(24):
            facts[4] += s[_HOURS + h]  # `n` itself ends at MEMORY
        facts[5], facts[6], facts[7] = distance, gap_h * 3600, speed
        facts[8], facts[9] = hour, s[_HOURS + int(hour)]
        facts[10], facts[11], facts[12] = best_count, best_window, rate * _HOUR_US
        facts[13], facts[14] = s[_UNUSUAL] * fade, s[_RAISED] if raised else 0.0


@kernel
def learn(
    state: State,
    customer: int,
    category: int,
    ts_us: int,
    amount: float,
    lat: float,
    lon: float,
    signals: Floats,
    teach: bool,
) -> None:
    """Fold one transaction into the state.

    Without `teach` (it was blocked) it leaves what is normal untouched and still counts for
    bursts and swarms.
    """
    s, sums = state.customers[customer], state.sums
    x, ts = math.log(max(amount, LEAST_AMOUNT)), float(ts_us)
    first, gap = s[_SEEN] == 0, ts - s[_LAST]

    fade = 1.0 if first else faded(gap, SWARM_HOURS)
    unusual = max(signals[0], signals[1], signals[2], signals[3]) - SWARM_FLOOR
    s[_SWARM] = s[_SWARM] * fade + max(0.0, unusual)
    s[_UNUSUAL] = s[_UNUSUAL] * fade + (1.0 if unusual > 0 else 0.0)
    head = int(s[_HEAD])
    s[_TIMES + head] = ts
    s[_HEAD] = (head + 1) % RING
    s[_LOOSE] = RING if not first and gap < 0 else max(s[_LOOSE] - 1, 0.0)

    population = state.published[0]
    p_known = population[N] > 0
    mean, sd = _usual(s, population, population[MEAN] if p_known else x)
    t = (x - mean) / sd
    if s[_RISE] > 0 or t > RISE_SLACK:  # else there is none, nor does one begin
        z = normal_score(t, PRIOR_VARIANCE + s[_N])
        rise = s[_RISE] * faded(gap, RISE_HOURS) + min(z, RISE_STEP) - RISE_SLACK
        s[_RISE], s[_RAISED] = max(rise, 0.0), s[_RAISED] + 1 if rise > 0 else 0.0

    s[_RECENT] = recent(s[_RECENT], gap)
    weight = weight_of(s[_RECENT])
    if teach and not first:
        add_gap(sums[0], population, weight, gap)
    s[_FIRST] = ts if first else min(s[_FIRST], ts)
    # the newest time, unless that was a clock of more than a day ahead
    s[_LAST] = ts if first or gap < -DAY_US else max(s[_LAST], ts)
    s[_SEEN] += 1
    if not teach:
        return

    if not math.isnan(lat):
        s[_LAT], s[_LON], s[_PLACE_TS] = lat, lon, ts
    xw = within(x, mean, WINSOR * sd)
    add(sums[0], population, weight, x, xw - mean)
    s[_N], s[_MEAN], s[_M2] = welford(s[_N], s[_MEAN], s[_M2], xw)
    if category >= 0:
        key = (customer << 20) | category
        slot = slot_of(state.pair_keys, key)
        pair, c = state.pairs[slot], state.published[1 + category]
        state.pair_keys[slot] = key
        mean, sd = expected(pair[_N], pair[_MEAN], pair[_M2], c[MEAN] if p_known else x, c[WITHIN])
        xw = within(x, mean, WINSOR * sd)
        add(sums[1 + category], c, weight, x, xw - mean)
        pair[_N], pair[_MEAN], pair[_M2] = welford(pair[_N], pair[_MEAN], pair[_M2], xw)
    h = int(ts / _HOUR_US % 24.0)
    s[_HOURS + h] += 1.0
    add_hour(sums[0], weight, h)


@kernel
def _usual(s: Floats, population: Floats, p_mean: float) -> tuple[float, float]:
    """Mean and standard deviation that are expected of a customer's next log amount."""
    p_var: float = population[WITHIN] if population[N] > 50 else population[VAR]
    return expected(s[_N], s[_MEAN], s[_M2], p_mean, p_var)


class Columns(NamedTuple):
    """A frame of transactions as the arrays that the pass reads, each of shape (n,)."""

    customer: Ints
    category: Ints
    ts_us: Ints
    amount: Floats
    lat: Floats
    lon: Floats


class Profiles:
    """The state of every customer seen so far, with the codes of customers and categories."""

    def __init__(self) -> None:
        self.customer_codes: dict[str, int] = {}
        self.category_codes: dict[str, int] = {}
        self.state = State(
            np.zeros((16, _WIDTH)),
            np.full(64, -1, np.int64),
            np.zeros((64, 3)),
            np.zeros((1, SUMS), np.int64),
            np.zeros((1, SUMS), np.int64),
            np.zeros((1, PUBLISHED)),
            np.array(NO_CLOCK),
        )
        figures(self.state.kept, self.state.published, 0)
        self._n_pairs_at_most = 0

    def columns(self, frame: Rows) -> Columns:
        """Arrays of `frame`, with room made in the state for whoever is new in it.

        `frame` has the columns of `schema.TRANSACTION_COLUMNS` in order of arrival, checked at
        the door; `category`, `lat` and `lon` may be missing altogether. Categories that are new
        after `MAX_CATEGORIES` are one together.
        """
        n = len(frame["customer_id"])
        customer = encode(frame["customer_id"], self.customer_codes)
        nothing = np.full(n, np.nan)
        category = (
            encode(frame["category"], self.category_codes, MAX_CATEGORIES)
            if "category" in frame
            else np.full(n, -1, np.int64)
        )
        self._make_room(n)
        ts_us = np.asarray(frame["ts"], "datetime64[us]").astype(np.int64)
        amount, lat, lon = (
            np.ascontiguousarray(frame[c], np.float64) if c in frame else nothing
            for c in ("amount", "lat", "lon")
        )
        return Columns(customer, category, ts_us, amount, lat, lon)

    def copy(self) -> Profiles:
        """The same state in memory of its own."""
        other = Profiles.__new__(Profiles)
        other.customer_codes = dict(self.customer_codes)
        other.category_codes = dict(self.category_codes)
        other.state = State._make(part.copy() for part in self.state)
        other._n_pairs_at_most = self._n_pairs_at_most
        return other

    def save(self, path: Path) -> None:
        """Write the state as plain arrays; loading it runs no code."""
        codes = {"customer_ids": self.customer_codes, "category_ids": self.category_codes}
        ids = {name: packed(of) for name, of in codes.items()}
        write_arrays(path, ids | self.state._asdict())

    @classmethod
    def load(
        cls, path: Path, bring: Callable[[Arrays], Arrays] = lambda as_read: as_read
    ) -> Profiles:
        """Read what `save` wrote; `bring` may bring another layout up to date.

        Raises
        ------
        NotReady
            The file is not there, broken, or of another layout.
        """
        self = cls()
        with reading(f"The profiles in {path}", "Replay the history instead."):
            arrays = bring(read_arrays(path))
            self.customer_codes = unpacked(arrays["customer_ids"])
            self.category_codes = unpacked(arrays["category_ids"])
            state = State(*(arrays[name] for name in State._fields))
            for name, fresh, loaded in zip(State._fields, self.state, state, strict=True):
                if loaded.dtype != fresh.dtype or loaded.shape[1:] != fresh.shape[1:]:
                    raise ValueError(f"{name} has another layout")
        self.state = state
        self._n_pairs_at_most = int(np.count_nonzero(self.state.pair_keys >= 0))
        return self

    def _make_room(self, n_rows: int) -> None:
        state = self.state._replace(customers=grown(self.state.customers, len(self.customer_codes)))
        known, n_categories = len(state.sums), len(self.category_codes)
        needed = 1 + n_categories + (n_categories == MAX_CATEGORIES)
        if needed > known:
            state = state._replace(
                sums=grown(state.sums, needed),
                kept=grown(state.kept, needed),
                published=grown(state.published, needed),
            )
            # until its first day ends, a category is judged by the population
            figures(state.kept, state.published, known)
        self._n_pairs_at_most += n_rows
        keys, pairs = state.pair_keys, state.pairs
        if 2 * self._n_pairs_at_most > len(keys):
            used = np.flatnonzero(keys >= 0)
            self._n_pairs_at_most = len(used) + n_rows
            size = 1 << (2 * self._n_pairs_at_most).bit_length()
            if size > len(keys):
                fresh = np.full(size, -1, np.int64), np.zeros((size, 3))
                rehash(keys[used], pairs[used], *fresh)
                state = state._replace(pair_keys=fresh[0], pairs=fresh[1])
        self.state = state
