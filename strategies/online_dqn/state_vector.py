"""The state vector of a model configuration: its market columns, TA-Lib by name, scaled, and its portfolio fields.

One rule for live and training: the same bits from one bar and from a table.
A function starts at the first bar of the array that it gets. TA-Lib runs forward from there, so the columns of the
first n bars are those of any longer array with the same beginning. Live passes the history before a session and the
session's bars so far; training passes the history and the whole session.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from inspect import unwrap
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.online_dqn.model_config import (
    INPUTS,
    SHIPPED,
    TEXT_MAX,
    Indicator,
    ModelConfig,
    ModelConfigError,
    Scale,
    check_name,
    shape_of,
)

Float64Array = npt.NDArray[np.float64]

_talib: Any = import_module("talib")  # its hints leave out the metadata
_metadata: Any = import_module("talib.abstract")
LEAD = 4  # look-backs of history before the first row: an average has forgotten its start by then
LEVEL = 8.0  # a power of two: multiplied by it, prices round alike
SAME = 1e-6  # of a feature, at two levels
OUTSIDE_MAX = 0.9  # share of a sample's values beyond the clip: such a feature is a constant
HISTORY_MAX = 5_000
_FAILURES: tuple[type[Exception], ...] = (Exception,)  # TA-Lib raises plain exceptions
ZERO_SPREAD = 1e-12  # part of the mean: a window with a smaller deviation counts as constant
RETURN_LEAST, RETURN_MOST = -1.0, 3.0
AGE_UNIT_MIN, AGE_MOST = 60.0, 6.5  # a session of minutes has 390


def parse(data: bytes, name: str) -> ModelConfig:
    """Read and check a YAML file. Functions, inputs, parameters and outputs are written out with TA-Lib's defaults.

    Args:
        data: the file's bytes.
        name: for errors.

    Raises:
        ModelConfigError: an unknown key, function, input, parameter, output or portfolio field, a value out of bounds,
            or a feature that moves with the level of prices or volumes without a reason.
    """
    shape = shape_of(data, name)
    config = msgspec.structs.replace(
        shape, indicators=tuple(_written_out(one, f"{name}: indicators[{n}]") for n, one in enumerate(shape.indicators))
    )
    names = feature_names(config)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ModelConfigError(f"{name}: indicators: {twice[0]} stands twice: remove one")
    if history_bars(config) > HISTORY_MAX:
        raise ModelConfigError(
            f"{name}: the features need {history_bars(config)} bars before the open, expected at most {HISTORY_MAX}: "
            "shorten a period or the window"
        )
    _check_level(config, name)
    return config


def read_file(path: Path) -> ModelConfig:
    """Read and check a YAML file as `parse`. Raises ModelConfigError, also where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(TEXT_MAX + 1)
    except OSError as error:
        raise ModelConfigError(f"{path} cannot be read ({error.strerror}): name a readable YAML file") from error
    return parse(data, str(path))


@lru_cache(maxsize=1)
def shipped() -> ModelConfig:
    """Return the configuration that comes with the strategy."""
    return parse(SHIPPED.read_bytes(), SHIPPED.name)


def feature_names(config: ModelConfig) -> tuple[str, ...]:
    """Return a name without blanks for each column: function, parameters, output, inputs and scale."""
    return tuple(map(_name, config.indicators))


def history_bars(config: ModelConfig) -> int:
    """Return W: the bars before a session's open that an observation depends on, and needs."""
    return config.window - 1 + max(LEAD * _lookback(one) + _reach(one.scale) for one in config.indicators)


def market_rows(config: ModelConfig, bars: Float64Array, last: int | None = None) -> Float64Array:
    """Return the features of each bar, float64 (n, columns), or those of the last bars alone.

    Args:
        bars: float64 (5, n), C order: open, high, low, close in USD, volume; the oldest first.
        last: the number of rows to return; None for all. Values before a function's look-back are 0.
    """
    count = bars.shape[1] if last is None else last
    columns = np.empty((count, len(config.indicators)))
    outputs: dict[Any, Any] = {}  # two outputs of one function are computed once
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for place, one in enumerate(config.indicators):
            call = (one.name, one.inputs, *one.parameters.values())
            if call not in outputs:
                outputs[call] = _compute(one, bars)
            columns[:, place] = _scale(one, outputs[call], bars, count)
    columns[~np.isfinite(columns)] = 0.0
    return np.clip(columns, -config.scaling.clip, config.scaling.clip, out=columns)


# --- one column ---------------------------------------------------------------------------------------------------


