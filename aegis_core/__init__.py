"""Aegis: fraud detection in payment transactions, without labels to start.

Nothing of the package is imported here, so that a dashboard's kernel pays only for what it uses.
A transaction's way is `intake` → `features` → `detection` → `serving`, on `store` and `runs`;
people are in `review`, hindsight is in `evaluation`, eyes are in `views`.
"""

import sys

__version__ = "0.1.0"

MOVED = {
    "answering": "review.cases",
    "answers": "features.confirmed",
    "approvals": "detection.approvals",
    "arrays": "features.arrays",
    "audit": "store.audit",
    "board": "views.dashboard",
    "care": "store.backup, store.compaction or store.export",
    "carried": "features.checkpoint",
    "caseload": "review.cases",
    "checksums": "store.files",
    "client": "serving.client",
    "comparison": "detection.comparison",
    "cron": "runs.schedule",
    "dashboard": "views.dashboard",
    "detector": "detection.detector",
    "drift": "evaluation.drift",
    "figures": "views.figures",
    "forest": "detection.forest",
    "geo": "features.geo",
    "kernels": "features.kernels",
    "learner": "detection.learner",
    "ledger": "runs.ledger",
    "lineage": "runs.lineage",
    "lists": "review.lists",
    "live": "serving.engine, serving.simulate or evaluation.parity",
    "models": "detection.registry or detection.history",
    "notebooks": "runs.notebooks",
    "notify": "runs.notify",
    "policy": "detection.policy",
    "profiles": "features.profiles",
    "redaction": "runs.redaction",
    "reports": "runs.reports",
    "reviews": "review.answers",
    "schedule": "runs.schedule",
    "scoring": "detection.scoring",
    "service": "serving",
    "surprise": "features.surprise",
    "synthetic": "intake.synthetic",
    "training": "detection.training",
    "trees": "detection.trees",
    "up": "cli.up",
    "verdicts": "detection.verdicts",
    "verify": "runs.verify",
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
