"""The owner's side of the database: one open file, one writer, any number of readers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aegis_core.errors import StoreError
from aegis_core.store.connection import Connection, load_quack, translated
from aegis_core.store.gate import Gate, Limits
from aegis_core.store.session import PROGRESS_WITHOUT_BAR

_LAST_READINGS_S = 5.0
# Folding the log into the file writes the newest row group anew: at 16 MB, as DuckDB has it, that
# was a third of what a row of a batch costs. To replay 55 MB after a kill took a second.
_SETTINGS = """
    SET GLOBAL TimeZone = 'UTC';
    SET GLOBAL checkpoint_threshold = '64MB';
    SET python_enable_replacements = false;
    SET enable_external_access = false;
    SET lock_configuration = true
"""


class Held:
    """A database file that stays open, and connections to it.

    Parameters
    ----------
    connection : The first one; it belongs to this object from now on.
    limits : What those who attach may use; None lets nobody attach.
    """

    def __init__(self, connection: Connection, limits: Limits | None = None) -> None:
        self._root = connection
        self.gate: Gate | None = None
        if limits is not None:
            load_quack(connection)
            self.gate = Gate(connection, limits)
        self.writer: Connection = connection.cursor()
        self.writer.execute(PROGRESS_WITHOUT_BAR)
        self.writer.execute(_SETTINGS)
        self._readings: set[Connection] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._settle: Callable[[], object] | None = None

    def settle_with(self, settle: Callable[[], object] | None) -> None:
        """Call `settle` before each reading and writing, also of those who attached."""
        self._settle = settle
        if self.gate is not None:
            self.gate.settle = settle

    @property
    def scores(self) -> bool:
        """Whether an engine is at work, which alone knows what arrived last."""
        return self._settle is not None

    def settle(self) -> None:
        """Bring what was answered into the tables."""
        if self._settle is not None:
            self._settle()

    @contextmanager
    def reading(self, *, settled: bool = True) -> Iterator[Connection]:
        """A connection in a read-only transaction of its own, which may make temporary tables."""
        if settled:
            self.settle()
        with self._changed:
            if self._closing:
                raise StoreError("The database was closed by its owner.")
            connection = self._root.cursor()
            self._readings.add(connection)
        try:
            with translated():
                connection.execute("BEGIN TRANSACTION READ ONLY")
            yield connection
        finally:
            connection.close()
            with self._changed:
                self._readings.remove(connection)
                self._changed.notify_all()

    def replace_writer(self) -> None:
        """Take a new connection to write with, after a transaction that failed.

        The old one may be left inside of it: out of memory, DuckDB cannot roll back either.
        """
        self.writer.close()
        self.writer = self._root.cursor()

    def close(self) -> None:
        """End readings that go on, fold the log into the file and let go of it."""
        if self.gate is not None:
            self.gate.close()
        deadline = time.monotonic() + _LAST_READINGS_S
        with self._changed:
            self._closing = True
            while self._readings and time.monotonic() < deadline:
                for connection in self._readings:
                    connection.interrupt()
                self._changed.wait(0.05)
        self.writer.close()
        self._root.close()
