"""What the synthetic payments promise: repeatable, plausible, and hard enough."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aegis_core import schema, store
from aegis_core.errors import InputError
from aegis_core.features.geo import haversine_km
from aegis_core.intake import synthetic
from aegis_core.intake.synthetic import SyntheticConfig, generate, scenarios, stream
from aegis_core.intake.synthetic.difficulty import audit, rule_scores
from aegis_core.intake.synthetic.histories import DECLINED, TESTS_DECLINED
from aegis_core.intake.synthetic.population import CITY_LON
from aegis_core.intake.synthetic.scenarios import KINDS
from aegis_core.metrics import families

SMALL = SyntheticConfig(n_transactions=4_000, n_customers=60, n_merchants=80, days=12)
Chunks = Iterable[tuple[pa.Table, pa.Table]]


def joined(chunks: Chunks) -> tuple[pa.Table, pa.Table]:
    transactions, labels = zip(*chunks, strict=True)
    return pa.concat_tables(transactions), pa.concat_tables(labels)


def written(chunks: Chunks) -> bytes:
    """Every value of every row, whatever the chunks."""
    sink = pa.BufferOutputStream()
    for table in joined(chunks):
        plain = table.cast(
            pa.schema(
                (f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type)
                for f in table.schema
            )
        )
        with pa.ipc.new_stream(sink, plain.schema) as stream_:
            stream_.write_table(plain.combine_chunks())
    return bytes(sink.getvalue())


def framed(chunks: Chunks) -> pd.DataFrame:
    transactions, labels = joined(chunks)
    frame = transactions.to_pandas()
    truth = labels.to_pandas()
    assert frame["transaction_id"].tolist() == truth["transaction_id"].tolist()
    return frame.assign(
        is_fraud=truth["is_fraud"],
        scenario=truth["scenario"].astype(object),
        kind=families(truth["scenario"]).astype(object),
        known_at=truth["known_at"],
        local_h=(frame["ts"] - frame["ts"].dt.normalize()) / pd.Timedelta("1h")
        + np.round(frame["lon"] / 15),
    ).assign(local_h=lambda f: f["local_h"] % 24)


def with_last(frame: pd.DataFrame) -> pd.DataFrame:
    """Beside each transaction, how far and how fast since the same customer's last one."""
    frame = frame.sort_values(["customer_id", "ts"], kind="stable")
    last = frame.groupby("customer_id", observed=True)[["lat", "lon", "ts"]].shift().dropna()
    frame = frame.loc[last.index]
    km = haversine_km(
        *(last[name].to_numpy() for name in ("lat", "lon")),
        *(frame[name].to_numpy() for name in ("lat", "lon")),
    )
    hours = (frame["ts"] - last["ts"]) / pd.Timedelta("1h")
    return frame.assign(km=km, speed=km / hours.clip(lower=1e-6))


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """A fifth of the default history, at the default rates."""
    return framed(generate(SyntheticConfig(n_transactions=100_000, n_customers=1_000)))


@pytest.fixture(scope="module")
def crowds() -> pd.DataFrame:
    """Two dozen card tests over many cards, and a dozen sales."""
    config = SyntheticConfig(n_transactions=40_000, rates={"testing": 0.03, "sale": 0.03})
    return framed(generate(config))


@pytest.fixture(scope="module")
def honest() -> pd.DataFrame:
    return framed(generate(SyntheticConfig(n_transactions=60_000, n_customers=600, rates={})))


# --- repeatable -------------------------------------------------------------------------------


def test_the_same_configuration_gives_the_same_bytes() -> None:
    assert written(generate(SMALL)) == written(generate(SMALL))


def test_another_seed_gives_another_population() -> None:
    other = SyntheticConfig(n_transactions=4_000, n_customers=60, n_merchants=80, days=12, seed=1)
    assert written(generate(SMALL)) != written(generate(other))


@pytest.mark.parametrize("chunk_rows", [1, 700, 1_000_000])
def test_chunks_change_nothing_but_where_they_end(chunk_rows: int) -> None:
    assert written(generate(SMALL, chunk_rows=chunk_rows)) == written(generate(SMALL))


