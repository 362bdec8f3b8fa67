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

from aegis_core.review.answers import STANDING
from aegis_core.schema import AGAIN, AGAIN_S, FACTORS, LATER_STATES, TOLD_FACTORS
from aegis_core.store import Store
from aegis_core.store.connection import literal
from aegis_core.store.session import Session
from aegis_core.units.clocks import of_day
from aegis_core.units.money import digits
from aegis_core.units.words import PAYMENT, role_of

MOST_HISTORY: Final = 1_500
"""Transactions of a customer that are drawn, the newest."""
MOST_SHOWN: Final = 200
"""Transactions of a case, places and earlier verdicts that are sent at most."""
MOST_MERCHANTS: Final = 8
MOST_HAD, MOST_SEARCHED = 20, 1_000_000
"""Cards, devices and the like of a customer that are looked for, and transactions in which others
had them as well; of both the newest."""
MOST_THINGS, MOST_OTHERS = 6, 3
"""Shared things that are sent at most, and customers of each; the others are counted."""
FEWEST_FOR_A_BAND: Final = 5
"""Payments below which there is no usual band."""

_HELD: Final = {"card_id": "card", "device_id": "device", "email": "e-mail", "ip": "address"}
"""Of `schema.ENTITIES` what somebody holds or pays from, and how it is called."""

_HISTORY: Final = f"""
    SELECT t.seq, epoch_ms(t.ts) AS ms, if(t.rate IS NULL, t.amount, t.base_amount) AS amount,
      if(t.rate IS NULL, t.currency, t.base_currency) AS unit,
      t.lat, t.lon, t.merchant_id, {", ".join(_HELD)}, coalesce(t.utc_offset, 0) AS utc_offset,
      t.local_zone, t.clock, coalesce(v.decision, 'approve') AS decision, t.kind AS entry, t.status,
      CASE WHEN t.transaction_id = $this THEN 'this'
        WHEN list_contains($case, t.transaction_id) THEN 'case'
        WHEN s.answer = 'fraud' AND NOT list_contains($open, t.transaction_id) THEN 'fraud'
        WHEN v.decision != 'approve' THEN 'alert' ELSE 'paid' END AS kind
    FROM transactions t LEFT JOIN verdicts v USING (seq)
      LEFT JOIN (SELECT transaction_id, arg_max(answer, answered_at) AS answer
        FROM ({STANDING}) GROUP BY 1) s ON s.transaction_id = t.transaction_id
    WHERE t.customer_id = $customer ORDER BY t.seq DESC LIMIT $most
"""
_EARLIER: Final = f"""
    SELECT epoch_ms(t.ts) AS ms, t.transaction_id, t.amount, t.currency, t.merchant_id, v.decision,
      v.risk, v.reasons[1].text AS why, s.answer, s.analyst, s.note,
      epoch_ms(s.answered_at) AS answered_ms
    FROM transactions t LEFT JOIN verdicts v USING (seq)
      LEFT JOIN ({STANDING}) s ON s.transaction_id = t.transaction_id
    WHERE t.customer_id = ? AND (v.decision != 'approve' OR s.answer IS NOT NULL)
      AND NOT list_contains(?, t.transaction_id)
    ORDER BY t.seq DESC, s.answered_at DESC LIMIT ?
"""
_SAME: Final = " AND ".join(f"o.{name} IS NOT DISTINCT FROM t.{name}" for name in AGAIN)
_ENTRIES: Final = f"""
    WITH own AS (SELECT * FROM transactions WHERE customer_id = $customer)
    SELECT t.transaction_id, t.kind, t.status, {LATER_STATES} AS later, t.original_id,
      (SELECT list(o.transaction_id ORDER BY o.seq) FROM own o
        WHERE o.original_id = t.transaction_id) AS named_by,
      (SELECT arg_max(o.transaction_id, o.seq) FROM own o
        WHERE o.seq < t.seq AND o.transaction_id <> t.transaction_id AND {_SAME}
          AND abs(epoch_us(o.ts) - epoch_us(t.ts)) <= {AGAIN_S} * 1000000) AS same
    FROM own t WHERE list_contains($ids, t.transaction_id)
"""
_SHARED: Final = f"""
    WITH met AS (
      SELECT unnest(range({len(_HELD)})) AS place, unnest([{{things}}]) AS value, customer_id, ts
      FROM transactions WHERE seq > (SELECT max(seq) FROM transactions) - {MOST_SEARCHED}
        AND customer_id <> $customer AND ({{had}})),
    customers AS (
      SELECT place, value, customer_id, count(*) AS n, max(ts) AS last
      FROM met WHERE value IS NOT NULL GROUP BY ALL)
    SELECT {list(_HELD.values())}[1 + place] AS kind, value, count(*) AS others,
      list({{{{'customer_id': customer_id, 'n': n, 'ms': epoch_ms(last)}}}}
        ORDER BY last DESC, customer_id)[:{MOST_OTHERS}] AS customers
    FROM customers GROUP BY place, value ORDER BY place, max(last) DESC, value LIMIT {MOST_THINGS}
"""
_TOLD: Final = (
    *("transaction_id", "currency", "merchant_id", "why", "decision", "open", "amount", "risk"),
    "replayed",
)
_VERDICT: Final = "SELECT * FROM verdicts WHERE seq = ?"


