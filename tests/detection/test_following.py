"""The alert budget is kept: by a bounded threshold, of many customers, noted and told."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.config import NotifyRule, Settings
from aegis_core.detection import following, registry
from aegis_core.detection.training import Recipe, train
from aegis_core.evaluation import budgets
from aegis_core.evaluation.parity import parity
from aegis_core.features.profiles import Profiles
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.runs.notify import events
from aegis_core.serving.engine import Engine
from aegis_core.serving.rows import Rows
from aegis_core.serving.state import State
from aegis_core.store import Store, connect
from aegis_core.store.floods import THRESHOLD, follows
from aegis_core.store.session import Session
from aegis_core.views.dashboard.feed import Feed
from aegis_core.views.dashboard.filters import Filters

DAY: Final = dt.date(2026, 9, 8)
NUMBER: Final = (DAY - dt.date(1970, 1, 1)).days
N: Final = 20_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Settings]:
    settings = config.load(home=tmp_path_factory.mktemp("following"), alert_budget=0.01)
    store = connect(settings.db)
    write_history(store, SyntheticConfig(n_transactions=20_000, n_customers=300), progress=False)
    train(store, settings, Recipe(n_trees=20, max_samples=64))
    return store, settings.with_any_clock()


@pytest.fixture
def session(home: tuple[Store, Settings]) -> Any:
    store, _ = home
    with store.writing() as session:
        yield session
        session.execute("DELETE FROM verdicts; DELETE FROM thresholds")
        session.execute("DELETE FROM transactions WHERE source = 'made'")


@pytest.fixture
def model(home: tuple[Store, Settings], session: Session) -> registry.ModelVersion:
    (found,) = session.rows("SELECT version FROM models")
    return registry.load(session, found["version"], home[1])


def judged(
    session: Session, model: registry.ModelVersion, scores: Any, customers: Any = 5_000
) -> None:
    """Verdicts of a week with these scores; customers one after the other, or as they are given."""
    first = session.next_seq()
    seq = np.arange(first, first + len(scores))
    ids = [f"made {i}" for i in seq]
    if isinstance(customers, int):
        customers = [f"made c{i % customers}" for i in seq]
    at = pd.Timestamp(DAY) - pd.to_timedelta(np.linspace(1, 7 * 86_400 - 1, len(seq)), "s")
    session.append("transactions", pd.DataFrame({
        "seq": seq, "transaction_id": ids, "customer_id": customers, "ts": at, "amount": 1.0,
        "source": "made"}))  # fmt: skip
    session.append("verdicts", pd.DataFrame({
        "seq": seq, "transaction_id": ids, "model_version": model.version, "score": scores,
        "risk": 50.0, "decision": "approve", "scored_at": at}))  # fmt: skip


def of_share(model: registry.ModelVersion, share: float) -> Any:
    """Scores of which so many are above the trained threshold, the highest just below the top."""
    above = model.policy.review_above
    high = np.linspace(above + 1e-6, max(model.policy.block_above, above) + 0.1, round(N * share))
    return np.concatenate([high, np.full(N - len(high), above / 2)])


def found(session: Session) -> dict[str, Any]:
    (row,) = session.rows(THRESHOLD)
    return row


@pytest.mark.parametrize("times", [1.0, 1.2, 1.5, 2.0, 2.9])
def test_a_busier_week_stays_within_the_budget(
    session: Session, model: registry.ModelVersion, times: float
) -> None:
    scores = of_share(model, 0.01 * times)
    judged(session, model, scores)
    assert following.look_back(session, model, NUMBER, 7)
    row, trained = found(session), model.policy.review_above
    assert (row["transactions"], row["alerts"]) == (N, round(N * 0.01 * times))
    now = following.applied(session, model).policy
    assert now.review_above == row["review_above"]
    assert now.block_above >= max(now.review_above, model.policy.block_above)
    if times <= following.AS_TRAINED[1]:
        assert now.review_above == trained
        assert follows(row) == ""
    else:
        high = model.model.threshold(0.01 * following.HIGHEST)
        assert trained < now.review_above <= max(high, trained)
        kept = int((scores > now.review_above).sum())
        assert kept <= N * 0.01 or now.review_above == high
        assert f"{times:.1f} times its 1.00%" in follows(row)
    assert not following.look_back(session, model, NUMBER, 7)  # a day is looked at once


def test_the_traffic_of_one_customer_lets_no_more_of_others_be_alerted(
    session: Session, model: registry.ModelVersion
) -> None:
    judged(session, model, of_share(model, 0.02))
    assert following.look_back(session, model, NUMBER, 7)
    alone = found(session)
    session.execute("DELETE FROM thresholds")
    judged(session, model, np.full(2 * N, 1e-9), ["made one"] * 2 * N)
    assert following.look_back(session, model, NUMBER, 7)
    beside = found(session)
    assert beside["transactions"] == N + following.A_CUSTOMER / 0.01
    assert beside["review_above"] == pytest.approx(alone["review_above"], rel=0.02)
    assert alone["review_above"] > model.policy.review_above


def test_it_never_leaves_its_bounds(session: Session, model: registry.ModelVersion) -> None:
    judged(session, model, of_share(model, 0.4))
    assert following.look_back(session, model, NUMBER, 7)
    assert found(session)["review_above"] == max(
        model.policy.review_above, model.model.threshold(0.01 * following.HIGHEST)
    )
    session.execute("DELETE FROM thresholds; DELETE FROM verdicts")
    judged(session, model, np.full(N, 1e-9))
    assert following.look_back(session, model, NUMBER, 7)
    assert found(session)["review_above"] == min(
        model.policy.review_above, model.model.threshold(0.01 * following.LOWEST)
    )
    assert follows(found(session)).startswith("Below budget")


def test_a_few_customers_move_nothing(session: Session, model: registry.ModelVersion) -> None:
    scores = of_share(model, 0.01)
    judged(session, model, scores)
    flood = np.full(2_000, scores.max())
    judged(session, model, flood, [f"made flood{i % 5}" for i in range(len(flood))])
    assert following.look_back(session, model, NUMBER, 7)
    row = found(session)
    assert row["alerts"] <= N * 0.01 + 5 * following.A_CUSTOMER
    assert row["review_above"] == row["trained_above"]


def test_of_a_few_days_nothing_is_read(session: Session, model: registry.ModelVersion) -> None:
    judged(session, model, np.ones(int(following.FEWEST / 0.01) - 1))
    assert not following.look_back(session, model, NUMBER, 7)
    assert following.applied(session, model) == model


def test_the_engine_follows_when_a_day_has_ended_and_replays_bit_for_bit(
    home: tuple[Store, Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    store, settings = home
    rng, answers = np.random.default_rng(4), []
    with Engine.open(store, settings) as engine:
        trained = engine.state.champion.policy
        days = [dt.date(2026, 9, 1 + day) for day in range(5)]
        for day, date in enumerate(days):
            at = dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()
            rows = [
                {"transaction_id": f"live {day} {i}", "customer_id": f"new {i % 900}",
                 "ts": int((at + i * 50) * 1e6), "amount": float(rng.lognormal(3, 2.5)),
                 "currency": "EUR", "category": "groceries"}
                for i in range(1_700)
            ]  # fmt: skip
            answers += engine.thread.submit(engine.score, rows).result()
            engine.settled()
            until = time.monotonic() + 60  # the engine looks at its own times, not at ours
            while day >= 2 and not store.rows("FROM thresholds WHERE day = ?", [date]):
                assert time.monotonic() < until
                time.sleep(0.05)
            for i in range(2):  # once the tables hold the first, what they noted before it counts
                engine.thread.submit(
                    engine.score, [rows[-1] | {"transaction_id": f"after {day} {i}"}]
                ).result()
                engine.settled()
        with store.reading() as session:
            row = found(session)
            asked = session.rows("SELECT count(*) AS n, max(day) AS day FROM thresholds")
        assert row["day"] == days[-1]
        assert asked[0]["n"] >= len(days) - 2
        assert row["trained_above"] == trained.review_above
        policy = engine.state.champion.policy
        assert policy.review_above == row["review_above"] != trained.review_above
        assert engine.state.scorer.policy == policy
    high = [o.verdict["score"] for o in answers if o.verdict and o.verdict["decision"] != "approve"]
    assert high
    with Engine.open(store, settings) as engine:  # goes on by the same threshold
        assert engine.state.champion.policy.review_above == row["review_above"]
    actual = budgets.of_verdicts(store, settings)["actual"]
    assert actual["review_above"] == row["review_above"]
    told = " ".join(follows(row) for row in store.rows(THRESHOLD))
    assert Feed(store).read(Filters(period="all")).budget == told
    assert main(["status", "--db", str(store.path)]) == 0
    assert told in capsys.readouterr().out
    rule = NotifyRule(name="r", what=("budget",), to=("json://localhost",))  # type: ignore[arg-type]
    new, positions = events.look(store, settings, rule, {})
    assert positions == {"budget": "begun"}
    over = [r for r in store.rows("FROM thresholds") if r["review_above"] > r["trained_above"]]
    assert [event.text.split(" Model ")[0] for event in new] == [follows(r) for r in over]
    assert parity(store, settings).different == 0
    off = settings.model_copy(update={"budget_follows_days": 0})
    with store.writing() as session:
        session.execute("DELETE FROM thresholds")
    with Engine.open(store, off) as engine:
        engine.do(lambda: None)
        policy = engine.state.champion.policy
        assert math.isclose(policy.review_above, trained.review_above, rel_tol=0)
    assert store.rows("FROM thresholds") == []


def test_a_threshold_that_was_not_kept_decides_nothing(
    session: Session,
    model: registry.ModelVersion,
    home: tuple[Store, Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Profiles, "day", NUMBER)
    state = State(*home)
    state.follow(session)
    judged(session, model, of_share(model, 0.02))
    trained = model.policy.review_above
    state.look_back(session)
    noted = found(session)["review_above"]
    state.judge(Rows.of([]), "api")
    assert state.champion.policy.review_above == trained != noted
    assert not state.day_has_ended
    state.look_back(session)  # finds it noted, as another process may have
    state.kept()
    state.judge(Rows.of([]), "api")
    assert state.champion.policy.review_above == trained
    session.execute("DELETE FROM thresholds")
    state.look_back(session)
    state.kept()
    state.judge(Rows.of([]), "api")
    assert state.champion.policy.review_above == state.scorer.policy.review_above == noted
