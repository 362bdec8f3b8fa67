"""The served page in a real browser: it shows, follows and filters, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from playwright.sync_api import Browser, Page, WebSocketRoute, expect, sync_playwright
from test_dashboard import HOSTILE, arrive, train
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from aegis_core.machine import utc_now
from aegis_core.store import Store, connect
from aegis_core.store.gate import Limits

SERVE = """
import sys
from aegis_core import config
from aegis_core.views.launcher import serve
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


def chromium() -> str:
    """The browser's program."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.fail(
            "This test needs a browser. Install Chromium (Debian, Ubuntu: apt-get install "
            "chromium), or name any Chromium or Chrome in the variable CHROMIUM."
        )
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
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
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AEGIS_STORM_MULTIPLE", "1e6")  # it has come all at once
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
    origin = visit.page.locator(".aegis-origin")
    expect(origin).to_contain_text("Champion v1 · since 2026-03-31 03:00 UTC")
    expect(origin).to_contain_text("live = replay: not checked yet")


def test_the_pictures_are_drawn(visit: Visit) -> None:
    expect(visit.page.locator(".aegis-scatter .aegis-cloud")).to_be_visible(timeout=SLOW_MS)
    for panel in ("bars", "reasons", "budget", "map", "drift"):
        drawn = visit.page.locator(f".aegis-{panel} :is(.trace, .points) path").first
        expect(drawn).to_be_attached(timeout=SLOW_MS)
    dots = """() => {
      const canvas = document.querySelector('.aegis-cloud');
      const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return pixels.reduce((n, value, i) => n + (i % 4 === 3 && value > 0), 0);
    }"""
    assert visit.page.evaluate(dots) > 264, "a point of ordinary traffic has many pixels"


def test_a_number_tells_where_it_comes_from(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Where from: Blocked").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("decision = 'block'")
    expect(dialog).to_contain_text("run-7")
    expect(dialog).to_contain_text("abc123")
    link = dialog.get_by_role("link", name="open the report")
    assert (link.get_attribute("href") or "").endswith("/aegis/reports/run-7")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_every_picture_and_the_log_tell_where_they_come_from(visit: Visit) -> None:
    page = visit.page
    titles = page.locator(".aegis-chart h2, .aegis-table h2").all()
    assert len(titles) == 9
    for title in titles:
        name = title.evaluate("title => title.firstChild.textContent")
        panel = title.locator("xpath=ancestor::*[contains(@class, 'aegis-panel')][1]")
        panel.get_by_role("button", name=f"Where from: {name}").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("SELECT")
        expect(dialog.get_by_role("link", name="open the report")).to_have_count(1)
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)


def test_a_lasso_filters_everything_else_until_it_is_let_go(visit: Visit, store: Store) -> None:
    page = visit.page
    area = page.locator(".aegis-scatter .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    corners = [(0.02, 0.02), (0.5, 0.02), (0.5, 0.98), (0.02, 0.98), (0.02, 0.02)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()
    note = page.locator(".aegis-scatter small")
    expect(note).to_contain_text("selected", timeout=10_000)
    chosen = int((note.inner_text()).split()[0].replace(",", ""))
    (found,) = store.rows(
        "SELECT count(*) AS n FROM transactions WHERE hour(ts) + minute(ts) / 60 < 12"
    )
    assert 0 < chosen < counted(store)[0]
    assert abs(chosen - found["n"]) < 0.1 * counted(store)[0], "the left half is the morning"
    expect(page.locator('[data-tile="transactions"] .value')).to_have_text(f"{chosen:,}")
    page.get_by_role("button", name="Let go").click()
    expect(page.locator('[data-tile="transactions"] .value')).to_have_text(f"{counted(store)[0]:,}")


def test_filters_are_in_the_address_and_survive_a_reload(visit: Visit, store: Store) -> None:
    page, rows = visit.page, visit.page.locator(".aegis-recent .aegis-scroll tbody tr")
    page.get_by_label("Decision", exact=True).select_option("block")
    page.get_by_label("Amount from", exact=True).fill("100")
    page.keyboard.press("Enter")
    (found,) = store.rows(
        "SELECT count(*) AS n FROM verdicts JOIN transactions USING (seq) "
        "WHERE decision = 'block' AND amount >= 100"
    )
    expect(rows).to_have_count(found["n"])
    expect(page).to_have_url(re.compile(r"decision=block&min_amount=100"))
    page.reload(wait_until="commit")
    expect(rows).to_have_count(found["n"], timeout=SLOW_MS)
    expect(page.get_by_label("Decision", exact=True)).to_have_value("block")
    expect(page.get_by_label("Amount from", exact=True)).to_have_value("100")
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(rows).to_have_count(100)
    expect(page).to_have_url(re.compile(r"/(\?[^=]*)?$"))


def test_the_log_is_used_by_keyboard(visit: Visit) -> None:
    page = visit.page
    page.locator(".aegis-recent .aegis-scroll").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    first = page.locator(".aegis-recent .aegis-scroll tbody tr").first
    expect(first).to_be_focused()
    customer = first.locator("td").nth(5).inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Its name", exact=True)).to_have_value(customer)
    page.get_by_role("button", name="Reset", exact=True).click()
    page.get_by_label("Filter: Newest verdicts").fill("late")
    expect(page.locator(".aegis-recent .aegis-scroll tbody tr")).not_to_have_count(100)
    page.get_by_label("Filter: Newest verdicts").fill("")
    expect(page.locator(".aegis-recent .aegis-scroll tbody tr")).to_have_count(100)


def test_a_campaign_is_shown_alone_by_one_click_and_in_the_address(visit: Visit) -> None:
    page = visit.page
    campaign = page.locator(".aegis-campaigns tbody tr")
    expect(campaign).to_have_count(1)
    expect(campaign.locator("td").first).to_have_text(f"at {HOSTILE}")
    alerts = int(campaign.locator("td").nth(2).inner_text())
    campaign.click()
    expect(page.get_by_label("Only of")).to_have_value("merchant_id")
    expect(page.get_by_label("Its name", exact=True)).to_have_value(HOSTILE)
    expect(page.get_by_label("Decision", exact=True)).to_have_value("alerts")
    expect(page.locator(".aegis-tile .value").first).to_have_text(str(alerts))
    page.reload()
    expect(page.get_by_label("Its name", exact=True)).to_have_value(HOSTILE)
    page.get_by_label("Only of").select_option("customer")
    page.get_by_label("Its name", exact=True).fill("c3")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("customer=c3"))
    expect(page).not_to_have_url(re.compile("merchant_id"))
    rows = page.locator(".aegis-recent .aegis-scroll tbody tr")
    expect(rows).not_to_have_count(100)  # of the page as it was before its address was read
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(rows).to_have_count(100)


def test_what_is_shown_can_be_taken_along(visit: Visit, store: Store) -> None:
    with visit.page.expect_download() as told:
        visit.page.get_by_role("button", name="CSV").click()
    lines = Path(told.value.path()).read_text("utf-8-sig").splitlines()
    assert len(lines) == 1 + counted(store)[0]
    with visit.page.expect_download() as told:
        visit.page.get_by_role("button", name="PNG").click()
    assert Path(told.value.path()).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_accessible(visit: Visit, theme: str) -> None:
    if visit.page.locator("body").get_attribute("data-aegis") != theme:
        visit.page.get_by_role("button", name="theme").click()
    visit.page.mouse.move(0, 0)
    found = Axe().run(visit.page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_nothing_sticks_out(visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert visit.page.evaluate(over) == 0
    visit.page.set_viewport_size({"width": 1440, "height": 1000})


def test_a_hostile_merchant_is_text(visit: Visit) -> None:
    table = visit.page.locator(".aegis-recent .aegis-scroll")
    expect(table.get_by_role("cell", name=HOSTILE[:80], exact=True).first).to_be_visible()
    assert table.locator("img, script").count() == 0


def test_the_page_follows_the_data(visit: Visit, store: Store) -> None:
    n, blocked = counted(store)
    newest = visit.page.locator(".aegis-recent .aegis-scroll tbody tr").first
    expect(newest).to_contain_text(f"t{n - 1}")
    arrive(store, n, 50, scored_at=utc_now())
    expect(visit.page.locator('[data-tile="transactions"] .value')).to_have_text(f"{n + 50:,}")
    expect(visit.page.locator('[data-tile="blocked"] .value')).to_have_text(f"{blocked + 1:,}")
    expect(newest).to_contain_text(f"t{n + 49}")
    expect(visit.page.locator(".aegis-badge")).to_have_attribute("data-state", "live")


def test_a_filter_and_the_theme_can_be_chosen(visit: Visit, store: Store) -> None:
    rows = visit.page.locator(".aegis-recent .aegis-scroll tbody tr")
    decision = visit.page.get_by_label("Decision", exact=True)
    decision.select_option("block")
    expect(rows).to_have_count(counted(store)[1])
    expect(visit.page.locator(".aegis-recent .aegis-scroll tbody .aegis-pill").first).to_have_text(
        "block"
    )
    decision.select_option("")
    expect(rows).to_have_count(100)
    before = visit.page.locator("body").get_attribute("data-aegis")
    visit.page.get_by_role("button", name="theme").click()
    expect(visit.page.locator("body")).not_to_have_attribute("data-aegis", before or "")


def test_a_database_that_is_held_makes_the_page_stale_for_a_while(
    visit: Visit, store: Store
) -> None:
    badge = visit.page.locator(".aegis-badge")
    with store.writing():
        expect(badge).to_have_attribute("data-state", "stale", timeout=10_000)
        expect(badge).to_contain_text(re.compile(r"as of \d\d:\d\d:\d\d UTC"))
    expect(badge).to_have_attribute("data-state", "live", timeout=10_000)


def test_a_service_that_ends_makes_the_page_stale_until_it_is_back(
    visit: Visit, store: Store
) -> None:
    badge = visit.page.locator(".aegis-badge")
    with store.owned(limits=Limits()):
        arrive(store, counted(store)[0], 50, scored_at=utc_now())
        told = visit.page.locator('[data-tile="transactions"] .value')
        expect(told).to_have_text(f"{counted(store)[0]:,}", timeout=10_000)
        expect(badge).to_have_attribute("data-state", "live")
    expect(badge).to_have_attribute("data-state", "stale", timeout=7_000)
    expect(badge).to_contain_text("the service ended")
    with store.owned(limits=Limits()):
        expect(badge).to_have_attribute("data-state", "live", timeout=7_000)


def test_what_voila_leaves_open_is_closed(served: Served) -> None:
    channels = f"/api/kernels/{uuid4()}/channels"
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    assert served.ask("GET", channels, **upgrade) == 426
    legacy = {"Sec_WebSocket_Protocol": "v0"}
    assert served.ask("GET", channels, **upgrade, **legacy) == 426
    assert served.ask("GET", "/", Host="rebound.example") == 403
    for name in ("dashboard.ipynb", "01_generate.ipynb", "..%2fpyproject.toml"):
        assert served.ask("GET", f"/voila/files/{name}") in (400, 403, 404)
        assert served.ask("GET", f"/aegis/reports/{name}") in (302, 400, 403, 404)
    for path in ("/api/contents", "/api/kernels", "/api/terminals", "/lab", "/tree"):
        assert served.ask("GET", path) in (302, 403, 404, 405), path
    assert served.ask("POST", "/api/kernels") in (302, 403, 404, 405)
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


def goes_stale(page: Page, since: float) -> None:
    """The badge says so within 7 s of `since`, and offers to load the page again."""
    badge = page.locator('.aegis-badge[data-state="stale"]')
    left_ms = 1_000 * (since + 7 - time.monotonic())
    expect(badge).to_contain_text("no answer", timeout=left_ms)
    expect(page.get_by_role("button", name="Reload")).to_be_visible()


def test_a_killed_kernel_or_a_lost_network_makes_the_page_stale_until_it_is_loaded_again(
    visit: Visit, served: Served
) -> None:
    page, lost = visit.page, Event()
    found = re.search(r'"kernelId": ?"([0-9a-f-]+)"', page.content())
    assert found is not None
    (kernel,) = [p for p in served.kernels() if found[1] in " ".join(command(p))]
    kernel.kill()
    goes_stale(page, time.monotonic())

    def between(near: WebSocketRoute) -> None:
        far = near.connect_to_server()
        near.on_message(lambda told: None if lost.is_set() else far.send(told))
        far.on_message(lambda told: None if lost.is_set() else near.send(told))

    page.route_web_socket(re.compile("/channels"), between)
    page.get_by_role("button", name="Reload").click(no_wait_after=True)
    badge = page.locator(".aegis-badge")
    expect(badge).not_to_contain_text("no answer", timeout=SLOW_MS)
    expect(badge).to_contain_text("as of")
    lost.set()
    goes_stale(page, time.monotonic())


KINDS = (
    *("execute_request", "inspect_request", "complete_request", "is_complete_request"),
    *("history_request", "debug_request", "input_reply", "interrupt_request"),
)


def request(kind: str, code: str) -> dict[str, Any]:
    header = {"msg_id": uuid4().hex, "msg_type": kind, "username": "", "session": "s"}
    header |= {"date": "2026-04-01T12:00:00Z", "version": "5.3"}
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {"a": code},
    }
    content |= {"allow_stdin": True, "stop_on_error": False, "cursor_pos": 3, "detail_level": 1}
    content |= {"hist_access_type": "tail", "n": 9, "value": code, "command": "evaluate"}
    content |= {"arguments": {"expression": code}, "type": "request", "seq": 1}
    return {"header": header, "parent_header": {}, "metadata": {}, "content": content}


def test_a_visitors_websocket_cannot_execute_inspect_or_debug(
    served: Served, tmp_path: Path
) -> None:
    mark = tmp_path / "owned"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def pack(part: object) -> bytes:
        return json.dumps(part).encode()

    async def attack() -> list[str]:
        page = urllib.request.urlopen(served.address, timeout=60).read().decode()
        kernel = re.search(r'"kernelId": ?"([0-9a-f-]+)"', page)
        assert kernel is not None
        asked = HTTPRequest(f"ws://127.0.0.1:{served.port}/api/kernels/{kernel[1]}/channels")
        v1 = ["v1.kernel.websocket.jupyter.org"]
        socket = await websocket_connect(asked, subprotocols=v1)
        for channel in ("shell", "control", "stdin", "iopub", "hb", "other"):
            for kind in KINDS:
                framed = serialize_msg_to_ws_v1(request(kind, code), channel, pack)
                await socket.write_message(framed, binary=True)
        info = serialize_msg_to_ws_v1(request("kernel_info_request", ""), "shell", pack)
        await socket.write_message(info, binary=True)
        kinds: list[str] = []
        while "kernel_info_reply" not in kinds:
            told = await asyncio.wait_for(socket.read_message(), 30)
            assert isinstance(told, bytes)
            _, (head, *_) = deserialize_msg_from_ws_v1(told)
            kinds.append(json.loads(head)["msg_type"])
        two_of_three = (3).to_bytes(8, "little") + bytes(16)
        for framed in (two_of_three, "{}"):
            again = await websocket_connect(asked.url, subprotocols=v1)
            await again.write_message(framed, binary=isinstance(framed, bytes))
            while await asyncio.wait_for(again.read_message(), 30) is not None:
                continue
            again.close()
        socket.close()
        while await asyncio.wait_for(socket.read_message(), 30) is not None:
            continue
        return kinds

    with ThreadPoolExecutor(1) as pool:  # playwright has a loop in this thread
        kinds = pool.submit(asyncio.run, attack()).result(timeout=120)
    answers = {"execute_reply", "inspect_reply", "complete_reply", "history_reply", "debug_reply"}
    assert not answers & set(kinds)
    assert "execute_result" not in kinds
    assert not mark.exists()
    assert served.ask("GET", "/voila/templates/aegis/static/board.css") == 200, "it still serves"


@pytest.mark.parametrize("query", ["voila-theme={}", "theme={}", "template={}", "aegis={}"])
def test_nothing_of_the_address_becomes_part_of_the_page(served: Served, query: str) -> None:
    word = "chosen-by-a-visitor"
    with urllib.request.urlopen(f"{served.address}?{query.format(word)}", timeout=60) as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert word not in page
    assert "unsafe-eval" not in policy
    assert "default-src 'none'" in policy


def test_a_server_that_is_full_says_so_and_ends_in_time(store: Store) -> None:
    full = start(store.path, for_s=1, visitors=0)
    family = full.family()
    assert full.ask("GET", "/") == 503
    assert full.process.wait(30) == 0
    assert psutil.wait_procs(family, timeout=5)[1] == []
