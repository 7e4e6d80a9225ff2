"""Option entries that an account cannot pay for, and a single setting that would make them fit.

Those of a replay are read from its journal; before one, entries are tried over a whole tape. Contracts are priced by
the modelled option market (docs/PAPER.md) at the bar of each decision. Only size, premium and spread are judged: other
gates might still deny the entry.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

import msgspec

from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.desks.options import contracts_for, entry_bound, entry_limit
from daemon.core.events import BarClosed, ContractsListed, Event, Quote, SessionScheduled
from daemon.core.instruments.option_market import (
    SessionMarket,
    expiries_from,
    occ_symbol,
    strike_for_delta,
)
from daemon.core.instruments.quotes import nearest
from daemon.core.limits import Trading
from daemon.core.paper.paper import PaperBroker
from daemon.journal.reader import JournalReader
from strategies.kit.contract import Target
from strategies.kit.quantity import from_json
from strategies.kit.units import MINUTE_NS

SIZE = ("order_quantity", "order_notional", "gross_exposure", "buying_power")
"""Gates that deny an entry for its cost."""
DELTAS = tuple(step / 100 for step in range(45, 4, -5))
FRACTIONS = tuple(step / 100 for step in range(5, 101, 5))
ENOUGH = 0.9  # part of the entries that a setting must make fit to be named; else the best is
EVERY_MIN = 30  # minutes of a session between two tries of an entry of each side
HINTED = 400  # most entries that cost too much, evenly chosen, to be priced for the hint
_event = msgspec.json.Decoder(SessionScheduled | ContractsListed | BarClosed, dec_hook=from_json)
_gates = msgspec.json.Decoder(dict[str, str])
_target = msgspec.json.Decoder(Target)


class Entries(NamedTuple):
    """Numbers of entries with a quoted contract: wanted, and too expensive."""

    wanted: int = 0
    unaffordable: int = 0
    hint: str = ""  # setting that would have made them fit, "" if none is known


class _Entry(NamedTuple):
    """One entry that cost too much."""

    time_ns: int
    side: int
    equity: Decimal


class _Scene(NamedTuple):
    """The market at a decision: `spot` in USD at the bar's close, `strikes` in USD as listed."""

    market: SessionMarket
    underlying: str
    spot: float
    strikes: tuple[float, ...]


def read_entries(reader: JournalReader, trading: Trading) -> Entries:
    """Count the journal's entries, and look for the setting that fits those which cost too much."""
    wish_count, missed_entries = 0, list[_Entry]()
    equity = [(row["time_ns"], Decimal(row["equity_usd"])) for row in reader.query(
        "SELECT time_ns, equity_usd FROM equity ORDER BY time_ns"
    )]  # fmt: skip
    times = [time_ns for time_ns, _ in equity]
    for row in reader.query(
        "SELECT time_ns, target, gates, outcome FROM decisions WHERE kind = 'policy' "
        "AND outcome IN ('ordered', 'denied') AND gates LIKE '%\"order_quantity\":%' ORDER BY decision"
    ):
        wish_count += 1
        denials = {gate: reason for gate, reason in _gates.decode(row["gates"]).items() if reason}
        place = bisect_right(times, row["time_ns"]) - 1
        if place >= 0 and _costs_too_much(denials):
            missed_entries.append(_Entry(row["time_ns"], _target.decode(row["target"]).side, equity[place][1]))
    if not missed_entries:
        return Entries(wish_count)
    scenes = dict(_scenes(_scene_events(reader), {entry.time_ns for entry in missed_entries}))
    scenes_by_entry = [(entry, scenes[entry.time_ns]) for entry in missed_entries if entry.time_ns in scenes]
    return Entries(wish_count, len(missed_entries), _hint(trading, scenes_by_entry))


