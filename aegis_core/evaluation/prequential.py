"""Prequential evaluation: train on a window, wait for the labels, test on the next one; again.

Each fold does what would have happened: profiles learn every transaction in order of arrival, the
detector is fitted on the training window's signals, and from the first test transaction on the
live `Scorer` decides, with the consequences that a block has for the profiles. A random split would
let a customer's fraud of Tuesday teach what is found on Monday.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from aegis_core.detection.detector import MIN_TRAIN, Detector
from aegis_core.detection.history import known_answers
from aegis_core.detection.learner import MIN_FRAUDS, Learner
from aegis_core.detection.policy import Counter, Policy, burst_limits
from aegis_core.detection.scoring import CHUNK_ROWS, Decisions, Scored, Scorer
from aegis_core.errors import NotReady
from aegis_core.evaluation import cases, hindsight
from aegis_core.evaluation.outcome import (
    DETECTORS,
    LEARNER,
    Evaluation,
    mean_and_spread,
    side_by_side,
)
from aegis_core.evaluation.splits import (
    Fold,
    clipped,
    cut_at,
    cuts,
    known_compromised,
    microseconds,
)
from aegis_core.features import confirmed
from aegis_core.features.arrays import Floats, Ints
from aegis_core.features.profiles import Profiles
from aegis_core.schema import FACTORS, Decision

__all__ = ["DETECTORS", "LEARNER", "Evaluation", "evaluate", "mean_and_spread", "side_by_side"]


def evaluate(
    frame: pd.DataFrame,
    labels: pd.DataFrame,
    folds: Sequence[Fold],
    *,
    alert_budget: float = 0.005,
    block_share: float = 0.2,
    exclude_known: bool = False,
    learner: bool = False,
    seed: int = 0,
    recorded: Decisions | None = None,
    profiles: Profiles | None = None,
    memory: confirmed.Confirmed | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Run the folds over a history.

    Parameters
    ----------
    frame :
        All transactions in order of arrival, from the first on: what comes before the first
        training window teaches the profiles.
    labels :
        `transaction_id`, `is_fraud`, `scenario`, `known_at`; a transaction without a label counts
        as ordinary.
    exclude_known :
        Leave out, day by day, customers already known as compromised (`known_compromised`).
    learner :
        Also learn from the labels, each from its `known_at` on: what is known when a test window
        begins trains the learner, what becomes known during it is history to it.
    recorded :
        Decisions given when the transactions came; see `Scorer.run`.
    profiles, memory :
        What transactions and answers before the first of `frame` had taught, where those were
        forgotten (`checkpoint.begin`); None: there were none. They are not changed.
    progress :
        Called with the number of transactions done since the last call.

    Raises
    ------
    NotReady
        A training or test window holds too few transactions.
    """
    if not folds:
        return _nothing(frame, alert_budget)
    if len(frame):
        folds = [clipped(f, frame.ts.min(), frame.ts.max()) for f in folds]
    ts = frame["ts"].to_numpy("datetime64[us]").astype(np.int64)
    truth = frame[["transaction_id", "customer_id", "ts"]].merge(
        labels.drop_duplicates("transaction_id", keep="last"), on="transaction_id", how="left"
    )
    truth["is_fraud"] = truth.is_fraud.eq(True).fillna(False).astype(bool)
    teacher = Scorer(profiles=None if profiles is None else profiles.copy())
    if learner:
        teacher.confirmed = confirmed.Confirmed() if memory is None else memory.copy()
        teacher.confirmed.add_labels(confirmed.label_events(frame, labels))
    learnt = 0
    first_kept = cut_at(ts, min(f.train_from for f in folds))
    signals: list[Floats] = []
    history: list[Floats] = []
    counts: list[Ints] = []
    out = _nothing(frame, alert_budget)
    out.folds, out.frauds = list(folds), pd.Index(truth.transaction_id[truth.is_fraud])
    parts, days, told = [], [], []
    for fold in folds:
        start, stop = cut_at(ts, fold.test_from), cut_at(ts, fold.test_to)
        for a, b in cuts(learnt, start, first_kept):
            past = None if recorded is None else recorded[a:b]
            passed = teacher.run(
                frame.iloc[a:b], recorded=past, signals=a >= first_kept, progress=progress
            )
            if a >= first_kept:
                signals.append(passed.signals)
                history.append(passed.history)
                counts.append(passed.counts)
        learnt = max(learnt, start)
        seen = np.concatenate(signals) if signals else np.empty((0, 0))
        window = ts[first_kept:learnt]
        chosen = (window >= microseconds(fold.train_from)) & (window < microseconds(fold.train_to))
        if stop <= start or not chosen.any():
            raise NotReady(
                f"Fold {fold.number} has {int(chosen.sum()):,} transactions to train on "
                f"({fold.train_from:%Y-%m-%d} to {fold.train_to:%Y-%m-%d}) and "
                f"{max(0, stop - start):,} to test on ({fold.test_from:%Y-%m-%d} to "
                f"{fold.test_to:%Y-%m-%d}); the history covers {frame.ts.min()} to "
                f"{frame.ts.max()}."
            )
        trained_on = frame.iloc[first_kept:learnt][chosen]
        detector = Detector(seed=seed).fit(seen[chosen])
        counted = np.concatenate(counts)[chosen]
        limits = burst_limits(counted, trained_on.customer_id)
        score = detector.score(detector.weigh(seen[chosen])[1])
        counter = Counter.beside(limits, counted, score)
        policy = Policy.from_budget(detector, alert_budget, block_share, counter=counter)
        out.counters.append(counter)
        promised = policy.decide(score, counted)
        days.append(hindsight.days_of(fold, trained_on.ts, promised, True))
        taught = None
        if learner:
            money, recalled = frame["amount"].to_numpy(float), np.concatenate(history)
            answer = known_answers(trained_on, labels, fold.test_from)
            taught = Learner(detector, seed=seed).fit(
                seen[chosen], money[first_kept:learnt][chosen], recalled[chosen], answer
            )
            later = window >= microseconds(fold.train_to)
            if later.sum() >= MIN_TRAIN:
                taught.calibrate(seen[later], money[first_kept:learnt][later], recalled[later])
            out.learners.append(taught)
            if taught.n_frauds_ < MIN_FRAUDS:
                out.notes.append(
                    f"Fold {fold.number}: {taught.n_frauds_} frauds of the training window were "
                    f"known by {fold.test_from:%Y-%m-%d}; below {MIN_FRAUDS} the learner ranks as "
                    "the forest does."
                )
        live = Scorer(
            detector, policy, teacher.profiles.copy(),
            None if teacher.confirmed is None else teacher.confirmed.copy(),
        )  # fmt: skip
        chance = np.random.default_rng([seed, fold.number])
        tested = []
        for a in range(start, stop, CHUNK_ROWS):  # what a reason is told from is kept of few rows
            rows, known_truth = frame.iloc[a : min(a + CHUNK_ROWS, stop)], truth.iloc[a:stop]
            scored = live.run(rows, signals=True, explain=True, progress=progress)
            part = _tested(rows, known_truth.head(len(rows)), scored, fold, chance)
            part["counted"] = policy.counts_as_burst(scored.counts)
            if taught is not None:
                money = rows.amount.to_numpy(float)
                part[LEARNER] = taught.score(scored.signals, money, scored.history)
            tested.append(part)
            because = (part.is_fraud | (part.decision != Decision.APPROVE)).to_numpy()
            told.append(cases.evidence(rows, scored, detector, because))
        part = pd.concat(tested, ignore_index=True)
        part = part[((part.ts >= fold.test_from) & (part.ts < fold.test_to)).to_numpy()]
        days.append(hindsight.days_of(fold, part.ts, part.decision.to_numpy(np.int8), False))
        if exclude_known:
            part = part[~known_compromised(part, truth, fold.train_from)]
        if not part.is_fraud.any():
            out.notes.append(
                f"Fold {fold.number} ({fold.test_from:%Y-%m-%d} to {fold.test_to:%Y-%m-%d}) has no "
                "labelled fraud: recall and precision are undefined there."
            )
        if detector.score_quantiles_[0] == detector.score_quantiles_[-1]:
            out.notes.append(
                f"Fold {fold.number}: all transactions of the training window got the same score, "
                "so nothing sets one above another, and only a stranger one becomes an alert."
            )
        parts.append(part)
        out.detectors.append(detector)
        out.n_train.append(int(chosen.sum()))
    out.scores = pd.concat(parts, ignore_index=True)
    out.days, out.evidence = pd.concat(days, ignore_index=True), pd.concat(told)
    out.notes += hindsight.remarks(frame, labels, folds)
    return out


