"""`train-and-export learn`: watch a policy learn a made-up market whose rule is known, then trade it in the dry run.

After a burst of volume the price rises within the next minute; nothing else can be known in advance. A second network
learns in the same way from a market without that rule, where nothing can be earned. Neither sees the test sessions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from daemon.core.limits import Trading
from daemon.host.time.calendar import SessionCalendar
from simulator.online import prices
from strategies.kit.contract import Session
from strategies.kit.model_config.indicators import parse
from training.cli.commands import DONE, wrong
from training.cli.errors import ERRORS
from training.desks.online.cold_start import trainer_of
from training.desks.online.data import OnlineData, load
from training.desks.online.export import PROBES, export_online, training_of
from training.desks.online.network import COLD_PRESETS, network_of
from training.desks.online.play import Player, RandomTrader, certain, play
from training.export.activate import activate
from training.rl.kernels import use_fast_float32
from training.rl.ppo import make_deterministic
from training.runs.desk_rules import trading_of
from training.study.evaluation import SessionResult

STRATEGY, SYMBOL = "online_dqn", "SPY"
MODEL = Path(prices.__file__).with_name("model.yaml")
WITH_RULE = prices.Rule(noise=8e-4, move=1.5e-3, back=5e-4)  # a rise of about two deviations of a minute's return
WITHOUT = replace(WITH_RULE, move=0.0, back=0.0)
FIRST, LAST = "2024-01-02", "2024-11-29"
LEARN, TEST, TRADE = 60, 20, 11  # sessions; the first of each file only warms the indicators up
STEPS, LOOKS = 400_000, 16
BURSTS = (0.3, 0.5, 0.7, 0.9, 1.1)  # of the scaled volume: from where on a minute counts as a burst
WIDTH = 32  # characters of the curve: the optimum
ENOUGH, IDLE = 0.9, 0.1  # parts of the optimum: what must be learned, and what no rule may seem to give
NOT_LEARNED = 1
RULES = {  # the gates that would keep a desk from trading every few minutes
    "cooldown_trade_s": 0,
    "cooldown_loss_s": 0,
    "consecutive_losses_max": 1000,
    "orders_per_minute": 40,
    "orders_per_day": 10_000,
}


@dataclass(frozen=True, slots=True)
class Found:
    """Returns: of a test session, and of all sessions of the dry run."""

    optimum: float
    learned: float
    control: float  # of the network that learned from noise
    known: float  # of the rule in the dry run's sessions
    traded: float

    @property
    def learned_the_rule(self) -> bool:
        """Whether it earns nearly the optimum, on the market and in the dry run."""
        on_market = self.optimum > 0.0 and self.learned >= ENOUGH * self.optimum
        return on_market and self.known > 0.0 and self.traded >= ENOUGH * self.known

    @property
    def idle(self) -> bool:
        """Whether noise seemed to hold no rule."""
        return self.control <= IDLE * abs(self.optimum)

    def verdict(self) -> str:
        """One sentence."""
        share = (
            f"{self.learned / self.optimum:.0%} of what the rule earns" if self.optimum > 0.0 else "nothing to learn"
        )
        noise = "nothing" if self.idle else "a gain that is not there"
        return f"{'Learned' if self.learned_the_rule else 'Not learned'}: {share}. From noise: {noise}."


class Scholar:
    """A network that learns one market, and what it earns on sessions that it does not learn from."""

    def __init__(self, data: OnlineData, steps: int, seed: int) -> None:
        self.data, preset = data, COLD_PRESETS["quick"]
        dates = tuple(data.days)
        learnt, self.test = dates[:-TEST], dates[-TEST:]
        self.network = network_of(data.config, preset, seed)
        self.trainer = trainer_of(self.network, data, learnt, preset, seed, steps)

    def update(self) -> None:
        """One rollout and what is learned from it."""
        self.network.train()
        self.trainer.update()
        self.network.eval()

    def earns(self, player: Player | RandomTrader | None = None) -> tuple[SessionResult, ...]:
        """The test sessions of a player, of this network where none is given."""
        return play(player or self.network, self.data, self.test, self.data.trading)


class KnowsTheRule:
    """The player that buys after a burst of volume and sells a minute later."""

    def __init__(self, data: OnlineData, burst: float) -> None:
        names = data.spec.features
        self._volume = next(place for place, name in enumerate(names) if "MEDPRICE" in name)
        self._position, self._burst = names.index("position"), burst

    def __call__(self, observations: Tensor) -> Tensor:
        """Values of the actions hold, buy and sell."""
        held = observations[:, self._position] > 0.0
        return certain(torch.where(held, 2, (observations[:, self._volume] > self._burst).long()))


def best_of(scholar: Scholar) -> tuple[Player, tuple[SessionResult, ...]]:
    """The rule with the line between usual and burst that is best on the very test sessions, and what it earns."""
    rules = [KnowsTheRule(scholar.data, burst) for burst in BURSTS]
    return max(
        ((rule, scholar.earns(rule)) for rule in rules), key=lambda found: mean_return(found[1], scholar.data.trading)
    )


def mean_return(results: Sequence[SessionResult], trading: Trading) -> float:
    """The mean return of a session, a part of the capital."""
    return math.fsum(one.pnl_usd for one in results) / len(results) / float(trading.paper.cash_usd)


def compounded(results: Sequence[SessionResult], trading: Trading) -> float:
    """The return of all sessions, one after the other."""
    return math.prod(1.0 + one.pnl_usd / float(trading.paper.cash_usd) for one in results) - 1.0


def write_market(path: Path, sessions: Sequence[Session], rule: prices.Rule, seed: int) -> Path:
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


def tell(text: str = "") -> None:
    """Print one line at once."""
    print(text, flush=True)


def train(with_rule: Scholar, without: Scholar, optimum: float) -> None:
    """Train both, and print the curve: the looks come closer together where most is learned."""
    total = with_rule.trainer.total_updates
    looks = {round(total ** (look / LOOKS)) for look in range(LOOKS + 1)}
    tell(f"{'steps':>9}  {'with the rule':<{WIDTH + 12}}  without it")
    for update in range(total + 1):
        if update:
            with_rule.update()
            without.update()
        if update == 0 or update in looks:
            found = mean_return(with_rule.earns(), with_rule.data.trading)
            bar = "█" * max(0, min(WIDTH, round(WIDTH * found / optimum)))
            control = mean_return(without.earns(), without.data.trading)
            tell(f"{with_rule.trainer.steps:>9,}  {found:+7.2%}  │{bar:<{WIDTH}}│  {control:+7.2%}")


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
    line = [sys.executable, "-m", "daemon", "--dry-run", "--config", str(config), "--bars", str(bars)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RLTRADER_")}
    done = subprocess.run(
        [*line, "--state-dir", str(state)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or "nothing was printed").splitlines()[-1]
        raise RuntimeError(f"the dry run ended with {done.returncode}: {said}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def learn(folder: Path, steps: int, seed: int) -> bool:
    """Do all of it; returns whether it was learned."""
    torch.set_num_threads(1)
    make_deterministic()
    use_fast_float32()
    sessions = SessionCalendar.load(FIRST, LAST).sessions
    border, store = LEARN + TEST + 1, folder / "store"
    config = write_config(folder / "config.toml", folder, store)
    trading = trading_of(STRATEGY, config)

    def market(name: str, part: slice, rule: prices.Rule, draw: int) -> OnlineData:
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
    known = compounded(play(knowing, later, tuple(later.days), trading), trading)
    tell(
        f"\nThe daemon's dry run of the exported policy {version.name}, over {len(later.days)} new sessions:\n"
        f"{traded:+.1%} in {summary['trades']} trades after costs; the rule, known: {known:+.1%}"
    )
    found = Found(
        mean_return(best, trading), mean_return(learned, trading), mean_return(control, trading), known, traded
    )
    tell(f"\n{found.verdict()}")
    tell_next(folder)
    return found.learned_the_rule and found.idle


def read(bars: Path, trading: Trading) -> OnlineData:
    """Bars made ready."""
    config = msgspec.structs.replace(parse(MODEL.read_bytes(), MODEL.name), symbols=(SYMBOL,))
    return load((bars,), config, (SYMBOL,), trading)


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
    often = sum(one.trades for one in learned) / max(1, sum(one.minutes for one in learned))
    random = with_rule.earns(RandomTrader(often, 1.0, seed=1))
    tell(f"\n{'':<34}{'return a session':>18}{'trades a session':>19}")
    for name, results in (
        ("optimum: the rule, known", best),
        ("learned", learned),
        ("learned from noise, on noise", control),
        ("random, about as often", random),
    ):
        trades = sum(one.trades for one in results) / len(results)
        tell(f"{name:<34}{mean_return(results, with_rule.data.trading):>+18.2%}{trades:>19.1f}")


def tell_next(folder: Path) -> None:
    """Say what next."""
    here, state = Path(sys.executable).parent, shlex.quote(str(folder / "state"))
    programs = f"{here.relative_to(Path.cwd())}/" if here.is_relative_to(Path.cwd()) else ""
    tell("\nwhat next:")
    for command, why in (
        (f"rltraderctl trades --state-dir {state}", "its trades"),
        (f"rltraderctl decisions --state-dir {state} --outcome ordered", "what it saw, and why it acted"),
        (f"rltrader-dashboard --state-dir {state}", "the same as a page"),
        ("rltraderctl new-strategy NAME --cadence bar --holds shares", "a strategy of your own (docs/TUTORIAL.md)"),
    ):
        tell(f"  {programs}{command}\n      {why}")


def parser() -> argparse.ArgumentParser:
    """The options of `learn`."""
    found = argparse.ArgumentParser(prog="train-and-export learn", description=__doc__.partition("\n")[0])
    found.add_argument("--out", type=Path, metavar="DIR", help="an empty folder for all that is made (a temporary one)")
    found.add_argument("--steps", type=int, default=STEPS, help="of each of the two networks (%(default)s)")
    found.add_argument("--seed", type=int, default=1, help="of the market and the networks (%(default)s)")
    return found


def main(arguments: Sequence[str]) -> int:
    """Show it; returns the exit code: 0, 1 where the policy did not learn it, 2 a fault."""
    chosen = parser().parse_args(arguments)
    try:
        if chosen.steps < 1:
            raise ValueError(f"--steps is {chosen.steps}: expected at least 1")
        folder = chosen.out or Path(tempfile.mkdtemp(prefix="rltrader-learn."))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"--out is {folder}, which is not empty: name a new folder")
        return DONE if learn(folder, chosen.steps, chosen.seed) else NOT_LEARNED
    except ERRORS as error:
        return wrong(error)
