"""Settings of a forecaster's training, and its progress reports."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from training.rl.coefficients import PRECISIONS


class MemberRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a member is trained. The rows of an epoch are those of every `stride`-th session, in turns.

    Overlapping labels carry nearly the same information, so a stride of about their horizon loses little. Each epoch
    begins one session later than the one before: `stride` epochs see all rows.
    """

    epochs: int = 30  # at most
    batch: int = 512
    learning_rate: float = 1e-3  # of Adam
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    patience: int = 5  # epochs without a better validation log loss after which it stops; 0: never
    least_steps: int = 200  # least gradient steps before an early stop
    stride: int = 5  # sessions
    precision: str = "float32"  # or "bf16" for products; weights, cells, moments and all scores stay float32

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "stride", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: expected more than 0")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}: expected one of {', '.join(PRECISIONS)}")


class Epoch(msgspec.Struct, frozen=True):
    """One epoch of the training curve."""

    epoch: int  # from 1
    train_loss: float  # mean cross-entropy with the classes' weights, nats
    log_loss: float  # on validation, without weights, nats
    accuracy: float  # on validation
    best: bool


@dataclass(frozen=True, slots=True)
class MemberProgress:
    """How far a member is: after every batch, and with `epoch` after a look at the validation rows."""

    batches: int  # done, of all epochs
    total: int  # without early stopping
    seconds_left: float  # at most, at the pace so far
    epoch: Epoch | None = None


class MemberDiverged(ArithmeticError):
    """A loss or a gradient was not finite. The text names epoch, batch and cure."""
