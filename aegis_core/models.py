"""Training, and the register of trained models: who saw what, and which one is champion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detector import MIN_TRAIN, Detector
from aegis_core.errors import InputError, NotReady
from aegis_core.policy import Policy
from aegis_core.profiles import SIGNAL_FACTOR, SIGNALS, Floats
from aegis_core.schema import FACTORS, Decision
from aegis_core.scoring import UNDECIDED, Decisions, Scorer
from aegis_core.store import Session, Store

_HISTORY = """
    SELECT t.seq, t.transaction_id, t.customer_id, t.ts, t.amount, t.currency, t.merchant_id,
      t.category, t.lat, t.lon, v.decision
    FROM transactions t LEFT JOIN verdicts v USING (seq) WHERE {where} ORDER BY t.seq
"""


def history(source: Store | Session, where: str = "true", params: list[object] | None = None) -> (
    pd.DataFrame
):  # fmt: skip
    """Transactions in order of arrival with the decisions that were answered.

    Returns
    -------
    DataFrame
        The columns that the pass reads, and `decision` as in `schema.Decision`, or
        `scoring.UNDECIDED` where there was no verdict.
    """
    frame = source.query(_HISTORY.format(where=where), params)
    codes = {d.label: d.value for d in Decision}
    frame["decision"] = frame["decision"].map(codes).fillna(UNDECIDED).astype(np.int8)
    return frame


def labels(source: Store | Session) -> pd.DataFrame:
    """What is known of fraud: `transaction_id`, `is_fraud`, `scenario`, `known_at`, newest last."""
    return source.query(
        "SELECT transaction_id, is_fraud, scenario, known_at FROM labels ORDER BY known_at"
    )


def recorded(frame: pd.DataFrame) -> Decisions:
    """The decisions of a `history` frame as an array for `Scorer.run`."""
    return frame["decision"].to_numpy(np.int8)


@dataclass(frozen=True)
class Champion:
    """A trained model, ready to score."""

    version: str
    detector: Detector
    policy: Policy


@dataclass(frozen=True)
class Training:
    """What one training saw and made, for the notebook.

    Attributes
    ----------
    window :
        One row a transaction of the training window: `transaction_id`, `customer_id`, `ts`,
        `paid` (its amount), `score`, `risk`, `decision`, the evidence of each factor and, as
        `strength:<factor>`, the same before weighting.
    signals : of shape (len(window), len(SIGNALS)).
    """

    version: str
    detector: Detector
    policy: Policy
    train_from: pd.Timestamp
    train_to: pd.Timestamp
    n_history: int
    data_hash: str
    window: pd.DataFrame
    signals: Floats

    def weights(self) -> pd.DataFrame:
        """One row a signal: its factor, its weight and the range seen in training."""
        model = self.detector.model_
        return pd.DataFrame(
            {
                "factor": [FACTORS[f] for f in SIGNAL_FACTOR],
                "signal": SIGNALS,
                "weight": model.weight.round(2),
                "range_nats": model.reach.round(1),
            }
        )

    def flagged(self, n: int = 3) -> pd.DataFrame:
        """For each factor the `n` highest scores that it explains best, one a customer."""
        w = self.window.sort_values("score", ascending=False, kind="stable")
        w = w.assign(strongest=w[list(FACTORS)].idxmax(axis=1)).drop_duplicates("customer_id")
        w = w.groupby("strongest").head(n).sort_values(["strongest", "score"], ascending=False)
        return pd.DataFrame(
            {
                **{c: w[c] for c in ("strongest", "transaction_id", "customer_id")},
                "ts": w.ts.dt.strftime("%Y-%m-%d %H:%M"),
                "amount": w.paid,
                "risk": w.risk.round(2),
                "decision": [Decision(d).label for d in w.decision],
                **{f"{f} (nats)": w[f].round(1) for f in FACTORS},
            }
        ).reset_index(drop=True)

    def summary(self) -> str:
        """The bottom line: which model, what it saw, and what it would ask of analysts."""
        (alerts, low, high), (blocks, *_) = self.forecast().loc[["alerts", "blocks"]].to_numpy()
        return (
            f"Model {self.version} is the champion now. It saw {len(self.window):,} transactions, "
            f"{self.train_from:%Y-%m-%d %H:%M} to {self.train_to:%Y-%m-%d %H:%M} UTC, and may flag "
            f"{self.policy.alert_budget:.2%} of them: {alerts:,.0f} alerts a day ({low:,.0f} to "
            f"{high:,.0f} on nine days of ten), {blocks:,.0f} of them blocked."
        )

    def forecast(self) -> pd.DataFrame:
        """Alerts and blocks a day that the thresholds would have meant in the training window.

        Returns
        -------
        DataFrame with a row for `alerts` and `blocks` and columns `mean`, `low`, `high`: the 5th
        and 95th percentile of the days.
        """
        w = self.window
        days = (
            pd.DataFrame(
                {
                    "day": w.ts.dt.floor("D"),
                    "alerts": w.decision != Decision.APPROVE,
                    "blocks": w.decision == Decision.BLOCK,
                }
            )
            .groupby("day")
            .sum()
        )
        return pd.DataFrame(
            {"mean": days.mean(), "low": days.quantile(0.05), "high": days.quantile(0.95)}
        )


def train(
    store: Store,
    settings: Settings,
    *,
    train_from: str = "",
    train_days: float = 30.0,
    alert_budget: float | None = None,
    block_share: float | None = None,
    n_trees: int = 100,
    max_samples: int = 256,
    seed: int | None = None,
    run_id: str = "",
    progress: Callable[[int], object] | None = None,
) -> Training:
    """Fit a detector on a window of history, save it, register it and make it champion.

    All that came before the window teaches the profiles; the window's signals train the forest.
    Nothing is labelled.

    Parameters
    ----------
    train_from :
        First day of the window; "" means `train_days` before the last transaction.
    alert_budget, block_share, seed :
        None means the one of the settings.
    progress :
        Called with the number of transactions done since the last call.

    Raises
    ------
    InputError
        A parameter is out of range.
    NotReady
        The database holds no transactions, or too few in the window.
    """
    if train_days <= 0:
        raise InputError(f"train_days must be positive, not {train_days}.")
    frame = history(store)
    if frame.empty:
        raise NotReady(
            f"There are no transactions in {store.path}. Run `aegis import FILE` or "
            "`aegis run generate` first."
        )
    start, stop = _window(frame.ts, train_from, train_days)
    chosen = ((frame.ts >= start) & (frame.ts < stop)).to_numpy()
    if chosen.sum() < MIN_TRAIN:
        raise NotReady(
            f"The training window {start:%Y-%m-%d %H:%M} to {stop:%Y-%m-%d %H:%M} holds "
            f"{chosen.sum():,} transactions; at least {MIN_TRAIN} are needed. The history covers "
            f"{frame.ts.min():%Y-%m-%d} to {frame.ts.max():%Y-%m-%d}."
        )
    end = int(np.flatnonzero(chosen)[-1]) + 1
    seen, chosen = frame.iloc[:end], chosen[:end]
    passed = Scorer().run(seen, recorded=recorded(seen), signals=True, progress=progress)
    signals = passed.signals[chosen]
    detector = Detector(
        n_trees, max_samples, settings.seed if seed is None else seed
    ).fit(signals)  # fmt: skip
    policy = Policy.from_budget(
        detector,
        settings.alert_budget if alert_budget is None else alert_budget,
        settings.block_share if block_share is None else block_share,
    )
    strength, evidence = detector.weigh(signals)
    score = detector.score(evidence)
    window = pd.DataFrame(
        {
            **{c: seen[c].to_numpy()[chosen] for c in ("transaction_id", "customer_id", "ts")},
            "paid": seen.amount.to_numpy()[chosen],
            "score": score,
            "risk": detector.risk(score),
            "decision": policy.decide(score),
            **{f: evidence[:, i] for i, f in enumerate(FACTORS)},
            **{f"strength:{f}": strength[:, i] for i, f in enumerate(FACTORS)},
        }
    )
    data_hash = store.data_hash("seq <= ?", [int(seen.seq.iloc[-1])])
    version = f"{pd.Timestamp.now('UTC'):%Y%m%d-%H%M%S}-{data_hash[:6]}"
    parameters = {
        "train_days": train_days,
        "alert_budget": policy.alert_budget,
        "n_trees": n_trees,
        "max_samples": max_samples,
        "seed": detector.seed,
    }
    version = _register(
        store, settings, version, detector, policy,
        trained_from=start, trained_to=stop, n_train=len(window),
        parameters=json.dumps(parameters), data_hash=data_hash, run_id=run_id or None,
    )  # fmt: skip
    return Training(version, detector, policy, start, stop, end, data_hash, window, signals)


def champion(store: Store, settings: Settings) -> Champion:
    """The model that was promoted last.

    Raises
    ------
    NotReady
        None was trained yet, or its files are gone or broken.
    """
    found = store.rows(
        "SELECT version, path FROM models WHERE promoted_at IS NOT NULL "
        "ORDER BY promoted_at DESC LIMIT 1"
    )
    if not found:
        raise NotReady(f"No model was trained yet for {store.path}. Run `aegis run train`.")
    return load(found[0]["version"], found[0]["path"], settings)


def load(version: str, path: str, settings: Settings) -> Champion:
    """A registered model from its folder; a relative `path` counts from `settings.home`."""
    folder = settings.home / path
    return Champion(version, Detector.load(folder), Policy.load(folder))


def _window(ts: pd.Series, train_from: str, days: float) -> tuple[pd.Timestamp, pd.Timestamp]:
    length = pd.Timedelta(days=days)
    if not train_from:
        # One clock that jumped must not empty the window, so it ends with the 99.9th
        # percentile of the times.
        latest: pd.Timestamp = ts.sort_values().iloc[int(np.ceil(0.999 * (len(ts) - 1)))]
        stop = latest + pd.Timedelta(microseconds=1)
        return max(ts.min(), stop - length), stop
    try:
        start = pd.Timestamp(train_from)
    except ValueError:
        raise InputError(
            f"train_from must be a date such as 2018-07-25, not {train_from!r}."
        ) from None
    return start, start + length


def _register(
    store: Store,
    settings: Settings,
    version: str,
    detector: Detector,
    policy: Policy,
    **row: Any,
) -> str:
    """Save the files first, then the row that makes them count; the version it got."""
    folder = _fresh(settings.models / version)
    detector.save(folder)
    policy.save(folder)
    now = pd.Timestamp.now("UTC").tz_localize(None).as_unit("us")
    inside = folder.is_relative_to(settings.home)
    entry = {
        "version": folder.name,
        "detector": "forest",
        "path": str(folder.relative_to(settings.home) if inside else folder),
        "created_at": now,
        "promoted_at": now,
        **row,
    }
    with store.writing() as session:
        session.append("models", pd.DataFrame([entry]))
    return folder.name


def _fresh(folder: Path) -> Path:
    """`folder`, or the same with a number behind it, newly made."""
    for n in range(1, 1000):
        candidate = folder if n == 1 else folder.with_name(f"{folder.name}-{n}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as e:
            raise NotReady(f"The model cannot be saved in {folder}: {e}.") from e
        return candidate
    raise NotReady(f"There are a thousand models called {folder.name}; clear some away.")
