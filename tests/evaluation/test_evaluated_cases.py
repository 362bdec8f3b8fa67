"""Single transactions: what is told of them is true, and a known cause is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from aegis_core.evaluation import Evaluation, cases, evaluate
from aegis_core.evaluation.splits import prequential
from aegis_core.schema import Decision

Payments = tuple[pd.DataFrame, pd.DataFrame]
FOLDS = prequential("2026-01-09", train_days=10, delay_days=3, test_days=7, folds=2)
DAY = pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def found(payments: Payments) -> Evaluation:
    return evaluate(*payments, FOLDS, alert_budget=0.02)


def drawn(found: Evaluation, n: int, seed: int = 0) -> pd.DataFrame:
    return cases.drawn(found.scores, found.evidence, n, seed)


def test_cases_are_what_their_outcome_says(found: Evaluation) -> None:
    shown = drawn(found, 4)
    assert list(shown.columns) == [
        *("outcome", "transaction_id", "customer_id", "ts", "amount"),
        *("scenario", "planted", "score", "reasons"),
    ]
    both = shown.merge(found.scores, on="transaction_id", suffixes=("", "_"))
    alerted = both.decision > 0
    said = np.select([both.is_fraud & alerted, both.is_fraud], ["caught", "missed"], "false alarm")
    assert (both.outcome == said).all()
    assert both.outcome.value_counts().tolist() == [4, 4, 4]
    assert not shown.isna().any(axis=None)


def test_alerts_have_reasons_and_a_missed_fraud_may_have_none(found: Evaluation) -> None:
    shown = drawn(found, 30, seed=3)
    alerts = shown[shown.outcome != "missed"]
    assert alerts.reasons.str.len().min() > 10
    assert not alerts.reasons.eq("nothing unusual").any()
    missed = shown[shown.outcome == "missed"].reasons
    assert "nothing unusual" in set(missed)
    assert (missed != "").all()
    assert not shown.reasons.str.contains("nan").any()


def test_the_planted_factor_is_that_of_the_scenario(found: Evaluation) -> None:
    shown = drawn(found, 40)
    planted = dict(zip(shown.scenario, shown.planted, strict=True))
    assert planted["spike"] == "amount"
    assert planted["night"] == "hour"
    assert set(planted.values()) <= {*cases.PLANTED.values(), ""}


def test_a_customer_comes_twice_only_where_there_are_too_few(found: Evaluation) -> None:
    s = found.scores
    missed = s[s.is_fraud & (s.decision == Decision.APPROVE)]
    for n in (3, 10, 50):
        shown = drawn(found, n).query("outcome == 'missed'")
        assert len(shown) == min(n, len(missed))
        assert shown.customer_id.nunique() == min(n, missed.customer_id.nunique())


def test_cases_are_drawn_by_their_seed(found: Evaluation) -> None:
    pd.testing.assert_frame_equal(drawn(found, 5, 1), drawn(found, 5, 1))
    assert not drawn(found, 5, 1).equals(drawn(found, 5, 2))


def test_evidence_is_kept_of_alerts_and_frauds_alone(found: Evaluation) -> None:
    s = found.scores
    needed = s.seq[s.is_fraud | (s.decision != Decision.APPROVE)]
    assert set(needed) <= set(found.evidence.index)
    assert len(found.evidence) < 1.1 * len(needed)
    assert found.evidence.index.is_unique


def test_contributions_that_are_kept_add_up_to_the_score(found: Evaluation) -> None:
    s = found.scores.set_index("seq").loc[found.evidence.index]
    parts = found.evidence.filter(like="contribution:").sum(axis=1)
    base = s.fold.map({i: d.base_ for i, d in enumerate(found.detectors)})
    assert (parts + base).to_numpy() == pytest.approx(s.forest.to_numpy())


# --- histories -----------------------------------------------------------------------------------


def test_a_history_holds_its_case_once_and_lies_around_it(
    payments: Payments, found: Evaluation
) -> None:
    shown = drawn(found, 3)
    told = cases.histories(payments[0], shown, found.frauds, 8)
    assert list(told.columns) == [
        *("case", "outcome", "title", "ts", "amount", "is_case", "is_fraud"),
    ]  # fmt: skip
    assert told.groupby("case").is_case.sum().eq(1).all()
    assert set(told.case) == set(shown.transaction_id)
    owner = shown.set_index("transaction_id").customer_id
    frauds = set(payments[1].transaction_id[payments[1].is_fraud])
    for case, part in told.groupby("case"):
        at = part.ts[part.is_case].iloc[0]
        assert part.ts.is_monotonic_increasing
        assert part.ts.between(at - 8 * DAY, at + DAY).all()
        assert len(part) < cases.MOST_POINTS, "all of it is told"
        own = payments[0][payments[0].customer_id == owner[case]]
        assert len(part) == own.ts.between(at - 8 * DAY, at + DAY).sum()
        assert (
            part.is_fraud.sum()
            == own.transaction_id[own.ts.between(at - 8 * DAY, at + DAY)].isin(frauds).sum()
        )


def test_of_a_long_history_the_closest_are_told() -> None:
    ts = pd.date_range("2026-01-01", periods=2000, freq="10min").as_unit("us")
    frame = pd.DataFrame({"customer_id": "c", "ts": ts, "amount": 1.0})
    frame["transaction_id"] = [f"t{i}" for i in range(2000)]
    case = pd.DataFrame(
        {"outcome": ["missed"], "transaction_id": ["t1000"], "customer_id": ["c"], "scenario": [""]}
    )
    told = cases.histories(frame, case, pd.Index([]), 60)
    assert len(told) == cases.MOST_POINTS
    assert told.is_case.sum() == 1
    assert (told.ts - ts[1000]).abs().max() <= pd.Timedelta(minutes=1560)
    assert cases.histories(frame, case.head(0), pd.Index([]), 60).empty


# --- a known cause -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> Evaluation:
    """Sixty customers of regular habits, and frauds that differ in one thing each."""
    rng = np.random.default_rng(0)
    n_days, start = 40, pd.Timestamp("2026-01-01")
    rows = []
    for c in range(60):
        lat, lon = 48 + rng.uniform(0, 4), 2 + rng.uniform(0, 10)
        for d in range(n_days):
            for hour in np.sort(rng.uniform(8, 20, 3)):
                at = start + d * DAY + pd.Timedelta(hours=hour)
                rows.append((f"c{c}", at, 20 * np.exp(rng.normal(0, 0.3)), lat, lon, None))
        usual = start + (30 + c % 7) * DAY
        noon = max(t for who, t, *_ in rows[-3 * n_days :] if t < usual + DAY)
        kind = ("spike", "travel", "night", "burst")[c % 4]
        if kind == "spike":
            rows.append((f"c{c}", noon + pd.Timedelta(minutes=40), 900.0, lat, lon, kind))
        elif kind == "travel":
            rows.append((f"c{c}", noon + pd.Timedelta(minutes=40), 20.0, lat, lon + 90, kind))
        elif kind == "night":
            rows.append((f"c{c}", usual + pd.Timedelta(hours=2), 20.0, lat, lon, kind))
        else:
            rows += [
                (f"c{c}", noon + pd.Timedelta(seconds=1200 + i), 20.0, lat, lon, kind)
                for i in range(30)
            ]
    columns = ["customer_id", "ts", "amount", "lat", "lon", "scenario"]
    frame = pd.DataFrame(rows, columns=columns).sort_values("ts", ignore_index=True)
    frame = frame.assign(
        seq=range(len(frame)), transaction_id=[f"t{i}" for i in range(len(frame))],
        ts=frame.ts.astype("datetime64[us]"), currency="EUR", merchant_id="m", category="food",
    )  # fmt: skip
    labels = frame[["transaction_id", "scenario"]].assign(
        is_fraud=frame.scenario.notna(), known_at=frame.ts + 2 * DAY
    )
    folds = prequential("2026-01-08", train_days=20, delay_days=3, test_days=7, folds=1)
    return evaluate(frame.drop(columns="scenario"), labels, folds, alert_budget=0.02)


def test_the_first_reason_names_the_only_cause_there_is(planted: Evaluation) -> None:
    table = cases.named(planted.scores, planted.evidence).set_index("scenario")
    assert set(table.index) == set(cases.PLANTED)
    assert (table.share >= 0.9).all()
    assert (table.named <= table.told).all()
    assert (table.told <= table.caught).all()
    recall = planted.recall().set_index("scenario").recall
    assert (recall >= 0.8).all()
    assert f"{table.named.sum():,} of {table.caught.sum():,} caught" in cases.named_summary(
        table.reset_index()
    )


def test_where_nothing_was_planted_nothing_is_named(found: Evaluation) -> None:
    table = cases.named(found.scores.head(0), found.evidence)
    assert list(table.columns) == ["scenario", "caught", "named", "share", "told"]
    assert table.empty
    assert cases.named_summary(table) == "No fraud with a planted factor was caught."
