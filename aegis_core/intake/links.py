"""Links of reissued cards come in: a newer number and the one that it replaces.

What comes under a linked number from then on is kept under the customer that it replaces, at both
doors (`store.meaning`), so that profile, cases and erasure see one. What was kept stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from operator import call
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegis_core.errors import ColumnError, FileUnreadable, InputError
from aegis_core.machine import utc_now
from aegis_core.schema import COLUMNS, DAMAGED, LONGEST_TEXT
from aegis_core.store import Store, audit

Keep = Callable[[Callable[[], Any]], Any]
"""How the writing is done; a service has its own way."""
Pair = tuple[str, str]
"""A newer number, and the one that it replaces."""
(_CUSTOMER,) = (column for column in COLUMNS if column.name == "customer_id")
_NEWER: Final = ("customer_id", "new", "new_id", "new_number", *_CUSTOMER.also.split())
_OLDER: Final = ("replaces", "replaced", "old", "old_id", "old_number", "previous")
_CONTROL: Final = ("Cc", "Zl", "Zp")
_AT_ONCE: Final = 10_000


class Linked(NamedTuple):
    """How many links were `new`, and how many payments `stay` under their newer numbers."""

    new: int
    stay: int

    def sentence(self) -> str:
        """It in words.

        >>> Linked(2, 3).sentence()
        '2 links added. 3 payments that came under the newer numbers before stay there.'
        """
        stay = f" {self.stay:,} payments that came under the newer numbers before stay there."
        return (f"{self.new:,} links added." if self.new else "All of them were there.") + (
            stay if self.stay else ""
        )


def import_links(store: Store, path: Path, *, who: str = "aegis") -> Linked:
    """Keep the links of a file, all or none: CSV with `customer_id` and `replaces`.

    Raises
    ------
    FileUnreadable : The file is not there, or no CSV.
    ColumnError : It has other columns.
    InputError : As `link`; the message names the row.
    """
    import pandas as pd

    try:
        read = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as e:
        raise FileUnreadable(f"{path} cannot be read as CSV: {e}") from None
    there = {name.strip().lower(): name for name in reversed(read.columns)}
    chosen = [next((n for n in names if n in there), "") for names in (_NEWER, _OLDER)]
    if not all(chosen) or not isinstance(read.index, pd.RangeIndex):  # rows longer than the names
        raise ColumnError(
            f"{path} has the columns {', '.join(read.columns[:10])}; links are in customer_id, "
            "the newer number, and replaces, the one that it replaces."
        )
    if read.empty:
        raise InputError(f"{path} has the names of its columns and no link.")
    newer, older = (read[there[name]].tolist() for name in chosen)
    return link(store, list(zip(newer, older, strict=True)), path.name, begins=2, who=who)


def link(
    store: Store,
    pairs: Iterable[Pair],
    source: str,
    *,
    who: str,
    begins: int = 1,
    keep: Keep = call,
) -> Linked:
    """Keep links, all or none; the same one again is nothing new.

    Parameters
    ----------
    source : stored with each.
    begins : the number of the first row, for messages.

    Raises
    ------
    InputError : A number is none, replaces itself, also in a circle, or two customers.
    """
    rows = {i: (_sound(i, *pair), _sound(i, *pair[::-1])) for i, pair in enumerate(pairs, begins)}
    fresh: list[str] = keep(lambda: _kept(store, rows, source, who))
    stay = 0
    for at in range(0, len(fresh), _AT_ONCE):
        stay += store.value(
            "SELECT count(*) FROM transactions WHERE customer_id IN (SELECT unnest(?))",
            [fresh[at : at + _AT_ONCE]],
        )
    return Linked(len(fresh), stay)


def known_links(store: Store) -> list[dict[str, Any]]:
    """All links, the newest first."""
    return store.rows(
        "SELECT customer_id, replaces, linked_at, who, source FROM links "
        "ORDER BY linked_at DESC, customer_id"
    )


def _kept(store: Store, rows: Mapping[int, Pair], source: str, who: str) -> list[str]:
    """Keep links; the numbers that were linked to nobody before."""
    import pyarrow as pa

    named = pa.table({"name": sorted({name for pair in rows.values() for name in pair})})
    with store.changing() as session, session.lent("aegis_named", named):
        there = session.rows(
            "SELECT customer_id, replaces FROM links WHERE customer_id IN (FROM aegis_named) "
            "OR replaces IN (FROM aegis_named)"
        )
        before = {row["customer_id"]: row["replaces"] for row in there}
        first, moved = _resolved(before, rows)
        fresh = [name for name in first if name not in before]
        for old in moved:
            session.execute("UPDATE links SET replaces = ? WHERE replaces = ?", [first[old], old])
        if fresh:
            given = {"source": source, "linked_at": utc_now(), "who": who}
            made = [{"customer_id": new, "replaces": first[new], **given} for new in fresh]
            session.append("links", pa.Table.from_pylist(made))
            audit.record(session, who, "links", source, {"links": len(fresh)})
    return fresh


def _resolved(
    before: Mapping[str, str], rows: Mapping[int, Pair]
) -> tuple[dict[str, str], list[str]]:
    """The first of each chain, by number, and those that were first before.

    >>> _resolved({"c": "b"}, {1: ("d", "c"), 2: ("b", "a")})
    ({'c': 'a', 'd': 'a', 'b': 'a'}, ['b'])
    """
    first, moved, newer = dict(before), [], defaultdict[str, list[str]](list)
    for name, old in before.items():
        newer[old].append(name)
    for i, (new, old) in rows.items():
        to = first.get(old, old)
        if to == new:
            circle = "itself" if old == new else f"{old!r}, which goes back to {new!r}"
            raise InputError(
                f"Row {i:,}: {new!r} cannot replace {circle}. Nothing was linked; take it out."
            )
        if first.setdefault(new, to) != to:
            raise InputError(
                f"Row {i:,}: {new!r} replaces {first[new]!r} already, and not {to!r} as well. "
                "Nothing was linked; take one of them out."
            )
        later = newer.pop(new, [])
        moved += [new] if later else []
        first |= dict.fromkeys(later, to)
        newer[to] += [new, *later]
    return first, moved


def _sound(row: int, text: str, other: str = "") -> str:
    """A number without the blanks around it; `InputError` where it is none."""
    number, faults = text.strip(), _CUSTOMER.faults
    fault = (
        "control" if any(unicodedata.category(c) in _CONTROL for c in text)
        else "missing" if not number
        else "longest" if len(number) > LONGEST_TEXT
        else "damaged" if re.search(DAMAGED, number) else ""
    )  # fmt: skip
    if fault:
        beside = f", beside {other[:40]!r}," if other else ""
        raise InputError(
            f"Row {row:,}: a number{beside} {faults[fault]}. Nothing was linked; correct it."
        )
    return number
