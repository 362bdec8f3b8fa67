"""The DuckDB file: opened for one statement or one block, then let go.

DuckDB lets one process write a file *or* many read it. So a `Store` holds the file only while a
statement or a `with` block runs, and an analyst's notebook, the stream and the dashboard take
turns; each opening waits, up to `wait_s`, while another process holds the file. This is the only
module that imports duckdb.

Readings cannot reach anything but the database: no files, no network, no attaching.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import duckdb

from aegis_core import config
from aegis_core.errors import (
    ColumnError,
    FileUnreadable,
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

_READ_ONLY: dict[str, Any] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
}
_LONGEST_PAUSE_S = 0.05
_BETWEEN_TELLS_S = 0.1
_LONGEST_WAL = "512KB"  # every opening replays it, about 20 ms for each 100 KB
_SIGNS_OF_ANOTHER = (
    "Could not set lock",
    "being used by another process",
    "different configuration",
    "Unique file handle conflict",
)
_USER_MISTAKES = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.InvalidTypeException,
    duckdb.OutOfRangeException,
    duckdb.PermissionException,
    duckdb.SyntaxException,
)


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever it contains.

    >>> quoted('a"b; DROP TABLE x')
    '"a""b; DROP TABLE x"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """`value` as an SQL literal, whatever it contains.

    >>> literal("O'Hara"), literal(None), literal([1, 2.5])
    ("'O''Hara'", 'NULL', "[1, '2.5'::DOUBLE]")

    Raises
    ------
    InputError
        SQL has no literal for this type.
    """
    if value is None:
        return "NULL"
    if hasattr(value, "item") and not isinstance(value, str):  # a numpy scalar
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):  # 0.1 alone would be a decimal
        return f"'{value!r}'::DOUBLE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dt.datetime):
        return f"{'TIMESTAMPTZ' if value.tzinfo else 'TIMESTAMP'} '{value.isoformat(sep=' ')}'"
    if isinstance(value, dt.date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str | Path):
        text = str(value).replace("'", "''").replace("\0", "' || chr(0) || '")
        return f"('{text}')" if "\0" in str(value) else f"'{text}'"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    raise InputError(f"A query's parameter cannot be of type {type(value).__name__}.")


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

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, writable: bool) -> None:
        self._connection = connection
        self.writable = writable

    def execute(self, sql: str, params: Params = None) -> duckdb.DuckDBPyConnection:
        """Run any statement; the connection that comes back holds its result.

        Raises
        ------
        InputError
            The statement is wrong, or writes in a reading.
        StoreError
            A constraint, the disk or the memory does not allow it.
        """
        with _translated():
            return self._ran(sql, params)

    def query(self, sql: str, params: Params = None) -> pd.DataFrame:
        """The result as a pandas frame; whole numbers with gaps become floats."""
        frame: pd.DataFrame = self.arrow(sql, params).to_pandas(self_destruct=True)
        return frame

    def arrow(self, sql: str, params: Params = None) -> pa.Table:
        """The result as an Arrow table, without importing pandas."""
        with _translated():
            return _without_decimals(self._run(sql, params).to_arrow_table())

    def numpy(self, sql: str, params: Params = None) -> dict[str, np.ndarray]:
        """The result as arrays by column name, without importing pandas.

        A missing value is NaN among numbers (whole numbers become floats then), NaT among times
        and None in everything else.
        """
        with _translated():
            columns = self._run(sql, params).fetchnumpy()
        return {name: _without_mask(values) for name, values in columns.items()}

    def rows(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """The result as one dictionary a row."""
        rows: list[dict[str, Any]] = self.arrow(sql, params).to_pylist()
        return rows

    def stream(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Names and rows of a result that may be larger than memory; read it inside the block."""
        with _translated():
            reader = self._ran(sql).to_arrow_reader(10_000)

        def rows() -> Iterator[tuple[Any, ...]]:
            with _translated():
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
        with _translated():
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
        failed: list[Exception] = []

        def work() -> None:
            try:
                self.execute(sql, params)
            except Exception as e:
                failed.append(e)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while worker.is_alive():
                worker.join(_BETWEEN_TELLS_S)
                tell(max(0.0, self._connection.query_progress()) / 100)
        except BaseException:
            self._connection.interrupt()
            worker.join()
            raise
        if failed:
            raise failed[0]
        tell(1.0)

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

    def _run(self, sql: str, params: Params) -> duckdb.DuckDBPyConnection:
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

    def _ran(self, sql: str, params: Params = None) -> duckdb.DuckDBPyConnection:
        # None, whatever the type says, is what DuckDB makes of an empty statement
        result: duckdb.DuckDBPyConnection | None = self._connection.execute(sql, params)
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
        connection = self._open(read_only=read_only)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            self._session = Session(connection, writable=not read_only)
            yield self._session
        finally:
            self._session = None
            connection.close()

    def _open(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        # A writer's configuration is unlike any other's, so that two stores in one process take
        # turns as two processes do.
        settings: dict[str, Any] = {"custom_user_agent": f"aegis {uuid4().hex}"}
        if read_only:
            settings = _READ_ONLY
        deadline = time.monotonic() + self.wait_s
        pause_s = 0.002
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only, config=settings)
            except duckdb.Error as e:
                if not _is_held(str(e)):
                    raise self._unusable(e) from e
                if time.monotonic() > deadline:
                    raise StoreBusy(
                        f"{self.path} was in use for {self.wait_s:g} s. Wait for the other run to "
                        "end, or close the program that keeps the file open (a DuckDB shell, a "
                        "notebook with its own duckdb.connect). DuckDB says: "
                        + str(e).splitlines()[0]
                    ) from e
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _unusable(self, e: duckdb.Error) -> Exception:
        if self.path.is_dir():
            return FileUnreadable(f"{self.path} is a folder; --db names a file.")
        if "not a valid DuckDB" in str(e):
            return FileUnreadable(
                f"{self.path} is not a DuckDB database. Name another with --db; to read "
                "transactions from a file, use `aegis import FILE`."
            )
        if "version" in str(e):
            return StoreVersion(
                f"{self.path} was written by another version of DuckDB: {str(e).splitlines()[0]}"
            )
        return StoreError(f"{self.path} cannot be opened: {str(e).splitlines()[0]}")

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


