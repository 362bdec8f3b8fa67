"""The map of impossible travels: great circles over outlines that come with the package.

The outlines are Natural Earth's, which are in the public domain; nothing is asked of a tile server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from aegis_core.units.money import worth
from aegis_core.views.dashboard.counts import Floats
from aegis_core.views.dashboard.pictures import figure, line, packed, plain, trace

OUTLINES: Final = Path(__file__).parent / "outlines.json"
_STEPS: Final = 24
_SMALLEST_VIEW: Final = 24.0
_ROOM: Final = 6.0


@cache
def outlines() -> tuple[Floats, Floats]:
    """Longitudes and latitudes of coasts and borders in degrees; NaN between two lines."""
    lines = json.loads(OUTLINES.read_text("utf-8"))["lines"]
    joined = np.concatenate([np.append(line, [np.nan, np.nan]) for line in lines])
    return joined[0::2], joined[1::2]


def great_circle(lat: float, lon: float, to_lat: float, to_lon: float) -> tuple[Floats, Floats]:
    """Longitudes and latitudes of the shortest way over the Earth, in degrees.

    A NaN stands where it leaves the map at 180 degrees and comes in at the other side.

    >>> [array.round(1).tolist() for array in (a[[0, 12, 24]] for a in great_circle(0, 0, 0, 90))]
    [[0.0, 45.0, 90.0], [0.0, 0.0, 0.0]]
    """
    lats, lons = np.radians([lat, to_lat]), np.radians([lon, to_lon])
    ends = np.stack([np.cos(lats) * np.cos(lons), np.cos(lats) * np.sin(lons), np.sin(lats)])
    angle = np.arccos(np.clip(ends[:, 0] @ ends[:, 1], -1, 1))
    share = np.linspace(0, 1, _STEPS + 1)
    if np.sin(angle) < 1e-9:  # the same place, or the other side of the Earth
        way = ends[:, :1] * (1 - share) + ends[:, 1:] * share
    else:
        way = (
            ends[:, :1] * np.sin((1 - share) * angle) + ends[:, 1:] * np.sin(share * angle)
        ) / np.sin(angle)
    out_lat = np.degrees(np.arctan2(way[2], np.hypot(way[0], way[1])))
    out_lon = np.degrees(np.arctan2(way[1], way[0]))
    cuts = np.flatnonzero(np.abs(np.diff(out_lon)) > 180) + 1
    return np.insert(out_lon, cuts, np.nan), np.insert(out_lat, cuts, np.nan)


def map_figure(travels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Impossible travels as great circles, from an open point to a full one."""
    lon, lat = outlines()
    ways = [great_circle(t["from_lat"], t["from_lon"], t["lat"], t["lon"]) for t in travels]
    gap = np.array([np.nan])
    lons = np.concatenate([part for way, _ in ways for part in (way, gap)] or [gap])
    lats = np.concatenate([part for _, way in ways for part in (way, gap)] or [gap])
    ends = {
        "from": ("circle-open", [t["from_lon"] for t in travels], [t["from_lat"] for t in travels]),
        "to": ("diamond", [t["lon"] for t in travels], [t["lat"] for t in travels]),
    }
    text = [
        f"{plain(t['customer_id'])}<br>{plain(worth(t['amount'], t['currency']))}<br>"
        f"{plain(t['reasons'])}"
        for t in travels
    ]
    traces = [
        line("coasts and borders", "", packed(lon), lat, color="--aegis-outline", width=0.8),
        line("way", "", packed(lons), lats, color="--aegis-block-fill", width=1.6),
    ]
    for name, (symbol, x, y) in ends.items():
        marker = {"symbol": symbol, "size": 7, "color": "--aegis-block"}
        place = {"x": packed(np.array(x, float)), "y": packed(np.array(y, float)), "text": text}
        told = {"hovertemplate": "%{text}<extra></extra>"}  # without the name
        traces.append(
            trace("scatter", name, "%{text}", mode="markers", marker=marker, **place) | told
        )
    left, right, low, high = _view(travels)
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "showline": False}
    return figure(
        traces,
        showlegend=False,
        dragmode="pan",
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        xaxis={**hidden, "range": [left, right]},
        yaxis={**hidden, "range": [low, high], "scaleanchor": "x", "scaleratio": 1.3},
        uirevision=f"{left:.0f} {right:.0f} {low:.0f} {high:.0f}",
    )


def _view(travels: Sequence[Mapping[str, Any]]) -> tuple[float, float, float, float]:
    """Where to look, in whole steps of ten degrees, so that a new travel seldom moves the map."""
    if not travels:
        return -170.0, 180.0, -56.0, 78.0
    edges = []
    for names, most in ((("lon", "from_lon"), 180.0), (("lat", "from_lat"), 84.0)):
        values = [float(t[name]) for t in travels for name in names]
        low, high = min(values) - _ROOM, max(values) + _ROOM
        spare = max(0.0, _SMALLEST_VIEW - (high - low)) / 2
        low, high = (low - spare) // 10 * 10, -(-(high + spare) // 10) * 10
        edges += [max(low, -most), min(high, most)]
    left, right, bottom, top = edges
    return left, right, bottom, top
