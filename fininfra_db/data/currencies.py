"""The currencies of ISO 4217 that are in use, and how many decimals each has.

The list is "List one: current currency and funds" of the standard's maintenance agency, SIX
(https://www.six-group.com/en/products-services/financial-information/data-standards.html), with its amendments up to number 180:
the lev of Bulgaria (BGN) is gone since January 2026, the Arab accounting dinar (XAD) is there since May 2025.
"""

from collections.abc import Mapping
from typing import Final

_CODES: Final[Mapping[int | None, str]] = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC "
        "CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR "
        "KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN "
        "PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS "
        "UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
    None: "XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX",
}
"""The codes by their decimals; metals, units of account and the codes for tests and for none have no minor unit."""

MINOR_UNITS: Final[Mapping[str, int | None]] = {code: digits for digits, codes in _CODES.items() for code in codes.split()}
"""How many decimals an amount of each currency has, by its code; None where the standard gives none."""


def codes_with(digits: int) -> list[str]:
    """The codes of the currencies with so many decimals."""
    return [code for code, known in MINOR_UNITS.items() if known == digits]
