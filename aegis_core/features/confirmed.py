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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.features.arrays import (
    Arrays,
    Floats,
    Ints,
    Rows,
    encode,
    grown,
    hashed,
    packed,
    read_arrays,
    reading,
    unpacked,
    without,
    write_arrays,
)
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
_BLOCK: Final = 1_024
_N_MEMORY: Final = len(MEMORY_DAYS)
# Columns of a merchant's or customer's row.
_CLOCK, _RUN, _RUN_FROM, _LAST, _N_FRAUDS, _N_ANSWERS, _TRAFFIC, _SEEN = range(8)
_FRAUDS = 8
_ANSWERS = _FRAUDS + _N_MEMORY
_SINCE = _ANSWERS + _N_MEMORY
# A number that stands for the customer, and at a merchant for each of the frequent ones; these
# are followed by how often they paid. A replay without somebody gives other codes, hence no code.
WHO: Final = _SINCE + 1
_OFTEN = WHO + FREQUENT
_WIDTHS = {"merchants": _OFTEN + FREQUENT, "customers": WHO + 1}
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
    for j in range(_OFTEN, len(row)):
        others -= row[j]
    most: float = max(MOST_OF_ONE, PART_OF_ONE * others)
    return most


@kernel
def _part_of(row: Floats, who: float) -> float:
    """How much each payment of a customer counts for at a merchant, in (0, 1]."""
    part = 1.0
    for j in range(WHO, _OFTEN):
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
def _first_late_enough(ts_us: Ints, highest: Ints, known_at_us: Ints, row: Ints) -> None:
    """Move each `row` on to the first whose time is not before `known_at_us`, or behind the last.

    `highest` holds the latest time of each `_BLOCK` rows.
    """
    for i in range(len(row)):
        r = row[i]
        while r < len(ts_us) and ts_us[r] < known_at_us[i]:
            early = r % _BLOCK == 0 and highest[r // _BLOCK] < known_at_us[i]
            r += _BLOCK if early else 1
        row[i] = min(r, len(ts_us))


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
    if len(row) > _OFTEN:
        most = _most_of_one(row)
        for j in range(_OFTEN, len(row)):
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
    if len(row) > _OFTEN:
        _count_among(row, who, fade, weight)


@kernel
def _count_among(row: Floats, who: float, fade: float, weight: float) -> None:
    """Count a payment among those of the frequent customers of a merchant, which fade.

    One who is not among them takes from each as much as they have to give, until one has nothing.
    """
    least, place = _OFTEN, 0
    for j in range(_OFTEN, len(row)):
        row[j] *= fade
        least = j if row[j] < row[least] else least
        place = j if row[j - FREQUENT] == who else place
    if place > 0:
        row[place] += weight
        return
    taken = min(weight, row[least])
    for j in range(_OFTEN, len(row)):
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


class Confirmed:
    """The confirmed frauds of every merchant and customer, and the labels that are still to come.

    Examples
    --------
    >>> confirmed = Confirmed()
    >>> confirmed.add_labels(pd.DataFrame({
    ...     "transaction_id": ["a"], "customer_id": ["anna"], "merchant_id": ["shop"],
    ...     "ts": pd.to_datetime(["2026-03-01"]), "is_fraud": [True],
    ...     "known_at": pd.to_datetime(["2026-03-08"])}))
    >>> confirmed.memory.events.change.tolist()
    [1]
    """

    def __init__(self) -> None:
        self.customer_codes: dict[str, int] = {}
        self.merchant_codes: dict[str, int] = {}
        merchants, customers = (np.zeros((16, width)) for width in _WIDTHS.values())
        times, flags = np.zeros(0, np.int64), np.zeros(0, np.int8)
        none = Events(times, times, times, times, flags, flags, times)
        self.memory = Recall(merchants, customers, none, np.zeros(1, np.int64))

    def add_labels(self, labels: pd.DataFrame) -> None:
        """Take labels, to be folded when the pass reaches their `known_at`.

        Parameters
        ----------
        labels :
            `transaction_id`, `is_fraud`, `known_at`, and of the labelled transaction
            `customer_id`, `ts` and, where there is one, `merchant_id`. Where a transaction is
            answered again, the one of the highest `rank` holds of those that are known; without
            that column a later row ranks higher. Labels of an earlier call are named again as
            `earlier`.
        """
        events, due = self._pending(labels, lambda known_at, row: known_at)
        self._wait_for(events, np.lexsort((-events.rank, due)))

    @contextmanager
    def arriving(self, labels: pd.DataFrame, ts_us: Ints) -> Iterator[Ints]:
        """Take labels in the course of a pass over rows of the times `ts_us`.

        Inside, the clock that `fold` goes by is the number of the row, which is what the block
        gets: each label is folded at the first row that is not before its `row` and whose time is
        not before its `known_at`, just as if `add_labels` had been called before that `row`.

        Parameters
        ----------
        labels : as of `add_labels`, in order of arrival, and the `row` that each arrived before.
        """
        highest = np.maximum.reduceat(ts_us, np.arange(0, len(ts_us), _BLOCK))

        def due_of(known_at: Ints, row: Ints) -> Ints:
            due = np.maximum(row, np.maximum.accumulate(ts_us).searchsorted(known_at))
            _first_late_enough(ts_us, highest, known_at, due)
            return due

        events, due = self._pending(labels, due_of)
        order = np.lexsort((-events.rank, events.known_at_us, due))
        self._wait_for(events._replace(known_at_us=due), order)
        yield np.arange(len(ts_us))
        self._wait_for(events, order[int(self.memory.folded[0]) :])

    def _pending(
        self, labels: pd.DataFrame, due_of: Callable[[Ints, Ints], Ints]
    ) -> tuple[Events, Ints]:
        """What waits together with `labels`, and when each is due, by time and row of arrival."""
        folded, n = int(self.memory.folded[0]), len(labels)
        waiting = Events(*(part[folded:] for part in map(np.asarray, self.memory.events)))
        rank = labels["rank"].to_numpy(np.int64) if "rank" in labels else np.arange(n)
        told = labels["earlier"].to_numpy(bool) if "earlier" in labels else np.zeros(n, bool)
        again = told & np.isin(rank, waiting.rank)
        known_at = labels["known_at"].to_numpy("datetime64[us]").astype(np.int64)
        row = labels["row"].to_numpy(np.int64) if "row" in labels else np.zeros(n, np.int64)
        due = due_of(known_at, np.where(told, 0, row))
        due = np.where(told & ~again, np.iinfo(np.int64).min, due)  # folded long ago
        ts_us = labels["ts"].to_numpy("datetime64[us]").astype(np.int64)
        changed = _changed(labels, np.lexsort((-rank, known_at, due)), rank)
        kept = rank if "rank" in labels else np.full(n, -1)
        fresh = Events(known_at, *self.codes(labels), ts_us, *changed, kept)
        still, new = ~np.isin(waiting.rank, rank[again]), ~told | again
        both = zip(map(np.asarray, waiting), map(np.asarray, fresh), strict=True)
        events = Events(*(np.concatenate([a[still], b[new]]) for a, b in both))
        nothing = np.zeros(int(still.sum()), np.int64)
        return events, np.concatenate([due_of(waiting.known_at_us[still], nothing), due[new]])

    def _wait_for(self, events: Events, order: Ints) -> None:
        self.memory = self.memory._replace(
            events=Events(*(part[order] for part in map(np.asarray, events))),
            folded=np.zeros(1, np.int64),
        )

    def codes(self, frame: Rows) -> tuple[Ints, Ints]:
        """Customer and merchant codes of `frame`, with room made for whoever is new in it."""
        known = len(self.customer_codes)
        customer = encode(frame["customer_id"], self.customer_codes)
        merchant = np.full(len(customer), -1, np.int64)
        if "merchant_id" in frame:
            merchant = encode(frame["merchant_id"], self.merchant_codes)
        self.memory = self.memory._replace(
            customers=grown(self.memory.customers, len(self.customer_codes)),
            merchants=grown(self.memory.merchants, len(self.merchant_codes)),
        )
        new = list(islice(reversed(self.customer_codes), len(self.customer_codes) - known))
        if new:
            self.memory.customers[known : known + len(new), WHO] = numbers(new[::-1])
        return customer, merchant

    def put(self, merchant: str, known: Floats) -> None:
        """Let this be known of a merchant."""
        code = self.merchant_codes.setdefault(merchant, len(self.merchant_codes))
        merchants = grown(self.memory.merchants, len(self.merchant_codes))
        merchants[code] = known
        self.memory = self.memory._replace(merchants=merchants)

    def drop(self, customer: str, merchants: list[str]) -> None:
        """Forget a customer with the labels still to come, and merchants."""
        for name in merchants:
            if name in self.merchant_codes:
                self.memory.merchants[self.merchant_codes[name]] = 0
        self.merchant_codes = without(self.merchant_codes, merchants)
        code = self.customer_codes.get(customer)
        if code is None:
            return
        self.customer_codes = without(self.customer_codes, [customer])
        self.memory.customers[code] = 0
        unnamed(self.memory.merchants, customer)
        waiting = slice(int(self.memory.folded[0]), None)
        stay = self.memory.events.customer[waiting] != code
        events = Events(*(np.asarray(part)[waiting][stay] for part in self.memory.events))
        self.memory = self.memory._replace(events=events, folded=np.zeros(1, np.int64))

    def copy(self) -> Confirmed:
        """The same state in memory of its own."""
        other = Confirmed()
        other.customer_codes = dict(self.customer_codes)
        other.merchant_codes = dict(self.merchant_codes)
        merchants, customers, events, folded = self.memory
        other.memory = Recall(merchants.copy(), customers.copy(), events, folded.copy())
        return other

    def save(self, path: Path) -> None:
        """Write the state as plain arrays; loading it runs no code."""
        merchants, customers, events, folded = self.memory
        waiting = slice(int(folded[0]), None)
        codes = {"customer_ids": self.customer_codes, "merchant_ids": self.merchant_codes}
        tables = {"merchants": merchants, "customers": customers}
        pending = {name: part[waiting] for name, part in events._asdict().items()}
        write_arrays(path, {name: packed(of) for name, of in codes.items()} | tables | pending)

    @classmethod
    def load(
        cls, path: Path, bring: Callable[[Arrays], Arrays] = lambda as_read: as_read
    ) -> Confirmed:
        """Read what `save` wrote; `bring` may bring another layout up to date.

        Raises
        ------
        NotReady : The file is not there, broken, or of another layout.
        """
        self = cls()
        with reading(f"The answers in {path}", "Replay the history instead."):
            arrays = bring(read_arrays(path))
            self.customer_codes = unpacked(arrays["customer_ids"])
            self.merchant_codes = unpacked(arrays["merchant_ids"])
            events = Events(*(arrays[name] for name in Events._fields))
            merchants, customers = arrays["merchants"], arrays["customers"]
            if any(arrays[name].shape[1:] != (width,) for name, width in _WIDTHS.items()):
                raise ValueError("it has another layout")
        self.memory = Recall(merchants, customers, events, np.zeros(1, np.int64))
        return self


def numbers(customers: list[str]) -> Floats:
    """What stands for customers in the memory of merchants, whatever their codes."""
    return (hashed(customers) >> 10).astype(np.float64)  # as many bits as are exact


def unnamed(merchants: Floats, customer: str) -> None:
    """Let nothing in what is known of merchants stand for a customer."""
    who = merchants[:, WHO:_OFTEN]
    who[who == numbers([customer])] = NOBODY


def widened(merchants: Floats) -> Floats:
    """What an older version knew of merchants; of nobody it was known how often they pay."""
    return np.pad(merchants, ((0, 0), (0, _WIDTHS["merchants"] - merchants.shape[1])))


def brought(arrays: Arrays) -> Arrays:
    """What a version saved that knew no frequent customers, or neither ranks nor first payments.

    Whoever paid then counts as known for long. Of labels that were left waiting nobody knows which
    they are: a later label about one of their transactions does not take them back.
    """
    customers = arrays["customers"]
    if customers.shape[1] <= WHO:
        customers = np.pad(customers, ((0, 0), (0, WHO + 1 - customers.shape[1])))
        names = list(unpacked(arrays["customer_ids"]))
        customers[: len(names), WHO] = numbers(names)
        arrays = arrays | {"customers": customers, "merchants": widened(arrays["merchants"])}
    return {"rank": np.full(len(arrays["ts_us"]), -1)} | arrays


def _changed(
    labels: pd.DataFrame, order: Ints, rank: Ints
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """`Events.change` and `Events.first` of labels that become known in `order`."""
    fraud = labels["is_fraud"].to_numpy(bool).astype(np.int8)
    if labels["transaction_id"].is_unique:
        return fraud, np.ones_like(fraud)
    change, first = np.zeros((2, len(labels)), np.int8)
    about, in_turn = labels["transaction_id"].to_numpy()[order], pd.Series(rank[order])
    holds = order[(in_turn.groupby(about).cummax() == in_turn).to_numpy()]
    said = pd.Series(fraud[holds])
    before = said.groupby(labels["transaction_id"].to_numpy()[holds]).shift(fill_value=-1)
    change[holds], first[holds] = said - before.clip(lower=0), before < 0
    return change, first


def label_events(frame: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """`labels` with what `Confirmed.add_labels` takes, of the labelled transactions in `frame`.

    Labels of transactions that are not in `frame` are left out; several answers about one
    transaction are all kept.
    """
    known = [c for c in ("transaction_id", "customer_id", "merchant_id", "ts") if c in frame]
    once = frame[known].drop_duplicates("transaction_id")  # a payment and the try before it
    return labels[["transaction_id", "is_fraud", "known_at"]].merge(
        once, on="transaction_id", how="inner", validate="many_to_one"
    )
