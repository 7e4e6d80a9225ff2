"""The options `--precision` and `--device` of training and search."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any

from training.rl.coefficients import PRECISIONS
from training.rl.kernels import fast_precision

AUTO = "auto"
_NAMES = (*PRECISIONS, AUTO)


def add_computing(command: Any) -> None:
    """Add the options to a parser, or to one of its groups. The value of `auto` is the precision that it stands for."""
    precision = "of matrix products; auto: the faster one of this CPU (%(default)s)"
    names = "|".join(_NAMES)
    command.add_argument("--precision", type=_precision, default=PRECISIONS[0], metavar=names, help=precision)
    command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")


def _precision(text: str) -> str:
    if text not in _NAMES:
        raise ArgumentTypeError(f"{text!r}: expected one of {', '.join(_NAMES)}")
    return fast_precision() if text == AUTO else text
