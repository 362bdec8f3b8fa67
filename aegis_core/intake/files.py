"""Files from outside: found, checked to be what their names say, and read by SQL."""

from __future__ import annotations

import csv
import glob
import gzip
import re
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Final

from aegis_core.errors import FileUnreadable, did_you_mean
from aegis_core.store.connection import literal

_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": ",", ".asc": ",", ".parquet": "", ".pq": ""}
_DELIMITERS = (",", ";", "\t", "|")
_LOOKED_AT: Final = 20
"""Lines among which the names of the columns are looked for."""
_END: Final = 1 << 16
"""Bytes of the end of a text in which its last lines are."""
_SIGNATURES = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a ZIP archive or spreadsheet",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"SQLite": "an SQLite database",
    b"%PDF": "a PDF",
}


def find_files(
    files: Iterable[Path | str],
    encoding: str = "",
    message_of: Callable[[Path], str] = lambda path: "",
) -> list[Path]:
    """The files that paths and globs name, each once, checked to be what their names say.

    `encoding` is that of texts, as `said.Said.encoding`; `message_of` tells of a file which
    messages it holds, where its name need not say what it is.

    Raises
    ------
    FileUnreadable
        Nothing is there, or it is a folder, empty, or of another kind than its name says.
    """
    found: list[Path] = []
    for given in files:
        path = Path(given).expanduser()
        if path.exists():
            found.append(path)
            continue
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            what = "No file matches" if glob.has_magic(str(path)) else "There is no file"
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise FileUnreadable(f"{what} {given}.{did_you_mean(path.name, beside)}")
        found += matches
    if not found:
        raise FileUnreadable("No file was given; name at least one, such as data/*.csv.")
    unique = list({path.resolve(): path for path in found}.values())
    for path in unique:
        if path.is_dir() or not message_of(path):
            _check_is_what_it_says(path, encoding)
    return unique


def _delimiter(path: Path) -> str:
    return _SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix, "")


def _check_is_what_it_says(path: Path, encoding: str) -> None:
    if path.is_dir():
        raise FileUnreadable(f"{path} is a folder; name its files, such as '{path}/*.csv'.")
    zipped = path.name.lower().endswith(".gz")
    if Path(path.name.lower().removesuffix(".gz")).suffix not in _SUFFIXES:
        raise FileUnreadable(
            f"{path}: its name does not say what it is. It may end in {', '.join(_SUFFIXES)}, "
            "text also with .gz. Messages of banks are known by their beginning, or by --preset; "
            "--list-presets tells which."
        )
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(max(0, path.stat().st_size - 4))
            tail = file.read(4)
        if not head:
            raise FileUnreadable(f"{path} is empty.")
        looks_like = next((k for s, k in _SIGNATURES.items() if head.startswith(s)), "text")
        expected = "gzip" if zipped else "text" if _delimiter(path) else "a Parquet file"
        if encoding == "utf-16" and expected == "text":
            expected = "UTF-16 text"
        if looks_like != expected:
            raise FileUnreadable(
                f"{path} is not {expected}, as its name says; it looks like {looks_like}."
            )
        if expected == "a Parquet file" and tail != b"PAR1":
            raise FileUnreadable(f"{path} is cut off: a Parquet file ends in PAR1. Copy it again.")
        if zipped:  # DuckDB takes a damaged gzip for one that ends early
            with gzip.open(path) as unzipped:
                while unzipped.read(1 << 20):
                    pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise FileUnreadable(f"{path} is damaged or cut off: {e}. Copy it again.") from e
    except OSError as e:
        raise FileUnreadable(f"{path} cannot be read: {e.strerror}.") from e


