#!/usr/bin/env bash
# DuckDB's Quack 1.5.5: a table whose default is no plain literal keeps every client from attaching.
#
# A server may hold a table such as `CREATE TABLE notes (text VARCHAR, made TIMESTAMP DEFAULT
# current_timestamp)`, and its own queries work. A client's ATTACH reads the whole catalogue and raises
# an error at that table, so that no other table can be reached either until it is dropped. A default
# that is a number attaches.
# Seen: DuckDB and extension 1.5.5 on Python 3.11: one table with `DEFAULT 7` attaches; after a second
# one with `DEFAULT current_timestamp` is made, a new ATTACH raises BinderException, `Catalog "far" does
# not exist!`, of the name that is being attached; after the table is dropped, it attaches again.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  duckdb==1.5.5 duckdb-extension-quack==1.5.5 duckdb-extension-httpfs==1.5.5
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import socket
from importlib.util import find_spec
from pathlib import Path

import duckdb


def connected() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name in ("httpfs", "quack"):
        home = Path(find_spec(f"duckdb_extension_{name}").origin).parent
        connection.execute(
            f"LOAD '{home}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'"
        )
    return connection


def attaches() -> str:
    try:
        connected().execute(f"ATTACH '{address}' AS far (TOKEN 'a-token-of-some-length')")
    except duckdb.Error as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    return "attached"


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"quack:127.0.0.1:{free.getsockname()[1]}"
server = connected()
server.execute("CREATE TABLE plain (n INTEGER DEFAULT 7)")
server.execute(f"FROM quack_serve('{address}', token := 'a-token-of-some-length')").fetchall()
before = attaches()
server.execute("CREATE TABLE notes (text VARCHAR, made TIMESTAMP DEFAULT current_timestamp)")
during = attaches()
server.execute("DROP TABLE notes")
after = attaches()
print("DuckDB", duckdb.__version__, "plain default:", before, "| current_timestamp:", during)
print("after the table is dropped:", after)
server.execute(f"FROM quack_stop('{address}')").fetchall()
assert (before, after) == ("attached", "attached")
assert during.startswith("BinderException"), "Quack changed: it attaches now, or says why not"
PYTHON
