"""Frame in, plotly figure out: the pictures of notebooks and reports. The only import of plotly.

Colours are Okabe and Ito's, which people with any kind of colour vision can tell apart; the live
board uses the same ones in `board/board.css`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from aegis_core.schema import FACTORS, SCENARIOS

if TYPE_CHECKING:
    import pandas as pd

COLOURS: Final = {
    "approve": "#0072B2",
    "review": "#E69F00",
    "block": "#D55E00",
    "normal": "#0072B2",
    "fraud": "#D55E00",
    "forest": "#000000",
    "learner": "#0072B2",
    "random": "#999999",
    "amount": "#E69F00",
    "travel": "#009E73",
    "hour": "#CC79A7",
    "burst": "#56B4E9",
    "spike": "#E69F00",
    "night": "#CC79A7",
    "merchant": "#D55E00",
    "takeover": "#000000",
}
"""What a colour stands for, in every figure. Okabe and Ito, Color Universal Design (2008)."""

LAYOUT: Final = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 64, "r": 16, "t": 48, "b": 48},
    "height": 420,
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
}
"""What all figures have in common."""


def figure(
    traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any] | None = None
) -> go.Figure:
    """A figure from plain traces, in the house's layout.

    >>> figure([{"type": "bar", "x": [1], "y": [2]}], {"title": "Two"}).layout.height
    420
    """
    return go.Figure(data=list(traces), layout={**LAYOUT, **(layout or {})})


def payments(frame: pd.DataFrame, title: str) -> go.Figure:
    """What somebody paid and when, by what was decided about it.

    Parameters
    ----------
    frame
        Columns ts, amount, category and decision, which is missing where nothing was decided.

    >>> import pandas as pd
    >>> day = pd.Timestamp("2026-01-01")
    >>> frame = pd.DataFrame({"ts": day, "amount": 9.5, "category": "fuel", "decision": ["block"]})
    >>> [trace.name for trace in payments(frame, "One payment").data]
    ['block']
    """
    decisions = frame["decision"].fillna("not scored")
    looks = (
        ("not scored", "random", "circle"),
        ("approve", "approve", "circle"),
        ("review", "review", "diamond"),
        ("block", "block", "x"),
    )
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": rows["ts"],
            "y": rows["amount"],
            "text": rows["category"],
            "marker": {
                "color": COLOURS[colour],
                "symbol": symbol,
                "size": 6 if symbol == "circle" else 11,
                "opacity": 0.6 if symbol == "circle" else 1,
            },
            "hovertemplate": f"{name}: %{{y:,.2f}} for %{{text}}, %{{x}}<extra></extra>",
        }
        for name, colour, symbol in looks
        if len(rows := frame[decisions == name])
    ]
    return figure(
        traces,
        {
            "title": title,
            "xaxis": {"title": "time (UTC)"},
            "yaxis": {"title": "amount", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def hours(frame: pd.DataFrame) -> go.Figure:
    """The day of ordinary customers and of fraud: the share of each that falls into a local hour.

    Parameters
    ----------
    frame
        Columns local_hour, in [0, 24), and is_fraud.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"local_hour": [3.2, 9.5, 9.9], "is_fraud": [True, False, False]})
    >>> [trace.y.max().item() for trace in hours(frame).data]
    [100.0, 100.0]
    """
    edges = np.arange(25)
    counted = {
        name: np.histogram(frame.loc[frame["is_fraud"] == fraud, "local_hour"], edges)[0]
        for name, fraud in (("ordinary", False), ("fraud", True))
    }
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": edges[:-1] + 0.5,
            "y": 100 * counts / max(counts.sum(), 1),
            "marker": {"color": COLOURS["normal" if name == "ordinary" else "fraud"]},
            "hovertemplate": "%{x:.0f} h: %{y:.1f} %",
        }
        for name, counts in counted.items()
    ]
    return figure(
        traces,
        {
            "title": "When people buy, and when fraud happens",
            "xaxis": {"title": "local hour of day (h)", "dtick": 3, "range": [0, 24]},
            "yaxis": {"title": "share of its kind (%)", "rangemode": "tozero"},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def landscape(frame: pd.DataFrame, most: int = 2_000) -> go.Figure:
    """Every scenario among ordinary transactions: how much beyond habit, and at what hour.

    Parameters
    ----------
    frame
        Columns local_hour, ratio (amount / the customer's mean so far) and scenario.
    most
        Points shown of each kind, evenly spaced in time.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"local_hour": [3, 9], "ratio": [8, 1], "scenario": ["night", None]})
    >>> [trace.name for trace in landscape(frame).data]
    ['ordinary', 'night']
    """
    kinds = {"ordinary": frame["scenario"].isna()}
    kinds |= {name: frame["scenario"] == name for name in SCENARIOS}
    traces = []
    for name, chosen in kinds.items():
        rows = frame[chosen]
        rows = rows.iloc[:: 1 + len(rows) // most]
        if len(rows):
            ordinary = name == "ordinary"
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": rows["local_hour"].round(2),
                    "y": rows["ratio"].round(3),
                    "marker": {
                        "color": COLOURS["random" if ordinary else name],
                        "size": 4 if ordinary else 6,
                        "opacity": 0.4 if ordinary else 0.8,
                    },
                    "hovertemplate": f"{name}: %{{y:.1f}}× at %{{x:.1f}} h<extra></extra>",
                }
            )
    return figure(
        traces,
        {
            "title": "Fraud among ordinary transactions",
            "xaxis": {"title": "local hour of day (h)", "dtick": 3, "range": [0, 24]},
            "yaxis": {"title": "amount / customer's mean so far (×)", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
            "height": 480,
        },
    )


def audit_heatmap(audit: pd.DataFrame) -> go.Figure:
    """How well each rule finds each scenario: average precision, as `synthetic.audit` gives it.

    Parameters
    ----------
    audit
        Rules in rows, `floor` last; `all` and the scenarios in columns; values in [0, 1].

    >>> import pandas as pd
    >>> audit_heatmap(pd.DataFrame({"all": [0.4, 0.1]}, index=["speed", "floor"])).data[0].y
    ('speed', 'floor')
    """
    trace = {
        "type": "heatmap",
        "x": list(audit.columns),
        "y": list(audit.index),
        "z": audit.to_numpy(),
        "texttemplate": "%{z:.2f}",
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "#FFFFFF"], [1, COLOURS["normal"]]],
        "colorbar": {"title": {"text": "average<br>precision"}},
        "hovertemplate": "%{y} on %{x}: %{z:.3f}<extra></extra>",
    }
    return figure(
        [trace],
        {
            "title": "Average precision of each rule on each scenario",
            "xaxis": {"title": "which fraud", "side": "bottom"},
            "yaxis": {"title": "rule", "autorange": "reversed", "automargin": True},
        },
    )


def evidence_tails(window: pd.DataFrame) -> go.Figure:
    """What is ordinary for each factor: the share of traffic with at least so much evidence.

    Parameters
    ----------
    window
        As `Training.window`: columns of each factor and `strength:<factor>`, in nats.

    >>> import pandas as pd
    >>> names = [*FACTORS, *(f"strength:{f}" for f in FACTORS)]
    >>> drawn = evidence_tails(pd.DataFrame({name: [0.0, 2.0, 2.0, 5.0] for name in names}))
    >>> drawn.data[2].x, drawn.data[2].y
    (array([5., 2., 0.]), array([ 25.,  75., 100.]))
    """
    deepest = np.log(max(len(window), 2))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as rare as the nats say",
            "x": [0, deepest],
            "y": [100, 100 * np.exp(-deepest)],
            "line": {"color": COLOURS["random"], "width": 4},
            "opacity": 0.5,
            "hoverinfo": "skip",
        }
    ]
    for factor in FACTORS:
        for column, dash, told in (
            (f"strength:{factor}", "dot", "before weighting"),
            (factor, "solid", "weighted"),
        ):
            nats, share = _tail(window[column].to_numpy())
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": factor,
                    "legendgroup": factor,
                    "showlegend": dash == "solid",
                    "x": nats,
                    "y": share,
                    "line": {"color": COLOURS[factor], "dash": dash, "width": 1.5},
                    "hovertemplate": f"{factor}, {told}: %{{y:.3g}} % above %{{x:.1f}} nats"
                    "<extra></extra>",
                }
            )
    return figure(
        traces,
        {
            "title": "How much evidence is ordinary",
            "xaxis": {"title": "evidence (nats)", "rangemode": "tozero"},
            "yaxis": {"title": "share with at least as much (%)", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def _tail(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values from the largest down, thinned, and the share in % that is at least as large."""
    ordered = np.sort(values)[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), 300).round().astype(int))
    levels = np.unique(ordered[ranks - 1])[::-1]
    share = np.searchsorted(-ordered, -levels, side="right") / len(ordered)
    return levels, 100 * share


