"""The engine: what arrives is scored, forced to the disk in groups, then answered.

There is one, on a database that this process owns: the service runs it behind REST, a notebook or
the simulator by `Engine.open`. One thread scores. Each call is one group of the journal: the
transactions, the verdicts and what was refused are there together or not at all, and a table
writer brings them into the tables soon after. A transaction that is sent again gets the verdict it
already has, and one with other content than the first is told both. What was no payment and comes
again as one is judged then, at a place of its own in the order of arrival (ADR 26).

What it judges by, and how it follows what others change, is in `state`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any, Final, TypeVar

import pandas as pd
import pyarrow as pa

from aegis_core.config import Settings
from aegis_core.detection.verdicts import Verdicts
from aegis_core.errors import StoreBusy, StoreError
from aegis_core.features import checkpoint
from aegis_core.features.arrays import Ints, hashed
from aegis_core.intake.importing import checked
from aegis_core.intake.refusals import Budget
from aegis_core.intake.staging import REPEATED
from aegis_core.review import answers
from aegis_core.serving.rows import (
    Outcome,
    Row,
    Rows,
    again,
    as_group,
    becomes_payment,
    by_column,
    later_state,
    later_states,
    rejected,
    stored,
)
from aegis_core.serving.state import State
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
_Repeated = tuple[int, Mapping[str, Any] | None]
"""The place of a row among those of a group, and what it was before, where it was no payment."""


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
    state : what transactions are judged by.
    decided : how many were judged, by decision, since somebody took the number away.
    """

    def __init__(
        self, store: Store, settings: Settings, *, progress: Callable[[int], object] | None = None
    ) -> None:
        self.store, self.settings = store, settings
        self._refusals = Budget(settings.rejected_mb * 1e6, store.rows)
        self.state = State(store, settings, progress)
        with store.reading() as session:
            self.state.follow(session)
            self.state.behind = self.state.lacks(session)
            ended = journal.ended(session)
        with store.writing() as session:
            checkpoint.note_pass(session, self.state.next_seq)
        self.decided = Counter[str]()
        self._looked, self.journal = 0.0, Journal(journal.folder_of(store.path), *ended)
        self.table_writer = TableWriter(store, self.journal, self._look)
        store.settle_with(self.table_writer.settle)
        self.thread = ThreadPoolExecutor(1, "aegis-engine")
        warm_up(self.state.champion, self.state.shadows, learns=self.state.learns)
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
        StoreBusy : Another process owns the database or held it for `wait_s`.
        NotReady : There is no champion model yet, or its files are broken.
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
        StoreError : Neither the disk nor, by far, the tables keep up.
        """
        self.journal.flush()
        if self.table_writer.failed and self.journal.n_waiting > MOST_WAITING:
            raise StoreError(self.table_writer.failed)
        if self.state.behind:
            self.follow()

    def do(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which sees all that was answered, between two groups."""
        self.journal.flush()
        self.settled()
        result = work()
        self._follow_soon()  # an answer counts from the next transaction on
        return result

    def keep(self, refused: Sequence[Mapping[str, Any]]) -> int:
        """Keep those rows of the table `rejected` that are new, equal ones once; how many are.

        It wants to see all that was answered, see `do`.
        """
        names = ("source", "raw", "reason")
        new = {tuple(row[name] for name in names): row for row in refused}
        given = [list(values) for values in zip(*new, strict=True)]
        for there in self.store.rows(
            "SELECT DISTINCT source, raw, reason FROM rejected WHERE (source, raw, reason) IN "
            "(SELECT (unnest(?), unnest(?), unnest(?)))",
            given,
        ):
            del new[tuple(there[name] for name in names)]
        if new:
            self.score([], list(new.values()))
        return len(new)

    def follow(self) -> None:
        """Follow what others changed, between two groups: models, labels and lists.

        A label without a place in the order of arrival gets it: after all that was scored, also
        what the disk did not take yet.
        """
        self.journal.flush()
        self.settled()
        session = None
        try:
            with self.store.writing() as session:
                last = session.next_seq() - 1
                session.execute("UPDATE labels SET after_seq = ? WHERE after_seq IS NULL", [last])
                self.state.follow(session)
                if self.state.drop_asked(session):
                    self.journal.clear()
        except BaseException:
            if session:  # the state may hold a part of it, or what was rolled back
                self.state.forget()
            raise
        self.state.behind = False

    def _follow_soon(self) -> None:
        """Follow at once; where that fails, what was done stays done, and the next group does."""
        self.state.behind = True
        with suppress(Exception):
            self.follow()

    def settled(self) -> None:
        """Return once the tables hold all that was answered.

        Raises
        ------
        StoreBusy : They do not within some seconds.
        """
        if not self.table_writer.settle():
            raise StoreBusy(self.table_writer.failed or "The tables are busy; try again.")

    def find(self, transaction_id: str) -> Row | None:
        """A transaction and its verdict, or None where it never arrived."""
        return self.told([transaction_id], self.places([transaction_id]))[0]

    def change(self, transaction_id: str, status: str) -> Row | None:
        """Keep what became of a transaction; it and its verdict, or None where it never arrived.

        It was judged, and taught, by the state that it came with, and that stays so; but a state
        that makes a payment of what was none is judged, as if it had been sent again with it.

        Raises
        ------
        StoreError : As `score`.
        """
        self.check()
        found = self.find(transaction_id)
        if found is None:
            return None
        row, verdict = found
        if becomes_payment(row | {"status": status}, row):
            self.score([row | {"status": status}])
            return self.find(transaction_id)
        known = [row["status"], *(row["later_states"] or ())]
        if status != known[-1]:
            new = later_state(row["seq"], transaction_id, status, "api")
            self.journal.append({"states": by_column([new])})
            known.append(status)
        return row | {"later_states": known[1:] or None}, verdict

    def places(self, ids: Sequence[str]) -> list[int]:
        """Where transactions may stand in the order of arrival; -1: nowhere."""
        if not self.state.begun:  # after a failure
            self.follow()
        places: list[int] = self.state.ids.find(hashed(ids)).tolist()
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
        if not self.state.begun:
            return
        self.settled()
        with self.store.reading() as session:
            self.state.save(session)

    def _taken(
        self, rows: pa.Table | pd.DataFrame, source: str, labels: pa.Table | None
    ) -> pd.DataFrame:
        """`take`, in the thread that scores."""
        self.check()
        with self.store.unsettled() as session:
            good, bad = checked(session, rows, source, self.settings.future_minutes)
            self.state.look(session)
            due = answers.due(session)
        if due or self.state.day_has_ended:
            self.settled()
            with self.store.writing() as session:
                answers.publish(session)
                if self.state.day_has_ended:
                    self.state.look_back(session)
                self.state.look(session)
            self.state.kept()
        sent = Rows(good.to_pydict())
        refused = [rejected(**row) for row in bad.to_pylist()]
        with_them = None if labels is None or not labels.num_rows else as_group(labels)
        outcomes, (batch, verdicts) = self._scored(sent, refused, source, with_them)
        conflicts = [sent[i] for i, outcome in enumerate(outcomes) if outcome.conflict]
        told_both = [rejected(source, json.dumps(row), REPEATED) for row in conflicts]
        with suppress(StoreError):  # the journal has it, and takes it before the next
            if kept := self._refusals.kept(told_both):
                self.journal.append({"rejected": by_column(kept)})
        if with_them is not None and self.state.learns:
            self._follow_soon()
        shown: pd.DataFrame = verdicts.frame().assign(
            **{c: batch[c] for c in ("customer_id", "ts", "amount", "currency")}
        )
        return shown

    def _scored(
        self,
        given: Sequence[Mapping[str, Any]],
        refused: Sequence[Mapping[str, Any]],
        source: str,
        labels: dict[str, Any] | None = None,
    ) -> tuple[list[Outcome], tuple[dict[str, Any], Verdicts]]:
        """`score`, with labels in the same group; also what was new, as columns, and its verdicts.

        The labels are known after the last of the rows.
        """
        self.check()
        rows, links = Rows.of(given), self.state.meaning.links
        if not links.keys().isdisjoint(rows.columns["customer_id"]):
            rows = Rows.of([self.state.meaning.linked(row) for row in rows])
        keys = hashed(rows.columns["transaction_id"])
        outcomes, fresh, repeats = self._sorted(rows, keys)
        kept = self._refusals.kept(refused)
        try:
            batch, verdicts, group = self.state.judge(rows.take(fresh), source)
            for i, answer in zip(fresh, verdicts.answers(), strict=True):
                outcomes[i] = Outcome(answer)
            self.state.ids.add(keys[fresh], batch["seq"])
            if kept:
                group["rejected"] = by_column(kept)
            if labels is not None:
                n_labels = len(labels["transaction_id"])
                group["labels"] = labels | {"after_seq": [self.state.next_seq - 1] * n_labels}
            seqs = dict(zip(fresh, batch["seq"].tolist(), strict=True)) if repeats else {}
            for i, (k, before) in repeats.items():
                outcomes[i] = again(rows[i], {**rows[k], "seq": seqs[k]}, outcomes[k], before)
            told = [o for o in outcomes if o is not None]
            if len(fresh) < len(rows) and (states := later_states(rows, told, source)):
                group["states"] = by_column(states)
            if group:
                self.journal.append(group)
            made = (o.verdict["decision"] for o in told if o.verdict and not o.repeat)
            self.decided.update(made)
        except StoreError:  # the journal has it, and takes it before the next
            raise
        except BaseException:  # the state holds what nobody kept
            self.state.forget()
            raise
        return told, (batch, verdicts)

    def _sorted(
        self, rows: Rows, keys: Ints
    ) -> tuple[list[Outcome | None], list[int], dict[int, _Repeated]]:
        """Outcomes of what is there already, the places of what is new, and what repeats that."""
        outcomes: list[Outcome | None] = [None] * len(rows)
        places, older = self.state.ids.find(keys), self.state.ids.older(keys)
        there = self._stored([*places[places >= 0].tolist(), *older[older >= 0].tolist()])
        fresh: list[int] = []
        here: dict[str, _Repeated] = {}
        repeats: dict[int, _Repeated] = {}
        for i, one in enumerate(rows.columns["transaction_id"]):
            first: Mapping[str, Any] | None = None
            verdict, (k, before) = None, here.get(one, (-1, None))
            if k >= 0:
                first = rows[k]
            elif there:
                for at in (int(older[i]), int(places[i])):
                    if at in there and there[at][0]["transaction_id"] == one:
                        before, (kept, verdict) = first, there[at]
                        first = self.state.meaning.linked(kept)
            if first is None or becomes_payment(rows[i], first):
                here[one] = i, first
                fresh.append(i)
            elif k >= 0:
                repeats[i] = k, before
            else:
                outcomes[i] = again(rows[i], first, Outcome(verdict), before)
        return outcomes, fresh, repeats

    def _stored(self, seqs: Sequence[int]) -> dict[int, Row]:
        if not seqs:
            return {}
        self.settled()
        with self.store.reading() as session:
            return stored(session, seqs)

    def _look(self, session: Session) -> Callable[[], object] | None:
        """Notice what others changed: the table writer looks, and `score` follows."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return None
        self._looked = now
        if self.state.day_has_ended:
            self.state.look_back(session)
        self.state.look(session)
        if checkpoint.asked(session):  # who waits for that, even if nothing arrives
            with suppress(RuntimeError):  # it is ending
                self.thread.submit(self._follow_soon)
        return self.state.kept
