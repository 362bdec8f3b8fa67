"""Allow and deny lists and snoozed customers: what people decided, until when, who and why.

Entries are only ever added: one that ends before its time is ended by another row, with who and
why. They act on transactions that arrive after them, by the time of the transaction; the score is
not touched, and a replay of the history uses the decisions that were given then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.errors import InputError, did_you_mean
from aegis_core.machine import utc_now
from aegis_core.review.answers import NEWEST
from aegis_core.schema import LIST_KINDS, SNOOZE_DAYS
from aegis_core.store import Store, audit
from aegis_core.store.session import Session

FIELDS = {"customer": "customer_id", "merchant": "merchant_id"}
"""What an entry may speak of, and the column that holds it."""
_WORDS = {"deny": "on the deny list", "allow": "on the allow list", "snooze": "snoozed"}


@dataclass(frozen=True)
class Entry:
    """An entry: `kind` of `schema.LIST_KINDS`, `field` a key of `FIELDS`, no `until` for ever."""

    entry_id: str
    kind: str
    field: str
    value: str
    until: pd.Timestamp | None
    who: str
    why: str
    added_at: datetime

    def sentence(self) -> str:
        """What the entry says, for a verdict's reasons."""
        end = "" if self.until is None else f" until {self.until:%Y-%m-%d %H:%M} UTC"
        return f"{self.field} {self.value} is {_WORDS[self.kind]}{end}: {self.why}"


def add(
    store: Store,
    kind: str,
    value: str,
    *,
    field: str = "customer",
    until: str | pd.Timestamp | None = None,
    who: str,
    why: str,
    most_days: float = SNOOZE_DAYS,
) -> Entry:
    """Add an entry, which acts from the next transaction on.

    `deny` blocks, `allow` approves, whatever the score; `snooze` approves what would have gone to
    review, and leaves blocks as they are. `value` is the customer's or merchant's id, `until` says
    when it ends (UTC, a date or a time); a snooze needs an end, at most `most_days` after the
    newest transactions.

    Raises
    ------
    InputError : Something is missing or not one of what is possible.
    """
    if kind not in LIST_KINDS:
        raise InputError(
            f"{kind!r} is no list; there are {', '.join(LIST_KINDS)}."
            + did_you_mean(kind, LIST_KINDS)
        )
    if field not in FIELDS:
        raise InputError(f"A list speaks of a customer or a merchant, not of {field!r}.")
    if kind == "snooze" and field != "customer":
        raise InputError("Only a customer can be snoozed; put the merchant on the allow list.")
    given = {"value": value, "who": who, "why": why}
    if empty := [name for name, text in given.items() if not text.strip()]:
        raise InputError(f"An entry needs {' and '.join(empty)}.")
    end = _end(until)
    if kind == "snooze" and end is None:
        raise InputError("A snooze needs an end: give until, such as 2026-03-31.")
    entry = Entry(uuid4().hex[:8], kind, field, value, end, who.strip(), why.strip(), utc_now())
    with store.changing() as session:
        if kind == "snooze" and end is not None:
            _require_near(session, end, most_days)
        session.append("lists", pd.DataFrame([vars(entry)]))
        told = {"entry_id": entry.entry_id, "until": entry.until, "why": entry.why}
        audit.record(session, entry.who, f"{kind} list", f"{field} {value}", told)
    return entry


def end(store: Store, entry_id: str, *, who: str, why: str) -> Entry:
    """Take an entry off its list before its time; the entry.

    Raises
    ------
    InputError : There is no such entry on a list, or who or why is missing.
    """
    if empty := [name for name, text in (("who", who), ("why", why)) if not text.strip()]:
        raise InputError(f"Ending an entry needs {' and '.join(empty)}.")
    with store.changing() as session:
        there = {entry.entry_id: entry for entry in current(session)}
        if entry_id not in there:
            raise InputError(
                f"No list has an entry {entry_id!r}." + did_you_mean(entry_id, list(there))
            )
        entry = there[entry_id]
        given = {"who": who.strip(), "why": why.strip(), "added_at": utc_now(), "ends": entry_id}
        ended = vars(entry) | {"entry_id": uuid4().hex[:8]} | given
        session.append("lists", pd.DataFrame([ended]))
        told = {"entry_id": entry_id, "why": given["why"]}
        about = f"{entry.field} {entry.value}"
        audit.record(session, who, f"end {entry.kind} list", about, told)
    return entry


def current(source: Store | Session) -> list[Entry]:
    """Entries that were not ended, the oldest first; those past their time as well."""
    rows = source.rows(
        "SELECT * EXCLUDE ends FROM lists WHERE ends IS NULL AND entry_id NOT IN "
        "(SELECT ends FROM lists WHERE ends IS NOT NULL) ORDER BY added_at, entry_id"
    )
    return [
        Entry(**row | {"until": pd.Timestamp(row["until"]) if row["until"] else None})
        for row in rows
    ]


def rulings(
    entries: list[Entry], frame: pd.DataFrame
) -> tuple[npt.NDArray[np.int8], dict[int, tuple[str, str]]]:
    """What the entries say of the transactions of `frame`.

    Of several entries the kind that comes first in `schema.LIST_KINDS` decides.

    Returns
    -------
    rulings : of shape (n,), for `Scorer.run`.
    listed : for each row that an entry speaks of, the entry's id and its sentence.
    """
    out, listed = np.zeros(len(frame), np.int8), {}
    about: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        about.setdefault(FIELDS[entry.field], {}).setdefault(entry.value, []).append(entry)
    moments = frame["ts"]
    for column, by_value in about.items():
        if column not in frame:
            continue
        named = frame[column].isin(by_value.keys()).to_numpy()
        for i in np.flatnonzero(named).tolist():
            for entry in by_value[frame[column].iloc[i]]:
                kind = 1 + LIST_KINDS.index(entry.kind)
                ended = entry.until is not None and moments.iloc[i] >= entry.until
                if not ended and (not out[i] or kind < out[i]):
                    out[i] = kind
                    listed[i] = entry.entry_id, entry.sentence()
    return out, listed


def _require_near(session: Session, end: pd.Timestamp, most_days: float) -> None:
    """Refuse an end that is too far ahead on the transactions' clock, or on ours without any.

    Where live ones begin after a history of long ago, the newest of all that is not ahead of our
    clock counts.
    """
    now, sql = utc_now(), f"SELECT ({NEWEST}) AS usual, max(ts) AS last FROM transactions"
    (newest,) = session.rows(sql)
    moment = max(newest["usual"], min(newest["last"], now)) if newest["last"] else now
    latest = moment + timedelta(days=most_days)
    if end > latest:
        raise InputError(
            f"A snooze lasts {most_days:g} days at most (snooze_days in aegis.toml): until may be "
            f"{latest:%Y-%m-%d %H:%M} at the latest, not {end:%Y-%m-%d %H:%M}."
        )


def _end(until: str | pd.Timestamp | None) -> pd.Timestamp | None:
    if until is None or until == "":
        return None
    try:
        end = pd.Timestamp(until)
        if not pd.isna(end):
            return end.tz_convert("UTC").tz_localize(None) if end.tz else end
    except ValueError:
        pass
    raise InputError(f"until must be a date or time (UTC) such as 2026-03-31, not {until!r}.")
