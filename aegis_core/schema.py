"""Tables, columns, units and the vocabularies of decisions and factors.

`COLUMNS` is the one table of rules for a row: its types, its limits and what is said of a row that
does not keep them. What files and REST check, what they store, what makes two transactions the
same, what a replay reads and what the log shows comes from it.

Conventions that hold everywhere: `ts` is UTC with microseconds, without a time zone attached;
`amount` is in the transaction's currency and never negative; `lat` and `lon` are degrees, both or
neither; `seq` is the order of arrival and of every replay; **higher is more suspicious**.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Decision(IntEnum):
    """What happens to a transaction, in order of severity."""

    APPROVE = 0
    REVIEW = 1
    BLOCK = 2

    @property
    def label(self) -> str:
        """The word that is stored and shown.

        >>> Decision.BLOCK.label
        'block'
        """
        return self.name.lower()


FACTORS: Final = ("amount", "travel", "hour", "burst")
"""The risk factors, in the order of every evidence array."""

TOLD_FACTORS: Final = (*FACTORS, "merchant", "customer")
"""What contributions and reasons speak of: the risk factors, and whose frauds were confirmed."""

LIST_KINDS: Final = ("deny", "allow", "snooze")
"""Kinds of entries of `lists`; the first that applies to a transaction decides."""

SNOOZE_DAYS: Final = 90.0
"""How far ahead a customer may be snoozed, unless the settings say otherwise."""

ANSWERS: Final = {"fraud": True, "legitimate": False}
"""What an analyst may answer, and what it says of fraud."""

SCENARIOS: Final = ("spike", "travel", "night", "burst", "merchant", "takeover", "testing")
"""Kinds of fraud in the synthetic data, as stored in `labels.scenario`."""
LOOK_ALIKES: Final = ("sale",)
"""Named there as well: what looks like one of these and is no fraud."""

TEXT, NUMBER, TIME, TRUTH = "VARCHAR", "DOUBLE", "TIMESTAMP", "BOOLEAN"
"""Types of what comes in, in SQL."""
EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
DAY_US: Final = 86_400_000_000
"""A day in microseconds."""
END: Final = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
"""A time lies between these two."""
LONGEST_TEXT: Final = 200
CONTROL: Final = r"\p{Cc}\p{Zl}\p{Zp}"
"""What no text may have, within the brackets of a regular expression: control characters and
separators of lines. Of all blanks, these left out, only the category Zs remains: blanks of that are
taken off both ends, and a text of nothing else is missing."""
DAMAGED: Final = r"^([0-9](\.[0-9]+)?[Ee]\+[0-9]+|(?i:nan|null|#n/a))$"
"""What a spreadsheet or another program made of an id; many of them would be one."""
_CLOCK = (
    "(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?|24:00(:00([.,]0+)?)?)"
    "([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?"
)
ISO_TIME: Final = f"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([Tt ]{_CLOCK})?$"
"""A time in ISO 8601: without an offset it is UTC, a date alone is its midnight, and digits beyond
the microsecond are left off."""


@dataclass(frozen=True)
class Column:
    """A column of what comes in, with the rules that its values keep.

    Attributes
    ----------
    kind : `TEXT`, `NUMBER`, `TIME` or `TRUTH`.
    required : whether a row must have it.
    made : whether a file may do without, since it is made there of content and place of the row.
    low, high : limits of a number, both within them.
    least : the smallest size of a number that is not 0.
    also : names, beside its own, by which it is recognised in a file.
    sent : its name over REST, where that is another one.
    about : what REST tells of it.
    title : its title in the log; without one it is in the log's file only.
    replayed : whether the pass or a figure made of it reads it.
    since : the version of the schema that brought it; older databases get it when they are opened.
    """

    name: str
    kind: str = TEXT
    required: bool = False
    made: bool = False
    low: float | None = None
    high: float | None = None
    least: float | None = None
    also: str = ""
    sent: str = ""
    about: str | None = None
    title: str = ""
    replayed: bool = True
    since: int = 0

    @property
    def faults(self) -> dict[str, str]:
        """What can be wrong with a value, in the order of the checks, and how it is said.

        >>> Column("lat", NUMBER, low=-90, high=90).faults["high"]
        'is above 90'
        """
        of_kind = {
            TEXT: {
                "text": "is not text",
                "control": "has a control character",
                "longest": f"is longer than {LONGEST_TEXT} characters",
            },
            TIME: {
                "time": "is not a time, such as 2026-03-01T12:00:00Z",
                "years": f"is not between {EPOCH.year} and {END.year}",
            },
            NUMBER: {"number": "is not a number"},
            TRUTH: {"truth": "is neither yes nor no"},
        }
        return (
            ({"missing": "is missing"} if self.required else {})
            | of_kind[self.kind]
            | (
                {"damaged": "looks damaged, as by a spreadsheet"}
                if self.required and self.kind == TEXT
                else {}
            )
            | ({} if self.low is None else {"low": f"is below {self.low:g}"})
            | ({} if self.high is None else {"high": f"is above {self.high:g}"})
            | ({} if self.least is None else {"least": f"is below {self.least:g}"})
        )


COLUMNS: Final = (
    Column("transaction_id", required=True, made=True,
           also="trans_id tx_id txn_id trans_num transaction_number payment_id id"),
    Column("customer_id", required=True, title="Customer", also="customer cust_id client_id "
           "account_id account user_id user card_id card_number cc_num card card_no"),
    Column("ts", TIME, required=True, sent="timestamp",
           about="ISO 8601; without an offset it is UTC.",
           also="timestamp datetime date_time time date transaction_time transaction_date "
           "transaction_datetime transaction_timestamp tx_datetime tx_time trans_date_trans_time "
           "event_time created_at created_date creation_date occurred_at"),
    Column("amount", NUMBER, required=True, low=-1e12, high=1e12, least=0.001,
           about="In the transaction's currency; 0 checks a card, less than 0 is a refund.",
           also="amt tx_amount transaction_amount trans_amount payment_amount value"),
    Column("currency", also="currency_code ccy",
           about="By ISO 4217, its letters or its number."),
    Column("merchant_id", title="Merchant",
           also="merchant merchant_name terminal_id terminal shop payee"),
    Column("category", title="Category", also="merchant_category category_code mcc"),
    Column("channel", also="entry_mode payment_channel",
           about="How it was paid; without the card being there no journey begins or ends."),
    Column("lat", NUMBER, low=-90, high=90, also="latitude merchant_lat merch_lat"),
    Column("lon", NUMBER, low=-180, high=180,
           also="lng long longitude merchant_lon merchant_long merch_lon merch_long"),
    Column("kind", since=5, also="entry_kind transaction_type credit_debit debit_credit",
           about="A payment, unless it is a refund, reversal, credit, verification, withdrawal or "
           "transfer."),
    Column("status", since=5, also="payment_status transaction_status",
           about="Approved, unless it was declined, is pending, or failed for a technical reason."),
    Column("zone", since=5, replayed=False, also="time_zone timezone customer_zone",
           about="The customer's time zone, such as Europe/Berlin; it moves no time."),
    Column("original_id", since=5, replayed=False, also="original_transaction_id parent_id",
           about="Of a refund or reversal: the transaction that it is about."),
    Column("card_id", since=6, also="card_number cc_num card card_no card_hash pan_hash",
           about="The card, where the customer is who holds it; better a token than its number."),
    Column("device_id", since=6, also="device device_fingerprint fingerprint device_hash",
           about="What it was paid with: a phone, a browser, a till."),
    Column("email", since=6, also="email_address e_mail customer_email payer_email email_hash",
           about="An address of who pays; a hash of it does as well."),
    Column("ip", since=6, also="ip_address ip_addr client_ip remote_addr ip_hash",
           about="The address in the network that it was sent from."),
)  # fmt: skip
"""What a transaction brings, in the order of the checks and of the table."""

ENTITIES: Final = ("card_id", "device_id", "email", "ip", "merchant_id")
"""Columns by which payments of several customers may belong together, what one holds before what
strangers share; the order of every array of their counts."""

HALF_PLACE: Final = "lat without lon, or lon without lat"
"""What is said of a row whose columns are right one by one, and that still names no place."""


def ahead(name: str, minutes: float) -> str:
    """What is said of a time, under the name it came by, that lies beyond the clock.

    >>> ahead("ts", 10)
    'ts is more than 10 minutes ahead of the clock here'
    """
    return f"{name} is more than {minutes:g} minutes ahead of the clock here"


LABEL_COLUMNS: Final = (
    Column("is_fraud", TRUTH, also="isfraud fraud tx_fraud fraud_label is_fraudulent"),
    Column("scenario", also="fraud_scenario tx_fraud_scenario"),
    Column("known_at", TIME, also="reported_at reported_on report_date fraud_reported_at "
           "label_date labelled_at labeled_at confirmed_at chargeback_date dispute_date"),
)  # fmt: skip
"""What a file may bring for `labels` beside them."""


MEANT: Final = {
    "base_amount": NUMBER, "base_currency": TEXT, "rate": NUMBER,
    "utc_offset": "INTEGER", "local_zone": TEXT, "clock": TEXT,
}  # fmt: skip
"""Columns that say what a transaction meant when it came, with their types: its amount in the base
currency and the rate of that, null where none was known; minutes that its local time is ahead of
UTC, the zone or offset that says so, and how that is known (`CLOCKS`). The amount is then by the
scale that its currency had when it was judged, else a usual one; null where nobody judged it."""

CLOCKS: Final = ("sent", "place", "customer", "assumed", "date")
"""How a local time is known: by the offset that was sent, by the place, by the customer's zone, by
the settings, or not at all, since a date was sent."""

TRANSACTION_COLUMNS: Final = {
    "seq": "BIGINT",
    **{column.name: column.kind for column in COLUMNS},
    "source": TEXT,
    **MEANT,
}
"""Columns of `transactions` with their types; what `COLUMNS` has not is given at the door."""

CONTENT: Final = tuple(column.name for column in COLUMNS if not column.made)
"""What makes two transactions of one id the same."""

ATTEMPT: Final = ("customer_id", "merchant_id")
"""What a payment has in common with what came under its id before and was none: a declined try, or
a check of the card."""
RETRY_DAYS: Final = 30
"""How much later its time may be than that of the try."""

REQUIRED: Final = tuple(column.name for column in COLUMNS if column.required and not column.made)
"""What a row must bring; a missing `transaction_id` is made from source and row number."""

SCHEMA_VERSION: Final = max(7, *(column.since for column in COLUMNS))


def _struct(factors: tuple[str, ...]) -> str:
    return "STRUCT(" + ", ".join(f"{f} DOUBLE" for f in factors) + ")"


_NEVER_NULL = ("seq", *(column.name for column in COLUMNS if column.required))

TABLES: Final = {
    "transactions": ", ".join(
        f"{name} {kind}{' NOT NULL' if name in _NEVER_NULL else ''}"
        for name, kind in TRANSACTION_COLUMNS.items()
    ),
    "labels": """
        transaction_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, scenario VARCHAR,
        known_at TIMESTAMP NOT NULL, source VARCHAR, after_seq BIGINT DEFAULT -1""",
    "verdicts": f"""
        seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
        score DOUBLE NOT NULL, risk DOUBLE NOT NULL, decision VARCHAR NOT NULL,
        reasons STRUCT(factor VARCHAR, code VARCHAR, text VARCHAR, contribution DOUBLE)[],
        contributions {_struct(TOLD_FACTORS)}, evidence {_struct(FACTORS)}, distance_km DOUBLE,
        scored_at TIMESTAMP NOT NULL, cleared VARCHAR, inclusion DOUBLE, list_entry VARCHAR,
        replayed_at TIMESTAMP, aside BOOLEAN""",
    "shadow_scores": """
        seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
        score DOUBLE NOT NULL, risk DOUBLE NOT NULL, decision VARCHAR NOT NULL""",
    "lists": """
        entry_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, field VARCHAR NOT NULL,
        value VARCHAR NOT NULL, until TIMESTAMP, who VARCHAR NOT NULL, why VARCHAR NOT NULL,
        added_at TIMESTAMP NOT NULL, ends VARCHAR""",
    "reviews": """
        review_id VARCHAR NOT NULL, transaction_id VARCHAR NOT NULL, answer VARCHAR NOT NULL,
        analyst VARCHAR NOT NULL, note VARCHAR, answered_at TIMESTAMP NOT NULL,
        held_until TIMESTAMP, undoes VARCHAR""",
    "models": """
        version VARCHAR PRIMARY KEY, detector VARCHAR NOT NULL, path VARCHAR NOT NULL,
        trained_from TIMESTAMP, trained_to TIMESTAMP, n_train BIGINT, parameters VARCHAR,
        data_hash VARCHAR, run_id VARCHAR, created_at TIMESTAMP NOT NULL, promoted_at TIMESTAMP,
        shadow_since TIMESTAMP""",
    "promotions": """
        version VARCHAR NOT NULL, role VARCHAR NOT NULL, who VARCHAR NOT NULL,
        promoted_at TIMESTAMP NOT NULL""",
    "runs": """
        run_id VARCHAR PRIMARY KEY, notebook VARCHAR NOT NULL, parameters VARCHAR,
        status VARCHAR NOT NULL, started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP,
        cells_done INTEGER, cells_total INTEGER, data_hash VARCHAR, code_version VARCHAR,
        report_path VARCHAR, error VARCHAR, heading VARCHAR, seconds DOUBLE, peak_memory_mb DOUBLE,
        attempt INTEGER, retry_of VARCHAR, entry VARCHAR, due_at TIMESTAMP, notebook_hash VARCHAR,
        lock_hash VARCHAR, settings VARCHAR, seed BIGINT, last_seq BIGINT, n_labels BIGINT,
        model_version VARCHAR, pid BIGINT, seen_at TIMESTAMP""",
    "metrics": """
        run_id VARCHAR NOT NULL, name VARCHAR NOT NULL, slice VARCHAR NOT NULL, value DOUBLE""",
    "evaluation_scores": """
        run_id VARCHAR NOT NULL, transaction_id VARCHAR NOT NULL, detector VARCHAR NOT NULL,
        score DOUBLE NOT NULL""",
    "rejected": """
        received_at TIMESTAMP NOT NULL, source VARCHAR, raw VARCHAR, reason VARCHAR NOT NULL""",
    "service_stats": """
        noted_at TIMESTAMP NOT NULL, seconds DOUBLE NOT NULL, transactions BIGINT NOT NULL,
        p50_ms DOUBLE, p99_ms DOUBLE, waiting BIGINT NOT NULL""",
    "drift": """
        day DATE NOT NULL, measure VARCHAR NOT NULL, part VARCHAR NOT NULL, value DOUBLE,
        usual DOUBLE, effect DOUBLE, low DOUBLE, high DOUBLE, alarm BOOLEAN NOT NULL,
        found_at TIMESTAMP NOT NULL, run_id VARCHAR NOT NULL, told VARCHAR""",
    "notifications": """
        notification_id VARCHAR NOT NULL, rule VARCHAR NOT NULL, target VARCHAR NOT NULL,
        what VARCHAR NOT NULL, event VARCHAR NOT NULL, dedupe_key VARCHAR NOT NULL,
        title VARCHAR NOT NULL, text VARCHAR NOT NULL, status VARCHAR NOT NULL,
        attempts INTEGER NOT NULL, message_id VARCHAR, created_at TIMESTAMP NOT NULL,
        due_at TIMESTAMP NOT NULL, tried_at TIMESTAMP, sent_at TIMESTAMP, error VARCHAR""",
    "notify_cursors": """
        rule VARCHAR NOT NULL, what VARCHAR NOT NULL, position VARCHAR NOT NULL""",
    "audit": """
        seq BIGINT PRIMARY KEY, recorded_at TIMESTAMP NOT NULL, who VARCHAR NOT NULL,
        action VARCHAR NOT NULL, subject VARCHAR NOT NULL, details VARCHAR NOT NULL,
        before VARCHAR NOT NULL, hash VARCHAR NOT NULL""",
    "nominations": """
        proposal_id VARCHAR NOT NULL, version VARCHAR NOT NULL, champion VARCHAR NOT NULL,
        files_hash VARCHAR NOT NULL, comparison VARCHAR NOT NULL, who VARCHAR NOT NULL,
        why VARCHAR, proposed_at TIMESTAMP NOT NULL, outcome VARCHAR, decided_by VARCHAR,
        decided_at TIMESTAMP, note VARCHAR""",
    "carried": """
        cut BIGINT NOT NULL, name VARCHAR NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL""",
    "remains": """
        transaction_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL, merchant_id VARCHAR,
        ts TIMESTAMP NOT NULL""",
    "claims": """
        customer_id VARCHAR NOT NULL, turn BIGINT NOT NULL, case_id VARCHAR NOT NULL,
        analyst VARCHAR NOT NULL, claimed_at TIMESTAMP NOT NULL, until TIMESTAMP NOT NULL,
        released_at TIMESTAMP, PRIMARY KEY (customer_id, turn)""",
    "taught": """
        review_id VARCHAR PRIMARY KEY, taught_at TIMESTAMP NOT NULL""",
    "proposals": """
        proposal_id VARCHAR NOT NULL, proposed_at TIMESTAMP NOT NULL, who VARCHAR NOT NULL,
        kind VARCHAR NOT NULL, content VARCHAR NOT NULL, note VARCHAR""",
    "rollups": """
        minute TIMESTAMP, decision VARCHAR, factor VARCHAR, category VARCHAR, currency VARCHAR,
        n BIGINT NOT NULL, amount DECIMAL(38, 6) NOT NULL, first_seq BIGINT NOT NULL,
        last_seq BIGINT NOT NULL, PRIMARY KEY (minute, decision, factor, category, currency)""",
    "rates": """
        day DATE NOT NULL, currency VARCHAR NOT NULL, per_base DOUBLE NOT NULL,
        source VARCHAR NOT NULL, imported_at TIMESTAMP NOT NULL""",
    "links": """
        customer_id VARCHAR PRIMARY KEY, replaces VARCHAR NOT NULL, source VARCHAR NOT NULL,
        linked_at TIMESTAMP NOT NULL, who VARCHAR NOT NULL""",
    "thresholds": """
        day DATE NOT NULL, model_version VARCHAR NOT NULL, first_seq BIGINT NOT NULL,
        review_above DOUBLE NOT NULL, trained_above DOUBLE NOT NULL, transactions BIGINT NOT NULL,
        alerts BIGINT NOT NULL, alert_budget DOUBLE NOT NULL, days INTEGER NOT NULL,
        set_at TIMESTAMP NOT NULL""",
    "states": """
        seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, status VARCHAR NOT NULL,
        source VARCHAR, told_at TIMESTAMP NOT NULL""",
    "proofs": """
        proved_at TIMESTAMP NOT NULL, checked BIGINT NOT NULL, different BIGINT NOT NULL""",
}
"""Every table of the database: its name and the body of its CREATE TABLE.

