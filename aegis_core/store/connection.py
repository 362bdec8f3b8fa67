"""DuckDB itself: opening its file, its errors in the words of Aegis, values to it and from it.

Readings cannot reach anything but the database: no files, no network, no attaching. This is the
only module that imports duckdb.
"""

from __future__ import annotations

import datetime as dt
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from uuid import uuid4

import duckdb

from aegis_core.errors import FileUnreadable, InputError, StoreBusy, StoreError, StoreVersion

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Connection: TypeAlias = duckdb.DuckDBPyConnection
Result = TypeVar("Result")

_SHUT_IN: dict[str, Any] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
}
_Kind = duckdb.StatementType
_READING_STATEMENTS = {_Kind.SELECT, _Kind.EXPLAIN, _Kind.PREPARE, _Kind.EXECUTE}
READ_ONLY = "A query cannot change the database; it is opened for reading only."
_INEXACT = {
    *("bignum", "bit", "geometry", "time with time zone", "time_ns", "uhugeint", "union"),
    "variant",
}
_LONGEST_PAUSE_S = 0.05
_BETWEEN_TELLS_S = 0.1
_STOPS = 20
_SIGNS_OF_ANOTHER = (
    "Could not set lock",
    "being used by another process",
    "different configuration",
    "Unique file handle conflict",
)
_USER_MISTAKES = (duckdb.ProgrammingError, duckdb.DataError, duckdb.PermissionException)


def opened(path: Path, *, read_only: bool, wait_s: float) -> Connection:
    """The database at `path`, opened once nobody else holds it.

    Raises
    ------
    StoreBusy : Another process held the file for `wait_s`.
    FileUnreadable, StoreVersion, StoreError
        The file is no DuckDB database, one of another version, or cannot be used.
    """
    # A writer's configuration is unlike any other's, so that two stores in one process take
    # turns as two processes do.
    own: dict[str, Any] = {"custom_user_agent": f"aegis {uuid4().hex}"}
    settings = _SHUT_IN if read_only else own
    deadline = time.monotonic() + wait_s
    pause_s = 0.002
    while True:
        try:
            connection = duckdb.connect(str(path), read_only=read_only, config=settings)
            # In a notebook DuckDB would draw a bar of its own under each slow query.
            return connection.execute("SET enable_progress_bar = false")
        except duckdb.Error as e:
            if not any(sign in str(e) for sign in _SIGNS_OF_ANOTHER):
                raise _unusable(path, e) from e
            if time.monotonic() > deadline:
                raise StoreBusy(
                    f"{path} was in use for {wait_s:g} s. Wait for the other run to "
                    "end, or close the program that keeps the file open (a DuckDB shell, a "
                    "notebook with its own duckdb.connect, a service whose `.endpoint` file is "
                    "gone or foreign: start it anew). DuckDB says: " + str(e).splitlines()[0]
                ) from e
        time.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def load_quack(connection: Connection) -> None:
    """Load DuckDB's client-server protocol from the installed packages, downloading nothing."""
    for name in ("httpfs", "quack"):
        spec = find_spec(f"duckdb_extension_{name}")
        if spec is None or spec.origin is None:
            raise StoreError(f"The package duckdb-extension-{name} is missing; install it.")
        file = f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"
        with translated():
            connection.execute(f"LOAD {literal(Path(spec.origin).parent / file)}")


def empty(settings: dict[str, Any]) -> Connection:
    """A database in memory that has nothing but these settings."""
    return duckdb.connect(":memory:", config=settings)


