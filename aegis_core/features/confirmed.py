"""The memory of what was answered: whose it is, which labels wait, how it is kept.

`frauds` is the arithmetic on it. Labels come in any order, wait here until they are known, and one
that is answered again takes back what the one before said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

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
from aegis_core.features.frauds import NOBODY, OFTEN, WHO, WIDTHS, Events, Recall
from aegis_core.features.kernels import kernel

_BLOCK: Final = 1_024


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
        merchants, customers = (np.zeros((16, width)) for width in WIDTHS.values())
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
            if any(arrays[name].shape[1:] != (width,) for name, width in WIDTHS.items()):
                raise ValueError("it has another layout")
        self.memory = Recall(merchants, customers, events, np.zeros(1, np.int64))
        return self


def numbers(customers: list[str]) -> Floats:
    """What stands for customers in the memory of merchants, whatever their codes."""
    return (hashed(customers) >> 10).astype(np.float64)  # as many bits as are exact


def unnamed(merchants: Floats, customer: str) -> None:
    """Let nothing in what is known of merchants stand for a customer."""
    who = merchants[:, WHO:OFTEN]
    who[who == numbers([customer])] = NOBODY


def widened(merchants: Floats) -> Floats:
    """What an older version knew of merchants; of nobody it was known how often they pay."""
    return np.pad(merchants, ((0, 0), (0, WIDTHS["merchants"] - merchants.shape[1])))


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
