"""An LSTM of one or two layers that trains faster on a CPU than `torch.nn.LSTM`, with its parameters and results.

Whole PPO updates of the recurrent `option_scalper` network (rollout and 10 epochs, one thread) run 1.6 times as fast:
the median of eight alternating pairs of runs with the hand-written loops and with torch's own.

Knows no policy and no optimizer. On other devices and in an exported graph the loops are torch's own. Those here go
forward and backward through time as one autograd function: one matrix product per step and layer, one product for all
weight gradients, and no allocation inside the loops.

Equations: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000, as `torch.nn.LSTM` has them. The
stored values are rescaled to save passes over memory (a pass costs as much as its arithmetic): tanh(x) = 2 s(2x) - 1,
since s, the sigmoid, is ten times cheaper here than tanh; the buffers hold y = -output and C = 2 x cell state; with
s_i, s_f, s_o, s_g the sigmoids of the four gates (that of the candidate doubled before), C' = s_f C - 2 (s_i - 2 s_i
s_g), q = s(C'), y = s_o - 2 s_o q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def recurrence(
    inputs: Tensor,
    parameters: Sequence[Tensor],
    *,
    every: bool = False,
) -> Tensor:
    """Outputs of an LSTM on the CPU: the last, (batch, hidden), or with `every` all of them, (steps, batch, hidden).

    Under `torch.autocast` matrix products use autocast's type; cell state, gates, sums and the result have the type of
    the parameters.

    Args:
        inputs: (steps, batch, inputs), at least one step and one sample.
        parameters: float32 or float64 weight_ih, weight_hh, bias_ih, bias_hh of each layer, as `torch.nn.LSTM` has
            them: one or two layers.

    Raises:
        ValueError: more than two layers, or nothing to run over.
    """
    layers, cells = len(parameters) // 4, parameters[0].dtype
    if not 1 <= layers <= 2 or 0 in inputs.shape:
        raise ValueError(
            f"found {layers} layers over inputs {tuple(inputs.shape)}; expected one or two layers over (steps, batch, "
            f"inputs) without a 0: run a deeper stack layer by layer"
        )
    call = Call(
        every=every,
        products=torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else cells,
        cells=cells,
        training=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, *parameters)),
    )
    if call.training:
        apply: Any = Recurrence.apply
        result: Tensor = apply(call, inputs, *parameters)
        return result
    with torch.no_grad():
        return all_forward(call, inputs, parameters)[0]


class Lstm(nn.Module):
    """`torch.nn.LSTM` that trains faster on a CPU, and is torch's elsewhere. `self.layers` holds its parameters."""

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

        Without gradients torch's own kernel is faster and is used; an ONNX graph always has torch's.
        """
        if _torchs_own(rows):
            result: Tensor = self.layers(rows)[0][:, -1]
            return result
        return recurrence(rows.transpose(0, 1), list(self.layers.parameters()))

    def outputs(self, rows: Tensor) -> Tensor:
        """All outputs (batch, steps, hidden) over rows (batch, steps, inputs), from a zero state; as `forward`."""
        if _torchs_own(rows):
            result: Tensor = self.layers(rows)[0]
            return result
        return recurrence(rows.transpose(0, 1), list(self.layers.parameters()), every=True).transpose(0, 1)


def _torchs_own(rows: Tensor) -> bool:
    """Whether torch's own kernel runs: in a graph, on another device, or where no gradient is asked for."""
    exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    return exported or rows.device.type != "cpu" or not torch.is_grad_enabled()


KEPT_BYTES = 1 << 29
"""Bytes of buffers that are kept from forward to backward; chunks beyond it are computed again in backward."""


class Shape(NamedTuple):
    """The sizes and types that a workspace is made for."""

    steps: int
    samples: int
    inputs: int
    hidden: int
    layers: int
    products: torch.dtype
    cells: torch.dtype


