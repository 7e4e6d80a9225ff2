"""Training of one member: settings, steps and progress. Seeded; repeatable byte for byte on a CPU, also after a stop.

A checkpoint is written after each epoch; an epoch that was broken off is done again from its beginning, with the same
batches. The weights with the least log loss on the validation rows are kept, the earliest on a tie.
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daemon.host.whole_files import write_whole
from training.forecast.network import ForecastNet
from training.forecast.panel import Windows
from training.rl.coefficients import PRECISIONS
from training.rl.kernels import keep_freed_memory
from training.rl.layers import AdamW
from training.rl.pool import Stopped


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


LOOK = 2048  # batch size without training


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows (k, 2) of session and symbol, and the class of each."""

    rows: NDArray[np.int64]
    classes: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class FittedWeights:
    """The result of a training: the weights of the best epoch."""

    weights: dict[str, Tensor]
    curve: tuple[Epoch, ...]
    known_until: int = -1  # the last session that its training saw; -1: not computed
    gradient_steps: int = 0  # gradient steps to the chosen epoch

    @property
    def chosen(self) -> Epoch:
        """The epoch whose weights these are."""
        return [epoch for epoch in self.curve if epoch.best][-1]

    def converged(self, recipe: MemberRecipe) -> bool:
        """Whether at least `patience` epochs (1 without a patience) followed the chosen one without improvement."""
        return self.curve[-1].epoch - self.chosen.epoch >= max(recipe.patience, 1)


Tell = Callable[[MemberProgress], object]


