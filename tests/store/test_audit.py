"""The audit: no row can be changed, removed or put in without being found."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from aegis_core.cli import main
from aegis_core.errors import InputError, StoreBusy, StoreError
from aegis_core.review import lists
from aegis_core.store import Store, audit, connect
from aegis_core.store.audit import Head
from aegis_core.store.gate import Limits

WRITER = """
import sys
from aegis_core.store import audit
from aegis_core.store import connect

store = connect(sys.argv[1])
for i in range(int(sys.argv[3])):
    with store.changing(checkpoint=False) as session:
        audit.record(session, sys.argv[2], "test", f"thing {i}")
"""


def add(store: Store, *subjects: str, who: str = "anna") -> None:
    for subject in subjects:
        with store.changing(checkpoint=False) as session:
            audit.record(session, who, "promote", subject, {"role": "champion", "n": 1})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with an audit of five rows, to be copied: making one takes longer."""
    store = connect(tmp_path_factory.mktemp("original") / "five.duckdb")
    with store.changing() as session:
        for i in range(5):
            audit.record(session, "anna", "promote", f"v{i}", {"role": "champion", "n": i})
    return store.path


@pytest.fixture
def chained(store: Store, original: Path) -> Store:
    """A store with an audit of five rows."""
    shutil.copy(original, store.path)
    shutil.copy(audit.head_file(original), audit.head_file(store.path))
    return store


def tampered(store: Store, *statements: str) -> audit.Verified:
    with store.writing(checkpoint=False) as session:
        session.execute("CREATE TABLE loose AS FROM audit ORDER BY seq")  # without the key
        session.execute("DROP TABLE audit")
        session.execute("ALTER TABLE loose RENAME TO audit")
        for statement in statements:
            session.execute(statement)
    noted = audit.kept_head(store.path)
    assert noted is not None
    return audit.verify(store, [noted])


def test_a_chain_that_nobody_touched_is_whole(chained: Store) -> None:
    found = audit.verify(chained)
    assert (found.rows, found.problem) == (5, None)
    assert found.head == audit.kept_head(chained.path) == audit.head(chained)
    assert "5 rows" in found.sentence()
    assert audit.head_file(chained.path).stat().st_mode & 0o777 == 0o600
    told = audit.entries(chained)
    assert [e.before for e in told] == [audit.GENESIS, *(e.hash for e in told[:-1])]
    assert '"login"' in told[0].details


def test_an_empty_audit_is_whole(store: Store) -> None:
    with store.writing():
        pass
    assert audit.verify(store).sentence() == "The audit is empty."
    assert audit.kept_head(store.path) is None


@pytest.mark.parametrize(
    "change",
    [
        "who = 'ben'",
        "subject = 'v9'",
        "action = 'retire'",
        "details = '{}'",
        "recorded_at = recorded_at + INTERVAL 1 microsecond",
        "before = hash",
    ],
)
def test_a_changed_row_is_found_and_named(chained: Store, change: str) -> None:
    found = tampered(chained, f"UPDATE audit SET {change} WHERE seq = 3")
    assert found.rows == 2
    assert "row 3 (" in str(found.problem)
    assert "changed" in str(found.problem)


def test_a_row_that_was_changed_together_with_its_hash_breaks_the_next(chained: Store) -> None:
    row = audit.entries(chained)[2]
    forged = audit.Entry(**{**vars(row), "who": "ben"})
    found = tampered(
        chained,
        f"UPDATE audit SET who = 'ben', hash = '{forged.content_hash}' WHERE seq = 3",
    )
    assert "row 3 was put in or written anew" in str(found.problem)


def test_a_removed_row_is_found_and_named(chained: Store) -> None:
    found = tampered(chained, "DELETE FROM audit WHERE seq IN (2, 3)")
    assert "rows 2 to 3 are missing" in str(found.problem)
    found = tampered(chained, "DELETE FROM audit WHERE seq = 1")
    assert "rows 1 to 3" in str(found.problem)


def test_an_inserted_row_is_found(chained: Store) -> None:
    found = tampered(
        chained,
        "UPDATE audit SET seq = seq + 1 WHERE seq >= 3",
        "INSERT INTO audit SELECT 3, recorded_at, who, action, 'v9', details, before, hash "
        "FROM audit WHERE seq = 2",
    )
    assert "row 3 (promote v9" in str(found.problem)


def test_a_row_beside_another_of_its_number_is_found(chained: Store) -> None:
    found = tampered(chained, "INSERT INTO audit FROM audit WHERE seq = 2")
    assert found.problem is not None


