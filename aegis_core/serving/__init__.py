"""Serving: transactions are scored as they arrive.

In come rows that were checked, out come verdicts that are on the disk. `Engine` scores and keeps,
by a `state` that follows what others change; `server` puts REST before it, `client` talks to that,
`simulate` makes payments up.
"""

import lazy_loader

_NAMES = {"client": ["Client"], "engine": ["Engine"], "server": ["serve"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
