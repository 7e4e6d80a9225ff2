"""DQN in one file: double, dueling, n-step, prioritised, layer-normalised, with conservative and champion loss terms.

With the coefficients of the preset `textbook`, loss, gradients and weights equal those of Stable-Baselines3's DQN.
Dueling and normalisation are implemented in the network, n-step returns and priorities in the replay, all else here:
the pass, the gradient step, and the loop that steps the environments and takes the gradient steps that are due.
The backward pass is written by hand, because autograd's overhead exceeds the time of a small network's products; its
gradients equal autograd's. The sources are those of `training.rl.dqn.coefficients`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from training.rl.dqn.coefficients import DqnCoefficients, epsilon_at
from training.rl.dqn.networks import QNetwork, explore, head_loss, labels_of
from training.rl.dqn.replay import ChoiceReplay, Choices, OneStep, Returns
from training.rl.off_policy.learner import Average, Layers, Learner, follow, in_one_piece
from training.rl.off_policy.passes import Hidden, Linear
from training.rl.off_policy.trainer import Figures, Part, Rounds, due_steps, following, in_place_of
from training.rl.protocols import Environment


class Pass:
    """Forward and backward pass of a network without autograd: call it under `torch.no_grad`.

    Gradients are written to the existing `grad` tensors of the network's parameters.
    """

    def __init__(self, network: QNetwork, products: torch.dtype) -> None:
        """Take `network`, whose parameters must stay the same objects; hidden layers multiply in `products`."""

        def linears(layers: Layers, groups: int = 1) -> list[Linear]:
            pairs = list(zip(layers.weights, layers.biases, strict=True))
            of_last = [1] * (len(pairs) - 1) + [groups]
            return [Linear(*pair, is_last) for pair, is_last in zip(pairs, of_last, strict=True)]

        def single(layers: Layers | None) -> Linear | None:
            return None if layers is None else linears(layers)[0]

        self._width = network.width
        self._body = Hidden(linears(network.body, network.streams), products, normalised=network.body.normalised)
        self._advantages = linears(network.advantages)[0]
        self._value, self._of_heads = single(network.value), single(network.of_heads)
        self._hidden = network.advantages.weights[0]  # the last hidden layer of the newest `answers`

    def values(self, prepared: Tensor) -> Tensor:
        """As `QNetwork.values`."""
        return self._values(self._body.through(prepared))

    def answers(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """As `QNetwork.answers`; keeps what `back` needs."""
        hidden = self._hidden = self._body.through(prepared, keep=True)
        values = self._values(hidden)
        return values, values[:, :0] if self._of_heads is None else _linear(hidden, self._of_heads)

    def back(self, by_values: Tensor, by_heads: Tensor | None = None) -> None:
        """Write the parameters' gradients, given the loss's gradients by the newest `answers`. Call it once for each.

        Arguments are float32 (n, actions) by the values and (n, heads) by the heads.
        """
        self._body.back(self._by_hidden(self._hidden, by_values, by_heads))

    def _values(self, hidden: Tensor) -> Tensor:
        advantages = _linear(hidden[:, -self._width :], self._advantages)
        if self._value is None:
            return advantages
        return advantages.sub_(advantages.mean(dim=1, keepdim=True)).add_(
            _linear(hidden[:, : self._width], self._value)
        )

    def _by_hidden(self, hidden: Tensor, by_values: Tensor, by_heads: Tensor | None) -> Tensor:
        """Write the output layers' gradients; return the gradient by the last hidden layer, (n, streams x width)."""
        by_advantages = by_values
        if self._value is not None:
            by_advantages = by_values - by_values.mean(dim=1, keepdim=True)
        self._advantages.learn(by_advantages, hidden[:, -self._width :])
        by_hidden = by_advantages @ self._advantages.weight
        if self._value is not None:
            by_value = by_values.sum(dim=1, keepdim=True)
            self._value.learn(by_value, hidden[:, : self._width])
            by_hidden = torch.cat([by_value @ self._value.weight, by_hidden], dim=1)
        if self._of_heads is not None and by_heads is not None:
            self._of_heads.learn(by_heads, hidden)
            by_hidden.addmm_(by_heads, self._of_heads.weight)
        return by_hidden


def _linear(hidden: Tensor, layer: Linear) -> Tensor:
    return layer.answer(hidden, layer.weight)


def values_at(values: Tensor, actions: Tensor) -> Tensor:
    """The values of these actions, (n,)."""
    return values.gather(1, actions.unsqueeze(1)).squeeze(1)


