"""Training and the register of models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from aegis_core import config, store
from aegis_core.config import Settings
from aegis_core.detection import registry
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, NotReady
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.schema import Decision
from aegis_core.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(home=tmp_path / "home")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a history, to be copied."""
    home = tmp_path_factory.mktemp("written")
    some = SyntheticConfig(n_transactions=4_000, n_customers=60, days=20)
    write_history(store.connect(config.load(home=home).db), some, progress=False)
    return home


@pytest.fixture(scope="module")
def forests(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three forests, the last one champion, to be copied."""
    home = tmp_path_factory.mktemp("forests") / "home"
    settings = config.load(home=shutil.copytree(written, home))
    for _ in range(3):
        train(store.connect(settings.db), settings, Recipe(n_trees=10, max_samples=64))
    return home


@pytest.fixture
def db(written: Path, settings: Settings) -> Store:
    shutil.copytree(written, settings.home)
    return store.connect(settings.db)


def test_the_model_trained_last_is_champion(db: Store, settings: Settings) -> None:
    first = train(db, settings)
    second = train(db, settings.model_copy(update={"alert_budget": 0.02}))
    assert first.version != second.version
    champion = registry.champion(db, settings)
    assert champion.version == second.version
    assert champion.policy == second.policy
    row = db.rows("SELECT * FROM models WHERE version = ?", [second.version])[0]
    assert row["n_train"] == len(second.window)
    assert row["data_hash"] == first.data_hash
    assert not Path(row["path"]).is_absolute()


def test_training_keeps_to_its_window(db: Store, settings: Settings) -> None:
    training = train(db, settings, Recipe(train_from="2026-01-05", train_days=3))
    assert training.window.ts.min() >= pd.Timestamp("2026-01-05")
    assert training.window.ts.max() < pd.Timestamp("2026-01-08")
    expected = db.rows(
        "SELECT count(*) AS n FROM transactions WHERE ts >= '2026-01-05' AND ts < '2026-01-08'"
    )
    assert len(training.window) == len(training.signals) == expected[0]["n"]


def test_later_history_does_not_change_a_model(db: Store, settings: Settings) -> None:
    window = Recipe(train_from="2026-01-05", train_days=5)
    before = train(db, settings, window)
    with db.writing() as session:
        session.execute("DELETE FROM transactions WHERE ts >= '2026-01-12'")
    after = train(db, settings, window)
    pd.testing.assert_frame_equal(before.window, after.window, check_exact=True)
    assert before.policy == after.policy


def test_labels_do_not_reach_a_detector(db: Store, settings: Settings) -> None:
    before = train(db, settings)
    with db.writing() as session:
        session.execute("UPDATE labels SET is_fraud = NOT is_fraud")
    after = train(db, settings)
    pd.testing.assert_frame_equal(before.window, after.window, check_exact=True)


def test_the_budget_is_kept_in_the_training_window(db: Store, settings: Settings) -> None:
    training = train(db, settings.model_copy(update={"alert_budget": 0.01, "block_share": 0.5}))
    alerts = (training.window.decision != Decision.APPROVE).mean()
    blocks = (training.window.decision == Decision.BLOCK).mean()
    assert 0 < alerts <= 0.01
    assert 0 < blocks <= 0.005
    forecast = training.forecast()
    assert forecast.loc["alerts", "low"] <= forecast.loc["alerts", "mean"]
    assert forecast.loc["alerts", "mean"] <= forecast.loc["alerts", "high"]


def test_training_without_transactions_says_what_to_do(settings: Settings) -> None:
    db = store.connect(settings.db)
    with db.writing():
        pass
    with pytest.raises(NotReady, match="aegis run generate"):
        train(db, settings)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"train_from": "soon"}, InputError),
        ({"train_days": 0}, InputError),
        ({"train_from": "2031-01-01"}, NotReady),
        ({"max_samples": 1}, InputError),
    ],
)
def test_a_training_that_cannot_be_is_refused(
    db: Store, settings: Settings, wrong: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(db, settings, Recipe(**wrong))  # type: ignore[arg-type]
    with pytest.raises(InputError):
        train(db, settings.model_copy(update={"alert_budget": 1.5}))
    assert db.rows("SELECT count(*) AS n FROM models")[0]["n"] == 0


def test_a_broken_champion_says_what_to_do(db: Store, settings: Settings) -> None:
    version = train(db, settings).version
    for file in (settings.models / version).iterdir():
        whole = file.read_bytes()
        for left in (whole[: len(whole) // 2], None):
            file.unlink() if left is None else file.write_bytes(left)
            with pytest.raises(NotReady, match=r"aegis run train|Train"):
                registry.champion(db, settings)
        file.write_bytes(whole)
    assert registry.champion(db, settings).version == version


def test_a_model_outside_of_home_is_found_again(db: Store, tmp_path: Path) -> None:
    settings = config.load(
        home=tmp_path / "a", db=db.path, models=tmp_path / "elsewhere" / "models"
    )
    version = train(db, settings).version
    other = config.load(home=tmp_path / "b", db=db.path)
    assert registry.champion(db, other).version == version


def test_one_clock_that_jumped_does_not_empty_the_window(db: Store, settings: Settings) -> None:
    with db.writing() as session:
        session.execute("UPDATE transactions SET ts = '2099-01-01' WHERE seq = 2000")
    training = train(db, settings, Recipe(train_days=5))
    assert training.train_to < pd.Timestamp("2026-02-01")
    assert len(training.window) > 500


# ---- roles


@pytest.fixture
def three(forests: Path, db: Store, settings: Settings) -> list[str]:
    """Three forests; the last one is champion."""
    shutil.copytree(forests, settings.home, dirs_exist_ok=True)
    return [row["v"] for row in db.rows("SELECT version AS v FROM models ORDER BY created_at")]


def test_promoting_and_rolling_back_name_the_champion(
    db: Store, settings: Settings, three: list[str]
) -> None:
    first, second, third = three
    assert registry.roles(db) == (third, ())
    assert "the champion now" in registry.promote(db, settings, first, who="anna")
    assert registry.champion(db, settings).version == first
    assert registry.rollback(db, settings, who="ben") == third
    assert registry.rollback(db, settings, who="ben") == second  # twice goes back twice
    assert registry.rollback(db, settings, who="ben") == first
    with pytest.raises(InputError, match="no champion before"):
        registry.rollback(db, settings, who="ben")
    assert registry.roles(db) == (first, ())
    log = db.rows("SELECT who, role FROM promotions ORDER BY rowid")
    assert [row["who"] for row in log] == ["train"] * 3 + ["anna"] + ["ben"] * 3
    assert [row["role"] for row in log] == ["champion"] * 4 + ["rollback"] * 3


def test_a_new_shadow_takes_the_place_of_the_old_one_of_its_kind(
    db: Store, settings: Settings, three: list[str]
) -> None:
    first, second, third = three
    registry.promote(db, settings, first, who="anna", role="shadow")
    registry.promote(db, settings, second, who="anna", role="shadow")
    assert registry.roles(db) == (third, (second,))
    registry.promote(db, settings, second, who="anna")
    assert registry.roles(db) == (second, ())
    registry.promote(db, settings, third, who="anna", role="shadow")
    registry.promote(db, settings, third, who="anna", role="none")
    assert registry.roles(db) == (second, ())
    assert registry.listed(db).set_index("version").role.to_dict() == {
        **{first: "none", third: "none"},
        second: "champion",
    }


def test_a_role_that_cannot_be_is_refused(db: Store, settings: Settings, three: list[str]) -> None:
    for version, role, told in (
        ("unknown", "champion", "no model"),
        (three[0], "king", "no role"),
        (three[2], "shadow", "another one first"),
        (three[2], "none", "another one first"),
    ):
        with pytest.raises(InputError, match=told):
            registry.promote(db, settings, version, who="anna", role=role)
    with pytest.raises(InputError, match="who"):
        registry.promote(db, settings, three[0], who=" ")
    with pytest.raises(InputError, match="who"):
        registry.rollback(db, settings, who=" ")
    assert registry.promote(db, settings, three[2], who="anna").endswith("already.")
    assert registry.roles(db) == (three[2], ())


def test_a_clock_that_was_turned_back_does_not_keep_a_model_from_its_place(
    db: Store, settings: Settings, three: list[str]
) -> None:
    first, second, third = three
    with db.writing() as session:  # promoted before the clock was turned back a year
        for table in ("models", "promotions"):
            session.execute(f"UPDATE {table} SET promoted_at = promoted_at + to_years(1)")
    assert "the champion now" in registry.promote(db, settings, first, who="anna")
    assert registry.roles(db)[0] == first
    registry.promote(db, settings, second, who="anna", role="shadow")
    assert registry.rollback(db, settings, who="ben") == third
    assert registry.roles(db) == (third, (second,))
    assert registry.rollback(db, settings, who="ben") == second
    assert registry.roles(db) == (second, ())
    latest = train(db, settings, Recipe(n_trees=10, max_samples=64)).version
    assert registry.roles(db)[0] == latest
    times = [
        row["at"] for row in db.rows("SELECT promoted_at AS at FROM promotions ORDER BY rowid")
    ]
    assert times == sorted(set(times))


@pytest.mark.parametrize("harm", ["gone", "broken", "without its policy"])
def test_a_model_whose_files_do_not_load_gets_no_place(
    db: Store, settings: Settings, three: list[str], harm: str
) -> None:
    folder = settings.models / three[1]
    if harm == "gone":
        shutil.rmtree(folder)
    elif harm == "broken":
        (folder / "detector.npz").write_bytes(b"PK")
    else:
        (folder / "policy.json").unlink()
    before = db.rows("SELECT * FROM promotions")
    for role in ("champion", "shadow"):
        with pytest.raises(NotReady, match=f"{three[1]} cannot score, so nothing was changed"):
            registry.promote(db, settings, three[1], who="anna", role=role)
    with pytest.raises(NotReady, match="promote another model"):
        registry.rollback(db, settings, who="anna")
    assert registry.roles(db) == (three[2], ())
    assert db.rows("SELECT * FROM promotions") == before
    assert "steps down" in registry.promote(db, settings, three[1], who="anna", role="none")
    registry.promote(db, settings, three[0], who="anna")
    assert registry.rollback(db, settings, who="anna") == three[2]


# ---- a learner


def test_a_learner_goes_into_shadow_and_a_promoted_one_is_not_replaced_by_a_forest(
    settings: Settings,
) -> None:
    db = store.connect(settings.db)
    some = SyntheticConfig(n_transactions=12_000, n_customers=150, days=30)
    write_history(db, some, progress=False)
    forest = train(db, settings)
    learner = train(db, settings, Recipe(detector="learner"))
    assert registry.roles(db) == (forest.version, (learner.version,))
    assert learner.role == "shadow"
    assert "confirmed fraud" in learner.taught()
    assert learner.window.ts.min() >= learner.train_to  # thresholds from the days after
    assert (learner.window.decision > 0).mean() <= learner.policy.alert_budget
    loaded = registry.load(db, learner.version, settings)
    assert type(loaded.model) is type(learner.model)
    registry.promote(db, settings, learner.version, who="anna")
    later = train(db, settings)
    assert registry.roles(db) == (learner.version, (later.version,))


def test_a_learner_without_enough_confirmed_frauds_is_refused(
    db: Store, settings: Settings
) -> None:
    with db.writing() as session:
        session.execute("UPDATE labels SET known_at = '2100-01-01'")
    with pytest.raises(NotReady, match="0 frauds of the window"):
        train(db, settings, Recipe(detector="learner"))
    assert registry.listed(db).empty


def test_a_budget_can_be_a_number_of_alerts_a_day(db: Store, settings: Settings) -> None:
    training = train(db, settings, Recipe(alerts_per_day=4))
    alerts = training.forecast().loc["alerts"]
    assert 2 < alerts["mean"] <= 4.3
    assert alerts["low"] <= alerts["mean"] <= alerts["high"]
