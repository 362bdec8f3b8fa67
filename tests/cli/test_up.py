"""From nothing to the live dashboard, and again from what is there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aegis_core import config
from aegis_core.cli import up
from aegis_core.errors import RunFailed
from aegis_core.runs import execution
from aegis_core.store import connect
from aegis_core.views.launcher import answers


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What was done, in order; nothing is really run or served."""
    done: list[tuple[str, dict[str, Any]]] = []

    def run(
        name: str, parameters: dict[str, Any], settings: config.Settings
    ) -> execution.RunResult:
        done.append((name, parameters))
        return execution.RunResult("id", "done", settings.home, settings.home, 1.0)

    @contextlib.contextmanager
    def stream(
        settings: config.Settings, for_s: float | None, target: str, rate: float
    ) -> Iterator[None]:
        done.append(("stream", {"for_s": for_s, "target": target, "rate": rate}))
        yield

    @contextlib.contextmanager
    def service(settings: config.Settings, port: int) -> Iterator[str]:
        done.append(("service", {"port": port}))
        yield "http://there"

    monkeypatch.setattr(up, "run_notebook", run)
    monkeypatch.setattr(up, "_stream", stream)
    monkeypatch.setattr(up, "_service", service)
    monkeypatch.setattr(
        up, "serve", lambda _, port, for_s: done.append(("serve", {"port": port, "for_s": for_s}))
    )
    return done


def test_an_empty_place_gets_every_step_in_order(
    steps: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    up.first_light(config.load(home=tmp_path), transactions=99, port=1, api_port=2, for_s=30)
    assert steps == [
        ("generate", {"n_transactions": 99}),
        ("train", {}),
        ("evaluate", {}),
        ("service", {"port": 2}),
        ("stream", {"for_s": 30, "target": "http://there", "rate": 50.0}),
        ("serve", {"port": 1, "for_s": 30}),
    ]


def test_what_is_there_is_used_again(
    steps: list[tuple[str, dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config.load(home=tmp_path)
    with connect(settings.db).writing() as session:
        session.execute(
            "INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount, source) "
            "VALUES (0, 't', 'c', now(), 1, 'synthetic')"
        )
        session.execute("INSERT INTO meta VALUES ('synthetic', '{}')")
        session.execute(
            "INSERT INTO models (version, detector, path, created_at, promoted_at) VALUES "
            "('old', 'forest', 'x', now(), '2026-01-01'), "
            "('new', 'forest', 'x', now(), '2026-01-02'), ('unused', 'forest', 'x', now(), NULL)"
        )
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at) "
            "VALUES ('e1', 'evaluate', 'done', now()), ('e2', 'evaluate', 'failed', now())"
        )
    up.first_light(settings)
    assert [name for name, _ in steps] == ["service", "stream", "serve"]
    told = capsys.readouterr().out
    assert "Using the 1 transactions" in told
    assert "champion model new" in told
    assert "evaluation e1" in told


@pytest.mark.parametrize("given", [None, True])
def test_nothing_is_simulated_into_own_data_unless_it_is_asked_for(
    steps: list[tuple[str, dict[str, Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: bool | None,
) -> None:
    settings = config.load(home=tmp_path)
    with connect(settings.db).writing() as session:
        session.execute(
            "INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount, source) "
            "VALUES (0, 't', 'c', now(), 1, 'own.csv')"
        )
    up.first_light(settings, simulate=given)
    assert [name for name, _ in steps] == [
        *("train", "evaluate", "service"),
        *(["stream"] if given else []),
        "serve",
    ]
    told = capsys.readouterr().out
    assert ("nothing is simulated" in told) == (given is None)
    assert (f"`aegis score --since 30d --db {settings.db}`" in told) == (given is None)


def test_a_failed_evaluation_is_tried_again(
    steps: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    settings = config.load(home=tmp_path)
    with connect(settings.db).writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at) "
            "VALUES ('e2', 'evaluate', 'failed', now())"
        )
    up.first_light(settings)
    assert "evaluate" in dict(steps)


def test_a_stream_that_fails_is_told_and_fails_the_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stream = up._stream(config.load(home=tmp_path), 60)
    stream.__enter__()
    for process in multiprocessing.active_children():
        process.join(60)
    with pytest.raises(RunFailed, match="the stream failed"):
        stream.__exit__(None, None, None)
    assert "no database" in capfd.readouterr().err


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def begun(home: Path, *more: str) -> subprocess.Popen[str]:
    """`aegis up` in a process of its own; what it tells is in `out` and `err` of the home."""
    with (home / "out").open("w") as out, (home / "err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "aegis_core.cli", "up", "--port", "0", *more],
            env={**os.environ, "AEGIS_HOME": str(home)},
            stdout=out,
            stderr=err,
            text=True,
        )


def verdicts(home: Path) -> int:
    store = connect(home / "data" / "aegis.duckdb")
    return int(store.value("SELECT count(*) FROM verdicts"))


def ended_well(process: subprocess.Popen[str], home: Path) -> str:
    """What a call told that goes on to its own end."""
    told, errors = home / "out", home / "err"
    assert process.wait(300) == 0, errors.read_text()
    assert "Traceback" not in errors.read_text()
    assert "Dashboard: http://127.0.0.1:" in told.read_text()
    assert "Scoring on http://127.0.0.1:" in told.read_text()
    assert "simulate" in (home / "reports" / "index.html").read_text("utf-8")
    return told.read_text()


def test_a_new_machine_gets_to_the_dashboard_and_ends_by_itself(home: Path) -> None:
    with begun(home, "--transactions", "20000", "--for", "8") as process:
        try:
            told = ended_well(process, home)
        finally:
            process.kill()
    assert "generate took" in told
    assert "Using the champion" not in told
    assert verdicts(home) > 0


def test_the_second_time_a_service_that_dies_is_started_again_with_all_that_it_answered(
    home: Path,
) -> None:
    before, deadline = verdicts(home), time.monotonic() + 120
    with begun(home, "--for", "20") as process:
        try:
            while not (
                found := re.search(r"Scoring service: .*:(\d+)/", (home / "out").read_text())
            ):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            port = int(found[1])
            while verdicts(home) == before:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            service = owner(process, port)
            service.kill()
            service.wait()
            while not answers(lambda: True, port, "/v1/health", 1.0):
                assert time.monotonic() < deadline
            assert owner(process, port) != service
            assert verdicts(home) > before
            told = ended_well(process, home)
        finally:
            process.kill()
    assert "The service ended and is started again." in told
    assert "generate took" not in told
    assert "Using the champion" in told


def owner(process: subprocess.Popen[str], port: int) -> psutil.Process:
    """The process that listens at a port."""
    (found,) = (
        child
        for child in psutil.Process(process.pid).children()
        if port in {c.laddr.port for c in child.net_connections() if c.status == psutil.CONN_LISTEN}
    )
    return found
