"""The compiled detector: equal to scikit-learn's, additive, calibrated, and safe to load."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_core.detection.detector import MIN_TRAIN, Detector
from aegis_core.detection.forest import (
    BULK,
    KNEE,
    N_FACTORS,
    N_SIGNALS,
    PADDED,
    average_path_length,
)
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import InputError, NotReady
from aegis_core.features.signals import SIGNAL_FACTOR, SIGNALS
from aegis_core.schema import FACTORS

Floats = npt.NDArray[np.float64]
Trained = tuple[Detector, Policy]
SWARM = SIGNALS.index("burst_swarm")
TRAVEL = SIGNALS.index("travel_speed")


def exponential(n: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).exponential(size=(n, N_SIGNALS))


def tied(n: int, seed: int = 0) -> Floats:
    """Few different values, so that many rows stand at a threshold's two neighbours."""
    return np.random.default_rng(seed).integers(0, 4, (n, N_SIGNALS)).astype(float)


def half_constant(n: int, seed: int = 0) -> Floats:
    signals = exponential(n, seed)
    signals[:, ::2] = 1.5
    return signals


def identical(n: int, seed: int = 0) -> Floats:
    return np.full((n, N_SIGNALS), 0.7 + seed)


def zero(n: int, seed: int = 0) -> Floats:
    return np.zeros((n, N_SIGNALS))


def rarely_anything(n: int, seed: int = 0) -> Floats:
    return np.where(np.random.default_rng(seed).random((n, N_SIGNALS)) > 0.999, 5.0, 0.0)


def at_thresholds(detector: Detector) -> Floats:
    """Evidence on and beside the thresholds of every tree, once per factor and as the total."""
    assert detector.forest_ is not None
    trees = [e.tree_ for e in detector.forest_.estimators_]
    exact = np.unique(np.concatenate([t.threshold[t.feature >= 0] for t in trees]))[:400]
    near = exact.astype(np.float32)
    values = np.concatenate(
        [exact, near, np.nextafter(near, np.float32(-1)), np.nextafter(near, np.float32(np.inf))]
    ).astype(float)
    alone = np.zeros((N_FACTORS, len(values), N_FACTORS))
    for f in range(N_FACTORS):
        alone[f, :, f] = values
    mixed = np.random.default_rng(0).choice(np.append(values, 0.0), (2000, N_FACTORS))
    return np.abs(np.concatenate([*alone, mixed]))


