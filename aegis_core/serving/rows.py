"""Rows on their way through the engine: as they were sent, as columns, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

CONTENT: Final = (
    *("customer_id", "ts", "amount", "currency", "merchant_id", "category", "channel"),
    *("lat", "lon"),
)
"""What makes two transactions of one id the same."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transaction.

    `verdict` is a row of the table `verdicts`, or the part of it that is told. `repeat` says that
    it was there before; with `conflict`, what is there has other content, which `stored` holds.
    """

    verdict: Mapping[str, Any] | None
    repeat: bool = False
    conflict: bool = False
    stored: Mapping[str, Any] | None = None


def columns(rows: Sequence[Mapping[str, Any]], first_seq: int) -> dict[str, Any]:
    """Rows that were checked as the columns that the pass reads, numbered from `first_seq` on."""
    batch: dict[str, Any] = {name: [row.get(name) for row in rows] for name in CONTENT}
    batch["transaction_id"] = [row["transaction_id"] for row in rows]
    batch["seq"] = np.arange(first_seq, first_seq + len(rows))
    batch["ts"] = np.array(batch["ts"], np.int64).view("datetime64[us]")
    batch["amount"] = np.array(batch["amount"], float)
    for name in ("lat", "lon"):
        batch[name] = np.array(batch[name], float)  # None becomes NaN
    return batch


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of one table, at least one, as the journal takes them."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def rejected(source: str, raw: str, reason: str) -> dict[str, Any]:
    """A row of the table `rejected`."""
    moment = time.time_ns() // 1_000
    return {"received_at": moment, "source": source, "raw": raw, "reason": reason}


def as_group(rows: pa.Table) -> dict[str, Any]:
    """Rows of a table as the journal takes them: times in microseconds since 1970."""
    return {
        name: column.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
        if pa.types.is_timestamp(column.type)
        else column.to_pylist()
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    }


def again(row: Mapping[str, Any], first: Mapping[str, Any], outcome: Outcome | None) -> Outcome:
    """The outcome of a transaction whose id came before."""
    verdict = outcome.verdict if outcome is not None else None
    if all(row.get(name) == first.get(name) for name in CONTENT):
        return Outcome(verdict, repeat=True)
    return Outcome(verdict, repeat=True, conflict=True, stored=first)
