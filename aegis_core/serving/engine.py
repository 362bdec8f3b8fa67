"""The engine: what arrives is scored, forced to the disk in groups, then answered.

There is one, on a database that this process owns: the service runs it behind REST, a notebook or
the simulator by `Engine.open`. One thread scores. Each call is one group of the journal: the
transactions, the verdicts and what was refused are there together or not at all, and a table
writer brings them into the tables soon after. A transaction that is sent again gets the verdict it
already has, and one with other content than the first is told both.

State in memory is a fold of what was answered, in the order of arrival: transactions, the decisions
given, and labels. A snapshot makes a restart quick; without a good one, the history is folded anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from aegis_core.config import Settings
from aegis_core.detection.history import label_events, recorded, transactions
from aegis_core.detection.learner import Learner
from aegis_core.detection.registry import ModelVersion, load, roles
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.verdicts import Verdicts
from aegis_core.errors import StoreBusy, StoreError
from aegis_core.features.arrays import Ids, Ints, hashed
from aegis_core.features.checkpoint import begin, note_pass
from aegis_core.intake.importing import checked
from aegis_core.intake.refusals import Budget
from aegis_core.intake.staging import REPEATED
from aegis_core.review import answers, lists
from aegis_core.serving import snapshot
from aegis_core.serving.rows import (
    Outcome,
    Row,
    again,
    as_group,
    by_column,
    columns,
    rejected,
    stored,
    with_repeats,
)
from aegis_core.serving.table_writer import TableWriter
from aegis_core.serving.warming import warm_up
from aegis_core.store import Store, journal
from aegis_core.store.gate import Limits
from aegis_core.store.journal import Journal
from aegis_core.store.session import Session

LOOK_S: Final = 0.25
"""How often promotions, lists and labels of others are looked for."""
MOST_WAITING: Final = 200_000
"""Rows that the tables may lack; beyond, nothing more is taken."""
Result = TypeVar("Result")


class Engine:
    """Scores transactions as they arrive, on a database that this process owns.

    `score` takes rows that were checked and belongs to one thread; `take` checks the rows of a
    frame and has them scored in `thread`, where a Ctrl-C of the caller leaves a group whole.

    Parameters
    ----------
    store : inside of its `owned()` block, which `close` comes before the end of.
    progress : called with the number of past transactions folded since the last call.

    Attributes
    ----------
    thread : the one that scores.
    next_seq : the place of the next transaction in the order of arrival.
    champion, shadows : the models that decide and that score beside it.
    """

    next_seq: int
    champion: ModelVersion
    shadows: list[ModelVersion]

    def __init__(
        self, store: Store, settings: Settings, *, progress: Callable[[int], object] | None = None
    ) -> None:
        self.store, self.settings, self._progress = store, settings, progress
        self._refusals = Budget(settings.rejected_mb * 1e6, store.rows)
        self._forget()
        with store.reading() as session:
            self._fold(session)
            self.entries = lists.current(session)
            self._news = self._lacks(session)
            reached = journal.reached(session)
        with store.writing() as session:
            note_pass(session, self.next_seq)
        self._looked, self.journal = 0.0, Journal(journal.folder_of(store.path), reached)
        self.table_writer = TableWriter(store, self.journal, self._look)
        store.settle_with(self.table_writer.settle)
        self.thread = ThreadPoolExecutor(1, "aegis-engine")
        warm_up(self.champion, self.shadows, learns=self.scorer.confirmed is not None)
        self.table_writer.start()

    @classmethod
    @contextmanager
    def open(
        cls,
        store: Store,
        settings: Settings,
        *,
        rest: str = "",
        wait_s: float = 30.0,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Engine]:
        """Own the database for the length of the block, with an engine on it.

        Others read beside it, and write all but transactions, through the owner's listeners.
        `rest` is the address at which this process answers over REST, "" if it does not; `wait_s`
        how long to wait while others hold the file, in seconds.

        Raises
        ------
        StoreBusy
            Another process owns the database or held it for `wait_s`.
        NotReady
            There is no champion model yet, or its files are broken.
        """
        store.require_no_service()
        limits = Limits(rows=10_000_000, memory=settings.service_memory)
        with (
            store.owned(wait_s=wait_s, limits=limits, rest=rest),
            closing(cls(store, settings, progress=progress)) as engine,
        ):
            yield engine

    def close(self) -> None:
        """Bring into the tables what was answered; what they refuse stays in the journal."""
        self.thread.shutdown()
        self.table_writer.end()
        self.journal.close()
        self.store.settle_with(None)

    def take(
        self, rows: pa.Table | pd.DataFrame, source: str, labels: pa.Table | None = None
    ) -> pd.DataFrame:
        """Check `rows`, score them and keep all of it, then return the verdicts.

        What others changed, such as lists and answers, counts from the first of them on.

        Parameters
        ----------
        rows :
            Transactions with the columns of the table, without `seq`. What the check refuses goes
            to `rejected`; what is already there keeps the verdict it has.
        labels : rows of the table `labels` that come with them.

        Returns
        -------
        DataFrame with the columns of `verdicts` for the rows that are new, and `customer_id`, `ts`,
        `amount`, `currency`.
        """
        return self.thread.submit(self._taken, rows, source, labels).result()

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
        refused : rows of the table `rejected`, kept in the same group; times likewise.

        Raises
        ------
        StoreError
            The disk does not take it, or the tables are too far behind. What was scored already
            is kept with the next group that the disk takes.
        """
        return self._scored(rows, refused, source)[0]

    def check(self) -> None:
        """Whether anything can be taken; after a failure the history is folded anew.

        Raises
        ------
        StoreError
            Neither the disk nor, by far, the tables keep up.
        """
        self.journal.flush()
        if self.table_writer.failed and self.journal.n_waiting > MOST_WAITING:
            raise StoreError(self.table_writer.failed)
        if self._news:
            self.follow()

    def do(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which sees all that was answered, between two groups."""
        self.settled()
        result = work()
        self._follow_soon()  # an answer counts from the next transaction on
        return result

    def follow(self) -> None:
        """Follow what others changed, between two groups: models, labels and lists.

        A label without a place in the order of arrival gets it: after all that was scored.
        """
        self.settled()
        session = None
        try:
            with self.store.writing() as session:
                last = session.next_seq() - 1
                session.execute("UPDATE labels SET after_seq = ? WHERE after_seq IS NULL", [last])
                self._fold(session)
                self.entries = lists.current(session)
        except BaseException:
            if session:  # the state may hold a part of it, or what was rolled back
                self._forget()
            raise
        self._news = False

    def _follow_soon(self) -> None:
        """Follow at once; where that fails, what was done stays done, and the next group does."""
        self._news = True
        with suppress(Exception):
            self.follow()

    def settled(self) -> None:
        """Return once the tables hold all that was answered.

        Raises
        ------
        StoreBusy
            They do not within some seconds.
        """
        if not self.table_writer.settle():
            raise StoreBusy(self.table_writer.failed or "The tables are busy; try again.")

    def find(self, transaction_id: str) -> Row | None:
        """A transaction and its verdict, or None where it never arrived."""
        return self.told([transaction_id], self.places([transaction_id]))[0]

    def places(self, ids: Sequence[str]) -> list[int]:
        """Where transactions may stand in the order of arrival; -1: nowhere."""
        if self._roles is None:  # after a failure
            self.follow()
        places: list[int] = self.ids.find(hashed(ids)).tolist()
        return places

    def told(self, ids: Sequence[str], places: Sequence[int]) -> list[Row | None]:
        """What is stored of transactions at their `places`, in any thread; None: no such one."""
        there = self._stored([seq for seq in places if seq >= 0])
        return [
            found if found is not None and found[0]["transaction_id"] == one else None
            for one, found in zip(ids, map(there.get, places), strict=True)
        ]

    def save(self) -> None:
        """Write a snapshot of the state, all or nothing."""
        if self._roles is None:
            return
        self.settled()
        with self.store.reading() as session:
            snapshot.State(
                self.next_seq, self._n_labels, self.ids, self.scorer.profiles, self.scorer.confirmed
            ).save(self.store.path, session)

    def _taken(
        self, rows: pa.Table | pd.DataFrame, source: str, labels: pa.Table | None
    ) -> pd.DataFrame:
        """`take`, in the thread that scores."""
        self.check()
        self.settled()
        with self.store.writing() as session:
            answers.publish(session)
            self._news = self._lacks(session)
            self.entries = lists.current(session)
            good, bad = checked(session, rows, source, self.settings.future_minutes)
        sent = good.to_pylist()
        refused = [rejected(**row) for row in bad.to_pylist()]
        with_them = None if labels is None or not labels.num_rows else as_group(labels)
        outcomes, (batch, verdicts) = self._scored(sent, refused, source, with_them)
        conflicts = [row for row, o in zip(sent, outcomes, strict=True) if o.conflict]
        told_both = [rejected(source, json.dumps(row), REPEATED) for row in conflicts]
        with suppress(StoreError):  # the journal has it, and takes it before the next
            if kept := self._refusals.kept(told_both):
                self.journal.append({"rejected": by_column(kept)})
        if with_them is not None and self.scorer.confirmed is not None:
            self._follow_soon()
        shown: pd.DataFrame = verdicts.frame().assign(
            **{c: batch[c] for c in ("customer_id", "ts", "amount", "currency")}
        )
        return shown

    def _scored(
        self,
        rows: Sequence[Mapping[str, Any]],
        refused: Sequence[Mapping[str, Any]],
        source: str,
        labels: dict[str, Any] | None = None,
    ) -> tuple[list[Outcome], tuple[dict[str, Any], Verdicts]]:
        """`score`, with labels in the same group; also what was new, as columns, and its verdicts.

        The labels are known after the last of `rows`.
        """
        self.check()
        keys = hashed([row["transaction_id"] for row in rows])
        outcomes, fresh = self._sorted(rows, keys)
        kept, group = self._refusals.kept(refused), dict[str, Any]()
        try:
            batch, verdicts = self._judged([rows[i] for i in fresh], source, group)
            for i, answer in zip(fresh, verdicts.answers(), strict=True):
                outcomes[i] = Outcome(answer)
            self.ids.add(keys[fresh], batch["seq"])
            if kept:
                group["rejected"] = by_column(kept)
            if labels is not None:
                n_labels = len(labels["transaction_id"])
                group["labels"] = labels | {"after_seq": [self.next_seq - 1] * n_labels}
            if group:
                self.journal.append(group)
        except StoreError:  # the journal has it, and takes it before the next
            raise
        except BaseException:  # the state holds what nobody kept
            self._forget()
            raise
        return with_repeats(rows, fresh, outcomes), (batch, verdicts)

    def _sorted(
        self, rows: Sequence[Mapping[str, Any]], keys: Ints
    ) -> tuple[list[Outcome | None], list[int]]:
        """Outcomes of what is there already, and the places of what is new."""
        outcomes: list[Outcome | None] = [None] * len(rows)
        places = self.ids.find(keys)
        known = np.flatnonzero(places >= 0)
        there = self._stored(places[known].tolist()) if len(known) else {}
        fresh, here = [], set()
        for i, row in enumerate(rows):
            found = there.get(int(places[i])) if there else None
            if found is not None and found[0]["transaction_id"] == row["transaction_id"]:
                outcomes[i] = again(row, found[0], Outcome(found[1]))
            elif row["transaction_id"] not in here:
                here.add(row["transaction_id"])
                fresh.append(i)
        return outcomes, fresh

    def _stored(self, seqs: Sequence[int]) -> dict[int, Row]:
        if not seqs:
            return {}
        self.settled()
        with self.store.reading() as session:
            return stored(session, seqs)

    def _judged(
        self, rows: Sequence[Mapping[str, Any]], source: str, group: dict[str, Any]
    ) -> tuple[dict[str, Any], Verdicts]:
        """Score rows that are new, and add to `group` what the tables are to hold of it."""
        n, batch = len(rows), columns(rows, self.next_seq)
        rulings, listed = None, None
        if self.entries:
            wanted = ("customer_id", "merchant_id", "ts")
            rulings, listed = lists.rulings(
                self.entries, pd.DataFrame({c: batch[c] for c in wanted})
            )
        scored = self.scorer.run(batch, rulings=rulings, signals=True, explain=True)
        verdicts = self.scorer.verdicts_of(batch, scored, self.champion.version, listed)
        self.next_seq = self._indexed = self.next_seq + n
        if n:
            transactions = batch | {"ts": batch["ts"].view(np.int64), "source": [source] * n}
            group |= {"transactions": transactions, "verdicts": verdicts.columns()}
            if self.shadows:
                beside = pd.concat([other.judge(batch, scored) for other in self.shadows])
                group["shadow_scores"] = {str(c): beside[c].tolist() for c in beside}
        return batch, verdicts

    def _look(self, session: Session) -> None:
        """Notice what others changed: the table writer looks, and `score` follows."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self.entries = lists.current(session)
        self._news = self._lacks(session)

    def _lacks(self, session: Session) -> bool:
        """Whether there are roles of models, or labels, that the state does not follow yet."""
        (labels,) = session.rows(
            "SELECT count(*) AS n, count(*) - count(after_seq) AS unplaced FROM labels"
        )
        unknown = self.scorer.confirmed is not None and labels["n"] != self._n_labels
        return unknown or labels["unplaced"] > 0 or roles(session) != self._roles

    def _forget(self) -> None:
        """Begin with nothing; the next group is scored after the history was folded anew."""
        self.scorer, self.ids = Scorer(), Ids()
        self.next_seq = self._indexed = self._n_labels = 0
        self._roles: tuple[str, tuple[str, ...]] | None = None
        self._news = True

    def _fold(self, session: Session) -> None:
        """Bring models, state and ids up to what the tables hold."""
        if (now := roles(session)) != self._roles:
            self._load(session, *now)
            self._roles = now
        learns = self.scorer.confirmed is not None
        n_labels = session.rows("SELECT count(*) AS n FROM labels")[0]["n"] if learns else 0
        if session.next_seq() != self.next_seq or n_labels != self._n_labels:
            labels = label_events(session, self._n_labels) if n_labels > self._n_labels else None
            missed = transactions(session, "t.seq >= ?", [self.next_seq])
            self.scorer.replay(missed, labels, recorded=recorded(missed), progress=self._progress)
            self.next_seq, self._n_labels = session.next_seq(), n_labels
        if self._indexed < self.next_seq:
            there = session.numpy(
                "SELECT transaction_id AS id, seq FROM transactions WHERE seq >= ? ORDER BY seq",
                [self._indexed],
            )
            self.ids.add(hashed(there["id"].tolist()), there["seq"])
            self._indexed = self.next_seq

    def _load(self, session: Session, version: str, shadows: Sequence[str]) -> None:
        """Let other models judge; the state stays, unless labels are needed for the first time."""
        champion = load(session, version, self.settings)
        beside = [load(session, shadow, self.settings) for shadow in shadows]
        learns = any(isinstance(m.model, Learner) for m in (champion, *beside))
        if self._roles is None or (learns and self.scorer.confirmed is None):
            self._begin(session, learns)
        self.champion, self.shadows = champion, beside
        self.scorer = Scorer(
            champion.model, champion.policy, self.scorer.profiles, self.scorer.confirmed
        )

    def _begin(self, session: Session, learns: bool) -> None:
        """Take the state to fold the history onto: a snapshot's, or the one that it begins with."""
        kept = snapshot.load(self.store.path, session, learns=learns)
        if kept is None:
            begun = begin(session, confirmed=learns)
            self.next_seq = self._n_labels = 0
            self.scorer = Scorer(profiles=begun.profiles, confirmed=begun.confirmed)
            return
        self.ids, self.next_seq, self._n_labels = kept.ids, kept.next_seq, kept.n_labels
        self._indexed = kept.next_seq
        self.scorer = Scorer(profiles=kept.profiles, confirmed=kept.confirmed)
