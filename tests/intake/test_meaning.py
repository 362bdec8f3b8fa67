"""What a payment means, by the cases of public reports: money, time, place, kinds and states."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aegis_core.config import Settings, load
from aegis_core.detection.training import train
from aegis_core.errors import InputError
from aegis_core.evaluation.parity import parity
from aegis_core.intake import ImportSummary, import_files
from aegis_core.intake.synthetic import SyntheticConfig, write_history
from aegis_core.review.cases import QUEUE
from aegis_core.schema import LATER_STATES
from aegis_core.serving import schemas
from aegis_core.serving.engine import Engine
from aegis_core.store import Store, connect
from aegis_core.store.meaning import Meaning, base_of

DAY: Final = dt.timedelta(days=1)
HOUR: Final = dt.timedelta(hours=1)
START: Final = dt.datetime(2026, 4, 1, 8, tzinfo=dt.UTC)
NEXT: Final = START + 40 * DAY
"""After all that other tests send, so that days end."""
BERLIN, NEW_YORK, TOKYO = (52.52, 13.405), (40.71, -74.0), (35.68, 139.69)
Say = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Settings]:
    folder = tmp_path_factory.mktemp("meaning")
    settings = load(home=folder).with_any_clock()
    store = connect(folder / "aegis.duckdb")
    config = SyntheticConfig(n_transactions=60_000, n_customers=600)
    write_history(store, config, progress=False)
    train(store, settings)
    return store, settings


@pytest.fixture(scope="module")
def engine(home: tuple[Store, Settings]) -> Iterator[Engine]:
    with Engine.open(*home) as engine:
        yield engine


@pytest.fixture
def say(engine: Engine, request: pytest.FixtureRequest) -> Say:
    """Send a payment of a customer who is new in each test; the verdict on it."""
    customer, n = request.node.name, iter(range(10_000))

    def send(at: dt.datetime | str, amount: float = 40.0, place: Any = None, **more: Any) -> Any:
        lat, lon = place or (None, None)
        row = {
            "transaction_id": f"{customer} {next(n)}", "customer_id": customer, "amount": amount,
            "timestamp": at if isinstance(at, str) else at.isoformat(), "currency": "EUR",
            "category": "groceries", "lat": lat, "lon": lon,
        } | more  # fmt: skip
        sent = {name: value for name, value in row.items() if value is not None}
        row_, why = schemas.checked(json.dumps(sent).encode())
        assert row_ is not None, why
        return dict(engine.thread.submit(engine.score, [row_]).result()[0].verdict or {})

    return send


def settled(say: Say, n: int = 26, place: Any = None, hours: tuple[int, ...] = (0, 3, 6)) -> None:
    """A customer of about 40 euros a payment."""
    for i in range(n):
        at = START + (i % 22) * DAY + dt.timedelta(hours=hours[i % len(hours)], minutes=7 * i % 60)
        say(at.isoformat().replace("+00:00", "Z"), (25.0, 40.0, 55.0)[i % 3], place)


def texts(verdict: dict[str, Any]) -> str:
    return "; ".join(reason["text"] for reason in verdict["reasons"])


# ---- money


@pytest.mark.parametrize(
    ("amount", "currency", "decision"),
    [(6_500, "JPY", "approve"), (650_000, "IDR", "approve"), (6_500, "392", "approve"),
     (160_000, "jpy", "alert"), (600, "KWD", "alert")],
)  # fmt: skip
def test_an_amount_is_what_it_is_worth(
    say: Say, amount: float, currency: str, decision: str
) -> None:
    settled(say)
    verdict = say(START + 23 * DAY, amount, currency=currency)
    assert ("approve" if verdict["decision"] == "approve" else "alert") == decision
    if decision == "alert":
        code = currency.upper()
        assert f"{code} {amount:,.{0 if code == 'JPY' else 3}f}, about EUR " in texts(verdict)
        assert "usual EUR " in texts(verdict)
        assert f"at {code} " in verdict["cleared"] or "No single" in verdict["cleared"]


# ---- time


def test_what_arrives_late_is_as_far_away_as_it_was(say: Say) -> None:
    settled(say, place=BERLIN)
    assert say(START + 23 * DAY + dt.timedelta(hours=10), place=(48.137, 11.575))["decision"] == (
        "approve"
    )
    late = say(START + 23 * DAY - dt.timedelta(hours=1), place=BERLIN)
    assert late["decision"] == "approve"
    assert "0 s" not in texts(late)


def test_a_day_that_is_uploaded_in_the_evening_is_no_burst(say: Say) -> None:
    settled(say)
    say(START + 23 * DAY + dt.timedelta(hours=13), 30.0)
    for i in range(7):
        verdict = say(START + 23 * DAY + i * dt.timedelta(minutes=90), 18.0, category="transit")
        assert "transactions in" not in texts(verdict)


def test_a_date_has_no_hour_and_is_no_burst(say: Say) -> None:
    settled(say)
    for _ in range(12):
        verdict = say("2026-04-24", 30.0)
        assert verdict["decision"] == "approve"
        assert "UTC" not in texts(verdict)


def test_what_recurs_is_learnt_after_its_second_time(say: Say) -> None:
    for day in range(8):
        at = (START + day * DAY).replace(hour=0)
        said = [say(at, 25.0 + i, channel="batch")["decision"] for i in range(6)]
        assert day > 1 or said[:4] == ["approve"] * 4
        assert day < 2 or said == ["approve"] * 6
    assert say(at, 31.0, channel="batch")["decision"] != "approve", "one more than ever"


# ---- place and hour


def test_the_hour_is_that_of_the_place(say: Say) -> None:
    settled(say, 54, BERLIN)
    evening = say(START.replace(hour=1, minute=30) + 28 * DAY, place=NEW_YORK)
    assert evening["decision"] == "approve"
    assert "km/h" not in texts(evening), "anybody can get there in days"


def test_the_hour_is_told_with_where_it_is(say: Say, engine: Engine) -> None:
    settled(say, 54, TOKYO, hours=(0, 1, 2))
    night = say(START.replace(hour=18, minute=12) + 23 * DAY, 4_000.0, TOKYO)
    engine.settled()
    stored = engine.store.rows(
        "SELECT utc_offset, local_zone, clock FROM transactions WHERE transaction_id = ?",
        [night["transaction_id"]],
    )
    assert stored == [{"utc_offset": 540, "local_zone": "Asia/Tokyo", "clock": "place"}]
    assert "03:12 in Tokyo" in texts(night)


@pytest.mark.parametrize("channel", ["online", "MOTO", "direct-debit"])
def test_who_is_not_there_does_not_travel(say: Say, channel: str) -> None:
    settled(say, place=BERLIN)
    noon = START + 23 * DAY + dt.timedelta(hours=4)
    for minutes, place, how in ((0, BERLIN, "chip"), (20, (37.77, -122.42), channel),
                                (60, BERLIN, "chip")):  # fmt: skip
        verdict = say(noon + dt.timedelta(minutes=minutes), place=place, channel=how)
        assert "km" not in texts(verdict)


@pytest.mark.parametrize("place", [(0.0, 0.0), (90.0, 180.0), (-90.0, 0.0)])
def test_what_stands_for_no_place_is_none(say: Say, place: Any) -> None:
    settled(say, place=BERLIN)
    assert "km" not in texts(say(START + 23 * DAY, 4_000.0, place))


# ---- kinds and states


def test_what_comes_in_is_kept_and_neither_judged_nor_learnt(say: Say, engine: Engine) -> None:
    settled(say)
    for sent, kind in (
        ({"amount": -20.0, "original_id": "x"}, "refund"), ({"kind": "Deposit"}, "credit"),
        ({"category": "salary"}, "credit"), ({"kind": "reversal"}, "reversal"),
    ):  # fmt: skip
        verdict = say(START + 23 * DAY, **({"amount": 30_000.0} | sent))
        assert (verdict["decision"], verdict["score"], verdict["reasons"]) == ("approve", 0.0, [])
        engine.settled()
        (row,) = engine.store.rows("SELECT * FROM transactions ORDER BY seq DESC LIMIT 1")
        assert (row["kind"], row["amount"] > 0) == (kind, True)
    assert say(START + 24 * DAY, 3_000.0)["decision"] != "approve"


def test_declined_tries_count_for_a_burst_and_teach_nothing_else(say: Say) -> None:
    settled(say)
    at = START + 23 * DAY
    said = [say(at + i * dt.timedelta(seconds=3), 900.0, status="Declined") for i in range(20)]
    assert said[-1]["decision"] != "approve"
    assert "declined tries in" in texts(said[-1])
    assert say(at + DAY, 1_500.0)["decision"] != "approve", "they are nobody's habit"


def test_a_failure_of_the_system_counts_for_nothing(say: Say) -> None:
    settled(say)
    at = START + 23 * DAY
    said = [say(at + i * dt.timedelta(seconds=1), status="timeout") for i in range(30)]
    assert {v["decision"] for v in said} == {"approve"}
    assert say(at + dt.timedelta(minutes=1))["decision"] == "approve"


def test_a_check_of_a_card_counts_for_a_burst(say: Say) -> None:
    settled(say)
    at = START + 23 * DAY
    said = [say(at + i * dt.timedelta(seconds=1), 0.0) for i in range(30)]
    assert said[0]["decision"] == "approve"
    assert said[-1]["decision"] != "approve"


def test_what_comes_again_is_told_with_its_alert(say: Say) -> None:
    settled(say)
    at, shop = START + 23 * DAY, {"merchant_id": "shop"}
    first, again = (say(at + dt.timedelta(seconds=s), 2_000.0, **shop) for s in (0, 4))
    other = say(at + dt.timedelta(seconds=9), 2_001.0, **shop)
    later = say(at + dt.timedelta(seconds=90), 2_000.0, **shop)
    assert "Probably" not in texts(first) + texts(other) + texts(later)
    told = f"Probably {first['transaction_id']} again: the same customer, merchant and amount 4 s"
    assert told in texts(again)
    assert "approve" not in {v["decision"] for v in (first, again, other, later)}


def test_a_currency_without_a_rate_is_judged_by_its_own_scale(say: Say, engine: Engine) -> None:
    for day in range(3):
        for i in range(30):
            at = NEXT + day * DAY + dt.timedelta(minutes=i)
            verdict = say(at, 4e6 + i, customer_id=f"shells {i}", currency="COWRIE")
            assert verdict["decision"] == "approve"
    engine.settled()
    kept = engine.store.query("FROM transactions WHERE currency = 'COWRIE' ORDER BY seq")
    assert kept.rate.isna().all()
    assert set(kept.base_currency) == {"EUR"}
    assert kept.base_amount.between(10, 100).all(), "as usual, whatever its number"
    for day in range(3):
        say(NEXT + day * DAY, 40.0, customer_id="euros")
    at = NEXT + 4 * DAY
    odd, control = (
        say(at, 1000 * usual, customer_id=who, currency=currency)
        for who, usual, currency in (("shells 1", 4e6, "COWRIE"), ("euros", 40.0, "EUR"))
    )
    engine.settled()
    weighed = "SELECT base_amount AS n FROM transactions ORDER BY seq DESC LIMIT 2"
    assert 0.2 < np.divide(*(row["n"] for row in engine.store.rows(weighed))) < 5
    queue = engine.store.rows(QUEUE, {"analyst": "", "now": dt.datetime(2026, 1, 1)})
    stake = {row["customer_id"]: row["weight"] for row in queue}
    assert 0.2 < stake["euros"] / stake["shells 1"] < 5
    (shown,) = (row for row in queue if row["customer_id"] == "shells 1")
    assert (shown["amount"], shown["currency"]) == (4e9, "COWRIE")
    assert odd["decision"] == control["decision"] != "approve"
    told = texts(odd)
    assert "COWRIE 4,000,000,000.00 is" in told
    assert "usual COWRIE " in told or "the COWRIE " in told
    assert "EUR" not in told, "nobody knows what it is worth"


def test_a_currency_of_which_nobody_knows_the_scale_is_judged_by_the_customer_s_own_amounts(
    say: Say,
) -> None:
    settled(say)
    amounts = [3e6, 4e6, 5e6, 4e6, 6e6]
    for i, amount in enumerate(amounts):
        verdict = say(START + (23 + i) * DAY, amount, currency="WAMPUM")
        assert verdict["decision"] == "approve"
    fraud, control = (
        say(START + 29 * DAY, amount, currency="WAMPUM") for amount in (2_000 * 4e6, 4e6)
    )
    assert fraud["decision"] != "approve"
    assert "× this customer's usual WAMPUM 4," in texts(fraud)
    assert "usual amount" in fraud["cleared"]
    assert control["decision"] == "approve"
    assert say(START + 29 * DAY, 2_000 * 4e6, currency="OSTRICH")["decision"] == "approve", (
        "of what nobody knows anything"
    )


def test_many_places_and_times_are_looked_up_row_by_row(tmp_path: Path) -> None:
    """What is looked up is joined to the rows alone, never two of its tables to one another."""
    store, path = connect(tmp_path / "aegis.duckdb"), tmp_path / "placed.csv"
    rows = [
        f"c{i % 50},{START + i * dt.timedelta(minutes=20):%Y-%m-%dT%H:%M:%SZ},5,"
        f"{45 + i % 71 / 20},{i % 89 / 20 - 100}"
        for i in range(3_000)
    ]
    path.write_text("\n".join(["customer_id,ts,amount,lat,lon", *rows]))
    assert import_files([path], store, progress=False).accepted == len(rows)
    with store.writing() as session:
        meant, joins = Meaning.read(session).prepared(session, "transactions")
        sql = f"EXPLAIN SELECT {meant} FROM transactions s {joins}"
        told = " ".join(row[1] for row in session.execute(sql).fetchall())
    assert "Join Type: LEFT" in told  # an inner one may be reordered: it once filled a disk
    assert "INNER" not in told


SIGNED = {
    "without kinds": ("-25 -30 -9 100", None, "payment payment payment credit"),
    "with kinds": ("-25 -30 -9 100", "DEBIT Debit D CREDIT", "payment payment payment credit"),
    "with refunds": ("-25 -30 -9 12", "sale sale sale refund", "payment payment payment refund"),
    "of refunds": ("25 30 -9 -12", "sale sale sale refund", "payment payment refund refund"),
    "mostly paid": ("25 30 -9 0", None, "payment payment refund verification"),
}


@pytest.mark.parametrize("name", SIGNED)
def test_signs_are_read_as_a_file_means_them(tmp_path: Path, name: str) -> None:
    amounts, kinds, meant = (text and text.split() for text in SIGNED[name])
    store, path = connect(tmp_path / "aegis.duckdb"), tmp_path / "signed.csv"
    rows = [
        f"c,2026-01-0{i + 1} 10:00:00,{amount}" + (f",{kinds[i]}" if kinds else "")
        for i, amount in enumerate(amounts)
    ]
    path.write_text("\n".join(["customer_id,ts,amount" + ",kind" * bool(kinds), *rows]))
    summary = import_files([path], store, progress=False)
    kept = store.rows(
        "SELECT coalesce(kind, 'payment') AS kind, amount FROM transactions ORDER BY ts"
    )
    assert [row["kind"] for row in kept] == meant
    assert [row["amount"] for row in kept] == [abs(float(a)) for a in amounts]
    assert bool(summary.remarks) == (amounts[0] == "-25")


def test_signs_are_read_as_each_of_several_files_means_them(tmp_path: Path) -> None:
    store, paths = connect(tmp_path / "aegis.duckdb"), [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, amounts in zip(paths, ("-1", "-2 -3"), strict=True):
        rows = [f"c,2026-01-01,{amount}" for amount in amounts.split()]
        path.write_text("\n".join(["customer_id,ts,amount", *rows]))
    import_files(paths, store, progress=False)
    assert store.rows("SELECT DISTINCT kind FROM transactions") == [{"kind": None}]


def test_words_that_mean_nothing_are_told_and_zones_are_known_in_any_case(tmp_path: Path) -> None:
    path, store = tmp_path / "words.csv", connect(tmp_path / "a.duckdb")
    path.write_text(
        "customer_id,timestamp,amount,kind,status,channel,zone\n"
        "a,2026-07-01 10:00,12,payment,approved,chip,europe/BERLIN\n"
        "a,2026-07-02 10:00,12,barter,lost,pigeon,Mars/Base\n"
    )
    assert import_files([path], store, progress=False).remarks == [
        "Of kind, 'barter' (1) are kept and taken as payments.",
        "Of status, 'lost' (1) are kept and taken as approved.",
        "Of channel, 'pigeon' (1) are kept and taken as in person.",
        "Of zone, 'Mars/Base' (1) name no time zone and say nothing of the hour.",
    ]
    assert store.rows("SELECT zone, local_zone, utc_offset, clock FROM transactions") == [
        {"zone": "europe/BERLIN", "local_zone": "Europe/Berlin", "utc_offset": 120,
         "clock": "customer"},
        {"zone": "Mars/Base", "local_zone": "UTC", "utc_offset": 0, "clock": "assumed"},
    ]  # fmt: skip


def test_the_base_currency_is_settled_by_what_is_kept(tmp_path: Path) -> None:
    store, path = connect(tmp_path / "aegis.duckdb"), tmp_path / "paid.csv"

    def imported(currency: str, amount: str = "5", **given: Any) -> ImportSummary:
        path.write_text(
            f'customer_id,Time {{UTC}},amount,currency\nc,2026-01-01,{amount},"{currency}"\n'
        )
        return import_files([path], store, mapping={"ts": "Time {UTC}"}, progress=False, **given)

    assert imported("USD", "much").accepted == 0
    with store.reading() as session:
        assert base_of(session) == ""
    with pytest.raises(InputError, match="no code of ISO 4217"):
        imported("USD", base_currency="EURO")
    odd = "US$'||(SELECT 1)||'"
    assert imported(odd).accepted == 1
    (row,) = store.rows("SELECT base_currency, base_amount FROM transactions")
    assert (row["base_currency"], row["base_amount"]) == (odd.upper(), 5.0)
    with pytest.raises(InputError, match="source of analysts' answers"):
        imported("USD", source="review")


def test_a_file_tells_of_later_states(tmp_path: Path) -> None:
    store, path = connect(tmp_path / "aegis.duckdb"), tmp_path / "week.csv"

    def told(*rows: str) -> ImportSummary:
        path.write_text("\n".join(["transaction_id,customer_id,ts,amount,status", *rows]))
        return import_files([path], store, progress=False)

    def row(one: str, status: str, amount: int = 5) -> str:
        return f"{one},c,2026-01-0{one},{amount},{status}"

    first = told(row("1", "pending"), row("2", "PENDING"), row("2", "paid"), row("3", "paid"))
    assert (first.accepted, first.already_there, first.later_states) == (3, 1, 1)
    again = told(row("1", "declined"), row("2", "pending"), row("2", "approved"), row("3", "paid"))
    assert (again.accepted, again.already_there, again.later_states) == (0, 4, 1)
    other = told(row("3", "declined", amount=6), row("3", ""))
    assert other.rejected == {"transaction_id is known with other content": 2}
    assert other.later_states == 0
    kept = store.rows("SELECT transaction_id, seq, status, source FROM states")
    assert [tuple(k.values()) for k in kept] == [
        ("2", 1, "approved", "week.csv"), ("1", 0, "declined", "week.csv")
    ]  # fmt: skip
    came = store.rows("SELECT status FROM transactions ORDER BY seq")
    assert [row["status"] for row in came] == ["pending", "pending", "approved"]


TRIES: Final = """
    1 c m 5 failed;   1 c m 5 declined;   1 c m 5 Captured;   1 c m 5 declined;   1 c m 5 approved
    2 d m 5 declined; 2 d other 5 paid;   2 e m 5 paid;       3 d m 0 ;           3 d m 9
    3 d m 0 ;         3 d m 10 ;          4 d m 7 paid;       4 d m 7 declined;   2 d m 6
    1 c m 5 failed;   5 c m 5 failed;     6 c m 5 declined;   6 c m 5 paid +721;  6 c m 5 paid -1
    5 c m 8 paid +9;  5 c m 8 paid +10;   5 c m 8 paid +9;    6 c m 5 paid +720
    7 c m 5 pending;  7 c m 5 booked +48; 7 c m 5 booked +48; 7 c m 5 declined +721
    7 c m 6 booked +48; 7 c m 5 pending +1; 8 c m 5 booked;   8 c m 5 pending +2
