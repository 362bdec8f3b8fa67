"""The champion is judged as it stands, on what came after its training, or said not to be."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from aegis_core import config
from aegis_core.config import Settings
from aegis_core.detection.training import Recipe, train
from aegis_core.evaluation import standing
from aegis_core.evaluation.standing import Standing, champion
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.schema import SCENARIOS
from aegis_core.serving.replaying import score_past
from aegis_core.store import Store, connect

RATES = dict.fromkeys(SCENARIOS, 0.0) | {"spike": 0.01}
POPULATION = SyntheticConfig(n_transactions=8_000, n_customers=100, days=40, rates=RATES)
EARLY = Recipe(train_from="2026-01-08", train_days=12, n_trees=20, max_samples=64)


@pytest.fixture
def home(tmp_path: Path) -> tuple[Store, Settings]:
    settings = config.load(home=tmp_path, alert_budget=0.02, budget_follows_days=0)
    store = connect(settings.db)
    write_history(store, POPULATION, progress=False)
    return store, settings


def test_without_a_champion_the_recipe_alone_is_judged(home: tuple[Store, Settings]) -> None:
    assert champion(*home) == Standing()
    assert "the recipe alone" in champion(*home).sentence()


def test_a_champion_is_judged_on_the_labelled_weeks_after_its_training(
    home: tuple[Store, Settings],
) -> None:
    store, settings = home
    made = train(store, settings, EARLY)
    found = champion(store, settings)
    assert (found.version, found.trained_to) == (made.version, made.train_to)
    (there,) = store.rows(
        "SELECT count(*) AS n, count(*) FILTER (l.is_fraud) AS frauds FROM transactions t "
        "LEFT JOIN labels l USING (transaction_id) WHERE t.ts >= ? AND t.ts <= ("
        "SELECT max(ts) FROM transactions SEMI JOIN labels USING (transaction_id))",
        [made.train_to],
    )
    assert (found.payments, found.frauds) == (there["n"], there["frauds"])
    assert standing.FEWEST < found.caught < found.frauds
    assert found.order is not None
    assert (found.order.value or 0.0) > 5 * (found.order.floor or 1.0)
    assert found.version in found.sentence()
    assert set(found.figures()) == {
        (name, "champion") for name in ("average_precision", "recall", "alert_rate")
    }


def test_verdicts_that_the_champion_gave_are_those_that_it_is_judged_by(
    home: tuple[Store, Settings],
) -> None:
    store, settings = home
    made = train(store, settings, EARLY)
    score_past(store, settings, made.train_to.to_pydatetime(), who="anna")
    found = champion(store, settings)
    alerts = store.value(
        "SELECT count(*) FROM verdicts v JOIN transactions t USING (seq) WHERE decision != "
        "'approve' AND ts <= ?",
        [found.known_to],
    )
    assert found.alerts == alerts


@pytest.mark.parametrize("labels", ["none", "few"])
def test_where_too_few_labels_are_known_nothing_is_judged(
    home: tuple[Store, Settings], labels: str
) -> None:
    store, settings = home
    train(store, settings, EARLY)
    few = "WHERE transaction_id NOT IN (SELECT transaction_id FROM transactions WHERE ts < ?)"
    with store.writing() as session:
        if labels == "none":
            session.execute("DELETE FROM labels")
        else:
            session.execute(f"DELETE FROM labels {few}", [pd.Timestamp("2026-01-22")])
    found = champion(store, settings)
    assert "too few labels to judge" in found.sentence()
    assert found.figures() == {}
    assert found.order is None
    assert (found.payments == 0) == (labels == "none")
