"""Adam and AdamW as PyTorch computes them, without an import of its compiler.

PyTorch marks some methods of an optimiser as not to be compiled, and the first call of any of them imports the whole
compiler: a second of every process that trains, and its memory. Nothing here is compiled, so these call what is marked.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


def _unmarked(method: Any) -> Any:
    return inspect.unwrap(method)


class _Unmarked(torch.optim.Optimizer):
    """An optimiser's methods without the mark."""

    add_param_group = _unmarked(torch.optim.Optimizer.add_param_group)
    zero_grad = _unmarked(torch.optim.Optimizer.zero_grad)
    state_dict = _unmarked(torch.optim.Optimizer.state_dict)
    load_state_dict = _unmarked(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(_unmarked(torch.optim.Adam.step))


class Adam(_Unmarked, torch.optim.Adam):
    """`torch.optim.Adam`."""


class AdamW(_Unmarked, torch.optim.AdamW):
    """`torch.optim.AdamW`."""
