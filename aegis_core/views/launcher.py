"""Serve the board to browsers on this machine: Voilà 0.5 with its open doors closed.

`serve` starts this module as a child process (`python -m aegis_core.views.launcher`) and ends it
again. The child holds the other end of the parent's pipe and ends by itself when that closes, so
that neither the server nor a kernel outlives the parent, however it ends.

What is closed, beside what Voilà 0.5.13 closes itself:

- a websocket speaks the newer framing (else 426), and a message that is not whole closes it;
- the page's farewell is refused for want of a cookie, and its kernel stays: the cookie is set;
- every page load starts a kernel: there is a limit on visitors;
- a page of another site may reach the server under another name for 127.0.0.1: only loopback
  names are answered;
- template and theme are fixed, whatever the address asks for;
- files beside the notebook are served by pattern: none is;
- settings, kernels and start-up scripts of the user's own Jupyter would take part: left out.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aegis_core.config import NOTEBOOK_FOLDER, Settings
from aegis_core.errors import InputError, ServerFailed
from aegis_core.machine import LOOPBACK, free_port, stop_signals
from aegis_core.views.dashboard.assets import ASSETS, plotly_js

NOTEBOOK = NOTEBOOK_FOLDER / "dashboard.ipynb"


@dataclasses.dataclass(frozen=True)
class Page:
    """A notebook that is served to browsers, and for whom.

    Parameters
    ----------
    name : what it is called in messages.
    notebook : its file.
    token : what a browser must bring to be let in; "" lets everybody on this machine in.
    environment : further variables of its kernels.
    """

    name: str = "Dashboard"
    notebook: Path = NOTEBOOK
    token: str = dataclasses.field(default="", repr=False)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


ASKED = "asked.json"
"""What the parent asks of its child, in the folder that it lays out."""
STARTS_WITHIN_S = 60.0
ENDS_WITHIN_S = 15.0
POOLED_KERNELS = 1

# The widgets' views are blob: modules, and Voilà's page has scripts in line. So the policy's use is
# that no text becomes code, and nothing is fetched from, sent to or framed by another site.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
# A report is other people's text: it may draw itself, and reach nothing, not even this site.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'none'"
)


def well_formed(message: bytes | str) -> bool:
    """Whether a websocket's message has as many parts as it tells, in the v1 protocol.

    >>> two_parts = (2).to_bytes(8, "little") + bytes(16)
    >>> well_formed(two_parts), well_formed(two_parts[:-8])
    (True, False)
    """
    if isinstance(message, str) or len(message) < 8:
        return False
    return 2 <= int.from_bytes(message[:8], "little") <= len(message) // 8 - 1


def serve(
    settings: Settings,
    port: int = 8866,
    *,
    for_s: float | None = None,
    visitors: int = 20,
    page: Page = Page(),
) -> None:
    """Serve a page, the dashboard, on the loopback interface until Ctrl-C, or for `for_s` seconds.

    Prints the address as soon as the page answers. When this returns, the server and all of its
    kernels are gone.

    Parameters
    ----------
    port : 0 takes any free one.
    visitors : How many pages may be open at a time; each has a kernel of its own, about 125 MB.
    page : What is served. One with a token prints it as part of its address.

    Raises
    ------
    InputError : The port is in use or not permitted.
    ServerFailed : The server did not start within a minute, or ended by itself.
    """
    try:
        port = free_port(port)
    except (OSError, OverflowError) as e:
        raise InputError(
            f"The dashboard cannot use port {port}: {getattr(e, 'strerror', None) or e}. Choose "
            "another with --port, or end the program that uses it (another dashboard?)."
        ) from None
    with (
        stop_signals(signal.default_int_handler, (signal.SIGTERM,)),
        tempfile.TemporaryDirectory(prefix="aegis-board-") as folder,
    ):
        _lay_out(Path(folder))
        server = _start(settings, Path(folder), port, visitors, page)
        try:
            address = f"http://{LOOPBACK}:{port}"
            # Not the page itself, which would start a kernel for nobody.
            file = "/voila/templates/aegis/static/board.css"
            if not answers(lambda: server.poll() is None, port, file, STARTS_WITHIN_S):
                raise ServerFailed(
                    f"The dashboard's server did not answer within {STARTS_WITHIN_S:.0f} s."
                    if server.poll() is None
                    else f"The dashboard's server ended at once (exit code {server.returncode})."
                )
            if page.token:
                address += f"/?token={page.token}"
            print(f"{page.name}: {address}  (Ctrl-C ends it)", flush=True)
            ended = server.wait(for_s)
            raise ServerFailed(f"The dashboard's server ended by itself (exit code {ended}).")
        except subprocess.TimeoutExpired:
            return
        except KeyboardInterrupt:
            print(f"{page.name}: ended", flush=True)
        finally:
            _end(server)


def _lay_out(folder: Path) -> None:
    """A Jupyter data folder with nothing but the board's template and this Python's kernel."""
    template = folder / "voila" / "templates" / "aegis"
    static = template / "static"
    static.mkdir(parents=True)
    for name in ("conf.json", "index.html.j2"):
        shutil.copy(ASSETS / "template" / name, template)
    for asset in (ASSETS / "template" / "favicon.svg", ASSETS / "board.css", plotly_js()):
        shutil.copy(asset, static)
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command += ["--HistoryManager.enabled=False"]  # nobody types
    command += ["--log-level=CRITICAL"]  # it complains when it is ended in the middle of a cell
    about = {
        "argv": command,
        "display_name": "Aegis",
        "language": "python",
        "metadata": {"supported_encryption": ["curve"]},
    }
    (kernel / "kernel.json").write_text(json.dumps(about))


def _start(
    settings: Settings, folder: Path, port: int, visitors: int, page: Page
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **page.environment,
        "AEGIS_HOME": str(settings.home),  # it starts in a folder of its own
        "AEGIS_DB": str(settings.db),
        "AEGIS_BOARD_DB": str(settings.db),
        "AEGIS_REPORTS": str(settings.reports),
        "AEGIS_STORM_MULTIPLE": str(settings.storm_multiple),
        "JUPYTER_PATH": str(folder),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_NO_CONFIG": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "OPENBLAS_NUM_THREADS": "1",  # each thread of each kernel keeps memory
        "MALLOC_ARENA_MAX": "2",
    }
    # In a file, for the token's sake: everybody on the machine sees arguments.
    asked = {"visitors": visitors, "voila": voila_settings(port, page.notebook, page.token)}
    with open(os.open(folder / ASKED, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asked, file)
    command = [sys.executable, "-m", "aegis_core.views.launcher"]
    # A session of its own: Ctrl-C reaches the parent only, which then ends the child in order.
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, start_new_session=True, cwd=folder
    )


def answers(alive: Callable[[], bool], port: int, path: str, within_s: float) -> bool:
    """Whether a server that is starting gives what is at `path`, before it ends or time is up."""
    deadline = time.monotonic() + within_s
    while alive() and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass  # not yet
        finally:
            connection.close()
        time.sleep(0.1)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()  # its kernels see that their parent is gone and end
        server.wait()


def voila_settings(port: int, notebook: Path, token: str) -> dict[str, dict[str, Any]]:
    """Voilà's configuration, by class."""
    return {
        "Voila": {
            **({"token": token} if token else {}),
            "ip": LOOPBACK,
            "port": port,
            "port_retries": 0,
            "open_browser": False,
            "log_level": "ERROR",
            "notebook_path": str(notebook),
            "config_file_paths": [],
            "tornado_settings": {
                "allow_remote_access": False,
                "headers": {
                    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
                    "Referrer-Policy": "same-origin",
                },
            },
        },
        "VoilaConfiguration": {
            "template": "aegis",
            "strip_sources": True,
            "show_tracebacks": False,
            "allow_template_override": "NO",
            "allow_theme_override": "NO",
            "file_allowlist": ["(?!)"],
            "file_denylist": [".*"],
            "extension_allowlist": [
                "@jupyter-widgets/jupyterlab-manager",
                "@voila-dashboards/widgets-manager8",
                "anywidget",
            ],
            "preheat_kernel": True,
            "default_pool_size": POOLED_KERNELS,
        },
        "MappingKernelManager": {
            "cull_interval": 30,
            "cull_idle_timeout": 60,
            "buffer_offline_messages": False,
        },
        # A kernel ends itself when its visitor is gone; restarted, it would run for nobody.
        "KernelManager": {"autorestart": False, "transport_encryption": "auto"},
    }


