"""The kinds of synthetic fraud and what looks like one and is none: how each of them pays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from aegis_core.intake.synthetic.population import (
    CATEGORIES,
    DAY,
    MINUTE,
    OFFSET_H,
    SECOND,
    Population,
    Rows,
    amounts,
    local_hours,
    log_uniform,
    microseconds,
    rng_of,
    usual_amounts,
)
from aegis_core.schema import LOOK_ALIKES, SCENARIOS

KINDS: Final = (*SCENARIOS, *LOOK_ALIKES)

DEFAULT_RATES: Final[Mapping[str, float]] = {
    "spike": 0.0007,
    "travel": 0.0007,
    "night": 0.0007,
    "burst": 0.0014,
    "merchant": 0.0009,
    "takeover": 0.0006,
    "testing": 0.0004,
    "sale": 0.0008,
}
"""Share of all transactions that each of `KINDS` makes up: frauds 0.54 % together."""

NIGHT: Final = (1.0, 4.0)
"""Local hours from and until which `night` fraud happens."""

TESTED: Final = (0.5, 8.0)
"""Lowest and highest amount by which a card is tested."""

BURST_SIZES: Final = (50, 80)
"""Fewest and most transactions of one `burst`."""

TAKEOVER_SIZE: Final = 5
"""Transactions of one `takeover`."""

CROWD_SIZES: Final = {"testing": (40, 60), "sale": (60, 150)}
"""Fewest and most customers of one incident of many; each pays once, where there are so many."""

TRAVEL_FROM_KM: Final = 800.0
TRAVEL_KMH: Final = 1_500.0
"""How far and how fast a `travel` fraud is at least, from centre to centre of the cities."""

_ENTERTAINMENT: Final = [name for name, *_ in CATEGORIES].index("entertainment")
_COMPROMISED_BLOCK: Final = 10  # days for which a merchant stays compromised
_FRAUDS_A_MERCHANT: Final = 40


def spike(population: Population, rows: Rows, rng: np.random.Generator) -> Rows:
    """Far above what the customer usually pays."""
    rows.amount = usual_amounts(population, rows) * log_uniform(rng, 8, 30, len(rows))
    return rows


def night(population: Population, rows: Rows, rng: np.random.Generator) -> Rows:
    """Above the usual, at an hour at which most people sleep."""
    rows.t = microseconds((rng.uniform(*NIGHT, len(rows)) - OFFSET_H[rows.city]) / 24)
    rows.amount = usual_amounts(population, rows) * log_uniform(rng, 4, 15, len(rows))
    return rows


def travel(population: Population, rows: Rows, rng: np.random.Generator) -> Rows:
    """The card is used far away, minutes after its holder used it."""
    far = population.away_km[rows.city] >= TRAVEL_FROM_KM
    nth = (rng.random(len(rows)) * far.sum(axis=1)).astype(np.int64)
    city = np.argmax(np.cumsum(far, axis=1) > nth[:, None], axis=1)
    minutes = rng.uniform(2, 40, len(rows))
    minutes = np.minimum(minutes, population.away_km[rows.city, city] / TRAVEL_KMH * 60)
    rows.t = np.minimum(rows.t + (minutes * MINUTE).astype(np.int64), DAY - 1)
    rows.merchant = population.merchants.pick(city, rng.random(len(rows)))
    rows.amount = amounts(population, rows, rng) * log_uniform(rng, 1, 3, len(rows))
    rows.city = city
    return rows


def burst(rows: Rows, sizes: np.ndarray, rng: np.random.Generator) -> Rows:
    """Card testing: small amounts at one terminal, a few a second."""
    rows.t = np.minimum(rows.t, DAY - MINUTE)
    rows = rows.take(np.repeat(np.arange(len(sizes)), sizes))
    rows.t = rows.t + _elapsed(0.08, 0.4, sizes, rng)
    rows.amount = log_uniform(rng, *TESTED, len(rows))
    return rows


def _elapsed(low: float, high: float, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Microseconds since the first of each incident, whose pace is `low` to `high` seconds."""
    pace = np.repeat(log_uniform(rng, low, high, len(sizes)) * SECOND, sizes)
    elapsed = np.cumsum(pace * rng.uniform(0.3, 1.7, len(pace)))
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    since: np.ndarray = (elapsed - elapsed[first]).astype(np.int64)
    return since


def testing(population: Population, sizes: np.ndarray, rng: np.random.Generator) -> Rows:
    """Card testing over many cards: small amounts at one shop online, about one a second."""
    merchant = rng.integers(0, len(population.seat), len(sizes))
    everyone = np.arange(len(population.home))
    rows = _crowd(population, merchant, [everyone] * len(sizes), sizes, rng)
    begins = (rng.uniform(0, DAY - 3 * MINUTE, len(sizes))).astype(np.int64)
    rows.t = np.repeat(begins, sizes) + _elapsed(0.2, 1.5, sizes, rng)
    rows.amount = log_uniform(rng, *TESTED, len(rows))
    return rows


