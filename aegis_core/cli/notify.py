"""Commands that tell people: run the notifier, test it, list its rules."""

from __future__ import annotations

from typing import Annotated

import typer

from aegis_core.cli.common import Database, Seconds, example, opened
from aegis_core.cli.output import write_table

notify_app = typer.Typer(
    no_args_is_help=True, help="Mail, SMS, chat and webhooks for alerts, failed runs and drift."
)


@notify_app.callback(
    epilog=example("aegis notify test", "aegis notify run", "aegis notify list"),
)
def _notify(db: Database = None) -> None:
    """Tell people of alerts, failed runs, drift and a service that is down."""


@notify_app.command(epilog=example("aegis notify run", "aegis notify run --for 60"))
def run(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
    for_s: Seconds = None,
    db: Database = None,
) -> None:
    """Look for what the rules of aegis.toml name, and send it, until Ctrl-C."""
    from aegis_core.runs.notify import notifier

    notifier.run(*opened(db), for_s=for_s, every_s=every)


@notify_app.command("test", epilog=example("aegis notify test", "aegis notify test mail"))
def try_out(
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
def list_(db: Database = None) -> None:
    """List the rules, with what waits, what was sent and the last error."""
    from aegis_core.runs.notify import notifier

    store, settings = opened(db)
    notifier.chosen(settings)
    write_table(*notifier.listed(store, settings), 0)
