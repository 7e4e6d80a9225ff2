"""What a stop at the broker is worth while the daemon is dead: a position of 10,000 USD on falling tapes of our own.

Bought on Monday at 10:00 at 100.00; from then on nobody watches until Wednesday's close. The simulator alone fills the
stop: it sells at the market once a trade is at or below it. Prints the table of docs/SAFETY.md, and JSON with
`--json`. A figure is what the simulator's rules make of a tape, no forecast of any market.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from simulator.clock import SimClock
from simulator.prices.market import Market
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from simulator.trading.venue import DEFAULT_KEY, DEFAULT_SECRET
from strategies.kit.contract import Bar, Session
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS

OPEN_NS = 1_719_840_600 * SECOND_NS  # Monday, 2024-07-01, 9:30 in New York
MINUTES = 390
SHARES = 100
STOPS = {"no stop": 0, "a stop at 55.00": 55, "a stop at 80.00": 80}
"""Without one; 1.5 times a stop-loss of 30 %; a disaster stop of 20 %."""
SESSIONS = [
    Session(date, OPEN_NS + day * DAY_NS, OPEN_NS + day * DAY_NS + MINUTES * MINUTE_NS)
    for day, date in enumerate(("2024-07-01", "2024-07-02", "2024-07-03"))
]

Path = Callable[[int, int], float]  # (session from 0, minute) -> price in USD


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the position by Wednesday's close, in USD."""

    sold_at: float | None  # a share's price, None where it is still held
    worst: float  # loss at the worst minute
    end: float  # gain or loss in the end


def _slide(day: int, minute: int) -> float:
    return (100.0, 100.0 - 35.0 * minute / (MINUTES - 1), 60.0)[day]


def _flash(day: int, minute: int) -> float:
    return 50.0 if day == 1 and 100 <= minute < 110 else 100.0


TAPES: dict[str, Path] = {
    "slides by 35 % on Tuesday": _slide,
    "opens 25 % lower": lambda day, _: (100.0, 75.0, 60.0)[day],
    "opens 60 % lower": lambda day, _: (100.0, 40.0, 30.0)[day],
    "falls by half for ten minutes": _flash,
    "rises by a tenth": lambda day, _: 100.0 + 5.0 * day,
}


async def played(path: Path, stop: int) -> Outcome:
    """One tape with one stop (0: none)."""
    bars = []
    for day, session in enumerate(SESSIONS):
        for minute in range(MINUTES):
            price = path(day, minute)
            bars.append(Bar("SPY", session.open_ns + minute * MINUTE_NS, price, price, price, price, 1000.0))
    clock = SimClock.starting_now(OPEN_NS + 30 * MINUTE_NS, 1e-9)  # it stands: only jumps move it
    account = Account(DEFAULT_KEY, DEFAULT_SECRET, cash=Decimal(100_000))
    async with AlpacaServer(Market(bars, sessions=SESSIONS), clock, accounts=[account]) as server:
        order = {"symbol": "SPY", "qty": str(SHARES)}
        server.by_hand("place", **order, side="buy", type="market", time_in_force="day")
        await _settled(server)
        start = Decimal(100_000)
        if stop:
            server.by_hand("place", **order, side="sell", type="stop", stop_price=str(stop), time_in_force="gtc")
            await _settled(server)
        worst = end = Decimal(0)
        for day, session in enumerate(SESSIONS):
            for minute in range(31 if day == 0 else 0, MINUTES):
                now = session.open_ns + minute * MINUTE_NS + SECOND_NS
                clock.jump_to(now)
                server.matching.match_points(now)
                shares = account.quantity("SPY")
                end = account.cash + shares * Decimal(str(path(day, minute))) - start
                worst = min(worst, end)
        sold = [trade.price for trade in account.trades if trade.quantity < 0]
    return Outcome(float(sold[0]) if sold else None, float(worst), float(end))


async def _settled(server: AlpacaServer) -> None:
    """Return when the order has reached the venue."""
    for _ in range(200):
        await asyncio.sleep(0.001)
        if all(order.status not in ("pending_new", "accepted") for order in server.account.working.values()):
            return
    raise RuntimeError("an order did not reach the venue")


def main() -> None:
    """Print all tapes by all stops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    wants_json = parser.parse_args().json
    outcomes = {
        tape: {name: asyncio.run(played(path, stop)) for name, stop in STOPS.items()} for tape, path in TAPES.items()
    }
    if wants_json:
        rows = {tape: {name: vars_of(outcome) for name, outcome in row.items()} for tape, row in outcomes.items()}
        sys.stdout.write(json.dumps({"bench": "gaps", "tapes": rows}) + "\n")
        return
    sys.stdout.write(f"| the share | {' | '.join(STOPS)} |\n|---|{'---|' * len(STOPS)}\n")
    for tape, row in outcomes.items():
        sys.stdout.write(f"| {tape} | {' | '.join(map(words, row.values()))} |\n")


def vars_of(outcome: Outcome) -> dict[str, float | None]:
    """Return the fields by name."""
    return {"sold_at": outcome.sold_at, "worst": outcome.worst, "end": outcome.end}


def words(outcome: Outcome) -> str:
    """Return what happened as a table's cell."""
    sold = "" if outcome.sold_at is None else f", sold at {outcome.sold_at:.2f}"
    return f"{outcome.end:+,.0f}{sold}"


if __name__ == "__main__":
    main()
