"""The people of the synthetic payments: who lives, shops and travels where, and what they pay.

Clocks are nautical: a place's local time is UTC plus its longitude / 15°, rounded to hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from aegis_core.features.geo import haversine_km

CATEGORIES: Final = (
    ("groceries", 0.30, 24.0, 0.55),
    ("restaurant", 0.16, 22.0, 0.50),
    ("transit", 0.15, 3.6, 0.35),
    ("fuel", 0.09, 48.0, 0.35),
    ("vending", 0.07, 2.6, 0.30),
    ("entertainment", 0.07, 27.0, 0.50),
    ("health", 0.06, 30.0, 0.55),
    ("fashion", 0.05, 60.0, 0.55),
    ("electronics", 0.03, 140.0, 0.55),
    ("hotel", 0.02, 190.0, 0.45),
)
"""Name, share of the merchants' traffic, median amount, standard deviation of its logarithm."""

HOURLY: Final = (
    *(0.3, 0.1, 0.06, 0.05, 0.06, 0.2, 1.0, 2.5, 4.0, 4.5, 5.0, 6.0),
    *(9.0, 8.0, 5.0, 4.5, 5.0, 6.5, 8.0, 7.5, 5.0, 3.5, 2.0, 1.0),
)
"""How much is bought in each local hour by most people: a peak at lunch, little after midnight."""

WEEKDAYS: Final = (0.95, 0.95, 1.0, 1.0, 1.15, 1.2, 0.75)
"""How much is bought on each day of the week, from Monday."""

SECOND: Final = 1_000_000  # in microseconds, the unit of every time here
MINUTE: Final = 60 * SECOND
DAY: Final = 24 * 60 * MINUTE
ORDINARY: Final = -1
TRIP_BLOCK: Final = 30  # days; a trip lies within one block

_FLIGHT_KMH: Final = 850.0
_AIRPORT_H: Final = 2.0
_FARTHEST_TRIP_KM: Final = 12_000.0  # so that a flight with its airports fits into a day
_FAVOURITES: Final = 8

_SHARE, _MEDIAN, _SIGMA = np.array([row[1:] for row in CATEGORIES]).T.copy()
_LEVEL: Final = np.log(_MEDIAN)
_CITIES: Final = np.loadtxt(
    Path(__file__).with_name("cities.csv"), delimiter=",", skiprows=1, usecols=(1, 2, 3)
)  # where people live, buy and travel to
CITY_LAT, CITY_LON, _CITY_WEIGHT = _CITIES.T.copy()
OFFSET_H: Final = np.round(CITY_LON / 15)
_HOURLY_CDF: Final = np.concatenate([[0.0], np.cumsum(HOURLY) / np.sum(HOURLY)])


@dataclass(frozen=True)
class Groups:
    """Members with weights, sorted by group; a group without members stands for all of them."""

    cumulative: np.ndarray  # n_members + 1
    first: np.ndarray  # per group
    last: np.ndarray

    @classmethod
    def of(cls, group: np.ndarray, weight: np.ndarray, n_groups: int) -> Groups:
        """Members given by their group, in ascending order, and their weight."""
        first = np.searchsorted(group, np.arange(n_groups))
        last = np.searchsorted(group, np.arange(n_groups), side="right")
        first, last = np.where(first == last, [[0], [len(group)]], [first, last])
        return cls(np.concatenate([[0.0], np.cumsum(weight)]), first, last)

    def pick(self, group: np.ndarray, u: np.ndarray) -> np.ndarray:
        """A member of each given group, by weight, from uniform numbers in [0, 1)."""
        low, high = self.cumulative[self.first[group]], self.cumulative[self.last[group]]
        found = np.searchsorted(self.cumulative, low + u * (high - low), side="right") - 1
        member: np.ndarray = np.clip(found, self.first[group], self.last[group] - 1)
        return member


@dataclass(frozen=True)
class Population:
    """Customers and merchants, both sorted by city."""

    customers: Groups
    home: np.ndarray  # city of each customer
    income: np.ndarray  # log of the factor on every amount
    taste: np.ndarray  # (n_customers, n_categories), log of the factor on a category
    shift_h: np.ndarray  # how much later than most a customer lives
    wanderlust: np.ndarray  # chance of a trip in a block
    favourites: np.ndarray  # (n_customers, _FAVOURITES) merchants
    merchants: Groups
    seat: np.ndarray  # city of each merchant
    category: np.ndarray
    d_lat: np.ndarray  # from the city's centre
    d_lon: np.ndarray
    away_km: np.ndarray  # (n_cities, n_cities)
    customer_ids: pa.Array
    merchant_ids: pa.Array


@dataclass(frozen=True)
class Trips:
    """At most one trip a customer in a block of days; `first` is -1 without one."""

    first: np.ndarray
    last: np.ndarray
    to: np.ndarray
    gap: np.ndarray  # share of a day spent in the air and at airports
    leaves: np.ndarray  # share of the day at which the gap begins, on both travelling days
    returns: np.ndarray


