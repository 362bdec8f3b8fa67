"""Synthetic payments: seeded customers and merchants, ordinary days, six kinds of fraud.

A `SyntheticConfig` describes an endless population, of which `generate` makes any range of days
and `stream` what comes after a given time. A day depends on the configuration and its number
alone, so a part equals the same days of the whole, whatever the chunks. The same configuration
gives the same bytes with the same versions of numpy and pyarrow.

All payments are made with a card at a terminal, in one currency, at the terminal's place. Clocks
are nautical: a place's local time is UTC plus its longitude / 15°, rounded to hours.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import pyarrow as pa

from aegis_core.errors import InputError, did_you_mean
from aegis_core.geo import haversine_km
from aegis_core.schema import SCENARIOS

if TYPE_CHECKING:
    import pandas as pd

CITIES: Final = (
    ("Paris", 48.857, 2.352, 5.0),
    ("London", 51.507, -0.128, 4.0),
    ("Berlin", 52.520, 13.405, 3.7),
    ("Madrid", 40.417, -3.704, 3.3),
    ("Rome", 41.903, 12.496, 2.8),
    ("Barcelona", 41.387, 2.170, 2.5),
    ("Milan", 45.464, 9.190, 2.0),
    ("New York", 40.713, -74.006, 2.0),
    ("Hamburg", 53.551, 9.994, 1.9),
    ("Vienna", 48.208, 16.373, 1.9),
    ("Warsaw", 52.230, 21.012, 1.8),
    ("Munich", 48.137, 11.576, 1.5),
    ("Budapest", 47.498, 19.040, 1.5),
    ("Athens", 37.984, 23.728, 1.5),
    ("Istanbul", 41.008, 28.978, 1.5),
    ("Prague", 50.075, 14.438, 1.3),
    ("Amsterdam", 52.368, 4.904, 1.2),
    ("Brussels", 50.847, 4.352, 1.2),
    ("Dublin", 53.350, -6.260, 1.2),
    ("Lisbon", 38.722, -9.139, 1.2),
    ("Lyon", 45.764, 4.836, 1.2),
    ("Cologne", 50.938, 6.960, 1.1),
    ("Marseille", 43.296, 5.370, 1.0),
    ("Naples", 40.852, 14.268, 1.0),
    ("Helsinki", 60.170, 24.938, 1.0),
    ("Stockholm", 59.329, 18.069, 1.0),
    ("Toronto", 43.653, -79.383, 1.0),
    ("Sao Paulo", -23.551, -46.633, 1.0),
    ("Tokyo", 35.677, 139.692, 1.0),
    ("Copenhagen", 55.676, 12.568, 0.9),
    ("Frankfurt", 50.110, 8.682, 0.8),
    ("Dubai", 25.205, 55.271, 0.8),
    ("Mumbai", 19.076, 72.878, 0.8),
    ("Bangkok", 13.756, 100.502, 0.8),
    ("Singapore", 1.352, 103.820, 0.8),
    ("Mexico City", 19.433, -99.133, 0.8),
    ("Seoul", 37.567, 126.978, 0.7),
    ("Buenos Aires", -34.604, -58.382, 0.6),
    ("Sydney", -33.869, 151.209, 0.6),
    ("Cape Town", -33.925, 18.424, 0.4),
)
"""Name, latitude, longitude and weight of the cities where people live, buy and travel to."""

CATEGORIES: Final = (
    ("groceries", 0.30, 24.0, 0.55),
    ("restaurant", 0.16, 22.0, 0.50),
    ("transit", 0.15, 3.6, 0.35),
    ("fuel", 0.09, 48.0, 0.35),
    ("vending", 0.07, 2.6, 0.30),
    ("entertainment", 0.07, 27.0, 0.50),
    ("health", 0.06, 30.0, 0.55),
    ("fashion", 0.05, 60.0, 0.55),
    ("electronics", 0.03, 140.0, 0.55),
    ("hotel", 0.02, 190.0, 0.45),
)
"""Name, share of the merchants' traffic, median amount, standard deviation of its logarithm."""

CHANNELS: Final = (("chip", 0.50), ("contactless", 0.40), ("wallet", 0.10))
"""How the card was read, and how often. The same for fraud: it tells nothing."""

DEFAULT_RATES: Final[Mapping[str, float]] = {
    "spike": 0.0007,
    "travel": 0.0007,
    "night": 0.0007,
    "burst": 0.0014,
    "merchant": 0.0009,
    "takeover": 0.0006,
}
"""Share of all transactions that each scenario makes up: together 0.5 %."""

HOURLY: Final = (
    *(0.3, 0.1, 0.06, 0.05, 0.06, 0.2, 1.0, 2.5, 4.0, 4.5, 5.0, 6.0),
    *(9.0, 8.0, 5.0, 4.5, 5.0, 6.5, 8.0, 7.5, 5.0, 3.5, 2.0, 1.0),
)
"""How much is bought in each local hour by most people: a peak at lunch, little after midnight."""

WEEKDAYS: Final = (0.95, 0.95, 1.0, 1.0, 1.15, 1.2, 0.75)
"""How much is bought on each day of the week, from Monday."""

NIGHT: Final = (1.0, 4.0)
"""Local hours from and until which `night` fraud happens."""

BURST_SIZES: Final = (50, 80)
"""Fewest and most transactions of one `burst`."""

