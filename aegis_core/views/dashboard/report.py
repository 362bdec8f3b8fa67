"""The board and the queue of one moment: for papermill, and for whoever reads its report.

Neither has widgets, which would make the report fetch their code from a CDN.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display

from aegis_core.review import cases, statistics
from aegis_core.runs import lineage
from aegis_core.store import Store
from aegis_core.views import figures
from aegis_core.views.dashboard import origins, pictures
from aegis_core.views.dashboard.feed import Feed, worst_first
from aegis_core.views.dashboard.filters import Filters
from aegis_core.views.dashboard.log import CAMPAIGN_COLUMNS, COLUMNS, campaign_rows, rows
from aegis_core.views.dashboard.tiles import next_steps, proof, replayed, tiles

MOST_CASES = 10


def report(store: Store) -> None:
    """Display this moment of the board: its numbers, pictures and worst blocks."""
    ever, feed = Filters(period="all"), Feed(store)
    snapshot = feed.read(ever)
    text, steps = next_steps(snapshot)
    if text:
        print(text, *(f"`{command}` {effect}." for command, effect in steps), sep="\n")
        return
    print(f"As of {snapshot.as_of:%Y-%m-%d %H:%M:%S} UTC.")
    print(*(f"{t['label']}: {t['value']} ({t['note']})" for t in tiles(snapshot, ever)), sep="\n")
    print(*(" ".join(part) for part in origins.lineage(snapshot)), sep=", ")
    print(proof(snapshot)["text"])
    print(*filter(None, (snapshot.storm, replayed(snapshot), snapshot.budget)), sep="\n")
    counts = snapshot.counts
    span = float(counts.start.min()), float(counts.start.max())
    scatter = pictures.scatter_figure(snapshot.window, "hour", "amount")
    for drawn in (scatter, pictures.bars_figure(counts, *span)):
        display(figures.figure(**pictures.unpacked(drawn, figures.COLOURS)))  # type: ignore[no-untyped-call]
    if snapshot.campaigns:
        _table(campaign_rows(snapshot.campaigns), CAMPAIGN_COLUMNS)
    blocks = feed.read(replace(ever, decision="block")).window
    worst = worst_first(blocks, np.arange(len(blocks["seq"])))[:25]
    _table(rows(blocks, worst), COLUMNS)


def _table(shown: list[dict[str, Any]], columns: Sequence[tuple[str, str, str]]) -> None:
    titles = {key: title or key for key, title, _ in columns}
    table = pd.DataFrame(shown, columns=list(titles)).rename(columns=titles).round(2)
    display(table)  # type: ignore[no-untyped-call]


def queue(store: Store, *, now: dt.datetime | None = None) -> lineage.Seen:
    """Display the analysts' queue of one moment: numbers, the first cases, one of them.

    Parameters
    ----------
    now : what claims, ages and today's answers are reckoned from (UTC); None: the moment of asking.

    Returns
    -------
    What was there.
    """
    with store.snapshot() as session:
        saw = lineage.seen(session)
        moment = now or saw.seen_at
        found = cases.queue(session, limit=MOST_CASES, now=moment)
        numbers = statistics.statistics(session, now=moment)
        verdicts = []
        if found.cases:
            case = cases.inside(session, found.cases[0]["case_id"])
            riskiest = max(case, key=lambda row: row["risk"])
            verdicts = session.rows("SELECT * FROM verdicts WHERE seq = ?", [riskiest["seq"]])
    print("This is the queue as it was when the report was made; nothing can be answered here.")
    print(*statistics.spoken(found, numbers), sep="\n")
    if not verdicts:
        return saw
    columns = ["customer_id", "waiting", "amount", "risk", "first_ts", "why"]
    table = pd.DataFrame(found.cases)[columns].round({"amount": 2, "risk": 2})
    display(table)  # type: ignore[no-untyped-call]
    display(figures.contributions(verdicts))  # type: ignore[no-untyped-call]
    print(*(reason["text"] for reason in verdicts[0]["reasons"]), sep="\n")
    return saw