def relation_of(path: Path, encoding: str = "", skip: int = 0) -> tuple[str, list[str], int]:
    """The SQL that reads a file, the names of its columns, and how many lines stand before these.

    Every text is read as it is written. A first line `sep=;`, as spreadsheets write it, says what
    parts the columns. Where `skip` does not say how many lines come before the names, they are
    found: the first line with as many words as most of the lines after it have columns.
    """
    file = literal(glob.escape(str(path.absolute())))
    delimiter = _delimiter(path)
    if not delimiter:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names = _distinct(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as e:
            raise FileUnreadable(f"{path} cannot be read as Parquet: {str(e)[:300]}") from e
        return f"read_parquet({file}, hive_partitioning=false)", names, 0
    try:
        with _text(path, encoding, "surrogateescape") as text:
            lines = [text.readline(1 << 20) for _ in range(skip + _LOOKED_AT)]
            if not skip and (said := re.fullmatch(r"\"?sep=(.)\"?\s*", lines[0])):
                delimiter, skip = said[1], 1
            elif delimiter == ",":
                delimiter = max(_DELIMITERS, key=lines[skip].count)
                if not skip:
                    delimiter, skip = _header(lines, delimiter)
            names = _distinct(next(csv.reader(chain(lines[skip:], text), delimiter=delimiter)))
            "".join([*lines[:skip], *names]).encode()
    except (UnicodeEncodeError, csv.Error) as e:
        raise FileUnreadable(
            f"{path} is not UTF-8 text with a line of names first. Another encoding is said with "
            "--encoding latin-1 or utf-16."
        ) from e
    if not names or "\0" in "".join(lines[: skip + 1]):
        raise FileUnreadable(f"{path} is not text with a line of names first.")
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    return (
        (
            f"read_csv({file}, auto_detect=false, columns={{{columns}}}, header=true, "
            f"skip={skip}, encoding={literal(encoding or 'utf-8')}, "
            f"delim={literal(delimiter)}, quote='\"', escape='\"', hive_partitioning=false, "
            "ignore_errors=true, store_rejects=true, rejects_table='aegis_broken', "
            "rejects_scan='aegis_scans')"
        ),
        names,
        skip,
    )


def last_lines(path: Path, encoding: str = "") -> list[str]:
    """The last lines of a text that say anything, the very last one first."""
    with _text(path, encoding, "replace") as text:
        if not path.name.lower().endswith(".gz"):
            text.seek(max(0, path.stat().st_size - _END) // 2 * 2)
        return [line.strip() for line in deque(text, maxlen=100) if line.strip()][::-1]


def _text(path: Path, encoding: str, errors: str) -> IO[str]:
    coded = encoding.replace("utf-8", "") or "utf-8-sig"
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding=coded, errors=errors, newline="")


def _header(lines: Sequence[str], delimiter: str) -> tuple[str, int]:
    """What parts the columns, and the number of the line that names them; the first by default."""
    most, found = 0, (delimiter, 0)
    for sign in dict.fromkeys((delimiter, *_DELIMITERS)):
        rows = [next(csv.reader([line], delimiter=sign), []) for line in lines if line]
        widths = Counter(len(row) for row in rows[1:] if len(row) > 2).most_common(1)
        width, n = widths[0] if widths else (0, 0)
        named = (
            2 * sum(map(bool, map(str.strip, rows[0]))) > width
        )  # a title filled up is mostly empty
        if sign == delimiter and len(rows[0]) == width and named:
            return found
        words = (i for i, row in enumerate(rows) if len(row) == width and all(map(_is_word, row)))
        if n > most and (first := next(words, 0)):
            most, found = n, (sign, first)
    return found


def _is_word(text: str) -> bool:
    return re.match(r"\s*[^\W\d]", text) is not None


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns that differ for SQL, which does not tell upper from lower case.

    >>> _distinct(["a", "A", ""])
    ['a', 'A_2', 'column_3']
    """
    seen: set[str] = set()
    distinct = []
    for i, given in enumerate(names, 1):
        name = given.strip() or f"column_{i}"
        if name.lower() in seen:
            name = f"{name}_{i}"
        seen.add(name.lower())
        distinct.append(name)
    return distinct
