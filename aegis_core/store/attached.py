"""The database through its owner: whole statements run there, and their answers come back.

A reading asks the readers' listener: each statement sees the newest commit. A writing is one
transaction of the owner's, on one connection of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from aegis_core.errors import AegisError, InputError, StoreBusy, StoreError
from aegis_core.store.connection import (
    READ_ONLY,
    Connection,
    Result,
    empty,
    literal,
    load_quack,
    quoted,
    translated,
    with_values,
)
from aegis_core.store.endpoint import STOP, Asker, Endpoint
from aegis_core.store.session import Params, Session

if TYPE_CHECKING:
    import pyarrow as pa

_SETTINGS = {
    # A statement that was sent again could be run twice, so nothing is.
    "threads": 2,
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
}
_KEPT_S = 600.0  # the owner parts from whom it has not heard of for an hour
_SIGNS_OF_AN_END = ("Could not connect", "Connection refused", "connect to server", "HTTP", "curl")
_SIGNS_OF_A_STATE = (
    *("Constraint", "constraint", "Duplicate key", "Out of Memory", "No space", "aborted"),
    *("The query was ended", "was busy", "Conflict", "conflict"),
)


class AttachedSession(Session):
    """One block on a connection of the owner's; `at_work` while a long statement goes on."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        writable: bool,
        board: bool,
        stop: Callable[[str], object],
    ) -> None:
        super().__init__(connection, writable=writable, owned=True, scores=True)
        self._name = name
        self._failed = False
        self._asker = Asker.me(board=board)
        self._stop_by = stop
        self.at_work = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block; roll back on an error."""
        self._failed = False
        with super().transaction():
            yield
            if self._failed:  # a commit of what failed would say nothing
                self.execute("SELECT 1")

    def _beside(self, work: Callable[[], Result]) -> Result:
        def counted() -> Result:
            self.at_work = True
            try:
                return work()
            finally:
                self.at_work = False

        return super()._beside(counted)

    def _stop(self) -> None:
        """Have the owner end what it does for this block; a writing goes on to its end."""
        if not self.writable:
            self._stop_by(self._asker.key)

    def watched(self, sql: str, params: Params, tell: Callable[[float], object]) -> None:
        """Run a statement; how far it is, the owner does not say until it is done."""
        self.execute(sql, params)
        tell(1.0)

    @contextmanager
    def lent(self, name: str, rows: pa.Table) -> Iterator[None]:
        """Let SQL see an Arrow table under `name`: it is sent into a temporary table."""
        if not self.writable:
            raise InputError("A reading of an owned database cannot take rows along.")
        with super().lent(name, rows):
            described = self._connection.execute(f"DESCRIBE FROM {quoted(name)}").fetchall()
            columns = ", ".join(f"{quoted(column)} {kind}" for column, kind, *_ in described)
            self.execute(f"CREATE TEMP TABLE {quoted(name)} ({columns})")
            with self._noted():
                self._connection.execute("CALL quack_clear_cache()")
                self._connection.execute(
                    f"INSERT INTO {self._name}.{quoted(name)} FROM {quoted(name)}"
                )
        try:
            yield
        finally:
            with suppress(AegisError):
                self.execute(f"DROP TABLE IF EXISTS temp.{quoted(name)}")

    def _insert(self, table: str, names: Sequence[str], rows: pa.Table) -> None:
        columns = ", ".join(map(quoted, names))
        with super().lent("aegis_appended", rows), self._noted():
            self._connection.execute(
                f"INSERT INTO {self._name}.{quoted(table)} ({columns}) "
                f"SELECT {columns} FROM aegis_appended"
            )

    def _ran(self, sql: str, params: Params = None) -> Connection:
        text = with_values(sql, params)
        if not text.strip(" \n\t;"):
            raise InputError("There is no statement to run; it is empty.")
        if not self.writable:
            text = f"{self._asker}{text}"
        with self._noted():
            return self._connection.execute(f"FROM {self._name}.query({literal(text)})")

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except InputError as e:
            self._failed = True
            told = str(e).removeprefix("Invalid Input Error: ")
            if told == "Authorization failed":
                raise InputError(READ_ONLY) from e
            if "Invalid connection id" in told:
                raise StoreError(
                    "The owner of the database gave this block up because nothing was asked for "
                    "a while; what it had not committed is not there."
                ) from e
            kind = StoreError if any(sign in told for sign in _SIGNS_OF_A_STATE) else InputError
            raise kind(told) from e
        except AegisError:
            self._failed = True
            raise


class Attached:
    """Connections to an owner, kept for the next block.

    Parameters
    ----------
    endpoint : Where the owner answers.
    board : Whether the queries are a board's, which have turns of their own.

    Attributes
    ----------
    answers : False once the owner did not answer.
    """

    def __init__(self, endpoint: Endpoint, *, board: bool = False) -> None:
        self.endpoint, self.board = endpoint, board
        self._root = empty(_SETTINGS)
        load_quack(self._root)
        with translated():
            self._root.execute("SET http_retries = 0; SET http_timeout = 3600")
        self._free: dict[bool, list[tuple[Connection, str, float]]] = {True: [], False: []}
        self._made = 0
        self._lock = threading.Lock()
        self.answers = True

    def reached(self) -> bool:
        """Whether the owner answers; what it left behind may outlive it."""
        try:
            connection, name = self._connection(writable=False)
        except StoreError:
            self.answers = False
        else:
            self._free[False].append((connection, name, time.monotonic()))
        return self.answers

    @contextmanager
    def session(self, *, writable: bool) -> Iterator[Session]:
        """A block on a connection of the owner's, a transaction if writable; or `StoreBusy`."""
        connection, name = self._connection(writable)
        session = AttachedSession(
            connection, name, writable=writable, board=self.board, stop=self._stop
        )
        whole = False
        try:
            if writable:
                with session.transaction():
                    yield session
            else:
                yield session
            whole = True
        except InputError:
            whole = not writable
            raise
        except StoreError as e:
            if any(sign in str(e) for sign in _SIGNS_OF_AN_END):
                self.answers = False
                raise StoreBusy(
                    "The service that owned the database ended in the middle. Run it again: "
                    "what was not committed is not there."
                ) from e
            raise
        finally:
            with self._lock:
                if whole:
                    self._free[writable].append((connection, name, time.monotonic()))
            if not whole and not session.at_work:
                with suppress(AegisError), translated():
                    connection.execute(f"DETACH {name}")

    def _stop(self, key: str) -> None:
        """Ask the owner, on another connection, to end the queries of a block."""
        connection, name = self._connection(writable=False)
        with translated():
            connection.execute(f"FROM {name}.query({literal(STOP + key)})").fetchall()
        self._free[False].append((connection, name, time.monotonic()))

    def _connection(self, writable: bool) -> tuple[Connection, str]:
        with self._lock:
            while self._free[writable]:
                connection, name, since = self._free[writable].pop()
                if time.monotonic() - since < _KEPT_S:
                    return connection, name
            self._made += 1
            name = f"aegis_{self._made}"
            connection = self._root.cursor()
        found = self.endpoint
        address, token = found.readers, found.readers_token
        if writable:
            address, token = found.writers, found.writers_token
        with translated():
            connection.execute("SET TimeZone = 'UTC'")  # each connection has its own
            connection.execute(f"ATTACH {literal(address)} AS {name} (TOKEN {literal(token)})")
        return connection, name
