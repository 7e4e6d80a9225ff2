"""The account over REST: reads that can only read, and orders that leave once.

`wire.py`, `report.py` and `link.py` interpret the answers; nothing is decided here.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.brokers.alpaca.rest.client import (
    PAGES_MAX,
    READING,
    SETTING,
    TRADING,
    Access,
    CallPriority,
    NotSent,
    QueuedClient,
    Raw,
    Refused,
    RequestQueue,
    Unanswered,
    a_list,
    an_object,
)
from daemon.brokers.alpaca.wire import Malformed, optional_decimal, text, time_ns, time_text
from daemon.brokers.api import BrokerError
from daemon.core.effects import SubmitOrder
from daemon.core.events import DIVIDEND, SPLIT, Announcement
from daemon.core.instruments.option_market import is_contract
from strategies.kit.units import MILLISECOND_NS

T = TypeVar("T")
PAID_LATE = timedelta(days=5)  # most days from the announced payment to the ledger's line
BOOKED_LATE = timedelta(days=5)  # most days from a split's ex-date to the ledger's line; a spin-off's may precede it

# --- reading the account ------------------------------------------------------------------------------------------


class TradingReads:
    """The account's reading side: GET only by construction. Every method raises RestError."""

    def __init__(self, access: Access, queue: RequestQueue) -> None:
        self.access = access
        self._client = QueuedClient(access, queue, READING)

    async def account(self) -> Raw:
        """GET /v2/account."""
        return an_object(await self._client.get("/account"), "account")

    async def configurations(self) -> Raw:
        """GET /v2/account/configurations."""
        return an_object(await self._client.get("/account/configurations"), "configurations")

    async def clock(self) -> Raw:
        """GET /v2/clock."""
        return an_object(await self._client.get("/clock"), "clock")

    async def calendar(self, first: str, last: str) -> list[Raw]:
        """GET /v2/calendar for New York dates `YYYY-MM-DD`, both included."""
        return a_list(await self._client.get("/calendar", {"start": first, "end": last}), "calendar")

    async def asset(self, symbol: str) -> Raw:
        """GET /v2/assets/{symbol}."""
        return an_object(await self._client.get(f"/assets/{symbol}"), "asset")

    async def positions(self) -> list[Raw]:
        """GET /v2/positions."""
        return a_list(await self._client.get("/positions"), "positions")

    async def open_orders(self) -> list[Raw]:
        """Return all orders that Alpaca counts as open, oldest first."""
        return await self._orders("open", None)

    async def orders_since(self, since_ns: int) -> list[Raw]:
        """Return all orders submitted at `since_ns` or later, open or ended, oldest first."""
        return await self._orders("all", since_ns)

    async def _orders(self, status: str, since_ns: int | None) -> list[Raw]:
        """Read page by page. `after` is exclusive: a page starts a millisecond before the last one's end, without
        repeats."""
        orders: dict[str, Raw] = {}
        after_text = None if since_ns is None else time_text(since_ns - 1)
        for _ in range(PAGES_MAX):
            query = {"status": status, "limit": 500, "direction": "asc", "nested": "false", "after": after_text}
            page = a_list(await self._client.get("/orders", query), "orders")
            new = {text(row.get("id")): row for row in page if text(row.get("id")) not in orders}
            orders |= new
            if len(page) < 500:
                return list(orders.values())
            if not new:
                break
            last = page[-1].get("submitted_at") or page[-1].get("created_at")
            after_text = time_text(time_ns(last, "submitted_at") - MILLISECOND_NS)
        raise Unanswered(f"GET /orders: the pages do not end (after={after_text}, {len(orders)} orders)")

    async def order_by_id(self, order_id: str) -> Raw | None:
        """Return the order of this id; None on the broker's 404."""
        return await self._order(f"/orders/{order_id}", {}, CallPriority.READ)

    async def order_by_client_id(self, client_order_id: str) -> Raw | None:
        """Return the order of this name; None on the broker's 404. Goes before other reads."""
        query = {"client_order_id": client_order_id}
        order = await self._order("/orders:by_client_order_id", query, CallPriority.EXIT)
        if order is not None and order.get("client_order_id") != client_order_id:
            raise Unanswered(f"asked for order {client_order_id}, got {str(order.get('client_order_id'))[:128]!r}")
        return order

    async def _order(self, path: str, query: Raw, urgency: CallPriority) -> Raw | None:
        """Return one order; None where the broker denies it in JSON: a page of a proxy before it proves nothing."""
        try:
            return an_object(await self._client.get(path, query, urgency=urgency), "order")
        except Refused as error:
            is_unknown = error.status == 404 and error.of_service and "endpoint" not in error.message
            if is_unknown and (error.code == 40410000 or "not found" in error.message):
                return None
            raise

    async def activities(self, after_ns: int) -> list[Raw]:
        """Return the ledger's lines after `after_ns` (exclusive), oldest first, each once."""
        return await self._activities({"after": time_text(after_ns)})

    async def other_activities(self, after_ns: int) -> list[Raw]:
        """Return the ledger's lines after `after_ns` (exclusive) but for fills, oldest first, each once."""
        return await self._activities({"after": time_text(after_ns), "category": "non_trade_activity"})

    async def ex_date(self, symbol: str, payment_date: date) -> str:
        """Return the announced ex-date of the dividend that the ledger has at this New York date.

        "" where none or several are announced. Raises RestError and Malformed.
        """
        first_date, last_date = (payment_date - PAID_LATE).isoformat(), payment_date.isoformat()
        rows = await self._announcements("dividend", "payable_date", first_date, last_date, symbol=symbol)
        dates = {text(row.get("ex_date")) for row in rows}
        return dates.pop() if len(dates) == 1 else ""

    async def ratio(self, symbol: str, day: date) -> str:
        """Return "new/old" of the split or merger of `symbol` that the ledger has at this New York date.

        "" where none or several are announced, or one without both rates. Raises RestError and Malformed.
        """
        first_date, last_date = (day - BOOKED_LATE).isoformat(), day.isoformat()
        rates = {
            (optional_decimal(row, "new_rate") or 0, optional_decimal(row, "old_rate") or 0)
            for row in await self._announcements("split,merger", "ex_date", first_date, last_date)
            if symbol in (row.get("initiating_symbol"), row.get("target_symbol"))
        }
        new, old = rates.pop() if len(rates) == 1 else (0, 0)
        return f"{new}/{old}" if new > 0 and old > 0 else ""

    async def spin_offs(self, symbol: str, day: date) -> list[tuple[str, str, str]]:
        """Return the possible parents of what the ledger has at this New York date: symbol, ex-date and "new/old".

        For each spin-off near that date all names but `symbol`, because Alpaca has the parent now as one party, now as
        the other. The shares may come before their ex-date. Raises RestError and Malformed.
        """
        first_date, last_date = (day - BOOKED_LATE).isoformat(), (day + BOOKED_LATE).isoformat()
        spin_offs = set[tuple[str, str, str]]()
        for row in await self._announcements("spinoff", "ex_date", first_date, last_date):
            new, old = optional_decimal(row, "new_rate") or 0, optional_decimal(row, "old_rate") or 0
            parties = {text(row.get("initiating_symbol")), text(row.get("target_symbol"))} - {"", symbol}
            if new > 0 and old > 0:
                spin_offs |= {(party, text(row.get("ex_date")), f"{new}/{old}") for party in parties}
        return sorted(spin_offs)

    async def corporate_actions(self, first_date: str, last_date: str, *, dividends: bool = True) -> list[Raw]:
        """Return the announced corporate actions of all shares with an ex-date (New York) between two days, both
        included; the many dividends only where asked for.
        """
        kinds = "split,spinoff,merger,dividend" if dividends else "split,spinoff,merger"
        return await self._announcements(kinds, "ex_date", first_date, last_date)

    async def _announcements(self, kinds: str, by: str, first_date: str, last_date: str, **more: str) -> list[Raw]:
        """Return the corporate actions of these kinds whose date `by` lies between two days, both included."""
        query = {"ca_types": kinds, "date_type": by, "since": first_date, "until": last_date, **more}
        return a_list(await self._client.get("/corporate_actions/announcements", query), "announcements")

    async def order_fills(self, order_id: str) -> list[Raw]:
        """Return the ledger's FILL lines of one order, however old, oldest first, each once."""
        rows = await self._activities({"activity_types": "FILL", "order_id": order_id})
        return [row for row in rows if row.get("order_id") == order_id and row.get("activity_type") == "FILL"]

    async def _activities(self, selection: Raw) -> list[Raw]:
        lines: dict[tuple[str, str], Raw] = {}
        token: str | None = None
        for _ in range(PAGES_MAX):
            query = {**selection, "direction": "asc", "page_size": 100, "page_token": token}
            page = a_list(await self._client.get("/account/activities", query), "activities")
            new = {name: row for row in page if (name := _name_of(row)) not in lines}
            lines |= new
            if len(page) < 100:
                return _with_own_ids(lines)
            if not new:
                break
            token = text(page[-1].get("id"))
        raise Unanswered(f"GET /account/activities: the pages do not end (token {token!r}, {len(lines)} lines)")

    async def option_contracts(
        self, underlying: str, expiry_from: str, expiry_to: str, strike_from: object, strike_to: object
    ) -> list[Raw]:
        """Return active contracts between two New York dates and two strikes in USD, all included."""
        query = {
            "underlying_symbols": underlying,
            "status": "active",
            "expiration_date_gte": expiry_from,
            "expiration_date_lte": expiry_to,
            "strike_price_gte": str(strike_from),
            "strike_price_lte": str(strike_to),
            "limit": 10_000,
        }
        pages = await self._client.pages("/options/contracts", query, "option_contracts")
        return [row for page in pages for row in a_list(page or [], "option_contracts")]


