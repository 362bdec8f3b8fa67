"""Arrays in memory and on disk: tables that grow, codes of ids, files that hold no code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.util import hash_array

from aegis_core.errors import NotReady
from aegis_core.features.kernels import kernel
from aegis_core.machine import written_whole

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]
Rows = pd.DataFrame | Mapping[str, Any]
"""Transactions by column: a frame, or for a few live rows lists of texts and arrays of numbers."""
_KEY: Final = "aegis:index:ids."  # of the hash of an id, 16 bytes
Table = TypeVar("Table", Floats, Ints)


def grown(table: Table, n_rows: int) -> Table:
    """`table` with room for at least `n_rows`, new rows all 0; the same one where there is room."""
    if n_rows <= len(table):
        return table
    more = np.zeros((max(n_rows, 2 * len(table)) - len(table), table.shape[1]), table.dtype)
    return np.concatenate([table, more])


@kernel
def slot_of(keys: Ints, key: int) -> int:
    """Slot of `key`, or of the free place where it belongs (linear probing)."""
    mask = len(keys) - 1
    slot = (key * 0x9E3779B97F4A7C1 >> 17) & mask
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@kernel
def rehash(old_keys: Ints, old_pairs: Floats, keys: Ints, pairs: Floats) -> None:
    """Put all of an open-addressing table into a larger one."""
    for i in range(len(old_keys)):
        slot = slot_of(keys, old_keys[i])
        keys[slot] = old_keys[i]
        for column in range(pairs.shape[1]):  # a whole row at once takes 4 s more to compile
            pairs[slot, column] = old_pairs[i, column]


def encode(
    ids: pd.Series | list[str | None],
    codes: dict[str, int],
    most: int = 2**62,
    key: Callable[[str], str] = str,
) -> Ints:
    """Codes of `ids`, new ones appended to `codes` in order of appearance; −1 for missing.

    Ids of one `key` are one.

    With `most` in `codes`, whatever is new gets `most` itself and is not remembered.

    >>> codes: dict[str, int] = {}
    >>> encode(["b", None, "a", "b"], codes).tolist(), codes
    ([0, -1, 1, 0], {'b': 0, 'a': 1})
    >>> encode(["c", "a"], codes, most=2).tolist(), codes
    ([2, 1], {'b': 0, 'a': 1})
    """

    def code(text: str) -> int:
        name = key(text)
        return codes.setdefault(name, len(codes)) if len(codes) < most else codes.get(name, most)

    if isinstance(ids, list):  # a few live rows, for which pandas costs more than it saves
        if key is str and len(codes) + len(ids) <= most:
            codes_of = [-1 if u is None else codes.setdefault(u, len(codes)) for u in ids]
            return np.array(codes_of, np.int64)
        found = {u: -1 if u is None else code(u) for u in dict.fromkeys(ids)}
        return np.array([found[u] for u in ids], np.int64)
    local, uniques = pd.factorize(ids)
    known = np.empty(len(uniques) + 1, np.int64)
    known[-1] = -1
    known[:-1] = [code(str(u)) for u in uniques]
    return known[local]


def without(codes: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    r"""`codes` with names in the place of these that no door lets in: each code stays.

    >>> without({"a": 0, "b": 1}, ["a"])
    {'\x000': 0, 'b': 1}
    """
    return {f"\0{code}" if name in names else name: code for name, code in codes.items()}


def packed(codes: dict[str, int]) -> npt.NDArray[np.uint8]:
    """The ids as JSON in bytes: numpy's own strings drop a NUL at the end and pad the rest."""
    return np.frombuffer(json.dumps(list(codes)).encode(), np.uint8)


def unpacked(packed: npt.NDArray[np.uint8]) -> dict[str, int]:
    """The codes whose ids `packed` wrote."""
    return {str(name): code for code, name in enumerate(json.loads(packed.tobytes()))}


def write_arrays(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], *, compress: bool = False
) -> None:
    """Write arrays by name into one file, all or nothing: a broken write leaves what was there."""
    save: Any = np.savez_compressed if compress else np.savez
    with written_whole(path) as fresh, fresh.open("wb") as file:
        save(file, **arrays)