# --- equal to scikit-learn -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_trees", "max_samples", "make", "seed"),
    [
        (1, 2, exponential, 0),
        (1, 256, tied, 1),
        (3, 7, exponential, 2),
        (10, 256, exponential, 3),
        (10, 64, half_constant, 4),
        (37, 128, tied, 5),
        (37, 1024, exponential, 6),
        (100, 256, tied, 7),
        (100, 100, rarely_anything, 8),
        (11, 256, identical, 9),
        (10, 4096, tied, 10),
    ],
)
def test_the_compiled_score_is_that_of_scikit_learn(
    n_trees: int, max_samples: int, make: object, seed: int
) -> None:
    signals = make(1500, seed)  # type: ignore[operator]
    detector = Detector(n_trees, max_samples, seed).fit(signals)
    assert detector.forest_ is not None
    _, seen = detector.weigh(signals)
    far = np.abs(np.random.default_rng(seed).standard_cauchy((500, N_FACTORS))) * 3
    for evidence in (seen, far, at_thresholds(detector), np.zeros((1, N_FACTORS))):
        expected = -detector.forest_.score_samples(detector.features(evidence))
        np.testing.assert_allclose(detector.score(evidence), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_trees", "max_samples"), [(1, 2), (37, 64), (20, 256), (3, 4096)])
def test_the_cuts_find_the_leaves_that_the_trees_lead_to(n_trees: int, max_samples: int) -> None:
    detector = Detector(n_trees, max_samples, 5).fit(exponential(5000, 5))
    shape = detector.trees_.shape
    feature, threshold, path = (part.reshape(shape[1::-1]) for part in detector.trees_[:3])
    far = np.abs(np.random.default_rng(5).standard_cauchy((400, N_FACTORS))) * 3
    evidence = np.concatenate([far, at_thresholds(detector)[:800], np.zeros((1, N_FACTORS))])
    columns = detector.features(evidence)[:, [0, *range(N_FACTORS, 2 * N_FACTORS)]]
    tree, length = np.arange(shape[0]), np.zeros(len(evidence))
    node = np.ones((len(evidence), len(tree)), np.int64)
    for _ in range(shape[2]):
        value = np.take_along_axis(columns, feature[node, tree].astype(np.int64), axis=1)
        node = 2 * node + (value > threshold[node, tree])
    for k in tree:  # one after the other, as rounding depends on the order
        length += path[node[:, k] - shape[1], k]
    expected = [math.pow(2.0, x) for x in length * detector.model_.scale[0]]
    assert np.array(expected).tobytes() == detector.score(evidence).tobytes()


def test_a_row_scores_the_same_alone_and_among_others(trained: Trained) -> None:
    evidence = exponential(50)[:, :N_FACTORS]
    alone = [trained[0].score(row[None])[0] for row in evidence]
    assert np.array(alone).tobytes() == trained[0].score(evidence).tobytes()


def test_the_same_signals_and_seed_give_the_same_detector() -> None:
    one, other, third = (Detector(20, 64, seed).fit(exponential(500)) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(one.model_, other.model_, strict=True))
    assert one.score_quantiles_.tobytes() == other.score_quantiles_.tobytes()
    assert not np.array_equal(one.trees_.threshold, third.trees_.threshold)


def test_the_path_length_of_liu() -> None:
    n = np.array([1, 2, 3, 256, 4096])
    harmonic = [sum(1 / i for i in range(1, k)) for k in n]
    expected = [
        0.0 if k == 1 else 2 * h - 2 * (k - 1) / k for k, h in zip(n, harmonic, strict=True)
    ]
    np.testing.assert_allclose(average_path_length(n)[3:], expected[3:], rtol=1e-3)
    assert average_path_length(n)[:2].tolist() == expected[:2]


# --- contributions -------------------------------------------------------------------------------


def shapley(detector: Detector, evidence: Floats) -> Floats:
    """Mean marginal worth of each factor over all orders of arrival."""
    orders = list(itertools.permutations(range(N_FACTORS)))
    out = np.zeros(N_FACTORS)
    for order in orders:
        part = np.zeros((1, N_FACTORS))
        worth = detector.score(part)[0]
        for f in order:
            part[0, f] = evidence[f]
            out[f] += (after := detector.score(part)[0]) - worth
            worth = after
    return out / len(orders)


@pytest.fixture(scope="module")
def some_evidence(trained: Trained, payments: tuple[pd.DataFrame, pd.DataFrame]) -> Floats:
    signals = Scorer().run(payments[0].iloc[:4000], signals=True).signals
    made = exponential(1000)[:, :N_FACTORS] * np.random.default_rng(1).integers(
        0, 2, (1000, N_FACTORS)
    )
    return np.concatenate([trained[0].weigh(signals)[1], made, at_thresholds(trained[0])[:500]])


def test_contributions_sum_to_the_score_above_base(trained: Trained, some_evidence: Floats) -> None:
    detector = trained[0]
    total = detector.contributions(some_evidence).sum(axis=1)
    expected = detector.score(some_evidence) - detector.base_
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12)


