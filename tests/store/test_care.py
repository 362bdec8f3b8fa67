"""Backup, restore, compaction, export and migration: whole, or as it was before."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.config import Settings
from aegis_core.detection import registry
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import AegisError, FileUnreadable, InputError, StoreBusy, StoreError
from aegis_core.evaluation.parity import parity
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.schema import SCHEMA_VERSION, TABLES
from aegis_core.serving.engine import Engine
from aegis_core.store import Store, audit, backup, compaction, connect, export, files
from aegis_core.store.files import scratch
from aegis_core.store.gate import Limits
from aegis_core.store.journal import Journal
from aegis_core.store.session import Session

SOME = SyntheticConfig(n_transactions=2_000, n_customers=40, days=10)
OLDER = Path(__file__).parents[1] / "older"
EXACT = (
    "12345678901234567890.123456::DECIMAL(38, 6) AS d, "
    "1267650600228229401496703205377::HUGEINT AS h, "
    "'2026-03-01 12:00:00.000001'::TIMESTAMP AS t, 'a\\x00b'::BLOB AS b, [1, NULL] AS l, "
    "{'x': 0.1::DOUBLE} AS s, DATE '2026-03-01' AS day, NULL::VARCHAR AS nothing"
)
KILLED = """
import os, signal, sys
from pathlib import Path
from aegis_core import config
from aegis_core.store import audit, connect, tables

settings = config.load(home=sys.argv[1])
store = connect(settings.db)

def kill(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)

"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion, verdicts, a list and a table and a view of an analyst's own."""
    home = tmp_path_factory.mktemp("made")
    settings = config.load(home=home)
    store = connect(settings.db)
    write_history(store, SOME, progress=False)
    train(store, settings, Recipe(n_trees=10, max_samples=64))
    last = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"]
    rows, labels = next(iter(stream(SOME, 200, after=last, fraud_multiplier=10)))
    with Engine.open(store, settings) as engine:
        engine.take(rows, "test", labels)
    with store.writing() as session:
        session.execute("CREATE TABLE mine AS SELECT range AS n, 'ä' AS t FROM range(130000)")
        session.execute(f"CREATE TABLE exact AS SELECT {EXACT}")
        session.execute("DELETE FROM mine WHERE n % 3 = 0 OR n BETWEEN 20000 AND 120000")
        session.execute("CREATE VIEW alerts AS FROM verdicts WHERE decision != 'approve'")
        session.execute("CREATE VIEW a AS SELECT count(*) AS n FROM alerts")
        session.execute("ALTER TABLE reviews ADD COLUMN mood VARCHAR DEFAULT 'good'")
    return home


