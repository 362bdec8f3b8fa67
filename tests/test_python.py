"""What a fast look on another Python begins with: every module can be imported there."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import aegis_core

MODULES = [
    found.name
    for found in pkgutil.walk_packages(aegis_core.__path__, "aegis_core.")
    if not found.name.endswith(".__main__")  # runs the command
]


@pytest.mark.fast
@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_imported_without_a_warning(name: str) -> None:
    assert importlib.import_module(name).__doc__