def test_a_part_equals_the_same_days_of_the_whole() -> None:
    parts = [generate(SMALL, 0, 5), generate(SMALL, 5, 1), generate(SMALL, 6)]
    assert written(itertools.chain(*parts)) == written(generate(SMALL))


def test_rows_are_ordered_by_time_over_all_chunks(history: pd.DataFrame) -> None:
    assert history["ts"].is_monotonic_increasing
    assert history["ts"].min() >= pd.Timestamp("2026-01-01")
    assert history["ts"].max() < pd.Timestamp("2026-04-01")


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SyntheticConfig(n_transactions=1, n_customers=1, n_merchants=1, days=1),
        SyntheticConfig(n_transactions=500, n_customers=1),
        SyntheticConfig(n_transactions=500, n_merchants=1, n_customers=20),
        SyntheticConfig(n_transactions=500, days=1),
        SyntheticConfig(n_transactions=30, days=100, n_customers=7),
        SyntheticConfig(n_transactions=500, n_customers=40, rates={}),
        SyntheticConfig(n_transactions=5, days=5, n_customers=2, rates={"travel": 0.5}),
        *(
            SyntheticConfig(n_transactions=2_000, n_customers=3, days=4, rates={name: 0.5})
            for name in KINDS
        ),
    ],
)
def test_any_history_has_exactly_the_rows_that_were_asked_for(config: SyntheticConfig) -> None:
    frame = framed(generate(config))
    assert len(frame) == config.n_transactions
    assert frame["transaction_id"].is_unique
    assert frame["ts"].is_monotonic_increasing
    assert frame["customer_id"].nunique() <= config.n_customers
    assert frame["merchant_id"].nunique() <= config.n_merchants
    assert set(frame["kind"].dropna()) <= {name for name, rate in config.rates.items() if rate}


# --- fit for the store ------------------------------------------------------------------------


LATER = {column.name for column in schema.COLUMNS if column.since} - {"status", "device_id"}


def test_every_column_is_there_and_no_value_would_be_rejected(history: pd.DataFrame) -> None:
    transactions, labels = joined(generate(SMALL))
    made = [c for c in schema.TRANSACTION_COLUMNS if c not in schema.MEANT and c not in LATER]
    assert ["seq", *transactions.column_names] == made
    assert labels.column_names == [
        "transaction_id",
        "is_fraud",
        "scenario",
        "known_at",
        "source",
    ]
    online = history["channel"] == "online"
    missing = history[[name for name in made if name != "seq"]].isna()
    assert missing["lat"].equals(online)
    assert missing["lon"].equals(online)
    assert not missing.drop(columns=["lat", "lon", "status", "device_id"]).any().any()
    assert history["amount"].min() > 0
    assert (history["amount"] * 100).round(6).mod(1).eq(0).all()
    assert history["lat"].abs().max() <= 90
    assert history["lon"].abs().max() <= 180


@pytest.mark.parametrize("days", [0.0, 0.5, 7.0])
def test_a_label_is_known_after_the_delay(days: float) -> None:
    config = SyntheticConfig(n_transactions=200, days=3, label_delay_days=days)
    frame = framed(generate(config))
    assert (frame["known_at"] - frame["ts"]).eq(pd.Timedelta(days=days)).all()


def test_a_scenario_is_named_where_there_is_fraud_or_what_looks_like_it(
    history: pd.DataFrame,
) -> None:
    assert history["kind"].isin(schema.SCENARIOS).equals(history["is_fraud"])
    assert history["kind"].isin(KINDS).equals(history["scenario"].notna())


# --- plausible --------------------------------------------------------------------------------


def test_every_scenario_is_there_at_about_its_rate(history: pd.DataFrame) -> None:
    rows = history["kind"].value_counts()
    assert set(rows.index) == set(KINDS)
    whole = {"burst": scenarios.BURST_SIZES, **scenarios.CROWD_SIZES}
    for name, rate in scenarios.DEFAULT_RATES.items():
        within = whole[name][1] * 0.6 if name in whole else 2
        assert rows[name] == pytest.approx(rate * len(history), abs=within), name
    assert history["is_fraud"].mean() == pytest.approx(0.0054, rel=0.1)


