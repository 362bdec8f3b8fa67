"""What the board knows: one short read-only opening of the database a tick.

Numbers over time come from `rollups`, and a tick asks only for the last bar again; pictures and the
log hold the newest verdicts, and a tick asks only for those that came since. So a tick costs the
same whatever the length of the history. A filter on amount or customer, which rollups do not know,
looks through the newest `SEARCHED` arrivals of the period.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from aegis_core.machine import utc_now
from aegis_core.review.cases import SNOOZED
from aegis_core.schema import COLUMNS, LONGEST_TEXT, TEXT, WORTH, WORTH_IN
from aegis_core.store import Store, rollups
from aegis_core.store.endpoint import find
from aegis_core.store.floods import CAMPAIGNS, THRESHOLD, follows, storm
from aegis_core.store.session import Session
from aegis_core.views.dashboard.counts import Columns, Counts, counted, nothing, width_of
from aegis_core.views.dashboard.filters import Filters

WINDOW: Final = 5_000
"""Verdicts in the scatter, the map and the log."""
SEARCHED: Final = 200_000
"""Arrivals that a filter looks through, newest first."""
RATE_OVER_S: Final = 10.0
RECOUNT_S: Final = 60.0
"""How often what was counted is counted anew: a clock that was set back writes into the past."""
SLOWLY_S: Final = 5.0
"""How often what changes slowly is read: latency, today's budget, model, proof."""
MOST_TRAVELS: Final = 25
MOST_SNOOZED: Final = 100
MOST_EARLIER: Final = 5
"""Champions of the period, before the one of now, that are told."""
STATS_OVER: Final = dt.timedelta(minutes=15)
_FIRST: Final = dt.datetime(1970, 1, 1)
_NEVER: Final = dt.datetime(9999, 1, 1)


@dataclass(frozen=True)
class Snapshot:
    """The state of the database at one moment, as far as the board shows it.

    Attributes
    ----------
    newest : `seq` of the newest verdict, whatever the filters; -1 without any.
    uncounted
        Verdicts that are not in the rollups; not 0 where something else than Aegis wrote them.
    as_of, since : When it was read, and the first minute of the period.
    until : Where a period in the past ends; None: it goes on.
    service : Whether a service owns the database; None: none was ever seen.
    counts : Verdicts of the period that pass the filters.
    window : Columns of the newest `WINDOW` of them, oldest first: `seq`, `scored_at` and `ts`
        (seconds since 1970, UTC), `hour` in [0, 24), `amount`, `travel` (nats), `distance` (km from
        the last place), `risk` in [0, 100], `score`, `decision` (as `schema.Decision`), `lat`,
        `lon` and texts.
    today : Verdicts since midnight UTC, in bars of ten minutes, whatever the filters.
    stats : Columns of `service_stats`, of the last quarter of an hour.
    storm : What is told of a storm of alerts; "" in ordinary weather.
    budget : What the champion's threshold follows; "" where the trained one keeps the budget.
    replayed : How many verdicts of the period were replayed (`n`, `n_seen` of them from before
        the training of their model ended; `at`, the last time), whatever the filters; empty: none.
    snoozed : Customers about whom nothing is asked: `value`, `until`, `who`, `why`; the longest
        first, `MOST_SNOOZED` at most.
    facts : The champion, how it was made, the last proof: see `_FACTS`.
    earlier : Champions that judged in the period before the one of now, the newest first:
        `version`, `until` (seconds since 1970), `run_id`, `data_hash`, `report_path`.
    travels : For impossible travels of the window, where they began and ended.
    campaigns : Alerts of the period that share something, as `floods.CAMPAIGNS` gives them.
    """

    as_of: dt.datetime
    since: dt.datetime = _FIRST
    until: dt.datetime | None = None
    service: bool | None = None
    n_transactions: int = 0
    newest: int = -1
    n_models: int = 0
    uncounted: int = 0
    rate_per_s: float = 0.0
    counts: Counts = field(default_factory=nothing)
    window: Columns = field(default_factory=dict)
    today: Counts = field(default_factory=nothing)
    stats: Columns = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    categories: tuple[str, ...] = ()
    travels: list[dict[str, Any]] = field(default_factory=list)
    campaigns: list[dict[str, Any]] = field(default_factory=list)
    storm: str = ""
    budget: str = ""
    replayed: Mapping[str, Any] = field(default_factory=dict)
    snoozed: list[dict[str, Any]] = field(default_factory=list)


