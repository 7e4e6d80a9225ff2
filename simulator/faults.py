"""Scripted faults: tests and campaigns add them, the injection points in the simulator take them.

A fault is data; the taking code applies it. Every kind has one line in `KINDS`, and none other exists.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

KINDS: dict[str, str] = {
    # sockets: context stream ("stock", "option", "trade"), key
    "upgrade_refused": "the upgrade is answered with HTTP `status` (429) instead of 101",
    "mute_after_connect": "the socket opens and the server sends nothing more",
    "mute_after_auth": "the auth message is read, nothing is sent after that",
    "mute_after_subscribe": "the subscription is taken (or the listen), neither ack nor data follow",
    "auth_failed": "right credentials are refused (402 on data, unauthorized on trade, HTTP `status` 401 on REST)",
    "connection_limit": "406 on data, HTTP 429 on the trade upgrade; use until_ns for N seconds of it",
    "insufficient_subscription": "409 at auth",
    "symbol_limit": "405 right after an acknowledged subscription; no data follow",
    "slow_client": "407 (unless `silent`), then the socket is closed",
    "socket_drop": "the connection is cut without a close frame; the session is held as the real server holds it",
    "socket_close": "the server closes with `code` (1000, 1001, 1006 = no frame, 1011)",
    "socket_black_hole": "half-open: no FIN, nothing read, nothing sent, the dead session is held for `hold_s` (90)",
    "socket_stall": "no data for the fault's time, pings are answered, then data go on (what fell in between is lost)",
    "ping_silence": "pings of this connection are not answered any more",
    # messages on any stream: context stream, key, kind of message
    "malformed_json": "the frame (or REST body) is no JSON (no msgpack), or `nested`: arrays in one another, very deep",
    "data_null": 'the message is {"stream":"trade_updates","data":null}, on data streams an array with null',
    "unknown_event": "an event (message type) that no client knows, instead of the true one unless `extra`",
    "unknown_status": "the order's status is one that no client knows",
    "unknown_enum": "another enum of the message is one that no client knows (`field`)",
    "quantity_exponent": "quantities of the message (or the REST reply) are written like 1e-9: the same number",
    "quantity_too_fine": "quantities of the message (or the REST reply) have ten decimals: 0.0000000001 more",
    "unknown_field": "the message has fields that no client knows",
    "string_time": "`t` of a msgpack message is a string instead of a Timestamp",
    "oversize_frame": "a frame above 1 MiB",
    "frame_duplicated": "the same frame twice",
    # bars and quotes: context stream, symbol, start_ns
    "bar_duplicated": "the bar is sent `copies` (2) times",
    "bar_reordered": "the bar is sent after its successor",
    "bar_late": "the bar is sent `delay_s` simulated seconds late",
    "bar_corrected": "an updated bar with other values (`shift` USD) follows at half past the next minute",
    "bar_ahead": "a bar that cannot be, stamped `minutes` (30) ahead, is sent before the true one",
    "bar_gap": "the bar is never streamed; REST has it",
    "bar_absurd": "all prices of the streamed bar are `factor` (40) times as high; REST has the true one",
    "day_bar_missing": "the daily bar is not in REST (name its `date` and `symbol` in `where`), as when it comes late",
    "day_bars_unadjusted": "daily bars of `symbol` are adjusted as of yesterday, without what happened this morning",
    "quote_gap": "no quote is streamed",
    "quote_one_sided": 'the quote has bid 0 (or `side` ask: ask 0); stream "rest": of REST',
    "quote_crossed": "the quote's bid is above its ask",
    "quote_empty": "the quote is 0 by 0",
    "quote_absurd": "the quote is `bid` (0.01) by `ask` (as it is) USD",
    "quote_wide": "the quote's bid and ask are these parts of its mid: `bid` (0.3), `ask` (0.8)",
    "quote_ahead": "the quote is stamped `ahead_s` (59) seconds in the future",
    "trading_halt": "no trade, bar or quote of a share (the tape's) and its options for `minutes` (8); `code` (H)",
    "greeks_missing": "snapshots come without Greeks and implied volatility",
    "odd_symbol": "a chain has a symbol that is no OCC symbol",
    # REST, any path: context stream ("rest"), method, path, key
    "http_429": "HTTP 429, with Retry-After where `retry_after_s` is given",
    "http_error": "HTTP `status` (500), `body` json, html or empty, `moment` before or after the request took effect",
    "http_hang": "the request takes effect (unless `moment` is before), the reply never comes (`seconds`, 60)",
    "http_reset": "the request takes effect (unless `moment` is before), the connection is reset without a reply",
    "http_slow": "the first byte of the reply comes `seconds` (1) late",
    "http_empty_body": "status 200 with an empty body, after the request took effect",
    "http_html": "status 502 with HTML, after the request took effect where `moment` is after",
    "http_unknown_field": "the reply has fields that no client knows",
    "http_unknown_enum": "`field` (status) of the reply's (first) object is one that no client knows",
    "stale_read": "a read of orders or positions answers as of `age_s` simulated seconds ago (order not yet visible)",
    # orders: context key, symbol, side, client_order_id
    "order_refused": "POST is refused with `status`, `code`, `message`, or with `reason`, a name of REFUSALS",
    "order_rejected": "the order is accepted, then the venue rejects it",
    "order_held_back": "the order stays pending_new for `seconds` simulated before it is new",
    "fill_partial": "at this point the order fills `quantity` (1) only; with `then_held` no more until its cancel",
    "fill_before_reply": "new and fill are sent before the POST is answered (`seconds` between, 0.05)",
    "fill_unheard": "the trade stream is cut just before this fill",
    "close_dust": "the close call of shares sells `quantity` (0.000000001) less than it was asked to: dust stays",
    "cancel_loses": "DELETE is answered 204, then the fill wins",
    "cancel_overtaken": "the cancel is confirmed, `delay_s` (30) simulated seconds later the order fills all the same",
    "cancel_stuck": "pending_cancel, which never resolves (the order does not fill either)",
    "cancel_rejected": "DELETE is answered 204, then order_cancel_rejected: the order goes on working",
    "replace_rejected": "PATCH is answered with a new order, then order_replace_rejected: the old one goes on working",
    "cancel_refused": "DELETE is answered 422 although the order works",
    # trade updates: context key, event, symbol, client_order_id
    "update_duplicated": "the update is sent twice",
    "update_reordered": "the update is sent after the next one",
    "update_replayed": "new and the fill are sent again, `copies` (1) times, with the same execution ids",
    "update_lost": "the update is never sent",
    "update_late": "the update is sent `delay_s` (10) simulated seconds late",
    # the stream of activities: context key, activity_type
    "activity_refused": "the stream of activities is refused with `status` (404), as for keys that may not",
    "activity_dropped": "the stream of activities is cut before this line",
    "activity_late": "the line is sent `seconds` (1) late on the stream of activities, and all after it",
    "activity_garbage": "`text` instead of the line on the stream of activities",
    "activity_doubled": "the line is sent twice on the stream of activities",
    # the account, each taken as soon as it is armed: context key
    "trade_bust": "the last fill is busted: the book is turned back, a trade_bust update and a canceled row follow",
    "trade_correct": "the last fill's price is corrected by `shift` (-0.01) USD; by `order_kept` not in its order",
    "manual_order": "a person in the account does `action` (place, cancel, close) with the remaining parameters",
    "split": "a SPLIT activity: positions of `symbol` times `ratio`",
    "action_line_late": "the lines of a split, merger, spin-off or new name of `symbol` are not shown for a while",
    "action_unannounced": "the announcement of a split, merger or spin-off of `symbol` is not shown for a while",
    "dividend": "a DIV activity of `amount` USD a share of `symbol`; one that is `reinvested` buys a fraction of it",
    "assignment": "an early assignment (OPASN, OPTRD) of `quantity` (all) short contracts of `symbol`",
    "transfer": "a CSD or CSW activity of `amount` USD",
    "ledger_line": "an activity of `activity_type` (FEE): `amount` (0) USD and `quantity` (0) of `symbol` move with it",
    "account_blocked": "account_blocked and trading_blocked are true for the fault's time",
    "margin_deficit": "`amount` (100) USD more margin than equity is asked for; buys are refused (`intraday_margin`)",
    "market_closed": "GET /v2/clock has no session today for the fault's time, as on a day of mourning",
    "clock_skew": "GET /v2/clock is `skew_s` (30) ahead for the fault's time",
}
"""Every kind of fault and what it does; names in backquotes are its parameters with their defaults in brackets."""

QUANTITIES = frozenset(("qty", "filled_qty", "qty_available", "position_qty", "cum_qty", "leaves_qty"))


def respelt(kind: str, body: Any) -> Any:
    """Return the JSON `body` with its quantities respelt by `quantity_exponent` or `quantity_too_fine`."""
    if isinstance(body, list):
        return [respelt(kind, entry) for entry in body]
    if not isinstance(body, dict):
        return body
    return {
        name: _respelt_number(kind, value) if name in QUANTITIES and isinstance(value, str) else respelt(kind, value)
        for name, value in body.items()
    }


def _respelt_number(kind: str, value: str) -> str:
    if kind == "quantity_exponent":
        return f"{Decimal(value).normalize():e}"
    return f"{Decimal(value) + Decimal('1e-10'):.10f}"


NESTED = b"[" * 100_000  # deeper than any decoder allows

Context = Mapping[str, object]


@dataclasses.dataclass(slots=True)
class Fault:
    """One line of the script. `times` is how often it may still be taken, None for no limit."""

    kind: str
    times: int | None
    after: int
    from_ns: int | None
    until_ns: int | None
    chance: float
    where: dict[str, object]
    parameters: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the parameter `name`, or `default` if the script lacks it."""
        return self.parameters.get(name, default)

    def meets(self, context: Context) -> bool:
        """Return whether `context` has every entry of `where`; a text that ends in `*` compares the beginning."""
        for name, expected in self.where.items():
            actual = context.get(name)
            if isinstance(expected, str) and expected.endswith("*"):
                if not str(actual).startswith(expected[:-1]):
                    return False
            elif isinstance(expected, (tuple, frozenset, set, list)):
                if actual not in expected:
                    return False
            elif actual != expected:
                return False
        return True


