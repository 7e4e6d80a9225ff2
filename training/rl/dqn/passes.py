"""A `QNetwork`'s answers and its weights' gradients by hand: autograd takes longer than a small network's products.

The numbers are those of `QNetwork.answers`, and of autograd on it; tests compare them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.rl.dqn.networks import QNetwork
from training.rl.off_policy.networks import Layers

EPSILON = 1e-5  # added to a variance in layer normalisation, as torch does
_relu_backward: Any = torch.ops.aten.threshold_backward.grad_input
_layer_norm_backward: Any = torch.ops.aten.native_layer_norm_backward.default


class Linear:
    """One layer. Its numbers are normalised in groups of `width`, where the network's are."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, width: int, products: torch.dtype) -> None:
        self.weight, self.bias, self.width = weight, bias, width
        self.ones = torch.ones(width, dtype=products, device=weight.device)  # with them torch normalises twice as fast
        self.zeros = torch.zeros_like(self.ones)

    def learn(self, by_answers: Tensor, inputs: Tensor) -> None:
        """Write the gradients of the weights, from that by the layer's answers (n, outputs) of inputs (n, inputs)."""
        of_weight, of_bias = self.weight.grad, self.bias.grad
        assert of_weight is not None
        assert of_bias is not None
        if by_answers.dtype is of_weight.dtype:
            torch.mm(by_answers.t(), inputs, out=of_weight)
            torch.sum(by_answers, 0, out=of_bias)
        else:
            of_weight.copy_(by_answers.t() @ inputs)
            of_bias.copy_(by_answers.sum(0))


class Kept(NamedTuple):
    """What the way back needs of a hidden layer."""

    inputs: Tensor
    weight: Tensor  # in the type of the products
    found: Tensor  # before normalisation
    mean: Tensor  # of each group
    scale: Tensor  # 1 / the standard deviation of each group
    active: Tensor  # the answers


class Pass:
    """The way through a network and back, without autograd: call it under `torch.no_grad`.

    Gradients go to the `grad` of the network's parameters, which must be there.
    """

    def __init__(self, network: QNetwork, products: torch.dtype) -> None:
        """Of this network, whose parameters stay the same objects; its hidden layers multiply in `products`."""

        def linears(layers: Layers, kind: torch.dtype, groups: int = 1) -> list[Linear]:
            pairs = list(zip(layers.weights, layers.biases, strict=True))
            of_last = [1] * (len(pairs) - 1) + [groups]
            return [Linear(w, b, len(b) // each, kind) for (w, b), each in zip(pairs, of_last, strict=True)]

        def single(layers: Layers | None) -> Linear | None:
            return None if layers is None else linears(layers, torch.float32)[0]

        self._products, self._normalised, self._width = products, network.body.normalised, network.width
        self._body = linears(network.body, products, network.streams)
        self._advantages = linears(network.advantages, torch.float32)[0]
        self._value, self._of_heads = single(network.value), single(network.of_heads)
        self._kept: list[Kept] = []

    def values(self, prepared: Tensor) -> Tensor:
        """As `QNetwork.values`."""
        return self._values(self._through(prepared, None))

    def answers(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """As `QNetwork.answers`; keeps what `back` needs."""
        self._kept = []
        hidden = self._through(prepared, self._kept)
        values = self._values(hidden)
        return values, values[:, :0] if self._of_heads is None else _linear(hidden, self._of_heads)

    def back(self, by_values: Tensor, by_heads: Tensor | None = None) -> None:
        """Write the gradients of a loss from those by the last `answers`, float32 (n, actions) and (n, heads), once."""
        kept, self._kept = self._kept, []  # what is freed early is used again while the processor has it at hand
        by_hidden = self._by_hidden(kept[-1].active.float(), by_values, by_heads).to(self._products)
        for layer, of_layer in zip(reversed(self._body), reversed(kept), strict=True):
            _relu_backward(by_hidden, of_layer.active, 0, grad_input=by_hidden)
            if self._normalised:
                rows, shape = of_layer.found.view(-1, layer.width), (layer.width,)
                given = (by_hidden.view_as(rows), rows, shape, of_layer.mean, of_layer.scale, layer.ones, layer.zeros)
                by_hidden = _layer_norm_backward(*given, [True, False, False])[0].view_as(of_layer.found)
            layer.learn(by_hidden, of_layer.inputs)
            if layer is not self._body[0]:
                by_hidden = by_hidden @ of_layer.weight

    def _through(self, prepared: Tensor, kept: list[Kept] | None) -> Tensor:
        """The last hidden layer, float32 (n, streams x width)."""
        active = prepared.to(self._products)
        for layer in self._body:
            inputs, weight = active, layer.weight.to(self._products)
            found = mean = scale = nn.functional.linear(inputs, weight, layer.bias.to(self._products))
            if self._normalised:
                rows, shape = found.view(-1, layer.width), (layer.width,)
                active, mean, scale = torch.native_layer_norm(rows, shape, layer.ones, layer.zeros, EPSILON)
                active = active.relu_().view_as(found)
            else:
                active = found.relu_()
            if kept is not None:
                kept.append(Kept(inputs, weight, found, mean, scale, active))
        return active.float()

    def _values(self, hidden: Tensor) -> Tensor:
        advantages = _linear(hidden[:, -self._width :], self._advantages)
        if self._value is None:
            return advantages
        return advantages.sub_(advantages.mean(dim=1, keepdim=True)).add_(
            _linear(hidden[:, : self._width], self._value)
        )

    def _by_hidden(self, hidden: Tensor, by_values: Tensor, by_heads: Tensor | None) -> Tensor:
        """The gradient by the last hidden layer, (n, streams x width); what the last layers learn."""
        by_advantages = by_values
        if self._value is not None:
            by_advantages = by_values - by_values.mean(dim=1, keepdim=True)
        self._advantages.learn(by_advantages, hidden[:, -self._width :])
        found = by_advantages @ self._advantages.weight
        if self._value is not None:
            by_value = by_values.sum(dim=1, keepdim=True)
            self._value.learn(by_value, hidden[:, : self._width])
            found = torch.cat([by_value @ self._value.weight, found], dim=1)
        if self._of_heads is not None and by_heads is not None:
            self._of_heads.learn(by_heads, hidden)
            found.addmm_(by_heads, self._of_heads.weight)
        return found


def _linear(hidden: Tensor, layer: Linear) -> Tensor:
    return nn.functional.linear(hidden, layer.weight, layer.bias)
