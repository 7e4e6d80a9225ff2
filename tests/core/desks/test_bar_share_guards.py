"""Guards of a desk that holds shares within a session: those of the scalper's positions, by the class of the spec."""

from __future__ import annotations

from decimal import Decimal

import msgspec
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskPolicy, RaiseAlarm
from daemon.core.limits import Paper, Risk, Sizing, Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import broker_snapshot
from daemon.core.records import DecisionRow
from daemon.core.state import Identity
from daemon.core.step import Core, Machine, Step
from strategies.kit.contract import Answer, Bar, Basket, Leg, Rebalance, View
from tests.support.core.desk import MINUTE, MONDAY, SESSIONS
from tests.support.core.share_bars import LONG, SPEC, ShareBars, ShareBarState

RULES = Trading(
    sizing=Sizing(stop_loss=0.01, take_profit=0.02),
    risk=Risk(no_entry_before_close_min=8, gap_min=400),
    paper=Paper(cash_usd=Decimal(10_000)),
)
MODEL = ev.ModelVerified(0, "v1", "d", promoted=True, feed="sip")
SCHEDULED = ev.SessionScheduled(MONDAY.open_ns - MINUTE, MONDAY, SESSIONS[1:])
LENGTH = (MONDAY.close_ns - MONDAY.open_ns) // MINUTE


class DayBars(ShareBars):
    """The toy, flat overnight."""

    spec = replace(SPEC, holds_overnight=False)


def bar(minute: int, open_: float, low: float = 0.0, high: float = 0.0) -> ev.BarClosed:
    start = MONDAY.open_ns + minute * MINUTE
    candle = Bar("SPY", start, open_, max(high, open_), min(low or open_, open_), open_, 1000.0)
    return ev.BarClosed(start + MINUTE, candle)


def play(
    bars: list[ev.Event],
    rules: Trading = RULES,
    flat_at: tuple[int, ...] = (),
    strategy: type[DayBars] = DayBars,
) -> tuple[Machine, list[ev.OrderFilled], list[DecisionRow], list[str]]:
    """Run the bars under a policy that is long but for some decisions: fills, decisions and alarms."""
    core = Core(strategy())
    market = core.desk.paper(rules, "replay")
    assert isinstance(market, SharePaperBroker)
    desk = Machine(core, core.start(Identity("replay", "d", "share_bars", "e1", "sip"), rules), market, market.start())
    fills: list[ev.OrderFilled] = []
    rows: list[DecisionRow] = []
    alarms: list[str] = []

    def watch(event: ev.Event, step: Step) -> None:
        if isinstance(event, ev.OrderFilled):
            fills.append(event)
        rows.extend(row for row in step.rows if isinstance(row, DecisionRow))
        alarms.extend(effect.name for effect in step.effects if isinstance(effect, RaiseAlarm))

    def answer(ask: AskPolicy, now_ns: int) -> ev.PolicyAnswered:
        wish = (1.0, 0.0) if ask.decision in flat_at else (0.0, 1.0)
        return ev.PolicyAnswered(now_ns, ask.decision, wish, b"", "v1")

    desk.run([broker_snapshot(desk.market_state, 0), MODEL, SCHEDULED, *bars], answer, watch)
    return desk, fills, rows, alarms


def rising(*last: ev.Event) -> list[ev.Event]:
    """Three bars make it warm, it buys at the fourth's open of 500; then `last`."""
    return [*(bar(minute, 500.0) for minute in range(4)), *last]


def test_a_bar_that_touches_the_stop_sells_at_the_next_open() -> None:
    """1 % below the 500 paid is 495: a low of 495 touches it although the bar closes where it opened."""
    desk, fills, rows, _ = play(rising(bar(4, 500.0, low=495.0), bar(5, 499.0), bar(6, 499.0)))
    assert [(fill.side, fill.price) for fill in fills] == [(1, Decimal(500)), (-1, Decimal(499))]
    assert [row.action for row in rows if row.kind == "rule"] == ["stop_loss"]
    assert desk.state.book.positions == {}


def test_a_bar_that_reaches_the_target_sells_at_the_next_open() -> None:
    _, fills, rows, _ = play(rising(bar(4, 500.0, high=510.0), bar(5, 508.0)))
    assert [(fill.side, fill.price) for fill in fills] == [(1, Decimal(500)), (-1, Decimal(508))]
    assert [row.action for row in rows if row.kind == "rule"] == ["take_profit"]


def test_a_price_between_stop_and_target_keeps_it() -> None:
    _, fills, _, _ = play(rising(bar(4, 500.0, low=495.1, high=509.9), bar(5, 500.0)))
    assert [fill.side for fill in fills] == [1]


