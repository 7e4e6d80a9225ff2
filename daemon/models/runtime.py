"""The policy runtime: which models answer `AskPolicy`, live and as a candidate, each with one ONNX session.

The only daemon file that imports onnxruntime. A model is frozen: it returns raw logits, or a failure with its reason.
Invariants: `open` returns only a policy that gave its golden answers here, on this machine and provider; `answer` never
raises; the live policy changes only when the engine has stepped its `ModelPromoted`, never in the middle of a bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from io import StringIO
from math import isfinite
from typing import Any, Literal

import msgspec
import numpy as np
import onnxruntime

from daemon.core.effects import AskPolicy
from daemon.core.events import Event, ModelPromoted, PolicyAnswered, PolicyFailed, ShadowAnswered, ShadowFailed
from daemon.core.state import State
from daemon.core.step import Step
from daemon.host.printable import printable
from daemon.models.store import LoadedModel, ModelError
from strategies.golden import GOLDEN_SYMBOLS, golden_observations
from strategies.kit.contract import Answer, AnyStrategy, Observation, Spec
from strategies.kit.manifest import POLICY_FILE, answer_name, memory_shape, output_shapes

Provider = Literal["auto", "cuda", "cpu"]

NO_MODEL = "none"  # the version's name where there is none
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
INPUT_TOLERANCE = 1e-6  # largest difference of a golden observation's value
LOGIT_TOLERANCE = 1e-4  # largest difference of a golden logit
ACTION_MOST = 1.0 + 1e-6  # of a continuous policy, whose last operation may round

SLOW_NS = 20_000_000  # a candidate may not hold the trading loop longer than this
SLOW_ROW_NS = 2_000_000  # the same for each symbol of one that answers row by row
STRIKES = 3  # failed or slow answers in a row that switch the candidate off

_FATAL = 4  # onnxruntime's log severity: a failed run raises; keep standard error quiet
_FAILURES: tuple[type[Exception], ...] = (Exception,)  # onnxruntime's exceptions share no other base


class _Buffer:
    """A float32 tensor of `rows` rows of this shape that onnxruntime reads or writes in place."""

    __slots__ = ("bytes", "shaped", "size", "values")

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        self.shaped = np.zeros((rows, *shape), dtype="<f4")
        self.values = self.shaped.reshape(-1)  # the same memory, flat
        self.bytes = self.values.data.cast("B")
        self.size = self.values.nbytes


class OnnxPolicy:
    """A verified policy over preallocated buffers: one caller at a time. Made by `open`."""

    __slots__ = (
        "_binding",
        "_continuous",
        "_heads",
        "_hidden",
        "_inputs",
        "_logits",
        "_next_memory",
        "_observation",
        "_run_bound",
        "_shape",
        "digest",
        "provider",
        "rows",
        "version",
    )

    def __init__(self, session: Any, spec: Spec, version: str, digest: str = "", members: int = 1) -> None:
        """Bind buffers of the spec's shapes to an `onnxruntime.InferenceSession` whose signature was checked.

        `members` is the number of policies in the graph, each with its own memory.
        """
        self.version = version
        self.digest = digest  # of the graph's bytes
        self.provider: str = session.get_providers()[0]
        self._binding = session.io_binding()
        # past the wrapper, which looks for WebGPU each time, and with options, whose absence costs a longer search
        self._run_bound = partial(session._sess.run_with_iobinding, self._binding._iobinding, onnxruntime.RunOptions())
        self._inputs: list[tuple[str, Any]] = []
        self.rows = spec.rows  # of one answer
        self._shape = spec.asked_shape
        self._observation = self._bind("input", "observation", spec.observation_shape)
        self._continuous = spec.continuous
        self._hidden = None
        memory = memory_shape(spec, members)
        if memory is not None:
            self._hidden = self._bind("input", "hidden", memory)
        outputs = {name: self._bind("output", name, shape) for name, shape in output_shapes(spec, members).items()}
        self._logits = outputs[answer_name(spec)]
        self._next_memory = outputs.get("next_hidden")
        self._heads = {head.name: outputs[head.name] for head in spec.heads}

    @classmethod
    def open(
        cls, model: LoadedModel, strategy: AnyStrategy, provider: Provider = "auto", threads: int = 1
    ) -> OnnxPolicy:
        """Return a policy that runs `model` and has given its golden answers.

        Args:
            provider: `cuda` requires the GPU, `auto` takes it where onnxruntime offers it, `cpu` never does.
            threads: for the arithmetic of one answer.

        Raises:
            ModelError: the provider is absent, the graph cannot be loaded or keeps weights outside of itself, its
                inputs or outputs differ from the spec, or golden observations or logits differ from the manifest's.
        """
        session = _session(model, provider, threads)
        spec, members = strategy.spec, model.manifest.members
        _check_signature(session, model, spec)
        if not spec.rows_are_symbols:
            policy = cls(session, spec, model.version, model.digest, members)
            policy._check_golden(model, _golden(strategy))
            return policy
        golden_policy = cls(session, msgspec.structs.replace(spec, symbols=GOLDEN_SYMBOLS), model.version)
        golden_policy._check_golden(model, _golden(strategy))
        return cls(session, spec, model.version, model.digest)

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered | PolicyFailed:
        """Return the raw answer to the question's observation, as an event at `now_ns`; a failure is an event too.

        A recurrent policy starts from the zero state where the observation brings no hidden state. Failures: an
        observation or hidden state of another size or not finite, logits, heads or a next hidden state that are not
        finite, actions of a continuous policy beyond [-1, 1], and any exception of onnxruntime.
        """
        try:
            answer = self._infer(question.observation)
        except _FAILURES as error:
            return PolicyFailed(now_ns, question.decision, printable(f"{type(error).__name__}: {error}"))
        return PolicyAnswered(now_ns, question.decision, answer.logits, answer.hidden, self.version, answer.heads)

    def cost_s(self, observation: Observation) -> float:
        """Return the processor seconds of one answer to this observation. Raises as a failed answer does."""
        began = time.process_time()
        self._infer(observation)
        return time.process_time() - began

    def _bind(self, kind: Literal["input", "output"], name: str, shape: tuple[int, ...]) -> _Buffer:
        buffer = _Buffer(self.rows, shape)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(buffer.shaped)
        if kind == "input":
            self._inputs.append((name, value))
            self._binding.bind_ortvalue_input(name, value)
        else:
            self._binding.bind_ortvalue_output(name, value)
        return buffer

    def _run(self) -> None:
        """Answer for the input buffers' contents. Binding copies them to a GPU, so it is done each time."""
        if self.provider != CPU:
            for name, value in self._inputs:
                self._binding.bind_ortvalue_input(name, value)
            self._binding.synchronize_inputs()
        self._run_bound()
        if self.provider != CPU:
            self._binding.synchronize_outputs()

    def _infer(self, observation: Observation) -> Answer:
        """Return the answer. ValueError when not finite or of another size."""
        if observation.shape != self._shape:
            raise ValueError(f"observation of shape {observation.shape}, expected {self._shape}")
        _fill(self._observation, observation.data, "observation")
        if self._hidden is not None:
            _fill(self._hidden, observation.hidden or bytes(self._hidden.size), "hidden state")
        elif observation.hidden:
            raise ValueError(
                f"hidden state of {len(observation.hidden)} bytes, expected none: the policy has no memory"
            )
        self._run()
        logits = self._logits.values.tolist()
        if not isfinite(sum(logits)):  # a float64 sum of float32 values is finite if and only if all are
            raise ValueError(f"logits {logits}, expected finite ones: the model is broken for this observation")
        if self._continuous and not -ACTION_MOST <= min(logits) <= max(logits) <= ACTION_MOST:
            raise ValueError(f"actions from {min(logits)} to {max(logits)}, expected -1 to 1: export the model again")
        heads = {name: _finite(name, head) for name, head in self._heads.items()} if self._heads else {}
        memory_after = self._next_memory
        if memory_after is None:
            return Answer(tuple(logits), b"", heads)
        if not isfinite(memory_after.values.dot(memory_after.values)):
            raise ValueError(
                "next hidden state is not finite, expected finite values: the model is broken for this one"
            )
        return Answer(tuple(logits), memory_after.values.tobytes(), heads)

    def _check_golden(self, model: LoadedModel, observations: tuple[Observation, ...]) -> None:
        """Check the strategy's observations and the answers to them against the manifest."""
        golden = model.manifest.golden
        for check, golden_values in (("golden input", golden.observations), ("golden output", golden.logits)):
            if len(golden_values) != len(observations):
                raise _differs(model, check, f"there are {len(golden_values)}, expected {len(observations)}")
        for number, (own_observation, golden_observation) in enumerate(
            zip(observations, golden.observations, strict=True)
        ):
            if len(golden_observation) != len(own_observation.data):
                raise _differs(
                    model,
                    "golden input",
                    f"{number} has {len(golden_observation)} bytes, expected {len(own_observation.data)}",
                )
            golden_row = np.frombuffer(golden_observation, dtype="<f4").tolist()
            difference = _first_difference(
                golden_row, np.frombuffer(own_observation.data, "<f4").tolist(), INPUT_TOLERANCE
            )
            if difference:
                raise _differs(model, "golden input", f"{number} differs: {difference}, this code's observation")
        self._check_answers(model, observations)

    def _check_answers(self, model: LoadedModel, observations: tuple[Observation, ...]) -> None:
        """Compare each golden answer. A recurrent policy answers them as one sequence from the zero state."""
        golden, hidden = model.manifest.golden, b""
        if (count := len(golden.hidden)) != (expected := len(observations) if self._hidden is not None else 0):
            raise _differs(model, "golden output", f"there are {count} hidden states, expected {expected}")
        if (count := len(golden.heads)) != (expected := len(observations) if self._heads else 0):
            raise _differs(model, "golden output", f"there are {count} answers of heads, expected {expected}")
        for number, (own_observation, logits) in enumerate(zip(observations, golden.logits, strict=True)):
            try:
                answer = self._infer(Observation(own_observation.data, own_observation.shape, hidden))
            except _FAILURES as error:
                raise _differs(model, "golden output", f"{number} fails: {error}") from error
            hidden = answer.hidden
            difference = _first_difference(answer.logits, logits, LOGIT_TOLERANCE)
            if not difference and self._hidden is not None:
                difference = _first_difference(_numbers(hidden), _numbers(golden.hidden[number]), LOGIT_TOLERANCE)
            for name, values in answer.heads.items():
                head = golden.heads[number].get(name, ())
                apart = _first_difference(values, head, LOGIT_TOLERANCE)
                difference = difference or (f"{name}: {apart}" if apart else None)
            if difference:
                raise _differs(
                    model, "golden output", f"{number} differs on {self.provider}: {difference}, the manifest's"
                )


