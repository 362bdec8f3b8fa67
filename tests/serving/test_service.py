"""The service: committed before it is answered, once, and never hurt by what comes in."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from aegis_core import config
from aegis_core.config import Settings
from aegis_core.detection import registry
from aegis_core.detection.history import recorded, transactions
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, StoreBusy, StoreError
from aegis_core.evaluation.parity import Parity, parity
from aegis_core.features.checkpoint import begin
from aegis_core.intake.importing import checked
from aegis_core.intake.links import link
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.review import lists
from aegis_core.serving import api, batcher, schemas, sending, snapshot
from aegis_core.serving.client import Client
from aegis_core.serving.engine import LOOK_S, Engine
from aegis_core.serving.replaying import score_past
from aegis_core.serving.table_writer import EVERY_S
from aegis_core.serving.token import token_file, token_of
from aegis_core.store import Store, connect
from aegis_core.store.session import Session

TOKEN = "a-token-for-the-tests"
DESK_TOKEN = "the-token-of-the-desk"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
DESK = {"Authorization": f"Bearer {DESK_TOKEN}"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small history with a champion, to be copied."""
    folder = tmp_path_factory.mktemp("service")
    settings = config.load(home=folder)
    store = connect(settings.db)
    some = SyntheticConfig(n_transactions=5_000, n_customers=80, days=15)
    write_history(store, some, progress=False)
    train(store, settings, Recipe(n_trees=20, max_samples=64))
    return folder


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    import shutil

    shutil.copytree(home, tmp_path / "home")
    return config.load(home=tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Store:
    return connect(settings.db)


@pytest.fixture
def client(store: Store, settings: Settings) -> Iterator[TestClient]:
    with served(store, settings) as client:
        yield client


@contextmanager
def served(store: Store, settings: Settings) -> Iterator[TestClient]:
    """The service in this process."""
    with (
        store.owned(),
        closing(Engine(store, settings)) as engine,
        TestClient(api.create_app(engine, TOKEN, DESK_TOKEN), headers=HEADERS) as client,
    ):
        yield client


def test_state_is_what_a_fold_of_the_history_makes_of_it(client: TestClient, store: Store) -> None:
    client.post("/v1/transactions:batch", json=[payment(i) for i in range(50)])
    same_as_folded(client.app.app.state.service.engine, store)  # type: ignore[attr-defined]


def same_as_folded(engine: Engine, store: Store) -> None:
    """Compare the engine's profiles with those of the history, folded anew."""
    whole, past = Scorer(profiles=begin(store, confirmed=False).profiles), transactions(store)
    whole.run(past, recorded=recorded(past))
    for one, other in zip(engine.state.scorer.profiles.state, whole.profiles.state, strict=True):
        rows = min(len(one), len(other))
        assert one[:rows].tobytes() == other[:rows].tobytes()


def payment(i: int = 0, **change: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"n{i}",
        "customer_id": f"c{i % 7}",
        "timestamp": f"2026-02-01T10:{i // 60 % 60:02d}:{i % 60:02d}Z",
        "amount": 12.5 + i,
        "currency": "EUR",
        "merchant_id": "m1",
        "category": "grocery",
        **change,
    }


# ---- score


@pytest.mark.fast
def test_a_verdict_is_answered_and_kept(client: TestClient, store: Store) -> None:
    answered = client.post("/v1/transactions", json=payment())
    assert answered.status_code == 200
    told = answered.json()
    schemas.Verdict.model_validate(told)
    (kept,) = store.rows("SELECT * FROM verdicts WHERE transaction_id = 'n0'")
    assert (kept["score"], kept["risk"], kept["decision"]) == (
        *(told["score"], told["risk"], told["decision"]),
    )
    (row,) = store.rows("SELECT * FROM transactions WHERE transaction_id = 'n0'")
    assert row["seq"] == told["seq"] == 5_000
    assert row["ts"].isoformat() == "2026-02-01T10:00:00"
    assert row["source"] == "api"


def test_the_same_again_gets_the_first_verdict(client: TestClient, store: Store) -> None:
    first = client.post("/v1/transactions", json=payment()).json()
    again = client.post("/v1/transactions", json=payment())
    assert again.status_code == 200
    assert again.json() == first | {"repeat": True}
    zone = client.post("/v1/transactions", json=payment(timestamp="2026-02-01T11:00:00+01:00"))
    assert zone.json()["repeat"], "the same moment in another zone"
    assert store.rows("SELECT count(*) AS n FROM verdicts") == [{"n": 1}]


def test_the_same_id_with_other_content_is_told_both(client: TestClient) -> None:
    first = client.post("/v1/transactions", json=payment()).json()
    other = client.post("/v1/transactions", json=payment(amount=99.0))
    assert other.status_code == 409
    told = other.json()
    assert told["stored"]["amount"] == 12.5
    assert told["verdict"]["score"] == first["score"]


def test_a_later_state_is_kept_and_changes_no_verdict(client: TestClient, store: Store) -> None:
    def send(i: int, status: str) -> dict[str, Any]:
        answer = client.post("/v1/transactions", json=payment(i, status=status))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def states(one: str) -> list[str]:
        found = client.get(f"/v1/transactions/{one}").json()["transaction"]
        return [found["status"], *(found["later_states"] or [])]

    first = send(1, "pending")
    assert send(1, "Succeeded") == send(1, "pending") == send(1, "succeeded")
    assert send(1, "declined") == first | {"repeat": True}
    assert states("n1") == ["pending", "approved", "declined"]
    for status, code in (("failed", 200), ("Failure", 200), ("approved", 200), ("", 422)):
        told = client.put("/v1/transactions/n1/status", json={"status": status})
        assert told.status_code == code, told.text
    assert states("n1") == ["pending", "approved", "declined", "failed", "approved"]
    assert client.put("/v1/transactions/nobody/status", json={"status": "ok"}).status_code == 404
    assert (
        client.post("/v1/transactions", json=payment(1, status="ok", amount=9)).status_code == 409
    )
    both = [payment(2, status=s) for s in ("pending", "declined", "declined", "pending")]
    answers = client.post("/v1/transactions:batch", json=both).json()
    assert [a["repeat"] for a in answers] == [False, True, True, True]
    assert states("n2") == ["pending", "declined"]
    assert [(r["transaction_id"], r["status"], r["source"]) for r in store.rows("FROM states")] == [
        *(("n1", s, "api") for s in ("approved", "declined", "failed", "approved")),
        ("n2", "declined", "api"),
    ]


@pytest.mark.parametrize("door", ["single", "batch", "status"])
def test_a_declined_try_that_is_approved_later_is_judged(
    client: TestClient, store: Store, door: str
) -> None:
    def post(**more: Any) -> dict[str, Any]:
        row = payment(1, timestamp="2026-03-01T21:30:00-05:00", **more)
        if door == "batch":
            return dict(client.post("/v1/transactions:batch", json=[row]).json()[0])
        return dict(client.post("/v1/transactions", json=row).json())

    def decided() -> float:
        text = client.get("/v1/metrics").text
        return sum(float(n) for n in re.findall(r"aegis_decisions_total{.*} (.*)", text))

    tried = post(status="declined")
    assert decided() == 1
    if door == "status":
        told = client.put("/v1/transactions/n1/status", json={"status": "captured"}).json()
        assert (told["transaction"]["status"], told["transaction"]["clock"]) == ("approved", "sent")
        judged = told["verdict"]
    else:
        judged = post(status="captured")
    assert (judged["repeat"], judged["seq"] > tried["seq"]) == (False, True)
    assert decided() == 2
    again = judged | {"repeat": True}
    assert post(status="declined") == post(status="approved") == again
    assert client.get("/v1/transactions/n1").json()["verdict"] == judged
    larger = post(status="captured", amount=9_000.0)
    assert larger.get("status", 409) == 409, "refused and told, as any other content"
    assert "known with other content" in larger.get("error", larger.get("detail", ""))
    assert [r["status"] for r in store.rows("FROM transactions WHERE transaction_id = 'n1'")] == [
        "declined", "approved"
    ]  # fmt: skip
    assert store.rows("FROM states") == []


def test_one_id_sent_by_many_at_once_is_scored_once(client: TestClient, store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(client.post, "/v1/transactions", json=payment()) for _ in range(24)]
        told = [answer.result().json() for answer in sent]
    assert sorted(answer["repeat"] for answer in told) == [False] + [True] * 23
    assert len({answer["score"] for answer in told}) == 1
    assert store.rows("SELECT count(*) AS n FROM transactions WHERE transaction_id = 'n0'") == [
        {"n": 1}
    ]


def test_a_batch_answers_row_by_row_and_a_bad_row_spoils_nothing(
    client: TestClient, store: Store
) -> None:
    rows = [payment(i) for i in range(6)]
    rows[2] = payment(2, amount=0.0001)
    rows[4] = rows[3]
    for kind, body in (
        ("application/json", json.dumps(rows)),
        ("application/x-ndjson", "\n".join(map(json.dumps, rows))),
    ):
        answered = client.post(
            "/v1/transactions:batch", content=body, headers={"content-type": kind}
        )
        assert answered.status_code == 200
        told = answered.json()
        assert [a.get("transaction_id") for a in told] == ["n0", "n1", None, "n3", "n3", "n5"]
        assert "amount" in told[2]["error"]
    assert all(a["repeat"] for a in told if "repeat" in a)
    assert store.rows("SELECT count(*) AS n FROM verdicts") == [{"n": 4}]
    assert {row["reason"] for row in store.rows("FROM rejected")} == {"amount is below 0.001"}


@pytest.mark.fast
def test_live_verdicts_of_the_service_replay_bit_for_bit(
    client: TestClient, store: Store, settings: Settings
) -> None:
    client.post("/v1/transactions:batch", json=[payment(i) for i in range(300)])
    late = payment(900, timestamp="2026-01-10T00:00:00Z")
    client.post("/v1/transactions:batch", json=[late, payment(901, customer_id="new")])
    answer = {"transaction_id": "n3", "answer": "fraud", "analyst": "anna"}
    assert client.post("/v1/reviews", json=answer, headers=DESK).status_code == 201
    client.post("/v1/transactions", json=payment(902, lat=52.5, lon=13.4))
    assert parity(store, settings) == Parity(303, 0, None)


# ---- look up, answer, watch


def test_a_transaction_is_looked_up_with_its_verdict(client: TestClient) -> None:
    told = client.post("/v1/transactions", json=payment()).json()
    found = client.get("/v1/transactions/n0").json()
    assert found["verdict"]["score"] == told["score"]
    assert found["transaction"]["timestamp"] == "2026-02-01T10:00:00+00:00"
    assert client.get("/v1/transactions/nobody").status_code == 404


def test_an_imported_transaction_has_no_verdict_and_gets_none(
    client: TestClient, store: Store
) -> None:
    (row,) = store.rows("SELECT * FROM transactions WHERE seq = 7")
    found = client.get(f"/v1/transactions/{row['transaction_id']}").json()
    assert found["verdict"] is None
    sent = {n: row[n] for n in ("transaction_id", "customer_id", "amount", "currency")}
    sent |= {n: row[n] for n in ("merchant_id", "category", "channel", "lat", "lon")}
    sent["timestamp"] = row["ts"].isoformat()
    answered = client.post("/v1/transactions", json=sent)
    assert answered.status_code == 409
    assert "never scored" in answered.json()["detail"]


def test_a_replayed_verdict_says_so_and_a_live_one_does_not(
    store: Store, settings: Settings
) -> None:
    score_past(store, settings, 400.0, who="anna")
    (row,) = store.rows("SELECT transaction_id, replayed_at FROM verdicts WHERE seq = 7")
    with served(store, settings) as client:
        said = client.get(f"/v1/transactions/{row['transaction_id']}").json()["verdict"]
        assert said["replayed_at"] == f"{row['replayed_at'].isoformat()}+00:00"
        assert "replayed_at" not in client.post("/v1/transactions", json=payment()).json()
        assert "replayed_at" not in client.get("/v1/transactions/n0").json()["verdict"]


def test_the_queue_holds_alerts_until_they_are_answered(client: TestClient, store: Store) -> None:
    burst = {"customer_id": "c1", "timestamp": "2026-02-01T02:00:00Z"}
    rows = [payment(i, amount=9_000.0 + i, **burst) for i in range(30)] + [payment(30)]
    for row in rows[20:30]:
        row |= {"amount": 400_000.0, "currency": "JPY"}  # a larger number, and a smaller worth
    told = client.post("/v1/transactions:batch", json=rows).json()
    alerts = {t["transaction_id"] for t in told if t["decision"] != "approve"}
    client.headers.update(DESK)
    queue = client.get("/v1/reviews/queue").json()
    assert 0 < len(alerts) < 31
    assert alerts <= {item["transaction_id"] for item in queue}, "and of the others a sample"
    assert all(item["inclusion"] for item in queue)
    worth = {
        r["transaction_id"]: r["base_amount"]
        for r in store.rows("SELECT transaction_id, base_amount FROM transactions")
    }
    stakes = [item["risk"] * worth[item["transaction_id"]] for item in queue]
    assert stakes == sorted(stakes, reverse=True)
    assert {item["currency"] for item in queue} == {"EUR", "JPY"}
    first = queue[0]["transaction_id"]
    review = {"transaction_id": first, "answer": "fraud", "analyst": "anna", "note": "phoned"}
    assert client.post("/v1/reviews", json=review).status_code == 201
    assert first not in {item["transaction_id"] for item in client.get("/v1/reviews/queue").json()}
    assert client.post("/v1/reviews", json=review | {"answer": "maybe"}).status_code == 422
    assert client.post("/v1/reviews", json=review | {"transaction_id": "no"}).status_code == 404


def test_health_and_metrics_tell_how_it_is(client: TestClient) -> None:
    client.post("/v1/transactions", json=payment())
    client.post("/v1/transactions", json=payment(1, amount=1e13))
    health = client.get("/v1/health", headers={"Authorization": ""}).json()
    assert health["live"]
    assert health["ready"]
    assert health["transactions"] == 5_001
    text = client.get("/v1/metrics").text
    assert "aegis_refused_total 1.0" in text
    assert (
        sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("aegis_decisions_total")
        )
        == 1
    )


