"""Every kind of trouble that the campaign knows, as data: what is armed at the server, or done to daemon and account.

A kind belongs to a family; the campaign fails when a kind was never met while an order worked or a position was open.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from daemon.alpaca_api.refusals import REFUSALS

ANY, HELD, WORKING = "any", "held", "working"


@dataclass(frozen=True, slots=True)
class Line:
    """One fault of the server: `kind` of `simulator.faults`, armed for `lasts_s` simulated seconds (0: once).

    `counts` is false for a line that only prepares the one that counts.
    """

    kind: str
    where: dict[str, object] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    times: int = 1
    lasts_s: float = 0.0
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of trouble. It begins when the account is as `when` says; `halts` are the reasons it may end in.

    `act` names what the runner itself does (`tests.chaos.acts`), `tables` are settings it needs. Of the `alone` kinds a
    session has one at most. `books` is false where book and broker may differ in the end, because a halt says so.
    """

    name: str
    family: str
    draw: Callable[[random.Random], tuple[Line, ...]] = lambda _: ()
    when: str = HELD
    act: str = ""
    halts: frozenset[str] = frozenset()
    alone: bool = False
    books: bool = True
    tables: dict[str, dict[str, object]] = field(default_factory=dict)


def _line(kind: str, **parameters: Any) -> Line:
    """A line whose parameters are those of the fault, `where` its place."""
    where = parameters.pop("where", {})
    times, lasts_s = parameters.pop("times", 1), parameters.pop("lasts_s", 0.0)
    return Line(kind, where, parameters, times, lasts_s, parameters.pop("counts", True))


def _prepare(kind: str, **parameters: Any) -> Line:
    where, times = parameters.pop("where", {}), parameters.pop("times", 1)
    return Line(kind, where, parameters, times, parameters.pop("lasts_s", 0.0), counts=False)


def _fixed(*lines: Line) -> Callable[[random.Random], tuple[Line, ...]]:
    return lambda _: lines


HOLD = _prepare("order_held_back", times=2, seconds=300)
"""Orders that work for a while, so that something can befall them."""


# --- sockets ------------------------------------------------------------------------------------------------------


def _sockets() -> Iterator[Kind]:
    for stream in ("stock", "option", "trade"):
        at = {"stream": stream}
        drop = _prepare("socket_drop", where=at)
        yield Kind(f"{stream}: dropped", "socket dropped", _fixed(_line("socket_drop", where=at)))
        for code in (1000, 1001, 1006, 1011):
            lines = _fixed(_line("socket_close", where=at, code=code))
            yield Kind(f"{stream}: closed with {code}", "socket closed", lines)
        hole = _fixed(_line("socket_black_hole", where=at, hold_s=600))
        yield Kind(f"{stream}: half-open", "socket half-open", hole)
        yield Kind(f"{stream}: stalled", "socket stalled", _fixed(_line("socket_stall", where=at, lasts_s=420)))
        yield Kind(f"{stream}: pings unanswered", "socket half-open", _fixed(_line("ping_silence", where=at)))
        for kind, family in (
            ("mute_after_connect", "handshake mute"),
            ("mute_after_auth", "handshake mute"),
            ("mute_after_subscribe", "handshake mute"),
            ("upgrade_refused", "connect refused"),
            ("connection_limit", "connect refused"),
            ("auth_failed", "auth failure"),
        ):
            yield Kind(f"{stream}: {kind}", family, _fixed(drop, _line(kind, where=at, times=2)))
        for kind, family in (
            ("malformed_json", "malformed message"),
            ("data_null", "malformed message"),
            ("unknown_event", "unknown enum"),
            ("unknown_enum", "unknown enum"),
            ("unknown_field", "unknown field"),
            ("oversize_frame", "oversize frame"),
            ("frame_duplicated", "duplicated frame"),
        ):
            yield Kind(f"{stream}: {kind}", family, _fixed(_line(kind, where=at)))
        nested = _fixed(_line("malformed_json", where=at, nested=True))
        yield Kind(f"{stream}: nested beyond measure", "malformed message", nested)
    for stream in ("stock", "option"):
        at = {"stream": stream}
        drop = _prepare("socket_drop", where=at)
        yield Kind(f"{stream}: string_time", "malformed message", _fixed(_line("string_time", where=at)))
        yield Kind(f"{stream}: slow_client", "socket closed", _fixed(_line("slow_client", where=at)))
        for kind in ("symbol_limit", "insufficient_subscription"):
            yield Kind(f"{stream}: {kind}", "connect refused", _fixed(drop, _line(kind, where=at)))
    status = _line("unknown_status", where={"stream": "trade"})
    yield Kind("trade: unknown_status", "unknown enum", _fixed(status))


