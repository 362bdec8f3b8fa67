"""The order of rooms and modules that the README shows, and who may import what from outside."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aegis_core"
ONLY_IN = {
    "duckdb": {"store"},
    "plotly": {"views.figures"},
    "fastapi": {"serving"},
    "papermill": {"runs.notebooks"},
    "nbconvert": {"runs.reports"},
    "cronsim": {"runs.schedule"},
    "typer": {"cli"},
    "ipywidgets": {"views.dashboard", "views.review"},
    "anywidget": {"views.dashboard", "views.review"},
    "voila": {"views.launcher"},
    "apprise": {"runs.notify"},
}
MOST_ROOMS, MOST_FLOORS = 16, 9


@cache
def order() -> tuple[str, ...]:
    """Every module in the order of the README's tree, such as `store.connection`."""
    text = (ROOT / "README.md").read_text("utf-8")
    tree = re.search(r"^aegis_core/.*\n((?:  .*\n)+)", text, re.MULTILINE)
    assert tree is not None
    modules, folders = [], [""]
    for line in tree.group(1).splitlines():
        indent = (len(line) - len(line.lstrip())) // 2
        first, *rest = line.split()
        if first.endswith("/"):
            folders = [*folders[:indent], folders[indent - 1] + first[:-1] + "."]
            modules += [folders[-1] + name for name in rest if indent > 1]
        elif first.endswith(".py"):
            modules.append(first.removesuffix(".py"))
        else:
            modules += [folders[indent - 1] + name for name in (first, *rest)]
    return tuple(modules)


def name(path: Path) -> str:
    """What a module is called below the package; a package's own file is called as the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts).removesuffix("__init__").rstrip(".")


FILES = {name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
OPENINGS = {name for name, path in FILES.items() if path.stem == "__init__"}
"""The packages, whose own file says what a room is and hands its public names on."""
MODULES = sorted(FILES.keys() - OPENINGS)


def imported(source: str) -> list[str]:
    """Everything that a module imports, also inside of its functions, by full name."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write the whole name of an import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@cache
def needed(module: str) -> frozenset[str]:
    """The modules of the package that one imports; of a package, all that it may hand on."""
    found: set[str] = set()
    for full in imported(FILES[module].read_text("utf-8")):
        target = full.removeprefix("aegis_core.")
        if target == full:
            continue
        while target and target not in FILES:
            target = target.rpartition(".")[0]
        if target == "store":  # its own file hands on what this one holds
            target = "store.database"
        inside = (m for m in MODULES if m.startswith(f"{target}."))
        found |= set(inside) if target in OPENINGS and target else {target} - {""}
    return frozenset(found)


def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        room = module.split(".")[0]
        found.setdefault(room, set()).update(m.split(".")[0] for m in needed(module))
    return {room: others - {room} for room, others in found.items()}


def test_every_module_has_its_place_in_the_order_of_the_readme() -> None:
    assert sorted(order()) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_those_above_it(module: str) -> None:
    below = [m for m in needed(module) if order().index(m) >= order().index(module)]
    assert not below, f"{module} imports what stands below it in the README: {below}"


def test_the_house_has_few_rooms_on_few_floors() -> None:
    others = rooms()
    floors: dict[str, int] = {}
    for room in dict.fromkeys(module.split(".")[0] for module in order()):
        floors[room] = 1 + max((floors[other] for other in others[room]), default=0)
    assert len(floors) <= MOST_ROOMS
    assert max(floors.values()) <= MOST_FLOORS, floors


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_from_outside_has_one_home(package: str) -> None:
    homes = {
        module
        for module, path in FILES.items()
        if package in {n.split(".")[0] for n in imported(path.read_text("utf-8"))}
    }
    assert homes
    strangers = {h for h in homes if not any(f"{h}.".startswith(f"{o}.") for o in ONLY_IN[package])}
    assert not strangers


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert needed("") == frozenset()


def test_every_module_is_used() -> None:
    """A module goes that no other, no notebook and no benchmark imports."""
    used = {m for module in MODULES for m in needed(module)}
    sources = [path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    for full in (name for source in sources for name in imported(source)):
        target = full.removeprefix("aegis_core.")
        while target and target not in FILES:
            target = target.rpartition(".")[0]
        used |= {target} | handed_on(target, full.rpartition(".")[2])
    by_name = {"cli.__main__", "views.magics"}  # what `-m aegis_core.cli` and `%load_ext` call
    assert set(MODULES) - used == by_name


def handed_on(package: str, what: str) -> set[str]:
    """The module from which a package hands `what` on, or, of a whole package, all of them."""
    if package not in OPENINGS or not package:
        return set()
    source = FILES[package].read_text("utf-8")
    lazily = re.findall(r'"(\w+)": \[([^\]]*)\]', source)
    whole = package.endswith(what)
    return {f"{package}.{m}" for m, names in lazily if whole or f'"{what}"' in names}
