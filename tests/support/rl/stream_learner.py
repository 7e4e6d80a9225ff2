"""A small learner on a stream, and experience without a market; nothing here computes an expected value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from daemon.experience.experience import ActionChoice, Experience, Prices, SymbolTransition, to_entry
from strategies.kit.contract import Float32Array

WIDTH, ACTIONS = 3, 3
A_SESSION = 13  # decisions


def make_experiences(count: int, seed: int = 1) -> list[Experience]:
    """So many decisions of one symbol, in sessions of `A_SESSION`; rows three apart."""
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(count + 1, WIDTH, generator=draw).float().numpy().astype("<f4")
    numbers = torch.rand(count, 4, generator=draw).tolist()
    experiences = []
    for place, (price, gain, flow, action) in enumerate(numbers):
        terminal = place % A_SESSION == A_SESSION - 1
        bar = Prices(place, 100.0 + price, 101.0, 99.0, 100.0 + price, 1e6)
        experiences.append(
            Experience(
                row=3 * place + 3,
                decision=place + 1,
                session=f"day {place // A_SESSION}",
                bar_ns=place,
                bars=1,
                model="v1",
                outcome="ordered",
                shape=(1, WIDTH),
                state=states[place].tobytes(),
                next_state=b"" if terminal else states[place + 1].tobytes(),
                terminal=terminal,
                chosen=(ActionChoice(int(action * ACTIONS), 0, (0.5, 0.25, 0.25)),),
                holdings=(SymbolTransition("SPY", bar, bar, 10, 10, 100.0 + price, 100.0 + price + gain, flow, 0.0),),
                equity=1000.0,
                next_equity=1000.0 + gain,
                transfers=0.0,
            )
        )
    return experiences


def put(client: Any, stream: str, experiences: list[Experience], after: int = 0) -> None:
    """Add them to a stream, as the publisher does."""
    for experience in experiences:
        client.xadd(stream, to_entry(experience, after), id=b"%d-0" % experience.row)
        after = experience.row


class TinyLearner:
    """A linear Q function with Adam that replays four of all it took at each update."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Linear(WIDTH, ACTIONS)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self._draw = torch.Generator().manual_seed(7)
        self.taken: list[list[float]] = []
        self.labels: list[tuple[float, ...]] = []  # given to this one, not kept over a restart
        self.updates = 0

    def take(
        self,
        lane: int,
        observation: Float32Array,
        action: int,
        reward: float,
        following: Float32Array,
        *,
        ended: bool,
        goes_on: bool,
        labels: Sequence[float] = (),
    ) -> None:
        """Keep it as one row of numbers."""
        self.labels.append(tuple(labels))
        row = [*observation.tolist(), *following.tolist(), reward, float(goes_on), float(ended), float(action + lane)]
        self.taken.append(row)

    def learn(self) -> dict[str, float]:
        """One update on four drawn rows."""
        places = torch.randint(len(self.taken), (4,), generator=self._draw)
        rows = torch.tensor([self.taken[place] for place in places.tolist()])
        now, then, reward, goes_on = rows[:, :WIDTH], rows[:, WIDTH : 2 * WIDTH], rows[:, -4], rows[:, -3]
        with torch.no_grad():
            goals = reward + 0.9 * goes_on * self.network(then).amax(dim=1)
        loss = (self.network(now).gather(1, rows[:, -1:].long()).squeeze(1) - goals).square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.updates += 1
        return {"loss": loss.item()}

    def weights(self) -> list[float]:
        """All weights as numbers."""
        return [number for parameter in self.network.parameters() for number in parameter.detach().flatten().tolist()]

    def state_dict(self) -> dict[str, Any]:
        """All that the next weights depend on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "draw": self._draw.get_state(),
            "taken": self.taken,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._draw.set_state(state["draw"])
        self.taken, self.updates = [list(row) for row in state["taken"]], state["updates"]
