"""Single transactions of an evaluation: why they were alerts, and what came before them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.detection.detector import Detector
from aegis_core.detection.reasons import paid, reasons
from aegis_core.detection.scoring import Scored
from aegis_core.evaluation.splits import typed
from aegis_core.features.signals import FACTS, SIGNALS
from aegis_core.metrics import families
from aegis_core.schema import TOLD_FACTORS, Decision

PLANTED: Final = {"spike": "amount", "travel": "travel", "night": "hour", "burst": "burst"}
"""Scenarios that plant a factor, and which."""
UNUSUAL_NATS: Final = 3.0
"""Evidence below which a missed fraud showed nothing unusual: one transaction of twenty has it."""
MOST_POINTS: Final = 300
"""Transactions told of one history."""

_CONTRIBUTIONS, _SPREAD, _FACTS = (
    [f"{kind}:{name}" for name in names]
    for kind, names in (("contribution", TOLD_FACTORS), ("evidence", SIGNALS), ("fact", FACTS))
)
_NUMBERS = [*_CONTRIBUTIONS, *_SPREAD, *_FACTS]


def evidence(
    rows: pd.DataFrame, scored: Scored, detector: Detector, keep: npt.NDArray[np.bool_]
) -> pd.DataFrame:
    """What the reasons of the rows to `keep` are told from, indexed by `seq`.

    Returns
    -------
    DataFrame with `paid` (`policy.Paid`) and, of the pass with `explain`, columns
    `contribution:<factor>`,
    `evidence:<signal>` and `fact:<fact>`.
    """
    kept = rows[keep]
    numbers = np.column_stack(
        [scored.contributions[keep], detector.spread(scored.signals[keep]), scored.facts[keep]]
    )
    out = pd.DataFrame(numbers, columns=_NUMBERS)
    out.insert(0, "paid", pd.Series(paid(rows, scored.amount, np.flatnonzero(keep)), dtype=object))
    return out.set_index(pd.Index(kept["seq"].to_numpy(np.int64), name="seq"))


def no_evidence() -> pd.DataFrame:
    """`evidence` of no rows."""
    kinds = {"paid": "object", **dict.fromkeys(_NUMBERS, float)}
    return typed([], kinds).set_index(pd.Index([], dtype=np.int64, name="seq"))


def strongest(told: pd.DataFrame) -> pd.Series:
    """The factor with the largest contribution, indexed as `evidence` is."""
    best = told[_CONTRIBUTIONS].to_numpy(float)
    at = best.argmax(axis=1) if len(best) else np.zeros(0, np.int64)
    return pd.Series(np.array(TOLD_FACTORS)[at], index=told.index, dtype="str")


def _one_a_customer(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row of every customer, then their second ones, and so on."""
    turn = rows.groupby("customer_id").cumcount()
    return rows.loc[turn.sort_values(kind="stable").index]


