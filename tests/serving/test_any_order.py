"""A state machine: whatever a sender, analysts, crashes and backups do, and in whatever order.

What must hold is said by a model in plain Python. `make fuzz` runs it for longer.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aegis_core import config
from aegis_core.detection import retention
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, StoreError
from aegis_core.evaluation.parity import parity
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.machine import utc_now
from aegis_core.review import answers, lists
from aegis_core.serving import schemas, table_writer
from aegis_core.serving.engine import Engine
from aegis_core.serving.rows import Outcome, rejected
from aegis_core.store import audit, connect
from aegis_core.store.backup import backup, restore

KEY: Final = "transaction_id || ' ' || coalesce(status, 'approved')"
"""SQL of `key_of`."""
BEGIN: Final = datetime(2026, 1, 20)
CUSTOMERS: Final = ("anna", "ben", "once", "'; --")
HOLD_S: Final = 3600.0
TRIED: Final = ("declined", "failed")
PAID: Final = {"status": "approved"}
FORBIDS: Final = {"deny": {"approve", "review"}, "allow": {"review", "block"}, "snooze": {"review"}}


def key_of(row: dict[str, Any]) -> str:
    """What is judged once: a payment, and the try that it was before, of the same id."""
    return f"{row['transaction_id']} {row.get('status', 'approved')}"


@dataclass
class Model:
    """What was told to whoever sent and answered, and what has to be there because of that.

    By `key_of`, in the order of their verdicts; `last` is the last one of each id.
    """

    sent: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, tuple[float, str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    last: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: int = 0
    maybe_refused: int = 0
    labels: list[tuple[str, bool]] = field(default_factory=list)
    held: dict[str, tuple[str, bool]] = field(default_factory=dict)
    listed: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a short history and a champion."""
    home = tmp_path_factory.mktemp("begun")
    of = config.load(home=home)
    store = connect(of.db)
    some = SyntheticConfig(n_transactions=600, n_customers=20, n_merchants=20, days=10)
    write_history(store, some, progress=False)
    train(store, of, Recipe(train_days=5, n_trees=5, max_samples=64))
    return home


