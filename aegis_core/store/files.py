"""Files that are there whole or not at all, full disks said, and checksums of what is there."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aegis_core.errors import AegisError, InputError, StoreError
from aegis_core.machine import private, try_lock, utc_now

BESIDE: Final = (
    *(".wal", ".state", ".journal", ".journal-end"),
    *(".audit-head", ".audit-head.lost"),
)
"""What belongs to a database and lies beside it."""
_LOCK: Final = ".lock"
_OF_A_SERVICE: Final = (".endpoint", ".readers", ".token", ".tokens")
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SIGNS_OF_FULL: Final = ("No space left", "quota exceeded", "File too large", "enough disk space")


@contextlib.contextmanager
def scratch(final: Path, doing: str) -> Iterator[Path]:
    """A folder of one's own beside `final` to make it in, removed at the end of the block.

    `StoreError` where the disk is full or does not let write; `final` is as it was. Its sentence
    begins with `doing`, such as `"The backup"`.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{glob.escape(final.name)}.*.partial"):
            _clear(left)
        with private(), _own_folder(final) as folder:
            yield folder
    except (OSError, AegisError) as e:
        full = getattr(e, "errno", None) in _FULL or any(s in str(e) for s in _SIGNS_OF_FULL)
        if full:
            room = shutil.disk_usage(final.parent).free / 2**20
            raise StoreError(
                f"{doing} was not made: there is no room for it in {final.parent} "
                f"({room:,.0f} MB are free). What was there is as it was."
            ) from e
        if isinstance(e, OSError):
            raise StoreError(f"{doing} was not made in {final.parent}: {e}.") from e
        raise


@contextlib.contextmanager
def _own_folder(final: Path) -> Iterator[Path]:
    """A folder that nobody else has, with a lock that is held as long as this process lives."""
    with contextlib.ExitStack() as ending:
        while True:
            folder = Path(tempfile.mkdtemp(".partial", f".{final.name}.", final.parent))
            ending.callback(shutil.rmtree, folder, ignore_errors=True)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            ending.callback(os.close, lock)
            with contextlib.suppress(OSError):  # a file system without locks: nobody clears it
                while not try_lock(lock):  # somebody looks whether it is left over
                    time.sleep(0.01)
            if (folder / _LOCK).exists():  # else it was cleared before it was locked
                break
        yield folder


def _clear(left: Path) -> None:
    """Remove a scratch folder whose process was killed."""
    with contextlib.suppress(OSError):  # somebody holds its lock, or it has none
        lock = os.open(left / _LOCK, os.O_RDWR)
        try:
            if try_lock(lock):
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(lock)


def of_database(database: Path) -> list[Path]:
    """What belongs to a database and to its service, and lies beside it."""
    return [database.with_name(database.name + e) for e in (*BESIDE, _LOCK, *_OF_A_SERVICE)]


def apart(target: Path, database: Path, models: Path) -> None:
    """Refuse, by an `InputError`, to write where the database or what belongs to it is."""
    for needed in (database, models, *of_database(database)):
        if _holds(target, needed) or (target.exists() and _holds(needed, target)):
            raise InputError(
                f"{target} cannot be written: {needed}, which the database needs, is there. Name "
                "another place."
            )


def _holds(outer: Path, inner: Path) -> bool:
    """Whether `inner` is `outer` or lies in it, whatever links and cases of letters they name."""
    inner, outer = inner.resolve(), outer.resolve()
    if outer in (inner, *inner.parents):
        return True
    return outer.exists() and any(p.exists() and p.samefile(outer) for p in (inner, *inner.parents))


def open_to_others(database: Path, *folders: Path) -> list[Path]:
    """Of the database, what lies beside it and some folders: what other accounts can read.

    A folder counts where they get to a file in it that holds something: an empty one, as a checkout
    brings it, tells nothing.
    """

    def reached(path: Path) -> bool:
        return bool(path.stat().st_mode & 0o044) and all(
            p.stat().st_mode & 0o011 for p in path.parents
        )

    beside = [database.with_name(database.name + ending) for ending in BESIDE]
    files = [path for path in (database, *beside) if path.is_file()]
    held = [path for path in (*beside, *folders) if path.is_dir()]
    return [path for path in files if reached(path)] + [
        folder
        for folder in held
        if any(reached(p) for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    ]


def free(path: Path, *, force: bool, option: str = "--force replaces it") -> Path:
    """`path`, absolute; `InputError` where something is there and `force` is not given."""
    path = path.expanduser().absolute()
    if path.exists() and not force:
        raise InputError(f"{path} is there already; {option}.")
    return path


def aside(path: Path, moment: str) -> Path:
    """The name under which what is at `path` is kept.

    >>> aside(Path("data/aegis.duckdb"), "20260301-120000").name
    'aegis.before-20260301-120000.duckdb'
    """
    return path.with_name(f"{path.stem}.before-{moment}{path.suffix}")


def moment() -> str:
    """The present (UTC), for a file's name."""
    return f"{utc_now():%Y%m%d-%H%M%S-%f}"


def left_beside(here: Path, kept: Path) -> dict[Path, Path]:
    """What lies beside a database, and the names under which that is kept."""
    names = ((p.with_name(p.name + ending) for p in (here, kept)) for ending in BESIDE)
    return {path: name for path, name in names if path.exists()}


def set_aside(here: Path, kept: Path) -> None:
    """Give the database another name as well, and what lies beside it only that.

    Also where the database is gone: what it left would be taken for the restored one's.
    """
    for path, name in left_beside(here, kept).items():
        path.rename(name)
    if not here.exists():
        return
    try:
        os.link(here, kept)
    except OSError:  # a file system without hard links
        shutil.copyfile(here, kept)


def checksum(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """The checksum of each file below a folder, by its path from there, in the order of paths."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum(path) for path in files}


def folder_checksum(folder: Path) -> str:
    """One checksum of the names and contents of all files below a folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     before = folder_checksum(Path(name))
    ...     _ = (Path(name) / "a").write_text("")
    ...     before == folder_checksum(Path(name))
    False
    """
    told = "\n".join(f"{of_file} {name}" for name, of_file in checksums(folder).items())
    return hashlib.sha256(told.encode()).hexdigest()
