"""Trading REST and the stream of activities with scripted faults: the venue as a backend of Alpaca's protocols."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

from aiohttp import web

from daemon.alpaca_api import activity_stream, trading_rest
from daemon.alpaca_api.books import ActivityRow, AlpacaPosition
from daemon.alpaca_api.refusals import Refusal, no_position, refusal
from daemon.alpaca_api.wire import TERMINAL, Json, asset_id, text
from simulator.prices.corporate_actions import Dividend, Merger, SpinOff, Split
from simulator.prices.tape import new_york_date
from simulator.trading import settlement
from simulator.trading.account import Account
from simulator.trading.matching import Matching
from simulator.trading.order_rules import mark
from simulator.trading.orders import AlpacaOrder
from simulator.trading.venue import Brokerage
from strategies.kit.units import SECOND_NS

Announced = Dividend | Split | Merger | SpinOff
CONFIGURABLE = (
    "fractional_trading",
    "max_margin_multiplier",
    "max_options_trading_level",
    "no_shorting",
    "ptp_no_exception_entry",
    "suspend_trade",
    "trade_confirm_email",
)


@dataclasses.dataclass(frozen=True, slots=True)
class SeenOrder:
    """An order as REST shows it now, or as it was at `as_of` if it existed then."""

    order: AlpacaOrder
    as_of: int | None

    @property
    def symbol(self) -> str:
        """The symbol of the order."""
        return self.order.symbol

    @property
    def side(self) -> str:
        """`buy` or `sell`."""
        return self.order.side

    @property
    def submitted_ns(self) -> int:
        """Time of submission."""
        return self.order.created_ns

    @property
    def open(self) -> bool:
        """Whether it may still fill, as shown."""
        return self.order.open if self.as_of is None else self.shown()["status"] not in TERMINAL

    def shown(self) -> Json:
        """Return the order object; only a trailing stop also moves between its events."""
        if self.as_of is not None:
            return self.order.shown_at(self.as_of) or {}
        return self.order.shown() if self.order.type == "trailing_stop" else self.order.past[-1][1]


class Reads:
    """Orders and positions as REST shows them; each read calls `as_of` for the time of a stale read."""

    def __init__(self, venue: Brokerage, as_of: Callable[[], int | None] = lambda: None) -> None:
        self.venue = venue
        self._as_of = as_of

    def orders(self, account: Account, *, only_open: bool) -> Iterable[SeenOrder]:
        """Return the account's orders, in a stale read as they were then."""
        as_of = self._as_of()
        if as_of is not None:
            past = (order for order in account.orders.values() if order.shown_at(as_of) is not None)
            return [SeenOrder(order, as_of) for order in past]
        return [SeenOrder(order, None) for order in (account.working if only_open else account.orders).values()]

    def order(self, account: Account, order_id: str) -> SeenOrder | None:
        """Return the order with this id."""
        return self._seen_order(account.orders.get(order_id))

    def order_of_name(self, account: Account, client_order_id: str) -> SeenOrder | None:
        """Return the order with this client order id."""
        return self._seen_order(account.by_client_id.get(client_order_id))

    def _seen_order(self, order: AlpacaOrder | None) -> SeenOrder | None:
        if order is None:
            return None
        as_of = self._as_of()
        return None if as_of is not None and order.shown_at(as_of) is None else SeenOrder(order, as_of)

    def positions(self, account: Account) -> dict[str, Json]:
        """Return the positions by symbol, at the present quotes."""
        return {symbol: self._position_json(account, position) for symbol, position in self._positions(account).items()}

    def position(self, account: Account, symbol: str) -> Json | None:
        """Return one position, at the present quote."""
        position = self._positions(account).get(symbol)
        return None if position is None else self._position_json(account, position)

    def _positions(self, account: Account) -> dict[str, AlpacaPosition]:
        as_of = self._as_of()
        if as_of is None:
            return account.positions
        return next((positions for since_ns, positions in reversed(account.past_positions) if since_ns <= as_of), {})

    def _position_json(self, account: Account, position: AlpacaPosition) -> Json:
        price = mark(position, self.venue.market, self.venue.clock.now_ns())
        return position.shown(price, account.available(position.symbol))


