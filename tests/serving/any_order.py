"""A life of the engine: what senders, analysts, the clock, crashes and backups do, move by move.

A move is drawn from a `Random`, so that a seed, or Hypothesis, says all of it. What must hold is
said by a model in plain Python, at each move and by `Life.check`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from told import FORBIDS, PAID, TRIED, Model, Row, id_of, key_of

from aegis_core import config
from aegis_core.detection import erasure, retention
from aegis_core.detection.training import Recipe, train
from aegis_core.errors import InputError, StoreError
from aegis_core.evaluation.parity import parity
from aegis_core.intake import links, rates
from aegis_core.intake.importing import import_labels
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.machine import utc_now
from aegis_core.review import answers, lists
from aegis_core.schema import LIST_KINDS
from aegis_core.serving import erasing, schemas
from aegis_core.serving.engine import Engine
from aegis_core.serving.rows import Outcome, rejected
from aegis_core.store import audit, connect
from aegis_core.store.backup import backup, restore

MOVES: Final = {
    "send": 9640, "answer": 120, "undo": 30, "pass_an_hour": 20, "put_on_a_list": 35,
    "read_labels": 12, "read_rates": 13, "link_cards": 20, "erase": 10, "crash": 45,
    "restart": 10, "save": 15, "forget": 10, "restore": 5, "check": 15,
}  # fmt: skip
"""How often each is made: thousands of cheap ones between those that begin a process anew."""
NEW: Final = ("new", "new", "new", "new", "try", "bad")
KINDS: Final = (*NEW, "paid", "again", "other", "gone")
"""Of what is sent; beyond `NEW`, the tables have to be looked into."""
CUSTOMERS: Final = ("anna", "ben", "'; --", "neu1", "neu2", "neu3")
REISSUED: Final = (("neu1", "anna"), ("neu2", "neu1"), ("neu3", "'; --"))
AMOUNTS: Final = (0.01, 5.0, 40.0, 900.0, 1e6)
MINUTES_OFF: Final = (0, 0, 0, 0, -5000, -90, 0, 3000)
"""How far a sender's clock is from the others'."""
PLACES: Final = ({}, {"lat": 52.52, "lon": 13.4}, {"lat": 35.7, "lon": 139.7})
BEGIN: Final = datetime(2026, 1, 20)
HOLD_S: Final = 3600.0
KEY: Final = "transaction_id || ' ' || coalesce(status, 'approved')"
"""SQL of `key_of`."""


def begin(home: Path) -> None:
    """Make a home with a short history and a champion."""
    of = config.load(home=home)
    store = connect(of.db)
    some = SyntheticConfig(n_transactions=600, n_customers=20, n_merchants=20, days=10)
    write_history(store, some, progress=False)
    train(store, of, Recipe(train_days=5, n_trees=5, max_samples=64))


class Life:
    """An engine on an owned database, and the model.

    Parameters
    ----------
    begun : a home as by `begin`, which is copied.

    Attributes
    ----------
    story : what was done, a line a move after the first.
    """

    def __init__(self, begun: Path) -> None:
        memory = Path("/dev/shm")  # nothing here outlives the process, and it needs no disk
        fast = memory if os.access(memory, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="aegis-order-", dir=fast))
        self.model, self.n, self.n_homes = Model(), 0, 0
        self.story = ["begin"]
        self.live = ExitStack()
        shutil.copytree(begun, self.next_home())
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

    def end(self) -> None:
        self.live.close()
        shutil.rmtree(self.folder)

    def make(self, move: str, chance: Random) -> bool:
        """Make a move; False where there is nothing to make it on."""
        self.story.append(move)
        made = getattr(self, move)(chance) is not False
        if not made:
            self.story.pop()
        return made

    def tell(self, more: str) -> None:
        self.story[-1] += f" {more}"

    def known(self, chance: Random) -> str:
        return chance.choice(list(self.model.verdicts))

    # --- who sends ------------------------------------------------------------------------

    def payment(self, chance: Random, amount: float = 0.0) -> Row:
        self.n += 1
        at = BEGIN + timedelta(minutes=self.n + chance.choice(MINUTES_OFF))
        return {
            "transaction_id": f"n{self.n}", "customer_id": chance.choice(CUSTOMERS),
            "timestamp": at.isoformat() + "Z", "amount": amount or chance.choice(AMOUNTS),
            "currency": chance.choice(("EUR", "EUR", "USD", "XTS")),
            "merchant_id": chance.choice(("m1", "m2", "of anna")), **chance.choice(PLACES),
        }  # fmt: skip

    def row(self, kind: str, chance: Random) -> Row:
        model = self.model
        if kind == "bad":
            return self.payment(chance, amount=1e16)
        if kind == "gone" and model.gone:
            row = chance.choice(model.gone)
            model.gone = [r for r in model.gone if r["transaction_id"] != row["transaction_id"]]
            return row
        if kind == "paid" and (tries := [k for k in model.verdicts if k.endswith(TRIED)]):
            return model.sent[chance.choice(tries)] | PAID
        if kind in ("again", "other") and model.verdicts:
            same = model.sent[self.known(chance)]
            return same | ({"amount": same["amount"] + 1} if kind == "other" else {})
        return self.payment(chance) | ({"status": chance.choice(TRIED)} if kind == "try" else {})

    def send(self, chance: Random, kinds: tuple[str, ...] = (), full: bool | None = None) -> None:
        usual, most = (NEW, 3) if chance.randrange(40) else (KINDS, 9)
        kinds = kinds or tuple(chance.choices(usual, k=chance.randint(1, most)))
        rows = [(kind, self.row(kind, chance)) for kind in kinds]
        if self.model.unanswered and chance.randrange(80) == 0:  # what was not answered comes again
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
        self.tell(", ".join(f"{kind} {key_of(row)} of {row['customer_id']}" for kind, row in rows))
        if chance.randrange(20) == 0 if full is None else full:
            self.tell("to a full disk")
            self.send_to_a_full_disk(good, bad)
            return
        outcomes = self.engine.score([checked for *_, checked in good], bad)
        self.model.refused += [row["raw"] for row in bad]
        for (kind, row, _), outcome in zip(good, outcomes, strict=True):
            self.answered(kind, row, outcome)

    def send_to_a_full_disk(self, good: list[tuple[str, Row, Row]], bad: list[Row]) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        new = bad or not all(self.model.is_repeat(row) for _, row, _ in good)
        said = pytest.raises(StoreError, match="No space left") if new else suppress(StoreError)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", full)
            with said:
                self.engine.score([checked for *_, checked in good], bad)
        self.model.maybe_refused += len(bad)
        for _, row, _ in good:
            if (name := key_of(row)) not in self.model.verdicts:
                self.model.unanswered[name] = row
                self.model.owner[name] = self.model.whose(row)
        for row in [r for r in self.model.unanswered.values() if r.get("status") == "approved"]:
            checked, _ = schemas.checked(json.dumps(row).encode())
            assert checked is not None
            self.answered("maybe", row, self.engine.score([checked])[0])

    def answered(self, kind: str, row: Row, outcome: Outcome) -> None:
        assert outcome.verdict is not None
        model, name, told = self.model, key_of(row), outcome.verdict
        verdict = (float(told["score"]), str(told["decision"]))
        if model.is_repeat(row):
            assert outcome.repeat
            same = row == model.sent.get(name) and model.is_of(row, name)
            assert outcome.conflict == (not same)
            assert verdict == model.verdicts[model.last[row["transaction_id"]]]
            return
        if name in model.unanswered:
            del model.unanswered[name]
        else:
            assert not outcome.repeat, name
            model.order.append(name)
        if not outcome.repeat:
            model.owner[name] = model.whose(row)
            forbidden = FORBIDS.get(model.ruling(row), set())
            assert verdict[1] not in forbidden or row.get("status") == "failed"
        model.last[row["transaction_id"]] = name
        model.sent[name], model.verdicts[name] = row, verdict

    # --- analysts and files ----------------------------------------------------------------

    def answer(self, chance: Random) -> bool:
        if not self.model.verdicts:
            return False
        name, fraud, held = id_of(self.known(chance)), chance.random() < 0.5, chance.random() < 0.3
        given, hold_s = "fraud" if fraud else "legitimate", HOLD_S if held else 0.0
        self.tell(f"{name} {given} {'held' if held else ''}")
        review = self.engine.do(
            lambda: answers.answer(self.store, name, given, analyst="mia", hold_s=hold_s)
        )
        if held:
            self.model.held[review] = (name, fraud)
        else:
            self.model.labels.append((name, fraud))
        return True

    def undo(self, chance: Random) -> bool:
        if not self.model.held:
            return False
        review = chance.choice(list(self.model.held))
        self.tell(self.model.held[review][0])
        with pytest.raises(InputError, match="is mia's"):
            answers.undo(self.store, [review], analyst="tom")
        self.engine.do(lambda: answers.undo(self.store, [review], analyst="mia"))
        del self.model.held[review]
        return True

    def pass_an_hour(self, chance: Random) -> bool:
        if not self.model.held:
            return False
        later = utc_now() + timedelta(seconds=2 * HOLD_S)
        self.engine.do(lambda: answers.publish(self.store, now=later))
        self.model.labels += self.model.held.values()
        self.model.held.clear()
        return True

    def put_on_a_list(self, chance: Random) -> None:
        customer, kind = chance.choice(CUSTOMERS), chance.choice(LIST_KINDS)
        self.tell(f"{customer} {kind}")
        for entry in lists.current(self.store):
            if entry.value == customer:
                lists.end(self.store, entry.entry_id, who="tom", why="over")
        self.engine.do(
            lambda: lists.add(
                self.store, kind, customer, until="2026-04-01", who="mia", why="asked for"
            )
        )
        self.model.listed[customer] = kind

    def read_labels(self, chance: Random) -> bool:
        if not self.model.verdicts:
            return False
        said = {id_of(self.known(chance)): chance.random() < 0.5 for _ in range(3)}
        self.tell(f"{said}")
        file = self.folder / "labels.csv"
        rows = [f"{name},{fraud}" for name, fraud in said.items()]
        file.write_text("\n".join(["transaction_id,is_fraud", *rows]))
        self.engine.do(lambda: import_labels(file, self.store))
        self.model.filed |= said
        return True

    def read_rates(self, chance: Random) -> None:
        day, rate = BEGIN + timedelta(days=chance.randint(-5, 5)), chance.choice((0.9, 1.2))
        self.tell(f"{day:%Y-%m-%d} {rate}")
        file = self.folder / "rates.csv"
        file.write_text(f"day,currency,rate\n{day:%Y-%m-%d},USD,{rate}\n")
        self.engine.do(lambda: rates.import_rates(self.store, file, who="mia"))

    def link_cards(self, chance: Random) -> bool:
        new, old = chance.choice(REISSUED)
        there, to = self.model.links, self.model.links.get(old, old)
        if new in there:
            return False
        self.tell(f"{new} replaces {old}")
        self.engine.do(lambda: links.link(self.store, [(new, old)], "cards", who="mia"))
        there |= {number: to for number, first in there.items() if first == new} | {new: to}
        return True

    def erase(self, chance: Random) -> bool:
        """Erase a customer, while payments come."""
        customer, model = chance.choice(CUSTOMERS), self.model
        mine = {name for name, whose in model.owner.items() if whose == customer}
        if not mine & model.verdicts.keys():
            return False
        self.tell(f"{customer}, meanwhile")
        dropped, go_on, left_of = threading.Event(), threading.Event(), erasure.left_of

        def waiting(*given: Any) -> Any:
            dropped.set()
            assert go_on.wait(10)
            return left_of(*given)

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as beside:
            patch.setattr(erasure, "left_of", waiting)
            ended = beside.submit(erasing.erase, self.store, self.settings, customer, who="dpo")
            try:
                while not dropped.wait(0.002) and not ended.done():
                    self.engine.follow()  # as the table writer has it done at its next look
                ids = {id_of(name) for name in mine}
                model.lose(mine)
                model.owner = {name: of for name, of in model.owner.items() if of != customer}
                model.unanswered = {k: r for k, r in model.unanswered.items() if k not in mine}
                self.send(chance)
            finally:
                go_on.set()
            ended.result()
        self.engine.follow()
        model.forget_labels_of(ids)
        model.listed.pop(customer, None)
        model.links = {a: b for a, b in model.links.items() if customer not in (a, b)}
        model.refused = [raw for raw in model.refused if customer not in raw]
        return True

    # --- the machine ---------------------------------------------------------------------

    def crash(self, chance: Random) -> None:
        """What the files hold at a moment is all that the next process has."""
        old, before = self.live, self.home
        with self.store._in_turn():
            shutil.copytree(before, self.next_home())
        old.close()
        shutil.rmtree(before)
        self.open()

    def restart(self, chance: Random) -> None:
        self.live.close()
        self.open()

    def save(self, chance: Random) -> None:
        self.engine.save()
        self.restart(chance)

    def forget(self, chance: Random) -> bool:
        """Forget the older half."""
        model = self.model
        if len(model.order) < 20:
            return False
        last = model.order[len(model.order) // 2]
        self.tell(f"until {last}")
        (found,) = self.store.rows(f"SELECT seq FROM transactions WHERE {KEY} = ?", [last])
        old = retention.Plan(BEGIN - timedelta(days=1), found["seq"] + 1, {}, None, None, 0)
        self.engine.do(lambda: retention.forget(self.store, old, who="mia"))
        there = {row["name"] for row in self.store.rows(f"SELECT {KEY} AS name FROM transactions")}
        gone = model.verdicts.keys() - there
        assert last in gone
        model.lose(gone)
        model.forgotten |= {id_of(name) for name in gone}
        model.unanswered = {k: row for k, row in model.unanswered.items() if k in there}
        return True

    def restore(self, chance: Random) -> None:
        """From a backup, made while the engine is at work or after it."""
        beside = chance.random() < 0.5
        self.tell("of a backup made beside the engine" if beside else "")
        if not beside:
            self.live.close()
        file = self.folder / "backup.tar"
        backup(self.store, file, self.settings, who="mia", force=True)
        if beside:
            self.live.close()
        restore(file, config.load(home=self.next_home()), who="mia")
        self.open()

    # --- what must hold ------------------------------------------------------------------

    def check(self, chance: Random | None = None) -> None:
        """All that was answered is there, once, in its order, and replays bit for bit."""
        model = self.model
        self.engine.check()
        found = self.store.rows(
            f"SELECT {KEY} AS name, score, decision FROM verdicts "
            "JOIN transactions USING (seq, transaction_id) ORDER BY seq"
        )
        there = {row["name"]: (row["score"], row["decision"]) for row in found}
        assert len(there) == len(found), "once each"
        certain = {k: v for k, v in there.items() if k not in model.unanswered}
        assert certain == model.verdicts
        ordered = set(model.order)
        assert [row["name"] for row in found if row["name"] in ordered] == model.order
        kept = self.store.value("SELECT count(*) FROM rejected")
        assert 0 <= kept - len(model.refused) <= model.maybe_refused
        said = self.store.rows(
            "SELECT transaction_id AS name, is_fraud, source, after_seq FROM labels "
            "WHERE source IN ('review', 'labels.csv') ORDER BY rowid"
        )
        places = [row["after_seq"] for row in said]
        assert places == sorted(places)
        told = [r for r in said if r["name"] not in model.forgotten]
        by = {s: [(r["name"], r["is_fraud"]) for r in told if r["source"] == s]
              for s in ("review", "labels.csv")}  # fmt: skip
        assert by["review"] == [of for of in model.labels if of[0] not in model.forgotten]
        filed = {name: fraud for name, fraud in model.filed.items() if name not in model.forgotten}
        assert dict(by["labels.csv"]) == filed
        assert parity(self.store, self.settings).different == 0
        with self.store.snapshot() as session:
            assert audit.verify(session).problem is None
