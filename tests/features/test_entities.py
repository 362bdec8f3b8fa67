"""How many cards an entity saw: exact within an hour, whoever holds it, and bounded in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aegis_core.detection.scoring import Scorer
from aegis_core.features.entities import N_COUNTS, Sharing, count_cards, remember_try
from aegis_core.features.profiles import Profiles
from aegis_core.features.signals import BURST_FLOOR, N_WINDOWS, PRIOR_RATE, RING, WINDOWS_S
from aegis_core.features.surprise import poisson_surprise
from aegis_core.schema import DAY_US, ENTITIES
from aegis_core.units.words import DECLINED, PAYMENT

NOON = pd.Timestamp("2026-03-01 12:00")


def tries(seconds: Any, **columns: Any) -> pd.DataFrame:
    """Small payments of customers of their own, so many seconds after noon."""
    n = len(seconds)
    usual = {"customer_id": [f"c{i}" for i in range(n)], "amount": 2.0, "status": None}
    ts = (NOON + pd.to_timedelta(seconds, unit="s")).astype("datetime64[us]")
    frame = pd.DataFrame({"transaction_id": [f"t{i}" for i in range(n)], "ts": ts})
    return frame.assign(seq=range(n), **usual | columns)


def counts(frame: pd.DataFrame, entity: str, scorer: Scorer | None = None) -> np.ndarray:
    """What an entity of each row counted, of shape (n, N_WINDOWS)."""
    first = N_WINDOWS * (1 + ENTITIES.index(entity))
    return (scorer or Scorer()).run(frame, signals=True).counts[:, first : first + N_WINDOWS]


def by_hand(frame: pd.DataFrame, entity: str) -> np.ndarray:
    """The same from what the module says, pair by pair."""
    out, ts = np.ones((len(frame), N_WINDOWS), int), frame.ts.astype(np.int64).tolist()
    card = [
        c if isinstance(c, str) else who
        for c, who in zip(frame.card_id, frame.customer_id, strict=True)
    ]
    mine = frame.customer_id.tolist() if entity == "card_id" else card
    declined = (frame.status == "declined").tolist()
    known: dict[str, list[int]] = {}
    usual: dict[str, list[float]] = {}
    shop = entity == "merchant_id"
    for i, value in enumerate(frame[entity]):
        if not isinstance(value, str):
            continue
        before = known.get(value, [])[-RING:]
        n, span, last = usual.setdefault(value, [0.0, 0.0, 0.0])
        rate = (PRIOR_RATE + n) / (PRIOR_RATE * DAY_US + span)
        for w, window in enumerate(WINDOWS_S):
            near = [j for j in before if abs(ts[i] - ts[j]) <= window * 1e6 and mine[j] != mine[i]]
            count = 1 + len({mine[j] for j in near})
            if shop:
                refused = len({mine[j] for j in near if declined[j]}) + declined[i]
                count = refused if 2 * refused >= count else 1
            if count > 1 and poisson_surprise(count - 1.0, rate * window * 1e6) >= BURST_FLOOR:
                out[i, w] = count
        if not shop or declined[i] or before:
            if not shop or declined[i]:
                other = not before or mine[before[-1]] != mine[i]
                gap = min(max(ts[i] - last, 0.0), 14.0 * DAY_US) if last else 0.0
                usual[value] = [n + other, span + gap, max(last, ts[i])]
            known.setdefault(value, []).append(i)
    return out


def random_tries(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    gaps = rng.choice([0.0, 0.3, 5.0, 400.0, 5_000.0], n, p=[0.1, 0.5, 0.3, 0.07, 0.03])

    def some(prefix: str, most: int, share: float) -> np.ndarray:
        values = np.array([f"{prefix}{k}" for k in rng.integers(0, most, n)], object)
        return np.where(rng.random(n) < share, values, None)

    return tries(
        np.cumsum(gaps),
        customer_id=some("c", 30, 1.0),
        card_id=some("k", 12, 0.5),
        device_id=some("d", 4, 0.6),
        ip=some("i", 2, 0.9),
        merchant_id=some("m", 3, 0.9),
        status=np.where(rng.random(n) < 0.4, "declined", None),
    )


@pytest.mark.parametrize("entity", ["card_id", "device_id", "ip", "merchant_id"])
def test_cards_are_counted_exactly(entity: str) -> None:
    frame = random_tries(400, seed=3)
    assert np.array_equal(counts(frame, entity), by_hand(frame, entity))
    assert counts(frame, entity).max() > 5


def test_how_a_stream_is_cut_or_kept_in_between_changes_no_count(tmp_path: Path) -> None:
    frame, scorer = random_tries(300, seed=5), Scorer()
    whole = Scorer().run(frame, signals=True).counts
    parts = []
    for start in range(0, 300, 37):
        parts.append(scorer.run(frame.iloc[start : start + 37], signals=True).counts)
        scorer.profiles.save(tmp_path / "profiles.npz")
        scorer = Scorer(profiles=Profiles.load(tmp_path / "profiles.npz").copy())
    assert np.array_equal(np.concatenate(parts), whole)


def test_who_has_no_e_mail_shares_none() -> None:
    frame = tries(range(4), email=["a@example.org", "a@example.org", None, None])
    assert counts(frame, "email")[:, 0].tolist() == [1, 2, 1, 1]


def test_many_who_pay_at_a_shop_are_no_attack_and_many_who_are_declined_are() -> None:
    status = np.where(np.arange(60) % 20 == 0, "declined", None)
    sale = tries(np.arange(60), merchant_id="m", status=status)
    assert counts(sale, "merchant_id").max() == 1
    busy = tries(np.arange(0, 600, 0.1), merchant_id="m", status=np.where(
        np.random.default_rng(0).random(6_000) < 0.1, "declined", None))  # fmt: skip
    assert (counts(busy, "merchant_id") >= 4).sum() == 0, "one in ten is always declined"
    attack = sale.assign(status=np.where(np.arange(60) % 7, "declined", None))
    found = counts(attack, "merchant_id")
    assert found[59, 1] > 30
    assert found[56, 1] > 30, "one that was not declined, while most are"


def test_what_is_usual_at_an_address_says_nothing() -> None:
    days = np.arange(0, 20 * 86_400, 120)  # an office, somebody else every two minutes
    scorer, who = Scorer(), [f"c{i % 97}" for i in range(len(days))]
    scorer.run(tries(days, ip="office", customer_id=who))
    later = tries(days[:200] + 20 * 86_400, ip="office", customer_id=who[:200])
    assert counts(later, "ip", scorer).max() == 1
    attack = tries(20 * 86_400 + 30_000 + np.arange(40), ip="office")
    assert counts(attack, "ip", scorer).max() > 30


def test_one_card_tried_all_day_makes_many_cards_no_usual_thing() -> None:
    scorer = Scorer()
    scorer.run(tries(np.arange(0, 86_400, 20), device_id="d", customer_id="one"))
    assert counts(tries(90_000 + np.arange(20), device_id="d"), "device_id", scorer).max() == 20


def test_nobody_is_counted_who_was_erased() -> None:
    scorer = Scorer()
    scorer.run(tries(np.arange(6), device_id="d"))
    scorer.profiles.drop("c2", [])
    last = tries([7], device_id="d", customer_id="new")
    assert counts(last, "device_id", scorer)[0, 1] == 6


def test_what_comes_without_a_time_of_day_is_no_burst() -> None:
    frame = tries([0] * 30, device_id="d", clock="date")
    assert counts(frame, "device_id").max() == 1


def test_who_came_longest_ago_makes_room() -> None:
    shared, room = Sharing.fresh(), np.empty((3, RING), np.int64)
    assert len(shared.keys) == len(shared.tries) == 64
    told, of = np.ones(N_COUNTS, np.int64), np.full(len(ENTITIES), -1)
    for i in range(1_000):
        of[1] = 7 if i % 5 == 0 else 1_000 + i  # one device comes again and again
        remember_try(*shared, of, i, i, 1_000_000 * i, PAYMENT, True)
    assert shared.counted[0] <= 32
    of[1] = 7
    count_cards(*shared, of, 2_000, 2_000, 1_000_000_000, DECLINED, room, told)
    assert told[N_WINDOWS * 2 : N_WINDOWS * 3].tolist() == [3, 13, 13, 13], "the ring has 64 tries"
