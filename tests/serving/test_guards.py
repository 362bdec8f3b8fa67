"""What one sender cannot do to the others: stall scoring, blind it, fill the disk."""

# ruff: noqa: F811 (fixtures)

from __future__ import annotations

import datetime as dt
import json
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from test_service import DESK, client, home, payment, served, settings, store  # noqa: F401

from aegis_core.config import Settings
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import InputError
from aegis_core.evaluation.parity import Parity, parity
from aegis_core.intake.refusals import USED_UP
from aegis_core.serving import api, batches, schemas
from aegis_core.serving.engine import Engine
from aegis_core.serving.state import State
from aegis_core.store import Store

JSON, LINES = "application/json", "application/x-ndjson"
CARD = "4111111111111111"


# ---- bodies


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b"[" + b",".join([b"{}"] * 2_700_000) + b"]"),
        (JSON, b"[" + b",".join([b"1"] * 4_000_000) + b"]"),
        (JSON, b"[[" + b",".join([b"1"] * 4_000_000) + b"]]"),
        (JSON, b"[" + b", ".join([b"{}"] * 10_001) + b"]"),
        (LINES, b"{}\n" * 2_700_000),
        (LINES, b"{}," * 2_700_000 + b"{}"),
    ],
)
def test_rows_are_counted_before_anything_is_built_of_them(kind: str, body: bytes) -> None:
    assert len(body) <= api.LARGEST_BODY
    tracemalloc.start()
    with pytest.raises(Exception, match=r"10,000 rows") as raised:
        batches.checked_all(body, kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert getattr(raised.value, "status_code", 0) == 413
    assert peak < 2 * api.LARGEST_BODY


def test_commas_within_texts_are_no_values() -> None:
    row = payment(merchant_id="," * 150)
    told = batches.checked_all(json.dumps([row] * 3_000).encode(), JSON)
    assert (len(told.rows), told.wrong) == (3_000, {})


def test_a_refused_row_of_a_batch_is_kept_as_it_was_sent() -> None:
    rows = ['{"amount": 1.50}', json.dumps(payment()), "[1, 2]", '"x"', "7"]
    told = batches.checked_all(f" [{' , '.join(rows)} ] ".encode(), JSON)
    assert {place: raw.decode() for place, (_, raw) in told.wrong.items()} == {
        place: row for place, row in enumerate(rows) if place != 1
    }
    assert [row["transaction_id"] for row in told.rows] == [payment()["transaction_id"]]
    for broken in (b"[{}", b"[{},]", b"[{}] x", b"[{} {}]", b"{}", b"[" * 9_999, b"", b"\xff"):
        with pytest.raises(Exception, match=r"not JSON|JSON array") as raised:
            batches.checked_all(broken, JSON)
        assert getattr(raised.value, "status_code", 0) == 400


def test_one_transaction_has_sixteen_kilobytes(client: TestClient) -> None:
    texts = ("transaction_id", "customer_id", "currency", "merchant_id", "category", "channel")
    longest = dict.fromkeys(texts, "\U0001f0a1" * 200)  # twelve bytes each where it is escaped
    body = json.dumps(payment(lat=1.0, lon=1.0) | longest)
    kind = {"content-type": JSON}
    assert client.post("/v1/transactions", content=body, headers=kind).status_code == 200
    body = " " * (schemas.LARGEST_ROW - len(body) + 1) + body
    refused = client.post("/v1/transactions", content=body, headers=kind)
    assert (refused.status_code, "16,384" in refused.json()["detail"]) == (413, True)


def test_a_body_that_brings_no_transactions_has_a_limit_too(client: TestClient) -> None:
    asked = {"analyst": "anna", "review_ids": ["x" * 200] * 10_000}
    client.headers.update(DESK)
    assert client.post("/v1/reviews/undo", json=asked).status_code == 422
    asked["review_ids"] = ["x" * 200] * 20_000
    refused = client.post("/v1/reviews/undo", json=asked)
    assert (refused.status_code, "larger than" in refused.json()["detail"]) == (413, True)


# ---- amounts and times


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        (0.0009999, "below 0.001"),
        (1e-300, "below 0.001"),
        (-0.0001, "below 0.001"),
    ],
)
def test_there_is_a_least_amount(client: TestClient, amount: float, told: str) -> None:
    refused = client.post("/v1/transactions", json=payment(amount=amount))
    assert (refused.status_code, refused.json()["detail"]) == (422, f"amount is {told}")
    assert client.post("/v1/transactions", json=payment(amount=0.001)).status_code == 200


def ahead(days: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).isoformat()


def rows_at(*times: str) -> pa.Table:
    rows = [payment(100 + i) for i in range(len(times))]
    moments = [dt.datetime.fromisoformat(t).replace(tzinfo=None) for t in times]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "timestamp"}
    return pa.table({**columns, "ts": moments})


