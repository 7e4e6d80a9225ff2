"""Checks across keys: contradictions, addresses, the simulated clock.

Pure: each check gives the key, its value, and the expected value. Reads no file, environment or network.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from msgspec import UNSET

from daemon.config.tables import AlpacaTable, ClockTable, DeskSettings, DeskTable
from daemon.core.limits import AUTO
from daemon.core.risk.overlay import HAR, MODEL, SPANS, VARIANCE, return_count
from daemon.host.state_place import WHOLE_PATH
from strategies.kit.entry import OwnStrategyError, StrategyEntry
from strategies.kit.parameters import given_by, text_of
from strategies.kit.units import SECOND_NS
from strategies.registry import entry, is_known, names
from strategies.registry import strategy as strategy_named

ADDRESSES = {
    "trading_url": ("https", "http"),
    "data_url": ("https", "http"),
    "stream_url": ("wss", "ws"),
    "trade_stream_url": ("wss", "ws"),
    "option_stream_url": ("wss", "ws"),
}
"""Address keys of `[alpaca]` with their schemes: over the network, and on this machine only."""
ALPACA = "alpaca"  # the broker of `[alpaca]`
SERVICES = ("trading_url", "data_url")  # of these, the ones used over REST
LIVE_HOST, OF_ALPACA = "api.alpaca.markets", ".alpaca.markets"
CLOSE_PATHS = 2  # paths on which a guard that closes positions must hear the desk
REPORTS_S = 120  # least seconds until the core counts a report as lost, whatever broker.blind_min is
LIVE_EPSILON_MAX = 0.05  # part of the decisions with real money
VOLATILITY_MAX = 1.0  # most volatility target of an overlay: more caps nothing, and 10 most likely means 10 %
WEIGHTS = ("order_weight_max", "position_weight_max", "gross_weight_max", "turnover_max")
WEIGHT_MAX = 10  # most of these weights: more is no limit, and 105 most likely means 105 %
NUMBER_MAX = 10**15  # of any key: more is meaningless, and could break later arithmetic
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SIMULATED = "a simulated Alpaca"

CAPPED = frozenset({("session", "shares")})  # kinds of desks (`Spec.kind`) that a risk overlay may cap

Problem = tuple[str, object, str]  # the dotted key, its value, the expected value


def contradictions(settings: DeskSettings, only: Collection[str] | None = None) -> Iterator[Problem]:
    """Yield keys that contradict one another, or whose text is invalid; with `only`, of these tables alone.

    All other tables then have their defaults here, which must not refuse what the file's own value allows.
    """
    for section in DeskSettings.model_fields:
        for key, value in values(getattr(settings, section)).items():
            if expected := of_any_key(value):
                yield f"{section}.{key}", value, expected
    yield from _wrong_trading(settings)
    if only is None or "broker" in only:
        yield from _rare_reports(settings)
    if settings.desk.broker == ALPACA:
        yield from _wrong_addresses(settings)
    if settings.desk.account == "live" and not settings.desk.account_number:
        yield "desk.account_number", "", "the number of the live account: it is checked against what the broker says"
    yield from _wrong_clock(settings)
    yield from _wrong_operator(settings)
    for window in settings.risk.no_trade_windows:
        if not _is_window(window):
            expected = 'each as "HH:MM-HH:MM", New York time, the start before the end, such as "09:30-09:45"'
            yield "risk.no_trade_windows", window, expected


def _strategies_near(name: str) -> str:
    """Return in words the known strategies and the one most likely meant."""
    strategies, file = names(), f"{name}.py"
    alike = get_close_matches(name, strategies, n=1)
    hint = f" ({file} is here)" if Path(file).is_file() else f" (nearest: {alike[0]})" if alike else ""
    return f"one of {', '.join(strategies)}, or a file of yours: path/to/file.py{hint}"


def _wrong_trading(settings: DeskSettings) -> Iterator[Problem]:
    """Yield mutually exclusive trading rules, and an unknown strategy."""
    if not is_known(settings.desk.strategy):
        yield "desk.strategy", settings.desk.strategy, _strategies_near(settings.desk.strategy)
    yield from _wrong_symbols(settings.desk)
    if settings.record.enabled and not _trades_options(settings.desk.strategy):
        yield "record.enabled", True, f"false: {settings.desk.strategy} trades no options, so it streams none"
    if settings.exploration.kind != "none" and not _chooses_by_row(settings.desk.strategy):
        yield "exploration.kind", settings.exploration.kind, f'"none": {settings.desk.strategy} draws no action'
    elif settings.exploration.kind == "epsilon" and settings.desk.account == "live":
        epsilon = settings.exploration.epsilon
        if epsilon > LIVE_EPSILON_MAX:
            yield "exploration.epsilon", epsilon, f'at most {LIVE_EPSILON_MAX} where desk.account is "live"'
    yield from _wrong_protection(settings)
    yield from _wrong_stops(settings)
    yield from _wrong_overlay(settings)
    policy = settings.policy
    if policy.answers == "served" and not _chooses_by_row(settings.desk.strategy):
        yield "policy.answers", policy.answers, f'"local": nothing serves the answers of {settings.desk.strategy}'
    elif policy.answers == "served" and not policy.redis:
        yield "policy.redis", policy.redis, "where the answers are served: unix:///PATH, or rediss://HOST:PORT"
    days, sizing, execution = settings.contracts, settings.sizing, settings.execution
    if days.min_days > days.max_days:
        yield "contracts.min_days", days.min_days, f"at most contracts.max_days ({days.max_days})"
    if sizing.min_contracts > sizing.max_contracts:
        yield "sizing.min_contracts", sizing.min_contracts, f"at most sizing.max_contracts ({sizing.max_contracts})"
    yield from _sizes_denied(settings)
    if execution.entry_reprice_s > execution.entry_deadline_s:
        expected = f"at most execution.entry_deadline_s ({execution.entry_deadline_s})"
        yield "execution.entry_reprice_s", execution.entry_reprice_s, expected
    basket = settings.basket
    if 1 % basket.order_step:
        yield "basket.order_step", basket.order_step, "a part of 1 without a rest, such as 0.0001"
    for key in WEIGHTS:
        if getattr(basket, key) > WEIGHT_MAX:
            yield f"basket.{key}", getattr(basket, key), f"at most {WEIGHT_MAX}: a part of the equity, 1.05 is 105 %"
    if basket.fractions == "on" and is_known(settings.desk.strategy) and _trades_options(settings.desk.strategy):
        yield "basket.fractions", basket.fractions, f'"auto": {settings.desk.strategy} trades whole contracts'
    if basket.decide == "before_close" and basket.end_before_close_min >= basket.before_close_min:
        expected = f"less than basket.before_close_min ({basket.before_close_min}), when the basket is decided"
        yield "basket.end_before_close_min", basket.end_before_close_min, expected
    last_entry = settings.risk.no_entry_before_close_min
    leaving = execution.flat_before_close_min + execution.flatten_lead_min
    if last_entry <= leaving:
        expected = (
            f"more than execution.flat_before_close_min + flatten_lead_min ({leaving}), or an entry leaves at once"
        )
        yield "risk.no_entry_before_close_min", last_entry, expected
    for key in ("flat_before_close_min", "expiry_day_flat_min"):
        if getattr(execution, key) + execution.flatten_lead_min == 0:
            expected = "1 or more, or a flatten_lead_min of 1 or more: else no exit is sent before the close"
            yield f"execution.{key}", 0, expected


def _rare_reports(settings: DeskSettings) -> Iterator[Problem]:
    """Yield an interval between two reports so long that a healthy desk would count as blind."""
    blind_s = max(60 * settings.broker.blind_min, REPORTS_S)
    if 2 * settings.alpaca.report_every_s > blind_s:
        expected = (
            f"at most {blind_s // 2}: a desk that holds something counts as blind when broker.blind_min "
            f"({settings.broker.blind_min}) minutes bring no report, so two must fit: lower this or raise blind_min"
        )
        yield "alpaca.report_every_s", settings.alpaca.report_every_s, expected


def _sizes_denied(settings: DeskSettings) -> Iterator[Problem]:
    """Yield a size at which every order is denied: training would trade what the desk never buys."""
    risk, most = settings.risk, settings.sizing.max_contracts
    limits = {name: getattr(risk, name) for name in ("order_contracts_max", "position_contracts_max")}
    name = min(limits, key=limits.__getitem__)
    if most > limits[name] and is_known(settings.desk.strategy) and _trades_options(settings.desk.strategy):
        expected = f"at most risk.{name} ({limits[name]}), which denies larger orders"
        yield "sizing.max_contracts", most, expected


def _chooses_by_row(strategy: str) -> bool:
    return is_known(strategy) and entry(strategy).make().spec.by_row


def _trades_options(strategy: str) -> bool:
    return is_known(strategy) and entry(strategy).make().spec.chained


def _wrong_protection(settings: DeskSettings) -> Iterator[Problem]:
    """Yield rules of a resting stop for a desk without its own stop, and a stop that can never be reached."""
    rules, strategy, stop_loss = settings.protection, settings.desk.strategy, settings.sizing.stop_loss
    if not rules.rest_at_broker or not is_known(strategy):
        return
    spec = entry(strategy).make().spec
    if rules.rest_at_broker == AUTO and not rules.covers(spec):
        return
    if not spec.shares_stopped and not spec.chained:
        if not rules.disaster_stop:
            expected = f"more than 0, such as 0.2: {strategy} has no stop of its own; else rest_at_broker = false"
            yield "protection.disaster_stop", rules.disaster_stop, expected
    elif rules.disaster_stop:
        expected = f"0: {strategy} has a stop of its own, which protection.distance follows"
        yield "protection.disaster_stop", rules.disaster_stop, expected
    elif spec.chained and rules.options == "off":
        expected = (
            '"stop_limit" or "stop", where you accept that nobody says what elects an option\'s stop (by the bid, a '
            "wide quote would sell); else protection.rest_at_broker = false"
        )
        yield "protection.options", rules.options, expected
    elif rules.distance * stop_loss >= 1:
        expected = f"less than {1 / stop_loss:.2f}: times sizing.stop_loss ({stop_loss}) it must leave a price"
        yield "protection.distance", rules.distance, expected
    elif rules.distance * (trails := settings.sizing.trails) >= 1:
        expected = f"less than {1 / trails:.2f}: times sizing.trailing_stop ({trails}) it must leave a price"
        yield "protection.distance", rules.distance, expected


def _wrong_stops(settings: DeskSettings) -> Iterator[Problem]:
    """Yield a trailing stop or a time stop for a desk without its own stop."""
    strategy, sizing = settings.desk.strategy, settings.sizing
    if is_known(strategy) and (sizing.trails or sizing.held_max_min):
        spec = entry(strategy).make().spec
        if not (spec.shares_stopped or spec.chained):
            key, value = ("trailing_stop", sizing.trails) if sizing.trails else ("time_stop_min", sizing.held_max_min)
            yield f"sizing.{key}", value, f"0: {strategy} decides once a session and has no stop of its own"
        elif sizing.held_max_min and spec.overnight:
            expected = f"0: {strategy} holds over nights, and this counts the minutes of one session alone"
            yield "sizing.time_stop_min", sizing.held_max_min, expected


def _wrong_overlay(settings: DeskSettings) -> Iterator[Problem]:
    """Yield a risk overlay for a desk without daily closes, without the head that it needs, or with too few bars."""
    rules, strategy = settings.basket, settings.desk.strategy
    if rules.volatility_target > VOLATILITY_MAX:
        expected = f"at most {VOLATILITY_MAX}: a part of the portfolio's value a year, 0.1 is 10 %"
        yield "basket.volatility_target", rules.volatility_target, expected
    if not rules.volatility_target or not is_known(strategy):
        return
    spec, forecast = entry(strategy).make().spec, rules.volatility_forecast
    if spec.kind not in CAPPED:
        expected = f"0: {strategy} decides at each bar and keeps no daily closes to forecast a volatility from"
        yield "basket.volatility_target", rules.volatility_target, expected
    elif forecast == MODEL and VARIANCE not in [head.name for head in spec.heads]:
        expected = f'"ewma" or "har": the policies of {strategy} have no head named {VARIANCE}'
        yield "basket.volatility_forecast", forecast, expected
    elif spec.history_bars <= (count_needed := return_count(forecast, rules.volatility_span)):
        bars_text = f"{strategy} keeps {spec.history_bars} bars of a symbol"
        if forecast == HAR:
            yield "basket.volatility_forecast", forecast, f'"ewma": {bars_text}, and HAR reads {count_needed + 1}'
        else:
            most = (spec.history_bars - 1) // SPANS
            expected = f"at most {most}: {bars_text}, and {SPANS} spans and one are read ({count_needed + 1})"
            yield "basket.volatility_span", rules.volatility_span, expected


def quotes_made_up_by(settings: DeskSettings) -> str:
    """Return the generator of option quotes from a server on this machine; "" for a market's quotes."""
    server = _host(_split(settings.address("option_stream_url")))
    return SIMULATED if settings.desk.broker == ALPACA and server in LOOPBACK else ""


