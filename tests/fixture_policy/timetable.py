"""A policy that uses every action by the clock: it reads `session_elapsed` of the newest row and nothing else.

Between 10 % and 85 % of a session it runs six cycles of eight actions with holds between them, so that full and half
days alike see every action at least three times. It learned nothing and is for tests only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strategies.option_scalper import ACTIONS, BUY_CALL, BUY_PUT, EXIT, HOLD, SPEC, TRIM_50, TRIM_70

ELAPSED = SPEC.features.index("session_elapsed")
CYCLE = (BUY_CALL, TRIM_50, TRIM_70, EXIT, BUY_PUT, TRIM_50, TRIM_70, EXIT)
CYCLES = 6
BEGIN, END = 0.10, 0.85  # of the session: after the 20th bar and 30 minutes before the close, half days too
WIDTH = 0.005  # of the session: 1.05 minutes of a half day, 1.95 of a full one, so at least one bar
WINNER = 8.0  # its probability at temperature 0.7 is 1 / (1 + 5 exp(-8 / 0.7)) = 0.99995


class Timetable(nn.Module):
    """Observations, float32 (batch, 20, 23), to logits, float32 (batch, 6): 8 for the action of the hour, else 0."""

    starts: Tensor
    ends: Tensor
    actions: Tensor

    def __init__(self) -> None:
        super().__init__()
        slots = CYCLES * len(CYCLE)
        starts = torch.tensor([BEGIN + (END - BEGIN) * index / slots for index in range(slots)])
        actions = torch.zeros(slots, len(ACTIONS))
        for index in range(slots):
            actions[index, CYCLE[index % len(CYCLE)]] = WINNER
        self.register_buffer("starts", starts)
        self.register_buffer("ends", starts + WIDTH)
        self.register_buffer("actions", actions)

    def forward(self, observation: Tensor) -> Tensor:
        """The timetable's logits."""
        elapsed = observation[:, -1, ELAPSED : ELAPSED + 1]
        now = ((elapsed >= self.starts) & (elapsed < self.ends)).to(torch.float32)
        hold = torch.nn.functional.one_hot(torch.tensor(HOLD), len(ACTIONS)).to(torch.float32) * WINNER
        return now @ self.actions + (1.0 - now.sum(dim=1, keepdim=True)) * hold
