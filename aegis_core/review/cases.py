"""Cases: the analysts' queue of open alerts, who works on which, and answers about a whole one.

A **case** is what one customer did in one burst: the alerts (and drawn audit transactions) of a
customer with no more than `GAP_MINUTES` between one and the next, by the transactions' own time. It
is named after the first of them that arrived. A case is open as long as one of them has no answer
that stands; of the audit sample, every `SECOND_OPINION`-th transaction is asked a second time, of
another analyst, so that agreement can be told. Customers who are snoozed are left out until the
transactions' clock has reached the end of it.

A **claim** keeps a case for one analyst for `CLAIM_S`. Claims are only ever added, each with the
next number (`turn`) of its customer, and the last one decides: so nobody else works on a customer
meanwhile, also where late alerts make one case of two. The number is the table's key: of two
processes that claim at the same moment one is refused, whoever writes. An analyst holds one case
at a time. A clock that is set back makes claims last longer, by `CLAIM_S` at most, and never two.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import call
from typing import Any, Final, NamedTuple

from aegis_core.errors import InputError, StoreError
from aegis_core.machine import utc_now
from aegis_core.review.answers import NEWEST, STANDING, UNDO_S, answer_all, named
from aegis_core.schema import ENTITIES, SNOOZE_DAYS, WORTH, WORTH_IN
from aegis_core.store import Store, floods
from aegis_core.store.session import Session

Keep = Callable[[Callable[[], Any]], Any]
"""How a writing follows the reading before it, which takes time; a service has its own way."""
GAP_MINUTES: Final = 60
"""The longest pause within a case."""
CLAIM_S: Final = 600.0
"""How long a claim lasts, in seconds."""
SECOND_OPINION: Final = 5
"""Of so many audit transactions one is asked twice."""
SAMPLE: Final = 5
"""Cases of a campaign that go before all others where the queue is sorted by `sample`."""
ORDERS: Final = {
    "risk": "leads DESC, weight DESC, oldest, case_id",
    "age": "oldest, weight DESC, case_id",
    "sample": f"place > {SAMPLE}, weight DESC, oldest, case_id",
}
"""How the queue may be sorted: by risk × amount, the largest first; by age, the oldest first; or,
in a storm, by risk × amount with only a sample of each campaign, also of those of one reason.

Before the largest by risk × amount goes the worst case of each campaign most of which the exact
counter found, since at stake there is what the cards can lose, and not what a try of them costs."""
MOST_CASES: Final = 5_000
"""Cases that a queue holds at most; it counts all of them."""
_OF_PAYMENT: Final = ", ".join(f"t.{name}" for name in ENTITIES)
_OF_CASE: Final = ", ".join(
    f"arg_max({name}, risk * worth) FILTER (open) AS {name}" for name in ENTITIES
)
_NOT_OPEN: Final = "There is no open case {!r}; it may have been answered."

_ASKED: Final = f"""
    WITH standing AS ({STANDING}),
    answered AS (
      SELECT transaction_id, count(DISTINCT analyst) AS n, bool_or(analyst = $analyst) AS mine,
        max(answered_at) AS at
      FROM standing GROUP BY transaction_id),
    judged AS (
      SELECT v.seq, v.transaction_id, coalesce(answered.n, 0) AS n_answered, t.customer_id, t.ts,
        t.amount, t.currency, {WORTH} AS worth, {WORTH_IN} AS unit,
        t.base_currency IS NOT NULL AND t.rate IS NULL AS no_rate, {_OF_PAYMENT}, v.decision,
        v.risk, v.score, v.inclusion, v.scored_at, v.replayed_at IS NOT NULL AS replayed,
        v.reasons[1].text AS why, v.reasons[1].code AS code,
        coalesce(answered.n, 0) = 0 OR (answered.at < v.scored_at  -- of the try that it was before
            AND lag(v.seq) OVER (PARTITION BY v.transaction_id ORDER BY v.seq) IS NOT NULL)
          OR (answered.n = 1 AND v.inclusion < 1 AND $analyst != ''
          AND NOT answered.mine AND hash(v.transaction_id) % {SECOND_OPINION} = 0) AS open
      FROM verdicts v JOIN transactions t USING (seq)
        LEFT JOIN answered ON answered.transaction_id = v.transaction_id
      WHERE v.inclusion <= 1),  -- neither null nor, of old, NaN
    asked AS (
      SELECT *, coalesce(ts - lag(ts) OVER of_customer > INTERVAL {GAP_MINUTES} MINUTE, true)
        AS begins
      FROM judged WHERE customer_id IN (SELECT customer_id FROM judged WHERE open)
      WINDOW of_customer AS (PARTITION BY customer_id ORDER BY ts, seq)),
    numbered AS (
      SELECT *, sum(begins::INT) OVER (PARTITION BY customer_id ORDER BY ts, seq) AS burst
      FROM asked),
    cased AS (
      SELECT *, first(transaction_id) OVER (PARTITION BY customer_id, burst ORDER BY seq) AS case_id
      FROM numbered)
