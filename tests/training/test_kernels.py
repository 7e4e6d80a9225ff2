"""The faster products are still float32 products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from training.kernels import use_fast_float32

MKLDNN: Any = torch.backends.mkldnn


@pytest.fixture(autouse=True)
def _products_as_before() -> Iterator[None]:
    before = MKLDNN.matmul.fp32_precision
    yield
    MKLDNN.matmul.fp32_precision = before


def test_products_keep_the_digits_of_float32_whichever_library_is_chosen() -> None:
    assert use_fast_float32() in {"oneDNN", "MKL", "the default"}
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(300, 460, generator=generator), torch.randn(460, 200, generator=generator)
    exact = left.double() @ right.double()
    # 460 products of numbers about 1, each rounded to 24 bits: an error bound of 460 x 2^-24 x (sum of |products|)
    bound = 460 * 2.0**-24 * (left.double().abs() @ right.double().abs())
    assert bool(((left @ right).double() - exact).abs().le(bound).all())
    assert float(((left @ right).double() - exact).abs().max()) < 1e-3  # bfloat16 would err by about 0.1


def test_a_product_that_lost_digits_is_noticed_and_the_switch_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:  # what AMX does with the switch on
        return left.bfloat16().float() @ right.bfloat16().float().T

    monkeypatch.setattr(torch.nn.functional, "linear", rounded)
    assert use_fast_float32() != "oneDNN"
    assert MKLDNN.matmul.fp32_precision == "ieee"
