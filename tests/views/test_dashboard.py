"""The board reads what is there, shows it as text and numbers, and can change nothing."""

from __future__ import annotations

import ast
import asyncio
import csv
import datetime as dt
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_core import config
from aegis_core.errors import InputError
from aegis_core.review import lists
from aegis_core.store import Store, connect, rollups
from aegis_core.views import figures, launcher
from aegis_core.views.dashboard import app, atlas, origins, pictures
from aegis_core.views.dashboard import counts as counting
from aegis_core.views.dashboard import feed as feeds
from aegis_core.views.dashboard import log as logs
from aegis_core.views.dashboard import tiles as numbers
from aegis_core.views.dashboard.app import Board
from aegis_core.views.dashboard.assets import ASSETS
from aegis_core.views.dashboard.counts import counted
from aegis_core.views.dashboard.feed import Feed, seconds
from aegis_core.views.dashboard.filters import DECISIONS, Filters
from aegis_core.views.dashboard.widgets import Chart, Table
from aegis_core.views.launcher import serve

HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(2)</script> O'Łódź"
NOON = dt.datetime(2026, 4, 1, 12)

ARRIVE = """
    INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount, currency, merchant_id,
      category, channel, lat, lon, source)
    SELECT seq, 't' || seq, 'c' || seq % 7, TIMESTAMP '2026-03-31' + INTERVAL (seq * 61) SECOND,
           1 + seq % 500, 'EUR', CASE seq % 3 WHEN 0 THEN NULL ELSE $merchant END,
           CASE seq % 2 WHEN 0 THEN 'travel' END, NULL,
           CASE WHEN seq % 4 = 0 THEN 40 + seq % 9 END, CASE WHEN seq % 4 = 0 THEN seq % 11 END,
           'test'
    FROM range($first, $first + $n) AS new(seq)"""
JUDGE = """
    INSERT INTO verdicts
    SELECT seq, transaction_id, $model, seq % 100 / 100, seq % 100,
           CASE WHEN seq % 50 = 0 THEN 'block' WHEN seq % 10 = 1 THEN 'review' ELSE 'approve' END,
           CASE WHEN seq % 100 = 0
                THEN [{'factor': 'travel', 'code': 'far', 'text': 'far', 'contribution': 1.0}]
                WHEN seq % 50 = 0
                THEN [{'factor': 'amount', 'code': 'high', 'text': $merchant, 'contribution': 1.0},
                      {'factor': 'hour', 'code': 'late', 'text': 'late', 'contribution': 0.5}]
                ELSE [] END,
           NULL,
           CASE WHEN seq % 3 > 0
                THEN {'amount': 0.0, 'travel': seq % 3 * 1.0, 'hour': 0.0, 'burst': 0.0} END,
           CASE WHEN seq % 3 > 0 THEN seq % 90 * 1.0 END,
           $scored_at::TIMESTAMP + INTERVAL (seq - $first) MILLISECOND,
           NULL, NULL, NULL, NULL, NULL
    FROM transactions WHERE seq >= $first AND seq < $first + $n"""


def arrive(store: Store, first: int, n: int, *, scored_at: dt.datetime = NOON) -> None:
    """Transactions `first` to `first + n - 1` with their verdicts: 1 in 50 blocked."""
    common = {"first": first, "n": n, "merchant": HOSTILE}
    with store.writing(checkpoint=False) as session:
        session.execute(ARRIVE, common)
        session.execute(JUDGE, {**common, "model": "v1", "scored_at": scored_at})
        rollups.add(session, first, first + n - 1)