class Cell(NamedTuple):
    """The views of one layer at one step; all (rows, samples)."""

    reads: Tensor  # the product's operand: input, ones, last y; in the second layer ones, y of the first, last y
    first_reads: Tensor  # the same without the last y, for step 0
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
    change: Tensor  # gradient of the gates before their sigmoid; overwrites `gates` where both have one type


class Workspace:
    """All buffers for one chunk of samples."""

    def __init__(self, shape: Shape) -> None:
        steps, samples, inputs, hidden, layers, products, cells = shape
        self.shape = shape
        self.reads = _wide(inputs + 1 + layers * hidden, steps + layers, samples, products)
        self.reads[inputs] = 1.0
        self.differ = products != cells
        self.changes = [_wide(4 * hidden, steps, samples, products) for _ in range(layers)]
        self.gates = self.changes  # gates are overwritten by their gradients
        if self.differ:
            self.gates = [torch.empty(steps, 4 * hidden, samples, dtype=cells).transpose(0, 1) for _ in range(layers)]
        self.states = torch.empty(layers, steps + 1, hidden, samples, dtype=cells)
        self.squashed = torch.empty(layers, steps, hidden, samples, dtype=cells)
        self.cells = [[self._cell(layer, step) for layer in range(layers)] for step in range(steps)]
        buffers = [self.reads, self.states, self.squashed, *self.gates, *(self.changes if self.differ else ())]
        self.bytes = sum(tensor.nbytes for tensor in buffers)
        # used up within a step, so shared by all steps
        self.raw = torch.empty(4 * hidden, samples, dtype=products)
        self.spare = torch.empty(hidden, samples, dtype=cells)
        self.total = torch.empty(hidden, samples, dtype=cells)
        self.change = torch.empty(4 * hidden, samples, dtype=cells)
        self.state_change = torch.empty(layers, hidden, samples, dtype=cells)
        widths = [hidden, 2 * hidden][:layers]
        self.back = [torch.empty(width, samples, dtype=products) for width in widths]
        self.back_cells = [torch.empty(width, samples, dtype=cells) for width in widths] if self.differ else self.back

    def rows(self, layer: int) -> slice:
        """The rows of `reads` that are a layer's operand."""
        inputs, hidden = self.shape.inputs, self.shape.hidden
        return slice(inputs if layer else 0, inputs + 1 + (layer + 1) * hidden)

    def _cell(self, layer: int, step: int) -> Cell:
        hidden, states = self.shape.hidden, self.states[layer]
        reads = self.reads[self.rows(layer)]
        gates = self.gates[layer][:, step]
        gate_i, gate_f, gate_o, gate_g = gates.chunk(4)
        return Cell(
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
    """A buffer (rows, steps, samples) of zeros; rows do not lie a power of two apart (they would share cache sets).

    A bfloat16 product on AMX reads rows in blocks of 32 and multiplies what lies beyond a row by zero (oneDNN as of
    torch 2.13): a NaN there would spread. So what is never written is zero, and after the last row comes a block more.
    """
    return torch.zeros(rows, steps * samples + 32, dtype=dtype)[:, : steps * samples].view(rows, steps, samples)


_free: list[Workspace] = []  # workspaces that no run holds


def take(shape: Shape) -> Workspace:
    """Return a workspace of this shape with undefined content; the caller owns it until `give_back`."""
    for index in range(len(_free) - 1, -1, -1):
        if _free[index].shape == shape:
            return _free.pop(index)
    with torch.inference_mode(mode=False):  # inference tensors could not be written to outside inference mode
        return Workspace(shape)


def give_back(workspace: Workspace) -> None:
    """Keep a workspace for the next run, and free the oldest ones beyond `KEPT_BYTES`."""
    _free.append(workspace)
    while sum(free.bytes for free in _free) > KEPT_BYTES:
        del _free[0]


# An LSTM's parameters as the loops read them, and the gradients of those back as torch has them. The scales of the
# stored values sit in the weights: all are powers of two, so that packing rounds nothing.


@dataclass(frozen=True, slots=True)
class Weights:
    """One layer's weights as the loops read them."""

    forward: Tensor  # (4 x hidden, rows of what the product reads)
    first: Tensor  # without the columns of y before, for a step after a zero state
    back: Tensor  # (hidden, 4 x hidden), to the gradient of y before; in the second layer that of y below above it
    inputs: Tensor  # (inputs, 4 x hidden), to the gradient of the input


def _by_gate(wide: Tensor, order: Sequence[int], factors: Sequence[float]) -> Tensor:
    blocks = wide.chunk(4)
    return torch.cat([blocks[index] * factor for index, factor in zip(order, factors, strict=True)])


def pack(parameters: Sequence[Tensor], products: torch.dtype) -> list[Weights]:
    """Weights from the order of `torch.nn.LSTM`: weight_ih, weight_hh, bias_ih, bias_hh; gates i, f, g, o."""
    packed = []
    for layer in range(len(parameters) // 4):
        from_below, from_before, bias_below, bias_before = parameters[4 * layer : 4 * layer + 4]
        bias = (bias_below + bias_before).unsqueeze(1)
        columns = [bias, -from_below, -from_before] if layer else [from_below, bias, -from_before]
        forward = _by_gate(torch.cat(columns, dim=1), (0, 1, 3, 2), (1.0, 1.0, 1.0, 2.0))
        hidden = from_before.shape[1]
        back = _by_gate(forward, (0, 1, 2, 3), (-1.0, 0.5, 1.0, 2.0)).t()
        packed.append(
            Weights(
                forward=forward.to(products),
                first=forward[:, :-hidden].to(products).contiguous(),
                back=back[1 if layer else -hidden :].to(products).contiguous(),
                inputs=back[: -hidden - 1].to(products).contiguous(),
            )
        )
    return packed


def unpack(wide: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a layer's four parameters from the product of `changes` and `reads`."""
    whole = _by_gate(wide, (0, 1, 3, 2), (-1.0, 0.5, 4.0, 1.0))
    hidden = whole.shape[0] // 4
    recurrent = -whole[:, -hidden:]
    if layer:
        return -whole[:, 1:-hidden], recurrent, whole[:, 0].clone(), whole[:, 0].clone()
    return whole[:, : -hidden - 1].clone(), recurrent, whole[:, -hidden - 1].clone(), whole[:, -hidden - 1].clone()


CHUNK = 1024
"""Samples in a chunk. Small chunks fit the caches, large ones need fewer calls: 768 to 2,048 were fastest."""
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Call(NamedTuple):
    """The settings of one run over a sequence, without its tensors."""

    every: bool  # True: outputs at all steps; False: the last output alone
    products: torch.dtype
    cells: torch.dtype
    training: bool


def _run_forward(weights: Sequence[Weights], work: Workspace, inputs: Tensor, outputs: Tensor | None) -> None:
    """All steps of one chunk, from a zero state.

    Args:
        inputs: (inputs, steps, samples).
        outputs: (steps, hidden, samples), to fill with the top layer's outputs; None: only the last is needed.
    """
    spare, raw, top, differ = work.spare, work.raw, len(weights) - 1, work.differ
    for cell in work.cells[0]:
        cell.y_before.zero_()
        cell.state_before.zero_()
    work.reads[: work.shape.inputs, : work.shape.steps].copy_(inputs)
    for step, cells in enumerate(work.cells):
        for layer, cell in enumerate(cells):
            target = raw if differ else cell.gates
            if step == 0:
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
    weights: Sequence[Weights],
    work: Workspace,
    last: Tensor | None,
    every: Tensor | None,
    input_gradient: Tensor | None,
) -> None:
    """The gradients of one chunk's gates, from the last step to the first.

    Args:
        last: (hidden, samples), gradient of the last y.
        every: (steps, hidden, samples), gradient of each y.
        input_gradient: (steps, inputs, samples), to fill; None: not needed.
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
                _sigmoid_backward(change, cell.gates, grad_input=cell.change)  # the gates' own memory
            if not step and not layer:
                continue
            torch.mm(weights[layer].back, cell.change, out=work.back[layer])
            if differ:
                work.back_cells[layer].copy_(work.back[layer])
    if input_gradient is not None:
        flat = torch.mm(weights[0].inputs, work.changes[0].flatten(1))
        input_gradient.copy_(flat.view(-1, *input_gradient.shape[::2]).transpose(0, 1))


def _add_weight_gradients(work: Workspace, gradients: Sequence[Tensor]) -> None:
    """Add this chunk's part: one product a layer over all steps and samples."""
    for layer, gradient in enumerate(gradients):
        reads = work.reads[work.rows(layer), layer : layer + work.shape.steps]
        gradient.add_(torch.mm(reads.flatten(1), work.changes[layer].flatten(1).t()).t())


def _chunks(batch: int) -> list[slice]:
    return [slice(first, min(first + CHUNK, batch)) for first in range(0, batch, CHUNK)]


def _shape(call: Call, inputs: Tensor, parameters: Sequence[Tensor], part: slice) -> Shape:
    return Shape(
        steps=inputs.shape[0],
        samples=part.stop - part.start,
        inputs=inputs.shape[2],
        hidden=parameters[1].shape[1],
        layers=len(parameters) // 4,
        products=call.products,
        cells=call.cells,
    )


def all_forward(call: Call, inputs: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Workspace | None]]:
    """The result, and the workspaces for backward (None for a chunk that backward computes again)."""
    steps, batch = inputs.shape[:2]
    hidden = parameters[1].shape[1]
    weights = pack(parameters, call.products)
    result = parameters[0].new_empty((steps, batch, hidden) if call.every else (batch, hidden))
    workspaces: list[Workspace | None] = []
    kept_bytes = 0
    for part in _chunks(batch):
        work = take(_shape(call, inputs, parameters, part))
        outputs = result[:, part].transpose(1, 2) if call.every else None
        _run_forward(weights, work, inputs[:, part].permute(2, 0, 1), outputs)
        if not call.every:
            result[part] = -work.cells[-1][-1].y_after.t()
        kept_bytes += work.bytes
        if call.training and kept_bytes <= KEPT_BYTES:
            workspaces.append(work)
        else:
            give_back(work)
            workspaces.append(None)
    return result, workspaces


class Recurrence(torch.autograd.Function):
    """The autograd function of a run: gradients of all parameters, and of the inputs if required."""

    @staticmethod
    def forward(ctx: Any, call: Call, inputs: Tensor, *parameters: Tensor) -> Tensor:
        result, ctx.kept = all_forward(call, inputs, parameters)
        ctx.call = call
        ctx.save_for_backward(inputs, *parameters)
        return result

    @staticmethod
    def backward(ctx: Any, *changes: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        inputs, *parameters = ctx.saved_tensors
        workspaces, ctx.kept = ctx.kept, [None] * len(ctx.kept)  # a second backward computes them again
        weights = pack(parameters, call.products)
        gradients = [parameters[0].new_zeros(packed.forward.shape) for packed in weights]
        input_gradient = torch.empty_like(inputs) if ctx.needs_input_grad[1] else None
        for part, ready in zip(_chunks(inputs.shape[1]), workspaces, strict=True):
            work = ready
            if work is None:
                work = take(_shape(call, inputs, parameters, part))
                _run_forward(weights, work, inputs[:, part].permute(2, 0, 1), None)
            _run_backward(
                weights,
                work,
                None if call.every else -changes[0][part].t(),
                -changes[0][:, part].transpose(1, 2) if call.every else None,
                None if input_gradient is None else input_gradient[:, part].transpose(1, 2),
            )
            _add_weight_gradients(work, gradients)
            give_back(work)
        weight_gradients: list[Tensor] = []
        for layer, gradient in enumerate(gradients):
            weight_gradients += unpack(gradient, layer)
        return None, input_gradient, *weight_gradients
