"""Laws of runs: what a notebook leaves behind when it ends well, badly, or not by itself."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill import PapermillExecutionError

from aegis_core import config
from aegis_core.errors import InputError, NotReady, RunBusy, RunFailed
from aegis_core.runs import execution, ledger, lineage, notebooks, parameters, reports
from aegis_core.runs.redaction import secrets_of
from aegis_core.schema import MIGRATIONS
from aegis_core.store import Store, connect

HOSTILE = "</script><script>document.title='taken'</script><b>"
PARAMETERS = """
how: str = "well"  # how the notebook ends
n: int = 3  # a whole number
share: float = 0.5  # a share
live: bool = False  # a switch
token: str = ""  # a secret, as a reference
db: str = ""  # database
run_id: str = ""  # filled in by the run
"""
ENDINGS = """
import time, os
from aegis_core.errors import NotReady
if how == "expected": raise NotReady("There is no champion. Train one first.")
if how == "slow": time.sleep(60)
while how == "endless":
    try: time.sleep(60)
    except KeyboardInterrupt: pass
if how == "dead": os._exit(9)
"""
MACHINE = """
import os, sys
from datetime import datetime
from ipykernel.connect import get_connection_info
from aegis_core import config, store
from aegis_core.runs import execution, lineage
settings = config.load(db=db)
seen = lineage.Seen("4711", -1, 0, datetime(2026, 3, 1))
execution.record_data(store.connect(settings.db), run_id, seen)
figures = {("average_precision", "forest/0"): 0.25}
execution.record(store.connect(settings.db), run_id, metrics=figures)
spoken_to = get_connection_info(unpack=True)["transport"]
print(sys.executable, os.getcwd(), settings.alert_budget, settings.db, n, spoken_to, sep="|")
"""
FIGURE = """
from IPython.display import HTML, display
figure = {"data": [{"type": "scatter", "y": [1, 3, 2]}], "layout": {"title": {"text": how}}}
display({"application/vnd.plotly.v1+json": figure}, raw=True)
display(HTML("<script>document.title = 'taken'</script>"))
if token:
    import html, json
    from aegis_core.config import secret
    print("the token is", secret(token), json.dumps({"token": secret(token)}))
    display(HTML(f"<b>{html.escape(secret(token))}</b>"))
    os.write(2, secret(token).encode())
    raise ValueError(secret(token))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> config.Settings:
    folder = tmp_path_factory.mktemp("a {home}")
    return config.load(
        home=folder, db="a.duckdb", models="models", reports="reports", alert_budget=0.25
    )


