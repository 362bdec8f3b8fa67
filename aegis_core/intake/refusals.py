"""Refused rows: card numbers masked before they are kept, a budget a source and day, an end.

Every row that is refused is counted; the table `rejected` keeps them while the budget lasts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aegis_core.schema import DAY_US
from aegis_core.store import Store, audit
from aegis_core.store.connection import literal

_LOG: Final = logging.getLogger("aegis.service")
USED_UP: Final = "the day's room for refused rows is used up: more are counted, not kept"
"""What is said once, as the last row of a source and day."""
LONGEST_RAW: Final = 10_000
"""Characters of a row that are kept, or of one value of it."""
MAY_BE_CARD: Final = "[0-9]{13}|[0-9]{4}[ -][0-9]{4,6}[ -][0-9]{4}"
"""A regular expression that every text with a card number in it matches."""
_CARD: Final = re.compile(
    r"(?<![0-9.])(?P<card>[0-9]{13,19}|[0-9]{4}(?P<gap>[ -])(?:[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)"
    r"[0-9]{1,7}|[0-9]{6}(?P=gap)[0-9]{4,5}))(?:\.0+)?(?!\.?[0-9])"
)
_BARE: Final = re.compile(r"(?:(?<=[:\[,])|(?<=[:,] ))-?[0-9]{13,19}(?:\.0+)?(?= *[,}\]])")
"""A whole number of JSON, which becomes text when it is masked."""
_SPENT: Final = f"""
    SELECT coalesce(sum(strlen(raw)), 0) AS bytes,
        count(*) FILTER (reason = {literal(USED_UP)}) > 0 AS said
    FROM rejected WHERE source = ? AND epoch_us(received_at) >= ?"""


def masked(text: str) -> str:
    """`text` with the middle of each card number hidden: 13 to 19 digits, the last one checked.

    Groups may be parted by blanks or hyphens. Of other numbers of that length, a tenth are hidden.

    >>> masked("card 4111 1111 1111 1111, id 4111111111111112")
    'card 411111******1111, id 4111111111111112'
    """
    if not re.search(MAY_BE_CARD, text):
        return text
    return _CARD.sub(_hidden, _BARE.sub(_quoted, text))


def _quoted(found: re.Match[str]) -> str:
    return f'"{found[0]}"' if _CARD.sub(_hidden, found[0]) != found[0] else found[0]


def _hidden(found: re.Match[str]) -> str:
    digits = re.sub("[ -]", "", found["card"])
    values = [int(digit) for digit in reversed(digits)]
    doubled = (sum(divmod(2 * value, 10)) for value in values[1::2])
    if (sum(values[::2]) + sum(doubled)) % 10:  # Luhn
        return found[0]
    return f"{digits[:6]}{'*' * (len(digits) - 10)}{digits[-4:]}"


class Budget:
    """How much of what is refused is kept, in bytes a source and day of UTC.

    Parameters
    ----------
    most : bytes of `raw`.
    stored : rows of a query with its parameters, to ask what the day holds already.
    """

    def __init__(
        self, most: float, stored: Callable[[str, list[Any]], list[dict[str, Any]]]
    ) -> None:
        self._most, self._stored = most, stored
        self._day, self._left = -1, dict[str, float]()

    def kept(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The rows of `rejected` that are kept; where the budget ends, one that says so."""
        kept: list[Mapping[str, Any]] = []
        for row in rows:
            source, size = row["source"], len(row["raw"].encode())
            left = self._of(source, row["received_at"] // DAY_US)
            if size <= left:
                kept.append(row)
                self._left[source] = left - size
            elif left >= 0:
                kept.append({**row, "raw": "", "reason": USED_UP})
                self._left[source] = -1.0
                _LOG.warning("source %s: %s", source, USED_UP)
        return kept

    def _of(self, source: str, day: int) -> float:
        if day != self._day:
            self._day, self._left = day, {}
        if source not in self._left:
            (spent,) = self._stored(_SPENT, [source, day * DAY_US])
            self._left[source] = -1.0 if spent["said"] else max(0.0, self._most - spent["bytes"])
        return self._left[source]


def count(store: Store) -> int:
    """How many refused rows are kept."""
    return int(store.value("SELECT count(*) FROM rejected"))


def forget(store: Store, *, who: str) -> str:
    """Delete every refused row that is kept, and say how many; the audit notes it."""
    with store.changing() as session:
        n = session.value("SELECT count(*) FROM rejected")
        session.execute("DELETE FROM rejected")
        audit.record(session, who, "forget", "rejected", {"rows": {"rejected": n}})
    return f"Deleted {n:,} refused rows. `aegis compact` gives the space back."