def _name_of(line: Raw) -> tuple[str, str]:
    return text(line.get("id")), text(line.get("activity_type"))


def _with_own_ids(lines: Mapping[tuple[str, str], Raw]) -> list[Raw]:
    """Return lines by id and kind, each with a unique id.

    Alpaca documents an exercise (OPEXC, OPASN) and its shares (OPTRD) under one id: the kind is added to the latter's.
    """
    kinds: dict[str, list[str]] = {}
    for line, kind in lines:
        kinds.setdefault(line, []).append(kind)
    return [row if kind == min(kinds[line]) else {**row, "id": f"{line} {kind}"} for (line, kind), row in lines.items()]


def pays_cash(row: Raw) -> bool:
    """Return whether an announcement is of a dividend that is paid in cash."""
    return (text(row.get("ca_type")).lower(), text(row.get("ca_sub_type")).lower()) == (DIVIDEND, "cash")


def parse_announcements(rows: Iterable[Raw]) -> list[Announcement]:
    """Parse announcements; of an action that is announced again the last row counts.

    Splits and cash dividends have figures. Any other action, and one that cannot be read, has another kind alone, for
    each share that it names; so have several splits of one share on one day.
    """
    newest = {
        text(row.get("corporate_action_id")) or text(row.get("id")) or str(place): row for place, row in enumerate(rows)
    }
    actions = [action for row in newest.values() for action in _announcements_of(row)]
    splits = Counter((it.symbol, it.ex_date) for it in actions if it.kind == SPLIT)
    return [replace(it, kind="several splits") if splits[it.symbol, it.ex_date] > 1 else it for it in actions]


