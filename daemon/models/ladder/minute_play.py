"""The player of a desk that holds shares by the minute, and which player a desk has."""

from __future__ import annotations

from typing import Any

from daemon.core.events import BarClosed, Event
from daemon.core.state import State
from daemon.models.shadow_play import CONTRACT_RULE, SHARE_RULE, ContractPlay, Play, SharePlay
from strategies.kit.contract import Answer, AnyStrategy, DailyStrategy, Leg, Portfolio, ShareStrategy, Strategy, View
from strategies.registry import by_kind

MINUTE_RULE = (
    "Each model's own portfolio from paper.cash_usd: its basket is traded at the next bar's opening price, sells "
    "before buys and buys while the cash lasts, at the cost of paper.share_cost_rate, and sold at the session's last "
    "close."
)
RULES = {("bar", "option"): CONTRACT_RULE, ("bar", "shares"): MINUTE_RULE, ("session", "shares"): SHARE_RULE}
"""The rule of the player that `player_of` returns, by `Spec.kind`."""


class MinuteSharePlay:
    """The player of such a desk; see `MINUTE_RULE`. `watch` must see every event."""

    def __init__(self, strategy: ShareStrategy, cash_usd: float) -> None:
        self.trades = 0
        self.modelled = 0
        self.pnl_usd: dict[str, float] = {}
        self._strategy = strategy
        self._cash = cash_usd
        self._shares: dict[str, int] = {}
        self._closes: dict[str, float] = {}
        self._goals: dict[str, int] = {}  # what the last decision still wants to change
        self._counted = cash_usd  # equity that is in `pnl_usd`

    def watch(self, state: State[Any], event: Event) -> None:
        """Trade at the opening price of a bar, and mark at its close."""
        if isinstance(event, BarClosed):
            bar = event.bar
            if (goal := self._goals.pop(bar.symbol, None)) is not None:
                self._trade(state, bar.symbol, goal, bar.open)
            self._closes[bar.symbol] = bar.close

    def decide(self, state: State[Any], answer: Answer) -> None:
        """See `Play`."""
        session = state.session.session
        if session is None:
            return
        self.pnl_usd.setdefault(session.date, 0.0)
        symbols, rules = self._strategy.spec.symbols, state.trading.basket
        portfolio = Portfolio(
            cash=self._cash,
            equity=self._equity(),
            shares=tuple(self._shares.get(symbol, 0) for symbol in symbols),
            prices=tuple(self._closes.get(symbol, 0.0) for symbol in symbols),
            shares_per_unit=rules.shares_per_unit,
            notional_per_unit=float(rules.notional_per_unit_usd),
            band=rules.band,
            weight_max=rules.weight_max,
        )
        _, decided = self._strategy.decide(state.strategy, answer, View(state.now_ns, session, portfolio=portfolio))
        self._goals = {leg.symbol: leg.goal for leg in _sells_first(decided.basket.legs, self._shares)}

    def end(self, state: State[Any]) -> None:
        """See `Play`; nothing is held overnight."""
        session = state.session.session
        self._goals = {}
        for symbol in tuple(self._shares):
            self._trade(state, symbol, 0, self._closes[symbol])
        if session is not None:
            self.pnl_usd[session.date] = self.pnl_usd.get(session.date, 0.0) + self._cash - self._counted
            self._counted = self._cash

    def _trade(self, state: State[Any], symbol: str, goal: int, price: float) -> None:
        rate, held = float(state.trading.paper.share_cost_rate), self._shares.get(symbol, 0)
        change = min(goal - held, int(self._cash / (price * (1.0 + rate)))) if goal > held else goal - held
        if change:
            self._cash -= change * price + abs(change) * price * rate
            self._shares[symbol] = held + change
            self.trades += 1
        if not self._shares.get(symbol):
            self._shares.pop(symbol, None)

    def _equity(self) -> float:
        return self._cash + sum(held * self._closes[symbol] for symbol, held in self._shares.items())


def _sells_first(legs: tuple[Leg, ...], held: dict[str, int]) -> list[Leg]:
    return sorted(legs, key=lambda leg: leg.goal >= held.get(leg.symbol, 0))


def player_of(strategy: AnyStrategy, cash_usd: float) -> Play:
    """Return a new player of the strategy's kind of desk."""

    def of_options(made: Strategy) -> Play:
        return ContractPlay(made)

    def of_shares(made: ShareStrategy) -> Play:
        return MinuteSharePlay(made, cash_usd)

    def of_days(made: DailyStrategy) -> Play:
        return SharePlay(made, cash_usd)

    return by_kind(strategy, option=of_options, shares=of_shares, days=of_days)
