"""Commands that bring things in: transactions, labels, rates of currencies, links of numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegis_core.cli.common import Database, Who, app, assignment, days, example, opened
from aegis_core.cli.output import write_table

if TYPE_CHECKING:
    import pandas as pd

    from aegis_core.config import Settings
    from aegis_core.intake.importing import ImportSummary
    from aegis_core.intake.said import Kept
    from aegis_core.store import Store

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="Paths or globs; .csv, .tsv, .csv.gz, .parquet, .xml …"),
]
Mapped = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="NAME=COLUMN",
        help="Which column is which, or SQL over columns; again for more.",
    ),
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
TimeFormat = Annotated[
    str, typer.Option(metavar="FORM", help="Of times, such as '%d.%m.%Y %H:%M'.")
]
TimeFrom = Annotated[
    str, typer.Option(metavar="MOMENT", help="That times count from, such as 2026-01-01.")
]
TimeUnit = Annotated[str, typer.Option(help="In which they count: us, ms, s, m, h, d.")]
Timezone = Annotated[
    str,
    typer.Option(
        metavar="ZONE", help="Of times without an offset; a zone, or the column that names it."
    ),
]
Encoding = Annotated[str, typer.Option(help="Of a text: utf-8, latin-1 or utf-16.")]
Skip = Annotated[
    int, typer.Option(min=0, help="Lines before the names of the columns; 0 finds these.")
]
SaveAs = Annotated[
    Path | None, typer.Option(metavar="TOML", help="Keep what was said of the file's form.")
]
As = Annotated[
    Path | None, typer.Option("--as", metavar="TOML", help="Read it as --save-as kept it.")
]


def _list_presets(wanted: bool) -> None:
    if wanted:
        from aegis_core.intake.messages.tables import FORMATS
        from aegis_core.intake.presets import CANNOT, PRESETS

        known = [(name, preset.about) for name, preset in (PRESETS | FORMATS).items()]
        cannot = [(name, f"cannot be used: {why}") for name, why in CANNOT.items()]
        write_table(
            ["preset", "what it is, and what of it cannot be judged"], known + cannot, 0, 200
        )
        raise typer.Exit


@app.command(
    "import",
    epilog=example(
        "aegis import payments.csv --dry-run",
        'aegis import "2026-*.csv.gz" --map customer_id=card --map amount=total',
        "aegis import history.parquet --label is_fraud --label-delay 7d",
        "aegis import export.csv --map ts=Date+Time --timezone Europe/Berlin --decimal ,",
        "aegis import steps.csv --map ts=step --time-from 2026-01-01 --time-unit h",
        "aegis import p.csv --map 'ts=make_date(Year, Month, Day)' --map 'amount=Cents / 100'",
        "aegis import first.csv --map ts=booked --save-as mybank.toml",
        "aegis import second.csv --as mybank.toml",
        "aegis import handbook.parquet --preset handbook --db handbook.duckdb",
        "aegis import statement.xml",
        "aegis import cards.log --preset iso8583 --time-from 2026-01-01",
        "aegis import today.csv --to http://127.0.0.1:8000",
    ),
)
def import_(
    files: Files,
    preset: Annotated[
        str | None, typer.Option(help="A known form of a file; --list-presets tells which.")
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
    time_format: TimeFormat = "",
    time_from: TimeFrom = "",
    time_unit: TimeUnit = "",
    timezone: Timezone = "",
    decimal: Annotated[
        str, typer.Option(metavar="SIGN", help="Before the decimals of a number: . or ,")
    ] = "",
    minor_units: Annotated[
        bool, typer.Option("--minor-units", help="Amounts are in cents, or their like.")
    ] = False,
    encoding: Encoding = "",
    skip: Skip = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Import nothing if any row is bad.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import the good rows, however many are bad.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be read, and store nothing.")
    ] = False,
    to: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="A service that judges each; that of the database by itself."
        ),
    ] = "",
    save_as: SaveAs = None,
    as_: As = None,
    list_presets: Annotated[
        bool,
        typer.Option(
            "--list-presets", is_eager=True, callback=_list_presets, help="Which there are."
        ),
    ] = False,
    source: Source = None,
    db: Database = None,
) -> None:
    """Read transactions from CSV, TSV or Parquet files, or from messages of banks.

    Columns with usual names are recognised, and the forms of times and numbers
    by all values of a column; `+` joins several, and SQL over them computes one.
    Bad rows go to the table `rejected` with their reason, and a file with too
    many of them is not taken; rows that are already there stay as they are.
    While a service owns the database the file is sent to it.
    """
    from aegis_core.intake.importing import import_files, preview
    from aegis_core.intake.said import Kept, Said

    store, settings = opened(db)
    said = Said(time_format, time_from, time_unit, timezone, decimal, minor_units, encoding, skip)
    own = {"is_fraud": label, "scenario": scenario}
    mapped = _assigned("--map", mapping) | {name: c for name, c in own.items() if c}
    form = _form(as_, Kept(preset, mapped, _assigned("--words", words), said))
    given: dict[str, Any] = {
        "preset": form.preset,
        "mapping": form.mapping,
        "label_delay_days": settings.label_delay_days if label_delay is None else days(label_delay),
        "words": form.words,
        "forms": form.said,
        "strict": strict,
        "most_rejected": 1.0 if partial or dry_run else settings.rejected_share,
        "rejected_mb": settings.rejected_mb,
        "base_currency": settings.base_currency,
        "zone": settings.timezone,
        "source": source,
    }
    if dry_run:
        summary, first, lacks = preview(files, **given)
        _show(summary, first, lacks)
    elif to:
        _send(files, to, store, settings, given)
    elif address := _service(store):
        _send(files, address, store, settings, given | {"labels_to": store})
    else:
        summary = import_files(files, store, **given)
        _tell(summary, settings)
    _keep(save_as, form)


def _service(store: Store) -> str:
    """The address of the service that owns the database, "" where none does."""
    from aegis_core.store.endpoint import find

    found = find(store.path)
    return found.rest if found is not None else ""


def _form(path: Path | None, given: Kept) -> Kept:
    """What was said, and what a file says of all else."""
    from aegis_core.intake.said import read

    return given if path is None else read(path).unless(given)


def _keep(path: Path | None, form: Kept) -> None:
    from aegis_core.intake.said import write

    if path is not None:
        write(path, form)
        print(f"The form is kept: --as {path} reads the next one like that.")


def _send(
    files: list[str], to: str, store: Store, settings: Settings, given: dict[str, Any]
) -> None:
    from aegis_core.serving.client import Client
    from aegis_core.serving.sending import send_files
    from aegis_core.serving.token import kept_token

    token = settings.token.get_secret_value() or kept_token(store)
    with closing(Client(to, token)) as client:
        sent = send_files(files, client, **given)
    for line in _read(sent.read):
        print(line)
    told = ", ".join(f"{sent.decisions[name]:,} × {word}" for name, word in _TOLD.items()
                     if sent.decisions[name])  # fmt: skip
    print(
        f"Sent to {to} in {sent.seconds:.1f} s: {told or 'nothing new'}; "
        f"{sent.already_there:,} were there already."
    )
    if sent.read.rejected:
        there = "" if sent.kept else ", as they were before"
        print(f"The rejected rows are kept there, {sent.kept:,} of them new{there}.")
    for reason, n in sent.refused.most_common():
        print(f"  {n:>9,} × refused there: {reason}")
    if sent.labels and "labels_to" in given:
        print(f"{sent.labels:,} labels came with them, {sent.taught:,} of them new.")
    elif sent.labels:
        print(f"{sent.labels:,} labels were not sent; `aegis labels FILE` reads them there.")


_TOLD = {"approve": "approved", "review": "to review", "block": "blocked"}


def _show(summary: ImportSummary, first: pd.DataFrame, lacks: list[str]) -> None:
    """What a dry run found."""
    rows = [
        (name, column, "by its name" if name in summary.guessed else "as said",
         summary.forms.get(name, "plain"))
        for name, column in summary.columns.items()
    ]  # fmt: skip
    if summary.preset:
        print(f"The form of {summary.preset}.")
    write_table(["is", "column", "chosen", "form"], rows, 0)
    print()
    first = first.drop(columns=["seq", "source"]).astype(object)
    rows = list(first.where(first.notna(), None).itertuples(index=False))
    write_table(list(first.columns), rows, 0, 26)
    print()
    for line in _read(summary):
        print(line)
    for lack in lacks:
        print(f"Lacks for {lack}.")
    print("Nothing was stored: a dry run.")


@app.command(
    epilog=example(
        "aegis labels chargebacks.csv",
        "aegis labels disputes.csv --map transaction_id=charge --label outcome --words lost=fraud",
        "aegis labels frauds.parquet --map known_at=reported --source bank",
        "aegis labels disputes.csv --time-format %d.%m.%Y --timezone Europe/Berlin --skip 2",
    )
)
def labels(
    files: Files,
    mapping: Mapped = None,
    label: Label = None,
    words: Words = None,
    time_format: TimeFormat = "",
    time_from: TimeFrom = "",
    time_unit: TimeUnit = "",
    timezone: Timezone = "",
    encoding: Encoding = "",
    skip: Skip = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Take nothing if any row is bad.")
    ] = False,
    save_as: SaveAs = None,
    as_: As = None,
    source: Source = None,
    db: Database = None,
) -> None:
    """Read labels of transactions that are there: what turned out to be fraud, and when.

    Each row has the id of a transaction, fraud or not and, if there is such a column,
    the date on which that became known (`reported_at`); without one it is known from
    now on. What came last holds, but an analyst's answer holds before any file.
    """
    from aegis_core.intake.importing import import_labels
    from aegis_core.intake.said import Kept, Said

    store, settings = opened(db)
    said = Said(time_format, time_from, time_unit, timezone, encoding=encoding, skip=skip)
    mapped = _assigned("--map", mapping) | ({"is_fraud": label} if label else {})
    form = _form(as_, Kept(None, mapped, _assigned("--words", words), said))
    summary = import_labels(
        files,
        store,
        mapping=form.mapping,
        words=form.words,
        forms=form.said,
        strict=strict,
        rejected_mb=settings.rejected_mb,
        source=source,
    )
    _tell(summary, settings)
    _keep(save_as, form)


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


@app.command(epilog=example("aegis links", "aegis links reissued.csv"))
def links(
    who: Who,
    file: Annotated[
        Path | None,
        typer.Argument(help="CSV with customer_id, the newer number, and replaces, the older."),
    ] = None,
    db: Database = None,
) -> None:
    """Read which number of a customer replaces which, or list what is known.

    Where customer_id is the number of a card, a reissued one keeps the history: what
    comes under the newer number from now on is kept under the customer that it goes
    back to, and the number itself in card_id. What was kept stays where it is.
    """
    from aegis_core.intake.links import import_links, known_links

    store, _ = opened(db)
    if file is not None:
        print(import_links(store, file, who=who).sentence())
    elif found := known_links(store):
        write_table(list(found[0]), [tuple(row.values()) for row in found], 0)
    else:
        print("No number replaces another.")


def _assigned(option: str, pairs: list[str] | None) -> dict[str, str]:
    return dict(assignment(option, pair) for pair in pairs or [])


def _tell(summary: ImportSummary, settings: Settings) -> None:
    for line in _import_told(summary, settings):
        print(line)
    if not summary.accepted and not summary.already_there:
        print("aegis: no row was usable; see the reasons above.", file=sys.stderr)
        raise typer.Exit(1)


def _import_told(summary: ImportSummary, settings: Settings) -> Iterable[str]:
    if summary.guessed or summary.forms:
        how = f"the columns of {summary.preset}" if summary.preset else "columns by their names"
        yield f"Recognised {how}; --map NAME=COLUMN says otherwise:"
        for name, column in summary.columns.items():
            form = summary.forms.get(name)
            if form or name in summary.guessed:
                yield f"  {name:<15} ← {column}" + (f", {form}" if form else "")
    yield from _read(summary)
    if summary.later_states:
        yield f"Of those already there, {summary.later_states:,} came with a later state."
    if summary.not_kept:
        yield (
            f"Of the bad rows {summary.not_kept:,} are counted here and not kept: `rejected` takes "
            f"{settings.rejected_mb:g} MB of a source a day (rejected_mb in aegis.toml)."
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


def _read(summary: ImportSummary) -> Iterable[str]:
    """What was read of files, without a word on what was stored."""
    yield (
        f"{summary.rows:,} rows read: {summary.accepted:,} accepted, {summary.already_there:,} "
        f"already there, {sum(summary.rejected.values()):,} rejected, in {summary.seconds:.1f} s."
    )
    yield from (f"  {n:>9,} × {reason}" for reason, n in summary.rejected.items())
    if summary.first_refused:
        yield f"The first of them is at {summary.first_refused}."
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
