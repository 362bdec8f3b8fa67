"""The analysts' page in a real browser, with a service behind it: keys, claims, who is let in."""

from __future__ import annotations

import datetime as dt
import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from test_cases import HOSTILE, NOON, arrive
from test_dashboard_browser import SLOW_MS, browser, until  # noqa: F401 (a fixture)
from test_service_process import TOKEN, free_port, started, trained  # noqa: F401 (a fixture)

from aegis_core import config
from aegis_core.serving import token
from aegis_core.store import Store, connect

WIDTHS = (1440, 1024, 390)
LOG_IN = "a-log-in-for-the-tests"


@pytest.fixture(scope="module")
def home(trained: Path) -> Iterator[Path]:  # noqa: F811
    """A home with alerts about four customers, and a running service."""
    made = connect(config.load(home=trained).db)
    (model,) = made.rows("SELECT version FROM models")
    (last,) = made.rows("SELECT max(ts) AS ts FROM transactions")
    minute = (last["ts"] - NOON + dt.timedelta(days=1)) / dt.timedelta(minutes=1)
    customers = enumerate(("anna's", "ben's", "carl's", HOSTILE))
    arrive(
        made,
        [
            {
                **{"id": f"b{i}-{k}", "customer": customer, "minute": minute + k},
                **{"amount": 900.0 - 100 * i, "model": model["version"]},
            }
            for i, customer in customers
            for k in range(3)
        ],
    )
    port = free_port()
    process = started(trained, port)
    yield trained
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def store(home: Path) -> Store:
    return connect(config.load(home=home).db)


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Where analysts are let in, the token included, and the process that lets them in."""
    out = home / "review.txt"
    environment = {
        **{"AEGIS_HOME": str(home), "AEGIS_TOKEN": TOKEN, "AEGIS_REVIEW_TOKEN": LOG_IN},
    }
    with out.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "aegis_core.cli", "review", "--port", "0"],
            env={**os.environ, **environment},
            stdout=told,
        )
    until(lambda: process.poll() is not None or out.read_text().endswith("\n"), 60)
    found = re.match(r"Review: (http://127\.0\.0\.1:\d+/\?token=\S+) ", out.read_text())
    assert found, out.read_text()
    yield found[1], psutil.Process(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def address(served: tuple[str, psutil.Process]) -> str:
    return served[0]


@dataclass
class Visit:
    """A page of one analyst, and what it complained about."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    @property
    def told(self) -> Any:
        return self.page.locator(".ar-told")

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)


def visit(browser: Browser, address: str, name: str) -> Visit:  # noqa: F811
    """A page on which `name` has said who they are, with the keyboard."""
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    made = Visit(page)
    page.on("console", lambda m: made.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: made.errors.append(str(e)))
    page.on("request", lambda r: made.asked.add(r.url))
    page.on("dialog", lambda d: made.errors.append(f"a script ran: {d.message}"))
    page.goto(f"{address}&aegis=light", wait_until="commit")
    expect(page.get_by_label("Your name")).to_be_focused(timeout=SLOW_MS)
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(made.told).to_contain_text(f"You answer as {name}", timeout=SLOW_MS)
    expect(page.locator(".ar-row").first).to_be_visible()
    return made


@pytest.fixture(scope="module")
def anna(browser: Browser, address: str) -> Iterator[Visit]:  # noqa: F811
    made = visit(browser, address, "anna")
    yield made
    made.page.close()


def answers(store: Store) -> list[dict[str, Any]]:
    return store.rows("SELECT answer, analyst, note, count(*) AS n FROM reviews GROUP BY ALL")


def test_a_case_is_answered_with_the_keyboard_alone(anna: Visit, store: Store) -> None:
    expect(anna.page.locator(".aegis-badge")).to_contain_text("through the service")
    anna.press("n")
    expect(anna.told).to_contain_text("yours for ten minutes")
    expect(anna.page.locator(".ar-case h2")).to_be_focused()
    (claim,) = store.rows("SELECT analyst, customer_id, case_id FROM claims")
    assert claim["analyst"] == "anna"
    anna.press("m")
    anna.page.keyboard.type("a note: fln")
    anna.press("Escape")
    anna.press("f")
    expect(anna.told).to_contain_text("U takes it back")
    (given,) = answers(store)
    assert (given["answer"], given["analyst"], given["note"]) == ("fraud", "anna", "a note: fln")
    assert store.rows("SELECT count(*) AS n FROM labels WHERE source = 'review'") == [{"n": 0}]
    anna.press("u")
    expect(anna.told).to_contain_text("Taken back")
    assert sum(row["n"] for row in answers(store) if row["answer"] == "undo") == given["n"]
    anna.press("l")
    expect(anna.told).to_contain_text("Legitimate")
    assert sum(row["n"] for row in answers(store) if row["answer"] == "legitimate") == given["n"]


def test_an_answer_becomes_a_label_when_undo_is_over(anna: Visit, store: Store) -> None:
    with store.writing() as session:  # as if ten seconds were over
        session.execute("UPDATE reviews SET held_until = answered_at WHERE undoes IS NULL")
    labelled = "SELECT DISTINCT is_fraud FROM labels WHERE source = 'review'"
    until(lambda: store.rows(labelled) == [{"is_fraud": False}], 20)
    anna.press("u")
    expect(anna.told).to_contain_text(re.compile("too late|nothing to take back"))


