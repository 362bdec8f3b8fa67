"""HTML for people: the report of a run and the list of all runs.

A report is one file that loads nothing from anywhere. Code is folded away, the parameters are a
table, figures stay interactive. Only the page's own scripts run: its security policy refuses any
script that came in with an output.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

TEMPLATES: Final = Path(__file__).with_name("templates")

_PLOTLY: Final = "application/vnd.plotly.v1+json"
_SHOWN: Final = [
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/plain",
]


def render(
    executed: Path, run: Mapping[str, Any], parameters: Sequence[Sequence[object]] = ()
) -> str:
    """The report of an executed notebook.

    Parameters
    ----------
    executed : Path
        The executed notebook.
    run : mapping
        The run's row of the ledger.
    parameters : sequence of (name, value, help)
        What the run was asked for.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    nb = nbformat.read(executed, as_version=4)
    figures = 0
    for cell in nb.cells:
        if cell.cell_type == "markdown":  # the other notebooks are not beside the report
            cell.source = re.sub(r"\[([^]]*)\]\([^)]*\.ipynb[^)]*\)", r"\1", cell.source)
        if cell.cell_type == "code":
            cell.outputs = _as_left(cell.outputs)
        for output in cell.get("outputs", []):
            if _PLOTLY in output.get("data", {}):
                output["data"] = {"text/html": _figure(output["data"][_PLOTLY])}
                figures += 1
    nonce = secrets.token_urlsafe(16)
    page, _ = HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": _SHOWN}}),
        template_name="basic",
        extra_template_paths=[str(TEMPLATES)],
        template_file="report.html.j2",
        exclude_anchor_links=True,
    ).from_notebook_node(
        nb,
        resources={
            "run": _readable(run),
            "executed": executed.name,
            "parameters": parameters,
            "nonce": nonce,
            "csp": _policy(f"'nonce-{nonce}'"),
            "style": (TEMPLATES / "style.css").read_text("utf-8"),
        },
    )
    # after the conversion, which would parse the library's five megabytes
    return str(page).replace("/* plotly.js */", _plotly_js() if figures else "", 1)


def write_index(reports: Path) -> Path:
    """Write `index.html`, the list of the runs in the folder `reports`, newest first."""
    import jinja2

    noted = sorted(reports.glob("*/run.json"), key=lambda path: path.parent.name, reverse=True)
    runs = [_readable(json.loads(path.read_text("utf-8"))) for path in noted]
    loader = jinja2.FileSystemLoader(TEMPLATES)
    page = (
        jinja2.Environment(loader=loader, autoescape=True)
        .get_template("index.html.j2")
        .render(
            runs=runs,
            csp=_policy("'none'"),
            style=(TEMPLATES / "style.css").read_text("utf-8"),
        )
    )
    index, fresh = reports / "index.html", reports / f".index-{os.getpid()}.html"
    fresh.write_text(page, "utf-8")
    fresh.replace(index)  # whoever reads it meanwhile sees a whole page
    return index


def _as_left(outputs: Sequence[Any]) -> list[Any]:
    r"""Outputs as a terminal leaves them: what was overwritten is gone, as in a progress bar.

    What alternated on the two streams is told one stream after the other. Widgets, which need a
    kernel, are gone as well.

    >>> said = [{"output_type": "stream", "name": "x", "text": t} for t in ("\r1 %", "\r99 %\n")]
    >>> _as_left(said)
    [{'output_type': 'stream', 'name': 'x', 'text': '99 %\n'}]
    """
    left: list[Any] = []
    for output in outputs:
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            continue
        latest = itertools.takewhile(lambda o: o["output_type"] == "stream", reversed(left))
        same = [o for o in latest if o["name"] == output.get("name")]
        if same:
            same[0]["text"] += output["text"]
        else:
            left.append(output)
    for output in left:
        if output["output_type"] == "stream":
            output["text"] = re.sub(r"[^\n]*\r(?!\n)", "", output["text"])
    return left


def _figure(figure: Mapping[str, Any]) -> str:
    data = json.dumps(figure).replace("<", "\\u003c")  # cannot end its script element
    height = int(figure.get("layout", {}).get("height", 450))  # plotly's own default
    script = f'<script type="application/json">{data}</script>'
    return f'<div class="figure" style="min-height: {height}px">{script}</div>'


def _policy(scripts: str) -> str:
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
    )


def _plotly_js() -> str:
    package = importlib.util.find_spec("plotly")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("plotly")
    return (Path(package.origin).parent / "package_data" / "plotly.min.js").read_text("utf-8")


def _readable(run: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger's row with its duration and a start time that reads well."""
    started = datetime.fromisoformat(str(run["started_at"]))
    ended = run.get("ended_at")
    seconds = None if ended is None else (datetime.fromisoformat(ended) - started).total_seconds()
    return {
        **run,
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "took": "" if seconds is None else duration(seconds),
        "parameters": json.loads(run["parameters"]),
    }


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(4.21), duration(75), duration(7260)
    ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {seconds - 60 * minutes:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"
