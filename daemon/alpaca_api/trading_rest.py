"""Trading REST under /v2: account, orders, positions, activities, as documented.

Handlers read the request, call the backend, and show the answer; refusals are raised as `Refusal`.
"""

from __future__ import annotations

import itertools
from typing import Generic, TypeVar

from aiohttp import web

from daemon.alpaca_api.backend import AccountReads, ShownOrder, TradingBackend
from daemon.alpaca_api.books import ActivityRow
from daemon.alpaca_api.queries import asked_lines, asked_orders, is_true, json_body, positive, reply, whole_number
from daemon.alpaca_api.refusals import invalid, no_order, no_position
from daemon.alpaca_api.wire import Json

A = TypeVar("A")


class TradingRest(Generic[A]):
    """The handlers of one server. A middleware stores the request's account under `account`."""

    def __init__(self, backend: TradingBackend[A], account: web.RequestKey[A]) -> None:
        self.backend = backend
        self._account = account

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of trading REST."""
        return [
            web.get("/v2/account", self.account),
            web.get("/v2/account/configurations", self.configuration),
            web.patch("/v2/account/configurations", self.configure),
            web.get("/v2/account/activities", self.activities),
            web.get("/v2/account/activities/{type}", self.activities),
            web.get("/v2/corporate_actions/announcements", self.announcements),
            web.post("/v2/orders", self.submit),
            web.get("/v2/orders", self.orders),
            web.delete("/v2/orders", self.cancel_all),
            web.get("/v2/orders:by_client_order_id", self.order_by_client_id),
            web.get("/v2/orders/{id}", self.order),
            web.patch("/v2/orders/{id}", self.replace),
            web.delete("/v2/orders/{id}", self.cancel),
            web.get("/v2/positions", self.positions),
            web.delete("/v2/positions", self.close_all),
            web.get("/v2/positions/{symbol}", self.position),
            web.delete("/v2/positions/{symbol}", self.close),
            web.post("/v2/positions/{symbol}/exercise", self.exercise),
            web.post("/v2/positions/{symbol}/do-not-exercise", self.do_not_exercise),
        ]

    def reads(self, request: web.Request) -> AccountReads[A]:
        """Return the source of orders and positions for this request."""
        del request
        return self.backend

    # --- account ----------------------------------------------------------------------------------------------------

    async def account(self, request: web.Request) -> web.Response:
        """GET /v2/account."""
        return reply(self.backend.account(request[self._account]))

    async def configuration(self, request: web.Request) -> web.Response:
        """GET /v2/account/configurations."""
        return reply(self.backend.configuration(request[self._account]))

    async def configure(self, request: web.Request) -> web.Response:
        """PATCH /v2/account/configurations."""
        changes = await json_body(request)
        return reply(await self.backend.configure(request[self._account], changes))

    async def activities(self, request: web.Request) -> web.Response:
        """GET /v2/account/activities[/{type}], paged by the id of the last row."""
        query = request.query
        if "activity_types" in query and "category" in query:
            raise invalid("only one of activity_types or category is accepted")
        kinds = request.match_info.get("type") or query.get("activity_types", "")
        types = frozenset(filter(None, kinds.split(",")))
        rows = self.rows(request, types)
        ascending = query.get("direction", "desc") == "asc"
        rows.sort(key=lambda row: row.id, reverse=not ascending)
        token = query.get("page_token")
        if token:
            rows = [row for row in rows if (row.id > token if ascending else row.id < token)]
        if "date" not in query or "page_size" in query:
            rows = rows[: whole_number(query.get("page_size", "100"), "page_size", 100)]
        return reply([row.fields for row in rows])

    def rows(self, request: web.Request, types: frozenset[str]) -> list[ActivityRow]:
        """Return the activities of these types (all, if empty) that match the request's filters, of all pages."""
        now_ns, rows = self.backend.now_ns(), self.backend.activities(request[self._account])
        return asked_lines((row for row in rows if row.visible_ns <= now_ns), request.query, types)

    async def announcements(self, request: web.Request) -> web.Response:
        """GET /v2/corporate_actions/announcements: dividends and splits, by their ex-date or the day of payment."""
        return reply(await self.backend.announcements(request.query))

    # --- orders -----------------------------------------------------------------------------------------------------

    async def submit(self, request: web.Request) -> web.Response:
        """POST /v2/orders; the reply shows the order as accepted, even if it has changed since."""
        body = await json_body(request)
        return reply(await self.backend.submit(request[self._account], body))

    async def orders(self, request: web.Request) -> web.Response:
        """GET /v2/orders: open (default), closed or all, by submission time."""
        query = request.query
        status = query.get("status", "open")
        if status not in {"open", "closed", "all"}:
            raise invalid("invalid status")
        limit = whole_number(query.get("limit", "50"), "limit", 500)
        among = self.reads(request).orders(request[self._account], only_open=status == "open")
        chosen = asked_orders(among, query)
        chosen.sort(key=lambda order: order.submitted_ns, reverse=query.get("direction", "desc") != "asc")
        rows = (order.shown() for order in chosen if status == "all" or order.open == (status == "open"))
        return reply(list(itertools.islice(rows, limit)))

    async def order(self, request: web.Request) -> web.Response:
        """GET /v2/orders/{id}."""
        order_id = request.match_info["id"]
        return _one(self.reads(request).order(request[self._account], order_id), order_id)

    async def order_by_client_id(self, request: web.Request) -> web.Response:
        """GET /v2/orders:by_client_order_id?client_order_id=."""
        name = request.query.get("client_order_id", "")
        return _one(self.reads(request).order_of_name(request[self._account], name), name)

    async def replace(self, request: web.Request) -> web.Response:
        """PATCH /v2/orders/{id}: a new order with a new id."""
        account, order_id = request[self._account], self._order_id(request)
        return reply(await self.backend.replace(account, order_id, await json_body(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        """DELETE /v2/orders/{id}: 204 confirms only the request."""
        await self.backend.cancel(request[self._account], self._order_id(request))
        return web.Response(status=204)

    async def cancel_all(self, request: web.Request) -> web.Response:
        """DELETE /v2/orders: 207 with one row for each open order."""
        return reply(await self.backend.cancel_all(request[self._account]), status=207)

    # --- positions --------------------------------------------------------------------------------------------------

    async def positions(self, request: web.Request) -> web.Response:
        """GET /v2/positions."""
        return reply(list(self.reads(request).positions(request[self._account]).values()))

    async def position(self, request: web.Request) -> web.Response:
        """GET /v2/positions/{symbol or asset id}."""
        row = self.reads(request).position(request[self._account], self._symbol(request))
        if row is None:
            raise no_position()
        return reply(row)

    async def close(self, request: web.Request) -> web.Response:
        """DELETE /v2/positions/{symbol}?qty= or percentage=: a market order."""
        account, query = request[self._account], request.query
        if "qty" in query and "percentage" in query:
            raise invalid("only one of qty or percentage is accepted")
        quantity = positive(query["qty"], "qty") if "qty" in query else None
        percent = positive(query["percentage"], "percentage") if "percentage" in query else None
        return reply(await self.backend.close(account, self._symbol(request), quantity, percent))

    async def close_all(self, request: web.Request) -> web.Response:
        """DELETE /v2/positions?cancel_orders=: 207 with one row for each position."""
        cancels = is_true(request.query.get("cancel_orders"))
        rows: list[Json] = await self.backend.close_all(request[self._account], cancel_orders=cancels)
        return reply(rows, status=207)

    async def exercise(self, request: web.Request) -> web.Response:
        """POST /v2/positions/{symbol or contract id}/exercise: the whole position, at once."""
        await self.backend.exercise(request[self._account], self._symbol(request))
        return web.Response(status=200)

    async def do_not_exercise(self, request: web.Request) -> web.Response:
        """POST /v2/positions/{symbol or contract id}/do-not-exercise, on the day of expiry."""
        await self.backend.do_not_exercise(request[self._account], self._symbol(request))
        return web.Response(status=200)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _order_id(self, request: web.Request) -> str:
        """Return the order id of the path. Raises 404 if the account does not have that order."""
        order_id = request.match_info["id"]
        if self.backend.order(request[self._account], order_id) is None:
            raise no_order(order_id)
        return order_id

    def _symbol(self, request: web.Request) -> str:
        return self.backend.symbol(request[self._account], request.match_info["symbol"])


def _one(order: ShownOrder | None, name: str) -> web.Response:
    if order is None:
        raise no_order(name)
    return reply(order.shown())
