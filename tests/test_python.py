"""What a fast look on another Python begins with: every module can be imported there."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

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


LATER = """
import sys
import aegis_core.metrics
assert not {"scipy", "sklearn"} & sys.modules.keys()
from jsonschema import Draft7Validator
assert "rfc3987_syntax.syntax_helpers" not in sys.modules
conforms = Draft7Validator.FORMAT_CHECKER.conforms
print([conforms(text, "iri") for text in ("http://exämple.org/ä", "a b", "a:b")])
import rfc3987_syntax
print(rfc3987_syntax.is_valid_syntax_iri("a b"), rfc3987_syntax.is_valid_syntax("iri", "a:b"))
"""


@pytest.mark.fast
def test_what_takes_seconds_to_import_is_imported_when_it_is_used() -> None:
    """Whoever reads a notebook imports what parses IRIs, which takes longer than all the rest."""
    code = [sys.executable, "-c", LATER]
    ran = subprocess.run(code, capture_output=True, text=True, check=False)
    assert ran.stdout.split("\n") == ["[True, False, True]", "False True", ""], ran.stderr
