"""The yardstick for synthetic data: plain rules that can be counted by eye."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from aegis_core.features.geo import haversine_km
from aegis_core.intake.synthetic.difficulty import audit, rule_scores


@pytest.fixture(scope="module")
def history(payments: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    frame, labels = payments
    return frame.merge(labels[["transaction_id", "is_fraud", "scenario"]], on="transaction_id")


def test_rules_do_not_depend_on_the_order_of_rows(history: pd.DataFrame) -> None:
    frame = history.head(5_000)
    shuffled = frame.sample(frac=1, random_state=0)
    plain, other = rule_scores(frame), rule_scores(shuffled)
    back = shuffled.index.argsort()
    for name, scores in plain.items():
        np.testing.assert_allclose(other[name][back], scores, rtol=1e-6, atol=1e-6, err_msg=name)


def test_rules_say_what_can_be_counted_by_eye() -> None:
    times = ["12:00:00", "12:00:40", "12:01:10", "12:01:10", "13:01:10"]
    frame = pd.DataFrame(
        {
            "customer_id": ["a", "a", "a", "b", "a"],
            "ts": pd.to_datetime([f"2026-01-01 {t}" for t in times]),
            "amount": [10.0, 30.0, 200.0, 5.0, 8.0],
            "lat": [0.0, 0.0, 0.0, 50.0, 1.0],
            "lon": [0.0, 0.0, 0.0, 50.0, 0.0],
        }
    )
    scores = rule_scores(frame)
    assert scores["amount / mean"].tolist() == [1.0, 3.0, 10.0, 1.0, 0.1]
    assert scores["count in 1 min"].tolist() == [1.0, 2.0, 2.0, 1.0, 1.0]
    np.testing.assert_allclose(scores["speed"], [0, 0, 0, 0, haversine_km(0, 0, 1, 0)])


def test_a_missing_place_has_no_speed(history: pd.DataFrame) -> None:
    frame = history.head(500).assign(lat=np.nan, lon=np.nan)
    assert not rule_scores(frame)["speed"].any()


def test_rules_and_audit_bear_no_rows_and_no_fraud(history: pd.DataFrame) -> None:
    assert {len(scores) for scores in rule_scores(history.head(0)).values()} == {0}
    assert audit(history.head(100).assign(is_fraud=False)).loc["floor", "all"] == 0


def test_a_scenario_is_judged_against_ordinary_transactions_alone(history: pd.DataFrame) -> None:
    table = audit(history)
    assert list(table.index) == [*rule_scores(history.head(0)), "floor"]
    for name in table.columns.drop("all"):
        of_this = (history["scenario"] == name).sum()
        assert table.loc["floor", name] == of_this / (of_this + (~history["is_fraud"]).sum())
    assert table.drop(index="floor").to_numpy().max() <= 1