# ---- bad input


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": "12"}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": 1e-9}, "amount"),
        ({"amount": 1e308}, "amount"),
        ({"amount": None}, "amount"),
        ({"timestamp": "1900-01-01T00:00:00Z"}, "timestamp"),
        ({"timestamp": "2200-01-01T00:00:00Z"}, "timestamp"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp"),
        ({"timestamp": 1}, "timestamp"),
        ({"timestamp": "soon"}, "timestamp"),
        ({"customer_id": ""}, "customer_id"),
        ({"customer_id": "a\u0000b"}, "customer_id"),
        ({"customer_id": "x" * 201}, "customer_id"),
        ({"customer_id": 5}, "customer_id"),
        ({"transaction_id": "\n"}, "transaction_id"),
        ({"lat": 91, "lon": 0}, "lat"),
        ({"lat": 1.0}, "lat without lon"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_row_is_refused_with_its_field_and_kept(
    client: TestClient, store: Store, change: dict[str, Any], field: str
) -> None:
    answered = client.post("/v1/transactions", json=payment(**change))
    assert answered.status_code == 422
    assert field in answered.json()["detail"]
    (kept,) = store.rows("FROM rejected")
    assert kept["reason"] == answered.json()["detail"]
    assert store.rows("FROM verdicts") == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"nul", b'{"amount": NaN}', b"\xff\xfe", b"[" * 10_000]
)
def test_what_is_not_json_is_refused_and_kept(
    client: TestClient, store: Store, body: bytes
) -> None:
    kind = {"content-type": "application/json"}
    answered = client.post("/v1/transactions", content=body, headers=kind)
    assert answered.status_code == 422
    assert len(store.rows("FROM rejected")) == 1
    many = client.post("/v1/transactions:batch", content=body, headers=kind)
    assert many.status_code in (200, 400)


