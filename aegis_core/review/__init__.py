"""Review: what people decide about alerts, and what is taught by it.

In come open alerts and an analyst's answers, out come labels, cases, claims and lists.
"""

import lazy_loader

_NAMES = {"answers": ["answer"]}
_handed_on, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)


def __getattr__(name: str) -> object:
    if name in ("Review", "show"):  # the analysts' page, which was here in version 0.1
        raise ImportError(f"aegis_core.review.{name} is now aegis_core.views.review.{name}.")
    return _handed_on(name)
