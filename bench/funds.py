"""Do other funds lower the drawdown of `regime_switcher`? Its regimes that take no skill, by the desk's dry run.

`python -m bench.funds [--first 2015-01-02] [--last 2022-12-30] [--into FILE]` reads $RLTRADER_DATA: SPY, QQQ and
IWM from the file of ETFs, TLT and GLD from the file of others, all adjusted for splits and dividends. Each list of
funds plays each regime on one account, in whole shares, with the desk's costs and gates. `--into` keeps the five funds
as a file to train on. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from daemon.core.strategy_rules import trading_for
from strategies.registry import daily_strategy
from training.data.daily_table import DailyTable, read_table
from training.desks.daily.play import always
from training.evaluate.days import desk_before, dry_run
from training.study.study import figures

OWN, OTHERS = ("SPY", "QQQ", "IWM"), ("TLT", "GLD")
LISTS = (OWN, (*OWN, *OTHERS))
REGIMES = ("EQUAL_WEIGHT", "INVERSE_VOLATILITY", "ALL_SPY")


def write_funds(path: Path, data: Path) -> Path:
    """Write the bars of all five funds, adjusted, as one file that training reads."""
    etfs = pa.parquet.read_table(data / "etf_daily_2010_2022.parquet")
    factor = pc.divide(etfs["adj_close"], etfs["close"])
    for name in ("open", "high", "low", "close"):
        etfs = etfs.set_column(etfs.schema.get_field_index(name), name, pc.multiply(etfs[name], factor))
    other_etfs = pa.parquet.read_table(data / "etf_other_daily_adj_2010_2022.parquet")
    other_etfs = other_etfs.filter(pc.is_in(other_etfs["symbol"], pa.array(OTHERS)))
    columns = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
    all_etfs = pa.concat_tables([etfs.select(columns), other_etfs.select(columns)], promote_options="permissive")
    pa.parquet.write_table(all_etfs.sort_by([("timestamp", "ascending"), ("symbol", "ascending")]), path)
    return path


def played(table: DailyTable, funds: tuple[str, ...], dates: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the figures of each regime of these funds on these sessions."""
    strategy = daily_strategy("regime_switcher", funds)
    rules = trading_for("regime_switcher")
    desk = desk_before(table, dates, strategy, rules)
    for name in REGIMES:
        if name in strategy.spec.actions:
            result = figures(
                dry_run(always(strategy.spec.actions.index(name)), desk).sessions,
                float(rules.paper.cash_usd),
                compounds=True,
            )
            yield {
                "funds": list(funds),
                "regime": name,
                "net_return": round(result.net_return, 4),
                "max_drawdown": round(result.max_drawdown, 4),
                "sharpe_annual": round(result.sharpe_annual, 3),
                "turnover": round(result.turnover, 5),
            }


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Play all, and print the figures as a table and as JSON."""
    line = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    line.add_argument("--first", default="2015-01-02", metavar="DATE", help="(%(default)s)")
    line.add_argument("--last", default="2022-12-30", metavar="DATE", help="(%(default)s)")
    line.add_argument("--into", type=Path, metavar="FILE", help="keeps the bars of the five funds (Parquet)")
    options = line.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        path = write_funds(options.into or Path(home) / "funds.parquet", Path(os.environ["RLTRADER_DATA"]))
        for funds in LISTS:
            table = read_table(path, daily_strategy("regime_switcher", funds))
            rows += played(table, funds, [date for date in table.dates if options.first <= date <= options.last])
    print("| funds | regime | net return | largest drawdown | Sharpe, annual | turnover a session |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {', '.join(row['funds'])} | {row['regime']} | {row['net_return']:+.1%} | {row['max_drawdown']:.1%} | "
            f"{row['sharpe_annual']:.2f} | {row['turnover']:.2%} |"
        )
    print(json.dumps(rows), flush=True)
    return rows


if __name__ == "__main__":
    main()