def test_bodies_of_other_kinds_or_too_large_are_refused(client: TestClient) -> None:
    text = {"content-type": "text/plain"}
    assert client.post("/v1/transactions", content=b"{}", headers=text).status_code == 415
    large = b" " * (api.LARGEST_BODY + 1)
    kind = {"content-type": "application/json"}
    assert client.post("/v1/transactions", content=large, headers=kind).status_code == 413
    many = json.dumps([{}] * (schemas.LARGEST_BATCH + 1)).encode()
    assert client.post("/v1/transactions:batch", content=many, headers=kind).status_code == 413
    assert client.post("/v1/transactions:batch", content=b"{}", headers=kind).status_code == 400


def test_a_hostile_name_is_a_name(client: TestClient, store: Store) -> None:
    name = "'; DROP TABLE verdicts; -- <script>\u202e"
    told = client.post("/v1/transactions", json=payment(transaction_id=name, merchant_id=name))
    assert told.json()["transaction_id"] == name
    assert client.post(
        "/v1/transactions", json=payment(transaction_id=name, merchant_id=name)
    ).json()["repeat"]
    assert store.rows("SELECT merchant_id AS m FROM transactions ORDER BY seq DESC LIMIT 1") == [
        {"m": name}
    ]


# ---- when the disk is full, when too much comes, when it starts again


