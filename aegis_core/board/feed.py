"""What the board knows: one short read-only opening of the database a tick."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aegis_core.schema import Decision
from aegis_core.store import Store
from aegis_core.store.session import Session

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

WINDOW: Final = 5_000
"""Verdicts in the scatter and in the bars."""
SEARCHED: Final = 200_000
"""Arrivals that a filter looks through, newest first."""
TABLE_ROWS: Final = 100
RATE_OVER_S: Final = 10.0
LABELS_EVERY_S: Final = 10.0
"""Counting ten million labels takes as long as everything else in a tick together."""
DECISIONS: Final = tuple(decision.label for decision in Decision)


@dataclass(frozen=True)
class Filters:
    """Which verdicts the pictures and the table show; `decision` "" means all."""

    decision: str = ""
    min_amount: float = 0.0

    def condition(self) -> tuple[str, list[object]]:
        """The SQL condition on `v` (verdicts) and `t` (transactions), with its parameters.

        >>> Filters("block").condition()
        ('v.decision = ?', ['block'])
        >>> Filters().condition()
        ('true', [])
        """
        parts: list[tuple[str, object]] = []
        if self.decision:
            parts.append(("v.decision = ?", self.decision))
        if self.min_amount > 0:
            parts.append(("t.amount >= ?", float(self.min_amount)))
        return " AND ".join(sql for sql, _ in parts) or "true", [value for _, value in parts]


@dataclass(frozen=True)
class Snapshot:
    """The state of the database at one moment, as far as the board shows it.

    Attributes
    ----------
    tally
        Number of verdicts by decision, whatever the filters.
    n_labelled, n_known_fraud
        Labels known by the time of the newest transaction, and how many of them are frauds.
    window
        Columns of the newest `WINDOW` verdicts that pass the filters, oldest first: `seq`,
        `scored_at` and `ts` (seconds since 1970, UTC), `hour` in [0, 24), `amount`, `travel`
        (nats), `distance` (km from the last place), `risk` in [0, 100], `score`, `decision` (as
        `schema.Decision`).
    rows
        The newest `TABLE_ROWS` of them for the table, newest first.
    origin
        Labels and values that lead from the newest verdict to the run that trained its model.
    """

    as_of: dt.datetime
    n_transactions: int = 0
    n_models: int = 0
    tally: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(DECISIONS, 0))
    rate_per_s: float = 0.0
    last_scored_at: dt.datetime | None = None
    n_labelled: int = 0
    n_known_fraud: int = 0
    window: Mapping[str, Floats] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    origin: list[tuple[str, str]] = field(default_factory=list)

    @property
    def n_verdicts(self) -> int:
        """Number of verdicts, whatever the filters."""
        return sum(self.tally.values())

    @property
    def alert_share(self) -> float:
        """Share of the verdicts that are not "approve", in [0, 1]; 0 without verdicts."""
        return 1 - self.tally["approve"] / self.n_verdicts if self.n_verdicts else 0.0


def utc_now() -> dt.datetime:
    """The time, UTC, without a time zone attached, as the database stores it."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


