"""Parquet files for other tools: one folder a table, one below it a day."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from aegis_core.config import Settings
from aegis_core.errors import InputError
from aegis_core.store import audit
from aegis_core.store.database import Store
from aegis_core.store.files import apart, free, scratch
from aegis_core.store.journal import synced
from aegis_core.store.session import Session

TABLES: Final = {
    "transactions": ("SELECT {columns} FROM transactions t", "ts", "t.seq"),
    "verdicts": ("SELECT {columns} FROM verdicts t JOIN transactions d USING (seq)", "ts", "t.seq"),
    "labels": ("SELECT {columns} FROM labels t", "known_at", "t.rowid"),
    "states": ("SELECT {columns} FROM states t", "told_at", "t.rowid"),
    "reviews": ("SELECT {columns} FROM reviews t", "answered_at", "t.rowid"),
}
"""What is exported: how it is asked for, the column that tells the day, and the order."""
CHUNK_ROWS: Final = 250_000
_WRITTEN: Final = re.compile(rf"({'|'.join(TABLES)})(/day=[\d-]+(/part-\d+\.parquet)?)?")


@dataclass(frozen=True)
class Exported:
    """Rows by table, and the number of days that have any."""

    path: Path
    rows: dict[str, int]
    days: int

    def sentence(self) -> str:
        """The result in words."""
        told = ", ".join(f"{n:,} {table}" for table, n in self.rows.items())
        return f"{self.path}: {told}, of {self.days:,} days."


def export(
    store: Store,
    folder: Path,
    settings: Settings,
    *,
    who: str,
    force: bool = False,
    tell: Callable[[float], object] = lambda share: None,
) -> Exported:
    """Write one state of the database as Parquet, partitioned by day in the way of Hive.

    `folder/transactions/day=2026-03-01/part-0.parquet`: pandas, DuckDB and Spark read a table's
    folder as one. The day of a verdict is that of its transaction, of a label that from which it is
    known. A service may run meanwhile. `tell` is called with the share of the days done, in [0, 1].

    Raises
    ------
    InputError
        The folder is there, and `force` is not given; or it holds anything but an earlier export.
    StoreError : The disk is full; the folder is not there then, or is the one that was.
    """
    apart(folder.expanduser(), store.path, settings.models)
    final = free(folder, force=force)
    _nothing_else(final)
    rows, days = dict.fromkeys(TABLES, 0), set[date]()
    with scratch(final, "The export") as made:
        with store.snapshot() as session:
            todo = [(table, day) for table in TABLES for day in _days(session, table)]
            for i, (table, day) in enumerate(todo):
                rows[table] += _write(session, table, day, made / "export" / table)
                days.add(day)
                tell((i + 1) / len(todo))
        for table in TABLES:
            (made / "export" / table).mkdir(parents=True, exist_ok=True)
        if free(final, force=force).exists():
            _nothing_else(final)  # that came meanwhile
            old = made / "old"
            final.rename(old)
        (made / "export").rename(final)
        synced(final.parent)
    with store.changing(checkpoint=False) as session:
        audit.record(session, who, "export", final.name, {"rows": rows})
    return Exported(final, rows, len(days))


def _nothing_else(folder: Path) -> None:
    """Refuse to replace what no export has written."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name another folder to export to.")
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).as_posix()
        if not _WRITTEN.fullmatch(inside) or path.is_dir() == inside.endswith(".parquet"):
            raise InputError(
                f"{folder} is not replaced: it holds {inside}, which no export has written. Move "
                "that away, or name another folder."
            )


def _days(session: Session, table: str) -> list[date]:
    sql, moment, _ = TABLES[table]
    found = session.rows(f"{sql.format(columns=f'DISTINCT {moment}::DATE AS day')} ORDER BY day")
    return [row["day"] for row in found]


def _write(session: Session, table: str, day: date, folder: Path) -> int:
    """Write the rows of one day in files of at most so many rows; how many."""
    sql, moment, order = TABLES[table]
    asked = (
        f"{sql.format(columns='t.*')} WHERE {moment} >= ? AND {moment} < ? ORDER BY {order} "
        f"LIMIT {CHUNK_ROWS} OFFSET "
    )
    where, n = folder / f"day={day}", 0
    where.mkdir(parents=True)
    while rows := session.arrow(f"{asked}{n}", [day, day + timedelta(days=1)]):
        file = where / f"part-{n // CHUNK_ROWS}.parquet"
        pq.write_table(rows, file, compression="zstd")
        n += len(rows)
        if len(rows) < CHUNK_ROWS:
            break
    return n
