"""A policy that trades more often than the fixture: 40 round trips a session by the clock, then an entry it never ends.

Built node by node with `onnx`, put into a store of its own. It reads `session_elapsed` of the newest row alone, and
learned nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from strategies.golden import golden_observations
from strategies.option_scalper import ACTIONS, BUY_CALL, BUY_PUT, EXIT, HOLD, SPEC
from strategies.registry import strategy
from tests.support.models.tiny_models import graph, manifest_of, put

CYCLE = (BUY_CALL, EXIT, BUY_PUT, EXIT)
CYCLES = 20
BEGIN, END = 0.10, 0.80  # of the session; the last entry comes at END, 42 minutes before the close of a half day
WIDTH = 0.0055  # of the session: at least one bar of a half day, two of a full one
LAST = 0.85  # until then the last entry is tried, minute by minute
WINNER = np.float32(8.0)
ELAPSED = SPEC.features.index("session_elapsed")

Float32 = npt.NDArray[np.float32]


def timetable(begin: float = BEGIN) -> tuple[Float32, Float32, Float32]:
    """Starts and ends (fractions of the session) of the slots, and their rows of logits (slots, actions)."""
    actions = [*CYCLE * CYCLES, BUY_CALL]
    starts = np.linspace(begin, END, len(actions), dtype=np.float32)
    ends = starts + np.float32(WIDTH)
    ends[-1] = LAST
    return starts, ends, WINNER * np.eye(len(ACTIONS), dtype=np.float32)[actions]


def answer(observation: Float32, begin: float = BEGIN) -> tuple[float, ...]:
    """The logits of one observation (window, features): the slot's action, else HOLD."""
    starts, ends, actions = timetable(begin)
    elapsed = observation[-1, ELAPSED]
    now = np.flatnonzero((elapsed >= starts) & (elapsed < ends))
    row = actions[now[0]] if now.size else WINNER * np.eye(len(ACTIONS), dtype=np.float32)[HOLD]
    return tuple(float(value) for value in row)


def store(folder: Path, name: str = SPEC.name, *, begin: float = BEGIN) -> Path:
    """Make a model store with this policy as version `lively`, current; returns `folder`.

    `name` is `option_scalper` or another strategy that sees and answers the same; `begin` is a fraction of the session.
    """
    desk = strategy(name)
    policy = _policy(begin)
    logits = tuple(answer(observation.array(), begin) for observation in golden_observations(desk))
    put(folder, manifest_of(desk, policy, logits, version="lively", promoted=False), policy)
    return folder


def _policy(begin: float) -> bytes:
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    starts, ends, actions = timetable(begin)
    rows, columns = SPEC.observation_shape
    hold = WINNER * np.eye(len(ACTIONS), dtype=np.float32)[HOLD]
    constants: dict[str, npt.NDArray[np.generic]] = {
        "first": np.array([rows - 1, ELAPSED]),
        "behind": np.array([rows, ELAPSED + 1]),
        "axes": np.array([1, 2]),
        "column": np.array([-1, 1]),
        "starts": starts,
        "ends": ends,
        "actions": actions,
        "hold": hold[None, :],
        "one": np.array(1.0, dtype=np.float32),
        "last": np.array([1]),
    }
    nodes = [
        node("Slice", ["observation", "first", "behind", "axes"], ["cell"]),
        node("Reshape", ["cell", "column"], ["elapsed"]),
        node("GreaterOrEqual", ["elapsed", "starts"], ["begun"]),
        node("Less", ["elapsed", "ends"], ["unended"]),
        node("And", ["begun", "unended"], ["within"]),
        node("Cast", ["within"], ["now"], to=onnx.TensorProto.FLOAT),
        node("MatMul", ["now", "actions"], ["acting"]),
        node("ReduceSum", ["now", "last"], ["any"], keepdims=1),
        node("Sub", ["one", "any"], ["none"]),
        node("MatMul", ["none", "hold"], ["holding"]),
        node("Add", ["acting", "holding"], ["logits"]),
    ]
    return graph(nodes, {"observation": ("batch", rows, columns)}, {"logits": ("batch", len(ACTIONS))}, constants)
