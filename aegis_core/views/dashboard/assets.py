"""Files that a page needs: those of this folder, and plotly.js of the installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from aegis_core.errors import NotReady

ASSETS: Final = Path(__file__).parent


def plotly_js() -> Path:
    """The installed plotly package's `plotly.min.js`, without importing the package.

    >>> plotly_js().name
    'plotly.min.js'
    """
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise NotReady(
            "The package plotly is not installed; `pip check` tells what else is missing."
        )
    return Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