class Trading(Reads):
    """All operations of trading REST, with the scripted faults of the account and of submissions."""

    def __init__(self, matching: Matching) -> None:
        super().__init__(matching.venue)
        self._matching = matching

    def now_ns(self) -> int:
        """Return the simulated time."""
        return self.venue.clock.now_ns()

    # --- account ----------------------------------------------------------------------------------------------------

    def account(self, account: Account) -> Json:
        """Return the account object."""
        now_ns, deficit = self.now_ns(), self._deficit(account)
        market = self.venue.market
        return account.shown(
            lambda position: mark(position, market, now_ns),
            blocked=self._blocked(account),
            now_ns=now_ns,
            deficit=deficit,
        )

    def account_id(self, account: Account) -> str:
        """Return the account's UUID."""
        return account.id

    def configuration(self, account: Account) -> Json:
        """Return the account's configuration."""
        return account.configuration

    async def configure(self, account: Account, changes: Json) -> Json:
        """Change the configurable settings; unknown names are left out."""
        account.configuration.update({name: value for name, value in changes.items() if name in CONFIGURABLE})
        return account.configuration

    def activities(self, account: Account) -> list[ActivityRow]:
        """Return all rows in the order of booking."""
        return account.activities

    def client_order_id(self, account: Account, order_id: str) -> str:
        """Return the client order id of an order."""
        return account.orders[order_id].client_order_id

    async def announcements(self, query: Mapping[str, str]) -> list[Json]:
        """Return dividends, splits, mergers and spin-offs, by their ex-date or the day of payment."""
        days = self.venue.market.days
        paid = query.get("date_type") == "payable_date"
        actions: list[Announced] = []
        if days is not None:
            actions = [*days.dividends, *days.splits, *days.mergers, *days.spin_offs]
        rows = [_announcement_json(action) for action in actions if not self._is_kept_back(action)]
        return [
            row
            for row in rows
            if row["ca_type"] in query.get("ca_types", "dividend").split(",")
            and query.get("symbol", row["initiating_symbol"]) in (row["initiating_symbol"], row["target_symbol"])
            and query.get("since", "") <= row["payable_date" if paid else "ex_date"] <= query.get("until", "9999-12-31")
        ]

    def _is_kept_back(self, action: Announced) -> bool:
        kept_back = not isinstance(action, Dividend) and self.venue.faults.waiting("action_unannounced")
        return bool(kept_back) and self.venue.faults.take("action_unannounced", {"symbol": action.symbol}) is not None

    def _blocked(self, account: Account) -> bool:
        return self.venue.faults.take("account_blocked", {"key": account.key}) is not None

    def _deficit(self, account: Account) -> Decimal:
        """Return the account's scripted deficit of intraday margin in USD; with one it may only close positions."""
        short = self.venue.faults.take("margin_deficit", {"key": account.key})
        return Decimal(0) if short is None else Decimal(str(short.get("amount", "100")))

    # --- orders -----------------------------------------------------------------------------------------------------

    async def submit(self, account: Account, body: Json) -> Json:
        """Accept an order, or refuse it by the script or the rules."""
        context = {"key": account.key, **{name: body.get(name) for name in ("symbol", "side", "client_order_id")}}
        fault = self.venue.faults.take("order_refused", context)
        if fault is not None:
            if fault.get("reason"):
                raise refusal(str(fault.get("reason")))
            status, code = int(fault.get("status", 403)), fault.get("code", 40310000)
            raise Refusal(status, code, str(fault.get("message", "refused by the script")))
        if self._blocked(account):
            raise refusal("not_authorized")
        if body.get("side") == "buy" and self._deficit(account):
            raise refusal("intraday_margin")
        early = self.venue.faults.take("fill_before_reply", context)
        order = self._matching.submit(account, body)
        row = order.shown()
        if early is not None and order.status == "pending_new":  # an order that waits for an open arrives then
            self._matching.arrive(account, order, self.now_ns())
            await self.venue.clock.hold(float(early.get("seconds", 0.05)))
        return row

    async def replace(self, account: Account, order_id: str, changes: Json) -> Json:
        """Replace this order by a new one."""
        return self._matching.replace(account, account.orders[order_id], changes).shown()

    async def cancel(self, account: Account, order_id: str) -> None:
        """Request a cancellation at the venue."""
        self._matching.cancel(account, account.orders[order_id])

    async def cancel_all(self, account: Account) -> list[Json]:
        """Request the cancellation of all working orders."""
        rows: list[Json] = []
        for order in list(account.working.values()):
            try:
                self._matching.cancel(account, order)
                rows.append({"id": order.id, "status": 200})
            except Refusal as error:
                rows.append({"id": order.id, "status": error.status, "body": error.body()})
        return rows

    # --- positions --------------------------------------------------------------------------------------------------

    def symbol(self, account: Account, name: str) -> str:
        """Return the symbol in a path, given as a symbol or as its asset's id."""
        return next((symbol for symbol in account.positions if asset_id(symbol) == name.lower()), name)

    async def close(self, account: Account, symbol: str, quantity: Decimal | None, percent: Decimal | None) -> Json:
        """Send a market order that closes the position, whole or in part."""
        if symbol not in account.positions:
            raise no_position()
        return self._matching.close(account, symbol, quantity, percent).shown()

    async def close_all(self, account: Account, *, cancel_orders: bool) -> list[Json]:
        """Send a market order against each position, after the cancellations, if requested."""
        if cancel_orders:
            await self.cancel_all(account)
            await asyncio.sleep(0)  # the cancellations come with the loop's next turn
            await asyncio.sleep(0)
        return [self._close_row(account, symbol) for symbol in list(account.positions)]

    def _close_row(self, account: Account, symbol: str) -> Json:
        try:
            row = self._matching.close(account, symbol, None, None).shown()
        except Refusal as error:
            return {"symbol": symbol, "status": error.status, "body": _failure(error, account, symbol)}
        return {"symbol": symbol, "status": 200, "body": row}

    async def exercise(self, account: Account, symbol: str) -> None:
        """Exercise the whole position at once."""
        settlement.exercise(self._matching, account, symbol)

    async def do_not_exercise(self, account: Account, symbol: str) -> None:
        """Let the position expire without exercise, on the day of its expiry."""
        settlement.keep_from_exercise(account, symbol, new_york_date(self.now_ns()))


