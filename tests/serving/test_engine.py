"""The engine, embedded: what is stored is what a replay gives, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aegis_core import config, store
from aegis_core.config import Settings
from aegis_core.detection import registry
from aegis_core.detection.comparison import compared
from aegis_core.detection.history import label_events
from aegis_core.detection.policy import inclusion
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.training import Recipe, train
from aegis_core.detection.verdicts import Verdicts
from aegis_core.errors import InputError, NotReady, StoreBusy, StoreError
from aegis_core.evaluation.parity import Parity, parity
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.review import answers, cases, lists
from aegis_core.serving import erasing, snapshot
from aegis_core.serving.engine import Engine
from aegis_core.store import Store

POPULATION = SyntheticConfig(n_transactions=6_000, n_customers=80, days=20)
Taught = tuple[Store, Settings, str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small history and a champion; tests work on copies of it."""
    home = tmp_path_factory.mktemp("trained")
    settings = config.load(home=home)
    db = store.connect(settings.db)
    write_history(db, POPULATION, progress=False)
    train(db, settings, Recipe(train_days=10))
    return home


@pytest.fixture
def settings(trained: Path, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    return config.load(home=home)


@pytest.fixture
def db(settings: Settings) -> Store:
    return store.connect(settings.db)


def taken(
    db: Store, settings: Settings, rows: pa.Table | pd.DataFrame, labels: pa.Table | None = None
) -> pd.DataFrame:
    """Verdicts of an engine of their own."""
    with Engine.open(db, settings) as engine:
        return engine.take(rows, "test", labels)


def arrivals(n: int) -> tuple[pa.Table, pa.Table]:
    parts = list(stream(POPULATION, n, fraud_multiplier=10.0))
    rows = pa.concat_tables([r.unify_dictionaries() for r, _ in parts])
    return rows, pa.concat_tables([labels for _, labels in parts])


def stored(db: Store) -> pd.DataFrame:
    return db.query(
        "SELECT transaction_id, score, risk, decision, evidence.amount AS amount, "
        "len(reasons) AS n_reasons FROM verdicts ORDER BY seq"
    )


def test_stored_verdicts_replay_bit_for_bit(db: Store, settings: Settings) -> None:
    rows, labels = arrivals(600)
    with Engine.open(db, settings) as engine:
        for start in range(0, 600, 70):
            engine.take(rows.slice(start, 70), "test", labels.slice(start, 70))
        proof = parity(db, settings)
        assert (proof.checked, proof.different) == (600, 0)
        assert db.rows("SELECT count(*) AS n FROM verdicts WHERE decision = 'block'")[0]["n"] > 0


def test_batches_of_any_size_give_the_same_verdicts(
    db: Store, settings: Settings, trained: Path, tmp_path: Path
) -> None:
    rows, _ = arrivals(300)
    taken(db, settings, rows)
    shutil.copytree(trained, tmp_path / "other")
    other = config.load(home=tmp_path / "other")
    other_db = store.connect(other.db)
    with Engine.open(other_db, other) as engine:
        for start in range(0, 300, 13):
            engine.take(rows.slice(start, 13), "test")
    pd.testing.assert_frame_equal(stored(db), stored(other_db), check_exact=True)


def test_a_repeated_transaction_keeps_its_first_verdict(db: Store, settings: Settings) -> None:
    rows, _ = arrivals(40)
    with Engine.open(db, settings) as engine:
        engine.take(rows, "test")
        before = stored(db)
        assert len(engine.take(rows, "test")) == 0
        pd.testing.assert_frame_equal(before, stored(db), check_exact=True)


def test_a_row_refused_at_the_door_is_kept_with_its_reason(db: Store, settings: Settings) -> None:
    good = arrivals(3)[0].to_pandas()
    bad = good.assign(transaction_id=["x", "y", "z"], amount=[1e-4, np.inf, 5.0])
    bad["customer_id"] = bad["customer_id"].astype(object)
    bad.loc[2, "customer_id"] = None
    verdicts = taken(db, settings, pd.concat([good, bad]))
    assert len(verdicts) == 3
    assert db.rows("SELECT count(*) AS n FROM rejected")[0]["n"] == 3
    assert parity(db, settings).different == 0


def test_a_full_disk_refuses_a_batch_and_keeps_it_with_the_next(
    db: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = arrivals(90)
    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 30), "test")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            with pytest.raises(StoreError, match="No space"):
                engine.take(rows.slice(30, 30), "test")
        assert len(stored(db)) == 30
        assert len(engine.take(rows.slice(30, 60), "test")) == 30, "the others have a verdict"
    assert len(stored(db)) == 90
    assert parity(db, settings) == Parity(90, 0, None)


