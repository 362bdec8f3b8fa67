"""Who pays with the same card, device, e-mail or address, or at the same merchant: exact counts.

Whoever tries stolen cards tries many of them at one device or one merchant, and each customer sees
one small payment. So the tries of each entity (`schema.ENTITIES`) are kept as they come, and of
each it is counted how many cards came within the last `signals.WINDOWS_S`, beyond what the entity's
own rate explains: customers at a card, cards (or customers, where no card is named) at a device, an
e-mail or an address. At a merchant, where strangers meet, cards that were declined count, while at
least half of all cards there were: a shop always declines some.

When it fails: a merchant whose data tell no declined tries has no view, nor has one where as many
others pay meanwhile; an hour in which a bank declines everything looks like an attack; and in an
hour of more than `MOST_TRIES` tries the oldest are missing.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.features.arrays import Arrays, Floats, Ints, Rows, hashed, rehash, slot_of
from aegis_core.features.kernels import kernel
from aegis_core.features.signals import (
    BURST_FLOOR,
    LONGEST_GAP_US,
    N_WINDOWS,
    PRIOR_RATE,
    RING,
    WINDOWS_S,
)
from aegis_core.features.surprise import poisson_surprise
from aegis_core.schema import DAY_US, ENTITIES
from aegis_core.units.words import ASIDE, DECLINED

MOST_TRIES: Final = 1 << 21
"""Tries that are remembered, of all entities together: 80 MB."""
MOST_ENTITIES: Final = 1 << 20
"""Entities that are remembered; who came longest ago makes room for others."""
N_COUNTS: Final = N_WINDOWS * (1 + len(ENTITIES))
"""Counts of a transaction: of its customer's own, then of its entities, one of each window."""
CARD, MERCHANT = ENTITIES.index("card_id"), ENTITIES.index("merchant_id")

_LONGEST_US = WINDOWS_S[-1] * 1e6
_FAR: Final = 1 << 60  # longer than any time
# Columns of an entity: tries by another card than the one before, the time that these took, the
# newest one's, and the number of the newest among all; of a merchant the first three are of
# declined ones.
_N, _SPAN, _LAST, _HEAD = range(4)
# Columns of a try: its time (below 0: declined), who, with what card, and the number of the one
# before it at the same entity; 0 is none.
_TS, _WHO, _CARD, _BEFORE = range(4)
_ENTITIES, _TRIES, _SHOPS = range(3)


class Sharing(NamedTuple):
    """The tries of the last hour and the usual rates of entities, as flat arrays.

    `keys` and `entities` are an open-addressing table by the hash of kind and value; `tries` a
    ring, in which the try of a number is at the number modulo its length; `counted` how many
    entities there are, how many tries there were, and whether a merchant is among the entities.
    """

    keys: Ints
    entities: Floats
    tries: Ints
    counted: Ints

    @classmethod
    def fresh(cls) -> Sharing:
        """Nobody came yet."""
        return cls(np.full(64, -1, np.int64), np.zeros((64, 4)),
                   np.zeros((64, 4), np.int64), np.zeros(3, np.int64))  # fmt: skip

    def with_room(self, n_entities: int, n_tries: int) -> Sharing:
        """The same with room for so many more of both, as far as they are remembered."""
        keys, entities, tries, counted = self
        needed = 2 * min(int(counted[_ENTITIES]) + n_entities, MOST_ENTITIES)
        if needed > len(keys):
            size = 1 << (needed - 1).bit_length()
            used = keys >= 0
            fresh = np.full(size, -1, np.int64), np.zeros((size, 4))
            rehash(keys[used], entities[used], *fresh)
            keys, entities = fresh
        needed = min(int(counted[_TRIES]) + n_tries, MOST_TRIES)
        if needed > len(tries):
            longer = np.zeros((1 << (needed - 1).bit_length(), 4), np.int64)
            there = np.arange(1, int(counted[_TRIES]) + 1)
            longer[there % len(longer)] = tries[there % len(tries)]
            tries = longer
        return Sharing(keys, entities, tries, counted)

    def drop(self, customer: int) -> None:
        """Forget who made the tries of a customer, by their code."""
        theirs = self.tries[:, _WHO] == customer
        self.tries[theirs, _WHO] = self.tries[theirs, _CARD] = -1


