"""An LSTM of one or two layers for training on a CPU, forward and backward through time, written out by hand.

Knows no policy and no optimizer. Samples lie along the last axis, so that each gate is one contiguous block of rows;
one product a step and layer, one product for all weight gradients, and no memory is taken inside the loops.

Equations: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000, as `torch.nn.LSTM` has them. What
is kept is rescaled until as few passes as possible over memory remain (a pass costs as much as its arithmetic):
tanh(x) = 2 s(2x) - 1, since s, the sigmoid, is ten times cheaper here than tanh; the buffers hold y = -output and
C = 2 x cell state; with s_i, s_f, s_o, s_g the sigmoids of the four gates (that of the candidate doubled before),
C' = s_f C - 2 (s_i - 2 s_i s_g), q = s(C'), y = s_o - 2 s_o q. All scales are powers of two, and sit in the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHUNK = 1024
"""Samples worked on together. Fewer stay in the caches, more spend less on calls: 768 to 2,048 were the fastest."""
KEPT_BYTES = 1 << 29
"""Buffers kept from forward to backward; what would not fit is computed again in backward."""

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class _Shape(NamedTuple):
    """What a workspace is made for."""

    steps: int
    samples: int
    inputs: int
    hidden: int
    layers: int
    products: torch.dtype
    cells: torch.dtype


class _Cell(NamedTuple):
    """The views of one layer at one step; all (rows, samples)."""

    reads: Tensor  # what the product reads: input, ones, y before; in the second layer ones, y of the first, y before
    first_reads: Tensor  # without y before
    y_before: Tensor
    y_after: Tensor
    gates: Tensor  # the sigmoids of input, forget, output, candidate
    input: Tensor
    forget: Tensor
    output: Tensor
    candidate: Tensor
    state_before: Tensor
    state_after: Tensor
    squashed: Tensor  # q
    change: Tensor  # gradient of the gates before their sigmoid; takes their place where it has their type


class _Workspace:
    """All buffers for one chunk of samples."""

    def __init__(self, shape: _Shape) -> None:
        steps, samples, inputs, hidden, layers, products, cells = shape
        self.shape = shape
        self.reads = _wide(inputs + 1 + layers * hidden, steps + layers, samples, products)
        self.reads[inputs] = 1.0
        self.differ = products != cells
        self.changes = [_wide(4 * hidden, steps, samples, products) for _ in range(layers)]
        self.gates = self.changes  # which come after them
        if self.differ:
            self.gates = [torch.empty(steps, 4 * hidden, samples, dtype=cells).transpose(0, 1) for _ in range(layers)]
        self.states = torch.empty(layers, steps + 1, hidden, samples, dtype=cells)
        self.squashed = torch.empty(layers, steps, hidden, samples, dtype=cells)
        self.cells = [[self._cell(layer, step) for layer in range(layers)] for step in range(steps)]
        kept = [self.reads, self.states, self.squashed, *self.gates, *(self.changes if self.differ else ())]
        self.bytes = sum(tensor.nbytes for tensor in kept)
        # read again at once, so shared by all steps
        self.raw = torch.empty(4 * hidden, samples, dtype=products)
        self.spare = torch.empty(hidden, samples, dtype=cells)
        self.total = torch.empty(hidden, samples, dtype=cells)
        self.change = torch.empty(4 * hidden, samples, dtype=cells)
        self.state_change = torch.empty(layers, hidden, samples, dtype=cells)
        widths = [hidden, 2 * hidden][:layers]
        self.back = [torch.empty(width, samples, dtype=products) for width in widths]
        self.back_cells = [torch.empty(width, samples, dtype=cells) for width in widths] if self.differ else self.back

    def rows(self, layer: int) -> slice:
        """The rows of `reads` that a layer's product reads."""
        inputs, hidden = self.shape.inputs, self.shape.hidden
        return slice(inputs if layer else 0, inputs + 1 + (layer + 1) * hidden)

    def _cell(self, layer: int, step: int) -> _Cell:
        hidden, states = self.shape.hidden, self.states[layer]
        reads = self.reads[self.rows(layer)]
        gates = self.gates[layer][:, step]
        gate_i, gate_f, gate_o, gate_g = gates.chunk(4)
        return _Cell(
            reads=reads[:, step + layer],
            first_reads=reads[:-hidden, step + layer],
            y_before=reads[-hidden:, step + layer],
            y_after=reads[-hidden:, step + layer + 1],
            gates=gates,
            input=gate_i,
            forget=gate_f,
            output=gate_o,
            candidate=gate_g,
            state_before=states[step],
            state_after=states[step + 1],
            squashed=self.squashed[layer, step],
            change=self.changes[layer][:, step],
        )


