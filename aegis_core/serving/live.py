"""The live path on the embedded database: admit, score and write, one transaction a batch.

The stream's state is a fold of what was committed, in the order of arrival: transactions, the
decisions given, and answers. Before each batch `Stream` catches up with what others wrote, models
promoted and lists changed among it; after a failed write it forgets its state and folds anew, so
that memory and file never differ.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from aegis_core.config import Settings
from aegis_core.detection.history import label_events, recorded, transactions
from aegis_core.detection.learner import Learner
from aegis_core.detection.registry import ModelVersion, load, roles
from aegis_core.detection.scoring import Scored, Scorer
from aegis_core.detection.verdicts import VERDICTS, Verdicts
from aegis_core.errors import InputError
from aegis_core.features.arrays import Rows
from aegis_core.features.checkpoint import begin
from aegis_core.features.confirmed import Confirmed
from aegis_core.features.profiles import Profiles
from aegis_core.intake.importing import admit
from aegis_core.intake.synthetic import SyntheticConfig, history_config, stream
from aegis_core.review import lists
from aegis_core.review.answers import answer as answer
from aegis_core.review.answers import publish
from aegis_core.schema import FACTORS
from aegis_core.serving.client import Client, kept_token
from aegis_core.store import Store, rollups
from aegis_core.store.journal import as_table
from aegis_core.store.session import Session

TICK_S = 0.5
"""Length of a micro-batch of a paced stream, in seconds."""
UNPACED_ROWS = 2_000
"""Rows of a micro-batch of a stream without pacing."""


class Stream:
    """Scores transactions as they arrive, with the champion of the database.

    Parameters
    ----------
    progress :
        Called with the number of past transactions folded since the last call.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.store, self.settings = store, settings
        self._progress = progress
        self.scorer = Scorer()
        self.champion: ModelVersion
        self.shadows: list[ModelVersion] = []
        self._roles: tuple[str, tuple[str, ...]] | None = None
        self._forget()
        with store.reading() as session:
            self._catch_up(session)

    def take(
        self, rows: pa.Table | pd.DataFrame, source: str, labels: pa.Table | None = None
    ) -> pd.DataFrame:
        """Admit `rows`, score them and commit all of it, then return the verdicts.

        Parameters
        ----------
        rows :
            Transactions with the columns of the table, without `seq`. What the check at the door
            refuses goes to `rejected`; what is already there keeps the verdict it has.
        labels :
            Rows of the table `labels` that come with them.

        Returns
        -------
        DataFrame
            The columns of `verdicts` for the rows accepted, and `customer_id`, `ts`, `amount`,
            `currency`.
        """
        self.store.require_no_service()
        try:
            with self.store.writing(checkpoint=False) as session:
                publish(session)
                self._catch_up(session)
                admitted = admit(session, rows, source).accepted
                frame = admitted.to_pandas()
                rulings, listed = lists.rulings(lists.current(session), frame)
                scored = self.scorer.run(frame, rulings=rulings, signals=True, explain=True)
                verdicts = self.scorer.verdicts_of(frame, scored, self.champion.version, listed)
                if len(frame):
                    self._keep(session, frame, scored, verdicts)
                    self.next_seq = int(frame.seq.iloc[-1]) + 1
                if labels is not None and labels.num_rows:
                    last = pa.array([self.next_seq - 1] * labels.num_rows)
                    session.append("labels", labels.append_column("after_seq", last))
        except BaseException:
            self._forget()
            raise
        told_of: pd.DataFrame = verdicts.frame().assign(
            **{c: frame[c].to_numpy() for c in ("customer_id", "ts", "amount", "currency")}
        )
        return told_of

    def close(self) -> None:
        """Nothing to hang up: the database is held for each batch alone."""

    def _keep(self, session: Session, rows: Rows, scored: Scored, verdicts: Verdicts) -> None:
        """Write the verdicts, and what the challengers say."""
        session.append("verdicts", as_table([verdicts.columns()], VERDICTS))
        rollups.add(session, int(verdicts.seq[0]), int(verdicts.seq[-1]))
        for challenger in self.shadows:
            session.append("shadow_scores", challenger.judge(rows, scored))

    def _forget(self) -> None:
        self._roles, self.next_seq, self._n_told = None, 0, 0

    def _catch_up(self, session: Session) -> None:
        """Follow the register of models, then fold what was committed since the last time."""
        now = roles(session)
        if now != self._roles:
            self._follow(session, *now)
            self._roles = now
        n_labels = count(session, "labels") if self.scorer.confirmed is not None else 0
        if session.next_seq() == self.next_seq and n_labels == self._n_told:
            return
        events = label_events(session, self._n_told) if n_labels > self._n_told else None
        missed = transactions(session, "t.seq >= ?", [self.next_seq])
        self.scorer.replay(missed, events, recorded=recorded(missed), progress=self._progress)
        self.next_seq = session.next_seq()
        self._n_told = n_labels

    def _follow(self, session: Session, champion: str, shadows: tuple[str, ...]) -> None:
        """Let other models judge; the state stays, unless answers are needed for the first time."""
        self.champion = load(session, champion, self.settings)
        self.shadows = [load(session, version, self.settings) for version in shadows]
        learns = any(isinstance(m.model, Learner) for m in (self.champion, *self.shadows))
        if self._roles is not None and (not learns or self.scorer.confirmed is not None):
            profiles: Profiles | None = self.scorer.profiles
            answers = self.scorer.confirmed
        else:
            self.next_seq = self._n_told = 0
            profiles, answers = self._begin(session, learns)
        self.scorer = Scorer(self.champion.model, self.champion.policy, profiles, answers)

    def _begin(self, session: Session, learns: bool) -> tuple[Profiles | None, Confirmed | None]:
        """The state to fold the history onto."""
        begun = begin(session, confirmed=learns)
        return begun.profiles, begun.confirmed


