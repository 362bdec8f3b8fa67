"""What every reader of messages gives: rows, what is refused, and what is no payment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from aegis_core.errors import FileUnreadable, InputError

NAMES: Final = (
    "transaction_id", "customer_id", "ts", "amount", "currency", "merchant_id", "category",
    "channel", "kind", "status", "original_id", "place",
)  # fmt: skip
"""Columns of a row: canonical ones, and where in its file it stands."""
Row = dict[str, Any]
LONGEST: Final = 1_000_000
"""Characters of one message that are kept of what is refused."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A message, or the part of it that one payment is, that cannot be read.

    Attributes
    ----------
    place : where it stands, such as `Stmt 1, Ntry 3, TxDtls 2`.
    message : as it came.
    """

    place: str
    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A message that is whole and no payment, such as an echo test."""

    what: str


Item = Row | Refused | Skipped


class NotWhole(FileUnreadable):
    """A file that cannot be read to its end: nothing of it counts."""


class NoPayment(Exception):
    """Why one of many cannot be read, and where within it."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason, self.place = reason, place


def plain(text: str | None) -> str | None:
    r"""A text without line breaks and blanks at its ends, None where nothing is left.

    >>> plain(" Invented\n  Ltd "), plain(" ")
    ('Invented Ltd', None)
    """
    return " ".join((text or "").split()) or None


def number(text: str | None) -> float | None:
    """A number of 0 or more as messages write it, None where a text is none.

    >>> number("12.50"), number("-1"), number("1e3"), number("NaN")
    (12.5, None, None, None)
    """
    return float(text or "") if re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", text or "") else None


def joined(*parts: str | None) -> str:
    """What there is of an id's parts."""
    return "/".join(part for part in parts if part)


def extra(module: str, package: str) -> Any:
    """A module of the extra `messages`.

    Raises
    ------
    InputError : It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as e:
        raise InputError(
            f"This kind of message is read with {package}, which is not installed: "
            "pip install 'aegis-fraud[messages]', or pip install " + package + "."
        ) from e
