"""The numbers at the top, in words."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import numpy as np

from aegis_core.schema import Decision
from aegis_core.views.dashboard.counts import Counts, Floats
from aegis_core.views.dashboard.feed import RATE_OVER_S, Snapshot, seconds
from aegis_core.views.dashboard.filters import PERIODS, Filters
from aegis_core.views.dashboard.origins import utc

TREND: Final = 48
"""Points of a spark line."""
REVIEW, BLOCK = Decision.REVIEW, Decision.BLOCK


def tiles(
    snapshot: Snapshot, filters: Filters, counts: Counts | None = None
) -> list[dict[str, Any]]:
    """Each number with a label and a note.

    Parameters
    ----------
    counts : of a selection; None means what passes the filters.
    """
    s, of = snapshot, snapshot.counts if counts is None else counts
    n = of.total()
    alerts, blocked, review = of.total(REVIEW, BLOCK), of.total(BLOCK), of.total(REVIEW)
    target = s.facts.get("alert_budget")
    p99 = latency(s)
    money, others = amounts(of, BLOCK)
    numbers = {
        "transactions": ("Transactions", f"{n:,}", _when(filters) if counts is None else "chosen"),
        "fraud_rate": (
            "Flagged",
            f"{alerts / n:.2%}" if n else "–",
            f"budget {target:.2%}" if target else "no budget known",
        ),
        "blocked": ("Blocked", f"{blocked:,}", f"{blocked / n:.2%} of verdicts" if n else ""),
        "review": ("In review", f"{review:,}", f"{review / n:.2%} of verdicts" if n else ""),
        "rate": ("Rate", f"{s.rate_per_s:,.1f} / s", f"over {RATE_OVER_S:.0f} s"),
        "latency": (
            "Latency p99",
            "–" if p99 is None else f"{p99:,.0f} ms" if p99 >= 10 else f"{p99:.1f} ms",
            "no service tells" if p99 is None else "request to answer",
        ),
        "protected": ("Amount protected", money, others or "blocked"),
    }
    over = bool(n and target and alerts / n > 1.5 * target)
    tones = {"blocked": "block", "review": "review", "fraud_rate": "block" if over else ""}
    return [
        {"id": name, "label": label, "value": value, "note": note, "tone": tones.get(name, "")}
        for name, (label, value, note) in numbers.items()
    ]


def trends(snapshot: Snapshot, counts: Counts | None = None) -> dict[str, list[float]]:
    """A spark line for each tile: bar by bar of the period, of latency and rate by the clock."""
    of = snapshot.counts if counts is None else counts
    out: dict[str, list[float]] = {}
    if len(of.start):
        starts, stacked = of.bars(float(of.start.min()), float(of.start.max()))
        total = stacked.sum(axis=0)
        flagged = stacked[1:].sum(axis=0) / np.maximum(total, 1)
        lost = of.only(of.decision == BLOCK)
        place = ((lost.start - starts[0]) // of.width_s).astype(int)
        money: Floats = np.bincount(place, lost.amount, len(starts)).astype(np.float64)
        out = {
            "transactions": _points(total),
            "fraud_rate": _points(flagged),
            "blocked": _points(stacked[BLOCK]),
            "review": _points(stacked[REVIEW]),
            "protected": _points(money),
        }
    if len(snapshot.stats.get("at", ())):
        stats = snapshot.stats
        out["latency"] = _points(np.nan_to_num(stats["p99_ms"]))
        out["rate"] = _points(stats["transactions"] / np.maximum(stats["seconds"], 1e-9))
    return out


def proof(snapshot: Snapshot) -> dict[str, str]:
    """Whether stored verdicts were replayed and came out the same, in words."""
    facts = snapshot.facts
    if not facts.get("checked"):
        return {"state": "none", "text": "live = replay: not checked yet"}
    same = not facts["different"]
    return {
        "state": "same" if same else "different",
        "text": f"live = replay: checked {utc(facts['proved_at'])}, "
        f"{facts['checked']:,.0f} verdicts, {facts['different']:,.0f} differ",
    }


def replayed(snapshot: Snapshot) -> str:
    """How many of the verdicts of the period were not given live; "" where all were.

    >>> replayed(Snapshot(dt.datetime(2026, 4, 1), replayed={"n": 12, "n_seen": 0, "at": 0.0}))
    '12 of these verdicts are replayed (on 1970-01-01 00:00 UTC), as if the model had been there.'
    """
    told = snapshot.replayed
    if not told:
        return ""
    seen = f" Of these {told['n_seen']:,} are from before its training ended."
    return (
        f"{told['n']:,} of these verdicts are replayed (on {utc(told['at'])}), as if the model had "
        f"been there.{seen * bool(told['n_seen'])}"
    )


def latency(snapshot: Snapshot) -> float | None:
    """The newest p99 in milliseconds; None if no service told one within half a minute."""
    stats = snapshot.stats
    if not len(stats.get("at", ())) or stats["at"][-1] < seconds(snapshot.as_of) - 30:
        return None
    known = stats["p99_ms"][~np.isnan(stats["p99_ms"])]
    return float(known[-1]) if len(known) else None


def amounts(counts: Counts, decision: int) -> tuple[str, str]:
    """The sum of amounts in the currency with most verdicts, and a note on the others."""
    rows = counts.only(counts.decision == decision)
    names, place = np.unique(rows.currency.astype(str), return_inverse=True)
    if not len(names):
        return "0", ""
    n, money = (np.bincount(place, weights) for weights in (rows.n, rows.amount))
    top = int(n.argmax())
    others = len(names) - 1
    note = f"blocked; {others} more currenc{'y' if others == 1 else 'ies'}" if others else ""
    return f"{names[top]} {short(money[top])}".strip(), note


def short(number: float) -> str:
    """A sum of money in few characters.

    >>> short(950.4), short(12_345.0), short(12_345_678.0), short(2.5e9)
    ('950', '12,345', '12.35 M', '2.50 G')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number:,.0f}"


