"""Notification: mail, SMS, chat and webhooks for alerts, failed runs, drift and a service down.

A process of its own that reads the database as any client does, so that one which is down or waits
for a mail server slows nothing. `outbox` tells what is promised when it is killed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from types import FrameType
from typing import Any, Final

from aegis_core.config import NotifyRule, Settings
from aegis_core.errors import AegisError, InputError, NotReady, StoreError, did_you_mean
from aegis_core.machine import stop_signals, utc_now
from aegis_core.runs import ledger
from aegis_core.runs.notify import outbox
from aegis_core.runs.notify.events import Event, look, service_event, service_state
from aegis_core.runs.notify.sending import address_of, recipients, send
from aegis_core.store import Store
from aegis_core.store.floods import plain, storm

__all__ = ["Event", "Notifier", "listed", "plain", "run", "try_out"]

LOOK_S: Final = 5.0
"""How often the notifier looks for something to tell."""
PATIENCE: Final = 2
"""So many looks in a row must find the service down before it is told."""
STUCK_S: Final = 60.0
"""A database whose owner does not answer for so long counts as a service that is down."""
_COUNTED: Final = """
    SELECT rule, target, count(*) FILTER (status IN ('waiting', 'sending')) AS waiting,
      count(DISTINCT message_id) FILTER (status = 'sent') AS sent,
      count(*) FILTER (status IN ('failed', 'unknown')) AS failed,
      max(sent_at) AS last_sent, arg_max(error, tried_at) AS last_error
    FROM notifications GROUP BY ALL
