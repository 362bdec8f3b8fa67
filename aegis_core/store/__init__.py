"""The DuckDB file: opened for one statement or one block, then let go; or owned for long.

DuckDB lets one process write a file *or* many read it. So a `Store` holds the file only while a
statement or a `with` block runs, and an analyst's notebook, the stream and the dashboard take
turns; each opening waits, up to `wait_s`, while another process holds the file. A process that
writes all the time holds it inside of `owned()` instead.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis_core.errors import (
    ColumnError,
    NotReady,
    StoreBusy,
    StoreError,
    StoreVersion,
    did_you_mean,
)
from aegis_core.schema import MIGRATIONS, SCHEMA_VERSION, TABLES, TRANSACTION_COLUMNS
from aegis_core.store.attached import Attached
from aegis_core.store.connection import opened
from aegis_core.store.endpoint import Endpoint, find, publish, started, withdraw
from aegis_core.store.gate import Limits
from aegis_core.store.owner import Held
from aegis_core.store.session import Params, Session

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

_LONGEST_WAL = "512KB"  # every opening replays it, about 20 ms for each 100 KB


def connect(path: Path | str | None = None, *, wait_s: float = 30.0) -> Store:
    """A store on the DuckDB file at `path`; None means the one of the settings.

    No file is opened yet; a missing one is created by the first `writing()`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = connect(Path(folder) / "a.duckdb")
    ...     with store.writing() as session:
    ...         _ = session.execute("INSERT INTO labels VALUES ('t1', true, NULL, now(), NULL, -1)")
    ...     store.rows("SELECT transaction_id, is_fraud FROM labels")
    [{'transaction_id': 't1', 'is_fraud': True}]
    """
    if path:
        return Store(Path(path), wait_s=wait_s)
    from aegis_core import config  # 10 MB, which a visitor's kernel does without

    return Store(config.load().db, wait_s=wait_s)


class Store:
    """A DuckDB file that processes and threads share by taking turns.

    Parameters
    ----------
    path
        The file. It need not exist until something is read.
    wait_s
        How long an opening waits while others hold the file, in seconds.
    """

    def __init__(self, path: Path | str, *, wait_s: float = 30.0) -> None:
        self.path = Path(path).expanduser().absolute()
        self.wait_s = wait_s
        self._turn = threading.RLock()
        self._of_this_thread = threading.local()
        self._held: Held | None = None
        self._attached: Attached | None = None

    @property
    def _session(self) -> Session | None:
        """The session of the block that this thread is in."""
        session: Session | None = getattr(self._of_this_thread, "session", None)
        return session

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Several statements on one read-only opening, so that they see the same state.

        Inside a `writing()` block of the same store it is that block's session.

        Raises
        ------
        NotReady
            There is no database, or nothing was ever written to it.
        StoreBusy
            Another process held the file for `wait_s`.
        FileUnreadable, StoreVersion
            The file is no DuckDB database, or one of another version.
        """
        if self._session is not None:
            yield self._session
            return
        if self._held is not None:
            with (
                self._held.reading() as connection,
                self._as_session(Session(connection, writable=False, owned=True)) as session,
            ):
                yield session
            return
        if (attached := self._owner()) is not None:
            with attached.session(writable=False) as session, self._as_session(session):
                yield session
            return
        with self._in_turn():
            if not self.path.exists():
                raise NotReady(
                    f"There is no database at {self.path}. Make one with `aegis import FILE` or "
                    "`aegis run generate`, or name another with --db."
                )
            with self._opened(read_only=True) as session:
                older = self._version(session, self._tables(session)) < SCHEMA_VERSION
                if not older:
                    yield session
                    return
            with self.writing():
                pass  # brings it up to date
            with self._opened(read_only=True) as session:
                yield session

    @contextmanager
    def writing(self, *, checkpoint: bool = True) -> Iterator[Session]:
        """One opening and ONE transaction: committed at the end, rolled back on an error.

        Creates the file and its tables where they are missing. A `writing()` inside joins the
        block outside.

        Parameters
        ----------
        checkpoint
            Whether the file alone holds everything afterwards. False leaves the last half
            megabyte or so, as safely, in the `.wal` file beside it, and suits many small blocks:
            50 rows onto 1.75 million took 40 ms instead of 190 ms.

        Raises
        ------
        StoreError
            Called inside a `reading()` block of the same store, or the file cannot be written.
        StoreBusy
            Another process held the file for `wait_s`.
        """
        if self._session is not None:
            if not self._session.writable:
                raise StoreError("writing() inside a reading() block; end that block first.")
            yield self._session
            return
        with self._in_turn():
            if self._held is not None:
                owned = Session(self._held.writer, writable=True, owned=True)
                try:
                    with self._as_session(owned) as session, session.transaction():
                        yield session
                except BaseException:
                    self._held.replace_writer()
                    raise
                return
            if (attached := self._owner()) is not None:
                with attached.session(writable=True) as session, self._as_session(session):
                    yield session
                return
            self._make_folder()
            with self._opened(read_only=False) as session:
                if not checkpoint:
                    session.execute("PRAGMA disable_checkpoint_on_shutdown")
                    session.execute(f"SET checkpoint_threshold = '{_LONGEST_WAL}'")
                with session.transaction():
                    self._create_tables(session)
                    yield session

    @contextmanager
    def owned(
        self, *, wait_s: float = 1.0, limits: Limits | None = None
    ) -> Iterator[Endpoint | None]:
        """Hold the file for the length of the block, as the one process that may.

        Inside, `reading()` and `writing()` of this store use connections to the file that stays
        open: a commit costs a write to its log and no opening. Readings of other threads go on
        beside a writing and see what was committed before them. Neither can reach files or the
        network, settings are locked, and `checkpoint` has no meaning: the log is folded into the
        file now and then, and at the end of the block.

        Parameters
        ----------
        wait_s
            How long to wait while others hold the file, in seconds.
        limits
            Given, other processes attach through DuckDB's own client-server protocol, on the
            loopback interface: `connect` finds the addresses in a file beside the database, and
            another file beside it may be handed to those who shall only read. The block gets
            them too.

        Raises
        ------
        StoreBusy
            Another process held the file for `wait_s`, or owns it.
        """
        with self._in_turn():
            if self._held is not None:
                raise StoreError(f"{self.path} is owned by this store already.")
            self._make_folder()
            connection = opened(self.path, read_only=False, wait_s=wait_s)
            try:
                session = Session(connection, writable=True)
                with session.transaction():
                    self._create_tables(session)
                held = Held(connection, limits)
            except BaseException:
                connection.close()
                raise
            self._held = held
        endpoint = self._published(held)
        try:
            yield endpoint
        finally:
            if endpoint is not None:
                withdraw(self.path, endpoint)
            with self._turn:  # a writing in the middle ends first
                self._held = None
                held.close()

    def require_no_service(self) -> None:
        """Refuse to write transactions beside a process that owns the database.

        Raises
        ------
        StoreBusy
            There is one: its memory would not know of them.
        """
        if self._held is None and self._owner() is not None:
            raise StoreBusy(
                f"A service owns {self.path} and alone writes transactions. Send them to it "
                "(`aegis run simulate -p target http://…`), or end it first."
            )

    def query(self, sql: str, params: Params = None) -> pd.DataFrame:
        """One read-only query as a pandas frame."""
        with self.reading() as session:
            return session.query(sql, params)

    def arrow(self, sql: str, params: Params = None) -> pa.Table:
        """One read-only query as an Arrow table, without importing pandas."""
        with self.reading() as session:
            return session.arrow(sql, params)

    def numpy(self, sql: str, params: Params = None) -> dict[str, np.ndarray]:
        """One read-only query as arrays by column name; see `Session.numpy`."""
        with self.reading() as session:
            return session.numpy(sql, params)

    def rows(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """One read-only query as one dictionary a row."""
        with self.reading() as session:
            return session.rows(sql, params)

    def transactions(
        self,
        where: str = "true",
        params: Params = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Transactions in order of arrival.

        Parameters
        ----------
        where
            An SQL condition on the columns of `transactions`, such as `"ts < ?"`.
        columns
            The columns wanted; None means all.

        Raises
        ------
        ColumnError
            A column is not one of `schema.TRANSACTION_COLUMNS`.
        """
        wanted = list(columns) if columns is not None else list(TRANSACTION_COLUMNS)
        if unknown := [name for name in wanted if name not in TRANSACTION_COLUMNS]:
            raise ColumnError(
                f"transactions has no column {unknown}; it has {list(TRANSACTION_COLUMNS)}."
                + did_you_mean(unknown[0], TRANSACTION_COLUMNS)
            )
        return self.query(
            f"SELECT {', '.join(wanted)} FROM transactions WHERE {where} ORDER BY seq",
            params,
        )

    def data_hash(self, where: str = "true", params: Params = None) -> str:
        """A short hash of the transactions that `where` selects and of their labels.

        It does not depend on the order in which rows are stored, and changes when any value of
        any of these rows does. Stable for one version of DuckDB.
        """
        label_columns = "transaction_id, is_fraud, scenario, known_at"
        chosen = f"SELECT transaction_id FROM transactions WHERE {where}"
        total = "SELECT count(*) AS n, sum(hash({})::HUGEINT)::VARCHAR AS total FROM {}"
        with self.reading() as session:
            parts = session.rows(
                total.format(", ".join(TRANSACTION_COLUMNS), f"transactions WHERE {where}"),
                params,
            ) + session.rows(
                total.format(label_columns, f"labels WHERE transaction_id IN ({chosen})"),
                params,
            )
        told = "|".join(f"{part['n']}:{part['total']}" for part in parts)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _published(self, held: Held) -> Endpoint | None:
        gate = held.gate
        if gate is None:
            return None
        endpoint = Endpoint(
            pid=os.getpid(),
            started=started(os.getpid()),
            schema_version=SCHEMA_VERSION,
            writers=gate.addresses[True],
            writers_token=gate.tokens[True],
            readers=gate.addresses[False],
            readers_token=gate.tokens[False],
        )
        publish(self.path, endpoint)
        return endpoint

    def _owner(self) -> Attached | None:
        """Connections to the process that owns the file; None if none does."""
        endpoint = find(self.path)
        if endpoint is None:
            self._attached = None
            return None
        if endpoint.schema_version != SCHEMA_VERSION:
            raise StoreVersion(
                f"{self.path} is owned by a service of another version of Aegis (tables "
                f"{endpoint.schema_version}, here {SCHEMA_VERSION}). Start both from the same one."
            )
        attached = self._attached
        if attached is None or attached.endpoint != endpoint or not attached.answers:
            attached = Attached(endpoint)
            self._attached = attached if attached.reached() else None
        return self._attached

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=self.wait_s):
            raise StoreBusy(
                f"Another thread used {self.path} for {self.wait_s:g} s; "
                "keep reading() and writing() blocks short."
            )
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _opened(self, *, read_only: bool) -> Iterator[Session]:
        connection = opened(self.path, read_only=read_only, wait_s=self.wait_s)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            with self._as_session(Session(connection, writable=not read_only)) as session:
                yield session
        finally:
            connection.close()

    @contextmanager
    def _as_session(self, session: Session) -> Iterator[Session]:
        self._of_this_thread.session = session
        try:
            yield session
        finally:
            self._of_this_thread.session = None

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"The folder of {self.path} cannot be made: {e}.") from e

    def _tables(self, session: Session) -> set[str]:
        found = session.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        return {name for (name,) in found}

    def _version(self, session: Session, tables: set[str]) -> int:
        """The schema version of the file, at most this code's own."""
        if "meta" not in tables:
            raise (
                self._foreign()
                if tables
                else NotReady(
                    f"{self.path} is empty. Fill it with `aegis import FILE` or "
                    "`aegis run generate`."
                )
            )
        found = session.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        if not found:
            raise self._foreign()
        known = {str(n): n for n in (*MIGRATIONS, SCHEMA_VERSION)}
        if found[0] not in known:
            raise StoreVersion(
                f"{self.path} has schema version {found[0]}, this Aegis uses {SCHEMA_VERSION}. "
                "Use the Aegis that wrote it, or name another database with --db."
            )
        return known[found[0]]

    def _create_tables(self, session: Session) -> None:
        tables = self._tables(session)
        version = self._version(session, tables) if tables else SCHEMA_VERSION
        if not tables:
            session.execute("CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR)")
            session.execute("INSERT INTO meta VALUES ('schema_version', ?)", [str(SCHEMA_VERSION)])
        for name in TABLES.keys() - tables:
            session.execute(f"CREATE TABLE {name} ({TABLES[name]})")
        for older in range(version, SCHEMA_VERSION):
            for statement in MIGRATIONS[older]:
                session.execute(statement)
            session.execute(
                "UPDATE meta SET value = ? WHERE key = 'schema_version'", [str(older + 1)]
            )

    def _foreign(self) -> StoreError:
        return StoreError(
            f"{self.path} is a DuckDB database that Aegis did not make. Name another with --db."
        )
