"""What other alert budgets would have caught and cost: in test windows and on live verdicts.

Scores that were given are held against other thresholds: nothing is scored again and nothing is
changed. A proposal is a row of the register for those who decide; it decides nothing.
"""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection import following
from aegis_core.detection.counter import NO_ENTITY_LIMITS, NO_LIMITS
from aegis_core.detection.policy import Policy
from aegis_core.detection.registry import champion
from aegis_core.errors import InputError
from aegis_core.evaluation.outcome import LEARNER, Evaluation
from aegis_core.evaluation.splits import calendar, days_tested, typed
from aegis_core.machine import utc_now
from aegis_core.review.answers import NEWEST, named
from aegis_core.schema import NO_TRY, WORTH, held_labels
from aegis_core.store import Store

BUDGETS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05)
"""Alert budgets that are compared, as shares of the transactions."""
DAYS: Final = 7.0
LEVELS: Final = tuple(float(f"{share:.2g}") for share in np.geomspace(0.0005, 0.05, 25))
"""Alert budgets that are tried, as shares of the transactions."""

_SCORED: Final = f"""
    WITH newest AS (SELECT ({NEWEST}) AS ts),
    last AS ({held_labels("(SELECT ts FROM newest)")})
    SELECT v.seq, t.ts, {WORTH} AS amount, v.score, v.model_version, v.decision,
      coalesce(v.reasons[1].code = 'BURST-LIMIT', false) AS counted,
      coalesce(l.is_fraud, false) AS is_fraud
    FROM verdicts v JOIN transactions t USING (seq) LEFT JOIN last l
      ON l.transaction_id = v.transaction_id
    WHERE t.ts > (SELECT ts FROM newest) - to_seconds(? * 86400)
      AND t.ts <= (SELECT ts FROM newest) + INTERVAL 1 DAY  -- not of a clock that jumped
    QUALIFY {NO_TRY}
    ORDER BY v.seq
"""


def alerted(found: Evaluation, detector: str, budget: float) -> npt.NDArray[np.bool_]:
    """Tested rows that a policy of `budget` would have alerted on, fold by fold.

    `detector` is the column of `Evaluation.scores` to judge by, `forest` or the learner; the exact
    counter stands beside the forest alone.
    """
    scores = found.scores
    models = found.learners if detector == LEARNER else found.detectors
    counters = [] if detector == LEARNER else found.counters
    out = np.zeros(len(scores), bool)
    for i, (fold, model) in enumerate(zip(found.folds, models, strict=True)):
        policy = Policy.from_budget(model, budget, counter=counters[i] if counters else None)
        alert = (scores[detector] > policy.review_above).to_numpy()
        if (policy.burst_limits, policy.entity_limits) != (NO_LIMITS, NO_ENTITY_LIMITS):
            alert = alert | scores["counted"].to_numpy(bool)
        out |= alert & (scores.fold == fold.number).to_numpy()
    return out


def costs(found: Evaluation, review_cost: float = 5.0) -> pd.DataFrame:
    """What each alert budget would have caught and cost, all folds together.

    An alert saves the amount of its transaction and costs one review, `review_cost` in the units
    of the amounts, whether it blocks or not; what a fraud that was not alerted took is lost. The
    profiles stay as the policy of the evaluation left them. The budgets are `BUDGETS` and the
    evaluation's own.

    Returns
    -------
    DataFrame with a row a detector and budget: `detector`, `budget`, `alerts_a_day`, `fraud_share`
    (of the alerts), `caught`, `frauds`, `recall`, and a day and in the units of the amounts
    `amount_caught`, `amount_lost`, `review_cost`, `cost` (the last two added).
    """
    scores, n_days = found.scores, days_tested(found.folds)
    fraud, money = scores.is_fraud.to_numpy(bool), scores.amount.to_numpy(float)
    rows, n_frauds = [], int(fraud.sum())
    levels = sorted({*BUDGETS, found.alert_budget}) if len(scores) else []
    for detector in ("forest", LEARNER) if found.learners else ("forest",):
        for budget in levels:
            alert = alerted(found, detector, budget)
            n_alerts, n_caught = int(alert.sum()), int((alert & fraud).sum())
            share = n_caught / n_alerts if n_alerts else None
            recall = n_caught / n_frauds if n_frauds else None
            counts = (n_alerts / n_days, share, n_caught, n_frauds, recall)
            lost, reviews = money[fraud & ~alert].sum() / n_days, review_cost * n_alerts / n_days
            costs = (money[alert & fraud].sum() / n_days, lost, reviews, lost + reviews)
            rows.append((detector, budget, *counts, *costs))
    kinds: dict[str, Any] = {"detector": "str", "budget": float, "alerts_a_day": float}
    kinds |= {"fraud_share": "Float64", "caught": int, "frauds": int, "recall": "Float64"}
    kinds |= dict.fromkeys(("amount_caught", "amount_lost", "review_cost", "cost"), float)
    return typed(rows, kinds)


def figures(table: pd.DataFrame, budget: float) -> dict[tuple[str, str], float | None]:
    """`costs` as `runs.record` takes it: of `budget` itself and of the one that costs least."""
    out: dict[tuple[str, str], float | None] = {}
    for detector, part in table.groupby("detector", sort=False):
        own, best = part[part.budget == budget].iloc[0], part.iloc[int(part.cost.argmin())]
        told = {
            "cost_a_day": float(own.cost),
            "fraud_share": None if pd.isna(own.fraud_share) else float(own.fraud_share),
            "cheapest_budget": float(best.budget),
            "cheapest_cost_a_day": float(best.cost),
        }
        out |= {(name, f"{detector}/policy"): value for name, value in told.items()}
    return out


