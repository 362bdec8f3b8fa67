"""Features: the one pass over transactions, live and in every replay.

In come transactions in order of arrival and the labels that are known by then, out come signals of
each risk factor and the confirmed frauds of merchant and customer. `signals` is the pass and
`frauds` what answers teach it; what they remember is in `profiles` and `confirmed`, and
`checkpoint` keeps it where older transactions were forgotten.
"""

import lazy_loader

_NAMES = {"confirmed": ["Confirmed"], "profiles": ["Profiles"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
