"""From a snapshot to charts, as plain dictionaries that the page and plotly.py can draw.

Columns are packed as bytes and colours are names of `board.css`: `chart.js` resolves both in the
page, `unpacked` does for plotly.py. Texts are escaped for plotly.js, which reads tags in them.
"""

from __future__ import annotations

import datetime as dt
import html
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aegis_core.schema import Decision
from aegis_core.views.dashboard.counts import Columns, Counts, Floats
from aegis_core.views.dashboard.feed import seconds
from aegis_core.views.dashboard.filters import AXES

Numbers = npt.NDArray[Any] | Sequence[float]
LONGEST_HOVER: Final = 240
DAY_S: Final = 86_400.0
FEWEST: Final = 1_000
"""Scores that say something of drift: of so many, without any, the PSI is .02."""
RISK_BINS: Final = 20


def packed(values: npt.NDArray[Any], kind: str = "f4") -> dict[str, object]:
    r"""A column as `chart.js` reads it: little-endian bytes and their type.

    >>> packed(np.array([1.0]))
    {'type': 'f4', 'column': b'\x00\x00\x80?'}
    """
    return {"type": kind, "column": np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()}


_SHOWN_AS: Final = (
    ("normal: approve", "circle", 4),
    ("anomalous: review", "square", 7),
    ("anomalous: block", "diamond", 9),
)


def plain(text: object) -> str:
    r"""A text as plotly.js may have it: short, no tags, no marks that turn its direction.

    >>> plain("<b>50 %</b> \u202eoff")
    '&lt;b&gt;50 %&lt;/b&gt; off'
    """
    clean = "".join(c for c in str(text or "") if unicodedata.category(c) not in ("Cc", "Cf"))
    shown = clean if len(clean) <= LONGEST_HOVER else clean[: LONGEST_HOVER - 1] + "…"
    return html.escape(shown, quote=False)


def points(window: Columns, x: str, y: str, z: str = "") -> list[dict[str, Any]]:
    """Columns of the scatter's traces, one for each decision: axes, `seq`, reasons of alerts."""
    axes = {"x": x, "y": y} | ({"z": z} if z else {})
    traces = []
    for decision in Decision:
        rows = np.flatnonzero(window["decision"] == decision)
        columns: dict[str, Any] = {
            axis: packed(window["worth" if column == "amount" else column][rows])
            for axis, column in axes.items()
        }
        columns["customdata"] = packed(window["seq"][rows], "f8")
        if decision != Decision.APPROVE:
            columns["text"] = [plain(window["reasons"][row]) for row in rows]
        traces.append(columns)
    return traces


def trace(kind: str, name: str, hover: str, **look: object) -> dict[str, Any]:
    """A trace of plotly.js; where `hover` is "", the pointer passes over it."""
    told = {"hovertemplate": f"{hover}<extra>{name}</extra>"} if hover else {"hoverinfo": "skip"}
    return {"type": kind, "name": name, **told, **look}


def line(
    name: str, hover: str, x: Mapping[str, object], y: Numbers, **look: object
) -> dict[str, Any]:
    """The trace of a line over a packed `x`."""
    ends = {"x": x, "y": packed(np.asarray(y))}
    return trace("scatter", name, hover, mode="lines", line=look, **ends)


def figure(traces: Sequence[Mapping[str, Any]], **layout: object) -> dict[str, Any]:
    """A picture as `Chart` takes it."""
    return {"traces": traces, "layout": layout}


