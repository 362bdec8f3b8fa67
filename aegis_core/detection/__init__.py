"""Detection: from signals to evidence, score, decision and reasons.

In come the signals of the pass, out come verdicts. A model is trained on a window of history, kept
in the registry, and judges once it was promoted.
"""

import lazy_loader

_NAMES = {
    "detector": ["Detector"],
    "history": ["labels", "recorded", "transactions"],
    "learner": ["Learner"],
    "policy": ["Policy"],
    "registry": ["ModelVersion", "champion", "promote"],
    "scoring": ["Scorer"],
    "training": ["train"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
