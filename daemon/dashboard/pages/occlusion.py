"""Contribution of each input to an answer, by occlusion: replace one input at a time, measure the change.

The method is Zeiler and Fergus (2014), section 4.2, with single inputs and whole columns instead of grey squares. The
model is the decision's own. The store verifies it, a child process tries it as the daemon does, and the dashboard's own
session runs it; the daemon is not involved.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daemon.dashboard.views import Contribution
from daemon.models.store import LoadedModel, ModelError, load
from daemon.models.trial import try_model
from strategies.kit.contract import Observation, Spec
from strategies.kit.manifest import POLICY_FILE, Histogram, Reference, answer_name, memory_shape
from strategies.registry import configured
from strategies.registry import strategy as strategy_named

BATCH = 128
SESSIONS_KEPT = 4
KEPT = 500  # contributions
SAME = 1e-3  # largest difference of an answer from the journaled one
AT_ZERO = "0: the model's manifest has no distribution of the training"
AT_MEDIAN = "the feature's median in the training, 0 where the model's manifest has none"

Float32 = npt.NDArray[np.float32]


class Unexplained(Exception):
    """There is no contribution; the text is the reason, without a path of this host."""


class Runner:
    """A model that answers a batch of observations."""

    def __init__(self, model: LoadedModel, spec: Spec) -> None:
        """Open the graph. Raises Unexplained if onnxruntime refuses it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # External weights would escape the graph's digest: this folder can never hold a file.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(model.path.resolve() / POLICY_FILE / "none")
        )
        try:
            self._session = onnxruntime.InferenceSession(model.policy, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Unexplained(f"model {model.version} cannot be run here: {type(error).__name__}") from error
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        self._batch = 1 if inputs.get("observation", [1])[:1] == [1] else BATCH
        self._output = answer_name(spec)
        self._hidden = memory_shape(spec, model.manifest.members)
        self.reference = model.manifest.reference

    def answers(self, observations: Float32, hidden: bytes) -> npt.NDArray[np.float64]:
        """Return the raw answers, one row per observation, all from the same recurrent state. Raises Unexplained."""
        rows = []
        try:
            for at in range(0, len(observations), self._batch):
                part = observations[at : at + self._batch]
                feed = {"observation": part}
                if self._hidden is not None:
                    memory = np.frombuffer(hidden, "<f4") if hidden else np.zeros(self._hidden, np.float32)
                    feed["hidden"] = np.tile(memory.reshape(1, *self._hidden), (len(part), *[1] * len(self._hidden)))
                rows.append(self._session.run([self._output], feed)[0])
        except Exception as error:
            raise Unexplained(f"the model cannot answer this observation: {type(error).__name__}") from error
        return np.concatenate(rows).astype(np.float64)


def contribution(
    runner: Runner, spec: Spec, observation: Observation, logits: tuple[float, ...], chosen: int
) -> Contribution:
    """Return each input's contribution to output `chosen`: the answer with it minus without it.

    `logits` is the journaled answer; a model that answers otherwise explains nothing. Raises Unexplained.
    """
    if spec.rows_are_symbols:
        return _of_a_row(runner, spec, observation, logits, chosen)
    rows = observation.array().reshape(-1, len(spec.features)).astype(np.float32)
    base, words = baseline(runner.reference, spec)
    count, width = rows.shape
    variants = np.repeat(rows[None], 1 + count * width + width, axis=0)
    for cell in range(count * width):
        row, column = divmod(cell, width)
        variants[1 + cell, row, column] = base[column]
    for column in range(width):
        variants[1 + count * width + column, :, column] = base[column]
    answers = runner.answers(variants.reshape(-1, *observation.shape), observation.hidden)
    if answers.shape[1] != len(logits) or not np.allclose(answers[0], logits, rtol=0, atol=SAME):
        raise Unexplained("the model of this version answers otherwise than the journal holds")
    change = answers[0, chosen] - answers[1:, chosen]
    if not np.isfinite(change).all():
        raise Unexplained("the model's answers are not finite")
    cells, features = change[: count * width].reshape(count, width), change[count * width :]
    return Contribution(
        "occlusion", spec.actions[chosen], words, tuple(map(tuple, cells.tolist())), tuple(features.tolist())
    )


def _of_a_row(
    runner: Runner, spec: Spec, observation: Observation, logits: tuple[float, ...], chosen: int
) -> Contribution:
    """Return the contributions if rows are symbols: of the chosen symbol's newest values to its own answer."""
    base, words = baseline(runner.reference, spec)
    width = len(spec.answers) // spec.rows
    place, column = divmod(chosen, width)
    row, count = observation.array()[place].reshape(-1), len(spec.features)
    variants = np.repeat(row[None], 1 + count, axis=0)
    newest = variants[1:, -count:]
    np.fill_diagonal(newest, base)
    answers = runner.answers(variants.reshape(-1, *spec.observation_shape), b"").reshape(-1, width)[:, column]
    if not np.allclose(answers[0], logits[chosen], rtol=0, atol=SAME):
        raise Unexplained("the model of this version answers otherwise than the journal holds")
    change = tuple((answers[0] - answers[1:]).tolist())
    if not np.isfinite(change).all():
        raise Unexplained("the model's answers are not finite")
    return Contribution("occlusion", spec.answers[chosen], words, (change,), change)


def baseline(reference: Reference | None, spec: Spec) -> tuple[Float32, str]:
    """Return the values that replace occluded inputs, by feature, and their description."""
    values = np.zeros(len(spec.features), np.float32)
    if reference is None:
        return values, AT_ZERO
    for histogram in reference.features:
        middle = median(histogram)
        for column in histogram.columns:
            if column < len(values) and isfinite(middle):
                values[column] = middle
    return values, AT_MEDIAN


def median(histogram: Histogram) -> float:
    """Return the upper edge of the bin with the training's median; 0 without edges."""
    weight_so_far = 0.0
    for edge, share in zip(histogram.edges, histogram.shares, strict=False):
        weight_so_far += share
        if weight_so_far >= 0.5 - 1e-9:
            return edge
    return histogram.edges[-1] if histogram.edges else 0.0


def chosen_output(spec: Spec, action: str | None, logits: tuple[float, ...]) -> int:
    """Return the output to explain: the chosen action; of a continuous policy the largest."""
    if spec.continuous:
        return max(range(len(logits)), key=lambda place: abs(logits[place]))
    if spec.by_row:
        return _moved_output(spec, action or "")
    if action not in spec.actions:
        raise Unexplained("the decision names no action of the policy")
    return spec.actions.index(action)


def _moved_output(spec: Spec, actions: str) -> int:
    """Return the output of the first symbol that does not hold, of the first one if all do."""
    action_names = [words.split(" ")[0] for words in actions.split(", ")]
    if len(action_names) != spec.rows or not set(action_names) <= set(spec.actions):
        raise Unexplained("the decision names no action of the policy")
    place = next((place for place, name in enumerate(action_names) if name != spec.actions[0]), 0)
    return place * len(spec.actions) + spec.actions.index(action_names[place])


class Explainer:
    """Contributions of the models of one store. Thread-safe."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._lock = threading.Lock()
        self._trying = threading.Lock()
        self._runners: OrderedDict[tuple[str, str], Runner] = OrderedDict()
        self._explanations: OrderedDict[tuple[Any, ...], Contribution] = OrderedDict()

    def explain(
        self, spec: Spec, version: str, observation: Observation, logits: tuple[float, ...], action: str | None
    ) -> Contribution:
        """Return the contributions to this version's answer. Raises Unexplained."""
        key = (spec.name, version, sha256(observation.data).digest(), observation.hidden, logits, action)
        with self._lock:
            explanation = self._explanations.get(key)
        if explanation is None:
            chosen = chosen_output(spec, action, logits)
            explanation = contribution(self._runner(spec, version), spec, observation, logits, chosen)
            with self._lock:
                self._explanations[key] = explanation
                while len(self._explanations) > KEPT:
                    self._explanations.popitem(last=False)
        return explanation

    def _runner(self, spec: Spec, version: str) -> Runner:
        with self._lock:
            runner = self._runners.get((spec.name, version))
            if runner is not None:
                self._runners.move_to_end((spec.name, version))
                return runner
        if not version or version == "current":
            raise Unexplained("the decision names no model")
        try:
            symbols = () if spec.rows_are_symbols else configured(spec)
            model = load(self._models_dir, strategy_named(spec.name, symbols, spec.config), version)
            with self._trying:  # one child at a time; tried again, because the store may have changed
                try_model(model, symbols=symbols, config=spec.config)
        except ModelError as error:
            raise Unexplained(f"model {version} is not at hand: {error.check}") from error
        runner = Runner(model, spec)
        with self._lock:
            self._runners[spec.name, version] = runner
            while len(self._runners) > SESSIONS_KEPT:
                self._runners.popitem(last=False)
        return runner