def test_a_full_disk_is_a_503_that_loses_nothing_and_passes(
    client: TestClient, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/v1/transactions", json=payment())
    write = os.write

    def full(file: int, line: bytes) -> int:
        if bytes(line[9:12]) != b'{"n':  # of the journal
            return write(file, line)
        write(file, line[:40])  # a part still fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(2):
            refused = client.post("/v1/transactions", json=payment(1))
            assert refused.status_code == 503
            assert "No space" in refused.json()["detail"]
            assert refused.headers["retry-after"]
        assert client.get("/v1/health").status_code == 503
    told = client.post("/v1/transactions", json=payment(1))
    assert told.status_code == 200
    assert client.get("/v1/health").status_code == 200
    assert client.post("/v1/transactions", json=payment(1)).json()["score"] == told.json()["score"]
    assert parity(store, settings) == Parity(2, 0, None)


def test_while_the_tables_cannot_be_written_verdicts_are_answered_and_get_there_later(
    client: TestClient, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Session.append

    def full(self: Session, table: str, rows: Any) -> int:
        if table == "verdicts":
            raise StoreError("No space left on device")
        return append(self, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "append", full)
        told = [client.post("/v1/transactions", json=payment(i)).json() for i in range(3)]
        time.sleep(3 * EVERY_S)
        assert "No space" in client.get("/v1/health").json()["detail"]
        patch.setattr("aegis_core.serving.engine.MOST_WAITING", 2)
        refused = client.post("/v1/transactions", json=payment(3))
        assert (refused.status_code, "No space" in refused.json()["detail"]) == (503, True)
    time.sleep(1.0)
    assert "detail" not in client.get("/v1/health").json()
    kept = store.rows("SELECT transaction_id, score FROM verdicts ORDER BY seq")
    assert [tuple(k.values()) for k in kept] == [(t["transaction_id"], t["score"]) for t in told]
    assert parity(store, settings) == Parity(3, 0, None)


def test_beyond_capacity_it_says_when_to_come_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "QUEUE_ROWS", 10)
    answered = client.post("/v1/transactions:batch", json=[payment(i) for i in range(11)])
    assert answered.status_code == 429
    assert answered.headers["retry-after"] == "1"
    assert client.post("/v1/transactions", json=payment()).status_code == 200


@pytest.mark.fast
def test_a_restart_goes_on_from_the_snapshot_and_knows_every_id(
    store: Store, settings: Settings
) -> None:
    def run(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with served(store, settings) as client:
            told: list[dict[str, Any]] = client.post("/v1/transactions:batch", json=rows).json()
            return told

    first = run([payment(i) for i in range(50)])
    again = run([payment(i) for i in range(60)])
    assert [a["repeat"] for a in again] == [True] * 50 + [False] * 10
    assert [a["score"] for a in again[:50]] == [a["score"] for a in first]
    assert parity(store, settings) == Parity(60, 0, None)
    folded: list[int] = []
    with store.owned(), closing(Engine(store, settings, progress=folded.append)) as engine:
        same_as_folded(engine, store)
    assert sum(folded) == 0, "the snapshot holds all of it"


@pytest.mark.parametrize("harm", ["missing", "truncated", "foreign", "none"])
def test_a_broken_snapshot_is_ignored(store: Store, settings: Settings, harm: str) -> None:
    with store.owned(), closing(Engine(store, settings)) as engine:
        engine.score([schemas.checked(json.dumps(payment()).encode())[0] or {}])
        engine.save()
        for part in snapshot.folder_of(store.path).glob("*.profiles.npz"):
            if harm == "truncated":
                part.write_bytes(part.read_bytes()[:100])
            if harm == "missing":
                part.unlink()
    if harm == "foreign":
        with store.writing() as session:
            session.execute("UPDATE transactions SET amount = 1 WHERE transaction_id = 'n0'")
    folded: list[int] = []
    with store.owned():
        Engine(store, settings, progress=folded.append).close()
    assert (sum(folded) > 0) == (harm != "none")


def test_a_promotion_is_followed_within_a_moment(
    client: TestClient, store: Store, settings: Settings
) -> None:
    before = client.post("/v1/transactions", json=payment()).json()["model_version"]
    other = train(store, settings, Recipe(n_trees=10, max_samples=32, role="none")).version
    registry.promote(store, settings, other, who="anna")
    time.sleep(LOOK_S + 2 * EVERY_S)
    after = client.post("/v1/transactions", json=payment(1)).json()["model_version"]
    assert (before == other, after) == (False, other)
    assert parity(store, settings).different == 0


def test_a_reissued_card_keeps_its_customers_history(
    client: TestClient, store: Store, settings: Settings
) -> None:
    def sent(i: int, customer: str, **change: Any) -> dict[str, Any]:
        row = payment(i, customer_id=customer, **change)
        return dict(client.post("/v1/transactions", json=row).json())

    first, before = sent(1, "old card"), sent(2, "new card")
    lists.add(store, "deny", "new card", who="anna", why="stolen")
    told = client.post("/v1/links", json={"customer_id": "new card", "replaces": "old card"})
    assert (told.status_code, told.json()) == (201, {"new": 1, "stay": 1})
    both = [{"customer_id": "c3rd", "replaces": "new card"}, {"customer_id": "x", "replaces": "y"}]
    assert client.post("/v1/links", json=both).json() == {"new": 2, "stay": 0}
    assert client.post("/v1/links", json=both).json() == {"new": 0, "stay": 0}
    headers = {"content-type": "application/json"}
    odd = client.post(
        "/v1/links", content=rb'{"customer_id":"\ud800","replaces":"x"}', headers=headers
    )
    many = client.post("/v1/links", json=[{"customer_id": "x"}] * 10_001)
    assert (odd.status_code, many.status_code) == (422, 422)
    assert len(odd.content) + len(many.content) < 10_000, "what came is not sent back"
    circle = client.post("/v1/links", json=[both[0], {"customer_id": "y", "replaces": "x"}])
    assert (circle.status_code, "goes back to" in circle.text) == (422, True)

    again = sent(2, "new card")
    assert again == before | {"repeat": True}, "sent before the link and after it"
    assert sent(2, "stranger")["stored"]["card_id"] == "new card"
    after = sent(3, "c3rd")
    assert (first["decision"], after["decision"]) == ("approve", "block")
    assert "old card is on the deny list" in after["reasons"][0]["text"]
    assert sent(3, "c3rd") == after | {"repeat": True}
    for state in ("declined", "approved"):  # a try that becomes a payment
        row = payment(4, customer_id="new card", status=state)
        assert client.post("/v1/transactions", json=row).json()["repeat"] is False
    found = store.rows(
        "SELECT transaction_id AS id, customer_id AS c, card_id FROM transactions "
        "WHERE starts_with(transaction_id, 'n') ORDER BY seq"
    )
    assert [tuple(row.values()) for row in found] == [
        ("n1", "old card", None), ("n2", "new card", None), ("n3", "old card", "c3rd"),
        ("n4", "old card", "new card"), ("n4", "old card", "new card"),
    ]  # fmt: skip
    same_as_folded(client.app.app.state.service.engine, store)  # type: ignore[attr-defined]
    assert parity(store, settings).different == 0


def test_links_of_a_file_are_followed_within_a_moment(client: TestClient, store: Store) -> None:
    assert client.post("/v1/transactions", json=payment()).status_code == 200
    link(store, [("c0", "first")], "cards.csv", who="anna")
    time.sleep(LOOK_S + 2 * EVERY_S)
    client.post("/v1/transactions", json=payment(7))
    paid = store.rows("SELECT customer_id AS c FROM transactions WHERE seq >= 5000 ORDER BY seq")
    assert [row["c"] for row in paid] == ["c0", "first"]


# ---- the token


def test_the_token_is_made_once_and_readable_by_its_owner_alone(
    store: Store, settings: Settings
) -> None:
    token = token_of(store, settings)
    path = token_file(store)
    assert path.stat().st_mode & 0o777 == 0o600
    assert token_of(store, settings) == token
    path.chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        token_of(store, settings)
    given = config.load(home=settings.home, token="given-by-the-operator")
    assert token_of(store, given) == "given-by-the-operator"
    assert "operator" not in repr(given)
    with pytest.raises(InputError, match="too short"):
        token_of(store, config.load(home=settings.home, token="short"))


# ---- the two doors, and the place of an answer


_ODD = [
    {}, {"amount": 1e-300}, {"amount": 0.001}, {"amount": 0.00099},
    {"amount": 0.0}, {"amount": -1.0}, {"amount": 1e12},
    {"amount": 1.0000001e12}, {"amount": float("nan")}, {"amount": float("inf")},
    {"timestamp": "1970-01-01T00:00:00.000000Z"}, {"timestamp": "1970-01-01T00:00:00.000001Z"},
    {"timestamp": "2099-12-31T23:59:59.999999Z"}, {"timestamp": "2100-01-01T00:00:00Z"},
    {"customer_id": ""}, {"customer_id": "x" * 200}, {"customer_id": "x" * 201},
    {"customer_id": "ä" * 200}, {"merchant_id": "a\tb"}, {"merchant_id": "a\x7fb"},
    {"merchant_id": "a\x85b"}, {"merchant_id": "a\u200bb"}, {"merchant_id": "\u202e'; --"},
    {"lat": 90.0, "lon": -180.0}, {"lat": 90.0001, "lon": 0.0}, {"lat": 0.0, "lon": 180.5},
    {"lat": 1.0}, {"lon": 1.0}, {"currency": None}, {"channel": "x" * 201},
]  # fmt: skip


def test_both_doors_take_the_same_rows(client: TestClient, tmp_path: Path) -> None:
    rows = [payment(i, **change) for i, change in enumerate(_ODD)]
    body = "\n".join(json.dumps(row) for row in rows)
    kind = {"content-type": "application/x-ndjson"}
    told = client.post("/v1/transactions:batch", content=body, headers=kind).json()
    by_rest = [_ODD[i] for i, answer in enumerate(told) if "decision" in answer]
    columns: dict[str, list[Any]] = {
        name: [row.get(name) for row in rows] for name in (*payment(), "lat", "lon", "channel")
    }
    moments = [dt.datetime.fromisoformat(t).replace(tzinfo=None) for t in columns.pop("timestamp")]
    with connect(tmp_path / "other.duckdb").writing() as session:
        good, _ = checked(session, pa.table({**columns, "ts": moments}), "test", 10)
    taken = {int(t[1:]) for t in good.column("transaction_id").to_pylist()}
    assert by_rest == [change for i, change in enumerate(_ODD) if i in taken]
    assert 5 < len(by_rest) < len(rows)


def test_an_answer_from_another_process_is_known_from_where_the_engine_heard_of_it(
    client: TestClient, store: Store, settings: Settings
) -> None:
    rows = [payment(i, merchant_id=f"m{i % 3}") for i in range(60)]
    client.post("/v1/transactions:batch", json=rows[:20])
    train(store, settings, Recipe(detector="learner", role="champion", n_trees=10))
    time.sleep(LOOK_S + 2 * EVERY_S)
    client.post("/v1/transactions:batch", json=rows[20:40])
    with store.writing() as session:  # as an attached session leaves it
        session.execute(
            "INSERT INTO labels (transaction_id, is_fraud, known_at, after_seq) "
            "SELECT transaction_id, true, ts, NULL FROM transactions WHERE transaction_id = 'n3'"
        )
    client.post("/v1/transactions:batch", json=rows[40:50])  # before anybody heard of it
    time.sleep(LOOK_S + 2 * EVERY_S)
    client.post("/v1/transactions:batch", json=rows[50:])
    (label,) = store.rows("SELECT after_seq FROM labels WHERE transaction_id = 'n3'")
    assert label["after_seq"] == 5_049
    assert parity(store, settings) == Parity(60, 0, None)


COMPILED = """
import sys
from numba.core.dispatcher import Dispatcher
from aegis_core import config
from aegis_core.serving.engine import Engine
from aegis_core.store import connect

def compiled():
    return {
        (name, function): len(found.signatures)
        for name, module in list(sys.modules.items()) if name.startswith("aegis_core")
        for function, found in vars(module).items() if isinstance(found, Dispatcher)
    }

settings = config.load(home=sys.argv[1])
store = connect(settings.db)
with store.owned():
    engine = Engine(store, settings)
    before = compiled()
    row = {"customer_id": "c1", "ts": 1_770_000_000_000_000, "currency": "EUR"}
    rows = [row | {"transaction_id": f"w{i}", "amount": amount, "lat": lat, "lon": lat}
            for i, (amount, lat) in enumerate([(9.0, None), (9e6, None), (9e6, 40.0), (1.0, 0.0)])]
    decisions = {o.verdict["decision"] for row in rows for o in engine.score([row])}
    decisions |= {o.verdict["decision"] for o in engine.score(
        [row | {"transaction_id": f"b{i}", "amount": 9.0} for i in range(99)])}
    assert sum(before.values()) > 5 and len(decisions) > 1, (before, decisions)
    assert compiled() == before, set(compiled().items()) - set(before.items())
    engine.close()
"""


def test_nothing_is_compiled_after_the_service_is_ready(settings: Settings) -> None:
    command = [sys.executable, "-c", COMPILED, str(settings.home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- a file


def test_a_file_is_sent_to_a_running_service_and_again_where_it_stopped(
    client: TestClient, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"sent{i},c{i % 3},2026-02-03T0{i % 10}:00:00+09:00,{10 + i},no" for i in range(9)]
    rows += [
        "sent9,c1,2026-02-04,0.0001,no",
        "sent10,c1,2026-02-04,8,yes",
        "sent11,c2,2026-02-05,-5,no",
        *["sent12,4111111111111111,soon,8,no"] * 2,
    ]
    file = tmp_path / "today.csv"
    file.write_text("\n".join(["transaction_id,customer_id,ts,amount,is_fraud", *rows, ""]))
    batches = 0

    def send(self: Client, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise StoreBusy("The service is away.")
        told: list[dict[str, Any]] = client.post("/v1/transactions:batch", json=rows).json()
        return told

    def keep(self: Client, refused: list[dict[str, Any]]) -> int:
        return int(client.post("/v1/transactions:refused", json=refused).json()["new"])

    monkeypatch.setattr(Client, "send", send)
    monkeypatch.setattr(Client, "keep", keep)
    monkeypatch.setattr(sending, "BATCH", 4)
    line = Client("http://127.0.0.1:9", TOKEN)
    with pytest.raises(StoreBusy):
        sending.send_files(file, line, progress=False)
    sent = sending.send_files(file, line, progress=False)
    assert (sent.already_there, sent.labels) == (4, 11)
    assert sent.decisions.total() == 7
    assert sent.read.rejected == {
        "amount is below 0.001": 1,
        "ts is not a time, such as 2026-03-01T12:00:00Z": 2,
    }
    assert (sent.kept, sending.send_files(file, line, progress=False).kept) == (2, 0)
    client.app.app.state.service.engine.settled()  # type: ignore[attr-defined]
    kept = store.rows("SELECT source, reason, raw FROM rejected WHERE reason[:2] IN ('am', 'ts')")
    assert [(row["source"], row["reason"]) for row in kept] == [
        ("api", "amount is below 0.001"), ("api", "ts is not a time, such as 2026-03-01T12:00:00Z")
    ]  # fmt: skip
    taught = sending.send_files(file, line, labels_to=store, progress=False).taught
    assert (taught, sending.send_files(file, line, labels_to=store, progress=False).taught) == (
        11,
        0,
    )
    told = store.rows("FROM labels WHERE transaction_id LIKE 'sent%' AND is_fraud")
    assert [(row["transaction_id"], row["source"]) for row in told] == [("sent10", "today.csv")]
    assert '"ts":"soon"' in kept[1]["raw"]
    assert "411111******1111" in kept[1]["raw"]
    there = store.rows("FROM transactions WHERE transaction_id LIKE 'sent%' ORDER BY seq")
    assert [row["transaction_id"] for row in there] == [f"sent{i}" for i in (*range(9), 10, 11)]
    assert (there[1]["ts"].isoformat(), there[1]["utc_offset"]) == ("2026-02-02T16:00:00", 540)
    assert (there[-2]["clock"], there[-1]["kind"]) == ("date", "refund")
    known = store.value("SELECT transaction_id FROM transactions LIMIT 1")  # and never scored
    head = "transaction_id,customer_id,ts,amount"
    file.write_text(f"{head}\n{known},c,2026-01-01,1\nsent1,c,2026-01-01,1\n")
    refused = sending.send_files(file, line, progress=False).refused
    assert refused == {"transaction_id: known with other content": 2}
    file.write_text(f"{head},is_fraud\nsent1,c,2026-01-01,1,1\nsent13,c,2026-01-01,1,1\n")
    assert sending.send_files(file, line, labels_to=store, progress=False).taught == 1
    told = store.value("SELECT count(*) FROM labels WHERE transaction_id = 'sent1' AND is_fraud")
    assert told == 0, "a label of a row that was refused is of another transaction"
    file.write_text("customer_id,ts,amount\nc,2091-01-01,1\n")
    with pytest.raises(InputError, match=r"refuses all of 1 transactions.*ahead of the clock"):
        sending.send_files(file, line, progress=False)


PACS = (
    '{}<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pacs.008.001.08"><FIToFICstmrCdtTrf><GrpHdr>'
    "<MsgId>M</MsgId><NbOfTxs>{}</NbOfTxs></GrpHdr>{}</FIToFICstmrCdtTrf></Document>"
)


def transfer(number: int, amount: str = "25.00") -> str:
    """A transfer of a message, of a customer that `payment` knows."""
    sent = payment(number)
    return (
        f"<CdtTrfTxInf><PmtId><EndToEndId>E</EndToEndId><UETR>u{number}</UETR></PmtId>"
        f"<IntrBkSttlmAmt Ccy='EUR'>{amount}</IntrBkSttlmAmt><AccptncDtTm>{sent['timestamp']}"
        f"</AccptncDtTm><DbtrAcct><Id><IBAN>{sent['customer_id']}</IBAN></Id></DbtrAcct><Cdtr>"
        "<Nm>Quill Ltd</Nm></Cdtr></CdtTrfTxInf>"
    )


def test_the_transfers_of_a_message_are_scored_as_those_of_a_batch(
    client: TestClient, store: Store
) -> None:
    def send(body: str, kind: str = "application/xml") -> Any:
        return client.post("/v1/messages/pacs.008", content=body, headers={"content-type": kind})

    body = PACS.format("", 3, transfer(1) + transfer(2, "much") + transfer(3))
    first, bad, last = send(body).json()
    assert [first["transaction_id"], last["transaction_id"]] == ["u1", "u3"]
    assert bad == {"error": "CdtTrfTxInf 2: IntrBkSttlmAmt is not a number", "status": 422}
    assert [answer.get("repeat") for answer in send(body).json()] == [True, None, True]
    row = client.get("/v1/transactions/u1").json()["transaction"]
    assert (row["amount"], row["currency"], row["kind"]) == (25.0, "EUR", "transfer")

    guarded = PACS.format('<!DOCTYPE Document [<!ENTITY a "b">]>', 1, transfer(4))
    for whole, told in ((guarded, "DOCTYPE"), (body[:-40], "well-formed"), ("<a/>", "pacs.008")):
        refused = send(whole)
        assert refused.status_code == 422
        assert told in refused.json()["detail"]
    assert send(body, "application/json").status_code == 415
    assert client.get("/v1/transactions/u4").status_code == 404
    assert guarded in [row["raw"] for row in store.rows("FROM rejected")]