def test_there_is_no_fraud_when_all_rates_are_zero(honest: pd.DataFrame) -> None:
    assert not honest["is_fraud"].any()
    assert honest["scenario"].isna().all()


def test_ordinary_customers_travel_but_never_impossibly_fast(honest: pd.DataFrame) -> None:
    far = with_last(honest).query("km > 100")
    assert far["customer_id"].nunique() > 50
    assert far["speed"].max() < 900


def test_most_sleep_at_night_and_a_few_work(honest: pd.DataFrame) -> None:
    at_night = honest["local_h"].between(*scenarios.NIGHT)
    share = at_night.groupby(honest["customer_id"], observed=True).mean()
    assert at_night.mean() < 0.05
    assert share.median() < 0.02
    assert 0.01 < (share > 0.2).mean() < 0.08


def test_noon_is_busier_than_any_morning_hour(honest: pd.DataFrame) -> None:
    by_hour = honest["local_h"].astype(int).value_counts()
    assert by_hour[12] > by_hour[list(range(10))].max()


def test_customers_differ_in_how_often_and_how_much_they_pay(honest: pd.DataFrame) -> None:
    by_customer = honest.groupby("customer_id", observed=True)["amount"]
    assert by_customer.size().quantile(0.9) > 4 * by_customer.size().quantile(0.1)
    assert by_customer.median().quantile(0.9) > 2 * by_customer.median().quantile(0.1)


def test_quick_ordinary_sequences_happen_but_stay_short(honest: pd.DataFrame) -> None:
    count = rule_scores(honest)["count in 1 min"]
    assert 0.01 < (count > 1).mean() < 0.1
    assert count.max() < scenarios.BURST_SIZES[0] / 2


def test_merchants_stay_where_they_are(history: pd.DataFrame) -> None:
    places = history.groupby("merchant_id", observed=True)[["lat", "lon", "category"]].nunique()
    assert (places == 1).all().all()


def test_a_night_fraud_happens_between_one_and_four(history: pd.DataFrame) -> None:
    hours = history.loc[history["scenario"] == "night", "local_h"]
    assert hours.between(*scenarios.NIGHT).all()


def test_a_burst_is_fifty_or_more_within_a_minute_at_one_terminal(history: pd.DataFrame) -> None:
    rows = history[history["scenario"] == "burst"].sort_values(["customer_id", "ts"])
    begins = rows.groupby("customer_id", observed=True)["ts"].diff() > pd.Timedelta("1min")
    each = rows.groupby([rows["customer_id"].astype(str), begins.cumsum()])
    assert len(rows) > 0
    assert each.size().between(*scenarios.BURST_SIZES).all()
    assert (each["ts"].max() - each["ts"].min()).max() <= pd.Timedelta("60s")
    assert each["merchant_id"].nunique().max() == 1


@pytest.mark.parametrize("seed", range(3))
def test_an_impossible_journey_is_faster_than_a_thousand_km_an_hour(seed: int) -> None:
    rates = {**scenarios.DEFAULT_RATES, "travel": 0.01}
    config = SyntheticConfig(n_transactions=20_000, n_customers=300, seed=seed, rates=rates)
    journeys = with_last(framed(generate(config))).query("scenario == 'travel'")
    assert len(journeys) == 200
    assert journeys["speed"].min() > 1_000
    assert journeys["km"].min() > 700


def test_a_spike_is_far_above_the_customers_habit(history: pd.DataFrame) -> None:
    usual = history.groupby("customer_id", observed=True)["amount"].median()
    spikes = history[history["scenario"] == "spike"]
    times = spikes["amount"].to_numpy() / usual[spikes["customer_id"]].to_numpy()
    assert np.median(times) > 10
    assert times.min() > 3


def test_merchant_fraud_gathers_at_few_merchants_and_looks_ordinary(history: pd.DataFrame) -> None:
    theirs = history[history["scenario"] == "merchant"]
    ordinary = history[~history["is_fraud"]]
    assert theirs["merchant_id"].nunique() <= 12
    assert theirs["amount"].quantile(0.95) < 3 * ordinary["amount"].quantile(0.95)


