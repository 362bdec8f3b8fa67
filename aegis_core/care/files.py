"""Files that are there whole or not at all: scratch folders beside them, and full disks said."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aegis_core.errors import AegisError, InputError, StoreError

BESIDE: Final = (".wal", ".state", ".journal", ".audit-head")
"""What belongs to a database and lies beside it."""
_OF_A_SERVICE: Final = (".endpoint", ".readers", ".token")
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SIGNS_OF_FULL: Final = ("No space left", "quota exceeded", "File too large", "enough disk space")


@contextlib.contextmanager
def scratch(final: Path, doing: str) -> Iterator[Path]:
    """A folder beside `final` to make it in, removed at the end of the block.

    Parameters
    ----------
    doing : such as `"The backup"`, for the sentence about a disk that is full.

    Raises
    ------
    StoreError
        The disk is full or does not let write; `final` is as it was.
    """
    folder = final.with_name(f".{final.name}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir(mode=0o700)
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
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def apart(target: Path, database: Path, models: Path) -> None:
    """Refuse to write where the database, what belongs to it or its models are.

    Raises
    ------
    InputError
        `target` is one of them, holds one, or is there already inside of one.
    """
    beside = [database.with_name(database.name + e) for e in (*BESIDE, *_OF_A_SERVICE)]
    for needed in (database, models, *beside):
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


def free(path: Path, *, force: bool, option: str = "--force replaces it") -> Path:
    """`path`, absolute, where nothing stands in its way.

    Raises
    ------
    InputError
        Something is there, and `force` is not given.
    """
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
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
