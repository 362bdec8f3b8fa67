"""Labels: one fact, one history; what came last holds, an analyst's answer before any file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aegis_core.cli import main
from aegis_core.detection import history
from aegis_core.detection.comparison import compared
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import ColumnError, InputError, NotReady
from aegis_core.features.confirmed import Confirmed, label_events
from aegis_core.features.frauds import HISTORY
from aegis_core.intake.importing import ImportSummary, import_files, import_labels
from aegis_core.intake.said import Said
from aegis_core.review.answers import answer
from aegis_core.schema import held_labels
from aegis_core.store import Store

ROOT = Path(__file__).parents[2]
NAMES = "transaction_id,customer_id,timestamp,amount,merchant_id"
PAYMENTS = [f"a{i},c{i % 2},2026-03-0{i} 10:00:00,50,m" for i in range(1, 6)]

Take = Callable[..., ImportSummary]


@pytest.fixture
def take(tmp_path: Path, store: Store) -> Take:
    """Import `PAYMENTS` with what follows in each line, under `NAMES` and the names given."""

    def taken(more: str, *ends: str, name: str = "p.csv", **options: Any) -> ImportSummary:
        said = (*ends, *["," * more.count(",")] * (len(PAYMENTS) - len(ends)))
        rows = [f"{row},{end}" for row, end in zip(PAYMENTS, said, strict=True)]
        (tmp_path / name).write_text("\n".join([f"{NAMES},{more}", *rows]) + "\n")
        return import_files([tmp_path / name], store, progress=False, **options)

    return taken


@pytest.fixture
def label(tmp_path: Path, store: Store) -> Take:
    """Import a file of labels alone."""

    def labelled(*lines: str, name: str = "labels.csv", **options: Any) -> ImportSummary:
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return import_labels([tmp_path / name], store, **options)

    return labelled


def holding(store: Store, at: str = "") -> dict[str, bool]:
    moment = f"TIMESTAMP '{at}'" if at else ""
    return {row["transaction_id"]: row["is_fraud"] for row in store.rows(held_labels(moment))}


def test_a_later_file_replaces_what_a_label_said_from_its_import_on(
    take: Take, store: Store
) -> None:
    take("is_fraud", "0", "1", "", "0", "0")
    later = take("is_fraud", "1", "0", "1", name="later.csv", label_delay_days=0)
    assert (later.already_there, later.labels, later.labels_changed) == (5, 3, 2)
    assert holding(store) == {"a1": True, "a2": False, "a3": True, "a4": False, "a5": False}
    (first, second) = store.rows("SELECT * FROM labels WHERE transaction_id = 'a1'")
    assert (first["is_fraud"], second["is_fraud"], second["after_seq"]) == (False, True, 4)
    assert second["known_at"] == datetime(2026, 3, 3, 10), "the transactions' clock, not the past"
    assert take("is_fraud", "1", "0", "1", name="later.csv").labels == 0


def test_labels_come_as_a_file_of_their_own_each_known_from_its_date(
    take: Take, label: Take, store: Store
) -> None:
    take("is_fraud", "0")
    rows = ("transaction_id,is_fraud,reported_at", "a1,Yes,2026-03-20 08:00:00", "a2,no,2026-03-21")
    told = label(*rows, "a1,no,2026-04-15")
    assert (told.rows, told.labels, told.guessed["known_at"]) == (3, 3, "reported_at")
    assert holding(store, "2026-03-19") == {"a1": False}
    assert holding(store, "2026-03-21") == {"a1": True, "a2": False}
    assert holding(store) == {"a1": False, "a2": False}
    assert (label(*rows, "a1,no,2026-04-15").labels, label(*rows).already_there) == (0, 2)


def test_a_label_without_a_date_is_known_from_now_on_by_the_transactions_clock(
    take: Take, label: Take, store: Store
) -> None:
    take("currency")
    label("id,fraud", "a1,1", "a5,true")
    known = store.rows("SELECT known_at, after_seq FROM labels ORDER BY transaction_id")
    assert [row["known_at"] for row in known] == [datetime(2026, 3, d, 10) for d in (3, 5)]
    assert [row["after_seq"] for row in known] == [4, 4]


def test_labels_are_read_in_the_form_of_their_columns(
    take: Take, label: Take, store: Store
) -> None:
    take("currency")
    rows = ('"=""a1""",yes,29.03.2026 08:00', "x-a2,no,20.03.2026 08:00")
    berlin = Said(timezone="Europe/Berlin")
    mapping = {"known_at": "reported", "transaction_id": "replace(ref, 'x-', '')"}
    head = ("Disputes of March", "", "ref,fraud,reported")
    told = label(*head, *rows, forms=berlin, mapping=mapping)
    assert (told.labels, told.rejected) == (2, {})
    assert "dd/mm/yyyy" in told.forms["known_at"]
    told = label("ref,fraud,reported", rows[0], forms=Said(time_format="%d.%m.%Y %H:%M"),
                 mapping={"known_at": "reported", "transaction_id": "ref"})  # fmt: skip
    assert told.labels == 1
    known = store.rows("SELECT transaction_id AS id, known_at FROM labels ORDER BY 1, 2")
    assert [(row["id"], row["known_at"].isoformat()) for row in known] == [
        ("a1", "2026-03-29T06:00:00"), ("a1", "2026-03-29T08:00:00"), ("a2", "2026-03-20T07:00:00")
    ]  # fmt: skip