class Feed:
    """Reads snapshots; remembers what need not be read again, so that a tick stays cheap.

    The verdicts are counted once and then only the new ones; the pictures and the table are read
    again only when verdicts arrived or the filters changed.
    """

    def __init__(self, store: Store, *, now: Callable[[], dt.datetime] = utc_now) -> None:
        self.store = store
        self.now = now
        self._last = Snapshot(now())
        self._filters: Filters | None = None
        self._counted_to = -1
        self._labels_read_at: float | None = None

    def read(self, filters: Filters) -> Snapshot:
        """The state now, in one read-only opening.

        Raises
        ------
        StoreBusy
            A writer held the file for as long as the store waits.
        NotReady
            There is no database yet.
        """
        with self.store.reading() as session:
            session.with_one_thread()
            return self._read(session, filters)

    def _read(self, session: Session, filters: Filters) -> Snapshot:
        (sizes,) = _dicts(session.numpy(_SIZES))
        tally, newest = self._count(session, int(sizes["verdicts"]))
        moved = (tally, filters) != (self._last.tally, self._filters)
        now = self.now()
        recent = session.numpy(_RATE, [now - dt.timedelta(seconds=RATE_OVER_S)])
        n_labelled, n_known_fraud = self._count_labels(session)
        window = self._window(session, filters, newest) if moved else self._last.window
        self._last = Snapshot(
            as_of=now,
            n_transactions=int(sizes["transactions"]),
            n_models=int(sizes["models"]),
            tally=tally,
            rate_per_s=float(recent["n"][0]) / RATE_OVER_S,
            last_scored_at=sizes["last_scored_at"],
            n_labelled=n_labelled,
            n_known_fraud=n_known_fraud,
            window=window,
            rows=self._rows(session, window["seq"]) if moved else self._last.rows,
            origin=_origin(session, newest) if moved else self._last.origin,
        )
        self._filters = filters
        self._counted_to = newest
        return self._last

    def _count(self, session: Session, n_verdicts: int) -> tuple[dict[str, int], int]:
        """Verdicts by decision, and the `seq` of the newest; -1 without verdicts."""
        found = session.numpy(_TALLY, [self._counted_to])
        new = dict(zip(found["decision"], found["n"].astype(int), strict=True))
        tally = {name: self._last.tally[name] + int(new.get(name, 0)) for name in DECISIONS}
        newest = max([self._counted_to, *found["newest"].astype(int)])
        if sum(tally.values()) != n_verdicts and self._counted_to >= 0:
            # Older verdicts were added or removed, or this is another database: from the start.
            self._counted_to, self._labels_read_at = -1, None
            self._last = Snapshot(self.now())
            return self._count(session, n_verdicts)
        return tally, int(newest)

    def _count_labels(self, session: Session) -> tuple[int, int]:
        at = time.monotonic()
        if self._labels_read_at is not None and at - self._labels_read_at < LABELS_EVERY_S:
            return self._last.n_labelled, self._last.n_known_fraud
        self._labels_read_at = at
        (labels,) = _dicts(session.numpy(_LABELS))
        return int(labels["n"]), int(labels["n_fraud"])

    def _window(self, session: Session, filters: Filters, newest: int) -> dict[str, Floats]:
        condition, params = filters.condition()
        oldest = newest - (WINDOW if filters == Filters() else SEARCHED)
        found = session.numpy(_WINDOW.format(condition), [oldest, oldest, *params])
        columns = {name: values[::-1].astype(np.float64) for name, values in found.items()}
        return {**columns, "hour": columns["ts"] % 86_400 / 3_600}

    def _rows(self, session: Session, seqs: Floats) -> list[dict[str, Any]]:
        shown = [int(seq) for seq in seqs[-TABLE_ROWS:]]
        if not shown:
            return []
        return _dicts(session.numpy(_ROWS, [shown[0], shown[0], shown]))


_SIZES = """
    SELECT (SELECT count(*) FROM transactions) AS transactions,
           (SELECT count(*) FROM verdicts) AS verdicts,
           (SELECT max(scored_at) FROM verdicts) AS last_scored_at,
           (SELECT count(*) FROM models) AS models"""
_TALLY = """
    SELECT decision, count(*) AS n, max(seq) AS newest FROM verdicts WHERE seq > ? GROUP BY ALL"""
_RATE = "SELECT count(*) AS n FROM verdicts WHERE scored_at > ?"
_LABELS = """
    SELECT count(*) AS n, count(*) FILTER (WHERE is_fraud) AS n_fraud FROM labels
    WHERE known_at <= (SELECT max(ts) FROM transactions)"""
