"""Pictures of single verdicts: how the score adds up, and the customer's history around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from aegis_core.schema import FACTORS, TOLD_FACTORS
from aegis_core.views.figures.house import COLOURS, in_house, nothing, plain, thresholds

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_NONE: Final = {
    "caught": "No fraud was caught in the test windows.",
    "false alarm": "There was no false alarm in the test windows.",
    "missed": "No fraud was missed in the test windows.",
}


def contributions(
    verdicts: Sequence[Mapping[str, Any]], review_above: float = np.inf, block_above: float = np.inf
) -> go.Figure:
    """How the factors add up to the score of the first of `verdicts`.

    These are rows of the table `verdicts`: score, decision and contributions; merchant and customer
    are drawn where a learner let them speak.

    >>> given = dict.fromkeys(FACTORS, 0.0) | {"amount": 0.3}
    >>> row = {"score": 0.7, "decision": "review", "contributions": given}
    >>> contributions([row]).data[0].text[:2]
    ('0.400', '+0.300')
    """
    if not verdicts:
        return nothing("No transaction was scored, so there is no verdict to explain.")
    verdict = verdicts[0]
    given = verdict["contributions"]
    told = [f for f in TOLD_FACTORS if f in FACTORS or given.get(f)]
    parts = [given[f] for f in told]
    base = verdict["score"] - sum(parts)
    drawn = go.Figure()
    drawn.add_bar(
        y=["no evidence", *told, "score"],
        base=[0, *(base + np.cumsum([0, *parts[:-1]])), 0],
        x=[base, *parts, verdict["score"]],
        text=[f"{base:.3f}", *(f"{part:+.3f}" for part in parts), f"{verdict['score']:.3f}"],
        orientation="h",
        textposition="outside",
        cliponaxis=False,
        marker_color=[COLOURS[name] for name in ("random", *told, verdict["decision"])],
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    drawn.update_xaxes(title="score", rangemode="tozero")
    drawn.update_yaxes(autorange="reversed")
    margin = {"l": 120, "r": 64, "t": 72, "b": 48}
    in_house(drawn, title="From no evidence to the score", margin=margin, height=360)
    return thresholds(drawn, review_above, block_above)


def cases(shown: pd.DataFrame, outcome: str) -> Styler:
    """The cases of one outcome as a table whose long reasons wrap and whose text stays text.

    `shown` is of `cases.drawn`; a column without any text is left out.

    >>> row = {"outcome": ["missed"], "customer_id": ["<b>anna</b>"], "reasons": ["fast"]}
    >>> "&lt;b&gt;anna&lt;/b&gt;" in cases(pd.DataFrame(row), "missed").to_html()
    True
    """
    table = shown[shown["outcome"] == outcome].drop(columns="outcome")
    if len(table):
        table = table.loc[:, (table != "").any()]
    look = {"white-space": "normal", "text-align": "left", "min-width": "20em"}
    styled = table.style.hide().format(escape="html", precision=2, thousands=",")
    if "reasons" in table:
        styled = styled.set_properties(subset=["reasons"], **look)
        styled = styled.set_table_styles(
            [{"selector": "th:last-child", "props": "text-align: left"}]
        )
    return styled


def histories(frame: pd.DataFrame, outcome: str) -> go.Figure:
    """Each case of one outcome among everything else its customer paid around it.

    A case far above its customer's other payments stands out by amount; one that lies among them
    had to stand out otherwise, or did not. A column of marks is a burst.

    `frame` is of `cases.histories`. Cases of one `outcome` are drawn: `caught`, `false alarm` or
    `missed`.

    >>> paid = {"ts": pd.date_range("2026-01-01", periods=2), "amount": [9.0, 900.0]}
    >>> case = {"case": 0, "outcome": "caught", "title": "anna", "is_fraud": [False, True]}
    >>> drawn = histories(pd.DataFrame(paid | case | {"is_case": [False, True]}), "caught")
    >>> [(trace.name, trace.x.tolist(), trace.y.tolist()) for trace in drawn.data]
    [('other payment', [-1.0], [9.0]), ('this case', [0.0], [900.0])]
    """
    frame = frame[frame["outcome"] == outcome]
    cases = list(frame["case"].unique())
    if not cases:
        return nothing(_NONE.get(outcome, f"There is no case of the outcome {plain(outcome)}."))
    is_case, is_fraud = frame["is_case"].astype(bool), frame["is_fraud"].astype(bool)
    first = frame[is_case].drop_duplicates("case").set_index("case")
    days = (frame["ts"] - frame["case"].map(first["ts"])).dt.total_seconds() / 86_400
    kind = np.select([is_case, is_fraud], ["this case", "other fraud"], "other payment")
    looks = {
        "other payment": ("normal", "circle", 5, 0.5),
        "other fraud": ("fraud", "x", 7, 0.9),
        "this case": ("review", "star", 15, 1),
    }
    lines = (len(cases) + 1) // 2
    drawn = px.scatter(
        frame.assign(days=days.round(4), kind=kind),
        x="days",
        y="amount",
        color="kind",
        symbol="kind",
        color_discrete_map={name: COLOURS[look[0]] for name, look in looks.items()},
        symbol_map={name: look[1] for name, look in looks.items()},
        category_orders={"kind": list(looks), "case": cases},
        facet_col="case",
        facet_col_wrap=2,
        facet_col_spacing=0.03,
        facet_row_spacing=0.2 / lines,
        labels={"days": "days from the case"},
        log_y=True,
        render_mode="svg",
    )
    for name, (_, _, size, opacity) in looks.items():
        drawn.update_traces(
            marker={"size": size, "opacity": opacity},
            hovertemplate=f"%{{y:,.2f}} at %{{x:+.2f}} days<extra>{name}</extra>",
            selector={"name": name},
        )
    edge = {"color": COLOURS["forest"], "width": 1}
    drawn.update_traces(marker_line=edge, selector={"name": "this case"})
    room = max(0.03 * (days.max() - days.min()), 0.5)
    drawn.update_xaxes(range=[days.min() - room, days.max() + room])
    for i in range(max(0, len(cases) - 2), len(cases)):
        place = {"row": lines - i // 2, "col": 1 + i % 2}
        drawn.update_xaxes(title="days from the case", showticklabels=True, **place)
    drawn.update_yaxes(nticks=6)
    titles = first["title"].set_axis("case=" + first.index.astype(str))
    drawn.for_each_annotation(lambda a: a.update(text=plain(titles[a.text], 66), font_size=12))
    height = 160 + 150 * lines
    title = f"{plain(outcome).capitalize()}: what else the customer paid"
    return in_house(
        drawn,
        title={"text": title, "y": 1 - 28 / height, "yanchor": "middle"},
        height=height,
        margin={"t": 104, "b": 56},
        legend={"yref": "container", "y": 1 - 72 / height},
    )
