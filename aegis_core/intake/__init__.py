"""Intake: transactions come in, from files, over REST or made up, through one list of checks.

In come rows of any form, out come rows of `transactions` and `labels`; what does not pass goes to
`rejected` with its reason. A file is read by `files`, checked in `staging`, understood in
`settling` and stored by `keeping`; `importing` is that whole way.
"""

import lazy_loader

_NAMES = {"importing": ["ImportSummary", "import_files"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
