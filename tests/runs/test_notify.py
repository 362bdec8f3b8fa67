"""Notification: what is told, to whom, how often; and what is promised when something dies."""

from __future__ import annotations

import contextlib
import email
import email.policy
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from typer.testing import CliRunner

from aegis_core import config
from aegis_core.cli import app
from aegis_core.config import NotifyRule
from aegis_core.errors import InputError, NotReady, RunBusy, StoreBusy, StoreError
from aegis_core.runs import ledger, notify
from aegis_core.runs.notify import Notifier, outbox
from aegis_core.runs.notify.events import service_state
from aegis_core.runs.notify.outbox import is_quiet
from aegis_core.runs.notify.sending import address_of, send, without_secrets
from aegis_core.store import Store, connect, rollups
from aegis_core.store.endpoint import files_of
from aegis_core.store.floods import plain, storm
from aegis_core.store.gate import Limits

NOON = datetime(2026, 3, 2, 12)
SECRET = "s3cr3t-t0k3n"
TARGET = f"json://127.0.0.1:9/{SECRET}"
STAKE = "Aegis: {}, highest risk 99.95, EUR {}.00 at stake"
HOSTILE = "shop\r\nBcc: all@example.org\n<b>bold</b> \u202e{{ x }}"


class World:
    """A database, a clock that is set by hand, and what was sent."""

    def __init__(self, folder: Path, rules: list[dict[str, Any]]) -> None:
        self.settings = config.load(home=folder, notify=rules)
        self.store = connect(self.settings.db, wait_s=5)
        with self.store.writing():
            pass
        self.now, self.sent, self.answer = NOON, [], None
        self.seq = 0
        self.start()

    def start(self) -> None:
        """A notifier, as after a restart."""
        self.notifier = Notifier(
            self.store, self.settings, clock=lambda: self.now, sender=self.take
        )
        self.notifier.recover()

    def take(self, address: str, title: str, text: str) -> str | None:
        if self.answer is None:
            self.sent.append((address, title, text))
        return self.answer

    def later(self, **step: float) -> int:
        self.now += timedelta(**step)
        return self.notifier.tick()

    def verdicts(self, n: int = 1, *, customer: str = "", risk: float = 99.95, merchant: str = "",
                 decision: str = "block", amount: float = 1240,
                 device: str | None = None) -> None:  # fmt: skip
        with self.store.writing() as session:
            for _ in range(n):
                i, self.seq = self.seq, self.seq + 1
                session.execute(
                    "INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount, "
                    "currency, merchant_id, device_id, category) "
                    "VALUES (?, ?, ?, ?, ?, 'EUR', ?, ?, '5945')",
                    [i, f"t{i}", customer or f"c{i}", NOON, amount, merchant or f"m{i}", device],
                )
                session.execute(
                    "INSERT INTO verdicts (seq, transaction_id, model_version, score, risk, "
                    "decision, reasons, scored_at) VALUES (?, ?, 'm', 0.8, ?, ?, "
                    f"[{{factor: 'amount', code: 'A{i}', text: '18 times the usual amount', "
                    "contribution: 0.2}], ?)",
                    [i, f"t{i}", risk, decision, self.now],
                )

    def ran(self, run_id: str, status: str, notebook: str = "train", error: str = "",
            retry_of: str | None = None, pid: int | None = None) -> None:  # fmt: skip
        with self.store.writing() as session:
            session.execute(
                "INSERT INTO runs (run_id, notebook, status, started_at, error, retry_of, pid) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [run_id, notebook, status, NOON, error or None, retry_of, pid],
            )

    def left(self, run_id: str, name: str) -> Path:
        """A file that a run left behind."""
        path = self.settings.reports / run_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def rows(self, columns: str = "*") -> list[dict[str, Any]]:
        order = "ORDER BY created_at, event"
        return self.store.rows(f"SELECT {columns} FROM notifications {order}")

    def statuses(self) -> list[str]:
        return [row["status"] for row in self.rows()]


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Rules by parameter, or one for everything; the first look is over."""
    given: dict[str, Any] = getattr(request, "param", {})
    rule = {"name": "all", "what": ["verdict", "run", "drift"], "to": [TARGET], "dedupe_hours": 0}
    made = World(tmp_path, [{**rule, **given}])
    with made.store.owned():  # quick: the file is not opened for each statement
        made.later()
        yield made


def given(**rule: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("world", [rule], indirect=True, ids=[str(rule)])


# --- what is told --------------------------------------------------------------------------------


def test_a_high_risk_alert_is_told_with_its_reasons(world: World) -> None:
    world.verdicts()
    world.verdicts(risk=99.5)
    world.verdicts(decision="approve")
    assert world.later(seconds=5) == 1
    ((address, title, text),) = world.sent
    assert address == TARGET
    assert title == "Aegis: blocked, EUR 1,240.00 of c0, risk 99.95"
    assert "- 18 times the usual amount" in text
    assert "t0" in text
    assert world.later(seconds=5) == 0


def test_history_is_not_told_when_a_rule_is_new(tmp_path: Path) -> None:
    world = World(tmp_path, [{"name": "a", "what": ["verdict", "run"], "to": [TARGET]}])
    world.verdicts(3)
    world.ran("r0", "failed")
    assert world.later() == 0
    world.verdicts()
    world.ran("r1", "failed", "evaluate")
    assert world.later() == 1
    assert world.sent[0][1] == STAKE.format("1 alert, 1 failed run", "1,240")


def test_a_history_longer_than_one_look_is_not_told_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core.runs.notify.events.MOST", 5)
    world = World(tmp_path, [{"name": "a", "what": ["run", "drift"], "to": [TARGET]}])
    with world.store.writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at, error) "
            "SELECT 'r' || i, 'train', 'failed', TIMESTAMP '2026-01-01' + to_hours(i), 'x' "
            "FROM range(12) t(i)"
        )
        session.execute(
            "INSERT INTO drift SELECT DATE '2026-01-01' + i::INTEGER, 'volume', '', 1, 1, 0.3, "
            "-0.1, 0.1, true, now(), 'r' || i, 'More' FROM range(12) t(i)"
        )
    assert [world.later(seconds=5) for _ in range(3)] == [0, 0, 0]
    assert (world.sent, set(world.statuses())) == ([], {"old"})
    assert len(world.rows()) == 24
    world.ran("late", "failed", "evaluate")
    assert world.later() == 1


def test_a_run_is_told_once_it_failed_and_not_while_it_runs(world: World) -> None:
    world.ran("r1", "running", error="x")
    world.ran("r2", "done")
    report = world.left("r1", "report.html")
    with ledger.alone(world.store.path, "train"):
        assert world.later() == 0
        with world.store.writing() as session:
            session.execute(
                "UPDATE runs SET status = 'failed', error = 'No champion.', ended_at = ?", [NOON]
            )
    assert world.later() == 1
    assert "No champion." in world.sent[0][2]
    assert f"Report: {report}" in world.sent[0][2]
    assert world.later() == 0


def test_a_run_without_labels_enough_is_told_as_that(world: World) -> None:
    world.ran("r1", "unjudged", error="Too few labels to judge.")
    assert world.later() == 1
    assert "Aegis: train too little to judge by" in str(world.sent[0])
    assert "Too few labels to judge." in world.sent[0][2]


def test_a_killed_run_is_told_at_once_and_not_again_when_the_next_closes_its_row(
    world: World,
) -> None:
    world.ran("r1", "running")
    world.left("r1", "02_train.ipynb")
    assert world.later() == 1
    ((_, title, text),) = world.sent
    assert title == "Aegis: train killed"
    assert f"Executed notebook: {world.settings.reports / 'r1' / '02_train.ipynb'}" in text
    assert "report.html" not in text
    with ledger.alone(world.store.path, "train"):
        ledger.close_killed(world.store, world.settings.reports, "train")
    assert world.store.rows("SELECT status FROM runs") == [{"status": "interrupted"}]
    assert world.later() == 0


def test_a_run_that_was_killed_before_the_notifier_looked_is_told_as_killed(world: World) -> None:
    world.ran("r1", "running")
    ledger.close_killed(world.store, world.settings.reports, "train")
    assert world.later() == 1
    assert world.sent[0][1] == "Aegis: train killed"
    assert str(world.settings.reports) not in world.sent[0][2], "it left nothing to read"


def test_a_run_that_waits_is_told_once_its_process_is_gone(world: World) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    world.ran("r1", "waiting", pid=process.pid)
    assert world.later() == 0
    process.kill()
    process.communicate()
    assert world.later() == 1
    assert world.sent[0][1] == "Aegis: train killed"


def test_a_run_that_ends_while_the_notifier_looks_was_not_killed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object) -> None:
        with world.store.writing() as session:
            session.execute("UPDATE runs SET status = 'done'")

    world.ran("r1", "running")
    monkeypatch.setattr(ledger, "holder", ends)
    assert world.later() == 0


@given(what=["run"])
def test_only_the_last_of_several_attempts_is_told(world: World) -> None:
    mine = os.getpid()
    with ledger.alone(world.store.path, "train"):
        world.ran("r1", "failed", error="Once.", pid=mine)
        assert world.later() == 0, "it may be tried again"
        world.ran("r2", "running", retry_of="r1", pid=mine)
        assert world.later() == 0
        with world.store.writing() as session:
            session.execute(
                "UPDATE runs SET status = 'failed', error = 'Twice.' WHERE run_id = 'r2'"
            )
        world.ran("r3", "failed", error="Long ago.", pid=1)
        assert world.later() == 1, "whoever else holds the lock tries its own again"
        assert "Long ago." in world.sent[0][2]
    assert world.later() == 1
    assert "Twice." in world.sent[1][2]
    assert {row["event"] for row in world.rows()} == {"r2", "r3"}


def test_an_attempt_whose_next_one_went_well_is_not_told(world: World) -> None:
    world.ran("r1", "failed")
    world.ran("r2", "done", retry_of="r1")
    assert world.later() == 0


@given(link="https://aegis.example/reports/")
def test_a_drift_alarm_leads_to_the_report_of_its_run(world: World) -> None:
    with world.store.writing() as session:
        session.execute(
            "INSERT INTO drift SELECT '2026-03-01', m, '', 1, 1, e, -0.1, 0.1, e > 0.1, now(), "
            "'d1', 'Of ' || m FROM (VALUES ('amounts', 0.2), ('volume', 0.3), ('score', 0)) t(m, e)"
        )
    world.ran("d1", "running", "drift")
    world.left("d1", "report.html")
    with ledger.alone(world.store.path, "drift"):
        assert world.later() == 0
        with world.store.writing() as session:
            session.execute("UPDATE runs SET status = 'done'")
    assert world.later() == 1
    ((_, title, text),) = world.sent
    assert title == "Aegis: drift on 2026-03-01 in volume, amounts"
    assert "Of volume\nOf amounts" in text
    assert "https://aegis.example/reports/d1/report.html" in text


@given(what=["service"])
def test_a_service_that_died_is_told_once_and_its_return_as_well(world: World) -> None:
    endpoint = files_of(world.store.path)[0]
    assert world.later() == 0
    one = {"pid": 1, "schema_version": 3, "writers": "", "writers_token": "", "readers": "",
           "readers_token": "", "started": "long ago"}  # fmt: skip
    endpoint.write_text(json.dumps(one))
    assert [world.later(seconds=5) for _ in range(4)] == [0, 1, 0, 0]
    assert "is down" in world.sent[0][1]
    world.start()
    assert [world.later(seconds=5) for _ in range(3)] == [0, 0, 0]
    endpoint.unlink()  # ended in order, later
    assert world.later() == 0
    assert world.statuses() == ["sent"]


@given(what=["service"])
def test_a_service_that_hangs_is_told_past_the_database_it_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def hang() -> Iterator[None]:
        answers.wait(30)
        raise StoreBusy("gone")
        yield

    def ask() -> None:
        with pytest.raises(StoreBusy):
            world.later()

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "reading", contextlib.contextmanager(hang))
        patched.setattr(notify.notifier, "STUCK_S", 0.2)
        asking = threading.Thread(target=ask)
        asking.start()
        for _ in range(4):
            time.sleep(0.1)
            world.notifier.watch()
        answers.set()
        asking.join()
    assert [title for _, title, _ in world.sent] == ["Aegis: the service is down"]
    assert world.rows() == []
    assert world.later() == 1
    assert world.sent[-1][1] == "Aegis: the service is up again"
    assert world.statuses() == ["sent", "sent"]
    world.notifier.watch()
    assert world.later() == 0


def test_the_health_address_says_whether_the_service_is_there(tmp_path: Path, hook: Hook) -> None:
    rule = {"name": "a", "what": ["service"], "to": [TARGET], "health": hook.address("http")}
    world = World(tmp_path, [rule])
    hook.status = 503
    assert [world.later(seconds=5) for _ in range(3)] == [0, 1, 0]
    hook.status = 200
    assert [world.later(seconds=5) for _ in range(2)] == [1, 0]
    assert ["down" in title for _, title, _ in world.sent] == [True, False]
    hook.status = 503
    assert [world.later(seconds=5) for _ in range(3)] == [0, 1, 0]


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200]
)
def test_a_health_address_that_does_not_speak_http_is_down(answer: bytes) -> None:
    def say() -> None:
        asker, _ = server.accept()
        with asker:
            asker.recv(1000)
            asker.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/health"
        rule = NotifyRule(name="a", what=("service",), to=(TARGET,), health=address)
        talks = threading.Thread(target=say)
        talks.start()
        assert service_state(Store("x"), rule) == "down"
        talks.join()
    spaced = rule.model_copy(update={"health": "http://127.0.0.1:80 00/a b"})
    assert service_state(Store("x"), spaced) == "down"


# --- how often -----------------------------------------------------------------------------------


@given(dedupe_hours=24)
def test_the_same_customer_is_told_once_a_day(world: World) -> None:
    world.verdicts(60, customer="anna")
    world.verdicts(1, customer="zoe")
    assert world.later() == 1
    world.verdicts(customer="anna")
    assert world.later(hours=20) == 0
    assert sorted(set(world.statuses())) == ["repeat", "sent"]
    world.verdicts(customer="anna")
    assert world.later(hours=5) == 1
    assert world.statuses().count("sent") == 3


@given(dedupe_hours=24)
def test_the_same_failure_is_told_once_a_day_and_another_one_as_well(world: World) -> None:
    world.ran("r1", "running")
    assert world.later() == 1
    for run_id, error in (
        ("r2", "No space left."),
        ("r3", "No space left."),
        ("r4", "No champion."),
    ):
        world.ran(run_id, "failed", error=error)
        world.later(minutes=1)
    assert [text.splitlines()[1] for _, _, text in world.sent] == [
        "Killed.",
        "No space left.",
        "No champion.",
    ]
    assert world.statuses() == ["sent", "sent", "repeat", "sent"]


@given(digest_minutes=30)
def test_a_digest_waits_and_then_tells_all_in_one(world: World) -> None:
    world.verdicts(2)
    assert world.later(minutes=1) == 0
    world.verdicts(1)
    world.ran("r1", "failed")
    assert world.later(minutes=28) == 0
    assert world.later(minutes=2) == 1
    assert world.sent[0][1] == STAKE.format("3 alerts, 1 failed run", "3,720")
    assert len({row["message_id"] for row in world.rows()}) == 1


def test_a_long_digest_tells_the_first_and_counts_the_others(world: World) -> None:
    world.verdicts(outbox.TOLD_IN_FULL + 7)
    world.verdicts(risk=99.99, amount=990_000)
    world.ran("r1", "failed")
    assert world.later() == 1
    ((_, title, text),) = world.sent
    assert title.startswith("Aegis: 33 alerts, 1 failed run, highest risk 99.99, EUR 1,029,680.00 ")
    first, second = text.split("\n\n")[:2]
    assert "train failed" in first
    assert "EUR 990,000.00" in second
    assert "and 9 more" in text
    told = {row["event"]: row["status"] for row in world.rows()}
    assert list(told.values()).count("sent") == outbox.TOLD_IN_FULL
    assert {
        name for name, status in told.items() if status == "sent" and f"{name}\n" not in text
    } == {"r1"}
    assert list(told.values()).count("counted") == 9


def test_of_many_alerts_in_several_looks_the_worst_is_told_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core.runs.notify.events.MOST", 10)
    world.answer = "no"
    for amount in (1, 2, 3):
        world.verdicts(30, amount=amount)
        world.later(seconds=1)
    world.answer = None
    world.verdicts(risk=99.999, amount=10**6)
    for _ in range(20):
        world.later(minutes=5)
    (told,) = [row for row in world.rows() if row["text"].startswith("Blocked: EUR 1,000,000")]
    assert told["status"] == "sent"


def test_a_campaign_is_told_as_one_by_its_worst(world: World) -> None:
    world.verdicts(6, merchant="shop")
    world.verdicts(risk=99.99, merchant="shop", amount=5_000)
    world.verdicts(2)
    assert world.later() == 1
    ((_, _, text),) = world.sent
    campaign, *single, _ = text.split("\n\n")
    assert campaign.startswith(
        "7 alerts at shop within 1 min, of 7 customers: highest risk 99.99, EUR 12,440.00 at stake."
    )
    assert "Transaction t6" in campaign
    assert len(single) == 2
    assert sorted(world.statuses()) == ["counted"] * 6 + ["sent"] * 3


def test_alerts_at_one_device_are_a_campaign_before_those_at_a_merchant(world: World) -> None:
    world.verdicts(5, device="d-17", merchant="shop", amount=50)
    world.verdicts(5, merchant="shop", amount=1)
    assert world.later() == 1
    device, shop, _ = world.sent[0][2].split("\n\n")
    assert device.startswith("5 alerts at device d-17 within 1 min, of 5 customers")
    assert shop.startswith("5 alerts at shop within 1 min, of 5 customers")


@given(dedupe_hours=24, digest_minutes=30)
@pytest.mark.parametrize("more", [{"amount": 9_000}, {"risk": 99.99, "amount": 1}])
def test_a_worse_alert_after_one_that_waits_was_told_or_only_counted_is_told(
    world: World, more: dict[str, Any]
) -> None:
    world.verdicts(customer="anna", decision="review")
    world.later(minutes=1)
    world.verdicts(customer="anna", decision="review", **more)
    assert world.later(minutes=30) == 1
    assert "Transaction t1" in world.sent[-1][2]
    world.verdicts(customer="anna", amount=1, risk=99.9)
    assert world.later(minutes=31) + world.later(minutes=31) == 1, "it is the first to be blocked"
    world.verdicts(customer="anna", amount=1, risk=99.9)
    assert world.later(minutes=31) + world.later(minutes=31) == 0
    with world.store.writing() as session:
        session.execute("UPDATE notifications SET status = 'counted'")
    world.verdicts(customer="anna", amount=1, risk=99.9)
    assert world.later(minutes=31) + world.later(minutes=31) == 1


def test_a_storm_is_told_once_with_what_its_alerts_share(world: World) -> None:
    with world.store.writing() as session:
        session.execute(
            "INSERT INTO models BY NAME SELECT 'm' AS version, now()::TIMESTAMP AS promoted_at, "
            "'{\"alert_budget\": 0.01}' AS parameters, 'x' AS detector, "
            "'' AS path, promoted_at AS created_at"
        )
        session.execute(
            "INSERT INTO rollups SELECT TIMESTAMP '2026-03-02 08:00' + to_minutes(i), 'approve', "
            "'', '', '', 100, 0, 0, 0 FROM range(120) t(i)"
        )
    usual = 0.01 * 100  # alerts a minute

    def flood(n: int) -> None:
        low = world.seq
        world.verdicts(n, merchant="shop", device="d-17")
        with world.store.writing() as session:
            rollups.add(session, low, world.seq - 1)

    flood(19)
    world.later()
    assert not any("storm" in title for _, title, _ in world.sent), "too few"
    flood(40)
    assert world.later(seconds=5) == 1
    assert world.sent[-1][1].startswith("Aegis: storm, 40 alerts, highest risk ")
    assert (
        "Storm: 59 alerts within the hour, where 1 were forecast; 100% at device d-17, 100% at "
        "merchant shop, 100% for amount first, 100% in category 5945 Hobby, toy and game shops."
        in world.sent[-1][2].split("\n\n")[0]
    )
    flood(5)
    world.later(seconds=5)
    assert sum(row["what"] == "storm" for row in world.rows()) == 1
    world.later(hours=2)
    flood(30)
    world.later(seconds=5)
    assert [row["status"] for row in world.rows() if row["what"] == "storm"] == ["sent", "sent"]
    with world.store.reading() as session:
        assert storm(session, 30 / usual + 1, world.now) is None


@given(per_hour=2)
def test_the_hour_has_its_most_and_nothing_is_lost(world: World) -> None:
    for _ in range(5):
        world.verdicts()
        world.later(minutes=1)
    assert len(world.sent) == 2
    assert world.later(minutes=40) == 0
    assert world.later(minutes=20) == 1
    assert world.sent[-1][1] == STAKE.format("3 alerts", "3,720")
    assert set(world.statuses()) == {"sent"}


@given(quiet="22:00-07:00", zone="Europe/Berlin")
def test_quiet_hours_hold_everything_back_until_they_end(world: World) -> None:
    world.now = datetime(2026, 3, 2, 20, 59)
    world.verdicts()
    assert world.later() == 1
    for hours in (1, 4, 3.9):
        world.verdicts()
        assert world.later(hours=hours) == 0
    assert world.later(hours=0.2) == 1  # 07:05 in Berlin
    assert world.sent[-1][1] == STAKE.format("3 alerts", "3,720")


@pytest.mark.parametrize(
    ("quiet", "zone", "loud_utc"),
    [
        # the night of 29 March 2026 jumps from 02:00 to 03:00 in Berlin: 07:00 is 05:00 UTC
        ("22:00-07:00", "Europe/Berlin", [(28, 20), (29, 5)]),
        ("02:30-03:30", "Europe/Berlin", [(29, 0), (29, 2)]),
        ("22:00-07:00", "UTC", [(28, 21), (29, 7)]),
        ("09:00-17:00", "America/New_York", [(28, 12), (28, 21), (29, 12)]),
    ],
)
def test_quiet_hours_follow_the_clock_on_the_wall(
    quiet: str, zone: str, loud_utc: list[tuple[int, int]]
) -> None:
    rule = NotifyRule(name="a", what=("run",), to=("x://",), quiet=quiet, zone=zone)
    for day, hour in loud_utc:
        assert not is_quiet(rule, datetime(2026, 3, day, hour))
    assert not is_quiet(rule.model_copy(update={"quiet": ""}), NOON)
    quarters = [datetime(2026, 3, 27) + timedelta(minutes=15 * i) for i in range(400)]
    assert any(is_quiet(rule, at) for at in quarters)


def test_the_hour_that_comes_twice_is_quiet_twice() -> None:
    rule = NotifyRule(
        name="a", what=("run",), to=("x://",), quiet="02:00-03:00", zone="Europe/Berlin"
    )
    quiet = [is_quiet(rule, datetime(2026, 10, 24, 23) + timedelta(hours=h)) for h in range(4)]
    assert quiet == [False, True, True, False]


# --- when something fails ------------------------------------------------------------------------


def test_what_failed_is_tried_again_later_and_later_as_it_was(world: World) -> None:
    world.verdicts()
    world.answer = "no such server"
    assert world.later() == 0
    (first,) = world.rows()
    assert (first["status"], first["attempts"], first["error"]) == ("waiting", 1, "no such server")
    world.verdicts()
    assert world.later(seconds=29) == 0
    assert world.rows()[0]["attempts"] == 1
    world.later(seconds=2)
    assert world.rows()[0]["attempts"] == 2
    world.answer = None
    assert world.later(seconds=59) == 0
    assert world.later(seconds=2) == 1
    assert world.later(seconds=1) == 1
    assert [title.split()[-3] for _, title, _ in world.sent] == ["c0,", "c1,"]
    assert first["message_id"] in world.sent[0][2]
    assert world.rows()[0]["error"] is None


def test_it_gives_up_after_many_attempts_and_says_so(world: World) -> None:
    world.verdicts()
    world.answer = "refused"
    world.later()
    with world.store.writing() as session:
        session.execute("UPDATE notifications SET attempts = ?", [outbox.MAX_ATTEMPTS - 2])
    for _ in range(4):
        world.later(hours=1)
    (row,) = world.rows()
    assert (row["status"], row["attempts"]) == ("failed", outbox.MAX_ATTEMPTS)
    assert sum(map(outbox.pause_s, range(1, outbox.MAX_ATTEMPTS))) > 2 * 86_400


@given(to=["json://127.0.0.1:1/a", "json://127.0.0.1:1/b"])
def test_one_address_that_fails_does_not_hold_up_another(world: World) -> None:
    world.verdicts()
    deaf = world.take
    world.notifier.sender = lambda to, *told: "no" if to.endswith("a") else deaf(to, *told)
    assert world.later() == 1
    assert sorted(world.statuses()) == ["sent", "waiting"]
    world.notifier.sender = deaf
    assert world.later(minutes=1) == 1
    assert [to[-1] for to, *_ in world.sent] == ["b", "a"]


def test_a_clock_that_was_turned_back_stops_nothing(world: World) -> None:
    world.now += timedelta(days=3650)
    world.verdicts()
    world.answer = "no"
    world.later()
    world.now, world.answer = NOON, None
    assert world.later() == 1
    world.verdicts()
    assert world.later() == 1


@pytest.mark.parametrize("moment", ["before sending", "after sending"])
@pytest.mark.parametrize("at_most_once", [False, True])
def test_a_notifier_that_is_killed_repeats_or_loses_as_its_rule_says(
    tmp_path: Path, moment: str, at_most_once: bool
) -> None:
    rule = {"name": "a", "what": ["verdict"], "to": [TARGET], "at_most_once": at_most_once}
    world = World(tmp_path, [rule])
    world.later()
    world.verdicts()

    def killed(*told: str) -> str | None:
        if moment == "after sending":
            world.take(*told)
        raise KeyboardInterrupt  # as abrupt as can be: nothing is committed after it

    world.notifier.sender = killed
    with pytest.raises(KeyboardInterrupt):
        world.later()
    assert world.statuses() == ["sending"]
    world.start()
    again = world.later(seconds=5)
    sent = (moment == "after sending") + (not at_most_once)
    assert len(world.sent) == sent
    assert again == (not at_most_once)
    assert world.statuses() == ["unknown" if at_most_once else "sent"]
    assert len(set(world.sent)) <= 1, "the same text and number"
    assert world.later(hours=2) == 0


def test_events_and_cursor_are_committed_together_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.verdicts(3)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(outbox, "_row", full)
    with pytest.raises(MemoryError):
        world.later()
    assert world.rows() == []
    monkeypatch.undo()
    world.start()
    assert world.later() == 1
    assert world.statuses() == ["sent"] * 3


def test_more_events_than_one_look_brings_come_with_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core.runs.notify.events.MOST", 4)
    world.verdicts(10)
    assert [world.later(seconds=5) for _ in range(4)] == [1, 1, 1, 0]
    assert sorted(row["event"] for row in world.rows()) == [f"t{i}" for i in range(10)]


def test_messages_of_a_rule_that_is_gone_are_dropped(world: World, tmp_path: Path) -> None:
    world.verdicts()
    world.answer = "no"
    world.later()
    world.settings = config.load(
        home=tmp_path, notify=[{"name": "b", "what": ["run"], "to": [TARGET]}]
    )
    world.start()
    assert world.statuses() == ["dropped"]


# --- secrets and hostile text --------------------------------------------------------------------


def test_no_secret_reaches_the_log_the_list_or_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world.verdicts()
    world.notifier.sender = lambda *told: send(*told, within_s=3)  # nobody listens on port 9
    world.later()
    (row,) = world.rows()
    assert row["error"]
    everything = f"{row}{notify.listed(world.store, world.settings)}{world.settings!r}"
    everything += "".join(capfd.readouterr())
    assert SECRET not in everything
    assert address_of("env:MAIL") == "env:MAIL"
    with pytest.raises(InputError) as wrong:
        config.load(notify=[{"name": "a", "what": ["all"], "to": [TARGET]}, {"to": [TARGET]}])
    assert SECRET not in str(wrong.value)


MAIL = "mailto://me:secret@example.org?to="


@pytest.mark.parametrize(
    ("to", "lost"),
    [
        ("a@example.org;b@example.org", "b@example.org"),
        ("a@example.org,bob", "bob"),
        ("bob", "bob"),
        ("a@example.org&cc=bob@,c@example.org", "bob@"),
        ("a@example.org&bcc=carl", "carl"),
    ],
)
def test_a_recipient_that_would_be_left_out_is_refused_by_name(
    tmp_path: Path, to: str, lost: str
) -> None:
    settings = config.load(
        home=tmp_path, notify=[{"name": "a", "what": ["run"], "to": [MAIL + to]}]
    )
    with pytest.raises(InputError, match=f"leave out '{lost}'.*comma between two"):
        Notifier(connect(settings.db), settings)
    ((_, _, error),) = notify.try_out(connect(settings.db), settings)
    assert error is not None
    assert f"'{lost}'" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mailto://anna:pass%20word@example.org", "login anna failed with pass word"),
        ("tgram://123456:ABCdef/9876543", "bad token 123456:ABCdef for 9876543"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "no TIiajkdnlazkcOXrIdevi7FQ"),
        ("json://example.org/path?token=abcdef", "GET /path?token=abcdef"),
    ],
)
def test_an_error_loses_the_parts_of_the_address_that_may_be_secret(url: str, told: str) -> None:
    clean = without_secrets(told, url)
    for secret in ("pass word", "123456:ABCdef", "9876543", "TIiajkdnlazkcOXrIdevi7FQ", "abcdef"):
        assert secret not in clean


@pytest.mark.parametrize("text", [HOSTILE, "a\x00b", "\u2028x", "\x1b[31m", "\ud800"])
def test_text_from_outside_is_one_line_without_control_characters(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)


def test_hostile_text_in_a_mail_is_text(tmp_path: Path, mails: Mails) -> None:
    world = World(tmp_path, [{"name": "a", "what": ["verdict", "run"], "to": [mails.address]}])
    world.later()
    world.verdicts(customer=HOSTILE, merchant=HOSTILE)
    world.notifier.sender = send
    assert world.later() == 1
    (mail,) = mails.received
    assert mail.get_all("To") == ["risk@example.org"]
    assert mail["Bcc"] is None
    assert mails.envelopes == [["risk@example.org"]]
    assert mail.get_content_type() == "text/plain"
    assert "<b>bold</b> {{ x }}" in mail.get_content()
    assert "\u202e" not in mail.get_content()
    assert "Bcc: all@example.org" in mail["Subject"]
    assert "- 18 times the usual amount" in mail.get_content()


# --- real servers --------------------------------------------------------------------------------


class Mails:
    """A mail server on the loopback interface that keeps what it gets, or hangs."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []
        self.envelopes: list[list[str]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        sender = "from=aegis@example.org&to=risk@example.org&mode=insecure"
        self.address = f"mailto://127.0.0.1:{self.port}?{sender}"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("gone"):
            return "550 nobody of this name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        mail = email.message_from_bytes(content, policy=email.policy.default)
        self.received.append(mail)  # type: ignore[arg-type]
        self.envelopes.append(envelope.rcpt_tos)
        return "250 OK"


@pytest.fixture
def mails() -> Iterator[Mails]:
    kept = Mails()
    server = Controller(kept, hostname="127.0.0.1", port=kept.port)
    server.start()
    try:
        yield kept
    finally:
        server.stop()


def test_of_two_recipients_one_that_is_refused_does_not_make_the_other_read_it_twice(
    tmp_path: Path, mails: Mails
) -> None:
    to = mails.address.replace("to=risk@example.org", "to=gone@example.org,risk@example.org")
    rule = {"name": "a", "what": ["verdict"], "to": [f"{to}&cc=copy@example.org"]}
    world = World(tmp_path, [rule])
    world.later()
    world.verdicts()
    world.notifier.sender = send
    assert world.later() == 2
    assert [world.later(minutes=5) for _ in range(3)] == [0, 0, 0]
    assert sorted(mails.envelopes) == [["copy@example.org"], ["risk@example.org"]]
    assert sorted(world.statuses()) == ["sent", "sent", "waiting"]
    (refused,) = [row for row in world.rows() if row["status"] == "waiting"]
    assert refused["attempts"] == 4
    assert refused["target"].startswith(f"{address_of(rule['to'][0])} g…@example.org ")
    tried = notify.try_out(world.store, world.settings)
    assert [error is None for _, _, error in tried].count(True) == 2
    assert len(notify.listed(world.store, world.settings)[1]) == 3


class Hook:
    """A webhook on the loopback interface."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.status, self.wait_s = 200, 0.0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(json.loads(body))
                time.sleep(outer.wait_s)
                with contextlib.suppress(OSError):
                    self.do_GET()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def address(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.server.server_address[1]}/{SECRET}"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


def test_a_webhook_gets_json_and_a_refusal_is_tried_again(tmp_path: Path, hook: Hook) -> None:
    world = World(tmp_path, [{"name": "a", "what": ["verdict"], "to": [hook.address("json")]}])
    world.later()
    world.verdicts(merchant=HOSTILE)
    world.notifier.sender, hook.status = send, 500
    assert world.later() == 0
    assert "500" in world.rows()[0]["error"]
    assert SECRET not in world.rows()[0]["error"]
    hook.status = 200
    assert world.later(minutes=1) == 1
    first, second = hook.bodies
    assert first == second
    assert second["title"] == "Aegis: blocked, EUR 1,240.00 of c0, risk 99.95"
    assert "<b>bold</b> {{ x }}" in second["message"]


def test_a_mail_server_that_hangs_is_left_and_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        port = hangs.getsockname()[1]
        address = f"mailto://127.0.0.1:{port}?from=a@example.org&to=b@example.org&mode=insecure"
        world = World(tmp_path, [{"name": "a", "what": ["verdict"], "to": [address]}])
        world.later()
        world.verdicts()
        world.notifier.sender = lambda *told: send(*told, within_s=0.5)
        began = time.monotonic()
        assert world.later() == 0
        assert time.monotonic() - began < 10
        (row,) = world.rows()
        assert (row["status"], row["attempts"]) == ("waiting", 1)
        assert row["error"]
    kept = Mails()
    server = Controller(kept, hostname="127.0.0.1", port=port)
    server.start()
    try:
        world.notifier.sender = send
        assert world.later(minutes=1) == 1
    finally:
        server.stop()
    assert kept.received[0]["Subject"] == "Aegis: blocked, EUR 1,240.00 of c0, risk 99.95"


@contextlib.contextmanager
def notifying(
    home: Path, rules: list[dict[str, Any]], hook: Hook
) -> Iterator[subprocess.Popen[str]]:
    """A notifier's process that is sending; killed at the end."""
    command = [sys.executable, "-m", "aegis_core.cli", "notify", "run", "--every", "0.2"]
    environment = {**os.environ, "AEGIS_HOME": str(home), "AEGIS_NOTIFY": json.dumps(rules)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not hook.bodies and time.monotonic() < until:
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_a_process_killed_while_it_sends_sends_it_again(tmp_path: Path, hook: Hook) -> None:
    """A real process, a real SIGKILL, between the webhook's getting it and the log."""
    rules = [{"name": "a", "what": ["verdict"], "to": [hook.address("json")]}]
    world = World(tmp_path, rules)
    world.later()
    world.verdicts()
    hook.wait_s = 30
    with notifying(tmp_path, rules, hook), pytest.raises(RunBusy, match="notify is already"):
        notify.run(world.store, world.settings, for_s=0)
    assert world.statuses() == ["sending"]
    hook.wait_s = 0
    notify.run(world.store, world.settings, for_s=0)
    assert len(hook.bodies) == 2
    assert hook.bodies[0] == hook.bodies[1]
    assert world.statuses() == ["sent"]


def test_a_process_that_is_told_to_end_finishes_what_it_sends(tmp_path: Path, hook: Hook) -> None:
    rules = [{"name": "a", "what": ["verdict"], "to": [hook.address("json")]}]
    world = World(tmp_path, rules)
    world.later()
    world.verdicts()
    hook.wait_s = 0.7
    with notifying(tmp_path, rules, hook) as process:
        process.terminate()
        assert process.wait(30) == 0
    assert world.statuses() == ["sent"]
    assert len(hook.bodies) == 1


def test_an_outcome_that_could_not_be_written_is_made_good(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: the message went out, its log did not."""
    world = World(tmp_path, [{"name": "a", "what": ["verdict"], "to": [hook.address("json")]}])
    world.later()
    world.verdicts()
    settle, tried = outbox.settle, []

    def full(*given: Any) -> None:
        tried.append(given)
        if len(tried) == 1:
            raise StoreError("No space left on device.")
        settle(*given)
        os.kill(os.getpid(), signal.SIGTERM)  # ends the notifier in order

    monkeypatch.setattr(outbox, "settle", full)
    notify.run(world.store, world.settings, for_s=30, every_s=0.1)
    assert world.statuses() == ["sent"]
    assert hook.bodies[0] == hook.bodies[1]


def test_a_restored_database_begins_where_it_stands(world: World) -> None:
    world.verdicts(5)
    world.later()
    with world.store.writing() as session:
        session.execute("DELETE FROM verdicts WHERE seq > 1")
    assert world.later() == 0
    world.seq = 20
    world.verdicts()
    assert world.later() == 1


def test_an_owner_s_database_is_read_and_written_through_it(tmp_path: Path) -> None:
    """As with a running service: the notifier is one client of many."""
    world = World(tmp_path, [{"name": "a", "what": ["verdict", "run"], "to": [TARGET]}])
    world.later()
    world.verdicts()
    with connect(world.store.path).owned(limits=Limits()):
        assert world.later() == 1
        assert world.statuses() == ["sent"]
        world.ran("r1", "failed", error=HOSTILE + "'; DROP TABLE runs; --")
        assert world.later() == 1


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    monkeypatch.setattr(config, "CHECKOUT", tmp_path)
    return CliRunner()


def test_rules_come_from_aegis_toml_and_addresses_from_variables(
    command: CliRunner, tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aegis.toml").write_text(
        '[[notify]]\nname = "mail"\nwhat = ["run", "drift"]\nto = ["env:AEGIS_HOOK"]\n'
        'quiet = "22:00-07:00"\nzone = "Europe/Berlin"\n\n'
        f'[[notify]]\nname = "other"\nwhat = ["verdict"]\nto = ["{TARGET}"]\n'
    )
    refused = command.invoke(app, ["notify", "test", "mail"])
    assert refused.exit_code == 1
    assert "AEGIS_HOOK is not set" in refused.output
    monkeypatch.setenv("AEGIS_HOOK", hook.address("json"))
    told = command.invoke(app, ["notify", "test", "mail"])
    assert (told.exit_code, told.output) == (0, "mail → env:AEGIS_HOOK: sent\n")
    assert hook.bodies[0]["title"] == "Aegis: a test"
    with connect(tmp_path / "data" / "aegis.duckdb").writing():
        pass
    assert command.invoke(app, ["notify", "test"]).exit_code == 1
    listed = command.invoke(app, ["notify", "list"]).output
    assert "env:AEGIS_HOOK" in listed
    assert SECRET not in listed
    with pytest.raises(InputError, match="Did you mean mail"):
        command.invoke(app, ["notify", "test", "mial"], catch_exceptions=False)


def test_without_a_rule_or_a_database_it_says_what_to_do(
    command: CliRunner, tmp_path: Path
) -> None:
    for words in (["run"], ["test"], ["list"]):
        with pytest.raises(InputError, match=r"\[\[notify\]\]"):
            command.invoke(app, ["notify", *words], catch_exceptions=False)
    settings = config.load(home=tmp_path, notify=[{"name": "a", "what": ["run"], "to": [TARGET]}])
    with pytest.raises(NotReady, match="no database"):
        notify.run(Store(settings.db), settings, for_s=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"what": ["all"]}, "notify.0.what.0"),
        ({"quiet": "22-7"}, "22:00-07:00"),
        ({"zone": "Europe/Atlantis"}, "no such time zone"),
        ({"health": "localhost"}, "http://"),
        ({"to": []}, "notify.0.to"),
        ({"colour": "red"}, "notify.0.colour"),
    ],
    ids=str,
)
def test_a_rule_that_cannot_work_is_refused_with_what_to_do(
    wrong: dict[str, Any], said: str
) -> None:
    rule = {"name": "a", "what": ["run"], "to": [TARGET]}
    with pytest.raises(InputError, match=said):
        config.load(notify=[{**rule, **wrong}])
    with pytest.raises(InputError, match="same name"):
        config.load(notify=[rule, rule])
    settings = config.load(notify=[{**rule, "to": [f"nonsense://{SECRET}"]}])
    with pytest.raises(InputError, match="Apprise cannot use") as refused:
        Notifier(Store("x"), settings)
    assert SECRET not in str(refused.value)


def test_a_notebooks_kernel_is_given_no_rules() -> None:
    settings = config.load(notify=[{"name": "a", "what": ["run"], "to": [TARGET]}])
    assert "notify" not in settings.model_dump()