def test_contributions_are_shapley_values(trained: Trained, some_evidence: Floats) -> None:
    rows = some_evidence[:: len(some_evidence) // 40]
    expected = [shapley(trained[0], row) for row in rows]
    np.testing.assert_allclose(trained[0].contributions(rows), expected, rtol=0, atol=1e-12)


def test_a_score_that_is_known_changes_no_contribution(
    trained: Trained, some_evidence: Floats
) -> None:
    known = trained[0].contributions(some_evidence, trained[0].score(some_evidence))
    assert known.tobytes() == trained[0].contributions(some_evidence).tobytes()


def test_a_factor_without_evidence_contributes_exactly_nothing(
    trained: Trained, some_evidence: Floats
) -> None:
    contributions = trained[0].contributions(some_evidence)
    assert (contributions[some_evidence == 0] == 0).all()
    assert (some_evidence == 0).any(axis=0).all()
    nothing = np.zeros((1, N_FACTORS))
    assert trained[0].score(nothing)[0] == trained[0].base_


def test_factors_that_never_differ_in_worth_share_alike() -> None:
    signals = np.zeros((200, N_SIGNALS))
    detector = Detector(10, 64).fit(signals)
    assert (detector.contributions(np.full((1, N_FACTORS), 3.0)) == 0).all()


# --- recalibration and weights -------------------------------------------------------------------


def strength_of(detector: Detector, j: int, values: Floats) -> Floats:
    """Strength of a factor when signal `j` alone says something."""
    signals = np.zeros((len(values), N_SIGNALS))
    signals[:, j] = values
    return detector.weigh(signals)[0][:, SIGNAL_FACTOR[j]]


def test_the_strength_of_a_quantile_is_the_surprise_of_its_tail() -> None:
    rng = np.random.default_rng(0)
    signals = exponential(20_000)
    signals[:, 1] = signals[:, 1] ** 2
    signals[:, TRAVEL] = rng.random(20_000)
    signals[:, 5] = np.where(rng.random(20_000) < 0.5, 0, signals[:, 5])
    detector = Detector(1, 8).fit(signals)
    levels = np.array([0.6, 0.8, 0.9, 0.95, BULK])
    for j in set(range(N_SIGNALS)) - {SWARM}:
        values = np.quantile(signals[:, j], levels)
        np.testing.assert_allclose(
            strength_of(detector, j, values), -np.log(1 - levels), rtol=0.06, err_msg=SIGNALS[j]
        )


def test_beyond_the_bulk_the_tail_is_the_one_that_the_bulk_predicts() -> None:
    detector = Detector(1, 8).fit(exponential(50_000) * 3.0)
    nats = np.array([5.0, 10.0, 40.0, 1000.0])
    for j in set(range(N_SIGNALS)) - {SWARM}:
        np.testing.assert_allclose(strength_of(detector, j, nats * 3.0), nats, rtol=0.1)


def test_beyond_the_knee_the_tails_of_all_factors_are_of_one_length() -> None:
    rng = np.random.default_rng(3)
    signals = exponential(40_000)
    travel = SIGNALS.index("travel_speed")
    signals[:, travel] = rng.exponential(size=40_000) ** 1.7  # a tail far beyond its bulk
    strength, _ = Detector(1, 8).fit(signals).weigh(signals)
    ends = []
    for f in (FACTORS.index("amount"), FACTORS.index("travel")):
        beyond = strength[strength[:, f] > KNEE, f] - KNEE
        ends.append(np.quantile(beyond, 0.75))
    assert ends[0] == pytest.approx(ends[1], rel=0.2)


def test_a_few_frauds_among_the_rarest_rows_do_not_shrink_their_own_tail() -> None:
    signals = exponential(20_000)
    clean = Detector(1, 8).fit(signals)
    travel = SIGNALS.index("travel_speed")
    signals[:40, travel] = 60.0  # one of five hundred
    mixed = Detector(1, 8).fit(signals)
    probe = np.zeros((1, N_SIGNALS))
    probe[0, travel] = 60.0
    f = FACTORS.index("travel")
    assert mixed.weigh(probe)[0][0, f] > 0.6 * clean.weigh(probe)[0][0, f]


def test_the_scale_of_a_signal_does_not_matter_unless_it_calibrates_itself() -> None:
    signals, grid = exponential(3000), np.linspace(0, 30, 100)
    one, other = Detector(1, 8).fit(signals), Detector(1, 8).fit(signals * 7)
    for j in set(range(N_SIGNALS)) - {SWARM}:
        np.testing.assert_allclose(
            strength_of(one, j, grid), strength_of(other, j, grid * 7), rtol=1e-9
        )
    assert strength_of(one, SWARM, grid).tobytes() == grid.tobytes()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([exponential, tied, half_constant, identical, zero, rarely_anything]),
    st.integers(0, 5),
    st.integers(0, N_SIGNALS - 1),
    st.lists(st.floats(0, 1e7), min_size=2, max_size=30).map(sorted),
)
def test_strength_and_evidence_never_fall_when_a_signal_rises(
    make: object, seed: int, j: int, values: list[float]
) -> None:
    detector = Detector(1, 8).fit(make(400, seed))  # type: ignore[operator]
    rows = np.repeat(exponential(1, seed), len(values), axis=0)
    rows[:, j] = values
    for nats in detector.weigh(rows):
        assert np.isfinite(nats).all()
        assert (nats >= 0).all()
        assert (np.diff(nats, axis=0) >= 0).all()