def _tested(
    rows: pd.DataFrame, truth: pd.DataFrame, scored: Scored, fold: Fold, chance: np.random.Generator
) -> pd.DataFrame:
    """`Evaluation.scores` of some rows, in their order."""
    return pd.DataFrame(
        {
            "fold": fold.number,
            "seq": rows.seq.to_numpy(),
            "transaction_id": rows.transaction_id.to_numpy(),
            "customer_id": rows.customer_id.to_numpy(),
            "ts": rows.ts.to_numpy(),
            "is_fraud": truth.is_fraud.to_numpy(),
            "scenario": truth.scenario.to_numpy(),
            "decision": scored.decision,
            "risk": scored.risk,
            "forest": scored.score,
            "amount": rows.amount.to_numpy(),
            **{f"factor:{f}": scored.strength[:, i] for i, f in enumerate(FACTORS)},
            "random": chance.random(len(rows)),
        }
    )


def _nothing(frame: pd.DataFrame, alert_budget: float) -> Evaluation:
    """An evaluation without folds, with the columns that one with folds has."""
    kinds: dict[str, Any] = {"fold": int, "is_fraud": bool, "scenario": str}
    kinds |= {"decision": np.int8, "risk": float}
    kinds |= dict.fromkeys((d for d in DETECTORS if d != "amount"), float)
    known = frame.loc[:, ["seq", "transaction_id", "customer_id", "ts", "amount"]].head(0)
    scores = known.assign(**{name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    money = list(frame["currency"].dropna().unique()) if "currency" in frame else []
    currency = str(money[0]) if len(money) == 1 else ""
    out = Evaluation([], scores, [], [], alert_budget, currency=currency)
    out.evidence, out.days = cases.no_evidence(), hindsight.no_days()
    return out
