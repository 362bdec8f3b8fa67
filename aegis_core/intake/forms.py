"""In which form a file has its columns: told by the whole of each, never by a row.

`07.03.2026` and `2.336` each mean two things, and one row does not tell which. Where every row of a
column fits two forms, the file is refused with both readings, until somebody says which it is
(`Said`). Out comes, for each column that is not in the plain form which `staging` reads, the SQL of
its text in that form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from aegis_core.errors import ColumnError
from aegis_core.intake.columns import FILE_COLUMNS, is_expression, parts
from aegis_core.intake.expressions import expression
from aegis_core.intake.presets import Words
from aegis_core.intake.said import PLAIN, Said
from aegis_core.intake.samples import Column, Form, Sample, bare
from aegis_core.intake.times import time_form
from aegis_core.schema import NUMBER, TEXT, TIME
from aegis_core.store.connection import literal, quoted
from aegis_core.store.session import Session

NO_WORDS: Final[Words] = {}


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
    computed = {
        canonical: expression(session, column, f"--map {canonical}", table, kinds)
        for canonical, column in columns.items()
        if is_expression(column, names)
    }
    of = {name: [c] if name in computed else parts(c, names) for name, c in columns.items()}
    texts = {
        name: computed[name].text
        if name in computed
        else _text(of[name], " " if FILE_COLUMNS[name].kind == TIME else "/")
        for name in columns
    }
    paid_less = of.get("amount", [])
    alone = [_text([column], "") for column in paid_less if len(paid_less) == 2]
    sample = Sample(session, table, [*texts.values(), *alone])
    found = {}
    for canonical, column in columns.items():
        wanted, text, made = FILE_COLUMNS[canonical], texts[canonical], computed.get(canonical)
        n_of = len(of[canonical])
        kind = made.kind if made else kinds[column] if n_of == 1 else "VARCHAR"
        number = kind not in ("VARCHAR", "BLOB")
        asked = Column(sample, canonical, column, text)
        form = None
        if wanted.kind == TIME:
            told = said if canonical == "ts" or "ts" not in columns else PLAIN
            typed = kind.startswith(("TIMESTAMP", "DATE"))
            form = time_form(asked, names, told, number=number, typed=typed)
        elif canonical == "amount" and n_of == 2:
            form = _less(asked, of[canonical], said)
        elif wanted.kind == NUMBER and not number:
            form = _number(asked, said)
        elif wanted.kind == TEXT and not number:
            form = _quoted(asked)
        if mean := words.get(canonical):
            cases = " ".join(f"WHEN {literal(w)} THEN {literal(m)}" for w, m in mean.items())
            form = Form("own words", f"CASE {text} {cases} ELSE {text} END")
        if form is None and n_of > 1:
            form = Form("together", text)
        if canonical == "amount" and said.minor_units:
            form = _minor(asked, form, texts.get("currency"))
        if made:
            form = form or Form("", text)
            name = f"computed, {form.name}" if form.name else "computed"
            form = replace(form, name=f"{name}: {asked.some()}", fails=made.fails)
        if form is not None:
            found[canonical] = form
    sample.drop()
    return found


def _text(of: Sequence[str], between: str) -> str:
    """SQL of the text of one column or of several joined, null where one is missing."""
    each = [f"nullif(trim(\"aegis row\".{quoted(name)}::VARCHAR), '')" for name in of]
    return f" || {literal(between)} || ".join(each) if len(each) > 1 else each[0]


def _number(column: Column, said: Said) -> Form | None:
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
    value = f"regexp_extract({bare(column.text)}, '{fits}', 1)"
    name = "decimal comma" if decimal == "," else "decimal point"
    plain = f"replace(replace({value}, '{other}', ''), '{decimal}', '.')"
    return Form(name, column.text, value=f"TRY_CAST({plain} AS DOUBLE)")


def _less(column: Column, of: Sequence[str], said: Said) -> Form:
    """An amount in two columns: what was paid, and what came back; mostly one of them is empty."""
    texts = [_text([name], "") for name in of]
    values = []
    for text in texts:
        form = _number(replace(column, text=text), said)
        value = form.value if form else f"TRY_CAST({text} AS DOUBLE)"
        values.append(f"CASE WHEN {text} IS NULL THEN 0 ELSE {value} END")
    return Form(f"{of[0]} less {of[1]}", f"coalesce({', '.join(texts)})", " - ".join(values))


def _quoted(column: Column) -> Form | None:
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


def _minor(column: Column, form: Form | None, code: str | None) -> Form:
    """Amounts in the smallest unit of their currency, by the digits of ISO 4217."""
    from aegis_core.units.money import coded, digits

    value, digit = form.value if form else f"TRY_CAST({column.text} AS DOUBLE)", "2"
    if code:
        rows = column.sample.session.rows(
            f"SELECT DISTINCT {code} AS c FROM {column.sample.table} LIMIT 1000"
        )
        cases = [
            f"WHEN {literal(row['c'])} THEN {digits(coded(row['c']))}" for row in rows if row["c"]
        ]
        digit = f"CASE {code} {' '.join(cases)} ELSE 2 END" if cases else "2"
    name = f"{form.name}, minor units" if form else "minor units"
    return Form(name, column.text, value=f"{value} / power(10, {digit})")
