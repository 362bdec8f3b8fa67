"""What another alert budget would have done with the last days, and proposals of one.

The scores that were given live are held against other thresholds: nothing is scored again and
nothing is changed. A proposal is a row of the register for those who decide; it decides nothing.
"""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection.policy import Policy
from aegis_core.detection.registry import champion
from aegis_core.errors import InputError
from aegis_core.evaluation.hindsight import budgets
from aegis_core.evaluation.splits import Fold
from aegis_core.review.answers import NEWEST, named, utc_now
from aegis_core.store import Store

DAYS: Final = 7.0
LEVELS: Final = tuple(float(f"{share:.2g}") for share in np.geomspace(0.0005, 0.05, 25))
"""Alert budgets that are tried, as shares of the transactions."""

_SCORED: Final = f"""
    WITH newest AS (SELECT ({NEWEST}) AS ts),
    last AS (
      SELECT transaction_id, arg_max(is_fraud, rowid) AS is_fraud FROM labels
      WHERE known_at <= (SELECT ts FROM newest) GROUP BY 1)
    SELECT v.seq, t.ts, t.amount, v.score, v.model_version, v.decision,
      coalesce(v.reasons[1].code = 'BURST-LIMIT', false) AS counted,
      coalesce(l.is_fraud, false) AS is_fraud
    FROM verdicts v JOIN transactions t USING (seq) LEFT JOIN last l
      ON l.transaction_id = v.transaction_id
    WHERE t.ts > (SELECT ts FROM newest) - to_seconds(? * 86400)
      AND t.ts <= (SELECT ts FROM newest) + INTERVAL 1 DAY  -- not of a clock that jumped
    ORDER BY v.seq
"""


def what_if(store: Store, settings: Settings, *, days: float = DAYS) -> dict[str, Any]:
    """The last days of live verdicts under each budget of `LEVELS`, with the champion's scores.

    Returns
    -------
    dict with `model_version`, `days` (that the verdicts span), `transactions` (scored by the
    champion), `others` (scored by another model, left out), `frauds` (known by now), `actual` (the
    budget and threshold of the champion, the `alerts` there were, and of them the `caught` frauds)
    and `levels`: rows with `budget`, `review_above` (a score), `alerts`, `alerts_a_day`, `caught`,
    `amount_caught` and `amount_lost` (whole, in the units of the amounts). What the exact counter
    of bursts alerted on stays an alert at each level.

    Raises
    ------
    NotReady
        There is no champion, or its files are gone.
    """
    model = champion(store, settings)
    found = store.query(_SCORED, [days])
    mine = found[found.model_version == model.version].reset_index(drop=True)
    alert = (mine.decision != "approve").to_numpy(bool)
    fraud, money = mine.is_fraud.to_numpy(bool), mine.amount.to_numpy(float)
    told: dict[str, Any] = {
        "model_version": model.version,
        "days": 0.0,
        "transactions": len(mine),
        "others": len(found) - len(mine),
        "frauds": int(fraud.sum()),
        "actual": {
            "budget": model.policy.alert_budget,
            "review_above": model.policy.review_above,
            "block_above": _finite(model.policy.block_above),
            "alerts": int(alert.sum()),
            "caught": int((alert & fraud).sum()),
            "amount_caught": float(money[alert & fraud].sum()),
            "amount_lost": float(money[~alert & fraud].sum()),
        },
        "levels": [],
    }
    if mine.empty:
        return told
    start, stop = mine.ts.min(), mine.ts.max() + pd.Timedelta(microseconds=1)
    fold = Fold(0, start, start, start, stop)
    n_days = (stop - start) / pd.Timedelta(days=1)
    # The counter's alerts are above every threshold: it would have counted all the same.
    scores = mine.assign(fold=0, live=mine.score.where(~mine.counted, np.inf))
    table = budgets(scores, {"live": ([model.model], [])}, [fold], LEVELS, 0.0)
    told["days"] = float(n_days)
    told["levels"] = [
        {
            "budget": float(row["budget"]),
            "review_above": Policy.from_budget(model.model, float(row["budget"])).review_above,
            "alerts": round(row["alerts_a_day"] * n_days),
            "alerts_a_day": float(row["alerts_a_day"]),
            "caught": int(row["caught"]),
            "amount_caught": float(row["amount_caught"] * n_days),
            "amount_lost": float(row["amount_lost"] * n_days),
        }
        for row in table.to_dict("records")
    ]
    return told


def propose(
    store: Store, kind: str, content: dict[str, Any], *, who: str, note: str = ""
) -> str:  # fmt: skip
    """Record a proposal for those who decide; its id. Nothing else changes.

    Parameters
    ----------
    kind : what is proposed, such as `policy`.
    content : its numbers, kept as JSON.

    Raises
    ------
    InputError
        Nobody says who proposes, or the budget of a policy is no share in (0, 1).
    """
    name = named(who)
    if kind != "policy":
        raise InputError(f"{kind!r} cannot be proposed; what can be is policy.")
    budget = content.get("alert_budget")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < 1:
        raise InputError(f"alert_budget is a share in (0, 1), not {budget!r}.")
    row = {
        **{"proposal_id": uuid4().hex[:8], "proposed_at": utc_now(), "who": name, "kind": kind},
        **{"content": json.dumps(content), "note": note or None},
    }
    with store.writing() as session:
        session.append("proposals", pd.DataFrame([row]))
    return str(row["proposal_id"])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