def scatter_figure(window: Columns, x: str, y: str, z: str = "") -> dict[str, Any]:
    """Normal and anomalous transactions over two columns of the window, or three."""
    axes = {"x": x, "y": y} | ({"z": z} if z else {})
    hover = "<br>".join(f"{AXES[c].title} %{{{a}:{AXES[c].format}}}" for a, c in axes.items())
    traces = []
    for decision, columns, (name, symbol, size) in zip(
        Decision, points(window, x, y, z), _SHOWN_AS, strict=True
    ):
        why = "" if decision == Decision.APPROVE else "<br>%{text}"
        # Translucent points add up to white in space.
        colour = f"--aegis-{decision.label}" + ("" if z else "-fill")
        marker = {"size": size / 2 if z else size, "symbol": symbol, "color": colour}
        kind = "scatter3d" if z else "scattergl"
        traces.append(trace(kind, name, hover + why, mode="markers", marker=marker, **columns))
    named = {
        f"{a}axis": {"title": {"text": AXES[c].title}, **AXES[c].layout} for a, c in axes.items()
    }
    layout: dict[str, object] = {**named, "dragmode": "lasso"}
    if z:
        camera = {"eye": {"x": 1.7, "y": 1.7, "z": 0.8}}
        layout = {"scene": {**named, "camera": camera}, "margin": dict.fromkeys("lrtb", 0)}
    return {"traces": traces, "layout": {**layout, "uirevision": f"{x} {y} {z}"}}


def bars_figure(counts: Counts, first: float, last: float) -> dict[str, Any]:
    """Verdicts over time, stacked by decision, from `first` to `last` (seconds since 1970)."""
    starts, stacked = counts.bars(first, last)
    width_ms = counts.width_s * 1_000.0
    traces = [
        trace(
            *("bar", decision.label, "%{y:,}"),
            x0=starts[0] * 1_000 + width_ms / 2,
            dx=width_ms,
            width=0.8 * width_ms,  # which a single bar would not know
            y=packed(count),
            marker={"color": f"--aegis-{decision.label}-fill", "line": {"width": 0}},
        )
        for decision, count in zip(Decision, stacked, strict=True)
    ]
    return figure(
        traces,
        barmode="stack",
        bargap=0.12,
        hovermode="x unified",
        dragmode="select",
        selectdirection="h",
        xaxis={
            "type": "date",
            "nticks": 8,
            "range": [starts[0] * 1_000, starts[-1] * 1_000 + width_ms],
        },
        yaxis={"title": {"text": f"per {spoken(counts.width_s)}"}, "rangemode": "tozero"},
    )


def reasons_figure(counts: Counts) -> dict[str, Any]:
    """Alerts by the factor of their first reason, the most frequent at the top."""
    alert = counts.decision > 0
    factors, place = np.unique(counts.factor[alert].astype(str), return_inverse=True)
    n = np.zeros((2, len(factors)))
    np.add.at(n, (counts.decision[alert] - 1, place), counts.n[alert])
    order = np.argsort(n.sum(axis=0), kind="stable")
    total = n.sum() or 1.0
    names = [factors[i] or "no reason" for i in order]
    share = [f"{n[:, i].sum() / total:.0%}" for i in order]
    traces = [
        trace(
            *("bar", decision.label, "%{x:,} of %{y}"),
            orientation="h",
            x=packed(count[order]),
            y=names,
            text=share if decision == Decision.BLOCK else None,
            textposition="outside",
            cliponaxis=False,
            textfont={"color": "--aegis-muted", "size": 11},
            marker={"color": f"--aegis-{decision.label}-fill"},
        )
        for decision, count in zip((Decision.REVIEW, Decision.BLOCK), n, strict=True)
    ]
    return figure(
        traces,
        barmode="stack",
        bargap=0.35,
        margin={"l": 70, "r": 44, "t": 4, "b": 26},
        xaxis={"rangemode": "tozero", "nticks": 4},
        yaxis={"ticksuffix": " "},
    )


@dataclass(frozen=True)
class Budget:
    """Alerts since midnight UTC, and the budget's share of the verdicts since then.

    Both also for the coming midnight, if the rest of the day goes on as the last hour.
    """

    used: int
    allowed: float
    forecast: float
    allowed_by_midnight: float


