"""A training, told to people, and the labels it may use."""

from __future__ import annotations

import pandas as pd
import pytest

from aegis_core import config
from aegis_core.detection.detector import Detector
from aegis_core.detection.history import labels
from aegis_core.detection.training import Training, train
from aegis_core.store import Store, connect

Payments = tuple[pd.DataFrame, pd.DataFrame]


def test_labels_come_oldest_first_so_that_the_newest_word_counts(store: Store) -> None:
    with store.writing() as session:
        session.execute(
            "INSERT INTO labels VALUES ('t', true, 'night', '2026-02-01', 'b', -1),"
            " ('t', false, NULL, '2026-01-01', 'a', -1)"
        )
    assert labels(store).is_fraud.tolist() == [False, True]


@pytest.fixture(scope="module")
def training(payments: Payments, tmp_path_factory: pytest.TempPathFactory) -> Training:
    settings = config.load(home=tmp_path_factory.mktemp("home"))
    store = connect(settings.db)
    with store.writing() as session:
        session.append("transactions", payments[0])
    return train(store, settings, train_days=20, alert_budget=0.02, n_trees=20)


def test_flagged_are_the_best_of_each_factor_and_one_a_customer(
    training: Training, payments: Payments
) -> None:
    flagged = training.flagged(2)
    evidence = flagged[[f"{f} (nats)" for f in ("amount", "travel", "hour", "burst")]]
    assert (evidence.idxmax(axis=1).str.removesuffix(" (nats)") == flagged.strongest).all()
    assert flagged.strongest.value_counts().max() <= 2
    assert flagged.customer_id.is_unique
    paid = payments[0].set_index("transaction_id").amount
    assert (paid[flagged.transaction_id].to_numpy() == flagged.amount).all()
    highest = training.window.sort_values("score").transaction_id.iloc[-1]
    assert highest in set(flagged.transaction_id)


def test_the_training_tells_its_budget_and_what_it_saw(training: Training) -> None:
    told = training.summary()
    assert f"{len(training.window):,} transactions" in told
    assert "2.00%" in told
    assert training.version in told
    assert isinstance(training.detector, Detector)