def _wrong_symbols(desk: DeskTable) -> Iterator[Problem]:
    """Yield symbols for a strategy with its own ones, and one named twice."""
    if not is_known(desk.strategy):
        return
    strategy = entry(desk.strategy)
    if desk.model_config and strategy.with_config is None:
        yield "desk.model_config", desk.model_config, f'"": {desk.strategy} has no model configuration'
    if desk.symbols and strategy.with_symbols is None and strategy.with_config is None:
        yield "desk.symbols", desk.symbols, f"[]: {desk.strategy} trades its own symbols and no others"
    if desk.parameters:
        yield from _wrong_parameters(desk, strategy)
    twice = sorted({symbol for symbol in desk.symbols if desk.symbols.count(symbol) > 1})
    if twice:
        yield "desk.symbols", twice[0], "each symbol once"
    elif desk.symbols and (expected := strategy.expected_symbols(desk.symbols)):
        yield "desk.symbols", desk.symbols, expected
    elif desk.symbols and strategy.with_symbols is not None:
        try:
            strategy_named(desk.strategy, desk.symbols)
        except OwnStrategyError as error:
            yield "desk.symbols", desk.symbols, f"symbols that {desk.strategy} can be made with: {error}"


def _wrong_parameters(desk: DeskTable, strategy: StrategyEntry) -> Iterator[Problem]:
    """Yield parameters that the strategy does not declare, or any beside `desk.symbols`."""
    if desk.symbols:
        yield "desk.parameters", desk.parameters, "[] where desk.symbols names others: one of them at a time"
    try:
        text = text_of(strategy.parameters, given_by(desk.parameters))
        if text and not desk.symbols:
            strategy_named(desk.strategy, (), text)
    except OwnStrategyError as error:
        yield "desk.parameters", desk.parameters, f"values that {desk.strategy} can be made with: {error}"
    except ValueError as error:
        yield "desk.parameters", desk.parameters, f"what {desk.strategy} declares: {error}"


