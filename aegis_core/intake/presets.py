"""Public data sets and exports by name: which column is which, in which form, and what they lack.

Each name of a column is tried in the versions of a file that are about; `+` joins several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aegis_core.intake.said import Said

Names = Mapping[str, tuple[str, ...]]
Words = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Preset:
    """A known form of a file.

    Attributes
    ----------
    about : what it is, and what of it cannot be judged.
    columns : canonical name → names of the column, the usual one last.
    forms : what its times and numbers are.
    words : canonical name → what words mean in it that mean something else elsewhere.
    rounded_down :
        The smallest unit that its simulator rounds amounts to: there 0 stands for less than half of
        it and is read as one. Elsewhere an amount of 0 is a check of the card.
    """

    about: str
    columns: Names
    forms: Said = field(default_factory=Said)
    words: Words = field(default_factory=dict)
    rounded_down: float = 0.0


_CURRENCIES: Final = {
    "US Dollar": "USD", "Euro": "EUR", "Yuan": "CNY", "Yen": "JPY", "UK Pound": "GBP",
    "Ruble": "RUB", "Rupee": "INR", "Swiss Franc": "CHF", "Canadian Dollar": "CAD",
    "Australian Dollar": "AUD", "Mexican Peso": "MXN", "Brazil Real": "BRL",
    "Saudi Riyal": "SAR", "Shekel": "ILS", "Bitcoin": "BTC",
}  # fmt: skip

PRESETS: Final = {
    "handbook": Preset(
        "the Fraud Detection Handbook's simulated payments; no places, no categories",
        {
            "transaction_id": ("TRANSACTION_ID",),
            "ts": ("TX_DATETIME",),
            "customer_id": ("CUSTOMER_ID",),
            "merchant_id": ("TERMINAL_ID",),
            "amount": ("TX_AMOUNT",),
            "is_fraud": ("TX_FRAUD",),
            "scenario": ("TX_FRAUD_SCENARIO",),
        },
        rounded_down=0.01,
    ),
    "sparkov": Preset(
        "Sparkov's simulated payments, its own and Kaggle's files; all factors",
        {
            "transaction_id": ("trans_id", "trans_num"),
            "ts": ("trans_date_trans_time",),
            "customer_id": ("cc_num",),
            "merchant_id": ("merchant",),
            "category": ("category",),
            "amount": ("amt",),
            "lat": ("merch_lat",),
            "lon": ("merch_long",),
            "is_fraud": ("is_fraud",),
        },
    ),
    "tabformer": Preset(
        "IBM's TabFormer, card payments of 2,000 users; cities without coordinates: no travel",
        {
            "ts": ("Year+Month+Day+Time",),
            "customer_id": ("User+Card",),
            "merchant_id": ("Merchant Name",),
            "category": ("MCC",),
            "channel": ("Use Chip",),
            "amount": ("Amount",),
            "is_fraud": ("Is Fraud?",),
        },
        Said(time_format="%Y %m %d %H:%M"),
    ),
    "paysim": Preset(
        "PaySim's mobile money; hours counted from a first day, hardly any customer pays twice: "
        "amounts by type of payment are all that can be judged",
        {
            "ts": ("step",),
            "customer_id": ("nameOrig",),
            "merchant_id": ("nameDest",),
            "category": ("type",),
            "kind": ("type",),
            "amount": ("amount",),
            "is_fraud": ("isFraud",),
        },
        Said(time_from="2026-01-01", time_unit="h"),
        {"kind": {"CASH_IN": "credit"}},
    ),
    "banksim": Preset(
        "BankSim's payments; days counted from a first one: no hour, no burst, no places",
        {
            "ts": ("step",),
            "customer_id": ("customer",),
            "merchant_id": ("merchant",),
            "category": ("category",),
            "amount": ("amount",),
            "is_fraud": ("fraud",),
        },
        Said(time_from="2026-01-01", time_unit="d"),
    ),
    "ieee-cis": Preset(
        "Kaggle's IEEE-CIS (train_transaction.csv); seconds from a guessed day, and `card1` "
        "for the customer, which several share (with the address: --map "
        "\"customer_id=concat_ws('/', card1, addr1)\"); no places",
        {
            "transaction_id": ("TransactionID",),
            "ts": ("TransactionDT",),
            "customer_id": ("card1",),
            "category": ("ProductCD",),
            "amount": ("TransactionAmt",),
            "is_fraud": ("isFraud",),
        },
        Said(time_from="2017-12-01", time_unit="s"),
    ),
    "amlworld": Preset(
        "IBM's AMLworld transfers, labelled for laundering; no places",
        {
            "ts": ("Timestamp",),
            "customer_id": ("From Bank+Account",),
            "merchant_id": ("To Bank+Account.1", "To Bank+Account_5"),
            "category": ("Payment Format",),
            "amount": ("Amount Paid",),
            "currency": ("Payment Currency",),
            "is_fraud": ("Is Laundering",),
        },
        words={"currency": _CURRENCIES},
    ),
    "berka": Preset(
        "the Czech bank of PKDD'99 (trans.asc); dates without a time of day, no labels, no places",
        {
            "transaction_id": ("trans_id",),
            "ts": ("date",),
            "customer_id": ("account_id",),
            "category": ("k_symbol",),
            "kind": ("type",),
            "amount": ("amount",),
            "merchant_id": ("account",),
        },
        words={"kind": {"PRIJEM": "credit", "VYDAJ": "payment", "VYBER": "withdrawal"}},
    ),
    "stripe": Preset(
        "Stripe's export of payments, where Failed is declined; no places",
        {
            "transaction_id": ("id",),
            "ts": ("Created (UTC)", "Created date (UTC)"),
            "customer_id": ("Customer ID",),
            "status": ("Status",),
            "amount": ("Amount",),
            "currency": ("Currency",),
        },
        words={"status": {"Failed": "declined"}},
    ),
    "adyen": Preset(
        "Adyen's settlement details, local times in the zone of its column; no places",
        {
            "transaction_id": ("Psp Reference",),
            "ts": ("Creation Date",),
            "customer_id": ("Shopper Reference",),
            "category": ("Payment Method",),
            "amount": ("Gross Credit (GC)-Gross Debit (GC)",),
            "currency": ("Gross Currency",),
        },
        Said(timezone="TimeZone"),
    ),
    "paypal": Preset(
        "PayPal's activity report, local times in the zone of its column; no places",
        {
            "transaction_id": ("Transaction ID",),
            "ts": ("Date+Time",),
            "customer_id": ("From Email Address",),
            "category": ("Type",),
            "status": ("Status",),
            "amount": ("Gross",),
            "currency": ("Currency",),
        },
        Said(timezone="TimeZone"),
    ),
}
"""Every preset by its name."""

CANNOT: Final = {
    "ulb": "it has no customer (creditcard.csv: components of an analysis, seconds, an amount)",
    "baf": "it holds applications for accounts, not payments",
    "elliptic": "it holds a graph of Bitcoin transactions without amounts or customers",
}
"""Public data sets that nothing can be made of here, and why."""
