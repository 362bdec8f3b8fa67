"""The simulator: it ends when it is told to, and goes on where the history ends."""

# ruff: noqa: F811 (fixtures)

from __future__ import annotations

import datetime as dt
import time

import pyarrow as pa
import pytest
from test_engine import db, settings, trained  # noqa: F401

from aegis_core.config import Settings
from aegis_core.errors import InputError
from aegis_core.serving.client import Client
from aegis_core.serving.simulate import simulate
from aegis_core.store import Store


def test_a_simulation_ends_after_its_transactions(db: Store, settings: Settings) -> None:
    said: list[str] = []
    tally = simulate(
        db, settings, n_transactions=120, fraud_multiplier=20.0, say=said.append, max_lines=3,
        progress=False,
    )  # fmt: skip
    assert tally.transactions == 120
    assert len(said) == 4
    assert "more in the table verdicts" in said[-1]
    assert said[0].startswith(("Blocked: ", "Review: ", "Approved: "))
    assert f"{tally.blocked} blocked" in tally.sentence()


def test_a_simulation_ends_with_its_time_and_keeps_its_pace(db: Store, settings: Settings) -> None:
    began = time.monotonic()
    tally = simulate(
        db, settings, n_transactions=0, seconds=2, rate=20, say=lambda _: None, progress=False
    )
    assert time.monotonic() - began < 60
    assert 0 < tally.transactions <= 40


def test_a_simulation_has_a_clock_of_its_own(db: Store, settings: Settings) -> None:
    with db.writing() as session:
        session.execute("UPDATE transactions SET ts = ts + INTERVAL 50 YEAR")
    tally = simulate(db, settings, n_transactions=40, say=lambda _: None, progress=False)
    assert tally.transactions == 40


def test_a_service_that_refuses_all_of_a_stream_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = [{"error": "timestamp is ahead", "status": 422}] * 2
    monkeypatch.setattr(Client, "_post", lambda *asked: told)
    rows = pa.table({"customer_id": ["c", "d"], "ts": [dt.datetime(2076, 1, 1)] * 2})
    with pytest.raises(InputError, match=r"all 2 .* timestamp is ahead.*AEGIS_FUTURE_MINUTES=0"):
        Client("http://127.0.0.1:9", "a-token-for-the-tests").take(rows)


def test_a_second_simulation_goes_on_after_the_first(db: Store, settings: Settings) -> None:
    for _ in range(2):
        simulate(db, settings, n_transactions=30, say=lambda _: None, progress=False)
    assert db.rows("SELECT count(*) AS n FROM verdicts") == [{"n": 60}]


@pytest.mark.parametrize(
    "wrong", [{"n_transactions": 0}, {"rate": -1.0}, {"fraud_multiplier": -1.0}]
)
def test_a_simulation_that_cannot_be_is_refused(
    db: Store, settings: Settings, wrong: dict[str, float]
) -> None:
    with pytest.raises(InputError):
        simulate(db, settings, **wrong)  # type: ignore[arg-type]
