"""A producer of transactions: what any client of the service does, in Python's own HTTP."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa

from aegis_core.errors import AegisError, InputError, StoreBusy
from aegis_core.store import Store

PATIENCE_S = 15.0
"""How long a service that is away or busy is asked again."""
SENT = (
    *("transaction_id", "customer_id", "amount", "currency", "merchant_id", "category"),
    *("channel", "lat", "lon"),
)
"""What is sent of a transaction as it is; its time is sent as `timestamp`."""


class Client:
    """Sends transactions to a running service and returns its verdicts.

    Parameters
    ----------
    address : such as `http://127.0.0.1:8000`.
    token : the one that the service asks for.
    """

    def __init__(self, address: str, token: str, *, timeout_s: float = 30.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"target must be an address such as http://127.0.0.1:8000, not {address!r}."
            )
        if not token:
            raise InputError(
                "The service asks for a token: set AEGIS_TOKEN, or run beside the database whose "
                "token file it made."
            )
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self.address = address
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def take(
        self, rows: pa.Table, source: str = "", labels: pa.Table | None = None
    ) -> pd.DataFrame:
        """Send `rows` as one batch; the verdicts on those that were accepted.

        As `live.Stream.take`, except that the service says itself where rows come from, and that
        nobody tells it labels: it learns from answers.

        Raises
        ------
        StoreBusy
            The service cannot be reached, or has no room or no disk.
        InputError
            It refuses the token.
        """
        sent = rows.select([c for c in SENT if c in rows.column_names]).to_pylist()
        times = rows.column("ts").to_pylist()
        for row, moment in zip(sent, times, strict=True):
            row["timestamp"] = moment.isoformat()
        told = self._post("/v1/transactions:batch", sent)
        accepted = [i for i, answer in enumerate(told) if "decision" in answer]
        verdicts = pd.DataFrame(
            [told[i] for i in accepted],
            columns=["transaction_id", "decision", "risk", "score", "reasons", "seq"],
        )
        asked = {
            c: [sent[i].get(c) for i in accepted] for c in ("customer_id", "amount", "currency")
        }
        return verdicts.assign(**asked, ts=[times[i] for i in accepted])

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _post(self, path: str, content: object) -> list[dict[str, Any]]:
        """The answer to one request; a service that is away or busy is asked again for a while.

        Asking again is safe: a transaction that was kept gets the verdict it has.
        """
        body, patient_until = json.dumps(content), time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._once(path, body)
            except StoreBusy:
                if time.monotonic() > patient_until:
                    raise
                time.sleep(min(0.5, PATIENCE_S))

    def _once(self, path: str, body: str) -> list[dict[str, Any]]:
        try:
            self._connection.request("POST", path, body, self._headers)
            response = self._connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()
            raise StoreBusy(
                f"The service at {self.address} does not answer ({e or type(e).__name__}); start "
                "it with `aegis serve`."
            ) from e
        if response.status == 200:
            told: list[dict[str, Any]] = json.loads(said)
            return told
        detail = _detail(said)
        if response.status == 401:
            raise InputError(f"The service at {self.address} refuses the token: {detail}")
        kind: type[AegisError] = StoreBusy if response.status in (429, 503) else InputError
        raise kind(f"The service at {self.address} answered {response.status}: {detail}")


def kept_token(store: Store) -> str:
    """The token that a service on this database made on its first start, "" if there is none.

    Raises
    ------
    InputError
        The file can be read by others.
    """
    path = token_file(store)
    if not path.exists():
        return ""
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path} can be read by others; `chmod 600` it or delete it.")
    return path.read_text().strip()


def token_file(store: Store) -> Path:
    """Where a service keeps its token: beside the database, readable by its owner alone."""
    return store.path.with_name(store.path.name + ".token")


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
