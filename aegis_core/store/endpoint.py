"""Where the owner of a database answers: a file beside it, for those who may know."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from aegis_core.errors import StoreError
from aegis_core.machine import written_whole

_PROC: Final = Path("/proc")


@dataclass(frozen=True)
class Endpoint:
    """The addresses of an owner and the tokens that open them.

    Attributes
    ----------
    pid, started : The process, and what tells it from a later one of the same number.
    schema_version : The version of the tables.
    writers, readers : Addresses for DuckDB's ATTACH, such as `quack:127.0.0.1:40123`.
    rest : Where the owner answers over REST, such as `http://127.0.0.1:8000`; "" if it does not.
    desk_token : What opens an analyst's work there, under any name.
    inode : Of the database; that of a copy of its folder is another one. 0 where it is not told.
    """

    pid: int
    started: str | None
    schema_version: int
    writers: str
    writers_token: str
    readers: str
    readers_token: str
    rest: str = ""
    desk_token: str = ""
    inode: int = 0


STOP: Final = "-- aegis stop "
"""What asks an owner to end the queries of an asker, before its key."""
_ASKER: Final = re.compile(r"/\*aegis (\d+) (\S+) ([01]) ([0-9a-f]{16})\*/")


@dataclass(frozen=True)
class Asker:
    """Who asks an owner, told in a comment before a query, so that it ends when the asker does.

    Attributes
    ----------
    pid, started : The process.
    board : Whether it is a board's, which has turns of its own.
    key : By which the asker, who alone knows it, can end the query.
    """

    pid: int
    started: str | None
    board: bool
    key: str

    @classmethod
    def me(cls, *, board: bool) -> Asker:
        """The present process, with a key of its own."""
        return cls(os.getpid(), started(os.getpid()), board, secrets.token_hex(8))

    @classmethod
    def read(cls, sql: str) -> Asker | None:
        """Who is told before a statement; None where nobody is, as from DuckDB's own shell.

        >>> Asker.read(f"{Asker(7, '5', True, '0' * 16)}SELECT 1").pid
        7
        """
        if (found := _ASKER.match(sql)) is None:
            return None
        return cls(int(found[1]), found[2], found[3] == "1", found[4])

    def __str__(self) -> str:
        return f"/*aegis {self.pid} {self.started} {self.board:d} {self.key}*/"

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return started(self.pid) != self.started


def files_of(database: Path) -> tuple[Path, Path]:
    """The owner's file, which opens everything, and the one that may be handed to readers."""
    whole = os.path.realpath(database)
    return Path(f"{whole}.endpoint"), Path(f"{whole}.readers")


def publish(database: Path, endpoint: Endpoint) -> None:
    """Write both files, each at once and readable by this user only; else a `StoreError`."""
    attach = f"ATTACH '{endpoint.readers}' AS aegis (TOKEN '{endpoint.readers_token}')"
    for_readers = {
        "address": endpoint.readers,
        "token": endpoint.readers_token,
        "sql": f"LOAD httpfs; LOAD quack; {attach}; FROM aegis.query('SELECT 1')",
    }
    try:
        for path, content in zip(files_of(database), (asdict(endpoint), for_readers), strict=True):
            with written_whole(path) as new:
                new.write_text(json.dumps(content, indent=1))
    except OSError as e:
        raise StoreError(f"{path} cannot be written: {e.strerror}.") from e


def withdraw(database: Path, endpoint: Endpoint) -> None:
    """Remove both files, unless another owner has written them since."""
    if _read(database) == endpoint:
        for path in files_of(database):
            path.unlink(missing_ok=True)


def find(database: Path) -> Endpoint | None:
    """The owner of a database; None if there is none, or it is known to have died."""
    endpoint = _read(database)
    if endpoint is None or endpoint.inode not in (0, _inode(database)):
        return None
    if (since := started(endpoint.pid)) is None or since != endpoint.started:
        return None
    return endpoint


def _inode(database: Path) -> int:
    with contextlib.suppress(OSError):
        return database.stat().st_ino
    return 0


def started(pid: int) -> str | None:
    """When a process started, as the system tells it; None if it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return (_PROC / f"{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    if (_PROC / "self/stat").exists():
        return None
    import psutil  # type: ignore[import-untyped]  # 30 ms that only systems without /proc need

    try:
        return repr(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _read(database: Path) -> Endpoint | None:
    try:
        return Endpoint(**json.loads(files_of(database)[0].read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