def sale(population: Population, sizes: np.ndarray, rng: np.random.Generator) -> Rows:
    """Looks like `testing` and is none: a shop online sells tickets from its noon on."""
    theatres = np.flatnonzero(population.category == _ENTERTAINMENT)
    everywhere = len(population.seat)
    merchant = rng.choice(theatres if len(theatres) else everywhere, len(sizes))
    offset = OFFSET_H[population.seat[merchant]]
    awake = [np.flatnonzero(OFFSET_H[population.home] == hours) for hours in offset]
    rows = _crowd(population, merchant, awake, sizes, rng)
    lasts = np.repeat(log_uniform(rng, 4, 20, len(sizes)), sizes) * MINUTE
    since = (lasts * rng.random(len(rows)) ** 2).astype(np.int64)
    rows.t = np.repeat(microseconds((12 - offset) / 24), sizes) + since
    price = np.repeat(log_uniform(rng, 25, 75, len(sizes)), sizes)
    rows.amount = price * rng.integers(1, 3, len(rows))
    return rows


def _crowd(
    population: Population,
    merchant: np.ndarray,
    people: list[np.ndarray],
    sizes: np.ndarray,
    rng: np.random.Generator,
) -> Rows:
    """So many of some people at each merchant, of all where these are too few."""
    n = len(population.home)
    chosen = [
        rng.choice(some if len(some) >= size else n, size, replace=len(some) < size > n)
        for some, size in zip(people, sizes.tolist(), strict=True)
    ]
    merchant = np.repeat(merchant, sizes)
    at = np.zeros(len(merchant), np.int64)
    rows = Rows.begun(np.concatenate(chosen), population.seat[merchant], merchant, at)
    rows.incident = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)
    return rows


def takeover(population: Population, rows: Rows, rng: np.random.Generator) -> Rows:
    """Somebody else spends for some hours: a bit much, some at night, away or in haste."""
    m = len(rows)
    night, elsewhere, haste = rng.random((3, m)) < np.array([[0.2], [0.3], [0.3]])
    local = rng.uniform(*NIGHT, m) - OFFSET_H[rows.city]
    rows.t = np.where(night, microseconds(local / 24), rows.t)
    near = np.argsort(population.away_km, axis=1, kind="stable")[:, 1:6]
    rows.city = np.where(elsewhere, near[rows.city, rng.integers(0, 5, m)], rows.city)
    wait_min = np.where(haste, 0.5, 20.0)[:, None] * rng.lognormal(0, 1, (m, TAKEOVER_SIZE))
    elapsed = np.cumsum(wait_min, axis=1) * MINUTE
    room = (DAY - 1 - rows.t)[:, None]
    elapsed *= np.minimum(1, room / elapsed[:, -1:])
    rows = rows.take(np.repeat(np.arange(m), TAKEOVER_SIZE))
    rows.t = rows.t + elapsed.ravel().astype(np.int64)
    rows.merchant = population.merchants.pick(rows.city, rng.random(len(rows)))
    rows.amount = amounts(population, rows, rng) * log_uniform(rng, 1.5, 4, len(rows))
    return rows


def compromised(
    population: Population, seed: int, day: int, a_day: float, n: int, rng: np.random.Generator
) -> Rows:
    """Cards cloned at a merchant: purchases there like any other, by people who live there.

    `n` of this day; `a_day` on average says how many merchants are compromised.
    """
    block = rng_of(seed, "compromised", day // _COMPROMISED_BLOCK)
    lived_in = np.isin(population.seat, population.home)
    odds = np.diff(population.merchants.cumulative) * lived_in
    n_bad = min(int(np.ceil(a_day * _COMPROMISED_BLOCK / _FRAUDS_A_MERCHANT)), int(lived_in.sum()))
    bad = block.choice(len(odds), n_bad, replace=False, p=odds / odds.sum())
    merchant = rng.choice(bad, n)
    city = population.seat[merchant]
    customer = population.customers.pick(city, rng.random(n))
    t = microseconds((local_hours(population, customer, rng) - OFFSET_H[city]) / 24)
    rows = Rows.begun(customer, city, merchant, t)
    rows.amount = amounts(population, rows, rng)
    return rows


AT_PURCHASES: Final = {"spike": spike, "night": night, "takeover": takeover}
"""Scenarios that begin at a purchase like any other."""

CROWDS: Final = {"testing": testing, "sale": sale}
"""Incidents of many customers."""
