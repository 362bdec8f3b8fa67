"""Erasing one customer from the history, so that the others' verdicts still replay bit for bit.

What a customer did is in figures that others were judged by: sums of a day, the confirmed frauds
and the traffic of merchants, when a day ended, when a label became known. A replay without the
customer would know less. So the true pass goes through the history once more, and where the
customer had a part in a figure, its value for all customers together is kept at the place where
others were judged by it next: see `checkpoint.Erased`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from aegis_core.detection.history import label_events, recorded, transactions
from aegis_core.detection.scoring import Scorer
from aegis_core.features import checkpoint
from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.checkpoint import Erased, Pauses
from aegis_core.features.confirmed import Confirmed, unnamed
from aegis_core.features.entries import without_rate
from aegis_core.features.frauds import fold
from aegis_core.features.population import SCALE, SUMS, ends_day, place_of
from aegis_core.features.profiles import MAX_CATEGORIES, PLACE_ROW, Profiles
from aegis_core.schema import DAY_US
from aegis_core.store.session import Session
from aegis_core.units.words import folded


class _Kept:
    """Collects, in a pass over the whole history, what others were judged by after a customer."""

    def __init__(self, customer: str, at: int, names: list[str], scorer: Scorer) -> None:
        self.customer, self.at, self.names = customer, at, names
        self.profiles = scorer.profiles
        self.confirmed = scorer.confirmed or Confirmed()
        self.sums: dict[tuple[int, int], Ints] = {}
        self.seen: dict[tuple[int, str, bool], Floats] = {}
        self.seq = self.ts_us = np.zeros(0, np.int64)
        self.merchants: list[str] = []
        self.place = self.profiles.last_place(customer)

    def watch(self, rows: pd.DataFrame) -> Pauses:
        """Where to look at the state, in a pass over these rows."""
        seq = np.append(rows["seq"].to_numpy(np.int64), self.at)
        times = rows["ts"].to_numpy("datetime64[us]").astype(np.int64)
        mine = rows["customer_id"].eq(self.customer).fillna(False).to_numpy(bool)
        self.seq, self.ts_us = seq[:-1][mine], times[mine]
        todo = defaultdict[int, list[Callable[[], object]]](list)
        currencies = rows["currency"].where(without_rate(rows)).to_numpy(object)
        categories, clock = rows["category"].to_numpy(object), self.profiles.state.clock.copy()
        lat, lon = (rows[name].to_numpy(float) for name in ("lat", "lon"))
        ends = [i for i, ts in enumerate(times.tolist()) if ends_day(clock, ts)]
        days = np.searchsorted(ends, np.flatnonzero(mine), side="right")
        for day in np.unique(days).tolist():
            row = [*ends, len(rows)][day]
            of_day = np.flatnonzero(mine)[days == day]
            used = {c for c in categories[of_day] if isinstance(c, str)}
            odd = {c for c in currencies[of_day] if isinstance(c, str)}
            places = {place_of(lat[i], lon[i]) for i in of_day.tolist()}
            todo[row].append(
                lambda s=int(seq[row]), u=used, c=odd, p=places: self._sums(s, u, c, p)  # type: ignore[misc]
            )
        for merchant, row in self._next_visits(rows, mine):
            late = row < len(rows)
            todo[row].append(
                lambda s=int(seq[row]), m=merchant, r=row if late else -1: self._seen(s, m, r)  # type: ignore[misc]
            )
        return todo

    def _next_visits(self, rows: pd.DataFrame, mine: np.ndarray) -> list[tuple[int, int]]:
        """Merchants, and the rows of others there that come next after something of the customer.

        The number of rows stands for whoever comes later.
        """
        payer, payee = self.confirmed.codes(rows)
        self.merchants = list(self.confirmed.merchant_codes)
        events = self.confirmed.memory.events
        code = self.confirmed.customer_codes.get(self.customer, -1)
        theirs = (events.customer == code) & (events.merchant >= 0)
        theirs &= events.known_at_us < len(rows)  # what becomes known later is forgotten
        did = mine & (payee >= 0)
        at = np.concatenate([payee[did], events.merchant[theirs]])
        since = np.concatenate([np.flatnonzero(did) + 1, events.known_at_us[theirs]])
        found, others = [], (payer >= 0) & ~mine
        for merchant in np.unique(at).tolist():
            visits = np.flatnonzero(others & (payee == merchant))
            rows_there = np.append(visits, len(rows))
            nexts = np.unique(visits.searchsorted(since[at == merchant]))
            found += [(merchant, int(row)) for row in rows_there[nexts]]
        return found

    def _sums(self, seq: int, categories: set[str], currencies: set[str], places: set[int]) -> None:
        known = self.profiles.category_codes
        codes = {known.get(folded(c), MAX_CATEGORIES) for c in categories}
        for row in (0, *(1 + code for code in codes)):
            self.sums[seq, row] = self.profiles.state.sums[row].copy()
        known = self.profiles.currency_codes
        for code in {known.get(name, MAX_CATEGORIES) for name in currencies}:
            scale = self.profiles.state.scales[code]
            self.sums[seq, -1 - code] = np.pad(scale[: SCALE // 2], (0, SUMS - SCALE // 2))
        for place in (places | {self.place}) - {-1}:  # a journey began where they were last
            of_day = self.profiles.state.places[place, :2]
            self.sums[seq, PLACE_ROW + place] = np.pad(of_day, (0, SUMS - 2))
        self.place = self.profiles.last_place(self.customer)

    def _seen(self, seq: int, merchant: int, clock: int) -> None:
        name = self.merchants[merchant]
        if clock >= 0:
            fold(self.confirmed.memory, clock)
        if name not in self.names:
            known = self.confirmed.memory.merchants[merchant].copy()
            self.seen[seq, name, clock >= 0] = known

    def together(self, before: Erased, known_at_us: Ints) -> Erased:
        """What stays of this customer and of those who were erased before.

        `known_at_us` are the times of all labels: of the erased ones' times it is kept on which
        side of each they were, and the day.
        """
        known = np.sort(np.append(known_at_us, -DAY_US))
        last = known[known.searchsorted(self.ts_us, side="right") - 1]
        coarse = np.maximum(self.ts_us // DAY_US * DAY_US, last)
        order = np.argsort(places := np.append(before.seq, self.seq))
        pairs = zip(before.sums_seq.tolist(), before.sums_row.tolist(), strict=True)
        sums = dict(zip(pairs, before.sums, strict=True)) | self.sums
        whom = zip(before.seen_seq.tolist(), before.seen, before.seen_late.tolist(), strict=True)
        seen = dict(zip(whom, before.merchants, strict=True)) | self.seen
        seen = {key: known for key, known in seen.items() if key[1] not in self.names}
        merchants = np.array(list(seen.values())).reshape(-1, before.merchants.shape[1])
        unnamed(merchants, self.customer)
        return Erased(
            places[order],
            np.append(before.ts_us, coarse)[order],
            np.array([seq for seq, _ in sums], np.int64),
            np.array([row for _, row in sums], np.int64),
            np.array(list(sums.values()), np.int64).reshape(-1, before.sums.shape[1]),
            np.array([seq for seq, *_ in seen], np.int64),
            [name for _, name, _ in seen],
            np.array([late for *_, late in seen], bool),
            merchants,
            list(self.profiles.category_codes),
            list(self.profiles.currency_codes),
            [],
        )


class Past(NamedTuple):
    """What was before a transaction: the state that it began with, transactions and labels."""

    begun: checkpoint.Begin
    frame: pd.DataFrame
    events: pd.DataFrame


def past(session: Session, at: int) -> Past:
    """All before transaction `at`, in a session in which all statements see one state."""
    begun = checkpoint.begin(session, confirmed=True, stop=at)
    events = label_events(session)
    events = events[(events["after_seq"] < at).to_numpy()]
    return Past(begun, transactions(session, "t.seq < ?", [at]), events)


def left_of(
    past: Past,
    customer: str,
    at: int,
    names: list[str],
    progress: Callable[[int], object] | None = None,
) -> Erased:
    """What is to stay of a customer whom the pass dropped before transaction `at`.

    Parameters
    ----------
    past : all before `at`, with all of the customer in it.
    names : categories and merchants that nobody else used, and that go as well.
    progress : called with the number of transactions done since the last call.
    """
    begun, frame, events = past
    scorer = Scorer(profiles=begun.profiles or Profiles(), confirmed=begun.confirmed)
    kept = _Kept(customer, at, names, scorer)
    others = events[(events["customer_id"] != customer).to_numpy()]
    known_at = others["known_at"].to_numpy("datetime64[us]").astype(np.int64)
    if begun.confirmed is not None:
        known_at = np.append(known_at, begun.confirmed.memory.events.known_at_us)
    scorer.replay(
        frame, events, recorded=recorded(frame), erased=begun.erased, watch=kept.watch,
        progress=progress,
    )  # fmt: skip
    checkpoint.drop(scorer.profiles, scorer.confirmed, customer, names)
    return kept.together(begun.erased, known_at)


def drop_from_beginning(session: Session, customer: str, names: list[str]) -> None:
    """Drop a customer from the state that forgotten transactions left, where there is one."""
    begun = checkpoint.begin(session, confirmed=True)
    if begun.profiles is not None and begun.confirmed is not None:
        checkpoint.drop(begun.profiles, begun.confirmed, customer, names)
        checkpoint.save(session, begun.cut, begun.profiles, begun.confirmed)