"""
Send = Callable[..., str | None]
"""Given address, title, text and the mark of one recipient if there are several."""


class Notifier:
    """Looks for events and sends them by the rules.

    Parameters
    ----------
    clock : the time (UTC, naive).
    sender
        Given address, title and text, and of several recipients the mark of one, sends; None, or
        why it failed.

    Raises
    ------
    InputError : There is no rule, or an address cannot be used.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock: Callable[[], datetime] | None = None,
        sender: Send = send,
    ) -> None:
        self.store, self.settings, self.rules = store, settings, chosen(settings)
        self.clock, self.sender = clock or utc_now, sender
        self._down: dict[str, int] = {}
        self._asked: float | None = None  # since when the database owes an answer
        self._stuck: dict[str, list[tuple[NotifyRule, str, Event, str | None, datetime]]] = {}
        self._targets = {rule.name: _targets(rule) for rule in self.rules}

    def recover(self) -> None:
        """Take up what an earlier notifier left; once, before the first `tick`."""
        outbox.recover(self.store, self.rules)

    def tick(self) -> int:
        """Look once, send what is due; the number of messages that went out.

        Nothing is lost by a `StoreError`; the next tick goes on.
        """
        self._asked = time.monotonic()
        try:
            for rule in self.rules:
                self.collect(rule)
            for rule in self.rules:
                self._answered(rule)
            return sum(self.deliver(rule) for rule in self.rules)
        finally:
            self._asked = None

    def watch(self) -> None:
        """Tell of a service that hangs, from another thread than that of `tick`.

        Such a service owns the database, so that nothing can be put into the outbox: the message
        goes out past it, once, and comes into the log when the database answers again.
        """
        asked = self._asked
        if asked is None or time.monotonic() - asked < STUCK_S:
            return
        for rule in self.rules:
            now = self.clock()
            if "service" not in rule.what or rule.name in self._stuck or outbox.is_quiet(rule, now):
                continue
            event = service_event(self.store, rule, "down", f"{now:%Y-%m-%d %H:%M:%S}")
            kept = self._stuck[rule.name] = []
            for target, to in self._targets[rule.name].items():
                error = self._sent(to, event.title, event.text)
                kept.append((rule, target, event, error, now))

    def collect(self, rule: NotifyRule) -> None:
        """Put what is new for a rule into the outbox."""
        before = outbox.cursors(self.store, rule.name)
        events, after = look(self.store, self.settings, rule, before)
        if "service" in rule.what:
            event, state = self._service(rule, before.get("service", "off"))
            before = {"service": "off", **before}
            after["service"] = state
            events += [event] if event else []
        if "verdict" in rule.what:
            weather, after["storm"] = self._storm(before.get("storm", ""))
            before = {"storm": "", **before}
            events += [weather] if weather else []
        targets = self._targets[rule.name]
        outbox.keep(self.store, rule, targets, events, before, after, self.clock())

    def deliver(self, rule: NotifyRule) -> int:
        """Send at most one message to each address of a rule; how many arrived."""
        arrived = 0
        for target, to in self._targets[rule.name].items():
            rows = outbox.next_message(self.store, rule, target, self.clock())
            if rows:
                number = outbox.claim(self.store, rows, self.clock())
                title, text, told = outbox.composed(rows, rule, number)
                self._asked = None  # now it is the address that owes an answer
                error = self._sent(to, title, text)
                self._asked = time.monotonic()
                outbox.settle(self.store, rows, told, error, self.clock())
                arrived += error is None
        return arrived

    def _sent(self, to: tuple[str, ...], title: str, text: str) -> str | None:
        """Send to a recipient; None, or why it failed."""
        reference, *only = to
        return self.sender(reference, title, text, *only)

    def _storm(self, before: str) -> tuple[Event | None, str]:
        """What to tell of a storm that began, and since when there is one; "" for none."""
        now = self.clock()
        with self.store.reading() as session:
            found = storm(session, self.settings.storm_multiple, now)
        if found is None or before:
            return None, before if found else ""
        since = f"{now:%Y-%m-%d %H:%M:%S}"
        title = f"Aegis: storm, {found.n:,} alerts where {found.forecast:,.0f} were forecast"
        return Event("storm", since, since, title, found.told()), since

    def _answered(self, rule: NotifyRule) -> None:
        """Keep what `watch` sent, and tell that the service is back."""
        sent = self._stuck.pop(rule.name, [])
        for entry in sent:
            outbox.log(self.store, *entry)
        if sent:
            now = self.clock()
            event = service_event(self.store, rule, "up", f"{now:%Y-%m-%d %H:%M:%S}")
            state = {"service": "up"}
            outbox.keep(self.store, rule, self._targets[rule.name], [event], state, state, now)

    def _service(self, rule: NotifyRule, before: str) -> tuple[Event | None, str]:
        """What to tell of the service, and the state that was told last."""
        state = service_state(self.store, rule)
        seen = self._down[rule.name] = self._down.get(rule.name, 0) + 1 if state == "down" else 0
        if state == "down" and (before == "down" or seen < PATIENCE):
            return None, before
        if state == "off" and before == "down":
            return None, before  # it comes back when it answers
        now = f"{self.clock():%Y-%m-%d %H:%M:%S}"
        told = state == "down" or (state == "up" and before == "down")
        return (service_event(self.store, rule, state, now) if told else None), state


def run(
    store: Store, settings: Settings, *, for_s: float | None = None, every_s: float = LOOK_S
) -> None:
    """Notify in the foreground, until Ctrl-C or SIGTERM, or for so many seconds.

    The first signal lets it finish what it is sending, a second Ctrl-C does not.

    Raises
    ------
    InputError : There is no rule, or an address cannot be used.
    NotReady : There is no database yet.
    RunBusy : Another notifier runs on this database.
    """
    notifier = Notifier(store, settings)
    store.rows("SELECT 1")  # no database: said before anything starts
    ends = None if for_s is None else time.monotonic() + for_s
    with ledger.alone(store.path, "notify"), _until_told() as told:
        threading.Thread(target=_watch, args=[notifier, told], daemon=True).start()
        names = ", ".join(rule.name for rule in notifier.rules)
        print(f"Notifying of {store.path} by the rules {names}; Ctrl-C ends it.", flush=True)
        recovered, complained = False, ""
        while True:
            try:
                if not recovered:
                    notifier.recover()
                    recovered = True
                if sent := notifier.tick():
                    print(f"{utc_now():%Y-%m-%d %H:%M:%S} {sent} sent", flush=True)
                complained = ""
            except (StoreError, NotReady) as e:  # held, or the service just ended: the next will do
                recovered = False  # what went out may not have come into the log
                if str(e) != complained:
                    print(f"{utc_now():%Y-%m-%d %H:%M:%S} {e}", flush=True)
                complained = str(e)
            left = every_s if ends is None else min(every_s, ends - time.monotonic())
            if left <= 0 or told.wait(left):
                return


