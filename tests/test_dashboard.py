"""The board reads what is there, shows it as text and numbers, and can change nothing."""

from __future__ import annotations

import ast
import asyncio
import datetime as dt
import re
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

from aegis_core import config, dashboard, figures
from aegis_core.board import feed as feeds
from aegis_core.board import pictures
from aegis_core.board.feed import Feed, Filters
from aegis_core.board.launcher import ASSETS, serve
from aegis_core.dashboard import Board
from aegis_core.errors import InputError
from aegis_core.store import Store, connect

HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(2)</script> O'Łódź"
NOON = dt.datetime(2026, 4, 1, 12)

ARRIVE = """
    INSERT INTO transactions
    SELECT seq, 't' || seq, 'c' || seq % 7, TIMESTAMP '2026-03-31' + INTERVAL (seq * 61) SECOND,
           1 + seq % 500, 'EUR', CASE seq % 3 WHEN 0 THEN NULL ELSE $merchant END,
           CASE seq % 2 WHEN 0 THEN 'travel' END, NULL, NULL, NULL, 'test'
    FROM range($first, $first + $n) AS new(seq)"""
JUDGE = """
    INSERT INTO verdicts
    SELECT seq, transaction_id, $model, seq % 100 / 100, seq % 100,
           CASE WHEN seq % 50 = 0 THEN 'block' WHEN seq % 10 = 1 THEN 'review' ELSE 'approve' END,
           CASE WHEN seq % 50 = 0
                THEN [{'factor': 'amount', 'code': 'high', 'text': $merchant, 'contribution': 1.0},
                      {'factor': 'hour', 'code': 'late', 'text': 'late', 'contribution': 0.5}]
                ELSE [] END,
           NULL,
           CASE WHEN seq % 3 > 0
                THEN {'amount': 0.0, 'travel': seq % 3 * 1.0, 'hour': 0.0, 'burst': 0.0} END,
           CASE WHEN seq % 3 > 0 THEN seq % 90 * 1.0 END,
           $scored_at::TIMESTAMP + INTERVAL (seq - $first) MILLISECOND,
           NULL, NULL, NULL
    FROM transactions WHERE seq >= $first AND seq < $first + $n"""


def arrive(store: Store, first: int, n: int, *, scored_at: dt.datetime = NOON) -> None:
    """Transactions `first` to `first + n - 1` with their verdicts: 1 in 50 blocked."""
    common = {"first": first, "n": n, "merchant": HOSTILE}
    with store.writing() as session:
        session.execute(ARRIVE, common)
        session.execute(JUDGE, {**common, "model": "v1", "scored_at": scored_at})


