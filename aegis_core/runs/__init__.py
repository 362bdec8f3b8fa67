"""Runs: a notebook executed as one, with a row in the ledger, a report, and its proof.

In come a notebook's name and parameters, out come an executed notebook, an HTML report and the
figures that it recorded. `schedule` starts runs when they are due, `verify` executes one again and
compares every number, `notify` tells people.
"""

import lazy_loader

_NAMES = {
    "execution": [
        "record",
        "record_data",
        "record_proof",
        "run_notebook",
    ],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
