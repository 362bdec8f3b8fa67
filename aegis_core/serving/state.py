"""What the engine keeps in memory: a fold of what was answered, and what of others it follows.

The fold is of transactions, the decisions given, and labels, in the order of arrival. A snapshot
makes a restart quick; without a good one, the history is folded anew. What others change is looked
for and followed between two groups: models, the threshold that keeps a budget, labels, lists,
rates, links of numbers, and customers who are being erased.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection import following
from aegis_core.detection.history import label_events, recorded, transactions
from aegis_core.detection.learner import Learner
from aegis_core.detection.registry import ModelVersion, load, roles
from aegis_core.detection.scoring import Scorer
from aegis_core.detection.verdicts import Verdicts
from aegis_core.errors import NotReady
from aegis_core.features import checkpoint
from aegis_core.features.arrays import Ids, hashed
from aegis_core.review import lists
from aegis_core.serving import snapshot
from aegis_core.serving.rows import Lately, Rows, columns
from aegis_core.store import Store
from aegis_core.store.meaning import Meaning
from aegis_core.store.session import Session

_LOG: Final = logging.getLogger("aegis.service")
_MEANT: Final = """
    SELECT concat_ws(' ', count(*), (SELECT count(*) FROM rates), max(linked_at)) FROM links"""


class State:
    """The state that transactions are judged by, one group after the other, in one thread.

    Parameters
    ----------
    progress : called with the number of past transactions folded since the last call.

    Attributes
    ----------
    next_seq : the place of the next transaction in the order of arrival.
    ids : where each transaction stands in that order.
    champion, shadows :
        The models that decide, by the threshold that keeps the budget, and that score beside it.
    """

    champion: ModelVersion
    shadows: list[ModelVersion]
    _trained: ModelVersion
    _decides: ModelVersion

    def __init__(
        self, store: Store, settings: Settings, progress: Callable[[int], object] | None = None
    ) -> None:
        self._path, self._settings, self._progress = store.path, settings, progress
        self._lately, self._meant = Lately(), ""
        self.forget()

    def forget(self) -> None:
        """Begin with nothing; the next group is scored after the history was folded anew."""
        self.scorer, self.ids = Scorer(), Ids()
        self.next_seq = self._indexed = self._n_labels = 0
        self._looked_back = -1  # the day that the budget was looked at for
        self._noted: ModelVersion | None = None  # with a threshold that is not committed yet
        self._roles: tuple[str, tuple[str, ...]] | None = None
        self.behind = True

    @property
    def behind(self) -> bool:
        """Whether others changed something that is not followed yet, or there is no state."""
        return self._behind or not self.begun  # whoever looks may end after another one forgot

    @behind.setter
    def behind(self, is_behind: bool) -> None:
        self._behind = is_behind

    @property
    def begun(self) -> bool:
        """Whether there is a state at all: after a failure there is none."""
        return self._roles is not None

    @property
    def learns(self) -> bool:
        """Whether a model looks at labels."""
        return self.scorer.confirmed is not None

    def judge(self, rows: Rows, source: str) -> tuple[dict[str, Any], Verdicts, dict[str, Any]]:
        """Score rows that are new, as if kept: as columns, their verdicts, and all for the tables.

        The last is a group of the journal, by the names of tables; it is empty without a row.
        """
        if self._decides.version == self.champion.version:  # else one that was replaced meanwhile
            self.champion, self.scorer.policy = self._decides, self._decides.policy
        n, batch = len(rows), columns(rows, self.next_seq, self.meaning)
        rulings, listed = None, None
        if self.entries:
            wanted = ("customer_id", "merchant_id", "ts")
            rulings, listed = lists.rulings(
                self.entries, pd.DataFrame({c: batch[c] for c in wanted})
            )
        scored = self.scorer.run(batch, rulings=rulings, signals=True, explain=True)
        batch["base_amount"] = self.scorer.profiles.worth(scored.amount)
        verdicts = self.scorer.verdicts_of(
            batch, scored, self.champion.version, listed, self._lately.again(rows)
        )
        self.next_seq = self._indexed = self.next_seq + n
        if not n:
            return batch, verdicts, {}
        told = {name: column for name, column in batch.items() if not _is_empty(column)}
        transactions = told | {"ts": batch["ts"].view(np.int64), "source": [source] * n}
        group: dict[str, Any] = {"transactions": transactions, "verdicts": verdicts.columns()}
        if self.shadows:
            beside = pd.concat([other.judge(batch, scored) for other in self.shadows])
            group["shadow_scores"] = {str(c): beside[c].tolist() for c in beside}
        return batch, verdicts, group

    def look(self, session: Session) -> None:
        """Notice what others changed; lists count at once, the rest when it is followed."""
        self.entries = self._listed(session)
        self.behind = self.lacks(session)

    @property
    def day_has_ended(self) -> bool:
        """Whether the threshold of a new day was not looked for yet."""
        follows = self.begun and self._settings.budget_follows_days > 0
        return follows and self.scorer.profiles.day > self._looked_back

    def look_back(self, session: Session) -> None:
        """Note by which threshold the budget is kept in the day that has begun.

        It counts once what `session` noted is committed, and `kept` says so.
        """
        self._noted, day = None, self.scorer.profiles.day
        self._looked_back = day  # first: what fails is not tried again at every look
        if following.look_back(session, self._trained, day, self._settings.budget_follows_days):
            self._noted = following.applied(session, self._trained)

    def kept(self) -> None:
        """The next group is judged by the threshold that `look_back` noted."""
        if self._noted is not None:
            self._decides, self._noted = self._noted, None

    def follow(self, session: Session) -> None:
        """Bring all up to what the tables hold and others decided."""
        self._fold(session)
        if (meant := session.value(_MEANT)) != self._meant:
            settings = self._settings
            self.meaning = Meaning.read(session, settings.base_currency, settings.timezone)
            self._meant = meant
        self.entries = self._listed(session)

    def drop_asked(self, session: Session) -> bool:
        """Forget the customers who are being erased, and say from which transaction on.

        Nothing of them stays here or in the snapshot; the tables are for who asked. Whether there
        was one.
        """
        asked = checkpoint.asked(session)
        for customer, names in asked:
            checkpoint.drop(self.scorer.profiles, self.scorer.confirmed, customer, names)
            theirs = session.numpy("SELECT seq FROM transactions WHERE customer_id = ?", [customer])
            hashes = self.ids.in_order(self.next_seq)
            hashes[theirs["seq"]] = -1
            self.ids = Ids.of(hashes)
            self._lately = Lately()
            snapshot.remove(self._path)
            checkpoint.dropped_at(session, customer, names, self.next_seq)
        return bool(asked)

    def save(self, session: Session) -> None:
        """Write a snapshot, all or nothing."""
        snapshot.Snapshot(
            self.next_seq, self._n_labels, self.ids, self.scorer.profiles, self.scorer.confirmed
        ).save(self._path, session)

    def lacks(self, session: Session) -> bool:
        """Whether there are roles of models, or labels, that the state does not follow yet."""
        (labels,) = session.rows(
            "SELECT count(*) AS n, count(*) - count(after_seq) AS unplaced FROM labels"
        )
        unknown = self.learns and labels["n"] != self._n_labels
        return (
            bool(checkpoint.asked(session))
            or unknown
            or labels["unplaced"] > 0
            or roles(session) != self._roles
            or session.value(_MEANT) != self._meant
        )

    def _listed(self, session: Session) -> list[lists.Entry]:
        """The entries of lists, of a linked number as of the customer."""
        entries, links = lists.current(session), self.meaning.links
        return [
            replace(entry, value=links.get(entry.value, entry.value))
            if links and entry.field == "customer" else entry
            for entry in entries
        ]  # fmt: skip

    def _fold(self, session: Session) -> None:
        """Bring models, state and ids up to what the tables hold."""
        if (now := roles(session)) != self._roles:
            self._load(session, *now)
            self._roles, self._looked_back = now, -1
        self.champion = self._decides = following.applied(session, self._trained)
        self.scorer.policy = self.champion.policy
        n_labels = session.value("SELECT count(*) FROM labels") if self.learns else 0
        if session.next_seq() != self.next_seq or n_labels != self._n_labels:
            labels = label_events(session, self._n_labels) if n_labels > self._n_labels else None
            missed = transactions(session, "t.seq >= ?", [self.next_seq])
            self.scorer.replay(
                missed, labels, recorded=recorded(missed), progress=self._progress,
                erased=checkpoint.erased(session, self.next_seq, session.next_seq()),
            )  # fmt: skip
            self.next_seq, self._n_labels = session.next_seq(), n_labels
        if self._indexed < self.next_seq:
            there = session.numpy(
                "SELECT transaction_id AS id, seq FROM transactions WHERE seq >= ? ORDER BY seq",
                [self._indexed],
            )
            self.ids.add(hashed(there["id"].tolist()), there["seq"])
            self._indexed = self.next_seq

    def _load(self, session: Session, version: str, shadows: Sequence[str]) -> None:
        """Let other models judge; the state stays, unless labels are needed for the first time."""
        champion = load(session, version, self._settings)
        beside = []
        for shadow in shadows:
            try:
                beside.append(load(session, shadow, self._settings))
            except NotReady as e:  # such as of an older version; it decides nothing
                _LOG.warning("a model in shadow does not score: %s", e)
        learns = any(isinstance(m.model, Learner) for m in (champion, *beside))
        if not self.begun or (learns and not self.learns):
            self._begin(session, learns)
        self._trained, self.shadows = champion, beside
        self.scorer = Scorer(
            champion.model, champion.policy, self.scorer.profiles, self.scorer.confirmed
        )

    def _begin(self, session: Session, learns: bool) -> None:
        """Take the state to fold the history onto: a snapshot's, or the one that it begins with."""
        kept = snapshot.load(self._path, session, learns=learns)
        if kept is None:
            begun = checkpoint.begin(session, confirmed=learns)
            self.next_seq = self._n_labels = 0
            self.scorer = Scorer(profiles=begun.profiles, confirmed=begun.confirmed)
            return
        self.ids, self.next_seq, self._n_labels = kept.ids, kept.next_seq, kept.n_labels
        self._indexed = kept.next_seq
        self.scorer = Scorer(profiles=kept.profiles, confirmed=kept.confirmed)


def _is_empty(column: object) -> bool:
    return isinstance(column, list) and column[0] is None and column.count(None) == len(column)
