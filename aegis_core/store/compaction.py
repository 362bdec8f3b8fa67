"""Giving space back: the database written anew, beside the old one, which it then replaces."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from aegis_core.errors import StoreBusy, StoreError
from aegis_core.store.connection import empty, literal, opened, translated
from aegis_core.store.session import Session
from aegis_core.store.tables import copy_into

_LET_GO_S = 0.1  # whoever has just opened the old file finds it locked, and opens the new one


def compact(path: Path, wait_s: float, tell: Callable[[float], None]) -> tuple[int, int]:
    """Write the database at `path` anew without what was deleted; bytes before and after.

    Nobody can write meanwhile, and readers go on. At every moment, whatever dies, one whole
    database is at `path`.

    Parameters
    ----------
    wait_s : how long to wait while others hold the file, in seconds.
    tell : called with the share done, in [0, 1].

    Raises
    ------
    StoreBusy
        Another process held the file for `wait_s`.
    StoreError
        The disk is full; the database is as it was.
    """
    new = path.with_name(f".{path.name}.compact")
    log = path.with_name(path.name + ".wal")
    for left in (new, new.with_name(new.name + ".wal")):  # of a process that was killed
        left.unlink(missing_ok=True)
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
                break
        except StoreError as e:
            if time.monotonic() > deadline:
                raise StoreBusy(f"{path} was in use for {wait_s:g} s: {e}") from e
        connection.close()  # somebody wrote in between
        if time.monotonic() > deadline:
            raise StoreBusy(f"Others wrote to {path} for {wait_s:g} s.")
    try:
        was = path.stat()
        with translated():
            connection.execute("USE source")
        copy_into(Session(connection, writable=True), new, tell)
        with new.open("rb") as written:
            os.fsync(written.fileno())
        after = new.stat().st_size
        os.chmod(new, was.st_mode & 0o777)
        if (new.stat().st_uid, new.stat().st_gid) != (was.st_uid, was.st_gid):
            os.chown(new, was.st_uid, was.st_gid)  # the service's file stays the service's
        new.replace(path)
        time.sleep(_LET_GO_S)
    except OSError as e:
        raise StoreError(f"{path} was not compacted: {e.strerror}.") from e
    finally:
        connection.close()
        for left in (new, new.with_name(new.name + ".wal")):
            left.unlink(missing_ok=True)
    return was.st_size, after