def _golden(strategy: AnyStrategy) -> tuple[Observation, ...]:
    """Return the golden observations. Raises ModelError where the strategy itself cannot make them."""
    try:
        return golden_observations(strategy)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ModelError("golden", f"{strategy.spec.name} raises over the golden bars ({cause}): mend it") from error


def _finite(name: str, head: _Buffer) -> tuple[float, ...]:
    """Return a head's values. ValueError where one is not finite."""
    values = head.values.tolist()
    if not isfinite(sum(values)):
        raise ValueError(f"{name} holds NaN or infinity, expected finite values: the model is broken for this one")
    return tuple(values)


def _numbers(data: bytes) -> list[float]:
    """Return float32 bytes as numbers; none if their number is no multiple of four."""
    return [] if len(data) % 4 else np.frombuffer(data, dtype="<f4").tolist()


def _fill(buffer: _Buffer, data: bytes, name: str) -> None:
    """Copy float32 bytes into the buffer. ValueError when they are of another size or not finite."""
    if len(data) != buffer.size:
        raise ValueError(f"{name} of {len(data)} bytes, expected {buffer.size}: the strategy's spec says otherwise")
    buffer.bytes[:] = data
    if not isfinite(buffer.values.dot(buffer.values)):  # a ReLU would hide a NaN as 0
        raise ValueError(
            f"{name} holds NaN, infinity or values beyond 1e17, expected finite features: look at the bars"
        )


