"""An exact counter of bursts beside the forest, and the room that it leaves to the score.

Isolation notices what arrives packed together only after a while. From so many transactions of a
customer within one of `signals.WINDOWS_S` on, beyond what the customer's own rate explains, each
goes to review, and from `BLOCKED_AT` times as many on it is blocked, whatever score and budget say.
Likewise from so many cards on at one device, e-mail, address or merchant (`features.entities`),
which no customer sees; but nobody is blocked for what strangers did at the same address or shop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.detection.detector import most_of_one, ranks
from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.entities import N_COUNTS
from aegis_core.features.signals import N_WINDOWS, RING
from aegis_core.schema import ENTITIES

Counts = npt.NDArray[np.integer]

NO_LIMITS: Final = (RING + 2,) * N_WINDOWS
"""Limits that no count of a customer reaches."""
NO_ENTITY_LIMITS: Final = (RING + 2,) * (N_COUNTS - N_WINDOWS)
"""The same of entities."""
FEWEST_CARDS: Final = (4, 5, 6, 8)
"""`FEWEST_IN_A_BURST` of the cards at one entity: a family has few."""
CODES: Final = {name: f"{name.removesuffix('_id').upper()}-LIMIT" for name in ENTITIES}
"""The reason code of an alert that the cards at an entity raised."""
BLOCKING: Final = ("card_id", "device_id", "email")
"""Entities of which too many cards are blocked: who holds one answers for it."""
OF_A_THRESHOLD: Final = 0.03
"""Part of what lies above a threshold that counts of a customer at most, so that ten who agree do
not fill the budget."""
FEWEST_OF_A_THRESHOLD: Final = 10
"""So many of a customer's count in any case."""
BURST_CUSTOMERS: Final = 0.03
"""Share of customers whose most say nothing of a limit: they may have had a burst."""
MANY_CUSTOMERS: Final = 0.2
"""Share of customers from whose most to that of `BURST_CUSTOMERS` the tail is taken."""
DAYS_TO_A_LIMIT: Final = 5_000.0
"""Days in which an ordinary customer reaches a limit about once."""
FEWEST_CUSTOMERS: Final = 2
"""So many say nothing in any case, where there are more."""
FEWEST_IN_A_BURST: Final = (5, 8, 12, 15)
"""In each of `signals.WINDOWS_S`; ordinary life may bring a few purchases at once."""
BLOCKED_AT: Final = 2
"""Times a limit that a count is blocked at, whatever the score."""
EPISODE: Final = np.timedelta64(10, "m")
EPISODE_ROWS: Final = 3
"""Transactions of a customer with less than `EPISODE` between them count for this many at most
where thresholds are taken from them: no attack raises one by its length."""


def burst_limits(
    counts: Counts, frame: pd.DataFrame, fewest: tuple[int, ...] = FEWEST_IN_A_BURST
) -> tuple[int, ...]:
    """Limits that ordinary customers reach once in `DAYS_TO_A_LIMIT` days, one a window.

    What all but `BURST_CUSTOMERS` of the customers ever had, and an exponential tail from there: a
    burst makes many transactions and few customers suspicious, so that bursts among the training
    data hardly move a share of customers. When it fails: where more customers than that had one,
    the limit rises to the size of their bursts. A limit that the counter cannot reach is none.

    Parameters
    ----------
    counts : of shape (n, N_WINDOWS or more), see `scoring.Scored`.
    frame : `customer_id` and `ts` of each.
    fewest : that a limit is at least.

    >>> counts = np.ones((1000, N_WINDOWS), int)
    >>> counts[:500] = 40
    >>> customer = ["busy"] * 500 + [f"c{i}" for i in range(500)]
    >>> burst_limits(counts, pd.DataFrame({"customer_id": customer, "ts": pd.Timestamp(0)}))
    (5, 8, 12, 15)
    """
    if not len(frame):
        return NO_LIMITS
    first, last = np.quantile(frame.ts.to_numpy("datetime64[us]").astype(np.int64), (0.001, 0.999))
    days = max(float(last - first) / 86_400e6, 1.0)
    most = pd.DataFrame(counts[:, :N_WINDOWS]).groupby(frame.customer_id.to_numpy()).max()
    aside = min(max(FEWEST_CUSTOMERS, int(BURST_CUSTOMERS * len(most))), len(most) - 1)
    many = min(max(aside, int(MANY_CUSTOMERS * len(most))), len(most) - 1)
    beyond = math.log(max(BURST_CUSTOMERS * DAYS_TO_A_LIMIT / days, 1.0))
    limits = []
    for window, least in zip(most, fewest, strict=True):
        ranked = np.sort(most[window].to_numpy())[::-1]
        fall = (ranked[aside] - ranked[many]) / math.log(MANY_CUSTOMERS / BURST_CUSTOMERS)
        limit = max(least, math.ceil(ranked[aside] + max(fall, 0.5) * beyond))
        limits.append(limit if limit <= RING + 1 else RING + 2)
    return tuple(limits)


