#!/usr/bin/env bash
# papermill 2.7.0: a parameter whose annotation is a union written with `|` is not inferred at all.
#
# Python 3.10 and later write an optional number as `limit: float | None = None`. papermill's listing
# of a notebook's parameters (`--help-notebook`, `inspect_notebook`) leaves such a line out without a
# word, with its neighbours shown, and `execute_notebook` then warns that the parameter is unknown,
# although it sets it. `limit: float = None` and `Optional[float]` are both listed.
# Seen: with 2.7.0 on Python 3.11, the list is ['rate', 'share'] where ['limit', 'rate', 'share'] were
# expected, and one warning 'Passed unknown parameter: limit' is logged.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  papermill==2.7.0 nbformat==5.11.1 ipykernel==7.1.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import nbformat
import papermill

cell = nbformat.v4.new_code_cell(
    "rate: float = 1.0  # plain\n"
    "limit: float | None = None  # a union\n"
    "share: float = None  # plain, and None all the same"
)
cell.metadata["tags"] = ["parameters"]
shown = nbformat.v4.new_code_cell("print(rate, limit, share)")
notebook = nbformat.v4.new_notebook(cells=[cell, shown])
notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "p"}
nbformat.write(notebook, "in.ipynb")

listed = sorted(papermill.inspect_notebook("in.ipynb"))
print("papermill", papermill.__version__, "lists", listed)
assert listed == ["rate", "share"], "papermill changed: it lists the union now"

told: list[str] = []
handler = logging.Handler()
handler.emit = lambda record: told.append(record.getMessage())
logging.getLogger("papermill").addHandler(handler)
papermill.execute_notebook(
    "in.ipynb", "out.ipynb", {"limit": 2.0}, kernel_name="python3", progress_bar=False
)
unknown = [text for text in told if "unknown parameter" in text]
print("told:", unknown)
assert unknown == ["Passed unknown parameter: limit"], told
out = nbformat.read("out.ipynb", as_version=4)
assert "1.0 2.0 None" in out.cells[-1].outputs[0].text
print("and the notebook got it all the same.")
PYTHON
