"""What analysts ask of the service: cases, claims, answers, taking back, snoozing, proposals."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient
from test_service import DESK, client, home, payment, settings, store  # noqa: F401 (fixtures)

from aegis_core.store import Store

CONTROL = "a\u0000b"
POSTS = {
    "/v1/cases/claim": {"analyst": "anna"},
    "/v1/cases/release": {"analyst": "anna"},
    "/v1/cases/answer": {"analyst": "anna", "case_id": "n1", "answer": "fraud"},
    "/v1/reviews/undo": {"analyst": "anna", "review_ids": ["r1"]},
    "/v1/cases/snooze": {
        **{"analyst": "anna", "customer_id": "c1", "until": "2026-05-01", "why": "travels"}
    },
    "/v1/proposals": {"analyst": "anna", "alert_budget": 0.01},
}


@pytest.fixture
def alerted(client: TestClient) -> TestClient:  # noqa: F811
    """A service with two bursts, each a case of its own."""
    rows = [payment(i, customer_id="c1", amount=9_000.0 + i) for i in range(60)]
    rows += [payment(100 + i, customer_id="c2", amount=5_000.0 + i) for i in range(60)]
    client.post("/v1/transactions:batch", json=rows)
    client.headers.update(DESK)
    return client


def cases(client: TestClient, **asked: Any) -> list[dict[str, Any]]:  # noqa: F811
    found: list[dict[str, Any]] = client.get("/v1/cases", params=asked).json()["cases"]
    return found


def until(what: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_case_is_claimed_answered_and_taught_when_undo_is_over(
    alerted: TestClient,
    store: Store,  # noqa: F811
) -> None:
    until(lambda: len(cases(alerted)) == 2)
    first, second = cases(alerted)
    assert first["weight"] >= second["weight"]
    claimed = alerted.post("/v1/cases/claim", json={"analyst": "anna"}).json()["claim"]
    assert claimed["case_id"] == first["case_id"]
    taken = {"analyst": "ben", "case_id": first["case_id"]}
    refused = alerted.post("/v1/cases/claim", json=taken)
    assert refused.status_code == 422
    assert "anna works on this customer" in refused.json()["detail"]
    other = alerted.post("/v1/cases/claim", json={"analyst": "ben"}).json()["claim"]
    assert other["case_id"] == second["case_id"]
    answer = {"analyst": "anna", "case_id": first["case_id"], "answer": "fraud", "note": "phoned"}
    assert alerted.post("/v1/cases/answer", json=answer | {"analyst": "ben"}).status_code == 422
    made = alerted.post("/v1/cases/answer", json=answer)
    assert made.status_code == 201
    assert len(made.json()["review_ids"]) == first["waiting"]
    assert alerted.post("/v1/cases/answer", json=answer).status_code == 422, "it is answered"
    assert store.rows("SELECT count(*) AS n FROM labels WHERE source = 'review'") == [{"n": 0}]
    with store.writing() as session:  # as if ten seconds were over
        session.execute("UPDATE reviews SET held_until = answered_at")
    labelled = "SELECT count(*) AS n FROM labels WHERE source = 'review' AND is_fraud"
    until(lambda: store.rows(labelled) == [{"n": first["waiting"]}])
    assert alerted.get("/v1/cases/statistics").json()["precision"]["share"] == 1.0


def test_answers_are_taken_back_within_ten_seconds_by_who_gave_them(alerted: TestClient) -> None:
    until(lambda: len(cases(alerted)) == 2)
    case = cases(alerted)[0]
    answer = {"analyst": "anna", "case_id": case["case_id"], "answer": "legitimate"}
    made = alerted.post("/v1/cases/answer", json=answer).json()
    assert [c["case_id"] for c in cases(alerted)] != [case["case_id"]]
    undo = {"analyst": "ben", "review_ids": made["review_ids"]}
    assert alerted.post("/v1/reviews/undo", json=undo).status_code == 422
    taken = alerted.post("/v1/reviews/undo", json=undo | {"analyst": "anna"})
    assert len(taken.json()["transaction_ids"]) == case["waiting"]
    assert case["case_id"] in {c["case_id"] for c in cases(alerted)}
    single = {"transaction_id": case["case_id"], "answer": "fraud", "analyst": "eve"}
    review = alerted.post("/v1/reviews", json=single).json()
    undone = alerted.post(
        "/v1/reviews/undo", json={"analyst": "eve", "review_ids": [review["review_id"]]}
    )
    assert undone.json() == {"transaction_ids": [case["case_id"]]}


def test_a_snoozed_customer_leaves_the_queue_and_a_proposal_changes_nothing(
    alerted: TestClient,
    store: Store,  # noqa: F811
) -> None:
    until(lambda: len(cases(alerted)) == 2)
    asked = POSTS["/v1/cases/snooze"]
    for until_, wrong in (
        ("2020-01-01", "must lie after"),
        ("2099-01-01", "lasts 90 days at most"),
    ):
        refused = alerted.post("/v1/cases/snooze", json=asked | {"until": until_})
        assert (refused.status_code, wrong in refused.json()["detail"]) == (422, True)
    assert alerted.post("/v1/cases/snooze", json=asked).status_code == 201
    assert [case["customer_id"] for case in cases(alerted)] == ["c2"]
    before = store.rows("SELECT version, promoted_at FROM models")
    tried = alerted.get("/v1/cases/what-if").json()
    assert tried["transactions"] == 120
    caught = [level["alerts"] for level in tried["levels"]]
    assert caught == sorted(caught), "a larger budget never has fewer alerts"
    assert alerted.post("/v1/proposals", json=POSTS["/v1/proposals"]).status_code == 201
    (kept,) = store.rows("SELECT who, kind, content FROM proposals")
    assert (kept["who"], kept["kind"]) == ("anna", "policy")
    assert json.loads(kept["content"]) == {"alert_budget": 0.01}
    assert store.rows("SELECT version, promoted_at FROM models") == before


@pytest.mark.parametrize("path", POSTS)
def test_what_makes_no_sense_is_refused_and_nothing_is_kept(
    client: TestClient,  # noqa: F811
    store: Store,  # noqa: F811
    path: str,
) -> None:
    client.headers.update(DESK)
    for change in (
        *({"analyst": bad} for bad in ("", CONTROL, "x" * 201, 5, None)),
        *({"colour": "red"}, {"case_id": ""}, {"answer": "maybe"}, {"review_ids": []}),
        *({"alert_budget": bad} for bad in (0, 1, "0.1", True)),
        *({"until": bad} for bad in ("", "soon", 5, "0001-01-01T00:00:00+14:00")),
    ):
        body = POSTS[path] | change
        if body != POSTS[path]:
            assert client.post(path, json=body).status_code == 422, (path, change)
    for content in (b"", b"{", b"[]", b"null"):
        kind = {"content-type": "application/json"}
        assert client.post(path, content=content, headers=kind).status_code == 422
    for table in ("claims", "reviews", "lists", "proposals"):
        assert store.rows(f"FROM {table}") == []


def test_an_order_that_there_is_not_is_refused(client: TestClient) -> None:  # noqa: F811
    client.headers.update(DESK)
    assert client.get("/v1/cases", params={"order": "amount"}).status_code == 422
    assert client.get("/v1/cases", params={"limit": 0}).status_code == 422
    assert client.get("/v1/cases/what-if", params={"days": "nan"}).status_code == 422
    assert cases(client, analyst="'; DROP TABLE claims; --") == []
