"""What came on each day, and what one model says of it: the rows that drift is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection import history, registry
from aegis_core.detection.learner import Learner
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import InputError, NotReady
from aegis_core.features.checkpoint import begin
from aegis_core.runs import lineage
from aegis_core.schema import FACTORS, Decision
from aegis_core.store import Store

DAY = pd.Timedelta(days=1)
LAST = pd.Timedelta(hours=1)
_WINDOW = f"""
    SELECT t.seq, t.ts, t.customer_id, t.merchant_id, t.category, t.amount AS paid,
      {", ".join(f"v.evidence.{f} AS {f}" for f in FACTORS)}, v.score,
      v.decision != 'approve' AS alert, v.replayed_at IS NOT NULL AS again
    FROM transactions t LEFT JOIN verdicts v ON v.seq = t.seq AND v.model_version = ?
    WHERE t.ts >= ? AND t.ts < ? AND t.seq <= ? ORDER BY t.seq
"""
_LATER = "SELECT count(*) FROM transactions WHERE ts >= ? AND seq <= ?"
_TODAY = "SELECT ts::DATE AS day, count(*) AS n, max(ts) AS last FROM transactions GROUP BY 1"


@dataclass(frozen=True)
class Traffic:
    """Transactions of some days, all judged by the same model.

    Attributes
    ----------
    rows :
        In order of arrival: `day` (midnight, UTC), `customer_id`, `merchant_id`, `category`, `paid`
        (the amount), evidence of each factor in nats, `score`, `alert`.
    model : its version.
    replayed : rows that this model did not score live, so that the history was replayed for them.
    over : whether there is traffic in the last hour of the day, or after it.
    saw : all the data that was there when these rows were read; None where nothing was.
    """

    rows: pd.DataFrame
    model: str = ""
    replayed: int = 0
    over: bool = True
    saw: lineage.Seen | None = None

    def told(self) -> str:
        """Where the evidence comes from, in a sentence."""
        n = len(self.rows)
        return (
            f"Evidence of {n:,} transactions by model {self.model}: {n - self.replayed:,} scored "
            f"live, {self.replayed:,} replayed."
        )


def day_of(store: Store, day: str) -> pd.Timestamp:
    """The day asked for, or for "" the newest one that is over.

    A day is over when there is traffic in its last hour. A day with less than a hundredth of the
    usual traffic is not the newest one: a clock that jumped must not choose the day.

    Raises
    ------
    InputError : That is no day.
    NotReady : There are no transactions.
    """
    if day:
        try:
            asked = pd.Timestamp(day)
            if pd.isna(asked) or asked != asked.normalize() or asked.tz is not None:
                raise ValueError
        except ValueError:
            raise InputError(f"day must be a day such as 2026-04-01, not {day!r}.") from None
        return asked
    days = store.query(_TODAY).sort_values("day")
    if days.empty:
        raise NotReady(
            f"There are no transactions in {store.path}. Run `aegis import FILE` or "
            "`aegis run generate` first."
        )
    newest = days[days.n >= days.n.median() / 100].iloc[-1]
    found = pd.Timestamp(newest.day)
    over = pd.Timestamp(newest["last"]) >= found + DAY - LAST
    return found if over or len(days) == 1 else found - DAY


def observe(
    store: Store,
    settings: Settings,
    day: pd.Timestamp,
    weeks: int = 4,
    *,
    model: str = "",
    progress: Callable[[int], object] | None = None,
) -> Traffic:
    """The traffic of `day` and of so many weeks before.

    What the model scored is read from the table `verdicts`. For the rest, which an older model
    scored or nobody did, the history is replayed through the same pass with this model: all days
    are measured with one scale.

    Parameters
    ----------
    model : a registered version; "" means the champion.
    progress : called with the number of transactions replayed since the last call.

    Raises
    ------
    InputError : There is no such model, or `weeks` is out of range.
    NotReady : No model was trained yet, or its files are gone.
    """
    if not 1 <= weeks <= 52:
        raise InputError(f"weeks must lie in [1, 52], not {weeks}.")
    with store.reading() as session:
        version = model or registry.roles(store)[0]
        judge = registry.load(session, version, settings)
        saw = lineage.seen(session)
        window = [version, str(day - weeks * 7 * DAY), str(day + DAY), saw.last_seq]
        rows = session.query(_WINDOW, window)
        later = session.value(_LATER, [str(day + DAY - LAST), saw.last_seq])
        missing = rows.score.isna().to_numpy()
        replayed = missing | rows.pop("again").to_numpy(bool)
        if missing.any():
            last = int(rows.seq[missing].iloc[-1])
            learns = isinstance(judge.model, Learner)
            past = history.transactions(session, "t.seq <= ?", [last])
            events = history.label_events(session) if learns else None
            begun = begin(session, confirmed=learns, stop=last + 1)
    if missing.any():
        scorer = Scorer(judge.model, judge.policy, begun.profiles, begun.confirmed)
        scored = scorer.replay(
            past, events, recorded=history.recorded(past), erased=begun.erased, progress=progress
        )
        at = past.seq.searchsorted(rows.seq[missing])
        rows.loc[missing, list(FACTORS)] = scored.evidence[at]
        rows.loc[missing, "score"] = scored.score[at]
        alert = np.array(rows.alert, dtype=object)
        alert[missing] = scored.decision[at] != Decision.APPROVE
        rows["alert"] = alert
    kinds = dict.fromkeys([*FACTORS, "score", "paid"], float) | {"alert": bool}
    rows = rows.astype(kinds).assign(day=rows.ts.dt.normalize())
    rows = rows.drop(columns=["seq", "ts"])
    return Traffic(rows, version, int(np.sum(replayed)), bool(later), saw)
