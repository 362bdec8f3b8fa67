"""Pictures of drift: how far each measure lies from usual, what it looks like, and who moved."""

from __future__ import annotations

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from aegis_core.units.words import category_said
from aegis_core.views.figures.house import COLOURS, in_house, nothing, plain

_NO_REFERENCE = "There are no earlier weeks to hold the day against."


def drift_effects(days: pd.DataFrame, table: pd.DataFrame) -> go.Figure:
    """The effect of each measure, day by day; the judged day is the last, a star where it alarms.

    The frames are `Drift.days` and `Drift.table`.

    >>> days = pd.DataFrame({"measure": ["volume"], "part": [""], "effect": [0.3]})
    >>> table = days.assign(low=-0.1, high=0.1, alarm=True)
    >>> drift_effects(days.assign(day=pd.Timestamp("2026-04-01")), table).data[0].marker.symbol
    ('star',)
    """
    known = table[table["effect"].notna()]
    if known.empty:
        return nothing(_NO_REFERENCE)
    lines = (len(known) + 1) // 2
    words = known["measure"].str.replace("_", " ")
    names = words.where(known["part"] == "", known["part"] + " evidence").tolist()
    drawn = make_subplots(
        lines, 2, subplot_titles=names, shared_xaxes="all", vertical_spacing=0.35 / lines
    )
    for i, row in enumerate(known.itertuples()):
        part = days[(days["measure"] == row.measure) & (days["part"] == row.part)]
        last = [False] * (len(part) - 1) + [True]
        loud = COLOURS["block"] if row.alarm else COLOURS["forest"]
        place = {"row": 1 + i // 2, "col": 1 + i % 2}
        drawn.add_scatter(
            x=part["day"],
            y=part["effect"].round(4),
            mode="markers",
            marker_color=[loud if now else COLOURS["normal"] for now in last],
            marker_symbol=["star" if now and row.alarm else "circle" for now in last],
            marker_size=[14 if now else 6 for now in last],
            showlegend=False,
            hovertemplate=f"{names[i]} %{{y:+.3f}} on %{{x|%a %d %b}}<extra></extra>",
            **place,
        )
        drawn.add_hrect(
            row.low, row.high, fillcolor=COLOURS["normal"], opacity=0.12, line_width=0, **place
        )
        reach = 1.25 * max(part["effect"].abs().max(), row.high)
        drawn.update_yaxes(range=[-reach, reach], **place)
    drawn.update_xaxes(title="day (UTC)", row=lines)
    drawn.update_yaxes(title="effect", col=1)
    drawn.update_annotations(font={"size": 13})
    return in_house(drawn, title="How far each measure lies from usual", height=150 * lines + 120)


def drift_shapes(shapes: pd.DataFrame) -> go.Figure:
    """How each measure is spread, on the day and usually, from `Drift.shapes`.

    >>> row = {"measure": ["amounts"], "share": [0.5], "today": [12.0], "usual": [10.0]}
    >>> [trace.name for trace in drift_shapes(pd.DataFrame(row)).data]
    ['usual', 'this day']
    """
    names = list(dict.fromkeys(shapes["measure"]))
    if not names:
        return nothing(_NO_REFERENCE)
    lines = (len(names) + 2) // 3
    drawn = px.line(
        shapes.rename(columns={"today": "this day"}).round({"usual": 5, "this day": 5}),
        x=["usual", "this day"],
        y="share",
        line_dash="variable",
        line_dash_sequence=["solid", "dash"],
        color_discrete_map={"usual": COLOURS["normal"], "this day": COLOURS["block"]},
        facet_col="measure",
        facet_col_wrap=3,
        facet_col_spacing=0.2 / 3,
        facet_row_spacing=0.44 / lines,
        labels={"share": "share above"},
        log_y=True,
        render_mode="svg",
        title="What the day looks like beside usual ones",
    )
    drawn.update_xaxes(matches=None, showticklabels=True)
    drawn.update_yaxes(matches=None, showticklabels=True, dtick=1, tickformat=".1~%")
    known = {"amounts": {"title": "amount", "type": "log", "dtick": 1}, "score": {"title": "score"}}
    for i, name in enumerate(names):
        drawn.update_xaxes(known.get(name, {"title": "nats"}), row=lines - i // 3, col=1 + i % 3)
    drawn.for_each_annotation(
        lambda a: a.update(text=a.text.removeprefix("measure="), font_size=13)
    )
    drawn.for_each_trace(
        lambda t: t.update(hovertemplate=f"%{{y:.1%}} lie above %{{x:,.4g}}<extra>{t.name}</extra>")
    )
    legend = {"yref": "container", "y": 0.87}
    return in_house(drawn, height=250 * lines + 120, margin_t=120, legend=legend)


def drift_movers(movers: pd.DataFrame, label: str) -> go.Figure:
    """What each customer, merchant and category adds to the movement of the measure `label`.

    `movers` are `Drift.movers`.

    >>> movers = pd.DataFrame({"by": ["category"], "group": ["<b>food"], "part": [0.2]})
    >>> drift_movers(movers, "amounts").data[0].y
    ('&lt;b&gt;food',)
    """
    kinds = list(dict.fromkeys(movers["by"]))
    if not kinds:
        return nothing(_NO_REFERENCE)
    drawn = make_subplots(
        1, len(kinds), subplot_titles=[f"by {kind}" for kind in kinds], horizontal_spacing=0.14
    )
    for i, kind in enumerate(kinds):
        part = movers[movers["by"] == kind]
        others = part["group"] == "all others"
        names = [category_said(name) if kind == "category" else name for name in part["group"]]
        drawn.add_bar(
            y=[plain(name, 18) for name in names],
            x=part["part"].round(5),
            orientation="h",
            marker_color=[COLOURS["random" if rest else "review"] for rest in others],
            hovertext=[plain(name) for name in names],
            hovertemplate="%{hovertext}: %{x:+.4f}<extra></extra>",
            showlegend=False,
            row=1,
            col=1 + i,
        )
    drawn.update_xaxes(title="part of the movement")
    drawn.update_yaxes(autorange="reversed", type="category")
    drawn.update_annotations(font={"size": 13})
    return in_house(drawn, title=f"Who moved: {plain(label)}", height=440, margin_l=120)
