"""Columns are recognised, never confused: what could be several is asked for."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aegis_core.errors import InputError
from aegis_core.intake.columns import choose_columns
from aegis_core.intake.presets import PRESETS


def test_a_map_goes_before_every_guess() -> None:
    names = ["customer_id", "payer", "ts", "amount", "category"]
    chosen, guessed, _ = choose_columns(names, mapping={"customer_id": "PAYER", "category": ""})
    assert chosen == {"customer_id": "payer", "ts": "ts", "amount": "amount"}
    assert guessed == {"ts": "ts", "amount": "amount"}


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (["customer_id", "when", "amount"], {}, r"no column for ts; it has customer_id, when"),
        (["a", "b"], {}, "customer_id and ts and amount"),
        (["customer_id", "ts", "date", "time", "amount"], {}, None),
        (["customer_id", "when", "time", "created_at", "amount"], {}, r"each be ts.*ts=time\+cre"),
        (["User", "Card", "ts", "amount"], {}, r"each be customer_id.*customer_id=User\+Card"),
        (["customer_id", "ts", "amount"], {"preset": "ulb"}, "has no customer"),
        (["a", "b", "ts"], {}, "--map customer_id=COLUMN --map amount=COLUMN"),
        (["customer_id", "ts", "amount", "lat", "merch_lat", "lon"], {}, "could each be lat"),
        (["customer_id", "ts", "amount"], {"mapping": {"ts": "tss"}}, "Did you mean ts"),
        (["customer_id", "ts", "amount"], {"mapping": {"amout": "ts"}}, "Did you mean amount"),
        (["customer_id", "ts", "amount"], {"preset": "handbok"}, "Did you mean handbook"),
        (["customer_id", "ts", "amount"], {"preset": "handbook"}, "no column for ts and amount"),
        (["customer_id", "ts", "amount", "scenario"], {}, "needs a label"),
    ],
)
def test_a_missing_or_ambiguous_column_is_said_with_the_way_out(
    names: list[str], options: dict[str, Any], told: str | None
) -> None:
    if told is None:
        assert choose_columns(names, **options)[0]["ts"] == "ts"
        return
    with pytest.raises(InputError, match=told):
        choose_columns(names, **options)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_recognised_by_its_columns(preset: str) -> None:
    columns = {name: known[-1] for name, known in PRESETS[preset].columns.items()}
    names = [part for column in columns.values() for part in re.split(r"\+|(?<=\))-", column)]
    names = [*dict.fromkeys(names), "lat", "long", "unix_time"]
    chosen, _, recognised = choose_columns(names)
    assert recognised == preset
    assert chosen == columns
    assert choose_columns(names, preset=preset) == (chosen, {}, preset)


def test_a_date_and_a_time_beside_it_are_one() -> None:
    chosen, guessed, _ = choose_columns(["CustomerID", "Date", "Time", "Amount (EUR)"])
    assert chosen == {"customer_id": "CustomerID", "ts": "Date+Time", "amount": "Amount (EUR)"}
    assert guessed == chosen
