"""Review: what people decide about alerts, and what is taught by it.

In come open alerts and an analyst's answers, out come labels, cases, claims and lists.
"""

import lazy_loader

_NAMES = {
    "answers": ["answer"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
