"""The DuckDB file: opened for one statement or one block, then let go; or owned for long.

DuckDB lets one process write a file *or* many read it. So a `Store` holds the file only while a
statement or a `with` block runs, and an analyst's notebook, the stream and the dashboard take
turns; each opening waits, up to `wait_s`, while another process holds the file. A process that
writes all the time holds it inside of `owned()` instead.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis_core.errors import InputError, NotReady, StoreBusy, StoreError, StoreVersion
from aegis_core.machine import private
from aegis_core.schema import SCHEMA_VERSION
from aegis_core.store import audit, journal, meaning, tables
from aegis_core.store.attached import Attached
from aegis_core.store.connection import opened
from aegis_core.store.endpoint import Endpoint, find, publish, started, withdraw
from aegis_core.store.gate import Limits
from aegis_core.store.owner import Held
from aegis_core.store.session import Params, Session

if TYPE_CHECKING:
    import pandas as pd

_LONGEST_WAL = "512KB"  # every opening replays it, about 20 ms for each 100 KB


def connect(path: Path | str | None = None, *, wait_s: float = 30.0, board: bool = False) -> Store:
    """A store on the DuckDB file at `path`; None means the one of the settings.

    No file is opened yet; a missing one is created by the first `writing()`. With `board`, queries
    beside a service have turns of their own, which those of others do not take.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = connect(Path(folder) / "a.duckdb")
    ...     with store.writing() as session:
    ...         _ = session.execute("INSERT INTO labels VALUES ('t1', true, NULL, now(), NULL, -1)")
    ...     store.rows("SELECT transaction_id, is_fraud FROM labels")
    [{'transaction_id': 't1', 'is_fraud': True}]
    """
    if path:
        return Store(Path(path), wait_s=wait_s, board=board)
    from aegis_core import config  # 10 MB, which a visitor's kernel does without

    return Store(config.load().db, wait_s=wait_s, board=board)


class _OfAThread(threading.local):
    session: Session | None = None  # of the block that the thread is in


class Store:
    """A DuckDB file that processes and threads share by taking turns.

    Parameters
    ----------
    path : The file, also by a link to it. It need not exist until something is read.
    wait_s : How long an opening waits while others hold the file, in seconds.
    board : Whether it is a board's, which has turns of its own at an owner.
    """

    def __init__(self, path: Path | str, *, wait_s: float = 30.0, board: bool = False) -> None:
        self.path = Path(os.path.realpath(Path(path).expanduser()))  # one name for locks and logs
        self.wait_s = wait_s
        self.board = board
        self._turn = threading.RLock()
        self._here = _OfAThread()
        self._held: Held | None = None
        self._attached: Attached | None = None

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Several statements on one read-only opening, so that they see the same state.

        Inside a `writing()` block of the same store it is that block's session.

        Raises
        ------
        NotReady : There is no database, or nothing was ever written to it.
        StoreBusy : Another process held the file for `wait_s`.
        FileUnreadable, StoreVersion : The file is no DuckDB database, or one of another version.
        """
        if self._here.session is not None:
            yield self._here.session
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
                self._require_no_remains()
                raise NotReady(
                    f"There is no database at {self.path}. Make one with `aegis import FILE` or "
                    "`aegis run generate`, or name another with --db, AEGIS_DB or AEGIS_HOME."
                )
            with self._opened(read_only=True) as session:
                older = tables.version(session, tables.names(session), self.path) < SCHEMA_VERSION
                if not older and not journal.is_behind(session, self.path):
                    yield session
                    return
            with self.writing():
                pass  # brings it up to date
            with self._opened(read_only=True) as session:
                yield session

    @contextmanager
    def unsettled(self) -> Iterator[Session]:
        """A session for temporary tables, and to read what is in the tables by now.

        For the owner's engine: it waits for nobody, and what was answered last may be missing.
        """
        if self._held is None:
            raise StoreError(f"{self.path} is not owned by this store.")
        with self._held.reading(settled=False) as connection:
            yield Session(connection, writable=True, owned=True)

    @contextmanager
    def writing(self, *, checkpoint: bool = True) -> Iterator[Session]:
        """One opening and ONE transaction: committed at the end, rolled back on an error.

        Creates the file and its tables where they are missing. A `writing()` inside joins the
        block outside.

        Parameters
        ----------
        checkpoint : Whether the file alone holds everything afterwards. False leaves the last half
            megabyte or so, as safely, in the `.wal` file beside it, and suits many small blocks: 50
            rows onto 1.75 million took 40 ms instead of 190 ms.

        Raises
        ------
        StoreError
            Called inside a `reading()` block of the same store, or the file cannot be written.
        StoreBusy : Another process held the file for `wait_s`.
        """
        if self._here.session is not None:
            if not self._here.session.writable:
                raise StoreError("writing() inside a reading() block; end that block first.")
            yield self._here.session
            return
        if self._held is not None:
            self._held.settle()
        with self._in_turn():
            if self._held is not None:
                owned = Session(
                    self._held.writer, writable=True, owned=True, scores=self._held.scores
                )
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
                with self._up_to_date(session):
                    yield session

    @contextmanager
    def changing(self, *, checkpoint: bool = True) -> Iterator[Session]:
        """A `writing()` that the audit is told of: one such block at a time, of all processes.

        Inside a `writing()` of this thread it joins that block, without waiting for others. The
        head that was kept until then is not forgotten where the audit lacks it. `StoreBusy` where
        another one went on for `wait_s`, or what `writing` raises.
        """
        if self._here.session is not None:
            with self.writing() as session:
                yield session
            return
        self._make_folder()
        with audit.alone(self.path, self.wait_s):
            kept = audit.kept_head(self.path)
            with self.writing(checkpoint=checkpoint) as session:
                yield session
                noted = audit.head(session)
                lost = kept if kept and not audit.holds(session, kept) else None
            audit.keep_head(self.path, noted, lost)

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A reading of which all statements see one state, also through an owner."""
        mine = self._here.session is not None or self._held is not None
        with self.reading() if mine or self._owner() is None else self.writing() as session:
            yield session

    @contextmanager
    def owned(
        self, *, wait_s: float = 1.0, limits: Limits | None = None, rest: str = ""
    ) -> Iterator[Endpoint | None]:
        """Hold the file for the length of the block, as the one process that may.

        Inside, `reading()` and `writing()` of this store use connections to the file that stays
        open: a commit costs a write to its log and no opening. Readings of other threads go on
        beside a writing and see what was committed before them. Neither can reach files or the
        network, settings are locked, and `checkpoint` has no meaning: the log is folded into the
        file now and then, and at the end of the block.

        Parameters
        ----------
        wait_s : How long to wait while others hold the file, in seconds.
        limits : Given, other processes attach through DuckDB's own client-server protocol, on the
            loopback interface: `connect` finds the addresses in a file beside the database, and
            another file beside it may be handed to those who shall only read. The block gets them
            too.
        rest : The address at which this process answers over REST, for that file.

        Raises
        ------
        StoreBusy : Another process held the file for `wait_s`, or owns it.
        """
        with private(), self._in_turn():
            if self._held is not None:
                raise StoreError(f"{self.path} is owned by this store already.")
            self._make_folder()
            connection = opened(self.path, read_only=False, wait_s=wait_s)
            try:
                with self._up_to_date(Session(connection, writable=True)):
                    pass
                held = Held(connection, limits)
            except BaseException:
                connection.close()
                raise
            self._held = held
        endpoint: Endpoint | None = None
        try:
            if (gate := held.gate) is not None:
                endpoint = Endpoint(
                    pid=os.getpid(),
                    started=started(os.getpid()),
                    schema_version=SCHEMA_VERSION,
                    writers=gate.addresses[True],
                    writers_token=gate.tokens[True],
                    readers=gate.addresses[False],
                    readers_token=gate.tokens[False],
                    rest=rest,
                    desk_token=secrets.token_urlsafe(32),
                    inode=self.path.stat().st_ino,
                )
                publish(self.path, endpoint)
            with private():  # the log is made anew now and then
                yield endpoint
        finally:
            if endpoint is not None:
                withdraw(self.path, endpoint)
            with self._turn:  # a writing in the middle ends first
                self._held = None
                held.close()

    def settle_with(self, settle: Callable[[], object] | None) -> None:
        """Inside of `owned()`: call `settle` before anybody reads or writes, here or attached.

        An engine has it bring what was answered into the tables, so that all see it. While there
        is one, it alone writes transactions.
        """
        if self._held is None:
            raise StoreError(f"{self.path} is not owned by this store.")
        self._held.settle_with(settle)

    @property
    def owned_by_any(self) -> bool:
        """Whether a process holds the database for long: this one or another."""
        return self._held is not None or self._owner() is not None

    def require_no_service(self) -> None:
        """`StoreBusy` where an engine owns the database, which would not know of new rows."""
        if self._held.scores if self._held is not None else self.owned_by_any:
            raise StoreBusy(
                f"A service or a live stream owns {self.path} and alone writes transactions. Send "
                "them to it (`aegis import FILE --to http://…`, `aegis run simulate -p target "
                "http://…`), or end it first."
            )

    def query(self, sql: str, params: Params = None) -> pd.DataFrame:
        """One read-only query as a pandas frame."""
        with self.reading() as session:
            return session.query(sql, params)

    def rows(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """One read-only query as one dictionary a row."""
        with self.reading() as session:
            return session.rows(sql, params)

    def value(self, sql: str, params: Params = None) -> Any:
        """The first value of one read-only query; None where it has no row."""
        with self.reading() as session:
            return session.value(sql, params)

    def first(self, sql: str, params: Params, otherwise: str) -> dict[str, Any]:
        """The first row of a query; an `InputError` that says `otherwise` where there is none."""
        if found := self.rows(sql, params):
            return found[0]
        raise InputError(otherwise)

    def data_hash(self, where: str = "true", params: Params = None) -> str:
        """A short hash of the transactions that `where` selects and of their labels.

        It does not depend on the order in which rows are stored, and changes when any value of
        any of these rows does. Stable for one version of DuckDB.
        """
        with self.reading() as session:
            return tables.hashed(session, where, params)

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
            attached = Attached(endpoint, board=self.board)
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
        with nullcontext() if read_only else private():
            connection = opened(self.path, read_only=read_only, wait_s=self.wait_s)
            try:
                connection.execute("SET TimeZone = 'UTC'")
                with self._as_session(Session(connection, writable=not read_only)) as session:
                    yield session
            finally:
                connection.close()

    @contextmanager
    def _up_to_date(self, session: Session) -> Iterator[None]:
        """A transaction that first brings in what an older version or a killed owner left."""
        with tables.up_to_date(session, self.path) as older:
            journal.recover(session, self.path)
            if older < SCHEMA_VERSION:
                meaning.bring(session, older)
            yield
        journal.remove(self.path)  # while nobody else can have begun a new one

    @contextmanager
    def _as_session(self, session: Session) -> Iterator[Session]:
        self._here.session = session
        try:
            yield session
        finally:
            self._here.session = None

    def _require_no_remains(self) -> None:
        if journal.is_left(self.path) and not self.path.exists():
            raise StoreError(
                f"There is no database at {self.path}, but the journal of one is beside it. Put "
                "the database back (`aegis restore FILE`), or move the folder "
                f"{journal.folder_of(self.path)} away to begin anew."
            )

    def _make_folder(self) -> None:
        self._require_no_remains()
        try:
            with private():
                self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"The folder of {self.path} cannot be made: {e}.") from e
