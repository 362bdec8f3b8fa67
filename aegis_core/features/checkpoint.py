"""The state of the pass where the history begins: what forgotten transactions had taught.

`seq` numbers stay, so a history whose first transactions were forgotten begins at the cut. What
the pass had learnt before is kept in the database, in the same transaction that deletes them: a
replay of what is left begins with it and goes on as if nothing was missing.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from aegis_core.errors import NotReady
from aegis_core.features.arrays import Arrays, reading
from aegis_core.features.confirmed import Confirmed
from aegis_core.features.profiles import Profiles
from aegis_core.store import Store
from aegis_core.store.session import Session

_PART_BYTES: Final = 4 * 2**20


PASS: Final = 2
"""Version of what the pass computes: a change of any figure of it is another one."""
_SINCE: Final = f"pass {PASS} since"


class Begin(NamedTuple):
    """Where a replay begins: `profiles` and `confirmed` as they were just before transaction `cut`.

    None stands for a fresh state; `confirmed` is None where it was not asked for.
    """

    cut: int
    profiles: Profiles | None
    confirmed: Confirmed | None


def begin(source: Store | Session, *, confirmed: bool) -> Begin:
    """The state to fold the history onto: fresh, unless its first part was forgotten.

    `confirmed` says whether the pass looks at labels.

    Raises
    ------
    NotReady
        The state that was kept is broken.
    """
    (found,) = source.rows("SELECT max(cut) AS cut, min(cut) AS least FROM carried")
    if found["cut"] is None:
        return Begin(0, None, Confirmed() if confirmed else None)
    if found["cut"] != found["least"]:
        raise NotReady("The state kept of the forgotten history is broken; restore a backup.")
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
        for name in ("profiles", "answers") if confirmed else ("profiles",):
            parts = source.rows("SELECT data FROM carried WHERE name = ? ORDER BY part", [name])
            whole = b"".join(row["data"] for row in parts)
            with reading("The state kept of the forgotten history", "Restore a backup."):
                (Path(folder) / name).write_bytes(gzip.decompress(whole))
        profiles = Profiles.load(Path(folder) / "profiles", _brought)
        labels = Confirmed.load(Path(folder) / "answers") if confirmed else None
    return Begin(int(found["cut"]), profiles, labels)


def cut(source: Store | Session) -> int:
    """The `seq` that the history begins with; everything before it was forgotten."""
    (found,) = source.rows("SELECT coalesce(max(cut), 0) AS cut FROM carried")
    return int(found["cut"])


def save(session: Session, cut: int, profiles: Profiles, confirmed: Confirmed) -> None:
    """Keep the state before transaction `cut`, in the place of an earlier one."""
    session.execute("DELETE FROM carried")
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
        for name, state in (("profiles", profiles), ("answers", confirmed)):
            path = Path(folder) / f"{name}.npz"
            state.save(path)
            # its tables have room to grow: most of it is zeros
            whole = gzip.compress(path.read_bytes(), 1, mtime=0)
            for part, start in enumerate(range(0, len(whole), _PART_BYTES)):
                data = whole[start : start + _PART_BYTES]
                row = {"cut": cut, "name": name, "part": part, "data": data}
                session.append("carried", pa.Table.from_pylist([row]))


def note_pass(session: Session, next_seq: int) -> None:
    """Note that this version of the pass judges from transaction `next_seq` on, unless it did."""
    session.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", [_SINCE, str(next_seq)])


def judged_since(source: Store | Session) -> int | None:
    """The first transaction that this version of the pass judged; None: it judged none yet."""
    found = source.rows("SELECT value FROM meta WHERE key = ?", [_SINCE])
    return int(found[0]["value"]) if found else None


def _brought(arrays: Arrays) -> Arrays:
    """Profiles as version 1 of the pass kept them, in today's layout.

    Weights and minutes in fixed point were counts and seconds; the day that had not ended is over.
    """
    if "kept" in arrays:
        return arrays
    customers, old = arrays["customers"], arrays["sums"]
    gone = np.delete(old, 6, axis=1)
    gone[:, [0, 4, *range(6, gone.shape[1])]] *= 65_536
    gone[:, 5] = gone[:, 5] * 65_536 // 60
    return arrays | {
        "customers": np.insert(customers, [12] * 4, 0.0, axis=1),
        "sums": np.zeros_like(gone),
        "kept": gone,
        "clock": np.array([old[0, 6], 0, 0, 0]),
    }