def _failure(error: Refusal, account: Account, symbol: str) -> Json:
    """Return why one position of DELETE /v2/positions was not closed."""
    held_units, order_ids = account.held_for_orders(symbol)
    quantity, available = text(abs(account.quantity(symbol))), text(abs(account.available(symbol)))
    details = {"available": available, "existing_qty": quantity, "held_for_orders": text(held_units), "symbol": symbol}
    return {"code": error.code, "message": error.message, **details, "related_orders": order_ids}


def _announcement_json(action: Announced) -> Json:
    """Return an announced corporate action. Of a merger the acquirer is the initiating party."""
    parties, dates = [action.symbol, action.symbol], {"ex_date": action.date, "payable_date": action.date}
    name = f"{action.symbol} {action.date}"
    match action:
        case Split():
            kind, sub_kind = "split", "stock_split" if action.ratio > 1 else "reverse_split"
            more = _rates(action.ratio)
        case Dividend():
            kind, sub_kind, more = "dividend", "cash", {"cash": text(action.amount)}
            dates["payable_date"] = action.paid or action.date
        case Merger():
            kind, sub_kind = "merger", "merger_completion"
            parties, more = (
                [action.new or action.symbol, action.symbol],
                {**_rates(action.ratio), "cash": text(action.cash)},
            )
        case SpinOff():
            kind, sub_kind, parties, more = "spinoff", "spinoff", [action.symbol, action.new], _rates(action.ratio)
    return {
        "id": asset_id(name if kind == "dividend" else f"{action.symbol} {kind} {action.date}"),
        "ca_type": kind,
        "ca_sub_type": sub_kind,
        "initiating_symbol": parties[0],
        "target_symbol": parties[1],
        **dates,
        **more,
    }


