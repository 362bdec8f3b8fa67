"""Commands that say who decides: models, lists and answers."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from aegis_core.cli.common import Database, example, settings_for
from aegis_core.cli.output import write_table

Who = Annotated[str | None, typer.Option(help="Who does this; else the user of this machine.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="As `aegis models` lists it.")]

models_app = typer.Typer(no_args_is_help=False, help="The register of models.")
ANSWER_EXAMPLES = example(
    "aegis answer t0000123 fraud --who anna",
    'aegis answer t0000123 legitimate --note "customer called back"',
)
lists_app = typer.Typer(no_args_is_help=False, help="Allow and deny lists, snoozed customers.")


@models_app.callback(
    invoke_without_command=True,
    epilog=example(
        "aegis models",
        "aegis run train -p detector learner",
        "aegis models compare",
        "aegis models promote 20260301-120000-1a2b3c --who anna",
        "aegis models rollback",
    ),
)
def _models(context: typer.Context, db: Database = None) -> None:
    """List the models, or say which of them decides."""
    context.obj = db
    if context.invoked_subcommand:
        return
    from aegis_core.models import listed
    from aegis_core.store import connect

    found = listed(connect(settings_for(db).db))
    if found.empty:
        print("No model yet; `aegis run train` makes one.")
        return
    shown = ["version", "role", "kind", "n_train", "trained_from", "trained_to", "run_id"]
    for column in ("trained_from", "trained_to"):
        found[column] = found[column].dt.strftime("%Y-%m-%d %H:%M")
    rows = found[shown].astype(object).where(found[shown].notna(), None)
    write_table(shown, list(rows.itertuples(index=False, name=None)), 0)


@models_app.command(epilog=example("aegis models compare", "aegis models compare --days 7"))
def compare(
    context: typer.Context,
    challenger: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="Else the one that scored last.")
    ] = "",
    days: Annotated[float, typer.Option(min=0, help="So many days back.")] = 30.0,
    db: Database = None,
) -> None:
    """Compare the champion with a challenger on what both scored live."""
    from aegis_core.models import compared
    from aegis_core.store import connect

    table, told = compared(connect(settings_for(db or context.obj).db), challenger, days)
    rows = table.reset_index(names="model").astype(object)
    rows = rows.where(rows.notna(), None)
    write_table(list(rows.columns), list(rows.itertuples(index=False, name=None)), 0)
    print(told)


@models_app.command(epilog=example("aegis models promote VERSION --who anna"))
def promote(
    context: typer.Context, version: Version, who: Who = None, db: Database = None
) -> None:  # fmt: skip
    """Make a model the champion: it decides from the next batch on."""
    _give(context, version, who, db, "champion")


@models_app.command(epilog=example("aegis models shadow VERSION"))
def shadow(
    context: typer.Context, version: Version, who: Who = None, db: Database = None
) -> None:  # fmt: skip
    """Let a model score beside the champion and decide nothing."""
    _give(context, version, who, db, "shadow")


@models_app.command(epilog=example("aegis models retire VERSION"))
def retire(
    context: typer.Context, version: Version, who: Who = None, db: Database = None
) -> None:  # fmt: skip
    """Take a model out of shadow; it stays in the register."""
    _give(context, version, who, db, "none")


@models_app.command(epilog=example("aegis models rollback --who anna"))
def rollback(context: typer.Context, who: Who = None, db: Database = None) -> None:
    """Go back to the champion before the present one."""
    from aegis_core.models import rollback as go_back
    from aegis_core.store import connect

    version = go_back(connect(settings_for(db or context.obj).db), who=_name(who))
    print(f"{version} is the champion again.")


def _give(
    context: typer.Context, version: str, who: str | None, db: Database, role: str
) -> None:  # fmt: skip
    from aegis_core.models import promote as give
    from aegis_core.store import connect

    print(give(connect(settings_for(db or context.obj).db), version, who=_name(who), role=role))


@lists_app.callback(
    invoke_without_command=True,
    epilog=example(
        "aegis lists",
        'aegis lists add deny m0042 --merchant --why "stolen terminal"',
        'aegis lists add snooze c0007 --until 2026-03-31 --why "travels, she phoned"',
        'aegis lists end 1a2b3c4d --why "card replaced"',
    ),
)
def _lists(context: typer.Context, db: Database = None) -> None:
    """Show who is on which list, until when, by whom and why."""
    context.obj = db
    if context.invoked_subcommand:
        return
    from aegis_core.lists import current
    from aegis_core.store import connect

    entries = current(connect(settings_for(db).db))
    if not entries:
        print("Nobody is on a list.")
        return
    names = ["entry_id", "kind", "field", "value", "until", "who", "why"]
    rows = [
        tuple(f"{v:%Y-%m-%d %H:%M}" if n == "until" and v else v for n, v in vars(e).items())[:7]
        for e in entries
    ]
    write_table(names, rows, 0)


@lists_app.command(
    epilog=example('aegis lists add deny c0007 --until 2026-12-31 --why "card stolen"')
)
def add(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="deny, allow or snooze.")],
    value: Annotated[str, typer.Argument(metavar="ID", help="Of the customer or merchant.")],
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    merchant: Annotated[
        bool, typer.Option("--merchant", help="The id is a merchant's, not a customer's.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(help="When it ends (UTC); a snooze needs an end.")
    ] = None,
    who: Who = None,
    db: Database = None,
) -> None:
    """Put a customer or merchant on a list, from the next transaction on."""
    from aegis_core.lists import add as put
    from aegis_core.store import connect

    entry = put(
        connect(settings_for(db or context.obj).db), kind, value,
        field="merchant" if merchant else "customer", until=until, who=_name(who), why=why,
    )  # fmt: skip
    print(f"{entry.entry_id}: {entry.sentence()}")


@lists_app.command(epilog=example('aegis lists end 1a2b3c4d --why "card replaced"'))
def end(
    context: typer.Context,
    entry_id: Annotated[str, typer.Argument(metavar="ENTRY", help="As `aegis lists` shows it.")],
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    who: Who = None,
    db: Database = None,
) -> None:
    """Take an entry off its list before its time."""
    from aegis_core.lists import end as take_off
    from aegis_core.store import connect

    store = connect(settings_for(db or context.obj).db)
    entry = take_off(store, entry_id, who=_name(who), why=why)
    print(f"{entry.field} {entry.value} is off the {entry.kind} list.")


def answer(
    transaction_id: Annotated[str, typer.Argument(metavar="TRANSACTION")],
    said: Annotated[str, typer.Argument(metavar="ANSWER", help="fraud or legitimate.")],
    note: Annotated[str, typer.Option(help="Anything worth keeping.")] = "",
    who: Who = None,
    db: Database = None,
) -> None:
    """Answer an alert; the answer teaches the next learner."""
    from aegis_core.live import answer as keep
    from aegis_core.store import connect

    store = connect(settings_for(db).db)
    keep(store, transaction_id, said, analyst=_name(who), note=note)
    print(f"{transaction_id}: {said}, kept.")


def _name(who: str | None) -> str:
    if who is not None:
        return who
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return "unknown user"
