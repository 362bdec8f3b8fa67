"""The board of one moment, without widgets: for papermill, and for whoever reads its report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from IPython.display import display

from aegis_core import figures
from aegis_core.board import pictures
from aegis_core.board.feed import Feed
from aegis_core.board.filters import Filters
from aegis_core.board.log import COLUMNS, rows
from aegis_core.board.origins import lineage
from aegis_core.board.tiles import next_steps, proof, tiles
from aegis_core.store import Store


def report(store: Store) -> None:
    """Display this moment for papermill: the board's numbers, pictures and newest blocks.

    Widgets would make the report fetch their code from a CDN.
    """
    ever, feed = Filters(period="all"), Feed(store)
    snapshot = feed.read(ever)
    text, steps = next_steps(snapshot)
    if text:
        print(text, *(f"`{command}` {effect}." for command, effect in steps), sep="\n")
        return
    print(f"As of {snapshot.as_of:%Y-%m-%d %H:%M:%S} UTC.")
    print(*(f"{t['label']}: {t['value']} ({t['note']})" for t in tiles(snapshot, ever)), sep="\n")
    print(*(" ".join(part) for part in lineage(snapshot)), sep=", ")
    print(proof(snapshot)["text"])
    counts = snapshot.counts
    span = float(counts.start.min()), float(counts.start.max())
    scatter = pictures.scatter_figure(snapshot.window, "hour", "amount")
    for drawn in (scatter, pictures.bars_figure(counts, *span)):
        display(figures.figure(**pictures.unpacked(drawn, figures.COLOURS)))  # type: ignore[no-untyped-call]
    columns = {key: title or key for key, title, _ in COLUMNS}
    blocks = feed.read(replace(ever, decision="block")).window
    newest = np.arange(len(blocks["seq"]))[::-1][:25]
    blocked = pd.DataFrame(rows(blocks, newest), columns=list(columns))
    display(blocked.rename(columns=columns).round(2))  # type: ignore[no-untyped-call]
