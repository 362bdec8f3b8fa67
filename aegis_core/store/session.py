"""One opening of the database: statements, their answers in four forms, and rows to append."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from aegis_core.errors import AegisError, ColumnError, InputError, did_you_mean
from aegis_core.schema import TABLES
from aegis_core.store.connection import (
    Connection,
    Result,
    answered,
    beside,
    exact,
    literal,
    only_reads,
    quoted,
    translated,
    with_values,
    without_decimals,
    without_mask,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

Params = Sequence[object] | Mapping[str, object] | None

PROGRESS_WITHOUT_BAR = "SET enable_progress_bar = true; SET enable_progress_bar_print = false"
_FEW_ROWS = 32


class Session:
    """One opening of the database, for the length of a `reading()` or `writing()` block.

    Parameters
    ----------
    writable : Whether it may change the database.
    owned : Whether the connection is one of many to a database that its owner holds open: its
        settings are locked, and only this class keeps a reading from writing.
    scores : Whether an engine of that owner may have taken more than the tables hold.
    """

    def __init__(
        self, connection: Connection, *, writable: bool, owned: bool = False, scores: bool = False
    ) -> None:
        self._connection = connection
        self.writable = writable
        self._owned = owned
        self._scores = scores

    def execute(self, sql: str, params: Params = None) -> Connection:
        """Run any statement; the connection that comes back holds its result.

        Raises
        ------
        InputError : The statement is wrong, or writes in a reading.
        StoreError : A constraint, the disk or the memory does not allow it.
        """
        with translated():
            return self._ran(sql, params)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block; roll back on an error."""
        self.execute("BEGIN")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(AegisError):  # out of memory it cannot, and the connection is lost
                self.execute("ROLLBACK")
            raise

    def query(self, sql: str, params: Params = None) -> pd.DataFrame:
        """The result as a pandas frame; whole numbers with gaps become floats."""
        table = self.arrow(sql, params)
        with answered():
            frame: pd.DataFrame = table.to_pandas(self_destruct=True)
        return frame

    def arrow(self, sql: str, params: Params = None) -> pa.Table:
        """The result as an Arrow table, without importing pandas.

        Raises
        ------
        InputError
            A column is of a type that would not arrive as it is, such as BIT or VARIANT; the
            message says how to ask for it.
        """
        with answered():
            return without_decimals(
                self._beside(lambda: exact(self._ran(sql, params)).to_arrow_table())
            )

    def numpy(self, sql: str, params: Params = None) -> dict[str, np.ndarray]:
        """The result as arrays by column name, without importing pandas.

        A missing value is NaN among numbers (whole numbers become floats then), NaT among times
        and None in everything else.
        """
        with translated():
            columns = self._beside(lambda: exact(self._ran(sql, params)).fetchnumpy())
        return {name: without_mask(values) for name, values in columns.items()}

    def rows(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """The result as one dictionary a row."""
        table = self.arrow(sql, params)
        with answered():
            rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def value(self, sql: str, params: Params = None) -> Any:
        """The first value of the result; None where it has no row."""
        with translated():
            found = self._ran(sql, params).fetchone()
        return found[0] if found else None

    def noted(self, key: str) -> str | None:
        """What the table `meta` has for a key; None where it has nothing."""
        found: str | None = self.value("SELECT value FROM meta WHERE key = ?", [key])
        return found

    def stream(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Names and rows of a result that may be larger than memory; read it inside the block.

        Decimals keep all their digits.
        """
        with answered():
            reader = self._beside(lambda: exact(self._ran(sql)).to_arrow_reader(10_000))

        def rows() -> Iterator[tuple[Any, ...]]:
            with answered():
                while batch := self._beside(lambda: next(reader, None)):
                    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

        return reader.schema.names, rows()

    def append(self, table: str, rows: pd.DataFrame | pa.Table) -> int:
        """Add `rows` to `table`, matching columns by name; the number added.

        Columns that `rows` lacks become null; NaN in a pandas frame becomes null.

        Raises
        ------
        ColumnError : `rows` has a column that the table does not have.
        StoreError : A row breaks a constraint, such as a missing amount.
        """
        import pyarrow as pa

        arrow = (
            rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
        )
        try:
            self._insert(table, arrow.column_names, arrow)
        except InputError:
            self._check_columns(table, arrow.column_names)
            raise
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

    def watched(self, sql: str, params: Params, tell: Callable[[float], object]) -> None:
        """Run a long statement, calling `tell` with the share done, in [0, 1], as it goes on.

        An exception in this thread, such as Ctrl-C, ends the statement first.
        """
        if not self._owned:
            self.execute(PROGRESS_WITHOUT_BAR)

        def told() -> None:
            tell(max(0.0, self._connection.query_progress()) / 100)

        beside(lambda: self.execute(sql, params), self._stop, told)
        tell(1.0)

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns, in order; `ColumnError` where there is no such table."""
        found = self.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
            [table],
        ).fetchall()
        if not found:
            raise ColumnError(f"There is no table {table!r}." + did_you_mean(table, TABLES))
        return [name for (name,) in found]

    def with_one_thread(self) -> None:
        """Leave the machine to those who write; an owner sees to that by itself."""
        if not self._owned:
            self.execute("SET threads = 1")

    def next_seq(self) -> int:
        """The `seq` of the next transaction that arrives; 0 in an empty database."""
        found = self.value(
            "SELECT greatest(coalesce(max(seq) + 1, 0), (SELECT coalesce(max(value::BIGINT), 0) "
            "FROM meta WHERE key = 'erased before')) FROM transactions"
        )
        return int(found)

    def last_seq(self) -> int | None:
        """The `seq` of the last transaction; None where the engine of the owner says it later."""
        return None if self._scores else self.next_seq() - 1

    def _beside(self, work: Callable[[], Result]) -> Result:
        """The result of a call that may take long; a Ctrl-C of the main thread ends it."""
        return beside(work, self._stop)

    def _stop(self) -> None:
        self._connection.interrupt()

    def _insert(self, table: str, names: Sequence[str], rows: pa.Table) -> None:
        columns = ", ".join(map(quoted, names))
        if self._owned and 0 < rows.num_rows <= _FEW_ROWS:  # half the time of the way round Arrow
            values = zip(*(column.to_pylist() for column in rows.columns), strict=True)
            told = ", ".join("(" + ", ".join(map(literal, row)) + ")" for row in values)
            self.execute(f"INSERT INTO {quoted(table)} ({columns}) VALUES {told}")
            return
        with self.lent("aegis_appended", rows):
            self.execute(
                f"INSERT INTO {quoted(table)} ({columns}) SELECT {columns} FROM aegis_appended"
            )

    def _check_columns(self, table: str, names: Sequence[str]) -> None:
        known = self.columns(table)
        if unknown := [name for name in names if name not in known]:
            raise ColumnError(
                f"{table} has no column {unknown}; it has {known}."
                + did_you_mean(unknown[0], known)
            )

    def _ran(self, sql: str, params: Params = None) -> Connection:
        text = with_values(sql, params)
        if self._owned and not self.writable:
            only_reads(self._connection, text)
        # DuckDB's own binding of parameters imports pandas (0.25 s, 70 MB for each kernel of the
        # dashboard). None, whatever the type says, is what DuckDB makes of an empty statement.
        result: Connection | None = self._connection.execute(text)
        if result is None:
            raise InputError("There is no statement to run; it is empty.")
        return result