def score_histogram(scores: np.ndarray, review_above: float, block_above: float) -> go.Figure:
    """How many transactions have which score, and where the thresholds lie.

    >>> drawn = score_histogram(np.array([0.4, 0.4, 0.6, 0.9]), 0.5, 0.8)
    >>> [(trace.name, int(sum(trace.y))) for trace in drawn.data]
    [('approve', 2), ('review', 1), ('block', 1)]
    """
    decided = np.select([scores > block_above, scores > review_above], [2, 1], 0)
    edges = np.linspace(scores.min(), scores.max() + 1e-9, 81)
    traces = [
        {
            "type": "bar",
            "name": decision,
            "x": ((edges[1:] + edges[:-1]) / 2).round(4),
            "y": np.histogram(scores[decided == i], edges)[0],
            "marker": {"color": COLOURS[decision]},
            "hovertemplate": "%{y:,} around a score of %{x:.3f}",
        }
        for i, decision in enumerate(("approve", "review", "block"))
    ]
    return figure(
        traces,
        {
            "title": "Scores of the training window",
            "barmode": "stack",
            "bargap": 0.02,
            "xaxis": {"title": "score (higher is more suspicious)"},
            "yaxis": {"title": "transactions", "type": "log", "dtick": 1},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
            **_thresholds(review_above, block_above),
        },
    )


