"""Machines for tests that step journals."""

from __future__ import annotations

from daemon.core import events as ev
from daemon.core.effects import AskPolicy
from daemon.core.limits import Paper, Risk, Trading
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.state import broker_snapshot
from daemon.core.step import Core, Machine, Step
from strategies.kit.contract import Bar, Session
from tests.support.core.desk import BUY_CALL, EXIT, HOLD, IDENTITY, MINUTE, MONDAY, SESSIONS, Pointer, logits

RULES = Trading(paper=Paper(volatility_sessions=2), risk=Risk(orders_per_minute=50))


HISTORY = tuple(
    Session(f"2024-06-2{day}", MONDAY.open_ns - (9 - day) * 1440 * MINUTE, MONDAY.close_ns - (9 - day) * 1440 * MINUTE)
    for day in (5, 6, 7)
)


def machine(market: bool = True) -> Machine:
    core, broker = Core(Pointer()), PaperBroker(RULES, "SPY")
    state = core.start(IDENTITY, RULES)
    return Machine(core, state, broker, broker.start()) if market else Machine(core, state)


def feed(minutes: int = 12) -> list[ev.Event]:
    """Three closes to know the volatility by, then Monday's first minutes around 500, its end and nothing else."""
    events: list[ev.Event] = [
        ev.ModelVerified(0, "v1", "d", promoted=True, feed="sip"),
        ev.SessionScheduled(MONDAY.open_ns - MINUTE, MONDAY, SESSIONS[1:], HISTORY),
    ]
    for past in HISTORY:
        bar = Bar("SPY", past.open_ns, 500.0, 500.0, 500.0, 500.0, 1.0)
        events.insert(1, ev.BarClosed(past.open_ns + MINUTE, bar))
    events = [events[0], events[-1], *events[1:-1]]
    for minute in range(minutes):
        start, price = MONDAY.open_ns + minute * MINUTE, 500.0 + minute % 3 / 10
        events.append(ev.BarClosed(start + MINUTE, Bar("SPY", start, price, price + 0.1, price - 0.1, price, 9.0)))
    return [*events, ev.SessionEnded(MONDAY.close_ns, MONDAY.date)]


def policy(ask: AskPolicy, now_ns: int) -> ev.PolicyAnswered | ev.PolicyFailed:
    """Buys on the third question, leaves on the eighth, fails on the tenth."""
    if ask.decision == 10:
        return ev.PolicyFailed(now_ns, ask.decision, "no reason")
    action = {3: BUY_CALL, 8: EXIT}.get(ask.decision, HOLD)
    return ev.PolicyAnswered(now_ns, ask.decision, logits(action), b"", "v1")


def run(desk: Machine) -> list[ev.Event]:
    """A whole run; returns every event in the order it was stepped."""
    assert desk.market_state is not None
    seen: list[ev.Event] = []

    def watch(event: ev.Event, _: Step) -> None:
        seen.append(event)

    desk.run([broker_snapshot(desk.market_state, 0), *feed()], policy, watch)
    return seen
