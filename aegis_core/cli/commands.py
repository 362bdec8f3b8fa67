"""The `aegis` command: a thin layer over the package.

Nothing heavy is imported until a command needs it, so that `--help` is quick. A mistake in what
the user gave is one sentence on the standard error and exit code 2, never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from aegis_core import __version__
from aegis_core.cli import care, register, runs
from aegis_core.cli import intake as intake  # its commands are those of `app`
from aegis_core.cli.common import (
    Database,
    Json,
    Port,
    Seconds,
    Who,
    app,
    bar,
    days,
    example,
    finite,
    moment,
    opened,
    settings_for,
)
from aegis_core.cli.output import cell_text, write_csv, write_document, write_json, write_table
from aegis_core.errors import AegisError, InputError, NotReady
from aegis_core.machine import private
from aegis_core.schema import held_labels

app.add_typer(register.models_app, name="models")
app.add_typer(register.lists_app, name="lists")
app.add_typer(register.tokens_app, name="tokens")
app.add_typer(runs.notify_app, name="notify")
app.add_typer(runs.schedule_app, name="schedule")
app.add_typer(care.audit_app, name="audit")

TABLE_ROWS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code.

    0 done or skipped, 1 a run failed, numbers differ or no row of an import was usable, 2 what was
    given is not usable, 3 the same notebook is running, 4 a run cannot be verified any more,
    5 there is too little to judge by, 130 ended by Ctrl-C or SIGTERM.
    """
    given = _joined(sys.argv[1:] if arguments is None else arguments)
    try:
        with private():
            app(given, prog_name="aegis")
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(bool(e.code))
    except AegisError as e:
        print(f"aegis: {e}", file=sys.stderr)
        return e.exit_code
    return 0


@app.callback(
    invoke_without_command=True,
    epilog=example("aegis up", 'aegis import "data/*.csv"', "aegis run train", "aegis status"),
)
def _aegis(
    version: Annotated[bool, typer.Option("--version", help="Say the version and end.")] = False,
) -> None:
    if version:
        print(f"aegis {__version__}")
        raise typer.Exit


@app.command(
    epilog=example(
        'aegis query "SELECT decision, count(*) FROM verdicts GROUP BY ALL"',
        'aegis query "FROM transactions WHERE amount > 1000" --format csv > large.csv',
        'aegis query "SUMMARIZE transactions" --format json',
    )
)
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads.")],
    form: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to write it.")
    ] = "table",
    limit: Annotated[
        int | None,
        typer.Option(min=0, help=f"At most so many rows; 0 all. A table has {TABLE_ROWS}."),
    ] = None,
    db: Database = None,
) -> None:
    """Ask the database anything in SQL; nothing can be changed this way."""
    most = (TABLE_ROWS if form == "table" else 0) if limit is None else limit
    with opened(db)[0].reading() as session:
        names, rows = session.stream(sql)
        {"table": write_table, "csv": write_csv, "json": write_json}[form](names, rows, most)


@app.command(epilog=example("aegis status", "aegis status --json --db fraud.duckdb"))
def status(as_json: Json = False, db: Database = None) -> None:
    """Say where everything is, and what is there: rows, champion model, alerts, last runs.

    Without a database it says where one would be, and ends with 2.
    """
    from aegis_core.config import CHECKOUT, NOTEBOOK_FOLDER
    from aegis_core.store.floods import THRESHOLD
    from aegis_core.store.meaning import base_of
    from aegis_core.units import clocks

    store, settings = opened(db)
    found: dict[str, Any] = {
        "home": str(settings.home),
        "db": str(settings.db),
        "reports": str(settings.reports),
        "notebooks": str(NOTEBOOK_FOLDER),
        "zones": clocks.data(),
    }
    named, missing = "home" in settings.model_fields_set, None
    try:
        with store.reading() as session:
            asked = _STATUS | {"threshold": THRESHOLD}
            found |= {key: session.rows(sql) for key, sql in asked.items()}
            found["base_currency"] = base_of(session) or settings.base_currency
    except NotReady as e:
        missing = e
    else:
        for key in ("transactions", "labels", "verdicts", "champion", "threshold", "proof"):
            found[key] = next(iter(found[key]), None)
        runs.mark_killed(settings.db, found["runs"])
    if as_json:
        write_document(found)
    else:
        usual = f"{'checkout' if CHECKOUT else 'current folder'}; AEGIS_HOME would name another"
        print(f"home          {settings.home}" + ("" if named else f", the {usual}"))
        for line in _status_told(found):
            print(line)
    if missing:
        raise missing


