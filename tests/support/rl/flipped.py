"""Online learning on the market whose rule flips: the champion of the cold start, its replay, and sessions after it."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from tests.support.planted.flipping import INPUTS, Flipping, FlippingMarket, share_of_optimum
from training.rl.dqn.coefficients import DqnCoefficients, PqnCoefficients
from training.rl.dqn.networks import QNetwork, explore
from training.rl.dqn.online import OnlineCoefficients, OnlineLearner
from training.rl.dqn.pqn import PqnTrainer
from training.rl.dqn.presets import RECIPES, build, build_pqn
from training.rl.dqn.replay import ChoiceReplay, OneStep, Returns

MARKET = Flipping()
EPSILON = 0.05
BEFORE, AFTER = 1.0, -1.0
WIDTHS, DISCOUNT, REWARD_SCALE = (32, 32), 0.95, 5.0
START = replace(
    PqnCoefficients(),
    learning_rate=2e-3,
    environments=64,
    rollout_steps=32,
    batch=512,
    widths=WIDTHS,
    discount=DISCOUNT,
    reward_scale=REWARD_SCALE,
)
ONLINE = replace(
    RECIPES["online"],
    learning_rate=1e-3,
    batch=128,
    dueling=False,
    capacity=1950,
    widths=WIDTHS,
    discount=DISCOUNT,
    reward_scale=REWARD_SCALE,
)


def champion(seed: int, steps: int = 66_000, market: Flipping = MARKET) -> QNetwork:
    """The network of a cold start on the rule as it is before the flip."""
    pqn = build_pqn(INPUTS, START, actions=3, seed=seed)
    trainer = PqnTrainer(pqn, FlippingMarket(market, 64, seed, rule=BEFORE), START, total_steps=steps, seed=seed)
    while not trainer.done:
        trainer.update()
    return pqn.network


@torch.no_grad()
def cold_replay(
    network: QNetwork, c: DqnCoefficients, seed: int, count: int = 16_384, flipping: Flipping = MARKET
) -> ChoiceReplay:
    """Transitions of the champion before the flip, with much exploration."""
    replay = ChoiceReplay(count, 64, INPUTS, priority=c.priority)
    returns, market = Returns(c.returns, c.discount), FlippingMarket(flipping, 64, seed + 100, rule=BEFORE)
    generator = torch.Generator().manual_seed(seed)
    while replay.size < count:
        before = market.observe()
        actions = explore(network.values(before), 0.3, generator)
        step = market.step(actions)
        rewards, goes_on = step.rewards * c.reward_scale, (~step.terminals).float()
        one = OneStep(before, actions, rewards, market.observe(), goes_on, step.terminals, torch.empty(64, 0))
        choices = returns.add(one)
        if choices is not None:
            replay.add(choices)
    return replay


class Desk:
    """One desk: it acts by the network as it was at the session's start, and learns from each decision."""

    def __init__(
        self, network: QNetwork, seed: int, online: OnlineCoefficients | None = None, *, market: Flipping = MARKET
    ) -> None:
        dqn = build(INPUTS, ONLINE, actions=3, seed=seed)
        for net in (dqn.network, dqn.target):
            net.load_state_dict(network.state_dict())
        self.learner = OnlineLearner(
            dqn, ONLINE, cold_replay(network, ONLINE, seed, flipping=market), seed=seed, online=online
        )
        self.market = FlippingMarket(market, 1, seed + 200, rule=BEFORE, scattered=False)
        self._generator = torch.Generator().manual_seed(seed)

    def play(self, sessions: int) -> None:
        """Go through whole sessions at `EPSILON`."""
        for _ in range(sessions):
            acting = copy.deepcopy(self.learner.dqn.network)
            for _ in range(MARKET.steps):
                self._decide(acting)

    def share(self) -> float:
        """What the learner's network earns of the optimum of the market's rule."""
        return share_of_optimum(MARKET, self.learner.dqn.network.values, self.market.rule)

    def _decide(self, acting: QNetwork) -> tuple[int, float]:
        """Act and learn; returns the action and its reward."""
        before = self.market.observe()
        with torch.no_grad():
            action = explore(acting.values(before), EPSILON, self._generator)
        step = self.market.step(action)
        ended = bool(step.terminals)
        self.learner.take(
            0, before[0], int(action), float(step.rewards), self.market.observe()[0], ended=ended, goes_on=not ended
        )
        self.learner.learn()
        return int(action), float(step.rewards)
