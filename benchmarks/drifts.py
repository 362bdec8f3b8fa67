"""Drift with a known date: what ordinary customers do changes from a day on."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from aegis_core.errors import InputError, did_you_mean

DRIFTS: Final = {
    "amounts": "everybody pays `factor` times as much",
    "category": "what is bought in the commonest category costs `factor` times as much",
    "hours": "purchases come `factor` hours later; the day's last ones come first",
    "volume": "`factor` times as many purchases, at most 1",
}
"""Kinds of drift, and what each does to ordinary transactions."""


def drifted(
    frame: pd.DataFrame,
    fraud: np.ndarray,
    since: pd.Timestamp,
    kind: str,
    factor: float,
    seed: int = 0,
) -> pd.DataFrame:
    """A history whose ordinary transactions change on the day `since`; frauds stay as they are.

    Parameters
    ----------
    frame : transactions ordered by `ts`, as `generate` makes them.
    fraud : whether each is a fraud, of shape (len(frame),).
    kind : of `DRIFTS`.
    seed : of which purchases a lower volume leaves out.

    Raises
    ------
    InputError
        There is no such kind, or no such factor for it.

    >>> day = pd.Timestamp("2026-01-02")
    >>> frame = pd.DataFrame({"ts": [day - pd.Timedelta(hours=1), day], "amount": [10.0, 10.0]})
    >>> drifted(frame, np.zeros(2, bool), day, "amounts", 1.2).amount.tolist()
    [10.0, 12.0]
    """
    if kind not in DRIFTS:
        raise InputError(
            f"There is no drift {kind!r}; there are {', '.join(DRIFTS)}."
            + did_you_mean(kind, DRIFTS)
        )
    if not 0 < factor < 1_000 or (kind == "volume" and factor > 1):
        raise InputError(f"factor is {factor}; a drift {kind} is: {DRIFTS[kind]}.")
    moves = (frame["ts"] >= since).to_numpy() & ~np.asarray(fraud, bool)
    out = frame.copy()
    if kind == "hours":
        day = frame["ts"].dt.normalize()
        later = (frame["ts"] - day + pd.Timedelta(hours=factor)) % pd.Timedelta(days=1)
        out["ts"] = frame["ts"].where(~moves, day + later)
        return out.sort_values("ts", kind="stable", ignore_index=True)
    if kind == "volume":
        stays = np.random.default_rng(seed).random(len(frame)) < factor
        return out[~moves | stays].reset_index(drop=True)
    if kind == "category":
        moves &= (frame["category"] == frame["category"].mode().iloc[0]).to_numpy()
    out["amount"] = frame["amount"].where(~moves, (frame["amount"] * factor).round(2))
    return out
