"""One backtest in NautilusTrader, run by the peer's own Python (`bench.peers.bench_nautilus` starts it).

Arguments: tape, ONNX file, bars between two orders. Prints one JSON object. It imports nothing of this project.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from decimal import Decimal
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.indicators import (
    AverageTrueRange,
    BollingerBands,
    ExponentialMovingAverage,
    MovingAverageConvergenceDivergence,
    RelativeStrengthIndex,
    SimpleMovingAverage,
)
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Money
from nautilus_trader.persistence.wranglers import BarDataWrangler
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy

WINDOW, FEATURES, TEMPERATURE = 20, 23, 0.7


class Scalper(Strategy):
    """Six indicators, a window of their rows, one ONNX answer and one draw each bar; an order every `every` bars."""

    def __init__(self, instrument: Any, bar_type: BarType, graph: str, every: int) -> None:
        super().__init__()
        self.instrument, self.bar_type, self.every = instrument, bar_type, every
        self.bars = self.answers = self.orders = 0
        self.ema, self.sma = ExponentialMovingAverage(9), SimpleMovingAverage(50)
        self.rsi, self.atr = RelativeStrengthIndex(14), AverageTrueRange(14)
        self.macd, self.bands = MovingAverageConvergenceDivergence(12, 26), BollingerBands(20, 2.0)
        self.window = np.zeros((1, WINDOW, FEATURES), np.float32)
        self.chance = np.random.default_rng(7)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.policy = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def on_start(self) -> None:
        """Register what sees each bar."""
        for indicator in (self.ema, self.sma, self.rsi, self.atr, self.macd, self.bands):
            self.register_indicator_for_bars(self.bar_type, indicator)
        self.subscribe_bars(self.bar_type)

    def on_bar(self, bar: Any) -> None:
        """Observe the bar, ask the policy, draw an action, and now and then trade."""
        self.bars += 1
        if not self.indicators_initialized():
            return
        close = float(bar.close)
        width = self.bands.upper - self.bands.lower or 1.0
        row = (
            close / self.ema.value - 1.0,
            close / self.sma.value - 1.0,
            self.rsi.value,
            self.atr.value / close,
            self.macd.value / close,
            (close - self.bands.lower) / width,
        )
        window = self.window
        window[0, :-1] = window[0, 1:]
        window[0, -1, : len(row)] = row
        logits = self.policy.run(None, {"observation": window})[0][0].tolist()
        top = max(logits)
        weights = [math.exp((logit - top) / TEMPERATURE) for logit in logits]
        drawn = self.chance.random() * sum(weights)
        action = 0
        while action < len(weights) - 1 and drawn >= weights[action]:
            drawn -= weights[action]
            action += 1
        self.answers += 1
        if self.answers % self.every == 0:
            self.trade()

    def trade(self) -> None:
        """Buy when flat, else sell what is held."""
        flat = self.portfolio.is_flat(self.instrument.id)
        side = OrderSide.BUY if flat else OrderSide.SELL
        self.submit_order(self.order_factory.market(self.instrument.id, side, self.instrument.make_qty(10)))
        self.orders += 1


def main() -> None:
    """Load the bars, then measure `BacktestEngine.run` alone."""
    tape, graph, every = sys.argv[1], sys.argv[2], int(sys.argv[3])
    instrument = TestInstrumentProvider.equity(symbol="SPY", venue="XNAS")
    bar_type = BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-EXTERNAL")
    table = pd.read_parquet(tape).set_index("timestamp")[["open", "high", "low", "close", "volume"]]
    table.index = table.index + pd.Timedelta(minutes=1)  # a bar is known at its end
    bars = BarDataWrangler(bar_type, instrument).process(table)
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        Venue("XNAS"), OmsType.NETTING, AccountType.CASH, [Money(Decimal(100_000), USD)], base_currency=USD
    )
    engine.add_instrument(instrument)
    engine.add_data(bars)
    strategy = Scalper(instrument, bar_type, graph, every)
    engine.add_strategy(strategy)
    used, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    engine.run()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    fills = len(engine.trader.generate_fills_report())
    figures = {
        "bars": strategy.bars,
        "answers": strategy.answers,
        "orders": strategy.orders,
        "fills": fills,
        "wall_s": round(wall, 3),
        "cpu_s": round(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, 3),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    engine.dispose()


if __name__ == "__main__":
    main()
