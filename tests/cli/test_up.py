"""From nothing to the live dashboard, and again from what is there."""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aegis_core import config
from aegis_core.cli import up
from aegis_core.errors import RunFailed
from aegis_core.runs import execution
from aegis_core.store import connect


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
            "INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount) "
            "VALUES (0, 't', 'c', now(), 1)"
        )
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


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_new_machine_gets_to_the_dashboard_and_ends_by_itself(time: str, home: Path) -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "aegis_core.cli",
            "up",
            *["--transactions", "20000", "--port", "0", "--for", "8"],
        ],
        env={**os.environ, "AEGIS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert process.returncode == 0, process.stderr
    assert "Dashboard: http://127.0.0.1:" in process.stdout
    assert "Traceback" not in process.stderr
    assert ("generate took" in process.stdout) == (time == "first")
    assert ("Using the champion" in process.stdout) == (time == "second")
    assert "simulate" in (home / "reports" / "index.html").read_text("utf-8")
    assert "Scoring on http://127.0.0.1:" in process.stdout
    streamed = connect(home / "data" / "aegis.duckdb").rows("SELECT count(*) AS n FROM verdicts")
    assert streamed[0]["n"] > 0


def test_a_service_that_dies_is_started_again_with_all_that_it_answered(home: Path) -> None:
    settings = config.load(home=home)
    store = connect(settings.db)
    with up._service(settings, 0) as address, up._stream(settings, 20, address):
        deadline = time.monotonic() + 60
        before = store.rows("SELECT count(*) AS n FROM verdicts")[0]["n"]
        (service,) = (p for p in multiprocessing.active_children() if p.name == "service")
        while store.rows("SELECT count(*) AS n FROM verdicts")[0]["n"] == before:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        service.kill()
        service.join()
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=2)
                connection.request("GET", "/v1/health")
                assert connection.getresponse().status == 200
                connection.close()
                break
            time.sleep(0.2)
        (again,) = (p for p in multiprocessing.active_children() if p.name == "service")
        assert again.pid != service.pid
        again_there = store.rows("SELECT count(*) AS n FROM verdicts")[0]["n"]
        assert again_there > before
