"""What an analyst says of a case: an answer about all of it or some, or not to ask for a while."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from aegis_core.errors import InputError
from aegis_core.review.answers import NEWEST, STANDING, UNDO_S, answer_all, named, settle, utc_now
from aegis_core.review.caseload import inside, let_go, require_free
from aegis_core.store import Store
from aegis_core.store.session import Session


@dataclass(frozen=True)
class Asked:
    """What is open in a case, or some of it, and whether that is `whole` of it."""

    case_id: str
    customer_id: str
    transaction_ids: tuple[str, ...]
    n_said: tuple[int, ...]
    whole: bool


def asked(
    source: Store | Session,
    case_id: str,
    analyst: str,
    transaction_ids: Sequence[str] | None = None,
) -> Asked:
    """All that an analyst is asked in a case, or about some transactions of it.

    Raises
    ------
    InputError
        The case is not open, or a transaction is not open in it.
    """
    rows = inside(source, case_id, analyst=named(analyst))
    said = {row["transaction_id"]: int(row["n_said"]) for row in rows if row["open"]}
    ids = tuple(said if transaction_ids is None else dict.fromkeys(transaction_ids))
    if strange := [name for name in ids if name not in said]:
        raise InputError(f"{strange[0]!r} is not open in the case {case_id!r}.")
    if not ids:
        raise InputError(f"Nothing is open in the case {case_id!r}.")
    counts = tuple(said[name] for name in ids)
    return Asked(case_id, rows[0]["customer_id"], ids, counts, len(ids) == len(said))


def answer_case(
    store: Store,
    case_id: str,
    answer: str,
    *,
    analyst: str,
    note: str = "",
    transaction_ids: Sequence[str] | None = None,
    hold_s: float = UNDO_S,
    now: dt.datetime | None = None,
) -> list[str]:
    """Answer all that is open in a case, or some of it, in one go; the reviews' ids.

    The answers become labels after `hold_s`, see `reviews`. A case without anything open is
    released.

    Raises
    ------
    InputError
        The case is not open, another analyst holds its customer, or a transaction is not of it.
    """
    found = asked(store, case_id, analyst, transaction_ids)
    return give(store, found, answer, analyst=analyst, note=note, hold_s=hold_s, now=now)


def give(
    store: Store,
    found: Asked,
    answer: str,
    *,
    analyst: str,
    note: str = "",
    hold_s: float = UNDO_S,
    now: dt.datetime | None = None,
) -> list[str]:
    """Answer what `asked` found, unless somebody did meanwhile; see `answer_case`."""
    who, moment = named(analyst), now or utc_now()
    with store.writing(checkpoint=False) as session:
        settle(session, now=moment)
        require_free(session, found.customer_id, who, moment)
        said = {
            row["transaction_id"]: row["n"]
            for row in session.rows(
                f"SELECT transaction_id, count(DISTINCT analyst) AS n FROM ({STANDING}) "
                "WHERE list_contains(?, transaction_id) GROUP BY transaction_id",
                [list(found.transaction_ids)],
            )
        }
        if tuple(said.get(name, 0) for name in found.transaction_ids) != found.n_said:
            raise InputError(f"The case {found.case_id!r} was answered meanwhile; look again.")
        made = answer_all(
            store, found.transaction_ids, answer, analyst=who, note=note, hold_s=hold_s, now=moment
        )
        if found.whole:
            let_go(session, who, moment)
    return made


def snooze(
    store: Store,
    customer_id: str,
    until: str,
    *,
    analyst: str,
    why: str,
    now: dt.datetime | None = None,
) -> str:
    """Ask nothing about a customer until a date on the transactions' clock; the entry's id.

    See `lists.add`; the analyst lets go of what they held.

    Raises
    ------
    InputError
        The customer has no transactions, or the date or the reason is missing or no longer to come.
    """
    from aegis_core.review.lists import add

    who, moment = named(analyst), now or utc_now()
    with store.writing(checkpoint=False) as session:
        (there,) = session.rows(
            f"SELECT count(*) AS n, ({NEWEST}) AS newest FROM transactions WHERE customer_id = ?",
            [customer_id],
        )
        if not there["n"]:
            raise InputError(f"There is no customer {customer_id!r}.")
        entry = add(store, "snooze", customer_id, until=until, who=who, why=why)
        if entry.until is None or entry.until <= there["newest"]:
            raise InputError(
                f"until must lie after {there['newest']:%Y-%m-%d %H:%M}, the time of the newest "
                "transactions."
            )
        let_go(session, who, moment)
    return entry.entry_id
