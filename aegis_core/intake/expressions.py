"""SQL expressions over the columns of a file, which can do nothing but compute.

DuckDB's own parser reads them; what is not on the lists here is refused by its name. A column of
text is read as a number where only a number makes sense.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aegis_core.errors import AegisError, ColumnError, did_you_mean
from aegis_core.intake.columns import named
from aegis_core.store.session import Session

_WHOLE: Final = {
    "make_date": 3, "make_time": 2, "make_timestamp": 5, "epoch_ms": 1, "to_years": 1,
    "to_months": 1, "to_weeks": 1, "to_days": 1, "to_hours": 1, "to_minutes": 1,
}  # fmt: skip
"""Functions of numbers, and how many of their first arguments are whole."""
_OF_NUMBERS: Final = {
    *("+", "-", "*", "/", "//", "%", "^", "**", "abs", "ceil", "ceiling", "floor", "mod", "pow"),
    *("power", "round", "sign", "sqrt", "to_milliseconds", "to_seconds", "to_timestamp", "trunc"),
    *_WHOLE,
}
_FUNCTIONS: Final = _OF_NUMBERS | {
    *("||", "~~", "!~~", "~~*", "!~~*"),  # LIKE and ILIKE
    *("concat", "concat_ws", "contains", "ends_with", "instr", "left", "length", "lower", "lpad"),
    *("ltrim", "md5", "nullif", "position", "prefix", "regexp_extract", "regexp_full_match"),
    *("regexp_matches", "regexp_replace", "replace", "reverse", "right", "rpad", "rtrim"),
    *("sha256", "split_part", "starts_with", "strpos", "substr", "substring", "suffix", "trim"),
    *("upper", "date_diff", "date_part", "date_trunc", "day", "epoch", "hour", "minute", "month"),
    *("second", "strftime", "strptime", "timezone", "try_strptime", "year"),
}
_CLASSES: Final = {
    *("COLUMN_REF", "CONSTANT", "CAST", "CASE", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR"),
    "FUNCTION",
}
_OPERATORS: Final = {
    *("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_NOT", "OPERATOR_COALESCE"),
    *("OPERATOR_TRY", "COMPARE_IN", "COMPARE_NOT_IN"),
}
_TYPES: Final = {
    *("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE"),
    *("DECIMAL", "VARCHAR", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "INTERVAL"),
}
_CALLED: Final = {"SUBQUERY": "a query", "LAMBDA": "a lambda", "STAR": "*", "WINDOW": "a window"}


@dataclass(frozen=True)
class Expression:
    """An expression that passed.

    Attributes
    ----------
    text : SQL of what it gives, as text; null where it fails.
    fails : the condition that it fails.
    kind : the type of what it gives.
    """

    text: str
    fails: str
    kind: str


def expression(
    session: Session, given: str, where: str, relation: str, kinds: Mapping[str, str]
) -> Expression:
    """What `given` computes from a row of `relation AS "aegis row"`, whose columns `kinds` names.

    Raises
    ------
    ColumnError : It is none, or more than an expression of listed parts; `where` it was given.
    """
    try:
        sql = _checked(session, given, kinds)
        described = session.execute(f"DESCRIBE SELECT {sql} FROM {relation}").fetchone()
        kind = str(described[1] if described else "")
    except ColumnError as e:
        raise ColumnError(f"{where}={given}: {e}") from None
    except AegisError as e:
        told = str(e).partition("\n")[0].replace('"system".main.', "").replace('"aegis row".', "")
        raise ColumnError(
            f"{where}={given}: {told} The columns of a text file are texts: Amount::DOUBLE is a "
            "number, Day::DATE a date."
        ) from None
    if kind.partition("(")[0] not in _TYPES - {"TIME", "INTERVAL"}:
        raise ColumnError(f"{where}={given}: it gives {kind}; a time, a number or a text is asked.")
    value = f"TRY([{sql}])"  # null of an error, and of no value a list of null
    return Expression(f"nullif(trim(({value})[1]::VARCHAR), '')", f"{value} IS NULL", kind)


def _checked(session: Session, given: str, kinds: Mapping[str, str]) -> str:
    told = _parsed(session, f"({given}\n)")
    if told["error"]:
        raise ColumnError(f"that is no column, and no SQL expression: {told['error_message']}")
    frame = _parsed(session, "(1)")
    found = [node.pop("select_list") for node in (_node(told), _node(frame))]
    if told != frame or len(found[0]) != 1:
        raise ColumnError("that is no single expression over the columns of a row.")
    _admit(found[0][0], kinds)
    _node(told)["select_list"] = found[0]
    return str(
        session.value("SELECT json_deserialize_sql(?::JSON)", [json.dumps(told)])
    ).removeprefix("SELECT ")


def _parsed(session: Session, sql: str) -> Any:
    return json.loads(session.value("SELECT json_serialize_sql(?)", [f"SELECT {sql}"]))


def _node(told: Any) -> Any:
    return told["statements"][0]["node"]


def _admit(node: Any, kinds: Mapping[str, str]) -> None:
    """Refuse what is not on the lists; name the columns in full, and DuckDB's own functions."""
    of_class, name = node["class"], str(node.get("function_name", "")).lower()
    if of_class not in _CLASSES:
        raise ColumnError(f"{_CALLED.get(of_class, of_class)} cannot be used there.")
    if of_class == "OPERATOR" and node["type"] not in _OPERATORS:
        raise ColumnError(f"the operator {node['type']} cannot be used there.")
    if of_class == "CAST" and node["cast_type"]["id"] not in _TYPES:
        info = node["cast_type"].get("type_info") or {}
        kind = info.get("name") or node["cast_type"]["id"]
        raise ColumnError(f"there is no cast to {kind}; there are {', '.join(sorted(_TYPES))}.")
    if of_class == "COLUMN_REF":
        if len(node["column_names"]) > 1:
            raise ColumnError(
                f'{".".join(node["column_names"])}: a column\'s name with a point needs "…".'
            )
        column = named(node["column_names"][0], list(kinds), "the file")
        node["column_names"] = ["aegis row", column]
    elif of_class == "FUNCTION":
        if name not in _FUNCTIONS or node["schema"] not in ("", "main") or node["catalog"]:
            listed = sorted(name for name in _FUNCTIONS if name[0].isalpha())
            raise ColumnError(
                f"the function {name} cannot be used there; there are {', '.join(listed)}."
                + did_you_mean(name, listed)
            )
        if node["distinct"] or node["filter"] or node["order_bys"]["orders"]:
            raise ColumnError(f"DISTINCT, FILTER and ORDER BY of {name} cannot be used there.")
        if not node["is_operator"]:
            node["catalog"], node["schema"] = "system", "main"
    for child in _children(node):
        _admit(child, kinds)
    if name in _OF_NUMBERS:
        whole = _WHOLE.get(name, 0)
        node["children"] = [
            _number(child, kinds, "BIGINT" if i < whole else "DOUBLE")
            for i, child in enumerate(node["children"])
        ]
    elif of_class == "COMPARISON" and any(_is_number(node[side]) for side in ("left", "right")):
        node |= {side: _number(node[side], kinds, "DOUBLE") for side in ("left", "right")}


def _children(node: Any) -> list[Any]:
    """The expressions right below one, wherever they stand in it."""
    found: list[Any] = []
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict) and "class" in value:
            found.append(value)
        elif isinstance(value, dict | list):
            found += _children(value)
    return found


def _is_number(node: Any) -> bool:
    return node["class"] == "CONSTANT" and node["value"]["type"]["id"] not in ("VARCHAR", "BOOLEAN")


def _number(node: Any, kinds: Mapping[str, str], kind: str) -> Any:
    """A column of text, read as a number."""
    if node["class"] != "COLUMN_REF" or kinds[node["column_names"][1]] != "VARCHAR":
        return node
    return {"class": "CAST", "type": "OPERATOR_CAST", "alias": "", "query_location": 0,
            "child": node, "cast_type": {"id": kind, "type_info": None},
            "try_cast": False}  # fmt: skip
