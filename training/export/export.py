"""From a torch policy to a version in the model store: one ONNX graph, its manifest and its report, all or nothing.

A version appears under its name by one rename, after it was read back with onnxruntime and agreed with torch. Its files
need no torch to be used, hold all weights in `policy.onnx`, and name no path of the machine that made them. The
comparison of torch's and onnxruntime's answers, and the allowed difference, are at the end.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from daemon.host.whole_files import write_whole
from strategies.golden import contract_hash, golden_observations, own_values
from strategies.kit.contract import AnyStrategy, Float32Array, Observation, Spec
from strategies.kit.manifest import (
    FORMAT,
    MANIFEST_FILE,
    POLICY_FILE,
    Golden,
    Manifest,
    Reference,
    StatedClaim,
    Training,
    answer_name,
    encode,
    memory_shape,
    output_shapes,
)
from strategies.registry import entry
from training.export.ensemble import count_of
from training.export.shelf import ExportError, put_version, refuse_to_replace
from training.rl.kernels import plain_float32

OPSET = 20
DRAWING = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
)
"""ONNX operators with random outputs."""


@dataclass(frozen=True, slots=True)
class Release:
    """The facts about a policy besides its weights. `version` None: named by its last session and its digest.

    `report(folder, digest, version)` writes the report's files into the version's folder for the policy of that digest.
    """

    training: Training
    hyperparameters: dict[str, Any]
    metrics: dict[str, Any]
    report: Callable[[Path, str, str], object] | None = None
    version: str | None = None
    label: str = ""  # a word within that name
    promoted: bool = False
    note: str = ""
    rules: Mapping[str, str] = field(default_factory=dict)  # see `strategies.kit.manifest.Manifest`, also for `desk`
    desk: Mapping[str, str] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()  # see `Manifest`; the symbols trained on, where a configuration may name others
    reference: Reference | None = None  # what live features and actions are compared with
    claim: StatedClaim | None = None  # the version's claim
    sign: Callable[[Path, bytes], object] | None = None  # adds a signature of these bytes of the manifest to the folder


def export(
    policy: nn.Module,
    strategy: AnyStrategy,
    release: Release,
    *,
    out: Path,
    probes: Float32Array,
) -> Path:
    """Write `<out>/<strategy>/<version>/`; returns this folder. No pointer moves: `activate` does that.

    Args:
        policy: raw observations, float32 (batch, *observation shape), to logits, float32 (batch, actions); of a
            continuous policy to actions in [-1, 1]. A recurrent policy also takes the state, float32 (batch, *hidden),
            and returns the next one. The heads of the spec follow, each float32 (batch, *shape). Where rows are
            symbols, an observation is a row, and a continuous policy's answer has the shape (batch,).
        out: the model store. A version of the same name and contract is replaced.
        probes: float32 (n, *observation shape), real observations on which torch and onnxruntime must agree; a policy
            with a memory sees them as one sequence.

    Raises:
        ExportError: answers that are not finite, of another shape, or further from onnxruntime's than
            `allowed_difference` says; or a version of the same name has another contract.
    """
    shelf = out / strategy.spec.name
    return put_version(shelf, lambda folder: _write(policy.eval(), strategy, release, folder, probes, shelf))


class Exported(nn.Module):
    """An exported policy, from a file or bytes, as a module: onnxruntime on one thread, CPU tensors.

    Exporting it again gives the same graph.
    """

    def __init__(self, graph: Path | bytes) -> None:
        super().__init__()
        self.graph = graph if isinstance(graph, bytes) else graph.read_bytes()
        self._session = session_of(self.graph)

    def forward(self, observation: torch.Tensor, hidden: torch.Tensor | None = None) -> Any:
        """The answers; of a policy with heads or a memory these as well."""
        inputs = {"observation": observation.numpy()} | ({} if hidden is None else {"hidden": self._memory(hidden)})
        answers = [torch.from_numpy(answer) for answer in self._session.run(None, inputs)]
        return answers[0] if len(answers) == 1 else tuple(answers)

    @property
    def repeatable(self) -> bool:
        """Whether equal inputs give equal answers: no node of the graph is random."""
        model = onnx.load_model_from_string(self.graph)
        nodes = (node for part in (model.graph, *model.functions) for node in _nodes(part))
        return not any(node.op_type in DRAWING for node in nodes)

    def answers(self, observations: Float32Array) -> Float32Array:
        """The answers of a policy without a memory to observations, float32 (n, *observation shape)."""
        answers: Float32Array = self._session.run(None, {"observation": observations})[0]
        return answers

    def _memory(self, hidden: torch.Tensor) -> Float32Array:
        """The hidden state in the graph's shape; a state of one member is used for every member."""
        (shape,) = (node.shape for node in self._session.get_inputs() if node.name == "hidden")
        if hidden.dim() == len(shape) - 1:
            hidden = hidden.unsqueeze(1).expand(-1, *shape[1:]).contiguous()
        memory: Float32Array = hidden.numpy()
        return memory


