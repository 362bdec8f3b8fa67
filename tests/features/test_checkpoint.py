"""What an older version kept of a history is brought up, and goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from aegis_core.detection.scoring import Scorer
from aegis_core.features import checkpoint
from aegis_core.features.checkpoint import NO_ONE
from aegis_core.features.confirmed import Confirmed, numbers
from aegis_core.features.frauds import WHO
from aegis_core.store import connect


def test_what_version_4_of_the_pass_kept_is_brought_up(
    payments: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    past, future = payments[0].iloc[:1000], payments[0].iloc[1000:1500]
    scorer = Scorer(confirmed=Confirmed())
    scorer.run(past)
    profiles, confirmed = scorer.profiles, scorer.confirmed
    assert confirmed is not None
    now, memory = profiles.state, confirmed.memory
    profiles.state = now._replace(customers=now.customers[:, :-2], published=now.published[:, :-1])
    confirmed.memory = memory._replace(
        customers=memory.customers[:, :WHO], merchants=memory.merchants[:, :WHO]
    )
    gone = NO_ONE._replace(
        seen_seq=np.array([1_200]), seen=["shop"], seen_late=np.array([False]),
        merchants=np.ones((1, WHO)), sums_seq=np.array([1_200]), sums_row=np.array([0]),
        sums=NO_ONE.sums.sum(axis=0, keepdims=True)[:, :-1],
    )  # fmt: skip
    store = connect(tmp_path / "older.duckdb")
    with store.writing() as session:
        checkpoint.save(session, 1_000, profiles, confirmed)
        checkpoint.save_erased(session, gone)
        begun = checkpoint.begin(session, confirmed=True)
    assert begun.profiles is not None
    assert begun.confirmed is not None
    names = list(begun.confirmed.customer_codes)
    told = begun.confirmed.memory
    assert (told.customers[: len(names), WHO] == numbers(names)).all()
    assert (told.merchants[:, :WHO] == memory.merchants[:, :WHO]).all()
    assert begun.erased.merchants.shape[1] == told.merchants.shape[1]
    assert begun.erased.sums.shape[1] == NO_ONE.sums.shape[1]
    goes_on = Scorer(profiles=begun.profiles, confirmed=begun.confirmed)
    assert np.isfinite(goes_on.run(future, signals=True).signals).all()