# Both tables are in order of seq, so the bound on both lets DuckDB skip all older rows.
_WINDOW = """
    SELECT seq, epoch(v.scored_at) AS scored_at, epoch(t.ts) AS ts, t.amount, v.risk, v.score,
           v.evidence.travel AS travel, v.distance_km AS distance,
           CASE v.decision WHEN 'approve' THEN 0 WHEN 'review' THEN 1 ELSE 2 END AS decision
    FROM verdicts v JOIN transactions t USING (seq)
    WHERE v.seq > ? AND t.seq > ? AND {} ORDER BY seq DESC LIMIT """ + str(WINDOW)
_ROWS = """
    SELECT seq, strftime(t.ts, '%Y-%m-%d %H:%M:%S') AS ts, transaction_id,
           left(t.customer_id, 80) AS customer_id, left(t.merchant_id, 80) AS merchant_id,
           left(t.category, 80) AS category, t.amount, t.currency, v.risk, v.decision,
           array_to_string([reason.text FOR reason IN v.reasons], ' · ') AS reasons
    FROM verdicts v JOIN transactions t USING (seq, transaction_id)
    WHERE v.seq >= ? AND t.seq >= ? AND seq IN (SELECT unnest(?)) ORDER BY seq DESC"""
_ORIGIN = """
    SELECT v.model_version, m.detector, m.n_train, m.run_id,
           m.data_hash, r.report_path,
           strftime(m.trained_from, '%Y-%m-%d') AS first_day,
           strftime(m.trained_to, '%Y-%m-%d') AS last_day
    FROM verdicts v LEFT JOIN models m ON m.version = v.model_version
                    LEFT JOIN runs r ON r.run_id = m.run_id
    WHERE v.seq = ?"""


def _dicts(columns: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """Columns as one dictionary of plain Python values a row.

    >>> _dicts({"seq": np.array([7, 8]), "merchant_id": np.array(["a", None], dtype=object)})
    [{'seq': 7, 'merchant_id': 'a'}, {'seq': 8, 'merchant_id': None}]
    """
    names = list(columns)
    return [
        dict(zip(names, row, strict=True))
        for row in zip(*(values.tolist() for values in columns.values()), strict=True)
    ]


def _origin(session: Session, newest: int) -> list[tuple[str, str]]:
    """Which model gave the newest verdict, and which run on which data trained it."""
    found = _dicts(session.numpy(_ORIGIN, [newest]))
    if not found:
        return []
    model = found[0]
    line = [("Verdicts by model", str(model["model_version"]))]
    if model["detector"] is None:
        return [*line, ("that is", "not in the table of models")]
    if model["n_train"]:
        days = f" of {model['first_day']} to {model['last_day']}" if model["first_day"] else ""
        line.append(("trained on", f"{model['n_train']:,.0f} transactions{days}"))
    line += [
        (label, str(model[name]))
        for label, name in (("in run", "run_id"), ("data", "data_hash"), ("report", "report_path"))
        if model[name]
    ]
    return line


def next_steps(snapshot: Snapshot | None) -> tuple[str, list[tuple[str, str]]]:
    """What is missing until there is something to see, and the commands that bring it.

    `None` stands for a database that does not exist yet. Empty when there are verdicts.

    >>> next_steps(None)[1][0]
    ('make run', 'does everything: synthetic data, training, a stream')
    >>> next_steps(Snapshot(utc_now(), n_transactions=9, n_models=1))[0]
    'There are no verdicts yet.'
    """
    if snapshot is None or not snapshot.n_transactions:
        return "There are no transactions yet.", [
            ("make run", "does everything: synthetic data, training, a stream"),
            ("aegis run generate", "makes synthetic transactions"),
            ("aegis import FILE", "reads your own, CSV or Parquet"),
        ]
    if snapshot.n_verdicts:
        return "", []
    stream = ("aegis run simulate", "sends a stream of transactions to the model")
    if not snapshot.n_models:
        train = ("aegis run train", "fits the first model on the history that is there")
        return "There is no model yet.", [train, stream]
    return "There are no verdicts yet.", [stream]