TAKEOVER_SIZE: Final = 5
"""Transactions of one `takeover`."""

TRAVEL_FROM_KM: Final = 800.0
TRAVEL_KMH: Final = 1_500.0
"""How far and how fast a `travel` fraud is at least, from centre to centre of the cities."""

_SECOND: Final = 1_000_000  # in microseconds, the unit of every time below
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_FLIGHT_KMH: Final = 850.0
_AIRPORT_H: Final = 2.0
_FARTHEST_TRIP_KM: Final = 12_000.0  # so that a flight with its airports fits into a day
_TRIP_BLOCK: Final = 30  # days; a trip lies within one block
_COMPROMISED_BLOCK: Final = 10  # days for which a merchant stays compromised
_FRAUDS_A_MERCHANT: Final = 40
_FAVOURITES: Final = 8
_ORDINARY: Final = -1
_WRITTEN_ROWS: Final = 1_000_000  # at most; DuckDB writes such batches past its log

_SHARE, _MEDIAN, _SIGMA = (
    np.array([row[i] for row in CATEGORIES], dtype=np.float64) for i in (1, 2, 3)
)
_LEVEL: Final = np.log(_MEDIAN)
_CITY_LAT, _CITY_LON, _CITY_WEIGHT = (
    np.array([row[i] for row in CITIES], dtype=np.float64) for i in (1, 2, 3)
)
_OFFSET_H: Final = np.round(_CITY_LON / 15)
_HOURLY_CDF: Final = np.concatenate([[0.0], np.cumsum(HOURLY) / np.sum(HOURLY)])


