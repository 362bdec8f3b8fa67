"""What is refused: card numbers are masked, the room for it ends, and it can be forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aegis_core.intake import import_files
from aegis_core.intake.refusals import MAY_BE_CARD, USED_UP, Budget, forget, masked
from aegis_core.store import Store

CARD = "4111111111111111"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"pan={CARD}.", "pan=411111******1111."),
        ("4111 1111 1111 1111", "411111******1111"),
        ("3782-822463-10005", "378282*****0005"),
        (f'{{"card":{CARD},"n":[1,-{CARD}]}}', None),
        (f'{{"card": {CARD}.0, "n": 1}}', None),
        ("4222222222222", "422222***2222"),
        ("6304000000000000000", None),
    ],
)
def test_card_numbers_are_masked_and_json_stays_json(text: str, hidden: str | None) -> None:
    told = masked(text)
    assert told != text
    assert "*" in told
    if text.startswith("{"):
        assert "411111******1111" in json.loads(told)["card"]
    elif hidden:
        assert told == hidden
    assert masked(told) == told


@pytest.mark.parametrize(
    "text",
    ["4111111111111112", f"0.{CARD}", f"1{CARD}999", f"{CARD}.5", "2026-03-01T12:00:00.123456Z",
     '{"place":"17"}', "", "5212345678901"],
)  # fmt: skip
def test_other_numbers_stay(text: str) -> None:
    assert masked(text) == text


def test_of_a_source_and_day_as_much_is_kept_as_fits_and_the_end_is_said_once() -> None:
    asked: list[str] = []

    def stored(sql: str, params: list[object]) -> list[dict[str, object]]:
        asked.append(str(params[0]))
        return [{"bytes": 10, "said": params[0] == "said before"}]

    def row(source: str, raw: str, day: int = 1) -> dict[str, object]:
        moment = day * 86_400_000_000 + 5
        return {"received_at": moment, "source": source, "raw": raw, "reason": "bad"}

    budget = Budget(30, stored)
    kept = budget.kept([row("api", "x" * 9) for _ in range(50)])
    assert [(k["raw"], k["reason"]) for k in kept] == [("x" * 9, "bad")] * 2 + [("", USED_UP)]
    assert budget.kept([row("api", "y"), row("said before", "y")]) == []
    assert len(budget.kept([row("other", "y")])) == 1
    assert len(budget.kept([row("api", "y", day=2)])) == 1, "a new day"
    assert asked == ["api", "said before", "other", "api"]


def test_a_file_of_bad_rows_keeps_what_fits_counts_all_and_is_masked(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    lines = [f"{CARD},2026-01-01,x{i}" for i in range(1, 101)]
    file.write_text("\n".join(["customer_id,ts,amount", *lines, "good,2026-01-01,5"]) + "\n")
    summary = import_files([file], store, rejected_mb=0.002, progress=False)
    assert summary.rejected == {"amount is not a number": 100}
    kept = store.rows("SELECT raw, reason FROM rejected")
    assert len(kept) == 101 - summary.not_kept
    assert 10 < summary.not_kept < 90
    assert [row["reason"] for row in kept].count(USED_UP) == 1
    assert not any(CARD in row["raw"] for row in kept)
    assert sum(len(row["raw"]) for row in kept) <= 2_000
    again = import_files([file], store, rejected_mb=0.002, progress=False)
    assert again.not_kept == summary.not_kept
    assert store.rows("SELECT raw, reason FROM rejected") == kept, "nothing twice"
    assert forget(store, who="anna").startswith(f"Deleted {len(kept)} refused rows")
    assert store.rows("FROM rejected") == []
    assert store.rows("SELECT who, action, subject FROM audit ORDER BY seq DESC LIMIT 1") == [
        {"who": "anna", "action": "forget", "subject": "rejected"}
    ]


def test_the_quick_look_sees_every_card(store: Store) -> None:
    import re

    for text in (CARD, "4111 1111 1111 1111", "3782-822463-10005", "4222222222222"):
        assert re.search(MAY_BE_CARD, text)
