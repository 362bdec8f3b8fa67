"""Pictures of a policy: what was forecast, what a percentile is worth, what a budget would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from aegis_core.views.figures.evaluation import stacked_days
from aegis_core.views.figures.house import (
    COLOURS,
    SYMBOLS,
    colour,
    colour_of,
    figure,
    in_house,
    nothing,
)

if TYPE_CHECKING:
    import pandas as pd


def forecasts(frame: pd.DataFrame) -> go.Figure:
    """What was forecast before a policy was activated, as an interval, and what came.

    A bar is the interval for a single day, a stroke the forecast. A dot is the mean of the days
    that came, a cross the same where it lies outside of the bar. Below stands how many of the
    days lay within.

    Parameters
    ----------
    frame
        As `Evaluation.forecast`: columns fold, kind (alerts or blocks), mean, low, high and came
        (all four a day), days (of the test) and inside (days from low to high).

    >>> import pandas as pd
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
        traces: list[dict[str, Any]] = [
            {
                "type": "bar",
                "name": "interval for a day",
                "x": rows["fold"],
                "base": rows["low"],
                "y": rows["high"] - rows["low"],
                "width": 0.4,
                "marker": {"color": COLOURS["burst"], "opacity": 0.5},
                "customdata": rows[["low", "high"]],
                "hovertemplate": "fold %{x}: %{customdata[0]:,.0f} to %{customdata[1]:,.0f} a day"
                "<extra></extra>",
            }
        ]
        looks: list[tuple[str, pd.DataFrame, str, dict[str, Any]]] = [
            ("forecast", rows, "mean", {"symbol": "line-ew-open", "size": 30, "color": "forest"}),
            ("came, inside", rows[inside], "came", {"symbol": "circle", "color": "normal"}),
            ("came, outside", rows[~inside], "came", {"symbol": "x", "color": "fraud"}),
        ]
        for name, part, column, look in looks:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": part["fold"],
                    "y": part[column],
                    "cliponaxis": False,
                    "marker": {"size": 12, **look, "color": COLOURS[look["color"]]},
                    "hovertemplate": f"fold %{{x}}: %{{y:,.1f}} a day<extra>{name}</extra>",
                }
            )
        for trace in traces:
            once = {"showlegend": i == 0, "legendgroup": trace["name"]}
            drawn.add_trace(trace | once, row=1, col=1 + i)
        within = zip(rows["fold"], rows["inside"], rows["days"], strict=True)
        drawn.update_xaxes(
            tickvals=rows["fold"],
            ticktext=[f"fold {fold}<br>{n} of {m} days" for fold, n, m in within],
            title="days within the interval",
            col=1 + i,
        )
    drawn.update_yaxes(rangemode="tozero")
    drawn.update_yaxes(title="transactions a day", col=1)
    drawn.update_layout(title="Forecast, and what came")
    return in_house(drawn, margin_t=120, margin_b=64, legend_y=1.1, height=440)


def reliability(frame: pd.DataFrame) -> go.Figure:
    """Whether a risk is the percentile it claims to be, on later weeks.

    On the dotted line, as much ordinary traffic came above a risk as it promised. Above the line
    there was more: the tail has grown heavier since the training window. Below it there was less,
    be it that fraud took the place. Where none came, an open triangle stands at the lower edge.

    Parameters
    ----------
    frame
        As `Evaluation.reliability`: columns fold, risk (a percentile, in %), promised (share of
        traffic above that risk), came (share of the test window's ordinary transactions above it)
        and n (these transactions).

    >>> import pandas as pd
    >>> row = {"fold": 0, "risk": [90, 99.9], "promised": [0.1, 0.001], "came": [0.2, 0.0]}
    >>> drawn = reliability(pd.DataFrame(row | {"n": 500}))
    >>> drawn.data[1].y.round(2).tolist(), drawn.data[1].marker.symbol
    ([20.0, 0.07], ('circle', 'triangle-down-open'))
    """
    frame = frame.dropna(subset="came")
    frame = frame[frame["promised"] > 0]
    if not len(frame):
        return nothing("No transaction was tested, so no risk could be checked.")
    least = 100 * frame[["promised", "came"]].where(lambda share: share > 0).min().min()
    edge = least / 1.5
    most = 100 * max(frame["promised"].max(), frame["came"].max())
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as promised",
            "x": [least, most],
            "y": [least, most],
            "line": {"color": COLOURS["random"], "dash": "dot", "width": 3},
            "hoverinfo": "skip",
        }
    ]
    for i, (fold, part) in enumerate(frame.groupby("fold")):
        rows = part.sort_values("promised", ascending=False)
        none = rows["came"] <= 0
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"fold {fold}",
                "x": 100 * rows["promised"],
                "y": (100 * rows["came"]).mask(none, edge),
                "line": {"color": colour_of(i), "width": 1},
                "marker": {
                    "symbol": [
                        "triangle-down-open" if zero else SYMBOLS[i % len(SYMBOLS)] for zero in none
                    ],
                    "size": 9,
                },
                "customdata": np.column_stack([rows["risk"], rows["n"], 100 * rows["came"]]),
                "hovertemplate": "risk above %{customdata[0]}: promised %{x:.3~g} %, came "
                "%{customdata[2]:.3~g} % of %{customdata[1]:,}",
            }
        )
    axis = {"type": "log", "dtick": 1, "range": [np.log10(edge / 1.2), np.log10(most * 1.6)]}
    return figure(
        traces,
        {
            "title": "Risk: promised, and come",
            "xaxis": {**axis, "title": "promised: share of traffic above the risk (%)"},
            "yaxis": {**axis, "title": "came: share of ordinary traffic (%)"},
            "margin": {"l": 80, "r": 16, "t": 88, "b": 56},
            "height": 480,
        },
    )


