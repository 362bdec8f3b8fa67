"""What an evaluation tells: sentences where nothing can be measured, never a hole in a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from aegis_core.evaluation import (
    DETECTORS,
    Evaluation,
    budgets,
    bursts,
    calibration,
    cases,
    evaluate,
    side_by_side,
)
from aegis_core.evaluation.splits import plan, prequential
from aegis_core.runs import execution
from aegis_core.store import Store

Payments = tuple[pd.DataFrame, pd.DataFrame]
DAY = pd.Timedelta(days=1)
FOLDS = prequential("2026-01-09", train_days=10, delay_days=3, test_days=7, folds=2)


@pytest.fixture(scope="module")
def found(payments: Payments) -> Evaluation:
    return evaluate(*payments, FOLDS, alert_budget=0.02)


@pytest.fixture(scope="module")
def unlabelled(payments: Payments) -> Evaluation:
    frame, labels = payments
    folds, _ = plan(frame.ts.min(), frame.ts.max(), folds=2)
    return evaluate(frame, labels.head(0), folds, exclude_known=True)


@pytest.fixture(scope="module")
def untested(payments: Payments) -> Evaluation:
    return evaluate(payments[0], payments[1], [])


# --- told to people


def test_each_fold_is_told_with_what_it_holds(found: Evaluation) -> None:
    told = found.windows()
    assert told.index.tolist() == [0, 1]
    assert told["test transactions"].sum() == len(found.scores)
    assert told["frauds"].sum() == found.scores.is_fraud.sum()
    assert told["training transactions"].tolist() == found.n_train


def test_curves_stay_within_bounds_and_random_on_its_floor(found: Evaluation) -> None:
    curves = found.curves()
    assert curves.precision.between(0, 1).all()
    assert curves.groupby("detector").size().to_dict() == dict.fromkeys(DETECTORS, 100)
    share = found.scores.is_fraud.mean()
    whole = curves[curves.recall == 1].set_index("detector").precision
    assert (whole >= share / 2).all()


def test_price_and_accuracy_agree_with_the_days(found: Evaluation) -> None:
    days = calibration.alerts_per_day(found.scores, FOLDS)
    assert f"{days.alerts.mean():.1f} alerts a day" in found.price()
    assert f"caught {days.caught.sum():,} of {days.frauds.sum():,}" in found.price()
    assert f"right for {1 - found.scores.is_fraud.mean():.2%}" in found.accuracy()


def test_side_by_side_has_a_row_for_each_detector_and_the_bounds(found: Evaluation) -> None:
    shown = side_by_side(found.table(20))
    assert shown.index.tolist() == [*DETECTORS, "by chance", "at best"]
    assert "card precision at 20" in shown.columns
    assert shown.map(lambda text: "nan" not in text).all(axis=None)


def test_one_fold_has_no_spread(found: Evaluation) -> None:
    table = found.table()
    several, one = (side_by_side(t) for t in (table, table[table.fold == 0]))
    assert several.loc["forest"].str.contains("±").all()
    assert not one.loc["forest"].str.contains("±").any()


def test_without_labels_figures_are_dashes_and_sentences(unlabelled: Evaluation) -> None:
    shown = side_by_side(unlabelled.table())
    assert (shown == "–").all(axis=None)
    assert "Too few labels to judge: 0 of" in unlabelled.summary()
    assert "none of them a known fraud" in unlabelled.price()
    assert unlabelled.curves().empty
    assert unlabelled.recall().empty
    assert unlabelled.figures() == {}, "no line of figures goes on with a 0"
    assert set(TABLES["cases"](unlabelled).outcome) <= {"false alarm"}
    assert len(unlabelled.notes) == 2


def test_without_folds_everything_is_empty_and_nothing_breaks(untested: Evaluation) -> None:
    assert all(table(untested).empty for name, table in TABLES.items() if name != "differences")
    assert untested.table().empty
    assert untested.long_scores().empty
    assert untested.figures() == {}
    assert side_by_side(untested.table()).empty
    assert untested.summary() == untested.accuracy() == "Nothing was tested."
    assert "no alert" in untested.price()


def test_scores_of_a_run_are_kept_once_and_those_of_others_stay(
    store: Store, found: Evaluation
) -> None:
    scores = found.long_scores().head(10)
    for run_id in ("a", "b", "a", ""):
        execution.record(store, run_id, scores=scores)
    kept = store.query("SELECT run_id, count(*) AS n FROM evaluation_scores GROUP BY 1 ORDER BY 1")
    assert dict(zip(kept.run_id, kept.n, strict=True)) == {"a": 10, "b": 10}


# --- edges

FLAT = {"amount": 9.5, "lat": 48.0, "lon": 2.0, "category": "food", "merchant_id": "m"}


def edge(payments: Payments, name: str) -> Payments:
    """A third of `payments` with one thing missing."""
    frame, labels = payments[0].iloc[::3].reset_index(drop=True), payments[1]
    if name == "no fraud":
        return frame, labels.assign(is_fraud=False, scenario=None)
    if name == "no labels":
        return frame, labels.head(0)
    if name == "late labels":
        return frame, labels.assign(known_at=labels.known_at + 99 * DAY)
    if name == "one customer":
        return frame.assign(customer_id="c"), labels
    if name == "one amount":
        return frame.assign(amount=9.5), labels
    if name == "no places":
        return frame.assign(lat=np.nan, lon=np.nan), labels
    if name == "an empty day":
        return frame[frame.ts.dt.floor("D") != pd.Timestamp("2026-01-25")], labels
    if name == "two currencies":
        return frame.assign(currency=np.where(frame.index % 2, "EUR", "USD")), labels
    every = frame.ts.min().floor("D") + pd.to_timedelta(np.arange(len(frame)) * 519, unit="s")
    return frame.assign(**FLAT, customer_id="c", ts=every.as_unit("us")), labels


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("no fraud", "has no labelled fraud"),
        ("no labels", "has no labelled fraud"),
        ("late labels", "All labels became known after the last test window"),
        ("one customer", "All transactions are of one customer"),
        ("one amount", "All amounts are the same"),
        ("no places", "No transaction has a place"),
        ("an empty day", "1 of the 7 days of the test windows have no transactions"),
        ("two currencies", "EUR, USD are added as if they were one currency"),
        ("all the same", "All amounts are the same"),
    ],
)
def test_an_awkward_history_is_told_in_sentences_and_leaves_no_hole(
    payments: Payments, name: str, note: str
) -> None:
    frame, labels = edge(payments, name)
    taught = name in ("late labels", "all the same")
    out = evaluate(frame, labels, FOLDS[:1], alert_budget=0.02, learner=taught)
    assert any(note in n for n in out.notes), out.notes
    told = {
        "side by side": side_by_side(out.table()).reset_index(),
        **{name: table(out) for name, table in TABLES.items()},
    }
    for title, table in told.items():
        texts = table.astype("str")
        assert not texts.isin(["nan", "NaN", "NaT", "None", "inf"]).any(axis=None), title
    for sentence in SENTENCES:
        assert sentence(out).endswith(".")
        assert "nan" not in sentence(out)


def shown(out: Evaluation) -> pd.DataFrame:
    return cases.drawn(out.scores, out.evidence, 3, 0)


TABLES: dict[str, Callable[[Evaluation], pd.DataFrame]] = {
    "windows": Evaluation.windows,
    "curves": Evaluation.curves,
    "recall": Evaluation.recall,
    "differences": Evaluation.differences,
    "alerts_per_day": lambda out: calibration.alerts_per_day(out.scores, out.folds),
    "forecast": lambda out: calibration.forecast(out.days),
    "reliability": lambda out: calibration.reliability(out.scores),
    "costs": budgets.costs,
    "by_day": budgets.by_day,
    "bursts": lambda out: bursts.bursts(out.scores),
    "busy_customers": lambda out: bursts.busy_customers(
        out.scores, out.folds, cases.strongest(out.evidence)
    ),
    "cases": shown,
    "histories": lambda out: cases.histories(out.history, shown(out), out.frauds, 60),
    "named": lambda out: cases.named(out.scores, out.evidence),
}
SENTENCES: tuple[Callable[[Evaluation], str], ...] = (
    Evaluation.summary,
    Evaluation.price,
    Evaluation.accuracy,
    Evaluation.comparison,
    budgets.cheapest,
    lambda out: calibration.forecast_summary(TABLES["forecast"](out)),
    lambda out: bursts.burst_summary(TABLES["bursts"](out)),
    lambda out: cases.named_summary(TABLES["named"](out)),
)


def test_without_folds_every_table_has_its_columns_and_no_row(
    payments: Payments, found: Evaluation
) -> None:
    nothing = evaluate(*payments, [])
    for name, table in TABLES.items():
        empty, full = table(nothing), table(found)
        assert empty.empty
        assert list(empty.columns) == list(full.columns), name
    for sentence in SENTENCES:
        assert sentence(nothing).endswith(".")


# --- two detectors -------------------------------------------------------------------------------


def test_a_difference_is_that_of_the_table_and_its_interval_tells_it(found: Evaluation) -> None:
    table = found.table().query("name == 'average_precision'").set_index(["detector", "fold"])
    told = found.differences("forest", "random")
    assert told.fold.tolist() == ["0", "1", "all"]
    for fold in (0, 1):
        gap = table.value["forest", fold] - table.value["random", fold]
        assert told.difference.iloc[fold] == pytest.approx(gap)
    assert told.difference.iloc[2] == pytest.approx(told.difference.iloc[:2].mean())
    assert (told.low <= told.difference).all()
    assert (told.difference <= told.high).all()
    assert "the forest is better than the random" in found.comparison("forest", "random")
    assert "the random is worse than the forest" in found.comparison("random", "forest")


def test_what_was_not_asked_for_cannot_be_compared(found: Evaluation) -> None:
    assert found.differences().empty
    assert found.comparison() == "The learner cannot be compared with the forest here."
