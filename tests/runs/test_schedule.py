"""Laws of the schedule: when an entry is due, also at a clock change, and that it runs once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.errors import InputError
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.runs import execution, notebooks, schedule
from aegis_core.runs.cron import Trigger
from aegis_core.store import Store, connect

BERLIN = ZoneInfo("Europe/Berlin")


def times(cron: str, start: str, n: int, timezone: str = "Europe/Berlin") -> list[str]:
    """Local times from `start` (local) on, with their distance from UTC."""
    after = Trigger(cron, timezone).after(datetime.fromisoformat(start).replace(tzinfo=BERLIN))
    return [f"{next(after).astimezone(BERLIN):%d %H:%M %z}" for _ in range(n)]


# --- when it is due --------------------------------------------------------------------------


def test_a_time_that_the_clock_skips_is_due_once() -> None:
    assert times("30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:30 +0200", "30 02:30 +0200"]


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
def test_a_midnight_that_the_clock_skips_is_due_an_hour_later(timezone: str) -> None:
    zone, day = ZoneInfo(timezone), datetime.fromisoformat(MIDNIGHT_ZONES[timezone])
    for minute in (0, 30):
        after = Trigger(f"{minute} 0 * * *", timezone).after(
            (day - timedelta(hours=12)).replace(tzinfo=zone)
        )
        due = [next(after).astimezone(zone).replace(tzinfo=None) for _ in range(2)]
        assert due == [
            day + timedelta(hours=1, minutes=minute),
            day + timedelta(days=1, minutes=minute),
        ]


@pytest.mark.parametrize("timezone", ZONES)
@pytest.mark.parametrize("cron", ["0 0 * * *", "30 0 * * *", "30 2 * * *", "15 1 * * *"])
def test_a_nightly_entry_has_one_time_for_each_day_of_the_year(cron: str, timezone: str) -> None:
    zone, start = ZoneInfo(timezone), datetime(2026, 1, 1, 12)
    after = Trigger(cron, timezone).after(start.replace(tzinfo=zone))
    dates = [next(after).astimezone(zone).date() for _ in range(365)]
    assert dates == [(start + timedelta(days=i)).date() for i in range(1, 366)]


@pytest.mark.parametrize("timezone", ZONES)
@pytest.mark.parametrize(
    "cron",
    ["*/15 2 * * *", "30 2,3 * * *", "0,45 0-3 * * *", "15,35 2 * * 0", "0 */2 * * *",
     "0 * * * *", "0 * 24 4 *", "*/30 * 6 9 *"],
)  # fmt: skip
def test_times_rise_and_none_comes_twice_however_they_are_asked_for(
    cron: str, timezone: str
) -> None:
    trigger, start = Trigger(cron, timezone), datetime(2026, 1, 1, tzinfo=UTC)
    year = list(itertools.takewhile(lambda due: due.year == 2026, trigger.after(start)))
    assert year == sorted(set(year))
    for change in ("03-08", "03-29", "04-05", "04-24", "09-06", "10-04", "10-25", "11-01"):
        near = datetime.fromisoformat(f"2026-{change}T00:00+00:00") - timedelta(hours=16)
        wanted = [due for due in year if near < due < near + timedelta(hours=40)]
        asked, due = [], trigger.get_next_fire_time(None, near + timedelta(microseconds=1))
        while due is not None and due < near + timedelta(hours=40):
            asked.append(due.astimezone(UTC))
            due = trigger.get_next_fire_time(due, due)
        assert asked == wanted


def test_each_time_of_a_skipped_hour_is_due() -> None:
    assert times("*/15 2 * * *", "2026-03-28T12:00", 5) == [
        *(f"29 03:{minute} +0200" for minute in ("00", "15", "30", "45")), "30 02:00 +0200"
    ]  # fmt: skip
    assert times("30 2,3 * * *", "2026-03-28T12:00", 3) == [
        *("29 03:30 +0200", "30 02:30 +0200", "30 03:30 +0200")
    ]
    assert times("*/15 2 * * *", "2026-10-24T12:00", 5) == [
        *(f"25 02:{minute} +0200" for minute in ("00", "15", "30", "45")), "26 02:00 +0100"
    ]  # fmt: skip
    assert times("0 */2 * * *", "2026-03-28T23:30", 3)[1:] == ["29 03:00 +0200", "29 04:00 +0200"]


def test_the_time_of_a_start_counts_as_due_from_it_on() -> None:
    trigger = Trigger("0 0 * * *", "Africa/Cairo")
    due = datetime(2026, 4, 23, 22, tzinfo=UTC)  # midnight, shown as 01:00
    assert trigger.get_next_fire_time(None, due) == due
    assert trigger.get_next_fire_time(due, due) == due + timedelta(hours=23)


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
    assert times("0 6 * * 1-5", "2026-03-06T12:00", 2) == ["09 06:00 +0100", "10 06:00 +0100"]


def test_utc_knows_no_clock_change() -> None:
    assert times("30 2 * * *", "2026-10-24T12:00", 2, "UTC") == ["25 03:30 +0100", "26 03:30 +0100"]


@pytest.mark.parametrize(
    ("cron", "timezone", "told"),
    [
        ("* * * *", "UTC", "4 fields"),
        ("61 * * * *", "UTC", "no cron expression"),
        ("0 0 1 * 1", "UTC", "two entries"),
        ("0 0 * * 9", "UTC", "no weekday"),
        ("0 0 * * foo", "UTC", "'foo' is no weekday"),
        ("0 0 * * mon-foo", "UTC", "'foo' is no weekday"),
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
        ({"notebook": "train", "cron": "0 0 30 2 *"}, "is never due"),
        ({"notebook": "train", "cron": "0 0 31 4,6 *"}, "no month that it names has such a day"),
        ({"verify": "train", "retries": 2, "backoff": 9}, "Take out retries, backoff: a verif"),
        ({"verify": "train", "on_overlap": "skip"}, "Take out on_overlap"),
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
    assert "start: done" in schedule.start(settings, "look", at)
    assert "started for this time already" in schedule.start(settings, "look", at)
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
    first = schedule.since(settings, "look", settings.schedule["look"])
    assert abs(datetime.now(UTC) - first) < timedelta(seconds=10)
    assert schedule.since(settings, "look", settings.schedule["look"]) == first
    changed = with_entries(tmp_path, look={"cron": "0 3 * * *", "notebook": "start"})
    assert schedule.since(changed, "look", changed.schedule["look"]) > first


def test_two_schedulers_at_once_run_a_missed_entry_once_and_end_when_told(
    tmp_path: Path, store: Store
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1, hours=1)
    with store.writing() as session:
        session.execute(
            "INSERT INTO meta VALUES ('schedule:look', ?)",
            [f"{yesterday.isoformat()} */20 * * * * UTC"],
        )
    entries = {"look": {"cron": "*/20 * * * *", "notebook": "start"}}
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

WORK = schedule._work


def impatient(settings: config.Settings, name: str, due: datetime) -> None:
    """The work of a process that waits for no database, executes nothing, and may die early."""
    execution.connect = functools.partial(connect, wait_s=0.1)  # type: ignore[attr-defined]
    notebooks.execute = lambda *_, **__: None
    if (settings.home / "dies").exists():
        os._exit(7)
    if (settings.home / "killed").exists():
        notebooks.execute = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    WORK(settings, name, due)


@pytest.mark.parametrize("trouble", ["the file is held", "it dies", "it does not start"])
def test_a_run_that_could_not_begin_is_owed_and_tried_again(
    trouble: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = with_entries(tmp_path, look={"cron": "0 0 1 1 *", "notebook": "start"})
    service = schedule.Service(settings, schedule.check(settings))
    service._done["look"] = datetime.now(UTC) - timedelta(days=366)
    monkeypatch.setattr(schedule, "_work", impatient)
    monkeypatch.setattr(schedule, "connect", functools.partial(connect, wait_s=0.1))
    ends = contextlib.ExitStack()
    if trouble == "the file is held":
        ends.enter_context(store.writing())  # in this process; the run's own cannot open it
    elif trouble == "it dies":
        (tmp_path / "dies").touch()
        ends.callback((tmp_path / "dies").unlink)
    else:
        fails = ends.enter_context(pytest.MonkeyPatch.context())
        fails.setattr("multiprocessing.context.SpawnProcess.start", no_memory)
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        assert store.rows("SELECT * FROM runs") == []
        pauses.append(seconds)
        if trouble != "it does not start" or len(pauses) == 3:
            ends.close()
        return False

    monkeypatch.setattr(service._over, "wait", pause)
    with ends:
        assert service.tick("look") == 1
    assert pauses in ([30.0], [30.0, 60.0, 120.0])
    assert "it did not begin; tried again in 30 s." in capfd.readouterr().err
    (row,) = store.rows("SELECT * FROM runs")
    assert (row["entry"], row["status"]) == ("look", "done")
    assert (row["due_at"].day, row["due_at"].month) == (1, 1)
    assert service.tick("look") == 0


def test_a_run_whose_process_is_killed_is_said_and_not_tried_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = with_entries(tmp_path, look={"cron": "0 0 1 1 *", "notebook": "start"})
    service = schedule.Service(settings, schedule.check(settings))
    service._done["look"] = datetime.now(UTC) - timedelta(days=366)
    monkeypatch.setattr(schedule, "_work", impatient)
    (tmp_path / "killed").touch()
    assert service.tick("look") == 1
    assert "UTC: its process was killed by signal 9 (Killed)." in capfd.readouterr().err
    assert service.tick("look") == 0


def no_memory(*_: object) -> None:
    raise BlockingIOError("Resource temporarily unavailable")


def test_what_would_come_to_the_same_again_is_not_tried_again(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_entries(tmp_path, trust={"cron": "0 0 1 1 *", "verify": "train"})
    service = schedule.Service(settings, schedule.check(settings))
    service._done["trust"] = datetime.now(UTC) - timedelta(days=366)
    monkeypatch.setattr(service._over, "wait", pytest.fail)
    assert service.tick("trust") == 1  # there is no run to verify
    assert service.tick("trust") == 0


def test_a_service_that_ends_does_not_wait_for_the_next_attempt(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_entries(tmp_path, look={"cron": "0 0 1 1 *", "notebook": "start"})
    service = schedule.Service(settings, schedule.check(settings))
    service._done["look"] = datetime.now(UTC) - timedelta(days=366)
    monkeypatch.setattr(service, "_process", lambda *_: None)
    threading.Timer(0.5, service.end).start()
    began = time.monotonic()
    assert service.tick("look") == 0
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
    source.write_bytes(notebooks.NOTEBOOKS["start"].read_bytes())
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
