"""The service under a steady load for long: memory stays flat, and no verdict is lost.

Clients send payments at a steady rate, each on a connection of its own, and a batch now and then; a
payment whose answer does not come is sent again, as real clients do. The memory of the service is
sampled; its growth is the median slope between any two samples of one life of the process after its
warm-up (Theil–Sen), so that single peaks do not matter. With `--kill N` the service is killed with
SIGKILL about every N seconds and started again. After each kill, every minute, and at the end with
the service gone, what was answered is compared with what is stored: there, once, the same.

Ends with 1 when an answered verdict is lost, is there twice or is another one, when memory grows by
more than `--limit` MB an hour, or when the service cannot keep up with the rate.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import servers
from ledger import COLUMNS, Differences, Ledger, differences
from outcome import machine, number
from servers import HERE, Failed, Home, Server
from traffic import Traffic

from aegis_core.errors import AegisError, StoreError
from aegis_core.store import Store

SAMPLE_S: Final = 10.0
CHECK_S: Final = 60.0
PATIENCE_S: Final = 120.0
"""How long a client sends the same payment again before it gives up."""
SHOWN_S: Final = 10.0
"""How long an answered verdict may take to be seen by readers."""
KEPT_UP: Final = 0.95
"""Share of the rate that must be answered, where nothing is killed."""
EXAMPLES = """
examples:
  python benchmarks/soak.py --minutes 30
  python benchmarks/soak.py --minutes 10 --kill 20 --rate 500
  python benchmarks/soak.py --minutes 480 --batch-every 0 --json soak.json
"""


class Sample(NamedTuple):
    """Memory of the service at one moment; `life` counts its starts."""

    life: int
    at_s: float
    rss_mb: float


def growth(samples: Sequence[Sample], warm_s: float) -> float | None:
    """Growth in MB an hour: the median slope between samples of one life; None without any.

    The first `warm_s` seconds of each life are left out.
    """
    slopes: list[np.ndarray] = []
    for _, group in itertools.groupby(samples, key=lambda s: s.life):
        life = list(group)
        warm = [s for s in life if s.at_s - life[0].at_s >= warm_s]
        at, rss = (np.array([getattr(s, f) for s in warm]) for f in ("at_s", "rss_mb"))
        i, j = np.triu_indices(len(warm), 1)
        slopes.append((rss[j] - rss[i]) / (at[j] - at[i]))
    every = np.concatenate(slopes) if slopes else np.array([])
    return float(np.median(every)) * 3600 if len(every) else None


def curve(samples: Sequence[Sample], width: int = 60, height: int = 8) -> str:
    """Memory over time as text, the highest of each moment; `|` below marks a start of the service.

    >>> print(curve([Sample(0, 0.0, 100.0), Sample(0, 60.0, 200.0)], width=2, height=2))
       200 MB   █
         0 MB  ██
               |
               0 to 1 min
    """
    if not samples:
        return "No sample of the memory could be taken."
    width = min(width, len(samples))
    first, last = samples[0].at_s, samples[-1].at_s
    highest, starts = [0.0] * width, [" "] * width
    life = -1
    for sample in samples:
        x = min(width - 1, int((sample.at_s - first) / max(last - first, 1e-9) * width))
        highest[x] = max(highest[x], sample.rss_mb)
        if sample.life != life:
            life, starts[x] = sample.life, "|"
    for x in range(1, width):  # a start takes time, in which there is no sample
        highest[x] = highest[x] or highest[x - 1]
    top = max(s.rss_mb for s in samples)
    lines = []
    for row in range(height, 0, -1):
        cells = "".join("█" if round(v / top * height) >= row else " " for v in highest)
        label = top if row == height else 0 if row == 1 else None
        told = f"{label:,.0f} MB" if label is not None else ""
        lines.append(f"{told:>9}  {cells}".rstrip())
    lines += [" " * 11 + "".join(starts).rstrip(), f"{'':11}0 to {(last - first) / 60:.0f} min"]
    return "\n".join(lines)


class Sender(threading.Thread):
    """Sends what `make` gives at a steady pace and notes the answers; each until it is answered."""

    def __init__(
        self, soak: Soak, make: Callable[[], tuple[bytes, int]], path: str, mime: str,
        every_s: float, begin_s: float,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self._soak, self._make, self.path, self._every_s = soak, make, path, every_s
        self._begin_s = begin_s
        self._headers = {"Authorization": f"Bearer {soak.home.token}", "Content-Type": mime}
        self._connection: http.client.HTTPConnection | None = None
        self.took_s: list[float] = []
        self.sent = self.again = self.refused = 0
        self.problem: str | None = None

    def run(self) -> None:
        due = time.perf_counter() + self._begin_s
        while not self._soak.ended.wait(max(0.0, due - time.perf_counter())):
            body, n = self._make()
            self.sent += n
            try:
                told = self._answer(body)
            except Failed as e:
                self.problem = str(e)
                return
            self.took_s.append(time.perf_counter() - due)
            verdicts = [v for v in told if "decision" in v]
            self.refused += n - len(verdicts)
            self._soak.ledger.note(verdicts)
            due = max(due + self._every_s, time.perf_counter() - PATIENCE_S)

    def _answer(self, body: bytes) -> list[dict[str, Any]]:
        """The verdicts on one body, however often it must be sent."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                if self._connection is None:
                    port = self._soak.server.port
                    self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                self._connection.request("POST", self.path, body, self._headers)
                response = self._connection.getresponse()
                said = response.read()
                if response.status == 200:
                    told = json.loads(said)
                    return told if isinstance(told, list) else [told]
                if response.status not in (429, 503):
                    raise Failed(f"A payment was answered {response.status}: {said[:300]!r}")
            except (OSError, http.client.HTTPException):
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            self.again += 1
            time.sleep(0.05)
        raise Failed(f"A payment was not answered within {PATIENCE_S:g} s.")


