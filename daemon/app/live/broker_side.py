"""The broker's side of a live desk: the market feed and, unless it is a dry run, the orders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from daemon.app.live.prepare import Live
from daemon.app.live.ticks import Ticks
from daemon.brokers.api import FeedDesk, Known, LogEvent, Trading, TradingDesk
from daemon.brokers.clock_check import ClockCheck
from daemon.core.effects import WatchContracts
from daemon.core.events import BrokerReported, Event
from daemon.core.state import State
from daemon.core.step import Step
from daemon.engine.intake import Intake
from daemon.host.account_lock import AccountLock
from strategies.kit.contract import Session


class BrokerSide:
    """One connection to the broker. `state()` is the newest state; `initial` is the recovered one."""

    def __init__(
        self,
        live: Live,
        account: AccountLock | None,
        history: Path,
        intake: Intake,
        initial: State[Any],
        state: Callable[[], State[Any]],
        ticks: Ticks,
        notify: LogEvent,
    ) -> None:
        self._intake, self._state, self._ticks = intake, state, ticks
        spec = live.strategy.spec
        self._by_symbol = len(spec.symbols) > 1
        self._connection = live.broker.connect(live.settings, live.credentials, live.clock, intake.put, notify)
        self.clock_check = ClockCheck(
            self._connection.admin.clock,
            live.clock,
            notify,
            self._connection.clock_skew_max_s,
            lambda: state().now_ns,
        )
        self.feed = self._connection.market_feed(FeedDesk(live.strategy, live.calendar, history, state, ticks.probe))
        self.trading: Trading | None = None
        if not live.dry_run:
            put = intake.put if account is None else partial(self._put_claimed, account)
            self.trading = self._connection.trading(
                TradingDesk(initial.identity, lambda: state().broker, put, self.clock_check)
            )
            own = [order for order in initial.orders.values() if order.order_id and order.purpose != "foreign"]
            ended = [order for order in initial.closed.values() if order.order_id]
            closings = {order.client_order_id: order.order_id for order in (*own, *ended) if order.closing}
            self.trading.follow({order.client_order_id: order.order_id for order in own}, closings)

    def _put_claimed(self, account: AccountLock, event: Event) -> None:
        """Put an event of the trading side into the intake; lock the account of a report first."""
        if isinstance(event, BrokerReported):
            account.claim_number(event.account)
        self._intake.put(event)

    async def check_clock(self) -> None:
        """Compare the clocks before the first time stamp; go on without a timely answer."""
        await self.clock_check.at_start(self._connection.start_wait_s)

    def observe(self, event: Event, step: Step) -> None:
        """Pass a step's effects on to feed and orders."""
        for effect in step.effects:
            if isinstance(effect, WatchContracts):
                self.feed.watch(effect.symbols)
        if self.trading is not None:
            self.trading.stepped(event)
            self.trading.ask(step.effects)
        state = step.state
        held = (*state.book.positions, *(order.symbol for order in state.orders.values()))
        self.feed.attend(frozenset(held))

    async def catch_up(self) -> tuple[Session, Session | None]:
        """Add the events that the journal lacks; returns the current or next session, and the journal's last one."""
        if self.trading is not None:  # its report first: the sessions that follow know what the desk holds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._connection.start_wait_s):
                    await self._ticks.until(lambda state: state.broker.reported_ns >= state.broker.started_ns)
        state = self._state()
        session = state.session.session
        known = Known("", ended=False, last_bar_ns=0)
        if session is not None:
            newest = state.basket.newest if self._by_symbol else {}
            known = Known(session.date, state.session.ended, state.session.last_bar_ns, newest)
        if state.watched:
            self.feed.watch(state.watched)
        return await self.feed.catch_up(known, exposed=bool(state.book.positions or state.orders)), session

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()