def test_evidence_is_never_above_strength_and_the_largest_of_its_signals(
    trained: Trained, payments: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    signals = Scorer().run(payments[0].iloc[:5000], signals=True).signals
    strength, evidence = trained[0].weigh(signals)
    assert (evidence <= strength).all()
    spread = trained[0].spread(signals)
    for f in range(N_FACTORS):
        own = [j for j in range(N_SIGNALS) if SIGNAL_FACTOR[j] == f]
        assert (spread[:, own].max(axis=1) == evidence[:, f]).all()


def test_a_silent_signal_counts_about_as_it_is_once_it_speaks() -> None:
    detector = Detector(1, 8).fit(zero(500))
    values = np.array([0.0, 2.0, 5.0, 50.0])
    for j in set(range(N_SIGNALS)) - {SWARM}:
        nats = strength_of(detector, j, values)
        assert nats[0] == 0
        assert (nats <= values).all()
        assert (nats >= values - 1).all()


@pytest.mark.parametrize("share", [0.0003, 0.003, 0.01])
def test_noise_is_weighted_down_and_a_second_population_is_not(share: float) -> None:
    rng, n = np.random.default_rng(0), 40_000
    signals = exponential(n)
    bounded, plain = SIGNALS.index("hour_quiet"), SIGNALS.index("hour_customer")
    signals[:, bounded] = rng.random(n)
    contaminated = [SIGNALS.index("amount_customer"), TRAVEL]
    frauds = rng.random(n) < share
    signals[np.ix_(frauds, contaminated)] += 10 * rng.lognormal(size=(frauds.sum(), 2))
    weight = Detector(1, 8).fit(signals).model_.weight
    assert ((weight >= 0) & (weight <= 1)).all()
    assert weight[bounded] == 0
    assert weight[plain] < 0.8
    assert (weight[contaminated] == 1).all()


def test_a_signal_that_is_extreme_where_the_amount_is_counts_in_full() -> None:
    rng, n = np.random.default_rng(0), 40_000
    signals = np.zeros((n, N_SIGNALS))
    signals[:, [0, TRAVEL]] = rng.random((n, 2))
    alone = Detector(1, 8).fit(signals).model_.weight[TRAVEL]
    extreme = signals[:, 0] > 0.995
    signals[extreme, TRAVEL] = 0.9 + 0.1 * rng.random(extreme.sum())
    assert alone == 0
    assert Detector(1, 8).fit(signals).model_.weight[TRAVEL] == 1


@pytest.mark.parametrize("step", [1, -1])
def test_among_equal_amounts_the_place_of_a_row_says_nothing(step: int) -> None:
    signals = np.zeros((5000, N_SIGNALS))
    signals[:, TRAVEL] = np.sort(np.random.default_rng(0).random(5000))[::step]
    assert Detector(1, 8).fit(signals).model_.weight[TRAVEL] == 0


def test_what_lies_beyond_the_range_of_training_counts_in_full() -> None:
    signals = np.zeros((5000, N_SIGNALS))
    signals[:, TRAVEL] = np.random.default_rng(0).random(5000)
    detector = Detector(1, 8).fit(signals)
    probe = np.zeros((2, N_SIGNALS))
    probe[:, TRAVEL] = 2.0, 3.0
    strength, evidence = (nats[:, FACTORS.index("travel")] for nats in detector.weigh(probe))
    assert detector.model_.weight[TRAVEL] == 0
    assert strength[0] > evidence[0] > 0
    assert evidence[1] - evidence[0] == pytest.approx(strength[1] - strength[0])


# --- risk and thresholds -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [exponential, tied, half_constant, identical, zero, rarely_anything]
)
@pytest.mark.parametrize("n", [MIN_TRAIN, 333, 5000])
def test_at_most_the_share_asked_for_lies_above_a_threshold(make: object, n: int) -> None:
    signals = make(n, n)  # type: ignore[operator]
    detector = Detector(10, 64).fit(signals)
    score = detector.score(detector.weigh(signals)[1])
    for share in (0.9, 0.5, 0.1, 0.05, 0.01, 0.005, 0.0021, 0.001, 1e-4, 1e-6, 1e-9):
        assert (score > detector.threshold(share)).sum() <= n * share


