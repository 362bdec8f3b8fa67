"""What thresholds promised and what came: the sums agree, and a perfect order is never beaten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aegis_core.evaluation import Evaluation, budgets, bursts, calibration, cases, evaluate
from aegis_core.evaluation.splits import prequential
from aegis_core.schema import Decision

Payments = tuple[pd.DataFrame, pd.DataFrame]
FOLDS = prequential("2026-01-09", train_days=10, delay_days=3, test_days=7, folds=2)
WEEK = prequential("2026-01-01", train_days=7, delay_days=0, test_days=7, folds=1)
BLOCK, REVIEW, APPROVE = Decision.BLOCK, Decision.REVIEW, Decision.APPROVE


@pytest.fixture(scope="module")
def found(payments: Payments) -> Evaluation:
    return evaluate(*payments, FOLDS, alert_budget=0.02, learner=True)


class Fixed:
    """A model whose threshold of a share is one minus it."""

    def threshold(self, share: float) -> float:
        return 1 - share


def scores(*rows: tuple[object, ...]) -> pd.DataFrame:
    """Rows of customer, seconds after the test began, fraud, scenario, decision and counter."""
    names = ["customer_id", "second", "is_fraud", "scenario", "decision", "counted"]
    out = pd.DataFrame(rows, columns=names).astype({"is_fraud": bool, "decision": np.int8})
    ts = WEEK[0].test_from + pd.to_timedelta(out.pop("second"), unit="s")
    return out.assign(fold=0, ts=ts.astype("datetime64[us]"), seq=range(len(out)), amount=10.0)


# --- forecast ------------------------------------------------------------------------------------


def test_a_forecast_speaks_of_the_training_days_and_is_judged_on_the_test_days(
    found: Evaluation, payments: Payments
) -> None:
    table = calibration.forecast(found.days)
    assert list(table.columns) == [
        *("fold", "kind", "mean", "low", "high", "came", "days", "inside"),
    ]  # fmt: skip
    assert table.kind.tolist() == ["alerts", "blocks"] * 2
    for row in table.itertuples():
        own = found.days[found.days.fold == row.fold]
        trained = own[own.window == "train"]
        assert row.mean == pytest.approx(trained[row.kind].mean())
        assert len(trained) == 10
        assert row.low <= row.mean <= row.high
        tested = found.scores[found.scores.fold == row.fold]
        chosen = tested.decision != APPROVE if row.kind == "alerts" else tested.decision == BLOCK
        assert row.came * row.days == pytest.approx(chosen.sum())
        assert 0 <= row.inside <= row.days == 7
    share = table["mean"][table.kind == "alerts"] * 10 / found.n_train
    frame, labels = payments
    burst = labels.set_index("transaction_id").scenario.reindex(frame.transaction_id) == "burst"
    bursts = [  # they are alerts whatever the budget
        burst.to_numpy()[(frame.ts >= f.train_from) & (frame.ts < f.train_to)].mean() for f in FOLDS
    ]
    allowed = 1.15 * (0.02 + np.array(bursts))  # of a customer no more than ten alerts count
    assert (share.to_numpy() <= allowed).all(), "the budget holds where it was set"
    assert f"of {14} test days" in calibration.forecast_summary(table)


def test_customers_left_out_of_the_test_still_cost_reviews(
    payments: Payments, found: Evaluation
) -> None:
    left = evaluate(*payments, FOLDS, alert_budget=0.02, exclude_known=True)
    assert len(left.scores) < len(found.scores)
    promised, given = calibration.forecast(left.days), calibration.forecast(found.days)
    pd.testing.assert_frame_equal(promised, given)


# --- reliability ---------------------------------------------------------------------------------


def test_a_percentile_that_holds_comes_as_promised() -> None:
    risk = np.linspace(0, 100, 100_001)
    table = calibration.reliability(pd.DataFrame({"fold": 0, "risk": risk, "is_fraud": False}))
    assert table.risk.tolist() == list(calibration.RISKS)
    assert table.came.to_numpy() == pytest.approx(table.promised.to_numpy(), abs=1e-4)
    assert (table.n == 100_001).all()


def test_reliability_looks_at_ordinary_transactions_alone(found: Evaluation) -> None:
    table = calibration.reliability(found.scores)
    ordinary = found.scores[~found.scores.is_fraud]
    for fold, part in table.groupby("fold"):
        own = ordinary[ordinary.fold == fold]
        assert (part.n == len(own)).all()
        assert part.came.is_monotonic_decreasing
        assert part.came.iloc[2] == pytest.approx((own.risk > 90).mean())
        assert part.came.iloc[0] == pytest.approx(0.5, abs=0.1)


# --- budgets -------------------------------------------------------------------------------------


def test_a_larger_budget_catches_no_less_and_the_money_adds_up(found: Evaluation) -> None:
    table = budgets.costs(found, 3.0)
    assert set(table.detector) == {"forest", "learner"}
    whole = found.scores.amount[found.scores.is_fraud].sum() / 14
    for _, part in table.groupby("detector"):
        for column in ("alerts_a_day", "caught", "recall", "amount_caught", "review_cost"):
            assert part[column].is_monotonic_increasing
    for _, part in table.groupby("detector"):
        assert (part.amount_caught + part.amount_lost).to_numpy() == pytest.approx(whole)
        assert (part.amount_lost + part.review_cost).to_numpy() == pytest.approx(part.cost)
        assert part.review_cost.to_numpy() == pytest.approx(3.0 * part.alerts_a_day)
        assert (part.frauds == found.scores.is_fraud.sum()).all()


def test_at_its_own_budget_the_forest_alerts_as_the_policy_did(found: Evaluation) -> None:
    forest = budgets.costs(found).query("detector == 'forest' and budget == 0.02").iloc[0]
    alert = found.scores.decision != APPROVE
    assert forest.alerts_a_day * 14 == pytest.approx(alert.sum())
    assert forest.caught == (alert & found.scores.is_fraud).sum()


def test_thresholds_do_not_look_at_what_is_judged(found: Evaluation) -> None:
    half = replace(found, scores=found.scores[::2])
    all_rows = budgets.alerted(found, "forest", 0.01)
    assert (all_rows[::2] == budgets.alerted(half, "forest", 0.01)).all()
    assert budgets.costs(replace(found, scores=found.scores.head(0))).empty


def test_no_budget_is_cheaper_than_a_perfect_order(found: Evaluation) -> None:
    fraud = found.scores.amount[found.scores.is_fraud]
    for cost in (0.5, 5.0, 500.0):
        perfect = np.minimum(fraud, cost).sum() / 14
        assert budgets.costs(found, cost).cost.min() >= perfect
        assert f"a perfect order {perfect:,.0f} EUR" in budgets.cheapest(found, cost)
        assert f"would cost {fraud.sum() / 14:,.0f} EUR a day" in budgets.cheapest(found, cost)
    assert "so no alert pays" in budgets.cheapest(found, 1e6)


def test_a_run_keeps_the_cost_of_its_own_budget_and_of_the_cheapest(found: Evaluation) -> None:
    table = budgets.costs(found)
    kept = budgets.figures(table, 0.02)
    own = table.query("detector == 'learner' and budget == 0.02").iloc[0]
    assert kept["cost_a_day", "learner/policy"] == own.cost
    assert kept["fraud_share", "learner/policy"] == own.fraud_share
    least = table[table.detector == "forest"].cost.min()
    assert kept["cheapest_cost_a_day", "forest/policy"] == least
    assert budgets.figures(table.head(0), 0.02) == {}


def test_days_and_budgets_agree(found: Evaluation) -> None:
    days, table = budgets.by_day(found), budgets.costs(found).query("detector == 'forest'")
    assert days.groupby("budget").day.nunique().tolist() == [14] * table.budget.nunique()
    right, wrong = (days.groupby("budget")[c].sum().to_numpy() for c in ("right", "wrong"))
    assert right.tolist() == table.caught.tolist()
    assert (right + wrong) / 14 == pytest.approx(table.alerts_a_day.to_numpy())
    assert (days.groupby("budget").frauds.sum() == found.scores.is_fraud.sum()).all()


def test_a_day_without_traffic_is_a_day_without_alerts(payments: Payments) -> None:
    frame, labels = payments
    gone = frame.ts.dt.floor("D") == pd.Timestamp("2026-01-25")
    out = evaluate(frame[~gone], labels, FOLDS, alert_budget=0.02)
    days = calibration.alerts_per_day(out.scores, FOLDS).set_index("day")
    assert len(days) == 14
    assert (days.loc["2026-01-25"] == 0).all()
    assert any("1 of the 14 days of the test windows have no transactions" in n for n in out.notes)


# --- bursts --------------------------------------------------------------------------------------


def test_a_burst_is_counted_up_to_its_first_alert() -> None:
    table = bursts.bursts(
        scores(
            *(("a", 10 + i, True, "burst", REVIEW if i == 3 else APPROVE, i > 0) for i in range(6)),
            *(("a", 10 + 7200 + i, True, "burst", APPROVE, False) for i in range(4)),
            *(("b", 12 + i, True, "burst", BLOCK, True) for i in range(2)),
            ("b", 11, False, None, BLOCK, True),
            ("c", 50, True, "spike", BLOCK, True),
        )
    )
    assert table.customer_id.tolist() == ["a", "b", "a"]
    assert table.transactions.tolist() == [6, 2, 4]
    assert table.let_through.tolist() == [3, 0, pd.NA]
    assert table.seconds.tolist() == [3.0, 0.0, pd.NA]
    assert table.counter_let_through.tolist() == [1, 0, pd.NA]
    assert table.detected.tolist() == [True, True, False]
    told = bursts.burst_summary(table)
    assert "detected 2 of 3 bursts (67%) and let 3 transactions through" in told
    assert "4 at the 90th percentile" in told, "what was never detected went through as a whole"


def test_where_no_burst_is_named_a_swarm_of_frauds_is_one() -> None:
    rows = [("a", 5 * i, True, None, REVIEW if i == 4 else APPROVE, False) for i in range(10)]
    few = [("b", 5 * i, True, "1", APPROVE, False) for i in range(9)]
    slow = [("c", 61 * i, True, "1", APPROVE, False) for i in range(12)]
    table = bursts.bursts(scores(*rows, *few, *slow))
    assert table[["customer_id", "transactions", "let_through"]].to_numpy().tolist() == [
        ["a", 10, 4]
    ]


def test_without_bursts_the_table_is_empty_and_the_sentence_says_so() -> None:
    table = bursts.bursts(scores(("a", 1, False, None, APPROVE, False)))
    assert table.empty
    assert "There is no burst" in bursts.burst_summary(table)
    never = bursts.bursts(scores(("a", 1, True, "burst", APPROVE, False)))
    assert "0 of 1 bursts (0%)" in bursts.burst_summary(never)


def test_synthetic_bursts_are_found_soon(found: Evaluation) -> None:
    table = bursts.bursts(found.scores)
    truth = found.scores[found.scores.is_fraud & (found.scores.scenario == "burst")]
    assert table.transactions.sum() == len(truth)
    assert table.detected.all()
    assert (table.let_through <= 5).all()
    assert (table.counter_let_through <= 5).all()


# --- campaigns ---------------------------------------------------------------------------------


def test_a_campaign_is_counted_over_all_its_customers_up_to_its_first_alert() -> None:
    table = bursts.campaigns(
        scores(
            *((f"c{i}", i, True, "testing:1", BLOCK if i > 2 else APPROVE, 0) for i in range(5)),
            *((f"d{i}", i / 2, True, "testing:2", APPROVE, 0) for i in range(4)),
            *(
                (f"s{i}", 60 * i, False, "sale:1", REVIEW if i == 1 else APPROVE, 0)
                for i in range(8)
            ),
            *((f"o{i}", i, False, None, REVIEW if i == 1 else APPROVE, 0) for i in range(9)),
            ("e", 1, True, "spike", BLOCK, 0),
            ("f", 1, False, "testing:1", BLOCK, 0),
            ("f", 1, True, "testing", APPROVE, 0),
        )
    )
    by_name = table.set_index("incident")
    assert sorted(by_name.index) == ["sale:1", "testing:1", "testing:2"]
    assert table.start.is_monotonic_increasing
    told = by_name[["kind", "transactions", "let_through", "seconds", "alerted", "detected"]]
    assert told.loc["testing:1"].tolist() == ["testing", 5, 3, 3.0, 0.4, True]
    assert told.loc["testing:2"].tolist() == ["testing", 4, pd.NA, pd.NA, 0.0, False]
    assert told.loc["sale:1"].tolist() == ["sale", 8, 1, 60.0, 1 / 8, True]
    assert table.floor.tolist() == pytest.approx([3 / 12] * 3)
    text = bursts.campaign_summary(table, WEEK)
    assert "detected 1 of 2 campaigns over many customers (50%), let 4 transactions" in text
    assert "alerted on 22% of them all (by chance 25.0%)" in text
    assert "look-alikes, 1 in all, the policy raised 0.14 false alarms a day" in text
    assert "by chance 0.29" in text


def test_without_named_campaigns_the_table_is_empty_and_the_sentence_says_so(
    found: Evaluation,
) -> None:
    for given in (found.scores, found.scores.head(0), scores(("a", 1, True, "x", APPROVE, 0))):
        table = bursts.campaigns(given)
        assert table.empty
        assert list(table.columns) == [
            *("fold", "incident", "kind", "start", "transactions", "let_through", "seconds"),
            *("alerted", "floor", "detected"),
        ]
        assert "name no campaign" in bursts.campaign_summary(table, FOLDS)
    alone = bursts.campaigns(scores(("s", 1, False, "sale:1", APPROVE, 0)))
    told = bursts.campaign_summary(alone, WEEK)
    assert "name no campaign" in told
    assert "raised 0.00 false alarms a day" in told


# --- busy customers ------------------------------------------------------------------------------


def test_false_alarms_are_told_by_how_busy_a_customer_is() -> None:
    rows = [
        (f"c{i:03d}", 60 * k, False, None, REVIEW if (i, k) == (0, 0) else APPROVE, 0.0)
        for i in range(100)
        for k in range(70 if i == 0 else 14 if i < 5 else 2)
    ]
    table = scores(*rows, *(("thief", k, k == 0, None, BLOCK, 0.0) for k in range(99)))
    out = bursts.busy_customers(table, WEEK, pd.Series(["burst"], index=[0]))
    assert out.group.tolist() == [name for _, name in bursts.BUSY]
    assert out.customers.tolist() == [1, 4, 15, 80]
    assert out.transactions.tolist() == [70, 56, 30, 160]
    assert out.transactions_a_day.tolist() == pytest.approx([10, 2, 2 / 7, 2 / 7])
    assert out.alerts.tolist() == out.burst_alerts.tolist() == [1, 0, 0, 0]
    assert out.alert_share.tolist() == pytest.approx([1 / 70, 0, 0, 0])


def test_busy_customers_hold_every_ordinary_customer(found: Evaluation) -> None:
    s, strongest = found.scores, cases.strongest(found.evidence)
    table = bursts.busy_customers(s, FOLDS, strongest)
    ordinary = s.groupby(["fold", "customer_id"]).is_fraud.transform("any").eq(False)
    assert table.transactions.sum() == ordinary.sum()
    assert table.alerts.sum() == (ordinary & (s.decision != APPROVE)).sum()
    assert (table.burst_alerts <= table.alerts).all()
