"""What was told to whoever sent and answered, and what has to be there because of that.

The model of `any_order`, in plain Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aegis_core.schema import LIST_KINDS

TRIED: Final = ("declined", "failed")
PAID: Final = {"status": "approved"}
FORBIDS: Final = {"deny": {"approve", "review"}, "allow": {"review", "block"}, "snooze": {"review"}}
Row = dict[str, Any]


def key_of(row: Row) -> str:
    """What is judged once: a payment, and the try that it was before, of the same id."""
    return f"{row['transaction_id']} {row.get('status', 'approved')}"


def id_of(name: str) -> str:
    """The transaction of a `key_of`."""
    return name.partition(" ")[0]


@dataclass
class Model:
    """By `key_of`, in the order of their verdicts.

    `last` is the last one of each id, `owner` whose it is. `gone` was erased or forgotten, and may
    come again; `forgotten` are the ids of the latter.
    """

    sent: dict[str, Row] = field(default_factory=dict)
    verdicts: dict[str, tuple[float, str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    last: dict[str, str] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, Row] = field(default_factory=dict)
    gone: list[Row] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    maybe_refused: int = 0
    labels: list[tuple[str, bool]] = field(default_factory=list)
    filed: dict[str, bool] = field(default_factory=dict)
    held: dict[str, tuple[str, bool]] = field(default_factory=dict)
    listed: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def whose(self, row: Row) -> str:
        """The customer under whom a row is kept if it comes now."""
        return self.links.get(row["customer_id"], row["customer_id"])

    def is_of(self, row: Row, name: str) -> bool:
        """Whether a row is of the customer of one that is there: a link may be new, or erased."""
        return self.whose(row) == self.links.get(self.owner[name], self.owner[name])

    def is_repeat(self, row: Row) -> bool:
        """Whether it was answered before, and becomes no payment now."""
        last = self.last.get(row["transaction_id"], "")
        becomes = last.endswith(TRIED) and row.get("status") == "approved"
        return last in self.verdicts and not (becomes and self.is_of(row, last))

    def ruling(self, row: Row) -> str:
        """The list that decides about a row, "" if none does."""
        by, whose = self.links, self.whose(row)
        kinds = [kind for number, kind in self.listed.items() if by.get(number, number) == whose]
        return min(kinds, key=LIST_KINDS.index, default="")

    def lose(self, names: set[str]) -> None:
        """Payments are there no more: they are new if they come again."""
        for name in [name for name in self.verdicts if name in names]:
            self.gone.append(self.sent.pop(name))
            del self.verdicts[name]
        self.order = [name for name in self.order if name not in names]
        self.last = {id_of(name): name for name in self.verdicts}
        self.gone = [row for row in self.gone if row["transaction_id"] not in self.last]

    def forget_labels_of(self, ids: set[str]) -> None:
        """Nothing is known of these transactions any more."""
        self.labels = [(name, fraud) for name, fraud in self.labels if name not in ids]
        self.filed = {name: fraud for name, fraud in self.filed.items() if name not in ids}
        self.held = {review: of for review, of in self.held.items() if of[0] not in ids}
