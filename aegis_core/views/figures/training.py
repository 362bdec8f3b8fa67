"""Pictures of a training window: what is ordinary, and where the thresholds lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from aegis_core.schema import FACTORS
from aegis_core.views.figures.house import COLOURS, figure, thresholds

if TYPE_CHECKING:
    import pandas as pd


def evidence_tails(window: pd.DataFrame) -> go.Figure:
    """What is ordinary for each factor: the share of traffic with at least so much evidence.

    Parameters
    ----------
    window
        As `Training.window`: columns of each factor and `strength:<factor>`, in nats.

    >>> import pandas as pd
    >>> names = [*FACTORS, *(f"strength:{f}" for f in FACTORS)]
    >>> drawn = evidence_tails(pd.DataFrame({name: [0.0, 2.0, 2.0, 5.0] for name in names}))
    >>> drawn.data[2].x, drawn.data[2].y
    (array([5., 2., 0.]), array([ 25.,  75., 100.]))
    """
    deepest = np.log(max(len(window), 2))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as rare as the nats say",
            "x": [0, deepest],
            "y": [100, 100 * np.exp(-deepest)],
            "line": {"color": COLOURS["random"], "width": 4},
            "opacity": 0.5,
            "hoverinfo": "skip",
        }
    ]
    for factor in FACTORS:
        for column, dash, told in (
            (f"strength:{factor}", "dot", "before weighting"),
            (factor, "solid", "weighted"),
        ):
            nats, share = _tail(window[column].to_numpy())
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": factor,
                    "legendgroup": factor,
                    "showlegend": dash == "solid",
                    "x": nats,
                    "y": share,
                    "line": {"color": COLOURS[factor], "dash": dash, "width": 1.5},
                    "hovertemplate": f"{factor}, {told}: %{{y:.3g}} % above %{{x:.1f}} nats"
                    "<extra></extra>",
                }
            )
    return figure(
        traces,
        {
            "title": "How much evidence is ordinary",
            "xaxis": {"title": "evidence (nats)", "rangemode": "tozero"},
            "yaxis": {"title": "share with at least as much (%)", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def _tail(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values from the largest down, thinned, and the share in % that is at least as large."""
    ordered = np.sort(values)[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), 300).round().astype(int))
    levels = np.unique(ordered[ranks - 1])[::-1]
    share = np.searchsorted(-ordered, -levels, side="right") / len(ordered)
    return levels, 100 * share


def score_histogram(scores: np.ndarray, review_above: float, block_above: float) -> go.Figure:
    """How many transactions have which score, and where the thresholds lie.

    >>> drawn = score_histogram(np.array([0.4, 0.4, 0.6, 0.9]), 0.5, 0.8)
    >>> [(trace.name, int(sum(trace.y))) for trace in drawn.data]
    [('approve', 2), ('review', 1), ('block', 1)]
    """
    decided = np.select([scores > block_above, scores > review_above], [2, 1], 0)
    edges = np.linspace(scores.min(), scores.max() + 1e-9, 81)
    traces = [
        {
            "type": "bar",
            "name": decision,
            "x": ((edges[1:] + edges[:-1]) / 2).round(4),
            "y": np.histogram(scores[decided == i], edges)[0],
            "marker": {"color": COLOURS[decision]},
            "hovertemplate": "%{y:,} around a score of %{x:.3f}",
        }
        for i, decision in enumerate(("approve", "review", "block"))
    ]
    return figure(
        traces,
        {
            "title": "Scores of the training window",
            "barmode": "stack",
            "bargap": 0.02,
            "xaxis": {"title": "score (higher is more suspicious)"},
            "yaxis": {"title": "transactions", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
            **thresholds(review_above, block_above),
        },
    )
