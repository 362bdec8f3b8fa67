"""What the benchmarks promise: nobody left out in silence, no figure made up, all is ended."""

from __future__ import annotations

import dataclasses
import http.server
import importlib
import itertools
import json
import re
import shutil
import signal
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aegis_core.errors import InputError
from aegis_core.intake.synthetic import SyntheticConfig
from aegis_core.serving.schemas import checked

ROOT = Path(__file__).parents[1]


def pinned(lock: str) -> dict[tuple[str, str], str]:
    """Versions by name and marker."""
    text = (ROOT / lock).read_text("utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; ([^\\]+))? \\$", text, re.MULTILINE)
    return {(canonicalize_name(name), marker.strip()): version for name, version, marker in pins}


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("peers")


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("learned")


def test_both_locks_pin_what_they_share_to_the_same_version() -> None:
    ours, theirs = pinned("requirements.lock"), pinned("benchmarks/requirements.lock")
    shared = {name for name, _ in ours} & {name for name, _ in theirs}
    assert {"numpy", "pandas", "scikit-learn", "duckdb"} <= shared
    for name in shared:
        versions = {v for (n, _), v in ours.items() if n == name}
        assert {v for (n, _), v in theirs.items() if n == name} <= versions, name


def test_other_peoples_detectors_are_locked_for_the_benchmark_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    theirs = pinned("benchmarks/requirements.lock")
    for wanted in map(Requirement, project["optional-dependencies"]["bench"]):
        versions = [v for (name, _), v in theirs.items() if name == canonicalize_name(wanted.name)]
        assert versions
        assert all(map(wanted.specifier.contains, versions))
        assert wanted.name not in {name for name, _ in pinned("requirements.lock")}


