"""Commands that run notebooks, now or by a schedule, say where numbers come from, tell people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aegis_core.cli.common import (
    Database,
    Json,
    Seconds,
    app,
    assignment,
    bar,
    example,
    finite,
    moment,
    of_the_group,
    opened,
    settings_for,
)
from aegis_core.cli.output import cell_text, write_document, write_table
from aegis_core.errors import InputError, Unjudged

schedule_app = typer.Typer(
    no_args_is_help=True,
    callback=of_the_group,
    help="Run notebooks when they are due, by the tables \\[schedule.NAME] of aegis.toml.",
    epilog=example("aegis schedule list", "aegis schedule run", "aegis schedule now nightly"),
)
notify_app = typer.Typer(
    no_args_is_help=True,
    callback=of_the_group,
    help="Tell people of alerts, failed runs, drift and a service that is down: mail, SMS, chat, "
    "webhooks.",
    epilog=example("aegis notify test", "aegis notify run", "aegis notify list"),
)


@app.command(
    epilog=example(
        "aegis run train --parameters",
        "aegis run generate -p n_transactions 100000",
        "aegis run train --timeout 1800 --retries 2",
        "aegis run evaluate -p train_from 2018-07-25 -p folds 4",
        "aegis run simulate --db fraud.duckdb --on-overlap skip",
        "aegis run simulate -p target https://example.org -p token env:SCORING_TOKEN",
    )
)
def run(
    name: Annotated[
        str,
        typer.Argument(
            help="start, generate, train, evaluate, price, simulate, review or drift.",
            metavar="NAME",
        ),
    ],
    parameters: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="KEY VALUE", help="Again for more."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--parameters", help="List its parameters and run nothing.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, callback=finite, help="Fail after so many seconds; each attempt."),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, max=20, help="Further attempts if it fails.")] = 0,
    backoff: Annotated[
        float,
        typer.Option(min=0, callback=finite, help="Seconds before the first retry; then doubled."),
    ] = 30.0,
    on_overlap: Annotated[
        Literal["fail", "skip", "wait"],
        typer.Option(help="When the same notebook is already running."),
    ] = "fail",
    db: Database = None,
) -> None:
    """Run a notebook through papermill; its report goes under reports/ of the home.

    Exit codes: 0 done or skipped, 1 failed, 2 what was given or is there cannot
    be used (and is not tried again), 3 the same notebook is running, 5 there are
    too few labels to judge, 130 stopped by Ctrl-C or SIGTERM.

    A secret is given as env:NAME, never as its value.
    """
    from aegis_core.runs.parameters import check_parameters, parameters_of

    if show:
        declared = parameters_of(name).values()
        write_table(
            ["parameter", "type", "default", "meaning"],
            ((a["name"], a["inferred_type_name"], a["default"], a["help"]) for a in declared),
            0,
        )
        return
    given = dict(assignment("-p", pair) for pair in parameters or [])
    check_parameters(name, given)  # before what takes a second to import
    from aegis_core.runs.execution import run_notebook

    result = run_notebook(
        name,
        given,
        settings_for(db),
        timeout_s=timeout,
        retries=retries,
        backoff_s=backoff,
        on_overlap=on_overlap,
    )
    if result.status == "skipped":
        print(f"{name}: skipped. {result.told}")
        return
    told = f". {result.told}" if result.told else ""
    print(f"{name}: {result.status} in {result.seconds:.1f} s{told}")
    print(f"report: {result.report_path}")
    if result.status == "unjudged":
        raise typer.Exit(Unjudged.exit_code)


@app.command(
    epilog=example(
        "aegis lineage average_precision",
        "aegis lineage average_precision:forest/0 --json",
        "aegis lineage 20260301-120000-evaluate-1a2b",
    )
)
def lineage(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A metric (or metric:slice), model or run.")
    ],
    as_json: Json = False,
    db: Database = None,
) -> None:
    """Say where a number or a model comes from: run, notebook, code, parameters, data."""
    from aegis_core.runs.lineage import chain, told

    found = chain(opened(db)[0], what)
    if as_json:
        write_document(found)
        return
    print(*told(found), sep="\n")


@app.command(
    epilog=example(
        "aegis verify evaluate",
        "aegis verify 20260301-120000-train-1a2b",
        "aegis verify live --since 7d",
    )
)
def verify(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run, a notebook for its last one, or live for the verdicts."
        ),
    ],
    since: Annotated[
        str, typer.Option(help="Of live: verdicts given since a date or an age such as 7d.")
    ] = "",
    db: Database = None,
) -> None:
    """Execute a run again on the data it saw, elsewhere, and compare every number.

    live replays the history and compares every verdict that was given, bit for bit;
    a service may run meanwhile, and the board says when it was done.

    Exit codes: 0 all are the same, 1 some differ, 4 the data or the model of then
    are not there any more, 5 there is no verdict to compare.
    """
    from aegis_core.evaluation.parity import verify_live
    from aegis_core.runs import verify

    if what == verify.LIVE:
        with bar("verify live") as tell:
            told = verify_live(settings_for(db), since=moment(since), tell=tell)
        print(told)
        return
    if since:
        raise InputError("--since goes with `aegis verify live`; a run is compared as a whole.")
    found = verify.verify(what, settings_for(db))
    print(*found.lines(), sep="\n")
    if found.differences:
        raise typer.Exit(1)


@schedule_app.command("run", epilog=example("aegis schedule run", "aegis schedule run --for 3600"))
def schedule_run(for_s: Seconds = None, db: Database = None) -> None:
    """Start what is due, until Ctrl-C; what was missed is made up for once."""
    from aegis_core.evaluation.parity import verify_live
    from aegis_core.runs.schedule import serve

    serve(settings_for(db), verify_live, for_s=for_s)


@schedule_app.command("list", epilog=example("aegis schedule list", "aegis schedule list --json"))
def schedule_list(as_json: Json = False, db: Database = None) -> None:
    """Say what runs next, and how it went last."""
    from aegis_core.runs.schedule import listed

    rows = listed(settings_for(db))
    if as_json:
        write_document(rows)
        return
    if not rows:
        print("The schedule is empty; `aegis schedule --help` and the README show an entry.")
        return
    names = ["entry", "runs", "cron", "next", "last", "status", "error"]
    table = [
        (
            *(row["entry"], row["runs"], f"{row['cron']} {row['timezone']}"),
            f"{row['local']:%Y-%m-%d %H:%M %Z}" if row["local"] else "never",
            f"{row['last']:%Y-%m-%d %H:%M} UTC" if row["last"] else None,
            *(row["status"], row["error"]),
        )
        for row in rows
    ]
    write_table(names, table, 0)


@schedule_app.command("now", epilog=example("aegis schedule now nightly"))
def schedule_now(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An entry of the schedule.")],
    db: Database = None,
) -> None:
    """Run an entry at once, with its parameters, limit of time and retries."""
    from aegis_core.evaluation.parity import verify_live
    from aegis_core.runs.schedule import start

    print(start(settings_for(db), name, verify_live))


@notify_app.command("run", epilog=example("aegis notify run", "aegis notify run --for 60"))
def notify_run(
    every: Annotated[
        float, typer.Option(min=0.1, callback=finite, help="Seconds between two looks.")
    ] = 5.0,
    for_s: Seconds = None,
    db: Database = None,
) -> None:
    """Look for what the rules of aegis.toml name, and send it, until Ctrl-C."""
    from aegis_core.runs.notify import notifier

    notifier.run(*opened(db), for_s=for_s, every_s=every)


@notify_app.command("test", epilog=example("aegis notify test", "aegis notify test mail"))
def notify_test(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Of a rule; else all.")] = "",
    db: Database = None,
) -> None:
    """Send a test message by a rule, or by all of them, now."""
    from aegis_core.runs.notify import notifier

    failed = False
    for rule, target, error in notifier.try_out(*opened(db), name):
        print(f"{rule} → {target}: {error or 'sent'}")
        failed |= error is not None
    if failed:
        raise typer.Exit(1)


@notify_app.command("list", epilog=example("aegis notify list"))
def notify_list(db: Database = None) -> None:
    """List the rules, with what waits, what was sent and the last error."""
    from aegis_core.runs.notify import notifier

    store, settings = opened(db)
    notifier.chosen(settings)
    write_table(*notifier.listed(store, settings), 0)


def mark_killed(db: Path, ran: list[dict[str, Any]]) -> None:
    """Say of runs that count as running but are gone that they were killed."""
    from aegis_core.runs.ledger import holder

    for row in ran:
        if row["status"] == "running" and holder(db, row["notebook"]) is None:
            row["status"] = "killed"


def progress_of(ran: dict[str, Any]) -> str:
    """How far a running notebook is, or how long it took and how much memory."""
    if ran["status"] == "running":
        at = f", at “{cell_text(ran['heading'])}”" if ran["heading"] else ""
        return f": {ran['cells_done']} of {ran['cells_total']} cells{at}"
    memory = f", {ran['peak_memory_mb']:,.0f} MB" if ran["peak_memory_mb"] else ""
    return f" in {ran['seconds']:.1f} s{memory}" if ran["seconds"] is not None else ""
