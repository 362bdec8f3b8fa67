"""The review page without a browser: what messages do, and what they cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cases import HOSTILE, arrive

from aegis_core import config
from aegis_core.config import Settings
from aegis_core.errors import InputError, StoreBusy
from aegis_core.review import cases
from aegis_core.serving import token
from aegis_core.store import Store
from aegis_core.views.dashboard.customer import page as customer_page
from aegis_core.views.review import page

PAGE = Path(page.__file__).parent


@pytest.fixture
def settings(tmp_path: Path, store: Store) -> Settings:
    return config.load(home=tmp_path, db=store.path)


@pytest.fixture
def open_(store: Store, settings: Settings) -> Iterator[page.Review]:
    """The page of anna on two cases, ben's first: its amount is larger."""
    before = [{"minute": -60.0 * i, "inclusion": None, "decision": "approve"} for i in range(1, 9)]
    with store.owned():
        arrive(store, [*before, {"amount": 500.0}, {"minute": 1}])
        arrive(store, [{"customer": HOSTILE, "id": HOSTILE, "amount": 900.0}])
        made = page.Review(store, settings, "anna")
        made.refresh()
        yield made


def told(made: page.Review) -> str:
    return str(made.page.told["text"])


def test_a_case_is_claimed_answered_taken_back_and_answered_again(
    open_: page.Review, store: Store
) -> None:
    assert [case["case_id"] for case in open_.page.queue["cases"]] == [HOSTILE, "t8"]
    open_.act({"do": "next"})
    assert open_.page.case["customer_id"] == HOSTILE
    open_.act({"do": "next"})
    assert open_.page.case["case_id"] == "t8"
    assert open_.page.case["until"] is not None
    open_.act({"do": "answer", "answer": "fraud", "note": "phoned"})
    assert open_.page.told["undo_s"] == 10
    assert store.rows("SELECT transaction_id AS id, note FROM reviews ORDER BY ALL") == [
        {"id": "t8", "note": "phoned"},
        {"id": "t9", "note": "phoned"},
    ]
    open_.act({"do": "undo"})
    assert "Taken back: 2" in told(open_)
    assert (open_.page.case["n_open"], open_.page.case["done"]) == (2, False)
    open_.act({"do": "pick", "transaction_id": "t9"})
    open_.act({"do": "answer", "answer": "legitimate", "one": True})
    assert [t["open"] for t in open_.page.case["transactions"]] == [True, False]
    open_.act({"do": "undo"})
    open_.act({"do": "undo"})
    assert "nothing to take back" in told(open_)


def test_answers_become_labels_without_a_service(open_: page.Review, store: Store) -> None:
    open_.act({"do": "next"})
    open_.act({"do": "answer", "answer": "fraud"})
    with store.writing() as session:  # as if ten seconds were over
        session.execute("UPDATE reviews SET held_until = answered_at")
    open_._publish_at = time.monotonic()
    open_.refresh()
    assert store.rows("SELECT transaction_id AS id FROM labels") == [{"id": HOSTILE}]


def test_nobody_answers_without_a_name_and_a_given_name_stays(
    open_: page.Review, store: Store, settings: Settings
) -> None:
    open_.act({"do": "name", "name": "mallory"})
    assert "for one analyst" in told(open_)
    nameless = page.Review(store, settings)
    for action in (*ACTIONS, "propose", "name"):
        nameless.act({"do": action})
        assert nameless.page.told["tone"] == "wrong"
    assert nameless.page.status["state"] == "asking"
    assert store.rows("FROM claims") == []
    nameless.act({"do": "name", "name": "  Zoë  "})
    assert nameless.page.status["who"] == "Zoë"


ACTIONS = ("next", "open", "pick", "answer", "undo", "release", "snooze", "sort", "what_if")
NONSENSE: list[dict[str, Any]] = [
    {},
    {"do": None},
    {"do": ["next"]},
    {"do": "_look_at"},
    {"do": "__class__"},
    {"do": "open"},
    {"do": "open", "case_id": 5},
    {"do": "open", "case_id": "'; DROP TABLE claims; --"},
    {"do": "answer", "answer": "perhaps"},
    {"do": "answer", "answer": "fraud", "note": "x" * 2_001},
    {"do": "answer", "answer": "fraud", "note": {"a": 1}},
    {"do": "answer", "answer": "undo"},
    {"do": "snooze", "until": "2020-01-01", "why": "x"},
    {"do": "snooze", "until": "2026-05-01", "why": ""},
    {"do": "sort", "order": "amount; DROP TABLE lists"},
    {"do": "propose", "budget": "0.1"},
    {"do": "propose", "budget": True},
    {"do": "propose", "budget": 7},
    {"do": "propose", "budget": float("nan")},
]


def test_a_message_that_makes_no_sense_changes_nothing_and_is_told(
    open_: page.Review, store: Store
) -> None:
    open_.act({"do": "next"})
    for content in NONSENSE:
        open_.act(content)
        assert open_.page.told["tone"] == "wrong", content
        assert "Traceback" not in told(open_)
    assert len(store.rows("FROM claims")) == 1
    for table in ("reviews", "labels", "lists", "proposals"):
        assert store.rows(f"FROM {table}") == []