def into_taken(numbers: Tensor, values: Tensor, actions: Tensor) -> Tensor:
    """`numbers` (n,) at the actions' columns, 0 elsewhere, shaped like `values`: the backward pass of `values_at`."""
    return torch.zeros_like(values).scatter_(1, actions.unsqueeze(1), numbers.unsqueeze(1))


# Each loss comes with its gradient.


def difference_loss(errors: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The mean Huber loss with bound 1, [1], rows weighted by importance, [4]; and its gradient by `errors`.

    Huber's loss is e^2 / 2 within the bound and |e| - 1 / 2 outside: with b = e clamped to the bound, b x (e - b / 2).
    """
    bounded, rows = errors.clamp(-1.0, 1.0), len(errors)
    by_errors = bounded if weights is None else bounded * weights
    return torch.dot(by_errors, torch.sub(errors, bounded, alpha=0.5)) / rows, by_errors / rows


def conservative_loss(values: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of logsumexp over all actions' values less the taken action's value, [6], equation 4; and its gradient."""
    above = (values.logsumexp(dim=1) - values_at(values, actions)).mean()
    return above, (values.softmax(dim=1) - into_taken(torch.ones_like(values[:, 0]), values, actions)) / len(values)


def divergence(champion: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean KL divergence in nats of the softmax over `values` from the champion's; and its gradient by `values`."""
    ours, theirs = (numbers.div(temperature).log_softmax(dim=1) for numbers in (values, champion))
    chances = theirs.exp()
    mean = (chances * (theirs - ours)).sum(dim=1).mean()
    return mean, (ours.exp() - chances) / (temperature * len(values))


class QLearner(Learner):
    """Base of learners of Q values; subclasses define `update`."""

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
        self._pass = Pass(network, self._products)

    @torch.no_grad()
    def values(self, prepared: Tensor) -> Tensor:
        """Q values to act by, float32 (n, actions)."""
        return self._pass.values(prepared)


class Dqn(QLearner):
    """A Q network and its target network."""

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
            champion: the network from whose action probabilities the learner must not move far; it is copied and does
                not learn.

        Raises:
            ValueError: a weight for the champion without one.
        """
        c = coefficients
        if c.champion and champion is None:
            raise ValueError(f"champion is {c.champion}: expected 0 without a champion's network")
        self.target, self._c = copy.deepcopy(network), c
        self._of_target = in_one_piece(self.target.parameters())
        self._champion = copy.deepcopy(champion) if c.champion else None
        modules: dict[str, nn.Module] = {"target": self.target}
        if self._champion is not None:
            modules["champion"] = self._champion
        super().__init__(network, c.learning_rate, c.max_grad_norm, modules, precision=precision, average=average)
        further = (("conservative", c.conservative), ("divergence", c.champion), ("heads loss", network.heads))
        self._target_pass = Pass(self.target, self._products)
        self.figures = ("loss", "error", "Q mean", "gradient norm", *(name for name, on in further if on))
        """What `update` returns of each gradient step; "error" is the mean absolute temporal difference."""

    @torch.no_grad()
    def update(self, batch: Choices) -> tuple[Tensor, Tensor]:
        """Take one gradient step. Returns `figures`, and the temporal-difference errors (n,).

        After a loss or a gradient that is not finite no weight changes.
        """
        self.updates += 1
        goals = self._goals(batch)
        values, heads = self._pass.answers(batch.observations)
        chosen = values_at(values, batch.actions)
        errors = chosen - goals
        loss, by_errors = difference_loss(errors, batch.weights)
        by_values = into_taken(by_errors, values, batch.actions)
        total_loss, norm, terms = self._descend_further(batch, values, heads, loss, by_values)
        if self.updates % self._c.target_every == 0:
            follow(self._of_target, self._descend.numbers, self._c.smoothing)
        return torch.stack([total_loss, errors.abs().mean(), chosen.mean(), norm, *terms]), errors

    def _descend_further(
        self, batch: Choices, values: Tensor, heads: Tensor, loss: Tensor, by_values: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Add the further loss terms and take a gradient step; return total loss, gradient norm and each term."""
        c, by_heads, terms = self._c, None, []
        if c.conservative:
            term, by_term = conservative_loss(values, batch.actions)
            loss, by_values = loss + c.conservative * term, by_values + c.conservative * by_term
            terms.append(term)
        if self._champion is not None:
            theirs = self._champion.values(batch.observations, self._products)
            term, by_term = divergence(theirs, values, c.champion_temperature)
            above = (term - c.champion_bound).relu()
            loss, by_values = loss + c.champion * above, by_values + c.champion * above.sign() * by_term
            terms.append(term)
        if self.network.heads:
            term, by_heads = head_loss(self.network.heads, heads, batch.labels)
            loss, by_heads = loss + c.heads * term, c.heads * by_heads
            terms.append(term)
        self._pass.back(by_values, by_heads)
        return *self._descend.take(loss), terms

    def _goals(self, batch: Choices) -> Tensor:
        """Targets of the taken actions' values, (n,): rewards + discount x the target's value of the next state.

        The next action is the best one of the target network, [1], or with `double` that of the learning network, [2].
        """
        next_values = self._target_pass.values(batch.following)
        if not self._c.double:
            return torch.addcmul(batch.rewards, batch.discounts, next_values.amax(dim=1))
        best = self._pass.values(batch.following).argmax(dim=1)
        return torch.addcmul(batch.rewards, batch.discounts, values_at(next_values, best))


class DqnTrainer(Rounds):
    """Trains `dqn` in place, one `update` at a time; its state holds the replay."""

    def __init__(
        self,
        dqn: Dqn,
        environment: Environment,
        coefficients: DqnCoefficients,
        *,
        total_steps: int,
        seed: int,
        record: bool = True,
    ) -> None:
        """As `Rounds`; actions and minibatches are drawn from `seed`."""
        self.dqn, self.coefficients = dqn, coefficients
        c, network = coefficients, dqn.network
        super().__init__(dqn, environment, c, c.round_transitions, total_steps=total_steps, seed=seed, record=record)
        self._epsilon = torch.ones((), device=dqn.device)  # tensors that a recorded step reads
        self._batch: Choices | None = None
        self._returns = Returns(c.returns, c.discount)
        self._replay = ChoiceReplay(
            c.capacity,
            c.environments,
            network.inputs,
            heads=len(network.heads),
            priority=c.priority,
            device=dqn.device,
        )

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return min(1.0, self._begun / (self.total_updates * self._steps_each * self.coefficients.environments))

    def _parts(self) -> Mapping[str, Part]:
        return {
            "replay": self._replay,
            "returns": self._returns,
            "agent": self.dqn,
            "environment": self.environment,
        }

    def _round(self) -> tuple[list[Tensor], Sequence[Figures]]:
        c = self.coefficients
        rewards: list[Tensor] = []
        figures = Figures(self.dqn.figures, [])
        for _ in range(self._steps_each):
            rewards.append(self._step())
            for _ in range(due_steps(c, self._begun, self.gradient_steps) if self._replay.size else 0):
                self.gradient_steps += 1
                figures.rows.append(self._gradient_step().clone())
        return rewards, (figures,)

    def _gradient_step(self) -> Tensor:
        c, dqn, number = self.coefficients, self.dqn, self.dqn.updates + 1
        importance = c.importance + (1.0 - c.importance) * self.progress
        batch = self._replay.sample(c.batch, self._generator, importance)
        assert batch.places is not None
        if self._record:
            static_batch = self._batch = in_place_of(self._batch, batch)
            figures, errors = self._launch(number % c.target_every, lambda: dqn.update(static_batch))
            dqn.updates = number  # a replayed graph does not run Python code
        else:
            figures, errors = dqn.update(batch)
        self._replay.reprioritise(batch.places, errors)
        return figures

    @torch.no_grad()
    def _step(self) -> Tensor:
        """Step all environments into the replay. Returns the mean reward, (); NaN where a number was not finite."""
        c = self.coefficients
        epsilon = epsilon_at(c, self.progress) if self._begun >= c.learning_starts else 1.0
        if self._record:
            self._epsilon.fill_(epsilon)
            step, reward = copy.deepcopy(self._launch("step", lambda: self._moved(self._epsilon), self.environment))
        else:
            step, reward = self._moved(epsilon)
        self._count(step.observations)
        choices = self._returns.add(step)
        if choices is not None:
            self._replay.add(choices)
        return reward

    def _moved(self, epsilon: float | Tensor) -> tuple[OneStep, Tensor]:
        """Step with this share of uniform actions; return the step and its mean reward before scaling."""
        c, network = self.coefficients, self.dqn.network
        observations = network.prepare(self.environment.observe())
        labels = labels_of(self.environment, len(network.heads), observations)
        actions = explore(self.dqn.values(observations), epsilon, self._generator)
        step = self.environment.step(actions)
        next_observations = following(self.environment, network.prepare, step)
        ended = step.terminals if step.truncated is None else step.terminals | step.truncated
        goes_on = (~step.terminals).to(observations.dtype)
        one_step = OneStep(
            observations, actions, step.rewards * c.reward_scale, next_observations, goes_on, ended, labels
        )
        return one_step, step.rewards.mean() + (0.0 * next_observations).sum()