def costs(frame: pd.DataFrame) -> go.Figure:
    """What fraud and reviewing cost together, the more alerts are looked at.

    Areas: the forest's frauds that were let through, and on top the price of its reviews. Lines:
    the same sum with another detector's order. A star marks where a detector costs least; where
    the curve is flat around it, the budget hardly matters. The dotted line is the cost without
    any alert.

    Parameters
    ----------
    frame
        As `Evaluation.budgets`: columns detector, budget, alerts_a_day, recall, and in money a day
        amount_caught, amount_lost, review_cost and cost. A budget without alerts is not drawn.

    >>> import pandas as pd
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
    forest = frame[frame["detector"] == "forest"]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"forest: {name}",
            "x": forest["alerts_a_day"],
            "y": forest[column],
            "stackgroup": "forest",
            "line": {"color": COLOURS[look], "width": 1},
            "fillpattern": {"shape": shape, "size": 6, "solidity": 0.25},
            "hovertemplate": "%{y:,.0f} a day at %{x:,.1f} alerts a day",
        }
        for name, column, look, shape in (
            ("fraud let through", "amount_lost", "fraud", ""),
            ("reviewing", "review_cost", "burst", "/"),
        )
    ]
    for detector, rows in frame[frame["detector"] != "forest"].groupby("detector", sort=False):
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": detector,
                "x": rows["alerts_a_day"],
                "y": rows["cost"],
                "line": {
                    "color": colour(str(detector)),
                    "width": 2.5 if detector == "learner" else 1.5,
                    "dash": "dot" if detector in ("amount", "random") else "solid",
                },
                "hovertemplate": "%{y:,.0f} a day at %{x:,.1f} alerts a day",
            }
        )
    best = frame.loc[frame.groupby("detector", sort=False)["cost"].idxmin()]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "cheapest",
            "x": best["alerts_a_day"],
            "y": best["cost"],
            "text": best["detector"],
            "marker": {
                "symbol": "star",
                "size": [16 if detector == "forest" else 10 for detector in best["detector"]],
                "color": [colour(str(detector)) for detector in best["detector"]],
                "line": {"color": "white", "width": 1},
            },
            "customdata": 100 * best[["budget", "recall"]].astype(float),
            "hovertemplate": "%{text}: %{y:,.0f} a day at %{x:,.1f} alerts a day (%{customdata[0]"
            ":.3~g} % of traffic), %{customdata[1]:.0f} % of the frauds caught<extra></extra>",
        }
    )
    return figure(
        traces,
        {
            "title": "What fraud and reviewing cost",
            "xaxis": {"title": "alerts a day", "type": "log", "dtick": 1},
            "yaxis": {"title": "money a day", "rangemode": "tozero"},
            "legend": {"traceorder": "normal"},
            "height": 480,
        },
    ).add_hline(
        never,
        line={"color": COLOURS["random"], "dash": "dot", "width": 2},
        annotation={"text": "without any alert", "xanchor": "right"},
    )


def what_if(frame: pd.DataFrame, budget: float | None = None) -> go.Figure:
    """The days as they would have been with another alert budget; a slider chooses it.

    The slider works without a kernel, also in a report. Blue that grows faster than orange: what
    more budget buys is mostly false alarms. The strokes, the frauds there were, stay where they
    are.

    Parameters
    ----------
    frame
        As `Evaluation.by_budget_and_day`: columns budget (share of transactions), day, right and
        wrong (alerts), frauds.
    budget
        Where the slider begins: at the budget nearest to it.

    >>> import pandas as pd
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
    columns = ["right", "wrong", "frauds"]
    days = {b: rows.sort_values("day") for b, rows in frame.groupby("budget")}
    shown = days[levels[start]]
    steps = [
        {
            "label": f"{100 * b:.3g} %",
            "method": "update",
            "args": [
                {
                    "x": [[str(day) for day in days[b]["day"]]] * 3,
                    "y": [days[b][column].tolist() for column in columns],
                },
                {"title.text": _with(b, days[b])},
            ],
        }
        for b in levels
    ]
    slider = {"active": start, "steps": steps, "pad": {"t": 56}}
    slider["currentvalue"] = {"prefix": "alert budget: "}
    return stacked_days(shown).update_layout(
        title=_with(levels[start], shown),
        legend_traceorder="normal",
        sliders=[slider],
        height=540,
    )


def _with(budget: float, days: pd.DataFrame) -> str:
    """What the days of one budget come to."""
    right, wrong, frauds = (int(days[column].sum()) for column in ("right", "wrong", "frauds"))
    told = f"At a budget of {100 * budget:.3g} %: {(right + wrong) / len(days):,.1f} alerts a day"
    if right + wrong:
        told += f", {right / (right + wrong):.0%} of them fraud".replace("%", " %")
    if frauds:
        told += f"; {right / frauds:.0%} of the frauds caught".replace("%", " %")
    return told
