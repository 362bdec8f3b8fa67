#!/usr/bin/env bash
# numba 0.68.1: in nopython code `a[i] = b[j]`, a row of one array put into a row of another,
# compiles the message of an error of shapes, text functions and all, though rows of a C-ordered
# array of two dimensions could only differ in their length. A loop over the columns compiles none of
# it and does the same. The first call of a small kernel waits for that, and so does each process
# without a cache.
#
# Seen: CPython 3.11, numba 0.68.1, NumPy 2.4.6: for the row 38 functions are compiled, 15 of them of
# text, in 3.4 s on a core of a virtual machine; for the loop 1, in .6 s.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > "$folder/compiled.py" <<'PYTHON'
import sys
import time

import numba
import numpy as np
from numba.core import event


class Compiled(event.Listener):
    names = []

    def on_start(self, happened):
        function = happened.data["dispatcher"].py_func
        self.names.append(f"{function.__module__}.{function.__name__}")

    def on_end(self, happened):
        pass


@numba.njit
def row(a, b):
    for i in range(len(b)):
        a[i] = b[i]


@numba.njit
def loop(a, b):
    for i in range(len(b)):
        for j in range(b.shape[1]):
            a[i, j] = b[i, j]


event.register("numba:compile", Compiled())
a, b = np.zeros((3, 4)), np.ones((3, 4))
began = time.process_time()
{"row": row, "loop": loop}[sys.argv[1]](a, b)
assert (a == b).all()
text = [name for name in Compiled.names if "unicode" in name]
print(
    f"{sys.argv[1]}: {len(Compiled.names)} functions compiled, {len(text)} of text, "
    f"in {time.process_time() - began:.1f} s (numba {numba.__version__}, NumPy {np.__version__})"
)
assert (len(text) > 0) == (sys.argv[1] == "row"), Compiled.names
assert (len(Compiled.names) == 1) == (sys.argv[1] == "loop"), Compiled.names
PYTHON
"$folder/venv/bin/python" "$folder/compiled.py" row
"$folder/venv/bin/python" "$folder/compiled.py" loop
