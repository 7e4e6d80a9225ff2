"""The subject of an analysis: a registered strategy or the user's own, and a policy for it.

Runs nothing. Invariant: a returned strategy or policy fits the contract; others are refused with the cure.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from strategies import registry
from strategies.kit.contract import Answer, AnyStrategy, Bar, Observation, Spec
from strategies.kit.entry import OwnStrategyError, StrategyEntry
from strategies.kit.manifest import MANIFEST_FILE, POLICY_FILE, answer_name, decode
from strategies.online_dqn.model_config import ModelConfig

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class AnalyseError(Exception):
    """The analysis is impossible because of the input (exit code 2). The text names the thing and the cure."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The strategy to analyse. `make` gets all bars of the file, for strategies that prepare something at start.

    `table` is how training sees the features (`strategies.kit.entry.StrategyEntry.table`); None where it has none.
    """

    name: str
    make: Callable[[tuple[Bar, ...]], AnyStrategy]
    table: Callable[..., Any] | None
    takes_bars: bool = False


def subject_named(name: str, config: ModelConfig | None = None) -> Subject:
    """A strategy by its registry name, `package.module:Class` or `path/to/file.py:Class`.

    `config` is the model configuration of a strategy that has one; None is the shipped one.

    The named object is called without arguments, or with all bars of the file if it has a parameter `bars`. A function
    `feature_table` in the same file gives training's features; it gets `dates` if it has that parameter.

    Raises AnalyseError.
    """
    origin, colon, attribute = name.rpartition(":")
    if not colon:
        try:
            name = registry.add(name)
            entry = registry.entry(name)
        except OwnStrategyError as error:
            raise AnalyseError(f"--strategy: {error}") from None
        except ValueError as error:
            raise AnalyseError(f"--{error} (or package.module:Class, or path/to/file.py:Class)") from None
        return Subject(name, _maker(name, entry, config), entry.table)
    if config is not None:
        raise AnalyseError(f"--strategy {name} has no model configuration: leave --model-config out")
    module = _module(origin)
    maker = getattr(module, attribute, None)
    if not callable(maker):
        raise AnalyseError(f"--strategy {name}: {origin} has no class or function {attribute!r}: correct the name")
    try:
        signature = inspect.signature(maker)
        takes_bars = "bars" in signature.parameters
        signature.bind(**({"bars": ()} if takes_bars else {}))
    except (TypeError, ValueError) as error:
        raise AnalyseError(
            f"--strategy {name}: {attribute} cannot be called without arguments, or with `bars` alone ({error}): "
            "name a function that makes it"
        ) from error
    make = (lambda bars: maker(bars=bars)) if takes_bars else (lambda _: maker())
    table = getattr(module, "feature_table", None)
    return Subject(attribute, make, table if callable(table) else None, takes_bars)


def _maker(name: str, entry: StrategyEntry, config: ModelConfig | None) -> Callable[[tuple[Bar, ...]], AnyStrategy]:
    """The constructor of a registered strategy. Raises AnalyseError."""
    with_config = entry.with_config
    if config is None:
        return lambda _: entry.make()
    if with_config is None:
        raise AnalyseError(f"{name} has no model configuration: leave --model-config out")
    text, symbols = config.text, config.symbols
    return lambda _: with_config(text, symbols)


def _module(origin: str) -> Any:
    path = Path(origin)
    try:
        if path.suffix != ".py":
            sys.path.append(str(Path.cwd()))  # a console script's sys.path lacks the working directory
            return importlib.import_module(origin)
        spec = importlib.util.spec_from_file_location(f"analysed_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # its structs look up their types there
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise AnalyseError(f"--strategy: {origin} cannot be imported ({type(error).__name__}: {error})") from error
    return module


_KEEPS = {"session": ("remember",)}  # `Spec.decides` -> further methods that a run calls


def strategy_of(subject: Subject, bars: tuple[Bar, ...]) -> AnyStrategy:
    """The subject's strategy, made of `bars`.

    Raises AnalyseError when it lacks a part of the contract.
    """
    strategy = subject.make(bars)
    keeps = _KEEPS.get(getattr(getattr(strategy, "spec", None), "decides", ""), ())
    parts = ("spec", "state_type", "start", "observe", "decide", *keeps)
    lacking = [name for name in parts if not hasattr(strategy, name)]
    if lacking or not isinstance(strategy.spec, Spec):
        raise AnalyseError(
            f"--strategy {subject.name} is no strategy: {', '.join(lacking) or 'a spec of type Spec'} is missing: "
            "see strategies/kit/contract.py"
        )
    return strategy


@dataclass(slots=True)
class CachedPolicy:
    """Answers to observations; each distinct observation is computed once, so equal bytes have equal answers."""

    name: str
    batch: Callable[[Float32Array], npt.NDArray[Any]]  # float32 (n, *shape) to logits or actions (n, actions)
    _known: dict[bytes, tuple[float, ...]] = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        """Whether no answer was computed yet."""
        return not self._known

    def prime(self, observations: Sequence[Observation]) -> None:
        """Compute the missing answers in one batch."""
        fresh = {key: o for o in observations if (key := _digest(o)) not in self._known}
        if fresh:
            logits = self.batch(np.stack([observation.array() for observation in fresh.values()]))
            self._known.update(zip(fresh, map(tuple, logits.tolist()), strict=True))

    def answer(self, observation: Observation) -> Answer:
        """The policy's answer to one observation."""
        key = _digest(observation)
        if key not in self._known:
            self.prime([observation])
        return Answer(self._known[key])


