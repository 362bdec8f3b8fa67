"""Which messages there are, how a file of them is recognised, and the table that is made of it."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from aegis_core.errors import FileUnreadable
from aegis_core.intake.messages import iso8583, iso20022, statements
from aegis_core.intake.messages.parts import LONGEST, NAMES, Item, NotWhole, Refused, Skipped
from aegis_core.intake.said import Said

_BATCH: Final = 10_000
_FEW: Final = 50
"""Rows that are written together; of messages that are refused, each may be long."""
_HEAD: Final = 1 << 16
_FILES: Final = (".csv", ".tsv", ".parquet", ".pq")


@dataclass(frozen=True)
class Format:
    """A kind of message: what it is, and what reads it."""

    about: str
    read: Callable[[BinaryIO, str, Said], Iterator[Item]]


def _iso20022(file: BinaryIO, form: str, said: Said) -> Iterator[Item]:
    return iso20022.read(file, form)


FORMATS: Final = {
    "camt.053": Format("ISO 20022: statements of accounts; no places", _iso20022),
    "camt.054": Format("ISO 20022: debits and credits as they are booked; no places", _iso20022),
    "pacs.008": Format("ISO 20022: transfers between banks; no places", _iso20022),
    "mt940": Format("SWIFT: statements; days without an hour, no places", statements.read_mt940),
    "bai2": Format("statements; days without an hour, no places", statements.read_bai2),
    "iso8583": Format("card messages, a line each; only when said", iso8583.read),
    "iso8583-length2": Format("the same, each after its length in two bytes", iso8583.read),
    "iso8583-length4": Format("the same, each after its length in four digits", iso8583.read),
}
"""Every kind of message by its name."""
_LOOKS: Final = {
    r"urn:iso:std:iso:20022:tech:xsd:camt\.053\.": "camt.053",
    r"urn:iso:std:iso:20022:tech:xsd:camt\.054\.": "camt.054",
    r"urn:iso:std:iso:20022:tech:xsd:pacs\.008\.": "pacs.008",
    r"(?m)^:20:[^\n]*\n(:21:[^\n]*\n)?:25P?:": "mt940",
    r"\A\s*01,[^,\n]*,[^,\n]*,[0-9]{6},[0-9]{4},": "bai2",
}


def recognised(path: Path, preset: str | None = None) -> str:
    """Which messages a file holds, by what somebody says or by how it begins; "" for none.

    A file is no message by its beginning where its name says what it is, or somebody does.
    """
    if preset or Path(path.name.lower().removesuffix(".gz")).suffix in _FILES:
        return preset if preset in FORMATS else ""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if path.name.lower().endswith(".gz"):  # also of one that is cut off
            head = zlib.decompressobj(31).decompress(head, _HEAD)
    except (OSError, zlib.error):
        return ""
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = head.decode("utf-16" if wide else "latin-1", "replace").replace("\r\n", "\n")
    return next((form for look, form in _LOOKS.items() if re.search(look, text)), "")


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


@dataclass
class Made:
    """The tables made of a file of messages.

    Attributes
    ----------
    rows, refused : Parquet files; of payments, and with `reason` and `raw` as in `rejected`.
    skipped : how many messages are no payments, by what they are.
    first_refused : the place of the first one that is refused.
    """

    rows: Path
    refused: Path
    skipped: Counter[str] = field(default_factory=Counter)
    first_refused: str = ""

    def remarks(self, name: str) -> list[str]:
        """What is to be said of the messages in a file of this name that are no payments."""
        told = ", ".join(f"{n:,} × {what}" for what, n in self.skipped.most_common(5))
        return [f"{name}: left out, since no payments: {told}."] if told else []


def as_tables(path: Path, form: str, said: Said, folder: Path) -> Made:
    """Read a file of messages into Parquet files in `folder`, some rows at a time.

    Of a file that cannot be read to its end nothing counts, and it is refused as one.

    Raises
    ------
    InputError : Something has to be said of it first, or a package is missing.
    FileUnreadable : The system does not let it be read.
    """
    import pyarrow as pa

    made = Made(folder / "rows.parquet", folder / "refused.parquet")
    kinds = {name: pa.float64() if name == "amount" else pa.string() for name in NAMES}
    refused = _Table(made.refused, {"reason": pa.string(), "raw": pa.string()}, _FEW)
    rows = _Table(made.rows, kinds, _BATCH)
    try:
        with _opened(path) as file:
            for item in FORMATS[form].read(file, form, said):
                if isinstance(item, Refused):
                    refused.add(_refusal(item))
                    made.first_refused = made.first_refused or item.place
                elif isinstance(item, Skipped):
                    made.skipped[item.what] += 1
                else:
                    rows.add(item)
    except (NotWhole, EOFError, gzip.BadGzipFile, zlib.error) as e:
        rows.restart()
        refused.restart()
        made.skipped.clear()
        made.first_refused = ""  # the reason says where
        with path.open("rb") as file:
            head = file.read(LONGEST).decode("utf-8", "replace")
        refused.add(_refusal(Refused("the whole file", head, f"a {form} that is not whole: {e}")))
    except OSError as e:
        raise FileUnreadable(f"{path} cannot be read: {e.strerror}.") from e
    rows.close()
    refused.close()
    return made


def _refusal(refused: Refused) -> dict[str, str]:
    told = {"place": refused.place, "message": refused.message}
    return {"reason": refused.reason, "raw": json.dumps(told, ensure_ascii=False)}


class _Table:
    """A Parquet file that is written some rows at a time."""

    def __init__(self, path: Path, kinds: dict[str, Any], most: int) -> None:
        self._path, self._kinds, self._most = path, kinds, most
        self.restart()

    def restart(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._waiting: list[dict[str, Any]] = []
        self._schema = pa.schema(list(self._kinds.items()))
        self._file = pq.ParquetWriter(self._path, self._schema)

    def add(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        if len(self._waiting) >= self._most:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        self._file.write_table(pa.Table.from_pylist(self._waiting, self._schema))
        self._waiting = []
