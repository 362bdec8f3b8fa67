"""The service as a process: killed at any moment, ended, started wrongly, sent anything."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from test_service import same_as_folded

from aegis_core import config
from aegis_core.cli import main
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, StoreBusy
from aegis_core.evaluation.parity import Parity, parity
from aegis_core.intake import import_files
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.runs import execution
from aegis_core.schema import SCHEMA_VERSION
from aegis_core.serving.engine import Engine
from aegis_core.serving.simulate import simulate
from aegis_core.store import connect
from aegis_core.views.dashboard.feed import Feed, Filters

TOKEN = "a-token-for-the-tests"
ROUNDS = int(os.environ.get("AEGIS_TEST_KILLS", "5"))
CLIENTS = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small history with a champion, to be copied."""
    settings = config.load(home=tmp_path_factory.mktemp("process"))
    store = connect(settings.db)
    some = SyntheticConfig(n_transactions=3_000, n_customers=50, days=10)
    write_history(store, some, progress=False)
    train(store, settings, Recipe(n_trees=10, max_samples=64))
    return settings.home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def started(home: Path, port: int) -> subprocess.Popen[bytes]:
    """The service as a process of its own, once it is ready."""
    log = home / "service.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "aegis_core.cli", "serve", "--port", str(port)],
            env={**os.environ, "AEGIS_HOME": str(home), "AEGIS_TOKEN": TOKEN},
            stdout=out,
            stderr=out,
        )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/v1/health")
            if connection.getresponse().status == 200:
                return process
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise AssertionError("the service did not get ready")