def with_values(sql: str, params: Sequence[object] | Mapping[str, object] | None) -> str:
    """`sql` with a literal for each `?`, or for each `$name`; `InputError` if values do not fit.

    >>> with_values("SELECT ? AS a, '?' AS b -- ?", [1])
    "SELECT 1 AS a, '?' AS b -- ?"
    >>> with_values("SELECT $a, $b, $a", {"a": 1, "b": "x"})
    "SELECT 1, 'x', 1"
    """
    if not params:
        return sql
    given = params if isinstance(params, Mapping) else dict(enumerate(params, 1))
    text = sql.encode()
    starts = [start for start, _ in duckdb.tokenize(sql)]
    parts = [text[a:b].decode() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    told, used = [], set()
    number = 0
    while parts:
        part = parts.pop(0)
        if part == "$" and parts:
            part += parts.pop(0)
        if asked := re.match(r"\?|\$(\w+)", part):
            number += asked[0] == "?"
            name: Any = asked[1] or number
            name = int(name) if str(name).isdigit() else name
            if name not in given:
                raise InputError(f"The query asks for {asked[0]!r}; given are {list(given)}.")
            used.add(name)
            part = literal(given[name]) + part[asked.end() :]
        told.append(part)
    if unused := given.keys() - used:
        raise InputError(f"The query does not ask for {sorted(map(str, unused))}.")
    return "".join(told)


def only_reads(connection: Connection, sql: str) -> None:
    """Refuse what could leave a read-only transaction: the owner's connections could write."""
    with translated():
        kinds = {statement.type for statement in connection.extract_statements(sql)}
    if not kinds <= _READING_STATEMENTS:
        raise InputError(READ_ONLY)


def _unusable(path: Path, e: duckdb.Error) -> Exception:
    if path.is_dir():
        return FileUnreadable(f"{path} is a folder; --db names a file.")
    if path.exists() and path.stat().st_size == 0:
        return FileUnreadable(
            f"{path} holds nothing any more. `aegis restore FILE --force` puts a backup there; "
            "without one, delete it."
        )
    if "not a valid DuckDB" in str(e):
        return FileUnreadable(
            f"{path} is not a DuckDB database. Name another with --db; to read "
            "transactions from a file, use `aegis import FILE`."
        )
    if "version" in str(e):
        return StoreVersion(
            f"{path} was written by another version of DuckDB: {str(e).splitlines()[0]}"
        )
    hint = ""
    if "Could not read" in str(e):
        hint = (
            " It is cut short; `aegis restore FILE --force` puts a backup there and keeps it aside."
        )
    return StoreError(f"{path} cannot be opened: {str(e).splitlines()[0]}.{hint}")


def beside(
    work: Callable[[], Result], stop: Callable[[], object], tell: Callable[[], object] | None = None
) -> Result:
    """The result of a long call of DuckDB, made in another thread: a Ctrl-C here `stop`s it.

    DuckDB does not look for signals while it works on a result. `stop` is repeated for two seconds,
    as it may come between two statements; a call that goes on is left to itself. Only the main
    thread gets signals, so elsewhere the call is made in place, unless somebody is to be told how
    it goes on.
    """
    if tell is None and threading.current_thread() is not threading.main_thread():
        return work()
    found: list[Result] = []
    failed: list[BaseException] = []
    done = threading.Event()  # of a join that Ctrl-C ends Python 3.11 says the thread had ended

    def run() -> None:
        try:
            found.append(work())
        except BaseException as e:
            failed.append(e)
        finally:
            done.set()

    worker = threading.Thread(target=run, name="aegis-statement", daemon=True)
    worker.start()
    try:
        while not done.wait(_BETWEEN_TELLS_S):
            if tell is not None:
                tell()
    except BaseException:
        for _ in range(_STOPS):
            stop()
            if done.wait(_BETWEEN_TELLS_S):
                break
        raise
    if failed:
        raise failed[0]
    return found[0]


@contextmanager
def translated() -> Iterator[None]:
    """DuckDB's errors as Aegis's, in one line that keeps DuckDB's hint."""
    try:
        yield
    except RuntimeError as e:  # how DuckDB tells of a Ctrl-C
        if "Query interrupted" in str(e):
            raise KeyboardInterrupt from e
        raise
    except duckdb.Error as e:
        if "read-only mode" in str(e):
            raise InputError(READ_ONLY) from e
        lines = [line.strip() for line in str(e).splitlines()]
        told = " ".join(line for line in lines if line and line != "^" and line[:5] != "LINE ")
        kind = InputError if isinstance(e, _USER_MISTAKES) else StoreError
        raise kind(told) from e


@contextmanager
def answered() -> Iterator[None]:
    """`translated`; what Python or Arrow cannot take of an answer is an `InputError`, too."""
    with translated():
        try:
            yield
        except OSError as e:  # how a stream of Arrow tells of DuckDB's errors
            raise InputError(" ".join(str(e).split())) from e
        except (OverflowError, ValueError, NotImplementedError) as e:
            raise InputError(
                f"The answer has a value that Python cannot hold ({' '.join(str(e).split())}). "
                "Ask for it as text, such as (…)::VARCHAR."
            ) from e


def exact(answer: Connection) -> Connection:
    """The answer that a connection holds; `InputError` where Arrow would not hold it as it is."""
    for name, kind, *_ in answer.description or ():
        if _is_inexact(kind):
            raise InputError(
                f"The column {name} is of type {kind}, which does not reach Python as it is. Ask "
                f"for it as text: ({name})::VARCHAR."
            )
    return answer


def _is_inexact(kind: Any) -> bool:
    inner = kind.children if kind.id in ("list", "array", "struct", "map") else ()
    return kind.id in _INEXACT or any(
        _is_inexact(part) for _, part in inner if not isinstance(part, int)
    )


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever it contains.

    >>> quoted('a"b; DROP TABLE x')
    '"a""b; DROP TABLE x"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    r"""`value` as an SQL literal, whatever it contains; `InputError` if SQL has none for its type.

    >>> literal("O'Hara"), literal(None), literal([1, 2.5])
    ("'O''Hara'", 'NULL', "[1, '2.5'::DOUBLE]")
    >>> literal(b"\xaa")
    "from_hex('aa')"
    >>> literal({"amount": 0.5})
    "{'amount': '0.5'::DOUBLE}"
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
        return str(value) if value >= 0 else f"({value})"  # two minus signs begin a comment
    if isinstance(value, dt.datetime):
        return f"{'TIMESTAMPTZ' if value.tzinfo else 'TIMESTAMP'} '{value.isoformat(sep=' ')}'"
    if isinstance(value, dt.date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str | Path):
        text = str(value).replace("'", "''").replace("\0", "' || chr(0) || '")
        return f"('{text}')" if "\0" in str(value) else f"'{text}'"
    if isinstance(value, bytes):
        return f"from_hex('{value.hex()}')"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(str(k))}: {literal(v)}" for k, v in value.items()) + "}"
    raise InputError(f"A query's parameter cannot be of type {type(value).__name__}.")


def without_decimals(table: pa.Table) -> pa.Table:
    """Sums of whole numbers are decimals of 38 digits to Arrow; here they are int64 again.

    Decimals with a fraction become the nearest float64. `InputError` where a whole number is beyond
    64 bits.
    """
    import pyarrow as pa

    for i, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            try:
                column = table.column(i).cast(pa.float64() if field.type.scale else pa.int64())
            except pa.ArrowInvalid:
                raise InputError(
                    f"The column {field.name} holds whole numbers beyond 64 bits. Ask for it as "
                    f"text, ({field.name})::VARCHAR, or as ({field.name})::DOUBLE."
                ) from None
            table = table.set_column(i, field.name, column)
    return table


def without_mask(values: Any) -> np.ndarray:
    """Masked values as NaN among numbers, NaT among times, None in everything else."""
    import numpy as np

    data, mask = np.asarray(np.ma.getdata(values)), np.ma.getmaskarray(values)
    if mask.any():
        numbers, times = data.dtype.kind in "iuf", data.dtype.kind in "mM"
        data = data.astype(np.float64 if numbers else data.dtype if times else object)
        data[mask] = np.nan if numbers else "NaT" if times else None
    return data
