"""The newest verdicts and the campaigns as rows of tables, and verdicts for a spreadsheet."""

from __future__ import annotations

import datetime as dt
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from aegis_core.machine import write_csv
from aegis_core.schema import COLUMNS as TRANSACTION
from aegis_core.schema import NUMBER
from aegis_core.units.words import category_said
from aegis_core.views.dashboard.counts import Columns
from aegis_core.views.dashboard.feed import dicts
from aegis_core.views.dashboard.filters import DECISIONS

TABLE_ROWS: Final = 100
REPLAYED: Final = "↺"
"""Before the time of a verdict in the table that was replayed."""
COLUMNS: Final = (
    ("scored_at", "Scored (UTC)", "text"),
    ("decision", "Decision", "decision"),
    ("risk", "Risk", "risk"),
    ("amount", "Amount", "number"),
    ("currency", "Currency", "text"),
    *((c.name, c.title, "number" if c.kind == NUMBER else "text") for c in TRANSACTION if c.title),
    ("place", "Place", "text"),
    ("reasons", "Why", "prose"),
    ("transaction_id", "Transaction", "text"),
)
"""Columns of the table: their key in the rows, their title, and how `table.js` shows them."""
CAMPAIGN_COLUMNS: Final = (
    ("shared", "What they share", "text"),
    ("customers", "Customers", "count"),
    ("alerts", "Alerts", "count"),
    ("blocked", "Blocked", "count"),
    ("declined", "Declined tries", "count"),
    ("first", "First (UTC)", "text"),
    ("last", "Last (UTC)", "text"),
    ("amount", "Amount", "number"),
    ("currency", "Currency", "text"),
    ("risk", "Highest risk", "risk"),
    ("why", "Why the newest", "prose"),
)
_FIRST = ("seq", "transaction_id", "scored_at", "replayed", "ts", "decision", "risk", "score")
_IN_FILE: Final = (
    *_FIRST,
    *(column.name for column in TRANSACTION if column.name not in _FIRST),
    *("distance", "reasons"),
)


def rows(window: Columns, places: np.ndarray) -> list[dict[str, Any]]:
    """Rows of the window at `places`, as the table shows them."""
    shown = ["seq", *(key for key, *_ in COLUMNS if key in window)]
    return [
        {key: row[key] for key in shown}
        | {"scored_at": f"{REPLAYED} {row['scored_at']}" if row["replayed"] else row["scored_at"]}
        | {"place": None if row["lat"] is None else degrees(row["lat"], row["lon"])}
        | {"category": row["category"] and category_said(row["category"])}
        for row in _in_words(window, places)
    ]


def campaign_rows(campaigns: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Campaigns, as a snapshot has them, as their table shows them."""
    made = []
    for campaign in campaigns:
        one = campaign["units"] == 1
        shown = {
            **campaign,
            **{name: _utc(campaign[name]) for name in ("first", "last")},
            "amount": campaign["amount"] if one else None,
            "currency": campaign["unit"] if one else "several",
        }
        made.append({key: shown[key] for key in ("seq", *(key for key, *_ in CAMPAIGN_COLUMNS))})
    return made


def as_csv(window: Columns, places: np.ndarray) -> bytes:
    """The same rows, all columns, as a CSV that no spreadsheet takes for formulas."""
    out = io.StringIO()
    found = ([row[name] for name in _IN_FILE] for row in _in_words(window, places))
    write_csv(out, _IN_FILE, found, end="\r\n")
    return out.getvalue().encode("utf-8-sig")


def degrees(lat: float, lon: float) -> str:
    """A place in words.

    >>> degrees(52.52, -13.408)
    '52.52 N 13.41 W'
    """
    return f"{abs(lat):.2f} {'N' if lat >= 0 else 'S'} {abs(lon):.2f} {'E' if lon >= 0 else 'W'}"


def _in_words(window: Columns, places: np.ndarray) -> Iterator[dict[str, Any]]:
    """Rows of the window at `places`: times and decisions in words, None for what is missing."""
    for row in dicts({name: values[places] for name, values in window.items()}):
        known = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        yield known | {
            "seq": int(row["seq"]),
            **{name: _utc(row[name]) for name in ("scored_at", "ts")},
            "replayed": "replayed" if row["replayed"] else None,
            "decision": DECISIONS[int(row["decision"])],
        }


def _utc(at: float) -> str:
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%d %H:%M:%S}"
