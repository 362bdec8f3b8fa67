"""Laws of runs: what a notebook leaves behind when it ends well, badly, or not by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from aegis_core import config, ledger, lineage, notebooks, reports, runs
from aegis_core.errors import InputError, NotReady, RunBusy, RunFailed
from aegis_core.store import Store, connect

HOSTILE = "</script><script>document.title='taken'</script><b>"
PARAMETERS = """
how: str = "well"  # how the notebook ends
n: int = 3  # a whole number
share: float = 0.5  # a share
live: bool = False  # a switch
db: str = ""  # database
run_id: str = ""  # filled in by the run
"""
ENDINGS = """
import time, os
from aegis_core.errors import NotReady
if how == "expected": raise NotReady("There is no champion. Train one first.")
if how == "crash": [][n]
if how == "slow": time.sleep(60)
if how == "dead": os._exit(9)
"""
MACHINE = """
import os, sys
from aegis_core import config, runs, store
settings = config.load(db=db)
runs.record_data(store.connect(settings.db), run_id, "4711")
runs.record_metrics(store.connect(settings.db), run_id, {("average_precision", "forest/0"): 0.25})
print(sys.executable, os.getcwd(), settings.alert_budget, settings.db, n, sep="|")
"""
FIGURE = """
from IPython.display import HTML, display
figure = {"data": [{"type": "scatter", "y": [1, 3, 2]}], "layout": {"title": {"text": how}}}
display({"application/vnd.plotly.v1+json": figure}, raw=True)
display(HTML("<script>document.title = 'taken'</script>"))
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
        patch.setitem(notebooks.NOTEBOOKS, "generate", path)
        yield path


@pytest.fixture(scope="module")
def done(settings: config.Settings, notebook: Path) -> runs.RunResult:
    return runs.run_notebook("generate", {"n": "1_000", "how": HOSTILE}, settings, progress=False)


def row(settings: config.Settings, run_id: str | None = None) -> dict[str, Any]:
    order = "ORDER BY started_at DESC LIMIT 1"
    if run_id is None:
        return connect(settings.db).rows(f"SELECT * FROM runs {order}")[0]
    return connect(settings.db).rows("SELECT * FROM runs WHERE run_id = ?", [run_id])[0]


def printed(executed: Path) -> str:
    notebook = nbformat.read(executed, as_version=4)
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o)


def test_a_finished_run_is_a_row_of_the_ledger(
    settings: config.Settings, done: runs.RunResult
) -> None:
    ledger = row(settings, done.run_id)
    assert ledger["status"] == done.status == "done"
    assert (ledger["notebook"], ledger["data_hash"], ledger["error"]) == ("generate", "4711", None)
    assert ledger["cells_done"] == ledger["cells_total"] == 4
    assert ledger["started_at"] <= ledger["ended_at"]
    assert ledger["report_path"] == str(done.report_path)
    assert re.fullmatch(r"\d{8}-\d{6}-generate-[0-9a-f]{4}", done.run_id)


def test_the_ledger_keeps_every_parameter_also_those_left_at_their_default(
    settings: config.Settings, done: runs.RunResult
) -> None:
    kept = json.loads(row(settings, done.run_id)["parameters"])
    assert kept == {"how": HOSTILE, "n": 1000, "share": 0.5, "live": False}


def test_a_run_uses_the_callers_python_and_settings_and_its_own_folder(
    settings: config.Settings, done: runs.RunResult
) -> None:
    python, folder, budget, db, n = printed(done.notebook_path).strip().split("|")
    assert python == sys.executable
    assert Path(folder) == done.notebook_path.parent == settings.reports / done.run_id
    assert (float(budget), Path(db), int(n)) == (0.25, settings.db, 1000)


def test_metrics_of_a_run_are_rows_under_its_id(
    settings: config.Settings, done: runs.RunResult
) -> None:
    rows = connect(settings.db).rows("SELECT * FROM metrics WHERE run_id = ?", [done.run_id])
    assert [(r["name"], r["slice"], r["value"]) for r in rows] == [
        ("average_precision", "forest/0", 0.25)
    ]


def test_recording_outside_a_run_does_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none.duckdb")
    runs.record_data(store, "", "4711")
    runs.record_metrics(store, "", {("average_precision", "forest/0"): 0.25})
    assert not store.path.exists()


