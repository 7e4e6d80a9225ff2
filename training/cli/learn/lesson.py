"""A made-up market, a network that learns it, a player that knows its rule, and the dry run of the learned policy."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from daemon.core.limits import Trading
from rltrader import module_command
from simulator.online import prices
from strategies.kit.contract import Session
from strategies.online_dqn.state_vector import parse
from training.desks.online.cold_start import trainer_of
from training.desks.online.data import OnlineData, load, one_hot_values, play
from training.desks.online.export import PROBES, export_online, training_of
from training.desks.online.network import COLD_PRESETS, network_of
from training.evaluate.machine import Player
from training.evaluate.players import RandomTrader
from training.export.shelf import activate
from training.study.study import SessionResult

STRATEGY, SYMBOL = "online_dqn", "SPY"
MODEL = Path(prices.__file__).with_name("model.yaml")
TEST = 20  # sessions
BURSTS = (0.3, 0.5, 0.7, 0.9, 1.1)  # scaled volume from which on a minute counts as a burst
RULES = {  # the gates that would keep a desk from trading every few minutes
    "cooldown_trade_s": 0,
    "cooldown_loss_s": 0,
    "consecutive_losses_max": 1000,
    "orders_per_minute": 40,
    "orders_per_day": 10_000,
}


class Scholar:
    """A network that trains on one market, and its results on held-out sessions."""

    def __init__(self, data: OnlineData, steps: int, seed: int) -> None:
        self.data, preset = data, COLD_PRESETS["quick"]
        dates = tuple(data.days)
        learnt, self.test = dates[:-TEST], dates[-TEST:]
        self.network = network_of(data.config, preset, seed)
        self.trainer = trainer_of(self.network, data, learnt, preset, seed, steps)

    def update(self) -> None:
        """Collect one rollout and train on it."""
        self.network.train()
        self.trainer.update()
        self.network.eval()

    def earns(self, player: Player | RandomTrader | None = None) -> tuple[SessionResult, ...]:
        """A player's results on the test sessions; by default this network's."""
        return play(player or self.network, self.data, self.test, self.data.trading)


class KnowsTheRule:
    """The player that buys after a burst of volume and sells a minute later."""

    def __init__(self, data: OnlineData, burst: float) -> None:
        names = data.spec.features
        self._volume = next(place for place, name in enumerate(names) if "MEDPRICE" in name)
        self._position, self._burst = names.index("position"), burst

    def __call__(self, observations: Tensor) -> Tensor:
        """Values of the actions hold, buy and sell."""
        has_position = observations[:, self._position] > 0.0
        return one_hot_values(torch.where(has_position, 2, (observations[:, self._volume] > self._burst).long()))


def best_of(scholar: Scholar) -> tuple[Player, tuple[SessionResult, ...]]:
    """The rule with the burst threshold that is best on the test sessions themselves, and its results."""
    rules = [KnowsTheRule(scholar.data, burst) for burst in BURSTS]
    return max(
        ((rule, scholar.earns(rule)) for rule in rules), key=lambda pair: mean_return(pair[1], scholar.data.trading)
    )


def mean_return(results: Sequence[SessionResult], trading: Trading) -> float:
    """The mean return of a session, a part of the capital."""
    return math.fsum(session.pnl_usd for session in results) / len(results) / float(trading.paper.cash_usd)


def compounded(results: Sequence[SessionResult], trading: Trading) -> float:
    """The return of all sessions, one after the other."""
    return math.prod(1.0 + session.pnl_usd / float(trading.paper.cash_usd) for session in results) - 1.0


def write_market(path: Path, sessions: Sequence[Session], rule: prices.PlantedRule, seed: int) -> Path:
    """Write made-up minutes as a bars file."""
    bars = prices.bars_of((SYMBOL,), sessions, seed, recorded=True, rule=rule)
    path.write_text(f"# synthetic bars, no market data: seed {seed}\n{prices.as_csv(bars)}")
    return path


def write_config(path: Path, folder: Path, store: Path) -> Path:
    """Write the configuration that the training and the desk share."""
    tables: dict[str, dict[str, object]] = {
        "desk": {"name": "learn", "strategy": STRATEGY, "symbols": [SYMBOL], "model_config": str(MODEL)},
        "paths": {"state_dir": str(folder / "state"), "models_dir": str(store)},
        "risk": dict(RULES),
    }
    lines = []
    for table, keys in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
    path.write_text("\n".join(lines))
    return path


def read(bars: Path, trading: Trading) -> OnlineData:
    """Bars made ready."""
    config = msgspec.structs.replace(parse(MODEL.read_bytes(), MODEL.name), symbols=(SYMBOL,))
    return load((bars,), config, (SYMBOL,), trading)


def export_of(scholar: Scholar, store: Path, earned: float, steps: int, seed: int) -> Path:
    """Put the network into the store as the version that answers."""
    data = scholar.data
    version = export_online(
        scholar.network,
        data.strategy,
        out=store,
        probes=data.probes(tuple(data.days), PROBES, seed),
        training=training_of(data, scholar.test, "none"),
        hyperparameters={"preset": "quick", "steps": steps, "seed": seed},
        metrics={"session_mean": earned},
        note="of a made-up market: it shows that the machine works, and is for no other use",
    )
    activate(version, "made by train-and-export learn")
    return version


def dry_run(config: Path, bars: Path, state: Path) -> dict[str, object]:
    """Run the daemon over these bars; returns its summary. Raises RuntimeError with its last line."""
    line = module_command("daemon", "--dry-run", "--config", config, "--bars", bars)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RLTRADER_")}
    process = subprocess.run(
        [*line, "--state-dir", str(state)], env=environment, capture_output=True, text=True, check=False
    )
    if process.returncode:
        last_line = (process.stderr.strip() or "nothing was printed").splitlines()[-1]
        raise RuntimeError(f"the dry run ended with {process.returncode}: {last_line}")
    summary: dict[str, object] = json.loads(process.stdout.splitlines()[-1])
    return summary
