"""The model configuration: read from YAML, checked, and written in one canonical form.

The file describes the state vector and the heads of a policy. Its canonical text is part of the contract hash, so a
model made with another file is refused. Every error names the key, its value and the nearest known name.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from difflib import get_close_matches
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta

SHIPPED = Path(__file__).with_name("online_dqn.yaml")
PORTFOLIO = ("position", "cash_share", "inventory_value", "unrealised_return", "age")
INPUTS = ("open", "high", "low", "close", "volume")
TEXT_MAX = 65_536  # bytes of a file
SHOWN_MAX = 60  # letters of a wrong value

_Bars = Annotated[int, Meta(ge=1, le=390)]
_Positive = Annotated[float, Meta(gt=0.0, le=1e12)]
_Symbol = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9]{0,9}(\.[A-Z0-9]{1,4})?$")]


class ModelConfigError(ValueError):
    """The configuration cannot be used. The text names file, key, value and cure."""


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feature is (base - center) / divide_by.

    The base is the indicator's value (`none`), the value / close (`price`), the value / close - 1 (`distance`), or its
    distance from the mean of the last `window` values in standard deviations (`zscore`).
    """

    by: Literal["none", "price", "distance", "zscore"] = "none"
    window: Annotated[int, Meta(ge=2, le=390)] = 60
    center: float = 0.0
    divide_by: _Positive = 1.0


class Indicator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column: a function of TA-Lib on columns of the bars, and how it is scaled.

    `output` names one of its outputs; "" is allowed for a function with a single output. A feature that depends on the
    level of prices or volumes is refused, unless `because` gives a reason.
    """

    name: str
    inputs: tuple[str, ...] = ()
    parameters: dict[str, int | float] = {}
    output: str = ""
    scale: Scale = Scale()
    because: Annotated[str, Meta(max_length=500)] = ""


class Ahead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many bars a head looks ahead."""

    bars: _Bars


class Heads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The heads besides the values of the actions; None where the policy has none."""

    direction: Ahead | None = None
    risk: Ahead | None = None


class FeatureClip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All market features lie within -clip and +clip."""

    clip: _Positive = 5.0


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Version 1 of the schema. `symbols` are a desk's default and no part of the contract: one policy serves any."""

    version: Literal[1]
    indicators: Annotated[tuple[Indicator, ...], Meta(min_length=1, max_length=64)]
    window: _Bars
    bar_minutes: Literal[1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60] = 1
    portfolio: Annotated[tuple[str, ...], Meta(max_length=len(PORTFOLIO))] = PORTFOLIO
    scaling: FeatureClip = FeatureClip()
    heads: Heads = Heads()
    symbols: Annotated[tuple[_Symbol, ...], Meta(min_length=1, max_length=20)] = ("SPY",)

    @property
    def text(self) -> str:
        """The canonical JSON of the configuration without the symbols."""
        fields = msgspec.to_builtins(self)
        del fields["symbols"]
        return msgspec.json.encode(fields, order="deterministic").decode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, as hex digits."""
        return sha256(self.text.encode()).hexdigest()


def of_text(text: str) -> ModelConfig:
    """Return the configuration that gave this canonical text, with the default symbols. Raises ModelConfigError."""
    try:
        return msgspec.json.decode(text, type=ModelConfig)
    except msgspec.DecodeError as error:
        raise ModelConfigError(f"the model configuration is unreadable: {error}") from error


def shape_of(data: bytes, name: str) -> ModelConfig:
    """Read a YAML file's bytes as the schema, without the checks of its indicators. Raises ModelConfigError."""
    if len(data) > TEXT_MAX:
        raise ModelConfigError(f"{name} has {len(data)} bytes, expected at most {TEXT_MAX}: shorten it")
    try:
        raw = _load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ModelConfigError(f"{name} is no YAML: {' '.join(str(error).split())}: correct that line") from error
    if not isinstance(raw, dict):
        raise ModelConfigError(f"{name} holds {type(raw).__name__}, expected keys and values: see online_dqn.yaml")
    _check_names(raw, ModelConfig, name, "")
    _check_finite(raw, name, "")
    try:
        config = msgspec.convert(raw, ModelConfig)
    except msgspec.ValidationError as error:
        raise ModelConfigError(f"{name}: {_problem(str(error), raw)}") from error
    for key, names in (("portfolio", config.portfolio), ("symbols", config.symbols)):
        if len(set(names)) != len(names):
            raise ModelConfigError(f"{name}: {key} names one twice: {', '.join(names)}: name each once")
    for field in config.portfolio:
        check_name(field, PORTFOLIO, f"{name}: portfolio")
    return config


