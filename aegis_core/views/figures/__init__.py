"""Frame in, plotly figure out: the pictures of notebooks and reports. The only import of plotly.

By stage: `house` (what all have in common), `data`, `training`, `evaluation`, `policy`, `verdicts`,
`drift`.
"""

import lazy_loader

_NAMES = {
    "house": ["COLOURS", "LAYOUT", "figure"],
    "data": ["audit_heatmap", "hours", "landscape", "payments"],
    "training": ["evidence_tails", "score_histogram"],
    "evaluation": [
        *("bursts", "compared", "daily_alerts", "differences", "precision_recall", "recall_bars")
    ],
    "policy": ["costs", "forecasts", "reliability", "what_if"],
    "verdicts": ["cases", "contributions", "histories"],
    "drift": ["drift_effects", "drift_movers", "drift_shapes"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