def tried_entries(feed: Iterable[Event], trading: Trading, underlying: str) -> Entries:
    """Try a call and a put with the paper cash at bars all over a tape, by its feed events; no policy is asked."""
    tries = missed_count = 0
    dear: list[tuple[_Entry, _Scene]] = []
    for time_ns, scene in _scenes(_with_listings(feed, trading, underlying)):
        if (time_ns - scene.market.session.open_ns) % (EVERY_MIN * MINUTE_NS):
            continue
        for side in (1, -1):
            entry = _Entry(time_ns, side, trading.paper.cash_usd)
            if _quote(trading, entry, scene) is None:
                continue
            tries += 1
            if not _fits(trading, entry, scene):
                missed_count += 1
                dear.append((entry, scene))
    return Entries(tries, missed_count, _hint(trading, dear[:: len(dear) // HINTED + 1]))


def _with_listings(feed: Iterable[Event], trading: Trading, underlying: str) -> Iterator[Event]:
    """Yield a tape's events with the contracts that the paper broker lists for them."""
    broker = PaperBroker(trading, underlying)
    state = broker.start()
    for event in feed:
        state, news = broker.step(state, event)
        yield event
        yield from news


def tried_words(entries: Entries, cash_usd: Decimal) -> str:
    """Return which part of entries tried on a tape cost too much, and what fits them; "" if none was priced."""
    if not entries.wanted:
        return ""
    tries_text = f"a call and a put each {EVERY_MIN} minutes, by the modelled option market"
    part = f"{entries.unaffordable:,} of {entries.wanted:,} entries ({_part(entries.unaffordable, entries.wanted)})"
    if not entries.unaffordable:
        return f"{cash_usd:,.2f} USD pay for each of {entries.wanted:,} entries on this tape: {tries_text}"
    cure = f": {entries.hint}" if entries.hint else ": no single setting is known to fit them; add capital"
    return f"{cash_usd:,.2f} USD: {part} cost more than one position may: {tries_text}{cure}"


def _part(count: int, of: int) -> str:
    return f"{count / of:.0%}".replace("%", " %")


def _costs_too_much(denials: dict[str, str]) -> bool:
    """Return whether its cost denies an entry, and not a size above an order's limit."""
    quantity = denials.get("order_quantity", "")
    return quantity.startswith("quantity 0") or any(gate in denials for gate in SIZE[1:])


def unaffordable_words(entries: Entries) -> str:
    """Return the remark on entries that cost too much, with the setting that would have fitted."""
    part = _part(entries.unaffordable, entries.wanted)
    hint_text = f"By the modelled option market {entries.hint}." if entries.hint else "No quote tells what would fit."
    return (
        f"{entries.unaffordable:,} of {entries.wanted:,} wanted entries ({part}) cost more than the account may "
        f"spend on one position. {hint_text}"
    )


def _hint(trading: Trading, scenes_by_entry: Sequence[tuple[_Entry, _Scene]]) -> str:
    """Return the single setting with which most entries would have fitted, and how many; "" without a market."""
    if not scenes_by_entry:
        return ""
    days, delta = trading.contracts.min_days, trading.contracts.delta_target
    by_delta = trading.contracts.strike == "delta"
    rules = {
        "contracts": [
            (f"contracts.min_days = {fewer}", replace(trading, contracts=replace(trading.contracts, min_days=fewer)))
            for fewer in range(days - 1, -1, -1)
        ],
        "delta": [
            (
                f'contracts.strike = "delta" with contracts.delta_target = {target:g}',
                replace(trading, contracts=replace(trading.contracts, strike="delta", delta_target=target)),
            )
            for target in DELTAS
            if not by_delta or target < delta
        ],
        "sizing": [
            (
                f"sizing.premium_fraction = {part:g}",
                replace(trading, sizing=replace(trading.sizing, premium_fraction=part)),
            )
            for part in FRACTIONS
            if part > trading.sizing.premium_fraction
        ],
    }
    best: list[tuple[int, str]] = []
    for settings in rules.values():
        fits = [(sum(_fits(rule, *one) for one in scenes_by_entry), name) for name, rule in settings]
        enough = next((fit for fit in fits if fit[0] >= ENOUGH * len(scenes_by_entry)), None)
        if fit := enough or max(fits, default=None, key=lambda fit: fit[0]):
            best.append(fit)
    fits_by_count = sorted((fit for fit in best if fit[0]), key=lambda fit: -fit[0])
    return ", ".join(f"{name} fits {_part(count, len(scenes_by_entry))} of them" for count, name in fits_by_count)


def _fits(trading: Trading, entry: _Entry, scene: _Scene) -> bool:
    """Return whether the account pays for the least size of the contract that these rules choose, at a fair spread."""
    quote = _quote(trading, entry, scene)
    if quote is None:
        return False
    price_bound = entry_bound(quote, trading.risk.price_collar)
    limit = entry_limit(quote, trading.execution.entry_slack, price_bound)
    size = contracts_for(entry.equity, limit, trading.sizing)
    cost = limit * size * OPTION_MULTIPLIER
    narrow = quote.ask - quote.bid <= Decimal(str(trading.risk.spread_max)) * (quote.bid + quote.ask) / 2
    return size > 0 and narrow and cost <= min(trading.risk.premium_max_usd, entry.equity)


def _quote(trading: Trading, entry: _Entry, scene: _Scene) -> Quote | None:
    """Return the option market's quote of the contract that these rules choose; None without one."""
    market, rule = scene.market, trading.contracts
    expiries = market.listed_expiries(rule.min_days, rule.max_days)
    years = market.years(expiries[0], entry.time_ns) if expiries else None
    if not years or not scene.strikes:
        return None
    level = scene.spot
    if rule.strike == "delta":
        level = strike_for_delta(scene.spot, years, market.volatility, entry.side, rule.delta_target)
    strike = Decimal(str(scene.strikes[nearest(scene.strikes, level)]))
    symbol = occ_symbol(scene.underlying, expiries[0], entry.side, strike)
    cents = market.cents(symbol, scene.spot, entry.time_ns, trading.paper)
    if cents is None or min(cents) <= 0:
        return None
    bid, ask = (Decimal(side) / 100 for side in cents)
    middle = (bid + ask) / 2
    return Quote(symbol=symbol, bid=bid, ask=ask, low=middle, high=middle, quoted_ns=entry.time_ns)


def _scene_events(reader: JournalReader) -> Iterator[Event]:
    """Return the journal's events from which scenes are made."""
    return map(_event.decode, reader.payloads("SessionScheduled", "ContractsListed", "BarClosed"))


def _scenes(events: Iterable[Event], times: Collection[int] | None = None) -> Iterator[tuple[int, _Scene]]:
    """Yield (time, market) at each bar with a volatility; only those of `times`, if given."""
    session: SessionScheduled | None = None
    market: SessionMarket | None = None
    strikes: tuple[float, ...] = ()
    for event in events:
        match event:
            case SessionScheduled() as session:
                market = None
            case ContractsListed() as listing if session is not None and listing.volatility is not None:
                market = SessionMarket(
                    session.session, expiries_from(session.session, session.upcoming), listing.volatility, 0
                )
                strikes = tuple(sorted({float(contract.strike) for contract in listing.contracts}))
            case BarClosed() as bar_event if market is not None and (times is None or bar_event.time_ns in times):
                yield bar_event.time_ns, _Scene(market, bar_event.bar.symbol, bar_event.bar.close, strikes)
