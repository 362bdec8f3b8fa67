"""What answers teach about merchants and customers: confirmed frauds, from the time they are known.

`signals` knows what is normal, this module what was answered. A label changes the state only when
a transaction arrives whose `ts` is not before the label's `known_at`, so that the label delay holds
by construction, in training, evaluation and live scoring alike. The loop in `scoring` calls `fold`
for the labels that have become known, then `recall` for the transaction, then `witness`.

Evidence is a share of the payments, answered or not, since often frauds alone are answered (a file
of chargebacks): one fraud among 1,000 payments says little, however often it comes.

    share = (frauds + PRIOR_PAYMENTS * USUAL_SHARE) / (payments + PRIOR_PAYMENTS)

No customer rules a merchant's share: what one of them pays there beyond `MOST_OF_ONE` payments and
`PART_OF_ONE` of the others' counts no more, and their frauds and answers for as much less.

Frauds are exponentially weighted by the time of the labelled transactions and stand still between
answers, and so do the payments beside them: a delay of the labels as such does not water a share
down. Everything is 0 for a merchant or customer without answers. When it fails: a clock that jumps
ahead in the history (a transaction of the year 2099) makes the labels up to its time known to all
that come after it; and where payments suddenly become many, those of before are overestimated.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.kernels import kernel

_OF_EACH: Final = (
    "share_day",  # of confirmed fraud among the payments, of about a day, shrunk
    "share_week",
    "share_month",
    "weighed_frauds",  # confirmed, of about the last month, times `weight_of_share`
    "cleared",  # answered as ordinary, of about the last month
    "per_payment",  # confirmed frauds per payment, answered or not, of about a month
    "weighed_run",  # confirmed frauds in a row up to the last answer, likewise weighed
    "weighed_run_days",  # since the first fraud of this run
    "weighed_recency",  # of the last confirmed fraud: 1 / (1 + days since)
)
HISTORY: Final = tuple(f"{who}_{name}" for who in ("merchant", "customer") for name in _OF_EACH)
"""What is remembered of the answers, in the order of every history array."""

N_HISTORY: Final = len(HISTORY)
N_OF_EACH: Final = len(_OF_EACH)
MEMORY_DAYS: Final = (1.0, 7.0, 30.0)
"""Time constants of the shares."""
PRIOR_PAYMENTS: Final = 1.0
"""Payments that a share begins with, `USUAL_SHARE` of them fraud."""
USUAL_SHARE: Final = 0.002
"""Share of fraud among the payments of a population. It is fixed: one that was learnt would let
whatever is answered about anybody, or erased, move the scores of all."""
HALF_SHARE: Final = 0.01
"""Share of fraud among the payments at which a count of frauds has half its weight."""
MOST_OF_ONE: Final = 3.0
"""Payments of about a month that any customer may count for at a merchant."""
PART_OF_ONE: Final = 0.1
"""The same as a part of those by customers who pay there rarely, where that is more."""
FREQUENT: Final = 8
"""Customers with the most payments at a merchant that are remembered, with how many: whoever made
more than one of this number and one is among them (Misra and Gries 1982)."""

_DAY_US: Final = 86_400e6
_N_MEMORY: Final = len(MEMORY_DAYS)
# Columns of a merchant's or customer's row.
_CLOCK, _RUN, _RUN_FROM, _LAST, _N_FRAUDS, _N_ANSWERS, _TRAFFIC, _SEEN = range(8)
_FRAUDS = 8
_ANSWERS = _FRAUDS + _N_MEMORY
_SINCE = _ANSWERS + _N_MEMORY
# A number that stands for the customer, and at a merchant for each of the frequent ones; these
# are followed by how often they paid. A replay without somebody gives other codes, hence no code.
WHO: Final = _SINCE + 1
OFTEN = WHO + FREQUENT
WIDTHS = {"merchants": OFTEN + FREQUENT, "customers": WHO + 1}
NOBODY: Final = -1.0
"""Stands in the place of a frequent customer who was dropped."""


class Events(NamedTuple):
    """Labels in the order in which they become known, each array of shape (n,).

    `change` is 1 where a transaction becomes a fraud, −1 where a fraud is taken back, else 0;
    `first` is 1 for the first answer about a transaction; both are 0 for one that does not hold
    when it becomes known. `merchant` is −1 where missing, `rank` that of the label in its database,
    or −1.
    """

    known_at_us: Ints
    customer: Ints
    merchant: Ints
    ts_us: Ints
    change: npt.NDArray[np.int8]
    first: npt.NDArray[np.int8]
    rank: Ints


class Recall(NamedTuple):
    """What the kernel reads and writes: state, labels to come, and how many of them are folded."""

    merchants: Floats
    customers: Floats
    events: Events
    folded: Ints  # (1,)


@kernel
def _fold_into(row: Floats, ts: float, change: int, first: int, part: float) -> None:
    ahead = ts - row[_CLOCK] if row[_N_ANSWERS] > 0 else 0.0
    if row[_N_ANSWERS] == 0 or ahead > 0:
        row[_CLOCK] = ts
    for k in range(_N_MEMORY):
        weight = part
        if ahead > 0:
            fade = math.exp(-ahead / (MEMORY_DAYS[k] * _DAY_US))
            row[_FRAUDS + k] *= fade
            row[_ANSWERS + k] *= fade
        else:
            weight = part * math.exp(ahead / (MEMORY_DAYS[k] * _DAY_US))
        row[_FRAUDS + k] = max(0.0, row[_FRAUDS + k] + change * weight)
        row[_ANSWERS + k] += first * weight
    row[_N_ANSWERS] += first
    row[_N_FRAUDS] += change
    if change > 0:
        row[_RUN_FROM] = min(row[_RUN_FROM], ts) if row[_RUN] > 0 else ts
        row[_RUN] += 1
        row[_LAST] = max(row[_LAST], ts)
    elif change < 0 or first > 0:
        row[_RUN] = 0.0


@kernel
def _most_of_one(row: Floats) -> float:
    """Payments that a customer may count for at a merchant."""
    others = row[_TRAFFIC]
    for j in range(OFTEN, len(row)):
        others -= row[j]
    most: float = max(MOST_OF_ONE, PART_OF_ONE * others)
    return most


@kernel
def _part_of(row: Floats, who: float) -> float:
    """How much each payment of a customer counts for at a merchant, in (0, 1]."""
    part = 1.0
    for j in range(WHO, OFTEN):
        if row[j] == who:
            part = min(1.0, _most_of_one(row) / max(row[j + FREQUENT], 1.0))
    return part


@kernel
def fold(memory: Recall, now_us: int) -> None:
    """Fold every label that is known at `now_us` and was not before."""
    events = memory.events
    i = memory.folded[0]
    while i < len(events.ts_us) and events.known_at_us[i] <= now_us:
        ts, change, first = float(events.ts_us[i]), events.change[i], events.first[i]
        if change != 0 or first != 0:
            customer = memory.customers[events.customer[i]]
            _fold_into(customer, ts, change, first, 1.0)
            if events.merchant[i] >= 0:
                merchant = memory.merchants[events.merchant[i]]
                _fold_into(merchant, ts, change, first, _part_of(merchant, customer[WHO]))
        i += 1
    memory.folded[0] = i


@kernel
def weight_of_share(share: float) -> float:
    """How much a count of frauds counts for that are such a share of the payments, in [0, 1)."""
    return share / (share + HALF_SHARE)


@kernel
def _payments(row: Floats, k: int) -> float:
    """Payments beside the frauds that are remembered over `MEMORY_DAYS[k]`, at least the answers.

    They are as many as usual for the traffic of the last month, or since the first payment; of no
    customer more than may be.
    """
    days, month = MEMORY_DAYS[k], MEMORY_DAYS[_N_MEMORY - 1]
    age = 1.0 + max(0.0, row[_SEEN] - row[_SINCE]) / _DAY_US
    usual = days * (1.0 - math.exp(-age / days)) / (month * (1.0 - math.exp(-age / month)))
    traffic = row[_TRAFFIC]
    if len(row) > OFTEN:
        most = _most_of_one(row)
        for j in range(OFTEN, len(row)):
            traffic -= max(0.0, row[j] - most)
    payments: float = max(row[_ANSWERS + k], row[_FRAUDS + k], traffic * usual)
    return payments


@kernel
def _recall_of(row: Floats, ts: float, out: Floats) -> None:
    out[:] = 0.0
    if row[_N_ANSWERS] == 0:
        return
    month = _N_MEMORY - 1
    for k in range(_N_MEMORY):
        frauds = row[_FRAUDS + k] + PRIOR_PAYMENTS * USUAL_SHARE
        out[k] = frauds / (_payments(row, k) + PRIOR_PAYMENTS)
    fade = math.exp(-max(0.0, ts - row[_CLOCK]) / (MEMORY_DAYS[month] * _DAY_US))
    out[4] = max(0.0, fade * (row[_ANSWERS + month] - row[_FRAUDS + month]))
    if row[_N_FRAUDS] > 0:
        out[5] = row[_FRAUDS + month] / max(1.0, _payments(row, month))
        weight = weight_of_share(out[5])
        out[3] = weight * fade * row[_FRAUDS + month]
        out[6] = weight * row[_RUN]
        out[7] = weight * max(0.0, ts - row[_RUN_FROM]) / _DAY_US if row[_RUN] > 0 else 0.0
        out[8] = weight / (1.0 + max(0.0, ts - row[_LAST]) / _DAY_US)


@kernel
def recall(memory: Recall, customer: int, merchant: int, ts_us: int, history: Floats) -> None:
    """Write what is known of merchant and customer of one transaction, shape (N_HISTORY,)."""
    history[:] = 0.0
    if merchant >= 0:
        _recall_of(memory.merchants[merchant], float(ts_us), history[:N_OF_EACH])
    _recall_of(memory.customers[customer], float(ts_us), history[N_OF_EACH:])


@kernel
def _witness_of(row: Floats, ts: float, who: float) -> None:
    ahead = ts - row[_SEEN] if row[_TRAFFIC] > 0 else 0.0
    row[_SINCE] = ts if row[_TRAFFIC] == 0 else min(row[_SINCE], ts)
    if row[_TRAFFIC] == 0 or ahead > 0:
        row[_SEEN] = ts
    fade, weight = 1.0, math.exp(-abs(ahead) / (MEMORY_DAYS[_N_MEMORY - 1] * _DAY_US))
    if ahead >= 0:
        fade, weight = weight, 1.0
    row[_TRAFFIC] = row[_TRAFFIC] * fade + weight
    if len(row) > OFTEN:
        _count_among(row, who, fade, weight)


@kernel
def _count_among(row: Floats, who: float, fade: float, weight: float) -> None:
    """Count a payment among those of the frequent customers of a merchant, which fade.

    One who is not among them takes from each as much as they have to give, until one has nothing.
    """
    least, place = OFTEN, 0
    for j in range(OFTEN, len(row)):
        row[j] *= fade
        least = j if row[j] < row[least] else least
        place = j if row[j - FREQUENT] == who else place
    if place > 0:
        row[place] += weight
        return
    taken = min(weight, row[least])
    for j in range(OFTEN, len(row)):
        row[j] -= taken
    if weight > taken:
        row[least - FREQUENT], row[least] = who, weight - taken


@kernel
def witness(memory: Recall, customer: int, merchant: int, ts_us: int) -> None:
    """Count one payment of its merchant and customer."""
    payer = memory.customers[customer]
    _witness_of(payer, float(ts_us), payer[WHO])
    if merchant >= 0:
        _witness_of(memory.merchants[merchant], float(ts_us), payer[WHO])
