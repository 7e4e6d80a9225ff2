"""How soon what was bought has its stop at the broker, and what the stop costs an exit: part of `make bench`.

The real step, link and REST queues in one process with the loopback broker, as in `bench.live.exits`; the commits to
the journal are left out. A round buys ten shares and leaves them again. Measured: from the broker's fill to its
accepting the stop; from the step that decides the exit to the moment at which the sale's bytes arrive, in turns with a
stop in the way and without one. Reference: a bare read of the positions, a round trip. With `--round-trip-ms` each
answer comes that much later, as over a network. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from decimal import Decimal
from typing import Any

from aiohttp import web
from msgspec import UNSET, structs

from bench.bench_latency import percentiles
from bench.live.exits import until
from daemon.alpaca_api.trading_rest import TradingRest
from daemon.brokers.alpaca.trading.link import Timeouts
from daemon.core import events as ev
from daemon.core.effects import AskBroker, CancelOrder, SubmitOrder
from daemon.core.limits import Execution, Protection, Risk, Trading
from daemon.core.state import Identity
from daemon.core.step import Core
from simulator.trading.account import Account
from simulator.trading.matching import Matching
from simulator.trading.orders import AlpacaOrder
from tests.support.alpaca.linked import Linked, linked
from tests.support.alpaca.rest_desk import SESSIONS
from tests.support.core.share_bars import ShareBars

SHARES = 10
GAP_S = 4.5  # real: longer than the pause that a report makes at least, and within 200 requests a minute
QUOTED_S = 0.2
RULES = Trading(
    protection=Protection(rest_at_broker=True),
    risk=Risk(orders_per_day=1_000_000, orders_per_minute=1_000, drawdown_max=1.0, daily_loss_max=0.99),
    execution=Execution(flat_before_close_min=1),
)


class Moments:
    """When the broker filled a buy, accepted a stop, and had the bytes of a sale, by client order id or by kind."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def install(self) -> None:
        submit, fill = TradingRest.submit, Matching.fill

        async def submitting(trading: TradingRest[Any], request: web.Request) -> web.Response:
            body = json.loads(await request.text())
            kind = "stop" if body.get("stop_price") else body["side"]
            self.at[f"{kind} arrived"] = time.monotonic()
            answer = await submit(trading, request)
            self.at[f"{kind} accepted"] = time.monotonic()
            return answer

        def filling(it: Matching, account: Account, order: AlpacaOrder, *arguments: Any) -> None:
            self.at[f"{order.side} filled"] = time.monotonic()
            fill(it, account, order, *arguments)

        TradingRest.submit = submitting  # type: ignore[method-assign,assignment]
        Matching.fill = filling  # type: ignore[method-assign,assignment]

    async def of(self, moment: str, since: float) -> float:
        await until(lambda: self.at.get(moment, 0.0) >= since)
        return self.at[moment]


class Desk:
    """The step with its state: it takes what the link puts in, and gives its effects to the link."""

    def __init__(self, it: Linked) -> None:
        self.it, self.core, self.taken = it, Core(ShareBars()), 0
        self.buying = False  # an order without a work is cancelled by the next event
        self.state = self.core.start(Identity("live", "d", "scalper", "e1", "sip"), RULES)

    async def put(self, event: ev.Event) -> None:
        step = self.core.step(self.state, event)
        self.state = step.state
        self.it.link.stepped(event, step.effects)
        await self.it.link.release([e for e in step.effects if isinstance(e, SubmitOrder | CancelOrder)])

    async def run(self) -> None:
        """Take all events as they come, and a quote now and then."""
        quoted = 0.0
        while True:
            while self.taken < len(self.it.events) and not self.buying:
                self.taken += 1
                await self.put(self.it.events[self.taken - 1])
            if time.monotonic() - quoted > QUOTED_S and not self.buying:
                quoted, now, price = time.monotonic(), self.it.desk.clock.now_ns(), Decimal("545.00")
                quote = ev.Quote("SPY", price - Decimal("0.01"), price + Decimal("0.01"), price, price, now)
                await self.put(ev.QuotesReceived(now, 0, (quote,)))
                await self.put(ev.ClockTicked(now))
            await asyncio.sleep(0.0002)

    async def buys(self, number: int, moments: Moments) -> float:
        """Buy the shares by the `number`-th order. Returns when the broker filled it."""
        self.buying, began = True, time.monotonic()
        name = f"e1-scalper-{1000 * number + 1}-0-0"
        now = self.it.desk.clock.now_ns()
        order = SubmitOrder(name, "SPY", 1, SHARES, Decimal("546.00"), "", now + 60_000_000_000)
        self.state = self.core.step(self.state, ev.ClockTicked(now), (order,)).state
        await self.it.link.release([order])
        filled = await moments.of("buy filled", began)
        self.buying = False
        return filled