def test_a_threshold_leaves_nearly_the_share_asked_for() -> None:
    signals = exponential(50_000)
    detector = Detector(30).fit(signals)
    score = detector.score(detector.weigh(signals)[1])
    for share in (0.5, 0.1, 0.01, 0.005):
        assert (score > detector.threshold(share)).mean() >= 0.95 * share


@pytest.mark.parametrize(
    "make", [exponential, tied, half_constant, identical, zero, rarely_anything]
)
def test_risk_is_a_percentage_that_never_falls_with_the_score(make: object) -> None:
    detector = Detector(10, 64).fit(make(1000, 1))  # type: ignore[operator]
    grid = np.sort(np.concatenate([np.linspace(0, 1, 2001), detector.score_quantiles_]))
    risk = detector.risk(grid)
    assert risk[0] == 0
    assert risk[-1] == 100
    assert (np.diff(risk) >= 0).all()


def test_risk_is_the_percentile_among_training_traffic() -> None:
    signals = exponential(20_000)
    detector = Detector(30).fit(signals)
    score = detector.score(detector.weigh(signals)[1])
    below = np.searchsorted(np.sort(score), score, side="left") / len(score)
    np.testing.assert_allclose(detector.risk(score), 100 * below, atol=2.5)
    top = score >= np.quantile(score, 0.99)
    np.testing.assert_allclose(detector.risk(score)[top], 100 * below[top], atol=0.1)


# --- hard data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, MIN_TRAIN - 1])
def test_too_few_transactions_are_not_enough(n: int) -> None:
    with pytest.raises(NotReady, match=f"{n} transactions are too few"):
        Detector().fit(exponential(n))


@pytest.mark.parametrize("make", [identical, zero, rarely_anything, half_constant])
@pytest.mark.parametrize("n", [MIN_TRAIN, 2000])
def test_traffic_that_is_all_the_same_is_no_crash(make: object, n: int) -> None:
    signals = make(n, 0)  # type: ignore[operator]
    detector = Detector(10, 64).fit(signals)
    for rows in (signals, exponential(50) * 100, np.zeros((3, N_SIGNALS))):
        strength, evidence = detector.weigh(rows)
        score = detector.score(evidence)
        for numbers in (strength, evidence, score, detector.contributions(evidence)):
            assert np.isfinite(numbers).all()
        assert ((score > 0) & (score < 1)).all()
        risk = detector.risk(score)
        assert ((risk >= 0) & (risk <= 100)).all()


def test_no_rows_are_no_crash(trained: Trained) -> None:
    nothing = np.zeros((0, N_SIGNALS))
    strength, evidence = trained[0].weigh(nothing)
    assert strength.shape == evidence.shape == (0, N_FACTORS)
    assert trained[0].score(evidence).shape == (0,)
    assert trained[0].risk(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("given_", "message"),
    [({"max_samples": 1}, "max_samples"), ({"max_samples": 5000}, "5000"), ({"n_trees": 0}, "0")],
)
def test_impossible_forests_are_refused(given_: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detector(**given_)


def test_a_forest_larger_than_the_traffic_takes_all_of_it() -> None:
    detector = Detector(5, 4096).fit(exponential(MIN_TRAIN))
    assert detector.forest_ is not None
    assert detector.forest_.max_samples_ == MIN_TRAIN


# --- on disk --------------------------------------------------------------------------------------


def test_a_loaded_detector_is_the_same_bit_for_bit(tmp_path: Path, some_evidence: Floats) -> None:
    detector = Detector(37, 100, 5).fit(exponential(2000))
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    assert loaded.forest_ is None
    assert (loaded.n_trees, loaded.max_samples, loaded.seed) == (37, 100, 5)
    assert loaded.base_ == detector.base_
    signals = exponential(300, 1) * 5
    for ask in (
        lambda d: d.weigh(signals)[0],
        lambda d: d.weigh(signals)[1],
        lambda d: d.spread(signals),
        lambda d: d.score(some_evidence),
        lambda d: d.contributions(some_evidence),
        lambda d: d.risk(d.score(some_evidence)),
        lambda d: np.array([d.threshold(s) for s in (0.1, 0.01)]),
    ):
        assert ask(loaded).tobytes() == ask(detector).tobytes()
    assert not list(tmp_path.glob("**/*.pkl"))


@pytest.fixture
def folder(tmp_path: Path, trained: Trained) -> Path:
    trained[0].save(tmp_path)
    return tmp_path


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("in_an_array", [False, True])
def test_a_pickle_is_refused_and_not_run(folder: Path, in_an_array: bool) -> None:
    sprung, path = folder / "sprung", folder / "detector.npz"
    if in_an_array:
        with np.load(path) as z:
            arrays = dict(z)
        np.savez(path, **arrays | {"curve": np.array([Trap(sprung)], object)})
    else:
        path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(NotReady, match="aegis run train"):
        Detector.load(folder)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["detector.npz", "detector.json"])