# --- bars and quotes ----------------------------------------------------------------------------------------------


def _market() -> Iterator[Kind]:
    for kind, family, parameters in (
        ("bar_duplicated", "duplicated bar", {"copies": 3}),
        ("bar_reordered", "reordered bar", {}),
        ("bar_late", "late bar", {"delay_s": 45}),
        ("bar_late", "late bar", {"delay_s": 200}),
        ("bar_corrected", "corrected bar", {"shift": 0.2}),
        ("bar_gap", "bar gap", {}),
        ("bar_ahead", "bar of the future", {"minutes": 30}),
        ("bar_absurd", "impossible bar", {"factor": 40}),
    ):
        name = f"{kind} {parameters['delay_s']} s" if "delay_s" in parameters else kind
        yield Kind(name, family, _fixed(Line(kind, {}, dict(parameters), 2)))
    for kind in ("quote_gap", "quote_one_sided", "quote_crossed"):
        yield Kind(kind, "broken quote", _fixed(_line(kind, where={"stream": "option"}, times=12)))
    for name, line in (
        ("quote_empty", _line("quote_empty", where={"stream": "option"}, times=8)),
        ("quote_absurd: 0.01 bid", _line("quote_absurd", where={"stream": "option"}, times=1)),
        ("quote_absurd: 90 bid", _line("quote_absurd", where={"stream": "option"}, bid=90.0, ask=90.1, times=1)),
        ("quote_ahead", _line("quote_ahead", where={"stream": "option"}, times=4)),
    ):
        yield Kind(name, "broken quote", _fixed(line))
    for bid, ask in ((0.30, 0.80), (0.15, 0.725), (0.025, 0.75), (0.0, 0.725)):
        wide = _line("quote_wide", where={"stream": "option"}, times=10_000, lasts_s=1800, bid=bid, ask=ask)
        yield Kind(f"quote_wide: {bid:g} to {ask:g} of the price", "wide quote", _fixed(wide))
    for minutes in (4, 20):
        name = f"trading halt of {minutes} minutes"
        yield Kind(name, "market closed", _fixed(_line("trading_halt", minutes=minutes)))
    for kind in ("greeks_missing", "odd_symbol"):
        delay = _prepare("order_held_back", times=3, seconds=900)  # an exit still works when the chain is listed again
        yield Kind(kind, "odd chain", _fixed(delay, _line(kind, times=3)), act="kill")


# --- REST ---------------------------------------------------------------------------------------------------------

TARGETS: dict[str, tuple[dict[str, object], tuple[Line, ...]]] = {
    "submit": ({"method": "POST", "path": "/v2/orders"}, ()),
    "cancel": ({"method": "DELETE", "path": "/v2/orders*"}, (HOLD,)),
    "look-up": (
        {"method": "GET", "path": "/v2/orders:by_client_order_id"},
        (_prepare("http_reset", where={"method": "POST", "path": "/v2/orders"}),),
    ),
    "read": ({"method": "GET", "path": ("/v2/orders", "/v2/positions", "/v2/account", "/v2/account/activities")}, ()),
}
"""What is asked of the trading service: where the fault acts, and what must be prepared for it to be asked."""


