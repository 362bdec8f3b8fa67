"""Which folds a history has room for, and who was known as compromised."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_core.errors import InputError, NotReady
from aegis_core.evaluation import splits
from aegis_core.evaluation.splits import known_compromised, prequential

DAY = pd.Timedelta(days=1)
FIRST, LAST = pd.Timestamp("2026-01-01 08:00"), pd.Timestamp("2026-02-09 21:00")


# ---- folds of a history


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


# --- folds ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    train=st.floats(0.01, 40),
    delay=st.floats(0, 40),
    test=st.floats(0.01, 40),
    n=st.integers(1, 6),
)
def test_a_fold_trains_waits_and_tests(train: float, delay: float, test: float, n: int) -> None:
    start = pd.Timestamp("2018-07-25")
    folds = prequential(start, train_days=train, delay_days=delay, test_days=test, folds=n)
    assert [f.number for f in folds] == list(range(n))
    assert folds[0].train_from == start
    second = pd.Timedelta(seconds=1)
    for f in folds:
        assert abs(f.train_to - f.train_from - train * DAY) < second
        assert abs(f.test_from - f.train_to - delay * DAY) < second
        assert abs(f.test_to - f.test_from - test * DAY) < second
    for earlier, later in itertools.pairwise(folds):
        assert abs(later.test_from - earlier.test_to) < second
        assert abs(later.train_from - earlier.train_from - test * DAY) < second


def test_the_handbooks_weeks() -> None:
    folds = prequential("2018-07-25", train_days=7, delay_days=7, test_days=7, folds=4)
    first, *_, last = ([f"{t:%m-%d}" for t in vars(f).values() if t != f.number] for f in folds)
    assert first == ["07-25", "08-01", "08-08", "08-15"]
    assert last == ["08-15", "08-22", "08-29", "09-05"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_days": 0}, {"train_days": -1}, {"test_days": 0}, {"delay_days": -1}, {"folds": 0},
        {"train_days": float("nan")}, {"delay_days": float("nan")},
    ],
)  # fmt: skip
def test_a_length_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be positive"):
        prequential("2018-07-25", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("date", ["", "never", "2018-13-45", "nan", "2018-07-25T00:00+02:00"])
def test_a_start_that_is_no_date_is_refused(date: str) -> None:
    with pytest.raises(InputError, match="must be a date"):
        prequential(date)


@settings(deadline=None)
@given(
    hours=st.integers(24 * 30, 24 * 300),
    lengths=st.tuples(st.integers(1, 10), st.integers(0, 10), st.integers(1, 10)),
    folds=st.integers(1, 4),
)
def test_folds_by_default_end_with_the_last_day_of_the_history(
    hours: int, lengths: tuple[int, int, int], folds: int
) -> None:
    first = pd.Timestamp("2026-01-01 00:30")
    last = first + pd.Timedelta(hours=hours)
    named = dict(zip(("train_days", "delay_days", "test_days"), lengths, strict=True))
    days = (last.floor("D") - first.floor("D")).days + 1
    room = min(folds, max(0, days - lengths[0] - lengths[1]) // lengths[2])
    found, notes = splits.plan(first, last, **named, folds=folds)
    assert len(found) == room
    assert len(notes) == (room < folds)
    if found:
        assert found[0].train_from == found[0].train_from.floor("D") >= first.floor("D")
        assert found[-1].test_to == last.floor("D") + DAY


# --- known as compromised ------------------------------------------------------------------------


def test_a_customer_is_known_from_the_midnight_after_the_label_came() -> None:
    labels = pd.DataFrame(
        [
            # customer, ts, is_fraud, known_at
            ("early", "2026-01-01 10:00", True, "2026-01-04 10:00"),
            ("early", "2026-01-08 10:00", True, "2026-01-11 10:00"),
            ("midnight", "2026-01-03 00:00", True, "2026-01-06 00:00"),
            ("honest", "2026-01-01 10:00", False, "2026-01-04 10:00"),
            ("before", "2025-12-31 10:00", True, "2026-01-02 10:00"),
            ("late", "2026-01-05 10:00", True, "2026-01-08 10:00"),
        ],
        columns=["customer_id", "ts", "is_fraud", "known_at"],
    ).astype({"ts": "datetime64[us]", "known_at": "datetime64[us]"})
    test = pd.DataFrame(
        [
            ("early", "2026-01-04 23:59", False),  # the label came during this day
            ("early", "2026-01-05 00:00", True),
            ("midnight", "2026-01-06 12:00", False),  # known at midnight itself: not before
            ("midnight", "2026-01-07 00:00", True),
            ("honest", "2026-01-07 00:00", False),
            ("before", "2026-01-07 00:00", False),
            ("late", "2026-01-08 11:00", False),
            ("late", "2026-01-09 11:00", True),
            ("unknown", "2026-01-07 00:00", False),
        ],
        columns=["customer_id", "ts", "expected"],
    ).astype({"ts": "datetime64[us]"})
    out = known_compromised(test, labels, pd.Timestamp("2026-01-01"))
    assert out.tolist() == test.expected.tolist()
    assert not known_compromised(test, labels.head(0), pd.Timestamp("2026-01-01")).any()
