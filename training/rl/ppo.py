"""Proximal Policy Optimisation in one file: rollout, advantages, clipped loss, update; with or without a carried state.

Actions are choices or, where the network has a parameter `log_std`, real numbers. Knows no market: an environment is
whatever observes and steps. On a CPU the same seed gives the same weights, byte for byte, also when a run was stopped
at any update and continued from `Trainer.state_dict`.

Sources, by number in the comments: [1] Schulman et al. 2017, "Proximal Policy Optimization Algorithms";
[2] Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation";
[3] Huang et al. 2022, "The 37 Implementation Details of Proximal Policy Optimization", core details 1-13 and LSTM
details L1-L5; [4] Stable-Baselines3, `PPO`; [5] sb3-contrib, `RecurrentPPO`; [6] Kapturowski et al. 2019, "Recurrent
Experience Replay in Distributed Reinforcement Learning" (R2D2), section 3: stored states.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.rl.coefficients import FIGURES, Coefficients, NotFiniteError, Progress, check_coefficients, rate_at
from training.rl.dimensions import whole_rollouts
from training.rl.distributions import evaluate, log_deviations, room_for_actions, sample, within_bounds
from training.rl.graphs import Recorded, replayable
from training.rl.kernels import keep_freed_memory
from training.rl.layers import Adam, averaged
from training.rl.protocols import Batch, CarryingNetwork, Environment, Network, Step


def generalized_advantages(
    rewards: Tensor, values: Tensor, ends: Tensor, last_values: Tensor, *, discount: float, gae_lambda: float
) -> Tensor:
    """Advantages by [2], equation 16: A_t = d_t + (discount x lambda) A_{t+1}, d_t = r_t + discount V_{t+1} - V_t.

    Args:
        rewards, values: float32 (steps, environments), or (steps, environments, actions) where each action has its own.
        ends: bool (steps, environments), true where the step ended its episode, so nothing follows it (the value after
            a time limit is part of its reward).
        last_values: float32 (environments,) or (environments, actions), the critic's value after the last step.
    """
    goes_on = (~ends).to(rewards.dtype)
    if rewards.dim() > ends.dim():
        goes_on = goes_on.unsqueeze(-1)
    following = torch.cat([values[1:], last_values.unsqueeze(0)])
    result = torch.addcmul(rewards - values, following, goes_on, value=discount)  # d_t
    decay = goes_on * (discount * gae_lambda)
    for index in range(rewards.shape[0] - 2, -1, -1):
        result[index].addcmul_(decay[index], result[index + 1])
    return result


def minibatch(rollout: Batch, chosen: Tensor, environments: int, length: int) -> Batch:
    """The transitions of the segments `chosen`, int64 (segments,); a segment is `length` steps of one environment."""
    within = torch.arange(length, device=chosen.device).unsqueeze(1) * environments
    first = chosen + chosen // environments * ((length - 1) * environments)  # row of a segment's first step
    rows = (first + within).flatten()
    return Batch(
        rollout.observations.index_select(0, rows),
        rollout.actions.index_select(0, rows),
        rollout.log_probabilities.index_select(0, rows),
        rollout.advantages.index_select(0, rows),
        rollout.returns.index_select(0, rows),
        rollout.values.index_select(0, rows),
        None if rollout.hidden is None else rollout.hidden.index_select(0, chosen),
        None if rollout.starts is None else rollout.starts.index_select(0, rows),
    )


def losses(
    network: Network | CarryingNetwork, batch: Batch, coefficients: Coefficients, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """The loss to descend and its figures, float32 (6,): the first six of `FIGURES`.

    Policy loss: the clipped surrogate of [1], equation 7, for each action where each has its own advantage. Value
    error: the mean square, with `value_clip` that of the clipped value as in [4]. Loss: policy - entropy x H + value x
    error, [1], equation 9. The network runs in `precision`, the rest in float32.
    """
    c = coefficients
    with _autocast(batch.observations.device, precision):
        outputs, values = _evaluate(network, batch)
    values = values.float()
    per_action = batch.log_probabilities.dim() > 1
    log_taken, entropy = evaluate(outputs.float(), log_deviations(network), batch.actions, per_action=per_action)
    log_ratio = log_taken - batch.log_probabilities
    ratio = log_ratio.exp()
    advantages = batch.advantages
    if c.normalize_advantage and advantages.shape[0] > 1:  # per minibatch, sample deviation: [3] detail 7, [4]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratio.clamp(1.0 - c.clip, 1.0 + c.clip)
    policy_loss = -torch.minimum(advantages * ratio, advantages * clipped).mean()
    if c.value_clip is not None:
        values = batch.values + (values - batch.values).clamp(-c.value_clip, c.value_clip)
    value_loss = (batch.returns - values).square().mean()
    loss = policy_loss - c.entropy * entropy + c.value * value_loss
    with torch.no_grad():
        kl = ((ratio - 1.0) - log_ratio).mean()
        clip_fraction = ((ratio - 1.0).abs() > c.clip).float().mean()
        figures = torch.stack([policy_loss, value_loss, entropy, kl, clip_fraction, loss])
    return loss, figures


def actions_judged(network: object) -> tuple[int, ...]:
    """(actions,) for a network whose critic values each action on its own (`Network.each`); else ().

    Raises:
        TypeError: `each` is true and there is no `log_std`: a discrete choice is a single action.
    """
    if not getattr(network, "each", False):
        return ()
    log_std = log_deviations(network)
    if log_std is None:
        raise TypeError("the network judges each of its numbers and has no log_std: give it one, or each = False")
    return (log_std.shape[0],)


def make_deterministic() -> None:
    """Make runs repeatable (process-wide): one thread, and fix torch's choice of algorithms."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # `torch.use_deterministic_algorithms` would import the compiler: 1.2 s
    switches: Any = torch.utils.deterministic
    switches.fill_uninitialized_memory = False  # nothing here reads uninitialised memory


