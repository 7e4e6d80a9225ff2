"""What a daily desk's decision costs, and a day's features of 5,000 symbols: `python -m bench.bench_daily`.

Processor time of one thread on made-up days. The references run in the same process: a bare loop of the same TA-Lib
calls on arrays that are ready, and pandas-ta-classic without TA-Lib.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import talib
from onnx import TensorProto, helper, numpy_helper

from strategies.daily_rebalancer import (
    HISTORY_BARS,
    SPEC,
    STOCKS,
    DailyRebalancer,
    RebalancerState,
    market_columns,
    vector,
)
from strategies.kit.contract import Answer, Portfolio, Session, View
from strategies.kit.daily import Series, no_bars, prices, remembered
from strategies.kit.daily_features import indicators, rebalancer_table
from strategies.kit.synthetic import synthetic_days
from strategies.kit.units import DAY_NS

DECISIONS = 500
MANY = 5_000
ORACLE_SYMBOLS = 25  # of the slow reference, which is then scaled up
TABLE_DAYS = 3_272
LAYERS = (803, 64, 64, 50)

Float64Array = npt.NDArray[np.float64]


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50 and p99 of times in seconds, as microseconds."""
    quantiles = np.percentile(np.array(times) * 1e6, (50, 99))
    return {"p50_us": round(float(quantiles[0]), 1), "p99_us": round(float(quantiles[1]), 1)}


def seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def network() -> Callable[[npt.NDArray[np.float32]], Any]:
    """A random 803-64-64-50 policy (ReLU, ReLU, tanh) in onnxruntime on one thread."""
    random = np.random.default_rng(1)
    nodes, weights, last = [], [], "observation"
    for layer, (wide, narrow) in enumerate(pairwise(LAYERS)):
        matrix = (random.normal(size=(wide, narrow)) / wide).astype(np.float32)
        weights += [numpy_helper.from_array(matrix, f"w{layer}")]
        weights += [numpy_helper.from_array(np.zeros(narrow, dtype=np.float32), f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        last = "logits" if layer == len(LAYERS) - 2 else f"a{layer}"
        nodes.append(helper.make_node("Tanh" if last == "logits" else "Relu", [f"z{layer}"], [last]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])
        for name, width in (("observation", LAYERS[0]), ("logits", LAYERS[-1]))
    ]
    graph = helper.make_graph(nodes, "policy", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda row: session.run(None, {"observation": row})[0]


def decisions() -> dict[str, Any]:
    """A decision on 50 stocks with 13 indicators each: its stages one by one, then the whole as the desk makes it."""
    desk, run = DailyRebalancer(), network()
    starts = [DAY_NS * day for day in range(HISTORY_BARS + DECISIONS)]
    days = list(synthetic_days(1, SPEC.symbols, starts))
    state: RebalancerState = desk.remember(desk.start(), tuple(days[: HISTORY_BARS * STOCKS]))
    portfolio = Portfolio(5e5, 1e6, (100,) * STOCKS, (50.0,) * STOCKS)
    stages: dict[str, list[float]] = {
        name: []
        for name in ("remember", "bars_to_arrays", "indicators", "vector", "policy", "decide", "observe_whole", "talib")
    }

    def timed(name: str, call: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        began = time.process_time_ns()
        result = call(*args, **keywords)
        stages[name].append((time.process_time_ns() - began) / 1e9)
        return result

    for number in range(DECISIONS):
        first = (HISTORY_BARS + number) * STOCKS
        state = timed("remember", desk.remember, state, tuple(days[first : first + STOCKS]))
        day = (date(2020, 1, 6) + timedelta(days=number)).isoformat()
        view = View(0, Session(day, 0, 1), portfolio=portfolio)
        arrays = timed("bars_to_arrays", all_prices, state.series)
        timed("indicators", all_indicators, arrays)
        market, flags = market_columns(state.series), (1.0,) * STOCKS
        timed("vector", vector, market, flags, cash=5e5, value=1e6, shares=portfolio.shares, weekday=1)
        state, observation = timed("observe_whole", desk.observe, state, (), view)
        actions = timed("policy", run, observation.array()[None])[0]
        timed("decide", desk.decide, state, Answer(tuple(actions.tolist())), view)
        timed("talib", bare_loop, arrays)
    reference = stages.pop("talib")
    figures: dict[str, Any] = {name: percentiles(times) for name, times in stages.items()}
    whole = [sum(total) for total in zip(stages["observe_whole"], stages["policy"], stages["decide"], strict=True)]
    return {
        **figures,
        "decision": percentiles(whole),
        "reference_talib_loop": percentiles(reference),
        "state_json_bytes": len(msgspec.json.encode(state)),
        "state_json_s": round(seconds(lambda: msgspec.json.encode(state)), 5),
    }


def all_prices(series: Series) -> list[Float64Array]:
    """Each symbol's bars as arrays."""
    return [prices(rows) for rows in series]


def all_indicators(arrays: Sequence[Float64Array]) -> list[Float64Array]:
    """Each symbol's 13 indicators."""
    return [indicators(high, low, close) for _, high, low, close in arrays]


def bare_loop(arrays: Sequence[Float64Array]) -> None:
    """The same TA-Lib calls on arrays that are ready, nothing done with their results."""
    for _, high, low, close in arrays:
        talib.MACD(close, 12, 26, 9)
        talib.RSI(close, 14)
        talib.CCI(high, low, close, 20)
        talib.DX(high, low, close, 14)
        talib.SMA(close, 20)
        talib.SMA(close, 50)
        talib.SMA(close, 200)
        talib.BBANDS(close, 20, 2.0, 2.0)
        talib.ATR(high, low, close, 14)
        talib.WILLR(high, low, close, 14)
        talib.STOCHF(high, low, close, 14, 3)


def many_symbols() -> dict[str, Any]:
    """One day of 5,000 symbols: the day's bars remembered, all features made; 400 bars of each are known before."""
    spec = msgspec.structs.replace(SPEC, symbols=tuple(f"S{number}" for number in range(MANY)))
    some = synthetic_days(2, spec.symbols[:STOCKS], [DAY_NS * day for day in range(HISTORY_BARS)])
    few = msgspec.structs.replace(SPEC, symbols=spec.symbols[:STOCKS])
    base = remembered(few, no_bars(few), some)
    series: Series = base * (MANY // STOCKS)
    newest = tuple(synthetic_days(3, spec.symbols, [DAY_NS * HISTORY_BARS]))
    remember_s = min(seconds(lambda: remembered(spec, series, newest)) for _ in range(3))
    series = remembered(spec, series, newest)
    features_s = min(seconds(lambda: market_columns(series)) for _ in range(3))
    arrays = all_prices(series)
    talib_s = min(seconds(lambda: bare_loop(arrays)) for _ in range(3))
    oracle_s = seconds(lambda: oracle(arrays[:ORACLE_SYMBOLS])) * MANY / ORACLE_SYMBOLS
    return {
        "symbols": MANY,
        "remember_s": round(remember_s, 3),
        "features_s": round(features_s, 3),
        "daily_run_s": round(remember_s + features_s, 3),
        "reference_talib_loop_s": round(talib_s, 3),
        "reference_pandas_ta_scaled_s": round(oracle_s, 1),
        "reference_pandas_ta_symbols_run": ORACLE_SYMBOLS,
    }


def oracle(arrays: Sequence[Float64Array]) -> None:
    """The same indicators by pandas-ta-classic without TA-Lib, symbol by symbol."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas_ta_classic as ta

        for columns in arrays:
            high, low, close = (pd.Series(column) for column in columns[1:])
            ta.macd(close, talib=False)
            ta.rsi(close, 14, talib=False)
            ta.cci(high, low, close, 20, talib=False)
            ta.adx(high, low, close, 14, talib=False)
            for length in (20, 50, 200):
                ta.sma(close, length, talib=False)
            ta.bbands(close, length=20, std=2.0, ddof=0, talib=False)
            ta.atr(high, low, close, 14, talib=False)
            ta.willr(high, low, close, 14, talib=False)
            ta.stochf(high, low, close, fastk=14, fastd=3, talib=False)


def whole_history() -> dict[str, Any]:
    """Training's table of 50 stocks over 13 years, beside every window by itself (scaled up from two stocks)."""
    close = 50.0 * np.exp(np.cumsum(np.random.default_rng(4).normal(0, 0.015, (TABLE_DAYS, STOCKS)), axis=0))
    high, low = close * 1.01, close * 0.99
    rows = [np.ascontiguousarray(x.T) for x in (high, low, close)]

    def windows() -> None:
        for stock in range(2):
            for end in range(1, TABLE_DAYS + 1):
                part = slice(max(end - HISTORY_BARS, 0), end)
                indicators(*(row[stock, part] for row in rows))

    table_s = min(seconds(lambda: rebalancer_table(close, high, low, close)) for _ in range(2))
    return {
        "days": TABLE_DAYS,
        "stocks": STOCKS,
        "table_s": round(table_s, 2),
        "reference_each_window_scaled_s": round(seconds(windows) * STOCKS / 2, 2),
    }


def main() -> None:
    """Print all figures as one JSON object."""
    oracle([np.random.default_rng(5).uniform(90, 110, (4, HISTORY_BARS))])  # imports and warms
    figures = {
        "bench": "daily",
        "threads": 1,
        "decisions": DECISIONS,
        "decision": decisions(),
        "many_symbols": many_symbols(),
        "whole_history": whole_history(),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
