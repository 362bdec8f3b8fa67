"""What answers teach: known from `known_at` on and never before, folded once, whatever the cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aegis_core.detection.scoring import Scorer
from aegis_core.errors import NotReady
from aegis_core.features.arrays import Floats
from aegis_core.features.confirmed import HISTORY, N_HISTORY, Confirmed, label_events

DAY = pd.Timedelta(days=1)
RUN, RUN_DAYS, FRAUDS = (
    HISTORY.index(f"merchant_{name}") for name in ("run", "run_days", "frauds")
)  # fmt: skip


def traffic(n: int = 600, seed: int = 0) -> pd.DataFrame:
    """`n` transactions of 20 customers at 10 merchants in 30 days, some at no merchant."""
    rng = np.random.default_rng(seed)
    shop = rng.integers(0, 11, n)
    return pd.DataFrame(
        {
            "seq": range(n),
            "transaction_id": [f"t{i}" for i in range(n)],
            "customer_id": [f"c{i}" for i in rng.integers(0, 20, n)],
            "merchant_id": [None if i == 10 else f"m{i}" for i in shop],
            "ts": pd.Timestamp("2026-03-01") + np.sort(rng.uniform(0, 30, n)) * DAY,
            "amount": rng.lognormal(3, 1, n),
        }
    ).astype({"ts": "datetime64[us]"})


def labels_of(frame: pd.DataFrame, delay_days: float = 3, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "transaction_id": frame.transaction_id,
            "is_fraud": rng.random(len(frame)) < 0.2,
            "known_at": (frame.ts + delay_days * DAY).astype("datetime64[us]"),
        }
    )


def history(frame: pd.DataFrame, labels: pd.DataFrame, cuts: tuple[int, ...] = ()) -> Floats:
    answers = Confirmed()
    answers.add_labels(label_events(frame, labels))
    scorer = Scorer(confirmed=answers)
    edges = [0, *cuts, len(frame)]
    return np.concatenate([scorer.run(frame.iloc[a:b]).history for a, b in pairwise(edges)])


@pytest.mark.parametrize("row", [0, 37, 200])
def test_an_answer_changes_nothing_before_it_is_known(row: int) -> None:
    frame = traffic()
    labels = labels_of(frame)
    other = labels.assign(is_fraud=labels.is_fraud ^ (labels.index == row))
    before = (frame.ts < labels.known_at[row]).to_numpy()
    one, two = history(frame, labels), history(frame, other)
    assert (one[before] == two[before]).all()
    assert (one[~before] != two[~before]).any()


def test_an_answer_that_comes_later_leaves_all_before_its_new_time_alone() -> None:
    frame = traffic()
    labels = labels_of(frame)
    late = labels.copy()
    late.loc[50, "known_at"] = frame.ts.iloc[500]
    without = labels.drop(50)
    before = (frame.ts < late.known_at[50]).to_numpy()
    assert (history(frame, late)[before] == history(frame, without)[before]).all()


def test_an_answer_counts_from_the_very_microsecond_it_is_known() -> None:
    frame = traffic(3).assign(customer_id="c", merchant_id="m")
    known_at = frame.ts.iloc[1]
    labels = labels_of(frame).iloc[:1].assign(is_fraud=True, known_at=known_at)
    assert history(frame, labels)[:, FRAUDS].astype(bool).tolist() == [False, True, True]
    later = labels.assign(known_at=known_at + pd.Timedelta(microseconds=1))
    assert history(frame, later)[:, FRAUDS].astype(bool).tolist() == [False, False, True]


def test_without_answers_the_history_is_nothing_and_the_signals_are_the_same() -> None:
    frame = traffic()
    empty = Scorer(confirmed=Confirmed()).run(frame, signals=True)
    plain = Scorer().run(frame, signals=True)
    told = Confirmed()
    told.add_labels(label_events(frame, labels_of(frame)))
    assert (empty.history == 0).all()
    assert plain.history.shape == (0, N_HISTORY)
    for other in (empty, Scorer(confirmed=told).run(frame, signals=True)):
        assert (plain.signals == other.signals).all()


def test_a_merchant_without_answers_has_no_history() -> None:
    frame = traffic()
    labels = labels_of(frame)[frame.merchant_id.ne("m3").fillna(True).to_numpy(bool)]
    found = history(frame, labels)
    of_merchant = found[:, : N_HISTORY // 2]
    alone = (frame.merchant_id.eq("m3").fillna(False) | frame.merchant_id.isna()).to_numpy(bool)
    assert (of_merchant[alone] == 0).all()
    assert (of_merchant[~alone] != 0).any()


def test_the_result_does_not_depend_on_how_the_stream_is_cut() -> None:
    frame = traffic()
    labels = labels_of(frame)
    assert (history(frame, labels) == history(frame, labels, (1, 2, 300, 301))).all()


def test_answers_told_while_the_stream_runs_are_those_told_at_once() -> None:
    frame = traffic()
    labels = labels_of(frame)
    answers = Confirmed()
    scorer = Scorer(confirmed=answers)
    early = labels.known_at <= frame.ts.iloc[249]
    answers.add_labels(label_events(frame, labels[early]))
    parts = [scorer.run(frame.iloc[:250]).history]
    answers.add_labels(label_events(frame, labels[~early]))
    parts.append(scorer.run(frame.iloc[250:]).history)
    assert (np.concatenate(parts) == history(frame, labels)).all()


def test_the_order_in_which_labels_are_told_does_not_matter() -> None:
    frame = traffic()
    labels = labels_of(frame)
    shuffled = labels.sample(frac=1, random_state=0)
    assert np.allclose(history(frame, labels), history(frame, shuffled), atol=1e-12)


def test_frauds_in_a_row_are_counted_and_end_with_an_ordinary_answer() -> None:
    frame = traffic(6).assign(customer_id="c", merchant_id="m")
    frame["ts"] = pd.Timestamp("2026-03-01").as_unit("us") + pd.to_timedelta(range(6), "D")
    labels = labels_of(frame, delay_days=1).assign(is_fraud=[True, True, True, False, True, True])
    found = history(frame, labels)
    assert found[:, RUN].tolist() == [0, 1, 2, 3, 0, 1]
    assert found[:, RUN_DAYS].tolist() == [0, 1, 2, 3, 0, 1]


def test_a_fraud_that_is_taken_back_no_longer_counts() -> None:
    frame = traffic(5).assign(customer_id="c", merchant_id="m")
    labels = labels_of(frame, delay_days=0).iloc[[0, 0]].assign(is_fraud=[True, False])
    labels["known_at"] = [frame.ts.iloc[1], frame.ts.iloc[3]]
    found = history(frame, labels)
    assert found[:, FRAUDS].astype(bool).tolist() == [False, True, True, False, False]
    assert (found[3:, RUN] == 0).all()
    shares = [i for i, name in enumerate(HISTORY) if "share" in name]
    assert (found[3:][:, shares] == 0).all()


def test_an_answer_that_says_the_same_again_counts_once() -> None:
    frame = traffic()
    labels = labels_of(frame)
    again = pd.concat([labels, labels.assign(known_at=labels.known_at + DAY)])
    assert (history(frame, labels) == history(frame, again)).all()


def test_an_answer_of_an_earlier_call_is_replaced_by_name() -> None:
    frame = traffic(5).assign(customer_id="c", merchant_id="m")
    labels = labels_of(frame).iloc[[0, 0]].assign(is_fraud=[True, False])
    labels["known_at"] = [frame.ts.iloc[1], frame.ts.iloc[3]]
    at_once, in_turn = Confirmed(), Confirmed()
    told = label_events(frame, labels)
    at_once.add_labels(told)
    in_turn.add_labels(told.iloc[:1])
    in_turn.add_labels(told.iloc[1:].assign(before=True))
    one, two = (Scorer(confirmed=a).run(frame).history for a in (at_once, in_turn))
    assert (one == two).all()


def test_every_figure_is_finite_and_not_negative() -> None:
    frame = traffic()
    frame["ts"] = frame.ts.sample(frac=1, random_state=3).to_numpy()  # in no order of time at all
    found = history(frame, labels_of(frame, delay_days=0))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    shares = [i for i, name in enumerate(HISTORY) if "share" in name]
    assert (found[:, shares] <= 1).all()


def test_a_frame_without_merchants_has_the_history_of_its_customers() -> None:
    frame = traffic().drop(columns="merchant_id")
    found = history(frame, labels_of(frame))
    assert (found[:, : N_HISTORY // 2] == 0).all()
    assert (found[:, N_HISTORY // 2 :] != 0).any()


def test_a_copy_goes_its_own_way() -> None:
    frame = traffic()
    answers = Confirmed()
    answers.add_labels(label_events(frame, labels_of(frame)))
    copy = answers.copy()
    Scorer(confirmed=answers).run(frame)
    assert copy.n_pending == len(frame)
    assert not copy.memory.customers.any()


def test_saved_and_loaded_in_the_middle_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    frame = traffic()
    labels = labels_of(frame)
    answers = Confirmed()
    answers.add_labels(label_events(frame, labels))
    first = Scorer(confirmed=answers).run(frame.iloc[:300]).history
    answers.save(tmp_path / "answers.npz")
    loaded = Confirmed.load(tmp_path / "answers.npz")
    second = Scorer(confirmed=loaded).run(frame.iloc[300:]).history
    assert (np.concatenate([first, second]) == history(frame, labels)).all()


def test_broken_answers_are_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "answers.npz").write_bytes(b"no zip")
    with pytest.raises(NotReady, match="Replay the history"):
        Confirmed.load(tmp_path / "answers.npz")


def test_labels_of_transactions_that_are_not_there_are_left_out() -> None:
    frame = traffic(10)
    assert len(label_events(frame.iloc[:4], labels_of(frame))) == 4


def test_labels_that_arrive_in_the_course_of_a_pass_are_known_as_if_it_had_stopped_for_them(
    payments: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    frame, labels = payments[0].iloc[:2_000].copy(), payments[1]
    rng = np.random.default_rng(5)
    frame["ts"] += pd.to_timedelta(rng.integers(0, 3_600, len(frame)), unit="s")  # out of order
    frame.loc[frame.index[500], "ts"] += pd.Timedelta(days=3)  # a clock that jumped
    events = label_events(frame, pd.concat([labels.head(2_000)] * 2)).sample(1_500, random_state=1)
    events["is_fraud"] = rng.random(1_500) < 0.3
    events["known_at"] -= pd.to_timedelta(rng.integers(0, 6, 1_500), unit="D")
    events["after_seq"] = np.sort(rng.integers(-1, 2_200, 1_500)) // 7 * 7
    events["before"] = events.groupby("transaction_id").is_fraud.shift().astype("boolean")
    expected, stopped = [], Confirmed()
    for at, after_seq in enumerate([-7, *frame.seq]):
        if at:
            expected.append(Scorer(confirmed=stopped).run(frame.iloc[at - 1 : at]).history)
        if (events.after_seq == after_seq).any():
            stopped.add_labels(events[events.after_seq == after_seq])
    whole = Scorer(confirmed=Confirmed())
    found = whole.replay(frame, events).history
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert found.any()
    assert whole.confirmed is not None
    assert whole.confirmed.n_pending > stopped.n_pending > 0, "some arrive after the last"
