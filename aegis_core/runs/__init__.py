"""Runs: a notebook executed as one, with a row in the ledger, a report, and its proof.

In come a notebook's name and parameters, out come an executed notebook, an HTML report and the
figures that it recorded. `schedule` starts runs when they are due, `verify` executes one again and
compares every number, `notify` tells people.
"""

import lazy_loader

_NAMES = {"execution": ["record", "record_data", "record_proof", "run_notebook"]}
_handed_on, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)


def __getattr__(name: str) -> object:
    if name in ("record_metrics", "record_model", "record_scores"):  # of version 0.1
        raise ImportError(f"aegis_core.runs.{name} is now a part of aegis_core.runs.record.")
    return _handed_on(name)
