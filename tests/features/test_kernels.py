"""Compiled code is that of today's source, and computes what the Python function says."""

from __future__ import annotations

import ast
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import pytest

from aegis_core.features import kernels
from aegis_core.features.kernels import cache_folder, kernel

PACKAGE = Path(kernels.__file__).parents[1]

COMPILED = [str(path.relative_to(PACKAGE)) for path in kernels._compiled_in(PACKAGE)]
pytestmark = pytest.mark.fast


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package's modules that `cache_folder` takes for the package."""
    copy = shutil.copytree(PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("*.js"))
    monkeypatch.setattr(kernels, "__file__", str(copy / "features" / "kernels.py"))
    cache_folder.cache_clear()
    yield copy
    cache_folder.cache_clear()


def folder_now() -> Path:
    cache_folder.cache_clear()
    return cache_folder()


def test_the_same_source_has_the_same_folder(sources: Path) -> None:
    assert folder_now() == folder_now()


@pytest.mark.parametrize("module", COMPILED)
def test_a_change_of_a_compiled_module_changes_the_folder(sources: Path, module: str) -> None:
    before = folder_now()
    with (sources / module).open("a") as f:
        f.write("\n")
    assert folder_now() != before
    assert folder_now().parent == before.parent


def test_a_change_of_another_module_keeps_the_folder(sources: Path) -> None:
    before = folder_now()
    (sources / "metrics.py").write_text("")
    assert folder_now() == before


def compiled_in(path: Path) -> set[str]:
    """Modules of the package that the kernels of a module take a name from."""
    tree = ast.parse(path.read_text("utf-8"))
    home = {
        alias.asname or alias.name: str(node.module).removeprefix("aegis_core.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aegis_core.")
        for alias in node.names
    }
    constants = [n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign)]
    functions = [
        n
        for n in tree.body
        if isinstance(n, ast.FunctionDef)
        and any(
            isinstance(d, ast.Name) and d.id in ("kernel", "elementwise") for d in n.decorator_list
        )
    ]
    if not functions:
        return set()
    names = {
        n.id for part in constants + functions for n in ast.walk(part) if isinstance(n, ast.Name)
    }
    own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return {own} | {home[name] for name in names if name in home}


def test_every_module_that_is_compiled_in_counts() -> None:
    needed = set().union(*(compiled_in(path) for path in PACKAGE.rglob("*.py")))
    some = {"features.signals", "features.geo", "schema"}
    assert some | {f"detection.{name}" for name in ("forest", "trees", "scoring")} <= needed
    assert {f"{name.replace('.', '/')}.py" for name in needed} <= set(COMPILED)


def test_where_the_package_cannot_be_written_the_home_is_used(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writable = folder_now()
    assert writable.parent == sources / "__pycache__"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(Path, "home", lambda: sources / "home")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert folder_now() == sources / "home" / ".cache" / "aegis" / writable.name
    monkeypatch.setenv("XDG_CACHE_HOME", str(sources / "cache"))
    assert folder_now() == sources / "cache" / "aegis" / writable.name


@pytest.mark.parametrize("compiled", [kernel, kernels.elementwise])
def test_where_nothing_can_be_written_each_process_compiles_anew_and_says_so(
    compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path / "file" / "kernels")
    with pytest.warns(RuntimeWarning, match="cannot be kept in .*XDG_CACHE_HOME"):
        double = compiled(twice)
    assert double(1.5) == 3.0


def twice(value: float) -> float:
    return 2 * value


def test_folders_that_nobody_asked_for_in_a_month_are_removed(sources: Path) -> None:
    used = folder_now()
    there = {f.name for f in used.parent.iterdir()} - {used.name}  # of the checkout's own past
    recent, stale, foreign = (used.with_name(n) for n in ("kernels-a", "kernels-b", "other"))
    for folder, days in ((used, 99), (recent, 29), (stale, 31), (foreign, 99)):
        folder.mkdir(exist_ok=True)
        (folder / "x.nbi").write_text("")
        os.utime(folder, times=(time.time() - days * 86_400,) * 2)
    assert folder_now() == used
    left = {f.name for f in used.parent.iterdir()} - there
    assert left == {used.name, "kernels-a", "other"}


def test_a_folder_removed_before_the_first_call_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path / "kernels")
    compiled = kernel(norm)
    shutil.rmtree(tmp_path / "kernels")
    assert compiled(np.array([3.0, 4.0])) == 5.0
    assert list((tmp_path / "kernels").rglob("*.nbi"))


def norm(values: Any) -> float:
    total = 0.0
    for v in values:
        total += v * v
    return total**0.5  # type: ignore[no-any-return]


def test_a_kernel_computes_what_its_function_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path / "kernels")
    before = nb.config.CACHE_DIR
    compiled = kernel(norm)
    assert before == nb.config.CACHE_DIR
    assert compiled(np.array([3.0, 4.0])) == norm([3.0, 4.0]) == 5.0
    assert list((tmp_path / "kernels").rglob("*.nbi"))


def test_a_function_that_cannot_be_compiled_leaves_the_settings_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path)
    before = nb.config.CACHE_DIR
    with pytest.raises(TypeError):
        kernel(3)  # type: ignore[type-var]
    assert before == nb.config.CACHE_DIR
