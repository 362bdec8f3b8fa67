"""Erasing one customer: from tables, state, snapshot, journal and reports, beside a service or not.

The pass drops the customer first, between two groups of the engine: from then on they are a
stranger, whatever happens next. What others were judged by is worked out beside it
(`detection.erasure`), and one transaction takes the rows, the names in free text and the question
itself away. Who is interrupted asks again.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aegis_core.config import Settings
from aegis_core.detection import erasure
from aegis_core.errors import StoreBusy, StoreError
from aegis_core.features import checkpoint
from aegis_core.runs import reports
from aegis_core.schema import TABLES
from aegis_core.serving import holdings, snapshot
from aegis_core.serving.holdings import EXPORT, HELD, Names
from aegis_core.store import Store, audit, rollups
from aegis_core.store.compaction import compact
from aegis_core.store.connection import quoted
from aegis_core.store.files import of_database
from aegis_core.store.session import Session

ANSWERED_S: Final = 60.0
"""How long an engine may take to drop a customer."""
_OWN: Final = [table for table, held in HELD.items() if held.own != "false" and table != "labels"]
_GONE_IF_NAMED: Final = ("rejected",)
_IDS: Final = (
    *("transaction_id", "customer_id", "replaces", "merchant_id", "value", "review_id", "event"),
)
"""Columns that are no free text: what they name is somebody else, by a longer id."""
_KEPT_COPIES: Final = ("{stem}.v*-*{suffix}", "{stem}.before-*", "{name}.journal.torn-*")


@dataclass(frozen=True)
class Plan:
    """What an erasure would take, and what it leaves.

    Attributes
    ----------
    rows : how many would be deleted, by table.
    texts : how many would stay without the name in them, by table.
    reports, exports : folders that would go.
    remains : where the name stays, and until when, a sentence each.
    """

    rows: dict[str, int]
    texts: dict[str, int]
    reports: list[Path]
    exports: list[Path]
    remains: list[str]

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        for said, found in (("Rows that go", self.rows), ("Rows that lose the name", self.texts)):
            told = ", ".join(f"{n:,} {table}" for table, n in found.items())
            yield f"{said}: {told or 'none'}."
        folders = [*self.reports, *self.exports]
        yield f"Reports and exports that go: {', '.join(map(str, folders)) or 'none'}."
        yield from self.left()

    def left(self) -> Iterator[str]:
        """What stays, and until when."""
        yield "What stays:"
        yield from (f"- {told}" for told in self.remains)


def plan(store: Store, settings: Settings, customer: str) -> Plan:
    """What is held of a customer and would go; `InputError` where nothing is."""
    rows, texts, nested = dict[str, int](), dict[str, int](), list[str]()
    with store.snapshot() as session:
        names = holdings.names_of(session, customer)
        for table, columns in holdings.text_columns(session).items():
            of_table = holdings.rows_of(session, table, columns.values(), names)
            n = sum(1 for _ in of_table)
            own = HELD[table].own if table in HELD else "false"
            mine = n if table in _GONE_IF_NAMED else _count(session, table, own, customer)
            rows[table], texts[table] = mine, n - mine
            if table == "verdicts":
                others = f"NOT {own} AND {names.condition([columns['reasons']])}"
                texts[table] = _count(session, table, others, customer)
            for column, text in columns.items() if table not in TABLES else ():
                inside = names.condition([text]) if text != quoted(column) else "false"
                if _count(session, quoted(table), inside, customer):
                    nested.append(f"{column} of your table {table}, inside of lists or structures.")
        exports, told = _copies(session, names)
        paid = holdings.of_others(session, names)
        linked = holdings.linked(session, customer)
    named = holdings.reports_naming(settings, names)
    remains = [
        *([f"A number such as {customer} says many things: texts and reports are looked through "
           "for it after the word customer alone."] if names.is_short else []),
        *told,
        *(f"What is held of {one}, which a link says is a number of the same customer: erase it "
          "as well." for one in linked),
        *nested,
        *(f"The file {path}, which this command leaves alone."
          for path in _files(store, settings, names, [*named, *exports])),
        *(f"{path} may hold it until you delete it." for path in _beside(store.path)),
        "Without a name: how many payments came on which day, and what all customers together "
        "taught, so that the others' verdicts replay.",
        *([f"{paid:,} payments of others that name it, such as the one who was paid: they are "
           "theirs."] if paid else []),
    ]  # fmt: skip
    rows, texts = ({table: n for table, n in of.items() if n} for of in (rows, texts))
    return Plan(rows, texts, named, exports, remains)


def erase(
    store: Store,
    settings: Settings,
    customer: str,
    *,
    who: str,
    tell: Callable[[float], object] = lambda share: None,
) -> str:
    """Erase a customer; what was done and what stays. `tell` gets the share done, in [0, 1].

    Raises
    ------
    InputError : Nothing is held of such a customer.
    StoreBusy : The engine of the owner did not answer, or somebody forgot transactions meanwhile.
    StoreError : The disk is full. Ask again: the pass may have dropped the customer already.
    """
    planned = plan(store, settings, customer)
    with store.reading() as session:
        names = Names.of(session, customer)
    (at, only), alone = _dropped(store, customer, names)
    with store.snapshot() as session:
        cut, past = checkpoint.cut(session), erasure.past(session, at)
    n, done = max(1, at), 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        tell(0.8 * min(1.0, done / n))

    kept = erasure.left_of(past, customer, at, only, progress)
    gone = [*holdings.reports_naming(settings, names), *planned.exports]
    for folder in gone:  # before the tables, by which a second try finds what is left to do
        _remove(folder)
    pseudonym = f"erased-{secrets.token_hex(6)}"
    with store.changing() as session:
        if checkpoint.cut(session) != cut:
            raise StoreBusy("Somebody forgot transactions meanwhile; ask again.")
        _from_tables(session, customer, at, names, pseudonym)
        erasure.drop_from_beginning(session, customer, only)
        checkpoint.save_erased(session, kept)
        checkpoint.dropped(session, customer, at)
        for folder in gone:
            session.execute("UPDATE runs SET report_path = NULL WHERE run_id = ?", [folder.name])
        told = {"pseudonym": pseudonym, "rows": planned.rows, "texts": planned.texts}
        told |= {"redacted": audit.redact(session, lambda text: names.masked(text, pseudonym))}
        audit.record(session, who, audit.ERASE, pseudonym, told)
        later = session.value("SELECT count(*) FROM transactions WHERE customer_id = ?", [customer])
    if gone and settings.reports.is_dir():
        reports.write_index(settings.reports)
    tell(0.9)
    if alone:
        compact(store, who=who)
    tell(1.0)
    went = ", ".join(f"{n:,} {table}" for table, n in planned.rows.items())
    lines = [f"Erased as {pseudonym}: {went or 'no rows of their own'}.", *planned.left()]
    if not alone:
        lines.append(
            "- The bytes of deleted rows in the database's file, until `aegis compact`, which "
            "needs the service to be ended first."
        )
    if later:
        lines.append(f"- {later:,} payments that came meanwhile: erase again.")
    return "\n".join(lines)


def _dropped(store: Store, customer: str, names: Names) -> tuple[tuple[int, list[str]], bool]:
    """Have the pass drop the customer: from where on, and which names; whether nobody else owns."""
    alone = not store.owned_by_any
    with store.writing() as session:
        checkpoint.ask(session, customer, _only_theirs(session, customer, names))
        if alone:
            for asked in checkpoint.asked(session):
                checkpoint.dropped_at(session, *asked, session.next_seq())
            snapshot.remove(store.path)
    until = time.monotonic() + ANSWERED_S
    while True:
        with store.reading() as session:
            done = checkpoint.was_dropped(session, customer)
        if done is not None:
            return done, alone
        if time.monotonic() > until:
            with store.writing() as session:
                if checkpoint.was_dropped(session, customer) is None:
                    checkpoint.dropped(session, customer, None)
            raise StoreBusy(
                f"Who owns {store.path} did not answer for {ANSWERED_S:g} s; nothing was erased. "
                "Try again, or end it first."
            )
        time.sleep(0.05)


def _only_theirs(session: Session, customer: str, names: Names) -> list[str]:
    """Categories and merchants that name the customer and that nobody else has."""
    rows = session.rows(
        """SELECT name FROM (
          SELECT category AS name, customer_id FROM transactions
          UNION ALL SELECT merchant_id, customer_id FROM transactions)
        WHERE name IS NOT NULL GROUP BY name
        HAVING bool_and(customer_id = ?)""",
        [customer],
    )
    return [row["name"] for row in rows if names.among(row["name"])]


def _count(session: Session, table: str, own: str, customer: str) -> int:
    if own == "false":
        return 0
    given = {"c": customer} if "$c" in own else None
    return int(session.value(f"SELECT count(*) FROM {table} WHERE {own}", given))


def _from_tables(session: Session, customer: str, at: int, names: Names, pseudonym: str) -> None:
    """Delete the customer's rows, and the name in those of others."""
    c = {"c": customer}
    rollups.take(session, f"t.customer_id = $c AND t.seq < {at}", c)
    # a label keeps its place among the labels, which are counted; it speaks of nothing any more
    session.execute(
        "UPDATE labels SET transaction_id = '', is_fraud = false, scenario = NULL, source = NULL, "
        f"known_at = date_trunc('day', known_at) WHERE {HELD['labels'].own}", c,
    )  # fmt: skip
    for table in ("taught", *(t for t in _OWN if t not in ("taught", "transactions", "remains"))):
        if table in ("verdicts", "shadow_scores", "states"):
            session.execute(f"DELETE FROM {table} WHERE seq < {at} AND {HELD[table].own}", c)
        else:
            session.execute(f"DELETE FROM {table} WHERE {HELD[table].own}", c)
    session.execute("DELETE FROM remains WHERE customer_id = $c", c)
    session.execute(f"DELETE FROM transactions WHERE customer_id = $c AND seq < {at}", c)
    for table, columns in holdings.text_columns(session).items():
        if table in _GONE_IF_NAMED:
            for row in list(holdings.rows_of(session, table, columns.values(), names)):
                where = " AND ".join(f"{quoted(k)} IS NOT DISTINCT FROM ?" for k in row)
                session.execute(f"DELETE FROM {quoted(table)} WHERE {where}", list(row.values()))
        if table == "audit":
            continue
        if table == "verdicts":
            _mask_reasons(session, names.condition([columns["reasons"]]), names, pseudonym)
            continue
        for column in ("source",) if table == "transactions" else columns:
            if column not in _IDS and table != "rollups":
                _mask(session, table, column, names, pseudonym)


