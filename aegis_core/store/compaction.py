"""Giving space back: the database written anew, beside the old one, which it then replaces."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aegis_core.errors import NotReady, StoreBusy, StoreError
from aegis_core.store import audit
from aegis_core.store.connection import Connection, empty, literal, opened, translated
from aegis_core.store.database import Store
from aegis_core.store.files import scratch
from aegis_core.store.journal import synced
from aegis_core.store.session import Session
from aegis_core.store.tables import copy_into

_LET_GO_S: Final = 0.1  # whoever has just opened the old file, and found it locked, opens the new


@dataclass(frozen=True)
class Compacted:
    """Size of the database's file before and after, in bytes."""

    before: int
    after: int

    def sentence(self) -> str:
        """The result in words."""
        return f"{self.before / 2**20:,.1f} MB before, {self.after / 2**20:,.1f} MB now."


def compact(
    store: Store, *, who: str, tell: Callable[[float], object] = lambda share: None
) -> Compacted:
    """Give back the space of what was deleted: the database is written anew and takes its place.

    Nobody can write meanwhile, and readers go on. At every moment, whatever dies, one whole
    database is at its path. `tell` is called with the share done, in [0, 1].

    Raises
    ------
    NotReady : There is no database.
    StoreBusy : A service runs, or another process holds the file.
    StoreError : There is no room for a second copy; the database is as it was.
    """
    path = store.path
    if store.owned_by_any:
        raise StoreBusy(f"A service owns {path}; end it first, then compact.")
    if not path.exists():
        raise NotReady(f"There is no database at {path}.")
    with store.writing():
        pass  # of this version, and whole

    connection = _alone_with(path, store.wait_s)
    with contextlib.closing(connection), scratch(path, "The compacted database") as folder:
        new, was = folder / path.name, path.stat()
        with translated():
            connection.execute("USE source")
        copy_into(Session(connection, writable=True), new, tell)
        synced(new)
        done = Compacted(was.st_size, new.stat().st_size)
        os.chmod(new, was.st_mode & 0o777)
        if (new.stat().st_uid, new.stat().st_gid) != (was.st_uid, was.st_gid):
            os.chown(new, was.st_uid, was.st_gid)  # the service's file stays the service's
        new.replace(path)
        time.sleep(_LET_GO_S)
    with store.changing() as session:
        audit.record(session, who, "compact", path.name, vars(done))
    return done


def _alone_with(path: Path, wait_s: float) -> Connection:
    """A connection that has the whole database at `path`, as `source`, and keeps writers away."""
    log = path.with_name(path.name + ".wal")
    deadline = time.monotonic() + wait_s
    while True:
        folding = opened(path, read_only=False, wait_s=max(0.0, deadline - time.monotonic()))
        with translated():
            folding.execute("CHECKPOINT")
            folding.close()
        connection = empty({"python_enable_replacements": "false"})
        try:
            with translated():
                connection.execute(f"ATTACH {literal(str(path))} AS source (READ_ONLY)")
            if not log.exists():
                return connection
        except StoreError as e:
            if time.monotonic() > deadline:
                raise StoreBusy(f"{path} was in use for {wait_s:g} s: {e}") from e
        connection.close()  # somebody wrote in between
        if time.monotonic() > deadline:
            raise StoreBusy(f"Others wrote to {path} for {wait_s:g} s.")
