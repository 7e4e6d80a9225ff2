"""`regime_switcher`: 64 numbers on three ETFs in, one of 16 portfolios out, once a session, by a policy with a memory.

It says what to hold, never how to order it; no I/O, clock or random number.
"""

from __future__ import annotations

from strategies.contract import DailySpec

SYMBOLS = ("SPY", "QQQ", "IWM")
ASSETS = ("CASH", *SYMBOLS)
HOLD = 0

REGIMES: tuple[tuple[str, tuple[float, float, float] | None], ...] = (
    ("HOLD", None),
    ("ALL_CASH", (0.00, 0.00, 0.00)),
    ("ALL_SPY", (1.00, 0.00, 0.00)),
    ("ALL_QQQ", (0.00, 1.00, 0.00)),
    ("ALL_IWM", (0.00, 0.00, 1.00)),
    ("EQUAL_WEIGHT", (1 / 3, 1 / 3, 1 / 3)),
    ("SPY_QQQ", (0.50, 0.50, 0.00)),
    ("SPY_IWM", (0.50, 0.00, 0.50)),
    ("QQQ_IWM", (0.00, 0.50, 0.50)),
    ("BALANCED", (0.40, 0.20, 0.20)),
    ("GROWTH_TILT", (0.30, 0.60, 0.00)),
    ("VALUE_TILT", (0.60, 0.10, 0.20)),
    ("SMALL_CAP_TILT", (0.30, 0.00, 0.60)),
    ("DEFENSIVE", (0.40, 0.00, 0.00)),
    ("HALF_CASH", (0.25, 0.15, 0.10)),
    ("CASH_HEAVY", (0.10, 0.05, 0.05)),
)
"""Each action's name and the weights of SPY, QQQ and IWM, what is left is cash; None leaves all as it is."""

PRICES, RETURNS, VOLATILITIES, WEIGHTS = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 13)
PORTFOLIO_RETURN, DRAWDOWN = 13, 14
WIDTH = 64  # [15:64] is reserved and 0
HIDDEN = 128
HISTORY_BARS = 252  # W
EPISODE = 256  # sessions over which return and drawdown of the portfolio are told

SPEC = DailySpec(
    name="regime_switcher",
    revision=1,
    symbols=SYMBOLS,
    bar_interval_s=86_400,
    history_bars=HISTORY_BARS,
    window=1,
    observation_shape=(WIDTH,),
    dtype="float32",
    features=(
        *(f"price {symbol}" for symbol in SYMBOLS),
        *(f"return {symbol}" for symbol in SYMBOLS),
        *(f"volatility {symbol}" for symbol in SYMBOLS),
        *(f"weight {asset}" for asset in ASSETS),
        "portfolio_return",
        "drawdown",
        *(f"reserved {index}" for index in range(15, WIDTH)),
    ),
    actions=tuple(name for name, _ in REGIMES),
    temperature=1.0,
    recurrent_shape=(HIDDEN,),
    capital_usd=100_000,
)
