"""The schedule of `aegis.toml`: when its entries are due, and the service that starts them.

Each due time of an entry is one run, whose id is made of both: two schedulers on one database, or
one that was started again, never run it twice. What fell due while no scheduler ran is made up for
once, however often it was.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

from apscheduler.schedulers.blocking import BlockingScheduler  # type: ignore[import-untyped]

from aegis_core.config import Entry, Settings
from aegis_core.errors import AegisError, InputError, NotReady, RunFailed, StoreError, did_you_mean
from aegis_core.machine import stop_signals
from aegis_core.runs.cron import Trigger
from aegis_core.runs.execution import LONGEST_BACKOFF_S, run_notebook
from aegis_core.runs.ledger import Due
from aegis_core.runs.notebooks import NOTEBOOKS, check_parameters
from aegis_core.runs.redaction import secrets_of
from aegis_core.runs.verify import verify
from aegis_core.store import connect

_END_S: Final = 30.0
"""How long a run may take to end once the service is stopped."""
RETRY_S: Final = 30.0
"""The first pause after a run that could not even begin; it doubles up to an hour."""
_OF_A_RUN: Final = ("parameters", "retries", "backoff", "on_overlap")
"""What an entry that verifies cannot be given."""
_SETTLED: Final = (0, 2, 4)
"""Exit codes after which the same again would come to the same; see `errors`."""


def check(settings: Settings) -> dict[str, Trigger]:
    """The trigger of each entry.

    Raises
    ------
    InputError
        An entry cannot be run; the message names it.
    """
    found = {}
    for name, entry in settings.schedule.items():
        notebook = entry.notebook or entry.verify
        try:
            if bool(entry.notebook) == bool(entry.verify):
                raise InputError("Give either `notebook` or `verify`.")
            idle = [what for what in _OF_A_RUN if what in entry.model_fields_set]
            if entry.verify and idle:
                raise InputError(
                    f"Take out {', '.join(idle)}: a verification repeats a run once, with the "
                    "parameters that it had, and waits for another one to end."
                )
            if notebook not in NOTEBOOKS:
                raise InputError(
                    f"There is no notebook {notebook!r}; there are {', '.join(NOTEBOOKS)}."
                    + did_you_mean(notebook, NOTEBOOKS)
                )
            secrets_of(check_parameters(notebook, entry.parameters))
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
    now = now or datetime.now(UTC)
    last = _last_runs(settings)
    rows = []
    for name, trigger in check(settings).items():
        entry = settings.schedule[name]
        due = next(trigger.after(now), None)
        ran = last.get(name, {})
        rows.append(
            {
                "entry": name,
                "runs": entry.notebook or f"verify {entry.verify}",
                "cron": entry.cron,
                "timezone": entry.timezone,
                "next": due,
                "local": due and due.astimezone(trigger.timezone),
                "last": ran.get("started_at"),
                "status": ran.get("status"),
                "run_id": ran.get("run_id"),
                "error": ran.get("error"),
            }
        )
    return rows


def start(settings: Settings, name: str, at: datetime | None = None) -> str:
    """Run an entry in this process, as of the time `at`, or now; what came of it, in a sentence.

    Raises
    ------
    InputError
        There is no such entry.
    AegisError
        As `runs.run_notebook` and `verify.verify`; numbers that differ are a `RunFailed`.
    """
    entry = _entry(settings, name)
    due = Due(name, (at or datetime.now(UTC)).replace(tzinfo=None))
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


def serve(settings: Settings, *, for_s: float | None = None) -> None:
    """Start the entries when they are due, until Ctrl-C, SIGTERM or the end of `for_s` seconds.

    Each run is a process of its own. At the end, those that still run are told to end, and the
    ledger says so.

    Raises
    ------
    InputError
        The schedule is empty or cannot be used.
    """
    triggers = check(settings)
    if not triggers:
        raise InputError(
            "The schedule is empty. Write entries into aegis.toml, such as:\n"
            '[schedule.nightly]\ncron = "30 2 * * *"\nnotebook = "evaluate"'
        )
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    service = Service(settings, triggers)
    scheduler = BlockingScheduler(timezone=UTC)
    for name, trigger in triggers.items():
        scheduler.add_job(
            service.tick,
            trigger,
            [name],
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),  # what was missed
        )
        due = next(trigger.after(datetime.now(UTC)), None)
        print(f"{name}: next {due:%Y-%m-%d %H:%M} UTC" if due else f"{name}: never", flush=True)

    ending: list[threading.Thread] = []

    def stop(number: int = 0, frame: FrameType | None = None) -> None:
        if not ending:  # in a thread of its own: this one may hold the scheduler's lock
            ending.append(threading.Thread(target=_stopped, args=(service, scheduler)))
            ending[0].start()

    timer = threading.Timer(0 if for_s is None else for_s, stop)
    timer.daemon = True
    with stop_signals(stop):
        if for_s is not None:
            timer.start()
        scheduler.start()
        timer.cancel()
        for thread in ending:
            thread.join()


class Service:
    """Runs what is due, each in a process of its own.

    Parameters
    ----------
    triggers : of `check`.
    """

    def __init__(self, settings: Settings, triggers: Mapping[str, Trigger]) -> None:
        self.settings, self.triggers = settings, triggers
        last = _last_runs(settings)
        self._done = {
            name: since(settings, name, entry) for name, entry in settings.schedule.items()
        }
        for name in self._done.keys() & last.keys():
            self._done[name] = max(self._done[name], last[name]["due_at"].replace(tzinfo=UTC))
        self._running: set[multiprocessing.process.BaseProcess] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def tick(self, name: str) -> int:
        """Run an entry as long as it is due; how often that was.

        What fell due meanwhile, or while no scheduler ran, is made up for by one run. One that left
        no row in the ledger, as when the database was busy, is owed and tried again.
        """
        times, pause_s = 0, RETRY_S
        while due := self.triggers[name].latest(self._done[name], datetime.now(UTC)):
            code = self._process(name, due)
            if self._over.is_set():
                break
            if code in _SETTLED or self._begun(name, due):
                self._done[name] = due
                times, pause_s = times + 1, RETRY_S
                continue
            told = f"{name}, due {due:%Y-%m-%d %H:%M} UTC: it did not begin"
            print(f"{told}; tried again in {pause_s:g} s.", file=sys.stderr, flush=True)
            if self._over.wait(pause_s):
                break
            pause_s = min(LONGEST_BACKOFF_S, 2 * pause_s)
        return times

    def _process(self, name: str, due: datetime) -> int | None:
        """Run an entry in a process of its own; how that ended, None where it did not start."""
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=_work, args=(self.settings, name, due), name=name)
        with self._lock:
            if self._over.is_set():
                return None
            try:
                process.start()
            except OSError as e:  # no memory, or too many processes
                print(f"{name}: {e}", file=sys.stderr, flush=True)
                return None
            self._running.add(process)
        process.join()
        with self._lock:
            self._running.discard(process)
        if process.exitcode is not None and process.exitcode < 0:
            by = f"signal {-process.exitcode} ({signal.strsignal(-process.exitcode)})"
            told = f"{name}, due {due:%Y-%m-%d %H:%M} UTC: its process was killed by {by}"
            print(f"{told}.", file=sys.stderr, flush=True)
        return process.exitcode

    def _begun(self, name: str, due: datetime) -> bool:
        """Whether the ledger knows of it; if that cannot be asked, a second start does no harm."""
        asked = "SELECT 1 FROM runs WHERE entry = ? AND due_at = ?"
        try:
            return bool(connect(self.settings.db).rows(asked, [name, due.replace(tzinfo=None)]))
        except (StoreError, NotReady):
            return False

    def end(self) -> None:
        """Tell what runs to end, and kill what does not."""
        with self._lock:
            self._over.set()
            running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _END_S
        for process in running:
            while process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            if process.is_alive():
                process.kill()


def since(settings: Settings, name: str, entry: Entry) -> datetime:
    """The time (UTC) from which on an entry is owed: when a scheduler saw it first, as it is now.

    It is kept in the database, so that a scheduler that starts again knows what it missed.
    """
    key, now = f"schedule:{name}", datetime.now(UTC)
    told = f"{entry.cron} {entry.timezone}"
    try:
        store = connect(settings.db)
        kept = store.rows("SELECT value FROM meta WHERE key = ?", [key])
        seen, _, of = kept[0]["value"].partition(" ") if kept else ("", "", "")
        if of == told:
            return datetime.fromisoformat(seen)
        with store.writing() as session:
            session.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, f"{now.isoformat()} {told}"]
            )
    except NotReady:  # no database yet, so nothing was missed
        return now
    return now


def _work(settings: Settings, name: str, due: datetime) -> None:
    """One run, in a process and a session of its own: Ctrl-C reaches the service alone."""
    os.setsid()
    try:
        print(f"{name}, due {due:%Y-%m-%d %H:%M} UTC: {start(settings, name, due)}", flush=True)
    except AegisError as e:
        print(f"{name}, due {due:%Y-%m-%d %H:%M} UTC: {e}", file=sys.stderr, flush=True)
        sys.exit(os.EX_TEMPFAIL if isinstance(e, StoreError | NotReady) else e.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _stopped(service: Service, scheduler: BlockingScheduler) -> None:
    service.end()
    scheduler.shutdown()


def _entry(settings: Settings, name: str) -> Entry:
    check(settings)
    if name not in settings.schedule:
        known = ", ".join(settings.schedule) or "none"
        raise InputError(
            f"The schedule has no entry {name!r}; it has {known}."
            + did_you_mean(name, settings.schedule)
        )
    return settings.schedule[name]


def _last_runs(settings: Settings) -> dict[str, dict[str, Any]]:
    """The last run of each entry, by the time at which it was due."""
    try:
        rows = connect(settings.db).rows(
            "SELECT entry, run_id, status, started_at, due_at, error FROM runs "
            "WHERE entry IS NOT NULL QUALIFY row_number() OVER "
            "(PARTITION BY entry ORDER BY due_at DESC, started_at DESC) = 1"
        )
    except NotReady:
        return {}
    return {row["entry"]: row for row in rows}