@app.command(epilog=example("aegis dashboard", "aegis dashboard --port 9000 --for 30"))
def dashboard(port: Port = 8866, for_s: Seconds = None, db: Database = None) -> None:
    """Serve the dashboard on this machine until Ctrl-C."""
    from aegis_core.views.launcher import serve

    serve(settings_for(db), port=port, for_s=for_s)


@app.command(epilog=example("aegis review", "aegis review --analyst anna --port 9001"))
def review(
    port: Port = 8867,
    analyst: Annotated[
        str, typer.Option(help="Who answers on this page; else each page asks once.")
    ] = "",
    for_s: Seconds = None,
    db: Database = None,
) -> None:
    """Serve the review page to analysts on this machine until Ctrl-C.

    Its address holds a token of its own, made anew at each start unless AEGIS_REVIEW_TOKEN
    names one; whoever has it may answer, where analysts have tokens (`aegis tokens`) with theirs
    alone, and with --analyst under that name. Nobody can answer on the dashboard.
    """
    from aegis_core.views.launcher import serve
    from aegis_core.views.review.page import served_page

    settings = settings_for(db)
    serve(settings, port=port, for_s=for_s, page=served_page(settings, analyst))


@app.command(epilog=example("aegis serve", "aegis serve --port 9000", "AEGIS_TOKEN=… aegis serve"))
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    for_s: Seconds = None,
    db: Database = None,
) -> None:
    """Score transactions over REST; this process owns the database meanwhile."""
    from aegis_core.serving.server import serve as run_service

    run_service(settings_for(db), host=host, port=port, for_s=for_s)


@app.command(epilog=example("aegis score --since 30d", "aegis score --since 2026-03-01"))
def score(
    who: Who,
    since: Annotated[
        str,
        typer.Option(help="A date or time (UTC), or an age such as 30d before the newest payment."),
    ],
    db: Database = None,
) -> None:
    """Judge what was imported as if the champion had been there: board and queue fill.

    Payments since then that have no verdict get one, marked as replayed; what has a
    verdict keeps it. No service may run meanwhile.
    """
    from aegis_core.serving.replaying import score_past

    from_: float | datetime | None
    try:
        from_ = days(since)
    except InputError:
        from_ = moment(since)
    if from_ is None:
        raise InputError("Say since when: a date such as 2026-03-01, or an age such as 30d.")
    store, settings = opened(db)
    with bar("score") as tell:
        done = score_past(store, settings, from_, who=who, tell=tell)
    print(*done.lines(), sep="\n")


@app.command(
    epilog=example("aegis up", "aegis up --transactions 50000 --for 30", "aegis up --no-simulate")
)
def up(
    transactions: Annotated[
        int, typer.Option(min=1, help="How many to generate in an empty database.")
    ] = 500_000,
    port: Port = 8866,
    api_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the service; else any free one.")
    ] = 8000,
    simulate: Annotated[
        bool | None,
        typer.Option(
            "--simulate/--no-simulate",
            help="Send a made-up stream; by itself not into data of your own.",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, callback=finite, help="Its transactions a second.")
    ] = 50.0,
    for_s: Seconds = None,
    db: Database = None,
) -> None:
    """Go from nothing to the live dashboard; what is there is used again.

    Data and reports go into the home; `aegis status` says where that is.
    """
    from aegis_core.cli.up import first_light

    shown = {"transactions": transactions, "port": port, "api_port": api_port}
    first_light(settings_for(db), **shown, rate=rate, simulate=simulate, for_s=for_s)


