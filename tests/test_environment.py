"""pyproject.toml, the two locks, environment.yml and Dockerfile say the same."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
RUN_LOCK = (ROOT / "requirements-run.lock").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ENVIRONMENT: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
WANTED = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
]


def pinned(lock: str = LOCK) -> dict[str, set[str]]:
    """Versions by name; more than one where they depend on the Python or the system."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(wanted: Requirement) -> None:
    versions = pinned()[canonicalize_name(wanted.name)]
    assert all(wanted.specifier.contains(version) for version in versions)


def blocks(lock: str) -> set[str]:
    """The pins of a lock with their markers and hashes, without who asks for them."""
    parts = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    return {"\n".join(re.findall(r"^[^#\n]*[^#\s]", part, re.MULTILINE)) for part in parts}


@pytest.mark.parametrize("lock", [LOCK, RUN_LOCK], ids=["all", "run"])
def test_a_lock_has_names_versions_markers_and_hashes_and_nothing_else(lock: str) -> None:
    line = re.compile(
        r"[A-Za-z0-9._-]+==[^\s;]+( ; [^\\]+)? \\"  # a pin
        r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
        r"|    # via( .+)?|    #   .+"  # who asks for it
    )
    assert [text for text in lock.splitlines() if not line.fullmatch(text)] == []
    assert "://" not in lock
    assert "file:" not in lock


@pytest.mark.parametrize("lock", [LOCK, RUN_LOCK], ids=["all", "run"])
def test_every_pin_has_a_hash(lock: str) -> None:
    assert len(blocks(lock)) > 100
    assert [block.split()[0] for block in blocks(lock) if "--hash=sha256:" not in block] == []


def test_the_lock_of_those_who_run_it_is_the_other_one_without_the_tools() -> None:
    assert blocks(RUN_LOCK) < blocks(LOCK)
    needed = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    tools = {
        canonicalize_name(Requirement(text).name)
        for text in PROJECT["optional-dependencies"]["dev"]
    }
    assert needed <= set(pinned(RUN_LOCK))
    assert not tools & set(pinned(RUN_LOCK))


# --- the image ---------------------------------------------------------------------------------


def test_the_image_gets_what_builds_the_wheel_from_the_lock() -> None:
    (named,) = re.findall(r"BUILD='([a-z|-]+)'", DOCKERFILE)
    wanted, closure = ["hatchling"], set()
    while wanted:
        name = wanted.pop()
        if name not in closure:
            closure.add(name)
            for needed in map(Requirement, metadata.requires(name) or ()):
                if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                    wanted.append(canonicalize_name(needed.name))
    assert set(named.split("|")) == closure <= set(pinned())


def test_the_image_runs_for_a_user_without_rights_and_says_how_it_is() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) >= 1000
    assert f"--uid {user} " in last
    assert "HEALTHCHECK" in last
    assert "/v1/health" in last
    assert "umask 0077" in last
    assert not re.search(r"\b(pip|apt-get|hatchling)\b", last)


def test_the_compose_file_shown_fits_the_image() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    compose = yaml.safe_load(shown)
    (home,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"AEGIS_HOME={home} HOME={home}" in DOCKERFILE
    proxy = compose["services"].pop("proxy")
    assert proxy["ports"], "it alone is reached from outside"
    for service in compose["services"].values():
        assert service["image"] == compose["services"]["aegis"]["image"]
        volume, mounted = service["volumes"][0].split(":")
        assert (mounted, volume in compose["volumes"]) == (home, True)
        assert service["command"].startswith("aegis ")
        assert "ports" not in service
    assert compose["services"]["aegis"]["build"] == "."


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
