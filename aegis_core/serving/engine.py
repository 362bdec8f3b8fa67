"""The engine of the service: what arrives is scored, forced to the disk in groups, then answered.

One thread calls `Engine.score`. Each call is one group of the journal: the transactions, the
verdicts and what was refused are there together or not at all, and the keeper brings them into the
tables soon after. A transaction that is sent again gets the verdict it already has, and one with
other content than the first is told both.

State in memory is a fold of what was answered. A snapshot of it, with the place in the order of
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
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection.registry import roles
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import StoreBusy, StoreError
from aegis_core.features.arrays import Ids, Ints, hashed, read_arrays, write_arrays
from aegis_core.features.confirmed import Answers
from aegis_core.features.profiles import Profiles
from aegis_core.review import lists
from aegis_core.schema import CONTENT
from aegis_core.serving.live import Stream, count
from aegis_core.serving.table_writer import Keeper
from aegis_core.store import Store, journal
from aegis_core.store.journal import Journal
from aegis_core.store.session import Session

_LOG: Final = logging.getLogger("aegis.engine")
LOOK_S: Final = 0.25
"""How often promotions, lists and answers of others are looked for."""
_WARM_ROWS: Final = 64
MOST_WAITING: Final = 200_000
"""Rows that the tables may lack; beyond, nothing more is taken."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transaction.

    `verdict` is a row of the table `verdicts`, or the part of it that is told. `repeat` says that
    it was there before; with `conflict`, what is there has other content, which `stored` holds.
    """

    verdict: Mapping[str, Any] | None
    repeat: bool = False
    conflict: bool = False
    stored: Mapping[str, Any] | None = None


class Engine(Stream):
    """Scores rows that were checked, on a database that this process owns.

    Parameters
    ----------
    store : inside of its `owned()` block, which `close` comes before the end of.
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
        self.ids, self._indexed = Ids(), 0
        super().__init__(store, settings, progress=progress)
        with store.reading() as session:
            self.entries = lists.current(session)
            reached, n_labels = journal.reached(session), count(session, "labels")
        self.journal = Journal(journal.folder_of(store.path), reached)
        self.keeper = Keeper(store, self.journal, self._look)
        self._looked = 0.0
        told = self._n_told if self.scorer.answers is not None else n_labels
        self._news = self._heard = (self._roles, told)
        store.settle_with(self.keeper.settle)
        self._warm_up()
        self.keeper.start()

    @property
    def snapshot(self) -> Path:
        """The folder of the snapshot, beside the database."""
        return self.store.path.with_name(self.store.path.name + ".state")

    def close(self) -> None:
        """Bring into the tables what was answered; what they refuse stays in the journal."""
        self.keeper.end()
        self.journal.close()
        self.store.settle_with(None)

    def score(
        self,
        rows: Sequence[Mapping[str, Any]],
        refused: Sequence[Mapping[str, Any]] = (),
        source: str = "api",
    ) -> list[Outcome]:
        """Score, force to the disk, and say what became of each row, in their order.

        Parameters
        ----------
        rows :
            Transactions that passed the check, by the names of `schema.TRANSACTION_COLUMNS`; `ts`
            in microseconds since 1970, missing values None.
        refused :
            Rows of the table `rejected`, kept in the same group; times likewise.

        Raises
        ------
        StoreError
            The disk does not take it, or the tables are too far behind. What was scored already
            is kept with the next group that the disk takes.
        """
        self.check()
        if self._news != self._heard:
            self._hear()
        keys = hashed([row["transaction_id"] for row in rows])
        outcomes, fresh = self._sorted(rows, keys)
        group: dict[str, Any] = {}
        if fresh:
            group = self._take([rows[i] for i in fresh], fresh, outcomes, source)
            self.ids.add(keys[fresh], np.arange(self.next_seq - len(fresh), self.next_seq))
        if refused:
            group["rejected"] = {name: [row[name] for row in refused] for name in refused[0]}
        if group:
            self.journal.append(group)
        if None in outcomes:  # repeats of what came first in this very group
            firsts = {rows[k]["transaction_id"]: k for k in fresh}
            for i in (i for i, outcome in enumerate(outcomes) if outcome is None):
                first = firsts[rows[i]["transaction_id"]]
                outcomes[i] = _again(rows[i], rows[first], outcomes[first])
        return [o for o in outcomes if o is not None]

    def check(self) -> None:
        """Whether anything can be taken.

        Raises
        ------
        StoreError
            Neither the disk nor, by far, the tables keep up.
        """
        self.journal.flush()
        if self.keeper.failed and self.journal.n_waiting > MOST_WAITING:
            raise StoreError(self.keeper.failed)

    def do(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which sees all that was answered, between two groups."""
        self.settled()
        result = work()
        self._hear()  # an answer is heard before the next transaction
        return result

    def settled(self) -> None:
        """Return once the tables hold all that was answered.

        Raises
        ------
        StoreBusy
            They do not within some seconds.
        """
        if not self.keeper.settle():
            raise StoreBusy(self.keeper.failed or "The tables are busy; try again.")

    def find(self, transaction_id: str) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """A transaction and its verdict, or None where it never arrived."""
        seq = int(self.ids.find(hashed([transaction_id]))[0])
        if seq < 0:
            return None
        found = self._stored([seq]).get(seq)
        return found if found and found[0]["transaction_id"] == transaction_id else None

    def save(self) -> None:
        """Write a snapshot of the state, all or nothing."""
        if self._roles is None:
            return
        self.settled()
        self.snapshot.mkdir(mode=0o700, exist_ok=True)
        name = f"{self.next_seq}-{time.time_ns()}"
        self.scorer.profiles.save(self.snapshot / f"{name}.profiles.npz")
        if self.scorer.answers is not None:
            self.scorer.answers.save(self.snapshot / f"{name}.answers.npz")
        write_arrays(
            self.snapshot / f"{name}.ids.npz", {"hashes": self.ids.in_order(self.next_seq)}
        )
        with self.store.reading() as session:
            last = _fingerprint(session, self.next_seq - 1)
        state = {"name": name, "next_seq": self.next_seq, "n_told": self._n_told, "last": last}
        beside = self.snapshot / ".state.json"
        beside.write_text(json.dumps(state))
        beside.replace(self.snapshot / "state.json")
        for old in self.snapshot.glob("*.npz"):
            if not old.name.startswith(name):
                old.unlink()

    def _warm_up(self) -> None:
        """Compile what scoring needs, which takes seconds, before a request waits for it.

        Made-up transactions, ordinary ones and alerts, are judged as if nothing had come before.
        """
        rows = [
            {"transaction_id": f"{i}", "customer_id": "0", "merchant_id": "0", "ts": i * 100_000,
             "amount": (1.0, 1e12)[i % 2], "lat": 60.0 * (i % 2), "lon": 0.0}
            for i in range(_WARM_ROWS)
        ]  # fmt: skip
        batch = _columns(rows, 0)
        self.ids.find(hashed(batch["transaction_id"]))
        answers = None if self.scorer.answers is None else Answers()
        scorer = Scorer(self.champion.model, self.champion.policy, answers=answers)
        scored = scorer.run(batch, signals=True, explain=True)
        scorer.tell(batch, scored, self.champion.version)
        for shadow in self.shadows:
            shadow.judge(batch, scored)

    def _sorted(
        self, rows: Sequence[Mapping[str, Any]], keys: Ints
    ) -> tuple[list[Outcome | None], list[int]]:
        """Outcomes of what is there already, and the places of what is new."""
        outcomes: list[Outcome | None] = [None] * len(rows)
        places = self.ids.find(keys)
        known = np.flatnonzero(places >= 0)
        stored = self._stored(places[known].tolist()) if len(known) else {}
        fresh, here = [], set()
        for i, row in enumerate(rows):
            found = stored.get(int(places[i])) if stored else None
            if found is not None and found[0]["transaction_id"] == row["transaction_id"]:
                outcomes[i] = _again(row, found[0], Outcome(found[1]))
            elif row["transaction_id"] not in here:
                here.add(row["transaction_id"])
                fresh.append(i)
        return outcomes, fresh

    def _stored(
        self, seqs: Sequence[int]
    ) -> dict[int, tuple[dict[str, Any], dict[str, Any] | None]]:
        self.settled()
        given = ", ".join(map(str, sorted({int(s) for s in seqs})))
        names = ", ".join(CONTENT)
        with self.store.reading() as session:
            rows = session.rows(
                f"SELECT seq, transaction_id, {names.replace('ts', 'epoch_us(ts) AS ts')} "
                f"FROM transactions WHERE seq IN ({given})"
            )
            found = session.rows(f"SELECT * FROM verdicts WHERE seq IN ({given})")
        verdicts = {v["seq"]: v for v in found}
        return {row["seq"]: (row, verdicts.get(row["seq"])) for row in rows}

    def _take(
        self,
        rows: Sequence[Mapping[str, Any]],
        places: Sequence[int],
        outcomes: list[Outcome | None],
        source: str,
    ) -> dict[str, Any]:
        """Score rows that are new; what the tables are to hold of it."""
        n, batch = len(rows), _columns(rows, self.next_seq)
        rulings, listed = None, None
        if self.entries:
            wanted = ("customer_id", "merchant_id", "ts")
            rulings, listed = lists.rulings(
                self.entries, pd.DataFrame({c: batch[c] for c in wanted})
            )
        scored = self.scorer.run(batch, rulings=rulings, signals=True, explain=True)
        verdicts = self.scorer.tell(batch, scored, self.champion.version, listed)
        self.next_seq = self._indexed = self.next_seq + n
        for i, answer in zip(places, verdicts.answers(), strict=True):
            outcomes[i] = Outcome(answer)
        group: dict[str, Any] = {
            "transactions": batch | {"ts": batch["ts"].view(np.int64), "source": [source] * n},
            "verdicts": verdicts.columns(),
        }
        if self.shadows:
            told_by = pd.concat([other.judge(batch, scored) for other in self.shadows])
            group["shadow_scores"] = {str(c): told_by[c].tolist() for c in told_by}
        return group

    def _look(self, session: Session) -> None:
        """What others may have changed: the keeper looks, and `score` hears of it."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self.entries = lists.current(session)
        self._news = (roles(session), count(session, "labels"))

    def _hear(self) -> None:
        """Follow the models and hear the answers, between two groups."""
        self.settled()
        heard = self._news
        with self.store.writing() as session:
            session.execute(
                "UPDATE labels SET after_seq = ? WHERE after_seq IS NULL", [self.next_seq - 1]
            )
            self._catch_up(session)
            self.entries = lists.current(session)
        self._heard = heard

    def _catch_up(self, session: Session) -> None:
        super()._catch_up(session)
        if self._indexed < self.next_seq:
            there = session.numpy(
                "SELECT transaction_id AS id, seq FROM transactions WHERE seq >= ? ORDER BY seq",
                [self._indexed],
            )
            self.ids.add(hashed(there["id"].tolist()), there["seq"])
            self._indexed = self.next_seq

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
            ids = Ids.of(read_arrays(self.snapshot / f"{name}.ids.npz")["hashes"])
        except Exception as e:  # whatever is wrong with it: the history itself is there
            if (self.snapshot / "state.json").exists():
                _LOG.warning("snapshot ignored: %s", e)
            return super()._begin(session, learns)
        self._indexed = next_seq
        self.ids, self.next_seq, self._n_told = ids, next_seq, n_told if learns else 0
        return profiles, answers


def _columns(rows: Sequence[Mapping[str, Any]], first_seq: int) -> dict[str, Any]:
    """Rows that were checked as the columns that the pass reads, numbered from `first_seq` on."""
    batch: dict[str, Any] = {name: [row.get(name) for row in rows] for name in CONTENT}
    batch["transaction_id"] = [row["transaction_id"] for row in rows]
    batch["seq"] = np.arange(first_seq, first_seq + len(rows))
    batch["ts"] = np.array(batch["ts"], np.int64).view("datetime64[us]")
    batch["amount"] = np.array(batch["amount"], float)
    for name in ("lat", "lon"):
        batch[name] = np.array(batch[name], float)  # None becomes NaN
    return batch


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
