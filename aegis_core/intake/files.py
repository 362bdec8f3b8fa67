"""Files from outside: found, checked to be what their names say, and read by SQL."""

from __future__ import annotations

import csv
import glob
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

from aegis_core.errors import FileUnreadable, did_you_mean
from aegis_core.store.connection import literal

_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": ",", ".parquet": "", ".pq": ""}
_DELIMITERS = (",", ";", "\t", "|")
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


def relation_of(path: Path, encoding: str = "") -> tuple[str, list[str]]:
    """The SQL that reads a file, every text as it is written, and the names of its columns.

    A first line `sep=;`, as spreadsheets write it, says what parts the columns.
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
        return f"read_parquet({file}, hive_partitioning=false)", names
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        coded = encoding.replace("utf-8", "") or "utf-8-sig"
        with opener(path, "rt", encoding=coded, errors="surrogateescape", newline="") as text:
            first = text.readline(1 << 20)
            if said := re.fullmatch(r"\"?sep=(.)\"?\s*", first):
                delimiter, first = said[1], text.readline(1 << 20)
            elif delimiter == ",":
                delimiter = max(_DELIMITERS, key=first.count)
            names = _distinct(next(csv.reader(chain([first], text), delimiter=delimiter)))
            "".join(names).encode()
    except (UnicodeEncodeError, csv.Error) as e:
        raise FileUnreadable(
            f"{path} is not UTF-8 text with a line of names first. Another encoding is said with "
            "--encoding latin-1 or utf-16."
        ) from e
    if not names or "\0" in first:
        raise FileUnreadable(f"{path} is not text with a line of names first.")
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({file}, auto_detect=false, columns={{{columns}}}, header=true, "
        f"skip={int(said is not None)}, encoding={literal(encoding or 'utf-8')}, "
        f"delim={literal(delimiter)}, quote='\"', escape='\"', hive_partitioning=false, "
        "ignore_errors=true, store_rejects=true, rejects_table='aegis_broken', "
        "rejects_scan='aegis_scans')"
    ), names


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
