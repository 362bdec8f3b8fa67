"""What is held of one customer, wherever it stands, and all of it in a folder to read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegis_core.config import Settings
from aegis_core.errors import InputError, did_you_mean
from aegis_core.machine import utc_now, write_csv
from aegis_core.runs.redaction import forms
from aegis_core.schema import ENTITIES, TABLES
from aegis_core.store import Store, audit
from aegis_core.store.connection import literal, quoted
from aegis_core.store.files import apart, free, scratch
from aegis_core.store.session import Session

EXPORT: Final = "export person"
"""The action of the audit's row about an export of one customer."""
INDEX: Final = "index.html"
_TITLE: Final = "<title>What is held of {}</title>"
_IDS: Final = """(SELECT transaction_id FROM transactions WHERE customer_id = $c
    UNION SELECT transaction_id FROM remains WHERE customer_id = $c)"""
_OLD: Final = "until it is erased, or until `aegis forget --older-than` reaches it"
_ERASED: Final = "until it is erased"


class Held(NamedTuple):
    """A table: which rows are a customer's own, what tells their age, what it is, how long kept."""

    own: str
    since: str
    about: str
    until: str = _ERASED


HELD: Final = {
    "transactions": Held("customer_id = $c", "ts", "Payments, as they arrived.", _OLD),
    "verdicts": Held(
        "seq IN (SELECT seq FROM transactions WHERE customer_id = $c)", "scored_at",
        "What was decided about each payment, and why.", _OLD,
    ),
    "shadow_scores": Held(
        "seq IN (SELECT seq FROM transactions WHERE customer_id = $c)", "",
        "What models on trial said of each payment.", _OLD,
    ),
    "states": Held(
        "seq IN (SELECT seq FROM transactions WHERE customer_id = $c)", "told_at",
        "What became of payments after they came, such as a decline.", _OLD,
    ),
    "labels": Held(f"transaction_id IN {_IDS}", "known_at", "Whether a payment was a fraud."),
    "taught": Held(
        f"review_id IN (SELECT review_id FROM reviews WHERE transaction_id IN {_IDS})", "taught_at",
        "Which answers of analysts became labels.",
    ),
    "reviews": Held(
        f"transaction_id IN {_IDS}", "answered_at", "Answers and notes of analysts about payments.",
    ),
    "evaluation_scores": Held(
        f"transaction_id IN {_IDS}", "", "Scores of payments in evaluations of models.",
    ),
    "claims": Held("customer_id = $c", "claimed_at", "Which analyst looked into the case."),
    "links": Held(
        "$c IN (customer_id, replaces)", "linked_at", "Which number of theirs replaced which.",
    ),
    "lists": Held(
        "field = 'customer' AND value = $c", "added_at",
        "Entries of the allow and deny lists, and snoozes.",
    ),
    "notifications": Held(
        f"event IN {_IDS} OR dedupe_key = $c", "created_at", "Notices that were sent or wait.",
    ),
    "rejected": Held(
        "false", "received_at", "Rows that were refused at the door.",
        "until it is erased, or until `aegis forget --rejected` or its age",
    ),
    "remains": Held(
        "customer_id = $c", "ts", "What a late label needs to know of a forgotten payment.",
    ),
    "runs": Held("false", "started_at", "Runs that were given the id, or that tell it."),
    "drift": Held("false", "found_at", "Alarms about changed traffic that name the customer."),
    "proposals": Held("false", "proposed_at", "Proposals of analysts that name the customer."),
    "audit": Held(
        "false", "recorded_at", "Changes that people made and that name the customer.",
        "for good; the name goes when it is erased",
    ),
}  # fmt: skip
"""In the order in which they are erased: what others are found by goes last."""
_OTHERS: Final = Held("false", "", "Rows of a table of your own that name the customer.")


def is_export(folder: Path, customer: str) -> bool:
    """Whether an export of a customer still lies in a folder, and not what came there later."""
    try:
        with (folder / INDEX).open(encoding="utf-8", errors="replace") as file:
            return _TITLE.format(escape(customer)) in file.read(10_000)
    except OSError:
        return False


