"""The dashboard's figures in headless Chromium, on a database with a live stream behind it.

    make bench-dashboard OPTIONS='--rows 1000000 --soak 30 --viewers 20 --pictures /tmp/board'

Everything runs in a scratch folder: a database of made-up rows, an owner of it that goes on writing
verdicts, the dashboard's server, a browser. Needs Chromium (or its path in CHROMIUM).
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psutil
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from aegis_core.store import Store, connect, rollups
from aegis_core.store.gate import Limits
from aegis_core.views.dashboard.feed import Feed
from aegis_core.views.dashboard.filters import Filters

TRANSACTIONS = """
    INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount, currency, merchant_id,
      category, channel, lat, lon, source)
    SELECT seq, 't' || seq, 'C' || (hash(seq) % 50000), now()::TIMESTAMP,
      exp(3 + 2 * (hash(seq + 7) % 1000) / 1000.0), 'EUR', 'M' || (hash(seq + 3) % 3000),
      'category ' || (hash(seq + 5) % 25), 'pos', 35 + (hash(seq + 9) % 2500) / 100.0,
      (hash(seq + 11) % 4000) / 100.0 - 10, 'bench' FROM range({first}, {last}) r(seq)"""
VERDICTS = """
    INSERT INTO verdicts
    SELECT seq, transaction_id, 'v1', (hash(seq) % 1000) / 1000.0, (hash(seq) % 10000) / 100.0,
      CASE WHEN seq % 500 = 0 THEN 'block' WHEN seq % 200 = 1 THEN 'review' ELSE 'approve' END,
      CASE WHEN seq % 500 = 0 OR seq % 200 = 1 THEN [{{
        'factor': CASE seq % 3 WHEN 0 THEN 'travel' WHEN 1 THEN 'amount' ELSE 'hour' END,
        'code': 'X', 'text': 'EUR 900.00 is 9 times the usual', 'contribution': 1.0}}] ELSE [] END,
      NULL, {{'amount': 0.1, 'travel': 0.2, 'hour': 0.3, 'burst': 0.4}}, hash(seq) % 900,
      {scored}, NULL, NULL, NULL, NULL, NULL
    FROM transactions WHERE seq >= {first} AND seq < {last}"""
SERVE = """
import sys
from aegis_core import config
from aegis_core.views.launcher import serve
serve(config.load(db=sys.argv[1]), 0, visitors=int(sys.argv[2]))
"""
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
A_MONTH_S = 30 * 86_400
CHUNK = 1_000_000


def fill(store: Store, rows: int) -> None:
    """`rows` verdicts, given evenly over the last thirty days."""
    for first in range(0, rows, CHUNK):
        last = min(rows, first + CHUNK)
        scored = f"now()::TIMESTAMP - to_seconds(({rows} - seq) * {A_MONTH_S / rows})"
        with store.writing() as session:
            session.execute(TRANSACTIONS.format(first=first, last=last))
            session.execute(VERDICTS.format(first=first, last=last, scored=scored))
    with store.writing() as session:
        rollups.add(session, 0, rows - 1)
        session.execute(
            "INSERT INTO models (version, detector, path, promoted_at, created_at, parameters) "
            "VALUES ('v1', 'forest', '', now(), now(), '{\"alert_budget\": 0.007}')"
        )


def own(path: Path, rate: int, ready: Event, end: Event) -> None:
    """Own the database and let `rate` verdicts a second come, ten commits a second."""
    store = connect(path)
    with store.owned(limits=Limits()):
        (row,) = store.rows("SELECT max(seq) + 1 AS n FROM transactions")
        first, ready_at = int(row["n"]), time.monotonic()
        ready.set()
        told = 0
        while not end.wait(0.1):
            due = int((time.monotonic() - ready_at) * rate)
            if due > told:
                with store.writing() as session:
                    span = {"first": first + told, "last": first + due}
                    session.execute(TRANSACTIONS.format(**span))
                    session.execute(VERDICTS.format(**span, scored="now()::TIMESTAMP"))
                    rollups.add(session, first + told, first + due - 1)
                told = due


def ticks(path: Path, n: int) -> tuple[float, float, float]:
    """Milliseconds of a tick's queries: median, 95th percentile; and of choosing 30 days."""
    feed = Feed(connect(path))
    feed.read(Filters())
    took = []
    for _ in range(n):
        time.sleep(0.5)
        began = time.perf_counter()
        feed.read(Filters())
        took.append(1_000 * (time.perf_counter() - began))
    began = time.perf_counter()
    feed.read(Filters(period="30d"))
    return statistics.median(took), sorted(took)[int(0.95 * n)], 1e3 * (time.perf_counter() - began)


