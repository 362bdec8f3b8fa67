"""A training, told to people, and the labels it may use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aegis_core import config
from aegis_core.detection import history
from aegis_core.detection.detector import Detector
from aegis_core.detection.learner import Learner
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.training import Recipe, Training, train
from aegis_core.features.arrays import Floats
from aegis_core.features.confirmed import Confirmed, label_events
from aegis_core.store import Store, connect

Payments = tuple[pd.DataFrame, pd.DataFrame]


def test_labels_come_as_they_arrived_so_that_the_last_word_counts(store: Store) -> None:
    with store.writing() as session:
        session.execute(
            "INSERT INTO labels VALUES ('t', true, 'night', '2026-02-01', 'b', -1),"
            " ('t', false, NULL, '2026-01-01', 'a', -1)"
        )
    assert history.labels(store).is_fraud.tolist() == [True, False]


@pytest.fixture(scope="module")
def training(payments: Payments, tmp_path_factory: pytest.TempPathFactory) -> Training:
    settings = config.load(home=tmp_path_factory.mktemp("home"))
    store = connect(settings.db)
    with store.writing() as session:
        session.append("transactions", payments[0])
    return train(
        store, settings.model_copy(update={"alert_budget": 0.02}), Recipe(train_days=20, n_trees=20)
    )


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
    highest = training.window[training.window.score == training.window.score.max()]
    assert set(highest.transaction_id) & set(flagged.transaction_id)


def test_the_training_tells_its_budget_and_what_it_saw(training: Training) -> None:
    told = training.summary()
    assert f"{len(training.window):,} transactions" in told
    assert "2.00%" in told
    assert training.version in told
    assert isinstance(training.detector, Detector)


def test_a_learner_is_shown_the_labels_that_live_scoring_had_and_no_others(
    payments: Payments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, labels = payments
    day = ((frame.ts - frame.ts.min()) // pd.Timedelta(days=1)).to_numpy()
    filed = labels[(day >= 10) & (day < 25)]
    arrived = (  # the last transaction before them, and labels that are dated back but the first
        (-1, labels[day < 10]),
        (int(np.flatnonzero(day < 28)[-1]), filed),  # a file of chargebacks, in one go
        (int(np.flatnonzero(day < 31)[-1]), filed[filed.is_fraud].assign(is_fraud=False)[::2]),
    )
    settings = config.load(home=tmp_path)
    with connect(settings.db).writing() as session:
        session.append("transactions", frame)
        for place, some in arrived:
            session.append("labels", some.assign(after_seq=place))
    live, seen = Scorer(confirmed=Confirmed()), []
    for i, (place, some) in enumerate(arrived):
        assert live.confirmed is not None
        again = filed[filed.transaction_id.isin(some.transaction_id)] if i == 2 else filed[:0]
        told = (
            label_events(frame, part).assign(earlier=e)
            for part, e in ((again, True), (some, False))
        )
        live.confirmed.add_labels(pd.concat(told, ignore_index=True))
        until = arrived[i + 1][0] + 1 if i < 2 else len(frame)
        seen.append(live.run(frame.iloc[place + 1 : until]).history)
    expected = np.concatenate(seen)

    shown: dict[str, Floats] = {}
    methods = {name: getattr(Learner, name) for name in ("fit", "calibrate")}
    for name in methods:  # it calibrates on its own rows, then on those that follow

        def spy(self: Learner, *given: Floats, name: str = name) -> object:
            shown[name] = given[2]
            return methods[name](self, *given)

        monkeypatch.setattr(Learner, name, spy)
    made = train(
        connect(settings.db), settings, Recipe(detector="learner", n_trees=10, train_days=25)
    )
    window = frame.ts.between(made.train_from, made.train_to, inclusive="left").to_numpy()
    by_date = Scorer(confirmed=Confirmed())
    assert by_date.confirmed is not None
    by_date.confirmed.add_labels(label_events(frame, pd.concat([some for _, some in arrived])))
    assert not np.array_equal(by_date.run(frame).history[window], expected[window]), "no such file"
    np.testing.assert_array_equal(shown["fit"], expected[window])
    np.testing.assert_array_equal(shown["calibrate"], expected[(frame.ts >= made.train_to)])
