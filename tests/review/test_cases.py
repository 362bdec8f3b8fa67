"""Cases, claims, answers that may be taken back: the laws of the analysts' queue."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aegis_core.detection.history import labels
from aegis_core.errors import InputError
from aegis_core.review import answers, cases, statistics
from aegis_core.review.cases import CLAIM_S, answer_case, claim, queue, release
from aegis_core.schema import ENTITIES
from aegis_core.store import Store, connect
from aegis_core.store.gate import Limits

NOON = dt.datetime(2026, 4, 1, 12)
HOSTILE = "'; DROP TABLE claims; -- \"><script>alert(1)</script>\u202e"
TEXT = "{'factor': 'amount', 'code': ?::VARCHAR, 'text': 'much', 'contribution': 1.0}"
SECOND = "hash(transaction_id) % 5 = 0"


ENTITY_COLUMNS = ", ".join(f"?::VARCHAR AS {name}" for name in ENTITIES)


def later(seconds: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=seconds)


def arrive(store: Store, rows: list[dict[str, Any]]) -> None:
    """Transactions with their verdicts: alerts, unless they say otherwise."""
    with store.writing() as session:
        first = session.next_seq()
        for i, given in enumerate(rows):
            row = {
                "id": f"t{first + i}", "customer": "anna", "minute": 0.0, "amount": 100.0,
                "risk": 99.0, "decision": "review", "inclusion": 1.0, "waits_s": 60.0,
                "model": "v1", "merchant_id": "m1", "code": "high", **given,
            }  # fmt: skip
            ts = NOON - dt.timedelta(days=1) + dt.timedelta(minutes=row["minute"])
            session.execute(
                "INSERT INTO transactions BY NAME SELECT ? AS seq, ? AS transaction_id, "
                "? AS customer_id, ?::TIMESTAMP AS ts, ?::DOUBLE AS amount, 'EUR' AS currency, "
                f"{ENTITY_COLUMNS}, 52.5 AS lat, 13.4 AS lon",
                [first + i, row["id"], row["customer"], ts, row["amount"], *map(row.get, ENTITIES)],
            )
            session.execute(
                "INSERT INTO verdicts BY NAME SELECT ? AS seq, ? AS transaction_id, "
                "? AS model_version, 0.8 AS score, ?::DOUBLE AS risk, ? AS decision, "
                f"[{TEXT}] AS reasons, ?::TIMESTAMP AS scored_at, ?::DOUBLE AS inclusion, "
                "{'amount': 0.5, 'travel': 0.0, 'hour': 0.0, 'burst': 0.0, 'merchant': 0.0, "
                "'customer': 0.0} AS contributions",
                [
                    *(first + i, row["id"], row["model"], row["risk"], row["decision"]),
                    *(row["code"], later(-row["waits_s"]), row["inclusion"]),
                ],
            )


@pytest.fixture
def held(store: Store) -> Iterator[Store]:
    """A store that this process holds open, which is quicker."""
    with store.owned():
        yield store


@pytest.fixture
def two(store: Store) -> Store:
    """Two customers with a case each; ben's has more at risk, anna's waits longer."""
    arrive(store, [{"waits_s": 300}, {"customer": "ben", "amount": 900.0}, {"minute": 5}])
    return store


def ids(store: Store, **asked: Any) -> list[str]:
    return [case["case_id"] for case in queue(store, **asked).cases]


# ---- cases


def test_a_case_is_one_customers_alerts_without_a_long_pause(held: Store) -> None:
    gap = cases.GAP_MINUTES
    arrive(held, [{}, {"minute": gap}, {"minute": 2 * gap + 1}, {"customer": "ben", "minute": 1}])
    found = {case["case_id"]: case for case in queue(held).cases}
    assert {name: case["waiting"] for name, case in found.items()} == {"t0": 2, "t2": 1, "t3": 1}
    assert found["t0"]["amount"] == 200.0
    assert found["t0"]["weight"] == pytest.approx(198.0)


def test_a_late_alert_that_closes_a_gap_makes_one_case_named_after_the_first_arrival(
    held: Store,
) -> None:
    arrive(held, [{"minute": 90}, {"minute": 0}])
    assert set(ids(held)) == {"t0", "t1"}
    arrive(held, [{"minute": 45}])
    assert ids(held) == ["t0"]


def test_what_nobody_is_asked_about_is_in_no_case(held: Store) -> None:
    arrive(held, [{"inclusion": None}, {"inclusion": float("nan"), "customer": "ben"}])
    assert ids(held) == []
    assert queue(held) == cases.Queue([], 0, 0, 0)


def test_the_queue_is_sorted_by_risk_times_amount_or_by_age(two: Store) -> None:
    assert ids(two, order="risk") == ["t1", "t0"]
    assert ids(two, order="age") == ["t0", "t1"]
    with pytest.raises(InputError, match="risk, age"):
        queue(two, order="amount; DROP TABLE reviews")


def test_the_queue_counts_all_cases_whatever_its_limit(two: Store) -> None:
    found = queue(two, limit=1)
    assert (len(found.cases), found.n_open) == (1, 2)


def test_a_snoozed_customer_is_left_out_until_the_transactions_clock_is_there(two: Store) -> None:
    cases.snooze(two, "anna", "2026-04-02", analyst="eve", why="travels")
    found = queue(two)
    assert ([case["case_id"] for case in found.cases], found.n_asleep) == (["t1"], 1)
    arrive(two, [{"customer": "carl", "minute": 60 * 48 + i} for i in range(100)])
    assert "t0" in ids(two)


@pytest.mark.parametrize("until", ["2020-01-01", "", "soon"])
def test_a_snooze_needs_an_end_that_is_still_to_come(two: Store, until: str) -> None:
    with pytest.raises(InputError, match="until"):
        cases.snooze(two, "anna", until, analyst="eve", why="x")
    with pytest.raises(InputError, match="no customer"):
        cases.snooze(two, HOSTILE, "2026-05-01", analyst="eve", why="x")
    assert two.rows("FROM lists") == []


# ---- claims


def test_a_claimed_case_is_nobody_elses(two: Store) -> None:
    made = claim(two, "anna", now=NOON)
    assert made is not None
    assert (made.case_id, made.until) == ("t1", later(CLAIM_S))
    with pytest.raises(InputError, match="anna works on this customer"):
        claim(two, "ben", "t1", now=later(1))
    with pytest.raises(InputError, match="anna works"):
        answer_case(two, "t1", "fraud", analyst="ben", now=later(1))
    other = claim(two, "ben", now=later(1))
    assert other is not None
    assert other.case_id == "t0"
    assert claim(two, "carl", now=later(2)) is None


def test_a_claim_ends_after_ten_minutes_when_released_and_with_the_last_answer(two: Store) -> None:
    claim(two, "anna", "t0", now=NOON)
    late = claim(two, "ben", "t0", now=later(CLAIM_S))
    assert late is not None
    assert late.analyst == "ben"
    assert release(two, "ben", now=later(CLAIM_S + 1)) == 1
    assert release(two, "ben", now=later(CLAIM_S + 1)) == 0
    claim(two, "carl", "t0", now=later(CLAIM_S + 2))
    answer_case(two, "t0", "fraud", analyst="carl", now=later(CLAIM_S + 3))
    assert cases.holds(two, "carl", now=later(CLAIM_S + 4)) == []
    assert len(two.rows("FROM claims")) == 5, "nothing is changed or removed"


def test_the_next_case_follows_the_one_before_and_lets_it_go(two: Store) -> None:
    arrive(two, [{"customer": "carl", "amount": 5.0}])
    order = ids(two)
    seen, after = [], ""
    for i in range(4):
        made = claim(two, "eve", after=after, now=later(i))
        assert made is not None
        seen.append(after := made.case_id)
        assert [held.case_id for held in cases.holds(two, "eve", now=later(i))] == [after]
    assert seen == [*order, order[0]]


def test_claiming_again_makes_the_time_begin_anew(two: Store) -> None:
    claim(two, "anna", "t0", now=NOON)
    again = claim(two, "anna", "t0", now=later(500))
    assert again is not None
    assert again.until == later(500 + CLAIM_S)


def test_late_alerts_that_join_cases_do_not_give_one_to_two_analysts(held: Store) -> None:
    arrive(held, [{"minute": 0}, {"minute": 90}])
    claim(held, "ben", "t1", now=NOON)
    with pytest.raises(InputError, match="ben works on this customer"):
        claim(held, "carl", "t0", now=NOON)
    arrive(held, [{"minute": 45}])
    with pytest.raises(InputError, match="ben works on this customer"):
        claim(held, "carl", "t0", now=NOON)


@pytest.mark.parametrize("jump_s", [-30, -300, -599])
def test_a_clock_that_is_set_back_gives_no_case_to_two(two: Store, jump_s: float) -> None:
    claim(two, "anna", "t0", now=NOON)
    with pytest.raises(InputError, match="anna works"):
        claim(two, "ben", "t0", now=later(jump_s))


def test_a_claim_of_a_clock_that_was_years_ahead_blocks_nobody(two: Store) -> None:
    ahead = dt.datetime(2036, 1, 1)
    claim(two, "anna", "t0", now=ahead)
    made = claim(two, "ben", "t0", now=NOON)
    assert made is not None
    for moment in (NOON, later(599), ahead, ahead + dt.timedelta(seconds=1)):
        holders = [who for who in ("anna", "ben") if cases.holds(two, who, now=moment)]
        assert len(holders) <= 1


def test_of_many_threads_that_want_one_case_one_gets_it(two: Store) -> None:
    got, refused = [], []

    def want(who: str) -> None:
        try:
            got.append(claim(two, who, "t0", now=NOON))
        except InputError:
            refused.append(who)

    threads = [threading.Thread(target=want, args=[f"a{i}"]) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)


WANT = """
import sys
from aegis_core.review.cases import claim
from aegis_core.errors import InputError
from aegis_core.store import connect
try:
    print(claim(connect(sys.argv[1]), sys.argv[2], "t0").analyst)
