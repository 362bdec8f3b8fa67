"""One customer: all that is held of them, and all of it gone, with the others as they were."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from aegis_core import config
from aegis_core.cli import main
from aegis_core.config import Settings
from aegis_core.detection import erasure, history
from aegis_core.detection.retention import forget, plan
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, StoreError
from aegis_core.evaluation.parity import parity
from aegis_core.features import checkpoint
from aegis_core.intake.links import link
from aegis_core.intake.synthetic import SyntheticConfig, stream, write_history
from aegis_core.review import lists
from aegis_core.review.answers import answer
from aegis_core.serving import erasing, holdings
from aegis_core.serving.engine import Engine
from aegis_core.store import Store, audit, connect, rollups

SOME = SyntheticConfig(n_transactions=600, n_customers=20, days=25, label_delay_days=3)
PERSON, FORMER = "Zq-ü'7x kund9", "C000000"
NEARLY = f"{PERSON}-b"
"""Somebody else, whose id has the person's as a word in it."""


def batch(store: Store, n: int) -> tuple[pd.DataFrame, str, pa.Table]:
    """The next `n` transactions and their labels, some of the person's own."""
    last = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"]
    rows, labels = zip(*stream(SOME, n, after=last, fraud_multiplier=10), strict=True)
    frame = pa.concat_tables(rows).to_pandas().astype({"customer_id": "str"})
    frame["customer_id"] = frame.customer_id.replace(FORMER, PERSON)
    return frame, "test", pa.concat_tables(labels)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose learner judges, with a person whose id stands wherever somebody can write."""
    home = tmp_path_factory.mktemp("person")
    settings = config.load(home=home, audit_share=0.0)
    store = connect(settings.db)
    write_history(store, SOME, progress=False)
    with store.writing() as session:
        for now, before in ((PERSON, FORMER), (NEARLY, "C000001")):
            session.execute(
                "UPDATE transactions SET customer_id = ? WHERE customer_id = ?", [now, before]
            )
    small = Recipe(n_trees=10, max_samples=64)
    wide = settings.model_copy(update={"alert_budget": 0.02})
    train(store, wide, small)
    with Engine.open(store, settings) as engine:
        for n in (400, 300):
            engine.take(*batch(store, n))
    train(store, wide, replace(small, detector="learner", role="champion"))
    with Engine.open(store, settings) as engine:
        for n in (300, 250):
            engine.take(*batch(store, n))
        engine.take(
            pd.DataFrame({"customer_id": [PERSON], "ts": ["never"], "amount": [1.0]}),
            f"{PERSON}.csv",
        )
        until = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"] + pd.Timedelta(days=9)
        why = f"asked: {PERSON}"
        lists.add(store, "snooze", PERSON, until=str(until), who="anna", why=why)
        link(store, [("their next card", PERSON), ("another", NEARLY)], "cards", who="anna")
        lists.add(store, "deny", NEARLY, who="anna", why=f"a friend of {PERSON}, not {NEARLY}.")
        frame, *_ = batch(store, 100)
        frame.loc[frame.index[::9], "customer_id"] = NEARLY
        engine.take(frame, f"from {PERSON}.csv")
        engine.save()
    for customer in (PERSON, NEARLY):
        (row,) = store.rows(
            "SELECT transaction_id AS id FROM transactions WHERE customer_id = ? LIMIT 1",
            [customer],
        )
        answer(store, row["id"], "legitimate", analyst="anna", note=f"as {PERSON} said\n{PERSON}")
    told = json.dumps({"customer": PERSON, "note": f"first\n{PERSON}"})
    (home / "payments.csv").write_text(f"id\n{PERSON}\n")
    with store.writing() as session:
        session.execute("CREATE TABLE mine AS SELECT ? AS remark", [f"call {PERSON}!"])
        run = f"('r1', 'start', {config_literal(told)}, 'done', now()::TIMESTAMP)"
        session.execute(
            f"INSERT INTO runs (run_id, notebook, parameters, status, started_at) VALUES {run}"
        )
        session.execute(
            "INSERT INTO notifications VALUES ('n1', 'r', 't', 'verdict', 'e', ?, ?, ?, 'sent', 1, "
            "'m', now()::TIMESTAMP, now()::TIMESTAMP, NULL, NULL, NULL)", [PERSON, PERSON, PERSON],
        )  # fmt: skip
        session.execute(
            "INSERT INTO drift VALUES ('2026-03-01', 'amount', '', 1, 1, 1, 1, 1, true, "
            "now()::TIMESTAMP, 'r1', ?)", [f"{PERSON} moved most"],
        )  # fmt: skip
    (settings.reports / "r1").mkdir(parents=True)
    (settings.reports / "r1" / "start.ipynb").write_text(json.dumps({"of": PERSON}))
    (settings.reports / "r2").mkdir()
    (settings.reports / "r2" / "report.html").write_text(f"<p>{NEARLY}</p>")
    return home


def config_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@pytest.fixture
def settings(made: Path, tmp_path: Path) -> Settings:
    shutil.copytree(made, tmp_path / "home")
    return config.load(home=tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Store:
    return connect(settings.db)


def dump(store: Store) -> dict[str, str]:
    """Every table as text."""
    with store.reading() as session:
        names = [r["name"] for r in session.rows("SELECT table_name AS name FROM duckdb_tables()")]
        return {n: session.query(f'FROM "{n}" ORDER BY rowid').to_csv() for n in names}


def named(home: Path, store: Store) -> list[str]:
    """Where the person's id still stands: files, by their bytes, and tables."""
    files = [p for p in home.rglob("*") if p.is_file() and p.name != "payments.csv"]
    found = [str(p) for p in files if re.search(rb"7x( |%20)kund9(?!-b)", p.read_bytes())]
    return found + [t for t, text in dump(store).items() if re.search("7x kund9(?!-b)", text)]


