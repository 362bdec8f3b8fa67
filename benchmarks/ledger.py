"""What the service answered, kept outside of it, and how it differs from what is stored."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

COLUMNS: Final = ("transaction_id", "seq", "score", "risk", "decision")
"""What of a verdict must stay as it was answered."""


class Differences(NamedTuple):
    """How the stored verdicts differ from those that were answered."""

    lost: int
    twice: int
    other: int

    def __bool__(self) -> bool:
        return any(self)


class Ledger:
    """What was answered, in parts: those to be checked soon in memory, all of them on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._new: list[tuple[object, ...]] = []
        self._parts: list[Path] = []
        self.answered = 0

    def note(self, verdicts: Sequence[dict[str, Any]]) -> None:
        """Keep what the service answered."""
        rows = [tuple(v[c] for c in COLUMNS) for v in verdicts]
        with self._lock:
            self._new += rows
            self.answered += len(rows)

    def fresh(self) -> pd.DataFrame:
        """What was answered since the last call."""
        with self._lock:
            rows, self._new = self._new, []
        part = pd.DataFrame(rows, columns=list(COLUMNS))
        if len(part):
            self._parts.append(self._folder / f"answered-{len(self._parts)}.parquet")
            part.to_parquet(self._parts[-1])
        return part

    def everything(self) -> pd.DataFrame:
        """All that `fresh` returned so far."""
        parts = [pd.read_parquet(path) for path in self._parts]
        return pd.concat(parts) if parts else pd.DataFrame([], columns=list(COLUMNS))


def differences(answered: pd.DataFrame, stored: pd.DataFrame) -> Differences:
    """Compare two frames with the columns `COLUMNS`; `stored` may hold more.

    The same payment may have been answered more than once, each time with the same verdict.
    """
    of_these = stored[stored.transaction_id.isin(answered.transaction_id)]
    twice = int(of_these.transaction_id.duplicated().sum())
    known = of_these.drop_duplicates("transaction_id")
    both = answered.merge(known, on="transaction_id", how="left", suffixes=("", "_stored"))
    there = both.seq_stored.notna()
    same = np.logical_and.reduce([both[c] == both[f"{c}_stored"] for c in COLUMNS[1:]])
    lost = int(both[~there].transaction_id.nunique())
    return Differences(lost, twice, int(both[there & ~same].transaction_id.nunique()))
