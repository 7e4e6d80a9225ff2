"""The log line of a closed trade: once, with the whole trade's profit, for whatever ended it.

A desk buys 9 calls at 2.00: 1,800 USD.
"""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

from daemon.core import events as ev
from daemon.core.limits import Sizing, Trading
from daemon.core.records import DecisionRow
from daemon.operator.log import Log
from strategies.kit.quantity import Quantity
from tests.support.core.desk import CALL, EXIT, TRIM_50, Desk, desk, sent


def logged(d: Desk, *events: ev.Event, stream: io.StringIO, log: Log) -> list[dict[str, Any]]:
    """Step the events as `put` does; returns all lines about trades so far."""
    for event in events:
        log.step(event, d.core.step(d.state, event))
        d.put(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in lines if line["event"] == "trade_closed"]


def a_log() -> dict[str, Any]:
    stream = io.StringIO()
    return {"stream": stream, "log": Log("debug", "json", stream)}


def fill(d: Desk, order: str, quantity: Quantity, price: str, fees: str) -> ev.OrderFilled:
    now, usd = d.state.now_ns, Decimal(price)
    return ev.OrderFilled(now, order, CALL, -1, usd, now, quantity, usd * quantity, Decimal(fees), quantity)


def test_a_part_exit_says_nothing_and_the_last_one_the_profit_of_the_whole_trade() -> None:
    d, of = desk(Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0))), a_log()
    d.holds()
    d.bar(1)
    trim = sent(d.answer(TRIM_50))
    assert logged(d, fill(d, trim.client_order_id, trim.quantity, "2.20", "0.25"), **of) == []
    d.bar(2)
    rest = sent(d.answer(EXIT))
    (line,) = logged(d, fill(d, rest.client_order_id, rest.quantity, "1.9050", "0.15"), **of)
    profit = trim.quantity * 20 - rest.quantity * Decimal("9.50") - Decimal("0.40")
    assert (trim.quantity, rest.quantity) == (4, 5)
    assert (line["symbol"], line["quantity"], line["price"]) == (CALL, 9, "2.0361")  # (4 x 2.20 + 5 x 1.905) / 9
    assert (line["pnl_usd"], line["held_s"], line["level"]) == (f"{profit:+.2f}", 120, "info")
    newest = [row for row in d.rows if isinstance(row, DecisionRow)][-1]
    assert (line["reason"], line["decision"]) == ("policy", newest.decision)


def test_an_expiry_closes_a_trade_without_a_decision() -> None:
    d = desk()
    d.holds()
    (line,) = logged(d, ev.ContractExpired(d.at(390), CALL, 9, "SPY", 0, Decimal(500)), **a_log())
    assert (line["pnl_usd"], line["price"], line["reason"], line["decision"]) == ("-1800.00", "0", "expiry", None)


def test_a_sale_that_is_taken_back_is_no_exit() -> None:
    d, of = desk(Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0))), a_log()
    d.holds()
    d.bar(1)
    trim = sent(d.answer(TRIM_50)).client_order_id
    bust = ev.OrderFilled(d.at(2), trim, CALL, -1, Decimal(0), d.at(2), 0, Decimal(0), Decimal(0), -4, 1)
    logged(d, fill(d, trim, 4, "2.20", "0"), bust, **of)
    d.bar(2)
    (line,) = logged(d, fill(d, sent(d.answer(EXIT)).client_order_id, 9, "2.40", "0"), **of)
    assert (line["quantity"], line["price"], line["pnl_usd"]) == (9, "2.4", "+360.00")
