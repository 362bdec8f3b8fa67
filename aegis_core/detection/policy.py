"""From a score to a decision, within an alert budget."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.detection.counter import (
    BLOCKED_AT,
    BLOCKING,
    NO_ENTITY_LIMITS,
    NO_LIMITS,
    Counter,
    Counts,
    meets,
)
from aegis_core.detection.detector import Calibrated
from aegis_core.errors import InputError, NotReady
from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.signals import N_WINDOWS
from aegis_core.schema import ENTITIES, Decision

_BY_COUNT: Final = (Decision.REVIEW, Decision.BLOCK)
_DRAWN_BY: Final = "aegis:audit:draw"  # the key of the draw, 16 bytes


@dataclass(frozen=True)
class Policy:
    """Thresholds of an alert budget.

    Parameters
    ----------
    review_above, block_above :
        Scores above which a transaction is reviewed and blocked; `block_above` is not lower.
    alert_budget : share of transactions that may become alerts (reviewed or blocked), in (0, 1).
    audit_share :
        Share of the approved transactions that are drawn for review all the same, in [0, 1].
    burst_limits :
        For each of `signals.WINDOWS_S`, how many transactions of a customer within it go to
        review whatever their score and the budget, and `BLOCKED_AT` times as many are blocked: an
        exact counter beside the forest, which notices what arrives packed together only after a
        while. See `burst_limits`.
    entity_limits :
        The same of the cards at each of `schema.ENTITIES`, one after another, of which only what
        one party holds is blocked (`BLOCKING`). See `entity_limits`.
    """

    review_above: float
    block_above: float
    alert_budget: float
    audit_share: float = 0.001
    burst_limits: tuple[int, ...] = NO_LIMITS
    entity_limits: tuple[int, ...] = NO_ENTITY_LIMITS

    @classmethod
    def from_budget(
        cls,
        model: Calibrated,
        alert_budget: float = 0.005,
        block_share: float = 0.2,
        audit_share: float = 0.001,
        counter: Counter | None = None,
    ) -> Policy:
        """Thresholds that keep the traffic that `model` was calibrated on within `alert_budget`.

        Of the alerts, the `block_share` with the highest scores are blocked. A larger budget never
        raises a threshold. A counter takes its part of the budget first, half of it at most.
        """
        if not 0 < alert_budget < 1:
            raise InputError(f"alert_budget is a share in (0, 1), not {alert_budget}.")
        if not 0 <= block_share <= 1:
            raise InputError(f"block_share is a share in [0, 1], not {block_share}.")
        if not 0 <= audit_share <= 1:
            raise InputError(f"audit_share is a share in [0, 1], not {audit_share}.")
        review_above = (counter or model).threshold(alert_budget)
        block_above = model.threshold(alert_budget * block_share) if block_share else math.inf
        if block_share == 1:  # all alerts, by the threshold that makes them
            block_above = review_above
        return cls(
            review_above,
            max(block_above, review_above),
            alert_budget,
            audit_share,
            counter.limits[:N_WINDOWS] if counter else NO_LIMITS,
            (counter.limits[N_WINDOWS:] if counter else ()) or NO_ENTITY_LIMITS,
        )

    def decide(self, score: Floats, counts: Counts | None = None) -> npt.NDArray[np.int8]:
        """Decisions as values of `schema.Decision`, shape (n,).

        Parameters
        ----------
        counts :
            Of shape (n, N_COUNTS), or of the customers' alone (n, N_WINDOWS), see `scoring.Scored`;
            without them nothing is counted.

        >>> Policy(0.6, 0.8, 0.01).decide(np.array([0.5, 0.7, 0.9])).tolist()
        [0, 1, 2]
        """
        out = (score > self.review_above).astype(np.int8)
        out += (score > self.block_above).astype(np.int8)
        if counts is not None:
            for limits, least in zip(self.limits, _BY_COUNT, strict=True):
                met = meets(counts, limits[: counts.shape[1]])
                out[met] = np.maximum(out[met], least)
        return out

    @cached_property
    def limits(self) -> Ints:
        """Counts from which a transaction is reviewed and blocked, of shape (2, N_COUNTS).

        A policy that blocks nothing by its score blocks nothing by its count.
        """
        reviewed = np.array([*self.burst_limits, *self.entity_limits])
        held = np.repeat([True, *(name in BLOCKING for name in ENTITIES)], N_WINDOWS)
        blocks = held & math.isfinite(self.block_above)
        return np.array([reviewed, BLOCKED_AT * np.where(blocks, reviewed, NO_LIMITS[0])])

    def counts_as_burst(self, counts: Counts) -> npt.NDArray[np.bool_]:
        """Where the exact counter alone raises an alert, shape (n,)."""
        return meets(counts, self.limits[0, : counts.shape[1]])

    def save(self, folder: Path) -> None:
        """Write `policy.json` into `folder`; of entities by their names, where they have limits."""
        parts = np.reshape(self.entity_limits, (len(ENTITIES), N_WINDOWS)).tolist()
        each = zip(ENTITIES, map(tuple, parts), strict=True)
        told = {name: limits for name, limits in each if limits != NO_LIMITS}
        written = asdict(self) | {"entity_limits": told}
        (folder / "policy.json").write_text(json.dumps(written, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """Read what `save` wrote.

        Raises
        ------
        NotReady : The file is not there, or not a policy.
        """
        try:
            written = json.loads((folder / "policy.json").read_text())
            entities = written.pop("entity_limits", {})
            limits = [written.pop("burst_limits", NO_LIMITS),
                      *(entities.get(name, NO_LIMITS) for name in ENTITIES)]  # fmt: skip
            if any(len(of) != N_WINDOWS for of in limits):
                raise ValueError("it counts other windows")
            own, *others = (tuple(map(int, of)) for of in limits)
            given: dict[str, Any] = {name: float(value) for name, value in written.items()}
            return cls(**given, burst_limits=own, entity_limits=tuple(chain(*others)))
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise NotReady(
                f"The policy in {folder} cannot be read ({e}). Train with `aegis run train`."
            ) from None


def inclusion(
    decision: npt.NDArray[np.int8], transaction_id: npt.ArrayLike, audit_share: float
) -> Floats:
    """Probability with which each transaction goes to review, NaN where nobody is asked.

    Alerts always go; of the approved, `audit_share` are drawn by a hash of their id, so that a
    replay or a repeated request draws the same ones.

    >>> inclusion(np.array([2, 0], np.int8), ["a", "b"], 1.0).tolist()
    [1.0, 1.0]
    """
    out = np.where(decision != Decision.APPROVE, 1.0, np.nan)
    if audit_share > 0 and len(out):
        ids = np.asarray(transaction_id, object)
        drawn = pd.util.hash_array(ids, hash_key=_DRAWN_BY, categorize=False) / 2.0**64
        out[(drawn < audit_share) & np.isnan(out)] = audit_share
    return out
