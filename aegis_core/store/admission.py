"""What a reader's query may name and call: its parse tree, held against short lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aegis_core.errors import InputError

_TABLE_FUNCTIONS = {
    *("range", "generate_series", "unnest"),
    *("duckdb_tables", "duckdb_views", "duckdb_columns", "duckdb_schemas"),
}
_SYSTEM_TABLES = {"tables", "columns", "schemata", "duckdb_tables", "duckdb_views"}
_SHOWN = {"tables", "__show_tables_expanded"}
_SCALARS_REFUSED = (
    *("aegis_", "quack_", "current_setting", "nextval", "currval", "write_log", "getvariable"),
    # the answer of one call of these has no bound
    *("repeat", "lpad", "rpad", "list_resize", "array_resize", "printf", "format"),
    *("setseed", "query", "add_parquet_key", "json_execute", "getenv"),
)
_LINEAR = {"count", "count_star", "sum", "avg", "min", "max", "any_value", "first", "last"}
_FROM_REFUSED = {"COLUMN_DATA", "DELIM_GET", "BOUND_TABLE_REF"}


@dataclass(frozen=True)
class Names:
    """Names in lower case: tables and views of the database, and views of DuckDB's own."""

    tables: frozenset[str]
    views: frozenset[str]
    system: frozenset[str]


def check(statements: Any, names: Names) -> None:
    """Refuse, by an `InputError`, a parse tree that names or calls what is not for readers."""
    own = {
        str(entry["key"]).lower()
        for node in _nodes(statements)
        if isinstance(node.get("cte_map"), dict)
        for entry in node["cte_map"].get("map", [])
    }
    if clash := own & (names.system | _SYSTEM_TABLES):
        raise InputError(f"{sorted(clash)[0]} is a name of DuckDB's own; choose another.")
    tables = names.tables | names.views
    for node in _nodes(statements):
        kind, of_class = str(node.get("type")), node.get("class")
        if kind == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name")).lower()
            if name not in _TABLE_FUNCTIONS:
                raise InputError(f"A reader's query cannot use {name}().")
        elif kind == "BASE_TABLE":
            name, schema = str(node["table_name"]).lower(), str(node["schema_name"]).lower()
            if schema in ("", "main") and not node["catalog_name"]:
                allowed = name in tables or (not schema and name in own)
            else:
                allowed = schema == "information_schema" and name in _SYSTEM_TABLES
            if not allowed and not (name in _SYSTEM_TABLES and name.startswith("duckdb_")):
                raise InputError(f"Table with name {node['table_name']} does not exist.")
        elif kind == "SHOW_REF":
            name = str(node.get("table_name", "")).strip('"').lower()
            if name and name not in tables | _SHOWN:
                raise InputError(f"Table with name {name} does not exist.")
        elif kind in _FROM_REFUSED:
            raise InputError(f"A reader's query cannot use {kind}.")
        elif of_class == "FUNCTION" and not node.get("is_operator"):
            name = str(node.get("function_name")).lower()
            if name.startswith(_SCALARS_REFUSED):
                raise InputError(f"A reader's query cannot use {name}().")


def is_plain(node: Any, names: Names) -> bool:
    """Whether a checked query looks at one table only, in time that grows with its rows."""
    source = node.get("from_table", {})
    if node["type"] != "SELECT_NODE" or source.get("type") != "BASE_TABLE":
        return False
    if node["cte_map"]["map"] or source["table_name"].lower() not in names.tables:
        return False
    return all(
        part.get("class") not in ("SUBQUERY", "WINDOW", "LAMBDA")
        and (
            part.get("class") != "FUNCTION"
            or part.get("is_operator")
            or part.get("function_name") in _LINEAR
        )
        for part in _nodes(node)
    )


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
