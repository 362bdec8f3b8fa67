"""The command line: what it prints, how it ends, and that no mistake shows a traceback."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from aegis_core import __version__, config
from aegis_core.cli import app, main
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, RunBusy, RunFailed
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.runs import ledger, parameters
from aegis_core.store import Store, connect

CSV = """id,customer,time,amt,fraud
1,c1,2026-01-05 10:00:00,12.5,0
2,c1,2026-01-05 11:00:00,99,1
3,,2026-01-05 12:00:00,5,0
"""
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
COMMANDS += [group.name for group in app.registered_groups]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caller's folder, with one file to import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "a.csv").write_text(CSV)
    return tmp_path


@pytest.fixture
def imported(folder: Path, capsys: pytest.CaptureFixture[str]) -> Store:
    """A database of two good rows and a bad one, at `a.duckdb` in the caller's folder."""
    assert main(["import", "a.csv", "--db", "a.duckdb", "--partial"]) == 0
    capsys.readouterr()
    return connect(folder / "a.duckdb")


def process(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "aegis_core.cli", *arguments]


# --- help ------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    heavy = {
        "apprise", "duckdb", "fastapi", "numba", "numpy", "pandas", "papermill", "plotly",
        "pyarrow", "pydantic_settings", "scipy", "sklearn", "uvicorn", "voila",
    }  # fmt: skip
    code = "import sys\nfrom aegis_core.cli import main\nassert main(['--help']) == 0\n"
    code += "print('imported:', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.rpartition("imported:")[2].split())
    assert "typer" in imported
    assert heavy & imported == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_has_examples_of_its_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert f"aegis {command}" in page.partition("Examples")[2]
    assert "--db" in page


def test_help_names_every_notebook_and_a_notebook_tells_its_parameters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--help"]) == 0
    page = capsys.readouterr().out
    assert [name for name in parameters.NOTEBOOKS if name not in page] == []
    assert main(["run", "train", "--parameters"]) == 0
    told = capsys.readouterr().out
    assert "n_trees" in told
    assert "trees of the Isolation Forest" in told
    assert "run_id" not in told
    assert main(["run", "trian", "--parameters"]) == 2
    assert "Did you mean train?" in capsys.readouterr().err


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"aegis {__version__}\n"


# --- import ----------------------------------------------------------------------------------


def test_import_tells_what_it_guessed_and_counts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "a.csv", "--db", "new/a.duckdb"]) == 2
    assert "1 of 3 rows are bad" in capsys.readouterr().err
    assert main(["import", "a.csv", "--db", "new/a.duckdb", "--partial"]) == 0
    told = capsys.readouterr().out
    assert "customer_id     ← customer" in told
    assert "3 rows read: 2 accepted, 0 already there, 1 rejected" in told
    assert "1 × customer_id is missing" in told
    assert "From 2026-01-05 10:00 to 2026-01-05 11:00 UTC" in told
    assert (folder / "new" / "a.duckdb").exists()
    assert main(["import", "*.csv", "--db", "new/a.duckdb", "--partial"]) == 0
    assert "0 accepted, 2 already there, 1 rejected" in capsys.readouterr().out


def test_import_takes_maps_labels_and_delays(folder: Path) -> None:
    (folder / "b.csv").write_text("a,b,c,d,e\nc1,2026-01-05,1,1,spike\n")
    given = ["--map", "customer_id=a", "--map", "ts=b", "--map", "amount=c", "--label", "d"]
    given += ["--scenario", "e", "--label-delay", "36h", "--source", "bank"]
    assert main(["import", "b.csv", "--db", "b.duckdb", *given]) == 0
    (label,) = connect(folder / "b.duckdb").rows("SELECT * FROM labels")
    assert (label["scenario"], label["source"]) == ("spike", "bank")
    assert str(label["known_at"]) == "2026-01-06 12:00:00"