def train(store: Store) -> None:
    """A run and the model that it made."""
    with store.writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at, report_path)"
            " VALUES ('run-7', 'train', 'done', now(), 'reports/run-7/report.html')"
        )
        session.execute(
            "INSERT INTO models (version, detector, path, n_train, data_hash, run_id, created_at, "
            "promoted_at, parameters) VALUES ('v1', 'forest', 'models/v1', 1234, 'abc123', "
            "'run-7', now(), '2026-03-31 03:00', '{\"alert_budget\": 0.01}')"
        )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that no test changes."""
    made = connect(tmp_path_factory.mktemp("filled") / "a.duckdb")
    arrive(made, 0, 300)
    train(made)
    with made.writing() as session:
        session.execute("INSERT INTO service_stats VALUES (?, 5, 250, 2.5, 11.5, 0)", [NOON])
    return made


@pytest.fixture
def store(filled: Store, tmp_path: Path) -> Store:
    """A copy, before a service told of itself."""
    shutil.copy(filled.path, tmp_path / "a.duckdb")
    made = connect(tmp_path / "a.duckdb")
    with made.writing() as session:
        session.execute("DELETE FROM service_stats")
    return made


def reading(store: Store) -> Feed:
    """A feed five seconds after the verdicts came."""
    later = NOON + dt.timedelta(seconds=5)
    return Feed(connect(store.path, wait_s=0.2), now=lambda: later, storm_multiple=1e6)


@pytest.fixture
def feed(store: Store) -> Feed:
    return reading(store)


# ---- reading

CHOICES = (
    Filters(),
    Filters(decision="block"),
    Filters(factor="amount"),
    Filters(category="travel", decision="approve"),
    Filters(min_amount=101.0),
    Filters(min_amount=50.0, max_amount=60.0, decision="review"),
    Filters(customer="c3"),
    Filters(decision="alerts", merchant_id=HOSTILE),
    Filters(customer="c3' OR true --"),
    Filters(min_amount=1e6),
    Filters(period="all", factor="travel"),
    Filters(period="between", start=seconds(NOON) - 60, end=seconds(NOON) + 60),
    Filters(period="between", start=1.0, end=100.0),
)


def passing(store: Store, filters: Filters) -> list[dict[str, Any]]:
    """What passes, by a query over everything; the periods of `CHOICES` hold it all or nothing."""
    found = store.rows(
        """
        SELECT v.seq, v.decision, coalesce(v.reasons[1].factor, '') AS factor, amount
        FROM verdicts v JOIN transactions t USING (seq)
        WHERE ($d = '' OR decision = $d OR ($d = 'alerts' AND decision <> 'approve'))
          AND ($f = '' OR v.reasons[1].factor = $f)
          AND ($c = '' OR category = $c) AND ($who = '' OR customer_id = $who)
          AND ($shop = '' OR merchant_id = $shop)
          AND amount >= $low AND ($high = 0 OR amount <= $high) ORDER BY seq""",
        {
            **{"d": filters.decision, "f": filters.factor, "c": filters.category},
            **{"shop": filters.merchant_id},
            **{"who": filters.customer, "low": filters.min_amount, "high": filters.max_amount},
        },
    )
    return [] if filters.end == 100 else found


def assert_same(read: feeds.Snapshot, expected: list[dict[str, Any]]) -> None:
    counts = read.counts
    for code, decision in enumerate(DECISIONS):
        of = [row for row in expected if row["decision"] == decision]
        assert counts.total(code) == len(of)
        amount = counts.amount[counts.decision == code].sum()
        assert amount == pytest.approx(sum(row["amount"] for row in of))
    for factor in ("", "travel", "amount"):
        n = counts.n[counts.factor == factor].sum()
        assert n == sum(row["factor"] == factor for row in expected)
    assert read.window["seq"].tolist() == [row["seq"] for row in expected][-feeds.WINDOW :]


def test_what_is_read_tick_by_tick_equals_the_full_query(store: Store) -> None:
    feeds_of = [(filters, reading(store)) for filters in CHOICES]
    for first, n in ((300, 0), (300, 40), (340, 1), (341, 160)):
        if n:
            arrive(store, first, n, scored_at=NOON + dt.timedelta(seconds=first - 300))
        for filters, feed in feeds_of:
            assert_same(feed.read(filters), passing(store, filters))
    for filters, feed in feeds_of:
        again = Feed(store, now=feed.now).read(filters)
        assert_same(again, passing(store, filters))


def test_filters_can_be_changed_between_two_ticks(store: Store, feed: Feed) -> None:
    for filters in (*CHOICES, *CHOICES[:3]):
        assert_same(feed.read(filters), passing(store, filters))


def test_verdicts_that_are_gone_are_not_counted_any_more(store: Store, feed: Feed) -> None:
    assert feed.read(Filters()).counts.total() == 300
    with store.writing() as session:
        session.execute("DELETE FROM verdicts WHERE seq >= 200")
        session.execute("DELETE FROM rollups")
        rollups.add(session, 0, 10**6)
    assert feed.read(Filters()).counts.total() == 200


def test_verdicts_that_nobody_counted_are_told(store: Store, feed: Feed) -> None:
    with store.writing() as session:
        session.execute("DELETE FROM rollups WHERE decision = 'block'")
    assert feed.read(Filters()).uncounted == 6


def test_the_window_is_not_read_again_until_something_arrives(store: Store, feed: Feed) -> None:
    first = feed.read(Filters())
    assert feed.read(Filters()).window is first.window
    arrive(store, 300, 1)
    assert feed.read(Filters()).window is not first.window


def test_the_window_holds_the_newest_verdicts_in_order(tmp_path: Path) -> None:
    store = connect(tmp_path / "long.duckdb")
    arrive(store, 0, feeds.WINDOW + 50)
    read = Feed(store, now=lambda: NOON).read(Filters())
    assert read.window["seq"].tolist() == list(range(50, feeds.WINDOW + 50))


def test_a_tick_asks_only_for_what_came_since(store: Store, feed: Feed) -> None:
    feed.read(Filters(customer="c3"))
    arrive(store, 300, 5)
    asked: list[Any] = []
    plain = feeds.Session.numpy

    def noted(session: Any, sql: str, params: Any = None) -> Any:
        asked.append((sql, params))
        return plain(session, sql, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeds.Session, "numpy", noted)
        feed.read(Filters(customer="c3"))
    over_rows = [params for sql, params in asked if "JOIN transactions t" in sql]
    assert [params[:4] for params in over_rows] == [[300, 304, 300, 304]] * 2
    assert not any("FROM verdicts" in sql and "seq" not in sql for sql, _ in asked)


def test_the_rate_counts_the_last_ten_seconds(store: Store) -> None:
    assert Feed(store, now=lambda: NOON).read(Filters()).rate_per_s == pytest.approx(30)
    later = NOON + dt.timedelta(seconds=11)
    assert Feed(store, now=lambda: later).read(Filters()).rate_per_s == 0


def test_the_origin_leads_from_the_numbers_to_the_run(feed: Feed) -> None:
    told = dict(origins.lineage(feed.read(Filters())))
    assert (told["Champion"], told["since"]) == ("v1", "2026-03-31 03:00 UTC")
    assert told["trained on"] == "1,234 transactions"
    assert (told["run"], told["data"]) == ("run-7", "abc123")
    assert told["report"] == "reports/run-7/report.html"


def test_the_origin_names_every_champion_of_the_period(store: Store, feed: Feed) -> None:
    with store.writing() as session:
        session.execute(
            "INSERT INTO models (version, detector, path, run_id, data_hash, created_at) VALUES "
            "('v0', 'forest', 'm', 'run-5', 'abc0', now()), ('old', 'forest', 'm', 'r', 'x', now())"
        )
        session.execute(
            "INSERT INTO promotions VALUES ('old', 'champion', 'a', '2026-03-01'), "
            "('v0', 'champion', 'a', '2026-03-02'), ('v1', 'shadow', 'a', '2026-03-03'), "
            "('v1', 'rollback', 'a', '2026-04-01 02:00')"
        )
    (line,) = origins.before(feed.read(Filters()))
    assert line == [
        *(("Champion", "v0"), ("until", "2026-04-01 02:00 UTC")),
        *(("run", "run-5"), ("data", "abc0")),
    ]
    versions = [dict(line)["Champion"] for line in origins.before(feed.read(Filters("all")))]
    assert versions == ["v0", "old"]
    assert origins.before(feed.read(Filters("15m"))) == []


def asked(store: Store, origin: dict[str, str]) -> list[tuple[Any, ...]]:
    """What the query of a part of the board gives, as somebody who pastes it would see it."""
    sql = origin["sql"].replace("now()", f"TIMESTAMP '{NOON + dt.timedelta(seconds=5)}'")
    return [tuple(row.values()) for row in store.rows(sql)]


@pytest.mark.parametrize("chosen", [(), (7, 8, 51, 100, 200)], ids=["all", "chosen"])
@pytest.mark.parametrize("filters", CHOICES, ids=lambda f: json.dumps(f.chosen()))
def test_every_number_and_picture_is_what_its_query_gives(
    filled: Store, filters: Filters, chosen: tuple[int, ...]
) -> None:
    read = reading(filled).read(filters)
    chosen = tuple(seq for seq in chosen if seq in set(read.window["seq"].tolist()))
    window = {k: v[np.isin(read.window["seq"], chosen)] for k, v in read.window.items()}
    counts = counted(window, read.counts.width_s) if chosen else read.counts
    told = origins.queries(read, filters, chosen)
    with filled.reading():
        by_part = {part: asked(filled, told[part]) for part in told}

    def one(part: str) -> Any:
        return by_part[part][0][0] or 0

    n = counts.total()
    assert [one("transactions"), one("blocked"), one("review")] == [
        *(n, counts.total(2), counts.total(1)),
    ]
    assert not n or one("fraud_rate") == pytest.approx(counts.total(1, 2) / n)
    money, _ = numbers.amounts(counts, 2)
    assert money == (
        " ".join((by_part["protected"][0][0], numbers.short(float(by_part["protected"][0][1]))))
        if by_part["protected"]
        else "0"
    )
    assert one("rate") == pytest.approx(read.rate_per_s)
    assert one("latency") == numbers.latency(read) == 11.5
    assert sorted(row[0] for row in by_part["scatter"]) == read.window["seq"].tolist()
    alerts = np.unique(counts.factor[counts.decision > 0].astype(str))
    assert {row[0] or "" for row in by_part["reasons"]} == set(alerts)
    assert sum(row[-1] for row in by_part["reasons"]) == counts.total(1, 2)
    bars = {(row[0] // 1_000, row[1]): row[2] for row in by_part["bars"]}
    for start in np.unique(counts.start):
        for code, decision in enumerate(DECISIONS):
            here = counts.n[(counts.start == start) & (counts.decision == code)].sum()
            assert bars.get((int(start), decision), 0) == here
    assert sum(row[1] for row in by_part["budget"]) == read.today.total(1, 2)
    assert sum(float(row[2]) for row in by_part["budget"]) == pytest.approx(
        0.01 * read.today.total()
    )
    travels = {t["seq"] for t in read.travels if not chosen or t["seq"] in chosen}
    assert travels <= {row[0] for row in by_part["map"]}
    assert [row[3] for row in by_part["stats"]] == [50.0]
    if len(read.window["seq"]):
        share, _ = pictures.drift(read.window["risk"])
        above = [row[1] for row in by_part["drift"] if row[0] >= 50]
        assert sum(above) == pytest.approx(100 * share[10:].sum())
    assert by_part["campaigns"] == [tuple(found.values()) for found in read.campaigns]
    assert len(by_part["log"]) == (len(chosen) or len(read.window["seq"]))


def test_of_drift_nothing_is_said_of_few_of_a_part_or_of_a_champion_before(
    store: Store, feed: Feed
) -> None:
    later = {"scored_at": NOON + dt.timedelta(seconds=4)}
    arrive(store, 300, pictures.FEWEST - 1, **later)
    board = Board(feed)
    board.refresh()
    assert board.drift.note.endswith(f"stable; {pictures.FEWEST + 299:,} newest")
    board.choose(Filters(decision="block"))
    assert board.drift.note.endswith("drift is told of all")
    with store.writing() as session:
        session.execute("UPDATE models SET promoted_at = ?", [NOON + dt.timedelta(seconds=2)])
    board = Board(reading(store))
    board.refresh()
    assert board.drift.note == f"{pictures.FEWEST - 1:,} by this champion, too few to judge"
    sql = origins.queries(reading(store).read(Filters()), Filters())["drift"]["sql"]
    shares = [row["percent"] for row in store.rows(sql)]
    share, _ = pictures.drift(pictures.of_champion(board._snapshot.window, seconds(NOON) + 2))
    assert sorted(shares) == pytest.approx(sorted(100 * share))


def test_a_long_choice_is_told_in_part_and_hostile_filters_stay_values(
    store: Store, feed: Feed
) -> None:
    read = feed.read(Filters())
    sql = origins.queries(read, Filters(), range(100))["transactions"]["sql"]
    assert sql.endswith("18, 19, … and 80 more)")
    for customer in ("c3' OR true --", "?", "'?'", HOSTILE):
        filters = Filters(customer=customer, category="?'")
        told = origins.queries(feed.read(filters), filters)
        with store.reading():
            for origin in told.values():
                asked(store, origin)


def test_notebooks_that_run_are_told_with_their_progress(store: Store, feed: Feed) -> None:
    assert origins.running(feed.read(Filters())) == []
    with store.writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at, cells_done, cells_total, "
            "heading) VALUES ('r1', 'evaluate', 'running', '2026-04-01', 5, 46, 'By fold <b>'), "
            "('r2', 'drift', 'running', '2026-04-02', 0, 20, NULL)"
        )
    told = dict(origins.running(Feed(store, now=feed.now).read(Filters())))
    assert told["running"] == "evaluate 5 of 46 cells · By fold <b>, drift 0 of 20 cells"


def test_the_last_proof_is_told(store: Store, feed: Feed) -> None:
    assert numbers.proof(feed.read(Filters()))["state"] == "none"
    with store.writing() as session:
        session.execute("INSERT INTO proofs VALUES ('2026-04-01 02:00', 9, 4)")
        session.execute("INSERT INTO proofs VALUES ('2026-04-01 03:00', 412380, 0)")
    told = numbers.proof(Feed(store, now=feed.now).read(Filters()))
    assert told["state"] == "same"
    assert told["text"] == (
        "live = replay: checked 2026-04-01 03:00 UTC, 412,380 verdicts, 0 differ"
    )


def test_latency_is_told_while_a_service_tells_it(store: Store, feed: Feed) -> None:
    assert numbers.latency(feed.read(Filters())) is None
    with store.writing() as session:
        session.execute(
            "INSERT INTO service_stats VALUES (?, 5, 250, 2.5, 11.5, 0), (?, 5, 0, NULL, NULL, 0)",
            [NOON, NOON + dt.timedelta(seconds=4)],
        )
    assert numbers.latency(Feed(store, now=feed.now).read(Filters())) == 11.5
    late = Feed(store, now=lambda: NOON + dt.timedelta(minutes=2))
    assert numbers.latency(late.read(Filters())) is None


def test_a_missing_value_stays_missing(feed: Feed) -> None:
    read = feed.read(Filters())
    (row,) = logs.rows(read.window, np.flatnonzero(read.window["seq"] == 297))
    assert (row["merchant_id"], row["category"], row["place"]) == (None, None, None)
    assert row["reasons"] == ""
    assert np.isnan(read.window["travel"][297])
    assert read.window["travel"][298] == 1.0
    assert read.window["distance"][298] == 298 % 90


def test_a_storm_is_told_on_the_board_with_the_worst_alert_first(store: Store, feed: Feed) -> None:
    calm = Board(feed)
    calm.refresh()
    assert calm.head.storm == ""
    n = int(store.rows("SELECT max(seq) + 1 AS n FROM verdicts")[0]["n"])
    with store.writing() as session:
        session.execute(
            "UPDATE verdicts SET decision = 'review', risk = 99 WHERE seq < 60; "
            "UPDATE transactions SET merchant_id = 'shop' WHERE seq < 60; "
            "UPDATE transactions SET amount = 1e7 WHERE seq = 3; DELETE FROM rollups; "
            "UPDATE models SET parameters = '{\"alert_budget\": 0.001}'"
        )
        rollups.add(session, 0, n - 1)
    board = Board(Feed(store, now=feed.now))
    board.refresh()
    assert board.head.storm.startswith("Storm: ")
    assert shown_rows(board)[0]["seq"] == 3
    assert "risk × amount" in board.table.note
    calm.feed = Feed(store, now=feed.now, storm_multiple=1e6)
    calm.refresh()
    assert calm.head.storm == "", "it is a matter of the setting"


def test_alerts_of_several_customers_that_share_something_are_a_campaign(
    store: Store, feed: Feed
) -> None:
    n = 1 + int(store.rows("SELECT max(seq) AS n FROM verdicts")[0]["n"])
    with store.writing() as session:
        session.execute(
            "UPDATE transactions SET merchant_id = 'm' || seq % 200; "
            "UPDATE verdicts SET decision = 'approve'; "
            # 6 customers at one device, of whose tries 2 are declined; then 6 payments of one
            "UPDATE transactions SET device_id = 'd1', status = CASE WHEN seq < 2 THEN 'declined' "
            "END, currency = CASE seq WHEN 5 THEN 'USD' ELSE 'EUR' END WHERE seq < 6; "
            "UPDATE transactions SET device_id = 'd2', customer_id = 'c9' "
            "WHERE seq IN range(6, 12); "
            "UPDATE verdicts SET decision = CASE WHEN seq < 4 THEN 'block' ELSE 'review' END "
            "WHERE seq < 12; DELETE FROM rollups"
        )
        rollups.add(session, 0, n - 1)
    board = Board(feed)
    board.refresh()
    (row,) = board.campaigns.rows
    told = {k: row[k] for k in ("shared", "customers", "alerts", "blocked", "declined", "currency")}
    assert told == {
        **{"shared": "at device d1", "customers": 6, "alerts": 6, "blocked": 4, "declined": 2},
        "currency": "several",
    }
    assert board.tiles.tiles[0]["value"] == "300"
    for strange in ({"row": 10**9}, {"row": None}, {}):
        board._campaign_opened(strange)
    assert board.filters == Filters()
    board._campaign_opened({"row": row["seq"]})
    assert board.filters.chosen()["device_id"] == "d1"
    assert [row["seq"] for row in shown_rows(board)] == [5, 4, 3, 2, 1, 0]
    board.choose(Filters(customer="c9"))
    assert (board.campaigns.rows, board.campaigns.note) == ([], "none in this period")


def test_the_board_tells_who_is_snoozed_until_when_by_whom_and_why(
    store: Store, feed: Feed
) -> None:
    (newest,) = store.rows("SELECT max(ts) AS ts FROM transactions")
    for who, days in (("anna", 3), ("ben", 5), ("eve", 7)):
        until = f"{newest['ts'] + dt.timedelta(days=days)}"
        last = lists.add(store, "snooze", f"c-{who}", until=until, who=who, why="travels")
    lists.add(store, "snooze", "c-past", until=f"{newest['ts']:%Y-%m-%d}", who="eve", why="x")
    lists.end(store, last.entry_id, who="ben", why="is back")
    board = Board(feed)
    board.refresh()
    told = [(customer, who, why) for customer, _, who, why in board.head.snoozed]
    assert told == [("c-ben", "ben", "travels"), ("c-anna", "anna", "travels")]
    ends = newest["ts"] + dt.timedelta(days=5)
    assert board.head.snoozed[0][1] == f"{ends:%Y-%m-%d %H:%M}"


def test_the_board_says_what_was_replayed_and_opens_where_it_is(store: Store) -> None:
    with store.writing() as session:
        session.execute(
            "UPDATE verdicts SET replayed_at = '2026-04-01 11:00', scored_at = scored_at - "
            "INTERVAL 20 DAY WHERE seq >= 100"
        )
        session.execute("UPDATE models SET trained_to = '2026-03-13' WHERE version = 'v1'")
        session.execute("DELETE FROM rollups")
        rollups.add(session, 0, 10**9)
    later = Feed(store, now=lambda: NOON + dt.timedelta(days=2))
    board = Board(later)
    board.refresh()
    assert board.head.replayed == "", "none of today's"
    board = Board(later)
    board.open()
    drawn = board.scatter.figure["traces"]  # of the state: a message would reach nobody yet
    assert sum(len(trace["x"]["column"]) for trace in drawn)
    bars = board.bars.figure["traces"][0]
    counts = later.read(Filters("all")).counts
    n_bars = (counts.start.max() - counts.start.min()) / counts.width_s + 1
    assert len(bars["y"]["column"]) == 4 * n_bars, "the axis ends with the newest"
    assert board.controls.chosen == {"period": "all"}
    n, replayed = (store.value(f"SELECT count({c}) FROM verdicts") for c in ("*", "replayed_at"))
    assert tile(board, "transactions") == f"{n:,}"
    assert board.head.replayed == (
        f"{replayed:,} of these verdicts are replayed (on 2026-04-01 11:00 UTC), as if the model "
        f"had been there. Of these {replayed:,} are from before its training ended."
    )
    marked = {row["seq"]: row["scored_at"].startswith("↺ 2026-03-12") for row in shown_rows(board)}
    assert marked == {seq: seq >= 100 for seq in marked}
    assert set(marked.values()) == {True}
    assert "↺ replayed" in board.table.note
    rows = list(
        csv.DictReader(
            io.StringIO(
                logs.as_csv(later.read(Filters("all")).window, np.arange(n)).decode("utf-8-sig")
            )
        )
    )
    assert [row["replayed"] for row in rows].count("replayed") == replayed


def test_an_impossible_travel_begins_where_the_customer_was_last(store: Store, feed: Feed) -> None:
    travels = feed.read(Filters()).travels
    assert [t["seq"] for t in travels] == [0, 100, 200][-len(travels) :]
    for travel in travels:
        (before,) = store.rows(
            "SELECT lat, lon FROM transactions WHERE customer_id = ? AND lat IS NOT NULL "
            "AND seq < ? AND seq % 50 <> 0 ORDER BY seq DESC LIMIT 1",
            [travel["customer_id"], int(travel["seq"])],
        )
        assert (travel["from_lat"], travel["from_lon"]) == (before["lat"], before["lon"])


# ---- what a page may ask for

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
NAMES = sorted(vars(Filters()))


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING) | ANYTHING)
@settings(max_examples=80, deadline=None)
def test_whatever_is_asked_for_filters_are_filters(asked: object) -> None:
    made = Filters.parse(asked)
    assert Filters.parse(made.chosen()) == made
    assert Filters.parse(json.loads(json.dumps(made.chosen()))) == made
    assert {k: str(v) for k, v in Filters.parse(
        {k: str(v) for k, v in made.chosen().items()}
    ).chosen().items()} == {k: str(v) for k, v in made.chosen().items()}  # fmt: skip
    first, end = made.from_to(NOON)
    assert end is None or first < end
    assert "'" not in made.condition()[0] + made.condition(rolled=True)[0]


def test_a_merchant_category_code_has_its_name_on_the_board_and_none_in_a_file() -> None:
    window = {name: np.array([0.0]) for name in logs._IN_FILE}
    window |= {name: np.array(["x"], object) for name in ("customer_id", "transaction_id")}
    window["category"] = np.array(["5411"], object)
    (row,) = logs.rows(window, np.array([0]))
    assert row["category"] == "5411 Groceries and supermarkets"
    (kept,) = csv.DictReader(io.StringIO(logs.as_csv(window, np.array([0])).decode("utf-8-sig")))
    assert kept["category"] == "5411"


@pytest.mark.parametrize(
    "text", [HOSTILE, "=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "x" * 9]
)
def test_a_spreadsheet_takes_nothing_for_a_formula(text: str) -> None:
    window = {name: np.array([0.0]) for name in logs._IN_FILE}
    window |= {name: np.array([text], object) for name in ("customer_id", "reasons", "category")}
    window |= {name: np.array([None], object) for name in ("currency", "merchant_id")}
    window["transaction_id"] = np.array(["t"], object)
    told = logs.as_csv(window, np.array([0])).decode("utf-8-sig")
    (row,) = csv.DictReader(io.StringIO(told, newline=""))
    assert row["customer_id"].removeprefix("'") == text
    assert not row["customer_id"].lstrip().startswith(("=", "+", "-", "@"))
    assert not row["customer_id"].startswith(("\t", "\r"))


@pytest.mark.parametrize("message", ["text", b"", b"\x00" * 8, b"\xff" * 64, b"\x09" + bytes(70)])
def test_a_message_that_tells_more_parts_than_it_has_is_refused(message: bytes | str) -> None:
    assert not launcher.well_formed(message)


# ---- pictures


@given(
    times=st.lists(st.floats(0, 4e9), min_size=1, max_size=50),
    decisions=st.lists(st.sampled_from([0, 1, 2]), min_size=50, max_size=50),
    width_s=st.sampled_from([60, 3600, 86_400]),
)
@settings(max_examples=60, deadline=None)
def test_every_verdict_stands_in_the_bar_of_its_time(
    times: list[float], decisions: list[int], width_s: int
) -> None:
    at, kinds = np.sort(np.array(times))[-20:], np.array(decisions[: min(20, len(times))])
    at = at[at > at[-1] - 500 * width_s]
    kinds = kinds[: len(at)]
    texts = np.full(len(at), "", object)
    rows = {"scored_at": at, "decision": kinds, "factor": texts, "currency": texts, "amount": at}
    starts, stacked = counted(rows, width_s).bars(float(at[0]), float(at[-1]))
    assert stacked.sum(axis=1).tolist() == [(kinds == kind).sum() for kind in range(3)]
    for start, count in zip(starts, stacked.sum(axis=0), strict=True):
        assert count == ((at >= start) & (at < start + width_s)).sum()


@pytest.mark.parametrize(("x", "y", "z"), [("hour", "amount", ""), ("risk", "score", "distance")])
def test_the_scatter_draws_every_verdict_once(feed: Feed, x: str, y: str, z: str) -> None:
    window = feed.read(Filters()).window
    drawn = pictures.unpacked(pictures.scatter_figure(window, x, y, z), figures.COLOURS)
    for axis, column in zip(("x", "y", "z", "customdata"), (x, y, z, "seq"), strict=True):
        if column:
            points = np.concatenate([trace[axis] for trace in drawn["traces"]])
            expected = np.sort(window[column]).astype(np.float32)
            np.testing.assert_array_equal(np.sort(points).astype(np.float32), expected)


def test_a_hover_shows_reasons_as_text(feed: Feed) -> None:
    blocked = pictures.points(feed.read(Filters()).window, "hour", "amount")[2]
    (told,) = {text for text in blocked["text"] if text.startswith('"')}
    assert "<" not in told
    assert "&lt;script&gt;" in told
    assert len(pictures.plain("x" * 10_000)) == pictures.LONGEST_HOVER
    assert pictures.plain("a\u202eb\u2066c\x00d") == "abcd"


def test_the_forecast_goes_on_as_the_last_hour() -> None:
    hours = np.arange(10.0)
    texts = np.full(20, "", object)
    today = counted(
        {
            "start": np.repeat(seconds(NOON) - 43_200 + hours * 3_600, 2),
            "decision": np.tile([0, 1], 10),
            **{"factor": texts, "currency": texts, "amount": np.ones(20)},
            "n": np.tile([99.0, 1.0], 10),
        },
        3_600,
    )
    found = pictures.budget(today, 0.01, NOON.replace(hour=10))
    assert (found.used, found.allowed) == (10, 10)
    assert (found.forecast, found.allowed_by_midnight) == (24, 24)
    empty = pictures.budget(counting.nothing(), 0.01, NOON)
    assert (empty.used, empty.forecast) == (0, 0)


@given(st.floats(0, 100), st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_scores_that_did_not_change_show_no_drift(tied: float, n: int) -> None:
    even = (np.arange(40 * n) + 0.5) / (40 * n) * 100
    assert pictures.drift(np.where(even < tied, 0.0, even))[1] < 0.05 or tied > 95
    assert pictures.drift(np.full(n, 99.0))[1] > 0.2


@given(*[st.floats(-89, 89), st.floats(-180, 180)] * 2)
@settings(max_examples=60, deadline=None)
def test_a_great_circle_joins_its_ends_without_a_jump(
    lat: float, lon: float, to_lat: float, to_lon: float
) -> None:
    lons, lats = atlas.great_circle(lat, lon, to_lat, to_lon)
    for at, (end_lat, end_lon) in ((0, (lat, lon)), (-1, (to_lat, to_lon))):
        assert lats[at] == pytest.approx(end_lat, abs=1e-6)
        off = abs(lons[at] - end_lon) % 360
        assert min(off, 360 - off) < 1e-5
    assert np.nanmax(np.abs(np.diff(lons)), initial=0.0) <= 180


def test_outlines_are_on_the_map() -> None:
    lons, lats = atlas.outlines()
    assert np.nanmin(lons) >= -180
    assert np.nanmax(lons) <= 180
    assert np.nanmin(lats) >= -90
    assert "public domain" in json.loads(atlas.OUTLINES.read_text())["source"]


def test_the_page_has_the_colours_of_the_figures() -> None:
    light = (ASSETS / "board.css").read_text().split('[data-aegis="dark"]')[0].upper()
    for decision in ("review", "block"):
        colour = re.search(rf"--AEGIS-{decision.upper()}-FILL: (#\w+)", light)
        assert colour is not None
        assert colour[1] == figures.COLOURS[decision].upper()


# ---- the board


def points(board: Board) -> list[int]:
    traces = board.scatter._shown["traces"]
    return [len(trace["customdata"]["column"]) // 8 for trace in traces]


def say(widget: Any, **content: Any) -> None:
    """What a page sends."""
    widget._handle_custom_msg(content, [])


def shown_rows(board: Board) -> list[dict[str, Any]]:
    return board.table._shown


@pytest.fixture
def board(feed: Feed) -> Board:
    made = Board(feed)
    made.refresh()
    return made


def tile(board: Board, name: str) -> str:
    (value,) = [t["value"] for t in board.tiles.tiles if t["id"] == name]
    return str(value)


def test_a_visitors_choice_changes_the_pictures_and_the_table(board: Board) -> None:
    assert points(board) == [264, 30, 6]
    say(board.controls, change={"decision": "block"})
    assert points(board) == [0, 0, 6]
    assert {row["decision"] for row in shown_rows(board)} == {"block"}
    assert tile(board, "transactions") == "6"
    say(board.axes, change={"x": "travel", "z": "risk"})
    assert board.scatter._shown["traces"][0]["type"] == "scatter3d"
    assert board.controls.chosen == {"decision": "block", "x": "travel", "z": "risk"}
    say(board.controls, choose={})
    assert points(board) == [264, 30, 6]


def test_new_verdicts_reach_the_tiles(store: Store, board: Board) -> None:
    assert [tile(board, n) for n in ("transactions", "blocked", "review")] == ["300", "6", "30"]
    arrive(store, 300, 50)
    board.refresh()
    assert [tile(board, n) for n in ("transactions", "blocked", "review")] == ["350", "7", "35"]
    assert tile(board, "fraud_rate") == "12.00%"
    assert tile(board, "protected") == "EUR 1,057"


def test_a_selection_filters_everything_else(board: Board) -> None:
    say(board.scatter, selected=[0, 1, 50, 51, 2, 10**9, "x", None])
    assert sorted(row["seq"] for row in shown_rows(board)) == [0, 1, 2, 50, 51]
    assert [tile(board, n) for n in ("transactions", "blocked", "review")] == ["5", "2", "2"]
    assert board.reasons.note == "4 alerts"
    say(board.controls, need="csv")
    say(board.scatter, selected=None)
    assert tile(board, "transactions") == "300"
    assert len(shown_rows(board)) == logs.TABLE_ROWS


def test_a_brush_chooses_a_period_and_a_row_its_customer(board: Board) -> None:
    noon = seconds(NOON) * 1_000
    say(board.bars, range=[noon + 30_000, noon - 30_000])
    assert board.filters == Filters()
    say(board.bars, range=[noon - 30_000, noon + 30_000])
    assert (board.filters.period, board.filters.start) == ("between", noon / 1_000 - 30)
    assert tile(board, "transactions") == "300"
    say(board.table, row=shown_rows(board)[0]["seq"])
    assert board.filters.customer == "c5"
    assert {row["customer_id"] for row in shown_rows(board)} == {"c5"}
    assert board.controls.chosen["customer"] == "c5"


def test_a_file_holds_what_is_shown(board: Board) -> None:
    sent: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board.controls, "send", lambda content, buffers: sent.append(buffers[0]))
        say(board.controls, change={"decision": "block"})
        say(board.controls, need="csv")
    (row, *others) = csv.DictReader(io.StringIO(sent[0].decode("utf-8-sig"), newline=""))
    assert (row["seq"], row["amount"], row["decision"]) == ("250", "251.0", "block")
    assert len(others) == 5


def test_a_service_that_ends_makes_the_board_stale(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert board.head.status["state"] == "live", "no service was ever there"
    monkeypatch.setattr(feeds, "find", lambda path: object())
    board.refresh()
    assert board.head.status["state"] == "live"
    monkeypatch.setattr(feeds, "find", lambda path: None)
    board.refresh()
    assert board.head.status["state"] == "stale"
    assert board.head.status["since"] == seconds(NOON + dt.timedelta(seconds=5)) * 1_000
    monkeypatch.setattr(feeds, "find", lambda path: object())
    board.refresh()
    assert (board.head.status["state"], board.head.status["since"]) == ("live", None)


def test_what_cannot_be_drawn_is_shown_and_not_raised(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "tiles", lambda *_: 1 / 0)
    board.refresh()
    assert board.head.status["text"] == "what was read cannot be shown (ZeroDivisionError)"


def test_only_what_changed_is_sent(store: Store, board: Board) -> None:
    sent: list[tuple[str, int]] = []

    def noted(widget: Any, content: Any, buffers: Any = None) -> None:
        size = len(json.dumps(content)) + sum(map(len, buffers or []))
        sent.append((getattr(widget, "title", ""), size))

    full = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Chart, Table):
            patch.setattr(kind, "send", noted)
            patch.setattr(kind, "_all", lambda self: full.append(self.title))
        board.refresh()
        assert sent == []
        arrive(store, 300, 50, scored_at=NOON + dt.timedelta(seconds=3))
        board.refresh()
    sizes = dict(sent)
    assert full == []
    assert sizes["Transactions"] < 2_500
    assert sizes["Verdicts over time"] < 500


def test_a_page_that_missed_a_message_gets_everything_again(store: Store, board: Board) -> None:
    arrive(store, 300, 50)
    board.refresh()
    assert len(board.scatter.figure["traces"][0]["customdata"]["column"]) == 8 * 264
    for widget in (board.scatter, board.table):
        say(widget, need="all")
    assert len(board.scatter.figure["traces"][0]["customdata"]["column"]) == 8 * 308
    assert board.table.rows[0]["seq"] == 349


def test_a_busy_database_is_shown_as_stale_until_it_is_free(store: Store, feed: Feed) -> None:
    board = Board(feed)
    board.refresh()
    as_of = board.head.status["as_of"]
    with connect(store.path).writing():
        board.refresh()
    assert board.head.status["state"] == "stale"
    assert "busy" in board.head.status["text"]
    assert board.head.status["as_of"] == as_of
    board.refresh()
    assert board.head.status["state"] == "live"


def test_a_database_that_cannot_be_read_is_shown_and_not_raised(tmp_path: Path) -> None:
    path = tmp_path / "no.duckdb"
    path.write_text("this is no database, whatever its name says " * 100)
    board = Board(Feed(connect(path)))
    board.refresh()
    assert board.head.status["state"] == "stale"
    assert "FileUnreadable" in board.head.status["text"]
    assert str(path) not in str(board.head.status)


def nothing(store: Store) -> None:
    """No database at all."""


def a_label(store: Store) -> None:
    """A database without transactions."""
    with store.writing() as session:
        session.execute("INSERT INTO labels VALUES ('t', true, NULL, now(), NULL, -1)")


def a_transaction(store: Store) -> None:
    with store.writing() as session:
        session.execute(ARRIVE, {"first": 0, "n": 1, "merchant": "m"})


def a_model(store: Store) -> None:
    a_transaction(store)
    train(store)


@pytest.mark.parametrize(
    ("there", "command"),
    [
        (nothing, "aegis up"),
        (a_label, "aegis up"),
        (a_transaction, "aegis run train"),
        (a_model, "aegis score --since 30d"),
    ],
)
def test_where_there_are_no_verdicts_the_board_says_what_to_run(
    tmp_path: Path, there: Callable[[Store], None], command: str
) -> None:
    store = connect(tmp_path / "empty.duckdb")
    there(store)
    board = Board(Feed(store))
    board.refresh()
    assert board.head.notice["steps"][0][0] == command
    assert "aegis-empty" in board.widget._dom_classes
    arrive(store, 10, 3)
    board.refresh()
    assert board.head.notice["text"] == ""
    assert "aegis-empty" not in board.widget._dom_classes


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come, up to ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_the_loop_starts_with_the_pages_first_message_and_ends_when_it_is_gone(
    store: Store, feed: Feed
) -> None:
    left: list[bool] = []

    async def visit() -> None:
        board = Board(feed, interval_s=0.01, silent_s=1.5, on_left=lambda: left.append(True))
        await asyncio.sleep(0.1)
        assert board.head.status["state"] == "waiting", "no loop before a message"
        board.head._handle_custom_msg({"beat": True, "visible": True}, [])
        await until(lambda: board.head.status["state"] == "live")
        arrive(store, 300, 50)
        say(board.controls, change={"decision": "block"})
        await until(lambda: points(board) == [0, 0, 7])
        board.head._handle_custom_msg({"beat": True, "visible": True}, [])
        assert left == []
        await until(lambda: left == [True])

    asyncio.run(visit())


def test_nothing_is_read_for_a_page_that_nobody_sees(feed: Feed) -> None:
    async def visit() -> None:
        board = Board(feed, interval_s=0.01, silent_s=60)
        board.head._handle_custom_msg({"beat": True, "visible": False}, [])
        await asyncio.sleep(0.2)
        assert "tick" not in board.head.status
        board.head._handle_custom_msg({"beat": True, "visible": True}, [])
        await until(lambda: board.head.status.get("tick", 0) > 1)

    asyncio.run(visit())


def test_pausing_stops_the_numbers_and_not_the_heart(store: Store, feed: Feed) -> None:
    async def visit() -> None:
        board = Board(feed, interval_s=0.01, silent_s=60)
        say(board.head, pause=True, visible=True)
        await until(lambda: board.head.status["state"] == "paused")
        before, tick = tile(board, "transactions"), board.head.status["tick"]
        arrive(store, 300, 50)
        await until(lambda: board.head.status["tick"] > tick + 2)
        assert tile(board, "transactions") == before
        say(board.head, pause=False, visible=True)
        await until(lambda: tile(board, "transactions") == "350")

    asyncio.run(visit())


@given(ANYTHING)
@settings(max_examples=60, deadline=None)
def test_no_message_of_a_page_raises(content: object) -> None:
    board = Board(Feed(connect("/nowhere/at/all.duckdb")))
    for widget in (board.controls, board.axes, board.scatter, board.bars, board.table, board.tiles):
        for name in ("choose", "change", "selected", "range", "row", "need"):
            widget._handle_custom_msg({name: content}, [])
        widget._handle_custom_msg(content, [])


def test_whatever_a_page_sends_the_database_stays_as_it_is(store: Store, board: Board) -> None:
    before = store.data_hash(), store.rows("SELECT count(*) FROM verdicts")
    for content in ({"need": "plotly"}, {"op": "decide", "id": 1}, {"sql": "DROP TABLE verdicts"}):
        for widget in (board.tiles, board.table, board.scatter, board.controls, board.head):
            widget._handle_custom_msg(content, [])
    board.table.rows = [{"seq": 0, "decision": "approve"}]
    board.tiles.tiles = []
    board.controls.chosen = {"decision": "' OR 1=1 --"}
    say(board.controls, change={"decision": "' OR 1=1 --", "min_amount": -5, "customer": ["x"]})
    assert board.filters == Filters()
    assert (store.data_hash(), store.rows("SELECT count(*) FROM verdicts")) == before


def test_no_module_of_the_board_can_write() -> None:
    for path in (Path(app.__file__), *ASSETS.glob("*.py")):
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        ]
        names = {func.attr for func in calls if isinstance(func, ast.Attribute)}
        assert not names & {"writing", "append_rows", "record_data"}, path


def test_a_visitors_kernel_imports_neither_pandas_nor_plotly_nor_arrow(store: Store) -> None:
    script = (
        "import sys; from aegis_core.views import dashboard; from aegis_core.store import connect;"
        f"dashboard.show(connect({str(store.path)!r}));"
        "print({'pandas', 'plotly', 'pyarrow', 'sklearn', 'numba', 'voila', 'pydantic'}"
        " & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


# ---- the report


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    collected: list[Any] = []
    monkeypatch.setattr("aegis_core.views.dashboard.report.display", collected.append)
    return collected


def test_the_report_says_the_same_without_a_widget(
    store: Store, shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.show(store, live=False) is None
    told = capsys.readouterr().out
    assert "Transactions: 300 (ever)" in told
    assert "run run-7" in told
    scatter, bars, campaigns, blocked = shown
    assert sum(len(trace.x) for trace in scatter.data) == 300
    assert sum(sum(trace.y) for trace in bars.data) == 300
    assert campaigns["What they share"].tolist() == [f"at {HOSTILE}"]
    assert len(blocked) == 6
    assert "<script>" not in blocked.to_html() + campaigns.to_html()


def test_the_report_of_an_empty_database_says_what_to_run(
    tmp_path: Path, shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = connect(tmp_path / "empty.duckdb")
    a_transaction(store)
    app.show(store, live=False)
    assert "`aegis run train`" in capsys.readouterr().out
    assert shown == []


# ---- the launcher


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(InputError, match=rf"port {port}: .*in use.* --port"):
            serve(config.load(db=tmp_path / "a.duckdb"), port, for_s=1)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_cannot_be_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(InputError, match="--port"):
        serve(config.load(db=tmp_path / "a.duckdb"), port)


def test_a_kernel_that_died_before_its_visitor_came_is_replaced() -> None:
    class Manager(dict[str, bool]):
        """Kernels and whether they live, in a pool as Voilà has it."""

        asked: str = ""

        def is_alive(self, kernel_id: str) -> bool:
            return self[kernel_id]

        async def shutdown_kernel(self, kernel_id: str, *, now: bool) -> None:
            assert now
            del self[kernel_id]

        def fill_if_needed(self, *, delay: float, notebook_name: str) -> None:
            assert delay == 0
            self.asked = notebook_name

    async def pooled() -> None:
        async def started(kernel_id: str) -> dict[str, str]:
            if not kernel_id:
                raise OSError
            return {"kernel_id": kernel_id}

        tasks = [asyncio.ensure_future(started(name)) for name in ("lives", "dead", "", "gone")]
        await asyncio.wait(tasks)
        starting = asyncio.ensure_future(asyncio.sleep(9))
        manager = Manager(lives=True, dead=False)
        manager._pools = {"board": [*tasks, starting]}  # type: ignore[attr-defined]
        await launcher.without_dead(manager)
        assert manager._pools == {"board": [tasks[0], starting]}  # type: ignore[attr-defined]
        assert (manager, manager.asked) == ({"lives": True}, "board")
        starting.cancel()

    asyncio.run(pooled())
