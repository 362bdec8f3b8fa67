"""What an amount is worth: currencies, their digits, and rates to one unit for all.

Evidence compares amounts in the *base currency* of a database. A payment keeps the rate that it was
judged with: the last one known before its day, else a long-term one of this module.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from iso4217 import Currency

PER_EURO_OF: Final = "2025-01"
"""The month that `PER_EURO` is of."""
_PER_EURO: Final = """
    AED 3.8 AFN 75 ALL 98 AMD 410 ANG 1.9 AOA 950 ARS 1080 AUD 1.66 AWG 1.86 AZN 1.76 BAM 1.96
    BBD 2.1 BDT 126 BGN 1.96 BHD 0.39 BIF 3050 BMD 1.04 BND 1.41 BOB 7.2 BRL 6.2 BSD 1.04 BTN 90
    BWP 14.4 BYN 3.4 BYR 34000 BZD 2.09 CAD 1.49 CDF 2950 CHF 0.94 CLF 0.027 CLP 1040 CNH 7.55
    CNY 7.55 COP 4480 CRC 525 CUC 1.04 CUP 25 CVE 110 CZK 25.1 DJF 185 DKK 7.46 DOP 64 DZD 141
    EEK 15.6 EGP 52.5 ERN 15.6 ETB 132 EUR 1 FJD 2.42 FKP 0.84 GBP 0.84 GEL 2.95 GHS 15.5 GIP 0.84
    GMD 75 GNF 8950 GTQ 8 GYD 217 HKD 8.1 HNL 26.4 HRK 7.53 HTG 136 HUF 411 IDR 16900 ILS 3.75
    INR 89.5 IQD 1360 IRR 43700 ISK 145 JMD 163 JOD 0.74 JPY 161 KES 134 KGS 91 KHR 4180 KMF 492
    KPW 940 KRW 1510 KWD 0.32 KYD 0.87 KZT 540 LAK 22700 LBP 93000 LKR 308 LRD 200 LSL 19.4
    LTL 3.45 LVL 0.7 LYD 5.1 MAD 10.4 MDL 19.3 MGA 4880 MKD 61.5 MMK 2180 MNT 3560 MOP 8.3 MRO 414
    MRU 41.4 MUR 48.5 MVR 16 MWK 1800 MXN 21.3 MYR 4.6 MZN 66 NAD 19.4 NGN 1600 NIO 38.2 NOK 11.7
    NPR 143 NZD 1.84 OMR 0.4 PAB 1.04 PEN 3.88 PGK 4.2 PHP 60.5 PKR 289 PLN 4.25 PYG 8170 QAR 3.78
    RON 4.98 RSD 117 RUB 104 RWF 1450 SAR 3.89 SBD 8.8 SCR 14.9 SDG 624 SEK 11.5 SGD 1.41 SHP 0.84
    SLE 23.6 SLL 23600 SOS 593 SRD 36.4 SSP 4300 STD 24500 STN 24.5 SVC 9.1 SYP 13500 SZL 19.4
    THB 35.6 TJS 11.3 TMT 3.64 TND 3.31 TOP 2.5 TRY 37 TTD 7.06 TWD 34.1 TZS 2600 UAH 43.6 UGX 3830
    USD 1.04 UYU 45.5 UZS 13450 VED 56 VES 56 VND 26300 VUV 125 WST 2.9 XAF 656 XCD 2.8 XCG 1.86
    XDR 0.79 XOF 656 XPF 119 YER 258 ZAR 19.4 ZMW 28.8 ZWG 27 ZWL 335
