"""The running service beside the usual stack: answers a second and waiting times, in one run.

Makes a scratch home (generated history, trained forest), starts `aegis serve` and the usual stack
(`usual_stack.py` says what that is) each as a process, and loads them over the loopback interface:

- single payments by wrk on 1, 8 and 64 connections; the same against a server that answers a
  constant, which shows what HTTP and the generator cost by themselves;
- batches of 10,000, NDJSON and JSON array, on 2 connections, bodies made before the clock starts;
- single payments alone, and beside ten dashboards and an analyst (`readers.py`), or a notifier
  whose webhook takes every message and never answers;
- the service ended, killed and started again; the disk under it;
- the engine embedded, without a service: `Engine.take` of batches.

Aegis and the usual stack take turns in each repeat; the table has medians (of `max` the largest,
of `bad`, what was not answered with a 2xx, the sum; beside readers the ratio of each repeat).
After each load the database must hold what was answered, each payment once: else this fails.
Generator, readers and servers share the machine's cores; `gen µs` and `srv µs` are what a request,
or a row of a batch, cost the generator and the server in processor time. Needs wrk and, with the
defaults, about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import load
import servers
import usual_stack
from load import NO_WRK, batches, singles
from outcome import ASKED, Record, machine, medians, report
from servers import HERE, Failed, Home, Server
from traffic import Traffic

from aegis_core.detection import registry
from aegis_core.errors import AegisError
from aegis_core.serving.engine import Engine

CONNECTIONS = (1, 8, 64)
BATCH_ROWS = 10_000
EMBEDDED_ROWS = 10_000
WARM_S = 2
PARTS = ("single", "batch", "readers", "notifier", "restart", "embedded")
EXAMPLES = """
examples:
  python benchmarks/live.py --json live.json
  python benchmarks/live.py --only single readers --seconds 3 --repeats 1
  python benchmarks/live.py --only restart --restart 10000000 --folder /mnt/large
