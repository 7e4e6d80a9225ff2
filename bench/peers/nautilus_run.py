"""One backtest in NautilusTrader 1.x or 2.x, run by the peer's own Python (`bench.peers.bench_nautilus` starts it).

Arguments: tape, ONNX file, bars between two orders, the bar at which the process kills itself (0: none), and a folder
if the peer shall keep its record of events there: its stream of Feather files, of which what is flushed outlives
SIGKILL. Prints one JSON object. It imports nothing of this project.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import nautilus_trader
import numpy as np
import onnxruntime
import pandas as pd
from nautilus_trader import model
from nautilus_trader.indicators import (
    AverageTrueRange,
    BollingerBands,
    ExponentialMovingAverage,
    MovingAverageConvergenceDivergence,
    RelativeStrengthIndex,
    SimpleMovingAverage,
)

RUST = nautilus_trader.__version__.startswith("2.")  # the core is another one, and modules and names moved
if RUST:
    from nautilus_trader.backtest import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.common import LoggerConfig
    from nautilus_trader.execution import FixedFeeModel
    from nautilus_trader.model import AccountType, Equity, OmsType, OrderSide
    from nautilus_trader.persistence import RotationConfig, StreamingConfig
    from nautilus_trader.trading import Strategy, StrategyConfig
else:
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig, StrategyConfig, StreamingConfig
    from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
    from nautilus_trader.model.instruments import Equity
    from nautilus_trader.trading.strategy import Strategy

WINDOW, FEATURES, TEMPERATURE = 20, 23, 0.7
FLUSH_MS = 585 * 60_000  # by the backtest's clock: as many bars as one commit of ours holds in a replay


class Scalper(Strategy):  # type: ignore[misc]
    """Six indicators, a window of their rows, one ONNX answer and one draw each bar; an order every `every` bars."""

    def __new__(cls, config: Any, *_: Any) -> Any:
        """The compiled base class takes the configuration alone."""
        return super().__new__(cls, config)

    def __init__(self, config: Any, instrument: Any, bar_type: Any, graph: str, every: int, last: int) -> None:
        super().__init__(config)
        self.instrument, self.bar_type, self.every, self.last = instrument, bar_type, every, last
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
        if self.bars == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
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
        point = self.chance.random() * sum(weights)
        action = 0
        while action < len(weights) - 1 and point >= weights[action]:
            point -= weights[action]
            action += 1
        self.answers += 1
        if self.answers % self.every == 0:
            self.trade()

    def trade(self) -> None:
        """Buy when flat, else sell what is held."""
        flat = (self.portfolio.is_net_flat if RUST else self.portfolio.is_flat)(self.instrument.id)
        side = OrderSide.BUY if flat else OrderSide.SELL
        self.submit_order(self.order_factory.market(self.instrument.id, side, model.Quantity.from_int(10)))
        self.orders += 1


def engine(record: str) -> Any:
    """The peer's engine without a log; with `record`, its stream of everything goes into that folder.

    What 2.0.0rc7 has flushed is no file before it rotates, so it rotates as often as 1.x flushes.
    """
    streaming: dict[str, Any] = {}
    if record and RUST:
        rotation = RotationConfig.interval(FLUSH_MS * 1_000_000)
        streaming["streaming"] = StreamingConfig(record, flush_interval_ms=FLUSH_MS, rotation_config=rotation)
    elif record:
        streaming["streaming"] = StreamingConfig(catalog_path=record, flush_interval_ms=FLUSH_MS)
    if RUST:
        return BacktestEngine(
            BacktestEngineConfig(
                logging=LoggerConfig(bypass_logging=True), bypass_logging=True, run_analysis=False, **streaming
            )
        )
    logging = LoggingConfig(bypass_logging=True)
    return BacktestEngine(BacktestEngineConfig(logging=logging, run_analysis=False, **streaming))


def read(tape: str, bar_type: Any) -> list[Any]:
    """The tape as the peer's bars, each known at its minute's end."""
    table = pd.read_parquet(tape)
    ends = (table["timestamp"] + pd.Timedelta(minutes=1)).astype("datetime64[ns, UTC]").astype("int64").tolist()
    prices = [[model.Price(price, 2) for price in table[name].tolist()] for name in ("open", "high", "low", "close")]
    volumes = [model.Quantity(volume, 0) for volume in table["volume"].tolist()]
    return [
        model.Bar(bar_type, *ohlc, volume, end, end) for *ohlc, volume, end in zip(*prices, volumes, ends, strict=True)
    ]


def main() -> None:
    """Load the bars, then measure `BacktestEngine.run` alone."""
    tape, graph, every, last, record = (
        sys.argv[1],
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
        "".join(sys.argv[5:]),
    )
    usd = model.Currency.from_str("USD")
    instrument = Equity(
        model.InstrumentId.from_str("SPY.XNAS"),
        model.Symbol("SPY"),
        usd,
        2,
        model.Price.from_str("0.01"),
        lot_size=model.Quantity.from_int(1),
        ts_event=0,
        ts_init=0,
    )
    bar_type = model.BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-EXTERNAL")
    run = engine(record)
    fees = {"fee_model": FixedFeeModel(model.Money(Decimal(0), usd))} if RUST else {}
    cash = [model.Money(Decimal(100_000), usd)]
    run.add_venue(model.Venue("XNAS"), OmsType.NETTING, AccountType.CASH, cash, base_currency=usd, **fees)
    run.add_instrument(instrument)
    run.add_data(read(tape, bar_type))
    strategy = Scalper(StrategyConfig(), instrument, bar_type, graph, every, last)
    run.add_strategy(strategy)
    used, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run.run()
    wall, usage_after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "version": nautilus_trader.__version__,
        "python": platform.python_version(),
        "bars": strategy.bars,
        "answers": strategy.answers,
        "orders": strategy.orders,
        "fills": len(run.trader.generate_fills_report() if not RUST else run.generate_fills_report()),
        "wall_s": round(wall, 3),
        "cpu_s": round(usage_after.ru_utime + usage_after.ru_stime - used.ru_utime - used.ru_stime, 3),
        "record_bytes": sum(path.stat().st_size for path in Path(record).rglob("*") if path.is_file()) if record else 0,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    run.dispose()


if __name__ == "__main__":
    main()
