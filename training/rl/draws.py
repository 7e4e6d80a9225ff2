"""Counter-based random numbers, the same on the CPU and on every device.

No generator state is kept: a number follows from seed, place and count. Invariant: int64 arithmetic alone until the
last step, which is exact.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64); int64 products wrap.
"""

from __future__ import annotations

from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
"""What SplitMix64 adds to its state before each number: 2^64 divided by the golden ratio."""


def uniform(seed: int, stream: int, place: Tensor, count: Tensor) -> Tensor:
    """Numbers in [0, 1), float64 (n,): the `count`-th draw at each `place`; both are int64 (n,).

    `stream`, 0 to 3, gives each use its own sequence.
    """
    offset = _as_signed((seed * 4 + stream) * GAMMA)
    bits = place * _as_signed(0xD1B54A32D192ED03) + count * _as_signed(0x8CB92BA72F3D8DD7) + offset
    numbers: Tensor = _shift_right(mixed(bits), 11).double() * 2.0**-53
    return numbers


def mixed(bits: Tensor) -> Tensor:
    """SplitMix64's output for each state, int64 (n,) with the bits of the unsigned result."""
    bits = (bits ^ _shift_right(bits, 30)) * _as_signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift_right(bits, 27)) * _as_signed(0x94D049BB133111EB)
    return bits ^ _shift_right(bits, 31)


def _as_signed(value: int) -> int:
    """The value modulo 2^64 as an int64 holds it."""
    return (value + 2**63) % 2**64 - 2**63


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Shift right without the sign."""
    shifted: Tensor = (bits >> by) & (2 ** (64 - by) - 1)
    return shifted
