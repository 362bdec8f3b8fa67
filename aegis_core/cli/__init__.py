"""The command `aegis`."""

import lazy_loader

_NAMES = {"commands": ["app", "main"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
