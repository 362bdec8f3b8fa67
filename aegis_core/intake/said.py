"""What somebody says of a file: its columns, the forms of its times and numbers, its words.

It is kept in a small TOML file, so that the next one is read alike.
"""

from __future__ import annotations

import datetime as dt
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from aegis_core.errors import InputError, did_you_mean
from aegis_core.machine import written_whole

UNITS: Final = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000,
                "d": 86_400_000_000}  # fmt: skip
"""Units of a time that counts from some moment, in microseconds."""
ENCODINGS: Final = ("utf-8", "latin-1", "utf-16")


@dataclass(frozen=True)
class Said:
    """What somebody says of the forms of a file; "" leaves it to the columns themselves.

    Attributes
    ----------
    time_format : as of `strptime`, such as `%d.%m.%Y %H:%M`.
    time_from, time_unit : the moment that times count from, in ISO 8601, and a key of `UNITS`.
    timezone : of times without an offset: a zone, or the column that names one.
    decimal : the sign before the decimals of a number, `.` or `,`.
    minor_units : whether amounts are in cents, or what their currency has instead.
    encoding : of a text, `utf-8`, `latin-1` or `utf-16`.
    skip : how many lines of a text stand before the names of its columns; 0 leaves it to be found.
    """

    time_format: str = ""
    time_from: str = ""
    time_unit: str = ""
    timezone: str = ""
    decimal: str = ""
    minor_units: bool = False
    encoding: str = ""
    skip: int = 0

    def __post_init__(self) -> None:
        if self.time_unit and self.time_unit not in UNITS:
            raise InputError(f"A time counts in {', '.join(UNITS)}, not in {self.time_unit!r}.")
        if self.time_unit and not self.time_from:
            raise InputError(
                f"Times that count in {self.time_unit} count from some moment: name it too, such "
                "as --time-from 2026-01-01."
            )
        if self.decimal not in ("", ".", ","):
            raise InputError(f"--decimal is '.' or ',', not {self.decimal!r}.")
        if self.encoding not in ("", *ENCODINGS):
            raise InputError(
                f"There is no encoding {self.encoding!r}; there are {', '.join(ENCODINGS)}."
                + did_you_mean(self.encoding, ENCODINGS)
            )
        if self.skip < 0:
            raise InputError("--skip is a number of lines.")
        if self.time_from:
            try:
                self.origin()
            except ValueError as e:
                raise InputError(
                    f"--time-from {self.time_from}: a moment such as 2026-01-01."
                ) from e

    def options(self, *, but: tuple[str, ...] = ()) -> list[str]:
        """The options that say something, such as `--decimal`, but for those of some attributes."""
        said = (name for name, value in asdict(self).items() if value and name not in but)
        return [f"--{name.replace('_', '-')}" for name in said]

    def origin(self) -> dt.datetime:
        """The moment that times count from, in UTC."""
        moment = dt.datetime.fromisoformat(self.time_from)
        return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment

    def unless(self, other: Said) -> Said:
        """What `other` says, and what is said here of all else."""
        told = {name: value for name, value in vars(other).items() if value}
        if "time_format" in told:
            told = {"time_from": "", "time_unit": ""} | told
        return replace(self, **told)


PLAIN: Final = Said()
"""Nothing is said: the columns tell."""


@dataclass(frozen=True)
class Kept:
    """What was said of a file: a preset, which column is which, words of labels, forms."""

    preset: str | None
    mapping: Mapping[str, str]
    words: Mapping[str, str]
    said: Said

    def unless(self, other: Kept) -> Kept:
        """What `other` says, and what is kept here of all else."""
        return Kept(
            other.preset or self.preset,
            {**self.mapping, **other.mapping},
            {**self.words, **other.words},
            self.said.unless(other.said),
        )


def write(path: Path, kept: Kept) -> None:
    """Write it as TOML; what was there is replaced."""
    tables = {
        "forms": {name: value for name, value in asdict(kept.said).items() if value},
        "map": kept.mapping,
        "words": kept.words,
    }
    lines = [f"preset = {json.dumps(kept.preset)}"] if kept.preset else []
    for table, of in tables.items():
        if of:
            lines += [f"[{table}]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in of.items())]
    with written_whole(path) as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path: Path) -> Kept:
    """Read what `write` wrote.

    Raises
    ------
    InputError : It is not there, or not such a file.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        preset, said = content.pop("preset", None), content.pop("forms", {})
        mapping, words = content.pop("map", {}), content.pop("words", {})
        known = [field.name for field in fields(Said)]
        if strange := [*content, *(name for name in said if name not in known)]:
            raise ValueError(f"{strange[0]!r} is not known there")
        return Kept(preset, mapping, words, Said(**said))
    except (OSError, ValueError, TypeError) as e:
        raise InputError(f"{path} is no file that --save-as wrote: {e}.") from e
