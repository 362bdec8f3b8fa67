"""Frame in, plotly figure out: the pictures of notebooks and reports. The only import of plotly.

By stage: `house` (what all have in common), `data`, `training`, `evaluation`, `policy`, `answers`,
`verdicts`, `drift`.
"""

from aegis_core.views.figures.answers import differences, learning
from aegis_core.views.figures.data import audit_heatmap, hours, landscape, payments
from aegis_core.views.figures.drift import drift_effects, drift_movers, drift_shapes
from aegis_core.views.figures.evaluation import (
    bursts,
    compared,
    daily_alerts,
    precision_recall,
    recall_bars,
)
from aegis_core.views.figures.house import COLOURS, LAYOUT, figure
from aegis_core.views.figures.policy import costs, forecasts, reliability, what_if
from aegis_core.views.figures.training import evidence_tails, score_histogram
from aegis_core.views.figures.verdicts import cases, contributions, histories

__all__ = [
    "COLOURS",
    "LAYOUT",
    "audit_heatmap",
    "bursts",
    "cases",
    "compared",
    "contributions",
    "costs",
    "daily_alerts",
    "differences",
    "drift_effects",
    "drift_movers",
    "drift_shapes",
    "evidence_tails",
    "figure",
    "forecasts",
    "histories",
    "hours",
    "landscape",
    "learning",
    "payments",
    "precision_recall",
    "recall_bars",
    "reliability",
    "score_histogram",
    "what_if",
]
