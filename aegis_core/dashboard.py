"""The live board: what the verdicts look like right now, for people who only look.

`Feed` reads the database, one short read-only opening a time; `Board` shows what it read in
widgets and reads again every second while a browser watches. A visitor's messages can choose
filters and axes and nothing else: the board has no way to write, and takes every value that
comes from a page as input.

The kernel behind each page imports neither pandas nor plotly.py (74 and 34 MB a visitor, and two
seconds): columns go as binary arrays to plotly.js in the page. Without Voilà the same widgets run
in JupyterLab; `report` draws the same picture without widgets, for papermill.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import anywidget
import ipywidgets  # type: ignore[import-untyped]
import traitlets

from aegis_core.board.feed import DECISIONS, WINDOW, Feed, Filters, Snapshot, next_steps
from aegis_core.board.launcher import plotly_js
from aegis_core.board.pictures import AXES, bars_figure, scatter_figure, tiles, unpacked
from aegis_core.errors import NotReady, StoreBusy
from aegis_core.store import Store

ASSETS: Final = Path(__file__).parent / "board"
_COLUMNS: Final = (
    ("ts", "Time (UTC)", "text"),
    ("decision", "Decision", "decision"),
    ("risk", "Risk", "risk"),
    ("amount", "Amount", "number"),
    ("currency", "", "text"),
    ("customer_id", "Customer", "text"),
    ("merchant_id", "Merchant", "text"),
    ("category", "Category", "text"),
    ("reasons", "Why", "prose"),
    ("transaction_id", "Transaction", "text"),
)
"""Columns of the table: their key in the rows, their title, and how `table.js` shows them."""


class Head(anywidget.AnyWidget):
    """Title, badge, origin of the verdicts, notice; the page's sign of life comes from here."""

    _esm = ASSETS / "head.js"
    _css = ASSETS / "board.css"
    beat_s = traitlets.Int(10).tag(sync=True)
    status: traitlets.Dict[str, Any] = traitlets.Dict({"state": "waiting"}).tag(sync=True)
    origin: traitlets.List[Any] = traitlets.List().tag(sync=True)
    notice: traitlets.Dict[str, Any] = traitlets.Dict({"text": ""}).tag(sync=True)


class Tiles(anywidget.AnyWidget):
    """Numbers with a label, a note and a trend each."""

    _esm = ASSETS / "tiles.js"
    tiles: traitlets.List[Any] = traitlets.List().tag(sync=True)


class Table(anywidget.AnyWidget):
    """A sortable table whose cells are text, whatever they contain."""

    _esm = ASSETS / "table.js"
    label = traitlets.Unicode().tag(sync=True)
    columns: traitlets.List[Any] = traitlets.List().tag(sync=True)
    rows: traitlets.List[Any] = traitlets.List().tag(sync=True)


class Chart(anywidget.AnyWidget):
    """A plotly.js chart; `figure` has `traces` and `layout`, with columns as `packed` gives them.

    A page that cannot load plotly.js from the Voilà template (JupyterLab) asks the kernel for it.
    """

    _esm = ASSETS / "chart.js"
    label = traitlets.Unicode().tag(sync=True)
    figure: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)

    def __init__(self, **traits: object) -> None:
        super().__init__(**traits)
        self.on_msg(self._answer)

    def _answer(self, _: object, content: dict[str, object], __: object) -> None:
        if content.get("need") == "plotly":
            self.send({"plotly": True}, buffers=[gzip.compress(plotly_js().read_bytes(), 6)])