def _mask(session: Session, table: str, column: str, names: Names, pseudonym: str) -> None:
    """Take the name out of the texts of a column."""
    of = f"SELECT DISTINCT {quoted(column)} AS text FROM {quoted(table)} WHERE "
    # as the gate of an owner lets it pass
    change = f"UPDATE {quoted(table)} SET {quoted(column)} = ? WHERE {quoted(column)} = ?"
    if table == "transactions":
        change = f"UPDATE transactions SET {column} = ? WHERE {column} = ?"
    for row in session.rows(of + names.condition([f"{quoted(column)}::VARCHAR"])):
        text = row["text"]
        if not isinstance(text, str) or (now := names.masked(text, pseudonym)) == text:
            continue
        session.execute(change, [now, text])


def _mask_reasons(session: Session, where: str, names: Names, pseudonym: str) -> None:
    """Take the name out of the reasons of others' verdicts: a list's note may have brought it."""
    named = session.rows(
        "SELECT DISTINCT reason.text AS text FROM (SELECT unnest(reasons) AS reason FROM verdicts "
        f"WHERE {where})"
    )
    for row in named:
        if (now := names.masked(row["text"] or "", pseudonym)) != row["text"]:
            session.execute(
                "UPDATE verdicts SET reasons = list_transform(reasons, lambda r: struct_pack("
                "factor := r.factor, code := r.code, text := if(r.text = $old, $new, r.text), "
                f"contribution := r.contribution)) WHERE {where}",
                {"old": row["text"], "new": now},
            )


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as e:
        raise StoreError(
            f"{e.filename or folder} names the customer and cannot be removed ({e.strerror}). "
            "Nothing was erased from the tables; remove it and ask again."
        ) from None


