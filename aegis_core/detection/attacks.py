"""Attacks that a model must still catch before a training puts it in another's place.

They are made of a history's own customers, so that every database has them: each pays as in a
textbook of fraud, right after the history's end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd

from aegis_core.features.profiles import Profiles

ATTACKED: Final = 100
"""Customers that each attack is tried on, the last ones with `SETTLED` transactions or more."""
SETTLED: Final = 10
KEPT: Final = 0.9
"""Share of what the champion catches of an attack that its successor must catch too."""
BURST: Final = 10
"""Payments of a burst within which it must be caught."""
Decide = Callable[[Profiles, pd.DataFrame], np.ndarray]
"""Decisions on transactions that come next, given what is known before them."""


def attacks(history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each kind of attack its transactions, some customers' one after another.

    `history` has the columns of `schema.TRANSACTION_COLUMNS`; without places there is no travel.
    """
    many = history.groupby("customer_id").customer_id.transform("size") >= SETTLED
    usual = history[many].groupby("customer_id").amount.median()
    last = history[many].drop_duplicates("customer_id", keep="last").tail(ATTACKED)
    last = last.assign(amount=usual.loc[last.customer_id].to_numpy(), ts=history.ts.max())
    hour, second = pd.Timedelta(hours=1), pd.Timedelta(seconds=0.3)
    burst = last.loc[last.index.repeat(BURST)]
    placed = last.dropna(subset=["lat", "lon"])
    near = placed.assign(ts=placed.ts + hour)
    far = near.assign(ts=near.ts + hour / 4, lon=(near.lon + 192) % 360 - 180)
    made = {
        "spikes": last.assign(ts=last.ts + hour, amount=12 * last.amount),
        "journeys": pd.concat([near, far]).sort_values(["customer_id", "ts"], kind="stable"),
        "bursts": burst.assign(ts=burst.ts + hour + np.arange(len(burst)) % BURST * second),
    }
    return {kind: rows.assign(seq=range(len(rows))) for kind, rows in made.items() if len(rows)}


def caught(decide: Decide, known: Profiles, of: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Share of the customers of each attack who got an alert, in [0, 1]."""
    return {
        kind: float(pd.Series(decide(known.copy(), rows) > 0).groupby(rows.customer_id.to_numpy())
        .any().mean())
        for kind, rows in of.items()
    }  # fmt: skip


def lost(champion: Mapping[str, float], successor: Mapping[str, float]) -> str:
    """What the successor would no longer catch, in words; "" if it is nothing.

    >>> lost({"spikes": 0.9, "bursts": 1.0}, {"spikes": 0.3, "bursts": 0.95})
    'spikes (30% of them caught, 90% by the champion)'
    """
    return ", ".join(
        f"{kind} ({successor[kind]:.0%} of them caught, {share:.0%} by the champion)"
        for kind, share in champion.items()
        if successor[kind] < KEPT * share
    )
