"""One pass, two uses: history and live agree bit for bit, however a stream is cut."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_core.detection import scoring
from aegis_core.detection.counter import burst_limits
from aegis_core.detection.forest import N_FACTORS, N_SIGNALS, N_TOLD
from aegis_core.detection.learner import Learner
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import ALLOWED, DENIED, SNOOZED, UNDECIDED, Scored, Scorer
from aegis_core.features.confirmed import Confirmed, label_events
from aegis_core.features.signals import BURST_FLOOR, FACTS, OWN_RUN, RING
from aegis_core.features.surprise import poisson_surprise
from aegis_core.schema import DAY_US, ENTITIES, FACTORS, TABLES, TOLD_FACTORS, Decision

Trained = tuple[Any, Policy]
Payments = tuple[pd.DataFrame, pd.DataFrame]
FIELDS = Scored._fields
DECIDED = ("strength", "evidence", "score", "risk", "decision")


def verdicts_on(scorer: Scorer, frame: pd.DataFrame) -> pd.DataFrame:
    """Score `frame` live: rows of the table `verdicts`."""
    scored = scorer.run(frame, signals=True, explain=True)
    return scorer.verdicts_of(frame, scored, "v1").frame()


def bits(scored: Scored, *fields: str, rows: slice = slice(None)) -> dict[str, bytes]:
    return {name: getattr(scored, name)[rows].tobytes() for name in fields or FIELDS}


def in_batches(scorer: Scorer, frame: pd.DataFrame, size: int) -> Scored:
    parts = [
        scorer.run(frame.iloc[i : i + size], signals=True, explain=True)
        for i in range(0, len(frame), size)
    ]
    return Scored(*(np.concatenate([getattr(p, f) for p in parts]) for f in FIELDS))


@pytest.fixture(scope="module")
def stream(payments: Payments, awkward: pd.DataFrame) -> pd.DataFrame:
    """Ordinary and awkward transactions, some of which the policy blocks."""
    return pd.concat([payments[0].iloc[10_000:13_000], awkward], ignore_index=True)


@pytest.fixture(scope="module")
def whole(trained: Trained, stream: pd.DataFrame) -> Scored:
    return Scorer(*trained).run(stream, signals=True, explain=True)


@pytest.fixture(scope="module")
def followers(payments: Payments) -> pd.DataFrame:
    return payments[0].iloc[13_000:14_000]


def test_the_stream_holds_every_decision(whole: Scored) -> None:
    assert set(whole.decision.tolist()) == {d.value for d in Decision}


# --- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_cut_into_batches_changes_nothing(
    trained: Trained, stream: pd.DataFrame, whole: Scored, followers: pd.DataFrame, size: int
) -> None:
    some = stream.iloc[-500:] if size == 1 else stream
    one, other = Scorer(*trained), Scorer(*trained)
    expected = one.run(some, signals=True, explain=True)
    assert bits(in_batches(other, some, size)) == bits(expected)
    assert bits(other.run(followers)) == bits(one.run(followers))


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 3096), max_size=5).map(sorted))
def test_any_cut_changes_nothing(
    trained: Trained, stream: pd.DataFrame, whole: Scored, cuts: list[int]
) -> None:
    scorer = Scorer(*trained)
    parts = [
        scorer.run(stream.iloc[a:b]).score
        for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)
    ]
    assert np.concatenate(parts).tobytes() == whole.score.tobytes()


@pytest.mark.parametrize("rows", [10, 999, 10**7])
def test_the_size_of_a_chunk_changes_nothing(
    trained: Trained,
    stream: pd.DataFrame,
    whole: Scored,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    monkeypatch.setattr(scoring, "CHUNK_ROWS", rows)
    again = Scorer(*trained).run(stream, signals=True, explain=True)
    assert bits(again) == bits(whole)
    recorded = Scorer(*trained).run(stream, recorded=whole.decision, signals=True, explain=True)
    assert bits(recorded) == bits(whole)


def test_what_is_asked_for_changes_no_score(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    for signals in (False, True):
        for explain in (False, True):
            again = Scorer(*trained).run(stream, signals=signals, explain=explain)
            assert bits(again, *DECIDED) == bits(whole, *DECIDED)


def test_what_comes_later_changes_nothing_before(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    past = Scorer(*trained).run(stream.iloc[:1500], signals=True, explain=True)
    assert bits(past) == bits(whole, rows=slice(1500))
    changed = stream.assign(amount=stream.amount.where(stream.index < 1500, 1e6))
    again = Scorer(*trained).run(changed, signals=True, explain=True)
    assert bits(again, rows=slice(1500)) == bits(past)


def test_labels_change_nothing(trained: Trained, stream: pd.DataFrame, whole: Scored) -> None:
    for fraud in (True, False, None):
        marked = stream.assign(is_fraud=fraud, scenario="spike", known_at=stream.ts.min())
        assert bits(Scorer(*trained).run(marked, signals=True, explain=True)) == bits(whole)


def test_two_scorers_do_not_disturb_each_other(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    one, other = Scorer(*trained), Scorer(*trained)
    parts = []
    for start in range(0, len(stream), 500):
        part = stream.iloc[start : start + 500]
        parts.append(one.run(part).score)
        other.run(part.assign(amount=part.amount * 3))
    assert np.concatenate(parts).tobytes() == whole.score.tobytes()


def test_a_frame_is_not_changed(trained: Trained, stream: pd.DataFrame) -> None:
    before = stream.copy(deep=True)
    verdicts_on(Scorer(*trained), stream)
    pd.testing.assert_frame_equal(stream, before)


def test_without_blocks_a_larger_budget_never_loses_a_caught_transaction(
    trained: Trained, stream: pd.DataFrame
) -> None:
    caught = [
        Scorer(trained[0], Policy.from_budget(trained[0], budget, 0.0)).run(stream).decision > 0
        for budget in (0.001, 0.01, 0.1, 0.5)
    ]
    for fewer, more in itertools.pairwise(caught):
        assert (more >= fewer).all()
        assert more.sum() > fewer.sum()


# --- history and live are one ----------------------------------------------------------------


@pytest.mark.parametrize("size", [13, 400])
def test_a_replay_with_the_recorded_decisions_gives_the_live_evidence(
    trained: Trained, stream: pd.DataFrame, followers: pd.DataFrame, size: int
) -> None:
    live = Scorer(*trained)
    answered = in_batches(live, stream, size)
    replay = Scorer()
    signals = replay.run(stream, recorded=answered.decision, signals=True).signals
    assert signals.tobytes() == answered.signals.tobytes()
    _, evidence = trained[0].weigh(signals)
    assert evidence.tobytes() == answered.evidence.tobytes()
    assert trained[0].score(evidence).tobytes() == answered.score.tobytes()
    assert (trained[0].contributions(evidence) == answered.contributions[:, :N_FACTORS]).all()
    later = live.run(followers, signals=True)
    again = replay.run(followers, recorded=later.decision, signals=True)
    assert bits(again, "signals") == bits(later, "signals")


def test_recorded_decisions_and_not_todays_teach_the_profiles(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    lenient = Scorer(trained[0], Policy(1.0, 1.0, 0.01))
    strict = Scorer(trained[0], Policy(0.0, 0.0, 0.01))
    for scorer, today in ((lenient, Decision.APPROVE), (strict, Decision.BLOCK)):
        again = scorer.run(stream, recorded=whole.decision, signals=True)
        assert (again.decision == today).all()
        assert bits(again, "signals", "score") == bits(whole, "signals", "score")


def test_what_was_blocked_changes_what_is_normal_afterwards(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    taught = Scorer().run(stream, signals=True).signals
    first = int(np.flatnonzero(whole.decision == Decision.BLOCK)[0])
    assert taught[: first + 1].tobytes() == whole.signals[: first + 1].tobytes()
    assert taught.tobytes() != whole.signals.tobytes()


def test_undecided_review_and_approve_teach_alike(stream: pd.DataFrame) -> None:
    expected = Scorer().run(stream, signals=True).signals.tobytes()
    for answer in (UNDECIDED, Decision.APPROVE, Decision.REVIEW):
        recorded = np.full(len(stream), answer, np.int8)
        again = Scorer().run(stream, recorded=recorded, signals=True).signals
        assert again.tobytes() == expected


@pytest.mark.parametrize("n", [0, 1, 3095, 3097])
def test_as_many_decisions_as_transactions_are_needed(stream: pd.DataFrame, n: int) -> None:
    assert len(stream) == 3096
    with pytest.raises(ValueError, match=f"{n} recorded decisions for 3096 transactions"):
        Scorer().run(stream, recorded=np.zeros(n, np.int8))


# --- what comes out ------------------------------------------------------------------------------


def test_the_parts_of_a_result_agree(trained: Trained, stream: pd.DataFrame, whole: Scored) -> None:
    detector, policy = trained
    strength, evidence = detector.weigh(whole.signals)
    assert strength.tobytes() == whole.strength.tobytes()
    assert evidence.tobytes() == whole.evidence.tobytes()
    assert detector.score(evidence).tobytes() == whole.score.tobytes()
    assert detector.risk(whole.score).tobytes() == whole.risk.tobytes()
    assert policy.decide(whole.score).tobytes() == whole.decision.tobytes()
    assert (detector.contributions(evidence) == whole.contributions[:, :N_FACTORS]).all()
    assert (whole.contributions[:, N_FACTORS:] == 0).all()


def test_a_score_at_a_threshold_is_not_above_it(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    low, high = np.quantile(whole.score, (0.9, 0.99), method="higher")
    policy = Policy(low, high, 0.1)
    again = Scorer(trained[0], policy).run(stream, recorded=whole.decision)
    assert again.decision.tobytes() == policy.decide(whole.score).tobytes()
    assert (again.decision[whole.score == low] == Decision.APPROVE).all()
    assert (again.decision[whole.score == high] == Decision.REVIEW).all()


def test_every_number_of_a_result_is_one(whole: Scored) -> None:
    for name in set(FIELDS) - {"facts", "cleared"}:
        assert np.isfinite(getattr(whole, name)).all(), name
    assert ((whole.risk >= 0) & (whole.risk <= 100)).all()


def test_a_row_of_somebody_who_was_erased_holds_nothing(
    trained: Trained, stream: pd.DataFrame
) -> None:
    """Not what lay in memory, which a model may fall over that is asked about it."""
    some = stream.iloc[:50]
    for _ in range(3):  # what these leave is what would lie there
        Scorer(*trained).run(some, signals=True, explain=True)
        erased = some.assign(customer_id=None)
        scored = Scorer(*trained).run(erased, signals=True, explain=True)
        for name in ("signals", "strength", "evidence", "score", "facts", "counts", "amount"):
            values = getattr(scored, name)
            assert len(values) == 50
            assert not values.any(), name


def test_what_was_not_asked_for_has_no_rows(trained: Trained, stream: pd.DataFrame) -> None:
    n = len(stream)
    plain = Scorer().run(stream)
    empty = dict.fromkeys(FIELDS, 0) | {"amount": n}
    assert {name: len(getattr(plain, name)) for name in FIELDS} == empty
    scored = Scorer(*trained).run(stream)
    lengths = {name: len(getattr(scored, name)) for name in FIELDS}
    assert lengths == empty | dict.fromkeys(DECIDED, n)
    told = Scorer().run(stream, signals=True, explain=True)
    assert told.signals.shape == (n, N_SIGNALS)
    assert told.facts.shape == (n, len(FACTS))
    assert told.contributions.shape == (0, N_TOLD)


def test_a_scorer_decides_with_both_or_with_neither(trained: Trained, stream: pd.DataFrame) -> None:
    for detector, policy in ((trained[0], None), (None, trained[1])):
        with pytest.raises(ValueError, match="or with neither"):
            Scorer(detector, policy)
    with pytest.raises(ValueError, match="need a model"):
        Scorer().verdicts_of(stream, Scorer().run(stream), "v1")


def test_progress_adds_up(stream: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK_ROWS", 1000)
    done: list[int] = []
    Scorer().run(stream, progress=done.append)
    assert done == [1000, 1000, 1000, 96]


# --- lists, and what would have cleared an alert ---


def test_lists_decide_and_change_no_score(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    for ruling, decisions in (
        (DENIED, [Decision.BLOCK] * 3),
        (ALLOWED, [Decision.APPROVE] * 3),
        (SNOOZED, [Decision.APPROVE, Decision.APPROVE, Decision.BLOCK]),
        (0, list(Decision)),
    ):
        rulings = np.full(len(stream), ruling, np.int8)
        again = Scorer(*trained).run(stream, recorded=whole.decision, rulings=rulings)
        assert bits(again, "evidence", "score") == bits(whole, "evidence", "score")
        for was, now in zip(Decision, decisions, strict=True):
            assert set(again.decision[whole.decision == was].tolist()) == {now.value}
    with pytest.raises(ValueError, match="rulings"):
        Scorer(*trained).run(stream, rulings=np.zeros(3, np.int8))


def rescored(trained: Trained, stream: pd.DataFrame, whole: Scored, i: int, **change: object) -> (
    float
):  # fmt: skip
    """Score of row `i` after all that came before, with something about it changed."""
    scorer = Scorer(*trained)
    scorer.run(stream.iloc[:i], recorded=whole.decision[:i])
    return float(scorer.run(stream.iloc[[i]].assign(**change)).score[0])


def test_what_is_said_to_clear_an_alert_clears_it(
    trained: Trained, stream: pd.DataFrame, whole: Scored
) -> None:
    limit = trained[1].review_above
    alerts = np.flatnonzero(whole.score > limit)
    assert np.isnan(whole.cleared[whole.score <= limit]).all()
    by_amount = alerts[whole.cleared[alerts, 0] > 0]
    assert len(by_amount) > 10
    for i in by_amount[:: max(1, len(by_amount) // 12)]:
        amount = whole.cleared[i, 0]
        assert 0.01 <= amount < stream.amount.iloc[i]
        assert rescored(trained, stream, whole, i, amount=amount) <= limit
        assert rescored(trained, stream, whole, i, amount=amount / 2 + 0.005) <= limit
        assert rescored(trained, stream, whole, i, amount=amount + 0.01) > limit


def test_a_factor_whose_absence_clears_an_alert_is_enough_to_remove(
    trained: Trained, whole: Scored
) -> None:
    detector, limit = trained[0], trained[1].review_above
    alerts = np.flatnonzero(whole.score > limit)
    for f in range(N_FACTORS):
        evidence = whole.evidence[alerts].copy()
        evidence[:, f] = 0.0
        said = whole.cleared[alerts, 1 + f] == 1
        assert (said == (detector.score(evidence) <= limit)).all()
    assert (whole.cleared[alerts, 1 + N_FACTORS :] == 0).all()  # nothing was answered


def test_an_alert_is_told_with_what_would_have_cleared_it(
    verdicts: pd.DataFrame, whole: Scored
) -> None:
    told = verdicts.cleared.notna().to_numpy()
    assert (told == (whole.decision != Decision.APPROVE)).all()
    assert verdicts.cleared[told].str.contains("would have").all()
    assert not verdicts.cleared[told].str.contains("nan").any()


def test_the_counter_counts_exactly_and_is_told_as_a_reason(
    trained: Trained, stream: pd.DataFrame
) -> None:
    limits = (2, 3, 5, 8)
    policy = dataclasses.replace(trained[1], burst_limits=limits)
    scorer = Scorer(trained[0], policy)
    out = scorer.run(stream, signals=True, explain=True)
    rate_s = out.facts[:, FACTS.index("rate_per_hour")] / 3600
    beyond = 0
    ts = stream.ts.to_numpy("datetime64[us]").astype(np.int64)
    for customer in stream.customer_id.value_counts().index[:20]:
        rows = np.flatnonzero(stream.customer_id == customer)
        for k, window in enumerate((10, 60, 600, 3600)):
            largest, day, of_days = 0, 0, {-1: 0, -2: 0}  # the largest count of each day
            for i, r in enumerate(rows):
                last = ts[rows[max(0, i - RING) : i + 1]]
                n = int((abs(last - ts[r]) <= window * 1_000_000).sum())
                nats = poisson_surprise(n - 1.0, rate_s[r] * window)
                if abs(nats - BURST_FLOOR) > 1e-9:
                    own = OWN_RUN <= n <= sorted(of_days.values())[-2]
                    counts = nats >= BURST_FLOOR and not own
                    assert out.counts[r, k] == (n if counts else 1)
                    beyond += counts
                if out.decision[r] != Decision.BLOCK:
                    if (today := ts[r] // DAY_US) != day:
                        of_days[day] = max(of_days.get(day, 0), largest)
                        largest, day = 0, today
                    largest = max(largest, min(n, int((last[-RING:] // DAY_US == today).sum())))
    assert beyond > 50
    by_count = (out.counts[:, :4] >= np.array(limits)).any(axis=1)
    twice = (out.counts[:, :4] >= 2 * np.array(limits)).any(axis=1)
    low = out.score <= policy.review_above
    assert (out.decision[by_count & low & ~twice] == Decision.REVIEW).all()
    assert (out.decision[twice] == Decision.BLOCK).all()
    told = scorer.verdicts_of(stream, out, "v1").frame()[by_count & low]
    assert len(told)
    assert all(reasons[0]["code"] == "BURST-LIMIT" for reasons in told.reasons)
    assert (told.cleared == "It would have passed without the transactions just before.").all()
    both = scorer.verdicts_of(stream, out, "v1").frame()[by_count & ~low]
    assert len(both)
    assert all(reasons[0]["code"] == "BURST-LIMIT" for reasons in both.reasons)
    assert set(both.cleared) <= {
        "It would have passed without the transactions just before.",
        "No single change would have cleared it.",
    }, "a smaller amount takes nothing from the count"


# --- a learner in the pass ---


@pytest.fixture(scope="module")
def taught(payments: Payments, trained: Trained) -> Trained:
    """A learner fitted on the answers to the first half of the payments."""
    frame, labels = payments[0].iloc[:10_000], payments[1]
    confirmed = Confirmed()
    confirmed.add_labels(label_events(frame, labels))
    passed = Scorer(confirmed=confirmed).run(frame, signals=True)
    answer = frame.transaction_id.isin(labels.transaction_id[labels.is_fraud]).to_numpy(np.int8)
    money = frame.amount.to_numpy()
    learner = Learner(trained[0], n_trees=20).fit(passed.signals, money, passed.history, answer)
    return learner, Policy.from_budget(learner, 0.02, 0.3)


def test_the_learner_scores_in_the_pass_as_it_does_outside(
    taught: Trained, payments: Payments, stream: pd.DataFrame
) -> None:
    confirmed = Confirmed()
    confirmed.add_labels(label_events(stream, payments[1]))
    learner = taught[0]
    out = Scorer(*taught, confirmed=confirmed).run(stream, signals=True, explain=True)
    rows = out.signals, stream.amount.to_numpy(), out.history
    assert learner.score(*rows).tobytes() == out.score.tobytes()
    np.testing.assert_allclose(out.contributions.sum(axis=1), out.score - learner.base_, atol=1e-9)
    assert taught[1].decide(out.score).tobytes() == out.decision.tobytes()
    assert (out.history != 0).any()


@pytest.mark.parametrize("size", [7, 1000])
def test_a_learner_too_does_not_see_how_a_stream_is_cut(
    taught: Trained, payments: Payments, stream: pd.DataFrame, size: int
) -> None:
    scorers = []
    for _ in range(2):
        confirmed = Confirmed()
        confirmed.add_labels(label_events(stream, payments[1]))
        scorers.append(Scorer(*taught, confirmed=confirmed))
    expected = scorers[0].run(stream, signals=True, explain=True)
    assert bits(in_batches(scorers[1], stream, size)) == bits(expected)


def test_a_merchant_with_confirmed_frauds_is_a_reason_of_a_learner(
    taught: Trained, stream: pd.DataFrame
) -> None:
    rows = stream.iloc[:200].assign(merchant_id="m")
    told = rows.iloc[:50].assign(is_fraud=True, known_at=rows.ts.iloc[60])
    confirmed = Confirmed()
    confirmed.add_labels(told)
    learner, _ = taught
    lenient = Policy(float(np.quantile(learner.score_quantiles_, 0.5)), 1.0, 0.5)
    out = verdicts_on(Scorer(learner, lenient, confirmed=confirmed), rows)
    assert (out.contributions.map(lambda c: c["merchant"])[:50] == 0).all()
    texts = [r["text"] for v in out.reasons[70:] for r in v if r["factor"] == "merchant"]
    assert texts
    assert all("confirmed frauds at this merchant" in text for text in texts)


# --- verdicts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verdicts(trained: Trained, stream: pd.DataFrame) -> pd.DataFrame:
    return verdicts_on(Scorer(*trained), stream)


def test_a_verdict_has_the_columns_of_its_table(verdicts: pd.DataFrame) -> None:
    body = TABLES["verdicts"]
    for column in verdicts.columns:
        assert f" {column} " in body.replace("\n", " ")
    assert len(verdicts.columns) == 14


def test_a_verdict_holds_the_results_of_its_transaction(
    verdicts: pd.DataFrame, stream: pd.DataFrame, whole: Scored
) -> None:
    assert verdicts.transaction_id.tolist() == stream.transaction_id.tolist()
    assert verdicts.seq.tolist() == stream.seq.tolist()
    assert verdicts.score.to_numpy().tobytes() == whole.score.tobytes()
    assert verdicts.risk.to_numpy().tobytes() == whole.risk.tobytes()
    assert verdicts.decision.tolist() == [Decision(d).label for d in whole.decision]
    for name, factors, table in (
        ("evidence", FACTORS, whole.evidence),
        ("contributions", TOLD_FACTORS, whole.contributions),
    ):
        stored = [[row[f] for f in factors] for row in verdicts[name]]
        assert np.array(stored).tobytes() == table.tobytes()
    distance = whole.facts[:, FACTS.index("distance_km")]
    np.testing.assert_array_equal(verdicts.distance_km, distance)
    assert set(verdicts.model_version) == {"v1"}


def test_only_alerts_are_told_with_reasons(verdicts: pd.DataFrame, whole: Scored) -> None:
    told = verdicts.reasons.map(len).to_numpy() > 0
    assert (told == (whole.decision != Decision.APPROVE)).all()


def test_a_reason_is_that_of_its_own_transaction(
    verdicts: pd.DataFrame, stream: pd.DataFrame
) -> None:
    said = 0
    for row, money in zip(verdicts.to_dict("records"), stream.amount, strict=True):
        for reason in row["reasons"]:
            assert reason["contribution"] == row["contributions"][reason["factor"]]
            if reason["factor"] == "amount":
                assert f"EUR {money:,.2f} is" in reason["text"]
                said += 1
    assert said > 10


def test_verdicts_do_without_currency_and_place(trained: Trained, stream: pd.DataFrame) -> None:
    bare = stream[["seq", "transaction_id", "customer_id", "ts", "amount"]]
    out = verdicts_on(Scorer(*trained), bare)
    texts = [r["text"] for told in out.reasons for r in told if r["factor"] == "amount"]
    assert texts
    assert not any("EUR" in text or "None" in text for text in texts)
    nulls = verdicts_on(Scorer(*trained), bare.assign(currency=None))
    assert nulls.reasons.tolist() == out.reasons.tolist()


def test_no_rows_give_no_verdicts(trained: Trained, stream: pd.DataFrame) -> None:
    out = verdicts_on(Scorer(*trained), stream.iloc[:0])
    assert len(out) == 0
    assert len(out.columns) == 14


def test_evidence_never_falls_when_the_amount_rises(trained: Trained, payments: Payments) -> None:
    history = payments[0].iloc[:3000]
    profiles = Scorer()
    profiles.run(history)
    last = history.iloc[[-1]]
    out = [
        Scorer(*trained, profiles=profiles.profiles.copy()).run(last.assign(amount=amount))
        for amount in np.geomspace(0.01, 1e12, 80)
    ]
    for name in ("strength", "evidence"):
        nats: npt.NDArray[np.float64] = np.concatenate([getattr(o, name) for o in out])
        assert (np.diff(nats, axis=0) >= 0).all()
        assert (np.diff(nats[:, 1:], axis=0) == 0).all()
        assert nats[-1, FACTORS.index("amount")] > 10


def test_a_burst_is_found_while_it_happens(trained: Trained, payments: Payments) -> None:
    history = payments[0].iloc[:10_000]
    counts = Scorer().run(history, signals=True).counts
    limits = burst_limits(counts, history)
    scorer = Scorer(trained[0], dataclasses.replace(trained[1], burst_limits=limits))
    scorer.run(history)
    last = history.iloc[[-1]]
    burst = pd.concat([last] * 60, ignore_index=True).assign(
        ts=last.ts.iloc[0] + pd.to_timedelta(np.arange(60) * 200, unit="ms"), amount=1.0
    )
    out = scorer.run(burst)
    caught = np.flatnonzero(out.decision != Decision.APPROVE)
    assert caught[0] < 5
    assert np.flatnonzero(out.decision == Decision.BLOCK)[0] < 12
    assert len(caught) >= 55


# ---- cards at one entity


def attack(stream: pd.DataFrame, **shared: object) -> pd.DataFrame:
    """Fifty of the customers, a card each, tried a second apart; most of them are declined."""
    who = stream.customer_id.unique()[:50]
    ts = stream.ts.max() + pd.Timedelta(hours=1) + np.arange(50) * pd.Timedelta(seconds=1)
    status = np.where(np.arange(50) % 7, "declined", None)
    made = {"customer_id": who, "ts": ts.astype("datetime64[us]"), "amount": 1.5, "status": status}
    rows = pd.DataFrame(made | shared)
    rows["transaction_id"], rows["seq"] = [f"a{i}" for i in range(50)], range(50)
    return rows


def judged(trained: Trained, stream: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    limits = (5, 6, 8, 10) * len(ENTITIES)
    scorer = Scorer(trained[0], dataclasses.replace(trained[1], entity_limits=limits))
    scorer.run(stream)
    return scorer.verdicts_of(rows, scorer.run(rows, signals=True, explain=True), "v1").frame()


def test_cards_at_a_device_are_looked_at_then_blocked_and_told(
    stream: pd.DataFrame, trained: Trained
) -> None:
    told = judged(
        trained, stream, attack(stream, device_id="d", card_id=[f"k{i}" for i in range(50)])
    )
    assert told.decision.iloc[:4].tolist() == ["approve"] * 4
    assert told.decision.iloc[4:].tolist() == ["review"] * 5 + ["block"] * 41
    reason = told.reasons.iloc[49][0]
    assert (reason["factor"], reason["code"]) == ("burst", "DEVICE-LIMIT")
    assert reason["text"] == "50 cards at this device in 60 s; from 12 on they are blocked"
    assert told.cleared.iloc[49] == "It would have passed without the transactions just before."


def test_what_strangers_share_blocks_nobody(stream: pd.DataFrame, trained: Trained) -> None:
    for entity, said in (("merchant_id", "declined customers at this merchant"), ("ip", "address")):
        told = judged(trained, stream, attack(stream, **{entity: "shared"}))
        assert "block" not in told.decision.tolist()
        assert (told.decision.iloc[8:] == "review").all()
        assert said in told.reasons.iloc[49][0]["text"]
