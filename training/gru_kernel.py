"""The loops of one GRU layer on a CPU, forward and backward through time, as one autograd function.

The input's product is taken for all steps at once, inside the loop there is one product a step, and each weight's
gradient is one product after the loop. No memory is taken inside the loops. Everything is in the parameters' type.

Equations: Cho et al. 2014 with the reset gate after the product, as `torch.nn.GRU` has them:
r = s(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r m), m = W_hn h + b_hn, h' = n + z (h - n),
with s the sigmoid. tanh(x) = 2 s(2x) - 1, since s is seven times cheaper here than tanh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.gru_buffers import Shape, Workspace, give_back, take

CHUNK = 256
"""Sequences worked on together: fewer make a step's product too small, more leave the caches."""
Masks = Sequence[Tensor | None]
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Weights(NamedTuple):
    """A layer's parameters as the forward loop reads them; gates r, z, n."""

    from_input: Tensor  # (inputs, 3 x hidden), its candidate doubled
    input_bias: Tensor  # (3 x hidden,), its candidate doubled
    from_before: Tensor  # (hidden, 3 x hidden)
    before_bias: Tensor  # (3 x hidden,)


def pack(parameters: Sequence[Tensor]) -> Weights:
    """From weight_ih, weight_hh, bias_ih, bias_hh of `torch.nn.GRU`; a power of two rounds nothing."""
    from_input, from_before, input_bias, before_bias = parameters
    hidden = from_before.shape[1]
    scale = from_before.new_ones(3 * hidden)
    scale[2 * hidden :] = 2.0
    return Weights((from_input * scale.unsqueeze(1)).t(), input_bias * scale, from_before.t(), before_bias)


def _run_forward(
    weights: Weights, work: Workspace, inputs: Tensor, start: Tensor, masks: Masks, outputs: Tensor
) -> None:
    """All steps of one chunk.

    Args:
        inputs: (steps, samples, inputs).
        start: (samples, hidden), the state before the first step.
        masks: each step's (samples, 1), 0 where the state is reset before it, else 1; None: no resets.
        outputs: (steps, samples, hidden), filled.
    """
    torch.addmm(weights.input_bias, inputs.flatten(0, 1), weights.from_input, out=work.gates.flatten(0, 1))
    state = start
    for step, (cell, after) in enumerate(zip(work.cells, outputs.unbind(), strict=True)):
        mask = masks[step]
        if mask is None:
            cell.before.copy_(state)
        else:
            torch.mul(state, mask, out=cell.before)
        torch.addmm(weights.before_bias, cell.before, weights.from_before, out=work.raw)
        cell.rz.add_(work.raw_rz).sigmoid_()
        torch.addcmul(cell.m, cell.r, work.raw_m, value=2.0, out=cell.n)
        cell.n.sigmoid_()
        torch.add(work.minus_one, cell.n, alpha=2.0, out=cell.n)
        cell.m.copy_(work.raw_m)
        state = torch.lerp(cell.n, cell.before, cell.z, out=after)


def _run_backward(from_before: Tensor, work: Workspace, masks: Masks, changes: Tensor) -> None:
    """The gradients of one chunk's gates before their functions, from the last step to the first; then the state's.

    Args:
        from_before: (3 x hidden, hidden), the weight of the state.
        changes: (steps, samples, hidden), the gradients of the outputs.
    """
    of_state, carried, spare = work.of_state, work.carried, work.spare
    of_state.zero_()
    every = changes.unbind()
    for step in range(work.shape.steps - 1, -1, -1):
        cell = work.cells[step]
        of_state.add_(every[step])
        torch.sub(cell.before, cell.n, out=spare)
        torch.mul(of_state, spare, out=cell.of_z)
        torch.mul(of_state, cell.z, out=carried)
        torch.sub(of_state, carried, out=spare)
        _tanh_backward(spare, cell.n, grad_input=cell.of_n)
        torch.mul(cell.of_n, cell.r, out=cell.of_m)
        torch.mul(cell.of_n, cell.m, out=cell.of_r)
        _sigmoid_backward(cell.of_rz, cell.rz, grad_input=cell.of_rz)
        torch.addmm(carried, cell.of_raw, from_before, out=of_state)
        mask = masks[step]
        if mask is not None:
            of_state.mul_(mask)


def _of(masks: Masks, part: slice) -> Masks:
    return [None if mask is None else mask[part] for mask in masks]


def _chunks(batch: int) -> list[slice]:
    return [slice(first, min(first + CHUNK, batch)) for first in range(0, batch, CHUNK)]


def all_forward(
    inputs: Tensor, start: Tensor, masks: Masks, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Workspace]]:
    """All outputs, (steps, batch, hidden), and what backward will read, which the caller has to give back."""
    weights, kept = pack(parameters), []
    result = start.new_empty((*inputs.shape[:2], start.shape[1]))
    for part in _chunks(inputs.shape[1]):
        work = take(Shape(inputs.shape[0], part.stop - part.start, start.shape[1], start.dtype))
        _run_forward(weights, work, inputs[:, part], start[part], _of(masks, part), result[:, part])
        kept.append(work)
    return result, kept


class Recurrence(torch.autograd.Function):
    """A run over (steps, batch, inputs) whose gradients are asked for: of inputs, start and the four parameters."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, start: Tensor, masks: Masks, *parameters: Tensor) -> Tensor:
        result, ctx.kept = all_forward(inputs, start, masks, parameters)
        ctx.masks = masks
        ctx.save_for_backward(inputs, start, *parameters)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *changes: Tensor) -> tuple[Tensor | None, ...]:
        inputs, start, *parameters = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        if kept is None:  # a second backward fills them again
            kept = all_forward(inputs, start, ctx.masks, parameters)[1]
        from_input, from_before = parameters[:2]
        hidden = from_before.shape[1]
        straight = torch.cat([from_input[2 * hidden :], from_input[: 2 * hidden]])  # gates n, r, z
        of_input_weight, of_before_weight = torch.zeros_like(straight), torch.zeros_like(from_before)
        of_biases, of_start = from_before.new_zeros(4 * hidden), torch.empty_like(start)
        of_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        for part, work in zip(_chunks(inputs.shape[1]), kept, strict=True):
            _run_backward(from_before, work, _of(ctx.masks, part), changes[0][:, part])
            flat = work.of_gates.flatten(0, 1)
            of_input_weight.addmm_(flat[:, : 3 * hidden].t(), inputs[:, part].flatten(0, 1))
            of_before_weight.addmm_(flat[:, hidden:].t(), work.before.flatten(0, 1))
            of_biases += flat.sum(dim=0)
            of_start[part] = work.of_state
            if of_inputs is not None:
                of_inputs[:, part] = torch.mm(flat[:, : 3 * hidden], straight).view(*work.before.shape[:2], -1)
            give_back(work)
        return (
            of_inputs,
            of_start,
            None,
            torch.cat([of_input_weight[hidden:], of_input_weight[:hidden]]),
            of_before_weight,
            torch.cat([of_biases[hidden : 3 * hidden], of_biases[:hidden]]),
            of_biases[hidden:].clone(),
        )
