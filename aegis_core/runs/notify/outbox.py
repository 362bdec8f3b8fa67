"""The table `notifications`: what waits, what is being sent, what was sent, and what failed.

An event becomes a row for each address in the commit that moves the cursor, so it is there exactly
once. Rows that go out together share a `message_id`, which is committed, with the attempt, before
anything is sent; the outcome is committed after it. So a notifier that is killed in between leaves
rows that are `sending`: they are sent again with the same text and number (at least once), or given
up as `unknown` where the rule says `at_most_once`.

Status: `waiting` → `sending` → `sent`, or back to `waiting` after a failure, or `failed` after
`MAX_ATTEMPTS`; `counted` was only counted in a message; `repeat` is no worse than what was told of
it a short time ago; `old` was there before the rule; `unknown` may have been sent; `dropped` has no
rule any more.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from aegis_core.config import NotifyRule
from aegis_core.runs.notify.events import Event
from aegis_core.schema import ENTITIES, WORTH, WORTH_IN
from aegis_core.store import Store
from aegis_core.store.floods import campaigns, plain, shared
from aegis_core.store.session import Session
from aegis_core.units.money import worth

MAX_ATTEMPTS: Final = 56
"""Then a message is given up: after two days."""
FIRST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_S: Final = 3600.0
TOLD_IN_FULL: Final = 25
"""Events of a digest that are told in full, the worst; the others are counted."""
_FACTS: Final = f"""
    SELECT 'verdict' AS what, v.transaction_id AS event, v.risk, v.risk * {WORTH} AS weight,
      v.decision, v.scored_at, v.reasons[1].code AS code, {WORTH} AS amount,
      {WORTH_IN} AS currency, t.customer_id, {", ".join(f"t.{name}" for name in ENTITIES)}
    FROM verdicts v JOIN transactions t ON t.seq = v.seq WHERE v.decision != 'approve'
    QUALIFY row_number() OVER (PARTITION BY v.transaction_id ORDER BY v.seq) = 1"""
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
    targets: Iterable[str],
    events: Sequence[Event],
    before: Mapping[str, str],
    after: Mapping[str, str],
    now: datetime,
) -> None:
    """Put events into the outbox for each target and move the cursors, in one commit."""
    if not events and dict(before) == {**before, **after}:
        return
    with store.writing(checkpoint=False) as session:
        known = _told(session, rule, events, now) if events else {}
        rows: list[dict[str, Any]] = []
        for event in sorted(events, key=lambda event: -event.bad[0]):
            for target in targets:
                key = (target, event.what, event.dedupe_key)
                first_look = event.what in after and event.what not in before
                told = known.get(key)
                again = told is not None and all(
                    new <= old for new, old in zip(event.bad, told, strict=True)
                )
                status = "old" if first_look else "repeat" if again else "waiting"
                if rule.dedupe_hours and status == "waiting":
                    known[key] = tuple(map(max, zip(event.bad, told or event.bad, strict=True)))
                rows.append(_row(rule, target, event, status, now, len(rows)))
        if rows:
            session.append("notifications", pa.Table.from_pylist(rows))
        for what, position in after.items():
            session.execute(
                "DELETE FROM notify_cursors WHERE rule = ? AND what = ?", [rule.name, what]
            )
            moved = [rule.name, what, position]
            session.execute("INSERT INTO notify_cursors VALUES (?, ?, ?)", moved)


def _told(
    session: Session, rule: NotifyRule, events: Sequence[Event], now: datetime
) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """What was told a short time ago or is going to be, with the worst of each as in `Event`."""
    found = session.rows(
        f"""SELECT target, what, dedupe_key, coalesce(max(risk * amount), 0) AS stake,
          coalesce(max(risk), 0) AS risk, coalesce(bool_or(decision = 'block'), false) AS blocked
        FROM notifications LEFT JOIN ({_FACTS}) USING (what, event)
        WHERE rule = $rule AND created_at > $since AND created_at <= $now
          AND status IN ('waiting', 'sending', 'sent', 'unknown')
          AND list_contains($keys, dedupe_key)
        GROUP BY ALL""",
        {
            "rule": rule.name,
            "since": now - timedelta(hours=rule.dedupe_hours),
            "now": now,
            "keys": sorted({event.dedupe_key for event in events}),
        },
    )
    names = ("stake", "risk", "blocked")
    return {
        (row["target"], row["what"], row["dedupe_key"]): tuple(row[name] for name in names)
        for row in found
    }


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
            f"SELECT * FROM notifications LEFT JOIN ({_FACTS}) USING (what, event) "
            "WHERE rule = ? AND target = ? AND status = 'waiting' "
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


def settle(
    store: Store, rows: Rows, told: Container[str], error: str | None, now: datetime
) -> None:
    """Commit what became of a message; `told` has the ids of what it did not only count."""
    attempts = rows[0]["attempts"] + 1
    if error is None:
        for status, these in (("sent", True), ("counted", False)):
            chosen = [row for row in rows if (row["notification_id"] in told) == these]
            _update(store, chosen, status=status, sent_at=now, error=None)
    elif attempts >= MAX_ATTEMPTS:
        _update(store, rows, status="failed", error=error)
    else:
        due = now + timedelta(seconds=pause_s(attempts))
        _update(store, rows, status="waiting", due_at=due, error=error)


def composed(rows: Rows, rule: NotifyRule, number: str) -> tuple[str, str, set[str]]:
    """Title, text and the ids of the rows it tells; the same rows and number give the same.

    What is not an alert comes first, then alerts, the worst first; a campaign is told as one, by
    the worst of it.
    """
    foot = f"Aegis, rule {rule.name}, message {number}."
    if len(rows) == 1:
        (row,) = rows
        return row["title"], f"{row['text']}\n\n{foot}", {row["notification_id"]}
    alerts = [row for row in rows if row["weight"] is not None]
    other = [[row] for row in rows if row["weight"] is None]
    groups = [*other, *campaigns(alerts, by_reason=len(rows) > TOLD_IN_FULL)]
    parts = [_part(group) for group in groups[:TOLD_IN_FULL]]
    if more := sum(map(len, groups[TOLD_IN_FULL:])):
        parts.append(f"… and {more:,} more, in the table notifications.")
    told = {group[0]["notification_id"] for group in groups[:TOLD_IN_FULL]}
    return _title(rows, alerts), "\n\n".join([*parts, foot]), told


def _title(rows: Rows, alerts: Rows) -> str:
    names = {
        "verdict": "alert",
        "run": "failed run",
        "drift": "drift alarm",
        "budget": "budget notice",
    }
    counts = Counter(row["what"] for row in rows)
    told = ["storm"] if counts.pop("storm", 0) else []
    told += [
        f"{n:,} {names.get(what, what)}{'s' * (n > 1 and what in names)}"
        for what, n in counts.items()
    ]
    return f"Aegis: {', '.join([*told, *([_stake(alerts)] if alerts else [])])}"


def _stake(alerts: Rows) -> str:
    """The highest risk, and the sum at stake in each currency.

    >>> _stake([{"risk": 99.5, "amount": 10.0, "currency": "EUR"}] * 2)
    'highest risk 99.5, EUR 20.00 at stake'
    """
    sums: Counter[str] = Counter()
    for row in alerts:
        sums[plain(row["currency"] or "", 8)] += row["amount"]
    most = [worth(total, currency or None) for currency, total in sums.most_common(3)]
    others = f" and {len(sums) - 3} more currencies" if len(sums) > 3 else ""
    return f"highest risk {max(r['risk'] for r in alerts):.6g}, {' + '.join(most)}{others} at stake"


def _part(group: Rows) -> str:
    """An event in full, or a campaign in one line before the worst of it."""
    full = f"{group[0]['title'].removeprefix('Aegis: ')}\n{group[0]['text']}"
    if len(group) == 1:
        return full
    times = [row["scored_at"] for row in group]
    minutes = (max(times) - min(times)).total_seconds() // 60 + 1
    customers = len({row["customer_id"] for row in group})
    return (
        f"{len(group):,} alerts {shared(group)} within {minutes:,.0f} min, of {customers:,} "
        f"customer{'s' * (customers > 1)}: {_stake(group)}. The worst of them:\n{full}"
    )


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
