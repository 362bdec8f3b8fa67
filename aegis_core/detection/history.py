"""The history as the pass reads it: transactions, the decisions given, and labels in their order.

A transaction knows a label that had arrived before it (`labels.after_seq`) and that its own time is
not before (`known_at`): live, in every replay and in training alike, so that all see the same
confirmed frauds. Evaluation alone asks what would have been known by `known_at`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.detection.learner import UNKNOWN, Answer
from aegis_core.detection.scoring import UNDECIDED, Decisions
from aegis_core.schema import COLUMNS, LABEL_RANK, MEANT, Decision
from aegis_core.store import Store
from aegis_core.store.session import Session

_READ = (*(c.name for c in COLUMNS if c.replayed), *(m for m in MEANT if m != "base_amount"))
_TRANSACTIONS = f"""
    SELECT t.seq, {", ".join(f"t.{name}" for name in _READ)},
      if(v.aside, NULL, v.decision) AS decision
    FROM transactions t LEFT JOIN verdicts v USING (seq) WHERE {{where}} ORDER BY t.seq
"""
_LABEL_EVENTS = f"""
    WITH placed AS (
      SELECT rowid AS place, transaction_id, is_fraud, known_at, {LABEL_RANK} AS rank,
        coalesce(after_seq, (SELECT max(seq) FROM transactions), -1) AS after_seq
      FROM labels
      WHERE transaction_id IN (SELECT transaction_id FROM labels WHERE rowid >= $since)
    ), events AS (
      SELECT *, if($since > 0, place < $since,
        after_seq < (SELECT coalesce(max(cut), -1) FROM carried)) AS earlier FROM placed
    )
    SELECT events.*, customer_id, merchant_id, ts FROM events JOIN (
      SELECT transaction_id, customer_id, merchant_id, min(ts) AS ts  -- of the try, if it was one
      FROM (SELECT transaction_id, customer_id, merchant_id, ts FROM transactions
        UNION ALL FROM remains)
      WHERE transaction_id IN (SELECT transaction_id FROM events) GROUP BY ALL
    ) USING (transaction_id)
    WHERE transaction_id IN (SELECT transaction_id FROM events WHERE NOT earlier)
    ORDER BY place
"""


def transactions(
    source: Store | Session, where: str = "true", params: list[object] | None = None
) -> pd.DataFrame:
    """Transactions in order of arrival with the decisions that were answered.

    Returns
    -------
    DataFrame
        The columns that the pass reads, and `decision` as in `schema.Decision`, or
        `scoring.UNDECIDED` where there was no verdict, or one that stands aside.
    """
    frame = source.query(_TRANSACTIONS.format(where=where), params)
    codes = {d.label: d.value for d in Decision}
    frame["decision"] = frame["decision"].map(codes).fillna(UNDECIDED).astype(np.int8)
    return frame


def labels(source: Store | Session) -> pd.DataFrame:
    """What is known of fraud: `transaction_id`, `is_fraud`, `scenario`, `known_at`.

    What holds comes after what it holds before (`schema.held_labels`).
    """
    return source.query(
        f"SELECT transaction_id, is_fraud, scenario, known_at FROM labels ORDER BY {LABEL_RANK}"
    )


def held(labels: pd.DataFrame) -> pd.DataFrame:
    """The one label of each transaction that holds, of those given as by `labels`."""
    return labels.drop_duplicates("transaction_id", keep="last")


def label_events(source: Store | Session, since: int = 0) -> pd.DataFrame:
    """Labels in order of arrival, for `Scorer.replay`: from number `since` on.

    With them come the `earlier` ones of their transactions, which the state was told of: those
    before `since` or, from 0 on, before the history's cut, which `checkpoint` knows.
    """
    return source.query(_LABEL_EVENTS, {"since": since})


def became_payments(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows of a history came again as a payment: a label of their id is of that row alone."""
    return frame["transaction_id"].duplicated(keep="last").to_numpy(bool)


def recorded(frame: pd.DataFrame) -> Decisions:
    """The decisions of a frame of `transactions` as an array for `Scorer.run`."""
    return frame["decision"].to_numpy(np.int8)


def known_answers(rows: pd.DataFrame, labels: pd.DataFrame, at: pd.Timestamp) -> Answer:
    """What was known of `rows` at the time `at`: 1 fraud, 0 ordinary, or `UNKNOWN`.

    Of several answers about a transaction the last one in `labels` of those known by then counts.
    """
    last = held(labels[labels.known_at <= at]).set_index("transaction_id")
    answers = last.is_fraud.astype(np.int8).reindex(rows.transaction_id, fill_value=UNKNOWN)
    return np.asarray(answers, np.int8)
