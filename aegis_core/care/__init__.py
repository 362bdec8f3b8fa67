"""Care of the database: backup and restore, compaction, export; retention has its own module.

Whatever is written is there whole under its name or not at all, a full disk is said and changes
nothing, and what was done is in the audit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aegis_core import audit
from aegis_core.care.archive import BackedUp, Restored, backup, restore
from aegis_core.care.parquet import Exported, export
from aegis_core.errors import NotReady, StoreBusy
from aegis_core.store import Store
from aegis_core.store.compaction import compact as write_anew

__all__ = [
    "BackedUp",
    "Compacted",
    "Exported",
    "Restored",
    "backup",
    "compact",
    "export",
    "restore",
]


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

    Parameters
    ----------
    tell : called with the share done, in [0, 1].

    Raises
    ------
    NotReady
        There is no database.
    StoreBusy
        A service runs, or another process holds the file.
    StoreError
        There is no room for a second copy; the database is as it was.
    """
    if store.owned_by_any:
        raise StoreBusy(f"A service owns {store.path}; end it first, then compact.")
    if not store.path.exists():
        raise NotReady(f"There is no database at {store.path}.")
    with store.writing():
        pass  # of this version, and whole

    def told(share: float) -> None:
        tell(share)

    done = Compacted(*write_anew(store.path, store.wait_s, told))
    with store.changing() as session:
        audit.record(session, who, "compact", store.path.name, vars(done))
    return done
