"""Pictures of the data: who pays what when, and what fraud looks like among it."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from aegis_core.metrics import families
from aegis_core.schema import LOOK_ALIKES, SCENARIOS
from aegis_core.views.figures.house import COLOURS, in_house

MOST_POINTS: Final = 2_000
"""Transactions of a kind that `landscape` shows."""


def payments(frame: pd.DataFrame, title: str) -> go.Figure:
    """What somebody paid and when, by what was decided about it.

    `frame` has the columns ts, amount, category and decision (missing: nothing was decided).

    >>> day = pd.Timestamp("2026-01-01")
    >>> frame = pd.DataFrame({"ts": day, "amount": 9.5, "category": "fuel", "decision": ["block"]})
    >>> [trace.name for trace in payments(frame, "One payment").data]
    ['block']
    """
    symbols = {"not scored": "circle", "approve": "circle", "review": "diamond", "block": "x"}
    drawn = px.scatter(
        frame.assign(decision=frame["decision"].fillna("not scored")),
        x="ts",
        y="amount",
        color="decision",
        symbol="decision",
        color_discrete_map=COLOURS | {"not scored": COLOURS["random"]},
        symbol_map=symbols,
        category_orders={"decision": list(symbols)},
        hover_data={"amount": ":,.2f", "category": True},
        labels={"ts": "time (UTC)"},
        log_y=True,
        render_mode="svg",
        title=title,
    )
    drawn.update_traces(marker_size=11)
    drawn.update_traces(marker_size=6, opacity=0.6, selector={"marker.symbol": "circle"})
    return in_house(drawn, yaxis_dtick=1)


def hours(frame: pd.DataFrame) -> go.Figure:
    """The day of ordinary customers and of fraud: the share of each that falls into a local hour.

    `frame` has the columns local_hour, in [0, 24), and is_fraud.

    >>> frame = pd.DataFrame({"local_hour": [3.2, 9.5, 9.9], "is_fraud": [True, False, False]})
    >>> [trace.y.max().item() for trace in hours(frame).data]
    [100.0, 100.0]
    """
    kinds = {"ordinary": COLOURS["normal"], "fraud": COLOURS["fraud"]}
    kind = np.where(frame["is_fraud"], "fraud", "ordinary")
    hour = np.floor(frame["local_hour"]) + 0.5
    share = 100 * pd.crosstab(hour, kind, normalize="columns")
    drawn = px.bar(
        share.reindex(index=np.arange(24) + 0.5, columns=list(kinds), fill_value=0.0),
        barmode="group",
        color_discrete_map=kinds,
        labels={"value": "share of its kind (%)", "local_hour": "local hour of day (h)"},
        title="When people buy, and when fraud happens",
    )
    drawn.update_traces(hovertemplate="%{x:.0f} h: %{y:.1f} %")
    return in_house(drawn, xaxis_dtick=3, xaxis_range=[0, 24])


def landscape(frame: pd.DataFrame) -> go.Figure:
    """Every scenario among ordinary transactions: how much beyond habit, and at what hour.

    `frame` has the columns local_hour, ratio (amount / the customer's mean so far) and scenario; at
    most `MOST_POINTS` of each kind are shown, evenly spaced in time.

    >>> frame = pd.DataFrame({"local_hour": [3, 9], "ratio": [8, 1], "scenario": ["night", None]})
    >>> [trace.name for trace in landscape(frame).data]
    ['ordinary', 'night']
    """
    kind = families(frame["scenario"]).fillna("ordinary").astype(object)
    every = 1 + kind.map(kind.value_counts()) // MOST_POINTS
    drawn = px.scatter(
        frame.assign(scenario=kind)[kind.groupby(kind).cumcount() % every == 0],
        x="local_hour",
        y="ratio",
        color="scenario",
        color_discrete_map=COLOURS | {"ordinary": COLOURS["random"]},
        category_orders={"scenario": ["ordinary", *SCENARIOS, *LOOK_ALIKES]},
        hover_data={"local_hour": ":.1f", "ratio": ":.1f"},
        labels={
            "local_hour": "local hour of day (h)",
            "ratio": "amount / customer's mean so far (×)",
        },
        log_y=True,
        render_mode="svg",
        title="Fraud among ordinary transactions",
    )
    drawn.update_traces(marker_size=6, opacity=0.8)
    drawn.update_traces(marker_size=4, opacity=0.4, selector={"name": "ordinary"})
    axes = {"xaxis_dtick": 3, "xaxis_range": [0, 24], "yaxis_dtick": 1}
    return in_house(drawn, **axes, height=480)


def audit_heatmap(audit: pd.DataFrame) -> go.Figure:
    """How well each rule finds each scenario: average precision, as `difficulty.audit` gives it.

    Rules are in rows, `floor` last, `all` and the scenarios in columns; values in [0, 1].

    >>> drawn = audit_heatmap(pd.DataFrame({"all": [0.4, 0.1]}, index=["speed", "floor"]))
    >>> drawn.data[0].y.tolist()
    ['speed', 'floor']
    """
    drawn = px.imshow(
        audit,
        text_auto=".2f",
        zmin=0,
        zmax=1,
        aspect="auto",
        color_continuous_scale=[[0, "#FFFFFF"], [1, COLOURS["normal"]]],
        labels={"x": "which fraud", "y": "rule", "color": "average<br>precision"},
        title="Average precision of each rule on each scenario",
    )
    return in_house(drawn, yaxis_automargin=True)
