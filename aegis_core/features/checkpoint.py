"""The state of the pass where the history begins: what forgotten transactions had taught.

`seq` numbers stay, so a history whose first transactions were forgotten begins at the cut. What
the pass had learnt before is kept in the database, in the same transaction that deletes them: a
replay of what is left begins with it and goes on as if nothing was missing. Of customers who were
erased the places of their transactions stay, and what the others were judged by then: `Erased`.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from aegis_core.errors import NotReady
from aegis_core.features.arrays import (
    Arrays,
    Floats,
    Ints,
    packed,
    read_arrays,
    reading,
    write_arrays,
)
from aegis_core.features.confirmed import Confirmed, brought, widened
from aegis_core.features.frauds import fold
from aegis_core.features.population import PLACE, PLACES, PUBLISHED, SCALE, SUMS
from aegis_core.features.profiles import Profiles
from aegis_core.features.signals import WIDTH
from aegis_core.store import Store
from aegis_core.store.session import Session

_PART_BYTES: Final = 4 * 2**20
ERASING: Final = "erasing "
"""What a key of `meta` begins with that asks the pass to drop a customer; then their id."""
_ERASED: Final = "erased"
_NAMES: Final = ("seen", "categories", "currencies")
_ALL: Final = 2**62
Pauses = Mapping[int, list[Callable[[], object]]]
"""What is to be done before rows of a pass, by their numbers; at their count: after the last.

What says True has changed the codes of customers."""
NO_PAUSES: Final[Pauses] = {}


PASS: Final = 5
"""Version of what the pass computes: a change of any figure of it is another one."""
_SINCE: Final = f"pass {PASS} since"


class Erased(NamedTuple):
    """What stays of erased customers, so that the others' verdicts replay bit for bit.

    Nothing in it names a customer, but for `dropped` while an erasure goes on. Figures are those of
    all customers together, as they were: before the transaction at a place, a replay without the
    erased takes them for what it has summed up itself.

    Attributes
    ----------
    seq, ts_us :
        Places of the erased transactions, and times that end the same days and make the same
        labels known as theirs did.
    sums_seq, sums_row, sums :
        Sums of a day that ends there, of the population, a category, a place or a currency, whose
        rows are those of `Profiles.put`.
    seen_seq, seen, seen_late, merchants :
        What was known there of a merchant, by name; late: after the labels that became known.
    categories, currencies :
        All of them in the order of their codes, which erased transactions gave too.
    dropped : customers that the pass forgot at a place, with names that were theirs alone.
    """

    seq: Ints
    ts_us: Ints
    sums_seq: Ints
    sums_row: Ints
    sums: Ints
    seen_seq: Ints
    seen: list[str]
    seen_late: npt.NDArray[np.bool_]
    merchants: Floats
    categories: list[str]
    currencies: list[str]
    dropped: list[tuple[int, str, list[str]]]

    def within(self, first: int, stop: int = _ALL) -> Erased:
        """What concerns the transactions from `first` on, and those before `stop`."""
        a, b, c = (
            (places >= first) & (places <= stop)
            for places in (self.seq, self.sums_seq, self.seen_seq)
        )
        a &= self.seq < stop
        seen = [name for name, chosen in zip(self.seen, c, strict=True) if chosen]
        late, dropped = self.seen_late[c], [d for d in self.dropped if first <= d[0] <= stop]
        return Erased(
            self.seq[a], self.ts_us[a], self.sums_seq[b], self.sums_row[b], self.sums[b],
            self.seen_seq[c], seen, late, self.merchants[c], self.categories, self.currencies,
            dropped,
        )  # fmt: skip

    def with_places(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`frame` with a row without a customer where an erased transaction was."""
        if not len(self.seq):
            return frame
        gone = pd.DataFrame({"seq": self.seq, "ts": self.ts_us.astype("datetime64[us]")})
        both = pd.concat([frame, gone], ignore_index=True)
        return both.sort_values("seq", kind="stable", ignore_index=True)

    def pauses(
        self, seq: Ints, clock: Ints, profiles: Profiles, confirmed: Confirmed | None
    ) -> Pauses:
        """What a pass over the places `seq` does in between, whose labels fold by `clock`."""
        todo = defaultdict[int, list[Callable[[], object]]](list)
        if self.categories or self.currencies:
            todo[0].append(lambda: profiles.know(self.categories, self.currencies))
        rows = seq.searchsorted(self.sums_seq).tolist()
        for row, place, told in zip(rows, self.sums_row.tolist(), self.sums, strict=True):
            todo[row].append(lambda p=place, t=told: profiles.put(p, t))  # type: ignore[misc]
        if confirmed is not None:
            rows = seq.searchsorted(self.seen_seq).tolist()
            for i in np.argsort(self.seen_late, kind="stable").tolist():
                row, late = rows[i], bool(self.seen_late[i])
                if late and row == len(seq):
                    continue  # of a transaction that this pass does not see
                of = self.seen[i], self.merchants[i], int(clock[row]) if late else None
                todo[row].append(lambda of=of: _known(confirmed, *of))  # type: ignore[misc]
        for place, customer, names in self.dropped:
            todo[int(seq.searchsorted(place))].append(
                lambda c=customer, n=names: drop(profiles, confirmed, c, n)  # type: ignore[misc]
            )
        return todo


