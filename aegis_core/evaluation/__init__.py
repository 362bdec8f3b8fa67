"""Evaluation: how well it would have done, by time, with the delay of labels.

In come a history, its labels and folds, out come figures with floor and ceiling. `drift` holds a
day against the weeks before, without labels.
"""

import lazy_loader

_NAMES = {
    "outcome": ["DETECTORS", "Evaluation", "mean_and_spread", "side_by_side"],
    "prequential": ["backtest", "evaluate"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
