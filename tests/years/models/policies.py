"""Policies for years of life: they go by the clock, and their answers are the same on every machine.

Built node by node, of comparisons and choices alone; nothing was learned. `python -m tests.years.models` makes the
store that stands here; who only runs it needs no `onnx`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from strategies import daily_rebalancer, forecast_ensemble, option_scalper, regime_switcher
from strategies.golden import golden_observations
from strategies.kit.contract import AnyStrategy
from strategies.kit.manifest import Golden, output_shapes
from strategies.online_dqn.model_config import SHIPPED
from strategies.online_dqn.state_vector import parse
from strategies.regime_switcher import HIDDEN, REGIMES
from strategies.registry import strategy
from tests.support.models import forecast_models
from tests.support.models.online_models import newest_return
from tests.support.models.tiny_models import graph, manifest_of, put
from tests.years.models import BY_MINUTE

VERSION = "clockwork"
SURE = 8.0  # the value of what is chosen; of all else 0
REBALANCED = (0.4, 0.1)  # the largest and the smallest action of daily_rebalancer
PLAN = (
    "ALL_SPY", "HOLD", "QQQ_IWM", "EQUAL_WEIGHT", "HOLD", "ALL_CASH", "GROWTH_TILT", "HOLD", "HOLD",
    "SMALL_CAP_TILT", "BALANCED", "ALL_QQQ", "HOLD",
)  # fmt: skip
"""What regime_switcher wants, one decision after the other, over and over."""
WISH, HELD = 0.8, 1e-4  # what forecast_ensemble wants of a stock that rose; a part of the equity that counts as nothing
MOVES = 4e-4  # the variance that forecast_ensemble states of each stock: 2 % a session
LEAP = 2.0  # online_dqn acts on a bar that moved by more, in its own unit: half a thousandth of the price

HOURS = (
    (0.12, option_scalper.BUY_CALL), (0.38, option_scalper.EXIT), (0.45, option_scalper.BUY_PUT),
    (0.70, option_scalper.EXIT), (0.74, option_scalper.BUY_CALL),
)  # fmt: skip
"""What option_scalper does, from which part of the session on; it holds for hours, the last one to the close."""
SLOT = 0.008  # of the session: so long it wants that

Constants = dict[str, npt.NDArray[Any]]


def make(store: Path, five_minutes: Path) -> None:
    """Write the model configuration and the four stores."""
    five_minutes.write_text(SHIPPED.read_text().replace("bar_minutes: 1", "bar_minutes: 5"))
    _put(store, strategy(daily_rebalancer.SPEC.name), _seesaw(), {"basket.equity_per_unit": "0.01"})
    _put(store, strategy(regime_switcher.SPEC.name), _plan(), {})
    rules = {"basket.weight_max": "0.1", "basket.band": "0.01"}
    _put(store, strategy(forecast_ensemble.SPEC.name), _relay(), rules, forecast_ensemble.SPEC.symbols)
    config = parse(five_minutes.read_bytes(), five_minutes.name)
    online = strategy("online_dqn", BY_MINUTE, config.text)
    changes = {"model_config": msgspec.json.decode(online.spec.config)}
    _put(store, online, _leaps(online), {}, online.spec.symbols, **changes)

    _put(store, strategy(option_scalper.SPEC.name), _patient(), {})


def _put(
    store: Path,
    maker: AnyStrategy,
    policy: bytes,
    rules: dict[str, str],
    symbols: Sequence[str] = (),
    **changes: Any,
) -> None:
    more: dict[str, Any] = {**changes, **({"rules": rules} if rules else {})}
    if symbols:
        more["symbols"] = tuple(symbols)
    golden = _golden(maker, policy)
    put(store, manifest_of(maker, policy, (), version=VERSION, promoted=False, golden=golden, **more), policy)


def _golden(maker: AnyStrategy, policy: bytes) -> Golden:
    """The golden answers as onnxruntime gives them: each is exact."""
    session = onnxruntime.InferenceSession(policy, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    logits, memories, heads, observations = [], [], [], golden_observations(maker)
    hidden = np.zeros((1, HIDDEN), np.float32)
    rows = set(output_shapes(maker.spec)) - {names[0], "next_hidden"}
    for observation in observations:
        array = observation.array()
        fed = {"observation": array if rows else array[None]}
        if "next_hidden" in names:
            fed["hidden"] = hidden
        answers = dict(zip(names, session.run(names, fed), strict=True))
        logits.append(tuple(answers[names[0]].reshape(-1).tolist()))
        if "next_hidden" in names:
            hidden = answers["next_hidden"]
            memories.append(hidden.tobytes())
        if rows:
            heads.append({name: tuple(answers[name].reshape(-1).tolist()) for name in names if name in rows})
    return Golden(tuple(o.data for o in observations), tuple(logits), tuple(memories), tuple(heads))


def _node(*arguments: Any, **keys: Any) -> Any:
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    return onnx.helper.make_node(*arguments, **keys)


def _number(value: float) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)


def _seesaw() -> bytes:
    """One half of the stocks is bought and the other one sold; which one depends on the weekday alone."""
    stocks = daily_rebalancer.STOCKS
    sizes = np.linspace(*REBALANCED, stocks, dtype=np.float32)
    constants: Constants = {
        "column": np.array([daily_rebalancer.WEEKDAY]),
        "half": _number(0.5),
        "two": _number(2.0),
        "even": (sizes * np.where(np.arange(stocks) % 2, -1, 1).astype(np.float32))[None, :],
    }
    nodes = [
        _node("Gather", ["observation", "column"], ["weekday"], axis=1),
        _node("Mod", ["weekday", "two"], ["rest"], fmod=1),
        _node("Greater", ["rest", "half"], ["odd"]),
        _node("Neg", ["even"], ["other"]),
        _node("Where", ["odd", "other", "even"], ["actions"]),
    ]
    inputs: dict[str, tuple[str | int, ...]] = {"observation": ("batch", daily_rebalancer.WIDTH)}
    return graph(nodes, inputs, {"actions": ("batch", stocks)}, constants)


def _plan() -> bytes:
    """The next of `PLAN`; the policy's memory counts the decisions."""
    names = [name for name, _ in REGIMES]
    logits = np.zeros((len(PLAN), len(REGIMES)), np.float32)
    logits[np.arange(len(PLAN)), [names.index(name) for name in PLAN]] = SURE
    constants: Constants = {
        "first": np.array([0]),
        "count": np.arange(len(PLAN), dtype=np.float32)[None, :],
        "chosen": logits,
        "last": _number(len(PLAN) - 1.5),
        "one": _number(1.0),
        "none": _number(0.0),
    }
    nodes = [
        _node("Gather", ["hidden", "first"], ["place"], axis=1),
        _node("Equal", ["place", "count"], ["here"]),
        _node("Cast", ["here"], ["mask"], to=1),
        _node("MatMul", ["mask", "chosen"], ["logits"]),
        _node("Add", ["hidden", "one"], ["after"]),
        _node("Greater", ["hidden", "last"], ["over"]),
        _node("Where", ["over", "none", "after"], ["next_hidden"]),
    ]
    width = regime_switcher.WIDTH
    return graph(
        nodes,
        {"observation": ("batch", width), "hidden": ("batch", HIDDEN)},
        {"logits": ("batch", len(REGIMES)), "next_hidden": ("batch", HIDDEN)},
        constants,
    )