NO_ONE: Final[Erased] = Erased(
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64),
    np.zeros((0, SUMS), np.int64), np.zeros(0, np.int64), [], np.zeros(0, bool),
    np.zeros((0, Confirmed().memory.merchants.shape[1])), [], [], [],
)  # fmt: skip
"""Nobody was erased."""


class Begin(NamedTuple):
    """Where a replay begins: `profiles` and `confirmed` as they were just before transaction `cut`.

    None stands for a fresh state; `confirmed` is None where it was not asked for. `erased` is of
    the whole history after it.
    """

    cut: int
    profiles: Profiles | None
    confirmed: Confirmed | None
    erased: Erased = NO_ONE


def _known(confirmed: Confirmed, merchant: str, known: Floats, clock: int | None) -> None:
    if clock is not None:
        fold(confirmed.memory, clock)
    confirmed.put(merchant, known)


def drop(profiles: Profiles, confirmed: Confirmed | None, customer: str, names: list[str]) -> bool:
    """Forget a customer, and categories and merchants by these names, which they alone used."""
    profiles.drop(customer, names)
    if confirmed is not None:
        confirmed.drop(customer, names)
    return True


def begin(source: Store | Session, *, confirmed: bool, stop: int = _ALL) -> Begin:
    """The state to fold the history onto: fresh, unless its first part was forgotten.

    `confirmed` says whether the pass looks at labels; it ends before transaction `stop`.

    Raises
    ------
    NotReady : The state that was kept is broken.
    """
    (found,) = source.rows("SELECT max(cut) AS cut, min(cut) AS least FROM carried WHERE cut >= 0")
    gone = erased(source, 0, stop)
    if found["cut"] is None:
        return Begin(0, None, Confirmed() if confirmed else None, gone)
    if found["cut"] != found["least"]:
        raise NotReady("The state kept of the forgotten history is broken; restore a backup.")
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
        for name in ("profiles", "answers") if confirmed else ("profiles",):
            _read(source, name, Path(folder) / name)
        profiles = Profiles.load(Path(folder) / "profiles", _brought)
        labels = Confirmed.load(Path(folder) / "answers", brought) if confirmed else None
    return Begin(int(found["cut"]), profiles, labels, gone)


def cut(source: Store | Session) -> int:
    """The `seq` that the history begins with; everything before it was forgotten."""
    (found,) = source.rows("SELECT greatest(coalesce(max(cut), 0), 0) AS cut FROM carried")
    return int(found["cut"])


def save(session: Session, cut: int, profiles: Profiles, confirmed: Confirmed) -> None:
    """Keep the state before transaction `cut`, in the place of an earlier one."""
    gone = erased(session).within(cut)
    session.execute("DELETE FROM carried")
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
        for name, state in (("profiles", profiles), ("answers", confirmed)):
            path = Path(folder) / f"{name}.npz"
            state.save(path)
            _keep(session, cut, name, path)
    save_erased(session, gone)


def erased(source: Store | Session, first: int = 0, stop: int = _ALL) -> Erased:
    """What stays of erased customers, for the transactions from `first` on, before `stop`."""
    found = NO_ONE
    if source.rows("SELECT part FROM carried WHERE name = ? LIMIT 1", [_ERASED]):
        with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
            path = Path(folder) / _ERASED
            _read(source, _ERASED, path)
            with reading("What is kept of erased customers", "Restore a backup."):
                arrays: dict[str, Any] = read_arrays(path)
        arrays |= {name: json.loads(arrays[name].tobytes()) for name in _NAMES}
        sums = arrays["sums"]  # of an older version these know less
        arrays["sums"] = np.pad(sums, ((0, 0), (0, SUMS - sums.shape[1])))
        arrays["merchants"] = widened(arrays["merchants"])
        found = Erased(**arrays, dropped=[])
    dropped = [(at, name, names) for at, name, names in _asked(source) if at is not None]
    return found._replace(dropped=dropped).within(first, stop)


def ask(session: Session, customer: str, names: list[str]) -> None:
    """Ask the pass to drop a customer, and names that were theirs alone."""
    value = json.dumps({"at": None, "names": names})
    session.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", [ERASING + customer, value])


def asked(source: Store | Session) -> list[tuple[str, list[str]]]:
    """Customers that the pass is to drop, and has not."""
    return [(customer, names) for at, customer, names in _asked(source) if at is None]


def dropped_at(session: Session, customer: str, names: list[str], seq: int) -> None:
    """Note from which transaction on the pass knows nothing of a customer any more."""
    value = json.dumps({"at": seq, "names": names})
    session.execute("UPDATE meta SET value = ? WHERE key = ?", [value, ERASING + customer])


def was_dropped(source: Store | Session, customer: str) -> tuple[int, list[str]] | None:
    """From which transaction on the pass knows nothing of a customer and of names that were theirs.

    None: it was not done yet.
    """
    told = (t for t in _asked(source) if t[1] == customer and t[0] is not None)
    return next(((at or 0, names) for at, _, names in told), None)


