"""The audit: who changed what and when, in rows that are chained by hashes.

Each row holds the SHA-256 of its own content and of the row before, so that a row that was
changed, removed or put in between breaks the chain from there on. What the chain alone cannot show
is that its end was cut off, or that all of it was written anew: for that the last row's number and
hash are kept in a file beside the database, and can be noted anywhere else. A head that was kept
there and is not in the chain any more goes into a second file before the next one takes its place.

Where a person is erased, rows that name them are written without the name. Their hashes stay, and
the hash of what each says now is in the row that tells of the erasure: nothing else may replace it.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from aegis_core.errors import InputError, StoreBusy, StoreError
from aegis_core.machine import locked, utc_now, written_whole
from aegis_core.store.session import Session

_LOG: Final = logging.getLogger("aegis.audit")
GENESIS: Final = "0" * 64
"""What the first row has for the hash of the row before."""
ERASE: Final = "erase"
"""The action of a row that says what others say since a person was erased."""
_CHUNK: Final = 10_000
_COLUMNS: Final = "seq, recorded_at, who, action, subject, details, before, hash"


@dataclass(frozen=True)
class Head:
    """Number and hash of a row; that of the last one stands for all before it."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def read(cls, text: str) -> Head:
        """A head as `str` wrote it; `InputError` where the text is none.

        >>> Head.read(str(Head(7, "0" * 64))).seq
        7
        """
        number, _, digest = text.strip().partition(":")
        if not number.isdecimal() or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise InputError(f"{text!r} is no head; `aegis audit` prints one, such as 7:3f9a….")
        return cls(int(number), digest)


@dataclass(frozen=True)
class Entry:
    """One row: `recorded_at` is UTC, `details` JSON, `before` the hash of the row before."""

    seq: int
    recorded_at: datetime
    who: str
    action: str
    subject: str
    details: str
    before: str
    hash: str

    @property
    def content_hash(self) -> str:
        """The hash that the content of this row has."""
        told = list(vars(self).values())[:-1]
        told[1] = self.recorded_at.isoformat(timespec="microseconds")
        return hashlib.sha256(json.dumps(told, separators=(",", ":")).encode()).hexdigest()

    def __str__(self) -> str:
        when = f"{self.recorded_at:%Y-%m-%d %H:%M}"
        return f"{self.seq} ({self.action} {self.subject} by {self.who}, {when})"


@dataclass(frozen=True)
class Verified:
    """What a look at the whole chain found; `problem` is None where it is whole.

    From `redacted` rows somebody was erased.
    """

    rows: int
    head: Head | None
    problem: str | None = None
    redacted: int = 0

    def sentence(self) -> str:
        """The result in words."""
        if self.problem:
            return f"The audit is BROKEN: {self.problem}"
        if self.head is None:
            return "The audit is empty."
        erased = f" ({self.redacted:,} without the names erased from them)" if self.redacted else ""
        return f"The audit is whole: {self.rows:,} rows{erased}, head {self.head}"


def record(
    session: Session,
    who: str,
    action: str,
    subject: str,
    details: Mapping[str, object] | None = None,
) -> Entry:
    """Add a row, in the transaction of the change that it tells of.

    The name of the account that runs this process is added to `details`, as `login`: `who` is
    what somebody said. So is a random `salt`, which goes when somebody is erased: without it the
    hash does not tell whom the row named. Two rows of one number cannot both be committed, so the
    chain cannot fork: inside of `Store.changing()` others wait, elsewhere the later transaction
    fails as a whole.
    `InputError` where nobody says who, or `details` is not what JSON can say.
    """
    if not who.strip():
        raise InputError("Say who does this.")
    try:
        told = json.dumps(
            {**(details or {}), "login": login(), "salt": secrets.token_hex(8)},
            sort_keys=True, allow_nan=False, default=str,
        )  # fmt: skip
    except ValueError as e:
        raise InputError(f"The details of {action} {subject} cannot be kept: {e}.") from None
    last = head(session)
    seq, before = (last.seq + 1, last.hash) if last else (1, GENESIS)
    now = utc_now()
    entry = Entry(seq, now, who.strip(), action, subject, told, before, "")
    entry = replace(entry, hash=entry.content_hash)
    session.execute(
        f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        list(vars(entry).values()),
    )
    return entry


