"""A file of transactions on its way to a running service, which judges them as they arrive."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from aegis_core.errors import InputError
from aegis_core.intake.importing import ImportSummary, import_files, import_labels
from aegis_core.intake.refusals import LONGEST_RAW
from aegis_core.serving.client import SENT, Client
from aegis_core.store import Store

BATCH: Final = 1_000
"""Transactions of one request."""
_BYTES: Final = 500_000
"""Of rejected rows in one request; a line of JSON may be some times as long."""
_TIMESTAMP: Final = """CASE clock WHEN 'date' THEN strftime(ts, '%Y-%m-%d') WHEN 'sent'
    THEN strftime(ts + to_minutes(utc_offset), '%Y-%m-%dT%H:%M:%S.%f') || local_zone
    ELSE strftime(ts, '%Y-%m-%dT%H:%M:%S.%f') END"""


@dataclass
class Sent:
    """What a service made of a file.

    Attributes
    ----------
    read : what was read of it.
    decisions : how many of the new ones went which way.
    already_there : how many it had taken before.
    refused : how many it refused, by reason.
    kept : how many of the rows that were rejected here it keeps now, and did not before.
    labels, taught : how many labels the file has, and how many of them were kept as new.
    """

    read: ImportSummary
    decisions: Counter[str] = field(default_factory=Counter)
    already_there: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    labels: int = 0
    taught: int = 0
    seconds: float = 0.0


def send_files(
    files: Iterable[Path | str] | Path | str,
    client: Client,
    *,
    labels_to: Store | None = None,
    progress: bool = True,
    **given: Any,
) -> Sent:
    """Read files as `import_files` does with `given`, and send what is good, in order of time.

    What the service took before it knows by the ids, so that a file that was sent in part is sent
    again; and what is rejected here it keeps. Local times and dates stay what they are. Labels are
    kept in `labels_to`, the database that the service owns, after the transactions.

    Raises
    ------
    FileUnreadable, ColumnError : As `import_files`.
    InputError : The same, or the service refuses the token, or all of a batch as bad rows.
    StoreBusy : The service cannot be reached, or has no room, for longer than `client` waits.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
        store = Store(Path(folder) / "sent.duckdb")
        given["rejected_mb"] = math.inf  # how many are kept is the service's to say
        sent = Sent(import_files(files, store, progress=progress, **given))
        sent.labels = sent.read.labels
        refused: list[str] = []
        hidden = None if progress else True  # None shows it on a terminal alone
        with tqdm(total=sent.read.accepted, unit="row", disable=hidden, leave=False) as bar:
            for rows in _batches(store):
                told = client.send(rows)
                _count(sent, told)
                for row, answer in zip(rows, told, strict=True):
                    if "error" in answer:
                        refused.append(row["transaction_id"])
                bar.update(len(rows))
        sent.kept = sum(map(client.keep, _rejected(store)))
        if labels_to is not None and sent.labels:
            if refused:  # what has this id there is another one
                with store.writing() as session:
                    of_refused = "DELETE FROM labels WHERE transaction_id IN (SELECT unnest(?))"
                    session.execute(of_refused, [refused])
            sent.taught = _teach(store, labels_to, Path(folder) / "labels.parquet")
    sent.seconds = time.monotonic() - started
    return sent


def _batches(store: Store) -> Iterator[list[dict[str, Any]]]:
    names = ", ".join(SENT)
    for first in range(0, store.value("SELECT count(*) FROM transactions"), BATCH):
        rows = store.rows(
            f"""SELECT {names}, {_TIMESTAMP} AS timestamp FROM transactions
            WHERE seq >= {first} AND seq < {first + BATCH} ORDER BY seq"""
        )
        yield [{name: value for name, value in row.items() if value is not None} for row in rows]


def _teach(store: Store, to: Store, path: Path) -> int:
    """Keep the labels of what was sent, from each file in turn; how many were new."""
    from pyarrow import parquet

    n = 0
    for row in store.rows("SELECT source FROM labels GROUP BY source ORDER BY min(rowid)"):
        with store.reading() as session:
            labels = "SELECT * EXCLUDE (source, after_seq) FROM labels WHERE source = ?"
            parquet.write_table(session.arrow(f"{labels} ORDER BY rowid", [row["source"]]), path)
        n += import_labels([path], to, source=row["source"]).labels
    return n


def _rejected(store: Store) -> Iterator[list[dict[str, Any]]]:
    """Rows that were rejected, each once, in pieces that a request holds."""
    rows = store.rows(
        f"""SELECT raw, reason, sum(strlen(raw) + 100) OVER (ORDER BY place) // {_BYTES} AS n
        FROM (SELECT left(raw, {LONGEST_RAW}) AS raw, reason, min(rowid) AS place FROM rejected
            GROUP BY ALL) ORDER BY place"""
    )
    for _, piece in groupby(rows, lambda row: row.pop("n")):
        yield list(piece)


def _count(sent: Sent, told: list[dict[str, Any]]) -> None:
    refused = Counter(str(answer["error"]) for answer in told if "error" in answer)
    if told and all(answer.get("status") == 422 for answer in told):  # not: known there
        raise InputError(
            f"The service refuses all of {len(told):,} transactions, the first since its "
            f"{told[0]['error']}. What it took before stays; mend that and send the file again."
        )
    sent.refused += refused
    for answer in told:
        if answer.get("repeat"):
            sent.already_there += 1
        elif "error" not in answer:
            sent.decisions[answer["decision"]] += 1
