#!/usr/bin/env bash
# papermill 2.7.0: the whole notebook is written anew before and after every cell, cells of prose included,
# which change nothing but their own "status". Figures stand in a notebook as text, so that what is
# written grows as the number of cells times the size of what the first ones showed.
#
# Of a run with many figures and as many cells of prose as of code, 4.2 of 32 s were such writes.
# `autosave_cell_every=0` turns off only what is written while a cell runs.
# Seen: CPython 3.11, papermill 2.7.0, ipykernel 7.4.0: a notebook of one cell of code that shows 2 MB, and
# 40 of prose, is written 85 times, 167 MB in all, for 2 MB that were new; without the prose 5 times.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check papermill==2.7.0 ipykernel==7.4.0
cd "$folder"
cat > writes.py <<'PYTHON'
import json
import sys

import papermill
from papermill.iorw import papermill_io

SHOWN = 2_000_000


def written(n_prose: int) -> list[int]:
    """Sizes of all that papermill writes for one cell that shows much and some of prose."""
    code = {"cell_type": "code", "id": "c", "metadata": {}, "outputs": [], "execution_count": None,
            "source": f"'x' * {SHOWN}"}
    prose = [{"cell_type": "markdown", "id": f"p{i}", "metadata": {}, "source": "Some words."}
             for i in range(n_prose)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with open("in.ipynb", "w") as file:
        json.dump({"cells": [code, *prose], "metadata": {"kernelspec": kernel},
                   "nbformat": 4, "nbformat_minor": 5}, file)
    sizes, write = [], papermill_io.write

    def counted(text, *args, **kwargs):
        sizes.append(len(text))
        return write(text, *args, **kwargs)

    papermill_io.write = counted
    try:
        papermill.execute_notebook("in.ipynb", "out.ipynb", progress_bar=False,
                                   autosave_cell_every=0, kernel_name="python3")
    finally:
        papermill_io.write = write
    return sizes


without, prose = written(0), written(40)
print(f"without prose {len(without)} writes, {sum(without) / 1e6:.0f} MB;",
      f"with 40 cells of it {len(prose)} writes, {sum(prose) / 1e6:.0f} MB")
assert len(prose) - len(without) == 80, "two for each cell of prose"
assert sum(prose) - sum(without) > 80 * SHOWN, "all of it, each time"
PYTHON
"$folder/venv/bin/python" -m ipykernel install --prefix "$folder/venv" --name python3 >/dev/null 2>&1
"$folder/venv/bin/python" writes.py
