"""What a file means as a whole, before its rows count: its signs, its dates, its words.

One row does not tell whether amounts below 0 are what was paid or what came back, or whether its
midnight is an hour; all rows of a file do. What was found is said in a sentence.
"""

from __future__ import annotations

from typing import Final

from aegis_core.schema import DAY_US
from aegis_core.store import Store
from aegis_core.store.connection import literal
from aegis_core.store.meaning import Meaning
from aegis_core.store.session import Session
from aegis_core.units.clocks import zone_of
from aegis_core.units.money import known
from aegis_core.units.words import BACK, CHANNELS, KINDS, STATES, folded, folded_in_sql

_FEWEST_DAYS: Final = 10
_FEWEST_PAYMENTS: Final = 10


def settle_signs(session: Session, first: int) -> str:
    """Read the signs of one file's amounts as its makers meant them; what was found, in words.

    `first` is the number of its first staged row. Where most amounts of what is no refund by its
    kind are below 0, these are what somebody paid, and the others came in.
    """
    back = ", ".join(literal(w) for w, kind in KINDS.items() if kind in BACK)
    of_file = f"rowid >= {first} AND reason IS NULL"
    of_file += f" AND (kind IS NULL OR {folded_in_sql('kind')} NOT IN ({back}))"
    (found,) = session.rows(
        f"""SELECT count(*) FILTER (amount < 0) AS below, count(*) FILTER (amount > 0) AS above
            FROM aegis_staged WHERE {of_file}"""
    )
    if found["below"] <= found["above"]:
        return ""
    session.execute(
        f"""UPDATE aegis_staged SET amount = -amount,
            kind = CASE WHEN amount > 0 THEN coalesce(kind, 'credit') ELSE kind END
            WHERE {of_file}"""
    )
    return (
        f"Most amounts are below 0: {found['below']:,} of these are read as payments, and "
        f"{found['above']:,} above 0 as what came in."
    )


def settle_dates(session: Session, first: int) -> str:
    """Read the times of one file that are all midnights as dates; what was found, in words."""
    of_file = f"rowid >= {first} AND reason IS NULL"
    timed = f"SELECT 1 FROM aegis_staged WHERE {of_file} AND ts <> date_trunc('day', ts) LIMIT 1"
    if session.value(timed):
        return ""
    (found,) = session.rows(
        f"""SELECT count(*) AS n, count(DISTINCT ts) AS days, count(clock) AS said
        FROM aegis_staged WHERE {of_file}"""
    )
    if found["days"] < _FEWEST_DAYS or found["n"] < 2 * _FEWEST_DAYS:
        return ""
    if found["said"] < found["n"]:
        session.execute(f"UPDATE aegis_staged SET clock = 'date' WHERE {of_file}")
    return "All times are midnights: they are read as dates, which have no hour and no burst."


def lacks(store: Store) -> list[str]:
    """What stored transactions lack, for each factor that cannot be judged well without it."""
    (found,) = store.rows(
        """SELECT count(*) AS n, count(lat) AS placed, count(category) AS category,
          count(merchant_id) AS merchant, count(*) FILTER (clock = 'date') AS dates,
          count(coalesce(device_id, email, ip)) AS shared,
          count(merchant_id) FILTER (status = 'declined') AS declined,
          count(DISTINCT customer_id) AS customers FROM transactions"""
    )
    few = store.value(
        f"""SELECT count(*) FROM (SELECT customer_id FROM transactions GROUP BY 1
        HAVING count(*) < {_FEWEST_PAYMENTS})"""
    )
    n, customers = found["n"], found["customers"]
    told = {
        f"travel: {n - found['placed']:,} of {n:,} have no place": found["placed"] < n,
        f"hour, burst: {found['dates']:,} of {n:,} are dates without a time": found["dates"] > 0,
        f"amount: {n - found['category']:,} of {n:,} have no category": found["category"] < n,
        f"amount: {few:,} of {customers:,} customers have fewer than {_FEWEST_PAYMENTS} payments, "
        "and are judged by what is usual of everybody": few > 0,
        f"merchants: {n - found['merchant']:,} of {n:,} have none": found["merchant"] < n,
        "many cards tried in a row: no device, e-mail, address or declined try at a merchant": n > 0
        and found["shared"] + found["declined"] == 0,
    }
    return [text for text, is_so in told.items() if is_so]


def remarks(session: Session, meaning: Meaning) -> list[str]:
    """What is to be said of currencies and words in the staged rows that are good and new."""
    fresh = "aegis_staged WHERE reason IS NULL"
    told = []
    for row in session.rows(
        f"""SELECT currency, count(*) AS n, max(epoch_us(ts)) // {DAY_US} AS day FROM {fresh}
        AND currency IS NOT NULL GROUP BY currency ORDER BY n DESC, currency"""
    ):
        if (currency := str(row["currency"])) == meaning.rates.base:
            continue
        code = "" if known(currency) else ", which is no code of ISO 4217"
        told.append(
            f"{row['n']:,} amounts in {currency}{code}, judged "
            f"{meaning.rates.source(currency, row['day'])}."
        )
    for name, is_known, taken in (
        ("kind", lambda word: folded(word) in KINDS, "are kept and taken as payments"),
        ("status", lambda word: folded(word) in STATES, "are kept and taken as approved"),
        ("channel", lambda word: folded(word) in CHANNELS, "are kept and taken as in person"),
        ("zone", zone_of, "name no time zone and say nothing of the hour"),
    ):
        rows = session.rows(
            f"SELECT {name} AS word, count(*) AS n FROM {fresh} AND {name} IS NOT NULL GROUP BY 1 "
            "ORDER BY n DESC, 1"
        )
        strange = [row for row in rows if not is_known(row["word"])]
        if strange:
            some = ", ".join(f"{row['word']!r} ({row['n']:,})" for row in strange[:5])
            more = f" and {len(strange) - 5:,} more" if len(strange) > 5 else ""
            told.append(f"Of {name}, {some}{more} {taken}.")
    return told
