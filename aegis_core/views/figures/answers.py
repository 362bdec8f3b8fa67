"""Pictures of what answers bring: the learner beside the forest, a challenger beside a champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from aegis_core.views.figures.house import COLOURS, figure, nothing, plain

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
        As `learning.learning_curve`: columns day, answers, frauds, learner, forest.

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
    weeks = frame.set_index("day")[columns].rolling("7D").mean()
    looks: tuple[tuple[str, str, dict[str, Any], str], ...] = (
        ("frauds", "random", {"width": 2, "dash": "dot"}, "line-ew-open"),
        ("forest", "forest", {"width": 2, "dash": "dash"}, "x-thin-open"),
        ("learner", "learner", {"width": 3}, "circle"),
    )
    days = frame["day"].dt.strftime("%a %Y-%m-%d")
    traces: list[dict[str, Any]] = []
    for column, look, line, symbol in looks:
        name = "frauds there were" if column == "frauds" else column
        common = {"type": "scatter", "name": name, "legendgroup": name, "x": frame["answers"]}
        told = "%{y:,.1f} a day, week to %{text}, after %{x:,} answers"
        traces += [
            common
            | {
                "mode": "lines",
                "y": weeks[column].to_numpy(),
                "text": days,
                "line": {"color": COLOURS[look], **line},
                "hovertemplate": told,
            },
            common
            | {
                "mode": "markers",
                "y": frame[column],
                "text": days,
                "showlegend": False,
                "marker": {"color": COLOURS[look], "symbol": symbol, "size": 6, "opacity": 0.4},
                "hovertemplate": "%{y:,} on %{text}, after %{x:,} answers",
            },
        ]
    return figure(
        traces,
        {
            "title": "What answers bring",
            "xaxis": {"title": "answers known when the day begins", "rangemode": "tozero"},
            "yaxis": {"title": "frauds caught a day", "rangemode": "tozero"},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


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
    looks = (
        (f"{challenger} ahead", above, "normal", "circle"),
        ("open", ~above & ~below, "random", "circle-open"),
        (f"{champion} ahead", below, "fraud", "x"),
    )
    places = [_fold(fold) for fold in frame["fold"]]
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": rows["difference"],
            "y": [_fold(fold) for fold in rows["fold"]],
            "error_x": {
                "type": "data",
                "array": rows["high"] - rows["difference"],
                "arrayminus": rows["difference"] - rows["low"],
                "thickness": 2,
                "width": 6,
            },
            "marker": {"color": COLOURS[look], "symbol": symbol, "size": 12},
            "text": [
                f"{low:+.3f} to {high:+.3f}" if low <= high else "no interval"
                for low, high in zip(rows["low"], rows["high"], strict=True)
            ],
            "hovertemplate": f"%{{y}}: %{{x:+.3f}} (%{{text}})<extra>{name}</extra>",
        }
        for name, chosen, look, symbol in looks
        if len(rows := frame[chosen])
    ]
    drawn = figure(
        traces,
        {
            "title": f"{challenger.capitalize()} minus {champion}",
            "xaxis": {"title": f"difference in {what}"},
            "yaxis": {
                "type": "category",
                "categoryorder": "array",
                "categoryarray": places,
                "autorange": "reversed",
            },
            "showlegend": True,
            "height": 200 + 36 * len(frame),
            "margin": {"l": 80, "r": 16, "t": 88, "b": 48},
        },
    )
    return drawn.add_vline(0, line={"color": COLOURS["forest"], "width": 1})


def _fold(fold: object) -> str:
    return "all folds" if fold == "all" else f"fold {fold}"