def _differs(model: LoadedModel, check: str, difference: str) -> ModelError:
    cure = "export the model again with this code, or run the code and the libraries it was exported with"
    return ModelError(check, f"{model.path}: {check} {difference}: {cure}")


def _first_difference(actual: Sequence[float], expected: Sequence[float], tolerance: float) -> str | None:
    """Describe where two rows of numbers differ by more than `tolerance` (or are no numbers); None when nowhere."""
    if len(actual) != len(expected):
        return f"found {len(actual)} values, expected {len(expected)}"
    for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
        if not abs(left - right) <= tolerance:
            return f"found {left!r} at {index}, expected {right!r} within {tolerance}"
    return None


@cache
def _load_cuda() -> None:
    """Load the CUDA libraries installed by pip; the system's are found without this.

    It prints what it does not find, and the session then reports that it is not on the GPU. Done once, with the first
    model of a start: nothing else prints then.
    """
    with redirect_stdout(StringIO()):
        onnxruntime.preload_dlls()


def _session(model: LoadedModel, provider: Provider, threads: int) -> Any:
    """Return an `onnxruntime.InferenceSession` over the verified bytes on the requested provider."""
    cuda = provider != "cpu" and CUDA in onnxruntime.get_available_providers()
    cure = "install the extra gpu (onnxruntime-gpu) and NVIDIA's driver, or set policy.provider to auto or cpu"
    if provider == "cuda" and not cuda:
        providers = ", ".join(onnxruntime.get_available_providers())
        raise ModelError("provider", f"policy.provider is cuda, found only {providers}: {cure}")
    if cuda:
        _load_cuda()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    # Weights outside of the graph would escape its digest: point their folder to a place where no file can be.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(model.path.resolve() / POLICY_FILE / "none")
    )
    on_gpu: list[Any] = [(CUDA, {"use_tf32": "0"})]  # TF32 keeps 10 bits of a product: less exact than the tolerance
    try:
        session = onnxruntime.InferenceSession(model.policy, options, providers=[*(on_gpu if cuda else []), CPU])
    except _FAILURES as error:
        raise ModelError(
            "graph",
            f"{model.path} cannot be loaded by onnxruntime ({error}), expected one whole graph with all weights "
            f"inside: export the model again",
        ) from error
    runs_on = session.get_providers()[0]
    if provider == "cuda" and runs_on != CUDA:
        raise ModelError("provider", f"policy.provider is cuda, found the session on {runs_on}: {cure}")
    return session


