"""The hand-written GRU against torch's: outputs, all gradients, resets, and finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from training.rl.recurrent import gru_kernel
from training.rl.recurrent.gru import Gru, recurrence


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """The comparisons are about the layer, not about who multiplies."""
    backends: Any = torch.backends  # torch adds its switches at run time, unseen by type checkers
    switch = backends.mkldnn.matmul
    before, switch.fp32_precision = switch.fp32_precision, "ieee"
    yield
    switch.fp32_precision = before


def _gradients(run: Callable[[], Tensor], wanted: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, list[Tensor]]:
    output = run()
    return output.detach(), list(torch.autograd.grad((output * weight).sum(), wanted))


def _close(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert float((mine - other).abs().max()) <= tolerance * scale


def _inputs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=25)
@given(
    steps=st.integers(1, 6),
    batch=st.integers(1, 9),
    inputs=st.integers(1, 5),
    hidden=st.integers(1, 7),
    chunk=st.integers(2, 9),
    started=st.booleans(),
)
def test_all_outputs_and_all_gradients_are_those_of_torch(
    steps: int, batch: int, inputs: int, hidden: int, chunk: int, started: bool
) -> None:
    torch.manual_seed(steps + 10 * batch)
    theirs = nn.GRU(inputs, hidden)
    rows, start = _inputs(steps, batch, inputs).requires_grad_(), _inputs(batch, hidden, seed=2).requires_grad_()
    weight = _inputs(steps, batch, hidden, seed=1)
    wanted = [rows, *theirs.parameters(), *([start] if started else [])]
    parameters = list(theirs.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gru_kernel, "CHUNK", chunk)
        ours = _gradients(lambda: recurrence(rows, parameters, start=start if started else None), wanted, weight)
    expected = _gradients(lambda: theirs(rows, start.unsqueeze(0) if started else None)[0], wanted, weight)
    _close([ours[0], *ours[1]], [expected[0], *expected[1]])


def test_the_switchers_size_agrees_with_float64_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gru_kernel, "CHUNK", 24)
    torch.manual_seed(0)
    module, exact = nn.GRU(128, 128), nn.GRU(128, 128, dtype=torch.float64)
    exact.load_state_dict(module.state_dict())
    rows, weight = _inputs(32, 64, 128), _inputs(32, 64, 128, seed=1) / 2048
    ours = _gradients(lambda: recurrence(rows, list(module.parameters())), list(module.parameters()), weight)
    expected = _gradients(lambda: exact(rows.double())[0], list(exact.parameters()), weight.double())
    _close([ours[0].double(), *(gradient.double() for gradient in ours[1])], [expected[0], *expected[1]])


@pytest.mark.parametrize("resets", [False, True])
def test_finite_differences_agree(resets: bool) -> None:
    torch.manual_seed(0)
    module = nn.GRU(2, 3, dtype=torch.float64)
    parameters = [parameter.detach().requires_grad_() for parameter in module.parameters()]
    rows = _inputs(4, 2, 2, dtype=torch.float64).requires_grad_()
    start = _inputs(2, 3, seed=1, dtype=torch.float64).requires_grad_()
    starts = torch.tensor([[False, True], [False, False], [True, False], [False, False]]) if resets else None

    def run(rows: Tensor, start: Tensor, *parameters: Tensor) -> Tensor:
        return recurrence(rows, parameters, start=start, starts=starts)

    assert torch.autograd.gradcheck(run, (rows, start, *parameters))


def test_extreme_inputs_saturate_and_stay_finite() -> None:
    torch.manual_seed(0)
    module = nn.GRU(2, 3)
    rows = torch.tensor([[[1e4, -1e4]], [[-1e9, 1e9]], [[3e30, 3e30]]])
    parameters = list(module.parameters())
    ours = _gradients(lambda: recurrence(rows, parameters), parameters, torch.ones(3, 1, 3))
    _close([ours[0]], [module(rows)[0].detach()])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in ours[1])


def test_under_autocast_results_and_gradients_keep_the_type_and_the_bits() -> None:
    layer = Gru(8, 16, torch.Generator().manual_seed(0))
    rows, weight = _inputs(6, 5, 8).bfloat16().float(), _inputs(6, 5, 16, seed=1)
    state, starts = _inputs(5, 16, seed=2), torch.zeros(6, 5, dtype=torch.bool)
    wanted = list(layer.parameters())
    expected = _gradients(lambda: layer.sequence(rows, state, starts), wanted, weight)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer.sequence(rows.bfloat16(), state, starts)
        with torch.no_grad():
            stepped = layer.step(rows[0].bfloat16(), state)
    gradients = torch.autograd.grad((output * weight).sum(), wanted)
    assert output.dtype == stepped.dtype == torch.float32
    for ours, other in zip([output.detach(), *gradients], [expected[0], *expected[1]], strict=True):
        assert torch.equal(ours, other)
    _close([stepped], [expected[0][0]], tolerance=1e-6)


def test_a_second_backward_gives_the_same_bits() -> None:
    layer = Gru(3, 4, torch.Generator().manual_seed(0))
    rows, state, starts = _inputs(6, 5, 3), torch.zeros(5, 4), torch.zeros(6, 5, dtype=torch.bool)
    loss = layer.sequence(rows, state, starts).square().sum()
    first = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    between = layer.sequence(rows + 1.0, state, starts).sum()  # takes the buffers that were given back
    torch.autograd.grad(between, list(layer.parameters()))
    second = torch.autograd.grad(loss, list(layer.parameters()))
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_two_runs_before_their_backwards_do_not_share_buffers() -> None:
    module = nn.GRU(3, 4)
    parameters = list(module.parameters())
    one, two = _inputs(5, 2, 3), _inputs(5, 2, 3, seed=1)
    ours = torch.autograd.grad(recurrence(one, parameters).sum() + recurrence(two, parameters).sum(), parameters)
    expected = torch.autograd.grad(module(one)[0].sum() + module(two)[0].sum(), parameters)
    _close(list(ours), list(expected))


def test_buffers_first_used_in_inference_mode_serve_training_too() -> None:
    layer = Gru(3, 5, torch.Generator().manual_seed(0))
    rows, state, starts = _inputs(2, 7, 3), torch.zeros(7, 5), torch.zeros(2, 7, dtype=torch.bool)
    with torch.inference_mode():
        expected = layer.sequence(rows, state, starts).clone()
    output = layer.sequence(rows, state, starts)
    assert output.requires_grad
    assert torch.equal(output.detach(), expected)


def test_no_gradient_flows_across_a_reset_and_none_of_the_state_before_it_is_seen() -> None:
    layer = Gru(3, 4, torch.Generator().manual_seed(0))
    rows, state = _inputs(5, 2, 3).requires_grad_(), _inputs(2, 4, seed=1).requires_grad_()
    starts = torch.zeros(5, 2, dtype=torch.bool)
    starts[2] = True
    after = layer.sequence(rows, state, starts)[2:]
    fresh = layer.sequence(rows[2:], torch.zeros(2, 4), torch.zeros(3, 2, dtype=torch.bool))
    of_rows, of_state = torch.autograd.grad(after.sum(), [rows, state])
    _close([after.detach()], [fresh.detach()], tolerance=1e-6)  # the products of more steps may round otherwise
    assert not of_rows[:2].any()
    assert of_rows[2:].any()
    assert not of_state.any()


def test_steps_one_by_one_are_the_sequence_and_have_its_gradients() -> None:
    layer = Gru(3, 4, torch.Generator().manual_seed(0))
    rows, state = _inputs(5, 2, 3).requires_grad_(), _inputs(2, 4, seed=1).requires_grad_()
    starts = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]], dtype=torch.bool)
    wanted, weight = [rows, state, *layer.parameters()], _inputs(5, 2, 4, seed=2)
    ours = _gradients(lambda: layer.sequence(rows, state, starts), wanted, weight)
    expected = _gradients(lambda: layer.one_by_one(rows, state, starts), wanted, weight)
    _close([ours[0], *ours[1]], [expected[0], *expected[1]])


def test_with_and_without_gradients_steps_are_the_sequence_within_a_millionth() -> None:
    layer = Gru(128, 128, torch.Generator().manual_seed(0))
    rows, state = _inputs(64, 6, 128), _inputs(6, 128, seed=1).tanh()
    starts = torch.zeros(64, 6, dtype=torch.bool)
    starts[20, :3] = True
    whole = layer.sequence(rows, state, starts).detach()
    with torch.no_grad():
        _close([layer.one_by_one(rows, state, starts)], [whole], tolerance=1e-6)
    _close([layer.one_by_one(rows, state, starts).detach()], [whole], tolerance=1e-6)


@pytest.mark.parametrize(("layers", "steps"), [(2, 2), (1, 0)])
def test_what_it_cannot_run_over_is_refused_with_what_was_found(layers: int, steps: int) -> None:
    module = nn.GRU(3, 4, layers)
    with pytest.raises(ValueError, match=rf"found {4 * layers} parameters over inputs \({steps}, 2, 3\); expected"):
        recurrence(torch.zeros(steps, 2, 3), list(module.parameters()))
