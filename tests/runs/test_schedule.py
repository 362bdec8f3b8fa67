"""Laws of the schedule: when an entry is due, also at a clock change, and that it runs once."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.errors import InputError
from aegis_core.evaluation.parity import verify_live
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.runs import execution, notebooks, parameters, schedule
from aegis_core.runs.schedule import Trigger
from aegis_core.store import Store, connect

BERLIN = ZoneInfo("Europe/Berlin")


def times(cron: str, start: str, n: int, timezone: str = "Europe/Berlin") -> list[str]:
    """Local times from `start` (local) on, with their distance from UTC."""
    after = Trigger(cron, timezone).after(datetime.fromisoformat(start).replace(tzinfo=BERLIN))
    return [f"{next(after).astimezone(BERLIN):%d %H:%M %z}" for _ in range(n)]


# --- when it is due --------------------------------------------------------------------------


def test_a_time_that_the_clock_skips_is_due_once_it_goes_on() -> None:
    assert times("30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:00 +0200", "30 02:30 +0200"]
    assert times("30 2,3 * * *", "2026-03-28T12:00", 3) == [
        *("29 03:00 +0200", "29 03:30 +0200", "30 02:30 +0200")
    ]
    assert times("0,30 1-3 * * *", "2026-03-29T01:30", 3) == [  # 02:00, 02:30 and 03:00 are one
        *("29 03:00 +0200", "29 03:30 +0200", "30 01:00 +0200")
    ]


def test_a_time_that_comes_twice_is_due_the_first_time_alone() -> None:
    assert times("30 2 * * *", "2026-10-24T12:00", 2) == ["25 02:30 +0200", "26 02:30 +0100"]
    assert times("0 1-3 * * *", "2026-10-25T00:00", 4) == [
        *("25 01:00 +0200", "25 02:00 +0200", "25 03:00 +0100", "26 01:00 +0100")
    ]


def test_each_hour_goes_on_at_its_pace_through_a_clock_change() -> None:
    for day in ("2026-10-25", "2026-03-29"):
        start = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=BERLIN)
        after = Trigger("15 * * * *", "Europe/Berlin").after(start)
        due = [next(after) for _ in range(6)]
        assert {b - a for a, b in itertools.pairwise(due)} == {timedelta(hours=1)}


MIDNIGHT_ZONES = {  # where the clock is put forward at midnight, and the day of 2026
    "Africa/Cairo": "2026-04-24",
    "America/Santiago": "2026-09-06",
    "Asia/Beirut": "2026-03-29",
    "America/Havana": "2026-03-08",
}
ZONES = [*MIDNIGHT_ZONES, *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC")]


@pytest.mark.parametrize("timezone", MIDNIGHT_ZONES)
def test_a_midnight_that_the_clock_skips_is_due_once_it_goes_on(timezone: str) -> None:
    zone, day = ZoneInfo(timezone), datetime.fromisoformat(MIDNIGHT_ZONES[timezone])
    for minute in (0, 30):
        after = Trigger(f"{minute} 0 * * *", timezone).after(
            (day - timedelta(hours=12)).replace(tzinfo=zone)
        )
        due = [next(after).astimezone(zone).replace(tzinfo=None) for _ in range(2)]
        assert due == [day + timedelta(hours=1), day + timedelta(days=1, minutes=minute)]


@pytest.mark.parametrize("timezone", ZONES)
@pytest.mark.parametrize("cron", ["0 0 * * *", "30 0 * * *", "30 2 * * *", "15 1 * * *"])
def test_a_nightly_entry_has_one_time_for_each_day_of_the_year(cron: str, timezone: str) -> None:
    zone, start = ZoneInfo(timezone), datetime(2026, 1, 1, 12)
    after = Trigger(cron, timezone).after(start.replace(tzinfo=zone))
    dates = [next(after).astimezone(zone).date() for _ in range(365)]
    assert dates == [(start + timedelta(days=i)).date() for i in range(1, 366)]


@pytest.mark.parametrize("timezone", [zone for zone in ZONES if zone != "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    "cron",
    ["*/15 2 * * *", "30 2,3 * * *", "0,45 0-3 * * *", "15,35 2 * * 0", "0 */2 * * *",
     "0 * * * *", "0 * 24 4 *", "*/30 * 6 9 *"],
)  # fmt: skip
def test_the_next_and_the_latest_time_are_the_same_whenever_they_are_asked_for(
    cron: str, timezone: str
) -> None:
    trigger, start = Trigger(cron, timezone), datetime(2026, 1, 1, tzinfo=UTC)
    year = list(itertools.takewhile(lambda due: due.year == 2026, trigger.after(start)))
    assert year == sorted(set(year))
    hours = [start + timedelta(hours=i) for i in range(8760)]
    offsets = [hour.astimezone(ZoneInfo(timezone)).utcoffset() for hour in hours]
    changes = [
        hour for hour, (a, b) in zip(hours, itertools.pairwise(offsets), strict=False) if a != b
    ]
    assert len(changes) == (0 if timezone == "UTC" else 2)
    for change, minutes in itertools.product(changes, range(-300, 420, 20)):
        now = change + timedelta(minutes=minutes)
        n = bisect.bisect_right(year, now)
        assert trigger.latest(start, now) == (year[n - 1] if n else None)
        if n < len(year):
            assert next(trigger.after(now)) == year[n]


def test_the_clock_decides_where_the_minute_or_the_hour_begins_with_a_star() -> None:
    assert times("*/15 2 * * *", "2026-03-28T12:00", 1) == ["30 02:00 +0200"]
    assert times("*/30 2 * * *", "2026-10-24T12:00", 5) == [
        *(f"25 02:{shown}" for shown in ("00 +0200", "30 +0200", "00 +0100", "30 +0100")),
        "26 02:00 +0100",
    ]
    assert times("0 */2 * * *", "2026-03-28T23:30", 2) == ["29 00:00 +0100", "29 04:00 +0200"]


def test_a_time_counts_as_due_from_its_first_instant_on() -> None:
    trigger = Trigger("0 0 * * *", "Africa/Cairo")
    due = datetime(2026, 4, 23, 22, tzinfo=UTC)  # midnight, shown as 01:00
    before = due - timedelta(microseconds=1)
    assert trigger.latest(before, due) == due
    assert trigger.latest(before, before) is None
    assert trigger.latest(due, due) is None
    assert next(trigger.after(before)) == due
    assert next(trigger.after(due)) == due + timedelta(hours=23)


@pytest.mark.parametrize("timezone", ZONES)
def test_every_hour_of_a_weekday_is_due_also_on_the_days_after_a_clock_change(
    timezone: str,
) -> None:
    zone, start = ZoneInfo(timezone), datetime(2026, 1, 1, tzinfo=UTC)
    hourly = itertools.takewhile(
        lambda due: due.year == 2026, Trigger("0 * * * *", timezone).after(start)
    )
    due: dict[int, list[datetime]] = {day: [] for day in range(7)}
    for moment in hourly:
        due[moment.astimezone(zone).isoweekday() % 7].append(moment)
    for day, wanted in due.items():
        after = Trigger(f"0 * * * {day}", timezone).after(start)
        assert list(itertools.takewhile(lambda due: due.year == 2026, after)) == wanted
    gaps = {b - a for a, b in itertools.pairwise(sorted(itertools.chain(*due.values())))}
    if timezone == "Australia/Lord_Howe":
        gaps -= {timedelta(minutes=30), timedelta(minutes=90)}  # it changes by half an hour
    assert gaps == {timedelta(hours=1)}


def test_weekdays_count_from_sunday_as_in_crontab() -> None:
    assert times("0 6 * * 0", "2026-03-03T00:00", 1) == ["08 06:00 +0100"]
    assert times("0 6 * * 7", "2026-03-03T00:00", 1) == ["08 06:00 +0100"]
    assert times("0 6 * * sat,5-7", "2026-03-03T00:00", 4) == [
        *(f"{day} 06:00 +0100" for day in ("06", "07", "08", "13"))
    ]
    assert times("0 6 * * 1-5", "2026-03-06T12:00", 2) == ["09 06:00 +0100", "10 06:00 +0100"]


def test_utc_knows_no_clock_change() -> None:
    assert times("30 2 * * *", "2026-10-24T12:00", 2, "UTC") == ["25 03:30 +0100", "26 03:30 +0100"]


@pytest.mark.parametrize(
    ("cron", "timezone", "told"),
    [
        ("* * * *", "UTC", "4 fields"),
        ("61 * * * *", "UTC", "no cron expression"),
        ("0 0 1 * 1", "UTC", "two entries"),
        ("0 0 * * 9", "UTC", "Bad day-of-week"),
        ("0 0 * * foo", "UTC", "Bad day-of-week"),
        ("0 0 * * fri-mon", "UTC", "as in fri-sat,sun-mon"),
        ("*/60 * * * *", "UTC", "a step of '\\*/60' is longer than 59"),
        ("0 0 0 * * *", "UTC", "6 fields"),
        ("", "UTC", "0 fields"),
        ("0 0 * * *", "Europe/Berlinn", "no time zone"),
        ("0 0 * * *", "../etc/passwd", "no time zone"),
    ],
)
def test_what_cannot_be_read_is_said(cron: str, timezone: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Trigger(cron, timezone)


def test_many_missed_times_are_one_and_it_is_the_last() -> None:
    trigger, now = Trigger("* * * * *"), datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
    assert trigger.latest(now - timedelta(days=400), now) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert trigger.latest(now - timedelta(seconds=20), now) is None
    assert trigger.latest(now + timedelta(hours=3), now) is None  # the clock jumped back
    yearly = Trigger("0 0 1 1 *")
    assert yearly.latest(now - timedelta(days=900), now) == datetime(2026, 1, 1, tzinfo=UTC)


# --- entries ---------------------------------------------------------------------------------


def with_entries(home: Path, **entries: dict[str, Any]) -> config.Settings:
    return config.load(home=home, schedule=entries)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"notebook": "evalute"}, "Did you mean evaluate"),
        ({}, "either `notebook` or `verify`"),
        ({"notebook": "train", "verify": "train"}, "either `notebook` or `verify`"),
        ({"notebook": "train", "parameters": {"days": 3}}, "no parameter 'days'"),
        ({"notebook": "train", "timezone": "Mars"}, "no time zone"),
        ({"notebook": "train", "cron": "0 0 30 2 *"}, "no month that it names has such a day"),
        ({"notebook": "train", "cron": "0 0 */30 * 1#2"}, "is never due"),
        ({"notebook": "train", "cron": "0 0 31 4,6 *"}, "no month that it names has such a day"),
        ({"verify": "train", "retries": 2, "backoff": 9}, "Take out retries, backoff: a verif"),
        ({"verify": "train", "on_overlap": "skip"}, "Take out on_overlap"),
        ({"verify": "live", "timeout": 9}, "Take out timeout"),
        ({"verify": "train", "parameters": {"seed": 1}}, "Take out parameters"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_name(
    entry: dict[str, Any], told: str, tmp_path: Path
) -> None:
    settings = with_entries(tmp_path, nightly={"cron": "0 2 * * *", **entry})
    with pytest.raises(InputError, match=r"\[schedule.nightly\].*" + told):
        schedule.check(settings)


def test_an_entry_with_an_unknown_name_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"schedule\.nightly\.retry"):
        with_entries(tmp_path, nightly={"cron": "0 2 * * *", "notebook": "train", "retry": 1})


def test_a_schedule_without_entries_says_how_to_write_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    monkeypatch.setattr(config, "CHECKOUT", tmp_path)
    assert main(["schedule", "run"]) == 2
    assert "[schedule.nightly]" in capsys.readouterr().err
    (tmp_path / "aegis.toml").write_text(
        '[schedule.nightly]\ncron = "30 2 * * *"\ntimezone = "Europe/Berlin"\n'
        'notebook = "evaluate"\nparameters = { folds = 2 }\ntimeout = 1800\nretries = 2\n'
    )
    assert main(["schedule", "list"]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line.split()[:2] == ["nightly", "evaluate"]
    assert "02:30 CE" in line
    assert main(["schedule", "now", "nightl"]) == 2
    assert "Did you mean nightly" in capsys.readouterr().err


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = connect(tmp_path / "data" / "aegis.duckdb")
    some = SyntheticConfig(n_transactions=500, n_customers=20, n_merchants=10, days=5)
    write_history(store, some, progress=False)
    return store


def test_an_entry_runs_with_its_parameters_and_is_listed(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_entries(
        tmp_path, look={"cron": "0 2 * * *", "notebook": "start", "parameters": {"customer": "c"}}
    )
    given: dict[str, object] = {}
    monkeypatch.setattr(notebooks, "execute", lambda *args, **_: given.update(args[2]))
    at = datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert "start: done" in schedule.start(settings, "look", verify_live, at)
    assert "started for this time already" in schedule.start(settings, "look", verify_live, at)
    assert given["customer"] == "c"
    (listed,) = schedule.listed(settings, datetime(2026, 3, 1, 12, tzinfo=UTC))
    assert (listed["status"], listed["next"]) == ("done", datetime(2026, 3, 2, 2, tzinfo=UTC))
    assert listed["run_id"].startswith("20260301-020000-start-")
    (row,) = store.rows("SELECT * FROM runs")
    assert (row["entry"], row["due_at"]) == ("look", at.replace(tzinfo=None))
    assert row["code_version"]
    assert row["notebook_hash"]


def test_what_was_missed_while_no_scheduler_ran_is_owed_and_before_the_first_nothing(
    tmp_path: Path, store: Store
) -> None:
    settings = with_entries(tmp_path, look={"cron": "0 2 * * *", "notebook": "start"})
    entry, now = settings.schedule["look"], datetime(2026, 3, 1, tzinfo=UTC)
    later = now + timedelta(days=3)
    assert schedule.since(settings, "look", entry, now) == now
    assert schedule.since(settings, "look", entry, later) == now
    changed = with_entries(tmp_path, look={"cron": "0 3 * * *", "notebook": "start"})
    assert schedule.since(changed, "look", changed.schedule["look"], later) == later


def test_two_schedulers_at_once_run_a_missed_entry_once_and_end_when_told(
    tmp_path: Path, store: Store
) -> None:
    now = datetime.now(UTC)
    cron = f"{(now.minute + 30) % 60} * * * *"  # not due while this goes on
    with store.writing() as session:
        session.execute(
            "INSERT INTO meta VALUES ('schedule:look', ?)",
            [f"{(now - timedelta(days=1, hours=1)).isoformat()} {cron} UTC"],
        )
    entries = {"look": {"cron": cron, "notebook": "start"}}
    environment = {
        **os.environ, "AEGIS_HOME": str(tmp_path), "AEGIS_SCHEDULE": json.dumps(entries)
    }  # fmt: skip
    command = [sys.executable, "-m", "aegis_core.cli", "schedule", "run"]
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    both = []
    for log in logs:
        with log.open("wb") as out:
            both.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
    deadline, told = time.monotonic() + 90, ""
    while time.monotonic() < deadline and told.count(", due ") < 2:
        time.sleep(0.1)
        told = "".join(log.read_text() for log in logs)
    for process in both:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in both] == [0, 0]
    assert told.count("start: done") == told.count("start: skipped") == 1, told
    (row,) = store.rows("SELECT * FROM runs")
    assert (row["status"], row["entry"]) == ("done", "look")


# --- when it does not begin ------------------------------------------------------------------

YEARLY = "0 0 1 1 *"


def impatient(settings: config.Settings, name: str, due: datetime) -> None:
    """The work of a process that waits for no database, executes nothing, and may die early."""
    execution.connect = functools.partial(connect, wait_s=0.1)  # type: ignore[attr-defined]
    notebooks.execute = lambda *_, **__: None
    if (settings.home / "dies").exists():
        os._exit(7)
    if (settings.home / "killed").exists():
        notebooks.execute = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    schedule.work(verify_live, settings, name, due)


class Waits(threading.Event):
    """How long a service waited; after `n` attempts that failed it is over with the next wait."""

    def __init__(self, n: int, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.n, self.then = n, then
        self.lasted: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.lasted.append(timeout)
        if len(self.lasted) == self.n:
            self.then()
        elif len(self.lasted) > self.n:
            self.set()
        return self.is_set()


def owing(
    settings: config.Settings,
    over: threading.Event,
    starts: list[datetime],
    starter: Callable[..., BaseProcess] | None = None,
) -> schedule.Service:
    """A service whose entries were seen a year ago; each start of one is added to `starts`."""
    now = datetime.now(UTC)
    for name, entry in settings.schedule.items():
        schedule.since(settings, name, entry, now - timedelta(days=366))

    def start(settings: config.Settings, name: str, due: datetime) -> BaseProcess:
        starts.append(due)
        if starter is not None:
            return starter(settings, name, due)
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=impatient, args=(settings, name, due))
        process.start()
        return process

    return schedule.Service(settings, schedule.check(settings), lambda: now, start, over)


def no_memory(*_: object) -> BaseProcess:
    raise BlockingIOError("Resource temporarily unavailable")


@pytest.mark.parametrize("trouble", ["the file is held", "it dies"])
def test_a_run_that_could_not_begin_is_owed_and_tried_again(
    trouble: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = with_entries(tmp_path, look={"cron": YEARLY, "notebook": "start"})
    starts: list[datetime] = []
    monkeypatch.setattr(schedule, "connect", functools.partial(connect, wait_s=0.1))
    with contextlib.ExitStack() as ends:
        over = Waits(1, ends.close)
        service = owing(settings, over, starts)
        if trouble == "the file is held":
            ends.enter_context(store.writing())  # in this process; the run's own cannot open it
        else:
            (tmp_path / "dies").touch()
            ends.callback((tmp_path / "dies").unlink)
        service.keep("look")
    assert over.lasted == [30.0, 60.0]  # the second is for what is due next
    assert "it did not begin; tried again in 30 s." in capfd.readouterr().err
    (row,) = store.rows("SELECT * FROM runs")
    assert (row["entry"], row["status"]) == ("look", "done")
    assert (row["due_at"].day, row["due_at"].month) == (1, 1)
    assert starts == [row["due_at"].replace(tzinfo=UTC)] * 2


def test_the_pause_before_another_attempt_doubles_up_to_an_hour(
    tmp_path: Path, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = with_entries(tmp_path, look={"cron": YEARLY, "notebook": "start"})
    over = Waits(8)
    owing(settings, over, [], no_memory).keep("look")
    assert over.lasted == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert "UTC: Resource temporarily unavailable" in capfd.readouterr().err
    assert store.rows("SELECT * FROM runs") == []


def test_a_run_whose_process_is_killed_is_said_and_not_tried_again(
    tmp_path: Path, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = with_entries(tmp_path, look={"cron": YEARLY, "notebook": "start"})
    (tmp_path / "killed").touch()
    over, starts = Waits(0), list[datetime]()
    owing(settings, over, starts).keep("look")
    assert "UTC: its process was killed by signal 9 (Killed)." in capfd.readouterr().err
    assert (len(starts), over.lasted) == (1, [60.0])


def test_what_would_come_to_the_same_again_is_not_tried_again(tmp_path: Path, store: Store) -> None:
    settings = with_entries(tmp_path, trust={"cron": YEARLY, "verify": "train"})
    over, starts = Waits(0), list[datetime]()
    owing(settings, over, starts).keep("trust")  # there is no run to verify
    assert (len(starts), over.lasted) == (1, [60.0])


def test_a_service_waits_for_the_next_time_and_looks_at_the_clock_each_minute(
    tmp_path: Path, store: Store
) -> None:
    settings = with_entries(tmp_path, look={"cron": "*/2 * * * *", "notebook": "start"})
    now = [datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)]
    over = Waits(2, lambda: now.append(datetime(2026, 3, 1, 12, 1, 40, tzinfo=UTC)))
    schedule.Service(settings, schedule.check(settings), lambda: now[-1], no_memory, over).keep(
        "look"
    )
    assert over.lasted == [60.0, 60.0, 20.0]


def test_a_service_that_ends_does_not_wait_for_the_next_attempt(
    tmp_path: Path, store: Store
) -> None:
    settings = with_entries(tmp_path, look={"cron": YEARLY, "notebook": "start"})
    starts: list[datetime] = []
    service = owing(settings, threading.Event(), starts, no_memory)
    began = time.monotonic()
    service.begin()
    while not starts:
        time.sleep(0.01)
    service.end()
    assert len(starts) == 1
    assert time.monotonic() - began < schedule.RETRY_S


# --- JupyterLab's scheduler ----------------------------------------------------------------------

JOB = """
import sys
from pathlib import Path
from jupyter_scheduler.executors import DefaultExecutionManager
from jupyter_scheduler.models import Status
from jupyter_scheduler.orm import Job, create_session, create_tables
url, source, output, db = sys.argv[1:]
create_tables(url)
with create_session(url)() as session:
    job = Job(
        job_id="j", name="look", input_filename=Path(source).name, runtime_environment_name="x",
        parameters={"db": repr(db)}, output_formats=["ipynb"], status=Status.CREATED, url="/j",
        create_time=1, update_time=1,
    )
    session.add(job)
    session.commit()
run = DefaultExecutionManager("j", ".", url, {"input": source, "ipynb": output})
run.process()
with create_session(url)() as session:
    print(session.query(Job).one().status, session.query(Job).one().status_message)
"""


def test_jupyterlab_s_scheduler_runs_a_notebook_as_it_stands(tmp_path: Path, store: Store) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    source = staged / "00_start.ipynb"
    source.write_bytes(parameters.NOTEBOOKS["start"].read_bytes())
    output = staged / "done.ipynb"
    ran = subprocess.run(
        [
            *(sys.executable, "-c", JOB, f"sqlite:///{tmp_path / 'jobs.sqlite'}"),
            *(str(source), str(output), str(store.path)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "COMPLETED None" in ran.stdout, ran.stderr
    assert "500 transactions of" in output.read_text()
