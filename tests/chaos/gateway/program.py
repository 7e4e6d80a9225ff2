"""A program of somebody else on alpaca-py, beside the desks: `python -m tests.chaos.gateway.program URL SEED`.

It buys and sells in real time until SIGTERM, then closes all and ends. Each line of its output is JSON. What a call did
that had no answer it looks up by the order's name, as alpaca-py's documentation advises.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from typing import Any

import requests

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "websockets.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide, TimeInForce
    from alpaca.trading.requests import ClosePositionRequest, LimitOrderRequest, MarketOrderRequest

NAME = "prog"  # how its orders begin
SYMBOLS = ("SPY", "QQQ", "AAPL", "KO", "PG", "T", "XOM", "V")
PAUSE_S = 0.3
TROUBLE = (APIError, requests.RequestException, OSError)


class Program:
    """One client with its memory of what it sent."""

    def __init__(self, url: str, seed: int) -> None:
        self.client = TradingClient(os.environ["APCA_API_KEY_ID"], os.environ["APCA_API_SECRET_KEY"], url_override=url)
        self.chance = random.Random(f"program {seed}")
        self.sent = 0
        self.ended = False
        self.lost: list[str] = []

    def run(self) -> None:
        """Trade until it is to end, then leave everything."""
        while not self.ended:
            self.turn()
            time.sleep(PAUSE_S)
        write_line("leaving")
        while not self.left():
            time.sleep(PAUSE_S)
        write_line("ended", sent=self.sent, lost=self.lost)

    def turn(self) -> None:
        """One thing that a trader does."""
        act = self.chance.choice(("buy", "buy", "limit", "sell", "close", "cancel", "look"))
        try:
            if act in ("buy", "limit"):
                self.order(self.chance.choice(SYMBOLS), self.chance.randint(1, 5), OrderSide.BUY, near=act == "limit")
            elif act == "cancel":
                for order in rows(self.client.get_orders())[:1]:
                    self.client.cancel_order_by_id(order.id)
            elif positions := rows(self.client.get_all_positions()):
                position = self.chance.choice(positions)
                if act == "sell":
                    self.order(position.symbol, int(position.qty_available), OrderSide.SELL, near=False)
                elif act == "close":
                    self.close(position.symbol, position.qty)
        except TROUBLE as trouble:
            write_line("refused", what=act, problem=str(trouble)[:200])
        self.look_up()

    def order(self, symbol: str, quantity: int, side: OrderSide, *, near: bool) -> None:
        """Send one order; an answer that does not come makes it one to be looked up."""
        if quantity < 1:
            return
        self.sent += 1
        name = f"{NAME}-{os.getpid()}-{self.sent}"
        fields: dict[str, Any] = {"symbol": symbol, "qty": quantity, "side": side, "client_order_id": name}
        fields["time_in_force"] = TimeInForce.DAY
        request = LimitOrderRequest(**fields, limit_price=20) if near else MarketOrderRequest(**fields)
        try:
            self.client.submit_order(request)
        except APIError as refused:
            if refused.status_code is None or refused.status_code >= 500:
                self.lost.append(name)
            raise
        except (requests.RequestException, OSError):
            self.lost.append(name)
            raise

    def close(self, symbol: str, quantity: str) -> None:
        """The broker's own call; its order has no name of this program, so its id is told."""
        write_line("closing", symbol=symbol, quantity=quantity)
        order: Any = self.client.close_position(symbol, ClosePositionRequest(qty=quantity))
        write_line("closed", id=str(order.id))

    def look_up(self) -> None:
        """Ask once more for what had no answer."""
        for name in list(self.lost):
            try:
                self.client.get_order_by_client_id(name)
            except APIError as missing:
                if missing.status_code != 404:
                    return
            except (requests.RequestException, OSError):
                return
            self.lost.remove(name)

    def left(self) -> bool:
        """Cancel and close what there is; True once there is nothing."""
        try:
            orders, positions = rows(self.client.get_orders()), rows(self.client.get_all_positions())
            for order in orders:
                self.client.cancel_order_by_id(order.id)
            for position in positions:
                self.order(position.symbol, int(position.qty_available), OrderSide.SELL, near=False)
        except TROUBLE as trouble:
            write_line("refused", what="leave", problem=str(trouble)[:200])
            return False
        self.look_up()
        return not orders and not positions and not self.lost


def rows(answer: Any) -> list[Any]:
    """The library's answer as the list that it is."""
    return list(answer)


def write_line(event: str, **fields: object) -> None:
    """One line of output."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run it."""
    program = Program(sys.argv[1], int(sys.argv[2]))

    def end(*_: object) -> None:
        program.ended = True

    signal.signal(signal.SIGTERM, end)
    program.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