def _rates(ratio: Decimal) -> dict[str, str]:
    """Return new and old shares of a ratio; {} for a merger that pays only cash."""
    if not ratio:
        return {}
    new, old = ratio.as_integer_ratio()
    return {"old_rate": text(Decimal(old)), "new_rate": text(Decimal(new))}


ACCOUNT = web.RequestKey("account", Account)


class FaultyTradingRest(trading_rest.TradingRest[Account]):
    """The handlers of one server."""

    def __init__(self, trading: Trading) -> None:
        super().__init__(trading, ACCOUNT)
        self._venue = trading.venue

    def reads(self, request: web.Request) -> Reads:
        """Return reads of the present, or of the past under `stale_read`, which each read takes."""
        return Reads(self._venue, lambda: self._as_of(request))

    def _as_of(self, request: web.Request) -> int | None:
        """Return the time of a stale read; None for the present."""
        context = {"method": request.method, "path": request.path, "key": request[ACCOUNT].key}
        stale = self._venue.faults.take("stale_read", context)
        if stale is None:
            return None
        return self._venue.clock.now_ns() - int(float(stale.get("age_s", 5)) * SECOND_NS)

    def rows(self, request: web.Request, types: frozenset[str]) -> list[ActivityRow]:
        """Return the rows that match the filters, without those of a corporate action that the script withholds."""
        rows, faults = super().rows(request, types), self._venue.faults
        if not faults.waiting("action_line_late"):
            return rows
        key = request[ACCOUNT].key
        return [
            row
            for row in rows
            if row.fields.get("activity_type") not in settlement.MOVE_SHARES
            or faults.take("action_line_late", {"key": key, "symbol": row.fields.get("symbol")}) is None
        ]


class FaultyActivityStream(activity_stream.ActivityStreamServer[Account]):
    """The endpoint for all accounts of one server."""

    def __init__(self, trading: Trading) -> None:
        super().__init__(trading, trading.venue.authentic)
        self._faults, self._clock = trading.venue.faults, trading.venue.clock

    def denied(self, key: str, account: Account | None) -> int:
        """Return 401 for wrong credentials, or the scripted status."""
        refusal = self._faults.take("activity_refused", {"key": key})
        return super().denied(key, account) if refusal is None else int(refusal.get("status", 404))

    async def pause(self, account: Account) -> None:
        """Wait for the account's next row: in virtual time each poll is a step of the clock."""
        await account.next_activity(self._clock)

    async def write(self, response: web.StreamResponse, account: Account, row: ActivityRow, event_id: str) -> bool:
        """Send one event; returns False if a fault cuts the connection before it."""
        context = {"key": account.key, "activity_type": row.fields["activity_type"]}
        if self._faults.take("activity_dropped", context) is not None:
            return False
        late = self._faults.take("activity_late", context)
        if late is not None:
            await asyncio.sleep(float(late.get("seconds", 1.0)))
        data = self.line(account, row, event_id)
        garbage = self._faults.take("activity_garbage", context)
        if garbage is not None:
            data = str(garbage.get("text", '{"event_id": 7')).encode("latin-1")
        copies = 1 if self._faults.take("activity_doubled", context) is None else 2
        await response.write((b"data: " + data + b"\n\n") * copies)
        return True
