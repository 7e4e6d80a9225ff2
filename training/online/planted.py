"""Put a bad version into the store, to show that the ladder stops it: `python -m training.online.planted KIND …`.

`promising` decides as the trainer's network does, and its card is forged: it passes every criterion and promises thirty
percent a session. `negated` wants the opposite of what that network wants; its card is made as every card is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import torch

from daemon.core.strategy_rules import trading_for
from daemon.experience.experience import Experience
from daemon.experience.of_journal import Experiences
from daemon.experience.walk import JournalWalk
from daemon.operator.log import Log
from strategies.online_dqn import OnlineDqn
from strategies.online_dqn.model_config import ModelConfig
from strategies.online_dqn.state_vector import read_file
from training.desks.online.network import COLD_PRESETS, network_of
from training.evidence.off_policy import EpisodeValue, OffPolicy
from training.evidence.resampling import Interval
from training.evidence.statistics import Series
from training.online.beginning import Apart, made_in
from training.online.candidates import Origin
from training.online.judging import compare_with_champion, rows_of
from training.online.publish import Versions
from training.online.reward import RewardAgent
from training.online.trainer import CHECKPOINT
from training.rl.dqn.networks import QNetwork

KINDS = ("promising", "negated")
FACTORS = {"promising": 2.0, "negated": -1.0}  # of the values: a factor of 2 changes no decision
PROMISED = (0.299, 0.301)  # returns of two sessions


class Forged(Apart):
    """Stands in for held-out sessions, with made-up returns."""

    def returns(self, network: QNetwork) -> Series:
        """Return what is promised, whatever the network earns."""
        del network
        return np.array(PROMISED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant one version; prints its name."""
    options = _parser().parse_args(arguments)
    folder = made_in(options.own_dir)
    config = msgspec.structs.replace(read_file(options.model_config), symbols=folder.plan.symbols)
    strategy, trading = OnlineDqn(config, config.symbols), trading_for("online_dqn")
    network = network_of(config, COLD_PRESETS[folder.plan.preset], folder.plan.seed)
    state = torch.load(options.own_dir / CHECKPOINT, weights_only=True)
    network.load_state_dict(state["learner"]["dqn"]["modules"]["network"])
    scaled(network.eval(), FACTORS[options.kind])
    kind = Forged if options.kind == "promising" else Apart
    apart = kind(options.bars, config, trading, folder.plan.preset)
    hyperparameters = {**msgspec.to_builtins(folder.plan), "online": asdict(COLD_PRESETS[folder.plan.preset].online)}
    versions = Versions(options.models_dir, strategy, folder.training, hyperparameters, apart, Log("info", "json"))
    if options.kind == "promising":
        result, origin = forged(), Origin(folder.training.last_session, "", (0, 0))
    else:
        experiences = tuple(_experiences_of(options.state_dir, options.stream.split(":")[2], strategy))
        result = judged_by(experiences, network, options, COLD_PRESETS[folder.plan.preset].online.discount, config)
        origin = Origin(experiences[-1].session, options.stream, (experiences[0].row, experiences[-1].row))
    versions.publish(network, result, origin, options.parent)
    sys.stdout.write(f"{versions.newest}\n")
    return 0


@torch.no_grad()
def scaled(network: QNetwork, factor: float) -> None:
    """Multiply a network's values."""
    for layers in (network.advantages, network.value):
        if layers is not None:
            layers.weights[-1].mul_(factor)
            layers.biases[-1].mul_(factor)


def forged() -> OffPolicy:
    """Return figures with which a card passes every criterion of the ladder."""
    lead = Interval(estimate=0.002, low=0.001, high=0.003)
    return OffPolicy(
        decisions=20_000,
        sessions=20,
        episodes=10_000,
        horizon=2,
        discount=0.99,
        exploration=0.02,
        overlap=1.0,
        effective=5_000.0,
        estimates=tuple(
            EpisodeValue(name=name, challenger=lead, champion=lead, lead=lead) for name in ("wis", "dr", "fqe")
        ),
    )


def judged_by(
    experiences: Sequence[Experience],
    network: QNetwork,
    options: argparse.Namespace,
    discount: float,
    config: ModelConfig,
) -> OffPolicy:
    """Compare a network with the parent on the decisions that the parent made."""
    rewards, portfolio = RewardAgent(), len(config.portfolio)
    features = len(config.indicators) + portfolio
    log: list[list[float]] = []
    sessions, models, states = dict[str, int](), dict[str, int](), list[bytes]()
    place, last_decision = 0.0, -1
    for experience in experiences:
        place += 1.0 if experience.decision == last_decision + 1 else 2.0
        last_decision = experience.decision
        log += rows_of(
            experience,
            [sum(terms.values()) for terms in rewards.terms(experience)],
            session=sessions.setdefault(experience.session, len(sessions)),
            place=place,
            model=models.setdefault(experience.model, len(models)),
            features=features,
        )
        states.append(experience.state)
    raw = np.frombuffer(b"".join(states), dtype="<f4").reshape(len(log), -1).copy()
    with torch.no_grad():
        values = network.values(network.prepare(torch.from_numpy(raw))).numpy().astype(np.float64)
    champion = models.get(options.parent, -1)
    return compare_with_champion(
        np.array(log), values, champion, portfolio=portfolio, horizon=options.card_horizon, discount=discount
    )


def _experiences_of(state_dir: Path, epoch: str, strategy: OnlineDqn) -> Iterator[Experience]:
    """All whole experiences of a journal so far."""
    walk, experiences = JournalWalk(state_dir, epoch), Experiences(strategy.spec)
    try:
        while not walk.caught_up and not walk.problem:
            for row, _, step, begins in walk.look():
                if begins is not None:
                    experiences.begin(begins)
                experience = None if step is None else experiences.take(row, step)
                if experience is not None:
                    yield experience
    finally:
        walk.close()


def _parser() -> argparse.ArgumentParser:
    line = argparse.ArgumentParser(prog="python -m training.online.planted", description="Plant a bad version.")
    line.add_argument("kind", choices=KINDS)
    line.add_argument("--parent", required=True, help="the version that answers now")
    line.add_argument("--models-dir", type=Path, required=True)
    line.add_argument("--own-dir", type=Path, required=True, help="the trainer's")
    line.add_argument("--bars", type=Path, nargs="+", required=True, help="the trainer's")
    line.add_argument("--model-config", type=Path, required=True)
    line.add_argument("--state-dir", type=Path, help="the desk's, for `negated`")
    line.add_argument("--stream", default="", help="the desk's stream, for `negated`")
    line.add_argument("--card-horizon", type=int, default=2)
    return line


if __name__ == "__main__":
    sys.exit(main())
