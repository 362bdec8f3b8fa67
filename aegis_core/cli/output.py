"""Rows of a result on the terminal: as a table, as CSV, as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

from aegis_core import machine

WIDEST_CELL = 80


def cell_text(value: object, widest: int = WIDEST_CELL) -> str:
    r"""A value for the terminal: short, on one line, without control characters.

    >>> cell_text("red \x1b[31m"), cell_text(0.1 + 0.2), cell_text(None)
    ('red ?[31m', '0.3', '')
    """
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return text if len(text) <= widest else text[: widest - 1] + "…"


def write_table(
    names: list[str], rows: Iterable[tuple[Any, ...]], most: int, widest: int = WIDEST_CELL
) -> None:
    """Columns side by side, numbers to the right; at most `most` rows, 0 for all."""
    found = iter(rows)
    shown = list(islice(found, most or None))
    cells = [
        [cell_text(name) for name in names],
        *([cell_text(v, widest) for v in row] for row in shown),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [
        all(isinstance(row[i], int | float | None) for row in shown) for i in range(len(names))
    ]
    for i, line in enumerate(cells):
        padded = (
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        )
        print("  ".join(padded).rstrip())
        if i == 0:
            print("  ".join("─" * width for width in widths))
    if next(found, None) is not None:
        print(f"The first {most:,} rows; --limit 0 shows all.", file=sys.stderr)


def write_csv(names: list[str], rows: Iterable[tuple[Any, ...]], most: int) -> None:
    """Comma-separated values with a header; a text that looks like a formula gets an apostrophe."""
    machine.write_csv(sys.stdout, names, islice(rows, most or None))


def write_json(names: list[str], rows: Iterable[tuple[Any, ...]], most: int) -> None:
    """A list of objects, one row a line."""
    import json

    print("[", end="")
    for i, row in enumerate(islice(rows, most or None)):
        text = json.dumps(_plain(dict(zip(names, row, strict=True))), ensure_ascii=False)
        print(("," if i else "") + "\n" + text, end="")
    print("\n]")


def write_document(found: object) -> None:
    """One JSON document, indented; times and the rest are text."""
    import json

    print(json.dumps(found, default=str, indent=2, ensure_ascii=False))


def _plain(value: object) -> object:
    """What JSON can say: NaN and infinity are null, times and the rest are text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
