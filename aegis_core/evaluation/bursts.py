"""How soon bursts and campaigns are noticed, and what that costs those who only look like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.evaluation.splits import Fold, days_tested, typed
from aegis_core.features.arrays import Floats
from aegis_core.metrics import families
from aegis_core.schema import LOOK_ALIKES, Decision

BUSY: Final = ((0.01, "busiest 1 %"), (0.05, "next 4 %"), (0.2, "next 15 %"), (1.0, "other 80 %"))
"""Customers by their number of transactions: cumulative share and name."""
SWARM: Final = 10
"""Frauds of one customer, each within a minute of the last, that make a burst nobody named."""
CAMPAIGN: Final = "testing"
"""The kind of scenario that is one campaign over many customers, told by what its label names."""


def bursts(scores: pd.DataFrame) -> pd.DataFrame:
    """How much of each labelled burst went through before its first alert.

    A burst is a row of frauds of the scenario `burst` of one customer without a pause longer than
    an hour; where no fraud is named so, at least `SWARM` frauds of a customer, each within a minute
    of the last.

    `scores` are those of an `Evaluation`; `counted` says where the exact counter alone alerted.

    Returns
    -------
    DataFrame with a row a burst: `fold`, `customer_id`, `start`, `transactions`, `let_through`
    (before the first alert) and `seconds` (from the first transaction to the first alert), both
    `<NA>` if there was none; `counter_let_through`, `counter_seconds` (the same of the counter);
    `detected` (by the policy).
    """
    named = scores.is_fraud & families(scores.scenario).eq("burst").fillna(False).astype(bool)
    gap, smallest = "1h", 1
    if not named.any():
        named, gap, smallest = scores.is_fraud, "1min", SWARM
    rows = scores[named].sort_values(["fold", "customer_id", "ts"], kind="stable")
    same = rows[["fold", "customer_id"]].eq(rows[["fold", "customer_id"]].shift()).all(axis=1)
    begins = ~same | (rows.ts.diff() > pd.Timedelta(gap))
    found = []
    for _, part in rows.groupby(begins.cumsum()):
        if len(part) < smallest:
            continue
        first = part.iloc[0]
        seconds = (part.ts - first.ts).dt.total_seconds().to_numpy()
        policy = _first((part.decision != Decision.APPROVE).to_numpy(), seconds)
        counter = _first(part["counted"].to_numpy(), seconds)
        found.append((first.fold, first.customer_id, first.ts, len(part), *policy, *counter))
    kinds: dict[str, Any] = {"fold": int, "customer_id": "str", "start": "datetime64[us]"}
    kinds |= {"transactions": int, "let_through": "Int64", "seconds": "Float64"}
    kinds |= {"counter_let_through": "Int64", "counter_seconds": "Float64"}
    out = typed(found, kinds).assign(detected=lambda t: t.let_through.notna().astype(bool))
    return out.sort_values(["fold", "start"], kind="stable", ignore_index=True)


def _first(alert: npt.NDArray[np.bool_], seconds: Floats) -> tuple[int | None, float | None]:
    """Rows before the first alert, and the seconds until it; None without one."""
    if not alert.any():
        return None, None
    at = int(alert.argmax())
    return at, float(seconds[at])


def burst_summary(table: pd.DataFrame) -> str:
    """`bursts` in words; a burst that was never detected counts as let through as a whole."""
    if table.empty:
        return "There is no burst among the labelled frauds of the test windows."
    told = []
    for name, prefix in (("the policy", ""), ("the exact counter alone", "counter_")):
        through, seconds = table[f"{prefix}let_through"], table[f"{prefix}seconds"].dropna()
        whole = through.fillna(table.transactions).to_numpy(float)
        sentence = (
            f"{name} detected {through.notna().sum()} of {len(table)} bursts "
            f"({through.notna().mean():.0%}) and let {np.median(whole):.0f} transactions through "
            f"before its first alert (median; {_ninth(whole):.0f} at the 90th percentile)"
        )
        if len(seconds):
            quick = seconds.to_numpy(float)
            sentence += (
                f", {np.median(quick):.0f} s after the first one where it did ({_ninth(quick):.0f} "
                "s at the 90th percentile)"
            )
        told.append(sentence)
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def _ninth(values: Floats) -> float:
    return float(np.quantile(values, 0.9, method="higher"))


def campaigns(scores: pd.DataFrame) -> pd.DataFrame:
    """How much of each campaign over many customers went through, and what its look-alikes cost.

    A campaign is what the labels of a fold name as one incident of `CAMPAIGN` (`testing:…`), a
    look-alike what they name as one of `LOOK_ALIKES` and that is no fraud.

    Returns
    -------
    DataFrame with a row an incident: `fold`, `incident`, `kind`, `start`, `transactions`,
    `let_through` (before the first alert), `seconds` (until it), both `<NA>` if there was none;
    `alerted` (share of its transactions), `floor` (the same of all that is in no incident),
    `detected`.
    """
    kind, alert = families(scores.scenario).fillna(""), scores.decision != Decision.APPROVE
    single = scores.scenario.astype("string").str.contains(":").fillna(False).astype(bool)
    chosen = kind.eq(CAMPAIGN) & scores.is_fraud | kind.isin(LOOK_ALIKES) & ~scores.is_fraud
    chosen &= single
    floor = alert[~chosen].groupby(scores.fold[~chosen]).mean()
    rows = scores[chosen].assign(kind=kind[chosen], alert=alert[chosen])
    found = []
    for (fold, incident), part in rows.sort_values("ts", kind="stable").groupby(
        ["fold", "scenario"], observed=True
    ):
        seconds = (part.ts - part.ts.iloc[0]).dt.total_seconds().to_numpy()
        noticed = _first(part["alert"].to_numpy(), seconds)
        what = (fold, incident, part.kind.iloc[0], part.ts.iloc[0], len(part))
        found.append((*what, *noticed, part["alert"].mean(), floor.get(fold, 0.0)))
    kinds: dict[str, Any] = {"fold": int, "incident": "str", "kind": "str"}
    kinds |= {"start": "datetime64[us]", "transactions": int}
    kinds |= {"let_through": "Int64", "seconds": "Float64", "alerted": float, "floor": float}
    out = typed(found, kinds).assign(detected=lambda t: t.let_through.notna().astype(bool))
    return out.sort_values(["fold", "start"], kind="stable", ignore_index=True)


def campaign_summary(table: pd.DataFrame, folds: Sequence[Fold]) -> str:
    """`campaigns` in words; one that was never detected counts as let through as a whole.

    By chance an incident gets as many alerts as all that is in none.
    """
    alike = table.kind.isin(LOOK_ALIKES)
    real, alerts = table[~alike], table[["alerted", "floor"]].mul(table.transactions, axis=0)
    told = "The labels name no campaign over many customers in the test windows."
    if len(real):
        whole = real.let_through.fillna(real.transactions).to_numpy(float)
        share = alerts[~alike].sum() / real.transactions.sum()
        told = (
            f"The policy detected {real.detected.sum()} of {len(real)} campaigns over many "
            f"customers ({real.detected.mean():.0%}), let {np.median(whole):.0f} transactions "
            f"through before its first alert (median; {_ninth(whole):.0f} at the 90th percentile) "
            f"and alerted on {share.alerted:.0%} of them all (by chance {share.floor:.1%})."
        )
    if alike.any():
        a_day = alerts[alike].sum() / days_tested(folds)
        told += (
            f" Within the look-alikes, {alike.sum()} in all, the policy raised "
            f"{a_day.alerted:.2f} false alarms a day (by chance {a_day.floor:.2f})."
        )
    return told


def busy_customers(
    scores: pd.DataFrame, folds: Sequence[Fold], strongest: pd.Series
) -> pd.DataFrame:
    """False alarms on busy but ordinary customers: those without any fraud in a test window.

    `strongest` is the factor with the largest contribution to each alert, indexed by `seq`.

    Returns
    -------
    DataFrame with a row a group of `BUSY`, by transactions in the test window: `group`,
    `customers` (counted once a fold), `transactions`, `transactions_a_day` (of one customer),
    `alerts`, `alert_share` (of the transactions), `burst_alerts`, `burst_alert_share` (those with
    burst as the strongest factor).
    """
    rows = scores[["fold", "customer_id", "is_fraud"]].assign(
        alert=scores.decision != Decision.APPROVE,
        burst=scores.seq.map(strongest).eq("burst").fillna(False).astype(bool),
    )
    by = rows.groupby(["fold", "customer_id"], sort=False, observed=True)
    people = by.agg(
        transactions=("alert", "size"),
        fraud=("is_fraud", "any"),
        alerts=("alert", "sum"),
        burst_alerts=("burst", "sum"),
    ).reset_index()
    people = people[~people.fraud]
    place = people.groupby("fold").transactions.rank(ascending=False, method="first")
    share = place / people.groupby("fold").transactions.transform("size")
    ends, names = [end for end, _ in BUSY], [name for _, name in BUSY]
    people["group"] = np.array(names)[np.searchsorted(ends, share.to_numpy(float))]
    people["days"] = people.fold.map({f.number: days_tested([f]) for f in folds}).astype(float)
    grouped = people.groupby("group")
    out = grouped[["transactions", "alerts", "burst_alerts", "days"]].sum()
    out.insert(0, "customers", grouped.size())
    out = out.reindex([name for name in names if name in out.index]).reset_index()
    out.insert(3, "transactions_a_day", out.transactions / out.pop("days"))
    out.insert(5, "alert_share", out.alerts / out.transactions)
    return out.assign(burst_alert_share=out.burst_alerts / out.transactions)
