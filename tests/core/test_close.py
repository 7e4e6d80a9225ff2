"""`close SYMBOL [QUANTITY]`: one position leaves by a person's word, and the policy leaves it alone for the session."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from daemon.core.effects import CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.events import (
    AcceptBrokerRequested,
    CloseRequested,
    HaltRequested,
    OrderRejected,
    ResumeRequested,
    SessionEnded,
)
from daemon.core.limits import Basket, Protection, Trading
from strategies.kit.quantity import Quantity, exact
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import KEEP, SYMBOLS, DailyDesk, decided, orders, tuesday
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import BUY_CALL, CALL, HALF_DAY, TUESDAY, Desk, alarms, desk, of

AT_100 = dict.fromkeys(SYMBOLS, "100")
NO_AUCTION = Trading(basket=Basket(auction=False))
IN_FRACTIONS = Trading(basket=Basket(auction=False, fractions="on"))


def close(d: DailyDesk | Desk, symbol: str, at_ns: int, quantity: Quantity = 0) -> list[object]:
    return list(d.put(CloseRequested(at_ns, symbol, quantity, "enough", "ann")))


def test_all_of_a_position_is_sold_and_nothing_else() -> None:
    d = tuesday(NO_AUCTION, AAA=10, BBB=5)
    close(d, "AAA", d.at(1))
    d.quotes(1, **AT_100)
    assert [order[:2] for order in orders(d.effects)[-1:]] == [("AAA", -10)]
    assert d.state.risk.halt is None


def test_a_part_is_sold_and_never_more_than_is_held() -> None:
    for quantity, sale_quantity in ((exact("2.5"), exact("2.5")), (99, 10)):
        d = tuesday(IN_FRACTIONS, AAA=10)
        close(d, "AAA", d.at(1), quantity)
        d.quotes(1, **AT_100)
        assert [order.quantity for order in of(d.effects, SubmitOrder)][-1] == sale_quantity


@pytest.mark.parametrize(("trading", "refused"), [(NO_AUCTION, ()), (IN_FRACTIONS, ("AAA",))])
def test_a_fraction_of_what_trades_whole_is_refused_and_a_whole_part_leaves(
    trading: Trading, refused: tuple[str, ...]
) -> None:
    d = tuesday(trading, AAA=10)
    d.state = replace(d.state, basket=replace(d.state.basket, indivisible=refused))
    (alarm,) = close(d, "AAA", d.at(1), exact("2.5"))
    assert isinstance(alarm, RaiseAlarm)
    cure = "quantity is 2.5, and AAA trades whole here: name a whole number, or none for all"
    assert (alarm.name, alarm.detail) == ("command_refused", f"close AAA (by ann): {cure}")
    assert d.state.works == {}
    close(d, "AAA", d.at(1), 2)
    d.quotes(1, **AT_100)
    assert of(d.effects, SubmitOrder)[-1].quantity == 2


def test_a_part_of_a_share_that_the_broker_sells_in_no_way_stays_under_the_stop_and_a_person_is_told() -> None:
    rules = Trading(basket=IN_FRACTIONS.basket, protection=Protection(rest_at_broker=True, disaster_stop=0.2))
    d = with_shares(account := Account(), rules, AAA=10)
    close(d, "AAA", d.at(0), exact("2.5"))
    sales: list[tuple[str, bool]] = []
    for second in range(0, 480, 10):
        d.quotes(second / 60, **AT_100)
        d.put(account.report(d.at(0, second + 1)))
        submits = {order.client_order_id: order for order in of(d.effects, SubmitOrder)}
        for name, order in list(d.state.orders.items()):
            if name not in account.orders:
                account.take(submits[name], d.state.now_ns)
            elif not order.cancel_asked_ns:
                continue
            if order.cancel_asked_ns:
                account.end(name)
            if order.stop_price is not UNSET:
                continue
            sales.append((str(order.quantity), order.closing))
            if order.quantity % 1:
                account.end(name, "rejected")
                d.put(OrderRejected(d.state.now_ns, name, 'asset "AAA" is not fractionable'))
            else:
                d.put(account.fill(name, order.quantity, "100", d.state.now_ns))
    assert sales == [("2.5", False), ("2", False), ("0.5", True)]
    details = [alarm.detail for alarm in of(d.effects, RaiseAlarm) if alarm.name == "exit_stuck"]
    remainder = "0.5 AAA stay with the 7.5 that are kept: the broker takes no order of so little"
    assert details[1:] == [f"{remainder}; rltraderctl close AAA sells all of them"]
    stops = [order.quantity for order in d.state.orders.values() if order.stop_price is not UNSET]
    assert (d.state.works, d.held, stops) == ({}, {"AAA": 8}, [8])


def test_the_policy_does_not_buy_it_back_this_session_and_may_in_the_next() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    close(d, "AAA", d.at(-20))
    decided(d, 10, 5, KEEP)
    changes = orders(d.quotes(0, **AT_100))
    assert ("AAA", -10, None) in changes
    name = next(
        order.client_order_id for order in of(d.effects, SubmitOrder) if order.symbol == "AAA" and order.side < 0
    )
    d.fill(name, 10, "100")
    later = orders(d.quotes(1, **AT_100))
    buys = [order for order in (*changes, *later) if order[1] > 0]
    assert {symbol for symbol, _, _ in buys} == {"BBB"}
    d.put(SessionEnded(d.session.close_ns, d.session.date))
    assert d.held.get("AAA") is None


def sold_then_bought(d: DailyDesk, *goals: float) -> list[SubmitOrder]:
    """The purchases of a session that sells the ten shares of AAA first."""
    decided(d, *goals)
    d.quotes(0, **AT_100)
    sale = next(order for order in of(d.effects, SubmitOrder) if order.symbol == "AAA" and order.side < 0)
    d.fill(sale.client_order_id, 10, "100")
    d.quotes(1, **AT_100)
    return [order for order in of(d.effects, SubmitOrder)[1:] if order.side > 0]


def test_what_is_closed_over_night_is_not_bought_back_in_the_session_that_sells_it() -> None:
    d = DailyDesk(NO_AUCTION).fund().holds(AAA=10)
    close(d, "AAA", d.session.close_ns + 1)
    d.begin(TUESDAY)
    buys = sold_then_bought(d, 10, 5, KEEP)
    assert {order.symbol for order in buys} == {"BBB"}
    d.fill(buys[-1].client_order_id, 5, "100")
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(HALF_DAY)
    decided(d, 10, KEEP, KEEP)
    assert [order[:2] for order in orders(d.quotes(0, **AT_100))] == [("AAA", 10)]


def test_what_is_closed_at_a_start_days_later_is_not_bought_back_in_the_session_of_that_start() -> None:
    d = tuesday(NO_AUCTION, AAA=10)  # the daemon was killed within this session, whose end no event says
    close(d, "AAA", HALF_DAY.open_ns - 1)
    d.begin(HALF_DAY)
    assert d.state.risk.closed_by_hand == {"AAA": HALF_DAY.date}
    missed = DailyDesk(NO_AUCTION).fund().holds(AAA=10)
    close(missed, "AAA", HALF_DAY.open_ns - 1)
    missed.begin(TUESDAY)  # as a feed announces a session that no daemon saw
    missed.put(SessionEnded(missed.state.now_ns, TUESDAY.date))
    missed.begin(HALF_DAY)
    assert missed.state.risk.closed_by_hand == {"AAA": HALF_DAY.date}


def test_what_is_closed_and_not_sold_that_day_is_not_bought_back_in_the_session_that_sells_it() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    close(d, "AAA", d.state.now_ns)  # of a desk that was killed within this session: its journal's time
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(HALF_DAY)
    assert {order.symbol for order in sold_then_bought(d, 15, 5, KEEP)} == {"BBB"}


def test_a_close_of_what_leaves_already_says_that_it_does_nothing() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    close(d, "AAA", d.at(-20), 5)
    assert alarms(d.effects) == []
    (alarm,) = d.put(CloseRequested(d.at(-19), "AAA", 3, "enough", "bob"))
    assert isinstance(alarm, RaiseAlarm)
    assert (alarm.name, "5 of 10 AAA leave already" in alarm.detail) == ("command_refused", True)
    close(d, "AAA", d.at(-18), 7)
    d.quotes(0, **AT_100)
    assert orders(d.effects)[-1][:2] == ("AAA", -7)
    assert len(of(d.effects, RaiseAlarm)) == 1


def test_an_underlying_names_the_one_contract_that_is_held_of_it() -> None:
    d = desk()
    d.holds()
    close(d, "SPY", d.state.now_ns)
    sale = of(d.effects, SubmitOrder)[-1]
    assert (sale.symbol, sale.side, sale.quantity) == (CALL, -1, d.held[CALL])
    assert alarms(d.effects) == []


def test_what_is_not_held_is_refused_by_what_is() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    close(d, "BBB", d.at(1))
    assert "command_refused" in alarms(d.effects)
    assert "BBB" not in d.state.works


def test_shares_that_are_owed_are_not_bought_back_and_the_command_says_so() -> None:
    d = with_shares(account := Account(), NO_AUCTION, AAA=10)
    account.positions["AAA"] = (-5, Decimal(100))
    d.put(AcceptBrokerRequested(d.at(1), "as it is", "ann"), account.report(d.at(2)))
    assert d.held == {"AAA": -5}
    close(d, "AAA", d.at(3))
    (refusal,) = [alarm for alarm in of(d.effects, RaiseAlarm) if alarm.name == "command_refused"]
    assert "buy them at the broker" in refusal.detail
    assert d.state.works == {}


def test_a_contract_leaves_and_no_other_of_its_underlying_comes_that_day() -> None:
    d = desk()
    d.holds()
    close(d, CALL, d.state.now_ns)
    sale = of(d.effects, SubmitOrder)[-1]
    assert (sale.symbol, sale.side, sale.quantity) == (CALL, -1, d.held[CALL])
    d.fill(sale.client_order_id, sale.quantity, "2.00")
    before = len(of(d.effects, SubmitOrder))
    for minute in range(30, 40):
        d.bar(minute)
        if d.state.ask is not None:
            d.answer(BUY_CALL)
    assert len(of(d.effects, SubmitOrder)) == before
    assert d.state.stats.denials["closed_by_hand"] > 0


def test_a_part_of_a_contract_is_refused_and_all_of_it_leaves() -> None:
    d = desk()
    d.holds()
    count = d.held[CALL]
    (alarm,) = d.put(CloseRequested(d.state.now_ns, CALL, exact("0.5"), "enough", "ann"))
    assert isinstance(alarm, RaiseAlarm)
    assert (alarm.name, "contracts are whole" in alarm.detail, d.state.works) == ("command_refused", True, {})
    close(d, CALL, d.state.now_ns, exact(f"{count}.5"))
    assert of(d.effects, SubmitOrder)[-1].quantity == count


def test_the_stop_that_covers_it_is_taken_away_first() -> None:
    rules = Protection(rest_at_broker=True, disaster_stop=0.2)
    d = with_shares(account := Account(), Trading(basket=Basket(auction=False), protection=rules), AAA=10)
    (stop,) = d.state.orders.values()
    assert stop.stop_price == Decimal(80)
    d.quotes(1, **AT_100)
    d.put(CloseRequested(d.at(2), "AAA", 0, "enough", "ann"))
    assert of(d.effects, CancelOrder)[-1].client_order_id == stop.client_order_id
    assert account.positions["AAA"][0] == 10
    assert d.session == TUESDAY


@pytest.mark.parametrize(
    ("quantity", "lines", "after", "sold"),
    [
        (0, [("SPLIT", "AAA", -50), ("SPLIT", "AAA", 100)], {"AAA": 100, "BBB": 40}, ("AAA", -100)),
        (0, [("SPLIT", "AAA", 50)], {"AAA": 100, "BBB": 40}, ("AAA", -100)),
        (20, [("SPLIT", "AAA", 50)], {"AAA": 100, "BBB": 40}, ("AAA", -40)),
        (20, [("SPLIT", "AAA", -45)], {"AAA": 5, "BBB": 40}, ("AAA", -2)),
        (0, [("NC", "AAA", -50), ("NC", "NEW", 50)], {"NEW": 50, "BBB": 40}, ("NEW", -50)),
        (20, [("MA", "AAA", -50), ("MA", "BBB", 50)], {"BBB": 90}, ("BBB", -20)),
    ],
)
def test_what_is_closed_over_night_leaves_over_a_split_a_new_name_and_a_merger(
    quantity: int, lines: list[tuple[str, str, int]], after: dict[str, int], sold: tuple[str, int]
) -> None:
    """50 AAA and 40 BBB are held; 20 of 50 AAA are 40 of 100, 2 of 5, and 20 of the BBB that they became."""
    d = with_shares(account := Account(), NO_AUCTION, AAA=50, BBB=40)
    close(d, "AAA", d.at(-25), quantity)
    account.positions = {symbol: (count, Decimal(100)) for symbol, count in after.items()}
    for kind, symbol, count in lines:
        account.book(line(kind, symbol, count))
    d.put(account.report(d.at(-19)))
    changes = orders(d.quotes(0.1, BBB="100") + d.tick(1))
    assert (d.held, changes) == (after, [(*sold, None)])


def test_a_part_that_a_merger_pays_out_leaves_the_rest_to_the_close() -> None:
    d = with_shares(account := Account(), NO_AUCTION, AAA=50, BBB=40)
    close(d, "AAA", d.at(-25))
    account.positions = {"AAA": (30, Decimal(100)), "BBB": (60, Decimal(100))}
    for symbol, count in (("AAA", -20), ("BBB", 20)):
        account.book(line("VOF", symbol, count))
    d.put(account.report(d.at(-19)))
    changes = orders(d.quotes(0.1, **dict.fromkeys(account.positions, "100")) + d.tick(1))
    assert (d.held, changes) == ({"AAA": 30, "BBB": 60}, [("AAA", -30, None)])


@pytest.mark.parametrize(("quantity", "there", "sale_quantity"), [(0, 50, 50), (20, 50, 20), (0, 45, 45), (20, 60, 20)])
def test_what_was_closed_over_night_is_sold_after_the_broker_s_word_too(
    quantity: int, there: int, sale_quantity: int
) -> None:
    """It sells what was asked for, and no more than is there: what somebody bought meanwhile stays."""
    d = with_shares(account := Account(), NO_AUCTION, AAA=50, BBB=40)
    close(d, "AAA", d.at(-25), quantity)
    account.positions["AAA"] = (there, Decimal(100))
    d.put(AcceptBrokerRequested(d.at(-20), "as it is", "ann"), account.report(d.at(-19)))
    d.put(ResumeRequested(d.at(-18), "as it is", "ann"))
    changes = orders(d.quotes(0.1, BBB="100") + d.tick(1))
    assert (d.held["AAA"], changes) == (there, [("AAA", -sale_quantity, None)])


def halted(d: DailyDesk) -> bool:
    return d.state.risk.halt is not None


def test_a_phone_s_halt_hides_no_later_one_that_waits_for_the_broker_s_word() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    d.put(HaltRequested(d.at(1), "operator", "enough", "signed/handset"))
    d.put(HaltRequested(d.at(2), "fill_mismatch", "the broker's total is another", "test"))
    d.put(ResumeRequested(d.at(3), "go on", "signed/handset", scope="phone"))
    assert halted(d)
    assert alarms(d.effects)[-1] == "resume_refused"
    d.put(ResumeRequested(d.at(4), "the book is right", "ann"))
    assert not halted(d)
    d.put(HaltRequested(d.at(5), "operator", "enough", "signed/handset"))
    d.put(ResumeRequested(d.at(6), "go on", "signed/handset", scope="phone"))
    assert not halted(d)


@pytest.mark.parametrize(("goal", "left"), [(6, 5), (2, 2), (0, 0)])
def test_a_basket_decided_while_a_person_s_close_waits_makes_no_second_exit(goal: int, left: int) -> None:
    """Of 10 shares a person lets 5 leave before the open, then the basket wants `goal`."""
    d = tuesday(NO_AUCTION, AAA=10)
    close(d, "AAA", d.at(-25), 5)
    decided(d, goal, *(KEEP for _ in SYMBOLS[1:]))
    exits = [work for work in d.state.works.values() if work.symbol == "AAA"]
    assert [(work.purpose, work.reason, work.goal) for work in exits] == [("exit", "closed_by_hand", left)]
