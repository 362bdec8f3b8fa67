"""Who may do what: each token is for one role, counts at once, and ends when it is revoked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from test_service import DESK, HEADERS, home, payment, served, settings, store  # noqa: F401

from aegis_core import config
from aegis_core.errors import InputError
from aegis_core.serving import strangers, token
from aegis_core.serving.client import _CALLS
from aegis_core.store import Store, connect

ALL = {"score", "casework", "view"}
OPEN_TO = {
    "POST /v1/transactions": {"score"},
    "POST /v1/transactions:batch": {"score"},
    "POST /v1/transactions:refused": {"score"},
    "POST /v1/messages/pacs.008": {"score"},
    "POST /v1/links": {"score"},
    "PUT /v1/transactions/{transaction_id}/status": {"score"},
    "GET /v1/transactions/{transaction_id}": ALL,
    "GET /v1/metrics": ALL,
    "GET /v1/health": {*ALL, "nobody"},
    "GET /v1/cases": {"casework", "view"},
    "GET /v1/cases/statistics": {"casework", "view"},
    "GET /v1/cases/what-if": {"casework", "view"},
    "GET /v1/reviews/queue": {"casework", "view"},
    "POST /v1/cases/claim": {"casework"},
    "POST /v1/cases/release": {"casework"},
    "POST /v1/cases/answer": {"casework"},
    "POST /v1/cases/snooze": {"casework"},
    "POST /v1/reviews": {"casework"},
    "POST /v1/reviews/undo": {"casework"},
    "POST /v1/proposals": {"casework"},
}


@pytest.fixture(scope="module")
def service(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:  # noqa: F811
    """A service for all tests here, with a scoring token of its own."""
    import shutil

    folder = tmp_path_factory.mktemp("tokens") / "home"
    shutil.copytree(home, folder)
    settings = config.load(home=folder)  # noqa: F811
    with served(connect(settings.db), settings) as client:
        yield client


@pytest.fixture
def its(service: TestClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of the service; who got a token in a test has none after it."""
    monkeypatch.setattr(strangers, "LOOK_S", 0.0)
    found: Store = service.app.app.state.service.store  # type: ignore[attr-defined]
    yield found
    token.given_file(found.path).unlink(missing_ok=True)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def routes(app: Any) -> set[str]:
    """Method and path of all routes under /v1, those of routers within routers as well."""
    found: set[str] = set()
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found |= routes(inner)
        elif route.path.startswith("/v1"):
            found |= {f"{method} {route.path}" for method in route.methods}
    return found


@pytest.mark.parametrize("role", [*token.ROLES, "nobody"])
def test_each_route_opens_to_its_roles_alone(service: TestClient, its: Store, role: str) -> None:
    app = service.app.app  # type: ignore[attr-defined]
    assert routes(app) == set(OPEN_TO), "say here and in the service which roles open a route"
    secret = "nobody's" if role == "nobody" else token.add(its, "one", role, who="root")
    refused = 401 if role == "nobody" else 403
    for route, roles in OPEN_TO.items():
        method, path = route.replace("{transaction_id}", "n0").split()
        told = service.request(method, path, headers=bearer(secret), json={})
        assert (told.status_code == refused) == (role not in roles), (route, told.text)
        if told.status_code == 403:
            needed = told.json()["detail"].partition("needs one for ")[2].rstrip(".")
            assert set(needed.split(" or ")) == roles, route


def test_a_token_of_another_role_is_no_stranger(service: TestClient, its: Store) -> None:
    def wrong_tokens() -> str:
        lines = service.get("/v1/metrics").text.splitlines()
        return next(line for line in lines if line.startswith("aegis_wrong_tokens_total"))

    before, view = wrong_tokens(), bearer(token.add(its, "wallboard", "view", who="root"))
    told = service.post("/v1/transactions", content=b"x" * 20_000, headers=view)
    assert told.status_code == 403, "before the body is looked at"
    assert "for view" in told.json()["detail"]
    assert service.post("/v1/cases/release", headers=HEADERS, json={}).status_code == 403
    assert wrong_tokens() == before
    assert service.get("/v1/cases", headers=bearer("casework-wrong")).status_code == 401
    assert wrong_tokens() != before


