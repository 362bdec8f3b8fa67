"""One frozen settings object: defaults, then `aegis.toml`, then `AEGIS_*` variables.

Read once by the command line or at the top of a notebook and passed down; nothing else reads the
environment. Relative paths count from `home`, never from the caller's folder.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from aegis_core.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[1]
SECRET: Final = "env:"
"""How a parameter begins that names a variable of the environment instead of a value."""


class Entry(BaseModel):
    """One line of the schedule, `[schedule.NAME]` in `aegis.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str = Field(description="Minute, hour, day of month, month, weekday; as in crontab.")
    timezone: str = Field("UTC", description="Time zone of `cron`, such as Europe/Berlin.")
    notebook: str = Field("", description="The notebook to run.")
    verify: str = Field("", description="Instead: the notebook whose last run is verified.")
    parameters: dict[str, bool | int | float | str] = Field({}, description="Of the notebook.")
    timeout: float | None = Field(None, gt=0, description="Seconds that an attempt may take.")
    retries: int = Field(0, ge=0, le=20, description="Further attempts after a failure.")
    backoff: float = Field(30.0, ge=0, description="Seconds before the first retry; then doubled.")
    on_overlap: Literal["skip", "wait", "fail"] = Field(
        "wait", description="When the same notebook is still running."
    )


class Settings(BaseSettings):
    """Where things are, and the few numbers that people change.

    `AEGIS_DB=/mnt/fraud.duckdb` or a line `db = "fraud.duckdb"` in `aegis.toml` changes the
    database everywhere.
    """

    model_config = SettingsConfigDict(
        env_prefix="AEGIS_", frozen=True, extra="forbid", toml_file=CHECKOUT / "aegis.toml"
    )

    home: Path = Field(CHECKOUT, description="Folder that relative paths count from.")
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
    label_delay_days: float = Field(7.0, ge=0, description="Days until a fraud is known.")
    token: SecretStr = Field(
        SecretStr(""), description="What requests to the service bring; else of a file it makes."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    keep_runs: int = Field(
        0, ge=0, description="Runs whose reports are kept; 0 for all. The ledger keeps its rows."
    )
    keep_days: float = Field(0.0, ge=0, description="Days that reports are kept; 0 for ever.")
    schedule: dict[str, Entry] = Field(
        {}, description="What `aegis schedule run` starts, and when."
    )

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()  # a notebook runs in a folder of its own

    @field_validator("db", "models", "reports", mode="after")
    @classmethod
    def _anchor(cls, path: Path, info: object) -> Path:
        home = getattr(info, "data", {}).get("home", CHECKOUT)
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
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def secret(reference: str) -> str:
    """The value of a variable that a parameter refers to as `env:NAME`; anything else is itself.

    A run's ledger, its executed notebook and its report show the reference. Only the kernel asks
    for the value.

    Raises
    ------
    InputError
        There is no such variable, or it is empty.

    >>> secret("http://127.0.0.1:8000")
    'http://127.0.0.1:8000'
    """
    if not reference.startswith(SECRET):
        return reference
    name = reference.removeprefix(SECRET)
    if not (value := os.environ.get(name, "")):
        raise InputError(f"There is no variable {name} in the environment, or it is empty.")
    return value


def load(**overrides: object) -> Settings:
    """Settings with `overrides` on top; a value of None or "" counts as not given.

    Raises
    ------
    InputError
        A value is out of range, or `aegis.toml` is no TOML or has an unknown name.

    >>> load(alert_budget=0.01).alert_budget
    0.01
    """
    given = {k: v for k, v in overrides.items() if v not in (None, "")}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as e:
        problems = "; ".join(
            f"{'.'.join(map(str, d['loc']))}: {d['msg']} (got {d['input']!r})" for d in e.errors()
        )
        raise InputError(f"The settings are not usable: {problems}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as e:
        raise InputError(f"aegis.toml cannot be read: {e}. Mend it or move it away.") from None
