"""The table writer: brings what the journal holds into the tables, beside the scoring.

A thread of its own writes what was answered since the last time in one transaction of DuckDB.
Whoever reads has it `settle` first, so that everybody sees all that was answered before they asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from aegis_core.errors import AegisError, StoreError
from aegis_core.store import Store, journal
from aegis_core.store.journal import Group, Journal
from aegis_core.store.session import Session

_LOG: Final = logging.getLogger("aegis.service")
EVERY_S: Final = 0.5
"""The tables follow the journal within about this time."""
AT_ONCE_S: Final = 0.02
"""And within this one where somebody reads."""
_AGAIN_S: Final = 0.5
_SETTLED_WITHIN_S: Final = 5.0


class TableWriter(threading.Thread):
    """Brings groups of `journal` into the tables of a store that this process owns.

    `look` is called in each of its transactions, to see what others changed, and what it returns
    once that is committed; `failed` says why the tables cannot be written at the moment, or is
    None.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        look: Callable[[Session], Callable[[], object] | None],
    ) -> None:
        super().__init__(name="aegis-tables", daemon=True)
        self.store, self.journal = store, journal
        self._look = look
        self._notes: list[Group] = []
        self._changed = threading.Condition()
        self._urgent = self._ending = False
        self.failed: str | None = None

    def note(self, group: Group) -> None:
        """Rows to write with the next transaction, though nobody waits for them."""
        with self._changed:
            self._notes.append(group)

    def settle(self, within_s: float = _SETTLED_WITHIN_S) -> bool:
        """Wait until the tables hold what was answered before the call; whether they do."""
        target = self.journal.written
        if self.journal.reached >= target:
            return True
        if threading.current_thread() is self:
            return False
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: self.journal.reached >= target or not self.is_alive(), within_s
            )

    def end(self) -> None:
        """Bring in the rest and stop; what cannot be brought in stays in the journal."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self.join()

    def run(self) -> None:
        """Follow the journal until `end` is called."""
        last = 0.0
        while True:
            with self._changed:
                until_due = last + (_AGAIN_S if self.failed else EVERY_S) - time.monotonic()
                self._changed.wait_for(lambda: self._ending or self._urgent, max(until_due, 0.0))
                ending, self._urgent = self._ending, False
            if not ending:
                time.sleep(max(0.0, last + AT_ONCE_S - time.monotonic()))
            began = time.monotonic()
            self._bring_in()
            last = began if not self.failed else time.monotonic()
            with self._changed:
                self._changed.notify_all()
            if ending and (self.failed or self.journal.reached == self.journal.written):
                return

    def _bring_in(self) -> None:
        end, groups = self.journal.waiting()
        with self._changed:
            notes, self._notes = self._notes, []
        try:
            with self.store.writing() as session:
                there = journal.reached(session)
                if there > self.journal.reached:  # a commit was called failed and was there
                    self.journal.done(there)
                    end, groups = self.journal.waiting()
                if groups or notes:
                    journal.bring_in(session, [*groups, *notes], end)
                kept = self._look(session)
            if kept is not None:
                kept()
            if groups:
                self._must_be_there(end.number, groups)
                self.journal.done(end.number)
            self.failed = None
        except AegisError as e:
            if self.failed is None:
                _LOG.error("the tables cannot be written: %s", e)
            self.failed = str(e)
        except Exception as e:
            _LOG.exception("the tables cannot be written")
            self.failed = f"unexpected: {e}"

    def _must_be_there(self, number: int, groups: list[Group]) -> None:
        """Look for what was committed: at its memory limit DuckDB was seen to say so in vain."""
        seqs: list[Any] = [g["transactions"]["seq"] for g in groups if "transactions" in g]
        with self.store.writing() as session:  # a reading would open a connection
            there, next_seq = journal.reached(session), session.next_seq()
        if there < number or (seqs and next_seq <= int(seqs[-1][-1])):
            raise StoreError("The commit did not keep what it was given.")
