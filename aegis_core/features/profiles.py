"""What is remembered of every customer, category and currency, and the codes they have in it.

The memory is `signals.State`, flat arrays that grow as others come; here it gets its names, its
room, and its place in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from aegis_core.features.arrays import (
    Arrays,
    Floats,
    Ints,
    Rows,
    grown,
    packed,
    read_arrays,
    reading,
    rehash,
    unpacked,
    without,
    write_arrays,
)
from aegis_core.features.entities import Keys, Sharing, keys_of, sharing
from aegis_core.features.entries import Columns, columns
from aegis_core.features.population import (
    MEAN,
    NO_CLOCK,
    PLACE,
    PLACES,
    PUBLISHED,
    SCALE,
    SUMS,
    N,
    figures,
)
from aegis_core.features.signals import WIDTH, State, last_place
from aegis_core.units.words import folded

MAX_CATEGORIES: Final = 20_000
"""With more of them, `category` is an identifier by mistake."""
PLACE_ROW: Final = 1 << 20
"""What is added to the number of a place in `Profiles.put`."""


class Profiles:
    """The state of every customer seen so far, with the codes of customers and categories."""

    def __init__(self) -> None:
        self.customer_codes: dict[str, int] = {}
        self.category_codes: dict[str, int] = {}
        self.currency_codes: dict[str, int] = {}
        self.state = State(
            np.zeros((16, WIDTH)),
            np.full(64, -1, np.int64),
            np.zeros((64, 3)),
            np.zeros((1, SUMS), np.int64),
            np.zeros((1, SUMS), np.int64),
            np.zeros((1, PUBLISHED)),
            np.array(NO_CLOCK),
            np.zeros((1, SCALE), np.int64),
            np.zeros((PLACES, PLACE), np.int64),
        )
        figures(self.state.kept, self.state.published, 0)
        self.shared = Sharing.fresh()
        self._n_pairs_at_most = 0

    def columns(self, frame: Rows) -> Columns:
        """Arrays of `frame`, with room made in the state for whoever is new in it.

        `frame` has the columns of `schema.TRANSACTION_COLUMNS` in order of arrival, checked at
        the door; all but `customer_id`, `ts` and `amount` may be missing altogether. Categories
        that are new after `MAX_CATEGORIES` are one together.
        """
        read = columns(
            frame, self.customer_codes, self.category_codes, MAX_CATEGORIES, self.currency_codes
        )
        self._make_room(len(read.amount))
        return read

    def keys(self, frame: Rows, read: Columns) -> Keys:
        """The entities of `frame`, of which `read` are the columns, with room for their tries."""
        found = keys_of(frame, read.customer, read.role, self.shared)
        self.shared = self.shared.with_room(found.n_new, int(np.count_nonzero(found.of >= 0)))
        return found

    @property
    def day(self) -> int:
        """The day that has not ended, by what arrived, in days since 1970; below 0: nothing did."""
        return int(self.state.clock[0])

    def know(self, categories: list[str], currencies: list[str]) -> None:
        """Give these their codes, the first ones of all, whatever comes first."""
        for names, codes in (
            (categories, self.category_codes), (currencies, self.currency_codes),
        ):  # fmt: skip
            for name in names[len(codes) :]:
                codes[name] = len(codes)
        self._make_room(0)

    def worth(self, amount: Floats) -> Floats:
        """`amount`, in the base currency, shape (n,), with a usual one where it is NaN: unknown.

        So an alert in a currency without a rate, whose scale is not known yet, has its part in
        sums and its place in a queue. On the first day of all nothing is usual, and NaN stays.
        """
        everybody = self.state.published[0]
        usual = np.exp(everybody[MEAN]) if everybody[N] > 0 else np.nan
        return np.where(np.isnan(amount), usual, amount)

    def last_place(self, customer: str) -> int:
        """The number of the place where a customer was last, −1 where none is known."""
        code = self.customer_codes.get(customer)
        return -1 if code is None else last_place(self.state.customers[code])

    def put(self, row: int, sums: Ints) -> None:
        """Let the day that has not ended have these sums.

        They are of the population (row 0), a category (1 + its code), or, with less of them, a
        place (`PLACE_ROW` + its number) or a currency without a rate (−1 − its code).
        """
        if row >= PLACE_ROW:
            self.state.places[row - PLACE_ROW, :2] = sums[:2]
        elif row < 0:
            self.state.scales[-1 - row, : SCALE // 2] = sums[: SCALE // 2]
        else:
            self.state.sums[row] = sums

    def drop(self, customer: str, categories: list[str]) -> None:
        """Forget a customer, and the names of categories; what all were told together stays."""
        code = self.customer_codes.get(customer)
        self.category_codes = without(self.category_codes, [folded(name) for name in categories])
        if code is None:
            return
        self.customer_codes = without(self.customer_codes, [customer])
        self.state.customers[code] = 0
        self.state.pairs[self.state.pair_keys >> 20 == code] = 0
        self.shared.drop(code)

    def copy(self) -> Profiles:
        """The same state in memory of its own."""
        other = Profiles.__new__(Profiles)
        other.customer_codes = dict(self.customer_codes)
        other.category_codes = dict(self.category_codes)
        other.currency_codes = dict(self.currency_codes)
        other.state = State._make(part.copy() for part in self.state)
        other.shared = Sharing._make(part.copy() for part in self.shared)
        other._n_pairs_at_most = self._n_pairs_at_most
        return other

    def save(self, path: Path) -> None:
        """Write the state as plain arrays; loading it runs no code."""
        codes = {
            "customer_ids": self.customer_codes,
            "category_ids": self.category_codes,
            "currency_ids": self.currency_codes,
        }
        ids = {name: packed(of) for name, of in codes.items()}
        shared = {f"shared_{name}": part for name, part in self.shared._asdict().items()}
        write_arrays(path, ids | self.state._asdict() | shared)

    @classmethod
    def load(
        cls, path: Path, bring: Callable[[Arrays], Arrays] = lambda as_read: as_read
    ) -> Profiles:
        """Read what `save` wrote; `bring` may bring another layout up to date.

        Raises
        ------
        NotReady : The file is not there, broken, or of another layout.
        """
        self = cls()
        with reading(f"The profiles in {path}", "Replay the history instead."):
            arrays = bring(read_arrays(path))
            self.customer_codes = unpacked(arrays["customer_ids"])
            self.category_codes = unpacked(arrays["category_ids"])
            self.currency_codes = unpacked(arrays["currency_ids"])
            state = State(*(arrays[name] for name in State._fields))
            for name, fresh, loaded in zip(State._fields, self.state, state, strict=True):
                if loaded.dtype != fresh.dtype or loaded.shape[1:] != fresh.shape[1:]:
                    raise ValueError(f"{name} has another layout")
            self.shared = sharing(arrays)
        self.state = state
        self._n_pairs_at_most = int(np.count_nonzero(self.state.pair_keys >= 0))
        return self

    def _make_room(self, n_rows: int) -> None:
        state = self.state._replace(
            customers=grown(self.state.customers, len(self.customer_codes)),
            scales=grown(self.state.scales, min(len(self.currency_codes) + 1, MAX_CATEGORIES + 1)),
        )
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
