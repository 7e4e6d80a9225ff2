"""The policy runtime against numpy: right answers, every refusal at the door, and failures that are events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.effects import AskPolicy
from daemon.core.events import PolicyAnswered, PolicyFailed
from daemon.models.runtime import CPU, CUDA, OnnxPolicy
from daemon.models.store import LoadedModel, ModelError, load
from strategies.golden import golden_observations
from strategies.kit.contract import Observation, Spec, Strategy, View
from strategies.kit.manifest import POLICY_FILE, Golden
from strategies.option_scalper import SPEC, OptionScalper
from tests.support.examples import examples
from tests.support.models.layers import LAYERS, loaded, opened, plain
from tests.support.models.tiny_models import forward, graph, mlp, put, weights

onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
onnxruntime = pytest.importorskip("onnxruntime", reason="one of the extras cpu and gpu brings onnxruntime")

SHAPE = (20, 23)
GOLDEN = golden_observations(OptionScalper())
SEVENTH = 20  # position_side, the 21st feature, of the first row


@pytest.fixture(scope="module")
def policy() -> OnnxPolicy:
    return opened(plain())


def node(kind: str, inputs: list[str], output: str, **attributes: object) -> Any:
    return onnx.helper.make_node(kind, inputs, [output], **attributes)


def with_golden(model: LoadedModel, golden: Golden) -> LoadedModel:
    manifest = msgspec.structs.replace(model.manifest, golden=golden)
    return LoadedModel(model.version, model.path, manifest, model.digest, model.policy)


def refusal(model: LoadedModel, strategy: Strategy | None = None) -> tuple[str, str]:
    with pytest.raises(ModelError) as caught:
        opened(model, strategy)
    return caught.value.check, str(caught.value)


def ask(values: npt.ArrayLike, hidden: bytes = b"", shape: tuple[int, ...] = SHAPE) -> AskPolicy:
    data = np.asarray(values, dtype="<f4").tobytes()
    return AskPolicy(decision=41, valid_until_ns=99, observation=Observation(data, shape, hidden))


def failed(policy: OnnxPolicy, question: AskPolicy) -> str:
    event = policy.answer(question, 7)
    assert isinstance(event, PolicyFailed), event
    assert (event.time_ns, event.decision) == (7, 41)
    return event.reason


# --- answers --------------------------------------------------------------------------------------------------------


def test_an_answer_carries_time_decision_and_version_and_has_the_logits_of_numpy(policy: OnnxPolicy) -> None:
    event = policy.answer(AskPolicy(41, 99, GOLDEN[3]), 7)
    assert isinstance(event, PolicyAnswered)
    assert (event.time_ns, event.decision, event.model, event.hidden) == (7, 41, "v1", b"")
    assert event.logits == pytest.approx(forward(LAYERS, GOLDEN[3].array()), abs=1e-5)
    assert all(type(logit) is float for logit in event.logits)


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_every_answer_is_what_numpy_computes(policy: OnnxPolicy, seed: int, scale: float) -> None:
    values = (np.random.default_rng(seed).standard_normal(SHAPE) * scale).astype(np.float32)
    event = policy.answer(ask(values), 7)
    assert isinstance(event, PolicyAnswered)
    assert event.logits == pytest.approx(forward(LAYERS, values), abs=2e-6 * max(1.0, 10 * scale))


def test_the_full_network_of_the_scalper_answers_like_numpy() -> None:
    layers = weights((460, 256, 128, 64, 32, 6), seed=3)
    model = loaded(mlp(layers), lambda observation: forward(layers, observation.array()))
    runtime = opened(model)
    for observation in GOLDEN:
        event = runtime.answer(AskPolicy(41, 99, observation), 7)
        assert isinstance(event, PolicyAnswered)
        assert event.logits == pytest.approx(forward(layers, observation.array()), abs=1e-5)


def test_the_same_question_has_the_same_answer_to_the_bit_whatever_was_asked_between(policy: OnnxPolicy) -> None:
    first = policy.answer(AskPolicy(41, 99, GOLDEN[0]), 7)
    policy.answer(ask(np.zeros(SHAPE)), 7)
    policy.answer(ask(np.full(SHAPE, np.nan)), 7)
    policy.answer(AskPolicy(42, 99, GOLDEN[1]), 8)
    assert policy.answer(AskPolicy(41, 99, GOLDEN[0]), 7) == first


def test_a_model_exported_for_batches_of_one_only_is_run_too() -> None:
    matrix, bias = weights((460, 6))[0]
    nodes = [node("Flatten", ["observation"], "flat"), node("Gemm", ["flat", "matrix", "bias"], "logits")]
    fixed = graph(nodes, {"observation": (1, *SHAPE)}, {"logits": (1, 6)}, {"matrix": matrix, "bias": bias})
    runtime = opened(loaded(fixed, lambda observation: forward(((matrix, bias),), observation.array())))
    assert isinstance(runtime.answer(AskPolicy(41, 99, GOLDEN[0]), 7), PolicyAnswered)


def test_what_runs_is_what_was_checked_though_the_file_changes_afterwards(tmp_path: Path) -> None:
    good = plain()
    folder = put(tmp_path, good.manifest, good.policy)
    model = load(tmp_path, OptionScalper())
    (folder / POLICY_FILE).write_bytes(mlp(weights(seed=8)))
    event = opened(model).answer(AskPolicy(41, 99, GOLDEN[0]), 7)
    assert isinstance(event, PolicyAnswered)
    assert event.logits == pytest.approx(forward(LAYERS, GOLDEN[0].array()), abs=1e-5)


# --- failures are events --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(19, 23), (1, 1), (21, 23), (0, 23)])
def test_an_observation_of_another_size_fails(policy: OnnxPolicy, shape: tuple[int, int]) -> None:
    assert "expected (20, 23)" in failed(policy, ask(np.zeros(shape), shape=shape))
    assert "expected 1840" in failed(policy, ask(np.zeros(shape)))


def test_an_observation_turned_on_its_side_fails(policy: OnnxPolicy) -> None:
    assert "shape (23, 20), expected (20, 23)" in failed(policy, ask(np.zeros((23, 20)), shape=(23, 20)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_fails_even_where_a_relu_would_swallow_it(
    policy: OnnxPolicy, value: float
) -> None:
    values = np.zeros(SHAPE, dtype=np.float32)
    values[11, 5] = value
    assert "observation holds NaN" in failed(policy, ask(values))


def test_a_hidden_state_for_a_policy_without_memory_fails(policy: OnnxPolicy) -> None:
    assert "hidden state of 4 bytes, expected none" in failed(policy, ask(np.zeros(SHAPE), hidden=bytes(4)))


def test_logits_that_are_not_finite_fail() -> None:
    """The fourth power of 1e15 is beyond float32, so its weighted sum is infinite or not a number."""
    matrix = weights((460, 6))[0][0]
    nodes = [
        node("Flatten", ["observation"], "flat"),
        node("Mul", ["flat", "flat"], "square"),
        node("Mul", ["square", "square"], "fourth"),
        node("MatMul", ["fourth", "matrix"], "logits"),
    ]
    data = graph(nodes, {"observation": ("batch", *SHAPE)}, {"logits": ("batch", 6)}, {"matrix": matrix})
    runtime = opened(
        loaded(data, lambda observation: (observation.array().reshape(-1).astype(np.float64) ** 4 @ matrix).tolist())
    )
    assert "expected finite" in failed(runtime, ask(np.full(SHAPE, 1e15)))
    assert isinstance(runtime.answer(AskPolicy(41, 99, GOLDEN[0]), 7), PolicyAnswered)


def test_a_model_that_raises_fails_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Looks its logits up in a table of three rows by the position's side; a seventh row there is not."""
    table = np.arange(18, dtype=np.float32).reshape(3, 6)
    nodes = [
        node("Flatten", ["observation"], "flat"),
        node("Gather", ["flat", "column"], "side", axis=1),
        node("Cast", ["side"], "row", to=onnx.TensorProto.INT64),
        node("Gather", ["table", "row"], "logits", axis=0),
    ]
    constants = {"table": table, "column": np.array(SEVENTH)}
    data = graph(nodes, {"observation": ("batch", *SHAPE)}, {"logits": ("batch", 6)}, constants)
    runtime = opened(loaded(data, lambda observation: table[int(observation.array()[0, SEVENTH])].tolist()))
    values = np.zeros(SHAPE)
    values[0, SEVENTH] = 7
    assert "Gather" in failed(runtime, ask(values))
    assert capfd.readouterr() == ("", "")
    values[0, SEVENTH] = 1
    event = runtime.answer(ask(values), 7)
    assert isinstance(event, PolicyAnswered)
    assert event.logits == (6.0, 7.0, 8.0, 9.0, 10.0, 11.0)


