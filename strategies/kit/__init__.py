"""What a strategy is written with. What stands in `__all__` is kept from release to release; all else here may change.

>>> from strategies.kit import Bar, Portfolio, basket_of_weights, choose
>>> choose([0.1, 2.0, 0.3], temperature=1.0).action  # the action with the largest logit
1
>>> money = Portfolio(cash=1_000.0, equity=1_000.0, shares=(0, 0), prices=(50.0, 30.0))
>>> [(leg.symbol, leg.goal) for leg in basket_of_weights(("AAA", "BBB"), (0.5, 0.4), money).legs]  # whole shares
[('AAA', 10), ('BBB', 13)]
"""

from strategies.kit.contract import (
    Answer,
    Bar,
    Basket,
    Choice,
    DailySpec,
    DailyStrategy,
    Decision,
    Float32Array,
    Head,
    Leg,
    Observation,
    Portfolio,
    Rebalance,
    RowOptions,
    RowStrategy,
    Session,
    ShareSpec,
    ShareStrategy,
    Spec,
    Strategy,
    Target,
    View,
)
from strategies.kit.daily import (
    KeepsBars,
    KeptBars,
    basket_of_weights,
    count,
    known_bars,
    no_bars,
    portfolio_of,
    prices,
    readjusted,
    remembered,
    usable,
    weekday_of,
)
from strategies.kit.entry import Columns, OwnStrategyError, StrategyEntry, defaults_of_days
from strategies.kit.sampling import SAMPLING, choose, softmax

__all__ = [
    "SAMPLING",
    "Answer",
    "Bar",
    "Basket",
    "Choice",
    "Columns",
    "DailySpec",
    "DailyStrategy",
    "Decision",
    "Float32Array",
    "Head",
    "KeepsBars",
    "KeptBars",
    "Leg",
    "Observation",
    "OwnStrategyError",
    "Portfolio",
    "Rebalance",
    "RowOptions",
    "RowStrategy",
    "Session",
    "ShareSpec",
    "ShareStrategy",
    "Spec",
    "Strategy",
    "StrategyEntry",
    "Target",
    "View",
    "basket_of_weights",
    "choose",
    "count",
    "defaults_of_days",
    "known_bars",
    "no_bars",
    "portfolio_of",
    "prices",
    "readjusted",
    "remembered",
    "softmax",
    "usable",
    "weekday_of",
]
