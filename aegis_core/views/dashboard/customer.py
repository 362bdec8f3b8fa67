"""One case as the review page shows it: the customer's history as columns, and the verdict.

Nothing here draws; `review.js` does. What a person should not be shown is not sent: answers of
others about transactions that this analyst is asked for a second opinion of.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from typing import Any, Final

import numpy as np

from aegis_core.schema import FACTORS, TOLD_FACTORS
from aegis_core.store import Store
from aegis_core.store.session import Session

MOST_HISTORY: Final = 1_500
"""Transactions of a customer that are drawn, the newest."""
MOST_SHOWN: Final = 200
"""Transactions of a case, places and earlier verdicts that are sent at most."""
MOST_MERCHANTS: Final = 8
FEWEST_FOR_A_BAND: Final = 5
"""Payments below which there is no usual band."""

_HISTORY: Final = """
    SELECT t.seq, t.transaction_id, epoch_ms(t.ts) AS ms, t.amount, t.lat, t.lon, t.merchant_id,
      coalesce(v.decision, 'approve') AS decision, s.answer
    FROM transactions t LEFT JOIN verdicts v USING (seq)
      LEFT JOIN (SELECT transaction_id, arg_max(answer, answered_at) AS answer
        FROM ({standing}) GROUP BY 1) s ON s.transaction_id = t.transaction_id
    WHERE t.customer_id = ? ORDER BY t.seq DESC LIMIT ?
"""
_EARLIER: Final = """
    SELECT epoch_ms(t.ts) AS ms, t.transaction_id, t.amount, t.currency, t.merchant_id, v.decision,
      v.risk, v.reasons[1].text AS why, s.answer, s.analyst, s.note,
      epoch_ms(s.answered_at) AS answered_ms
    FROM transactions t LEFT JOIN verdicts v USING (seq)
      LEFT JOIN ({standing}) s ON s.transaction_id = t.transaction_id
    WHERE t.customer_id = ? AND (v.decision != 'approve' OR s.answer IS NOT NULL)
      AND NOT list_contains(?, t.transaction_id)
    ORDER BY t.seq DESC, s.answered_at DESC LIMIT ?
