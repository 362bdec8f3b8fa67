"""Aegis: fraud detection in payment transactions, without labels to start.

Nothing of the package is imported here, so that a dashboard's kernel pays only for what it uses.
A transaction's way is `intake` → `features` → `detection` → `serving`, on `store` and `runs`;
people are in `review`, hindsight is in `evaluation`, eyes are in `views`.
"""

import sys

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


sys.meta_path.insert(0, _Moved)