"""
SNOOZED: Final = f"""
    SELECT value, until, who, why FROM lists
    WHERE kind = 'snooze' AND ends IS NULL AND until > ({NEWEST})
      AND entry_id NOT IN (SELECT ends FROM lists WHERE ends IS NOT NULL)"""
"""A query: the customers about whom nothing is asked, until when, and who said so and why."""
_TAKEN: Final = f"""
    SELECT customer_id, arg_max(case_id, turn) AS claimed, arg_max(analyst, turn) AS holder,
      arg_max(until, turn) AS until
    FROM claims GROUP BY customer_id
    HAVING max(turn) FILTER (released_at IS NOT NULL) IS DISTINCT FROM max(turn)
      AND $now < arg_max(until, turn)
      AND arg_max(claimed_at, turn) <= $now + to_seconds({CLAIM_S})"""
QUEUE: Final = f"""
    {_ASKED},
    cases AS (
      SELECT case_id, customer_id, count(*) AS n_all, count(*) FILTER (open) AS waiting,
        min(ts) FILTER (open) AS first_ts, max(ts) FILTER (open) AS last_ts,
        bool_and(no_rate) FILTER (open) AND count(DISTINCT currency) = 1 AS unconverted,
        CASE WHEN unconverted THEN sum(amount) FILTER (open) ELSE sum(worth) FILTER (open) END
          AS amount,
        CASE WHEN unconverted THEN min(currency)
          WHEN count(DISTINCT unit) = 1 THEN nullif(min(unit), '') END AS currency,
        max(risk) FILTER (open) AS risk,
        sum(worth * risk / 100) FILTER (open) AS weight,
        count(*) FILTER (open AND decision = 'block') AS n_blocked,
        bool_and(inclusion < 1) FILTER (open) AS audit, bool_or(replayed) FILTER (open) AS replayed,
        arg_max(why, risk) FILTER (open) AS why,
        arg_max(code, risk) FILTER (open) AS code,
        {_OF_CASE},
        min(scored_at) FILTER (open) AS oldest
      FROM cased GROUP BY case_id, customer_id HAVING count(*) FILTER (open) > 0),
    taken AS ({_TAKEN}),
    asleep AS (SELECT DISTINCT value FROM ({SNOOZED}))
    SELECT cases.*, taken.holder, taken.until, asleep.value IS NOT NULL AS asleep
    FROM cases LEFT JOIN taken USING (customer_id)
      LEFT JOIN asleep ON asleep.value = cases.customer_id