@pytest.fixture(autouse=True, scope="module")
def notebook(settings: config.Settings) -> Iterator[Path]:
    """A notebook that ends as its parameter says, in the place of the first one."""
    cells = [
        new_markdown_cell("# How does it end?\nSee the [next](02_train.ipynb)."),
        new_code_cell(PARAMETERS.strip(), metadata={"tags": ["parameters"]}),
        new_code_cell(MACHINE.strip()),
        new_code_cell(FIGURE.strip()),
        new_code_cell(ENDINGS.strip()),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    path = settings.home / "01_generate.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parameters.NOTEBOOKS, "generate", path)
        yield path


Quick = list[Callable[[notebooks.Progress], None]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Runs execute no kernel: they call what is in this list, one after another, or nothing."""
    steps: Quick = []

    def execute(*_: object, watch: notebooks.Progress, **__: object) -> None:
        if steps:
            steps.pop(0)(watch)

    monkeypatch.setattr(notebooks, "execute", execute)
    return steps


def failing(*_: object) -> None:
    raise OSError("the disk went away")


@pytest.fixture(scope="module")
def ended(settings: config.Settings, notebook: Path) -> tuple[execution.RunResult, str]:
    """A run that ended well, and what it told on the standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        result = execution.run_notebook("generate", {"n": "1_000", "how": HOSTILE}, settings)
    return result, told.getvalue()


@pytest.fixture(scope="module")
def done(ended: tuple[execution.RunResult, str]) -> execution.RunResult:
    return ended[0]


def row(settings: config.Settings, run_id: str | None = None) -> dict[str, Any]:
    order = "ORDER BY started_at DESC LIMIT 1"
    if run_id is None:
        return connect(settings.db).rows(f"SELECT * FROM runs {order}")[0]
    return connect(settings.db).rows("SELECT * FROM runs WHERE run_id = ?", [run_id])[0]


def printed(executed: Path) -> str:
    notebook = nbformat.read(executed, as_version=4)
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o)


def test_a_finished_run_is_a_row_of_the_ledger(
    settings: config.Settings, done: execution.RunResult
) -> None:
    entry = row(settings, done.run_id)
    assert entry["status"] == done.status == "done"
    assert (entry["notebook"], entry["data_hash"], entry["error"]) == ("generate", "4711", None)
    assert entry["cells_done"] == entry["cells_total"] == 4
    assert entry["started_at"] <= entry["ended_at"]
    assert entry["report_path"] == str(done.report_path)
    assert entry["seconds"] == done.seconds > 0
    assert entry["peak_memory_mb"] > 30
    assert entry["notebook_hash"] == notebooks.content_hash(parameters.NOTEBOOKS["generate"])
    assert (entry["lock_hash"], entry["code_version"]) == (
        lineage.lock_hash(),
        lineage.code_version(),
    )
    assert (entry["attempt"], entry["seed"], entry["last_seq"], entry["n_labels"]) == (1, 0, -1, 0)
    assert json.loads(entry["settings"])["alert_budget"] == 0.25
    assert re.fullmatch(r"\d{8}-\d{6}-generate-[0-9a-f]{4}", done.run_id)


def test_the_ledger_keeps_every_parameter_also_those_left_at_their_default(
    settings: config.Settings, done: execution.RunResult
) -> None:
    kept = json.loads(row(settings, done.run_id)["parameters"])
    assert kept == {"how": HOSTILE, "n": 1000, "share": 0.5, "live": False, "token": ""}


def test_a_run_uses_the_callers_python_and_settings_and_its_own_folder(
    settings: config.Settings, done: execution.RunResult
) -> None:
    python, folder, budget, db, n, spoken_to = printed(done.notebook_path).strip().split("|")
    assert python == sys.executable
    assert Path(folder) == done.notebook_path.parent == settings.reports / done.run_id
    assert (float(budget), Path(db), int(n)) == (0.25, settings.db, 1000)
    assert spoken_to == "ipc"  # not a port that others could take before the kernel, or reach


def test_metrics_of_a_run_are_rows_under_its_id(
    settings: config.Settings, done: execution.RunResult
) -> None:
    rows = connect(settings.db).rows("SELECT * FROM metrics WHERE run_id = ?", [done.run_id])
    assert [(r["name"], r["slice"], r["value"]) for r in rows] == [
        ("average_precision", "forest/0", 0.25)
    ]


def test_recording_outside_a_run_does_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none.duckdb")
    execution.record_data(store, "", 7)
    execution.record(store, "", metrics={("average_precision", "forest/0"): 0.25})
    assert not store.path.exists()


def test_one_call_notes_what_a_run_saw_used_and_found_and_says_what_it_kept(store: Store) -> None:
    with store.writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at) VALUES ('r', 'n', '', now())"
        )
    saw = lineage.seen(store)
    for value in (0.5, 0.25):
        figures = {("average_precision", "forest/0"): value, ("recall", "forest/night"): None}
        told = execution.record(store, "r", data=saw, model="m", metrics=figures)
    assert told == "2 rows in the table metrics, with run_id r."
    (run,) = store.rows("SELECT data_hash, last_seq, model_version FROM runs")
    assert run == {"data_hash": saw.data_hash, "last_seq": -1, "model_version": "m"}
    kept = store.rows("SELECT name, value FROM metrics ORDER BY name")
    assert [tuple(row.values()) for row in kept] == [("average_precision", 0.25), ("recall", None)]
    execution.record(store, "r", metrics={})
    assert store.rows("SELECT * FROM metrics") == []