def test_after_a_fault_between_scoring_and_keeping_memory_is_what_was_kept(
    taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, settings, learner = taught
    registry.promote(db, settings, learner, who="anna")
    rows, labels = arrivals(90)
    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 30), "test", labels.slice(0, 30))

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(Scorer, "verdicts_of", broken)
            with pytest.raises(ZeroDivisionError):
                engine.take(rows.slice(30, 30), "test")
        assert len(stored(db)) == 30
        assert len(engine.take(rows.slice(30, 60), "test", labels.slice(30, 60))) == 60
    assert parity(db, settings) == Parity(90, 0, None)


def test_ctrl_c_leaves_a_batch_whole_and_the_engine_at_work(
    db: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = arrivals(90)
    verdicts_of, scoring = Scorer.verdicts_of, threading.Event()

    def slow(*given: Any) -> Verdicts:
        scoring.set()
        time.sleep(0.3)
        return verdicts_of(*given)

    def press() -> None:
        scoring.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 30), "test")
        monkeypatch.setattr(Scorer, "verdicts_of", slow)
        presses = threading.Thread(target=press)
        presses.start()
        with pytest.raises(KeyboardInterrupt):
            engine.take(rows.slice(30, 30), "test")
        presses.join()
        assert len(engine.take(rows.slice(60, 30), "test")) == 30
    assert parity(db, settings) == Parity(90, 0, None)


KILLED = """
import sys
from aegis_core import config
from aegis_core.intake.synthetic import SyntheticConfig, stream
from aegis_core.serving.engine import Engine
from aegis_core.store import connect

settings = config.load(home=sys.argv[1])
made = SyntheticConfig(n_transactions=6_000, n_customers=80, days=20)
with Engine.open(connect(settings.db), settings) as engine:
    for rows, _ in stream(made, 100_000):
        for start in range(0, rows.num_rows, 7):
            for verdict in engine.take(rows.slice(start, 7), "test").itertuples():
                print(verdict.transaction_id, verdict.score.hex(), flush=True)
"""


