"""The exact products of the recurrent layers' tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """The comparisons are about the layer, not about who multiplies."""
    backends: Any = torch.backends  # torch adds its switches at run time, unseen by type checkers
    switch = backends.mkldnn.matmul
    before, switch.fp32_precision = switch.fp32_precision, "ieee"
    yield
    switch.fp32_precision = before