def test_nothing_names_them_and_the_others_verdicts_replay_bit_for_bit(
    store: Store, settings: Settings
) -> None:
    before = parity(store, settings)
    others = dump(store)
    assert len(named(settings.home, store)) > 10
    friends = "SELECT count(*) AS n FROM verdicts WHERE contains(reasons::VARCHAR, 'friend of')"
    assert store.rows(friends)[0]["n"] > 5
    folder = settings.home / "taken"
    holdings.export(store, settings, PERSON, folder, who="dpo")
    told = erasing.erase(store, settings, PERSON, who="dpo")
    assert named(settings.home, store) == []
    assert PERSON not in told
    assert "their next card, which a link says is a number of the same customer" in told
    assert not folder.exists()
    assert (settings.reports / "r2").exists()
    after = parity(store, settings)
    assert (before.different, after.different) == (0, 0)
    with store.reading() as session:
        assert rollups.missing(session) == 0
        (gone,) = session.rows("SELECT count(*) AS n FROM verdicts")
    assert 1_000 < after.checked == gone["n"] < before.checked
    for table, text in dump(store).items():
        assert text.count(NEARLY) == others[table].count(NEARLY) or table == "audit"
    with Engine.open(store, settings) as engine:  # folded anew
        engine.take(*batch(store, 200))
        assert PERSON in engine.state.scorer.profiles.customer_codes  # a stranger
    assert parity(store, settings).different == 0
    erasing.erase(store, settings, NEARLY, who="dpo")
    assert parity(store, settings).different == 0
    with store.writing() as session:
        session.execute("DELETE FROM carried")
    assert parity(store, settings).different > 0  # else all of this would show nothing