async def measure(rounds: int, round_trip_s: float) -> dict[str, Any]:
    """All figures of so many rounds of each kind."""
    moments = Moments()
    moments.install()
    covered: list[float] = []
    exit_times: dict[str, list[float]] = {"with_a_stop": [], "without_one": []}
    bare: list[float] = []
    chance = random.Random(1)
    async with linked(Timeouts()) as it:
        desk = Desk(it)
        await _begin(desk)
        task = asyncio.create_task(desk.run())
        if round_trip_s:
            it.desk.server.faults.add("http_slow", times=1_000_000, seconds=round_trip_s)
        for number in range(2 * rounds):
            kind = "with_a_stop" if number % 2 == 0 else "without_one"
            protection = RULES.protection if number % 2 == 0 else UNSET
            desk.state = structs.replace(desk.state, trading=_with(protection))
            filled = await desk.buys(number, moments)
            if number % 2 == 0:
                covered.append(await moments.of("stop accepted", filled) - filled)
            await until(lambda: bool(desk.state.book.positions))
            await asyncio.sleep(chance.uniform(0.0, GAP_S))
            exit_times[kind].append(await _left(desk, moments))
            began = time.monotonic()
            await it.desk.reads.positions()
            bare.append(time.monotonic() - began)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return {
        "rounds": rounds,
        "round_trip_ms": round_trip_s * 1e3,
        "fill_to_accepted_stop": percentiles(covered),
        **{f"exit_to_the_sale's_bytes_{kind}": percentiles(took) for kind, took in exit_times.items()},
        "reference_one_read": percentiles(bare),
    }


def _with(protection: Any) -> Trading:
    return Trading(protection=protection, risk=RULES.risk, execution=RULES.execution)


async def _begin(desk: Desk) -> None:
    """Reconcile the flat account."""
    first_tick = ev.ClockTicked(desk.it.desk.clock.now_ns())
    desk.it.link.stepped(first_tick, [AskBroker("the beginning", at_once=True)])
    count = len(desk.it.of(ev.BrokerReported))
    await until(lambda: len(desk.it.of(ev.BrokerReported)) > count)
    now = desk.it.desk.clock.now_ns()
    desk.taken = len(desk.it.events)
    await desk.put(ev.ModelVerified(now, "v1", "d", promoted=True, feed="sip"))
    await desk.put(ev.SessionScheduled(now, SESSIONS[0], tuple(SESSIONS[1:])))
    await desk.put(desk.it.of(ev.BrokerReported)[-1])


async def _left(desk: Desk, moments: Moments) -> float:
    """Decide an exit; seconds until its sale arrives at the broker. Then the desk is flat and may buy again."""
    began = time.monotonic()
    await desk.put(ev.FlattenRequested(desk.it.desk.clock.now_ns(), "bench", "bench"))
    arrived = await moments.of("sell arrived", began)
    await until(lambda: not desk.state.book.positions and not desk.state.orders)
    await desk.put(ev.ResumeRequested(desk.it.desk.clock.now_ns(), "bench", "bench"))
    await asyncio.sleep(GAP_S / 2)
    return arrived - began


def main() -> None:
    """Print the figures without a network's round trip, and with one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--round-trip-ms", type=float, default=30.0)
    options = parser.parse_args()
    figures = [asyncio.run(measure(options.rounds, delay / 1e3)) for delay in (0.0, options.round_trip_ms)]
    sys.stdout.write(json.dumps({"bench": "protection", "resting_stop": figures}) + "\n")


if __name__ == "__main__":
    main()