def next_steps(snapshot: Snapshot | None) -> tuple[str, list[tuple[str, str]]]:
    """What is missing until there is something to see, and the commands that bring it.

    `None` stands for a database that does not exist yet. Empty when there are verdicts.

    >>> next_steps(None)[1][0]
    ('aegis up', 'does everything: synthetic data, training, a stream')
    >>> next_steps(Snapshot(dt.datetime(2026, 4, 1), n_transactions=1, n_models=1))[0]
    'There are no verdicts yet.'
    """
    if snapshot is not None and snapshot.newest >= 0:
        return "", []
    if snapshot is None or not snapshot.n_transactions:
        return "There are no transactions yet.", [
            ("aegis up", "does everything: synthetic data, training, a stream"),
            ("aegis run generate", "makes synthetic transactions"),
            ("aegis import FILE", "reads your own, CSV or Parquet"),
        ]
    score = ("aegis score --since 30d", "judges what is there as if the model had been there")
    if not snapshot.n_models:
        train = ("aegis run train", "fits the first model on the history that is there")
        return "There is no model yet.", [train, score]
    end = [("Ctrl-C", "first ends the service, which holds the database")] * bool(snapshot.service)
    return "There are no verdicts yet.", [*end, score]


def _when(filters: Filters) -> str:
    if filters.period == "between":
        first, last = (dt.datetime.fromtimestamp(t, dt.UTC) for t in (filters.start, filters.end))
        return f"{first:%d %b %H:%M} – {last:%d %b %H:%M}"
    words = {"today": "today (UTC)", "all": "ever"}
    return words.get(filters.period, f"last {PERIODS[filters.period][0]}")


def _points(values: Floats) -> list[float]:
    """At most `TREND` points, the newest, rounded as a picture needs them."""
    top = float(np.abs(values[-TREND:]).max(initial=0.0)) or 1.0
    return [round(float(v) / top, 3) for v in values[-TREND:]]
