"""What the clock said where somebody paid: time zones of places, and their offsets.

By Python's `zoneinfo` and its data, which is newer than what databases bring.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final
from zoneinfo import TZPATH, ZoneInfo, available_timezones

from aegis_core.schema import EPOCH

CELLS_A_DEGREE: Final = 20
"""Places of one cell, about 5 km high, have one zone."""
STEP_US: Final = 900_000_000
"""A quarter of an hour: no zone changes its offset within one, nor is away from one by another."""
_OFFSET: Final = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?")


@lru_cache(200_000)
def zone_at(lat: int, lon: int) -> str | None:
    """The time zone of a cell, by the number of the cell; None where nobody has a clock.

    >>> zone_at(713, 2793), zone_at(814, -1480)  # Tokyo, New York
    ('Asia/Tokyo', 'America/New_York')
    """
    from tzfpy import get_tz

    return get_tz((lon + 0.5) / CELLS_A_DEGREE, (lat + 0.5) / CELLS_A_DEGREE) or None


def cell(degrees: float) -> int:
    """The number of the cell that a latitude or longitude lies in."""
    return math.floor(degrees * CELLS_A_DEGREE)


@lru_cache(100_000)
def offset_min(zone: str, step: int) -> int:
    """Minutes that a zone is ahead of UTC in a step of `STEP_US` since 1970.

    >>> day = 96 * 20_600  # 2026-05-27
    >>> offset_min("Europe/Berlin", day), offset_min("+05:30", day), offset_min("-03", day)
    (120, 330, -180)
    """
    if fixed := _OFFSET.fullmatch(zone):
        sign, hours, minutes = fixed.groups()
        return (-1 if sign == "-" else 1) * (60 * int(hours) + int(minutes or 0))
    moment = EPOCH + dt.timedelta(microseconds=step * STEP_US)
    offset = moment.astimezone(_zone(zone)).utcoffset() or dt.timedelta()
    return round(offset.total_seconds() / 60)


def moves(zone: str | None) -> bool:
    """Whether the offset of a zone may be another one at another time.

    >>> moves("Europe/Berlin"), moves("+05:30"), moves("UTC"), moves(None)
    (True, False, False, False)
    """
    return zone not in (None, "UTC") and not _OFFSET.fullmatch(zone)


_zone = cache(ZoneInfo)  # its own cache forgets at once what nobody holds


@lru_cache(10_000)
def zone_of(text: str) -> str | None:
    """The time zone that a text names in any case, or an offset from UTC; None where it is neither.

    >>> zone_of("asia/tokyo"), zone_of("+09:00"), zone_of("nowhere"), zone_of("+99:00")
    ('Asia/Tokyo', '+09:00', None, None)
    """
    if fixed := _OFFSET.fullmatch(text):
        return text if int(fixed[2]) < 15 and int(fixed[3] or 0) < 60 else None
    return _zones().get(text.casefold())


@cache
def _zones() -> dict[str, str]:
    return {name.casefold(): name for name in available_timezones()}


def sent(minutes: int) -> str:
    """The offset of a time that was sent, as the name of a zone.

    >>> sent(330), sent(-180)
    ('+05:30', '-03:00')
    """
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def of_day(hour: float, zone: str | None) -> str:
    """The time of a day in hours, with where that is.

    >>> of_day(3.2, "Asia/Tokyo"), of_day(21.5, "+05:30"), of_day(0.0, None)
    ('03:12 in Tokyo', '21:30 at +05:30', '00:00 UTC')
    """
    minutes = int(hour * 60 + 1e-6) % 1440  # rounding may leave a whole minute just below
    told = f"{minutes // 60:02d}:{minutes % 60:02d}"
    if not zone or zone in ("UTC", "Etc/UTC"):
        return f"{told} UTC"
    if zone[0] in "+-" or zone.startswith("Etc/"):
        return f"{told} at {zone}"
    return f"{told} in {zone.rpartition('/')[2].replace('_', ' ')}"


def data() -> str:
    """Which time zone data is used: that of the system, or else of the package `tzdata`."""
    for folder in TZPATH:
        for name in ("tzdata.zi", "+VERSION", "version"):
            path = Path(folder) / name
            if path.exists():
                first = path.read_text("utf-8", "replace").splitlines()[:1]
                return f"{''.join(first).removeprefix('# version ').strip()} ({folder})"
        if Path(folder, "UTC").exists():
            return f"of the system, its version untold ({folder})"
    return f"{metadata.version('tzdata')} (package tzdata)"