def count(session: Session, table: str) -> int:
    """Number of rows of a table."""
    (found,) = session.rows(f"SELECT count(*) AS n FROM {table}")
    return int(found["n"])


@dataclass
class Tally:
    """What a simulated stream has done so far."""

    transactions: int = 0
    reviewed: int = 0
    blocked: int = 0
    frauds: int = 0
    caught: int = 0
    seconds: float = 0.0

    def figures(self) -> dict[tuple[str, str], float | None]:
        """The figures as `runs.record_metrics` takes them; a share of nothing is None."""
        alerts = self.reviewed + self.blocked
        return {
            ("alert_rate", "stream"): alerts / self.transactions if self.transactions else None,
            ("caught_share", "stream"): self.caught / self.frauds if self.frauds else None,
            ("transactions", "stream"): float(self.transactions),
        }

    def sentence(self) -> str:
        """The bottom line."""
        rate = self.transactions / self.seconds if self.seconds else 0.0
        caught = f"{self.caught} of {self.frauds} frauds stopped or queued" if self.frauds else ""
        return (
            f"{self.transactions:,} transactions in {self.seconds:.1f} s ({rate:,.0f} a second): "
            f"{self.blocked} blocked, {self.reviewed} to review"
            + (f"; {caught}." if caught else "; no fraud among them.")
        )


def simulate(
    store: Store,
    settings: Settings,
    *,
    n_transactions: int = 2_000,
    seconds: float = 0.0,
    rate: float = 0.0,
    fraud_multiplier: float = 3.0,
    target: str = "",
    say: Callable[[str], object] = print,
    max_lines: int = 40,
    progress: bool = True,
) -> Tally:
    """Let new transactions of the database's population arrive and be scored live.

    A database of imported data gets a synthetic population of its own, after its last day. Ctrl-C,
    or the stop button of a notebook, ends it as well; what was scored until then stays.

    Parameters
    ----------
    n_transactions :
        Where the stream ends; 0 means that `seconds` alone ends it.
    seconds :
        When it ends; 0 means never by the clock.
    rate :
        Transactions a second; 0 means as fast as they can be scored.
    fraud_multiplier :
        Fraud rates of the population times this, so that a short stream has something to show.
    target :
        Address of a running service, which scores them; "" scores them in this process.
    say, max_lines :
        Called with a line for each alert, and now and then for an approval, at most so often.

    Raises
    ------
    InputError
        Nothing would end the stream, or a number is negative.
    NotReady
        There is no champion model.
    """
    if min(n_transactions, seconds, rate, fraud_multiplier) < 0:
        raise InputError("n_transactions, seconds, rate and fraud_multiplier may not be negative.")
    if not n_transactions and not seconds:
        raise InputError("Give n_transactions or seconds, or the stream would never end.")
    from tqdm import tqdm  # type: ignore[import-untyped]

    live: Stream | Client = (
        Client(target, settings.token.get_secret_value() or kept_token(store))
        if target
        else Stream(store, settings)
    )
    tally, lines = Tally(), 0
    began = time.monotonic()
    size = max(1, round(rate * TICK_S)) if rate else UNPACED_ROWS
    total = n_transactions or (int(rate * seconds) if rate else None)
    expected_s = seconds or (n_transactions / rate if rate else 0)
    bar = tqdm(total=total, unit="tx", disable=not progress, mininterval=max(0.5, expected_s / 100))
    with bar, contextlib.closing(live), contextlib.suppress(KeyboardInterrupt):
        for i, (rows, labels) in enumerate(
            _arrivals(store, size, n_transactions, fraud_multiplier)
        ):
            if rate:
                time.sleep(max(0.0, began + i * size / rate - time.monotonic()))
            if seconds and time.monotonic() - began >= seconds:
                break
            verdicts = live.take(rows, "simulate", labels)
            alert = (verdicts.decision != "approve").to_numpy()
            fraud = verdicts.transaction_id.isin(
                labels.filter(labels.column("is_fraud")).column("transaction_id").to_pylist()
            ).to_numpy()
            tally.transactions += len(verdicts)
            tally.blocked += int((verdicts.decision == "block").sum())
            tally.reviewed += int((verdicts.decision == "review").sum())
            tally.frauds += int(fraud.sum())
            tally.caught += int((fraud & alert).sum())
            first = (np.arange(len(alert)) == 0) & (i % 20 == 0)
            for line in map(_line, verdicts[alert | first].to_dict("records")):
                if lines < max_lines:
                    say(line)
                elif lines == max_lines:
                    say("… more in the table verdicts.")
                lines += 1
            bar.update(len(verdicts))
    tally.seconds = time.monotonic() - began
    return tally


