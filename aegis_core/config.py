"""One frozen settings object: defaults, then `aegis.toml`, then `AEGIS_*` variables.

Read once by the command line or at the top of a notebook and passed down; nothing else reads the
environment, except for what `secret` looks up. Relative paths count from `home`: the folder that
`AEGIS_HOME` names, else the checkout, else, where the package was installed from a wheel, the
current folder. `aegis.toml` is that of `home`, or without one there that of the checkout.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import time
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from aegis_core.errors import InputError, did_you_mean
from aegis_core.schema import SNOOZE_DAYS

PACKAGE: Final = Path(__file__).resolve().parent
_SHIPPED: Final = PACKAGE / "_notebooks"
CHECKOUT: Final = None if _SHIPPED.is_dir() else PACKAGE.parent
"""The working copy that the package is imported from; None where a wheel was installed."""
NOTEBOOK_FOLDER: Final = CHECKOUT / "notebooks" if CHECKOUT else _SHIPPED
"""The checkout's notebooks, or those that the wheel brought."""
SECRET: Final = "env:"
"""How a parameter begins that names a variable of the environment instead of a value."""


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; write one such as Europe/Berlin") from None
    return name


Zone = Annotated[str, AfterValidator(_zone)]
"""The name of a time zone."""


class Entry(BaseModel):
    """One line of the schedule, `[schedule.NAME]` in `aegis.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cron: str = Field(description="Minute, hour, day of month, month, weekday; as in crontab.")
    timezone: str = Field("UTC", description="Time zone of `cron`, such as Europe/Berlin.")
    notebook: str = Field("", description="The notebook to run.")
    verify: str = Field("", description="Instead: the notebook whose last run is verified; live.")
    parameters: dict[str, bool | int | float | str] = Field({}, description="Of the notebook.")
    timeout: float | None = Field(None, gt=0, description="Seconds that an attempt may take.")
    retries: int = Field(0, ge=0, le=20, description="Further attempts after a failure.")
    backoff: float = Field(30.0, ge=0, description="Seconds before the first retry; then doubled.")
    on_overlap: Literal["skip", "wait", "fail"] = Field(
        "wait", description="When the same notebook is still running."
    )


class NotifyRule(BaseModel):
    """A rule of `[[notify]]`: what is told to whom, and when not.

    >>> NotifyRule(name="night", what=("run",), to=("env:MAIL",), quiet="22:00-07:00").hours
    (datetime.time(22, 0), datetime.time(7, 0))
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=60, description="Of the rule; no two are the same.")
    what: tuple[Literal["verdict", "run", "drift", "budget", "service"], ...] = Field(
        min_length=1,
        description="High-risk verdicts, failed runs, drift alarms, days over the alert "
        "budget, service down.",
    )
    to: tuple[SecretStr, ...] = Field(
        min_length=1, description="Apprise URLs, or env:NAME for one in a variable."
    )
    from_risk: float = Field(99.9, ge=0, le=100, description="Least risk of an alert that is told.")
    digest_minutes: float = Field(
        0, ge=0, le=10_080, description="Collect for so long, then send one message."
    )
    per_hour: int = Field(
        20, ge=1, le=3_600, description="At most so many messages an hour and address."
    )
    quiet: str = Field("", description="Hours without messages, such as 22:00-07:00.")
    zone: Zone = Field("UTC", description="Time zone of the quiet hours, such as Europe/Berlin.")
    dedupe_hours: float = Field(
        24, ge=0, le=8_760, description="The same customer, failure or day again: not told."
    )
    at_most_once: bool = Field(
        False, description="Rather lose than repeat what was being sent when the notifier died."
    )
    health: str = Field("", description="The service's health address; empty: look at its process.")
    link: str = Field("", description="Address under which reports/ is served; empty: its path.")

    @property
    def hours(self) -> tuple[time, time] | None:
        """Start and end of the quiet hours on the clock of `zone`; None without."""
        if not self.quiet:
            return None
        start, _, end = self.quiet.partition("-")
        return time.fromisoformat(start), time.fromisoformat(end)

    @field_validator("quiet", mode="after")
    @classmethod
    def _two_times(cls, quiet: str) -> str:
        clock = r"([01]\d|2[0-3]):[0-5]\d"
        if quiet and not re.fullmatch(f"{clock}-{clock}", quiet):
            raise ValueError("write two times of day, such as 22:00-07:00")
        start, _, end = quiet.partition("-")
        if quiet and start == end:
            raise ValueError(
                "the two times are the same, so that no hour would be quiet; write two that "
                "differ, such as 22:00-07:00, or leave it out"
            )
        return quiet

    @field_validator("health", "link", mode="after")
    @classmethod
    def _address(cls, address: str) -> str:
        if address and not address.startswith(("http://", "https://")):
            raise ValueError("an address begins with http:// or https://")
        return address


