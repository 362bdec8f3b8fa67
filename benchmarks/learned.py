"""What answers bring: the learner beside what was published, and its curve from nothing on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from learning import learning_curve
from protocols import Task, mean_and_spread, say, show

from aegis_core.evaluation import evaluate
from aegis_core.views.figures.house import COLOURS, in_house, nothing

PUBLISHED = {"auc_roc": 0.879, "average_precision": 0.687, "card_precision_at_100": 0.305}
"""The best of each on the handbook's four folds: balanced bagging, XGBoost, balanced bagging."""
CURVE_DAYS = 42


def tables(task: Task, seeds: int, budget: float) -> None:
    """Print learner and forest on the folds, every label known from its `known_at` on."""
    rows = []
    for seed in range(seeds):
        say(f"{task.name}: learner, seed {seed}")
        done = evaluate(
            task.frame, task.labels, task.folds, alert_budget=budget, learner=True,
            exclude_known=task.exclude_known, seed=seed,
        )  # fmt: skip
        table = done.table()
        means = table.pivot_table(index="detector", columns="name", values="value")
        rows.append(means.loc[["learner", "forest"]])
    names = list(PUBLISHED)
    by = pd.concat(rows).groupby(level="detector", sort=False)
    text = by[names].agg(mean_and_spread)
    if task.name == "handbook":
        text.loc["published, best of each"] = [f"{v:.3f}" for v in PUBLISHED.values()]
    print(
        f"\nWith labels, {task.name}: mean of {len(task.folds)} test window(s), {seeds} seed(s); "
        "a label counts from when it was known"
    )
    show(text.rename(columns=lambda c: c.replace("_", " ")).rename_axis(None))


def curve(task: Task, seeds: int, pictures: Path | None = None) -> None:
    """Print what is caught a week, the more answers there are; from no answer at all on.

    With `pictures`, a folder, each seed's curve is also drawn into it.
    """
    if task.curve_from is None:
        return
    truth = task.labels[["transaction_id", "is_fraud"]]
    weeks, doubled, below, asked = [], [], [], []
    began = time.monotonic()
    for seed in range(seeds):
        say(f"{task.name}: learning curve, seed {seed}")
        days = learning_curve(task.frame, truth, task.curve_from, days=CURVE_DAYS, seed=seed)
        weeks.append(by_week(days))
        if pictures is not None:
            picture(days).write_html(pictures / f"learning-{task.name}-{seed}.html")
        doubled.append(answers_to_double(days))
        below.append((days.learner < days.forest).mean())
        asked.append(int(days.answers.max()))
    table = pd.concat(weeks).groupby(level=0).mean()
    print(
        f"\nLearning curve, {task.name}: {CURVE_DAYS} days from {task.curve_from}, 50 alerts a day "
        f"and one in a thousand others answered a day later; means of {seeds} seed(s), "
        f"{(time.monotonic() - began) / seeds:.0f} s each"
    )
    show(table.map(lambda v: f"{v:,.0f}").rename(index=lambda i: f"week {i + 1}"))
    told = [
        f"not within {n:,}" if d is None else f"{d:,}" for d, n in zip(doubled, asked, strict=True)
    ]
    print(f"answers until a week's catch is twice the forest's, by seed: {', '.join(told)}")
    print(f"days on which the learner caught less than the forest: {np.mean(below):.0%}")


def picture(frame: pd.DataFrame) -> go.Figure:
    """Frauds caught a day, the more answers there are: the learner, and the forest beside it.

    Lines are means of the last seven days, faint marks single days. Where the learner's line is
    twice as high as the forest's, analysts with as many alerts catch twice as much; the answers
    below tell what that took. Grey: the frauds there were.

    `frame` is `learning_curve`'s: columns day, answers, frauds, learner, forest.

    >>> days = {"day": pd.date_range("2026-01-01", periods=2), "answers": [0, 50], "frauds": [9, 7]}
    >>> drawn = picture(pd.DataFrame(days | {"learner": [2, 4], "forest": [2, 2]}))
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


def by_week(days: pd.DataFrame) -> pd.DataFrame:
    """Sums of each seven days of a learning curve; answers as known when the week begins."""
    week = np.arange(len(days)) // 7
    sums = days.groupby(week)[["frauds", "learner", "forest"]].sum()
    sums.insert(0, "answers before", days.groupby(week).answers.first())
    sums.insert(1, "confirmed before", days.groupby(week).confirmed.first())
    return sums


def answers_to_double(days: pd.DataFrame) -> int | None:
    """Answers known on the first day that ends a week of twice the forest's catch; None: never.

    >>> made = pd.DataFrame({"answers": range(0, 80, 10), "learner": 2, "forest": [3] + [1] * 7})
    >>> answers_to_double(made)
    70
    """
    sums = days[["learner", "forest"]].rolling(7).sum()
    there = (sums.learner >= 2 * sums.forest) & (sums.learner > 0)
    return int(days.answers[there].iloc[0]) if there.any() else None