@contextmanager
def _translated() -> Iterator[None]:
    """DuckDB's errors as Aegis's, in one line that keeps DuckDB's hint."""
    try:
        yield
    except duckdb.Error as e:
        if "read-only mode" in str(e):
            raise InputError(
                "A query cannot change the database; it is opened for reading only."
            ) from e
        lines = [line.strip() for line in str(e).splitlines()]
        told = " ".join(line for line in lines if line and line != "^" and line[:5] != "LINE ")
        kind = InputError if isinstance(e, _USER_MISTAKES) else StoreError
        raise kind(told) from e


def _is_held(message: str) -> bool:
    return any(sign in message for sign in _SIGNS_OF_ANOTHER)


def _without_decimals(table: pa.Table) -> pa.Table:
    """Sums of whole numbers are decimals of 38 digits to Arrow; here they are int64 again."""
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            try:
                kind = pa.float64() if field.type.scale else pa.int64()
                column = table.column(i).cast(kind)
            except pa.ArrowInvalid:  # beyond 64 bits
                column = table.column(i).cast(pa.float64())
            table = table.set_column(i, field.name, column)
    return table


def _without_mask(values: Any) -> np.ndarray:
    import numpy as np

    data, mask = np.asarray(np.ma.getdata(values)), np.ma.getmaskarray(values)
    if not mask.any():
        return data
    if data.dtype.kind in "mM":
        missing: Any = np.array("NaT", data.dtype)
    elif data.dtype.kind in "iuf":
        data, missing = data.astype(np.float64), np.nan
    else:
        data, missing = data.astype(object), None
    filled: np.ndarray = np.where(mask, missing, data)
    return filled