def _rest() -> Iterator[Kind]:
    for target, (where, before) in TARGETS.items():
        for status in (500, 502, 503, 504):
            for moment in ("before", "after") if target in ("submit", "cancel") else ("before",):
                yield Kind(
                    f"{target}: {status} {moment}", f"{status} {moment}", _failing(where, before, status, moment)
                )
        limited = _line("http_429", where=where, times=2, retry_after_s=20)
        yield Kind(f"{target}: 429 with Retry-After", "429", _fixed(*before, limited))
        yield Kind(f"{target}: 429", "429", _fixed(*before, _line("http_429", where=where)))
        for kind, family in (("http_hang", "read timeout"), ("http_reset", "connection reset")):
            for moment in ("before", "after"):
                line = _line(kind, where=where, moment=moment, seconds=1.2)
                yield Kind(f"{target}: {kind} {moment}", family, _fixed(*before, line))
        for kind, family in (
            ("http_slow", "slow answer"),
            ("http_empty_body", "empty body"),
            ("malformed_json", "malformed JSON"),
            ("http_unknown_field", "unknown field"),
            ("auth_failed", "auth failure"),
        ):
            more = {"seconds": 0.3} if kind == "http_slow" else {}
            yield Kind(f"{target}: {kind}", family, _fixed(*before, Line(kind, where, more)))
    data: dict[str, object] = {"method": "GET", "path": ("/v2/stocks/bars", "/v1beta1/options/quotes/latest")}
    for kind in ("http_error", "http_hang", "malformed_json", "http_429"):
        lines = _fixed(_prepare("socket_drop", where={"stream": "stock"}), Line(kind, data, {"seconds": 0.8}, 2))
        yield Kind(f"market data: {kind}", "market data outage", lines, act="kill")
    contracts = _line("http_hang", where={"method": "GET", "path": "/v2/options/contracts"}, seconds=90)
    yield Kind("list of contracts: http_hang", "slow answer", _fixed(contracts), act="kill")
    late = _line("http_slow", where={"method": "GET", "path": "/v2/account/activities"}, times=4, seconds=0.8)
    yield Kind("report delivered late", "slow answer", _fixed(late), when=ANY)
    stale = _line("stale_read", where={"key": "*"}, times=4, age_s=20)
    yield Kind("stale_read", "stale read", _fixed(stale))


def _failing(
    where: dict[str, object], before: tuple[Line, ...], status: int, moment: str
) -> Callable[[random.Random], tuple[Line, ...]]:
    def draw(chance: random.Random) -> tuple[Line, ...]:
        body = chance.choice(("json", "html", "empty"))
        return (*before, _line("http_error", where=where, status=status, moment=moment, body=body))

    return draw


# --- orders, updates, account -------------------------------------------------------------------------------------


def _orders() -> Iterator[Kind]:
    rejections = frozenset({"reject_rate"})
    for reason in REFUSALS:
        line = _line("order_refused", reason=reason)
        yield Kind(f"refused: {reason}", "order refused", _fixed(line), halts=rejections)
    rejected = _fixed(_line("order_rejected"))
    yield Kind("rejected after acceptance", "order rejected", rejected, halts=rejections)
    yield Kind("fill_partial", "partial fill", _fixed(_line("fill_partial", times=4)), when=ANY)
    delay = _line("order_held_back", times=2, seconds=300)
    yield Kind("order_held_back", "order held back", _fixed(delay))
    early = _line("fill_before_reply", seconds=0.05)
    yield Kind("fill before the reply", "fill before reply", _fixed(early))
    yield Kind("fill unheard", "fill while disconnected", _fixed(_line("fill_unheard")), when=ANY)
    for stream_fault in ("socket_drop", "socket_black_hole"):
        outage = _line(stream_fault, where={"stream": "trade"}, hold_s=200)
        yield Kind(f"fill during {stream_fault}", "fill while disconnected", _fixed(HOLD, outage), when=WORKING)
    for kind in ("cancel_loses", "cancel_stuck", "cancel_rejected", "cancel_refused"):
        family = "cancel racing fill" if kind == "cancel_loses" else "cancel trouble"
        stays = rejections if kind == "cancel_stuck" else frozenset[str]()  # a buy: sales are wash trades
        yield Kind(kind, family, _fixed(HOLD, _line(kind)), halts=stays)
    partly = _prepare("fill_partial", where={"side": "buy"}, quantity=4, then_held=True)
    for side, before in (("buy", (partly,)), ("sell", ())):
        stuck = _line("cancel_stuck", where={"side": side})
        held_back = _prepare("order_held_back", where={"side": side}, times=2, seconds=300)
        against = rejections if side == "buy" else frozenset[str]()
        trouble = _fixed(*(before or (held_back,)), stuck)
        yield Kind(f"cancel of a {side} stuck", "cancel trouble", trouble, halts=against)
    late = _line("cancel_overtaken", where={"side": "buy"})
    yield Kind("an entry fills after its cancel", "cancel racing fill", _fixed(HOLD, late), when=ANY)
    never = _line("order_held_back", where={"side": "sell"}, times=1, seconds=3600)
    yield Kind("a sale that never fills", "order held back", _fixed(never))
    for kind in ("update_duplicated", "update_reordered", "update_replayed", "update_lost", "update_late"):
        yield Kind(kind, "trade update trouble", _fixed(_line(kind, times=2)))