def entity_limits(counts: Counts, frame: pd.DataFrame, entities: Sequence[str]) -> tuple[int, ...]:
    """`burst_limits` of the cards at each of `ENTITIES`, which ordinary ones reach as rarely.

    One that is not among `entities`, or that `frame` tells nothing of, has none.

    Parameters
    ----------
    counts : of shape (n, N_COUNTS).
    frame : the entities and `ts` of each.
    """
    limits: list[int] = []
    for k, name in enumerate(ENTITIES):
        if name not in entities or name not in frame:
            limits += NO_LIMITS
            continue
        rows = np.flatnonzero(frame[name].notna())
        of = slice(N_WINDOWS * (1 + k), N_WINDOWS * (2 + k))
        told = frame.iloc[rows]
        whose = pd.DataFrame({"customer_id": told[name], "ts": told.ts})
        limits += burst_limits(counts[rows, of], whose, FEWEST_CARDS)
    return tuple(limits)


def episode_of(counts: Counts, limits: npt.ArrayLike, frame: pd.DataFrame) -> pd.Series:
    """Whose each row is where an attack counts once, shape (n,): the customer's.

    Where the cards of an entity reach their limit, it is the entity's, whose they all are.
    """
    whose, limits = frame.customer_id.astype(object), np.asarray(limits)
    told = [(k, name) for k, name in enumerate(ENTITIES) if name in frame]
    for k, name in reversed(told if len(limits) > N_WINDOWS else []):
        of = slice(N_WINDOWS * (1 + k), N_WINDOWS * (2 + k))
        met = meets(counts[:, of], limits[of])
        if met.any():
            whose = whose.mask(met, f"{name} " + frame[name].astype(str))
    return whose


def thinned(customer: pd.Series, ts: pd.Series, worth: Floats) -> npt.NDArray[np.bool_]:
    """Which rows say what is ordinary, shape (n,): of each episode `EPISODE_ROWS` at most.

    Parameters
    ----------
    customer, ts : of shape (n,); an episode is what a customer does without an `EPISODE` between.
    worth : of shape (n,); the highest of an episode are kept, of equal ones the first.

    >>> ts = pd.Series(pd.date_range("2026-01-01", periods=6, freq="min"))
    >>> thinned(pd.Series(["a"] * 6), ts, np.array([1.0, 0, 3, 2, 0, 0])).tolist()
    [True, False, True, True, False, False]
    """
    code = pd.factorize(customer)[0]
    time = ts.to_numpy("datetime64[us]")
    order = np.lexsort((time, code))
    begins = np.ones(len(order), bool)
    begins[1:] = (np.diff(code[order]) != 0) | (np.diff(time[order]) >= EPISODE)
    first = np.flatnonzero(begins)
    size = np.diff(np.append(first, len(order)))
    episode = np.repeat(np.arange(len(first)), size)
    ranked = order[np.lexsort((-worth[order], episode))]
    out = np.zeros(len(order), bool)
    out[ranked[np.arange(len(order)) - first[episode] < EPISODE_ROWS]] = True
    return out


def meets(counts: Counts, limits: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Where one of the counts reaches its limit, shape (n,)."""
    return np.asarray((counts >= np.asarray(limits)).any(axis=1), bool)


def most_above(room: float, n_customers: int) -> float:
    """How many alerts of one customer a threshold with so much `room` counts."""
    return most_of_one(room, n_customers, OF_A_THRESHOLD, FEWEST_OF_A_THRESHOLD)


@dataclass(frozen=True)
class Counter:
    """An exact counter of bursts beside a model, and the thresholds that leave it room.

    Parameters
    ----------
    limits : see `burst_limits`, and after them `entity_limits`.
    share : of the traffic that the thresholds are taken from: what the counter alerts on.
    others : scores of the rest of it, ascending.
    rank : see `ranks`, of each of these.
    n : transactions of all of it.
    n_customers : of all of it.
    """

    limits: tuple[int, ...]
    share: float
    others: Floats
    rank: Ints
    n: int
    n_customers: int

    @classmethod
    def beside(
        cls, limits: tuple[int, ...], counts: Counts, score: Floats, frame: pd.DataFrame
    ) -> Counter:
        """The counter with `limits`, and traffic of which each episode counts by its highest.

        `frame` has the `customer_id`, the entities and `ts` of these counts and scores.
        """
        kept = thinned(episode_of(counts, limits, frame), frame.ts, score)
        met = meets(counts[kept, : len(limits)], limits)
        share = float(met.sum() / len(score)) if len(score) else 0.0
        others, whose = score[kept][~met], frame.customer_id[kept][~met]
        order = np.argsort(others, kind="stable")
        rank = ranks(whose, others)[order]
        return cls(limits, share, others[order], rank, len(score), frame.customer_id.nunique())

    def threshold(self, share: float) -> float:
        """Score such that what lies strictly above it, or is counted, is at most `share`.

        A counter that takes more than half of `share` leaves the score the other half. Of what
        lies above it no customer's part counts for more than `most_above`.
        """
        room = int(max(share - self.share, share / 2) * self.n + 1e-9)
        counts = self.others[self.rank < most_above(room, self.n_customers)]
        return float(counts[max(0, len(counts) - 1 - room)])
