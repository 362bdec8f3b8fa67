"""Words that files and senders use for the same thing, each as one word of a vocabulary.

A vocabulary is a dictionary of every word that is known to the one that it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address
from string import ascii_lowercase, ascii_uppercase
from textwrap import shorten
from typing import Final

_FOLDED: Final = str.maketrans(ascii_uppercase + " -./", ascii_lowercase + "____")


def folded(text: str) -> str:
    """A text in small letters of ASCII, with `_` for what parts its words.

    >>> folded("Direct-Debit")
    'direct_debit'
    """
    return text.translate(_FOLDED)


def folded_in_sql(text: str) -> str:
    """SQL for a text as `folded` has it; DuckDB's `translate` takes ten times as long."""
    return f"regexp_replace({small_in_sql(text)}, '[ ./-]', '_', 'g')"


def small(text: str) -> str:
    """A text in small letters, where it is of ASCII alone, as an e-mail address is.

    >>> small("Anna@Example.org"), small("İ@example.org")
    ('anna@example.org', 'İ@example.org')
    """
    return text.lower() if text.isascii() else text


def small_in_sql(text: str) -> str:
    """SQL for a text as `small` has it."""
    return f"if(strlen({text}) = length({text}), lower({text}), {text})"


@lru_cache(100_000)
def address(text: str) -> str:
    """A network address of version 6 in its one spelling; of version 4, where it stands for that.

    >>> address("2001:DB8:0:0::1"), address("::ffff:192.0.2.1"), address("a:b")
    ('2001:db8::1', '192.0.2.1', 'a:b')
    """
    try:
        found = IPv6Address(text)
    except ValueError:
        return text
    return str(found.ipv4_mapped or found)


def word(text: str | None, words: Mapping[str, str]) -> str | None:
    """The word of a vocabulary that a text means; the text itself where it means none.

    >>> word("Cash-Out", KINDS), word("DECLINED", STATES), word("barter", KINDS)
    ('withdrawal', 'declined', 'barter')
    """
    return None if text is None else words.get(folded(text), text)


@lru_cache(10_000)
def category_said(category: str) -> str:
    """A category as people read it: a merchant category code of four digits with its name.

    ISO 18245 names a third of the codes; else the first card network that names it does.

    >>> category_said("5411"), category_said("3001"), category_said("food"), category_said("9999")
    ('5411 Groceries and supermarkets', '3001 American Airlines', 'food', '9999')
    """
    if not (len(category) == 4 and category.isascii() and category.isdigit()):
        return category
    from iso18245 import MCCNotFound, get_mcc

    try:
        code = get_mcc(category)
    except MCCNotFound:
        return category
    names = (code.iso_description, code.mastercard_description, code.visa_description,
             code.amex_description, code.usda_description, code.stripe_description)  # fmt: skip
    return f"{category} {shorten(next(filter(None, names)), 48, placeholder='…')}"


def _named(words: Mapping[str, str]) -> dict[str, str]:
    return {said: name for name in words for said in (folded(name), *words[name].split())}


KINDS: Final = _named(
    {
        "payment": "purchase sale debit dbit charge pos capture d dr",
        "refund": "return refunded",
        "reversal": "reversed reverse void voided cancellation rvsl",
        "credit": "deposit crdt c cr incoming inflow income salary payout",
        "verification": "verify validation account_verification zero_auth",
        "withdrawal": "cash atm cash_withdrawal cash_out",
        "transfer": "wire remittance",
    }
)
"""Kinds of an entry, by every word for them. Others are kept, and judged as payments."""

BACK: Final = ("refund", "reversal", "credit")
"""Kinds of what comes in, which nobody pays."""

STATES: Final = _named(
    {
        "approved": "approve paid succeeded success successful captured settled completed complete "
        "authorized authorised ok posted booked book accepted",
        "declined": "decline refused rejected denied blocked insufficient_funds",
        "pending": "pdng futr processing authorization_pending requires_capture open",
        "failed": "failure error timeout timed_out system_error technical_error",
        "informational": "info",
    }
)
"""States of an entry, by every word for them. Others are kept, and count as approved."""

NEVER: Final = ("failed", "informational")
"""States of what never came to be: it broke, or a bank only tells of it and booked nothing."""

CHANNELS: Final = _named(
    {
        "in person": "chip contactless swipe pos atm magstripe in_person card_present terminal "
        "chip_transaction swipe_transaction branch unattended wallet",
        "remote": "online ecommerce e_commerce ecom web internet app mobile moto mail phone "
        "telephone cnp card_not_present not_present virtual keyed manual transfer credit_transfer "
        "bank_transfer sepa wire online_transaction",
        "by itself": "direct_debit standing_order recurring subscription installment batch "
        "scheduled merchant_initiated mit",
    }
)
"""Channels by where the customer was: at the place, elsewhere, or with no part in it, so that not
even the hour is theirs. Others count as in person."""

LABEL_WORDS: Final = _named(
    {
        "fraud": "1 1_0 true t yes y fraudulent confirmed_fraud is_fraud",
        "legitimate": "0 0_0 false f no n legit genuine not_fraud non_fraud nonfraud "
        "no_fraud normal",
        "unknown": "unlabelled unlabeled undetermined undecided pending n_a na nan null",
    }
)
"""What a label may say, by every word for them; others are for who imports to name."""


@lru_cache(10_000)
def present(channel: str | None) -> bool:
    """Whether who pays by a channel is where the payment is."""
    return word(channel, CHANNELS) not in ("remote", "by itself")


@lru_cache(10_000)
def by_itself(channel: str | None) -> bool:
    """Whether a payment by a channel comes without anybody doing something at that hour."""
    return word(channel, CHANNELS) == "by itself"


PAYMENT, CHECK, DECLINED, ASIDE = range(4)
"""What the pass makes of an entry: judged and learnt from; counted alone, a card that is checked or
a payment that was declined; left aside, since nobody paid with it."""


@lru_cache(10_000)
def role_of(kind: str | None, status: str | None) -> int:
    """What the pass makes of an entry of a kind and status.

    >>> role_of(None, None), role_of("refund", None), role_of(None, "declined")
    (0, 3, 2)
    """
    if kind in BACK or status in NEVER:
        return ASIDE
    if status == "declined":
        return DECLINED
    return CHECK if kind == "verification" else PAYMENT


def paid_in_sql(row: str) -> str:
    """SQL for whether a row, by its name, is a `PAYMENT` by its kind and status."""
    none = ", ".join(f"'{kind}'" for kind in (*BACK, "verification"))
    never = ", ".join(f"'{status}'" for status in (*NEVER, "declined"))
    return (
        f"(coalesce({row}.kind, '') NOT IN ({none})"
        f" AND coalesce({row}.status, '') NOT IN ({never}))"
    )
