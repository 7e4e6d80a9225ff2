"""`rltraderctl try-protection`: how a paper account answers to resting stops, tried with a share and a contract.

Each step is one request on which the broker's documents say too little; its answer is printed as it comes. Whatever
happens, the trial sells what it bought and cancels what it sent. The answers hold for paper only: they do not bind the
broker for live money.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from decimal import ROUND_FLOOR, Decimal
from functools import partial
from typing import Any

from daemon.brokers.alpaca.assemble import AlpacaAdmin, accesses
from daemon.brokers.alpaca.rest.client import (
    CallPriority,
    QueuedClient,
    Raw,
    Refused,
    RestError,
    account_queues,
    an_object,
    market_queue,
)
from daemon.brokers.alpaca.rest.market_data import MarketData
from daemon.brokers.alpaca.trading.trading import TradingOrders, TradingReads
from daemon.brokers.panic import Show
from daemon.config.load import Credentials, DeskSettings
from daemon.core.instruments.option_market import parse_occ
from daemon.core.instruments.quotes import price_step
from daemon.host.time.clock import Clock

METHODS = frozenset({"GET", "POST", "PATCH", "DELETE"})
FLAT, LEFT, REFUSED = 0, 1, 2
WAIT_S = 30.0  # wait for a fill or a cancel
WATCH_S = 60.0  # wait for the election of an option's stop
POLL_S = 0.5
PREMIUM = Decimal("0.10"), Decimal("3.00")  # least bid and greatest ask of the contract, in USD a share
DAY = {"time_in_force": "day"}
PART, LEAST = "0.123456789", "0.000000001"  # quantities of a share
DAYS = 10  # most days until the contract's expiry
NEAR = Decimal("0.02")  # part of the share's price within which the contract's strike is


async def trial(settings: DeskSettings, keys: Credentials, symbol: str, show: Show) -> int:
    """Try both kinds. Returns 0 when the account is flat afterwards, 1 when something is left, 2 when refused.

    Refused, before anything is sent: an account with a position or a working order, and a closed market.
    """
    clock = Clock.real()
    (orders, reads), market = account_queues(clock), market_queue(clock)
    sending, reading, data = accesses(settings, keys)
    prices, looks = MarketData(data, market), TradingReads(reading, reads)
    admin = AlpacaAdmin(looks, lambda: prices, lambda: TradingOrders(sending, orders), settings)
    it = Trial(QueuedClient(sending, orders, METHODS), looks, prices, show)
    try:
        if problem := await _hindrance(settings, admin, looks):
            show(f"refused: {problem}; nothing was sent")
            return REFUSED
        feeds = await admin.feeds(symbol, options=True)
        try:
            await it.share(symbol, feeds[0])
            await it.fraction(symbol, feeds[0])
            await it.option(symbol, *feeds)
        finally:
            remains = await asyncio.shield(it.tidy(admin))
        for question, answer in it.settled.items():
            show(f"settled for paper: {question}: {answer}")
        show("settled for live money: nothing, a paper account binds nobody")
    except RestError as error:
        show(f"the trial ends here: {error}")
        remains = await it.tidy(admin)
    finally:
        for queue in (orders, reads, market):
            await queue.close()
    for line in remains:
        show(f"NOT flat: {line}")
    return LEFT if remains else FLAT


async def _hindrance(settings: DeskSettings, admin: AlpacaAdmin, reads: TradingReads) -> str:
    """Return why nothing may be tried on this account now, "" where it may."""
    number, actual_number = settings.desk.account_number, (await admin.account()).number
    if number and number != actual_number:
        return f"these keys open account {actual_number}, and desk.account_number is {number}: use that account's keys"
    if remains := await admin.left():
        return f"the account is not flat ({remains[0]}): close it, or use a paper account of its own"
    if not (await reads.clock()).get("is_open"):
        return "the market is closed: try in regular hours, 9:30 to 16:00 in New York"
    return ""


class Trial:
    """The steps. `settled` has an answer for each question that a step settled for this account."""

    def __init__(self, client: QueuedClient, reads: TradingReads, prices: MarketData, show: Show) -> None:
        self._client, self._reads, self._prices, self._show = client, reads, prices, show
        self._name = f"try-{secrets.token_hex(4)}"
        self._sent_ids: list[str] = []  # ids of its orders
        self._bought_symbols: set[str] = set()
        self._suspended = False
        self.settled: dict[str, str] = {}

    # --- a share ------------------------------------------------------------------------------------------------------

    async def share(self, symbol: str, feed: str) -> None:
        """Buy one share, rest its stop, test the uncertain requests on it, and leave."""
        bid = await self._bid(symbol, feed)
        if not bid or not await self._buys(symbol, {"type": "market"}):
            return
        half, least = _grid(symbol, bid / 2), {"time_in_force": "gtc", "type": "stop"}
        stop = await self._order("a stop of the share at half its price", symbol, "sell", stop_price=half, **least)
        if stop is None:
            return
        await self._shows("its state", stop)
        limit_fields = {"type": "limit", "time_in_force": "day"}
        await self._note_answer(
            "a buy beside the stop",
            self._order(
                "a buy at half the price, far from the market", symbol, "buy", limit_price=half, **limit_fields
            ),
        )
        await self._note_answer(
            "a second sale of what the stop covers",
            self._order(
                "a sale at twice the price", symbol, "sell", limit_price=_grid(symbol, bid * 2), **limit_fields
            ),
        )
        answer = await self._call("the close call beside the stop", "delete", f"/positions/{symbol}", {"qty": "1"})
        self.settled["the close call while a stop holds the share"] = _words(answer)
        if not isinstance(answer, Refused):
            self._bought_symbols.discard(symbol)
            return
        stop = await self._move_stop(stop, _grid(symbol, bid / 2 - price_step(symbol, bid)))
        await self._try_fence(symbol, stop, half)
        await self._cancel(stop)
        if symbol in self._bought_symbols:
            through = _grid(symbol, bid * 2)
            order = await self._order("a stop above the market", symbol, "sell", stop_price=through, **least)
            self.settled["a stop that the market is through"] = (
                "refused" if order is None else await self._wait_for_end(order, WAIT_S)
            )
            if order is not None and (await self._now(order)).get("status") == "filled":
                self._bought_symbols.discard(symbol)

    async def _move_stop(self, stop: Raw, price: Decimal) -> Raw:
        """Replace the stop's price; return the order that works then."""
        body = {"stop_price": str(price)}
        answer = await self._call("a replace of its price", "patch", f"/orders/{stop['id']}", body)
        if isinstance(answer, Refused):
            self.settled["PATCH of a stop"] = _words(answer)
            return stop
        self._sent_ids.append(str(answer["id"]))
        stop_before = await self._now(stop)
        name = "another" if answer["id"] != stop["id"] else "the same"
        self.settled["PATCH of a stop"] = f"{name} id, the old one is {stop_before.get('status')} after it"
        return answer

    async def _try_fence(self, symbol: str, stop: Raw, half: Decimal) -> None:
        """Test how the account's fence, `suspend_trade`, affects a resting stop and exits."""
        self._suspended = True
        fence = await self._call("suspend_trade on", "patch", "/account/configurations", {"suspend_trade": True})
        if isinstance(fence, Refused):
            self.settled["suspend_trade"] = _words(fence)
            return
        limit_fields = {"type": "limit", "time_in_force": "day", "limit_price": half}
        await self._note_answer(
            "a buy while suspended", self._order("a buy while suspended", symbol, "buy", **limit_fields)
        )
        self.settled["a resting stop while suspended"] = str((await self._now(stop)).get("status"))
        answer = await self._call("the close call while suspended", "delete", f"/positions/{symbol}", {"qty": "1"})
        self.settled["the close call while suspended, with a stop"] = _words(answer)
        if not isinstance(answer, Refused):
            self._bought_symbols.discard(symbol)
        await self._lift_fence()

    async def _lift_fence(self) -> None:
        answer = await self._call("suspend_trade off", "patch", "/account/configurations", {"suspend_trade": False})
        self._suspended = isinstance(answer, Refused)

    # --- a fraction of a share ----------------------------------------------------------------------------------------

    async def fraction(self, symbol: str, feed: str) -> None:
        """Buy a fraction of nine decimals, test which of its orders pass and how its cash is rounded, and leave."""
        bid = await self._bid(symbol, feed)
        if symbol in self._bought_symbols or not bid:
            return
        flag = (await self._reads.asset(symbol)).get("fractionable")
        self.settled[f"{symbol} is fractionable"] = str(flag)
        cash, part = await self._cash(), {"qty": PART}
        if not await self._buys(symbol, {"type": "market", **part}):
            return
        self.settled["the cash of a fraction"] = await self._cost_text(symbol, cash)
        half = _grid(symbol, bid / 2)
        for time_in_force in ("day", "gtc"):
            subject = f"a stop of a fraction, {time_in_force}"
            fields = {"type": "stop", "time_in_force": time_in_force, "stop_price": half}
            await self._note_answer(subject, self._order(subject, symbol, "sell", **fields, **part))
        subject, auction = "a fraction for the auction", {"type": "market", "time_in_force": "opg"}
        await self._note_answer(subject, self._order(subject, symbol, "sell", **auction, **part))
        answer = await self._call("the close call of a part", "delete", f"/positions/{symbol}", {"qty": LEAST})
        self.settled[f"the close call of {LEAST} of a share"] = _words(answer)
        if not isinstance(answer, Refused):
            await self._wait_for_end(answer, WAIT_S)
        least = await self._order("a buy of the least fraction", symbol, "buy", qty=LEAST, type="market", **DAY)
        result_text = "refused" if least is None else await self._wait_for_end(least, WAIT_S)
        self.settled[f"a buy of {LEAST} of a share"] = result_text
        answer = await self._call("the close call of the rest", "delete", f"/positions/{symbol}")
        if not isinstance(answer, Refused):
            await self._wait_for_end(answer, WAIT_S)
        quantities = [str(row.get("qty")) for row in await self._reads.positions() if row.get("symbol") == symbol]
        self.settled["what the close call of a fraction leaves"] = quantities[0] if quantities else "nothing"
        if not quantities:
            self._bought_symbols.discard(symbol)

    async def _cash(self) -> Decimal:
        return Decimal(str((await self._reads.account()).get("cash")))

    async def _cost_text(self, symbol: str, cash_before: Decimal) -> str:
        """Return the cash that the broker took for the newest order, and the exact sum of its fills."""
        fills = await self._reads.order_fills(self._sent_ids[-1])
        costs = [Decimal(str(fill["qty"])) * Decimal(str(fill["price"])) for fill in fills]
        exact, spent_usd = sum(costs, Decimal(0)), cash_before - await self._cash()
        ways = {
            "exact": exact,
            "rounded to cents": round(exact, 2),
            "each fill rounded to cents": sum((round(cost, 2) for cost in costs), Decimal(0)),
        }
        how = next((way for way, amount in ways.items() if amount == spent_usd), "in no way that was tried")
        return f"{how}: {spent_usd} USD for {PART} {symbol} in {len(fills)} fills of {exact} USD"

    # --- an option ----------------------------------------------------------------------------------------------------

    async def option(self, underlying: str, stocks: str, feed: str) -> None:
        """Buy one contract, test which stops of it are accepted and what elects one, and leave."""
        chosen = await self._contract(underlying, stocks, feed)
        if chosen is None:
            self._show(f"no contract of {underlying} has a bid and an ask between {PREMIUM[0]} and {PREMIUM[1]} USD")
            return
        symbol, bid, ask = chosen
        entry = {"type": "limit", "limit_price": ask, "position_intent": "buy_to_open"}
        if not await self._buys(symbol, entry):
            return
        leaves: dict[str, Any] = {"position_intent": "sell_to_close"}
        half, quarter = _grid(symbol, bid / 2), _grid(symbol, bid / 4)
        for kind, time_in_force, prices in (
            ("stop", "gtc", {"stop_price": half}),
            ("stop", "day", {"stop_price": half}),
            ("stop_limit", "day", {"stop_price": half, "limit_price": quarter}),
        ):
            subject = f"a {kind} of the contract, {time_in_force}"
            order = await self._order(
                subject, symbol, "sell", type=kind, time_in_force=time_in_force, **prices, **leaves
            )
            self.settled[subject] = "refused" if order is None else str((await self._now(order)).get("status"))
            if order is not None:
                await self._cancel(order)
        await self._elects(symbol, feed, leaves)

    async def _elects(self, symbol: str, feed: str, leaves: dict[str, Any]) -> None:
        """Rest a stop for a minute a step above the bid, where a trade at the middle is not: only the bid is at it."""
        quote = (await self._prices.latest_option_quotes((symbol,), feed)).get(symbol, {})
        bid, ask = _price(quote.get("bp")), _price(quote.get("ap"))
        between = bid + price_step(symbol, bid)
        if not between < (bid + ask) / 2:
            self._show(f"what elects an option's stop is not tried: {bid}/{ask} leaves no room between bid and middle")
            return
        day = {"type": "stop", "time_in_force": "day", "stop_price": between}
        order = await self._order(f"a stop at {between} between {bid} and {ask}", symbol, "sell", **day, **leaves)
        if order is None:
            self.settled["an option's stop above the bid"] = "refused"
            return
        status = await self._wait_for_end(order, WATCH_S)
        by = "the bid elected it" if status.startswith("filled") else f"the bid did not elect it within {WATCH_S:g} s"
        trade = await self._last_trade(symbol, feed)
        if trade and status.startswith("filled"):
            by = f"the bid elected it, or a trade at {trade}"
        self.settled["what elects an option's stop"] = f"{by} (it is {status}; the sides were {bid}/{ask})"
        if status.startswith("filled"):
            self._bought_symbols.discard(symbol)

    async def _last_trade(self, symbol: str, feed: str) -> str:
        """Return price and time of the contract's newest trade, where one is shown."""
        contract = parse_occ(symbol)
        assert contract is not None
        key = (contract.root, contract.expiry, contract.expiry, contract.strike, contract.strike)
        trade = (await self._prices.option_chain(*key, feed)).get(symbol, {}).get("latestTrade") or {}
        return f"{trade['p']} of {trade['t']}" if trade else ""

    async def _contract(self, underlying: str, stocks: str, feed: str) -> tuple[str, Decimal, Decimal] | None:
        """Return the contract near the money with the narrowest quote that has room for a stop: symbol, bid and ask."""
        price = await self._bid(underlying, stocks)
        today = str((await self._reads.clock())["timestamp"])[:10]
        chain = await self._prices.option_chain(
            underlying, _later(today, 1), _later(today, DAYS), price * (1 - NEAR), price * (1 + NEAR), feed
        )
        sides = {name: row.get("latestQuote") or {} for name, row in chain.items()}
        quotes = [(name, _price(side.get("bp")), _price(side.get("ap"))) for name, side in sides.items()]
        roomy = [(name, bid, ask) for name, bid, ask in quotes if ask - bid >= 3 * price_step(name, bid)]
        fit = [(name, bid, ask) for name, bid, ask in roomy if PREMIUM[0] <= bid and ask <= PREMIUM[1]]
        return min(fit, key=lambda one: (one[2] - one[1]) / one[1], default=None)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _call(self, subject: str, method: str, path: str, body: dict[str, Any] | None = None) -> Raw | Refused:
        """Send one request and show what came: the answer, or the broker's refusal. Raises RestError for no answer."""
        send = getattr(self._client.client, method)
        work = partial(send, path, body) if body is not None else partial(send, path)
        try:
            answer = await self._client.ask(work, CallPriority.EXIT)
        except Refused as error:
            self._show(f"{subject}: {_words(error)}")
            return error
        row = an_object(answer or {}, subject)
        answer_text = ", ".join(
            f"{key} {row[key]}" for key in ("status", "type", "time_in_force", "stop_price") if row.get(key)
        )
        self._show(f"{subject}: taken{': ' if answer_text else ''}{answer_text}")
        return row

    async def _order(self, subject: str, symbol: str, side: str, **fields: Any) -> Raw | None:
        """Send an order, for one unit without `qty`; None where it is refused."""
        body = {key: str(value) for key, value in fields.items()}
        order_fields = {
            "symbol": symbol,
            "qty": "1",
            "side": side,
            "client_order_id": f"{self._name}-{len(self._sent_ids)}",
        }
        answer = await self._call(subject, "post", "/orders", {**order_fields, **body})
        self._sent_ids.append("" if isinstance(answer, Refused) else str(answer["id"]))
        return None if isinstance(answer, Refused) else answer

    async def _note_answer(self, question: str, order: Any) -> None:
        """Note whether the order was accepted, and cancel it if so."""
        answer = await order
        self.settled[question] = "refused" if answer is None else "taken"
        if answer is not None:
            await self._cancel(answer)

    async def _buys(self, symbol: str, fields: dict[str, Any]) -> bool:
        """Buy one, or a part; False where that does not come about."""
        self._bought_symbols.add(symbol)  # it is looked for at the end, whatever the answer
        subject = f"a buy of {fields.get('qty', 'one')} {symbol}"
        order = await self._order(subject, symbol, "buy", **DAY, **fields)
        status = "refused" if order is None else await self._wait_for_end(order, WAIT_S)
        if status.startswith("filled"):
            return True
        self._show(f"{symbol} is not tried: the buy is {status}")
        return False

    async def _now(self, order: Raw) -> Raw:
        return await self._reads.order_by_id(str(order["id"])) or order

    async def _shows(self, subject: str, order: Raw) -> None:
        self._show(f"{subject}: {(await self._now(order)).get('status')}")

    async def _wait_for_end(self, order: Raw, wait_s: float) -> str:
        """Return the order's status with the seconds that it took, once it ended or the wait is over."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            row = await self._now(order)
            status, elapsed_s = str(row.get("status")), loop.time() - began
            if status in ("filled", "canceled", "expired", "rejected", "replaced") or elapsed_s >= wait_s:
                price = f" at {row.get('filled_avg_price')}" if status == "filled" else ""
                status_text = f"{status}{price} after {elapsed_s:.1f} s"
                self._show(f"  it is {status_text}")
                return status_text
            await asyncio.sleep(POLL_S)

    async def _cancel(self, order: Raw) -> None:
        await self._call("  its cancel", "delete", f"/orders/{order['id']}")
        await self._wait_for_end(order, WAIT_S)

    async def _bid(self, symbol: str, feed: str) -> Decimal:
        quotes = await self._prices.latest_quotes((symbol,), feed)
        bid = _price(quotes.get(symbol, {}).get("bp"))
        if not bid:
            self._show(f"{symbol} is not tried: it has no bid now")
        return bid

    # --- the end ------------------------------------------------------------------------------------------------------

    async def tidy(self, admin: AlpacaAdmin) -> tuple[str, ...]:
        """Cancel its orders, sell what it bought, lift the fence; return a line for each thing that is left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 2 * WAIT_S
        while True:
            remains: tuple[str, ...]
            try:
                if self._suspended:
                    await self._lift_fence()
                for row in await self._reads.open_orders():
                    if str(row.get("id")) in self._sent_ids:
                        await self._call("cancel what is left", "delete", f"/orders/{row['id']}")
                for row in await self._reads.positions():
                    if row.get("symbol") in self._bought_symbols and str(row.get("qty_available", "1")) != "0":
                        path, whole = f"/positions/{row['symbol']}", {"qty": str(row["qty"])}
                        await self._call("sell what is left", "delete", path, whole)
                remains = await admin.left()
            except RestError as error:
                remains = (f"the broker does not say what is left ({error}): look at its web page",)
            if self._suspended:
                remains = (
                    *remains,
                    "suspend_trade is still on: PATCH /v2/account/configurations, or the broker's web page",
                )
            if not remains or loop.time() >= deadline:
                return remains
            await asyncio.sleep(2 * POLL_S)


def _price(value: object) -> Decimal:
    return Decimal(str(value)) if value else Decimal(0)


def _grid(symbol: str, price: Decimal) -> Decimal:
    """Return the greatest price on the tick that is no higher."""
    step = price_step(symbol, price)
    return (price / step).quantize(Decimal(1), rounding=ROUND_FLOOR) * step


def _later(date: str, days: int) -> str:
    return (dt.date.fromisoformat(date) + dt.timedelta(days=days)).isoformat()


def _words(answer: Raw | Refused) -> str:
    return f"refused: {answer}" if isinstance(answer, Refused) else "taken"