def test_a_report_loads_nothing_and_no_script_from_an_output_runs(
    done: execution.RunResult, settings: config.Settings
) -> None:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**chromium())
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(done.report_path.as_uri())
        page.wait_for_selector(".figure .main-svg")
        assert page.title().startswith("generate")
        assert page.locator("h1").inner_text() == "How does it end?"
        assert page.locator(".figure .gtitle").text_content() == HOSTILE.replace("<b>", "")
        assert page.locator("details.code").first.get_attribute("open") is None
        page.get_by_role("link", name="Where does this come from?").last.click()
        assert lineage.code_version() in page.locator("#origin").inner_text()
        page.goto((settings.reports / "index.html").as_uri())
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert HOSTILE in (page.locator("tbody").text_content() or "")
        page.get_by_role("link", name="generate").last.click()
        assert page.title().startswith("generate")
        browser.close()
    assert {url.split(":")[0] for url in asked} == {"file"}


def chromium() -> dict[str, Any]:
    """Options for the system's Chromium, or for Playwright's own where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return {"args": ["--no-sandbox"], **({"executable_path": found} if found else {})}


def test_an_error_on_purpose_is_told_as_its_sentence(settings: config.Settings) -> None:
    before = connect(settings.db).rows("SELECT count(*) AS n FROM runs")[0]["n"]
    with pytest.raises(RunFailed) as failure:
        execution.run_notebook(
            "generate", {"how": "expected"}, settings, progress=False, retries=2, backoff_s=0
        )
    after = connect(settings.db).rows("SELECT count(*) AS n FROM runs")[0]["n"]
    assert after == before + 1, "what cannot be used is not tried again"
    entry = row(settings)
    folder = settings.reports / entry["run_id"]
    assert entry["status"] == "failed"
    assert entry["error"] == "There is no champion. Train one first."
    assert str(failure.value) == (
        "generate failed in cell In [5]: There is no champion. Train one first. "
        f"Executed notebook: {folder / '01_generate.ipynb'}"
    )
    assert failure.value.exit_code == 2
    assert entry["cells_done"] == entry["cells_total"] - 1
    assert "4711" in (folder / "run.json").read_text()
    assert "There is no champion" in (folder / "report.html").read_text()


def test_any_other_error_is_told_with_its_name_and_without_colours(
    settings: config.Settings, quick: Quick
) -> None:
    coloured = "\x1b[31mlist index\x1b[39m out of range"

    def crash(_: notebooks.Progress) -> None:
        raise PapermillExecutionError(4, 5, "[][n]", "IndexError", coloured, [coloured])

    quick.append(crash)
    told = "IndexError: list index out of range."
    with pytest.raises(RunFailed, match=rf"generate failed in cell In \[5\]: {told}"):
        generate(settings)
    assert row(settings)["error"] == told


def test_a_notebook_that_never_ends_is_ended_with_its_kernel(settings: config.Settings) -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(RunFailed, match="longer than the 3 s"):
        execution.run_notebook(
            "generate", {"how": "endless"}, settings, progress=False, timeout_s=3
        )
    assert row(settings)["status"] == "failed"
    assert not [p for p in psutil.Process().children(recursive=True) if p not in before]


SECRET = "s3cret & <mine> 'quoted'"


def test_a_secret_is_nowhere_in_what_a_run_leaves_and_fails_it(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SECRET", SECRET)
    with pytest.raises(RunFailed, match="held the value of env:TEST_SECRET; it was masked") as e:
        execution.run_notebook("generate", {"token": "env:TEST_SECRET"}, settings, progress=False)
    ledger_row = row(settings)
    folder = settings.reports / ledger_row["run_id"]
    assert ledger_row["status"] == "failed"
    assert "ValueError" in ledger_row["error"]
    left = [path.read_text() for path in folder.iterdir()] + [str(e.value), str(ledger_row)]
    left.append((settings.reports / "index.html").read_text())
    assert len(left) == 7  # notebook, report, run.json, kernel.log, and three more
    for text in left:
        assert "s3cret" not in text
    assert sum("the token is •••" in text for text in left) == 2
    assert json.loads(ledger_row["parameters"])["token"] == "env:TEST_SECRET"


def test_the_secrets_of_the_house_are_masked_as_well(
    tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {
        "AEGIS_TOKEN": "t0ken-of-the-service",
        "AEGIS_REVIEW_TOKEN": "t0ken-of-the-review",
        "TEST_MAIL": "mailto://anna:passw0rd@example.org",
    }
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    rule = {"name": "a", "what": ["run"], "to": ["env:TEST_MAIL", "env:TEST_NOT_SET"]}
    settings = config.load(home=tmp_path, notify=[rule])
    said: dict[str, Any] = {"outputs": [{"text": " ".join(kept.values())}]}
    quick.append(lambda watch: watch.ended(said))
    with pytest.raises(RunFailed, match="AEGIS_REVIEW_TOKEN, AEGIS_TOKEN, env:TEST_MAIL; it was"):
        generate(settings)
    assert said["outputs"] == [{"text": "••• ••• •••"}]


def test_a_kernel_that_dies_fails_the_run(settings: config.Settings) -> None:
    with pytest.raises(RunFailed, match="Python process died"):
        execution.run_notebook("generate", {"how": "dead"}, settings, progress=False)
    assert row(settings)["status"] == "failed"


def test_a_terminated_run_is_marked_interrupted_and_leaves_no_kernel(
    settings: config.Settings, notebook: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from aegis_core import config;"
        "from aegis_core.runs import execution, parameters;"
        "parameters.NOTEBOOKS['generate'] = Path(sys.argv[1]);"
        "execution.run_notebook('generate', {'how': 'slow'}, config.load(), progress=False)"
    )
    shorter = notebook.read_bytes()
    longer = nbformat.read(notebook, as_version=4)
    longer.cells.append(new_code_cell("print('never')"))
    nbformat.write(longer, notebook)
    before = {path.name for path in settings.reports.glob("*")}
    environment = {**os.environ, "AEGIS_HOME": str(settings.home), "AEGIS_DB": "a.duckdb"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(notebook)], env=environment, stderr=subprocess.PIPE
    )
    try:
        executed = wait_for_cell(settings, before)
        with pytest.raises(RunBusy, match=f"process {process.pid}"):
            execution.run_notebook("generate", {}, settings, progress=False)
        kernels = psutil.Process(process.pid).children(recursive=True)
        with executed.open() as opened:  # what a reader has open is whole whatever follows
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=20)
            assert '"status": "running"' in json.dumps(json.load(opened))
    finally:
        notebook.write_bytes(shorter)  # which other tests use
        process.kill()
    assert process.returncode not in (0, -signal.SIGTERM)
    assert b"KeyboardInterrupt" in told
    assert kernels
    assert not [kernel for kernel in kernels if kernel.is_running()]
    entry = row(settings, executed.parent.name)
    assert (entry["status"], entry["error"]) == ("interrupted", "Stopped from outside.")
    cells = [c for c in nbformat.read(executed, as_version=4).cells if c.cell_type == "code"]
    ran = [cell.metadata.papermill.status for cell in cells]
    assert ran.count("failed") == 1
    assert ran[ran.index("failed") + 1 :] == ["pending"] * (len(ran) - ran.index("failed") - 1)
    page = (executed.parent / "report.html").read_text("utf-8")
    assert page.count("This cell did not run.") == ran.count("pending") > 0
    assert f"{entry['cells_done']} of {entry['cells_total']} cells ran to their end" in page
    assert sys.executable in printed(executed)


def wait_for_cell(settings: config.Settings, before: set[str]) -> Path:
    """The executed notebook of the new run, once its last cell runs."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for path in settings.reports.glob("*/01_generate.ipynb"):
            if path.parent.name not in before and '"status": "running"' in path.read_text():
                cells = nbformat.read(path, as_version=4).cells
                running = [c for c in cells if c.metadata.papermill.status == "running"]
                if any("time.sleep" in cell.source for cell in running):
                    return path
        time.sleep(0.05)
    raise AssertionError("the run did not start")