# --- refusals at the door -------------------------------------------------------------------------------------------


def test_another_golden_logit_is_refused_with_its_number_and_both_values() -> None:
    model = plain()
    golden = model.manifest.golden
    third = (*golden.logits[3][:2], golden.logits[3][2] + 2e-4, *golden.logits[3][3:])
    logits = (*golden.logits[:3], third, *golden.logits[4:])
    check, text = refusal(with_golden(model, Golden(golden.observations, logits)))
    assert check == "golden output"
    assert "golden output 3 differs" in text
    assert f"expected {third[2]!r}" in text


class RaisesOverBars(OptionScalper):
    """Imports, and raises at the first bar."""

    def observe(self, *_: object) -> Any:
        raise ZeroDivisionError("volume is 0")


def test_a_strategy_that_raises_over_the_golden_bars_is_refused_by_name() -> None:
    check, text = refusal(plain(), RaisesOverBars())
    assert check == "golden"
    assert "option_scalper raises over the golden bars (ZeroDivisionError: volume is 0)" in text


def test_the_weights_of_another_model_are_refused_by_the_golden_outputs() -> None:
    assert "golden output 0 differs" in refusal(plain(mlp(weights(seed=8))))[1]


def test_a_golden_logit_within_the_tolerance_is_accepted() -> None:
    model = plain()
    golden = model.manifest.golden
    near = tuple(tuple(logit + 5e-5 for logit in row) for row in golden.logits)
    assert opened(with_golden(model, Golden(golden.observations, near))).version == "v1"


