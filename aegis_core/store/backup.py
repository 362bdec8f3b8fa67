"""Backup and restore: one tar file with the database, the models of the register and checksums.

`manifest.json` comes first and tells the SHA-256 of every other member, the number of rows of each
table and the head of the audit. The database in it is a DuckDB file like any other, of one state.
"""

from __future__ import annotations

import contextlib
import glob
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aegis_core
from aegis_core.config import Settings
from aegis_core.errors import FileUnreadable, InputError, StoreBusy, StoreError
from aegis_core.machine import utc_now
from aegis_core.schema import SCHEMA_VERSION
from aegis_core.store import audit, files
from aegis_core.store.connection import opened, quoted
from aegis_core.store.database import Store, connect
from aegis_core.store.files import apart, aside, free, left_beside, moment, scratch, set_aside
from aegis_core.store.journal import synced
from aegis_core.store.session import Session
from aegis_core.store.tables import names

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DATABASE: Final = "aegis.duckdb"
CHUNK_ROWS: Final = 100_000


@dataclass(frozen=True)
class BackedUp:
    """What a backup holds.

    `missing` are registered models whose files are gone, and `left_out` views that do not work.
    """

    path: Path
    n_bytes: int
    rows: dict[str, int]
    models: tuple[str, ...]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    head: audit.Head | None

    def sentence(self) -> str:
        """The result in words."""
        gone = f" The files of {', '.join(self.missing)} are gone." if self.missing else ""
        gone += "".join(f" Left out, as it does not work any more: {v}" for v in self.left_out)
        return (
            f"{self.path}: {self.rows['transactions']:,} transactions, {self.rows['verdicts']:,} "
            f"verdicts and {len(self.models)} models in {self.n_bytes / 2**20:,.1f} MB.{gone}"
        )


@dataclass(frozen=True)
class Restored:
    """What a restore put where; `kept` is what was there before, `usable` whether it opened.

    `left` is what a database that was gone had left beside it, under the names it is kept by.
    `renamed` are folders of models of which others of the same name were there, and stay.
    """

    path: Path
    made_at: str
    rows: dict[str, int]
    models: tuple[str, ...]
    kept: Path | None
    usable: bool
    left: tuple[Path, ...] = ()
    renamed: tuple[Path, ...] = ()

    def sentence(self) -> str:
        """The result in words."""
        was = "What was there" if self.usable else "What was there, and could not be opened,"
        kept = f" {was} is kept in {self.kept}." if self.kept else ""
        if self.left:
            kept = f" What another one left is kept in {', '.join(map(str, self.left))}."
        if self.renamed:
            kept += (
                " Other models of the same name are there and stay; those of the backup are in "
                f"{', '.join(map(str, self.renamed))}."
            )
        return (
            f"{self.path} is as it was on {self.made_at[:16].replace('T', ' ')} UTC: "
            f"{self.rows['transactions']:,} transactions and {len(self.models)} models.{kept}"
        )


def backup(
    store: Store,
    file: Path,
    settings: Settings,
    *,
    who: str,
    force: bool = False,
    tell: Callable[[float], object] = lambda share: None,
) -> BackedUp:
    """Write a backup of one state of the database, with the models of its register.

    A service may run and go on scoring: the copy is what was committed when it began. Without
    one, nobody can write while the database is copied. `tell` is called with the share of the rows
    done, in [0, 1].

    Raises
    ------
    InputError : The file is there, and `force` is not given; or it belongs to the database.
    StoreError : The disk is full; there is no file then, or the one that was there.
    """
    apart(file.expanduser(), store.path, settings.models)
    final = free(file, force=force)
    with scratch(final, "The backup") as folder:
        with store.snapshot() as session:
            rows, broken = _copied(session, folder / DATABASE, tell)
            head = audit.head(session)
            registered = session.rows("SELECT version, path FROM models ORDER BY version")
        found = {m["version"]: settings.home / m["path"] for m in registered}
        members = {DATABASE: folder / DATABASE} | {
            f"models/{version}/{name}": where / name
            for version, where in found.items()
            for name in files.checksums(where)
        }
        present = tuple(v for v in found if found[v].is_dir())
        manifest = {
            "format": FORMAT,
            "aegis": aegis_core.__version__,
            "schema_version": SCHEMA_VERSION,
            "made_at": utc_now().isoformat(timespec="seconds"),
            "rows": rows,
            "models": present,
            "audit_head": str(head) if head else None,
            "files": {name: files.checksum(path) for name, path in members.items()},
        }
        archive = folder / "archive.tar"
        with tarfile.open(archive, "x", format=tarfile.PAX_FORMAT) as tar:
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
            for name, path in {MANIFEST: folder / MANIFEST, **members}.items():
                tar.add(path, name, recursive=False)
        synced(archive)
        members[DATABASE].unlink()  # its room is needed
        _unpacked(archive, folder / "read")  # a backup that was never read is a hope
        archive.chmod(0o600)
        archive.replace(free(final, force=force))  # another one may have come meanwhile
        synced(final.parent)
    with store.changing(checkpoint=False) as session:
        noted = {"head": manifest["audit_head"], "rows": rows}
        audit.record(session, who, "backup", final.name, noted)
    gone = tuple(version for version in found if version not in present)
    return BackedUp(final, final.stat().st_size, rows, present, gone, tuple(broken), head)