class Names:
    """An id in texts: found as a whole word, however it is escaped, but not in an id of `others`.

    A short number is found after the word customer alone: numbers say many things.

    >>> names = Names("c1", others=["c1-b"])
    >>> names.masked("c1, c12, c1-b and (c1)", "someone"), names.among("c12 c1-b")
    ('someone, c12, c1-b and (someone)', False)
    >>> Names("17").masked('{"customer": 17, "n": 17, "note": "17 of customer 17"}', "someone")
    '{"customer": "someone", "n": 17, "note": "17 of customer someone"}'
    """

    def __init__(self, customer: str, others: Iterable[str] = ()) -> None:
        self.customer = customer
        self.forms = _written([customer])
        self.is_short = bool(re.fullmatch(r"[0-9]{1,9}", customer))
        before = r"(?P<lead>)(?:(?<!\w)|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2}))"
        if self.is_short:
            before = r"(?P<lead>customer(?:_id)?\W{1,12})"
        other, own = ("|".join(map(re.escape, f)) for f in (_written(others), self.forms))
        kept = rf"(?P<other>{other})|" if other else "(?P<other>(?!))|"
        self._words = re.compile(rf"{before}(?:{kept}{own})(?!\w)")

    @classmethod
    def of(cls, session: Session, customer: str) -> Names:
        """With the ids of all other customers that have this one in them."""
        found = session.rows(
            "SELECT DISTINCT customer_id AS id FROM transactions WHERE customer_id != ? "
            "AND contains(customer_id, ?)", [customer, customer],
        )  # fmt: skip
        word = re.compile(rf"(?<!\w){re.escape(customer)}(?!\w)")
        return cls(customer, [row["id"] for row in found if word.search(row["id"])])

    def among(self, *values: object) -> bool:
        """Whether a value names the customer."""
        texts = (v if isinstance(v, str) else _json(v) for v in values if v is not None)
        return any(not m["other"] for text in texts for m in self._words.finditer(text))

    def masked(self, text: str, instead: str) -> str:
        """`text` with something else in the place of the id; JSON stays JSON."""
        if text[:1] in ("{", "["):
            with suppress(ValueError):
                tree = json.loads(text)
                now = self._masked(tree, instead)
                return text if now == tree else json.dumps(now, ensure_ascii=False)
        return self._words.sub(lambda found: found["lead"] + (found["other"] or instead), text)

    def _masked(self, node: Any, instead: str, key: str = "") -> Any:
        if isinstance(node, dict):
            return {self._masked(k, instead): self._masked(v, instead, k) for k, v in node.items()}
        if isinstance(node, list):
            return [self._masked(part, instead, key) for part in node]
        means = key in ("customer", "customer_id") or not self.is_short
        if not isinstance(node, bool) and means and str(node) == self.customer:
            return instead
        return self.masked(node, instead) if isinstance(node, str) else node

    def inside(self, path: Path) -> bool:
        """Whether a file names the customer, in any of its bytes."""
        try:
            data = path.read_bytes()
        except OSError:
            return False
        if not any(form.encode() in data for form in self.forms):
            return False
        return self.among(data.decode("utf-8", "replace"))

    def condition(self, texts: Iterable[str]) -> str:
        """In SQL: whether these texts of a row may name the customer."""
        texts = f"concat_ws(' ', {', '.join(texts)})"
        return "(" + " OR ".join(f"contains({texts}, {literal(f)})" for f in self.forms) + ")"


def _written(ids: Iterable[str]) -> list[str]:
    """All that ids may look like, the longest first."""
    return sorted({form for one in ids for form in forms(one)}, key=lambda form: (-len(form), form))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def text_columns(session: Session) -> dict[str, dict[str, str]]:
    """The columns that hold text, and their text in SQL, by table; also of tables of others."""
    found: dict[str, dict[str, str]] = {}
    for row in session.rows(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() SEMI JOIN duckdb_tables() "
        "USING (database_name, schema_name, table_name) WHERE database_name = current_database() "
        "AND schema_name = 'main' AND contains(data_type, 'VARCHAR') "
        "AND table_name NOT IN ('meta', 'carried') ORDER BY table_name, column_index"
    ):
        column, plain = quoted(row["column_name"]), row["data_type"] == "VARCHAR"
        text = column if plain else f"to_json({column})::VARCHAR"  # else quotes are escaped anyhow
        found.setdefault(row["table_name"], {})[row["column_name"]] = text
    return found


def rows_of(session: Session, table: str, texts: Iterable[str], names: Names) -> Iterator[Any]:
    """A customer's own rows of a table, then those whose `texts` name them; as dictionaries."""
    customer, own = names.customer, HELD.get(table, _OTHERS).own
    if own != "false":
        yield from session.rows(f"FROM {quoted(table)} WHERE {own}", {"c": customer})
    if table in ("transactions", "verdicts", "shadow_scores", "rollups"):
        return  # of others, who were paid or paid themselves
    rest = f"FROM {quoted(table)} WHERE NOT coalesce({own}, false) AND {names.condition(texts)}"
    for row in session.rows(rest, {"c": customer} if "$c" in own else None):
        if names.among(*row.values()):
            yield row


def of_others(session: Session, names: Names) -> int:
    """How many transactions of others name the customer, such as the one who was paid."""
    text = ["transaction_id", "category", "channel", "currency", *ENTITIES]
    rows = session.rows(
        f"SELECT {', '.join(text)} FROM transactions WHERE customer_id != ? "
        f"AND {names.condition(text)}", [names.customer],
    )  # fmt: skip
    return sum(names.among(*row.values()) for row in rows)


def linked(session: Session, customer: str) -> list[str]:
    """Other numbers of the same customer, as links say."""
    found = session.rows(
        """SELECT unnest([l.customer_id, l.replaces]) AS id FROM links l WHERE l.replaces IN (
          SELECT unnest([$c, o.replaces]) FROM links o WHERE $c IN (o.customer_id, o.replaces))""",
        {"c": customer},
    )
    return sorted({row["id"] for row in found} - {customer})


