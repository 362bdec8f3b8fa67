"""Verdicts as columns: for the table `verdicts` without an object a row, and one by one to answer.

Few transactions are alerts, so that reasons and sentences are kept by the number of their row, and
what every row has is arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from aegis_core.features.arrays import Floats, Ints
from aegis_core.schema import FACTORS, TOLD_FACTORS, Decision

_NATS: Final = pa.struct([(f, pa.float64()) for f in FACTORS])
_PARTS: Final = pa.struct([(f, pa.float64()) for f in TOLD_FACTORS])
_REASON: Final = pa.struct(
    [*((f, pa.string()) for f in ("factor", "code", "text")), ("contribution", pa.float64())]
)
VERDICTS: Final = pa.schema(
    {
        **{"seq": pa.int64(), "transaction_id": pa.string(), "model_version": pa.string()},
        **{"score": pa.float64(), "risk": pa.float64(), "decision": pa.string()},
        **{"reasons": pa.list_(_REASON), "contributions": _PARTS, "evidence": _NATS},
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
class Verdicts(Mapping[str, Any]):
    """What is said of n transactions, in their order; by name, the columns of `verdicts`.

    `evidence` (n, N_FACTORS) and `contributions` (n, N_TOLD) are arrays; `verdicts["evidence"]`
    and `verdicts["contributions"]` are dictionaries, one a row, as the other columns are one value
    a row. `decision` is as in `schema.Decision`, by name its labels.

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

    def __iter__(self) -> Iterator[str]:
        return iter(VERDICTS.names)

    def __len__(self) -> int:
        return len(VERDICTS.names)

    def __getitem__(self, name: str) -> Any:
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
            case "contributions":
                return _structs(TOLD_FACTORS, self.contributions)
            case "evidence":
                return _structs(FACTORS, self.evidence)
            case "scored_at":
                return np.full(n, np.datetime64(self.scored_at, "us"))
            case _ if name in VERDICTS.names:
                return getattr(self, name)
        raise KeyError(name)

    def answers(self) -> list[dict[str, Any]]:
        """What whoever sent the transactions is told, `ANSWERED`, one dictionary a row."""
        told = (self[name] for name in ANSWERED)
        columns = (c.tolist() if isinstance(c, np.ndarray) else c for c in told)
        return [dict(zip(ANSWERED, row, strict=True)) for row in zip(*columns, strict=True)]

    def frame(self) -> pd.DataFrame:
        """The columns as a frame; evidence and contributions become dictionaries when looked at."""
        nested = {"contributions": (_PARTS, self.contributions), "evidence": (_NATS, self.evidence)}
        columns = {
            name: pd.array(_columns(*nested[name]), pd.ArrowDtype(nested[name][0]))
            if name in nested
            else self[name]
            for name in self
        }
        return pd.DataFrame(columns).astype({"cleared": "str", "list_entry": "str"})

    def columns(self) -> dict[str, Any]:
        """The rows of the table `verdicts`, as `store.journal` takes them."""
        nested = {"contributions": TOLD_FACTORS, "evidence": FACTORS}
        return {name: self[name] for name in self if name not in nested and name != "scored_at"} | {
            **{n: dict(zip(f, getattr(self, n).T, strict=True)) for n, f in nested.items()},
            "scored_at": np.full(len(self.score), self.scored_at),
        }


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


def _columns(kind: pa.StructType, table: Floats) -> pa.StructArray:
    columns = [pa.array(column) for column in np.ascontiguousarray(table.T)]
    return pa.StructArray.from_arrays(columns, fields=list(kind))


def _spread(some: Mapping[int, Any], n: int, otherwise: object) -> list[Any]:
    out = [otherwise] * n
    for row, value in some.items():
        out[row] = value
    return out


def _structs(names: Sequence[str], table: Floats) -> list[dict[str, float]]:
    return [dict(zip(names, row, strict=True)) for row in table.tolist()]
