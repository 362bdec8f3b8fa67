"""Rates of currencies come in: the European Central Bank's file, or one of three columns."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from aegis_core.errors import ColumnError, FileUnreadable, InputError
from aegis_core.machine import utc_now
from aegis_core.schema import DAY_US
from aegis_core.store import Store, audit
from aegis_core.store.meaning import Meaning, base_of, choose_base
from aegis_core.units.money import PER_EURO, PER_EURO_OF, Rates, coded

EURO: Final = "EUR"
_PLAIN: Final = ("day", "currency", "rate")
_TURNED: Final = np.log(10.0)
"""How far off a rate may be, where its reciprocal is nearer to what is known."""


def import_rates(store: Store, path: Path, *, base: str = "", who: str = "aegis") -> pd.DataFrame:
    """Keep the rates of a file; those that are there already stay as they are.

    A payment that comes from then on is judged by the last rate before its day. What was judged
    keeps the rate that it was judged by.

    Parameters
    ----------
    path :
        CSV with the columns `day`, `currency`, `rate`, the last in units of the currency for one
        of the base currency; or the history of the European Central Bank, which has a column for
        each currency in units for one euro, and may be a ZIP file.
    base : see `Settings.base_currency`.

    Returns
    -------
    DataFrame with `currency`, `n` (rates that were new), `first`, `last` (their days).

    Raises
    ------
    FileUnreadable : The file is not there, or no CSV.
    ColumnError : It has other columns.
    InputError : A day or rate is none, or a rate seems to be turned round.
    """
    found = _read(path)
    with store.changing() as session:
        if not (base or base_of(session) or session.next_seq()):
            raise InputError(
                "It is not known yet which currency rates are for. Write base_currency into "
                "aegis.toml, or import payments first: most of them settle it."
            )
        choose_base(session, "transactions", base)
        meant = Meaning.read(session, base)
        rates = _in_base(found, meant.rates)
        there = session.query("SELECT day, currency, per_base FROM rates")
        keys = ["day", "currency", "per_base"]
        known = pd.MultiIndex.from_frame(there.astype({"day": "datetime64[us]"})[keys])
        fresh = rates[~pd.MultiIndex.from_frame(rates[keys]).isin(known)]
        if len(fresh):
            kept = fresh.assign(source=path.name, imported_at=utc_now())
            session.append("rates", kept.assign(day=kept.day.dt.date))
            audit.record(session, who, "rates", path.name, {"rates": len(fresh)})
    told = fresh.groupby("currency").day.agg(["size", "min", "max"]).reset_index()
    return told.set_axis(["currency", "n", "first", "last"], axis=1)


def known_rates(store: Store) -> pd.DataFrame:
    """How each currency is judged now: `currency`, `payments` in it, `judged`, `last` rate."""
    with store.reading() as session:
        rates = Meaning.read(session).rates
        paid = session.query(
            f"""SELECT currency, count(*) AS payments, max(epoch_us(ts)) // {DAY_US} AS day
            FROM transactions WHERE currency IS NOT NULL GROUP BY currency ORDER BY ALL"""
        )
        last = session.query("SELECT currency, max(day)::VARCHAR AS last FROM rates GROUP BY ALL")
    judged = [rates.source(c, int(d) + 1) for c, d in zip(paid.currency, paid.day, strict=True)]
    return paid.assign(judged=judged).drop(columns="day").merge(last, on="currency", how="outer")


def _read(path: Path) -> pd.DataFrame:
    """`day`, `currency`, `rate` of a file, and whether they are for one euro."""
    try:
        read = pd.read_csv(path, dtype=str, skipinitialspace=True, na_values=["N/A", ""])
    except (OSError, ValueError) as e:
        raise FileUnreadable(f"{path} cannot be read as CSV: {e}") from None
    read.columns = [name.strip() for name in read.columns]
    plain = {name.lower(): name for name in read.columns}
    if set(_PLAIN) <= set(plain):
        rows = read[[plain[name] for name in _PLAIN]].set_axis(list(_PLAIN), axis=1)
        return _typed(rows.assign(of_euro=False), path)
    currencies = [name for name in read.columns if len(name) == 3 and name.isupper()]
    if read.columns[0].lower() != "date" or "USD" not in currencies:
        raise ColumnError(
            f"{path} has the columns {', '.join(read.columns[:10])}; rates are in day, currency, "
            "rate, or in the file eurofxref-hist.csv of the European Central Bank."
        )
    rows = read.melt(read.columns[0], currencies, "currency", "rate")
    rows.columns = list(_PLAIN)
    return _typed(rows.dropna(subset="rate").assign(of_euro=True), path)


def _typed(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    try:
        day = _days(rows.day)
        rate = rows.rate.astype(float)
    except (ValueError, TypeError) as e:
        raise InputError(f"{path}: a day or a rate is none: {str(e)[:200]}") from None
    wrong = ~(np.isfinite(rate) & (rate > 0)) | day.isna() | rows.currency.isna()
    if wrong.any():
        raise InputError(
            f"{path}: row {int(np.flatnonzero(wrong)[0]) + 2} has no day, currency or rate above 0."
        )
    currency = rows.currency.str.strip().map(coded)
    return rows.assign(day=day.astype("datetime64[us]"), rate=rate, currency=currency)


def _days(texts: pd.Series) -> pd.Series:
    """Days in ISO 8601, or as in the European Central Bank's file of one day; nothing guessed."""
    try:
        return pd.to_datetime(texts, format="ISO8601").dt.normalize()
    except ValueError as e:
        try:
            return pd.to_datetime(texts, format="%d %B %Y")
        except ValueError:
            raise ValueError(f"days are such as 2026-04-13; {e}") from None


def _in_base(found: pd.DataFrame, usual: Rates) -> pd.DataFrame:
    """`day`, `currency`, `per_base` in units for one of the base currency."""
    base, rows = usual.base, found.rename(columns={"rate": "per_base"})
    if rows.of_euro.any() and base != EURO:
        of_base = rows[rows.currency == base].set_index("day").per_base
        if of_base.empty:
            raise InputError(f"The file has no rates of {base}, the base currency of the database.")
        euro = pd.DataFrame({"day": of_base.index, "currency": EURO, "per_base": 1.0})
        rows = pd.concat([rows, euro]).assign(per_base=lambda r: r.per_base / r.day.map(of_base))
    rows = rows[(rows.currency != base) & rows.per_base.notna()]
    for currency, per_base in rows.groupby("currency").per_base.median().items():
        if str(currency) not in PER_EURO or base not in PER_EURO:
            continue
        expected = PER_EURO[str(currency)] / PER_EURO[base]
        off, turned = abs(np.log(per_base / expected)), abs(np.log(1 / per_base / expected))
        if off > _TURNED and turned < off:
            raise InputError(
                f"{currency} {per_base:g} for one {base} seems to be turned round: in "
                f"{PER_EURO_OF} one {base} was worth about {currency} {expected:g}. A rate is in "
                f"units of the currency for one {base}."
            )
    return rows[["day", "currency", "per_base"]].drop_duplicates(["day", "currency"], keep="last")