"""
"""Id, customer, merchant, amount and status of what is sent, one after the other; and how many
hours later than the first its time is."""
TRIED: Final = [
    ("1", 5.0, None, "failed", ["declined"]), ("1", 5.0, None, "approved", None),
    ("2", 5.0, None, "declined", None), ("3", 0.0, "verification", None, None),
    ("3", 9.0, None, None, None), ("4", 7.0, None, "approved", ["declined"]),
    ("2", 6.0, None, None, None), ("5", 5.0, None, "failed", None),
    ("6", 5.0, None, "declined", None), ("5", 8.0, None, "approved", None),
    ("6", 5.0, None, "approved", None), ("7", 5.0, None, "pending", ["approved"]),
    ("8", 5.0, None, "approved", None),
]  # fmt: skip
"""What is kept of it: id, amount, kind, status and later states, in the order of arrival."""


def tries(name: str) -> list[dict[str, Any]]:
    cells = [row.split() for line in TRIES.split("\n") for row in line.split(";") if row.strip()]
    return [
        {"transaction_id": f"{name}#{one}", "customer_id": customer, "merchant_id": merchant,
         "ts": str(START.replace(tzinfo=None, month=5, day=int(one)) + HOUR * sum(map(int, later))),
         "amount": float(amount), "status": status}
        for one, customer, merchant, amount, status, *later in (
            cell if len(cell) > 4 else [*cell, None] for cell in cells
        )
    ]  # fmt: skip


def kept_of(store: Store, name: str) -> list[tuple[Any, ...]]:
    rows = store.rows(
        f"SELECT transaction_id, amount, kind, status, {LATER_STATES} AS later FROM transactions t "
        "WHERE starts_with(transaction_id, ? || '#') ORDER BY seq", [name],
    )  # fmt: skip
    return [(str(r["transaction_id"]).partition("#")[2], *list(r.values())[1:]) for r in rows]


@pytest.mark.parametrize("parts", [1, 2, 5, 16])
def test_what_was_tried_and_then_paid_is_two_rows_at_every_door(
    engine: Engine, tmp_path: Path, parts: int
) -> None:
    """In one file or group and in several; sent again, it changes nothing."""
    store, path = connect(tmp_path / "filed.duckdb"), tmp_path / "some.csv"
    name = f"tried {parts}"
    rows = tries(name)
    for again in range(2):
        refused = later = new = 0
        for i in range(parts):
            part = pd.DataFrame(rows[i * len(rows) // parts : (i + 1) * len(rows) // parts])
            part.to_csv(path, index=False)
            summary = import_files([path], store, progress=False)
            refused += sum(summary.rejected.values())
            later += summary.later_states
            new += len(engine.take(pa.Table.from_pandas(part), "test"))
        assert (refused, later, new) == ((10, 3, 13), (10, 0, 0))[again]
        engine.settled()
        assert kept_of(engine.store, name) == TRIED
        # one file is stored in the order of its times
        assert sorted(map(str, kept_of(store, name))) == sorted(map(str, TRIED))
        told = store.rows("SELECT transaction_id, max(status) AS last FROM transactions "
                          "WHERE status IS NOT NULL GROUP BY 1, seq ORDER BY 1, seq")  # fmt: skip
        assert [row["last"] for row in told][:2] == ["failed", "approved"]


def test_all_of_it_replays_bit_for_bit(engine: Engine, home: tuple[Store, Settings]) -> None:
    engine.settled()
    found = parity(*home)
    assert (found.checked > 300, found.different) == (True, 0)


def test_rates_that_come_later_change_nothing_that_was_judged(
    engine: Engine, home: tuple[Store, Settings], say: Say, tmp_path: Path
) -> None:
    before = say(START + 25 * DAY, 6_500.0, currency="JPY")
    with home[0].writing() as session:
        session.execute("INSERT INTO rates VALUES ('2026-04-20', 'JPY', 100, 'test', now())")
    engine.thread.submit(engine.follow).result()
    after = say(START + 26 * DAY, 6_500.0, currency="JPY")
    engine.settled()
    rates = home[0].rows(
        "SELECT rate FROM transactions WHERE list_contains(?, transaction_id) ORDER BY seq",
        [[before["transaction_id"], after["transaction_id"]]],
    )
    assert [round(1 / row["rate"]) for row in rates] == [161, 100]
    assert parity(*home).different == 0
