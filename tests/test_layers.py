"""The order of the modules, and which of them may import what from outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aegis_core"
ORDER = (
    *("errors", "schema", "config", "kernels", "arrays", "geo"),
    *("surprise", "profiles", "answers"),
    *(
        "detector",
        "learner",
        "policy",
        "scoring",
        "metrics",
        "splits",
        "learning",
        "hindsight",
        "cases",
        "outcome",
        "evaluation",
        "connection",
        "session",
        "endpoint",
        "admission",
        "gate",
        "owner",
        "attached",
        "store",
        "columns",
        "files",
        "staging",
        "intake",
        "population",
        "scenarios",
        "synthetic",
        "difficulty",
        "models",
        "training",
        "lists",
        "live",
        "engine",
        "service",
        "reports",
        "notebooks",
        "runs",
        "figures",
    ),
    *("board", "dashboard", "up", "cli"),
)
ONLY_IN = {
    "duckdb": {"connection"},
    "plotly": {"figures"},
    "papermill": {"notebooks"},
    "nbconvert": {"reports"},
    "typer": {"cli"},
    "ipywidgets": {"dashboard"},
    "anywidget": {"dashboard"},
    "voila": {"board"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """Everything that a module imports, also inside of its functions, by full name."""
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write the whole name of an import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_module_has_its_place_in_the_order() -> None:
    assert {layer(path) for path in FILES} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_those_above_it(path: Path) -> None:
    for name in imported(path):
        first, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if first == "aegis_core" and target in ORDER and target != layer(path):
            assert ORDER.index(target) < ORDER.index(layer(path)), f"{layer(path)} imports {name}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_from_outside_has_one_home(package: str) -> None:
    homes = {layer(p) for p in FILES if package in {n.split(".")[0] for n in imported(p)}}
    assert homes <= ONLY_IN[package]


def test_the_package_itself_imports_nothing() -> None:
    assert imported(PACKAGE / "__init__.py") == []


def test_every_module_is_used() -> None:
    """A module that nothing imports goes; `cli` is what people call."""
    notebooks = "".join(p.read_text("utf-8") for p in PACKAGE.parent.glob("notebooks/*.ipynb"))
    used = {
        name.split(".")[1]
        for path in FILES
        for name in imported(path)
        if name.startswith("aegis_core.") and name.split(".")[1] != layer(path)
    }
    for module in {layer(path) for path in FILES} - used - {"__init__", "cli"}:
        assert f"aegis_core.{module}" in notebooks or f" {module}" in notebooks, module