@dataclass
class Rows:
    """Some transactions of one day."""

    customer: np.ndarray
    city: np.ndarray
    merchant: np.ndarray
    t: np.ndarray  # microseconds from midnight UTC
    amount: np.ndarray
    scenario: np.ndarray  # index into `scenarios.KINDS`, or ORDINARY
    incident: np.ndarray  # number of the day's incident of many customers, from 1 on; else 0

    def __len__(self) -> int:
        return len(self.t)

    def take(self, index: np.ndarray) -> Rows:
        """The rows at `index`, as new arrays."""
        return Rows(**{name: column[index] for name, column in vars(self).items()})

    @classmethod
    def begun(
        cls, customer: np.ndarray, city: np.ndarray, merchant: np.ndarray, t: np.ndarray
    ) -> Rows:
        """Rows whose amounts and scenario are still to come."""
        n = len(t)
        nothing = (np.zeros(n), np.zeros(n, np.int8), np.zeros(n, np.int32))
        return cls(customer, city, merchant, t, *nothing)

    @staticmethod
    def joined(parts: list[Rows]) -> Rows:
        """The rows of all parts, one after the other."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return Rows(*map(np.concatenate, columns))


def rng_of(seed: int, use: str, number: int = 0) -> np.random.Generator:
    """An independent source for each use, so that no use disturbs another."""
    return np.random.default_rng([seed, int.from_bytes(use.encode()), number])


def settle(n: int, m: int, seed: int) -> Population:
    """`n` customers and `m` merchants with their homes, habits and places."""
    n_cities = len(CITY_LAT)
    away_km = haversine_km(CITY_LAT[:, None], CITY_LON[:, None], CITY_LAT, CITY_LON)

    rng = rng_of(seed, "merchants")
    settled = min(m, n_cities)  # with few merchants, people live in the largest cities only
    share = _CITY_WEIGHT[:settled] / _CITY_WEIGHT[:settled].sum()
    seat = np.sort(np.concatenate([np.arange(settled), rng.choice(settled, m - settled, p=share)]))
    category = rng.choice(len(CATEGORIES), m, p=_SHARE / _SHARE.sum())
    merchants = Groups.of(seat, rng.lognormal(0.0, 1.0, m), n_cities)
    d_lat, d_lon = rng.normal(0.0, 0.04, (2, m))

    rng = rng_of(seed, "customers")
    home = np.sort(rng.choice(settled, n, p=share))
    kind = rng.random(n)
    shift_h = np.select(
        [kind < 0.04, kind < 0.14],  # night-shift workers, night owls
        [rng.normal(11.0, 1.0, n), rng.normal(2.5, 0.5, n)],
        rng.normal(0.0, 0.8, n),
    )
    # The nearest of three to one's home, eight times: people buy where they live.
    lat, lon = rng.normal(0.0, 0.05, (2, n, 1, 1))
    choice = merchants.pick(home[:, None, None], rng.random((n, _FAVOURITES, 3)))
    nearest = np.argmin((d_lat[choice] - lat) ** 2 + (d_lon[choice] - lon) ** 2, axis=2)
    favourites = np.take_along_axis(choice, nearest[:, :, None], axis=2)[:, :, 0]
    return Population(
        customers=Groups.of(home, rng.gamma(1.5, 1.0, n) + 0.05, n_cities),
        home=home,
        income=rng.normal(0.0, 0.45, n),
        taste=rng.normal(0.0, 0.2, (n, len(CATEGORIES))),
        shift_h=shift_h,
        wanderlust=rng.beta(1.0, 5.0, n),
        favourites=favourites,
        merchants=merchants,
        seat=seat,
        category=category,
        d_lat=d_lat,
        d_lon=d_lon,
        away_km=away_km,
        customer_ids=pa.array([f"C{i:06d}" for i in rng.permutation(n)]),
        merchant_ids=pa.array([f"M{i:05d}" for i in rng_of(seed, "names").permutation(m)]),
    )


def plan_trips(population: Population, seed: int, block: int) -> Trips:
    """Who travels where in one block of `TRIP_BLOCK` days."""
    rng = rng_of(seed, "trips", block)
    n = len(population.home)
    odds = _CITY_WEIGHT * (np.exp(-population.away_km / 2_500) + 0.1)
    odds[(population.away_km == 0) | (population.away_km > _FARTHEST_TRIP_KM)] = 0
    cdf = np.cumsum(odds, axis=1) / odds.sum(axis=1, keepdims=True)
    to = np.empty(n, dtype=np.int64)
    u = rng.random(n)
    for city in np.unique(population.home):
        here = population.home == city
        to[here] = np.searchsorted(cdf[city], u[here], side="right")
    n_days = rng.integers(2, 11, n)
    first = (rng.random(n) * (TRIP_BLOCK + 1 - n_days)).astype(np.int64)
    gap = (population.away_km[population.home, to] / _FLIGHT_KMH + _AIRPORT_H) / 24
    goes = rng.random(n) < population.wanderlust
    first = np.where(goes, first + block * TRIP_BLOCK, -1)
    last = np.where(goes, first + n_days - 1, -2)
    return Trips(first, last, to, gap, *rng.random((2, n)) * (1 - gap))


def purchases(
    population: Population, trips: Trips, day: int, n: int, rng: np.random.Generator
) -> Rows:
    """Who buys where and when on an ordinary day; amounts are still to come."""
    total = population.customers.cumulative[-1]
    customer = np.searchsorted(population.customers.cumulative, rng.random(n) * total, "right") - 1
    customer = np.minimum(customer, len(population.home) - 1)
    home, to = population.home[customer], trips.to[customer]
    leaving, returning = trips.first[customer] == day, trips.last[customer] == day
    away = (trips.first[customer] < day) & (day < trips.last[customer])

    local = local_hours(population, customer, rng)
    x = (local - OFFSET_H[np.where(away, to, home)]) / 24 % 1.0
    # On a travelling day the day is squeezed around the gap in which nothing is bought.
    gap = np.where(leaving | returning, trips.gap[customer], 0.0)
    begins = np.where(leaving, trips.leaves[customer], trips.returns[customer])
    x *= 1 - gap
    landed = x >= begins
    x += gap * landed
    away |= (leaving & landed) | (returning & ~landed)
    city = np.where(away, to, home)

    merchant = population.merchants.pick(city, rng.random(n))
    favourite = population.favourites[customer, rng.integers(0, _FAVOURITES, n)]
    merchant = np.where(~away & (rng.random(n) < 0.75), favourite, merchant)
    return Rows.begun(customer, city, merchant, microseconds(x))


def local_hours(
    population: Population, customer: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Local hours at which these customers buy, each by the habits of its own; they may pass 24."""
    hours: np.ndarray = np.interp(rng.random(len(customer)), _HOURLY_CDF, np.arange(25.0))
    hours += population.shift_h[customer]
    return hours