def test_after_a_loss_nothing_is_bought_until_the_cooldown_is_over() -> None:
    """Sold at 10:36's open at a loss; a loss cools for 300 s: the next buy is asked for in vain until 10:41."""
    bars = rising(bar(4, 500.0, low=495.0), *(bar(minute, 499.0) for minute in range(5, 14)))
    _, fills, rows, _ = play(bars)
    assert [(fill.side, (fill.filled_ns - MONDAY.open_ns) // MINUTE) for fill in fills] == [(1, 3), (-1, 5), (1, 11)]
    denied = [row for row in rows if row.outcome == "denied"]
    assert {gate for row in denied for gate, why in msgspec.json.decode(row.gates or "{}").items() if why} == {
        "cooldown_loss",
        "cooldown_trade",
    }


def test_it_is_flat_before_the_close_and_the_deadline_is_no_alarm() -> None:
    """Flat 5 minutes before the close, sent 2 minutes earlier: at the open of the sixth minute before it."""
    minutes = [*range(LENGTH - 20, LENGTH)]
    desk, fills, rows, alarms = play([*(bar(minute, 500.0) for minute in minutes)])
    assert [(fill.side, LENGTH - (fill.filled_ns - MONDAY.open_ns) // MINUTE) for fill in fills] == [(1, 17), (-1, 7)]
    assert [row.action for row in rows if row.kind == "rule"] == ["flat_before_close"]
    assert desk.state.book.positions == {}
    assert "not_flat" not in alarms


def test_a_pause_keeps_no_sale_of_the_policy_back() -> None:
    pause = ev.PauseRequested(MONDAY.open_ns + 4 * MINUTE + MINUTE // 2, "a test", "me")
    desk, fills, rows, _ = play(rising(pause, bar(4, 500.0), bar(5, 500.0)), flat_at=(3,))
    assert [fill.side for fill in fills] == [1, -1]
    assert [(row.action, row.outcome) for row in rows[:3]] == [
        ("LONG", "ordered"),
        ("LONG", "hold"),
        ("FLAT", "ordered"),
    ]
    assert desk.state.risk.pause is not None


class Legged(DayBars):
    """Where it would hold nothing, it wants the shares of `LEGS`."""

    LEGS: tuple[Leg, ...] = ()

    def decide(self, state: ShareBarState, answer: Answer, view: View) -> tuple[ShareBarState, Rebalance]:
        state, decided = super().decide(state, answer, view)
        return state, decided if decided.name == LONG else replace(decided, basket=Basket(self.LEGS))


class Short(Legged):
    LEGS = (Leg("SPY", -10),)


class Twice(Legged):
    LEGS = (Leg("SPY", 5), Leg("SPY", 20))


class Another(Legged):
    LEGS = (Leg("QQQ", -10), Leg("SPY", 0))


def test_a_goal_below_zero_sells_all_that_is_held_and_shuts_no_exit() -> None:
    _, fills, rows, _ = play(rising(bar(4, 500.0), bar(5, 500.0), bar(6, 500.0)), flat_at=(3, 4), strategy=Short)
    assert [(fill.side, fill.quantity) for fill in fills] == [(1, 10), (-1, 10)]
    assert [row.outcome for row in rows[2:4]] == ["ordered", "denied"]  # nothing is held: it would be sold short


def test_a_symbol_that_is_named_twice_is_neither_sold_nor_bought_and_is_flat_before_the_close() -> None:
    minutes = [*range(LENGTH - 20, LENGTH)]
    _, fills, rows, _ = play([*(bar(minute, 500.0) for minute in minutes)], flat_at=(4, 5, 6), strategy=Twice)
    assert [(fill.side, LENGTH - (fill.filled_ns - MONDAY.open_ns) // MINUTE) for fill in fills] == [(1, 17), (-1, 7)]
    assert {row.outcome for row in rows if row.action == "FLAT"} == {"denied"}


def test_a_leg_of_a_symbol_that_is_not_the_desk_s_orders_nothing_and_keeps_no_sale_back() -> None:
    desk, fills, _, _ = play(rising(bar(4, 500.0), bar(5, 500.0)), flat_at=(3,), strategy=Another)
    assert [(fill.symbol, fill.side) for fill in fills] == [("SPY", 1), ("SPY", -1)]
    assert desk.state.works == {}


def test_losses_in_a_row_pause_it() -> None:
    rules = Trading(
        sizing=RULES.sizing,
        risk=Risk(consecutive_losses_max=1, gap_min=400),
        paper=RULES.paper,
    )
    desk, _, _, alarms = play(rising(bar(4, 500.0, low=495.0), bar(5, 499.0), bar(6, 499.0)), rules)
    assert desk.state.risk.pause is not None
    assert "consecutive_losses" in alarms
