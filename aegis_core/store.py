"""The DuckDB file: opened for one statement or one block, then let go.

DuckDB lets one process write a file *or* many read it. So a `Store` holds the file only while a
statement or a `with` block runs, and an analyst's notebook, the stream and the dashboard take
turns; each opening waits, up to `wait_s`, while another process holds the file.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis_core import config
from aegis_core.connection import (
    Connection,
    literal,
    opened,
    quoted,
    translated,
    watched,
    without_decimals,
    without_mask,
)
from aegis_core.errors import (
    ColumnError,
    InputError,
    NotReady,
    StoreBusy,
    StoreError,
    StoreVersion,
    did_you_mean,
)
from aegis_core.schema import MIGRATIONS, SCHEMA_VERSION, TABLES, TRANSACTION_COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

Params = Sequence[object] | Mapping[str, object] | None

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
    return Store(Path(path) if path else config.load().db, wait_s=wait_s)


class Session:
    """One opening of the database, for the length of a `reading()` or `writing()` block."""

    def __init__(self, connection: Connection, *, writable: bool) -> None:
        self._connection = connection
        self.writable = writable

    def execute(self, sql: str, params: Params = None) -> Connection:
        """Run any statement; the connection that comes back holds its result.

        Raises
        ------
        InputError
            The statement is wrong, or writes in a reading.
        StoreError
            A constraint, the disk or the memory does not allow it.
        """
        with translated():
            return self._ran(sql, params)

    def query(self, sql: str, params: Params = None) -> pd.DataFrame:
        """The result as a pandas frame; whole numbers with gaps become floats."""
        frame: pd.DataFrame = self.arrow(sql, params).to_pandas(self_destruct=True)
        return frame

    def arrow(self, sql: str, params: Params = None) -> pa.Table:
        """The result as an Arrow table, without importing pandas."""
        with translated():
            return without_decimals(self._run(sql, params).to_arrow_table())

    def numpy(self, sql: str, params: Params = None) -> dict[str, np.ndarray]:
        """The result as arrays by column name, without importing pandas.

        A missing value is NaN among numbers (whole numbers become floats then), NaT among times
        and None in everything else.
        """
        with translated():
            columns = self._run(sql, params).fetchnumpy()
        return {name: without_mask(values) for name, values in columns.items()}

    def rows(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """The result as one dictionary a row."""
        rows: list[dict[str, Any]] = self.arrow(sql, params).to_pylist()
        return rows

    def stream(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Names and rows of a result that may be larger than memory; read it inside the block."""
        with translated():
            reader = self._ran(sql).to_arrow_reader(10_000)

        def rows() -> Iterator[tuple[Any, ...]]:
            with translated():
                for batch in reader:
                    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

        return reader.schema.names, rows()

    def append(self, table: str, rows: pd.DataFrame | pa.Table) -> int:
        """Add `rows` to `table`, matching columns by name; the number added.

        Columns that `rows` lacks become null; NaN in a pandas frame becomes null.

        Raises
        ------
        ColumnError
            `rows` has a column that the table does not have.
        StoreError
            A row breaks a constraint, such as a missing amount.
        """
        import pyarrow as pa

        arrow = (
            rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
        )
        known = self.columns(table)
        if unknown := [name for name in arrow.column_names if name not in known]:
            raise ColumnError(
                f"{table} has no column {unknown}; it has {known}."
                + did_you_mean(unknown[0], known)
            )
        names = ", ".join(map(quoted, arrow.column_names))
        with self.lent("aegis_appended", arrow):
            self.execute(
                f"INSERT INTO {quoted(table)} ({names}) SELECT {names} FROM aegis_appended"
            )
        return int(arrow.num_rows)

    @contextmanager
    def lent(self, name: str, rows: pa.Table) -> Iterator[None]:
        """Let SQL see an Arrow table under `name` for the length of the block."""
        with translated():
            self._connection.register(name, rows)
        try:
            yield
        finally:
            self._connection.unregister(name)

    def watched(self, sql: str, params: Params, tell: Callable[[float], None]) -> None:
        """Run a long statement, calling `tell` with the share done, in [0, 1], as it goes on.

        An exception in this thread, such as Ctrl-C, ends the statement first.
        """
        self.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        watched(self._connection, lambda: self.execute(sql, params), tell)

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns, in order.

        Raises
        ------
        ColumnError
            There is no such table.
        """
        found = self.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
            [table],
        ).fetchall()
        if not found:
            raise ColumnError(f"There is no table {table!r}." + did_you_mean(table, TABLES))
        return [name for (name,) in found]

    def next_seq(self) -> int:
        """The `seq` of the next transaction that arrives; 0 in an empty database."""
        found = self.execute("SELECT coalesce(max(seq) + 1, 0) FROM transactions").fetchone()
        return int(found[0]) if found else 0

    def _run(self, sql: str, params: Params) -> Connection:
        # DuckDB's own binding of parameters imports pandas (0.25 s, 70 MB for each kernel of the
        # dashboard); a prepared statement called with literals does not.
        if not params:
            return self._ran(sql)
        if isinstance(params, Mapping):
            given = ", ".join(f"{quoted(k)} := {literal(v)}" for k, v in params.items())
        else:
            given = ", ".join(map(literal, params))
        self._ran(f"PREPARE aegis_asked AS {sql}")
        return self._ran(f"EXECUTE aegis_asked({given})")

    def _ran(self, sql: str, params: Params = None) -> Connection:
        # None, whatever the type says, is what DuckDB makes of an empty statement
        result: Connection | None = self._connection.execute(sql, params)
        if result is None:
            raise InputError("There is no statement to run; it is empty.")
        return result


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
        self._session: Session | None = None

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
        with self._in_turn():
            if self._session is not None:
                yield self._session
                return
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
        with self._in_turn():
            if self._session is not None:
                if not self._session.writable:
                    raise StoreError("writing() inside a reading() block; end that block first.")
                yield self._session
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise StoreError(f"The folder of {self.path} cannot be made: {e}.") from e
            with self._opened(read_only=False) as session:
                if not checkpoint:
                    session.execute("PRAGMA disable_checkpoint_on_shutdown")
                    session.execute(f"SET checkpoint_threshold = '{_LONGEST_WAL}'")
                session.execute("BEGIN")
                try:
                    self._create_tables(session)
                    yield session
                    session.execute("COMMIT")
                except BaseException:
                    session._connection.rollback()
                    raise

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
            self._session = Session(connection, writable=not read_only)
            yield self._session
        finally:
            self._session = None
            connection.close()

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