"""
_KINDS: Final = ", ".join(ENTITIES)
_ALIKE: Final = f"""
    SELECT case_id AS id, customer_id, oldest AS since, {_KINDS},
      CASE WHEN $by_reason THEN code END AS code
    FROM found WHERE NOT asleep AND NOT audit"""
_PLACED: Final = f"""
    {floods.waves(_ALIKE)},
    ranked AS (
      SELECT id, shared AS campaign, count(*) OVER of_one AS alike,
        row_number() OVER (of_one ORDER BY weight DESC, id) AS place,
        place = 1 AND 2 * count(*) FILTER (found.code LIKE '%-LIMIT') OVER of_one > alike AS leads
      FROM named JOIN found ON id = case_id WINDOW of_one AS (PARTITION BY kind, value, wave)),
    placed AS (
      SELECT found.*, campaign, coalesce(alike, 1) AS alike, coalesce(place, 1) AS place,
        coalesce(leads, false) AS leads
      FROM found LEFT JOIN ranked ON id = case_id WHERE NOT asleep)
"""
_INSIDE: Final = f"""
    {_ASKED}
    SELECT transaction_id, seq, customer_id, ts, amount, currency, merchant_id, decision, risk,
      score, inclusion, why, open, n_answered, replayed
    FROM cased WHERE case_id = $case_id ORDER BY ts, seq