def drawn(scores: pd.DataFrame, told: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """`n` frauds that were caught, `n` that were missed and `n` false alarms, by chance.

    A second one of a customer is drawn only where there are fewer than `n` customers.

    Returns
    -------
    DataFrame with `outcome` (`caught`, `missed`, `false alarm`), `transaction_id`, `customer_id`,
    `ts`, `amount`, `scenario` and `planted` (the factor it plants), "" where there is none,
    `score` and `reasons` (joined by "; "). Of a missed fraud the strongest evidence is told, or
    that there is nothing unusual.
    """
    alert = scores.decision != Decision.APPROVE
    kinds = {
        "caught": scores.is_fraud & alert,
        "missed": scores.is_fraud & ~alert,
        "false alarm": ~scores.is_fraud & alert,
    }
    shown = pd.concat(
        _one_a_customer(scores[chosen].sample(frac=1, random_state=seed)).head(n).assign(outcome=o)
        for o, chosen in kinds.items()
    )
    scenario = families(shown.scenario).fillna("").astype("str")
    own = told.loc[shown.seq]
    missed = (shown.outcome == "missed").to_numpy()
    silent = missed & (own[_SPREAD].max(axis=1) < UNUSUAL_NATS).to_numpy()
    texts = [
        "; ".join(str(r["text"]) for r in (given[:1] if one else given)) if not none else ""
        for given, one, none in zip(_reasons(own), missed, silent, strict=True)
    ]
    out = shown[["outcome", "transaction_id", "customer_id"]].assign(
        ts=shown.ts.dt.floor("s"),
        amount=shown.amount,
        scenario=scenario,
        planted=scenario.map(PLANTED).astype("str").where(scenario.isin(PLANTED), ""),
        score=shown.forest.round(3),
        reasons=[text or "nothing unusual" for text in texts],
    )
    return out.astype({"reasons": "str"}).reset_index(drop=True)


def _reasons(told: pd.DataFrame) -> list[list[dict[str, object]]]:
    """`policy.reasons` of rows of `evidence`."""
    numbers = [told[names].to_numpy(float) for names in (_FACTS, _CONTRIBUTIONS, _SPREAD)]
    return [reasons(*parts) for parts in zip(told["paid"], *numbers, strict=True)]


def histories(
    frame: pd.DataFrame, cases: pd.DataFrame, frauds: pd.Index, days: float
) -> pd.DataFrame:
    """What the customers of `cases`, rows of `drawn`, paid in the `days` before and a day after.

    `frame` holds all transactions, `frauds` each `transaction_id` that is labelled as fraud.

    Returns
    -------
    DataFrame with a row a transaction, in order of time within a case, no more than `MOST_POINTS`
    a case, those closest to it: `case` (the transaction's id), `outcome`, `title`, `ts`, `amount`,
    `is_case`, `is_fraud`.
    """
    before, after = pd.Timedelta(days=days), pd.Timedelta(days=1)
    columns = ["transaction_id", "customer_id", "ts", "amount"]
    own = frame.loc[frame.customer_id.isin(cases.customer_id), columns]
    own = own.astype({"customer_id": "str", "transaction_id": "str"})
    of_customer = dict(list(own.groupby("customer_id")))
    parts = []
    names = ["customer_id", "transaction_id", "outcome", "scenario"]
    for customer, case, outcome, scenario in cases[names].astype("str").to_numpy().tolist():
        rows = of_customer[customer]
        is_case = rows.transaction_id == case
        at = rows.ts[is_case].iloc[0]
        near = rows[(rows.ts >= at - before) & (rows.ts <= at + after)]
        order = (near.ts - at).abs().where(~is_case[near.index], pd.Timedelta(-1))
        near = near.loc[order.sort_values(kind="stable").index[:MOST_POINTS]]
        near = near.sort_values("ts", kind="stable")
        what = f"{outcome} ({scenario})" if scenario else outcome
        told = {"title": f"{what}: {customer}, {at:%Y-%m-%d %H:%M}", "is_case": is_case[near.index]}
        fraud = near.transaction_id.isin(frauds)
        parts.append(near.assign(case=case, outcome=outcome, **told, is_fraud=fraud))
    kinds: dict[str, Any] = dict.fromkeys(("case", "outcome", "title"), "str")
    kinds |= {"ts": "datetime64[us]", "amount": "float64", "is_case": "bool", "is_fraud": "bool"}
    return typed(pd.concat(parts, ignore_index=True) if parts else [], kinds)


def named(scores: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """How often the first reason of a caught fraud is the factor that its scenario planted.

    A fraud may well be caught for another reason than the planted one: one at night that also takes
    much money is told by its amount first.

    Returns
    -------
    DataFrame with a row a scenario of `PLANTED` of which any was caught: `scenario`, `caught`,
    `named` (those whose largest contribution is the planted factor's), `share`, `told` (those whose
    reasons name the planted factor at all).
    """
    alert = scores.decision != Decision.APPROVE
    kind = families(scores.scenario).fillna("")
    rows = scores[scores.is_fraud & alert & kind.isin(PLANTED)]
    factors = [[str(r["factor"]) for r in given] for given in _reasons(told.loc[rows.seq])]
    found = []
    for scenario, planted in PLANTED.items():
        own = [f for f, s in zip(factors, kind[rows.index], strict=True) if s == scenario]
        first, any_of = sum(f[:1] == [planted] for f in own), sum(planted in f for f in own)
        if own:
            found.append((scenario, len(own), first, first / len(own), any_of))
    kinds: dict[str, Any] = {"scenario": "str", "caught": int, "named": int, "share": float}
    return typed(found, kinds | {"told": int})


def named_summary(table: pd.DataFrame) -> str:
    """`named` in words."""
    if table.empty:
        return "No fraud with a planted factor was caught."
    caught, right, told = (int(table[c].sum()) for c in ("caught", "named", "told"))
    pairs = zip(table.scenario, table.share, strict=True)
    return (
        f"The first reason names the planted factor in {right:,} of {caught:,} caught frauds "
        f"({right / caught:.0%}; {', '.join(f'{name} {share:.0%}' for name, share in pairs)}); "
        f"some reason names it in {told:,} ({told / caught:.0%})."
    )