def dropped(session: Session, customer: str, at: int | None) -> None:
    """Take the question away; what arrives next comes after `at` at the earliest."""
    session.execute("DELETE FROM meta WHERE key = ?", [ERASING + customer])
    if at is not None:
        session.execute(
            "INSERT INTO meta VALUES ('erased before', ?) ON CONFLICT DO UPDATE SET value = "
            "greatest(meta.value::BIGINT, excluded.value::BIGINT)::VARCHAR", [str(at)],
        )  # fmt: skip


def _asked(source: Store | Session) -> list[tuple[int | None, str, list[str]]]:
    rows = source.rows("SELECT key, value FROM meta WHERE starts_with(key, ?)", [ERASING])
    told = [(row["key"].removeprefix(ERASING), json.loads(row["value"])) for row in rows]
    return [(said["at"], customer, said["names"]) for customer, said in told]


def save_erased(session: Session, gone: Erased) -> None:
    """Keep what stays of erased customers, in the place of what was kept; not who is dropped."""
    session.execute("DELETE FROM carried WHERE name = ?", [_ERASED])
    if not (len(gone.seq) or len(gone.sums_seq) or len(gone.seen_seq)):
        return
    arrays = gone._asdict()
    del arrays["dropped"]
    for name in _NAMES:
        arrays[name] = np.frombuffer(json.dumps(arrays[name]).encode(), np.uint8)
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
        write_arrays(Path(folder) / _ERASED, arrays)
        _keep(session, -1, _ERASED, Path(folder) / _ERASED)


def _keep(session: Session, cut: int, name: str, path: Path) -> None:
    """Put a file into `carried`: most of it is zeros, room for tables to grow."""
    whole = gzip.compress(path.read_bytes(), 1, mtime=0)
    for part, start in enumerate(range(0, len(whole), _PART_BYTES)):
        data = whole[start : start + _PART_BYTES]
        row = {"cut": cut, "name": name, "part": part, "data": data}
        session.append("carried", pa.Table.from_pylist([row]))


def _read(source: Store | Session, name: str, path: Path) -> None:
    """Write a file as `_keep` took it."""
    parts = source.rows("SELECT data FROM carried WHERE name = ? ORDER BY part", [name])
    with reading("The state kept of the forgotten history", "Restore a backup."):
        path.write_bytes(gzip.decompress(b"".join(row["data"] for row in parts)))


def note_pass(session: Session, next_seq: int) -> None:
    """Note that this version of the pass judges from transaction `next_seq` on, unless it did."""
    session.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", [_SINCE, str(next_seq)])


def note_replay(session: Session, first_seq: int) -> None:
    """Note the same of a replay from `first_seq` on, after the last verdict of an older pass."""
    note_pass(session, session.next_seq())
    since = judged_since(session) or 0
    older = session.value("SELECT max(seq) FROM verdicts WHERE seq < ?", [since])
    now = min(since, max(first_seq, -1 if older is None else older + 1))
    session.execute("UPDATE meta SET value = ? WHERE key = ?", [str(now), _SINCE])


def judged_since(source: Store | Session) -> int | None:
    """The first transaction that this version of the pass judged; None: it judged none yet."""
    found = source.rows("SELECT value FROM meta WHERE key = ?", [_SINCE])
    return int(found[0]["value"]) if found else None


def _brought(arrays: Arrays) -> Arrays:
    """Profiles as versions 1 to 4 of the pass kept them, in today's layout."""
    if "places" not in arrays:
        arrays = arrays | {"places": np.zeros((PLACES, PLACE), np.int64)}
    if "scales" not in arrays:
        arrays = _with_clock(arrays)
        wider = np.zeros((len(arrays["customers"]), WIDTH))
        before = np.insert(arrays["customers"], 16, 0.0, axis=1)
        wider[:, : before.shape[1]] = before
        wider[:, 4] = np.maximum(wider[:, 5] - wider[:, 4], 0.0)  # was the first time
        times = wider[:, 41:105]  # as they arrived, of which the next place was told
        wider[:, 41:105] = np.take_along_axis(times, np.abs(times).argsort(axis=1), axis=1)
        wider[:, [11, 15]] = 0.0
        # as many customers as what they said counts for
        who = arrays["kept"][:, :1] // 65_536
        arrays = arrays | {
            "customers": wider,
            "sums": np.pad(arrays["sums"], ((0, 0), (0, 1))),
            "kept": np.hstack([arrays["kept"], who]),
            "scales": np.zeros((1, SCALE), np.int64),
            "currency_ids": packed({}),
        }
    more = Arrays()  # than of version 4, which knew no main category
    for name, width in (("customers", WIDTH), ("published", PUBLISHED)):
        more[name] = np.pad(arrays[name], ((0, 0), (0, width - arrays[name].shape[1])))
    return arrays | more


def _with_clock(arrays: Arrays) -> Arrays:
    """Profiles of version 1 as version 2 kept them.

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