"""


class Bench:
    """A home, the servers that run, their traffic, and what was measured so far."""

    def __init__(self, given: argparse.Namespace, folder: Path, home: Home) -> None:
        self.given, self.folder, self.home = given, folder, home
        self.records: list[Record] = []
        self.traffic = Traffic(home.population)
        self.file = self.traffic.write(folder / "payments")
        self.servers: dict[str, Server] = {}
        self._next = {"Aegis": 0, "usual stack": 0, "constant": 0}
        self._runs = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def keep(self, way: str, stack: str, repeat: int, found: dict[str, Any]) -> None:
        """Note what was measured."""
        self.records.append({"way": way, "stack": stack, "repeat": repeat, **found})

    def server(self, name: str) -> Server:
        """The server of that name, started and warm."""
        if name not in self.servers:
            say(f"starting {name}")
            make = {"Aegis": self._aegis, "usual stack": self._usual, "constant": self._constant}
            self.servers[name] = make[name]()
            for connections in (8, 1):  # what is compiled or loaded once is not timed
                self.single(name, connections, WARM_S)
        return self.servers[name]

    def end(self) -> None:
        """End all servers."""
        with ExitStack() as stack:
            for server in self.servers.values():
                stack.callback(server.end)
        self.servers.clear()

    def single(self, name: str, connections: int, seconds: float) -> dict[str, Any]:
        """Load one server with single payments; what it stored must be what it answered."""
        server, prefix = self.server(name), self._prefix()
        found = singles(
            server, self.home.token, self.file, prefix, self._next[name], connections, seconds
        )
        self.traffic.seconds(found.next, 1)  # raises where they come to lie after 2100
        self._next[name] = found.next
        if name != "constant":
            self._check(name, prefix, found.answered, found.next - found.first)
        return asdict(found)

    def batch(self, kind: str) -> dict[str, Any]:
        """Send Aegis batches of one kind."""
        server, n, prefix = self.server("Aegis"), self.given.batches, self._prefix()
        bodies = self.traffic.bodies(prefix, self._take(n * BATCH_ROWS), n, BATCH_ROWS, kind)
        found = batches(server, self.home.token, bodies, BATCH_ROWS, kind)
        self._check("Aegis", prefix, found.answered, n * BATCH_ROWS)
        return asdict(found)

    def embedded(self) -> dict[str, Any]:
        """Score and commit in this process; the service must not run."""
        n, prefix = self.given.batches, self._prefix()
        first = self._take((n + 1) * EMBEDDED_ROWS)
        parts = [
            self.traffic.table(prefix, first + i * EMBEDDED_ROWS, EMBEDDED_ROWS)
            for i in range(n + 1)
        ]
        with Engine.open(self.home.store(), self.home.settings) as engine:
            engine.take(parts[0], "bench")
            took, used = [], time.process_time()
            for part in parts[1:]:
                began = time.perf_counter()
                engine.take(part, "bench")
                took.append(time.perf_counter() - began)
            used = time.process_time() - used
        self._check("Aegis", prefix, (n + 1) * EMBEDDED_ROWS, (n + 1) * EMBEDDED_ROWS)
        return {
            "rate": n * EMBEDDED_ROWS / sum(took),
            "p50_ms": sorted(took)[n // 2] * 1e3,
            "max_ms": max(took) * 1e3,
            "server_us": used / (n * EMBEDDED_ROWS) * 1e6,
        }

    def restarts(self, before: str = "") -> None:
        """Start the service again after an end and after kill -9, each under load."""
        for repeat in range(self.given.repeats):
            for how in ("an end", "kill -9"):
                server = self.server("Aegis")
                first, prefix = self._next["Aegis"], self._prefix()
                found = singles(server, self.home.token, self.file, prefix, first, 8, 1.0)
                self._next["Aegis"] = found.next
                (server.end if how == "an end" else server.kill)()
                self.servers["Aegis"] = server = servers.again(server)
                self._check("Aegis", prefix, found.answered, found.next - first)
                (there,) = self.home.store().rows("SELECT count(*) AS n FROM transactions")
                self.keep(
                    f"{before}ready after {how}", "Aegis", repeat,
                    {"ready_s": server.ready_s, "transactions": there["n"]},
                )  # fmt: skip

    def _take(self, n: int) -> int:
        """The number of the first of `n` payments for Aegis."""
        first = self._next["Aegis"]
        self._next["Aegis"] += n
        return first

    def _prefix(self) -> str:
        """What the ids of the next load begin with."""
        self._runs += 1
        return f"b{self._runs}-"

    def _check(self, name: str, prefix: str, answered: int, sent: int) -> None:
        """Compare what is stored with what was answered; a service may take a moment to show it.

        Raises
        ------
        Failed
            Something that was answered is not there, or is there twice, or was never sent.
        """

        def count() -> int:
            if name == "usual stack":
                return usual_stack.stored(self.folder / "usual", prefix)
            return stored(self.home, prefix)

        until = time.monotonic() + 20
        while (there := count()) < answered and time.monotonic() < until:
            time.sleep(0.1)
        if not answered <= there <= sent:
            raise Failed(
                f"{name} answered {answered:,} of {sent:,} payments and holds {there:,} of them."
            )

    def _aegis(self) -> Server:
        return servers.aegis(self.home)

    def _usual(self) -> Server:
        folder = self.folder / "usual"
        sql = "FROM transactions WHERE source = 'synthetic' ORDER BY seq"
        usual_stack.prepare(folder, self.home.store().query(sql))
        return servers.start(
            "usual stack",
            [sys.executable, str(HERE / "usual_stack.py"), str(folder), "--port", "{port}"],
            self.folder / "usual.log", environment={"AEGIS_TOKEN": self.home.token},
        )  # fmt: skip

    def _constant(self) -> Server:
        return servers.start(
            "constant", [sys.executable, str(HERE / "constant.py"), "{port}"],
            self.folder / "constant.log",
        )  # fmt: skip


def stored(home: Home, prefix: str) -> int:
    """How many payments with ids that begin with `prefix` have a verdict.

    Raises
    ------
    Failed
        One is there twice.
    """
    (found,) = home.store().rows(
        "SELECT count(*) AS n, count(DISTINCT transaction_id) AS ids FROM verdicts "
        "WHERE starts_with(transaction_id, ?)",
        [prefix],
    )
    if found["n"] != found["ids"]:
        raise Failed(f"{found['n'] - found['ids']:,} verdicts are there twice.")
    return int(found["n"])


@contextmanager
def readers(bench: Bench) -> Iterator[dict[str, Any]]:
    """Dashboards and an analyst, a process each; the dictionary tells afterwards what they got."""
    board = ["--board"] if bench.given.board else []
    command = [sys.executable, str(HERE / "readers.py"), str(bench.home.settings.db)]
    wanted = {
        "dashboards": ["--dashboards", str(bench.given.dashboards), *board],
        "analysts": ["--analysts", "1"],
    }
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        people = {}
        for name, options in wanted.items():
            one = people[name] = subprocess.Popen(
                [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, **bench.home.environment}, start_new_session=True,
            )  # fmt: skip
            stack.callback(one.wait)
            stack.callback(one.kill)
        for one in people.values():
            if one.stdout is None or one.stdout.readline() != "ready\n":
                raise Failed("The readers did not get an answer; see above.")
        yield found
        for name, one in people.items():
            said, _ = one.communicate(timeout=120)
            found[name] = json.loads(said)[name]


@contextmanager
def notifier(bench: Bench) -> Iterator[dict[str, Any]]:
    """`aegis notify run` that tells of every alert; its webhook hangs.

    The dictionary tells afterwards how many messages waited.
    """
    found: dict[str, Any] = {}
    rules = bench.home.folder / "aegis.toml"
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        target = f"json://127.0.0.1:{hanging.getsockname()[1]}"
        rule = f'name = "hangs"\nwhat = ["verdict"]\nto = ["{target}"]\nfrom_risk = 0.0\n'
        rules.write_text(f"[[notify]]\n{rule}", "utf-8")
        command = [sys.executable, "-m", "aegis_core.cli", "notify", "run", "--every", "1"]
        one = subprocess.Popen(
            command, env={**os.environ, **bench.home.environment}, start_new_session=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _until(lambda: _rows(bench.home, "notify_cursors"), "The notifier did not begin.")
            bench.single("Aegis", 8, WARM_S)  # alerts to tell of
            _until(lambda: _rows(bench.home, "notifications"), "It heard of no alert.")
            yield found
            found["messages"] = {"answers": _rows(bench.home, "notifications")}
        finally:
            one.kill()
            one.wait()
            rules.unlink()


def _rows(home: Home, table: str) -> int:
    """How many rows a table has."""
    return int(home.store().rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def _until(there: Callable[[], int], why: str) -> None:
    """Wait for something.

    Raises
    ------
    Failed
        It did not come; `why` says what did not.
    """
    until = time.monotonic() + 30
    while not there():
        if time.monotonic() > until:
            raise Failed(f"{why} See above.")
        time.sleep(0.2)


def large_log(folder: Path, n_transactions: int, model: Home) -> Home:
    """A home with a long history that was all decided, judged by the champion of another home."""
    home = servers.make_home(folder, n_transactions, trained=False)
    champion = registry.champion(model.store(), model.settings)
    store = home.store()
    version = registry.register(
        store, home.settings, champion.version, champion.model, champion.policy,
        role="champion", who="benchmark",
    )  # fmt: skip
    with store.writing() as session:
        session.execute(
            "INSERT INTO verdicts BY NAME SELECT seq, transaction_id, ? AS model_version, "
            "0.4 AS score, 50.0 AS risk, 'approve' AS decision, ts AS scored_at FROM transactions",
            [version],
        )
    return home


def measure(bench: Bench) -> None:
    """All that was asked for; Aegis and the others take turns."""
    given, wanted = bench.given, bench.given.only or PARTS
    for repeat in range(given.repeats):
        if "single" in wanted:
            for connections in CONNECTIONS:
                for name in ("Aegis", "usual stack", "constant"):
                    say(f"repeat {repeat + 1}: {name}, {connections} connection(s)")
                    seconds = given.seconds / 2 if name == "constant" else given.seconds
                    found = bench.single(name, connections, seconds)
                    bench.keep(f"single {connections}", name, repeat, found)
        if "batch" in wanted:
            for kind in load.MIME:
                say(f"repeat {repeat + 1}: batches, {kind}")
                bench.keep(f"batch {kind}", "Aegis", repeat, bench.batch(kind))
        for name, company in (("readers", readers), ("notifier", notifier)):
            if name not in wanted:
                continue
            say(f"repeat {repeat + 1}: alone, and with {name}")
            alone = bench.single("Aegis", 8, given.seconds)
            bench.keep(f"without {name}", "Aegis", repeat, alone)
            with company(bench) as told:
                beside = bench.single("Aegis", 8, given.seconds)
            both = beside["p99_ms"], alone["p99_ms"]
            ratio = {"p99_ratio": both[0] / both[1] if None not in both else None}
            bench.keep(f"with {name}", "Aegis", repeat, beside | ratio | told)
    if "restart" in wanted:
        say("starting the service again")
        bench.restarts()
    bench.end()
    if "embedded" in wanted:
        for repeat in range(given.repeats):
            say(f"repeat {repeat + 1}: embedded")
            bench.keep("embedded", "Aegis", repeat, bench.embedded())


def measure_large(bench: Bench) -> None:
    """Start the service on a long log, again and again."""
    say("starting on it for the first time, without a snapshot")
    n = {"transactions": bench.given.restart}
    server = bench.servers["Aegis"] = servers.aegis(bench.home, ready_within_s=3600)
    bench.keep("large log: first start", "Aegis", 0, {"ready_s": server.ready_s, **n})
    say("and again")
    bench.restarts("large log: ")
    bench.end()


def say(text: str) -> None:
    """Progress, on the standard error."""
    print(f"… {text}", file=sys.stderr, flush=True)


def options(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to measure (default all)")
    parser.add_argument("--repeats", type=whole, default=3, help="default 3")
    parser.add_argument("--seconds", type=whole, default=10, help="of each load (default 10)")
    parser.add_argument("--batches", type=whole, default=20, help="of each kind (default 20)")
    parser.add_argument("--dashboards", type=whole, default=10, help="that are open (default 10)")
    parser.add_argument(
        "--board", action="store_true", help="dashboards ask all that Aegis' own asks"
    )
    parser.add_argument(
        "--history", type=whole, default=100_000, help="payments in the scratch home (100000)"
    )
    parser.add_argument(
        "--restart", type=whole, metavar="N", help="start again on a log of N payments too"
    )
    parser.add_argument(
        "--folder", type=Path, default=HERE.parent / "data",
        help="where the scratch home is made: the disk that is measured (default data/)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


def whole(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 0 done, 1 something failed, 2 wrk is missing, 130 ended by Ctrl-C."""
    given = options(arguments)
    try:
        load.wrk()
    except Failed:
        print(NO_WRK, file=sys.stderr)
        return 2
    records: list[Record] = []
    others = servers.Others()
    try:
        with servers.ended_by_signals(), servers.scratch(given.folder) as folder:
            disk = servers.disk(folder)
            say(f"making a home with {given.history:,} payments")
            home = servers.make_home(folder / "home", given.history)
            with Bench(given, folder, home) as bench:
                bench.records = records
                measure(bench)
            if given.restart:
                say(f"making a log of {given.restart:,} payments")
                large = large_log(folder / "large", given.restart, home)
                with Bench(given, folder, large) as bench:
                    bench.records = records
                    measure_large(bench)
    except KeyboardInterrupt:
        print("Ended before it was done; what it had started is ended too.", file=sys.stderr)
        return 130
    except (Failed, AegisError) as e:
        print(f"live.py: {e}", file=sys.stderr)
        return 1
    found, about, busy = medians(records), machine(), others.share()
    print(report(found, disk, about, busy))
    if given.json:
        content = {
            "machine": about,
            "disk": disk,
            "others": busy,
            "asked": [a._asdict() for a in ASKED],
            "medians": found,
            "records": records,
        }
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
