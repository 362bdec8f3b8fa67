"""The schedule of `aegis.toml`: when its entries are due, and the service that starts them.

Each due time of an entry is one run, whose id is made of both: two schedulers on one database, or
one that was started again, never run it twice. What fell due while no scheduler ran is made up for
once, however often it was.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from typing import Any, Final, TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from aegis_core.config import Entry, Settings
from aegis_core.errors import AegisError, InputError, NotReady, RunFailed, StoreError, did_you_mean
from aegis_core.machine import stop_signals
from aegis_core.runs.execution import LONGEST_BACKOFF_S, run_notebook
from aegis_core.runs.ledger import Due
from aegis_core.runs.parameters import check_parameters
from aegis_core.runs.redaction import secrets_of
from aegis_core.runs.verify import LIVE, verify
from aegis_core.store import connect

_END_S: Final = 30.0
"""How long a run may take to end once the service is stopped."""
_LOOK_EVERY: Final = timedelta(minutes=1)
"""The longest wait for the next due time: the machine's clock may be set meanwhile."""
_AT_ONCE: Final = 10
"""Processes that run at the same time; more wait for one to end."""
RETRY_S: Final = 30.0
"""The first pause after a run that could not even begin; it doubles up to an hour."""
_OF_A_RUN: Final = ("parameters", "retries", "backoff", "on_overlap")
"""What an entry that verifies cannot be given; nor can one of live verdicts a timeout."""
_SETTLED: Final = (0, 2, 4, 5)
"""Exit codes after which the same again would come to the same; see `errors`."""
Live = Callable[[Settings, Due], str]
"""What replays the verdicts that were given: `evaluation.parity.verify_live`."""
_LONGEST_STEPS: Final = (59, 23, 30, 11, 7)
"""Of minute, hour, day of month, month, weekday; a longer one would mean the first alone."""
_NAMED: Final = {
    "Bad day-of-month": "Bad day-of-month, or no month that it names has such a day",
    "Bad day-of-week": "Bad day-of-week; days after Saturday are a range of their own, as in "
    "fri-sat,sun-mon",
}