def inside(path: Path, n: int) -> float:
    """Milliseconds of processor time of a tick's queries in the owner's own process: median."""
    store = connect(path)
    took = []
    with store.owned():
        feed = Feed(store)
        feed.read(Filters())
        (row,) = store.rows("SELECT max(seq) + 1 AS n FROM transactions")
        for i in range(n):
            span = {"first": int(row["n"]) + 50 * i, "last": int(row["n"]) + 50 * (i + 1)}
            with store.writing() as session:
                session.execute(TRANSACTIONS.format(**span))
                session.execute(VERDICTS.format(**span, scored="now()::TIMESTAMP"))
                rollups.add(session, span["first"], span["last"] - 1)
            began = time.process_time()
            assert feed.read(Filters()).newest == span["last"] - 1
            took.append(1_000 * (time.process_time() - began))
    return statistics.median(took)


def rolled_up(folder: Path) -> float:
    """Milliseconds to sum what 100 million verdicts in 30 days are in rollups."""
    store = connect(folder / "rolled.duckdb")
    with store.writing() as session:
        session.execute(
            "INSERT INTO rollups SELECT date_trunc('minute', now()::TIMESTAMP) - to_minutes(m), "
            "'approve', '', 'category ' || c, 'EUR', 92, 9200, 0, 0 "
            "FROM range(43200) r(m), range(25) s(c)"
        )
    feed = Feed(store)
    feed.read(Filters())
    began = time.perf_counter()
    found = feed.read(Filters(period="30d"))
    assert found.counts.total() > 99_000_000
    return 1_000 * (time.perf_counter() - began)


PAINTED = """
new MutationObserver((_, observer) => {
  if (!document.querySelector('[data-tile="transactions"] .value')?.offsetHeight) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.painted = performance.now(); }));
}).observe(document, { childList: true, subtree: true, attributes: true });
"""


def opened(page: Page, address: str) -> float:
    """Seconds from going to the page to the frame after its first number, by the page's clock.

    A page that draws its charts answers nobody outside, so it cannot be asked from there.
    """
    page.add_init_script(PAINTED)
    page.goto(address, wait_until="commit")
    page.wait_for_selector('[data-tile="transactions"] .value', timeout=120_000)
    while not (ms := page.evaluate("window.painted")):
        page.wait_for_timeout(50)
    return float(ms) / 1_000


def kernels(server: subprocess.Popen[str]) -> list[psutil.Process]:
    """The kernels of the server, the oldest first."""
    family = psutil.Process(server.pid).children(recursive=True)
    found = [p for p in family if "ipykernel_launcher" in " ".join(p.cmdline())]
    return sorted(found, key=lambda p: p.create_time())


