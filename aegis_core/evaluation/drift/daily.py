"""Drift: does today's traffic still look like the traffic that the model knows? No label needed.

A day is held against the same weekdays of the weeks before, by samples of one size, so that the
verdict does not depend on how much traffic there was (the volume is a measure of its own). The
effect of a measure is the median over those days of an effect size; how far it usually lies from
zero is learnt from the days of the reference weeks, each held against its own fellows. An alarm is
an effect beyond that, and large enough to matter.

When it fails: what changes slower than the reference weeks is never seen, what comes back every
week is usual, and some weeks after a change the new ways are the usual ones. A holiday is an alarm.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from aegis_core.errors import InputError, did_you_mean
from aegis_core.evaluation.drift.effects import (
    MEASURES,
    MIN_SAMPLE,
    SAMPLED,
    Measure,
    effect,
    limit,
    sample,
    typical,
)
from aegis_core.evaluation.drift.moved import GROUPS, WIDESPREAD, moved, spread_told
from aegis_core.evaluation.drift.traffic import DAY, Traffic
from aegis_core.evaluation.splits import typed
from aegis_core.features.arrays import Floats
from aegis_core.machine import utc_now

FILLED = 2 / 3
"""Share of the customers of a usual day that a sample may have."""


@dataclass(frozen=True)
class Drift:
    """What one day looks like beside its reference days.

    Attributes
    ----------
    table :
        One row a measure: `measure`, `part`, `value` of the day and `usual` (median of the
        reference days; see `effects.typical`), `effect`, `low` and `high` (where it usually lies),
        `alarm`. What could not be measured is NaN, and no alarm.
    days :
        One row a measure and day, the reference weeks and then the day itself: `measure`, `part`,
        `day`, `effect`.
    reference : the days that this one is held against, the newest first.
    size : customers in a sample; 0 if the days have too few.
    notes : what could not be measured, and why, in sentences.
    samples : of each day that has one, of shape (size, len(effects.SAMPLED)).
    """

    day: pd.Timestamp
    table: pd.DataFrame
    days: pd.DataFrame
    reference: list[pd.Timestamp]
    size: int
    traffic: Traffic
    notes: list[str] = field(default_factory=list)
    samples: dict[pd.Timestamp, Floats] = field(default_factory=dict)

    @property
    def alarms(self) -> pd.DataFrame:
        """The rows of `table` that are alarms, the farthest beyond its limit first."""
        found = self.table[self.table["alarm"]]
        order = (found["effect"].abs() / found["high"]).sort_values(ascending=False).index
        return found.loc[order]

    def summary(self) -> str:
        """The bottom line."""
        day, measured = f"{self.day:%A, %Y-%m-%d}", int(self.table["effect"].notna().sum())
        if not measured:
            return f"Nothing can be said of {day}."
        if self.alarms.empty:
            return f"{day}: no alarm. All {measured} measures lie where such days usually do."
        names = (_measure(row).label for row in self.alarms.to_dict("records"))
        return f"{day}: drift in {', '.join(names)}."

    def told(self) -> list[str]:
        """A sentence for each alarm."""
        return [_told(row) for row in self.alarms.to_dict("records")]

    def rows(self) -> pd.DataFrame:
        """The table `drift` as `runs.record` takes it; the strongest alarm also tells who moved."""
        told = self.told()
        if told:
            told[0] += " " + self.explanation()
        sentences = pd.Series(told, self.alarms.index, dtype="str")
        return self.table.assign(day=self.day.date(), found_at=utc_now(), told=sentences)

    def foremost(self) -> Measure:
        """The measure of the strongest alarm, or without one of the largest effect for its limit.

        Where the score moved, the factor whose evidence moved with it says more, and comes before.
        """
        table = self.alarms if len(self.alarms) else self.table
        weight = (table["effect"].abs() / table["high"]).fillna(-1.0)
        if (table["measure"] == "evidence").any() and len(self.alarms):
            weight[table["measure"] == "score"] = -1.0
        return _measure(table.iloc[int(weight.to_numpy().argmax())].to_dict())

    def moved(self, by: str, measure: Measure | None = None) -> pd.DataFrame:
        """Who moved in a measure, the foremost by default; see `moved.moved`.

        Raises
        ------
        InputError : `by` is none of `GROUPS`.
        """
        if by not in GROUPS:
            raise InputError(
                f"A drift is told by {', '.join(GROUPS)}, not by {by!r}.{did_you_mean(by, GROUPS)}"
            )
        rows = self.traffic.rows
        usual = rows[rows["day"].isin(self.reference)]
        today = rows[rows["day"] == self.day]
        return moved(today, usual, max(len(self.reference), 1), measure or self.foremost(), by)

    def movers(self) -> pd.DataFrame:
        """The groups that moved most in the foremost measure, of every kind, and all the others.

        Returns
        -------
        DataFrame with `by` (of `GROUPS`), `group` and `part` of the movement; at most `WIDESPREAD`
        groups of a kind, and where there are more a row `all others`.
        """
        rows: list[tuple[str, str, float]] = []
        for by in GROUPS if self._measured() else ():
            parts = self.moved(by)[["group", "part"]].to_numpy().tolist()
            rows += [(by, group, part) for group, part in parts[:WIDESPREAD]]
            if others := parts[WIDESPREAD:]:
                rows.append((by, "all others", sum(part for _, part in others)))
        return typed(rows, {"by": "str", "group": "str", "part": float})

    def explanation(self) -> str:
        """Who moved in the foremost measure, told by customer, merchant and category."""
        if not self._measured():
            return "There is no day to hold it against, so nobody can be said to have moved."
        sentences = [spread_told(self.moved(by), by) for by in GROUPS]
        label = self.foremost().label
        how = f"Of {label}" if len(self.alarms) else f"No alarm, and most of all {label} moved"
        return f"{how}: " + " ".join(sentences)

    def shapes(self) -> pd.DataFrame:
        """How each sampled measure is spread, on the day and usually.

        Returns
        -------
        DataFrame with `measure` (its label), `share` of the customers above, and the values `today`
        and `usual` that so many lie above; no rows without samples. Alerts have no such values.
        """
        usual = [self.samples[day] for day in self.reference if day in self.samples]
        if self.day not in self.samples or not usual:
            return pd.DataFrame(columns=["measure", "share", "today", "usual"], dtype=float)
        today, before = self.samples[self.day], np.concatenate(usual)
        share = np.geomspace(1.0, 1 / self.size, 60)
        tables = []
        for at, measure in enumerate(m for m in MEASURES if m.column):
            if measure.name != "alert_rate":
                now, then = (np.quantile(values[:, at], 1 - share) for values in (today, before))
                spread = {"share": share, "today": now, "usual": then}
                tables.append(pd.DataFrame({"measure": measure.label, **spread}))
        return pd.concat(tables, ignore_index=True)

    def _measured(self) -> bool:
        return bool(self.reference) and bool(self.table["effect"].notna().any())


def judge(
    given: Traffic,
    day: pd.Timestamp,
    *,
    weeks: int = 4,
    size: int = 1_500,
    quiet_days: float = 180.0,
    seed: int = 0,
) -> Drift:
    """Hold one day against the same weekdays of the weeks before.

    Parameters
    ----------
    given : traffic of the day and the weeks before, and maybe more.
    size :
        Customers in a sample. Where usual days have few, it is two thirds of theirs; the day that
        is judged has no say in it.
    quiet_days :
        One false alarm in so many days without drift, all measures together, if they vary as a
        normal distribution does.
    seed : of the samples.

    Raises
    ------
    InputError : A number is out of range.
    """
    if size < MIN_SAMPLE or quiet_days < 1 or weeks < 1:
        raise InputError(
            f"sample must be at least {MIN_SAMPLE}, quiet_days and weeks at least 1; they are "
            f"{size}, {quiet_days:g} and {weeks}."
        )
    by_day = dict(tuple(given.rows.groupby("day")))
    window = [day - k * DAY for k in range(1, 7 * weeks + 1) if day - k * DAY in by_day]
    reference = [d for d in window if (day - d).days % 7 == 0]
    notes = []
    customers = [by_day[d]["customer_id"].nunique() for d in window]
    size = min(size, int(np.median(customers or [0]) * FILLED))
    if len(reference) < 2:
        notes.append(
            f"There are {len(reference)} such weekdays in the {weeks} weeks before; drift needs 2."
        )
        reference, window = [], []
    elif size < MIN_SAMPLE:
        notes.append(
            f"A usual day has {np.median(customers):.0f} customers; {MIN_SAMPLE / FILLED:.0f} are "
            "needed to judge more than the volume."
        )
        size = 0
    if not given.over:
        notes.append("The day is not over in these data, so its volume is not judged.")
    empty = given.rows.iloc[:0]
    drawn = {
        d: sample(by_day.get(d, empty), size, seed * 1_000_003 + d.toordinal())
        for d in ([*window, day] if size else [])
    }
    samples = {d: values for d, values in drawn.items() if values is not None}
    if size and day not in samples:
        there = by_day.get(day, empty)["customer_id"].nunique()
        notes.append(
            f"The day has {there:,} customers and a sample {size:,}, so only the volume is judged."
        )
    table, history = [], []
    for measure in MEASURES:
        if measure.column:
            at = SAMPLED.index(measure.column)
            levels = {d: values[:, at] for d, values in samples.items()}
        else:
            counted = [*window, day] if given.over else window
            levels = {d: np.array([float(len(by_day.get(d, empty)))]) for d in counted}
        row, effects = _row(measure, day, levels, reference, quiet_days)
        table.append({"measure": measure.name, "part": measure.part, **row})
        history += [(measure.name, measure.part, d, e) for d, e in effects.items()]
    days = pd.DataFrame(history, columns=["measure", "part", "day", "effect"])
    return Drift(day, pd.DataFrame(table), days, reference, size, given, notes, samples)


def _row(
    measure: Measure,
    day: pd.Timestamp,
    levels: dict[pd.Timestamp, Floats],
    reference: list[pd.Timestamp],
    quiet_days: float,
) -> tuple[dict[str, Any], dict[pd.Timestamp, float]]:
    """Figures of one measure, and the effects of the reference weeks' days and of the day."""
    usual = [d for d in reference if d in levels]
    effects = {}
    for d in sorted(levels):
        fellows = [r for r in levels if r not in (d, day) and (r - d).days % 7 == 0]
        if d != day and fellows:
            effects[d] = float(np.median([effect(measure, levels[d], levels[r]) for r in fellows]))
    if day not in levels or len(usual) < 2 or not effects:
        nothing = dict.fromkeys(("value", "usual", "effect", "low", "high"), np.nan)
        return {**nothing, "alarm": False}, {}
    groups = len({d.weekday() for d in effects})
    high = limit(measure, list(effects.values()), groups, quiet_days)
    found = float(np.median([effect(measure, levels[day], levels[r]) for r in usual]))
    figures = {
        "value": typical(measure, levels[day]),
        "usual": float(np.median([typical(measure, levels[r]) for r in usual])),
        "effect": found,
        "low": -high,
        "high": high,
        "alarm": abs(found) > high,
    }
    return figures, {**effects, day: found}


def _measure(row: Mapping[Hashable, Any]) -> Measure:
    return next(m for m in MEASURES if (m.name, m.part) == (row["measure"], row["part"]))


def _told(row: Mapping[Hashable, Any]) -> str:
    measure = _measure(row)
    change = ""
    if measure.name in ("volume", "amounts") and row["usual"] > 0:
        change = f" ({row['value'] / row['usual'] - 1:+.0%})"
    return (
        f"{measure.label.capitalize()}: {measure.form.format(row['value'])}, usually "
        f"{measure.form.format(row['usual']).split()[0]}{change}; effect {row['effect']:+.2f}, "
        f"usually within ±{row['high']:.2f}."
    )
