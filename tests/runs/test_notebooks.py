"""The notebooks read well, say what they were asked, and run on any data."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat import NotebookNode

from aegis_core import config
from aegis_core.cli import main
from aegis_core.detection.detector import Detector
from aegis_core.detection.training import Recipe
from aegis_core.errors import InputError
from aegis_core.evaluation import splits
from aegis_core.intake.synthetic import SyntheticConfig
from aegis_core.runs import parameters
from aegis_core.schema import SCENARIOS
from aegis_core.store import connect

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]
STRIP = ["--keep-count", "--keep-id", "--extra-keys", "metadata.language_info.version"]
MARKER = "# NBVAL_CHECK_OUTPUT"
TOO_MUCH = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While)


@pytest.fixture(params=PATHS, ids=NAMES)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def test_the_title_is_a_question_and_says_why_it_matters(notebook: NotebookNode) -> None:
    title, _, why = notebook.cells[0].source.partition("\n")
    assert re.fullmatch(r"# \S.*\?", title)
    assert len(why.split()) >= 12


def test_every_parameter_has_a_type_a_value_and_a_sentence(path: Path) -> None:
    cells = [c for c in code(nbformat.read(path, as_version=4)) if "parameters" in tags(c)]
    assert len(cells) == 1
    lines = [line for line in cells[0].source.splitlines() if line and not line.startswith("#")]
    declared = parameters.inspect(path)
    assert declared == papermill.inspect_notebook(str(path))
    assert len(declared) == len(lines)
    assert list(declared)[-2:] == list(parameters.OWN)
    for about in declared.values():
        assert about["inferred_type_name"] in ("int", "float", "bool", "str"), about
        default = ast.literal_eval(about["default"])
        assert default is None or type(default).__name__ == about["inferred_type_name"], about
        assert len(about["help"].split()) >= 3, about


@pytest.mark.parametrize("given", [None, "", -1, "-1.0"])
def test_a_parameter_left_to_the_settings_may_be_given_as_older_schedules_do(given: object) -> None:
    limits = dict.fromkeys(("alert_budget", "seed"), given)
    assert not any(parameters.check_parameters("evaluate", limits)[name] for name in limits)
    values = parameters.check_parameters("evaluate", {"alert_budget": "0.01", "seed": 0})
    assert (values["alert_budget"], values["seed"]) == (0.01, 0)
    assert values["block_share"] is None


@pytest.mark.parametrize("given", ["nan", "inf", "-Infinity", "1e400", float("nan")])
def test_a_parameter_that_is_no_finite_number_is_refused(given: object) -> None:
    numbers = [
        (name, key)
        for name in parameters.NOTEBOOKS
        for key, about in parameters.parameters_of(name).items()
        if about["inferred_type_name"] in ("int", "float")
    ]
    assert len(numbers) > 10
    for name, key in numbers:
        with pytest.raises(InputError, match=key):
            parameters.check_parameters(name, {key: given})


def test_every_number_names_the_interval_that_it_is_refused_outside_of() -> None:
    for name in parameters.NOTEBOOKS:
        for key, about in parameters.parameters_of(name).items():
            if about["inferred_type_name"] not in ("int", "float"):
                continue
            found = parameters._INTERVAL.search(about["help"])
            assert found is not None, (name, key)
            default = ast.literal_eval(about["default"])
            if default is not None:
                assert parameters.check_parameters(name, {key: default})[key] == default
            with pytest.raises(InputError, match=rf"{key} must lie in .*, not -5"):
                parameters.check_parameters(name, {key: -5})
            for edge, taken in ((found[2], found[1] == "["), (found[3], found[4] == "]")):
                if edge != "∞":
                    with contextlib.nullcontext() if taken else pytest.raises(InputError):
                        parameters.check_parameters(name, {key: edge})


@pytest.mark.parametrize(
    ("name", "keys", "takes"),
    [
        ("generate", "n_transactions n_customers n_merchants days seed label_delay_days",
         SyntheticConfig),
        ("train", "train_days alerts_per_day", Recipe),
        ("train", "n_trees max_samples", Detector),
        ("train", "alert_budget block_share audit_share seed", config.load),
        ("evaluate", "train_days delay_days test_days folds",
         functools.partial(splits.prequential, "2026-01-01")),
    ],
)  # fmt: skip
def test_the_functions_refuse_what_the_notebooks_do(
    name: str, keys: str, takes: Callable[..., object]
) -> None:
    for key in keys.split():
        found = parameters._INTERVAL.search(parameters.parameters_of(name)[key]["help"])
        assert found is not None
        kind = int if parameters.parameters_of(name)[key]["inferred_type_name"] == "int" else float
        low = kind(found[2])
        takes(**{key: low + (0.5 if found[1] == "(" else 0)})
        with pytest.raises(InputError, match=key):
            takes(**{key: low - (0 if found[1] == "(" else 1)})


@pytest.mark.parametrize(
    ("name", "key", "good", "bad"),
    [
        ("train", "detector", "learner", "forrest"),
        ("train", "detector", "forest", ""),
        ("train", "role", "", "king"),
        ("train", "train_from", "2026-01-01", "01.02.2026"),
        ("generate", "start", "2026-02-28", "2026-02-30"),
        ("generate", "start", "2026-01-01", ""),
        ("evaluate", "train_from", "", "soon"),
        ("price", "train_from", "2026-01-01", "1"),
        ("review", "now", "2026-04-01T08:00", "now"),
        ("drift", "day", "2026-04-01", "yesterday"),
    ],
)
def test_words_and_dates_are_refused_as_the_line_says(
    name: str, key: str, good: str, bad: str
) -> None:
    assert parameters.check_parameters(name, {key: good})[key] == good
    with pytest.raises(InputError, match=f"The parameter {key} must be .*, not '{bad}'"):
        parameters.check_parameters(name, {key: bad})


def test_a_number_out_of_range_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    assert main(["run", "train", "-p", "train_days", "-5"]) == 2
    error = capsys.readouterr().err
    assert error == "aegis: The parameter train_days must lie in (0, 36_500], not -5.0.\n"
    assert list(tmp_path.iterdir()) == []
    code = "import sys; from aegis_core.runs import parameters; print('papermill' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout == "False\n", "what is refused is refused at once"


def test_a_cell_is_short_and_leaves_the_work_to_the_package(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, TOO_MUCH)]
        assert found == [], cell.source
        if "parameters" not in tags(cell):
            assert len(cell.source.splitlines()) <= 15, cell.source


def test_prose_stands_between_the_code(notebook: NotebookNode) -> None:
    kinds = [
        (kind, len(list(cells))) for kind, cells in groupby(c.cell_type for c in notebook.cells)
    ]
    assert max(length for kind, length in kinds if kind == "code") <= 2
    assert kinds[0][0] == kinds[-1][0] == "markdown"


def test_it_says_what_it_does_not_show(notebook: NotebookNode) -> None:
    last = notebook.cells[-3:]
    assert any("does not show" in cell.source for cell in last if cell.cell_type == "markdown")


def test_it_leads_on_and_every_link_leads_somewhere(path: Path, notebook: NotebookNode) -> None:
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)", prose)
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
    if path.name[0].isdigit():
        assert any(link.endswith(".ipynb") for link in links)


def test_reports_can_show_its_prose_without_a_network(notebook: NotebookNode) -> None:
    """Formulas would need a script from elsewhere, pictures a server."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "$$" not in prose
    assert "\\(" not in prose
    assert not re.search(r"!\[|<img|<script", prose)


