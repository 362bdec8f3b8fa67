"""An alert budget that is kept: the champion's threshold follows what the last days brought.

A model trained on a quiet month would give several times its budget for as long as it decides. So
when a day of the transactions' clock has ended, the score above which somebody looks becomes the
one that would have kept the days before it within the budget: by the verdicts that are stored,
bounded, and noted in the table `thresholds`. Decisions are recorded with the verdicts and teach by
that, so a replay needs no threshold to come to the same state.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any, Final

import numpy as np

from aegis_core.detection.counter import CODES
from aegis_core.detection.registry import ModelVersion
from aegis_core.machine import utc_now
from aegis_core.schema import EPOCH
from aegis_core.store.session import Session

LOWEST: Final = 2.0
HIGHEST: Final = 1 / 3
"""The threshold never leaves what the trained model gives to so many times its budget: quiet days
do not make alerts of what is hardly suspicious."""
AS_TRAINED: Final = (0.8, 1.25)
"""While the trained threshold gives this many times the budget, it is kept."""
FEWEST: Final = 20
"""Alerts that the budget allows in the days looked at; of fewer nothing is read."""
A_CUSTOMER: Final = 5
"""Alerts of a customer that count, the highest, so that nobody moves it for all; likewise of a
device, or another entity, in an hour in which too many cards were counted there."""

_SHARED: Final = " ".join(
    f"WHEN '{code}' THEN '{name} ' || t.{name} || ' ' || date_trunc('hour', t.ts)::VARCHAR"
    for name, code in CODES.items()
)
_JUDGED: Final = """
    FROM verdicts v JOIN transactions t USING (seq)
    WHERE v.model_version = $version AND v.score > 0 AND v.score <= 1
      AND t.ts >= $first AND t.ts < $day
      AND v.seq BETWEEN $since AND $until AND t.seq BETWEEN $since AND $until"""
_WHERE: Final = """
    SELECT coalesce(min(seq), 0) AS since, coalesce(max(seq), -1) AS until
    FROM transactions WHERE ts >= $first AND ts < $day"""
_TRAFFIC: Final = f"""
    SELECT coalesce(sum(least(n, $most)), 0)::BIGINT AS n
    FROM (SELECT count(*) AS n {_JUDGED} GROUP BY t.customer_id)"""
_HIGH: Final = f"""
    SELECT score, counted FROM (
      SELECT v.score, t.customer_id,
        coalesce(v.reasons[1].code LIKE '%-LIMIT', false) AS counted,
        CASE v.reasons[1].code {_SHARED} ELSE t.customer_id END AS whose {_JUDGED})
    WHERE counted OR score > $low
    QUALIFY row_number() OVER (PARTITION BY whose ORDER BY score DESC) <= {A_CUSTOMER}
    ORDER BY score DESC"""


def applied(session: Session, model: ModelVersion) -> ModelVersion:
    """The model with the threshold that it decides by now."""
    rows = session.rows(
        "SELECT review_above FROM thresholds WHERE model_version = ? ORDER BY day DESC LIMIT 1",
        [model.version],
    )
    if not rows:
        return model
    above, policy = float(rows[0]["review_above"]), model.policy
    policy = replace(policy, review_above=above, block_above=max(policy.block_above, above))
    return replace(model, policy=policy)


def look_back(
    session: Session, model: ModelVersion, day: int, days: int, first_seq: int | None = None
) -> bool:
    """Note the threshold for a day that has begun; whether there was something to note.

    Parameters
    ----------
    model : with the policy that it was trained with.
    day : the first day that has not ended, in days since 1970, by the transactions' clock.
    days : how many days before it are looked at.
    first_seq : the transaction that it is for first; None: the next that arrives.
    """
    today, policy = (EPOCH + dt.timedelta(days=day)).date(), model.policy
    days_asked = {"first": today - dt.timedelta(days=days), "day": today}
    (known,) = session.rows(
        "SELECT count(*) AS n FROM thresholds WHERE model_version = ? AND day >= ?",
        [model.version, today],
    )
    if known["n"]:
        return False
    (where,) = session.rows(_WHERE, days_asked)  # so that both tables are read there alone
    asked: dict[str, Any] = {"version": model.version, **days_asked, **where}
    # who counts with so many alerts counts with the payments that allow these
    most = A_CUSTOMER / policy.alert_budget
    (judged,) = session.rows(_TRAFFIC, asked | {"most": most})
    budget = policy.alert_budget * judged["n"]
    if budget < FEWEST:
        return False
    trained = policy.review_above
    low = min(trained, model.model.threshold(min(policy.alert_budget * LOWEST, 1.0)))
    high = max(trained, model.model.threshold(policy.alert_budget * HIGHEST))
    found = session.numpy(_HIGH, asked | {"low": low})
    counted = found["counted"].astype(bool)
    scores, n_counted = found["score"][~counted], int(counted.sum())
    alerts = int((scores > trained).sum()) + n_counted
    above = trained
    if not AS_TRAINED[0] <= alerts / budget <= AS_TRAINED[1]:
        room = int(max(budget - n_counted, budget / 2))  # as `Policy.from_budget` shares it
        above = float(np.clip(scores[room] if room < len(scores) else low, low, high))
    session.execute(
        "INSERT INTO thresholds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [today, model.version, session.next_seq() if first_seq is None else first_seq, above,
         trained, judged["n"], alerts, policy.alert_budget, days, utc_now()],
    )  # fmt: skip
    return True