except InputError:
    print("refused")
"""


def test_of_two_processes_that_want_one_case_one_gets_it(two: Store) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WANT, str(two.path), who], stdout=subprocess.PIPE, text=True
        )
        for who in ("anna", "ben")
    ]
    told = [process.communicate(timeout=60)[0].strip() for process in running]
    assert sorted(told)[1] == "refused"
    assert sorted(told)[0] in ("anna", "ben")
    assert len(two.rows("FROM claims")) == 1


def test_of_two_that_write_through_the_owner_at_once_one_gets_the_case(
    two: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen the case free; the key of the table refuses one, who then sees it taken."""
    write, together, told, writes = cases._write, threading.Barrier(2), [], [0]

    def at_once(*given: Any, **more: Any) -> None:
        writes[0] += 1
        if writes[0] <= 2:
            together.wait(30)
        write(*given, **more)

    def want(store: Store, who: str) -> None:
        try:
            claim(store, who, "t0", now=NOON)
            told.append(who)
        except InputError as e:
            told.append(str(e))

    monkeypatch.setattr(cases, "_write", at_once)
    with two.owned(limits=Limits()):
        threads = [
            threading.Thread(target=want, args=[connect(two.path), who]) for who in ("anna", "ben")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([who for who in told if who in ("anna", "ben")]) == 1, told
        assert any("works on this customer" in said for said in told)
        assert len(two.rows("FROM claims")) == 1


# ---- answers


def test_an_answer_is_a_review_at_once_and_a_label_when_it_can_no_longer_be_taken_back(
    two: Store,
) -> None:
    made = answer_case(two, "t0", "fraud", analyst="anna", note="phoned", now=NOON)
    rows = two.rows("SELECT transaction_id, answer, analyst, note, undoes FROM reviews")
    assert [row["transaction_id"] for row in rows] == ["t0", "t2"]
    assert {(row["answer"], row["analyst"], row["note"]) for row in rows} == {
        ("fraud", "anna", "phoned")
    }
    assert ids(two) == ["t1"]
    assert answers.publish(two, now=later(9.9)) == 0
    assert two.rows("FROM labels") == []
    assert answers.publish(two, now=later(10)) == len(made) == 2
    assert answers.publish(two, now=later(11)) == 0, "once is enough"
    labels = two.rows("SELECT transaction_id, is_fraud, source, after_seq FROM labels")
    assert [row["transaction_id"] for row in labels] == ["t0", "t2"]
    assert {(row["is_fraud"], row["source"], row["after_seq"]) for row in labels} == {
        (True, "review", 2)
    }


def test_what_was_taken_back_is_never_taught_and_is_open_again(two: Store) -> None:
    made = answer_case(two, "t0", "fraud", analyst="anna", now=NOON)
    assert answers.undo(two, made, analyst="anna", now=later(5)) == ["t0", "t2"]
    assert answers.publish(two, now=later(60)) == 0
    assert two.rows("FROM labels") == []
    assert set(ids(two)) == {"t0", "t1"}
    kept = two.rows("SELECT answer, undoes FROM reviews ORDER BY rowid")
    assert [row["answer"] for row in kept] == ["fraud", "fraud", "undo", "undo"]
    assert [row["undoes"] for row in kept[2:]] == made
    answer_case(two, "t0", "legitimate", analyst="ben", now=later(61))
    answers.publish(two, now=later(80))
    assert labels(two).is_fraud.tolist() == [False, False]


@pytest.mark.parametrize(
    ("who", "after_s", "told"),
    [("ben", 5, "anna's"), ("anna", 10, "too late"), ("anna", 5_000, "too late")],
)
def test_only_who_answered_can_take_it_back_and_only_for_ten_seconds(
    two: Store, who: str, after_s: float, told: str
) -> None:
    made = answer_case(two, "t0", "fraud", analyst="anna", now=NOON)
    with pytest.raises(InputError, match=told):
        answers.undo(two, made, analyst=who, now=later(after_s))
    assert len(two.rows("FROM reviews")) == 2


def test_taking_back_is_all_or_nothing_and_once(two: Store) -> None:
    made = answer_case(two, "t0", "fraud", analyst="anna", now=NOON)
    for wrong in ([], [*made, "nobody's"], [*made, HOSTILE]):
        with pytest.raises(InputError):
            answers.undo(two, wrong, analyst="anna", now=later(1))
    assert len(two.rows("FROM reviews")) == 2
    answers.undo(two, made[:1], analyst="anna", now=later(1))
    with pytest.raises(InputError, match="already"):
        answers.undo(two, made, analyst="anna", now=later(2))
    (undone,) = two.rows("SELECT review_id FROM reviews WHERE undoes IS NOT NULL")
    with pytest.raises(InputError, match="no answer"):
        answers.undo(two, [undone["review_id"]], analyst="anna", now=later(2))


def test_an_answer_from_the_future_is_settled_and_not_kept_waiting(two: Store) -> None:
    """The clock was set back after it was given; nobody knows when its time is over."""
    answer_case(two, "t0", "fraud", analyst="anna", now=dt.datetime(2036, 1, 1))
    assert answers.publish(two, now=NOON) == 2


def test_an_answer_about_what_was_forgotten_meanwhile_stops_nobody(two: Store) -> None:
    answers.answer(two, "t0", "fraud", analyst="anna", hold_s=60)
    with two.writing() as session:
        session.execute("DELETE FROM transactions WHERE transaction_id = 't0'")
    assert answers.publish(two, now=later(1e9)) == 0
    answers.answer(two, "t1", "fraud", analyst="ben")
    assert labels(two).transaction_id.tolist() == ["t1"]
    assert answers.due(two, now=later(1e9)) == []


def test_one_transaction_of_a_case_is_answered_and_the_rest_stays(two: Store) -> None:
    claim(two, "anna", "t0", now=NOON)
    answer_case(two, "t0", "legitimate", analyst="anna", transaction_ids=["t2"], now=NOON)
    assert [row["open"] for row in cases.inside(two, "t0")] == [True, False]
    assert cases.holds(two, "anna", now=NOON)
    for wrong in (["t1"], ["t2"], [HOSTILE]):
        with pytest.raises(InputError, match="not open in the case"):
            answer_case(two, "t0", "fraud", analyst="anna", transaction_ids=wrong, now=NOON)


def test_a_case_that_was_answered_between_looking_and_answering_is_not_answered_twice(
    two: Store,
) -> None:
    def too_late(write: Callable[[], list[str]]) -> list[str]:
        answer_case(two, "t0", "legitimate", analyst="ben", transaction_ids=["t2"], now=NOON)
        return write()

    with pytest.raises(InputError, match="answered meanwhile"):
        answer_case(two, "t0", "fraud", analyst="anna", keep=too_late, now=NOON)
    assert [row["analyst"] for row in two.rows("FROM reviews")] == ["ben"]


def test_hostile_names_are_names(held: Store) -> None:
    arrive(held, [{"id": HOSTILE, "customer": HOSTILE}])
    made = claim(held, "Zoë O'Hara", now=NOON)
    assert made is not None
    assert (made.case_id, made.customer_id) == (HOSTILE, HOSTILE)
    answer_case(held, HOSTILE, "fraud", analyst="Zoë O'Hara", note=HOSTILE, now=NOON)
    assert held.rows("SELECT note FROM reviews") == [{"note": HOSTILE}]
    assert json.loads(json.dumps(HOSTILE)) == HOSTILE
    for nobody in ("", "  ", "a\0b", "x" * 201):
        with pytest.raises(InputError):
            claim(held, nobody, now=NOON)


def test_a_second_opinion_is_asked_of_another_analyst_and_told_as_agreement(held: Store) -> None:
    arrive(
        held,
        [
            {"customer": f"c{i}", "decision": "approve", "inclusion": 0.01, "risk": 1.0}
            for i in range(40)
        ],
    )
    twice = {
        row["transaction_id"]
        for row in held.rows(f"SELECT transaction_id FROM transactions WHERE {SECOND}")
    }
    assert 0 < len(twice) < 40
    for case_id in ids(held):
        answer_case(held, case_id, "legitimate", analyst="anna", hold_s=0, now=NOON)
    assert ids(held) == ids(held, analyst="anna") == []
    assert set(ids(held, analyst="ben")) == twice
    assert statistics.statistics(held, now=NOON)["agreement"]["share"] is None
    disagreed = sorted(twice)[0]
    for case_id in twice:
        said = "fraud" if case_id == disagreed else "legitimate"
        answer_case(held, case_id, said, analyst="ben", hold_s=0, now=later(1))
    assert ids(held, analyst="carl") == []
    agreed = statistics.statistics(held, now=later(2))["agreement"]
    assert agreed["n"] == len(twice)
    assert agreed["share"] == pytest.approx((len(twice) - 1) / len(twice))
    assert agreed["low"] < agreed["share"] < agreed["high"]


def test_statistics_count_what_stands_and_nothing_is_no_number(two: Store) -> None:
    empty = statistics.statistics(two, now=NOON)
    assert empty["n_open"] == 2
    assert (empty["oldest_s"], empty["median_s"]) == (300.0, 180.0)
    assert empty["precision"] == {"share": None, "low": None, "high": None, "n": 0}
    undone = answer_case(two, "t1", "fraud", analyst="anna", now=NOON)
    answers.undo(two, undone, analyst="anna", now=later(1))
    answer_case(two, "t0", "fraud", analyst="anna", transaction_ids=["t0"], now=later(2))
    answer_case(two, "t0", "legitimate", analyst="anna", transaction_ids=["t2"], now=later(2))
    told = statistics.statistics(two, now=later(3))
    assert (told["answered_today"], told["answered_a_day"]) == (2, 2 / 7)
    assert (told["precision"]["share"], told["precision"]["n"]) == (0.5, 2)
    week = statistics.statistics(two, now=NOON + dt.timedelta(days=8))
    assert (week["answered_today"], week["answered_a_day"]) == (0, 0.0)


def test_a_database_of_the_version_before_gets_the_columns_and_keeps_its_answers(
    two: Store, tmp_path: Path
) -> None:
    with two.writing() as session:
        for table in ("claims", "taught", "proposals"):
            session.execute(f"DROP TABLE {table}")
        for column in ("undoes", "held_until"):
            session.execute(f"ALTER TABLE reviews DROP COLUMN {column}")
        session.execute(
            "INSERT INTO reviews VALUES ('r1', 't1', 'fraud', 'anna', NULL, TIMESTAMP '2026-03-01')"
        )
        session.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    assert ids(two) == ["t0"]
    assert answers.publish(two, now=NOON) == 0, "of old, an answer was a label at once"
    assert claim(two, "anna", now=NOON) is not None


def test_an_answer_held_for_no_time_goes_the_same_way_and_is_a_label_at_once(two: Store) -> None:
    (first,) = answers.answer_all(two, ["t0"], "fraud", analyst="anna", now=NOON)
    assert [row["review_id"] for row in two.rows("FROM taught")] == [first]
    assert labels(two).is_fraud.tolist() == [True]
    with pytest.raises(InputError, match="too late"):
        answers.undo(two, [first], analyst="anna", now=NOON)


def test_whoever_answers_publishes_what_others_can_no_longer_take_back(two: Store) -> None:
    answers.answer_all(two, ["t0"], "fraud", analyst="anna", hold_s=10, now=NOON)
    answers.answer_all(two, ["t1"], "fraud", analyst="ben", hold_s=10, now=later(9))
    assert labels(two).empty
    answers.answer_all(two, ["t2"], "fraud", analyst="ben", hold_s=10, now=later(11))
    assert labels(two).transaction_id.tolist() == ["t0"]


def test_a_campaign_is_one_line_with_a_number_and_its_worst_case(held: Store) -> None:
    n = cases.floods.ALIKE
    arrive(held, [{"customer": f"c{i}", "amount": 10.0 * (i + 1)} for i in range(n)])
    arrive(held, [{"customer": f"l{i}", "waits_s": 5_000} for i in range(n - 1)])
    every, folded = queue(held), queue(held, fold=True)
    assert [len(every.cases), every.n_open, folded.n_open] == [2 * n - 1] * 3
    assert len(folded.cases) == n
    (line,) = [case for case in folded.cases if case["campaign"]]
    assert (line["campaign"], line["alike"], line["amount"]) == ("at m1", n, 10.0 * n)
    other = claim(held, "ben", "t0", now=NOON)
    assert other is not None
    assert other.case_id in ids(held, fold=True, now=NOON), "what somebody holds is shown"


@pytest.mark.parametrize(
    ("name", "said"),
    [("card_id", "with card x"), ("device_id", "at device x"), ("email", "of e-mail x"),
     ("ip", "from x"), ("merchant_id", "at x")],
)  # fmt: skip
def test_a_campaign_is_of_anything_that_enough_cases_share_within_minutes(
    held: Store, name: str, said: str
) -> None:
    n, wait = cases.floods.ALIKE, 60.0 * cases.floods.GAP_MINUTES
    own = [{"customer": f"c{i}", "merchant_id": f"own {i}", name: "x"} for i in range(2 * n)]
    late = {"waits_s": 60.0 + wait + 1}
    arrive(held, [*own[:n], *(row | late for row in own[n : 2 * n - 1])])
    found = [case["campaign"] for case in queue(held).cases]
    assert sorted(found, key=str) == [None] * (n - 1) + [said] * n
    arrive(held, [own[-1] | {"waits_s": 61.0 + wait}])
    assert {case["campaign"] for case in queue(held).cases} == {said}, "two waves of one"
    assert {case["alike"] for case in queue(held).cases} == {n}


def test_of_what_cases_share_what_one_holds_comes_before_what_strangers_share(held: Store) -> None:
    n = cases.floods.ALIKE
    arrive(held, [{"customer": f"c{i}", "device_id": "d1", "ip": "i1"} for i in range(n)])
    arrive(held, [{"customer": f"s{i}", "ip": "i1"} for i in range(n)])
    arrive(held, [{"customer": f"m{i}", "device_id": f"d{i}"} for i in range(2, 2 + n)])
    found = {case["customer_id"][0]: case for case in queue(held).cases}
    assert [found[c]["campaign"] for c in "csm"] == ["at device d1", "from i1", "at m1"]
    assert {case["alike"] for case in found.values()} == {n}
    arrive(held, [{"customer": f"x{i}", "merchant_id": None} for i in range(n)])
    found = {case["customer_id"][0]: case for case in queue(held, order="sample").cases}
    assert (found["x"]["campaign"], found["c"]["campaign"]) == ("for high", "at device d1")


def test_cards_tried_in_a_row_lead_the_queue_by_their_worst_and_wait_with_the_rest(
    held: Store,
) -> None:
    n = cases.floods.ALIKE
    tried = {"amount": 1.0, "device_id": "d", "code": "DEVICE-LIMIT"}
    arrive(held, [{"customer": "large", "amount": 9_000.0, "waits_s": 9_000}])
    arrive(held, [{"customer": f"m{i}"} for i in range(n)])
    arrive(held, [tried | {"customer": f"c{i}", "amount": 1.0 + i} for i in range(n - 1)])
    assert next(iter(ids(held))) == "t0", "so few are no campaign"
    arrive(held, [tried | {"customer": "last", "code": "high", "waits_s": 50}])
    order = ids(held)
    assert order[:2] == [f"t{2 * n - 1}", "t0"], "that at a shop is found by amounts"
    assert set(order[-n + 1 :]) == {f"t{i}" for i in range(n + 1, 2 * n + 1)} - {order[0]}
    assert ids(held, fold=True)[:2] == order[:2]
    assert next(iter(ids(held, order="age"))) == "t0"


def test_a_storm_s_queue_shows_a_sample_of_each_kind_before_the_rest(held: Store) -> None:
    arrive(held, [{"customer": f"c{i}", "amount": 500.0} for i in range(40)])
    arrive(held, [{"customer": "small", "amount": 5.0, "waits_s": 5_000}])
    assert ids(held).index("t40") == 40
    assert ids(held, order="sample").index("t40") == cases.SAMPLE
    assert sorted(ids(held, order="sample")) == sorted(ids(held)), "all can still be claimed"
