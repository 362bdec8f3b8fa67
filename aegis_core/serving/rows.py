"""Rows on their way through the engine: as they were sent, as columns, and what became of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from aegis_core.intake.refusals import masked
from aegis_core.machine import utc_now_us
from aegis_core.schema import (
    AGAIN,
    AGAIN_S,
    ATTEMPT,
    CONTENT,
    DAY_US,
    LATER_STATES,
    MEANT,
    RETRY_DAYS,
)
from aegis_core.store.meaning import Meaning
from aegis_core.store.session import Session
from aegis_core.units.words import PAYMENT, role_of

_MOST_LATELY: Final = 20_000
_STORED: Final = (*CONTENT, "utc_offset", "clock")
Row = tuple[dict[str, Any], dict[str, Any] | None]
"""A stored transaction and its verdict, where it has one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transaction.

    `verdict` is a row of the table `verdicts`, or the part of it that is told. `repeat` says that
    it was there before; with `conflict`, what is there has other content, which `stored` holds.
    `state` is its place in the order of arrival and a later state of it, where the repetition tells
    one that was not known.
    """

    verdict: Mapping[str, Any] | None
    repeat: bool = False
    conflict: bool = False
    stored: Mapping[str, Any] | None = None
    state: tuple[int, str] | None = None


class Lately:
    """The newest payments, by who paid whom how much: what comes again is probably the same one.

    It tells and decides nothing, and begins empty when a service is started.
    """

    def __init__(self) -> None:
        # a plain dictionary looks at all that it lost for the first that it still has
        self._last: OrderedDict[tuple[Any, ...], tuple[int, str]] = OrderedDict()

    def again(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
        """Remember `rows`; for those that repeat an earlier one, by number, a sentence of it.

        >>> row = {"customer_id": "c", "merchant_id": "m", "amount": 5.0, "currency": "EUR"}
        >>> sent = [row | {"transaction_id": f"t{s}", "ts": s * 1_000_000} for s in (0, 4, 60)]
        >>> Lately().again(sent)
        {1: 'Probably t0 again: the same customer, merchant and amount 4 s before.'}
        """
        told, last = {}, self._last
        for i, row in enumerate(rows):
            key = tuple(row.get(name) for name in AGAIN)
            before, at = last.pop(key, None), row["ts"]
            last[key] = at, row["transaction_id"]
            if before is None or before[1] == row["transaction_id"]:
                continue  # the same one, a try before
            if abs(at - before[0]) <= AGAIN_S * 1e6:
                told[i] = (
                    f"Probably {before[1]} again: the same customer, merchant and amount "
                    f"{abs(at - before[0]) / 1e6:.0f} s {'before' if at >= before[0] else 'after'}."
                )
        while len(last) > _MOST_LATELY:
            last.popitem(last=False)
        return told


def columns(rows: Sequence[Mapping[str, Any]], first_seq: int, meaning: Meaning) -> dict[str, Any]:
    """Rows that were checked as the columns of the table, numbered from `first_seq` on.

    They have all but `source`; numbers that may be missing are NaN then.
    """
    batch: dict[str, Any] = {name: [row.get(name) for row in rows] for name in CONTENT}
    meant = [meaning.of(row) for row in rows]
    batch |= {name: [row[name] for row in meant] for name in MEANT}
    batch["transaction_id"] = [row["transaction_id"] for row in rows]
    batch["seq"] = np.arange(first_seq, first_seq + len(rows))
    batch["ts"] = np.array(batch["ts"], np.int64).view("datetime64[us]")
    batch["amount"] = np.array(batch["amount"], float)
    for name in ("lat", "lon", "rate", "base_amount"):
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
    names = ", ".join("epoch_us(ts) AS ts" if name == "ts" else name for name in _STORED)
    found = session.rows(
        f"SELECT seq, transaction_id, {names}, {LATER_STATES} AS later_states "
        f"FROM transactions t WHERE seq IN ({given})"
    )
    verdicts = {v["seq"]: v for v in session.rows(f"FROM verdicts WHERE seq IN ({given})")}
    return {row["seq"]: (row, verdicts.get(row["seq"])) for row in found}


def becomes_payment(row: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether `row` is a payment that came under its id as none, such as a declined try.

    Its time may be later, as that of a retry is, by `RETRY_DAYS` at most.

    >>> first = {"customer_id": "c", "ts": 0, "status": "declined"}
    >>> [becomes_payment(first | {"status": s}, first) for s in ("approved", None, "failed")]
    [True, True, False]
    """
    was, now = (role_of(r.get("kind"), r.get("status")) == PAYMENT for r in (first, row))
    same = all(row.get(name) == first.get(name) for name in ATTEMPT)
    return now and not was and same and _later(row, first)


def settles(row: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether `row` says what became of a pending transaction, of which the time may be another.

    A bank books on the day that follows; it is later by `RETRY_DAYS` at most.

    >>> [settles({"ts": ts, "status": "approved"}, {"ts": 5, "status": "pending"}) for ts in (9, 4)]
    [True, False]
    """
    settled = first.get("status") == "pending" and row.get("status") not in (None, "pending")
    return settled and _later(row, first)


def _later(row: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    return bool(0 <= row["ts"] - first["ts"] <= RETRY_DAYS * DAY_US)


def again(
    row: Mapping[str, Any],
    first: Mapping[str, Any],
    outcome: Outcome | None,
    before: Mapping[str, Any] | None = None,
) -> Outcome:
    """The outcome of a transaction whose id came before; with another status, of its later state.

    `before` is what `first` was when it was no payment. What it had before is no later state, but a
    message that was sent again.
    """
    verdict, status = outcome.verdict if outcome is not None else None, row.get("status")
    told = [first] if before is None else [first, before]
    differ, *older = (
        {n for n in CONTENT if row.get(n) != r.get(n) and not (n == "ts" and settles(row, r))}
        for r in told
    )
    if not differ or set() in older:
        return Outcome(verdict, repeat=True)
    if differ == {"status"} and status is not None:
        known = any(status in (r.get("later_states") or ()) for r in told)
        return Outcome(verdict, repeat=True, state=None if known else (first["seq"], status))
    return Outcome(verdict, repeat=True, conflict=True, stored=first)


def later_states(
    rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome], source: str
) -> list[dict[str, Any]]:
    """Rows of the table `states`: each new state of a transaction once."""
    new: dict[tuple[str, str], int] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.state is not None:
            seq, status = outcome.state
            new.setdefault((row["transaction_id"], status), seq)
    return [later_state(seq, one, status, source) for (one, status), seq in new.items()]


def later_state(seq: int, transaction_id: str, status: str, source: str) -> dict[str, Any]:
    """A row of the table `states`."""
    told = {"transaction_id": transaction_id, "status": status, "source": source}
    return {"seq": seq, **told, "told_at": utc_now_us()}