def test_import_without_a_usable_row_ends_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.csv").write_text("customer,time,amt\n,2026-01-05,1\n")
    assert main(["import", "b.csv", "--db", "b.duckdb", "--partial"]) == 1
    assert "no row was usable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["import", "missing.csv"], "There is no file missing.csv"),
        (["import", "a.csv", "--strict"], "Nothing was imported: 1 of 3 rows are bad"),
        (["import", "a.csv", "--map", "ts=tim"], "Did you mean time"),
        (["import", "a.csv", "--map", "ts"], "write --map NAME=COLUMN"),
        (["import", "a.csv", "--label-delay", "soon"], "'soon' is not a length of time"),
        (["import", "a.csv", "--preset", "sparkow"], "Did you mean sparkov"),
        (["query", "SELECT 1"], "There is no database at"),
        (["run", "trian"], "Did you mean train"),
        (["run", "train", "-p", "seed"], "write -p KEY VALUE"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main([*arguments, "--db", "none.duckdb"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("aegis: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_command_that_does_not_exist_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imprt"]) == 2
    assert "import" in capsys.readouterr().err


def test_the_database_may_come_from_the_environment(
    imported: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AEGIS_DB", str(imported.path))
    assert main(["query", "SELECT count(*) AS n FROM transactions", "--format", "csv"]) == 0
    assert capsys.readouterr().out == "n\n2\n"


# --- query -----------------------------------------------------------------------------------


def asked(capsys: pytest.CaptureFixture[str], sql: str, *options: str) -> str:
    assert main(["query", sql, "--db", "a.duckdb", *options]) == 0
    return capsys.readouterr().out


def test_the_three_formats_say_the_same(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT transaction_id AS id, amount, category, ts FROM transactions ORDER BY seq"
    assert asked(capsys, sql) == (
        "id  amount  category  ts\n"
        "──  ──────  ────────  ───────────────────\n"
        "1     12.5            2026-01-05 10:00:00\n"
        "2       99            2026-01-05 11:00:00\n"
    )
    as_csv = list(csv.DictReader(io.StringIO(asked(capsys, sql, "--format", "csv"))))
    as_json = json.loads(asked(capsys, sql, "--format", "json"))
    assert as_csv[0] == {"id": "1", "amount": "12.5", "category": "", "ts": "2026-01-05 10:00:00"}
    assert as_json[0] == {"id": "1", "amount": 12.5, "category": None, "ts": "2026-01-05 10:00:00"}


def test_csv_has_no_formula_and_numbers_as_they_are(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = """SELECT '=1+1' AS "=a", '\t@SUM(1)' AS b, -5 AS c, -1.5::DECIMAL(9, 2) AS d,
      '-5' AS e, 'a=b' AS f, NULL AS g, INTERVAL '-1' DAY AS h"""
    (header, row) = csv.reader(io.StringIO(asked(capsys, sql, "--format", "csv")))
    assert header[0] == "'=a"
    assert row[:7] == ["'=1+1", "'\t@SUM(1)", "-5", "-1.50", "'-5", "a=b", ""]
    assert not row[7].startswith(("=", "+", "-", "@"))


def test_json_is_json_whatever_the_values(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT 'nan'::DOUBLE AS n, [1, 'inf'::DOUBLE] AS l, {'a': DATE '2026-01-01'} AS s"
    found = json.loads(asked(capsys, sql, "--format", "json"))
    assert found == [{"n": None, "l": [1, None], "s": {"a": "2026-01-01"}}]
    assert json.loads(asked(capsys, "FROM labels LIMIT 0", "--format", "json")) == []


def test_a_table_cannot_take_over_the_terminal(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    table = asked(capsys, "SELECT 'a' || chr(27) || '[2J' || chr(10) || repeat('x', 99) AS t")
    assert "\x1b" not in table
    assert table.count("\n") == 3
    assert table.endswith("…\n")


def test_a_table_is_short_unless_asked_for_more(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, rows in (((), 100), (("--limit", "3"), 3), (("--limit", "0"), 150)):
        assert main(["query", "FROM range(150)", "--db", "a.duckdb", *options]) == 0
        captured = capsys.readouterr()
        assert captured.out.count("\n") == rows + 2
        assert ("--limit 0" in captured.err) == (rows < 150)
    assert asked(capsys, "FROM range(150)", "--format", "csv").count("\n") == 151
    assert asked(capsys, "FROM range(150)", "--format", "csv", "--limit", "2") == "range\n0\n1\n"


def test_a_query_that_writes_is_refused(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", "DELETE FROM transactions", "--db", "a.duckdb"]) == 2
    assert "reading only" in capsys.readouterr().err
    assert len(imported.rows("FROM transactions")) == 2


def test_a_reader_that_leaves_early_is_no_error(imported: Store) -> None:
    command = process("query", "FROM range(200000)", "--format", "csv", "--db", str(imported.path))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        assert ran.stdout.readline() == "range\n"
        ran.stdout.close()
        assert ran.stderr.read() == ""


# --- status ----------------------------------------------------------------------------------


def test_status_of_a_fresh_import_says_what_comes_next(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--db", "a.duckdb"]) == 0
    told = capsys.readouterr().out
    assert "transactions  2, 2026-01-05 10:00 to 2026-01-05 11:00 UTC" in told
    assert "labels        2, 1 of them fraud" in told
    assert "aegis run train" in told
    assert "rejected      1 × customer_id is missing" in told


def test_status_says_where_everything_is_also_without_a_database(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(folder / "home"))
    assert main(["status"]) == 2
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        f"home          {folder / 'home'}",
        f"database      {folder / 'home' / 'data' / 'aegis.duckdb'}",
        f"reports       {folder / 'home' / 'reports'}",
        f"notebooks     {config.NOTEBOOK_FOLDER}",
    ]
    assert told.err.startswith("aegis: There is no database at ")
    assert told.err.count("\n") == 1
    assert main(["status", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["reports"] == str(folder / "home" / "reports")


@pytest.mark.parametrize("kind", ["checkout", "current folder"])
def test_status_says_what_the_home_is_where_none_was_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.delenv("AEGIS_HOME", raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(config, "CHECKOUT", folder if kind == "checkout" else None)
    assert main(["status"]) == 2
    (first, *_) = capsys.readouterr().out.splitlines()
    assert first == f"home          {folder}, the {kind}; AEGIS_HOME would name another"


def test_status_counts_alerts_and_names_the_champion_and_the_last_runs(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with imported.writing() as session:
        for seq, decision in enumerate(["approve", "approve", "review", "block"]):
            session.execute(
                "INSERT INTO verdicts (seq, transaction_id, model_version, score, risk, decision, "
                "scored_at) VALUES (?, 'x', 'm1', 0.5, 50, ?, now())",
                [seq, decision],
            )
        session.execute(
            "INSERT INTO models (version, detector, path, n_train, created_at, promoted_at) VALUES "
            "('old', 'forest', 'p', 1, now(), TIMESTAMP '2026-01-01'), "
            "('m1', 'forest', 'p', 1000, now(), TIMESTAMP '2026-01-02'), "
            "('candidate', 'forest', 'p', 1, now(), NULL)"
        )
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at, error) VALUES "
            "('r1', 'train', 'failed', TIMESTAMP '2026-01-03', 'cell 3: no rows')"
        )
    assert main(["status", "--db", "a.duckdb"]) == 0
    told = capsys.readouterr().out
    assert "champion      m1 (forest, trained on 1,000)" in told
    assert "verdicts      4, 1 to review, 1 blocked: alert rate 50.00%" in told
    assert "last runs     2026-01-03 00:00  train failed: cell 3: no rows" in told
    assert main(["status", "--json", "--db", "a.duckdb"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["champion"]["version"] == "m1"
    assert found["verdicts"]["alert_rate"] == 0.5
    assert found["runs"][0]["run_id"] == "r1"
    assert found["rejected"] == [{"reason": "customer_id is missing", "rows": 1}]


def test_status_tells_how_far_a_run_is_and_that_one_was_killed(
    imported: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with imported.writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at, cells_done, cells_total, "
            "heading, seconds, peak_memory_mb) VALUES "
            "('r1', 'train', 'running', TIMESTAMP '2026-01-03', 3, 14, 'How soon?', NULL, NULL), "
            "('r2', 'start', 'running', TIMESTAMP '2026-01-02', 1, 9, NULL, NULL, NULL), "
            "('r3', 'start', 'done', TIMESTAMP '2026-01-01', 9, 9, NULL, 4.25, 512)"
        )
    with ledger.alone(imported.path, "train"):
        assert main(["status", "--db", "a.duckdb"]) == 0
    told = capsys.readouterr().out
    assert "train running: 3 of 14 cells, at “How soon?”" in told
    assert "start killed" in told
    assert "start done in 4.2 s, 512 MB" in told


# --- what others do --------------------------------------------------------------------------


def test_run_passes_parameters_database_and_time_limit_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, object] = {}

    def run_notebook(name: str, parameters: object, settings: object, **options: object) -> object:
        seen.update(name=name, parameters=parameters, db=settings.db, **options)  # type: ignore[attr-defined]
        return SimpleNamespace(**ended, seconds=1.25, report_path=Path("reports/r.html"))

    ended = {"status": "done", "told": ""}
    monkeypatch.setattr("aegis_core.runs.execution.run_notebook", run_notebook)
    given = ["-p", "train_from", "2018-07-25", "-p", "folds=4", "-p", "seed", "-1"]
    given += ["--timeout", "60", "--retries", "2", "--on-overlap", "wait"]
    assert main(["run", "evaluate", *given, "--db", "sub/a.duckdb"]) == 0
    assert seen == {
        "name": "evaluate",
        "parameters": {"train_from": "2018-07-25", "folds": "4", "seed": "-1"},
        "db": folder / "sub" / "a.duckdb",
        "timeout_s": 60.0,
        **{"retries": 2, "backoff_s": 30.0, "on_overlap": "wait"},
    }
    assert capsys.readouterr().out == "evaluate: done in 1.2 s\nreport: reports/r.html\n"
    ended |= {"status": "unjudged", "told": "Too few labels."}
    assert main(["run", "evaluate"]) == 5
    assert "evaluate: unjudged in 1.2 s. Too few labels.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (RunFailed("cell 3 failed"), 1),
        (InputError("no"), 2),
        (RunBusy("it runs"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_run_that_fails_says_so_by_its_exit_code(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
) -> None:
    def run_notebook(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("aegis_core.runs.execution.run_notebook", run_notebook)
    assert main(["run", "train", "--db", "a.duckdb"]) == code
    assert capsys.readouterr().err == ("" if code == 130 else f"aegis: {raised}\n")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@pytest.mark.parametrize(
    ("command", "target", "extra"),
    [
        ("dashboard", "aegis_core.views.launcher.serve", {}),
        ("up", "aegis_core.cli.up.first_light", {"transactions": 9, "api_port": 8001, "rate": 7.0}),
    ],
)
def test_dashboard_and_up_pass_on_port_time_and_database(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    target: str,
    extra: dict[str, float],
) -> None:
    seen: dict[str, object] = {}

    def called(settings: object, *_: object, **options: object) -> None:
        seen.update(options, db=settings.db)  # type: ignore[attr-defined]

    monkeypatch.setattr(target, called)
    more = [word for key, value in extra.items() for word in (_option(key), str(value))]
    assert main([command, "--port", "0", "--for", "30", "--db", "a.duckdb", *more]) == 0
    assert seen.pop("simulate", None) is None  # as the data say
    assert seen == {"port": 0, "for_s": 30.0, "db": folder / "a.duckdb", **extra}


# ---- models, lists and answers


@pytest.fixture(scope="module")
def with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small history and two forests."""
    home = tmp_path_factory.mktemp("with-model")
    settings = config.load(home=home)
    store = connect(settings.db)
    some = SyntheticConfig(n_transactions=2_000, n_customers=40, days=10)
    write_history(store, some, progress=False)
    for _ in range(2):
        train(store, settings, Recipe(n_trees=10, max_samples=64))
    return home


@pytest.fixture
def at_home(with_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(with_model, tmp_path / "home")
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_models_are_listed_promoted_and_rolled_back(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    (newest, role, kind, *_), (oldest, *_) = (line.split() for line in lines[:2])
    assert (role, kind) == ("champion", "forest")
    assert main(["models", "promote", oldest, "--who", "anna"]) == 0
    assert "the champion now" in capsys.readouterr().out
    assert main(["models", "rollback", "--who", "ben"]) == 0
    assert newest in capsys.readouterr().out
    assert main(["models", "shadow", oldest]) == 0
    assert main(["models", "retire", oldest]) == 0
    assert main(["models", "rollback"]) == 0
    assert main(["models", "rollback"]) == 2
    assert main(["models", "promote", "nothing"]) == 2
    assert main(["models", "compare"]) == 2
    assert "no champion before" in capsys.readouterr().err


def test_lists_are_filled_shown_and_ended(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lists"]) == 0
    assert "Nobody" in capsys.readouterr().out
    assert main(["lists", "add", "deny", "m1", "--merchant", "--why", "stolen", "--who", "a"]) == 0
    entry = capsys.readouterr().out.split(":")[0]
    assert main(["lists"]) == 0
    assert entry in capsys.readouterr().out
    assert main(["lists", "end", entry, "--why", "found", "--who", "b"]) == 0
    assert main(["lists", "end", entry, "--why", "again"]) == 2
    assert main(["lists", "add", "snooze", "c1", "--why", "travels"]) == 2
    assert "needs an end" in capsys.readouterr().err
    snooze = ["lists", "add", "snooze", "c1", "--who", "anna", "--why", "travels, she phoned"]
    assert main([*snooze, "--until", "2099-01-01"]) == 2
    assert "lasts 90 days at most" in capsys.readouterr().err
    (newest,) = connect(config.load(home=at_home).db).rows("SELECT max(ts) AS ts FROM transactions")
    soon = f"{newest['ts'] + timedelta(days=5):%Y-%m-%d}"
    assert main([*snooze, "--until", soon]) == 0
    capsys.readouterr()
    assert main(["audit", "list"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    for part in ("anna", "snooze list", "customer c1", soon, "travels, she phoned"):
        assert part in told


def test_a_token_is_shown_once_listed_and_revoked(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokens", "list"]) == 0
    assert "Nobody" in capsys.readouterr().out
    assert main(["tokens", "add", "anna", "--role", "casework", "--who", "root"]) == 0
    secret = capsys.readouterr().out.strip()
    assert re.fullmatch(r"casework-[\w-]{43}", secret), "alone, for a script to take"
    assert main(["tokens", "list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"anna +casework +\S+ +root", listed)
    assert secret not in listed
    assert main(["tokens", "add", "anna", "--role", "view"]) == 2
    assert main(["tokens", "add", "ben", "--role", "boss"]) == 2
    assert "score, casework, view" in capsys.readouterr().err
    assert main(["tokens", "revoke", "ana"]) == 2
    assert "Did you mean anna?" in capsys.readouterr().err
    assert main(["tokens", "revoke", "anna"]) == 0
    assert main(["tokens", "revoke", "anna"]) == 2


def test_an_answer_is_kept_with_who_gave_it(at_home: Path) -> None:
    store = connect(config.load(home=at_home).db)
    (row,) = store.rows("SELECT transaction_id AS id FROM transactions LIMIT 1")
    assert main(["answer", row["id"], "fraud", "--who", "anna", "--note", "phoned"]) == 0
    assert store.rows("SELECT transaction_id AS id, answer, analyst, note FROM reviews") == [
        {"id": row["id"], "answer": "fraud", "analyst": "anna", "note": "phoned"}
    ]
    assert main(["answer", row["id"], "perhaps"]) == 2
