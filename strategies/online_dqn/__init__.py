"""`online_dqn`: a window of TA-Lib's indicators of a few ETFs in, the values of HOLD, BUY and SELL out, at each bar.

It decides what to hold, never how to order it; no I/O, clock or random number. A YAML file describes the state
vector (`strategies.online_dqn.model_config`). Each symbol is a row of the batch, so one policy serves any symbols.
Invariant: every result depends on the arguments alone.
"""

from __future__ import annotations

from decimal import Decimal
from math import inf

import msgspec
import numpy as np
import numpy.typing as npt

from strategies.kit.contract import (
    Answer,
    Bar,
    Basket,
    Float32Array,
    Head,
    Leg,
    Observation,
    Portfolio,
    Rebalance,
    RowOptions,
    ShareSpec,
    View,
)
from strategies.kit.daily import ROW, STEPS, cut, split_rows, usable
from strategies.kit.entry import Float64Array, StrategyEntry
from strategies.kit.units import MINUTE_NS
from strategies.online_dqn.model_config import ModelConfig, of_text
from strategies.online_dqn.state_vector import feature_names, history_bars, market_rows, portfolio_fields, shipped

HOLD, BUY, SELL = range(3)
ACTIONS = ("HOLD", "BUY", "SELL")
NO_BAR, SHORT, NO_PRICE = "no bar of this minute", "too little history", "no price"
CAPITAL_USD = 100_000

DECLARATION: dict[str, object] = {
    "rows": "a symbol: the last window rows of its indicators, oldest first, then its portfolio fields; the window may "
    "reach back before the open",
    "history": "indicators start history_bars bars before the session's open, and run on over the session's bars",
    "unusable": "a bar without usable prices (1e-6 to 1e9 USD) counts as none; a feature that is no number is 0",
    "scale": "(base - center) / divide_by, clipped; base: the value, value / close, value / close - 1, or its distance "
    "from the mean of its window in standard deviations",
    "portfolio": "position 1 or 0; cash / equity; shares x price / equity; price / average price - 1 within [-1, 3]; "
    "whole minutes since the first fill / 60, at most 6.5",
    "answer": "the value of each action; the largest counts, of equals the first",
    "resolution": "BUY while held and SELL while flat mean HOLD; BUY buys min(weight_max, 1 / symbols) x equity / "
    f"price shares, {STEPS}; SELL sells all",
    "masked": "a symbol without a bar of this minute, with less than history_bars bars before the open, or without a "
    "price: HOLD",
    "heads": "direction: the probability that the close so many bars later is higher; risk: the largest fall below "
    "this close within so many bars, as a part of it",
}
"""The declared meaning of observations and answers; with `Spec`, which holds the configuration, the contract hash."""


class OnlineState(msgspec.Struct, frozen=True, gc=False):
    """The state on which later results depend; tuples in the spec's order of symbols."""

    date: str = ""  # of the session
    series: tuple[bytes, ...] = ()  # each symbol's bars, oldest first: history, then this session's (`kit.daily.ROW`)
    before: tuple[int, ...] = ()  # how many of them are history
    masked: tuple[str, ...] = ()  # why the last observation masked each symbol, "" for a tradable one


def spec_of(config: ModelConfig, symbols: tuple[str, ...] = ()) -> ShareSpec:
    """Return the spec that a model configuration describes, for these symbols or its own."""
    heads = []
    if config.heads.direction is not None:
        bars = config.heads.direction.bars
        heads.append(Head("direction", (), f"the probability that the close {bars} bars later is higher"))
    if config.heads.risk is not None:
        heads.append(Head("risk", (), f"the expected largest fall within {config.heads.risk.bars} bars, of the price"))
    names = feature_names(config)
    return ShareSpec(
        name="online_dqn",
        revision=1,
        symbols=symbols or config.symbols,
        bar_interval_s=60 * config.bar_minutes,
        history_bars=history_bars(config),
        window=config.window,
        observation_shape=(config.window * len(names) + len(config.portfolio),),
        dtype="float32",
        features=(*names, *config.portfolio),
        actions=ACTIONS,
        temperature=1.0,
        heads=tuple(heads),
        rows_are_symbols=True,
        config=config.text,
        capital_usd=CAPITAL_USD,
    )


