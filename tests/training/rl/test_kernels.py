"""The faster products are still float32 products, and memory that was used once is used again."""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from training.rl import kernels
from training.rl.kernels import (
    bf16_cost,
    fast_precision,
    keep_freed_memory,
    plain_float32,
    products_of,
    use_fast_float32,
)

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_tensors_are_not_faulted_in_again() -> None:
    assert keep_freed_memory()
    rows = 2 << 20  # 8 MiB of float32: 2,048 pages
    for _ in range(100):
        torch.full((rows,), 1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        torch.full((rows,), 1.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10 * 2048  # of 100 x 2,048


def test_plain_products_are_torch_s_own_and_the_faster_ones_come_back() -> None:
    left, right = torch.randn(512, 460), torch.randn(256, 460)
    MKLDNN.matmul.fp32_precision = "ieee"
    plain = torch.nn.functional.linear(left, right)
    use_fast_float32()
    fast = torch.nn.functional.linear(left, right)
    with plain_float32():
        assert torch.equal(torch.nn.functional.linear(left, right), plain)
    assert torch.equal(torch.nn.functional.linear(left, right), fast)


def test_bfloat16_is_taken_where_linux_lists_it_among_the_cpu_s_flags() -> None:
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    assert fast_precision() == ("bf16" if flags & {"avx512_bf16", "amx_bf16"} else "float32")


def test_a_cpu_that_is_to_have_no_avx_512_is_one_and_a_run_says_what_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert fast_precision() == "float32"
    begins, library = kernels.how_computed("float32", "cpu").rsplit(" by ", 1)
    assert begins == "computes in float32 on this CPU (AVX2), products in float32"
    assert library == ("oneDNN" if MKLDNN.matmul.fp32_precision == "bf16" else "MKL")
    assert kernels.how_computed("bf16", "cuda:1") == "computes in bf16 on cuda:1"


def test_bfloat16_that_is_emulated_is_warned_of_with_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bf16_cost() > 0.0
    monkeypatch.setattr(kernels, "bf16_cost", lambda: 9.47)
    assert kernels.slow_products("bf16", "cpu") == (
        "bf16 takes 9.5 times as long as float32 on this CPU, which does not multiply bfloat16: leave --precision out"
    )
    assert kernels.slow_products("float32", "cpu") == kernels.slow_products("bf16", "cuda") == ""
    monkeypatch.setattr(kernels, "bf16_cost", lambda: 0.6)
    assert kernels.slow_products("bf16", "cpu") == ""


@pytest.mark.parametrize(("multiplications", "precision"), [(256 * 128 * 128, "ieee"), (512 * 256 * 256, "bf16")])
def test_small_products_keep_torch_s_library_while_they_are_computed(multiplications: int, precision: str) -> None:
    MKLDNN.matmul.fp32_precision = "bf16"
    with products_of(multiplications):
        assert MKLDNN.matmul.fp32_precision == precision
    assert MKLDNN.matmul.fp32_precision == "bf16"
