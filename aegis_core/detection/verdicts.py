"""Verdicts as columns: for the table `verdicts` without an object a row, and one by one to answer.

Few transactions are alerts, so that reasons and sentences are kept by the number of their row, and
what every row has is arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from aegis_core.features.arrays import Floats, Ints
from aegis_core.schema import FACTORS, TOLD_FACTORS, Decision

_FACTORS_OF: Final = {"contributions": TOLD_FACTORS, "evidence": FACTORS}
_NESTED: Final = {
    name: pa.struct([(f, pa.float64()) for f in factors]) for name, factors in _FACTORS_OF.items()
}
_REASON: Final = pa.struct(
    [*((f, pa.string()) for f in ("factor", "code", "text")), ("contribution", pa.float64())]
)
VERDICTS: Final = pa.schema(
    {
        **{"seq": pa.int64(), "transaction_id": pa.string(), "model_version": pa.string()},
        **{"score": pa.float64(), "risk": pa.float64(), "decision": pa.string()},
        **{"reasons": pa.list_(_REASON), **_NESTED},
        **{"distance_km": pa.float64(), "scored_at": pa.timestamp("us"), "cleared": pa.string()},
        **{"inclusion": pa.float64(), "list_entry": pa.string()},
    }
)
"""The table `verdicts` as Arrow has it."""
ANSWERED: Final = (
    *("transaction_id", "decision", "risk", "score", "reasons", "cleared", "model_version", "seq"),
)
"""Columns that whoever sent a transaction is told."""
_LABELS: Final = np.array([d.label for d in Decision], object)

Reasons = list[dict[str, object]]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What is said of n transactions, in their order.

    `evidence` is of shape (n, N_FACTORS), `contributions` (n, N_TOLD); `decision` is as in
    `schema.Decision`.

    Parameters
    ----------
    reasons, cleared, list_entry : by the number of the row, for those that have any.
    scored_at : microseconds since 1970.
    """

    seq: Ints
    transaction_id: list[str]
    model_version: str
    score: Floats
    risk: Floats
    decision: npt.NDArray[np.int8]
    reasons: Mapping[int, Reasons]
    contributions: Floats
    evidence: Floats
    distance_km: Floats
    scored_at: int
    cleared: Mapping[int, str]
    inclusion: Floats
    list_entry: Mapping[int, str]

    def _column(self, name: str) -> Any:
        """A column of the table `verdicts`, one value a row; an array of its own where nested."""
        n = len(self.score)
        match name:
            case "model_version":
                return [self.model_version] * n
            case "decision":
                return _LABELS[self.decision].tolist()
            case "reasons":
                return _spread(self.reasons, n, [])
            case "cleared" | "list_entry":
                return _spread(getattr(self, name), n, None)
            case "scored_at":
                return np.full(n, self.scored_at)
        return getattr(self, name)

    def answers(self) -> list[dict[str, Any]]:
        """What whoever sent the transactions is told, one dictionary a row.

        `ANSWERED`, and that none is a `repeat`.
        """
        told = map(self._column, ANSWERED)
        columns = [c.tolist() if isinstance(c, np.ndarray) else c for c in told]
        names, columns = (*ANSWERED, "repeat"), [*columns, [False] * len(self.score)]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def frame(self) -> pd.DataFrame:
        """The columns as a frame; evidence and contributions become dictionaries when looked at."""
        nested = {
            name: pd.array(_structs(kind, getattr(self, name)), pd.ArrowDtype(kind))
            for name, kind in _NESTED.items()
        }
        columns = {name: nested.get(name, self._column(name)) for name in VERDICTS.names}
        kinds = {"scored_at": "datetime64[us]", "cleared": "str", "list_entry": "str"}
        return pd.DataFrame(columns).astype(kinds)

    def columns(self) -> dict[str, Any]:
        """The rows of the table `verdicts`, as `store.journal` takes them."""
        columns = {name: self._column(name) for name in VERDICTS.names}
        for name, factors in _FACTORS_OF.items():
            columns[name] = dict(zip(factors, columns[name].T, strict=True))
        return columns


def in_words(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """The first of some rows of the table `verdicts` as an analyst reads it, in lines.

    >>> row = {"decision": "review", "transaction_id": "t1", "risk": 99.5, "cleared": None}
    >>> print(in_words([row | {"reasons": [{"text": "9 payments within 10 s"}]}]))
    review: transaction t1, risk 99.50
    - 9 payments within 10 s
    """
    if not verdicts:
        return "No transaction was scored."
    v = verdicts[0]
    first = f"{v['decision']}: transaction {v['transaction_id']}, risk {v['risk']:.2f}"
    reasons = [f"- {reason['text']}" for reason in v["reasons"]]
    return "\n".join([first, *reasons, *([v["cleared"]] if v["cleared"] else [])])


def _structs(kind: pa.StructType, table: Floats) -> pa.StructArray:
    columns = [pa.array(column) for column in np.ascontiguousarray(table.T)]
    return pa.StructArray.from_arrays(columns, fields=list(kind))


def _spread(some: Mapping[int, Any], n: int, otherwise: object) -> list[Any]:
    out = [otherwise] * n
    for row, value in some.items():
        out[row] = value
    return out