def read_arrays(path: Path) -> Arrays:
    """The arrays that `write_arrays` wrote, by name; reading them runs no code.

    A missing or broken file raises anything, from OSError to zlib.error: read it inside `reading`.
    """
    with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
        return {name: z[name] for name in z.files}


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """A block that reads and checks a file: whatever fails inside is told as `NotReady`.

    >>> with reading("The model in x", "Train one."):
    ...     raise ValueError("it has another layout")
    Traceback (most recent call last):
        ...
    aegis_core.errors.NotReady: The model in x cannot be read (it has another layout). Train one.
    """
    try:
        yield
    except Exception as e:
        raise NotReady(f"{what} cannot be read ({e}). {remedy}") from None


@kernel
def _find(keys: Ints, places: Ints, wanted: Ints, out: Ints) -> None:
    """Write for each hash the number stored with it, or −1."""
    for i in range(len(wanted)):
        at = slot_of(keys, wanted[i])
        out[i] = places[at] if keys[at] == wanted[i] else -1


@kernel
def _put(keys: Ints, places: Ints, new: Ints, numbers: Ints) -> None:
    """Store each hash with its number; the number before is then that of the hash `^ OLDER`."""
    for i in range(len(new)):
        at = slot_of(keys, new[i])
        if keys[at] == new[i]:
            older = slot_of(keys, new[i] ^ OLDER)
            keys[older], places[older] = new[i] ^ OLDER, places[at]
        keys[at], places[at] = new[i], numbers[i]


OLDER: Final = 1 << 62
"""The bit by which the hash of an id's earlier place differs from that of its last one."""


class Ids:
    """Where each `transaction_id` stands in the order of arrival, by a hash of 63 bits.

    Two ids may share a hash, in about one of five thousand histories of 60 million transactions;
    what is found is therefore compared by its text. An id may come to stand at a second place: a
    payment that was no payment at the first (`Ids.older`).

    >>> ids = Ids()
    >>> ids.add(hashed(["a", "b"]), np.array([7, 8]))
    >>> ids.find(hashed(["b", "c"])).tolist()
    [8, -1]
    >>> ids.add(hashed(["a"]), np.array([9]))
    >>> Ids.of(ids.in_order(10)).find(hashed(["b", "a"])).tolist()
    [8, 9]
    >>> Ids.of(ids.in_order(10)).older(hashed(["b", "a"])).tolist()
    [-1, 7]
    """

    def __init__(self) -> None:
        self.keys, self.places = np.full(1024, -1, np.int64), np.zeros(1024, np.int64)
        self.n = 0

    @classmethod
    def of(cls, in_order: Ints) -> Ids:
        """From what `in_order` gave."""
        ids, there = cls(), np.flatnonzero(in_order >= 0)
        ids.add(in_order[there], there)
        return ids

    def in_order(self, n: int) -> Ints:
        """The hash of each `seq` below `n`, −1 where another id has the same one."""
        out, used = np.full(n, -1, np.int64), self.keys != -1
        out[self.places[used]] = self.keys[used]
        return out

    def find(self, keys: Ints) -> Ints:
        """The `seq` of each id, given as `hashed`, −1 where there is none."""
        out = np.empty(len(keys), np.int64)
        _find(self.keys, self.places, keys, out)
        return out

    def older(self, keys: Ints) -> Ints:
        """Likewise the one before that, −1 for nearly all."""
        return self.find(keys ^ OLDER)

    def add(self, new: Ints, seq: Ints) -> None:
        """Remember where these ids, given as `hashed`, stand."""
        self.n += len(new)
        if 2 * self.n > len(self.keys):
            keys, places = self.keys, self.places
            size = 1 << (2 * self.n).bit_length()
            self.keys, self.places = np.full(size, -1, np.int64), np.zeros(size, np.int64)
            used = keys != -1
            _put(self.keys, self.places, keys[used], places[used])
        _put(self.keys, self.places, new, np.asarray(seq, np.int64))


def hashed(ids: Sequence[str]) -> Ints:
    """A hash of each id, as `Ids` takes it, in [0, 2^63)."""
    values = np.empty(len(ids), object)
    values[:] = ids
    keys = hash_array(values, hash_key=_KEY, categorize=False)
    return keys.view(np.int64) & np.int64(2**63 - 1)  # −1 marks what is free
