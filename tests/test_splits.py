"""Which folds a history has room for, and an evaluation and a training told to people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_core import config, evaluation, models, runs, splits
from aegis_core.detector import Detector
from aegis_core.errors import InputError, NotReady
from aegis_core.evaluation import DETECTORS, Evaluation
from aegis_core.metrics import precision_at_recall
from aegis_core.models import Training
from aegis_core.store import Store, connect
from aegis_core.training import Training, train

FIRST, LAST = pd.Timestamp("2026-01-01 08:00"), pd.Timestamp("2026-02-09 21:00")
Payments = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def found(payments: Payments) -> Evaluation:
    frame, labels = payments
    folds, _ = splits.plan(frame.ts.min(), frame.ts.max(), folds=2)
    return evaluation.evaluate(frame, labels, folds, alert_budget=0.02)


@pytest.fixture(scope="module")
def unlabelled(payments: Payments) -> Evaluation:
    frame, labels = payments
    folds, _ = splits.plan(frame.ts.min(), frame.ts.max(), folds=2)
    return evaluation.evaluate(frame, labels.head(0), folds, exclude_known=True)


@pytest.fixture(scope="module")
def untested(payments: Payments) -> Evaluation:
    return evaluation.evaluate(payments[0], payments[1], [])


# ---- folds


@given(
    days=st.integers(0, 60),
    hours=st.integers(0, 23),
    lengths=st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9)),
    folds=st.integers(1, 6),
)
def test_planned_folds_lie_within_the_days_of_the_history(
    days: int, hours: int, lengths: tuple[int, int, int], folds: int
) -> None:
    last = FIRST + pd.Timedelta(days=days, hours=hours)
    named = dict(zip(("train_days", "delay_days", "test_days"), lengths, strict=True))
    found, notes = splits.plan(FIRST, last, **named, folds=folds)
    assert len(found) <= folds
    assert bool(notes) == (len(found) < folds)
    for fold in found:
        assert FIRST.floor("D") <= fold.train_from < fold.train_to <= fold.test_from
        assert fold.test_to <= last + pd.Timedelta(days=1)
    if found:
        assert found[-1].test_to > last, "the last fold ends with the history"


def test_a_history_too_short_for_one_fold_is_a_sentence_and_no_error() -> None:
    found, notes = splits.plan(FIRST, FIRST + pd.Timedelta(hours=5))
    assert found == []
    assert "one fold needs 21 days" in notes[0]


def test_folds_beyond_the_history_are_left_out_and_counted() -> None:
    found, notes = splits.plan(FIRST, LAST, "2026-01-10", folds=4)
    assert [f.number for f in found] == [0, 1]
    assert notes == ["2 of the 4 folds asked for fit into the history."]


@pytest.mark.parametrize("train_from", ["2025-01-01", "2026-02-08", "2031-01-01"])
def test_a_start_without_any_fold_is_a_mistake(train_from: str) -> None:
    with pytest.raises(InputError, match="Choose another train_from"):
        splits.plan(FIRST, LAST, train_from)


def test_no_transactions_are_no_history() -> None:
    with pytest.raises(NotReady, match="aegis import"):
        splits.plan(pd.NaT, pd.NaT)  # type: ignore[arg-type]


# ---- an evaluation, told


def test_each_fold_is_told_with_what_it_holds(found: Evaluation) -> None:
    told = found.windows()
    assert told.index.tolist() == [0, 1]
    assert told["test transactions"].sum() == len(found.scores)
    assert told["frauds"].sum() == found.scores.is_fraud.sum()
    assert told["training transactions"].tolist() == found.n_train


def test_precision_at_the_recall_of_everything_is_that_of_the_last_fraud() -> None:
    truth, score = [1, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.1, 0.1]
    assert precision_at_recall(truth, score, np.array([1.0])).tolist() == [2 / 3]


def test_transactions_with_one_score_are_looked_at_together() -> None:
    assert precision_at_recall([1, 0, 0, 0], [0.5] * 4, np.array([0.1, 1.0])).tolist() == [0.25] * 2


def test_curves_stay_within_bounds_and_random_on_its_floor(found: Evaluation) -> None:
    curves = found.curves()
    assert curves.precision.between(0, 1).all()
    assert curves.groupby("detector").size().to_dict() == dict.fromkeys(DETECTORS, 100)
    share = found.scores.is_fraud.mean()
    whole = curves[curves.recall == 1].set_index("detector").precision
    assert (whole >= share / 2).all()


def test_cases_are_what_their_outcome_says(found: Evaluation) -> None:
    cases = found.cases(4).merge(found.scores, on="transaction_id", suffixes=("", "_"))
    alerted = cases.decision > 0
    said = np.select([cases.is_fraud & alerted, cases.is_fraud], ["caught", "missed"], "")
    assert (cases.outcome.where(cases.outcome != "false alarm", "") == said).all()
    assert cases[cases.outcome == "false alarm"].decision.gt(0).all()
    assert cases.outcome.value_counts().max() == 4


def test_price_and_accuracy_agree_with_the_days(found: Evaluation) -> None:
    days = found.alerts_per_day()
    assert f"{days.alerts.mean():.1f} alerts a day" in found.price()
    assert f"caught {days.caught.sum():,} of {days.frauds.sum():,}" in found.price()
    assert f"right for {1 - found.scores.is_fraud.mean():.2%}" in found.accuracy()


def test_side_by_side_has_a_row_for_each_detector_and_the_bounds(found: Evaluation) -> None:
    shown = evaluation.side_by_side(found.table(20))
    assert shown.index.tolist() == [*DETECTORS, "by chance", "at best"]
    assert "card precision at 20" in shown.columns
    assert shown.map(lambda text: "nan" not in text).all(axis=None)


def test_one_fold_has_no_spread(found: Evaluation) -> None:
    table = found.table()
    several, one = (evaluation.side_by_side(t) for t in (table, table[table.fold == 0]))
    assert several.loc["forest"].str.contains("±").all()
    assert not one.loc["forest"].str.contains("±").any()


def test_without_labels_figures_are_dashes_and_sentences(unlabelled: Evaluation) -> None:
    shown = evaluation.side_by_side(unlabelled.table())
    assert (shown == "–").all(axis=None)
    assert "No fraud is labelled" in unlabelled.summary()
    assert "none of them a known fraud" in unlabelled.price()
    assert unlabelled.curves().empty
    assert unlabelled.recall().empty
    assert unlabelled.metrics()["value"].notna().all()
    assert set(unlabelled.cases().outcome) <= {"false alarm"}
    assert len(unlabelled.notes) == 2


def test_without_folds_everything_is_empty_and_nothing_breaks(untested: Evaluation) -> None:
    tables = ("windows", "table", "curves", "cases", "recall", "alerts_per_day", "metrics")
    assert all(getattr(untested, name)().empty for name in (*tables, "long_scores"))
    assert evaluation.side_by_side(untested.table()).empty
    assert untested.summary() == untested.accuracy() == "Nothing was tested."
    assert "no alert" in untested.price()


# ---- kept in the database


def test_labels_come_oldest_first_so_that_the_newest_word_counts(store: Store) -> None:
    with store.writing() as session:
        session.execute(
            "INSERT INTO labels VALUES ('t', true, 'night', '2026-02-01', 'b', -1),"
            " ('t', false, NULL, '2026-01-01', 'a', -1)"
        )
    assert models.labels(store).is_fraud.tolist() == [False, True]


def test_scores_of_a_run_are_kept_once_and_those_of_others_stay(
    store: Store, found: Evaluation
) -> None:
    scores = found.long_scores().head(10)
    for run_id in ("a", "b", "a", ""):
        runs.record_scores(store, run_id, scores)
    kept = store.query("SELECT run_id, count(*) AS n FROM evaluation_scores GROUP BY 1 ORDER BY 1")
    assert dict(zip(kept.run_id, kept.n, strict=True)) == {"a": 10, "b": 10}


# ---- a training, told


@pytest.fixture(scope="module")
def training(payments: Payments, tmp_path_factory: pytest.TempPathFactory) -> Training:
    settings = config.load(home=tmp_path_factory.mktemp("home"))
    store = connect(settings.db)
    with store.writing() as session:
        session.append("transactions", payments[0])
    return train(store, settings, train_days=20, alert_budget=0.02, n_trees=20)


def test_flagged_are_the_best_of_each_factor_and_one_a_customer(
    training: Training, payments: Payments
) -> None:
    flagged = training.flagged(2)
    evidence = flagged[[f"{f} (nats)" for f in ("amount", "travel", "hour", "burst")]]
    assert (evidence.idxmax(axis=1).str.removesuffix(" (nats)") == flagged.strongest).all()
    assert flagged.strongest.value_counts().max() <= 2
    assert flagged.customer_id.is_unique
    paid = payments[0].set_index("transaction_id").amount
    assert (paid[flagged.transaction_id].to_numpy() == flagged.amount).all()
    highest = training.window.sort_values("score").transaction_id.iloc[-1]
    assert highest in set(flagged.transaction_id)


def test_the_training_tells_its_budget_and_what_it_saw(training: Training) -> None:
    told = training.summary()
    assert f"{len(training.window):,} transactions" in told
    assert "2.00%" in told
    assert training.version in told
    assert isinstance(training.detector, Detector)