def test_the_form_of_labels_is_kept_for_the_next_file(
    take: Take, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take("currency")
    kept, file = str(tmp_path / "disputes.toml"), tmp_path / "first.csv"
    said = ["--label", "outcome", "--words", "lost=fraud", "--time-format", "%m/%d/%Y",
            "--encoding", "utf-16", "--map", "known_at=when"]  # fmt: skip
    for id_, options in (("a1", [*said, "--save-as", kept]), ("a2", ["--as", kept])):
        file.write_text(f"id,outcome,when\n{id_},lost,03/04/2026\n", encoding="utf-16")
        assert main(["labels", str(file), *options, "--db", str(store.path)]) == 0
        assert "1 labels added" in capsys.readouterr().out
    known = store.rows("SELECT known_at FROM labels ORDER BY transaction_id")
    assert [row["known_at"] for row in known] == [datetime(2026, 3, 4)] * 2


def test_a_label_of_no_transaction_is_kept_as_rejected(
    take: Take, label: Take, store: Store
) -> None:
    take("currency")
    told = label("id,fraud,reported_at", "zz,1,2026-03-20", "a1,maybe,", "a1,1,never")
    assert told.rejected == {
        "is_fraud is neither yes nor no": 1,
        "known_at is not a time, such as 2026-03-01T12:00:00Z": 1,
        "there is no transaction of this id": 1,
    }
    assert (told.labels, told.unread) == (0, {"maybe": 1, "never": 1})
    kept = store.rows("SELECT raw FROM rejected WHERE reason LIKE 'there is no%'")
    assert json.loads(kept[0]["raw"])["transaction_id"] == "zz"
    with pytest.raises(InputError, match="3 of 3 rows are bad"):
        label("id,fraud,reported_at", "zz,1,2026-03-20", "a1,maybe,", "a1,1,never", strict=True)


def test_labels_need_their_columns_and_a_database(label: Take, take: Take) -> None:
    with pytest.raises(NotReady):
        label("id,fraud", "a1,1")
    take("currency")
    with pytest.raises(ColumnError, match="no column for is_fraud"):
        label("id,outcome", "a1,1")
    assert label("id,outcome", "a1,1", mapping={"is_fraud": "outcome"}).labels == 1


def test_a_word_that_is_no_label_leaves_the_transaction_in_and_is_told(
    take: Take, store: Store
) -> None:
    said = ("FRAUD", "legit", "chargeback", "-1", "unknown")
    told = take("fraud_status", *said, label="fraud_status")
    assert (told.accepted, told.rejected, told.labels) == (5, {}, 2)
    assert told.unread == {"-1": 1, "chargeback": 1}
    assert holding(store) == {"a1": True, "a2": False}
    words = {"Chargeback": "fraud", "-1": "no"}
    again = take("fraud_status", *said, label="fraud_status", words=words)
    assert (again.labels, again.unread) == (2, {})
    assert holding(store) == {"a1": True, "a2": False, "a3": True, "a4": False}
    with pytest.raises(InputError, match="a label says fraud, legitimate, unknown"):
        take("fraud_status", *said, label="fraud_status", words={"chargeback": "bad"})


def test_a_label_whose_date_is_none_leaves_the_transaction_in(take: Take, store: Store) -> None:
    told = take("is_fraud,reported_at", "1,2026-03-09", "1,soon", "1,1890-01-01", "0,", ",2026")
    assert (told.accepted, told.unread) == (5, {"1890-01-01": 1, "soon": 1})
    known = store.rows("SELECT transaction_id AS id, known_at FROM labels ORDER BY 1")
    assert [(row["id"], row["known_at"].day) for row in known] == [("a1", 9), ("a4", 11)]


def test_an_analysts_answer_holds_before_a_file_and_for_every_reader(
    take: Take, label: Take, store: Store
) -> None:
    take("is_fraud", "1", "1", "0", "0", "0", label_delay_days=7)
    answer(store, "a2", "legitimate", analyst="anna")  # known long before the file's label
    told = label("id,fraud", "a2,1", "a1,0")
    assert (told.labels, told.labels_changed, told.labels_under_answers) == (1, 1, 0)
    assert label("id,fraud,reported_at", "a2,1,2026-03-25").labels_under_answers == 1
    expected = {"a1": False, "a2": False, "a3": False, "a4": False, "a5": False}
    frame, labels = history.transactions(store), history.labels(store)
    events = history.label_events(store)
    assert holding(store) == expected
    assert dict(history.held(labels)[["transaction_id", "is_fraud"]].to_numpy()) == expected
    for day, said in (("03 09", -1), ("03 10", 0), ("09 12", 0), ("30 00", 0)):
        known = history.known_answers(frame, labels, pd.Timestamp(f"2026-03-{day}:00"))
        assert known[:2].tolist() == [said, said], day
    late = frame.tail(1).assign(ts=pd.Timestamp("2026-04-30").as_unit("us"), seq=5)
    frauds = [HISTORY.index(f"{who}_weighed_frauds") for who in ("merchant", "customer")]
    in_memory = Confirmed()
    in_memory.add_labels(label_events(frame, labels))
    for found in (
        Scorer(confirmed=in_memory).run(late).history,
        Scorer(confirmed=Confirmed()).replay(pd.concat([frame, late]), events).history[-1:],
    ):
        assert np.array_equal(found[:, frauds], [[0.0, 0.0]])
    with store.writing() as session:
        session.execute(
            "INSERT INTO verdicts (seq, transaction_id, model_version, score, risk, decision, "
            "scored_at) SELECT seq, transaction_id, 'v', .5, 50, 'approve', ts FROM transactions"
        )
        session.execute(
            "INSERT INTO shadow_scores SELECT seq, transaction_id, 'w', .5, 50, 'approve' "
            "FROM transactions"
        )
    table, _ = compared(store)
    assert table[["transactions", "frauds"]].to_numpy().tolist() == [[5, 0]] * 2


def test_labels_are_joined_by_the_one_view_of_them_alone() -> None:
    files = [*(ROOT / "aegis_core").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    own_view = r"JOIN labels\b|arg_m(ax|in)\((\w+\.)?is_fraud"
    joins = {path.stem for path in files if re.search(own_view, path.read_text("utf-8"))}
    assert joins == {"difficulty", "keeping"}, "made-up truth of one source; the door itself"