def _wrong_operator(settings: DeskSettings) -> Iterator[Problem]:
    """Yield settings that would send passwords or commands in plain text, or can never work."""
    mqtt, drift, command = settings.mqtt, settings.drift, settings.alarms.command
    if not re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", mqtt.host, re.ASCII):
        yield "mqtt.host", mqtt.host, "a host name or an address alone, such as broker.example.net"
    elif not mqtt.tls and mqtt.host not in LOOPBACK:
        yield "mqtt.tls", mqtt.tls, f"true: {mqtt.host} is not this machine, and nothing may travel in the clear"
    if mqtt.commands and not mqtt.enabled:
        yield "mqtt.commands", mqtt.commands, "false while mqtt.enabled is false"
    if command and (not command[0].startswith("/") or any("\0" in word for word in command)):
        yield "alarms.command", command[0], "the program's whole path first, such as /usr/local/bin/notify"
    if settings.ladder.promotion == "automatic" and settings.policy.version != "current":
        expected = "current while ladder.promotion is automatic: the ladder moves that pointer"
        yield "policy.version", settings.policy.version, expected
    if drift.claim_broken == "former_version" and settings.policy.version != "current":
        expected = "current while drift.claim_broken is former_version: that pointer goes back"
        yield "policy.version", settings.policy.version, expected
    if drift.least > drift.window:
        yield "drift.least", drift.least, f"at most drift.window ({drift.window})"
    yield from _wrong_guard(settings)