def test_a_takeover_spends_more_than_usual_on_one_card(history: pd.DataFrame) -> None:
    taken = history[history["scenario"] == "takeover"]
    by_day = taken.groupby([taken["customer_id"].astype(str), taken["ts"].dt.date]).size()
    assert len(by_day) == 12
    assert set(by_day) == {scenarios.TAKEOVER_SIZE}
    assert taken["amount"].median() > 1.5 * history["amount"].median()


def test_a_card_test_over_many_cards_is_over_in_minutes_at_one_shop_online(
    crowds: pd.DataFrame,
) -> None:
    rows = crowds[crowds["kind"] == "testing"]
    each = rows.groupby("scenario")
    assert each.ngroups == 24
    assert each.size().between(*scenarios.CROWD_SIZES["testing"]).all()
    assert each["customer_id"].nunique().equals(each.size())
    assert each["merchant_id"].nunique().eq(1).all()
    assert (each["ts"].max() - each["ts"].min()).max() < pd.Timedelta("2min")
    assert rows["amount"].between(0.5, 8).all()
    assert rows["status"].eq("declined").mean() == pytest.approx(TESTS_DECLINED, abs=0.05)
    assert rows["is_fraud"].all()
    devices = each["device_id"].nunique()
    assert (devices.eq(1) | devices.eq(each.size())).all()
    assert 6 <= devices.eq(1).sum() <= 18
    elsewhere = crowds.loc[crowds["kind"] != "testing", "device_id"]
    assert not set(rows["device_id"]) & set(elsewhere)
    assert rows["device_id"].nunique() == devices.sum()


def test_a_sale_draws_a_crowd_at_noon_that_is_no_fraud(crowds: pd.DataFrame) -> None:
    rows = crowds[crowds["kind"] == "sale"]
    each = rows.groupby("scenario")
    assert each.ngroups == 12
    assert each.size().between(*scenarios.CROWD_SIZES["sale"]).all()
    assert each["customer_id"].nunique().equals(each.size())
    assert each["merchant_id"].nunique().eq(1).all()
    assert (each["ts"].max() - each["ts"].min()).max() < pd.Timedelta("20min")
    assert rows["amount"].between(25, 150).all()
    assert rows["status"].eq("declined").mean() < 0.05
    assert not rows["is_fraud"].any()
    place = crowds.groupby("merchant_id", observed=True)["lon"].median()
    lon = rows["merchant_id"].map(place).astype(float)
    noon = (rows["ts"] + pd.to_timedelta(np.round(lon / 15), unit="h")).dropna()
    assert len(noon)
    assert (noon.dt.hour == 12).all()
    assert (noon.dt.minute < 20).all()


def test_few_payments_are_declined_and_no_other_fraud_is(history: pd.DataFrame) -> None:
    declined = history["status"].eq("declined")
    assert set(history["status"].dropna()) == {"declined"}
    assert declined[~history["is_fraud"]].mean() == pytest.approx(DECLINED, abs=0.002)
    assert not declined[history["is_fraud"] & (history["kind"] != "testing")].any()


def test_a_wallet_is_the_customers_own_device(history: pd.DataFrame) -> None:
    own = history[history["kind"] != "testing"]
    known = own["device_id"].notna()
    assert known.equals(own["channel"].isin(["wallet", "online"]))
    pairs = own.loc[known, ["customer_id", "device_id"]].drop_duplicates()
    assert pairs["device_id"].is_unique
    assert pairs["customer_id"].is_unique
    assert pairs["device_id"].str.fullmatch("[0-9a-f]{16}").all()


# --- hard enough ------------------------------------------------------------------------------


def test_no_single_rule_solves_the_default_data(history: pd.DataFrame) -> None:
    precision = audit(history)
    assert precision.drop(index="floor")["all"].max() < 0.5
    assert precision.loc["floor", "all"] == pytest.approx(history["is_fraud"].mean())
    assert list(precision.columns) == ["all", *schema.SCENARIOS]