def seconds(moment: dt.datetime) -> float:
    """Seconds since 1970 of a time as `utc_now` gives it."""
    return moment.replace(tzinfo=dt.UTC).timestamp()


class Feed:
    """Reads snapshots; remembers what need not be read again, so that a tick stays cheap."""

    def __init__(
        self, store: Store, *, now: Callable[[], dt.datetime] = utc_now, storm_multiple: float = 5.0
    ) -> None:
        self.store, self.now, self.storm_multiple = store, now, storm_multiple
        self._last = Snapshot(now())
        self._filters: Filters | None = None
        self._minute = _FIRST  # of the newest verdicts
        self._seen = -1  # the newest seq of the snapshot
        self._recounted = self._slowly = -math.inf
        self._from: dict[int, dict[str, Any]] = {}  # where travels began

    def read(self, filters: Filters) -> Snapshot:
        """The state now, in one read-only opening.

        Raises
        ------
        StoreBusy : A writer held the file for as long as the store waits.
        NotReady : There is no database yet.
        """
        with self.store.reading() as session:
            session.with_one_thread()
            try:
                return self._read(session, filters.seen())
            except BaseException:
                self._filters = None  # half read is not read
                raise

    def _read(self, session: Session, filters: Filters) -> Snapshot:
        began, now = time.monotonic(), self.now()
        since, until = filters.from_to(now)
        newest = self._newest(session)
        anew = (
            filters != self._filters or newest < self._seen or began - self._recounted > RECOUNT_S
        )
        last = self._last
        made = replace(last, as_of=now, since=since, until=until, newest=newest)
        if self._filters is None:
            made = replace(made, uncounted=rollups.missing(session))
        if slowly := anew or began - self._slowly > SLOWLY_S:
            made = self._read_slowly(session, made, now)
            self._slowly = began
        made = replace(made, service=self._service())
        if anew:
            made = self._read_anew(session, made, filters)
            self._recounted = began
        elif newest > self._seen and (until is None or until > last.as_of):
            made = self._read_on(session, made, filters, newest)
        counts = made.counts
        made = replace(
            made,
            counts=counts.only(counts.start >= seconds(since) // counts.width_s * counts.width_s),
            travels=self._travels(session, made),
            campaigns=_campaigns(session, made, filters) if slowly else last.campaigns,
            rate_per_s=self._rate(session, made, filters),
        )
        self._filters, self._seen, self._last = filters, newest, made
        return made

    # ---- what every tick asks

    def _newest(self, session: Session) -> int:
        """The newest `seq` with a verdict; -1 without any."""
        found = session.numpy(_NEWEST, [max(_FIRST, self._minute - dt.timedelta(hours=1))])
        if not int(found["n"][0]):
            self._minute = _FIRST
            return int(session.numpy(_NEWEST, [_FIRST])["newest"][0])
        self._minute = _FIRST + dt.timedelta(seconds=float(found["minute"][0]))
        return int(found["newest"][0])

    def _rate(self, session: Session, made: Snapshot, filters: Filters) -> float:
        """Verdicts a second, of the last ten seconds."""
        from_ = seconds(made.as_of) - RATE_OVER_S
        at = made.window["scored_at"]
        goes_on = filters.all_rows and made.until is None
        if goes_on and len(at) and (len(at) < WINDOW or at[0] < from_):  # all of them are here
            return float((at > from_).sum()) / RATE_OVER_S
        sure = made.newest - SEARCHED  # more than 20,000 a second would not be counted
        found = session.numpy(_RATE, [sure, made.as_of - dt.timedelta(seconds=RATE_OVER_S)])
        return float(found["n"][0]) / RATE_OVER_S

    def _service(self) -> bool | None:
        """Whether a service owns the database; None where none was ever seen."""
        there = find(self.store.path) is not None
        return True if there else None if self._last.service is None else False

    # ---- the period from its beginning, and what came since

    def _read_anew(self, session: Session, made: Snapshot, filters: Filters) -> Snapshot:
        span, inside = _inside(session, made, filters)
        if not int(inside["n"][0]):
            empty = nothing(width_of(0.0, 0.0, filters.bars))
            return replace(made, counts=empty, window=_window(session, filters, 0, -1, span))
        low, high = int(inside["low"][0]), int(inside["high"][0])
        first = max(seconds(made.since), float(inside["minute"][0]))
        end = seconds(made.until or made.as_of)
        if filters.period == "all":
            end = float(inside["last"][0])
        width_s = width_of(first, end, filters.bars)
        if filters.by_row:
            low = max(low, high - SEARCHED + 1)
            rows = _passing(session, _COUNTED, filters, low, high, span, width_s)
        else:
            condition, params = filters.condition(rolled=True)
            rows = session.numpy(_ROLLED.format(condition, width_s), [*span, *params])
        low = max(low, high - (WINDOW if filters.all_rows else SEARCHED) + 1)
        window = _window(session, filters, low, high, span)
        return replace(made, counts=counted(rows, width_s), window=window)

    def _read_on(self, session: Session, made: Snapshot, filters: Filters, newest: int) -> Snapshot:
        span: list[object] = [made.since, made.until or _NEVER]
        counts, low = made.counts, max(self._seen, newest - SEARCHED) + 1
        if filters.by_row:
            new = _passing(session, _COUNTED, filters, low, newest, span, counts.width_s)
            counts = counts.joined(counted(new, counts.width_s))
        else:
            again = counts.start.max() if len(counts.start) else seconds(made.since)
            condition, params = filters.condition(rolled=True)
            from_ = _FIRST + dt.timedelta(seconds=float(again))
            rows = session.numpy(
                _ROLLED.format(condition, counts.width_s), [from_, span[1], *params]
            )
            counts = counts.only(counts.start < again).joined(counted(rows, counts.width_s))
        new_rows = _window(session, filters, low, newest, span)
        window = {
            name: np.concatenate([values, new_rows[name]])[-WINDOW:]
            for name, values in made.window.items()
        }
        return replace(made, counts=counts, window=window)

    # ---- what changes slowly

    def _read_slowly(self, session: Session, made: Snapshot, now: dt.datetime) -> Snapshot:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        today = session.numpy(_ROLLED.format("true", 600), [midnight, _NEVER])
        stats = session.numpy(_STATS, [now - STATS_OVER])
        (found,) = dicts(session.numpy(_FACTS))
        facts: dict[str, Any] = {k: None if v != v else v for k, v in found.items()}
        earlier = dicts(session.numpy(_EARLIER, [made.since, made.until or now]))
        weather = storm(session, self.storm_multiple, now)
        (replayed,) = dicts(session.numpy(_REPLAYED, [made.since, made.until or _NEVER]))
        a_month = now - dt.timedelta(days=30)
        categories = session.numpy(_CATEGORIES, [a_month])["category"].tolist()
        return replace(
            made,
            n_transactions=int(facts["n_transactions"]),
            n_models=int(facts["n_models"]),
            today=counted(today, 600),
            stats=stats,
            facts=facts | {"alert_budget": _budget(facts["parameters"])},
            earlier=earlier,
            categories=tuple(sorted(categories)),
            storm=weather.told() if weather else "",
            budget=" ".join(follows(row) for row in dicts(session.numpy(THRESHOLD))),
            replayed=replayed if replayed["n"] else {},
            snoozed=dicts(session.numpy(_SNOOZED)),
        )

    def _travels(self, session: Session, made: Snapshot) -> list[dict[str, Any]]:
        """Where the worst impossible travels of the window began, and where they ended."""
        window = made.window
        if not window or window is self._last.window:
            return made.travels if window else []
        impossible = (
            (window["decision"] > 0) & (window["factor"] == "travel") & ~np.isnan(window["lat"])
        )
        places = np.flatnonzero(impossible)
        places = np.sort(places[worst_first(window, places)[:MOST_TRAVELS]])
        wanted = [int(seq) for seq in window["seq"][places]]
        if unknown := [seq for seq in wanted if seq not in self._from]:
            low, high = max(0, min(unknown) - SEARCHED), max(unknown)
            found = dicts(session.numpy(_BEGAN, [unknown, low, high, low, high]))
            began = {int(row["seq"]): row for row in found}
            known = self._from | began
            self._from = {seq: known.get(seq, {}) for seq in wanted}
        names = ("seq", "lat", "lon", "amount", "currency", "reasons", "customer_id", "distance")
        return [
            travel | {"from_lat": origin["lat"], "from_lon": origin["lon"]}
            for travel in dicts({name: window[name][places] for name in names})
            if (origin := self._from.get(int(travel["seq"])))
        ]


def worst_first(window: Columns, places: np.ndarray) -> np.ndarray:
    """The order of the rows of a window at `places` by risk × amount, ties the newest first.

    >>> worst_first({"risk": np.array([50, 99]), "worth": np.array([3, 2])}, np.arange(2))
    array([1, 0])
    """
    at_stake = window["risk"][places] * window["worth"][places]
    return np.lexsort((-places, -at_stake))


def _inside(session: Session, made: Snapshot, filters: Filters) -> tuple[list[Any], Columns]:
    """From when to when the period is, and a row: how many verdicts (`n`), from `low` to `high`."""
    span = [made.since, made.until or _NEVER]
    condition, params = filters.condition(rolled=True)
    return span, session.numpy(_INSIDE.format(condition), [*span, *params])


def _campaigns(session: Session, made: Snapshot, filters: Filters) -> list[dict[str, Any]]:
    span, inside = _inside(session, made, filters)
    if not int(inside["n"][0]):
        return []
    high = int(inside["high"][0])
    low = max(int(inside["low"][0]), high - SEARCHED + 1)
    return dicts(_passing(session, _CAMPAIGNS, filters, low, high, span))


def _passing(
    session: Session, sql: str, filters: Filters, low: int, high: int, span: list[Any], *more: int
) -> Columns:
    """What `sql` gives of the verdicts from `low` to `high` that pass."""
    condition, params = filters.condition()
    given = [low, high, low, high, *span, *params]
    return session.numpy(sql.format(condition, *more), given)


def _window(
    session: Session, filters: Filters, low: int, high: int, span: list[Any]
) -> dict[str, Any]:
    found = _passing(session, _WINDOW, filters, low, high, span)
    columns = {
        name: values[::-1] if values.dtype == object else values[::-1].astype(np.float64)
        for name, values in found.items()
    }
    return {**columns, "hour": columns["ts"] % 86_400 / 3_600}


def _budget(parameters: object) -> float | None:
    """The share of alerts that the champion was made for; None where nothing says."""
    try:
        return float(json.loads(str(parameters))["alert_budget"])
    except (ValueError, KeyError, TypeError):
        return None


def dicts(columns: Columns) -> list[dict[str, Any]]:
    """Columns as one dictionary of plain Python values a row.

    >>> dicts({"seq": np.array([7, 8]), "merchant_id": np.array(["a", None], dtype=object)})
    [{'seq': 7, 'merchant_id': 'a'}, {'seq': 8, 'merchant_id': None}]
    """
    names = list(columns)
    return [
        dict(zip(names, row, strict=True))
        for row in zip(*(values.tolist() for values in columns.values()), strict=True)
    ]


_NEWEST = """
    SELECT count(*) AS n, coalesce(max(last_seq), -1) AS newest, max(epoch(minute)) AS minute
    FROM rollups WHERE minute >= ?"""
_RATE = "SELECT count(*) AS n FROM verdicts WHERE seq > ? AND scored_at > ?"
_INSIDE = """
    SELECT coalesce(sum(n), 0)::BIGINT AS n, min(first_seq) AS low, max(last_seq) AS high,
           min(epoch(minute)) AS minute, max(epoch(minute)) AS last
    FROM rollups WHERE minute >= ? AND minute < ? AND {}"""
_ROLLED = """
    SELECT epoch(minute)::BIGINT // {1} * {1} AS start, decision, factor, currency,
           sum(n)::BIGINT AS n, sum(amount)::DOUBLE AS amount
    FROM rollups WHERE minute >= ? AND minute < ? AND {0} GROUP BY ALL"""
# Both tables are in order of seq, so the bound on both lets DuckDB skip all other rows.
_PASSING = """
    FROM verdicts v JOIN transactions t ON t.seq = v.seq
    WHERE v.seq >= ? AND v.seq <= ? AND t.seq >= ? AND t.seq <= ?
      AND v.scored_at >= ? AND v.scored_at < ? AND {0}"""
_COUNTED = f"""
    SELECT epoch(v.scored_at)::BIGINT // {{1}} * {{1}} AS start, v.decision,
           coalesce(v.reasons[1].factor, '') AS factor, {WORTH_IN} AS currency,
           count(*) AS n, sum({WORTH}) AS amount {_PASSING} GROUP BY ALL"""
_TRANSACTION = {
    **{c.name: f"left(t.{c.name}, {LONGEST_TEXT})" for c in COLUMNS if c.kind == TEXT},
    **{c.name: f"t.{c.name}" for c in COLUMNS if c.kind != TEXT},
    "ts": "epoch(t.ts)",
    "currency": "coalesce(t.currency, '')",
}
_WINDOW = f"""
    SELECT v.seq, epoch(v.scored_at) AS scored_at, (v.replayed_at IS NOT NULL)::INT AS replayed,
           v.risk, v.score, v.evidence.travel AS travel,
           v.distance_km AS distance, coalesce(v.reasons[1].factor, '') AS factor,
           CASE v.decision WHEN 'approve' THEN 0 WHEN 'review' THEN 1 ELSE 2 END AS decision,
           {", ".join(f"{sql} AS {name}" for name, sql in _TRANSACTION.items())},
           {WORTH} AS worth, {WORTH_IN} AS unit,
           left(array_to_string([reason.text FOR reason IN v.reasons], ' · '), 1000) AS reasons
    {_PASSING} ORDER BY v.seq DESC LIMIT {WINDOW}"""
_CAMPAIGNS = CAMPAIGNS.format(_PASSING)
_STATS = """
    SELECT epoch(noted_at) AS at, seconds, transactions, p50_ms, p99_ms, waiting
    FROM service_stats WHERE noted_at > ? ORDER BY noted_at"""
_FACTS = """
    SELECT m.version, epoch(m.promoted_at) AS promoted_at, m.detector, m.n_train, m.run_id,
           m.data_hash, m.parameters, r.report_path, r.status,
           strftime(m.trained_from, '%Y-%m-%d') AS first_day,
           strftime(m.trained_to, '%Y-%m-%d') AS last_day,
           (SELECT epoch(max(proved_at)) FROM proofs) AS proved_at,
           (SELECT arg_max(checked, proved_at) FROM proofs) AS checked,
           (SELECT arg_max(different, proved_at) FROM proofs) AS different,
           (SELECT string_agg(left(concat(notebook, ' ', cells_done, ' of ', cells_total, ' cells',
              ' · ' || heading), 80), ', ' ORDER BY started_at)
            FROM runs WHERE status = 'running') AS running,
           (SELECT count(*) FROM models) AS n_models,
           (SELECT count(*) FROM (SELECT 1 FROM transactions LIMIT 1)) AS n_transactions
    FROM (SELECT 1) LEFT JOIN (FROM models WHERE promoted_at IS NOT NULL
                               ORDER BY promoted_at DESC LIMIT 1) m ON true
                    LEFT JOIN runs r ON r.run_id = m.run_id"""
_EARLIER = f"""
    WITH reigns AS (
      SELECT version, promoted_at, lead(promoted_at) OVER (ORDER BY promoted_at) AS until
      FROM promotions WHERE role IN ('champion', 'rollback'))
    SELECT version, epoch(until) AS until, m.run_id, m.data_hash, r.report_path
    FROM reigns JOIN models m USING (version) LEFT JOIN runs r ON r.run_id = m.run_id
    WHERE until > ? AND reigns.promoted_at < ? ORDER BY until DESC LIMIT {MOST_EARLIER}"""
_SNOOZED = f"""
    SELECT left(value, {LONGEST_TEXT}) AS value, strftime(until, '%Y-%m-%d %H:%M') AS until,
           left(who, {LONGEST_TEXT}) AS who, left(why, {LONGEST_TEXT}) AS why
    FROM ({SNOOZED}) ORDER BY until DESC, value LIMIT {MOST_SNOOZED}"""
_REPLAYED = """
    SELECT count(*) AS n, epoch(max(v.replayed_at)) AS at,
           count(*) FILTER (v.scored_at < m.trained_to) AS n_seen
    FROM verdicts v LEFT JOIN models m ON m.version = v.model_version
    WHERE v.replayed_at IS NOT NULL AND v.scored_at >= ? AND v.scored_at < ?"""
_CATEGORIES = f"""
    SELECT left(category, {LONGEST_TEXT}) AS category FROM rollups
    WHERE minute >= ? AND category <> '' GROUP BY 1 ORDER BY sum(n) DESC LIMIT 60"""
_BEGAN = """
    WITH ended AS (SELECT seq, customer_id FROM transactions WHERE seq IN (SELECT unnest(?)))
    SELECT e.seq, arg_max(p.lat, p.seq) AS lat, arg_max(p.lon, p.seq) AS lon
    FROM ended e JOIN transactions p ON p.customer_id = e.customer_id AND p.seq < e.seq
    WHERE p.seq >= ? AND p.seq <= ? AND p.lat IS NOT NULL AND p.seq NOT IN (
      SELECT seq FROM verdicts WHERE seq >= ? AND seq <= ? AND decision = 'block')
    GROUP BY e.seq"""