def budget(today: Counts, share: float, now: dt.datetime) -> Budget:
    """How much of the alert budget is used; `today` counts since midnight."""
    at = seconds(now)
    midnight = at // DAY_S * DAY_S
    first = (at - 3_600) // today.width_s * today.width_s
    hour = today.only(today.start >= first)
    # Where all came within the last minutes, the hour before did not have them either.
    left = (midnight + DAY_S - at) / max(60.0, at - max(midnight, first))
    used, n = today.total(1, 2), today.total()
    return Budget(
        used, share * n, used + left * hour.total(1, 2), share * (n + left * hour.total())
    )


def budget_figure(today: Counts, share: float, now: dt.datetime) -> dict[str, Any]:
    """Alerts since midnight as they added up, the budget, and both as they may go on."""
    at = seconds(now)
    midnight = at // DAY_S * DAY_S
    begin = float(today.start.min()) if len(today.start) else midnight
    starts, counts = today.bars(begin, at)
    alerts, verdicts = np.cumsum(counts[1:].sum(axis=0)), np.cumsum(counts.sum(axis=0))
    found = budget(today, share, now)
    times = np.concatenate([[begin], np.minimum(starts + today.width_s, at)]) * 1_000
    ahead = np.array([at, midnight + DAY_S]) * 1_000
    by_midnight = [found.allowed, found.allowed_by_midnight]
    lines = (
        ("alerts", "--aegis-block-fill", "solid", times, np.concatenate([[0], alerts])),
        ("forecast", "--aegis-block-fill", "dot", ahead, [found.used, found.forecast]),
        ("budget", "--aegis-approve", "solid", times, np.concatenate([[0], share * verdicts])),
        ("budget to midnight", "--aegis-approve", "dot", ahead, by_midnight),
    )
    traces = [
        {"showlegend": dash == "solid"}
        | line(name, "%{y:,.1f}", packed(x, "f8"), y, color=colour, dash=dash, width=2)
        for name, colour, dash, x, y in lines
    ]
    return figure(
        traces,
        hovermode="x unified",
        xaxis={
            "type": "date",
            "range": [begin * 1_000, (midnight + DAY_S) * 1_000],
            "nticks": 5,
            "tickformat": "%H:%M",
        },
        yaxis={"rangemode": "tozero", "nticks": 5},
    )


def spoken(seconds: int) -> str:
    """A bar's width in the largest unit that divides it.

    >>> [spoken(s) for s in (1, 30, 60, 1800, 10800, 86400)]
    ['second', '30 seconds', 'minute', '30 minutes', '3 hours', 'day']
    """
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds % size == 0:
            n = seconds // size
            return unit if n == 1 else f"{n} {unit}s"
    return f"{seconds} s"


def latency_figure(stats: Columns) -> dict[str, Any]:
    """Time from a request's arrival to its answer, and transactions a second."""
    at = packed(stats["at"] * 1_000, "f8")
    rate = stats["transactions"] / np.maximum(stats["seconds"], 1e-9)
    lines = (
        ("p99", "--aegis-block-fill", "y", stats["p99_ms"], "%{y:,.1f} ms"),
        ("p50", "--aegis-approve", "y", stats["p50_ms"], "%{y:,.1f} ms"),
        ("a second", "--aegis-live", "y2", rate, "%{y:,.1f}"),
    )
    traces = [
        {"yaxis": axis}
        | ({"fill": "tozeroy", "fillcolor": "--aegis-live-fill"} if axis == "y2" else {})
        | line(name, hover, at, values, color=colour, width=1.8)
        for name, colour, axis, values, hover in lines
    ]
    upright: dict[str, object] = {"rangemode": "tozero"}
    return figure(
        traces,
        hovermode="x unified",
        xaxis={"type": "date", "nticks": 5, "tickformat": "%H:%M", "anchor": "y2"},
        yaxis=upright | {"domain": [0.5, 1], "nticks": 4, "title": {"text": "ms"}},
        yaxis2=upright | {"domain": [0, 0.4], "nticks": 3, "title": {"text": "per second"}},
    )


