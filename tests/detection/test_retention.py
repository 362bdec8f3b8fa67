"""Retention: what is left is a history like any other, and knows what was forgotten."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aegis_core import config
from aegis_core.config import Settings
from aegis_core.detection import history
from aegis_core.detection.learner import Learner
from aegis_core.detection.retention import forget, plan
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, NotReady, StoreBusy, StoreError
from aegis_core.evaluation.parity import parity
from aegis_core.features import checkpoint
from aegis_core.features.signals import State
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.review.answers import answer
from aegis_core.schema import TABLES
from aegis_core.serving.engine import Engine
from aegis_core.store import Store, audit, connect
from aegis_core.store.gate import Limits

SOME = SyntheticConfig(n_transactions=500, n_customers=20, days=25, label_delay_days=3)
ANSWERED = (750, 900, 1_000, 3_500)
"""Places of transactions that are answered long after they came; the last one stays."""


def batch(store: Store, n: int) -> tuple[pa.Table, pa.Table]:
    """The next `n` transactions and their labels."""
    last = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"]
    rows, labels = zip(*stream(SOME, n, after=last, fraud_multiplier=10), strict=True)
    return pa.concat_tables(rows), pa.concat_tables(labels)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 200 days, most of them scored live, the later ones by a learner."""
    home = tmp_path_factory.mktemp("long")
    settings = config.load(home=home, audit_share=0.0)
    store = connect(settings.db)
    write_history(store, SOME, progress=False)
    small = Recipe(n_trees=10, max_samples=64)
    wide = settings.model_copy(update={"alert_budget": 0.02})
    train(store, wide, small)

    def live(*counts: int) -> None:
        with Engine.open(store, settings) as engine:
            for n in counts:
                engine.take(*_arranged(batch(store, n)))

    live(450, 300)
    train(store, wide, replace(small, detector="learner", role="champion"))
    live(750, 1_750, 150)
    for at in ANSWERED:
        (row,) = store.rows("SELECT transaction_id AS id FROM transactions WHERE seq = ?", [at])
        answer(store, row["id"], "fraud", analyst="anna")
    live(150)
    with store.writing() as session:
        session.execute("INSERT INTO rejected VALUES ('2020-01-01', 'f', 'old', 'bad')")
        session.execute("INSERT INTO rejected VALUES ('2031-01-01', 'f', 'new', 'bad')")
    return home


def _arranged(given: tuple[pa.Table, pa.Table]) -> tuple[pa.Table, str, pa.Table]:
    return given[0], "test", given[1]