def _wrong_guard(settings: DeskSettings) -> Iterator[Problem]:
    """Yield settings of a guard that would go unheard, or would act too early to know."""
    guard = settings.guard
    if not guard.prefix:
        return
    if guard.drop_dir and not guard.drop_dir.startswith("/"):
        yield "guard.drop_dir", guard.drop_dir, "the folder's whole path, on each of the two hosts"
    paths = settings.mqtt.enabled + bool(guard.drop_dir)
    if not paths:
        yield "guard.drop_dir", "", "a folder that both hosts see, or mqtt.enabled = true: else no heartbeat arrives"
    if guard.act == "close" and paths < CLOSE_PATHS:
        expected = '"protect": to close takes two paths, mqtt.enabled and guard.drop_dir, since one may fail alone'
        yield "guard.act", guard.act, expected
    for key in ("silence_s", "alarm_s"):
        if getattr(guard, key) < 3 * guard.beat_s:
            expected = f"at least three times guard.beat_s ({guard.beat_s}): a lost message is no silence"
            yield f"guard.{key}", getattr(guard, key), expected
    if guard.act_s < guard.alarm_s + 2 * guard.look_s:
        least = guard.alarm_s + 2 * guard.look_s
        yield (
            "guard.act_s",
            guard.act_s,
            f"at least guard.alarm_s + 2 x look_s ({least}): it looks twice before it acts",
        )


