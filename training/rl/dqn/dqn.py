"""DQN in one file: double, dueling, n-step, prioritised, normalised, with the terms of a careful learner.

With the coefficients of `textbook` loss, gradients and weights are those of Stable-Baselines3's DQN. Dueling and
normalisation are the network's, n-step returns and priorities the replay's; all else is here.
The sources are those of `training.rl.dqn.coefficients`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.rl.dqn.coefficients import DqnCoefficients
from training.rl.dqn.networks import QNetwork, head_loss
from training.rl.dqn.replay import Choices
from training.rl.off_policy.learner import Average, Learner, follow


def taken(values: Tensor, actions: Tensor) -> Tensor:
    """The values of these actions, (n,)."""
    return values.gather(1, actions.unsqueeze(1)).squeeze(1)


def difference_loss(values: Tensor, goals: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of Huber's loss with the bound 1, [1], each row times its importance, [4]."""
    losses = torch.nn.functional.smooth_l1_loss(values, goals, reduction="none")
    return losses.mean() if weights is None else (weights * losses).mean()


def conservative_loss(values: Tensor, actions: Tensor) -> Tensor:
    """How much the values of all actions stand above those of the actions that were taken: [6], equation 4."""
    return (values.logsumexp(dim=1) - taken(values, actions)).mean()


def divergence(champion: Tensor, values: Tensor, temperature: float) -> Tensor:
    """Mean KL in nats from the champion's softmax over its Q values to this one's."""
    ours, theirs = (each.div(temperature).log_softmax(dim=1) for each in (values, champion))
    return (theirs.exp() * (theirs - ours)).sum(dim=1).mean()


class QLearner(Learner):
    """A network that learns the value of each action; how is the subclass's."""

    def __init__(
        self,
        network: QNetwork,
        learning_rate: float,
        max_grad_norm: float | None,
        further: Mapping[str, nn.Module],
        *,
        precision: str,
        average: Average | None,
    ) -> None:
        """Learn in place: `network` is on the device where transitions will be; `further` as in `Learner`."""
        self.network = network
        super().__init__({"network": network, **further}, learning_rate, precision=precision, average=average)
        self._descend = self._descent("of_network", network.parameters(), max_grad_norm)

    @torch.no_grad()
    def values(self, prepared: Tensor) -> Tensor:
        """Q values to act by, float32 (n, actions)."""
        return self.network.values(prepared, self._products)


class Dqn(QLearner):
    """A network that learns the value of each action, and a target that follows it."""

    def __init__(
        self,
        network: QNetwork,
        coefficients: DqnCoefficients,
        *,
        champion: QNetwork | None = None,
        precision: str = "float32",
        average: Average | None = None,
    ) -> None:
        """Learn in place: `network` is on the device where transitions will be. The rest as `Learner`.

        Args:
            champion: the network whose choices are not to be left far behind; it is copied and does not learn.

        Raises:
            ValueError: a weight for the champion without one.
        """
        c = coefficients
        if c.champion and champion is None:
            raise ValueError(f"champion is {c.champion}: expected 0 without a champion's network")
        self.target, self._c = copy.deepcopy(network), c
        self._champion = copy.deepcopy(champion) if c.champion else None
        modules: dict[str, nn.Module] = {"target": self.target}
        if self._champion is not None:
            modules["champion"] = self._champion
        super().__init__(network, c.learning_rate, c.max_grad_norm, modules, precision=precision, average=average)
        further = (("conservative", c.conservative), ("divergence", c.champion), ("heads loss", network.heads))
        self.figures = ("loss", "error", "Q mean", "gradient norm", *(name for name, on in further if on))
        """What `update` returns of each gradient step; "error" is the mean absolute temporal difference."""

    def update(self, batch: Choices) -> tuple[Tensor, Tensor]:
        """One gradient step: `figures`, and the temporal-difference errors (n,).

        After a loss or a gradient that is not finite no weight changes.
        """
        self.updates += 1
        goals = self._goals(batch)
        values, heads = self.network.answers(batch.observations, self._products)
        chosen = taken(values, batch.actions)
        loss, terms = self._with_terms(difference_loss(chosen, goals, batch.weights), batch, values, heads)
        errors = (chosen - goals).detach()
        found, norm = self._descend.step(loss)
        if self.updates % self._c.target_every == 0:
            follow(self.target, self.network, self._c.smoothing)
        return torch.stack([found, errors.abs().mean(), chosen.detach().mean(), norm, *terms]), errors

    def _with_terms(self, loss: Tensor, batch: Choices, values: Tensor, heads: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss with its further terms, and these by themselves."""
        c, terms = self._c, []
        if c.conservative:
            terms.append(conservative_loss(values, batch.actions))
            loss = loss + c.conservative * terms[-1]
        if self._champion is not None:
            with torch.no_grad():
                theirs = self._champion.values(batch.observations, self._products)
            terms.append(divergence(theirs, values, c.champion_temperature))
            loss = loss + c.champion * (terms[-1] - c.champion_bound).relu()
        if self.network.heads:
            terms.append(head_loss(self.network.heads, heads, batch.labels))
            loss = loss + c.heads * terms[-1]
        return loss, [term.detach() for term in terms]

    @torch.no_grad()
    def _goals(self, batch: Choices) -> Tensor:
        """What the taken actions' values should be, (n,): rewards + discount x the target's value of what follows.

        Of its own best action, [1], or of the network's, [2].
        """
        after = self.target.values(batch.following, self._products)
        if self._c.double:
            best = taken(after, self.network.values(batch.following, self._products).argmax(dim=1))
        else:
            best = after.amax(dim=1)
        return torch.addcmul(batch.rewards, batch.discounts, best)
