"""The live path: what is stored is what a replay gives, whatever happens in between."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

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
from aegis_core.detection.training import train
from aegis_core.errors import InputError, NotReady
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.review import answers, lists
from aegis_core.serving import live
from aegis_core.store import Store
from aegis_core.store.session import Session

POPULATION = SyntheticConfig(n_transactions=6_000, n_customers=80, days=20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small history and a champion; tests work on copies of it."""
    home = tmp_path_factory.mktemp("trained")
    settings = config.load(home=home)
    db = store.connect(settings.db)
    write_history(db, POPULATION, progress=False)
    train(db, settings, train_days=10)
    return home


@pytest.fixture
def settings(trained: Path, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    return config.load(home=home)


@pytest.fixture
def db(settings: Settings) -> Store:
    return store.connect(settings.db)


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
    stream_ = live.Stream(db, settings)
    for start in range(0, 600, 70):
        stream_.take(rows.slice(start, 70), "test", labels.slice(start, 70))
    parity = live.parity(db, settings)
    assert (parity.checked, parity.different) == (600, 0)
    assert db.rows("SELECT count(*) AS n FROM verdicts WHERE decision = 'block'")[0]["n"] > 0


def test_parity_sees_a_verdict_that_was_tampered_with(db: Store, settings: Settings) -> None:
    rows, _ = arrivals(50)
    live.Stream(db, settings).take(rows, "test")
    with db.writing() as session:
        session.execute(
            "UPDATE verdicts SET score = score + 1e-16 + score * 1e-15 "
            "WHERE seq = (SELECT max(seq) FROM verdicts)"
        )
    parity = live.parity(db, settings)
    assert parity.different == 1
    assert str(parity.first_different) in parity.sentence()


def test_batches_of_any_size_give_the_same_verdicts(
    db: Store, settings: Settings, trained: Path, tmp_path: Path
) -> None:
    rows, _ = arrivals(300)
    live.Stream(db, settings).take(rows, "test")
    shutil.copytree(trained, tmp_path / "other")
    other = config.load(home=tmp_path / "other")
    other_db = store.connect(other.db)
    one_by_one = live.Stream(other_db, other)
    for start in range(0, 300, 13):
        one_by_one.take(rows.slice(start, 13), "test")
    pd.testing.assert_frame_equal(stored(db), stored(other_db), check_exact=True)


def test_a_repeated_transaction_keeps_its_first_verdict(db: Store, settings: Settings) -> None:
    rows, _ = arrivals(40)
    stream_ = live.Stream(db, settings)
    stream_.take(rows, "test")
    before = stored(db)
    assert len(stream_.take(rows, "test")) == 0
    pd.testing.assert_frame_equal(before, stored(db), check_exact=True)


def test_a_row_refused_at_the_door_is_kept_with_its_reason(db: Store, settings: Settings) -> None:
    good = arrivals(3)[0].to_pandas()
    bad = good.assign(transaction_id=["x", "y", "z"], amount=[-1.0, np.inf, 5.0])
    bad["customer_id"] = bad["customer_id"].astype(object)
    bad.loc[2, "customer_id"] = None
    verdicts = live.Stream(db, settings).take(pd.concat([good, bad]), "test")
    assert len(verdicts) == 3
    assert db.rows("SELECT count(*) AS n FROM rejected")[0]["n"] == 3
    assert live.parity(db, settings).different == 0


def test_a_failed_write_leaves_file_and_memory_the_same(
    db: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = arrivals(90)
    stream_ = live.Stream(db, settings)
    stream_.take(rows.slice(0, 30), "test")
    append = Session.append

    def full_disk(self: Session, table: str, given: pd.DataFrame | pa.Table) -> int:
        if table == "verdicts":
            raise OSError("No space left on device")
        return append(self, table, given)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "append", full_disk)
        with pytest.raises(OSError, match="No space"):
            stream_.take(rows.slice(30, 30), "test")
    assert len(stored(db)) == 30
    assert db.rows("SELECT count(*) AS n FROM transactions")[0]["n"] == 6_030
    stream_.take(rows.slice(30, 60), "test")
    assert live.parity(db, settings) == live.Parity(90, 0, None)


def test_a_stream_learns_what_others_wrote_meanwhile(db: Store, settings: Settings) -> None:
    rows, _ = arrivals(100)
    first, second = live.Stream(db, settings), live.Stream(db, settings)
    first.take(rows.slice(0, 50), "first")
    second.take(rows.slice(50, 25), "second")
    first.take(rows.slice(75, 25), "first")
    assert live.parity(db, settings) == live.Parity(100, 0, None)


def test_a_late_event_and_a_clock_jump_keep_parity(db: Store, settings: Settings) -> None:
    rows = arrivals(60)[0].to_pandas()
    rows["customer_id"] = rows["customer_id"].astype(str)
    rows.loc[20, "ts"] = rows.loc[20, "ts"] - pd.Timedelta(days=3)
    rows.loc[30, "ts"] = pd.Timestamp("2090-01-01")
    rows.loc[20:40, "customer_id"] = rows.loc[19, "customer_id"]
    live.Stream(db, settings).take(rows, "test")
    assert live.parity(db, settings) == live.Parity(60, 0, None)
    assert np.isfinite(stored(db)[["score", "risk", "amount"]]).all(axis=None)


def test_hostile_text_is_only_text(db: Store, settings: Settings) -> None:
    rows = arrivals(2)[0].to_pandas()
    rows["merchant_id"] = "'); DROP TABLE verdicts; --<script>alert(1)</script>"
    rows["customer_id"] = ['"; DELETE FROM labels', "Łódź ☃"]
    assert len(live.Stream(db, settings).take(rows, "test")) == 2
    assert set(db.query("SELECT merchant_id FROM transactions WHERE seq >= 6000").merchant_id) == {
        rows.loc[0, "merchant_id"]
    }


def test_a_stream_without_a_champion_says_what_to_do(tmp_path: Path) -> None:
    settings = config.load(home=tmp_path)
    db = store.connect(settings.db)
    write_history(db, SyntheticConfig(n_transactions=10, n_customers=2, days=1), progress=False)
    with pytest.raises(NotReady, match="aegis run train"):
        live.Stream(db, settings)


def test_a_simulation_ends_after_its_transactions(db: Store, settings: Settings) -> None:
    said: list[str] = []
    tally = live.simulate(
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
    tally = live.simulate(
        db, settings, n_transactions=0, seconds=2, rate=20, say=lambda _: None, progress=False
    )
    assert time.monotonic() - began < 60
    assert 0 < tally.transactions <= 40


def test_a_second_simulation_goes_on_after_the_first(db: Store, settings: Settings) -> None:
    for _ in range(2):
        live.simulate(db, settings, n_transactions=30, say=lambda _: None, progress=False)
    assert len(stored(db)) == 60


@pytest.mark.parametrize(
    "wrong", [{"n_transactions": 0}, {"rate": -1.0}, {"fraud_multiplier": -1.0}]
)
def test_a_simulation_that_cannot_be_is_refused(
    db: Store, settings: Settings, wrong: dict[str, float]
) -> None:
    with pytest.raises(InputError):
        live.simulate(db, settings, **wrong)  # type: ignore[arg-type]


# ---- challengers, answers and lists


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
    return home, train(db, settings, detector="learner", n_trees=20).version


@pytest.fixture
def taught(learned: tuple[Path, str], tmp_path: Path) -> tuple[Store, Settings, str]:
    shutil.copytree(learned[0], tmp_path / "taught")
    settings = config.load(home=tmp_path / "taught")
    return store.connect(settings.db), settings, learned[1]


Taught = tuple[Store, Settings, str]


def test_a_shadow_scores_what_the_champion_decides(taught: Taught, trained: Path) -> None:
    db, settings, learner = taught
    rows, _ = arrivals(120)
    live.Stream(db, settings).take(rows, "test")
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
    stream_ = live.Stream(db, settings)
    stream_.take(rows.slice(0, 100), "test", labels.slice(0, 100))
    registry.promote(db, settings, learner, who="anna")
    stream_.take(rows.slice(100, 150), "test", labels.slice(100, 150))
    answered = db.rows("SELECT transaction_id FROM verdicts ORDER BY score DESC LIMIT 5")
    for row in answered:
        live.answer(db, row["transaction_id"], "fraud", analyst="anna")
    stream_.take(rows.slice(250, 100), "test", labels.slice(250, 100))
    registry.rollback(db, settings, who="ben")
    stream_.take(rows.slice(350, 50), "test")
    made_by = db.query("SELECT model_version FROM verdicts ORDER BY seq").model_version
    assert made_by.tolist() == [before] * 100 + [learner] * 250 + [before] * 50
    assert live.parity(db, settings) == live.Parity(400, 0, None)


def test_a_stream_that_starts_anew_knows_the_same_answers(taught: Taught) -> None:
    db, settings, learner = taught
    registry.promote(db, settings, learner, who="anna")
    rows, _ = arrivals(90)
    one = live.Stream(db, settings)
    one.take(rows.slice(0, 60), "test")
    for row in db.rows("SELECT transaction_id FROM verdicts ORDER BY seq LIMIT 20"):
        live.answer(db, row["transaction_id"], "fraud", analyst="anna")
    live.Stream(db, settings).take(rows.slice(60, 10), "test")  # another process
    one.take(rows.slice(70, 20), "test")
    assert live.parity(db, settings) == live.Parity(90, 0, None)


def test_an_answer_that_was_taken_back_leaves_no_trace_in_verdicts_and_they_replay(
    taught: Taught,
) -> None:
    db, settings, learner = taught
    registry.promote(db, settings, learner, who="anna")
    rows, _ = arrivals(90)
    one = live.Stream(db, settings)
    one.take(rows.slice(0, 60), "test")
    asked = [row["id"] for row in db.rows("SELECT transaction_id AS id FROM verdicts LIMIT 20")]
    n_labels = db.rows("SELECT count(*) AS n FROM labels")
    given = answers.answer_all(db, asked, "fraud", analyst="anna", hold_s=10)
    answers.undo(db, given[5:], analyst="anna")
    one.take(rows.slice(60, 10), "test")
    assert db.rows("SELECT count(*) AS n FROM labels") == n_labels, "held, or taken back"
    with db.writing() as session:  # as if ten seconds were over
        session.execute("UPDATE reviews SET held_until = answered_at WHERE undoes IS NULL")
    one.take(rows.slice(70, 20), "test")
    said = db.rows("SELECT transaction_id AS id, after_seq FROM labels WHERE source = 'review'")
    assert [row["id"] for row in said] == asked[:5]
    (before,) = db.rows("SELECT seq FROM transactions ORDER BY seq DESC LIMIT 1 OFFSET 20")
    assert {row["after_seq"] for row in said} == {before["seq"]}
    assert live.parity(db, settings) == live.Parity(90, 0, None)


def test_an_answer_is_kept_as_review_and_as_label_and_known_from_then_on(taught: Taught) -> None:
    db, settings, _ = taught
    rows, _ = arrivals(30)
    live.Stream(db, settings).take(rows, "test")
    (last,) = db.rows("SELECT transaction_id, seq FROM transactions ORDER BY seq DESC LIMIT 1")
    live.answer(db, last["transaction_id"], "fraud", analyst="anna", note="customer called")
    live.answer(db, last["transaction_id"], "legitimate", analyst="ben")
    reviews = db.query("SELECT answer, analyst, note FROM reviews ORDER BY answered_at")
    assert reviews.answer.tolist() == ["fraud", "legitimate"]
    assert reviews.note[0] == "customer called"
    said = label_events(db, db.rows("SELECT count(*) AS n FROM labels")[0]["n"] - 2)
    assert said.is_fraud.tolist() == [True, False]
    assert said.before.fillna(False).tolist() == [False, True]
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
        live.answer(db, transaction_id or there, answer, analyst=analyst)
    assert db.rows("FROM reviews") == []


def test_a_list_decides_from_the_next_batch_on_and_is_named_in_the_verdict(
    db: Store, settings: Settings
) -> None:
    rows, _ = arrivals(60)
    stream_ = live.Stream(db, settings)
    stream_.take(rows.slice(0, 30), "test")
    frame = rows.to_pandas()
    customer = str(frame.customer_id.iloc[30])
    entry = lists.add(db, "deny", customer, who="anna", why="stolen phone")
    verdicts = stream_.take(rows.slice(30, 30), "test")
    denied = verdicts[verdicts.customer_id == customer]
    assert len(denied)
    assert (denied.decision == "block").all()
    assert (denied.list_entry == entry.entry_id).all()
    assert denied.reasons.map(lambda r: "stolen phone" in r[0]["text"]).all()
    assert verdicts.list_entry[verdicts.customer_id != customer].isna().all()
    assert live.parity(db, settings).different == 0


def test_the_audit_sample_is_drawn_by_id_and_its_chance_is_kept(
    db: Store, settings: Settings
) -> None:
    champion = registry.champion(db, settings)
    lenient = dataclasses.replace(champion.policy, audit_share=0.2)
    lenient.save(settings.home / db.rows("SELECT path FROM models")[0]["path"])
    verdicts = live.Stream(db, settings).take(arrivals(500)[0], "test")
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
    stream_ = live.Stream(db, settings)
    stream_.take(rows, "test")
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
    champion = registry.champion(db, settings)
    some = dataclasses.replace(champion.policy, audit_share=0.25)
    some.save(settings.home / db.rows("SELECT path FROM models")[0]["path"])
    verdicts = live.Stream(db, settings).take(arrivals(400)[0], "test")
    assert "was answered yet" in registry.audited(db)
    asked = verdicts[verdicts.inclusion.notna()]
    frauds = 0
    for i, row in enumerate(asked.itertuples()):
        fraud = row.decision != "approve" or i % 7 == 0
        frauds += int(fraud) / row.inclusion
        live.answer(db, row.transaction_id, "fraud" if fraud else "legitimate", analyst="anna")
    told = registry.audited(db)
    share = frauds / (1 / asked.inclusion).sum()
    assert f"{share:.2%} of what was answered for is fraud" in told
    assert f"{len(asked):,} answers" in told
    alerts = (asked.decision != "approve").sum()
    assert f"the alerts hold {alerts / frauds:.0%} of it" in told
