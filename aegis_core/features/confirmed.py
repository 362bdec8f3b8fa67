"""What answers teach about merchants and customers: confirmed frauds, from the time they are known.

`profiles` holds what is normal, this module what was answered. A label changes the state only when
a transaction arrives whose `ts` is not before the label's `known_at`, so that the label delay holds
by construction, in training, evaluation and live scoring alike. The loop in `scoring` calls `fold`
for the labels that have become known, then `recall` for the transaction, then `witness`.

Shares of fraud are exponentially weighted by the time of the labelled transactions and stand still
between answers: a delay of the labels as such does not water them down. Everything is 0 for a
merchant or customer without answers. When it fails: a clock that jumps ahead in the history (a
transaction of the year 2099) makes the labels up to its time known to all that come after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.features.arrays import (
    Floats,
    Ints,
    Rows,
    encode,
    grown,
    packed,
    read_arrays,
    reading,
    unpacked,
    write_arrays,
)
from aegis_core.features.kernels import kernel

_OF_EACH: Final = (
    "share_day",  # of confirmed fraud among the answered, weighted over about a day of answers
    "share_week",
    "share_month",
    "frauds",  # confirmed, of about the last month
    "cleared",  # answered as ordinary, of about the last month
    "per_traffic",  # confirmed frauds per transaction, answered or not, of about a month
    "run",  # confirmed frauds in a row up to the last answer
    "run_days",  # since the first fraud of this run
    "recency",  # of the last confirmed fraud: 1 / (1 + days since)
)
HISTORY: Final = tuple(f"{who}_{name}" for who in ("merchant", "customer") for name in _OF_EACH)
"""What is remembered of the answers, in the order of every history array."""

N_HISTORY: Final = len(HISTORY)
N_OF_EACH: Final = len(_OF_EACH)
MEMORY_DAYS: Final = (1.0, 7.0, 30.0)
"""Time constants of the shares."""
PRIOR_ANSWERS: Final = 1.0
"""Ordinary answers that a share begins with."""

_DAY_US: Final = 86_400e6
_BLOCK: Final = 1_024
_N_MEMORY: Final = len(MEMORY_DAYS)
# Columns of a merchant's or customer's row.
_CLOCK, _RUN, _RUN_FROM, _LAST, _N_FRAUDS, _N_ANSWERS, _TRAFFIC, _SEEN = range(8)
_FRAUDS = 8
_ANSWERS = _FRAUDS + _N_MEMORY
_WIDTH = _ANSWERS + _N_MEMORY


class Events(NamedTuple):
    """Labels in the order in which they become known, each array of shape (n,).

    `change` is 1 where a transaction becomes a fraud, −1 where a fraud is taken back, else 0;
    `first` is 1 for the first answer about a transaction. `merchant` is −1 where missing.
    """

    known_at_us: Ints
    customer: Ints
    merchant: Ints
    ts_us: Ints
    change: npt.NDArray[np.int8]
    first: npt.NDArray[np.int8]


class Recall(NamedTuple):
    """What the kernel reads and writes: state, labels to come, and how many of them are folded."""

    merchants: Floats
    customers: Floats
    events: Events
    folded: Ints  # (1,)


@kernel
def _fold_into(row: Floats, ts: float, change: int, first: int) -> None:
    ahead = ts - row[_CLOCK] if row[_N_ANSWERS] > 0 else 0.0
    if row[_N_ANSWERS] == 0 or ahead > 0:
        row[_CLOCK] = ts
    for k in range(_N_MEMORY):
        weight = 1.0
        if ahead > 0:
            fade = math.exp(-ahead / (MEMORY_DAYS[k] * _DAY_US))
            row[_FRAUDS + k] *= fade
            row[_ANSWERS + k] *= fade
        else:
            weight = math.exp(ahead / (MEMORY_DAYS[k] * _DAY_US))
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
def fold(memory: Recall, now_us: int) -> None:
    """Fold every label that is known at `now_us` and was not before."""
    events = memory.events
    i = memory.folded[0]
    while i < len(events.ts_us) and events.known_at_us[i] <= now_us:
        ts, change, first = float(events.ts_us[i]), events.change[i], events.first[i]
        _fold_into(memory.customers[events.customer[i]], ts, change, first)
        if events.merchant[i] >= 0:
            _fold_into(memory.merchants[events.merchant[i]], ts, change, first)
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
def _recall_of(row: Floats, ts: float, out: Floats) -> None:
    out[:] = 0.0
    if row[_N_ANSWERS] == 0:
        return
    for k in range(_N_MEMORY):
        out[k] = row[_FRAUDS + k] / (PRIOR_ANSWERS + row[_ANSWERS + k])
    month = _N_MEMORY - 1
    fade = math.exp(-max(0.0, ts - row[_CLOCK]) / (MEMORY_DAYS[month] * _DAY_US))
    out[3] = fade * row[_FRAUDS + month]
    out[4] = max(0.0, fade * (row[_ANSWERS + month] - row[_FRAUDS + month]))
    if row[_N_FRAUDS] > 0:
        idle = math.exp(-max(0.0, ts - row[_SEEN]) / (MEMORY_DAYS[month] * _DAY_US))
        out[5] = out[3] / (1.0 + row[_TRAFFIC] * idle)
        out[6] = row[_RUN]
        out[7] = max(0.0, ts - row[_RUN_FROM]) / _DAY_US if row[_RUN] > 0 else 0.0
        out[8] = 1.0 / (1.0 + max(0.0, ts - row[_LAST]) / _DAY_US)


@kernel
def recall(memory: Recall, customer: int, merchant: int, ts_us: int, history: Floats) -> None:
    """Write what is known of merchant and customer of one transaction, shape (N_HISTORY,)."""
    history[:] = 0.0
    if merchant >= 0:
        _recall_of(memory.merchants[merchant], float(ts_us), history[:N_OF_EACH])
    _recall_of(memory.customers[customer], float(ts_us), history[N_OF_EACH:])


@kernel
def _witness_of(row: Floats, ts: float) -> None:
    ahead = ts - row[_SEEN] if row[_TRAFFIC] > 0 else 0.0
    scale = MEMORY_DAYS[_N_MEMORY - 1] * _DAY_US
    if row[_TRAFFIC] == 0 or ahead > 0:
        row[_SEEN] = ts
    if ahead >= 0:
        row[_TRAFFIC] = row[_TRAFFIC] * math.exp(-ahead / scale) + 1.0
    else:
        row[_TRAFFIC] += math.exp(ahead / scale)


@kernel
def witness(memory: Recall, customer: int, merchant: int, ts_us: int) -> None:
    """Count one transaction as traffic of its merchant and customer."""
    _witness_of(memory.customers[customer], float(ts_us))
    if merchant >= 0:
        _witness_of(memory.merchants[merchant], float(ts_us))


class Confirmed:
    """The confirmed frauds of every merchant and customer, and the labels that are still to come.

    Examples
    --------
    >>> confirmed = Confirmed()
    >>> confirmed.add_labels(pd.DataFrame({
    ...     "transaction_id": ["a"], "customer_id": ["anna"], "merchant_id": ["shop"],
    ...     "ts": pd.to_datetime(["2026-03-01"]), "is_fraud": [True],
    ...     "known_at": pd.to_datetime(["2026-03-08"])}))
    >>> confirmed.n_pending
    1
    """

    def __init__(self) -> None:
        self.customer_codes: dict[str, int] = {}
        self.merchant_codes: dict[str, int] = {}
        merchants, customers = np.zeros((2, 16, _WIDTH))
        times, flags = np.zeros(0, np.int64), np.zeros(0, np.int8)
        none = Events(times, times, times, times, flags, flags)
        self.memory = Recall(merchants, customers, none, np.zeros(1, np.int64))

    @property
    def n_pending(self) -> int:
        """Labels that no transaction has made known yet."""
        return len(self.memory.events.ts_us) - int(self.memory.folded[0])

    def add_labels(self, labels: pd.DataFrame) -> None:
        """Take labels, to be folded when the pass reaches their `known_at`.

        Parameters
        ----------
        labels :
            `transaction_id`, `is_fraud`, `known_at`, and of the labelled transaction
            `customer_id`, `ts` and, where there is one, `merchant_id`. Where a transaction is
            answered again, the later answer replaces the earlier one from its own `known_at` on;
            an answer of an earlier call is named in the column `before` (NA: there was none).
        """
        events, _ = self._pending(labels)
        self._wait_for(events, np.argsort(events.known_at_us, kind="stable"))

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
        events, row = self._pending(labels)
        known_at = events.known_at_us
        due = np.maximum(row, np.maximum.accumulate(ts_us).searchsorted(known_at))
        highest = np.maximum.reduceat(ts_us, np.arange(0, len(ts_us), _BLOCK))
        _first_late_enough(ts_us, highest, known_at, due)
        order = np.lexsort((known_at, due))
        self._wait_for(events._replace(known_at_us=due), order)
        yield np.arange(len(ts_us))
        self._wait_for(events, order[int(self.memory.folded[0]) :])

    def _pending(self, labels: pd.DataFrame) -> tuple[Events, Ints]:
        """What waits, then `labels` by `known_at`, and the row that each of them arrived before."""
        at = labels["known_at"].to_numpy("datetime64[us]").astype(np.int64)
        order = np.argsort(at, kind="stable")
        labels, at = labels.iloc[order], at[order]
        fraud = labels["is_fraud"].to_numpy(bool).astype(np.int8)
        if labels["transaction_id"].is_unique:
            shifted = pd.Series(pd.NA, labels.index, dtype="boolean")
        else:
            together = [c for c in ("transaction_id", "row") if c in labels]
            shifted = labels.groupby(together).is_fraud.shift().astype("boolean")
        if "before" in labels:
            shifted = shifted.fillna(labels["before"].astype("boolean"))
        before = shifted.fillna(False).to_numpy(bool).astype(np.int8)
        first = shifted.isna().to_numpy(bool).astype(np.int8)
        ts_us = labels["ts"].to_numpy("datetime64[us]").astype(np.int64)
        fresh = Events(at, *self.codes(labels), ts_us, fraud - before, first)
        says = (fresh.change != 0) | (fresh.first != 0)
        waiting = slice(int(self.memory.folded[0]), None)
        joined = (
            np.concatenate([np.asarray(old)[waiting], np.asarray(new)[says]])
            for old, new in zip(self.memory.events, fresh, strict=True)
        )
        row = labels["row"].to_numpy(np.int64)[says] if "row" in labels else np.zeros(says.sum())
        row = np.concatenate([np.zeros(self.n_pending), row]).astype(np.int64)
        return Events(*joined), row

    def _wait_for(self, events: Events, order: Ints) -> None:
        self.memory = self.memory._replace(
            events=Events(*(part[order] for part in map(np.asarray, events))),
            folded=np.zeros(1, np.int64),
        )

    def codes(self, frame: Rows) -> tuple[Ints, Ints]:
        """Customer and merchant codes of `frame`, with room made for whoever is new in it."""
        customer = encode(frame["customer_id"], self.customer_codes)
        merchant = np.full(len(customer), -1, np.int64)
        if "merchant_id" in frame:
            merchant = encode(frame["merchant_id"], self.merchant_codes)
        self.memory = self.memory._replace(
            customers=grown(self.memory.customers, len(self.customer_codes)),
            merchants=grown(self.memory.merchants, len(self.merchant_codes)),
        )
        return customer, merchant

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
    def load(cls, path: Path) -> Confirmed:
        """Read what `save` wrote.

        Raises
        ------
        NotReady
            The file is not there, broken, or of another layout.
        """
        self = cls()
        with reading(f"The answers in {path}", "Replay the history instead."):
            arrays = read_arrays(path)
            self.customer_codes = unpacked(arrays["customer_ids"])
            self.merchant_codes = unpacked(arrays["merchant_ids"])
            events = Events(*(arrays[name] for name in Events._fields))
            merchants, customers = arrays["merchants"], arrays["customers"]
            if merchants.shape[1:] != (_WIDTH,) or customers.shape[1:] != (_WIDTH,):
                raise ValueError("it has another layout")
        self.memory = Recall(merchants, customers, events, np.zeros(1, np.int64))
        return self


def label_events(frame: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """`labels` with what `Confirmed.add_labels` takes, of the labelled transactions in `frame`.

    Labels of transactions that are not in `frame` are left out; several answers about one
    transaction are all kept.
    """
    known = [c for c in ("transaction_id", "customer_id", "merchant_id", "ts") if c in frame]
    return labels[["transaction_id", "is_fraud", "known_at"]].merge(
        frame[known], on="transaction_id", how="inner", validate="many_to_one"
    )
