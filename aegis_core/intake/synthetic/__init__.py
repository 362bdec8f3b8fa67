"""Made-up histories and streams of payments, with frauds of known kinds among them."""

import lazy_loader

_NAMES = {"histories": ["SyntheticConfig", "generate", "history_config", "stream", "write_history"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
