"""How fast training's market is made ready and stepped, without any learning: `python -m bench.bench_market`.

Processor time of one thread, best of three. The references run in the same process: gymnasium's own vectorised CartPole
(NumPy, four numbers a state) and Stable-Baselines3's DummyVecEnv over our single environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from bench.tapes import synthetic_minutes
from daemon.core.limits import Trading
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import TapeSource, scan
from strategies.option_scalper import SPEC, feature_table
from training.desks.scalper.history import History, PriceTable, price_table, read_history
from training.desks.scalper.market import Market
from training.gym import OptionScalperEnv

YEAR = 98_000  # one-minute bars
COUNTS = (256, 1024, 4096)
TRADING = Trading()


def processor_s(call: Callable[[], Any], runs: int = 3) -> float:
    """Seconds of processor time, the best of `runs`."""
    took = []
    for _ in range(runs):
        began = time.process_time()
        call()
        took.append(time.process_time() - began)
    return min(took)


def tables(tape: Path) -> tuple[History, PriceTable, dict[str, Any]]:
    """A year of minutes made ready: what is stepped through, and seconds for each part."""
    info = scan(tape, SPEC.symbols, SPEC.bar_interval_s)
    source = TapeSource(tape, info, SessionCalendar.load(info.first_date, info.last_date))
    began = time.process_time()
    events = list(source)
    read_s = time.process_time() - began
    history = read_history(events, SPEC, TRADING)
    prices = price_table(history, history.usable, TRADING)
    figures = {
        "rows": len(history.close),
        "sessions": len(history.usable),
        "read_file_s": round(read_s, 3),
        "feature_table_s": round(processor_s(lambda: features(history)), 3),
        "history_s": round(processor_s(lambda: read_history(events, SPEC, TRADING)), 3),
        "price_table_s": round(processor_s(lambda: price_table(history, history.usable, TRADING), 1), 3),
        "price_cells": len(prices.costs),
    }
    return history, prices, figures


def features(history: History) -> None:
    """The 20 features of every row."""
    days = history.days
    feature_table(
        history.open,
        history.high,
        history.low,
        history.close,
        np.full(len(history.close), 90_000.0),
        session_starts=np.array([day.first for day in days]),
        session_minutes=np.array([(day.session.close_ns - day.session.open_ns) // 60_000_000_000 for day in days]),
        elapsed_minutes=history.minute,
    )


def market_rates(history: History, prices: PriceTable, count: int) -> dict[str, float]:
    """Environment steps/s, each with its observation: random actions (most of all trades), and hardly any trade."""
    actions = torch.randint(0, 6, (64, count), generator=torch.Generator().manual_seed(1))
    rates: dict[str, float] = {}
    for kind, part in (("random", 1.0), ("calm", 0.01)):
        market = Market(history, prices, history.usable, TRADING, count=count, seed=1)
        some = actions * (torch.rand(actions.shape, generator=torch.Generator().manual_seed(2)) < part)

        def run(market: Market = market, some: torch.Tensor = some) -> None:
            for index in range(64):
                market.step(some[index])
                market.observe()

        run()
        rates[f"{kind}_steps_per_s"] = round(64 * count / processor_s(run, 5))
    return rates


def cart_pole_rate(count: int) -> int:
    """Steps/s of gymnasium's vectorised CartPole."""
    environments: Any = gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")
    environments.reset(seed=1)
    actions = np.random.default_rng(1).integers(0, 2, size=(64, count))

    def run() -> None:
        for index in range(64):
            environments.step(actions[index])

    return round(64 * count / processor_s(run))


def dummy_vec_env_rate(tape: Path, count: int = 8) -> int:
    """Steps/s of Stable-Baselines3's DummyVecEnv over our single environment."""
    environments = DummyVecEnv([lambda: OptionScalperEnv(tape) for _ in range(count)])
    environments.reset()
    actions = np.random.default_rng(1).integers(0, 6, size=(64, count))

    def run() -> None:
        for index in range(64):
            environments.step(actions[index])

    return round(64 * count / processor_s(run))


def main() -> None:
    """Print all figures as one JSON object."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tape = synthetic_minutes(Path(folder) / "year.parquet", YEAR)
        history, prices, figures = tables(tape)
        dummy = dummy_vec_env_rate(tape)
    report: dict[str, Any] = {"bench": "market", "threads": 1, **figures}
    for count in COUNTS:
        report[f"environments_{count}"] = {
            **market_rates(history, prices, count),
            "reference_cart_pole_steps_per_s": cart_pole_rate(count),
        }
    report["reference_dummy_vec_env_8_steps_per_s"] = dummy
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
