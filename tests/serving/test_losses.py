"""What is said when a file that Aegis keeps is missing, cut, older or another database's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pytest

from aegis_core import config, store
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import AegisError, StoreError
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.review import lists
from aegis_core.serving.engine import Engine
from aegis_core.serving.server import note_settings
from aegis_core.serving.token import token_file, token_of
from aegis_core.store import audit, journal, rollups
from aegis_core.store.gate import Limits

HISTORY: Final = SyntheticConfig(n_transactions=600, n_customers=20, n_merchants=20, days=10)
DB: Final = Path("data/aegis.duckdb")


class Homes(NamedTuple):
    """Copies of a home: as a killed service left it, before and now, and as it ended in order."""

    older: Path
    killed: Path
    ended: Path


def lived(home: Path, history: SyntheticConfig, n: int) -> Homes:
    """A home with two models and verdicts of 3 `n` payments.

    Of the killed one, `n` are in the file of the database, `n` in its log, `n` in the journal.
    """
    home.mkdir()
    toml = home / "aegis.toml"
    toml.write_text(f"alert_budget = 0.0{n}\n")
    settings = config.load(home=home)
    made = store.connect(settings.db)
    rows = pa.concat_tables([rows.unify_dictionaries() for rows, _ in stream(history, 3 * n)])
    write_history(made, history, progress=False)
    for n_trees, role in ((5, "none"), (10, "champion")):
        train(made, settings, Recipe(train_days=5, n_trees=n_trees, max_samples=64, role=role))
    token_of(made, settings)
    older, killed = home.with_name("older"), home.with_name("killed")
    with Engine.open(made, settings) as engine:
        engine.take(rows.slice(0, n), "test")
        engine.save()
        shutil.copytree(home, older)
        toml.write_text(toml.read_text() + "require_approval = true\n")
        note_settings(made, config.load(home=home))
        lists.add(made, "deny", "nobody", who="anna", why="a change that the audit keeps")
        engine.take(rows.slice(n, n), "test")
        engine.save()
        shutil.copytree(home, killed)
        engine.take(rows.slice(2 * n, n), "test")
        for source in (journal.folder_of(settings.db), journal.mark_of(settings.db)):
            shutil.rmtree(to := killed / "data" / source.name, ignore_errors=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, to)
    return Homes(older, killed, home)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Homes, Homes]:
    """Ours, and another's."""
    mine, theirs = (tmp_path_factory.mktemp(name) / "ended" for name in ("mine", "theirs"))
    return lived(mine, HISTORY, 10), lived(theirs, replace(HISTORY, n_transactions=500, seed=7), 5)


def read(home: Path) -> str:
    """What a reading of the database finds: verdicts, what was lost, the audit."""
    made = store.connect(home / DB, wait_s=0.2)
    with made.snapshot() as session:
        (found,) = session.rows("SELECT count(*) AS n FROM verdicts")
        lost = session.rows("SELECT details FROM audit WHERE action = 'lost'")
        kept = audit.kept_head(made.path)
        whole = audit.verify(session, [kept] if kept else []).sentence()
        return f"{found['n']} verdicts, lost {lost}, uncounted {rollups.missing(session)}. {whole}"


def scored(home: Path) -> str:
    """How much of the history an engine has to fold at its start."""
    settings, folded = config.load(home=home), list[int]()
    with Engine.open(store.connect(settings.db), settings, progress=folded.append) as engine:
        return f"{engine.state.next_seq} transactions, folded {sum(folded)}"


def begun(home: Path) -> str:
    """What a start says of token and settings."""
    settings = config.load(home=home)
    made = store.connect(settings.db)
    before = token_file(made).read_text() if token_file(made).exists() else "none"
    new = token_of(made, settings) != before.strip()
    return f"token {'new' if new else 'as it is'}, settings: {note_settings(made, settings)}"


