"""The widgets of a board: small, own, and told only what changed.

A page gets each widget's state once. After that `Chart.show` and `Table.show` compare what they are
given with what the page has, and send the columns or rows that differ in one message. Messages are
numbered; a page that missed one asks for everything again.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from aegis_core.views.dashboard.assets import ASSETS, plotly_js
from aegis_core.views.dashboard.filters import (
    ALERTS,
    AXES,
    BARS,
    DECISIONS,
    NAMED,
    PERIODS,
    REASONS,
)


def modules(*files: str | Path) -> str:
    """Files, of this folder or by path, as one module of a view, in this order after `element`."""
    return "\n".join((ASSETS / file).read_text("utf-8") for file in ("element.js", *files))


class Head(anywidget.AnyWidget):
    """Title, badge, origin of the verdicts, notice; the page's sign of life comes from here."""

    _esm = modules("head.js")
    _css = ASSETS / "board.css"
    beat_s = traitlets.Int(10).tag(sync=True)
    status: traitlets.Dict[str, Any] = traitlets.Dict({"state": "waiting"}).tag(sync=True)
    origin: traitlets.List[Any] = traitlets.List().tag(sync=True)
    proof: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    notice: traitlets.Dict[str, Any] = traitlets.Dict({"text": ""}).tag(sync=True)
    storm = traitlets.Unicode("").tag(sync=True)
    budget = traitlets.Unicode("").tag(sync=True)
    replayed = traitlets.Unicode("").tag(sync=True)
    snoozed: traitlets.List[Any] = traitlets.List().tag(sync=True)


class Tiles(anywidget.AnyWidget):
    """Numbers with a label, a note and a trend; tells of all parts of the board whence they come.

    `queries` has `sql` and `note` for each part, `models` pairs of label and value of each model
    that judged, the newest first.
    """

    _esm = modules("origin.js", "tiles.js")
    tiles: traitlets.List[Any] = traitlets.List().tag(sync=True)
    trends: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    queries: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    models: traitlets.List[Any] = traitlets.List().tag(sync=True)


class Controls(anywidget.AnyWidget):
    """Filters, or axes (`part`); `chosen` is what the kernel made of what was asked for."""

    _esm = modules("controls.js")
    part = traitlets.Unicode("filters").tag(sync=True)
    chosen: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    categories: traitlets.List[Any] = traitlets.List().tag(sync=True)
    options: traitlets.Dict[str, Any] = traitlets.Dict(
        {
            "period": [[key, label] for key, (label, _) in PERIODS.items()],
            "decision": [*DECISIONS, ALERTS],
            "named": [list(item) for item in NAMED.items()],
            "factor": list(REASONS),
            "axes": list(AXES),
            "bars": list(BARS),
        }
    ).tag(sync=True)


class Panel(anywidget.AnyWidget):
    """What has a title and a note, and shows `_state`, of which only changes are sent.

    `part` is its name among the board's `queries`; empty: it does not say where it comes from.
    """

    part = traitlets.Unicode().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)
    tick = traitlets.Int(0).tag(sync=True)
    _state: str

    def __init__(self, part: str = "", title: str = "", label: str = "", **traits: object) -> None:
        super().__init__(part=part, title=title, label=label, **traits)
        self._shown: Any = getattr(self, self._state)
        self._tick = 0  # of the newest message; `tick` is that of the state
        self.on_msg(self._answer)

    def _all(self) -> None:
        with self.hold_sync():
            self._tick += 1
            self.tick = self._tick
            setattr(self, self._state, type(self._shown)(self._shown))

    def _answer(self, _: object, content: object, __: object) -> None:
        if isinstance(content, Mapping) and content.get("need") == "all":
            setattr(self, self._state, type(self._shown)())
            self._all()


class Table(Panel):
    """A sortable table whose cells are text, whatever they contain; rows have a `seq`.

    It stands still under the pointer until `of`, which says what the rows are of, changes; what
    a row is, is `of_what`.
    """

    _esm = modules("origin.js", "table.js")
    _state = "rows"
    columns: traitlets.List[Any] = traitlets.List().tag(sync=True)
    of = traitlets.Unicode().tag(sync=True)
    of_what = traitlets.Unicode("verdict").tag(sync=True)
    rows: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let the page show `rows`, newest first; sends only those that it does not have."""
        rows, before = list(rows), self._shown
        if [row["seq"] for row in rows] == [row["seq"] for row in before]:
            return
        self._shown = rows
        n_new = next((i for i, row in enumerate(rows) if before and row == before[0]), len(rows))
        kept = len(rows) - n_new
        if kept and rows[n_new:] == before[:kept]:
            self._tick += 1
            self.send({"tick": self._tick, "new": rows[:n_new], "keep": len(rows)})
        else:
            self._all()


class Chart(Panel):
    """A plotly.js chart; `figure` has `traces` and `layout`, with columns as `packed` gives them.

    A page that cannot load plotly.js from the Voilà template (JupyterLab) asks the kernel for it.
    """

    _esm = modules("origin.js", "chart.js")
    _state = "figure"
    figure: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)

    def show(self, figure: Mapping[str, Any]) -> None:
        """Let the page show `figure`; of one that differs only in columns, these are sent."""
        before, self._shown = self._shown, figure
        data, look = _parted(figure)
        if not before or _parted(before)[1] != look:
            self._all()
            return
        changed = [
            {name: value for name, value in columns.items() if value != old.get(name)}
            for columns, old in zip(data, before["traces"], strict=True)
        ]
        if any(changed):
            self._tell("columns", changed)

    def extend(
        self, figure: Mapping[str, Any], added: Sequence[Mapping[str, Any]], kept: Sequence[int]
    ) -> None:
        """Let the page put `added` behind its traces; `figure` is what that gives.

        Parameters
        ----------
        added : columns of each trace.
        kept : how many of the newest points of each trace stay.
        """
        self._shown = figure
        self._tell("added", added, list(kept))

    def _tell(
        self, what: str, columns: Sequence[Mapping[str, Any]], kept: list[int] | None = None
    ) -> None:
        """Columns as one message: equal ones are sent once."""
        buffers: list[bytes] = []
        told: list[dict[str, Any]] = []
        for trace in columns:
            named: dict[str, Any] = {}
            for name, value in trace.items():
                if not isinstance(value, Mapping):
                    named[name] = value
                    continue
                if value["column"] not in buffers:
                    buffers.append(value["column"])
                named[name] = [value["type"], buffers.index(value["column"])]
            told.append(named)
        self._tick += 1
        self.send({"tick": self._tick, what: told, "kept": kept}, buffers=buffers)

    def _answer(self, widget: object, content: object, buffers: object) -> None:
        if isinstance(content, Mapping) and content.get("need") == "plotly":
            self.send({"plotly": True}, buffers=[gzip.compress(plotly_js().read_bytes(), 6)])
        elif self._shown:
            super()._answer(widget, content, buffers)


def _parted(figure: Mapping[str, Any]) -> tuple[list[dict[str, Any]], object]:
    """What of each trace changes with the data, packed columns and texts, and all the rest."""
    data = [
        {
            k: v
            for k, v in trace.items()
            if k == "text" or (isinstance(v, Mapping) and "column" in v)
        }
        for trace in figure["traces"]
    ]
    looks = [trace | dict.fromkeys(of) for trace, of in zip(figure["traces"], data, strict=True)]
    return data, (looks, figure["layout"])