def _thresholds(review_above: float, block_above: float) -> dict[str, Any]:
    """Vertical lines for a layout; an infinite threshold has none."""
    at = {"review": review_above, "block": block_above}
    finite = {name: x for name, x in at.items() if np.isfinite(x)}
    common = {"yref": "paper", "y0": 0, "y1": 1, "type": "line"}
    return {
        "shapes": [
            {**common, "x0": x, "x1": x, "line": {"color": COLOURS[name], "dash": "dash"}}
            for name, x in finite.items()
        ],
        "annotations": [
            {
                "x": x,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "text": name,
                "showarrow": False,
                "xanchor": "right" if name == "review" else "left",
            }
            for name, x in finite.items()
        ],
    }


def compared(table: pd.DataFrame) -> go.Figure:
    """Every detector by every figure: a point a fold, a stroke for the mean, floor and ceiling.

    Parameters
    ----------
    table
        As `Evaluation.table`: columns fold, detector, name, value, floor, ceiling.

    >>> import pandas as pd
    >>> one = {"fold": [0], "detector": ["forest"], "name": ["auc_roc"], "value": [0.8]}
    >>> [t.name for t in compared(pd.DataFrame(one | {"floor": [0.5], "ceiling": [1.0]})).data]
    ['mean', 'fold']
    """
    table = table[table["ceiling"] > 0].dropna(subset="value")
    names = list(table["name"].unique())
    if not names:
        return _nothing("No fraud is labelled in the test windows, so there is nothing to compare.")
    drawn = make_subplots((len(names) + 1) // 2, 2, shared_yaxes=True, vertical_spacing=0.2)
    for i, name in enumerate(names):
        part = table[table["name"] == name]
        mean = part.groupby("detector", sort=False)[["value", "floor", "ceiling"]].mean()
        line = {"width": 3, "color": [_colour(str(d)) for d in mean.index]}
        style: list[dict[str, Any]] = [
            {"name": "mean", "marker": {"symbol": "line-ns", "size": 22, "line": line}},
            {"name": "fold", "marker": {"color": [_colour(d) for d in part["detector"]]}},
        ]
        points = [(mean["value"], mean.index), (part["value"], part["detector"])]
        at = {"row": 1 + i // 2, "col": 1 + i % 2}
        words = str(name).replace("_", " ")
        for (x, y), look in zip(points, style, strict=True):
            told = f"%{{y}}: %{{x:.3f}}<extra>{words}, {look['name']}</extra>"
            trace = {"x": x, "y": y, "mode": "markers", "opacity": 0.8, "hovertemplate": told}
            drawn.add_trace(go.Scatter(trace | look, showlegend=False), **at)
        for word in ("floor", "ceiling"):
            line = {"color": COLOURS["random"], "dash": "dot"}
            drawn.add_vline(mean[word].mean(), line=line, annotation_text=word, **at)
        most = max(mean["ceiling"].mean(), part["value"].max())
        drawn.update_xaxes(title=words, range=[-0.02 * most, 1.2 * most], **at)
    drawn.update_yaxes(autorange="reversed")
    return drawn.update_layout(
        LAYOUT
        | {
            "title": "The forest and what it has to beat",
            "height": 600,
            "margin": {"l": 110, "r": 16, "t": 64, "b": 48},
        }
    )


def precision_recall(curves: pd.DataFrame) -> go.Figure:
    """Precision at each recall: what an alert is worth the further down the list one looks.

    Parameters
    ----------
    curves
        As `Evaluation.curves`: columns detector, recall, precision.

    >>> import pandas as pd
    >>> curve = {"detector": ["forest"] * 2, "recall": [0.5, 1.0], "precision": [0.9, 0.1]}
    >>> precision_recall(pd.DataFrame(curve)).data[0].y.tolist()
    [90.0, 10.0]
    """
    if not len(curves):
        return _nothing("No fraud is labelled in the test windows, so there is no curve to draw.")
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": detector,
            "x": 100 * part["recall"].to_numpy(),
            "y": 100 * part["precision"].to_numpy().round(5),
            "line": {
                "color": _colour(str(detector)),
                "width": 3 if detector == "forest" else 1.5,
                "dash": "dot" if detector in ("amount", "random") else "solid",
            },
            "hovertemplate": "%{y:.1f} % of the alerts are fraud when %{x:.0f} % are found",
        }
        for detector, part in curves.groupby("detector", sort=False)
    ]
    return figure(
        traces,
        {
            "title": "Precision and recall",
            "xaxis": {"title": "recall: share of the frauds found (%)", "range": [0, 100]},
            "yaxis": {"title": "precision: share of alerts that are fraud (%)", "range": [0, 102]},
            "margin": {"l": 64, "r": 16, "t": 104, "b": 48},
            "height": 480,
        },
    )


