"""The one pass: what is normal for each customer, and how surprising each transaction is.

`observe` reads the state and writes the signals of one transaction; `learn` folds the transaction
into the state. Both are called row after row in order of arrival, by training, evaluation and live
scoring alike, from the loop in `scoring`. There is no other way to compute a signal.

A signal is the surprise of one view on the transaction, −log of a tail probability under a simple
model of the customer (`surprise`), in nats: 0 where the view has nothing to say, one-sided, higher
is more suspicious. `detector` recalibrates every signal on real traffic, so only the order and the
shape of the bulk matter.

Customers with a short history lean on the population: `PRIOR_*` say how many transactions the
population counts for. Population figures are those of the days that have ended, kept as whole
numbers, so that neither the order of simultaneous rows nor the size of a batch can change a bit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from aegis_core.errors import InputError
from aegis_core.features.arrays import (
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
from aegis_core.features.surprise import (
    PRIOR_VARIANCE,
    expected,
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
)
"""What a reason is told with, in the customer's own units, one column each."""

PRIOR_RATE: Final = 2.0
PRIOR_POPULATION: Final = 5.0
WINSOR: Final = 3.0
"""Standard deviations beyond which an amount teaches only that much."""
SWARM_HOURS: Final = 24.0
SWARM_FLOOR: Final = 4.0
"""Nats of amount surprise from which a transaction counts towards a swarm."""
SWARM_GAIN: Final = 1.5
WINDOWS_S: Final = (10.0, 60.0, 600.0, 3600.0)
N_WINDOWS: Final = len(WINDOWS_S)
SPEED_SLACK_H: Final = 1 / 12
"""Added to the time between two places, so that near and quick is not fast."""
SPEED_UNIT_KMH: Final = 50.0
RING: Final = 64
"""Recent timestamps kept of each customer; counts end there."""

_HOUR_US, _DAY_US = 3.6e9, 86_400_000_000
_UNIT = 65_536.0  # fixed-point unit of the population's sums

# Columns of a customer's row; the first three are also those of a customer and category.
_N, _MEAN, _M2, _SEEN, _FIRST, _LAST, _LAT, _LON, _PLACE_TS, _SWARM, _UNUSUAL, _HEAD = range(12)
_HOURS = 12
_TIMES = _HOURS + 24
_WIDTH = _TIMES + RING
# Whole-number sums of the population and of a category, and what is published from them.
_S_N, _S_X, _S_XX, _S_WITHIN, _S_GAPS, _S_GAP, _S_DAY = range(7)
_S_HOURS = 7
_S_WIDTH = _S_HOURS + 24
_P_N, _P_MEAN, _P_VAR, _P_WITHIN, _P_GAP = range(5)
_P_HOURS = 5
_P_WIDTH = _P_HOURS + 24


class State(NamedTuple):
    """All that the pass remembers, as flat arrays.

    `customers` one row each; `pair_keys` and `pairs` an open-addressing table of customer and
    category; `sums` whole numbers of the population (row 0) and the categories (row 1 + code);
    `published` the same rows as used until the next day.
    """

    customers: Floats
    pair_keys: Ints
    pairs: Floats
    sums: Ints
    published: Floats


