"""Training: from a window of history to a registered model and the forecast of its alerts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aegis_core.config import Settings
from aegis_core.detection import attacks
from aegis_core.detection.counter import (
    Counter,
    burst_limits,
    entity_limits,
    episode_of,
    most_above,
    thinned,
)
from aegis_core.detection.detector import MIN_TRAIN, Detector
from aegis_core.detection.history import (
    became_payments,
    known_answers,
    label_events,
    labels,
    recorded,
    transactions,
)
from aegis_core.detection.learner import MIN_FRAUDS, Learner
from aegis_core.detection.policy import Policy
from aegis_core.detection.registry import KINDS, ROLES, has_champion, load, rated, register, roles
from aegis_core.detection.scoring import Scorer
from aegis_core.errors import InputError, NotReady
from aegis_core.features.arrays import Floats
from aegis_core.features.checkpoint import begin
from aegis_core.features.entries import judged_rows
from aegis_core.features.profiles import Profiles
from aegis_core.features.signals import SIGNAL_FACTOR, SIGNALS
from aegis_core.metrics import daily_counts, predictive_interval
from aegis_core.review.answers import publish
from aegis_core.runs import lineage
from aegis_core.schema import FACTORS, Decision
from aegis_core.store import Store

Model = Detector | Learner


@dataclass(frozen=True)
class Recipe:
    """What is trained, on which window, and what it is to do then.

    Attributes
    ----------
    detector : `forest`, which uses no label, or `learner`.
    role :
        Of `registry.ROLES`; "" makes a forest champion unless the champion is a learner or the
        settings ask for a second person, and puts everything else in shadow.
    train_from : first day of the window; "" means `train_days` before the end.
    alerts_per_day :
        The alert budget as a number a day, by the traffic of the window; 0: as the settings' share.

    Raises
    ------
    InputError : One of them is out of range.
    """

    detector: str = "forest"
    role: str = ""
    train_from: str = ""
    train_days: float = 30.0
    alerts_per_day: float = 0.0
    n_trees: int = 100
    max_samples: int = 256

    def __post_init__(self) -> None:
        if self.detector not in KINDS:
            raise InputError(f"detector must be one of {', '.join(KINDS)}, not {self.detector!r}.")
        if self.role and self.role not in ROLES:
            raise InputError(f"role must be empty or one of {', '.join(ROLES)}, not {self.role!r}.")
        if self.train_days <= 0:
            raise InputError(f"train_days must be positive, not {self.train_days}.")
        if self.alerts_per_day < 0:
            raise InputError(f"alerts_per_day may not be negative, not {self.alerts_per_day}.")


USUAL: Final = Recipe()


@dataclass(frozen=True)
class Training:
    """What one training saw and made, for the notebook.

    Attributes
    ----------
    role : of `registry.ROLES`: what the model is doing now.
    judged : first and last time of `window`.
    window :
        One row for each transaction that the thresholds were taken from: `transaction_id`,
        `customer_id`, `ts`, `whose` (`counter.episode_of`), `paid` (its amount), `score`, `risk`,
        `decision`, the evidence of each factor and, as `strength:<factor>`, the same before
        weighting. For a forest these are the
        training window, for a learner the days after it: it is too sure of what it was taught.
    signals : of shape (len(window), len(SIGNALS)).
    saw : all the data that was there, while `data_hash` is of what taught the model.
    block_share : of the alerts, asked to be blocked by their score.
    loses : what it would no longer catch of `attacks`, and is not the champion for; usually "".
    """

    version: str
    role: str
    model: Detector | Learner
    policy: Policy
    train_from: pd.Timestamp
    train_to: pd.Timestamp
    n_train: int
    n_history: int
    data_hash: str
    judged: tuple[pd.Timestamp, pd.Timestamp]
    window: pd.DataFrame
    signals: Floats
    saw: lineage.Seen
    block_share: float
    loses: str = ""

    @property
    def detector(self) -> Detector:
        """The forest, also where a learner was trained on top of it."""
        return self.model.detector if isinstance(self.model, Learner) else self.model

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
        role = {"champion": "is the champion now", "shadow": "scores in shadow now"}
        loses = (
            f" It is not the champion, since it would lose {self.loses}; give the role champion to "
            "have it all the same."
            if self.loses
            else ""
        )
        return (
            f"Model {self.version} {role.get(self.role, 'is registered')}. It saw "
            f"{self.n_train:,} transactions, "
            f"{self.train_from:%Y-%m-%d %H:%M} to {self.train_to:%Y-%m-%d %H:%M} UTC, and may flag "
            f"{self.policy.alert_budget:.2%} of them: {alerts:,.0f} alerts a day ({low:,.0f} to "
            f"{high:,.0f} on nine days of ten), {blocks:,.0f} of them blocked.{loses}"
        )

    def figures(self) -> dict[tuple[str, str], float | None]:
        """The figures as `runs.record` takes them: alerts a day to expect, and limits."""
        expected = self.forecast()["mean"].to_dict()
        policy = {"review_above": self.policy.review_above, "block_above": self.policy.block_above}
        return {(f"{kind}_a_day", "forecast"): _finite(n) for kind, n in expected.items()} | {
            ("n_train", "window"): float(self.n_train),
            **{(name, "policy"): _finite(limit) for name, limit in policy.items()},
        }

    def kept_promises(self) -> dict[str, bool]:
        """Whether `alerts`, and `blocks` by score, are within what the policy was asked for.

        An episode counts for `counter.EPISODE_ROWS` alerts at most, a customer for
        `counter.most_above`.
        """
        w, limit = self.window, self.policy.alert_budget * self.block_share
        counts = thinned(w.whose, w.ts, w.score.to_numpy()) & (w.decision > 0)
        allowed = self.policy.alert_budget * len(w)
        most = most_above(allowed, w.customer_id.nunique())
        of_each = w.customer_id[counts].value_counts().clip(upper=most)
        return {
            "alerts": bool(of_each.sum() <= allowed),
            "blocks": bool((w.score > self.policy.block_above).mean() <= limit),
        }

    def taught(self) -> str:
        """What answers went into the model, in a sentence."""
        if not isinstance(self.model, Learner):
            return "No label was used."
        m = self.model
        return (
            f"{m.n_answers_:,} transactions of the window had an answer, {m.n_frauds_:,} of them "
            f"confirmed fraud. The trees have a say of {m.trees_.trust[0]:.0%}, the forest of the "
            "rest."
        )

    def forecast(self) -> pd.DataFrame:
        """Alerts and blocks a day to expect from the thresholds; see `metrics.predictive_interval`.

        Returns
        -------
        DataFrame with a row for `alerts` and `blocks` and columns `mean`, `low`, `high`, the ends
        of an interval for nine days of ten.
        """
        w = self.window
        kinds = {"alerts": w.decision != Decision.APPROVE, "blocks": w.decision == Decision.BLOCK}
        return pd.DataFrame(
            {
                kind: predictive_interval(daily_counts(w.ts, chosen, *self.judged))
                for kind, chosen in kinds.items()
            },
            index=["mean", "low", "high"],
            dtype=float,
        ).T


def train(
    store: Store,
    settings: Settings,
    recipe: Recipe = USUAL,
    *,
    run_id: str = "",
    progress: Callable[[int], object] | None = None,
) -> Training:
    """Fit a model on a window of history, save it, register it and give it its role.

    All that came before the window teaches the profiles; the window's signals train the forest. A
    learner is trained on top of it with the answers known at the end of the history; its window
    ends a label delay earlier, and the days since then give its thresholds.

    Parameters
    ----------
    settings : of them the alert budget, the shares, the seed and the delay of labels.
    run_id : of the run that trains; "" outside of one.
    progress : called with the number of transactions done since the last call.

    Raises
    ------
    InputError : What is asked cannot be, or a second person has to agree to it.
    NotReady
        The database holds no transactions, too few in the window, or too few confirmed frauds.
    """
    role = recipe.role
    if role == "champion" and settings.require_approval and has_champion(store):
        raise InputError(
            "A second person has to agree before the champion is replaced (require_approval). "
            "Train with role shadow, then `aegis models propose VERSION`."
        )
    if store.path.exists():
        publish(store)
    learns = recipe.detector == "learner"
    with store.snapshot() as session:
        frame, begun = transactions(session), begin(session, confirmed=learns)
        known = labels(session) if learns else None
        events = label_events(session) if learns else None
    if frame.empty:
        raise NotReady(
            f"There are no transactions in {store.path}. Run `aegis import FILE` or "
            "`aegis run generate` first."
        )
    saw = lineage.seen(store, frame.seq.max(), None if known is None else len(known))
    delay = settings.label_delay_days if learns else 0.0
    start, stop = _window(frame.ts, recipe.train_from, recipe.train_days, delay)
    chosen = _between(frame.ts, start, stop)
    if chosen.sum() < MIN_TRAIN:
        raise NotReady(
            f"The training window {start:%Y-%m-%d %H:%M} to {stop:%Y-%m-%d %H:%M} holds "
            f"{chosen.sum():,} transactions; at least {MIN_TRAIN} are needed. The history covers "
            f"{frame.ts.min():%Y-%m-%d} to {frame.ts.max():%Y-%m-%d}."
        )
    end = len(frame) if learns else int(np.flatnonzero(chosen)[-1]) + 1
    seen, chosen = frame.iloc[:end], chosen[:end]
    scorer = Scorer(profiles=begun.profiles, confirmed=begun.confirmed)
    erased = begun.erased.within(0, int(seen.seq.iloc[-1]) + 1)
    passed = scorer.replay(
        seen, events, recorded=recorded(seen), erased=erased, signals=True, progress=progress
    )
    asked = judged_rows(seen) & ~became_payments(seen)
    paid, chosen = passed.amount, chosen & asked
    forest = Detector(recipe.n_trees, recipe.max_samples, settings.seed).fit(
        passed.signals[chosen], seen.customer_id[chosen]
    )
    model: Detector | Learner = forest
    judged, times = chosen, (start, stop)
    if known is not None:
        now = pd.Timestamp(frame.ts.iloc[-1000:].median())  # one clock that jumped tells nothing
        answer = known_answers(seen[chosen], known, max(now, stop))
        if (answer == 1).sum() < MIN_FRAUDS:
            raise NotReady(
                f"{(answer == 1).sum()} frauds of the window {start:%Y-%m-%d} to {stop:%Y-%m-%d} "
                f"are confirmed; a learner needs {MIN_FRAUDS}. Answer more alerts, import labels, "
                "or widen the window with train_days."
            )
        learner = Learner(forest, seed=settings.seed)
        model = learner.fit(passed.signals[chosen], paid[chosen], passed.history[chosen], answer)
        later = (seen.ts >= stop).to_numpy() & asked
        if later.sum() >= MIN_TRAIN:
            judged, times = later, (stop, pd.Timestamp(seen.ts[later].max()))
            learner.calibrate(passed.signals[later], paid[later], passed.history[later])
    ts = seen.ts[judged]
    budget = settings.alert_budget
    if recipe.alerts_per_day:
        budget = min(0.5, recipe.alerts_per_day / (len(ts) / _days(ts)))
    signals = passed.signals[judged]
    strength, evidence = forest.weigh(signals)
    score = rated(model, passed, judged)
    of_window = passed.counts[chosen], seen[chosen]
    limits = (*burst_limits(*of_window), *entity_limits(*of_window, settings.entities))
    policy = Policy.from_budget(
        model, budget, settings.block_share, settings.audit_share,
        Counter.beside(limits, passed.counts[judged], score, seen[judged]),
    )  # fmt: skip
    window = pd.DataFrame(
        {
            **{c: seen[c].to_numpy()[judged] for c in ("transaction_id", "customer_id", "ts")},
            "whose": episode_of(passed.counts[judged], limits, seen[judged]).to_numpy(),
            "paid": paid[judged],
            "score": score,
            "risk": model.risk(score),
            "decision": policy.decide(score, passed.counts[judged]),
            **{f: evidence[:, i] for i, f in enumerate(FACTORS)},
            **{f"strength:{f}": strength[:, i] for i, f in enumerate(FACTORS)},
        }
    )
    data_hash = store.data_hash("seq <= ?", [int(seen.seq.iloc[-1])])
    version = f"{pd.Timestamp.now('UTC'):%Y%m%d-%H%M%S}-{data_hash[:6]}"
    parameters = {
        "train_days": recipe.train_days,
        "alert_budget": policy.alert_budget,
        "block_share": settings.block_share,
        "n_trees": recipe.n_trees,
        "max_samples": recipe.max_samples,
        "seed": settings.seed,
    }
    loses = ""
    if not role:
        role = _usual_role(store, settings, recipe.detector)
        if role == "champion" and has_champion(store):
            loses = _lost(store, settings, scorer.profiles, seen, model, policy)
            role = "shadow" if loses else role
    version = register(
        store, settings, version, model, policy,
        role=role, who=f"run {run_id}" if run_id else "train",
        trained_from=start, trained_to=stop, n_train=int(chosen.sum()),
        parameters=json.dumps(parameters), data_hash=data_hash, run_id=run_id or None,
    )  # fmt: skip
    n_train = int(chosen.sum())
    return Training(
        version, role, model, policy, start, stop, n_train, end, data_hash, times, window, signals,
        saw, settings.block_share, loses,
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _usual_role(store: Store, settings: Settings, detector: str) -> str:
    """A scheduled training must not put a forest in the place of a learner that was promoted."""
    if detector != "forest":
        return "shadow"
    try:
        now, _ = roles(store)
    except NotReady:
        return "champion"
    if settings.require_approval:
        return "shadow"
    (kind,) = store.rows("SELECT detector FROM models WHERE version = ?", [now])
    return "champion" if kind["detector"] == "forest" else "shadow"


def _lost(
    store: Store,
    settings: Settings,
    known: Profiles,
    seen: pd.DataFrame,
    model: Model,
    policy: Policy,
) -> str:
    """What a new model would lose of the attacks that the champion catches.

    A champion that cannot be read catches nothing, and its successor mends that.
    """
    try:
        champion = load(store, roles(store)[0], settings)
    except NotReady:
        return ""
    of = attacks.attacks(seen)

    def caught(model: Model, policy: Policy) -> dict[str, float]:
        return attacks.caught(
            lambda k, rows: Scorer(model, policy, k).run(rows).decision, known, of
        )

    return attacks.lost(caught(champion.model, champion.policy), caught(model, policy))


def _between(ts: pd.Series, start: pd.Timestamp, stop: pd.Timestamp) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = ((ts >= start) & (ts < stop)).to_numpy()
    return inside


def _days(ts: pd.Series) -> float:
    """Length of the time that holds all but clocks that jumped, in days, at least one hour."""
    low, high = np.quantile(ts.to_numpy("datetime64[us]").astype(np.int64), (0.0005, 0.9995))
    return max(float(high - low) / 86_400e6, 1 / 24)


def _window(
    ts: pd.Series, train_from: str, days: float, delay_days: float
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last time of the training window; a delay is left free behind it if it fits."""
    length = pd.Timedelta(days=days)
    if not train_from:
        # One clock that jumped must not empty the window, so it ends with the 99.9th
        # percentile of the times.
        latest: pd.Timestamp = ts.sort_values().iloc[int(np.ceil(0.999 * (len(ts) - 1)))]
        stop = latest + pd.Timedelta(microseconds=1)
        delay = pd.Timedelta(days=delay_days)
        if stop - delay > ts.min() + delay:
            stop -= delay
        return max(ts.min(), stop - length), stop
    try:
        start = pd.Timestamp(train_from)
        if pd.isna(start):
            raise ValueError
    except ValueError:
        raise InputError(
            f"train_from must be a date such as 2018-07-25, not {train_from!r}."
        ) from None
    if start.tz is not None:
        start = start.tz_convert("UTC").tz_localize(None)
    return start, start + length
