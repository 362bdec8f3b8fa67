"""The journal beside the database: what was answered and is not in its tables yet.

A group of rows is one line, a checksum and JSON, forced to the disk before anybody is told of it;
that costs a fraction of what a transaction of the database does. Groups are numbered without gaps,
and each holds the checksum of the one before, so that another history's is known by its first line.
The table `meta` says which number the tables have reached, in the same transaction that brings the
groups in, so whatever dies in between, each group gets there once. Whoever opens the database next
brings in what a killed process left. A file beside it, the mark, says which group was answered
last: a journal, or tables, that end before it lost something, which is then said.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson

from aegis_core.errors import StoreError
from aegis_core.store import audit, rollups

if TYPE_CHECKING:
    import pyarrow as pa

    from aegis_core.store.session import Session

Columns = Mapping[str, Any]
"""Rows of a table by column: lists or numpy arrays; times as whole microseconds since 1970; of a
column of structs either a list of dictionaries or a dictionary of its fields' columns."""
Group = Mapping[str, Columns]
"""Rows that belong together, by table."""
SEGMENT_BYTES: Final = 32 * 2**20
"""A file of the journal is followed by the next one beyond this size."""
AT_ONCE_ROWS: Final = 50_000
"""About so many rows go into the tables at a time."""
_LOG: Final = logging.getLogger("aegis.journal")
_REACHED: Final = "journal"
_LINE: Final = b"%08x %s\n"
_MARK: Final = b"%020d %020d\n"
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY


def folder_of(database: Path) -> Path:
    """Where the journal of a database lies."""
    return database.with_name(database.name + ".journal")


def is_left(database: Path) -> bool:
    """Whether a journal lies there: its owner is at work, or was killed."""
    folder = folder_of(database)
    return folder.is_dir() and any(folder.glob("*.log"))


def mark_of(database: Path) -> Path:
    """Where it is kept which group was answered last."""
    return database.with_name(database.name + ".journal-end")


@dataclass(frozen=True)
class Mark:
    """The group that was answered last, and the place of the transaction after it."""

    number: int
    next_seq: int


def mark(database: Path) -> Mark | None:
    """What the file beside a database says; None where there is none, or none that is whole."""
    path = mark_of(database)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StoreError(f"{path} cannot be read: {e.strerror}.") from e
    parts = text.split()
    if len(parts) == 2 and all(map(bytes.isdigit, parts)):
        found = Mark(*map(int, parts))
        if text == _MARK % (found.number, found.next_seq):
            return found
    _LOG.warning("%s is damaged: whether answered verdicts are missing cannot be seen", path)
    return None


def is_behind(session: Session, database: Path) -> bool:
    """Whether the tables lack groups that were answered, as after a killed owner or a loss."""
    if is_left(database):
        return True
    noted = mark(database)
    return noted is not None and noted.number > reached(session)


class End(NamedTuple):
    """A group that is the last one: its number and the checksum of its line, if that is known."""

    number: int
    checksum: int | None = None