def _nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph or function, and of the graphs within them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _write(
    policy: nn.Module, strategy: AnyStrategy, release: Release, folder: Path, probes: Float32Array, shelf: Path
) -> str:
    """Write a version into `folder`, checked by reading it back; returns its name. `shelf` has the others."""
    spec, contract = strategy.spec, contract_hash(strategy)
    golden = golden_observations(strategy)
    golden_array = np.stack([observation.array() for observation in golden]).reshape(-1, *spec.observation_shape)
    members = count_of(policy)
    memory = memory_shape(spec, members)
    answers = torch_answers(policy, memory, golden_array)
    _check_answers(spec, answers, len(golden_array))
    path = folder / POLICY_FILE
    write_whole(path, onnx_bytes(policy, golden_array, spec))
    for name, observations in (("golden", golden_array), ("real", probes), ("single", probes[:1])):
        largest = difference(torch_answers(policy, memory, observations), onnx_answers(path, memory, observations))
        most = TOLERANCE if largest <= TOLERANCE else allowed_difference(policy, memory, observations)
        if not largest <= most:
            raise ExportError(
                f"torch and onnxruntime differ by {largest} on {len(observations)} {name} observations; expected at "
                f"most {most}: look for an operation of the module that the exporter does not keep exact"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    values = hashlib.sha256(spec.config.encode()).hexdigest()[:6] if entry(spec.name).parameters and spec.config else ""
    words = (release.training.last_session, release.label, digest[:8], values)  # one graph serves all values of a rule
    version = release.version or "-".join(filter(None, words))
    refuse_to_replace(shelf / version, contract)
    if release.report is not None:
        release.report(folder, digest, version)
    manifest = Manifest(
        format=FORMAT,
        strategy=spec.name,
        version=version,
        contract_hash=contract,
        policy_sha256=digest,
        observation_shape=spec.observation_shape,
        actions=spec.actions,
        golden=_golden(spec, golden, answers),
        training=release.training,
        hyperparameters=release.hyperparameters,
        metrics=release.metrics,
        promoted=release.promoted,
        note=release.note,
        rules=dict(release.rules),
        desk=dict(release.desk),
        symbols=release.symbols,
        reference=release.reference,
        claim=release.claim,
        values=own_values(strategy),
        members=members,
        model_config=msgspec.json.decode(spec.config) if spec.config else {},
        model_config_digest=hashlib.sha256(spec.config.encode()).hexdigest() if spec.config else "",
        files={
            extra.name: hashlib.sha256(extra.read_bytes()).hexdigest()
            for extra in sorted(folder.iterdir())
            if extra.name != POLICY_FILE
        },
    )
    data = encode(manifest)
    write_whole(folder / MANIFEST_FILE, data)
    if release.sign is not None:
        release.sign(folder, data)
    return version


def _golden(spec: Spec, observations: Sequence[Observation], answered: RawAnswers) -> Golden:
    """The golden answers, one for each observation."""
    n = len(observations)
    names = [head.name for head in spec.heads]
    rows = zip(*(head.reshape(n, -1).tolist() for head in answered.heads), strict=True)
    return Golden(
        observations=tuple(observation.data for observation in observations),
        logits=tuple(map(tuple, answered.answers.reshape(n, -1).tolist())),
        hidden=() if answered.states is None else tuple(row.astype("<f4").tobytes() for row in answered.states),
        heads=tuple(dict(zip(names, map(tuple, heads), strict=True)) for heads in rows),
    )


def _check_answers(spec: Spec, answered: RawAnswers, count: int) -> None:
    """Raises ExportError where `count` answers do not match the strategy's spec."""
    answers = answered.answers
    shapes = {name: shape for name, shape in output_shapes(spec).items() if name != "next_hidden"}
    if len(answered.heads) != len(spec.heads):
        raise ExportError(
            f"the policy gives {len(answered.heads)} heads; expected {', '.join(shapes)}: return one tensor for each"
        )
    for (name, shape), output in zip(shapes.items(), (answers, *answered.heads), strict=True):
        finite = bool(np.isfinite(output).all())
        if output.shape != (count, *shape) or not finite:
            raise ExportError(
                f"the policy gives {name} of shape {output.shape}, finite: {finite}; expected finite ones of shape "
                f"{(count, *shape)}: check the module and its training"
            )
    if answer_name(spec) == "actions" and float(np.abs(answers).max()) > 1.0:
        raise ExportError(
            f"the policy gives actions from {answers.min()} to {answers.max()}; expected -1 to 1: end it with tanh"
        )


def onnx_bytes(policy: nn.Module, example: Float32Array, spec: Spec) -> bytes:
    """The policy as a serialised ONNX model with a dynamic batch and without paths of this machine.

    Args:
        example: observations, float32 (n, *observation shape), to trace it with.

    Raises:
        ExportError: a weight is outside of the model.
    """
    if isinstance(policy, Exported):
        return policy.graph
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about torchvision, which is not used
    inputs, outputs, examples = ["observation"], [*output_shapes(spec)], [torch.from_numpy(example)]
    memory = memory_shape(spec, count_of(policy))
    if memory is not None:
        inputs = [*inputs, "hidden"]
        examples.append(torch.zeros(len(example), *memory))
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            policy,
            tuple(examples),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in examples),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.doc_string = ""
    del model.metadata_props[:]
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    for initializer in model.graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
        if initializer.external_data:
            raise ExportError(f"{initializer.name} is stored outside of the model; expected all weights inside")
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


