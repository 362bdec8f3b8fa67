"""Commands that bring things in: transactions, labels, rates of currencies."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_core.cli.common import Database, Who, app, assignment, days, example, opened
from aegis_core.cli.output import write_table

if TYPE_CHECKING:
    from aegis_core.config import Settings
    from aegis_core.intake.importing import ImportSummary

Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Paths or globs; .csv, .tsv, .csv.gz, .parquet.")
]
Mapped = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME=COLUMN", help="Which column is which; again for more."),
]
Words = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WORD=MEANING",
        help="What a word of the label means: fraud, legitimate or unknown; again for more.",
    ),
]
Source = Annotated[
    str | None, typer.Option(help="Stored with each row instead of the file's name.")
]
Label = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column that says fraud or not.")
]


@app.command(
    "import",
    epilog=example(
        "aegis import payments.csv",
        'aegis import "2026-*.csv.gz" --map customer_id=card --map amount=total',
        "aegis import history.parquet --label is_fraud --label-delay 7d",
        "aegis import handbook.parquet --preset handbook --db handbook.duckdb",
    ),
)
def import_(
    files: Files,
    preset: Annotated[
        str | None, typer.Option(help="A known data set: handbook or sparkov.")
    ] = None,
    mapping: Mapped = None,
    label: Label = None,
    scenario: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column that says which kind of fraud.")
    ] = None,
    label_delay: Annotated[
        str | None, typer.Option(help="When a label is known after its transaction: 7d, 12h.")
    ] = None,
    words: Words = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Import nothing if any row is bad.")
    ] = False,
    source: Source = None,
    db: Database = None,
) -> None:
    """Read transactions from CSV, TSV or Parquet files.

    Columns with usual names are recognised. Bad rows go to the table `rejected`
    with their reason; rows that are already there stay as they are.
    """
    from aegis_core.intake.importing import import_files

    store, settings = opened(db)
    summary = import_files(
        files,
        store,
        preset=preset,
        mapping=_assigned("--map", mapping),
        label=label,
        scenario=scenario,
        label_delay_days=settings.label_delay_days if label_delay is None else days(label_delay),
        words=_assigned("--words", words),
        strict=strict,
        rejected_mb=settings.rejected_mb,
        base_currency=settings.base_currency,
        zone=settings.timezone,
        source=source,
    )
    _tell(summary, settings)


@app.command(
    epilog=example(
        "aegis labels chargebacks.csv",
        "aegis labels disputes.csv --map transaction_id=charge --label outcome --words lost=fraud",
        "aegis labels frauds.parquet --map known_at=reported --source bank",
    )
)
def labels(
    files: Files,
    mapping: Mapped = None,
    label: Label = None,
    words: Words = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Take nothing if any row is bad.")
    ] = False,
    source: Source = None,
    db: Database = None,
) -> None:
    """Read labels of transactions that are there: what turned out to be fraud, and when.

    Each row has the id of a transaction, fraud or not and, if there is such a column,
    the date on which that became known (`reported_at`); without one it is known from
    now on. What came last holds, but an analyst's answer holds before any file.
    """
    from aegis_core.intake.importing import import_labels

    store, settings = opened(db)
    summary = import_labels(
        files,
        store,
        mapping=_assigned("--map", mapping) | ({"is_fraud": label} if label else {}),
        words=_assigned("--words", words),
        strict=strict,
        rejected_mb=settings.rejected_mb,
        source=source,
    )
    _tell(summary, settings)


@app.command(
    epilog=example("aegis rates", "aegis rates eurofxref-hist.csv", "aegis rates our-rates.csv")
)
def rates(
    who: Who,
    file: Annotated[
        Path | None,
        typer.Argument(help="The European Central Bank's CSV, or one with day,currency,rate."),
    ] = None,
    db: Database = None,
) -> None:
    """Read rates of currencies, or say how each currency is judged.

    Amounts are compared in one currency, by the last rate before a payment's day;
    a rate is in units of a currency for one of the base currency. What was judged
    keeps the rate that it was judged by.
    """
    from aegis_core.intake.rates import import_rates, known_rates

    store, settings = opened(db)
    if file is not None:
        added = import_rates(store, file, base=settings.base_currency, who=who)
        for row in added.itertuples():
            print(f"{row.currency}  {row.n:>7,} rates, {row.first:%Y-%m-%d} to {row.last:%Y-%m-%d}")
        print(f"{added.n.sum():,} rates added." if len(added) else "All of them were there.")
        return
    found = known_rates(store)
    if found.empty:
        print("No payment names a currency yet.")
        return
    columns = ["currency", "payments", "judged", "last"]
    write_table(columns, list(found[columns].fillna("").itertuples(index=False)), 0)


def _assigned(option: str, pairs: list[str] | None) -> dict[str, str]:
    return dict(assignment(option, pair) for pair in pairs or [])


def _tell(summary: ImportSummary, settings: Settings) -> None:
    for line in _import_told(summary, settings):
        print(line)
    if not summary.accepted and not summary.already_there:
        print("aegis: no row was usable; see the reasons above.", file=sys.stderr)
        raise typer.Exit(1)


def _import_told(summary: ImportSummary, settings: Settings) -> Iterable[str]:
    if summary.guessed:
        how = f"the columns of {summary.preset}" if summary.preset else "columns by their names"
        yield f"Recognised {how}; --map NAME=COLUMN says otherwise:"
        yield from (f"  {name:<15} ← {column}" for name, column in summary.guessed.items())
    yield (
        f"{summary.rows:,} rows read: {summary.accepted:,} accepted, {summary.already_there:,} "
        f"already there, {sum(summary.rejected.values()):,} rejected, in {summary.seconds:.1f} s."
    )
    yield from (f"  {n:>9,} × {reason}" for reason, n in summary.rejected.items())
    if summary.later_states:
        yield f"Of those already there, {summary.later_states:,} came with a later state."
    if summary.not_kept:
        yield (
            f"Of the bad rows {summary.not_kept:,} are counted here and not kept: `rejected` takes "
            f"{settings.rejected_mb:g} MB of a source a day (rejected_mb in aegis.toml)."
        )
    if summary.zeros_read:
        yield (
            f"{summary.zeros_read:,} amounts of 0, which the simulator of this data had rounded "
            f"down, were read as {summary.zeros_as}."
        )
    yield from summary.remarks
    if summary.first_ts:
        yield f"From {summary.first_ts:%Y-%m-%d %H:%M} to {summary.last_ts:%Y-%m-%d %H:%M} UTC."
    if summary.unread:
        words = ", ".join(f"{word!r} ({n:,})" for word, n in list(summary.unread.items())[:10])
        yield (
            f"Not known as a label, so that there is none: {words}. --words WORD=fraud, "
            "=legitimate or =unknown says what a word means."
        )
    changed = f", {summary.labels_changed:,} of them say otherwise than before" * bool(
        summary.labels_changed
    )
    yield f"{summary.labels:,} labels added{changed}. Database: {settings.db}"
    if summary.labels_under_answers:
        yield (
            f"{summary.labels_under_answers:,} of them do not hold, since an analyst answered "
            "otherwise; `aegis answer ID fraud` or `legitimate` answers anew."
        )
