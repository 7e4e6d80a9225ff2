"""The loops of one GRU layer on a CPU, forward and backward through time, as one autograd function.

The input's product is taken for all steps at once, inside the loop there is one product a step, and each weight's
gradient is one product after the loop. Everything is in the type of the parameters.

Equations: Cho et al. 2014 with the reset gate after the product, as `torch.nn.GRU` has them:
r = s(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r m), m = W_hn h + b_hn, h' = n + z (h - n),
with s the sigmoid. tanh(x) = 2 s(2x) - 1, since s is seven times cheaper here than tanh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 256
"""Sequences worked on together: 64 to 512 were equally fast, beyond that the caches overflow."""
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Weights(NamedTuple):
    """A layer's parameters as the loops read them; gates r, z, n."""

    from_input: Tensor  # (inputs, 3 x hidden), its candidate doubled
    input_bias: Tensor  # (3 x hidden,), its candidate doubled
    from_before: Tensor  # (hidden, 3 x hidden)
    before_bias: Tensor  # (3 x hidden,)


class Kept(NamedTuple):
    """What the forward loop leaves for the backward one, all (steps, samples, ...)."""

    inputs: Tensor  # (..., inputs)
    before: Tensor  # (..., hidden), the state that each step began from, after resets
    gates: Tensor  # (..., 3 x hidden): r, z, m
    candidate: Tensor  # (..., hidden): n


def pack(parameters: Sequence[Tensor]) -> Weights:
    """From weight_ih, weight_hh, bias_ih, bias_hh of `torch.nn.GRU`; a power of two rounds nothing."""
    from_input, from_before, input_bias, before_bias = parameters
    hidden = from_before.shape[1]
    scale = torch.ones(3 * hidden, dtype=from_before.dtype)
    scale[2 * hidden :] = 2.0
    return Weights((from_input * scale.unsqueeze(1)).t(), input_bias * scale, from_before.t(), before_bias)


def run_forward(weights: Weights, inputs: Tensor, start: Tensor, keep: Tensor | None, outputs: Tensor) -> Kept:
    """All steps of one chunk; no gradients.

    Args:
        inputs: (steps, samples, inputs).
        start: (samples, hidden), the state before the first step.
        keep: (steps, samples, 1), 0 where the state is reset before that step, else 1; None: no resets.
        outputs: (steps, samples, hidden), filled.
    """
    steps, samples, _ = inputs.shape
    hidden = start.shape[1]
    gates = torch.addmm(weights.input_bias, inputs.flatten(0, 1), weights.from_input).view(steps, samples, -1)
    before, candidate = start.new_empty((2, steps, samples, hidden))
    raw, minus_one = gates.new_empty(gates.shape[1:]), start.new_tensor(-1.0)
    raw_rz, m = raw[:, : 2 * hidden], raw[:, 2 * hidden :]
    states = [start, *outputs.unbind()]
    r, z, last = gates.chunk(3, dim=2)
    views = (gates[..., : 2 * hidden], r, z, last, before, candidate, outputs)
    for step, (rz, r, z, last, now, n, after) in enumerate(_steps(*views)):
        if keep is None:
            now.copy_(states[step])
        else:
            torch.mul(states[step], keep[step], out=now)
        torch.addmm(weights.before_bias, now, weights.from_before, out=raw)
        rz.add_(raw_rz).sigmoid_()
        torch.addcmul(last, r, m, value=2.0, out=n)
        n.sigmoid_()
        torch.add(minus_one, n, alpha=2.0, out=n)
        last.copy_(m)
        torch.lerp(n, now, z, out=after)
    return Kept(inputs, before, gates, candidate)


