"""Pictures of single verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from aegis_core.figures.house import COLOURS, figure, nothing, thresholds
from aegis_core.schema import FACTORS


def contributions(
    verdicts: Sequence[Mapping[str, Any]],
    review_above: float = np.inf,
    block_above: float = np.inf,
) -> go.Figure:
    """How the factors add up to the score of the first of `verdicts`.

    Parameters
    ----------
    verdicts
        Rows of the table `verdicts`: score, decision and contributions.

    >>> given = dict.fromkeys(FACTORS, 0.0) | {"amount": 0.3}
    >>> row = {"score": 0.7, "decision": "review", "contributions": given}
    >>> contributions([row]).data[0].text[:2]
    ('0.400', '+0.300')
    """
    if not verdicts:
        return nothing("No transaction was scored, so there is no verdict to explain.")
    verdict = verdicts[0]
    parts = [verdict["contributions"][f] for f in FACTORS]
    base = verdict["score"] - sum(parts)
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": ["no evidence", *FACTORS, "score"],
        "base": [0, *(base + np.cumsum([0, *parts[:-1]])), 0],
        "x": [base, *parts, verdict["score"]],
        "text": [f"{base:.3f}", *(f"{part:+.3f}" for part in parts), f"{verdict['score']:.3f}"],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {
            "color": [
                COLOURS["random"],
                *(COLOURS[f] for f in FACTORS),
                COLOURS[verdict["decision"]],
            ]
        },
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    return figure(
        [trace],
        {
            "title": "From no evidence to the score",
            "xaxis": {"title": "score", "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed"},
            "margin": {"l": 120, "r": 64, "t": 72, "b": 48},
            "height": 360,
            **thresholds(review_above, block_above),
        },
    )
