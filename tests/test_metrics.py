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

from aegis_core.evaluation.drift.effects import MEASURES, limit
from aegis_core.metrics import (
    Figure,
    auc_roc,
    average_precision,
    card_precision_at_k,
    daily_counts,
    paired_bootstrap,
    precision_at_recall,
    predictive_interval,
    recall_at_budget,
    recall_by_scenario,
    weighted_share,
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


def test_incidents_of_a_scenario_are_told_as_one() -> None:
    table = recall_by_scenario(
        [1, 1, 1, 0], pd.Series(["testing:a-1", "testing:b-1", "burst", "sale:a-1"]), [1, 0, 0, 1]
    )
    assert table[["scenario", "frauds", "caught"]].to_numpy().tolist() == [
        ["testing", 2, 1],
        ["burst", 1, 0],
    ]


@pytest.mark.parametrize("scenario", [[None, None], ["x", "y"], [math.nan, math.nan]])
def test_without_fraud_there_is_no_scenario(scenario: list[object]) -> None:
    table = recall_by_scenario([0, 0], pd.Series(scenario, dtype=object), [1, 0])
    assert table.empty
    assert list(table.columns) == ["scenario", "frauds", "caught", "recall"]


def test_precision_at_the_recall_of_everything_is_that_of_the_last_fraud() -> None:
    truth, score = [1, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.1, 0.1]
    assert precision_at_recall(truth, score, np.array([1.0])).tolist() == [2 / 3]


def test_transactions_with_one_score_are_looked_at_together() -> None:
    assert precision_at_recall([1, 0, 0, 0], [0.5] * 4, np.array([0.1, 1.0])).tolist() == [0.25] * 2


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


# --- days and forecasts --------------------------------------------------------------------------

FIRST = pd.Timestamp("2026-01-01")


def hours(*numbers: float) -> pd.Series:
    return pd.Series(FIRST + pd.to_timedelta(list(numbers), unit="h"))


def test_a_day_without_anything_counts_as_zero() -> None:
    assert daily_counts(hours(1, 2, 50), [True, False, True]).tolist() == [1, 0, 1]
    nothing = daily_counts(hours(), [], FIRST, FIRST + pd.Timedelta(days=3))
    assert nothing.tolist() == [0, 0, 0]
    assert daily_counts(hours(), []).tolist() == []


def test_days_begin_with_the_window_and_the_rest_of_a_day_is_left_out() -> None:
    noon = FIRST + pd.Timedelta(hours=12)
    ts = hours(11, 12, 35.9, 36, 61)
    assert daily_counts(ts, np.ones(5), noon, noon + pd.Timedelta(hours=49)).tolist() == [2, 1]


def test_half_a_day_is_told_as_a_day() -> None:
    end = FIRST + pd.Timedelta(hours=12)
    assert daily_counts(hours(1, 2), [True, True], FIRST, end).tolist() == [4]


@few
@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_forecast_spans_its_mean_and_a_higher_level_spans_more(
    counts: list[int], level: float
) -> None:
    days = np.array(counts, float)
    mean, low, high = predictive_interval(days, level)
    assert mean == pytest.approx(days.mean())
    assert 0 <= low <= mean <= high
    wider = predictive_interval(days, (1 + level) / 2)
    assert wider.low <= low
    assert wider.high >= high


@pytest.mark.parametrize(("rate", "clustered"), [(5, 0.0), (60, 0.0), (60, 0.1), (300, 0.05)])
@pytest.mark.parametrize("n_days", [3, 7, 28])
def test_nine_later_days_of_ten_lie_within_a_forecast(
    n_days: int, rate: float, clustered: float
) -> None:
    rng = np.random.default_rng(n_days)
    inside = []
    for _ in range(200):
        swing = rng.gamma(1 / clustered, clustered, n_days + 20) if clustered else 1.0
        days = rng.poisson(rate * swing, n_days + 20).astype(float)
        _, low, high = predictive_interval(days[:n_days])
        inside.append(((days[n_days:] >= low) & (days[n_days:] <= high)).mean())
    assert 0.87 < np.mean(inside) < 0.99


def test_days_that_are_all_alike_still_leave_room_for_chance() -> None:
    mean, low, high = predictive_interval(np.full(7, 10.0))
    assert (mean, low < 8, high > 12) == (10.0, True, True)
    assert predictive_interval(np.zeros(3)).high >= 1
    assert predictive_interval(np.zeros(0)) == (None, None, None)


def test_one_degree_of_freedom_has_the_heavy_tail_of_cauchy_s_distribution() -> None:
    rare = 1 / (2 * len(MEASURES) * 25)
    found = limit(MEASURES[0], [0.5, -0.5], 1, 25)
    assert found == pytest.approx(0.5 * math.tan(math.pi * (0.5 - rare)))


# --- two detectors on the same rows --------------------------------------------------------------


def ranked(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fraud, a good score with many ties, a poor one, and sixty customers."""
    rng = np.random.default_rng(3)
    is_fraud = rng.random(n) < 0.1
    good, poor = (np.round(rng.normal(size=n) + k * is_fraud, 1) for k in (2.0, 0.5))
    return is_fraud, good, poor, rng.integers(0, 60, n)


def test_weights_are_the_same_as_repeated_rows() -> None:
    is_fraud, good, poor, customer = ranked()
    code, names = pd.factorize(customer)
    rng, repeated = np.random.default_rng(0), []
    for _ in range(40):
        rows = np.repeat(np.arange(len(code)), rng.poisson(1.0, len(names))[code])
        one, other = (average_precision(is_fraud[rows], s[rows]).value for s in (good, poor))
        repeated.append(one - other)
    fast = paired_bootstrap(is_fraud, good, poor, customer, n=40)
    assert fast[1:] == pytest.approx(np.quantile(repeated, (0.05, 0.95)), abs=1e-12)


def test_a_difference_is_that_of_the_figures_and_turns_with_its_sides() -> None:
    is_fraud, good, poor, customer = ranked()
    value, low, high = paired_bootstrap(is_fraud, good, poor, customer)
    assert value == pytest.approx(
        average_precision(is_fraud, good).value - average_precision(is_fraud, poor).value
    )
    assert 0 < low < value < high
    turned = paired_bootstrap(is_fraud, poor, good, customer)
    assert turned == pytest.approx((-value, -high, -low))
    assert paired_bootstrap(is_fraud, good, good, customer) == (0.0, 0.0, 0.0)
    assert paired_bootstrap(is_fraud, good, poor, customer) == (value, low, high), "seeded"


def test_folds_are_judged_apart_and_averaged() -> None:
    is_fraud, good, poor, customer = ranked()
    fold = np.arange(600) // 300
    apart = [
        average_precision(is_fraud[fold == f], good[fold == f]).value
        - average_precision(is_fraud[fold == f], poor[fold == f]).value
        for f in (0, 1)
    ]
    assert paired_bootstrap(is_fraud, good, poor, customer, within=fold).value == pytest.approx(
        np.mean(apart)
    )
    half = is_fraud & (fold == 0)
    alone = paired_bootstrap(half, good, poor, customer, within=fold)
    assert alone.value == pytest.approx(apart[0]), "a fold without fraud says nothing"


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(60):
        mood = np.repeat(rng.normal(size=50), 10)  # what a customer's rows have in common
        is_fraud = rng.random(500) < 0.2
        a, b = (is_fraud + mood + rng.normal(size=500) for _ in range(2))
        _, low, high = paired_bootstrap(is_fraud, a, b, np.repeat(np.arange(50), 10), n=60)
        covered.append(low <= 0 <= high)
    assert 0.75 < np.mean(covered) < 1.0


def test_a_difference_without_fraud_or_with_one_cluster_has_no_interval() -> None:
    is_fraud, good, poor, customer = ranked()
    assert paired_bootstrap(np.zeros(600), good, poor, customer) == (None, None, None)
    assert paired_bootstrap([], [], [], []) == (None, None, None)
    alone = paired_bootstrap(is_fraud, good, poor, np.zeros(600))
    assert alone.value is not None
    assert alone[1:] == (None, None)


# --- a share from a sample -----------------------------------------------------------------------


@few
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.001, 0.1, 0.5, 1.0])), min_size=1, max_size=30
    )
)
def test_a_share_lies_in_its_interval(rows: list[tuple[bool, float]]) -> None:
    share, low, high = weighted_share(*zip(*rows, strict=True))
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1 + 1e-12
    wider = weighted_share(*zip(*rows, strict=True), level=0.99)
    assert wider.low <= low + 1e-12
    assert wider.high >= high - 1e-12


def test_a_rare_answer_stands_for_the_many_that_were_not_asked() -> None:
    assert weighted_share([True, False], [0.5, 0.25]).value == pytest.approx(2 / 6)
    everybody = weighted_share([True, False, False, False], [1.0] * 4)
    assert everybody == (0.25, 0.25, 0.25)


def test_no_fraud_among_few_answers_is_no_proof_that_there_is_none() -> None:
    share, low, high = weighted_share([False] * 30, [0.01] * 30)
    assert (share, low) == (0.0, 0.0)
    assert 0.09 < high < 0.15  # the rule of three says 3 / 30
    assert weighted_share([], []) == (None, None, None)


def test_an_answer_that_could_not_be_asked_is_refused() -> None:
    for wrong in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="Inclusion probabilities"):
            weighted_share([True], [wrong])


@pytest.mark.parametrize(("share", "audit"), [(0.001, 0.001), (0.01, 0.01), (0.1, 0.005)])
def test_nine_intervals_of_ten_hold_the_true_share(share: float, audit: float) -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(200):
        fraud = rng.random(20_000) < share
        alerted = rng.random(20_000) < np.where(fraud, 0.5, 0.002)
        inclusion = np.where(alerted, 1.0, audit)
        asked = rng.random(20_000) < inclusion
        _, low, high = weighted_share(fraud[asked], inclusion[asked])
        held.append(low <= fraud.mean() <= high)
    assert np.mean(held) > 0.87
