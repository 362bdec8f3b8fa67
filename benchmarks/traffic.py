"""The payments that are sent: the next ones of the history's population, each with a new id.

A few days of the population go round and round, each time later, so that millions can be sent at
the pace and with the habits that the profiles know, and cost the sender next to nothing.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from aegis_core.errors import InputError
from aegis_core.intake.synthetic import SyntheticConfig, stream
from aegis_core.serving.client import SENT

_DAY_S: Final = 86_400
_LAST: Final = dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp()


class Traffic:
    """Payments by number, without end; the same number is the same payment.

    Parameters
    ----------
    population :
        Whose payments these are; they follow its history.
    n :
        How many different ones there are. Number `i` is like number `i - n`, some days later.
    """

    def __init__(self, population: SyntheticConfig, n: int = 20_000) -> None:
        self.n = n
        self._rows = pa.concat_tables(
            [rows.unify_dictionaries() for rows, _ in stream(population, n)]
        ).unify_dictionaries()
        seconds = self._rows["ts"].to_numpy().astype("datetime64[s]").astype(np.int64)
        self.epoch = int(seconds[0]) // _DAY_S * _DAY_S
        self._at = seconds - self.epoch
        self.period_s = (int(self._at[-1]) // _DAY_S + 1) * _DAY_S
        fields = [c for c in self._rows.column_names if c in SENT and c != "transaction_id"]
        self._ends = [
            json.dumps(row, ensure_ascii=False, separators=(",", ":"))[1:]
            for row in self._rows.select(fields).to_pylist()
        ]

    def seconds(self, first: int, n: int) -> np.ndarray:
        """Times of payments `first` to `first + n`, in seconds since 1970.

        Raises
        ------
        InputError
            They come to lie after the year 2100, which nothing takes.
        """
        number = np.arange(first, first + n)
        times: np.ndarray = (
            self.epoch + self._at[number % self.n] + number // self.n * self.period_s
        )
        if n and times[-1] >= _LAST:
            raise InputError(
                f"Payment {first + n:,} would be made after 2100; send fewer, or make the history "
                "larger, so that its days hold more."
            )
        return times

    def lines(self, prefix: str, first: int, n: int) -> list[bytes]:
        """Payments as JSON, each with the id `prefix` and its number."""
        times = self.seconds(first, n).astype("datetime64[s]").astype(str)
        return [
            f'{{"transaction_id":"{prefix}{first + i}","timestamp":"{time}Z",'
            f"{self._ends[(first + i) % self.n]}".encode()
            for i, time in enumerate(times)
        ]

    def bodies(self, prefix: str, first: int, n_bodies: int, rows: int, kind: str) -> list[bytes]:
        """Batches of `rows` payments each; `kind` is `ndjson` or `json`, an array."""
        start, between, end = {"ndjson": (b"", b"\n", b"\n"), "json": (b"[", b",", b"]")}[kind]
        return [
            start + between.join(self.lines(prefix, first + k * rows, rows)) + end
            for k in range(n_bodies)
        ]

    def table(self, prefix: str, first: int, n: int) -> pa.Table:
        """Payments as `Engine.take` wants them."""
        number = np.arange(first, first + n)
        rows = self._rows.take(pa.array(number % self.n))
        ids = pa.array([f"{prefix}{i}" for i in number])
        times = pa.array(self.seconds(first, n).astype("datetime64[s]").astype("datetime64[us]"))
        names = rows.column_names
        return rows.set_column(names.index("transaction_id"), "transaction_id", ids).set_column(
            names.index("ts"), "ts", times
        )

    def write(self, path: Path) -> Path:
        """The file that `payments.lua` reads."""
        with path.open("w", encoding="utf-8") as f:
            f.write(f"{self.epoch} {self.period_s}\n")
            f.writelines(f"{t}\t{e}\n" for t, e in zip(self._at, self._ends, strict=True))
        return path