def restore(
    file: Path, settings: Settings, *, to: Path | None = None, who: str, force: bool = False
) -> Restored:
    """Put a backup in place of the database, or at `to`; what was there is kept aside.

    Nothing is touched before every checksum and the audit in the backup were found right. A folder
    of a model is never replaced, as another database may use it: where it has other files than
    that of the backup, the restored database gets its own beside it. The settings say where both
    go.

    Raises
    ------
    FileUnreadable : It is no backup, or a damaged one.
    InputError : A database is there, without `force`.
    StoreBusy : A service runs, or another process holds the database.
    StoreError : The audit in it is broken, or the disk is full.
    """
    here = connect(to or settings.db)
    final = here.path
    if here.owned_by_any:
        raise StoreBusy(f"A service owns {final}; end it first, then restore.")
    keeps = "--force restores over it and keeps it aside, --to PATH restores elsewhere"
    free(final, force=force, option=keeps)
    now = moment()
    with (
        scratch(final, "The restored database") as folder,
        audit.alone(final, here.wait_s),  # nobody changes what is about to be replaced
        contextlib.ExitStack() as undoing,
    ):
        free(final, force=force, option=keeps)  # another one may have come meanwhile
        manifest = _unpacked(file.expanduser().absolute(), folder)
        copy = connect(folder / DATABASE)
        head = manifest["audit_head"]
        with copy.snapshot() as session:
            verified = audit.verify(session, [audit.Head.read(head)] if head else [])
        if verified.problem:
            raise StoreError(f"{file} is not restored. {verified.sentence()}")
        kept = aside(final, now) if final.exists() else None
        left = () if kept else tuple(left_beside(final, aside(final, now)).values())
        if kept:
            _settled(here)
        placed = {
            version: _placed(folder / "models" / version, settings.models / version, now, undoing)
            for version in manifest["models"]
        }
        with copy.changing() as session:
            for version, where in placed.items():
                inside = where.is_relative_to(settings.home)
                session.execute(
                    "UPDATE models SET path = ? WHERE version = ?",
                    [str(where.relative_to(settings.home) if inside else where), version],
                )
            change = {
                "made_at": manifest["made_at"],
                "kept": kept.name if kept else None,
                "left": [path.name for path in left],
                "head_before": str(audit.kept_head(final) or "") or None,
            }
            audit.record(session, who, "restore", file.name, change)
            noted = audit.head(session)
        synced(folder / DATABASE)
        usable = _settled(here) if kept else True  # nobody came since
        set_aside(final, aside(final, now))
        (folder / DATABASE).replace(final)
        undoing.pop_all()
        synced(final.parent)
        audit.keep_head(final, noted)
    renamed = tuple(where for version, where in placed.items() if where.name != version)
    return Restored(
        final, manifest["made_at"], manifest["rows"], tuple(placed), kept, usable, left, renamed
    )


def _copied(
    session: Session, path: Path, tell: Callable[[float], object]
) -> tuple[dict[str, int], list[str]]:
    """Copy a state into a new file, in order; rows of each table, and views that do not work."""
    here = "database_name = current_database() AND NOT internal AND NOT temporary"
    there = session.rows(
        "SELECT schema_name || '.' || table_name AS path, table_name, sql FROM duckdb_tables() "
        f"WHERE {here} ORDER BY table_name"
    )
    if other := [row["path"] for row in there if not row["path"].startswith("main.")]:
        raise InputError(f"A backup holds the schema main; move {', '.join(other)} there.")
    tables = {row["table_name"]: row["sql"] for row in there}
    views = [v["sql"] for v in session.rows(f"SELECT sql FROM duckdb_views() WHERE {here}")]
    exact = session.rows(  # Arrow's numbers of more than 64 bits would come as floats
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = "
        "current_database() AND (data_type LIKE 'DECIMAL%' OR data_type LIKE '%HUGEINT')"
    )
    asked = "SELECT count(*) AS n, coalesce(max(rowid) + 1, 0) AS places FROM "
    sizes = {name: session.rows(asked + quoted(name))[0] for name in tables}
    total, done = max(1, sum(size["places"] for size in sizes.values())), 0
    copy = connect(path)
    with copy.writing() as into:
        for name, sql in tables.items():
            into.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
            into.execute(sql)  # as it is there, with columns that somebody added
            texts = [quoted(c["column_name"]) for c in exact if c["table_name"] == name]
            as_text = ", ".join(f"{column}::VARCHAR AS {column}" for column in texts)
            columns = f"* REPLACE ({as_text})" if as_text else "*"
            for start in range(0, sizes[name]["places"], CHUNK_ROWS):
                end = min(start + CHUNK_ROWS, sizes[name]["places"])
                part = session.arrow(
                    f"SELECT {columns} FROM {quoted(name)} WHERE rowid >= {start} "
                    f"AND rowid < {end} ORDER BY rowid"
                )
                if part.num_rows:
                    into.append(name, part)
                done += end - start
                tell(done / total)
    return {name: size["n"] for name, size in sizes.items()}, _look_like(copy, views)


