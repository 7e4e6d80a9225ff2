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
"""In place of a training object: the last numbers of an observation, one for each action, are the policy's answer."""

told_of_calls: list[Callable[[str], None]] = []
"""Get the name of each call of a strategy as it begins, and "" when it is over: for a process that may die in one."""


@contextmanager
def told(call: str) -> Iterator[None]:
    """Tell of what runs within as of one call."""
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
"""Table of the configuration -> key -> its default for this strategy. A configuration may change it again."""


class Columns(NamedTuple):
    """The market columns of n symbols after the close of each of d sessions, without the account."""

    market: Float32Array  # (d, columns)
    tradable: Float32Array  # (d, n): 1, or 0 where the strategy leaves a symbol alone
    warm: BoolArray  # (d,): an observation exists


class ChartLine(NamedTuple):
    """An indicator that the dashboard draws for a strategy. No part of the contract: the policy does not see it."""

    meaning: str
    of: Callable[[Float64Array], Float64Array]
    """Of bars (5, n): open, high, low, close in USD and volume; gives (n,), NaN where it is not known yet."""
    overlay: bool = False  # a price: it is drawn over the bars, else in a pane of its own


class StrategyEntry(NamedTuple):
    """A strategy in the registry: the name `STRATEGY` of its module."""

    make: Callable[[], AnyStrategy]  # a new object with empty caches
    declaration: Mapping[str, object]  # see `strategies.golden.contract_hash`
    desk: str  # a short name for its desk and its account, where several run on one host
    defaults: Defaults = MappingProxyType({})  # changes to the defaults of all strategies
    table: Callable[..., Any] | None = None
    """Its features over a whole history, to be analysed. Called like `feature_table` of `option_scalper`; of
    days with open, high, low and close, float64 (d, n) in USD, NaN where there is no bar, and `present`, bool (d, n),
    and where it names them `volume`, float64 (d, n), and `dates`, New York dates (d,); gives a row for each session."""
    with_symbols: Callable[[tuple[str, ...]], AnyStrategy] | None = None
    """Makes it for these symbols where a configuration may name them, else None. Where rows are no symbols
    (`Spec.rows_are_symbols`), another list is another contract."""
    with_config: Callable[[str, tuple[str, ...]], AnyStrategy] | None = None
    """Makes it for the canonical text of a model configuration, "" for the shipped one, and these symbols, where a file
    describes its state vector (`strategies.online_dqn.model_config`); else None."""
    columns: Callable[[Float64Array, BoolArray, int, Sequence[str]], Columns] | None = None
    """Of a strategy that decides once a session, for training: of bars (5, d, n): open, high, low, close in USD and
    volume, NaN where there is none; of `present`, bool (d, n); of W, the bars that an observation depends on; and of
    the sessions' New York dates (d,)."""
    trust: Callable[[Mapping[str, tuple[float, ...]]], float] | None = None
    """The part of each wish, 0 to 1, that a symbol's heads, by name, let pass; None: known by the answer alone."""
    expected_symbols: Callable[[tuple[str, ...]], str] = lambda _: ""
    """What a list of symbols should be that `with_symbols` cannot serve, in words; "" for one that it can."""
    declared: Callable[[tuple[str, ...]], Mapping[str, object]] | None = None
    """The declaration for other symbols than its own, where it depends on them; None: `declaration` holds for all."""
    indicators: Mapping[str, ChartLine] = MappingProxyType({})
    """What the dashboard's chart offers beside the features, by name."""
    parameters: Mapping[str, Parameter] = MappingProxyType({})
    """Its declared numbers by name, which a desk may set (`desk.parameters`), and `sweep` and `search` vary."""
    with_parameters: Callable[[Values], AnyStrategy] | None = None
    """Makes it for these values, all that are declared; `make` makes it for the defaults."""
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
