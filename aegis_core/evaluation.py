"""Prequential evaluation: train on a window, wait for the labels, test on the next one; again.

Each fold does what would have happened: profiles learn every transaction in order of arrival, the
detector is fitted on the training window's signals, and from the first test transaction on the
live `Scorer` decides, with the consequences that a block has for the profiles. A random split would
let a customer's fraud of Tuesday teach what is found on Monday.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core import answers
from aegis_core.detector import MIN_TRAIN, Detector
from aegis_core.errors import InputError, NotReady
from aegis_core.learner import MIN_FRAUDS, UNKNOWN, Answer, Learner
from aegis_core.metrics import (
    Figure,
    auc_roc,
    average_precision,
    card_precision_at_k,
    precision_at_recall,
    recall_at_budget,
    recall_by_scenario,
)
from aegis_core.policy import Policy
from aegis_core.profiles import Floats, Ints
from aegis_core.schema import FACTORS, Decision
from aegis_core.scoring import Decisions, Scorer

DETECTORS = ("forest", "amount", *(f"factor:{f}" for f in FACTORS), "random")
"""What is compared on every fold: the forest, and what it has to beat."""
LEARNER: Final = "learner"
"""Beside `DETECTORS` where an evaluation was asked to learn from answers."""


@dataclass(frozen=True)
class Fold:
    """One training window and the test window that follows after the label delay; ends excluded."""

    number: int
    train_from: pd.Timestamp
    train_to: pd.Timestamp
    test_from: pd.Timestamp
    test_to: pd.Timestamp


def prequential(
    train_from: str | pd.Timestamp,
    *,
    train_days: float = 7,
    delay_days: float = 7,
    test_days: float = 7,
    folds: int = 4,
) -> list[Fold]:
    """Folds that move forward by the length of the test window, so that no test row comes twice.

    >>> [str(f.test_from.date()) for f in prequential("2018-07-25", folds=2)]
    ['2018-08-08', '2018-08-15']

    Raises
    ------
    InputError
        A length is not positive, or `train_from` is no date.
    """
    if not (train_days > 0 and test_days > 0 and delay_days >= 0 and folds >= 1):
        raise InputError(
            "train_days and test_days must be positive, delay_days not negative and folds at least "
            f"1; got {train_days}, {test_days}, {delay_days} and {folds}."
        )
    try:
        start = pd.Timestamp(train_from)
        if pd.isna(start) or start.tz is not None:
            raise ValueError
    except ValueError:
        raise InputError(
            f"train_from must be a date (UTC) such as 2018-07-25, not {train_from!r}."
        ) from None
    day = pd.Timedelta(days=1)
    out = []
    for i in range(folds):
        a = start + i * test_days * day
        b = a + train_days * day
        c = b + delay_days * day
        out.append(Fold(i, a, b, c, c + test_days * day))
    return out


def default_train_from(
    first: pd.Timestamp,
    last: pd.Timestamp,
    *,
    train_days: float,
    delay_days: float,
    test_days: float,
    folds: int,
) -> pd.Timestamp:
    """Midnight from which `folds` folds just end with the last complete day of the history.

    Raises
    ------
    InputError
        The history is too short for one training, delay and test window.
    """
    day = pd.Timedelta(days=1)
    end = (last + pd.Timedelta(microseconds=1)).ceil("D")
    need = train_days + delay_days + folds * test_days
    start = end - need * day
    if start < first.floor("D"):
        raise InputError(
            f"The history runs from {first} to {last}; {need:g} days are needed for {train_days:g} "
            f"of training, {delay_days:g} of delay and {folds} × {test_days:g} of test. "
            "Use fewer folds or shorter windows."
        )
    return start


def plan(
    first: pd.Timestamp,
    last: pd.Timestamp,
    train_from: str = "",
    *,
    train_days: float = 7,
    delay_days: float = 7,
    test_days: float = 7,
    folds: int = 4,
) -> tuple[list[Fold], list[str]]:
    """The folds that a history has room for, perhaps none, and a sentence if they are too few.

    Parameters
    ----------
    first, last :
        Times of the first and of the last transaction.
    train_from :
        First day of the first training window; "" lets the last fold end with the history.

    Raises
    ------
    InputError
        No fold from `train_from` on lies within the history, or a length is out of range.
    NotReady
        There are no transactions: `first` and `last` are NaT.

    >>> days = pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-29 20:00")
    >>> found, notes = plan(*days)
    >>> [str(f.test_from.date()) for f in found], notes
    (['2026-01-16', '2026-01-23'], ['2 of the 4 folds asked for fit into the history.'])
    """
    if pd.isna(first):
        raise NotReady(
            "There are no transactions to evaluate on. Run `aegis import FILE` or "
            "`aegis run generate` first."
        )
    lengths = {"train_days": train_days, "delay_days": delay_days, "test_days": test_days}
    end = (last + pd.Timedelta(microseconds=1)).ceil("D")
    if train_from:
        asked = prequential(train_from, **lengths, folds=folds)
        found = [f for f in asked if first < f.train_to and f.test_to <= end]
        if not found:
            raise InputError(
                f"The history runs from {first} to {last}, the first fold from "
                f"{asked[0].train_from} to {asked[0].test_to}. Choose another train_from, or "
                "leave it empty."
            )
    else:
        room = sum(f.test_to <= end for f in prequential(first.floor("D"), **lengths, folds=folds))
        if not room:
            return [], [
                f"The history runs from {first} to {last}; one fold needs "
                f"{train_days + delay_days + test_days:g} days. Choose shorter windows."
            ]
        start = default_train_from(first, last, **lengths, folds=room)
        found = prequential(start, **lengths, folds=room)
    few = f"{len(found)} of the {folds} folds asked for fit into the history."
    return found, [few] if len(found) < folds else []


def known_compromised(
    test: pd.DataFrame, labels: pd.DataFrame, since: pd.Timestamp
) -> npt.NDArray[np.bool_]:
    """Rows of `test` whose customer was known as compromised when their day began.

    Known: a fraud of the customer since `since` whose `known_at` lies before that midnight. The
    protocol of the fraud detection handbook, where such cards count as blocked.

    Parameters
    ----------
    test : with `customer_id`, `ts`.
    labels : with `customer_id`, `ts`, `is_fraud`, `known_at`.

    Returns
    -------
    array of bool of shape (len(test),)
    """
    frauds = labels[labels.is_fraud & (labels.ts >= since)]
    first_known = frauds.groupby("customer_id").known_at.min()
    known_at = first_known.reindex(test.customer_id).to_numpy()
    known: npt.NDArray[np.bool_] = known_at < test.ts.dt.floor("D").to_numpy()
    return known


@dataclass
class Evaluation:
    """What the folds gave.

    Attributes
    ----------
    scores :
        One row a tested transaction: `fold`, `seq`, `transaction_id`, `customer_id`, `ts`,
        `amount`, `is_fraud`, `scenario`, `decision`, and one column each of `compared`.
    detectors :
        The fitted detector of each fold.
    learners :
        The fitted learner of each fold, where it was asked for.
    notes :
        Sentences about what could not be measured, for the report.
    """

    folds: list[Fold]
    scores: pd.DataFrame
    detectors: list[Detector]
    n_train: list[int]
    alert_budget: float
    notes: list[str] = field(default_factory=list)
    learners: list[Learner] = field(default_factory=list)
    _tables: dict[int, pd.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def compared(self) -> tuple[str, ...]:
        """`DETECTORS`, and the learner where it was asked for."""
        return (LEARNER, *DETECTORS) if self.learners else DETECTORS

    def table(self, k: int = 100) -> pd.DataFrame:
        """Every figure: columns `fold`, `detector`, `name`, `value`, `floor`, `ceiling`."""
        if k not in self._tables:
            self._tables[k] = self._measured(k)
        return self._tables[k].copy()

    def _measured(self, k: int) -> pd.DataFrame:
        rows = []
        for number, part in self.scores.groupby("fold"):
            day = part.ts.dt.floor("D")
            for detector in self.compared:
                figures = {
                    "auc_roc": auc_roc(part.is_fraud, part[detector]),
                    "average_precision": average_precision(part.is_fraud, part[detector]),
                    f"card_precision_at_{k}": card_precision_at_k(
                        part.customer_id, day, part.is_fraud, part[detector], k
                    ),
                    "recall_at_budget": recall_at_budget(
                        part.is_fraud, part[detector], self.alert_budget
                    ),
                }
                for name, f in figures.items():
                    rows.append((number, detector, name, f.value, f.floor, f.ceiling))
        return pd.DataFrame(
            rows, columns=["fold", "detector", "name", "value", "floor", "ceiling"]
        ).astype({"value": float, "floor": float, "ceiling": float})

    def windows(self) -> pd.DataFrame:
        """One row a fold: its windows, ends excluded, and what they hold."""
        tested = self.scores.groupby("fold").is_fraud.agg(["size", "sum"])
        tested = tested.reindex([f.number for f in self.folds], fill_value=0)
        return pd.DataFrame(
            {
                "train from": [f.train_from.round("s") for f in self.folds],
                "train to": [f.train_to.round("s") for f in self.folds],
                "training transactions": self.n_train,
                "test from": [f.test_from.round("s") for f in self.folds],
                "test to": [f.test_to.round("s") for f in self.folds],
                "test transactions": tested["size"],
                "frauds": tested["sum"],
            },
            index=tested.index,
        )

    def curves(self) -> pd.DataFrame:
        """Precision at each hundredth of recall, mean over the folds that have fraud.

        Returns
        -------
        DataFrame with columns `detector`, `recall`, `precision`.
        """
        levels = np.arange(1, 101) / 100
        parts = [part for _, part in self.scores.groupby("fold") if part.is_fraud.any()]
        return pd.concat(
            pd.DataFrame(
                {
                    "detector": detector,
                    "recall": levels if parts else [],
                    "precision": np.mean(
                        [precision_at_recall(p.is_fraud, p[detector], levels) for p in parts],
                        axis=0,
                    )
                    if parts
                    else [],
                }
            )
            for detector in self.compared
        )

    def cases(self, n: int = 5, seed: int = 0) -> pd.DataFrame:
        """`n` frauds that were caught, `n` that were missed and `n` false alarms, by chance."""
        s = self.scores
        alert = s.decision != Decision.APPROVE
        kinds = {
            "caught": s.is_fraud & alert,
            "missed": s.is_fraud & ~alert,
            "false alarm": ~s.is_fraud & alert,
        }
        drawn = [
            s[chosen].sample(min(n, int(chosen.sum())), random_state=seed).assign(outcome=name)
            for name, chosen in kinds.items()
        ]
        shown = pd.concat(drawn)
        columns = ["outcome", "transaction_id", "customer_id", "ts", "amount", "scenario"]
        return pd.DataFrame(
            {
                **{c: shown[c] for c in columns},
                "ts": shown.ts.dt.strftime("%Y-%m-%d %H:%M"),
                "scenario": shown.scenario.astype("string").fillna(""),
                "score": shown.forest.round(3),
                **{f"{f} (nats)": shown[f"factor:{f}"].round(1) for f in FACTORS},
            }
        ).reset_index(drop=True)

    def recall(self) -> pd.DataFrame:
        """Frauds and recall of each scenario at the policy's own decisions, all folds together."""
        return recall_by_scenario(
            self.scores.is_fraud, self.scores.scenario, self.scores.decision != Decision.APPROVE
        )

    def alerts_per_day(self) -> pd.DataFrame:
        """Per day: `transactions`, `alerts`, `blocks`, `frauds`, `caught`."""
        s = self.scores
        alert = s.decision != Decision.APPROVE
        return (
            pd.DataFrame(
                {
                    "day": s.ts.dt.floor("D"),
                    "transactions": 1,
                    "alerts": alert.astype(int),
                    "blocks": (s.decision == Decision.BLOCK).astype(int),
                    "frauds": s.is_fraud.astype(int),
                    "caught": (alert & s.is_fraud).astype(int),
                }
            )
            .groupby("day", as_index=False)
            .sum()
        )

    def metrics(self, k: int = 100) -> pd.DataFrame:
        """The figures as rows of the table `metrics`: `name`, `slice` (detector/fold), `value`.

        Figures that could not be computed are left out; `notes` says which.
        """
        table = self.table(k)
        main = table.assign(slice=table.detector + "/" + table.fold.astype(str))
        recall = self.recall()
        by_scenario = pd.DataFrame(
            {
                "name": "recall",
                "slice": "forest/" + recall.scenario.astype(str),
                "value": recall.recall,
            }
        )
        columns = ["name", "slice", "value"]
        return pd.concat([main[columns], by_scenario[columns]]).dropna(subset="value")

    def long_scores(self) -> pd.DataFrame:
        """The scores as rows of `evaluation_scores`: `transaction_id`, `detector`, `score`."""
        return self.scores.melt(
            id_vars="transaction_id",
            value_vars=list(self.compared),
            var_name="detector",
            value_name="score",
        )

    def summary(self) -> str:
        """The bottom line in one sentence: the forest beside the best single factor."""
        t = self.table()
        ap = t[t.name == "average_precision"].groupby("detector").value.mean().dropna()
        if not self.folds:
            return "Nothing was tested."
        if ap.empty:
            return "No fraud is labelled in the test windows, so nothing can be measured."
        singles = ap.drop(["forest", "random", LEARNER], errors="ignore")
        best = str(singles.idxmax())
        word = "ahead of" if ap["forest"] >= singles[best] else "BEHIND"
        floor = t[t.name == "average_precision"].floor.mean()
        return (
            f"Average precision of the forest: {ap['forest']:.3f}, {word} the best single "
            f"detector ({best}, {singles[best]:.3f}); by chance {floor:.4f}, at best 1."
            + (f" With answers, the learner: {ap[LEARNER]:.3f}." if LEARNER in ap else "")
        )

    def price(self) -> str:
        """What the alerts of the test windows cost and brought, in one sentence."""
        days = self.alerts_per_day()
        if days.empty:
            return "There was no test window, and so no alert."
        alerts, caught, frauds = (int(days[c].sum()) for c in ("alerts", "caught", "frauds"))
        told = f"The policy raised {alerts / len(days):.1f} alerts a day"
        if not caught:
            return f"{told}, none of them a known fraud."
        return (
            f"{told}, {caught / alerts:.0%} of them fraud, and caught {caught:,} of {frauds:,} "
            f"frauds ({caught / frauds:.0%}): {(alerts - caught) / caught:.1f} false alarms for "
            "each fraud caught."
        )

    def accuracy(self) -> str:
        """How often never alerting is right, and how often the policy: a warning, in one sentence.

        Both are high wherever fraud is rare, whatever was caught.
        """
        s = self.scores
        if s.empty:
            return "Nothing was tested."
        never, policy = (~s.is_fraud).mean(), (s.is_fraud == (s.decision > 0)).mean()
        return (
            f"Never raising an alert is right for {never:.2%} of the transactions, the forest with "
            f"its thresholds for {policy:.2%}."
        )


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
    progress :
        Called with the number of transactions done since the last call.

    Raises
    ------
    NotReady
        A training or test window holds too few transactions.
    """
    if not folds:
        return Evaluation([], _untested(frame), [], [], alert_budget)
    ts = frame["ts"].to_numpy("datetime64[us]").astype(np.int64)
    truth = frame[["transaction_id", "customer_id", "ts"]].merge(
        labels.drop_duplicates("transaction_id", keep="last"), on="transaction_id", how="left"
    )
    truth["is_fraud"] = truth.is_fraud.eq(True).fillna(False).astype(bool)
    teacher = Scorer()
    if learner:
        teacher.answers = answers.Answers()
        teacher.answers.tell(answers.of(frame, labels))
    learnt = 0
    first_kept = _cut_at(ts, min(f.train_from for f in folds))
    signals: list[Floats] = []
    history: list[Floats] = []
    parts, detectors, learners, n_train, notes = [], [], [], [], []
    for fold in folds:
        start, stop = _cut_at(ts, fold.test_from), _cut_at(ts, fold.test_to)
        for a, b in _cuts(learnt, start, first_kept):
            past = None if recorded is None else recorded[a:b]
            out = teacher.run(
                frame.iloc[a:b], recorded=past, signals=a >= first_kept, progress=progress
            )
            if a >= first_kept:
                signals.append(out.signals)
                history.append(out.history)
        learnt = max(learnt, start)
        seen = np.concatenate(signals) if signals else np.empty((0, 0))
        window = ts[first_kept:learnt]
        chosen = (window >= _us(fold.train_from)) & (window < _us(fold.train_to))
        if stop <= start or not chosen.any():
            raise NotReady(
                f"Fold {fold.number} has {int(chosen.sum()):,} transactions to train on "
                f"({fold.train_from:%Y-%m-%d} to {fold.train_to:%Y-%m-%d}) and "
                f"{max(0, stop - start):,} to test on ({fold.test_from:%Y-%m-%d} to "
                f"{fold.test_to:%Y-%m-%d}); the history covers {frame.ts.min()} to "
                f"{frame.ts.max()}."
            )
        detector = Detector(seed=seed).fit(seen[chosen])
        policy = Policy.from_budget(detector, alert_budget, block_share)
        live = Scorer(
            detector, policy, teacher.profiles.copy(),
            None if teacher.answers is None else teacher.answers.copy(),
        )  # fmt: skip
        rows = frame.iloc[start:stop]
        scored = live.run(rows, signals=learner, progress=progress)
        part = pd.DataFrame(
            {
                "fold": fold.number,
                "seq": rows.seq.to_numpy(),
                "transaction_id": rows.transaction_id.to_numpy(),
                "customer_id": rows.customer_id.to_numpy(),
                "ts": rows.ts.to_numpy(),
                "is_fraud": truth.is_fraud.to_numpy()[start:stop],
                "scenario": truth.scenario.to_numpy()[start:stop],
                "decision": scored.decision,
                "forest": scored.score,
                "amount": rows.amount.to_numpy(),
                **{f"factor:{f}": scored.strength[:, i] for i, f in enumerate(FACTORS)},
                "random": np.random.default_rng([seed, fold.number]).random(len(rows)),
            }
        )
        if learner:
            money, told = frame["amount"].to_numpy(float), np.concatenate(history)
            answer = answered(frame.iloc[first_kept:learnt][chosen], labels, fold.test_from)
            taught = Learner(detector, seed=seed).fit(
                seen[chosen], money[first_kept:learnt][chosen], told[chosen], answer
            )
            later = window >= _us(fold.train_to)
            if later.sum() >= MIN_TRAIN:
                taught.calibrate(seen[later], money[first_kept:learnt][later], told[later])
            part[LEARNER] = taught.score(scored.signals, money[start:stop], scored.history)
            learners.append(taught)
            if taught.n_frauds_ < MIN_FRAUDS:
                notes.append(
                    f"Fold {fold.number}: {taught.n_frauds_} frauds of the training window were "
                    f"known by {fold.test_from:%Y-%m-%d}; below {MIN_FRAUDS} the learner ranks as "
                    "the forest does."
                )
        keep = ((part.ts >= fold.test_from) & (part.ts < fold.test_to)).to_numpy()
        if exclude_known:
            keep = keep & ~known_compromised(part, truth, fold.train_from)
        part = part[keep]
        if not part.is_fraud.any():
            notes.append(
                f"Fold {fold.number} ({fold.test_from:%Y-%m-%d} to {fold.test_to:%Y-%m-%d}) has no "
                "labelled fraud: recall and precision are undefined there."
            )
        parts.append(part)
        detectors.append(detector)
        n_train.append(int(chosen.sum()))
    return Evaluation(
        list(folds), pd.concat(parts, ignore_index=True), detectors, n_train, alert_budget, notes,
        learners,
    )  # fmt: skip


def answered(rows: pd.DataFrame, labels: pd.DataFrame, at: pd.Timestamp) -> Answer:
    """What was known of `rows` at the time `at`: 1 fraud, 0 ordinary, or `learner.UNKNOWN`.

    Of several answers about a transaction the last one known by then counts.
    """
    known = labels[labels.known_at <= at].sort_values("known_at", kind="stable")
    last = known.drop_duplicates("transaction_id", keep="last").set_index("transaction_id")
    told = last.is_fraud.astype(np.int8).reindex(rows.transaction_id, fill_value=UNKNOWN)
    return np.asarray(told, np.int8)


def learning_curve(
    frame: pd.DataFrame,
    truth: pd.DataFrame,
    start: str | pd.Timestamp,
    *,
    days: int = 35,
    alerts_per_day: int = 50,
    audit_share: float = 0.001,
    answer_days: float = 1.0,
    train_days: float = 28,
    retrain_days: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """What answers bring from the first one on, where only alerts and an audit sample get one.

    Each day the learner's `alerts_per_day` most suspicious transactions and a share of the others,
    drawn by chance, are answered `answer_days` later; the rest stays unknown. The forest beside it
    has as many alerts of its own and learns nothing.

    Parameters
    ----------
    frame :
        All transactions in order of arrival; what comes before `start` teaches the profiles, and
        the last `train_days` before it the forest.
    truth :
        `transaction_id` and `is_fraud`: what an analyst answers when asked.
    train_days, retrain_days :
        The learner is fitted again so often, on the transactions of so many days before.

    Returns
    -------
    DataFrame with a row a day: `day`, `answers` and `confirmed` (known when the day begins),
    `frauds`, `learner`, `forest` (caught among the alerts) and the average precision of both as
    `learner_ap`, `forest_ap`; NaN on a day without fraud.
    """
    day = pd.Timedelta(days=1)
    begin = pd.Timestamp(start)
    frauds = set(truth.transaction_id[truth.is_fraud.to_numpy(bool)])
    rng = np.random.default_rng(seed)
    ts = frame["ts"].to_numpy("datetime64[us]").astype(np.int64)
    first, warm = _cut_at(ts, begin), _cut_at(ts, begin - train_days * day)
    memory = answers.Answers()
    scorer = Scorer(answers=memory)
    scorer.run(frame.iloc[:warm])
    out = scorer.run(frame.iloc[warm:first], signals=True)
    detector = Detector(seed=seed).fit(out.signals)
    learner: Learner | None = None
    signals, history, given, rows = [out.signals], [out.history], [_NOBODY_ASKED], []
    for i in range(days):
        now = begin + i * day
        a, b = _cut_at(ts, now), _cut_at(ts, now + day)
        if a == b:
            continue
        known = pd.concat(given)
        known = known[known.known_at <= now]
        if learner is None or i % retrain_days == 0:
            c = _cut_at(ts, now - train_days * day) - warm
            past = frame.iloc[warm + c : a]
            learner = Learner(detector, seed=seed).fit(
                np.concatenate(signals)[c:], past.amount.to_numpy(float),
                np.concatenate(history)[c:], answered(past, known, now),
            )  # fmt: skip
        today = frame.iloc[a:b]
        out = scorer.run(today, signals=True)
        signals.append(out.signals)
        history.append(out.history)
        score = {
            "learner": learner.score(out.signals, today.amount.to_numpy(float), out.history),
            "forest": detector.score(detector.weigh(out.signals)[1]),
        }
        is_fraud = today.transaction_id.isin(frauds).to_numpy()
        top = {n: np.argsort(-s, kind="stable")[:alerts_per_day] for n, s in score.items()}
        rows.append(
            {
                "day": now,
                "answers": len(known),
                "confirmed": int(known.is_fraud.sum()),
                "frauds": int(is_fraud.sum()),
                **{name: int(is_fraud[alerts].sum()) for name, alerts in top.items()},
                **{f"{n}_ap": average_precision(is_fraud, s).value for n, s in score.items()},
            }
        )
        asked = rng.random(len(today)) < audit_share
        asked[top["learner"]] = True
        told = today[asked].assign(is_fraud=is_fraud[asked])
        told["known_at"] = (told.ts + answer_days * day).astype("datetime64[us]")
        given.append(told[_NOBODY_ASKED.columns])
        memory.tell(told)
    return pd.DataFrame(rows).astype({"learner_ap": float, "forest_ap": float})


_NOBODY_ASKED: Final = pd.DataFrame(
    {
        "transaction_id": pd.Series(dtype="str"),
        "is_fraud": pd.Series(dtype=bool),
        "known_at": pd.Series(dtype="datetime64[us]"),
    }
)


def mean_and_spread(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the folds of `Evaluation.table`, one row a detector."""
    by = table.groupby(["name", "detector"], sort=False)
    mean = by[["value", "floor", "ceiling"]].mean()
    mean["spread"] = by["value"].std(ddof=0)
    return mean.reset_index()


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """`Evaluation.table` for people: a row a detector, a column a figure, mean ± spread as text.

    The rows `by chance` and `at best` are floor and ceiling of the same folds. A single fold has no
    spread. What could not be measured is a dash, and so is a figure of which even the best order
    reaches nothing.
    """
    several = len(table["fold"].unique()) > 1
    shown = {}
    for name, part in mean_and_spread(table).groupby("name", sort=False):
        values = zip(part["value"], part["spread"], strict=True)
        texts = [f"{v:.3f}" + (f" ± {s:.3f}" if several else "") for v, s in values]
        column = {
            **dict(zip(part["detector"], texts, strict=True)),
            "by chance": f"{part['floor'].mean():.3f}",
            "at best": f"{part['ceiling'].mean():.3f}",
        }
        told = part["ceiling"].max() > 0
        shown[str(name).replace("_", " ")] = {
            key: text if told and "nan" not in text else "–" for key, text in column.items()
        }
    return pd.DataFrame(shown).rename_axis("detector")


