"""HTML for people: the report of a run and the list of all runs.

A report is one file that loads nothing from anywhere. Code is folded away, the parameters are a
table, figures stay interactive. Only the page's own scripts run: its security policy refuses any
script that came in with an output.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aegis_core.config import Settings
from aegis_core.machine import utc_now, written_whole

if TYPE_CHECKING:
    from nbconvert import HTMLExporter

TEMPLATES: Final = Path(__file__).with_name("templates")

_NEEDED: Final = {"run_id", "notebook", "started_at", "status", "parameters"}
_SPARK_RUNS: Final = 30
_SPARK_SIZE: Final = (100, 24)
_PLOTLY: Final = "application/vnd.plotly.v1+json"
_ORIGIN: Final = (
    ("run_id", "run"),
    ("retry_of", "after"),
    ("entry", "schedule"),
    ("due_at", "due (UTC)"),
    ("code_version", "code"),
    ("notebook_hash", "notebook"),
    ("lock_hash", "packages"),
    ("seed", "seed"),
    ("model_version", "model"),
    ("data_hash", "data"),
    ("last_seq", "last transaction"),
    ("n_labels", "labels"),
)
"""Columns of the ledger that say where figures come from, and what they are called."""
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
    run : its row of the ledger.
    parameters : what it was asked for: name, value and help of each.
    """
    import nbformat

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
    page, _ = _exporter().from_notebook_node(
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


@functools.cache
def _exporter() -> HTMLExporter:
    """Compiles the templates once."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    return HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": _SHOWN}}),
        template_name="basic",
        extra_template_paths=[str(TEMPLATES)],
        template_file="report.html.j2",
        exclude_anchor_links=True,
    )


def write_index(reports: Path) -> Path:
    """Write `index.html`, the list of the runs in the folder `reports`, newest first.

    On top stands what each notebook found last, with a line of how that went over time.
    """
    import jinja2

    runs = [_readable(run) for run in _noted(reports)]
    loader = jinja2.FileSystemLoader(TEMPLATES)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("index.html.j2")
    style = (TEMPLATES / "style.css").read_text("utf-8")
    page = template.render(runs=runs, latest=_latest(runs), csp=_policy("'none'"), style=style)
    write_whole(reports / "index.html", page)
    return reports / "index.html"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it meanwhile, or after a crash, sees a whole one."""
    with written_whole(path) as fresh:
        fresh.write_text(text, "utf-8")


def clear(reports: Path, keep_runs: int, keep_days: float, spared: str = "") -> list[str]:
    """Remove the folders of older runs; their ids. The ledger keeps its rows.

    A folder that cannot be removed, or that another run removes at the same time, is no error: the
    next clearing comes to it again.

    Parameters
    ----------
    keep_runs : the newest so many stay; 0 for all.
    keep_days : those that started within so many days stay; 0 for all.
    spared : the run that is being closed, whose report nobody has read; it stays.
    """
    gone = []
    for place, run in enumerate(_noted(reports)):
        age = utc_now() - datetime.fromisoformat(run["started_at"])
        old = (keep_runs and place >= keep_runs) or (keep_days and age > timedelta(days=keep_days))
        if old and run["folder"] != spared and run["status"] not in ("waiting", "running"):
            shutil.rmtree(reports / run["folder"], ignore_errors=True)
            if not (reports / run["folder"]).exists():
                gone.append(run["folder"])
    return gone


def renew(settings: Settings, run_id: str) -> None:
    """Clear away what the settings do not keep, but not a run just closed; write the list anew."""
    clear(settings.reports, settings.keep_runs, settings.keep_days, spared=run_id)
    write_index(settings.reports)


def _noted(reports: Path) -> list[dict[str, Any]]:
    """What each run's folder says of it, the newest first; folders that say nothing are no runs."""
    found = []
    for path in reports.glob("*/run.json"):
        with contextlib.suppress(OSError, ValueError):  # removed meanwhile, or not whole
            facts = json.loads(path.read_text("utf-8"))
            if isinstance(facts, dict) and facts.keys() >= _NEEDED:
                found.append(facts | {"folder": path.parent.name})
    return sorted(found, key=lambda run: (run["started_at"], run["folder"]), reverse=True)


def _latest(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each notebook its last run, and its headline figures over its last runs."""
    found = []
    for name in dict.fromkeys(run["notebook"] for run in runs):
        of_it = [run for run in runs if run["notebook"] == name]
        done = [run for run in of_it if run["status"] == "done"][:_SPARK_RUNS]
        figures = []
        for figure, value in (done[0]["figures"] if done else {}).items():
            past = [run["figures"][figure] for run in done[::-1] if figure in run["figures"]]
            told = {"name": figure.replace("_", " "), "value": _figure_text(value)}
            figures.append(told | {"spark": _spark(past)})
        found.append({"run": of_it[0], "done": done[0] if done else None, "figures": figures})
    return found


def _spark(values: Sequence[float]) -> str:
    """A small line through values in the order of time, the last one marked; empty for one alone.

    >>> _spark([0.5])
    ''
    >>> _spark([1, 3, 2]).partition("<polyline ")[2].partition("/>")[0]
    'points="3.0,21.0 50.0,3.0 97.0,12.0"'
    """
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    step, span = (_SPARK_SIZE[0] - 6) / (len(values) - 1), (high - low) or 1.0
    tall = _SPARK_SIZE[1] - 6
    top = 3 if high > low else 3 + tall / 2
    points = [(3 + i * step, top + tall * (high - v) / span) for i, v in enumerate(values)]
    told = f"{len(values)} runs, from {values[0]:.4g} to {values[-1]:.4g}; {low:.4g} to {high:.4g}"
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return (
        f'<svg class="spark" viewBox="0 0 {_SPARK_SIZE[0]} {_SPARK_SIZE[1]}" role="img" '
        f'aria-label="{told}"><title>{told}</title><polyline points="{line}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/></svg>'
    )


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
            output["text"] = _overwritten(output["text"])
    return left


def _overwritten(text: str) -> str:
    r"""Text without what a carriage return, other than at the end of a line, took back.

    >>> _overwritten("1 %\r2 %\r99 %\r\ndone\n")
    '99 %\r\ndone\n'
    """
    return re.sub(r"^.*\r(?!\n)", "", text, flags=re.MULTILINE)


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
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")


def _readable(run: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger's row with its duration, a start time that reads well, and where it comes from."""
    started = datetime.fromisoformat(str(run["started_at"]))
    ended, seconds = run.get("ended_at"), run.get("seconds")
    if seconds is None and ended is not None:
        seconds = (datetime.fromisoformat(ended) - started).total_seconds()
    memory, figures = run.get("peak_memory_mb"), run.get("figures", {})
    return {
        **run,
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "took": "" if seconds is None else duration(seconds),
        "memory": "" if memory is None else f"{memory:,.0f} MB",
        "parameters": json.loads(run["parameters"]),
        "figures": figures,
        "shown": {name.replace("_", " "): _figure_text(value) for name, value in figures.items()},
        "origin": [(label, run[key]) for key, label in _ORIGIN if run.get(key) is not None],
    }


def _figure_text(value: float) -> str:
    """A figure as people read it.

    >>> _figure_text(0.123456), _figure_text(14768.0)
    ('0.1235', '14,768')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


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
