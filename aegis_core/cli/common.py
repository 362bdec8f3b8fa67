"""What every command shares: the app, the usual options, the settings."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_core.errors import InputError
from aegis_core.machine import utc_now

if TYPE_CHECKING:
    from aegis_core.config import Settings
    from aegis_core.store import Store

app = typer.Typer(
    name="aegis",
    help="""Find fraud in payment transactions, without labels to start.

    Data, reports and aegis.toml are in the home: the folder that AEGIS_HOME names, else the
    checkout, else, where a wheel was installed, the current folder. `aegis status` says which.
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _or_that_of_the_group(context: typer.Context, db: Path | None) -> Path | None:
    """The database of a command, or the one that was named before the command's name."""
    named: Path | None = db or context.obj
    context.obj = named
    return named


def _login() -> str:
    """The account that runs this."""
    from aegis_core.store.audit import login

    return login()


def finite(value: float | None) -> float | None:
    """A number of the command line, refused where it is nan or infinite."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


Database = Annotated[
    Path | None,
    typer.Option(
        "--db",
        callback=_or_that_of_the_group,
        help="The DuckDB file; a relative path counts from here. Else AEGIS_DB, else the home's.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Who = Annotated[
    str, typer.Option(default_factory=_login, show_default="your user name", help="Who does this.")
]
Seconds = Annotated[
    float | None, typer.Option("--for", min=0, callback=finite, help="End after so many seconds.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes any free one.")]


def of_the_group(db: Database = None) -> None:
    """A group of commands takes a database for all of them."""


MINUTES = {"m": 1, "h": 60, "d": 1440, "w": 10080}


def example(*lines: str) -> str:
    """Examples for the foot of a help page, one a line."""
    return "[bold]Examples[/bold]\n" + "\n".join(f"  [cyan]{line}[/cyan]" for line in lines)


def settings_for(db: Path | None) -> Settings:
    """The settings, with the database that the user named."""
    from aegis_core import config

    return config.load(db=db.expanduser().absolute() if db else None)


def opened(db: Path | None) -> tuple[Store, Settings]:
    """The database that the user named, and its settings."""
    from aegis_core.store import connect

    settings = settings_for(db)
    return connect(settings.db), settings


def assignment(option: str, pair: str) -> tuple[str, str]:
    """Name and value of an option that was given as `NAME=VALUE`.

    Raises
    ------
    InputError : It has no name, or no value.

    >>> assignment("-p", "days=2")
    ('days', '2')
    """
    key, equals, value = pair.partition("=")
    if not equals or not key:
        usual = {"-p": "-p KEY VALUE", "--words": "--words WORD=fraud"}
        wanted = usual.get(option, f"{option} NAME=COLUMN")
        raise InputError(f"{option} {pair} is incomplete; write {wanted}.")
    return key.strip(), value


def days(text: str) -> float:
    """A length of time in days, from `7d`, `12h`, `30m`, `2w` or a plain number of days.

    >>> days("7d"), days("12h"), days("0")
    (7.0, 0.5, 0.0)

    Raises
    ------
    InputError : It is not a length of time.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in MINUTES else (text, "d")
    try:
        value = float(number) * MINUTES[unit] / 1440
        if 0 <= value <= 36500:
            return value
    except ValueError:
        pass
    raise InputError(f"{text!r} is not a length of time; write 7d, 12h, 30m or 2w.")


def moment(text: str) -> datetime | None:
    """A time in UTC, from a date, a time or an age.

    >>> moment("2026-03-01T12:00+01:00")
    datetime.datetime(2026, 3, 1, 11, 0)
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            age = timedelta(days=days(text))
        except InputError:
            raise InputError(
                f"{text!r} is neither a date such as 2026-03-01 nor an age such as 7d."
            ) from None
        return utc_now() - age
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


@contextlib.contextmanager
def bar(doing: str) -> Iterator[Callable[[float], object]]:
    """A bar on the standard error, where that is a terminal, fed with the share done."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=1.0, desc=doing, disable=None, bar_format=form) as shown:

        def tell(share: float) -> None:
            shown.update(share - shown.n)

        yield tell
