"""The currencies of the seeds, each with a rough level of prices."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from fininfra_db.data.currencies import MINOR_UNITS


@dataclass(frozen=True)
class Currency:
    """A currency. Amounts are counted in its minor unit; ``price`` is how many of those a US cent's worth costs."""

    code: str
    price: float

    @property
    def decimals(self) -> int:
        """How many decimals its amounts have."""
        return MINOR_UNITS[self.code] or 0

    def minor(self, cents: float) -> int:
        """What costs so many US cents in America costs so many minor units here."""
        return round(cents * self.price)

    def amount(self, minor: int) -> Decimal:
        """So many minor units, exactly and with the currency's decimals."""
        return Decimal(f"{minor}e-{self.decimals}")


CURRENCIES: Final = (
    Currency("USD", 1),
    Currency("EUR", 0.875),
    Currency("JPY", 1.25),
    Currency("KWD", 2.5),
    Currency("GBP", 0.75),
    Currency("INR", 24),
    Currency("CLP", 7.5),
    Currency("TND", 12.5),
)
"""The prices are binary fractions, so that they are the same numbers on every machine."""
