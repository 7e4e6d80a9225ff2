"""CPU settings that make training faster with equal results: the matrix library and the memory allocator.

A way to multiply is chosen by measuring its rounding, never by a processor's name.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

_BACKENDS: Any = torch.backends  # torch adds its switches at run time, unseen by type checkers
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_TERMS, _SLOWER = 512, 1.2
_TRIES = 20  # repetitions; the fastest counts, in processor seconds, because other processes take time too
SMALL_PRODUCT = 2**24  # multiplications, such as those of 256 rows and a layer from 256 numbers to 256
_FLOAT32_ERROR = 1e-5
"""Largest error of float32 in a mean of 512 products of numbers near 1: float32 has 1e-7, bfloat16 1e-3."""


def use_fast_float32() -> str:
    """Route float32 products to oneDNN where they stay float32 (process-wide); returns what is in use.

    The default is MKL, which takes its AVX2 path on processors that are not Intel's. The switch that selects oneDNN
    also allows it bfloat16, which it uses on hardware that multiplies such matrices (AMX), but not with AVX-512 alone.
    So the function measures a product's error and resets the switch where digits were lost.
    """
    if not _BACKENDS.mkldnn.is_available():
        return "MKL" if _BACKENDS.mkl.is_available() else "the default"
    _BACKENDS.mkldnn.matmul.fp32_precision = "bf16"
    if _error() > _FLOAT32_ERROR:
        _BACKENDS.mkldnn.matmul.fp32_precision = "ieee"
        return "MKL" if _BACKENDS.mkl.is_available() else "the default"
    return "oneDNN"


def fast_precision() -> str:
    """The precision whose products are fastest here: "bf16" where the CPU multiplies bfloat16, else "float32".

    It depends on the CPU alone, so a run resumed on another machine with the same kind of CPU uses the same.
    ATEN_CPU_CAPABILITY is respected: it can exclude AVX-512.
    """
    capabilities = torch.cpu.get_capabilities()
    multiplies = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16" if multiplies and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT") else "float32"


def how_computed(precision: str, device: str) -> str:
    """Choose the fastest matrix products (process-wide); return a description for a run's first lines."""
    if device != "cpu":
        return f"computes in {precision} on {device}"
    kind = torch.backends.cpu.get_cpu_capability()
    return f"computes in {precision} on this CPU ({kind}), products in float32 by {use_fast_float32()}"


def bf16_cost() -> float:
    """Measure the time of a layer in bfloat16 as a multiple of its time in float32 on this machine.

    A CPU that does not multiply bfloat16 emulates it, and takes several times as long.
    """
    layer, rows, threads = torch.nn.Linear(_TERMS, _TERMS), torch.randn(_TERMS, _TERMS), torch.get_num_threads()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    torch.set_num_threads(1)  # with several threads their waiting would count
    try:
        for _ in range(_TRIES):
            for bf16, durations in seconds.items():
                began = time.thread_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    layer(rows)
                durations.append(time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return min(seconds[True]) / min(seconds[False])


def slow_products(precision: str, device: str) -> str:
    """Return a warning where bfloat16 was asked for and takes longer than float32 on this CPU; "" otherwise."""
    if precision != "bf16" or device != "cpu" or (cost := bf16_cost()) <= _SLOWER:
        return ""
    return (
        f"bf16 takes {cost:.1f} times as long as float32 on this CPU, which does not multiply bfloat16: leave "
        f"--precision out"
    )


@contextmanager
def plain_float32() -> Iterator[None]:
    """Within the context, use torch's default float32 products, for answers that other machines must reproduce."""
    switch = _BACKENDS.mkldnn.matmul
    precision_before = switch.fp32_precision
    switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = precision_before


def products_of(multiplications: int) -> AbstractContextManager[None]:
    """Use the library that is faster where the largest product of a gradient step has so many multiplications.

    A call of oneDNN takes 15 microseconds before it multiplies, a call of MKL two. So products below `SMALL_PRODUCT`
    stay torch's default, also after `use_fast_float32`. Measured by whole updates of SAC and DQN on an AMD EPYC.
    """
    return plain_float32() if multiplications < SMALL_PRODUCT else nullcontext()


def _error() -> float:
    """The largest error of a mean of products against float64: the forward pass and both backward products."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_TERMS, _TERMS, generator=generator) for _ in range(2))
    exact = left.double() @ right.double().T
    straight = torch.nn.functional.linear(left, right)
    turned = left.T.contiguous().T @ right.T
    return float(max((product.double() - exact).abs().max() for product in (straight, turned))) / _TERMS


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory for the next tensor (process-wide); False where it has no such setting.

    A minibatch's tensors are megabytes each. By default such blocks go back to the kernel when freed, and every page is
    faulted in again at the next minibatch: 100,000 faults in one update of `Coefficients()`, a fifth of its time.
    Source: mallopt(3), M_MMAP_THRESHOLD (at most 32 MiB) and M_TRIM_THRESHOLD.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, 32 << 20) == 1 == mallopt(_M_TRIM_THRESHOLD, 1 << 30)