def resolve(action: npt.ArrayLike, holdings: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return what an action means: BUY while held and SELL while flat are HOLD. One rule for live and training."""
    actions = np.asarray(action, dtype=np.int64)
    return np.where(actions == np.where(np.asarray(holdings, dtype=bool), BUY, SELL), HOLD, actions)


def goal_of(portfolio: Portfolio, price: float) -> int | float:
    """Return the target shares of a BUY at `price` USD, in whole steps; each symbol has its own part of the equity."""
    weight = min(portfolio.weight_max, 1.0 / len(portfolio.shares))
    return cut(weight * max(portfolio.equity, 0.0) / price, portfolio)


class OnlineDqn:
    """The strategy over `OnlineState`; see `strategies.kit.contract.RowStrategy`."""

    __slots__ = ("_config", "spec")
    state_type = OnlineState

    def __init__(self, config: ModelConfig | None = None, symbols: tuple[str, ...] = ()) -> None:
        """Make the strategy of a model configuration, the shipped one for None, and of its or these symbols."""
        self._config = config or shipped()
        self.spec = spec_of(self._config, symbols)

    def start(self) -> OnlineState:
        """Return the state before any bar."""
        count = len(self.spec.symbols)
        return OnlineState(series=(b"",) * count, before=(0,) * count)

    def observe(self, state: OnlineState, bars: tuple[Bar, ...], view: View) -> tuple[OnlineState, Observation | None]:
        """Append the bars that closed together; return a row for each symbol, None while no symbol has its history.

        Bars outside of the session and of other symbols are left out. `ValueError` without a portfolio.
        """
        state = self._at_session(state, view)
        session, symbols = view.session, self.spec.symbols
        fresh = {
            bar.symbol: bar
            for bar in bars
            if bar.symbol in symbols and session.open_ns <= bar.start_ns < session.close_ns and usable(bar)
        }
        series = tuple(
            [
                rows + _pack(fresh[symbol]) if symbol in fresh else rows
                for symbol, rows in zip(symbols, state.series, strict=True)
            ]
        )
        short = [count < self.spec.history_bars for count in state.before]
        masked_rows = tuple(
            [
                SHORT if lacking else "" if symbol in fresh else NO_BAR
                for symbol, lacking in zip(symbols, short, strict=True)
            ]
        )
        state = msgspec.structs.replace(state, series=series, masked=masked_rows)
        if not fresh or all(short):
            return state, None
        market = [self._market(rows) if not lacking else None for rows, lacking in zip(series, short, strict=True)]
        data = observation_of(self._config, market, self._fields(view))
        return state, Observation(data.tobytes(), data.shape)

    def correct(self, state: OnlineState, bar: Bar) -> OnlineState:
        """Replace the bar of the same symbol and start, or put a late one of this session into its place."""
        if bar.symbol not in self.spec.symbols or not usable(bar):
            return state
        place = self.spec.symbols.index(bar.symbol)
        rows = {ROW.unpack_from(state.series[place], at)[0]: at for at in range(0, len(state.series[place]), ROW.size)}
        history = state.before[place] * ROW.size
        old_row, series = rows.get(bar.start_ns), state.series[place]
        at = old_row if old_row is not None else sum(1 for start in rows if start < bar.start_ns) * ROW.size
        if old_row is None and at < history:
            return state  # older than this session: the history is not corrected
        new_series = series[:at] + _pack(bar) + series[at + (ROW.size if old_row is not None else 0) :]
        return msgspec.structs.replace(state, series=(*state.series[:place], new_series, *state.series[place + 1 :]))

    def split(self, state: OnlineState, symbol: str, ratio: float, from_ns: int) -> OnlineState:
        """Keep the bars of `symbol` before `from_ns` as of new shares, `ratio` for each old one."""
        return msgspec.structs.replace(state, series=split_rows(self.spec, state.series, symbol, ratio, from_ns))

    def options(self, state: OnlineState, answer: Answer, view: View) -> tuple[RowOptions, ...]:
        """Return what each action of each symbol would do; a masked symbol only holds."""
        portfolio = _portfolio(view)
        choices = []
        for place, symbol in enumerate(self.spec.symbols):
            legs: list[Leg | None] = [None, None, None]
            shares, price = portfolio.shares[place], portfolio.prices[place]
            if not self._left_alone(state, portfolio, place):
                if shares > 0:
                    legs[SELL] = Leg(symbol, 0)
                elif goal := goal_of(portfolio, price):
                    legs[BUY] = Leg(symbol, goal)
            values = answer.logits[place * len(ACTIONS) : (place + 1) * len(ACTIONS)]
            best = values.index(max(values))
            choices.append(RowOptions(symbol, best if legs[best] is not None else HOLD, tuple(legs)))
        return tuple(choices)

    def decide(self, state: OnlineState, answer: Answer, view: View) -> tuple[OnlineState, Rebalance]:
        """Take the drawn actions, or those with the largest values. State unchanged."""
        options, portfolio = self.options(state, answer, view), _portfolio(view)
        actions = answer.drawn or tuple([option.greedy for option in options])
        chosen = [option.legs[action] for option, action in zip(options, actions, strict=True)]
        legs = tuple([leg for leg in chosen if leg is not None])
        notes = {
            symbol: reason
            for place, symbol in enumerate(self.spec.symbols)
            if (reason := self._left_alone(state, portfolio, place))
        }
        action_names = [ACTIONS[action] for action in actions]
        words = (
            action_names
            if len(action_names) == 1
            else [f"{name} {o.symbol}" for name, o in zip(action_names, options, strict=True)]
        )
        return state, Rebalance(None, ", ".join(words), Basket(legs), notes, actions)

    # --- parts ----------------------------------------------------------------------------------------------------

    def _at_session(self, state: OnlineState, view: View) -> OnlineState:
        """Return the state in the view's session: at a new one all bars before it are history, the newest W of them."""
        if state.date == view.session.date:
            return state
        size = self.spec.history_bars * ROW.size
        series = tuple([rows[-size:] for rows in state.series])
        return OnlineState(view.session.date, series, tuple([len(rows) // ROW.size for rows in series]))

    def _market(self, rows: bytes) -> Float64Array:
        bars = np.ascontiguousarray(np.frombuffer(rows, dtype="<f8").reshape(-1, 6)[:, 1:].T, dtype=np.float64)
        return market_rows(self._config, bars, self.spec.window)

    def _fields(self, view: View) -> Float64Array:
        portfolio = _portfolio(view)
        opened_ns = np.asarray(portfolio.opened_ns or (view.now_ns,) * len(portfolio.shares), dtype=np.int64)
        return portfolio_fields(
            self._config.portfolio,
            shares=portfolio.shares,
            price=portfolio.prices,
            cash=portfolio.cash,
            equity=portfolio.equity,
            cost=portfolio.costs or portfolio.prices,
            age_min=(view.now_ns - opened_ns + MINUTE_NS // 2) // MINUTE_NS,
        )

    def _left_alone(self, state: OnlineState, portfolio: Portfolio, place: int) -> str:
        """Return why a symbol is masked, "" where it is tradable."""
        reason = state.masked[place] if state.masked else NO_BAR
        return reason or ("" if 0.0 < portfolio.prices[place] < inf else NO_PRICE)


def observation_of(config: ModelConfig, market: list[Float64Array | None], fields: Float64Array) -> Float32Array:
    """Return the observation, float32 (symbols, width), of each symbol's window (None: zeros) and portfolio fields."""
    width = config.window * len(config.indicators)
    out = np.zeros((len(market), width + len(config.portfolio)), dtype="<f4")
    for place, rows in enumerate(market):
        if rows is not None:
            out[place, :width] = rows.reshape(-1)
    out[:, width:] = fields
    return out


def with_config(text: str, symbols: tuple[str, ...]) -> OnlineDqn:
    """Make the strategy of a configuration's canonical text, "" for the shipped one, and of these symbols."""
    return OnlineDqn(of_text(text) if text else None, symbols)


def _pack(bar: Bar) -> bytes:
    return ROW.pack(bar.start_ns, bar.open, bar.high, bar.low, bar.close, bar.volume)


def _portfolio(view: View) -> Portfolio:
    if view.portfolio is None:
        raise ValueError(f"view of {view.session.date} has no portfolio, online_dqn expects one: set View.portfolio")
    return view.portfolio


STRATEGY = StrategyEntry(
    OnlineDqn,
    DECLARATION,
    desk="online",
    training="training.desks.online.kind:KIND",
    defaults={
        "sizing": {"stop_loss": 0.01, "take_profit": 0.02},
        "risk": {"daily_loss_max": 0.03, "drawdown_max": 0.15},
        "basket": {"weight_max": 0.95},
        "paper": {"cash_usd": Decimal(CAPITAL_USD), "share_cost_rate": Decimal("0.0001")},
    },
    with_config=with_config,
)
