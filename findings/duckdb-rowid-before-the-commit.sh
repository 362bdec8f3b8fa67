#!/usr/bin/env bash
# duckdb 1.5.5: what a transaction inserts has row ids from 36028797018960000 on, until it commits.
#
# Row ids are told to be contiguous from 0 where nothing was deleted, and stable within a transaction. So to
# find what an INSERT added, one counts the rows before it and asks for `rowid >= count`. In a transaction
# that condition holds for all that the same transaction had inserted before, of a table made in it for
# every row: each step of an import that was to look at one file looked at all files before it too. At the
# commit the same rows are numbered anew, from where the table ended.
# Seen: 3 and 2 rows inserted in one transaction are all at or beyond 3; 0 to 4 once it is committed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==1.5.5
"$folder/venv/bin/python" - <<'PYTHON'
import duckdb

connection = duckdb.connect()


def one(sql: str) -> object:
    return connection.execute(sql).fetchall()[0]


print("duckdb", duckdb.__version__)
connection.execute("BEGIN")
connection.execute("CREATE TEMP TABLE t AS SELECT range AS i FROM range(3)")
(before,) = one("SELECT count(*) FROM t")
connection.execute("INSERT INTO t SELECT range FROM range(2)")
inside = one("SELECT min(rowid), max(rowid), count(*) FILTER (rowid >= 3) FROM t")
connection.execute("COMMIT")
after = one("SELECT min(rowid), max(rowid), count(*) FILTER (rowid >= 3) FROM t")
print(f"{before} rows, then 2 more; smallest, largest row id, and how many are not below 3")
print("in the transaction", inside)
print("once it committed ", after)
assert inside == (36028797018960000, 36028797018960004, 5), "row ids begin at 0 in a transaction now"
assert after == (0, 4, 2), "a commit leaves row ids as they were now"
PYTHON
