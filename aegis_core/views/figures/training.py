"""Pictures of a training window: what is ordinary, and where the thresholds lie."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from aegis_core.schema import FACTORS
from aegis_core.views.figures.house import COLOURS, in_house, thresholds


def evidence_tails(window: pd.DataFrame) -> go.Figure:
    """What is ordinary for each factor: the share of traffic with at least so much evidence.

    `window` is a `Training.window`: columns of each factor and `strength:<factor>`, in nats.

    >>> names = [*FACTORS, *(f"strength:{f}" for f in FACTORS)]
    >>> drawn = evidence_tails(pd.DataFrame({name: [0.0, 2.0, 2.0, 5.0] for name in names}))
    >>> drawn.data[2].x, drawn.data[2].y
    (array([5., 2., 0.]), array([ 25.,  75., 100.]))
    """
    deepest = np.log(max(len(window), 2))
    promise = pd.DataFrame({"nats": [0, deepest], "share": [100, 100 * np.exp(-deepest)]})
    kinds = {"as the profiles tell it": "strength:", "as the forest sees it": ""}
    tails = [
        _tail(window[prefix + factor].to_numpy()).assign(factor=factor, evidence=kind)
        for factor in FACTORS
        for kind, prefix in kinds.items()
    ]
    drawn = px.line(
        pd.concat([promise.assign(factor="as rare as the nats say", evidence="promise"), *tails]),
        x="nats",
        y="share",
        color="factor",
        line_dash="evidence",
        color_discrete_map=COLOURS | {"as rare as the nats say": COLOURS["random"]},
        line_dash_map=dict(zip(("promise", *kinds), ("solid", "dot", "solid"), strict=True)),
        hover_data={"nats": ":.1f", "share": ":.3g"},
        labels={"nats": "evidence (nats)", "share": "share with at least as much (%)"},
        log_y=True,
        render_mode="svg",
        title="How much evidence is ordinary",
    )
    for trace in drawn.data:  # one entry of the legend for both lines of a factor
        name = trace.legendgroup.partition(",")[0]
        trace.update(name=name, legendgroup=name, line_width=1.5)
    drawn.update_traces(showlegend=False, selector={"line.dash": "dot"})
    drawn.update_traces(
        line_width=4, opacity=0.5, hoverinfo="skip", selector={"name": "as rare as the nats say"}
    )
    return in_house(drawn, xaxis_rangemode="tozero", yaxis_dtick=1)


def _tail(values: np.ndarray) -> pd.DataFrame:
    """Values from the largest down, thinned (`nats`), and the `share` in % at least as large."""
    ordered = np.sort(values)[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), 300).round().astype(int))
    levels = np.unique(ordered[ranks - 1])[::-1]
    share = np.searchsorted(-ordered, -levels, side="right") / len(ordered)
    return pd.DataFrame({"nats": levels, "share": 100 * share})


def score_histogram(scores: np.ndarray, review_above: float, block_above: float) -> go.Figure:
    """How many transactions have which score, and where the thresholds lie.

    >>> drawn = score_histogram(np.array([0.4, 0.4, 0.6, 0.9]), 0.5, 0.8)
    >>> [(trace.name, int(sum(trace.y))) for trace in drawn.data]
    [('approve', 2), ('review', 1), ('block', 1)]
    """
    decisions = ("approve", "review", "block")
    decided = np.select([scores > block_above, scores > review_above], [2, 1], 0)
    edges = np.linspace(scores.min(), scores.max() + 1e-9, 81)
    counts = {d: np.histogram(scores[decided == i], edges)[0] for i, d in enumerate(decisions)}
    drawn = px.bar(
        pd.DataFrame(counts, index=((edges[1:] + edges[:-1]) / 2).round(4)),
        color_discrete_map=COLOURS,
        log_y=True,
        labels={"value": "transactions", "index": "score (higher is more suspicious)"},
        title="Scores of the training window",
    )
    drawn.update_traces(hovertemplate="%{y:,} around a score of %{x:.3f}")
    return thresholds(in_house(drawn, bargap=0.02, yaxis_dtick=1), review_above, block_above)