def recall_bars(recall: pd.DataFrame) -> go.Figure:
    """How many of the frauds of each scenario were caught.

    Parameters
    ----------
    recall
        As `Evaluation.recall`: columns scenario, frauds, caught, recall.

    >>> import pandas as pd
    >>> row = {"scenario": ["night"], "frauds": [4], "caught": [3], "recall": [0.75]}
    >>> recall_bars(pd.DataFrame(row)).data[0].text
    ('3 of 4',)
    """
    if not len(recall):
        return _nothing("No fraud is labelled in the test windows, so there is none to catch.")
    pairs = zip(recall["caught"], recall["frauds"], strict=True)
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": 100 * recall["recall"],
        "y": recall["scenario"].astype(str),
        "text": [f"{caught:,} of {frauds:,}" for caught, frauds in pairs],
        "textposition": "outside",
        "cliponaxis": False,
        "width": 0.6,
        "marker": {"color": COLOURS["normal"]},
        "hovertemplate": "%{y}: %{x:.1f} %, %{text}<extra></extra>",
    }
    return figure(
        [trace],
        {
            "title": "Caught, by kind of fraud",
            "xaxis": {"title": "recall (%)", "range": [0, 115]},
            "yaxis": {"title": "scenario", "type": "category", "autorange": "reversed"},
            "height": 180 + 32 * len(recall),
            "margin": {"l": 110, "r": 16, "t": 48, "b": 48},
        },
    )


