"""The champion as it stands: what the model that decides made of the labelled weeks after its own.

An evaluation over folds judges a recipe: it trains anew on each window. This judges the one model
that is there, by its own limits, on payments that came after its training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection import history, registry
from aegis_core.detection.learner import Learner
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import NotReady
from aegis_core.evaluation.outcome import FEWEST
from aegis_core.features.checkpoint import begin
from aegis_core.features.entries import judged_rows
from aegis_core.metrics import Figure, average_precision
from aegis_core.schema import Decision
from aegis_core.store import Store


@dataclass(frozen=True)
class Standing:
    """What a champion made of the payments between the end of its training and of the labels.

    Attributes
    ----------
    version : "" where there is no champion, or its files are gone.
    trained_to, known_to : when its training ended, and the time of the last labelled payment.
    payments, frauds, alerts, caught : how many; `caught` of the frauds were alerts.
    order : average precision of its scores; None with fewer than `FEWEST` frauds.
    """

    version: str = ""
    trained_to: pd.Timestamp | None = None
    known_to: pd.Timestamp | None = None
    payments: int = 0
    frauds: int = 0
    alerts: int = 0
    caught: int = 0
    order: Figure | None = None

    def sentence(self) -> str:
        """The result in words."""
        if not self.version:
            return "The champion: there is none that can be read, so the recipe alone is judged."
        after = f"the weeks after its training (from {self.trained_to:%Y-%m-%d} on)"
        if self.order is None:
            return (
                f"The champion as it is, {self.version}: too few labels to judge. In {after} "
                f"{self.frauds} of {self.payments:,} payments are labelled as fraud, and {FEWEST} "
                "would do."
            )
        right = self.caught / self.alerts if self.alerts else 0.0
        return (
            f"The champion as it is, {self.version}, in {after}: average precision "
            f"{self.order.value:.3f} (by chance {self.order.floor:.4f}); {self.alerts:,} alerts "
            f"among {self.payments:,} payments, {right:.0%} of them fraud, and {self.caught:,} of "
            f"{self.frauds:,} frauds caught."
        )

    def figures(self) -> dict[tuple[str, str], float | None]:
        """The figures as `runs.record` takes them; none where it could not be judged."""
        if self.order is None:
            return {}
        return {
            ("average_precision", "champion"): self.order.value,
            ("recall", "champion"): self.caught / self.frauds,
            ("alert_rate", "champion"): self.alerts / self.payments,
        }


def champion(
    store: Store, settings: Settings, progress: Callable[[int], object] | None = None
) -> Standing:
    """Judge the champion on what came after its training, as far as labels go.

    The history is replayed, and taught by the decisions that were given; the champion decides by
    the limits of its training, whichever it followed since. Before the last labelled payment those
    without a label count as ordinary, after it nothing counts.
    """
    with store.reading() as session:
        try:
            model = registry.load(session, registry.roles(session)[0], settings)
        except NotReady:
            return Standing()
        (its,) = session.rows("SELECT trained_to FROM models WHERE version = ?", [model.version])
        learns = isinstance(model.model, Learner)
        frame, held = history.transactions(session), history.held(history.labels(session))
        events = history.label_events(session) if learns else None
        begun = begin(session, confirmed=learns)
    labelled = frame["ts"][frame["transaction_id"].isin(held["transaction_id"])]
    start, end = pd.Timestamp(its["trained_to"]), labelled.max()
    tested = (frame["ts"] >= start).to_numpy() & (frame["ts"] <= end).to_numpy()
    tested &= judged_rows(frame) & ~history.became_payments(frame)
    fraud = (
        frame["transaction_id"].isin(held["transaction_id"][held["is_fraud"]]).to_numpy()[tested]
    )
    told = Standing(model.version, start, end, int(tested.sum()), int(fraud.sum()))
    if told.frauds < FEWEST:
        return told
    scored = Scorer(model.model, model.policy, begun.profiles, begun.confirmed).replay(
        frame, events, recorded=history.recorded(frame), erased=begun.erased, progress=progress
    )
    alert = scored.decision[tested] != Decision.APPROVE
    counts = told.payments, told.frauds, int(alert.sum()), int((alert & fraud).sum())
    return Standing(
        model.version, start, end, *counts, average_precision(fraud, scored.score[tested])
    )