def test_a_verdict_that_was_returned_outlasts_a_killed_process(
    db: Store, settings: Settings
) -> None:
    command = [sys.executable, "-c", KILLED, str(settings.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(100)]
        process.kill()
        told += process.stdout.read().splitlines(keepends=True)
    told = [line for line in told if line.endswith("\n")]
    kept = db.query("SELECT transaction_id, score FROM verdicts").set_index("transaction_id").score
    assert len(told) >= 100
    for line in told:
        name, score = line.split()
        assert kept[name].hex() == score
    assert parity(db, settings).different == 0


BESIDE = """
import sys
from aegis_core import config
from aegis_core.errors import StoreBusy
from aegis_core.review.answers import answer
from aegis_core.serving.engine import Engine
from aegis_core.store import connect

settings = config.load(home=sys.argv[1])
store = connect(settings.db)
rows = store.rows("SELECT transaction_id AS id FROM verdicts ORDER BY seq")
answer(store, rows[0]["id"], "fraud", analyst="anna")
try:
    with Engine.open(store, settings):
        pass
except StoreBusy as e:
    print(len(rows), e)
"""


def test_beside_an_engine_other_processes_read_and_answer_and_none_scores(taught: Taught) -> None:
    db, settings, learner = taught
    registry.promote(db, settings, learner, who="anna")
    rows, _ = arrivals(60)
    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 30), "test")
        told = subprocess.run(
            [sys.executable, "-c", BESIDE, str(settings.home)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert told.startswith("30 A service or a live stream owns")
        with pytest.raises(StoreBusy, match="alone writes transactions"):
            write_history(db, SyntheticConfig(n_transactions=10), progress=False)
        engine.take(rows.slice(30, 30), "test")
    (label,) = db.rows("SELECT after_seq FROM labels WHERE source = 'review'")
    assert label["after_seq"] == 6_029
    assert parity(db, settings) == Parity(60, 0, None)


def test_the_service_imports_neither_the_simulator_nor_a_client() -> None:
    code = "import sys, aegis_core.serving.server; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()  # fmt: skip
    assert "aegis_core.serving.engine" in done
    mine = {name.removeprefix("aegis_core.") for name in done}
    assert not mine & {
        "serving.simulate",
        "serving.client",
        "intake.synthetic",
        "evaluation.parity",
    }


def test_a_late_event_and_a_clock_jump_keep_parity(db: Store, settings: Settings) -> None:
    rows = arrivals(60)[0].to_pandas()
    rows["customer_id"] = rows["customer_id"].astype(str)
    rows.loc[20, "ts"] = rows.loc[20, "ts"] - pd.Timedelta(days=3)
    rows.loc[30, "ts"] = pd.Timestamp("2090-01-01")
    rows.loc[20:40, "customer_id"] = rows.loc[19, "customer_id"]
    taken(db, settings.with_any_clock(), rows)
    assert parity(db, settings) == Parity(60, 0, None)
    assert np.isfinite(stored(db)[["score", "risk", "amount"]]).all(axis=None)


def test_hostile_text_is_only_text(db: Store, settings: Settings) -> None:
    rows = arrivals(2)[0].to_pandas()
    rows["merchant_id"] = "'); DROP TABLE verdicts; --<script>alert(1)</script>"
    rows["customer_id"] = ['"; DELETE FROM labels', "Łódź ☃"]
    assert len(taken(db, settings, rows)) == 2
    assert set(db.query("SELECT merchant_id FROM transactions WHERE seq >= 6000").merchant_id) == {
        rows.loc[0, "merchant_id"]
    }


def test_an_engine_without_a_champion_says_what_to_do(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path)
    db = store.connect(settings.db)
    write_history(db, SyntheticConfig(n_transactions=10, n_customers=2, days=1), progress=False)
    with pytest.raises(NotReady, match="aegis run train"), Engine.open(db, settings):
        pass


@pytest.fixture(scope="module")
def learned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same with forty more confirmed frauds and a learner in shadow; its version."""
    home = tmp_path_factory.mktemp("learned") / "home"
    shutil.copytree(trained, home)
    settings = config.load(home=home)
    db = store.connect(settings.db)
    with db.writing() as session:
        session.execute(
            "INSERT INTO labels SELECT transaction_id, true, NULL, ts, 'bank', -1 "
            "FROM transactions WHERE ts < '2026-01-13' ORDER BY amount DESC LIMIT 40"
        )
    return home, train(db, settings, Recipe(detector="learner", n_trees=20)).version


@pytest.fixture
def taught(learned: tuple[Path, str], tmp_path: Path) -> tuple[Store, Settings, str]:
    shutil.copytree(learned[0], tmp_path / "taught")
    settings = config.load(home=tmp_path / "taught")
    return store.connect(settings.db), settings, learned[1]


def test_a_shadow_scores_what_the_champion_decides(taught: Taught, trained: Path) -> None:
    db, settings, learner = taught
    rows, _ = arrivals(120)
    taken(db, settings, rows)
    shadow = db.query("SELECT * FROM shadow_scores ORDER BY seq")
    assert set(shadow.model_version) == {learner}
    assert shadow.seq.tolist() == db.query("SELECT seq FROM verdicts ORDER BY seq").seq.tolist()
    assert shadow.score.between(0, 1).all()
    plain = config.load(home=trained)
    champion = registry.champion(store.connect(plain.db), plain).version
    assert db.rows("SELECT DISTINCT model_version AS v FROM verdicts") == [{"v": champion}]


def test_a_promotion_takes_effect_between_two_batches_and_verdicts_replay(taught: Taught) -> None:
    db, settings, learner = taught
    before = registry.champion(db, settings).version
    rows, labels = arrivals(400)
    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 100), "test", labels.slice(0, 100))
        registry.promote(db, settings, learner, who="anna")
        engine.take(rows.slice(100, 150), "test", labels.slice(100, 150))
        answered = db.rows("SELECT transaction_id FROM verdicts ORDER BY score DESC LIMIT 5")
        for row in answered:
            answers.answer(db, row["transaction_id"], "fraud", analyst="anna")
        engine.take(rows.slice(250, 100), "test", labels.slice(250, 100))
        registry.rollback(db, settings, who="ben")
        engine.take(rows.slice(350, 50), "test")
        made_by = db.query("SELECT model_version FROM verdicts ORDER BY seq").model_version
        assert made_by.tolist() == [before] * 100 + [learner] * 250 + [before] * 50
        assert parity(db, settings) == Parity(400, 0, None)


def test_an_engine_that_starts_anew_knows_the_same_answers(taught: Taught) -> None:
    db, settings, learner = taught
    registry.promote(db, settings, learner, who="anna")
    rows, _ = arrivals(90)
    taken(db, settings, rows.slice(0, 60))
    for row in db.rows("SELECT transaction_id FROM verdicts ORDER BY seq LIMIT 20"):
        answers.answer(db, row["transaction_id"], "fraud", analyst="anna")
    taken(db, settings, rows.slice(60, 10))
    taken(db, settings, rows.slice(70, 20))
    assert parity(db, settings) == Parity(90, 0, None)


def test_an_answer_that_was_taken_back_leaves_no_trace_in_verdicts_and_they_replay(
    taught: Taught,
) -> None:
    db, settings, learner = taught
    registry.promote(db, settings, learner, who="anna")
    rows, _ = arrivals(90)
    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 60), "test")
        asked = [row["id"] for row in db.rows("SELECT transaction_id AS id FROM verdicts LIMIT 20")]
        n_labels = db.rows("SELECT count(*) AS n FROM labels")
        given = answers.answer_all(db, asked, "fraud", analyst="anna", hold_s=10)
        answers.undo(db, given[5:], analyst="anna")
        engine.take(rows.slice(60, 10), "test")
        assert db.rows("SELECT count(*) AS n FROM labels") == n_labels, "held, or taken back"
        with db.writing() as session:  # as if ten seconds were over
            session.execute("UPDATE reviews SET held_until = answered_at WHERE undoes IS NULL")
        engine.take(rows.slice(70, 20), "test")
        said = db.rows("SELECT transaction_id AS id, after_seq FROM labels WHERE source = 'review'")
        assert [row["id"] for row in said] == asked[:5]
        (before,) = db.rows("SELECT seq FROM transactions ORDER BY seq DESC LIMIT 1 OFFSET 20")
        assert {row["after_seq"] for row in said} == {before["seq"]}
        assert parity(db, settings) == Parity(90, 0, None)


def test_an_answer_is_kept_as_review_and_as_label_and_known_from_then_on(taught: Taught) -> None:
    db, settings, _ = taught
    rows, _ = arrivals(30)
    taken(db, settings, rows)
    (last,) = db.rows("SELECT transaction_id, seq FROM transactions ORDER BY seq DESC LIMIT 1")
    answers.answer(db, last["transaction_id"], "fraud", analyst="anna", note="customer called")
    answers.answer(db, last["transaction_id"], "legitimate", analyst="ben")
    reviews = db.query("SELECT answer, analyst, note FROM reviews ORDER BY answered_at")
    assert reviews.answer.tolist() == ["fraud", "legitimate"]
    assert reviews.note[0] == "customer called"
    said = label_events(db, db.rows("SELECT count(*) AS n FROM labels")[0]["n"] - 2)
    assert said.is_fraud.tolist() == [True, False]
    assert said.earlier.tolist() == [False, False]
    assert (said.after_seq == last["seq"]).all()
    assert (said.known_at >= said.ts).all()


@pytest.mark.parametrize(
    ("transaction_id", "answer", "analyst", "told"),
    [
        ("nobody's", "fraud", "anna", "no transaction"),
        (None, "maybe", "anna", "no answer"),
        (None, "fraud", " ", "who"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_and_not_kept(
    db: Store, transaction_id: str | None, answer: str, analyst: str, told: str
) -> None:
    there = db.rows("SELECT transaction_id FROM transactions LIMIT 1")[0]["transaction_id"]
    with pytest.raises(InputError, match=told):
        answers.answer(db, transaction_id or there, answer, analyst=analyst)
    assert db.rows("FROM reviews") == []


def test_a_list_decides_from_the_next_batch_on_and_is_named_in_the_verdict(
    db: Store, settings: Settings
) -> None:
    rows, _ = arrivals(60)
    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 30), "test")
        frame = rows.to_pandas()
        customer = str(frame.customer_id.iloc[30])
        entry = lists.add(db, "deny", customer, who="anna", why="stolen phone")
        verdicts = engine.take(rows.slice(30, 30), "test")
        denied = verdicts[verdicts.customer_id == customer]
        assert len(denied)
        assert (denied.decision == "block").all()
        assert (denied.list_entry == entry.entry_id).all()
        assert denied.reasons.map(lambda r: "stolen phone" in r[0]["text"]).all()
        assert verdicts.list_entry[verdicts.customer_id != customer].isna().all()
        assert parity(db, settings).different == 0


def test_the_audit_sample_is_drawn_by_id_and_its_chance_is_kept(
    db: Store, settings: Settings
) -> None:
    train(
        db,
        settings.model_copy(update={"audit_share": 0.2}),
        Recipe(role="champion", train_days=10, n_trees=20),
    )
    verdicts = taken(db, settings, arrivals(500)[0])
    alerts = verdicts.decision != "approve"
    assert (verdicts.inclusion[alerts] == 1).all()
    drawn = verdicts.inclusion[~alerts].notna()
    assert (verdicts.inclusion[~alerts][drawn] == 0.2).all()
    assert 0.12 < drawn.mean() < 0.28
    again = inclusion(np.zeros(500, np.int8), verdicts.transaction_id, 0.2)
    assert (np.isfinite(again)[~alerts] == drawn).all()


def test_champion_and_challenger_are_compared_on_what_both_scored(taught: Taught) -> None:
    db, settings, learner = taught
    with pytest.raises(NotReady, match=r"^No challenger scored anything in shadow yet. Put one"):
        compared(db)
    rows, labels = arrivals(600)
    with Engine.open(db, settings) as engine:
        engine.take(rows, "test")
        table, told = compared(db)
        assert (table.transactions == 600).all()
        assert told.startswith("No fraud is known")
        with db.writing() as session:
            session.append("labels", labels)
        table, told = compared(db, learner)
        assert (table.frauds == labels.to_pandas().is_fraud.sum()).all()
        assert table.average_precision.between(0, 1).all()
        assert (table.caught <= table.alerts).all()
        assert learner in told
        assert "nine of ten" in told
        with pytest.raises(NotReady, match=r"^other scored nothing in shadow yet. Put it there"):
            compared(db, "other")


def test_answers_of_the_audit_sample_count_for_those_nobody_was_asked_about(
    db: Store, settings: Settings
) -> None:
    train(
        db,
        settings.model_copy(update={"audit_share": 0.25}),
        Recipe(role="champion", train_days=10, n_trees=20),
    )
    verdicts = taken(db, settings, arrivals(400)[0])
    assert "was answered yet" in registry.audited(db)
    asked = verdicts[verdicts.inclusion.notna()]
    frauds = 0
    for i, row in enumerate(asked.itertuples()):
        fraud = row.decision != "approve" or i % 7 == 0
        frauds += int(fraud) / row.inclusion
        answers.answer(db, row.transaction_id, "fraud" if fraud else "legitimate", analyst="anna")
    told = registry.audited(db)
    share = frauds / (1 / asked.inclusion).sum()
    assert f"{share:.2%} of what was answered for is fraud" in told
    assert f"{len(asked):,} answers" in told
    alerts = (asked.decision != "approve").sum()
    assert f"the alerts hold {alerts / frauds:.0%} of it" in told


def sent(one: str, status: str | None = None, **more: object) -> pd.DataFrame:
    """A payment as a frame: much money of a customer of the history, at a merchant of its own."""
    row = {"transaction_id": one, "customer_id": "C000001", "ts": pd.Timestamp("2026-03-30 12:00"),
           "amount": 9e5, "currency": "EUR", "merchant_id": "m", "status": status}  # fmt: skip
    return pd.DataFrame([row | more]).astype({"status": "str"} if status else {})


@pytest.mark.parametrize("first", ["declined", "failed"])
@pytest.mark.parametrize("then", ["take", "score", "change", "one group"])
def test_a_try_that_becomes_a_payment_is_judged_then(
    db: Store, settings: Settings, first: str, then: str
) -> None:
    """Its verdict is that of a payment that comes at that place in the order of arrival."""
    states = [first, "approved"]
    with Engine.open(db, settings) as engine:
        if then == "one group":
            both = engine.take(pd.concat([sent("t", s) for s in [*states, *states]]), "test")
            assert both.transaction_id.tolist() == ["t", "t"]
        else:
            engine.take(sent("t", first), "test")
            if then == "change":
                told = engine.thread.submit(engine.change, "t", "approved").result()
                assert told is not None
                assert told[0]["status"] == "approved"
                assert (told[1] or {})["decision"] != "approve"
            elif then == "take":
                assert len(engine.take(sent("t", "approved"), "test")) == 1
            else:
                row = sent("t", "approved").to_dict("records")[0]
                row["ts"] = int(row["ts"].value // 1_000)
                (outcome,) = engine.thread.submit(engine.score, [row]).result()
                assert (outcome.repeat, outcome.conflict) == (False, False)
        for status in (first, "approved"):  # messages that are sent again
            assert engine.take(sent("t", status), "test").empty
        engine.take(sent("other", None, amount=5.0, customer_id="C000002"), "test")
        found = db.rows(
            "SELECT t.seq, t.status, v.decision, v.score, v.inclusion FROM transactions t "
            "JOIN verdicts v USING (seq) WHERE t.transaction_id = 't' ORDER BY seq"
        )
        assert [row["status"] for row in found] == states
        tried, judged = found
        assert judged["seq"] == tried["seq"] + 1
        assert tried["decision"] == "approve"
        assert (judged["decision"] != "approve", judged["inclusion"]) == (True, 1)
        assert [(verdict or {})["seq"] for _, verdict in filter(None, [engine.find("t")])] == [
            judged["seq"]
        ]
        assert db.rows("FROM states") == []
        (row,) = db.rows("SELECT sum(n) AS n FROM rollups WHERE decision <> 'approve'")
        assert row["n"] == 1
        assert cases.queue(db).n_open == 1
        assert parity(db, settings).different == 0
        state = engine.state.scorer.profiles.state
        kept = [array.copy() for array in state]
        engine.save()
    with Engine.open(db, settings) as engine:  # from the snapshot
        assert engine.take(sent("t", "approved"), "test").empty
        again = engine.state.scorer.profiles.state
        assert all(np.array_equal(a, b) for a, b in zip(kept, again, strict=True))
    snapshot.remove(db.path)
    with Engine.open(db, settings) as engine:  # the history folded anew
        assert engine.take(sent("t", "approved"), "test").empty
        again = engine.state.scorer.profiles.state
        assert all(np.array_equal(a, b) for a, b in zip(kept, again, strict=True))


def test_a_payment_waits_for_an_answer_though_its_try_was_answered(
    db: Store, settings: Settings
) -> None:
    lists.add(db, "deny", "C000001", who="anna", why="lost card")
    with Engine.open(db, settings) as engine:
        engine.take(sent("t", "declined"), "test")
        assert cases.queue(db).n_open == 1
        answers.answer(db, "t", "legitimate", analyst="anna")
        assert cases.queue(db).n_open == 0
        engine.take(sent("t", "approved"), "test")
        (case,) = cases.queue(db).cases
        assert (case["n_all"], case["waiting"]) == (2, 1)
        cases.answer_case(db, case["case_id"], "fraud", analyst="anna")
        assert cases.queue(db).n_open == 0
        engine.take(sent("other", customer_id="C000002"), "test")
        (labels,) = db.rows("SELECT count(*) AS n FROM labels WHERE transaction_id = 't'")
        told = (label_events(db).transaction_id == "t").sum()
        assert told == labels["n"] > 0, "each once, though two rows have the id"
        assert parity(db, settings).different == 0


def test_a_customer_who_is_erased_leaves_neither_try_nor_payment(
    db: Store, settings: Settings
) -> None:
    with Engine.open(db, settings) as engine:
        for status in ("declined", "approved"):
            engine.take(sent("t", status, customer_id="gone"), "test")
        erasing.erase(db, settings, "gone", who="anna")
        left = db.rows("SELECT count(*) AS n FROM verdicts WHERE transaction_id = 't'")
        assert (left[0]["n"], engine.find("t")) == (0, None)
        engine.take(sent("other", customer_id="C000002"), "test")
        assert parity(db, settings).different == 0
