"""Analysts' answers: kept as they were given, taken back within seconds, and taught after that.

Rows are only ever added. An answer is a row of `reviews` at once. As long as it may be taken back,
until `held_until`, it is no label; `publish` makes it one when that time is over, and nothing else
makes labels of answers. One that was taken back never becomes a label, so that no learner hears of
it, and since the place of a label in the order of arrival is the moment in which it was written, a
replay needs to know nothing of all this.

Who publishes: whoever answers, live scoring before it goes on, and a training before it begins. An
answer whose process was killed is published by the next of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from aegis_core.errors import InputError, StoreError, did_you_mean
from aegis_core.machine import utc_now
from aegis_core.schema import ANSWERED, ANSWERS
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

_DUE: Final = """
    SELECT r.review_id FROM reviews r
    WHERE r.undoes IS NULL AND r.held_until IS NOT NULL
      AND (r.held_until <= ? OR r.answered_at > ?)
      AND r.review_id NOT IN (SELECT undoes FROM reviews WHERE undoes IS NOT NULL)
      AND r.review_id NOT IN (SELECT review_id FROM taught)
    ORDER BY r.rowid"""


def named(analyst: str) -> str:
    """The analyst's name, trimmed.

    Raises
    ------
    InputError : Nobody says who answers, or the name is no name.
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
    hold_s : how long the answer may be taken back; it becomes a label after that.

    Raises
    ------
    InputError : There is no such transaction or answer, or nobody says who answers.
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
    who, ids, now = named(analyst), list(dict.fromkeys(transaction_ids)), now or utc_now()
    held_until = now + dt.timedelta(seconds=max(0.0, hold_s))
    with store.writing(checkpoint=False) as session:
        there = _known_at(session, ids)
        if missing := [name for name in ids if name not in there]:
            raise InputError(f"There is no transaction {missing[0]!r}.")
        rows: list[dict[str, Any]] = [
            {
                "review_id": uuid4().hex,
                "transaction_id": name,
                "answer": answer,
                "analyst": who,
                "note": note or None,
                "answered_at": now,
                "held_until": held_until,
            }
            for name in ids
        ]
        if rows:
            session.append("reviews", pa.Table.from_pylist(rows))
        publish(session, now=now)
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

    who, ids, now = named(analyst), list(dict.fromkeys(review_ids)), now or utc_now()
    if not ids:
        raise InputError("Say which answers to take back.")
    with store.writing(checkpoint=False) as session:
        found = {
            row["review_id"]: row
            for row in session.rows(
                """SELECT review_id, transaction_id, analyst, undoes, answered_at, held_until,
                  review_id IN (SELECT undoes FROM reviews WHERE undoes IS NOT NULL) AS undone,
                  review_id IN (SELECT review_id FROM taught) AS taught
                FROM reviews WHERE list_contains(?, review_id)""",
                [ids],
            )
        }
        for review_id in ids:
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
                "review_id": uuid4().hex,
                "transaction_id": found[name]["transaction_id"],
                "answer": UNDO,
                "analyst": who,
                "answered_at": now,
                "undoes": name,
            }
            for name in ids
        ]
        session.append("reviews", pa.Table.from_pylist(rows))
    return [row["transaction_id"] for row in rows]


def publish(source: Store | Session, *, now: dt.datetime | None = None) -> int:
    """Make labels of the answers that can no longer be taken back; how many.

    Of an answer that seems to come from the future, the clock was set back, nobody knows when its
    time is over: it is. One about a transaction that was forgotten meanwhile teaches nobody, and
    becomes none.
    """
    ids = due(source, now=now)
    if not ids:  # nothing to write: nobody has to wait
        return 0
    if isinstance(source, Store):
        try:
            with source.writing(checkpoint=False) as session:
                return publish(session, now=now)
        except StoreError:
            if due(source, now=now):
                raise
            return 0  # another process did at this very moment
    import pyarrow as pa

    rows = source.rows(
        "SELECT review_id, transaction_id, answer FROM reviews WHERE list_contains(?, review_id) "
        "ORDER BY rowid",
        [ids],
    )
    known_at, after_seq = _known_at(source, [r["transaction_id"] for r in rows]), source.last_seq()
    labels = [
        {
            "transaction_id": row["transaction_id"],
            "is_fraud": ANSWERS[row["answer"]],
            "known_at": known_at[row["transaction_id"]],
            "source": ANSWERED,
            "after_seq": after_seq,
        }
        for row in rows
        if row["transaction_id"] in known_at
    ]
    if labels:
        source.append("labels", pa.Table.from_pylist(labels))
    moments = pa.array([now or utc_now()] * len(ids), pa.timestamp("us"))
    source.append("taught", pa.table({"review_id": ids, "taught_at": moments}))
    return len(labels)


def due(source: Store | Session, *, now: dt.datetime | None = None) -> list[str]:
    """Answers that can no longer be taken back and are no labels yet, the oldest first."""
    moment = now or utc_now()
    return [row["review_id"] for row in source.rows(_DUE, [moment, moment])]


def _known_at(session: Session, transaction_ids: Sequence[str]) -> dict[str, dt.datetime]:
    """What time it is on the transactions' clock, or theirs where that is later; of those there."""
    found = session.rows(
        f"SELECT transaction_id, greatest(ts, ({NEWEST})) AS known_at FROM transactions "
        "WHERE list_contains(?, transaction_id)",
        [list(transaction_ids)],
    )
    return {row["transaction_id"]: row["known_at"] for row in found}
