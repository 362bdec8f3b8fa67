"""In which form a column has its times, and when they were: by a form, an origin, a zone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from aegis_core.errors import ColumnError, did_you_mean
from aegis_core.intake.said import UNITS, Said
from aegis_core.intake.samples import MOST, Column, Form
from aegis_core.schema import DAY_US, EPOCH
from aegis_core.store.connection import literal, quoted
from aegis_core.units.clocks import STEP_US, offset_min, zone_of

_CLOCK = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")


def _written(*dates: str) -> tuple[str, ...]:
    return tuple(date + time for date in dates for time in _CLOCK)


_DIGITS: Final = {
    "YYYYMMDDhhmmss": ("%Y%m%d%H%M%S", 14),
    "YYYYMMDDhhmm": ("%Y%m%d%H%M", 12),
    "YYYYMMDD": ("%Y%m%d", 8),
    "YYMMDD": ("%y%m%d", 6),
    "MMDDhhmmss": ("%m%d%H%M%S", 10),
}
"""Calendar times of digits alone; the last has no year."""
_WRITTEN: Final = {
    "dd/mm/yyyy": _written(*(f"%d{s}%m{s}%{y}" for s in "/.-" for y in "yY")),
    "mm/dd/yyyy": _written(*(f"%m{s}%d{s}%{y}" for s in "/-" for y in "yY")),
    "dd Mon yyyy": _written("%d %b %Y", "%d-%b-%y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y"),
}
_SERIAL: Final = "a spreadsheet's number of days"
_NO_YEAR: Final = "MMDDhhmmss"
# Those that mean one thing: BST, CST and IST do not.
_ABBREVIATED: Final = {
    "UTC": 0, "GMT": 0, "Z": 0, "WET": 0, "WEST": 60, "CET": 60, "CEST": 120, "EET": 120,
    "EEST": 180, "MSK": 180, "EST": -300, "EDT": -240, "CDT": -300, "MST": -420, "MDT": -360,
    "PST": -480, "PDT": -420, "AKST": -540, "AKDT": -480, "HST": -600, "JST": 540, "KST": 540,
    "HKT": 480, "AEST": 600, "AEDT": 660, "NZST": 720, "NZDT": 780, "SAST": 120, "BRT": -180,
}  # fmt: skip


_OWN: Final = "(:[0-9:.,]+) ?([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$"
"""An offset at the end of a time, after what it belongs to."""


def _strptime(text: str, formats: Sequence[str]) -> str:
    return f"try_strptime({text}, [{', '.join(map(literal, formats))}])"


def _is_time(formats: Sequence[str]) -> str:
    """The condition that a text `t` is a time in one of `formats`, between 1970 and 2100."""
    return f"year({_strptime('t', formats)}) BETWEEN {EPOCH.year} AND 2099"


def _is_written(formats: Sequence[str]) -> str:
    """`_is_time`, which tries those formats alone whose signs the text has: the faster way."""
    by_signs: dict[str, list[str]] = {}
    for form in formats:
        half, n_colons = "" if "%p" in form else "NOT ", form.count(":")
        signs = f"{half}regexp_matches(t, '[APap][Mm]$') AND contains(t, '{form[2]}')"
        signs += f" AND length(t) - length(replace(t, ':', '')) = {n_colons}"
        by_signs.setdefault(signs, []).append(form)
    # CASE, since AND would try the formats all the same
    return " OR ".join(f"CASE WHEN {c} THEN {_is_time(some)} END" for c, some in by_signs.items())


def _days(text: str) -> str:
    return f"TRY_CAST(replace({text}, ',', '.') AS DOUBLE)"


def _candidates(number: bool) -> dict[str, str]:
    """For each form of a time the condition on a text `t` that it is in that."""
    digits = {
        name: f"length(t) = {length} AND {_is_time([form])}"
        for name, (form, length) in _DIGITS.items()
        if name != _NO_YEAR
    }
    digits[_NO_YEAR] = "length(t) = 10 AND try_strptime('2024' || t, '%Y%m%d%H%M%S') IS NOT NULL"
    digits[_SERIAL] = (
        f"regexp_full_match(t, '[0-9]{{5}}([.,][0-9]+)?') AND {_days('t')} BETWEEN 20000 AND 80000"
    )
    if number:
        return digits
    return digits | {name: _is_written(formats) for name, formats in _WRITTEN.items()}


def time_form(
    column: Column, names: Sequence[str], said: Said, *, number: bool, typed: bool
) -> Form | None:
    """The form of a column of times; None where `staging` reads it as it stands.

    Parameters
    ----------
    names : the columns of the file, one of which may be named for the zone.
    said : what is said of times; `number` and `typed` tell of what type they are.

    Raises
    ------
    ColumnError : The column fits no form, or more than one; how to say which.
    """
    text, form = column.text, None
    if said.time_format:
        if not column.counts({"fits": _is_time([said.time_format])})["fits"]:
            raise ColumnError(
                f"No {column.canonical} is of the form {said.time_format}: {column.told} has "
                f"{column.some()}."
            )
        dated = "false" if re.search("%[HIcTX]", said.time_format) else "true"
        form = Form(said.time_format, text, value=_strptime(text, [said.time_format]), dated=dated)
    elif said.time_unit:
        count = f"round(TRY_CAST({text} AS DOUBLE) * {UNITS[said.time_unit]})"
        at = f"TIMESTAMP '{said.origin()}' + to_microseconds(TRY_CAST({count} AS BIGINT))"
        dated = str(said.time_unit == "d").lower()
        form = Form(f"{said.time_unit} since {said.time_from}", text, value=at, dated=dated)
    elif not typed and (name := _name(column, number)):
        form = _known_form(column, name, said)
    if not said.timezone:
        return form
    if form is None:  # ISO 8601, or typed
        plain = rf"regexp_replace({text}, '{_OWN}', '\1')"
        dated = f"regexp_full_match({text}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}')"
        form = Form("ISO 8601", text, value=f"TRY_CAST({plain} AS TIMESTAMP)", dated=dated)
    ahead, zone = _ahead(column, form.value, names, said.timezone)
    own = f"WHEN regexp_matches({text}, '{_OWN}') THEN {own_offset(text)} ELSE {ahead}"
    own = f"CASE WHEN {form.dated} THEN 0 {own} END"  # a date is that of the place
    return replace(form, name=f"{form.name} in {zone}", ahead=own)


def _known_form(column: Column, name: str, said: Said) -> Form:
    text = column.text
    if name == _NO_YEAR:
        return Form(name, text, value=_in_the_year(column, said))
    if name == _SERIAL:
        seconds = f"round({_days(text)} * 86400)::BIGINT"
        at = f"TIMESTAMP '1899-12-30' + to_seconds({seconds})"
        return Form(name, text, value=at, dated=f"NOT regexp_matches({text}, '[.,]')")
    if name in _DIGITS:
        form, _ = _DIGITS[name]
        return Form(name, text, value=_strptime(text, [form]), dated=str("%H" not in form).lower())
    # those that are there first: the others are tried where none of them fits
    counted = column.counts({form: _is_written([form]) for form in _WRITTEN[name]})
    forms = sorted(_WRITTEN[name], key=lambda form: -counted[form])
    return Form(name, text, value=_strptime(text, forms), dated=f"NOT contains({text}, ':')")


def own_offset(text: str) -> str:
    """SQL for the minutes that a time says it is ahead of UTC, 0 where it says nothing.

    DuckDB takes an offset of no minutes, and one without a colon.
    """
    sign, hours, minutes = (
        rf"regexp_extract({text}, ':[0-9:.,]+ ?([+-])([0-9]{{2}}):?([0-9]{{2}})?$', {n})"
        for n in (1, 2, 3)
    )
    hours, minutes = (f"coalesce(TRY_CAST({part} AS INTEGER), 0)" for part in (hours, minutes))
    return f"({hours} * 60 + {minutes}) * if({sign} = '-', -1, 1)"


def _name(column: Column, number: bool) -> str:
    """The form that the whole column is in; "" for ISO 8601 and Unix time, which need none."""
    forms = _candidates(number)
    usual = {
        "iso": "regexp_matches(t, '^[0-9]{4}[-/][0-9]{1,2}[-/]')",
        "unix": r"regexp_full_match(t, '[0-9]{9,19}(\.[0-9]+)?')",
    }
    counted = column.counts(forms | usual)
    n, iso, unix = (counted.pop(k) for k in ("n", "iso", "unix"))
    if not n or iso >= MOST * n:
        return ""
    fits = [name for name in forms if counted[name] >= MOST * n]
    if unix >= MOST * n:  # digits that are a calendar time in every row are one
        fits = [name for name in fits if counted[name] == n]
    if len(fits) > 1:
        counted = column.counts({name: forms[name] for name in fits}, few=False)
        fits = [name for name in fits if counted[name] == max(counted[f] for f in fits)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        readings = " or ".join(f"{name} (--time-format '{_WRITTEN[name][0]}')" for name in fits)
        raise ColumnError(
            f"All of {column.canonical}, such as {column.some()}, could be {readings}. "
            "Say which: with the time of day where there is one, such as '%d/%m/%Y %H:%M'."
        )
    if iso or unix or max(counted.values()):
        best = max(counted, key=lambda name: counted[name])
        return best if counted[best] > max(iso, unix) else ""
    few = column.some()
    numbers = column.counts({"fits": "TRY_CAST(t AS DOUBLE) IS NOT NULL"})["fits"]
    raise ColumnError(
        f"{column.canonical} ({column.told}) is no time in any known form: {few}. "
        + (
            "If it counts from some moment, say so: --time-from 2026-01-01 --time-unit h."
            if numbers >= MOST * n
            else "Say its form, such as --time-format '%d.%m.%Y %H:%M', or name another column "
            f"with --map {column.canonical}=COLUMN."
        )
    )


def _in_the_year(column: Column, said: Said) -> str:
    if not said.time_from:
        raise ColumnError(
            f"{column.canonical} has no year: {column.some()} read as {_NO_YEAR}. Say from when "
            "they are, such as --time-from 2026-01-01."
        )
    origin, text = said.origin(), column.text
    years = (origin.year, origin.year + 1)
    this, next_ = (f"try_strptime('{year}' || {text}, '%Y%m%d%H%M%S')" for year in years)
    return f"CASE WHEN {this} >= TIMESTAMP '{origin}' THEN {this} ELSE {next_} END"


def _ahead(column: Column, at: str, names: Sequence[str], zone: str) -> tuple[str, str]:
    """SQL for the minutes that a local time `at` is ahead of UTC, and what says so."""
    if known := zone_of(zone):
        return _of_zone(column, at, known, "true"), known
    if zone not in names:
        raise ColumnError(
            f"--timezone {zone} is neither a time zone, such as Europe/Berlin, nor a column."
            + did_you_mean(zone, names)
        )
    told = f'trim("aegis row".{quoted(zone)}::VARCHAR)'
    rows = column.sample.session.rows(
        f"SELECT DISTINCT {told} AS z FROM {column.sample.table} LIMIT 1000"
    )
    cases = []
    for text in sorted(str(row["z"]) for row in rows if row["z"]):
        if (minutes := _ABBREVIATED.get(text.upper())) is not None:
            offset = str(minutes)
        elif known := zone_of(text):
            offset = _of_zone(column, at, known, f"{told} = {literal(text)}")
        else:
            raise ColumnError(
                f"{zone} says {text!r}, which is no time zone or means several. Say one for all "
                "with --timezone, such as --timezone Asia/Kolkata."
            )
        cases.append(f"WHEN {told} = {literal(text)} THEN {offset}")
    return f"CASE {' '.join(cases)} END" if cases else "0", f"the zone of {zone}"


def _of_zone(column: Column, at: str, zone: str, where: str) -> str:
    """SQL for the minutes ahead of local times in a zone, of those that come twice the first."""
    (span,) = column.sample.session.rows(
        f"SELECT epoch_us(min({at})) AS a, epoch_us(max({at})) AS b FROM {column.sample.table} "
        f"WHERE {where}"
    )
    day = DAY_US // STEP_US
    step, last = ((span[k] or 0) // STEP_US + days for k, days in (("a", -day), ("b", day)))
    ahead, cases = offset_min(zone, step), ""
    while step <= last:
        if offset_min(zone, step + day) == ahead:
            step += day
            continue
        while offset_min(zone, step) == ahead:
            step += 1
        before, ahead = ahead, offset_min(zone, step)
        until = step * STEP_US + max(before, ahead) * 60_000_000
        cases += f"WHEN {at} < make_timestamp({until}) THEN {before} "
    return f"CASE {cases} ELSE {ahead} END" if cases else str(ahead)
