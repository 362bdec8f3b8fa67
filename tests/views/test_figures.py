"""Figures show what they are given, in the house's colours, and say when there is nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from aegis_core.evaluation import DETECTORS, evaluate
from aegis_core.evaluation.calibration import alerts_per_day
from aegis_core.evaluation.splits import plan
from aegis_core.schema import FACTORS
from aegis_core.views import figures
from aegis_core.views.figures import COLOURS
from aegis_core.views.figures.training import _tail

Payments = tuple[pd.DataFrame, pd.DataFrame]
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def drawn(payments: Payments) -> dict[str, go.Figure]:
    """Every figure of the notebooks on training, evaluation and simulation."""
    frame, labels = payments
    found = evaluate(frame, labels, plan(frame.ts.min(), frame.ts.max(), folds=2)[0])
    rng = np.random.default_rng(0)
    nats = {name: rng.exponential(size=500) for f in FACTORS for name in (f, f"strength:{f}")}
    return {
        "evidence_tails": figures.evidence_tails(pd.DataFrame(nats)),
        "score_histogram": figures.score_histogram(found.scores.forest.to_numpy(), 0.6, 0.7),
        "compared": figures.compared(found.table()),
        "precision_recall": figures.precision_recall(found.curves()),
        "recall_bars": figures.recall_bars(found.recall()),
        "daily_alerts": figures.daily_alerts(alerts_per_day(found.scores, found.folds)),
        "contributions": figures.contributions([verdict()], 0.6, 0.7),
    }


def verdict(**parts: float) -> dict[str, Any]:
    given = dict.fromkeys(FACTORS, 0.0) | parts
    return {"score": 0.4 + sum(given.values()), "decision": "review", "contributions": given}


def test_every_figure_has_a_title_and_names_on_its_axes(drawn: dict[str, go.Figure]) -> None:
    for name, figure in drawn.items():
        assert figure.layout.title.text, name
        titles = [axis.title.text for axis in figure.select_xaxes()]
        assert all(titles), name
    for name in ("evidence_tails", "score_histogram", "precision_recall", "daily_alerts"):
        assert drawn[name].layout.yaxis.title.text, name


def test_colours_come_from_the_one_dictionary(drawn: dict[str, go.Figure]) -> None:
    for name, figure in drawn.items():
        traces = json.dumps(json.loads(figure.to_json())["data"])
        told = set(re.findall(r"#[0-9A-Fa-f]{6}", traces))
        assert told, name
        assert told <= set(COLOURS.values()), name


def test_a_figure_stays_small_however_much_there_is_to_show() -> None:
    many = np.random.default_rng(0).exponential(size=300_000)
    window = pd.DataFrame({name: many for f in FACTORS for name in (f, f"strength:{f}")})
    for figure in (
        figures.evidence_tails(window),
        figures.score_histogram(1 - np.exp(-many), 0.9, 0.99),
    ):
        assert len(figure.to_json()) < 100_000


def test_the_tail_is_the_share_that_is_at_least_as_extreme() -> None:
    values = np.random.default_rng(0).integers(0, 9, 1000).astype(float)
    tail = _tail(values)
    assert tail.share.tolist() == [100 * (values >= x).mean() for x in tail.nats]
    assert tail.share.iloc[-1] == 100


def test_every_transaction_is_in_the_histogram_once_under_its_decision() -> None:
    scores = np.random.default_rng(0).random(5000)
    bars = {t.name: int(np.sum(t.y)) for t in figures.score_histogram(scores, 0.9, 0.95).data}
    assert bars == {
        "approve": (scores <= 0.9).sum(),
        "review": ((scores > 0.9) & (scores <= 0.95)).sum(),
        "block": (scores > 0.95).sum(),
    }


def test_one_score_for_all_and_a_threshold_that_is_never_reached_can_be_drawn() -> None:
    figure = figures.score_histogram(np.full(9, 0.4), 0.5, np.inf)
    assert sum(int(np.sum(t.y)) for t in figure.data) == 9
    assert [shape.x0 for shape in figure.layout.shapes] == [0.5]


def test_every_detector_and_fold_is_compared(drawn: dict[str, go.Figure]) -> None:
    means, folds = drawn["compared"].data[:2]
    assert set(means.y) == set(DETECTORS)
    assert len(folds.x) == 2 * len(DETECTORS)
    assert len(list(drawn["compared"].select_xaxes())) == 4


def test_each_contribution_begins_where_the_last_one_ended() -> None:
    bar = figures.contributions([verdict(amount=0.2, hour=0.15, burst=-0.05)]).data[0]
    ends = np.array(bar.base) + np.array(bar.x)
    assert np.allclose(ends[:-2], np.array(bar.base)[1:-1])
    assert np.isclose(ends[-2], bar.x[-1])


def test_what_was_answered_is_drawn_where_it_counts() -> None:
    row = verdict(amount=0.2)
    row["contributions"] |= {"merchant": 0.1, "customer": 0.0}
    assert list(figures.contributions([row]).data[0].y)[-2:] == ["merchant", "score"]


def test_a_scenario_named_by_strangers_is_text() -> None:
    row = {"scenario": [HOSTILE], "frauds": [2], "caught": [0], "recall": [0.0]}
    figure = figures.recall_bars(pd.DataFrame(row))
    assert figure.layout.yaxis.type == "category"
    assert figure.data[0].y[0] == HOSTILE  # plotly's own text knows no script and no image


def test_where_there_is_nothing_to_show_a_sentence_says_so() -> None:
    nothing = pd.DataFrame(columns=["name", "value", "ceiling", "detector", "day", "scenario"])
    for figure in (
        figures.compared(nothing),
        figures.precision_recall(nothing),
        figures.recall_bars(nothing),
        figures.daily_alerts(nothing),
        figures.contributions([]),
    ):
        assert not figure.data
        assert figure.layout.annotations[0].text.endswith(".")
