#!/usr/bin/env bash
# bai2 0.15.0: after parsing, the header of an account or group holds the records of all of it.
#
# `account.header.rows` is the one record `03`, and `header.as_string()` its line: so it is when the
# totals are not checked. But the check of the totals, which is on by default, counts records by
# `section.rows`, and that property adds what follows to the header's own list. Whoever stores the
# header of each account, such as to say which one a payment is of, stores every payment as well, and
# the group's header holds all accounts. Reading `rows` of anything does the same later.
# Seen: a file of one account with two payments: 4 records in the account's header, 1 without the check.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check bai2==0.15.0
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from bai2 import bai2

FILE = """01,BANK,ME,260302,0800,1,80,,2/
02,ME,BANK,1,260301,2359,EUR,2/
03,1234567,,010,5000,,/
16,475,1200,,B1,C1,CHECK PAID/
16,165,500,,B2,C2,QUILL LTD/
49,6700,4/
98,6700,1,6/
99,6700,1,8/
"""


def header(checked: bool) -> str:
    return str(
        bai2.parse_from_string(FILE, check_integrity=checked).children[0].children[0].header.as_string()
    )


print("bai2", version("bai2"))
print("header of the account, totals not checked:", header(False).splitlines())
print("header of the account, totals checked:    ", header(True).splitlines())
assert len(header(False).splitlines()) == 1
assert len(header(True).splitlines()) == 4, "the header is its own record alone now"
PYTHON
