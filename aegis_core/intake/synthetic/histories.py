"""Synthetic payments: seeded customers and merchants, ordinary days, kinds of fraud.

A `SyntheticConfig` describes an endless population, of which `generate` makes any range of days
and `stream` what comes after a given time. A day depends on the configuration and its number
alone, so a part equals the same days of the whole, whatever the chunks. The same configuration
gives the same bytes with the same versions of numpy and pyarrow.

Payments are made with a card at a terminal, in one currency, at the terminal's place; those of an
incident of many customers are made online, from nowhere.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa

from aegis_core.errors import InputError, did_you_mean
from aegis_core.intake.synthetic import scenarios
from aegis_core.intake.synthetic.population import (
    CATEGORIES,
    CITY_LAT,
    CITY_LON,
    DAY,
    ORDINARY,
    TRIP_BLOCK,
    WEEKDAYS,
    Population,
    Rows,
    Trips,
    ordinary_day,
    plan_trips,
    purchases,
    rng_of,
    settle,
)
from aegis_core.intake.synthetic.scenarios import (
    BURST_SIZES,
    CROWD_SIZES,
    CROWDS,
    DEFAULT_RATES,
    KINDS,
    TAKEOVER_SIZE,
)
from aegis_core.schema import SCENARIOS
from aegis_core.store import Store, meaning
from aegis_core.store.session import Session

CHANNELS: Final = (("chip", 0.50), ("contactless", 0.40), ("wallet", 0.10))
"""How the card was read at a terminal, and how often. The same for fraud: it tells nothing."""

DECLINED: Final = 0.02
TESTS_DECLINED: Final = 0.85
"""Share of the ordinary payments, and of those of `testing`, that are declined."""
ONE_DEVICE: Final = 0.5
"""Share of the incidents of `testing` that come from one device; else each try has its own."""

_LATER_KINDS: Final = tuple(CROWDS)  # histories of older versions know nothing of them

_MOST: Final = {
    "n_transactions": 2_000_000_000,
    "n_customers": 20_000_000,
    "n_merchants": 5_000_000,
    "days": 36_500,
}
_WRITTEN_ROWS: Final = 1_000_000  # at most; DuckDB writes such batches past its log


@dataclass(frozen=True)
class SyntheticConfig:
    """The knobs of a synthetic population and its history.

    Parameters
    ----------
    n_transactions : transactions in the history, exactly. Later days go on at the same pace.
    n_customers, n_merchants : at least 1 each.
    start : first day (UTC), such as `"2026-01-01"`.
    days : length of the history.
    seed : another seed is another population.
    rates
        Share of all transactions that each of `scenarios.KINDS` makes up; one not named is 0.
        Met to the nearest incident, so that little data may hold no burst.
    label_delay_days : days from a transaction until its label is known.

    Raises
    ------
    InputError : A value is out of range; the message says which and what to do.

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
        for name, most in _MOST.items():
            if not 1 <= (value := getattr(self, name)) <= most:
                raise InputError(f"{name} is {value}; give a whole number from 1 to {most:,}.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; give a whole number from 0.")
        if not 0 <= (delay := self.label_delay_days) <= 3650:
            raise InputError(f"label_delay_days is {delay}; give a number from 0 to 3650.")
        try:
            dt.date.fromisoformat(self.start)
        except ValueError:
            raise InputError(f"start is {self.start!r}; give a day such as 2026-01-01.") from None
        for name, rate in self.rates.items():
            if name not in KINDS:
                raise InputError(
                    f"There is no scenario {name!r}; there are {', '.join(KINDS)}."
                    + did_you_mean(name, KINDS)
                )
            if not 0 <= rate <= 0.5:
                raise InputError(
                    f"The rate of {name} is {rate:.3g}; give a share of all transactions from 0 "
                    "to 0.5, or a smaller multiplier."
                )
        if (total := sum(self.rates.values())) > 0.5:
            raise InputError(
                f"The rates add up to {total:.3g}; at least half of the transactions must "
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

    Transactions have the columns of the table without `seq`. Each has a label, ordinary ones too,
    known `label_delay_days` after it.

    Parameters
    ----------
    first_day, n_days
        The days wanted, counted from `config.start`; None means until the history's end. Days
        after the history exist too.
    chunk_rows
        A chunk ends with the first day on which it has at least so many rows. It changes where
        chunks end, nothing else.

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
    population = settle(config.n_customers, config.n_merchants, config.seed)
    waiting: list[tuple[pa.Table, pa.Table]] = []
    n_waiting = 0
    for day in range(first_day, first_day + n_days):
        if day == first_day or day % config.days == 0:
            plan = _plan(config, day // config.days)
        if day == first_day or day % TRIP_BLOCK == 0:
            trips = plan_trips(population, config.seed, day // TRIP_BLOCK)
        waiting.append(_one_day(config, population, trips, plan, day))
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
    n_transactions : how many, exactly.
    after : the last time that is already there (UTC); None means the end of the history.
    fraud_multiplier : of the rates of fraud, so that a short demonstration has something to show.
    chunk_rows : as in `generate`; 1 means a chunk a day.

    >>> config = SyntheticConfig(n_transactions=1_000, n_customers=20, days=10)
    >>> sum(t.num_rows for t, _ in stream(config, 250))
    250
    """
    if not 0 <= fraud_multiplier < float("inf"):
        raise InputError(f"fraud_multiplier is {fraud_multiplier}; give a number from 0.")
    if n_transactions < 0:
        raise InputError(f"n_transactions is {n_transactions}; give a whole number from 0.")
    times = dict.fromkeys(SCENARIOS, fraud_multiplier)
    rates = {name: rate * times.get(name, 1.0) for name, rate in config.rates.items()}
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


def write_history(
    store: Store, config: SyntheticConfig, *, base_currency: str = "", progress: bool = True
) -> int:
    """Write the history into an empty database, all or nothing; the number of rows written.

    It is 0 when the same configuration has already been written there, also by a version that knew
    fewer kinds. The configuration is kept in `meta`, from where `history_config` reads it.

    Raises
    ------
    InputError : The database holds other transactions.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    store.require_no_service()
    with store.writing() as session:
        if there := session.next_seq():
            _require_same(config, history_config(session), there)
            return 0
        n = config.n_transactions
        with tqdm(total=n, unit="row", unit_scale=True, disable=not progress) as bar:
            for transactions, labels in generate(config, chunk_rows=min(n // 20, _WRITTEN_ROWS)):
                seq = np.arange(there, there + transactions.num_rows)
                rows = transactions.add_column(0, "seq", pa.array(seq))
                meaning.append(session, rows, base_currency)
                session.append("labels", labels)
                there += transactions.num_rows
                bar.update(transactions.num_rows)
        session.execute("INSERT INTO meta VALUES ('synthetic', ?)", [config.to_json()])
        return there


def history_config(session: Session) -> SyntheticConfig | None:
    """The configuration whose history this database holds; None when it holds other data."""
    found = session.noted("synthetic")
    return SyntheticConfig.from_json(found) if found else None


def _plan(config: SyntheticConfig, period: int) -> dict[str, np.ndarray]:
    """How many of each kind on each day of one period as long as the history.

    An incident counts as one; how large those of a kind are is in `{kind} sizes`, in the order of
    days. Those of many customers have a generator of their own.
    """
    rng = rng_of(config.seed, "plan", period)
    n = config.n_transactions
    first = dt.date.fromisoformat(config.start).weekday() + period * config.days
    weight = np.take(WEEKDAYS, (first + np.arange(config.days)) % 7)
    weight = weight / weight.sum()
    totals = {name: round(config.rates.get(name, 0.0) * n) for name in KINDS}
    # Whole incidents, to the nearest; a first one of many payments already for 40 % of it.
    totals["takeover"] = round(totals["takeover"] / TAKEOVER_SIZE)
    plan: dict[str, np.ndarray] = {}
    source = {name: rng_of(config.seed, f"plan {name}", period) for name in CROWDS}
    for name, (fewest, most) in {"burst": BURST_SIZES, **CROWD_SIZES}.items():
        totals[name] = int(totals[name] / np.mean([fewest, most]) + 0.6)
        plan[f"{name} sizes"] = source.get(name, rng).integers(fewest, most + 1, totals[name])
    of_incidents = sum(int(sizes.sum()) for sizes in plan.values())
    of_incidents += TAKEOVER_SIZE * totals["takeover"]
    singles = sum(totals[name] for name in ("spike", "travel", "night", "merchant"))
    totals["ordinary"] = n - of_incidents - singles
    if totals["ordinary"] < 0:
        raise InputError(
            f"{n} transactions are too few for these rates: whole incidents, such as bursts, would "
            f"take {of_incidents}. Raise n_transactions or lower the rates."
        )
    for name, total in totals.items():
        plan[name] = source.get(name, rng).multinomial(total, weight)
    return plan


def _one_day(
    config: SyntheticConfig,
    population: Population,
    trips: Trips,
    plan: dict[str, np.ndarray],
    day: int,
) -> tuple[pa.Table, pa.Table]:
    of_period = day % config.days
    count = {name: int(plan[name][of_period]) for name in (*KINDS, "ordinary")}
    # An impossible journey starts at an ordinary purchase; where there is none, it stays one.
    journeys = min(count["travel"], count["ordinary"])
    count["ordinary"] += count["travel"] - journeys
    count["travel"] = journeys

    def sizes(name: str) -> np.ndarray:
        first = int(plan[name][:of_period].sum())
        found: np.ndarray = plan[f"{name} sizes"][first : first + count[name]]
        return found

    rng = rng_of(config.seed, "ordinary", day)
    ordinary = ordinary_day(population, trips, day, count["ordinary"], rng)
    parts = [ordinary]
    for number, name in enumerate(KINDS):
        if count[name]:
            rng, n = rng_of(config.seed, name, day), count[name]
            if name == "travel":
                start = rng.choice(len(ordinary), n, replace=False)
                rows = scenarios.travel(population, ordinary.take(start), rng)
            elif name == "merchant":
                a_day = config.rates["merchant"] * config.n_transactions / config.days
                rows = scenarios.compromised(population, config.seed, day, a_day, n, rng)
            elif name == "burst":
                rows = purchases(population, trips, day, n, rng)
                rows = scenarios.burst(rows, sizes("burst"), rng)
            elif name in CROWDS:
                rows = CROWDS[name](population, sizes(name), rng)
            else:
                rows = purchases(population, trips, day, n, rng)
                rows = scenarios.AT_PURCHASES[name](population, rows, rng)
            rows.scenario = np.full(len(rows), number, dtype=np.int8)
            parts.append(rows)
    rows = Rows.joined(parts)
    return _tables(config, population, rows.take(np.argsort(rows.t, kind="stable")), day)


def _tables(
    config: SyntheticConfig, population: Population, rows: Rows, day: int
) -> tuple[pa.Table, pa.Table]:
    n = len(rows)
    midnight = np.datetime64(config.start, "us") + np.timedelta64(day * DAY, "us")
    ts = midnight + rows.t.astype("timedelta64[us]")
    online, tests = rows.incident > 0, rows.scenario == KINDS.index("testing")
    named = rows.scenario != ORDINARY
    fraud = named & (rows.scenario < len(SCENARIOS))
    names = [name for name, _ in CHANNELS]
    shares = np.cumsum([share for _, share in CHANNELS])[:-1]
    channel = np.searchsorted(shares, rng_of(config.seed, "channel", day).random(n))
    with_device = (channel == names.index("wallet")) | online
    share = np.where(tests, TESTS_DECLINED, np.where(fraud, 0.0, DECLINED))
    declined = rng_of(config.seed, "status", day).random(n) < share
    ids = _ids(config.seed, "ids", np.arange(n) + (day << 32))
    transactions = pa.table(
        {
            "transaction_id": ids,
            "customer_id": _words(rows.customer, population.customer_ids),
            "ts": pa.array(ts),
            "amount": np.round(np.maximum(rows.amount, 0.1), 2),
            "currency": _words(np.zeros(n), ["EUR"]),
            "merchant_id": _words(rows.merchant, population.merchant_ids),
            "category": _words(population.category[rows.merchant], [row[0] for row in CATEGORIES]),
            "channel": _words(np.where(online, len(names), channel), [*names, "online"]),
            "lat": _degrees(CITY_LAT[rows.city] + population.d_lat[rows.merchant], online),
            "lon": _degrees(CITY_LON[rows.city] + population.d_lon[rows.merchant], online),
            "status": _words(np.zeros(n), ["declined"], missing=~declined),
            "device_id": _devices(config.seed, rows, day, tests, with_device),
            "source": _words(np.zeros(n), ["synthetic"]),
        }
    )
    scenario, date = np.full(n, None, object), midnight.astype("datetime64[D]")
    scenario[named] = [
        f"{KINDS[kind]}:{date}-{incident}" if incident else KINDS[kind]
        for kind, incident in zip(rows.scenario[named], rows.incident[named], strict=True)
    ]
    delay = np.timedelta64(round(config.label_delay_days * DAY), "us")
    labels = pa.table(
        {
            "transaction_id": ids,
            "is_fraud": fraud,
            "scenario": pa.array(scenario, pa.string()),
            "known_at": pa.array(ts + delay),
            "source": _words(np.zeros(n), ["synthetic"]),
        }
    )
    return transactions, labels


def _words(
    index: np.ndarray, words: pa.Array | Sequence[str], missing: np.ndarray | None = None
) -> pa.Array:
    words = words if isinstance(words, pa.Array) else pa.array(words)
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32), mask=missing), words)


def _degrees(angle: np.ndarray, nowhere: np.ndarray) -> pa.Array:
    return pa.array(np.round(angle, 5), mask=nowhere)


def _devices(seed: int, rows: Rows, day: int, tests: np.ndarray, present: np.ndarray) -> pa.Array:
    """What it was paid with, where `present`: the customer's own device, or one for `tests`."""
    shared = rng_of(seed, "devices", day).random(rows.incident.max(initial=0) + 1) < ONE_DEVICE
    fresh = np.where(shared[rows.incident], rows.incident, np.arange(len(rows)) + (1 << 31))
    number = np.where(tests, fresh + (day + 1 << 32), rows.customer)[present]
    place = pa.array(np.cumsum(present) - 1, mask=~present)
    return _ids(seed, "devices", number).take(place)


def _ids(seed: int, use: str, number: np.ndarray) -> pa.Array:
    """Identifiers of 16 hexadecimal digits, one for each number; they tell nothing of it.

    The finalizer of splitmix64 is a bijection (Steele, Lea, Flood, Fast Splittable Pseudorandom
    Number Generators, 2014), so different numbers stay different.
    """
    n = len(number)
    x = number.astype(np.uint64) ^ rng_of(seed, use).integers(0, 2**64, dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    pairs = np.frombuffer("".join(f"{i:02x}" for i in range(256)).encode(), dtype=np.uint16)
    text = pairs[x.astype("<u8").view(np.uint8)]
    offsets = np.arange(n + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text))


def _require_same(config: SyntheticConfig, kept: SyntheticConfig | None, there: int) -> None:
    elsewhere = "Name another database with --db or the parameter db, or delete that file."
    if kept is None:
        raise InputError(
            f"The database already holds {there:,} transactions from elsewhere; synthetic ones "
            f"are not mixed with them. {elsewhere}"
        )
    old, new = asdict(kept), asdict(config)
    older = {name for name in _LATER_KINDS if name not in kept.rates}
    new["rates"] = {
        name: rate
        for name, rate in config.rates.items()
        if name not in older or rate not in (0.0, DEFAULT_RATES[name])
    }
    if changed := [f"{k} {old[k]!r} (now {new[k]!r})" for k in new if new[k] != old[k]]:
        raise InputError(
            f"The database already holds the history of another configuration: "
            f"{', '.join(changed)}. {elsewhere}"
        )