def head(session: Session) -> Head | None:
    """Number and hash of the last row; None where there is none."""
    found = session.rows("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    return Head(**found[0]) if found else None


def holds(session: Session, noted: Head) -> bool:
    """Whether the chain has the row that a head stands for."""
    sought = [noted.seq, noted.hash]
    return bool(session.rows("SELECT seq FROM audit WHERE seq = ? AND hash = ?", sought))


def entries(session: Session, since: datetime | None = None) -> list[Entry]:
    """Rows in their order, from a time (UTC) on."""
    rows = session.rows(
        f"SELECT {_COLUMNS} FROM audit WHERE recorded_at >= ? ORDER BY seq",
        [since or datetime(1970, 1, 1)],
    )
    return [Entry(**row) for row in rows]


def redact(session: Session, masked: Callable[[str], str]) -> dict[str, str]:
    """Write rows in which `masked` changes a text without it; their new content's hash by number.

    What comes back belongs into the details of a row of the action `ERASE`, as `redacted`, in the
    same transaction: `verify` takes another content only on such a row's word.
    """
    told = {}
    for entry in entries(session):
        details = masked(entry.details)
        now = replace(entry, who=masked(entry.who), subject=masked(entry.subject), details=details)
        if now != entry:
            rest = {key: value for key, value in json.loads(details).items() if key != "salt"}
            now = replace(now, details=json.dumps(rest, sort_keys=True))
            session.execute(
                "UPDATE audit SET who = ?, subject = ?, details = ? WHERE seq = ?",
                [now.who, now.subject, now.details, now.seq],
            )
            told[str(now.seq)] = now.content_hash
    return told


def _redacted(session: Session) -> dict[int, str]:
    """The hash of what redacted rows say now, by their number."""
    told = {}
    erasures = "SELECT seq, details FROM audit WHERE action = ? ORDER BY seq"
    for row in session.rows(erasures, [ERASE]):
        with contextlib.suppress(ValueError, AttributeError):  # a row like that breaks the chain
            for seq, digest in json.loads(row["details"]).get("redacted", {}).items():
                if int(seq) < row["seq"]:
                    told[int(seq)] = digest
    return told


def verify(session: Session, noted: Sequence[Head] = ()) -> Verified:
    """Look at the whole chain, and whether it still holds every head that was noted.

    Parameters
    ----------
    session : one in which all statements see one state, where others may write meanwhile.
    noted : read before that state began. Of two that contradict each other one cannot be held.

    Returns
    -------
    Verified
        With the first row at which something is wrong, in words.
    """
    columns = session.rows(
        "SELECT column_name AS name FROM duckdb_columns() WHERE table_name = 'audit' "
        "AND database_name = current_database() AND schema_name = 'main'"
    )
    if lacking := sorted(set(_COLUMNS.split(", ")) - {column["name"] for column in columns}):
        lacks = f"its table lacks {', '.join(lacking)}." if columns else "its table is missing."
        return Verified(0, None, lacks)
    last, n, redacted = Head(0, GENESIS), 0, _redacted(session)
    while chunk := session.rows(
        f"SELECT {_COLUMNS} FROM audit WHERE seq > ? ORDER BY seq LIMIT {_CHUNK}", [last.seq]
    ):
        for row in chunk:
            entry = Entry(**row)
            if problem := _wrong(entry, last, noted, redacted):
                return Verified(n, last if n else None, problem)
            last, n = Head(entry.seq, entry.hash), n + 1
    if (there := session.value("SELECT count(*) FROM audit")) != n:
        return Verified(n, last, f"{there - n} rows were put in beside those of the chain.")
    first, upto = last.seq + 1, max((head.seq for head in noted), default=0)
    if upto >= first:
        missing = f"{_are(first, upto)} missing at its end: they were noted."
        return Verified(n, last if n else None, missing)
    return Verified(n, last if n else None, redacted=len(redacted))


def _are(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"


def _wrong(
    entry: Entry, last: Head, noted: Sequence[Head], redacted: Mapping[int, str]
) -> str | None:
    if entry.seq != last.seq + 1:
        return f"{_are(last.seq + 1, entry.seq - 1)} missing; the next one is row {entry}."
    if entry.content_hash not in (entry.hash, redacted.get(entry.seq)):
        return f"row {entry} was changed: it is not what its hash says."
    if entry.before != last.hash:
        return (
            f"row {entry} was written after another row {last.seq} than the one that is there: "
            f"row {last.seq} was put in or written anew."
        )
    if any(head.seq == entry.seq and head.hash != entry.hash for head in noted):
        return f"row {entry} is not the one that was noted: it, or what was before, was replaced."
    return None


# --- beside the database -----------------------------------------------------------------


def head_file(database: Path) -> Path:
    """Where the head is kept beside a database."""
    return database.with_name(database.name + ".audit-head")


def kept_head(database: Path) -> Head | None:
    """The head beside the database; None where there is none that can be read."""
    with contextlib.suppress(OSError, InputError):
        return Head.read(head_file(database).read_text("utf-8"))
    return None


def lost_file(database: Path) -> Path:
    """Where heads are kept that were beside a database until its chain had them no more."""
    return database.with_name(database.name + ".audit-head.lost")


def lost_heads(database: Path) -> list[Head]:
    """The heads in `lost_file`, what is none left out; `StoreError` where it cannot be read."""
    path, found = lost_file(database), []
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as e:
        raise StoreError(f"{path} cannot be read: {e.strerror}.") from e
    for line in lines:
        with contextlib.suppress(InputError):
            found.append(Head.read(line))
    return found


def keep_head(database: Path, noted: Head | None, lost: Head | None = None) -> None:
    """Note the head beside the database, readable by this user only; called after the commit.

    Where that fails the change itself is done, so it is logged: the next one notes it again. `lost`
    is the head that was kept until now, if the chain does not hold it; it is kept as well.
    """
    if noted is None:
        return
    path = head_file(database)
    try:
        if lost is not None:
            _put(lost_file(database), [*lost_heads(database), lost])
            _LOG.warning("the audit of %s lacks row %d, which was noted", database, lost.seq)
        _put(path, [noted])
    except (OSError, StoreError) as e:
        _LOG.warning("the head of the audit was not noted in %s: %s", path, e)


def _put(path: Path, heads: Sequence[Head]) -> None:
    with written_whole(path) as new:
        new.write_text("".join(f"{head}\n" for head in heads))


@contextlib.contextmanager
def alone(database: Path, wait_s: float) -> Iterator[None]:
    """Hold the turn of those who add rows; `StoreBusy` where another held it for `wait_s`."""
    path = database.with_name(f".{database.name}.audit.lock")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path, wait_s))
        except BlockingIOError:
            raise StoreBusy(
                f"Another change of {database} went on for {wait_s:g} s; try again."
            ) from None
        except OSError as e:
            raise StoreError(f"{path} cannot be written: {e.strerror}.") from e
        yield


def login() -> str:
    """The account that runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return f"user {os.getuid()}"
