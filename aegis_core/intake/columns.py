"""Which column of a file is which: by preset, by its usual names, or as the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aegis_core.errors import ColumnError, InputError, did_you_mean
from aegis_core.schema import COLUMNS, LABEL_COLUMNS, REQUIRED
from aegis_core.units.words import LABEL_WORDS, folded

FILE_COLUMNS: Final = {column.name: column for column in (*COLUMNS, *LABEL_COLUMNS)}
"""Every column that `--map` can name."""

PRESETS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "handbook": {
        "transaction_id": ("TRANSACTION_ID",),
        "ts": ("TX_DATETIME",),
        "customer_id": ("CUSTOMER_ID",),
        "merchant_id": ("TERMINAL_ID",),
        "amount": ("TX_AMOUNT",),
        "is_fraud": ("TX_FRAUD",),
        "scenario": ("TX_FRAUD_SCENARIO",),
    },
    "sparkov": {
        "transaction_id": ("trans_id", "trans_num"),
        "ts": ("trans_date_trans_time",),
        "customer_id": ("cc_num",),
        "merchant_id": ("merchant",),
        "category": ("category",),
        "amount": ("amt",),
        "lat": ("merch_lat",),
        "lon": ("merch_long",),
        "is_fraud": ("is_fraud",),
    },
}
"""Columns of known public data sets, each with its names in the versions that are about."""

ROUNDED_DOWN: Final = {"handbook": 0.01}
"""Smallest unit of presets whose simulator rounds amounts to it: there, 0 stands for less than half
of it and is read as one. Elsewhere an amount of 0 is rejected."""


def choose_columns(
    names: Sequence[str],
    *,
    preset: str | None = None,
    mapping: Mapping[str, str] | None = None,
    where: str = "the file",
    required: Sequence[str] = REQUIRED,
    wanted: Sequence[str] = tuple(FILE_COLUMNS),
) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Which column of a file is which: (all chosen, those that were guessed, the preset used).

    Of `wanted` names those that are `required` must be there.

    >>> choose_columns(["Card Number", "time", "amt"], mapping={"ts": "time"})[0]
    {'customer_id': 'Card Number', 'ts': 'time', 'amount': 'amt'}

    Raises
    ------
    ColumnError : A required column is missing or ambiguous, or `mapping` names what is not there.
    InputError : There is no such preset.
    """
    chosen: dict[str, str] = {}
    for canonical, column in (mapping or {}).items():
        if canonical not in wanted:
            raise ColumnError(
                f"--map {canonical}=…: there is no {canonical!r}; it is one of "
                f"{', '.join(wanted)}." + did_you_mean(canonical, wanted)
            )
        match = [n for n in names if n == column] or [
            n for n in names if _plain(n) == _plain(column)
        ]
        if column and not match:
            raise ColumnError(
                f"{where} has no column {column!r}; it has {_listed(names)}."
                + did_you_mean(column, names)
            )
        chosen[canonical] = match[0] if column else ""
    if preset is not None and preset not in PRESETS:
        raise InputError(
            f"There is no preset {preset!r}; there are {', '.join(PRESETS)}."
            + did_you_mean(preset, PRESETS)
        )
    recognised = preset or next((name for name in PRESETS if _fits(PRESETS[name], names)), None)
    guessed: dict[str, str] = {}
    for canonical in wanted:
        if canonical in chosen:
            continue
        usual = (canonical, *FILE_COLUMNS[canonical].also.split())
        known = PRESETS[recognised].get(canonical, ()) if recognised else usual
        plain = [_plain(name) for name in known]
        matches = [name for name in names if _plain(name) in plain]
        # A home's place beside the merchant's is common, so an exact `lat` proves nothing.
        if len(matches) > 1 and canonical not in ("lat", "lon"):
            matches = [n for n in matches if _plain(n) == canonical] or matches
        if len(matches) > 1 and not recognised:
            raise ColumnError(
                f"{where}: {_listed(matches)} could each be {canonical}. "
                f"Choose with --map {canonical}={matches[0]}, or --map {canonical}= for none."
            )
        if matches:
            chosen[canonical] = matches[0]
            if preset is None:
                guessed[canonical] = matches[0]
    chosen = {canonical: chosen[canonical] for canonical in wanted if chosen.get(canonical)}
    if missing := [name for name in required if name not in chosen]:
        raise ColumnError(
            f"{where} has no column for {' and '.join(missing)}; it has {_listed(names)}. "
            f"Say which one it is with --map {missing[0]}=COLUMN."
        )
    if "is_fraud" not in chosen:
        if guessed.pop("known_at", None):
            del chosen["known_at"]
        for name in ("scenario", "known_at"):
            if name in chosen:
                raise ColumnError(f"{where}: a {name} needs a label; name its column with --label.")
    return chosen, guessed, recognised


def label_words(said: Mapping[str, str]) -> dict[str, str]:
    """What each word means in a column of labels: the usual ones, and those that a user names.

    >>> label_words({"Charge-back": "fraud"})["charge_back"]
    'fraud'

    Raises
    ------
    InputError : A word is said to mean something else than a label can.
    """
    means = {}
    for text, meant in said.items():
        if folded(meant) not in LABEL_WORDS:
            known = list(dict.fromkeys(LABEL_WORDS.values()))
            raise InputError(
                f"--words {text}={meant}: a label says {', '.join(known)}."
                + did_you_mean(meant, known)
            )
        means[folded(text.strip())] = LABEL_WORDS[folded(meant)]
    return LABEL_WORDS | means


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_").replace(".", "_")


def _fits(preset: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> bool:
    have = {_plain(name) for name in names}
    return all(any(_plain(n) in have for n in known) for known in preset.values())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")
