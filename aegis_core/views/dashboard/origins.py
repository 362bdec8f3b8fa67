"""Where each number and picture of the board comes from: a query to run, models, runs and data.

Every query here is one that a reader can paste into `aegis query`; a test runs each and holds what
comes back against what the board shows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any, Final

from aegis_core.schema import WORTH, WORTH_IN
from aegis_core.store.floods import CAMPAIGNS
from aegis_core.views.dashboard.feed import (
    MOST_TRAVELS,
    RATE_OVER_S,
    SEARCHED,
    STATS_OVER,
    WINDOW,
    Snapshot,
)
from aegis_core.views.dashboard.filters import Filters

MOST_TOLD: Final = 20
"""Numbers of a selection that a query spells out."""
_COUNTS: Final = (
    *("transactions", "fraud_rate", "blocked", "review", "protected"),
    *("bars", "reasons"),
)
_ROWS: Final = "verdicts v JOIN transactions t USING (seq)"


def queries(
    snapshot: Snapshot, filters: Filters, selected: Collection[int] = ()
) -> dict[str, dict[str, str]]:
    """For each tile, chart and the log: `sql`, and a `note` where the query alone would mislead.

    Parameters
    ----------
    selected : numbers (`seq`) of the transactions that a box or lasso chose; empty: no choice.
    """
    by_row = filters.by_row or bool(selected)
    where = _where(snapshot, filters, selected)
    of_rows = where if by_row else _where(snapshot, filters, by_row=True)
    every_row = _where(snapshot, filters, by_row=True)
    table, n = (_ROWS, "count(*)") if by_row else ("rollups", "sum(n)")
    worth, unit = (WORTH, WORTH_IN) if by_row else ("amount", "currency")
    time, factor = ("v.scored_at", "v.reasons[1].factor") if by_row else ("minute", "factor")
    bar_ms = snapshot.counts.width_s * 1_000
    share = snapshot.facts.get("alert_budget") or 0.0
    newest = f"ORDER BY seq DESC LIMIT {WINDOW}"
    window = f"The newest {WINDOW:,} that pass." if not selected else "What was chosen."
    counted = f"Of the newest {SEARCHED:,} of the period." if filters.by_row else ""
    of = f"FROM {table}\nWHERE {where}"
    measured = "The service measures it from a request's arrival to its answer."
    sql = {
        "transactions": f"SELECT {n} {of}",
        "fraud_rate": f"SELECT {n} FILTER (decision <> 'approve') / {n} {of}",
        "blocked": f"SELECT {n} {of} AND decision = 'block'",
        "review": f"SELECT {n} {of} AND decision = 'review'",
        "protected": f"SELECT {unit} AS currency, sum({worth}) AS amount {of}\n"
        "  AND decision = 'block'\n"
        f"GROUP BY 1 ORDER BY {n} DESC",
        "rate": f"SELECT count(*) / {RATE_OVER_S:.0f} FROM verdicts\n"
        f"WHERE scored_at > now() - INTERVAL {RATE_OVER_S:.0f} SECOND",
        "latency": "SELECT p99_ms FROM service_stats\n"
        "WHERE p99_ms IS NOT NULL ORDER BY noted_at DESC LIMIT 1",
        "scatter": "SELECT seq, decision, hour(ts) + minute(ts) / 60 AS hour,\n"
        f"  {WORTH} AS amount,\n  distance_km AS distance, evidence.travel AS travel, risk, score\n"
        f"FROM {_ROWS}\nWHERE {every_row}\n{newest}",
        "bars": f"SELECT epoch_ms({time}) // {bar_ms} * {bar_ms} AS bar_ms, decision, {n} AS n\n"
        f"{of}\nGROUP BY ALL ORDER BY ALL",
        "reasons": f"SELECT {factor} AS factor, decision, {n} AS n {of} AND decision <> 'approve'\n"
        "GROUP BY ALL ORDER BY n DESC",
        "budget": "SELECT epoch_ms(minute) // 600000 * 600000 AS bar_ms,\n"
        f"  sum(n) FILTER (decision <> 'approve') AS alerts, {share:g} * sum(n) AS budget\n"
        f"FROM rollups WHERE minute >= '{snapshot.as_of:%Y-%m-%d}'\nGROUP BY ALL ORDER BY ALL",
        "map": f"SELECT seq, customer_id, distance_km, lat, lon FROM {_ROWS}\n"
        f"WHERE decision <> 'approve' AND reasons[1].factor = 'travel' AND lat IS NOT NULL\n"
        f"  AND {of_rows}\nORDER BY seq DESC LIMIT {MOST_TRAVELS}",
        "stats": "SELECT noted_at, p50_ms, p99_ms, transactions / seconds AS a_second\n"
        "FROM service_stats\n"
        f"WHERE noted_at > now() - INTERVAL {STATS_OVER.total_seconds():.0f} SECOND "
        "ORDER BY noted_at",
        "drift": f"WITH newest AS (\n  SELECT risk, scored_at FROM {_ROWS}\n  WHERE {every_row}\n"
        f"  {newest})\nSELECT least(floor(risk / 5), 19) * 5 AS risk_from,\n"
        "  100 * count(*) / sum(count(*)) OVER () AS percent\n"
        f"FROM newest WHERE epoch(scored_at) >= {snapshot.facts.get('promoted_at') or 0:.6f}\n"
        "GROUP BY ALL ORDER BY ALL",
        "campaigns": CAMPAIGNS.format(f"FROM {_ROWS}\nWHERE {every_row}"),
        "log": "SELECT ts, customer_id, amount, currency, merchant_id, category, decision, risk,\n"
        f"  [reason.text FOR reason IN reasons] AS reasons\nFROM {_ROWS}\n"
        f"WHERE {of_rows}\n{newest}",
    }
    notes = dict.fromkeys(_COUNTS, counted) | {
        "latency": measured,
        "scatter": f"The newest {WINDOW:,} that pass; what was not chosen is pale.",
        "budget": "All verdicts since midnight UTC, whatever the filters; the share is the "
        "champion's. The forecast goes on as the last hour.",
        "map": f"{window} A line begins where the customer's last payment before was that was not "
        "blocked.",
        "stats": measured,
        "drift": "Of the champion of now. Risk is a percentile of the scores of training: without "
        "drift all bars have one height. Scores that tie with the lowest of training are spread "
        "over the lowest bars.",
        "campaigns": f"Looked for among the newest {SEARCHED:,} of the period.",
        "log": window,
    }
    return {name: {"sql": text, "note": notes.get(name, "")} for name, text in sql.items()}


def lineage(snapshot: Snapshot) -> list[tuple[str, str]]:
    """What leads from the numbers to the model, its run and its data."""
    facts = snapshot.facts
    if not facts.get("version"):
        return [("Champion", "none")]
    line = [("Champion", str(facts["version"]))]
    if facts["promoted_at"]:
        line.append(("since", utc(facts["promoted_at"])))
    if facts["n_train"]:
        days = f" of {facts['first_day']} to {facts['last_day']}" if facts["first_day"] else ""
        line.append(("trained on", f"{facts['n_train']:,.0f} transactions{days}"))
    return line + _made_by(facts)


def before(snapshot: Snapshot) -> list[list[tuple[str, str]]]:
    """The same of each champion that judged earlier in the period, the newest first."""
    return [
        [("Champion", str(model["version"])), ("until", utc(model["until"])), *_made_by(model)]
        for model in snapshot.earlier
    ]


def running(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Which notebooks run just now, and how far they are."""
    told = snapshot.facts.get("running")
    return [("running", str(told))] if told else []


