"""Tables, columns, units and the vocabularies of decisions and factors.

Conventions that hold everywhere: `ts` is UTC with microseconds, without a time zone attached;
`amount` is positive, in the transaction's currency; `lat` and `lon` are degrees, both or neither;
`seq` is the order of arrival and of every replay; **higher is more suspicious**.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

SCHEMA_VERSION: Final = 1


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
"""The risk factors, in the order of every evidence and contribution array."""

SCENARIOS: Final = ("spike", "travel", "night", "burst", "merchant", "takeover")
"""Fraud scenarios of the synthetic data, as stored in `labels.scenario`."""

TRANSACTION_COLUMNS: Final = {
    "seq": "BIGINT",
    "transaction_id": "VARCHAR",
    "customer_id": "VARCHAR",
    "ts": "TIMESTAMP",
    "amount": "DOUBLE",
    "currency": "VARCHAR",
    "merchant_id": "VARCHAR",
    "category": "VARCHAR",
    "channel": "VARCHAR",
    "lat": "DOUBLE",
    "lon": "DOUBLE",
    "source": "VARCHAR",
}
"""Columns of `transactions` with their types. Only the first five are never null."""

REQUIRED: Final = ("customer_id", "ts", "amount")
"""What a row must bring; a missing `transaction_id` is made from source and row number."""

_FACTOR_STRUCT: Final = "STRUCT(" + ", ".join(f"{f} DOUBLE" for f in FACTORS) + ")"

TABLES: Final = {
    "transactions": """
        seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL,
        ts TIMESTAMP NOT NULL, amount DOUBLE NOT NULL, currency VARCHAR, merchant_id VARCHAR,
        category VARCHAR, channel VARCHAR, lat DOUBLE, lon DOUBLE, source VARCHAR""",
    "labels": """
        transaction_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, scenario VARCHAR,
        known_at TIMESTAMP NOT NULL, source VARCHAR""",
    "verdicts": f"""
        seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
        score DOUBLE NOT NULL, risk DOUBLE NOT NULL, decision VARCHAR NOT NULL,
        reasons STRUCT(factor VARCHAR, code VARCHAR, text VARCHAR, contribution DOUBLE)[],
        contributions {_FACTOR_STRUCT}, evidence {_FACTOR_STRUCT}, distance_km DOUBLE,
        scored_at TIMESTAMP NOT NULL""",
    "reviews": """
        review_id VARCHAR NOT NULL, transaction_id VARCHAR NOT NULL, answer VARCHAR NOT NULL,
        analyst VARCHAR NOT NULL, note VARCHAR, answered_at TIMESTAMP NOT NULL""",
    "models": """
        version VARCHAR PRIMARY KEY, detector VARCHAR NOT NULL, path VARCHAR NOT NULL,
        trained_from TIMESTAMP, trained_to TIMESTAMP, n_train BIGINT, parameters VARCHAR,
        data_hash VARCHAR, run_id VARCHAR, created_at TIMESTAMP NOT NULL, promoted_at TIMESTAMP""",
    "runs": """
        run_id VARCHAR PRIMARY KEY, notebook VARCHAR NOT NULL, parameters VARCHAR,
        status VARCHAR NOT NULL, started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP,
        cells_done INTEGER, cells_total INTEGER, data_hash VARCHAR, code_version VARCHAR,
        report_path VARCHAR, error VARCHAR""",
    "metrics": """
        run_id VARCHAR NOT NULL, name VARCHAR NOT NULL, slice VARCHAR NOT NULL, value DOUBLE""",
    "evaluation_scores": """
        run_id VARCHAR NOT NULL, transaction_id VARCHAR NOT NULL, detector VARCHAR NOT NULL,
        score DOUBLE NOT NULL""",
    "rejected": """
        received_at TIMESTAMP NOT NULL, source VARCHAR, raw VARCHAR, reason VARCHAR NOT NULL""",
}
"""Every table of the database: its name and the body of its CREATE TABLE."""