def _announcements_of(row: Raw) -> list[Announcement]:
    kind, sub_kind = text(row.get("ca_type")).lower(), text(row.get("ca_sub_type")).lower()
    ex_date = text(row.get("ex_date"))
    symbols = {text(row.get(f"{party}_symbol")) for party in ("initiating", "target")}
    first, *others = sorted(symbols - {""}) or [""]
    with contextlib.suppress(Malformed):
        new, old, cash = (optional_decimal(row, name) or Decimal(0) for name in ("new_rate", "old_rate", "cash"))
        if kind == SPLIT and not others and new > 0 and old > 0:
            return [Announcement(first, SPLIT, ex_date, new=new, old=old)]
        if pays_cash(row) and not others and cash > 0:
            return [Announcement(first, DIVIDEND, ex_date, cash=cash, paid=text(row.get("payable_date")))]
    return [Announcement(symbol, f"{kind} ({sub_kind})", ex_date) for symbol in (first, *others)]


# --- orders -------------------------------------------------------------------------------------------------------


class AnnouncementCache:
    """The broker's announcements for ledger lines: requested once for a symbol and date, again after a failure."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, date], Any] = {}
        self._reported_failures: set[tuple[str, str, date]] = set()  # failed reads already reported

    async def of(
        self, read: Callable[[str, date], Awaitable[T]], symbol: str, day: date, on_failure: Callable[[str, str], None]
    ) -> T | None:
        """Return the result of `read`; None where it fails, which `on_failure` gets once, as symbol and problem."""
        key = read.__name__, symbol, day
        if key not in self._answers:
            try:
                self._answers[key] = await read(symbol, day)
            except BrokerError as problem:
                if key not in self._reported_failures:
                    self._reported_failures.add(key)
                    on_failure(symbol, str(problem))
                return None
        answer: T = self._answers[key]
        return answer


class TradingOrders:
    """The account's writing side: orders by POST and DELETE only, and its settings by PATCH. Raises RestError."""

    def __init__(self, access: Access, queue: RequestQueue) -> None:
        self._client = QueuedClient(access, queue, TRADING)
        self._settings = QueuedClient(access, queue, SETTING)

    async def submit(self, order: SubmitOrder, kept_back: Callable[[], str] = lambda: "") -> Raw:
        """POST /v2/orders once, or close the position where the order requires it.

        An opening or auction order raises NotSent when its validity passed. An exit waits for its turn without limit:
        nothing in our own queue is lost. `kept_back` is called in the queue's thread at its turn: a reason keeps the
        order here (NotSent).
        """
        wait_s, opening = math.inf, opens(order)
        if opening or order.auction:
            clock = self._client.queue.clock
            wait_s = max(0.0, clock.real_s(order.valid_until_ns - clock.now_ns()))
        rests = not isinstance(order.stop_price, UnsetType)  # a stop comes after exits
        urgency = CallPriority.ENTRY if opening or rests else CallPriority.EXIT
        answer = await self._client.ask(partial(self._send, order, kept_back), urgency, wait_s=wait_s)
        return an_object(answer, f"order {order.client_order_id}")

    def _send(self, order: SubmitOrder, kept_back: Callable[[], str]) -> object:
        """Post the order; or DELETE /v2/positions/{symbol}?qty=, by which the broker makes and names an order.

        Runs in the queue's thread.
        """
        if reason := kept_back():
            raise NotSent(f"order {order.client_order_id} {reason} while it waited for its turn: not sent")
        if order.closing:
            return self._client.client.delete(f"/positions/{order.symbol}", {"qty": str(order.quantity)})
        now = self._client.queue.clock.now_ns()
        if (opens(order) or order.auction) and now > order.valid_until_ns:
            raise NotSent(
                f"order {order.client_order_id} was valid until {order.valid_until_ns}, now is {now}: not sent"
            )
        return self._client.client.post("/orders", submission(order))

    async def cancel(self, order_id: str) -> None:
        """DELETE /v2/orders/{id}: a request only; the trade stream brings the result."""
        delete = partial(self._client.client.delete, f"/orders/{order_id}")
        await self._client.ask(delete, CallPriority.EXIT, wait_s=math.inf)

    async def suspend(self, *, on: bool) -> None:
        """PATCH /v2/account/configurations: whether the broker refuses new orders of the account."""
        patch = partial(self._settings.client.patch, "/account/configurations", {"suspend_trade": on})
        answer = an_object(await self._settings.ask(patch, CallPriority.EXIT), "configurations")
        if answer.get("suspend_trade") is not on:
            raise Unanswered(f"suspend_trade is {str(answer.get('suspend_trade'))[:40]!r} after it was set to {on}")

    async def cancel_all(self) -> list[Raw]:
        """DELETE /v2/orders: for each open order {id, status}."""
        answer = await self._client.ask(partial(self._client.client.delete, "/orders"), CallPriority.EXIT)
        return a_list(answer, "cancel all")

    async def close_all(self) -> list[Raw]:
        """DELETE /v2/positions with its orders: for each position {symbol, status, body}: an order or an error."""
        query = {"cancel_orders": "true"}
        answer = await self._client.ask(partial(self._client.client.delete, "/positions", query), CallPriority.EXIT)
        return a_list(answer, "close all")


