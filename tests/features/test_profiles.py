"""What the pass remembers and says: laws of the signals first, then values known otherwise."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aegis_core.detection import scoring
from aegis_core.detection.scoring import UNDECIDED, Scorer
from aegis_core.errors import NotReady
from aegis_core.features.geo import AIR_KMH, AIRPORTS_H, haversine_km
from aegis_core.features.population import (
    FULL_WEIGHT,
    PRIOR_POPULATION,
    REMEMBERED_DAYS,
)
from aegis_core.features.profiles import MAX_CATEGORIES, Profiles
from aegis_core.features.signals import (
    FACTS,
    MAIN,
    OWN_MOST,
    PRIOR_RATE,
    RING,
    SIGNAL_FACTOR,
    SIGNALS,
    SPEED_SLACK_H,
    SPEED_UNIT_KMH,
    WINDOWS_S,
)
from aegis_core.features.surprise import (
    MEMORY,
    PRIOR_MEAN,
    PRIOR_VARIANCE,
    normal_score,
    poisson_surprise,
    surprise,
)
from aegis_core.schema import FACTORS, Decision

Floats = npt.NDArray[np.float64]
Payments = tuple[pd.DataFrame, pd.DataFrame]
Place = tuple[float, float]

BERLIN: Place = (52.52, 13.405)
PLACES = (None, BERLIN, (48.857, 2.352), (35.677, 139.692), (-90.0, 0.0), (10.0, 180.0))
START = pd.Timestamp("2026-03-02")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
AMOUNT = [i for i, f in enumerate(SIGNAL_FACTOR) if FACTORS[f] == "amount"]
ANY_STEP = st.sampled_from(
    [0, 0, 0, 1e-6, 1, 30, 600, 4000, 40_000, 90_000, 9e8, -1, -3000, -90_000, -8e8]
)
few = settings(max_examples=20, deadline=None)


def view(name: str) -> int:
    return SIGNALS.index(name)


def fact(name: str) -> int:
    return FACTS.index(name)


def stream(
    customer: list[str],
    at_s: list[float] | Floats,
    amount: float | list[float] | Floats = 10.0,
    category: str | list[str | None] | None = None,
    place: Place | list[Place | None] | None = None,
    *,
    start: pd.Timestamp = START,
) -> pd.DataFrame:
    """Transactions at seconds after `start`; what is given once holds for all."""
    n = len(customer)
    places = place if isinstance(place, list) else [place] * n
    lat, lon = zip(*((math.nan, math.nan) if p is None else p for p in places), strict=True)
    return pd.DataFrame(
        {
            "customer_id": pd.Series(customer, dtype="str"),
            "ts": start.as_unit("us") + pd.to_timedelta(np.round(np.array(at_s) * 1e6), unit="us"),
            "amount": np.broadcast_to(np.asarray(amount, float), n).copy(),
            "category": pd.Series(
                category if isinstance(category, list) else [category] * n, dtype="str"
            ),
            "lat": np.array(lat),
            "lon": np.array(lon),
        }
    )


def signals(frame: pd.DataFrame, profiles: Profiles | None = None) -> Floats:
    return Scorer(profiles=profiles).run(frame, signals=True).signals


def learnt(frame: pd.DataFrame, recorded: list[int] | None = None) -> Profiles:
    profiles = Profiles()
    given_ = None if recorded is None else np.array(recorded, np.int8)
    Scorer(profiles=profiles).run(frame, recorded=given_)
    return profiles


def asked(profiles: Profiles, probe: pd.DataFrame) -> tuple[Floats, Floats]:
    """Signals and facts of each row of `probe` as if it came next; nothing is learnt."""
    each = [
        Scorer(profiles=profiles.copy()).run(probe.iloc[i : i + 1], signals=True, explain=True)
        for i in range(len(probe))
    ]
    return np.vstack([out.signals for out in each]), np.vstack([out.facts for out in each])


def remembered(profiles: Profiles) -> dict[str, object]:
    """The state under the names of customers and categories, whatever their codes and slots."""
    state = profiles.state
    customer_of = {code: name for name, code in profiles.customer_codes.items()}
    category_of = {code: name for name, code in profiles.category_codes.items()}
    pairs = {}
    for key, pair in zip(state.pair_keys.tolist(), state.pairs, strict=True):
        if key >= 0:
            name = customer_of[key >> 20], category_of[key & (1 << 20) - 1]
            assert name not in pairs, "a pair stands in the table twice"
            pairs[name] = pair.tobytes()
    customers = {}
    for name, c in profiles.customer_codes.items():
        row = state.customers[c].copy()
        main, row[MAIN] = category_of.get(int(row[MAIN]) - 1), 0.0
        customers[name] = main, row.tobytes()
    return {
        "customers": customers,
        "pairs": pairs,
        "population": (state.sums[0].tobytes(), state.published[0].tobytes()),
        "categories": {
            name: (state.sums[1 + c].tobytes(), state.published[1 + c].tobytes())
            for name, c in profiles.category_codes.items()
        },
    }


@st.composite
def streams(draw: st.DrawFn, step: st.SearchStrategy[float] = ANY_STEP) -> pd.DataFrame:
    """Any arrivals: ties, late events, long silences, jumps of the clock, tiny and huge amounts."""
    row = st.tuples(
        st.sampled_from("abcd"),
        step,
        st.floats(-2, 12).map(lambda e: 10.0**e),
        st.sampled_from([None, "food", "toys", "fuel"]),
        st.sampled_from(PLACES),
    )
    rows = draw(st.lists(row, min_size=1, max_size=40))
    customer, gaps, amount, category, place = (list(part) for part in zip(*rows, strict=True))
    return stream(customer, np.cumsum(gaps) + 1e9, amount, category, place)


# --- laws of all signals ------------------------------------------------------------------------


@few
@given(streams())
def test_a_signal_is_a_number_not_below_zero(frame: pd.DataFrame) -> None:
    out = Scorer().run(frame, signals=True, explain=True)
    assert np.isfinite(out.signals).all()
    assert (out.signals >= 0).all()
    may_lack = ("habit_amount", "category_amount", "distance_km", "gap_s", "speed_kmh")
    always = [fact(name) for name in FACTS if name not in may_lack]
    assert np.isfinite(out.facts[:, always]).all()
    signed = [fact("gap_s"), fact("utc_offset")]
    assert (np.delete(np.nan_to_num(out.facts), signed, axis=1) >= 0).all()


def test_every_awkward_row_gets_numbers(awkward: pd.DataFrame) -> None:
    out = signals(awkward)
    assert np.isfinite(out).all()
    assert (out >= 0).all()


@few
@given(streams(), streams(), st.integers(0, 40))
def test_what_comes_later_changes_nothing_before(
    frame: pd.DataFrame, other: pd.DataFrame, cut: int
) -> None:
    past = frame.iloc[:cut]
    changed = pd.concat([past, other], ignore_index=True)
    assert signals(frame)[:cut].tobytes() == signals(changed)[: len(past)].tobytes()


def test_labels_and_further_columns_change_nothing(payments: Payments) -> None:
    frame, labels = payments[0].iloc[:3000], payments[1].iloc[:3000]
    before = signals(frame).tobytes()
    for fraud in (labels.is_fraud, ~labels.is_fraud):
        marked = frame.assign(is_fraud=fraud, scenario=labels.scenario, known_at=frame.ts)
        assert signals(marked).tobytes() == before


@few
@given(streams(st.sampled_from([0, 0, 0, 0, 5, 3000, 50_000, -50_000])), st.randoms())
def test_the_order_of_simultaneous_rows_of_different_customers_changes_nothing(
    frame: pd.DataFrame, random: object
) -> None:
    moment = (frame.ts != frame.ts.shift()).cumsum()
    turn = {key: random.random() for key in set(zip(moment, frame.customer_id, strict=True))}  # type: ignore[attr-defined]
    order = sorted(
        range(len(frame)), key=lambda i: (moment[i], turn[moment[i], frame.customer_id[i]])
    )
    one, other = Profiles(), Profiles()
    before, after = signals(frame, one), signals(frame.iloc[order], other)
    assert before[order].tobytes() == after.tobytes()
    assert remembered(one) == remembered(other)


@pytest.mark.parametrize(("size", "rows"), [(1, 400), (7, 3000), (1000, 3000)])
def test_the_cut_into_batches_changes_nothing(payments: Payments, size: int, rows: int) -> None:
    frame = payments[0].iloc[:rows]
    whole, cut = Profiles(), Profiles()
    expected = signals(frame, whole)
    parts = [signals(frame.iloc[i : i + size], cut) for i in range(0, rows, size)]
    assert np.concatenate(parts).tobytes() == expected.tobytes()
    assert remembered(cut) == remembered(whole)


@few
@given(streams(), st.lists(st.integers(0, 40), max_size=4).map(sorted))
def test_any_cut_of_any_stream_changes_nothing(frame: pd.DataFrame, cuts: list[int]) -> None:
    whole, cut = Profiles(), Profiles()
    expected = signals(frame, whole)
    bounds = [0, *(min(c, len(frame)) for c in cuts), len(frame)]
    parts = [signals(frame.iloc[a:b], cut) for a, b in itertools.pairwise(bounds)]
    assert np.concatenate(parts).tobytes() == expected.tobytes()
    assert remembered(cut) == remembered(whole)


@pytest.mark.parametrize("rows", [1, 13, 10**6])
def test_the_size_of_a_chunk_changes_nothing(
    awkward: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    expected = signals(awkward)
    monkeypatch.setattr(scoring, "CHUNK_ROWS", rows)
    assert signals(awkward).tobytes() == expected.tobytes()


@few
@given(streams(st.sampled_from([0, 1, 60, 500, -60])), streams())
def test_within_a_day_customers_know_nothing_of_each_other(
    today: pd.DataFrame, past: pd.DataFrame
) -> None:
    today["ts"] = today.ts - today.ts.min() + START + pd.Timedelta(days=20_000, hours=6)
    alone = today[today.customer_id == "a"]
    together = signals(pd.concat([past, today]))[len(past) :]
    assert (
        signals(pd.concat([past, alone]))[len(past) :].tobytes()
        == together[(today.customer_id == "a").to_numpy()].tobytes()
    )


def test_a_late_event_of_yesterday_does_not_end_today() -> None:
    past = stream(["a", "b"] * 20, np.arange(40) * HOUR)
    morning = stream(["a"] * 20, 2 * DAY + np.arange(20), 500.0)
    late = stream(["b"], [2 * DAY - 1])
    noon = stream(["c"], [2.5 * DAY], 30.0)
    on_time = signals(pd.concat([past, morning, noon]))[-1]
    assert signals(pd.concat([past, morning, late, noon]))[-1].tobytes() == on_time.tobytes()


def test_what_others_did_counts_from_the_next_day_on() -> None:
    past = stream(["a"] * 30, np.arange(30) * 60.0, 10.0)
    rich = stream(["b"] * 30, 3600 + np.arange(30) * 60.0, 1000.0)
    today, tomorrow = (stream(["new"], [d * DAY + 2 * HOUR], 300.0) for d in (0, 1))
    population = view("amount_population")
    alone, together = learnt(past), learnt(pd.concat([past, rich]))
    assert asked(alone, today)[0][0, population] == asked(together, today)[0][0, population]
    assert asked(alone, tomorrow)[0][0, population] > asked(together, tomorrow)[0][0, population]


@few
@given(streams(), st.integers(1, 3000))
def test_a_shift_by_whole_days_changes_nothing(frame: pd.DataFrame, days: int) -> None:
    frame = frame.assign(ts=frame.ts + pd.Timedelta(days=4000))
    later = frame.assign(ts=frame.ts + pd.Timedelta(days=days))
    np.testing.assert_allclose(signals(later), signals(frame), rtol=1e-6, atol=1e-6)


def test_amounts_in_a_smaller_coin_are_no_other_amounts(payments: Payments) -> None:
    frame = payments[0].iloc[:5000]
    cents = frame.assign(amount=frame.amount * 100)
    np.testing.assert_allclose(signals(cents), signals(frame), rtol=2e-3, atol=2e-3)


# --- memory ---------------------------------------------------------------------------------------


def test_a_copy_goes_on_by_itself(payments: Payments) -> None:
    past, future = payments[0].iloc[:2000], payments[0].iloc[2000:4000]
    profiles = learnt(past)
    before = remembered(profiles)
    copied = profiles.copy()
    assert remembered(copied) == before
    for one, other in zip(profiles.state, copied.state, strict=True):
        assert not np.shares_memory(one, other)
    first = signals(future, copied)
    assert remembered(profiles) == before
    assert signals(future, profiles).tobytes() == first.tobytes()
    assert remembered(profiles) == remembered(copied)


def test_saved_profiles_go_on_bit_for_bit(payments: Payments, tmp_path: Path) -> None:
    past, future = payments[0].iloc[:2000], payments[0].iloc[2000:4000]
    profiles = learnt(past)
    profiles.save(tmp_path / "profiles.npz")
    loaded = Profiles.load(tmp_path / "profiles.npz")
    assert remembered(loaded) == remembered(profiles)
    assert signals(future, loaded).tobytes() == signals(future, profiles).tobytes()
    assert remembered(loaded) == remembered(profiles)


def test_fresh_profiles_survive_the_disk(awkward: pd.DataFrame, tmp_path: Path) -> None:
    Profiles().save(tmp_path / "profiles.npz")
    loaded = Profiles.load(tmp_path / "profiles.npz")
    assert len(loaded.customer_codes) == 0
    assert signals(awkward, loaded).tobytes() == signals(awkward).tobytes()


def test_hostile_ids_stay_apart_and_survive_the_disk(tmp_path: Path) -> None:
    ids = ["a", "a\0", "\0", "", "A", "á", "a\u0301", "nan", "None", "-1", "'; --", "🂡" * 200]
    past = stream(ids, np.arange(len(ids)) * 60.0, 10.0, category=ids)
    profiles = learnt(past)
    assert len(profiles.customer_codes) == len(ids)
    profiles.save(tmp_path / "profiles.npz")
    loaded = Profiles.load(tmp_path / "profiles.npz")
    assert loaded.customer_codes == profiles.customer_codes
    assert loaded.category_codes == profiles.category_codes
    assert remembered(loaded) == remembered(profiles)


def test_a_number_and_its_digits_are_the_same_customer() -> None:
    profiles = learnt(stream(["7"], [0.0]).astype({"customer_id": "int64"}))
    signals(stream(["7"], [60.0]), profiles)
    assert len(profiles.customer_codes) == 1


@pytest.mark.parametrize("what", ["missing", "empty", "truncated", "flipped", "pickle", "layout"])
def test_broken_profiles_are_refused(awkward: pd.DataFrame, tmp_path: Path, what: str) -> None:
    path = tmp_path / "profiles.npz"
    profiles = learnt(awkward)
    profiles.save(path)
    whole = path.read_bytes()
    if what == "missing":
        path.unlink()
    elif what == "pickle":
        path.write_bytes(pickle.dumps({"customers": 1}))
    elif what == "layout":
        other = profiles.state._replace(customers=profiles.state.customers[:, :-1])
        profiles.state = other
        profiles.save(path)
    else:
        half = len(whole) // 2
        flipped = whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]
        path.write_bytes({"empty": b"", "truncated": whole[:half], "flipped": flipped}[what])
    with pytest.raises(NotReady, match="cannot be read"):
        Profiles.load(path)


def test_an_identifier_as_category_fills_no_memory_and_stops_nothing() -> None:
    profiles = Profiles()
    n = MAX_CATEGORIES + 100
    many = stream(["a"] * n, np.arange(n) * 60.0, category=[f"c{i}" for i in range(n)])
    for part in (many.iloc[: n // 2], many.iloc[n // 2 :], many.iloc[-50:]):
        signals(part, profiles)
    assert len(profiles.category_codes) == MAX_CATEGORIES
    codes = profiles.columns(stream(["a"] * 3, [0.0] * 3, category=["c7", "new", f"c{n - 1}"]))
    assert codes.category.tolist() == [7, MAX_CATEGORIES, MAX_CATEGORIES]


def test_a_frame_is_not_changed(awkward: pd.DataFrame) -> None:
    before = awkward.copy(deep=True)
    signals(awkward)
    pd.testing.assert_frame_equal(awkward, before)


def test_no_rows_change_nothing(awkward: pd.DataFrame) -> None:
    profiles = learnt(awkward)
    before = remembered(profiles)
    assert signals(awkward.iloc[:0], profiles).shape == (0, len(SIGNALS))
    assert remembered(profiles) == before


# --- one-sided: more suspicious is never less --------------------------------------------------


@few
@given(streams(), st.sampled_from("abcz"), st.sampled_from([None, "food", "new"]))
def test_amount_signals_never_fall_when_the_amount_rises(
    past: pd.DataFrame, customer: str, category: str | None
) -> None:
    grid = np.geomspace(0.01, 1e12, 200)
    probe = stream([customer] * 200, np.full(200, 2e9), grid, category)
    out, _ = asked(learnt(past), probe)
    assert (np.diff(out[:, AMOUNT], axis=0) >= -1e-12).all()
    others = np.delete(out, AMOUNT, axis=1)
    assert (others == others[0]).all()


@few
@given(streams())
def test_the_travel_signal_never_falls_with_distance_or_haste(past: pd.DataFrame) -> None:
    now = (past.ts.max() - START) / pd.Timedelta(seconds=1) + 2 * DAY
    profiles = learnt(pd.concat([past, stream(["a"], [now], place=(1.0, 0.0))]))
    speed = view("travel_speed")
    degrees = np.linspace(0.0, 180.0, 100)
    far = stream(["a"] * 100, np.full(100, now + 600), place=[(1.0, d) for d in degrees])
    out, _ = asked(profiles, far)
    assert out[0, speed] == 0
    assert (np.diff(out[:, speed]) >= -1e-12).all()  # by the rounding of the distance
    at = np.geomspace(1, 1e8, 100)
    out, _ = asked(profiles, stream(["a"] * 100, now + at, place=BERLIN))
    flown = at > HOUR * (AIRPORTS_H + haversine_km(1.0, 0.0, *BERLIN) / AIR_KMH)
    assert (np.diff(out[~flown, speed]) < 0).all()
    assert (out[flown, speed] == 0).all()


@pytest.mark.parametrize("usual_gap_s", [30.0, HOUR, 3 * DAY])
def test_the_burst_signal_rises_with_every_transaction_of_a_burst(usual_gap_s: float) -> None:
    past = stream(["a"] * 40, np.arange(40) * usual_gap_s)
    burst = stream(["a"] * RING, np.full(RING, 40 * usual_gap_s) + np.arange(RING) * 0.1)
    out = signals(burst, learnt(past))[:, view("burst_count")]
    assert (np.diff(out) >= 0).all()
    assert out[-1] > 50


@few
@given(streams())
def test_a_missing_place_or_category_says_nothing(past: pd.DataFrame) -> None:
    profiles = learnt(past)
    probe = stream(["a", "a"], [2e9, 2e9], 5e6, ["food", None], [BERLIN, None])
    (there, missing), _ = asked(profiles, probe)
    neutral = [view(s) for s in ("amount_habit", "amount_category", "travel_speed")]
    assert (missing[neutral] == 0).all()
    assert np.delete(missing, neutral).tobytes() == np.delete(there, neutral).tobytes()


def test_columns_that_are_not_there_are_like_missing_values(awkward: pd.DataFrame) -> None:
    empty = awkward.assign(category=None, lat=np.nan, lon=np.nan)
    bare = awkward[["customer_id", "ts", "amount"]]
    assert signals(bare).tobytes() == signals(empty).tobytes()


def test_a_first_transaction_is_neither_fast_nor_a_burst(payments: Payments) -> None:
    probe = stream(["new"], [3e8], place=BERLIN)
    (out,), (told,) = asked(learnt(payments[0]), probe)
    for name in ("travel_speed", "burst_count", "burst_swarm"):
        assert out[view(name)] == 0
    assert np.isnan(told[[fact("distance_km"), fact("speed_kmh")]]).all()
    assert told[fact("usual_amount")] == pytest.approx(told[fact("population_amount")])


def test_a_history_within_one_instant_is_no_error() -> None:
    past = stream(["a"] * 30, [0.0] * 30)
    later = stream(["b", "a", "b"], [DAY, DAY, DAY])
    assert np.isfinite(signals(pd.concat([past, later]))).all()


@pytest.mark.parametrize("late_s", [1800.0, -1800.0, 23.9 * HOUR, 3 * DAY])
def test_a_place_is_as_far_away_in_time_as_the_two_times_are_apart(late_s: float) -> None:
    past = stream(["a"], [10 * DAY], place=BERLIN)
    probe = stream(["a"], [10 * DAY - late_s], place=(48.857, 2.352))
    _, (told,) = asked(learnt(past), probe)
    assert told[fact("gap_s")] == pytest.approx(-late_s)
    apart_h = abs(late_s) / HOUR + SPEED_SLACK_H
    assert told[fact("speed_kmh")] == pytest.approx(told[fact("distance_km")] / apart_h)


@pytest.mark.parametrize("ahead_s", [3 * DAY, 23.9 * HOUR, 70 * 365 * DAY, -3 * DAY])
def test_a_time_among_a_burst_that_is_none_of_it_hides_nothing(ahead_s: float) -> None:
    past = stream(["a"] * 40, np.arange(40) * HOUR)
    at = 40 * HOUR + np.arange(30) * 0.1
    mixed = np.column_stack([at, at + ahead_s]).ravel()
    alone = signals(stream(["a"] * 30, at), learnt(past))[:, view("burst_count")]
    among = signals(stream(["a"] * 60, mixed), learnt(past))[::2, view("burst_count")]
    assert (among > 0.7 * alone).all()


def test_a_burst_that_counts_backwards_in_time_is_a_burst() -> None:
    past = stream(["a"] * 40, np.arange(40) * HOUR)
    at = 40 * HOUR + np.arange(30) * 0.1
    onwards, back = (signals(stream(["a"] * 30, t), learnt(past)) for t in (at, at[::-1].copy()))
    burst = view("burst_count")
    assert back[-1, burst] == pytest.approx(onwards[-1, burst], rel=0.05)


def test_a_time_of_a_day_ahead_makes_nothing_unusual_afterwards() -> None:
    past = stream(["a"] * 60, np.arange(60) * HOUR, place=BERLIN)
    ahead = stream(["a"], [60 * HOUR + 23.9 * HOUR], place=BERLIN)
    back = stream(["a"] * 5, (60 + np.arange(5)) * HOUR, place=(52.4, 13.1))
    straight, after = signals(pd.concat([past, back])), signals(pd.concat([past, ahead, back]))
    assert (after[-5:] < straight[-5:] + 0.3).all()


def test_a_jump_of_the_clock_is_mended_by_the_next_rows() -> None:
    rows = 60
    past = stream(["a"] * rows, np.arange(rows) * HOUR, place=BERLIN)
    jump = stream(["a"], [70 * 365 * DAY], place=BERLIN)
    back = stream(["a"] * 9, (rows + np.arange(9)) * HOUR, place=BERLIN)
    straight = signals(pd.concat([past, back]))[-1]
    mended = signals(pd.concat([past, jump, back]))[-1]
    np.testing.assert_allclose(mended, straight, atol=1.0)  # of the rate: two weeks of silence


@pytest.mark.parametrize("late_s", [-1.5 * DAY, -80 * 365 * DAY])
def test_one_row_that_is_late_moves_neither_place_nor_clock(late_s: float) -> None:
    past = stream(["a"] * 60, 100 * 365 * DAY + np.arange(60) * HOUR, place=BERLIN)
    late = stream(["a"], [100 * 365 * DAY + late_s], place=(35.677, 139.692))
    probe = stream(["a"], [100 * 365 * DAY + 60 * HOUR], place=(35.677, 139.692))
    straight = asked(learnt(past), probe)[0][0]
    after = asked(learnt(pd.concat([past, late])), probe)[0][0]
    assert straight[view("travel_speed")] > 3
    np.testing.assert_allclose(after, straight, atol=0.15)  # it teaches its hour


MIDDLE: Place = (51.16, 10.45)


def portfolio(middle: float, home: Place | None, days: int = 12) -> pd.DataFrame:
    """Customers who pay every two hours at home, and some of it at one place.

    Without `home` each lives elsewhere, all some hundred km from that place.
    """
    draw, n = np.random.default_rng(0), 12 * days
    rows = []
    for c in range(40):
        own = home or (51.16 + 4 * math.cos(c), 10.45 + 5 * math.sin(c))
        place = [MIDDLE if away else own for away in draw.random(n) < middle]
        rows.append(stream([f"c{c}"] * n, np.arange(n) * 7200.0 + 60 * c, place=place))
    return pd.concat(rows).sort_values("ts", kind="stable", ignore_index=True)


def test_a_place_that_many_come_to_faster_than_they_can_is_none() -> None:
    past = portfolio(0.2, None)
    told = signals(past)[:, view("travel_speed")]
    assert (told[:1000] > 1).mean() > 0.2
    assert told[-4000:].max() == 0
    profiles = learnt(past)
    now = 12 * DAY + 60 * 7  # c7 was at home or in the middle; where they are is known
    home = (51.16 + 4 * math.cos(7), 10.45 + 5 * math.sin(7))
    steps = stream(["c7"] * 4, now + np.arange(4) * 600, place=[home, MIDDLE, home, (40.4, -3.7)])
    told = signals(steps, profiles)[:, view("travel_speed")]
    assert told[:3].max() == 0
    assert told[3] > 3, "what came in between is not where they were"


def test_a_place_where_all_live_is_one_whatever_journeys_end_there() -> None:
    past = portfolio(0.02, BERLIN)
    told = signals(past)[:, view("travel_speed")]
    assert (told[-4000:] > 1).mean() > 0.02  # one in fifty, there and back
    far = stream(["c7"] * 2, 12 * DAY + np.array([420.0, 1020]), place=[BERLIN, (40.4, -3.7)])
    assert signals(far, learnt(past))[1, view("travel_speed")] > 3


def test_a_first_row_of_1970_does_not_make_whoever_pays_every_hour_rare() -> None:
    past = stream(["a"] * 1000, 50 * 365 * DAY + np.arange(1000) * HOUR)
    early = stream(["a"], [0.0])
    probe = stream(["a"], [50 * 365 * DAY + 1000 * HOUR])
    rates = [asked(learnt(p), probe)[1][0][fact("rate_per_hour")]
             for p in (past, pd.concat([early, past]))]  # fmt: skip
    assert rates[1] == pytest.approx(rates[0], rel=0.3)


def test_rows_dated_back_do_not_end_the_count_of_a_burst() -> None:
    past = stream(["a"] * RING, np.arange(RING) * HOUR)
    at = (RING + 1) * HOUR + np.arange(30) * 0.1
    old = np.repeat(at, 3) - 2 * DAY + np.tile([0.0, 60.0, 7200.0], 30)
    mixed = np.column_stack([at, old.reshape(30, 3)]).ravel()
    told = Scorer(profiles=learnt(past)).run(stream(["a"] * 120, mixed), explain=True).facts
    assert told[::4, fact("burst_count")].tolist() == list(range(1, 31))


def test_a_burst_that_is_dated_back_is_counted() -> None:
    past = stream(["a"] * 3 * RING, np.arange(3 * RING) * HOUR)
    at = 150 * HOUR + 60.0 + np.arange(30) * 0.1
    told = Scorer(profiles=learnt(past)).run(stream(["a"] * 30, at), explain=True).facts
    assert told[-1, fact("burst_count")] >= 30


def test_the_offset_of_a_shop_that_nobody_is_in_is_not_the_customer_s() -> None:
    here = stream(["a"] * 60, np.arange(60) * DAY).assign(
        clock="sent", utc_offset=60, channel="in person"
    )
    shop = stream(["a"] * 3, 60 * DAY + np.arange(3) * HOUR).assign(
        clock="sent", utc_offset=840, channel="remote"
    )
    nothing = stream(["a"], [61 * DAY]).assign(clock="assumed", utc_offset=0, channel="remote")
    past = learnt(pd.concat([here, shop]))
    assert asked(past, nothing)[1][0][fact("utc_offset")] == 60
    assert asked(past, shop.iloc[:1])[1][0][fact("utc_offset")] == 60
    unknown = asked(learnt(shop), shop.iloc[:1])[1][0]
    assert unknown[fact("utc_offset")] == 840  # better than nothing, where nothing else is known
    assert asked(learnt(shop), nothing)[1][0][fact("utc_offset")] == 0


def test_a_category_is_one_however_it_is_written() -> None:
    past = learnt(stream(["a"] * 30, np.arange(30) * HOUR, 20.0, "Gas Transport"))
    each = ("Gas Transport", "gas_transport", "GAS-TRANSPORT")
    told = [asked(past, stream(["a"], [DAY * 2], 400.0, name))[0][0] for name in each]
    assert told[0][view("amount_habit")] > 3
    np.testing.assert_array_equal(told[1:], [told[0]] * 2)


def test_one_customer_does_not_say_what_is_usual_in_a_category() -> None:
    amounts = 20.0 * np.exp(np.random.default_rng(0).normal(0.0, 0.6, 300))
    usual = stream([f"c{i}" for i in range(300)], np.arange(300) * HOUR, amounts, "food")
    one = stream(["one"] * 150, 300 * HOUR + np.arange(150) * 60, 0.005, "new")
    ends = stream([f"c{i}" for i in range(20)], 330 * HOUR + np.arange(20) * 60, 20.0, "food")
    probe = stream(["c30"], [340 * HOUR], 30.0, "new")
    straight, after = (asked(learnt(pd.concat(rows)), probe)[0][0]
                       for rows in ([usual, ends], [usual, one, ends]))  # fmt: skip
    assert after[view("amount_category")] < straight[view("amount_category")] + 0.5


# --- values known otherwise ----------------------------------------------------------------------


E2 = math.exp(2.0)  # its logarithm is a whole number of the fixed-point unit


def weight(n: int, gap_s: float = 60.0) -> float:
    """What `n` transactions of one customer weigh together in figures that customers share."""
    recent, total = 0.0, 0.0
    for _ in range(n):
        recent = recent * math.exp(-gap_s / DAY / REMEMBERED_DAYS) + 1
        total += min(1.0, FULL_WEIGHT / recent)
    return total


@pytest.mark.parametrize("n", [20, 60, 400])
@pytest.mark.parametrize("amount", [0.5, E2, 50.0, 1e6])
def test_amount_signals_of_a_customer_who_always_paid_the_same(n: int, amount: float) -> None:
    past = stream(["a"] * n, np.arange(n) * 60.0, E2, "food")
    (out,), (told,) = asked(learnt(past), stream(["a"], [DAY], amount, "food"))
    above = math.log(amount) - 2.0
    share = weight(n) / (weight(n) + PRIOR_POPULATION)
    variance = 1 - share  # nothing but the prior's is left
    for whose in ("usual", "habit", "category", "population"):
        assert told[fact(f"{whose}_amount")] == pytest.approx(E2)

    population = -stats.norm.logsf(above / math.sqrt(variance))
    assert out[view("amount_population")] == pytest.approx(population, rel=1e-4)
    of_category = 1 / (1 + PRIOR_POPULATION)  # of one customer
    in_category = variance + of_category * (0 - variance)
    category = -stats.norm.logsf(above / math.sqrt(in_category))
    assert out[view("amount_category")] == pytest.approx(category, rel=1e-4)
    for name, prior in (("amount_customer", variance), ("amount_habit", in_category)):
        dof = PRIOR_VARIANCE + n
        spread = math.sqrt(PRIOR_VARIANCE * prior / dof * (1 + 1 / (PRIOR_MEAN + n)))
        t = above / spread
        z = math.copysign(math.sqrt(dof * math.log1p(t * t / dof)), t)
        assert out[view(name)] == pytest.approx(-stats.norm.logsf(z), rel=1e-4, abs=2e-5)


def test_customers_who_differ_widen_the_population_and_not_each_other() -> None:
    n, low, high = 60, math.exp(1.0), math.exp(3.0)
    past = stream(["a", "b"] * n, np.arange(2 * n) * 60.0, [low, high] * n)
    (out,), (told,) = asked(learnt(past), stream(["a"], [DAY], high))
    assert told[fact("population_amount")] == pytest.approx(E2)  # 1 deviation below
    assert out[view("amount_population")] == pytest.approx(-stats.norm.logsf(1.0), rel=1e-6)
    weights = 2 * weight(n, gap_s=120.0)
    within = 1 - weights / (weights + PRIOR_POPULATION)
    mean = (PRIOR_MEAN * 2 + n * 1) / (PRIOR_MEAN + n)
    assert told[fact("usual_amount")] == pytest.approx(math.exp(mean), rel=1e-6)
    dof = PRIOR_VARIANCE + n
    spread = math.sqrt(PRIOR_VARIANCE * within / dof * (1 + 1 / (PRIOR_MEAN + n)))
    nats = surprise(normal_score((3 - mean) / spread, dof))
    assert out[view("amount_customer")] == pytest.approx(nats, rel=1e-4)
    assert nats > 10


@pytest.mark.parametrize(("name", "customers"), [("customer", 1), ("population", 300)])
def test_a_long_history_of_log_normal_amounts_gives_the_normal_tail(
    name: str, customers: int
) -> None:
    n, mean, sd = 3000, 3.0, 0.6
    amounts = np.exp(np.random.default_rng(0).normal(mean, sd, n))
    ids = [f"c{i % customers}" for i in range(n)]
    profiles = learnt(stream(ids, np.arange(n) * HOUR, amounts))
    z = np.array([0.0, 1.0, 2.0, 3.0])
    probe = stream(["c0"] * 4, [n * HOUR] * 4, np.exp(mean + sd * z))
    out, _ = asked(profiles, probe)
    found = out[:, view(f"amount_{name}")]
    np.testing.assert_allclose(found, -stats.norm.logsf(z), rtol=0.12)


@pytest.mark.parametrize("a_day", [0.05, 0.1, 0.2, 0.5])
def test_amounts_that_rise_slowly_are_seen_before_they_are_twenty_times_the_usual(
    a_day: float,
) -> None:
    usual = np.exp(np.random.default_rng(1).normal(3.0, 0.4, 60))
    profiles = learnt(stream(["a"] * 60, np.arange(60) * DAY, usual))
    steps = math.ceil(math.log(20) / math.log1p(a_day))
    rising = math.exp(3.0) * (1 + a_day) ** np.arange(1, steps + 1)
    raised = stream(["a"] * steps, (60 + np.arange(steps)) * DAY, rising)
    out = Scorer(profiles=profiles).run(raised, signals=True, explain=True)
    assert out.signals[:, view("amount_customer")].max() > 12
    assert (a_day >= 0.2) or out.facts[-1, fact("n_raised")] > 10
    ordinary = stream(["a"] * 60, (60 + np.arange(60)) * DAY, usual[::-1].copy())
    again = asked(learnt(stream(["a"] * 60, np.arange(60) * DAY, usual)), ordinary)[0]
    assert again[:, view("amount_customer")].max() < 6


def test_an_outlier_teaches_little() -> None:
    past = stream(["a"] * 50, np.arange(50) * HOUR, np.tile([8.0, 12.5], 25))
    outlier = stream(["a"], [50 * HOUR], 1e9)
    probe = stream(["a"], [51 * HOUR], 100.0)
    before, after = (
        asked(learnt(history), probe)[0][0, view("amount_customer")]
        for history in (past, pd.concat([past, outlier]))
    )
    assert before * 0.6 < after < before


def brute_counts(ts: pd.Series, windows_s: tuple[float, ...]) -> pd.DataFrame:
    """Earlier rows at most a window ago, counted row by row."""
    at = ts.to_numpy("datetime64[us]").astype(np.int64)
    counts = {
        w: [int((at[i] - at[:i] <= w * 1e6).sum()) for i in range(len(at))] for w in windows_s
    }
    return pd.DataFrame(counts).clip(upper=RING)


@few
@given(
    st.lists(
        st.sampled_from([0, 0, 0.000001, 0.5, 9.999999, 10, 10.000001, 55, 60, 600, 3600, 3601]),
        min_size=2,
        max_size=150,
    )
)
def test_counts_are_exact_in_every_window(gaps: list[float]) -> None:
    at = np.cumsum(gaps)
    frame = stream(["a"] * len(at), at)
    out = Scorer().run(frame, signals=True, explain=True)
    rate_s = out.facts[:, fact("rate_per_hour")] / HOUR
    counts = brute_counts(frame.ts, WINDOWS_S)
    nats = pd.DataFrame(
        {
            w: [poisson_surprise(float(c), r * w) for c, r in zip(counts[w], rate_s, strict=True)]
            for w in WINDOWS_S
        }
    )
    np.testing.assert_allclose(
        out.signals[:, view("burst_count")], nats.max(axis=1), rtol=1e-9, atol=1e-12
    )
    surprised = out.signals[:, view("burst_count")] > 0
    window = nats.idxmax(axis=1)
    chosen = [1 + counts.loc[i, window[i]] for i in range(len(at))]
    assert (out.facts[surprised, fact("burst_count")] == np.array(chosen)[surprised]).all()
    assert (out.facts[surprised, fact("burst_window_s")] == window.to_numpy()[surprised]).all()


def test_the_usual_rate_is_that_of_the_history() -> None:
    at = np.arange(1000) * 600.0
    past = stream(["a"] * 1000, at)
    (_,), (told,) = asked(learnt(past), stream(["a"], [at[-1] + 600]))
    assert told[fact("rate_per_hour")] == pytest.approx(6, rel=0.01)
    first = asked(Profiles(), stream(["a"], [0.0]))[1][0]
    assert first[fact("rate_per_hour")] == pytest.approx(PRIOR_RATE / (PRIOR_RATE * 24))


def test_travel_is_told_in_km_seconds_and_kmh() -> None:
    past = stream(["a"], [0.0], place=(0.0, 1.0))
    (out,), (told,) = asked(learnt(past), stream(["a"], [1320.0], place=(0.0, 91.0)))
    assert told[fact("distance_km")] == pytest.approx(math.pi / 2 * 6371.0088)
    assert told[fact("gap_s")] == pytest.approx(1320)
    speed = told[fact("distance_km")] / (1320 / 3600 + SPEED_SLACK_H)
    assert told[fact("speed_kmh")] == pytest.approx(speed)
    assert out[view("travel_speed")] == pytest.approx(math.log1p(speed / SPEED_UNIT_KMH))


def at_hour(hour: float, n: int = 200) -> pd.DataFrame:
    return stream(["a"] * n, np.arange(n) * DAY + hour * HOUR)


@pytest.mark.parametrize("usual", [0.5, 9.5, 14.5, 23.5])
def test_the_hour_at_which_a_customer_never_pays_is_surprising(usual: float) -> None:
    profiles = learnt(at_hour(usual))
    probe = stream(["a"] * 24, 200 * DAY + (np.arange(24) + 0.5) * HOUR)
    out, told = asked(profiles, probe)
    rare, quiet, here = out[:, view("hour_customer")], out[:, view("hour_quiet")], int(usual)
    assert rare[here] == 0
    assert quiet.argmin() == here
    assert quiet.argmax() == (here + 12) % 24
    away = (np.arange(24) - here + 12) % 24 - 12
    assert (rare[abs(away) > 1] > 3).all()
    assert told[here, fact("n_hour")] == 200
    assert told[(here + 12) % 24, fact("n_hour")] == 0


def test_midnight_is_no_border() -> None:
    probe = stream(["a"] * 2, [200 * DAY - 1e-6, 200 * DAY])
    for usual in (0.5, 23.5):
        (before, after), _ = asked(learnt(at_hour(usual)), probe)
        hours = [view("hour_customer"), view("hour_quiet")]
        np.testing.assert_allclose(before[hours], after[hours], atol=1.5)
        assert abs(before[view("hour_quiet")] - after[view("hour_quiet")]) < 1e-6


def test_the_hour_is_told_with_its_minutes() -> None:
    at = 3 * HOUR + 12 * MINUTE
    _, (told,) = asked(Profiles(), stream(["a"], [at]))
    assert told[fact("hour")] == pytest.approx(3.2)


def test_several_unusual_amounts_in_a_row_are_a_swarm() -> None:
    past = stream(["a"] * 100, np.arange(100) * HOUR)
    swarm = stream(["a"] * 4, 100 * HOUR + np.arange(4) * HOUR, 2000.0)
    out = Scorer(profiles=learnt(past)).run(swarm, signals=True, explain=True)
    grown = out.signals[:, view("burst_swarm")]
    assert grown[0] == 0
    assert (np.diff(grown) > 0).all()
    assert out.facts[:, fact("n_unusual_day")].round().tolist() == [0, 1, 2, 3]
    after = learnt(pd.concat([past, swarm]))
    later = stream(["a"] * 50, 103 * HOUR + np.geomspace(60, 30 * DAY, 50))
    fading, _ = asked(after, later)
    assert (np.diff(fading[:, view("burst_swarm")]) < 0).all()
    assert fading[-1, view("burst_swarm")] < 1e-6


def test_a_history_is_counted_beyond_what_the_mean_remembers() -> None:
    n = int(MEMORY) + 500
    _, (told,) = asked(learnt(at_hour(12.5, n)), stream(["a"], [n * DAY + 12.6 * HOUR]))
    assert told[fact("n_history")] == told[fact("n_hour")] == n


def test_what_is_long_ago_fades() -> None:
    n = 6 * int(MEMORY)
    amounts = np.repeat([10.0, 1000.0], [n // 6, n - n // 6])
    _, (told,) = asked(
        learnt(stream(["a"] * n, np.arange(n) * 60.0, amounts)), stream(["a"], [1e7])
    )
    assert told[fact("usual_amount")] == pytest.approx(1000, rel=0.1)


# --- what a block teaches ------------------------------------------------------------------------


@few
@given(streams(st.sampled_from([1, 60, 500])))
def test_a_blocked_transaction_does_not_teach_what_is_normal(past: pd.DataFrame) -> None:
    past = past.assign(ts=past.ts - past.ts.min() + START)
    blocked = stream(["a"], [10 * HOUR], 1e7, "food", (0.0, 100.0))
    followers = stream(["a"] * 2, [10.1 * HOUR] * 2, [30.0, 1e7], "food", BERLIN)
    answers = [UNDECIDED] * len(past) + [int(Decision.BLOCK)]
    with_block = asked(learnt(pd.concat([past, blocked]), answers), followers)[0]
    without = asked(learnt(past), followers)[0]
    learnt_from_others = [j for j, s in enumerate(SIGNALS) if not s.startswith("burst")]
    assert with_block[:, learnt_from_others].tobytes() == without[:, learnt_from_others].tobytes()


def test_blocked_transactions_still_count_for_bursts_and_swarms() -> None:
    past = stream(["a"] * 100, np.arange(100) * HOUR)
    burst = stream(["a"] * 30, 100 * HOUR + np.arange(30) * 0.1, 5000.0)
    answers = [UNDECIDED] * 100 + [int(Decision.BLOCK)] * 30
    probe = stream(["a"], [100 * HOUR + 4], 5000.0)
    (out,), (told,) = asked(learnt(pd.concat([past, burst]), answers), probe)
    (fresh,), _ = asked(learnt(past), probe)
    assert told[fact("burst_count")] == 31
    assert out[view("burst_count")] > 50 > fresh[view("burst_count")]
    assert out[view("burst_swarm")] > 5 > fresh[view("burst_swarm")]
    assert out[view("amount_customer")] == fresh[view("amount_customer")]
    assert told[fact("n_history")] == 100


def test_a_blocked_burst_does_not_make_everybody_faster() -> None:
    past = stream(["a"] * 40, np.arange(40) * 1800.0)
    burst = stream(["a"] * 60, 72_000 + np.arange(60) * 0.1)
    probe = stream(["new"], [DAY])
    rates = []
    for answer in (Decision.BLOCK, Decision.APPROVE):
        answers = [UNDECIDED] * 40 + [int(answer)] * 60
        (told,) = asked(learnt(pd.concat([past, burst]), answers), probe)[1]
        rates.append(told[fact("rate_per_hour")])
    assert rates[0] == pytest.approx(2, rel=0.03)
    assert rates[0] < rates[1] < 1.5 * rates[0], "nor does one that passed, of one customer"


@pytest.mark.parametrize("answer", [UNDECIDED, Decision.APPROVE, Decision.REVIEW])
def test_every_other_answer_teaches(awkward: pd.DataFrame, answer: int) -> None:
    if answer == Decision.REVIEW:  # but not how many came at once
        awkward = awkward.groupby("customer_id", observed=True).head(OWN_MOST[0])
    assert remembered(learnt(awkward, [answer] * len(awkward))) == remembered(learnt(awkward))
