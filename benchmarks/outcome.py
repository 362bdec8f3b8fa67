"""What came of the live benchmark: medians over the repeats, and the table beside what is asked."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

Record = Mapping[str, Any]
"""One measurement: `way`, `stack`, `repeat`, and figures by name; None where there is none."""

SUMS: Final = ("answered", "answers", "not_2xx", "lost", "refused", "put_off", "errors")
"""What is added up over the repeats; of the rest the median is taken, of `max_ms` the largest."""
COLUMNS: Final = {
    "rate/s": "rate", "p50 ms": "p50_ms", "p90 ms": "p90_ms", "p99 ms": "p99_ms",
    "max ms": "max_ms", "bad": "bad", "gen µs": "generator_us", "srv µs": "server_us",
}  # fmt: skip


class Asked(NamedTuple):
    """A figure that Aegis shall reach.

    Attributes
    ----------
    most : whether `value` is the most it may be, else the least.
    transactions : with a log of so many at least; with fewer it says nothing.
    """

    way: str
    figure: str
    most: bool
    value: float
    words: str
    transactions: int = 0

    def met(self, found: Record) -> bool | None:
        """Whether it is reached; None where it was not measured."""
        got = found.get(self.figure)
        if got is None or found.get("transactions", self.transactions) < self.transactions:
            return None
        met: bool = got <= self.value if self.most else got >= self.value
        return met


ASKED: Final = (
    Asked("single 1", "p50_ms", True, 2.5, "p50 ≤ 2.5 ms"),
    Asked("single 8", "rate", False, 2_500, "≥ 2,500/s"),
    Asked("single 8", "p99_ms", True, 15, "p99 ≤ 15 ms"),
    Asked("single 64", "rate", False, 4_500, "≥ 4,500/s"),
    Asked("single 64", "p99_ms", True, 60, "p99 ≤ 60 ms"),
    Asked("batch ndjson", "rate", False, 60_000, "≥ 60,000/s"),
    Asked("batch json", "rate", False, 60_000, "≥ 60,000/s"),
    Asked("with readers", "p99_ratio", True, 2, "p99 ≤ 2 × alone"),
    Asked("with notifier", "p99_ratio", True, 1.25, "p99 ≤ 1.25 × alone"),
    Asked("embedded", "rate", False, 150_000, "≥ 150,000/s"),
    Asked("large log: ready after an end", "ready_s", True, 10, "≤ 10 s at 10 million", 10**7),
    Asked("large log: ready after kill -9", "ready_s", True, 10, "≤ 10 s at 10 million", 10**7),
)


def medians(records: Sequence[Record]) -> list[Record]:
    """One record for each way and stack, in the order of the first ones.

    >>> medians([{"way": "a", "stack": "s", "repeat": i, "p50_ms": v, "max_ms": v, "lost": 1}
    ...          for i, v in enumerate([1.0, 5.0, 2.0])])
    [{'way': 'a', 'stack': 's', 'repeats': 3, 'p50_ms': 2.0, 'max_ms': 5.0, 'lost': 3}]
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["way"], record["stack"]), []).append(record)
    return [
        {"way": way, "stack": stack, "repeats": len(group)}
        | _together([{k: v for k, v in r.items() if k not in _NAMES} for r in group])
        for (way, stack), group in groups.items()
    ]


_NAMES = ("way", "stack", "repeat", "first", "next")