@dataclass(frozen=True)
class SyntheticConfig:
    """The knobs of a synthetic population and its history.

    Parameters
    ----------
    n_transactions
        Transactions in the history, exactly. Later days go on at the same pace.
    n_customers, n_merchants
        At least 1 each.
    start
        First day (UTC), such as `"2026-01-01"`.
    days
        Length of the history.
    seed
        Another seed is another population.
    rates
        Share of all transactions that each of `schema.SCENARIOS` makes up; one not named is 0.
        Met to the nearest incident, so that little data may hold no burst.
    label_delay_days
        Days from a transaction until its label is known.

    Raises
    ------
    InputError
        A value is out of range; the message says which and what to do.

    >>> SyntheticConfig(days=30, start="2026-03-01").end
    datetime.datetime(2026, 3, 31, 0, 0)
    """

    n_transactions: int = 500_000
    n_customers: int = 5_000
    n_merchants: int = 2_000
    start: str = "2026-01-01"
    days: int = 90
    seed: int = 0
    rates: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_RATES))
    label_delay_days: float = 7.0

    def __post_init__(self) -> None:
        for name, most in (
            ("n_transactions", 2_000_000_000),
            ("n_customers", 20_000_000),
            ("n_merchants", 5_000_000),
            ("days", 36_500),
        ):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise InputError(f"{name} is {value}; give a whole number from 1 to {most:,}.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; give a whole number from 0.")
        if not 0 <= self.label_delay_days <= 3650:
            raise InputError(
                f"label_delay_days is {self.label_delay_days}; give a number from 0 to 3650."
            )
        try:
            dt.date.fromisoformat(self.start)
        except ValueError:
            raise InputError(f"start is {self.start!r}; give a day such as 2026-01-01.") from None
        for name, rate in self.rates.items():
            if name not in SCENARIOS:
                raise InputError(
                    f"There is no scenario {name!r}; there are {', '.join(SCENARIOS)}."
                    + did_you_mean(name, SCENARIOS)
                )
            if not 0 <= rate <= 0.5:
                raise InputError(
                    f"The rate of {name} is {rate:.3g}; give a share of all transactions from 0 "
                    "to 0.5, or a smaller multiplier."
                )
        if (total := sum(self.rates.values())) > 0.5:
            raise InputError(
                f"The fraud rates add up to {total:.3g}; at least half of the transactions must "
                "stay ordinary. Lower the rates, or the multiplier, until the sum is 0.5 or less."
            )

    @property
    def end(self) -> dt.datetime:
        """The first moment after the history (UTC)."""
        return dt.datetime.fromisoformat(self.start) + dt.timedelta(days=self.days)

    def to_json(self) -> str:
        """All knobs as text, the same for equal configurations."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SyntheticConfig:
        """The configuration that `to_json` wrote.

        >>> SyntheticConfig.from_json(SyntheticConfig(seed=3).to_json()) == SyntheticConfig(seed=3)
        True
        """
        return cls(**json.loads(text))


def generate(
    config: SyntheticConfig,
    first_day: int = 0,
    n_days: int | None = None,
    *,
    chunk_rows: int = 250_000,
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Transactions and their labels, in chunks of whole days, ordered by `ts` over all chunks.

    Parameters
    ----------
    first_day, n_days
        The days wanted, counted from `config.start`; None means until the history's end. Days
        after the history exist too.
    chunk_rows
        A chunk ends with the first day on which it has at least so many rows. It changes where
        chunks end, nothing else.

    Yields
    ------
    transactions
        The columns of the table `transactions` without `seq`.
    labels
        One row a transaction, ordinary ones too, known `label_delay_days` after it.

    >>> config = SyntheticConfig(n_transactions=1_000, n_customers=20, days=10)
    >>> [(t.num_rows, labels.num_rows) for t, labels in generate(config)]
    [(1000, 1000)]
    """
    if n_days is None:
        n_days = max(0, config.days - first_day)
    if first_day < 0 or n_days < 0:
        raise InputError(
            f"first_day is {first_day} and n_days {n_days}; neither may be below 0. The history "
            f"has the days 0 to {config.days - 1}."
        )
    world = _world(config)
    waiting: list[tuple[pa.Table, pa.Table]] = []
    n_waiting = 0
    for day in range(first_day, first_day + n_days):
        if day == first_day or day % config.days == 0:
            plan = _plan(config, day // config.days)
        if day == first_day or day % _TRIP_BLOCK == 0:
            trips = _trips(world, config.seed, day // _TRIP_BLOCK)
        waiting.append(_one_day(config, world, trips, plan, day))
        n_waiting += waiting[-1][0].num_rows
        if n_waiting and (n_waiting >= chunk_rows or day == first_day + n_days - 1):
            transactions, labels = zip(*waiting, strict=True)
            yield pa.concat_tables(transactions), pa.concat_tables(labels)
            waiting, n_waiting = [], 0


def stream(
    config: SyntheticConfig,
    n_transactions: int,
    *,
    after: dt.datetime | None = None,
    fraud_multiplier: float = 1.0,
    chunk_rows: int = 1,
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The next transactions of the same population, from the first day that begins after `after`.

    Parameters
    ----------
    n_transactions
        How many, exactly.
    after
        The last time that is already there (UTC); None means the end of the history.
    fraud_multiplier
        Every rate times this, so that a short demonstration has something to show.
    chunk_rows
        As in `generate`; 1 means a chunk a day.

    >>> config = SyntheticConfig(n_transactions=1_000, n_customers=20, days=10)
    >>> sum(t.num_rows for t, _ in stream(config, 250))
    250
    """
    if not 0 <= fraud_multiplier < float("inf"):
        raise InputError(f"fraud_multiplier is {fraud_multiplier}; give a number from 0.")
    if n_transactions < 0:
        raise InputError(f"n_transactions is {n_transactions}; give a whole number from 0.")
    rates = {name: rate * fraud_multiplier for name, rate in config.rates.items()}
    config = replace(config, rates=rates)
    day = config.days
    if after is not None:
        day = max(day, (after - dt.datetime.fromisoformat(config.start)).days + 1)
    left = n_transactions
    while left > 0:
        for transactions, labels in generate(config, day, config.days, chunk_rows=chunk_rows):
            yield transactions.slice(0, left), labels.slice(0, left)
            left -= min(left, transactions.num_rows)
            if not left:
                return
        day += config.days


class _Session(Protocol):
    """What `write_history` needs of `store.Session`."""

    def execute(self, sql: str, params: Any = None) -> Any: ...
    def append(self, table: str, rows: Any) -> int: ...
    def next_seq(self) -> int: ...


class _Database(Protocol):
    """What `write_history` needs of `store.Store`."""

    def writing(self) -> AbstractContextManager[_Session]: ...


def write_history(store: _Database, config: SyntheticConfig, *, progress: bool = True) -> int:
    """Write the history into an empty database, all or nothing; the number of rows written.

    It is 0 when the same configuration has already been written there. The configuration is kept
    in `meta`, from where `history_config` reads it.

    Raises
    ------
    InputError
        The database holds other transactions.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    with store.writing() as session:
        if there := session.next_seq():
            _require_same(config, _kept(session), there)
            return 0
        n = config.n_transactions
        with tqdm(total=n, unit="row", unit_scale=True, disable=not progress) as bar:
            for transactions, labels in generate(config, chunk_rows=min(n // 20, _WRITTEN_ROWS)):
                seq = np.arange(there, there + transactions.num_rows)
                session.append("transactions", transactions.add_column(0, "seq", pa.array(seq)))
                session.append("labels", labels)
                there += transactions.num_rows
                bar.update(transactions.num_rows)
        session.execute("INSERT INTO meta VALUES ('synthetic', ?)", [config.to_json()])
        return there


def history_config(session: _Session) -> SyntheticConfig | None:
    """The configuration whose history this database holds; None when it holds other data."""
    text = _kept(session)
    return SyntheticConfig.from_json(text) if text else None


def rule_scores(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """What simple rules say, higher is more suspicious: a yardstick for the difficulty audit.

    Computed plainly and on its own, from whole columns; the detector's evidence is not made here.
    Five scores rank all transactions, four fixed rules (`rule: ...`) fire or not, in {0, 1}.

    Parameters
    ----------
    frame
        Columns customer_id, ts, amount, lat, lon.

    >>> import pandas as pd
    >>> ts = pd.to_datetime(["2026-01-01 12:00:00", "2026-01-01 12:00:30"])
    >>> frame = pd.DataFrame({"customer_id": ["a", "a"], "ts": ts, "amount": [10.0, 30.0]})
    >>> scores = rule_scores(frame.assign(lat=50.0, lon=8.0))
    >>> scores["amount / mean"].tolist(), scores["count in 1 min"].tolist()
    ([1.0, 3.0], [1.0, 2.0])
    """
    import pandas as pd

    customer = pd.factorize(frame["customer_id"])[0].astype(np.int64)
    ts = frame["ts"].to_numpy("datetime64[us]").astype(np.int64)
    order = np.lexsort((ts, customer))
    customer, ts = customer[order], ts[order]
    amount, lat, lon = (
        frame[name].to_numpy(np.float64)[order] for name in ("amount", "lat", "lon")
    )
    n = len(order)
    start = np.searchsorted(customer, customer)  # each row's first row of the same customer
    earlier = np.arange(n) - start
    total = np.concatenate([[0.0], np.cumsum(amount)])
    mean = (total[:-1] - total[start]) / np.maximum(earlier, 1)
    ratio = np.where(earlier > 0, amount / np.maximum(mean, 0.01), 1.0)
    before = np.maximum(np.arange(n) - 1, 0)
    placed = np.isfinite(lat) & np.isfinite(lon)
    lat, lon = np.nan_to_num(lat), np.nan_to_num(lon)
    moved = placed & placed[before] & (earlier > 0)
    km = np.where(moved, haversine_km(lat[before], lon[before], lat, lon), 0.0)
    speed = km / (np.maximum(ts - ts[before], _SECOND) / _HOUR)
    local_h = (ts / _HOUR + np.round(lon / 15)) % 24
    night = (local_h >= NIGHT[0]) & (local_h < NIGHT[1])
    from_night = np.abs((local_h - 2.5 + 12) % 24 - 12)
    ms = (ts - ts.min()) // 1000 if n else ts
    key = customer * (int(ms.max(initial=0)) + 120_000) + ms
    count = np.arange(n) - np.searchsorted(key, key - 60_000) + 1.0
    sorted_scores = {
        "amount": amount,
        "amount / mean": ratio,
        "speed": speed,
        "hour": -from_night,
        "count in 1 min": count,
        "rule: amount > 10 x mean": ratio > 10,
        "rule: speed > 1,000 km/h": speed > 1_000,
        "rule: 1-4 AM, > 3 x mean": night & (ratio > 3),
        "rule: 10 in 1 min": count >= 10,
    }
    scores = {name: np.empty(n) for name in sorted_scores}
    for name, values in sorted_scores.items():
        scores[name][order] = values
    return scores


def audit(frame: pd.DataFrame) -> pd.DataFrame:
    """Average precision of every rule of `rule_scores`, for all fraud and for each scenario.

    A scenario is judged against the ordinary transactions alone. The last row, `floor`, is the
    share of fraud: what a random order reaches. 1 is a perfect order.

    Parameters
    ----------
    frame
        Columns customer_id, ts, amount, lat, lon, is_fraud, scenario.
    """
    import pandas as pd
    from sklearn.metrics import average_precision_score

    fraud = frame["is_fraud"].to_numpy(bool)
    scenario = frame["scenario"].to_numpy(object)
    if not fraud.any():
        return pd.DataFrame({"all": [0.0]}, index=["floor"])
    slices = {"all": np.ones(len(frame), dtype=bool)}
    slices |= {s: ~fraud | (scenario == s) for s in SCENARIOS if (scenario == s).any()}
    table: dict[str, list[float]] = {}
    for rule, score in rule_scores(frame).items():
        table[rule] = [
            average_precision_score(fraud[rows], score[rows]) for rows in slices.values()
        ]
    table["floor"] = [float(fraud[rows].mean()) for rows in slices.values()]
    return pd.DataFrame.from_dict(table, orient="index", columns=list(slices))


def bottom_line(precision: pd.DataFrame) -> str:
    """What `audit` found, in a sentence.

    >>> import pandas as pd
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


# --- the population -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Groups:
    """Members with weights, sorted by group; a group without members stands for all of them."""

    cumulative: np.ndarray  # n_members + 1
    first: np.ndarray  # per group
    last: np.ndarray

    @classmethod
    def of(cls, group: np.ndarray, weight: np.ndarray, n_groups: int) -> _Groups:
        first = np.searchsorted(group, np.arange(n_groups))
        last = np.searchsorted(group, np.arange(n_groups), side="right")
        empty = first == last
        return cls(
            np.concatenate([[0.0], np.cumsum(weight)]),
            np.where(empty, 0, first),
            np.where(empty, len(group), last),
        )

    def pick(self, group: np.ndarray, u: np.ndarray) -> np.ndarray:
        """A member of each given group, by weight, from uniform numbers in [0, 1)."""
        low, high = self.cumulative[self.first[group]], self.cumulative[self.last[group]]
        found = np.searchsorted(self.cumulative, low + u * (high - low), side="right") - 1
        member: np.ndarray = np.clip(found, self.first[group], self.last[group] - 1)
        return member


@dataclass(frozen=True)
class _World:
    """Customers and merchants, both sorted by city."""

    customers: _Groups
    home: np.ndarray  # city of each customer
    income: np.ndarray  # log of the factor on every amount
    taste: np.ndarray  # (n_customers, n_categories), log of the factor on a category
    shift_h: np.ndarray  # how much later than most a customer lives
    wanderlust: np.ndarray  # chance of a trip in a block
    favourites: np.ndarray  # (n_customers, _FAVOURITES) merchants
    merchants: _Groups
    seat: np.ndarray  # city of each merchant
    category: np.ndarray
    d_lat: np.ndarray  # from the city's centre
    d_lon: np.ndarray
    away_km: np.ndarray  # (n_cities, n_cities)
    customer_ids: pa.Array
    merchant_ids: pa.Array


@dataclass(frozen=True)
class _Trips:
    """At most one trip a customer in a block of days; `first` is -1 without one."""

    first: np.ndarray
    last: np.ndarray
    to: np.ndarray
    gap: np.ndarray  # share of a day spent in the air and at airports
    leaves: np.ndarray  # share of the day at which the gap begins, on both travelling days
    returns: np.ndarray


@dataclass
class _Rows:
    """Some transactions of one day."""

    customer: np.ndarray
    city: np.ndarray
    merchant: np.ndarray
    t: np.ndarray  # microseconds from midnight UTC
    amount: np.ndarray
    scenario: np.ndarray  # index into SCENARIOS, or _ORDINARY

    def __len__(self) -> int:
        return len(self.t)

    def take(self, index: np.ndarray) -> _Rows:
        return _Rows(**{name: column[index] for name, column in vars(self).items()})

    @staticmethod
    def joined(parts: list[_Rows]) -> _Rows:
        return _Rows(
            **{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
        )


def _rng(seed: int, use: str, number: int = 0) -> np.random.Generator:
    """An independent source for each use, so that no use disturbs another."""
    return np.random.default_rng([seed, int.from_bytes(use.encode()), number])


def _world(config: SyntheticConfig) -> _World:
    n, m, n_cities = config.n_customers, config.n_merchants, len(CITIES)
    away_km = haversine_km(_CITY_LAT[:, None], _CITY_LON[:, None], _CITY_LAT, _CITY_LON)

    rng = _rng(config.seed, "merchants")
    settled = min(m, n_cities)  # with few merchants, people live in the largest cities only
    share = _CITY_WEIGHT[:settled] / _CITY_WEIGHT[:settled].sum()
    seat = np.sort(np.concatenate([np.arange(settled), rng.choice(settled, m - settled, p=share)]))
    category = rng.choice(len(CATEGORIES), m, p=_SHARE / _SHARE.sum())
    merchants = _Groups.of(seat, rng.lognormal(0.0, 1.0, m), n_cities)
    d_lat, d_lon = rng.normal(0.0, 0.04, (2, m))

    rng = _rng(config.seed, "customers")
    home = np.sort(rng.choice(settled, n, p=share))
    kind = rng.random(n)
    shift_h = np.select(
        [kind < 0.04, kind < 0.14],  # night-shift workers, night owls
        [rng.normal(11.0, 1.0, n), rng.normal(2.5, 0.5, n)],
        rng.normal(0.0, 0.8, n),
    )
    # The nearest of three to one's home, eight times: people buy where they live.
    lat, lon = rng.normal(0.0, 0.05, (2, n, 1, 1))
    choice = merchants.pick(home[:, None, None], rng.random((n, _FAVOURITES, 3)))
    nearest = np.argmin((d_lat[choice] - lat) ** 2 + (d_lon[choice] - lon) ** 2, axis=2)
    favourites = np.take_along_axis(choice, nearest[:, :, None], axis=2)[:, :, 0]
    return _World(
        customers=_Groups.of(home, rng.gamma(1.5, 1.0, n) + 0.05, n_cities),
        home=home,
        income=rng.normal(0.0, 0.45, n),
        taste=rng.normal(0.0, 0.2, (n, len(CATEGORIES))),
        shift_h=shift_h,
        wanderlust=rng.beta(1.0, 5.0, n),
        favourites=favourites,
        merchants=merchants,
        seat=seat,
        category=category,
        d_lat=d_lat,
        d_lon=d_lon,
        away_km=away_km,
        customer_ids=pa.array([f"C{i:06d}" for i in rng.permutation(n)]),
        merchant_ids=pa.array([f"M{i:05d}" for i in _rng(config.seed, "names").permutation(m)]),
    )


def _plan(config: SyntheticConfig, period: int) -> dict[str, np.ndarray]:
    """How many of each kind on each day of one period as long as the history.

    A burst and a takeover count as one; the sizes of bursts are in `sizes`, in the order of days.
    """
    rng = _rng(config.seed, "plan", period)
    n = config.n_transactions
    first = dt.date.fromisoformat(config.start).weekday() + period * config.days
    weight = np.take(WEEKDAYS, (first + np.arange(config.days)) % 7)
    weight = weight / weight.sum()
    totals = {name: round(config.rates.get(name, 0.0) * n) for name in SCENARIOS}
    # Whole incidents, to the nearest; a first burst already for 40 % of one.
    totals["burst"] = int(totals["burst"] / np.mean(BURST_SIZES) + 0.6)
    totals["takeover"] = round(totals["takeover"] / TAKEOVER_SIZE)
    sizes = rng.integers(BURST_SIZES[0], BURST_SIZES[1] + 1, totals["burst"])
    of_incidents = int(sizes.sum()) + TAKEOVER_SIZE * totals["takeover"]
    singles = sum(totals[name] for name in ("spike", "travel", "night", "merchant"))
    totals["ordinary"] = n - of_incidents - singles
    if totals["ordinary"] < 0:
        raise InputError(
            f"{n} transactions are too few for these fraud rates: whole bursts and takeovers would "
            f"take {of_incidents}. Raise n_transactions or lower the rate of burst."
        )
    return {name: rng.multinomial(total, weight) for name, total in totals.items()} | {
        "sizes": sizes
    }


def _trips(world: _World, seed: int, block: int) -> _Trips:
    rng = _rng(seed, "trips", block)
    n = len(world.home)
    odds = _CITY_WEIGHT * (np.exp(-world.away_km / 2_500) + 0.1)
    odds[(world.away_km == 0) | (world.away_km > _FARTHEST_TRIP_KM)] = 0
    cdf = np.cumsum(odds, axis=1) / odds.sum(axis=1, keepdims=True)
    to = np.empty(n, dtype=np.int64)
    u = rng.random(n)
    for city in np.unique(world.home):
        here = world.home == city
        to[here] = np.searchsorted(cdf[city], u[here], side="right")
    n_days = rng.integers(2, 11, n)
    first = (rng.random(n) * (_TRIP_BLOCK + 1 - n_days)).astype(np.int64)
    gap = (world.away_km[world.home, to] / _FLIGHT_KMH + _AIRPORT_H) / 24
    goes = rng.random(n) < world.wanderlust
    leaves, returns = rng.random((2, n)) * (1 - gap)
    return _Trips(
        first=np.where(goes, first + block * _TRIP_BLOCK, -1),
        last=np.where(goes, first + n_days - 1 + block * _TRIP_BLOCK, -2),
        to=to,
        gap=gap,
        leaves=leaves,
        returns=returns,
    )


# --- one day --------------------------------------------------------------------------------


def _one_day(
    config: SyntheticConfig,
    world: _World,
    trips: _Trips,
    plan: dict[str, np.ndarray],
    day: int,
) -> tuple[pa.Table, pa.Table]:
    of_period = day % config.days
    count = {name: int(plan[name][of_period]) for name in (*SCENARIOS, "ordinary")}
    # An impossible journey starts at an ordinary purchase; where there is none, it stays one.
    journeys = min(count["travel"], count["ordinary"])
    count["ordinary"] += count["travel"] - journeys
    count["travel"] = journeys
    first_burst = int(plan["burst"][:of_period].sum())
    sizes = plan["sizes"][first_burst : first_burst + count["burst"]]

    ordinary = _ordinary(world, trips, day, count["ordinary"], _rng(config.seed, "ordinary", day))
    parts = [ordinary]
    for number, name in enumerate(SCENARIOS):
        if count[name]:
            rng, n = _rng(config.seed, name, day), count[name]
            if name == "travel":
                start = rng.choice(len(ordinary), n, replace=False)
                rows = _travel(world, ordinary.take(start), rng)
            elif name == "merchant":
                rows = _compromised(config, world, day, n, rng)
            elif name == "takeover":
                rows = _takeover(world, _purchases(world, trips, day, n, rng), rng)
            elif name == "burst":
                rows = _burst(_purchases(world, trips, day, n, rng), sizes, rng)
            elif name == "night":
                rows = _night(world, _purchases(world, trips, day, n, rng), rng)
            else:
                rows = _spike(world, _purchases(world, trips, day, n, rng), rng)
            rows.scenario = np.full(len(rows), number, dtype=np.int8)
            parts.append(rows)
    rows = _Rows.joined(parts)
    return _tables(config, world, rows.take(np.argsort(rows.t, kind="stable")), day)


def _purchases(world: _World, trips: _Trips, day: int, n: int, rng: np.random.Generator) -> _Rows:
    """Who buys where and when on an ordinary day; amounts are still to come."""
    total = world.customers.cumulative[-1]
    customer = np.searchsorted(world.customers.cumulative, rng.random(n) * total, side="right") - 1
    customer = np.minimum(customer, len(world.home) - 1)
    home, to = world.home[customer], trips.to[customer]
    leaving, returning = trips.first[customer] == day, trips.last[customer] == day
    away = (trips.first[customer] < day) & (day < trips.last[customer])

    local = np.interp(rng.random(n), _HOURLY_CDF, np.arange(25.0)) + world.shift_h[customer]
    x = (local - _OFFSET_H[np.where(away, to, home)]) / 24 % 1.0
    # On a travelling day the day is squeezed around the gap in which nothing is bought.
    gap = np.where(leaving | returning, trips.gap[customer], 0.0)
    begins = np.where(leaving, trips.leaves[customer], trips.returns[customer])
    x = x * (1 - gap)
    landed = x >= begins
    x = x + gap * landed
    away |= (leaving & landed) | (returning & ~landed)
    city = np.where(away, to, home)

    merchant = world.merchants.pick(city, rng.random(n))
    favourite = world.favourites[customer, rng.integers(0, _FAVOURITES, n)]
    merchant = np.where(~away & (rng.random(n) < 0.75), favourite, merchant)
    return _Rows(customer, city, merchant, _microseconds(x), np.zeros(n), np.zeros(n, np.int8))


def _ordinary(world: _World, trips: _Trips, day: int, n: int, rng: np.random.Generator) -> _Rows:
    n_more = n // 50  # a second coffee, a ticket for each child: soon after, at the same place
    rows = _purchases(world, trips, day, n - n_more, rng)
    # What is bought within five minutes is bought at one place, since nobody beams about town.
    order = np.argsort(rows.customer * _DAY + rows.t, kind="stable")
    near = np.diff(rows.t[order], prepend=-_DAY) < 5 * _MINUTE
    near &= np.diff(rows.customer[order], prepend=-1) == 0
    leader = np.maximum.accumulate(np.where(near, 0, np.arange(len(order))))
    rows.merchant[order] = rows.merchant[order][leader]
    if n_more:
        first = rng.integers(0, len(rows), n_more // 4 + 1)
        more = rows.take(first[(len(first) * rng.random(n_more) ** 1.5).astype(np.int64)])
        later = (rng.uniform(4, 180, n_more) * _SECOND).astype(np.int64)
        more.t = np.minimum(more.t + later, _DAY - 1)
        rows = _Rows.joined([rows, more])
    rows.amount = _amounts(world, rows, rng)
    dear = rng.random(n) < 0.003  # a sofa, a ring, a birthday
    rows.amount[dear] *= _between(rng, 3, 7, int(dear.sum()))
    rows.scenario = np.full(n, _ORDINARY, dtype=np.int8)
    return rows


def _amounts(world: _World, rows: _Rows, rng: np.random.Generator) -> np.ndarray:
    category = world.category[rows.merchant]
    level = _LEVEL[category] + world.income[rows.customer] + world.taste[rows.customer, category]
    level = level + 0.25 * (rows.city != world.home[rows.customer])  # people spend more abroad
    amount: np.ndarray = np.exp(level + _SIGMA[category] * rng.standard_normal(len(rows)))
    return amount


def _usual(world: _World, rows: _Rows) -> np.ndarray:
    """The customer's usual amount there, at least their usual amount anywhere."""
    category = world.category[rows.merchant]
    there = _LEVEL[category] + world.taste[rows.customer, category]
    anywhere = float(_SHARE @ _LEVEL / _SHARE.sum())
    usual: np.ndarray = np.exp(np.maximum(there, anywhere) + world.income[rows.customer])
    return usual


def _between(rng: np.random.Generator, low: float, high: float, n: int) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), n))


def _microseconds(days: np.ndarray) -> np.ndarray:
    """The time of day, in microseconds, of any number of days."""
    t: np.ndarray = np.minimum((days % 1 * _DAY).astype(np.int64), _DAY - 1)
    return t


def _spike(world: _World, rows: _Rows, rng: np.random.Generator) -> _Rows:
    """Far above what the customer usually pays."""
    rows.amount = _usual(world, rows) * _between(rng, 8, 30, len(rows))
    return rows


def _night(world: _World, rows: _Rows, rng: np.random.Generator) -> _Rows:
    """Above the usual, at an hour at which most people sleep."""
    rows.t = _microseconds((rng.uniform(*NIGHT, len(rows)) - _OFFSET_H[rows.city]) / 24)
    rows.amount = _usual(world, rows) * _between(rng, 4, 15, len(rows))
    return rows


def _travel(world: _World, rows: _Rows, rng: np.random.Generator) -> _Rows:
    """The card is used far away, minutes after its holder used it."""
    far = world.away_km[rows.city] >= TRAVEL_FROM_KM
    nth = (rng.random(len(rows)) * far.sum(axis=1)).astype(np.int64)
    city = np.argmax(np.cumsum(far, axis=1) > nth[:, None], axis=1)
    minutes = rng.uniform(2, 40, len(rows))
    minutes = np.minimum(minutes, world.away_km[rows.city, city] / TRAVEL_KMH * 60)
    rows.t = np.minimum(rows.t + (minutes * _MINUTE).astype(np.int64), _DAY - 1)
    rows.merchant = world.merchants.pick(city, rng.random(len(rows)))
    rows.amount = _amounts(world, rows, rng) * _between(rng, 1, 3, len(rows))
    rows.city = city
    return rows


def _burst(rows: _Rows, sizes: np.ndarray, rng: np.random.Generator) -> _Rows:
    """Card testing: small amounts at one terminal, a few a second."""
    pace = np.repeat(_between(rng, 0.08, 0.4, len(rows)) * _SECOND, sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows.t = np.minimum(rows.t, _DAY - _MINUTE)
    rows = rows.take(np.repeat(np.arange(len(sizes)), sizes))
    elapsed = np.cumsum(pace * rng.uniform(0.3, 1.7, len(rows)))
    rows.t = rows.t + (elapsed - elapsed[first]).astype(np.int64)
    rows.amount = _between(rng, 0.5, 8, len(rows))
    return rows


def _takeover(world: _World, rows: _Rows, rng: np.random.Generator) -> _Rows:
    """Somebody else spends for some hours: a bit much, some at night, away or in haste."""
    m = len(rows)
    night, elsewhere, haste = rng.random((3, m)) < np.array([[0.2], [0.3], [0.3]])
    local = rng.uniform(*NIGHT, m) - _OFFSET_H[rows.city]
    rows.t = np.where(night, _microseconds(local / 24), rows.t)
    near = np.argsort(world.away_km, axis=1, kind="stable")[:, 1:6]
    rows.city = np.where(elsewhere, near[rows.city, rng.integers(0, 5, m)], rows.city)
    wait_min = np.where(haste, 0.5, 20.0)[:, None] * rng.lognormal(0, 1, (m, TAKEOVER_SIZE))
    elapsed = np.cumsum(wait_min, axis=1) * _MINUTE
    room = (_DAY - 1 - rows.t)[:, None]
    elapsed *= np.minimum(1, room / elapsed[:, -1:])
    rows = rows.take(np.repeat(np.arange(m), TAKEOVER_SIZE))
    rows.t = rows.t + elapsed.ravel().astype(np.int64)
    rows.merchant = world.merchants.pick(rows.city, rng.random(len(rows)))
    rows.amount = _amounts(world, rows, rng) * _between(rng, 1.5, 4, len(rows))
    return rows


def _compromised(
    config: SyntheticConfig, world: _World, day: int, n: int, rng: np.random.Generator
) -> _Rows:
    """Cards cloned at a merchant: purchases there like any other, by people who live there."""
    block = _rng(config.seed, "compromised", day // _COMPROMISED_BLOCK)
    lived_in = np.isin(world.seat, world.home)
    odds = np.diff(world.merchants.cumulative) * lived_in
    rate = config.rates["merchant"] * config.n_transactions / config.days
    n_bad = min(int(np.ceil(rate * _COMPROMISED_BLOCK / _FRAUDS_A_MERCHANT)), int(lived_in.sum()))
    bad = block.choice(len(odds), n_bad, replace=False, p=odds / odds.sum())
    merchant = rng.choice(bad, n)
    city = world.seat[merchant]
    customer = world.customers.pick(city, rng.random(n))
    local = np.interp(rng.random(n), _HOURLY_CDF, np.arange(25.0)) + world.shift_h[customer]
    t = _microseconds((local - _OFFSET_H[city]) / 24)
    rows = _Rows(customer, city, merchant, t, np.zeros(n), np.zeros(n, np.int8))
    rows.amount = _amounts(world, rows, rng)
    return rows


# --- tables ---------------------------------------------------------------------------------


def _tables(
    config: SyntheticConfig, world: _World, rows: _Rows, day: int
) -> tuple[pa.Table, pa.Table]:
    n = len(rows)
    midnight = np.datetime64(config.start, "us") + day * _DAY
    ts = midnight + rows.t.astype("timedelta64[us]")
    shares = np.cumsum([share for _, share in CHANNELS])[:-1]
    channel = np.searchsorted(shares, _rng(config.seed, "channel", day).random(n))
    ids = _ids(config.seed, day, n)
    transactions = pa.table(
        {
            "transaction_id": ids,
            "customer_id": _words(rows.customer, world.customer_ids),
            "ts": pa.array(ts),
            "amount": np.round(np.maximum(rows.amount, 0.1), 2),
            "currency": _words(np.zeros(n), ["EUR"]),
            "merchant_id": _words(rows.merchant, world.merchant_ids),
            "category": _words(world.category[rows.merchant], [row[0] for row in CATEGORIES]),
            "channel": _words(channel, [name for name, _ in CHANNELS]),
            "lat": np.round(_CITY_LAT[rows.city] + world.d_lat[rows.merchant], 5),
            "lon": np.round(_CITY_LON[rows.city] + world.d_lon[rows.merchant], 5),
            "source": _words(np.zeros(n), ["synthetic"]),
        }
    )
    fraud = rows.scenario != _ORDINARY
    delay = np.timedelta64(round(config.label_delay_days * _DAY), "us")
    labels = pa.table(
        {
            "transaction_id": ids,
            "is_fraud": fraud,
            "scenario": _words(np.maximum(rows.scenario, 0), SCENARIOS, missing=~fraud),
            "known_at": pa.array(ts + delay),
            "source": _words(np.zeros(n), ["synthetic"]),
        }
    )
    return transactions, labels


def _words(
    index: np.ndarray,
    words: pa.Array | list[str] | tuple[str, ...],
    missing: np.ndarray | None = None,
) -> pa.Array:
    if not isinstance(words, pa.Array):
        words = pa.array(words)
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32), mask=missing), words)


def _ids(seed: int, day: int, n: int) -> pa.Array:
    """Unique identifiers of 16 hexadecimal digits that tell neither order nor truth.

    The finalizer of splitmix64 is a bijection (Steele, Lea, Flood, Fast Splittable Pseudorandom
    Number Generators, 2014), so different numbers stay different.
    """
    key = _rng(seed, "ids").integers(0, 2**64, dtype=np.uint64)
    x = np.arange(n, dtype=np.uint64) + np.uint64(day << 32)
    x ^= key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    pairs = np.frombuffer("".join(f"{i:02x}" for i in range(256)).encode(), dtype=np.uint16)
    text = pairs[x.astype("<u8").view(np.uint8)]
    offsets = np.arange(n + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text))


def _kept(session: _Session) -> str | None:
    found = session.execute("SELECT value FROM meta WHERE key = 'synthetic'").fetchone()
    return found[0] if found else None


def _require_same(config: SyntheticConfig, kept: str | None, there: int) -> None:
    elsewhere = "Name another database with --db or the parameter db, or delete that file."
    if kept is None:
        raise InputError(
            f"The database already holds {there:,} transactions from elsewhere; synthetic ones "
            f"are not mixed with them. {elsewhere}"
        )
    old, new = json.loads(kept), json.loads(config.to_json())
    if changed := [f"{k} {old.get(k)!r} (now {new[k]!r})" for k in new if new[k] != old.get(k)]:
        raise InputError(
            f"The database already holds the history of another configuration: "
            f"{', '.join(changed)}. {elsewhere}"
        )