class _Moved(NamedTuple):
    """A step of all environments, as a rollout keeps it."""

    prepared: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor


class Trainer:
    """Trains `network` in place, one `update` at a time."""

    def __init__(
        self,
        network: Network | CarryingNetwork,
        environment: Environment,
        coefficients: Coefficients,
        *,
        total_steps: int,
        seed: int,
        precision: str = "float32",
        average: Callable[[Sequence[Tensor]], None] | None = None,
        device: torch.device | str = "cpu",
        record: bool = True,
    ) -> None:
        """Prepare to train for at least `total_steps` transitions (whole rollouts).

        Args:
            network: an `nn.Module`; it is moved to `device`.
            environment: `coefficients.environments` of them, whose tensors are on `device`.
            seed: of this trainer's own generator, from which actions and minibatches are drawn.
            precision: "float32", or "bf16" for the network's products; weights, losses and moments stay float32.
            average: for several processes with equal weights and a share of the environments each: replaces all
                tensors it is given (the gradients of a minibatch, then its figures, so that all processes stop at the
                same KL or the same loss that is not finite) in place by their means over the processes. Each process
                normalises the advantages of its own minibatches.
            record: on a GPU a step of all environments and a minibatch's gradient step are CUDA graphs, where
                environment and coefficients allow it; False launches every kernel by itself, with the same numbers.

        Raises:
            ValueError: coefficients that do not fit each other or the network.
            TypeError: the network is not an `nn.Module`.
        """
        if not isinstance(network, nn.Module):
            raise TypeError(f"the network is a {type(network).__name__}, expected an nn.Module")
        self.network = network.to(device)
        self.environment = environment
        self.coefficients = c = coefficients
        self.updates = 0
        self.gradient_steps = 0
        self.total_updates = whole_rollouts(total_steps, c.rollout)
        self._carrying = network if isinstance(network, CarryingNetwork) else None
        self._judged = actions_judged(network)
        self._sequence = c.sequence if self._carrying else 1
        check_coefficients(c, self._sequence, precision)
        self._device = torch.device(device)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._precision = precision
        self._average = average
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._record = record and self._device.type == "cuda"
        rate = torch.tensor(c.learning_rate, device=self._device) if self._record else c.learning_rate
        self._rate = rate  # a recorded step reads it from a tensor
        self._optimizer = Adam(self._parameters, lr=rate, eps=c.adam_epsilon, fused=True, capturable=self._record)
        self._broken = torch.zeros((), device=self._device)  # 1 once a figure of this update was not finite
        self._starts = torch.ones(c.environments, dtype=torch.bool, device=self._device)
        self._hidden = self._carrying.start(c.environments).to(self._device) if self._carrying else None
        self._rollout: Batch | None = None
        self._chosen = torch.zeros(c.batch // self._sequence, dtype=torch.int64, device=self._device)
        self._averaged = None if c.weight_average is None else averaged(self.network, c.weight_average)
        self._begin_recordings()

    def _begin_recordings(self) -> None:
        """Prepare the CUDA graphs; each is recorded after a few calls."""
        self._move: Callable[[], _Moved] = self._moved
        self._recorded_step: Recorded[Tensor] | None = None
        if self._record:
            owners, generators = (self, self.environment), (self._generator,)
            if replayable(self.environment):
                self._move = Recorded(self._moved, self._device, owners=owners, generators=generators)
            if self.coefficients.target_kl is None and self._average is None:  # `target_kl` needs the KL on the host
                self._recorded_step = Recorded(self._whole_step, self._device)

    @property
    def answering(self) -> nn.Module:
        """The network to play and to save: the learning one, or the running mean of its weights."""
        network: nn.Module = self.network if self._averaged is None else self._averaged.module
        return network

    @property
    def steps(self) -> int:
        """Transitions seen so far, by this process."""
        return self.updates * self.coefficients.rollout

    @property
    def done(self) -> bool:
        """Whether all updates are done."""
        return self.updates >= self.total_updates

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return rate_at(self.coefficients.learning_rate, self.coefficients.schedule, self.updates / self.total_updates)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next updates depend on: tensors and plain values."""
        state = {
            "updates": self.updates,
            "gradient_steps": self.gradient_steps,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "environment": self.environment.state_dict(),
            "starts": self._starts,
            "hidden": self._hidden,
            "averaged": None if self._averaged is None else self._averaged.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, made by a trainer with the same network, environments and coefficients.

        Raises:
            ValueError: it has another number of environments, or only one of the two networks carries a state.
        """
        state = copy.deepcopy(state)
        environments, expected = state["starts"].shape[0], self._starts.shape[0]
        if environments != expected or (state["hidden"] is None) != (self._hidden is None):
            raise ValueError(
                f"the state is of {environments} environments with{'out' if state['hidden'] is None else ''} a "
                "carried state, "
                f"expected {expected} with{'out' if self._hidden is None else ''}: use the settings it was made with"
            )
        self.updates, self.gradient_steps = state["updates"], state["gradient_steps"]
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())
        self.environment.load_state_dict(state["environment"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])
        self._starts = state["starts"].to(self._device)
        self._hidden = None if state["hidden"] is None else state["hidden"].to(self._device)
        self._begin_recordings()  # recorded graphs refer to the old tensors

    def update(self) -> Progress:
        """Collect one rollout and train on it for all epochs.

        Raises:
            NotFiniteError: a loss or a gradient norm was not finite; no step was taken from that minibatch on.
        """
        rate = self.learning_rate
        self._optimizer.param_groups[0]["lr"] = self._rate.fill_(rate) if isinstance(self._rate, Tensor) else rate
        rollout, of_rollout = self._collect()
        figures, epochs = self._improve(rollout)
        reward, explained, *flat = torch.cat([of_rollout, figures.flatten()]).tolist()  # the one wait for the device
        rows = [flat[first : first + len(FIGURES)] for first in range(0, len(flat), len(FIGURES))]
        for minibatch, row in enumerate(rows):
            for what, value in zip(FIGURES, row, strict=True):
                if not math.isfinite(value):
                    raise NotFiniteError(self.updates, minibatch, what, value)
        policy_loss, value_loss, entropy, kl, clip_fraction, _, norm = (
            math.fsum(column) / len(rows) for column in zip(*rows, strict=True)
        )
        self.updates += 1
        self.gradient_steps += len(rows)
        of_policy = (policy_loss, value_loss, entropy, kl, clip_fraction)
        return Progress(self.steps, self.updates, reward, *of_policy, explained, norm, rate, epochs)

    @torch.no_grad()
    def _collect(self) -> tuple[Batch, Tensor]:
        """Collect one rollout. Returns it, and float32 (2,): mean reward of a step, the critic's explained variance."""
        c = self.coefficients
        shape = (c.rollout_steps, c.environments)
        rewards, values = torch.empty((2, *shape, *self._judged), device=self._device)
        ends = torch.empty(shape, dtype=torch.bool, device=self._device)
        rollout = self._storage()
        for index in range(c.rollout_steps):
            now = slice(index * c.environments, (index + 1) * c.environments)
            if rollout.hidden is not None and rollout.starts is not None and self._hidden is not None:
                rollout.starts[now] = self._starts
                if index % self._sequence == 0:
                    segments = index // self._sequence * c.environments
                    rollout.hidden[segments : segments + c.environments] = self._hidden
            moved = self._move()
            rollout.observations[now], rollout.actions[now] = moved.prepared, moved.actions
            rollout.log_probabilities[now], values[index] = moved.log_probabilities, moved.values
            rewards[index], ends[index] = moved.rewards, moved.ends
        prepared = self._prepare(self.environment.observe())
        last_values = self._forward(prepared, self._hidden)[1]
        advantages = generalized_advantages(
            rewards, values, ends, last_values, discount=c.discount, gae_lambda=c.gae_lambda
        )
        rollout.advantages.copy_(advantages.flatten(0, 1))
        rollout.values.copy_(values.flatten(0, 1))
        torch.add(rollout.advantages, rollout.values, out=rollout.returns)  # the TD(lambda) target: [3] detail 5, [4]
        unexplained = advantages.var() / rollout.returns.var().clamp_min(1e-12)
        return rollout, torch.stack([rewards.mean(), 1.0 - unexplained])

    @torch.no_grad()
    def _moved(self) -> _Moved:
        """Step all environments once."""
        prepared = self._prepare(self.environment.observe())
        outputs, values, following = self._forward(prepared, self._hidden)
        judged = bool(self._judged)
        actions, log_probabilities = sample(outputs, log_deviations(self.network), self._generator, per_action=judged)
        step = self.environment.step(within_bounds(actions))
        rewards, ends = self._rewards(step, following)
        self._starts = ends.clone()
        if following is not None:  # an episode begins from the zero state
            self._hidden = torch.where(ends.view(-1, *(1,) * (following.dim() - 1)), 0.0, following)
        return _Moved(prepared, actions, log_probabilities, values, rewards, ends)

    def _prepare(self, observations: Tensor) -> Tensor:
        """Prepared observations, in the type of the matrix products."""
        prepared: Tensor = self.network.prepare(observations)
        return prepared.bfloat16() if self._precision == "bf16" and prepared.is_floating_point() else prepared

    def _forward(self, prepared: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits or means, and values, in float32, and the next hidden state."""
        with _autocast(self._device, self._precision):
            if hidden is None:
                outputs, values = self.network(prepared)
                return outputs.float(), values.float(), None
            outputs, values, following = self.network(prepared, hidden)
            return outputs.float(), values.float(), following.float()

    def _rewards(self, step: Step, following: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rewards, with bootstrapped values at time limits ([4] `collect_rollouts`), and where episodes ended."""
        if step.truncated is None:
            return step.rewards, step.terminals
        ends = step.terminals | step.truncated
        if self._device.type == "cpu" and not bool(step.truncated.any()):  # elsewhere looking would wait for the device
            return step.rewards, ends
        if step.last is None:
            raise ValueError("a step has `truncated` without `last`: return the observations before the reset as well")
        values = self._forward(self._prepare(step.last), following)[1]
        cut = step.truncated & ~step.terminals
        if self._judged:
            cut = cut.unsqueeze(-1)
        return step.rewards + torch.where(cut, self.coefficients.discount * values, 0.0), ends

    def _storage(self) -> Batch:
        """The tensors of one rollout, allocated once; rows are in order of time."""
        if self._rollout is None:
            prepared, count = self._prepare(self.environment.observe()), self.coefficients.environments
            if prepared.shape[0] != count:
                raise ValueError(
                    f"{prepared.shape[0]} environments are observed: expected coefficients.environments, {count}"
                )
            rows = count * self.coefficients.rollout_steps
            room, hidden = torch.empty((4, rows, *self._judged), device=self._device), self._hidden
            self._rollout = Batch(
                prepared.new_empty((rows, *prepared.shape[1:])),
                room_for_actions(rows, log_deviations(self.network), self._device),
                room[0],
                room[1],
                room[2],
                room[3],
                None if hidden is None else hidden.new_empty((rows // self._sequence, *hidden.shape[1:])),
                None if hidden is None else torch.empty(rows, dtype=torch.bool, device=self._device),
            )
        return self._rollout

    def _improve(self, rollout: Batch) -> tuple[Tensor, int]:
        """Train all epochs; return every minibatch's figures, float32 (minibatches, 7), and the epochs begun."""
        c, rows = self.coefficients, []
        self._broken.zero_()
        epoch = 0
        for epoch in range(1, c.epochs + 1):
            for chosen in self._orders():
                if self._recorded_step is not None and rollout is self._rollout and len(chosen) == len(self._chosen):
                    self._chosen.copy_(chosen)
                    rows.append(self._recorded_step().clone())
                else:
                    rows.append(self._gradients(rollout, chosen))
                    if c.target_kl is not None and float(rows[-1][3]) > 1.5 * c.target_kl:
                        return torch.stack(rows), epoch
                    self._descend(rows[-1])
                if self._averaged is not None:
                    self._averaged.update_parameters(self.network)
        return torch.stack(rows), epoch

    def _whole_step(self) -> Tensor:
        """Take the gradient step of the chosen segments; return its figures."""
        assert self._rollout is not None
        row = self._gradients(self._rollout, self._chosen)
        self._descend(row)
        return row

    def _gradients(self, rollout: Batch, chosen: Tensor) -> Tensor:
        """Compute a minibatch's clipped gradients into the parameters; return its figures, float32 (7,)."""
        c = self.coefficients
        loss, figures = losses(
            self.network, minibatch(rollout, chosen, c.environments, self._sequence), c, self._precision
        )
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if self._average is not None:
            self._average([*gradients, figures])
        norm = nn.utils.clip_grad_norm_(self._parameters, c.max_grad_norm)  # [3] detail 11
        return torch.cat([figures, norm.unsqueeze(0)])

    def _descend(self, row: Tensor) -> None:
        """Take an Adam step, unless a figure of this or an earlier minibatch of the update was not finite."""
        torch.maximum(self._broken, (~torch.isfinite(row).all()).float(), out=self._broken)
        _step_unless(self._optimizer, self._broken)

    def _orders(self) -> Iterator[Tensor]:
        """Yield one epoch's minibatches as segment places, int64 (segments,), as `minibatch` takes them; shuffled.

        A segment is one transition, or with a carried state a whole sequence ([3] detail L4, [6]).
        """
        c, length = self.coefficients, self._sequence
        segments = c.environments * c.rollout_steps // length
        order = torch.randperm(segments, generator=self._generator, device=self._device)
        yield from torch.split(order, c.batch // length)


def _evaluate(network: Network | CarryingNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits or means (rows, actions) and values (rows,)."""
    if batch.hidden is None or batch.starts is None or not isinstance(network, CarryingNetwork):
        outputs, values = network(batch.observations)  # type: ignore[operator]
        return outputs, values
    segments = batch.hidden.shape[0]
    observations = batch.observations.view(-1, segments, *batch.observations.shape[1:])
    outputs, values = network.sequence(observations, batch.hidden, batch.starts.view(-1, segments))
    return outputs.flatten(0, 1), values.flatten()


def _step_unless(optimizer: Adam, broken: Tensor) -> None:
    """Step, unless `broken` is 1: the fused kernel then skips it, as for torch's `GradScaler`, without a wait."""
    vars(optimizer)["found_inf"] = broken
    optimizer.step()


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
