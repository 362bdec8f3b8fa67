"""A state machine: whatever senders, analysts, the clock, crashes and backups do, in any order.

Hypothesis plays short lives and shrinks what it finds; the long ones are played by seeds, as it
draws no more than some hundred moves of a kind for one example. `make fuzz` goes on with others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from any_order import MOVES, Life, begin
from fuzz import STEPS, Broken, play
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from aegis_core.serving import table_writer

LIVES = 20
"""Of `fuzz.STEPS` steps each: 10,000."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("begun")
    begin(home)
    return home


@pytest.fixture(autouse=True)
def tables_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_writer, "AT_ONCE_S", 0.0)


class AnyOrder(RuleBasedStateMachine):
    """Each move as often as any other."""

    begun: Path

    @initialize()
    def begin(self) -> None:
        self.life = Life(self.begun)

    @rule(move=st.sampled_from(tuple(MOVES)), chance=st.randoms(use_true_random=False))
    def make(self, move: str, chance: Random) -> None:
        if self.life.make(move, chance):
            note(self.life.story[-1])

    def teardown(self) -> None:
        if hasattr(self, "life"):
            try:
                self.life.check()
            finally:
                self.life.end()


@pytest.fixture
def life(begun: Path) -> Iterator[Life]:
    life = Life(begun)
    try:
        yield life
        life.check()
    finally:
        life.end()


def test_what_the_disk_did_not_take_keeps_its_place_before_an_answer(life: Life) -> None:
    chance = Random(0)
    life.send(chance, ("new",), full=False)
    life.send(chance, ("new", "new"), full=True)
    life.answer(chance)
    life.send(chance, ("new",), full=False)


@pytest.mark.attack("any order of sending, answering, full disks, crashes, backups, forgetting")
def test_no_order_of_events_loses_or_changes_what_was_answered(begun: Path) -> None:
    AnyOrder.begun = begun
    few = settings(max_examples=3, stateful_step_count=30, derandomize=True)
    run_state_machine_as_test(AnyOrder, settings=few)


@pytest.mark.attack("10,000 steps of sending, answering, erasing, reissued cards, crashes, backups")
@pytest.mark.parametrize("seed", range(LIVES))
def test_no_long_life_loses_or_changes_what_was_answered(begun: Path, seed: int) -> None:
    assert len(play(begun, seed)) == 1 + STEPS


def test_what_does_not_hold_is_told_with_its_seed_and_the_shortest_life_that_fails(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Life.send

    def send(life: Life, *given: object, **more: object) -> None:
        sent(life, *given, **more)  # type: ignore[arg-type]
        assert life.n < 20, "a fault"

    monkeypatch.setattr(Life, "send", send)
    with pytest.raises(Broken, match=r"(?s)after \d+ steps:.*--seed 3 --steps \d+") as told:
        play(begun, 3, 200)
    assert "a fault" in str(told.value)
