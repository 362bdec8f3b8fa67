"""Laws of what one sender can do to what others are judged by: next to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from aegis_core.detection.counter import BLOCKED_AT, FEWEST_IN_A_BURST, Counter, burst_limits
from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import ALLOWED, Scorer
from aegis_core.features.profiles import Profiles
from aegis_core.features.signals import OWN_MOST

Payments = tuple[pd.DataFrame, pd.DataFrame]
BUDGET = 0.02
PROBES = 300


def fitted(signals: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], rows: pd.DataFrame):  # type: ignore[no-untyped-def]
    detector = Detector(n_trees=30).fit(signals, rows.customer_id)
    score = detector.score(detector.weigh(signals)[1])
    counter = Counter.beside(burst_limits(counts, rows), counts, score, rows)
    return detector, Policy.from_budget(detector, BUDGET, counter=counter)


@pytest.fixture(scope="module")
def before(payments: Payments) -> tuple[Profiles, Detector, Policy]:
    """A model of 30 days, and what is known after them."""
    frame = payments[0].iloc[:15_000]
    scorer = Scorer()
    passed = scorer.run(frame, signals=True)
    return scorer.profiles, *fitted(passed.signals, passed.counts, frame)


def probes(frame: pd.DataFrame) -> pd.DataFrame:
    """What others do next: ordinary payments, at ten and twenty times, at night, far away."""
    some = frame.iloc[15_000 : 15_000 + PROBES].reset_index(drop=True)
    k = np.arange(len(some)) % 5
    far = k == 4
    return some.assign(
        amount=some.amount * np.choose(k, [1, 10, 20, 3, 1]),
        ts=some.ts.max() + pd.Timedelta("2D") + pd.to_timedelta(np.arange(len(some)), unit="s"),
        lat=np.where(far, -33.0, some.lat),
        lon=np.where(far, 151.0, some.lon),
    )


def sent(frame: pd.DataFrame, **what: object) -> pd.DataFrame:
    """One in a hundred of all rows, by one customer: 150 within the days before the probes."""
    n = len(frame.iloc[:15_000]) // 100
    base = pd.concat([frame.iloc[[14_999]]] * n, ignore_index=True)
    ts = base.ts + pd.to_timedelta(np.arange(n) * 300, unit="s")
    return base.assign(**{"customer_id": "one", "ts": ts, **what})


NOISE: dict[str, Callable[[int], dict[str, object]]] = {
    "the least amount": lambda n: {"amount": 0.001},
    "the largest amount": lambda n: {"amount": 1e12},
    "amounts in turn": lambda n: {"amount": np.where(np.arange(n) % 2, 0.001, 1e12)},
    "one category": lambda n: {"amount": 1e9, "category": "grocery"},
    "small ones in a category": lambda n: {"amount": 0.005, "category": "grocery"},
    "small ones by fifteen": lambda n: {
        "amount": 0.005,
        "customer_id": [f"one{i % 15}" for i in range(n)],
    },
    "a category of each": lambda n: {"category": [f"id{i}" for i in range(n)]},
    "there and home in turn": lambda n: {
        "lat": np.where(np.arange(n) % 2, -33.0, 50.0),
        "lon": np.where(np.arange(n) % 2, 151.0, 8.0),
    },
    "places in turn": lambda n: {"lat": np.where(np.arange(n) % 2, 89.0, -89.0), "lon": 0.0},
}


@pytest.mark.parametrize("noise", NOISE)
def test_one_row_in_a_hundred_moves_nobody_elses_alert(
    payments: Payments, before: tuple[Profiles, Detector, Policy], noise: str
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    told = []
    for what in (None, NOISE[noise](150)):
        scorer = Scorer(detector, policy, profiles.copy())
        if what is not None:
            scorer.run(sent(frame, **what))
        ordinary = frame.iloc[14_000:14_100]  # a day begins, so that all of it is published
        scorer.run(ordinary.assign(ts=frame.ts.iloc[15_000] + pd.Timedelta("1.5D")))
        told.append(scorer.run(probes(frame)).decision > 0)
    assert told[0].mean() > 0.2, "the probes are seen"
    assert (told[0] != told[1]).mean() <= 0.02


def test_small_amounts_of_a_customer_hide_no_large_one(
    payments: Payments, before: tuple[Profiles, Detector, Policy]
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    last = frame.iloc[:15_000].groupby("customer_id").tail(1)
    usual = frame.iloc[:15_000].groupby("customer_id").amount.median()
    end = frame.ts.iloc[15_000]
    fraud = last.assign(amount=20 * last.customer_id.map(usual), ts=end + pd.Timedelta("3D"))
    small = [last.assign(amount=0.01, ts=end + pd.Timedelta(hours=4 * i)) for i in range(10)]
    told = []
    for rows in (frame.iloc[:0], pd.concat(small)):
        scorer = Scorer(detector, policy, profiles.copy())
        scorer.run(rows)
        told.append(int((scorer.run(fraud).decision > 0).sum()))
    assert told[0] > len(fraud) / 2, "it is seen"
    assert told[1] >= 0.85 * told[0]


CROWDS: dict[str, Callable[[int], dict[str, object]]] = {
    "amounts": lambda n: {"amount": np.where(np.arange(n) % 2, 1e9, 0.01)},
    "amounts and places": lambda n: {
        "amount": np.where(np.arange(n) % 2, 1e9, 0.01),
        **NOISE["places in turn"](n),
    },
}


@pytest.mark.attack("strange payments of one customer, or of ten, in a training window")
@pytest.mark.parametrize("senders", [1, 10])
@pytest.mark.parametrize("crowd", CROWDS)
def test_what_is_strange_of_a_few_customers_does_not_make_a_model_blind(
    payments: Payments, crowd: str, senders: int
) -> None:
    frame = payments[0].iloc[:15_000]
    n, begin = len(frame) // 50, frame.ts.min() + pd.Timedelta("2D")
    strange = pd.concat([frame.iloc[[9]]] * n, ignore_index=True).assign(
        customer_id=[f"one{i // (n // senders)}" for i in range(n)],
        ts=begin + pd.to_timedelta(np.arange(n) * 11, unit="min"), **CROWDS[crowd](n),
    )  # fmt: skip
    told = []
    for rows in (frame.iloc[:0], strange):
        window = pd.concat([frame, rows]).sort_values("ts", kind="stable", ignore_index=True)
        scorer = Scorer()
        passed = scorer.run(window, signals=True)
        judge = Scorer(*fitted(passed.signals, passed.counts, window), scorer.profiles)
        told.append(int((judge.run(probes(payments[0])).decision > 0).sum()))
    assert told[0] > 0.2 * PROBES
    assert told[1] > 0.85 * told[0]


@pytest.mark.attack("a currency whose scale one sender sets")
def test_one_sender_does_not_say_what_a_currency_is_worth(
    payments: Payments, before: tuple[Profiles, Detector, Policy]
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    odd = {"currency": "COWRIE", "rate": np.nan, "base_currency": "EUR"}
    n, end = 400, frame.ts.iloc[15_000]
    given = pd.concat([frame.iloc[[14_999]]] * n, ignore_index=True).assign(
        customer_id="one", amount=0.001,
        ts=end + pd.to_timedelta(np.arange(n) * 15, unit="min"), **odd,
    )  # fmt: skip
    scorer = Scorer(detector, policy, profiles.copy())
    scorer.run(given)
    scorer.run(frame.iloc[14_900:15_000].assign(ts=end + pd.Timedelta("5D")))
    others = frame.iloc[15_000:15_300].drop_duplicates("customer_id")
    first = others.assign(amount=4e6, ts=end + pd.Timedelta("5.5D"), **odd)
    assert not scorer.run(first).decision.any()


@pytest.mark.attack("a fraud in no category, or in one that was made up")
@pytest.mark.parametrize("category", [None, "made up"])
def test_who_leaves_the_category_out_hides_no_amount(
    payments: Payments, before: tuple[Profiles, Detector, Policy], category: str | None
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    last = frame.iloc[:15_000].groupby("customer_id").tail(1)
    usual = frame.iloc[:15_000].groupby("customer_id").amount.median()
    at = frame.ts.iloc[15_000] + pd.Timedelta("1D")
    fraud = last.assign(amount=40 * last.customer_id.map(usual), ts=at)
    alerts = [
        int((Scorer(detector, policy, profiles.copy()).run(rows).decision > 0).sum())
        for rows in (fraud, fraud.assign(category=category))
    ]
    assert alerts[0] > len(fraud) / 2
    assert alerts[1] >= 0.85 * alerts[0]


def test_where_many_have_no_category_one_that_has_none_is_no_alert(
    payments: Payments, before: tuple[Profiles, Detector, Policy]
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    scorer = Scorer(detector, policy, profiles.copy())
    rows = frame.iloc[15_000:].assign(category=None)
    legitimate = ~payments[1].is_fraud.to_numpy()[15_000:]
    alerts = (scorer.run(rows).decision > 0)[legitimate]
    assert alerts[2_000:].mean() < BUDGET, "from the second day on"


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("n", [20, 60])
def test_a_burst_that_somebody_was_to_look_at_is_nobody_s_own(
    payments: Payments, before: tuple[Profiles, Detector, Policy], n: int, blocks: bool
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    if not blocks:
        policy = replace(policy, block_above=math.inf)
    scorer = Scorer(detector, policy, profiles.copy())
    last = pd.concat([frame.iloc[[14_999]]] * n, ignore_index=True)
    for day in range(1, 6):
        at = frame.ts.iloc[15_000] + pd.Timedelta(days=day) + pd.to_timedelta(np.arange(n) / 9, "s")
        burst = last.assign(ts=at, amount=2.0)
        decision = scorer.run(burst).decision
        assert np.flatnonzero(decision > 0)[0] <= OWN_MOST[0]
        assert (decision[OWN_MOST[0] :] > 0).all()


def test_what_is_let_through_that_often_is_a_customer_s_own(
    payments: Payments, before: tuple[Profiles, Detector, Policy]
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    scorer = Scorer(detector, policy, profiles.copy())
    last = pd.concat([frame.iloc[[14_999]]] * 20, ignore_index=True)
    for day in range(1, 4):
        begin = frame.ts.iloc[15_000] + pd.Timedelta(days=day)
        at = begin + pd.to_timedelta(np.arange(20) / 9, "s")
        listed = np.full(20, ALLOWED if day < 3 else 0)
        decision = scorer.run(last.assign(ts=at, amount=2.0), rulings=listed).decision
        assert not decision.any()


def test_no_count_that_is_looked_at_and_becomes_one_s_own_would_be_blocked() -> None:
    assert tuple(BLOCKED_AT * n - 1 for n in FEWEST_IN_A_BURST) == OWN_MOST


@pytest.mark.parametrize("gap", ["ahead", "behind", "days in turn"])
def test_nor_do_the_times_that_one_sender_gives(
    payments: Payments, before: tuple[Profiles, Detector, Policy], gap: str
) -> None:
    frame = payments[0]
    profiles, detector, policy = before
    given = sent(frame)
    days = {"ahead": 3.0, "behind": -300.0, "days in turn": np.arange(len(given)) % 2 * 40.0}[gap]
    given["ts"] += pd.to_timedelta(np.broadcast_to(days, len(given)) * 86_400, unit="s")
    told = []
    for rows in (frame.iloc[:0], given):
        scorer = Scorer(detector, policy, profiles.copy())
        scorer.run(pd.concat([rows, frame.iloc[14_900:15_000]]))
        told.append(scorer.run(probes(frame)).decision > 0)
    assert (told[0] != told[1]).mean() <= 0.02


def test_a_window_s_own_bursts_do_not_become_its_normal(payments: Payments) -> None:
    frame = payments[0].iloc[:12_000]
    rng = np.random.default_rng(0)
    parts = [frame]
    for customer in frame.customer_id.unique()[:3]:  # beside the bursts that are there
        row = frame[frame.customer_id == customer].iloc[[-1]]
        burst = pd.concat([row] * 60, ignore_index=True)
        begin = pd.Timedelta(days=float(rng.uniform(2, 20)))
        at = frame.ts.min() + begin + pd.to_timedelta(np.arange(60) * 0.3, unit="s")
        parts.append(burst.assign(ts=at, amount=2.0))
    attacked = pd.concat(parts).sort_values("ts", kind="stable", ignore_index=True)
    passed = Scorer().run(attacked, signals=True)
    made = fitted(passed.signals, passed.counts, attacked)
    probe = frame.iloc[[-1]]
    next_burst = pd.concat([probe] * 40, ignore_index=True).assign(
        ts=frame.ts.max() + pd.to_timedelta(3600 + np.arange(40) * 0.3, unit="s"), amount=2.0
    )
    scorer = Scorer(*made)
    scorer.run(attacked)
    decision = scorer.run(next_burst).decision
    assert np.flatnonzero(decision > 0)[0] < 5
    assert np.flatnonzero(decision > 1)[0] < 12
