"""What answers bring: the learner beside what was published, and its curve from nothing on."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from learning import learning_curve
from protocols import Task, mean_and_spread, say, show

from aegis_core.evaluation import evaluate

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


def curve(task: Task, seeds: int) -> None:
    """Print what is caught a week, the more answers there are; from no answer at all on."""
    if task.curve_from is None:
        return
    truth = task.labels[["transaction_id", "is_fraud"]]
    weeks, doubled, below, asked = [], [], [], []
    began = time.monotonic()
    for seed in range(seeds):
        say(f"{task.name}: learning curve, seed {seed}")
        days = learning_curve(task.frame, truth, task.curve_from, days=CURVE_DAYS, seed=seed)
        weeks.append(by_week(days))
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
