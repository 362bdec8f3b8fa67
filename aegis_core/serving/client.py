"""Clients of the service, in Python's own HTTP: a producer of transactions, an analyst's desk.

Importing this module imports neither pandas nor pyarrow: an analyst's page lives without them.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from aegis_core.config import Settings
from aegis_core.errors import InputError, StoreBusy
from aegis_core.review import answers, cases, statistics
from aegis_core.schema import COLUMNS, TIME
from aegis_core.store import Store
from aegis_core.store.endpoint import find

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PATIENCE_S = 15.0
"""How long a service that is away or busy is asked again."""
DESK_TIMEOUT_S: Final = 15.0
"""How long an analyst waits for one answer."""
SENT: Final = tuple(column.name for column in COLUMNS if column.kind != TIME)
"""What is sent of a transaction as it is; its time is sent as `timestamp`."""


class Client:
    """A connection to a running service: sends transactions to it and returns its verdicts.

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

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """The answer to one request.

        Raises
        ------
        StoreBusy : The service cannot be reached, or has no room or no disk.
        InputError : It refuses the token or the content.
        """
        try:
            self._connection.request(
                method, path, None if content is None else json.dumps(content), self._headers
            )
            response = self._connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()
            raise StoreBusy(
                f"The service at {self.address} does not answer ({e or type(e).__name__}); start "
                "it with `aegis serve`."
            ) from e
        if response.status in (200, 201):
            return json.loads(said)
        detail = _detail(said)
        if response.status == 401:
            raise InputError(f"The service at {self.address} refuses the token: {detail}")
        told = f"The service at {self.address} answered {response.status}"
        if response.status in (429, 503):
            raise StoreBusy(f"{told}: {detail}")
        raise _Refused(told, detail)

    def take(
        self, rows: pa.Table, source: str = "", labels: pa.Table | None = None
    ) -> pd.DataFrame:
        """Send `rows` as one batch; the verdicts on those that were accepted.

        As `Engine.take`, except that the service says itself where rows come from, and that
        nobody tells it labels: it learns from answers. Raises what `ask` does, after `PATIENCE_S`,
        and `InputError` where it refuses all of them.
        """
        import pandas as pd

        sent = rows.select([c for c in SENT if c in rows.column_names]).to_pylist()
        times = rows.column("ts").to_pylist()
        for row, moment in zip(sent, times, strict=True):
            row["timestamp"] = moment.isoformat()
        told = self.send(sent)
        accepted = [i for i, answer in enumerate(told) if "decision" in answer]
        if told and not accepted:
            raise InputError(
                f"The service at {self.address} refused all {len(told):,} transactions, the first "
                f"since its {told[0]['error']}. Times of a simulation need a service that was "
                "started with AEGIS_FUTURE_MINUTES=0."
            )
        verdicts = pd.DataFrame(
            [told[i] for i in accepted],
            columns=["transaction_id", "decision", "risk", "score", "reasons", "seq"],
        )
        asked = {
            c: [sent[i].get(c) for i in accepted] for c in ("customer_id", "amount", "currency")
        }
        return verdicts.assign(**asked, ts=[times[i] for i in accepted])

    def send(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send transactions as they go over REST; the answer to each. Raises as `take`."""
        told: list[dict[str, Any]] = self._post("/v1/transactions:batch", rows)
        return told

    def keep(self, refused: list[dict[str, Any]]) -> int:
        """Send rows that were refused here, each `raw` with its `reason`; how many are new there.

        Raises as `take`.
        """
        return int(self._post("/v1/transactions:refused", refused)["new"])

    def _post(self, path: str, content: object) -> Any:
        """The answer to one request; a service that is away or busy is asked again for a while.

        Asking again is safe: a transaction that was kept gets the verdict it has.
        """
        patient_until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.ask("POST", path, content)
            except StoreBusy:
                if time.monotonic() > patient_until:
                    raise
                time.sleep(min(0.5, PATIENCE_S))


class _Refused(InputError):
    """What the service does not take; `detail` is what it says of it."""

    def __init__(self, told: str, detail: str) -> None:
        super().__init__(f"{told}: {detail}")
        self.detail = detail


class Desk:
    """What an analyst does at the queue: through the service where one runs, else in the database.

    Each call looks whether a process owns the database and answers over REST: its endpoint file
    beside the database says so, with the address and a token. Without such a process the same
    functions of `cases`, `answers` and `budgets` are called here, so that what is written is the
    same. A service that is away in the middle is told as `StoreBusy`; nothing is tried twice.

    Every answer bears the name of `analyst`.
    """

    def __init__(self, store: Store, settings: Settings, analyst: str) -> None:
        self.store, self.settings = store, settings
        self.analyst = answers.named(analyst)

    def served(self) -> str:
        """The address of the service, "" where none runs."""
        found = find(self.store.path)
        return found.rest if found is not None else ""

    def claim(self, case_id: str = "", *, order: str = "risk", after: str = "") -> str:
        """Keep a case, or the next one; its id, "" where nothing is free."""
        asked = {"case_id": case_id or None, "order": order, "after": after or None}
        made = self._do("/v1/cases/claim", asked)
        return str(made["case_id"]) if made else ""

    def release(self) -> None:
        """Let go of what this analyst holds."""
        self._do("/v1/cases/release", {})

    def answer(
        self, case_id: str, answer: str, *, note: str = "", only: Sequence[str] = ()
    ) -> list[str]:
        """Answer all of a case, or `only` some transactions; the reviews' ids, to be undone."""
        asked = {"case_id": case_id, "answer": answer, "note": note}
        return list(self._do("/v1/cases/answer", {**asked, "transaction_ids": list(only) or None}))

    def undo(self, review_ids: Sequence[str]) -> list[str]:
        """Take answers back; the transactions they were about."""
        return list(self._do("/v1/reviews/undo", {"review_ids": list(review_ids)}))

    def publish(self) -> None:
        """Make labels of what can no longer be undone; a service does so by itself."""
        if not self.served():
            answers.publish(self.store)

    def snooze(self, customer_id: str, until: str, why: str) -> None:
        """Ask nothing about a customer until a date."""
        asked = {"customer_id": customer_id, "until": until, "why": why}
        self._do("/v1/cases/snooze", asked, most_days=self.settings.snooze_days)

    def statistics(self) -> dict[str, Any]:
        """How the queue does; see `statistics.statistics`."""
        return self._asked("GET", "/v1/cases/statistics") or statistics.statistics(self.store)

    def what_if(self, days: float = 7.0) -> dict[str, Any]:
        """What other budgets would have done; see `budgets.of_verdicts`."""
        path = f"/v1/cases/what-if?days={quote(str(float(days)))}"
        if (told := self._asked("GET", path)) is not None:
            return dict(told)
        from aegis_core.evaluation.budgets import of_verdicts

        return of_verdicts(self.store, self.settings, days=days)

    def propose(self, alert_budget: float, note: str = "") -> str:
        """Record a proposal of a budget; its id."""
        return str(self._do("/v1/proposals", {"alert_budget": alert_budget, "note": note}))

    def _do(self, path: str, asked: dict[str, Any], **of_settings: Any) -> Any:
        """What a service answers, or without one the function behind that part of it."""
        name, function = _CALLS[path]
        given = {k: v for k, v in asked.items() if v is not None} | {"analyst": self.analyst}
        if (told := self._asked("POST", path, given)) is not None:
            return told[name]
        return function(self.store, **given, **of_settings)

    def _asked(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        """What the service says; None where none runs."""
        found = find(self.store.path)
        if found is None or not found.rest:
            return None
        line = Client(found.rest, found.desk_token, timeout_s=DESK_TIMEOUT_S)
        try:
            return line.ask(method, path, content)
        except _Refused as e:
            raise InputError(e.detail) from None  # in the words that a page can show
        finally:
            line.close()


def _claimed(store: Store, **asked: Any) -> dict[str, Any] | None:
    made = cases.claim(store, **asked)
    return None if made is None else vars(made)


def _proposed(store: Store, **asked: Any) -> str:
    from aegis_core.evaluation.budgets import propose

    return propose(store, **asked)


_CALLS: Final[dict[str, tuple[str, Callable[..., Any]]]] = {
    "/v1/cases/claim": ("claim", _claimed),
    "/v1/cases/release": ("released", cases.release),
    "/v1/cases/answer": ("review_ids", cases.answer_case),
    "/v1/reviews/undo": ("transaction_ids", answers.undo),
    "/v1/cases/snooze": ("entry_id", cases.snooze),
    "/v1/proposals": ("proposal_id", _proposed),
}
"""What an analyst may ask for: the name of the service's answer, and the function behind it."""


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