def drift(risk: Floats) -> tuple[Floats, float]:
    """Share of scores in each of `RISK_BINS` equal shares of the training scores, and the PSI.

    Without drift each share is the same. The population stability index is the sum of
    (share - expected) * log(share / expected); above 0.2 it is usually called a shift. Scores that
    tie with the lowest of training stand for all shares up to the next one seen, and are spread
    over these.

    >>> drift(np.linspace(0.05, 99.95, 1000))[1] < 1e-9
    True
    """
    lowest, rest = risk <= 0, risk[risk > 0]
    if lowest.any() and len(rest):
        tied = np.linspace(0, rest.min(), int(lowest.sum()), endpoint=False)
        risk = np.concatenate([tied, rest])
    counts, _ = np.histogram(risk, RISK_BINS, (0.0, 100.0))
    expected = 1 / RISK_BINS
    share = counts / max(1, counts.sum())
    smooth = np.maximum(share, 1e-4)
    return share, float(((smooth - expected) * np.log(smooth / expected)).sum())


def of_champion(window: Columns, promoted_at: float | None) -> Floats:
    """Risks of the window by the champion of now: those of one before are of other scores."""
    risk: Floats = np.asarray(window["risk"], float)[window["scored_at"] >= (promoted_at or 0.0)]
    return risk


def drift_note(risk: Floats, *, whole: bool) -> str:
    """What the scores say of drift; nothing where they are few, or not of the `whole` traffic.

    >>> drift_note(np.linspace(0.05, 99.95, 5000), whole=True)
    'PSI 0.00, stable; 5,000 newest'
    >>> drift_note(np.zeros(51), whole=True), drift_note(np.zeros(5000), whole=False)
    ('51 by this champion, too few to judge', '5,000 that pass the filters; drift is told of all')
    """
    n = len(risk)
    if not whole:
        return f"{n:,} that pass the filters; drift is told of all"
    if n < FEWEST:
        return f"{n:,} by this champion, too few to judge"
    index = drift(risk)[1]
    word = "stable" if index < 0.1 else "moving" if index < 0.2 else "shifted"
    return f"PSI {index:.2f}, {word}; {n:,} newest"


def drift_figure(risk: Floats) -> dict[str, Any]:
    """Scores now, by where they would stand among those of training."""
    share, _ = drift(risk)
    width = 100 / RISK_BINS
    now = {"width": width * 0.86, "marker": {"color": "--aegis-approve-fill"}}
    look = {"color": "--aegis-review-fill", "width": 2, "dash": "dash"}
    middles = packed((np.arange(RISK_BINS) + 0.5) * width)
    return figure(
        [
            trace("bar", "now", "%{y:.1f} %", x=middles, y=packed(100 * share), **now),
            line("in training", "%{y:.1f} %", packed(np.array([0, 100])), [width, width], **look),
        ],
        hovermode="x unified",
        xaxis={"title": {"text": "percentile of the score in training"}, "range": [0, 100]},
        yaxis={"rangemode": "tozero", "ticksuffix": " %", "nticks": 5},
    )


def unpacked(given: Any, colours: Mapping[str, str]) -> Any:
    """A figure for plotly.py: columns as arrays, and colours where `board.css` has names.

    >>> unpacked([packed(np.array([1.0])), "--aegis-block-fill"], {"block": "red"})
    [array([1.], dtype=float32), 'red']
    """
    if isinstance(given, str) and given.startswith("--aegis-"):
        return colours[given.split("-")[3]]
    if isinstance(given, list):
        return [unpacked(value, colours) for value in given]
    if isinstance(given, dict):
        if "column" in given:
            return np.frombuffer(given["column"], f"<{given['type']}")
        return {key: unpacked(value, colours) for key, value in given.items()}
    return given