def reports_naming(settings: Settings, names: Names) -> list[Path]:
    """Folders of runs with a file that names the customer."""
    folders = sorted(path for path in settings.reports.glob("*/") if path.is_dir())
    return [f for f in folders if any(names.inside(p) for p in f.rglob("*") if p.is_file())]


def names_of(session: Session, customer: str) -> Names:
    """A customer of whom something is held; `InputError` where nothing is."""
    names = Names.of(session, customer)
    for table, texts in text_columns(session).items():
        if next(rows_of(session, table, texts.values(), names), None) is not None:
            return names
    close = session.rows(
        "SELECT customer_id AS id FROM transactions GROUP BY id "
        "ORDER BY levenshtein(id, ?), id LIMIT 5", [customer],
    )  # fmt: skip
    near = did_you_mean(customer, [row["id"] for row in close])
    raise InputError(f"Nothing is held of a customer {customer!r}.{near}")


@dataclass(frozen=True)
class Exported:
    """An export of one customer: rows by file."""

    path: Path
    rows: dict[str, int]

    def sentence(self) -> str:
        """The result in words."""
        told = ", ".join(f"{n:,} {name.removesuffix('.csv')}" for name, n in self.rows.items())
        return f"{self.path}: {told}. Begin with {INDEX}."


def export(store: Store, settings: Settings, customer: str, folder: Path, *, who: str) -> Exported:
    """Write all that is held of a customer: a CSV a table, and an index that explains them.

    The folder is its owner's alone. A service may run meanwhile.

    Raises
    ------
    InputError : Nothing is held of such a customer, or the folder is there already.
    StoreError : The disk is full; there is no folder then.
    """
    apart(folder.expanduser(), store.path, settings.models)
    final = free(folder, force=False, option="name another folder")
    lines, counts = list[tuple[str, Held, int, Any]](), dict[str, int]()
    with scratch(final, "The export") as place:
        (made := place / "export").mkdir()
        with store.snapshot() as session:
            names = names_of(session, customer)
            texts = text_columns(session)
            for table in [*HELD, *(t for t in texts if t not in TABLES)]:
                rows = list(rows_of(session, table, texts[table].values(), names))
                if rows:
                    held, file = HELD.get(table, _OTHERS), f"{table}.csv"
                    with (made / file).open("w", encoding="utf-8", newline="") as out:
                        write_csv(out, rows[0], (row.values() for row in rows))
                    since = min((r[held.since] for r in rows if r.get(held.since)), default=None)
                    lines.append((file, held, len(rows), since))
                    counts[file] = len(rows)
            paid = of_others(session, names)
        reports = reports_naming(settings, names)
        page = _page(customer, lines, reports, paid, settings)
        (made / INDEX).write_text(page, "utf-8")
        made.rename(final)
    told = {"customer": customer, "folder": str(final), "rows": counts}
    with store.changing(checkpoint=False) as session:
        audit.record(session, who, EXPORT, f"customer {customer}", told)
    return Exported(final, counts)


def _page(
    customer: str,
    lines: Sequence[tuple[str, Held, int, datetime | None]],
    reports: Sequence[Path],
    paid: int,
    settings: Settings,
) -> str:
    rows = "".join(
        f'<tr><td><a href="{file}">{file}</a></td><td>{escape(held.about)}</td><td>{n:,}</td>'
        f"<td>{f'{since:%Y-%m-%d}' if since else ''}</td><td>{escape(held.until)}</td></tr>\n"
        for file, held, n, since in lines
    )
    keep = [f"{settings.keep_days:g} days"] if settings.keep_days else []
    keep += [f"the newest {settings.keep_runs}"] if settings.keep_runs else []
    kept = " and ".join(keep) or "until somebody removes them, or the customer is erased"
    told = "".join(f"<li>{escape(str(path))}</li>\n" for path in reports)
    parts = [
        f"<h2>Reports</h2><p>These name the customer beside others, and are not copied. They are "
        f"kept: {kept}.</p><ul>{told}</ul>" if reports else "",
        f"<p>{paid:,} payments of other customers name the id, for instance as the one who was "
        "paid. They are the others' data, and not in this folder.</p>" if paid else "",
    ]  # fmt: skip
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8">{_TITLE.format(escape(customer))}
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{text-align:left;padding:.4rem .8rem;border-bottom:1px solid
#ccc;vertical-align:top}}td:nth-child(3){{text-align:right}}</style>
<h1>What is held of customer {escape(customer)}</h1>
<p>Made on {utc_now():%Y-%m-%d at %H:%M} UTC from {escape(str(settings.db))}. Times are in UTC,
distances in km, degrees of latitude and longitude. A text that a spreadsheet would take for a
formula begins with an apostrophe. Beside the payments the model keeps what is usual for the
customer – amounts, hours, places, pace – which it works out of them again whenever it starts.</p>
<table><tr><th>File</th><th>What it holds</th><th>Rows</th><th>Since</th><th>Kept</th></tr>
{rows}</table>
{"".join(parts)}
<p>Copies may be in backups and in exports, which belong to whoever made them: <code>aegis person
--erase</code> names those that it knows.</p></html>
"""
