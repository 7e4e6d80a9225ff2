"""What DQN and PQN are asked for.

Sources, by number in the comments of this folder: [1] Mnih et al. 2015, "Human-level control through deep reinforcement
learning"; [2] van Hasselt et al. 2015, "Deep Reinforcement Learning with Double Q-learning" (1509.06461); [3] Wang et
al. 2015, "Dueling Network Architectures" (1511.06581); [4] Schaul et al. 2015, "Prioritized Experience Replay"
(1511.05952); [5] Hessel et al. 2017, "Rainbow" (1710.02298); [6] Kumar et al. 2020, "Conservative Q-Learning"
(2006.04779); [7] Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning" (2407.04811), PQN;
[8] Stable-Baselines3, `DQN`; [9] Ba et al. 2016, "Layer Normalization" (1607.06450).
"""

from __future__ import annotations

from dataclasses import dataclass

from training.rl.coefficients import PRECISIONS, SCHEDULES


@dataclass(frozen=True, slots=True)
class DqnCoefficients:
    """Defaults are those of [8]. A transition is one step of one environment, or one experience of a stream."""

    learning_rate: float = 1e-4
    schedule: str = "constant"  # "linear" or "cosine" to 0 over the run
    discount: float = 0.99
    environments: int = 1
    batch: int = 32  # transitions of a gradient step
    gradient_steps: int = 1  # due for every `per_transitions`
    per_transitions: int = 4
    round_transitions: int = 1024  # of one `update`, rounded up to whole steps of all environments
    learning_starts: int = 100  # transitions before the first gradient step, with uniform actions
    capacity: int = 1_000_000  # transitions of the replay
    smoothing: float = 1.0  # share of the weights that the target takes over at once
    target_every: int = 2500  # gradient steps between two updates of the target; [8] has 10,000 transitions
    max_grad_norm: float | None = 10.0
    reward_scale: float = 1.0  # factor on rewards, so that they are about 1
    widths: tuple[int, ...] = (64, 64)
    normalised: bool = False  # layer normalisation [9] before each activation
    double: bool = False  # the network chooses the next action, its target values it: [2]
    dueling: bool = False  # value and advantages in two streams: [3]
    returns: int = 1  # rewards that are summed before the value of what follows: n-step, [5]
    priority: float = 0.0  # alpha of [4]; 0 draws uniformly
    importance: float = 0.4  # beta of [4] at the start, 1 at the end of the run
    epsilon_start: float = 1.0  # share of uniform actions
    epsilon: float = 0.05
    epsilon_share: float = 0.1  # of the run, in which the first falls to the second
    conservative: float = 0.0  # weight of the term of [6]
    champion: float = 0.0  # weight of the excess of the champion divergence over `champion_bound`
    champion_bound: float = 0.1  # nats, mean over a batch
    champion_temperature: float = 1.0  # temperature of the softmax over scaled Q values for that divergence
    heads: float = 1.0  # weight of the further heads' losses


@dataclass(frozen=True, slots=True)
class PqnCoefficients:
    """Defaults are those of [7] for small tasks, with the discount of [8]."""

    learning_rate: float = 1e-3
    schedule: str = "linear"  # to 0 over the run
    discount: float = 0.99
    trace: float = 0.65  # lambda
    environments: int = 128
    rollout_steps: int = 32  # of each environment
    epochs: int = 2
    batch: int = 1024  # transitions of a gradient step
    max_grad_norm: float | None = 10.0
    reward_scale: float = 1.0
    widths: tuple[int, ...] = (128, 128)
    normalised: bool = True
    dueling: bool = False
    epsilon_start: float = 1.0
    epsilon: float = 0.05
    epsilon_share: float = 0.2
    heads: float = 1.0


def check_dqn(c: DqnCoefficients, precision: str) -> None:
    """Raise `ValueError` where coefficients do not fit each other; the text names key, value and what is expected."""
    _check_common(c, precision)
    whole = ("gradient_steps", "per_transitions", "round_transitions", "target_every", "returns")
    _at_least_one(c, whole)
    if c.capacity < c.environments:
        raise ValueError(f"capacity is {c.capacity}: expected at least one transition of each environment")
    for name in ("priority", "importance", "smoothing"):
        if not 0.0 <= getattr(c, name) <= 1.0:
            raise ValueError(f"{name} is {getattr(c, name)}: expected 0 to 1")


def check_pqn(c: PqnCoefficients, precision: str) -> None:
    """See `check_dqn`."""
    _check_common(c, precision)
    _at_least_one(c, ("rollout_steps", "epochs"))
    if c.rollout_steps * c.environments % c.batch:
        raise ValueError(
            f"batch is {c.batch}: expected a divisor of rollout_steps x environments, "
            f"{c.rollout_steps * c.environments}"
        )
    if not 0.0 <= c.trace <= 1.0:
        raise ValueError(f"trace is {c.trace}: expected 0 to 1")


def epsilon_at(c: DqnCoefficients | PqnCoefficients, share: float) -> float:
    """The share of uniform actions after `share` of a run: linear, then constant."""
    if share >= c.epsilon_share:
        return c.epsilon
    return c.epsilon_start + (c.epsilon - c.epsilon_start) * share / c.epsilon_share


def _check_common(c: DqnCoefficients | PqnCoefficients, precision: str) -> None:
    if c.schedule not in SCHEDULES:
        raise ValueError(f"schedule is {c.schedule!r}: expected one of {', '.join(SCHEDULES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}")
    _at_least_one(c, ("environments", "batch"))
    if not c.widths:
        raise ValueError("widths is (): expected the width of one hidden layer at least")
    if not 0.0 <= c.epsilon <= c.epsilon_start <= 1.0:
        raise ValueError(
            f"epsilon is {c.epsilon} and epsilon_start {c.epsilon_start}: expected 0 <= epsilon <= epsilon_start <= 1"
        )


def _at_least_one(c: DqnCoefficients | PqnCoefficients, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(c, name) < 1:
            raise ValueError(f"{name} is {getattr(c, name)}: expected at least 1")
