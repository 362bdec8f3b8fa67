"""Pictures of what answers bring: the learner beside the forest, a challenger beside a champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.express as px
import plotly.graph_objects as go

from aegis_core.views.figures.house import COLOURS, in_house, nothing, plain

if TYPE_CHECKING:
    import pandas as pd


def learning(frame: pd.DataFrame) -> go.Figure:
    """Frauds caught a day, the more answers there are: the learner, and the forest beside it.

    Lines are means of the last seven days, faint marks single days. Where the learner's line is
    twice as high as the forest's, analysts with as many alerts catch twice as much; the answers
    below tell what that took. Grey: the frauds there were.

    Parameters
    ----------
    frame
        As `benchmarks/learning.py` gives it: columns day, answers, frauds, learner, forest.

    >>> import pandas as pd
    >>> days = {"day": pd.date_range("2026-01-01", periods=2), "answers": [0, 50], "frauds": [9, 7]}
    >>> drawn = learning(pd.DataFrame(days | {"learner": [2, 4], "forest": [2, 2]}))
    >>> [(trace.name, trace.y.tolist()) for trace in drawn.data if trace.mode == "lines"]
    [('frauds there were', [9.0, 8.0]), ('forest', [2.0, 2.0]), ('learner', [2.0, 3.0])]
    """
    if not len(frame):
        return nothing("No day was replayed, so nothing was learnt.")
    frame = frame.sort_values("day")
    columns = ["frauds", "forest", "learner"]
    weeks = frame.set_index("day")[columns].rolling("7D").mean().reset_index()
    days = frame["day"].dt.strftime("%a %Y-%m-%d").tolist()
    weeks = weeks.assign(answers=frame["answers"].to_numpy())
    names = {"frauds": "frauds there were", "forest": "forest", "learner": "learner"}
    common: dict[str, Any] = {"x": "answers", "y": columns, "hover_name": days}
    common["color_discrete_map"] = COLOURS | {"frauds": COLOURS["random"]}
    axes = {"answers": "answers known when the day begins", "value": "frauds caught a day"}
    drawn = px.line(
        weeks,
        **common,
        line_dash="variable",
        line_dash_map={"frauds": "dot", "forest": "dash", "learner": "solid"},
        labels=axes,
        title="What answers bring",
        render_mode="svg",
    )
    marks = px.scatter(
        frame,
        **common,
        symbol="variable",
        symbol_map={"frauds": "line-ew-open", "forest": "x-thin-open", "learner": "circle"},
        labels=axes,
        render_mode="svg",
    )
    marks.update_traces(showlegend=False, opacity=0.4, marker_size=6)
    drawn.add_traces(marks.data)
    drawn.for_each_trace(lambda t: t.update(name=names[t.name], legendgroup=names[t.name]))
    drawn.update_traces(line_width=3, selector={"name": "learner", "mode": "lines"})
    return in_house(drawn, xaxis_rangemode="tozero", yaxis_rangemode="tozero")


def differences(
    frame: pd.DataFrame,
    challenger: str = "challenger",
    champion: str = "champion",
    what: str = "average precision",
) -> go.Figure:
    """How much better a challenger is than the champion, with an interval, fold by fold.

    Right of the line the challenger is ahead. An interval across the line (open mark) leaves open
    who is, and so does a difference without an interval; an interval beside it does not.

    Parameters
    ----------
    frame
        As `Evaluation.differences`: columns fold (a number, or `all`), difference (challenger
        minus champion), low and high, which are missing where too few have fraud.
    challenger, champion
        What they are called.
    what
        The figure that differs.

    >>> import pandas as pd
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
        fold=[_fold(fold) for fold in frame["fold"]],
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
        labels={"difference": f"difference in {what}", "fold": ""},
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


def _fold(fold: object) -> str:
    return "all folds" if fold == "all" else f"fold {fold}"
