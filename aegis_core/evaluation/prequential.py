"""Prequential evaluation: train on a window, wait for the labels, test on the next one; again.

Each fold does what would have happened: profiles learn every transaction in order of arrival, the
detector is fitted on the training window's signals, and from the first test transaction on the
live `Scorer` decides, with the consequences that a block has for the profiles. A random split would
let a customer's fraud of Tuesday teach what is found on Monday.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection import history
from aegis_core.detection.counter import Counter, burst_limits, entity_limits
from aegis_core.detection.detector import MIN_TRAIN, Detector
from aegis_core.detection.history import known_answers
from aegis_core.detection.learner import MIN_FRAUDS, Learner
from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import CHUNK_ROWS, Decisions, Scored, Scorer
from aegis_core.errors import NotReady
from aegis_core.evaluation import calibration, cases
from aegis_core.evaluation.outcome import DETECTORS, LEARNER, Evaluation
from aegis_core.evaluation.splits import (
    Fold,
    calendar,
    clipped,
    cut_at,
    cuts,
    known_compromised,
    microseconds,
    plan,
)
from aegis_core.features import confirmed
from aegis_core.features.checkpoint import Begin, begin
from aegis_core.features.entries import judged_rows
from aegis_core.runs import lineage
from aegis_core.schema import ENTITIES, FACTORS, Decision
from aegis_core.store import Store

_FRESH: Final = Begin(0, None, None)


def backtest(
    store: Store,
    settings: Settings,
    train_from: str = "",
    *,
    folds: int = 4,
    exclude_known: bool = False,
    learner: bool = False,
    progress: Callable[[int], object] | None = None,
    **lengths: float,
) -> Evaluation:
    """`evaluate` the whole history of a database, with budget, block share and seed of `settings`.

    Parameters
    ----------
    train_from, folds, lengths :
        As `splits.plan` takes them; what the history has no room for is said in the notes.

    Raises
    ------
    InputError : A length is not positive, or `train_from` is no date.
    NotReady : A training or test window holds too few transactions.
    """
    with store.reading() as session:
        frame, labels = history.transactions(session), history.labels(session)
        begun = begin(session, confirmed=learner)
        saw = lineage.seen(session, frame.seq.max(), len(labels))
    first, last = map(pd.Timestamp, frame.ts.quantile([0, 0.999], interpolation="lower"))
    planned, notes = plan(first, last, train_from, folds=folds, **lengths)
    found = evaluate(
        frame,
        labels,
        planned,
        alert_budget=settings.alert_budget,
        block_share=settings.block_share,
        exclude_known=exclude_known,
        learner=learner,
        entities=settings.entities,
        seed=settings.seed,
        recorded=history.recorded(frame),
        begun=begun,
        progress=progress,
    )
    found.saw, found.notes = saw, [*notes, *found.notes]
    return found


def evaluate(
    frame: pd.DataFrame,
    labels: pd.DataFrame,
    folds: Sequence[Fold],
    *,
    alert_budget: float = 0.005,
    block_share: float = 0.2,
    exclude_known: bool = False,
    learner: bool = False,
    entities: Sequence[str] = ENTITIES[1:],
    seed: int = 0,
    recorded: Decisions | None = None,
    begun: Begin = _FRESH,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Run the folds over a history.

    Parameters
    ----------
    frame :
        All transactions in order of arrival; those before the first training window teach the
        profiles.
    labels :
        `transaction_id`, `is_fraud`, `scenario`, `known_at`, what holds after what it holds before,
        as of `history.labels`; who has none counts as ordinary.
    exclude_known :
        Leave out, day by day, customers already known as compromised (`known_compromised`).
    learner :
        Also learn from the labels, each from its `known_at` on: what is known when a test window
        begins trains the learner, what becomes known during it is history to it.
    entities : of `schema.ENTITIES`, those whose cards are counted.
    recorded : decisions given when the transactions came; see `Scorer.run`.
    begun :
        What transactions and answers before the first of `frame` had taught, where those were
        forgotten (`checkpoint.begin`). It is not changed.
    progress : called with the number of transactions done since the last call.

    Raises
    ------
    NotReady : A training or test window holds too few transactions.
    """
    if not folds:
        return _nothing(frame, alert_budget)
    if len(frame):
        folds = [clipped(f, frame.ts.min(), frame.ts.max()) for f in folds]
    ts = frame["ts"].to_numpy("datetime64[us]").astype(np.int64)
    truth = frame[["transaction_id", "customer_id", "ts"]].merge(
        history.held(labels), on="transaction_id", how="left"
    )
    tries = history.became_payments(frame)
    truth["is_fraud"] = truth.is_fraud.eq(True).fillna(False).astype(bool) & ~tries
    payments = judged_rows(frame) & ~tries
    profiles, memory = begun.profiles, begun.confirmed
    teacher = Scorer(profiles=None if profiles is None else profiles.copy())
    if learner:
        teacher.confirmed = confirmed.Confirmed() if memory is None else memory.copy()
        teacher.confirmed.add_labels(confirmed.label_events(frame, labels))
    learnt, passed = 0, []
    first_kept = cut_at(ts, min(f.train_from for f in folds))
    out = _nothing(frame, alert_budget)
    out.folds, out.frauds = list(folds), pd.Index(truth.transaction_id[truth.is_fraud])
    parts, days, told = [], [], []
    for fold in folds:
        start, stop = cut_at(ts, fold.test_from), cut_at(ts, fold.test_to)
        for a, b in cuts(learnt, start, first_kept):
            past = None if recorded is None else recorded[a:b]
            kept = a >= first_kept
            given = teacher.run(frame.iloc[a:b], recorded=past, signals=kept, progress=progress)
            passed += [given] if kept else []
        learnt = max(learnt, start)
        window = ts[first_kept:learnt]
        judged = payments[first_kept:learnt]
        chosen = (window >= microseconds(fold.train_from)) & (window < microseconds(fold.train_to))
        chosen &= judged
        if stop <= start or not chosen.any():
            raise NotReady(
                f"Fold {fold.number} has {int(chosen.sum()):,} transactions to train on "
                f"({fold.train_from:%Y-%m-%d} to {fold.train_to:%Y-%m-%d}) and "
                f"{max(0, stop - start):,} to test on ({fold.test_from:%Y-%m-%d} to "
                f"{fold.test_to:%Y-%m-%d}); the history covers {frame.ts.min()} to "
                f"{frame.ts.max()}."
            )
        seen, recalled, counts, paid = (
            np.concatenate([getattr(given, name) for given in passed])
            for name in ("signals", "history", "counts", "amount")
        )
        trained_on, counted = frame.iloc[first_kept:learnt][chosen], counts[chosen]
        detector = Detector(seed=seed).fit(seen[chosen], trained_on.customer_id)
        limits = (
            *burst_limits(counted, trained_on),
            *entity_limits(counted, trained_on, entities),
        )
        score = detector.score(detector.weigh(seen[chosen])[1])
        counter = Counter.beside(limits, counted, score, trained_on)
        policy = Policy.from_budget(detector, alert_budget, block_share, counter=counter)
        out.counters.append(counter)
        promised = policy.decide(score, counted)
        days.append(calibration.daily(fold, trained_on.ts, promised, True))
        taught = None
        if learner:
            answer = known_answers(trained_on, labels, fold.test_from)
            taught = Learner(detector, seed=seed).fit(
                seen[chosen], paid[chosen], recalled[chosen], answer
            )
            later = (window >= microseconds(fold.train_to)) & judged
            if later.sum() >= MIN_TRAIN:
                taught.calibrate(seen[later], paid[later], recalled[later])
            out.learners.append(taught)
            if taught.n_frauds_ < MIN_FRAUDS:
                out.notes.append(
                    f"Fold {fold.number}: {taught.n_frauds_} frauds of the training window were "
                    f"known by {fold.test_from:%Y-%m-%d}; below {MIN_FRAUDS} the learner ranks as "
                    "the forest does."
                )
        known = None if teacher.confirmed is None else teacher.confirmed.copy()
        live = Scorer(detector, policy, teacher.profiles.copy(), known)
        chance = np.random.default_rng([seed, fold.number])
        tested = []
        for a in range(start, stop, CHUNK_ROWS):  # what a reason is told from is kept of few rows
            rows, known_truth = frame.iloc[a : min(a + CHUNK_ROWS, stop)], truth.iloc[a:stop]
            scored = live.run(rows, signals=True, explain=True, progress=progress)
            part = _tested(rows, known_truth.head(len(rows)), scored, fold, chance)
            part["counted"] = policy.counts_as_burst(scored.counts)
            if taught is not None:
                part[LEARNER] = taught.score(scored.signals, scored.amount, scored.history)
            asked = payments[a : a + len(rows)]
            tested.append(part[asked])
            because = (part.is_fraud | (part.decision != Decision.APPROVE)).to_numpy() & asked
            told.append(cases.evidence(rows, scored, detector, because))
        part = pd.concat(tested, ignore_index=True)
        part = part[((part.ts >= fold.test_from) & (part.ts < fold.test_to)).to_numpy()]
        days.append(calibration.daily(fold, part.ts, part.decision.to_numpy(np.int8), False))
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
    out.notes += _remarks(frame, labels, folds)
    return out