def _wide(rows: int, steps: int, samples: int, dtype: torch.dtype) -> Tensor:
    """A buffer (rows, steps, samples) whose rows do not lie a power of two apart (they would share cache sets)."""
    return torch.empty(rows, steps * samples + 16, dtype=dtype)[:, : steps * samples].view(rows, steps, samples)


_pool: list[_Workspace] = []


def _take(shape: _Shape) -> _Workspace:
    for index in range(len(_pool) - 1, -1, -1):
        if _pool[index].shape == shape:
            return _pool.pop(index)
    with torch.inference_mode(mode=False):  # whose tensors could not be written to elsewhere
        return _Workspace(shape)


def _give_back(workspace: _Workspace) -> None:
    _pool.append(workspace)
    while sum(kept.bytes for kept in _pool) > KEPT_BYTES:
        del _pool[0]


@dataclass(frozen=True, slots=True)
class _Weights:
    """One layer's weights as the loops read them."""

    forward: Tensor  # (4 x hidden, rows of what the product reads)
    first: Tensor  # without the columns of y before, for a step after a zero state
    back: Tensor  # (hidden, 4 x hidden), to the gradient of y before; in the second layer that of y below above it
    inputs: Tensor  # (inputs, 4 x hidden), to the gradient of the input


def _by_gate(wide: Tensor, order: Sequence[int], factors: Sequence[float]) -> Tensor:
    blocks = wide.chunk(4)
    return torch.cat([blocks[index] * factor for index, factor in zip(order, factors, strict=True)])