def run_backward(from_before: Tensor, kept: Kept, keep: Tensor | None, changes: Tensor, of_gates: Tensor) -> Tensor:
    """The gradients of one chunk's gates before their functions, from the last step to the first.

    Args:
        from_before: (3 x hidden, hidden), the weight of the state.
        changes: (steps, samples, hidden), the gradients of the outputs.
        of_gates: (steps, samples, 4 x hidden), filled: n, r, z, m. The input's product has the first three, the
            state's the last three.

    Returns:
        (samples, hidden), the gradient of the state before the first step.
    """
    _, samples, hidden = changes.shape
    of_state = changes.new_zeros(samples, hidden)
    carried, spare = changes.new_empty((2, samples, hidden))
    r, z, m = kept.gates.chunk(3, dim=2)
    of_n, of_r, of_z, of_m = of_gates.chunk(4, dim=2)
    views = (
        changes, kept.before, kept.candidate, kept.gates[..., : 2 * hidden], r, z, m,
        of_gates[..., hidden:], of_gates[..., hidden : 3 * hidden], of_n, of_r, of_z, of_m,
    )  # fmt: skip
    for step, (change, now, n, rz, r, z, m, of_raw, of_rz, of_n, of_r, of_z, of_m) in reversed(
        list(enumerate(_steps(*views)))
    ):
        of_state.add_(change)
        torch.sub(now, n, out=spare)
        torch.mul(of_state, spare, out=of_z)
        torch.mul(of_state, z, out=carried)
        torch.sub(of_state, carried, out=spare)
        _tanh_backward(spare, n, grad_input=of_n)
        torch.mul(of_n, r, out=of_m)
        torch.mul(of_n, m, out=of_r)
        _sigmoid_backward(of_rz, rz, grad_input=of_rz)
        torch.addmm(carried, of_raw, from_before, out=of_state)
        if keep is not None:
            of_state.mul_(keep[step])
    return of_state


def _steps(*views: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each step's part of all views (steps, ...): a third of the time that taking them one by one costs."""
    return zip(*(view.unbind() for view in views), strict=True)


def _chunks(batch: int) -> list[slice]:
    return [slice(first, min(first + CHUNK, batch)) for first in range(0, batch, CHUNK)]


class Recurrence(torch.autograd.Function):
    """A run over (steps, batch, inputs) whose gradients are asked for: of inputs, start and the four parameters."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, start: Tensor, keep: Tensor | None, *parameters: Tensor) -> Tensor:
        weights = pack(parameters)
        result = start.new_empty((*inputs.shape[:2], start.shape[1]))
        ctx.kept = [
            run_forward(weights, inputs[:, part], start[part], None if keep is None else keep[:, part], result[:, part])
            for part in _chunks(inputs.shape[1])
        ]
        ctx.keep = keep
        ctx.save_for_backward(*parameters)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *changes: Tensor) -> tuple[Tensor | None, ...]:
        from_input, from_before, *_ = ctx.saved_tensors
        hidden = from_before.shape[1]
        straight = torch.cat([from_input[2 * hidden :], from_input[: 2 * hidden]])  # gates n, r, z
        of_input_weight, of_before_weight = torch.zeros_like(straight), torch.zeros_like(from_before)
        of_biases = from_before.new_zeros(4 * hidden)
        of_inputs, of_starts = [], []
        for part, kept in zip(_chunks(changes[0].shape[1]), ctx.kept, strict=True):
            room = changes[0].new_empty((*kept.candidate.shape[:2], 4 * hidden))
            keep = None if ctx.keep is None else ctx.keep[:, part]
            of_starts.append(run_backward(from_before, kept, keep, changes[0][:, part], room))
            flat = room.flatten(0, 1)
            of_input_weight.addmm_(flat[:, : 3 * hidden].t(), kept.inputs.flatten(0, 1))
            of_before_weight.addmm_(flat[:, hidden:].t(), kept.before.flatten(0, 1))
            of_biases += flat.sum(dim=0)
            if ctx.needs_input_grad[0]:
                of_inputs.append(torch.mm(flat[:, : 3 * hidden], straight).view(kept.inputs.shape))
        return (
            torch.cat(of_inputs, dim=1) if of_inputs else None,
            torch.cat(of_starts),
            None,
            torch.cat([of_input_weight[hidden:], of_input_weight[:hidden]]),
            of_before_weight,
            torch.cat([of_biases[hidden : 3 * hidden], of_biases[:hidden]]),
            of_biases[hidden:].clone(),
        )
