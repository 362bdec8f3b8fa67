"""What is measured on: three data sets, their folds, and the parts of them that are told apart."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from aegis_core.detection.history import labels as known_labels
from aegis_core.detection.history import transactions
from aegis_core.evaluation.splits import Fold, prequential
from aegis_core.intake import import_files
from aegis_core.intake.synthetic import SyntheticConfig, generate
from aegis_core.intake.synthetic.scenarios import CROWD_SIZES, DEFAULT_RATES
from aegis_core.store import connect

BEGAN = time.monotonic()


@dataclass(frozen=True)
class View:
    """A part of an evaluation's scores: of some folds (None: all), without some scenarios."""

    title: str
    folds: int | None = None
    without: tuple[str, ...] = ()

    def of(self, scores: pd.DataFrame) -> pd.DataFrame:
        """The rows of `scores` that belong to the view."""
        keep = ~scores.scenario.isin(self.without)
        return scores[keep if self.folds is None else keep & (scores.fold < self.folds)]


@dataclass(frozen=True)
class Task:
    """A data set with its folds; `curve_from` is where learning from nothing begins."""

    name: str
    frame: pd.DataFrame
    labels: pd.DataFrame
    folds: list[Fold]
    views: tuple[View, ...]
    exclude_known: bool = False
    curve_from: str | None = None


VIEWS = {
    "handbook": (
        View("handbook, test week 2018-08-08", 1),
        View("handbook, 4 test weeks from 2018-08-08"),
        View("handbook, 4 test weeks, scenarios 1 + 3", None, ("2",)),
    ),
    "sparkov": (View("sparkov, test from 2020-06-21"),),
    "synthetic": (View("synthetic default, 4 test weeks"),),
}


def tasks(folder: Path, only: str = "", crowds: float = 1.0) -> Iterator[Task]:
    """The protocols whose title contains `only`, each on the data it needs.

    The synthetic data have `crowds` times as many incidents of many customers as usual.
    """
    for name, all_views in VIEWS.items():
        views = tuple(v for v in all_views if only.lower() in v.title.lower())
        file = folder / f"{name}.parquet"
        if not views:
            continue
        if name == "synthetic":
            yield _synthetic(views, crowds)
        elif not file.exists():
            print(f"\n{name}: left out, there is no {file}")
        else:
            yield _public(name, file, views)


def _public(name: str, file: Path, views: tuple[View, ...]) -> Task:
    say(f"{name}: importing {file.name}")
    with tempfile.TemporaryDirectory() as scratch:
        store = connect(Path(scratch) / f"{name}.duckdb")
        import_files([file], store, preset=name, progress=False)
        frame = transactions(store)
        labels = known_labels(store)
    if name == "handbook":
        weeks = prequential("2018-07-25", folds=4)
        return Task(name, frame, labels, weeks, views, True, "2018-08-08")
    cut, end = pd.Timestamp("2020-06-21 12:14:25"), pd.Timestamp("2021-01-01")
    return Task(name, frame, labels, [Fold(0, pd.Timestamp("2019-01-01"), cut, cut, end)], views)


def _synthetic(views: tuple[View, ...], crowds: float) -> Task:
    say("synthetic: generating")
    rates = {n: r * (crowds if n in CROWD_SIZES else 1.0) for n, r in DEFAULT_RATES.items()}
    parts = list(generate(SyntheticConfig(rates=rates)))
    frame = pa.concat_tables([t.unify_dictionaries() for t, _ in parts]).to_pandas()
    frame.insert(0, "seq", np.arange(len(frame)))
    labels = pa.concat_tables([known for _, known in parts]).to_pandas()
    weeks = prequential("2026-01-29", train_days=28)
    return Task("synthetic", frame, labels, weeks, views, curve_from="2026-02-18")


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {what}", file=sys.stderr, flush=True)


def mean_and_spread(values: pd.Series, digits: int = 3) -> str:
    """Mean ± standard deviation as text, a dash for nothing.

    >>> mean_and_spread(pd.Series([0.25, 0.75]), 2), mean_and_spread(pd.Series([], dtype=float))
    ('0.50 ± 0.25', '–')
    """
    values = values.dropna()
    if values.empty:
        return "–"
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std(ddof=0):.{digits}f}" if len(values) > 1 else mean


def show(table: pd.DataFrame) -> None:
    """Print a table of texts, its columns aligned right."""
    table = table.astype(str)
    widths = [max(table[c].str.len().max(), len(c)) + 3 for c in table]
    first = max(len(str(i)) for i in table.index)
    print(" " * first + "".join(f"{c:>{w}}" for c, w in zip(table, widths, strict=True)))
    for name, row in table.iterrows():
        print(f"{name:<{first}}" + "".join(f"{v:>{w}}" for v, w in zip(row, widths, strict=True)))
