"""One frozen settings object: defaults, then `aegis.toml`, then `AEGIS_*` variables.

Read once by the command line or at the top of a notebook and passed down; nothing else reads the
environment. Relative paths count from `home`, never from the caller's folder.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from aegis_core.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[1]


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
    analyst: str = Field("", description="Who answers on the review page; else it asks.")
    review_token: SecretStr = Field(
        SecretStr(""), description="What lets analysts in to the review page; else made anew."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.")

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
