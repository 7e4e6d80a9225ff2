"""A split told over the night, on a desk that decides at each bar: the bars that it keeps are of the new shares."""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.limits import Trading
from daemon.core.state import Identity, Position
from daemon.core.step import Core
from strategies.kit.contract import Bar
from tests.support.core.desk import MINUTE, MONDAY, SESSIONS
from tests.support.core.share_bars import SPEC, ShareBars, ShareBarState

TUESDAY = SESSIONS[1]


class Keeper(ShareBars):
    """Has a rule for splits."""

    spec = replace(SPEC, history_bars=3)

    def split(self, state: ShareBarState, symbol: str, ratio: float, from_ns: int) -> ShareBarState:
        assert (symbol, from_ns) == ("SPY", TUESDAY.open_ns)
        return replace(state, rows=tuple((close / ratio, flag) for close, flag in state.rows))


class Bare(ShareBars):
    """Has bars from before the session, and no such rule."""

    spec = replace(SPEC, history_bars=3)


class Desk:
    """A desk that saw three bars of Monday."""

    def __init__(self, strategy: ShareBars) -> None:
        self.core = Core(strategy)
        self.state = self.core.start(Identity("live", "d", "share_bars", "e1", "sip"), Trading())
        self.put(ev.SessionScheduled(MONDAY.open_ns - MINUTE, MONDAY, SESSIONS[1:]))
        for number in range(3):
            self.bar(MONDAY.open_ns + number * MINUTE, 400.0 + number)
        self.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
        self.put(ev.SessionScheduled(TUESDAY.open_ns - MINUTE, TUESDAY, SESSIONS[2:]))

    def put(self, event: ev.Event) -> None:
        self.state = self.core.step(self.state, event).state

    def bar(self, start_ns: int, price: float) -> None:
        end_ns, mid = start_ns + MINUTE, Decimal(str(price))
        self.put(ev.BarClosed(end_ns, Bar("SPY", start_ns, price, price, price, price, 1000.0)))
        self.put(ev.QuotesReceived(end_ns, start_ns, (ev.Quote("SPY", mid, mid, mid, mid, end_ns),)))

    def split(self, ratio: float = 4.0, symbol: str = "SPY") -> None:
        self.put(ev.SharesSplit(TUESDAY.open_ns - MINUTE, symbol, ratio, TUESDAY.open_ns))

    def closes(self) -> list[float]:
        return [close for close, _ in self.state.strategy.rows]


def test_kept_bars_the_last_price_and_the_mark_follow_a_split_once() -> None:
    desk = Desk(Keeper())
    desk.split()
    for _ in range(3):
        assert desk.closes() == [100.0, 100.25, 100.5]
        assert (desk.state.session.spot, desk.state.marks["SPY"]) == (100.5, Decimal("100.5"))
        desk.split()  # a restart, and the session's job
    assert desk.state.risk.halt is None


def test_a_bar_at_the_new_price_is_no_leap() -> None:
    desk_with_split, desk_without = Desk(Keeper()), Desk(Keeper())
    desk_with_split.split()
    for desk in (desk_with_split, desk_without):
        bar = Bar("SPY", TUESDAY.open_ns, 101.0, 101.0, 101.0, 101.0, 1000.0)
        desk.put(ev.BarClosed(TUESDAY.open_ns + MINUTE, bar))
    assert (desk_with_split.state.doubted, desk_without.state.doubted is None) == (None, False)


def test_one_told_after_bars_of_the_new_shares_leaves_their_price() -> None:
    desk = Desk(Keeper())
    desk.bar(TUESDAY.open_ns, 101.0)
    desk.split()
    assert desk.state.session.spot == 101.0


def test_what_is_held_has_its_mark_until_the_ledger_tells() -> None:
    desk = Desk(Keeper())
    position = Position("SPY", 10, 10, Decimal(4000), 1, MONDAY.open_ns, "")
    desk.state = replace(desk.state, book=replace(desk.state.book, positions={"SPY": position}))
    desk.split()
    assert desk.state.marks["SPY"] == Decimal(402)
    assert desk.state.book.positions["SPY"] == position
    assert desk.closes() == [100.0, 100.25, 100.5]


def test_a_strategy_without_a_rule_halts_once_and_takes_the_split_over_when_it_has_one() -> None:
    desk = Desk(Bare())
    desk.split()
    halt = desk.state.risk.halt
    assert halt is not None
    assert (halt.reason, halt.detail) == (
        "history_missing",
        'SPY split 4 for 1, share_bars has no "split": its bars are of the old shares',
    )
    desk.state = replace(desk.state, risk=replace(desk.state.risk, halt=None))  # a person resumed
    desk.split()
    assert desk.state.risk.halt is None
    desk.core = Core(Keeper())
    desk.split()
    assert desk.closes() == [100.0, 100.25, 100.5]
    assert desk.state.session.spot == 100.5  # which followed at the first telling


def test_a_strategy_that_keeps_no_bars_goes_on() -> None:
    desk = Desk(ShareBars())
    desk.split()
    assert desk.state.risk.halt is None


def test_another_share_is_no_matter_of_this_desk() -> None:
    desk = Desk(Keeper())
    before = desk.state.strategy
    desk.split(symbol="QQQ")
    assert desk.state.strategy is before


def test_one_that_is_off_is_told_again() -> None:
    desk = Desk(Keeper())
    desk.state = replace(desk.state, risk=replace(desk.state.risk, strategy_off=True))
    desk.split()
    assert desk.closes() == [400.0, 401.0, 402.0]
    desk.state = replace(desk.state, risk=replace(desk.state.risk, strategy_off=False))
    desk.split()
    assert desk.closes() == [100.0, 100.25, 100.5]