def test_a_golden_row_of_another_length_is_refused() -> None:
    model = plain()
    golden = model.manifest.golden
    short = (golden.logits[0][:5], *golden.logits[1:])
    assert "found 6 values, expected 5" in refusal(with_golden(model, Golden(golden.observations, short)))[1]


def test_another_golden_observation_is_refused_with_its_number_and_both_values() -> None:
    model = plain()
    golden = model.manifest.golden
    row = np.frombuffer(golden.observations[2], dtype="<f4").copy()
    expected = float(row[100])
    row[100] += 3e-6
    observations = (*golden.observations[:2], row.tobytes(), *golden.observations[3:])
    check, text = refusal(with_golden(model, Golden(observations, golden.logits)))
    assert check == "golden input"
    assert "golden input 2 differs" in text
    assert f"at 100, expected {expected!r}" in text


def test_a_golden_observation_that_is_cut_or_missing_is_refused() -> None:
    model = plain()
    golden = model.manifest.golden
    inputs = (golden.observations[0][:-4], *golden.observations[1:])
    assert (
        "golden input 0 has 1836 bytes, expected 1840" in refusal(with_golden(model, Golden(inputs, golden.logits)))[1]
    )
    fewer = Golden(golden.observations[:-1], golden.logits[:-1])
    assert "there are 6, expected 7" in refusal(with_golden(model, fewer))[1]
    assert refusal(with_golden(model, Golden(golden.observations, golden.logits[:-1])))[0] == "golden output"


def test_a_model_that_answers_nan_is_refused() -> None:
    matrix, bias = weights((460, 6))[0]
    nodes = [
        node("Flatten", ["observation"], "flat"),
        node("Gemm", ["flat", "matrix", "bias"], "any"),
        node("Sqrt", ["negative"], "nan"),
        node("Add", ["any", "nan"], "logits"),
    ]
    constants = {"matrix": matrix, "bias": bias, "negative": np.full(6, -1.0, dtype=np.float32)}
    data = graph(nodes, {"observation": ("batch", *SHAPE)}, {"logits": ("batch", 6)}, constants)
    check, text = refusal(loaded(data, lambda _: [0.0] * 6))
    assert check == "golden output"
    assert "golden output 0 fails" in text


