"""The currencies of the seeds, with the number of decimals that ISO 4217 gives them and a rough level of prices."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final


@dataclass(frozen=True)
class Currency:
    """A currency. Amounts are counted in its minor unit; ``price`` is how many of those a US cent's worth costs."""

    code: str
    decimals: int
    price: float

    def minor(self, cents: float) -> int:
        """What costs so many US cents in America costs so many minor units here."""
        return round(cents * self.price)

    def amount(self, minor: int) -> Decimal:
        """So many minor units, exactly and with the currency's decimals."""
        return Decimal(f"{minor}e-{self.decimals}")


CURRENCIES: Final = (
    Currency("USD", 2, 1),
    Currency("EUR", 2, 0.875),
    Currency("JPY", 0, 1.25),
    Currency("KWD", 3, 2.5),
    Currency("GBP", 2, 0.75),
    Currency("INR", 2, 24),
    Currency("CLP", 0, 7.5),
    Currency("TND", 3, 12.5),
)
"""The prices are binary fractions, so that they are the same numbers on every machine."""
