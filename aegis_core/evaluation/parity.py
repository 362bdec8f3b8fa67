"""Parity: whether a replay of the history gives live scoring's verdicts, bit for bit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aegis_core.config import Settings
from aegis_core.detection.history import label_events, recorded, transactions
from aegis_core.detection.learner import Learner
from aegis_core.detection.registry import load, rated
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import RunFailed, Unjudged
from aegis_core.features.checkpoint import begin, judged_since
from aegis_core.features.entries import judged_rows
from aegis_core.runs import execution, ledger, lineage
from aegis_core.runs.verify import LIVE, as_run
from aegis_core.schema import FACTORS
from aegis_core.store import Store, connect


@dataclass(frozen=True)
class Parity:
    """How many stored verdicts a replay of the history gives again, bit for bit.

    `older` ones, of a version that computed otherwise, are not among the `checked`; `first_seq` is
    the place of the first that differs in the order of arrival.
    """

    checked: int
    different: int
    first_different: str | None
    older: int = 0
    first_seq: int | None = None

    def sentence(self) -> str:
        """The result in words."""
        older = (
            f" {self.older:,} older ones are of a version of Aegis that computed otherwise."
            if self.older
            else ""
        )
        if not self.checked:
            return f"No verdict is there to compare.{older}"
        if not self.different:
            return f"Verified: {self.checked:,} verdicts, bit for bit.{older}"
        return (
            f"{self.different:,} of {self.checked:,} verdicts DIFFER from their replay, first seq "
            f"{self.first_seq} (transaction {self.first_different}).{older}"
        )


def parity(
    store: Store,
    settings: Settings,
    since: dt.datetime | None = None,
    *,
    tell: Callable[[float], object] = lambda share: None,
) -> Parity:
    """Replay the history and compare evidence and score with what live scoring stored.

    Parameters
    ----------
    since : compare only verdicts that were given from then on (UTC); all is replayed in any case.
    tell : called with the share done, in [0, 1].
    """
    scored_at = since or dt.datetime.min
    with store.snapshot() as session:
        frame, labels = transactions(session), label_events(session)
        since_seq = judged_since(session)
        n_verdicts = session.value(
            "SELECT count(*) FROM verdicts WHERE scored_at >= ?", [scored_at]
        )
        stored = session.query(
            "SELECT seq, transaction_id, model_version, score, evidence.* FROM verdicts "
            "WHERE seq >= ? AND scored_at >= ? ORDER BY seq",
            [session.next_seq() if since_seq is None else since_seq, scored_at],
        )
        versions = {v: load(session, v, settings).model for v in stored.model_version.unique()}
        learns = any(isinstance(model, Learner) for model in versions.values())
        begun = begin(session, confirmed=learns)
    older, done = n_verdicts - len(stored), 0
    if stored.empty:
        return Parity(0, 0, None, older)

    def progress(n: int) -> None:
        nonlocal done
        done += n
        tell(min(1.0, done / len(frame)))

    passed = Scorer(profiles=begun.profiles, confirmed=begun.confirmed).replay(
        frame, labels, recorded=recorded(frame), erased=begun.erased, signals=True,
        progress=progress,
    )  # fmt: skip
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
    if same.all():
        return Parity(len(stored), 0, None, older)
    first = stored.iloc[int(np.argmin(same))]
    n_different = int((~same).sum())
    return Parity(len(stored), n_different, str(first.transaction_id), older, int(first.seq))


def verify_live(
    settings: Settings,
    due: ledger.Due | None = None,
    *,
    since: dt.datetime | None = None,
    tell: Callable[[float], object] = lambda share: None,
) -> str:
    """Do `parity` as a run of its own; the result in words.

    A service may go on meanwhile: all that is read is of one moment. The board hears of it where
    all verdicts were compared, or some differ.

    Raises
    ------
    RunFailed : Some verdicts differ; ledger and message say how many, and the first.
    Unjudged : There is no verdict to compare.
    NotReady : The files of a model that gave some are gone.
    """
    store = connect(settings.db)
    store.rows("SELECT 1")  # no database: said before a run begins
    given = {"run": LIVE} | ({"since": since.isoformat()} if since else {})
    row = ledger.begun("verify", None, given, settings, due)

    def check() -> tuple[Parity, str]:
        saw = lineage.seen(store)
        proof = parity(store, settings, since, tell=tell)
        if not proof.checked:
            raise Unjudged(proof.sentence())
        figures = {"verdicts_compared": proof.checked, "verdicts_different": proof.different}
        metrics: dict[tuple[str, str], float | None] = {(k, ""): v for k, v in figures.items()}
        execution.record(store, row.run_id, data=saw, metrics=metrics)
        if since is None or proof.different:  # what is newer only does not clear what is older
            execution.record_proof(store, proof.checked, proof.different)
        return proof, proof.sentence() if proof.different else ""

    found = as_run(settings, row, check)
    if found and found.different:
        raise RunFailed(found.sentence())
    return found.sentence() if found else "It was verified already."
