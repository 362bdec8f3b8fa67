"""What `docs/deploy.md` shows for nginx works: who has no log-in sees nothing, who has sees all."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright
from test_dashboard_browser import QUIET, SLOW_MS, Served, chromium, start, until
from test_service_process import TOKEN, free_port, started, trained  # noqa: F401 (a fixture)

from aegis_core import config
from aegis_core.serving import token
from aegis_core.serving.strangers import LOOK_S
from aegis_core.store import connect

pytestmark = pytest.mark.nginx

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"
NAME = "aegis.example.org"
VERA, PASSWORD = "vera", "what vera types"
LOGGED_IN = {"Authorization": "Basic " + base64.b64encode(f"{VERA}:{PASSWORD}".encode()).decode()}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CHANNELS = "/api/kernels/00000000-0000-4000-8000-000000000000/channels"
UPGRADE = {
    **{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="},
}
V1 = {"Sec-WebSocket-Protocol": "v1.kernel.websocket.jupyter.org"}
OURS, THEIRS = {"Origin": f"https://{NAME}"}, {"Origin": "https://other.example.org"}

# Instead of a distribution's nginx.conf, whose paths are of the system.
AROUND = """
daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
    {paths}
    include {site};
}}
"""
KINDS_OF_PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass
class Proxy:
    """A running nginx and what is behind it."""

    port: int
    folder: Path
    dashboard: Served
    db: Path

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: object = None
    ) -> tuple[int, bytes]:
        """Status and body of what is asked with TLS, the certificate checked."""
        context = ssl.create_default_context(cafile=str(self.folder / "aegis.pem"))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=60, context=context
        )
        sent = None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/json"} if sent else {}
        connection.request(method, path, sent, {"Host": NAME} | kind | headers)
        response = connection.getresponse()
        try:
            return response.status, b"" if response.status == 101 else response.read()
        finally:
            connection.close()

    def status(self, method: str, path: str, *headers: dict[str, str]) -> int:
        return self.ask(method, path, {k: v for some in headers for k, v in some.items()})[0]


def openssl(*arguments: str, given: str = "") -> str:
    program = shutil.which("openssl")
    if program is None:
        pytest.fail("This test makes a certificate with openssl. Debian: apt-get install openssl")
    done = subprocess.run(
        [program, *arguments], input=given, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def written(folder: Path, ports: dict[int, int]) -> Path:
    """The file of `docs/deploy.md` with other ports and paths, nothing else changed."""
    found = re.findall(r"```nginx\n(.*?)```", DEPLOY.read_text("utf-8"), re.DOTALL)
    assert len(found) == 1
    site = found[0]
    for old, new in ports.items():
        site, n = re.subn(rf"(listen |127\.0\.0\.1:){old}\b", rf"\g<1>{new}", site)
        assert n >= 1, f"the example has nothing on port {old}"
    site = re.sub(r"listen (?=\d)", "listen 127.0.0.1:", site)
    for prefix in ("/etc/ssl/", "/etc/nginx/", "/var/log/nginx/"):
        assert f" {prefix}" in site
        site = site.replace(f" {prefix}", f" {folder}/")
    path = folder / "aegis.conf"
    path.write_text(site)
    return path


@pytest.fixture(scope="module")
def proxy(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:  # noqa: F811
    """The service, the dashboard of its database and nginx before both, each a process."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if nginx is None:
        pytest.fail(
            "This test needs nginx, to try what docs/deploy.md shows. Debian, Ubuntu: "
            "apt-get install nginx-light; macOS: brew install nginx."
        )
    folder = tmp_path_factory.mktemp("nginx")
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"),
        *("-addext", f"subjectAltName=DNS:{NAME},DNS:review.example.org,IP:127.0.0.1"),
        *("-keyout", str(folder / "aegis.key"), "-out", str(folder / "aegis.pem")),
    )
    hashed = openssl("passwd", "-6", "-stdin", given=PASSWORD)
    (folder / "aegis-viewers").write_text(f"{VERA}:{hashed}\n")
    (folder / "aegis-analysts").write_text("")

    port, plain, service_port, review_port = (free_port() for _ in range(4))
    service = started(trained, service_port)
    try:
        db = config.load(home=trained).db
        dashboard = start(db, for_s=300)
        ports = {443: port, 80: plain, 8000: service_port}
        site = written(folder, ports | {8866: dashboard.port, 8867: review_port})
        paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in KINDS_OF_PATHS)
        around = folder / "nginx.conf"
        around.write_text(AROUND.format(paths=paths, site=site))
        arguments = ["-p", str(folder), "-e", str(folder / "error.log"), "-c", str(around)]
        running = subprocess.Popen([nginx, *arguments])
        try:
            made = Proxy(port, folder, dashboard, db)
            until_it_answers(made, running)
            yield made
        finally:
            running.send_signal(signal.SIGTERM)
            ended = running.wait(15)
            dashboard.process.send_signal(signal.SIGINT)
            dashboard.process.wait(30)
        assert ended == 0
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0


