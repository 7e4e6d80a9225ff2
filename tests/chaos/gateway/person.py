"""A person who trades beside desks behind a gateway: in `main`, at the broker itself."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from decimal import Decimal
from typing import Any, Protocol

from daemon.alpaca_api.refusals import Refusal
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from simulator.trading.settlement import exercise
from strategies import daily_rebalancer, regime_switcher
from strategies.kit.contract import Session

SHARES = (*daily_rebalancer.SYMBOLS, *regime_switcher.SYMBOLS)


class Served(Protocol):
    """A server on its own loop."""

    @property
    def server(self) -> AlpacaServer:
        """The server."""

    def call(self, function: Any, *args: Any) -> Any:
        """Call on the server's loop."""

    def by_hand(self, action: str, **fields: Any) -> Any:
        """What a person does on the broker's page."""


class Person:
    """What a person does; whose class has a world's account, its draw, and what the gateway says of itself."""

    chance: random.Random
    account: Account
    person: Counter[str]
    served: Served

    def now_ns(self) -> int:
        """The time."""
        raise NotImplementedError

    def trade_by_hand(self) -> None:
        """A person buys, sells what `main` holds, leaves limits and stops, cancels one: in `main`, at the broker."""
        chance = self.chance
        act = chance.choice(("buy", "buy", "fraction", "limit", "stop", "sell", "sell limit", "cancel"))
        symbol, fields = chance.choice(SHARES), {}
        with contextlib.suppress(Refusal):
            if act == "cancel":
                ids = [order.id for order in self.account.working.values() if order.id in self.account.by_hand]
                if not ids:
                    return
                self.served.by_hand("cancel", key=self.account.key, order_id=chance.choice(ids))
            else:
                if act.startswith("sell"):
                    free = self.free_by_hand()
                    if not free:
                        return
                    symbol = chance.choice(sorted(free))
                    fields = {"qty": str(free[symbol]), "side": "sell"}
                else:
                    quantity = f"0.{chance.randint(1, 9)}" if act == "fraction" else str(chance.randint(1, 6))
                    fields = {"qty": quantity, "side": "buy"}
                if act.endswith(("limit", "stop")):
                    if "." in fields["qty"]:
                        return
                    price = self.served.call(self.served.server.market.price, self.now_ns(), symbol)
                    if price is None:
                        return
                    far = Decimal(str(chance.choice((0.9, 0.98, 1.0, 1.02, 1.1) if act != "stop" else (1.01, 1.1))))
                    kind = act.rpartition(" ")[2]
                    fields |= {"type": kind, f"{kind}_price": f"{Decimal(str(price)) * far:.2f}"}
                self.served.by_hand("place", key=self.account.key, symbol=symbol, **fields)
            self.person[act] += 1

    def free_by_hand(self) -> dict[str, Decimal]:
        """The shares that a person bought, that nothing else moved, and that no sale of that person keeps."""
        return dict(self.served.call(self._free_by_hand))

    def _free_by_hand(self) -> dict[str, Decimal]:
        account, free = self.account, dict[str, Decimal]()
        for trade in account.trades:
            if trade.order_id in account.by_hand:
                free[trade.symbol] = free.get(trade.symbol, Decimal(0)) + trade.quantity
        for order in account.working.values():
            if order.id in account.by_hand and order.side == "sell":
                free[order.symbol] = free.get(order.symbol, Decimal(0)) - order.left
        moved_symbols = {trade.symbol for trade in account.trades if not trade.order_id}
        return {s: quantity for s, quantity in free.items() if quantity > 0 and s in SHARES and s not in moved_symbols}

    def option_by_hand(self, session: Session, *, call: bool) -> str:
        """A person buys one contract of the day, a call in the money or a put out of it; returns its symbol."""
        spot = self.served.call(self.served.server.market.price, self.now_ns(), "SPY")
        if spot is None:
            return ""
        strike = int(spot) - 4
        symbol = f"SPY{session.date[2:4]}{session.date[5:7]}{session.date[8:]}{'C' if call else 'P'}{strike * 1000:08d}"
        try:
            self.served.by_hand("place", key=self.account.key, symbol=symbol, qty="1", side="buy")
        except Refusal as refused:
            self.person[f"contract refused: {refused.message[:60]}"] += 1
            return ""
        return symbol

    def exercise_by_hand(self, symbol: str) -> bool:
        """Whether the person's contract became shares."""
        try:
            self.served.call(exercise, self.served.server.matching, self.account, symbol)
        except Refusal:
            return False
        return True