def utc(at: float) -> str:
    """A time (seconds since 1970) in words.

    >>> utc(0.0)
    '1970-01-01 00:00 UTC'
    """
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%d %H:%M} UTC"


def _made_by(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = (("run", "run_id"), ("data", "data_hash"), ("report", "report_path"))
    return [(label, str(model[name])) for label, name in names if model[name]]


def _where(
    snapshot: Snapshot, filters: Filters, selected: Collection[int] = (), *, by_row: bool = False
) -> str:
    """The condition as SQL, for reading; values of the visitor's are quoted."""
    if selected:
        told = ", ".join(str(seq) for seq in sorted(selected)[:MOST_TOLD])
        more = len(selected) - MOST_TOLD
        return f"seq IN ({told}{f', … and {more:,} more' if more > 0 else ''})"
    by_row = by_row or filters.by_row
    sql, params = filters.condition(rolled=not by_row)
    for value in params:
        shown = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else f"{value:.17g}"
        sql = sql.replace("?", shown.replace("?", "\0"), 1)
    time = "v.scored_at" if by_row else "minute"
    span = f"{time} >= '{snapshot.since:%Y-%m-%d %H:%M}'"
    if snapshot.until is not None:
        span += f" AND {time} < '{snapshot.until:%Y-%m-%d %H:%M}'"
    return (span if sql == "true" else f"{span} AND {sql}").replace("\0", "?")
