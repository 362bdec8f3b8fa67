"""The dashboard: `app` is its kernel, and shows without changing anything.

`*.js` are the widgets' views, `board.css` is the stylesheet, `template/` is the Voilà page.
"""

import lazy_loader

_NAMES = {"app": ["opened", "show"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
