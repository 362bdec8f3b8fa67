"""What an evaluation tells: sentences where nothing can be measured, never a hole in a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from aegis_core.evaluation import Evaluation, evaluate, side_by_side
from aegis_core.splits import prequential

Payments = tuple[pd.DataFrame, pd.DataFrame]
DAY = pd.Timedelta(days=1)
FOLDS = prequential("2026-01-09", train_days=10, delay_days=3, test_days=7, folds=2)


@pytest.fixture(scope="module")
def found(payments: Payments) -> Evaluation:
    return evaluate(*payments, FOLDS, alert_budget=0.02)


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
    shown = {
        "side by side": side_by_side(out.table()).reset_index(),
        "histories": out.histories(frame, out.cases(3)),
        **{t: getattr(out, t)() for t in TABLES},
    }
    for title, table in shown.items():
        texts = table.astype("str")
        assert not texts.isin(["nan", "NaN", "NaT", "None", "inf"]).any(axis=None), title
    for sentence in SENTENCES:
        text = getattr(out, sentence)()
        assert text.endswith(".")
        assert "nan" not in text


TABLES = (
    *("windows", "curves", "recall", "alerts_per_day", "forecast", "reliability", "budgets"),
    *("by_budget_and_day", "bursts", "busy_customers", "cases", "named", "differences"),
)
SENTENCES = (
    *("summary", "price", "accuracy", "forecast_summary", "cheapest", "burst_summary"),
    *("named_summary", "comparison"),
)


def test_without_folds_every_table_has_its_columns_and_no_row(
    payments: Payments, found: Evaluation
) -> None:
    nothing = evaluate(*payments, [])
    for name in TABLES:
        empty, full = getattr(nothing, name)(), getattr(found, name)()
        assert empty.empty
        assert list(empty.columns) == list(full.columns), name
    for sentence in SENTENCES:
        assert getattr(nothing, sentence)().endswith(".")
    assert nothing.histories(payments[0], nothing.cases()).empty


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
