"""The table `notifications`: what waits, what is being sent, what was sent, and what failed.

An event becomes a row for each address in the commit that moves the cursor, so it is there exactly
once. Rows that go out together share a `message_id`, which is committed, with the attempt, before
anything is sent; the outcome is committed after it. So a notifier that is killed in between leaves
rows that are `sending`: they are sent again with the same text and number (at least once), or given
up as `unknown` where the rule says `at_most_once`.

Status: `waiting` → `sending` → `sent`, or back to `waiting` after a failure, or `failed` after
`MAX_ATTEMPTS`; `repeat` was told a short time ago; `old` was there before the rule; `unknown` may
have been sent; `dropped` has no rule any more.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from aegis_core.config import NotifyRule
from aegis_core.runs.notify.events import Event
from aegis_core.runs.notify.sending import address_of
from aegis_core.store import Store

MAX_ATTEMPTS: Final = 56
"""Then a message is given up: after two days."""
FIRST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_S: Final = 3600.0
TOLD_IN_FULL: Final = 25
"""Events of a digest that are told in full; the others are counted."""
Rows = Sequence[Mapping[str, Any]]
"""Rows of the table that go out as one message."""
_HOUR: Final = timedelta(hours=1)
_TOO_FAR: Final = timedelta(days=8)
"""No row is due so much later: then the clock was turned back."""


def is_quiet(rule: NotifyRule, now: datetime) -> bool:
    """Whether the clock on the wall of `rule.zone` shows quiet hours at `now` (UTC, naive).

    >>> rule = NotifyRule(name="a", what=("run",), to=("x://",), quiet="22:00-07:00")
    >>> [is_quiet(rule, datetime(2026, 3, 1, hour)) for hour in (21, 22, 0, 6, 7)]
    [False, True, True, True, False]
    """
    if rule.hours is None:
        return False
    start, end = rule.hours
    wall = now.replace(tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo(rule.zone)).time()
    if start <= end:
        return start <= wall < end
    return wall >= start or wall < end


def pause_s(attempts: int) -> float:
    """Seconds until a message that failed so often is tried again.

    >>> [pause_s(n) for n in (1, 2, 8, 50)]
    [30.0, 60.0, 3600.0, 3600.0]
    """
    return min(FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE_S)


def cursors(store: Store, rule: str) -> dict[str, str]:
    """Where the last look of a rule ended, by what it tells."""
    rows = store.rows("SELECT what, position FROM notify_cursors WHERE rule = ?", [rule])
    return {row["what"]: row["position"] for row in rows}


def keep(
    store: Store,
    rule: NotifyRule,
    events: Sequence[Event],
    before: Mapping[str, str],
    after: Mapping[str, str],
    now: datetime,
) -> None:
    """Put events into the outbox and move the cursors, in one commit."""
    if not events and dict(before) == {**before, **after}:
        return
    with store.writing(checkpoint=False) as session:
        since = now - timedelta(hours=rule.dedupe_hours)
        told = session.rows(
            "SELECT DISTINCT target, what, dedupe_key FROM notifications WHERE rule = ? "
            "AND created_at > ? AND created_at <= ? AND status NOT IN ('old', 'repeat')",
            [rule.name, since, now],
        )
        known = {(row["target"], row["what"], row["dedupe_key"]) for row in told}
        rows: list[dict[str, Any]] = []
        for event in events:
            for reference in rule.to:
                target = address_of(reference.get_secret_value())
                key = (target, event.what, event.dedupe_key)
                first_look = event.what in after and event.what not in before
                status = "old" if first_look else "repeat" if key in known else "waiting"
                if rule.dedupe_hours and status == "waiting":
                    known.add(key)
                rows.append(_row(rule, target, event, status, now, len(rows)))
        if rows:
            session.append("notifications", pa.Table.from_pylist(rows))
        for what, position in after.items():
            session.execute(
                "DELETE FROM notify_cursors WHERE rule = ? AND what = ?", [rule.name, what]
            )
            moved = [rule.name, what, position]
            session.execute("INSERT INTO notify_cursors VALUES (?, ?, ?)", moved)


def recover(store: Store, rules: Sequence[NotifyRule]) -> None:
    """Take care of what a notifier left behind that was killed, and of rules that are gone."""
    left = store.rows("SELECT * FROM notifications WHERE status IN ('waiting', 'sending')")
    once = {rule.name: rule.at_most_once for rule in rules}
    gone = [row for row in left if row["rule"] not in once]
    sending = [row for row in left if row["rule"] in once and row["status"] == "sending"]
    unsure = "It may have been sent before the notifier ended;"
    for rows, status, error in (
        (gone, "dropped", "The rule is gone from aegis.toml."),
        ([row for row in sending if once[row["rule"]]], "unknown", f"{unsure} not sent again."),
        ([row for row in sending if not once[row["rule"]]], "waiting", f"{unsure} sent again."),
    ):
        _update(store, rows, status=status, error=error)


def next_message(
    store: Store, rule: NotifyRule, target: str, now: datetime
) -> list[dict[str, Any]]:
    """The rows that go out to an address now, as one message; none if nothing may.

    A message that failed goes again as it was, before anything newer. Otherwise all that waits goes
    once the first of it is due, unless the hours are quiet or the hour has had its messages.
    """
    if is_quiet(rule, now):
        return []
    with store.reading() as session:
        waiting = session.rows(
            "SELECT * FROM notifications WHERE rule = ? AND target = ? AND status = 'waiting' "
            "ORDER BY created_at, notification_id",
            [rule.name, target],
        )
        if not waiting:
            return []
        sent = session.rows(
            "SELECT count(DISTINCT message_id) AS n FROM notifications WHERE rule = ? "
            "AND target = ? AND tried_at > ? AND tried_at <= ?",
            [rule.name, target, now - _HOUR, now],
        )[0]["n"]
    again = [row["message_id"] for row in waiting if row["message_id"]]
    message = [row for row in waiting if row["message_id"] == again[0]] if again else waiting
    due = any(row["due_at"] <= now or row["due_at"] > now + _TOO_FAR for row in message)
    return message if due and (again or sent < rule.per_hour) else []


def claim(store: Store, rows: Rows, now: datetime) -> str:
    """Commit that a message is about to be sent; its number."""
    number: str = rows[0]["message_id"] or uuid.uuid4().hex[:12]
    attempts = rows[0]["attempts"] + 1
    _update(store, rows, status="sending", message_id=number, tried_at=now, attempts=attempts)
    return number


def settle(store: Store, rows: Rows, error: str | None, now: datetime) -> None:
    """Commit what became of a message."""
    attempts = rows[0]["attempts"] + 1
    if error is None:
        _update(store, rows, status="sent", sent_at=now, error=None)
    elif attempts >= MAX_ATTEMPTS:
        _update(store, rows, status="failed", error=error)
    else:
        due = now + timedelta(seconds=pause_s(attempts))
        _update(store, rows, status="waiting", due_at=due, error=error)


def composed(rows: Rows, rule: NotifyRule, number: str) -> tuple[str, str]:
    """Title and text of a message; the same rows and number give the same."""
    foot = f"Aegis, rule {rule.name}, message {number}."
    if len(rows) == 1:
        return rows[0]["title"], f"{rows[0]['text']}\n\n{foot}"
    names = {"verdict": "alert", "run": "failed run", "drift": "drift alarm"}
    told = [
        f"{n} {names.get(what, what)}{'s' * (n > 1 and what in names)}"
        for what, n in Counter(row["what"] for row in rows).items()
    ]
    parts = [f"{row['title'].removeprefix('Aegis: ')}\n{row['text']}" for row in rows]
    if len(parts) > TOLD_IN_FULL:
        more = len(parts) - TOLD_IN_FULL
        parts = [*parts[:TOLD_IN_FULL], f"… and {more:,} more, in the table notifications."]
    return f"Aegis: {', '.join(told)}", "\n\n".join([*parts, foot])


def log(
    store: Store, rule: NotifyRule, target: str, event: Event, error: str | None, now: datetime
) -> None:
    """Keep what was sent past the outbox in the delivery log."""
    row = _row(rule, target, event, "failed" if error else "sent", now)
    row |= {"attempts": 1, "tried_at": now, "message_id": uuid.uuid4().hex[:12]}
    row |= {"error": error} if error else {"sent_at": now}
    with store.writing(checkpoint=False) as session:
        session.append("notifications", pa.Table.from_pylist([row]))


def _row(
    rule: NotifyRule, target: str, event: Event, status: str, now: datetime, place: int = 0
) -> dict[str, Any]:
    return {
        "notification_id": f"{now:%Y%m%d%H%M%S%f}-{place:05d}-{uuid.uuid4().hex[:6]}",
        "rule": rule.name,
        "target": target,
        "what": event.what,
        "event": event.event,
        "dedupe_key": event.dedupe_key,
        "title": event.title,
        "text": event.text,
        "status": status,
        "attempts": 0,
        "created_at": now,
        "due_at": now + timedelta(minutes=rule.digest_minutes),
    }


def _update(store: Store, rows: Rows, **values: object) -> None:
    if not rows:
        return
    changes = ", ".join(f"{name} = ?" for name in values)
    ids = [row["notification_id"] for row in rows]
    with store.writing(checkpoint=False) as session:
        session.execute(
            f"UPDATE notifications SET {changes} WHERE list_contains(?, notification_id)",
            [*values.values(), ids],
        )