def _digest(observation: Observation) -> bytes:
    return hashlib.blake2b(observation.data, digest_size=16).digest()


def linear_policy(spec: Spec, observations: Sequence[Observation], seed: int) -> CachedPolicy:
    """A random linear policy over standardised observations: untrained, but with frequently changing decisions.

    Mean and deviation of each value are those of `observations` and stay fixed. Continuous actions pass through tanh.
    Where rows are symbols, each row is answered alone.
    """
    shape = (-1, math.prod(spec.observation_shape))
    values = np.concatenate([observation.array().reshape(shape) for observation in observations])
    mean, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    weights = np.random.default_rng(seed).normal(size=(values.shape[1], len(spec.actions)))
    weights *= (np.where(deviation > 0.0, 1.0 / np.maximum(deviation, 1e-12), 0.0) / math.sqrt(values.shape[1]))[
        :, None
    ]

    def batch(some: Float32Array) -> Float64Array:
        logits: Float64Array = (some.reshape(shape).astype(np.float64) - mean) @ weights
        return (np.tanh(logits) if spec.continuous else logits).reshape(len(some), len(spec.answers))

    return CachedPolicy("a random linear policy (no model)", batch)


def model_policy(model: str, models: Path, spec: Spec, contract: str) -> CachedPolicy | None:
    """The policy of an ONNX file, of a version's folder, or of a version in the store; "" is the store's current one.

    `contract` is the strategy's contract hash, "" for a strategy that has none. None where `model` is "" and the store
    has none that fits. Raises AnalyseError for a named one that cannot be used.
    """
    shelf = models / spec.name
    current = shelf / "current"
    if not model and not current.is_file():
        return None
    place = Path(model) if model else shelf / current.read_text(encoding="utf-8").strip()
    files = [path for path in (place, place / POLICY_FILE, shelf / place / POLICY_FILE) if path.is_file()]
    if not files and not model:
        return None
    if not files:
        raise AnalyseError(f"--model {place}: no such file, folder or version of {spec.name} in {models}")
    if spec.recurrent_shape is not None:
        if model:
            raise AnalyseError(
                f"--model {model}: {spec.name} carries a memory, which depends on where a run begins, so its decisions "
                "cannot be compared: leave --model out, a random policy decides then"
            )
        return None
    path = files[0]
    problem = _misfit(path, spec, contract)
    if problem and model:
        raise AnalyseError(f"--model {model}: {problem}: choose a model that was exported for this strategy")
    if problem:
        return None
    from training.export.export import run_onnx  # torch comes with it

    return CachedPolicy(f"{path.parent.name}/{path.name}", lambda observations: run_onnx(path, observations))


def _misfit(path: Path, spec: Spec, contract: str) -> str:
    """Why this model cannot answer for the strategy; "" when it can."""
    import onnx

    manifest = path.with_name(MANIFEST_FILE)
    if contract and manifest.is_file():
        try:
            contract_of_model = decode(manifest.read_bytes()).contract_hash
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return f"{manifest} cannot be read ({error})"
        if contract_of_model != contract:
            return f"its contract hash is {contract_of_model[:12]}…, the strategy's {contract[:12]}…"
    try:
        onnx.checker.check_model(str(path))
    except (OSError, onnx.checker.ValidationError) as error:
        return f"it is no ONNX file ({type(error).__name__})"
    graph = onnx.load(path).graph
    shapes = {
        item.name: [d.dim_value for d in item.type.tensor_type.shape.dim][1:] for item in (*graph.input, *graph.output)
    }
    expected = {"observation": list(spec.observation_shape), answer_name(spec): [len(spec.actions)]}
    return "" if shapes == expected else f"it has {shapes}, expected {expected}"