def test_the_row_of_a_killed_run_is_closed_by_the_next(
    settings: config.Settings, quick: Quick
) -> None:
    with connect(settings.db).writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at) "
            "VALUES ('killed', 'generate', 'running', now()), ('other', 'train', 'running', now())"
        )
    (settings.reports / "killed").mkdir()
    facts = {"run_id": "killed", "notebook": "generate", "status": "running", "parameters": "{}"}
    facts |= {"started_at": "2026-01-01T00:00:00", "cells_done": 1, "cells_total": 2}
    (settings.reports / "killed" / "run.json").write_text(json.dumps(facts))
    with ledger.alone(settings.db, "evaluate"), connect(settings.db).writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at) "
            "VALUES ('alive', 'evaluate', 'running', now())"
        )
    with ledger.alone(settings.db, "evaluate"):
        execution.run_notebook("generate", {}, settings, progress=False)
    assert row(settings, "alive")["status"] == "running"
    assert json.loads((settings.reports / "killed" / "run.json").read_text())["error"] == "Killed."
    assert row(settings, "killed")["status"] == "interrupted"
    assert row(settings, "other")["status"] == "interrupted"


def test_progress_is_papermills_bar(ended: tuple[execution.RunResult, str]) -> None:
    _, told = ended
    assert "generate: 100%" in told
    assert "cell" in told
    assert "WARNING" not in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m": 1}, "generate has no parameter 'm'"),
        ({"hov": "well"}, "Did you mean how?"),
        ({"n": "many"}, "The parameter n must be int, not 'many'."),
        ({"n": 1.5}, "must be int"),
        ({"n": True}, "must be int"),
        ({"n": "inf"}, "must be int"),
        ({"share": "half"}, "must be float"),
        ({"live": "perhaps"}, "must be bool"),
        ({"how": 3}, "must be str"),
        ({"db": "x"}, "--db"),
        ({"token": "s3cret-as-it-is"}, "-p token env:NAME"),
        ({"token": "env:NOT_THERE"}, "variable NOT_THERE is not set"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_starts(
    given: dict[str, object], message: str, tmp_path: Path
) -> None:
    settings = config.load(home=tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        execution.run_notebook("generate", given, settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address",
    ["http://user:{}@127.0.0.1:9/", "http://{}@[::1]:9", "http://user:a/{}#@host", "x://:{}@h"],
)
def test_an_address_with_a_password_in_it_is_refused_without_telling_it(
    address: str, tmp_path: Path
) -> None:
    settings = config.load(home=tmp_path)
    with pytest.raises(InputError, match="Leave out what stands before the @") as refused:
        execution.run_notebook("simulate", {"target": address.format("s3cret")}, settings)
    assert "s3cret" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8000/a@b", "http://[::1]:80?to=a@b", "sqlite:///a@b", "a:b@c"]
)
def test_an_address_without_one_is_not(address: str) -> None:
    assert secrets_of({"target": address}) == {}


def test_an_unknown_notebook_is_refused_with_the_names_there_are(
    settings: config.Settings,
) -> None:
    with pytest.raises(InputError, match=r"start, generate, .*Did you mean generate"):
        execution.run_notebook("generat", {}, settings)


def test_only_generate_may_make_a_database(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parameters.NOTEBOOKS, "train", parameters.NOTEBOOKS["generate"])
        with pytest.raises(NotReady, match="no database"):
            execution.run_notebook("train", {}, settings)
    assert not list(tmp_path.iterdir())


def test_two_notebooks_may_run_on_one_database_and_one_on_two(tmp_path: Path) -> None:
    a, b = tmp_path / "a.duckdb", tmp_path / "b.duckdb"
    with ledger.alone(a, "train"), ledger.alone(a, "evaluate"), ledger.alone(b, "train"):
        again = ledger.alone(a, "train")
        with pytest.raises(RunBusy, match=f"process {os.getpid()}"):
            again.__enter__()
    assert not list(tmp_path.iterdir())


def test_the_list_of_runs_escapes_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "20260101-000000-train-0000").mkdir()
    facts = {
        "run_id": "x\"><i>", "notebook": "<i>", "parameters": json.dumps({"<i>": "<i>"}),
        "started_at": "2026-01-01T00:00:00", "status": "<i>", "error": "<i>", "code_version": "<i>",
        "data_hash": "<i>", "cells_done": 1, "cells_total": 2, "ended_at": None,
        "report_path": "x",
    }  # fmt: skip
    (tmp_path / "20260101-000000-train-0000" / "run.json").write_text(json.dumps(facts))
    page = reports.write_index(tmp_path).read_text()
    assert "<i>" not in page
    assert "1 of 2 cells" in page


