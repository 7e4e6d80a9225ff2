"""Occlusion of a linear policy is known by hand: weight times (value less baseline), whatever else the graph has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from daemon.dashboard.pages.occlusion import (
    Explainer,
    Runner,
    Unexplained,
    baseline,
    chosen_output,
    contribution,
    median,
)
from daemon.models.store import LoadedModel, load
from strategies.kit.contract import DailySpec, Observation, Spec
from strategies.kit.manifest import Histogram, Reference
from strategies.registry import strategy
from tests.support.models.daily_models import VERSION, put_switcher
from tests.support.models.swaps import publish_malicious
from tests.support.models.tiny_models import graph, manifest_of, mlp, put

SCALPER = strategy("option_scalper")
DRAW = np.random.default_rng(3)
MATRIX = DRAW.standard_normal((6, 2)).astype(np.float32)
BIAS = np.array([0.5, -0.25], np.float32)
SEEN = np.arange(1, 7, dtype=np.float32).reshape(2, 3) / 4
SMALL = Spec(
    name="option_scalper",
    revision=1,
    symbols=("SPY",),
    bar_interval_s=60,
    history_bars=1,
    window=2,
    observation_shape=(2, 3),
    dtype="float32",
    features=("a", "b", "c"),
    actions=("HOLD", "BUY"),
    temperature=1.0,
)


def loaded(policy: bytes, reference: Reference | None = None) -> LoadedModel:
    manifest = manifest_of(SCALPER, policy, (), reference=reference)
    return LoadedModel("v1", Path("v1"), manifest, "", policy)


def observation(values: np.ndarray = SEEN, hidden: bytes = b"") -> Observation:
    return Observation(values.astype("<f4").tobytes(), values.shape, hidden)


def logits(values: np.ndarray = SEEN) -> tuple[float, ...]:
    return tuple((values.reshape(-1) @ MATRIX + BIAS).tolist())


def test_each_cell_of_a_linear_policy_contributes_its_weight_times_its_value() -> None:
    runner = Runner(loaded(mlp(((MATRIX, BIAS),), (2, 3))), SMALL)
    values = contribution(runner, SMALL, observation(), logits(), 1)
    expected = MATRIX[:, 1].reshape(2, 3) * SEEN
    assert values.of == "BUY"
    np.testing.assert_allclose(values.cells, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(values.features, expected.sum(axis=0), rtol=0, atol=1e-6)
    assert values.baseline.startswith("0")


def test_with_a_reference_the_value_is_counted_from_the_trainings_median() -> None:
    bins = Histogram("b", edges=(0.1, 0.2, 0.3), shares=(0.25, 0.25, 0.25, 0.25), columns=(1,))
    reference = Reference(samples=4, features=(bins,), actions=Histogram("actions", (), (1.0,)))
    runner = Runner(loaded(mlp(((MATRIX, BIAS),), (2, 3)), reference), SMALL)
    values = contribution(runner, SMALL, observation(), logits(), 0)
    without = np.array([0.0, 0.2, 0.0])
    np.testing.assert_allclose(values.cells, MATRIX[:, 0].reshape(2, 3) * (SEEN - without), rtol=0, atol=1e-6)
    assert "median" in values.baseline


def test_the_median_is_the_edge_at_which_half_is_reached() -> None:
    assert median(Histogram("x", (1.0, 2.0, 3.0), (0.1, 0.3, 0.2, 0.4))) == 3.0
    assert median(Histogram("side", (-1.0, 0.0), (0.2, 0.7, 0.1))) == 0.0
    assert median(Histogram("last", (5.0,), (0.1, 0.9))) == 5.0
    assert median(Histogram("none", (), (1.0,))) == 0.0
    assert baseline(None, SMALL)[0].tolist() == [0.0, 0.0, 0.0]


def test_a_policy_of_batch_one_gives_the_same() -> None:
    onnx = pytest.importorskip("onnx")
    nodes = [
        onnx.helper.make_node("Flatten", ["observation"], ["flat"], axis=1),
        onnx.helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"]),
    ]
    policy = graph(nodes, {"observation": (1, 2, 3)}, {"logits": (1, 2)}, {"matrix": MATRIX, "bias": BIAS})
    values = contribution(Runner(loaded(policy), SMALL), SMALL, observation(), logits(), 1)
    np.testing.assert_allclose(values.cells, MATRIX[:, 1].reshape(2, 3) * SEEN, rtol=0, atol=1e-6)


def test_a_recurrent_policy_is_asked_with_the_memory_that_it_had() -> None:
    onnx = pytest.importorskip("onnx")
    carried = DRAW.standard_normal((4, 2)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["observation"], ["flat"], axis=1),
        onnx.helper.make_node("Gemm", ["flat", "matrix", "bias"], ["seen"]),
        onnx.helper.make_node("MatMul", ["hidden", "carried"], ["remembered"]),
        onnx.helper.make_node("Add", ["seen", "remembered"], ["logits"]),
        onnx.helper.make_node("Identity", ["hidden"], ["next_hidden"]),
    ]
    policy = graph(
        nodes,
        {"observation": ("batch", 2, 3), "hidden": ("batch", 4)},
        {"logits": ("batch", 2), "next_hidden": ("batch", 4)},
        {"matrix": MATRIX, "bias": BIAS, "carried": carried},
    )
    spec = Spec(**{name: getattr(SMALL, name) for name in SMALL.__struct_fields__} | {"recurrent_shape": (4,)})
    memory = np.array([0.1, -0.2, 0.3, 0.4], "<f4")
    logits_of_memory = tuple(np.add(logits(), memory @ carried).tolist())
    values = contribution(Runner(loaded(policy), spec), spec, observation(hidden=memory.tobytes()), logits_of_memory, 0)
    np.testing.assert_allclose(values.cells, MATRIX[:, 0].reshape(2, 3) * SEEN, rtol=0, atol=1e-6)


def test_of_a_continuous_policy_the_largest_action_is_explained() -> None:
    fields = {name: getattr(SMALL, name) for name in SMALL.__struct_fields__}
    fields |= {"observation_shape": (3,), "actions": ("X", "Y"), "bar_interval_s": 86_400}
    spec = DailySpec(**fields, continuous=True)
    matrix, values = (MATRIX[:3] / 10).astype(np.float32), SEEN[0]
    answer = tuple((values @ matrix).tolist())
    output = chosen_output(spec, "rebalance", answer)
    assert output == int(np.argmax(np.abs(answer)))
    policy = mlp(((matrix, np.zeros(2, np.float32)),), (3,), "actions")
    contributions = contribution(Runner(loaded(policy), spec), spec, observation(values), answer, output)
    np.testing.assert_allclose(contributions.cells, [matrix[:, output] * values], rtol=0, atol=1e-6)
    np.testing.assert_allclose(contributions.features, matrix[:, output] * values, rtol=0, atol=1e-6)


def test_a_model_that_answers_otherwise_than_the_journal_explains_nothing() -> None:
    runner = Runner(loaded(mlp(((MATRIX, BIAS),), (2, 3))), SMALL)
    with pytest.raises(Unexplained, match="answers otherwise"):
        contribution(runner, SMALL, observation(), (9.0, 9.0), 0)


def test_a_version_that_is_not_in_the_store_or_was_changed_is_said(tmp_path: Path) -> None:
    explainer, zeros = Explainer(tmp_path), Observation(bytes(1840), (20, 23))
    with pytest.raises(Unexplained, match="v1 is not at hand: missing folder"):
        explainer.explain(SCALPER.spec, "v1", zeros, (0.0,) * 6, "HOLD")
    policy = mlp(((DRAW.standard_normal((460, 6)).astype(np.float32), np.zeros(6, np.float32)),))
    put(tmp_path, manifest_of(SCALPER, policy, ((0.0,) * 6,) * 999), policy)
    with pytest.raises(Unexplained, match="golden answers"):
        explainer.explain(SCALPER.spec, "v1", zeros, (0.0,) * 6, "HOLD")
    with pytest.raises(Unexplained, match="names no action"):
        explainer.explain(SCALPER.spec, "v1", zeros, (0.0,) * 6, "stop_loss")


def test_a_model_made_to_harm_is_not_run_by_the_dashboard_either(tmp_path: Path) -> None:
    publish_malicious(tmp_path, "v1", "an endless Loop")
    explainer, zeros = Explainer(tmp_path), Observation(bytes(1840), (20, 23))
    with pytest.raises(Unexplained, match="v1 is not at hand: graph operator"):
        explainer.explain(SCALPER.spec, "v1", zeros, (0.0,) * 6, "HOLD")


def test_a_model_for_other_funds_is_explained_under_their_names(tmp_path: Path) -> None:
    funds = strategy("regime_switcher", ("SPY", "QQQ", "IWM", "TLT", "GLD"))
    model = load(put_switcher(tmp_path, funds.spec.symbols), funds, VERSION)
    golden = model.manifest.golden
    inputs, logits = Observation(golden.observations[0], (64,)), golden.logits[0]
    action = funds.spec.actions[int(np.argmax(logits))]
    explained = Explainer(tmp_path).explain(funds.spec, VERSION, inputs, logits, action)
    place = funds.spec.features.index("price TLT")
    without = inputs.array().copy()
    without[place] = 0.0
    logits_without = Runner(model, funds.spec).answers(without[None], b"")[0]
    output = int(np.argmax(logits))
    assert explained.cells[0][place] == pytest.approx(logits[output] - logits_without[output], abs=1e-4)
