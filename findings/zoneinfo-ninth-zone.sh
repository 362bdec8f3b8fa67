#!/usr/bin/env bash
# Python's zoneinfo with tzdata 2026.6: a ninth zone in use, and each look-up reads its file again.
#
# `ZoneInfo(name)` is said to be cached, and for one zone it costs a dictionary. But what nobody holds
# is kept only for the last eight names. Whoever converts a stream of payments from nine countries, one
# after the other, with a fresh `ZoneInfo(name)` for each row, opens and parses a file a row: a profile
# of such an import had more than a third of its time there. A dictionary of one's own ends it.
# Seen: CPython 3.11, tzdata 2026.6: ten rounds over eight zones open 8 files, over nine zones 90.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tzdata==2026.6
cd "$folder"
PYTHONTZPATH="" "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version
from zoneinfo import ZoneInfo

NAMES = ("Berlin", "Lisbon", "London", "Madrid", "Paris", "Rome", "Vienna", "Warsaw", "Zurich")
opened = 0


def hear(event: str, arguments: tuple[object, ...]) -> None:
    global opened
    opened += event == "open" and str(arguments[0]).endswith(NAMES)


def files_read(n_zones: int, rounds: int = 10) -> int:
    global opened
    ZoneInfo.clear_cache()
    opened = 0
    for _ in range(rounds):
        for name in NAMES[:n_zones]:
            ZoneInfo(f"Europe/{name}")
    return opened


sys.addaudithook(hear)
eight, nine = files_read(8), files_read(9)
print("Python", sys.version.split()[0], "tzdata", version("tzdata"))
print("files read in ten rounds over eight zones:", eight, "| over nine:", nine)
assert eight == 8, "fewer zones than eight are kept now"
assert nine == 90, "more zones than eight are kept now"
PYTHON
