"""Profiles, detector and policy joined in one pass: `Scorer`.

The loop in `_advance` is the only one that moves transactions through the state: training asks it
for signals, evaluation and live scoring for decisions. Each row is decided before it is learnt, so
the result does not depend on how a stream is cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.answers import N_HISTORY, Answers, Recall, fold, recall, witness
from aegis_core.detector import (
    LANES,
    N_FACTORS,
    N_SIGNALS,
    NO_MODEL,
    Detector,
    Model,
    attribute,
    isolate,
    weigh,
)
from aegis_core.kernels import kernel
from aegis_core.policy import Policy, reasons
from aegis_core.profiles import FACTS, Columns, Floats, Ints, Profiles, State, learn, observe
from aegis_core.schema import FACTORS, Decision

CHUNK_ROWS = 200_000
"""Rows taken through the pass at once; bounds memory, changes no result."""
UNDECIDED = -1
"""In an array of recorded decisions: this transaction never got a verdict."""

Decisions = npt.NDArray[np.int8]
NO_ANSWERS: Final = Answers().memory
NOBODY: Final = np.empty(0, np.int64)


@dataclass(frozen=True)
class Scored:
    """What the pass says of n transactions, in their order.

    `signals` (n, N_SIGNALS) and `strength`, `evidence`, `contributions` (n, N_FACTORS) are in nats,
    the last in units of the score; `score` (n,) in (0, 1), `risk` (n,) in [0, 100]; `decision` (n,)
    as in `schema.Decision`; `facts` (n, len(FACTS)); `history` (n, N_HISTORY), where the pass was
    given answers. Arrays that were not asked for have no rows.
    """

    signals: Floats
    strength: Floats
    evidence: Floats
    score: Floats
    risk: Floats
    decision: Decisions
    contributions: Floats
    history: Floats
    facts: Floats


@kernel
def _advance(
    state: State,
    columns: Columns,
    model: Model,
    review_above: float,
    block_above: float,
    scoring: bool,
    recorded: Decisions,
    signals: Floats,
    strength: Floats,
    evidence: Floats,
    score: Floats,
    decision: Decisions,
    contributions: Floats,
    facts: Floats,
    memory: Recall,
    payer: Ints,
    payee: Ints,
    history: Floats,
) -> None:
    """Observe, decide and learn row after row; arrays without rows are not filled."""
    nothing, one_row = np.empty(0), np.empty(N_SIGNALS)
    scratch, lanes = np.empty(1 + N_FACTORS, np.float32), np.empty(LANES, np.int64)
    for i in range(len(columns.amount)):
        customer, category, ts = columns.customer[i], columns.category[i], columns.ts_us[i]
        amount, lat, lon = columns.amount[i], columns.lat[i], columns.lon[i]
        if len(history) > 0:
            fold(memory, ts)
            recall(memory, payer[i], payee[i], ts, history[i])
            witness(memory, payer[i], payee[i], ts)
        row = signals[i] if len(signals) > 0 else one_row
        told = facts[i] if len(facts) > 0 else nothing
        observe(state, customer, category, ts, amount, lat, lon, row, told)
        if scoring:
            weigh(model, row, strength[i], evidence[i], nothing)
            score[i] = isolate(model, evidence[i], scratch, lanes)
            decision[i] = (score[i] > review_above) + (score[i] > block_above)
            if len(contributions) > 0:
                attribute(model, evidence[i], contributions[i])
        fate = recorded[i] if len(recorded) > 0 else decision[i] if scoring else UNDECIDED
        learn(state, customer, category, ts, amount, lat, lon, row, fate != Decision.BLOCK)


class Scorer:
    """The pass over transactions, with or without a detector.

    Parameters
    ----------
    detector, policy :
        Both, to decide; neither, to learn profiles and signals only.
    profiles :
        The state to go on from; fresh if not given.
    answers :
        What was answered so far and is still to become known; without them the pass does not look
        at merchants.
    """

    def __init__(
        self,
        detector: Detector | None = None,
        policy: Policy | None = None,
        profiles: Profiles | None = None,
        answers: Answers | None = None,
    ) -> None:
        if (detector is None) != (policy is None):
            raise ValueError("A scorer decides with a detector and a policy, or with neither.")
        self.detector, self.policy = detector, policy
        self.profiles = profiles if profiles is not None else Profiles()
        self.answers = answers

    def run(
        self,
        frame: pd.DataFrame,
        *,
        recorded: Decisions | None = None,
        signals: bool = False,
        explain: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Scored:
        """Take `frame` through the pass, in its order, and remember it.

        Parameters
        ----------
        frame :
            Transactions in order of arrival (`schema.TRANSACTION_COLUMNS`), checked at the door.
        recorded :
            Decisions that were answered when the transactions came, of shape (n,); they, and not
            today's, say what taught the profiles. `UNDECIDED` where there was none.
        signals, explain :
            Also return signals; contributions and facts.
        progress :
            Called with the number of rows done since the last call.
        """
        n = len(frame)
        if recorded is not None and len(recorded) != n:
            raise ValueError(f"{len(recorded)} recorded decisions for {n} transactions.")
        decides = self.detector is not None
        out = Scored(
            np.empty((n if signals else 0, N_SIGNALS)),
            np.empty((n if decides else 0, N_FACTORS)),
            np.empty((n if decides else 0, N_FACTORS)),
            np.empty(n if decides else 0),
            np.empty(0),
            np.empty(n if decides else 0, np.int8),
            np.empty((n if explain and decides else 0, N_FACTORS)),
            np.empty((n if self.answers is not None else 0, N_HISTORY)),
            np.empty((n if explain else 0, len(FACTS))),
        )
        if self.detector is not None and self.policy is not None:
            model = self.detector.model_
            thresholds = self.policy.review_above, self.policy.block_above
        else:
            model, thresholds = NO_MODEL, (np.inf, np.inf)
        asked = np.empty(0, np.int8) if recorded is None else recorded.astype(np.int8)
        for start in range(0, n, CHUNK_ROWS):
            part = slice(start, min(start + CHUNK_ROWS, n))
            columns = self.profiles.columns(frame.iloc[part])
            payer = payee = NOBODY
            if self.answers is not None:
                payer, payee = self.answers.codes(frame.iloc[part])
            _advance(
                self.profiles.state, columns, model, *thresholds, decides, asked[part],
                out.signals[part], out.strength[part], out.evidence[part], out.score[part],
                out.decision[part], out.contributions[part], out.facts[part],
                NO_ANSWERS if self.answers is None else self.answers.memory, payer, payee,
                out.history[part],
            )  # fmt: skip
            if progress is not None:
                progress(part.stop - part.start)
        if self.detector is not None:
            object.__setattr__(out, "risk", self.detector.risk(out.score))
        return out

    def verdicts(self, frame: pd.DataFrame, model_version: str) -> pd.DataFrame:
        """Score `frame` live: one row a transaction, with the columns of the table `verdicts`.

        Reasons are told for reviewed and blocked transactions; evidence and contributions are kept
        for all.
        """
        if self.detector is None:
            raise ValueError("Verdicts need a detector.")
        scored = self.run(frame, explain=True, signals=True)
        alerts = np.flatnonzero(scored.decision != Decision.APPROVE)
        told: list[list[dict[str, object]]] = [[] for _ in range(len(frame))]
        amount = frame["amount"].to_numpy()
        currency = frame["currency"].tolist() if "currency" in frame else [None] * len(frame)
        by_signal = self.detector.spread(scored.signals[alerts])
        for i, evidence in zip(alerts, by_signal, strict=True):
            money = currency[i] if isinstance(currency[i], str) else None
            told[i] = reasons(
                float(amount[i]), money, scored.facts[i], scored.contributions[i], evidence
            )
        return pd.DataFrame(
            {
                "seq": frame["seq"].to_numpy(),
                "transaction_id": frame["transaction_id"].to_numpy(),
                "model_version": model_version,
                "score": scored.score,
                "risk": scored.risk,
                "decision": [Decision(d).label for d in scored.decision],
                "reasons": told,
                "contributions": _structs(scored.contributions),
                "evidence": _structs(scored.evidence),
                "distance_km": scored.facts[:, FACTS.index("distance_km")],
                "scored_at": pd.Timestamp.now("UTC").tz_localize(None).as_unit("us"),
            }
        )


def _structs(table: Floats) -> list[dict[str, float]]:
    return [dict(zip(FACTORS, row, strict=True)) for row in table.tolist()]
