"""Notices by rules: `events` are looked for, `outbox` keeps what is due, `sending` sends it."""

import lazy_loader

_NAMES = {"notifier": ["Notifier", "listed", "run", "try_out"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
