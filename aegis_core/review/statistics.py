"""How the queue does: its age, answers a day, how right alerts are, how analysts agree."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from aegis_core.machine import utc_now
from aegis_core.review.answers import STANDING
from aegis_core.review.cases import QUEUE, Queue
from aegis_core.store import Store
from aegis_core.store.session import Session

PRECISION_OF: Final = 200
"""Alerts that the precision is taken from, those that were answered last."""


def statistics(source: Store | Session, *, now: dt.datetime | None = None) -> dict[str, Any]:
    """How the queue does.

    Returns
    -------
    dict with `n_open` (cases), `oldest_s` and `median_s` (their age in seconds since scoring, None
    without any), `answered_today` and `answered_a_day` (answers that stand, mean of the last seven
    days, today among them), `agreement` (of the audit transactions that two analysts answered, how
    many got the same answer) and `precision` (of the last `PRECISION_OF` alerts that were answered,
    how many were fraud), both as `share`, `low`, `high` (an interval at 0.9; None if none), `n`.
    """
    from aegis_core.metrics import share_of

    moment = now or utc_now()
    midnight = dt.datetime.combine(moment, dt.time())
    (ages,) = source.rows(
        f"SELECT count(*) AS n, max(age) AS oldest, median(age) AS median FROM (SELECT "
        f"greatest(0.0, epoch($now) - epoch(oldest)) AS age FROM ({QUEUE}) WHERE NOT asleep)",
        {"analyst": "", "now": moment},
    )
    (answered,) = source.rows(
        f"""SELECT count(*) FILTER (answered_at >= $midnight) AS today,
          count(*) FILTER (answered_at >= $midnight - INTERVAL 6 DAY) AS week
        FROM ({STANDING})""",
        {"midnight": midnight},
    )
    (agreed,) = source.rows(
        f"""WITH last AS (
          SELECT transaction_id, analyst, arg_max(answer, answered_at) AS answer
          FROM ({STANDING}) GROUP BY ALL)
        SELECT count(*) AS n, count(*) FILTER (same) AS same FROM (
          SELECT count(DISTINCT answer) = 1 AS same FROM last JOIN verdicts v USING (transaction_id)
          WHERE v.inclusion < 1 GROUP BY transaction_id HAVING count(*) > 1)"""
    )
    (right,) = source.rows(
        f"""SELECT count(*) AS n, count(*) FILTER (answer = 'fraud') AS frauds FROM (
          SELECT arg_max(s.answer, s.answered_at) AS answer
          FROM ({STANDING}) s JOIN verdicts v USING (transaction_id) WHERE v.inclusion = 1
          GROUP BY transaction_id ORDER BY max(s.answered_at) DESC, 1 LIMIT {PRECISION_OF})"""
    )

    def share(k: int, n: int) -> dict[str, Any]:
        found = share_of(k, n)
        return {"share": found.value, "low": found.low, "high": found.high, "n": n}

    return {
        "n_open": ages["n"],
        "oldest_s": ages["oldest"],
        "median_s": ages["median"],
        "answered_today": answered["today"],
        "answered_a_day": answered["week"] / 7,
        "agreement": share(agreed["same"], agreed["n"]),
        "precision": share(right["frauds"], right["n"]),
    }


def spoken(found: Queue, numbers: Mapping[str, Any]) -> list[str]:
    r"""The queue and its statistics in sentences; what is not known is said.

    >>> nothing = {"share": None, "low": None, "high": None, "n": 0}
    >>> numbers = {"oldest_s": None, "answered_today": 0, "answered_a_day": 0.0}
    >>> print(*spoken(Queue([], 0, 0, 0), numbers | dict.fromkeys(
    ...     ("agreement", "precision"), nothing)), sep="\n")
    No case is open.
    0 answers today, 0.0 a day over the last week.
    No alert was answered yet, so their precision is not known.
    No transaction of the audit sample was answered by two analysts yet.
    """

    def share(name: str, of: str, none: str) -> str:
        s = numbers[name]
        if s["share"] is None:
            return none
        return (
            f"{s['share']:.0%} {of} ({s['low']:.0%} to {s['high']:.0%} at nine in ten; {s['n']})."
        )

    first = "No case is open."
    if found.n_open:
        hours = (numbers["oldest_s"] or 0.0) / 3_600
        first = (
            f"{found.n_open:,} cases are open, the oldest for {hours:,.1f} h; "
            f"{found.n_claimed:,} are being worked on."
        )
    return [
        first,
        f"{numbers['answered_today']:,} answers today, {numbers['answered_a_day']:,.1f} a day over "
        "the last week.",
        share(
            "precision", "of the last answers about alerts were fraud",
            "No alert was answered yet, so their precision is not known.",
        ),
        share(
            "agreement", "of the audit sample got the same answer from two analysts",
            "No transaction of the audit sample was answered by two analysts yet.",
        ),
    ]  # fmt: skip