def opens(order: SubmitOrder) -> bool:
    """Return whether the order adds to the position: contracts bought to open, shares bought beyond a short."""
    return order.side > 0 and order.intent != "buy_to_close"


def submission(order: SubmitOrder) -> Raw:
    """Return the body of POST /v2/orders: for the day or the opening auction.

    A stop of whole shares stays until it is cancelled; one of options is for the day, and so is any order of a
    fraction. Quantity and prices are exact text; only options have an intent.
    """
    whole = type(order.quantity) is int
    body: Raw = {
        "symbol": order.symbol,
        "qty": str(order.quantity),
        "side": "buy" if order.side > 0 else "sell",
        "type": "market" if order.limit_price is None else "limit",
        "time_in_force": "opg" if order.auction and whole else "day",
        "client_order_id": order.client_order_id,
    }
    if not isinstance(order.stop_price, UnsetType):
        kind = "stop" if order.limit_price is None else "stop_limit"
        time_in_force = "gtc" if whole and not is_contract(order.symbol) else "day"
        body |= {"type": kind, "time_in_force": time_in_force, "stop_price": format(order.stop_price, "f")}
    if order.limit_price is not None:
        body["limit_price"] = format(order.limit_price, "f")
    if is_contract(order.symbol):
        body["position_intent"] = order.intent
    return body
