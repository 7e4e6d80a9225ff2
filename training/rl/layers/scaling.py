"""How a network scales what it is shown: fixed before training starts, kept as buffers of the module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

NO_LIMIT = 1e9  # of a scaled input


@dataclass(frozen=True, slots=True)
class Scaling:
    """How each input is scaled: clip((x - mean) / scale, -clip, clip)."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    clip: tuple[float, ...]

    @classmethod
    def identity(cls, width: int) -> Scaling:
        """Leaves every one of `width` inputs as it is."""
        return cls((0.0,) * width, (1.0,) * width, (NO_LIMIT,) * width)

    def keep_in(self, module: nn.Module) -> None:
        """Register the buffers `mean`, `scale` and `clip`, float32 (width,)."""
        for name, values in (("mean", self.mean), ("scale", self.scale), ("clip", self.clip)):
            module.register_buffer(name, torch.tensor(values, dtype=torch.float32))


def check_rows(rows: Tensor, what: str) -> None:
    """Raise ValueError where a scaling cannot be fitted to rows (n, width): fewer than two, or one not finite."""
    if rows.shape[0] < 2 or not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"scaling needs at least two rows of finite {what}, found {rows.shape[0]} rows of which "
            f"{int((~torch.isfinite(rows)).any(dim=1).sum())} are not finite: check the bars file"
        )