"""
PER_EURO: Final = {
    code: float(rate)
    for code, rate in zip(_PER_EURO.split()[::2], _PER_EURO.split()[1::2], strict=True)
}
"""How many units of a currency a euro was worth in `PER_EURO_OF`, in two or three digits: so that
without any other rate nothing is wrong by a factor of a hundred."""
WITHDRAWN: Final = {
    "ANG": (532, 2), "BGN": (975, 2), "BYR": (974, 0), "CUC": (931, 2), "EEK": (233, 2),
    "HRK": (191, 2), "LTL": (440, 2), "LVL": (428, 2), "MRO": (478, 2), "SLL": (694, 2),
    "STD": (678, 2), "VEF": (937, 2), "ZWL": (932, 2), "CNH": (0, 2),
}  # fmt: skip
"""Codes that ISO 4217 had, or that are in use beside it: number and digits."""
_NUMBERS: Final = {
    **{number: code for code, (number, _) in WITHDRAWN.items()},
    **{currency.number: currency.code for currency in Currency},
}
_UPPER: Final = str.maketrans("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@lru_cache(10_000)
def coded(text: str) -> str:
    """The code of a currency: upper case, of three letters where its number was given.

    >>> coded("eur"), coded("392"), coded("48"), coded("Bitcoin")
    ('EUR', 'JPY', 'BHD', 'BITCOIN')
    """
    if text.isascii() and text.isdigit() and len(text) <= 3:
        return _NUMBERS.get(int(text), text)
    return text.translate(_UPPER)


@lru_cache(10_000)
def known(code: str) -> bool:
    """Whether a code is, or was, one of ISO 4217."""
    return code in WITHDRAWN or _iso(code) is not None


@lru_cache(10_000)
def digits(code: str | None) -> int:
    """Digits after the decimal point that amounts of a currency have; 2 where nobody knows.

    >>> [digits(code) for code in ("JPY", "KWD", "HUF", "BGN", "CLF", None)]
    [0, 3, 2, 2, 4, 2]
    """
    if code in WITHDRAWN:
        return WITHDRAWN[code][1]
    found = _iso(code or "")
    return 2 if found is None or found.exponent is None else int(found.exponent)


def _iso(code: str) -> Currency | None:
    try:
        return Currency(code)
    except ValueError:
        return None


def worth(amount: float, currency: str | None) -> str:
    """An amount with its currency, in as many digits as that has.

    >>> worth(6500.0, "JPY"), worth(4500.125, "KWD"), worth(9.5, None)
    ('JPY 6,500', 'KWD 4,500.125', '9.50')
    """
    return f"{currency or ''} {amount:,.{digits(currency)}f}".strip()


class Rates:
    """What a unit of each currency is worth in `base`, day by day.

    Parameters
    ----------
    base : the code of the base currency.
    known : (day, currency, units for one of the base currency), in any order; days as `date`s or
        numbers, all of one kind.

    >>> rates = Rates("EUR", [(3, "JPY", 200.0)])
    >>> rates.of("JPY", 4), rates.of("EUR", 4), rates.of(None, 4), rates.of("COWRIE", 4)
    (0.005, 1.0, 1.0, None)
    >>> rates.of("JPY", 3) == 1 / PER_EURO["JPY"]  # that of the same day was not known yet
    True
    """

    def __init__(self, base: str, known: Iterable[tuple[int, str, float]] = ()) -> None:
        self.base = base
        days: dict[str, dict[int, float]] = {}
        for day, currency, per_base in known:
            days.setdefault(currency, {})[day] = per_base
        self._known = {
            currency: (sorted(of), [1 / of[day] for day in sorted(of)])
            for currency, of in days.items()
        }

    def of(self, currency: str | None, day: int) -> float | None:
        """Units of the base currency for one of `currency`, by the last rate before a day.

        Without a currency an amount is in the base currency. None where no rate is known.
        """
        if currency is None or currency == self.base:
            return 1.0
        if currency in self._known:
            days, rates = self._known[currency]
            if place := bisect_left(days, day):
                return rates[place - 1]
        if self.base in PER_EURO and currency in PER_EURO:
            return PER_EURO[self.base] / PER_EURO[currency]
        return None

    def source(self, currency: str | None, day: int) -> str:
        """How a currency is judged on a day, in words."""
        if currency is None or currency == self.base:
            return "in the base currency"
        if currency in self._known and bisect_left(self._known[currency][0], day):
            return "by its imported rates"
        if self.of(currency, day) is not None:
            return f"by its long-term rate of {PER_EURO_OF}"
        return "by its own scale, learnt: no rate is known"