@kernel
def _publish(state: State, from_row: int) -> None:
    """Turn the whole-number sums into the figures that the next day is judged by."""
    for r in range(from_row, len(state.sums)):
        s, p, population = state.sums[r], state.published[r], state.published[0]
        mean, var, within = 0.0, 1.0, 1.0  # the prior: of the population for a category
        if r > 0:
            mean, var, within = population[_P_MEAN], population[_P_VAR], population[_P_WITHIN]
        n = float(s[_S_N])
        if n > 0:
            own = s[_S_X] / _UNIT / n
            own_var = max(s[_S_XX] / _UNIT / n - own * own, 0.0)
            own_within = s[_S_WITHIN] / _UNIT / n
            share = n / (n + PRIOR_POPULATION)
            mean = own if r == 0 else mean + share * (own - mean)
            var += share * (own_var - var)
            within += share * (own_within - within)
        p[_P_N], p[_P_MEAN] = n, mean
        p[_P_VAR], p[_P_WITHIN] = max(var, 1e-4), max(within, 1e-4)
        p[_P_GAP] = float(_DAY_US)
        if s[_S_GAPS] > 20:  # at least a second: whole days may stand at the same instant
            p[_P_GAP] = max(s[_S_GAP] * 1e6 / s[_S_GAPS], 1e6)
        hours = 24.0
        for h in range(24):
            hours += s[_S_HOURS + h]
        for h in range(24):
            p[_P_HOURS + h] = (s[_S_HOURS + h] + 1.0) / hours


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
    and `RING + 1` beyond. `facts` and `counts` may have length 0. The state changes only where a
    day ends.
    """
    day, known = ts_us // _DAY_US, state.sums[0, _S_DAY]
    if day > known or day < known - 1:  # a late event of yesterday does not end today
        _publish(state, 0)
        state.sums[0, _S_DAY] = day
    s, population = state.customers[customer], state.published[0]
    x, ts = math.log(amount), float(ts_us)
    now = _clock(s, ts)

    p_mean = population[_P_MEAN] if population[_P_N] > 0 else x
    mean, sd = _usual(s, population, p_mean)
    signals[0] = surprise(normal_score((x - mean) / sd, PRIOR_VARIANCE + s[_N]))
    signals[3] = surprise((x - p_mean) / math.sqrt(population[_P_VAR]))
    signals[1] = signals[2] = 0.0
    c_mean = h_mean = math.nan
    if category >= 0 and population[_P_N] > 0:
        c = state.published[1 + category]
        c_mean = c[_P_MEAN]
        signals[2] = surprise((x - c_mean) / math.sqrt(c[_P_VAR]))
        slot = slot_of(state.pair_keys, (customer << 20) | category)
        pair = state.pairs[slot]
        h_mean, h_sd = expected(pair[_N], pair[_MEAN], pair[_M2], c_mean, c[_P_WITHIN])
        signals[1] = surprise(normal_score((x - h_mean) / h_sd, PRIOR_VARIANCE + pair[_N]))

    signals[4] = 0.0
    distance, gap_h, speed = math.nan, math.nan, math.nan
    if not math.isnan(lat) and s[_PLACE_TS] > 0:
        distance = haversine_km(s[_LAT], s[_LON], lat, lon)
        gap_h = max(0.0, now - s[_PLACE_TS]) / _HOUR_US
        speed = distance / (gap_h + SPEED_SLACK_H)
        signals[4] = math.log1p(speed / SPEED_UNIT_KMH)

    hour = ts / _HOUR_US % 24.0
    signals[5], signals[6] = hour_surprise(
        s[_HOURS : _HOURS + 24], population[_P_HOURS : _P_HOURS + 24], hour
    )

    rate = (PRIOR_RATE + s[_SEEN]) / (PRIOR_RATE * population[_P_GAP] + s[_LAST] - s[_FIRST])
    best, best_count, best_window, count = 0.0, 1, WINDOWS_S[0], 1
    head = int(s[_HEAD])
    for k in range(N_WINDOWS):
        window = WINDOWS_S[k]
        while count <= RING:
            t = s[_TIMES + (head - count) % RING]
            if t <= 0.0 or t > now or now - t > window * 1e6:
                break
            count += 1
        nats = poisson_surprise(float(count - 1), rate * window * 1e6)
        if nats > best:
            best, best_count, best_window = nats, count, window
        if len(counts) > 0:
            counts[k] = count
    signals[7] = best

    fade = math.exp(-max(0.0, now - s[_LAST]) / _HOUR_US / SWARM_HOURS)
    signals[8] = SWARM_GAIN * math.log1p(s[_SWARM] * fade)

    if len(facts) > 0:
        facts[0], facts[1] = math.exp(mean), math.exp(h_mean)
        facts[2], facts[3], facts[4] = math.exp(c_mean), math.exp(p_mean), 0.0
        for h in range(24):
            facts[4] += s[_HOURS + h]  # `n` itself ends at MEMORY
        facts[5], facts[6], facts[7] = distance, gap_h * 3600, speed
        facts[8], facts[9] = hour, s[_HOURS + int(hour)]
        facts[10], facts[11], facts[12] = best_count, best_window, rate * _HOUR_US
        facts[13] = s[_UNUSUAL] * fade


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
    x, ts = math.log(amount), float(ts_us)
    now = _clock(s, ts)
    first = s[_SEEN] == 0

    fade = 1.0 if first else math.exp(-max(0.0, now - s[_LAST]) / _HOUR_US / SWARM_HOURS)
    unusual = max(signals[0], signals[1], signals[2], signals[3]) - SWARM_FLOOR
    s[_SWARM] = s[_SWARM] * fade + max(0.0, unusual)
    s[_UNUSUAL] = s[_UNUSUAL] * fade + (1.0 if unusual > 0 else 0.0)
    head = int(s[_HEAD])
    s[_TIMES + head] = now
    s[_HEAD] = (head + 1) % RING
    if first:
        s[_FIRST] = now
    elif teach:
        sums[0, _S_GAPS] += 1
        sums[0, _S_GAP] += int(min(max(0.0, now - s[_LAST]), 30.0 * _DAY_US) / 1e6)
    s[_FIRST] = min(s[_FIRST], now)
    s[_LAST] = now
    s[_SEEN] += 1
    if not teach:
        return

    population = state.published[0]
    if not math.isnan(lat):
        s[_LAT], s[_LON], s[_PLACE_TS] = lat, lon, now
    p_known = population[_P_N] > 0
    mean, sd = _usual(s, population, population[_P_MEAN] if p_known else x)
    xw = min(max(x, mean - WINSOR * sd), mean + WINSOR * sd)
    _add(sums[0], x, xw - mean)
    s[_N], s[_MEAN], s[_M2] = welford(s[_N], s[_MEAN], s[_M2], xw)
    if category >= 0:
        key = (customer << 20) | category
        slot = slot_of(state.pair_keys, key)
        pair, c = state.pairs[slot], state.published[1 + category]
        state.pair_keys[slot] = key
        mean, sd = expected(
            pair[_N], pair[_MEAN], pair[_M2], c[_P_MEAN] if p_known else x, c[_P_WITHIN]
        )
        xw = min(max(x, mean - WINSOR * sd), mean + WINSOR * sd)
        _add(sums[1 + category], x, xw - mean)
        pair[_N], pair[_MEAN], pair[_M2] = welford(pair[_N], pair[_MEAN], pair[_M2], xw)
    h = int(ts / _HOUR_US % 24.0)
    s[_HOURS + h] += 1.0
    sums[0, _S_HOURS + h] += 1


@kernel
def _clock(s: Floats, ts: float) -> float:
    """The customer's own time: never runs back, except to mend a jump of more than a day."""
    last: float = s[_LAST]
    return last if s[_SEEN] > 0 and ts < last <= ts + _DAY_US else ts


