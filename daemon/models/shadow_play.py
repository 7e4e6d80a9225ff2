"""Profit of a model's answers under one simple rule, the same for any two models: a hypothetical player.

It reads the desk's states at the decisions and changes nothing. Its profit compares with another player's over the same
decisions, never with the desk's, which has sizes, stops, gates and fills.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Protocol

import msgspec

from daemon.core.events import Quote
from daemon.core.instruments.contracts import candidates
from daemon.core.instruments.option_market import bid_ask_cents, option_terms, price, years_to_expiry
from daemon.core.paper.fees import fees
from daemon.core.state import State
from strategies.kit.contract import Answer, Bar, DailyStrategy, Leg, Portfolio, Strategy, View
from strategies.kit.units import DAY_NS

SHARES = 100  # of one contract
VOLATILITIES = (1e-4, 20.0)  # annualised, within which an implied one is looked for
HALVINGS = 60

CONTRACT_RULE = (
    "One contract at a time: the desk's candidate call or put, bought at the ask of the quotes at the decision where "
    "the model's confidence reaches risk.confidence_min; sold at the bid by the same model's next exit or opposite "
    "action, or at the session's last quotes; trims keep it; fees as in [paper]. A contract that the desk no longer "
    "watched is priced by Black and Scholes at the volatility that its watched neighbour implies, less the half-spread "
    "of [paper]."
)
SHARE_RULE = (
    "Each model's own portfolio from paper.cash_usd: its basket is traded at the opening price of the session it was "
    "decided for (decided before the close: at the closing price), sells before buys and buys while the cash lasts, at "
    "the cost of paper.share_cost_rate, and marked at the closes; splits and dividends keep the value of what is held."
)


class Play(Protocol):
    """A player: receives each decision, and the state in which a session or the journal ends."""

    @property
    def trades(self) -> int:
        """Number of buys and sales."""

    @property
    def modelled(self) -> int:
        """Number of its prices that are modelled, not the journal's own."""

    @property
    def pnl_usd(self) -> Mapping[str, float]:
        """Profit of each session, by its New York date."""

    def decide(self, state: State[Any], answer: Answer) -> None:
        """Handle the model's answer to the open question of this state."""

    def end(self, state: State[Any]) -> None:
        """Handle the last state of a session."""


class _Held(msgspec.Struct, frozen=True):
    """A contract and its cost in USD, fees included."""

    symbol: str
    right: int
    paid: Decimal
    bid: Decimal  # the last one known


class ContractPlay:
    """The player of a desk that trades options by the minute; see `CONTRACT_RULE`."""

    def __init__(self, strategy: Strategy) -> None:
        self.trades = 0
        self.modelled = 0
        self.pnl_usd: dict[str, float] = {}
        self._strategy = strategy
        self._held: _Held | None = None

    def decide(self, state: State[Any], answer: Answer) -> None:
        """See `Play`."""
        session = state.session.session
        if session is None:
            return
        self.pnl_usd.setdefault(session.date, 0.0)
        side = self._held.right if self._held is not None else 0
        _, decision = self._strategy.decide(state.strategy, answer, View(state.now_ns, session, side))
        target = decision.target
        if self._held is not None:
            if target.side != side:
                self._leave(state, self._held)
            elif (quote := state.quotes.get(self._held.symbol)) is not None:
                self._held = msgspec.structs.replace(self._held, bid=quote.bid)
        elif target.side and not target.keep and decision.choice.confidence >= state.trading.risk.confidence_min:
            self._enter(state, target.side)

    def end(self, state: State[Any]) -> None:
        """See `Play`."""
        if self._held is not None:
            self._leave(state, self._held)

    def _enter(self, state: State[Any], side: int) -> None:
        """Buy the candidate of this side, where it is quoted."""
        chosen = candidates(state.chain, state.session, state.now_ns, state.trading.contracts) if state.chain else ()
        symbol = next((contract.symbol for contract in chosen if contract.right == side), "")
        quote = state.quotes.get(symbol)
        if quote is None or quote.ask <= 0 or quote.bid <= 0:
            return
        cost = quote.ask * SHARES
        self._held = _Held(symbol, side, cost + fees(1, cost, +1, state.trading.paper), quote.bid)
        self.trades += 1

    def _leave(self, state: State[Any], held: _Held) -> None:
        session, quote = state.session.session, state.quotes.get(held.symbol)
        if quote is not None:
            bid = quote.bid
        else:
            self.modelled += 1
            known = modelled_bid(state, held.symbol)
            bid = held.bid if known is None else known
        proceeds = bid * SHARES
        gain = proceeds - fees(1, proceeds, -1, state.trading.paper) - held.paid
        date = session.date if session is not None else ""
        self.pnl_usd[date] = self.pnl_usd.get(date, 0.0) + float(gain)
        self.trades += 1
        self._held = None


def modelled_bid(state: State[Any], symbol: str) -> Decimal | None:
    """Return the bid in USD a share of an unquoted contract from a quoted one of its expiry; None without one.

    The neighbour of the same right first: by put-call parity (r = q = 0) one of the other right implies the same
    volatility at the same strike.
    """
    strike, right, expiry = option_terms(symbol)
    for quote in sorted(state.quotes.values(), key=lambda known: option_terms(known.symbol)[1] != right):
        volatility, years = _implied(state, quote, expiry)
        if volatility is not None:
            value = price(state.session.spot, strike, years, volatility, right)
            return Decimal(bid_ask_cents(value, state.trading.paper)[0]) / 100
    return None


