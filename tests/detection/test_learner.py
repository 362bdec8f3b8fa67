"""The learner: equal to scikit-learn, reasons that add up, the forest's ranking without answers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from aegis_core.detection.detector import Detector
from aegis_core.detection.forest import N_SIGNALS
from aegis_core.detection.history import known_answers
from aegis_core.detection.learner import MIN_FRAUDS, UNKNOWN, Answer, Learner, thinned
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.trees import FEATURES, N_FEATURES, N_TOLD
from aegis_core.errors import InputError, NotReady
from aegis_core.evaluation import evaluate
from aegis_core.evaluation.splits import prequential
from aegis_core.features.arrays import Floats
from aegis_core.features.confirmed import Confirmed, label_events
from aegis_core.features.frauds import N_HISTORY
from aegis_core.metrics import average_precision
from aegis_core.schema import TOLD_FACTORS

DAY = pd.Timedelta(days=1)
ROOT = Path(__file__).parents[2]


class Window(NamedTuple):
    """What the pass gave for a training window, and its truth."""

    signals: Floats
    amount: Floats
    history: Floats
    is_fraud: Answer

    @property
    def seen(self) -> tuple[Floats, Floats, Floats]:
        return self.signals, self.amount, self.history

    @property
    def some(self) -> tuple[Floats, Floats, Floats]:
        return self.signals[::12], self.amount[::12], self.history[::12]


@pytest.fixture(scope="module")
def payments() -> tuple[pd.DataFrame, pd.DataFrame]:
    """40 days of 100 customers at 60 merchants; all that 6 of these take for 20 days is fraud."""
    rng = np.random.default_rng(5)
    n, shop = 12_000, rng.integers(0, 60, 12_000)
    customer = rng.integers(0, 100, n)
    frame = pd.DataFrame(
        {
            "seq": range(n),
            "transaction_id": [f"t{i}" for i in range(n)],
            "customer_id": [f"c{i}" for i in customer],
            "merchant_id": [f"m{i}" for i in shop],
            "ts": pd.Timestamp("2026-03-01") + np.sort(rng.uniform(0, 40, n)) * DAY,
            "amount": np.exp(rng.normal(2 + customer / 50, 0.5)),
        }
    ).astype({"ts": "datetime64[us]"})
    day = (frame.ts - frame.ts.min()) // DAY
    bad = (shop < 6) & (day >= 5 + 2 * shop) & (day < 25 + 2 * shop)
    huge = (rng.random(n) < 0.004) & ~bad
    frame["amount"] *= np.where(huge, 20, 1)
    labels = pd.DataFrame(
        {
            "transaction_id": frame.transaction_id,
            "is_fraud": bad | huge,
            "scenario": np.select([bad, huge], ["merchant", "spike"], ""),
            "known_at": (frame.ts + 3 * DAY).astype("datetime64[us]"),
        }
    )
    return frame, labels


@pytest.fixture(scope="module")
def window(payments: tuple[pd.DataFrame, pd.DataFrame]) -> Window:
    frame, labels = payments
    confirmed = Confirmed()
    confirmed.add_labels(label_events(frame, labels))
    out = Scorer(confirmed=confirmed).run(frame, signals=True)
    return Window(
        out.signals, frame.amount.to_numpy(), out.history, labels.is_fraud.to_numpy(np.int8)
    )


@pytest.fixture(scope="module")
def learner(window: Window) -> Learner:
    detector = Detector(n_trees=40).fit(window.signals)
    return Learner(detector, n_trees=30, seed=1).fit(*window.seen, window.is_fraud)


def test_the_flattened_trees_vote_as_scikit_learn_does(learner: Learner, window: Window) -> None:
    assert learner.forest_ is not None
    theirs = learner.forest_.predict_proba(learner.features(*window.seen))[:, 1]
    share = np.interp(_forest(learner, window), learner.trees_.levels, learner.trees_.shares)
    rank = (1 - 1e-3) * 2.0 ** (-share / 0.005) + 1e-3 * _forest(learner, window)
    trust = learner.trees_.trust[0]
    ours = (learner.score(*window.seen) - (1 - trust) * rank) / trust
    assert np.abs(ours - theirs).max() < 1e-12


def test_the_features_are_what_their_names_say(learner: Learner, window: Window) -> None:
    features = learner.features(*window.seen)
    _, evidence = learner.detector.weigh(window.signals)
    at = FEATURES.index
    assert features.shape == (len(window.amount), N_FEATURES)
    assert np.allclose(features[:, 0], np.log(window.amount), atol=1e-6)
    assert np.allclose(features[:, at("total")], evidence.sum(axis=1), rtol=1e-6)
    assert np.allclose(features[:, at("score")], _forest(learner, window), atol=1e-6)
    assert (features[:, at("merchant_share_day") :] == window.history.astype(np.float32)).all()


def test_a_score_lies_between_0_and_1(learner: Learner, window: Window) -> None:
    score = learner.score(*window.seen)
    assert ((score > 0) & (score < 1)).all()


def test_contributions_sum_to_score_minus_base_on_every_row(
    learner: Learner, window: Window
) -> None:
    rows = window.some
    contributions = learner.contributions(*rows)
    assert contributions.shape == (len(rows[1]), N_TOLD)
    gap = contributions.sum(axis=1) - (learner.score(*rows) - learner.base_)
    assert np.abs(gap).max() < 1e-12


def test_a_factor_that_says_nothing_contributes_exactly_nothing(
    learner: Learner, window: Window
) -> None:
    signals, amount, history = window.some
    contributions = learner.contributions(signals, amount, history)
    travel, merchant = TOLD_FACTORS.index("travel"), TOLD_FACTORS.index("merchant")
    unknown = ~history[:, : N_HISTORY // 2].any(axis=1)
    assert unknown.any()
    assert (contributions[:, travel] == 0).all()  # nobody said where
    assert (contributions[unknown, merchant] == 0).all()


def test_the_merchant_is_the_first_reason_where_confirmed_frauds_gather(
    learner: Learner, window: Window, payments: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    planted = (payments[1].scenario == "merchant").to_numpy()
    known = planted & (window.history[:, :3] > 0.5).all(axis=1)
    rows = np.flatnonzero(known)[::4]
    contributions = learner.contributions(*(a[rows] for a in window.seen))
    first = contributions.argmax(axis=1) == TOLD_FACTORS.index("merchant")
    assert first.mean() > 0.9


@pytest.mark.parametrize("n_frauds", [0, 1, MIN_FRAUDS - 1])
def test_with_too_few_frauds_the_learner_ranks_as_the_forest_does(
    window: Window, n_frauds: int
) -> None:
    detector = Detector(n_trees=20).fit(window.signals)
    answer = np.full(len(window.amount), UNKNOWN, np.int8)
    answer[np.flatnonzero(window.is_fraud == 1)[:n_frauds]] = 1
    learner = Learner(detector).fit(*window.seen, answer)
    score, forest = learner.score(*window.seen), _forest(learner, window)
    order = np.argsort(forest, kind="stable")
    assert learner.n_frauds_ == n_frauds
    assert (np.diff(score[order])[np.diff(forest[order]) > 0] > 0).all()
    assert (score[order][1:] == score[order][:-1])[np.diff(forest[order]) == 0].all()


def test_all_fraud_and_nothing_else_is_no_reason_to_trust_the_trees(window: Window) -> None:
    detector = Detector(n_trees=20).fit(window.signals)
    learner = Learner(detector).fit(*window.seen, np.ones(len(window.amount), np.int8))
    assert learner.trees_.trust[0] == 0


def test_the_same_answers_and_seed_give_the_same_learner(window: Window) -> None:
    detector = Detector(n_trees=20).fit(window.signals)
    one, two = (
        Learner(detector, n_trees=5, seed=3).fit(*window.seen, window.is_fraud) for _ in "ab"
    )
    assert (one.score(*window.seen) == two.score(*window.seen)).all()
    assert one.base_ == two.base_


def test_what_is_saved_scores_the_same_when_loaded(
    learner: Learner, window: Window, tmp_path: Path
) -> None:
    learner.save(tmp_path)
    loaded = Learner.load(tmp_path)
    rows = tuple(a[:500] for a in window.seen)
    assert (loaded.score(*rows) == learner.score(*rows)).all()
    assert (loaded.contributions(*rows) == learner.contributions(*rows)).all()
    assert (loaded.base_, loaded.n_frauds_) == (learner.base_, learner.n_frauds_)
    assert loaded.threshold(0.01) == learner.threshold(0.01)


def test_a_broken_or_foreign_learner_is_refused(learner: Learner, tmp_path: Path) -> None:
    learner.save(tmp_path)
    parameters = json.loads((tmp_path / "learner.json").read_text())
    (tmp_path / "learner.json").write_text(json.dumps({**parameters, "features": ["x"]}))
    with pytest.raises(NotReady, match="other features"):
        Learner.load(tmp_path)
    (tmp_path / "learner.json").write_text(json.dumps(parameters))
    circle = learner.trees_._replace(left=np.zeros_like(learner.trees_.left))
    with (tmp_path / "learner.npz").open("wb") as f:
        np.savez(f, score_quantiles=learner.score_quantiles_, **circle._asdict())
    with pytest.raises(NotReady, match="do not form trees"):
        Learner.load(tmp_path)
    (tmp_path / "learner.npz").write_bytes(b"")
    with pytest.raises(NotReady, match="aegis run train"):
        Learner.load(tmp_path)


def test_a_budget_is_kept_on_the_traffic_it_was_calibrated_on(
    learner: Learner, window: Window
) -> None:
    rows = tuple(a[-4000:] for a in window.seen)
    calibrated = Learner(learner.detector, n_trees=5).fit(*window.seen, window.is_fraud)
    score = calibrated.calibrate(*rows).score(*rows)
    for share in (0.001, 0.01, 0.1):
        assert (score > calibrated.threshold(share)).mean() <= share
    risk = calibrated.risk(score)
    assert 0 <= risk.min() < 1
    assert 99 < risk.max() <= 100
    assert (np.diff(risk[np.argsort(score)]) >= 0).all()


def test_the_background_is_thinned_and_nothing_that_was_confirmed_goes() -> None:
    answer = np.array([1] * 50 + [0] * 30_000 + [UNKNOWN] * 30_000, np.int8)
    rows, weight = thinned(answer, 0)
    assert (answer[rows] == 1).sum() == 50
    assert len(np.unique(rows)) == len(rows) < 3_000
    assert weight.sum() == pytest.approx(len(answer))
    assert (weight[answer[rows] == 1] == 1).all()


def test_shapes_that_do_not_fit_are_refused(learner: Learner, window: Window) -> None:
    with pytest.raises(ValueError, match="as many rows"):
        learner.score(window.signals, window.amount[1:], window.history)
    with pytest.raises(InputError, match="n_trees"):
        Learner(learner.detector, n_trees=0)
    empty = learner.score(np.empty((0, N_SIGNALS)), np.empty(0), np.empty((0, N_HISTORY)))
    assert empty.shape == (0,)


def test_the_last_answer_known_at_a_time_counts() -> None:
    rows = pd.DataFrame({"transaction_id": ["a", "b", "c"]})
    labels = pd.DataFrame(
        {
            "transaction_id": ["a", "a", "b"],
            "is_fraud": [True, False, True],
            "known_at": pd.to_datetime(["2026-03-01", "2026-03-05", "2026-03-03"]),
        }
    )
    for day, known in (("02", [1, -1, -1]), ("03", [1, 1, -1]), ("05", [0, 1, -1])):
        assert known_answers(rows, labels, pd.Timestamp(f"2026-03-{day}")).tolist() == known


def test_evaluation_learns_from_answers_and_leaves_the_forest_as_it_was(
    payments: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    folds = prequential("2026-03-11", train_days=10, delay_days=3, test_days=5, folds=2)
    plain = evaluate(*payments, folds)
    taught = evaluate(*payments, folds, learner=True)
    assert "learner" not in plain.scores
    assert "learner" in taught.compared
    shared = plain.scores.columns
    pd.testing.assert_frame_equal(plain.scores, taught.scores[shared])
    for _, part in taught.scores.groupby("fold"):
        learner, forest = (average_precision(part.is_fraud, part[d]) for d in ("learner", "forest"))
        assert learner.value > 2 * forest.value
    assert "the learner" in taught.summary()
    assert set(taught.long_scores().detector) == set(taught.compared)
    assert Policy.from_budget(taught.learners[0], 0.01).review_above < 1


def test_evaluation_with_all_answers_late_says_so_and_ranks_as_the_forest(
    payments: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    frame, labels = payments
    late = labels.assign(known_at=pd.Timestamp("2026-12-01").as_unit("us"))
    folds = prequential("2026-03-11", train_days=10, delay_days=3, test_days=5, folds=1)
    found = evaluate(frame, late, folds, learner=True)
    assert any("ranks as the forest does" in note for note in found.notes)
    assert found.scores.learner.rank().equals(found.scores.forest.rank())


@pytest.fixture
def learning_curve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """What `make bench-detection` draws the curve with."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    curve: Callable[..., pd.DataFrame] = importlib.import_module("learning").learning_curve
    return curve