def test_a_time_ahead_of_the_clock_is_refused_at_both_live_doors(
    client: TestClient, store: Store
) -> None:
    told = client.post("/v1/transactions", json=payment(timestamp=ahead(1)))
    why = "is more than 10 minutes ahead of the clock here"
    assert (told.status_code, told.json()["detail"]) == (422, f"timestamp {why}")
    many = [payment(1, timestamp=ahead(0.002)), payment(2, timestamp=ahead(1))]
    told = client.post("/v1/transactions:batch", json=many)
    assert ["decision" in answer for answer in told.json()] == [True, False]
    engine = client.app.app.state.service.engine  # type: ignore[attr-defined]
    assert len(engine.take(rows_at(ahead(1), ahead(0.002)), "here")) == 1
    kept = store.rows("SELECT source, reason FROM rejected ORDER BY source")
    assert [(row["source"], row["reason"]) for row in kept] == [
        *[("api", f"timestamp {why}")] * 2, ("here", f"ts {why}")
    ]  # fmt: skip


def test_who_simulates_may_have_a_clock_of_their_own(store: Store, settings: Settings) -> None:
    with served(store, settings.with_any_clock()) as client:
        late = payment(timestamp="2099-12-31T23:59:59Z")
        assert client.post("/v1/transactions", json=late).status_code == 200


# ---- what is refused


def test_refused_rows_are_masked_and_have_a_budget(store: Store, settings: Settings) -> None:
    small = settings.model_copy(update={"rejected_mb": 0.001})
    with served(store, small) as client:
        card = payment(customer_id=CARD, amount=1e-4) | {CARD: 1}
        told = client.post("/v1/transactions", json=card)
        assert (told.status_code, CARD in told.text) == (422, False)
        bad = [payment(i, amount=1e-4) for i in range(40)]
        client.post("/v1/transactions:batch", json=bad)
        client.post("/v1/transactions:batch", json=bad)
        assert "aegis_refused_total 81.0" in client.get("/v1/metrics").text
        kept = store.rows("SELECT raw, reason FROM rejected")
    assert 3 < len(kept) < 20
    assert [row["reason"] for row in kept].count(USED_UP) == 1
    assert kept[-1]["reason"] == USED_UP
    assert CARD not in str(kept)
    with served(store, small) as client:
        client.post("/v1/transactions:batch", json=bad)
    assert store.rows("SELECT count(*) AS n FROM rejected") == [{"n": len(kept)}], "said once"


# ---- failures


@contextmanager
def broken(patch: pytest.MonkeyPatch, after: bool) -> Iterator[None]:
    """Scoring fails, before or after it has changed the state."""
    run = Scorer.run

    def fails(self: Scorer, *args: Any, **given: Any) -> Any:
        if after:
            run(self, *args, **given)
        raise InputError("no room for one more")

    with patch.context() as here:
        here.setattr(Scorer, "run", fails)
        yield


@pytest.mark.parametrize("after", [True, False])
def test_what_makes_scoring_fail_makes_health_503_with_the_reason_and_changes_nothing(
    client: TestClient,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    after: bool,
) -> None:
    client.post("/v1/transactions", json=payment())
    with broken(monkeypatch, after):
        monkeypatch.setattr(State, "_fold", lambda self, session: unfolded())
        refused = client.post("/v1/transactions", json=payment(1))
        assert (refused.status_code, "no room" in refused.json()["detail"]) == (503, True)
        health = client.get("/v1/health")
        assert (health.status_code, "no history" in health.json()["detail"]) == (503, True)
        assert client.get("/v1/health").status_code == 503, "as long as it lasts"
    monkeypatch.undo()
    assert client.get("/v1/health").status_code == 200
    assert client.post("/v1/transactions", json=payment(1)).status_code == 200
    assert parity(store, settings) == Parity(2, 0, None)


def unfolded() -> None:
    raise InputError("no history can be read")


def test_what_was_done_is_not_called_failed_because_of_what_follows(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.owned(), closing(Engine(store, settings)) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(State, "_fold", lambda self, session: unfolded())
            assert engine.do(lambda: "kept") == "kept"
            with pytest.raises(InputError, match="no history"):
                engine.check()
        engine.score([schemas.checked(json.dumps(payment()).encode())[0] or {}])
    assert parity(store, settings) == Parity(1, 0, None)


# ---- look-ups


def test_look_ups_wait_for_each_other_and_scoring_waits_for_none(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/v1/transactions:batch", json=[payment(i) for i in range(20)])
    told, asked = Engine.told, list[int]()
    go, begun = threading.Event(), threading.Event()

    def slow(self: Engine, ids: Sequence[str], places: Sequence[int]) -> Any:
        asked.append(len(ids))
        begun.set()
        assert go.wait(30)
        return told(self, ids, places)

    monkeypatch.setattr(Engine, "told", slow)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(client.get, "/v1/transactions/n0")
        assert begun.wait(30)
        others = [pool.submit(client.get, f"/v1/transactions/n{i}") for i in range(1, 20)]
        lookups = client.app.app.state.service.lookups  # type: ignore[attr-defined]
        while len(lookups._asked) < 19:
            time.sleep(0.001)
        assert client.post("/v1/transactions", json=payment(30)).status_code == 200
        monkeypatch.setattr("aegis_core.serving.lookups.MOST_WAITING", 19)
        assert client.get("/v1/transactions/n0").status_code == 429
        go.set()
        found = [one.result().json()["transaction"] for one in (first, *others)]
    assert [one["transaction_id"] for one in found] == [f"n{i}" for i in range(20)]
    assert asked == [1, 19], "those who wait share one reading"
