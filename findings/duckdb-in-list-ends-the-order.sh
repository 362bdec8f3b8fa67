#!/usr/bin/env bash
# duckdb 1.5.5: five words in an IN of the select list, and INSERT … SELECT no longer keeps a file's order.
#
# With preserve_insertion_order, as it is by default, rows that an INSERT takes from a Parquet file are
# stored in the order of the file, on several threads too. Of an IN with five or more constants DuckDB makes
# a join with a list of them, also where it only gives a column and drops no row, and after a join each
# thread's rows are stored in one piece. An import that numbers rows as they are stored, or breaks ties of a
# time by that, is another one each time, from the word on that makes the list long enough. `list_contains`
# says the same of a value, NULL included, and keeps the order.
# Seen, of a million rows in 16 row groups on two threads: with four words no row lies before its
# predecessor; with five some do; with list_contains and five words none.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==1.5.5
"$folder/venv/bin/python" - "$folder/rows.parquet" <<'PYTHON'
import sys

import duckdb

file = sys.argv[1]
duckdb.execute(
    f"COPY (SELECT range AS i, 'w' || range % 9 AS word FROM range(1_000_000)) TO '{file}' "
    "(FORMAT parquet, ROW_GROUP_SIZE 65536)"
)
print("duckdb", duckdb.__version__)


def backwards(told: str) -> int:
    """How many rows are stored right after one that the file has later."""
    connection = duckdb.connect(config={"threads": 2})
    connection.execute("CREATE TABLE t (i BIGINT, known BOOLEAN)")
    connection.execute(f"INSERT INTO t SELECT i, {told} FROM read_parquet('{file}')")
    found = connection.execute(
        "SELECT count(*) FILTER (i < before) FROM "
        "(SELECT i, lag(i) OVER (ORDER BY rowid) AS before FROM t)"
    ).fetchall()
    return found[0][0]


def listed(n: int) -> str:
    return ", ".join(f"'w{k}'" for k in range(n))


four, five = (backwards(f"word IN ({listed(n)})") for n in (4, 5))
contains = backwards(f"list_contains([{listed(5)}], word)")
print(f"out of order with four words: {four}, with five: {five}, with list_contains: {contains}")
assert four == 0, "even a short IN loses the order now"
assert five > 0, "an IN keeps the order now"
assert contains == 0, "list_contains loses the order now"
PYTHON