def test_a_learning_curve_begins_with_the_forest_and_counts_only_what_was_asked(
    payments: tuple[pd.DataFrame, pd.DataFrame], learning_curve: Callable[..., pd.DataFrame]
) -> None:
    frame, truth = payments
    asked = {"days": 8, "alerts_per_day": 10, "audit_share": 0.0, "train_days": 14}
    curve = learning_curve(frame, truth, "2026-03-20", **asked)
    assert curve.answers.iloc[:2].tolist() == [0, 0]  # answered a day later, known the next
    assert (curve.answers.diff().iloc[2:] <= 10 * 2).all()
    assert curve.answers.iloc[-1] <= 10 * 7
    assert (curve.learner[:2] == curve.forest[:2]).all()
    assert curve.confirmed.is_monotonic_increasing
    assert (curve.confirmed <= curve.learner.cumsum()).all()


def test_a_learning_curve_ends_above_the_forest_where_frauds_gather_at_merchants(
    payments: tuple[pd.DataFrame, pd.DataFrame], learning_curve: Callable[..., pd.DataFrame]
) -> None:
    asked = {"days": 20, "alerts_per_day": 15, "audit_share": 0.01, "train_days": 14}
    curve = learning_curve(*payments, "2026-03-16", retrain_days=2, **asked)
    last = curve.iloc[8:]
    assert last.learner.sum() > 1.5 * last.forest.sum()


def test_nobody_knows_what_was_not_asked(
    payments: tuple[pd.DataFrame, pd.DataFrame], learning_curve: Callable[..., pd.DataFrame]
) -> None:
    frame, truth = payments
    asked = {"days": 4, "alerts_per_day": 0, "audit_share": 0.0, "train_days": 14}
    curve = learning_curve(frame, truth, "2026-03-20", **asked)
    assert (curve.answers == 0).all()
    assert (curve.learner_ap == curve.forest_ap).all()


def _forest(learner: Learner, window: Window) -> Floats:
    return learner.detector.score(learner.detector.weigh(window.signals)[1])
