"""Hand-written forward and backward passes of ReLU layers: autograd takes longer than a small network's products.

Call everything here under `torch.no_grad`. Gradients are written to the existing `grad` tensors of the parameters and
equal autograd's. Hidden layers multiply in the requested type, the last layer in the parameters' type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

EPSILON = 1e-5  # added to a variance in layer normalisation, as torch does
_relu_backward: Any = torch.ops.aten.threshold_backward.grad_input
_layer_norm_backward: Any = torch.ops.aten.native_layer_norm_backward.default


class Affine(Protocol):
    """One layer, inputs x weight + bias, or several side by side."""

    weight: nn.Parameter
    width: int
    """The number of outputs in one group of layer normalisation."""

    def answer(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """The outputs; `weight` is the layer's, in the type of the inputs."""

    def learn(self, by_answers: Tensor, inputs: Tensor) -> None:
        """Write the gradients of weight and bias, given the gradient by the outputs for these inputs."""

    def by_inputs(self, by_answers: Tensor, weight: Tensor) -> Tensor:
        """The gradient by the inputs."""


class Linear:
    """Rows (n, inputs) to (n, outputs), by a weight (outputs, inputs)."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, groups: int = 1) -> None:
        self.weight, self.bias, self.width = weight, bias, len(bias) // groups

    def answer(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """See `Affine`."""
        return nn.functional.linear(inputs, weight, self.bias.to(inputs.dtype))

    def learn(self, by_answers: Tensor, inputs: Tensor) -> None:
        """See `Affine`."""
        of_weight, of_bias = _gradients(self.weight, self.bias)
        if by_answers.dtype is of_weight.dtype:
            torch.mm(by_answers.t(), inputs, out=of_weight)
            torch.sum(by_answers, 0, out=of_bias)
        else:
            of_weight.copy_(by_answers.t() @ inputs)
            of_bias.copy_(by_answers.sum(0))

    def by_inputs(self, by_answers: Tensor, weight: Tensor) -> Tensor:
        """See `Affine`."""
        return by_answers @ weight


class Pair:
    """Two layers side by side, rows (2, n, inputs) to (2, n, outputs), by a weight (2, inputs, outputs).

    Rows (1, n, inputs) go through the first layer alone.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter) -> None:
        self.weight, self.bias, self.width = weight, bias, bias.shape[-1]

    def answer(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """See `Affine`."""
        count = len(inputs)
        return torch.baddbmm(self.bias[:count].to(inputs.dtype), inputs, weight[:count])

    def learn(self, by_answers: Tensor, inputs: Tensor) -> None:
        """See `Affine`."""
        of_weight, of_bias = _gradients(self.weight, self.bias)
        if by_answers.dtype is of_weight.dtype:
            torch.bmm(inputs.transpose(1, 2), by_answers, out=of_weight)
            torch.sum(by_answers, 1, keepdim=True, out=of_bias)
        else:
            of_weight.copy_(torch.bmm(inputs.transpose(1, 2), by_answers))
            of_bias.copy_(by_answers.sum(1, keepdim=True))

    def by_inputs(self, by_answers: Tensor, weight: Tensor) -> Tensor:
        """See `Affine`."""
        return torch.bmm(by_answers, weight[: len(by_answers)].transpose(1, 2))


def _gradients(weight: nn.Parameter, bias: nn.Parameter) -> tuple[Tensor, Tensor]:
    of_weight, of_bias = weight.grad, bias.grad
    assert of_weight is not None
    assert of_bias is not None
    return of_weight, of_bias


class _LayerRecord(NamedTuple):
    """What the backward pass needs of a hidden layer."""

    inputs: Tensor
    weight: Tensor  # in the type of the products
    outputs: Tensor  # before normalisation
    mean: Tensor  # of each group
    scale: Tensor  # 1 / the standard deviation of each group
    active: Tensor  # the answers


class Hidden:
    """Layers one after the other, each of them activated, after layer normalisation where asked for."""

    def __init__(self, layers: Sequence[Affine], products: torch.dtype, *, normalised: bool) -> None:
        """Take the layers, whose parameters have to stay the same objects; they multiply in the type `products`."""
        self._layers, self._products, self._normalised = layers, products, normalised
        self._kept: list[_LayerRecord] = []
        if normalised:  # torch normalises twice as fast with a weight of ones as without a weight
            ones = {layer.width: layer.weight.new_ones(layer.width, dtype=products) for layer in layers}
            self._factors = {width: (factor, torch.zeros_like(factor)) for width, factor in ones.items()}

    def through(self, inputs: Tensor, *, keep: bool = False) -> Tensor:
        """The last layer's outputs (..., width), in the parameters' type; with `keep` it stores what `back` needs."""
        active, layer_inputs = inputs.to(self._products), []
        for layer in self._layers:
            before, weight = active, layer.weight.to(self._products)
            outputs = mean = scale = layer.answer(before, weight)
            if self._normalised:
                rows, factors = outputs.view(-1, layer.width), self._factors[layer.width]
                active, mean, scale = torch.native_layer_norm(rows, (layer.width,), *factors, EPSILON)
                active = active.relu_().view_as(outputs)
            else:
                active = outputs.relu_()
            if keep:
                layer_inputs.append(_LayerRecord(before, weight, outputs, mean, scale, active))
        if keep:
            self._kept = layer_inputs
        return active.to(self._layers[0].weight.dtype)

    def back(self, by_answers: Tensor, *, learn: bool = True) -> Tensor:
        """Backward pass from the gradient by the outputs kept last. Call it once; it overwrites its argument.

        Writes the weights' gradients if `learn`; returns the gradient by the first layer's products.
        """
        layers_kept, self._kept = self._kept, []  # memory freed early is reused while it is still in the cache
        by_active = by_answers.to(self._products)
        for index in range(len(self._layers) - 1, -1, -1):
            layer, of_layer = self._layers[index], layers_kept.pop()
            _relu_backward(by_active, of_layer.active, 0, grad_input=by_active)
            if self._normalised:
                rows, factors = of_layer.outputs.view(-1, layer.width), self._factors[layer.width]
                arguments = (by_active.view_as(rows), rows, (layer.width,), of_layer.mean, of_layer.scale, *factors)
                by_active = _layer_norm_backward(*arguments, [True, False, False])[0].view_as(of_layer.outputs)
            if learn:
                layer.learn(by_active, of_layer.inputs)
            if index:
                by_active = layer.by_inputs(by_active, of_layer.weight)
        return by_active


class Stack(Protocol):
    """A sequence of layers, or of pairs of layers side by side; all but the last are activated."""

    weights: nn.ParameterList
    biases: nn.ParameterList
    normalised: bool


class LayersPass:
    """Forward and backward pass of `Layers`."""

    def __init__(self, network: Stack, products: torch.dtype) -> None:
        """Take a network whose parameters stay the same objects; its hidden layers multiply in the type `products`."""
        *hidden, self._last = [Linear(*parameters) for parameters in zip(network.weights, network.biases, strict=True)]
        self._hidden = Hidden(hidden, products, normalised=network.normalised)
        self._inputs: Tensor = self._last.weight  # inputs of the last layer, if kept

    def answers(self, prepared: Tensor, *, keep: bool = False) -> Tensor:
        """The last layer's outputs (n, outputs); with `keep` it stores what `back` needs."""
        active = self._hidden.through(prepared, keep=keep)
        if keep:
            self._inputs = active
        return self._last.answer(active, self._last.weight)

    def back(self, by_answers: Tensor) -> None:
        """Write the parameters' gradients, given the loss's gradient by the answers kept last."""
        self._last.learn(by_answers, self._inputs)
        self._hidden.back(self._last.by_inputs(by_answers, self._last.weight))


class CriticsPass:
    """Forward and backward pass of `TwinCritics`."""

    def __init__(self, network: Stack, products: torch.dtype) -> None:
        """As `LayersPass`."""
        *hidden, self._last = [Pair(*parameters) for parameters in zip(network.weights, network.biases, strict=True)]
        self._first = hidden[0]
        self._hidden = Hidden(hidden, products, normalised=network.normalised)
        self._inputs: Tensor = self._last.weight  # of the last layers, once they were kept
        self._actions = 0  # how many numbers they are

    def values(self, prepared: Tensor, actions: Tensor, *, twins: int = 2, keep: bool = False) -> Tensor:
        """Values as `TwinCritics` gives them, (twins, n); with `keep` it stores what the backward passes need."""
        active = self._hidden.through(torch.cat([prepared, actions], dim=1).expand(twins, -1, -1), keep=keep)
        if keep:
            self._inputs, self._actions = active, actions.shape[1]
        weight, bias = self._last.weight[:twins], self._last.bias[:twins]
        values: Tensor = torch.linalg.vecdot(active, weight.transpose(1, 2))
        return values.add_(bias.squeeze(2))

    def back(self, by_values: Tensor) -> None:
        """Write the parameters' gradients, given the loss's gradient by both critics' values kept last, (2, n)."""
        of_weight, of_bias = _gradients(self._last.weight, self._last.bias)
        # not into of_weight.transpose(1, 2): oneDNN leaves such a row as it was
        torch.bmm(self._inputs.transpose(1, 2), by_values.unsqueeze(2), out=of_weight)
        torch.sum(by_values, 1, out=of_bias.view(-1))
        self._hidden.back(by_values.unsqueeze(2) * self._last.weight.transpose(1, 2))

    def back_to_actions(self, by_values: Tensor) -> Tensor:
        """The gradient by the actions, (n, actions), given the gradient by the values kept last; weights get none."""
        twins = len(by_values)
        by_first = self._hidden.back(by_values.unsqueeze(2) * self._last.weight[:twins].transpose(1, 2), learn=False)
        of_actions = self._first.weight[:, -self._actions :].to(by_first.dtype)
        return self._first.by_inputs(by_first, of_actions).to(by_values.dtype).sum(0)