# --- several attempts, several at once -------------------------------------------------------


def generate(settings: config.Settings, **options: Any) -> execution.RunResult:
    return execution.run_notebook("generate", {}, settings, progress=False, **options)


def test_a_failed_attempt_is_a_row_and_the_next_one_names_it(
    settings: config.Settings, quick: Quick
) -> None:
    quick.extend([failing, failing])
    result = generate(settings, retries=3, backoff_s=0.01)
    last = row(settings, result.run_id)
    before = row(settings, last["retry_of"])
    assert (last["status"], last["attempt"]) == ("done", 3)
    assert (before["status"], before["attempt"]) == ("failed", 2)
    assert before["error"] == "OSError: the disk went away."


def test_retries_end_and_the_last_failure_is_told(settings: config.Settings, quick: Quick) -> None:
    quick.extend([failing] * 3)
    with pytest.raises(RunFailed, match="disk went away"):
        generate(settings, retries=1, backoff_s=0)
    assert len(quick) == 1


def test_a_run_with_too_little_to_judge_by_says_so_and_draws_no_line_on(
    settings: config.Settings, quick: Quick
) -> None:
    def found(value: float | None, unjudged: str = "") -> Callable[[notebooks.Progress], None]:
        metrics = {} if value is None else {("average_precision", "forest/0"): value}
        return lambda watch: print(
            execution.record(watch.store, watch.run_id, metrics=metrics, unjudged=unjudged)
        )

    quick.extend([found(0.25), found(None, "Too few labels to judge.")])
    assert generate(settings).status == "done"
    result = generate(settings, retries=3)
    last = row(settings, result.run_id)
    assert (last["status"], last["error"], last["attempt"]) == (result.status, result.told, 1)
    assert (result.status, result.told) == ("unjudged", "Too few labels to judge.")
    page = (settings.reports / "index.html").read_text()
    card = page.partition('<section class="card unjudged">')[2].partition("</section>")[0]
    assert "Too few labels to judge." in card
    assert "<b>0.25</b>" in card
    assert "figures of" in card