def test_a_fault_of_ours_is_a_sentence_and_the_page_goes_on(
    open_: page.Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/secret/path")

    with monkeypatch.context() as patch:
        patch.setattr(cases, "claim", broken)
        open_.act({"do": "next"})
        assert told(open_) == "This did not work (ZeroDivisionError)."
    with monkeypatch.context() as patch:
        patch.setattr(cases, "queue", lambda *_, **__: (_ for _ in ()).throw(StoreBusy("busy")))
        open_.refresh()
        assert open_.page.status["state"] == "stale"
    open_.act({"do": "next"})
    assert open_.page.status["state"] == "live"


def test_the_page_tells_the_customers_history_and_the_whole_score(
    open_: page.Review, store: Store
) -> None:
    open_.act({"do": "open", "case_id": "t8"})
    shown = open_.page.case
    json.dumps(shown, allow_nan=False)
    verdict = shown["verdict"]
    parts = sum(part["value"] for part in verdict["parts"])
    assert verdict["base"] + parts == pytest.approx(verdict["score"])
    assert (shown["n_before"], sum(shown["hours"])) == (8, 8)
    assert shown["band"] == {"low": 100.0, "usual": 100.0, "high": 100.0}
    assert sorted(shown["history"]["kind"]) == ["case", *["paid"] * 8, "this"]
    assert shown["merchants"]["n_this"] == 8
    assert shown["places"]["usual"] == [{"lat": 52.5, "lon": 13.4, "n": 8}]
    hostile = customer_page(store, cases.inside(store, HOSTILE), "")
    assert hostile["customer_id"] == HOSTILE
    assert hostile["band"] is None


def test_who_else_had_the_same_device_is_told_and_nobody_else(store: Store) -> None:
    arrive(store, [{"device_id": HOSTILE, "ip": "i1"}, {"minute": 1, "email": "anna@x"}])
    assert customer_page(store, cases.inside(store, "t0"), "")["shared"] == []
    others = [{"customer": f"c{i}", "minute": i, "device_id": HOSTILE} for i in range(5)]
    arrive(store, [*others, others[4], {"customer": "far", "ip": "i2", "merchant_id": "m1"}])
    arrive(store, [{"customer": "near", "ip": "i1"}])
    device, ip = customer_page(store, cases.inside(store, "t0"), "")["shared"]
    assert (device["kind"], device["value"], device["others"]) == ("device", HOSTILE, 5)
    assert [(c["customer_id"], c["n"]) for c in device["customers"]] == [
        ("c4", 2), ("c3", 1), ("c2", 1),
    ]  # fmt: skip
    assert (ip["kind"], ip["others"], ip["customers"][0]["customer_id"]) == ("address", 1, "near")
    json.dumps([device, ip])


def test_who_gives_a_second_opinion_is_not_shown_the_first(store: Store) -> None:
    rows = [{"decision": "approve", "inclusion": 0.01, "minute": i} for i in range(40)]
    arrive(store, rows)
    cases.answer_case(store, "t0", "fraud", analyst="anna", hold_s=0)
    inside = cases.inside(store, "t0", analyst="ben")
    asked = {row["transaction_id"] for row in inside if row["open"]}
    assert asked
    shown = customer_page(store, inside, "")
    assert {e["transaction_id"] for e in shown["earlier"]}.isdisjoint(asked)
    assert "fraud" not in shown["history"]["kind"]
    assert "anna" not in json.dumps(shown["transactions"])


def test_the_report_says_what_it_is(
    open_: page.Review, store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page.show(store, settings, live=False) is None
    said = capsys.readouterr().out
    assert "nothing can be answered here" in said
    assert "2 cases are open" in said


def test_the_kernel_of_a_page_imports_neither_pandas_nor_plotly() -> None:
    heavy = "[m for m in ('pandas', 'plotly', 'sklearn', 'numba') if m in sys.modules]"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys, aegis_core.views.review.page; print({heavy})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


def test_the_page_has_a_log_in_of_its_own(settings: Settings) -> None:
    one, other = page.served_page(settings), page.served_page(settings, " anna ")
    assert one.token != other.token
    assert len(one.token) >= 16
    assert other.environment == {"AEGIS_ANALYST": "anna"}
    assert one.token not in repr(one)
    with pytest.raises(InputError, match="too short"):
        page.served_page(config.load(home=settings.home, review_token="short"))


def test_the_front_end_makes_nothing_of_markup() -> None:
    source = "".join((PAGE / f"{name}.js").read_text() for name in ("review_pictures", "review"))
    source += (PAGE.parent / "dashboard" / "element.js").read_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http:"):
        assert way not in source.replace('"http://www.w3.org/2000/svg"', "")


def test_where_analysts_have_tokens_the_page_asks_for_one_and_ends_with_it(
    store: Store, settings: Settings
) -> None:
    arrive(store, [{"amount": 500.0}])
    made = page.Review(store, settings)
    made.act({"do": "name", "name": "eve"})
    assert (made.page.status["who"], made.page.status["state"]) == ("eve", "live")
    secret = token.add(store, "anna", "casework", who="root")
    made.act({"do": "next"})
    assert (told(made), made.page.status["who"]) == ("Say who answers.", "")
    assert made.page.status["tokens"]
    for wrong in ("anna", "casework-wrong", token.add(store, "eye", "view", who="root")):
        made.act({"do": "name", "name": wrong})
        assert "no analyst's token" in told(made)
    made.act({"do": "name", "name": secret})
    made.act({"do": "next"})
    assert [claim.analyst for claim in cases.holds(store, "anna")] == ["anna"]
    made.act({"do": "snooze", "until": "2099-01-01", "why": "travels"})
    assert "lasts 90 days at most" in told(made)
    token.revoke(store, "anna", who="root")
    made.act({"do": "answer", "answer": "fraud"})
    assert (told(made), made.page.status["who"]) == ("Say who answers.", "")
    assert store.rows("FROM reviews") == []
