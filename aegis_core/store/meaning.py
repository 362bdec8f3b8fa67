"""What an entry means: its words, its amount in one currency, its local time, whose it is.

Both doors, files and REST, ask here, and what is found is stored with the transaction, so that a
replay neither asks again nor learns of a rate that came later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aegis_core.errors import InputError
from aegis_core.schema import (
    CLOCKS,
    DAY_US,
    MEANT,
    ROLLED_UP,
    SCHEMA_VERSION,
    TRANSACTION_COLUMNS,
)
from aegis_core.store.connection import literal, quoted
from aegis_core.store.session import Session
from aegis_core.units import clocks
from aegis_core.units.money import Rates, coded, known
from aegis_core.units.words import (
    KINDS,
    STATES,
    address,
    folded,
    present,
    small_in_sql,
    word,
)

if TYPE_CHECKING:
    import pyarrow as pa

Result = TypeVar("Result")
USUAL_BASE: Final = "EUR"
INCOME: Final = frozenset({"salary", "wage", "wages", "payroll", "income", "pension", "dividend"})
"""Categories of what comes in, in an entry that does not say what kind it is."""
_SENT, _PLACE, _CUSTOMER, _ASSUMED, _DATE = CLOCKS
_BASE: Final = "base_currency"
_SINCE: Final = "meant since"
_MEANT_SINCE: Final = 5  # the version that brought `MEANT`
_KEPT_SINCE: Final = "columns {} since"


def each_once(of: Callable[..., Result], *columns: Sequence[Any]) -> list[Result]:
    """What a function says of each row of some columns, asked once for rows that are the same.

    >>> each_once(lambda a, b: f"{a}{b}", [1, 2, 1], [3, 4, 3])
    ['13', '24', '13']
    """
    asked = list(zip(*columns, strict=True))
    told = {one: of(*one) for one in set(asked)}
    return [told[one] for one in asked]


@lru_cache(10_000)
def said(
    currency: str | None, kind: str | None, status: str | None, category: str | None, sign: int
) -> tuple[str | None, str | None, str | None]:
    """Currency, kind and status in the words of the vocabularies; `sign` is that of the amount.

    >>> said("eur", None, "Paid", None, -1), said("392", None, None, "salary", 1)
    (('EUR', 'refund', 'approved'), ('JPY', 'credit', None))
    """
    kind = word(kind, KINDS)
    if kind is None and category is not None and folded(category) in INCOME:
        kind = "credit"
    if sign <= 0 and kind in (None, "payment"):
        kind = "refund" if sign < 0 else "verification"
    return None if currency is None else coded(currency), kind, word(status, STATES)


class Meaning:
    """The meaning of what comes in now.

    Parameters
    ----------
    rates : that are known.
    zone : of whom nothing tells the local time.
    links : under which customer payments of a newer number are kept, by that number.
    """

    def __init__(
        self, rates: Rates, zone: str = "UTC", links: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.rates, self.zone, self.links = rates, zone, links

    @classmethod
    def read(cls, session: Session, base: str = "", zone: str = "UTC") -> Meaning:
        """The meaning by what a database holds; `base` and `zone` are those of the settings.

        Raises
        ------
        InputError
            The settings want another base currency than the one that amounts were judged in.
        """
        kept, wanted = base_of(session), _wanted(base)
        if kept and wanted and wanted != kept:
            raise InputError(
                f"The amounts of this database are judged in {kept}; base_currency = {wanted} "
                "is for a new one. Take the line out of aegis.toml, or name another with --db."
            )
        rates = session.execute("SELECT day - DATE '1970-01-01', currency, per_base FROM rates")
        known = Rates(kept or wanted or USUAL_BASE, rates.fetchall())
        links = session.execute("SELECT customer_id, replaces FROM links").fetchall()
        return cls(known, zone, dict(links))

    def linked(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row as it is kept: under the customer that its number is linked to, if it is.

        >>> meaning = Meaning(Rates("EUR"), links={"c2": "c1"})
        >>> meaning.linked({"customer_id": "c2", "amount": 5.0})
        {'customer_id': 'c1', 'amount': 5.0, 'card_id': 'c2'}
        """
        first = self.links.get(number := row["customer_id"])
        if first is None:
            return row
        card = row.get("card_id")
        return {**row, "customer_id": first, "card_id": number if card is None else card}

    def of(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """`schema.MEANT`, but for the amount, of rows by column whose words are said.

        `ts` is in microseconds since 1970; `clock` and `utc_offset` are what came with the time,
        where anything did.
        """
        times = rows["ts"]
        days = [at // DAY_US for at in times]
        cells = [
            None if lat is None or lon is None or lat == lon == 0 or abs(lat) == 90
            else (clocks.cell(lat), clocks.cell(lon))
            for lat, lon in zip(rows["lat"], rows["lon"], strict=True)
        ]  # fmt: skip
        told = each_once(
            self._clock, rows["clock"], rows["utc_offset"], rows["channel"], rows["zone"], cells
        )
        steps = [
            at // clocks.STEP_US if moves else 0
            for at, (*_, moves) in zip(times, told, strict=True)
        ]
        zones = [zone for _, zone, _ in told]
        return {
            "rate": each_once(self.rates.of, rows["currency"], days),
            "base_currency": [self.rates.base] * len(times),
            "utc_offset": each_once(_offset, zones, steps),
            "local_zone": zones,
            "clock": [clock for clock, *_ in told],
        }

    def prepared(self, session: Session, relation: str) -> tuple[str, str]:
        """SQL of `of` for a relation named `s`: expressions for `MEANT`, and joins for them."""
        place = "s.lat IS NULL OR (s.lat = 0 AND s.lon = 0) OR abs(s.lat) = 90"
        cells = [f"CASE WHEN {place} THEN NULL ELSE floor(s.{c} * {clocks.CELLS_A_DEGREE}) END"
                 for c in ("lat", "lon")]  # fmt: skip
        day, step = f"epoch_us(s.ts) // {DAY_US}", f"epoch_us(s.ts) // {clocks.STEP_US}"
        other = f"nullif(s.currency, {literal(self.rates.base)}) IS NOT NULL"
        rates, (rate,) = _looked_up(
            session, "aegis_meant_rates", f"{relation} s",
            ("s.currency", f"CASE WHEN {other} THEN {day} END"), ("rate DOUBLE",),
            lambda currency, on: (self.rates.of(None if currency is None else coded(currency), on),)
        )  # fmt: skip
        zones, (clock, zone, moves) = _looked_up(
            session, "aegis_meant_zones", f"{relation} s",
            ("s.clock", "s.utc_offset", "s.channel", "s.zone", *cells),
            ("clock VARCHAR", "zone VARCHAR", "moves BOOLEAN"),
            lambda *told: self._clock(*told[:4], None if told[4] is None else told[4:])
        )  # fmt: skip
        offsets, (minutes,) = _looked_up(
            session, "aegis_meant_offsets", f"{relation} s {zones}",
            (zone, f"CASE WHEN {moves} THEN {step} END"), ("minutes INTEGER",),
            lambda zone, at: (_offset(zone, at or 0),),
        )  # fmt: skip
        meant = {
            "base_amount": f"s.amount * {rate}", "base_currency": literal(self.rates.base),
            "rate": rate, "utc_offset": minutes, "local_zone": zone, "clock": clock,
        }  # fmt: skip
        return ", ".join(f"{meant[name]} AS {name}" for name in MEANT), f"{rates} {zones} {offsets}"

    def _clock(self, *told: Any) -> tuple[str, str | None, bool]:
        return _clock(self.zone, *told)


def _offset(zone: str | None, step: int) -> int:
    return 0 if zone is None else clocks.offset_min(zone, step)


@lru_cache(100_000)
def _clock(
    assumed: str, clock: str | None, utc_offset: int | None, channel: str | None,
    zone: str | None, cell: tuple[float, float] | None,
) -> tuple[str, str | None, bool]:  # fmt: skip
    """How the local time of a row is known, the zone that says it, and whether its offset moves.

    `cell` has the numbers of one of latitude and one of longitude.
    """
    found, way = assumed, _ASSUMED
    if clock == _DATE:
        return _DATE, None, False
    if clock == _SENT and utc_offset is not None:
        found, way = clocks.sent(utc_offset), _SENT
    elif cell and present(channel) and (there := clocks.zone_at(int(cell[0]), int(cell[1]))):
        found, way = there, _PLACE
    elif zone is not None and (theirs := clocks.zone_of(zone)):
        found, way = theirs, _CUSTOMER
    return way, found, clocks.moves(found)


def settle_words(session: Session, relation: str, where: str = "reason IS NULL") -> None:
    """Bring the words of rows into the vocabularies, ids into one spelling, and signs of amounts.

    Without `where`, SQL for a row, it is those of staged rows without a fault.
    """
    small = small_in_sql("email")
    session.execute(f"UPDATE {relation} SET email = {small} WHERE {where} AND email <> {small}")
    _looked_up(
        session, "aegis_addresses", f"(FROM {relation} WHERE {where} AND contains(ip, ':')) s",
        ("s.ip",), ("one VARCHAR",), lambda ip: (address(ip),),
    )  # fmt: skip
    session.execute(
        f"UPDATE {relation} AS t SET ip = one FROM aegis_addresses "
        f"WHERE {where} AND t.ip = key_0 AND key_0 <> one"
    )
    keys = ("s.currency", "s.kind", "s.status",
            "CASE WHEN s.kind IS NULL THEN s.category END", "sign(s.amount)")  # fmt: skip
    texts = tuple(f"{name} VARCHAR" for name in ("currency", "kind", "status"))
    rows = f"(FROM {relation} WHERE {where}) s"
    join, settled = _looked_up(session, "aegis_said", rows, keys, texts, said)
    # currency, kind, status and sign: most files say all of them as they are kept
    other = "key_4 <= 0 OR (key_0, key_1, key_2) IS DISTINCT FROM (currency, kind, status)"
    if not session.value(f"SELECT count(*) FROM aegis_said WHERE {other}"):
        return
    names = ", ".join(
        f"{sql} AS {name}"
        for sql, name in zip(settled, ("currency", "kind", "status"), strict=True)
    )
    session.execute(
        f"""UPDATE {relation} AS t SET amount = abs(t.amount), currency = m.currency,
            kind = m.kind, status = m.status
        FROM (SELECT s.rowid AS place, {names} FROM {relation} s {join} WHERE {where}) m
        WHERE m.place = t.rowid AND (t.amount <= 0 OR t.currency IS DISTINCT FROM m.currency
            OR t.kind IS DISTINCT FROM m.kind OR t.status IS DISTINCT FROM m.status)"""
    )


def settle_links(session: Session, relation: str) -> str:
    """Bring rows under the customers that their numbers are linked to, as `Meaning.linked` does.

    Returns
    -------
    SQL for `transactions` as they would be kept now; a row that was sent before its link and comes
    again is the same.
    """
    if not session.value("SELECT count(*) FROM links"):
        return "transactions"
    card = "coalesce({0}.card_id, {0}.customer_id)"
    session.execute(
        f"""UPDATE {relation} AS s SET card_id = {card.format("s")}, customer_id = l.replaces
        FROM links l WHERE l.customer_id = s.customer_id"""
    )
    return f"""(SELECT t.* REPLACE (coalesce(l.replaces, t.customer_id) AS customer_id,
        CASE WHEN l.replaces IS NULL THEN t.card_id ELSE {card.format("t")} END AS card_id)
        FROM transactions t LEFT JOIN links l ON l.customer_id = t.customer_id)"""


def choose_base(session: Session, relation: str, base: str = "") -> None:
    """Settle the base currency of a database by the settings, else by most of its first rows."""
    if base_of(session):
        return
    wanted = _wanted(base)
    if not wanted:
        most = session.execute(
            f"SELECT currency FROM {relation} GROUP BY currency "
            "ORDER BY currency IS NULL, count(*) DESC, currency LIMIT 1"
        ).fetchone()
        if most is None:  # there is nothing to judge yet
            return
        wanted = USUAL_BASE if most[0] is None else coded(most[0])
    session.execute("INSERT INTO meta VALUES (?, ?)", [_BASE, wanted])


def _wanted(base: str) -> str:
    """The base currency of the settings, "" if they leave it open; `InputError` if it is none."""
    wanted = coded(base)
    if wanted and not known(wanted):
        raise InputError(f"base_currency = {base!r} is no code of ISO 4217, such as EUR.")
    return wanted


def append(session: Session, rows: pa.Table, base: str = "", zone: str = "UTC") -> None:
    """Add rows of the table `transactions` whose words are said and that have no meaning yet."""
    there = rows.column_names
    lacks = [f"NULL::{kind} AS {name}" for name, kind in TRANSACTION_COLUMNS.items()
             if name not in there]  # fmt: skip
    with session.lent("aegis_made", rows):
        made = f"(SELECT *, {', '.join(lacks)} FROM aegis_made)"
        choose_base(session, made, base)
        meant, joins = Meaning.read(session, base, zone).prepared(session, made)
        session.execute(
            f"INSERT INTO transactions ({', '.join([*there, *MEANT])}) "
            f"SELECT {', '.join(f's.{name}' for name in there)}, {meant} FROM {made} s {joins}"
        )


def bring(session: Session, older: int) -> None:
    """Give transactions that version `older` kept what it did not know: words and meaning."""
    _note_columns(session, older)
    if older >= _MEANT_SINCE:
        return
    session.execute("INSERT INTO meta VALUES (?, ?)", [_SINCE, str(session.next_seq())])
    settle_words(session, "transactions", "true")
    choose_base(session, "transactions")
    meaning = Meaning.read(session)
    meant, joins = meaning.prepared(session, "transactions")
    values = ", ".join(f"{name} = m.{name}" for name in MEANT)
    session.execute(
        f"""UPDATE transactions AS t SET {values}
        FROM (SELECT s.rowid AS place, {meant} FROM transactions s {joins}) m
        WHERE m.place = t.rowid"""
    )
    _convert_rollups(session, meaning)


def _convert_rollups(session: Session, meaning: Meaning) -> None:
    """Count the verdicts anew, now that sums are in the base currency.

    Where a part of the history was forgotten, sums of several currencies are brought together by
    the rates of the newest day.
    """
    if not session.value("SELECT count(*) FROM carried"):
        session.execute("DELETE FROM rollups")
        session.execute(f"INSERT INTO rollups {ROLLED_UP} GROUP BY ALL")
        return
    (today,) = session.execute(
        "SELECT epoch_us(max(minute)) // ? FROM rollups", [DAY_US]
    ).fetchall()
    join, (rate,) = _looked_up(
        session, "aegis_meant_rates", "rollups s", ("nullif(s.currency, '')",), ("rate DOUBLE",),
        lambda currency: (meaning.rates.of(currency and coded(currency), today[0]) or 0.0,),
    )  # fmt: skip
    session.execute(
        f"""CREATE TEMP TABLE aegis_rollups AS
        SELECT minute, decision, factor, category, {literal(meaning.rates.base)} AS currency,
            sum(n)::BIGINT AS n,
            sum(s.amount * {rate})::DECIMAL(38, 6) AS amount,
            min(first_seq) AS first_seq, max(last_seq) AS last_seq
        FROM rollups s {join} GROUP BY ALL"""
    )
    session.execute("DELETE FROM rollups")
    session.execute("INSERT INTO rollups BY NAME FROM aegis_rollups")
    session.execute("DROP TABLE aegis_rollups")


def _note_columns(session: Session, older: int) -> None:
    """Note from which transaction on the columns that came after version `older` are kept."""
    for version in range(max(older, _MEANT_SINCE) + 1, SCHEMA_VERSION + 1):
        place = str(session.next_seq())
        session.execute("INSERT INTO meta VALUES (?, ?)", [_KEPT_SINCE.format(version), place])


def kept_since(session: Session) -> dict[int, int]:
    """For each version of the schema the first transaction kept with all columns that it brought.

    Older ones have what their senders brought only of the columns that were there.
    """
    noted = {_MEANT_SINCE: session.noted(_SINCE)} | {
        version: session.noted(_KEPT_SINCE.format(version))
        for version in range(_MEANT_SINCE + 1, SCHEMA_VERSION + 1)
    }
    return {version: int(place or 0) for version, place in noted.items()}


def base_of(session: Session) -> str:
    """The base currency of a database; "" while none is settled."""
    return session.noted(_BASE) or ""


def _looked_up(
    session: Session,
    table: str,
    relation: str,
    keys: Sequence[str],
    gives: Sequence[str],
    of: Callable[..., Iterable[object]],
) -> tuple[str, list[str]]:
    """The value of `of` for each combination of some expressions: a join of `s`, and SQL for each.

    `relation` is `s` itself, and what was joined to it. Where there is one combination, as there is
    of most columns that a file lacks, there is nothing to join.
    """
    import pyarrow as pa

    session.execute(f"DROP TABLE IF EXISTS {table}")
    names = [f"key_{n}" for n in range(len(keys))]
    asked = ", ".join(f"{key} AS {name}" for key, name in zip(keys, names, strict=True))
    found = session.execute(f"SELECT DISTINCT {asked} FROM {relation}").to_arrow_table()
    given = [tuple(of(*row)) for row in zip(*(c.to_pylist() for c in found.columns), strict=True)]
    kinds = {"VARCHAR": pa.string(), "DOUBLE": pa.float64(), "INTEGER": pa.int32(),
             "BOOLEAN": pa.bool_()}  # fmt: skip
    for place, name in enumerate(gives):
        column, kind = name.split()
        found = found.append_column(column, pa.array([row[place] for row in given], kinds[kind]))
    with session.lent("aegis_lookup", found):
        session.execute(f"CREATE TEMP TABLE {table} AS FROM aegis_lookup")
    if len(given) == 1:
        return "", [
            f"{'NULL' if value is None else literal(str(value))}::{name.split()[1]}"
            for name, value in zip(gives, given[0], strict=True)
        ]
    same = " AND ".join(
        f"{key} IS NOT DISTINCT FROM {table}.{name}" for key, name in zip(keys, names, strict=True)
    )
    # All combinations are there; inner joins may be reordered, so as to begin with two such tables.
    join = f"LEFT JOIN {quoted(table)} ON {same}"
    return join, [f"{quoted(table)}.{name.split()[0]}" for name in gives]
