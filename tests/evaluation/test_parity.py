"""Parity: a replay that gives another verdict is seen."""

from __future__ import annotations

from pathlib import Path

from aegis_core import config
from aegis_core.detection.training import Recipe, train
from aegis_core.evaluation.parity import Parity, parity
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.serving.engine import Engine
from aegis_core.store import connect


def test_parity_sees_a_verdict_that_was_tampered_with(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path)
    store = connect(settings.db)
    population = SyntheticConfig(n_transactions=2_000, n_customers=40, days=10)
    write_history(store, population, progress=False)
    train(store, settings, Recipe(n_trees=10, max_samples=64))
    assert parity(store, settings).sentence().startswith("No live verdicts")
    rows, _ = next(iter(stream(population, 50)))
    with Engine.open(store, settings) as engine:
        engine.take(rows, "test")
    assert parity(store, settings) == Parity(50, 0, None)
    with store.writing() as session:
        session.execute(
            "UPDATE verdicts SET score = score + 1e-16 + score * 1e-15 "
            "WHERE seq = (SELECT max(seq) FROM verdicts)"
        )
    proof = parity(store, settings)
    assert proof.different == 1
    assert str(proof.first_different) in proof.sentence()
