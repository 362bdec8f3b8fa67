"""Which code and which packages a run was made with, in a checkout and outside of one."""

from __future__ import annotations

import email.message
import re
import subprocess
from pathlib import Path

import pytest

import aegis_core
from aegis_core.runs import lineage


def test_the_code_version_names_the_package_and_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(lineage, "CHECKOUT", tmp_path)
    named = [*git, "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(named, capture_output=True, text=True, check=True).stdout.strip()
    assert lineage.code_version() == f"{aegis_core.__version__}+{commit}"


@pytest.mark.parametrize("checkout", [None, "without git"])
def test_without_a_commit_the_code_version_tells_its_modules_apart(
    checkout: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "CHECKOUT", tmp_path / checkout if checkout else None)
    monkeypatch.setattr(lineage, "PACKAGE", tmp_path)
    seen = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", ""), ("notes.txt", "")):
        (tmp_path / name).write_text(text)
        lineage._source_hash.cache_clear()
        seen.add(lineage.code_version())
    lineage._source_hash.cache_clear()
    assert len(seen) == 3
    assert all(re.fullmatch(r"\d+\.\d+\.\d+\+source\.[0-9a-f]{12}", one) for one in seen)


class Installed:
    """What is installed beside the package, by name: a version and what it requires."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages = {
            "aegis-fraud": ("0.1.0", ["Needed>=1", "tool; extra == 'dev'", "web[fast]"]),
            "needed": ("1.0", ["aegis-fraud"]),
            "web": ("1.0", ["quick; extra == 'fast'", "other; extra == 'slow'"]),
            **{name: ("1.0", []) for name in ("tool", "quick", "other", "stranger")},
        }
        monkeypatch.setattr(lineage.metadata, "metadata", self._of)

    def _of(self, name: str) -> email.message.Message:
        if name not in self.packages:
            raise lineage.metadata.PackageNotFoundError(name)
        about = email.message.Message()
        about["Version"], requires = self.packages[name]
        for needed in requires:
            about["Requires-Dist"] = needed
        return about

    def hash(self, **changed: tuple[str, list[str]]) -> str | None:
        self.packages |= changed
        lineage.lock_hash.cache_clear()
        try:
            return lineage.lock_hash()
        finally:
            lineage.lock_hash.cache_clear()


def test_packages_are_those_that_the_package_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = Installed(monkeypatch)
    before = installed.hash()
    assert installed.hash(**dict.fromkeys(("tool", "other", "stranger"), ("2.0", []))) == before
    seen = {before, installed.hash(needed=("2.0", [])), installed.hash(quick=("2.0", []))}
    del installed.packages["needed"]
    assert len(seen | {installed.hash()}) == 4


def test_without_the_package_installed_nothing_is_said_of_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = Installed(monkeypatch)
    del installed.packages["aegis-fraud"]
    assert installed.hash() is None
