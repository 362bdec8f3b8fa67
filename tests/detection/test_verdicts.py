"""Verdicts in columns are what they are one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aegis_core.detection.policy import Policy
from aegis_core.detection.scoring import ALLOWED, DENIED, Scored, Scorer
from aegis_core.detection.verdicts import ANSWERED, VERDICTS, Verdicts
from aegis_core.schema import FACTORS, TOLD_FACTORS, Decision
from aegis_core.store.journal import as_table

Said = tuple[pd.DataFrame, Scored, Verdicts]


def table_of(verdicts: Verdicts) -> pa.Table:
    """The rows of the table `verdicts`."""
    return as_table([verdicts.columns()], VERDICTS)


def without_nan(column: Any) -> list[float | None]:
    return [None if np.isnan(value) else value for value in column.tolist()]


@pytest.fixture(scope="module")
def said(
    trained: tuple[Any, Policy],
    payments: tuple[pd.DataFrame, pd.DataFrame],
    awkward: pd.DataFrame,
) -> Said:
    """Approvals, alerts by score and by count, listed rows, and rows without a place."""
    policy = dataclasses.replace(trained[1], burst_limits=(2, 2, 3, 4), audit_share=0.2)
    frame = pd.concat([payments[0].iloc[10_000:11_000], awkward], ignore_index=True)
    rulings = np.zeros(len(frame), np.int8)
    rulings[[3, 40]], rulings[-5:] = DENIED, ALLOWED
    listed = {int(i): (f"e{i}", f"customer {i} is listed") for i in np.flatnonzero(rulings)}
    scorer = Scorer(trained[0], policy)
    scored = scorer.run(frame, rulings=rulings, signals=True, explain=True)
    return frame, scored, scorer.verdicts_of(frame, scored, "v1", listed)


def test_the_rows_hold_every_kind_of_verdict(said: Said) -> None:
    frame, scored, verdicts = said
    assert set(scored.decision.tolist()) == {d.value for d in Decision}
    codes = {told[0]["code"] for told in verdicts.reasons.values()}
    assert codes >= {"BURST-LIMIT", "LIST"}
    assert len(codes) > 2
    assert 0 < len(verdicts.reasons) < len(frame)
    assert 0 < np.isnan(verdicts.distance_km).sum() < len(frame)
    assert 0 < np.isnan(verdicts.inclusion).sum() < len(frame)
    assert 0 < len(verdicts.list_entry) < len(verdicts.cleared)


def test_the_table_is_what_arrow_makes_of_one_value_a_row(said: Said) -> None:
    frame, scored, verdicts = said
    n = len(frame)
    written = {
        "seq": frame.seq.tolist(),
        "transaction_id": frame.transaction_id.tolist(),
        "model_version": ["v1"] * n,
        "score": scored.score.tolist(),
        "risk": scored.risk.tolist(),
        "decision": [Decision(d).label for d in scored.decision],
        "reasons": [verdicts.reasons.get(i, []) for i in range(n)],
        "contributions": [dict(zip(TOLD_FACTORS, r, strict=True)) for r in scored.contributions],
        "evidence": [dict(zip(FACTORS, row, strict=True)) for row in scored.evidence],
        "distance_km": without_nan(verdicts.distance_km),
        "scored_at": np.full(n, np.datetime64(verdicts.scored_at, "us")),
        "cleared": [verdicts.cleared.get(i) for i in range(n)],
        "inclusion": without_nan(verdicts.inclusion),
        "list_entry": [verdicts.list_entry.get(i) for i in range(n)],
    }
    expected, table = pa.table(written, schema=VERDICTS), table_of(verdicts)
    assert table.schema == VERDICTS
    table.validate(full=True)
    framed = pa.Table.from_pandas(verdicts.frame(), VERDICTS, preserve_index=False)
    for name in VERDICTS.names:
        assert table[name].to_pylist() == expected[name].to_pylist(), name
        assert framed[name].to_pylist() == expected[name].to_pylist(), name


def test_a_part_of_the_rows_is_told_as_among_all_of_them(
    said: Said, trained: tuple[Any, Policy]
) -> None:
    frame, scored, verdicts = said
    policy = dataclasses.replace(trained[1], burst_limits=(2, 2, 3, 4), audit_share=0.2)
    part = slice(300, 500)
    some = Scored._make(array[part] for array in scored)
    alone = table_of(Scorer(trained[0], policy).verdicts_of(frame.iloc[part], some, "v1"))
    among = table_of(verdicts).slice(300, 200)
    for name in set(VERDICTS.names) - {"scored_at"}:
        assert repr(alone[name].to_pylist()) == repr(among[name].to_pylist()), name


def test_an_answer_has_plain_values_of_its_row(said: Said) -> None:
    frame, _, verdicts = said
    answers, rows = verdicts.answers(), table_of(verdicts).to_pylist()
    assert len(answers) == len(frame)
    for answer, row in zip(answers, rows, strict=True):
        assert answer == {name: row[name] for name in ANSWERED} | {"repeat": False}
        assert type(answer["score"]) is float
        assert type(answer["seq"]) is int


def test_a_frame_and_its_columns_as_lists_are_told_alike(
    said: Said, trained: tuple[Any, Policy]
) -> None:
    frame = said[0].iloc[:200]
    batch = {c: [None if pd.isna(v) else v for v in frame[c]] for c in frame}
    batch |= {c: frame[c].to_numpy() for c in ("seq", "ts", "amount", "lat", "lon")}
    tables = []
    for rows in (frame, batch):
        scorer = Scorer(*trained)
        told = scorer.verdicts_of(rows, scorer.run(rows, signals=True, explain=True), "v1")
        tables.append(table_of(dataclasses.replace(told, scored_at=0)))
    assert repr(tables[0].to_pylist()) == repr(tables[1].to_pylist())
