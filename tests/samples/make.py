"""Makes a sample with the version of Aegis whose Python runs this; README.md says how."""

from __future__ import annotations

import atexit
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("AEGIS_HOME", "."))
TOKEN = "the-token-of-a-sample"
POPULATION = {
    **{"n_transactions": 600, "n_customers": 12, "n_merchants": 20, "days": 120},
    **{"rate_spike": 0.02, "rate_travel": 0.02, "rate_night": 0.01, "rate_burst": 0},
    **{"rate_merchant": 0.02, "rate_takeover": 0.02, "label_delay_days": 3},
}
FOREST = {"train_days": 60, "alert_budget": 0.05, "n_trees": 20, "max_samples": 64}
OWN = """\
card,when,total,place,is_fraud
C000001,2026-04-29 10:00:00,12.50,M00002,0
C000001,2026-04-29 10:02:00,-3.00,M00002,0
Zoë 🂡,2026-04-29 11:00:00,80.00,a'b,0
C000004,2026-04-29 12:00:00,950.00,M00003,1
"""
KINDS = """\
transaction_id,customer_id,timestamp,amount,currency,merchant_id,kind,status,is_fraud
k1,C000001,2026-04-29T10:00:00+02:00,2100,jpy,M00002,,paid,0
k2,C000001,2026-04-29T10:02:00+02:00,2100,392,M00002,refund,,
k3,Zoë 🂡,2026-04-29T11:00:00+02:00,80.00,EUR,a'b,,declined,
k3,Zoë 🂡,2026-04-29T11:00:00+02:00,80.00,EUR,a'b,,approved,1
k4,C000002,2026-04-29,3e6,cowrie,M00003,payment,pending,0
"""
CARDS = """\
transaction_id,customer_id,timestamp,amount,currency,merchant_id,card_id,device_id,email,ip
e1,C000001,2026-04-29T10:00:00+02:00,21,EUR,M00002,card 1,d1,Zoe@Example.com,2001:DB8::1
e2,C000002,2026-04-29T10:00:09+02:00,21,EUR,M00002,card 2,d1,,192.0.2.7
e3,0,2026-04-29T11:00:00+02:00,80.00,EUR,a'b,card 3,,zoë@example.com,
"""
REISSUED = "customer_id,replaces\nC900001,C000001\nZoë 🂡,C000002\n"
LEFT_OUT = ("*.html", "kernel.log", "*.lock", "0[1-6]_*.ipynb")


def aegis(*words: object, **variables: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "aegis_core.cli", *map(str, words)],
        env={**os.environ, **variables}, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    print("aegis", *words, "\n", done.stdout, flush=True)
    return done.stdout


def run(notebook: str, given: dict[str, object] | None = None) -> None:
    aegis("run", notebook, *(word for pair in (given or {}).items() for word in ("-p", *pair)))


