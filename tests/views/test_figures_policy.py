"""What was forecast, promised, saved and learnt: every row is drawn, and nothing else."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from aegis_core.views import figures

HOSTILE = "<b>x</b><img src=x onerror=alert(1)> & <a href='javascript:alert(1)'>"
RNG = np.random.default_rng(0)
DAYS = pd.date_range("2026-02-01", periods=14)
LEVELS = (0.001, 0.005, 0.02)
OUTCOMES = ("caught", "false alarm", "missed")


def forecasts() -> pd.DataFrame:
    frame = pd.DataFrame({"fold": np.repeat(range(4), 2), "kind": ["alerts", "blocks"] * 4})
    frame = frame.assign(mean=30.0, low=20.0, high=45.0, came=RNG.uniform(10, 60, 8), days=7)
    return frame.assign(inside=RNG.integers(0, 8, 8))


def reliability() -> pd.DataFrame:
    frame = pd.DataFrame({"fold": np.repeat(range(3), 4), "promised": [0.5, 0.1, 0.01, 0.001] * 3})
    came = frame.promised * RNG.uniform(0.5, 2, 12)
    return frame.assign(
        risk=100 - 100 * frame.promised, came=came.mask(frame.index == 3, 0.0), n=1_000
    )


def costs() -> pd.DataFrame:
    parts = []
    for i, detector in enumerate(("learner", "forest", "amount", "factor:hour", "random")):
        budget = np.geomspace(1e-4, 0.1, 9)
        part = pd.DataFrame({"detector": detector, "budget": budget, "alerts_a_day": 900 * budget})
        part["recall"] = 1 - np.exp(-budget * 300 / (1 + i))
        part["amount_caught"] = 700 * part.recall
        part["amount_lost"] = 700 - part.amount_caught
        part["review_cost"] = 5 * part.alerts_a_day
        parts.append(part.assign(cost=part.amount_lost + part.review_cost))
    return pd.concat(parts, ignore_index=True)


def what_if() -> pd.DataFrame:
    frame = pd.DataFrame({"budget": np.repeat(LEVELS, 14), "day": list(DAYS) * 3})
    frame = frame.assign(frauds=np.tile(RNG.integers(5, 9, 14), 3))
    frame["right"] = (frame.frauds * frame.budget * 40).round().astype(int)
    return frame.assign(wrong=(frame.budget * 900).round().astype(int))


def bursts() -> pd.DataFrame:
    frame = pd.DataFrame({"transactions": RNG.integers(8, 40, 20)})
    frame["let_through"] = RNG.integers(0, 9, 20).astype(float)
    frame.loc[:2, "let_through"] = np.nan
    frame["seconds"] = frame.let_through * 11
    frame["counter_let_through"] = RNG.integers(2, 7, 20).astype(float)
    frame["counter_seconds"] = frame.counter_let_through * 9
    return frame.assign(detected=frame.let_through.notna())


def histories(cases: int = 5, title: str = "c001 · € 900") -> pd.DataFrame:
    n, each = 30, cases * len(OUTCOMES)
    frame = pd.DataFrame({"case": np.repeat(range(each), n), "title": title})
    frame["outcome"] = np.repeat(OUTCOMES, n * cases)
    frame["ts"] = np.tile(pd.date_range("2026-01-01", periods=n, freq="9h"), each)
    frame["amount"] = RNG.lognormal(3, 1, n * each)
    frame["is_case"] = np.tile(np.arange(n) == n - 1, each)
    return frame.assign(is_fraud=frame.is_case & (frame.outcome != "false alarm"))


def learning() -> pd.DataFrame:
    caught = {"frauds": 9, "learner": RNG.integers(2, 9, 14), "forest": RNG.integers(1, 5, 14)}
    frame = pd.DataFrame({"day": DAYS, "answers": np.arange(14) * 50, "confirmed": 3} | caught)
    return frame.assign(learner_ap=0.5, forest_ap=np.nan)


def differences() -> pd.DataFrame:
    told = {"difference": [0.2, 0.3, 0.1, -0.2], "low": [0.1, 0.1, -0.1, -0.3]}
    return pd.DataFrame({"fold": ["all", 0, 1, 2]} | told | {"high": [0.3, 0.5, 0.3, -0.1]})


def picture_of_learning(frame: pd.DataFrame) -> go.Figure:
    """The picture that a benchmark draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        return importlib.import_module("learned").picture(frame)


