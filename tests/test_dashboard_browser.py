"""The served page in a real browser: it shows, follows and filters, and leaves nothing behind."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_dashboard import HOSTILE, arrive, train

from aegis_core.board.feed import utc_now
from aegis_core.store import Store, connect

SERVE = """
import sys
from aegis_core import config
from aegis_core.board.launcher import serve
serve(config.load(db=sys.argv[1]), 0, for_s=float(sys.argv[2]), visitors=int(sys.argv[3]))
"""
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SLOW_MS = 60_000


@dataclass
class Served:
    """A dashboard in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def kernels(self) -> list[psutil.Process]:
        return [p for p in self.family() if "ipykernel_launcher" in " ".join(command(p))]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def ask(self, method: str, path: str, **headers: str) -> int:
        """The status of a plain request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        status = connection.getresponse().status
        connection.close()
        return status


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def start(db: Path, *, for_s: float, visitors: int = 20) -> Served:
    arguments = [str(db), str(for_s), str(visitors)]
    told = db.with_suffix(f".{uuid4()}.txt")
    with told.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", SERVE, *arguments], stdout=out)
    until(lambda: process.poll() is not None or told.read_text().endswith("\n"), 60)
    found = re.match(r"Dashboard: http://127\.0\.0\.1:(\d+) ", told.read_text())
    assert found, told.read_text()
    return Served(process, int(found[1]))


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.fail(
            "This test needs a browser. Install Chromium (Debian, Ubuntu: apt-get install "
            "chromium), or name any Chromium or Chrome in the variable CHROMIUM."
        )
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = connect(tmp_path_factory.mktemp("board") / "a.duckdb")
    arrive(made, 0, 300, scored_at=utc_now())
    train(made)
    return made


@pytest.fixture(scope="module")
def served(store: Store) -> Iterator[Served]:
    board = start(store.path, for_s=300)
    family = board.family()
    yield board
    family += [p for p in board.family() if p not in family]
    board.process.send_signal(signal.SIGINT)
    assert board.process.wait(30) == 0, "Ctrl-C is an ordinary end"
    gone, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert len(gone) >= 2, "a server and its kernels"


@dataclass
class Visit:
    """A page, what it complained about, and where it asked for something."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def value(self, tile: str) -> str:
        return self.page.locator(f'[data-tile="{tile}"] .value').inner_text()


@pytest.fixture(scope="module")
def visit(served: Served, browser: Browser) -> Iterator[Visit]:
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    made = Visit(page)
    page.on("console", lambda m: made.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: made.errors.append(str(e)))
    page.on("request", lambda r: made.asked.add(r.url))
    page.on("websocket", lambda w: made.asked.add(w.url))
    page.on("dialog", lambda d: made.errors.append(f"a script ran: {d.message}"))
    page.goto(served.address, wait_until="commit")
    page.wait_for_selector('[data-tile="transactions"]', timeout=SLOW_MS)
    yield made
    page.close()


def counted(store: Store) -> tuple[int, int]:
    """Verdicts, and how many of them block."""
    (row,) = store.rows("SELECT count(*) AS n, count_if(decision = 'block') AS b FROM verdicts")
    return int(row["n"]), int(row["b"])


def test_the_tiles_say_what_the_database_says(visit: Visit, store: Store) -> None:
    n, blocked = counted(store)
    assert visit.value("transactions") == f"{n:,}"
    assert visit.value("blocked") == f"{blocked:,}"
    assert visit.value("fraud_rate") == "12.00%"
    expect(visit.page.locator(".aegis-origin")).to_contain_text("in run run-7")


def test_the_pictures_are_drawn(visit: Visit) -> None:
    expect(visit.page.locator(".aegis-scatter canvas").first).to_be_visible(timeout=SLOW_MS)
    expect(visit.page.locator(".aegis-bars .bars path").first).to_be_attached()
    assert visit.page.get_by_text("WebGL is not supported").count() == 0
    drawn = "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data.length)"
    assert visit.page.evaluate(drawn) == [3, 3]


def test_a_hostile_merchant_is_text(visit: Visit) -> None:
    table = visit.page.locator(".aegis-scroll")
    expect(table.get_by_role("cell", name=HOSTILE[:80], exact=True).first).to_be_visible()
    assert table.locator("img, script").count() == 0


def test_the_page_follows_the_data(visit: Visit, store: Store) -> None:
    n, blocked = counted(store)
    newest = visit.page.locator(".aegis-scroll tbody tr").first
    expect(newest).to_contain_text(f"t{n - 1}")
    arrive(store, n, 50, scored_at=utc_now())
    expect(visit.page.locator('[data-tile="transactions"] .value')).to_have_text(f"{n + 50:,}")
    expect(visit.page.locator('[data-tile="blocked"] .value')).to_have_text(f"{blocked + 1:,}")
    expect(newest).to_contain_text(f"t{n + 49}")
    expect(visit.page.locator(".aegis-badge")).to_have_attribute("data-state", "live")


def test_a_filter_and_the_theme_can_be_chosen(visit: Visit, store: Store) -> None:
    rows = visit.page.locator(".aegis-scroll tbody tr")
    decision = visit.page.get_by_label("Decision", exact=True)
    decision.select_option("block")
    expect(rows).to_have_count(counted(store)[1])
    expect(visit.page.locator(".aegis-scroll tbody .aegis-pill").first).to_have_text("block")
    decision.select_option("all")
    expect(rows).to_have_count(100)
    visit.page.get_by_role("button", name="theme").click()
    expect(visit.page.locator("body")).to_have_attribute("data-aegis", "dark")


def test_a_database_that_is_held_makes_the_page_stale_for_a_while(
    visit: Visit, store: Store
) -> None:
    badge = visit.page.locator(".aegis-badge")
    with store.writing():
        expect(badge).to_have_attribute("data-state", "stale", timeout=10_000)
        expect(badge).to_contain_text(re.compile(r"as of \d\d:\d\d:\d\d UTC"))
    expect(badge).to_have_attribute("data-state", "live", timeout=10_000)


def test_what_voila_leaves_open_is_closed(served: Served) -> None:
    channels = f"/api/kernels/{uuid4()}/channels"
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    assert served.ask("GET", channels, **upgrade) == 426
    assert served.ask("GET", "/", Host="rebound.example") == 403
    assert served.ask("GET", "/voila/files/dashboard.ipynb") in (403, 404)
    assert served.ask("POST", f"/voila/api/shutdown/{uuid4()}") == 403


def test_nothing_went_wrong_and_nothing_left_the_machine(visit: Visit, served: Served) -> None:
    assert visit.errors == []
    local = (f"http://127.0.0.1:{served.port}/", f"ws://127.0.0.1:{served.port}/", "blob:", "data:")
    assert [url for url in visit.asked if not url.startswith(local)] == []


def test_a_page_that_is_left_takes_its_kernel_along(served: Served, browser: Browser) -> None:
    until(lambda: len(served.kernels()) == 2, 30)  # the visitor's and the next one's
    page = browser.new_context().new_page()
    page.goto(served.address, wait_until="commit")
    page.wait_for_selector('[data-tile="transactions"]', timeout=SLOW_MS)
    until(lambda: len(served.kernels()) == 3, 30)
    page.close(run_before_unload=True)
    until(lambda: len(served.kernels()) == 2)


def test_a_server_that_is_full_says_so_and_ends_in_time(store: Store) -> None:
    full = start(store.path, for_s=1, visitors=0)
    family = full.family()
    assert full.ask("GET", "/") == 503
    assert full.process.wait(30) == 0
    assert psutil.wait_procs(family, timeout=5)[1] == []