def _untested(frame: pd.DataFrame) -> pd.DataFrame:
    """`Evaluation.scores` without rows."""
    kinds = {"fold": int, "is_fraud": bool, "scenario": str, "decision": np.int8}
    kinds |= dict.fromkeys((d for d in DETECTORS if d != "amount"), float)
    known = frame.loc[:, ["seq", "transaction_id", "customer_id", "ts", "amount"]].head(0)
    return known.assign(**{name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def _us(t: pd.Timestamp) -> int:
    return t.value // 1000  # always nanoseconds, whatever the unit


def _cut_at(ts: Ints, t: pd.Timestamp) -> int:
    """Place in the order of arrival that parts before `t` from after, with the fewest mistakes.

    Exact where time rises; a few late events or clocks that jumped do not move it.
    """
    late = ts >= _us(t)
    mistakes = np.concatenate([[0], np.cumsum(np.where(late, 1, -1))])
    return int(mistakes.argmin())


def _cuts(a: int, b: int, middle: int) -> Iterable[tuple[int, int]]:
    """The rows from `a` to `b`, cut at `middle` where it lies between; nothing if empty."""
    for start, stop in ((a, min(b, max(a, middle))), (max(a, min(b, middle)), b)):
        if start < stop:
            yield start, stop


def figure_text(f: Figure, digits: int = 3) -> str:
    """A figure with its floor and ceiling in words.

    >>> figure_text(Figure(0.5, 0.01, 0.9))
    '0.500 (chance 0.010, at best 0.900)'
    """
    if f.value is None:
        return "undefined"
    return f"{f.value:.{digits}f} (chance {f.floor:.{digits}f}, at best {f.ceiling:.{digits}f})"