def until_it_answers(proxy: Proxy, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        assert running.poll() is None, (proxy.folder / "error.log").read_text()
        try:
            proxy.status("GET", "/")
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx did not answer")


def payments(first: int, n: int) -> list[dict[str, Any]]:
    common = {"customer_id": "c1", "timestamp": "2026-03-01T12:00:00Z", "amount": 12.5}
    return [{"transaction_id": f"p{i}", **common} for i in range(first, first + n)]


def test_without_a_log_in_there_is_no_page_no_websocket_and_no_service(proxy: Proxy) -> None:
    static = "/voila/templates/aegis/static/board.css"
    wrong = {"Authorization": "Basic " + base64.b64encode(b"vera:wrong").decode()}
    for nothing in ({}, wrong, BEARER):
        for path in ("/", "/?token=x", static, "/v1/health", "/v1//health", "/v1/x/../health"):
            assert proxy.status("GET", path, nothing) == 401, path
        assert proxy.status("GET", CHANNELS, UPGRADE, V1, OURS, nothing) == 401
        review = {"Host": "review.example.org"}
        assert proxy.status("GET", "/", review, nothing) == 401
    for nothing in ({}, wrong, LOGGED_IN):
        assert proxy.ask("POST", "/v1/transactions", nothing, payments(0, 1)[0])[0] == 401
        assert proxy.status("GET", "/v1/metrics", nothing) == 401
    assert proxy.status("GET", static, LOGGED_IN) == 200
    assert proxy.status("GET", "/", {"Host": "review.example.org"}, LOGGED_IN) == 401
    log = (proxy.folder / "aegis.log").read_text()
    assert f"{VERA} GET {static} 200" in log
    assert "token" not in log


def test_the_service_answers_through_the_proxy(proxy: Proxy) -> None:
    status, told = proxy.ask("GET", "/v1/health", LOGGED_IN)
    assert (status, json.loads(told)["ready"]) == (200, True)
    status, told = proxy.ask("POST", "/v1/transactions", BEARER, payments(0, 1)[0])
    assert (status, json.loads(told)["transaction_id"]) == (200, "p0")
    large = {**payments(1, 1)[0], "merchant_id": "x" * 100_000}
    status, told = proxy.ask("POST", "/v1/transactions:batch", BEARER, [large])
    assert (status, "longer than" in str(told)) == (200, True), "it reached the service"
    for path, who, most in (("/v1/transactions", BEARER, 8 * 2**20), ("/", LOGGED_IN, 2**16)):
        assert proxy.status("POST", path, who, {"Content-Length": f"{most + 1}"}) == 413


def test_each_group_gets_its_paths_alone(proxy: Proxy) -> None:
    store = connect(proxy.db)
    given = {role: token.add(store, role, role, who="root") for role in token.ROLES}
    time.sleep(LOOK_S)
    score, casework, view = ({"Authorization": f"Bearer {given[role]}"} for role in token.ROLES)
    review = {"Host": "review.example.org"}
    proposal = {"alert_budget": 0.01}

    status, told = proxy.ask("POST", "/v1/transactions", score, payments(50, 1)[0])
    assert (status, json.loads(told)["transaction_id"]) == (200, "p50")
    assert proxy.status("GET", "/v1/transactions/p50", score) == 200
    for path in ("/v1/transactions/p50", "/v1/cases", "/v1/cases/statistics", "/v1/metrics"):
        assert proxy.status("GET", path, view) == 200, path
    assert proxy.status("GET", "/v1/cases", casework, review) == 200
    assert proxy.ask("POST", "/v1/proposals", casework | review, proposal)[0] == 201
    assert proxy.ask("POST", "/v1/cases/claim", casework | review, {})[0] == 200

    for path in ("/v1/proposals", "/v1/cases/claim", "/v1/reviews", "/v1/transactions/p50"):
        status, told = proxy.ask("POST", path, casework, proposal)
        assert (status, b"nginx" in told) == (403, True), "the proxy itself: the host is not theirs"
    for path in ("/v1/transactions", "/v1/transactions:batch", "/v1/metrics", "/v1/health"):
        for method in ("GET", "POST"):
            status, told = proxy.ask(method, path, casework | review)
            assert (status, b"nginx" in told) == (404, True), path
    for who in (score, view):
        status, told = proxy.ask("POST", "/v1/proposals", who | review, proposal)
        assert (status, "needs one for casework" in str(told)) == (403, True)
    assert proxy.ask("POST", "/v1/transactions", view, payments(51, 1)[0])[0] == 403
    assert proxy.ask("POST", "/v1/transactions", casework, payments(51, 1)[0])[0] == 403
    for role in given:
        token.revoke(store, role, who="root")
    time.sleep(LOOK_S)
    assert proxy.status("GET", "/v1/cases", view) == 401


def test_a_websocket_is_ours_and_of_the_newer_framing_or_refused(proxy: Proxy) -> None:
    legacy = {"Sec-WebSocket-Protocol": "v0"}
    assert proxy.status("GET", CHANNELS, UPGRADE, OURS, LOGGED_IN) == 426
    assert proxy.status("GET", CHANNELS, UPGRADE, legacy, OURS, LOGGED_IN) == 426
    for method, path in (("GET", CHANNELS), ("GET", "/"), ("POST", "/voila/api/shutdown/x")):
        assert proxy.status(method, path, UPGRADE, V1, THEIRS, LOGGED_IN) == 403
    assert proxy.status("GET", CHANNELS, UPGRADE, V1, OURS, LOGGED_IN) == 404, "no such kernel"


def test_the_page_opens_and_follows_through_the_proxy(proxy: Proxy) -> None:
    batch = "/v1/transactions:batch"
    assert proxy.ask("POST", batch, BEARER, payments(100, 20))[0] == 200
    errors: list[str] = []
    here = f"--host-resolver-rules=MAP {NAME}:443 127.0.0.1:{proxy.port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*QUIET, here])
        context = browser.new_context(
            ignore_https_errors=True,
            http_credentials={"username": VERA, "password": PASSWORD},
        )
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(f"https://{NAME}/", wait_until="commit")
        tile = page.locator('[data-tile="transactions"] .value')
        (judged,) = connect(proxy.db).rows("SELECT count(*) AS n FROM verdicts")
        assert judged["n"] >= 20
        expect(tile).to_have_text(f"{judged['n']}", timeout=SLOW_MS)
        assert proxy.ask("POST", batch, BEARER, payments(200, 30))[0] == 200
        expect(tile).to_have_text(f"{judged['n'] + 30}", timeout=20_000)
        expect(page.locator(".aegis-badge")).to_have_attribute("data-state", "live")
        assert errors == []
        until(lambda: len(proxy.dashboard.kernels()) == 2, 30)  # the visitor's and the next one's
        page.close(run_before_unload=True)
        until(lambda: len(proxy.dashboard.kernels()) == 1, 30)
        browser.close()