@pytest.mark.parametrize("asked", [True, False])
def test_a_peer_that_is_not_measured_is_named(
    peers: ModuleType,
    asked: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert [p.name for p in peers.present(asked)] == [peers.USUAL.name]
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [p.name for p in peers.PEERS]
    assert all("left out" in line for line in told)


def test_raw_features_keep_the_order_of_the_rows(peers: ModuleType) -> None:
    ts = pd.to_datetime(["2026-01-01 10:00:05", "2026-01-01 10:00:00", "2026-01-01 10:00:00"])
    frame = pd.DataFrame({"customer_id": list("bab"), "ts": ts, "amount": [1.0, 2.0, 3.0]})
    features = peers.raw_features(frame)
    assert features[:, 0].tolist() == [1, 2, 3]
    assert features[:, 5].tolist() == [2, 1, 1]  # payments of the customer in 10 s
    assert np.isfinite(features).all()


def test_answers_to_double_counts_whole_weeks_only(learned: ModuleType) -> None:
    days = pd.DataFrame({"answers": range(0, 80, 10), "learner": 2, "forest": [3] + [1] * 7})
    assert learned.answers_to_double(days) == 70
    assert learned.answers_to_double(days.head(7)) is None
    assert learned.answers_to_double(days.assign(learner=0, forest=0)) is None


# ---- the running service beside the usual stack


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the live benchmark, by name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = ("servers", "load", "ledger", "live", "outcome", "readers", "soak", "traffic")
    return SimpleNamespace(**{n: importlib.import_module(n) for n in (*names, "usual_stack")})


POPULATION = SyntheticConfig(n_transactions=2_000, n_customers=40, n_merchants=30, days=20)


def test_every_payment_of_the_load_is_new_later_and_taken_by_the_service(
    bench: SimpleNamespace,
) -> None:
    traffic = bench.traffic.Traffic(POPULATION, 150)
    rows = [checked(line) for line in traffic.lines("p-", 0, 400)]
    assert [problem for _, problem in rows if problem] == []
    assert len({row["transaction_id"] for row, _ in rows}) == 400
    assert all(a["ts"] <= b["ts"] for (a, _), (b, _) in itertools.pairwise(rows))
    assert rows[0][0]["ts"] / 1e6 >= POPULATION.end.timestamp() - 86_400
    for kind, parsed in (
        ("json", json.loads), ("ndjson", lambda body: [json.loads(x) for x in body.splitlines()]),
    ):  # fmt: skip
        bodies = traffic.bodies("p-", 0, 4, 100, kind)
        sent = [row for body in bodies for row in parsed(body)]
        assert sent == [json.loads(line) for line in traffic.lines("p-", 0, 400)]
    table = traffic.table("p-", 0, 400).to_pandas()
    assert table.transaction_id.tolist() == [row["transaction_id"] for row, _ in rows]
    assert table.amount.tolist() == [row["amount"] for row, _ in rows]
    assert table.ts.astype("int64").tolist() == [row["ts"] for row, _ in rows]
    with pytest.raises(InputError, match="after 2100"):
        traffic.lines("p-", 10**7, 1)


def test_wrk_sends_the_same_payments_each_once(bench: SimpleNamespace, tmp_path: Path) -> None:
    if shutil.which("wrk") is None:
        with pytest.raises(bench.servers.Failed, match="apt install wrk"):
            bench.load.wrk()
        return
    got: list[bytes] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_POST(self) -> None:
            good = self.headers["Authorization"] == "Bearer a-token-for-the-tests"
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            # every tenth is told to come again
            self.send_response(200 if good and len(got) % 10 else 503)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            return

    traffic = bench.traffic.Traffic(POPULATION, 50)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        server = SimpleNamespace(
            url=f"http://127.0.0.1:{listener.server_port}/v1/transactions", cpu_s=lambda: None
        )
        found = bench.load.singles(
            server, "a-token-for-the-tests", traffic.write(tmp_path / "p"), "w-", 30, 2, 1
        )
        listener.shutdown()
    expected = traffic.lines("w-", 30, found.next - 30)
    assert set(got) <= set(expected)
    assert len(set(got)) == len(got) > 60
    assert found.answered + found.not_2xx <= len(got) <= found.answered + found.not_2xx + 2
    assert abs(found.not_2xx - len(got) / 10) <= 2
    assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms <= found.max_ms
    assert found.server_us is None


def test_a_load_without_any_answer_has_no_waiting_times(bench: SimpleNamespace) -> None:
    said = {"requests": 0, "duration_us": 10**6, "next": 2} | dict.fromkeys(
        ("p50_us", "p90_us", "p99_us", "max_us", "not_2xx", "socket_errors", "timeouts"), 0
    )
    found = bench.load.summary(json.dumps(said), 0, 0.1, 0.2)
    assert found.rate == 0
    assert {getattr(found, f"{p}_ms") for p in ("p50", "p90", "p99", "max")} == {None}
    record = {"way": "single 1", "stack": "Aegis", "repeat": 0, **dataclasses.asdict(found)}
    text = bench.outcome.report(bench.outcome.medians([record]), {"p50_ms": 1.0, "p99_ms": 2.0}, {})
    assert "p50 ≤ 2.5 ms: not measured" in text
    with pytest.raises(bench.servers.Failed, match="nothing that can be read"):
        bench.load.summary("Segmentation fault", 0, 0.1, 0.2)


def test_a_figure_is_asked_of_aegis_alone_and_said_to_be_met_or_not(
    bench: SimpleNamespace,
) -> None:
    def record(stack: str, repeat: int, **figures: float) -> dict[str, Any]:
        return {"way": "single 8", "stack": stack, "repeat": repeat, "not_2xx": 1, **figures}

    records = [record("Aegis", i, rate=r, p99_ms=20.0) for i, r in enumerate((1.0, 3000.0, 2600.0))]
    records += [record("usual stack", i, rate=100.0, p99_ms=None) for i in range(3)]
    records += [
        {"way": "large log: ready after an end", "stack": "Aegis", "repeat": 0, "ready_s": 1.0,
         "transactions": 5_000}
    ]  # fmt: skip
    found = bench.outcome.medians(records)
    assert [(r["rate"], r["not_2xx"]) for r in found[:2]] == [(2600.0, 3), (100.0, 3)]
    text = bench.outcome.report(found, {"p50_ms": 0.001, "p99_ms": 0.001}, {"cores": "2"}, 0.5)
    ours, theirs, ratio = (x for x in text.splitlines() if "Aegis" in x or "usual stack" in x)
    assert "≥ 2,500/s: yes; p99 ≤ 15 ms: NO" in ours
    assert "≥" not in theirs
    assert "–" in theirs
    assert "26 ×" in ratio
    assert "at 10 million: not measured" in text, "a short log says nothing of a long one"
    assert "memory and no disk" in text
    assert "Other processes took 50%" in text
    assert "nan" not in text.lower()


def test_without_wrk_the_benchmark_says_how_to_get_it(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert bench.live.main(["--only", "single"]) == 2
    assert "apt install wrk" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["live", "soak"])
def test_the_help_has_examples_that_the_options_allow(
    name: str, bench: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    script = getattr(bench, name)
    with pytest.raises(SystemExit, match="0"):
        script.options(["--help"])
    shown = re.findall(rf"python benchmarks/{name}.py (.+)", capsys.readouterr().out)
    assert len(shown) >= 3
    for example in shown:
        assert script.options(example.split()).folder


def test_what_was_started_ends_with_its_block_and_a_start_that_fails_says_why(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = bench.servers
    monkeypatch.setenv("AEGIS_DB", "/elsewhere.duckdb")
    why = "import os, sys; sys.exit('AEGIS_DB is ' + os.environ.get('AEGIS_DB', 'not set'))"
    with pytest.raises(servers.Failed, match="AEGIS_DB is not set"):
        servers.start("failing", [sys.executable, "-c", why], tmp_path / "log")
    command = [sys.executable, str(ROOT / "benchmarks" / "constant.py"), "{port}"]
    server = servers.start("constant", command, tmp_path / "log")

    def work() -> None:
        with servers.running(server):
            assert servers.healthy(server.port)
            assert server.process.pid in servers.family(server.process.pid)
            assert server.cpu_s() is None or server.cpu_s() > 0
            assert server.rss_mb() is None or server.rss_mb() > 1
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        work()
    assert server.process.poll() is not None
    assert not servers.healthy(server.port)


def test_a_signal_ends_the_block_whatever_it_interrupts(bench: SimpleNamespace) -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("Query interrupted") from None

    with pytest.raises(KeyboardInterrupt), bench.servers.ended_by_signals():
        interrupted()
    with pytest.raises(ValueError, match="its own"), bench.servers.ended_by_signals():
        raise ValueError("its own")


def test_an_answered_verdict_that_is_lost_twice_or_another_one_is_told(
    bench: SimpleNamespace, tmp_path: Path
) -> None:
    ledger = bench.ledger.Ledger(tmp_path)
    verdicts = [
        {"transaction_id": f"t{i}", "seq": i, "score": i / 3, "risk": 1.0, "decision": "approve"}
        for i in range(6)
    ]
    assert ledger.fresh().empty
    ledger.note(verdicts[:4])
    first = ledger.fresh()
    ledger.note(verdicts[3:])  # t3 was sent again and answered the same
    ledger.fresh()
    answered = ledger.everything()
    assert (len(first), len(answered), ledger.answered) == (4, 7, 7)
    stored = pd.DataFrame(verdicts)
    differences = bench.ledger.differences
    assert not differences(answered, stored.sample(frac=1, random_state=0))
    assert not differences(first, stored), "what was never answered may be there"
    assert differences(answered, stored.drop(index=2)) == (1, 0, 0)
    assert differences(answered, pd.concat([stored, stored.tail(1)])) == (0, 1, 0)
    assert differences(
        answered, stored.assign(score=stored.score + np.array([0, 0, 0, 0, 0, 1e-15]))
    ) == (0, 0, 1)
    assert differences(answered, stored.assign(decision=["block", *stored.decision[1:]])) == (
        *(0, 0, 1),
    )
    assert differences(answered, stored.head(0)) == (6, 0, 0)


def test_memory_that_is_flat_in_each_life_does_not_grow(bench: SimpleNamespace) -> None:
    def life(number: int, level: float, slope: float = 0.0) -> Iterator[Any]:
        for i in range(40):
            yield bench.soak.Sample(number, 1000.0 * number + 10 * i, level + slope * i * 10 / 3600)

    growth = bench.soak.growth
    assert growth([], 0) is None
    assert growth(list(life(0, 500)), 1e6) is None
    assert growth(list(life(0, 500)), 60) == 0
    assert growth([*life(0, 500), *life(1, 900)], 60) == 0, "a start is no growth"
    assert growth(list(life(0, 500, 36.0)), 60) == pytest.approx(36.0)
    with_peak = [s._replace(rss_mb=9_999) if i == 20 else s for i, s in enumerate(life(0, 500, 36))]
    assert growth(with_peak, 60) == pytest.approx(36.0, rel=0.05)
    warming = [s._replace(rss_mb=i) if i < 10 else s for i, s in enumerate(life(0, 500))]
    assert growth(warming, 100) == 0
    assert bench.soak.curve([]) == "No sample of the memory could be taken."
    assert bench.soak.curve([*life(0, 500), *life(1, 900)]).count("|") == 2


def test_readers_that_got_no_answer_have_no_times(bench: SimpleNamespace) -> None:
    told = bench.readers.told([])
    assert told == {"answers": 0, "p50_ms": None, "p99_ms": None, "errors": 0, "first_error": None}


def test_the_usual_stack_stores_each_payment_once_before_it_answers(
    bench: SimpleNamespace, payments: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    usual = bench.usual_stack
    usual.prepare(tmp_path / "usual", payments[0].head(2_000).assign(lat=None))
    row = {
        "transaction_id": "new-1", "customer_id": payments[0].customer_id[0], "amount": 12.5,
        "timestamp": "2026-03-01T12:00:00Z",
    }  # fmt: skip
    token = {"Authorization": "Bearer a-token-for-the-tests"}
    app = usual.create_app(tmp_path / "usual", "a-token-for-the-tests")
    with TestClient(app, headers=token) as client:
        answers = [client.post("/v1/transactions", json=row) for _ in range(2)]
        assert [a.status_code for a in answers] == [200, 409]
        assert answers[0].json()["decision"] in ("approve", "review", "block")
        for wrong, code in (({"amount": -1}, 422), ({"timestamp": "soon"}, 422)):
            assert client.post("/v1/transactions", json=row | wrong).status_code == code
        refused = client.post("/v1/transactions", json=row, headers={"Authorization": "Bearer no"})
        assert refused.status_code == 401
    assert usual.stored(tmp_path / "usual", "new-") == 1


def test_the_usual_features_look_back_only(bench: SimpleNamespace) -> None:
    names, features = bench.usual_stack.FEATURES, bench.usual_stack.features
    never = dict(zip(names, features((86_400.0 * 4, 9.0, None, None), []), strict=True))
    assert never == dict.fromkeys(names, 0.0) | {"amount": 9.0, "weekday": 4.0}
    past = [(7_200.0, 30.0, 50.0, 8.0), (1_000.0, 10.0, None, None)]
    seen = dict(zip(names, features((9_000.0, 30.0, 50.0, 8.0), past), strict=True))
    assert (seen["mean"], seen["times_mean"], seen["deviations"]) == (20.0, 1.5, 1.0)
    assert (seen["count_1h"], seen["count_24h"], seen["gap_h"], seen["km"]) == (1, 2, 0.5, 0.0)


def test_every_try_that_tests_are_to_hold_names_tests_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    attack = importlib.import_module("attack")
    assert attack.missing() == []
    monkeypatch.setitem(attack.HELD_BY, "nothing", ("store/test_store.py::test_of_nothing",))
    assert attack.missing() == ["store/test_store.py::test_of_nothing"]
