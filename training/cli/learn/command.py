"""`train-and-export learn`: watch a policy learn a made-up market whose rule is known, then trade it in the dry run.

After a burst of volume the price rises within the next minute; nothing else is predictable. A second network trains in
the same way on a market without that rule, where no profit is possible. Neither sees the test sessions.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.host.time.calendar import SessionCalendar
from daemon.host.version import in_this_shell
from rltrader import module_command
from simulator.online import prices
from strategies.kit.contract import Session
from strategies.online_dqn.state_vector import parse
from training.desks.online.cold_start import trainer_of
from training.desks.online.data import OnlineData, load, one_hot_values, play, random_trader
from training.desks.online.export import PROBES, export_online, training_of
from training.desks.online.network import COLD_PRESETS, network_of
from training.evaluate.machine import Player
from training.evaluate.players import RandomTrader
from training.export.shelf import activate
from training.rl.kernels import use_fast_float32
from training.rl.ppo import make_deterministic
from training.runs.settings import trading_of
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


WITH_RULE = prices.PlantedRule(
    noise=8e-4, move=1.5e-3, back=5e-4
)  # a rise of about two deviations of a minute's return
WITHOUT = replace(WITH_RULE, move=0.0, back=0.0)
FIRST, LAST = "2024-01-02", "2024-11-29"
LEARN, TRADE = 60, 11  # sessions; the first one of each file is warm-up
LOOKS = 16
WIDTH = 32  # characters of the curve: the optimum
ENOUGH, IDLE = 0.9, 0.1  # parts of the optimum: least return with the rule, largest return on noise


@dataclass(frozen=True, slots=True)
class LearningResult:
    """Returns of a test session, and of all sessions of the dry run."""

    optimum: float
    learned: float
    control: float  # return of the network trained on noise
    known: float  # the rule's return in the dry run's sessions
    traded: float

    @property
    def learned_the_rule(self) -> bool:
        """True when the return is near the optimum, on the market and in the dry run."""
        on_market = self.optimum > 0.0 and self.learned >= ENOUGH * self.optimum
        return on_market and self.known > 0.0 and self.traded >= ENOUGH * self.known

    @property
    def idle(self) -> bool:
        """True when the network that trained on noise hardly trades."""
        return self.control <= IDLE * abs(self.optimum)

    def verdict(self) -> str:
        """The result as one sentence."""
        share = (
            f"{self.learned / self.optimum:.0%} of what the rule earns" if self.optimum > 0.0 else "nothing to learn"
        )
        noise = "nothing" if self.idle else "a gain that is not there"
        return f"{'Learned' if self.learned_the_rule else 'Not learned'}: {share}. From noise: {noise}."


def tell(text: str = "") -> None:
    """Print one line at once."""
    print(text, flush=True)


def train(with_rule: Scholar, without: Scholar, optimum: float) -> None:
    """Train both, and print the curve; checks are more frequent where learning is fastest."""
    total = with_rule.trainer.total_updates
    looks = {round(total ** (look / LOOKS)) for look in range(LOOKS + 1)}
    tell(f"{'steps':>9}  {'return a session, with the rule':<{WIDTH + 12}}  without it")
    for update in range(total + 1):
        if update:
            with_rule.update()
            without.update()
        if update == 0 or update in looks:
            with_rule_return = mean_return(with_rule.earns(), with_rule.data.trading)
            bar = "█" * max(0, min(WIDTH, round(WIDTH * with_rule_return / optimum)))
            control = mean_return(without.earns(), without.data.trading)
            tell(f"{with_rule.trainer.steps:>9,}  {with_rule_return:+7.2%}  │{bar:<{WIDTH}}│  {control:+7.2%}")


def learn(folder: Path, steps: int, seed: int) -> bool:
    """Run the whole demonstration; returns whether the rule was learned."""
    torch.set_num_threads(1)
    make_deterministic()
    use_fast_float32()
    sessions = SessionCalendar.load(FIRST, LAST).sessions
    border, store = LEARN + TEST + 1, folder / "store"
    config = write_config(folder / "config.toml", folder, store)
    trading = trading_of(STRATEGY, config)

    def market(name: str, part: slice, rule: prices.PlantedRule, draw: int) -> OnlineData:
        return read(write_market(folder / f"{name}.csv", sessions[part], rule, draw), trading)

    with_rule = Scholar(market("market", slice(border), WITH_RULE, seed), steps, seed)
    without = Scholar(market("noise", slice(border), WITHOUT, seed), steps, seed)
    knowing, best = best_of(with_rule)
    explain()
    train(with_rule, without, mean_return(best, trading))
    learned, control = with_rule.earns(), without.earns()
    compare(with_rule, best, learned, control)
    version = export_of(with_rule, store, mean_return(learned, trading), steps, seed)
    later = market("later", slice(border, border + TRADE), WITH_RULE, seed + 1)
    summary = dry_run(config, folder / "later.csv", folder / "state")
    traded = float(str(summary["equity_usd"])) / float(trading.paper.cash_usd) - 1.0
    rule_return = compounded(play(knowing, later, tuple(later.days), trading), trading)
    tell(
        f"\nThe daemon's dry run of the exported policy {version.name}, over {len(later.days)} new sessions:\n"
        f"{traded:+.1%} in {summary['trades']} trades after costs; the rule, known: {rule_return:+.1%}"
    )
    result = LearningResult(
        mean_return(best, trading), mean_return(learned, trading), mean_return(control, trading), rule_return, traded
    )
    tell(f"\n{result.verdict()}")
    tell_next(folder)
    return result.learned_the_rule and result.idle


def explain() -> None:
    """Say what will be seen."""
    tell(
        "A made-up market with one rule: now and then a minute has a burst of volume, and within the next minute the\n"
        f"price rises by {WITH_RULE.move:.2%}. The noise of a minute is {WITH_RULE.noise:.2%}. A second network learns "
        "in the same way from\nnoise alone, where nothing can be earned. The figures are returns of a session after "
        f"costs, on {TEST} sessions\nthat neither learns from. A full bar is the optimum: what one earns who knows "
        "the rule.\n"
    )


def compare(
    with_rule: Scholar,
    best: Sequence[SessionResult],
    learned: Sequence[SessionResult],
    control: Sequence[SessionResult],
) -> None:
    """Print the result against the optimum and against noise."""
    often = sum(session.trades for session in learned) / max(1, sum(session.minutes for session in learned))
    random = with_rule.earns(random_trader(often, 1.0, 1, with_rule.data.history.bar_min))
    tell(f"\n{'':<34}{'return a session':>18}{'trades a session':>19}")
    for name, results in (
        ("optimum: the rule, known", best),
        ("learned", learned),
        ("learned from noise, on noise", control),
        ("random, about as often", random),
    ):
        trades = sum(session.trades for session in results) / len(results)
        tell(f"{name:<34}{mean_return(results, with_rule.data.trading):>+18.2%}{trades:>19.1f}")


def tell_next(folder: Path) -> None:
    """Say what next."""
    state = shlex.quote(str(folder / "state"))
    tell("\nwhat next:")
    for command, why in (
        (f"rltraderctl trades --state-dir {state}", "its trades"),
        (f"rltraderctl decisions --state-dir {state} --outcome ordered", "what it saw, and why it acted"),
        (f"rltrader-dashboard --state-dir {state}", "the same as a page"),
        ("rltraderctl new-strategy NAME --cadence bar --holds shares", "a strategy of your own (docs/TUTORIAL.md)"),
    ):
        tell(f"  {in_this_shell(command)}\n      {why}")
