"""What stands after the data of a file, such as a total: kept as a footer, and no bad row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aegis_core.store.connection import literal
from aegis_core.store.session import Session

FOOTER: Final = "looks like a footer: "
"""The beginning of the reason of what stands after the data."""
_TOTAL: Final = r"(?i)(sub|grand )?(total|sum|summe|gesamt\w*|saldo|balance)\b"


def mark_footer(
    session: Session, first: int, n_columns: int, lines: Callable[[], Sequence[str]]
) -> None:
    """Mark what stands after the data, such as a total, among staged rows from number `first` on.

    `lines` gives the last ones of the file, the very last first. What has no time and not much
    else, or begins as a total, belongs to the footer, up to the last line that does not.
    """
    last = """SELECT rowid AS row_no, raw, ts IS NULL AS untimed,
        customer_id IS NULL OR amount IS NULL AS lacks FROM aegis_staged
        WHERE rowid >= {} AND coalesce(raw[1], '') {} '"' ORDER BY rowid DESC LIMIT 20"""
    rows, broken = session.rows(last.format(first, "<>")), session.rows(last.format(first, "="))
    texts = {json.loads(row["raw"]).strip(): row["row_no"] for row in broken}
    after = []
    if broken or (rows and _is_footer(rows[0])):
        for line in lines()[:20]:
            if (row_no := texts.get(line)) is not None:
                fields = re.split(r"[;,|\t]", line)
                if 2 * sum(map(bool, fields)) > n_columns or any(map(_is_dated, fields)):
                    break
                after.append(row_no)
            elif rows and _is_footer(rows[0]):
                after.append(rows.pop(0)["row_no"])
            else:
                break
    if after:
        session.execute(
            f"UPDATE aegis_staged SET reason = {literal(FOOTER)} || reason "
            f"WHERE rowid IN ({', '.join(map(str, after))})"
        )


def _is_footer(row: Mapping[str, Any]) -> bool:
    if row["raw"] is None or not row["untimed"]:
        return False
    values = list(json.loads(row["raw"]).values())
    filled = [str(value).strip() for value in values if str(value or "").strip()]
    few = 2 * len(filled) <= len(values) or not filled
    return few or bool(row["lacks"]) or re.match(_TOTAL, filled[0]) is not None


def _is_dated(text: str) -> bool:
    return re.match(r"\s*[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}\b", text) is not None
