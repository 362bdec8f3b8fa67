"""The order of the modules, and which of them may import what from outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aegis_core"
ORDER = (
    *("errors", "schema", "config", "audit", "checksums", "kernels", "arrays", "geo"),
    *("surprise", "profiles", "answers"),
    *(
        "forest",
        "detector",
        "trees",
        "learner",
        "policy",
        "verdicts",
        "scoring",
        "metrics",
        "evaluation",
    ),
    *("store", "intake", "synthetic"),
    *(
        "lineage",
        "models",
        "comparison",
        "approvals",
        "carried",
        "care",
        "reviews",
        "training",
        "drift",
        "lists",
        "caseload",
        "answering",
        "workload",
        "whatif",
        "client",
        "live",
        "service",
        "reports",
        "notebooks",
        "redaction",
        "ledger",
        "runs",
        "verify",
        "cron",
        "schedule",
        "notify",
        "figures",
    ),
    *("board", "dashboard", "review", "up", "cli"),
)
INSIDE = {
    "evaluation": ("splits", "learning", "hindsight", "cases", "outcome", "__init__"),
    "intake": ("columns", "files", "staging", "__init__"),
    "synthetic": ("population", "scenarios", "difficulty", "__init__"),
    "drift": ("traffic", "effects", "moved", "__init__"),
    "figures": (
        *("house", "answers", "data", "drift", "evaluation", "policy", "training", "verdicts"),
        "__init__",
    ),
    "store": (
        *("connection", "session", "tables", "rollups", "journal", "compaction"),
        *("endpoint", "admission", "gate", "owner", "attached", "__init__"),
    ),
    "service": ("keeper", "engine", "messages", "committer", "casework", "app", "__init__"),
    "care": ("files", "retention", "archive", "parquet", "__init__"),
    "notify": ("events", "sending", "outbox", "__init__"),
    "cli": (
        *("common", "output", "register", "reviewing", "care", "runs", "notify"),
        *("__init__", "__main__"),
    ),
    "board": (
        *(
            "assets",
            "filters",
            "counts",
            "feed",
            "log",
            "origins",
            "launcher",
            "pictures",
            "atlas",
            "tiles",
            *("widgets", "report", "customer"),
        ),
        "__init__",
    ),
}
"""The modules of a package, in their order; none imports the package that imports it."""
ONLY_IN = {
    "duckdb": {"store"},
    "plotly": {"figures"},
    "fastapi": {"service"},
    "papermill": {"notebooks"},
    "nbconvert": {"reports"},
    "apscheduler": {"cron", "schedule"},
    "typer": {"cli"},
    "ipywidgets": {"dashboard", "review"},
    "anywidget": {"board", "review"},
    "voila": {"board"},
    "apprise": {"notify"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    """The name that a module is imported by."""
    parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


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
    packages = {path.parent for path in FILES} - {PACKAGE}
    assert {p.name: {m.stem for m in p.glob("*.py")} for p in packages} == {
        package: set(modules) for package, modules in INSIDE.items()
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_those_above_it(path: Path) -> None:
    for name in imported(path):
        first, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if first == "aegis_core" and target in ORDER and target != layer(path):
            assert ORDER.index(target) < ORDER.index(layer(path)), f"{layer(path)} imports {name}"


@pytest.mark.parametrize("package", INSIDE)
def test_a_module_of_a_package_imports_only_from_those_above_it(package: str) -> None:
    order = INSIDE[package]
    for path in (PACKAGE / package).glob("*.py"):
        for name in imported(path):
            if name.split(".")[:2] == [PACKAGE.name, package]:
                part = [*name.split("."), "__init__"][2]
                target = part if part in order else "__init__"
                assert order.index(target) < order.index(path.stem), f"{path.name}: {name}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_from_outside_has_one_home(package: str) -> None:
    homes = {layer(p) for p in FILES if package in {n.split(".")[0] for n in imported(p)}}
    assert homes <= ONLY_IN[package]


def test_the_package_itself_imports_nothing() -> None:
    assert imported(PACKAGE / "__init__.py") == []


def test_every_module_is_used() -> None:
    """A module that nothing imports goes; `cli` is what people call."""
    notebooks = "".join(p.read_text("utf-8") for p in PACKAGE.parent.glob("notebooks/*.ipynb"))
    names = {path: imported(path) for path in FILES}
    for path in FILES:
        if path.parent == PACKAGE / "cli" or path == PACKAGE / "__init__.py":
            continue
        own = path.parent if path.stem == "__init__" else path
        others = [name for p, of in names.items() if not p.is_relative_to(own) for name in of]
        used = any(f"{name}.".startswith(f"{module(path)}.") for name in others)
        assert used or f" {module(path).split('.')[-1]}" in notebooks, module(path)
