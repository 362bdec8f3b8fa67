"""Figures with their floor and ceiling: laws, values by hand, and None where undefined."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_core.metrics import (
    Figure,
    auc_roc,
    average_precision,
    card_precision_at_k,
    recall_at_budget,
    recall_by_scenario,
)

UNDEFINED = Figure(None, None, None)
Metric = Callable[[npt.ArrayLike, npt.ArrayLike], Figure]
METRICS: dict[str, Metric] = {
    "auc_roc": auc_roc,
    "average_precision": average_precision,
    "recall_at_budget": lambda y, s: recall_at_budget(y, s, 0.3),
    "card_precision": lambda y, s: card_precision_at_k(
        np.arange(len(np.asarray(y))) % 5, np.arange(len(np.asarray(y))) // 7, y, s, k=2
    ),
}
few = settings(max_examples=50, deadline=None)
# Few different scores, so that ties are common.
ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)),
    min_size=1,
    max_size=40,
)
CARDS = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.integers(0, 3),
        st.booleans(),
        st.sampled_from([0.1, 0.5, 0.9]),
    ),
    min_size=1,
    max_size=40,
)


def approximately(figure: Figure) -> dict[str, object]:
    return {
        name: None if value is None else pytest.approx(value, abs=1e-12)
        for name, value in dataclasses.asdict(figure).items()
    }


# --- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@few
@given(ROWS)
def test_a_figure_lies_between_nothing_and_its_ceiling(
    metric: Metric, rows: list[tuple[bool, float]]
) -> None:
    is_fraud, score = zip(*rows, strict=True)
    figure = metric(is_fraud, score)
    if figure.value is None:
        assert figure == UNDEFINED
        return
    assert figure.floor is not None
    assert figure.ceiling is not None
    assert 0 <= figure.value <= figure.ceiling + 1e-12
    assert 0 <= figure.floor <= 1
    assert figure.ceiling <= 1


@pytest.mark.parametrize("name", ["auc_roc", "average_precision", "recall_at_budget"])
@few
@given(ROWS, st.randoms())
def test_the_order_of_the_rows_changes_nothing(
    name: str, rows: list[tuple[bool, float]], random: object
) -> None:
    shuffled = random.sample(rows, len(rows))  # type: ignore[attr-defined]
    before, after = (METRICS[name](*zip(*r, strict=True)) for r in (rows, shuffled))
    assert dataclasses.asdict(after) == approximately(before)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@few
@given(ROWS)
def test_only_the_order_of_the_scores_counts(
    metric: Metric, rows: list[tuple[bool, float]]
) -> None:
    is_fraud, score = zip(*rows, strict=True)
    ranks = pd.Series(score).rank(method="dense").to_numpy()
    assert dataclasses.asdict(metric(is_fraud, ranks * 1000)) == approximately(
        metric(is_fraud, score)
    )


@pytest.mark.parametrize("name", ["auc_roc", "average_precision", "recall_at_budget"])
@few
@given(ROWS)
def test_the_truth_as_score_reaches_the_ceiling(name: str, rows: list[tuple[bool, float]]) -> None:
    is_fraud = np.array([fraud for fraud, _ in rows])
    figure = METRICS[name](is_fraud, is_fraud.astype(float))
    assert figure.value == pytest.approx(figure.ceiling)


@few
@given(CARDS)
def test_the_truth_as_score_finds_every_card_where_a_day_has_room_for_all(
    cards: list[tuple[str, int, bool, float]],
) -> None:
    customer, day, fraud, _ = zip(*cards, strict=True)
    figure = card_precision_at_k(customer, day, fraud, fraud, k=6)
    compromised = len({c for c, _, is_fraud, _ in cards if is_fraud})
    assert figure.value == pytest.approx(compromised / 6 / len(set(day)))
    assert figure.value == pytest.approx(figure.ceiling)


@pytest.mark.parametrize("name", ["auc_roc", "average_precision", "recall_at_budget"])
def test_a_score_that_knows_nothing_reaches_the_floor(name: str) -> None:
    is_fraud = np.arange(1000) % 10 == 0
    figure = METRICS[name](is_fraud, np.full(1000, 0.7))
    assert figure.value == pytest.approx(figure.floor)


@few
@given(ROWS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_budget_never_finds_less(
    rows: list[tuple[bool, float]], one: float, other: float
) -> None:
    is_fraud, score = zip(*rows, strict=True)
    less, more = (recall_at_budget(is_fraud, score, b) for b in sorted((one, other)))
    if less.value is not None:
        assert more.value is not None
        assert more.value >= less.value - 1e-12


@few
@given(ROWS)
def test_the_whole_budget_finds_everything(rows: list[tuple[bool, float]]) -> None:
    is_fraud, score = zip(*rows, strict=True)
    expected = Figure(1.0, 1.0, 1.0) if any(is_fraud) else UNDEFINED
    assert recall_at_budget(is_fraud, score, 1.0) == expected


@few
@given(CARDS, st.randoms(), st.integers(1, 5))
def test_the_order_of_a_days_rows_changes_no_card_precision(
    cards: list[tuple[str, int, bool, float]], random: object, k: int
) -> None:
    shuffled = random.sample(cards, len(cards))  # type: ignore[attr-defined]
    before, after = (card_precision_at_k(*zip(*c, strict=True), k=k) for c in (cards, shuffled))
    assert before == after


@few
@given(CARDS, st.integers(1, 8))
def test_card_precision_stays_below_its_ceiling(
    cards: list[tuple[str, int, bool, float]], k: int
) -> None:
    figure = card_precision_at_k(*zip(*cards, strict=True), k=k)
    assert figure.value is not None
    assert figure.floor is not None
    assert figure.ceiling is not None
    assert 0 <= figure.value <= figure.ceiling + 1e-12 <= 1 + 1e-12
    assert 0 <= figure.floor <= 1


# --- values by hand ------------------------------------------------------------------------------


def test_the_area_under_roc_counts_pairs() -> None:
    is_fraud, score = [1, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.7, 0.1]
    # of 6 pairs 4 are ranked rightly, 1 is tied (half) and 1 is wrong
    assert auc_roc(is_fraud, score).value == pytest.approx(4.5 / 6)


def test_average_precision_is_the_mean_precision_at_the_frauds() -> None:
    is_fraud, score = [1, 0, 1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    figure = average_precision(is_fraud, score)
    assert figure.value == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert (figure.floor, figure.ceiling) == (0.5, 1.0)


def test_recall_counts_the_frauds_within_the_budget() -> None:
    is_fraud = [0, 1, 0, 1, 1, 0, 0, 0, 0, 0]
    score = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    assert recall_at_budget(is_fraud, score, 0.2) == Figure(1 / 3, 0.2, 2 / 3)
    assert recall_at_budget(is_fraud, score, 0.5) == Figure(1.0, 0.5, 1.0)
    assert recall_at_budget(is_fraud, score, 0.05) == Figure(0.0, 0.0, 0.0)


def test_equal_scores_are_drawn_by_chance() -> None:
    is_fraud, score = [1, 0, 0, 0, 1], [0.9, 0.5, 0.5, 0.5, 0.5]
    figure = recall_at_budget(is_fraud, score, 0.6)  # one for sure, two of four for the other
    assert figure.value == pytest.approx((1 + 2 / 4) / 2)


def test_a_budget_of_29_of_100_is_29() -> None:
    assert int(0.29 * 100) == 28, "what a computer makes of it"
    figure = recall_at_budget(np.ones(100), np.arange(100), 0.29)
    assert figure == Figure(0.29, 0.29, 0.29)


def test_a_card_that_was_found_leaves_the_later_days() -> None:
    rows = [
        # customer, day, fraud, score: `a` is found on day 0 and does not take a place on day 1
        ("a", 0, True, 0.9), ("b", 0, False, 0.8), ("c", 0, False, 0.1),
        ("a", 1, True, 0.9), ("b", 1, False, 0.8), ("c", 1, True, 0.7), ("d", 1, False, 0.1),
    ]  # fmt: skip
    customer, day, fraud, score = zip(*rows, strict=True)
    one, two = (card_precision_at_k(customer, day, fraud, score, k) for k in (1, 2))
    assert one == Figure(0.5, (1 / 3 + 2 / 4) / 2, 1.0)
    assert two == Figure(0.5, (1 / 3 + 2 / 4) / 2, 0.5)


def test_a_card_that_was_missed_can_be_found_later() -> None:
    rows = [("a", 0, True, 0.1), ("b", 0, False, 0.9), ("a", 1, True, 0.9), ("b", 1, False, 0.1)]
    customer, day, fraud, score = zip(*rows, strict=True)
    assert card_precision_at_k(customer, day, fraud, score, 1).value == 0.5


def test_a_customer_counts_once_with_the_most_suspicious_transaction() -> None:
    rows = [
        ("a", 0, False, 0.9), ("a", 0, True, 0.1), ("a", 0, False, 0.2),
        ("b", 0, False, 0.8), ("b", 0, False, 0.8),
    ]  # fmt: skip
    customer, day, fraud, score = zip(*rows, strict=True)
    assert card_precision_at_k(customer, day, fraud, score, 2) == Figure(0.5, 0.5, 0.5)


def test_fewer_customers_than_k_still_divide_by_k() -> None:
    figure = card_precision_at_k(["a", "b"], [0, 0], [True, False], [0.9, 0.1], 100)
    assert figure == Figure(0.01, 0.01, 0.01)


def test_no_ranking_beats_the_ceiling_where_a_day_has_more_than_k() -> None:
    # b first and a on the next day finds both; a ranking that takes a first finds one
    customer, day = ["a", "b", "a"], [0, 0, 1]
    best = card_precision_at_k(customer, day, [True] * 3, [0.1, 0.9, 0.9], 1)
    assert best == Figure(1.0, 1.0, 1.0)
    assert card_precision_at_k(customer, day, [True] * 3, [0.9, 0.1, 0.9], 1).value == 0.5


def test_recall_is_told_by_scenario_the_best_first() -> None:
    table = recall_by_scenario(
        [1, 1, 1, 0, 1, 1],
        pd.Series(["night", "spike", "night", "spike", None, "spike"]),
        [0, 1, 1, 1, 0, 1],
    )
    assert table.to_dict("list") == {
        "scenario": ["spike", "night", "not named"],
        "frauds": [2, 2, 1],
        "caught": [2, 1, 0],
        "recall": [1.0, 0.5, 0.0],
    }


@pytest.mark.parametrize("scenario", [[None, None], ["x", "y"], [math.nan, math.nan]])
def test_without_fraud_there_is_no_scenario(scenario: list[object]) -> None:
    table = recall_by_scenario([0, 0], pd.Series(scenario, dtype=object), [1, 0])
    assert table.empty
    assert list(table.columns) == ["scenario", "frauds", "caught", "recall"]


# --- undefined -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_no_rows_are_undefined(metric: Metric) -> None:
    assert metric(np.zeros(0, bool), np.zeros(0)) == UNDEFINED


@pytest.mark.parametrize("name", ["auc_roc", "average_precision", "recall_at_budget"])
def test_no_fraud_is_undefined(name: str) -> None:
    assert METRICS[name]([0, 0, 0], [0.1, 0.2, 0.3]) == UNDEFINED


def test_without_fraud_no_card_is_found() -> None:
    assert card_precision_at_k([1, 2], [0, 1], [0, 0], [0.1, 0.2], 1) == Figure(0.0, 0.0, 0.0)


def test_nothing_but_fraud_has_no_area_under_roc() -> None:
    assert auc_roc([1, 1], [0.1, 0.2]) == UNDEFINED
    assert average_precision([1, 1], [0.1, 0.2]) == Figure(1.0, 1.0, 1.0)
