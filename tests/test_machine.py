"""What the machine below gives: a clock in UTC, whole files, locks, signals, ports."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aegis_core import machine


def test_the_clock_is_in_utc_and_says_no_zone() -> None:
    now = machine.utc_now()
    assert now.tzinfo is None
    assert abs(datetime.now(UTC) - now.replace(tzinfo=UTC)) < timedelta(seconds=5)
    assert abs(machine.utc_now_us() - now.replace(tzinfo=UTC).timestamp() * 1e6) < 5e6


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), machine.written_whole(path) as fresh:
        fresh.write_text(f"half {1 / 0}")
    assert path.read_text() == "before"
    with machine.written_whole(path) as fresh:
        fresh.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_one_at_a_time_holds_a_lock_and_the_next_waits_for_it(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def second() -> None:
        with machine.locked(path, 10):
            order.append("second")

    with machine.locked(path):
        with pytest.raises(BlockingIOError), machine.locked(path):
            order.append("never")
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.05)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_lock_whose_file_was_removed_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with machine.locked(path) as first:
        path.unlink()
        with machine.locked(path) as second:
            assert os.fstat(first).st_ino != os.fstat(second).st_ino


def test_what_a_block_raises_is_not_taken_for_a_lock_that_is_held(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), machine.locked(tmp_path / "lock"):
        raise FileNotFoundError("mine")
    with machine.locked(tmp_path / "lock"):
        pass


def test_signals_are_heard_inside_of_the_block_alone() -> None:
    heard: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with machine.stop_signals(lambda number, frame: heard.append(number)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_port_that_is_taken_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind((machine.LOOPBACK, 0))
        listener.listen()
        taken = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            machine.free_port(taken)
        assert machine.free_port(0) not in (0, taken)
    with pytest.raises(OverflowError):
        machine.free_port(70_000)