"""


@dataclass(frozen=True)
class Queue:
    """The open cases, in their order.

    `cases` has at most as many rows as were asked for: `case_id`, `customer_id`, `n_all`
    transactions, `waiting` of them open, and of these `first_ts`, `last_ts`, `amount` (their sum
    in the base currency, or in their own where nobody knows a rate of it), `currency` (which; null
    where it is not known), `risk` (the highest, in
    [0, 100]), `weight` (the sum of risk × amount, risk as a share), `n_blocked`, `audit` (all are
    of the audit sample), `replayed` (one of them was), `why` and `oldest` (when the first was
    scored); `holder` and `until` of a claim on the customer, or null; `campaign` (what it shares
    with others, such as "at shop-7", or null), how many cases are `alike` in it, and its `place`
    among these, from 1 on.
    """

    cases: list[dict[str, Any]]
    n_open: int
    n_claimed: int
    n_asleep: int


@dataclass(frozen=True)
class Claim:
    """A case that an analyst holds until `until` (UTC)."""

    case_id: str
    customer_id: str
    analyst: str
    until: dt.datetime


def queue(
    source: Store | Session,
    *,
    order: str = "risk",
    analyst: str = "",
    limit: int = MOST_CASES,
    fold: bool = False,
    now: dt.datetime | None = None,
) -> Queue:
    """The open cases, in an order of `ORDERS`.

    An `analyst` who asks is also shown what needs a second opinion that they have not given. With
    `fold`, of each campaign only the worst case is told, and those that somebody holds.

    Raises
    ------
    InputError : There is no such order.
    """
    if order not in ORDERS:
        raise InputError(f"{order!r} is no order of the queue; there are {', '.join(ORDERS)}.")
    rows = source.rows(
        f"""WITH found AS MATERIALIZED ({QUEUE}), {_PLACED}, counted AS (
          SELECT count(*) FILTER (NOT asleep) AS n_open,
            count(holder) FILTER (NOT asleep) AS n_claimed,
            count(*) FILTER (asleep) AS n_asleep FROM found)
        SELECT counted.*, placed.* EXCLUDE (asleep, {_KINDS}, code, unconverted, leads)
        FROM counted LEFT JOIN placed ON NOT $fold OR place = 1 OR holder IS NOT NULL
        ORDER BY {ORDERS[order]} LIMIT {int(limit)}""",
        {"analyst": analyst, "now": now or utc_now(), "fold": fold,
         "by_reason": order == "sample"},
    )  # fmt: skip
    counts = ("n_open", "n_claimed", "n_asleep")
    cases = [{k: v for k, v in row.items() if k not in counts} for row in rows if row["case_id"]]
    return Queue(cases, *(int(rows[0][name]) for name in counts))


def inside(source: Store | Session, case_id: str, *, analyst: str = "") -> list[dict[str, Any]]:
    """The transactions of a case by time; `open` are those that wait for an answer of `analyst`.

    Raises
    ------
    InputError : No case that is open is called so.
    """
    rows = source.rows(_INSIDE, {"analyst": analyst, "case_id": case_id})
    if not rows:
        raise InputError(_NOT_OPEN.format(case_id))
    return rows


def claim(
    store: Store,
    analyst: str,
    case_id: str = "",
    *,
    order: str = "risk",
    after: str = "",
    keep: Keep = call,
    now: dt.datetime | None = None,
) -> Claim | None:
    """Keep a case for `analyst` for `CLAIM_S`, and let go of the one they held.

    None where nothing is open that nobody else holds. Claiming the case that one holds makes its
    time begin anew.

    Parameters
    ----------
    case_id : "" means the first of the queue that nobody else holds.
    after : the case to go on from, in the order of the queue; after the last comes the first.

    Raises
    ------
    InputError : The case is not open, or another analyst holds its customer.
    """
    who = named(analyst)
    if case_id:
        found = [(case_id, open_in(store, case_id, who).customer_id)]
    else:
        there = queue(store, order=order, analyst=who, now=now).cases
        found = [(case["case_id"], case["customer_id"]) for case in there]
        ids = [name for name, _ in found]
        start = ids.index(after) + 1 if after in ids else 0
        found = [*found[start:], *found[:start]]
    moment, only = now or utc_now(), bool(case_id)
    made: Claim | None = keep(lambda: _claimed(store, who, found, only=only, now=moment))
    return made


def _claimed(
    store: Store, who: str, found: Sequence[tuple[str, str]], *, only: bool, now: dt.datetime
) -> Claim | None:
    """Claim the first case whose customer nobody else holds; with `only`, the first or none."""
    for _ in range(8):
        try:
            with store.writing(checkpoint=False) as session:
                if only:
                    require_free(session, found[0][1], who, now)
                others = {c.customer_id for c in _held(session, now) if c.analyst != who}
                free = next((pair for pair in found if pair[1] not in others), None)
                let_go(session, who, now, keep=free[1] if free else None)
                if free is None:
                    return None
                made = Claim(*free, who, now + dt.timedelta(seconds=CLAIM_S))
                _write(session, made, now)
                return made
        except StoreError as e:
            if not any(sign in str(e) for sign in ("onstraint", "onflict", "Duplicate")):
                raise
    raise InputError("Others are claiming cases at this moment; try again.")


def require_free(session: Session, customer_id: str, who: str, now: dt.datetime) -> None:
    """Refuse with a sentence where another analyst holds a case of the customer."""
    for claim in _held(session, now):
        if claim.customer_id == customer_id and claim.analyst != who:
            raise InputError(
                f"{claim.analyst} works on this customer until {claim.until:%H:%M:%S} UTC."
            )


def _write(
    session: Session, claim: Claim, now: dt.datetime, released_at: dt.datetime | None = None
) -> None:
    import pyarrow as pa

    last = "SELECT coalesce(max(turn), 0) FROM claims WHERE customer_id = ?"
    turn = 1 + session.value(last, [claim.customer_id])
    row = {**vars(claim), "turn": turn, "claimed_at": now}
    released = pa.array([released_at], pa.timestamp("us"))
    table = pa.Table.from_pylist([row]).append_column("released_at", released)
    session.append("claims", table)


def _held(source: Store | Session, now: dt.datetime) -> list[Claim]:
    """The claims that last."""
    names = "claimed AS case_id, customer_id, holder AS analyst, until"
    return [Claim(**row) for row in source.rows(f"SELECT {names} FROM ({_TAKEN})", {"now": now})]


def holds(source: Store | Session, analyst: str, *, now: dt.datetime | None = None) -> list[Claim]:
    """What the analyst holds: at most one case, also where it was answered meanwhile."""
    return [claim for claim in _held(source, now or utc_now()) if claim.analyst == analyst]


def let_go(session: Session, who: str, now: dt.datetime, keep: str | None = None) -> int:
    """Release what an analyst holds, but for the customer `keep`; how many cases that was."""
    mine = [claim for claim in holds(session, who, now=now) if claim.customer_id != keep]
    for claim in mine:
        _write(session, claim, now, released_at=now)
    return len(mine)


def release(store: Store, analyst: str, *, now: dt.datetime | None = None) -> int:
    """Let go of what the analyst holds; how many cases that was."""
    with store.writing(checkpoint=False) as session:
        return let_go(session, named(analyst), now or utc_now())


class Open(NamedTuple):
    """What is open in a case, or some of it, and whether that is `whole` of it."""

    customer_id: str
    n_answered: dict[str, int]
    whole: bool


def open_in(
    source: Store | Session, case_id: str, who: str, transaction_ids: Sequence[str] | None = None
) -> Open:
    """All that an analyst is asked in a case, or about some transactions of it.

    Raises
    ------
    InputError : The case is not open, or a transaction is not open in it.
    """
    rows = inside(source, case_id, analyst=who)
    counts = {row["transaction_id"]: int(row["n_answered"]) for row in rows if row["open"]}
    ids = list(counts if transaction_ids is None else dict.fromkeys(transaction_ids))
    if strange := [name for name in ids if name not in counts]:
        raise InputError(f"{strange[0]!r} is not open in the case {case_id!r}.")
    if not ids:
        raise InputError(_NOT_OPEN.format(case_id))
    asked = {name: counts[name] for name in ids}
    return Open(rows[0]["customer_id"], asked, len(ids) == len(counts))


def answer_case(
    store: Store,
    case_id: str,
    answer: str,
    *,
    analyst: str,
    note: str = "",
    transaction_ids: Sequence[str] | None = None,
    hold_s: float = UNDO_S,
    keep: Keep = call,
    now: dt.datetime | None = None,
) -> list[str]:
    """Answer all that is open in a case, or some of it, in one go; the reviews' ids.

    The answers become labels after `hold_s`, see `answers`. A case without anything open is
    released.

    Raises
    ------
    InputError
        The case is not open, another analyst holds its customer, a transaction is not of it, or it
        was answered meanwhile.
    """
    who, moment = named(analyst), now or utc_now()
    found = open_in(store, case_id, who, transaction_ids)
    ids = list(found.n_answered)

    def write() -> list[str]:
        with store.writing(checkpoint=False) as session:
            require_free(session, found.customer_id, who, moment)
            answered = session.rows(
                f"SELECT transaction_id, count(DISTINCT analyst) AS n FROM ({STANDING}) "
                "WHERE list_contains(?, transaction_id) GROUP BY transaction_id",
                [ids],
            )
            there = dict.fromkeys(ids, 0) | {row["transaction_id"]: row["n"] for row in answered}
            if there != found.n_answered:
                raise InputError(f"The case {case_id!r} was answered meanwhile; look again.")
            made = answer_all(store, ids, answer, analyst=who, note=note, hold_s=hold_s, now=moment)
            if found.whole:
                let_go(session, who, moment)
        return made

    reviews: list[str] = keep(write)
    return reviews


def snooze(
    store: Store,
    customer_id: str,
    until: str,
    *,
    analyst: str,
    why: str,
    most_days: float = SNOOZE_DAYS,
) -> str:
    """Ask nothing about a customer until a date on the transactions' clock; the entry's id.

    See `lists.add`; the analyst lets go of what they held.

    Raises
    ------
    InputError
        The customer has no transactions, the date or the reason is missing, or the date lies in the
        past or more than `most_days` ahead.
    """
    from aegis_core.review.lists import add  # with pandas, which an analyst's page does without

    who = named(analyst)
    with store.writing(checkpoint=False) as session:
        (there,) = session.rows(
            f"SELECT count(*) AS n, ({NEWEST}) AS newest FROM transactions WHERE customer_id = ?",
            [customer_id],
        )
        if not there["n"]:
            raise InputError(f"There is no customer {customer_id!r}.")
        asked = (store, "snooze", customer_id)
        entry = add(*asked, until=until, who=who, why=why, most_days=most_days)
        if entry.until is None or entry.until <= there["newest"]:
            raise InputError(
                f"until must lie after {there['newest']:%Y-%m-%d %H:%M}, the time of the newest "
                "transactions."
            )
        let_go(session, who, utc_now())
    return entry.entry_id
