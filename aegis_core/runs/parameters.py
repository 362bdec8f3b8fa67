"""The notebooks and their parameters: what a caller may give, checked before anything starts."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from aegis_core.config import NOTEBOOK_FOLDER
from aegis_core.errors import InputError, did_you_mean

NOTEBOOKS: Final = {
    "start": NOTEBOOK_FOLDER / "00_start.ipynb",
    "generate": NOTEBOOK_FOLDER / "01_generate.ipynb",
    "train": NOTEBOOK_FOLDER / "02_train.ipynb",
    "evaluate": NOTEBOOK_FOLDER / "03_evaluate.ipynb",
    "price": NOTEBOOK_FOLDER / "03_price.ipynb",
    "simulate": NOTEBOOK_FOLDER / "04_simulate.ipynb",
    "review": NOTEBOOK_FOLDER / "05_review.ipynb",
    "drift": NOTEBOOK_FOLDER / "06_drift.ipynb",
}
"""The notebooks that can be run, by name."""

OWN: Final = ("db", "run_id")
"""Parameters of every notebook that the runner fills in."""

_MOST: Final = 2**1023  # about the largest float
_INTERVAL: Final = re.compile(r"\bin ([\[(])([\d_.]+), ([\d_.]+|∞)([\])])")
_CHOICE: Final = re.compile(r"one of (\w+(?:, \w+)*)")
_MOMENT: Final = re.compile(r"\ba (date|time)\b")
_DECLARED: Final = re.compile(
    r"^(?P<name>\w+): (?P<inferred_type_name>\w+) = (?P<default>.*?) +# (?P<help>.*)$", re.MULTILINE
)
_KINDS: Final[dict[str, TypeAdapter[Any]]] = {
    kind.__name__: TypeAdapter(kind) for kind in (bool, int, float, str)
}


def parameters_of(name: str) -> dict[str, dict[str, str]]:
    """What a caller may give to a notebook, as `inspect`; `InputError` where there is none."""
    if name not in NOTEBOOKS:
        known = ", ".join(NOTEBOOKS)
        raise InputError(
            f"There is no notebook {name!r}; there are {known}." + did_you_mean(name, NOTEBOOKS)
        )
    return {k: v for k, v in inspect(NOTEBOOKS[name]).items() if k not in OWN}


def check_parameters(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """The parameters of a notebook: `given` in the declared types, defaults for the others.

    Raises
    ------
    InputError
        There is no such notebook, it has no parameter of a name, or a value does not fit its type
        or what the line of the parameter says: an interval, `one of` some words, `a date`.
    """
    declared = parameters_of(name)
    for key in given:
        if key in OWN:
            raise InputError(f"{key} is filled in by the run; choose the database with --db.")
        if key not in declared:
            raise InputError(
                f"{name} has no parameter {key!r}; it has {', '.join(declared) or 'none'}."
                + did_you_mean(key, declared)
            )
    values = {key: ast.literal_eval(about["default"]) for key, about in declared.items()}
    for key, value in given.items():
        # -1 stood for the settings until None did, in schedules and in the ledger
        if values[key] is not None or str(value) not in ("", "None", "-1", "-1.0"):
            values[key] = _as_type(key, value, declared[key]["inferred_type_name"])
            _must_fit(key, values[key], declared[key]["help"])
    return values


def inspect(notebook: Path) -> dict[str, dict[str, str]]:
    """Parameters of a notebook by name: `inferred_type_name`, `default` and `help` of each.

    The same as papermill's `inspect_notebook`, which takes a second to import.
    """
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    source = "".join(tagged[0]["source"]) if tagged else ""
    return {found["name"]: found.groupdict() for found in _DECLARED.finditer(source)}


def _as_type(key: str, value: object, kind: str) -> object:
    """`value` as a parameter of the declared type.

    >>> _as_type("n", "1_000", "int"), _as_type("n", 1e3, "int"), _as_type("x", 2, "float")
    (1000, 1000, 2.0)
    >>> _as_type("live", "no", "bool"), _as_type("since", "2026-01-01", "str")
    (False, '2026-01-01')
    >>> _as_type("n", "many", "int")
    Traceback (most recent call last):
        ...
    aegis_core.errors.InputError: The parameter n must be int, not 'many'.
    >>> _as_type("x", "1e400", "float")
    Traceback (most recent call last):
        ...
    aegis_core.errors.InputError: The parameter x must be a finite number, not '1e400'.
    """
    wrong = InputError(f"The parameter {key} must be {kind}, not {value!r}.")
    if isinstance(value, bool) and kind != "bool":
        raise wrong
    try:
        given = Decimal(str(value)) if kind == "int" else value  # such as 1e3
        found = _KINDS[kind].validate_python(given)
    except (KeyError, ValueError, ArithmeticError):
        raise wrong from None
    if kind in ("int", "float") and not abs(found) < _MOST:
        raise InputError(f"The parameter {key} must be a finite number, not {value!r}.")
    return found


def _must_fit(key: str, value: Any, about: str) -> None:
    """Refuse what is not as the help of its parameter says, if it says so.

    >>> _must_fit("share", 0.5, "how many of all, in (0, 1]; None: settings")
    >>> _must_fit("folds", 0, "how many times, in [1, ∞)")
    Traceback (most recent call last):
        ...
    aegis_core.errors.InputError: The parameter folds must lie in [1, ∞), not 0.
    >>> _must_fit("role", "king", "one of champion, none; empty: a forest decides")
    Traceback (most recent call last):
        ...
    aegis_core.errors.InputError: The parameter role must be one of champion, none, not 'king'.
    >>> _must_fit("start", "01.02.2026", "first day, a date")
    Traceback (most recent call last):
        ...
    aegis_core.errors.InputError: The parameter start must be a date (UTC) such as 2026-04-01, not \
'01.02.2026'.
    """
    may = ""
    if found := _INTERVAL.search(about):
        opens, low, high, closes = found.groups()
        least, most = float(low), float(high.replace("∞", "inf"))
        above = value >= least if opens == "[" else value > least
        below = value <= most if closes == "]" else value < most
        if not (above and below):
            may = f"lie in {found[0].removeprefix('in ')}, not {value}"
    elif value == "" and "empty" in about:
        return
    elif found := _CHOICE.match(about):
        if value not in found[1].split(", "):
            may = f"be one of {found[1]}, not {value!r}"
    elif found := _MOMENT.search(about):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            such = "2026-04-01" + "T08:00" * (found[1] == "time")
            may = f"be a {found[1]} (UTC) such as {such}, not {value!r}"
    if may:
        raise InputError(f"The parameter {key} must {may}.")