def _newer_line(chance: random.Random) -> tuple[Line, ...]:
    lines = (("WH", "-3.10"), ("INTTW", "-3.10"), ("CGD", "4.20"), ("CORR", "-2"), ("NEW", "-40"), ("NEW", "40"))
    kind, amount = chance.choice(lines)
    return (_line("ledger_line", activity_type=kind, amount=amount),)


def _heard_badly(chance: random.Random) -> tuple[Line, ...]:
    """Each line of the stream of activities may be lost with its connection, late, garbled or doubled."""
    kinds = ("activity_dropped", "activity_late", "activity_garbage", "activity_doubled")
    faults = (_line(kind, times=chance.randint(1, 4), counts=False) for kind in kinds)
    return (*faults, *_newer_line(chance))


def _account() -> Iterator[Kind]:
    for kind in ("trade_bust", "trade_correct"):
        yield Kind(kind, kind.replace("_", " "), _fixed(_line(kind)), alone=True)
        variant = _fixed(_line(kind, order_kept=True, shift="0.50"))
        yield Kind(f"{kind} that its order does not show", kind.replace("_", " "), variant, alone=True)
    for amount in ("-250.00", "400.00"):
        yield Kind(f"transfer of {amount} USD", "ledger line", _fixed(_line("transfer", amount=amount)))
    yield Kind("ledger line of a newer or unknown kind", "ledger line", _newer_line)
    listening: dict[str, dict[str, object]] = {"alpaca": {"activity_stream": True}}
    yield Kind("stream of activities that misbehaves", "ledger line", _heard_badly, tables=listening)
    yield Kind("dividend", "ledger line", _fixed(_line("dividend")))
    yield Kind("split of the underlying", "ledger line", _fixed(_line("split")))
    yield Kind("fee", "ledger line", act="fee")
    yield Kind("fee whose line comes late", "ledger line", act="fee_late")
    yield Kind("dividend reinvested into half a share", "ledger line", act="drip")
    split = frozenset({"reconciliation"})
    yield Kind("split of a held contract", "contract adjusted", act="split", halts=split, alone=True, books=False)
    blocked = _fixed(_line("account_blocked", lasts_s=300))
    yield Kind("account blocked", "account blocked", blocked)
    deficit = _fixed(_line("margin_deficit", lasts_s=900))
    yield Kind("intraday_margin", "margin deficit", deficit)
    unsettled = frozenset({"reject_rate"})  # until a report says so, it asks for more than it may spend
    yield Kind("cash account", "cash account", act="cash_account", halts=unsettled, alone=True)
    yield Kind("market_closed", "market closed", _fixed(_line("market_closed", lasts_s=900)))
    yield Kind("clock skew", "clock skew", _fixed(_line("clock_skew", lasts_s=600, skew_s=30)))
    ignored: dict[str, dict[str, object]] = {"broker": {"foreign_orders": "ignore"}}
    for action in ("dividend", "split"):
        name = f"a person's shares beside: {action}"
        yield Kind(name, "a person's shares", act=f"persons_{action}", tables=ignored, alone=True)
    for rule in ("halt", "ignore", "adopt"):
        tables: dict[str, dict[str, object]] = {"broker": {"foreign_orders": rule}}
        for act in ("buy", "close", "cancel"):
            yield Kind(
                f"by hand: {act}, {rule}",
                f"manual order, {rule}",
                act=f"hand_{act}",
                when=WORKING if act == "cancel" else HELD,
                draw=_fixed(HOLD) if act == "cancel" else _fixed(),
                halts=frozenset({"foreign_order"}),
                books=rule != "halt" or act == "cancel",
                tables=tables,
                alone=True,
            )
        yield Kind(
            f"half-open, closed by hand, flatten: {rule}",
            f"manual order, {rule}",
            _fixed(_line("update_lost", times=1000, lasts_s=60)),
            act="hand_close_unheard",
            halts=frozenset({"foreign_order", "flatten", "reconciliation"}),
            books=rule != "halt",
            tables=tables,
            alone=True,
        )