class MemberTrainer:
    """Trains `network` in place, one epoch at a time."""

    def __init__(
        self, network: ForecastNet, windows: Windows, train: Samples, validate: Samples, recipe: MemberRecipe, seed: int
    ) -> None:
        """Prepare.

        Args:
            windows: of raw features, on the device where the network is to be; a scaled copy is made.
            seed: of this trainer's own generator, which draws the order of rows.
        """
        device = windows.rows.device
        if device.type == "cpu":
            keep_freed_memory()
        self.network = network.to(device)
        self.recipe = recipe
        self.epochs = 0
        self._device = device
        self._exact = windows.mapped(self.network.prepare)
        self._windows = self._exact.cast(torch.bfloat16) if recipe.precision == "bf16" else self._exact
        self._train, self._validate = self._at(train), self._at(validate)
        self._days = torch.from_numpy(train.rows[:, 0] % recipe.stride).to(device)
        rows_kept = validate.rows[:, 0] % recipe.stride == 0
        self._look_at = torch.from_numpy(rows_kept if rows_kept.any() else np.ones_like(rows_kept)).to(device)
        self._weights = self.network.log_weights.exp()
        self._generator = torch.Generator().manual_seed(seed)
        self._parameters = list(network.parameters())
        self._optimizer = AdamW(self._parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        self._loss = nn.CrossEntropyLoss(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next epochs depend on: tensors and plain values."""
        return copy.deepcopy(
            {
                "epochs": self.epochs,
                "network": self.network.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "generator": self._generator.get_state(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, made by a trainer of the same samples and recipe."""
        state = copy.deepcopy(state)
        self.epochs = state["epochs"]
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())

    def batches(self, epoch: int) -> int:
        """How many batches an epoch has, the first being number 0."""
        count = int((self._days == epoch % self.recipe.stride).sum())
        return max(1, count // self.recipe.batch)

    @property
    def steps(self) -> int:
        """Gradient steps so far."""
        return sum(self.batches(epoch) for epoch in range(self.epochs))

    def epoch(self) -> Iterator[float]:
        """Train one epoch; yields after each batch, and at last the mean loss.

        Raises:
            NotFiniteError: the losses of the epoch, or the weights that it led to, are not finite.
        """
        losses = []
        for sequences, classes in self._shuffled():
            self._optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                logits = self.network.balanced(sequences)
            loss = self._loss(logits.float(), classes)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self._parameters, self.recipe.max_grad_norm)
            self._optimizer.step()
            losses.append(loss.detach())
            yield math.nan
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise MemberDiverged(
                f"the loss of epoch {self.epochs + 1} is {mean}, expected a finite number: look at the features, or "
                "lower learning_rate or max_grad_norm"
            )
        self.epochs += 1
        yield mean

    def look(self) -> tuple[float, float]:
        """Log loss in nats and accuracy on the validation rows of every `stride`-th session."""
        places, classes = self._validate
        places, classes = places[self._look_at], classes[self._look_at]
        logits = answers(lambda rows: self.network.balanced(rows) - self.network.log_weights, self._exact, places)
        log_loss = float(nn.functional.cross_entropy(logits.double(), classes))
        return log_loss, float((logits.argmax(dim=-1) == classes).double().mean())

    def _shuffled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch in random order; rows that do not fill a batch are skipped in this epoch."""
        places, classes = self._train
        ours = torch.nonzero(self._days == self.epochs % self.recipe.stride).squeeze(1)
        order = ours[torch.randperm(len(ours), generator=self._generator).to(self._device)]
        for batch in range(self.batches(self.epochs)):
            chosen = order[batch * self.recipe.batch : (batch + 1) * self.recipe.batch]
            yield self._windows.gather(places[chosen]), classes[chosen]

    def _at(self, samples: Samples) -> tuple[Tensor, Tensor]:
        places = self._exact.places(samples.rows)
        return places, torch.from_numpy(samples.classes.astype(np.int64)).to(self._device)


@torch.no_grad()
def answers(model: Callable[[Tensor], Tensor], windows: Windows, places: Tensor) -> Tensor:
    """The outputs of `model` for the sequences at `places`, computed in parts."""
    parts = [model(windows.gather(places[first : first + LOOK])) for first in range(0, len(places), LOOK)]
    return torch.cat(parts)


def fit(
    trainer: MemberTrainer,
    *,
    checkpoint: Path | None = None,
    identity: str = "",
    pause: Callable[[], bool] = lambda: False,
    tell: Tell = lambda _: None,
) -> FittedWeights:
    """Train to the last epoch, or until `patience` epochs brought no better validation loss, after `least_steps`.

    Args:
        checkpoint: a file to resume from if it has the same `identity`; else training begins anew.
        identity: digest of all that the weights depend on (`identity_of`).
        pause: asked after every batch; true ends the work.
        tell: called after every batch and every epoch.

    Raises:
        Stopped: `pause` was true; the checkpoint of the last whole epoch is there.
        NotFiniteError: see `MemberTrainer.epoch`.
        OSError: a checkpoint could not be written; the one before it stays.
    """
    checkpoint_state = _restore(checkpoint, identity)
    curve: list[Epoch] = []
    best: dict[str, Tensor] = {}
    if checkpoint_state is not None:
        trainer.load_state_dict(checkpoint_state["trainer"])
        best, curve = checkpoint_state["best"], msgspec.json.decode(checkpoint_state["curve"], type=list[Epoch])
    clock = _Clock(trainer, tell)
    recipe = trainer.recipe
    while trainer.epochs < recipe.epochs and not (
        trainer.steps >= recipe.least_steps and _without(curve, recipe.patience)
    ):
        loss = math.nan
        for loss in trainer.epoch():
            clock.tick(loss)
            if pause():
                raise Stopped(f"in epoch {trainer.epochs + 1}")
        log_loss, accuracy = trainer.look()
        better = log_loss < min((epoch.log_loss for epoch in curve), default=math.inf)
        curve.append(Epoch(trainer.epochs, loss, log_loss, accuracy, better))
        if better:
            best = copy.deepcopy(trainer.network.state_dict())
        if checkpoint is not None:
            state = {"identity": identity, "trainer": trainer.state_dict(), "best": best}
            _keep(checkpoint, state | {"curve": msgspec.json.encode(curve).decode()})
        clock.tell(curve[-1])
    chosen = max(epoch.epoch for epoch in curve if epoch.best)
    return FittedWeights(best, tuple(curve), gradient_steps=sum(trainer.batches(epoch) for epoch in range(chosen)))


def identity_of(trainer: MemberTrainer, windows: Windows, train: Samples, validate: Samples, seed: int) -> str:
    """A digest of all that the weights depend on: features, rows, classes, recipe, sizes, seed and first weights."""
    digest = hashlib.sha256(msgspec.json.encode((trainer.recipe, trainer.network.sizes, seed, windows.length)))
    arrays = [windows.rows.cpu().numpy(), train.rows, train.classes, validate.rows, validate.classes]
    for array in arrays + [value.cpu().numpy() for value in trainer.network.state_dict().values()]:
        digest.update(array.tobytes())
    return digest.hexdigest()


class _Clock:
    """Seconds left, by the pace of this process."""

    def __init__(self, trainer: MemberTrainer, tell: Tell) -> None:
        batches = [trainer.batches(epoch) for epoch in range(trainer.recipe.epochs)]
        self._tell = tell
        self._total = sum(batches)
        self._done = self._before = sum(batches[: trainer.epochs])
        self._began = time.monotonic()

    def tick(self, loss: float) -> None:
        """Count a batch; a finite `loss` marks the end of an epoch and is no batch."""
        if math.isnan(loss):
            self._done += 1
            self.tell()

    def tell(self, epoch: Epoch | None = None) -> None:
        """Report the progress."""
        pace = (time.monotonic() - self._began) / max(1, self._done - self._before)
        self._tell(MemberProgress(self._done, self._total, pace * (self._total - self._done), epoch))


def _without(curve: list[Epoch], patience: int) -> bool:
    """Whether the last `patience` epochs brought no improvement."""
    return 0 < patience <= len(curve) and not any(epoch.best for epoch in curve[-patience:])


def _keep(path: Path, state: dict[str, Any]) -> None:
    packed = io.BytesIO()
    torch.save(state, packed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, packed.getvalue())


def _restore(path: Path | None, identity: str) -> dict[str, Any] | None:
    """The state that is kept at `path`; None where there is none, or one of other data, code or settings."""
    if path is None or not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["identity"] == identity else None