class AnyOrder(RuleBasedStateMachine):
    """An engine on an owned database, and the model."""

    begun: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aegis-order-"))
        self.model, self.n, self.n_homes = Model(), 0, 0
        self.live = ExitStack()
        shutil.copytree(self.begun, self.next_home())
        self.open()

    def next_home(self) -> Path:
        self.n_homes += 1
        self.home = self.folder / str(self.n_homes)
        return self.home

    def open(self) -> None:
        self.settings = config.load(home=self.home).with_any_clock()
        self.store = connect(self.settings.db, wait_s=5)
        self.live = ExitStack()
        self.live.enter_context(self.store.owned())
        self.engine = self.live.enter_context(closing(Engine(self.store, self.settings)))

    def payment(self, customer: str, amount: float) -> dict[str, Any]:
        self.n += 1
        at = (BEGIN + timedelta(minutes=self.n)).isoformat() + "Z"
        return {"transaction_id": f"n{self.n}", "customer_id": customer, "timestamp": at,
                "amount": amount, "currency": "EUR"}  # fmt: skip

    def known(self, pick: int) -> str:
        return sorted(self.model.verdicts)[pick % len(self.model.verdicts)]

    # --- who sends ------------------------------------------------------------------------

    @rule(
        what=st.lists(
            st.tuples(
                st.sampled_from(("new", "new", "try", "paid", "paid", "again", "other", "bad")),
                st.sampled_from(CUSTOMERS),
                st.sampled_from((0.01, 5.0, 40.0, 900.0, 1e6)),
                st.integers(0, 10**6),
            ),
            min_size=1,
            max_size=6,
        ),
        full=st.integers(0, 19),
    )
    def send(self, what: list[tuple[str, str, float, int]], full: int) -> None:
        rows: list[tuple[str, dict[str, Any]]] = []
        for kind, customer, amount, pick in what:
            if kind == "bad":
                rows.append(("bad", self.payment(customer, 1e15 * amount)))
            elif kind in ("new", "try") or not self.model.verdicts:
                tried = {"status": TRIED[pick % 2]} if kind == "try" else {}
                rows.append(("new", self.payment(customer, amount) | tried))
            elif kind == "paid":
                if tries := [k for k in sorted(self.model.verdicts) if k.endswith(TRIED)]:
                    rows.append(("paid", self.model.sent[tries[pick % len(tries)]] | PAID))
            else:
                same = self.model.sent[self.known(pick)]
                more = {"amount": same["amount"] + 1} if kind == "other" else {}
                rows.append((kind, same | more))
        if full == 0 and self.model.unanswered:  # what was not answered is sent again
            rows.append(("maybe", next(iter(self.model.unanswered.values()))))
        good, bad = [], []
        for kind, row in rows:
            raw = json.dumps(row)
            checked, reason = schemas.checked(raw.encode())
            assert (checked is None) == (kind == "bad") == bool(reason)
            if checked is None:
                bad.append(rejected("api", raw, reason))
            else:
                good.append((kind, row, checked))
        if full == 1:
            self.refused_by_the_disk(good, bad)
            return
        outcomes = self.engine.score([checked for *_, checked in good], bad)
        self.model.refused += len(bad)
        for (kind, row, _), outcome in zip(good, outcomes, strict=True):
            self.answered(kind, row, outcome)

    def refused_by_the_disk(
        self, good: list[tuple[str, dict[str, Any], dict[str, Any]]], bad: list[dict[str, Any]]
    ) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        if not bad and all(kind in ("again", "other") for kind, *_ in good):
            return  # there is nothing to write
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreError, match="No space left"):
                self.engine.score([checked for *_, checked in good], bad)
        self.model.maybe_refused += len(bad)
        self.model.unanswered |= {
            key_of(row): row for kind, row, _ in good if kind in ("new", "paid", "maybe")
            and key_of(row) not in self.model.verdicts
        }  # fmt: skip
        for row in [r for r in self.model.unanswered.values() if r.get("status") == "approved"]:
            self.send_again(row)

    def send_again(self, row: dict[str, Any]) -> None:
        checked, _ = schemas.checked(json.dumps(row).encode())
        assert checked is not None
        self.answered("maybe", row, self.engine.score([checked])[0])

    def answered(self, kind: str, row: dict[str, Any], outcome: Outcome) -> None:
        assert outcome.verdict is not None
        name, told = key_of(row), outcome.verdict
        verdict = (float(told["score"]), str(told["decision"]))
        last = self.model.last.get(row["transaction_id"], "")
        becomes = last.endswith(TRIED) and row.get("status") == "approved"
        if last in self.model.verdicts and not becomes:
            assert outcome.repeat
            assert outcome.conflict == (row != self.model.sent[name])
            assert verdict == self.model.verdicts[last]
            return
        if kind == "maybe":
            self.model.unanswered.pop(name, None)
        else:
            assert not outcome.repeat
            self.model.order.append(name)
        if not outcome.repeat:
            listed = self.model.listed.get(row["customer_id"], "")
            assert verdict[1] not in FORBIDS.get(listed, ()) or row.get("status") == "failed"
        self.model.last[row["transaction_id"]] = name
        self.model.sent[name], self.model.verdicts[name] = row, verdict

    # --- analysts ------------------------------------------------------------------------

    @precondition(lambda self: self.model.verdicts)
    @rule(pick=st.integers(0, 10**6), fraud=st.booleans(), held=st.booleans())
    def answer(self, pick: int, fraud: bool, held: bool) -> None:
        name = self.known(pick).partition(" ")[0]
        given, hold_s = "fraud" if fraud else "legitimate", HOLD_S if held else 0.0
        review = self.engine.do(
            lambda: answers.answer(self.store, name, given, analyst="anna", hold_s=hold_s)
        )
        if held:
            self.model.held[review] = (name, fraud)
        else:
            self.model.labels.append((name, fraud))

    @precondition(lambda self: self.model.held)
    @rule(pick=st.integers(0, 10**6))
    def undo(self, pick: int) -> None:
        review = sorted(self.model.held)[pick % len(self.model.held)]
        with pytest.raises(InputError, match="is anna's"):
            answers.undo(self.store, [review], analyst="ben")
        self.engine.do(lambda: answers.undo(self.store, [review], analyst="anna"))
        del self.model.held[review]

    @precondition(lambda self: self.model.held)
    @rule()
    def an_hour_passes(self) -> None:
        later = utc_now() + timedelta(seconds=2 * HOLD_S)
        self.engine.do(lambda: answers.publish(self.store, now=later))
        self.model.labels += self.model.held.values()
        self.model.held.clear()

    @rule(customer=st.sampled_from(CUSTOMERS), kind=st.sampled_from(tuple(FORBIDS)))
    def put_on_a_list(self, customer: str, kind: str) -> None:
        for entry in lists.current(self.store):
            if entry.value == customer:
                lists.end(self.store, entry.entry_id, who="ben", why="over")
        self.engine.do(
            lambda: lists.add(
                self.store, kind, customer, until="2026-04-01", who="anna", why="asked for"
            )
        )
        self.model.listed[customer] = kind

    # --- the machine ---------------------------------------------------------------------

    @rule(how=st.sampled_from(("crash", "crash", "restart", "save", "forget", "back up", "beside")))
    def interrupt(self, how: str) -> None:
        if how == "crash":
            self.crash()
        elif how == "forget":
            self.forget()
        elif how in ("restart", "save"):
            self.restart(saved=how == "save")
        else:
            self.restore(beside=how == "beside")

    def crash(self) -> None:
        """What the files hold at a moment is all that the next process has."""
        old, before = self.live, self.home
        with self.store._in_turn():
            shutil.copytree(before, self.next_home())
        old.close()
        shutil.rmtree(before)
        self.open()

    def restart(self, *, saved: bool) -> None:
        if saved:
            self.engine.save()
        self.live.close()
        self.open()

    def forget(self) -> None:
        if len(self.model.order) < 20:
            return
        names = self.model.order[: len(self.model.order) // 2]
        last = names[-1]
        (found,) = self.store.rows(f"SELECT seq FROM transactions WHERE {KEY} = ?", [last])
        old = retention.Plan(BEGIN - timedelta(days=1), found["seq"] + 1, {}, None, None, 0)
        self.engine.do(lambda: retention.forget(self.store, old, who="anna"))
        self.model.order = self.model.order[len(names) :]
        there = {
            row["name"]
            for row in self.store.rows(
                f"SELECT {KEY} AS name FROM transactions JOIN verdicts USING (seq, transaction_id)"
            )
        }
        gone = self.model.verdicts.keys() - there
        assert gone.isdisjoint(self.model.order)
        for name in gone:
            del self.model.verdicts[name], self.model.sent[name]
        self.model.unanswered.clear()

    def restore(self, *, beside: bool) -> None:
        """From a backup, made while the engine is at work or after it."""
        if not beside:
            self.live.close()
        file = self.folder / "backup.tar"
        backup(self.store, file, self.settings, who="anna", force=True)
        if beside:
            self.live.close()
        of = config.load(home=self.next_home())
        restore(file, of, who="anna")
        self.open()

    # --- what must hold ------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            self.all_of_it_is_there()
        finally:
            self.live.close()
            shutil.rmtree(self.folder)

    def all_of_it_is_there(self) -> None:
        self.engine.check()
        found = self.store.rows(
            f"SELECT {KEY} AS name, score, decision FROM verdicts "
            "JOIN transactions USING (seq, transaction_id) ORDER BY seq"
        )
        there = {row["name"]: (row["score"], row["decision"]) for row in found}
        assert len(there) == len(found), "once each"
        certain = {k: v for k, v in there.items() if k not in self.model.unanswered}
        assert certain == self.model.verdicts
        ordered = set(self.model.order)
        assert [row["name"] for row in found if row["name"] in ordered] == self.model.order
        (kept,) = self.store.rows("SELECT count(*) AS n FROM rejected")
        assert 0 <= kept["n"] - self.model.refused <= self.model.maybe_refused
        said = self.store.rows(
            "SELECT transaction_id AS name, is_fraud, after_seq FROM labels "
            "WHERE source = 'review' ORDER BY rowid"
        )
        assert [(row["name"], row["is_fraud"]) for row in said] == self.model.labels
        places = [row["after_seq"] for row in said]
        assert places == sorted(places)
        assert parity(self.store, self.settings).different == 0
        with self.store.snapshot() as session:
            assert audit.verify(session).problem is None


def test_what_the_disk_did_not_take_keeps_its_place_before_an_answer(begun: Path) -> None:
    AnyOrder.begun = begun
    life = AnyOrder()
    life.begin()
    new = ("new", "anna", 40.0, 0)
    life.send([new], full=9)
    life.send([new, new], full=1)
    life.answer(0, fraud=True, held=False)
    life.send([new], full=0)
    life.teardown()
    assert life.store.path.parent.exists() is False


@pytest.mark.attack("any order of sending, answering, full disks, crashes, backups, forgetting")
def test_no_order_of_events_loses_or_changes_what_was_answered(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AnyOrder.begun = begun
    fuzzed = settings.get_current_profile_name() == "fuzz"
    some = settings() if fuzzed else settings(max_examples=5, stateful_step_count=40)
    monkeypatch.setattr(table_writer, "AT_ONCE_S", 0.0)
    run_state_machine_as_test(AnyOrder, settings=some)