def _column(one: Indicator, bars: Float64Array, count: int) -> Float64Array:
    """Return the last `count` values of a scaled indicator; NaN or infinite where there is none."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _scale(one, _compute(one, bars), bars, count)


def _compute(one: Indicator, bars: Float64Array) -> Any:
    """Return TA-Lib's result: an array, or one array for each output."""
    return _function(one.name)(*[bars[INPUTS.index(name)] for name in one.inputs], **one.parameters)


def _scale(one: Indicator, raw: Any, bars: Float64Array, count: int) -> Float64Array:
    if isinstance(raw, tuple):
        raw = raw[_outputs(one.name).index(one.output)]
    base = _base(one.scale, np.asarray(raw, dtype=np.float64), bars[INPUTS.index("close")], count)
    column: Float64Array = (base - one.scale.center) / one.scale.divide_by
    return column


def _base(scale: Scale, raw: Float64Array, close: Float64Array, count: int) -> Float64Array:
    if scale.by == "zscore":
        return _zscore(raw, scale.window, count)
    value = raw[len(raw) - count :]
    if scale.by == "none":
        return value
    part = value / close[len(close) - count :]
    return part if scale.by == "price" else part - 1.0


def _zscore(raw: Float64Array, window: int, count: int) -> Float64Array:
    """Return the z-score of each of the last values within its window; 0 where the window is constant."""
    newest = raw[-(count + window - 1) :]  # the last values and their windows
    if missing := count + window - 1 - len(newest):
        newest = np.concatenate((np.full(missing, np.nan), newest))
    step = newest.strides[0]
    rows = np.ascontiguousarray(np.lib.stride_tricks.as_strided(newest, (count, window), (step, step)))
    mean, spread = rows.mean(axis=1), rows.std(axis=1)
    scores: Float64Array = (rows[:, -1] - mean) / spread
    scores[spread <= ZERO_SPREAD * np.abs(mean)] = 0.0
    return scores


def _name(one: Indicator) -> str:
    values = ",".join(f"{one.parameters[key]:g}" for key in _info(one.name)["parameters"])
    text = f"{one.name}({values})" if values else one.name
    text += f".{one.output}" if len(_outputs(one.name)) > 1 else ""
    text += f"[{','.join(one.inputs)}]" if one.inputs != _inputs(one.name) else ""
    if one.scale.by == "zscore":
        return f"{text}:zscore{one.scale.window}"
    return text if one.scale.by == "none" else f"{text}:{one.scale.by}"


# --- TA-Lib's functions and metadata ------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _function(name: str) -> Any:
    """Return the function for arrays, without the layer that looks for data frames at each call."""
    return unwrap(getattr(_talib, name))


@lru_cache(maxsize=256)
def _info(name: str) -> Any:
    return _metadata.Function(name).info


def _inputs(name: str) -> tuple[str, ...]:
    """Return the columns that a function takes by default, in its order."""
    inputs = _info(name)["input_names"].values()
    return tuple(column for names in inputs for column in ([names] if isinstance(names, str) else names))


def _outputs(name: str) -> tuple[str, ...]:
    return tuple(_info(name)["output_names"])


def _lookback(one: Indicator) -> int:
    return int(_metadata.Function(one.name, **one.parameters).lookback)


def _reach(scale: Scale) -> int:
    """Return how many earlier values a scale looks at."""
    return scale.window - 1 if scale.by == "zscore" else 0


def _written_out(one: Indicator, at: str) -> Indicator:
    """Return the indicator with all defaults of TA-Lib. Raises ModelConfigError."""
    check_name(one.name, _talib.get_functions(), f"{at}.name")
    inputs, outputs = one.inputs or _inputs(one.name), _outputs(one.name)
    for column in inputs:
        check_name(column, INPUTS, f"{at}.inputs of {one.name}")
    if len(inputs) != len(_inputs(one.name)):
        raise ModelConfigError(
            f"{at}: {one.name} takes {len(_inputs(one.name))} inputs, found {', '.join(inputs)}: name as many"
        )
    if not one.output and len(outputs) > 1:
        raise ModelConfigError(f"{at}: {one.name} has the outputs {', '.join(outputs)}: name one as output")
    output = one.output or outputs[0]
    check_name(output, outputs, f"{at}.output of {one.name}")
    return msgspec.structs.replace(one, inputs=inputs, output=output, parameters=_parameters(one, at))