@kernel
def _usual(s: Floats, population: Floats, p_mean: float) -> tuple[float, float]:
    """Mean and standard deviation that are expected of a customer's next log amount."""
    p_var: float = population[_P_WITHIN] if population[_P_N] > 50 else population[_P_VAR]
    return expected(s[_N], s[_MEAN], s[_M2], p_mean, p_var)


@kernel
def _add(sums: Ints, x: float, deviation: float) -> None:
    sums[_S_N] += 1
    sums[_S_X] += round(x * _UNIT)
    sums[_S_XX] += round(x * x * _UNIT)
    sums[_S_WITHIN] += round(deviation * deviation * _UNIT)


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
            np.zeros((1, _S_WIDTH), np.int64),
            np.zeros((1, _P_WIDTH)),
        )
        _publish(self.state, 0)
        self._n_pairs_at_most = 0

    @property
    def n_customers(self) -> int:
        """Customers seen so far."""
        return len(self.customer_codes)

    def columns(self, frame: Rows) -> Columns:
        """Arrays of `frame`, with room made in the state for whoever is new in it.

        `frame` has the columns of `schema.TRANSACTION_COLUMNS` in order of arrival, checked at
        the door; `category`, `lat` and `lon` may be missing altogether.
        """
        n = len(frame["customer_id"])
        customer = encode(frame["customer_id"], self.customer_codes)
        nothing = np.full(n, np.nan)
        category = (
            encode(frame["category"], self.category_codes)
            if "category" in frame
            else np.full(n, -1, np.int64)
        )
        if len(self.category_codes) >= 1 << 20:
            raise InputError("More than a million categories: is `category` an identifier?")
        self._make_room(n)
        place = [
            np.ascontiguousarray(frame[c], np.float64) if c in frame else nothing
            for c in ("lat", "lon")
        ]
        ts_us = np.asarray(frame["ts"], "datetime64[us]").astype(np.int64)
        amount = np.ascontiguousarray(frame["amount"], np.float64)
        return Columns(customer, category, ts_us, amount, place[0], place[1])

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
    def load(cls, path: Path) -> Profiles:
        """Read what `save` wrote.

        Raises
        ------
        NotReady
            The file is not there, broken, or of another layout.
        """
        self = cls()
        with reading(f"The profiles in {path}", "Replay the history instead."):
            arrays = read_arrays(path)
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
        customers, keys, pairs, sums, published = self.state
        customers = grown(customers, self.n_customers)
        if 1 + len(self.category_codes) > len(sums):
            known = len(sums)
            sums = grown(sums, 1 + len(self.category_codes))
            published = grown(published, len(sums))
            self.state = State(customers, keys, pairs, sums, published)
            _publish(self.state, known)  # until its first day ends, judged by the population
        self._n_pairs_at_most += n_rows
        if 2 * self._n_pairs_at_most > len(keys):
            used = np.flatnonzero(keys >= 0)
            self._n_pairs_at_most = len(used) + n_rows
            size = 1 << (2 * self._n_pairs_at_most).bit_length()
            if size > len(keys):
                old_keys, old_pairs = keys[used], pairs[used]
                keys, pairs = np.full(size, -1, np.int64), np.zeros((size, 3))
                rehash(old_keys, old_pairs, keys, pairs)
        self.state = State(customers, keys, pairs, sums, published)
