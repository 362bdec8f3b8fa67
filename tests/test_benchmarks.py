"""What the benchmarks promise: nobody left out in silence, one lock beside the other."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pinned(lock: str) -> dict[tuple[str, str], str]:
    """Versions by name and marker."""
    text = (ROOT / lock).read_text("utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; ([^\\]+))? \\$", text, re.MULTILINE)
    return {(canonicalize_name(name), marker.strip()): version for name, version, marker in pins}


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("peers")


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("learned")


def test_both_locks_pin_what_they_share_to_the_same_version() -> None:
    ours, theirs = pinned("requirements.lock"), pinned("benchmarks/requirements.lock")
    shared = {name for name, _ in ours} & {name for name, _ in theirs}
    assert {"numpy", "pandas", "scikit-learn", "duckdb"} <= shared
    for name in shared:
        versions = {v for (n, _), v in ours.items() if n == name}
        assert {v for (n, _), v in theirs.items() if n == name} <= versions, name


def test_other_peoples_detectors_are_locked_for_the_benchmark_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    theirs = pinned("benchmarks/requirements.lock")
    for wanted in map(Requirement, project["optional-dependencies"]["bench"]):
        versions = [v for (name, _), v in theirs.items() if name == canonicalize_name(wanted.name)]
        assert versions
        assert all(map(wanted.specifier.contains, versions))
        assert wanted.name not in {name for name, _ in pinned("requirements.lock")}


@pytest.mark.parametrize("asked", [True, False])
def test_a_peer_that_is_not_measured_is_named(
    peers: ModuleType,
    asked: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert [p.name for p in peers.present(asked)] == [peers.USUAL.name]
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [p.name for p in peers.PEERS]
    assert all("left out" in line for line in told)


def test_raw_features_keep_the_order_of_the_rows(peers: ModuleType) -> None:
    ts = pd.to_datetime(["2026-01-01 10:00:05", "2026-01-01 10:00:00", "2026-01-01 10:00:00"])
    frame = pd.DataFrame({"customer_id": list("bab"), "ts": ts, "amount": [1.0, 2.0, 3.0]})
    features = peers.raw_features(frame)
    assert features[:, 0].tolist() == [1, 2, 3]
    assert features[:, 5].tolist() == [2, 1, 1]  # payments of the customer in 10 s
    assert np.isfinite(features).all()


def test_answers_to_double_counts_whole_weeks_only(learned: ModuleType) -> None:
    days = pd.DataFrame({"answers": range(0, 80, 10), "learner": 2, "forest": [3] + [1] * 7})
    assert learned.answers_to_double(days) == 70
    assert learned.answers_to_double(days.head(7)) is None
    assert learned.answers_to_double(days.assign(learner=0, forest=0)) is None