class Keys(NamedTuple):
    """The entities of n transactions: `of` their hashes, shape (n, len(ENTITIES)), −1 for none.

    `card` is what tells cards apart, shape (n,): the hash of the card, or the customer's code. Both
    have no rows where no transaction has an entity that counts; then `n_new` is 0, else the most
    entities that may be new.
    """

    of: Ints
    card: Ints
    n_new: int


NO_KEYS: Final = Keys(np.zeros((0, len(ENTITIES)), np.int64), np.zeros(0, np.int64), 0)


def keys_of(frame: Rows, customer: Ints, role: npt.NDArray[np.int8], shared: Sharing) -> Keys:
    """The entities of transactions, and what tells their cards apart."""
    texts: dict[str, int] = {}
    numbers: dict[int, Any] = {}  # of `texts`, by row; -1 for none
    shops = shared.counted[_SHOPS] > 0 or (role == DECLINED).any()
    for k, name in enumerate(ENTITIES):
        if name in frame and (k != MERCHANT or shops):
            numbers[k] = _numbered(frame[name], name, texts)
    if not texts:
        return NO_KEYS
    hashes = np.full(len(texts) + 1, -1, np.int64)
    hashes[:-1] = hashed(list(texts))
    of = np.full((len(customer), len(ENTITIES)), -1, np.int64)
    for k, places in numbers.items():
        of[:, k] = hashes[places]
    return Keys(of, np.where(of[:, CARD] >= 0, of[:, CARD], customer), len(texts))


def _numbered(column: Any, name: str, texts: dict[str, int]) -> Any:
    """The number of each row's value among `texts`, -1 where it has none; who is new is added."""
    if isinstance(column, list):  # a few live rows
        return [
            -1 if value is None else texts.setdefault(f"{name}:{value}", len(texts))
            for value in column
        ]
    numbers, values = pd.factorize(column)
    first = len(texts)
    texts |= {f"{name}:{value}": first + i for i, value in enumerate(values)}
    return np.where(numbers < 0, -1, numbers + first)


@kernel
def count_cards(
    keys: Ints, entities: Floats, tries: Ints, counted: Ints, of: Ints, customer: int, card: int,
    ts_us: int, role: int, room: Ints, counts: Ints,
) -> None:  # fmt: skip
    """Write how many cards each entity saw within each window, this one's included.

    `of` are the entities of one transaction, and the first four arguments parts of `Sharing`.
    `counts`, of length `N_COUNTS`, has the customer's own before them, which stay. As there, what
    the usual rate explains is 1, and a count ends at `RING`. `room` is of shape (3, RING).
    """
    newest, who, gap, gap_declined = counted[_TRIES], room[0], room[1], room[2]
    counts[N_WINDOWS:] = 1
    if role == ASIDE:
        return
    for k in range(len(of)):
        if of[k] < 0:
            continue
        slot = slot_of(keys, of[k])
        if keys[slot] != of[k] or ts_us - entities[slot, _LAST] > _LONGEST_US:
            continue
        n, steps, at = 0, 0, int(entities[slot, _HEAD])
        mine = customer if k == CARD else card
        while at > 0 and newest - at < len(tries) and steps < RING:
            i = at % len(tries)
            t, steps, at = abs(tries[i, _TS]), steps + 1, tries[i, _BEFORE]
            if ts_us - t > _LONGEST_US:
                break
            other = tries[i, _WHO if k == CARD else _CARD]
            if other < 0 or other == mine or t - ts_us > _LONGEST_US:
                continue
            j = 0
            while j < n and who[j] != other:
                j += 1
            if j == n:
                who[j], gap[j], gap_declined[j], n = other, _FAR, _FAR, n + 1
            gap[j] = min(gap[j], abs(ts_us - t))
            if tries[i, _TS] < 0:
                gap_declined[j] = min(gap_declined[j], abs(ts_us - t))
        first = N_WINDOWS * (1 + k)
        rate = (PRIOR_RATE + entities[slot, _N]) / (PRIOR_RATE * DAY_US + entities[slot, _SPAN])
        for w in range(N_WINDOWS):
            window = WINDOWS_S[w] * 1e6
            n_all, n_declined = 1, 1 if role == DECLINED else 0
            for j in range(n):
                n_all += 1 if gap[j] <= window else 0
                n_declined += 1 if gap_declined[j] <= window else 0
            count = n_all
            if k == MERCHANT:
                count = n_declined if 2 * n_declined >= n_all else 1
            if count > 1 and poisson_surprise(float(count - 1), rate * window) >= BURST_FLOOR:
                counts[first + w] = count


