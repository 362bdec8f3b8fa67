"""Retention: old transactions and verdicts go, what they taught stays.

The history is cut in the order of arrival, so that what is left is a history like any other: see
`checkpoint`. The cut is just before the first transaction that is young enough, so nothing younger
is ever deleted; older ones that arrived after it stay until a later cut passes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aegis_core.detection.history import label_events, recorded, transactions
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import InputError, StoreBusy
from aegis_core.features import checkpoint
from aegis_core.features.confirmed import Confirmed
from aegis_core.machine import utc_now
from aegis_core.store import Store, audit
from aegis_core.store.session import Session

LEAST_DAYS: Final = 90.0
"""Younger transactions are needed: training windows, label delays, what customers did lately."""
BY_SEQ: Final = ("transactions", "verdicts", "shadow_scores", "states")


@dataclass(frozen=True)
class Plan:
    """What would be forgotten.

    Attributes
    ----------
    cutoff : everything younger stays (UTC).
    cut : `seq` of the first transaction that stays.
    rows : how many would go, by table.
    first, last : times of the transactions that would go; None where none would.
    later : older transactions that arrived after the cut, and stay.
    """

    cutoff: datetime
    cut: int
    rows: dict[str, int]
    first: datetime | None
    last: datetime | None
    later: int

    @property
    def nothing(self) -> bool:
        """Whether nothing would go."""
        return not any(self.rows.values())

    def sentence(self) -> str:
        """The plan in words."""
        later = f" {self.later:,} older ones arrived later and stay until the cut passes them."
        stay = later if self.later else ""
        if self.nothing:
            return f"Nothing arrived before {self.cutoff:%Y-%m-%d %H:%M} UTC.{stay}"
        gone = ", ".join(f"{n:,} {table}" for table, n in self.rows.items() if n)
        return f"Older than {self.cutoff:%Y-%m-%d %H:%M} UTC: {gone}.{stay}"


def plan(store: Store, age_days: float) -> Plan:
    """What is older than `age_days`, counted back from the newest transactions.

    Their clock is the median of the newest hundred, or this machine's where that is earlier: one
    clock that jumped ahead deletes nothing.

    Raises
    ------
    InputError : The age is below `LEAST_DAYS`.
    """
    if age_days < LEAST_DAYS:
        raise InputError(
            f"Transactions of the last {LEAST_DAYS:g} days are needed for training and to know the "
            f"customers; give --older-than {LEAST_DAYS:g}d or more, not {age_days:g}d."
        )
    with store.snapshot() as session:
        (newest,) = session.rows(
            "SELECT quantile_disc(ts, 0.5) AS ts FROM (FROM transactions ORDER BY seq DESC "
            "LIMIT 100)"
        )
        wall = utc_now()
        clock = min(wall, newest["ts"] or wall)
        cutoff = clock - timedelta(days=age_days)
        (young,) = session.rows(
            "SELECT coalesce(min(seq), 0) AS cut FROM transactions WHERE ts BETWEEN ? AND ?",
            [cutoff, clock + timedelta(days=1)],
        )
        times = {"cut": young["cut"], "cutoff": cutoff}
        rows = _counted(session, **times)
        (old,) = session.rows(
            "SELECT min(ts) FILTER (seq < $cut) AS first, max(ts) FILTER (seq < $cut) AS last, "
            "count(*) FILTER (seq >= $cut AND ts < $cutoff) AS later FROM transactions",
            times,
        )
    return Plan(cutoff, young["cut"], rows, **old)


def forget(
    store: Store, planned: Plan, *, who: str, tell: Callable[[float], object] = lambda share: None
) -> str:
    """Delete what was planned, in one transaction with the state that it leaves; what was done.

    Labels, reviews, models, runs and the audit stay. A service may run: what it knows it keeps.
    `tell` is called with the share done, in [0, 1].

    Raises
    ------
    StoreBusy : Somebody else forgot meanwhile.
    StoreError : The disk is full; nothing was deleted.
    """
    cut = planned.cut
    with store.snapshot() as session:
        begun = checkpoint.begin(session, confirmed=True, stop=cut)
        if cut < begun.cut:
            raise StoreBusy("Somebody else forgot more than this meanwhile; ask again.")
        frame = transactions(session, "t.seq < ?", [cut])
        events = label_events(session)
    confirmed = begun.confirmed or Confirmed()
    scorer = Scorer(profiles=begun.profiles, confirmed=confirmed)
    done = 0

    def progress(n: int) -> None:
        nonlocal done
        done += n
        tell(0.8 * done / max(1, len(frame)))

    known = events[(events["after_seq"] < cut).to_numpy()]
    scorer.replay(frame, known, recorded=recorded(frame), erased=begun.erased, progress=progress)
    with store.changing() as session:
        if checkpoint.cut(session) != begun.cut:
            raise StoreBusy("Somebody else forgot meanwhile; ask again.")
        gone = _counted(session, cut, planned.cutoff)
        _keep_for_labels(session, cut)
        what = store.data_hash("seq < ?", [cut])
        checkpoint.save(session, cut, scorer.profiles, confirmed)
        for table in BY_SEQ:
            session.execute(f"DELETE FROM {table} WHERE seq < {cut}")
        session.execute("DELETE FROM rejected WHERE received_at < ?", [planned.cutoff])
        about = {"cut": cut, "rows": gone, "first": planned.first, "last": planned.last}
        subject = f"before {planned.cutoff:%Y-%m-%d %H:%M}"
        audit.record(session, who, "forget", subject, about | {"data_hash": what})
    tell(1.0)
    told_of = ", ".join(f"{n:,} {table}" for table, n in gone.items() if n)
    return f"Deleted {told_of}. `aegis compact` gives the space back."


def _keep_for_labels(session: Session, cut: int) -> None:
    """Keep what labels that arrived later need to know of what is about to go."""
    # without a place it counts as the newest (`label_events`) until the service gives it one
    later = f"(SELECT transaction_id FROM labels WHERE after_seq IS NULL OR after_seq >= {cut})"
    session.execute(f"DELETE FROM remains WHERE transaction_id NOT IN {later}")
    session.execute(
        "INSERT INTO remains SELECT transaction_id, customer_id, merchant_id, ts "
        f"FROM transactions WHERE seq < {cut} AND transaction_id IN {later}"
    )


def _counted(session: Session, cut: int, cutoff: datetime) -> dict[str, int]:
    """How many rows of each table a cut takes."""
    counts = [f"(SELECT count(*) FROM {t} WHERE seq < $cut) AS {t}" for t in BY_SEQ]
    counts.append("(SELECT count(*) FROM rejected WHERE received_at < $cutoff) AS rejected")
    (found,) = session.rows(f"SELECT {', '.join(counts)}", {"cut": cut, "cutoff": cutoff})
    return found
