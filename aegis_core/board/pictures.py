"""From a snapshot to tiles and charts, as plain dictionaries that the page and plotly.py can draw.

Columns are packed as bytes and colours are names of `board.css`: `chart.js` resolves both in the
page, `unpacked` does for plotly.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aegis_core.board.feed import DECISIONS, RATE_OVER_S, Snapshot
from aegis_core.schema import Decision

if TYPE_CHECKING:
    import numpy.typing as npt

    from aegis_core.board.feed import Floats

MOST_BARS: Final = 90
BAR_WIDTHS_S: Final = (1, 2, 5, 10, 30, 60, 300, 900, 1800, 3600, 10800, 43200, 86400, 604800)


@dataclass(frozen=True)
class Axis:
    """A column of the window that the scatter can show, and how."""

    title: str
    format: str
    layout: Mapping[str, object] = field(default_factory=dict)


AXES: Final = {
    "hour": Axis("hour of day (UTC)", ".1f", {"range": [0, 24], "dtick": 3}),
    "amount": Axis("amount", ",.2f", {"type": "log"}),
    "distance": Axis("distance from the last place (km)", ",.0f", {"rangemode": "tozero"}),
    "travel": Axis("travel evidence (nats)", ".2f", {"rangemode": "tozero"}),
    "risk": Axis("risk (percentile of ordinary traffic)", ".2f"),
    "score": Axis("anomaly score", ".3f"),
}
CLOCKS: Final = {"scored_at": "time of scoring (UTC)", "ts": "time of the transaction (UTC)"}


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


def scatter_figure(window: Mapping[str, Floats], x: str, y: str, z: str = "") -> dict[str, Any]:
    """Normal and anomalous transactions over two columns of the window, or three."""
    axes = {"x": x, "y": y} | ({"z": z} if z else {})
    hover = "<br>".join(f"{AXES[c].title} %{{{a}:{AXES[c].format}}}" for a, c in axes.items())
    traces = []
    for decision, (name, symbol, size) in zip(Decision, _SHOWN_AS, strict=True):
        of_kind = window["decision"] == decision
        traces.append(
            {
                "type": "scatter3d" if z else "scattergl",
                "mode": "markers",
                "name": name,
                "marker": {
                    "size": size / 2 if z else size,
                    "symbol": symbol,
                    # Translucent points add up to white in space.
                    "color": f"--aegis-{decision.label}" + ("" if z else "-fill"),
                },
                "hovertemplate": f"{hover}<extra>{name}</extra>",
                **{axis: packed(window[column][of_kind]) for axis, column in axes.items()},
            }
        )
    named = {
        f"{a}axis": {"title": {"text": AXES[c].title}, **AXES[c].layout} for a, c in axes.items()
    }
    layout: dict[str, object] = {**named}
    if z:
        camera = {"eye": {"x": 1.7, "y": 1.7, "z": 0.8}}
        layout = {"scene": {**named, "camera": camera}, "margin": dict.fromkeys("lrtb", 0)}
    return {"traces": traces, "layout": {**layout, "uirevision": f"{x} {y} {z}"}}


def bars_figure(window: Mapping[str, Floats], clock: str) -> dict[str, Any]:
    """Verdicts over time, stacked by decision; `clock` is "scored_at" or "ts"."""
    starts, counts, width_s = stacked_bars(window[clock], window["decision"])
    middles = packed((starts + width_s / 2) * 1_000, "f8")
    traces = [
        {
            "type": "bar",
            "name": decision.label,
            "x": middles,
            "y": packed(count),
            "marker": {"color": f"--aegis-{decision.label}-fill", "line": {"width": 0}},
            "hovertemplate": f"%{{y}}<extra>{decision.label}</extra>",
        }
        for decision, count in zip(Decision, counts, strict=True)
    ]
    return {
        "traces": traces,
        "layout": {
            "barmode": "stack",
            "bargap": 0.08,
            "hovermode": "x unified",
            "xaxis": {"type": "date", "title": {"text": CLOCKS[clock]}, "nticks": 7},
            "yaxis": {"title": {"text": f"verdicts per {spoken(width_s)}"}, "rangemode": "tozero"},
            "uirevision": clock,
        },
    }


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


def tiles(snapshot: Snapshot, trends: Mapping[str, Iterable[float]]) -> list[dict[str, Any]]:
    """The four numbers at the top, in words, with what they count."""
    s = snapshot
    known = "no labels known yet"
    if s.n_labelled:
        share = s.n_known_fraud / s.n_labelled
        known = f"{share:.2%} of {s.n_labelled:,} labelled are fraud"
    last = f"last verdict {s.last_scored_at:%H:%M:%S} UTC" if s.last_scored_at else "no verdict yet"
    numbers = {
        "transactions": (
            "Transactions",
            f"{s.n_transactions:,}",
            f"{s.n_verdicts:,} with a verdict",
        ),
        "fraud_rate": ("Fraud rate", f"{s.alert_share:.2%}", f"of verdicts are alerts · {known}"),
        "blocked": ("Blocked", f"{s.tally['block']:,}", f"{s.tally['review']:,} to review"),
        "rate": ("Rate", f"{s.rate_per_s:,.1f} / s", f"over {RATE_OVER_S:.0f} s · {last}"),
    }
    return [
        {
            "id": name,
            "label": label,
            "value": value,
            "note": note,
            "tone": "block" if name == "blocked" else "",
            "trend": list(trends.get(name, ())),
        }
        for name, (label, value, note) in numbers.items()
    ]


def stacked_bars(times: Floats, decisions: Floats) -> tuple[Floats, npt.NDArray[np.int64], int]:
    """Verdicts counted by time and decision, in bars of a round width.

    Parameters
    ----------
    times
        Seconds since 1970, of shape (n,), in any order.
    decisions
        0, 1 or 2 for each, as `schema.Decision`.

    Returns
    -------
    tuple
        The bars' starts of shape (m,) in seconds, the counts of shape (3, m), which sum to n,
        and the width in seconds, the smallest of `BAR_WIDTHS_S` that gives at most `MOST_BARS`.

    >>> starts, counts, width_s = stacked_bars(np.array([100.0, 100.5, 103.0]), np.array([0, 2, 0]))
    >>> starts.tolist(), counts.tolist(), width_s
    ([100.0, 101.0, 102.0, 103.0], [[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], 1)
    """
    if not len(times):
        return np.empty(0), np.zeros((len(DECISIONS), 0), np.int64), BAR_WIDTHS_S[0]
    first, last = times.min(), times.max()
    fits = (width for width in BAR_WIDTHS_S if last // width - first // width < MOST_BARS)
    width_s = next(fits, BAR_WIDTHS_S[-1])
    bar = (times // width_s - first // width_s).astype(np.int64)
    n_bars = int(bar.max()) + 1
    counts = np.zeros((len(DECISIONS), n_bars), np.int64)
    np.add.at(counts, (decisions.astype(np.int64), bar), 1)
    return (first // width_s + np.arange(n_bars)) * width_s, counts, width_s


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
