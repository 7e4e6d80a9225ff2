"""A small and a large account live at the loopback Alpaca: `python -m bench.live.sizes` prints JSON.

`regime_switcher` with a policy that wants ALL_SPY, and ALL_QQQ the day after, on made-up prices: what is held at the
close beside what is wanted, as parts of the equity, orders, and the fees that the broker books by the day.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.core.limits import Paper
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, IN_FULL, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.stage import new_york_ns

CASH_USD = (5_000, 1_000_000)
CLOSED = "16:05"


def played(cash: int, models: Path, folder: Path) -> dict[str, Any]:
    """Two days of an account."""
    paper = Paper()
    rules = dataclasses.replace(
        IN_FULL, taf_per_share=paper.share_taf_usd, reg_rate=paper.sec_rate, cat_per_share=paper.share_cat_usd
    )
    with daily_stage(HALF_DAY, BEGIN, folder, models, cash=cash, rules=rules) as stage:
        bought(stage)
        jump(stage, NEXT_DAY, BEGIN)
        stage.start()
        stage.until_time(new_york_ns(NEXT_DAY, CLOSED))
        stop(stage)
        book, trades = stage.books().state.book, [trade for trade in stage.account.trades if trade.execution_id]
        rows = [row.fields for row in stage.account.activities if row.fields["activity_type"] == "FEE"]
        return {
            "cash_usd": cash,
            "held": {symbol: str(quantity) for symbol, quantity in stage.held().items()},
            "weight_held": round(float(1 - book.cash / book.equity), 6),
            "weight_wanted": 1.0,
            "orders": len(stage.posts()),
            "fills": len(trades),
            "fees_usd": str(-sum(Decimal(row["net_amount"]) for row in rows)),
            "fees": [f"{row['net_amount']} {row['description']}" for row in rows],
            "return": round(float(book.equity) / cash - 1, 6),
        }


def main() -> None:
    """Play and print."""
    with tempfile.TemporaryDirectory() as name:
        models = swapping(Path(name) / "models")
        figures = [played(cash, models, Path(name) / str(cash)) for cash in CASH_USD]
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
