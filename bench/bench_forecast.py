"""What `forecast_ensemble` computes before its policy is asked: `python -m bench.bench_forecast`, as JSON.

Features of 1.6 million rows (the file of 475 stocks, three times one after the other) against the bare TA-Lib calls on
the same histories, each once from the first bar to the last on one thread, and against these calls with the bars that
the definition asks for before each block; and a decision for 475 symbols, indicators included, on the day that asks for
the longest lead and on an ordinary one. Wall time, the best of some runs in turn.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.tapes import DATA
from strategies.forecast_ensemble import ForecastEnsemble, ForecastState
from strategies.forecast_ensemble.calls import ANCHORED, EXACT
from strategies.forecast_ensemble.features import HISTORY_BARS, table, together
from strategies.kit.contract import Answer, Portfolio, Session, View
from strategies.kit.daily import ROW
from strategies.kit.units import DAY_NS, HOUR_NS
from tests.support.strategies.histories import History, walk, weekdays

FILE = "sp500_daily_2018_2022.parquet"
TILES = 3
DAYS = {"second year of a block ends": "2021-12-15", "early in a block": "2022-02-15"}
ROUNDS = 3


def histories(symbols: int | None = None) -> dict[str, History]:
    """The recorded days of each stock; made-up ones where the file is missing."""
    if not (DATA / FILE).is_file():
        days = weekdays("2018-01-02", 1132)
        return {f"S{number}": walk(number, days) for number in range(symbols or 475)}
    rows = pd.read_parquet(DATA / FILE)
    series = {}
    for symbol, stock_rows in list(rows.groupby("symbol"))[:symbols]:
        columns = [
            np.ascontiguousarray(stock_rows[n], dtype=np.float64) for n in ("open", "high", "low", "close", "volume")
        ]
        o, high, low, close, volume = columns
        series[str(symbol)] = History(
            o, high, low, close, volume, np.array(stock_rows["date"].tolist(), dtype="datetime64[D]")
        )
    return series


def tiled(history: History) -> History:
    """The history three times, one after the other, on later weekdays."""
    o, high, low, close, volume = (np.tile(column, TILES) for column in history[:5])
    return History(o, high, low, close, volume, weekdays("2010-01-04", len(o)))


def bare(some: Sequence[History]) -> None:
    """All calls of TA-Lib that the features take, once for each history, and nothing else but their inputs."""
    calls = (*EXACT, *(call for _, calls in ANCHORED for call in calls))
    for history in some:
        bars = history.bars()
        for call in calls:
            call.run(bars)


def in_blocks(some: Sequence[History]) -> None:
    """The same calls as often as the definition asks for them: two calendar years at a time, with the bars before."""
    for history in some:
        bars, pairs = history.bars(), history.dates.astype("datetime64[Y]").astype(np.int64) // 2
        for call in EXACT:
            call.run(bars)
        for pair in np.unique(pairs):
            begin, end = np.searchsorted(pairs, [pair, pair + 1])
            for lead, calls in ANCHORED:
                part = {letter: column[max(begin - lead, 0) : end] for letter, column in bars.items()}
                for call in calls:
                    call.run(part)


def best(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of each way, the best of some rounds in turn."""
    seconds = dict.fromkeys(ways, (np.inf, np.inf))
    for _ in range(rounds):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            way()
            duration = time.perf_counter() - wall, time.process_time() - processor
            seconds[name] = min(seconds[name][0], duration[0]), min(seconds[name][1], duration[1])
    return seconds


def features(some: Sequence[History], rounds: int = ROUNDS) -> dict[str, object]:
    """The table of all histories against the bare calls."""
    took = best(
        {
            "bare": lambda: bare(some),
            "bare in blocks": lambda: in_blocks(some),
            "one thread": lambda: deque((table(*history) for history in some), maxlen=0),
            "all cores": lambda: [together(table, some[at : at + 50]) for at in range(0, len(some), 50)][-1],
        },
        rounds,
    )
    wall, processor = {name: pair[0] for name, pair in took.items()}, {name: pair[1] for name, pair in took.items()}
    return {
        "rows": sum(len(history.dates) for history in some),
        "cores": len(os.sched_getaffinity(0)),
        "seconds": {name: round(value, 3) for name, value in wall.items()},
        "processor_seconds": {name: round(value, 3) for name, value in processor.items()},
        "ratio_all_cores": round(wall["all cores"] / wall["bare"], 3),
        "ratio_one_thread": round(processor["one thread"] / processor["bare"], 3),
        "ratio_of_the_blocks": round(processor["bare in blocks"] / processor["bare"], 3),
    }


def decision(stocks: dict[str, History], date: str, rounds: int = ROUNDS) -> dict[str, float]:
    """Wall and processor seconds to observe all symbols after this date, and to decide by an answer."""
    desk = ForecastEnsemble(tuple(stocks))
    state = ForecastState(tuple(packed(history, date) for history in stocks.values()))
    start = int(np.datetime64(date).astype("datetime64[ns]").astype(np.int64)) + DAY_NS
    n = len(stocks)
    view = View(start, Session(date, start, start + 7 * HOUR_NS), portfolio=Portfolio(1e5, 1e5, (0,) * n, (50.0,) * n))

    def decide() -> None:
        state_after, observation = desk.observe(state, (), view)
        assert observation is not None
        desk.decide(state_after, Answer((0.1,) * n), view)

    wall, processor = best({"": decide}, rounds)[""]
    return {"seconds": round(wall, 4), "processor_seconds": round(processor, 4)}


def packed(history: History, date: str) -> bytes:
    """The newest bars up to this date as the state keeps them."""
    end = int(np.searchsorted(history.dates, np.datetime64(date), side="right"))
    part = history.part(max(end - HISTORY_BARS, 0), end)
    starts = (part.dates.astype("datetime64[ns]").astype(np.int64) + 5 * HOUR_NS).tolist()
    rows = zip(starts, *(column.tolist() for column in part[:5]), strict=True)
    return b"".join(ROW.pack(*row) for row in rows)


def main(symbols: int | None = None, rounds: int = ROUNDS) -> int:
    """Print the figures."""
    stocks = histories(symbols)
    figures = {
        "features": features([tiled(history) for history in stocks.values()], rounds),
        "decision": {name: decision(stocks, date, rounds) for name, date in DAYS.items()},
        "decision_symbols": len(stocks),
    }
    json.dump(figures, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