def train(store: Store) -> None:
    """A run and the model that it made."""
    with store.writing() as session:
        session.execute(
            "INSERT INTO runs (run_id, notebook, status, started_at, report_path)"
            " VALUES ('run-7', 'train', 'done', now(), 'reports/run-7/report.html')"
        )
        session.execute(
            "INSERT INTO models (version, detector, path, n_train, data_hash, run_id, created_at)"
            " VALUES ('v1', 'forest', 'models/v1', 1234, 'abc123', 'run-7', now())"
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = connect(tmp_path / "a.duckdb")
    arrive(made, 0, 300)
    train(made)
    return made


@pytest.fixture
def feed(store: Store) -> Feed:
    reader = connect(store.path, wait_s=0.2)
    return Feed(reader, now=lambda: NOON + dt.timedelta(seconds=5))


# ---- reading


def test_counting_only_what_is_new_equals_counting_everything(store: Store, feed: Feed) -> None:
    for first in (300, 340, 500):
        arrive(store, first, 40 if first < 500 else 3)
        counted = store.rows("SELECT decision, count(*) AS n FROM verdicts GROUP BY decision")
        assert dict(feed.read(Filters()).tally) == {row["decision"]: row["n"] for row in counted}


def test_verdicts_that_come_or_go_in_the_past_are_counted_from_the_start(
    store: Store, feed: Feed
) -> None:
    before = feed.read(Filters())
    with store.writing() as session:
        session.execute("DELETE FROM verdicts WHERE decision = 'block' AND seq < 100")
    after = feed.read(Filters())
    assert (before.tally["block"], after.tally["block"]) == (6, 4)
    assert after.tally["approve"] == before.tally["approve"]


def test_the_window_is_not_read_again_until_something_arrives(store: Store, feed: Feed) -> None:
    first = feed.read(Filters())
    assert feed.read(Filters()).window is first.window
    arrive(store, 300, 1)
    assert feed.read(Filters()).window is not first.window


def test_the_window_holds_the_newest_verdicts_in_order(tmp_path: Path) -> None:
    store = connect(tmp_path / "long.duckdb")
    arrive(store, 0, feeds.WINDOW + 50)
    read = Feed(store).read(Filters())
    assert read.window["seq"].tolist() == list(range(50, feeds.WINDOW + 50))
    newest = range(feeds.WINDOW + 49, feeds.WINDOW - 51, -1)
    assert [row["seq"] for row in read.rows] == list(newest)


@pytest.mark.parametrize("decision", ["", *feeds.DECISIONS])
@pytest.mark.parametrize("min_amount", [0.0, 101.0, 1e6])
def test_a_filter_keeps_what_sql_keeps(
    store: Store, feed: Feed, decision: str, min_amount: float
) -> None:
    kept = store.rows(
        "SELECT seq FROM verdicts JOIN transactions USING (seq)"
        " WHERE ($d = '' OR decision = $d) AND amount >= $a ORDER BY seq",
        {"d": decision, "a": min_amount},
    )
    read = feed.read(Filters(decision, min_amount))
    assert read.window["seq"].tolist() == [row["seq"] for row in kept]
    assert [row["seq"] for row in read.rows] == [row["seq"] for row in kept][::-1][:100]
    assert read.n_verdicts == 300, "the tiles count everything"


def test_the_rate_counts_the_last_ten_seconds(store: Store) -> None:
    assert Feed(store, now=lambda: NOON).read(Filters()).rate_per_s == pytest.approx(30)
    later = NOON + dt.timedelta(seconds=11)
    assert Feed(store, now=lambda: later).read(Filters()).rate_per_s == 0


def test_a_label_counts_only_once_it_is_known(store: Store, feed: Feed) -> None:
    with store.writing() as session:
        session.execute(
            "INSERT INTO labels VALUES ('t1', true, NULL, '2026-03-31 00:00:01', NULL, -1),"
            " ('t2', false, NULL, '2026-03-31 00:00:01', NULL, -1),"
            " ('t3', true, NULL, '2030-01-01', NULL, -1)"
        )
    read = feed.read(Filters())
    assert (read.n_labelled, read.n_known_fraud) == (2, 1)
    assert "50.00% of 2 labelled are fraud" in str(pictures.tiles(read, {}))


def test_the_origin_leads_from_the_numbers_to_the_run(feed: Feed) -> None:
    told = dict(feed.read(Filters()).origin)
    assert told["Verdicts by model"] == "v1"
    assert told["trained on"] == "1,234 transactions"
    assert (told["in run"], told["data"]) == ("run-7", "abc123")
    assert told["report"] == "reports/run-7/report.html"


def test_a_model_that_nobody_registered_is_said_to_be_unknown(store: Store, feed: Feed) -> None:
    with store.writing() as session:
        session.execute("DELETE FROM models")
    assert feed.read(Filters()).origin[-1] == ("that is", "not in the table of models")


def test_a_missing_value_stays_missing(feed: Feed) -> None:
    read = feed.read(Filters())
    row = next(row for row in read.rows if row["seq"] == 297)
    assert row["merchant_id"] is None
    assert row["category"] is None
    assert row["reasons"] == ""
    assert np.isnan(read.window["travel"][297])
    assert read.window["travel"][298] == 1.0
    assert read.window["distance"][298] == 298 % 90


# ---- pictures


@given(
    times=st.lists(st.floats(0, 4e9), min_size=1, max_size=50),
    decisions=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=50, max_size=50),
)
@settings(max_examples=60, deadline=None)
def test_every_verdict_stands_in_the_bar_of_its_time(
    times: list[float], decisions: list[float]
) -> None:
    at, kinds = np.array(times), np.array(decisions[: len(times)])
    starts, counts, width_s = pictures.stacked_bars(at, kinds)
    assert counts.sum(axis=1).tolist() == [(kinds == kind).sum() for kind in range(3)]
    assert len(starts) <= pictures.MOST_BARS or width_s == pictures.BAR_WIDTHS_S[-1]
    for start, count in zip(starts, counts.sum(axis=0), strict=True):
        assert count == ((at >= start) & (at < start + width_s)).sum()


@pytest.mark.parametrize(("x", "y", "z"), [("hour", "amount", ""), ("risk", "score", "distance")])
def test_the_scatter_draws_every_verdict_once(feed: Feed, x: str, y: str, z: str) -> None:
    window = feed.read(Filters()).window
    drawn = pictures.unpacked(pictures.scatter_figure(window, x, y, z), figures.COLOURS)
    for axis, column in zip("xyz", (x, y, z), strict=True):
        if column:
            points = np.concatenate([trace[axis] for trace in drawn["traces"]])
            expected = np.sort(window[column]).astype(np.float32)
            np.testing.assert_array_equal(np.sort(points), expected)


