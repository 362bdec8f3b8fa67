"""Parity: a replay that gives another verdict is seen, and is a run like any other."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import Unjudged
from aegis_core.evaluation.parity import Parity, parity, verify_live
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.runs.ledger import Due
from aegis_core.serving.engine import Engine
from aegis_core.store import connect


def test_parity_sees_a_verdict_that_was_tampered_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    settings = config.load()
    store = connect(settings.db)
    population = SyntheticConfig(n_transactions=2_000, n_customers=40, days=10)
    write_history(store, population, progress=False)
    train(store, settings, Recipe(n_trees=10, max_samples=64))
    with pytest.raises(Unjudged):  # nothing is proved where there is nothing
        verify_live(settings)
    rows, _ = next(iter(stream(population, 50)))
    with Engine.open(store, settings) as engine:
        engine.take(rows, "test")
    assert parity(store, settings) == Parity(50, 0, None)
    shares: list[float] = []
    due = Due("nightly", dt.datetime(2026, 3, 1, 2))
    assert verify_live(settings, due, tell=shares.append) == "Verified: 50 verdicts, bit for bit."
    assert shares[-1] == 1.0
    assert verify_live(settings, due) == "It was verified already.", "a due time is one run"
    first = store.value("SELECT min(seq) FROM verdicts")
    with store.writing() as session:
        session.execute(
            "UPDATE verdicts SET score = score + 1e-16 + score * 1e-15, scored_at = '2026-01-01' "
            "WHERE seq = ?",
            [first],
        )
    assert main(["verify", "live"]) == 1
    told = f"1 of 50 verdicts DIFFER from their replay, first seq {first} "
    assert told in capsys.readouterr().err
    assert main(["verify", "live", "--since", "2026-01-02"]) == 0
    assert capsys.readouterr().out == "Verified: 49 verdicts, bit for bit.\n"
    proofs = [(p["checked"], p["different"]) for p in store.rows("FROM proofs ORDER BY proved_at")]
    assert proofs == [(50, 0), (50, 1)], "what is newer alone does not clear what is older"
    assert main(["status"]) == 0
    assert "50 verdicts compared, 1 differ" in capsys.readouterr().out
    runs = store.rows("SELECT status, error, entry FROM runs ORDER BY started_at")
    assert [run["status"] for run in runs] == ["unjudged", "done", "failed", "done"]
    assert told in runs[2]["error"]
    assert runs[1]["entry"] == "nightly"
