"""The notebook as the interface: SQL and customers by a magic."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from aegis_core import config
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.store import connect


def test_a_cell_asks_in_sql_and_a_line_for_a_customer_and_neither_changes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "aegis_core")
    with pytest.raises(UsageError, match="There is no database"):
        shell.run_line_magic("aegis", "SELECT 1")
    store = connect(config.load().db)
    few = SyntheticConfig(n_transactions=200, n_customers=10, n_merchants=10, days=5)
    write_history(store, few, progress=False)
    sql = "SELECT customer_id, count(*) AS n\nFROM transactions GROUP BY 1 ORDER BY n DESC LIMIT 1"
    (most,) = shell.run_cell_magic("aegis", "", sql).itertuples()
    paid = shell.run_line_magic("aegis", f"customer {most.customer_id}")
    assert len(paid) == most.n > 1
    assert paid.seq.is_monotonic_increasing
    assert paid.decision.isna().all(), "payments without a verdict are there as well"
    with pytest.raises(UsageError):
        shell.run_cell_magic("aegis", "", "DELETE FROM transactions")
    assert store.value("SELECT count(*) FROM transactions") == 200