def _look_like(copy: Store, views: list[str]) -> list[str]:
    """Make views, of which some may need others first; those that do not work any more."""
    while views:
        waiting = []
        for sql in views:
            try:
                with copy.writing() as into:
                    into.execute(sql)
            except InputError:
                waiting.append(sql)
        if len(waiting) == len(views):
            return waiting
        views = waiting
    return []


def _unpacked(file: Path, folder: Path) -> dict[str, Any]:
    """The manifest of a backup, unpacked into `folder`, of which all is as the manifest says."""
    if not file.is_file():
        raise FileUnreadable(f"There is no file {file}.")
    try:
        with tarfile.open(file, "r:") as tar:
            manifest = _manifest(file, tar)
            missing = dict(manifest["files"])
            for member in tar:
                if member.name == MANIFEST:
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.name not in missing:
                    raise FileUnreadable(f"{file} holds {member.name!r}, which is not of a backup.")
                where = folder / member.name
                where.parent.mkdir(parents=True, exist_ok=True)
                with where.open("wb") as out:
                    shutil.copyfileobj(content, out)
                if files.checksum(where) != missing.pop(member.name):
                    raise FileUnreadable(f"{file} is damaged: {member.name} has another checksum.")
    except (tarfile.TarError, EOFError) as e:
        raise FileUnreadable(f"{file} is no backup, or is cut short: {e}.") from None
    if missing:
        raise FileUnreadable(f"{file} is damaged: it lacks {sorted(missing)[0]}.")
    with contextlib.closing(opened(folder / DATABASE, read_only=True, wait_s=0)) as connection:
        session = Session(connection, writable=False)  # of whatever version it is
        count = "SELECT count(*) FROM "
        found = {name: session.value(count + quoted(name)) for name in names(session)}
    told = manifest["rows"]
    for name in sorted(told.keys() | found.keys()):
        if told.get(name) != found.get(name):
            raise FileUnreadable(
                f"{file} is damaged: {name} has {found.get(name, 'no')} rows in it instead of "
                f"{told.get(name, 'no')}."
            )
    return manifest


def _manifest(file: Path, tar: tarfile.TarFile) -> dict[str, Any]:
    first = tar.next()
    content = tar.extractfile(first) if first and first.name == MANIFEST else None
    if content is None:
        raise FileUnreadable(f"{file} is no backup of Aegis: it does not begin with {MANIFEST}.")
    try:
        manifest: dict[str, Any] = json.loads(content.read())
        files, versions = manifest["files"], manifest["models"]
        known = manifest["format"] == FORMAT and manifest["schema_version"] <= SCHEMA_VERSION
        sound = all(_is_ours(name, versions) for name in files) and DATABASE in files
        sound &= isinstance(manifest["rows"], dict)
        sound &= all(_is_ours(f"models/{version}/file", versions) for version in versions)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileUnreadable(f"{file} is damaged: its {MANIFEST} cannot be read.") from None
    if not known:
        raise FileUnreadable(
            f"{file} was written by Aegis {manifest.get('aegis')}, which is newer. Use that one."
        )
    if not sound:
        raise FileUnreadable(f"{file} names files that are not of a backup.")
    return manifest


def _is_ours(name: str, versions: list[str]) -> bool:
    """Whether a member may be unpacked: the database, or a file of a model, and nowhere else."""
    first, *inside = name.split("/")
    in_a_model = first == "models" and len(inside) > 1 and inside[0] in versions
    plain = "\\" not in name and not {"", ".", ".."} & set(inside)
    return name == DATABASE or (in_a_model and plain)


def _placed(unpacked: Path, wanted: Path, now: str, undoing: contextlib.ExitStack) -> Path:
    """Where the files of a model are now: in `wanted`, or beside it where that has others."""
    before = wanted.parent.glob(f"{glob.escape(wanted.name)}.restored-*")
    for there in (wanted, *sorted(before)):
        if there.exists() and files.folder_checksum(there) == files.folder_checksum(unpacked):
            return there
    final = wanted.with_name(f"{wanted.name}.restored-{now}") if wanted.exists() else wanted
    with scratch(final, "The model") as folder:
        shutil.copytree(unpacked, folder / final.name)
        (folder / final.name).rename(final)
    undoing.callback(shutil.rmtree, final, ignore_errors=True)
    return final


def _settled(here: Store) -> bool:
    """Whether the database can be used, with all that belongs to it inside and nobody at work."""
    try:
        with here.writing():
            return True
    except StoreBusy:  # somebody is
        raise
    except (StoreError, InputError):
        return False