@pytest.fixture(scope="module")
def running(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A service that goes on meanwhile, its home and its port."""
    home = tmp_path_factory.mktemp("running") / "home"
    shutil.copytree(trained, home)
    port = free_port()
    process = started(home, port)
    try:
        yield home, port
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


class Client(threading.Thread):
    """Sends payments until the service dies, and keeps what was answered and what was not."""

    def __init__(self, port: int, name: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.port, self.prefix, self.random = port, name, random.Random(seed)
        self.answered: dict[str, dict[str, Any]] = {}
        self.sent: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            for i in range(100_000):
                row = {
                    "transaction_id": f"{self.prefix}-{i}",
                    "customer_id": f"c{self.random.randrange(60)}",
                    "timestamp": f"2026-02-{1 + i % 28:02d}T{self.random.randrange(24):02d}:00:00Z",
                    "amount": round(self.random.lognormvariate(3, 1.5), 2) + 0.01,
                    "merchant_id": f"m{self.random.randrange(30)}",
                }
                self.sent[row["transaction_id"]] = row
                connection.request("POST", "/v1/transactions", json.dumps(row), headers)
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    return
                self.answered[row["transaction_id"]] = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError):
            return
        finally:
            connection.close()


def test_what_was_answered_before_a_kill_is_there_with_the_same_verdict_and_once(
    home: Path,
) -> None:
    settings = config.load(home=home)
    chance = random.Random(7)
    answered: dict[str, dict[str, Any]] = {}
    sent: dict[str, dict[str, Any]] = {}
    for round_ in range(ROUNDS):
        port = free_port()
        process = started(home, port)
        clients = [Client(port, f"r{round_}c{k}", 100 * round_ + k) for k in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(chance.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for client in clients:
            client.join(15)
            answered |= client.answered
            sent |= client.sent
    store = connect(settings.db)
    kept = store.query(
        "SELECT v.transaction_id, v.score, v.risk, v.decision, v.seq FROM verdicts v "
        "JOIN transactions USING (seq)"
    ).set_index("transaction_id")
    assert len(answered) > ROUNDS
    assert kept.index.is_unique
    assert kept.seq.is_unique
    for transaction_id, verdict in answered.items():
        row = kept.loc[transaction_id]
        assert (row.score, row.risk, row.decision, row.seq) == (
            *(verdict["score"], verdict["risk"], verdict["decision"], verdict["seq"]),
        )
    assert set(kept.index) <= set(sent), "nothing is there that nobody sent"
    n = store.rows("SELECT count(*) AS n, max(seq) + 1 AS next FROM transactions")[0]
    assert n["n"] == n["next"] == 3_000 + len(kept)
    assert parity(store, settings).different == 0
    with Engine.open(store, settings) as engine:  # a fold and what a restart makes of it are one
        same_as_folded(engine, store)


@pytest.mark.fast
def test_a_graceful_end_answers_all_and_leaves_a_snapshot(home: Path, tmp_path: Path) -> None:
    settings = config.load(home=home)
    port = free_port()
    process = started(home, port)
    clients = [Client(port, f"c{k}", k) for k in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    for client in clients:
        client.join(15)
    assert (settings.db.with_name(settings.db.name + ".state") / "state.json").exists()
    kept = {r["t"] for r in connect(settings.db).rows("SELECT transaction_id AS t FROM verdicts")}
    assert {t for client in clients for t in client.answered} <= kept


class Refused:
    """Says what `aegis serve` told, where it did not start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.patch, self.told = monkeypatch, capfd

    def __call__(self, folder: Path, at: int) -> str:
        self.patch.setenv("AEGIS_HOME", str(folder))
        self.patch.setenv("AEGIS_TOKEN", TOKEN)
        self.told.readouterr()
        assert main(["serve", "--port", str(at)]) == 2
        told = self.told.readouterr().err
        assert "Traceback" not in told
        assert len(told.splitlines()) == 1
        return told


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    return Refused(monkeypatch, capfd)


def test_a_newer_database_a_broken_model_and_a_folder_that_takes_nothing_are_too(
    home: Path, refused: Refused
) -> None:
    store = connect(config.load(home=home).db)
    with store.writing() as session:
        session.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    assert "Use the Aegis that wrote it" in refused(home, 0)
    import duckdb

    with duckdb.connect(str(store.path)) as raw:
        raw.execute(f"UPDATE meta SET value = '{SCHEMA_VERSION}' WHERE key = 'schema_version'")
    for part in (home / "data" / "models").rglob("*.npz"):
        part.write_bytes(part.read_bytes()[:200])
    assert "cannot be read" in refused(home, 0)
    (home / "data" / "aegis.duckdb.endpoint").mkdir()
    assert "cannot be written" in refused(home, 0)


def test_a_second_owner_a_taken_port_and_no_model_are_one_clear_sentence_each(
    home: Path, running: tuple[Path, int], tmp_path: Path, refused: Refused
) -> None:
    other = tmp_path / "other"
    shutil.copytree(home / "data" / "models", other / "data" / "models")
    assert "owns" in refused(running[0], free_port())
    assert "no database" in refused(other, free_port())
    assert "choose another with --port" in refused(home, running[1])


# ---- others beside the owner


def test_while_it_scores_others_read_simulate_and_write_all_but_transactions(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core.serving.client.PATIENCE_S", 0.0)
    settings = config.load(home=home, token=TOKEN)
    store = connect(settings.db)
    port = free_port()
    process = started(home, port)
    try:
        before = store.rows("SELECT count(*) AS n FROM transactions")[0]["n"]
        tally = simulate(
            store, settings, n_transactions=150, fraud_multiplier=20.0, progress=False,
            target=f"http://127.0.0.1:{port}", say=lambda _: None,
        )  # fmt: skip
        assert tally.transactions == 150
        assert store.rows("SELECT count(*) AS n FROM transactions")[0]["n"] == before + 150
        board = Feed(store).read(Filters())
        assert board.newest == before + 149
        assert board.counts.total() == 150
        assert board.uncounted == 0
        with pytest.raises(InputError), store.writing() as session:
            session.execute("UPDATE verdicts SET decision = 'approve'")
        result = execution.run_notebook("start", {}, settings, progress=False)
        assert result.status == "done"
        assert parity(store, settings) == Parity(150, 0, None)
        with pytest.raises(StoreBusy, match="alone writes"):
            simulate(store, settings, n_transactions=5, progress=False, say=lambda _: None)
        (home / "more.csv").write_text("customer_id,ts,amount\nc1,2026-02-01,5\n")
        with pytest.raises(StoreBusy, match="alone writes"):
            import_files([home / "more.csv"], store, progress=False)
        wrong = config.load(home=home, token="another-token-altogether")
        with pytest.raises(InputError, match="refuses the token"):
            simulate(
                store, wrong, n_transactions=5, progress=False,
                target=f"http://127.0.0.1:{port}", say=lambda _: None,
            )  # fmt: skip
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert store.rows("SELECT count(*) AS n FROM verdicts") == [{"n": 150}]
    with pytest.raises(StoreBusy, match="does not answer"):
        simulate(
            store, settings, n_transactions=5, progress=False,
            target=f"http://127.0.0.1:{port}", say=lambda _: None,
        )  # fmt: skip


def test_an_import_beside_a_service_goes_to_it_by_itself(
    running: tuple[Path, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, port = running
    monkeypatch.setenv("AEGIS_HOME", str(home))
    monkeypatch.setenv("AEGIS_TOKEN", TOKEN)
    (home / "today.csv").write_text(
        "transaction_id,customer_id,ts,amount\nby1,c1,2026-02-03,5\nby2,c1,2026-02-03,-\n"
    )
    again = ("1 × approved", "kept there, 1 of them new"), ("nothing new", "as they were before")
    for told in again:
        assert main(["import", str(home / "today.csv"), "--partial"]) == 0
        said = capsys.readouterr().out
        assert all(part in said for part in (f"Sent to http://127.0.0.1:{port}", *told)), said
    store = connect(config.load(home=home).db)
    kept = (
        "SELECT count(*) FROM rejected WHERE reason = 'amount is not a number' AND source = 'api'"
    )
    assert store.value(kept) == 1
    assert store.value("SELECT count(*) FROM verdicts WHERE transaction_id = 'by1'") == 1


# ---- anything at all, after the service's own description


@pytest.fixture(scope="module")
def described(running: tuple[Path, int]) -> schemathesis.BaseSchema:
    """What a running service says of itself."""
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{running[1]}/openapi.json")


def test_nothing_that_is_sent_is_a_fault_of_the_service(
    described: schemathesis.BaseSchema,
) -> None:
    tried = []
    for found in described.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @examples(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
        def send(case: schemathesis.Case) -> None:
            for headers in ({"Authorization": f"Bearer {TOKEN}"}, {}):
                response = case.call(headers=headers)
                assert response.status_code < 500, response.text

        send()
        tried.append(operation.label)
    assert "POST /v1/transactions" in tried
    assert len(tried) == 20
