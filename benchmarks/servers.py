"""What is measured, as processes of their own: started, watched through /proc, ended in any case.

A scratch home is all that a service needs: a generated history, a champion, a token. The settings
are given in full, so that no variable and no `aegis.toml` of the caller leads to other data.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import numpy as np

from aegis_core import config
from aegis_core.config import Settings
from aegis_core.detection.training import train
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.store import Store, connect

HERE: Final = Path(__file__).parent
END_S: Final = 60.0
"""How long a process may take to end by itself before it is killed."""
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


class Failed(Exception):
    """Something that is measured did not start, or did not do what it was asked."""


@dataclass
class Server:
    """A server on the loopback interface, in a process of its own.

    Attributes
    ----------
    ready_s : from the start of the process to its first 200 at `/v1/health`, in seconds.
    log : what it says.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    port: int
    process: subprocess.Popen[bytes]
    ready_s: float = 0.0

    @property
    def url(self) -> str:
        """Where it takes single payments."""
        return f"http://127.0.0.1:{self.port}/v1/transactions"

    def cpu_s(self) -> float | None:
        """Processor time of it and its children so far, in seconds; None where nothing tells."""
        parts = [_stat(pid) for pid in family(self.process.pid)]
        known = [sum(map(int, part[11:15])) for part in parts if part]
        return sum(known) * _TICK_S if known else None

    def rss_mb(self) -> float | None:
        """Memory of it and its children that is in RAM, in MB; None where nothing tells."""
        pages = []
        for pid in family(self.process.pid):
            with contextlib.suppress(OSError, IndexError):
                pages.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]))
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else None

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """Ask it to end; kill it where it does not."""
        try:
            self.process.terminate()
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not end within {END_S:g} s and is killed.", file=sys.stderr)
        finally:
            self.kill()


def start(
    name: str,
    command: Sequence[str],
    log: Path,
    *,
    environment: dict[str, str] | None = None,
    port: int = 0,
    ready_within_s: float = 300.0,
) -> Server:
    """Start a server and wait until it answers 200 at `/v1/health`.

    Parameters
    ----------
    command : in which `{port}` becomes the port.
    port : 0 takes any free one.

    Raises
    ------
    Failed
        It ended, or was not ready in time; what it said last is in the message.
    """
    port = port or free_port()
    given = [part.format(port=port) for part in command]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
    environment = clean | (environment or {})
    with log.open("ab") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            given, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us, and we end it
        )  # fmt: skip
    server = Server(name, command, environment, log, port, process)
    try:
        while not healthy(port):
            if process.poll() is not None or time.perf_counter() - began > ready_within_s:
                said = log.read_text("utf-8", "replace")[-2_000:]
                raise Failed(f"{name} did not get ready. It said:\n{said}")
            time.sleep(0.01)
    except BaseException:
        server.kill()
        raise
    server.ready_s = time.perf_counter() - began
    return server


def again(server: Server, ready_within_s: float = 300.0) -> Server:
    """The same server anew, at the same port."""
    return start(
        server.name, server.command, server.log,
        environment=server.environment, port=server.port, ready_within_s=ready_within_s,
    )  # fmt: skip


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Ended with the block, whatever happens in it."""
    try:
        yield server
    finally:
        server.end()


def healthy(port: int) -> bool:
    """Whether `/v1/health` answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def aegis(home: Home, *, ready_within_s: float = 300.0) -> Server:
    """`aegis serve` on a scratch home."""
    return start(
        "Aegis", [sys.executable, "-m", "aegis_core.cli", "serve", "--port", "{port}"],
        home.folder / "service.log", environment=home.environment, ready_within_s=ready_within_s,
    )  # fmt: skip


@dataclass(frozen=True)
class Home:
    """A folder with a history and a champion, and the token of its service."""

    folder: Path
    settings: Settings
    population: SyntheticConfig

    @property
    def token(self) -> str:
        """What requests must bring."""
        return self.settings.token.get_secret_value()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a process here and nowhere else."""
        s = self.settings
        paths = {"HOME": s.home, "DB": s.db, "MODELS": s.models, "REPORTS": s.reports}
        own = {"AEGIS_TOKEN": self.token, "AEGIS_FUTURE_MINUTES": "0"}  # payments have a clock
        return {f"AEGIS_{name}": str(p) for name, p in paths.items()} | own

    def store(self) -> Store:
        """The database, attached to its service where one runs."""
        return connect(self.settings.db)


def make_home(folder: Path, n_transactions: int, *, trained: bool = True) -> Home:
    """A new home in `folder`: ninety days of a customer for each twenty transactions."""
    folder.mkdir(parents=True)
    token = secrets.token_urlsafe(24)
    settings = config.load(
        home=folder, db=folder / "data" / "aegis.duckdb", models=folder / "data" / "models",
        reports=folder / "reports", token=token,
        future_minutes=0.0,
    )  # fmt: skip
    population = SyntheticConfig(
        n_transactions=n_transactions, n_customers=max(50, n_transactions // 20)
    )
    store = connect(settings.db)
    write_history(store, population, progress=False)
    if trained:
        train(store, settings)
    return Home(folder, settings, population)


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder that is removed afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent, ignore_cleanup_errors=True) as f:
        yield Path(f)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and a hang-up end the block as Ctrl-C does, also where a shell ignores Ctrl-C."""

    asked = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    wanted = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    except Exception:
        if asked:  # what it interrupted, DuckDB for one, may tell of it in its own way
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def disk(folder: Path, n: int = 300, size: int = 512) -> dict[str, float]:
    """How long the disk under `folder` takes to keep `size` bytes that were appended.

    Returns
    -------
    dict
        `p50_ms` and `p99_ms` of `n` writes, each with fdatasync.
    """
    path, block, took = folder / "disk", os.urandom(size), []
    keep = getattr(os, "fdatasync", os.fsync)
    with path.open("wb", buffering=0) as f:
        for _ in range(n):
            began = time.perf_counter()
            f.write(block)
            keep(f.fileno())
            took.append(time.perf_counter() - began)
    path.unlink()
    p50, p99 = np.quantile(took, (0.5, 0.99)) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


class Others:
    """How much of the machine others took since this was made: a busy one makes figures worse."""

    def __init__(self) -> None:
        self._began, self._busy, self._ours = time.perf_counter(), _busy_s(), _ours_s()

    def share(self) -> float | None:
        """Share of all cores in [0, 1], without us and our children that ended; None if unknown."""
        busy, cores = _busy_s(), os.cpu_count() or 1
        if busy is None or self._busy is None:
            return None
        theirs = busy - self._busy - (_ours_s() - self._ours)
        return min(1.0, max(0.0, theirs / (time.perf_counter() - self._began) / cores))


def children_s() -> float:
    """Processor time of the children that have ended and were waited for, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family(pid: int) -> list[int]:
    """A process and all that descend from it; nothing where nothing tells."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ours_s() -> float:
    return time.process_time() + children_s()


def _busy_s() -> float | None:
    """Processor time of the whole machine so far, in seconds; None where nothing tells."""
    try:
        told = [int(part) for part in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, *interrupts_and_stolen = told
    return (user + nice + system + sum(interrupts_and_stolen)) * _TICK_S


def _stat(pid: int) -> list[str]:
    """What follows the name in /proc/PID/stat; empty where there is nothing."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []
