"""Fees of an option order, and of a day's share trades: one formula each over cumulative figures, in Decimal.

An order's sum is rounded up to the cent once, so partial fills do not add rounding; a day's fees are as in a broker's
ledger, each kind rounded up to the cent. Each fee is declared once, as a field of `daemon.core.limits.Paper`; no name
of a fee appears here or in training.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from decimal import ROUND_CEILING, Decimal

from daemon.core.book import CENT
from daemon.core.limits import ALL, PROCEEDS, SHARES, SHARES_SOLD, SOLD, Fee, Paper
from strategies.kit.quantity import Quantity

_UNITS = {
    ALL: "USD a contract",
    SOLD: "USD a contract sold",
    PROCEEDS: "Fraction of the proceeds of a sale, 0 to below 1",
    SHARES: "USD a share",
    SHARES_SOLD: "USD a share sold",
}

FEES: dict[str, Fee] = {field.name: field.metadata[Fee] for field in fields(Paper) if Fee in field.metadata}
"""Key of [paper] -> its fee."""
CHARGED = {unit: {key: fee for key, fee in FEES.items() if fee.charged == unit} for unit in _UNITS}
"""Base of a fee -> the fees charged on it."""


def rate(unit: str, paper: Paper) -> Decimal:
    """Return the sum of the rates of all fees charged on this base."""
    return sum((getattr(paper, key) for key in CHARGED[unit]), Decimal(0))


def fees(quantity: int, proceeds: Decimal, side: int, paper: Paper) -> Decimal:
    """Return all fees of one order so far in USD, rounded up to the cent.

    `quantity` is the order's cumulative contracts, `proceeds` its cumulative value in USD (price x 100 x contracts),
    `side` +1 a buy, -1 a sale.
    """
    total = rate(ALL, paper) * quantity
    if side < 0:
        total += rate(SOLD, paper) * quantity + rate(PROCEEDS, paper) * proceeds
    return total.quantize(CENT, rounding=ROUND_CEILING)


def charges_days(paper: Paper) -> bool:
    """Return whether a desk of shares pays a day's fees; for a larger account `share_cost_rate` includes them."""
    return paper.cash_usd < paper.share_fees_below_usd


def day_fees(shares: Quantity, sale_shares: Quantity, proceeds: Decimal, paper: Paper) -> dict[str, Decimal]:
    """Return a day's share fees by short name, USD, each rounded up to the cent; fees of 0 are left out.

    Args:
        shares: traded on the day, bought and sold.
        sale_shares: of these, the shares sold.
        proceeds: USD from the sales.
    """
    bases: dict[str, Quantity | Decimal] = {SHARES_SOLD: sale_shares, PROCEEDS: proceeds, SHARES: shares}
    exact = {fee.short: getattr(paper, key) * base for on, base in bases.items() for key, fee in CHARGED[on].items()}
    return {name: usd.quantize(CENT, rounding=ROUND_CEILING) for name, usd in exact.items() if usd}


def table() -> str:
    """Return the fees as the Markdown table of docs/PAPER.md."""
    lines = ["| key | charged on | rate in 2024 | since then | source |", "|---|---|---|---|---|"]
    lines += [f"| `{key}` | {f.charged} | {f.rate} | {f.since} | {f.source} |" for key, f in FEES.items()]
    return "\n".join(lines)


def config_lines() -> str:
    """Return two lines of config.toml for each fee: its comment, and its key with the default."""
    lines: list[str] = []
    for key, fee in FEES.items():
        default = f"{getattr(Paper(), key):f}"
        lines += [f"# {_UNITS[fee.charged]}: {fee.meaning}. Default: {default}.", f"{key} = {default}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(config_lines() + "\n")