def test_inputs_and_outputs_of_another_name_or_shape_are_refused() -> None:
    assert refusal(plain(mlp(LAYERS, output="scores")))[0] == "graph outputs"
    check, text = refusal(plain(mlp(LAYERS, shape=(23, 20))))
    assert check == "graph inputs"
    assert "23, 20" in text
    assert "20, 23" in text
    assert refusal(plain(mlp(weights((460, 5)))))[0] == "graph outputs"


def test_an_input_of_float64_is_refused() -> None:
    model = onnx.load_model_from_string(mlp(LAYERS))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    model.graph.node.insert(0, node("Cast", ["observation"], "single", to=onnx.TensorProto.FLOAT))
    model.graph.node[1].input[0] = "single"
    check, text = refusal(plain(model.SerializeToString()))
    assert check == "graph inputs"
    assert "tensor(double)" in text


def test_a_graph_that_wants_a_hidden_state_is_refused_for_a_strategy_without_one() -> None:
    assert refusal(loaded(recurrent_graph(), lambda _: [0.0] * 6))[0] == "graph inputs"


@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin", "{absolute}"])
def test_a_graph_whose_weights_lie_outside_of_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The file is there, in the working directory and in the version's folder alike."""
    matrix = LAYERS[0][0]
    version = tmp_path / "version"
    version.mkdir()
    for folder in (tmp_path, version):
        (folder / "weights.bin").write_bytes(matrix.tobytes())
    monkeypatch.chdir(version)
    model = onnx.load_model_from_string(mlp(LAYERS))
    outside = next(item for item in model.graph.initializer if item.name == "matrix0")
    outside.ClearField("raw_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    where = place.replace("{absolute}", str(version / "weights.bin"))
    outside.external_data.add(key="location", value=where)
    model_there = plain(model.SerializeToString())
    model_there = LoadedModel("v1", version, model_there.manifest, model_there.digest, model_there.policy)
    check, text = refusal(model_there)
    assert check == "graph"
    assert "all weights inside" in text


@pytest.mark.parametrize("data", [b"no graph", b"", mlp(LAYERS)[:-100]], ids=["text", "empty", "cut"])
def test_bytes_that_are_no_graph_are_refused(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    model = plain()
    assert refusal(LoadedModel("v1", model.path, model.manifest, model.digest, data))[0] == "graph"
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime offers CUDA")
def test_cuda_asked_for_where_it_is_not_is_refused_with_the_extra_to_install() -> None:
    with pytest.raises(
        ModelError, match=r"policy\.provider is cuda, found only .*CPU.*install the extra gpu"
    ) as caught:
        OnnxPolicy.open(plain(), OptionScalper(), "cuda", 1)
    assert caught.value.check == "provider"


def test_cpu_asked_for_is_cpu_and_auto_is_what_there_is() -> None:
    assert opened(plain()).provider == CPU
    assert OnnxPolicy.open(plain(), OptionScalper(), "auto", 1).provider in {CPU, CUDA}


# --- policies with a memory -----------------------------------------------------------------------------------------

MEMORY = 4
INTO = weights((460, MEMORY), seed=5)[0][0]
OUT = weights((MEMORY, 6), seed=6)[0][0]


class Remembering(OptionScalper):
    """The scalper as a strategy whose policy carries a state of four values, zeros at first."""

    __slots__ = ()
    spec = msgspec.structs.replace(SPEC, recurrent_shape=(MEMORY,))

    def observe(self, state: Any, bars: Any, view: View) -> tuple[Any, Observation | None]:
        state, observation = super().observe(state, bars, view)
        return state, None if observation is None else Observation(
            observation.data, observation.shape, bytes(4 * MEMORY)
        )


def recurrent_graph() -> bytes:
    """next_hidden = hidden / 2 + observation x INTO; logits = next_hidden x OUT."""
    nodes = [
        node("Flatten", ["observation"], "flat"),
        node("MatMul", ["flat", "into"], "new"),
        node("Mul", ["hidden", "half"], "kept"),
        node("Add", ["kept", "new"], "next_hidden"),
        node("MatMul", ["next_hidden", "out"], "logits"),
    ]
    return graph(
        nodes,
        {"observation": ("batch", *SHAPE), "hidden": ("batch", MEMORY)},
        {"logits": ("batch", 6), "next_hidden": ("batch", MEMORY)},
        {"into": INTO, "out": OUT, "half": np.array(0.5, dtype=np.float32)},
    )


def remembered() -> LoadedModel:
    """The manifest's golden answers are those of one sequence from the zero state, by numpy."""
    model = loaded(recurrent_graph(), lambda _: [0.0] * 6, strategy=Remembering())
    states, state = [], np.zeros(MEMORY)
    for observation in GOLDEN:
        state = state / 2 + observation.array().reshape(-1).astype(np.float64) @ INTO
        states.append(state)
    return with_golden(
        model,
        msgspec.structs.replace(
            model.manifest.golden,
            logits=tuple(tuple((state @ OUT).tolist()) for state in states),
            hidden=tuple(state.astype("<f4").tobytes() for state in states),
        ),
    )


def remembering() -> OnnxPolicy:
    return opened(remembered(), Remembering())


def test_a_hidden_state_is_fed_back_by_the_caller_and_carries_what_was_seen() -> None:
    runtime = remembering()
    hidden, expected = bytes(4 * MEMORY), np.zeros(MEMORY)
    for observation in GOLDEN:
        event = runtime.answer(ask(observation.array(), hidden), 7)
        assert isinstance(event, PolicyAnswered)
        hidden, expected = event.hidden, expected / 2 + observation.array().reshape(-1).astype(np.float64) @ INTO
        assert np.frombuffer(hidden, dtype="<f4") == pytest.approx(expected, abs=1e-5)
        assert event.logits == pytest.approx(expected @ OUT, abs=1e-5)


class Copying:
    """A session that copies an input when it is bound, as one on a GPU does; outputs stay where they are."""

    def __init__(self, session: Any) -> None:
        self._session, self._sess = session, session._sess

    def get_providers(self) -> list[str]:
        return [CUDA]

    def io_binding(self) -> Any:
        binding = self._session.io_binding()
        bind = binding.bind_ortvalue_input
        binding.bind_ortvalue_input = lambda name, value: bind(
            name, onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy().copy())
        )
        return binding


def test_where_inputs_are_copied_each_answer_is_of_its_own_observation() -> None:
    session = onnxruntime.InferenceSession(mlp(LAYERS), providers=[CPU])
    here, copied = (OnnxPolicy(one, SPEC, "v1") for one in (session, Copying(session)))
    for observation in GOLDEN:
        question = ask(observation.array())
        assert copied.answer(question, 7) == here.answer(question, 7)
    assert here.answer(ask(GOLDEN[0].array()), 7) != here.answer(ask(GOLDEN[1].array()), 7)


@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu and a CUDA device")
def test_a_gpu_answers_each_observation_and_carries_what_was_seen() -> None:
    runtime = OnnxPolicy.open(remembered(), Remembering(), "cuda", 1)
    assert runtime.provider == CUDA
    hidden, expected = bytes(4 * MEMORY), np.zeros(MEMORY)
    for observation in GOLDEN:
        event = runtime.answer(ask(observation.array(), hidden), 7)
        assert isinstance(event, PolicyAnswered)
        hidden, expected = event.hidden, expected / 2 + observation.array().reshape(-1).astype(np.float64) @ INTO
        assert np.frombuffer(hidden, dtype="<f4") == pytest.approx(expected, abs=1e-5)
        assert event.logits == pytest.approx(expected @ OUT, abs=1e-5)


def test_without_a_hidden_state_a_policy_with_a_memory_starts_from_zeros() -> None:
    runtime = remembering()
    runtime.answer(ask(GOLDEN[1].array(), np.ones(MEMORY, dtype="<f4").tobytes()), 7)
    implicit, explicit = (runtime.answer(ask(GOLDEN[0].array(), hidden), 7) for hidden in (b"", bytes(4 * MEMORY)))
    assert implicit == explicit


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ((), "there are 0 hidden states, expected 7"),
        ((bytes(12),) * 7, "found 4 values, expected 3"),
        ((bytes(13),) * 7, "found 4 values, expected 0"),
        ((np.full(MEMORY, 1e3, dtype="<f4").tobytes(),) * 7, "expected 1000.0"),
    ],
)
def test_a_policy_that_remembers_something_else_than_its_manifest_says_is_refused(
    hidden: tuple[bytes, ...], message: str
) -> None:
    model = remembered()
    check, text = refusal(
        with_golden(model, msgspec.structs.replace(model.manifest.golden, hidden=hidden)), Remembering()
    )
    assert check == "golden output"
    assert message in text


