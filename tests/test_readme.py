"""The README tells the truth: its commands exist, its tree is the tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from aegis_core.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
COMMANDS = sorted(set(re.findall(r"`(aegis [^`]+)`|^(aegis .+)$", TEXT, re.MULTILINE)))
TARGETS = sorted(set(re.findall(r"\bmake ([a-z-]+)(?=`|$| [A-Z]+=)", TEXT, re.MULTILINE)))
TREE = re.search(r"```\n(aegis_core/.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


def subcommands() -> dict[str, set[str]]:
    """The options of every subcommand, those of its own subcommands among them, by its name."""

    def options(command: Any) -> set[str]:
        own = {option for parameter in command.params for option in parameter.opts}
        return own.union(*map(options, getattr(command, "commands", {}).values()))

    command: Any = get_command(app)
    return {name: options(sub) for name, sub in command.commands.items()}


@pytest.mark.parametrize("command", [a or b for a, b in COMMANDS])
def test_every_command_shown_exists_with_its_options(command: str) -> None:
    _, name, *words = command.split()
    assert name in subcommands()
    options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert options <= subcommands()[name] | {"--help"}


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_every_command_has_help_and_a_row_in_the_readme(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"`aegis {name}" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_shown_exists(target: str) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert planned.returncode == 0, planned.stderr


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    told = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split()[0] for line in told.stdout.splitlines()} == targets


def test_what_the_tree_shows_is_there() -> None:
    assert TREE is not None  # the package itself: tests/test_layers.py
    shown = [line.split()[0] for line in TREE.group(1).splitlines() if not line.startswith(" ")]
    assert shown[0] == "aegis_core/"
    assert [name for name in shown if not (ROOT / name).exists()] == []


def test_the_notebooks_shown_are_the_notebooks() -> None:
    for number, name in re.findall(r"(\d\d)_([a-z]+)", TEXT):
        assert (ROOT / "notebooks" / f"{number}_{name}.ipynb").exists()


def test_no_document_names_a_place_that_only_one_machine_has() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    home = re.compile(r"/(home|root|Users|work)/\w")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in {".md", ".py", ".ipynb", ".toml", ".yml", ".lock", ""}:
            assert not home.search(path.read_text("utf-8")), name