class Soak:
    """The service, its clients, and what was seen."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given = given
        self.home: Home = servers.make_home(folder / "home", given.history)
        self.ledger = Ledger(folder)
        self.ended = threading.Event()
        self.samples: list[Sample] = []
        self.wrong = Differences(0, 0, 0)
        self.kills = 0
        self.lasted_s = 0.0
        self.traffic = Traffic(self.home.population)
        self._number = itertools.count(0, max(1, given.batch_rows))
        self._store: Store = self.home.store()
        self.server: Server = servers.aegis(self.home)

    def one(self, name: int) -> Callable[[], tuple[bytes, int]]:
        """Makes the payments of one client."""
        number_ = itertools.count()

        def make() -> tuple[bytes, int]:
            (line,) = self.traffic.lines(f"s{name}-", next(number_), 1)
            return line, 1

        return make

    def many(self) -> tuple[bytes, int]:
        """The next batch."""
        rows = self.given.batch_rows
        (body,) = self.traffic.bodies("many-", next(self._number), 1, rows, "ndjson")
        return body, rows

    def run(self) -> list[Sender]:
        """Load, sample, kill and check until the time is over; the clients."""
        given, n = self.given, self.given.clients
        every_s = n / given.rate
        senders = [
            Sender(self, self.one(k), "/v1/transactions", "application/json", every_s,
                   k * every_s / n)
            for k in range(n)
        ]  # fmt: skip
        if given.batch_every:
            senders.append(
                Sender(self, self.many, "/v1/transactions:batch", "application/x-ndjson",
                       given.batch_every, given.batch_every)
            )  # fmt: skip
        began = time.monotonic()
        for sender in senders:
            sender.start()
        chance = random.Random(given.seed)
        sample_at = began
        check_at = began + CHECK_S
        kill_at = began + given.kill * chance.uniform(0.5, 1.5) if given.kill else float("inf")
        try:
            while (now := time.monotonic()) < began + 60 * given.minutes:
                if any(s.problem for s in senders):
                    break
                if now >= kill_at:
                    self._kill()
                    self.check()
                    kill_at = time.monotonic() + given.kill * chance.uniform(0.5, 1.5)
                if self.server.process.poll() is not None:
                    raise Failed(f"The service ended by itself:\n{self._said()}")
                if now >= sample_at:
                    self._sample(now - began)
                    sample_at += SAMPLE_S
                if now >= check_at:
                    self.check()
                    check_at = time.monotonic() + CHECK_S
                if self.wrong:
                    break
                time.sleep(0.05)
        finally:
            self.ended.set()
            self.lasted_s = time.monotonic() - began
        for sender in senders:
            sender.join(PATIENCE_S + 40)
        self._sample(time.monotonic() - began)
        return senders

    def check(self) -> None:
        """Compare what was answered lately with what is stored."""
        part = self.ledger.fresh()
        if part.empty:
            return
        lowest, until = int(part.seq.min()), time.monotonic() + SHOWN_S
        while True:
            try:
                found = differences(part, self._stored("WHERE seq >= ?", [lowest]))
            except StoreError:  # it is about to come back
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
                continue
            if not found.lost or time.monotonic() > until:
                break
            time.sleep(0.2)
        self._add(found)

    def check_all(self) -> int:
        """The same for everything, once the service has ended; how many verdicts are stored."""
        self.ledger.fresh()
        stored = self._stored()
        self.wrong = differences(self.ledger.everything(), stored)
        return len(stored)

    def _stored(self, where: str = "", parameters: list[object] | None = None) -> pd.DataFrame:
        sql = f"SELECT {', '.join(COLUMNS)} FROM verdicts {where}"
        stored: pd.DataFrame = self._store.query(sql, parameters)
        return stored

    def _add(self, found: Differences) -> None:
        self.wrong = Differences(*(a + b for a, b in zip(self.wrong, found, strict=True)))
        if found:
            say(f"{found.lost:,} lost, {found.twice:,} twice, {found.other:,} other")

    def _kill(self) -> None:
        self.server.kill()
        self.kills += 1
        self.server = servers.again(self.server)
        say(f"killed, ready again after {self.server.ready_s:.1f} s")

    def _sample(self, at_s: float) -> None:
        rss = self.server.rss_mb()
        if rss is not None:
            self.samples.append(Sample(self.kills, at_s, rss))
            if len(self.samples) % 6 == 1:
                say(f"{at_s / 60:.1f} min: {rss:,.0f} MB, {self.ledger.answered:,} answered")

    def _said(self) -> str:
        return self.server.log.read_text("utf-8", "replace")[-2_000:]


def told(
    soak: Soak, senders: Sequence[Sender], n_stored: int
) -> tuple[str, list[str], dict[str, Any]]:
    """What came of it in words, what is wrong, and the figures."""
    given = soak.given
    singles = [s for s in senders if s.took_s and s.path.endswith("transactions")]
    took = np.array([t for s in singles for t in s.took_s])
    p50, p99 = (
        (float(q) * 1e3 for q in np.quantile(took, (0.5, 0.99))) if len(took) else (None, None)
    )
    warm_s = min(given.warm * 60, 0.3 * given.minutes * 60)
    grown = growth(soak.samples, warm_s)
    seconds = min(given.minutes * 60, soak.lasted_s)
    rate = len(took) / seconds
    refused = sum(s.refused for s in senders)
    wrong = [s.problem for s in senders if s.problem]
    if soak.wrong:
        lost, twice, other = soak.wrong
        wrong.append(
            f"Of the answered verdicts {lost:,} are lost, {twice:,} twice, {other:,} other."
        )
    if refused:
        wrong.append(f"{refused:,} payments were refused.")
    if grown is not None and grown > given.limit:
        wrong.append(
            f"Memory grows by {grown:,.0f} MB an hour; at most {given.limit:,.0f} is asked."
        )
    if not given.kill and rate < KEPT_UP * given.rate:
        wrong.append(f"{rate:,.0f} single payments a second were answered, not {given.rate:,.0f}.")
    slope = (
        "could not be measured in so short a time" if grown is None else f"{grown:+,.1f} MB an hour"
    )
    lines = [
        f"{soak.ledger.answered:,} answered in {seconds / 60:.1f} min, {rate:,.0f} single payments "
        f"a second; p50 {number(p50)} ms, p99 {number(p99)} ms from the moment each was due.",
        f"{sum(s.again for s in senders):,} times something was sent again; {soak.kills} kills; "
        f"{n_stored:,} verdicts are stored, {soak.wrong.lost:,} lost, {soak.wrong.twice:,} twice, "
        f"{soak.wrong.other:,} other than answered.",
        f"Growth of the memory after {warm_s / 60:.1f} min of warm-up: {slope}.",
    ]  # fmt: skip
    figures = {
        "machine": machine(), "answered": soak.ledger.answered, "stored": n_stored, "rate": rate,
        "p50_ms": p50, "p99_ms": p99, "kills": soak.kills, "wrong": wrong,
        **soak.wrong._asdict(), "growth_mb_per_hour": grown,
        "samples": [s._asdict() for s in soak.samples],
    }  # fmt: skip
    return "\n".join([curve(soak.samples), *lines]), wrong, figures


def say(text: str) -> None:
    """Progress, on the standard error."""
    print(f"… {text}", file=sys.stderr, flush=True)


def options(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="default 30")
    add("--rate", type=float, default=300.0, help="single payments a second (default 300)")
    add("--clients", type=int, default=16, help="connections for them (default 16)")
    add("--batch-every", type=float, default=10.0, metavar="S", help="seconds; 0 none (default 10)")
    add("--batch-rows", type=int, default=1_000, help="payments of a batch (default 1000)")
    add(
        "--kill", type=float, default=0.0, metavar="S", help="about every so many seconds (0 never)"
    )
    add(
        "--warm",
        type=float,
        default=5.0,
        metavar="MIN",
        help="of each life (default 5, at most 30 %%)",
    )
    add("--limit", type=float, default=100.0, metavar="MB", help="growth an hour (default 100)")
    add("--history", type=int, default=100_000, help="payments in the scratch home (100000)")
    add("--seed", type=int, default=0, help="of the moments of the kills")
    add("--folder", type=Path, default=HERE.parent / "data", help="of the scratch home (data/)")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    given = parser.parse_args(arguments)
    if min(given.minutes, given.rate, given.clients, given.batch_rows, given.history) <= 0:
        parser.error("minutes, rate, clients, batch rows and history must be positive")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Soak and print; 0 all well, 1 something is wrong, 130 ended by Ctrl-C."""
    given = options(arguments)
    try:
        with servers.ended_by_signals(), servers.scratch(given.folder) as folder:
            say(f"making a home with {given.history:,} payments")
            soak = Soak(given, folder)
            try:
                senders = soak.run()
            finally:
                soak.ended.set()
                soak.server.end()
            text, wrong, figures = told(soak, senders, soak.check_all())
    except KeyboardInterrupt:
        print("Ended before it was done; what it had started is ended too.", file=sys.stderr)
        return 130
    except (Failed, AegisError) as e:
        print(f"soak.py: {e}", file=sys.stderr)
        return 1
    print(text)
    for line in wrong:
        print(f"WRONG: {line}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1, allow_nan=False))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