def watched(browser: Browser, address: str, seconds: int) -> dict[str, Any]:
    """Traffic, drawing times and requests of a page that is open for `seconds`."""
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    wire = page.context.new_cdp_session(page)
    wire.send("Network.enable")
    wire.send("Performance.enable")
    frames: list[tuple[str, int]] = []

    def heard(event: dict[str, Any]) -> None:
        payload = event["response"]["payloadData"]
        length = len(payload) * 3 // 4 if event["response"]["opcode"] == 2 else len(payload)
        frames.append((payload, length))

    wire.on("Network.webSocketFrameReceived", heard)
    first = opened(page, address)
    page.wait_for_timeout(8_000)
    frames.clear()
    before, began = busy(wire), time.monotonic()
    drawn: dict[str, list[float]] = {}
    for _ in range(seconds):
        page.wait_for_timeout(1_000)
        found = page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('.aegis-frame[data-ms]')].map(f => "
            "[f.closest('.aegis-chart').querySelector('h2').firstChild.data, +f.dataset.ms]))"
        )
        for name, ms in found.items():
            drawn.setdefault(name, []).append(ms)
    after, elapsed = busy(wire), time.monotonic() - began
    result = {
        "first": first,
        "drawn": {name: statistics.median(ms) for name, ms in drawn.items()},
        "bytes": sum(length for _, length in frames) / elapsed,
        "messages": len(frames) / elapsed,
        "busy": (after["TaskDuration"] - before["TaskDuration"]) / elapsed * 1_000,
        "away": [u for u in asked if not re.match(r"(http://127\.0\.0\.1:|blob:|data:)", u)],
    }
    page.close(run_before_unload=True)
    return result


def busy(wire: Any) -> dict[str, float]:
    found = wire.send("Performance.getMetrics")["metrics"]
    return {metric["name"]: metric["value"] for metric in found}


def axe(browser: Browser, address: str) -> int:
    """Violations that axe-core finds, both themes together."""
    n = 0
    for theme in ("light", "dark"):
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        opened(page, f"{address}?aegis={theme}")
        page.wait_for_timeout(4_000)
        n += Axe().run(page).violations_count
        page.close(run_before_unload=True)
    return n


