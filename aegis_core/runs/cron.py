"""Cron expressions: when one is due in its time zone, also where the clock is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]

from aegis_core.errors import InputError

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LOOKED_BACK: Final = (timedelta(hours=2), timedelta(days=2), timedelta(days=40))
_LONGEST_SKIP: Final = timedelta(hours=3)
"""No clock skips more; most skip one hour, Troll in Antarctica two."""


class Trigger(CronTrigger):  # type: ignore[misc]
    """When a cron expression is due in its time zone, with cron's own rules for the clock change.

    A time that the clock skips is due as much later as it skips: 02:30 at 03:30, and 00:00 at 01:00
    where the clock is put forward at midnight. Of a time that comes twice, the first is due. Only
    where the hour is `*` the pace matters instead: each hour that passes has its time.

    Parameters
    ----------
    cron : minute, hour, day of month, month, weekday; 0 and 7 are Sunday.

    Raises
    ------
    InputError
        The expression or the time zone cannot be read.
    """

    def __init__(self, cron: str, timezone: str = "UTC") -> None:
        fields = cron.split()
        try:
            zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InputError(
                f"There is no time zone {timezone!r}; write one such as Europe/Berlin, or UTC."
            ) from None
        try:
            if len(fields) != 5:
                raise ValueError(f"it has {len(fields)} fields, and five are needed")
            if "*" not in (fields[2][0], fields[4][0]):
                raise ValueError(
                    "give a day of the month or a weekday; for both, write two entries"
                )
            names = ("minute", "hour", "day", "month", "day_of_week")
            given = dict(zip(names, [*fields[:4], weekdays(fields[4])], strict=True))
            super().__init__(**given, timezone=zone)
            self._wall = CronTrigger(**given, timezone=UTC)  # of a clock that is never changed
        except (ValueError, TypeError) as e:
            raise InputError(
                f"{cron!r} is no cron expression: {e}. Write minute, hour, day of month, month and "
                "weekday, such as '30 2 * * 1-5'."
            ) from None
        self.by_the_hour = fields[1] in ("*", "*/1")

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """The first time that is due after `previous_fire_time`, or else from `now` on."""
        begin = (previous_fire_time or now).astimezone(UTC)
        for due in self._by_the_wall(begin):
            if due > begin or (previous_fire_time is None and due == begin):
                return due.astimezone(self.timezone)
        return None

    def _by_the_wall(self, begin: datetime) -> Iterator[datetime]:
        """Times (UTC) that are due, from somewhat before `begin` on: each once, in their order.

        Stepping on the clock itself, as APScheduler does, steps over what it skips.
        """
        at = self._shown(begin) - _LONGEST_SKIP
        found: set[datetime] = set()
        while (at := self._wall.get_next_fire_time(at, at)) is not None:
            first, second = (
                at.replace(tzinfo=self.timezone, fold=fold).astimezone(UTC) for fold in (0, 1)
            )
            found.add(first)
            if self.by_the_hour and second > first:  # the clock shows it twice
                found.add(second)
            # what is skipped or shown again comes after times that the clock shows later
            ready = {due for due in found if due <= first and self._shown(due) <= at}
            found -= ready
            yield from sorted(ready)
        yield from sorted(found)

    def _shown(self, moment: datetime) -> datetime:
        """What the clock shows, as if it were UTC."""
        return moment.astimezone(self.timezone).replace(tzinfo=UTC, fold=0)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All times (UTC) that are due after `moment`."""
        yield from (due for due in self._by_the_wall(moment) if due > moment)

    def latest(self, since: datetime, now: datetime) -> datetime | None:
        """The last time (UTC) that was due after `since` and until `now`, or None."""
        for back in (*_LOOKED_BACK, now - since):
            last = None
            for due in self.after(max(since, now - back)):
                if due > now:
                    break
                last = due
            if last is not None or now - back <= since:
                return last
        return None


def weekdays(field: str) -> str:
    """A weekday field of crontab as names, since APScheduler counts from Monday.

    >>> weekdays("1-5"), weekdays("0,6"), weekdays("5-7"), weekdays("*/2"), weekdays("*")
    ('mon,tue,wed,thu,fri', 'sun,sat', 'fri,sat,sun', 'sun,tue,thu,sat', '*')
    >>> weekdays("mon-wed")
    'mon,tue,wed'
    """
    if field == "*":
        return "*"
    found: list[str] = []
    for part in field.lower().split(","):
        matched = re.fullmatch(r"(\*|[a-z]{3}|[0-7])(?:-([a-z]{3}|[0-7]))?(?:/([1-7]))?", part)
        if matched is None:
            raise ValueError(f"{part!r} is no weekday")
        first, last, step = matched.groups()
        start = 0 if first == "*" else _day(first)
        end = 6 if first == "*" else _day(last) if last else start
        end += 7 if end < start else 0
        found += [_DAYS[day % 7] for day in range(start, end + 1, int(step or 1))]
    return ",".join(dict.fromkeys(found))


def _day(text: str) -> int:
    if text not in _DAYS and not text.isdigit():
        raise ValueError(f"{text!r} is no weekday")
    return int(text) if text.isdigit() else _DAYS.index(text)
