"""Pictures of the data: who pays what when, and what fraud looks like among it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from aegis_core.schema import SCENARIOS
from aegis_core.views.figures.house import COLOURS, figure

if TYPE_CHECKING:
    import pandas as pd


def payments(frame: pd.DataFrame, title: str) -> go.Figure:
    """What somebody paid and when, by what was decided about it.

    Parameters
    ----------
    frame
        Columns ts, amount, category and decision, which is missing where nothing was decided.

    >>> import pandas as pd
    >>> day = pd.Timestamp("2026-01-01")
    >>> frame = pd.DataFrame({"ts": day, "amount": 9.5, "category": "fuel", "decision": ["block"]})
    >>> [trace.name for trace in payments(frame, "One payment").data]
    ['block']
    """
    decisions = frame["decision"].fillna("not scored")
    looks = (
        ("not scored", "random", "circle"),
        ("approve", "approve", "circle"),
        ("review", "review", "diamond"),
        ("block", "block", "x"),
    )
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": rows["ts"],
            "y": rows["amount"],
            "text": rows["category"],
            "marker": {
                "color": COLOURS[colour],
                "symbol": symbol,
                "size": 6 if symbol == "circle" else 11,
                "opacity": 0.6 if symbol == "circle" else 1,
            },
            "hovertemplate": f"{name}: %{{y:,.2f}} for %{{text}}, %{{x}}<extra></extra>",
        }
        for name, colour, symbol in looks
        if len(rows := frame[decisions == name])
    ]
    return figure(
        traces,
        {
            "title": title,
            "xaxis": {"title": "time (UTC)"},
            "yaxis": {"title": "amount", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def hours(frame: pd.DataFrame) -> go.Figure:
    """The day of ordinary customers and of fraud: the share of each that falls into a local hour.

    Parameters
    ----------
    frame
        Columns local_hour, in [0, 24), and is_fraud.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"local_hour": [3.2, 9.5, 9.9], "is_fraud": [True, False, False]})
    >>> [trace.y.max().item() for trace in hours(frame).data]
    [100.0, 100.0]
    """
    edges = np.arange(25)
    counted = {
        name: np.histogram(frame.loc[frame["is_fraud"] == fraud, "local_hour"], edges)[0]
        for name, fraud in (("ordinary", False), ("fraud", True))
    }
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": edges[:-1] + 0.5,
            "y": 100 * counts / max(counts.sum(), 1),
            "marker": {"color": COLOURS["normal" if name == "ordinary" else "fraud"]},
            "hovertemplate": "%{x:.0f} h: %{y:.1f} %",
        }
        for name, counts in counted.items()
    ]
    return figure(
        traces,
        {
            "title": "When people buy, and when fraud happens",
            "xaxis": {"title": "local hour of day (h)", "dtick": 3, "range": [0, 24]},
            "yaxis": {"title": "share of its kind (%)", "rangemode": "tozero"},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def landscape(frame: pd.DataFrame, most: int = 2_000) -> go.Figure:
    """Every scenario among ordinary transactions: how much beyond habit, and at what hour.

    Parameters
    ----------
    frame
        Columns local_hour, ratio (amount / the customer's mean so far) and scenario.
    most
        Points shown of each kind, evenly spaced in time.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"local_hour": [3, 9], "ratio": [8, 1], "scenario": ["night", None]})
    >>> [trace.name for trace in landscape(frame).data]
    ['ordinary', 'night']
    """
    kinds = {"ordinary": frame["scenario"].isna()}
    kinds |= {name: frame["scenario"] == name for name in SCENARIOS}
    traces = []
    for name, chosen in kinds.items():
        rows = frame[chosen]
        rows = rows.iloc[:: 1 + len(rows) // most]
        if len(rows):
            ordinary = name == "ordinary"
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": rows["local_hour"].round(2),
                    "y": rows["ratio"].round(3),
                    "marker": {
                        "color": COLOURS["random" if ordinary else name],
                        "size": 4 if ordinary else 6,
                        "opacity": 0.4 if ordinary else 0.8,
                    },
                    "hovertemplate": f"{name}: %{{y:.1f}}× at %{{x:.1f}} h<extra></extra>",
                }
            )
    return figure(
        traces,
        {
            "title": "Fraud among ordinary transactions",
            "xaxis": {"title": "local hour of day (h)", "dtick": 3, "range": [0, 24]},
            "yaxis": {"title": "amount / customer's mean so far (×)", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
            "height": 480,
        },
    )


def audit_heatmap(audit: pd.DataFrame) -> go.Figure:
    """How well each rule finds each scenario: average precision, as `difficulty.audit` gives it.

    Parameters
    ----------
    audit
        Rules in rows, `floor` last; `all` and the scenarios in columns; values in [0, 1].

    >>> import pandas as pd
    >>> audit_heatmap(pd.DataFrame({"all": [0.4, 0.1]}, index=["speed", "floor"])).data[0].y
    ('speed', 'floor')
    """
    trace = {
        "type": "heatmap",
        "x": list(audit.columns),
        "y": list(audit.index),
        "z": audit.to_numpy(),
        "texttemplate": "%{z:.2f}",
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "#FFFFFF"], [1, COLOURS["normal"]]],
        "colorbar": {"title": {"text": "average<br>precision"}},
        "hovertemplate": "%{y} on %{x}: %{z:.3f}<extra></extra>",
    }
    return figure(
        [trace],
        {
            "title": "Average precision of each rule on each scenario",
            "xaxis": {"title": "which fraud", "side": "bottom"},
            "yaxis": {"title": "rule", "autorange": "reversed", "automargin": True},
        },
    )