def test_an_end_that_was_cut_off_is_found_by_the_head_beside_the_database(chained: Store) -> None:
    found = tampered(chained, "DELETE FROM audit WHERE seq >= 4")
    assert "rows 4 to 5 are missing at its end" in str(found.problem)
    assert audit.verify(chained).problem is None  # the chain alone cannot know
    found = tampered(chained, "DELETE FROM audit")
    assert "rows 1 to 5 are missing at its end" in str(found.problem)


def test_a_chain_that_was_written_anew_is_found_by_a_head_that_was_noted(chained: Store) -> None:
    noted = audit.head(chained)
    assert noted is not None
    with chained.changing() as session:
        session.execute("DELETE FROM audit")
    add(chained, "v0", "v1", "v2", "v3", "v4", "v5", who="ben")
    assert audit.verify(chained).problem is None
    told = audit.verify(chained, [Head.read(str(noted))]).problem
    assert "not the one that was noted" in str(told)


def test_a_head_that_was_noted_counts_whatever_is_noted_of_the_same_row_elsewhere(
    chained: Store,
) -> None:
    noted = audit.kept_head(chained.path)
    assert noted is not None
    with chained.changing() as session:
        session.execute("DELETE FROM audit")
    add(chained, "v0", "v1", "v2", "v3", "v4", who="ben")
    beside = audit.kept_head(chained.path)
    assert beside is not None
    assert beside.seq == noted.seq
    assert main(["audit", "verify", "--db", str(chained.path)]) == 1
    audit.lost_file(chained.path).unlink()
    for heads in ([noted, beside], [beside, noted]):
        assert "not the one that was noted" in str(audit.verify(chained, heads).problem)
    assert main(["audit", "verify", "--db", str(chained.path)]) == 0
    asked = ["audit", "verify", "--head", str(noted), "--db", str(chained.path)]
    assert main(asked) == 1
    audit.head_file(chained.path).unlink()
    assert main([*asked, "--head", str(beside)]) == 1


def looked_at(store: Store) -> int:
    """The exit code of `aegis audit verify`."""
    return main(["audit", "verify", "--db", str(store.path)])


CUT = "DELETE FROM audit WHERE seq > 1"


