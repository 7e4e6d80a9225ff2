"""The GRU with episodes against torch's cell: outputs, all gradients, resets; alike step by step and under autocast.

The loop of a GPU runs here on the CPU with its two kernels written out; a test on a device has the kernels themselves.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.examples import examples
from tests.support.rl.layers import assert_close, gradients_of, normals
from training.rl.recurrent import gru
from training.rl.recurrent.gru import Gru, looped


@settings(max_examples=examples(25))
@given(
    steps=st.integers(1, 6),
    batch=st.integers(1, 5),
    inputs=st.integers(1, 5),
    hidden=st.integers(1, 7),
    data=st.data(),
)
def test_outputs_and_gradients_are_those_of_torch_s_cell_with_the_state_zeroed_where_an_episode_begins(
    steps: int, batch: int, inputs: int, hidden: int, data: st.DataObject
) -> None:
    begins = data.draw(st.lists(st.booleans(), min_size=steps * batch, max_size=steps * batch))
    starts = torch.tensor(begins).view(steps, batch)
    layer = Gru(inputs, hidden, torch.Generator().manual_seed(steps + 10 * batch))
    cell = nn.GRUCell(inputs, hidden)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.layers.state_dict().items()})
    rows, state = normals(steps, batch, inputs).requires_grad_(), normals(batch, hidden, seed=2).requires_grad_()

    def by_cell() -> Tensor:
        outputs, now = [], state
        for row, fresh in zip(rows, starts, strict=True):
            now = cell(row, torch.where(fresh.unsqueeze(1), torch.zeros_like(now), now))
            outputs.append(now)
        return torch.stack(outputs)

    weight = normals(steps, batch, hidden, seed=1)
    results = gradients_of(
        lambda: layer.sequence(rows, state, starts), [rows, state, *layer.layers.parameters()], weight
    )
    expected = gradients_of(by_cell, [rows, state, *cell.parameters()], weight)
    assert_close([results[0], *results[1]], [expected[0], *expected[1]])


def test_under_autocast_results_and_gradients_keep_the_type_and_the_bits() -> None:
    layer = Gru(8, 16, torch.Generator().manual_seed(0))
    rows, weight = normals(6, 5, 8).bfloat16().float(), normals(6, 5, 16, seed=1)
    state, starts = normals(5, 16, seed=2), torch.zeros(6, 5, dtype=torch.bool)
    inputs = list(layer.parameters())
    expected = gradients_of(lambda: layer.sequence(rows, state, starts), inputs, weight)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer.sequence(rows.bfloat16(), state, starts)
        with torch.no_grad():
            stepped = layer.step(rows[0].bfloat16(), state)
    gradients = torch.autograd.grad((output * weight).sum(), inputs)
    assert output.dtype == stepped.dtype == torch.float32
    for tensor, other in zip([output.detach(), *gradients], [expected[0], *expected[1]], strict=True):
        assert torch.equal(tensor, other)
    assert_close([stepped], [expected[0][0]], tolerance=1e-6)


def test_no_gradient_flows_across_a_reset_and_none_of_the_state_before_it_is_seen() -> None:
    layer = Gru(3, 4, torch.Generator().manual_seed(0))
    rows, state = normals(5, 2, 3).requires_grad_(), normals(2, 4, seed=1).requires_grad_()
    starts = torch.zeros(5, 2, dtype=torch.bool)
    starts[2] = True
    after = layer.sequence(rows, state, starts)[2:]
    fresh = layer.sequence(rows[2:], torch.zeros(2, 4), torch.zeros(3, 2, dtype=torch.bool))
    of_rows, of_state = torch.autograd.grad(after.sum(), [rows, state])
    assert_close([after.detach()], [fresh.detach()], tolerance=1e-6)  # the products of more steps may round otherwise
    assert not of_rows[:2].any()
    assert of_rows[2:].any()
    assert not of_state.any()


def one_by_one(layer: Gru, inputs: Tensor, state: Tensor, starts: Tensor) -> Tensor:
    """All outputs by single steps."""
    outputs = []
    for now, fresh in zip(inputs, starts, strict=True):
        state = layer.step(now, state.masked_fill(fresh.unsqueeze(1), 0.0))
        outputs.append(state)
    return torch.stack(outputs)


def cell(gates: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The next state by the equations of `torch.nn.GRU`, and what the way back needs."""
    (r, z, n), (of_r, of_z, of_n) = gates.chunk(3, dim=1), hidden.chunk(3, dim=1)
    reset, update = torch.sigmoid(r + of_r), torch.sigmoid(z + of_z)
    new = torch.tanh(n + reset * of_n)
    return new + update * (state - new), torch.cat([reset, update, new, state, of_n], dim=1)


