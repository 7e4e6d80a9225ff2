"""Blind, stopping, held overnight, and the hours: rules that any event past their time triggers.

Boundaries are the configured minutes; `blind_min` is 5 unless a test says otherwise.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import events as ev
from daemon.core.desks.options import entry_limit
from daemon.core.draft import while_held
from daemon.core.effects import SubmitOrder
from daemon.core.instruments.quotes import price_step
from daemon.core.limits import Broker, Execution, Sizing, Trading
from strategies.kit.contract import Session
from tests.support.core.account import Account, at_broker
from tests.support.core.daily_desk import KEEP, DailyDesk
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import (
    BUY_CALL,
    CALL,
    EXIT,
    HALF_DAY,
    PUT,
    SESSIONS,
    TUESDAY,
    Desk,
    alarms,
    canceling,
    desk,
    of,
    quote,
    sent,
)

CALM = Sizing(max_contracts=1, stop_loss=0.99, take_profit=9.0)
RULES = ("flatten", "hold", "alarm")


def holding(broker: Broker | None = None) -> tuple[Desk, Account]:
    """One call held since minute 1 at a broker that was last compared in minute 1."""
    account = Account()
    d = at_broker(account, trading=Trading(broker=broker or Broker(), sizing=CALM))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 1, "2.00", d.at(1)), account.report(d.at(1)))
    return d, account


def goes_on(d: Desk, account: Account, minute: int, without: str = "") -> None:
    """What a minute brings when nothing is lost: a bar with quotes, quotes after it, a report."""
    if without != "bars":
        d.bar(minute, quotes=() if without == "quotes" else None)
    else:
        d.quotes(minute + 1, quote(CALL))
    if without != "reconciliation":
        d.put(account.report(d.at(minute + 1)))


# --- blind --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["bars", "quotes", "reconciliation"])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_lost_for_five_minutes_with_a_position_open_is_answered_as_configured(rule: str, source: str) -> None:
    brokers = {"flatten": Broker(), "hold": Broker(on_blind="hold"), "alarm": Broker(on_blind="alarm")}
    d, account = holding(brokers[rule])
    for minute in range(1, 5):
        goes_on(d, account, minute, without=source)
    assert alarms(d.tick(5, 59)) == []
    goes_on(d, account, 5, without=source)
    effects = d.tick(6) + d.tick(6, 1)
    name, sales = {"flatten": ("blind", 1), "hold": ("blind_hold", 0), "alarm": ("blind", 0)}[rule]
    assert (alarms(effects), len(of(effects, SubmitOrder))) == ([name], sales)
    assert f"{source} lost for 5 minutes while {CALL} is held" in str(effects)
    assert d.halted() == {"flatten": "blind", "hold": "blind_hold", "alarm": ""}[rule]


def test_all_that_is_lost_is_named_in_one_line() -> None:
    d, _ = holding(Broker(on_blind="alarm", blind_min=2))
    assert alarms(d.tick(2, 59)) == []
    text = str(d.tick(3))
    assert "bars and quotes and reconciliation lost for 2 minutes" in text


def test_nothing_is_lost_while_everything_comes() -> None:
    d, account = holding()
    for minute in range(1, 20):
        goes_on(d, account, minute)
        assert alarms(d.tick(minute + 1, 30)) == []


def halts(d: Desk, minute: int, *, halted: bool = True) -> None:
    d.put(ev.TradingStatusChanged(d.at(minute), "SPY", halted, "Trading Halt LUDP"))


def test_what_its_exchange_halted_is_not_lost_and_has_five_minutes_once_it_trades_again() -> None:
    d, account = holding()
    halts(d, 2)
    for minute in range(2, 30):
        d.put(account.report(d.at(minute, 1)))
        assert alarms(d.tick(minute, 2)) == []
    halts(d, 30, halted=False)
    for minute in range(30, 36):
        d.put(account.report(d.at(minute, 1)))
        assert alarms(d.tick(minute, 30)) == (["blind"] if minute == 35 else [])
    assert d.halted() == "blind"


def test_reports_that_stop_in_a_halt_of_the_exchange_are_lost_all_the_same() -> None:
    d, _ = holding()
    halts(d, 2)
    assert alarms(d.tick(5, 59)) == []
    text = str(d.tick(6))
    assert f"blind: reconciliation lost for 5 minutes while {CALL} is held" in text.replace("', detail='", ": ")


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_sold_for_blindness_while_another_connection_has_the_account_s_order_news(rule: str) -> None:
    """It may be this desk on another host, which trades what this one holds by a copy of its journal."""
    d, _ = holding(msgspec.convert({"on_blind": rule}, Broker))
    d.put(ev.BrokerLost(d.at(2), "trade stream: HTTP 429 on the upgrade", taken=True))
    assert not of([*d.tick(6, 1), *d.tick(20)], SubmitOrder)
    assert d.halted() == ("" if rule == "alarm" else "blind_hold")
    assert d.state.book.positions


def test_what_is_blind_once_no_other_connection_has_its_order_news_is_left() -> None:
    d, account = holding()
    d.put(ev.BrokerLost(d.at(2), "trade stream: HTTP 429 on the upgrade", taken=True))
    d.tick(6, 1)
    assert d.halted() == "blind_hold"
    goes_on(d, account, 7)  # it listens, and a report came
    d.put(ev.BrokerLost(d.at(8), "trade stream: OSError: reset"))
    d.tick(12, 59)
    assert d.halted() == "blind_hold"
    d.tick(13, 1)
    assert "blind" in [halt.reason for halt in d.state.risk.halts]


def market_report(account: Account, at_ns: int, *, is_open: bool = False) -> ev.BrokerReported:
    report = account.report(at_ns)
    return msgspec.structs.replace(report, market_open=is_open, next_open_ns=TUESDAY.open_ns)


def test_a_market_that_the_broker_has_closed_is_not_lost_and_has_five_minutes_once_it_opens() -> None:
    d, account = holding()
    for minute in range(2, 30):
        d.put(market_report(account, d.at(minute, 1)))
        assert alarms(d.tick(minute, 2)) == []
    for minute in range(30, 36):
        d.put(market_report(account, d.at(minute, 1), is_open=True))
        assert alarms(d.tick(minute, 30)) == (["blind"] if minute == 35 else [])
    assert d.halted() == "blind"


def test_a_closed_market_is_not_lost_by_the_rarest_reports_that_the_settings_allow() -> None:
    d, account = holding()
    for second in range(120, 3600, 10):
        if second % 150 == 0:  # two of them fit into `blind_min`
            d.put(market_report(account, d.at(0, second)))
        assert alarms(d.tick(0, second + 1)) == []


def test_reports_that_stop_while_the_market_is_closed_are_lost_all_the_same() -> None:
    d, account = holding()
    d.put(market_report(account, d.at(4)))
    assert alarms(d.tick(8, 59)) == []
    assert "blind" in str(d.tick(9))


@pytest.mark.parametrize("bar_start", [2, 3])
def test_a_bar_that_began_after_a_halt_ends_it_and_none_that_began_before(bar_start: int) -> None:
    d, account = holding()
    d.bar(1)
    d.put(ev.TradingStatusChanged(d.at(2, 30), "SPY", True, "Trading Halt LUDP"))
    for start in range(2, bar_start + 1):
        d.bar(start)
    halted = bar_start == 2
    assert (d.state.session.trading_halt("SPY") is not None) == halted
    for minute in range(bar_start + 1, bar_start + 7):
        d.put(account.report(d.at(minute, 31)))
        d.tick(minute, 32)
    assert d.halted() == ("" if halted else "blind")


@pytest.mark.parametrize("ends", ["night", "start"])
def test_a_halt_of_the_exchange_is_not_known_after_a_night_nor_after_a_start(ends: str) -> None:
    d, _ = holding()
    halts(d, 2)
    assert d.state.session.trading_halt("SPY") is not None
    if ends == "night":
        d.put(ev.SessionScheduled(d.at(400), TUESDAY, SESSIONS[2:]))
    else:
        d.put(ev.RunStarted(d.at(3), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    assert d.state.session.trading_halt("SPY") is None


def test_a_desk_without_a_position_is_blind_to_nothing() -> None:
    d = at_broker(Account())
    d.bar(0)
    assert "blind" not in alarms(d.tick(60))


def test_one_holding_is_held_and_several_are() -> None:
    assert while_held(["SPY"]) == "while SPY is held"
    assert while_held(["A", "B", "C", "D", "E", "F"]) == "while A, B, C, D, E and 1 more are held"


def test_a_position_that_was_never_quoted_is_blind_five_minutes_after_the_open() -> None:
    d, account = holding()
    d.begin(TUESDAY, "2024-07-03")
    d.state = msgspec.structs.replace(d.state, quotes={})
    d.put(account.report(d.at(-1)))
    for minute in range(4):
        goes_on(d, account, minute, without="quotes")
    assert alarms(d.tick(4, 59)) == []
    goes_on(d, account, 4, without="quotes")
    assert alarms(d.tick(5)) == ["blind"]
    assert f"quotes lost for 5 minutes while {CALL} is held" in str(d.state.risk.halt)


@pytest.mark.parametrize("rule", RULES)
def test_a_daily_desk_without_quotes_says_so_each_session_and_sells_nothing(rule: str) -> None:
    account = Account()
    rules = {"flatten": Broker(), "hold": Broker(on_blind="hold"), "alarm": Broker(on_blind="alarm")}
    d = with_shares(account, Trading(broker=rules[rule]), AAA=40, BBB=50)
    by_minute: list[list[str]] = []
    for minute in range(1, 12):
        effects = d.put(account.report(d.at(minute))) + d.tick(minute, 30)
        assert of(effects, SubmitOrder) == []
        by_minute.append(alarms(effects))
    assert [minute for minute, names in enumerate(by_minute, 1) if names] == [5]  # five minutes after the open
    assert by_minute[4] == {"flatten": ["blind"], "hold": ["blind_hold"], "alarm": ["blind"]}[rule]
    d.put(ev.SessionEnded(TUESDAY.close_ns, TUESDAY.date))
    d.begin(HALF_DAY)
    if rule != "hold":
        assert [alarms(d.tick(minute)) for minute in (-5, 0, 4, 5, 6)][3] == ["blind"]


def test_a_daily_desk_that_is_quoted_again_in_time_is_not_blind() -> None:
    account = Account()
    d = with_shares(account, None, AAA=40, BBB=50)
    for minute in range(0, 20, 4):
        d.quotes(minute, AAA="100", BBB="100")
        d.put(account.report(d.at(minute + 1)))
        assert alarms(d.tick(minute + 3)) == []


@pytest.mark.parametrize(("unseen", "blind"), [({"AAA": 9}, False), ({"AAA": 11}, True)])
def test_what_is_not_quoted_blinds_a_daily_desk_once_it_could_hide_a_limit(unseen: dict[str, int], blind: bool) -> None:
    account = Account()
    d = with_shares(account, None, **unseen, BBB=50)  # the daily loss may be 10 % of 10,000 USD: 10 shares of 100
    for minute in range(8):
        d.quotes(minute, BBB="100")
        d.put(account.report(d.at(minute)))
        d.tick(minute, 30)
    assert ("blind" in alarms(d.effects)) == blind


def buys_five_more(broker: Broker | None = None) -> tuple[DailyDesk, Account]:
    """A daily desk of 40 AAA and 50 BBB whose basket of Tuesday is 5 CCC."""
    account = Account()
    d = with_shares(account, Trading(broker=broker or Broker()), AAA=40, BBB=50)
    d.due()
    d.answer(KEEP, KEEP, 5)
    return d, account


def minute_of(d: DailyDesk, account: Account, minute: int, *quoted: str) -> list[SubmitOrder]:
    """A minute with a report and with quotes of these symbols; returns the orders that were sent."""
    effects = d.put(account.report(d.at(minute)))
    if quoted:
        effects += d.quotes(minute, **dict.fromkeys(quoted, "100"))
    return of(effects + d.tick(minute, 30), SubmitOrder)


@pytest.mark.parametrize("between", ["nothing", "a restart", "a pause and a resume"])
def test_a_daily_desk_buys_nothing_while_it_is_blind_and_goes_on_by_itself(between: str) -> None:
    d, account = buys_five_more()
    for minute in range(9):
        assert minute_of(d, account, minute, *(("CCC",) if minute >= 5 else ())) == []
    assert alarms(d.effects).count("blind") == 1
    if between == "a restart":
        d.put(ev.RunStarted(d.at(9), "live", "desk-1", "shelf", "e1", "c", "sip", d.state.trading))
    elif between == "a pause and a resume":
        d.put(ev.PauseRequested(d.at(9), "to look", "ann"), ev.ResumeRequested(d.at(9, 1), "looked", "ann"))
        d.due()
    for minute in range(10, 19):  # longer than the grace of a start
        assert minute_of(d, account, minute, "CCC") == []
    assert alarms(d.effects).count("blind") == 1
    if between == "a pause and a resume":
        return  # the pause ended the basket's works
    [buy] = minute_of(d, account, 19, "AAA", "BBB", "CCC")
    assert (buy.symbol, buy.side, buy.quantity) == ("CCC", 1, 5)


def test_a_daily_desk_that_is_blind_still_leaves_when_a_person_says_so() -> None:
    d, account = buys_five_more()
    for minute in range(7):
        minute_of(d, account, minute)
    d.put(account.report(d.at(7)))
    sales = of(d.put(ev.FlattenRequested(d.at(7, 1), "out", "ann")) + d.tick(7, 2), SubmitOrder)
    assert {(order.symbol, order.side, order.quantity) for order in sales} == {("AAA", -1, 40), ("BBB", -1, 50)}


def test_quotes_once_a_minute_are_enough_for_a_daily_desk_whatever_the_minutes_of_blindness() -> None:
    account = Account()
    d = with_shares(account, Trading(broker=Broker(blind_min=1, on_blind="hold")), AAA=40, BBB=50)
    for n in range(30):  # a request a minute after the last one's answer
        d.quotes(n * 62 / 60, AAA="100", BBB="100")
        d.put(account.report(d.at(n * 62 / 60)))
        assert "blind_hold" not in alarms(d.tick((n * 62 + 61) / 60))


def test_changing_symbols_without_quotes_are_one_alarm_a_session() -> None:
    account = Account()
    d = with_shares(account, None, AAA=40, BBB=50)
    for minute in range(40):
        minute_of(d, account, minute, "AAA" if minute // 10 % 2 else "BBB")
    assert alarms(d.effects).count("blind") == 1


def test_before_the_open_after_the_close_and_in_a_replay_nobody_is_blind() -> None:
    d, _ = holding()
    assert "blind" not in alarms(d.tick(390))
    d.begin(TUESDAY, "2024-07-03")
    assert alarms(d.tick(-1)) == []
    d.put(ev.SessionEnded(d.at(1), "2024-07-02"))
    assert alarms(d.tick(30)) == []
    replay = desk()
    replay.holds()
    assert alarms(replay.tick(60)) == []


def test_a_start_has_five_minutes_to_find_bars_quotes_and_broker_before_it_counts_as_blind() -> None:
    d, _ = holding()
    d.put(ev.RunStarted(d.at(60), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    assert [alarms(d.tick(60, 1)), alarms(d.tick(64, 59))] == [[], []]
    assert alarms(d.tick(65)) == ["unreconciled", "blind"]


def test_a_broker_that_makes_no_reports_is_not_missed() -> None:
    d = desk(mode="dry_run")
    d.holds()
    for minute in range(1, 10):
        d.bar(minute)
    assert alarms(d.tick(10)) == []


def test_a_desk_that_holds_on_blindly_still_leaves_at_the_daily_loss() -> None:
    d, _ = holding(Broker(on_blind="hold"))
    d.tick(6)
    assert d.halted() == "blind_hold"
    dear = msgspec.structs.replace(d.state.book, session_base=Decimal(11_200))
    d.state = msgspec.structs.replace(d.state, book=dear)
    effects = d.quotes(6, quote(CALL, "0.50", "0.50"), second=1)  # 10,000 of 11,200: more than a tenth
    effects += d.tick(6, 7)  # the quote leaps from what was paid: another one was waited for
    assert (d.halted(), sent(effects).side) == ("daily_loss", -1)


# --- stopping -----------------------------------------------------------------------------------------------------


def test_a_stop_that_keeps_cancels_entries_takes_no_new_risk_and_ends_with_the_next_start() -> None:
    d = desk(mode="live")
    order = d.buys()
    assert canceling(d.put(ev.StopRequested(d.at(1), "maintenance", flatten=False))) == [order]
    d.canceled(order)
    d.bar(1)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["stopping"]
    d.put(ev.RunStarted(d.at(3), "replay", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    d.bar(3)
    assert sent(d.answer(BUY_CALL)).side == 1


@pytest.mark.parametrize(("flatten", "quantity"), [(True, 9), (False, 0)])
def test_a_stop_leaves_positions_only_where_that_is_asked_for(flatten: bool, quantity: int) -> None:
    d = desk()
    d.holds()
    orders = of(d.put(ev.StopRequested(d.at(1), "maintenance", flatten)), SubmitOrder)
    assert sum(order.quantity for order in orders) == quantity
    assert all((order.side, d.order(order.client_order_id).reason) == (-1, "stop") for order in orders)


def test_an_entry_that_fills_after_the_stop_is_left_too() -> None:
    d = desk()
    order = d.buys()
    assert canceling(d.put(ev.StopRequested(d.at(1), "maintenance", flatten=True))) == [order]
    d.fill(order, 2)
    d.canceled(order)
    assert [o.quantity for o in d.orders().values() if o.side < 0] == [2]


def test_exits_go_out_while_the_daemon_is_being_stopped() -> None:
    d = desk()
    d.holds()
    d.put(ev.StopRequested(d.at(1), "maintenance", flatten=False))
    d.bar(1)
    assert sent(d.answer(EXIT)).side == -1


# --- overnight ----------------------------------------------------------------------------------------------------


def test_what_was_held_overnight_is_left_at_the_next_open_and_not_before() -> None:
    d, _ = holding()
    d.put(ev.SessionEnded(d.at(390), d.session.date))
    d.begin(TUESDAY, "2024-07-03")
    assert of(d.tick(-1), SubmitOrder) == []
    assert of(d.tick(0, -1), SubmitOrder) == []
    assert of(d.tick(0), SubmitOrder) == []  # a first quote may still come
    order = sent(d.tick(0, 5))
    assert (order.side, d.order(order.client_order_id).reason) == (-1, "held_overnight")


def test_what_was_bought_in_this_session_is_not_held_overnight() -> None:
    d, _ = holding()
    assert of(d.tick(2), SubmitOrder) == []


# --- the hours ----------------------------------------------------------------------------------------------------


Happenings = list[tuple[str, int]]  # what, and after how many minutes


def moments() -> st.SearchStrategy[Happenings]:
    kinds = st.sampled_from(["tick", "bar", "buy", "exit", "stop", "flatten", "missing", "ended", "drop", "fill"])
    return st.lists(st.tuples(kinds, st.integers(-30, 60)), max_size=40)


@given(moments(), st.sampled_from(SESSIONS[:3]))
def test_no_order_is_ever_sent_outside_of_the_regular_hours(
    happenings: list[tuple[str, int]], session: Session
) -> None:
    d = Desk(Trading(execution=Execution(entry_reprice_s=600, entry_deadline_s=900)), mode="live").fund()
    d.begin(session)
    minute = -10
    for kind, forward in happenings:
        minute += max(forward, 0)
        before = len(of(d.effects, SubmitOrder))
        happen(d, kind, minute)
        inside = d.session.open_ns <= d.state.now_ns < d.session.close_ns and not d.state.session.ended
        assert inside or len(of(d.effects, SubmitOrder)) == before
        for order in of(d.effects, SubmitOrder)[before:]:
            assert d.session.open_ns <= d.order(order.client_order_id).submitted_ns < d.session.close_ns


def happen(d: Desk, kind: str, minute: int) -> None:
    """One of the things that may make the desk send something."""
    working = list(d.state.orders)
    match kind:
        case "tick":
            d.tick(minute)
        case "bar":
            d.bar(minute)
        case "buy" | "exit" if d.state.ask is not None:
            d.answer(BUY_CALL if kind == "buy" else EXIT)
        case "stop":
            d.quotes(minute, quote(CALL, "0.10", "0.12"), quote(PUT, "0.10", "0.12"))
        case "flatten":
            d.put(ev.FlattenRequested(d.at(minute), "x", "ann"), ev.ResumeRequested(d.at(minute), "y", "ann"))
        case "missing" if working:
            d.put(ev.OrderUnknown(d.at(minute), working[0]), ev.OrderMissing(d.at(minute), working[0]))
        case "ended":
            d.put(ev.SessionEnded(d.at(minute), d.session.date))
        case "fill" if working:
            d.fill(working[0], d.order(working[0]).quantity)
        case _:
            d.tick(minute, 30)


# --- the price grid -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbol", "price", "step"),
    [
        ("SPY240702C00500000", "1.00", "0.01"), ("SPY240702C00500000", "9.00", "0.01"),
        ("QQQ240702C00500000", "9.00", "0.01"), ("IWM240702P00200000", "9.00", "0.01"),
        ("AAPL240702C00200000", "2.99", "0.05"), ("AAPL240702C00200000", "3.00", "0.10"), ("SPY", "500.00", "0.01"),
    ],
)  # fmt: skip
def test_orders_are_priced_on_the_step_of_their_class(symbol: str, price: str, step: str) -> None:
    assert price_step(symbol, Decimal(price)) == Decimal(step)


@pytest.mark.parametrize(
    ("ask", "slack", "limit"),
    [("2.80", 0.05, "2.90"), ("2.88", 0.05, "3.00"), ("3.05", 0.05, "3.20"), ("0.07", 0.0, "0.05")],
)
def test_an_entry_in_another_root_is_rounded_down_to_its_step(ask: str, slack: float, limit: str) -> None:
    price = entry_limit(quote("AAPL240702C00200000", "1.00", ask), slack, None)
    assert price == Decimal(limit)


def test_a_half_day_s_last_moment_is_its_own_close() -> None:
    for second, sales in ((-1, 1), (0, 0)):
        d = Desk().fund().begin(HALF_DAY)
        d.holds(minute=170)
        assert len(of(d.put(ev.FlattenRequested(d.at(210, second), "going home", "ann")), SubmitOrder)) == sales