@pytest.mark.parametrize("statement", [CUT, "DELETE FROM audit", "DROP TABLE audit"])
def test_what_was_cut_off_stays_found_whatever_is_changed_after_that(
    chained: Store, statement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = audit.kept_head(chained.path)
    with duckdb.connect(str(chained.path)) as connection:
        connection.execute(statement)
    assert looked_at(chained) == 1
    assert "BROKEN" in capsys.readouterr().out
    for n in range(6):  # until there are more rows than before
        add(chained, f"w{n}")
        assert looked_at(chained) == 1
    told = capsys.readouterr().out
    assert told.count("BROKEN") == 6
    assert str(audit.lost_file(chained.path)) in told
    assert audit.lost_heads(chained.path) == [kept]
    assert audit.lost_file(chained.path).stat().st_mode & 0o777 == 0o600
    audit.lost_file(chained.path).unlink()  # it is known why
    assert looked_at(chained) == 0


def test_every_head_that_was_lost_is_kept(chained: Store) -> None:
    lost = [audit.kept_head(chained.path)]
    for subject in ("one", "two"):
        with chained.writing() as session:
            session.execute(CUT)
        add(chained, subject)
        lost.append(audit.kept_head(chained.path))
    assert audit.lost_heads(chained.path) == lost[:2]


def test_an_older_copy_in_place_of_a_database_stays_found(chained: Store, original: Path) -> None:
    with chained.changing() as session:  # all of it in the file
        audit.record(session, "anna", "test", "x")
    shutil.copy(original, chained.path)
    assert looked_at(chained) == 1
    add(chained, "w5")
    assert looked_at(chained) == 1


def test_a_table_that_is_missing_or_lacks_a_column_is_a_broken_audit(
    chained: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for statement, told in (
        ("ALTER TABLE audit DROP COLUMN who", "lacks who"),
        ("DROP TABLE audit", "table is missing"),
    ):
        with duckdb.connect(str(chained.path)) as connection:
            connection.execute(statement)
        assert looked_at(chained) == 1
        assert told in capsys.readouterr().out


def test_a_head_that_lags_behind_or_is_gone_is_not_a_lost_one(chained: Store) -> None:
    with chained.writing() as session:
        audit.record(session, "anna", "test", "as if killed before the head was noted")
    add(chained, "v6")
    audit.head_file(chained.path).unlink()
    add(chained, "v7")
    audit.head_file(chained.path).write_text("no head")
    add(chained, "v8")
    assert looked_at(chained) == 0
    assert not audit.lost_file(chained.path).exists()


def test_a_lost_head_that_cannot_be_kept_stays_the_head(
    chained: Store, caplog: pytest.LogCaptureFixture
) -> None:
    kept = audit.kept_head(chained.path)
    with chained.writing() as session:
        session.execute(CUT)
    audit.lost_file(chained.path).mkdir()
    add(chained, "w1")
    assert "not noted" in caplog.text
    assert audit.kept_head(chained.path) == kept
    assert looked_at(chained) == 2  # what may be in there is not known


@pytest.mark.parametrize("text", ["", "7", "7:abc", f"x:{'0' * 64}", f"7:{'z' * 64}"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no head"):
        Head.read(text)


def test_a_row_without_a_name_or_with_what_json_cannot_say_is_refused(chained: Store) -> None:
    for who, details, told in ((" ", {}, "who"), ("anna", {"x": float("nan")}, "cannot be kept")):
        with pytest.raises(InputError, match=told), chained.changing() as session:
            audit.record(session, who, "test", "x", details)
    assert audit.verify(chained).rows == 5


def test_hostile_words_are_kept_as_they_are(chained: Store) -> None:
    hostile = "'; DROP TABLE audit; -- \u202e \x1b[31m \\ \" \n"
    with chained.changing() as session:
        audit.record(session, hostile + "x", hostile, hostile, {hostile: hostile})
    assert audit.entries(chained)[-1].subject == hostile
    assert audit.verify(chained).problem is None


def test_a_change_that_fails_leaves_no_row_and_no_head(chained: Store) -> None:
    before = audit.kept_head(chained.path)

    def failing() -> None:
        with chained.changing() as session:
            audit.record(session, "anna", "test", "x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert audit.verify(chained).rows == 5
    assert audit.kept_head(chained.path) == before
    assert not audit.lost_file(chained.path).exists()


def test_entries_are_listed_from_a_time_on(chained: Store) -> None:
    assert len(audit.entries(chained, datetime(2020, 1, 1))) == 5
    assert audit.entries(chained, datetime(2120, 1, 1)) == []


def test_a_list_entry_and_its_end_are_in_the_audit(store: Store) -> None:
    entry = lists.add(store, "deny", "m1", field="merchant", who="anna", why="stolen")
    lists.end(store, entry.entry_id, who="ben", why="found")
    told = [(e.who, e.action, e.subject) for e in audit.entries(store)]
    assert told == [
        ("anna", "deny list", "merchant m1"),
        ("ben", "end deny list", "merchant m1"),
    ]


# --- many at once ------------------------------------------------------------------------


@pytest.fixture
def owned(chained: Store) -> Iterator[Store]:
    """The store inside of its `owned` block, with others that may attach."""
    with chained.owned(limits=Limits()):
        yield chained


def test_writers_through_the_owner_and_attached_ones_make_one_chain(owned: Store) -> None:
    others = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(owned.path), name, "12"])
        for name in ("ben", "eva")
    ]
    threads = [threading.Thread(target=add, args=(owned, *map(str, range(12)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in others] == [0, 0]
    found = audit.verify(owned)
    assert (found.rows, found.problem) == (5 + 4 * 12, None)
    with connect(owned.path).snapshot() as session:  # as `aegis audit verify` does
        assert audit.verify(session) == found
    assert found.head == audit.kept_head(owned.path)
    assert not audit.lost_file(owned.path).exists()
    who = [e.who for e in audit.entries(owned)]
    assert who.count("ben") == who.count("eva") == 12


def test_two_rows_of_one_number_are_never_both_committed(owned: Store) -> None:
    """Also where somebody does not wait for the turn."""
    attached = connect(owned.path)

    def both() -> None:
        with attached.writing() as one:
            audit.record(one, "ben", "test", "x")
            add(owned, "y")

    with pytest.raises(StoreError, match=r"[Cc]on(flict|straint)|[Dd]uplicate"):
        both()
    assert [e.subject for e in audit.entries(owned)][5:] == ["y"]
    assert audit.verify(owned).problem is None


def test_an_audit_that_grows_while_it_is_looked_at_is_whole(
    owned: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look, more = audit._wrong, iter(["late"])

    def beside_a_writer(*args: Any) -> str | None:
        add(owned, *more)
        return look(*args)

    monkeypatch.setattr(audit, "_wrong", beside_a_writer)
    assert main(["audit", "verify", "--db", str(owned.path)]) == 0
    assert "5 rows" in capsys.readouterr().out
    assert audit.verify(owned).rows == 6


def test_a_turn_that_does_not_come_is_said(chained: Store) -> None:
    hasty = connect(chained.path, wait_s=0.05)
    with (
        audit.alone(chained.path, 1),
        pytest.raises(StoreBusy, match="went on"),
        hasty.changing(),
    ):
        pass


def test_a_folder_that_takes_no_head_does_not_undo_the_change(
    chained: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    add(chained, "v5")
    assert "not noted" in caplog.text
    assert audit.verify(chained, [h] if (h := audit.kept_head(chained.path)) else []).rows == 6
