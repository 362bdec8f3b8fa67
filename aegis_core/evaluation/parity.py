"""Parity: whether a replay of the history gives live scoring's verdicts, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_core.config import Settings
from aegis_core.detection.history import label_events, recorded, transactions
from aegis_core.detection.learner import Learner
from aegis_core.detection.registry import load, rated
from aegis_core.detection.scoring import Scorer
from aegis_core.features.checkpoint import begin, judged_since
from aegis_core.features.entries import judged_rows
from aegis_core.schema import FACTORS
from aegis_core.store import Store


@dataclass(frozen=True)
class Parity:
    """How many stored verdicts a replay of the history gives again, bit for bit.

    `older` ones, of a version that computed otherwise, are not among the `checked`.
    """

    checked: int
    different: int
    first_different: str | None
    older: int = 0

    def sentence(self) -> str:
        """The result in words."""
        older = (
            f" {self.older:,} older ones are of a version of Aegis that computed otherwise."
            if self.older
            else ""
        )
        if not self.checked:
            return f"No live verdicts are stored yet, so there is nothing to compare.{older}"
        if not self.different:
            return f"All {self.checked:,} stored verdicts replay bit for bit.{older}"
        return (
            f"{self.different:,} of {self.checked:,} stored verdicts replay DIFFERENTLY, the first "
            f"is of transaction {self.first_different}.{older}"
        )


def parity(store: Store, settings: Settings) -> Parity:
    """Replay the history and compare evidence and score with what live scoring stored."""
    with store.snapshot() as session:
        frame, labels = transactions(session), label_events(session)
        since = judged_since(session)
        n_verdicts = session.value("SELECT count(*) FROM verdicts")
        stored = session.query(
            "SELECT seq, transaction_id, model_version, score, evidence.* FROM verdicts "
            "WHERE seq >= ? ORDER BY seq",
            [session.next_seq() if since is None else since],
        )
        versions = {v: load(session, v, settings).model for v in stored.model_version.unique()}
        learns = any(isinstance(model, Learner) for model in versions.values())
        begun = begin(session, confirmed=learns)
    older = n_verdicts - len(stored)
    if stored.empty:
        return Parity(0, 0, None, older)
    passed = Scorer(profiles=begun.profiles, confirmed=begun.confirmed).replay(
        frame, labels, recorded=recorded(frame), erased=begun.erased, signals=True
    )
    rows = np.searchsorted(frame.seq.to_numpy(), stored.seq.to_numpy())
    same, asked = np.zeros(len(stored), bool), judged_rows(frame)
    for version, part in stored.groupby("model_version"):
        at, model = rows[part.index], versions[str(version)]
        detector = model.detector if isinstance(model, Learner) else model
        _, evidence = detector.weigh(passed.signals[at])
        score = np.where(asked[at], rated(model, passed, at), 0.0)
        same[part.index] = (evidence == part[list(FACTORS)].to_numpy()).all(axis=1) & (
            score == part.score.to_numpy()
        )
    first = None if same.all() else str(stored.transaction_id[int(np.argmin(same))])
    return Parity(len(stored), int((~same).sum()), first, older)
