"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_core.store import Store, connect


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store on a file that is not there yet."""
    return connect(tmp_path / "aegis.duckdb", wait_s=5)