def usual_home() -> Path:
    """The home where none is named: the checkout, or the current folder of an installed wheel.

    Raises
    ------
    InputError : The current folder was removed.
    """
    try:
        return CHECKOUT or Path.cwd()
    except FileNotFoundError:
        raise InputError(
            "The current folder is not there any more; go to another, or name one with AEGIS_HOME."
        ) from None


class Settings(BaseSettings):
    """Where things are, and the few numbers that people change.

    `AEGIS_DB=/mnt/fraud.duckdb` or a line `db = "fraud.duckdb"` in `aegis.toml` changes the
    database everywhere.
    """

    model_config = SettingsConfigDict(
        env_prefix="AEGIS_", frozen=True, extra="forbid", allow_inf_nan=False
    )

    home: Path = Field(
        default_factory=usual_home, description="Folder that relative paths count from."
    )
    db: Path = Field(Path("data/aegis.duckdb"), description="The DuckDB file.")
    models: Path = Field(Path("data/models"), description="Folder of trained models.")
    reports: Path = Field(Path("reports"), description="Folder of executed notebooks and reports.")
    alert_budget: float = Field(
        0.005, gt=0, lt=1, description="Share of transactions that may become alerts."
    )
    block_share: float = Field(
        0.2, ge=0, le=1, description="Share of the alerts that are blocked, the highest scores."
    )
    audit_share: float = Field(
        0.001, ge=0, le=1, description="Share of approved transactions drawn for review as well."
    )
    budget_follows_days: int = Field(
        7, ge=0, le=60,
        description="Days of traffic by which the threshold keeps the alert budget; 0: as trained.",
    )  # fmt: skip
    storm_multiple: float = Field(
        5.0, gt=1, allow_inf_nan=False,
        description="An hour with more than so many times the forecast alerts is told as a storm.",
    )  # fmt: skip
    base_currency: str = Field(
        "", max_length=10,
        description="Currency that amounts are compared in, such as EUR; empty: that of most of "
        "the first import.",
    )  # fmt: skip
    timezone: Zone = Field(
        "UTC", description="Local time of whom nothing tells it, such as Europe/Berlin."
    )
    label_delay_days: float = Field(7.0, ge=0, description="Days until a fraud is known.")
    entities: tuple[Literal["card_id", "device_id", "email", "ip", "merchant_id"], ...] = Field(
        ("device_id", "email", "ip", "merchant_id"), max_length=4,
        description="Columns by which a model watches for several cards at once, up to four.",
    )  # fmt: skip
    token: SecretStr = Field(
        SecretStr(""), description="What senders of transactions bring; else of a file it makes."
    )
    service_memory: str = Field(
        "4GB", pattern=r"^[1-9]\d* ?[KMGT]i?B$",
        description="What the database may hold in memory while a service owns it, such as 800MB.",
    )  # fmt: skip
    require_approval: bool = Field(
        False, description="Whether a second person has to agree before a champion is replaced."
    )
    analyst: str = Field("", description="Who answers on the review page; else it asks.")
    review_token: SecretStr = Field(
        SecretStr(""), description="What lets analysts in to the review page; else made anew."
    )
    snooze_days: float = Field(
        SNOOZE_DAYS, gt=0, allow_inf_nan=False,
        description="A snooze may end so many days after the newest transactions, at the latest.",
    )  # fmt: skip
    future_minutes: float = Field(
        10.0, ge=0, allow_inf_nan=False,
        description="A live transaction that is so far ahead of this machine's clock is refused; "
        "0: none is.",
    )  # fmt: skip
    rejected_mb: float = Field(
        10.0, ge=0, allow_inf_nan=False,
        description="Megabytes of refused rows kept a source and day; beyond, they are counted.",
    )  # fmt: skip
    rejected_share: float = Field(
        0.01, ge=0, le=1, allow_inf_nan=False,
        description="Share of a file's rows that may be bad; with more it is not taken.",
    )  # fmt: skip
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    keep_runs: int = Field(
        0, ge=0, description="Runs whose reports are kept; 0 for all. The ledger keeps its rows."
    )
    keep_days: float = Field(0.0, ge=0, description="Days that reports are kept; 0 for ever.")
    schedule: dict[str, Entry] = Field(
        {}, description="What `aegis schedule run` starts, and when."
    )
    notify: tuple[NotifyRule, ...] = Field(
        (), exclude=True, description="Rules of notification; a notebook's kernel has none."
    )

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [rule.name for rule in self.notify]
        if len(set(names)) < len(names):
            raise ValueError("two rules of [[notify]] have the same name")
        return self

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()  # a notebook runs in a folder of its own

    @field_validator("db", "models", "reports", mode="after")
    @classmethod
    def _anchor(cls, path: Path, info: object) -> Path:
        home = getattr(info, "data", {}).get("home", Path())
        anchored: Path = home / path.expanduser()
        return anchored

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where settings come from, what goes before first."""
        home = (env_settings() | init_settings()).get("home")
        file = TomlConfigSettingsSource(settings_cls, settings_file(home))
        return init_settings, env_settings, file

    def with_any_clock(self) -> Self:
        """The same, for a stream with a clock of its own: no time is refused as ahead of ours."""
        return self.model_copy(update={"future_minutes": 0.0})


def settings_file(home: object = None) -> Path:
    """The `aegis.toml` that is read: that of `home`, or without one there the checkout's.

    `home` is the folder that was named, by an argument or by AEGIS_HOME; None: none was.
    """
    own = (Path(str(home)).expanduser() if home else usual_home()) / "aegis.toml"
    return own if own.exists() or CHECKOUT is None else CHECKOUT / own.name


def secret(reference: str) -> str:
    """The value of a variable that a parameter refers to as `env:NAME`; anything else is itself.

    A run's ledger, its executed notebook and its report show the reference. Only the kernel asks
    for the value.

    Raises
    ------
    InputError : There is no such variable, or it is empty.

    >>> secret("http://127.0.0.1:8000")
    'http://127.0.0.1:8000'
    """
    if not reference.startswith(SECRET):
        return reference
    name = reference.removeprefix(SECRET)
    if not (value := os.environ.get(name, "")):
        raise InputError(f"The variable {name} is not set; {reference} refers to it.")
    return value


def load(**overrides: object) -> Settings:
    """Settings with `overrides` on top; a value of None or "" counts as not given.

    Raises
    ------
    InputError : A value is out of range, or `aegis.toml` is no TOML or has an unknown name.

    >>> load(alert_budget=0.01).alert_budget
    0.01
    """
    given = {k: v for k, v in overrides.items() if v not in (None, "")}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as e:
        problems = "; ".join(map(_problem, e.errors()))
        raise InputError(f"The settings are not usable: {problems}.") from None
    except SettingsError as e:
        raise InputError(
            f"The settings are not usable: {e}; a list in a variable is such as "
            """AEGIS_ENTITIES='["device_id", "ip"]'."""
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as e:
        file = settings_file(given.get("home") or os.environ.get("AEGIS_HOME"))
        raise InputError(f"{file} cannot be read: {e}. Mend it or move it away.") from None


def _problem(found: ErrorDetails) -> str:
    """What is wrong with a setting, in words."""
    place, wrong = found["loc"], found["msg"]
    if found["type"] == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {"schedule": Entry, "notify": NotifyRule}
        known = tables.get(str(place[0]), Settings).model_fields
        wrong = "there is no such setting." + did_you_mean(str(place[-1]), known)
        return f"{'.'.join(map(str, place))}: {wrong}".rstrip(".")
    if found["type"] == "tuple_type":
        wrong = 'write a list, such as ["run", "drift"]'
    # what stands in a rule of notification may be a password
    hidden = place[:1] in ((), ("notify",))
    told = "" if hidden else f" (got {found['input']!r})"
    return f"{'.'.join(map(str, place)) or 'aegis.toml'}: {wrong}{told}"