`labels.after_seq` is the last transaction that had arrived before the label: with `known_at`, it
says which transactions could know it; null until the service heard of the label.
`verdicts.inclusion` is the probability with which the transaction went to review: 1 for an alert,
the audit share for a sample of the approved, null for what nobody was asked about. `replayed_at`
is when `aegis score` gave a verdict on what had come before; null: it was given live. Its
`scored_at` is the time of the payment, and where it stands `aside` its decision taught nothing. In
`lists` a row with `ends` takes the entry of that id off.

In `runs`, `status` is waiting, running, done, unjudged, failed, interrupted or skipped;
`last_seq` and `n_labels` are the last transaction and the number of labels that a run saw, at
`seen_at`, and `data_hash` is of these; `heading` is where a running notebook is, `model_version`
what model it made or used, `entry` and `due_at` the line of the schedule that started it.

In `reviews` a row with `undoes` takes that answer back, which it may until `held_until`; the answer
becomes a label after that, noted in `taught` (null: it is a label at once). In `claims` the last
`turn` of a customer decides.

In `drift` an `effect` usually lies between `low` and `high`; `told` says of an alarm who moved.
`notifications` has a row for each event and whom it goes to; rows of one `message_id` went out as
one message. `service_stats` tells of the seconds before `noted_at`, `proofs` when verdicts were
replayed and how many came out differently. `rollups` counts the verdicts of a minute.