_STATUS = {
    "transactions": "SELECT count(*) AS rows, min(ts) AS first, max(ts) AS last FROM transactions",
    "labels": "SELECT count(*) AS rows, count(*) FILTER (is_fraud) AS frauds "
    f"FROM ({held_labels()})",
    "verdicts": """SELECT count(*) AS rows, count(*) FILTER (decision = 'review') AS review,
        count(*) FILTER (decision = 'block') AS block,
        (review + block) / nullif(count(*), 0) AS alert_rate, count(replayed_at) AS replayed
        FROM verdicts""",
    "champion": """SELECT version, detector, n_train, trained_from, trained_to, promoted_at
        FROM models WHERE promoted_at IS NOT NULL ORDER BY promoted_at DESC LIMIT 1""",
    "runs": """SELECT run_id, notebook, status, started_at, ended_at, error, cells_done,
        cells_total, heading, seconds, peak_memory_mb, attempt, entry
        FROM runs ORDER BY started_at DESC LIMIT 5""",
    "proof": "FROM proofs ORDER BY proved_at DESC LIMIT 1",
    "rejected": "SELECT reason, count(*) AS rows FROM rejected GROUP BY ALL ORDER BY rows DESC, 1",
}


def _joined(arguments: Sequence[str]) -> list[str]:
    """`-p KEY VALUE`, as papermill has it, as `-p KEY=VALUE`, as Typer wants it.

    >>> _joined(["run", "train", "-p", "seed", "4", "-p", "days=2"])
    ['run', 'train', '-p', 'seed=4', '-p', 'days=2']
    """
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        joined.append(rest.pop(0))
        if joined[0] == "run" and joined[-1] in ("-p", "--parameter") and rest:
            key = rest.pop(0)
            has_value = "=" not in key and rest and not rest[0].startswith("--")
            joined.append(f"{key}={rest.pop(0)}" if has_value else key)
    return joined


def _status_told(found: dict[str, Any]) -> Iterable[str]:
    from aegis_core.store.floods import follows

    yield f"database      {found['db']}"
    yield f"reports       {found['reports']}"
    yield f"notebooks     {found['notebooks']}"
    if "transactions" not in found:
        return
    rows, labels, verdicts = found["transactions"], found["labels"], found["verdicts"]
    yield f"transactions  {rows['rows']:,}" + (
        f", {rows['first']:%Y-%m-%d %H:%M} to {rows['last']:%Y-%m-%d %H:%M} UTC"
        if rows["rows"]
        else "; fill it with `aegis import FILE` or `aegis run generate`"
    )
    if found["base_currency"]:
        yield f"amounts       are compared in {found['base_currency']}; `aegis rates` tells how"
    yield f"time zones    {found['zones']}"
    yield f"labels        {labels['rows']:,}, {labels['frauds']:,} of them fraud"
    champion = found["champion"]
    yield "champion      " + (
        f"{champion['version']} ({champion['detector']}, trained on {champion['n_train'] or 0:,})"
        if champion
        else "none yet; `aegis run train` makes one"
    )
    if found["threshold"] and (sentence := follows(found["threshold"])):
        yield f"threshold     {sentence}"
    yield f"verdicts      {verdicts['rows']:,}" + (
        f", {verdicts['review']:,} to review, {verdicts['block']:,} blocked: "
        f"alert rate {verdicts['alert_rate']:.2%}"
        + f"; {verdicts['replayed']:,} of them replayed"
        * bool(verdicts["replayed"])
        if verdicts["rows"]
        else "; `aegis score --since 30d` judges what was imported"
        * bool(champion and rows["rows"])
    )
    if proof := found["proof"]:
        yield (
            f"live = replay {proof['proved_at']:%Y-%m-%d %H:%M} UTC, {proof['checked']:,} verdicts "
            f"compared, {proof['different']:,} differ"
        )
    elif verdicts["rows"]:
        yield "live = replay not compared yet; `aegis verify live` does"
    for i, ran in enumerate(found["runs"]):
        error = f": {cell_text(ran['error'])}" if ran["error"] else runs.progress_of(ran)
        yield (
            f"{'' if i else 'last runs':<12}  {ran['started_at']:%Y-%m-%d %H:%M}  "
            f"{ran['notebook']} {ran['status']}{error}"
        )
    for i, bad in enumerate(found["rejected"]):
        yield f"{'' if i else 'rejected':<12}  {bad['rows']:,} × {bad['reason']}"