"""
_VERDICT: Final = "SELECT * FROM verdicts WHERE seq = ?"


def page(
    source: Store | Session, case: list[dict[str, Any]], this: str, standing: str
) -> dict[str, Any]:
    """What the page needs to know of a case, in values that JSON has.

    Parameters
    ----------
    case : rows of `cases.inside`.
    this : the transaction that is looked at, of the case; any other means the riskiest open one.
    standing : the query of answers that stand, `reviews.STANDING`.

    Returns
    -------
    dict with `customer_id`, `transactions` (of the case), `this` (one of them), `verdict` (its
    `score`, `base`, `parts` that add up to it, `reasons`, `cleared`), `history` (columns `ms`,
    `amount`, `kind`), `band` (`low`, `usual`, `high`: percentiles 5, 50 and 95 of what the customer
    paid before the case; None below `FEWEST_FOR_A_BAND` payments), `hours` (24 counts before the
    case), `places` (`lat`, `lon`, `n`, and the `path` from the last place to this one), `merchants`
    and `earlier` (verdicts and answers).
    """
    customer = case[0]["customer_id"]
    open_ = [row["transaction_id"] for row in case if row["open"]]
    chosen = next((row for row in case if row["transaction_id"] == this), None)
    if chosen is None:
        waiting = [row for row in case if row["open"]] or case
        chosen = max(waiting, key=lambda row: row["risk"])
    paid = source.rows(_HISTORY.format(standing=standing), [customer, MOST_HISTORY])[::-1]
    (verdict,) = source.rows(_VERDICT, [chosen["seq"]])
    earlier = source.rows(_EARLIER.format(standing=standing), [customer, open_, MOST_SHOWN])
    ids = {row["transaction_id"] for row in case}
    first = min(row["seq"] for row in case)
    before = [row for row in paid if row["seq"] < first and row["decision"] != "block"]
    told: list[dict[str, Any]] = [
        {
            **{name: row[name] for name in ("transaction_id", "currency", "merchant_id", "why")},
            **{name: row[name] for name in ("decision", "open", "amount", "risk")},
            "ms": _ms(row["ts"]),
            "audit": row["inclusion"] < 1,
        }
        for row in sorted(case, key=lambda row: (not row["open"], -row["risk"]))[:MOST_SHOWN]
    ]
    return {
        "customer_id": customer,
        "n": len(case),
        "n_open": len(open_),
        "transactions": told,
        "this": chosen["transaction_id"],
        "ms": _ms(chosen["ts"]),
        "amount": chosen["amount"],
        "currency": chosen["currency"],
        "verdict": _verdict(verdict),
        "history": _history(paid, ids, chosen["transaction_id"], set(open_)),
        "n_before": len(before),
        "band": _band(before),
        "hours": _hours(before),
        "places": _places(before, paid, chosen["seq"], verdict["distance_km"]),
        "merchants": _merchants(before, chosen["merchant_id"]),
        "earlier": [{name: _plain(value) for name, value in row.items()} for row in earlier],
    }


def _ms(moment: dt.datetime) -> int:
    return round(moment.replace(tzinfo=dt.UTC).timestamp() * 1_000)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _verdict(row: dict[str, Any]) -> dict[str, Any]:
    given = row["contributions"] or {}
    parts: list[dict[str, Any]] = [
        {"factor": name, "value": float(given[name])}
        for name in TOLD_FACTORS
        if given.get(name) is not None and (name in FACTORS or given[name])
    ]
    return {
        **{name: row[name] for name in ("decision", "risk", "score", "cleared", "model_version")},
        "base": row["score"] - sum(part["value"] for part in parts),
        "parts": parts,
        "reasons": [dict(reason) for reason in row["reasons"] or []],
    }


def _history(
    paid: list[dict[str, Any]], ids: set[str], this: str, asked: set[str]
) -> dict[str, Any]:
    """Columns of the customer's payments by arrival; `kind` says how each is marked."""

    def kind(row: dict[str, Any]) -> str:
        if row["transaction_id"] == this:
            return "this"
        if row["transaction_id"] in ids:
            return "case"
        if row["answer"] == "fraud" and row["transaction_id"] not in asked:
            return "fraud"
        return "alert" if row["decision"] != "approve" else "paid"

    return {
        "ms": [row["ms"] for row in paid],
        "amount": [row["amount"] for row in paid],
        "kind": [kind(row) for row in paid],
    }


def _band(before: list[dict[str, Any]]) -> dict[str, float] | None:
    if len(before) < FEWEST_FOR_A_BAND:
        return None
    ends = np.quantile([row["amount"] for row in before], [0.05, 0.5, 0.95])
    return dict(zip(("low", "usual", "high"), ends.tolist(), strict=True))


def _hours(before: list[dict[str, Any]]) -> list[int]:
    at = np.array([row["ms"] // 3_600_000 % 24 for row in before], np.int64)
    counts: list[int] = np.bincount(at, minlength=24).tolist()
    return counts


def _places(
    before: list[dict[str, Any]], paid: list[dict[str, Any]], seq: int, distance_km: float | None
) -> dict[str, Any]:
    """Where the customer paid, to a tenth of a degree, and the way from the last place."""
    counts = Counter(
        (round(row["lat"], 1), round(row["lon"], 1))
        for row in before
        if row["lat"] is not None and row["lon"] is not None
    )
    path = [
        [row["lat"], row["lon"]] for row in paid if row["seq"] <= seq and row["lat"] is not None
    ]
    placed = any(row["seq"] == seq and row["lat"] is not None for row in paid)
    return {
        "usual": [
            {"lat": lat, "lon": lon, "n": n} for (lat, lon), n in counts.most_common(MOST_SHOWN)
        ],
        "path": path[-2:] if placed else [],
        "distance_km": _plain(distance_km),
    }


def _merchants(before: list[dict[str, Any]], this: str | None) -> dict[str, Any]:
    """The merchants paid most often, and how often this one; None where it has no name."""
    counts = Counter(row["merchant_id"] for row in before if row["merchant_id"] is not None)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_MERCHANTS]
    return {
        "most": [{"name": name, "n": n} for name, n in most],
        "this": this,
        "n_this": counts[this] if this is not None else None,
        "n_merchants": len(counts),
    }
