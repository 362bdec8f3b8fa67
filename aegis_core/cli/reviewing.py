"""The command that serves the analysts' page."""

from __future__ import annotations

from typing import Annotated

import typer

from aegis_core.cli.common import Database, Port, Seconds, example, settings_for

EXAMPLES = example("aegis review", "aegis review --analyst anna --port 9001")


def review(
    port: Port = 8867,
    analyst: Annotated[
        str, typer.Option(help="Who answers on this page; else each page asks once.")
    ] = "",
    for_s: Seconds = None,
    db: Database = None,
) -> None:
    """Serve the review page to analysts on this machine until Ctrl-C.

    Its address holds a token of its own, made anew at each start unless AEGIS_REVIEW_TOKEN
    names one; whoever has it may answer. Nobody can answer on the dashboard.
    """
    from aegis_core.views.launcher import serve
    from aegis_core.views.review.page import served_page

    settings = settings_for(db)
    serve(settings, port=port, for_s=for_s, page=served_page(settings, analyst))
