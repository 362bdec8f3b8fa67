"""A day of traffic beside the same weekdays of the weeks before, without labels."""

import lazy_loader

_NAMES = {
    "daily": ["Drift", "judge"],
    "effects": ["MEASURES"],
    "moved": ["GROUPS"],
    "traffic": ["DAY", "Traffic", "day_of", "observe"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