def test_kept_output_is_what_the_prose_relies_on_and_is_checked(notebook: NotebookNode) -> None:
    """Marker, tag and stored text come together, or the check would be vacuous."""
    kept = [cell for cell in code(notebook) if "keep_output" in tags(cell)]
    marked = [cell for cell in code(notebook) if cell.source.startswith(MARKER)]
    assert kept == marked
    assert len(kept) <= 6
    assert not [cell for cell in code(notebook) if cell not in kept and cell.outputs]
    for cell in kept:
        assert cell.execution_count, "nbval compares nothing in a cell without a count"
        assert [output.name for output in cell.outputs] == ["stdout"]
        assert 1 <= len(cell.outputs[0].text.splitlines()) <= 15
        assert not re.search(r"\d\.\d{7,}", cell.outputs[0].text), "round it"


def test_what_is_in_git_is_stripped() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", *STRIP, *map(str, PATHS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, f"make notebooks-strip: {checked.stdout}"


def test_the_kernel_is_whatever_python_runs_it(notebook: NotebookNode) -> None:
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.get("language_info", {})


ORDER = [
    *("01_generate", "02_train", "03_evaluate", "03_price", "04_simulate", "05_review"),
    *("06_drift", "00_start", "dashboard"),
]


def test_every_notebook_has_its_turn() -> None:
    assert sorted(ORDER) == NAMES