def _arrivals(
    store: Store, size: int, n_transactions: int, fraud_multiplier: float
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Micro-batches of `size` rows, endless unless `n_transactions` says otherwise."""
    with store.reading() as session:
        last = session.rows("SELECT max(ts) AS last FROM transactions")[0]["last"]
        config = history_config(session)
    if config is None:
        config = SyntheticConfig(start=f"{last + pd.Timedelta(days=1):%Y-%m-%d}")
    endless = n_transactions or 2**62
    for rows, labels in stream(config, endless, after=last, fraud_multiplier=fraud_multiplier):
        for start in range(0, rows.num_rows, size):
            yield rows.slice(start, size), labels.slice(start, size)


def _line(verdict: Mapping[Hashable, Any]) -> str:
    """One verdict as an analyst would say it."""
    money = f"{verdict['currency'] or ''} {verdict['amount']:,.2f}".strip()
    word = {"approve": "Approved", "review": "Review", "block": "Blocked"}[str(verdict["decision"])]
    why = [str(r["text"]) for r in verdict["reasons"]]
    return f"{word}: {'; '.join(why) if why else money} [{verdict['transaction_id']}]"


@dataclass(frozen=True)
class Parity:
    """How many stored verdicts a replay of the history gives again, bit for bit."""

    checked: int
    different: int
    first_different: str | None

    def sentence(self) -> str:
        """The result in words."""
        if not self.checked:
            return "No live verdicts are stored yet, so there is nothing to compare."
        if not self.different:
            return f"All {self.checked:,} stored verdicts replay bit for bit."
        return (
            f"{self.different:,} of {self.checked:,} stored verdicts replay DIFFERENTLY, the first "
            f"is of transaction {self.first_different}."
        )


def parity(store: Store, settings: Settings) -> Parity:
    """Replay the history and compare evidence and score with what live scoring stored."""
    with store.snapshot() as session:
        frame, events = transactions(session), label_events(session)
        stored = session.query(
            "SELECT seq, transaction_id, model_version, score, "
            + ", ".join(f"evidence.{f} AS {f}" for f in FACTORS)
            + " FROM verdicts ORDER BY seq"
        )
        versions = {v: load(session, v, settings).model for v in stored.model_version.unique()}
        learns = any(isinstance(model, Learner) for model in versions.values())
        begun = begin(session, confirmed=learns)
    if stored.empty:
        return Parity(0, 0, None)
    passed = Scorer(profiles=begun.profiles, confirmed=begun.confirmed).replay(
        frame, events, recorded=recorded(frame), signals=True
    )
    rows = np.searchsorted(frame.seq.to_numpy(), stored.seq.to_numpy())
    same = np.zeros(len(stored), bool)
    for version, part in stored.groupby("model_version"):
        at, model = rows[part.index], versions[str(version)]
        signals, money = passed.signals[at], frame.amount.to_numpy(float)[at]
        detector = model.detector if isinstance(model, Learner) else model
        _, evidence = detector.weigh(signals)
        score = (
            model.score(signals, money, passed.history[at])
            if isinstance(model, Learner)
            else model.score(evidence)
        )
        same[part.index] = (evidence == part[list(FACTORS)].to_numpy()).all(axis=1) & (
            score == part.score.to_numpy()
        )
    first = None if same.all() else str(stored.transaction_id[int(np.argmin(same))])
    return Parity(len(stored), int((~same).sum()), first)
