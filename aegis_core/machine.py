"""The machine below: its clock, private files, files written whole, CSV, locks, signals, ports."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

LOOPBACK: Final = "127.0.0.1"
STOPS: Final = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and how schedulers and service managers end a process."""


def utc_now() -> datetime:
    """The time in UTC without a zone, to the microsecond, as the tables have it."""
    return datetime.now(UTC).replace(tzinfo=None)


def utc_now_us() -> int:
    """The time in microseconds since 1970, as columns of times hold it."""
    return time.time_ns() // 1_000


class _Umask:
    """The umask of the process, and how many ask that it leaves others nothing."""

    lock, asking, before = threading.Lock(), 0, 0


@contextlib.contextmanager
def private() -> Iterator[None]:
    """What is made in the block is its owner's alone from the first byte, whatever the umask.

    That holds for the whole process, in every thread, and for processes that it starts meanwhile.
    """
    with _Umask.lock:
        if not _Umask.asking:
            _Umask.before = os.umask(0o077)
        _Umask.asking += 1
    try:
        yield
    finally:
        with _Umask.lock:
            _Umask.asking -= 1
            if not _Umask.asking:
                os.umask(_Umask.before)


INERT: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a text begins that a spreadsheet takes for a formula."""


def inert(text: str) -> str:
    """A text with an apostrophe before it where a spreadsheet would take it for a formula.

    >>> inert("=HYPERLINK(1)"), inert(" @SUM(1)"), inert("a=b")
    ("'=HYPERLINK(1)", "' @SUM(1)", 'a=b')
    """
    plain = text.replace("\0", "")
    return f"'{plain}" if plain.lstrip().startswith(INERT) or plain[:1] in "\t\r\n" else plain


def write_csv(
    out: TextIO, names: Iterable[str], rows: Iterable[Iterable[Any]], end: str = "\n"
) -> None:
    """Comma-separated values with a header, in which no text is a formula to a spreadsheet."""
    writer = csv.writer(out, lineterminator=end)
    writer.writerow(map(inert, names))
    for row in rows:
        numbers = (int, float, Decimal, type(None))
        writer.writerow([v if isinstance(v, numbers) else inert(str(v)) for v in row])


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` at the end of the block.

    Whoever reads `path` meanwhile, or after a crash, sees what was there or all that is new. What
    was there stays where the block raises.
    It is its owner's alone.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(2)}")
    try:
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield fresh
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def try_lock(handle: int) -> bool:
    """Whether an open file could be locked; the system lets go when the process ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, wait_s: float | None = 0.0, every_s: float = 0.005) -> Iterator[int]:
    """Hold the lock of a file, which is made where it is missing; its open handle.

    Parameters
    ----------
    wait_s : how long to wait while another holds it, in seconds; None: for ever.
    every_s : how often to look.

    Raises
    ------
    BlockingIOError : Another held it for `wait_s`.
    OSError : The file can be neither made nor opened.
    """
    began = time.monotonic()
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if try_lock(handle) and _is_at(handle, path):
                yield handle
                return
        finally:
            os.close(handle)
        if wait_s is not None and time.monotonic() - began > wait_s:
            raise BlockingIOError(f"{path} is locked")
        time.sleep(every_s)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`: who held it before may have removed it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


@contextlib.contextmanager
def stop_signals(
    stop: Callable[[int, FrameType | None], object], numbers: tuple[signal.Signals, ...] = STOPS
) -> Iterator[None]:
    """Let signals call `stop` inside of the block; outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port(port: int) -> int:
    """`port`, which is free on the loopback interface; 0 stands for any that is.

    Raises
    ------
    OSError : It is taken, or not permitted.
    OverflowError : It is no port.
    """
    with socket.socket() as probe:
        if os.name == "posix":  # a port that the last server has just left is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        return int(probe.getsockname()[1])
