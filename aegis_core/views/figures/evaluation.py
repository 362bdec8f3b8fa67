"""Pictures of test windows: how good the order is, what was caught, and which model is ahead."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from aegis_core.views.figures.house import COLOURS, by_detector, colour, in_house, nothing, plain

FEW: Final = 5
"""Transactions of a burst that may well pass before its first alert."""


def compared(table: pd.DataFrame) -> go.Figure:
    """Every detector by every figure: a point a fold, a stroke for the mean, floor and ceiling.

    `table` is `Evaluation.table`.

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
        at = {"row": 1 + i // 2, "col": 1 + i % 2}
        words = str(name).replace("_", " ")
        told = f"%{{y}}: %{{x:.3f}}<extra>{words}, %{{fullData.name}}</extra>"
        line = {"width": 3, "color": [colour(str(d)) for d in mean.index]}
        stroke = {"symbol": "line-ns", "size": 22, "line": line}
        point = {"color": [colour(d) for d in part["detector"]]}
        drawn.add_scatter(x=mean["value"], y=mean.index, name="mean", marker=stroke, **at)
        drawn.add_scatter(x=part["value"], y=part["detector"], name="fold", marker=point, **at)
        drawn.update_traces(hovertemplate=told, **at)
        for word in ("floor", "ceiling"):
            line = {"color": COLOURS["random"], "dash": "dot"}
            drawn.add_vline(mean[word].mean(), line=line, annotation_text=word, **at)
        most = max(mean["ceiling"].mean(), part["value"].max())
        drawn.update_xaxes(title=words, range=[-0.02 * most, 1.2 * most], **at)
    drawn.update_traces(mode="markers", opacity=0.8, showlegend=False)
    drawn.update_yaxes(autorange="reversed")
    title = "The forest and what it has to beat"
    return in_house(drawn, title=title, height=600, margin_l=110, margin_t=64)


def precision_recall(curves: pd.DataFrame) -> go.Figure:
    """Precision at each recall: what an alert is worth the further down the list one looks.

    `curves` are `Evaluation.curves`.

    >>> curve = {"detector": ["forest"] * 2, "recall": [0.5, 1.0], "precision": [0.9, 0.1]}
    >>> precision_recall(pd.DataFrame(curve)).data[0].y.tolist()
    [90.0, 10.0]
    """
    if not len(curves):
        return nothing("No fraud is labelled in the test windows, so there is no curve to draw.")
    drawn = px.line(
        curves.assign(recall=100 * curves["recall"], precision=100 * curves["precision"].round(5)),
        x="recall",
        y="precision",
        **by_detector(curves),
        labels={
            "recall": "recall: share of the frauds found (%)",
            "precision": "precision: share of alerts that are fraud (%)",
        },
        title="Precision and recall",
    )
    drawn.update_traces(
        line_width=1.5, hovertemplate="%{y:.1f} % of the alerts are fraud when %{x:.0f} % are found"
    )
    drawn.update_traces(line_width=3, selector={"name": "forest"})
    return in_house(drawn, xaxis_range=[0, 100], yaxis_range=[0, 102], margin_t=104, height=480)


def recall_bars(recall: pd.DataFrame) -> go.Figure:
    """How many of the frauds of each scenario were caught.

    `recall` is `Evaluation.recall`: columns scenario, frauds, caught, recall in [0, 1].

    >>> row = {"scenario": ["night"], "frauds": [4], "caught": [3], "recall": [0.75]}
    >>> recall_bars(pd.DataFrame(row)).data[0].text.tolist()
    ['3 of 4']
    """
    if not len(recall):
        return nothing("No fraud is labelled in the test windows, so there is none to catch.")
    caught = [f"{a:,} of {b:,}" for a, b in zip(recall["caught"], recall["frauds"], strict=True)]
    drawn = px.bar(
        recall.assign(recall=100 * recall["recall"], scenario=recall["scenario"].astype(str)),
        x="recall",
        y="scenario",
        text=caught,
        orientation="h",
        color_discrete_sequence=[COLOURS["normal"]],
        range_x=[0, 115],
        labels={"recall": "recall (%)"},
        title="Caught, by kind of fraud",
    )
    drawn.update_traces(
        textposition="outside",
        cliponaxis=False,
        width=0.6,
        hovertemplate="%{y}: %{x:.1f} %, %{text}<extra></extra>",
    )
    drawn.update_yaxes(type="category", autorange="reversed")
    return in_house(drawn, height=180 + 32 * len(recall), margin_l=110, margin_t=48)


def daily_alerts(days: pd.DataFrame) -> go.Figure:
    """Alerts of each day, right and wrong, beside the frauds that there were.

    `days` are of `calibration.alerts_per_day`.

    >>> day = {"day": ["2026-01-01"], "alerts": [9], "caught": [4], "frauds": [6]}
    >>> [(trace.name, int(trace.y[0])) for trace in daily_alerts(pd.DataFrame(day)).data]
    [('caught fraud', 4), ('false alarm', 5), ('frauds there were', 6)]
    """
    if not len(days):
        return nothing("No day was tested.")
    right, alerts = days["caught"], days["alerts"]
    return stacked_days(days.assign(right=right, wrong=alerts - right)).update_layout(
        title="Alerts a day"
    )


def stacked_days(days: pd.DataFrame) -> go.Figure:
    """Bars of the columns right and wrong of each `day`, and a stroke for its frauds."""
    looks = {"caught fraud": COLOURS["fraud"], "false alarm": COLOURS["burst"]}
    drawn = px.bar(
        days.rename(columns=dict(zip(("right", "wrong"), looks, strict=True))),
        x="day",
        y=list(looks),
        color_discrete_map=looks,
        pattern_shape="variable",
        pattern_shape_sequence=["", "/"],
        labels={"day": "day (UTC)", "value": "transactions a day"},
    )
    size = min(24, 2 + 340 / len(days))
    stroke = {"color": COLOURS["forest"], "symbol": "line-ew-open", "size": size}
    name = "frauds there were"
    drawn.add_scatter(x=days["day"], y=days["frauds"], name=name, mode="markers", marker=stroke)
    drawn.update_traces(hovertemplate="%{x|%a %Y-%m-%d}: %{y:,}")
    return in_house(drawn, xaxis_type="date", yaxis_rangemode="tozero")


def bursts(frame: pd.DataFrame) -> go.Figure:
    """How quickly bursts are noticed: by transactions and by seconds until the first alert.

    The further left a line rises, the less a burst got through. Left of the dotted line, at most
    `FEW` transactions did. Where a line ends below 100 %, the rest was never noticed.

    `frame` is of `evaluation.bursts`: let_through and seconds are the policy's, those that begin
    with counter_ the exact counter's alone.

    >>> told = {"let_through": [2, None], "seconds": [30, None]}
    >>> frame = pd.DataFrame(told | {"counter_let_through": [4, 5], "counter_seconds": [60, 70]})
    >>> [(trace.name, trace.y.tolist()) for trace in bursts(frame).data[:2]]
    [('policy: 1 of 2', [0.0, 50.0, 50.0]), ('exact counter: 2 of 2', [0.0, 50.0, 100.0, 100.0])]
    """
    if not len(frame):
        return nothing("There is no burst in the test windows, so none could be noticed.")
    measures = (
        ("transactions let through", "let_through"),
        ("seconds until the first alert", "seconds"),
    )
    looks = (
        ("", "policy", "forest", "solid", "circle"),
        ("counter_", "exact counter", "amount", "dash", "diamond"),
    )
    drawn = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.06)
    for i, (measure, column) in enumerate(measures):
        known = {prefix: frame[prefix + column].dropna().to_numpy(float) for prefix, *_ in looks}
        most = max(times.max(initial=0) for times in known.values())
        for prefix, name, look, dash, symbol in looks:
            times, counts = np.unique(known[prefix], return_counts=True)
            drawn.add_scatter(
                name=f"{name}: {counts.sum():,} of {len(frame):,}",
                x=np.r_[0, times, most],
                y=100 * np.r_[0, np.cumsum(counts), counts.sum()] / len(frame),
                line={"color": COLOURS[look], "dash": dash, "shape": "hv"},
                marker={"symbol": symbol, "size": 6},
                legendgroup=name,
                showlegend=i == 0,
                hovertemplate=f"%{{y:.0f}} % of the bursts within %{{x:,.0f}} {measure}"
                f"<extra>{name}</extra>",
                row=1,
                col=1 + i,
            )
        drawn.update_xaxes(title=measure, rangemode="tozero", row=1, col=1 + i)
    drawn.update_traces(mode="lines+markers", cliponaxis=False)
    line = {"color": COLOURS["random"], "dash": "dot", "width": 2}
    note = {"annotation_text": f"{FEW}", "annotation_position": "bottom right"}
    drawn.add_vline(FEW, line=line, row=1, col=1, **note)
    drawn.update_yaxes(title="bursts noticed (%)", range=[0, 104], col=1)
    return in_house(drawn, title="How soon bursts are noticed")


def differences(
    frame: pd.DataFrame, challenger: str = "challenger", champion: str = "champion"
) -> go.Figure:
    """How much better a challenger is than the champion, with an interval, fold by fold.

    Right of the line the challenger is ahead. An interval across the line (open mark) leaves open
    who is, and so does a difference without an interval; an interval beside it does not.

    `frame` is `Evaluation.differences`.

    >>> row = {"fold": ["all", 0], "difference": [0.2, 0.1], "low": [0.1, -0.1], "high": [0.3, 0.3]}
    >>> [(trace.name, list(trace.y)) for trace in differences(pd.DataFrame(row)).data]
    [('challenger ahead', ['all folds']), ('open', ['fold 0'])]
    """
    measured = {"difference": float, "low": float, "high": float}
    frame = frame.astype(measured).dropna(subset="difference")
    if not len(frame):
        return nothing("There is no fold on which champion and challenger can be compared.")
    challenger, champion = plain(challenger), plain(champion)
    above, below = frame["low"] > 0, frame["high"] < 0
    ahead, open_, behind = f"{challenger} ahead", "open", f"{champion} ahead"
    bounds = zip(frame["low"], frame["high"], strict=True)
    frame = frame.assign(
        fold=["all folds" if f == "all" else f"fold {f}" for f in frame["fold"]],
        who=np.select([above, below], [ahead, behind], open_),
        interval=[f"{a:+.3f} to {b:+.3f}" if a <= b else "no interval" for a, b in bounds],
        more=frame["high"] - frame["difference"],
        less=frame["difference"] - frame["low"],
    )
    looks = (COLOURS["normal"], COLOURS["random"], COLOURS["fraud"])
    order = (ahead, open_, behind)
    drawn = px.scatter(
        frame,
        x="difference",
        y="fold",
        color="who",
        symbol="who",
        error_x="more",
        error_x_minus="less",
        text="interval",
        color_discrete_map=dict(zip(order, looks, strict=True)),
        symbol_map=dict(zip(order, ("circle", "circle-open", "x"), strict=True)),
        category_orders={"who": list(order), "fold": frame["fold"].tolist()},
        labels={"difference": "difference in average precision", "fold": ""},
        title=f"{challenger.capitalize()} minus {champion}",
    )
    drawn.update_traces(
        mode="markers",
        marker_size=12,
        error_x={"thickness": 2, "width": 6},
        hovertemplate="%{y}: %{x:+.3f} (%{text})",
    )
    drawn.update_yaxes(type="category")
    drawn.add_vline(0, line={"color": COLOURS["forest"], "width": 1})
    return in_house(drawn, showlegend=True, height=200 + 36 * len(frame), margin_l=80)