@kernel
def remember_try(
    keys: Ints, entities: Floats, tries: Ints, counted: Ints, of: Ints, customer: int, card: int,
    ts_us: int, role: int, teach: bool,
) -> None:  # fmt: skip
    """Keep a transaction among the tries of its entities; one that was blocked teaches no rate.

    A merchant is known from the first declined try there on.
    """
    if role == ASIDE:
        return
    for k in range(len(of)):
        if of[k] < 0:
            continue
        slot = slot_of(keys, of[k])
        if keys[slot] != of[k]:
            if k == MERCHANT and role != DECLINED:
                continue
            if 2 * counted[_ENTITIES] >= len(keys):
                _make_room(keys, entities, counted)
                slot = slot_of(keys, of[k])
            keys[slot], counted[_ENTITIES] = of[k], counted[_ENTITIES] + 1
            for c in range(entities.shape[1]):
                entities[slot, c] = 0.0
            if k == MERCHANT:
                counted[_SHOPS] = 1
        head, last = int(entities[slot, _HEAD]), entities[slot, _LAST]
        if k != MERCHANT or role == DECLINED:
            entities[slot, _LAST] = max(last, float(ts_us))
        if teach and (k != MERCHANT or role == DECLINED):
            i, mine = head % len(tries), customer if k == CARD else card
            gone = head == 0 or counted[_TRIES] - head >= len(tries)
            if (
                gone or tries[i, _WHO if k == CARD else _CARD] != mine
            ):  # else who tries one card all day had many usual
                entities[slot, _N] += 1.0
            if last > 0:
                entities[slot, _SPAN] += min(max(ts_us - last, 0.0), LONGEST_GAP_US)
        counted[_TRIES] += 1
        i = counted[_TRIES] % len(tries)
        tries[i, _TS] = -ts_us if role == DECLINED else ts_us
        tries[i, _WHO], tries[i, _CARD], tries[i, _BEFORE] = customer, card, head
        entities[slot, _HEAD] = float(counted[_TRIES])


@kernel
def _make_room(keys: Ints, entities: Floats, counted: Ints) -> None:
    """Forget the entities that came longest ago, about half of them."""
    kept = np.full(len(keys), -1, np.int64)
    of_kept = np.zeros(entities.shape)
    least, n = counted[_TRIES] - len(keys) // 4, 0
    for slot in range(len(keys)):
        if keys[slot] >= 0 and entities[slot, _HEAD] > least:
            at = slot_of(kept, keys[slot])
            kept[at], n = keys[slot], n + 1
            for c in range(entities.shape[1]):
                of_kept[at, c] = entities[slot, c]
    for slot in range(len(keys)):
        keys[slot] = kept[slot]
        for c in range(entities.shape[1]):
            entities[slot, c] = of_kept[slot, c]
    counted[_ENTITIES] = n


def sharing(arrays: Arrays) -> Sharing:
    """What was saved as `shared_` and the names of the fields; an older version saved none."""
    names = [f"shared_{name}" for name in Sharing._fields]
    return Sharing(*(arrays[name] for name in names)) if names[0] in arrays else Sharing.fresh()
