"""What tests of recurrent layers compare: outputs and gradients. Nothing here computes an expected value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_of(run: Callable[[], Tensor], inputs: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of its weighted sum by each of the inputs."""
    output = run()
    return output.detach(), list(torch.autograd.grad((output * weight).sum(), inputs))


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Assert that each of ours is theirs, to a part of its greatest value, or of one where that is less."""
    for mine, other in zip(ours, theirs, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert float((mine - other).abs().max()) <= tolerance * scale


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
