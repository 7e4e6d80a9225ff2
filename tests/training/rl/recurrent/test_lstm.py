"""The hand-written LSTM against torch's: outputs, all gradients, and finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.examples import examples
from tests.support.rl.layers import assert_close, gradients_of, normals
from training.rl.recurrent import lstm
from training.rl.recurrent.lstm import Lstm, recurrence


@settings(max_examples=examples(25))
@given(
    steps=st.integers(1, 6),
    batch=st.integers(1, 9),
    inputs=st.integers(1, 5),
    hidden=st.integers(1, 7),
    layers=st.integers(1, 2),
    chunk=st.integers(2, 9),
    every=st.booleans(),
)
def test_outputs_and_all_gradients_are_those_of_torch(
    steps: int, batch: int, inputs: int, hidden: int, layers: int, chunk: int, every: bool
) -> None:
    torch.manual_seed(steps + 10 * batch)
    torch_lstm = nn.LSTM(inputs, hidden, layers, batch_first=True)
    rows = normals(batch, steps, inputs).requires_grad_()
    weight = normals(steps, batch, hidden, seed=1) if every else normals(batch, hidden, seed=1)
    tensors, parameters = [rows, *torch_lstm.parameters()], list(torch_lstm.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm, "CHUNK", chunk)
        results = gradients_of(lambda: recurrence(rows.transpose(0, 1), parameters, every=every), tensors, weight)

    def outputs() -> Tensor:
        output: Tensor = torch_lstm(rows)[0]
        return output.transpose(0, 1) if every else output[:, -1]

    expected = gradients_of(outputs, tensors, weight)
    assert_close([results[0], *results[1]], [expected[0], *expected[1]])


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_agree_with_finite_differences(layers: int, every: bool) -> None:
    torch.manual_seed(3)
    module = nn.LSTM(2, 3, layers, dtype=torch.float64)
    parameters = [parameter.detach().requires_grad_() for parameter in module.parameters()]
    rows = normals(4, 2, 2, dtype=torch.float64).requires_grad_()

    def run(rows: Tensor, *parameters: Tensor) -> Tensor:
        return recurrence(rows, parameters, every=every)

    assert torch.autograd.gradcheck(run, (rows, *parameters))


def test_the_scalpers_size_agrees_with_float64_over_several_chunks() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(23, 64, 2, batch_first=True)
    exact = nn.LSTM(23, 64, 2, batch_first=True, dtype=torch.float64)
    exact.load_state_dict(module.state_dict())
    rows, weight = normals(700, 20, 23), normals(700, 64, seed=1) / 700
    results = gradients_of(
        lambda: recurrence(rows.transpose(0, 1), list(module.parameters())), list(module.parameters()), weight
    )
    expected = gradients_of(lambda: exact(rows.double())[0][:, -1], list(exact.parameters()), weight.double())
    assert_close([results[0].double(), *(gradient.double() for gradient in results[1])], [expected[0], *expected[1]])


def test_extreme_inputs_saturate_and_stay_finite() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(2, 3, 2, batch_first=True)
    rows = torch.tensor([[[1e4, -1e4], [-1e9, 1e9], [3e30, 3e30]]])
    results = gradients_of(
        lambda: recurrence(rows.transpose(0, 1), list(module.parameters())),
        list(module.parameters()),
        torch.ones(1, 3),
    )
    expected = gradients_of(lambda: module(rows)[0][:, -1], list(module.parameters()), torch.ones(1, 3))
    assert_close([results[0]], [expected[0]])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in results[1])


def test_under_autocast_the_products_are_bfloat16_and_the_result_stays_near() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(23, 64, 2, batch_first=True)
    parameters = list(module.parameters())
    rows, weight = normals(50, 20, 23), normals(50, 64, seed=1)
    expected = gradients_of(lambda: module(rows)[0][:, -1], parameters, weight)
    for given_rows in (rows, rows.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            output = recurrence(given_rows.transpose(0, 1), parameters)
        gradients = torch.autograd.grad((output * weight).sum(), parameters)
        assert output.dtype == torch.float32
        assert float((output.detach() - expected[0]).abs().max()) > 1e-6
        assert_close([output.detach(), *gradients], [expected[0], *expected[1]], tolerance=2e-2)


@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), [(20, 50, 23, 64), (7, 33, 5, 8), (3, 7, 3, 5)])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_what_lies_in_memory_that_was_never_written_reaches_no_result(
    steps: int, batch: int, inputs: int, hidden: int, products: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.LSTM(inputs, hidden, 2, batch_first=True)
    monkeypatch.setattr(lstm, "_free", [])
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        with torch.autocast("cpu", products, enabled=products != torch.float32):
            output = recurrence(normals(steps, batch, inputs), list(module.parameters()))
        gradients = torch.autograd.grad(output.sum(), list(module.parameters()))
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in (output, *gradients))


def test_a_second_backward_and_one_without_kept_buffers_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.LSTM(3, 4, 2, batch_first=True)
    parameters, rows = list(module.parameters()), normals(6, 5, 3)
    loss = recurrence(rows.transpose(0, 1), parameters).square().sum()
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    between = recurrence(rows.transpose(0, 1) + 1.0, parameters).sum()  # takes the buffers that were given back
    torch.autograd.grad(between, parameters)
    second = torch.autograd.grad(loss, parameters)
    monkeypatch.setattr(lstm, "KEPT_BYTES", 0)
    third = torch.autograd.grad(recurrence(rows.transpose(0, 1), parameters).square().sum(), parameters)
    for one, two, three in zip(first, second, third, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_buffers_first_used_in_inference_mode_serve_training_too() -> None:
    layer = Lstm(3, 5, 1, torch.Generator().manual_seed(0))
    rows, parameters = normals(7, 2, 3), list(layer.parameters())
    with torch.inference_mode():
        expected = recurrence(rows, parameters, every=True).clone()
    output = recurrence(rows, parameters, every=True)
    assert output.requires_grad
    assert torch.equal(output.detach(), expected)


def test_two_runs_before_their_backwards_do_not_share_buffers() -> None:
    module = nn.LSTM(3, 4, 1, batch_first=True)
    parameters = list(module.parameters())
    one, two = normals(2, 5, 3), normals(2, 5, 3, seed=1)
    together = recurrence(one.transpose(0, 1), parameters).sum() + recurrence(two.transpose(0, 1), parameters).sum()
    gradients = torch.autograd.grad(together, parameters)
    expected = torch.autograd.grad(module(one)[0][:, -1].sum() + module(two)[0][:, -1].sum(), parameters)
    assert_close(list(gradients), list(expected))


def test_with_and_without_gradients_the_layer_gives_the_same_within_rounding() -> None:
    layer = Lstm(23, 64, 2, torch.Generator().manual_seed(0))
    rows = normals(40, 20, 23)
    with torch.no_grad():
        alone = layer(rows)
    assert layer(rows).requires_grad
    assert_close([layer(rows).detach()], [alone])


@pytest.mark.parametrize(("layers", "steps"), [(3, 2), (1, 0)])
def test_what_it_cannot_run_over_is_refused_with_what_was_found(layers: int, steps: int) -> None:
    module = nn.LSTM(3, 4, layers)
    with pytest.raises(ValueError, match=rf"found {layers} layers over inputs \({steps}, 2, 3\)"):
        recurrence(torch.zeros(steps, 2, 3), list(module.parameters()))