def cell_back(gradient: Tensor, space: Tensor, _: bool) -> tuple[Tensor, ...]:
    """Gradients of `cell` for its three arguments."""
    reset, update, new, state, of_n = space.chunk(5, dim=1)
    by_new = gradient * (1 - update) * (1 - new.square())
    by_update = gradient * (state - new) * update * (1 - update)
    by_reset = by_new * of_n * reset * (1 - reset)
    gates = torch.cat([by_reset, by_update, by_new], dim=1)
    hidden = torch.cat([by_reset, by_update, by_new * reset], dim=1)
    return gates, hidden, gradient * update, torch.Tensor(), torch.Tensor()


BEGINS = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]], dtype=torch.bool)


def test_the_loop_of_a_gpu_is_the_sequence_and_has_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gru, "_cell", cell)
    monkeypatch.setattr(gru, "_cell_back", cell_back)
    layer = Gru(3, 4, torch.Generator().manual_seed(0))
    for name, bias in layer.layers.named_parameters():
        if "bias" in name:
            nn.init.normal_(bias, generator=torch.Generator().manual_seed(1))
    rows, state = normals(5, 2, 3).requires_grad_(), normals(2, 4, seed=1).requires_grad_()
    parameters, weight = list(layer.layers.parameters()), normals(5, 2, 4, seed=2)
    results = gradients_of(lambda: looped(rows, state, BEGINS, *parameters), [rows, state, *parameters], weight)
    expected = gradients_of(lambda: layer.sequence(rows, state, BEGINS), [rows, state, *parameters], weight)
    assert_close([results[0], *results[1]], [expected[0], *expected[1]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_sequence_and_its_gradients_are_the_cpu_s() -> None:
    here, there = (Gru(128, 128, torch.Generator().manual_seed(0)).to(device) for device in ("cpu", "cuda"))
    starts = torch.rand(32, 64, generator=torch.Generator().manual_seed(3)) < 0.05
    rows, state, weight = normals(32, 64, 128), normals(64, 128, seed=1).tanh(), normals(32, 64, 128, seed=2)

    def results_on(layer: Gru, device: str) -> list[Tensor]:
        device_rows, before = (tensor.to(device).requires_grad_() for tensor in (rows, state))
        inputs, fresh = [device_rows, before, *layer.layers.parameters()], starts.to(device)
        output, gradients = gradients_of(lambda: layer.sequence(device_rows, before, fresh), inputs, weight.to(device))
        return [tensor.cpu() for tensor in (output, *gradients)]

    for tensor, other in zip(results_on(there, "cuda"), results_on(here, "cpu"), strict=True):
        assert float((tensor - other).norm() / other.norm()) < 1e-5


def test_steps_one_by_one_are_the_sequence_and_have_its_gradients() -> None:
    layer = Gru(3, 4, torch.Generator().manual_seed(0))
    rows, state = normals(5, 2, 3).requires_grad_(), normals(2, 4, seed=1).requires_grad_()
    starts = BEGINS
    inputs, weight = [rows, state, *layer.parameters()], normals(5, 2, 4, seed=2)
    results = gradients_of(lambda: layer.sequence(rows, state, starts), inputs, weight)
    expected = gradients_of(lambda: one_by_one(layer, rows, state, starts), inputs, weight)
    assert_close([results[0], *results[1]], [expected[0], *expected[1]])


def test_with_and_without_gradients_steps_are_the_sequence_within_a_millionth() -> None:
    layer = Gru(128, 128, torch.Generator().manual_seed(0))
    rows, state = normals(64, 6, 128), normals(6, 128, seed=1).tanh()
    starts = torch.zeros(64, 6, dtype=torch.bool)
    starts[20, :3] = True
    whole = layer.sequence(rows, state, starts).detach()
    with torch.no_grad():
        assert_close([one_by_one(layer, rows, state, starts)], [whole], tolerance=1e-6)
    assert_close([one_by_one(layer, rows, state, starts).detach()], [whole], tolerance=1e-6)
