"""`daily_rebalancer`: the closes and indicators of 50 stocks in, a basket of whole shares out, once a session.

It says what to hold, never how to order it; no I/O, clock or random number.
"""

from __future__ import annotations

from strategies.contract import DailySpec

SYMBOLS = (
    "AAPL", "ADBE", "AMD", "AMGN", "AMZN", "AVGO", "BA", "BAC", "BKNG", "BMY",
    "BRK.B", "C", "CAT", "CMCSA", "COST", "CRM", "CSCO", "CVX", "DIS", "ELV",
    "GE", "GOOGL", "GS", "HD", "JNJ", "JPM", "KO", "LLY", "LOW", "MA",
    "MCD", "MRK", "MSFT", "MU", "NKE", "NVDA", "ORCL", "PEP", "PG", "QCOM",
    "SBUX", "T", "TXN", "UNH", "UNP", "V", "VZ", "WFC", "WMT", "XOM",
)  # fmt: skip
"""The 50 stocks with a full history from 2010 to 2022 and the highest dollar volume of 2019, by name."""

INDICATORS = (
    "macd", "rsi14", "cci20", "dx14", "sma20", "sma50", "sma200", "bollinger_upper", "bollinger_middle",
    "bollinger_lower", "atr14", "williams_r14", "stochastic_k14",
)  # fmt: skip
STOCKS = len(SYMBOLS)
CLOSES = slice(0, STOCKS)
INDICATOR_COLUMNS = slice(50, 700)  # all indicators of the first stock, then of the second, ...
CASH, VALUE = 700, 701
HOLDINGS = slice(702, 752)
WEEKDAY = 752  # 0 Monday to 4 Friday
TRADABLE = slice(753, 803)  # 1, or 0: halted, missing, delisted, too little history
WIDTH = 803
HISTORY_BARS = 400  # W

SPEC = DailySpec(
    name="daily_rebalancer",
    revision=1,
    symbols=SYMBOLS,
    bar_interval_s=86_400,
    history_bars=HISTORY_BARS,
    window=1,
    observation_shape=(WIDTH,),
    dtype="float32",
    features=(
        *(f"close {symbol}" for symbol in SYMBOLS),
        *(f"{indicator} {symbol}" for symbol in SYMBOLS for indicator in INDICATORS),
        "cash",
        "portfolio_value",
        *(f"shares {symbol}" for symbol in SYMBOLS),
        "weekday",
        *(f"tradable {symbol}" for symbol in SYMBOLS),
    ),
    actions=SYMBOLS,
    temperature=1.0,
    continuous=True,
    capital_usd=1_000_000,
)
