"""Cells in SQL: after `%load_ext aegis_core`, `%%aegis SELECT …` and `%aegis customer C001`."""

from __future__ import annotations

import pandas as pd
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from aegis_core import config
from aegis_core.errors import AegisError
from aegis_core.store import connect

_OF_A_CUSTOMER = """
    SELECT t.seq, t.ts, t.amount, t.currency, t.merchant_id, t.category, v.risk, v.decision,
      [reason.text FOR reason IN v.reasons] AS reasons, t.transaction_id
    FROM transactions t LEFT JOIN verdicts v USING (seq) WHERE t.customer_id = ? ORDER BY t.seq"""


def asked(line: str, cell: str = "") -> pd.DataFrame:
    """The answer to SQL, in the line or the cell, or all payments of a `customer` with verdicts.

    It is of the database of the settings (`AEGIS_DB`), also beside a running service; nothing can
    be changed. `UsageError`, which a notebook shows as one sentence, where it cannot be answered.
    """
    word, _, customer = line.strip().partition(" ")
    try:
        store = connect(config.load().db)
        if word == "customer" and not cell:
            return store.query(_OF_A_CUSTOMER, [customer.strip()])
        return store.query(f"{line}\n{cell}")
    except AegisError as e:
        raise UsageError(str(e)) from None


def load(shell: InteractiveShell) -> None:
    """Register the magic `aegis`, of a line and of a cell."""
    shell.magics_manager.register_function(asked, "line_cell", "aegis")
