"""The owner's gate: what those who attach may ask, and how long an answer may take.

DuckDB's server asks a function of ours before it runs anything. Writers' statements pass. A
reader's must parse as one SELECT, name nothing but the tables of the database, and call no
function that reaches beyond them. A plain look at one table passes; everything else is run here,
where it can be interrupted, and the reader gets the finished answer.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import itertools
import json
import math
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aegis_core.errors import AegisError, InputError, StoreError
from aegis_core.machine import LOOPBACK, free_port
from aegis_core.store.admission import Names, check, is_plain
from aegis_core.store.connection import Connection, literal, quoted, translated
from aegis_core.store.endpoint import STOP, Asker

# What DuckDB's client asks for when it attaches, exactly.
_SCHEMAS = """
SELECT catalog_name, schema_name
FROM information_schema.schemata
WHERE catalog_name NOT IN ('system', 'temp')
ORDER BY ALL
\t"""
_TABLES = """
SELECT schema_name, sql, 'table'
FROM duckdb_tables()
UNION ALL
SELECT schema_name, view_name, 'view'
FROM duckdb_views()
\t"""
_SEEN_BY_CLIENTS = {
    _SCHEMAS: "SELECT current_database() AS catalog_name, 'main' AS schema_name",
    # Names, types and plain defaults: a default or a foreign key that only the owner can make sense
    # of would keep everybody from attaching.
    _TABLES: """
SELECT schema_name, format('CREATE TABLE "{}" ({})', replace(table_name, '"', '""'),
  string_agg(format('"{}" {}{}', replace(column_name, '"', '""'), data_type,
    if(regexp_full_match(column_default, '-?[0-9.]+'), ' DEFAULT ' || column_default, '')
  ), ', ' ORDER BY column_index)), 'table'
FROM duckdb_columns() SEMI JOIN duckdb_tables() USING (database_name, schema_name, table_name)
WHERE database_name IN (current_database(), 'temp')
GROUP BY database_name, schema_name, table_name
UNION ALL SELECT schema_name, view_name, 'view' FROM duckdb_views()
WHERE database_name = current_database()""",
}
# What the memory of a scoring owner stands for, which would not know of a change; deleting the
# oldest, or a name in free text, is no change of it. This keeps mistakes out: the writers' token is
# the owner's own user's.
_OWNERS_ALONE = re.compile(
    r"\s*(insert\s+(or\s+\w+\s+)?into|update|merge\s+into|truncate(\s+table)?"
    r"|(drop|alter)\s+table(\s+if\s+exists)?)\s+([\w\"]+\s*\.\s*)*\"?"
    r"(transactions\b(?!\s+set\s+source\s*=\s*'([^']|'')*'\s+where)"
    r"|verdicts\b(?!\s+set\s+reasons\s*=\s*list_transform)|shadow_scores\b)",
    re.IGNORECASE,
)
_NICE = 10
# What queries hold; pages of the file that are kept give way. At the limit itself DuckDB refuses
# memory to whoever asks, also to a commit, so readers' queries end well before.
_FULL = """
SELECT coalesce(sum(memory_usage_bytes + temporary_storage_bytes), 0)
  > 0.5 * parse_formatted_bytes(current_setting('memory_limit'))
FROM duckdb_memory() WHERE tag NOT IN ('BASE_TABLE', 'METADATA')
"""
_ANSWER_KEPT_S = 60.0
_BETWEEN_LOOKS_S = 0.05
_GOODBYE = b"\x01\x00\x0b\x02\x00\x20%s\x03\x00" + b"\xff" * 9 + b"\x01" + b"\xff" * 4


@dataclass(frozen=True)
class Limits:
    """What those who attach may use.

    Attributes
    ----------
    longest_s : How long a reader's query may run, in seconds.
    rows : How many rows an answer may have that is more than a plain look at one table.
    at_once : How many such queries run at the same time; others wait for their turn.
    idle_s
        After how long without a statement a writer's open transaction is rolled back, in seconds.
    threads : How many threads a query may use; one leaves the others to those who write.
    memory, disk : What all queries and writings together may use in memory, and on disk beyond it,
        in DuckDB's words, such as `"2GB"`; None leaves DuckDB's own limits.
    """

    longest_s: float = 60.0
    rows: int = 1_000_000
    at_once: int = 2
    idle_s: float = 120.0
    threads: int = 1
    memory: str | None = None
    disk: str | None = None


@dataclass
class Caller:
    """A connection of somebody who attached; `was_active` once DuckDB's server listed it."""

    writes: bool
    last_at: float = field(default_factory=time.monotonic)
    was_active: bool = False
    in_transaction: bool = False
    answer: str | None = None


@dataclass
class Running:
    """A query that waits for its turn or runs, for whom, and why it was ended, if it was."""

    asker: Asker | None
    deadline: float = math.inf
    ended: str = ""


class _NoSelect(Exception):
    """A statement is not what readers may run at all."""