`rates` says how many units of a currency one of the base currency is worth on a day; of several of
a day the last row counts. `links` says whom a newer number replaces, under which customer its
payments are kept: of a chain the first.

`thresholds` has, for each day of a champion, the score above which somebody looks from `first_seq`
on: what it follows are the `transactions` of some `days` before, of which the trained threshold
would have made `alerts`, five of a customer counted at most.

`states` has what became of transactions after they came, such as a pending one that was declined;
`transactions.status` stays what they came with, by which they were judged. What came as no payment
and became one has a second row in `transactions`, with a later `seq`, and its verdict.

`audit` is written by the module of that name, `nominations` by `approvals`. `carried` holds the
state of the pass before transaction `cut`, where older ones were forgotten, and `remains` what a
label that arrived later needs to know of one of them.
"""

WORTH: Final = "CASE WHEN t.base_currency IS NULL THEN t.amount ELSE coalesce(t.base_amount, 0) END"
"""SQL for what `t`, a transaction, is worth in the base currency; 0 where nobody could say."""
WORTH_IN: Final = "coalesce(t.base_currency, t.currency, '')"
"""SQL for the currency of `WORTH`."""

AGAIN: Final = ("customer_id", "merchant_id", "amount", "currency", "kind")
AGAIN_S: Final = 15
"""Seconds within which entries that are the same in `AGAIN` are probably one payment."""

LATER_STATES: Final = (
    "(SELECT list(later.status ORDER BY later.rowid) FROM states later WHERE later.seq = t.seq)"
)
"""SQL for what became of `t`, a transaction, after it came: its later states; null where none."""

NO_TRY: Final = "lead(v.seq) OVER (PARTITION BY v.transaction_id ORDER BY v.seq) IS NULL"
"""SQL to qualify verdicts `v` by: not of a try that became a payment, of which any label is."""

ANSWERED: Final = "review"
"""`labels.source` of what an analyst answered."""
LABEL_RANK: Final = f"(rowid + if(source = '{ANSWERED}', 1::BIGINT << 60, 0))"
"""SQL: of two labels of a transaction the one of higher rank holds as soon as it is known."""


def held_labels(at: str = "") -> str:
    """A query: of each transaction the one label that holds, of those known `at` a moment (SQL).

    An analyst's answer before a file's, of either the one that came last; without `at` of all that
    are there, also those that become known later. Those of erased customers have no transaction.
    """
    known = f"AND known_at <= {at}" if at else ""
    return f"""SELECT * FROM labels WHERE rowid IN (
      SELECT arg_max(rowid, {LABEL_RANK}) FROM labels
      WHERE transaction_id <> '' {known} GROUP BY transaction_id)"""


ROLLED_UP: Final = f"""
    SELECT date_trunc('minute', v.scored_at) AS minute, v.decision,
      coalesce(v.reasons[1].factor, '') AS factor, coalesce(t.category, '') AS category,
      {WORTH_IN} AS currency, count(*) AS n,
      sum(({WORTH})::DECIMAL(38, 6))::DECIMAL(38, 6) AS amount,
      min(v.seq) AS first_seq, max(v.seq) AS last_seq
    FROM verdicts v JOIN transactions t ON t.seq = v.seq"""
"""Rows of `rollups` from what they count; a condition and `GROUP BY ALL` follow."""


def _added(table: str, columns: str) -> list[str]:
    return [f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {c}" for c in columns.split(", ")]


_CHANGES: Final = {
    1: [
        *_added("labels", "after_seq BIGINT DEFAULT -1"),
        *_added("verdicts", "contributions.merchant DOUBLE, contributions.customer DOUBLE"),
        *_added("verdicts", "cleared VARCHAR, inclusion DOUBLE, list_entry VARCHAR"),
        *_added("models", "shadow_since TIMESTAMP"),
        "INSERT INTO promotions SELECT version, 'champion', 'train', promoted_at FROM models"
        " WHERE promoted_at IS NOT NULL",
    ],
    2: [
        "UPDATE verdicts SET inclusion = NULL WHERE isnan(inclusion)",
        "UPDATE verdicts SET distance_km = NULL WHERE isnan(distance_km)",
        *_added("runs", "heading VARCHAR, seconds DOUBLE, peak_memory_mb DOUBLE, attempt INTEGER"),
        *_added("runs", "retry_of VARCHAR, entry VARCHAR, due_at TIMESTAMP, notebook_hash VARCHAR"),
        *_added("runs", "lock_hash VARCHAR, settings VARCHAR, seed BIGINT, last_seq BIGINT"),
        *_added("runs", "n_labels BIGINT, model_version VARCHAR, pid BIGINT"),
        *_added("reviews", "held_until TIMESTAMP, undoes VARCHAR"),
    ],
    3: _added("runs", "seen_at TIMESTAMP"),
    4: _added("transactions", ", ".join(f"{name} {kind}" for name, kind in MEANT.items())),
    6: _added("verdicts", "replayed_at TIMESTAMP, aside BOOLEAN"),
}
MIGRATIONS: Final = {
    older: [
        *_CHANGES.get(older, ()),
        *(
            statement
            for column in COLUMNS
            if column.since == older + 1
            for statement in _added("transactions", f"{column.name} {column.kind}")
        ),
    ]
    for older in range(1, SCHEMA_VERSION)
}
"""For each older schema version what makes the next one of it; nothing stored is lost."""