class Journal:
    """Groups on the disk, in their order.

    One thread writes; another brings into the tables what `waiting` gives and says so by `done`.

    Parameters
    ----------
    folder : made where it is missing; left empty by `done` once nothing waits.
    reached, checksum : the last group that the tables hold, as `ended` says.
    """

    def __init__(self, folder: Path, reached: int, checksum: int | None = None) -> None:
        self.folder = folder
        self.written = self.reached = reached
        self._ended, self._last = End(reached, checksum), checksum
        self._groups: list[tuple[End, Group]] = []
        self._unwritten: list[tuple[End, Group, bytes]] = []
        self._segments: list[tuple[int, Path]] = []
        self._file: int | None = None
        self._mark: int | None = None
        self._marked = 0
        self._next_seq = 0
        self._size = 0
        self._lock = threading.Lock()

    def append(self, group: Group) -> int:
        """Force a group to the disk; its number.

        One that the disk does not take, a `StoreError`, is kept and goes before the next one.
        """
        number = self.written + len(self._unwritten) + 1
        told = {"number": number, "before": self._last, "tables": group}
        line = orjson.dumps(told, _listed, _OPTIONS)
        self._last = zlib.crc32(line)
        self._unwritten.append((End(number, self._last), group, _LINE % (self._last, line)))
        self.flush()
        return number

    def flush(self) -> None:
        """Force to the disk what it did not take before; `StoreError` where it still does not."""
        if not self._unwritten:
            return
        try:
            file = self._open()
            for _, _, line in self._unwritten:
                _write(file, line)
                self._size += len(line)
            os.fdatasync(file)
            self._note_end()
        except OSError as e:
            self._leave()  # what was half written ends its file; all of it goes into the next
            raise StoreError(f"The journal {self.folder} cannot be written: {e.strerror}.") from e
        with self._lock:
            self._groups += [(end, group) for end, group, _ in self._unwritten]
            self.written = self._unwritten[-1][0].number
        self._unwritten = []
        if self._size > SEGMENT_BYTES:
            self._leave()

    def waiting(self) -> tuple[End, list[Group]]:
        """The last of the groups that the tables lack, and these, the oldest first.

        Forces the mark to the disk: here, as who scores and answers does not wait for that.
        """
        if self._mark is not None and self._marked != self.written:
            self._marked = self.written
            with contextlib.suppress(OSError):  # it is for a loss of power only
                os.fdatasync(self._mark)
        groups, rows = [], 0
        with self._lock:
            end = self._ended
            for at, group in self._groups:
                end, rows = at, rows + _n_rows(group)
                groups.append(group)
                if rows >= AT_ONCE_ROWS:
                    break
        return end, groups

    @property
    def n_waiting(self) -> int:
        """How many rows the tables lack."""
        with self._lock:
            return sum(_n_rows(group) for _, group in self._groups)

    def done(self, number: int) -> None:
        """Forget the groups up to `number`: the tables hold them."""
        with self._lock:
            self.reached = number
            self._ended = next(
                (end for end, _ in self._groups if end.number == number), End(number)
            )
            self._groups = [pair for pair in self._groups if pair[0].number > number]
            spent = [p for (_, p), (after, _) in pairwise(self._segments) if after <= number + 1]
            self._segments = [pair for pair in self._segments if pair[1] not in spent]
        for path in spent:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files; remove those of which the tables hold all."""
        if self._mark is not None:
            os.close(self._mark)
            self._mark = None
        self.clear()

    def clear(self) -> None:
        """Remove what was written where the tables hold all of it; the next group begins anew."""
        self._leave()
        with self._lock:
            if self._groups or self._unwritten:
                return
            segments, self._segments = self._segments, []
        for _, path in segments:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _open(self) -> int:
        if self._file is None:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            first = self._unwritten[0][0].number
            tries = len(list(self.folder.glob(f"{first:020d}-*.log")))  # half written before
            path = self.folder / f"{first:020d}-{tries:03d}.log"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._size = 0
            with self._lock:
                self._segments.append((first, path))
            for folder in (self.folder, self.folder.parent):
                synced(folder)
        return self._file

    def _note_end(self) -> None:
        """Write the mark, in place and without waiting for the disk: 2 µs of a group's 250."""
        if self._mark is None:
            path = self.folder.with_name(f"{self.folder.name}-end")
            self._mark = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if found := os.read(self._mark, 64).split()[1:]:
                self._next_seq = int(found[0]) if found[0].isdigit() else 0
        for _, group, _ in self._unwritten:
            if "transactions" in group:
                self._next_seq = int(group["transactions"]["seq"][-1]) + 1
        os.pwrite(self._mark, _MARK % (self._unwritten[-1][0].number, self._next_seq), 0)

    def _leave(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def read(folder: Path, last: End) -> Iterator[tuple[End, Group]]:
    """The groups after `last`, in their order.

    A line that is cut short ends its file: its group was never answered. `StoreError` where a group
    is missing or damaged in the middle, or the journal is of another history.
    """
    for path in sorted(folder.glob("*.log")):
        broken = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                group = _checked(line)
                if group is None:
                    broken = number
                    continue
                if broken:
                    raise StoreError(
                        f"{path} is damaged at line {broken}. Put it right from a copy, or move "
                        "the folder away to go on without what it holds."
                    )
                end = End(group["number"], int(line[:8], 16))
                is_next, is_last = (end.number == last.number + n for n in (1, 0))
                if end.number > last.number + 1:
                    raise _another(folder, f"goes on at group {end.number}", last.number)
                its = group.get("before") if is_next else end.checksum if is_last else None
                if None not in (its, last.checksum) and its != last.checksum:
                    raise _another(folder, f"has another group {last.number}", last.number)
                if is_next:
                    last = end
                    yield last, group["tables"]


def _another(folder: Path, does: str, ends: int) -> StoreError:
    return StoreError(
        f"The journal {folder} {does}, the database ends at {ends}: they are not of one history. "
        "Put back the database that belongs to it, or move the folder away to go on without it."
    )


def remove(database: Path) -> None:
    """Remove a journal whose groups are all in the tables."""
    folder = folder_of(database)
    for path in folder.glob("*.log"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is not there
        folder.rmdir()


def reached(session: Session) -> int:
    """Number of the last group that the tables hold."""
    return ended(session).number


def ended(session: Session) -> End:
    """The last group that the tables hold; number 0 where none ever came."""
    found = session.noted(_REACHED)
    return End(*map(int, found.split())) if found else End(0)


def bring_in(session: Session, groups: Sequence[Group], end: End) -> None:
    """Write groups into their tables, and that these have come to `end` now."""
    for table in {name: None for group in groups for name in group}:
        parts = [group[table] for group in groups if table in group]
        session.append(table, as_table(parts, _schema(session, table)))
        if table == "verdicts":
            rollups.add(session, int(parts[0]["seq"][0]), int(parts[-1]["seq"][-1]))
    told = " ".join(str(part) for part in end if part is not None)
    session.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        [_REACHED, told],
    )


_SCHEMAS: dict[str, pa.Schema] = {}


def _schema(session: Session, table: str) -> pa.Schema:
    """The columns of a table, which are those of this code's version: asked once."""
    if table not in _SCHEMAS:
        _SCHEMAS[table] = session.arrow(f'FROM "{table}" LIMIT 0').schema
    return _SCHEMAS[table]


def recover(session: Session, database: Path) -> int:
    """Bring in what a killed process left; how many groups. Remove the journal after the commit.

    Where groups that were answered are missing, the log and the audit say how many verdicts, and
    what is left of the journal is kept in a folder beside it. Its numbers go on after the gap.
    """
    if not is_behind(session, database):
        return 0
    last = ended(session)
    found = list(read(folder_of(database), last))
    if found:
        first = next(
            (int(g["transactions"]["seq"][0]) for _, g in found if "transactions" in g), None
        )
        if first is not None and first != session.next_seq():
            raise _another(folder_of(database), f"goes on at transaction {first}", last.number)
        last = found[-1][0]
        bring_in(session, [group for _, group in found], last)
    noted = mark(database)
    if noted is not None and noted.number > last.number:
        _tell_loss(session, database, last.number, noted)
    return len(found)


def _tell_loss(session: Session, database: Path, last: int, noted: Mark) -> None:
    n_verdicts = max(0, noted.next_seq - session.next_seq())
    kept = folder_of(database).with_name(f"{database.name}.journal.torn-{last + 1}")
    if is_left(database) and not kept.exists():
        shutil.copytree(folder_of(database), kept)
    bring_in(session, [], End(noted.number))
    told: dict[str, object] = {"groups": noted.number - last, "verdicts": n_verdicts}
    told |= {"kept": kept.name} if kept.exists() else {}
    audit.record(session, "aegis", "lost", "verdicts", told)
    _LOG.error(
        "%s lacks the last %d groups that were answered, with %d verdicts: the end of the journal, "
        "or of the database, is gone. Send these transactions again. %s",
        *(database, told["groups"], n_verdicts),
        f"What is left of the journal is in {kept}." if kept.exists() else "",
    )


def as_table(parts: Sequence[Columns], schema: pa.Schema) -> pa.Table:
    """Rows of several groups as one Arrow table; columns that are missing become null."""
    import pyarrow as pa

    names = [name for name in schema.names if any(name in part for part in parts)]
    nothing = [[None] * _n_rows({"": part}) for part in parts]
    columns = [
        _column(
            [part.get(n, none) for part, none in zip(parts, nothing, strict=True)],
            schema.field(n).type,
        )
        for n in names
    ]
    return pa.table(dict(zip(names, columns, strict=True)))


def _column(parts: Sequence[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_struct(kind) and isinstance(parts[0], Mapping):
        fields = [_column([part[f.name] for part in parts], f.type) for f in kind]
        return pa.StructArray.from_arrays(fields, fields=list(kind))
    if all(isinstance(part, np.ndarray) for part in parts):
        values: Any = np.concatenate(parts) if len(parts) > 1 else parts[0]
    else:
        values = [value for part in parts for value in part]
    if pa.types.is_timestamp(kind) and getattr(values, "dtype", np.dtype(int)).kind != "M":
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind, from_pandas=pa.types.is_floating(kind))


def _n_rows(group: Group) -> int:
    return max((len(next(iter(columns.values()))) for columns in group.values()), default=0)


def _listed(value: object) -> object:
    """What orjson does not write by itself: an array whose numbers do not lie side by side."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError


def _checked(line: bytes) -> dict[str, Any] | None:
    told = line[9:-1]
    if line != _LINE % (zlib.crc32(told), told):
        return None
    group: dict[str, Any] = orjson.loads(told)
    return group


def _write(file: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(file, rest) :]


def synced(path: Path) -> None:
    """Force a file, or what a folder lists, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
