"""What every command shares: the app, the usual options, the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_core.errors import InputError

if TYPE_CHECKING:
    from aegis_core.config import Settings

app = typer.Typer(
    name="aegis",
    help="Find fraud in payment transactions, without labels to start.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Database = Annotated[
    Path | None,
    typer.Option("--db", help="The DuckDB file; a relative path counts from here. Else AEGIS_DB."),
]
Seconds = Annotated[float | None, typer.Option("--for", min=0, help="End after so many seconds.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes any free one.")]


def example(*lines: str) -> str:
    """Examples for the foot of a help page, one a line."""
    return "[bold]Examples[/bold]\n" + "\n".join(f"  [cyan]{line}[/cyan]" for line in lines)


def settings_for(db: Path | None) -> Settings:
    """The settings, with the database that the user named."""
    from aegis_core import config

    return config.load(db=db.expanduser().absolute() if db else None)


def assignment(option: str, pair: str) -> tuple[str, str]:
    """Name and value of an option that was given as `NAME=VALUE`.

    Raises
    ------
    InputError
        It has no name, or no value.

    >>> assignment("-p", "days=2")
    ('days', '2')
    """
    key, equals, value = pair.partition("=")
    if not equals or not key:
        wanted = "-p KEY VALUE" if option == "-p" else f"{option} NAME=COLUMN"
        raise InputError(f"{option} {pair} is incomplete; write {wanted}.")
    return key.strip(), value
