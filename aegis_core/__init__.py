"""Aegis: fraud detection in payment transactions, without labels to start.

Nothing of the package is imported here, so that a dashboard's kernel pays only for what it uses.
A transaction's way is `intake` → `features` → `detection` → `serving`, on `store` and `runs`;
people are in `review`, hindsight is in `evaluation`, eyes are in `views`.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "cli": "up",
    "detection": "approvals comparison detector forest learner policy scoring training trees "
    "verdicts",
    "evaluation": "drift",
    "features": "arrays geo kernels profiles surprise",
    "intake": "synthetic",
    "review": "lists",
    "runs": "ledger lineage notebooks notify redaction reports schedule verify",
    "serving": "client",
    "store": "audit",
    "views": "dashboard figures",
}
MOVED = {name: f"{room}.{name}" for room, names in _ROOMS.items() for name in names.split()} | {
    "answering": "review.cases",
    "answers": "features.confirmed",
    "board": "views.dashboard",
    "care": "store.backup, store.compaction or store.export",
    "carried": "features.checkpoint",
    "caseload": "review.cases",
    "checksums": "store.files",
    "cron": "runs.schedule",
    "live": "serving.engine, serving.simulate or evaluation.parity",
    "models": "detection.registry or detection.history",
    "reviews": "review.answers",
    "service": "serving",
    "whatif": "evaluation.budgets",
    "workload": "review.statistics",
}
"""Where the modules of version 0.1 are now, for notebooks that were written for it."""


class _Moved:
    """Says the new place of a module to whoever imports the old one, even if its folder is left."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        package, _, module = name.partition(".")
        module = module.partition(".")[0]
        if package == __name__ and module in MOVED:
            raise ModuleNotFoundError(
                f"aegis_core.{module} is now aegis_core.{MOVED[module]}.", name=name
            )


def __getattr__(name: str) -> object:
    if name in MOVED:
        raise ImportError(f"aegis_core.{name} is now aegis_core.{MOVED[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext aegis_core` calls: `%%aegis SELECT …` and `%aegis customer C001`."""
    import_module("aegis_core.views.magics").load(shell)


class _Later:
    """Lets `rfc3987_syntax` build its parsers, which takes seconds, when it first has to parse.

    Whoever reads a notebook, draws a figure or serves a page imports `jsonschema`, which imports it
    for IRIs, and no notebook has one.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> Any:
        spec: Any = PathFinder.find_spec(name) if name == "rfc3987_syntax" else None
        if spec:
            spec.loader = cls(spec.loader)
        return spec

    def exec_module(self, module: Any) -> None:
        def real(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            vars(module).pop("__getattr__", None)
            self.loader.exec_module(module)
            return getattr(module, name)

        def is_valid_syntax(term: str, value: str) -> bool:
            return bool(real("is_valid_syntax")(term, value))

        module.__getattr__, module.is_valid_syntax = real, is_valid_syntax


sys.meta_path[:0] = [_Moved, _Later]