def page(source: Store | Session, case: list[dict[str, Any]], this: str) -> dict[str, Any]:
    """What the page needs to know of a case, in values that JSON has.

    Parameters
    ----------
    case : rows of `cases.inside`.
    this : the transaction that is looked at, of the case; any other means the riskiest open one.

    Returns
    -------
    dict with `customer_id`, `transactions` (of the case), `this` (one of them), `verdict` (its
    `score`, `base`, `parts` that add up to it, `reasons`, `cleared`), `history` (columns `ms`,
    `amount`, `kind`, of those in the same currency), `band` (`low`, `usual`, `high`: percentiles 5,
    50 and 95 of what was paid so before the case; None below `FEWEST_FOR_A_BAND` payments), `hours`
    (24 counts before the case, by the local clock), of `n_timed` payments, `local_ms` (None: it
    came without an hour) and `clock` (what that said, and where), `places` (`lat`,
    `lon`, `n`, and the `path` from the last place to this one), `merchants`, `shared` (cards,
    devices, e-mail and network addresses that `others`, so many, had as well, with payments and
    the last of some of these `customers`) and `earlier` (verdicts and answers).
    """
    customer = case[0]["customer_id"]
    open_ = [row["transaction_id"] for row in case if row["open"]]
    chosen = next((row for row in case if row["transaction_id"] == this), None)
    if chosen is None:
        waiting = [row for row in case if row["open"]] or case
        chosen = max(waiting, key=lambda row: row["risk"])
    ids = [row["transaction_id"] for row in case]
    asked = {"customer": customer, "this": chosen["transaction_id"], "case": ids, "open": open_}
    paid = source.rows(_HISTORY, asked | {"most": MOST_HISTORY})[::-1]
    (verdict,) = source.rows(_VERDICT, [chosen["seq"]])
    earlier = source.rows(_EARLIER, [customer, open_, MOST_SHOWN])
    first = min(row["seq"] for row in case)
    for row in paid:
        if row["kind"] == "paid" and role_of(row["entry"], row["status"]) != PAYMENT:
            row["kind"] = "aside"
    before = [
        row
        for row in paid
        if row["seq"] < first and row["decision"] != "block" and row["kind"] != "aside"
    ]
    timed = [row for row in before if row["clock"] != "date"]
    hours = np.array([_local_ms(row) // 3_600_000 % 24 for row in timed], np.int64)
    this_one = next((row for row in paid if row["kind"] == "this"), None)
    here = this_one or {
        "ms": epoch_ms(chosen["ts"]), "utc_offset": 0, "local_zone": None, "clock": None,
        "amount": chosen["amount"], "unit": chosen["currency"],
    }  # fmt: skip
    alike = [row for row in paid if row["unit"] == here["unit"]]
    of_before = [row["amount"] for row in before if row["unit"] == here["unit"]]
    usual = np.quantile(of_before or [0.0], [0.05, 0.5, 0.95]).tolist()
    band = dict(zip(("low", "usual", "high"), usual, strict=True))
    first_ones = sorted(case, key=lambda row: (not row["open"], -row["risk"]))[:MOST_SHOWN]
    entries = _entries(source, customer, [*first_ones, *earlier])
    told: list[dict[str, Any]] = [
        {name: row[name] for name in _TOLD}
        | {"ms": epoch_ms(row["ts"]), "audit": row["inclusion"] < 1}
        | entries[row["transaction_id"]]
        for row in first_ones
    ]
    return {
        "customer_id": customer,
        "n": len(case),
        "n_open": len(open_),
        "transactions": told,
        "this": chosen["transaction_id"],
        "ms": epoch_ms(chosen["ts"]),
        "amount": here["amount"],
        "currency": here["unit"],
        "digits": digits(here["unit"]),
        "local_ms": None if here["clock"] == "date" else _local_ms(here),
        "clock": of_day(0.0, here["local_zone"]).removeprefix("00:00 "),
        "verdict": _verdict(verdict),
        "history": {name: [row[name] for row in alike] for name in ("ms", "amount", "kind")},
        "n_before": len(before),
        "n_timed": len(timed),
        "band": band if len(of_before) >= FEWEST_FOR_A_BAND else None,
        "hours": np.bincount(hours, minlength=24).tolist(),
        "places": _places(before, paid, chosen["seq"], verdict["distance_km"]),
        "merchants": _merchants(before, chosen["merchant_id"]),
        "shared": _shared(source, customer, paid),
        "earlier": [
            {name: _plain(value) for name, value in row.items()} | entries[row["transaction_id"]]
            for row in earlier
        ],
    }


def _shared(
    source: Store | Session, customer: str, paid: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Cards, devices, e-mail and network addresses of these payments that others had as well."""
    had = {}
    for name in _HELD:
        newest = dict.fromkeys(row[name] for row in reversed(paid) if row[name] is not None)
        if newest:
            had[name] = f"{name} IN ({', '.join(map(literal, list(newest)[:MOST_HAD]))})"
    if not had:
        return []
    things = ", ".join(f"CASE WHEN {had.get(name, 'false')} THEN {name} END" for name in _HELD)
    asked = _SHARED.format(things=things, had=" OR ".join(had.values()))
    return source.rows(asked, {"customer": customer})


def _entries(
    source: Store | Session, customer: str, rows: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What kind of entry each row is, in words, and the digits of its currency, by its id."""
    found = source.rows(
        _ENTRIES, {"customer": customer, "ids": [row["transaction_id"] for row in rows]}
    )
    words = {row["transaction_id"]: _entry(row) for row in found}
    return {
        row["transaction_id"]: {
            "entry": words.get(row["transaction_id"], ""), "digits": digits(row["currency"])
        }
        for row in rows
    }  # fmt: skip


def _entry(row: dict[str, Any]) -> str:
    """What is not told of a plain payment.

    >>> _entry({"kind": "refund", "status": "pending", "later": ["approved"], "original_id": "t1",
    ...         "named_by": None, "same": None})
    'refund of t1, pending → approved'
    >>> _entry({"kind": None, "status": None, "later": None, "original_id": None,
    ...         "named_by": ["t8", "t9"], "same": "t5"})
    'named by t8, t9, probably t5 again'
    """
    kind = "" if row["kind"] in (None, "payment") else row["kind"]
    if row["original_id"] is not None:
        kind = f"{kind or 'payment'} of {row['original_id']}"
    states = [row["status"] or "approved", *(row["later"] or ())]
    status = "" if states == ["approved"] else " → ".join(states)
    by = "named by " + ", ".join(row["named_by"][:5]) if row["named_by"] else ""
    again = f"probably {row['same']} again" if row["same"] is not None else ""
    return ", ".join(filter(None, (kind, status, by, again)))


def epoch_ms(moment: dt.datetime | None) -> int | None:
    """Milliseconds since 1970 of a time in UTC; None of none."""
    return None if moment is None else round(moment.replace(tzinfo=dt.UTC).timestamp() * 1_000)


def _local_ms(row: dict[str, Any]) -> int:
    return int(row["ms"]) + int(row["utc_offset"]) * 60_000


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
