"""The journal: on the disk before anyone is told, in the tables once, whatever dies in between."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aegis_core.errors import StoreError
from aegis_core.store import Store, connect, journal
from aegis_core.store.journal import Group, Journal


def group(seq: int, n: int = 1, **more: Any) -> Group:
    """`n` transactions from `seq` on."""
    return {
        "transactions": {
            "seq": np.arange(seq, seq + n),
            "transaction_id": [f"t{seq + i}" for i in range(n)],
            "customer_id": ["c"] * n,
            "ts": [1_000_000 + seq + i for i in range(n)],
            "amount": np.full(n, 0.1) + seq,
            "lat": np.full(n, np.nan),
            **more,
        }
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = connect(tmp_path / "a.duckdb")
    with store.writing():
        return store


def folder(store: Store) -> Path:
    return journal.folder_of(store.path)


def left_by_a_killed_owner(store: Store, *groups: Group) -> Journal:
    made = Journal(folder(store), 0)
    for part in groups:
        made.append(part)
    return made


def seqs(store: Store) -> list[int]:
    return [row["seq"] for row in store.rows("SELECT seq FROM transactions ORDER BY seq")]


def test_whoever_opens_the_database_next_brings_in_what_was_left(store: Store) -> None:
    hostile = {"merchant_id": ["'); DROP TABLE labels; --\n\u2028"]}
    left_by_a_killed_owner(store, group(0, 3), group(3), group(4, **hostile))
    assert journal.is_left(store.path)
    assert seqs(store) == [0, 1, 2, 3, 4]
    assert not folder(store).exists()
    last = store.rows("SELECT epoch_us(ts) AS ts, amount, lat, merchant_id FROM transactions")[-1]
    assert last == {"ts": 1_000_004, "amount": 4.1, "lat": None} | {
        "merchant_id": hostile["merchant_id"][0]
    }


def test_it_is_brought_in_once_however_often_it_is_tried(store: Store) -> None:
    made = left_by_a_killed_owner(store, group(0), group(1))
    (segment,) = folder(store).glob("*.log")
    kept = segment.read_bytes()
    assert seqs(store) == [0, 1]
    for _ in range(2):  # killed after the commit, before the journal was removed
        folder(store).mkdir()
        segment.write_bytes(kept)
        assert seqs(store) == [0, 1]
    assert made.written == 2


def test_a_block_that_fails_leaves_the_journal_to_the_next(store: Store) -> None:
    left_by_a_killed_owner(store, group(0))
    with pytest.raises(ZeroDivisionError), store.writing():
        _ = 1 / 0
    assert journal.is_left(store.path)
    assert seqs(store) == [0]


@pytest.mark.parametrize("cut", [1, 5, 9, 40])
def test_a_line_that_was_cut_short_was_never_answered(store: Store, cut: int) -> None:
    made = left_by_a_killed_owner(store, group(0))
    answered = journal.mark_of(store.path).read_bytes()
    made.append(group(1))
    journal.mark_of(store.path).write_bytes(answered)  # it is written last
    (segment,) = folder(store).glob("*.log")
    segment.write_bytes(segment.read_bytes()[:-cut])
    assert seqs(store) == [0]
    assert not store.rows("FROM audit")


def lost(store: Store) -> list[dict[str, Any]]:
    """What the audit says of answered verdicts that are missing."""
    told = store.rows("SELECT details FROM audit WHERE action = 'lost' ORDER BY seq")
    return [json.loads(row["details"]) for row in told]


@pytest.mark.parametrize(("kept", "verdicts"), [(-100, 5), (0, 8), (None, 8)])
def test_answered_verdicts_that_are_gone_are_counted_and_the_torn_file_is_kept(
    store: Store, caplog: pytest.LogCaptureFixture, kept: int | None, verdicts: int
) -> None:
    made = left_by_a_killed_owner(store, group(0, 3), group(3, 5))
    (segment,) = folder(store).glob("*.log")
    torn = segment.read_bytes()[:kept]
    segment.unlink() if kept is None else segment.write_bytes(torn)
    assert seqs(store) == list(range(8 - verdicts))
    (told,) = lost(store)
    assert (told["groups"], told["verdicts"]) == (2 if verdicts == 8 else 1, verdicts)
    assert f"with {verdicts} verdicts" in caplog.text
    assert not folder(store).exists()
    if kept is not None:
        assert (store.path.parent / told["kept"] / segment.name).read_bytes() == torn
    assert seqs(store) == list(range(8 - verdicts)), "said once"
    assert len(lost(store)) == 1
    made.close()
    with store.reading() as session:
        again = Journal(folder(store), journal.reached(session))
    again.append(group(8 - verdicts))
    assert seqs(store) == list(range(9 - verdicts)), "numbers go on after the gap"
    assert len(lost(store)) == 1


def test_an_older_database_put_in_place_is_seen_to_lack_what_was_answered(store: Store) -> None:
    older = store.path.read_bytes()
    left_by_a_killed_owner(store, group(0, 3))
    assert seqs(store) == [0, 1, 2]
    store.path.write_bytes(older)
    assert seqs(store) == []
    assert lost(store)[0]["verdicts"] == 3


@pytest.mark.parametrize(("harm", "missing"), [("missing", 5), ("cut", 2), ("older", 2)])
def test_a_log_of_the_database_that_lost_verdicts_is_seen(
    store: Store, harm: str, missing: int
) -> None:
    log = store.path.with_name(store.path.name + ".wal")
    parts = []
    for number, part in enumerate((group(0, 3), group(3, 2))):
        Journal(folder(store), number).append(part)
        with store.writing(checkpoint=False):
            parts.append(log.read_bytes() if log.exists() else b"")
    older = log.read_bytes()[: len(parts[1])]
    if harm == "missing":
        log.unlink()
    else:
        log.write_bytes(older if harm == "older" else log.read_bytes()[:-30])
    assert seqs(store) == list(range(5 - missing))
    assert lost(store)[0]["verdicts"] == missing


def test_without_a_mark_nothing_is_said_and_the_next_group_makes_one(store: Store) -> None:
    left_by_a_killed_owner(store, group(0)).close()
    journal.mark_of(store.path).unlink()
    assert seqs(store) == [0]
    Journal(folder(store), 1).append(group(1))
    assert journal.mark(store.path) == journal.Mark(2, 2)
    assert seqs(store) == [0, 1]
    journal.mark_of(store.path).write_bytes(b"%020d %020d\n" % (1, 1))  # an older one
    assert seqs(store) == [0, 1]
    assert not lost(store)


@pytest.mark.parametrize("text", [b"", b"7", b"x" * 42, b"%020d %020d" % (9, 9)])
def test_a_mark_that_is_damaged_is_said_and_written_anew(
    store: Store, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    left_by_a_killed_owner(store, group(0)).close()
    journal.mark_of(store.path).write_bytes(text)
    assert seqs(store) == [0]
    assert "cannot be seen" in caplog.text
    assert not lost(store)
    with store.reading() as session:
        made = Journal(folder(store), journal.reached(session))
    made.append(group(1))
    assert journal.mark(store.path) == journal.Mark(2, 2)


def test_damage_in_the_middle_is_told_and_nothing_is_brought_in_or_removed(store: Store) -> None:
    left_by_a_killed_owner(store, group(0), group(1), group(2))
    (segment,) = folder(store).glob("*.log")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"t1", b"tX")
    segment.write_bytes(b"".join(lines))
    with pytest.raises(StoreError, match="damaged at line 2"):
        seqs(store)
    assert segment.read_bytes() == b"".join(lines)


def test_a_journal_of_another_history_is_refused(store: Store, tmp_path: Path) -> None:
    other = connect(tmp_path / "b.duckdb")
    with other.writing():
        pass
    made = left_by_a_killed_owner(store, group(0), group(1))
    made.done(1)
    made.close()
    folder(store).rename(folder(other))
    first = next(folder(other).glob("*.log"))
    first.write_bytes(first.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(StoreError, match="not of one history"):
        seqs(other)


def test_what_the_disk_did_not_take_goes_before_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = left_by_a_killed_owner(store, group(0))
    write = os.write

    def full(file: int, line: bytes) -> int:
        write(file, line[:30])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left"):
            made.append(group(1))
        with pytest.raises(StoreError, match="No space left"):
            made.flush()
    assert made.written == 1
    made.append(group(2))
    assert made.written == 3
    assert seqs(store) == [0, 1, 2]


def test_segments_are_removed_once_the_tables_hold_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 1)
    made = left_by_a_killed_owner(store, *(group(i) for i in range(4)))
    names = sorted(path.name for path in folder(store).glob("*.log"))
    assert len(names) == 4
    made.done(2)
    assert sorted(path.name for path in folder(store).glob("*.log")) == names[2:]
    assert made.n_waiting == 2
    made.close()
    assert len(list(folder(store).glob("*.log"))) == 2, "what waits stays"


def test_groups_of_lists_and_of_arrays_become_the_same_rows(store: Store) -> None:
    with store.writing() as session:
        schema = session.arrow("FROM verdicts LIMIT 0").schema
    number = {"amount": 1.5, "travel": 0.0, "hour": 0.25, "burst": 0.0}
    reason = {"factor": "amount", "code": "A", "text": "ä\u202e", "contribution": 0.5}
    by_row = {
        "seq": [7], "score": [0.5], "evidence": [number], "inclusion": [None],
        "reasons": [[reason]], "scored_at": [12],
    }  # fmt: skip
    by_column = {
        "seq": np.array([7]), "score": np.array([0.5]), "inclusion": np.array([np.nan]),
        "evidence": {name: np.array([value]) for name, value in number.items()},
        "reasons": [[reason]], "scored_at": np.array([12]),
    }  # fmt: skip
    one, other = (journal.as_table([part], schema) for part in (by_row, by_column))
    assert one.select(by_column).equals(other.select(by_column))
    both = journal.as_table([by_column, by_column], schema)
    assert both.slice(1).equals(other.select(both.column_names))
