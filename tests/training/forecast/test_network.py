"""The forecaster's network: parameters, scaling, the kernel against torch's, ensembles, and the graph it becomes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from training.desks.forecast.plan import ForecastPlan
from training.forecast.network import FeatureScaling, Forecaster, ForecastNet, Frozen, Sizes, confidence_of
from training.forecast.stage import ForecasterSettings

SMALL = Sizes(features=5, window=9, channels=(4, 6), hidden=8, attention=3)
PLAIN = Frozen(FeatureScaling.none(5))


def _sequences(count: int, sizes: Sizes = SMALL, seed: int = 0) -> Tensor:
    return torch.randn(count, sizes.window, sizes.features, generator=torch.Generator().manual_seed(seed))


def _torchs_own(net: ForecastNet, prepared: Tensor) -> Tensor:
    """The same network written down once more, with torch's LSTM."""
    output = torch.relu(net.second(torch.relu(net.first(prepared.transpose(1, 2))))).transpose(1, 2)
    outputs = net.lstm.layers(output)[0]
    weights = torch.softmax(net.alignment(torch.tanh(net.score(outputs))).squeeze(-1), dim=1)
    logits: Tensor = net.head(torch.einsum("bs,bsh->bh", weights, outputs))
    return logits


def test_the_layout_has_360740_parameters() -> None:
    net = ForecastNet(Sizes(), Frozen(FeatureScaling.none(78)), seed=0)
    parts: list[tuple[nn.Module, ...]] = [
        (net.first,), (net.second,), (net.lstm,), (net.score, net.alignment), (net.head,)
    ]  # fmt: skip
    counts = [sum(p.numel() for module in part for p in module.parameters()) for part in parts]
    assert counts == [7_520, 6_208, 329_728, 16_513, 771]
    assert sum(p.numel() for p in net.parameters()) == 360_740


def test_training_and_inference_compute_what_torch_computes() -> None:
    net, prepared = ForecastNet(SMALL, PLAIN, seed=1), _sequences(7)
    expected = _torchs_own(net, prepared)
    torch.autograd.backward(expected.square().sum())
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    loss = net.balanced(prepared)
    torch.autograd.backward(loss.square().sum())
    assert torch.allclose(loss, expected, atol=1e-6)
    assert len(gradients) == len(list(net.parameters()))
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=2e-6)
    with torch.no_grad():
        assert torch.allclose(net(prepared), expected, atol=1e-6)


def test_scaling_is_mean_and_deviation_of_the_training_rows_and_clips() -> None:
    rows = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]], dtype=np.float32)
    scaling = FeatureScaling.of(rows, clip=2.0)
    assert scaling.mean.tolist() == [3.0, 5.0]
    assert scaling.scale.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0])
    sizes = Sizes(features=2, window=9, channels=(4, 6), hidden=8, attention=3)
    net = ForecastNet(sizes, Frozen(scaling), seed=0)
    normal = net.prepare(torch.tensor([[3.0 + math.sqrt(8 / 3), 4.0], [300.0, -40.0]]))
    assert normal.tolist() == [pytest.approx([1.0, -1.0]), [2.0, -2.0]]


def test_the_scaling_is_part_of_the_weights_that_are_kept() -> None:
    scaled = ForecastNet(
        SMALL, Frozen(FeatureScaling.of(_sequences(9).flatten(0, 1).numpy() * 3 + 1), (0.5, 1.0, 2.0)), seed=1
    )
    restored = ForecastNet(SMALL, PLAIN, seed=2)
    restored.load_state_dict(scaled.state_dict())
    assert torch.equal(restored(_sequences(3)), scaled(_sequences(3)))


def test_the_classes_weights_are_taken_out_of_the_answer() -> None:
    """A weighted loss has its least at w × p; where the network has learnt w × p, the answer is p."""
    weights, truth = (0.5, 1.0, 3.0), torch.tensor([0.6, 0.3, 0.1])
    net = ForecastNet(SMALL, Frozen(FeatureScaling.none(5), weights), seed=0)
    with torch.no_grad():
        for parameter in net.head.parameters():
            parameter.zero_()
        net.head.bias.copy_((truth * torch.tensor(weights)).log())
        assert torch.allclose(torch.softmax(net(_sequences(2)), dim=-1), truth.expand(2, 3), atol=1e-7)


def test_an_ensemble_is_the_mean_of_its_members_probabilities() -> None:
    members = [ForecastNet(SMALL, PLAIN, seed) for seed in range(3)]
    with torch.no_grad():
        probabilities, confidence, _ = Forecaster(members)(_sequences(4))
        expected = torch.stack([torch.softmax(member(_sequences(4)), dim=-1) for member in members]).mean(dim=0)
    assert torch.allclose(probabilities, expected, atol=1e-7)
    assert torch.allclose(confidence, expected.amax(dim=-1), atol=1e-7)


def test_a_temperature_divides_the_logits() -> None:
    member = ForecastNet(SMALL, PLAIN, seed=0)
    forecaster = Forecaster([member])
    forecaster.temperature.fill_(2.5)
    with torch.no_grad():
        logits = forecaster(_sequences(4))[0]
        assert torch.allclose(logits, torch.softmax(member(_sequences(4)) / 2.5, dim=-1), atol=1e-7)


def test_entropy_confidence_is_one_where_sure_and_zero_where_all_are_alike() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    assert confidence_of(rows, "entropy").tolist() == pytest.approx([1.0, 0.0, 1 - math.log(2) / math.log(3)], abs=1e-6)


def test_a_threshold_of_a_probability_is_one_of_the_entropy_s_confidence() -> None:
    """Of (1/2, 1/4, 1/4) the entropy is 3/2 ln 2."""
    entropy = ForecastPlan(forecaster=ForecasterSettings(confidence="entropy"), thresholds=(0.0, 0.5, 1.0))
    assert entropy.least == pytest.approx((0.0, 1.0 - 1.5 * math.log(2.0) / math.log(3.0), 1.0))
    assert ForecastPlan().least == ForecastPlan().thresholds


def test_no_members_and_an_unknown_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match="0 members"):
        Forecaster([])
    with pytest.raises(ValueError, match="'vote'"):
        Forecaster([ForecastNet(SMALL, PLAIN, seed=0)], "vote")


def test_a_window_too_short_for_the_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        Sizes(window=4)


def test_onnxruntime_answers_as_torch_does(tmp_path: Path) -> None:
    """The whole layout, two members, scaling, class weights and temperature in one graph, batches of any size."""
    sizes, path = Sizes(), tmp_path / "forecaster.onnx"
    frozen = Frozen(FeatureScaling.of(_sequences(50, sizes).flatten(0, 1).numpy() * 3 + 1), (0.7, 1.1, 1.3))
    forecaster = Forecaster([ForecastNet(sizes, frozen, seed) for seed in range(2)], "entropy").eval()
    forecaster.temperature.fill_(1.7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            forecaster,
            (_sequences(3, sizes),),
            input_names=["sequences"],
            output_names=["probabilities", "confidence"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 20)},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3, 40):
        sequences = _sequences(count, sizes, seed=count) * 4
        with torch.no_grad():
            answers = forecaster(sequences)
        for answer, expected in zip(answers, session.run(None, {"sequences": sequences.numpy()}), strict=True):
            assert np.abs(answer.numpy() - expected).max() <= 1e-6
