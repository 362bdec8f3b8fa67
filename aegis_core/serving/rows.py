"""Rows on their way through the engine: as they were sent, as columns, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aegis_core.intake.refusals import masked
from aegis_core.machine import utc_now_us
from aegis_core.schema import CONTENT
from aegis_core.store.session import Session

Row = tuple[dict[str, Any], dict[str, Any] | None]
"""A stored transaction and its verdict, where it has one."""


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
    """A row of the table `rejected`, with card numbers masked."""
    hidden = {"raw": masked(raw), "reason": masked(reason)}
    return {"received_at": utc_now_us(), "source": source, **hidden}


def as_group(rows: pa.Table) -> dict[str, Any]:
    """Rows of a table as the journal takes them: times in microseconds since 1970."""
    return {
        name: column.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
        if pa.types.is_timestamp(column.type)
        else column.to_pylist()
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    }


def stored(session: Session, seqs: Sequence[int]) -> dict[int, Row]:
    """Transactions and their verdicts, where they have one, by `seq`."""
    given = ", ".join(map(str, sorted({int(s) for s in seqs})))
    names = ", ".join("epoch_us(ts) AS ts" if name == "ts" else name for name in CONTENT)
    found = session.rows(
        f"SELECT seq, transaction_id, {names} FROM transactions WHERE seq IN ({given})"
    )
    verdicts = {v["seq"]: v for v in session.rows(f"FROM verdicts WHERE seq IN ({given})")}
    return {row["seq"]: (row, verdicts.get(row["seq"])) for row in found}


def with_repeats(
    rows: Sequence[Mapping[str, Any]], fresh: Sequence[int], outcomes: Sequence[Outcome | None]
) -> list[Outcome]:
    """The outcomes of all of a group; who has none yet repeats one of `fresh`."""
    if None in outcomes:
        firsts = {rows[k]["transaction_id"]: k for k in fresh}
        places = [firsts.get(row["transaction_id"], 0) for row in rows]
        return [
            again(row, rows[first], outcomes[first]) if outcome is None else outcome
            for row, first, outcome in zip(rows, places, outcomes, strict=True)
        ]
    return [o for o in outcomes if o is not None]


def again(row: Mapping[str, Any], first: Mapping[str, Any], outcome: Outcome | None) -> Outcome:
    """The outcome of a transaction whose id came before."""
    verdict = outcome.verdict if outcome is not None else None
    if all(row.get(name) == first.get(name) for name in CONTENT):
        return Outcome(verdict, repeat=True)
    return Outcome(verdict, repeat=True, conflict=True, stored=first)