def _implied(state: State[Any], quote: Quote, expiry: str) -> tuple[float | None, float]:
    """Return the volatility implied by a quote's mid, and its years to expiry; None for another expiry."""
    strike, right, known = option_terms(quote.symbol)
    session, spot = state.session.session, state.session.spot
    if known != expiry or session is None or spot <= 0 or quote.bid <= 0 or quote.ask <= 0:
        return None, 0.0
    later = tuple(s for s in state.session.upcoming if s.date <= expiry)
    years, middle = years_to_expiry(quote.quoted_ns, session, later), float(quote.bid + quote.ask) / 2.0
    low, high = VOLATILITIES
    if not price(spot, strike, years, low, right) < middle < price(spot, strike, years, high, right):
        return None, years
    for _ in range(HALVINGS):
        half = (low + high) / 2.0
        low, high = (half, high) if price(spot, strike, years, half, right) < middle else (low, half)
    return low, years


class SharePlay:
    """The player of a daily desk; see `SHARE_RULE`. A decision settles the orders of the one before."""

    def __init__(self, strategy: DailyStrategy, cash_usd: float) -> None:
        self.trades = 0
        self.modelled = 0
        self.pnl_usd: dict[str, float] = {}
        self._strategy = strategy
        self._cash = cash_usd
        self._shares: dict[str, float] = {}
        self._marks: dict[str, Bar] = {}  # the newest known bar of each symbol at the last decision
        self._date = ""  # of the last decision's session, "" where nothing is to settle
        self._open_ns = 0  # of that session
        self._legs: tuple[Leg, ...] = ()
        self._counted = ""  # the session that gets the gains

    def decide(self, state: State[Any], answer: Answer) -> None:
        """See `Play`."""
        self.end(state)
        session = state.session.session
        if session is None:
            return
        before_close = state.trading.basket.decide == "before_close"
        symbols, rules = self._strategy.spec.symbols, state.trading.basket
        prices = _closes(self._marks)
        if before_close:
            prices |= {symbol: float(mark) for symbol, mark in state.marks.items()}
        portfolio = Portfolio(
            cash=self._cash,
            equity=self._equity(prices),
            shares=tuple(int(self._shares.get(symbol, 0.0)) for symbol in symbols),
            prices=tuple(prices.get(symbol, 0.0) for symbol in symbols),
            shares_per_unit=rules.shares_per_unit,
            notional_per_unit=float(rules.notional_per_unit_usd),
            band=rules.band,
            weight_max=rules.weight_max,
        )
        _, rebalance = self._strategy.decide(state.strategy, answer, View(state.now_ns, session, portfolio=portfolio))
        self._legs, self._date, self._open_ns = rebalance.basket.legs, session.date, session.open_ns

    def end(self, state: State[Any]) -> None:
        """See `Play`; a session whose bars are not known yet is settled later."""
        known = self._strategy.known(state.strategy)
        newest = {symbol: bars[-1] for symbol, bars in known.items() if bars}
        traded = {
            symbol: bar for symbol, bars in known.items() if (bar := _of_session(bars, self._open_ns)) is not None
        }
        if self._date and not traded:
            return
        self._adjust(known)
        before = self._equity(_closes(self._marks))
        if self._date:
            self._trade(state, traded)
            self._counted, self._date, self._legs = self._date, "", ()
        self._marks = newest
        if self._counted:  # without a new decision, holdings belong to the last one
            gain = self._equity(_closes(newest)) - before
            self.pnl_usd[self._counted] = self.pnl_usd.get(self._counted, 0.0) + gain

    def _adjust(self, known: Mapping[str, tuple[Bar, ...]]) -> None:
        """Adjust shares, goals and marks for splits and dividends since the last decision: their value stays."""
        for symbol, old in tuple(self._marks.items()):
            new = next((bar for bar in reversed(known.get(symbol, ())) if bar.start_ns <= old.start_ns), None)
            if new is None or new.start_ns != old.start_ns or new.close == old.close or new.close <= 0.0:
                continue
            ratio = old.close / new.close
            self._shares[symbol] = self._shares.get(symbol, 0.0) * ratio
            self._legs = tuple(
                Leg(leg.symbol, int(leg.goal * ratio)) if leg.symbol == symbol else leg for leg in self._legs
            )
            self._marks[symbol] = new

    def _trade(self, state: State[Any], bars: Mapping[str, Bar]) -> None:
        """Sell, then buy in the order of the legs while the cash lasts."""
        rate = float(state.trading.paper.share_cost_rate)
        at_close = state.trading.basket.decide == "before_close"
        changes: list[tuple[str, float]] = []
        for leg in self._legs:
            held = self._shares.get(leg.symbol, 0.0)
            changes.append((leg.symbol, leg.goal - int(held) if leg.goal else -held))  # all of it, fractions too
        for symbol, change in sorted(changes, key=lambda known: known[1] > 0.0):
            bar = bars.get(symbol)
            if bar is None or not change:
                continue
            at = bar.close if at_close else bar.open
            quantity = min(change, int(self._cash / (at * (1.0 + rate)))) if change > 0 else change
            if not quantity:
                continue
            self._cash -= quantity * at + abs(quantity) * at * rate
            self._shares[symbol] = self._shares.get(symbol, 0.0) + quantity
            self.trades += 1

    def _equity(self, prices: Mapping[str, float]) -> float:
        return self._cash + sum(held * prices.get(symbol, 0.0) for symbol, held in self._shares.items())


def _closes(bars: Mapping[str, Bar]) -> dict[str, float]:
    return {symbol: bar.close for symbol, bar in bars.items()}


def _of_session(bars: tuple[Bar, ...], open_ns: int) -> Bar | None:
    """Return the daily bar of the session with this open: it starts at the midnight before."""
    for bar in reversed(bars):
        if bar.start_ns <= open_ns:
            return bar if bar.start_ns > open_ns - DAY_NS else None
    return None