TOLERANCE = 1e-5  # largest difference between torch and onnxruntime, relative to the largest answer if that is above 1
ROUNDINGS = 20.0  # allowed multiple of rounding for steep networks: onnxruntime's tanh differs in the last bits
MOST = 1e-4  # upper limit for every network: a desk refuses golden answers that differ by more


class RawAnswers(NamedTuple):
    """Answers, float32 (n, actions), and of a policy with a memory its states after each, float32 (n, *hidden).

    `heads` are those of the spec in their order, float32 (n, *shape of the head). Where rows are symbols, n counts rows
    and the answers have the shape (n,).
    """

    answers: Float32Array
    states: Float32Array | None = None
    heads: tuple[Float32Array, ...] = ()


def run_onnx(path: Path, observations: Float32Array) -> Float32Array:
    """Answers, float32 (n, actions), that onnxruntime gives to observations, float32 (n, *shape), on one thread.

    Of a policy with a memory use `run_onnx_sequence`.
    """
    answers: Float32Array = session_of(path).run(None, {"observation": observations})[0]
    return answers


def run_onnx_sequence(path: Path, observations: Float32Array, hidden: tuple[int, ...]) -> RawAnswers:
    """onnxruntime's answers to one sequence of observations from the zero state, on one thread."""
    session = session_of(path)

    def step(observation: Float32Array, state: Float32Array) -> Sequence[Float32Array]:
        answers: Sequence[Float32Array] = session.run(None, {"observation": observation, "hidden": state})
        return answers

    return _in_sequence(step, observations, hidden)


def session_of(graph: Path | bytes) -> Any:
    """A session of onnxruntime over a graph, on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _in_sequence(
    step: Callable[[Float32Array, Float32Array], Sequence[Float32Array]],
    observations: Float32Array,
    hidden: tuple[int, ...],
) -> RawAnswers:
    steps = []
    state = np.zeros((1, *hidden), dtype=np.float32)
    for index in range(len(observations)):
        steps.append(step(observations[index : index + 1], state))
        state = steps[-1][1]
    answers, states, *heads = (np.concatenate(output) for output in zip(*steps, strict=True))
    return RawAnswers(answers, states, tuple(heads))


def difference(first: RawAnswers, second: RawAnswers) -> float:
    """The largest difference between answers, and between states and heads where there are any.

    Float32 rounds in proportion: where answers are above 1, it is a share of the largest.
    """
    pairs = [(first.answers, second.answers), *zip(first.heads, second.heads, strict=True)]
    if first.states is not None and second.states is not None:
        pairs.append((first.states, second.states))
    return max(float(np.abs(mine - theirs).max()) / max(1.0, float(np.abs(mine).max())) for mine, theirs in pairs)


def allowed_difference(policy: nn.Module, memory: tuple[int, ...] | None, observations: Float32Array) -> float:
    """How far onnxruntime may be from torch: `TOLERANCE`, or `ROUNDINGS` times what the last bits of its inputs change.

    The change is measured with every observed number moved to a neighbouring float32. The result is at most `MOST`.
    """
    signs = np.where(np.random.default_rng(0).random(observations.shape) < 0.5, -1.0, 1.0)
    near = np.nextafter(observations, observations + signs.astype(np.float32))
    rounding = difference(torch_answers(policy, memory, observations), torch_answers(policy, memory, near))
    return min(max(TOLERANCE, ROUNDINGS * rounding), MOST)


def onnx_answers(path: Path, memory: tuple[int, ...] | None, observations: Float32Array) -> RawAnswers:
    """onnxruntime's answers; a recurrent policy gets the observations as one sequence."""
    if memory is None:
        answers, *heads = session_of(path).run(None, {"observation": observations})
        return RawAnswers(answers, None, tuple(heads))
    return run_onnx_sequence(path, observations, memory)


@torch.no_grad()
def torch_answers(policy: nn.Module, memory: tuple[int, ...] | None, observations: Float32Array) -> RawAnswers:
    """torch's answers; a recurrent policy gets the observations as one sequence."""

    def step(observation: Float32Array, state: Float32Array) -> Sequence[Float32Array]:
        return [output.numpy() for output in policy(torch.from_numpy(observation), torch.from_numpy(state))]

    with plain_float32():
        if memory is not None:
            return _in_sequence(step, observations, memory)
        outputs = policy(torch.from_numpy(observations))
        answers, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
        return RawAnswers(answers.numpy(), None, tuple(head.numpy() for head in heads))
