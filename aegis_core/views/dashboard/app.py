"""The live board: what the verdicts look like right now, for people who only look.

`Feed` reads the database, one short read-only opening a time; `Board` shows what it read in
widgets and reads again every second while a browser watches. A visitor's messages can choose
filters, axes and a selection and nothing else: the board has no way to write, and takes every value
that comes from a page as input.

The kernel behind each page imports neither pandas nor plotly.py (74 and 34 MB a visitor, and two
seconds): columns go as binary arrays to plotly.js in the page, and of what a page has already only
what changed is sent. Without Voilà the same widgets run in JupyterLab; `board.report` draws the
same picture without widgets, for papermill.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import ipywidgets  # type: ignore[import-untyped]
import numpy as np

from aegis_core.errors import NotReady, StoreBusy
from aegis_core.store import Store, connect
from aegis_core.units.words import category_said
from aegis_core.views.dashboard import atlas, pictures
from aegis_core.views.dashboard.counts import Columns, Counts, appended, counted
from aegis_core.views.dashboard.feed import SEARCHED, WINDOW, Feed, Snapshot, seconds, worst_first
from aegis_core.views.dashboard.filters import ALERTS, Filters
from aegis_core.views.dashboard.log import (
    CAMPAIGN_COLUMNS,
    COLUMNS,
    REPLAYED,
    TABLE_ROWS,
    as_csv,
    campaign_rows,
    rows,
)
from aegis_core.views.dashboard.origins import before, lineage, queries, running
from aegis_core.views.dashboard.tiles import next_steps, proof, replayed, tiles, trends
from aegis_core.views.dashboard.widgets import Chart, Controls, Head, Table, Tiles

_TRENDS_EVERY: Final = 5
"""Ticks between two drawings of the spark lines."""
_PANELS: Final = ("scatter", "bars", "reasons", "budget", "map", "latency", "drift")


class Board:
    """The dashboard of one visitor: widgets, and the loop that keeps them up to date.

    The loop starts with the browser's first message and never when a cell runs, so that preheated
    kernels, papermill and nbval are done when the cell is. It ends when no message came for
    `silent_s` seconds.

    Parameters
    ----------
    feed : Where the numbers come from.
    interval_s : Time between two readings, in seconds.
    on_left : Called when the visitor is gone; in Voilà it ends the kernel.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        interval_s: float = 1.0,
        silent_s: float = 90.0,
        on_left: Callable[[], None] = lambda: None,
    ) -> None:
        self.feed, self.on_left = feed, on_left
        self.interval_s, self.silent_s = interval_s, silent_s
        self.filters = Filters()
        self.selected: frozenset[int] = frozenset()
        self._heard_at = time.monotonic()
        self._visible, self._paused = True, False
        self._loop: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._snapshot: Snapshot | None = None
        self._stale_since: float | None = None
        self._drawn: Columns = {}
        self._drawn_with: tuple[object, ...] = ()
        self._ticks = 0

        self.head, self.tiles, self.controls = Head(), Tiles(), Controls()
        self.axes = Controls(part="axes")
        cloud = "Scatter of normal and anomalous transactions; box or lasso selects"
        self.scatter = Chart("scatter", "Transactions", cloud)
        self.bars = Chart("bars", "Verdicts over time", "Verdicts over time by decision")
        self.reasons = Chart("reasons", "Reasons", "Alerts by the factor of their first reason")
        self.budget = Chart("budget", "Alert budget today", "Alerts today against the budget")
        self.map = Chart("map", "Impossible travels", "Map of impossible travels")
        speed = "Latency and throughput"
        self.latency = Chart("stats", speed, f"{speed} of the service")
        self.drift = Chart("drift", "Score now and in training", "Scores now and in training")
        shared = "Alerts of several customers that share something"
        self.campaigns = Table(
            "campaigns", "Campaigns", shared, of_what="campaign", columns=_told(CAMPAIGN_COLUMNS)
        )
        self.table = Table("log", "Live log", "Newest verdicts", columns=_told(COLUMNS))
        self.widget = self._layout()
        for widget, handler in (
            (self.head, self._heard),
            (self.controls, self._chosen),
            (self.axes, self._chosen),
            (self.scatter, self._pointed),
            (self.bars, self._brushed),
            (self.campaigns, self._campaign_opened),
            (self.table, self._opened),
        ):
            widget.on_msg(self._guarded(handler))

    def choose(self, filters: Filters) -> None:
        """Show this, and let the page's address say so."""
        if filters.seen() != self.filters.seen():
            self.selected = frozenset()
        self.filters = filters
        self.controls.chosen = self.axes.chosen = filters.chosen()
        if self._loop is not None and not self._loop.done():
            self._asked.set()
        else:
            self.refresh()

    def refresh(self) -> None:
        """Read once and show it; a database that is busy or missing is shown, not raised."""
        self._show(self._read(self.filters))

    def open(self) -> None:
        """Show today; or all there is, where nothing came today and what is there was replayed.

        Once: what is shown a second time is told to pages that are open, and there is none yet.
        """
        read = self._read(self.filters)
        if isinstance(read, Snapshot) and read.newest >= 0 and not len(read.window["seq"]):
            every = Filters(period="all")
            found = self._read(every)
            if isinstance(found, Snapshot) and found.replayed:
                self.filters, read = every, found
                self.controls.chosen = self.axes.chosen = every.chosen()
        self._show(read)

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
            ended = read.service is False
            self._status("stale" if ended else "live", "the service ended" if ended else "")
            self._notice(read)
            try:
                self._draw(read)
            except Exception as e:  # see _read
                self._status("stale", f"what was read cannot be shown ({type(e).__name__})")

    def _status(self, state: str, text: str) -> None:
        now = seconds(self.feed.now())
        if state != "stale":
            self._stale_since = None
        elif self._stale_since is None:
            self._stale_since = now
        as_of = seconds(self._snapshot.as_of) if self._snapshot else None
        # The tick makes each status a new one: the page takes silence for a dead kernel.
        self.head.status = {
            "state": state,
            "text": text,
            "as_of": as_of and as_of * 1_000,
            "since": self._stale_since and self._stale_since * 1_000,
            "tick": self._ticks,
        }

    def _notice(self, snapshot: Snapshot | None) -> None:
        text, steps = next_steps(snapshot)
        self.head.storm = snapshot.storm if snapshot else ""
        self.head.budget = snapshot.budget if snapshot else ""
        self.head.replayed = replayed(snapshot) if snapshot else ""
        self.head.snoozed = [list(row.values()) for row in snapshot.snoozed] if snapshot else []
        self.head.notice = {"text": text, "steps": [list(step) for step in steps]}
        (self.widget.add_class if text else self.widget.remove_class)("aegis-empty")

    # ---- drawing

    def _draw(self, snapshot: Snapshot) -> None:
        self.head.origin = [*lineage(snapshot), *running(snapshot)]
        self.head.proof = proof(snapshot)
        self.controls.categories = [[c, category_said(c)] for c in snapshot.categories]
        if snapshot.newest < 0 or not snapshot.window:
            return
        window, chosen = snapshot.window, self._places(snapshot.window)
        counts = snapshot.counts
        if self.selected:
            only = {name: values[chosen] for name, values in window.items()}
            counts = counted(only, counts.width_s)
        shown = counts if self.selected else None
        self.tiles.tiles = tiles(snapshot, self.filters, shown)
        with_ = (self.filters, self.selected)
        if self._ticks % _TRENDS_EVERY == 0 or with_ != self._drawn_with:
            self.tiles.trends = trends(snapshot, shown)
            self.tiles.models = [lineage(snapshot), *before(snapshot)]
            self.tiles.queries = queries(snapshot, self.filters, self.selected)
        self._draw_scatter(snapshot)
        self._draw_panels(snapshot, counts)
        n = len(snapshot.campaigns)
        self.campaigns.note = f"{n} newest; a click shows one alone" if n else "none in this period"
        self.campaigns.of = str(self.filters.seen())
        self.campaigns.show(campaign_rows(snapshot.campaigns))
        self.table.note = self._log_note(snapshot)
        self.table.of = f"{self.filters.seen()} {len(self.selected)}"
        shown_first = chosen[::-1]
        if snapshot.storm:  # the newest would be of the storm alone
            alerts = chosen[window["decision"][chosen] > 0]
            shown_first = alerts[worst_first(window, alerts)]
        self.table.show(rows(window, shown_first[:TABLE_ROWS]))
        self._drawn, self._drawn_with = window, with_

    def _places(self, window: Columns) -> np.ndarray:
        if not self.selected:
            return np.arange(len(window["seq"]))
        return np.flatnonzero(np.isin(window["seq"], list(self.selected)))

    def _draw_scatter(self, snapshot: Snapshot) -> None:
        window, before = snapshot.window, self._drawn
        axes = self.filters.x, self.filters.y, self.filters.z
        if self.selected:
            self.scatter.note = f"{len(self.selected):,} selected"
            return
        self.scatter.note = f"{len(window['seq']):,} newest"
        same = bool(before) and self._drawn_with[:2] == (self.filters, self.selected)
        if same and window is before:
            return
        n_new = appended(before["seq"], window["seq"]) if same else -1
        figure = pictures.scatter_figure(window, *axes)
        if n_new < 0:
            self.scatter.show(figure)
        elif n_new:
            new = {name: values[-n_new:] for name, values in window.items()}
            kept = [int((window["decision"] == code).sum()) for code in range(3)]
            self.scatter.extend(figure, pictures.points(new, *axes), kept)

    def _draw_panels(self, snapshot: Snapshot, counts: Counts) -> None:
        now, share = snapshot.as_of, snapshot.facts.get("alert_budget")
        first = seconds(snapshot.since)
        if len(snapshot.counts.start):
            first = max(first, float(snapshot.counts.start.min()))
        last = seconds(snapshot.until or now) - (60 if snapshot.until else 0)
        if self.filters.period == "all" and len(snapshot.counts.start):  # which may be long ago
            last = float(snapshot.counts.start.max())
        self.bars.note = "drag to choose a period"
        self.bars.show(pictures.bars_figure(counts, first, max(first, last)))
        alerts = counts.total(1, 2)
        self.reasons.note = f"{alerts:,} alerts" if alerts else "no alerts"
        self.reasons.show(pictures.reasons_figure(counts))
        if share:
            found = pictures.budget(snapshot.today, share, now)
            self.budget.note = (
                f"{found.used:,} of {found.allowed:,.0f} so far; by midnight "
                f"{found.forecast:,.0f} of {found.allowed_by_midnight:,.0f}"
            )
            self.budget.show(pictures.budget_figure(snapshot.today, share, now))
        else:
            self.budget.note = "the champion's budget is not known"
        self.map.note = f"{len(snapshot.travels)} most at stake" if snapshot.travels else "none"
        self.map.show(atlas.map_figure(self._travels(snapshot)))
        told = len(snapshot.stats.get("at", ()))
        self.latency.note = "last 15 minutes" if told else "no service has told any"
        if told:
            self.latency.show(pictures.latency_figure(snapshot.stats))
        risk = pictures.of_champion(snapshot.window, snapshot.facts.get("promoted_at"))
        self.drift.note = pictures.drift_note(risk, whole=self.filters.all_rows)
        self.drift.show(pictures.drift_figure(risk))

    def _travels(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        if not self.selected:
            return snapshot.travels
        return [travel for travel in snapshot.travels if travel["seq"] in self.selected]

    def _log_note(self, snapshot: Snapshot) -> str:
        told = ["a storm: alerts by risk × amount" if snapshot.storm else "newest first"]
        if self.selected:
            told.append(f"{len(self.selected):,} selected")
        if not self.filters.all_rows:
            told.append(f"looked through the newest {SEARCHED:,} of the period")
        if snapshot.replayed:
            told.append(f"{REPLAYED} replayed, at the time of the payment")
        if snapshot.uncounted:
            told.append(f"{snapshot.uncounted:,} verdicts are not counted")
        return "; ".join(told)

    # ---- what a page says

    def _guarded(self, handler: Callable[[Mapping[str, Any]], None]) -> Callable[..., None]:
        """`handler`, told of mappings only; what goes wrong in it stays here."""

        def heard(_: object, content: object, __: object) -> None:
            try:
                if isinstance(content, Mapping):
                    handler(content)
            except Exception as e:  # it would be printed into the visitor's page
                self._status("stale", f"the page sent what cannot be ({type(e).__name__})")

        return heard

    def _heard(self, content: Mapping[str, Any]) -> None:
        if "beat" not in content and "pause" not in content:
            return
        came_back = not self._visible and bool(content.get("visible"))
        self._heard_at = time.monotonic()
        self._visible = bool(content.get("visible", self._visible))
        if "pause" in content:
            self._paused = bool(content["pause"])
            self._asked.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.get_running_loop().create_task(self._run())
        elif came_back:
            self._asked.set()

    def _chosen(self, content: Mapping[str, Any]) -> None:
        if "choose" in content:
            self.choose(Filters.parse(content["choose"]))
        elif isinstance(content.get("change"), Mapping):
            self.choose(Filters.parse(self.filters.chosen() | content["change"]))
        elif content.get("need") == "csv" and self._snapshot and self._snapshot.window:
            window = self._snapshot.window
            name = f"aegis-{self._snapshot.as_of:%Y%m%d-%H%M%S}.csv"
            told = as_csv(window, self._places(window)[::-1])
            self.controls.send({"file": name}, buffers=[told])

    def _pointed(self, content: Mapping[str, Any]) -> None:
        if "selected" not in content or self._snapshot is None:
            return
        given = content["selected"] if isinstance(content["selected"], list) else []
        numbers = [n for n in given[:WINDOW] if isinstance(n, int | float) and abs(n) < 2**53]
        self.selected = frozenset(int(n) for n in numbers)
        self._draw(self._snapshot)

    def _brushed(self, content: Mapping[str, Any]) -> None:
        match content.get("range"):
            case [int() | float() as first, int() | float() as last] if first < last:
                asked = self.filters.chosen() | {
                    "period": "between",
                    "start": first / 1_000,
                    "end": last / 1_000,
                }
                self.choose(Filters.parse(asked))

    def _opened(self, content: Mapping[str, Any]) -> None:
        if self._snapshot is None or not isinstance(content.get("row"), int):
            return
        window = self._snapshot.window
        for place in np.flatnonzero(window["seq"] == content["row"])[:1]:
            self.choose(replace(self.filters, customer=str(window["customer_id"][place])))

    def _campaign_opened(self, content: Mapping[str, Any]) -> None:
        for campaign in self._snapshot.campaigns if self._snapshot else ():
            if campaign["seq"] == content.get("row"):
                asked = self.filters.chosen() | {
                    "period": "between",
                    "start": campaign["first"],
                    "end": campaign["last"] + 1,
                    "decision": ALERTS,
                    campaign["by"]: campaign["value"],
                }
                self.choose(Filters.parse(asked))

    async def _run(self) -> None:
        while time.monotonic() - self._heard_at < self.silent_s:
            started = time.monotonic()
            asked = self._asked.is_set()
            self._asked.clear()
            if self._paused and not asked:
                self._ticks += 1
                self._status("paused", "")
            elif self._visible:
                filters = self.filters
                read = await asyncio.to_thread(self._read, filters)
                if filters.seen() == self.filters.seen():
                    self._show(read)
                if self._paused:
                    self._status("paused", "")
            left_s = self.interval_s - (time.monotonic() - started)
            try:
                await asyncio.wait_for(self._asked.wait(), max(left_s, 0.05))
            except TimeoutError:
                continue
        self.on_left()

    def _layout(self) -> ipywidgets.Box:
        self.head.add_class("aegis-head")
        self.tiles.add_class("aegis-tiles")
        self.controls.add_class("aegis-filters")
        self.campaigns.add_class("aegis-panel").add_class("aegis-campaigns")
        self.table.add_class("aegis-panel").add_class("aegis-recent")
        self.axes.add_class("aegis-axes")
        panels = [ipywidgets.VBox([self.axes, self.scatter]), *map(vars(self).get, _PANELS[1:])]
        for name, panel in zip(_PANELS, panels, strict=True):
            panel.add_class("aegis-panel").add_class(f"aegis-{name}")
        parts = [self.head, self.tiles, self.controls, *panels, self.campaigns, self.table]
        board = ipywidgets.Box(parts)
        return board.add_class("aegis-board")


def _told(columns: Iterable[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "title": title, "kind": kind} for key, title, kind in columns]


def opened(db: str = "") -> Store:
    """The database at `db`; else the one that the board's server names, or the settings do.

    A visitor's kernel does not read the settings, which takes 10 MB.
    """
    return connect(db or os.environ.get("AEGIS_BOARD_DB") or None, wait_s=0.8, board=True)


def show(store: Store, *, live: bool = True) -> ipywidgets.Widget | None:
    """What `notebooks/dashboard.ipynb` shows: the live board, or else a report of this moment."""
    if not live:
        from aegis_core.views.dashboard.report import report

        report(store)
        return None
    multiple = float(os.environ.get("AEGIS_STORM_MULTIPLE", "5"))  # which the server sets
    board = Board(Feed(store, storm_multiple=multiple), on_left=for_one_page())
    board.open()
    return board.widget


def for_one_page() -> Callable[[], None]:
    """What a page calls when its visitor is gone: in Voilà its kernel, which is its own, ends.

    There the kernel also keeps tracebacks to itself: Voilà forwards them even when told not to.
    """
    if "VOILA_BASE_URL" not in os.environ:  # Voilà sets this for its kernels
        return lambda: None
    from IPython import get_ipython

    if (shell := get_ipython()) is not None:
        shell.showtraceback = shell._showtraceback = lambda *_, **__: None
    return lambda: os._exit(0)