def check_name(value: object, known_names: Iterable[str], where: str) -> None:
    """Raise ModelConfigError for an unknown name, with the nearest known one."""
    names = tuple(known_names)
    if value not in names:
        nearest = get_close_matches(str(value), names, n=1, cutoff=0.0)
        cure = f"did you mean {nearest[0]}?" if nearest else "remove it"
        raise ModelConfigError(f"{where}: {value!r} is unknown: {cure}")


def _check_names(raw: Any, kind: Any, name: str, at: str) -> None:
    """Check all keys below `raw` against the fields of a struct."""
    if isinstance(raw, list):
        for number, item in enumerate(raw):
            _check_names(item, kind, name, f"{at}[{number}]")
    if not isinstance(raw, dict):
        return
    fields = get_type_hints(kind)
    for key, value in raw.items():
        check_name(key, fields, f"{name}: {at or 'the file'}")
        inner = _struct_in(fields[key])
        if inner is not None:
            _check_names(value, inner, name, f"{at}.{key}" if at else str(key))


def _check_finite(raw: Any, name: str, at: str) -> None:
    """Raise ModelConfigError for a number below `raw` that JSON, the canonical form, cannot hold."""
    if isinstance(raw, float) and not isfinite(raw):
        raise ModelConfigError(f"{name}: {at} is {raw}, expected a finite number: correct it")
    if isinstance(raw, list):
        for number, item in enumerate(raw):
            _check_finite(item, name, f"{at}[{number}]")
    if isinstance(raw, dict):
        for key, value in raw.items():
            _check_finite(value, name, f"{at}.{key}" if at else str(key))


def _problem(text: str, raw: Any) -> str:
    """Return key, value and cure of msgspec's error about `raw`; for a name or a choice also the nearest valid one."""
    cause, _, path = text.partition(" - at `$.")
    path = path.removesuffix("`")
    hint: Any = ModelConfig
    for name, number in re.findall(r"(\w+)|\[(\d*)", path):
        inner = _struct_in(hint)
        hint = get_type_hints(inner).get(name, hint) if name and inner else hint
        raw = raw[name] if name else raw[int(number)] if number else raw
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", cause):
        return f"{path or 'the file'} has no {missing[1]}: add it"
    value_text = repr(raw) if len(repr(raw)) <= SHOWN_MAX else f"{repr(raw)[:SHOWN_MAX]}…"
    if get_origin(hint) is not Literal:
        return f"{path} is {value_text}: {cause}: correct it"
    choices = get_args(hint)
    return f"{path} is {value_text}, expected {' or '.join(map(str, choices))}{_nearest(raw, choices)}"


def _nearest(value: Any, choices: tuple[Any, ...]) -> str:
    """Return a "did you mean" question with the nearest choice; "" where none is near."""
    if isinstance(value, str) and isinstance(choices[0], str):
        return f": did you mean {get_close_matches(value, choices, n=1, cutoff=0.0)[0]}?"
    if isinstance(value, int | float) and isinstance(choices[0], int):
        return f": did you mean {min(choices, key=lambda choice: abs(choice - value))}?"
    return ""


def _struct_in(hint: Any) -> Any:
    """Return the struct type within a field's type, also within a list or mapping; None for a plain value."""
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint if issubclass(hint, msgspec.Struct) else None
    return next((struct for part in get_args(hint) if (struct := _struct_in(part)) is not None), None)


def _load(data: bytes) -> Any:
    loader = _Loader(data)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