def test_two_analysts_cannot_claim_the_same_case(
    anna: Visit,
    browser: Browser,  # noqa: F811
    address: str,
    store: Store,
) -> None:
    anna.press("n")
    expect(anna.page.locator(".ar-row[aria-current]")).to_have_count(1)
    mine = anna.page.locator(".ar-row[aria-current]").get_attribute("data-id")
    ben = visit(browser, address, "ben")
    ben.press("n")
    expect(ben.told).to_contain_text("yours for ten minutes")
    assert ben.page.locator(".ar-row[aria-current]").get_attribute("data-id") != mine
    ben.page.locator(f'.ar-row[data-id="{mine}"]').click()
    expect(ben.told).to_contain_text("anna works on this customer until")
    holders = store.rows(
        "SELECT arg_max(analyst, turn) AS who FROM claims WHERE case_id = ? GROUP BY customer_id",
        [mine],
    )
    assert holders == [{"who": "anna"}]
    assert ben.errors == []
    ben.page.close()


def test_a_budget_is_tried_and_proposed(anna: Visit, store: Store) -> None:
    anna.page.get_by_role("button", name="Look at the last 7 days").click()
    slider = anna.page.get_by_label("Alert budget")
    slider.focus()
    before = slider.get_attribute("aria-valuetext")
    anna.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != before
    anna.page.get_by_role("button", name="Propose").click()
    expect(anna.told).to_contain_text("Nothing else changed")
    (kept,) = store.rows("SELECT who, kind FROM proposals")
    assert kept == {"who": "anna", "kind": "policy"}


def test_hostile_names_are_text(anna: Visit) -> None:
    row = anna.page.locator(".ar-row", has_text="DROP TABLE").first
    expect(row).to_be_visible()
    row.click()
    heading = anna.page.locator(".ar-case h2")
    expect(heading).to_contain_text("<script>")
    expect(heading).to_contain_text("\ufffd", use_inner_text=True)
    assert "\u202e" not in anna.page.locator(".aegis-review").inner_text()
    assert anna.page.locator(".aegis-review :is(img, script)").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_use_it_at_every_width(anna: Visit, theme: str, tmp_path: Path) -> None:
    """Nothing that axe objects to, nothing beyond the edge; pictures are kept for a person."""
    folder = Path(os.environ.get("AEGIS_SCREENSHOTS", tmp_path))
    anna.page.evaluate("window.scrollTo(0, 0)")
    if anna.page.locator("body").get_attribute("data-aegis") != theme:
        anna.page.get_by_role("button", name=f"Switch to the {theme} theme").click()
    for width in WIDTHS:
        anna.page.set_viewport_size({"width": width, "height": 1000})
        assert anna.page.evaluate("document.documentElement.scrollWidth") <= width
        picture = folder / f"review-{theme}-{width}.png"
        anna.page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 20_000
    found = Axe().run(anna.page)
    assert found.violations_count == 0, found.generate_report()
    anna.page.set_viewport_size({"width": 1440, "height": 1000})


def test_where_analysts_have_tokens_the_page_asks_for_one_and_keeps_it_to_itself(
    anna: Visit, store: Store
) -> None:
    secret = token.add(store, "dora", "casework", who="root")
    asked = anna.page.get_by_label("Your token")
    expect(asked).to_be_focused(timeout=10_000)
    expect(asked).to_have_attribute("type", "password")
    anna.page.keyboard.type(secret)
    anna.press("Enter")
    expect(anna.told).to_contain_text("You answer as dora")
    assert secret not in anna.page.evaluate("JSON.stringify(localStorage)")
    token.revoke(store, "dora", who="root")  # a name is not enough again
    expect(anna.page.get_by_label("Your token")).to_be_focused(timeout=10_000)
    token.given_file(store.path).unlink()
    expect(anna.page.get_by_label("Your name")).to_have_value("anna", timeout=10_000)


def test_nothing_went_wrong_and_nothing_left_the_machine(anna: Visit, address: str) -> None:
    assert anna.errors == []
    at = urllib.parse.urlsplit(address).netloc
    local = (f"http://{at}/", "blob:", "data:")
    assert [url for url in anna.asked if not url.startswith(local)] == []


def test_who_has_no_token_is_not_let_in(served: tuple[str, psutil.Process]) -> None:
    address, server = served
    port = urllib.parse.urlsplit(address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for path in ("/", "/?token=wrong", f"/?token={TOKEN}", "/voila/files/05_review.ipynb"):
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        assert response.status in (302, 403, 404)
        assert b"aegis" not in body.lower()
    begun = " ".join(word for p in server.children(recursive=True) for word in p.cmdline())
    kernels = re.findall(r"kernel-([0-9a-f-]{36})\.json", begun)
    assert kernels
    upgrade = {
        **{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
        **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="},
        **{"Sec-WebSocket-Protocol": "v1.kernel.websocket.jupyter.org"},
    }
    for kernel in kernels:
        connection.request("GET", f"/api/kernels/{kernel}/channels", headers=upgrade)
        response = connection.getresponse()
        response.read()
        assert response.status == 403, "also for who knows a kernel's name"
    connection.close()


def test_a_page_that_is_closed_lets_its_case_go(
    browser: Browser,  # noqa: F811
    address: str,
    store: Store,
) -> None:
    carl = visit(browser, address, "carl")
    carl.press("n")
    expect(carl.told).to_contain_text("yours for ten minutes")
    began = time.monotonic()
    carl.page.get_by_role("button", name="Release").click()
    expect(carl.told).to_contain_text("Released")
    freed = "SELECT arg_max(released_at, turn) AS at FROM claims WHERE analyst = 'carl'"
    assert store.rows(freed)[0]["at"] is not None
    assert time.monotonic() - began < 10
    carl.page.close()