@pytest.fixture
def settings(made: Path, tmp_path: Path) -> Settings:
    shutil.copytree(made, tmp_path / "home")
    return config.load(home=tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Store:
    return connect(settings.db)


def counts(store: Store) -> dict[str, int]:
    return {
        name: store.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"]
        for name in TABLES
        if name not in ("carried", "audit", "remains")
    }


def pairs_of(state: State) -> dict[int, bytes]:
    used = np.flatnonzero(state.pair_keys >= 0)
    return {int(state.pair_keys[i]): state.pairs[i].tobytes() for i in used}


def same_state(one: Engine, other: Engine) -> None:
    ours, yours = one.state.scorer.profiles.state, other.state.scorer.profiles.state
    for name in ("customers", "sums", "published"):
        a, b = getattr(ours, name), getattr(yours, name)
        assert a[: len(b)].tobytes() == b[: len(a)].tobytes()
    # where a pair stands depends on the room there is, and that on how many rows came at once
    assert pairs_of(ours) == pairs_of(yours)
    mine, theirs = one.state.scorer.confirmed, other.state.scorer.confirmed
    assert mine is not None
    assert theirs is not None
    assert mine.merchant_codes == theirs.merchant_codes
    assert mine.customer_codes == theirs.customer_codes
    for table in ("merchants", "customers"):  # one of them may have more room
        a, b = getattr(mine.memory, table), getattr(theirs.memory, table)
        assert np.array_equal(a[: len(b)], b[: len(a)])


def test_what_is_left_replays_bit_for_bit_and_goes_on_as_if_nothing_was_missing(
    store: Store, settings: Settings, made: Path
) -> None:
    whole = config.load(home=made)
    before = parity(store, settings)
    assert (before.different, before.checked > 3_000) == (0, True)
    planned = plan(store, 120)
    assert 0 < planned.rows["verdicts"] < planned.rows["transactions"]
    told = forget(store, planned, who="anna")
    assert f"{planned.rows['transactions']:,} transactions" in told
    left = parity(store, settings)
    assert left.different == 0
    assert left.checked == before.checked - planned.rows["verdicts"]
    shutil.copy(whole.db, untouched := settings.db.with_name("whole.duckdb"))
    other = connect(untouched)
    rows, labels = batch(other, 300)
    with Engine.open(store, settings) as one, Engine.open(other, settings) as two:
        same_state(one, two)
        ours, theirs = (engine.take(rows, "test", labels) for engine in (one, two))
    pd.testing.assert_frame_equal(
        ours.drop(columns="scored_at"), theirs.drop(columns="scored_at"), check_exact=True
    )
    assert parity(store, settings).different == 0
    again = plan(store, 95)  # the state that was kept goes into the next
    assert again.rows["transactions"] > 0
    forget(store, again, who="anna")
    assert parity(store, settings).different == 0
    with Engine.open(store, settings) as one, Engine.open(other, settings) as two:
        same_state(one, two)


def test_a_learner_trained_on_what_is_left_is_the_one_that_the_whole_history_makes(
    store: Store, settings: Settings, made: Path, tmp_path: Path
) -> None:
    forget(store, plan(store, 120), who="anna")
    shutil.copytree(made, tmp_path / "whole")
    whole = config.load(home=tmp_path / "whole")
    ours, theirs = (
        train(
            connect(s.db), s, Recipe(detector="learner", n_trees=10, train_from="2026-05-20")
        ).model
        for s in (settings, whole)
    )
    assert isinstance(ours, Learner)
    assert isinstance(theirs, Learner)
    for mine, other in zip(ours.trees_, theirs.trees_, strict=True):
        assert np.array_equal(mine, other)
    assert np.array_equal(ours.score_quantiles_, theirs.score_quantiles_)


def test_parity_would_tell_if_the_state_was_lost(store: Store, settings: Settings) -> None:
    forget(store, plan(store, 120), who="anna")
    with store.writing() as session:
        session.execute("DELETE FROM carried")
    assert parity(store, settings).different > 0


def test_an_answer_to_what_was_forgotten_since_is_remembered(
    store: Store, settings: Settings
) -> None:
    forget(store, plan(store, 120), who="anna")
    answered = store.rows("SELECT transaction_id AS id FROM reviews ORDER BY answered_at")
    there = [row["id"] for row in store.rows("SELECT transaction_id AS id FROM remains")]
    assert [row["id"] in there for row in answered] == [True, True, True, False]
    with store.writing() as session:
        session.execute("DELETE FROM remains")
    assert parity(store, settings).different > 0


def test_an_answer_that_the_service_has_not_heard_of_outlasts_its_transaction(
    store: Store, settings: Settings
) -> None:
    (row,) = store.rows("SELECT transaction_id AS id FROM transactions WHERE seq = 10")
    with store.writing() as session:
        session.execute(
            "INSERT INTO labels VALUES (?, true, NULL, now()::TIMESTAMP, 'review', NULL)",
            [row["id"]],
        )
    before = history.label_events(store).iloc[-1]
    assert before["transaction_id"] == row["id"]
    for days in (150, 120):
        forget(store, plan(store, days), who="anna")
        assert history.label_events(store).iloc[-1].equals(before)
    assert parity(store, settings).different == 0


def test_only_what_is_older_goes_and_labels_reviews_and_audit_stay(
    store: Store, settings: Settings
) -> None:
    before = counts(store)
    planned = plan(store, 120)
    forget(store, planned, who="anna")
    after = counts(store)
    gone = {name: before[name] - n for name, n in after.items() if n != before[name]}
    assert gone == {name: n for name, n in planned.rows.items() if n}
    assert gone["rejected"] == 1
    (row,) = store.rows("SELECT min(ts) AS first, min(seq) AS cut FROM transactions")
    assert row["first"] >= planned.cutoff
    assert row["cut"] == planned.cut == checkpoint.cut(store)
    entry = audit.entries(store)[-1]
    assert (entry.who, entry.action) == ("anna", "forget")
    assert f'"cut": {planned.cut}' in entry.details
    assert audit.verify(store).problem is None
    assert plan(store, 120).nothing
    train(store, settings, Recipe(n_trees=10, max_samples=64))  # with the profiles of the forgotten


def test_training_knows_what_the_forgotten_taught(
    store: Store, settings: Settings, made: Path
) -> None:
    forget(store, plan(store, 120), who="anna")
    first = store.rows("SELECT min(ts) AS ts FROM transactions")[0]["ts"]
    window = Recipe(train_from=str(first + pd.Timedelta(days=1)), train_days=60, n_trees=10)
    ours = train(store, settings, window)
    shutil.copy(made / "data/aegis.duckdb", settings.db)
    theirs = train(store, settings, window)
    pd.testing.assert_frame_equal(ours.window, theirs.window, check_exact=True)


def test_an_age_that_the_pass_still_needs_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="or more"):
        plan(store, 60)


