"""The analysts' page: `page` is its kernel, the other files are its front end."""

import lazy_loader

_NAMES = {"page": ["Review", "show"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
