"""The notebooks read well, say what they were asked, and run on any data."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from aegis_core import runs

ROOT = Path(__file__).parents[1]
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
    declared = runs.inspect(path)
    assert len(declared) == len(lines)
    assert list(declared)[-2:] == list(runs.OWN)
    for about in declared.values():
        assert about["inferred_type_name"] in ("int", "float", "bool", "str"), about
        assert isinstance(ast.literal_eval(about["default"]), int | float | bool | str)
        assert len(about["help"].split()) >= 3, about


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


def test_what_is_in_git_is_stripped(path: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", *STRIP, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, "make notebooks-strip"


def test_the_kernel_is_whatever_python_runs_it(notebook: NotebookNode) -> None:
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.get("language_info", {})