def try_out(
    store: Store, settings: Settings, name: str = "", sender: Send = send
) -> list[tuple[str, str, str | None]]:
    """Send a test message by a rule, or by all; rule, address and error of each.

    It is sent at once, in quiet hours too, and kept in the log if there is a database.
    """
    text = "This is a test of notification. Nothing happened; no answer is needed."
    found = []
    for rule, reference in _addresses(chosen(settings, name)):
        event = Event("test", f"{utc_now()}", "test", "Aegis: a test", text)
        told = f"{text}\n\nAegis, rule {rule.name}."
        try:
            errors = {
                target: sender(reference, event.title, told, *([only] if only else []))
                for target, only in recipients(reference).items()
            }
        except InputError as e:
            errors = {address_of(reference): str(e)}
        for target, error in errors.items():
            found.append((rule.name, target, error))
            if store.path.exists():
                outbox.log(store, rule, target, event, error, utc_now())
    return found


def listed(store: Store, settings: Settings) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The rules and what became of their messages: names of columns, and a row an address."""
    counts: dict[tuple[str, str], dict[str, Any]] = {}
    with contextlib.suppress(AegisError):  # no database: no messages
        counts = {(row["rule"], row["target"]): row for row in store.rows(_COUNTED)}
    names = ["waiting", "sent", "failed", "last_sent", "last_error"]
    rows = []
    for rule, reference in _addresses(settings.notify):
        try:
            targets = [*recipients(reference)]
        except InputError:  # `test` says what is wrong with it
            targets = [address_of(reference)]
        for target in targets:
            row = counts.get((rule.name, target), {})
            shown = (row.get(name) for name in names)
            rows.append((rule.name, ", ".join(rule.what), target, *shown))
    return ["rule", "what", "to", *names], rows


def chosen(settings: Settings, name: str = "") -> Sequence[NotifyRule]:
    """The rules of the settings, or the one of that name; `InputError` where there is none."""
    if not settings.notify:
        raise InputError(
            'There is no rule. Write one into aegis.toml: [[notify]], name = "mail", '
            'what = ["run", "drift"], to = ["env:AEGIS_MAIL"].'
        )
    names = [rule.name for rule in settings.notify]
    if name and name not in names:
        raise InputError(
            f"There is no rule {name!r}; there are {', '.join(names)}.{did_you_mean(name, names)}"
        )
    return [rule for rule in settings.notify if name in ("", rule.name)]


def _addresses(rules: Sequence[NotifyRule]) -> list[tuple[NotifyRule, str]]:
    """Each rule with each of its addresses, which may be secret."""
    return [(rule, to.get_secret_value()) for rule in rules for to in rule.to]


def _targets(rule: NotifyRule) -> dict[str, tuple[str, ...]]:
    """The recipients of a rule, each told for itself: what the log calls it, and what `send` takes.

    `InputError` where an address cannot be used.
    """
    return {
        target: (reference, only) if only else (reference,)
        for _, reference in _addresses([rule])
        for target, only in recipients(reference).items()
    }


@contextlib.contextmanager
def _until_told() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C and SIGTERM, so that what is being sent is finished first."""
    told = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()

    with stop_signals(end):
        yield told
        told.set()


def _watch(notifier: Notifier, told: threading.Event) -> None:
    """Let the notifier watch itself until it ends."""
    while not told.wait(1.0):
        notifier.watch()
