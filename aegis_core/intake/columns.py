"""Which column of a file is which: by preset, by its usual names, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from aegis_core.errors import ColumnError, InputError, did_you_mean
from aegis_core.intake.messages.tables import FORMATS
from aegis_core.intake.presets import CANNOT, PRESETS
from aegis_core.schema import COLUMNS, ENTITIES, LABEL_COLUMNS, REQUIRED
from aegis_core.store.connection import quoted
from aegis_core.store.session import Session
from aegis_core.units.words import LABEL_WORDS, folded

FILE_COLUMNS: Final = {column.name: column for column in (*COLUMNS, *LABEL_COLUMNS)}
"""Every column that `--map` can name."""

_ID_LIKE: Final = (
    "(^|_)(id|no|nr|num|number|user|client|customer|account|card|bank|branch|holder|member|iban)$"
)

_SIGN: Final = {"amount": "-"}
"""What joins two columns, where it is not `+`: what was paid less what came back."""


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
        chosen[canonical] = (
            column.strip()
            if is_expression(column, names)
            else _SIGN.get(canonical, "+").join(
                named(part, names, where) for part in parts(column, names) if column
            )
        )
    check_preset(preset)
    fitting = (name for name in PRESETS if _fits(PRESETS[name].columns, names))
    recognised = preset or next(fitting, None)
    guessed: dict[str, str] = {}
    for canonical in wanted:
        if canonical in chosen:
            continue
        taken = chosen.get("customer_id", "")
        usual = (canonical, *FILE_COLUMNS[canonical].also.split())
        if recognised:
            of_preset = PRESETS[recognised].columns.get(canonical, ())
            matches = [j for known in of_preset if (j := _there(canonical, known, names))][:1]
        else:
            plain = [_plain(name) for name in usual]
            matches = [name for name in names if _plain(name) in plain]
            if canonical in ENTITIES:  # nor is what already tells the customer a card besides
                matches = [name for name in matches if name not in parts(taken, names)]
        # A home's place beside the merchant's is common, so an exact `lat` proves nothing.
        if len(matches) > 1 and canonical not in ("lat", "lon"):
            matches = [n for n in matches if _plain(n) == canonical] or matches
        if canonical == "ts" and [_plain(name) for name in matches] == ["date", "time"]:
            matches = ["+".join(matches)]
        if len(matches) > 1 and not recognised:
            both = "+".join(matches[:2])
            raise ColumnError(
                f"{where}: {_listed(matches)} could each be {canonical}. Choose with --map "
                f"{canonical}={matches[0]}, two together with --map {canonical}={both}, or "
                f"--map {canonical}= for none."
            )
        if matches:
            chosen[canonical] = matches[0]
            if preset is None:
                guessed[canonical] = matches[0]
    chosen = {canonical: chosen[canonical] for canonical in wanted if chosen.get(canonical)}
    if missing := [name for name in required if name not in chosen]:
        raise ColumnError(
            f"{where} has no column for {' and '.join(missing)}; it has {_listed(names)}. "
            f"Say which it is with {' '.join(f'--map {name}=COLUMN' for name in missing)}."
        )
    if "is_fraud" not in chosen:
        if guessed.pop("known_at", None):
            del chosen["known_at"]
        for name in ("scenario", "known_at"):
            if name in chosen:
                raise ColumnError(f"{where}: a {name} needs a label; name its column with --label.")
    return chosen, guessed, recognised


def check_preset(preset: str | None) -> None:
    """Raise `InputError` where there is no such preset, neither of files nor of messages."""
    there = [*PRESETS, *FORMATS]
    if preset is not None and preset not in there:
        why = f": {CANNOT[preset]}." if preset in CANNOT else f"; there are {', '.join(there)}."
        raise InputError(f"There is no preset {preset!r}{why}{did_you_mean(preset, there)}")


def customer_in_doubt(
    session: Session, relation: str, names: Sequence[str], columns: Mapping[str, str]
) -> str:
    """A question where the ids of the customer's column come again within another one's; or "".

    Such are cards that each user counts from 0 on, and accounts that each bank does: the two
    together have at least twice as many values as either.
    """
    chosen, taken = columns["customer_id"], {p for c in columns.values() for p in parts(c, names)}
    others = [n for n in names if n not in taken and re.search(_ID_LIKE, _plain(n))]
    if chosen not in names or not others:
        return ""
    own = quoted(chosen)
    counts = ", ".join(
        f"count(DISTINCT {quoted(n)}), count(DISTINCT hash({own}, {quoted(n)}))" for n in others
    )
    n, *found = session.execute(
        f"SELECT count(DISTINCT {own}), {counts} FROM {relation} "
        f"AS t({', '.join(map(quoted, names))})"
    ).fetchall()[0]
    for other, alone, both in zip(others, found[::2], found[1::2], strict=True):
        if both >= 2 * max(n, alone):
            return (
                f"{chosen} repeats within {other} ({n:,} and {alone:,} values, {both:,} together): "
                f"is the customer both together? Then --map customer_id={other}+{chosen}"
            )
    return ""


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


def parts(column: str, names: Sequence[str]) -> list[str]:
    """The columns that are read as one: itself, those that `+` joins, or two of an amount.

    >>> parts("User+Card", ["User", "Card"]), parts("a+b", ["a+b"]), parts("Out-In", ["In", "Out"])
    (['User', 'Card'], ['a+b'], ['Out', 'In'])
    """
    if column in names:
        return [column]
    known = [_plain(name) for name in names]
    for first, minus, second in (column.partition("-"), column.rpartition("-")):
        if minus and _plain(first) in known and _plain(second) in known:
            return [first, second]
    return [part.strip() for part in column.split("+")]


def is_expression(column: str, names: Sequence[str]) -> bool:
    """Whether what stands for a column is SQL, and not the name of one or of several.

    >>> is_expression("amt / 100", ["amt"]), is_expression("Paid (EUR)", ["Paid (EUR)"])
    (True, False)
    """
    known = [_plain(name) for name in names]
    if all(_plain(part) in known for part in parts(column, names)):
        return False
    return re.search(r"[(*/|'\"<>=]|::| - ", column) is not None


def named(column: str, names: Sequence[str], where: str) -> str:
    """The column of a file that somebody means, or a `ColumnError` that says what there is."""
    plain = (name for name in names if _plain(name) == _plain(column))
    match = column if column in names else next(plain, None)
    if match is None:
        raise ColumnError(
            f"{where} has no column {column!r}; it has {_listed(names)}."
            + did_you_mean(column, names)
        )
    return match


def _plain(name: str) -> str:
    """A name in small letters, its words parted by `_`, without what is in brackets.

    >>> _plain("Created date (UTC)"), _plain("IsFraud?"), _plain("TransactionID")
    ('created_date', 'is_fraud', 'transaction_id')
    """
    name = re.sub(r"\(.*?\)|[?!*]", "", name).strip()
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[\s.-]+", "_", name).lower()


def _fits(preset: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> bool:
    return all(any(_there(name, n, names) for n in known) for name, known in preset.items())


def _there(canonical: str, column: str, names: Sequence[str]) -> str:
    """A column of a file, or several joined, as the file names them; "" where one is missing."""
    found = [next((n for n in names if _plain(n) == _plain(p)), "") for p in parts(column, names)]
    return _SIGN.get(canonical, "+").join(found) if all(found) else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")
