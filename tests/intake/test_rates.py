"""Rates of currencies: the files that they come in, what is refused, and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_core.errors import AegisError
from aegis_core.intake import import_files
from aegis_core.intake.rates import import_rates, known_rates
from aegis_core.store import Store, audit, connect

ECB = "Date,USD,JPY,CYP,\n2026-04-13,1.10,160.0,N/A,\n2026-04-10,1.12,161.5,0.58,\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    path, store = tmp_path / "paid.csv", connect(tmp_path / "aegis.duckdb")
    path.write_text("customer_id,ts,amount,currency\na,2026-04-12,5,EUR\nb,2026-04-14,800,JPY\n")
    import_files([path], store, progress=False)
    return store


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    return path


def test_the_central_banks_file_is_read_once(store: Store, tmp_path: Path) -> None:
    told = import_rates(store, written(tmp_path, ECB), who="anna")
    assert dict(zip(told.currency, told.n, strict=True)) == {"CYP": 1, "JPY": 2, "USD": 2}
    assert import_rates(store, tmp_path / "rates.csv").empty
    assert store.rows("SELECT count(*) AS n FROM rates") == [{"n": 5}]
    with store.reading() as session:
        assert [e.who for e in audit.entries(session) if e.action == "rates"] == ["anna"]
    known = known_rates(store).set_index("currency")
    assert known.payments["JPY"] == 1
    assert known["last"]["JPY"] == "2026-04-13"


def test_a_payment_uses_the_last_rate_before_its_day(store: Store, tmp_path: Path) -> None:
    plain = "day,currency,rate\n2026-04-10,JPY,150\n2026-04-13,JPY,160\n2026-04-14,JPY,200\n"
    import_rates(store, written(tmp_path, plain))
    paid = tmp_path / "more.csv"
    paid.write_text("customer_id,ts,amount,currency\nc,2026-04-14T10:00:00Z,1600,JPY\n")
    import_files([paid], store, progress=False)
    (row,) = store.rows("SELECT base_amount FROM transactions WHERE customer_id = 'c'")
    assert row["base_amount"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("day,currency,rate\n13/04/2026,JPY,160\n03/04/2026,JPY,160\n", "such as 2026-04-13"),
        ("day,currency,rate\n2026-04-13,JPY,0.00625\n", "turned round"),
        ("day,currency,rate\n2026-04-13,JPY,-1\n", "row 2 has no day, currency or rate"),
        ("day,currency,rate\n2026-04-13,JPY,many\n", "a day or a rate is none"),
        ("when,what\n1,2\n", "has the columns when, what"),
    ],
)
def test_what_is_no_rate_is_refused_and_nothing_kept(
    store: Store, tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(AegisError, match=said):
        import_rates(store, written(tmp_path, text))
    assert store.rows("FROM rates") == []


def test_rates_of_one_day_have_their_own_form(store: Store, tmp_path: Path) -> None:
    import_rates(store, written(tmp_path, "Date, USD, JPY, \n14 April 2026, 1.1, 160.2, \n"))
    days = store.rows("SELECT DISTINCT day::VARCHAR AS day FROM rates")
    assert days == [{"day": "2026-04-14"}]


def test_without_a_base_nobody_knows_what_rates_are_for(tmp_path: Path) -> None:
    store = connect(tmp_path / "new.duckdb")
    with pytest.raises(AegisError, match="Write base_currency"):
        import_rates(store, written(tmp_path, ECB))
    with pytest.raises(AegisError, match="no code of ISO 4217"):
        import_rates(store, written(tmp_path, ECB), base="EURO")
    told = import_rates(store, written(tmp_path, ECB), base="usd")
    assert set(told.currency) == {"CYP", "EUR", "JPY"}
