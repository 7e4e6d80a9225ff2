"""A strategy's entry in the registry: how to make it, what its contract hash covers, and its defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from strategies.kit.contract import AnyStrategy, Float32Array
from strategies.kit.parameters import Parameter, Values

GROUP = "rltrader.strategies"
"""The group of entry points under which a package offers its strategies."""
INSTALLED = "entry point "
"""How the place of an installed strategy begins; the place of a file is `/path/to/file.py:NAME`."""

RULE = "rule"
"""Stands in `StrategyEntry.training` for a rule: the last numbers of an observation are the policy's answer."""

IMPURE = "it draws random numbers, reads a clock or a file, or keeps something outside its state"
"""Why the same code comes to something else on the same events."""

told_of_calls: list[Callable[[str], None]] = []
"""Functions that are told the name of each call of strategy code when it begins, and "" when it ends: a process that
dies within a call can name it."""


@contextmanager
def reporting(call: str) -> Iterator[None]:
    """Report the code within as one call of this name to `told_of_calls`."""
    for note in told_of_calls:
        note(call)
    try:
        yield
    finally:
        for note in told_of_calls:
            note("")


Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Defaults = Mapping[str, Mapping[str, object]]
"""Configuration table -> key -> default for this strategy. A configuration may override it."""


class Columns(NamedTuple):
    """The market columns of n symbols after the close of each of d sessions, without the account."""

    market: Float32Array  # (d, columns)
    tradable: Float32Array  # (d, n): 1, or 0 where the strategy leaves a symbol alone
    warm: BoolArray  # (d,): an observation exists


class ChartLine(NamedTuple):
    """An indicator that the dashboard draws for a strategy. No part of the contract: the policy does not see it."""

    meaning: str
    of: Callable[[Float64Array], Float64Array]
    """From bars (5, n): open, high, low, close in USD and volume; to values (n,), NaN where not known yet."""
    overlay: bool = False  # True: a price, drawn over the bars; False: drawn in its own pane


class StrategyEntry(NamedTuple):
    """A strategy in the registry: the name `STRATEGY` of its module."""

    make: Callable[[], AnyStrategy]  # a new object with empty caches
    declaration: Mapping[str, object]  # see `strategies.golden.contract_hash`
    desk: str  # a short name for its desk and its account, where several run on one host
    defaults: Defaults = MappingProxyType({})  # changes to the defaults of all strategies
    table: Callable[..., Any] | None = None
    """Its features over a whole history, for `analyse`. For minutes it is called like `feature_table` of
    `option_scalper`. For days it gets open, high, low and close, float64 (d, n) in USD, NaN where there is no bar, and
    `present`, bool (d, n); if it has parameters of these names also `volume`, float64 (d, n), and `dates`, New York
    dates (d,). It returns a row for each session."""
    with_symbols: Callable[[tuple[str, ...]], AnyStrategy] | None = None
    """Makes the strategy for these symbols; None where a configuration cannot name symbols. Another list is another
    contract, unless `Spec.rows_are_symbols`."""
    with_config: Callable[[str, tuple[str, ...]], AnyStrategy] | None = None
    """Makes the strategy for the canonical text of a model configuration ("": the shipped one) and these symbols; None
    where no file describes its state vector (`strategies.online_dqn.model_config`)."""
    columns: Callable[[Float64Array, BoolArray, int, Sequence[str]], Columns] | None = None
    """Market columns for training a strategy that decides once a session. Arguments: bars (5, d, n), open, high, low,
    close in USD and volume, NaN where there is none; `present`, bool (d, n); W, the bars that an observation depends
    on; the sessions' New York dates (d,)."""
    trust: Callable[[Mapping[str, tuple[float, ...]]], float] | None = None
    """The factor from 0 to 1 by which a symbol's heads (name to numbers) reduce its wished action; None: no reduction
    is shown."""
    expected_symbols: Callable[[tuple[str, ...]], str] = lambda _: ""
    """Words for what a list of symbols should be; "" for a list that `with_symbols` accepts."""
    declared: Callable[[tuple[str, ...]], Mapping[str, object]] | None = None
    """The declaration for other symbols than its own, where it depends on them; None: `declaration` holds for all."""
    indicators: Mapping[str, ChartLine] = MappingProxyType({})
    """What the dashboard's chart offers beside the features, by name."""
    parameters: Mapping[str, Parameter] = MappingProxyType({})
    """Its declared numbers by name, which a desk may set (`desk.parameters`), and `sweep` and `search` vary."""
    with_parameters: Callable[[Values], AnyStrategy] | None = None
    """Makes the strategy with these values, one for each declared parameter; with the declared defaults too, where
    `make` would be called."""
    training: str = ""
    """`module:NAME` of the object that trains it (`training.desks.kind.TrainingKind`), or `RULE`; "": nothing does."""


class OwnStrategyError(ValueError):
    """A strategy of one's own cannot be used. The text names the file, the line, the cause and the cure."""


def defaults_of_days(capital_usd: int) -> Defaults:
    """Return the defaults of a strategy that decides once a session and stays invested.

    The US stock market stops for the day after a fall of 20 %, and fell by 55 % from 2007 to 2009: an invested desk
    halts beyond that, and not within. Drift is measured over a year of decisions.

    Args:
        capital_usd: paper cash at the start.
    """
    return {
        "risk": {"daily_loss_max": 0.20, "drawdown_max": 0.60},
        "paper": {"cash_usd": Decimal(capital_usd)},
        "drift": {"window": 250, "least": 60},
    }