def ordinary_day(
    population: Population, trips: Trips, day: int, n: int, rng: np.random.Generator
) -> Rows:
    """The `n` ordinary transactions of a day, complete."""
    n_more = n // 50  # a second coffee, a ticket for each child: soon after, at the same place
    rows = purchases(population, trips, day, n - n_more, rng)
    # What is bought within five minutes is bought at one place, since nobody beams about town.
    order = np.argsort(rows.customer * DAY + rows.t, kind="stable")
    near = np.diff(rows.t[order], prepend=-DAY) < 5 * MINUTE
    near &= np.diff(rows.customer[order], prepend=-1) == 0
    leader = np.maximum.accumulate(np.where(near, 0, np.arange(len(order))))
    rows.merchant[order] = rows.merchant[order][leader]
    if n_more:
        first = rng.integers(0, len(rows), n_more // 4 + 1)
        more = rows.take(first[(len(first) * rng.random(n_more) ** 1.5).astype(np.int64)])
        later = (rng.uniform(4, 180, n_more) * SECOND).astype(np.int64)
        more.t = np.minimum(more.t + later, DAY - 1)
        rows = Rows.joined([rows, more])
    rows.amount = amounts(population, rows, rng)
    dear = rng.random(n) < 0.003  # a sofa, a ring, a birthday
    rows.amount[dear] *= log_uniform(rng, 3, 7, int(dear.sum()))
    rows.scenario = np.full(n, ORDINARY, dtype=np.int8)
    return rows


def amounts(population: Population, rows: Rows, rng: np.random.Generator) -> np.ndarray:
    """What these customers pay at these merchants."""
    category = population.category[rows.merchant]
    level = _LEVEL[category] + population.income[rows.customer]
    level += population.taste[rows.customer, category]
    level += 0.25 * (rows.city != population.home[rows.customer])  # people spend more abroad
    amount: np.ndarray = np.exp(level + _SIGMA[category] * rng.standard_normal(len(rows)))
    return amount


def usual_amounts(population: Population, rows: Rows) -> np.ndarray:
    """The customer's usual amount there, at least their usual amount anywhere."""
    category = population.category[rows.merchant]
    there = _LEVEL[category] + population.taste[rows.customer, category]
    anywhere = float(_SHARE @ _LEVEL / _SHARE.sum())
    usual: np.ndarray = np.exp(np.maximum(there, anywhere) + population.income[rows.customer])
    return usual


def log_uniform(rng: np.random.Generator, low: float, high: float, n: int) -> np.ndarray:
    """`n` numbers between `low` and `high`, each factor as likely as any other."""
    return np.exp(rng.uniform(np.log(low), np.log(high), n))


def microseconds(days: np.ndarray) -> np.ndarray:
    """The time of day, in microseconds, of any number of days."""
    t: np.ndarray = np.minimum((days % 1 * DAY).astype(np.int64), DAY - 1)
    return t
