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

from training.rl.recurrent.gru_buffers import Shape, Workspace, give_back, take

CHUNK = 256
"""Sequences worked on together: fewer make a step's product too small, more leave the caches."""
Masks = Sequence[Tensor | None]
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Weights(NamedTuple):
    """A layer's parameters as the forward loop reads them."""

    from_input: Tensor  # (inputs, 3 x hidden), gates n, r, z; that of the candidate doubled
    bias: Tensor  # (3 x hidden,), likewise
    from_before: Tensor  # (hidden, 3 x hidden), gates r, z, m
    before_bias: Tensor  # (hidden,), of m


def _turned(by_gate: Tensor, candidate: float = 1.0) -> Tensor:
    """Gates r, z, n of torch as n, r, z, the first times a power of two, which rounds nothing."""
    hidden = by_gate.shape[0] // 3
    return torch.cat([candidate * by_gate[2 * hidden :], by_gate[: 2 * hidden]])


def pack(parameters: Sequence[Tensor]) -> Weights:
    """From weight_ih, weight_hh, bias_ih, bias_hh of `torch.nn.GRU`."""
    from_input, from_before, input_bias, before_bias = parameters
    hidden = from_before.shape[1]
    bias = _turned(input_bias, 2.0)
    bias[hidden:] += before_bias[: 2 * hidden]
    return Weights(_turned(from_input, 2.0).t(), bias, from_before.t(), before_bias[2 * hidden :])


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
    hidden, gates = work.shape.hidden, work.gates.flatten(0, 1)
    torch.addmm(weights.bias, inputs.flatten(0, 1), weights.from_input, out=gates[:, : 3 * hidden])
    gates[:, 3 * hidden :].copy_(weights.before_bias)
    work.states[0].copy_(start)
    whole = []  # outputs whose place a masked state takes
    for step, (cell, mask) in enumerate(zip(work.cells, masks, strict=True)):
        if mask is not None:
            whole.append((step, cell.before.clone()))
            cell.before.mul_(mask)
        cell.rzm.addmm_(cell.before, weights.from_before)
        cell.rz.sigmoid_()
        cell.n.addcmul_(cell.r, cell.m, value=2.0).sigmoid_()
        torch.add(work.minus_one, cell.n, alpha=2.0, out=cell.n)
        torch.lerp(cell.n, cell.before, cell.z, out=cell.after)
    outputs.copy_(work.states[1:])
    for step, state in whole:
        if step:
            outputs[step - 1].copy_(state)


def _run_backward(from_before: Tensor, work: Workspace, masks: Masks, changes: Tensor) -> Tensor:
    """The gradients of one chunk's gates before their functions, from the last step to the first; returns the start's.

    Args:
        from_before: (3 x hidden, hidden), the weight of the state.
        changes: (steps, samples, hidden), the gradients of the outputs.
    """
    of_state: Tensor = work.of_state
    earlier, spare = work.carried, work.spare
    every = changes.unbind()
    of_state.copy_(every[-1])
    for step in range(work.shape.steps - 1, -1, -1):
        cell, mask = work.cells[step], masks[step]
        torch.sub(cell.before, cell.n, out=spare)
        torch.mul(of_state, spare, out=cell.of_z)
        torch.addcmul(of_state, of_state, cell.z, value=-1.0, out=spare)
        _tanh_backward(spare, cell.n, grad_input=cell.of_n)
        torch.mul(cell.of_n, cell.r, out=cell.of_m)
        torch.mul(cell.of_n, cell.m, out=cell.of_r)
        _sigmoid_backward(cell.of_rz, cell.rz, grad_input=cell.of_rz)
        if step and mask is None:
            torch.addcmul(every[step - 1], of_state, cell.z, out=earlier).addmm_(cell.of_rzm, from_before)
        else:
            torch.mul(of_state, cell.z, out=earlier).addmm_(cell.of_rzm, from_before)
            if mask is not None:
                earlier.mul_(mask)
            if step:
                earlier.add_(every[step - 1])
        of_state, earlier = earlier, of_state
    return of_state


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
        straight = _turned(from_input)
        of_input_weight, of_before_weight = torch.zeros_like(straight), torch.zeros_like(from_before)
        of_biases, of_start = from_before.new_zeros(4 * hidden), torch.empty_like(start)
        of_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        for part, work in zip(_chunks(inputs.shape[1]), kept, strict=True):
            of_start[part] = _run_backward(from_before, work, _of(ctx.masks, part), changes[0][:, part])
            flat = work.of_gates.flatten(0, 1)
            of_input_weight.addmm_(flat[:, : 3 * hidden].t(), inputs[:, part].flatten(0, 1))
            of_before_weight.addmm_(flat[:, hidden:].t(), work.states[:-1].flatten(0, 1))
            of_biases += flat.sum(dim=0)
            if of_inputs is not None:
                of_inputs[:, part] = torch.mm(flat[:, : 3 * hidden], straight).view(*inputs[:, part].shape)
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
