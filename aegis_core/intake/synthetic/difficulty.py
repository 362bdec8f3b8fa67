"""How hard synthetic data are: what simple rules alone would find in them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from aegis_core.features.geo import haversine_km
from aegis_core.intake.synthetic.scenarios import NIGHT
from aegis_core.metrics import families
from aegis_core.schema import SCENARIOS
from aegis_core.store import Store

_HOUR_US = 3.6e9
_LABELLED = """
    SELECT t.*, is_fraud, scenario FROM transactions t JOIN labels l USING (transaction_id)
    WHERE seq < ? AND l.source = 'synthetic' ORDER BY seq
"""


def labelled(store: Store, n: int) -> pd.DataFrame:
    """The synthetic ones among the first `n` transactions, with their labels.

    The columns of `transactions`, `is_fraud`, `scenario` and `local_hour`, in [0, 24): by the sun,
    of UTC where there is no place.
    """
    history = store.query(_LABELLED, [n])
    return history.assign(local_hour=_local_hours(history["ts"], history["lon"]))


def _local_hours(ts: pd.Series, lon: pd.Series) -> np.ndarray:
    us = ts.to_numpy("datetime64[us]").astype(np.int64)
    return (us / _HOUR_US + np.round(lon.fillna(0.0).to_numpy(float) / 15)) % 24


def by_kind(history: pd.DataFrame) -> pd.DataFrame:
    """A row a kind of scenario and one `ordinary`: `size`, `median` (amount), `share` of all."""
    told = history.groupby(_kind(history))["amount"].agg(["size", "median"]).round(2)
    return told.assign(share=told["size"] / len(history)).round(4)


def alerted_by_kind(history: pd.DataFrame) -> pd.DataFrame:
    """A row a kind of scenario and one `ordinary`: `size`, and how many a fixed rule points at."""
    alerted = pd.DataFrame(rule_scores(history)).filter(like="rule:").any(axis=1)
    return alerted.groupby(_kind(history)).agg(["size", "sum", "mean"]).round(3)


def _kind(history: pd.DataFrame) -> pd.Series:
    return families(history["scenario"]).fillna("ordinary").rename("kind")


def rule_scores(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """What simple rules say, higher is more suspicious: a yardstick for the difficulty audit.

    Computed plainly and on its own, from whole columns; the detector's evidence is not made here.
    Five scores rank all transactions, four fixed rules (`rule: ...`) fire or not, in {0, 1}.
    `frame` has the columns customer_id, ts, amount, lat, lon.

    >>> ts = pd.to_datetime(["2026-01-01 12:00:00", "2026-01-01 12:00:30"])
    >>> frame = pd.DataFrame({"customer_id": ["a", "a"], "ts": ts, "amount": [10.0, 30.0]})
    >>> scores = rule_scores(frame.assign(lat=50.0, lon=8.0))
    >>> scores["amount / mean"].tolist(), scores["count in 1 min"].tolist()
    ([1.0, 3.0], [1.0, 2.0])
    """
    rows = frame.reset_index(drop=True).sort_values(["customer_id", "ts"], kind="stable")
    ts, amount = rows["ts"], rows["amount"]
    of_one = rows.groupby("customer_id", sort=False, observed=True)
    mean = (of_one["amount"].cumsum() - amount) / of_one.cumcount()
    ratio = (amount / mean.clip(lower=0.01)).fillna(1.0)
    before = of_one[["ts", "lat", "lon"]].shift()
    km = haversine_km(before["lat"], before["lon"], rows["lat"], rows["lon"]).fillna(0.0)
    speed = (km / ((ts - before["ts"]).dt.total_seconds().clip(lower=1) / 3_600)).fillna(0.0)
    local_h = _local_hours(ts, rows["lon"])
    night = (local_h >= NIGHT[0]) & (local_h < NIGHT[1])
    count = of_one.rolling("1min", on="ts", closed="both")["amount"].count().to_numpy()
    scores = {
        "amount": amount,
        "amount / mean": ratio,
        "speed": speed,
        "hour": -np.abs((local_h - 2.5 + 12) % 24 - 12),
        "count in 1 min": count,
        "rule: amount > 10 x mean": ratio > 10,
        "rule: speed > 1,000 km/h": speed > 1_000,
        "rule: 1-4 AM, > 3 x mean": night & (ratio > 3),
        "rule: 10 in 1 min": count >= 10,
    }
    in_order = pd.DataFrame(scores, index=rows.index).sort_index().astype(float)
    return {name: in_order[name].to_numpy() for name in scores}


def audit(frame: pd.DataFrame) -> pd.DataFrame:
    """Average precision of every rule of `rule_scores`, for all fraud and for each scenario.

    A scenario is judged against the ordinary transactions alone. The last row, `floor`, is the
    share of fraud: what a random order reaches. 1 is a perfect order. `frame` has the columns that
    `rule_scores` takes, is_fraud and scenario.
    """
    fraud = frame["is_fraud"].to_numpy(bool)
    scenario = families(frame["scenario"]).fillna("").to_numpy(object)
    if not fraud.any():
        return pd.DataFrame({"all": [0.0]}, index=["floor"])
    from sklearn.metrics import average_precision_score

    slices = {"all": np.ones(len(frame), dtype=bool)}
    slices |= {s: ~fraud | (scenario == s) for s in SCENARIOS if (scenario == s).any()}
    table = {
        rule: [average_precision_score(fraud[rows], score[rows]) for rows in slices.values()]
        for rule, score in rule_scores(frame).items()
    }
    table["floor"] = [float(fraud[rows].mean()) for rows in slices.values()]
    return pd.DataFrame.from_dict(table, orient="index", columns=list(slices))


def bottom_line(precision: pd.DataFrame) -> str:
    """What `audit` found, in a sentence.

    >>> table = pd.DataFrame({"all": [0.04, 0.26, 0.005]}, index=["amount", "speed", "floor"])
    >>> bottom_line(table)
    'The best single rule, speed, reaches an average precision of 0.26; a random order 0.005.'
    """
    by_rule = precision["all"].to_dict()
    floor = by_rule.pop("floor")
    if not by_rule:
        return "There is no fraud among these transactions, so nothing can be found."
    best = max(by_rule, key=lambda rule: by_rule[rule])
    return (
        f"The best single rule, {best}, reaches an average precision of {by_rule[best]:.2f}; "
        f"a random order {floor:.3f}."
    )
