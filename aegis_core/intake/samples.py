"""A sample of a file's columns: what tells in which form each is, read once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aegis_core.store.connection import quoted
from aegis_core.store.session import Session

_ROWS: Final = 20_000
"""So many rows tell the form, where they leave no doubt; else all do."""
MOST: Final = 0.98
"""A form fits a column that so many of its values are in: the others are bad rows."""


@dataclass(frozen=True)
class Form:
    """How a column is read.

    Attributes
    ----------
    name : for people.
    text : SQL of its text, in the plain form where there is no `value`.
    value : SQL of a number, or of what the clock said at a time; null where it is none.
    ahead : of a time, SQL of the minutes that the clock was ahead of UTC.
    dated : of a time, SQL for whether it is a date without a time of day.
    fails : SQL for whether there is a value that could not be computed.
    """

    name: str
    text: str
    value: str = ""
    ahead: str = "0"
    dated: str = "false"
    fails: str = ""


class Sample:
    """The first rows of a file, as texts.

    Parameters
    ----------
    table : the SQL of the file.
    texts : the SQL of each text that is asked for.
    """

    def __init__(self, session: Session, table: str, texts: Iterable[str]) -> None:
        self.session, self.table = session, table
        self._names = {text: f"t{i}" for i, text in enumerate(dict.fromkeys(texts))}
        read = ", ".join(f"{text} AS {name}" for text, name in self._names.items())
        session.execute(
            f"CREATE OR REPLACE TEMP TABLE aegis_sample AS SELECT {read} FROM {table} LIMIT {_ROWS}"
        )

    def drop(self) -> None:
        """Forget the rows."""
        self.session.execute("DROP TABLE aegis_sample")

    def of(self, text: str, few: bool = True) -> str:
        """A relation of `t`, one of the texts, and `b`, it without what surrounds a number."""
        rows = (
            f"{self._names[text]} AS t FROM aegis_sample"
            if few
            else f"{text} AS t FROM {self.table}"
        )
        return f"(SELECT t, {bare('t')} AS b FROM (SELECT {rows}) WHERE t IS NOT NULL)"


def bare(text: str) -> str:
    """SQL for a number without currency, blanks and brackets; a sign behind it stands before."""
    beside = r"[\s\x{a0}\x{202f}''’]|[$€£¥₹]|^[A-Z]{3}|[A-Z]{3}$"
    bare = f"regexp_replace({text}, '{beside}', '', 'g')"
    return rf"regexp_replace({bare}, '^\((.*)\)$|^(.*[0-9])-$', '-\1\2')"


@dataclass(frozen=True)
class Column:
    """A column of a file, or several that are read as one."""

    sample: Sample
    canonical: str
    told: str
    text: str

    def counts(self, conditions: Mapping[str, str], few: bool = True) -> dict[str, Any]:
        """How many values there are, `n`, and how many fulfil each condition.

        A condition is on the text `t`, or on that of a number without what surrounds it, `b`.
        """
        asked = ", ".join(f"count(*) FILTER ({c}) AS {quoted(k)}" for k, c in conditions.items())
        comma = ", " if asked else ""
        return dict(
            self.sample.session.rows(
                f"SELECT count(*) AS n{comma}{asked} FROM {self.sample.of(self.text, few)}"
            )[0]
        )

    def some(self, condition: str = "true") -> str:
        """A few different values that fulfil a condition, to be shown."""
        found = self.sample.session.rows(
            f"SELECT DISTINCT t FROM {self.sample.of(self.text)} WHERE {condition} "
            "ORDER BY t LIMIT 3"
        )
        return ", ".join(str(row["t"])[:40] for row in found)
