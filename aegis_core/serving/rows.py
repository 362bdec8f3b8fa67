"""Rows on their way through the engine: as they were sent, as columns, and what became of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, overload

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
    RETRY_DAYS,
)
from aegis_core.store.meaning import Meaning
from aegis_core.store.session import Session
from aegis_core.units.words import PAYMENT, role_of

_MOST_LATELY: Final = 20_000
_STORED: Final = (*CONTENT, "utc_offset", "clock")
_SENT: Final = ("transaction_id", *_STORED)
Row = tuple[dict[str, Any], dict[str, Any] | None]
"""A stored transaction and its verdict, where it has one."""


class Rows(Sequence[dict[str, Any]]):
    """Transactions that were checked, kept by column and read by row as well.

    Parameters
    ----------
    columns : lists of one length, by the names of the table; `ts` in microseconds since 1970.

    >>> rows = Rows.of([{"transaction_id": "a", "amount": 1.0}, {"transaction_id": "b"}])
    >>> rows.columns["amount"], rows.take([1])[0]["transaction_id"], rows.take([0, 1]) is rows
    ([1.0, None], 'b', True)
    """

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.columns = columns

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """Rows by column; what one of them lacks is None."""
        if isinstance(rows, Rows):
            return rows
        return cls({name: [row.get(name) for row in rows] for name in _SENT})

    def __len__(self) -> int:
        return len(self.columns["transaction_id"])

    @overload
    def __getitem__(self, i: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, i: slice) -> Rows: ...

    def __getitem__(self, i: int | slice) -> dict[str, Any] | Rows:
        found: dict[str, Any] = {name: column[i] for name, column in self.columns.items()}
        return Rows(found) if isinstance(i, slice) else found

    def take(self, places: Sequence[int]) -> Rows:
        """The rows at some places, each once and in their order."""
        if len(places) == len(self):
            return self
        columns = self.columns.items()
        return Rows({name: [column[i] for i in places] for name, column in columns})


class Outcome(NamedTuple):
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

    def again(self, rows: Rows) -> dict[int, str]:
        """Remember `rows`; for those that repeat an earlier one, by number, a sentence of it.

        >>> row = {"customer_id": "c", "merchant_id": "m", "amount": 5.0, "currency": "EUR"}
        >>> sent = [row | {"transaction_id": f"t{s}", "ts": s * 1_000_000} for s in (0, 4, 60)]
        >>> Lately().again(Rows.of(sent))
        {1: 'Probably t0 again: the same customer, merchant and amount 4 s before.'}
        """
        told, last, columns = {}, self._last, rows.columns
        keys = zip(*(columns[name] for name in AGAIN), strict=True)
        for i, (key, at, one) in enumerate(
            zip(keys, columns["ts"], columns["transaction_id"], strict=True)
        ):
            before = last.pop(key, None)
            last[key] = at, one
            if before is None or before[1] == one:
                continue  # the same one, a try before
            if abs(at - before[0]) <= AGAIN_S * 1e6:
                told[i] = (
                    f"Probably {before[1]} again: the same customer, merchant and amount "
                    f"{abs(at - before[0]) / 1e6:.0f} s {'before' if at >= before[0] else 'after'}."
                )
        while len(last) > _MOST_LATELY:
            last.popitem(last=False)
        return told


def columns(rows: Rows, first_seq: int, meaning: Meaning) -> dict[str, Any]:
    """Rows that were checked as the columns of the table, numbered from `first_seq` on.

    They have all but `source`; numbers that may be missing are NaN then.
    """
    batch: dict[str, Any] = {name: rows.columns[name] for name in ("transaction_id", *CONTENT)}
    batch |= meaning.of(rows.columns)
    batch["seq"] = np.arange(first_seq, first_seq + len(rows))
    batch["ts"] = np.array(batch["ts"], np.int64).view("datetime64[us]")
    for name in ("amount", "lat", "lon", "rate"):
        batch[name] = np.array(batch[name], float)  # None becomes NaN
    batch["base_amount"] = batch["amount"] * batch["rate"]
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


def later_states(rows: Rows, outcomes: Sequence[Outcome], source: str) -> list[dict[str, Any]]:
    """Rows of the table `states`: each new state of a transaction once."""
    new: dict[tuple[str, str], int] = {}
    for one, outcome in zip(rows.columns["transaction_id"], outcomes, strict=True):
        if outcome.state is not None:
            seq, status = outcome.state
            new.setdefault((one, status), seq)
    return [later_state(seq, one, status, source) for (one, status), seq in new.items()]


def later_state(seq: int, transaction_id: str, status: str, source: str) -> dict[str, Any]:
    """A row of the table `states`."""
    told = {"transaction_id": transaction_id, "status": status, "source": source}
    return {"seq": seq, **told, "told_at": utc_now_us()}
