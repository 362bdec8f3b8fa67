"""Drift: found soon, silent on quiet days, and of one mind however much traffic there was."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from aegis_core import config
from aegis_core.detection import history, registry, retention
from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, NotReady
from aegis_core.evaluation import drift
from aegis_core.evaluation.drift import DAY, MEASURES, Drift, Traffic, judge
from aegis_core.evaluation.drift.effects import dominance, effect, sample
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.runs import execution
from aegis_core.schema import FACTORS, Decision
from aegis_core.serving.engine import Engine
from aegis_core.store import Store, connect
from aegis_core.views import figures

DRIFTS = ("amounts", "category", "hours", "volume")
TODAY = pd.Timestamp("2026-03-30")
LOOK = {"size": 300, "seed": 3}


World = tuple[pd.DataFrame, np.ndarray, Detector, Policy]
ROOT = Path(__file__).parents[2]


def traffic(seed: int = 0, *, n: int = 1_000, days: int = 29, **today: float) -> Traffic:
    """Days of customers who vary as a normal distribution does; `today` moves the last day.

    `paid` multiplies, other columns add, `count` is the number of transactions, `alert` a share.
    """
    rng, frames = np.random.default_rng(seed), []
    for k in range(days):
        day = TODAY - (days - 1 - k) * DAY
        moves = today if day == TODAY else {}
        m = int(moves.get("count", n * (1 + 0.1 * (day.weekday() < 5)) * rng.normal(1, 0.02)))
        customer = rng.integers(0, n, m)
        frame = {
            "day": day,
            "customer_id": [f"c{c}" for c in customer],
            "merchant_id": [f"m{c}" for c in rng.integers(0, 40, m)],
            "category": [f"k{c}" for c in rng.integers(0, 5, m)],
            "paid": np.exp(rng.normal(3, 1, m)) * moves.get("paid", 1),
            **{f: rng.exponential(size=m) + moves.get(f, 0) for f in FACTORS},
            "score": rng.normal(0.4, 0.1, m) + moves.get("score", 0),
            "alert": rng.random(m) < moves.get("alert", 0.01),
        }
        frames.append(pd.DataFrame(frame))
    return Traffic(pd.concat(frames, ignore_index=True), "v1")


def alarms(found: Drift) -> list[str]:
    return [
        part or name for name, part in zip(found.alarms.measure, found.alarms.part, strict=True)
    ]


@pytest.fixture
def drifts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("drifts")


@pytest.fixture(scope="module")
def quiet() -> Drift:
    return judge(traffic(), TODAY, **LOOK)


# --- effects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.label)
def test_an_effect_changes_its_sign_with_the_order_and_is_zero_for_the_same(
    measure: object,
) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(50) < 0.3).astype(float), (rng.random(50) < 0.6).astype(float)
    assert effect(measure, a, b) == pytest.approx(-effect(measure, b, a))
    assert effect(measure, a, a) == pytest.approx(0, abs=1e-12)


def test_an_effect_knows_no_unit_and_does_not_grow_with_the_sample() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, 400), rng.normal(0, 1, 400)
    assert dominance(a, b) == dominance(np.exp(7 * a), np.exp(7 * b))
    assert dominance(np.repeat(a, 9), np.repeat(b, 9)) == pytest.approx(dominance(a, b))


def test_a_burst_of_one_customer_is_one_transaction_of_a_sample() -> None:
    rows = traffic(days=1).rows
    burst = rows.head(1).assign(paid=1e9, alert=True)
    many = pd.concat([rows, *([burst] * 5_000)])
    drawn = sample(many, many.customer_id.nunique(), 0)
    assert drawn is not None
    assert (drawn[:, 0] == 1e9).sum() <= 1
    assert sample(rows, rows.customer_id.nunique() + 1, 0) is None


# --- verdicts ------------------------------------------------------------------------------------


def test_days_like_the_others_are_quiet() -> None:
    found = [judge(traffic(seed), TODAY, **LOOK) for seed in range(8)]
    assert sum(len(d.alarms) > 0 for d in found) <= 1
    assert "no alarm" in found[0].summary() or found[0].alarms.size


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ({"paid": 2.0}, "amounts"),
        ({"paid": 0.5}, "amounts"),
        ({"travel": 0.5}, "travel"),
        ({"score": 0.06}, "score"),
        ({"alert": 0.12}, "alert_rate"),
        ({"count": 2_000}, "volume"),
        ({"count": 300}, "volume"),
    ],
    ids=str,
)
def test_what_moved_is_what_alarms(moves: dict[str, float], expected: str) -> None:
    found = judge(traffic(**moves), TODAY, **LOOK)
    assert alarms(found) == [expected]
    assert expected in found.summary() + found.foremost().label.replace(" ", "_")
    assert len(found.told()) == 1


def test_the_verdict_does_not_depend_on_how_much_traffic_there_was() -> None:
    """The same shift, in a shop and in one five times as large."""
    small, large = (judge(traffic(n=n, paid=1.6), TODAY, **LOOK) for n in (1_000, 5_000))
    assert small.size == large.size == LOOK["size"]
    assert alarms(small) == alarms(large) == ["amounts"]
    highs = [f.table.set_index("measure").high["amounts"] for f in (small, large)]
    assert highs[0] == pytest.approx(highs[1], rel=0.5)


def test_a_day_with_more_traffic_of_the_same_kind_moves_the_volume_alone() -> None:
    given = traffic().rows
    double = pd.concat([given, given[given.day == TODAY]], ignore_index=True)
    assert alarms(judge(Traffic(double), TODAY, **LOOK)) == ["volume"]


def test_the_order_of_rows_and_of_days_changes_nothing(quiet: Drift) -> None:
    rows = traffic().rows
    days = [part for _, part in rows.groupby("day")]
    again = judge(Traffic(pd.concat(days[::-1], ignore_index=True)), TODAY, **LOOK)
    pd.testing.assert_frame_equal(again.table, quiet.table)


def test_what_came_after_the_day_or_before_the_reference_weeks_changes_nothing(
    quiet: Drift,
) -> None:
    rows = traffic().rows
    others = [rows.assign(day=rows.day + 29 * DAY, paid=1e6), rows.assign(day=rows.day - 70 * DAY)]
    again = judge(Traffic(pd.concat([rows, *others], ignore_index=True)), TODAY, **LOOK)
    pd.testing.assert_frame_equal(again.table, quiet.table)


def test_one_odd_day_in_the_reference_hides_no_alarm() -> None:
    rows = traffic(paid=2.0).rows
    odd = rows.day == TODAY - 7 * DAY
    rows.loc[odd, "paid"] *= 2
    assert alarms(judge(Traffic(rows), TODAY, **LOOK)) == ["amounts"]


def test_a_day_is_an_alarm_only_if_it_matters() -> None:
    """However regular the past, an effect below the least one is none."""
    rows = pd.concat(
        [traffic(days=1).rows.assign(day=TODAY - k * DAY) for k in range(29)], ignore_index=True
    )
    found = judge(Traffic(rows), TODAY, **LOOK)
    assert (found.table.high >= [m.least for m in MEASURES]).all()
    assert alarms(found) == []


# --- too little ----------------------------------------------------------------------------------


def test_a_day_of_few_customers_is_judged_by_its_volume_alone() -> None:
    found = judge(traffic(n=40), TODAY, size=300)
    assert found.size == 0
    assert found.table.effect.notna().sum() == 1
    assert "customers" in found.notes[0]
    few = judge(traffic(count=100), TODAY, **LOOK)
    assert alarms(few) == ["volume"]
    assert "sample" in few.notes[0]


def test_the_volume_of_a_day_that_is_not_over_is_not_judged() -> None:
    found = judge(replace(traffic(count=450), over=False), TODAY, **LOOK)
    assert found.table.effect.isna().tolist() == [True, *[False] * 7]
    assert "not over" in found.notes[0]
    assert alarms(found) == []


def test_an_outage_is_found_as_a_volume() -> None:
    rows = traffic().rows
    found = judge(Traffic(rows[rows.day != TODAY]), TODAY, **LOOK)
    assert alarms(found) == ["volume"]
    assert found.table.value[0] == 0
    assert "0 transactions" in found.told()[0]
    assert found.movers().part.sum() < 0


def test_without_earlier_weeks_nothing_is_said() -> None:
    found = judge(traffic(days=10), TODAY, **LOOK)
    assert "Nothing can be said" in found.summary()
    assert "needs 2" in found.notes[0]
    assert not found.table.alarm.any()
    assert "no day" in found.explanation()
    for drawn in (
        figures.drift_effects(found.days, found.table),
        figures.drift_shapes(found.shapes()),
        figures.drift_movers(found.movers(), "amounts"),
    ):
        assert (
            drawn.layout.annotations[0].text
            == "There are no earlier weeks to hold the day against."
        )


@pytest.mark.parametrize("wrong", [{"size": 3}, {"quiet_days": 0.0}, {"weeks": 0}], ids=str)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="at least"):
        judge(traffic(days=1), TODAY, **wrong)


# --- who moved -----------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.label)
@pytest.mark.parametrize("by", drift.GROUPS)
def test_parts_add_up_to_the_movement(measure: object, by: str) -> None:
    rows = traffic(paid=2.0, n=1_500).rows
    rows.loc[::50, ["merchant_id", "category"]] = None
    found = judge(Traffic(rows), TODAY, **LOOK)
    total = found.moved(by, measure).part.sum()
    day, usual = rows[rows.day == TODAY], rows[rows.day.isin(found.reference)]
    if measure.name == "volume":
        assert total == pytest.approx(len(day) / (len(usual) / 4) - 1)
    elif measure.name == "alert_rate":
        assert total == pytest.approx(day.alert.mean() - usual.alert.mean())
    else:
        assert total == pytest.approx(dominance(day[measure.column], usual[measure.column]))


def test_the_one_merchant_that_moved_is_named() -> None:
    rows = traffic().rows
    rows.loc[(rows.day == TODAY) & (rows.merchant_id.isin(["m7", "m8", "m9"])), "merchant_id"] = (
        "<m7>"
    )
    rows.loc[(rows.day == TODAY) & (rows.merchant_id == "<m7>"), "travel"] += 50
    rows.loc[(rows.day == TODAY) & (rows.merchant_id == "m1"), "travel"] += 5
    found = judge(Traffic(rows), TODAY, **LOOK)
    assert found.foremost().part == "travel"
    assert found.moved("merchant").group[0] == "<m7>"
    assert "<m7>" in found.explanation()
    assert "<m7>" not in figures.drift_movers(found.movers(), "x").to_json()
    with pytest.raises(InputError, match="Did you mean merchant"):
        found.moved("merchants")


def test_figures_show_what_was_found() -> None:
    found = judge(traffic(paid=2.0), TODAY, **LOOK)
    drawn = figures.drift_effects(found.days, found.table)
    stars = [t.name for t in drawn.data if t.marker.symbol[-1] == "star"]
    assert len(stars) == len(found.alarms) == 1
    shapes = found.shapes()
    assert set(shapes.measure) == {
        m.label for m in MEASURES if m.name not in ("volume", "alert_rate")
    }
    assert (shapes.groupby("measure").today.diff().dropna() >= 0).all()
    assert len(figures.drift_shapes(shapes).data) == 12
    assert found.movers().groupby("by").size().max() <= 11


# --- synthetic drift -----------------------------------------------------------------------------


def test_amounts_a_fifth_higher_are_found_within_two_days(world: World, drifts: ModuleType) -> None:
    frame, fraud, detector, policy = world
    since = frame.ts.min().normalize() + 42 * DAY
    changed = drifts.drifted(frame, fraud, since, "amounts", 1.2)
    before, after = (replayed(f, detector, policy) for f in (frame, changed))
    days = [since, since + DAY]
    assert [alarms(judge(before, day, size=900)) for day in days] == [[], []]
    assert any("amount" in alarms(judge(after, day, size=900)) for day in days)


@pytest.mark.parametrize("kind", DRIFTS)
def test_drift_changes_the_ordinary_from_its_day_on_and_nothing_else(
    kind: str, world: World, drifts: ModuleType
) -> None:
    frame, fraud, *_ = world
    since = frame.ts.min().normalize() + 50 * DAY
    factor = {"hours": 5.0, "volume": 0.5}.get(kind, 2.0)
    changed = drifts.drifted(frame, fraud, since, kind, factor)
    both = frame.merge(changed, on="transaction_id", suffixes=("", "_now"))
    spared = both[(both.ts < since) | both.transaction_id.isin(frame.transaction_id[fraud])]
    assert (spared.ts == spared.ts_now).all()
    assert (spared.amount == spared.amount_now).all()
    assert len(spared) == ((frame.ts < since) | fraud).sum()
    assert (both.ts.dt.normalize() == both.ts_now.dt.normalize()).all()
    assert changed.ts.is_monotonic_increasing
    moved = len(frame) - len(both) + (both.amount != both.amount_now).sum()
    assert moved + (both.ts != both.ts_now).sum() > 1_000
    assert set(DRIFTS) == set(drifts.DRIFTS)


@pytest.mark.parametrize(("kind", "factor"), [("amount", 1.2), ("volume", 2.0), ("hours", -1.0)])
def test_a_drift_that_is_none_is_refused(
    kind: str, factor: float, world: World, drifts: ModuleType
) -> None:
    with pytest.raises(InputError):
        drifts.drifted(world[0], world[1], TODAY, kind, factor)


@pytest.fixture(scope="module")
def world() -> World:
    """60 days of 2,000 customers, and a model of the first 20.

    Without crowds: a sale is a twentieth of such a day, and its amounts a day that was unusual.
    """
    from aegis_core.intake.synthetic import generate
    from aegis_core.intake.synthetic.scenarios import CROWDS, DEFAULT_RATES

    rates = {name: rate for name, rate in DEFAULT_RATES.items() if name not in CROWDS}
    settings = SyntheticConfig(120_000, 2_000, days=60, seed=4, rates=rates)
    (frame, labels), *_ = generate(settings, chunk_rows=10**6)
    history = frame.to_pandas().assign(seq=range(len(frame)))
    signals = Scorer().run(history.head(40_000), signals=True).signals
    detector = Detector(40).fit(signals)
    return history, labels["is_fraud"].to_numpy(), detector, Policy.from_budget(detector)


def replayed(frame: pd.DataFrame, detector: Detector, policy: Policy) -> Traffic:
    scored = Scorer(detector, policy).run(frame)
    columns = {c: frame[c] for c in ("customer_id", "merchant_id", "category")}
    evidence = {f: scored.evidence[:, i] for i, f in enumerate(FACTORS)}
    verdict = {"score": scored.score, "alert": scored.decision != Decision.APPROVE}
    days = {"day": frame.ts.dt.normalize(), "paid": frame.amount}
    return Traffic(pd.DataFrame({**days, **columns, **evidence, **verdict}))


# --- of a database -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, config.Settings]:
    """35 days of history, a champion, and two more days that it scored live."""
    from aegis_core.detection.training import Recipe, train
    from aegis_core.intake.synthetic import stream

    settings = config.load(home=tmp_path_factory.mktemp("drift"))
    store = connect(settings.db)
    made = SyntheticConfig(n_transactions=14_000, n_customers=300, days=35)
    write_history(store, made, progress=False)
    train(store, settings, Recipe(n_trees=20))
    with Engine.open(store, settings) as engine:
        for rows, _ in stream(made, 800, chunk_rows=800):
            engine.take(rows, "test")
    return store, settings


def test_live_verdicts_and_a_replay_give_the_same_traffic(
    scored: tuple[Store, config.Settings],
) -> None:
    store, settings = scored
    day = pd.Timestamp("2026-02-05")
    mixed = drift.observe(store, settings, day)
    assert 0 < mixed.replayed < len(mixed.rows)
    live = mixed.rows.day >= day
    assert live.sum() + mixed.replayed == len(mixed.rows)
    past = history.transactions(store)
    champion = registry.champion(store, settings)
    again = Scorer(champion.model, champion.policy).run(past, recorded=history.recorded(past))
    kept = past.ts.between(day - 28 * DAY, day + DAY, inclusive="left").to_numpy()
    np.testing.assert_array_equal(mixed.rows[list(FACTORS)], again.evidence[kept])
    np.testing.assert_array_equal(mixed.rows.score, again.score[kept])
    np.testing.assert_array_equal(mixed.rows.alert, again.decision[kept] != Decision.APPROVE)
    assert f"{mixed.replayed:,} replayed" in mixed.told()
    assert mixed.over
    newest = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"]
    assert not drift.observe(store, settings, pd.Timestamp(newest).normalize() + DAY, 1).over


def test_forgetting_what_lies_before_the_weeks_changes_no_evidence(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path)
    store = connect(settings.db)
    write_history(store, SyntheticConfig(4_000, 60, 30, days=160), progress=False)
    train(store, settings, Recipe(n_trees=10, max_samples=64))
    before = drift.observe(store, settings, drift.day_of(store, ""), 2)
    retention.forget(store, retention.plan(store, 90.0), who="anna")
    assert store.rows("SELECT min(seq) AS first FROM transactions")[0]["first"] > 500
    after = drift.observe(store, settings, drift.day_of(store, ""), 2)
    pd.testing.assert_frame_equal(after.rows, before.rows)
    assert after.replayed == len(after.rows) > 300


def test_the_newest_day_that_is_over_is_judged(scored: tuple[Store, config.Settings]) -> None:
    store, _ = scored
    newest = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"]
    over = newest.hour == 23
    assert drift.day_of(store, "") == pd.Timestamp(newest).normalize() - int(not over) * DAY
    assert drift.day_of(store, "2026-02-03") == pd.Timestamp("2026-02-03")
    for wrong in ("soon", "2026-02-30", "2026-02-03 10:00", "NaT"):
        with pytest.raises(InputError, match="day must be a day"):
            drift.day_of(store, wrong)


def test_a_clock_that_jumped_does_not_choose_the_day(tmp_path: Path) -> None:
    store = connect(tmp_path / "a.duckdb")
    times = [TODAY + DAY * (i // 200) + pd.Timedelta(minutes=7 * (i % 200)) for i in range(600)]
    rows = [f"({i}, 't{i}', 'c', '{ts}', 9)" for i, ts in enumerate(times)]
    with store.writing() as session:
        session.execute("INSERT INTO meta VALUES ('x', 'y')")
    with pytest.raises(NotReady, match="no transactions"):
        drift.day_of(store, "")
    with store.writing() as session:
        columns = "(seq, transaction_id, customer_id, ts, amount)"
        session.execute(f"INSERT INTO transactions {columns} VALUES {', '.join(rows)}")
        session.execute(
            f"INSERT INTO transactions {columns} VALUES (600, 'late', 'c', '2099-01-01', 9)"
        )
    assert drift.day_of(store, "") == TODAY + 2 * DAY


def test_what_a_run_found_is_kept_once_and_missing_figures_are_null(store: Store) -> None:
    found = judge(traffic(n=40), TODAY, size=300)
    with store.writing():
        execution.record(store, "", drift=found.rows())
        execution.record(store, "r1", drift=found.rows())
        execution.record(store, "r1", drift=found.rows())
        later = replace(found, day=TODAY + DAY)
        execution.record(store, "r2", drift=later.rows())
    assert store.rows("SELECT run_id, count(*) AS n, count(effect) AS k FROM drift GROUP BY 1") == [
        {"run_id": "r1", "n": 8, "k": 1},
        {"run_id": "r2", "n": 8, "k": 1},
    ]


def test_a_model_that_is_not_there_and_weeks_out_of_range_are_refused(
    scored: tuple[Store, config.Settings],
) -> None:
    store, settings = scored
    with pytest.raises(InputError, match="no model"):
        drift.observe(store, settings, TODAY, model="none")
    with pytest.raises(InputError, match="weeks"):
        drift.observe(store, settings, TODAY, 0)
