"""Lists: who put whom on which, until when, and what that does to a decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from aegis_core.detection.scoring import ALLOWED, DENIED, SNOOZED
from aegis_core.errors import InputError
from aegis_core.review import lists
from aegis_core.store import Store

BY = {"who": "anna", "why": "she phoned"}


def payments(n: int = 4) -> pd.DataFrame:
    """Payments of c0, c1, … an hour apart from noon, at merchants m0, m1, …"""
    return pd.DataFrame(
        {
            "customer_id": [f"c{i}" for i in range(n)],
            "merchant_id": [f"m{i}" if i else None for i in range(n)],
            "ts": pd.date_range("2026-03-01 12:00", periods=n, freq="h", unit="us"),
        }
    )


def test_an_entry_speaks_of_its_customer_or_merchant_until_it_ends(store: Store) -> None:
    lists.add(store, "deny", "m2", field="merchant", **BY)
    lists.add(store, "allow", "c1", until="2026-03-01 13:00", **BY)  # its payment is at that time
    lists.add(store, "snooze", "c0", until="2026-03-02", **BY)
    rulings, listed = lists.rulings(lists.current(store), payments())
    assert rulings.tolist() == [SNOOZED, 0, DENIED, 0]
    assert [listed[i][1] for i in (0, 2)] == [
        "customer c0 is snoozed until 2026-03-02 00:00 UTC: she phoned",
        "merchant m2 is on the deny list: she phoned",
    ]


def test_of_several_entries_denial_goes_first_and_a_snooze_last(store: Store) -> None:
    entries = [
        lists.add(store, "snooze", "c1", until="2026-03-02", **BY),
        lists.add(store, "allow", "c1", **BY),
        lists.add(store, "deny", "m1", field="merchant", **BY),
    ]
    for n, expected in ((3, DENIED), (2, ALLOWED), (1, SNOOZED)):
        rulings, listed = lists.rulings(entries[:n], payments(2))
        assert rulings.tolist() == [0, expected]
        assert listed[1][0] == entries[n - 1].entry_id


def test_an_ended_entry_says_nothing_and_stays_with_who_and_why(store: Store) -> None:
    entry = lists.add(store, "deny", "c1", **BY)
    lists.end(store, entry.entry_id, who="ben", why="a mistake")
    assert lists.current(store) == []
    assert store.rows("SELECT who, why, ends FROM lists ORDER BY added_at") == [
        {"who": "anna", "why": "she phoned", "ends": None},
        {"who": "ben", "why": "a mistake", "ends": entry.entry_id},
    ]
    with pytest.raises(InputError, match="No list has"):
        lists.end(store, entry.entry_id, who="ben", why="again")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kind": "block"}, "no list"),
        ({"kind": "snoze"}, "snooze"),
        ({"field": "country"}, "not of 'country'"),
        ({"kind": "snooze"}, "needs an end"),
        ({"kind": "snooze", "field": "merchant", "until": "2027-01-01"}, "Only a customer"),
        ({"until": "soon"}, "until must be"),
        ({"value": " "}, "needs value"),
        ({"who": "", "why": ""}, "needs who and why"),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_is_kept(
    store: Store, wrong: dict[str, Any], told: str
) -> None:
    given: dict[str, Any] = {"kind": "deny", "value": "c1", **BY} | wrong
    with store.writing():
        pass
    with pytest.raises(InputError, match=told):
        lists.add(store, given.pop("kind"), given.pop("value"), **given)
    assert store.rows("FROM lists") == []


def test_a_snooze_ends_within_the_days_of_the_settings(store: Store) -> None:
    def arrive(seq: int, ts: str, n: int = 1) -> None:
        with store.writing() as session:
            session.execute(
                "INSERT INTO transactions (seq, transaction_id, customer_id, ts, amount) "
                "SELECT ? + i, 't' || (? + i), 'c1', ?, 5 FROM range(?) t(i)", [seq, seq, ts, n]
            )  # fmt: skip

    def refused(until: str, days: float = 90.0) -> None:
        with pytest.raises(InputError, match=rf"lasts {days:g} days at most \(snooze_days .* lat"):
            lists.add(store, "snooze", "c1", until=until, most_days=days, **BY)

    arrive(0, "2020-03-01 12:00", 50)
    for days, until, late in ((90, "2020-05-30", "2020-05-31"), (0.5, "2020-03-02", "2020-03-03")):
        refused(late, days)
        lists.add(store, "snooze", "c1", until=until, most_days=days, **BY)
    arrive(50, "2024-03-01 12:00")  # live ones begin, long after the history
    refused("2024-05-31")
    lists.add(store, "snooze", "c1", until="2024-05-30", **BY)
    arrive(51, "2098-03-01 12:00")  # one that is ahead of everybody's clock
    refused("2098-03-02")
    lists.add(store, "allow", "c1", until="2099-01-01", **BY)
    years = [f"{entry.until:%Y}" for entry in lists.current(store) if entry.until]
    assert years == ["2020", "2020", "2024", "2099"]


def test_a_name_is_a_value_and_never_a_statement(store: Store) -> None:
    hostile = "'; DROP TABLE lists; --"
    lists.add(store, "deny", hostile, **BY)
    frame = payments(3).assign(customer_id=["a", hostile, "b"])
    assert lists.rulings(lists.current(store), frame)[0].tolist() == [0, DENIED, 0]


def test_no_entries_and_no_rows_give_no_ruling(store: Store) -> None:
    entry = lists.add(store, "deny", "m1", field="merchant", **BY)
    assert lists.rulings([], payments())[0].tolist() == [0, 0, 0, 0]
    assert lists.rulings([entry], payments(0))[0].dtype == np.int8
    bare = payments().drop(columns="merchant_id")
    assert lists.rulings([entry], bare)[0].tolist() == [0, 0, 0, 0]