def _tested(
    rows: pd.DataFrame, truth: pd.DataFrame, scored: Scored, fold: Fold, chance: np.random.Generator
) -> pd.DataFrame:
    """`Evaluation.scores` of some rows, in their order."""
    out = rows[["seq", "transaction_id", "customer_id", "ts"]].reset_index(drop=True)
    out.insert(0, "fold", fold.number)
    return out.assign(
        amount=np.nan_to_num(scored.amount),
        is_fraud=truth.is_fraud.to_numpy(),
        scenario=truth.scenario.to_numpy(),
        decision=scored.decision,
        risk=scored.risk,
        forest=scored.score,
        **{f"factor:{f}": scored.strength[:, i] for i, f in enumerate(FACTORS)},
        random=chance.random(len(rows)),
    )


def _nothing(frame: pd.DataFrame, alert_budget: float) -> Evaluation:
    """An evaluation without folds, with the columns that one with folds has."""
    kinds: dict[str, Any] = {"fold": int, "is_fraud": bool, "scenario": str}
    kinds |= {"decision": np.int8, "risk": float}
    kinds |= dict.fromkeys((d for d in DETECTORS if d != "amount"), float)
    known = frame.loc[:, ["seq", "transaction_id", "customer_id", "ts", "amount"]].head(0)
    scores = known.assign(**{name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    currency = _base(frame)
    out = Evaluation([], scores, [], [], alert_budget, currency=currency, history=frame)
    out.evidence, out.days = cases.no_evidence(), calibration.no_days()
    return out


def _base(frame: pd.DataFrame) -> str:
    """The currency that amounts are compared in; "" where none or several are named."""
    for name in ("base_currency", "currency"):
        if name in frame and len(several := frame[name].dropna().unique()) == 1:
            return str(several[0])
    return ""


def _remarks(frame: pd.DataFrame, labels: pd.DataFrame, folds: Sequence[Fold]) -> list[str]:
    """Sentences about a history in which a factor or a figure cannot say anything."""
    notes = []
    if (frame.customer_id == frame.customer_id.iloc[0]).all():
        notes.append("All transactions are of one customer: nobody is there to compare with.")
    if frame.amount.min() == frame.amount.max():
        notes.append("All amounts are the same: the factor amount says nothing.")
    if "lat" not in frame or frame["lat"].isna().all():
        notes.append("No transaction has a place: the factor travel says nothing.")
    if "rate" in frame and (base := _base(frame)):
        other = frame[frame.currency.notna() & (frame.currency != base)]
        with_rate = other.rate.notna()
        if several := sorted(other.currency[with_rate].unique()):
            notes.append(f"Amounts in {', '.join(several)} are converted to {base}.")
        if several := sorted(other.currency[~with_rate].unique()):
            notes.append(
                f"No rate of {', '.join(several)} is known: amounts in it are held against each "
                f"other by its own scale, and by that in sums. `aegis rates FILE` brings rates."
            )
    elif "currency" in frame and (several := sorted(frame.currency.dropna().unique()))[1:]:
        notes.append(f"Amounts of {', '.join(several)} are added as if they were one currency.")
    if len(labels) and labels.known_at.min() >= folds[-1].test_to:
        notes.append(
            "All labels became known after the last test window: they judge, but nothing could "
            "have been learnt from them."
        )
    tested = pd.DataFrame({"ts": frame.ts[(frame.ts >= folds[0].test_from)]})
    days, at = calendar(tested[tested.ts < folds[-1].test_to], folds)
    empty = days[np.bincount(at[at >= 0], minlength=len(days)) == 0]
    if len(empty):
        notes.append(
            f"{len(empty)} of the {len(days)} days of the test windows have no transactions, the "
            f"first of them {empty[0]:%Y-%m-%d}; they count as days without alerts."
        )
    return notes
