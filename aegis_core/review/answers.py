"""Analysts' answers: kept as they were given, taken back within seconds, and taught after that.

Rows are only ever added. An answer is a row of `reviews` at once. As long as it may be taken back,
until `held_until`, it is no label; `settle` makes it one when that time is over. One that was taken
back never becomes a label, so that no learner hears of it, and since the place of a label in the
order of arrival is the moment in which it was written, a replay needs to know nothing of all this.

Who settles: the service by itself, the live stream before each batch, a training before it begins,
and whoever works on the queue. An answer whose process was killed is settled by the next of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from aegis_core.errors import InputError, StoreError, did_you_mean
from aegis_core.schema import ANSWERS
from aegis_core.store import Store
from aegis_core.store.session import Session

UNDO_S: Final = 10.0
"""How long an answer given on the review page may be taken back, in seconds."""
UNDO: Final = "undo"
"""What stands in `reviews.answer` of a row that takes an answer back."""
STANDING: Final = """
    SELECT * FROM reviews WHERE undoes IS NULL
      AND review_id NOT IN (SELECT undoes FROM reviews WHERE undoes IS NOT NULL)"""
"""A query: the answers that were not taken back."""
NEWEST: Final = """
    SELECT median(ts) FROM (
      SELECT ts FROM transactions WHERE seq > (SELECT max(seq) - 100 FROM transactions))"""
"""A query: the time on the transactions' clock, safe from a single one that is years ahead."""

_TOLD: Final = """
    SELECT r.review_id FROM reviews r
    WHERE r.undoes IS NULL AND r.held_until IS NOT NULL
      AND (r.held_until <= ? OR r.answered_at > ?)
      AND r.review_id NOT IN (SELECT undoes FROM reviews WHERE undoes IS NOT NULL)
      AND r.review_id NOT IN (SELECT review_id FROM taught)
    ORDER BY r.rowid"""


def utc_now() -> dt.datetime:
    """The time, UTC, without a time zone attached, as the database stores it."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def named(analyst: str) -> str:
    """The analyst's name, trimmed.

    Raises
    ------
    InputError
        Nobody says who answers, or the name is no name.
    """
    name = analyst.strip()
    if not name:
        raise InputError("Say who answers.")
    if len(name) > 200 or any(ord(c) < 0x20 or ord(c) == 0x7F for c in name):
        raise InputError("A name has at most 200 letters and no control characters.")
    return name


def answer(
    store: Store,
    transaction_id: str,
    answer: str,
    *,
    analyst: str,
    note: str = "",
    hold_s: float = 0.0,
) -> str:
    """Keep an analyst's answer about a transaction, as a review and as a label; the review's id.

    The label is known from the time that the newest transactions bear, so that it is the clock of
    the transactions that counts, and from the next transaction on. A later answer replaces an
    earlier one; both are kept.

    Parameters
    ----------
    hold_s :
        How long the answer may be taken back; it becomes a label after that.

    Raises
    ------
    InputError
        There is no such transaction or answer, or nobody says who answers.
    """
    (review_id,) = answer_all(
        store, [transaction_id], answer, analyst=analyst, note=note, hold_s=hold_s
    )
    return review_id


def answer_all(
    store: Store,
    transaction_ids: Sequence[str],
    answer: str,
    *,
    analyst: str,
    note: str = "",
    hold_s: float = 0.0,
    now: dt.datetime | None = None,
) -> list[str]:
    """`answer` for several transactions, all of them or none; the reviews' ids in their order."""
    import pyarrow as pa

    if answer not in ANSWERS:
        raise InputError(
            f"{answer!r} is no answer; there are {', '.join(ANSWERS)}."
            + did_you_mean(answer, ANSWERS)
        )
    who, asked, now = named(analyst), list(dict.fromkeys(transaction_ids)), now or utc_now()
    held_until = now + dt.timedelta(seconds=hold_s) if hold_s > 0 else None
    with store.writing(checkpoint=False) as session:
        there = _times(session, asked)
        if missing := [name for name in asked if name not in there]:
            raise InputError(f"There is no transaction {missing[0]!r}.")
        rows: list[dict[str, Any]] = [
            {
                **{"review_id": uuid4().hex, "transaction_id": name, "answer": answer},
                **{"analyst": who, "note": note or None, "answered_at": now},
            }
            for name in asked
        ]
        columns = pa.Table.from_pylist(rows)
        held = pa.array([held_until] * len(rows), pa.timestamp("us"))
        if rows:
            session.append("reviews", columns.append_column("held_until", held))
        if not hold_s > 0:
            _teach(session, rows, there)
    return [row["review_id"] for row in rows]