def _pack(parameters: Sequence[Tensor], products: torch.dtype) -> list[_Weights]:
    """From the order of `torch.nn.LSTM`: weight_ih, weight_hh, bias_ih, bias_hh of each layer; gates i, f, g, o."""
    packed = []
    for layer in range(len(parameters) // 4):
        from_below, from_before, bias_below, bias_before = parameters[4 * layer : 4 * layer + 4]
        bias = (bias_below + bias_before).unsqueeze(1)
        columns = [bias, -from_below, -from_before] if layer else [from_below, bias, -from_before]
        forward = _by_gate(torch.cat(columns, dim=1), (0, 1, 3, 2), (1.0, 1.0, 1.0, 2.0))
        hidden = from_before.shape[1]
        back = _by_gate(forward, (0, 1, 2, 3), (-1.0, 0.5, 1.0, 2.0)).t()
        packed.append(
            _Weights(
                forward=forward.to(products),
                first=forward[:, :-hidden].to(products).contiguous(),
                back=back[1 if layer else -hidden :].to(products).contiguous(),
                inputs=back[: -hidden - 1].to(products).contiguous(),
            )
        )
    return packed


def _unpack(wide: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a layer's four parameters from the product of `changes` and `reads`."""
    whole = _by_gate(wide, (0, 1, 3, 2), (-1.0, 0.5, 4.0, 1.0))
    hidden = whole.shape[0] // 4
    before = -whole[:, -hidden:]
    if layer:
        return -whole[:, 1:-hidden], before, whole[:, 0].clone(), whole[:, 0].clone()
    return whole[:, : -hidden - 1].clone(), before, whole[:, -hidden - 1].clone(), whole[:, -hidden - 1].clone()


def _run_forward(
    weights: Sequence[_Weights],
    work: _Workspace,
    inputs: Tensor,
    start: Tensor | None,
    keep: Tensor | None,
    outputs: Tensor | None,
) -> None:
    """All steps of one chunk.

    Args:
        inputs: (inputs, steps, samples).
        start: (layers, 2, hidden, samples), the output and cell state before the first step; None: zeros.
        keep: (steps, 1, samples), 0 where the state is reset before that step, else 1; None: no resets.
        outputs: (steps, hidden, samples), filled with the top layer's outputs; None: only the last is of interest.
    """
    spare, raw, top, differ = work.spare, work.raw, len(weights) - 1, work.differ
    for layer, cell in enumerate(work.cells[0]):
        if start is None:
            cell.y_before.zero_()
            cell.state_before.zero_()
        else:
            cell.y_before.copy_(start[layer, 0]).neg_()
            torch.mul(start[layer, 1], 2.0, out=cell.state_before)
    work.reads[: work.shape.inputs, : work.shape.steps].copy_(inputs)
    for step, cells in enumerate(work.cells):
        for layer, cell in enumerate(cells):
            if keep is not None:
                cell.y_before.mul_(keep[step])
                cell.state_before.mul_(keep[step])
            target = raw if differ else cell.gates
            if step == 0 and start is None:
                torch.mm(weights[layer].first, cell.first_reads, out=target)
            else:
                torch.mm(weights[layer].forward, cell.reads, out=target)
            if differ:
                cell.gates.copy_(raw)
            cell.gates.sigmoid_()
            torch.addcmul(cell.input, cell.input, cell.candidate, value=-2.0, out=spare)
            torch.mul(cell.forget, cell.state_before, out=cell.state_after)
            cell.state_after.add_(spare, alpha=-2.0)
            torch.sigmoid(cell.state_after, out=cell.squashed)
            if differ:
                torch.addcmul(cell.output, cell.output, cell.squashed, value=-2.0, out=spare)
                cell.y_after.copy_(spare)
            else:
                torch.addcmul(cell.output, cell.output, cell.squashed, value=-2.0, out=cell.y_after)
            if layer == top and outputs is not None:
                torch.neg(spare if differ else cell.y_after, out=outputs[step])


def _run_backward(
    weights: Sequence[_Weights],
    work: _Workspace,
    last: Tensor | None,
    every: Tensor | None,
    keep: Tensor | None,
    zero_start: bool,
    input_gradient: Tensor | None,
) -> None:
    """The gradients of one chunk's gates, from the last step to the first; then those of the state before it.

    Args:
        last: (hidden, samples), gradient of the last y.
        every: (steps, hidden, samples), gradient of each y.
        input_gradient: (steps, inputs, samples), filled; None: not of interest.
    """
    hidden, spare, change, top, differ = work.shape.hidden, work.spare, work.change, len(weights) - 1, work.differ
    change_i, change_f, change_o, change_g = change.chunk(4)
    befores = [back[-hidden:] for back in work.back_cells]
    work.state_change.zero_()
    for before in befores:
        before.zero_()
    if last is not None:
        befores[top].copy_(last)
    for step in range(work.shape.steps - 1, -1, -1):
        for layer in range(top, -1, -1):
            cell, state_change, total = work.cells[step][layer], work.state_change[layer], befores[layer]
            if layer < top:
                total = torch.add(total, work.back_cells[layer + 1][:hidden], out=work.total)
            elif every is not None:
                total = torch.add(total, every[step], out=work.total)
            torch.addcmul(total, total, cell.squashed, value=-2.0, out=change_o)
            torch.mul(total, cell.output, out=spare)
            _sigmoid_backward(spare, cell.squashed, grad_input=spare)
            state_change.add_(spare, alpha=-4.0)
            torch.addcmul(state_change, state_change, cell.candidate, value=-2.0, out=change_i)
            torch.mul(state_change, cell.state_before, out=change_f)
            torch.mul(state_change, cell.input, out=change_g)
            state_change.mul_(cell.forget)
            if differ:
                _sigmoid_backward(change, cell.gates, grad_input=change)
                cell.change.copy_(change)
            else:
                _sigmoid_backward(change, cell.gates, grad_input=cell.change)  # which are the gates: used up
            if not step and not layer and zero_start:
                continue
            torch.mm(weights[layer].back, cell.change, out=work.back[layer])
            if differ:
                work.back_cells[layer].copy_(work.back[layer])
            if keep is not None:
                befores[layer].mul_(keep[step])
                state_change.mul_(keep[step])
    if input_gradient is not None:
        flat = torch.mm(weights[0].inputs, work.changes[0].flatten(1))
        input_gradient.copy_(flat.view(-1, *input_gradient.shape[::2]).transpose(0, 1))


def _add_weight_gradients(work: _Workspace, gradients: Sequence[Tensor]) -> None:
    """Add this chunk's part: one product a layer over all steps and samples."""
    for layer, gradient in enumerate(gradients):
        read = work.reads[work.rows(layer), layer : layer + work.shape.steps]
        gradient.add_(torch.mm(read.flatten(1), work.changes[layer].flatten(1).t()).t())


class _Call(NamedTuple):
    """What a run over a sequence is, beside its tensors that have gradients."""

    every: bool  # outputs at all steps, not the last alone
    products: torch.dtype
    cells: torch.dtype
    training: bool
    keep: Tensor | None  # (steps, 1, batch)


def _chunks(batch: int) -> list[slice]:
    return [slice(first, min(first + CHUNK, batch)) for first in range(0, batch, CHUNK)]


def _shape(call: _Call, inputs: Tensor, parameters: Sequence[Tensor], part: slice) -> _Shape:
    return _Shape(
        steps=inputs.shape[0],
        samples=part.stop - part.start,
        inputs=inputs.shape[2],
        hidden=parameters[1].shape[1],
        layers=len(parameters) // 4,
        products=call.products,
        cells=call.cells,
    )


def _fill(
    call: _Call,
    weights: Sequence[_Weights],
    work: _Workspace,
    inputs: Tensor,
    start: Tensor | None,
    part: slice,
    outputs: Tensor | None,
) -> None:
    """Forward for the samples of `part`: inputs (steps, batch, inputs), start (batch, layers, 2, hidden)."""
    _run_forward(
        weights,
        work,
        inputs[:, part].permute(2, 0, 1),
        None if start is None else start[part].permute(1, 2, 3, 0),
        None if call.keep is None else call.keep[:, :, part],
        outputs,
    )


def _all_forward(
    call: _Call, inputs: Tensor, start: Tensor | None, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[_Workspace | None]]:
    """The result, and the workspaces that backward will read (None where they are to be filled again)."""
    steps, batch = inputs.shape[:2]
    hidden = parameters[1].shape[1]
    weights = _pack(parameters, call.products)
    result = parameters[0].new_empty((steps, batch, hidden) if call.every else (batch, hidden))
    kept: list[_Workspace | None] = []
    kept_bytes = 0
    for part in _chunks(batch):
        work = _take(_shape(call, inputs, parameters, part))
        _fill(call, weights, work, inputs, start, part, result[:, part].transpose(1, 2) if call.every else None)
        if not call.every:
            result[part] = -work.cells[-1][-1].y_after.t()
        kept_bytes += work.bytes
        if call.training and kept_bytes <= KEPT_BYTES:
            kept.append(work)
        else:
            _give_back(work)
            kept.append(None)
    return result, kept


class _Recurrence(torch.autograd.Function):
    """A run whose gradients are asked for. `start` and all parameters may have them; the inputs where they need to."""

    @staticmethod
    def forward(ctx: Any, call: _Call, inputs: Tensor, start: Tensor | None, *parameters: Tensor) -> Tensor:
        result, ctx.kept = _all_forward(call, inputs, start, parameters)
        ctx.call, ctx.has_start = call, start is not None
        ctx.save_for_backward(inputs, *parameters, *(() if start is None else (start,)))
        return result

    @staticmethod
    def backward(ctx: Any, *changes: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        inputs, *parameters = ctx.saved_tensors
        start = parameters.pop() if ctx.has_start else None
        kept, ctx.kept = ctx.kept, [None] * len(ctx.kept)  # a second backward fills them again
        hidden = parameters[1].shape[1]
        weights = _pack(parameters, call.products)
        gradients = [parameters[0].new_zeros(packed.forward.shape) for packed in weights]
        input_gradient = torch.empty_like(inputs) if ctx.needs_input_grad[1] else None
        start_gradient = None if start is None else torch.empty_like(start)
        for part, ready in zip(_chunks(inputs.shape[1]), kept, strict=True):
            work = ready
            if work is None:
                work = _take(_shape(call, inputs, parameters, part))
                _fill(call, weights, work, inputs, start, part, None)
            _run_backward(
                weights,
                work,
                None if call.every else -changes[0][part].t(),
                -changes[0][:, part].transpose(1, 2) if call.every else None,
                None if call.keep is None else call.keep[:, :, part],
                start is None,
                None if input_gradient is None else input_gradient[:, part].transpose(1, 2),
            )
            _add_weight_gradients(work, gradients)
            if start_gradient is not None:
                for layer in range(len(weights)):
                    start_gradient[part, layer, 0] = -work.back_cells[layer][-hidden:].t()
                    start_gradient[part, layer, 1] = work.state_change[layer].t()
            _give_back(work)
        found: list[Tensor] = []
        for layer, gradient in enumerate(gradients):
            found += _unpack(gradient, layer)
        return None, input_gradient, start_gradient, *found


def recurrence(
    inputs: Tensor,
    parameters: Sequence[Tensor],
    *,
    start: Tensor | None = None,
    starts: Tensor | None = None,
    every: bool = False,
) -> Tensor:
    """Outputs of an LSTM on the CPU: the last, (batch, hidden), or with `every` all of them, (steps, batch, hidden).

    Under `torch.autocast` the matrix products are taken in its type; cell state, gates and sums keep theirs, which is
    that of the parameters, and so is that of the result.

    Args:
        inputs: (steps, batch, inputs), at least one step and one sample.
        parameters: float32 or float64 weight_ih, weight_hh, bias_ih, bias_hh of each layer, as `torch.nn.LSTM` has
            them: one or two layers.
        start: (batch, layers, 2, hidden), output and cell state before the first step; None: zeros.
        starts: bool (steps, batch), true where the state is zeroed before that step, and no gradient flows across.

    Raises:
        ValueError: more than two layers, or `starts` with more than one, or nothing to run over.
    """
    layers, cells = len(parameters) // 4, parameters[0].dtype
    if not 1 <= layers <= (2 if starts is None else 1) or 0 in inputs.shape:
        raise ValueError(
            f"found {layers} layers over inputs {tuple(inputs.shape)}, resets: {starts is not None}; expected one "
            f"layer, or two without resets, over (steps, batch, inputs) without a 0: run a deeper stack layer by layer"
        )
    traced = (inputs, *parameters, *(() if start is None else (start,)))
    call = _Call(
        every=every,
        products=torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else cells,
        cells=cells,
        training=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in traced),
        keep=None if starts is None else (~starts).to(cells).unsqueeze(1),
    )
    if call.training:
        apply: Any = _Recurrence.apply
        result: Tensor = apply(call, inputs, start, *parameters)
        return result
    with torch.no_grad():
        return _all_forward(call, inputs, start, parameters)[0]


class Lstm(nn.Module):
    """`torch.nn.LSTM` (`self.layers` holds its parameters) that trains faster on a CPU; elsewhere it is that one."""

    def __init__(self, inputs: int, hidden: int, layers: int, generator: torch.Generator) -> None:
        """Orthogonal weights, biases 0: Huang et al. 2022, "The 37 Implementation Details of PPO", detail L1."""
        super().__init__()
        self.layers = nn.LSTM(inputs, hidden, layers, batch_first=True)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.orthogonal_(parameter, 1.0, generator)
            else:
                nn.init.zeros_(parameter)

    def forward(self, rows: Tensor) -> Tensor:
        """The last output (batch, hidden) over rows (batch, steps, inputs), from a zero state.

        Without gradients torch's own kernel is the faster one, and it is the one that an ONNX graph has.
        """
        exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        if exported or rows.device.type != "cpu" or not torch.is_grad_enabled():
            result: Tensor = self.layers(rows)[0][:, -1]
            return result
        return recurrence(rows.transpose(0, 1), list(self.layers.parameters()))

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The state (batch, layers, 2, hidden), output and cell state, after one step over inputs (batch, inputs)."""
        before = state.permute(2, 1, 0, 3).contiguous()
        after = self.layers(inputs.unsqueeze(1), (before[0], before[1]))[1]
        return torch.stack(after).permute(2, 1, 0, 3).float()

    def sequence(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """All outputs (steps, batch, hidden) of one layer over inputs (steps, batch, inputs).

        Args:
            state: (batch, 1, 2, hidden), before the first step.
            starts: bool (steps, batch), true where the state is zeroed before that step.
        """
        if inputs.device.type == "cpu":
            return recurrence(inputs, list(self.layers.parameters()), start=state, starts=starts, every=True)
        return self.one_by_one(inputs, state, starts)

    def one_by_one(self, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
        """The same as `sequence`, by torch's kernel at every step: on other devices than the CPU."""
        outputs = []
        for now, fresh in zip(inputs, starts, strict=True):
            state = self.step(now, state.masked_fill(fresh.view(-1, 1, 1, 1), 0.0))
            outputs.append(state[:, -1, 0])
        return torch.stack(outputs)