def daily_alerts(days: pd.DataFrame) -> go.Figure:
    """Alerts of each day, right and wrong, beside the frauds that there were.

    Parameters
    ----------
    days
        As `Evaluation.alerts_per_day`: columns day, alerts, caught, frauds.

    >>> import pandas as pd
    >>> day = {"day": ["2026-01-01"], "alerts": [9], "caught": [4], "frauds": [6]}
    >>> [(trace.name, int(trace.y[0])) for trace in daily_alerts(pd.DataFrame(day)).data]
    [('caught fraud', 4), ('false alarm', 5), ('frauds there were', 6)]
    """
    if not len(days):
        return _nothing("No day was tested.")
    told = "%{x|%a %Y-%m-%d}: %{y:,}"
    traces = [
        {
            "type": "bar",
            "name": "caught fraud",
            "x": days["day"],
            "y": days["caught"],
            "marker": {"color": COLOURS["fraud"]},
            "hovertemplate": told,
        },
        {
            "type": "bar",
            "name": "false alarm",
            "x": days["day"],
            "y": days["alerts"] - days["caught"],
            "marker": {"color": COLOURS["burst"]},
            "hovertemplate": told,
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "frauds there were",
            "x": days["day"],
            "y": days["frauds"],
            "marker": {
                "color": COLOURS["forest"],
                "symbol": "line-ew-open",
                "size": min(24, 2 + 340 / len(days)),
            },
            "hovertemplate": told,
        },
    ]
    return figure(
        traces,
        {
            "title": "Alerts a day",
            "barmode": "stack",
            "xaxis": {"title": "day (UTC)"},
            "yaxis": {"title": "transactions a day", "rangemode": "tozero"},
            "margin": {"l": 64, "r": 16, "t": 88, "b": 48},
        },
    )


def contributions(
    verdicts: Sequence[Mapping[str, Any]],
    review_above: float = np.inf,
    block_above: float = np.inf,
) -> go.Figure:
    """How the factors add up to the score of the first of `verdicts`.

    Parameters
    ----------
    verdicts
        Rows of the table `verdicts`: score, decision and contributions.

    >>> given = dict.fromkeys(FACTORS, 0.0) | {"amount": 0.3}
    >>> row = {"score": 0.7, "decision": "review", "contributions": given}
    >>> contributions([row]).data[0].text[:2]
    ('0.400', '+0.300')
    """
    if not verdicts:
        return _nothing("No transaction was scored, so there is no verdict to explain.")
    verdict = verdicts[0]
    parts = [verdict["contributions"][f] for f in FACTORS]
    base = verdict["score"] - sum(parts)
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": ["no evidence", *FACTORS, "score"],
        "base": [0, *(base + np.cumsum([0, *parts[:-1]])), 0],
        "x": [base, *parts, verdict["score"]],
        "text": [f"{base:.3f}", *(f"{part:+.3f}" for part in parts), f"{verdict['score']:.3f}"],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {
            "color": [
                COLOURS["random"],
                *(COLOURS[f] for f in FACTORS),
                COLOURS[verdict["decision"]],
            ]
        },
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    return figure(
        [trace],
        {
            "title": "From no evidence to the score",
            "xaxis": {"title": "score", "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed"},
            "margin": {"l": 120, "r": 64, "t": 72, "b": 48},
            "height": 360,
            **_thresholds(review_above, block_above),
        },
    )


def _colour(detector: str) -> str:
    return COLOURS[detector.removeprefix("factor:")]


def _nothing(sentence: str) -> go.Figure:
    """A sentence in the place of a figure that cannot be drawn."""
    return figure(
        [],
        {
            "height": 120,
            "xaxis": {"visible": False},
            "yaxis": {"visible": False},
            "annotations": [{"text": sentence, "showarrow": False, "font": {"size": 15}}],
        },
    )