def _together(group: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in group[0]:
        values = [r[name] for r in group if r.get(name) is not None]
        if not values:
            found[name] = None
        elif isinstance(values[0], Mapping):
            found[name] = _together(values)
        elif isinstance(values[0], str):
            found[name] = values[0]
        elif name in SUMS:
            found[name] = sum(values)
        else:
            found[name] = max(values) if name == "max_ms" else statistics.median(values)
    return found


def report(
    found: Sequence[Record],
    disk: Mapping[str, float],
    about: Mapping[str, str],
    others: float | None = None,
) -> str:
    """The table and the sentences around it, as plain text.

    Parameters
    ----------
    found : of `medians`.
    disk : of `servers.disk`.
    others : share of the machine that other processes took meanwhile, in [0, 1].
    """
    rows = [["", "", *COLUMNS, "asked"]]
    sentences: list[str] = []
    before = ""
    for record in found:
        way, stack = record["way"], record["stack"]
        wishes = [a for a in ASKED if a.way == way and stack == "Aegis"]
        if "ready_s" in record:
            sentences.append(_ready(record, wishes))
            continue
        rows.append(
            [
                way if way != before else "", stack,
                *(number(_figure(record, key)) for key in COLUMNS.values()),
                "; ".join(_wish(a, record) for a in wishes),
            ]
        )  # fmt: skip
        before = way
        ours = next((r for r in found if r["way"] == way and r["stack"] == "Aegis"), None)
        if stack == "usual stack" and ours is not None:
            rows.append(
                ["", "Aegis / usual", *(_ratio(ours, record, key) for key in COLUMNS.values()), ""]
            )
        sentences += _people(record)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 or i == len(row) - 1 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
        if len(rows) > 1
    ]
    kept = (
        f"Disk: an append with fdatasync takes {number(disk['p50_ms'])} ms, "
        f"p99 {number(disk['p99_ms'])} ms."
    )
    if disk["p50_ms"] < 0.01:
        kept += " That is memory and no disk; name a folder on one with --folder."
    where = ", ".join(f"{name} {value}" for name, value in about.items())
    if others is not None:
        kept += f"\nOther processes took {others:.0%} of the cores meanwhile."
        if others > 0.1:
            kept += " Alone on the machine the figures are better, the ratios less so."
    below = [*sentences, *_generator(found)]
    return "\n".join([f"{where}.", kept, *([""] if lines else []), *lines, "", *below]).rstrip()


def number(value: float | None) -> str:
    """A figure as it stands in the table.

    >>> number(None), number(0.1234), number(12.34), number(1234.5), number(0)
    ('–', '0.12', '12.3', '1,234', '0')
    """
    if value is None or not math.isfinite(value):
        return "–"
    digits = 0 if value == int(value) or value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    names = ("duckdb", "uvicorn", "fastapi", "scikit-learn")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": str(cores),
        "Python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def _figure(record: Record, key: str) -> float | None:
    if key != "bad":
        value: float | None = record.get(key)
        return value
    parts = [record[k] for k in ("not_2xx", "lost", "refused") if record.get(k) is not None]
    return sum(parts) if parts else None


def _ratio(ours: Record, theirs: Record, key: str) -> str:
    a, b = _figure(ours, key), _figure(theirs, key)
    if key in ("bad", "max_ms", "generator_us") or a is None or not b:
        return ""
    return f"{number(a / b)} ×"


def _wish(asked: Asked, record: Record) -> str:
    met = asked.met(record)
    got = record.get(asked.figure)
    told = asked.words
    if asked.figure == "p99_ratio" and got is not None:
        told += f" (is {number(got)} ×)"
    return f"{told}: {'not measured' if met is None else 'yes' if met else 'NO'}"


def _ready(record: Record, wishes: Sequence[Asked]) -> str:
    told = f"{record['way']}: {number(record['ready_s'])} s, {record['transactions']:,.0f} payments"
    return "; ".join([told, *(_wish(a, record) for a in wishes)]) + "."


def _people(record: Record) -> list[str]:
    """What the readers got beside the load."""
    lines = []
    for who in ("dashboards", "analysts"):
        if (got := record.get(who)) is not None:
            errors = f", {got['errors']:,} errors ({got['first_error']})" if got["errors"] else ""
            lines.append(
                f"Beside the load {who} got {got['answers']:,} answers, p50 "
                f"{number(got['p50_ms'])} ms, p99 {number(got['p99_ms'])} ms{errors}."
            )
    if (messages := record.get("messages")) is not None:
        lines.append(f"Beside the load {messages['answers']:,} messages waited for the webhook.")
    return lines


def _generator(found: Sequence[Record]) -> list[str]:
    """What HTTP and the generator cost by themselves."""
    return [
        f"Without any work, a constant answer: {number(r['rate'])}/s on {r['way'].split()[1]} "
        f"connection(s), for which wrk takes {number(r['generator_us'])} µs and the server "
        f"{number(r['server_us'])} µs of a core a request."
        for r in found
        if r["stack"] == "constant"
    ]
