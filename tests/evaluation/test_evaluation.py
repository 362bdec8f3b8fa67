"""Prequential evaluation: the future teaches nothing, and nothing is tested twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from aegis_core.detection.counter import Counter, burst_limits
from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import UNDECIDED, Scorer
from aegis_core.errors import NotReady
from aegis_core.evaluation import DETECTORS, Evaluation, evaluate, mean_and_spread
from aegis_core.evaluation.calibration import alerts_per_day, forecast
from aegis_core.evaluation.splits import Fold, prequential
from aegis_core.features.checkpoint import Begin
from aegis_core.metrics import average_precision, recall_at_budget
from aegis_core.schema import FACTORS, Decision

Payments = tuple[pd.DataFrame, pd.DataFrame]
DAY = pd.Timedelta(days=1)
FOLDS = prequential("2026-01-09", train_days=10, delay_days=3, test_days=7, folds=2)
SCORES = list(DETECTORS)


def run(payments: Payments, folds: list[Fold] | None = None, **given_: Any) -> Evaluation:
    return evaluate(
        *payments, FOLDS if folds is None else folds, **{"alert_budget": 0.02, **given_}
    )


@pytest.fixture(scope="module")
def found(payments: Payments) -> Evaluation:
    return run(payments)


def same(one: Evaluation, other: Evaluation, columns: list[str]) -> bool:
    return all(
        one.scores[c].to_numpy().tobytes() == other.scores[c].to_numpy().tobytes() for c in columns
    )


def test_a_history_without_its_beginning_is_judged_from_what_the_beginning_had_taught(
    payments: Payments, found: Evaluation
) -> None:
    frame, labels = payments
    cut = int(frame.ts.searchsorted(FOLDS[0].train_from)) - 100
    teacher = Scorer()
    teacher.run(frame.iloc[:cut])
    for _ in range(2):  # what was given is not changed
        again = run((frame.iloc[cut:], labels), begun=Begin(0, teacher.profiles, None))
        assert same(again, found, SCORES)
    assert not same(run((frame.iloc[cut:], labels)), found, SCORES)


def test_known_customers_are_left_out_and_nobody_else(
    payments: Payments, found: Evaluation
) -> None:
    left = run(payments, exclude_known=True).scores
    truth = payments[0].merge(payments[1], on="transaction_id")
    frauds = truth[truth.is_fraud].groupby("customer_id")
    of_customer = {name: list(part.itertuples()) for name, part in frauds}
    gone = found.scores[~found.scores.transaction_id.isin(left.transaction_id)]
    assert 0 < len(gone) < len(found.scores)
    known = [
        any(
            fraud.ts >= FOLDS[row.fold].train_from and fraud.known_at < row.ts.floor("D")
            for fraud in of_customer.get(row.customer_id, [])
        )
        for row in found.scores.itertuples()
    ]
    assert found.scores.transaction_id[known].tolist() == gone.transaction_id.tolist()
    both = found.scores.merge(left, on="transaction_id", suffixes=("", "_left"))
    for column in (*SCORES, "decision"):
        assert (both[column] == both[f"{column}_left"]).all()


# --- the future teaches nothing ------------------------------------------------------------------


def test_no_row_is_tested_twice_and_none_is_forgotten(
    payments: Payments, found: Evaluation
) -> None:
    frame = payments[0]
    tested = found.scores
    assert tested.transaction_id.is_unique
    assert tested.seq.is_monotonic_increasing
    expected = frame[(frame.ts >= FOLDS[0].test_from) & (frame.ts < FOLDS[-1].test_to)]
    assert tested.transaction_id.tolist() == expected.transaction_id.tolist()
    for f in FOLDS:
        own = tested[tested.fold == f.number]
        assert ((own.ts >= f.test_from) & (own.ts < f.test_to)).all()
        trained = frame[(frame.ts >= f.train_from) & (frame.ts < f.train_to)]
        assert found.n_train[f.number] == len(trained)
        assert own.ts.min() - trained.ts.max() >= 3 * DAY


def test_a_fold_is_what_would_have_happened(payments: Payments, found: Evaluation) -> None:
    frame = payments[0]
    for f in FOLDS:
        past = frame[frame.ts < f.test_from]
        week = frame[(frame.ts >= f.test_from) & (frame.ts < f.test_to)]
        scorer = Scorer()
        passed = scorer.run(past, signals=True)
        window = ((past.ts >= f.train_from) & (past.ts < f.train_to)).to_numpy()
        signals, counts, rows = passed.signals[window], passed.counts[window], past[window]
        detector = Detector().fit(signals, rows.customer_id)
        score = detector.score(detector.weigh(signals)[1])
        counter = Counter.beside(burst_limits(counts, rows), counts, score, rows)
        policy = Policy.from_budget(detector, 0.02, counter=counter)
        expected = Scorer(detector, policy, scorer.profiles).run(week)
        own = found.scores[found.scores.fold == f.number]
        assert own.forest.to_numpy().tobytes() == expected.score.tobytes()
        assert own.decision.to_numpy().tobytes() == expected.decision.tobytes()
        for i, factor in enumerate(FACTORS):
            assert (own[f"factor:{factor}"].to_numpy() == expected.strength[:, i]).all()


def test_what_comes_after_a_fold_does_not_change_it(payments: Payments, found: Evaluation) -> None:
    frame, labels = payments
    end = int((frame.ts < FOLDS[0].test_to).sum())
    rest = frame.iloc[end:].assign(amount=frame.amount.iloc[end:] * 50)
    first = found.scores[found.scores.fold == 0]
    for changed in (frame.iloc[:end], pd.concat([frame.iloc[:end], rest])):
        again = run((changed, labels), FOLDS[:1])
        pd.testing.assert_frame_equal(again.scores, first)


def test_labels_change_no_score(payments: Payments, found: Evaluation) -> None:
    frame, labels = payments
    shuffled = labels.assign(
        is_fraud=labels.is_fraud.sample(frac=1, random_state=0).to_numpy(),
        known_at=labels.known_at + 9 * DAY,
    )
    for changed in (shuffled, labels.head(0), labels.sample(frac=1, random_state=1)):
        assert same(run((frame, changed)), found, [*SCORES, "decision"])


def test_labels_decide_what_is_a_fraud_whatever_their_order(
    payments: Payments, found: Evaluation
) -> None:
    frame, labels = payments
    truth = frame.merge(labels, on="transaction_id").set_index("transaction_id")
    tested = found.scores
    assert tested.is_fraud.tolist() == truth.is_fraud[tested.transaction_id].tolist()
    frauds = tested[tested.is_fraud]
    assert frauds.scenario.tolist() == truth.scenario[frauds.transaction_id].tolist()
    shuffled = run((frame, labels.sample(frac=1, random_state=0)))
    pd.testing.assert_frame_equal(shuffled.scores, tested)


def test_the_last_word_about_a_transaction_counts(payments: Payments, found: Evaluation) -> None:
    frame, labels = payments
    one = found.scores[~found.scores.is_fraud].transaction_id.iloc[0]
    word = labels[labels.transaction_id == one].assign(is_fraud=True, scenario="spike")
    stranger = word.assign(transaction_id="nobody has it")
    scores = run((frame, pd.concat([labels, word, stranger]))).scores
    changed = scores[scores.is_fraud != found.scores.is_fraud]
    assert changed.transaction_id.tolist() == [one]
    assert changed.scenario.tolist() == ["spike"]


def test_a_label_of_a_try_that_became_a_payment_counts_for_the_payment_alone(
    payments: Payments, found: Evaluation
) -> None:
    frame, labels = payments
    fraud = found.scores[found.scores.is_fraud & (found.scores.fold == 0)].transaction_id
    tries = frame[frame.transaction_id.isin(fraud)].assign(status="declined")
    assert len(tries) > 5
    both = pd.concat([tries, frame.assign(status=None)]).sort_values("ts", kind="stable")
    tested = run((both.assign(seq=np.arange(len(both))), labels)).scores
    assert tested.transaction_id.tolist() == found.scores.transaction_id.tolist()
    assert tested.is_fraud.tolist() == found.scores.is_fraud.tolist()


def test_a_transaction_without_a_label_counts_as_ordinary(payments: Payments) -> None:
    frame, labels = payments
    half = labels[labels.is_fraud].iloc[::2]
    scores = run((frame, half)).scores
    frauds = set(scores.transaction_id[scores.is_fraud])
    assert frauds == set(half.transaction_id) & set(scores.transaction_id)
    assert scores.is_fraud.dtype == bool


def test_a_late_event_is_neither_trained_on_nor_tested(
    payments: Payments, found: Evaluation
) -> None:
    frame, labels = payments
    end = int((frame.ts < FOLDS[0].test_from).sum()) + 100
    late = frame.iloc[[1234]].assign(
        transaction_id="late", ts=FOLDS[0].train_to - pd.Timedelta(hours=1)
    )
    disturbed = pd.concat([frame.iloc[:end], late, frame.iloc[end:]], ignore_index=True)
    out = run((disturbed.assign(seq=range(len(disturbed))), labels), FOLDS[:1])
    assert out.n_train == found.n_train[:1]
    assert "late" not in set(out.scores.transaction_id)
    assert len(out.scores) == (found.scores.fold == 0).sum()
    before = out.scores.forest.iloc[:100].to_numpy()
    assert before.tobytes() == found.scores.forest.iloc[:100].to_numpy().tobytes()


def test_recorded_decisions_say_what_taught_the_profiles(
    payments: Payments, found: Evaluation
) -> None:
    n = len(payments[0])
    undecided = np.full(n, UNDECIDED, np.int8)
    assert same(run(payments, recorded=undecided), found, SCORES)
    blocked = undecided.copy()
    blocked[: n // 5] = Decision.BLOCK
    assert not same(run(payments, recorded=blocked), found, ["forest"])
    later = undecided.copy()
    later[int((payments[0].ts < FOLDS[-1].test_from).sum()) :] = Decision.BLOCK
    assert same(run(payments, recorded=later), found, SCORES)


def test_what_the_policy_blocks_teaches_nothing(payments: Payments, found: Evaluation) -> None:
    lenient = run(payments, block_share=0.0)
    strict = run(payments, block_share=1.0)
    assert (lenient.scores.decision != Decision.BLOCK).all()
    by_score = strict.scores[~strict.scores.counted]
    assert (by_score.decision != Decision.REVIEW).all()
    assert not same(lenient, strict, ["forest"])


# --- what is told --------------------------------------------------------------------------------


def test_every_detector_stands_beside_the_forest(found: Evaluation) -> None:
    assert (
        *("forest", "amount", "factor:amount", "factor:travel"),
        *("factor:hour", "factor:burst", "random"),
    ) == DETECTORS
    assert np.isfinite(found.scores[SCORES]).all(axis=None)
    table = found.table()
    names = {"auc_roc", "average_precision", "card_precision_at_100", "recall_at_budget"}
    assert set(table.name) == names
    assert len(table) == len(FOLDS) * len(DETECTORS) * len(names)
    assert not table.duplicated(["fold", "detector", "name"]).any()


def test_the_table_holds_the_figures_of_each_fold(found: Evaluation) -> None:
    table = found.table().set_index(["fold", "detector", "name"])
    for number, part in found.scores.groupby("fold"):
        for detector in DETECTORS:
            ap = average_precision(part.is_fraud, part[detector])
            row = table.loc[(number, detector, "average_precision")]
            assert (row.value, row.floor, row.ceiling) == (ap.value, ap.floor, ap.ceiling)
            recall = recall_at_budget(part.is_fraud, part[detector], 0.02)
            assert table.loc[(number, detector, "recall_at_budget")].value == recall.value


def test_a_table_can_be_changed_without_changing_the_next(found: Evaluation) -> None:
    table = found.table()
    table["value"] = 0.0
    assert found.table().value.max() > 0


def test_the_random_detector_differs_by_fold_and_repeats_by_seed(
    payments: Payments, found: Evaluation
) -> None:
    first, second = (found.scores.random[found.scores.fold == i].to_numpy() for i in (0, 1))
    n = min(len(first), len(second))
    assert not (first[:n] == second[:n]).any()
    assert same(run(payments), found, SCORES)
    assert not same(run(payments, seed=1), found, ["random"])


def test_days_add_up(found: Evaluation) -> None:
    scores = found.scores
    days = alerts_per_day(scores, FOLDS)
    assert len(days) == 14
    assert days.transactions.sum() == len(scores)
    assert days.alerts.sum() == (scores.decision != Decision.APPROVE).sum()
    assert days.blocks.sum() == (scores.decision == Decision.BLOCK).sum()
    assert days.frauds.sum() == scores.is_fraud.sum()
    recall = found.recall()
    assert recall.frauds.sum() == scores.is_fraud.sum()
    assert recall.caught.sum() == days.caught.sum()


def test_metrics_are_rows_of_their_table(found: Evaluation) -> None:
    figures, table = found.figures(), found.table()
    assert all(np.isfinite(value) for value in figures.values())
    slices = {f"{d}/{f.number}" for d in DETECTORS for f in FOLDS}
    assert {part for name, part in figures if name == "average_precision"} == slices
    assert {part for name, part in figures if name == "recall"} == {
        f"forest/{s}" for s in found.recall().scenario
    }
    row = table[(table.detector == "forest") & (table.name == "auc_roc")].iloc[1]
    assert figures["auc_roc", f"forest/{row.fold}"] == row.value


def test_scores_are_rows_of_their_table(found: Evaluation) -> None:
    rows = found.long_scores()
    assert list(rows.columns) == ["transaction_id", "detector", "score"]
    assert len(rows) == len(found.scores) * len(DETECTORS)
    assert not rows.duplicated(["transaction_id", "detector"]).any()


def test_progress_counts_every_pass_over_a_transaction(payments: Payments) -> None:
    done: list[int] = []
    run(payments, progress=done.append)
    ts = payments[0].ts
    taught = (ts < FOLDS[-1].test_from).sum()
    tested = ((ts >= FOLDS[0].test_from) & (ts < FOLDS[-1].test_to)).sum()
    assert sum(done) == taught + tested


def test_mean_and_spread_are_over_the_folds(found: Evaluation) -> None:
    table = found.table()
    summary = mean_and_spread(table).set_index(["name", "detector"])
    own = table[(table.name == "auc_roc") & (table.detector == "forest")].value
    row = summary.loc[("auc_roc", "forest")]
    assert row.value == pytest.approx(own.mean())
    assert row.spread == pytest.approx(abs(own.iloc[0] - own.iloc[1]) / 2)


# --- edges ----------------------------------------------------------------------------------------


def test_a_fold_without_fraud_is_noted_and_leaves_no_hole(
    payments: Payments, found: Evaluation
) -> None:
    frame, labels = payments
    second = frame.transaction_id[frame.ts >= FOLDS[1].test_from]
    honest = labels.assign(is_fraud=labels.is_fraud & ~labels.transaction_id.isin(second))
    out = run((frame, honest))
    assert len(out.notes) == 1
    assert "Fold 1 (2026-01-29 to 2026-02-05) has no labelled fraud" in out.notes[0]
    assert found.notes == []
    table = out.table()
    undefined = table[table.value.isna()]
    assert set(undefined.fold) == {1}
    assert set(undefined.name) == {"auc_roc", "average_precision", "recall_at_budget"}
    figures = out.figures()
    assert all(np.isfinite(value) for value in figures.values())
    assert ("auc_roc", "forest/1") not in figures
    assert "forest" in out.summary()
    mean = mean_and_spread(table)
    assert mean.value.notna().all()


def test_without_any_fraud_the_summary_says_so(payments: Payments) -> None:
    out = run((payments[0], payments[1].head(0)))
    assert "Too few labels to judge: 0 of" in out.summary()
    assert len(out.notes) == 2
    assert out.recall().empty
    assert out.figures() == {}


@pytest.mark.parametrize("start", ["2025-01-01", "2027-01-01"])
def test_windows_beside_the_history_say_what_it_covers(payments: Payments, start: str) -> None:
    with pytest.raises(NotReady, match=r"history covers 2026-01-01 .* to 2026-02-09"):
        run(payments, prequential(start))


def test_too_few_transactions_to_train_on_are_said(payments: Payments) -> None:
    with pytest.raises(NotReady, match="too few to train on"):
        run((payments[0].iloc[::200], payments[1]))


def test_no_transactions_are_said(payments: Payments) -> None:
    with pytest.raises(NotReady, match="has 0 transactions"):
        run((payments[0].head(0), payments[1]))


def test_one_customer_is_no_crash(payments: Payments) -> None:
    frame, labels = payments
    busiest = frame.customer_id.value_counts().index[0]
    alone = frame[frame.customer_id == busiest]
    out = run((alone, labels), exclude_known=True)
    assert np.isfinite(out.scores[SCORES]).all(axis=None)


def test_windows_end_with_the_history(payments: Payments) -> None:
    frame, labels = payments
    folds = prequential("2026-01-12", train_days=10, delay_days=3, test_days=30, folds=1)
    out = run((frame, labels), folds)
    assert out.folds[0].test_to == frame.ts.max().ceil("D")
    assert len(alerts_per_day(out.scores, out.folds)) == forecast(out.days).days.iloc[0] == 16
    assert not any("have no transactions" in n for n in out.notes)


def test_a_history_that_begins_with_the_training_window_is_enough(payments: Payments) -> None:
    frame, labels = payments
    late = frame[frame.ts >= FOLDS[0].train_from].reset_index(drop=True)
    out = run((late, labels))
    assert out.n_train == run(payments).n_train


# --- end to end ----------------------------------------------------------------------------------


def test_the_forest_is_ahead_of_every_single_factor(found: Evaluation) -> None:
    ap = mean_and_spread(found.table()).query("name == 'average_precision'")
    value = ap.set_index("detector").value
    singles = value.drop("forest")
    assert value["forest"] >= singles.max()
    assert value["forest"] > 10 * value["random"]
    assert "ahead of the best single detector" in found.summary()


def test_a_summary_hides_no_defeat(found: Evaluation) -> None:
    scores = found.scores.assign(forest=found.scores.random)
    beaten = Evaluation(found.folds, scores, found.detectors, found.n_train, 0.02)
    assert "BEHIND the best single detector" in beaten.summary()


def test_one_clock_that_jumped_does_not_move_the_windows(payments: Payments) -> None:
    frame, labels = payments
    folds = prequential("2026-01-11", train_days=7, delay_days=3, test_days=7, folds=2)
    usual = evaluate(frame, labels, folds)
    jumped = frame.copy()
    jumped.loc[len(frame) // 10, "ts"] = pd.Timestamp("2099-01-01")
    moved = evaluate(jumped, labels, folds)
    assert np.abs(np.array(moved.n_train) - usual.n_train).max() <= 1
    assert abs(len(moved.scores) - len(usual.scores)) <= 1