def test_a_token_counts_without_a_restart_until_it_is_revoked(
    service: TestClient, its: Store
) -> None:
    anna = bearer(secret := token.add(its, "anna", "casework", who="root"))
    assert service.get("/v1/cases", headers=anna).status_code == 200
    other = token.add(its, "producer", "score", who="root")
    row = payment(500)
    assert service.post("/v1/transactions", headers=bearer(other), json=row).status_code == 200
    with pytest.raises(InputError, match="anna has a token for casework"):
        token.add(its, "anna", "view", who="root")
    assert token.revoke(its, "anna", who="ben").role == "casework"
    assert service.get("/v1/cases", headers=anna).status_code == 401
    with pytest.raises(InputError, match="has no token"):
        token.revoke(its, "anna", who="ben")
    file = token.given_file(its.path)
    assert file.stat().st_mode & 0o777 == 0o600
    kept = {row["name"]: row["hash"] for row in json.loads(file.read_text())}
    assert list(kept) == ["producer", "anna"]
    assert kept["anna"] == ""
    with pytest.raises(InputError, match="no analyst's token"):  # a name alone never again
        token.analyst(its.path, "anna")
    told = its.rows("SELECT who, action, subject, details FROM audit WHERE subject = 'anna'")
    assert [(row["who"], row["action"]) for row in told[-2:]] == [
        ("root", "add token"), ("ben", "revoke token"),
    ]  # fmt: skip
    assert all('"role": "casework"' in row["details"] for row in told)
    assert other not in file.read_text()
    assert secret not in str(told)


def test_nobody_has_no_name_and_no_role_that_there_is_not(its: Store) -> None:
    for name, role, wrong in (("", "view", "Say who"), ("a\nb", "view", "control"),
                              ("anna", "scores", "Did you mean score")):  # fmt: skip
        with pytest.raises(InputError, match=wrong):
            token.add(its, name, role, who="root")
    assert token.given(its.path) == {}


@pytest.mark.parametrize("harm", ["others can read it", "it is cut", "a row is none"])
def test_where_the_tokens_cannot_be_used_no_given_one_counts(
    service: TestClient, its: Store, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    caplog.set_level(logging.INFO, "aegis.service")
    view, file = bearer(token.add(its, "wallboard", "view", who="root")), token.given_file(its.path)
    assert service.get("/v1/cases", headers=view).status_code == 200
    whole = file.read_text()
    if harm == "others can read it":
        file.chmod(0o644)
    else:
        file.write_text('[{"name": "a"}]' if harm == "a row is none" else whole[:50])
    assert service.get("/v1/cases", headers=view).status_code == 401
    assert service.get("/v1/transactions/n0", headers=HEADERS).status_code != 401
    assert "tokens_unusable" in caplog.text
    with pytest.raises(InputError, match=r"can be read by others|Delete it"):
        token.add(its, "other", "view", who="root")
    file.write_text(whole)
    file.chmod(0o600)
    assert service.get("/v1/cases", headers=view).status_code == 200


BODIES = {
    "/v1/cases/claim": {},
    "/v1/cases/release": {},
    "/v1/cases/answer": {"case_id": "none", "answer": "fraud"},
    "/v1/reviews": {"transaction_id": "n900", "answer": "fraud"},
    "/v1/reviews/undo": {"review_ids": ["none"]},
    "/v1/cases/snooze": {"customer_id": "c4", "until": "2026-02-20", "why": "travels"},
    "/v1/proposals": {"alert_budget": 0.01},
}


def test_an_analyst_acts_under_the_name_of_the_token_and_no_other(
    service: TestClient, its: Store
) -> None:
    assert {*_CALLS, "/v1/reviews"} == set(BODIES) == {
        path.split()[1] for path, roles in OPEN_TO.items() if roles == {"casework"}
    }  # fmt: skip
    service.post("/v1/transactions", json=payment(900))
    anna = bearer(token.add(its, "anna", "casework", who="root"))
    for path, body in BODIES.items():
        forged = service.post(path, headers=anna, json=body | {"analyst": "ben"})
        assert forged.status_code == 422, path
        assert "is that of anna, who cannot act as 'ben'" in forged.json()["detail"], path
        unnamed = service.post(path, headers=DESK, json=body)
        assert (unnamed.status_code, "Say who" in unnamed.text) == (422, True), path
    assert service.get("/v1/cases?analyst=ben", headers=anna).status_code == 422
    before = [its.rows(f"SELECT count(*) AS n FROM {t}") for t in ("reviews", "lists", "proposals")]
    assert before == [[{"n": 0}]] * 3
    for path in ("/v1/reviews", "/v1/cases/snooze", "/v1/proposals"):
        assert service.post(path, headers=anna, json=BODIES[path]).status_code == 201, path
    ben = service.post("/v1/proposals", headers=DESK, json=BODIES[path] | {"analyst": "ben"})
    assert ben.status_code == 201, "who can read the endpoint file may name anybody"
    assert its.rows("SELECT analyst FROM reviews") == [{"analyst": "anna"}]
    assert its.rows("SELECT who FROM lists") == [{"who": "anna"}]
    names = its.rows("SELECT who FROM proposals ORDER BY proposed_at")
    assert [row["who"] for row in names] == ["anna", "ben"]
