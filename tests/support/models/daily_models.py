"""Policies for whole runs of the daily desks, built node by node; torch is not needed and nothing was learned.

The rebalancer's follows the trend against the 50-day mean; the switcher's is a random network with a memory. Bars are
made up by integer arithmetic. Golden answers are onnxruntime's own: what is proven of them is proven elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from strategies import daily_rebalancer, regime_switcher
from strategies.golden import golden_observations
from strategies.kit.contract import AnyStrategy, DailySpec
from strategies.kit.manifest import Golden
from strategies.registry import configured, strategy
from tests.support.models.tiny_models import graph, manifest_of, put

VERSION = "fixture"
HEADER = "symbol,timestamp,open,high,low,close,volume"
FIRST_DATE = "2020-01-02"


def put_models(models_dir: Path) -> Path:
    """Both desks' fixture policies in a store; returns the store."""
    _put(models_dir, strategy(daily_rebalancer.SPEC.name), _trend())
    return put_switcher(models_dir)


def put_switcher(models_dir: Path, funds: tuple[str, ...] = ()) -> Path:
    """The switcher's fixture policy for these funds, () for its own, in a store; returns the store."""
    _put(models_dir, strategy(regime_switcher.SPEC.name, funds), _random_walker())
    return models_dir


def write_days(path: Path, symbols: Sequence[str], sessions: int, *, seed: int = 1) -> Path:
    """A daily tape sorted by symbol, in cents: prices walk, each at its own pace."""
    days = SessionCalendar.load(FIRST_DATE, "2022-12-30").sessions
    days = tuple(session for session in days if session.date >= FIRST_DATE)[:sessions]
    assert len(days) == sessions
    lines = [HEADER]
    for number, symbol in enumerate(symbols):
        draw = (seed * 1_000 + number) * 2_654_435_761 % 2**32
        close = 5_000 + number * 731
        for session in days:
            draw = (draw * 1_664_525 + 1_013_904_223) % 2**32
            opened = close + (draw >> 16) % 61 - 30
            draw = (draw * 1_664_525 + 1_013_904_223) % 2**32
            close = max(opened + (draw >> 16) % 201 - 99, 500)
            high, low = max(opened, close) + 20, min(opened, close) - 20
            prices = ",".join(f"{cents / 100:.2f}" for cents in (opened, high, low, close))
            lines.append(f"{symbol},{midnight_ns(session.date)},{prices},{1_000 + number}")
    path.write_text("\n".join(lines) + "\n")
    return path


def _put(models_dir: Path, maker: AnyStrategy, policy: bytes) -> None:
    spec = maker.spec
    assert isinstance(spec, DailySpec)
    session = onnxruntime.InferenceSession(policy, providers=["CPUExecutionProvider"])
    hidden = np.zeros((1, *(spec.recurrent_shape or ())), np.float32)
    answers: list[tuple[float, ...]] = []
    memories: list[bytes] = []
    for observation in golden_observations(maker):
        inputs = {"observation": observation.array()[None]}
        if spec.recurrent_shape is None:
            (logits,) = session.run(None, inputs)
        else:
            logits, hidden = session.run(None, {**inputs, "hidden": hidden})
            memories.append(hidden.tobytes())
        answers.append(tuple(logits[0].tolist()))
    manifest = manifest_of(maker, policy, tuple(answers), version=VERSION, promoted=False)
    golden = Golden(manifest.golden.observations, tuple(answers), tuple(memories))
    rules = {"basket.shares_per_unit": "100"} if spec.continuous else {}
    manifest = manifest_of(
        maker, policy, (), version=VERSION, promoted=False, golden=golden, rules=rules, symbols=configured(spec)
    )
    put(models_dir, manifest, policy)


def _trend() -> bytes:
    """tanh(10 x (close / SMA50 - 1)) for each stock, and with another sign on the odd ones."""
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    stocks = daily_rebalancer.STOCKS
    first = daily_rebalancer.INDICATOR_COLUMNS.start + daily_rebalancer.INDICATORS.index("sma50")
    means = np.arange(stocks, dtype=np.int64) * len(daily_rebalancer.INDICATORS) + first
    constants: dict[str, Any] = {
        "closes": np.arange(stocks, dtype=np.int64),
        "means": means,
        "floor": np.array(1.0, np.float32),
        "steep": np.where(np.arange(stocks) % 2, -10.0, 10.0).astype(np.float32),
    }
    nodes = [
        node("Gather", ["observation", "closes"], ["close"], axis=1),
        node("Gather", ["observation", "means"], ["mean"], axis=1),
        node("Max", ["mean", "floor"], ["above"]),
        node("Div", ["close", "above"], ["ratio"]),
        node("Sub", ["ratio", "floor"], ["trend"]),
        node("Mul", ["trend", "steep"], ["scaled"]),
        node("Tanh", ["scaled"], ["actions"]),
    ]
    width = daily_rebalancer.WIDTH
    return graph(nodes, {"observation": ("batch", width)}, {"actions": ("batch", stocks)}, constants)


def _random_walker() -> bytes:
    """next_hidden = tanh(hidden / 2 + observation A); logits = next_hidden B."""
    onnx = pytest.importorskip("onnx", reason="the extra training brings onnx, which builds the graphs")
    node = onnx.helper.make_node
    draw = np.random.default_rng(5)
    width, memory, actions = regime_switcher.WIDTH, regime_switcher.HIDDEN, len(regime_switcher.REGIMES)
    constants: dict[str, Any] = {
        "a": (draw.standard_normal((width, memory)) * 2.0).astype(np.float32),
        "b": draw.standard_normal((memory, actions)).astype(np.float32),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        node("Mul", ["hidden", "half"], ["kept"]),
        node("MatMul", ["observation", "a"], ["seen"]),
        node("Add", ["kept", "seen"], ["both"]),
        node("Tanh", ["both"], ["next_hidden"]),
        node("MatMul", ["next_hidden", "b"], ["logits"]),
    ]
    inputs: dict[str, tuple[str | int, ...]] = {"observation": ("batch", width), "hidden": ("batch", memory)}
    outputs: dict[str, tuple[str | int, ...]] = {"logits": ("batch", actions), "next_hidden": ("batch", memory)}
    return graph(nodes, inputs, outputs, constants)
