"""Compile what scoring needs, which takes seconds, before a request waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from aegis_core.detection.detector import Detector
from aegis_core.detection.learner import Learner
from aegis_core.detection.policy import Policy
from aegis_core.detection.registry import ModelVersion
from aegis_core.detection.scoring import Scorer
from aegis_core.features.arrays import Ids, hashed
from aegis_core.features.confirmed import Confirmed
from aegis_core.features.frauds import N_HISTORY
from aegis_core.serving.rows import Rows, columns
from aegis_core.store.meaning import Meaning
from aegis_core.units.money import Rates

_ROWS: Final = 64


def warm_up(champion: ModelVersion, shadows: Sequence[ModelVersion], *, learns: bool) -> None:
    """Judge made-up transactions, ordinary ones and alerts, as if nothing had come before.

    `learns` : whether a model looks at labels.
    """
    batch = columns(Rows.of(_made_up(_ROWS)), 0, Meaning(Rates("EUR")))
    Ids().find(hashed(batch["transaction_id"]))
    scorer = Scorer(champion.model, champion.policy, confirmed=Confirmed() if learns else None)
    scored = scorer.run(batch, signals=True, explain=True)
    scorer.verdicts_of(batch, scored, champion.version)
    for shadow in shadows:
        shadow.judge(batch, scored)


def compile_all() -> None:
    """Compile what training and scoring need with either kind of model: most of a minute, once.

    Done beforehand, processes that begin together do not each compile the same.
    """
    batch = columns(Rows.of(_made_up(_ROWS)), 0, Meaning(Rates("EUR")))
    scored = Scorer().run(batch, signals=True)
    forest = Detector(n_trees=2).fit(scored.signals)
    nothing = np.zeros((_ROWS, N_HISTORY)), np.zeros(_ROWS, np.int8)
    learner = Learner(forest).fit(scored.signals, scored.amount, *nothing)
    learner.contributions(scored.signals, scored.amount, nothing[0])
    for model in (forest, learner):
        version = ModelVersion("", model, Policy.from_budget(model))
        warm_up(version, [version], learns=True)


def _made_up(n: int) -> list[dict[str, Any]]:
    """Rows of nobody, ordinary ones and such as raise alerts in turn."""
    return [
        {
            "transaction_id": f"{i}",
            "customer_id": "0",
            "merchant_id": "0",
            "ts": i * 100_000,
            "amount": (1.0, 1e12)[i % 2],
            "lat": 60.0 * (i % 2),
            "lon": 0.0,
        }
        for i in range(n)
    ]