@pytest.mark.parametrize("keep", [None, 0, 1, 10, -1, -100])
def test_a_missing_or_truncated_file_is_refused(folder: Path, name: str, keep: int | None) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(whole[: keep if keep >= 0 else len(whole) * 9 // 10])
    with pytest.raises(NotReady, match="cannot be read"):
        Detector.load(folder)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("model")
    detector = Detector(3, 16).fit(exponential(100))
    detector.save(folder)
    path = folder / data.draw(st.sampled_from(["detector.npz", "detector.json"]))
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(whole))
    try:
        loaded = Detector.load(folder)
    except NotReady:
        return
    evidence = exponential(10)[:, :N_FACTORS]
    assert loaded.score(evidence).tobytes() == detector.score(evidence).tobytes()


@pytest.mark.parametrize("what", ["signals", "factors"])
def test_a_model_of_other_signals_is_refused(folder: Path, what: str) -> None:
    path = folder / "detector.json"
    parameters = json.loads(path.read_text())
    parameters[what] = ["other", *parameters[what][1:]]
    path.write_text(json.dumps(parameters))
    with pytest.raises(NotReady, match="other signals"):
        Detector.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"curve": np.zeros((N_SIGNALS, 10))},
        {"slope": np.zeros(N_SIGNALS - 1)},
        {"weight": np.zeros(N_SIGNALS, np.float32)},
        {"feature": np.zeros(4, np.int8)},
        {"shape": np.array([PADDED + 1, 2, 1])},
        {"shape": np.array([0, 0, 0])},
        {"shape": np.array([PADDED, 8])},
        {"score_quantiles": np.zeros(3)},
        {"surplus": np.zeros(3)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_model_of_another_layout_is_refused(
    folder: Path, change: dict[str, npt.NDArray[np.generic]]
) -> None:
    path = folder / "detector.npz"
    with np.load(path) as z:
        arrays = dict(z)
    np.savez(path, **arrays | change)
    with pytest.raises(NotReady, match="cannot be read"):
        Detector.load(folder)


def test_a_feature_that_does_not_exist_is_refused(folder: Path) -> None:
    path = folder / "detector.npz"
    with np.load(path) as z:
        arrays = dict(z)
    arrays["feature"][5] = N_FACTORS + 1
    np.savez(path, **arrays)
    with pytest.raises(NotReady, match="other features"):
        Detector.load(folder)


def test_scores_lie_between_nothing_and_certainty(trained: Trained) -> None:
    size = np.geomspace(1e-6, 1e9, 100)
    for direction in (np.ones(N_FACTORS), *np.eye(N_FACTORS)):
        score = trained[0].score(size[:, None] * direction)
        assert ((score > 0) & (score < 1)).all()
        assert score[-1] > trained[1].block_above
        assert score[-1] > 0.99 * score.max(), "trees are cut where the rows were, not in order"


@pytest.mark.parametrize("seed", range(3))
def test_no_evidence_at_all_is_the_least_suspicious(seed: int) -> None:
    detector = Detector(seed=seed).fit(exponential(4_000, seed))
    _, evidence = detector.weigh(exponential(4_000, seed + 10))
    assert detector.base_ <= detector.score(evidence).min()
    assert detector.contributions(evidence).sum(axis=1).min() >= 0