async def without_dead(manager: Any) -> None:
    """Replace kernels that were started for the next visitors and are dead.

    A page that was given one would wait a minute for an answer that never comes.
    """
    from jupyter_core.utils import ensure_async

    for notebook, pool in manager._pools.items():
        for started in [task for task in pool if task.done()]:
            failed = started.cancelled() or started.exception()
            kernel_id = "" if failed else started.result()["kernel_id"]
            known = kernel_id in manager
            if not (known and await ensure_async(manager.is_alive(kernel_id))) and started in pool:
                pool.remove(started)
                if known:
                    await ensure_async(manager.shutdown_kernel(kernel_id, now=True))
        manager.fill_if_needed(delay=0, notebook_name=notebook)


def main() -> None:
    """The child process: Voilà until the pipe from the parent closes."""
    import tornado.ioloop
    import tornado.web
    import tornado.websocket
    import voila.app
    from jupyter_server.base.handlers import JupyterHandler
    from traitlets.config import Config
    from voila.tornado.handler import TornadoVoilaHandler
    from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

    asked = json.loads(Path(ASKED).read_text())  # in this folder, which is the parent's

    class Channels(VoilaKernelWebsocketHandler):  # type: ignore[misc]
        async def get(self, *args: Any, **kwargs: Any) -> Any:
            offered = self.request.headers.get("Sec-WebSocket-Protocol", "").strip()
            if offered != "v1.kernel.websocket.jupyter.org":
                raise tornado.web.HTTPError(426)
            return await super().get(*args, **kwargs)

        def on_message(self, message: bytes | str) -> None:
            if well_formed(message):
                super().on_message(message)
            else:
                self.close(1002)

    class Page(TornadoVoilaHandler):  # type: ignore[misc]
        loading = 0

        async def get(self, path: str | None = None) -> None:
            open_pages = len(self.kernel_manager) - POOLED_KERNELS + Page.loading
            if open_pages >= asked["visitors"]:
                raise tornado.web.HTTPError(503, "as many visitors as the server admits")
            _ = self.xsrf_token  # reading it sets the cookie that the page's farewell needs
            Page.loading += 1
            try:
                await without_dead(self.kernel_manager)
                await super().get(path)
            finally:
                Page.loading -= 1

    class Report(JupyterHandler):
        @tornado.web.authenticated
        def get(self, run_id: str) -> None:
            path = Path(os.environ["AEGIS_REPORTS"]) / run_id / "report.html"
            if not path.is_file():
                raise tornado.web.HTTPError(404)
            self.set_header("Content-Security-Policy", REPORT_POLICY)
            self.set_header("X-Content-Type-Options", "nosniff")
            self.finish(path.read_bytes())

    class Server(voila.app.Voila):  # type: ignore[misc]
        def init_handlers(self) -> list[Any]:
            reports = rf"{self.base_url}aegis/reports/([A-Za-z0-9][A-Za-z0-9_-]*)"
            return [(reports, Report), *super().init_handlers()]

    def end_with_the_parent(loop: tornado.ioloop.IOLoop) -> None:
        os.read(0, 1)  # not sys.stdin, whose lock a thread must not hold when Python ends
        logging.disable()  # what is cut short now is nobody's concern
        loop.add_callback(loop.stop)

    def worth_telling(record: logging.LogRecord) -> bool:
        """Whether it is anything but a page that was left while a message was on its way."""
        return not (
            record.exc_info
            and isinstance(record.exc_info[1], tornado.websocket.WebSocketClosedError)
        )

    logging.getLogger("asyncio").addFilter(worth_telling)
    # Jupyter gives tornado milliseconds for seconds, and tornado says so.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    voila.app.VoilaKernelWebsocketHandler = Channels
    voila.app.TornadoVoilaHandler = Page
    server = Server(config=Config(asked["voila"]))
    server.initialize([])
    watcher = threading.Thread(
        target=end_with_the_parent, args=[tornado.ioloop.IOLoop.current()], daemon=True
    )
    watcher.start()
    server.start()


if __name__ == "__main__":
    main()