def test_beside_a_service_the_others_are_judged_as_if_nothing_happened(
    store: Store, settings: Settings, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "whole")
    whole = config.load(home=tmp_path / "whole")
    untouched = connect(whole.db)
    new = batch(store, 300)
    new = (new[0][new[0].customer_id != PERSON], *new[1:])
    with Engine.open(store, settings) as engine, Engine.open(untouched, whole) as other:
        told = erasing.erase(connect(store.path), settings, PERSON, who="dpo")
        assert "aegis compact" in told
        assert PERSON not in engine.state.scorer.profiles.customer_codes
        assert not list(store.path.with_name(store.path.name + ".journal").glob("*"))
        ours, theirs = engine.take(*new), other.take(*new)
        pd.testing.assert_frame_equal(
            ours.drop(columns="scored_at"), theirs.drop(columns="scored_at"), check_exact=True
        )
        engine.take(*batch(store, 50))  # with them, who are new now
        assert parity(store, settings).different == 0
    assert main(["compact", "--db", str(store.path)]) == 0
    assert set(named(settings.home, store)) <= {str(store.path), "transactions"}  # came again
    with Engine.open(store, settings) as engine:
        engine.take(*batch(store, 50))
    assert parity(store, settings).different == 0


def test_an_erasure_that_was_interrupted_is_taken_up_again(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise StoreError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(erasure, "left_of", full)
        with Engine.open(store, settings) as engine:
            with pytest.raises(StoreError):
                erasing.erase(connect(store.path), settings, PERSON, who="dpo")
            engine.take(*batch(store, 60))  # a stranger since
    assert parity(store, settings).different == 0
    assert "came meanwhile: erase again" in erasing.erase(store, settings, PERSON, who="dpo")
    assert parity(store, settings).different == 0
    erasing.erase(store, settings, PERSON, who="dpo")
    assert named(settings.home, store) == []
    assert parity(store, settings).different == 0


def test_the_audit_is_whole_without_the_name_and_takes_no_other_text(
    store: Store, settings: Settings
) -> None:
    noted = audit.kept_head(store.path)
    erasing.erase(store, settings, PERSON, who="dpo")
    assert noted is not None
    found = audit.verify(store, [noted])
    assert (found.problem, found.redacted) == (None, 2)
    (entry,) = (e for e in audit.entries(store) if e.action == audit.ERASE)
    assert (entry.who, entry.subject) == ("dpo", json.loads(entry.details)["pseudonym"])
    redacted = [e for e in audit.entries(store) if entry.subject in e.details + e.subject]
    assert all("salt" not in e.details for e in redacted[:2])
    assert PERSON not in entry.details
    for text in ("who = 'ben'", f"details = '{redacted[0].details.replace('asked', 'told')}'"):
        copy = connect(store.path.with_name("tampered.duckdb"))
        shutil.copy(store.path, copy.path)
        with copy.writing() as session:
            session.execute(f"UPDATE audit SET {text} WHERE seq = {redacted[0].seq}")
        assert "was changed" in str(audit.verify(copy).problem)


def test_age_and_erasure_go_together(store: Store, settings: Settings) -> None:
    young = store.rows("SELECT max(ts) AS ts FROM transactions")[0]["ts"] - pd.Timedelta(days=95)
    with store.writing() as session:  # a long history, in which less is old than is forgotten
        session.execute("UPDATE transactions SET ts = ts - INTERVAL 80 DAY WHERE seq < 300")
        session.execute("DELETE FROM verdicts")
    assert young is not None
    with Engine.open(store, settings) as engine:
        engine.take(*batch(store, 200))
    assert parity(store, settings).different == 0
    forget(store, plan(store, 90), who="anna")
    erasing.erase(store, settings, PERSON, who="dpo")
    assert checkpoint.cut(store) > 0
    assert named(settings.home, store) == []
    assert parity(store, settings).different == 0
    with Engine.open(store, settings) as engine:
        engine.take(*batch(store, 50))
    assert parity(store, settings).different == 0


@pytest.mark.parametrize("person", ["anna", "nan", "once", "Zoë 🂡"])
def test_whoever_goes_the_signals_of_the_others_stay(
    store: Store, awkward: pd.DataFrame, tmp_path: Path, person: str
) -> None:
    store = connect(tmp_path / "awkward.duckdb")
    labels = awkward.loc[awkward.seq % 3 == 0, ["transaction_id", "is_fraud", "ts"]]
    labels = labels.rename(columns={"ts": "known_at"}).assign(after_seq=labels.index - 1)
    with store.writing() as session:
        session.append("transactions", awkward.drop(columns="is_fraud"))
        session.append("labels", labels)

    def replayed() -> tuple[pd.DataFrame, list[bytes], bytes]:
        with store.snapshot() as session:
            begun = checkpoint.begin(session, confirmed=True)
            frame, events = history.transactions(session), history.label_events(session)
        scorer = Scorer(confirmed=begun.confirmed)
        out = scorer.replay(frame, events, erased=begun.erased, signals=True)
        told = [a.tobytes() + b.tobytes() for a, b in zip(out.signals, out.history, strict=True)]
        return frame, told, scorer.profiles.state.places.tobytes()

    frame, before, places = replayed()
    stay = (frame.customer_id != person).to_numpy()
    at = len(frame)
    with store.changing() as session:
        kept = erasure.left_of(erasure.past(session, at), person, at, [])
        session.execute("DELETE FROM transactions WHERE customer_id = ?", [person])
        checkpoint.save_erased(session, kept)
    _, after, places_after = replayed()
    assert places_after == places
    assert after == [told for told, other in zip(before, stay, strict=True) if other]


def test_an_export_has_all_of_it_and_says_what_it_is(
    store: Store, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["--db", str(store.path), "--who", "dpo"]
    assert main(["person", PERSON, "--export", str(out), *given]) == 0
    assert "Begin with index.html" in capsys.readouterr().out
    page = (out / holdings.INDEX).read_text("utf-8")
    (count,) = store.rows("SELECT count(*) AS n FROM transactions WHERE customer_id = ?", [PERSON])
    tables = {path.stem for path in out.glob("*.csv")}
    assert tables >= {"transactions", "verdicts", "labels", "reviews", "notifications", "lists"}
    assert tables >= {"links", "rejected", "runs", "drift", "audit", "mine"}
    assert all(f'href="{table}.csv"' in page for table in tables)
    assert f"<td>{count['n']:,}</td>" in page
    with (out / "transactions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["customer_id"] for row in rows} == {PERSON}
    assert len(rows) == count["n"]
    assert {path.stat().st_mode & 0o777 for path in (out, *out.iterdir())} == {0o700, 0o600}


def test_what_cannot_be_removed_is_said_before_a_table_changes(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holdings.export(store, settings, PERSON, tmp_path / "out", who="dpo")
    before = dump(store)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(erasing.shutil, "rmtree", refuse)
    with pytest.raises(StoreError, match=r"names the customer and cannot be removed \(Permission"):
        erasing.erase(store, settings, PERSON, who="dpo")
    after = dump(store)
    assert "erasing " in after.pop("meta"), "a second try takes it up"
    assert after == {name: rows for name, rows in before.items() if name != "meta"}


def test_a_folder_that_holds_something_else_by_now_stays(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    export, other = tmp_path / "export", tmp_path / "other"
    for folder in (export, other):
        holdings.export(store, settings, PERSON, folder, who="dpo")
    shutil.rmtree(other)
    other.mkdir()
    (other / "index.html").write_text("<h1>My thesis</h1>")
    erasing.erase(store, settings, PERSON, who="dpo")
    assert (other / "index.html").exists()
    assert not export.exists()


def test_without_yes_it_says_what_would_go_and_a_wrong_id_is_refused(
    store: Store,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AEGIS_HOME", str(settings.home))
    db, before = ["--db", str(store.path)], dump(store)
    assert main(["person", PERSON, "--erase", *db]) == 0
    told = capsys.readouterr().out
    assert "verdicts" in told
    assert "Nothing was erased" in told
    assert "payments.csv, which this command leaves alone" in told
    assert dump(store) == before
    assert main(["person", "Zq-ü'7x kund", "--erase", "--yes", *db]) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert dump(store) == before
    with pytest.raises(InputError, match="Nothing is held"):
        erasing.plan(store, settings, "nobody at all")
