#!/usr/bin/env bash
# jsonschema 4.26.0 with its extra "format-nongpl" (which jupyter-events asks for, so that every Jupyter
# has it): importing it imports rfc3987-syntax, which builds 39 Earley parsers, though no
# schema has asked for the format "iri". Whatever imports nbformat, papermill or
# jupyter-server waits for that; a jsonschema without the extra builds none.
#
# Seen: CPython 3.11, jsonschema 4.26.0, rfc3987-syntax 1.1.0, lark 1.3.1: 2.7 s of 5.1 s that
# `import papermill` took, on a core of a virtual machine.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "jsonschema[format-nongpl]==4.26.0" rfc3987-syntax==1.1.0 lark==1.3.1
cat > "$folder/built.py" <<'PYTHON'
import sys
import time

if "without" in sys.argv:
    sys.modules["rfc3987_syntax"] = None  # as where it is not installed
import lark

built, init = [], lark.Lark.__init__


def counted(self, *args, **kwargs):
    built.append(kwargs.get("parser", "earley"))
    init(self, *args, **kwargs)


lark.Lark.__init__ = counted
began = time.perf_counter()
import jsonschema  # noqa: E402

jsonschema.validate({"a": 1}, {"properties": {"a": {"type": "integer"}}})
print(len(built), f"parsers built in {time.perf_counter() - began:.1f} s", set(built))
assert len(built) == (0 if "without" in sys.argv else 39), len(built)
PYTHON
"$folder/venv/bin/python" "$folder/built.py"
"$folder/venv/bin/python" "$folder/built.py" without
