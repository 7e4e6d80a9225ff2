"""Named settings of SAC and TD3, and agents built by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import nn

from training.rl.off_policy.coefficients import OffPolicyCoefficients, check_off_policy
from training.rl.off_policy.learner import Actor, Agent, Average, TwinCritics
from training.rl.off_policy.sac import Sac
from training.rl.off_policy.td3 import Td3

AGENTS: Mapping[str, type[Agent]] = MappingProxyType({"sac": Sac, "td3": Td3})


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an agent is trained. `why` is one line for `--help` and the manual."""

    why: str
    sac: OffPolicyCoefficients
    td3: OffPolicyCoefficients

    def of(self, agent: str) -> OffPolicyCoefficients:
        """The coefficients of "sac" or "td3"."""
        return {"sac": self.sac, "td3": self.td3}[_known(agent)]


_TEXTBOOK = OffPolicyCoefficients()
_FEW_LARGE = OffPolicyCoefficients(
    learning_rate=3e-3,
    schedule="linear",
    environments=1024,
    batch=512,
    gradient_steps=4,
    per_transitions=1024,
    round_transitions=8192,
    learning_starts=8192,
    smoothing=0.02,
    actor_widths=(128, 128),
    critic_widths=(128, 128),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "few_large": Recipe(
            "many rows, four gradient steps of 512 transitions for every 1,024 transitions",
            sac=_FEW_LARGE,
            td3=replace(_FEW_LARGE, actor_delay=2, exploration=0.2),
        ),
        "textbook": Recipe(
            "Stable-Baselines3's SAC and TD3: batches of 256, one gradient step for each transition",
            sac=_TEXTBOOK,
            td3=replace(_TEXTBOOK, learning_rate=1e-3, actor_delay=2),
        ),
    }
)
"""The first is the default."""


def build(
    agent: str,
    inputs: int,
    coefficients: OffPolicyCoefficients,
    *,
    seed: int,
    actions: int = 1,
    precision: str = "float32",
    scaling: nn.Module | None = None,
    average: Average | None = None,
    device: str = "cpu",
    begins: float = 0.0,
) -> Agent:
    """A new agent, "sac" or "td3", with weights drawn from `seed`.

    Args:
        inputs: numbers of a prepared observation.
        scaling: raw observations to prepared ones; it becomes a part of the exported actor.
        begins: added to the biases of the actor's means, before they are squashed.

    Raises:
        ValueError: an unknown name, or coefficients that do not fit each other.
    """
    c, kind = coefficients, AGENTS[_known(agent)]
    check_off_policy(c, precision)
    spread = kind is Sac
    actor = Actor(
        inputs, c.actor_widths, seed=seed, actions=actions, spread=spread, normalised=c.normalised, scaling=scaling
    )
    actor.lift(begins)
    critics = TwinCritics(inputs, c.critic_widths, seed=seed + 1, actions=actions, normalised=c.normalised)
    return kind(actor.to(device), critics.to(device), c, precision=precision, average=average)


def _known(agent: str) -> str:
    if agent not in AGENTS:
        raise ValueError(f"the agent is called {agent!r}: expected {', '.join(AGENTS)}")
    return agent
