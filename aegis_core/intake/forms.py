"""In which form a file has its times, numbers and ids: told by the whole column, never by a row.

`07.03.2026` and `2.336` each mean two things, and one row does not tell which. Where every row of a
column fits two forms, the file is refused with both readings, until somebody says which it is
(`Said`). Out comes, for each column that is not in the plain form which `staging` reads, the SQL of
its text in that form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aegis_core.errors import ColumnError, did_you_mean
from aegis_core.intake.columns import FILE_COLUMNS, parts
from aegis_core.intake.presets import Words
from aegis_core.intake.said import PLAIN, UNITS, Said
from aegis_core.schema import DAY_US, EPOCH, NUMBER, TEXT, TIME
from aegis_core.store.connection import literal, quoted
from aegis_core.store.session import Session
from aegis_core.units.clocks import STEP_US, offset_min, zone_of

NO_WORDS: Final[Words] = {}
_SAMPLE: Final = 20_000
"""So many rows tell the form, where they leave no doubt; else all do."""
_MOST: Final = 0.98
"""A form fits a column that so many of its values are in: the others are bad rows."""

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


def _bare(text: str) -> str:
    """SQL for a number without currency, blanks and brackets; a sign behind it stands before."""
    beside = r"[\s\x{a0}\x{202f}''’]|[$€£¥₹]|^[A-Z]{3}|[A-Z]{3}$"
    bare = f"regexp_replace({text}, '{beside}', '', 'g')"
    return rf"regexp_replace({bare}, '^\((.*)\)$|^(.*[0-9])-$', '-\1\2')"


def _sure(decimal: str, group: str) -> str:
    """The condition that a number leaves no doubt which sign stands before its decimals."""
    whole = rf"[0-9]{{1,3}}({group}[0-9]{{3}})"
    forms = (
        rf"([0-9]+|{whole}+){decimal}([0-9]{{0,2}}|[0-9]{{4,}})",
        rf"{whole}+{decimal}[0-9]{{3}}",
        rf"{whole}{{2,}}",
        rf"(0|[0-9]{{4,}}){decimal}[0-9]{{3}}",
    )
    return f"regexp_full_match(b, '[+-]?({'|'.join(forms)})')"


_NUMBERS: Final = {
    "plain": r"regexp_full_match(t, '[+-]?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?')",
    "point": _sure(r"\.", ","),
    "comma": _sure(",", r"\."),
    "either": "regexp_full_match(b, '[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}')",
}
"""Conditions on the values of a column of numbers, by what they tell of its form."""
_OWN: Final = "(:[0-9:.,]+) ?([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$"
"""An offset at the end of a time, after what it belongs to."""


@dataclass(frozen=True)
class Form:
    """How a column is read.

    Attributes
    ----------
    name : for people.
    text : SQL of its text, in the plain form where there is no `value`.
    value : SQL of a number, or of what the clock said at a time; null where it is none.
    ahead : of a time, SQL of the minutes that the clock was ahead of UTC.
    dated : of a time, SQL for whether it is a date without a time of day.
    """

    name: str
    text: str
    value: str = ""
    ahead: str = "0"
    dated: str = "false"


@dataclass(frozen=True)
class _Column:
    """A column of a file, or several that are read as one."""

    session: Session
    table: str
    canonical: str
    told: str
    text: str

    def counts(self, conditions: Mapping[str, str], few: bool = True) -> dict[str, Any]:
        """How many values there are, `n`, and how many fulfil each condition.

        A condition is on the text `t`, or on that of a number without what surrounds it, `b`.
        """
        rows = f"(SELECT {self.text} AS t FROM {self.table}{f' LIMIT {_SAMPLE}' * few})"
        rows = f"(SELECT t, {_bare('t')} AS b FROM {rows})"
        asked = ", ".join(f"count(*) FILTER ({c}) AS {quoted(k)}" for k, c in conditions.items())
        comma = ", " if asked else ""
        return dict(
            self.session.rows(
                f"SELECT count(*) AS n{comma}{asked} FROM {rows} WHERE t IS NOT NULL"
            )[0]
        )

    def some(self, condition: str = "true") -> str:
        """A few different values that fulfil a condition, to be shown."""
        rows = f"(SELECT {self.text} AS t FROM {self.table} LIMIT {_SAMPLE})"
        found = self.session.rows(
            f"SELECT DISTINCT t FROM (SELECT t, {_bare('t')} AS b FROM {rows}) "
            f"WHERE t IS NOT NULL AND {condition} ORDER BY t LIMIT 3"
        )
        return ", ".join(str(row["t"])[:40] for row in found)


def forms_of(
    session: Session,
    relation: str,
    names: Sequence[str],
    kinds: Mapping[str, str],
    columns: Mapping[str, str],
    said: Said = PLAIN,
    words: Words = NO_WORDS,
) -> dict[str, Form]:
    """The form of each canonical column that `staging` cannot read as it stands.

    Parameters
    ----------
    relation, names, kinds : the SQL of the file, its columns and their types.
    columns : canonical name → column of the file, or several that are joined.
    words : of a canonical name, what words mean in this file.

    Raises
    ------
    ColumnError : A column fits no form, or more than one; how to say which.
    """
    table = f'{relation} AS "aegis row"({", ".join(map(quoted, names))})'
    found = {}
    for canonical, column in columns.items():
        wanted, of = FILE_COLUMNS[canonical], parts(column, names)
        number = len(of) == 1 and kinds[of[0]] not in ("VARCHAR", "BLOB")
        text = _text(of, " " if wanted.kind == TIME else "/")
        asked = _Column(session, table, canonical, column, text)
        form = None
        if wanted.kind == TIME:
            told = said if canonical == "ts" else PLAIN
            form = _time(asked, names, told, number=number, typed=_typed(kinds, of))
        elif wanted.kind == NUMBER and len(of) == 2:
            form = _less(asked, of, said)
        elif wanted.kind == NUMBER and not number:
            form = _number(asked, said)
        elif wanted.kind == TEXT and not number:
            form = _quoted(asked)
        if mean := words.get(canonical):
            cases = " ".join(f"WHEN {literal(w)} THEN {literal(m)}" for w, m in mean.items())
            form = Form("own words", f"CASE {text} {cases} ELSE {text} END")
        if form is None and len(of) > 1:
            form = Form("together", text)
        if canonical == "amount" and said.minor_units:
            form = _minor(asked, form, columns.get("currency"), names)
        if form is not None:
            found[canonical] = form
    return found


def _text(of: Sequence[str], between: str) -> str:
    """SQL of the text of one column or of several joined, null where one is missing."""
    each = [f"nullif(trim(\"aegis row\".{quoted(name)}::VARCHAR), '')" for name in of]
    return f" || {literal(between)} || ".join(each) if len(each) > 1 else each[0]


def _typed(kinds: Mapping[str, str], of: Sequence[str]) -> bool:
    return len(of) == 1 and kinds[of[0]].startswith(("TIMESTAMP", "DATE"))


def _strptime(text: str, formats: Sequence[str]) -> str:
    return f"try_strptime({text}, [{', '.join(map(literal, formats))}])"


def _is_time(formats: Sequence[str]) -> str:
    """The condition that a text `t` is a time in one of `formats`, between 1970 and 2100."""
    return f"year({_strptime('t', formats)}) BETWEEN {EPOCH.year} AND 2099"


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
    return digits | {name: _is_time(formats) for name, formats in _WRITTEN.items()}


def _time(
    column: _Column, names: Sequence[str], said: Said, *, number: bool, typed: bool
) -> Form | None:
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
    elif not typed and (name := _time_name(column, number)):
        form = _time_form(column, name, said)
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


def _time_form(column: _Column, name: str, said: Said) -> Form:
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
    counted = column.counts({form: _is_time([form]) for form in _WRITTEN[name]})
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


def _time_name(column: _Column, number: bool) -> str:
    """The form that the whole column is in; "" for ISO 8601 and Unix time, which need none."""
    forms = _candidates(number)
    usual = {
        "iso": "regexp_matches(t, '^[0-9]{4}[-/][0-9]{1,2}[-/]')",
        "unix": r"regexp_full_match(t, '[0-9]{9,19}(\.[0-9]+)?')",
    }
    counted = column.counts(forms | usual)
    n, iso, unix = (counted.pop(k) for k in ("n", "iso", "unix"))
    if not n or iso >= _MOST * n:
        return ""
    fits = [name for name in forms if counted[name] >= _MOST * n]
    if unix >= _MOST * n:  # digits that are a calendar time in every row are one
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
            if numbers >= _MOST * n
            else "Say its form, such as --time-format '%d.%m.%Y %H:%M', or name another column "
            f"with --map {column.canonical}=COLUMN."
        )
    )


def _in_the_year(column: _Column, said: Said) -> str:
    if not said.time_from:
        raise ColumnError(
            f"{column.canonical} has no year: {column.some()} read as {_NO_YEAR}. Say from when "
            "they are, such as --time-from 2026-01-01."
        )
    origin, text = said.origin(), column.text
    years = (origin.year, origin.year + 1)
    this, next_ = (f"try_strptime('{year}' || {text}, '%Y%m%d%H%M%S')" for year in years)
    return f"CASE WHEN {this} >= TIMESTAMP '{origin}' THEN {this} ELSE {next_} END"


def _ahead(column: _Column, at: str, names: Sequence[str], zone: str) -> tuple[str, str]:
    """SQL for the minutes that a local time `at` is ahead of UTC, and what says so."""
    if known := zone_of(zone):
        return _of_zone(column, at, known, "true"), known
    if zone not in names:
        raise ColumnError(
            f"--timezone {zone} is neither a time zone, such as Europe/Berlin, nor a column."
            + did_you_mean(zone, names)
        )
    told = f'trim("aegis row".{quoted(zone)}::VARCHAR)'
    rows = column.session.rows(f"SELECT DISTINCT {told} AS z FROM {column.table} LIMIT 1000")
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


def _of_zone(column: _Column, at: str, zone: str, where: str) -> str:
    """SQL for the minutes ahead of local times in a zone, of those that come twice the first."""
    (span,) = column.session.rows(
        f"SELECT epoch_us(min({at})) AS a, epoch_us(max({at})) AS b FROM {column.table} "
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


def _number(column: _Column, said: Said) -> Form | None:
    counted = column.counts(_NUMBERS)
    if not (counted["point"] or counted["comma"]):
        counted = column.counts(_NUMBERS, few=False)
    decimal = said.decimal
    if not decimal and counted["either"] and not (counted["point"] or counted["comma"]):
        if column.canonical not in ("lat", "lon"):
            raise ColumnError(
                f"Of {column.canonical}, {column.some(_NUMBERS['either'])} could be thousands or "
                "thousandths. Say which sign stands before the decimals: --decimal . or --decimal ,"
            )
        decimal = "," if column.some("contains(b, ',')") else "."
    decimal = decimal or ("," if counted["comma"] > counted["point"] else ".")
    if decimal == "." and counted["plain"] == counted["n"]:
        return None
    other = "," if decimal == "." else "."
    whole = rf"([0-9]+|[0-9]{{1,3}}(\{other}[0-9]{{3}})+)?"
    fits = rf"^([+-]?{whole}(\{decimal}[0-9]*)?([eE][+-]?[0-9]+)?)$"
    value = f"regexp_extract({_bare(column.text)}, '{fits}', 1)"
    name = "decimal comma" if decimal == "," else "decimal point"
    plain = f"replace(replace({value}, '{other}', ''), '{decimal}', '.')"
    return Form(name, column.text, value=f"TRY_CAST({plain} AS DOUBLE)")


def _less(column: _Column, of: Sequence[str], said: Said) -> Form:
    """An amount in two columns: what was paid, and what came back; mostly one of them is empty."""
    texts = [_text([name], "") for name in of]
    values = []
    for text in texts:
        form = _number(replace(column, text=text), said)
        value = form.value if form else f"TRY_CAST({text} AS DOUBLE)"
        values.append(f"CASE WHEN {text} IS NULL THEN 0 ELSE {value} END")
    return Form(f"{of[0]} less {of[1]}", f"coalesce({', '.join(texts)})", " - ".join(values))


def _quoted(column: _Column) -> Form | None:
    """Texts that stand in quotation marks of their own, or as a spreadsheet's ="00123"."""
    counted = column.counts(
        {
            "single": "length(t) > 1 AND starts_with(t, '''') AND ends_with(t, '''')",
            "formula": """regexp_full_match(t, '="[^"]*"')""",
        }
    )
    if counted["n"] and counted["single"] == counted["n"]:
        return Form("in quotation marks", f"nullif(trim({column.text}, ''''), '')")
    if counted["formula"]:
        plain = f"""regexp_replace({column.text}, '^="([^"]*)"$', '\\1')"""
        return Form('as ="…"', f"nullif({plain}, '')")
    return None


def _minor(column: _Column, form: Form | None, currency: str | None, names: Sequence[str]) -> Form:
    """Amounts in the smallest unit of their currency, by the digits of ISO 4217."""
    from aegis_core.units.money import coded, digits

    value, digit = form.value if form else f"TRY_CAST({column.text} AS DOUBLE)", "2"
    if currency:
        code = _text(parts(currency, names), "/")
        rows = column.session.rows(f"SELECT DISTINCT {code} AS c FROM {column.table} LIMIT 1000")
        cases = [
            f"WHEN {literal(row['c'])} THEN {digits(coded(row['c']))}" for row in rows if row["c"]
        ]
        digit = f"CASE {code} {' '.join(cases)} ELSE 2 END" if cases else "2"
    name = f"{form.name}, minor units" if form else "minor units"
    return Form(name, column.text, value=f"{value} / power(10, {digit})")