def test_an_overlap_fails_is_skipped_or_waited_for(settings: config.Settings, quick: Quick) -> None:
    n_runs = len(list(settings.reports.iterdir()))
    with ledger.alone(settings.db, "generate"):
        with pytest.raises(RunBusy, match=f"process {os.getpid()}, since 20") as busy:
            generate(settings)
        assert busy.value.exit_code == 3
        skipped = generate(settings, on_overlap="skip")
        assert (skipped.status, f"process {os.getpid()}" in skipped.told) == ("skipped", True)
        with pytest.raises(RunBusy):
            generate(settings, on_overlap="wait", timeout_s=0.3)
    assert len(list(settings.reports.iterdir())) == n_runs
    holds, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with ledger.alone(settings.db, "generate"):
            holds.set()
            ends.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(10)
    threading.Timer(0.3, ends.set).start()
    assert generate(settings, on_overlap="wait").status == "done"
    holder.join()


def test_what_is_due_runs_once_whoever_starts_it(settings: config.Settings, quick: Quick) -> None:
    due = ledger.Due("nightly", datetime(2026, 3, 1, 2, 30))
    first = generate(settings, due=due)
    second = generate(settings, due=due)
    assert (first.status, second.status) == ("done", "skipped")
    assert first.run_id == second.run_id
    entry = row(settings, first.run_id)
    assert (entry["entry"], entry["due_at"]) == ("nightly", due.at)
    busy = ledger.Due("nightly", datetime(2026, 3, 2, 2, 30))
    with ledger.alone(settings.db, "generate"):
        skipped = generate(settings, due=busy, on_overlap="skip")
    assert row(settings, skipped.run_id)["status"] == "skipped"


