"""Frame in, plotly figure out: the pictures of notebooks and reports. The only import of plotly.

By stage: `house` (what all have in common), `data`, `training`, `evaluation`, `policy`, `verdicts`.
"""

from aegis_core.figures.data import audit_heatmap, hours, landscape, payments
from aegis_core.figures.evaluation import (
    compared,
    daily_alerts,
    precision_recall,
    recall_bars,
)
from aegis_core.figures.house import COLOURS, LAYOUT, figure
from aegis_core.figures.training import evidence_tails, score_histogram
from aegis_core.figures.verdicts import contributions

__all__ = [
    "COLOURS",
    "LAYOUT",
    "audit_heatmap",
    "compared",
    "contributions",
    "daily_alerts",
    "evidence_tails",
    "figure",
    "hours",
    "landscape",
    "payments",
    "precision_recall",
    "recall_bars",
    "score_histogram",
]