def _wrong_addresses(settings: DeskSettings) -> Iterator[Problem]:
    """Yield addresses that are invalid, would send the keys in plain text, or belong to another account."""
    for name, (secure, plain) in ADDRESSES.items():
        key, text = f"alpaca.{name}", settings.address(name)
        parts = _split(text)
        host = _host(parts)
        if parts is None or parts.scheme not in (secure, plain) or not host or _has_more(parts):
            yield (
                key,
                text,
                f"an address such as {getattr(AlpacaTable(), name)}, without user, password, query or fragment",
            )
        elif name in SERVICES and host.endswith(OF_ALPACA) and parts.path.strip("/"):
            yield key, text, f"no path behind {host}: it is added to each request"
        elif parts.scheme == plain and host not in LOOPBACK:
            yield key, text, f"{secure}:// (keys never travel in the clear, except to this machine)"
        elif name in ("trading_url", "trade_stream_url") and host not in LOOPBACK:
            live = settings.desk.account == "live"
            if live != (host == LIVE_HOST):
                expected = LIVE_HOST if live else f"paper-{LIVE_HOST}"
                yield key, text, f'{expected}, because desk.account is "{settings.desk.account}"'


def _wrong_clock(settings: DeskSettings) -> Iterator[Problem]:
    """Yield a simulated clock that is forbidden or incomplete."""
    clock, standing = settings.clock, ClockTable()
    names = ("sim_start", "anchor_unix_s", "rate", "socket")
    changed_name = next((name for name in names if _differs(clock, standing, name)), None)
    if changed_name is None:
        return
    if settings.desk.broker == ALPACA and not all(
        _host(_split(settings.address(name))) in LOOPBACK for name in ADDRESSES
    ):
        expected = "its default: simulated time is only for a server on this machine, at every address of alpaca"
        yield f"clock.{changed_name}", getattr(clock, changed_name), expected
        return
    if clock.socket:
        if changed_name != "socket":
            yield f"clock.{changed_name}", getattr(clock, changed_name), "its default where clock.socket gives the time"
        return
    if sim_start_ns(clock) is None:
        expected = "ISO 8601 with a zone, such as 2024-07-01T09:00:00-04:00, or seconds since 1970"
        yield "clock.sim_start", clock.sim_start, expected
    if not clock.anchor_unix_s:
        expected = "the real moment at which the clock shows sim_start, in seconds since 1970, above 0"
        yield "clock.anchor_unix_s", clock.anchor_unix_s, expected


def sim_start_ns(clock: ClockTable) -> int | None:
    """Return `sim_start` as nanoseconds UTC; None if it is neither a time with a zone nor seconds since 1970."""
    if re.fullmatch(r"\d{1,10}(\.\d{1,9})?", clock.sim_start, re.ASCII):
        return int(Decimal(clock.sim_start) * SECOND_NS)
    try:
        moment = datetime.fromisoformat(clock.sim_start)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _differs(clock: ClockTable, standing: ClockTable, name: str) -> bool:
    return bool(getattr(clock, name) != getattr(standing, name))


def of_any_key(value: object) -> str:
    """Return the expectation of every key that this value violates; "" for a good one."""
    is_nan = isinstance(value, float | Decimal) and math.isnan(value)  # comparing a Decimal NaN raises
    if is_nan or (isinstance(value, int | float | Decimal) and not -NUMBER_MAX <= value <= NUMBER_MAX):
        return f"a finite number, at most {NUMBER_MAX:,}"
    words = [str(word) for word in (value if isinstance(value, tuple) else (value,))]
    if any("\0" in word for word in words):
        return "text without the character NUL"
    if words and words[0].startswith("~"):
        return WHOLE_PATH
    return ""


def values(section: Any) -> dict[str, object]:
    """Return the keys of one table with their values."""
    every = {item.name: getattr(section, item.name) for item in dataclasses.fields(section)}
    return {name: 0 if value is UNSET else value for name, value in every.items()}


def _split(text: str) -> SplitResult | None:
    """Return the parts of an address; None for an invalid one, such as a port above 65535."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _host(parts: SplitResult | None) -> str:
    """Return the host in lower case without a final dot; "" without one."""
    return "" if parts is None else (parts.hostname or "").rstrip(".")


def _has_more(parts: SplitResult) -> bool:
    """Return True when the address carries extra parts, which may be secret."""
    return "@" in parts.netloc or bool(parts.query) or bool(parts.fragment)


def _is_window(text: str) -> bool:
    match = re.fullmatch(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)", text, re.ASCII)
    return match is not None and match[1] < match[2]