def test_progress_is_in_the_ledger_while_a_notebook_runs(
    settings: config.Settings, quick: Quick
) -> None:
    seen: list[dict[str, Any]] = []

    def slow(watch: notebooks.Progress) -> None:
        watch.started(os.getpid())
        watch.done({"cell_type": "markdown", "metadata": {}, "source": "# How?\nSo.\n## And then?"})
        watch.done({"cell_type": "code", "metadata": {}, "source": "1"})
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not (seen and seen[-1]["cells_done"]):
            time.sleep(0.1)
            seen.append(row(settings))

    quick.append(slow)
    result = generate(settings)
    during = seen[-1]
    assert (during["status"], during["cells_done"], during["cells_total"]) == ("running", 1, 4)
    assert (during["heading"], during["run_id"]) == ("And then?", result.run_id)
    assert during["peak_memory_mb"] > 30
    assert row(settings, result.run_id)["heading"] is None


# --- reports ---------------------------------------------------------------------------------


def test_a_run_whose_report_cannot_be_written_has_failed(
    settings: config.Settings, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reports, "render", full)
    with pytest.raises(RunFailed, match="could not be written: OSError: "):
        generate(settings)
    entry = row(settings)
    assert (entry["status"], entry["report_path"]) == ("failed", None)
    facts = json.loads((settings.reports / entry["run_id"] / "run.json").read_text())
    assert facts["status"] == "failed"