def test_a_hidden_state_that_is_cut_or_not_finite_fails() -> None:
    runtime = remembering()
    assert "hidden state of 12 bytes, expected 16" in failed(runtime, ask(np.zeros(SHAPE), bytes(12)))
    bad_state = np.full(MEMORY, np.nan, dtype="<f4").tobytes()
    assert "hidden state holds NaN" in failed(runtime, ask(np.zeros(SHAPE), bad_state))


def test_a_graph_without_a_hidden_state_is_refused_for_a_strategy_that_has_one() -> None:
    assert refusal(plain(), Remembering())[0] == "graph inputs"


# --- policies whose answers are actions -----------------------------------------------------------------------------


class ActingSpec(Spec, frozen=True):
    """A spec that decides at each bar, and whose policy answers with real numbers."""

    @property
    def continuous(self) -> bool:
        return True


class Acting(OptionScalper):
    """The scalper as a strategy whose policy answers with six numbers from -1 to 1."""

    __slots__ = ()
    spec = ActingSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__})


def acting(scale: float) -> LoadedModel:
    """actions = scale x tanh(observation x matrix)."""
    matrix = weights((460, 6))[0][0]
    nodes = [
        node("Flatten", ["observation"], "flat"),
        node("MatMul", ["flat", "matrix"], "sum"),
        node("Tanh", ["sum"], "bent"),
        node("Mul", ["bent", "scale"], "actions"),
    ]
    constants = {"matrix": matrix, "scale": np.array(scale, dtype=np.float32)}
    policy = graph(nodes, {"observation": ("batch", *SHAPE)}, {"actions": ("batch", 6)}, constants)
    return loaded(
        policy,
        lambda observation: (scale * np.tanh(observation.array().reshape(-1).astype(np.float64) @ matrix)).tolist(),
        strategy=Acting(),
    )


