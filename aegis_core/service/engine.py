"""The engine of the service: what arrives is scored, committed in groups, and answered after that.

One thread calls `Engine.score`. Each call is one transaction of the database: the transactions, the
verdicts and what was refused are there together or not at all. A transaction that is sent again
gets the verdict it already has, and one with other content than the first is told both.

State in memory is a fold of what was committed. A snapshot of it, with the place in the order of
arrival that it stands for, makes a restart quick; one that is broken or of another history is
ignored, and the history is folded anew.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from aegis_core import lists
from aegis_core.answers import Answers
from aegis_core.arrays import Ids, read_arrays, write_arrays
from aegis_core.config import Settings
from aegis_core.errors import StoreError
from aegis_core.live import Stream
from aegis_core.profiles import Profiles
from aegis_core.store import Store
from aegis_core.store.session import Session

_LOG: Final = logging.getLogger("aegis.engine")
CONTENT: Final = (
    *("customer_id", "ts", "amount", "currency", "merchant_id", "category", "channel"),
    *("lat", "lon"),
)
"""What makes two transactions of one id the same."""
LOOK_S: Final = 0.25
"""How often the engine looks for promotions, lists and answers of others."""
_TYPES: Final = {
    **{"seq": pa.int64(), "transaction_id": pa.string(), "customer_id": pa.string()},
    **{"ts": pa.timestamp("us"), "amount": pa.float64(), "currency": pa.string()},
    **{"merchant_id": pa.string(), "category": pa.string(), "channel": pa.string()},
    **{"lat": pa.float64(), "lon": pa.float64(), "source": pa.string()},
}


@dataclass(frozen=True)
class Outcome:
    """What became of one transaction.

    `verdict` is a row of the table `verdicts`. `repeat` says that it was there before; with
    `conflict`, what is there has other content, which `stored` holds.
    """

    verdict: Mapping[str, Any] | None
    repeat: bool = False
    conflict: bool = False
    stored: Mapping[str, Any] | None = None


class Engine(Stream):
    """Scores rows that were checked, on a database that this process owns.

    Parameters
    ----------
    store : inside of its `owned()` block.
    progress : called with the number of past transactions folded since the last call.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.entries: list[lists.Entry] = []
        self.ids, self._indexed, self._looked = Ids(), 0, 0.0
        super().__init__(store, settings, progress=progress)

    @property
    def snapshot(self) -> Path:
        """The folder of the snapshot, beside the database."""
        return self.store.path.with_name(self.store.path.name + ".state")

    def score(
        self,
        rows: Sequence[Mapping[str, Any]],
        refused: Sequence[Mapping[str, Any]] = (),
        source: str = "api",
    ) -> list[Outcome]:
        """Score, commit, and say what became of each row, in their order.

        Parameters
        ----------
        rows :
            Transactions that passed the check, by the names of `schema.TRANSACTION_COLUMNS`; `ts`
            in microseconds since 1970, missing values None.
        refused :
            Rows of the table `rejected`, kept in the same commit.

        Raises
        ------
        StoreError
            The database cannot be written. Nothing was kept, and nothing was answered; the state
            is folded anew by the next call.
        """
        try:
            with self.store.writing() as session:
                self._look(session)
                outcomes, fresh = self._sorted(session, rows)
                if fresh:
                    self._take(session, [rows[i] for i in fresh], fresh, outcomes, source)
                if refused:
                    session.append("rejected", pa.Table.from_pylist(list(refused)))
            if fresh:
                self._must_be_there()
        except BaseException:
            self._forget()
            raise
        for i, row in enumerate(rows):  # repeats of what came first in this very group
            if outcomes[i] is None:
                first = next(k for k in fresh if rows[k]["transaction_id"] == row["transaction_id"])
                outcomes[i] = _again(row, rows[first], outcomes[first])
        return [o for o in outcomes if o is not None]

    def _must_be_there(self) -> None:
        """Look for what was committed: at its memory limit DuckDB was seen to say so in vain."""
        with self.store.writing() as session:  # a reading would open a connection
            if session.next_seq() < self.next_seq:
                raise StoreError("The commit did not keep what it was given.")

    def find(self, transaction_id: str) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """A transaction and its verdict, or None where it never arrived."""
        seq = int(self.ids.find([transaction_id])[0])
        if seq < 0:
            return None
        with self.store.reading() as session:
            found = self._stored(session, [seq]).get(seq)
        return found if found and found[0]["transaction_id"] == transaction_id else None

    def save(self) -> None:
        """Write a snapshot of the state, all or nothing."""
        if self._roles is None:
            return
        self.snapshot.mkdir(mode=0o700, exist_ok=True)
        name = f"{self.next_seq}-{time.time_ns()}"
        self.scorer.profiles.save(self.snapshot / f"{name}.profiles.npz")
        if self.scorer.answers is not None:
            self.scorer.answers.save(self.snapshot / f"{name}.answers.npz")
        ids = {"keys": self.ids.keys, "places": self.ids.places, "n": np.array(self.ids.n)}
        write_arrays(self.snapshot / f"{name}.ids.npz", ids)
        with self.store.reading() as session:
            last = _fingerprint(session, self.next_seq - 1)
        state = {"name": name, "next_seq": self.next_seq, "n_told": self._n_told, "last": last}
        beside = self.snapshot / ".state.json"
        beside.write_text(json.dumps(state))
        beside.replace(self.snapshot / "state.json")
        for old in self.snapshot.glob("*.npz"):
            if not old.name.startswith(name):
                old.unlink()

    def _sorted(
        self, session: Session, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Outcome | None], list[int]]:
        """Outcomes of what is there already, and the places of what is new."""
        outcomes: list[Outcome | None] = [None] * len(rows)
        places = self.ids.find([row["transaction_id"] for row in rows])
        known = np.flatnonzero(places >= 0)
        stored = self._stored(session, places[known].tolist()) if len(known) else {}
        fresh, here = [], set()
        for i, row in enumerate(rows):
            found = stored.get(int(places[i]))
            if found is not None and found[0]["transaction_id"] == row["transaction_id"]:
                outcomes[i] = _again(row, found[0], Outcome(found[1]))
            elif row["transaction_id"] not in here:
                here.add(row["transaction_id"])
                fresh.append(i)
        return outcomes, fresh

    def _stored(
        self, session: Session, seqs: Sequence[int]
    ) -> dict[int, tuple[dict[str, Any], dict[str, Any] | None]]:
        given = ", ".join(map(str, sorted({int(s) for s in seqs})))
        names = ", ".join(CONTENT)
        rows = session.rows(
            f"SELECT seq, transaction_id, {names.replace('ts', 'epoch_us(ts) AS ts')} "
            f"FROM transactions WHERE seq IN ({given})"
        )
        verdicts = {
            v["seq"]: v for v in session.rows(f"SELECT * FROM verdicts WHERE seq IN ({given})")
        }
        return {row["seq"]: (row, verdicts.get(row["seq"])) for row in rows}

    def _take(
        self,
        session: Session,
        rows: Sequence[Mapping[str, Any]],
        places: Sequence[int],
        outcomes: list[Outcome | None],
        source: str,
    ) -> None:
        n = len(rows)
        batch: dict[str, Any] = {name: [row.get(name) for row in rows] for name in CONTENT}
        batch["transaction_id"] = [row["transaction_id"] for row in rows]
        batch["seq"] = np.arange(self.next_seq, self.next_seq + n)
        batch["ts"] = np.array(batch["ts"], "datetime64[us]")
        batch["amount"] = np.array(batch["amount"], float)
        for name in ("lat", "lon"):
            batch[name] = np.array(batch[name], float)  # None becomes NaN
        rulings, listed = None, None
        if self.entries:
            wanted = ("customer_id", "merchant_id", "ts")
            rulings, listed = lists.rulings(
                self.entries, pd.DataFrame({c: batch[c] for c in wanted})
            )
        scored = self.scorer.run(batch, rulings=rulings, signals=True, explain=True)
        verdicts = self.scorer.tell(batch, scored, self.champion.version, listed)
        columns = {
            name: pa.array(
                [source] * n if name == "source" else batch[name], kind,
                from_pandas=name in ("lat", "lon"),
            )
            for name, kind in _TYPES.items()
        }  # fmt: skip
        session.append("transactions", pa.table(columns))
        self._keep(session, batch, scored, verdicts)
        self.ids.add(batch["transaction_id"], batch["seq"])
        self.next_seq = self._indexed = self.next_seq + n
        for k, i in enumerate(places):
            outcomes[i] = Outcome({name: column[k] for name, column in verdicts.items()})

    def _look(self, session: Session) -> None:
        """Catch up with others: at once where transactions came in, else now and then."""
        now = time.monotonic()
        if now - self._looked < LOOK_S and session.next_seq() == self.next_seq:
            return
        self._catch_up(session)
        self.entries = lists.current(session)
        self._looked = now

    def _catch_up(self, session: Session) -> None:
        super()._catch_up(session)
        if self._indexed < self.next_seq:
            there = session.numpy(
                "SELECT transaction_id AS id, seq FROM transactions WHERE seq >= ? ORDER BY seq",
                [self._indexed],
            )
            self.ids.add(there["id"].tolist(), there["seq"])
            self._indexed = self.next_seq

    def _forget(self) -> None:
        super()._forget()
        self.ids, self._indexed, self._looked = Ids(), 0, 0.0

    def _begin(self, session: Session, learns: bool) -> tuple[Profiles | None, Answers | None]:
        """The state of the snapshot, where it is whole and of this history."""
        try:
            state = json.loads((self.snapshot / "state.json").read_text())
            name, next_seq, n_told = state["name"], int(state["next_seq"]), int(state["n_told"])
            if next_seq > session.next_seq() or state["last"] != _fingerprint(
                session, next_seq - 1
            ):
                raise ValueError("it is of another history")
            answers = None
            if learns:
                answers = Answers.load(self.snapshot / f"{name}.answers.npz")
            profiles = Profiles.load(self.snapshot / f"{name}.profiles.npz")
            arrays = read_arrays(self.snapshot / f"{name}.ids.npz")
            ids = Ids()
            ids.keys, ids.places, ids.n = arrays["keys"], arrays["places"], int(arrays["n"])
        except Exception as e:  # whatever is wrong with it: the history itself is there
            if (self.snapshot / "state.json").exists():
                _LOG.warning("snapshot ignored: %s", e)
            return super()._begin(session, learns)
        self._indexed = next_seq
        self.ids, self.next_seq, self._n_told = ids, next_seq, n_told if learns else 0
        return profiles, answers


def _again(
    row: Mapping[str, Any], first: Mapping[str, Any], outcome: Outcome | None
) -> Outcome:  # fmt: skip
    """The outcome of a transaction whose id came before."""
    verdict = outcome.verdict if outcome is not None else None
    if all(_same(row.get(name), first.get(name)) for name in CONTENT):
        return Outcome(verdict, repeat=True)
    return Outcome(verdict, repeat=True, conflict=True, stored=first)


def _same(a: object, b: object) -> bool:
    return a == b or (a is None and b is None)


def _fingerprint(session: Session, seq: int) -> str:
    """What the transaction at `seq` is, and what was decided about it."""
    found = session.rows(
        "SELECT t.transaction_id, epoch_us(ts) AS ts, amount, decision "
        "FROM transactions t LEFT JOIN verdicts USING (seq) WHERE seq = ?",
        [seq],
    )
    return json.dumps(found)