@pytest.mark.parametrize("column", ["channel", "currency", "source"])
def test_how_it_was_paid_tells_nothing(history: pd.DataFrame, column: str) -> None:
    at_terminals = history[history["channel"] != "online"]
    counts = pd.crosstab(at_terminals["is_fraud"], at_terminals[column].astype(str))
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.to_numpy().sum()
    chi2 = ((counts - expected) ** 2 / expected).to_numpy().sum()
    assert chi2 < 14  # three channels: passed by chance in 999 of 1,000 draws


def test_an_id_tells_neither_order_nor_truth(history: pd.DataFrame) -> None:
    number = history["transaction_id"].map(lambda text: int(text[:13], 16)).to_numpy(float)
    assert history["transaction_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert abs(np.corrcoef(number, np.arange(len(number)))[0, 1]) < 0.02
    assert abs(np.corrcoef(number, history["is_fraud"])[0, 1]) < 0.02


# --- afterwards -------------------------------------------------------------------------------


def test_the_stream_goes_on_with_the_same_people_after_the_history() -> None:
    history = framed(generate(SMALL))
    live = framed(stream(SMALL, 3_000))
    assert len(live) == 3_000
    assert live["ts"].is_monotonic_increasing
    assert live["ts"].min() >= pd.Timestamp(SMALL.end) > history["ts"].max()
    assert not set(live["transaction_id"]) & set(history["transaction_id"])
    assert set(history["customer_id"]) >= set(live["customer_id"])
    home = history.groupby("customer_id", observed=True)["lat"].median()
    now = live.groupby("customer_id", observed=True)["lat"].median()
    assert (home[now.index] - now).abs().median() < 0.1


def test_the_stream_takes_up_where_it_was_left() -> None:
    first = framed(stream(SMALL, 900))
    second = framed(stream(SMALL, 900, after=first["ts"].max().to_pydatetime()))
    assert second["ts"].min() > first["ts"].max()
    assert not set(first["transaction_id"]) & set(second["transaction_id"])


def test_the_stream_is_longer_than_any_history() -> None:
    config = SyntheticConfig(n_transactions=100, days=2, n_customers=5)
    live = framed(stream(config, 1_234))
    assert len(live) == 1_234
    assert live["transaction_id"].is_unique
    assert live["ts"].is_monotonic_increasing


def test_a_multiplier_raises_the_share_of_fraud() -> None:
    config = SyntheticConfig(n_transactions=20_000, n_customers=200, days=30)
    few, many = (framed(stream(config, 20_000, fraud_multiplier=m)) for m in (1, 10))
    assert many["is_fraud"].mean() == pytest.approx(10 * few["is_fraud"].mean(), rel=0.3)
    assert not framed(stream(config, 500, fraud_multiplier=0))["is_fraud"].any()


def test_a_multiplier_raises_no_sale() -> None:
    rates = {"testing": 0.01, "sale": 0.02}
    config = SyntheticConfig(n_transactions=10_000, n_customers=500, days=30, rates=rates)
    few, many = (framed(stream(config, 10_000, fraud_multiplier=m))["kind"] for m in (1, 10))
    assert (few == "sale").sum() == (many == "sale").sum() > 100
    assert (many == "testing").sum() > 5 * (few == "testing").sum() > 0


def test_no_two_incidents_have_one_name() -> None:
    rates = {"testing": 0.05, "sale": 0.05}
    config = SyntheticConfig(n_transactions=5_000, n_customers=300, days=5, rates=rates)
    frame = framed(itertools.chain(generate(config), stream(config, 10_000)))
    each = frame.groupby("scenario")
    assert each.ngroups == pytest.approx(15_000 * (0.05 / 50 + 0.05 / 105), rel=0.2)
    assert (each["ts"].max() - each["ts"].min()).max() < pd.Timedelta("20min")
    assert each["merchant_id"].nunique().eq(1).all()
    assert each["kind"].nunique().eq(1).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: SyntheticConfig(n_transactions=0), "n_transactions is 0; give"),
        (lambda: SyntheticConfig(n_customers=-1), "n_customers"),
        (lambda: SyntheticConfig(n_merchants=0), "n_merchants"),
        (lambda: SyntheticConfig(days=0), "days"),
        (lambda: SyntheticConfig(seed=-1), "seed"),
        (lambda: SyntheticConfig(start="last week"), "2026-01-01"),
        (lambda: SyntheticConfig(label_delay_days=-1), "label_delay_days"),
        (lambda: SyntheticConfig(rates={"burts": 0.1}), "Did you mean burst"),
        (lambda: SyntheticConfig(rates={"burst": -0.1}), "from 0 to 0.5"),
        (lambda: SyntheticConfig(rates={"burst": float("nan")}), "from 0 to 0.5"),
        (lambda: SyntheticConfig(rates={"burst": 0.3, "night": 0.3}), "Lower the rates"),
        (
            lambda: list(generate(SyntheticConfig(n_transactions=60, rates={"burst": 0.5}))),
            "Raise n_transactions",
        ),
        (lambda: list(generate(SMALL, -1)), "first_day"),
        (lambda: list(stream(SMALL, 10, fraud_multiplier=1_000)), "multiplier"),
        (lambda: list(stream(SMALL, -1)), "n_transactions"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_to_do(
    wrong: Callable[[], object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        wrong()


def test_no_clock_stands_between_two_hours() -> None:
    """Merchants are spread around a centre; all of them must have the centre's local time."""
    assert np.abs(CITY_LON / 15 % 1 - 0.5).min() * 15 > 0.3


# --- in the store -----------------------------------------------------------------------------


def test_the_history_is_written_once(tmp_path: Path) -> None:
    database = store.connect(tmp_path / "a.duckdb")
    assert synthetic.write_history(database, SMALL, progress=False) == 4_000
    before = database.data_hash()
    assert synthetic.write_history(database, SMALL, progress=False) == 0
    assert database.data_hash() == before
    rows = database.query("SELECT seq, ts FROM transactions ORDER BY seq")
    assert rows["seq"].tolist() == list(range(4_000))
    assert rows["ts"].is_monotonic_increasing
    assert database.rows("SELECT count(*) AS n FROM labels") == [{"n": 4_000}]
    with database.reading() as session:
        assert synthetic.history_config(session) == SMALL


def test_two_configurations_are_not_mixed_in_one_database(tmp_path: Path) -> None:
    database = store.connect(tmp_path / "a.duckdb")
    synthetic.write_history(database, SMALL, progress=False)
    other = SyntheticConfig(n_transactions=4_000, n_customers=60, n_merchants=80, days=12, seed=5)
    with pytest.raises(InputError, match=r"seed 0 \(now 5\).*--db"):
        synthetic.write_history(database, other, progress=False)


def test_the_history_of_an_older_version_is_the_same_and_stays_without_later_kinds(
    tmp_path: Path,
) -> None:
    database = store.connect(tmp_path / "a.duckdb")
    synthetic.write_history(database, SMALL, progress=False)
    kept = json.loads(SMALL.to_json())
    for name in ("testing", "sale"):
        kept["rates"].pop(name)
    with database.writing() as session:
        session.execute("UPDATE meta SET value = ? WHERE key = 'synthetic'", [json.dumps(kept)])
    assert synthetic.write_history(database, SMALL, progress=False) == 0
    assert synthetic.write_history(database, SyntheticConfig(**kept), progress=False) == 0
    with database.reading() as session:
        config = synthetic.history_config(session)
    assert config is not None
    assert config.rates == kept["rates"]
    live = framed(stream(config, 4_000, fraud_multiplier=40))
    assert set(live["kind"].dropna()) == set(kept["rates"])
    for name, rate in (("testing", 0.01), ("spike", 0.0)):
        other = SyntheticConfig(**kept | {"rates": {**SMALL.rates, name: rate}})
        with pytest.raises(InputError, match="another configuration: rates"):
            synthetic.write_history(database, other, progress=False)


def test_synthetic_rows_are_not_mixed_with_other_peoples(tmp_path: Path) -> None:
    database = store.connect(tmp_path / "a.duckdb")
    with database.writing() as session:
        session.execute(
            "INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount) "
            "VALUES (0, 'x', 'c', ?, 1.0)",
            [dt.datetime(2026, 1, 1)],
        )
        assert synthetic.history_config(session) is None
    with pytest.raises(InputError, match="from elsewhere"):
        synthetic.write_history(database, SMALL, progress=False)