class Faults:
    """The waiting faults, and the counts of the taken ones.

    `met[kind]` counts the taken ones; `met_exposed[kind]` those taken while the account concerned had a working order
    or an open position. The server sets `now_ns`, `exposed` and `on_add`.
    """

    def __init__(self, seed: int = 0) -> None:
        self.met: Counter[str] = Counter()
        self.met_exposed: Counter[str] = Counter()
        self.now_ns: Callable[[], int] = lambda: 0
        self.exposed: Callable[[str | None], bool] = lambda _key: False
        self.on_add: Callable[[], None] = lambda: None
        self._random = random.Random(seed)
        self._waiting: list[Fault] = []  # replaced, never changed: iteration needs no copy
        self._lock = threading.RLock()  # scripts are written from other threads too

    def add(
        self,
        kind: str,
        *,
        times: int | None = None,
        after: int = 0,
        from_ns: int | None = None,
        until_ns: int | None = None,
        chance: float = 1.0,
        where: Mapping[str, object] | None = None,
        **parameters: Any,
    ) -> Fault:
        """Add one fault to the script; returns it, for `remove`.

        `times`: how often it is taken; by default once, or without limit if `until_ns` is given. `after`: how many
        matching opportunities pass first. `from_ns`, `until_ns`: simulated times between which it is armed. `chance`:
        the probability at each opportunity (seeded). `where`: entries that the context must have, such as `{"path":
        "/v2/orders*", "method": "POST"}`. Raises ValueError for an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"fault kind: found {kind!r}; expected one of {', '.join(sorted(KINDS))}")
        if times is None and until_ns is None:
            times = 1
        fault = Fault(kind, times, after, from_ns, until_ns, chance, dict(where or {}), parameters)
        with self._lock:
            self._waiting = [*self._waiting, fault]
        self.on_add()
        return fault

    def remove(self, fault: Fault) -> None:
        """Remove a fault; does nothing if it is used up."""
        with self._lock:
            self._waiting = [waiting for waiting in self._waiting if waiting is not fault]

    def clear(self) -> None:
        """Remove all faults; the counts stay."""
        with self._lock:
            self._waiting = []

    def take(self, kind: str, context: Context | None = None) -> Fault | None:
        """Return the first armed fault of `kind` that matches `context`, counted and used up once; None without one.

        `context["key"]` names the account that decides between `met` and `met_exposed`.
        """
        if not self._waiting:
            return None
        fault = self._find(kind, context or {}, use=True)
        if fault is None:
            return None
        key = (context or {}).get("key")
        self.met[kind] += 1
        if self.exposed(key if isinstance(key, str) else None):
            self.met_exposed[kind] += 1
        return fault

    def active(self, kind: str, context: Context | None = None) -> Fault | None:
        """Return as `take`, without counting and without using it up: for lasting states, such as `socket_stall`."""
        return self._find(kind, context or {}, use=False) if self._waiting else None

    def waiting(self, *kinds: str) -> tuple[Fault, ...]:
        """Return the waiting faults, of all kinds or of `kinds`."""
        return tuple([fault for fault in self._waiting if fault.kind in kinds] if kinds else self._waiting)

    def _find(self, kind: str, context: Context, *, use: bool) -> Fault | None:
        now_ns = self.now_ns()
        with self._lock:
            for fault in self._waiting:
                if fault.until_ns is not None and now_ns >= fault.until_ns:
                    self._waiting = [f for f in self._waiting if f.until_ns is None or now_ns < f.until_ns]
                    break
            waiting = self._waiting
        for fault in waiting:
            if fault.kind != kind or not fault.meets(context):
                continue
            if fault.from_ns is not None and now_ns < fault.from_ns:
                continue
            if not use:
                return fault
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.chance < 1.0 and self._random.random() >= fault.chance:
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.remove(fault)
            return fault
        return None