class Gate:
    """The two listeners of an owner.

    Parameters
    ----------
    root : A connection to the open database; its settings must not be locked yet. It stays the
        caller's.

    Attributes
    ----------
    addresses, tokens : of the two listeners, by whether it is the writers'.
    """

    def __init__(self, root: Connection, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self.tokens = {True: secrets.token_hex(32), False: secrets.token_hex(32)}
        self._callers: dict[str, Caller] = {}
        self._lock = threading.Lock()
        self._turns = {of: threading.BoundedSemaphore(limits.at_once) for of in (True, False)}
        self._running: dict[Connection, Running] = {}
        self._numbers = itertools.count()
        self._closing = threading.Event()
        self.settle: Callable[[], object] | None = None
        with translated():
            root.execute(f"SET threads = {limits.threads}")
            if limits.memory is not None:
                root.execute(f"SET memory_limit = {literal(limits.memory)}")
            if limits.disk is not None:
                root.execute(f"SET max_temp_directory_size = {literal(limits.disk)}")
            root.execute("ATTACH ':memory:' AS aegis_answers")
            root.create_function("aegis_knows", self._knows, side_effects=True)
            root.create_function("aegis_admits", self._admits, side_effects=True)
            root.execute("SET GLOBAL quack_authentication_function = 'aegis_knows'")
            root.execute("SET GLOBAL quack_authorization_function = 'aegis_admits'")
            self.addresses = {writes: self._listening(writes) for writes in (True, False)}
        self._watch = threading.Thread(target=self._watching, name="aegis-gate", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Stop listening, ending what still runs."""
        self._closing.set()
        self._watch.join()
        with self._lock:
            for connection in self._running:
                connection.interrupt()
        for address in self.addresses.values():
            with translated():
                self._root.execute(f"FROM quack_stop({literal(address)})").fetchall()

    def _listening(self, writes: bool) -> str:
        for attempt in itertools.count():
            address = f"quack:{LOOPBACK}:{free_port(0)}"
            token = literal(self.tokens[writes])
            try:
                with translated():
                    self._root.execute(f"FROM quack_serve('{address}', token := {token})")
                    self._root.fetchall()
                return address
            except AegisError:
                if attempt == 3:
                    raise
        raise AssertionError

    # --- what DuckDB's server asks, in threads of its own ---------------------------------

    def _knows(self, caller: str, token: str, listener: str) -> str | None:
        """Whether a token opens a listener; None refuses."""
        if not hmac.compare_digest(token.encode(), listener.encode()):
            return None
        with self._lock:
            self._callers[caller] = Caller(writes=listener == self.tokens[True])
        return "known"

    def _admits(self, caller: str, sql: str) -> str | None:
        """The statement to run for a caller's; None refuses.

        For rows that a caller sends, DuckDB's server asks about an INSERT that it does not run,
        and any text that comes back admits them. So what is no SELECT gets None and no reason.
        """
        with self._lock:
            known = self._callers.get(caller)
            if known is None:
                return None
            known.last_at = time.monotonic()
        if sql in _SEEN_BY_CLIENTS:
            return _SEEN_BY_CLIENTS[sql]
        if known.writes:
            if self.settle is not None and _OWNERS_ALONE.match(sql):
                return None
            word = sql.strip(" \n\t;").upper()
            if word.startswith("BEGIN"):
                known.in_transaction = True
                if self.settle is not None:
                    self.settle()
            elif word in ("COMMIT", "ROLLBACK"):
                known.in_transaction = False
            return sql
        yield_to_writers()
        try:
            if self.settle is not None:
                self.settle()
            return self._for_reader(known, sql)
        except _NoSelect:
            return None
        except Exception as e:  # the reader is told, whatever it is
            return f"SELECT error({literal(str(e))})"

    def _for_reader(self, known: Caller, sql: str) -> str:
        if sql.startswith(STOP):
            self._end(sql.removeprefix(STOP))
            return "SELECT true"
        most = self._limits.rows
        with contextlib.closing(self._root.cursor()) as connection, translated():
            self._forget(connection, known)
            checked, plain = self._checked(connection, sql)
            if plain:
                return checked
            # Everybody can list the columns of answers, so they do not have their names there.
            described = connection.execute(f"DESCRIBE FROM ({checked})").fetchall()
            names = {f"c{i}": name for i, (name, *_) in enumerate(described)}
            table = f"aegis_answers.main.a{next(self._numbers)}"
            made = f"CREATE TABLE {table} ({', '.join(names)}) AS FROM ({checked}) LIMIT {most + 1}"
            with self._turn(connection, Asker.read(sql)):
                found = connection.execute(made).fetchone()
            known.answer = table
            if found and found[0] > most:
                raise InputError(f"The answer has more than {most:,} rows; add a LIMIT.")
            shown = ", ".join(f"{c} AS {quoted(name)}" for c, name in names.items())
            return f"SELECT {shown} FROM {table}"

    def _end(self, key: str) -> None:
        """End the queries of an asker who does not want their answers any more."""
        with self._lock:
            for running in self._running.values():
                if running.asker is not None and running.asker.key == key:
                    running.ended = "it was given up"

    @contextlib.contextmanager
    def _turn(self, connection: Connection, asker: Asker | None) -> Iterator[None]:
        """Run what may take long: one of a few, and interrupted when its time is over.

        A board's are not held up by those of others.
        """
        longest_s = self._limits.longest_s
        turns = self._turns[asker is not None and asker.board]
        running = Running(asker)
        until = time.monotonic() + longest_s
        with self._lock:
            self._running[connection] = running
        try:
            while not turns.acquire(timeout=_BETWEEN_LOOKS_S):
                if running.ended:
                    raise StoreError(f"The query was ended; {running.ended}.")
                if time.monotonic() > until:
                    raise StoreError(
                        f"The database was busy with other queries for {longest_s:g} s."
                    )
            try:
                running.deadline = time.monotonic() + longest_s
                yield
            except Exception as e:
                if running.ended:
                    raise StoreError(f"The query was ended; {running.ended}.") from e
                raise
            finally:
                turns.release()
        finally:
            with self._lock:
                del self._running[connection]

    def _forget(self, connection: Connection, known: Caller) -> None:
        table, known.answer = known.answer, None
        if table is not None:
            connection.execute(f"DROP TABLE IF EXISTS {table}")

    def _checked(self, connection: Connection, sql: str) -> tuple[str, bool]:
        """The statement as it was understood, and whether it only looks at one table."""
        told = connection.execute(f"SELECT json_serialize_sql({literal(sql)}::VARCHAR)").fetchall()
        tree = json.loads(told[0][0])
        if tree["error"]:
            if tree.get("error_type") != "parser":
                raise _NoSelect
            raise InputError(str(tree.get("error_message")))
        if len(tree["statements"]) != 1:
            raise InputError("One SELECT at a time, please." if tree["statements"] else "Empty.")
        names = self._names(connection)
        check(tree["statements"], names)
        text = connection.execute(f"SELECT json_deserialize_sql({literal(told[0][0])})").fetchall()
        return text[0][0].rstrip("; \n"), is_plain(tree["statements"][0]["node"], names)

    def _names(self, connection: Connection) -> Names:
        found = connection.execute(
            "SELECT lower(table_name), 'table' FROM duckdb_tables() "
            "WHERE database_name = current_database() UNION ALL "
            "SELECT lower(view_name), if(internal, 'system', 'view') FROM duckdb_views() "
            "WHERE internal OR database_name = current_database()"
        ).fetchall()
        kinds = ("table", "view", "system")
        return Names(*(frozenset(name for name, its in found if its == kind) for kind in kinds))

    # --- what the owner looks after --------------------------------------------------------

    def _watching(self) -> None:
        looked_at = 0.0
        memory = self._root.cursor()
        while not self._closing.wait(_BETWEEN_LOOKS_S):
            now = time.monotonic()
            with self._lock:
                queries = list(self._running.items())
            full = bool(queries) and _is_full(memory)
            looks = now - looked_at > 1
            with self._lock:
                for connection, running in queries:
                    if full and running.deadline < math.inf:
                        running.ended = "it needed too much memory"
                    elif now >= running.deadline:
                        running.ended = f"it ran for {self._limits.longest_s:g} s"
                    elif looks and running.asker is not None and running.asker.is_gone:
                        running.ended = "who asked is gone"
                    if running.ended and connection in self._running:
                        connection.interrupt()
            if looks:
                looked_at = now
                self._look_after_callers(now)

    def _look_after_callers(self, now: float) -> None:
        with contextlib.closing(self._root.cursor()) as connection:
            found = connection.execute("SELECT connection_id FROM quack_active_connections()")
            active = {caller for (caller,) in found.fetchall()}
            with self._lock:
                callers = dict(self._callers)
            for caller, known in callers.items():
                idle_s = now - known.last_at
                known.was_active |= caller in active
                # Between knocking and the first statement a caller is not listed yet, for seconds
                # on a busy machine.
                gone = caller not in active and idle_s > (5 if known.was_active else 3600)
                if gone or idle_s > _ANSWER_KEPT_S:
                    self._forget(connection, known)
                if gone:
                    with self._lock:
                        self._callers.pop(caller, None)
                elif idle_s > (self._limits.idle_s if known.in_transaction else 3600):
                    self._part(caller, known)

    def _part(self, caller: str, known: Caller) -> None:
        """Say goodbye in a caller's name, which rolls its transaction back."""
        address = self.addresses[known.writes].removeprefix("quack:")
        with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as sender:
            sender.request("POST", "/quack", _GOODBYE % caller.encode())
            sender.getresponse().read()


def _is_full(memory: Connection) -> bool:
    try:
        with translated():
            return bool(memory.execute(_FULL).fetchall()[0][0])
    except AegisError:  # not even enough to look
        return True


def yield_to_writers() -> None:
    """Give this thread, one of DuckDB's server, the processor after all others of the process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
