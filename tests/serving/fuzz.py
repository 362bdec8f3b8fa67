"""Plays lives of the engine, each by its own seed, until the time is up: `make fuzz`.

A step is one move that was made. Where something does not hold, the seed, the least number of steps
that it takes and the last of them are printed, and it ends with 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import Final

from any_order import MOVES, Life, begin

from aegis_core.serving import table_writer

STEPS: Final = 500
"""How long a life is."""
TOLD: Final = 12


class Broken(Exception):
    """Something did not hold; it says how to see it again."""


def live(begun: Path, seed: int, steps: int) -> list[str]:
    """Live `steps` moves by a seed, and check all at their end; what was done."""
    chance, life = Random(seed), Life(begun)
    made = 0
    try:
        while made < steps:
            (move,) = chance.choices(list(MOVES), list(MOVES.values()))
            made += life.make(move, chance)
        life.check()
    except Exception as e:
        e.add_note("\n".join([f"after {made} steps:", *life.story[-TOLD:]]))
        raise
    finally:
        life.end()
    return life.story


def play(begun: Path, seed: int, steps: int = STEPS) -> list[str]:
    """`live`; `Broken` with the seed and the shortest life that fails as well."""
    try:
        return live(begun, seed, steps)
    except Exception as e:
        shortest, last = steps, e
        too_few = 0
        while too_few < shortest:
            middle = (too_few + shortest) // 2
            try:
                live(begun, seed, middle)
                too_few = middle + 1
            except Exception as e:
                shortest, last = middle, e
        told = "".join(traceback.format_exception(last))
        again = f"{Path(__file__).name} --seed {seed} --steps {shortest}"
        raise Broken(f"{told}\nThe shortest that fails: {again}") from None


def main(given: list[str] | None = None) -> int:
    """Play until the time is up, or one life if its seed is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=STEPS, help="of a life")
    parser.add_argument("--seed", type=int, help="of the only life to play")
    args = parser.parse_args(given)
    logging.disable(logging.WARNING)  # a snapshot that does not fit any more, again and again
    table_writer.AT_ONCE_S = 0.0  # type: ignore[misc]
    began, made = time.monotonic(), 0
    first = int(time.time()) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory(prefix="aegis-begun-") as folder:
        begin(Path(folder))
        for seed in range(first, sys.maxsize):
            try:
                made += len(play(Path(folder), seed, args.steps)) - 1
            except Broken as broken:
                print(broken)
                return 1
            took = time.monotonic() - began
            print(f"{took / 60:6.1f} min, seed {seed}: {made:,} steps, {made / took:.0f} a second",
                  flush=True)  # fmt: skip
            if args.seed is not None or took > 60 * args.minutes:
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
