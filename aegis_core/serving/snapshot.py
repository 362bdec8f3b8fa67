"""The engine's state on the disk, so that a restart need not fold the whole history."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aegis_core.features.arrays import Ids, read_arrays, write_arrays
from aegis_core.features.confirmed import Confirmed
from aegis_core.features.profiles import Profiles
from aegis_core.machine import written_whole
from aegis_core.store.session import Session

_LOG: Final = logging.getLogger("aegis.engine")


@dataclass(frozen=True)
class Snapshot:
    """What scoring the transactions before `next_seq` and the first `n_labels` labels left.

    `confirmed` is None where no model looks at labels.
    """

    next_seq: int
    n_labels: int
    ids: Ids
    profiles: Profiles
    confirmed: Confirmed | None

    def save(self, database: Path, session: Session) -> None:
        """Write it, all or nothing, in the place of an earlier one."""
        folder = folder_of(database)
        folder.mkdir(mode=0o700, exist_ok=True)
        name = f"{self.next_seq}-{time.time_ns()}"
        self.profiles.save(folder / f"{name}.profiles.npz")
        if self.confirmed is not None:
            self.confirmed.save(folder / f"{name}.answers.npz")
        write_arrays(folder / f"{name}.ids.npz", {"hashes": self.ids.in_order(self.next_seq)})
        last = _fingerprint(session, self.next_seq - 1)
        state = {"name": name, "next_seq": self.next_seq, "n_told": self.n_labels, "last": last}
        with written_whole(folder / "state.json") as beside:
            beside.write_text(json.dumps(state))
        for old in folder.glob("*.npz"):
            if not old.name.startswith(name):
                old.unlink()


def folder_of(database: Path) -> Path:
    """Where the snapshot of a database lies: beside it."""
    return database.with_name(database.name + ".state")


def remove(database: Path) -> None:
    """Take it away: the next start folds the history anew."""
    for path in folder_of(database).glob("*"):
        path.unlink(missing_ok=True)


def load(database: Path, session: Session, *, learns: bool) -> Snapshot | None:
    """The state that was saved, if it is whole and of this history; `learns`: with labels."""
    folder = folder_of(database)
    if not (folder / "state.json").exists():
        return None
    try:
        state = json.loads((folder / "state.json").read_text())
        name, next_seq, n_labels = state["name"], int(state["next_seq"]), int(state["n_told"])
        if next_seq > session.next_seq() or state["last"] != _fingerprint(session, next_seq - 1):
            raise ValueError("it is of another history")
        return Snapshot(
            next_seq,
            n_labels if learns else 0,
            Ids.of(read_arrays(folder / f"{name}.ids.npz")["hashes"]),
            Profiles.load(folder / f"{name}.profiles.npz"),
            Confirmed.load(folder / f"{name}.answers.npz") if learns else None,
        )
    except Exception as e:  # whatever is wrong with it: the history itself is there
        _LOG.warning("%s is not used, the history is folded anew: %s", folder, e)
        return None


def _fingerprint(session: Session, seq: int) -> str:
    """What the transaction at `seq` is, and what was decided about it."""
    found = session.rows(
        "SELECT t.transaction_id, epoch_us(ts) AS ts, amount, decision "
        "FROM transactions t LEFT JOIN verdicts USING (seq) WHERE seq = ?",
        [seq],
    )
    return json.dumps(found)