def rows(sql: str, **variables: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(
        aegis("query", sql, "--format", "json", "--limit", 0, **variables)
    )
    return read


class Service:
    """The service as a process, once it is ready."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aegis_core.cli", "serve", "--port", str(port)],
            env={**os.environ, "AEGIS_HOME": str(home), "AEGIS_TOKEN": TOKEN},
        )
        atexit.register(self.process.kill)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            try:
                self.ask("GET", "/v1/health")
                return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """The answer to a request, with the desk's token for what the other does not open."""
        found = json.loads((HOME / "data/aegis.duckdb.endpoint").read_text()) if content else {}
        sends = path.startswith(("/v1/transactions", "/v1/links"))
        desk = "" if sends else found.get("desk_token")
        headers = {"Authorization": f"Bearer {desk or TOKEN}", "Content-Type": "application/json"}
        self.connection.close()
        self.connection.request(
            method, path, None if content is None else json.dumps(content), headers
        )
        response = self.connection.getresponse()
        said = json.loads(response.read())
        assert response.status in (200, 201), said
        return said

    def post(self, payments: list[dict[str, object]]) -> list[Any]:
        """The verdicts on payments that are sent one by one."""
        return [self.ask("POST", "/v1/transactions", payment) for payment in payments]

    def end(self, by: signal.Signals) -> None:
        self.process.send_signal(by)
        self.process.wait()


def payments(prefix: str, day: int, n: int) -> list[dict[str, object]]:
    """Payments of a day, ordinary ones and such that are none."""
    sent: list[dict[str, object]] = []
    for i in range(n):
        row: dict[str, object] = {
            "transaction_id": f"{prefix}-{i}",
            "customer_id": "Zoë 🂡" if i % 7 == 6 else f"C{1 + i % 5:06d}",
            "timestamp": f"2026-06-{day:02d}T{(8 + i) % 24:02d}:{i % 60:02d}:00.000001Z",
            "amount": 1e6 if i % 11 == 10 else 7.25 + 13 * (i % 4),
        }
        if i % 3:
            row |= {"currency": "EUR", "merchant_id": f"M{1 + i % 4:05d}", "category": "fuel"}
        if i % 2:
            row |= {"channel": "chip", "lat": 48.07 - 90 * (i % 9 == 5), "lon": 11.6323}
        sent.append(row)
    return sent


def first() -> None:
    """Of schema 1: history, forest, verdicts of the embedded stream."""
    run("generate", POPULATION)
    (HOME / "own.csv").write_text(OWN, "utf-8")
    renamed = ("--map", "customer_id=card", "--map", "ts=when", "--map", "amount=total")
    more = ("--map", "merchant_id=place", "--label", "is_fraud", "--source", "own.csv")
    aegis("import", HOME / "own.csv", *renamed, *more)
    (HOME / "own.csv").unlink()
    run("train", FOREST)
    run("simulate", {"n_transactions": 60, "fraud_multiplier": 1})


def second() -> None:
    """Besides, of schema 2: answers, lists, a learner in shadow, the service and its snapshot."""
    first()
    for row in rows("SELECT transaction_id AS t FROM verdicts ORDER BY risk DESC LIMIT 4"):
        aegis("answer", row["t"], "fraud", "--who", "anna", "--note", "called")
    aegis("lists", "add", "deny", "C000002", "--why", "card stolen", "--who", "anna")
    aegis("lists", "add", "allow", "M00003", "--merchant", "--why", "own shop", "--who", "bert")
    away = ("--until", "2026-07-15", "--why", "travels, she phoned", "--who", "anna")
    aegis("lists", "add", "snooze", "C000003", *away)
    run("train", {"detector": "learner", **FOREST})
    run("simulate", {"n_transactions": 30, "fraud_multiplier": 1})
    run("start")
    service = Service(HOME)
    service.post(payments("kept", 1, 25))
    told = {"transaction_id": "kept-10", "answer": "fraud", "analyst": "bert", "note": "called"}
    service.ask("POST", "/v1/reviews", told)
    time.sleep(13)
    service.post(payments("later", 2, 5))
    service.end(signal.SIGTERM)


def fourth() -> list[Any]:
    """Besides, of schema 3 and 4: approval, forgetting, schedule, messages, cases, a journal."""
    shutil.copy(HERE / "aegis.toml", HOME)
    second()
    run("train", {**FOREST, "seed": 3, "role": "shadow"})
    (newest, *_) = rows("SELECT version FROM models ORDER BY created_at DESC")
    aegis("models", "propose", newest["version"], "--who", "anna", "--why", "newer")
    (proposed,) = rows("SELECT proposal_id AS p FROM nominations")
    aegis("models", "approve", proposed["p"], "--who", "bert")
    aegis("forget", "--older-than", "100d", "--yes", "--who", "anna")
    run("simulate", {"n_transactions": 30, "fraud_multiplier": 1})
    run("start")
    aegis("schedule", "now", "nightly")
    run("drift", {"sample": 50, "weeks": 2})
    aegis("backup", HOME / "backup.tar")
    service = Service(HOME)
    with notifier():
        service.post(payments("case", 3, 23))
    claim = service.ask("POST", "/v1/cases/claim", {"analyst": "anna"})["claim"]
    about = {"analyst": "anna", "case_id": claim["case_id"]}
    for given in ("legitimate", "fraud"):  # the first is taken back
        made = service.ask("POST", "/v1/cases/answer", {**about, "answer": given})["review_ids"]
        if given == "legitimate":
            undone = {"analyst": "anna", "review_ids": made}
            service.ask("POST", "/v1/reviews/undo", undone)
    asleep = {"analyst": "bert", "customer_id": "C000004", "until": "2026-07-15", "why": "ill"}
    service.ask("POST", "/v1/cases/snooze", asleep)
    budget = {"analyst": "bert", "alert_budget": 0.02, "note": "too many"}
    service.ask("POST", "/v1/proposals", budget)
    time.sleep(13)
    service.end(signal.SIGTERM)
    service = Service(HOME)
    service.post(payments("there", 4, 5))
    service.ask("GET", "/v1/transactions/there-0")  # a reader: so much is in the tables
    tail = service.post(payments("tail", 5, 12))
    service.end(signal.SIGKILL)
    return tail


def fifth() -> list[Any]:
    """Beside what schema 2 has, of schema 5: currencies, kinds, states, somebody erased."""
    shutil.copy(HERE / "aegis.toml", HOME)
    (HOME / "rates.csv").write_text("day,currency,rate\n2026-01-02,JPY,160\n2026-05-02,JPY,170\n")
    (HOME / "kinds.csv").write_text(KINDS, "utf-8")
    run("generate", POPULATION)
    aegis("rates", HOME / "rates.csv")
    aegis("import", HOME / "kinds.csv", "--label", "is_fraud", "--source", "kinds.csv")
    run("train", FOREST)
    run("train", {"detector": "learner", **FOREST})
    run("start")
    service = Service(HOME)
    service.post([*payments("kept", 1, 25), *meant("kinds", 2)])
    for name, status in (("kinds-0", "declined"), ("kinds-1", "approved")):
        service.ask("PUT", f"/v1/transactions/{name}/status", {"status": status})
    told = {"transaction_id": "kept-10", "answer": "fraud", "analyst": "bert", "note": "called"}
    service.ask("POST", "/v1/reviews", told)
    time.sleep(13)
    service.post(payments("later", 3, 5))
    service.end(signal.SIGTERM)
    aegis("person", "C000007", "--erase", "--yes", "--who", "anna")
    aegis("forget", "--older-than", "100d", "--yes", "--who", "anna")
    aegis("backup", HOME / "backup.tar")
    Service(HOME).end(signal.SIGTERM)  # leaves a snapshot
    service = Service(HOME)
    service.post([*payments("there", 4, 5), *meant("there-too", 4)])
    service.ask("GET", "/v1/transactions/there-0")  # a reader: so much is in the tables
    tail = service.post([*payments("tail", 5, 12), *meant("tail-too", 5)])
    service.end(signal.SIGKILL)
    return tail


def meant(prefix: str, day: int) -> list[dict[str, object]]:
    """Of what a payment may mean: a state to come, a try, currencies, what is no payment at all."""
    said: list[dict[str, object]] = [
        {"status": "pending"}, {"status": "declined", "amount": 400.0},
        {"currency": "JPY", "amount": 5200}, {"currency": "COWRIE", "amount": 4e6},
        {"kind": "refund", "original_id": "kept-1"}, {"amount": 0},
        {"channel": "online", "zone": "Asia/Tokyo", "lat": 35.68, "lon": 139.69},
    ]  # fmt: skip
    return [
        {"transaction_id": f"{prefix}-{i}", "customer_id": f"C{1 + i % 3:06d}", "amount": 30.0,
         "timestamp": f"2026-06-{day:02d}T{10 + i}:00:00+02:00", "merchant_id": "M00002", **of}
        for i, of in enumerate(said)
    ]  # fmt: skip


def sixth() -> list[Any]:
    """Of schema 6: cards, devices, addresses, and numbers that replace others."""
    shutil.copy(HERE / "aegis.toml", HOME)
    (HOME / "cards.csv").write_text(CARDS, "utf-8")
    (HOME / "reissued.csv").write_text(REISSUED, "utf-8")
    run("generate", POPULATION)
    aegis("import", HOME / "cards.csv", "--source", "cards.csv")
    aegis("links", HOME / "reissued.csv", "--who", "anna")
    run("train", FOREST)
    run("train", {"detector": "learner", **FOREST})
    run("start")
    service = Service(HOME)
    service.ask("POST", "/v1/links", {"customer_id": "C900003", "replaces": "C000003"})
    service.post([*payments("kept", 1, 25), *tried("tried", 2)])
    told = {"transaction_id": "tried-9", "answer": "fraud", "analyst": "bert", "note": "called"}
    service.ask("POST", "/v1/reviews", told)
    service.end(signal.SIGTERM)
    aegis("person", "C000007", "--erase", "--yes", "--who", "anna")
    aegis("backup", HOME / "backup.tar")
    Service(HOME).end(signal.SIGTERM)  # leaves a snapshot
    service = Service(HOME)
    service.post([*payments("there", 4, 5), *tried("there-too", 4)])
    service.ask("GET", "/v1/transactions/there-0")  # a reader: so much is in the tables
    tail = service.post([*payments("tail", 5, 12), *tried("tail-too", 5)])
    service.end(signal.SIGKILL)
    return tail


def seventh() -> list[Any]:
    """Of schema 7: verdicts that were replayed, some of them aside of what was judged live."""
    shutil.copy(HERE / "aegis.toml", HOME)
    (HOME / "cards.csv").write_text(CARDS, "utf-8")
    run("generate", POPULATION)
    run("train", FOREST)
    run("train", {"detector": "learner", **FOREST})
    run("start")
    aegis("score", "--since", "20d", "--who", "anna")
    service = Service(HOME)
    service.post(payments("kept", 1, 25))
    service.end(signal.SIGTERM)
    aegis("score", "--since", "30d", "--who", "anna")  # aside
    aegis("import", HOME / "cards.csv", "--source", "cards.csv")
    aegis("score", "--since", "2026-04-29", "--who", "bert")
    aegis("backup", HOME / "backup.tar")
    Service(HOME).end(signal.SIGTERM)  # leaves a snapshot
    service = Service(HOME)
    service.post(payments("there", 4, 5))
    service.ask("GET", "/v1/transactions/there-0")  # a reader: so much is in the tables
    tail = service.post(payments("tail", 5, 12))
    service.end(signal.SIGKILL)
    return tail


def tried(prefix: str, day: int) -> list[dict[str, object]]:
    """Cards tried one after another at one device, and payments under newer numbers."""
    return [
        {"transaction_id": f"{prefix}-{i}", "amount": 1.0, "merchant_id": "M00003",
         "timestamp": f"2026-06-{day:02d}T14:00:{3 * i:02d}Z",
         "customer_id": f"C90000{i}" if i in (1, 3) else f"C{1 + i:06d}",
         "card_id": f"card {i}", "device_id": "d1", "email": f"{i}@example.com", "ip": "192.0.2.7"}
        for i in range(12)
    ]  # fmt: skip


@contextmanager
def notifier() -> Iterator[None]:
    """A notifier while something happens: one rule sends what it finds, the other one waits."""

    class Heard(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Heard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reached, nobody = f"json://127.0.0.1:{server.server_port}/", "json://127.0.0.1:9/"
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis_core.cli", "notify", "run", "--every", "1"],
        env={**os.environ, "AEGIS_MAIL": nobody, "AEGIS_HOOK": reached},
    )
    atexit.register(process.kill)
    _until("SELECT count(*) AS n FROM notify_cursors")
    yield
    _until("SELECT count(*) AS n FROM notifications WHERE status = 'sent'")
    process.terminate()
    process.wait()
    server.shutdown()


def _until(sql: str) -> None:
    for _ in range(100):
        if rows(sql)[0]["n"]:
            return
        time.sleep(1)
    raise AssertionError(sql)


def found(copy: Path) -> dict[str, Any]:
    """How many rows this version finds in each table of a copy of what it left."""
    at = {"AEGIS_HOME": str(copy)}
    names = "SELECT table_name AS t FROM duckdb_tables() ORDER BY t"
    tables = [row["t"] for row in rows(names, **at)]
    counts = " UNION ALL ".join(f"SELECT '{t}' AS t, count(*) AS n FROM \"{t}\"" for t in tables)
    return {"rows": {row["t"]: row["n"] for row in rows(counts + " ORDER BY t", **at)}}


def what_comes_next(copy: Path) -> dict[str, Any]:
    """What this version says of further transactions."""
    sent, service = payments("next", 6, 24), Service(copy)
    answered = service.post(sent)
    service.end(signal.SIGTERM)
    shadow = "SELECT * FROM shadow_scores WHERE transaction_id LIKE 'next-%' ORDER BY ALL"
    scores = rows(shadow, AEGIS_HOME=str(copy))
    return {"sent": sent, "answered": answered, "shadow": scores}


def packed(schema: str) -> None:
    for pattern in LEFT_OUT:
        for path in HOME.rglob(pattern):
            path.unlink()
    with tarfile.open(HERE / f"schema_{schema}.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(HOME.iterdir()):
            if not path.name.startswith("."):
                archive.add(path, path.name, filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    schema = sys.argv[1]
    assert "AEGIS_HOME" in os.environ, "Name a new folder by AEGIS_HOME."
    assert not list(HOME.glob("*")), f"{HOME} is not empty."
    steps = {"1": first, "2": second, "3": fourth, "4": fourth, "5": fifth, "6": sixth}
    steps["7"] = seventh
    tail = steps[schema]()
    packed(schema)
    copy = HOME.with_name(HOME.name + ".copy")
    shutil.copytree(HOME, copy)
    kept = found(copy) | ({"tail": tail} if tail else {})
    kept |= what_comes_next(copy) if schema >= "4" else {}
    (HERE / f"schema_{schema}.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    shutil.rmtree(copy)