def cheapest(found: Evaluation, review_cost: float = 5.0) -> str:
    """The budget of least cost in `costs`, beside no alerts at all and a perfect order."""
    table, n_days = costs(found, review_cost), days_tested(found.folds)
    fraud = found.scores.amount.to_numpy(float)[found.scores.is_fraud.to_numpy(bool)]
    if table.empty:
        return "Nothing was tested, so no budget has a cost."
    if not len(fraud):
        return "No fraud is labelled in the test windows, so no budget is worth its reviews."
    unit = f" {found.currency}" if found.currency else ""
    never, perfect = fraud.sum() / n_days, np.minimum(fraud, review_cost).sum() / n_days
    told = []
    for name, part in table.groupby("detector", sort=False):
        best = part.iloc[int(part.cost.argmin())]
        worth = "" if best.cost < never else ", so no alert pays"
        told.append(
            f"the {name} costs least at a budget of {best.budget:.2%}: {best.cost:,.0f}{unit} a "
            f"day ({best.amount_lost:,.0f} lost to fraud, {best.review_cost:,.0f} for "
            f"{best.alerts_a_day:,.1f} reviews){worth}"
        )
    return (
        f"Where a review costs {review_cost:g}{unit}, {'; '.join(told)}. No alerts at all would "
        f"cost {never:,.0f}{unit} a day, a perfect order {perfect:,.0f}{unit}."
    )


def by_day(found: Evaluation) -> pd.DataFrame:
    """Alerts of the forest on each calendar day with each budget; days without traffic are 0.

    Returns
    -------
    DataFrame with a row a budget and day: `budget`, `day`, `right` and `wrong` (alerts on fraud and
    on others), `frauds` (of the day, alerted or not).
    """
    days, at = calendar(found.scores, found.folds)
    fraud = found.scores.is_fraud.to_numpy(bool)
    frauds = np.bincount(at[fraud], minlength=len(days))
    parts = []
    for budget in sorted({*BUDGETS, found.alert_budget}):
        alert = alerted(found, "forest", budget)
        right, wrong = (
            np.bincount(at[rows], minlength=len(days)) for rows in (alert & fraud, alert & ~fraud)
        )
        counts = {"right": right, "wrong": wrong, "frauds": frauds}
        parts.append(pd.DataFrame({"budget": float(budget), "day": days, **counts}))
    return pd.concat(parts, ignore_index=True)


def of_verdicts(store: Store, settings: Settings, *, days: float = DAYS) -> dict[str, Any]:
    """The last days of live verdicts under each budget of `LEVELS`, with the champion's scores.

    Returns
    -------
    dict with `model_version`, `days` (that the verdicts span), `transactions` (scored by the
    champion), `others` (scored by another model, left out), `frauds` (known by now), `actual` (the
    budget of the champion, the threshold that keeps it now, the `alerts` there were, and of them
    the `caught` frauds) and `levels`: rows with `budget`, `review_above` (a score), `alerts`,
    `alerts_a_day`, `caught`, `amount_caught` and `amount_lost` (whole, in the units of the
    amounts). What the exact counter
    of bursts alerted on stays an alert at each level.

    Raises
    ------
    NotReady : There is no champion, or its files are gone.
    """
    model = champion(store, settings)
    with store.reading() as session:
        policy = following.applied(session, model).policy
    found = store.query(_SCORED, [days])
    mine = found[found.model_version == model.version]
    fraud, money = mine.is_fraud.to_numpy(bool), mine.amount.to_numpy(float)

    def outcome(alert: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "alerts": int(alert.sum()),
            "caught": int((alert & fraud).sum()),
            "amount_caught": float(money[alert & fraud].sum()),
            "amount_lost": float(money[~alert & fraud].sum()),
        }

    span = mine.ts.max() - mine.ts.min() + pd.Timedelta(microseconds=1)
    n_days = float(span / pd.Timedelta(days=1)) if len(mine) else 0.0
    levels = []
    for budget in LEVELS if len(mine) else ():
        above = Policy.from_budget(model.model, budget).review_above
        level = outcome((mine.score > above).to_numpy() | mine.counted.to_numpy(bool))
        a_day = {"alerts_a_day": level["alerts"] / n_days}
        levels.append({"budget": budget, "review_above": above, **level, **a_day})
    actual = {
        "budget": policy.alert_budget,
        "review_above": policy.review_above,
        "block_above": policy.block_above if np.isfinite(policy.block_above) else None,
    }
    return {
        "model_version": model.version,
        "days": n_days,
        "transactions": len(mine),
        "others": len(found) - len(mine),
        "frauds": int(fraud.sum()),
        "actual": actual | outcome((mine.decision != "approve").to_numpy(bool)),
        "levels": levels,
    }


def propose(store: Store, alert_budget: float, *, analyst: str, note: str = "") -> str:
    """Record a budget that is proposed to those who decide; its id. Nothing else changes.

    Raises
    ------
    InputError : Nobody says who proposes, or the budget is no share in (0, 1).
    """
    name = named(analyst)
    if isinstance(alert_budget, bool) or not 0 < alert_budget < 1:
        raise InputError(f"alert_budget is a share in (0, 1), not {alert_budget!r}.")
    row = {
        "proposal_id": uuid4().hex[:8],
        "proposed_at": utc_now(),
        "who": name,
        "kind": "policy",
        "content": json.dumps({"alert_budget": alert_budget}),
        "note": note or None,
    }
    with store.writing() as session:
        session.append("proposals", pd.DataFrame([row]))
    return str(row["proposal_id"])
