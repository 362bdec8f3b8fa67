"""Plain models agree with the laws that they stand for, and with those computed elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aegis_core.features.surprise import (
    MEMORY,
    PRIOR_VARIANCE,
    expected,
    hour_surprise,
    normal_score,
    poisson_surprise,
    surprise,
    welford,
)

few = settings(max_examples=30, deadline=None)
AMOUNTS = st.lists(st.floats(-10, 10), min_size=1, max_size=30)


@few
@given(st.floats(-8, 20))
def test_surprise_is_the_normal_tail(z: float) -> None:
    assert surprise(z) == pytest.approx(-stats.norm.logsf(z), rel=1e-12, abs=1e-15)


@few
@given(st.floats(20, 1e6))
def test_surprise_follows_the_normal_tail_far_out(z: float) -> None:
    assert surprise(z) == pytest.approx(-stats.norm.logsf(z), rel=1e-12, abs=2e-5)


def test_surprise_never_falls() -> None:
    edge = [np.nextafter(20.0, 0.0), 20.0, np.nextafter(20.0, 21.0)]
    grid = np.sort(np.concatenate([np.linspace(-40, 60, 20_001), edge]))
    assert (np.diff([surprise(z) for z in grid]) >= 0).all()


@few
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(PRIOR_VARIANCE, 1020))
def test_the_normal_score_keeps_order_and_sign(t: float, u: float, dof: float) -> None:
    low, high = sorted((t, u))
    assert normal_score(low, dof) <= normal_score(high, dof)
    assert normal_score(-t, dof) == -normal_score(t, dof)
    assert abs(normal_score(t, dof)) <= abs(t) * (1 + 1e-12) + 1e-100  # t * t may be 0


@few
@given(st.floats(0, 30), st.floats(PRIOR_VARIANCE, 1020))
def test_the_normal_score_is_about_as_surprising_as_students_t(t: float, dof: float) -> None:
    nats = -stats.t.logsf(t, dof)
    assert surprise(normal_score(t, dof)) == pytest.approx(nats, rel=0.03, abs=0.03)


@few
@given(st.integers(0, 200), st.floats(1e-6, 300))
def test_the_poisson_surprise_is_a_lower_bound(count: int, rate: float) -> None:
    nats = poisson_surprise(float(count), rate)
    assert 0 <= nats <= -stats.poisson.logsf(count - 1, rate) + 1e-9
    if count <= rate:
        assert nats == 0


@few
@given(st.integers(1, 200), st.floats(1e-6, 300), st.floats(1, 10))
def test_the_poisson_surprise_rises_with_the_count_and_falls_with_the_rate(
    count: int, rate: float, more: float
) -> None:
    nats = poisson_surprise(float(count), rate)
    assert poisson_surprise(count + 1.0, rate) >= nats
    assert poisson_surprise(float(count), rate * more) <= nats + 1e-9


@few
@given(AMOUNTS)
def test_mean_and_squares_are_those_of_all_values(values: list[float]) -> None:
    n, mean, m2 = 0.0, 0.0, 0.0
    for x in values:
        n, mean, m2 = welford(n, mean, m2, x)
    assert n == len(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert m2 == pytest.approx(np.var(values) * n, abs=1e-7)


def test_beyond_the_memory_the_count_stands_still() -> None:
    n, _, m2 = welford(MEMORY, 1.0, 500.0, 1.0)
    assert n == MEMORY
    assert m2 < 500.0


@few
@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-5, 5), st.floats(0.01, 5))
def test_what_is_expected_moves_from_the_prior_to_the_own_history(
    prior_mean: float, prior_var: float, mean: float, var: float
) -> None:
    assert expected(0.0, mean, 0.0, prior_mean, prior_var)[0] == pytest.approx(prior_mean)
    low, high = sorted((prior_mean, mean))
    means = [expected(n, mean, n * var, prior_mean, prior_var)[0] for n in (1.0, 10.0, 1e6)]
    assert all(low - 1e-9 <= m <= high + 1e-9 for m in means)
    late = expected(1e6, mean, 1e6 * var, prior_mean, prior_var)
    assert late == pytest.approx((mean, var**0.5), abs=1e-3)


@few
@given(st.lists(st.floats(0, 100), min_size=24, max_size=24), st.floats(0, 23.99))
def test_the_hour_turns_with_the_clock(counts: list[float], hour: float) -> None:
    even, now = np.full(24, 1 / 24), np.array(counts)
    rare, quiet = hour_surprise(now, even, hour)
    assert rare >= 0
    assert quiet >= -1e-12
    later = hour_surprise(np.roll(now, 6), even, (hour + 6) % 24)
    assert later[0] == pytest.approx(rare, abs=1e-6)