def test_every_notebook_runs_as_it_stands_and_prints_what_it_keeps(tmp_path: Path) -> None:
    """With its default parameters, from an empty place, one after another."""
    nbval = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    plain = ["-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*nbval, *plain, *(f"notebooks/{name}.ipynb" for name in ORDER)],
        cwd=ROOT,
        env={**os.environ, "AEGIS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    cells = sum(len(code(nbformat.read(path, as_version=4))) for path in PATHS)
    assert f"{cells} passed" in ran.stdout


NO_FRAUD = {f"rate_{scenario}": 0 for scenario in SCENARIOS}
SMALL = {"n_transactions": 3_000, "n_customers": 40, "n_merchants": 20, "days": 30}


ODD = {
    "no fraud": SMALL | NO_FRAUD,
    "one customer": SMALL | {"n_customers": 1, "n_merchants": 1},
    "one day": SMALL | {"days": 1},
}
CHAIN: dict[str, dict[str, object]] = {
    "01_generate": {}, "02_train": {}, "03_evaluate": {}, "03_price": {},
    "04_simulate": {"n_transactions": 200}, "06_drift": {}, "00_start": {},
}  # fmt: skip


IN_ONE_PROCESS = """
import json, os, sys, traceback
import nbformat
from IPython.core.interactiveshell import InteractiveShell

folder, odd, chain = sys.argv[1], *map(json.loads, sys.argv[2:])
for title, population in odd.items():
    os.environ["AEGIS_HOME"] = os.path.join(folder, title)
    print("BEGIN", title, flush=True)
    print("BEGIN", title, file=sys.stderr, flush=True)
    try:
        for name, given in chain.items():
            InteractiveShell.clear_instance()
            shell = InteractiveShell.instance()
            for cell in nbformat.read(f"notebooks/{name}.ipynb", as_version=4).cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source).raise_error()
                if "parameters" in cell.metadata.get("tags", ()):
                    shell.user_ns.update(population if name == "01_generate" else given)
        print("ran", list(chain))
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Where the chain ran, a home for each population, and all that was printed."""
    folder = tmp_path_factory.mktemp("odd")
    ran = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, str(folder), json.dumps(ODD), json.dumps(CHAIN)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4_000:]
    return folder, ran.stdout, ran.stderr


@pytest.mark.fast
@pytest.mark.parametrize("population", ODD)
def test_the_whole_chain_runs_on_an_odd_population(
    population: str, ran: tuple[Path, str, str]
) -> None:
    """All in one process: what a kernel of its own and the ledger add is tested elsewhere."""
    folder, *printed = ran
    out, err = (
        text.partition(f"BEGIN {population}\n")[2].partition("BEGIN ")[0] for text in printed
    )
    assert out.endswith(f"ran {list(CHAIN)}\n"), out[-4_000:] + err[-4_000:]
    assert "Warning: " not in err
    store = connect(folder / population / "data/aegis.duckdb")
    assert store.rows("FROM verdicts LIMIT 1")
