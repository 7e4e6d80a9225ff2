"""The forecaster: Conv1d → Conv1d → LSTM → additive attention → HOLD, BUY, SELL; and members averaged in one module.

The module contains all that changes an answer: scaling, correction of the class weights, temperature. Its input is raw
sequences, so an exported graph needs nothing else. Sources: Bahdanau et al. 2015 (additive attention, 1409.0473);
Lakshminarayanan et al. 2017 (deep ensembles, 1612.01474); Guo et al. 2017 (temperature, 1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.forecast.labels import CLASSES
from training.forecast.risk import LARGEST, SMALLEST, UNKNOWN_LOG, Known, hold_logit
from training.rl.recurrent.lstm import Lstm

CONFIDENCES = ("calibrated", "entropy")
CLIP = 8.0  # deviations, at which a scaled feature is clipped


class Sizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Layer sizes: 360,740 parameters by default. Each convolution, without padding, shortens a sequence by 2."""

    features: int = 78
    window: int = 60  # rows of a sequence
    channels: tuple[int, int] = (32, 64)
    kernel: int = 3
    hidden: int = 256
    attention: int = 64

    def __post_init__(self) -> None:
        if self.window <= 2 * (self.kernel - 1):
            raise ValueError(
                f"the window is {self.window} rows: two kernels of {self.kernel} need at least {2 * self.kernel - 1}"
            )


@dataclass(frozen=True, slots=True)
class FeatureScaling:
    """Mean and deviation of each feature on the training rows, and how many deviations are kept."""

    mean: NDArray[np.float32]  # (features,)
    scale: NDArray[np.float32]  # (features,), above 0
    clip: float = CLIP

    @classmethod
    def of(cls, rows: NDArray[np.float32], clip: float = CLIP) -> FeatureScaling:
        """The scaling of finite rows, float32 (n, features); a feature that never changes keeps the scale 1."""
        exact = rows.astype(np.float64)
        mean, deviation = exact.mean(axis=0), exact.std(axis=0)
        moves = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6)
        return cls(mean.astype(np.float32), np.where(moves, deviation, 1.0).astype(np.float32), clip)

    @classmethod
    def none(cls, features: int) -> FeatureScaling:
        """The identity, for features that are scaled already."""
        return cls(np.zeros(features, np.float32), np.ones(features, np.float32), math.inf)


@dataclass(frozen=True, slots=True)
class Frozen:
    """Values that are fitted to training rows before training begins."""

    scaling: FeatureScaling
    weights: tuple[float, ...] = field(default=(1.0,) * len(CLASSES))  # of the classes in the loss


class ForecastNet(nn.Module):
    """One member."""

    mean: Tensor
    scale: Tensor
    clip: Tensor
    log_weights: Tensor

    def __init__(self, sizes: Sizes, frozen: Frozen, seed: int) -> None:
        """Take random weights of a generator of `seed`."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first, second = sizes.channels
        self.sizes = sizes
        self.first = nn.Conv1d(sizes.features, first, sizes.kernel)
        self.second = nn.Conv1d(first, second, sizes.kernel)
        self.lstm = Lstm(second, sizes.hidden, 1, generator)
        self.score = nn.Linear(sizes.hidden, sizes.attention)
        self.alignment = nn.Linear(sizes.attention, 1)
        self.head = nn.Linear(sizes.hidden, len(CLASSES))
        for module in (self.first, self.second, self.score, self.alignment, self.head):
            relu = isinstance(module, nn.Conv1d)
            nn.init.kaiming_uniform_(
                module.weight, nonlinearity="relu" if relu else "linear", mode="fan_in", generator=generator
            )
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        self.register_buffer("mean", torch.from_numpy(frozen.scaling.mean))
        self.register_buffer("scale", torch.from_numpy(frozen.scaling.scale))
        self.register_buffer("clip", torch.tensor(frozen.scaling.clip))
        self.register_buffer("log_weights", torch.tensor(frozen.weights).log())

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits (batch, 3) of raw sequences (batch, window, features), the newest row last.

        A loss with class weights w learns probabilities in proportion to w × p; the division by w is part of the
        module, so that softmax of the logits estimates p.
        """
        return self.balanced(self.prepare(sequences)) - self.log_weights

    def prepare(self, rows: Tensor) -> Tensor:
        """Scaled and clipped features of raw ones, (..., features)."""
        scaled = (rows - self.mean) / self.scale
        return torch.minimum(torch.maximum(scaled, -self.clip), self.clip)

    def balanced(self, prepared: Tensor) -> Tensor:
        """Logits as the weighted loss sees them, of prepared sequences (batch, window, features)."""
        features = torch.relu(self.second(torch.relu(self.first(prepared.transpose(1, 2)))))
        outputs = self.lstm.outputs(features.transpose(1, 2))
        scores = self.alignment(torch.tanh(self.score(outputs)))
        context = (torch.softmax(scores, dim=1) * outputs).sum(dim=1)
        logits: Tensor = self.head(context)
        return logits