ROWS: Final[dict[str, tuple[Path, Callable[[Path], str]]]] = {
    "B": (DB, read),
    "B.wal": (Path(f"{DB}.wal"), read),
    "B.journal/": (Path(f"{DB}.journal"), read),
    "B.journal-end": (Path(f"{DB}.journal-end"), read),
    "B.audit-head": (Path(f"{DB}.audit-head"), read),
    "B.state/": (Path(f"{DB}.state"), scored),
    "B.token": (Path(f"{DB}.token"), begun),
    "B.endpoint": (Path(f"{DB}.endpoint"), read),
    "data/models/": (Path("data/models"), scored),
    "aegis.toml": (Path("aegis.toml"), begun),
}
COLUMNS: Final = ("missing", "cut", "emptied", "older", "another's")
WHOLE: Final = r"30 verdicts, lost \[\], uncounted 0. The audit is whole: \d rows"
COUNTED: Final = r"with 10 verdicts: the end(.|\n)*20 verdicts, lost .*\"verdicts\": 10"
NO_END: Final = r"30 verdicts, lost \[\].*BROKEN: rows? \d.* missing at its end"
DAMAGED: Final = r"is damaged: whether answered verdicts are missing cannot be seen(.|\n)*" + WHOLE
ANEW: Final = r"is not used, the history is folded anew(.|\n)*folded 630"
IN_USE: Final = "was in use for 0.2 s.*a service whose `.endpoint` file is gone or foreign"
UNREADABLE: Final = r"The model in .* cannot be read .* `aegis run train`"
REPLACED: Final = "are not those with which .* was registered. Put them back"
DEFAULTS: Final = "settings: alert_budget 0.01 → 0.005, require_approval True → False"
SAID: Final[dict[str, tuple[str, ...]]] = {
    "B": (
        "There is no database at",
        "It is cut short; `aegis restore",
        "holds nothing any more. `aegis restore",
        r"with 30 verdicts: the end(.|\n)*0 verdicts, lost .*\"verdicts\": 30(.|\n)*BROKEN",
        "BROKEN",
    ),
    "B.wal": (NO_END, WHOLE, NO_END, NO_END, "not of one history"),
    "B.journal/": (COUNTED, COUNTED, COUNTED, COUNTED, "not of one history"),
    "B.journal-end": (WHOLE, DAMAGED, DAMAGED, WHOLE, WHOLE),
    "B.audit-head": (WHOLE, WHOLE, WHOLE, WHOLE, "BROKEN: row .* is not the one that was noted"),
    "B.state/": ("^630.* folded 630", ANEW, ANEW, "^630.* folded 20", ANEW),
    "B.token": ("token new", "too short.*made anew", "is empty; delete", "as it is", "as it is"),
    "B.endpoint": (IN_USE,) * 5,
    "data/models/": (UNREADABLE, UNREADABLE, UNREADABLE, REPLACED, REPLACED),
    "aegis.toml": (DEFAULTS, "cannot be read", DEFAULTS, "require_approval True → False", "0.05"),
}


def harm(path: Path, column: str, source: Path) -> None:
    """Do to a file, to the largest of a folder or to the champion's model what a column says."""
    if path.name == "models":
        path, source = max(path.iterdir()), min(source.iterdir())
    if column == "missing":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif column in ("cut", "emptied"):
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        torn = max(files, key=lambda file: file.stat().st_size)
        content = torn.read_bytes()
        kept = len(content) - 100 if 200 < len(content) < 2**20 else len(content) // 3
        torn.write_bytes(content[: kept if column == "cut" else 0])
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)


def said(looks: Callable[[Path], str], home: Path) -> str:
    """What it finds, or the sentence and the exit code with which a command would end."""
    try:
        return looks(home)
    except AegisError as e:
        return f"{e} (exit {e.exit_code})"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_what_is_lost_is_said(
    row: str,
    column: str,
    homes: tuple[Homes, Homes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, looks = ROWS[row]
    mine, theirs = homes
    home = tmp_path / "home"
    shutil.copytree(mine.ended if row == "B" else mine.killed, home)
    source = {"older": mine.older, "another's": theirs.ended if row == "B" else theirs.killed}
    with ExitStack() as meanwhile:
        if row == "B.endpoint":
            meanwhile.enter_context(store.connect(home / DB).owned(limits=Limits()))
        harm(home / file, column, source.get(column, home) / file)
        before = {path: path.read_bytes() for path in (home / "data").rglob("*") if path.is_file()}
        found = said(looks, home)
    told = "\n".join([*caplog.messages, found])
    assert "exit" not in told or "exit 2" in told
    assert re.search(SAID[row][COLUMNS.index(column)], told), told
    if row == "B.journal/" and column == "cut":
        (kept,) = (home / "data").glob("*.journal.torn-3")
        (torn,) = kept.iterdir()
        assert torn.read_bytes() == before[home / f"{DB}.journal" / torn.name]


def test_a_database_that_is_gone_is_not_begun_anew_over_its_journal(
    homes: tuple[Homes, Homes], tmp_path: Path
) -> None:
    shutil.copytree(homes[0].killed, tmp_path / "home")
    gone = store.connect(tmp_path / "home" / DB)
    gone.path.unlink()
    for opening in (gone.reading, gone.writing, gone.owned):
        with pytest.raises(StoreError, match="the journal of one is beside it"), opening():
            pass
    assert not gone.path.exists()


@pytest.mark.parametrize("harmed", ["DELETE FROM rollups", "DROP TABLE rollups"])
def test_verdicts_that_the_counts_of_the_board_lack_are_said(
    homes: tuple[Homes, Homes], tmp_path: Path, harmed: str
) -> None:
    shutil.copytree(homes[0].ended, tmp_path / "home")
    made = store.connect(tmp_path / "home" / DB)
    with made.writing() as session:
        session.execute(harmed)
    with made.writing():
        pass
    assert "uncounted 0" not in read(tmp_path / "home")


def test_the_table_of_losses_has_a_row_for_each_file_that_is_tried() -> None:
    text = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text("utf-8")
    table = text.split("its loss means\n")[1].split("\n## ")[0]
    head, _, *lines = [line for line in table.splitlines() if line.startswith("|")]
    assert tuple(cell.strip() for cell in head.split("|")[2:-1]) == COLUMNS
    assert [line.split("`")[1] for line in lines] == [*ROWS, "rollups", "B.tokens"]
    assert all(line.count("|") == len(COLUMNS) + 2 for line in lines)