class Board:
    """The dashboard of one visitor: widgets, and the loop that keeps them up to date.

    The loop starts with the browser's first message and never when a cell runs, so that preheated
    kernels, papermill and nbval are done when the cell is. It ends when no message came for
    `silent_s` seconds.

    Parameters
    ----------
    feed
        Where the numbers come from.
    interval_s
        Time between two readings, in seconds.
    on_left
        Called when the visitor is gone; in Voilà it ends the kernel.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        interval_s: float = 1.0,
        silent_s: float = 90.0,
        on_left: Callable[[], None] = lambda: None,
    ) -> None:
        self.feed = feed
        self.interval_s = interval_s
        self.silent_s = silent_s
        self.on_left = on_left
        self._heard_at = time.monotonic()
        self._visible = True
        self._loop: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._trends: dict[str, deque[float]] = {}
        self._drawn: Mapping[str, Any] = {}
        self._drawn_with: tuple[object, ...] = ()
        self._snapshot: Snapshot | None = None
        self._ticks = 0

        self.head = Head()
        self.tiles = Tiles()
        self.scatter = Chart(label="Scatter of normal and anomalous transactions")
        self.bars = Chart(label="Verdicts over time, stacked by decision")
        self.table = Table(
            label="Recent verdicts",
            columns=[{"key": k, "title": title, "kind": kind} for k, title, kind in _COLUMNS],
        )
        names = [(axis.title.split(" (")[0], key) for key, axis in AXES.items()]
        dropdown = ipywidgets.Dropdown
        self.decision = dropdown(
            options=[("all", ""), *((d, d) for d in DECISIONS)], value="", description="Decision"
        )
        self.min_amount = ipywidgets.BoundedFloatText(
            value=0, min=0, max=1e12, description="Minimum amount"
        )
        self.x = dropdown(options=names, value="hour", description="Across")
        self.y = dropdown(options=names, value="amount", description="Up")
        self.z = dropdown(options=[("none", ""), *names], value="", description="Depth")
        self.clock = dropdown(
            options=[("time of scoring", "scored_at"), ("time of the transaction", "ts")],
            description="Bars over",
        )
        self.controls = (self.decision, self.min_amount, self.x, self.y, self.z, self.clock)
        self.widget = self._layout()
        for control in self.controls:
            control.observe(self._chosen, "value")
        self.head.on_msg(self._heard)

    def filters(self) -> Filters:
        """What the visitor chose."""
        return Filters(str(self.decision.value), float(self.min_amount.value))

    def refresh(self) -> None:
        """Read once and show it; a database that is busy or missing is shown, not raised."""
        self._show(self._read(self.filters()))

    def _read(self, filters: Filters) -> Snapshot | Exception:
        try:
            return self.feed.read(filters)
        except Exception as e:
            # Whatever it is goes to the badge: an exception that left a callback would send its
            # traceback to the visitor's browser, and end the loop.
            return e

    def _show(self, read: Snapshot | Exception) -> None:
        self._ticks += 1
        if isinstance(read, NotReady):
            self._status("waiting", "no data yet")
            self._notice(None)
        elif isinstance(read, StoreBusy):
            self._status("stale", "the database is busy")
        elif isinstance(read, Exception):
            self._status("stale", f"the database cannot be read ({type(read).__name__})")
        else:
            self._snapshot = read
            self._status("live", "")
            self._notice(read)
            self._draw(read)

    def _status(self, state: str, text: str) -> None:
        as_of = self._snapshot.as_of.replace(tzinfo=dt.UTC).timestamp() if self._snapshot else None
        # The tick makes each status a new one: the page takes silence for a dead kernel.
        self.head.status = {
            "state": state,
            "text": text,
            "as_of": as_of and as_of * 1_000,
            "tick": self._ticks,
        }

    def _notice(self, snapshot: Snapshot | None) -> None:
        text, steps = next_steps(snapshot)
        self.head.notice = {"text": text, "steps": [list(step) for step in steps]}
        (self.widget.add_class if text else self.widget.remove_class)("aegis-empty")

    def _draw(self, snapshot: Snapshot) -> None:
        now = {
            "fraud_rate": snapshot.alert_share,
            "blocked": float(snapshot.tally["block"]),
            "rate": snapshot.rate_per_s,
        }
        for name, value in now.items():
            self._trends.setdefault(name, deque(maxlen=60)).append(value)
        self.tiles.tiles = tiles(snapshot, self._trends)
        self.head.origin = [list(part) for part in snapshot.origin]
        chosen = tuple(control.value for control in self.controls)
        as_drawn = snapshot.window is self._drawn and chosen == self._drawn_with
        if as_drawn or not snapshot.n_verdicts:
            return
        self._drawn, self._drawn_with = snapshot.window, chosen
        x, y, z = self.x.value, self.y.value, self.z.value
        self.scatter.figure = scatter_figure(snapshot.window, x, y, z)
        self.bars.figure = bars_figure(snapshot.window, self.clock.value)
        self.table.rows = snapshot.rows

    def _chosen(self, _: object) -> None:
        if self._loop is not None and not self._loop.done():
            self._asked.set()
        else:
            self.refresh()

    def _heard(self, _: object, content: Mapping[str, object], __: object) -> None:
        came_back = not self._visible and bool(content.get("visible"))
        self._heard_at = time.monotonic()
        self._visible = bool(content.get("visible"))
        if self._loop is None or self._loop.done():
            self._loop = asyncio.get_running_loop().create_task(self._run())
        elif came_back:
            self._asked.set()

    async def _run(self) -> None:
        while time.monotonic() - self._heard_at < self.silent_s:
            started = time.monotonic()
            self._asked.clear()
            if self._visible:
                self._show(await asyncio.to_thread(self._read, self.filters()))
            left_s = self.interval_s - (time.monotonic() - started)
            try:
                await asyncio.wait_for(self._asked.wait(), max(left_s, 0.05))
            except TimeoutError:
                continue
        self.on_left()

    def _layout(self) -> ipywidgets.Box:
        filters = ipywidgets.HBox(self.controls)
        filters.add_class("aegis-panel").add_class("aegis-filters")
        self.head.add_class("aegis-head")
        self.tiles.add_class("aegis-tiles")
        newest = f"the newest {WINDOW:,} that pass the filters"
        board = ipywidgets.Box(
            [
                self.head,
                self.tiles,
                filters,
                _panel("aegis-scatter", "Transactions", newest, self.scatter),
                _panel("aegis-bars", "Verdicts over time", newest, self.bars),
                _panel("aegis-recent", "Recent verdicts", "newest first", self.table),
            ]
        )
        return board.add_class("aegis-board")


def _panel(area: str, title: str, note: str, content: ipywidgets.Widget) -> ipywidgets.VBox:
    heading = ipywidgets.HTML(f"<h2>{title} <small>{note}</small></h2>")
    return ipywidgets.VBox([heading, content]).add_class("aegis-panel").add_class(area)


def show(store: Store, *, live: bool = True) -> ipywidgets.Widget | None:
    """What `notebooks/dashboard.ipynb` shows: the live board, or else `report`."""
    if not live:
        report(store)
        return None
    # Voilà sets this for its kernels; only there does a kernel belong to one page.
    in_voila = "VOILA_BASE_URL" in os.environ
    if in_voila:
        _keep_tracebacks_from_the_page()
    board = Board(Feed(store), on_left=_end_this_kernel if in_voila else lambda: None)
    board.refresh()
    return board.widget


def report(store: Store) -> None:
    """Display this moment for papermill: the board's numbers, pictures and newest blocks.

    Widgets would make the report fetch their code from a CDN.
    """
    import pandas as pd
    from IPython.display import display

    from aegis_core import figures

    feed = Feed(store)
    snapshot = feed.read(Filters())
    text, steps = next_steps(snapshot)
    if text:
        print(text, *(f"`{command}` {effect}." for command, effect in steps), sep="\n")
        return
    print(f"As of {snapshot.as_of:%Y-%m-%d %H:%M:%S} UTC.")
    print(*(f"{t['label']}: {t['value']} ({t['note']})" for t in tiles(snapshot, {})), sep="\n")
    print(*(" ".join(part) for part in snapshot.origin), sep=", ")
    window = snapshot.window
    for drawn in (scatter_figure(window, "hour", "amount"), bars_figure(window, "scored_at")):
        display(figures.figure(**unpacked(drawn, figures.COLOURS)))  # type: ignore[no-untyped-call]
    columns = {key: title or key for key, title, _ in _COLUMNS}
    blocked = pd.DataFrame(feed.read(Filters("block")).rows[:25], columns=list(columns))
    display(blocked.rename(columns=columns).round(2))  # type: ignore[no-untyped-call]


def _end_this_kernel() -> None:
    os._exit(0)


def _keep_tracebacks_from_the_page() -> None:
    """Voilà forwards a traceback to the browser even when told not to show any."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.showtraceback = shell._showtraceback = lambda *_, **__: None