def test_a_clock_that_jumped_deletes_nothing_young_and_holds_up_nothing(store: Store) -> None:
    plain = plan(store, 120)
    with store.writing() as session:
        session.execute("UPDATE transactions SET ts = '2099-01-01' WHERE seq IN (5, 3980)")
        session.execute("UPDATE transactions SET ts = '1999-01-01' WHERE seq = 3920")
    jumped = plan(store, 120)
    assert jumped.rows["transactions"] == plain.rows["transactions"]
    assert jumped.later == 1
    assert "arrived later" in jumped.sentence()


def test_an_empty_database_has_nothing_to_forget(tmp_path: Path) -> None:
    empty = connect(tmp_path / "empty.duckdb")
    with empty.writing():
        pass
    assert plan(empty, 400).nothing


def test_a_disk_that_is_full_deletes_nothing(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = counts(store)

    def full(*args: object) -> None:
        raise StoreError("No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(StoreError, match="No space"):
        forget(store, plan(store, 120), who="anna")
    assert counts(store) == before
    assert store.rows("SELECT * FROM remains") == []


def test_two_who_forget_at_once_do_not_lose_the_state(store: Store, settings: Settings) -> None:
    older, newer = plan(store, 150), plan(store, 120)
    forget(store, newer, who="anna")
    with pytest.raises(StoreBusy, match="meanwhile"):
        forget(store, older, who="ben")
    assert parity(store, settings).different == 0


def test_a_state_that_was_damaged_is_said(store: Store, settings: Settings) -> None:
    forget(store, plan(store, 120), who="anna")
    with store.writing() as session:
        session.execute("UPDATE carried SET data = 'abc'::BLOB WHERE name = 'profiles'")
    with pytest.raises(NotReady, match="cannot be read"), Engine.open(store, settings):
        pass


def test_forgetting_through_a_service_is_the_same(store: Store, settings: Settings) -> None:
    with store.owned(limits=Limits()):
        attached = connect(store.path)
        planned = plan(attached, 120)
        forget(attached, planned, who="anna")
        assert checkpoint.cut(attached) == planned.cut
        assert parity(attached, settings).different == 0
    assert parity(store, settings).different == 0