class Trigger:
    """When a cron expression is due in its time zone, by the rules of Debian's cron.

    Where minute or hour begins with `*`, the clock decides: a time that it skips is not due, one
    that it shows twice is due twice. All others are due once a day: 02:30 at 03:00 where the clock
    skips it, and the first time where it comes twice.

    Parameters
    ----------
    cron : minute, hour, day of month, month, weekday; 0 and 7 are Sunday.

    Raises
    ------
    InputError : The expression or the time zone cannot be read.
    """

    def __init__(self, cron: str, timezone: str = "UTC") -> None:
        self.cron, fields = cron, cron.split()
        try:
            self.timezone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InputError(
                f"There is no time zone {timezone!r}; write one such as Europe/Berlin, or UTC."
            ) from None
        try:
            if len(fields) != 5:
                raise ValueError(f"it has {len(fields)} fields, and five are needed")
            if "*" not in (fields[2][0], fields[4][0]):
                raise ValueError(
                    "give a day of the month or a weekday; for both, write two entries"
                )
            for field, longest in zip(fields, _LONGEST_STEPS, strict=True):
                if any(int(step) > longest for step in re.findall(r"/(\d+)", field)):
                    raise ValueError(f"a step of {field!r} is longer than {longest}")
            CronSim(cron, datetime.now(self.timezone))
        except (CronSimError, ValueError) as e:
            raise InputError(
                f"{cron!r} is no cron expression: {_NAMED.get(str(e), e)}. Write minute, hour, "
                "day of month, month and weekday, such as '30 2 * * 1-5'."
            ) from None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All times (UTC) that are due after `moment`: each once, in their order."""
        for shown in CronSim(self.cron, moment.astimezone(self.timezone)):
            due = shown.astimezone(UTC)
            if due > moment:  # two that the clock skips are due at the same time
                yield due
                moment = due

    def latest(self, since: datetime, now: datetime) -> datetime | None:
        """The last time (UTC) that was due after `since` and until `now`, or None."""
        instant = timedelta(microseconds=1)
        back = CronSim(self.cron, (now + instant).astimezone(self.timezone), reverse=True)
        last = next(back, since)  # somewhat early where the clock shows an hour twice
        times = self.after(max(since, last.astimezone(UTC) - instant))
        return max(itertools.takewhile(lambda due: due <= now, times), default=None)


def check(settings: Settings) -> dict[str, Trigger]:
    """The trigger of each entry; `InputError` names one that cannot be run."""
    found = {}
    for name, entry in settings.schedule.items():
        try:
            if bool(entry.notebook) == bool(entry.verify):
                raise InputError("Give either `notebook` or `verify`.")
            not_its = (*_OF_A_RUN, "timeout") if entry.verify == LIVE else _OF_A_RUN
            idle = [what for what in not_its if what in entry.model_fields_set]
            if entry.verify and idle:
                raise InputError(
                    f"Take out {', '.join(idle)}: a verification repeats a run once, with the "
                    "parameters that it had, and waits for another one to end."
                )
            if entry.verify != LIVE:
                secrets_of(check_parameters(entry.notebook or entry.verify, entry.parameters))
            trigger = found[name] = Trigger(entry.cron, entry.timezone)
            if next(trigger.after(datetime.now(UTC)), None) is None:
                raise InputError(
                    f"{entry.cron!r} is never due: no month that it names has such a day. Write a "
                    "day that there is."
                )
        except InputError as e:
            raise InputError(f"[schedule.{name}] in aegis.toml: {e}") from None
    return found


def listed(settings: Settings, now: datetime | None = None) -> list[dict[str, Any]]:
    """Each entry with the time (UTC) of its next run, and its last run.

    Returns
    -------
    list of dict
        `entry`, `runs` (what), `cron`, `timezone`, `next`, `local` (the same in the entry's time
        zone), and `last`, `status`, `run_id` and `error` of the last run, None before the first.
    """
    last, rows = _last_runs(settings), []
    for name, trigger in check(settings).items():
        entry, ran = settings.schedule[name], last.get(name, {})
        due = next(trigger.after(now or datetime.now(UTC)), None)
        row = {
            "entry": name,
            "runs": entry.notebook or f"verify {entry.verify}",
            "cron": entry.cron,
            "timezone": entry.timezone,
            "next": due,
            "local": due and due.astimezone(trigger.timezone),
        }
        rows.append(row | {key: ran.get(key) for key in ("last", "status", "run_id", "error")})
    return rows


def start(settings: Settings, name: str, live: Live, at: datetime | None = None) -> str:
    """Run an entry in this process, as of the time `at`, or now; what came of it, in a sentence.

    `live` does what `verify = "live"` asks for.

    Raises
    ------
    InputError : There is no such entry.
    AegisError : As `runs.run_notebook` and `verify.verify`; numbers that differ are a `RunFailed`.
    """
    check(settings)
    if name not in settings.schedule:
        known = ", ".join(settings.schedule) or "none"
        raise InputError(
            f"The schedule has no entry {name!r}; it has {known}."
            + did_you_mean(name, settings.schedule)
        )
    entry, due = settings.schedule[name], Due(name, (at or datetime.now(UTC)).replace(tzinfo=None))
    if entry.verify == LIVE:
        return live(settings, due)
    if entry.verify:
        found = verify(entry.verify, settings, progress=False, timeout_s=entry.timeout, due=due)
        told = "\n".join(found.lines())
        if found.differences:
            raise RunFailed(told)
        return told
    result = run_notebook(
        entry.notebook,
        entry.parameters,
        settings,
        progress=False,
        timeout_s=entry.timeout,
        retries=entry.retries,
        backoff_s=entry.backoff,
        on_overlap=entry.on_overlap,
        due=due,
    )
    return f"{entry.notebook}: {result.status} in {result.seconds:.1f} s. {result.told}".strip()


def serve(settings: Settings, live: Live, *, for_s: float | None = None) -> None:
    """Start the entries when they are due, until Ctrl-C, SIGTERM or the end of `for_s` seconds.

    Each run is a process of its own. At the end, those that still run are told to end, and the
    ledger says so. `InputError` where the schedule is empty or cannot be used.
    """
    triggers = check(settings)
    if not triggers:
        raise InputError(
            "The schedule is empty. Write entries into aegis.toml, such as:\n"
            '[schedule.nightly]\ncron = "30 2 * * *"\nnotebook = "evaluate"'
        )
    service = Service(
        settings, triggers, lambda: datetime.now(UTC), functools.partial(started, live)
    )
    for name, trigger in triggers.items():  # each is due some day, as `check` saw
        due = next(trigger.after(datetime.now(UTC)))
        print(f"{name}: next {due:%Y-%m-%d %H:%M} UTC", flush=True)
    stops: queue.SimpleQueue[int] = queue.SimpleQueue()  # a signal may put while this thread gets
    with stop_signals(lambda number, _: stops.put(number)):
        try:
            service.begin()
            stops.get(timeout=for_s)
        except queue.Empty:
            pass
        finally:
            service.end()


def work(live: Live, settings: Settings, name: str, due: datetime) -> None:
    """One run, in a process and a session of its own: Ctrl-C reaches the service alone."""
    os.setsid()
    try:
        _say(name, due, start(settings, name, live, due))
    except AegisError as e:
        _say(name, due, e, sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(e, StoreError | NotReady) else e.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def started(live: Live, settings: Settings, name: str, due: datetime) -> BaseProcess:
    """The process that does the `work` of an entry."""
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(live, settings, name, due), name=name
    )
    process.start()
    return process


class Service:
    """Runs what is due, each in a process of its own.

    Parameters
    ----------
    triggers : of `check`.
    clock : what time it is, with its zone.
    starter : starts the process of an entry for a due time.
    over : is set once nothing more is to be started; waits are waits for it.
    """

    def __init__(
        self,
        settings: Settings,
        triggers: Mapping[str, Trigger],
        clock: Callable[[], datetime],
        starter: Callable[[Settings, str, datetime], BaseProcess],
        over: threading.Event | None = None,
    ) -> None:
        self.settings, self.triggers, self.clock, self.starter = settings, triggers, clock, starter
        self.over = over or threading.Event()
        last, self._done = _last_runs(settings), {}
        for name, entry in settings.schedule.items():
            seen = since(settings, name, entry, clock())
            ran = last[name]["due_at"].replace(tzinfo=UTC) if name in last else seen
            self._done[name] = max(seen, ran)
        self._threads: list[threading.Thread] = []
        self._running: set[BaseProcess] = set()
        self._lock, self._slots = threading.Lock(), threading.Semaphore(_AT_ONCE)

    def begin(self) -> None:
        """Begin with what was missed, and wait for what is due, each entry in its own thread."""
        for name in self.triggers:
            thread = threading.Thread(target=self.keep, args=[name])
            thread.start()
            self._threads.append(thread)

    def keep(self, name: str) -> None:
        """Run an entry whenever it is due, until all is over.

        What fell due meanwhile, or while no scheduler ran, is made up for by one run. One that left
        no row in the ledger, as when the database was busy, is owed and tried again.
        """
        trigger, pause_s = self.triggers[name], RETRY_S
        while not self.over.is_set():
            due = trigger.latest(self._done[name], now := self.clock())
            if due is None:
                look = now + _LOOK_EVERY
                self.over.wait((min(next(trigger.after(now), look), look) - now).total_seconds())
                continue
            try:
                ran = self._run(name, due) in _SETTLED or self._begun(name, due)
            except Exception as e:  # no memory, too many processes, a database that is held
                _say(name, due, e, sys.stderr)
                ran = False
            if ran:
                self._done[name], pause_s = due, RETRY_S
            elif not self.over.is_set():
                _say(name, due, f"it did not begin; tried again in {pause_s:g} s.", sys.stderr)
                self.over.wait(pause_s)
                pause_s = min(LONGEST_BACKOFF_S, 2 * pause_s)

    def _run(self, name: str, due: datetime) -> int | None:
        """Run an entry in a process of its own; how that ended, None where it is too late."""
        with self._slots:
            with self._lock:
                if self.over.is_set():
                    return None
                process = self.starter(self.settings, name, due)
                self._running.add(process)
            process.join()
            with self._lock:
                self._running.discard(process)
        if process.exitcode is not None and process.exitcode < 0:
            by = f"signal {-process.exitcode} ({signal.strsignal(-process.exitcode)})"
            _say(name, due, f"its process was killed by {by}.", sys.stderr)
        return process.exitcode

    def _begun(self, name: str, due: datetime) -> bool:
        """Whether the ledger knows of it; a second start, where it cannot say so, does no harm."""
        asked = "SELECT 1 FROM runs WHERE entry = ? AND due_at = ?"
        return bool(connect(self.settings.db).rows(asked, [name, due.replace(tzinfo=None)]))

    def end(self) -> None:
        """Tell what runs to end, and kill what does not."""
        with self._lock:
            self.over.set()
            for process in self._running:
                process.terminate()
        deadline = time.monotonic() + _END_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for process in self._running:
                process.kill()
        for thread in self._threads:
            thread.join()


def since(settings: Settings, name: str, entry: Entry, now: datetime) -> datetime:
    """The time (UTC) from which on an entry is owed: when a scheduler saw it first, as it is now.

    It is kept in the database, so that a scheduler that starts again knows what it missed.
    """
    key, told = f"schedule:{name}", f"{entry.cron} {entry.timezone}"
    store = connect(settings.db)
    with contextlib.suppress(NotReady):  # no database yet, so nothing was missed
        kept = store.rows("SELECT value FROM meta WHERE key = ?", [key])
        seen, _, of = kept[0]["value"].partition(" ") if kept else ("", "", "")
        if of == told:
            return datetime.fromisoformat(seen)
        value = f"{now.isoformat()} {told}"
        with store.writing() as session:
            session.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])
    return now


def _say(name: str, due: datetime, what: object, out: TextIO | None = None) -> None:
    print(f"{name}, due {due:%Y-%m-%d %H:%M} UTC: {what}", file=out, flush=True)


def _last_runs(settings: Settings) -> dict[str, dict[str, Any]]:
    """The last run of each entry, by the time at which it was due."""
    try:
        rows = connect(settings.db).rows(
            "SELECT entry, run_id, status, started_at AS last, due_at, error FROM runs "
            "WHERE entry IS NOT NULL QUALIFY row_number() OVER "
            "(PARTITION BY entry ORDER BY due_at DESC, started_at DESC) = 1"
        )
    except NotReady:
        return {}
    return {row["entry"]: row for row in rows}