class Forecasted(NamedTuple):
    """The forecasts of sequences."""

    probabilities: Tensor  # (batch, 3), calibrated
    confidence: Tensor  # (batch,)
    variance: Tensor  # (batch,) of log returns, per session, above 0; calibrated


class Forecaster(nn.Module):
    """A deep ensemble: raw sequences to calibrated probabilities, a confidence and a variance."""

    temperature: Tensor
    risk: Tensor

    def __init__(
        self, members: Sequence[ForecastNet], confidence: str = "calibrated", risk_columns: Sequence[int] = ()
    ) -> None:
        """Average `members`, one or more.

        Args:
            confidence: "calibrated", the probability of the predicted class; "entropy", 1 - H / ln 3.
            risk_columns: see `Known`.
        """
        super().__init__()
        if not members or confidence not in CONFIDENCES:
            raise ValueError(
                f"{len(members)} members with the confidence {confidence!r}: expected at least one member and one of "
                f"{', '.join(CONFIDENCES)}"
            )
        self.members = nn.ModuleList(members)
        self.confidence = confidence
        self.known = Known(risk_columns)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("risk", torch.tensor([UNKNOWN_LOG] + [0.0] * (self.known.width + 1)))

    def forward(self, sequences: Tensor) -> Forecasted:
        """What is forecast of raw sequences (batch, window, features)."""
        logits = self.logits(sequences)
        probabilities = torch.softmax(logits / self.temperature, dim=-1)
        variance = self.variance(self.variance_inputs(sequences, logits))
        return Forecasted(probabilities, confidence_of(probabilities, self.confidence), variance)

    def variance_inputs(self, sequences: Tensor, logits: Tensor) -> Tensor:
        """Inputs of the variance forecast, (batch, width): features of past variance and HOLD's uncalibrated logit."""
        return torch.cat([self.known(sequences), hold_logit(logits)], dim=1)

    def variance(self, inputs: Tensor) -> Tensor:
        """Variances (batch,) from their inputs, with the weights `risk`."""
        return (self.risk[0] + (inputs * self.risk[1:]).sum(dim=1)).exp().clamp(SMALLEST, LARGEST)

    def logits(self, sequences: Tensor) -> Tensor:
        """Logarithms of the members' mean probability, (batch, 3), before the temperature."""
        members = torch.stack([torch.log_softmax(member(sequences), dim=-1) for member in self.members])
        return torch.logsumexp(members, dim=0) - math.log(len(self.members))


def confidence_of(probabilities: Tensor, kind: str) -> Tensor:
    """Confidence (...,) in 0 to 1 of probabilities (..., 3)."""
    if kind == "calibrated":
        return probabilities.amax(dim=-1)
    entropy = -(probabilities * probabilities.clamp_min(1e-30).log()).sum(dim=-1)
    return (1.0 - entropy / math.log(probabilities.shape[-1])).clamp(0.0, 1.0)


def confidence_at(share: float, kind: str) -> float:
    """The confidence of a class predicted with probability `share`, the other two being equal; 0 for 0."""
    other_share = (1.0 - share) / 2.0
    return (
        float(confidence_of(torch.tensor([share, other_share, other_share], dtype=torch.float64), kind))
        if share
        else 0.0
    )
