"""Arrays survive growth and the disk; a broken file is said, whatever broke it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aegis_core.errors import NotReady
from aegis_core.features.arrays import (
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

HOSTILE = ["a", "", "\0", "a\0", "'; DROP TABLE x; --", "Zoë 🂡", "nan", "None"]


def test_a_grown_table_keeps_its_rows_and_adds_zeros() -> None:
    table = np.arange(6.0).reshape(3, 2)
    more = grown(table, 5)
    assert len(more) == 6
    assert np.array_equal(more[:3], table)
    assert not more[3:].any()
    assert grown(more, 6) is more


def test_every_key_keeps_its_row_in_a_larger_table() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.choice(1 << 40, 100, replace=False)
    keys, rows = np.full(256, -1, np.int64), np.zeros((256, 3))
    for i, key in enumerate(wanted):
        slot = slot_of(keys, key)
        keys[slot], rows[slot] = key, i
    used = np.flatnonzero(keys >= 0)
    larger, more = np.full(1024, -1, np.int64), np.zeros((1024, 3))
    rehash(keys[used], rows[used], larger, more)
    for i, key in enumerate(wanted):
        assert keys[slot_of(keys, key)] == key
        assert more[slot_of(larger, key)].tolist() == [i, i, i]


def test_codes_are_given_in_order_of_appearance_and_stay() -> None:
    codes: dict[str, int] = {}
    assert encode(pd.Series(["b", None, "a", "b"]), codes).tolist() == [0, -1, 1, 0]
    assert encode(pd.Series(["a", "c"]), codes).tolist() == [1, 2]
    assert codes == {"b": 0, "a": 1, "c": 2}


def test_any_ids_come_back_as_they_were() -> None:
    codes = {name: code for code, name in enumerate(HOSTILE)}
    assert unpacked(packed(codes)) == codes


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_come_back_bit_for_bit(tmp_path: Path, compress: bool) -> None:
    arrays = {"a": np.array([np.nan, -0.0, 1e-310]), "b": np.zeros((0, 3), np.int64)}
    write_arrays(tmp_path / "x.npz", arrays, compress=compress)
    found = read_arrays(tmp_path / "x.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes()
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    class Unwritable:
        def __array__(self, *args: object, **kwargs: object) -> None:
            raise OSError("disk full")

    path = tmp_path / "x.npz"
    write_arrays(path, {"a": np.arange(3)})
    with pytest.raises(OSError, match="disk full"):
        write_arrays(path, {"a": np.arange(4), "b": Unwritable()})  # type: ignore[dict-item]
    assert read_arrays(path)["a"].tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_whatever_goes_wrong_while_reading_is_said_with_the_remedy(tmp_path: Path) -> None:
    told = r"The thing cannot be read \(.*x\.npz.*\)\. Make one\."
    with pytest.raises(NotReady, match=told), reading("The thing", "Make one."):
        read_arrays(tmp_path / "x.npz")


def test_arrays_that_hold_code_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as f:
        np.savez(f, a=np.array([{}], dtype=object))
    with pytest.raises(NotReady, match="allow_pickle"), reading("The thing", "Make one."):
        read_arrays(tmp_path / "x.npz")
