"""The live market of a desk that decides at each bar: emits sessions, bars, quotes and contracts, without holes.

Each session's bars follow its `SessionScheduled`, each `BarClosed` is followed at once by the `QuotesReceived` that
closes it, and a symbol's hole is filled over REST before its later bars go on. Market rules follow the daemon's clock,
network timeouts real seconds. It decides nothing about trading: the step judges the age of quotes and bars.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from statistics import median
from typing import Any, NamedTuple, Protocol

from msgspec.structs import replace

from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.live_bars import Minutes, StockBars, Timing
from daemon.brokers.alpaca.market.quote_stream import LiveQuotes, ReadQuotes, StreamRecorder, TakeMessage
from daemon.brokers.alpaca.market.socket import Endpoint, MarketSocket, State
from daemon.brokers.alpaca.rest.client import RestError
from daemon.brokers.api import EventLogger, Known
from daemon.brokers.sessions import open_session, sessions_before
from daemon.core.events import Contract, ContractsListed, Event, HaltRequested, Quote, SessionEnded, SessionScheduled
from daemon.core.instruments.option_market import parse_occ
from daemon.core.limits import Contracts
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from strategies.kit.contract import Session, Spec
from strategies.kit.units import SECOND_NS

LISTED_SPAN = Decimal("0.06")  # of the spot, on each side: range of listed strikes
MONEY_SPAN = Decimal("0.02")  # of the spot, on each side: range for the implied volatility
DIGITS_MOST = 12  # of an open interest
SHARES = 100  # of an ordinary contract; others are adjusted


class ContractReads(Protocol):
    """Listed contracts, all pages. Dates are `YYYY-MM-DD`, both ends included. Raises RestError."""

    async def option_contracts(
        self, underlying: str, expiry_from: str, expiry_to: str, strike_from: Decimal, strike_to: Decimal
    ) -> list[dict[str, Any]]: ...


class ChainReads(Protocol):
    """Snapshots by OCC symbol, all pages. Raises RestError."""

    async def option_chain(
        self,
        underlying: str,
        expiry_from: str,
        expiry_to: str,
        strike_from: Decimal,
        strike_to: Decimal,
        feed: str,
    ) -> dict[str, dict[str, Any]]: ...


class ChainReader:
    """Reads the chain of one underlying by the trading rules."""

    def __init__(
        self,
        contracts: ContractReads,
        market: ChainReads,
        underlying: str,
        rule: Contracts,
        feed: str,
        log: EventLogger,
    ) -> None:
        self._contracts = contracts
        self._market = market
        self._underlying = underlying
        self._rule = rule
        self._feed = feed
        self._log = log

    async def listed(
        self, scheduled: SessionScheduled, spot: float, now_ns: Callable[[], int]
    ) -> ContractsListed | None:
        """Return the contracts for a session around `spot` (USD); None without any. Raises RestError.

        `now_ns` is called when all is read: that is the event's time.
        """
        days = (scheduled.session, *scheduled.upcoming)[self._rule.min_days : self._rule.max_days + 1]
        expiries = [session.date for session in days]
        if not expiries or not math.isfinite(spot) or spot <= 0:
            return None
        low, high = strikes_around(spot, LISTED_SPAN)
        raw = await self._contracts.option_contracts(self._underlying, expiries[0], expiries[-1], low, high)
        contracts, odd = read_contracts(raw, self._underlying, expiries)
        if odd:
            self._log("contracts_left_out", underlying=self._underlying, count=len(odd), first=odd[:5])
        expiry = nearest_expiry(contracts)
        if expiry is None:
            return None
        volatility = await self._volatility(expiry, spot)
        return ContractsListed(now_ns(), scheduled.session.date, contracts, volatility)

    async def _volatility(self, expiry: str, spot: float) -> float | None:
        low, high = strikes_around(spot, MONEY_SPAN)
        try:
            snapshots = await self._market.option_chain(self._underlying, expiry, expiry, low, high, self._feed)
        except RestError as error:
            self._log("volatility_unknown", underlying=self._underlying, expiry=expiry, problem=str(error))
            return None
        volatility = implied_volatility(snapshots)
        if volatility is None:
            problem = f"none of {len(snapshots)} snapshots has one"
            self._log("volatility_unknown", underlying=self._underlying, expiry=expiry, problem=problem)
        return volatility


def strikes_around(spot: float, span: Decimal) -> tuple[Decimal, Decimal]:
    """Return whole dollars that hold `span` of the spot on each side."""
    middle = Decimal(repr(spot))
    low = (middle * (1 - span)).to_integral_value(ROUND_FLOOR)
    return low, (middle * (1 + span)).to_integral_value(ROUND_CEILING)


def read_contracts(
    raw: Iterable[object], underlying: str, expiries: Collection[str]
) -> tuple[tuple[Contract, ...], list[str]]:
    """Return the ordinary, tradable contracts by expiry, strike, right; and the names of those left out."""
    good: dict[str, Contract] = {}
    odd: list[str] = []
    for item in raw:
        contract = _contract(item, underlying)
        if contract is None:
            odd.append(str(item.get("symbol")) if isinstance(item, Mapping) else type(item).__name__)
        elif contract.expiry in expiries:
            good[contract.symbol] = contract
    ordered = sorted(good.values(), key=lambda c: (c.expiry, c.strike, -c.right))
    return tuple(ordered), odd


def _contract(item: object, underlying: str) -> Contract | None:
    if not isinstance(item, Mapping):
        return None
    symbol = item.get("symbol")
    occ = parse_occ(symbol) if isinstance(symbol, str) else None
    if occ is None or occ.root != underlying or not isinstance(symbol, str):
        return None
    if item.get("tradable") is not True or item.get("status", "active") != "active":
        return None
    if str(item.get("size", SHARES)) != str(SHARES) or item.get("underlying_symbol", underlying) != underlying:
        return None
    interest = str(item.get("open_interest"))
    count = int(interest) if interest.isdecimal() and len(interest) <= DIGITS_MOST else 0
    return Contract(symbol, occ.expiry, occ.right, occ.strike, count)


def nearest_expiry(contracts: Iterable[Contract]) -> str | None:
    """Return the first expiry that has a strike with both rights."""
    seen: dict[tuple[str, Decimal], set[int]] = {}
    for contract in contracts:
        seen.setdefault((contract.expiry, contract.strike), set()).add(contract.right)
    return min((expiry for (expiry, _), rights in seen.items() if len(rights) > 1), default=None)


def implied_volatility(snapshots: Mapping[str, Any]) -> float | None:
    """Return the median of sane implied volatilities (annualised); None without any."""
    values = [item.get("impliedVolatility") for item in snapshots.values() if isinstance(item, Mapping)]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 10]
    return median(numbers) if numbers else None


__all__ = ["LiveFeed", "Options", "Timing"]

CLOSE_GRACE_S = 10  # after the close: the last bar comes about a second after its minute
MOST_SESSIONS_BACK = 10  # how far back missing bars are requested


class Options(NamedTuple):
    """What a desk of options needs beyond its underlying's bars: the chain, and the stream of the contracts' quotes."""

    chain: ChainReader
    stream: Endpoint
    recorder: StreamRecorder | None = None


class LiveFeed:
    """Streams and history of one desk: events go to `put`, problems to `log`.

    With `options` it quotes contracts of the one symbol; without, the shares of all symbols, on the stream of their
    bars. `read_quotes` is the REST side of the same quotes. Call `catch_up` first, then run `run` together with
    `schedule` and `end` for each session.
    """

    def __init__(
        self,
        clock: Clock,
        calendar: SessionCalendar,
        spec: Spec,
        put: Callable[[Event], None],
        log: EventLogger,
        *,
        history: BarHistory,
        read_quotes: ReadQuotes,
        stock: Endpoint,
        options: Options | None = None,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.close_grace_s = CLOSE_GRACE_S
        self._clock = clock
        self._calendar = calendar
        self._symbols = spec.symbols
        self._history_bars = spec.history_bars
        self._put = put
        self._log = log
        self._options = options
        self._recorder = None if options is None else options.recorder
        self._timing = timing or Timing()
        self._rng = rng or random.SystemRandom()
        self._scheduled: SessionScheduled | None = None
        self._bars = StockBars(
            clock,
            calendar,
            spec.symbols,
            put,
            log,
            history=history,
            endpoint=stock,
            timing=self._timing,
            rng=self._rng,
            announce=self._announce,
            take_quotes=self._closing,
            width_ns=spec.bar_interval_s * SECOND_NS,
        )
        self._quotes = LiveQuotes(
            self._quote_socket,
            read_quotes,
            put,
            log,
            clock=clock,
            in_session=self._in_session,
            conflate_ns=self._timing.conflate_ns,
            silence_ns=self._timing.silence_ns,
            breath_s=self._timing.breath_s,
            shares=spec.symbols if options is None else (),
            recorder=self._recorder,
        )
        if self._recorder is not None:
            self._recorder.attach(self._quotes.socket, lambda: self._bars.newest)

    def _quote_socket(self, take: TakeMessage) -> MarketSocket:
        """Return the socket of the quotes: of shares that of the bars, of contracts one of their own."""
        if self._options is None:
            return self._bars.stream.quoted_to(take)
        return MarketSocket(self._options.stream, on_message=take, on_state=self._on_state, log=self._log)

    def _on_state(self, state: State) -> None:
        if self._recorder is not None:
            self._recorder.on_state(state)

    def _closing(self, symbol: str) -> tuple[Quote, ...]:
        return self._quotes.closing(symbol)

    def _in_session(self) -> bool:
        return self._bars.in_session

    # --- sessions -------------------------------------------------------------------------------------------------

    async def catch_up(self, known: Known, *, exposed: bool = False) -> Session:
        """Emit what the recovered state lacks, then the running session so far, or the next one's schedule.

        Returns the last scheduled session; if it is over by then, the caller ends it. REST is retried until it answers.
        If the desk is `exposed`, only until the open, or for `repair_s` within a session, because positions can be left
        only in a running session: it begins without the missing bars, and a halt keeps new risk off incomplete
        features. Raises CalendarError when the calendar is too short.
        """
        until_s = asyncio.get_running_loop().time() + self._catch_up_s() if exposed else None
        while True:
            now_ns = self._clock.now_ns()
            known = await self._catch_up_past(known, now_ns, until_s)
            if open_session(known, self._calendar, self._clock.now_ns()) is None and not sessions_before(
                known, self._calendar, self._clock.now_ns()
            ):
                break  # else a session ended meanwhile
        running = self._calendar.at(now_ns)
        scheduled = self._announce(running or self._calendar.next_after(now_ns))
        if running is not None:
            self._bars.put_past(await self._bars.fetched(running, until_s), known)
        if self._options is not None and not self._bars.spot:  # the state has all bars; the chain needs the last price
            past = sessions_before(Known("", True, 0), self._calendar, now_ns)
            if past:
                self._bars.learn_spot(await self._bars.fetched(past[0], until_s))
        if self._bars.abandoned:
            detail = f"no bars of {', '.join(self._bars.abandoned)} could be had at the start"
            self._put(HaltRequested(self._clock.now_ns(), "history_missing", detail, "feed"))
        return scheduled.session

    def _catch_up_s(self) -> float:
        """Return real seconds to wait for past bars while exposed: until the open, at least `repair_s`."""
        now_ns = self._clock.now_ns()
        running = self._calendar.at(now_ns) is not None
        until_open_s = 0.0 if running else self._clock.real_s(self._calendar.next_after(now_ns).open_ns - now_ns)
        return max(until_open_s, self._timing.repair_s)

    async def _catch_up_past(self, known: Known, now_ns: int, until_s: float | None) -> Known:
        """Finish the state's open session, then the latest ones that a warm strategy needs, oldest first."""
        unfinished = open_session(known, self._calendar, now_ns)
        missed = sessions_before(known, self._calendar, now_ns)
        needed: list[tuple[Session, Minutes]] = []
        count = 0
        for session in missed[:MOST_SESSIONS_BACK]:
            if count >= self._history_bars or self._bars.abandoned:
                break
            bars = await self._bars.fetched(session, until_s)
            needed.append((session, bars))
            count += self._bars.count(bars)
        else:
            if not known.session_date and count < self._history_bars:
                self._log("history_short", symbol=", ".join(self._symbols), bars=count, expected=self._history_bars)
        if unfinished is not None:
            needed.append((unfinished, await self._bars.fetched(unfinished, until_s)))
        for session, bars in reversed(needed):
            self._announce(session)
            known = self._bars.put_past(bars, known)
            self._put(SessionEnded(self._clock.now_ns(), session.date))
        newest = missed[0] if missed else unfinished
        return known if newest is None else replace(known, session_date=newest.date, ended=True)

    async def schedule(self, session: Session) -> None:
        """Emit the session's schedule once, and its contracts as soon as they are listed."""
        scheduled = self._announce(session)
        if self._options is None:
            return
        tries = 0
        while self._clock.now_ns() < session.close_ns and self._scheduled is scheduled:
            try:
                listed = await self._options.chain.listed(scheduled, self._bars.spot, self._clock.now_ns)
                problem = "no contract of the configured expiries" if self._bars.spot else "no bar so far, so no price"
            except RestError as error:
                listed, problem = None, str(error)
            if listed is not None and self._scheduled is scheduled:
                self._put(listed)
                self._quotes.note_listed(listed.contracts)
                if self._recorder is not None:
                    self._recorder.listed(listed.contracts)
                return
            wait_s = self._timing.retry_s(tries, self._rng.random())
            tries += 1
            self._log("chain_unlisted", date=session.date, problem=problem, wait_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)

    async def decide(self, session: Session) -> None:
        """Do nothing: this desk decides at each bar."""

    async def end(self, session: Session) -> None:
        """Emit the session's end, after its last bar if available."""
        await self._bars.finish(session)
        self._put(SessionEnded(self._clock.now_ns(), session.date))
        if self._recorder is not None:
            self._recorder.end(session)
        dropped = {f"quote_{reason}": count for reason, count in self._quotes.book.counts.items()}
        self._log("feed_counts", date=session.date, counts=dict(self._bars.counts) | dropped)

    def _announce(self, session: Session) -> SessionScheduled:
        """Emit `SessionScheduled` once for each session and begin its sequence of bars."""
        if self._scheduled is not None and self._scheduled.session == session:
            return self._scheduled
        self._scheduled = SessionScheduled(self._clock.now_ns(), *self._calendar.around(session.date))
        self._bars.begin(session)
        self._quotes.note_listed(())
        if self._recorder is not None:
            self._recorder.begin(session)
        self._put(self._scheduled)
        return self._scheduled

    # --- quotes ---------------------------------------------------------------------------------------------------

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Stream quotes of these option contracts and their neighbours, beside the attended ones and the shares."""
        self._quotes.watch(symbols)

    def attend(self, symbols: frozenset[str]) -> None:
        """Emit quotes of these held or worked symbols between bars too, at most once a second of the clock."""
        self._quotes.attend(symbols)

    # --- the run --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stream until cancelled; then close each socket with a close frame."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._bars.run(), name="bars")
            if self._options is not None:
                tasks.create_task(self._run_option_stream(), name="option stream")
            tasks.create_task(self._quotes.run(), name="quotes")
            if self._recorder is not None:
                tasks.create_task(self._recorder.run(), name="recorder")

    async def _run_option_stream(self) -> None:
        await asyncio.sleep(self._timing.stagger_s)  # simultaneous connects would be refused with 429
        await self._quotes.socket.run()