def test_a_report_loads_nothing_and_no_script_from_an_output_runs(
    done: runs.RunResult, settings: config.Settings
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
        page.goto((settings.reports / "index.html").as_uri())
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
    with pytest.raises(RunFailed) as failure:
        runs.run_notebook("generate", {"how": "expected"}, settings, progress=False)
    ledger = row(settings)
    folder = settings.reports / ledger["run_id"]
    assert ledger["status"] == "failed"
    assert ledger["error"] == "There is no champion. Train one first."
    assert str(failure.value) == (
        "generate failed in cell In [5]: There is no champion. Train one first. "
        f"Executed notebook: {folder / '01_generate.ipynb'}"
    )
    assert failure.value.exit_code == 1
    assert ledger["cells_done"] == ledger["cells_total"] - 1
    assert "4711" in (folder / "run.json").read_text()
    assert "There is no champion" in (folder / "report.html").read_text()


def test_any_other_error_is_told_with_its_name_and_without_colours(
    settings: config.Settings,
) -> None:
    with pytest.raises(RunFailed, match=r"IndexError: list index out of range\."):
        runs.run_notebook("generate", {"how": "crash"}, settings, progress=False)
    assert row(settings)["error"] == "IndexError: list index out of range."


def test_a_run_that_takes_too_long_fails(settings: config.Settings) -> None:
    with pytest.raises(RunFailed, match="longer than the 3 s"):
        runs.run_notebook("generate", {"how": "slow"}, settings, progress=False, timeout_s=3)
    assert row(settings)["status"] == "failed"


def test_a_kernel_that_dies_fails_the_run(settings: config.Settings) -> None:
    with pytest.raises(RunFailed, match="Python process died"):
        runs.run_notebook("generate", {"how": "dead"}, settings, progress=False)
    assert row(settings)["status"] == "failed"


def test_a_terminated_run_is_marked_interrupted_and_leaves_no_kernel(
    settings: config.Settings, notebook: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from aegis_core import config, notebooks, runs;"
        "notebooks.NOTEBOOKS['generate'] = Path(sys.argv[1]);"
        "runs.run_notebook('generate', {'how': 'slow'}, config.load(), progress=False)"
    )
    before = {path.name for path in settings.reports.glob("*")}
    environment = {**os.environ, "AEGIS_HOME": str(settings.home), "AEGIS_DB": "a.duckdb"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(notebook)], env=environment, stderr=subprocess.PIPE
    )
    executed = wait_for_cell(settings, before)
    with pytest.raises(RunBusy, match=f"process {process.pid}"):
        runs.run_notebook("generate", {}, settings, progress=False)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=20)
    assert process.returncode not in (0, -signal.SIGTERM)
    assert b"KeyboardInterrupt" in told
    assert kernels
    assert not [kernel for kernel in kernels if kernel.is_running()]
    ledger = row(settings, executed.parent.name)
    assert (ledger["status"], ledger["error"]) == ("interrupted", "Stopped from outside.")
    assert sys.executable in printed(executed)


def wait_for_cell(settings: config.Settings, before: set[str]) -> Path:
    """The executed notebook of the new run, once its last cell runs."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for path in settings.reports.glob("*/01_generate.ipynb"):
            if path.parent.name not in before and '"status": "running"' in path.read_text():
                cells = nbformat.read(path, as_version=4).cells
                if cells[-1].metadata.papermill.status == "running":
                    return path
        time.sleep(0.05)
    raise AssertionError("the run did not start")


def test_the_row_of_a_killed_run_is_closed_by_the_next(
    settings: config.Settings, done: runs.RunResult
) -> None:
    with connect(settings.db).writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at) "
            "VALUES ('killed', 'generate', 'running', now()), ('other', 'train', 'running', now())"
        )
    runs.run_notebook("generate", {}, settings, progress=False)
    assert row(settings, "killed")["status"] == "interrupted"
    assert row(settings, "other")["status"] == "interrupted"


def test_progress_is_papermills_bar(
    settings: config.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.run_notebook("generate", {}, settings)
    told = capsys.readouterr().err
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
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_starts(
    given: dict[str, object], message: str, tmp_path: Path
) -> None:
    settings = config.load(home=tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        runs.run_notebook("generate", given, settings)
    assert not list(tmp_path.iterdir())


def test_an_unknown_notebook_is_refused_with_the_names_there_are(
    settings: config.Settings,
) -> None:
    with pytest.raises(InputError, match=r"start, generate, .*Did you mean generate"):
        runs.run_notebook("generat", {}, settings)


def test_only_generate_may_make_a_database(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(notebooks.NOTEBOOKS, "train", notebooks.NOTEBOOKS["generate"])
        with pytest.raises(NotReady, match="no database"):
            runs.run_notebook("train", {}, settings)
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


def test_the_code_version_names_the_package_and_the_commit(tmp_path: Path) -> None:
    assert re.match(r"\d+\.\d+\.\d+", lineage.code_version())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "CHECKOUT", tmp_path)
        assert re.fullmatch(r"\d+\.\d+\.\d+", lineage.code_version())