def pictures(browser: Browser, address: str, folder: Path) -> None:
    """The page at three widths in two themes, for a person to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        for width in (1440, 1024, 390):
            page = browser.new_context(viewport={"width": width, "height": 1000}).new_page()
            opened(page, f"{address}?aegis={theme}")
            page.wait_for_timeout(6_000)
            page.screenshot(path=folder / f"dashboard-{theme}-{width}.png", full_page=True)
            page.close(run_before_unload=True)


def gaps(browser: Browser, address: str, viewers: int) -> tuple[float, float]:
    """Seconds between two ticks with so many pages open: median and longest."""
    pages = []
    for _ in range(viewers):
        page = browser.new_context(viewport={"width": 1024, "height": 700}).new_page()
        opened(page, address)
        page.evaluate(
            "() => { window.at = []; new MutationObserver(() => window.at.push(performance.now()))"
            ".observe(document.querySelector('.aegis-badge span'), {childList: true}); }"
        )
        pages.append(page)
    time.sleep(30)
    all_gaps: list[float] = []
    for page in pages:
        at = page.evaluate("window.at")[3:]
        all_gaps += [b - a for a, b in itertools.pairwise(at)]
        page.close(run_before_unload=True)
    return statistics.median(all_gaps) / 1_000, max(all_gaps) / 1_000


def soak(browser: Browser, server: Any, address: str, minutes: float) -> dict[str, float]:
    """Memory of the kernel and of the page at the start and the end, in MB."""
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    opened(page, address)
    wire = page.context.new_cdp_session(page)
    wire.send("Performance.enable")
    page.wait_for_timeout(20_000)
    kernel = kernels(server)[-2]

    def now() -> tuple[float, float]:
        wire.send("HeapProfiler.collectGarbage")
        return kernel.memory_info().rss / 2**20, busy(wire)["JSHeapUsedSize"] / 2**20

    start = now()
    page.wait_for_timeout(minutes * 60_000)
    end = now()
    page.close(run_before_unload=True)
    return {"kernel": start[0], "kernel_end": end[0], "page": start[1], "page_end": end[1]}


def line(what: str, asked: str, found: str) -> None:
    print(f"{what:<46} {asked:>14}   {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rate", type=int, default=50, help="verdicts a second meanwhile")
    parser.add_argument("--seconds", type=int, default=20, help="how long to watch a page")
    parser.add_argument("--viewers", type=int, default=0)
    parser.add_argument("--soak", type=float, default=0, help="minutes")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-dashboard-"))
    spawn = multiprocessing.get_context("spawn")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {dt.date.today()}")
    line("", "asked for", "measured")
    try:
        for rows in options.rows:
            path = folder / f"{rows}.duckdb"
            fill(connect(path), rows)
            cpu = inside(path, 20)
            ready, end = spawn.Event(), spawn.Event()
            owner = spawn.Process(target=own, args=(path, options.rate, ready, end))
            owner.start()
            ready.wait(120)
            median, high, month = ticks(path, 20)
            line(f"a tick's queries, {rows:,} rows", "<= 50 ms", f"{median:.1f} ms, p95 {high:.1f}")
            line("the same without the way to the owner", "", f"{cpu:.1f} ms of processor time")
            line(f"choosing 30 days, {rows:,} rows", "<= 300 ms", f"{month:.0f} ms")
            if rows == options.rows[-1]:
                page_figures(path, options)
            end.set()
            owner.join()
        line(
            "30 days of 100,000,000 rows, from rollups", "<= 300 ms", f"{rolled_up(folder):.0f} ms"
        )
    finally:
        shutil.rmtree(folder)


def page_figures(path: Path, options: argparse.Namespace) -> None:
    """What a browser and the kernels behind it show."""
    visitors = max(8, options.viewers + 4)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path), str(visitors)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    found = re.match(r"Dashboard: (\S+)", server.stdout.readline())
    assert found is not None
    address = found[1] + "/"
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
            opened(browser.new_page(), address)  # the browser's own first time
            firsts = []
            for _ in range(5):
                time.sleep(6)  # the next kernel is heated meanwhile
                page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
                firsts.append(opened(page, address))
                page.close(run_before_unload=True)
            told = (
                f"{statistics.median(firsts):.2f} s (of 5: {min(firsts):.2f} to {max(firsts):.2f})"
            )
            line("first number after opening, preheated", "<= 3.0 s", told)
            time.sleep(6)
            seen = watched(browser, address, options.seconds)
            scatter = seen["drawn"].get("Transactions", float("nan"))
            line("drawing an update of the scatter", "<= 30 ms", f"{scatter:.1f} ms")
            line("traffic, all widgets", "", f"{seen['bytes']:,.0f} bytes, "
                 f"{seen['messages']:.1f} messages a second")  # fmt: skip
            line("the page's main thread", "", f"{seen['busy']:.0f} ms a second")
            line("requests to elsewhere", "0", str(len(seen["away"])))
            line("scatter's message", "<= 2 kB", f"{scatter_bytes(path):,} bytes")
            sizes = [kernel.memory_info().rss / 2**20 for kernel in kernels(server)]
            line("memory of a kernel (RSS)", "<= 130 MB", ", ".join(f"{s:.0f}" for s in sizes))
            line("axe-core violations, both themes", "0", str(axe(browser, address)))
            if options.pictures:
                pictures(browser, address, options.pictures)
            if options.viewers:
                median, longest = gaps(browser, address, options.viewers)
                told = f"{median:.2f} s, longest {longest:.2f} s"
                line(f"{options.viewers} viewers: between two ticks", "1.0 / 2.5 s", told)
            if options.soak:
                memory = soak(browser, server, address, options.soak)
                told = (
                    f"kernel {memory['kernel']:.1f} to {memory['kernel_end']:.1f} MB, "
                    f"page {memory['page']:.1f} to {memory['page_end']:.1f} MB"
                )
                line(f"open for {options.soak:g} minutes", "flat", told)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


def scatter_bytes(path: Path) -> int:
    """Bytes of the message with which the scatter follows one second of the stream."""
    from aegis_core.views.dashboard.app import Board

    board = Board(Feed(connect(path)))
    board.refresh()
    sizes: list[int] = []

    def sent(content: object, buffers: list[bytes] | None = None) -> None:
        sizes.append(len(json.dumps(content)) + sum(map(len, buffers or [])))

    board.scatter.send = sent
    for _ in range(5):
        time.sleep(1)
        board.refresh()
    return int(statistics.median(sizes)) if sizes else 0


if __name__ == "__main__":
    main()
