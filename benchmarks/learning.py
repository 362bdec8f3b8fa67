"""What answers bring, from the first one on: the learner's curve, and what was known when."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from aegis_core.detection.detector import Detector
from aegis_core.detection.history import known_answers
from aegis_core.detection.learner import Learner
from aegis_core.detection.scoring import Scorer
from aegis_core.evaluation.splits import cut_at
from aegis_core.features import confirmed
from aegis_core.metrics import average_precision


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
    first, warm = cut_at(ts, begin), cut_at(ts, begin - train_days * day)
    memory = confirmed.Confirmed()
    scorer = Scorer(confirmed=memory)
    scorer.run(frame.iloc[:warm])
    out = scorer.run(frame.iloc[warm:first], signals=True)
    detector = Detector(seed=seed).fit(out.signals)
    learner: Learner | None = None
    signals, history, given, rows = [out.signals], [out.history], [_NOBODY_ASKED], []
    for i in range(days):
        now = begin + i * day
        a, b = cut_at(ts, now), cut_at(ts, now + day)
        if a == b:
            continue
        known = pd.concat(given)
        known = known[known.known_at <= now]
        if learner is None or i % retrain_days == 0:
            c = cut_at(ts, now - train_days * day) - warm
            past = frame.iloc[warm + c : a]
            seen, recalled = np.concatenate(signals)[c:], np.concatenate(history)[c:]
            answer, money = known_answers(past, known, now), past.amount.to_numpy(float)
            learner = Learner(detector, seed=seed).fit(seen, money, recalled, answer)
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
        memory.add_labels(told)
    return pd.DataFrame(rows).astype({"learner_ap": float, "forest_ap": float})


_NOBODY_ASKED: Final = pd.DataFrame(
    {
        "transaction_id": pd.Series(dtype="str"),
        "is_fraud": pd.Series(dtype=bool),
        "known_at": pd.Series(dtype="datetime64[us]"),
    }
)