def _parameters(one: Indicator, at: str) -> dict[str, int | float]:
    """Return every parameter in TA-Lib's order. Raises ModelConfigError for an unknown or unfit one."""
    defaults: dict[str, int | float] = dict(_info(one.name)["parameters"])
    for key, value in one.parameters.items():
        check_name(key, defaults, f"{at}.parameters of {one.name}")
        if isinstance(defaults[key], int) and not isinstance(value, int):
            raise ModelConfigError(f"{at}: {key} of {one.name} is {value}, expected a whole number: correct it")
        defaults[key] = value if isinstance(defaults[key], int) else float(value)
    try:
        getattr(_talib, one.name)(*[np.ones(4)] * len(_inputs(one.name)), **defaults)
    except _FAILURES as error:
        raise ModelConfigError(f"{at}: {one.name} refuses {defaults}: {error}: correct a parameter") from error
    return defaults


# --- the level of prices ------------------------------------------------------------------------------------------


def _check_level(config: ModelConfig, name: str) -> None:
    """Refuse features that change with the level of prices or volumes, and features that are always clipped."""
    bars = _sample(history_bars(config) + config.window)
    for number, (one, title) in enumerate(zip(config.indicators, feature_names(config), strict=True)):
        at = f"{name}: indicators[{number}] ({title})"
        usual = _column(one, bars, config.window)
        if not np.isfinite(usual).any():
            raise ModelConfigError(f"{at} is no number on usual prices, so it would always be 0: take another function")
        if not one.because and _moved(one, bars, usual, config.window):
            raise ModelConfigError(
                f"{at} moves with the level of prices or volumes: scale it by price, distance or zscore, or give a "
                "reason as because"
            )
        if np.mean(np.abs(usual) > config.scaling.clip) > OUTSIDE_MAX:
            raise ModelConfigError(
                f"{at} lies beyond the clip of {config.scaling.clip:g} nearly always (it is about "
                f"{float(np.median(usual)):g}): give its scale a center or a larger divide_by"
            )


def _moved(one: Indicator, bars: Float64Array, usual: Float64Array, count: int) -> bool:
    """Return whether the feature changes when all prices, or all volumes, are scaled."""
    for rows in (slice(0, 4), slice(4, 5)):
        other = bars.copy()
        other[rows] *= LEVEL
        moved_column = _column(one, other, count)
        if not np.allclose(moved_column, usual, rtol=SAME, atol=SAME * one.scale.divide_by, equal_nan=True):
            return True
    return False


def _sample(count: int) -> Float64Array:
    """Return bars of a walk of about 0.05 % a bar, float64 (5, count); integers give the same bars everywhere."""
    draw, price, prices = 20_240_703, 500_000, np.empty((5, count))
    for place in range(count):
        moves = []
        for _ in range(5):
            draw = (draw * 6364136223846793005 + 1442695040888963407) % 2**64
            moves.append((draw >> 33) % 1001 - 500)  # millionths of the price
        path = [price + price * move // 1_000_000 for move in moves]
        prices[:, place] = path[0], max(path), min(path), path[3], 10_000 + 20 * (moves[4] + 500)
        price = path[3]
    prices[:4] /= 1000.0
    return prices


def portfolio_fields(
    fields: Sequence[str],
    *,
    shares: npt.ArrayLike,
    price: npt.ArrayLike,
    cash: npt.ArrayLike,
    equity: npt.ArrayLike,
    cost: npt.ArrayLike,
    age_min: npt.ArrayLike,
) -> Float64Array:
    """Return the named fields, float64 (..., fields), of arrays that broadcast to one shape.

    Args:
        fields: names out of `strategies.online_dqn.model_config.PORTFOLIO`.
        shares: held of the row's symbol.
        price: last known, USD a share; 0 where none is.
        cash: USD of the account.
        equity: USD of the account.
        cost: average price paid for what is held, USD a share.
        age_min: whole minutes since its first fill.
    """
    holding, price_now, money, net_worth, average_cost, age = arrays = [
        np.asarray(x, dtype=np.float64) for x in (shares, price, cash, equity, cost, age_min)
    ]
    positive = net_worth > 0.0
    part = 1.0 / np.where(positive, net_worth, np.inf)
    has_cost = (holding > 0.0) & (average_cost > 0.0) & (price_now > 0.0)
    gain = np.where(has_cost, price_now / np.where(has_cost, average_cost, 1.0) - 1.0, 0.0)
    columns = {
        "position": (holding > 0.0).astype(np.float64),
        "cash_share": money * part,
        "inventory_value": holding * price_now * part,
        "unrealised_return": np.clip(gain, RETURN_LEAST, RETURN_MOST),
        "age": np.where(holding > 0.0, np.clip(age / AGE_UNIT_MIN, 0.0, AGE_MOST), 0.0),
    }
    values = np.empty((*np.broadcast(*arrays).shape, len(fields)))
    for place, name in enumerate(fields):
        values[..., place] = columns[name]
    return values