def undo(
    store: Store, review_ids: Sequence[str], *, analyst: str, now: dt.datetime | None = None
) -> list[str]:
    """Take answers back, all of them or none; the transactions they were about.

    Raises
    ------
    InputError
        There is no such answer, it is somebody else's, or it was taken back or is a label already.
    """
    import pyarrow as pa

    who, asked, now = named(analyst), list(dict.fromkeys(review_ids)), now or utc_now()
    if not asked:
        raise InputError("Say which answers to take back.")
    with store.writing(checkpoint=False) as session:
        found = {
            row["review_id"]: row
            for row in session.rows(
                """SELECT review_id, transaction_id, analyst, undoes, answered_at, held_until,
                  review_id IN (SELECT undoes FROM reviews WHERE undoes IS NOT NULL) AS undone,
                  review_id IN (SELECT review_id FROM taught) AS taught
                FROM reviews WHERE list_contains(?, review_id)""",
                [asked],
            )
        }
        for review_id in asked:
            row = found.get(review_id)
            if row is None or row["undoes"] is not None:
                raise InputError(f"There is no answer {review_id!r}.")
            if row["analyst"] != who:
                raise InputError(f"That answer is {row['analyst']}'s; only they can take it back.")
            if row["undone"]:
                raise InputError("That answer was taken back already.")
            if row["taught"] or row["held_until"] is None or now >= row["held_until"]:
                raise InputError(
                    "It is too late to take that answer back; give the other one instead."
                )
        rows = [
            {
                **{"review_id": uuid4().hex, "transaction_id": found[name]["transaction_id"]},
                **{"answer": UNDO, "analyst": who, "answered_at": now, "undoes": name},
            }
            for name in asked
        ]
        session.append("reviews", pa.Table.from_pylist(rows))
    return [row["transaction_id"] for row in rows]


def settle(source: Store | Session, *, now: dt.datetime | None = None) -> int:
    """Make labels of the answers that can no longer be taken back; how many.

    Of an answer that seems to come from the future, the clock was set back, nobody knows when its
    time is over: it is.
    """
    if isinstance(source, Store):
        if not held(source, now=now):  # nothing to write: nobody has to wait
            return 0
        try:
            with source.writing(checkpoint=False) as session:
                return settle(session, now=now)
        except StoreError:
            if held(source, now=now):
                raise
            return 0  # another process did at this very moment
    due = held(source, now=now)
    if not due:
        return 0
    import pyarrow as pa

    rows = source.rows(
        "SELECT review_id, transaction_id, answer FROM reviews WHERE list_contains(?, review_id) "
        "ORDER BY rowid",
        [due],
    )
    _teach(source, rows, _times(source, [row["transaction_id"] for row in rows]))
    moments = pa.array([now or utc_now()] * len(due), pa.timestamp("us"))
    source.append("taught", pa.table({"review_id": due, "taught_at": moments}))
    return len(rows)


def held(source: Store | Session, *, now: dt.datetime | None = None) -> list[str]:
    """Answers that can no longer be taken back and are no labels yet, the oldest first."""
    moment = now or utc_now()
    return [row["review_id"] for row in source.rows(_TOLD, [moment, moment])]


def _times(session: Session, transaction_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """When the transactions were, and what time it is on their clock."""
    found = session.rows(
        f"SELECT transaction_id, ts, ({NEWEST}) AS newest FROM transactions "
        "WHERE list_contains(?, transaction_id)",
        [list(transaction_ids)],
    )
    return {row["transaction_id"]: row for row in found}


def _teach(
    session: Session, rows: Sequence[dict[str, Any]], times: dict[str, dict[str, Any]]
) -> None:
    import pyarrow as pa

    after_seq = session.last_seq()
    labels = [
        {
            "transaction_id": row["transaction_id"],
            "is_fraud": ANSWERS[row["answer"]],
            "known_at": max(
                times[row["transaction_id"]]["ts"], times[row["transaction_id"]]["newest"]
            ),
            "source": "review",
            "after_seq": after_seq,
        }
        for row in rows
    ]
    if labels:
        session.append("labels", pa.Table.from_pylist(labels))
