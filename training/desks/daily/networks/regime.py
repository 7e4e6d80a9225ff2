"""The network of `regime_switcher`: an encoder, a GRU whose state goes on from day to day, and heads for 16 portfolios.

`Policy` is exactly what is exported. Its observations are scaled by their own definition, so it has no scaling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from strategies.regime_switcher import HIDDEN, SPEC, SYMBOLS, WIDTH, layout
from training.rl.layers import start_linear
from training.rl.recurrent.gru import Gru

ACTIONS = len(SPEC.actions)
LEFT_OUT = {"gru": "", "gru_no_memory": "memory", "gru_no_market": "market", "gru_no_account": "account"}
"""Network -> the input that it ignores: its carried state, the market's columns, or the account's. The first network is
the strategy's; the others are ablations of the same size."""


class Policy(nn.Module):
    """Observation and state to logits and state: 64 -> 128, ReLU, LayerNorm, GRU 128, 128 -> 16."""

    def __init__(self, generator: torch.Generator | None = None, funds: int = len(SYMBOLS), lacks: str = "") -> None:
        """Weights of the GRU are drawn from `generator` (None: one with seed 0), the others by torch.

        Args:
            lacks: see `LEFT_OUT`; ignored columns, of this number of `funds`, are set to 0.
        """
        super().__init__()
        places = layout(funds)
        self.remembers = lacks != "memory"
        self.unseen = {
            "market": slice(0, places.weights.start),
            "account": slice(places.weights.start, places.used),
        }.get(lacks)
        self.encoder = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.LayerNorm(HIDDEN))
        self.gru = Gru(HIDDEN, HIDDEN, generator or torch.Generator().manual_seed(0))
        self.actor = nn.Linear(HIDDEN, ACTIONS)

    def forward(self, observation: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, float32 (batch, 16), and the next state (batch, 128).

        Args:
            observation: raw, float32 (batch, 64).
            hidden: float32 (batch, 128), the state that the day before left; zeros on the first day.
        """
        following = self.gru.step(self.encoder(self.mask_columns(observation)), self.initial_state(hidden))
        logits: Tensor = self.actor(following)
        return logits, following

    def mask_columns(self, observation: Tensor) -> Tensor:
        """Observations (..., columns) with the columns that this network leaves out set to 0."""
        if self.unseen is None:
            return observation
        mask = torch.ones(observation.shape[-1], dtype=observation.dtype, device=observation.device)
        mask[self.unseen] = 0.0
        return observation * mask

    def initial_state(self, hidden: Tensor) -> Tensor:
        """The state that a step begins with: `hidden`, or zeros for a network without memory."""
        return hidden if self.remembers else hidden * 0.0  # so that the exported graph keeps its input


class RegimeActorCritic(nn.Module):
    """The policy and a value 128 -> 1 on its state, a `training.rl.ppo.CarryingNetwork`; 109,841 parameters."""

    def __init__(self, seed: int, funds: int = len(SYMBOLS), lacks: str = "") -> None:
        """Orthogonal weights drawn from `seed`: gain 1 in the GRU, sqrt(2), 0.01 (logits), 1 (value); biases 0.

        Training stores and multiplies the used columns only. Source: Huang et al. 2022, "The 37 Implementation Details
        of PPO", details 2 and L1.
        """
        super().__init__()
        self._used = layout(funds).used
        generator = torch.Generator().manual_seed(seed)
        self.policy = Policy(generator, funds, lacks)
        self.critic = nn.Linear(HIDDEN, 1)
        start_linear(self, {self.policy.actor: 0.01, self.critic: 1.0}, generator)

    def prepare(self, observations: Tensor) -> Tensor:
        """Observations without the reserved zeros, float32 (..., used)."""
        return observations[..., : self._used]

    def start(self, count: int) -> Tensor:
        """The zero state, float32 (count, 128)."""
        return self.critic.weight.new_zeros(count, HIDDEN)

    def forward(self, prepared: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: logits (n, 16), values (n,), the next state (n, 128); `prepared` is (n, used)."""
        following = self.policy.gru.step(self._encoded(prepared), self.policy.initial_state(hidden))
        return *self._heads(following), following

    def sequence(self, prepared: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (steps, n, 16) and values (steps, n) of prepared observations (steps, n, used).

        `hidden` (n, 128) is the state before the first step; where `starts`, bool (steps, n), the state is zero before
        that step.
        """
        if not self.policy.remembers:
            starts = torch.ones_like(starts)
        return self._heads(self.policy.gru.sequence(self._encoded(prepared), hidden, starts))

    def _encoded(self, prepared: Tensor) -> Tensor:
        """The policy encoder's output for observations whose reserved columns are zeros."""
        encoder = self.policy.encoder
        weight, bias = (encoder.get_parameter(name) for name in ("0.weight", "0.bias"))
        result: Tensor = encoder[1:](linear(self.policy.mask_columns(prepared), weight[:, : self._used], bias))
        return result

    def _heads(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., 16) and values (...): one product, since a value's alone costs as much as all logits."""
        actor, critic = self.policy.actor, self.critic
        outputs = linear(states, torch.cat([actor.weight, critic.weight]), torch.cat([actor.bias, critic.bias]))
        return outputs[..., :ACTIONS], outputs[..., ACTIONS]
