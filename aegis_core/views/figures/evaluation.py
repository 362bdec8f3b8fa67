"""Pictures of test windows: how good the order is, and what was caught."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from aegis_core.views.figures.house import COLOURS, LAYOUT, colour, figure, nothing

if TYPE_CHECKING:
    import pandas as pd


def compared(table: pd.DataFrame) -> go.Figure:
    """Every detector by every figure: a point a fold, a stroke for the mean, floor and ceiling.

    Parameters
    ----------
    table
        As `Evaluation.table`: columns fold, detector, name, value, floor, ceiling.

    >>> import pandas as pd
    >>> one = {"fold": [0], "detector": ["forest"], "name": ["auc_roc"], "value": [0.8]}
    >>> [t.name for t in compared(pd.DataFrame(one | {"floor": [0.5], "ceiling": [1.0]})).data]
    ['mean', 'fold']
    """
    table = table[table["ceiling"] > 0].dropna(subset="value")
    names = list(table["name"].unique())
    if not names:
        return nothing("No fraud is labelled in the test windows, so there is nothing to compare.")
    drawn = make_subplots((len(names) + 1) // 2, 2, shared_yaxes=True, vertical_spacing=0.2)
    for i, name in enumerate(names):
        part = table[table["name"] == name]
        mean = part.groupby("detector", sort=False)[["value", "floor", "ceiling"]].mean()
        line = {"width": 3, "color": [colour(str(d)) for d in mean.index]}
        style: list[dict[str, Any]] = [
            {"name": "mean", "marker": {"symbol": "line-ns", "size": 22, "line": line}},
            {"name": "fold", "marker": {"color": [colour(d) for d in part["detector"]]}},
        ]
        points = [(mean["value"], mean.index), (part["value"], part["detector"])]
        at = {"row": 1 + i // 2, "col": 1 + i % 2}
        words = str(name).replace("_", " ")
        for (x, y), look in zip(points, style, strict=True):
            told = f"%{{y}}: %{{x:.3f}}<extra>{words}, {look['name']}</extra>"
            trace = {"x": x, "y": y, "mode": "markers", "opacity": 0.8, "hovertemplate": told}
            drawn.add_trace(go.Scatter(trace | look, showlegend=False), **at)
        for word in ("floor", "ceiling"):
            line = {"color": COLOURS["random"], "dash": "dot"}
            drawn.add_vline(mean[word].mean(), line=line, annotation_text=word, **at)
        most = max(mean["ceiling"].mean(), part["value"].max())
        drawn.update_xaxes(title=words, range=[-0.02 * most, 1.2 * most], **at)
    drawn.update_yaxes(autorange="reversed")
    return drawn.update_layout(
        LAYOUT
        | {
            "title": "The forest and what it has to beat",
            "height": 600,
            "margin": {"l": 110, "r": 16, "t": 64, "b": 48},
        }
    )


def precision_recall(curves: pd.DataFrame) -> go.Figure:
    """Precision at each recall: what an alert is worth the further down the list one looks.

    Parameters
    ----------
    curves
        As `Evaluation.curves`: columns detector, recall, precision.

    >>> import pandas as pd
    >>> curve = {"detector": ["forest"] * 2, "recall": [0.5, 1.0], "precision": [0.9, 0.1]}
    >>> precision_recall(pd.DataFrame(curve)).data[0].y.tolist()
    [90.0, 10.0]
    """
    if not len(curves):
        return nothing("No fraud is labelled in the test windows, so there is no curve to draw.")
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": detector,
            "x": 100 * part["recall"].to_numpy(),
            "y": 100 * part["precision"].to_numpy().round(5),
            "line": {
                "color": colour(str(detector)),
                "width": 3 if detector == "forest" else 1.5,
                "dash": "dot" if detector in ("amount", "random") else "solid",
            },
            "hovertemplate": "%{y:.1f} % of the alerts are fraud when %{x:.0f} % are found",
        }
        for detector, part in curves.groupby("detector", sort=False)
    ]
    return figure(
        traces,
        {
            "title": "Precision and recall",
            "xaxis": {"title": "recall: share of the frauds found (%)", "range": [0, 100]},
            "yaxis": {"title": "precision: share of alerts that are fraud (%)", "range": [0, 102]},
            "margin": {"l": 64, "r": 16, "t": 104, "b": 48},
            "height": 480,
        },
    )


def recall_bars(recall: pd.DataFrame) -> go.Figure:
    """How many of the frauds of each scenario were caught.

    Parameters
    ----------
    recall
        As `Evaluation.recall`: columns scenario, frauds, caught, recall.

    >>> import pandas as pd
    >>> row = {"scenario": ["night"], "frauds": [4], "caught": [3], "recall": [0.75]}
    >>> recall_bars(pd.DataFrame(row)).data[0].text
    ('3 of 4',)
    """
    if not len(recall):
        return nothing("No fraud is labelled in the test windows, so there is none to catch.")
    pairs = zip(recall["caught"], recall["frauds"], strict=True)
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": 100 * recall["recall"],
        "y": recall["scenario"].astype(str),
        "text": [f"{caught:,} of {frauds:,}" for caught, frauds in pairs],
        "textposition": "outside",
        "cliponaxis": False,
        "width": 0.6,
        "marker": {"color": COLOURS["normal"]},
        "hovertemplate": "%{y}: %{x:.1f} %, %{text}<extra></extra>",
    }
    return figure(
        [trace],
        {
            "title": "Caught, by kind of fraud",
            "xaxis": {"title": "recall (%)", "range": [0, 115]},
            "yaxis": {"title": "scenario", "type": "category", "autorange": "reversed"},
            "height": 180 + 32 * len(recall),
            "margin": {"l": 110, "r": 16, "t": 48, "b": 48},
        },
    )


def daily_alerts(days: pd.DataFrame) -> go.Figure:
    """Alerts of each day, right and wrong, beside the frauds that there were.

    Parameters
    ----------
    days
        As `Evaluation.alerts_per_day`: columns day, alerts, caught, frauds.

    >>> import pandas as pd
    >>> day = {"day": ["2026-01-01"], "alerts": [9], "caught": [4], "frauds": [6]}
    >>> [(trace.name, int(trace.y[0])) for trace in daily_alerts(pd.DataFrame(day)).data]
    [('caught fraud', 4), ('false alarm', 5), ('frauds there were', 6)]
    """
    if not len(days):
        return nothing("No day was tested.")
    told = "%{x|%a %Y-%m-%d}: %{y:,}"
    traces = [
        {
            "type": "bar",
            "name": "caught fraud",
            "x": days["day"],
            "y": days["caught"],
            "marker": {"color": COLOURS["fraud"]},
            "hovertemplate": told,
        },
        {
            "type": "bar",
            "name": "false alarm",
            "x": days["day"],
            "y": days["alerts"] - days["caught"],
            "marker": {"color": COLOURS["burst"]},
            "hovertemplate": told,
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "frauds there were",
            "x": days["day"],
            "y": days["frauds"],
            "marker": {
                "color": COLOURS["forest"],
                "symbol": "line-ew-open",
                "size": min(24, 2 + 340 / len(days)),
            },
            "hovertemplate": told,
        },
    ]
    return figure(
        traces,
        {
            "title": "Alerts a day",
            "barmode": "stack",
            "xaxis": {"title": "day (UTC)"},
            "yaxis": {"title": "transactions a day", "rangemode": "tozero"},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def bursts(frame: pd.DataFrame, asked: int = 5) -> go.Figure:
    """How quickly bursts are noticed: by transactions and by seconds until the first alert.

    The further left a line rises, the less a burst got through. Left of the dotted line, at most
    `asked` transactions did. Where a line ends below 100 %, the rest was never noticed.

    Parameters
    ----------
    frame
        As `Evaluation.bursts`: one row a burst with let_through and seconds before the policy's
        first alert, counter_let_through and counter_seconds before that of the exact counter
        alone; missing if never.

    >>> import pandas as pd
    >>> told = {"let_through": [2, None], "seconds": [30, None]}
    >>> frame = pd.DataFrame(told | {"counter_let_through": [4, 5], "counter_seconds": [60, 70]})
    >>> [(trace.name, trace.y.tolist()) for trace in bursts(frame).data[:2]]
    [('policy: 1 of 2', [0.0, 50.0, 50.0]), ('exact counter: 2 of 2', [0.0, 50.0, 100.0, 100.0])]
    """
    if not len(frame):
        return nothing("There is no burst in the test windows, so none could be noticed.")
    measures = (
        ("transactions let through", ("let_through", "counter_let_through")),
        ("seconds until the first alert", ("seconds", "counter_seconds")),
    )
    drawn = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.06)
    for i, (measure, columns) in enumerate(measures):
        known = {column: frame[column].dropna().to_numpy(float) for column in columns}
        most = max(times.max(initial=0) for times in known.values())
        for column, name, look, dash, symbol in (
            (columns[0], "policy", "forest", "solid", "circle"),
            (columns[1], "exact counter", "amount", "dash", "diamond"),
        ):
            times, counts = np.unique(known[column], return_counts=True)
            reached = np.r_[0, times, most]
            share = 100 * np.r_[0, np.cumsum(counts), counts.sum()] / len(frame)
            trace = {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{name}: {counts.sum():,} of {len(frame):,}",
                "legendgroup": name,
                "showlegend": i == 0,
                "x": reached,
                "y": share,
                "line": {"color": COLOURS[look], "dash": dash, "shape": "hv"},
                "marker": {"symbol": symbol, "size": 6},
                "cliponaxis": False,
                "hovertemplate": f"%{{y:.0f}} % of the bursts within %{{x:,.0f}} {measure}"
                f"<extra>{name}</extra>",
            }
            drawn.add_trace(trace, row=1, col=1 + i)
        drawn.update_xaxes(title=measure, rangemode="tozero", row=1, col=1 + i)
    line = {"color": COLOURS["random"], "dash": "dot", "width": 2}
    drawn.add_vline(
        asked,
        line=line,
        annotation_text=f"{asked}",
        annotation_position="bottom right",
        row=1,
        col=1,
    )
    drawn.update_yaxes(title="bursts noticed (%)", range=[0, 104], col=1)
    return drawn.update_layout(
        LAYOUT
        | {
            "title": "How soon bursts are noticed",
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        }
    )
