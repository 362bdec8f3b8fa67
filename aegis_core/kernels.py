"""Compiling functions of arrays with numba, with a cache that cannot serve yesterday's code.

numba's own cache looks only at the file of the function that is called, so a kernel in one module
would go on using an old version of what it calls in another. Here the cache folder carries a hash
of every module whose functions or constants are compiled in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba as nb

F = TypeVar("F", bound=Callable[..., object])
_MODULES = ("kernels", "schema", "geo", "profiles", "answers", "detector", "learner", "scoring")


@cache
def cache_folder() -> Path:
    """Folder of compiled kernels of exactly this source, beside the package or in the home."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for module in _MODULES:
        digest.update((here / f"{module}.py").read_bytes())
    base = here / "__pycache__"
    if not os.access(base if base.exists() else here, os.W_OK):
        base = Path.home() / ".cache" / "aegis"
    return base / f"kernels-{digest.hexdigest()[:12]}"


def kernel(function: F) -> F:
    """Compile `function` when it is first called, in numba's nopython mode."""
    settings: Any = nb.config
    saved, settings.CACHE_DIR = settings.CACHE_DIR, str(cache_folder())
    try:
        return cast("F", nb.njit(cache=True)(function))
    finally:
        settings.CACHE_DIR = saved
