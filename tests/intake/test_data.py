"""What `docs/data.md` shows is so: three commands for each public file, which are taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_forms import SAMPLES

from aegis_core.cli import main
from aegis_core.intake.presets import CANNOT, PRESETS
from aegis_core.runs.parameters import NOTEBOOKS, parameters_of
from aegis_core.store import connect

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]


def preset_of(command: str) -> str:
    found = re.search(r"--preset (\S+)", command)
    return found[1] if found else "ieee-cis"


def test_each_preset_has_its_commands_and_what_cannot_be_used_is_said() -> None:
    assert sorted(preset_of(block[0]) for block in BLOCKS) == sorted(PRESETS)
    assert "ulb" in CANNOT
    assert "no customer, and is not taken" in PAGE


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: preset_of(block[0]))
def test_three_commands_lead_from_the_file_to_a_report(
    block: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    imported, trained, told = map(shlex.split, block)
    lines, wanted = SAMPLES[preset_of(block[0])]
    database = imported[imported.index("--db") + 1]
    files = [f for f in imported[2:] if re.search(r"\.(csv|asc|parquet)$", f)]
    assert files
    for file in files:
        name = file.replace(".parquet", ".csv")
        (tmp_path / name).write_text(lines)
        imported[imported.index(file)] = name
    assert main(imported[1:]) == 0
    (row,) = connect(tmp_path / database).rows("FROM transactions")
    assert {name: row[name] for name in wanted} == wanted
    assert trained == ["aegis", "run", "train", "--db", database]
    assert told[:2] == ["aegis", "run"]
    assert told[2] in NOTEBOOKS
    assert told[3:5] == ["--db", database]
    given = {told[i + 1] for i, word in enumerate(told) if word == "-p"}
    assert given <= set(parameters_of(told[2]))
    assert told[2] == (
        "evaluate" if "is_fraud" in PRESETS[preset_of(block[0])].columns else "drift"
    )
