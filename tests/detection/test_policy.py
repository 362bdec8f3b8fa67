"""An alert budget holds, and a reason is told in the customer's own units."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_core.detection.counter import (
    BURST_CUSTOMERS,
    EPISODE_ROWS,
    FEWEST_CUSTOMERS,
    FEWEST_IN_A_BURST,
    NO_ENTITY_LIMITS,
    NO_LIMITS,
    Counter,
    burst_limits,
    thinned,
)
from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.reasons import Paid, _answered, counted, reasons
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import InputError, NotReady
from aegis_core.features.frauds import HISTORY, weight_of_share
from aegis_core.features.signals import FACTS, N_WINDOWS, RING, SIGNAL_FACTOR, SIGNALS
from aegis_core.schema import FACTORS, Decision

Floats = npt.NDArray[np.float64]
Trained = tuple[Detector, Policy]
Payments = tuple[pd.DataFrame, pd.DataFrame]
BUDGETS = (1e-9, 1e-4, 0.001, 0.005, 0.02, 0.1, 0.5, 0.999)


@pytest.fixture(scope="module")
def scores(trained: Trained, payments: Payments) -> Floats:
    signals = Scorer().run(payments[0], signals=True).signals
    return trained[0].score(trained[0].weigh(signals)[1])


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block_share", [0.0, 0.3, 1.0])
def test_a_larger_budget_never_loses_a_caught_transaction(
    trained: Trained, scores: Floats, block_share: float
) -> None:
    decisions = [Policy.from_budget(trained[0], b, block_share).decide(scores) for b in BUDGETS]
    for smaller, larger in itertools.pairwise(decisions):
        assert (larger >= smaller).all()
    assert (decisions[-1] > decisions[0]).any()


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_larger_share_of_blocks_never_frees_and_never_adds_alerts(
    trained: Trained, scores: Floats, budget: float
) -> None:
    decisions = [
        Policy.from_budget(trained[0], budget, share).decide(scores) for share in (0, 0.2, 0.7, 1)
    ]
    for smaller, larger in itertools.pairwise(decisions):
        assert (larger >= smaller).all()
        assert ((larger > 0) == (smaller > 0)).all()


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("block_share", [0.0, 1e-6, 0.2, 1.0])
def test_what_is_blocked_would_also_be_reviewed(
    trained: Trained, budget: float, block_share: float
) -> None:
    policy = Policy.from_budget(trained[0], budget, block_share)
    assert policy.block_above >= policy.review_above
    assert policy.alert_budget == budget


def test_without_a_share_of_blocks_nothing_is_blocked(trained: Trained) -> None:
    policy = Policy.from_budget(trained[0], 0.5, 0.0)
    assert policy.decide(np.array([0.0, 1.0, np.inf])).max() == Decision.REVIEW


def test_with_all_alerts_blocked_nothing_is_reviewed(trained: Trained, scores: Floats) -> None:
    decision = Policy.from_budget(trained[0], 0.1, 1.0).decide(scores)
    assert set(decision.tolist()) == {Decision.APPROVE, Decision.BLOCK}


def test_a_score_at_a_threshold_is_not_yet_above_it() -> None:
    policy = Policy(0.5, 0.75, 0.01)
    at = np.array([0.5, np.nextafter(0.5, 1), 0.75, np.nextafter(0.75, 1)])
    assert policy.decide(at).tolist() == [0, 1, 1, 2]
    assert policy.decide(at).dtype == np.int8


def test_the_budget_holds_on_the_training_window(trained: Trained, payments: Payments) -> None:
    seen = Scorer().run(payments[0].iloc[:10_000], signals=True).signals
    score = trained[0].score(trained[0].weigh(seen)[1])
    for budget in BUDGETS:
        decision = Policy.from_budget(trained[0], budget, 0.2).decide(score)
        assert (decision != Decision.APPROVE).mean() <= budget
        assert (decision == Decision.BLOCK).mean() <= 0.2 * budget


@pytest.mark.parametrize("budget", [0.0, 1.0, -0.1, 5.0, math.nan, math.inf])
def test_a_budget_that_is_no_share_is_refused(trained: Trained, budget: float) -> None:
    with pytest.raises(InputError, match="alert_budget"):
        Policy.from_budget(trained[0], budget)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_block_share_that_is_no_share_is_refused(trained: Trained, share: float) -> None:
    with pytest.raises(InputError, match="block_share"):
        Policy.from_budget(trained[0], 0.01, share)


@pytest.mark.parametrize("block_above", [0.75, math.inf])
def test_a_policy_survives_the_disk(tmp_path: Path, block_above: float) -> None:
    policy = Policy(0.6, block_above, 0.005)
    policy.save(tmp_path)
    assert Policy.load(tmp_path) == policy


@pytest.mark.parametrize(
    "text",
    [
        None, "", "{", "[]", "3", "null", '{"review_above": 0.5}', "\x80",
        '{"review_above": null, "block_above": 1, "alert_budget": 1}',
        '{"review_above": "much", "block_above": 1, "alert_budget": 1}',
        '{"review_above": 0.5, "block_above": 1, "alert_budget": 0.1, "other": 1}',
    ],
)  # fmt: skip
def test_a_broken_policy_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "policy.json").write_text(text, "latin-1")
    with pytest.raises(NotReady, match="aegis run train"):
        Policy.load(tmp_path)


def test_a_stored_policy_is_readable_text(tmp_path: Path) -> None:
    Policy(0.6, math.inf, 0.005).save(tmp_path)
    written = json.loads((tmp_path / "policy.json").read_text())
    assert written == {
        **{"review_above": 0.6, "block_above": math.inf},
        **{"alert_budget": 0.005, "audit_share": 0.001, "burst_limits": list(NO_LIMITS)},
        "entity_limits": {},
    }
    limits = (*NO_ENTITY_LIMITS[:4], 4, 5, 6, 8, *NO_ENTITY_LIMITS[8:])
    shared = Policy(0.6, 0.8, 0.005, entity_limits=limits)
    shared.save(tmp_path)
    written = json.loads((tmp_path / "policy.json").read_text())
    assert written["entity_limits"] == {"device_id": [4, 5, 6, 8]}
    assert Policy.load(tmp_path) == shared


# --- reasons -------------------------------------------------------------------------------------

KNOWN = {
    "n_raised": 0,
    "usual_amount": 68.5, "habit_amount": 40.0, "category_amount": 31.25,
    "population_amount": 25.0, "n_history": 214, "distance_km": 6190.4, "gap_s": 1320,
    "speed_kmh": 13_755.2, "hour": 3.2, "n_hour": 0, "burst_count": 61, "burst_window_s": 10,
    "rate_per_hour": 0.1, "n_unusual_day": 2.2, "utc_offset": 0, "n_declined": 0,
}  # fmt: skip


def told(
    signal: str,
    amount: float = 1240.0,
    currency: str | None = "EUR",
    paid: Paid | None = None,
    **facts: float,
) -> tuple[str, str]:
    """Code and sentence when `signal` is the reason."""
    known = KNOWN | facts
    assert set(known) == set(FACTS)
    j = SIGNALS.index(signal)
    contributions, by_signal = np.zeros(len(FACTORS)), np.zeros(len(SIGNALS))
    contributions[SIGNAL_FACTOR[j]], by_signal[j] = 0.2, 5.0
    (reason,) = reasons(
        paid or Paid(amount, currency),
        np.array([known[f] for f in FACTS], float), contributions, by_signal,
    )  # fmt: skip
    assert reason["factor"] == FACTORS[SIGNAL_FACTOR[j]]
    assert reason["contribution"] == 0.2
    return str(reason["code"]), str(reason["text"])


@pytest.mark.parametrize(
    ("signal", "code", "text"),
    [
        (
            "amount_customer", "AMOUNT-CUSTOMER",
            "EUR 1,240.00 is 18× this customer's usual 68.50",
        ),
        (
            "amount_habit", "AMOUNT-HABIT",
            "EUR 1,240.00 is 31× this customer's usual 40.00 in the category",
        ),
        (
            "amount_category", "AMOUNT-CATEGORY",
            "EUR 1,240.00 is 40× the 31.25 that is usual in the category",
        ),
        (
            "amount_population", "AMOUNT-HIGH",
            "EUR 1,240.00 is 50× the 25.00 that customers usually pay",
        ),
        (
            "travel_speed", "TRAVEL-SPEED",
            "6,190 km from the last purchase 22 min ago (at least 13,755 km/h)",
        ),
        (
            "hour_customer", "HOUR-RARE",
            "03:12 UTC, an hour at which this customer never paid in 214 transactions",
        ),
        (
            "hour_quiet", "HOUR-QUIET",
            "03:12 UTC, an hour at which this customer never paid in 214 transactions",
        ),
        ("burst_count", "BURST-COUNT", "61 transactions in 10 s; usual 0.1 an hour"),
        (
            "burst_swarm", "BURST-SWARM",
            "2 other unusual amounts of this customer within about a day",
        ),
    ],
)  # fmt: skip
def test_each_signal_has_its_sentence(signal: str, code: str, text: str) -> None:
    assert told(signal) == (code, text)


def test_every_signal_can_be_told() -> None:
    codes = [told(signal)[0] for signal in SIGNALS]
    assert len(set(codes)) == len(SIGNALS)


@pytest.mark.parametrize(
    ("amount", "currency", "usual", "text"),
    [
        (150.0, None, 100.0, "150.00 is 1.5× this customer's usual 100.00"),
        (1e9, "USD", 20.0, "USD 1,000,000,000.00 is 50,000,000× this customer's usual 20.00"),
        (0.01, "EUR", 0.004, "EUR 0.01 is 2.5× this customer's usual 0.00"),
    ],
)  # fmt: skip
def test_amounts_are_told_with_their_ratio(
    amount: float, currency: str | None, usual: float, text: str
) -> None:
    assert told("amount_customer", amount, currency, usual_amount=usual)[1] == text


def test_a_customer_without_history_has_no_usual() -> None:
    text = "EUR 1,240.00 is much for a customer without history"
    assert told("amount_customer", n_history=4)[1] == text
    assert told("hour_customer", n_history=4)[1] == "03:12 UTC, an hour at which few customers pay"


def test_an_hour_that_was_used_is_told_with_its_count() -> None:
    text = "03:12 UTC, an hour at which this customer paid 3 times in 1,214 transactions"
    assert told("hour_customer", n_hour=3, n_history=1214)[1] == text


@settings(deadline=None)
@given(st.integers(0, 20_000), st.integers(0, 1439))
def test_a_whole_minute_is_told_as_it_is(day: int, minute: int) -> None:
    ts = (day * 1440 + minute) * 60e6
    text = told("hour_customer", hour=ts / 3.6e9 % 24.0)[1]
    assert text[:9] == f"{minute // 60:02d}:{minute % 60:02d} UTC"


@pytest.mark.parametrize(
    ("hour", "clock"), [(0.0, "00:00"), (23.9999, "23:59"), (12.5, "12:30"), (3.999, "03:59")]
)
def test_the_clock_is_that_of_the_transaction(hour: float, clock: str) -> None:
    assert told("hour_quiet", hour=hour)[1].startswith(f"{clock} UTC, ")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"burst_window_s": 60}, "61 transactions in 60 s; usual 0.1 an hour"),
        ({"burst_window_s": 600}, "61 transactions in 10 min; usual 0.1 an hour"),
        ({"burst_window_s": 3600}, "61 transactions in 60 min; usual 0.1 an hour"),
        ({"burst_count": RING + 1}, "more than 64 transactions in 10 s; usual 0.1 an hour"),
        ({"rate_per_hour": 1234.5}, "61 transactions in 10 s; usual 1,234 an hour"),
        ({"rate_per_hour": 0.0123}, "61 transactions in 10 s; usual 0.012 an hour"),
        ({"rate_per_hour": 3.0}, "61 transactions in 10 s; usual 3 an hour"),
    ],
)
def test_a_burst_is_told_with_its_window_and_the_usual_rate(
    facts: dict[str, float], text: str
) -> None:
    assert told("burst_count", **facts)[1] == text


def test_a_swarm_is_told_by_what_is_left_of_it() -> None:
    one = "1 other unusual amount of this customer within about a day"
    assert told("burst_swarm", n_unusual_day=0.96)[1] == one
    assert told("burst_swarm", n_unusual_day=0.2)[1] == one


@pytest.mark.parametrize(
    ("km", "gap_s", "text"),
    [
        (0.4, 0, "0 km from the last purchase 0 s ago (at least 13,755 km/h)"),
        (12_345, 7200, "12,345 km from the last purchase 2 h ago (at least 13,755 km/h)"),
        (12_345, 300_000, "12,345 km from the last purchase 3 days ago (at least 13,755 km/h)"),
    ],
)
def test_travel_is_told_in_natural_units(km: float, gap_s: float, text: str) -> None:
    assert told("travel_speed", distance_km=km, gap_s=gap_s)[1] == text


def test_a_factor_is_told_by_its_strongest_signal() -> None:
    facts = np.array([KNOWN[f] for f in FACTS], float)
    by_signal = np.zeros(len(SIGNALS))
    by_signal[[SIGNALS.index(s) for s in ("amount_customer", "amount_category")]] = 2.0, 3.0
    by_signal[SIGNALS.index("burst_swarm")] = 9.0
    (reason,) = reasons(Paid(10.0), facts, np.array([0.1, 0, 0, 0]), by_signal)
    assert reason["code"] == "AMOUNT-CATEGORY"


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=len(FACTORS), max_size=len(FACTORS)))
def test_reasons_come_strongest_first_and_only_what_speaks_against(
    contributions: list[float],
) -> None:
    facts = np.array([KNOWN[f] for f in FACTS], float)
    out = reasons(Paid(10.0, "EUR"), facts, np.array(contributions), np.ones(len(SIGNALS)))
    given_ = [float(str(r["contribution"])) for r in out]
    assert given_ == sorted(given_, reverse=True)
    top = max(contributions)
    expected = [c for c in contributions if c > 0 and c >= 0.1 * top]
    assert sorted(given_) == sorted(expected)
    assert [dict(zip(FACTORS, contributions, strict=True))[str(r["factor"])] for r in out] == given_


def test_the_floor_says_what_is_still_a_reason() -> None:
    facts = np.array([KNOWN[f] for f in FACTS], float)
    contributions, by_signal = np.array([0.2, 0.1, 0.01, 0.0]), np.ones(len(SIGNALS))
    for floor, n in ((0.0, 3), (0.1, 2), (0.5, 2), (0.6, 1), (1.0, 1)):
        assert len(reasons(Paid(1.0), facts, contributions, by_signal, floor=floor)) == n


def test_every_alert_of_a_history_has_a_reason_without_nan(
    trained: Trained, payments: Payments, awkward: pd.DataFrame
) -> None:
    for frame in (payments[0], awkward):
        scorer = Scorer(*trained)
        scored = scorer.run(frame, signals=True, explain=True)
        verdicts = scorer.verdicts_of(frame, scored, "v1").frame()
        alerts = verdicts[verdicts.decision != "approve"]
        assert len(alerts)
        for told_ in alerts.reasons:
            assert told_
            for reason in told_:
                assert "nan" not in reason["text"].lower()
                assert "inf" not in reason["text"].lower()


# ---- the exact counter


def test_a_limit_of_the_counter_is_reached_by_few_customers(payments: Payments) -> None:
    frame = payments[0]
    counts = Scorer().run(frame, signals=True).counts
    limits = burst_limits(counts, frame)
    most = pd.DataFrame(counts[:, :N_WINDOWS]).groupby(frame.customer_id.to_numpy()).max()
    allowed = max(FEWEST_CUSTOMERS, BURST_CUSTOMERS * len(most))
    assert ((most >= np.array(limits)).sum() <= allowed).all()
    assert (np.array(limits) >= FEWEST_IN_A_BURST).all()
    assert list(limits) == sorted(limits), "a longer window holds what a shorter one holds"


def test_bursts_of_three_in_a_hundred_customers_do_not_move_the_limits() -> None:
    calm = np.ones((2_000, 4), np.int64)
    burst = np.repeat(np.arange(1, 61)[:, None], 4, axis=1)
    customers = pd.Series([f"c{i}" for i in range(2_000)] + [f"c{i}" for i in range(60)] * 60)
    frame = pd.DataFrame({"customer_id": customers, "ts": pd.Timestamp("2026-03-01")})
    assert burst_limits(np.concatenate([calm, *[burst] * 60]), frame) == FEWEST_IN_A_BURST


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
def test_of_each_episode_the_highest_count(gaps_min: list[int]) -> None:
    n = len(gaps_min)
    ts = pd.Series(pd.Timestamp("2026-03-01") + pd.to_timedelta(np.cumsum(gaps_min), unit="min"))
    customer, worth = pd.Series([f"c{i % 3}" for i in range(n)]), np.sin(np.arange(n))
    kept = thinned(customer, ts, worth)
    for _, rows in pd.DataFrame({"ts": ts, "worth": worth, "kept": kept}).groupby(customer):
        episode = (rows.ts.diff() >= pd.Timedelta("10min")).cumsum()
        for _, part in rows.groupby(episode):
            assert part.kept.sum() == min(EPISODE_ROWS, len(part))
            if not part.kept.all():
                assert part.worth[part.kept].min() >= part.worth[~part.kept].max()


def test_a_limit_beyond_the_ring_is_none_and_so_is_one_without_history() -> None:
    beyond = np.full((10, 4), RING + 1)
    frame = pd.DataFrame({"customer_id": ["a"] * 10, "ts": pd.Timestamp("2026-03-01")})
    assert burst_limits(beyond, frame) == NO_LIMITS
    assert burst_limits(beyond[:0], frame[:0]) == NO_LIMITS


def test_the_counter_adds_reviews_and_takes_no_block_back() -> None:
    policy = Policy(0.6, 0.8, 0.01, burst_limits=(3, 4, 5, 6))
    score = np.array([0.5, 0.5, 0.5, 0.7, 0.9])
    counts = np.array([[2, 3, 4, 5], [3, 3, 4, 5], [1, 1, 1, 6], [5] * 4, [9] * 4])
    assert policy.decide(score, counts).tolist() == [0, 1, 1, 1, 2]
    assert policy.decide(score, counts + 1).tolist() == [1, 1, 1, 2, 2], "twice a limit is blocked"
    assert policy.decide(score).tolist() == [0, 0, 0, 1, 2]
    assert counted(counts[1], policy.limits)["text"] == (
        "3 transactions in 10 s; from 3 on somebody looks"
    )
    assert counted(counts[4], policy.limits)["text"] == (
        "9 transactions in 10 s; from 6 on they are blocked"
    )


@given(
    score=st.lists(st.sampled_from([0.2, 0.3, 0.4, 0.5, 0.6, 0.9]), min_size=40, max_size=80),
    burst=st.integers(0, 30),
    budget=st.sampled_from([0.01, 0.1, 0.3]),
)
def test_the_counter_takes_half_of_the_budget_at_most_from_the_score(
    score: list[float], burst: int, budget: float
) -> None:
    n = len(score)
    counts = np.ones((n, 4), np.int64)
    counts[:burst] = 9
    customer = ["hit"] * burst + [f"c{i}" for i in range(n - burst)]
    frame = pd.DataFrame({"customer_id": customer, "ts": pd.Timestamp("2026-03-01")})
    counter = Counter.beside((5, 5, 5, 5), counts, np.array(score), frame)
    assert counter.share == pytest.approx(min(burst, EPISODE_ROWS) / n), "one episode"
    model = Counter.beside(NO_LIMITS, counts, np.array(score), frame)  # the score alone
    policy = Policy.from_budget(model, budget, 0.2, counter=counter)
    alone = np.array(score)[burst:] > policy.review_above
    assert alone.sum() <= max(budget - counter.share, budget / 2) * n + 1e-9
    assert (policy.decide(np.array(score), counts)[:burst] > 0).all(), "whatever the budget"
    assert policy.block_above >= policy.review_above


def test_a_rise_is_told_with_its_length() -> None:
    _, text = told("amount_customer", n_raised=12)
    assert text.endswith("this customer's usual 68.50, in a rise over 12 transactions")


@pytest.mark.parametrize(
    ("frauds", "payments", "told"),
    [
        (5, 30_000, "5 confirmed frauds at this merchant within about a month, of about 30,000 "),
        (1, 1, "1 confirmed fraud at this merchant within about a month, of about 1 payment, "),
        (3, 2_400, "3 confirmed frauds at this merchant within about a month, of about 2,000 "),
    ],
)
def test_a_reason_of_answers_says_of_how_many_payments(
    frauds: int, payments: int, told: str
) -> None:
    share, history = frauds / payments, dict.fromkeys(HISTORY, 0.0)
    weight = weight_of_share(share)
    history |= {
        "merchant_per_payment": share,
        "merchant_weighed_frauds": weight * frauds,
        "merchant_weighed_recency": weight / 2,
    }
    found = _answered("merchant", history)
    assert found.startswith(told)
    assert found.endswith(", the newest 24 h ago")