def _patient() -> bytes:
    """The action of the hour, of `HOURS`; else hold."""
    spec = option_scalper.SPEC
    starts = np.array([[start for start, _ in HOURS]], np.float32)
    logits = np.zeros((len(HOURS), len(spec.actions)), np.float32)
    logits[np.arange(len(HOURS)), [action for _, action in HOURS]] = SURE
    hold = np.zeros((1, len(spec.actions)), np.float32)
    hold[0, option_scalper.HOLD] = SURE
    constants: Constants = {
        "row": np.array(-1),
        "column": np.array([spec.features.index("session_elapsed")]),
        "starts": starts,
        "ends": starts + np.float32(SLOT),
        "chosen": logits,
        "hold": hold,
        "one": _number(1.0),
        "axis": np.array([1]),
    }
    nodes = [
        _node("Gather", ["observation", "row"], ["newest"], axis=1),
        _node("Gather", ["newest", "column"], ["elapsed"], axis=1),
        _node("GreaterOrEqual", ["elapsed", "starts"], ["begun"]),
        _node("Less", ["elapsed", "ends"], ["unended"]),
        _node("And", ["begun", "unended"], ["here"]),
        _node("Cast", ["here"], ["mask"], to=1),
        _node("ReduceSum", ["mask", "axis"], ["any"], keepdims=1),
        _node("Sub", ["one", "any"], ["otherwise"]),
        _node("MatMul", ["mask", "chosen"], ["wanted"]),
        _node("Mul", ["otherwise", "hold"], ["kept"]),
        _node("Add", ["wanted", "kept"], ["logits"]),
    ]
    inputs: dict[str, tuple[str | int, ...]] = {"observation": ("batch", *spec.observation_shape)}
    return graph(nodes, inputs, {"logits": ("batch", len(spec.actions))}, constants)


