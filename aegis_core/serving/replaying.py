"""Own weeks judged as if the champion had been there: `aegis score`.

What an import brought has no verdict. Here the history goes through the pass once more, and from a
moment on the champion decides what nobody decided: by its threshold that follows the budget day by
day, by today's lists, and what it blocks teaches nothing, all as live. Such a verdict says when it
was replayed (`verdicts.replayed_at`), and its `scored_at` is the time of the payment.

A payment before one that was judged live had taught what that was judged by, whatever is said of it
now: its verdict stands `aside` of the pass, so that the live ones still replay bit for bit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aegis_core.config import Settings
from aegis_core.detection import following
from aegis_core.detection.history import label_events, transactions
from aegis_core.detection.learner import Learner
from aegis_core.detection.registry import ModelVersion, load, roles
from aegis_core.detection.scoring import DECIDED_NOW, Scorer
from aegis_core.detection.verdicts import VERDICTS
from aegis_core.errors import InputError, StoreBusy
from aegis_core.features import checkpoint
from aegis_core.features.arrays import Ints
from aegis_core.machine import utc_now
from aegis_core.review import lists
from aegis_core.review.answers import NEWEST
from aegis_core.schema import AGAIN, DAY_US, Decision
from aegis_core.serving import snapshot
from aegis_core.serving.rows import Lately, Rows
from aegis_core.store import Store, audit, rollups
from aegis_core.store.journal import as_table
from aegis_core.store.session import Session

_ROWS: Final = 50_000
"""As many at once, at most; else a day."""
_WHAT: Final = """
    SELECT count(*) AS n_all, count(*) FILTER (NOT judged) AS n,
      min(seq) FILTER (NOT judged) AS first,
      count(*) FILTER (NOT judged AND ts < trained_to) AS n_seen,
      any_value(trained_to) AS trained_to,
      (SELECT coalesce(max(seq), -1) FROM verdicts WHERE replayed_at IS NULL) AS live
    FROM (SELECT seq, ts, seq IN (SELECT seq FROM verdicts) AS judged FROM transactions),
      (SELECT max(trained_to) AS trained_to FROM models WHERE version = $version)
    WHERE ts >= $since"""
_WORTH: Final = """
    UPDATE transactions SET base_amount = worth.base_amount FROM worth
    WHERE transactions.seq = worth.seq AND transactions.base_currency IS NOT NULL
      AND transactions.base_amount IS NULL"""


@dataclass(frozen=True)
class Replayed:
    """What a replay judged.

    Attributes
    ----------
    since : the moment from which on payments got a verdict.
    decisions : how many of each, by the words of `schema.Decision`.
    n_seen, trained_to : how many lie before the end of the champion's training, and when that was.
    n_aside : how many stand before a payment that was judged live.
    """

    since: dt.datetime
    model: str
    decisions: dict[str, int]
    n_seen: int = 0
    trained_to: dt.datetime | None = None
    n_aside: int = 0

    def lines(self) -> Iterator[str]:
        """The result in words."""
        n, since = sum(self.decisions.values()), f"{self.since:%Y-%m-%d %H:%M} UTC"
        if not n:
            yield f"Every payment since {since} has a verdict; nothing was changed."
            return
        review, block = (self.decisions[d.label] for d in (Decision.REVIEW, Decision.BLOCK))
        yield (
            f"Replayed {n:,} payments since {since} through {self.model}: {review:,} to review, "
            f"{block:,} blocked. They are marked as replayed."
        )
        if self.n_seen:
            yield (
                f"{self.n_seen:,} of them are from before the model's training ended "
                f"({self.trained_to:%Y-%m-%d}): it had seen these weeks, or later ones."
            )
        if self.n_aside:
            yield (
                f"{self.n_aside:,} of them came before payments that were judged live; "
                "their verdicts stand aside and teach nothing, so that the live ones replay."
            )


def score_past(
    store: Store,
    settings: Settings,
    since: float | dt.datetime,
    *,
    who: str,
    tell: Callable[[float], object] = lambda share: None,
) -> Replayed:
    """Give verdicts to the payments since a moment that have none, in one transaction.

    Parameters
    ----------
    since : a time in UTC, or so many days before the newest payments.
    tell : called with the share done, in [0, 1].

    Raises
    ------
    InputError : Nothing arrived since then.
    NotReady : There is no champion, or no database.
    StoreBusy : A service owns the database: what it has learnt would be another history's.
    """
    if store.owned_by_any:
        raise StoreBusy(
            f"A service owns {store.path} and holds what it has learnt in memory. End it, run "
            "`aegis score` again, then start it anew."
        )
    version = roles(store)[0]
    with store.owned(wait_s=store.wait_s), store.changing() as session:
        return _Replay(session, settings, version, tell).done(store, since, who)


class _Replay:
    """The pass over a history, in one session, with the champion from a moment on."""

    def __init__(
        self, session: Session, settings: Settings, version: str, tell: Callable[[float], object]
    ) -> None:
        self.session, self.settings, self.tell = session, settings, tell
        self.trained = load(session, version, settings)
        learns = isinstance(self.trained.model, Learner)
        self.begun = checkpoint.begin(session, confirmed=learns)
        self.events = label_events(session) if learns else None
        self.scorer = Scorer(profiles=self.begun.profiles, confirmed=self.begun.confirmed)
        self.entries, self.lately = lists.current(session), Lately()
        self.looked_back, self.told_to, self.n_done, self.n_rows = -1, -1, 0, 1
        self.now = utc_now()
        self.decisions = {d.label: 0 for d in Decision}

    def done(self, store: Store, since: float | dt.datetime, who: str) -> Replayed:
        session, moment = self.session, self._moment(since)
        version = self.trained.version
        (what,) = session.rows(_WHAT, {"since": moment, "version": version})
        if not what["n_all"]:
            raise InputError(f"No payment is of {moment:%Y-%m-%d %H:%M} UTC or later.")
        result = Replayed(moment, version, self.decisions)
        if not what["n"]:
            return result
        first, live = what["first"], what["live"]
        self.n_rows = session.next_seq() - self.begun.cut
        snapshot.remove(store.path)  # before it is committed: no snapshot may be of another history
        checkpoint.note_replay(session, first)
        before = transactions(session, "t.seq < ?", [first])
        self._passed(before, before["decision"].to_numpy(np.int8), first)
        frame = transactions(session, "t.seq >= ?", [first])
        there = session.numpy("SELECT seq FROM verdicts WHERE seq >= ?", [first])["seq"]
        judged = frame["seq"].isin(there).to_numpy()
        wanted, aside = (
            (frame["ts"] >= moment).to_numpy() & ~judged,
            (frame["seq"] <= live).to_numpy(),
        )
        recorded = frame["decision"].to_numpy(np.int8).copy()
        recorded[wanted & ~aside] = DECIDED_NOW
        self.scorer = Scorer(
            self.trained.model, self.trained.policy, self.scorer.profiles, self.scorer.confirmed
        )
        for part in _parts(frame):
            stop = (
                int(frame["seq"].iloc[part.stop]) if part.stop < len(frame) else session.next_seq()
            )
            self._judge(frame[part], recorded[part], wanted[part], aside[part], stop)
        for low, high in _unbroken(frame["seq"].to_numpy(), wanted, judged):
            rollups.add(session, low, high)
        told = {
            "since": moment, "transactions": what["n"], "first_seq": first, "decisions":
            self.decisions, "aside": int((wanted & aside).sum()),
            "data_hash": store.data_hash("seq < ?", [session.next_seq()]),
        }  # fmt: skip
        audit.record(session, who, "replay", version, told)
        return replace(
            result, n_seen=what["n_seen"], trained_to=what["trained_to"], n_aside=told["aside"]
        )

    def _moment(self, since: float | dt.datetime) -> dt.datetime:
        if isinstance(since, dt.datetime):
            return since
        newest = self.session.value(f"SELECT ({NEWEST})")
        if newest is None:
            raise InputError("There are no payments; `aegis import FILE` reads some.")
        moment: dt.datetime = newest - dt.timedelta(days=since)
        return moment

    def _passed(self, frame: pd.DataFrame, recorded: np.ndarray, stop: int, **more: Any) -> Any:
        """Take the rows before transaction `stop` through the pass."""
        erased = self.begun.erased.within(self.told_to + 1, stop)
        labels = None if self.events is None else _arriving(self.events, self.told_to, stop - 1)
        self.told_to = stop - 1

        def progress(n: int) -> None:
            self.n_done += n
            self.tell(min(1.0, self.n_done / self.n_rows))

        return self.scorer.replay(
            frame, labels, recorded=recorded, erased=erased, progress=progress, **more
        )

    def _judge(
        self, frame: pd.DataFrame, recorded: np.ndarray, wanted: np.ndarray, aside: np.ndarray,
        stop: int,
    ) -> None:  # fmt: skip
        """Take some rows through the pass, and keep verdicts on those that are `wanted`."""
        model = self._by_now(int(frame["seq"].iloc[0]))
        self.scorer.policy = model.policy
        rulings, listed = lists.rulings(self.entries, frame) if self.entries else (None, None)
        scored = self._passed(frame, recorded, stop, rulings=rulings, signals=True, explain=True)
        names = ["transaction_id", "ts", *AGAIN]
        plain = frame[names].assign(ts=frame["ts"].astype("int64")).astype(object)
        plain = plain.where(plain.notna(), None)
        again = self.lately.again(Rows({name: plain[name].tolist() for name in names}))
        verdicts = self.scorer.verdicts_of(frame, scored, model.version, listed, again)
        if not wanted.any():
            return
        table = as_table([verdicts.columns()], VERDICTS).filter(pa.array(wanted))
        times = pa.array(frame["ts"][wanted].to_numpy("datetime64[us]"))
        times = pc.min_element_wise(times, pa.scalar(self.now, pa.timestamp("us")))
        table = table.set_column(table.schema.get_field_index("scored_at"), "scored_at", times)
        table = table.append_column("replayed_at", pa.array([self.now] * len(table), times.type))
        table = table.append_column("aside", pa.array(aside[wanted]))
        self.session.append("verdicts", table)
        worth = self.scorer.profiles.worth(scored.amount[wanted])
        named = pa.table({"seq": table["seq"], "base_amount": pa.array(worth, from_pandas=True)})
        with self.session.lent("worth", named):
            self.session.execute(_WORTH)
        for decision in Decision:
            self.decisions[decision.label] += int((scored.decision[wanted] == decision).sum())

    def _by_now(self, seq: int) -> ModelVersion:
        """The champion with the threshold of the day in which transaction `seq` comes."""
        day, days = self.scorer.profiles.day, self.settings.budget_follows_days
        if days and day > self.looked_back:
            self.looked_back = day
            following.look_back(self.session, self.trained, day, days, seq)
        return following.applied(self.session, self.trained)


def _parts(frame: pd.DataFrame) -> Iterator[slice]:
    """Slices that end with the first row of a day: the pass then knows that another is over."""
    days = np.maximum.accumulate(frame["ts"].to_numpy("datetime64[us]").astype(np.int64) // DAY_US)
    ends = {*(np.flatnonzero(np.diff(days)) + 2), *range(_ROWS, len(frame), _ROWS), len(frame)}
    start = 0
    for end in sorted(int(end) for end in ends):
        yield slice(start, end)
        start = end


def _arriving(events: pd.DataFrame, low: int, high: int) -> pd.DataFrame:
    """Labels that arrived after transaction `low` and before the one after `high`.

    With the `earlier` ones of their transactions, as `history.label_events`.
    """
    told = events["earlier"].to_numpy(bool) | (events["after_seq"] < low).to_numpy()
    here = (events["after_seq"] < high).to_numpy()
    about = events["transaction_id"].isin(events["transaction_id"][here & ~told]).to_numpy()
    return events.assign(earlier=told)[here & about]


def _unbroken(seq: Ints, wanted: np.ndarray, judged: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last of the wanted in each stretch without a verdict that was there before."""
    stretch = np.cumsum(judged)[wanted]
    for part in np.split(seq[wanted], np.flatnonzero(np.diff(stretch)) + 1):
        yield int(part[0]), int(part[-1])