def _check_signature(session: Any, model: LoadedModel, spec: Spec) -> None:
    """Check names, types and shapes of inputs and outputs, and the order of the outputs of a policy with heads.

    The first dimension is the batch: free, or 1 where rows are no symbols.
    """
    members = model.manifest.members
    inputs, outputs = {"observation": spec.observation_shape}, output_shapes(spec, members)
    memory = memory_shape(spec, members)
    if memory is not None:
        inputs["hidden"] = memory
    fixed_axes = () if spec.rows_are_symbols else (1,)
    for kind, nodes, shapes in (("inputs", session.get_inputs(), inputs), ("outputs", session.get_outputs(), outputs)):
        node_types = {node.name: (node.type, *node.shape) for node in nodes}
        expected = {name: ("tensor(float)", "batch", *shape) for name, shape in shapes.items()}
        names_match = (
            [*node_types] == [*expected] if spec.heads and kind == "outputs" else node_types.keys() == expected.keys()
        )
        same = names_match and all(
            node_types[name][0] == "tensor(float)"
            and len(node_types[name]) > 1
            and (node_types[name][1] in fixed_axes or not isinstance(node_types[name][1], int))
            and node_types[name][2:] == expected[name][2:]
            for name in expected
        )
        if not same:
            raise ModelError(
                f"graph {kind}",
                f"{model.path} has {node_types}, expected {expected}: export the model again with this code",
            )


class NoPolicy:
    """Stands in for a policy where no model can be loaded: it answers nothing."""

    provider = "none"
    version = NO_MODEL

    def __init__(self, rows: int, reason: str) -> None:
        self.rows, self._reason = rows, reason

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyFailed:
        """Return the failure."""
        return PolicyFailed(now_ns, question.decision, self._reason)


# --- live, staged and candidate ---------------------------------------------------------------------------------------


