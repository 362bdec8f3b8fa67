"""pyproject.toml, requirements.lock and environment.yml say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ENVIRONMENT: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
WANTED = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
]


def pinned() -> dict[str, set[str]]:
    """Versions by name; more than one where they depend on the Python or the system."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", LOCK, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(wanted: Requirement) -> None:
    versions = pinned()[canonicalize_name(wanted.name)]
    assert all(wanted.specifier.contains(version) for version in versions)


def test_the_lock_has_names_versions_markers_and_hashes_and_nothing_else() -> None:
    line = re.compile(
        r"[A-Za-z0-9._-]+==[^\s;]+( ; [^\\]+)? \\"  # a pin
        r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
        r"|    # via( .+)?|    #   .+"  # who asks for it
    )
    assert [text for text in LOCK.splitlines() if not line.fullmatch(text)] == []
    assert "://" not in LOCK
    assert "file:" not in LOCK


def test_every_pin_has_a_hash() -> None:
    blocks = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_conda_brings_python_and_pip_and_the_lock_brings_the_rest() -> None:
    *conda, pip = ENVIRONMENT["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["-r requirements.lock"]}
    assert ENVIRONMENT["channels"] == ["conda-forge"]


def test_conda_users_get_the_package_by_the_same_command_as_make_setup() -> None:
    command = "pip install --no-deps --no-build-isolation -e ."
    assert command in (ROOT / "README.md").read_text("utf-8")
    assert command in (ROOT / "environment.yml").read_text("utf-8")
    made = (
        (ROOT / "Makefile").read_text("utf-8").replace("--quiet --disable-pip-version-check ", "")
    )
    assert command in made
