"""What a policy answers in torch and in onnxruntime, and how far apart the two may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import nn

from strategies.kit.contract import Float32Array
from training.rl.kernels import plain_float32

TOLERANCE = 1e-5  # largest difference between torch and onnxruntime, of the largest answer where that is above 1
ROUNDINGS = (
    20.0  # where a steep network makes more than that of rounding: onnxruntime's tanh is right to some last bits
)
MOST = 1e-4  # of any network: a desk refuses golden answers that differ by more


class Answered(NamedTuple):
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


def run_onnx_sequence(path: Path, observations: Float32Array, hidden: tuple[int, ...]) -> Answered:
    """What onnxruntime gives to one sequence of observations that begins at the zero state, on one thread."""
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
) -> Answered:
    found = []
    state = np.zeros((1, *hidden), dtype=np.float32)
    for index in range(len(observations)):
        found.append(step(observations[index : index + 1], state))
        state = found[-1][1]
    answers, states, *heads = (np.concatenate(output) for output in zip(*found, strict=True))
    return Answered(answers, states, tuple(heads))


def difference(one: Answered, other: Answered) -> float:
    """The largest difference between answers, and between states and heads where there are any.

    Float32 rounds in proportion: where answers are above 1, it is a share of the largest.
    """
    pairs = [(one.answers, other.answers), *zip(one.heads, other.heads, strict=True)]
    if one.states is not None and other.states is not None:
        pairs.append((one.states, other.states))
    return max(float(np.abs(mine - theirs).max()) / max(1.0, float(np.abs(mine).max())) for mine, theirs in pairs)


def allowed_difference(policy: nn.Module, memory: tuple[int, ...] | None, observations: Float32Array) -> float:
    """How far onnxruntime may be from torch: `TOLERANCE`, or `ROUNDINGS` times what the last bits of its inputs change.

    That is measured, by the answers to the same observations with the last bit of each number changed. It is never more
    than `MOST`.
    """
    signs = np.where(np.random.default_rng(0).random(observations.shape) < 0.5, -1.0, 1.0)
    near = np.nextafter(observations, observations + signs.astype(np.float32))
    rounding = difference(torch_answers(policy, memory, observations), torch_answers(policy, memory, near))
    return min(max(TOLERANCE, ROUNDINGS * rounding), MOST)


def onnx_answers(path: Path, memory: tuple[int, ...] | None, observations: Float32Array) -> Answered:
    """What onnxruntime gives; of a policy with a memory to the observations as one sequence."""
    if memory is None:
        answers, *heads = session_of(path).run(None, {"observation": observations})
        return Answered(answers, None, tuple(heads))
    return run_onnx_sequence(path, observations, memory)


@torch.no_grad()
def torch_answers(policy: nn.Module, memory: tuple[int, ...] | None, observations: Float32Array) -> Answered:
    """What torch gives; of a policy with a memory to the observations as one sequence."""

    def step(observation: Float32Array, state: Float32Array) -> Sequence[Float32Array]:
        return [output.numpy() for output in policy(torch.from_numpy(observation), torch.from_numpy(state))]

    with plain_float32():
        if memory is not None:
            return _in_sequence(step, observations, memory)
        found = policy(torch.from_numpy(observations))
        answers, *heads = found if isinstance(found, tuple) else (found,)
        return Answered(answers.numpy(), None, tuple(head.numpy() for head in heads))