def test_the_page_has_the_colours_of_the_figures() -> None:
    light = (ASSETS / "board.css").read_text().split('[data-aegis="dark"]')[0].upper()
    for decision in ("review", "block"):
        colour = re.search(rf"--AEGIS-{decision.upper()}-FILL: (#\w+)", light)
        assert colour is not None
        assert colour[1] == figures.COLOURS[decision].upper()


# ---- the board


def points(board: Board) -> list[int]:
    return [len(trace["x"]["column"]) // 4 for trace in board.scatter.figure["traces"]]


def test_a_visitors_choice_changes_the_pictures_and_the_table(feed: Feed) -> None:
    board = Board(feed)
    board.refresh()
    assert points(board) == [264, 30, 6]
    board.decision.value = "block"
    assert points(board) == [0, 0, 6]
    assert {row["decision"] for row in board.table.rows} == {"block"}
    board.x.value, board.z.value = "travel", "risk"
    assert board.scatter.figure["traces"][0]["type"] == "scatter3d"
    board.clock.value = "ts"
    assert "transaction" in board.bars.figure["layout"]["xaxis"]["title"]["text"]


def test_new_verdicts_reach_the_tiles(store: Store, feed: Feed) -> None:
    board = Board(feed)
    board.refresh()
    before = {tile["id"]: tile["value"] for tile in board.tiles.tiles}
    arrive(store, 300, 50)
    board.refresh()
    after = {tile["id"]: tile["value"] for tile in board.tiles.tiles}
    assert (before["transactions"], after["transactions"]) == ("300", "350")
    assert (before["blocked"], after["blocked"]) == ("6", "7")
    assert after["fraud_rate"] == "12.00%"


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
        (nothing, "make run"),
        (a_label, "make run"),
        (a_transaction, "aegis run train"),
        (a_model, "aegis run simulate"),
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
        board.decision.value = "block"
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


def test_whatever_a_page_sends_the_database_stays_as_it_is(store: Store, feed: Feed) -> None:
    board = Board(feed)
    board.refresh()
    before = store.data_hash(), store.rows("SELECT count(*) FROM verdicts")
    for content in ({"need": "plotly"}, {"op": "decide", "id": 1}, {"sql": "DROP TABLE verdicts"}):
        for widget in (board.tiles, board.table, board.scatter):
            widget._handle_custom_msg(content, [])
    board.table.rows = [{"seq": 0, "decision": "approve"}]
    board.tiles.tiles = []
    board.min_amount.value = -5
    with pytest.raises(Exception, match="Invalid selection"):
        board.decision.value = "' OR 1=1 --"
    assert (store.data_hash(), store.rows("SELECT count(*) FROM verdicts")) == before
    assert board.min_amount.value == 0


def test_no_module_of_the_board_can_write() -> None:
    for path in (Path(dashboard.__file__), *ASSETS.glob("*.py")):
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        ]
        names = {func.attr for func in calls if isinstance(func, ast.Attribute)}
        assert not names & {"writing", "append_rows", "record_data"}, path


def test_a_visitors_kernel_imports_neither_pandas_nor_plotly_nor_arrow(store: Store) -> None:
    script = (
        "import sys; from aegis_core import dashboard; from aegis_core.store import connect;"
        f"dashboard.show(connect({str(store.path)!r}));"
        "print({'pandas', 'plotly', 'pyarrow', 'sklearn', 'numba', 'voila'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


# ---- the report


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    collected: list[Any] = []
    monkeypatch.setattr("IPython.display.display", collected.append)
    return collected


def test_the_report_says_the_same_without_a_widget(
    store: Store, shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.show(store, live=False) is None
    told = capsys.readouterr().out
    assert "Transactions: 300 (300 with a verdict)" in told
    assert "in run run-7" in told
    scatter, bars, blocked = shown
    assert sum(len(trace.x) for trace in scatter.data) == 300
    assert sum(sum(trace.y) for trace in bars.data) == 300
    assert len(blocked) == 6
    assert "<script>" not in blocked.to_html()


def test_the_report_of_an_empty_database_says_what_to_run(
    tmp_path: Path, shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = connect(tmp_path / "empty.duckdb")
    a_transaction(store)
    dashboard.show(store, live=False)
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
