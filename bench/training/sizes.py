"""What accounts of four sizes hold, and what it costs: `python -m bench.training.sizes --strategy NAME --bars FILE`.

Plays the version that the shipped store names through the dry run of so much cash each, by the strategy's default rules
(`training.evaluate.sizes`), and prints JSON: how far what is held is from what is wanted, orders, costs, return.
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from daemon.core.strategy_rules import trading_for, with_rules
from daemon.models.shipped import USUAL
from daemon.models.store import load
from strategies.kit.manifest import POLICY_FILE
from strategies.registry import daily_strategy
from training.data.daily_table import read_table
from training.evaluate.days import desk_before
from training.evaluate.sizes import SIZES_USD, at_sizes
from training.export.export import Exported


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--bars", type=Path, required=True)
    parser.add_argument("--first", default="2021-01-04", help="date of the first session")
    parser.add_argument("--sessions", type=int, default=60)
    parser.add_argument("--cash", type=int, nargs="*", default=list(SIZES_USD), help="USD")
    parser.add_argument("--fractions", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--tested", action="store_true", help="by the rules of the version's tests: a risk overlay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    strategy, rules = daily_strategy(options.strategy), trading_for(options.strategy)
    model = load(USUAL, strategy)
    rules = with_rules(rules, model.manifest.desk if options.tested else {})
    rules = replace(rules, basket=replace(rules.basket, fractions=options.fractions))
    table = read_table(options.bars, strategy)
    first = bisect_left(table.dates, options.first)
    desk = desk_before(table, table.dates[first : first + options.sessions], strategy, rules)
    policy: Any = Exported(model.path / POLICY_FILE).eval()
    sizes = [msgspec.to_builtins(size_result) for size_result in at_sizes(policy, desk, options.cash)]
    report = {"strategy": options.strategy, "version": model.version, "from": desk.dates[0], "to": desk.dates[-1]}
    sys.stdout.write(json.dumps({**report, "sizes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
