"""What all figures have in common: colours, layout, lines of thresholds, a sentence for nothing.

Colours are Okabe and Ito's, which people with any kind of colour vision can tell apart; the live
dashboard uses the same ones in `board.css`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

COLOURS: Final = {
    "approve": "#0072B2",
    "review": "#E69F00",
    "block": "#D55E00",
    "normal": "#0072B2",
    "fraud": "#D55E00",
    "forest": "#000000",
    "learner": "#0072B2",
    "random": "#999999",
    "amount": "#E69F00",
    "travel": "#009E73",
    "hour": "#CC79A7",
    "burst": "#56B4E9",
    "spike": "#E69F00",
    "night": "#CC79A7",
    "merchant": "#D55E00",
    "customer": "#0072B2",
    "takeover": "#000000",
}
"""What a colour stands for, in every figure. Okabe and Ito, Color Universal Design (2008)."""

LAYOUT: Final[dict[str, Any]] = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
    "height": 420,
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
}
"""What all figures have in common."""


def plain(text: object, most: int = 200) -> str:
    """Text from outside as plotly shows it letter by letter, shortened to `most` letters.

    >>> plain("<b>bold</b> & more"), plain("a long name", 6)
    ('&lt;b&gt;bold&lt;/b&gt; &amp; more', 'a lon…')
    """
    told = str(text)
    return html.escape(told if len(told) <= most else f"{told[: most - 1]}…", quote=False)


def figure(
    traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any] | None = None
) -> go.Figure:
    """A figure from plain traces, in the house's layout.

    >>> figure([{"type": "bar", "x": [1], "y": [2]}], {"title": "Two"}).layout.height
    420
    """
    return go.Figure(data=list(traces), layout={**LAYOUT, **(layout or {})})


def in_house(drawn: go.Figure, **layout: Any) -> go.Figure:
    """A figure of plotly.express in the house's layout; a legend needs no title beside its axes."""
    return drawn.update_layout(LAYOUT).update_layout(legend_title_text="").update_layout(layout)


def thresholds(drawn: go.Figure, review_above: float, block_above: float) -> go.Figure:
    """The figure with a vertical line at each threshold; an infinite one has none."""
    for name, x, side in (("review", review_above, "left"), ("block", block_above, "right")):
        if np.isfinite(x):
            line = {"color": COLOURS[name], "dash": "dash"}
            drawn.add_vline(x, line=line, annotation_text=name, annotation_position=f"top {side}")
    return drawn


def colour(detector: str) -> str:
    """The colour of a detector; a factor alone has its factor's."""
    return COLOURS[detector.removeprefix("factor:")]


def by_detector(frame: pd.DataFrame) -> dict[str, Any]:
    """For plotly.express: a line a detector of the frame; those that look at little are dotted."""
    names = frame["detector"].unique()
    return {
        "color": "detector",
        "line_dash": "detector",
        "color_discrete_map": {name: colour(name) for name in names},
        "line_dash_map": dict.fromkeys(names, "solid") | {"amount": "dot", "random": "dot"},
        "render_mode": "svg",
    }


def nothing(sentence: str) -> go.Figure:
    """A sentence in the place of a figure that cannot be drawn."""
    drawn = in_house(go.Figure(), height=120)
    drawn.update_xaxes(visible=False).update_yaxes(visible=False)
    return drawn.add_annotation(text=sentence, showarrow=False, font_size=15)
