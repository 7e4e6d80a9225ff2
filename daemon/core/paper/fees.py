"""Fees of an option order: one formula over its cumulative figures, in Decimal.

The cumulative sum is rounded up to the cent once, so partial fills do not add rounding. Each fee is declared once, as a
field of `daemon.core.limits.Paper`; nothing here or in training names one.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from decimal import ROUND_CEILING, Decimal

from daemon.core.limits import ALL, PROCEEDS, SOLD, Fee, Paper

CENT = Decimal("0.01")
_UNITS = {
    ALL: "USD a contract",
    SOLD: "USD a contract sold",
    PROCEEDS: "Fraction of the proceeds of a sale, 0 to below 1",
}

FEES: dict[str, Fee] = {field.name: field.metadata[Fee] for field in fields(Paper) if Fee in field.metadata}
"""Key of [paper] -> the fee's declaration."""
CHARGED = {charged: {key: fee for key, fee in FEES.items() if fee.charged == charged} for charged in _UNITS}
"""What they are charged on -> the fees."""


def rate(charged: str, paper: Paper) -> Decimal:
    """Return the sum of the rates of all fees that are charged on this."""
    return sum((getattr(paper, key) for key in CHARGED[charged]), Decimal(0))


def fees(quantity: int, proceeds: Decimal, side: int, paper: Paper) -> Decimal:
    """Return all fees of one order so far in USD, rounded up to the cent.

    `quantity` is the order's cumulative contracts, `proceeds` its cumulative value in USD (price x 100 x contracts),
    `side` +1 a buy, -1 a sale.
    """
    total = rate(ALL, paper) * quantity
    if side < 0:
        total += rate(SOLD, paper) * quantity + rate(PROCEEDS, paper) * proceeds
    return total.quantize(CENT, rounding=ROUND_CEILING)


def table() -> str:
    """Return the fees as a Markdown table: what docs/PAPER.md shows."""
    lines = ["| key | charged on | rate in 2024 | since then | source |", "|---|---|---|---|---|"]
    lines += [f"| `{key}` | {f.charged} | {f.rate} | {f.since} | {f.source} |" for key, f in FEES.items()]
    return "\n".join(lines)


def config_lines() -> str:
    """Return two lines of config.toml for each fee: its text, and its key with its default."""
    lines: list[str] = []
    for key, fee in FEES.items():
        default = f"{getattr(Paper(), key):f}"
        lines += [f"# {_UNITS[fee.charged]}: {fee.meaning}. Default: {default}.", f"{key} = {default}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(config_lines() + "\n")
