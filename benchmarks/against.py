"""Today's code against another revision: the same measurements in turn, and their ratios.

Checks the revision out beside a scratch folder, sets it up by its own Makefile, and then measures
both trees A B B A, each by its own benchmarks and with its own Python:

- import: `aegis import` of a file of transactions into a new database, wall and processor time;
- throughput: what both `benchmarks/throughput.py` print as rows a second;
- live: what both `benchmarks/live.py` measure of the running service (needs wrk).

A ratio is this tree's figure by the other's of the same turn: of rates more is better, of times
less. What the machine does meanwhile stays in the ratio: look at all turns, not at the median
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

HERE: Final = Path(__file__).resolve().parent.parent
PARTS: Final = ("import", "throughput", "live")
LIVE: Final = ("single", "batch", "embedded")
TOLD: Final = {"rate": "rows/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "server_us": "server µs"}
EXAMPLES: Final = """
examples:
  python benchmarks/against.py d22a226 --file data/public/handbook.parquet
  python benchmarks/against.py HEAD~5 --only throughput --turns 4
"""
Figures = dict[str, float]


class Failed(Exception):
    """A tree could not be set up or measured."""


def measured(tree: Path, given: argparse.Namespace) -> Figures:
    """All figures of a tree, by what they are of."""
    found: Figures = {}
    with tempfile.TemporaryDirectory(prefix="aegis-against-", dir=given.folder) as scratch:
        if "import" in given.only and given.file:
            found |= imported(tree, given.file.resolve(), Path(scratch))
        if "throughput" in given.only:
            options = ["--rows", given.rows, "--repeat", 3]
            printed = run(tree, "benchmarks/throughput.py", *options)
            for name, number in re.findall(r"^(.+?) {2,}([\d,]+) rows/s$", printed, re.MULTILINE):
                found[f"{name}: rows/s"] = float(number.replace(",", ""))
        if "live" in given.only:
            told = Path(scratch) / "live.json"
            options = ["--repeats", 1, "--seconds", given.seconds, "--batches", 10]
            run(tree, "benchmarks/live.py", "--only", *LIVE, *options,
                "--folder", scratch, "--json", told)  # fmt: skip
            for record in json.loads(told.read_text("utf-8"))["medians"]:
                if record["stack"] == "Aegis":
                    found |= {
                        f"{record['way']}: {unit}": float(record[name])
                        for name, unit in TOLD.items()
                        if record.get(name)
                    }
    return found


def imported(tree: Path, file: Path, scratch: Path) -> Figures:
    """Seconds of an import into a new database."""
    before, began = os.times(), time.perf_counter()
    run(tree, "-m", "aegis_core.cli", "import", file, "--db", scratch / "import.duckdb",
        home=scratch)  # fmt: skip
    after, took = os.times(), time.perf_counter() - began
    used = sum(after[2:4]) - sum(before[2:4])  # of children that ended
    return {"import: wall s": took, "import: processor s": used}


def run(tree: Path, *arguments: object, home: Path | None = None) -> str:
    """What a program of a tree prints, by its own Python.

    Raises
    ------
    Failed
        It ends otherwise than well.
    """
    python = tree / ".venv" / "bin" / "python"
    variables = {**os.environ, "PYTHONPATH": str(tree)} | (
        {"AEGIS_HOME": str(home)} if home else {}
    )
    done = subprocess.run(
        [str(python), *map(str, arguments)], cwd=tree, env=variables, check=False, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    if done.returncode:
        what = " ".join(map(str, arguments[:3]))
        raise Failed(f"{tree.name}: {what} ended with {done.returncode}; see above.")
    return done.stdout


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """A revision in a working tree of its own, set up; taken away at the end.

    Raises
    ------
    Failed
        There is no such revision, or it cannot be set up.
    """
    tree = folder / f"against-{revision.replace('/', '-')}"
    git = ("git", "-C", HERE, "worktree")
    shutil.rmtree(tree, ignore_errors=True)
    if not ended_well(*git, "add", "--force", "--detach", tree, revision):
        raise Failed(f"{revision!r} cannot be checked out.")
    try:
        if not ended_well("make", "-C", tree, "setup"):
            raise Failed(f"{revision} cannot be set up; see above.")
        yield tree
    finally:
        ended_well(*git, "remove", "--force", tree)


def ended_well(*command: object) -> bool:
    """Whether a command, whose output is shown, says that it did what it should."""
    return subprocess.run([str(word) for word in command], check=False).returncode == 0


def table(turns: list[tuple[Figures, Figures]], revision: str) -> Table:
    """Medians of both, the ratio of each turn, and the median of these."""
    shown = Table(
        "what", revision, "this tree", "ratios", "median", title="Against another revision"
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for name in turns[0][0]:
        pairs = [(a[name], b[name]) for a, b in turns if name in a and name in b]
        if not pairs:
            continue
        ratios = [b / a for a, b in pairs]
        theirs, ours = (statistics.median(values) for values in zip(*pairs, strict=True))
        told = "  ".join(f"{ratio:.2f}" for ratio in ratios)
        row = (f"{theirs:,.4g}", f"{ours:,.4g}", told, f"{statistics.median(ratios):.2f}")
        shown.add_row(name, *row)
    return shown


def options(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="of this repository, such as a commit or HEAD~5")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="default all")
    parser.add_argument("--turns", type=int, default=2, help="of each tree (default 2)")
    parser.add_argument("--file", type=Path, help="transactions for import; without it none")
    parser.add_argument("--rows", type=int, default=300_000, help="of throughput (300000)")
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default 5)")
    parser.add_argument(
        "--folder", type=Path, default=HERE / "data",
        help="for checkout and databases: the disk that is measured (data/)",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 0 done, 1 something failed, 130 ended by Ctrl-C."""
    given = options(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    turns: list[tuple[Figures, Figures]] = []
    try:
        with checkout(given.revision, given.folder.resolve()) as other:
            for turn in range(given.turns):
                print(f"… turn {turn + 1} of {given.turns}", file=sys.stderr, flush=True)
                order = (other, HERE) if turn % 2 == 0 else (HERE, other)
                found = {tree: measured(tree, given) for tree in order}
                turns.append((found[other], found[HERE]))
    except KeyboardInterrupt:
        print("Ended before it was done.", file=sys.stderr)
        return 130
    except Failed as e:
        print(f"against.py: {e}", file=sys.stderr)
        return 1
    finally:
        if turns:
            Console(width=120).print(table(turns, given.revision))
    return 0


if __name__ == "__main__":
    sys.exit(main())
