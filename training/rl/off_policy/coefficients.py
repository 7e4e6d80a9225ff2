"""What SAC and TD3 are asked for and what they report.

Sources, by number in the comments of this folder: [1] Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and
Applications" (1812.05905); [2] Fujimoto et al. 2018, "Addressing Function Approximation Error in Actor-Critic Methods"
(1802.09477); [3] Stable-Baselines3, `SAC` and `TD3`; [4] FlashSAC (2604.04539): many environments, few and large
updates, normalised networks; [5] Ba et al. 2016, "Layer Normalization" (1607.06450).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from training.rl.coefficients import PRECISIONS, SCHEDULES


@dataclass(frozen=True, slots=True)
class OffPolicyCoefficients:
    """Defaults are those of [3]'s SAC. A transition is one step of one environment."""

    learning_rate: float = 3e-4  # of actor, critics and temperature
    schedule: str = "constant"  # "linear" or "cosine" to 0 over the run
    discount: float = 0.99
    environments: int = 1
    batch: int = 256  # transitions of a gradient step
    gradient_steps: int = 1  # of the critics, due for every `per_transitions`
    per_transitions: int = 1
    round_transitions: int = 1024  # of one `Trainer.update`, rounded up to whole steps of all environments
    learning_starts: int = 100  # transitions whose actions are uniform, before the first gradient step
    capacity: int = 1_000_000  # transitions of the replay
    smoothing: float = 0.005  # tau of [2]: share of the critics' weights that the targets take over at a step
    actor_delay: int = 1  # gradient steps of the critics for each step of the actor
    max_grad_norm: float | None = None
    reward_scale: float = 1.0  # factor on rewards, so that they are about 1
    actor_widths: tuple[int, ...] = (256, 256)
    critic_widths: tuple[int, ...] = (256, 256)
    normalised: bool = False  # layer normalisation [5] before each activation
    temperature: float = 1.0  # SAC: alpha at the start
    target_entropy: float | None = None  # SAC: target entropy in nats; None: minus the number of actions, as in [1]
    exploration: float = 0.1  # TD3: standard deviation of the noise on actions
    target_noise: float = 0.2  # TD3: standard deviation of the noise on the target's actions
    target_noise_clip: float = 0.5
    saturation: float = 0.0  # TD3: weight, in the actor's loss, of the mean square of the actions before tanh

    @property
    def update_to_data(self) -> float:
        """Gradient steps for each transition."""
        return self.gradient_steps / self.per_transitions


@dataclass(frozen=True, slots=True)
class OffPolicyProgress:
    """What one update did. Figures are averaged over its gradient steps; there are none before `learning_starts`."""

    steps: int  # transitions so far, of this process
    updates: int
    gradient_steps: int  # of the critics so far
    reward: float  # mean of a transition, not scaled
    learning_rate: float
    update_to_data: float  # gradient steps for each transition so far
    figures: dict[str, float] = field(default_factory=dict)


def check_off_policy(c: OffPolicyCoefficients, precision: str) -> None:
    """Raise `ValueError` where coefficients do not fit each other; the text names key, value and what is expected."""
    if c.schedule not in SCHEDULES:
        raise ValueError(f"schedule is {c.schedule!r}: expected one of {', '.join(SCHEDULES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}")
    for name in ("environments", "batch", "gradient_steps", "per_transitions", "round_transitions", "actor_delay"):
        if getattr(c, name) < 1:
            raise ValueError(f"{name} is {getattr(c, name)}: expected at least 1")
    if c.capacity < c.environments:
        raise ValueError(f"capacity is {c.capacity}: expected at least one transition of each environment")
    for name in ("actor_widths", "critic_widths"):
        if not getattr(c, name):
            raise ValueError(f"{name} is (): expected the width of one hidden layer at least")
    if c.saturation < 0.0:
        raise ValueError(f"saturation is {c.saturation}: expected at least 0")
    if c.temperature <= 0.0:
        raise ValueError(f"temperature is {c.temperature}: expected more than 0")


def shared(c: OffPolicyCoefficients, processes: int) -> OffPolicyCoefficients:
    """The coefficients of one of several equal processes: its share of environments, replay and batch.

    Raises:
        ValueError: they cannot be shared equally.
    """
    names = ("environments", "batch", "per_transitions", "round_transitions")
    uneven = [f"{name} {getattr(c, name)}" for name in names if getattr(c, name) % processes]
    if uneven:
        raise ValueError(
            f"{', '.join(uneven)} cannot be shared by {processes} processes: choose a number that divides it"
        )
    parts = {name: getattr(c, name) // processes for name in names}
    return replace(c, **parts, capacity=c.capacity // processes, learning_starts=c.learning_starts // processes)
