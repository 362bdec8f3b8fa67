"""Who moved: the part that each customer, merchant or category has in a drift."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from aegis_core.evaluation.drift.effects import Measure, placement

GROUPS: Final = {"customer": "customer_id", "merchant": "merchant_id", "category": "category"}
"""What a drift may be told by, and the column of each."""
WIDESPREAD: Final = 10
"""So many of a kind are told apart; the others are told together."""


def moved(
    rows: pd.DataFrame, usual: pd.DataFrame, n_usual: int, measure: Measure, by: str
) -> pd.DataFrame:
    """What each group adds to the movement of a measure; the parts sum to it.

    The movement is that of all transactions, each with its place among the usual ones, in [-1, 1].
    A group adds by moving itself and by being there more or less than usual. Of the volume, it is
    the number of transactions over the usual number; of the alert rate, alerts over transactions.

    `rows` and `usual` are traffic of the day and of the `n_usual` days that it is held against.

    Returns
    -------
    DataFrame with `group`, `n` and `n_usual` (transactions a day), `value` and `value_usual`
    (median amount, else mean; NaN for the volume and where there is no row), `part` of the
    movement. The largest part in the direction of the movement comes first.

    >>> day = pd.DataFrame({"category": ["food", "toys", "toys"], "paid": [1.0, 1.0, 9.0]})
    >>> before = pd.DataFrame({"category": ["food", "toys"], "paid": [1.0, 1.0]})
    >>> moved(day, before, 1, Measure("volume", "", "", 0.1), "category")[["group", "part"]].values
    array([['toys', 0.5],
           ['food', 0.0]], dtype=object)
    """
    column = GROUPS[by]
    tables = []
    for frame, days in ((rows, 1), (usual, n_usual)):
        value = frame[measure.column].to_numpy(float) if measure.column else np.ones(len(frame))
        place = value
        if measure.name not in ("volume", "alert_rate"):
            place = placement(value, usual[measure.column].to_numpy(float))
        known = frame[column].astype("str").fillna("unknown").to_numpy()
        table = pd.DataFrame({"value": value, "place": place})
        weight = len(usual) / n_usual if measure.name == "volume" else len(frame) / days
        grouped = table.groupby(known, sort=True)
        middle = grouped.value.median() if measure.name == "amounts" else grouped.value.mean()
        part = grouped.place.sum() / days / max(weight, 1e-9)
        level = middle if measure.column else np.nan
        tables.append(pd.DataFrame({"n": grouped.size() / days, "value": level, "part": part}))
    both = tables[0].join(tables[1].add_suffix("_usual"), how="outer")
    counted = ["n", "n_usual", "part", "part_usual"]
    both[counted] = both[counted].fillna(0.0)
    both["part"] -= both.pop("part_usual")
    rising = both["part"].sum() >= 0
    both = both.sort_values("part", ascending=not rising, kind="stable")
    both["part"] += 0.0  # no minus zero
    return both.rename_axis("group").reset_index()


def spread_told(parts: pd.DataFrame, by: str) -> str:
    """Whether one group moved or all did, in a sentence.

    >>> parts = pd.DataFrame({"group": ["m1", "m2", "m3"], "part": [0.4, 0.05, 0.05]})
    >>> spread_told(parts, "merchant")
    'One merchant holds 80% of the movement: m1.'
    """
    total = parts["part"].sum()
    if parts.empty or total == 0:
        return f"No {by} moved."
    share = (parts["part"] / total).to_numpy()
    many = {"category": "categories"}.get(by, f"{by}s")
    first = str(parts["group"].iloc[0])
    if len(parts) == 1:
        return f"There is one {by} only: {first}."
    if share[0] >= 0.5:
        return f"One {by} holds {min(share[0], 1):.0%} of the movement: {first}."
    top = share[:WIDESPREAD]
    if len(parts) > WIDESPREAD and top.sum() >= 0.5:
        held = min(top.sum(), 1)
        return f"{WIDESPREAD} of {len(parts):,} {many} hold {held:.0%} of it, {first} most."
    return f"It is spread over {len(parts):,} {many}; {first} holds {share[0]:.0%}."
