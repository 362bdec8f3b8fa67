"""What answers teach: known from `known_at` on and never before, folded once, whatever the cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aegis_core.detection.scoring import Scorer
from aegis_core.errors import NotReady
from aegis_core.features.arrays import Floats, read_arrays, write_arrays
from aegis_core.features.confirmed import Confirmed, brought, label_events
from aegis_core.features.frauds import HISTORY, N_HISTORY, USUAL_SHARE, weight_of_share

DAY = pd.Timedelta(days=1)
SHARE = HISTORY.index("merchant_per_payment")
RUN, RUN_DAYS, FRAUDS = (
    HISTORY.index(f"merchant_weighed_{name}") for name in ("run", "run_days", "frauds")
)  # fmt: skip


def pending(confirmed: Confirmed) -> int:
    """Labels that no transaction has made known yet."""
    return len(confirmed.memory.events.ts_us) - int(confirmed.memory.folded[0])


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
    weight = np.array([weight_of_share(share) for share in found[:, SHARE]])
    assert (weight > 0.9).tolist() == [False, *[True] * 5]
    expected = (weight * [0, 1, 2, 3, 0, 1]).tolist()
    assert found[:, RUN].tolist() == pytest.approx(expected, abs=1e-12)
    assert found[:, RUN_DAYS].tolist() == pytest.approx(expected, abs=1e-12)


def test_evidence_is_a_share_of_the_payments_and_not_of_the_answers() -> None:
    days, a_day = 8, 1_000
    at = np.arange(days * a_day)
    large = pd.DataFrame(
        {
            "transaction_id": [f"l{i}" for i in at],
            "customer_id": [f"c{i}" for i in at % 3_000],
            "merchant_id": "large",
            "ts": pd.Timestamp("2026-03-01 08:00") + at // a_day * DAY + at % a_day * DAY / 2_000,
            "amount": 20.0,
        }
    )
    small = large[large.index % 500 == 7].copy()
    small["transaction_id"] = "s" + small.transaction_id
    small["merchant_id"] = "small"
    frame = pd.concat([large, small]).sort_values("ts", kind="stable", ignore_index=True)
    frame = frame.astype({"ts": "datetime64[us]"}).assign(seq=range(len(frame)))
    told = frame[(frame.merchant_id == "small") | frame.transaction_id.str.fullmatch("l.*500")]
    known_at = (told.ts + DAY / 2).astype("datetime64[us]")
    frauds = told[["transaction_id"]].assign(is_fraud=True, known_at=known_at)
    found = pd.DataFrame(history(frame, frauds), columns=list(HISTORY))
    last = found.groupby(frame.merchant_id).last()
    shares = [f"merchant_share_{k}" for k in ("day", "week", "month")]
    assert (last.loc["large", shares] < 0.004).all(), "one of a thousand, though all answers are"
    assert (last.loc["small", shares] > 0.5).all()
    assert last.merchant_per_payment["large"] == pytest.approx(0.001, rel=0.3)
    counts = [f"merchant_weighed_{k}" for k in ("frauds", "run", "run_days", "recency")]
    assert (last.loc["large", counts] < [0.8, 0.8, 0.8, 0.05]).all()
    assert (last.loc["small", counts] > [10, 10, 5, 0.4]).all()
    early = frame.merchant_id.eq("large") & (frame.ts < frame.ts.iloc[0] + 3 * DAY)
    assert (found[early.to_numpy()][shares] < 0.01).all(axis=None), "nor on the first days"


@pytest.mark.parametrize(("width", "ranked"), [(14, False), (15, True)])
def test_answers_of_an_older_version_are_brought_up_or_refused(
    tmp_path: Path, width: int, ranked: bool
) -> None:
    frame = traffic()
    labels = labels_of(frame)
    answers, path = Confirmed(), tmp_path / "answers.npz"
    answers.add_labels(label_events(frame, labels))
    Scorer(confirmed=answers).run(frame.iloc[:300])
    answers.save(path)
    kept = {n: a for n, a in read_arrays(path).items() if n != "rank" or ranked}
    write_arrays(path, kept | {n: kept[n][:, :width] for n in ("merchants", "customers")})
    with pytest.raises(NotReady, match="Replay the history"):
        Confirmed.load(path)
    loaded = Confirmed.load(path, brought)
    found = Scorer(confirmed=loaded).run(frame.iloc[300:]).history
    assert found == pytest.approx(history(frame, labels)[300:], abs=0.2)
    loaded.save(path)
    assert (Confirmed.load(path, brought).memory.merchants == loaded.memory.merchants).all()


def shop(payers: list[str], hours: Floats) -> pd.DataFrame:
    """Payments at one merchant, so many hours after the begin of March, in their order."""
    at = pd.Timestamp("2026-03-01") + pd.to_timedelta(hours, unit="h")
    frame = pd.DataFrame({"customer_id": payers, "merchant_id": "m", "ts": at, "amount": 10.0})
    frame = frame.sort_values("ts", kind="stable", ignore_index=True)
    ids = [f"t{i}" for i in range(len(frame))]
    return frame.assign(transaction_id=ids, seq=range(len(frame))).astype({"ts": "datetime64[us]"})


PADDINGS = {
    "1,000 in a day": 400 + np.arange(1000) / 50,
    "100 a day for ten days": 200 + np.arange(1000) / 4.2,
    "one between any two of others": np.arange(1, 40) * 10.0 - 5,
}


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("how", PADDINGS)
def test_payments_of_one_customer_do_not_pad_a_merchant_s_share_away(
    how: str, answered: bool
) -> None:
    hours = np.arange(40) * 10.0
    ordinary = shop([f"c{i}" for i in range(40)], hours)
    padded = shop(["one"] * len(PADDINGS[how]) + list(ordinary.customer_id),
                  np.append(PADDINGS[how], hours))  # fmt: skip
    shares = []
    for frame in (ordinary, padded):
        theirs = frame[frame.customer_id.ne("one") | answered]
        fraud = theirs.customer_id.str.removeprefix("c").isin([str(i) for i in range(1, 40, 2)])
        labels = theirs[["transaction_id"]].assign(known_at=theirs.ts + 7 * DAY)
        end = frame.ts.max() + 8 * DAY
        last = shop(["last"], np.array([(end - frame.ts.min()) / pd.Timedelta("1h")]))
        rows = pd.concat([frame, last.assign(transaction_id="last")], ignore_index=True)
        shares.append(history(rows, labels.assign(is_fraud=fraud))[-1, SHARE])
    assert shares[0] > 0.4
    assert shares[1] > 0.8 * shares[0]


def test_nor_do_frauds_of_one_customer_make_a_merchant_suspicious() -> None:
    hours = np.arange(40) * 10.0
    frame = shop([f"c{i}" for i in range(40)] + ["one"] * 60,
                 np.append(hours, 200 + np.arange(60) / 20))  # fmt: skip
    labels = frame[["transaction_id"]].assign(known_at=frame.ts + DAY)
    found = history(frame, labels.assign(is_fraud=frame.customer_id.eq("one")))
    assert 0 < found[-1, SHARE] < 0.15  # not 60 of 100


def test_who_pays_often_is_one_however_the_customers_are_numbered() -> None:
    rng = np.random.default_rng(2)
    payers = rng.choice([f"c{i}" for i in range(30)], 400, p=np.append([0.42], [0.02] * 29))
    frame = shop(list(payers), np.sort(rng.uniform(0, 600, 400)))
    labels = labels_of(frame)
    told = [history(frame, labels)]
    answers = Confirmed()
    answers.codes(pd.DataFrame({"customer_id": [f"c{i}" for i in range(29, -1, -1)]}))
    answers.add_labels(label_events(frame, labels))
    told.append(Scorer(confirmed=answers).run(frame).history)
    assert (told[0] == told[1]).all()


def test_a_fraud_that_is_taken_back_no_longer_counts() -> None:
    frame = traffic(5).assign(customer_id="c", merchant_id="m")
    labels = labels_of(frame, delay_days=0).iloc[[0, 0]].assign(is_fraud=[True, False])
    labels["known_at"] = [frame.ts.iloc[1], frame.ts.iloc[3]]
    found = history(frame, labels)
    assert found[:, FRAUDS].astype(bool).tolist() == [False, True, True, False, False]
    assert (found[3:, RUN] == 0).all()
    shares = [i for i, name in enumerate(HISTORY) if "share" in name]
    assert (found[3:][:, shares] < USUAL_SHARE).all()


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
    in_turn.add_labels(told.iloc[:1].assign(rank=1))
    in_turn.add_labels(told.assign(rank=[1, 2], earlier=[True, False]))
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
    assert pending(copy) == len(frame)
    assert not copy.memory.merchants.any()


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
    answered = rng.random(1_500) < 0.3  # holds before what a file says, whichever came last
    events["rank"] = np.arange(1_500) + np.where(answered, 10_000, 0)
    events["earlier"] = False
    expected, stopped = [], Confirmed()
    for at, after_seq in enumerate([-7, *frame.seq]):
        if at:
            expected.append(Scorer(confirmed=stopped).run(frame.iloc[at - 1 : at]).history)
        now = events[events.after_seq == after_seq]
        if len(now):
            before = events[events.after_seq < after_seq].assign(earlier=True)
            before = before[before.transaction_id.isin(now.transaction_id)]
            stopped.add_labels(pd.concat([before, now]))
    whole = Scorer(confirmed=Confirmed())
    found = whole.replay(frame, events).history
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert found.any()
    assert whole.confirmed is not None
    assert pending(whole.confirmed) > pending(stopped) > 0, "some arrive after the last"