class Models:
    """The loaded policies: the live one, the one staged to replace it, the candidate. For the event loop's thread.

    Constructed with the policy that is live from the start. `clock_ns` measures a candidate's answers.
    `on_shadow_off(version, reason)` is called when the candidate is switched off; it must not raise.
    """

    def __init__(
        self, policy: OnnxPolicy | NoPolicy, model: LoadedModel, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.running = model
        self.shadow: LoadedModel | None = None
        self.on_shadow_off: Callable[[str, str], None] = lambda _version, _reason: None
        self._policy: OnnxPolicy | NoPolicy = policy
        self._next: tuple[OnnxPolicy, LoadedModel] | None = None
        self._candidate: OnnxPolicy | None = None
        self._strikes = 0
        self._clock_ns = clock_ns

    # --- the engine's side ----------------------------------------------------------------------------------------

    def answer(self, question: AskPolicy, now_ns: int) -> PolicyAnswered | PolicyFailed:
        """Return the live policy's answer, under its version's name. Never raises."""
        return self._policy.answer(question, now_ns)

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed | None:
        """Return the candidate's answer to the same question; None without a candidate. Never raises.

        It uses the state's memory if that is of this version, else zeros. A candidate that fails, or takes more than 20
        ms (2 ms a symbol where rows are symbols and that is more), three times in a row, is switched off.
        """
        policy, model = self._candidate, self.shadow
        if policy is None or model is None:
            return None
        began = self._clock_ns()
        try:
            answer = _ask(policy, question, state)
        except _FAILURES as error:  # after any error the desk trades on
            answer = ShadowFailed(state.now_ns, question.decision, _problem(error), model.version)
        took_ns = self._clock_ns() - began
        self._judge(model.version, answer, took_ns, max(SLOW_NS, SLOW_ROW_NS * policy.rows))
        return answer

    def observe(self, event: Event, _: Step) -> None:
        """Called after every step: from a `ModelPromoted` on, the staged policy is live.

        Raises RuntimeError when no staged policy matches the event: a bug.
        """
        if type(event) is not ModelPromoted:
            return
        next_model = self._next
        if next_model is not None and _is(next_model[1], event):
            (self._policy, self.running), self._next = next_model, None
        elif not _is(self.running, event):  # after a crash the event may be repeated for the running policy
            raise RuntimeError(f"ModelPromoted names {event.version} ({event.digest[:8]}), and no such one was staged")

    # --- the lifecycle's side -------------------------------------------------------------------------------------

    def stage(self, policy: OnnxPolicy, model: LoadedModel) -> None:
        """Hold a verified policy ready for the `ModelPromoted` that names it, replacing an earlier one."""
        self._next = (policy, model)

    def set_candidate(self, policy: OnnxPolicy, model: LoadedModel) -> None:
        """Make a verified policy the candidate, from the next question on."""
        self._candidate, self.shadow, self._strikes = policy, model, 0

    def drop_candidate(self) -> None:
        """Remove the candidate."""
        self._candidate = self.shadow = None

    def _judge(self, version: str, answer: ShadowAnswered | ShadowFailed, took_ns: int, most_ns: int) -> None:
        if isinstance(answer, ShadowFailed):
            problem = f"no answer: {answer.reason}"
        elif took_ns > most_ns:
            problem = f"{took_ns / 1e6:.0f} ms for an answer, expected at most {most_ns / 1e6:.0f}"
        else:
            self._strikes = 0
            return
        self._strikes += 1
        if self._strikes >= STRIKES:
            self.drop_candidate()
            self.on_shadow_off(version, f"switched off after {STRIKES} in a row: {problem}")


def _ask(policy: OnnxPolicy, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed:
    """Return the policy's answer to the question's observation with its own memory."""
    live = question.observation
    memory = state.shadow.hidden if state.shadow.model == policy.version else b""
    memory_question = msgspec.structs.replace(question, observation=Observation(live.data, live.shape, memory))
    match policy.answer(memory_question, state.now_ns):
        case PolicyAnswered() as answer:
            return ShadowAnswered(
                state.now_ns, question.decision, answer.logits, answer.hidden, policy.version, answer.heads
            )
        case failure:
            return ShadowFailed(state.now_ns, question.decision, failure.reason, policy.version)


def _problem(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _is(model: LoadedModel, event: ModelPromoted) -> bool:
    return (model.version, model.digest) == (event.version, event.digest)