def test_the_actions_of_a_continuous_policy_come_as_they_are() -> None:
    event = opened(acting(1.0), Acting()).answer(ask(np.full(SHAPE, 50.0)), 7)
    assert isinstance(event, PolicyAnswered)
    expected = np.tanh(np.full(460, 50.0) @ weights((460, 6))[0][0].astype(np.float64))
    assert event.logits == pytest.approx(expected, abs=1e-5)


def test_an_action_beyond_one_fails_and_is_no_golden_answer() -> None:
    check, text = refusal(acting(1.5), Acting())
    assert check == "golden output"
    assert "expected -1 to 1" in text


def test_a_policy_of_logits_is_refused_where_actions_are_expected() -> None:
    model = loaded(mlp(LAYERS), lambda observation: forward(LAYERS, observation.array()), strategy=Acting())
    assert refusal(model, Acting())[0] == "graph outputs"


def test_a_failure_that_a_graph_s_own_names_reach_into_is_one_printable_line() -> None:
    evil = "\x1b]52;c;b3duZWQ=\x07\r\n"
    data = graph(
        [
            node("Flatten", ["observation"], "flat", axis=1),
            node("ReduceMax", ["flat"], "most", keepdims=0),
            onnx.helper.make_node("Cast", ["most"], ["row"], to=onnx.TensorProto.INT64),
            onnx.helper.make_node("Gather", ["table", "row"], ["picked"], name=evil),  # beyond its end for 5,000
            node("Gemm", ["flat", "matrix"], "plain"),
            node("Add", ["plain", "picked"], "logits"),
        ],
        {"observation": ("batch", *SHAPE)},
        {"logits": ("batch", 6)},
        {"matrix": np.zeros((460, 6), np.float32), "table": np.zeros((1000, 6), np.float32)},
    )
    policy = opened(loaded(data, lambda _: [0.0] * 6))
    observation = Observation(np.full(SHAPE, 5000.0, "<f4").tobytes(), SHAPE)
    failed = policy.answer(AskPolicy(1, 9, observation), 7)
    assert isinstance(failed, PolicyFailed)
    assert "Gather" in failed.reason
    assert failed.reason.isprintable()