def test_a_crash_within_a_report_leaves_no_half_of_one(
    settings: config.Settings, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (settings.reports / "index.html").read_text()
    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(RunFailed, match="disk went away"):
        generate(settings)
    entry = row(settings)
    assert entry["status"] == "failed"
    assert not (settings.reports / entry["run_id"] / "report.html").exists()
    assert (settings.reports / "index.html").read_text() == before


def test_a_run_json_that_is_not_whole_spoils_no_list(tmp_path: Path) -> None:
    for i, text in enumerate(("", '{"run_id": "x"', "[]", "{}")):
        folder = tmp_path / f"20260101-000000-train-{i:04}"
        folder.mkdir()
        (folder / "run.json").write_text(text)
    assert "0 in this folder" in reports.write_index(tmp_path).read_text()


def test_old_reports_are_cleared_away_and_the_ledger_keeps_its_rows(
    tmp_path: Path, quick: Quick
) -> None:
    settings = config.load(home=tmp_path, keep_runs=2)
    ids = [generate(settings).run_id for _ in range(3)]
    kept = {path.name for path in settings.reports.iterdir() if path.is_dir()}
    assert kept == set(ids[1:])
    assert connect(settings.db).rows("SELECT count(*) AS n FROM runs") == [{"n": 3}]
    page = (settings.reports / "index.html").read_text()
    assert ids[0] not in page
    assert ids[2] in page
    assert reports.clear(settings.reports, 0, 1.0) == []
    assert set(reports.clear(settings.reports, 0, 1e-9)) == set(ids[1:])


@pytest.mark.parametrize("keeps", [{"keep_days": 1e-9}, {"keep_runs": 1}], ids=str)
def test_the_report_of_the_run_that_ends_is_there_to_be_read(
    keeps: dict[str, Any], tmp_path: Path, quick: Quick
) -> None:
    settings = config.load(home=tmp_path, **keeps)

    def long(_: notebooks.Progress) -> None:
        other = settings.reports / "20990101-000000-train-0000"  # began later and ended before
        other.mkdir()
        facts: dict[str, object] = {"run_id": other.name, "notebook": "train", "cells_done": 1}
        facts |= {
            "status": "done",
            "started_at": "2099-01-01",
            "parameters": "{}",
            "cells_total": 1,
        }
        (other / "run.json").write_text(json.dumps(facts))

    quick.append(long)
    assert generate(settings).report_path.exists()


def test_old_reports_that_cannot_be_removed_spoil_no_run(
    tmp_path: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.load(home=tmp_path, keep_runs=1)
    first = generate(settings).run_id
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refused)
        assert reports.clear(settings.reports, 0, 1e-9) == []
        second = generate(settings)
    assert (second.status, row(settings, second.run_id)["error"]) == ("done", None)
    assert (settings.reports / first).exists()
    assert reports.clear(settings.reports, 1, 0) == [first]


def refused(path: Path, ignore_errors: bool = False) -> None:
    if not ignore_errors:
        raise PermissionError(f"{path} is not yours.")


def test_two_that_clear_at_once_do_not_get_in_each_other_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"notebook": "x", "started_at": "2026-01-01", "status": "done", "parameters": "{}"}
    for i in range(3):
        (tmp_path / f"r{i}").mkdir()
        (tmp_path / f"r{i}" / "run.json").write_text(json.dumps(facts | {"run_id": f"r{i}"}))
    noted = reports._noted(tmp_path)
    shutil.rmtree(tmp_path / "r1")  # by the other one, after this one looked
    monkeypatch.setattr(reports, "_noted", lambda _: noted)
    assert set(reports.clear(tmp_path, 0, 1)) == {"r0", "r1", "r2"}
    assert not list(tmp_path.iterdir())


def test_what_was_overwritten_is_gone_as_from_a_terminal() -> None:
    for n in range(7):
        for letters in itertools.product("a\r\n", repeat=n):
            text = "".join(letters)
            assert reports._overwritten(text) == re.sub(r"[^\n]*\r(?!\n)", "", text)


def test_a_long_line_of_output_is_read_once() -> None:
    """In a process of its own: a search that begins anew at each letter takes minutes for it."""
    code = (
        "from aegis_core.runs.reports import _as_left; line = 'x' * 2_000_000;"
        "said = lambda t: [{'output_type': 'stream', 'name': 'stdout', 'text': t}];"
        "assert _as_left(said(line))[0]['text'] == line;"
        "assert _as_left(said(line + '\\ra\\n' + line))[0]['text'] == 'a\\n' + line"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_ledger_of_an_older_version_gets_every_column_and_keeps_its_rows(store: Store) -> None:
    old = (
        "run_id VARCHAR PRIMARY KEY, notebook VARCHAR NOT NULL, parameters VARCHAR, "
        "status VARCHAR NOT NULL, started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP, "
        "cells_done INTEGER, cells_total INTEGER, data_hash VARCHAR, code_version VARCHAR, "
        "report_path VARCHAR, error VARCHAR"
    )
    with store.writing() as session:
        columns = session.columns("runs")
        session.execute("DROP TABLE runs")
        session.execute(f"CREATE TABLE runs ({old})")
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at) VALUES ('a', 'b', 'c', now())"
        )
        for statement in (*MIGRATIONS[2], *MIGRATIONS[3]):
            if " runs " in statement:
                session.execute(statement)
        assert session.columns("runs") == columns
        assert session.rows("SELECT notebook, last_seq FROM runs") == [
            {"notebook": "b", "last_seq": None}
        ]
