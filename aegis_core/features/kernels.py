"""Compiling functions of arrays with numba, with a cache that cannot serve yesterday's code.

numba's own cache looks only at the file of the function that is called, so a kernel in one module
would go on using an old version of what it calls in another. Here the cache folder carries a hash
of every module whose functions or constants are compiled in. A folder that no process has asked for
in `STALE_DAYS` is removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba as nb

F = TypeVar("F", bound=Callable[..., object])
STALE_DAYS: Final = 30.0
"""A folder of compiled kernels is forgotten when no process was started on it for so long."""


@cache
def cache_folder() -> Path:
    """Folder of compiled kernels of exactly this source: beside the package or in the user's cache.

    That is `XDG_CACHE_HOME`, or `.cache` of the user's home. Stale ones beside it are removed. A
    process that was started before and compiles only now makes its folder again.
    """
    here = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for module in _compiled_in(here):
        digest.update(module.read_bytes())
    base = here / "__pycache__"
    if not os.access(base if base.exists() else here, os.W_OK):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aegis"
    folder = base / f"kernels-{digest.hexdigest()[:12]}"
    with suppress(OSError):  # another process may remove the same ones
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # in use, whenever it was filled
        for other in base.glob("kernels-*"):
            if time.time() - other.stat().st_mtime > STALE_DAYS * 86_400:
                shutil.rmtree(other, ignore_errors=True)
    return folder


def _compiled_in(package: Path) -> list[Path]:
    """The modules whose functions or constants may be part of a kernel."""
    judging = [path for path in package.glob("detection/*.py") if "@kernel" in path.read_text()]
    words = package / "units" / "words.py"
    return [package / "schema.py", words, *sorted(package.glob("features/*.py")), *sorted(judging)]


def kernel(function: F) -> F:
    """Compile `function` when it is first called, in numba's nopython mode.

    Where its folder cannot be written, it is compiled anew by each process, with a warning.
    """
    return _compiled(nb.njit, function)


def elementwise(function: Callable[..., float]) -> Callable[..., Any]:
    """The same for a function of numbers, which then takes arrays as well, like any ufunc."""
    return _compiled(nb.vectorize, function)


def _compiled(compiler: Any, function: F) -> F:
    folder = cache_folder()
    with suppress(OSError):  # told below
        folder.mkdir(parents=True, exist_ok=True)
    if not (kept := os.access(folder, os.W_OK)):
        warnings.warn(
            f"Compiled code cannot be kept in {folder}, so that every start compiles for seconds; "
            "name a folder for it with XDG_CACHE_HOME.",
            RuntimeWarning,
            stacklevel=3,
        )
    settings: Any = nb.config
    saved, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
    try:
        return cast("F", compiler(cache=kept)(function))
    finally:
        settings.CACHE_DIR = saved
