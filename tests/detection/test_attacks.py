"""Laws of promotion by training: no model takes the champion's place that would lose an attack."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from aegis_core import config
from aegis_core.config import Settings
from aegis_core.detection import attacks, registry
from aegis_core.detection.detector import Detector
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.training import Recipe, train
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.store import Store, connect

Payments = tuple[pd.DataFrame, pd.DataFrame]


def test_a_model_catches_the_attacks_of_its_own_customers_and_a_deaf_one_loses_them(
    payments: Payments, trained: tuple[Detector, Policy]
) -> None:
    frame = payments[0].iloc[:10_000]
    scorer = Scorer()
    scorer.run(frame)
    of = attacks.attacks(frame)
    assert set(of) == {"spikes", "journeys", "bursts"}
    for rows in of.values():
        assert rows.customer_id.nunique() == attacks.ATTACKED
        assert rows.ts.min() > frame.ts.max()
    deaf = dataclasses.replace(trained[1], review_above=2.0, block_above=2.0)

    def caught(policy: Policy) -> dict[str, float]:
        return attacks.caught(
            lambda known, rows: Scorer(trained[0], policy, known).run(rows).decision,
            scorer.profiles,
            of,
        )

    heard = caught(trained[1])
    assert min(heard["spikes"], heard["journeys"]) > 0.5
    assert attacks.lost(heard, heard) == ""
    assert "spikes (0% of them caught" in attacks.lost(heard, caught(deaf))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    store = connect(settings.db)
    some = SyntheticConfig(n_transactions=4_000, n_customers=60, days=20)
    write_history(store, some, progress=False)
    return store


def test_a_training_that_would_lose_an_attack_scores_in_shadow_and_says_why(
    store: Store, settings: Settings
) -> None:
    small = Recipe(n_trees=20, max_samples=64)
    wide, narrow = (settings.model_copy(update={"alert_budget": b}) for b in (0.05, 1e-6))
    first = train(store, wide, small)
    assert first.loses == ""
    deaf = train(store, narrow, small)
    assert deaf.role == "shadow"
    assert "spikes" in deaf.loses
    assert f"since it would lose {deaf.loses}" in deaf.summary()
    assert registry.roles(store)[0] == first.version
    asked = train(store, narrow, dataclasses.replace(small, role="champion"))
    assert registry.roles(store)[0] == asked.version
    assert (asked.role, asked.loses) == ("champion", "")
