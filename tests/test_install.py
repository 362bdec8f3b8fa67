"""A wheel carries all that the checkout has, and works where no checkout is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["n_transactions=2000", "n_customers=40", "n_merchants=20", "days=20"]


def built(source: Path, folder: Path) -> Path:
    """The wheel of a source folder."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*build, "--directory", str(folder)], cwd=source, check=True)
    (wheel,) = folder.iterdir()
    return wheel


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the wheel; what it requires is this environment's."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, *offline, str(folder), str(wheel)], check=True)
    return folder


class Caller:
    """Somebody who calls the installed command from a folder of their own."""

    def __init__(self, site: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
        self.environment |= {"PYTHONPATH": str(site), "COLUMNS": "100"}

    def aegis(self, *arguments: str, code: int = 0) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "aegis_core.cli", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
            timeout=180,
        )  # fmt: skip
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def caller(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """One whose folder was empty before a notebook generated transactions there."""
    caller = Caller(site, tmp_path_factory.mktemp("empty"))
    caller.aegis("run", "generate", *(word for value in SMALL for word in ("-p", value)))
    return caller


def test_the_wheel_has_every_file_of_the_package_and_every_notebook_and_nothing_else(
    wheel: Path,
) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
         "aegis_core", "notebooks"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    ours = {
        re.sub(r"^notebooks/", "aegis_core/_notebooks/", name): (ROOT / name).read_bytes()
        for name in listed
        if name and (ROOT / name).exists()
    }
    carried = {k: v for k, v in content(wheel).items() if ".dist-info/" not in k}
    assert {".py", ".ipynb", ".js", ".css", ".j2", ".json"} <= {Path(k).suffix for k in carried}
    assert sorted(carried) == sorted(ours)
    assert [name for name in ours if carried[name] != ours[name]] == []


def test_what_docker_is_given_is_enough_for_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in rules  # what is not named is left out
    source = tmp_path / "source"
    source.mkdir()
    left = shutil.ignore_patterns(*(rule[3:] for rule in rules if rule.startswith("**/")))
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=left)
        else:
            shutil.copy(ROOT / name, source / name)
    for copied in re.findall(r"^COPY ([^-\s]\S*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        assert (source / copied).exists()
    assert content(built(source, tmp_path / "dist")) == content(wheel)


def test_an_empty_folder_outside_the_checkout_becomes_the_home(caller: Caller, site: Path) -> None:
    found = json.loads(caller.aegis("status", "--json"))
    assert found["home"] == str(caller.folder)
    assert found["db"] == str(caller.folder / "data" / "aegis.duckdb")
    assert found["notebooks"] == str(site / "aegis_core" / "_notebooks")
    assert found["transactions"]["rows"] == 2000
    assert [run["status"] for run in found["runs"]] == ["done"]
    assert {path.name for path in caller.folder.iterdir()} == {"data", "reports"}
    assert "generate" in (caller.folder / "reports" / "index.html").read_text("utf-8")


def test_a_run_notes_the_modules_and_the_packages_of_the_installation(caller: Caller) -> None:
    (noted,) = caller.folder.glob("reports/*/run.json")
    run = json.loads(noted.read_text("utf-8"))
    assert re.fullmatch(r"\d+\.\d+\.\d+\+source\.[0-9a-f]{12}", run["code_version"])
    assert re.fullmatch(r"[0-9a-f]{16}", run["lock_hash"])


def test_from_another_folder_nothing_is_found_until_the_home_is_named(
    caller: Caller, site: Path, tmp_path: Path
) -> None:
    elsewhere = Caller(site, tmp_path)
    told = elsewhere.aegis("status", code=2)
    assert told.startswith(f"home          {tmp_path}, the current folder; AEGIS_HOME would")
    elsewhere.environment["AEGIS_HOME"] = str(caller.folder)
    assert "transactions  2,000" in elsewhere.aegis("status")
    assert list(tmp_path.iterdir()) == []
