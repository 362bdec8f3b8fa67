"""The tables of a database: made where they are missing, brought up to date where they are older.

Before an older database is changed, a copy of it is kept beside it under a name that tells the
version and the time; the change itself is one transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from aegis_core.errors import InputError, NotReady, StoreError, StoreVersion
from aegis_core.schema import COLUMNS, MIGRATIONS, SCHEMA_VERSION, TABLES
from aegis_core.store import audit
from aegis_core.store.connection import literal, quoted
from aegis_core.store.files import moment, scratch
from aegis_core.store.session import Params, Session


def names(session: Session) -> frozenset[str]:
    """Names of the tables of a database."""
    found = session.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
        "AND schema_name = 'main' AND NOT temporary"
    ).fetchall()
    return frozenset(name for (name,) in found)


def version(session: Session, tables: frozenset[str], path: Path) -> int:
    """The schema version of the file, at most this code's own.

    Raises
    ------
    NotReady : Nothing was ever written to it.
    StoreError, StoreVersion : Aegis did not make it, or a later one did.
    """
    if not tables:
        raise NotReady(
            f"{path} is empty. Fill it with `aegis import FILE` or `aegis run generate`."
        )
    foreign = StoreError(
        f"{path} is a DuckDB database that Aegis did not make. Name another with --db."
    )
    if "meta" not in tables:
        raise foreign
    found = session.noted("schema_version")
    if not found:
        raise foreign
    known = {str(n): n for n in (*MIGRATIONS, SCHEMA_VERSION)}
    if found not in known:
        raise StoreVersion(
            f"{path} has schema version {found}, this Aegis uses {SCHEMA_VERSION}. "
            "Use the Aegis that wrote it, or name another database with --db."
        )
    return known[found]


@contextlib.contextmanager
def up_to_date(session: Session, path: Path) -> Iterator[int]:
    """A transaction that first makes what is missing and migrates what is older, keeping a copy.

    Yields the version that was there.

    `StoreError` where the copy cannot be written; nothing was changed then.
    """
    tables = names(session)
    older = version(session, tables, path) if tables else SCHEMA_VERSION
    kept = _copy_kept(session, path, older) if older < SCHEMA_VERSION else None
    with session.transaction():
        if not tables:
            session.execute("CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR)")
            session.execute("INSERT INTO meta VALUES ('schema_version', ?)", [str(SCHEMA_VERSION)])
        for name, body in TABLES.items():
            if name not in tables:
                session.execute(f"CREATE TABLE {name} ({body})")
        changes = [s for at in range(older, SCHEMA_VERSION) for s in MIGRATIONS[at]]
        # DuckDB alters no table of which this transaction has changed a row
        for statement in sorted(changes, key=lambda s: not s.startswith("ALTER")):
            session.execute(statement)
        if kept:
            now = str(SCHEMA_VERSION)
            session.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", [now])
            change = {"from": older, "to": SCHEMA_VERSION, "kept": kept.name}
            audit.record(session, "aegis", "migrate", "schema", change)
        yield older


def _copy_kept(session: Session, path: Path, older: int) -> Path:
    kept = path.with_name(f"{path.stem}.v{older}-{moment()}{path.suffix}")
    try:
        with scratch(path, "The copy of it") as folder:
            copy_into(session, folder / kept.name)
            (folder / kept.name).replace(kept)
    except (StoreError, InputError) as e:
        raise StoreError(
            f"{path} is of an older version, and no copy of it could be kept before bringing it "
            f"up to date: {e} Make room for a second one; nothing was changed."
        ) from e
    return kept


def copy_into(
    session: Session, path: Path, tell: Callable[[float], object] = lambda share: None
) -> None:
    """Copy the whole database that is open into a new file.

    Everything that DuckDB knows of goes along, and every table keeps the order of its rows. `tell`
    is called with the share done, in [0, 1]. `StoreError` where the file cannot be written, or
    holds other rows afterwards.
    """
    ((here,),) = session.execute("SELECT current_database()").fetchall()
    session.execute(f"ATTACH {literal(str(path))} AS aegis_copy")
    try:
        session.watched(f"COPY FROM DATABASE {quoted(here)} TO aegis_copy", None, tell)
        for name in sorted(names(session)):
            source, copy = (
                session.value(f"SELECT count(*) FROM {of}.{quoted(name)}")
                for of in (quoted(here), "aegis_copy")
            )
            if source != copy:
                raise StoreError(f"The copy of {name} has {copy:,} rows instead of {source:,}.")
        session.execute("CHECKPOINT aegis_copy")
    finally:
        with contextlib.suppress(StoreError, InputError):
            session.execute("DETACH aegis_copy")


def hashed(
    session: Session, where: str = "true", params: Params = None, n_labels: int | None = None
) -> str:
    """`Store.data_hash` in a session; of the first `n_labels` labels alone if a number is given."""
    label_columns = "transaction_id, is_fraud, scenario, known_at"
    labels = "labels" if n_labels is None else f"(FROM labels ORDER BY rowid LIMIT {n_labels:d})"
    chosen = f"SELECT transaction_id FROM transactions WHERE {where}"
    total = "SELECT count(*) AS n, sum(hash({})::HUGEINT)::VARCHAR AS total FROM {}"
    content = ", ".join(["seq", *(c.name for c in COLUMNS if not c.since), "source"])
    newer = ", ".join(c.name for c in COLUMNS if c.since)
    parts = [
        row
        for columns, of in (
            (content, f"transactions WHERE {where}"),
            (label_columns, f"{labels} WHERE transaction_id IN ({chosen})"),
            (f"seq, {newer}", f"transactions WHERE {where} AND coalesce({newer}) IS NOT NULL"),
        )
        for row in session.rows(total.format(columns, of), params)
    ]
    if not parts[-1]["n"]:  # nothing that older versions did not know
        parts.pop()
    told = "|".join(f"{part['n']}:{part['total']}" for part in parts)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