DEAD = "dead for an hour"  # a family
RESTING: dict[str, dict[str, object]] = {
    "protection": {"rest_at_broker": True, "options": "stop", "distance": 1.0},
    "sizing": {"stop_loss": 0.1},
}
"""A stop at the broker so near that an hour without the daemon often meets it."""


def _deaths() -> Iterator[Kind]:
    """Deaths of an hour and more with a position and its stop: it fills whole, in part, not at all, or is cancelled."""
    partly = _fixed(_prepare("fill_partial", where={"side": "sell"}, times=2))
    never = _fixed(_prepare("order_held_back", where={"side": "sell"}, times=1, seconds=7200))
    for name, draw, act in (
        ("dead for an hour", _fixed(), "die"),
        ("dead for an hour, the stop fills in part", partly, "die"),
        ("dead for an hour, the stop never fills", never, "die"),
        ("dead for an hour, the stop is cancelled by hand", _fixed(), "die_and_cancel"),
    ):
        yield Kind(name, DEAD, draw, act=act, tables=RESTING)


def _process() -> Iterator[Kind]:
    yield Kind("killed", "SIGKILL", act="kill")
    yield Kind("killed with an order at work", "SIGKILL", _fixed(HOLD), when=WORKING, act="kill")
    yield Kind("killed at any moment", "SIGKILL", when=ANY, act="kill")
    yield Kind("killed again while it starts", "SIGKILL at start", act="kill_twice")
    for act, name in (("bad_model", "no model"), ("bad_configuration", "mistake in the configuration")):
        stays = frozenset({"no_model", "configuration"})  # where no report came by which it may be resumed
        yield Kind(f"{name} at a restart", name, act=act, halts=stays, alone=True)
    yield from _deaths()
    yield Kind("killed while it stops", "SIGKILL at stop", act="kill_stopping")
    early: dict[str, dict[str, object]] = {"journal": {"snapshot_events": 100}}
    yield Kind("a bit of the newest snapshot flips", "snapshot damaged", act="flip_snapshot", tables=early)
    row, damaged = "a bit of an event flips", frozenset({"journal_damaged"})
    yield Kind(row, "row damaged", act="flip_row", halts=damaged, alone=True)
    yield Kind("another program locks the journal", "journal locked", act="locked")
    stood_down = frozenset({"panic", "foreign_order"})  # late news of what it sold is news of a person's order
    yield Kind("panic", "panic", act="panic", halts=stood_down, alone=True, books=False)
    outage = _fixed(
        *(
            _line("http_error", where={"method": method, "path": path}, times=1000, lasts_s=60, status=503)
            for method, path in (("GET", "/v2/account"), ("GET", "/v2/positions"), ("GET", "/v2/orders"))
        )
    )
    yield Kind("unreachable panic", "panic", outage, act="panic_unreachable", halts=stood_down, alone=True, books=False)
    release_halts = frozenset({"code_changed"})
    yield Kind("another release, then killed", "new release", act="new_release", halts=release_halts, alone=True)
    yield Kind("stopped and started", "restart", act="restart")
    yield Kind("stopped flat and started", "restart", act="restart", tables={"broker": {"on_stop": "flatten"}})
    yield Kind("down for minutes", "restart", act="down")
    yield Kind("frozen", "frozen", act="freeze")
    yield Kind("host's clock leaps", "clock leap", act="clock_leap")
    yield Kind("disk full", "disk full", act="disk_full", halts=frozenset({"disk_full"}), alone=True)


KINDS: dict[str, Kind] = {
    kind.name: kind for group in (_sockets, _market, _rest, _orders, _account, _process) for kind in group()
}
"""Every kind by its name."""
