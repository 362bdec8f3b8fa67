"""`aegis score`: what was imported is judged as it would have been live, and marked."""

# ruff: noqa: F811 (fixtures)

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet
from test_engine import Taught, arrivals, db, learned, settings, taken, taught, trained  # noqa: F401

from aegis_core import config, store
from aegis_core.cli import main
from aegis_core.config import NotifyRule, Settings
from aegis_core.detection import following, registry, retention
from aegis_core.errors import InputError, NotReady, StoreBusy
from aegis_core.evaluation.drift import traffic
from aegis_core.evaluation.parity import Parity, parity
from aegis_core.intake.importing import import_files
from aegis_core.review import cases, lists
from aegis_core.runs import execution
from aegis_core.runs.notify import events
from aegis_core.serving import erasing, replaying, snapshot
from aegis_core.serving.engine import Engine
from aegis_core.serving.replaying import score_past
from aegis_core.store import Store, rollups

EVER = dt.datetime(1970, 1, 1)
SAME = """SELECT * EXCLUDE (scored_at, replayed_at, aside, list_entry), list_entry IS NULL AS listed
    FROM verdicts ORDER BY seq"""


def imported(db: Store, rows: pa.Table, folder: Path, name: str = "own") -> pd.Timestamp:
    """Bring rows in as a file does, without a verdict; the time of the first."""
    path = folder / f"{name}.parquet"
    parquet.write_table(rows.drop_columns("source"), path)
    import_files([path], db, progress=False)
    return pd.Timestamp(pc.min(rows["ts"]).as_py())


def live(db: Store, settings: Settings, rows: pa.Table) -> None:
    """Let the rows arrive, cut as the replay cuts them, so that a budget is followed alike."""
    with Engine.open(db, settings) as engine:
        for part in replaying._parts(rows.select(["ts"]).to_pandas()):
            engine.take(rows.slice(part.start, part.stop - part.start), "own.parquet")


@pytest.fixture(params=["forest", "learner"])
def pair(
    request: pytest.FixtureRequest, db: Store, settings: Settings, taught: Taught, tmp_path: Path
) -> list[tuple[Store, Settings]]:
    """The same database twice, with a champion of either kind."""
    if request.param == "learner":
        db, settings, learner = taught
        registry.promote(db, settings, learner, who="anna")
    other = shutil.copytree(settings.home, tmp_path / "other")
    there = config.load(home=other)
    return [(db, settings), (store.connect(there.db), there)]