def _copies(session: Session, names: Names) -> tuple[list[Path], list[str]]:
    """Exports of the customer that are still there, and sentences about copies of everybody."""
    folders, told = [], []
    for entry in audit.entries(session):
        if entry.action == EXPORT and entry.subject == f"customer {names.customer}":
            folder = Path(json.loads(entry.details)["folder"])
            folders += [folder] if holdings.is_export(folder, names.customer) else []
        elif entry.action in ("backup", "export"):
            told.append(
                f"The {entry.action} {entry.subject} of {entry.recorded_at:%Y-%m-%d} by "
                f"{entry.who}, until you delete it; if it is restored, erase again."
            )
    return folders, list(dict.fromkeys(told))


def _beside(database: Path) -> list[Path]:
    """Older copies of the database that were kept beside it."""
    of = {"stem": database.stem, "suffix": database.suffix, "name": database.name}
    found: set[Path] = set()
    for pattern in _KEPT_COPIES:
        found |= set(database.parent.glob(pattern.format(**of)))
    return sorted(found)


def _files(store: Store, settings: Settings, names: Names, going: Sequence[Path]) -> Iterator[Path]:
    """Other files that name the customer: beside the database, in the home and its folders."""
    spared = {settings.reports / "index.html", *_beside(store.path)}
    own = {store.path, *of_database(store.path)}
    found = {path for path in settings.home.glob("*") if path.is_file()}
    for folder in (store.path.parent, settings.reports, settings.models):
        found |= {path for path in folder.rglob("*") if path.is_file()}
    for path in sorted(found - spared):
        ours = any(p in own for p in (path, *path.parents))
        if ours or any(folder in path.parents for folder in going):
            continue
        if names.among(path.name) or names.inside(path):
            yield path
