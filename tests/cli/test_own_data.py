"""From a file to a filled board, by the commands that the README shows, in their order."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from aegis_core import config
from aegis_core.cli import main, up
from aegis_core.evaluation.parity import parity
from aegis_core.intake.synthetic import SyntheticConfig, generate
from aegis_core.review import cases
from aegis_core.store import connect
from aegis_core.views.dashboard.app import Board
from aegis_core.views.dashboard.feed import Feed

README = Path(__file__).parents[2] / "README.md"
RENAMED = {"customer_id": "card"}


def test_the_readme_leads_from_a_file_to_a_filled_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    monkeypatch.setattr(up, "_service", lambda *_: contextlib.nullcontext("http://there"))
    served: list[object] = []
    monkeypatch.setattr(up, "serve", lambda settings, port, for_s: served.append(settings.db))
    monkeypatch.setattr(up, "_stream", lambda *_: pytest.fail("something was simulated"))
    population = SyntheticConfig(n_transactions=18_000, n_customers=300, days=60)
    transactions, labels = (pa.concat_tables(t) for t in zip(*generate(population), strict=True))
    fraud = transactions.join(labels, "transaction_id").sort_by("ts")
    fraud = fraud.set_column(0, "fraud", fraud["is_fraud"].fill_null(False))
    kept = ["card", "ts", "amount", "currency", "merchant_id", "category", "lat", "lon", "fraud"]
    names = [RENAMED.get(name, name) for name in fraud.column_names]
    parquet.write_table(fraud.rename_columns(names).select(kept), "payments.parquet")

    text = README.read_text("utf-8").partition("## Your own data")[2]
    commands = re.findall(r"^aegis .+$", text.partition("```sh")[2].partition("```")[0], re.M)
    assert [shlex.split(command)[1] for command in commands] == [
        *("import", "run", "run", "score", "up"),
    ]
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr()
    store = connect("mine.duckdb")
    assert served == [store.path]
    assert "nothing is simulated" in capsys.readouterr().out
    board = Board(Feed(store))
    board.open()
    assert "are replayed" in board.head.replayed
    assert board.table.rows
    assert cases.queue(store).n_open > 0
    assert parity(store, config.load(db=store.path)).different == 0