@pytest.fixture
def settings(made: Path, tmp_path: Path) -> Settings:
    shutil.copytree(made, tmp_path / "home")
    return config.load(home=tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Store:
    return connect(settings.db)


@pytest.fixture(scope="module")
def archive(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of `made`, taken from a copy."""
    home = tmp_path_factory.mktemp("archive") / "home"
    shutil.copytree(made, home)
    settings = config.load(home=home)
    return backup.backup(connect(settings.db), home.parent / "b.tar", settings, who="anna").path


def content(store: Store) -> dict[str, str]:
    """Every table as text, in the order of its rows, but for the audit."""
    with store.reading() as session:
        names = [r["table_name"] for r in session.rows("SELECT table_name FROM duckdb_tables()")]
        return {
            name: session.query(f'SELECT COLUMNS(*)::VARCHAR FROM "{name}" ORDER BY rowid').to_csv()
            for name in names
            if name != "audit"
        }


@contextmanager
def small_files(kilobytes: int) -> Iterator[None]:
    """A disk that takes no file above a size, as a full one does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def killed(code: str, home: Path, *arguments: object) -> None:
    """Run what kills itself in the middle."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED + code, str(home), *map(str, arguments)], check=False
    )
    assert done.returncode == -signal.SIGKILL


def left_over(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if "partial" in p.name or "compact" in p.name]


# --- backup and restore ------------------------------------------------------------------


def test_a_restored_backup_is_a_working_installation(
    store: Store, settings: Settings, archive: Path, tmp_path: Path
) -> None:
    other = config.load(home=tmp_path / "other")
    done = backup.restore(archive, other, who="ben")
    there = connect(other.db)
    assert content(there) == content(store)
    assert "transactions" in done.sentence()
    assert parity(there, other) == parity(store, settings)
    assert registry.champion(there, other).version == registry.champion(store, settings).version
    rows, labels = next(iter(stream(SOME, 10, after=pd.Timestamp("2026-03-01"))))
    with Engine.open(there, other) as engine:
        assert len(engine.take(rows, "test", labels))
    assert [e.action for e in audit.entries(there)][-1] == "restore"
    kept = audit.kept_head(other.db)
    assert kept is not None
    assert audit.verify(there, [kept]).problem is None
    assert there.rows("SELECT n FROM a") == store.rows("SELECT n FROM a")
    kept = "SELECT d::VARCHAR AS d, h::VARCHAR AS h FROM exact"
    assert there.rows(kept) == store.rows(kept)
    assert archive.stat().st_mode & 0o777 == 0o600


def test_a_backup_is_of_one_state_while_the_owner_goes_on_writing(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    ended, n = threading.Event(), 0

    def write() -> None:
        nonlocal n
        while not ended.is_set():
            with store.writing() as session:
                for table in ("one", "two"):
                    session.execute(f"INSERT INTO {table} FROM range({n}, {n + 5})")
            n += 5

    with store.owned(limits=Limits()):
        with store.writing() as session:
            for table in ("one", "two"):
                session.execute(f"CREATE TABLE {table} AS SELECT range AS n FROM range(0)")
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for i, asked in enumerate((store, connect(store.path))):  # the owner, and who attached
                file = tmp_path / f"{i}.tar"
                while (before := n) < 50 * (i + 1):
                    time.sleep(0.01)
                backup.backup(asked, file, settings, who="anna")
                backup.restore(file, settings, to=tmp_path / f"{i}.duckdb", who="anna", force=True)
                found = connect(tmp_path / f"{i}.duckdb").rows(
                    "SELECT count(*) AS n, max(n) + 1 AS last, (SELECT count(*) FROM two) AS two "
                    "FROM one"
                )[0]
                assert found["n"] == found["two"] == found["last"]
                assert before <= found["n"] <= n
        finally:
            ended.set()
            writer.join()


def test_a_table_that_a_backup_would_not_hold_is_said(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    with store.writing() as session:
        session.execute("CREATE SCHEMA mine")
        session.execute("CREATE TABLE mine.own (n INTEGER)")
    with pytest.raises(InputError, match=r"mine\.own"):
        backup.backup(store, tmp_path / "b.tar", settings, who="anna")
    assert compaction.compact(store, who="anna").after
    assert store.rows("SELECT * FROM mine.own") == []


def test_a_backup_does_not_replace_a_file_unless_told(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "b.tar"
    file.write_text("mine")
    with pytest.raises(InputError, match="--force"):
        backup.backup(store, file, settings, who="anna")
    assert file.read_text() == "mine"
    backup.backup(store, file, settings, who="anna", force=True)
    assert tarfile.is_tarfile(file)


def everything(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("work", [backup.backup, export.export])
@pytest.mark.parametrize(
    "target",
    [
        *(
            "data/aegis.duckdb",
            "data",
            ".",
            "data/models",
            "data/models/mine",
            "data/aegis.duckdb.state/mine",
            "link",
            "link/models",
        ),
        *("data/aegis.duckdb.wal", "data/aegis.duckdb.state", "data/aegis.duckdb.audit-head"),
        *("data/aegis.duckdb.endpoint", "db"),
    ],
)
def test_neither_backup_nor_export_replaces_what_the_database_needs(
    store: Store, settings: Settings, work: Callable[..., object], target: str
) -> None:
    home = settings.home
    for folder in (settings.models, home / "data/aegis.duckdb.state"):
        folder.mkdir(exist_ok=True)
        (folder / "mine").write_text("mine")
    (home / "link").symlink_to(home / "data")
    (home / "db").symlink_to(store.path)
    before = everything(home)
    with pytest.raises(InputError, match="which the database needs"):
        work(store, home / target, settings, who="anna", force=True)
    assert everything(home) == before


@pytest.mark.parametrize(
    "foreign",
    [
        *("mine", "transactions/mine.parquet", "labels/day=2026-03-01/mine.csv", ".hidden"),
        *("labels/day=2026-03-01/more/part-0.parquet", "reviews"),
    ],
)
def test_an_export_replaces_only_an_earlier_export(
    store: Store, settings: Settings, tmp_path: Path, foreign: str
) -> None:
    folder = tmp_path / "parquet"
    export.export(store, folder, settings, who="anna")
    if foreign == "reviews":
        (folder / foreign).rmdir()
    (folder / foreign).parent.mkdir(parents=True, exist_ok=True)
    (folder / foreign).write_text("mine")
    before = everything(folder)
    with pytest.raises(InputError, match=foreign.replace("/part-0.parquet", "")):
        export.export(store, folder, settings, who="anna", force=True)
    assert everything(folder) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        export.export(store, tmp_path / "file", settings, who="anna", force=True)


def test_a_model_or_view_that_is_broken_is_said_and_the_rest_is_backed_up(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    version, _ = registry.roles(store)
    shutil.rmtree(settings.models / version)
    with store.writing() as session:
        session.execute("DROP VIEW alerts")  # another one needs it
    made = backup.backup(store, tmp_path / "b.tar", settings, who="anna")
    assert made.missing == (version,)
    assert version in made.sentence()
    assert "VIEW a AS" in made.sentence()


def test_a_backup_that_is_killed_leaves_nothing_under_its_name(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "b.tar"
    code = (
        "from aegis_core.store import backup, compaction, export\n"
        "backup.backup(store, Path(sys.argv[2]), settings, who='x', tell=kill)"
    )
    killed(code, settings.home, file)
    assert not file.exists()
    assert left_over(tmp_path)
    backup.backup(store, file, settings, who="anna")
    assert not left_over(tmp_path)


def test_a_scratch_folder_is_removed_by_others_only_if_its_process_was_killed(
    tmp_path: Path,
) -> None:
    final = tmp_path / "b.tar"
    code = (
        "from aegis_core.store.files import scratch\n"
        "with scratch(Path(sys.argv[2]), 'It'):\n"
        "    kill()"
    )
    killed(code, tmp_path, final)
    assert len(left_over(tmp_path)) == 1
    with scratch(final, "The first") as first:
        assert left_over(tmp_path) == [first.name]
        (first / "content").write_text("mine")
        with scratch(final, "The second") as second:
            assert second != first
        assert (first / "content").read_text() == "mine"
    assert not left_over(tmp_path)


@pytest.mark.parametrize("force", [True, False])
def test_two_backups_to_one_file_at_once_are_whole_or_refused(
    store: Store, settings: Settings, tmp_path: Path, force: bool
) -> None:
    file, begun = tmp_path / "b.tar", tmp_path / "begun"
    code = f"""
import sys
from pathlib import Path
from aegis_core import config
from aegis_core.store import backup, connect

settings = config.load(home=sys.argv[1])
store, (file, begun) = connect(settings.db), map(Path, sys.argv[2:])
tell = lambda share: begun.touch()
backup.backup(store, file, settings, who="ben", force={force}, tell=tell)
"""
    processes: list[subprocess.Popen[bytes]] = []

    def beside(share: float) -> None:
        if not processes:
            command = [sys.executable, "-c", code, settings.home, file, begun]
            processes.append(subprocess.Popen(command, stderr=subprocess.PIPE))
            while not begun.exists() and processes[0].poll() is None:
                time.sleep(0.01)

    made, refused = None, ""
    try:
        made = backup.backup(store, file, settings, who="anna", force=force, tell=beside)
    except InputError as e:
        refused = str(e)
    told = processes[0].communicate(timeout=60)[1].decode()
    if force:
        assert (refused, told) == ("", "")
    else:
        assert [bool(refused), "InputError" in told].count(True) == 1
        assert "--force" in refused + told
    who = [e.who for e in audit.entries(store) if e.action == "backup"]
    assert sorted(who) == (["anna", "ben"] if force else ["anna" if made else "ben"])
    done = backup.restore(file, settings, to=tmp_path / "new.duckdb", who="eva")
    assert content(connect(done.path)) == content(store)
    assert not left_over(tmp_path)


def rewritten(archive: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive with other members."""
    with tarfile.open(archive) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    change(members)
    file = archive.with_name("changed.tar")
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return file


def flipped(members: dict[str, bytes]) -> None:
    data = bytearray(members["aegis.duckdb"])
    data[len(data) // 2] ^= 1
    members["aegis.duckdb"] = bytes(data)


def lacking(members: dict[str, bytes]) -> None:
    del members["aegis.duckdb"]


def with_more(members: dict[str, bytes]) -> None:
    members["more"] = b"x"


def fewer(members: dict[str, bytes]) -> None:
    """Another database in place of the one that was copied, with the right checksum."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other.duckdb"
        path.write_bytes(members["aegis.duckdb"])
        with connect(path).writing() as session:
            session.execute("DELETE FROM transactions WHERE seq < 1000")
        members["aegis.duckdb"] = path.read_bytes()
    manifest = json.loads(members["manifest.json"])
    manifest["files"]["aegis.duckdb"] = hashlib.sha256(members["aegis.duckdb"]).hexdigest()
    members["manifest.json"] = json.dumps(manifest).encode()


def outside(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest["models"].append("..")
    manifest["files"]["models/../../evil"] = "0" * 64
    members["manifest.json"] = json.dumps(manifest).encode()
    members["models/../../evil"] = b"x"


def above(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest["models"].append("..")
    members["manifest.json"] = json.dumps(manifest).encode()


def newer(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    members["manifest.json"] = json.dumps(manifest | {"schema_version": 99}).encode()


def unreadable(members: dict[str, bytes]) -> None:
    members["manifest.json"] = b"[]"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (flipped, "another checksum"),
        (lacking, "lacks aegis.duckdb"),
        (fewer, r"transactions has \d+ rows in it instead of"),
        (with_more, "not of a backup"),
        (outside, "not of a backup"),
        (above, "not of a backup"),
        (newer, "newer"),
        (unreadable, "cannot be read"),
        (None, "cut short"),
        ("text", "no backup"),
    ],
)
def test_a_damaged_backup_is_refused_and_nothing_is_touched(
    settings: Settings, archive: Path, tmp_path: Path, change: object, told: str
) -> None:
    if callable(change):
        file = rewritten(archive, change)
    else:
        file = tmp_path / "b.tar"
        file.write_bytes(archive.read_bytes()[:100_000] if change is None else b"hello" * 1000)
    before = settings.db.read_bytes()
    with pytest.raises(FileUnreadable, match=told):
        backup.restore(file, settings, who="anna", force=True)
    assert settings.db.read_bytes() == before
    assert not list(settings.home.rglob("*evil*"))
    assert not left_over(settings.db.parent)


def test_a_backup_that_does_not_hold_what_was_counted_replaces_nothing(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup.backup(store, tmp_path / "b.tar", settings, who="anna").path
    before, copied = file.read_bytes(), backup._copied

    def emptied(session: Session, path: Path, tell: Callable[[float], object]) -> object:
        counted = copied(session, path, tell)
        path.unlink()
        with connect(path).writing():
            pass
        return counted

    monkeypatch.setattr(backup, "_copied", emptied)
    with pytest.raises(FileUnreadable, match="is damaged"):
        backup.backup(store, file, settings, who="anna", force=True)
    assert file.read_bytes() == before
    assert not left_over(tmp_path)


def test_a_backup_whose_audit_is_broken_is_refused(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    with store.writing() as session:
        session.execute("UPDATE audit SET who = 'ben' WHERE seq = 1")
    file = backup.backup(store, tmp_path / "b.tar", settings, who="anna").path
    with pytest.raises(StoreError, match="row 1"):
        backup.restore(file, settings, to=tmp_path / "new.duckdb", who="anna")
    assert not (tmp_path / "new.duckdb").exists()


def test_a_restore_over_a_database_keeps_it_aside(
    store: Store, settings: Settings, archive: Path
) -> None:
    with pytest.raises(InputError, match="--force"):
        backup.restore(archive, settings, who="anna")
    lists = store.path.with_name(store.path.name + ".state")
    lists.mkdir()
    with store.changing() as session:
        session.execute("DELETE FROM transactions WHERE seq < 1000")
        audit.record(session, "eva", "test", "x")
    before = content(store)
    done = backup.restore(archive, settings, who="anna", force=True)
    assert done.kept is not None
    assert content(connect(done.kept)) == before
    assert not lists.exists()
    assert done.kept.with_name(done.kept.name + ".state").exists()
    assert store.rows("SELECT min(seq) AS n FROM transactions") == [{"n": 0}]
    head = audit.kept_head(store.path)
    assert head is not None
    assert audit.verify(store, [head]).problem is None


def test_a_restore_over_a_broken_audit_is_whole_and_what_was_there_stays_broken(
    store: Store, settings: Settings, archive: Path
) -> None:
    def looked_at(path: Path) -> int:
        return main(["audit", "verify", "--db", str(path)])

    def change() -> None:
        with store.changing() as session:
            audit.record(session, "eva", "test", "x")

    change()
    with store.writing() as session:
        session.execute("DELETE FROM audit WHERE seq > 1")
    change()
    assert looked_at(store.path) == 1
    for _ in range(2):
        done = backup.restore(archive, settings, who="anna", force=True)
        assert looked_at(store.path) == 0
        change()
        assert looked_at(store.path) == 0
        assert not audit.lost_file(store.path).exists()
        assert done.kept is not None
        broken = audit.lost_file(done.kept).exists()
        assert looked_at(done.kept) == broken
    assert sum(p.name.endswith(".lost") for p in store.path.parent.iterdir()) == 1


def test_a_restore_through_a_link_restores_what_it_names(
    store: Store, settings: Settings, archive: Path, tmp_path: Path
) -> None:
    (link := tmp_path / "link.duckdb").symlink_to(store.path)
    before = content(store)
    with store.writing() as session:
        session.execute("DELETE FROM transactions")
    done = backup.restore(archive, settings, to=link, who="anna", force=True)
    assert link.is_symlink()
    assert done.path == store.path
    assert content(store) == before


def test_a_restore_over_what_is_no_database_any_more_keeps_that_too(
    settings: Settings, archive: Path
) -> None:
    settings.db.write_bytes(b"broken" * 1000)
    done = backup.restore(archive, settings, who="anna", force=True)
    assert done.kept is not None
    assert done.kept.read_bytes() == b"broken" * 1000
    assert "could not be opened" in done.sentence()


def leave(store: Store, ending: str) -> None:
    """Leave what a database that is gone had beside it, and nothing else."""
    if ending == ".wal":
        with store.writing(checkpoint=False) as session:
            session.execute("INSERT INTO labels VALUES ('ghost', true, NULL, now(), 'x', 0)")
    for left in files.BESIDE:
        path = store.path.with_name(store.path.name + left)
        if left == ending == ".journal":
            row = {"transaction_id": ["ghost"], "is_fraud": [True], "known_at": [0]}
            Journal(path, 0).append({"labels": row})
        elif left == ending == ".state":
            path.mkdir()
        elif left == ending and left in (".audit-head.lost", ".journal-end"):
            path.write_text(f"7:{'0' * 64}" if "lost" in left else f"{9:020d} {9:020d}\n")
        elif left != ending:
            path.unlink(missing_ok=True)
        assert path.exists() == (left == ending)
    store.path.unlink()


@pytest.mark.parametrize("ending", files.BESIDE)
def test_what_a_database_that_is_gone_left_is_kept_aside_and_not_taken_in(
    store: Store, settings: Settings, archive: Path, ending: str
) -> None:
    before = content(store)
    leave(store, ending)
    done = backup.restore(archive, settings, who="anna")
    with store.writing():
        pass
    assert content(store) == before
    assert done.kept is None
    (left,) = done.left
    assert left.match(f"aegis.before-*.duckdb{ending}")
    assert left.exists()
    assert f"is kept in {left}." in done.sentence()
    head = audit.kept_head(store.path)
    assert head is not None
    assert audit.verify(store, [head]).problem is None
    assert main(["audit", "verify", "--db", str(store.path)]) == 0


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_model_of_the_same_name_with_other_files_is_never_replaced(
    store: Store, settings: Settings, archive: Path, elsewhere: bool
) -> None:
    version, _ = registry.roles(store)
    was = files.folder_checksum(settings.models / version)
    (settings.models / version / "more").write_text("x")
    before = everything(settings.models)
    to = settings.home / "new.duckdb" if elsewhere else None
    for _ in range(2):
        with store.owned(limits=Limits()) if elsewhere else nullcontext():
            done = backup.restore(archive, settings, to=to, who="anna", force=True)
        assert everything(settings.models).items() >= before.items()
        (ours,) = settings.models.glob(f"{version}.*")
        assert done.renamed == (ours,)
        assert str(ours) in done.sentence()
        assert files.folder_checksum(ours) == was
        there = config.load(home=settings.home, db=to)
        assert registry.registered(connect(there.db), version)["path"].endswith(ours.name)
        assert registry.champion(connect(there.db), there).version == version
    assert done.kept is not None
    assert not left_over(settings.models)


def test_a_restore_that_finds_somebody_at_work_leaves_everything_as_it_was(
    store: Store, settings: Settings, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, _ = registry.roles(store)
    (settings.models / version / "more").write_text("x")
    before, settled = everything(settings.models), backup._settled
    for steps in (0, 1):  # at once, or when the models were placed already
        free = iter([True] * steps)

        def busy(here: Store, free: Iterator[bool] = free) -> bool:
            if next(free, False):
                return settled(here)
            raise StoreBusy("somebody is at work")

        monkeypatch.setattr(backup, "_settled", busy)
        with pytest.raises(StoreBusy):
            backup.restore(archive, settings, who="anna", force=True)
        assert everything(settings.models) == before
        assert [p.name for p in settings.models.iterdir()] == [version]
        assert not list(settings.db.parent.glob("*.before-*"))


def test_nothing_is_restored_or_compacted_while_a_service_runs(
    store: Store, settings: Settings, archive: Path
) -> None:
    with store.owned(limits=Limits()):
        for asked in (store, connect(store.path)):
            with pytest.raises(StoreBusy, match="end it first"):
                compaction.compact(asked, who="anna")
        with pytest.raises(StoreBusy, match="end it first"):
            backup.restore(archive, settings, who="anna", force=True)


# --- full disks --------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["backup", "export", "compact", "restore"])
def test_a_full_disk_is_said_and_changes_nothing(
    store: Store, settings: Settings, archive: Path, tmp_path: Path, what: str
) -> None:
    final = tmp_path / "out"
    before = content(store), len(audit.entries(store))
    work: dict[str, Callable[[], object]] = {
        "backup": lambda: backup.backup(store, final, settings, who="anna"),
        "export": lambda: export.export(store, final, settings, who="anna"),
        "compact": lambda: compaction.compact(store, who="anna"),
        "restore": lambda: backup.restore(archive, settings, who="anna", force=True),
    }
    room = 2 if what == "export" else 600
    with (
        small_files(room),
        pytest.raises(StoreError, match=r"no room|not compacted|not enough|too large"),
    ):
        work[what]()
    assert not final.exists()
    assert not left_over(tmp_path)
    assert not left_over(settings.db.parent)
    assert (content(store), len(audit.entries(store))) == before


# --- compaction --------------------------------------------------------------------------


def test_compaction_gives_space_back_and_changes_nothing_else(store: Store) -> None:
    with store.writing() as session:
        session.execute("CREATE TABLE big AS SELECT uuid() AS u FROM range(200000)")
    with store.writing() as session:
        session.execute("DROP TABLE big")
    before = content(store)
    done = compaction.compact(store, who="anna")
    assert done.after < 0.8 * done.before
    assert content(store) == before
    assert not left_over(store.path.parent)
    assert audit.entries(store)[-1].action == "compact"
    with pytest.raises(StoreError, match=r"[Cc]onstraint|[Dd]uplicate"), store.writing() as session:
        session.execute("INSERT INTO meta VALUES ('schema_version', '9')")  # keys are kept


def test_compaction_that_is_killed_loses_nothing(store: Store, settings: Settings) -> None:
    before = content(store)
    code = (
        "from aegis_core.store import backup, compaction, export\n"
        "compaction.compact(store, who='x', tell=lambda share: share == 1.0 and kill())"
    )
    killed(code, settings.home)
    assert left_over(store.path.parent)
    assert content(store) == before
    compaction.compact(store, who="anna")
    assert content(store) == before
    assert not left_over(store.path.parent)


def test_nobody_can_write_while_the_database_is_compacted(store: Store) -> None:
    refused = []

    def write(share: float) -> None:
        code = (
            "import sys; from aegis_core.store import connect\n"
            "with connect(sys.argv[1], wait_s=0).writing() as session:\n"
            "    session.execute('CREATE TABLE lost (n INTEGER)')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(store.path)], capture_output=True, check=False
        )
        refused.append(b"StoreBusy" in done.stderr)

    compaction.compact(store, who="anna", tell=write)
    assert refused
    assert all(refused)


# --- export ------------------------------------------------------------------------------


def test_an_export_holds_every_row_in_a_folder_of_its_day(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "parquet"
    shares: list[float] = []
    done = export.export(store, folder, settings, who="anna", tell=shares.append)
    assert shares[-1] == 1.0
    for table in ("transactions", "verdicts", "labels"):
        there = store.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"]
        assert done.rows[table] == there == len(pd.read_parquet(folder / table))
    found = duckdb.sql(
        f"SELECT count(*), bool_and(ts::DATE = day), sum(amount) FROM read_parquet("
        f"'{folder}/transactions/**/*.parquet', hive_partitioning = true)"
    ).fetchone()
    total = store.rows("SELECT count(*) AS n, sum(amount) AS amount FROM transactions")[0]
    assert found is not None
    assert found[:2] == (total["n"], True)
    assert found[2] == pytest.approx(total["amount"])
    with pytest.raises(InputError, match="--force"):
        export.export(store, folder, settings, who="anna")
    (old := folder / "labels/day=1999-01-01").mkdir()
    export.export(store, folder, settings, who="anna", force=True)
    assert not old.exists()
    assert [e.action for e in audit.entries(store)][-2:] == ["export", "export"]


def test_an_export_that_is_killed_leaves_no_folder(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    code = (
        "from aegis_core.store import backup, compaction, export\n"
        "export.export(store, Path(sys.argv[2]), settings, who='x', tell=kill)"
    )
    killed(code, settings.home, folder)
    assert not folder.exists()


# --- older databases ---------------------------------------------------------------------


@pytest.fixture(params=[1, 2, 3])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Path]:
    """A database of an older version with a few rows."""
    path = tmp_path / "data" / "old.duckdb"
    path.parent.mkdir()
    with duckdb.connect(str(path)) as connection:
        connection.execute((OLDER / f"version_{request.param}.sql").read_text("utf-8"))
        connection.execute(
            "INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount) "
            "SELECT range, 't' || range, 'c', '2026-03-01', 1.5 FROM range(1000)"
        )
        connection.execute(
            "INSERT INTO models (version, detector, path, created_at, promoted_at) "
            "VALUES ('v1', 'forest', 'm', '2026-01-01', '2026-01-01')"
        )
        connection.execute(
            "INSERT INTO labels (transaction_id, is_fraud, known_at) VALUES ('t1', true, now())"
        )
    return request.param, path


def test_an_older_database_is_kept_before_it_is_brought_up_to_date(
    older: tuple[int, Path],
) -> None:
    version, path = older
    store = connect(path)
    assert store.rows("SELECT count(*) AS n FROM transactions") == [{"n": 1000}]
    for name, body in TABLES.items():
        with duckdb.connect() as fresh:
            fresh.execute(f"CREATE TABLE t ({body})")
            columns = fresh.execute("DESCRIBE t").fetchall()
        now = store.rows(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [name]
        )
        assert {(r["column_name"], r["data_type"]) for r in now} == {c[:2] for c in columns}
    (kept,) = path.parent.glob("old.v*.duckdb")
    assert kept.name.startswith(f"old.v{version}-20")
    with duckdb.connect(str(kept), read_only=True) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [(str(version),)]
        assert connection.execute("SELECT count(*) FROM transactions").fetchall() == [(1000,)]
    (entry,) = audit.entries(store)
    assert json.loads(entry.details)["kept"] == kept.name
    assert json.loads(entry.details)["to"] == SCHEMA_VERSION
    store.rows("SELECT 1")
    assert list(path.parent.glob("old.v*.duckdb")) == [kept]  # once


def test_a_migration_that_is_killed_is_done_by_the_next_opening(older: tuple[int, Path]) -> None:
    _, path = older
    for at in ("tables.copy_into", "audit.record"):
        killed(f"{at} = kill\nconnect(sys.argv[2]).rows('SELECT 1')", path.parent, path)
    store = connect(path)
    assert store.rows("SELECT count(*) AS n FROM transactions") == [{"n": 1000}]
    assert len(audit.entries(store)) == 1
    assert not left_over(path.parent)


def test_no_room_for_a_copy_leaves_an_older_database_as_it_was(older: tuple[int, Path]) -> None:
    version, path = older
    with small_files(100), pytest.raises(StoreError, match="nothing was changed"):
        connect(path).rows("SELECT 1")
    assert not left_over(path.parent)
    assert not list(path.parent.glob("old.v*"))
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [(str(version),)]


# --- the command -------------------------------------------------------------------------


def test_the_commands_back_up_restore_compact_export_forget_and_audit(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(settings.home))
    file = str(tmp_path / "b.tar")
    assert main(["backup", file, "--who", "anna"]) == 0
    assert main(["backup", file]) == 2
    assert main(["restore", file]) == 2
    assert main(["restore", file, "--to", str(tmp_path / "new.duckdb"), "--who", "ben"]) == 0
    assert main(["compact", "--who", "anna"]) == 0
    assert main(["export", str(tmp_path / "parquet")]) == 0
    assert main(["forget", "--older-than", "30d"]) == 2
    assert main(["forget", "--older-than", "400d"]) == 0
    told = capsys.readouterr()
    assert "MB now" in told.out
    assert "Nothing arrived before" in told.out
    assert "--force" in told.err
    assert main(["audit"]) == 0
    head = capsys.readouterr().out.strip()
    assert main(["audit", "list", "--since", "1d"]) == 0
    assert "anna" in capsys.readouterr().out
    assert main(["audit", "list", "--since", "long ago"]) == 2
    assert main(["audit", "verify", "--head", head]) == 0
    assert "whole" in capsys.readouterr().out
    with connect(settings.db).writing() as session:
        session.execute("UPDATE audit SET who = 'eva' WHERE seq = 2")
    assert main(["audit", "verify"]) == 1
    assert "row 2" in capsys.readouterr().out


def test_what_is_no_database_cannot_be_looked_after(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path)
    missing = connect(tmp_path / "missing.duckdb")
    for work in (
        lambda: backup.backup(missing, tmp_path / "b.tar", settings, who="anna"),
        lambda: compaction.compact(missing, who="anna"),
        lambda: export.export(missing, tmp_path / "p", settings, who="anna"),
        lambda: backup.restore(tmp_path / "b.tar", settings, who="anna"),
    ):
        with pytest.raises(AegisError, match="There is no"):
            work()
    assert not missing.path.exists()


@pytest.fixture
def careless() -> Iterator[None]:
    """A process whose umask lets everybody read and write what it makes."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_made_is_the_owner_s_alone_whatever_the_umask(
    careless: None, store: Store, settings: Settings, tmp_path: Path
) -> None:
    seen: dict[str, int] = {}
    there = tmp_path / "made"
    there.mkdir()

    def look(_: float = 0) -> None:
        for path in there.rglob("*"):
            with suppress(FileNotFoundError):
                seen[path.relative_to(there).as_posix()] = path.stat().st_mode & 0o077

    backup.backup(store, there / "b.tar", settings, who="me", tell=look)
    export.export(store, there / "export", settings, who="me", tell=look)
    backup.restore(there / "b.tar", settings, to=there / "x.duckdb", who="me")
    fresh = connect(there / "deep" / "new.duckdb")
    with fresh.owned(), fresh.writing() as session:
        session.execute("CREATE TABLE t AS SELECT 1")
        look()
    with fresh.writing() as session:
        session.execute("CREATE TABLE u AS SELECT 1")
        look()
    look()
    assert {"deep/new.duckdb", "deep/new.duckdb.wal", "b.tar", "x.duckdb"} <= seen.keys()
    assert {name: mode for name, mode in seen.items() if mode} == {}
    assert os.umask(0) == 0, "the process's own is as it was"
    fresh.path.chmod(0o644)
    assert files.open_to_others(fresh.path) == [], "nobody gets to it"
    for path in (fresh.path.parent, tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o011 == 0:
            path.chmod(0o755)
    assert files.open_to_others(fresh.path, there / "export") == [fresh.path]
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / ".gitkeep").touch()
    assert files.open_to_others(fresh.path, reports) == [fresh.path], "a checkout's empty folder"
    (reports / "of last year.html").write_text("a customer")
    assert files.open_to_others(fresh.path, reports) == [fresh.path, reports]