def test_a_replay_gives_every_verdict_that_live_scoring_would_have_given(
    pair: list[tuple[Store, Settings]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "FEWEST", 1)  # so that the threshold follows these few days
    rows, _ = arrivals(1_500)
    rows = rows.sort_by("ts")
    (one, here), (two, there) = pair
    listed = rows["merchant_id"][3].as_py()
    for each in (one, two):
        lists.add(each, "allow", listed, field="merchant", who="anna", why="own shop")
    live(one, here, rows)
    since = imported(two, rows, tmp_path)
    done = score_past(two, there, since.to_pydatetime(), who="anna")
    assert sum(done.decisions.values()) == 1_500
    assert min(done.decisions.values()) > 0
    assert two.value("SELECT count(*) FROM thresholds WHERE review_above > trained_above") > 1
    pd.testing.assert_frame_equal(one.query(SAME), two.query(SAME), check_exact=True)
    for table in (
        "SELECT * EXCLUDE set_at FROM thresholds",
        "SELECT seq, base_amount FROM transactions",
    ):
        pd.testing.assert_frame_equal(one.query(table), two.query(table), check_exact=True)
    for each, its in pair:
        assert parity(each, its) == Parity(1_500, 0, None)
    more, _ = arrivals(1_700)
    for each, its in pair:
        taken(each, its, more.slice(1_500))
    pd.testing.assert_frame_equal(one.query(SAME), two.query(SAME), check_exact=True)
    assert parity(two, there) == Parity(1_700, 0, None)


def test_replayed_verdicts_say_so_stand_at_the_time_of_the_payment_and_are_counted(
    db: Store, settings: Settings, tmp_path: Path
) -> None:
    rows, _ = arrivals(400)
    imported(db, rows, tmp_path)
    score_past(db, settings, EVER, who="anna")
    (told,) = db.rows(
        "SELECT count(*) AS n, count(replayed_at) AS marked, bool_or(aside) AS aside, "
        "bool_and(scored_at = ts) AS at FROM verdicts JOIN transactions USING (seq)"
    )
    assert told == {"n": 6_400, "marked": 6_400, "aside": False, "at": True}
    with db.reading() as session:
        assert rollups.missing(session) == 0
    found = cases.queue(db).cases
    assert {case["replayed"] for case in found} == {True}
    assert all(row["replayed"] for row in cases.inside(db, found[0]["case_id"]))
    (entry,) = db.rows("SELECT who, details FROM audit WHERE action = 'replay'")
    assert entry["who"] == "anna"
    assert json.loads(entry["details"])["transactions"] == 6_400


def test_parts_of_any_size_give_the_same_verdicts(
    pair: list[tuple[Store, Settings]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = arrivals(400)
    for n, (each, its) in zip((50_000, 37), pair, strict=True):
        imported(each, rows, tmp_path)
        monkeypatch.setattr(replaying, "_ROWS", n)
        score_past(each, its, 10.0, who="anna")
    (one, _), (two, _) = pair
    pd.testing.assert_frame_equal(one.query(SAME), two.query(SAME), check_exact=True)
    assert one.value("SELECT count(*) FROM verdicts") > 400


def test_a_verdict_that_is_there_stays_and_a_second_replay_changes_nothing(
    db: Store, settings: Settings, tmp_path: Path
) -> None:
    rows, _ = arrivals(900)
    taken(db, settings, rows.slice(0, 300))
    first = db.query("FROM verdicts ORDER BY seq")
    imported(db, rows.slice(300, 300), tmp_path)
    taken(db, settings, rows.slice(600))
    given = db.query("FROM verdicts ORDER BY seq")
    assert parity(db, settings) == Parity(600, 0, None)
    imported(db, rows.slice(600), tmp_path, "again")
    done = score_past(db, settings, EVER, who="anna")
    assert (sum(done.decisions.values()), done.n_aside) == (6_300, 6_300)
    assert any("stand aside" in line for line in done.lines())
    now = db.query("FROM verdicts ORDER BY seq")
    kept = now[now.replayed_at.isna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, given[given.columns], check_exact=True)
    assert (now.transaction_id.head(1) != first.transaction_id.head(1)).all()
    assert parity(db, settings) == Parity(6_900, 0, None)
    again = score_past(db, settings, EVER, who="anna")
    assert [*again.lines()] == [
        "Every payment since 1970-01-01 00:00 UTC has a verdict; nothing was changed."
    ]
    assert len(db.rows("FROM audit WHERE action = 'replay'")) == 1
    with db.reading() as session:
        assert rollups.missing(session) == 0


def test_a_replay_after_the_last_live_payment_teaches_and_drops_the_snapshot(
    db: Store, settings: Settings, tmp_path: Path
) -> None:
    rows, _ = arrivals(900)
    with Engine.open(db, settings) as engine:
        engine.take(rows.slice(0, 300), "test")
        engine.save()
    imported(db, rows.slice(300, 300), tmp_path)
    with Engine.open(db, settings) as engine:
        engine.save()  # of a history without the decisions to come
    done = score_past(db, settings, 30.0, who="anna")
    assert done.decisions["block"] > 0
    assert 0 < done.n_aside < sum(done.decisions.values()) - 200
    assert not list(snapshot.folder_of(db.path).glob("*"))
    taken(db, settings, rows.slice(600))
    proof = parity(db, settings)
    assert (proof.checked, proof.different) == (sum(done.decisions.values()) + 600, 0)


def test_live_verdicts_before_a_replay_still_count_as_proved(
    db: Store, settings: Settings, tmp_path: Path
) -> None:
    rows, _ = arrivals(400)
    taken(db, settings, rows.slice(0, 200))
    since = imported(db, rows.slice(200), tmp_path)
    score_past(db, settings, since.to_pydatetime(), who="anna")
    assert parity(db, settings) == Parity(400, 0, None)


def test_verdicts_of_an_older_pass_are_not_taken_for_those_of_this_one(
    db: Store, settings: Settings, tmp_path: Path
) -> None:
    rows, _ = arrivals(600)
    taken(db, settings, rows.slice(0, 300))
    with db.writing() as session:  # as a version left them that computed otherwise
        session.execute("DELETE FROM meta WHERE starts_with(key, 'pass ')")
        session.execute("UPDATE verdicts SET score = score / 2")
    imported(db, rows.slice(300), tmp_path)
    score_past(db, settings, EVER, who="anna")
    assert parity(db, settings) == Parity(300, 0, None, older=6_300)


def test_a_run_is_verified_on_the_verdicts_that_it_saw(
    db: Store,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(settings.home))
    run = execution.run_notebook(
        "train", {"train_days": 5.0, "n_trees": 10}, settings, progress=False
    )
    before = score_past(db, settings, 3.0, who="anna")
    assert before.n_seen > 0
    assert main(["verify", run.run_id]) == 0, capsys.readouterr()


def test_what_cannot_be_replayed_is_said(tmp_path: Path, db: Store, settings: Settings) -> None:
    with pytest.raises(NotReady, match="There is no database"):
        score_past(store.connect(tmp_path / "none.duckdb"), settings, 30.0, who="anna")
    empty = store.connect(tmp_path / "empty.duckdb")
    with empty.writing():
        pass
    with pytest.raises(NotReady, match=r"No model was trained yet .* `aegis run train`"):
        score_past(empty, settings, 30.0, who="anna")
    with pytest.raises(InputError, match="No payment is of 2099-01-01 00:00 UTC or later"):
        score_past(db, settings, dt.datetime(2099, 1, 1), who="anna")
    with (
        Engine.open(db, settings),
        pytest.raises(StoreBusy, match=r"A service owns .* End it, run `aegis score` again"),
    ):
        score_past(store.connect(db.path), settings, 30.0, who="anna")
    assert db.value("SELECT count(*) FROM verdicts") == 0


def test_nothing_is_kept_of_a_replay_that_is_interrupted(db: Store, settings: Settings) -> None:
    def stop(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_past(db, settings, EVER, who="anna", tell=stop)
    assert db.value("SELECT count(*) FROM verdicts") == 0
    assert db.value("SELECT count(*) FROM rollups") == 0


def test_the_command_takes_an_age_or_a_date_and_nobody_is_mailed_about_the_past(
    db: Store,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(settings.home))
    rule = NotifyRule(name="a", what=("verdict",), to=("json://127.0.0.1:9/",), from_risk=0)
    with db.reading() as session:
        _, at = events._verdicts(session, rule, None)
    for since, said in (("tomorrow", "neither a date"), ("", "Say since when")):
        assert main(["score", "--since", since]) == 2
        assert said in capsys.readouterr().err
    assert main(["score", "--since", "4d"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Replayed ")
    assert "from before the model's training ended" in said
    assert main(["score", "--since", "2026-01-02"]) == 0
    since = db.value("SELECT min(scored_at) FROM verdicts")
    assert since >= dt.datetime(2026, 1, 2)
    assert db.value("SELECT count(*) FROM verdicts WHERE decision != 'approve'") > 0
    with db.reading() as session:
        assert events._verdicts(session, rule, at)[0] == []
    assert main(["status"]) == 0
    n = db.value("SELECT count(*) FROM verdicts")
    assert f"{n:,} of them replayed" in capsys.readouterr().out


def test_drift_does_not_take_what_was_replayed_for_live(db: Store, settings: Settings) -> None:
    day = pd.Timestamp(db.value("SELECT max(ts)::DATE FROM transactions")) - pd.Timedelta(days=1)
    before = traffic.observe(db, settings, day, 1)
    score_past(db, settings, EVER, who="anna")
    after = traffic.observe(db, settings, day, 1)
    assert after.told() == before.told()
    assert "0 scored live" in after.told()


def test_what_was_forgotten_or_erased_before_and_after_changes_no_bit(
    pair: list[tuple[Store, Settings]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, here), _ = pair
    rows, _ = arrivals(600)
    monkeypatch.setattr(retention, "LEAST_DAYS", 1.0)
    retention.forget(one, retention.plan(one, 14.0), who="anna")
    imported(one, rows, tmp_path)
    found = one.rows("SELECT customer_id AS c FROM transactions GROUP BY c ORDER BY count(*) DESC")
    erasing.erase(one, here, found[0]["c"], who="anna")
    done = score_past(one, here, 10.0, who="anna")
    n = sum(done.decisions.values())
    assert parity(one, here) == Parity(n, 0, None)
    alerts = one.rows(
        "SELECT customer_id AS c FROM verdicts JOIN transactions USING (seq) "
        "WHERE decision = 'block' LIMIT 1"
    )
    erasing.erase(one, here, alerts[0]["c"], who="anna")
    proof = parity(one, here)
    assert (0 < proof.checked < n, proof.different) == (True, 0)