def _relay() -> bytes:
    """All that is held is sold, and what is not held and rose in the newest session is bought."""
    spec = forecast_ensemble.SPEC
    constants: Constants = {
        "return_": np.array(forecast_models.RETURN),
        "weight_": np.array(forecast_models.WEIGHT),
        "column": np.array([forecast_models.RETURN]),
        "held": _number(HELD),
        "none": _number(0.0),
        "wish": _number(WISH),
        "moves": _number(MOVES),
        "all": _number(1.0),
        "least": _number(-1.0),
        "half": _number(0.5),
        "buy": np.array([[0.25, 0.5, 0.25]], np.float32),
        "sell": np.array([[0.25, 0.25, 0.5]], np.float32),
    }
    nodes = [
        _node("Gather", ["observation", "return_"], ["gain"], axis=1),
        _node("Gather", ["observation", "column"], ["gains"], axis=1),
        _node("Gather", ["observation", "weight_"], ["weight"], axis=1),
        _node("Greater", ["gain", "none"], ["rose"]),
        _node("Greater", ["gains", "none"], ["rises"]),
        _node("Greater", ["weight", "held"], ["holds"]),
        _node("Where", ["rises", "buy", "sell"], ["probabilities"]),
        _node("Where", ["rose", "half", "half"], ["confidence"]),
        _node("Where", ["rose", "wish", "none"], ["bought"]),
        _node("Where", ["holds", "least", "bought"], ["sac"]),
        _node("Where", ["rose", "moves", "moves"], ["variance"]),
        _node("Where", ["rose", "all", "all"], ["size"]),
        *(_node("Identity", ["sac"], [name]) for name in ("td3", "final", "actions")),
    ]
    shapes: dict[str, tuple[str | int, ...]] = {head.name: ("batch", *head.shape) for head in spec.heads}
    return graph(
        nodes, {"observation": ("batch", *spec.observation_shape)}, {"actions": ("batch",), **shapes}, constants
    )


def _leaps(maker: AnyStrategy) -> bytes:
    """BUY after a bar that rose by more than `LEAP`, SELL after one that fell so."""
    spec = maker.spec
    constants: Constants = {
        "newest": np.array([newest_return(maker)]),
        "alone": np.array(newest_return(maker)),
        "up": _number(LEAP),
        "down": _number(-LEAP),
        "none": _number(0.0),
        "hold": np.array([[SURE, 0.0, 0.0]], np.float32),
        "buy": np.array([[0.0, SURE, 0.0]], np.float32),
        "sell": np.array([[0.0, 0.0, SURE]], np.float32),
        "likely": _number(0.75),
        "unlikely": _number(0.25),
        "part": _number(0.001),
    }
    nodes = [
        _node("Gather", ["observation", "newest"], ["gain"], axis=1),
        _node("Greater", ["gain", "up"], ["rose"]),
        _node("Less", ["gain", "down"], ["fell"]),
        _node("Where", ["fell", "sell", "hold"], ["otherwise"]),
        _node("Where", ["rose", "buy", "otherwise"], ["logits"]),
        _node("Gather", ["observation", "alone"], ["one"], axis=1),
        _node("Greater", ["one", "none"], ["higher"]),
        _node("Where", ["higher", "likely", "unlikely"], ["direction"]),
        _node("Where", ["higher", "part", "part"], ["risk"]),
    ]
    shapes: dict[str, tuple[str | int, ...]] = {name: ("batch", *shape) for name, shape in output_shapes(spec).items()}
    return graph(nodes, {"observation": ("batch", *spec.observation_shape)}, shapes, constants)
