"""Pictures of a policy: what was forecast, what a percentile is worth, what a budget would cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from aegis_core.views.figures.evaluation import stacked_days
from aegis_core.views.figures.house import COLOURS, by_detector, colour, in_house, nothing

_FOLDS = tuple(dict.fromkeys(COLOURS.values()))
_MARKS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "x", "hexagon")


def forecasts(frame: pd.DataFrame) -> go.Figure:
    """What was forecast before a policy was activated, as an interval, and what came.

    A bar is the interval for a single day, a stroke the forecast. A dot is the mean of the days
    that came, a cross the same where it lies outside of the bar. Below stands how many of the
    days lay within.

    `frame` is of `calibration.forecast`.

    >>> row = {"fold": 0, "kind": "alerts", "mean": 30, "low": 25, "high": 35, "came": 50}
    >>> drawn = forecasts(pd.DataFrame([row | {"days": 7, "inside": 2}]))
    >>> [(trace.name, trace.y.tolist()) for trace in drawn.data if len(trace.y)]
    [('interval for a day', [10]), ('forecast', [30]), ('came, outside', [50])]
    >>> drawn.layout.xaxis.ticktext
    ('fold 0<br>2 of 7 days',)
    """
    frame = frame.dropna(subset=["mean", "low", "high", "came"])
    kinds = list(frame["kind"].unique())
    if not kinds:
        return nothing("No fold was tested, so no forecast could be held against what came.")
    drawn = make_subplots(1, len(kinds), subplot_titles=[f"{kind} a day" for kind in kinds])
    for i, kind in enumerate(kinds):
        rows = frame[frame["kind"] == kind].sort_values("fold")
        inside = rows["came"].between(rows["low"], rows["high"])
        place = {"row": 1, "col": 1 + i}
        drawn.add_bar(
            name="interval for a day",
            x=rows["fold"],
            base=rows["low"],
            y=rows["high"] - rows["low"],
            width=0.4,
            marker={"color": COLOURS["burst"], "opacity": 0.5},
            customdata=rows[["low", "high"]],
            hovertemplate="fold %{x}: %{customdata[0]:,.0f} to %{customdata[1]:,.0f} a day"
            "<extra></extra>",
            **place,
        )
        for name, fold, height, symbol, look in (
            ("forecast", rows["fold"], rows["mean"], "line-ew-open", "forest"),
            ("came, inside", rows["fold"][inside], rows["came"][inside], "circle", "normal"),
            ("came, outside", rows["fold"][~inside], rows["came"][~inside], "x", "fraud"),
        ):
            size = 30 if name == "forecast" else 12
            drawn.add_scatter(
                name=name,
                x=fold,
                y=height,
                mode="markers",
                marker={"symbol": symbol, "size": size, "color": COLOURS[look]},
                cliponaxis=False,
                hovertemplate=f"fold %{{x}}: %{{y:,.1f}} a day<extra>{name}</extra>",
                **place,
            )
        within = zip(rows["fold"], rows["inside"], rows["days"], strict=True)
        drawn.update_xaxes(
            tickvals=rows["fold"],
            ticktext=[f"fold {fold}<br>{n} of {m} days" for fold, n, m in within],
            title="days within the interval",
            col=1 + i,
        )
        drawn.update_traces(showlegend=i == 0, **place)
    drawn.for_each_trace(lambda trace: trace.update(legendgroup=trace.name))
    drawn.update_yaxes(rangemode="tozero")
    drawn.update_yaxes(title="transactions a day", col=1)
    room = {"margin_t": 120, "margin_b": 64, "legend_y": 1.1}
    return in_house(drawn, title="Forecast, and what came", height=440, **room)


def reliability(frame: pd.DataFrame) -> go.Figure:
    """Whether a risk is the percentile it claims to be, on later weeks.

    On the dotted line, as much ordinary traffic came above a risk as it promised. Above the line
    there was more: the tail has grown heavier since the training window. Below it there was less,
    be it that fraud took the place. Where none came, an open triangle stands at the lower edge.

    `frame` is of `calibration.reliability`.

    >>> row = {"fold": 0, "risk": [90, 99.9], "promised": [0.1, 0.001], "came": [0.2, 0.0]}
    >>> drawn = reliability(pd.DataFrame(row | {"n": 500}))
    >>> drawn.data[1].y.round(2).tolist(), drawn.data[1].marker.symbol
    ([20.0, 0.07], ('circle', 'triangle-down-open'))
    """
    frame = frame.dropna(subset="came")
    frame = frame[frame["promised"] > 0].sort_values(["fold", "promised"], ascending=[True, False])
    if not len(frame):
        return nothing("No transaction was tested, so no risk could be checked.")
    shares = 100 * frame[["promised", "came"]]
    least, most = shares.where(shares > 0).min().min(), shares.max().max()
    edge = least / 1.5
    height = shares["came"].where(shares["came"] > 0, edge)
    folds = frame.assign(**shares, height=height, fold="fold " + frame["fold"].astype(str))
    ends = [least, most]
    ideal = pd.DataFrame({"fold": "as promised", "promised": ends, "height": ends})
    drawn = px.line(
        pd.concat([ideal, folds]),
        x="promised",
        y="height",
        color="fold",
        symbol="fold",
        color_discrete_sequence=[COLOURS["random"], *_FOLDS],
        symbol_sequence=["circle", *_MARKS],
        custom_data=["risk", "n", "came"],
        labels={
            "promised": "promised: share of traffic above the risk (%)",
            "height": "came: share of ordinary traffic (%)",
        },
        render_mode="svg",
        title="Risk: promised, and come",
    )
    drawn.update_traces(
        line_width=1,
        marker_size=9,
        hovertemplate="risk above %{customdata[0]}: promised %{x:.3~g} %, came "
        "%{customdata[2]:.3~g} % of %{customdata[1]:,}",
    )
    for trace in drawn.data[1:]:
        symbols = ["triangle-down-open" if y == edge else trace.marker.symbol for y in trace.y]
        trace.update(marker_symbol=symbols)
    line = {"dash": "dot", "width": 3}
    drawn.data[0].update(mode="lines", line=line, hoverinfo="skip", hovertemplate=None)
    axis = {"type": "log", "dtick": 1, "range": [np.log10(edge / 1.2), np.log10(most * 1.6)]}
    return in_house(drawn, xaxis=axis, yaxis=axis, margin={"l": 80, "b": 56}, height=480)


def costs(frame: pd.DataFrame) -> go.Figure:
    """What fraud and reviewing cost together, the more alerts are looked at.

    Areas: the forest's frauds that were let through, and on top the price of its reviews. Lines:
    the same sum with another detector's order. A star marks where a detector costs least; where
    the curve is flat around it, the budget hardly matters. The dotted line is the cost without
    any alert.

    `frame` is of `budgets.costs`. A budget without alerts is not drawn.

    >>> some = {"alerts_a_day": [1, 9], "amount_lost": [20, 10], "review_cost": [5, 45]}
    >>> frame = pd.DataFrame({"detector": "forest", "budget": [0.1, 0.9], "recall": 0.5} | some)
    >>> drawn = costs(frame.assign(cost=[25, 55], amount_caught=[30, 40]))
    >>> [(trace.name, trace.y.tolist()) for trace in drawn.data]
    [('forest: fraud let through', [20, 10]), ('forest: reviewing', [5, 45]), ('cheapest', [25])]
    """
    never = float((frame["amount_caught"] + frame["amount_lost"]).max()) if len(frame) else 0.0
    frame = frame[frame["alerts_a_day"] > 0].dropna(subset="cost").sort_values("alerts_a_day")
    if not len(frame):
        return nothing("No budget gave an alert, so there is no price to draw.")
    if not never:
        return nothing("No fraud is labelled in the test windows, so no alert saves anything.")
    is_forest = frame["detector"] == "forest"
    areas = {"forest: fraud let through": COLOURS["fraud"], "forest: reviewing": COLOURS["burst"]}
    named = dict(zip(("amount_lost", "review_cost"), areas, strict=True))
    drawn = px.area(
        frame[is_forest].rename(columns=named),
        x="alerts_a_day",
        y=list(areas),
        color_discrete_map=areas,
        pattern_shape="variable",
        pattern_shape_sequence=["", "/"],
        labels={"alerts_a_day": "alerts a day", "value": "money a day"},
        title="What fraud and reviewing cost",
    )
    drawn.update_traces(line_width=1, fillpattern={"size": 6, "solidity": 0.25})
    others = frame[~is_forest]
    lines = px.line(others, x="alerts_a_day", y="cost", **by_detector(others))
    lines.update_traces(line_width=1.5).update_traces(line_width=2.5, selector={"name": "learner"})
    drawn.add_traces(lines.data)
    drawn.update_traces(hovertemplate="%{y:,.0f} a day at %{x:,.1f} alerts a day")
    best = frame.loc[frame.groupby("detector", sort=False)["cost"].idxmin()]
    drawn.add_scatter(
        name="cheapest",
        x=best["alerts_a_day"],
        y=best["cost"],
        text=best["detector"],
        mode="markers",
        marker={
            "symbol": "star",
            "size": np.where(best["detector"] == "forest", 16, 10),
            "color": best["detector"].map(colour),
            "line": {"color": "white", "width": 1},
        },
        customdata=100 * best[["budget", "recall"]].astype(float),
        hovertemplate="%{text}: %{y:,.0f} a day at %{x:,.1f} alerts a day (%{customdata[0]"
        ":.3~g} % of traffic), %{customdata[1]:.0f} % of the frauds caught<extra></extra>",
    )
    line = {"color": COLOURS["random"], "dash": "dot", "width": 2}
    note = {"text": "without any alert", "xanchor": "right"}
    drawn.add_hline(never, line=line, annotation=note)
    drawn.update_xaxes(type="log", dtick=1)
    drawn.update_yaxes(rangemode="tozero")
    legend = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top", "traceorder": "normal"}
    return in_house(drawn, legend=legend, height=480)


def what_if(frame: pd.DataFrame, budget: float | None = None) -> go.Figure:
    """The days as they would have been with another alert budget; a slider chooses it.

    The slider works without a kernel, also in a report. Blue that grows faster than orange: what
    more budget buys is mostly false alarms. The strokes, the frauds there were, stay where they
    are.

    `frame` is of `budgets.by_day`. The slider begins at the level nearest to `budget`.

    >>> day = {"day": ["2026-01-01"] * 2, "budget": [0.001, 0.01], "right": [1, 3]}
    >>> drawn = what_if(pd.DataFrame(day | {"wrong": [0, 7], "frauds": [5, 5]}), 0.01)
    >>> drawn.layout.title.text
    'At a budget of 1 %: 10.0 alerts a day, 30 % of them fraud; 60 % of the frauds caught'
    >>> [step.label for step in drawn.layout.sliders[0].steps]
    ['0.1 %', '1 %']
    """
    frame = frame.dropna(subset="budget")
    if not len(frame):
        return nothing("No day was tested.")
    levels = sorted(frame["budget"].unique())
    start = 0 if budget is None else int(np.abs(np.subtract(levels, budget)).argmin())
    days = {b: rows.sort_values("day") for b, rows in frame.groupby("budget")}
    steps = []
    for b in levels:
        x = [days[b]["day"].astype(str).tolist()] * 3
        y = [days[b][column].tolist() for column in ("right", "wrong", "frauds")]
        change = [{"x": x, "y": y}, {"title.text": _with(b, days[b])}]
        steps.append({"label": f"{100 * b:.3g} %", "method": "update", "args": change})
    slider = {"active": start, "steps": steps, "pad": {"t": 56}}
    slider["currentvalue"] = {"prefix": "alert budget: "}
    drawn = stacked_days(days[levels[start]])
    drawn.update_layout(title=_with(levels[start], days[levels[start]]), sliders=[slider])
    return drawn.update_layout(legend_traceorder="normal", height=540)


def _with(budget: float, days: pd.DataFrame) -> str:
    """What the days of one budget come to."""
    right, wrong, frauds = (int(days[column].sum()) for column in ("right", "wrong", "frauds"))
    told = f"At a budget of {100 * budget:.3g} %: {(right + wrong) / len(days):,.1f} alerts a day"
    if right + wrong:
        told += f", {right / (right + wrong):.0%} of them fraud".replace("%", " %")
    if frauds:
        told += f"; {right / frauds:.0%} of the frauds caught".replace("%", " %")
    return told
