"""Trading REST under /v2: account, orders, positions, activities, as the documentation has them.

Handlers read the request, ask the venue or the books, and show the answer; refusals are raised as `Refusal`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from decimal import Decimal

from aiohttp import web

from daemon.alpaca_api.books import AlpacaPosition
from daemon.alpaca_api.queries import asked_for, fits, is_true, json_body, positive, whole_number
from daemon.alpaca_api.refusals import Refusal, invalid, refusal
from daemon.alpaca_api.wire import TERMINAL, Json, asset_id, text
from simulator.prices.corporate_actions import Dividend, Split
from simulator.prices.tape import new_york_date
from simulator.trading import settlement
from simulator.trading.account import Account
from simulator.trading.matching import Matching
from simulator.trading.order_rules import mark
from simulator.trading.orders import AlpacaOrder
from simulator.trading.venue import Brokerage
from strategies.kit.units import SECOND_NS

ACCOUNT = web.RequestKey("account", Account)
CONFIGURABLE = (
    "fractional_trading",
    "max_margin_multiplier",
    "max_options_trading_level",
    "no_shorting",
    "ptp_no_exception_entry",
    "suspend_trade",
    "trade_confirm_email",
)


def routes(venue: Brokerage, matching: Matching) -> list[web.RouteDef]:
    """The routes of trading REST, bound to `venue`."""
    rest = TradingRest(venue, matching)
    return [
        web.get("/v2/account", rest.account),
        web.get("/v2/account/configurations", rest.configuration),
        web.patch("/v2/account/configurations", rest.configure),
        web.get("/v2/account/activities", rest.activities),
        web.get("/v2/account/activities/{type}", rest.activities),
        web.get("/v2/corporate_actions/announcements", rest.announcements),
        web.post("/v2/orders", rest.submit),
        web.get("/v2/orders", rest.orders),
        web.delete("/v2/orders", rest.cancel_all),
        web.get("/v2/orders:by_client_order_id", rest.order_by_client_id),
        web.get("/v2/orders/{id}", rest.order),
        web.patch("/v2/orders/{id}", rest.replace),
        web.delete("/v2/orders/{id}", rest.cancel),
        web.get("/v2/positions", rest.positions),
        web.delete("/v2/positions", rest.close_all),
        web.get("/v2/positions/{symbol}", rest.position),
        web.delete("/v2/positions/{symbol}", rest.close),
        web.post("/v2/positions/{symbol}/exercise", rest.exercise),
        web.post("/v2/positions/{symbol}/do-not-exercise", rest.do_not_exercise),
    ]


def _announced(action: Dividend | Split) -> Json:
    """A cash dividend or a split as it was announced."""
    if isinstance(action, Split):
        old, new = action.ratio.as_integer_ratio()[::-1]
        return {
            "id": asset_id(f"{action.symbol} split {action.date}"),
            "ca_type": "split",
            "ca_sub_type": "stock_split" if action.ratio > 1 else "reverse_split",
            "initiating_symbol": action.symbol,
            "target_symbol": action.symbol,
            "ex_date": action.date,
            "payable_date": action.date,
            "old_rate": text(Decimal(old)),
            "new_rate": text(Decimal(new)),
        }
    dividend = action
    return {
        "id": asset_id(f"{dividend.symbol} {dividend.date}"),
        "ca_type": "dividend",
        "ca_sub_type": "cash",
        "initiating_symbol": dividend.symbol,
        "target_symbol": dividend.symbol,
        "ex_date": dividend.date,
        "payable_date": dividend.paid or dividend.date,
        "cash": text(dividend.amount),
    }


class TradingRest:
    """The handlers of one server."""

    def __init__(self, venue: Brokerage, matching: Matching) -> None:
        self.venue = venue
        self.matching = matching

    # --- account ----------------------------------------------------------------------------------------------------

    async def account(self, request: web.Request) -> web.Response:
        """GET /v2/account."""
        account = request[ACCOUNT]
        now_ns, deficit = self.venue.clock.now_ns(), self._deficit(account)
        return web.json_response(
            account.shown(self._mark, blocked=self._blocked(account), now_ns=now_ns, deficit=deficit)
        )

    async def configuration(self, request: web.Request) -> web.Response:
        """GET /v2/account/configurations."""
        return web.json_response(request[ACCOUNT].configuration)

    async def configure(self, request: web.Request) -> web.Response:
        """PATCH /v2/account/configurations."""
        changes = await json_body(request)
        settings = {name: value for name, value in changes.items() if name in CONFIGURABLE}
        request[ACCOUNT].configuration.update(settings)
        return web.json_response(request[ACCOUNT].configuration)

    async def activities(self, request: web.Request) -> web.Response:
        """GET /v2/account/activities[/{type}], paged by the id of the last row."""
        query, now_ns = request.query, self.venue.clock.now_ns()
        if "activity_types" in query and "category" in query:
            raise invalid("only one of activity_types or category is accepted")
        kinds = request.match_info.get("type") or query.get("activity_types", "")
        types = frozenset(filter(None, kinds.split(",")))
        account: Account = request[ACCOUNT]
        rows = [row for row in account.activities if row.visible_ns <= now_ns and fits(row, query, types)]
        if self.venue.faults.waiting("split_line_late"):
            rows = [row for row in rows if not self._is_late(account, row.fields)]
        ascending = query.get("direction", "desc") == "asc"
        rows.sort(key=lambda row: row.id, reverse=not ascending)
        token = query.get("page_token")
        if token:
            rows = [row for row in rows if (row.id > token if ascending else row.id < token)]
        if "date" not in query or "page_size" in query:
            rows = rows[: whole_number(query.get("page_size", "100"), "page_size", 100)]
        return web.json_response([row.fields for row in rows])

    def _is_late(self, account: Account, row: Json) -> bool:
        """Whether the script keeps this row of a split back."""
        if row.get("activity_type") != "SPLIT":
            return False
        context = {"key": account.key, "symbol": row.get("symbol")}
        return self.venue.faults.take("split_line_late", context) is not None

    async def announcements(self, request: web.Request) -> web.Response:
        """GET /v2/corporate_actions/announcements: dividends and splits, by their ex-date or the day of payment."""
        query, days = request.query, self.venue.market.days
        paid = query.get("date_type") == "payable_date"
        actions: list[Dividend | Split] = [] if days is None else [*days.dividends, *days.splits]
        rows = [_announced(action) for action in actions]
        rows = [
            row
            for row in rows
            if row["ca_type"] in query.get("ca_types", "dividend").split(",")
            and query.get("symbol", row["initiating_symbol"]) == row["initiating_symbol"]
            and query.get("since", "") <= row["payable_date" if paid else "ex_date"] <= query.get("until", "9999-12-31")
        ]
        return web.json_response(rows)

    # --- orders -----------------------------------------------------------------------------------------------------

    async def submit(self, request: web.Request) -> web.Response:
        """POST /v2/orders; the reply shows the order as it was accepted, whatever happened to it since."""
        account, body = request[ACCOUNT], await json_body(request)
        context = {"key": account.key, **{name: body.get(name) for name in ("symbol", "side", "client_order_id")}}
        refused = self.venue.faults.take("order_refused", context)
        if refused is not None:
            if refused.get("reason"):
                raise refusal(str(refused.get("reason")))
            status, code = int(refused.get("status", 403)), refused.get("code", 40310000)
            raise Refusal(status, code, str(refused.get("message", "refused by the script")))
        if self._blocked(account):
            raise refusal("not_authorized")
        if body.get("side") == "buy" and self._deficit(account):
            raise refusal("intraday_margin")
        early = self.venue.faults.take("fill_before_reply", context)
        order = self.matching.submit(account, body)
        row = order.shown()
        if early is not None:
            self.matching.arrive(account, order, self.venue.clock.now_ns())
            await self.venue.clock.hold(float(early.get("seconds", 0.05)))
        return web.json_response(row)

    async def orders(self, request: web.Request) -> web.Response:
        """GET /v2/orders: open (default), closed or all, by submission time."""
        query = request.query
        status = query.get("status", "open")
        if status not in {"open", "closed", "all"}:
            raise invalid("invalid status")
        limit = whole_number(query.get("limit", "50"), "limit", 500)
        account, as_of = request[ACCOUNT], self._as_of(request)
        among: Iterable[AlpacaOrder] = account.orders.values()
        if status == "open" and as_of is None:
            among = account.working.values()
        chosen = [order for order in among if asked_for(order, query)]
        chosen.sort(key=lambda order: order.created_ns, reverse=query.get("direction", "desc") != "asc")
        rows = (seen for order in chosen if (seen := _seen(order, as_of)) is not None)
        matching = (seen for seen in rows if status == "all" or (seen["status"] in TERMINAL) == (status == "closed"))
        return web.json_response(list(itertools.islice(matching, limit)))

    async def order(self, request: web.Request) -> web.Response:
        """GET /v2/orders/{id}."""
        order_id = request.match_info["id"]
        order = request[ACCOUNT].orders.get(order_id)
        row = None if order is None else _seen(order, self._as_of(request))
        if row is None:
            raise Refusal(404, 40410000, f"order not found for {order_id}")
        return web.json_response(row)

    async def order_by_client_id(self, request: web.Request) -> web.Response:
        """GET /v2/orders:by_client_order_id?client_order_id=."""
        client_order_id = request.query.get("client_order_id", "")
        order = request[ACCOUNT].by_client_id.get(client_order_id)
        row = None if order is None else _seen(order, self._as_of(request))
        if row is None:
            raise Refusal(404, 40410000, f"order not found for {client_order_id}")
        return web.json_response(row)

    async def replace(self, request: web.Request) -> web.Response:
        """PATCH /v2/orders/{id}: a new order with a new id."""
        account = request[ACCOUNT]
        old = self._order(account, request.match_info["id"])
        new = self.matching.replace(account, old, await json_body(request))
        return web.json_response(new.shown())

    async def cancel(self, request: web.Request) -> web.Response:
        """DELETE /v2/orders/{id}: 204 confirms the request only."""
        account = request[ACCOUNT]
        self.matching.cancel(account, self._order(account, request.match_info["id"]))
        return web.Response(status=204)

    async def cancel_all(self, request: web.Request) -> web.Response:
        """DELETE /v2/orders: 207 with one row for each open order."""
        return web.json_response(self._cancel_all(request[ACCOUNT]), status=207)

    # --- positions --------------------------------------------------------------------------------------------------

    async def positions(self, request: web.Request) -> web.Response:
        """GET /v2/positions."""
        account, as_of = request[ACCOUNT], self._as_of(request)
        held = _held_at(account, as_of)
        return web.json_response([self._show_position(account, position) for position in held.values()])

    async def position(self, request: web.Request) -> web.Response:
        """GET /v2/positions/{symbol or asset id}."""
        account, as_of = request[ACCOUNT], self._as_of(request)
        position = _held_at(account, as_of).get(self._symbol(account, request))
        if position is None:
            raise Refusal(404, 40410000, "position does not exist")
        return web.json_response(self._show_position(account, position))

    async def close(self, request: web.Request) -> web.Response:
        """DELETE /v2/positions/{symbol}?qty= or percentage=: a market order."""
        account, query = request[ACCOUNT], request.query
        if "qty" in query and "percentage" in query:
            raise invalid("only one of qty or percentage is accepted")
        quantity = positive(query["qty"], "qty") if "qty" in query else None
        percent = positive(query["percentage"], "percentage") if "percentage" in query else None
        symbol = self._symbol(account, request)
        if symbol not in account.positions:
            raise Refusal(404, 40410000, "position does not exist")
        return web.json_response(self.matching.close(account, symbol, quantity, percent).shown())

    async def close_all(self, request: web.Request) -> web.Response:
        """DELETE /v2/positions?cancel_orders=: 207 with one row for each position."""
        account = request[ACCOUNT]
        if is_true(request.query.get("cancel_orders")):
            self._cancel_all(account)
            await asyncio.sleep(0)  # the cancellations come with the loop's next turn
            await asyncio.sleep(0)
        rows = [self._close_row(account, symbol) for symbol in list(account.positions)]
        return web.json_response(rows, status=207)

    async def exercise(self, request: web.Request) -> web.Response:
        """POST /v2/positions/{symbol or contract id}/exercise: the whole position, at once."""
        account = request[ACCOUNT]
        settlement.exercise(self.matching, account, self._symbol(account, request))
        return web.Response(status=200)

    async def do_not_exercise(self, request: web.Request) -> web.Response:
        """POST /v2/positions/{symbol or contract id}/do-not-exercise, on the day of expiry."""
        account = request[ACCOUNT]
        symbol = self._symbol(account, request)
        settlement.keep_from_exercise(account, symbol, new_york_date(self.venue.clock.now_ns()))
        return web.Response(status=200)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _mark(self, position: AlpacaPosition) -> Decimal:
        return mark(position, self.venue.market, self.venue.clock.now_ns())

    def _blocked(self, account: Account) -> bool:
        return self.venue.faults.take("account_blocked", {"key": account.key}) is not None

    def _deficit(self, account: Account) -> Decimal:
        """USD of intraday margin that the account is short of by the script; then it may only close positions."""
        short = self.venue.faults.take("margin_deficit", {"key": account.key})
        return Decimal(0) if short is None else Decimal(str(short.get("amount", "100")))

    def _as_of(self, request: web.Request) -> int | None:
        """The time that a stale read answers for; None for the present."""
        context = {"method": request.method, "path": request.path, "key": request[ACCOUNT].key}
        stale = self.venue.faults.take("stale_read", context)
        if stale is None:
            return None
        return self.venue.clock.now_ns() - int(float(stale.get("age_s", 5)) * SECOND_NS)

    def _order(self, account: Account, order_id: str) -> AlpacaOrder:
        if order_id not in account.orders:
            raise Refusal(404, 40410000, f"order not found for {order_id}")
        return account.orders[order_id]

    def _symbol(self, account: Account, request: web.Request) -> str:
        """The symbol that the path names, by itself or by its asset's id."""
        named = request.match_info["symbol"]
        return next((symbol for symbol in account.positions if asset_id(symbol) == named.lower()), named)

    def _show_position(self, account: Account, position: AlpacaPosition) -> Json:
        return position.shown(self._mark(position), account.available(position.symbol))

    def _cancel_all(self, account: Account) -> list[Json]:
        rows: list[Json] = []
        for order in list(account.working.values()):
            try:
                self.matching.cancel(account, order)
                rows.append({"id": order.id, "status": 200})
            except Refusal as refused:
                rows.append({"id": order.id, "status": refused.status, "body": refused.body()})
        return rows

    def _close_row(self, account: Account, symbol: str) -> Json:
        try:
            row = self.matching.close(account, symbol, None, None).shown()
        except Refusal as refused:
            return {"symbol": symbol, "status": refused.status, "body": _failure(refused, account, symbol)}
        return {"symbol": symbol, "status": 200, "body": row}


def _seen(order: AlpacaOrder, as_of: int | None) -> Json | None:
    """The order now (a trailing stop moves between its events, all others stand still), or as it was."""
    if as_of is not None:
        return order.shown_at(as_of)
    return order.shown() if order.type == "trailing_stop" else order.past[-1][1]


def _held_at(account: Account, as_of: int | None) -> dict[str, AlpacaPosition]:
    if as_of is None:
        return account.positions
    return next((held for since, held in reversed(account.past_positions) if since <= as_of), {})


def _failure(refused: Refusal, account: Account, symbol: str) -> Json:
    """Why one position of DELETE /v2/positions was not closed."""
    held, related = account.held_for_orders(symbol)
    quantity, available = text(abs(account.quantity(symbol))), text(abs(account.available(symbol)))
    details = {"available": available, "existing_qty": quantity, "held_for_orders": text(held), "symbol": symbol}
    return {"code": refused.code, "message": refused.message, **details, "related_orders": related}