DRAWN: dict[str, tuple[Callable[[], pd.DataFrame], Callable[[pd.DataFrame], go.Figure]]] = {
    "forecasts": (forecasts, figures.forecasts),
    "reliability": (reliability, figures.reliability),
    "costs": (costs, figures.costs),
    "what_if": (what_if, figures.what_if),
    "bursts": (bursts, figures.bursts),
    "histories": (histories, lambda frame: figures.histories(frame, "caught")),
    "learning": (learning, picture_of_learning),
    "differences": (differences, figures.differences),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_has_a_title_and_names_on_its_axes(name: str) -> None:
    make, draw = DRAWN[name]
    figure = draw(make())
    assert figure.layout.title.text
    assert any(axis.title.text for axis in figure.select_xaxes())
    assert any(axis.title.text for axis in figure.select_yaxes()) or name == "differences"


@pytest.mark.parametrize("name", DRAWN)
def test_colours_come_from_the_one_dictionary(name: str) -> None:
    make, draw = DRAWN[name]
    told = set(
        re.findall(r"#[0-9A-Fa-f]{6}", json.dumps(json.loads(draw(make()).to_json())["data"]))
    )
    assert told
    assert told <= set(figures.COLOURS.values())


@pytest.mark.parametrize("name", DRAWN)
def test_an_empty_frame_gives_a_sentence(name: str) -> None:
    make, draw = DRAWN[name]
    figure = draw(make().head(0))
    assert not figure.data
    assert figure.layout.annotations[0].text.endswith(".")


@pytest.mark.parametrize("name", DRAWN)
def test_the_frame_is_left_as_it_was(name: str) -> None:
    make, draw = DRAWN[name]
    frame = make()
    before = frame.copy()
    draw(frame)
    pd.testing.assert_frame_equal(frame, before)


def shown(figure: go.Figure, name: str) -> int:
    return sum(len(trace.x) for trace in figure.data if trace.name == name)


def test_every_fold_has_its_interval_and_what_came() -> None:
    frame = forecasts()
    figure = figures.forecasts(frame)
    assert shown(figure, "interval for a day") == shown(figure, "forecast") == len(frame)
    inside = frame.came.between(frame.low, frame.high)
    assert shown(figure, "came, inside") == inside.sum()
    assert shown(figure, "came, outside") == (~inside).sum()


def test_a_risk_that_nobody_reached_is_marked_below_all_others() -> None:
    frame = reliability()
    traces = figures.reliability(frame).data[1:]
    heights = np.concatenate([trace.y for trace in traces])
    symbols = [symbol for trace in traces for symbol in trace.marker.symbol]
    assert len(heights) == len(frame)
    assert np.isfinite(np.log(heights)).all()
    assert [i for i, s in enumerate(symbols) if s.startswith("triangle-down")] == [heights.argmin()]


def test_a_star_stands_where_a_detector_costs_least() -> None:
    frame = costs()
    star = figures.costs(frame).data[-1]
    least = frame.groupby("detector").cost.min()
    assert dict(zip(star.text, star.y, strict=True)) == least.to_dict()


def test_the_areas_of_the_forest_add_up_to_its_cost() -> None:
    lost, reviewing = figures.costs(costs()).data[:2]
    forest = costs().query("detector == 'forest'")
    assert np.allclose(lost.y + reviewing.y, forest.cost)


def test_the_dotted_line_is_the_cost_without_any_alert() -> None:
    (line,) = figures.costs(costs()).layout.shapes
    assert line.y0 == line.y1 == pytest.approx(700)


def test_without_fraud_or_alerts_there_is_no_price() -> None:
    worthless = costs().assign(amount_caught=0.0, amount_lost=0.0, recall=None)
    silent = costs().assign(alerts_a_day=0.0)
    for frame in (worthless, silent):
        assert not figures.costs(frame).data
        assert figures.costs(frame).layout.annotations[0].text.endswith(".")


def test_each_step_of_the_slider_holds_the_days_of_its_budget() -> None:
    frame = what_if()
    for budget, step in zip(LEVELS, figures.what_if(frame).layout.sliders[0].steps, strict=True):
        rows = frame[frame.budget == budget]
        data, layout = step.args
        assert data["y"] == [rows[column].tolist() for column in ("right", "wrong", "frauds")]
        assert step.label in layout["title.text"]


def test_the_slider_begins_at_what_is_shown() -> None:
    for i, budget in enumerate(LEVELS):
        figure = figures.what_if(what_if(), budget)
        slider = figure.layout.sliders[0]
        assert slider.active == i
        assert slider.steps[i].args[1]["title.text"] == figure.layout.title.text
        assert [trace.y.tolist() for trace in figure.data] == slider.steps[i].args[0]["y"]


def test_days_without_fraud_or_alerts_have_no_share_of_nothing() -> None:
    figure = figures.what_if(what_if().assign(frauds=0, right=0, wrong=0))
    assert figure.layout.title.text == "At a budget of 0.1 %: 0.0 alerts a day"


def test_a_line_ends_at_the_share_of_bursts_that_were_noticed() -> None:
    frame = bursts()
    policy, counter = figures.bursts(frame).data[:2]
    assert policy.y[-1] == 100 * frame.detected.mean()
    assert counter.y[-1] == 100
    for trace in (policy, counter):
        assert np.all(np.diff(trace.y) >= 0)
        assert np.all(np.diff(trace.x) >= 0)
    at_most_five = (frame.let_through <= 5).mean()
    assert policy.y[policy.x <= 5][-1] == pytest.approx(100 * at_most_five)


def test_bursts_that_nobody_noticed_can_be_drawn() -> None:
    never = bursts().assign(let_through=None, seconds=None, detected=False)
    assert figures.bursts(never).data[0].y.tolist() == [0, 0]
    nobody = never.assign(counter_let_through=pd.NA, counter_seconds=pd.NA)
    assert all(max(trace.y) == 0 for trace in figures.bursts(nobody).data)


@pytest.mark.parametrize("cases", [1, 2, 3, 10])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_payment_of_a_case_s_customer_is_drawn_once(cases: int, outcome: str) -> None:
    frame = histories(cases)
    figure = figures.histories(frame, outcome)
    rows = frame[frame.outcome == outcome]
    drawn = np.sort(np.concatenate([trace.y for trace in figure.data]))
    assert np.array_equal(drawn, np.sort(rows.amount))
    assert shown(figure, "this case") == cases
    assert sum(bool(trace.showlegend) for trace in figure.data) == len(
        {t.name for t in figure.data}
    )


def test_a_case_stands_where_the_days_are_counted_from() -> None:
    for trace in figures.histories(histories(), "missed").data:
        if trace.name == "this case":
            assert trace.x.tolist() == [0]
        else:
            assert trace.x.max() < 0
            assert trace.x.min() == pytest.approx(-29 * 9 / 24, abs=1e-4)


def test_a_single_payment_is_no_history_but_a_picture() -> None:
    alone = histories(1).query("is_case")
    span = figures.histories(alone, "caught").layout.xaxis.range
    assert span == (-0.5, 0.5)


def test_text_from_strangers_is_shown_letter_by_letter() -> None:
    told = figures.histories(histories(1, HOSTILE), "caught").layout.annotations[0].text
    assert "<" not in told
    assert told.startswith("&lt;b&gt;x&lt;/b&gt;&lt;img")
    assert "<" not in figures.differences(differences(), HOSTILE).layout.title.text
    assert "<" not in str(figures.histories(histories(), HOSTILE).layout.annotations[0].text)


def test_a_table_of_cases_tells_one_outcome_and_no_empty_column() -> None:
    shown = pd.DataFrame({"outcome": ["caught", "missed"], "scenario": ["night", ""]})
    shown = shown.assign(customer_id=["anna", HOSTILE], reasons=["03:00 UTC", "nothing unusual"])
    caught, missed = (figures.cases(shown, outcome).to_html() for outcome in shown.outcome)
    assert "night" in caught
    assert "nothing unusual" not in caught
    assert "scenario" not in missed
    assert "<img" not in missed
    assert "scenario" in figures.cases(shown, "false alarm").to_html()


def test_the_learner_and_the_forest_are_shown_for_every_day() -> None:
    frame = learning()
    for name, column in (
        ("learner", "learner"),
        ("forest", "forest"),
        ("frauds there were", "frauds"),
    ):
        line, days = (t for t in picture_of_learning(frame).data if t.name == name)
        assert days.y.tolist() == frame[column].tolist()
        assert line.y[-1] == pytest.approx(frame[column].tail(7).mean())
        assert line.x.tolist() == frame.answers.tolist()


def test_only_an_interval_beside_zero_names_who_is_ahead() -> None:
    figure = figures.differences(differences())
    told = {place: trace.name for trace in figure.data for place in trace.y}
    assert told == {
        "all folds": "challenger ahead",
        "fold 0": "challenger ahead",
        "fold 1": "open",
        "fold 2": "champion ahead",
    }


def test_a_difference_that_could_not_be_measured_is_left_out() -> None:
    frame = differences().assign(difference=np.nan)
    assert figures.differences(frame).layout.annotations[0].text.endswith(".")
    frame = differences()
    frame.loc[1, ["difference", "low", "high"]] = np.nan
    assert "fold 0" not in {place for t in figures.differences(frame).data for place in t.y}


def test_a_difference_without_an_interval_is_open() -> None:
    frame = differences().astype(object)
    frame[["low", "high"]] = None
    (trace,) = figures.differences(frame).data
    assert (trace.name, len(trace.y)) == ("open", len(frame))
    assert set(trace.text) == {"no interval"}
