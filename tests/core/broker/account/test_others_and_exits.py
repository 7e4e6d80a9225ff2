"""Others trade in what the desk holds: nothing is sold twice, the desk halts under every setting, and a way out stays.

The account of `tests.support.core.account` is the truth; quantities and money are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, SubmitOrder
from daemon.core.limits import Broker, Risk, Trading
from daemon.operator.status import needs_accepting, status_of, way_out
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.daily_desk import KEEP, SYMBOLS, DailyDesk
from tests.support.core.daily_live import IGNORE as IGNORE_OTHERS
from tests.support.core.daily_live import live, with_shares
from tests.support.core.desk import BUY_CALL, CALL, EXIT, OPEN, PUT, TUESDAY, Desk, alarms, of, quote, sent
from tests.support.core.others import RULES, holding

STOP = quote(CALL, "1.20", "1.24")  # 0.78 a share below the cost of 2.00


def sold_by_hand(d: Desk | DailyDesk, account: Account, symbol: str, quantity: int, price: str) -> list[AnyEffect]:
    """Somebody sells what the desk holds, and the stream tells it."""
    account.by_hand("ann-1", symbol, -1, quantity, d.state.now_ns)
    account.fill("ann-1", quantity, price, d.state.now_ns)
    return d.put(account.found("ann-1", d.state.now_ns))


def leave(d: DailyDesk, minute: float) -> list[SubmitOrder]:
    """What a flatten sends at once."""
    return of(d.put(ev.FlattenRequested(d.at(minute), "x", "ann")), SubmitOrder)


def halted(d: DailyDesk) -> str:
    return d.state.risk.halt.reason if d.state.risk.halt else ""


# --- shares: never sold twice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_shares_that_somebody_sold_are_not_sold_again_before_a_newer_report(rule: str) -> None:
    d = with_shares(account := Account(), Trading(broker=RULES[rule]), AAA=10)
    d.put(account.report(d.at(1)))
    effects = sold_by_hand(d, account, "AAA", 10, "100")
    assert (len(of(effects, AskBroker)), halted(d)) == (1, "foreign_order")
    assert leave(d, 1.1) == []
    assert of(d.put(account.report(d.at(1.2))), SubmitOrder) == []  # it says that nothing is there


def test_shares_of_which_somebody_sold_a_part_leave_as_far_as_the_newer_report_has_them() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.prompt = None
    d.put(account.report(d.at(1)))
    sold_by_hand(d, account, "AAA", 4, "100")
    report = account.report(d.at(1))  # at the moment of the news: it may not know of it
    assert leave(d, 1.1) == []
    assert of(d.put(replace(report, time_ns=d.at(1.15))), SubmitOrder) == []
    (sale,) = of(d.put(account.report(d.at(1.2))), SubmitOrder)
    assert (sale.side, sale.quantity, sale.closing) == (-1, 6, False)


def test_a_sale_of_others_that_only_a_report_tells_which_a_fill_overtook_waits_for_the_next_one() -> None:
    d = with_shares(account := Account(), AAA=40)
    account.by_hand("ann-1", "AAA", -1, 21, d.at(0.9))
    d.put(account.report(d.at(1)))
    (sale,) = leave(d, 1.1)
    assert sale.quantity == 19
    account.take(sale, d.state.now_ns)
    account.fill("ann-1", 21, "100", d.at(1.15))
    overtaken = account.report(d.at(1.2))
    d.put(account.fill(sale.client_order_id, 19, "100", d.at(1.25)))
    effects = d.put(replace(overtaken, time_ns=d.at(1.3))) + d.tick(1.4)
    assert (d.held, of(effects, SubmitOrder)) == ({"AAA": 21}, [])  # the book has 21, and nothing is there
    assert of(d.put(account.report(d.at(1.5))), SubmitOrder) == []


def test_what_others_sold_before_its_purchase_was_told_is_not_sold_again() -> None:
    d = live(account := Account(), IGNORE_OTHERS)
    d.due()
    d.answer(39, KEEP, KEEP)
    (order,) = of(d.quotes(0, AAA="100"), SubmitOrder)
    account.take(order, d.state.now_ns)
    fill = account.fill(order.client_order_id, 39, "100", d.at(0.1))
    sold_by_hand(d, account, "AAA", 27, "100")
    d.put(replace(fill, time_ns=d.at(0.2)))
    assert (d.held, d.state.broker.foreign_held) == ({"AAA": 39}, {"AAA": -27})
    d.put(account.report(d.at(0.3)))
    assert (d.held, d.state.broker.foreign_held, halted(d)) == ({"AAA": 12}, {}, "foreign_order")
    assert [sale.quantity for sale in leave(d, 1)] == [12]
    assert d.state.book.cash == account.cash


def test_while_no_report_came_no_more_is_sold_than_others_left() -> None:
    d = with_shares(Account(), IGNORE_OTHERS, AAA=39)
    d.state = replace(d.state, broker=replace(d.state.broker, foreign_held={"AAA": -27}))
    assert [sale.quantity for sale in leave(d, 1)] == [12]


def test_a_doubt_of_what_is_there_outlives_a_report_that_a_fill_overtook() -> None:
    d = with_shares(account := Account(), AAA=40)
    account.positions["AAA"] = (30, Decimal(100))  # nobody says how ten of them left
    d.put(account.report(d.at(1)))
    assert d.state.broker.doubtful == ("AAA",)
    (sale,) = leave(d, 1.05)
    assert sale.quantity == 30
    account.take(sale, d.state.now_ns)
    overtaken = account.report(d.at(1.1))
    d.put(account.fill(sale.client_order_id, 30, "100", d.at(1.15)))
    effects = d.put(replace(overtaken, time_ns=d.at(1.2))) + d.tick(1.3)
    assert (d.held, of(effects, SubmitOrder)) == ({"AAA": 10}, [])


def test_a_fill_of_an_order_that_nobody_here_knows_lets_its_shares_wait_for_a_report() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    account.by_hand("ann-1", "AAA", -1, 10, d.at(1))
    assert len(of(d.put(account.fill("ann-1", 10, "100", d.at(1.05))), AskBroker)) == 1
    assert leave(d, 1.1) == []
    assert of(d.put(account.report(d.at(1.2))), SubmitOrder) == []


def test_an_exit_of_other_shares_waits_for_nothing() -> None:
    d = with_shares(account := Account(), AAA=10, BBB=5)
    d.put(account.report(d.at(1)))
    sold_by_hand(d, account, "AAA", 10, "100")
    assert [(sale.symbol, sale.quantity) for sale in leave(d, 1.1)] == [("BBB", 5)]


def test_a_missing_exit_of_shares_is_not_sent_again_from_the_book_alone() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    (sale,) = leave(d, 1.1)
    d.put(ev.OrderUnknown(d.at(1.2), sale.client_order_id))
    sold_by_hand(d, account, "AAA", 10, "100")
    assert of(d.put(ev.OrderMissing(d.at(1.3), sale.client_order_id)), SubmitOrder) == []
    d.put(account.report(d.at(1.4)))
    assert of(d.put(ev.OrderMissing(d.at(1.5), sale.client_order_id)), SubmitOrder) == []
    assert d.order(sale.client_order_id).status == "expired"  # given up: the broker has none of them


def test_a_missing_exit_of_shares_that_nobody_touched_is_sent_again_under_its_name() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    (sale,) = leave(d, 1.1)
    d.put(ev.OrderUnknown(d.at(1.2), sale.client_order_id))
    assert of(d.put(ev.OrderMissing(d.at(1.3), sale.client_order_id)), SubmitOrder) == []
    (again,) = of(d.put(ev.OrderMissing(d.at(1.4), sale.client_order_id)), SubmitOrder)
    assert again == sale


@pytest.mark.parametrize("minute", [0.5, 0.99, 1.0, 1.99])
def test_after_a_start_no_share_leaves_before_a_report(minute: float) -> None:
    d = with_shares(Account(), AAA=10)
    d.prompt = None
    d.put(ev.RunStarted(d.at(0), "live", "desk-1", "shelf", "e1", "c", "sip", d.state.trading))
    assert leave(d, minute) == []


def test_a_minute_after_a_start_without_a_report_shares_leave_by_the_broker_s_own_call() -> None:
    d = with_shares(Account(), AAA=10)
    d.prompt = None
    d.put(ev.RunStarted(d.at(0), "live", "desk-1", "shelf", "e1", "c", "sip", d.state.trading))
    assert (leave(d, 0.1), of(d.tick(0, 59), SubmitOrder), of(d.tick(1, 0), SubmitOrder)) == ([], [], [])
    assert [(sale.quantity, sale.closing) for sale in of(d.tick(1, 5), SubmitOrder)] == [(10, True)]


def test_where_no_report_comes_shares_leave_by_the_broker_s_own_call_which_sells_no_more_than_is_there() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.prompt = None
    d.put(account.report(d.at(1)))
    sold_by_hand(d, account, "AAA", 4, "100")
    assert leave(d, 1.1) == []
    assert of(d.tick(1, 10), SubmitOrder) == []
    effects = d.tick(1, 11)  # five seconds after the flatten
    (sale,) = of(effects, SubmitOrder)
    assert (sale.quantity, sale.limit_price, sale.closing) == (10, None, True)
    assert "exit_unconfirmed" in alarms(effects)


def test_a_lost_stream_may_hide_a_sale_so_shares_wait_for_the_report_that_follows() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.prompt = None
    d.put(account.report(d.at(1)), ev.BrokerLost(d.at(1.1), "stream ended"))
    assert leave(d, 1.2) == []
    assert [sale.quantity for sale in of(d.put(account.report(d.at(1.3))), SubmitOrder)] == [10]


def test_a_basket_s_sale_is_never_sent_by_the_broker_s_own_call() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.due()
    d.answer(0, KEEP, KEEP)
    d.put(account.report(d.at(0)), ev.BrokerLost(d.at(0.1), "stream ended"))
    for minute in (1, 2, 3, 4):
        assert of(d.quotes(minute, AAA="100"), SubmitOrder) == []


def test_a_missing_call_to_close_is_followed_by_another_one() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.prompt = None
    d.put(account.report(d.at(1)), ev.BrokerLost(d.at(1.1), "stream ended"))
    leave(d, 3.5)
    (first,) = of(d.tick(3.5, 5), SubmitOrder)
    d.put(ev.OrderUnknown(d.at(3.6), first.client_order_id))
    d.put(ev.OrderMissing(d.at(3.7), first.client_order_id))
    again = of(d.tick(3.7, 5), SubmitOrder)
    assert [(order.quantity, order.closing) for order in again] == [(10, True)]
    assert again[0].client_order_id != first.client_order_id


# --- options: the broker refuses what would go short --------------------------------------------------------------


def test_an_exit_of_options_waits_for_no_report() -> None:
    d = holding(account := Account(), RULES["halt"])
    sold_by_hand(d, account, CALL, 9, "2.00")
    d.bar(1)
    order = sent(d.put(ev.FlattenRequested(d.at(2), "x", "ann")))
    assert (order.quantity, order.intent) == (9, "sell_to_close")


def test_what_lies_beside_is_not_sold_while_an_exit_of_the_desk_s_own_hangs() -> None:
    d = holding(account := Account(), RULES["ignore"])
    account.by_hand("ann-1", CALL, 1, 2, d.at(1, 10))
    account.fill("ann-1", 2, "2.00", d.at(1, 10))
    agreed(d, account, 1, 30)
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.accept(sale)
    d.tick(3, 1)
    d.tick(3, 40)  # its cancel was not answered for half a minute
    report = account.report(d.at(3, 50))
    (position,) = report.positions
    effects = d.put(replace(report, positions=(replace(position, available=Decimal(2)),))) + d.tick(4, 30)
    assert of(effects, SubmitOrder) == []


# --- below zero ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_position_below_zero_that_nobody_here_ordered_halts_at_once_under_its_own_name(rule: str) -> None:
    d = with_shares(account := Account(), Trading(broker=RULES[rule]), AAA=10)
    account.positions["AAA"] = (-5, Decimal(100))
    effects = d.put(account.report(d.at(1)))
    assert (halted(d), alarms(effects), d.state.risk.reconciled) == ("short_position", ["short_position"], False)
    assert "AAA: broker -5, book 10" in str(d.state.risk.halt)


def test_shares_that_an_exercised_put_owes_are_judged_with_all_else() -> None:
    d = at_broker(account := Account())
    account.positions[PUT] = (1, Decimal(2))
    account.cash -= 200
    d.put(ev.AcceptBrokerRequested(d.at(-1), "mine", "ann"), account.report(d.at(-1, 30)))
    account.positions["SPY"] = (-100, Decimal(500))
    d.put(account.report(d.at(1)))
    assert d.halted() == "accept_broker"
    assert "short_position" not in alarms(d.effects)


# --- who else touches it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_an_order_of_somebody_else_in_what_is_held_halts_under_every_setting(rule: str) -> None:
    d = holding(account := Account(), RULES[rule])
    account.by_hand("ann-1", CALL, 1, 1, d.at(1, 10))
    effects = d.put(account.found("ann-1", d.at(1, 10)))
    assert (d.halted(), len(of(effects, AskBroker))) == ("foreign_order", 1)
    d.put(ev.ResumeRequested(d.at(1, 20), "it is mine", "ann"))
    d.put(account.found("ann-1", d.at(1, 21)))
    assert d.halted() == ""  # the same news again
    account.fill("ann-1", 1, "2.00", d.at(1, 22))
    d.put(account.found("ann-1", d.at(1, 22)))
    assert d.halted() == "foreign_order"


@pytest.mark.parametrize("rule", ["adopt", "ignore"])
def test_an_order_of_somebody_else_in_what_the_desk_does_not_touch_halts_nothing(rule: str) -> None:
    d = holding(account := Account(), RULES[rule])
    account.by_hand("ann-1", PUT, 1, 2, d.at(1, 10))
    account.fill("ann-1", 1, "1.50", d.at(1, 11))
    d.put(account.found("ann-1", d.at(1, 11)))
    account.fill("ann-1", 1, "1.50", d.at(1, 12))
    d.put(account.found("ann-1", d.at(1, 12)))
    assert d.halted() == ""
    agreed(d, account, 2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", ["stream", "look-up"])
def test_a_cancel_by_hand_of_an_entry_halts_under_every_setting_and_nothing_is_bought_again(
    rule: str, how: str
) -> None:
    d = at_broker(account := Account(), RULES[rule])
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.accept(name)
    account.end(name)
    d.put(ev.OrderCanceled(d.at(1, 5), name) if how == "stream" else account.found(name, d.at(1, 5)))
    assert (d.halted(), d.state.works) == ("foreign_order", {})
    assert f"order {name} was cancelled" in str(d.state.risk.halt)
    agreed(d, account, 1, 30)
    d.bar(1)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["halted"]


@pytest.mark.parametrize("how", ["stream", "look-up"])
def test_an_entry_that_gives_way_to_a_siblings_exit_behind_a_gateway_halts_nothing(how: str) -> None:
    d = at_broker(account := Account(), RULES["halt"])
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.accept(name)
    account.end(name, "expired")
    news = ev.OrderExpired(d.at(1, 5), name) if how == "stream" else account.found(name, d.at(1, 5))
    again = sent(d.put(news)).client_order_id
    assert again != name
    d.put(ev.OrderRejected(d.at(1, 6), again, "potential wash trade detected"))  # the sibling's exit works
    assert (d.halted(), d.state.works) == ("", {})
    agreed(d, account, 1, 30)
    d.bar(1)
    assert of(d.answer(BUY_CALL), SubmitOrder)


def test_an_exit_that_the_broker_cancels_within_a_session_halts_and_leaves_again() -> None:
    d = holding(account := Account(), RULES["halt"])
    d.bar(1)
    sale = sent(d.answer(EXIT))
    name = account.take(sale, d.state.now_ns)
    d.accept(name)
    account.end(name)
    d.put(ev.OrderCanceled(d.at(2, 5), name))
    assert d.halted() == "foreign_order"
    d.put(account.report(d.at(2, 6)))
    again = [order for order in of(d.effects, SubmitOrder) if order.side < 0 and order.client_order_id != name]
    assert [order.quantity for order in again] == [sale.quantity]


def test_an_order_whose_side_the_broker_does_not_give_is_not_adopted() -> None:
    d = at_broker(account := Account(), RULES["adopt"])
    account.by_hand("ann-1", CALL, 1, 2, d.at(1))
    account.fill("ann-1", 2, "2.00", d.at(1))
    account.orders["ann-1"] = replace(account.orders["ann-1"], side=0)
    d.put(account.found("ann-1", d.at(1, 5)))
    assert (d.halted(), d.held) == ("foreign_order", {})


def test_a_cancel_that_the_desk_asked_for_is_no_news() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.accept(name)
    d.put(ev.PauseRequested(d.at(1, 5), "x", "ann"), ev.OrderCanceled(d.at(1, 6), name))
    assert d.halted() == ""


def test_what_the_close_cancels_was_over() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.accept(name)
    d.put(ev.OrderCanceled(d.session.close_ns, name))
    assert d.halted() == ""


def test_a_sale_that_somebody_took_out_of_the_auction_halts_and_what_the_auction_left_does_not() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.due()
    (sale,) = of(d.answer(0, KEEP, KEEP), SubmitOrder)
    assert sale.auction
    before = d.state
    d.put(ev.OrderCanceled(d.at(-10), sale.client_order_id))
    assert halted(d) == "foreign_order"
    d.state = before
    d.put(ev.OrderCanceled(d.at(0), sale.client_order_id))
    assert halted(d) == ""
    assert account.positions["AAA"] == (10, Decimal(100))


# --- panic, and the way out of it ---------------------------------------------------------------------------------


def panicked(d: Desk | DailyDesk, minute: float) -> list[AnyEffect]:
    return d.put(ev.PanicNoticed(d.at(minute), "rltraderctl panic by ann"))


def test_a_panic_stands_the_desk_down_flat_or_not_and_nothing_leaves_any_more() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    panicked(d, 1.1)
    assert halted(d) == "panic"
    assert leave(d, 1.2) == []
    for minute in range(2, 8):
        assert of(d.put(account.report(d.at(minute))) + d.tick(minute, 30), SubmitOrder) == []


def test_a_panic_cancels_what_works_and_gives_up_what_is_missing() -> None:
    d = holding(account := Account(), RULES["halt"])
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.accept(sale)
    panicked(d, 2.1)
    assert (d.order(sale).status, d.state.works) == ("pending_cancel", {})
    d.put(ev.OrderCanceled(d.at(2, 10), sale))
    assert of(d.put(account.report(d.at(2, 20))) + d.tick(3), SubmitOrder) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_panic_while_flat_ends_the_entry_at_work_and_nothing_is_bought_at_the_next_bar(rule: str) -> None:
    d = at_broker(account := Account(), RULES[rule])
    d.bar(0)
    entry = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.accept(entry)
    effects = panicked(d, 1.1)
    assert [effect.client_order_id for effect in of(effects, CancelOrder)] == [entry]
    account.end(entry)
    after = d.put(ev.OrderCanceled(d.at(1.2), entry), account.report(d.at(1.3))) + d.bar(1)
    assert d.state.ask is not None
    after += d.answer(BUY_CALL) + d.put(account.report(d.at(2.5))) + d.tick(3)
    assert of(after, SubmitOrder) == []
    assert (d.halted(), d.held, list(d.state.stats.denials)) == ("panic", {}, ["halted"])


def test_a_panic_outranks_a_halt_that_leaves_every_position() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(-1)), ev.FlattenRequested(d.at(-0.5), "x", "ann"))
    panicked(d, -0.1)
    assert halted(d) == "panic"
    assert of(d.quotes(1, AAA="100"), SubmitOrder) == []


def test_after_a_panic_a_resume_is_refused_until_the_broker_s_word_was_accepted() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    panicked(d, 1.1)
    sold_by_hand(d, account, "AAA", 10, "99")
    assert "accept-broker" in way_out(d.state)
    assert alarms(d.put(ev.ResumeRequested(d.at(2), "go on", "ann"))) == ["resume_refused"]
    assert halted(d) == "panic"
    first_effects = d.put(ev.AcceptBrokerRequested(d.at(2.1), "panic, settled", "control/ann (uid 1)"))
    assert len(of(first_effects, AskBroker)) == 1
    assert not needs_accepting(status_of(d.state, "paper"))  # it was: what leads on is the resume
    assert "resume" in way_out(d.state)
    effects = d.put(account.report(d.at(2.2)))
    assert ("broker_accepted" in alarms(effects), d.held, d.state.book.cash) == (True, {}, account.cash)
    assert (halted(d), d.state.risk.reconciled) == ("panic", True)
    assert way_out(d.state) == ""  # nothing more to accept: a resume ends it
    d.put(ev.ResumeRequested(d.at(2.3), "settled", "ann"))
    for minute in (3, 4):
        d.put(account.report(d.at(minute)))
    assert (halted(d), d.state.risk.reconciled, d.state.broker.stood_down) == ("", True, False)


def test_once_the_broker_s_word_was_accepted_the_way_out_of_a_difference_is_a_resume_until_it_comes_again() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    account.positions["AAA"] = (7, Decimal(100))  # nobody says how three of them left
    for minute in (5, 6, 7):
        d.put(account.report(d.at(minute)))
    assert (halted(d), "accept-broker" in way_out(d.state)) == ("reconciliation", True)
    d.put(ev.AcceptBrokerRequested(d.at(7.1), "checked", "ann"))
    assert "next report" in way_out(d.state)
    d.put(account.report(d.at(7.2)))
    assert (halted(d), d.held, way_out(d.state)) == ("reconciliation", {"AAA": 7}, "")
    account.positions["AAA"] = (5, Decimal(100))
    for minute in (8, 9, 10):
        d.put(account.report(d.at(minute)))
    assert "accept-broker" in way_out(d.state)


def test_a_word_that_was_accepted_before_a_panic_is_none_about_what_it_leaves() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    d.put(ev.AcceptBrokerRequested(d.at(1.1), "settled", "control/ann (uid 1)"))
    panicked(d, 1.2)
    effects = d.put(account.report(d.at(1.3)))  # in the midst of the panic
    assert ("broker_accepted" in alarms(effects), d.state.broker.stood_down) == (False, True)
    assert alarms(d.put(ev.ResumeRequested(d.at(1.4), "go on", "ann"))) == ["resume_refused"]


# --- accept-broker ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_what_the_broker_holds_is_accepted_and_a_resume_holds(rule: str) -> None:
    d = holding(account := Account(), RULES[rule])
    sold_by_hand(d, account, CALL, 9, "2.40")
    d.put(ev.AcceptBrokerRequested(d.at(2), "closed by hand", "control/ann (uid 1)"))
    d.put(account.report(d.at(2)))  # asked for at that moment: it may be from before
    assert d.state.broker.accept_ns == d.at(2)
    d.put(account.report(d.at(2, 5)))
    assert (d.held, d.state.book.cash, d.halted()) == ({}, Decimal(10360), "foreign_order")
    assert d.state.book.equity == Decimal(10360)
    d.put(ev.ResumeRequested(d.at(3), "settled", "ann"))
    for second in (5, 20, 40):
        agreed(d, account, 3, second)
    assert d.halted() == ""


def test_the_broker_s_word_does_not_forget_the_day() -> None:
    d = holding(account := Account(), RULES["halt"])
    sale = sent(d.confirmed(1, quote(CALL, "0.80", "0.80"), second=20))  # 9 x 1.20 x 100 = 1080 of 10,000
    assert d.halted() == "daily_loss"
    name = account.take(sale, d.state.now_ns)
    account.fill(name, 9, "0.80", d.at(2))
    d.put(account.found(name, d.at(2)))
    d.put(ev.AcceptBrokerRequested(d.at(2, 5), "as it is", "ann"))
    d.put(account.report(d.at(2, 10)))
    assert (d.state.broker.accept_ns, d.held, d.state.book.equity) == (0, {}, Decimal(8920))
    assert (d.state.book.session_start_equity, d.state.book.peak) == (Decimal(10000), Decimal(10000))
    assert alarms(d.put(ev.ResumeRequested(d.at(3), "on", "ann"))) == ["resume_refused"]
    d.put(ev.ResumeRequested(d.at(3), "on", "ann", reset_limits=True))
    assert d.halted() == ""


def test_what_is_accepted_is_no_gain_and_an_order_that_works_there_is_cancelled() -> None:
    d = holding(account := Account(), RULES["halt"])
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.accept(sale)
    account.positions[CALL] = (7, Decimal("2.10"))
    account.cash = Decimal(9000)
    d.put(ev.AcceptBrokerRequested(d.at(2, 5), "I traded", "ann"))
    assert d.halted() == "accept_broker"
    d.put(account.report(d.at(2, 10)))
    position, book = d.state.book.positions[CALL], d.state.book
    assert (position.quantity, position.cost) == (7, Decimal("14.70"))
    assert (d.order(sale).status, d.state.works) == ("pending_cancel", {})
    assert book.equity - book.session_start_equity - book.transfers == 0


def test_an_order_that_the_accepted_report_does_not_list_has_ended() -> None:
    d = holding(account := Account(), RULES["halt"])
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    d.put(ev.OrderUnknown(d.at(2, 5), sale), ev.AcceptBrokerRequested(d.at(2, 6), "x", "ann"))
    d.put(account.report(d.at(2, 10)))
    assert (d.order(sale).status, d.state.orders, d.held) == ("expired", {}, {CALL: 9})


def test_a_report_that_a_fill_overtook_is_not_accepted() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(ev.AcceptBrokerRequested(d.at(1, 1), "x", "ann"))
    early = account.report(d.at(1, 2))
    d.put(account.fill(name, 9, "2.00", d.at(1, 3)), replace(early, time_ns=d.at(1, 4)))
    assert d.held == {CALL: 9}
    d.put(account.report(d.at(1, 10)))
    assert (d.held, d.state.broker.accept_ns) == ({CALL: 9}, 0)


def test_what_the_desk_cannot_hold_is_accepted_beside_its_own() -> None:
    d = at_broker(account := Account())
    account.positions["AAPL"] = (10, Decimal(200))
    account.cash -= 2000
    d.put(ev.AcceptBrokerRequested(d.at(1), "x", "ann"), account.report(d.at(1, 10)))
    assert (d.held, d.state.broker.foreign_held) == ({}, {"AAPL": 10})
    agreed(d, account, 2)


def test_a_new_journal_begins_with_what_a_person_accepts() -> None:
    account = Account()
    account.positions[CALL] = (2, Decimal(2))
    d = at_broker(account)
    assert d.halted() == "foreign_order"
    d.put(ev.AcceptBrokerRequested(d.at(1), "mine", "ann"), account.report(d.at(1, 10)))
    assert (d.held, d.state.book.cash) == ({CALL: 2}, Decimal(10000))
    agreed(d, account, 2)


def test_a_desk_without_a_broker_outside_has_nothing_to_accept() -> None:
    d = Desk(mode="dry_run").fund().begin()
    assert alarms(d.put(ev.AcceptBrokerRequested(d.at(1), "x", "ann"))) == ["command_refused"]
    assert d.halted() == ""


def test_a_short_position_that_was_accepted_halts_no_more() -> None:
    d = with_shares(account := Account(), AAA=10)
    account.positions["AAA"] = (-5, Decimal(100))
    account.cash += 1500
    d.put(account.report(d.at(1)), ev.AcceptBrokerRequested(d.at(2), "known", "ann"), account.report(d.at(2.1)))
    d.put(ev.ResumeRequested(d.at(3), "known", "ann"), account.report(d.at(3.1)))
    assert (halted(d), d.held) == ("", {"AAA": -5})


def test_where_others_are_short_nothing_is_bought_because_it_could_not_be_sold() -> None:
    d = live(account := Account(), IGNORE_OTHERS)
    account.positions["AAA"] = (-5, Decimal(100))
    account.cash += 500
    d.put(account.report(d.at(-19)), ev.AcceptBrokerRequested(d.at(-18), "known", "ann"), account.report(d.at(-17)))
    d.put(ev.ResumeRequested(d.at(-16), "known", "ann"), account.report(d.at(-15.5)))
    d.due()
    d.answer(*(10 for _ in SYMBOLS))
    buys = of(d.quotes(0, **dict.fromkeys(SYMBOLS, "100")), SubmitOrder)
    assert {order.symbol for order in buys} == {*SYMBOLS} - {"AAA"}
    assert (halted(d), d.held) == ("", {})


# --- fractions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("symbol", ["SPY", "AAPL"])
def test_half_a_share_of_anything_lies_beside_an_option_desk_s_own(rule: str, symbol: str) -> None:
    d = holding(account := Account(), RULES[rule])
    half = ev.BrokerPosition(symbol, Decimal("0.5"), Decimal(200), Decimal("0.5"))
    for second in (0, 10, 20):
        report = account.report(d.at(2, second))
        d.put(replace(report, positions=(*report.positions, half)))
    adoption = {symbol: Decimal("0.5")} if (rule, symbol) == ("adopt", "SPY") else {}  # by `adopt` alone
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("", {CALL: 9, **adoption}, True)


@pytest.mark.parametrize("rule", RULES)
def test_an_open_order_for_half_a_share_keeps_no_new_journal_from_beginning(rule: str) -> None:
    account = Account()
    name = account.by_hand("drip-1", "SPY", 1, 1, OPEN)
    account.orders[name] = replace(account.orders[name], quantity=Decimal("0.5"))
    d = at_broker(account, RULES[rule])
    agreed(d, account, -1)
    assert (d.halted(), d.state.broker.foreign[name].purpose, name in d.state.orders) == ("", "foreign", False)


@pytest.mark.parametrize("daily", [True, False], ids=["daily", "options"])
@pytest.mark.parametrize("rule", RULES)
def test_a_dividend_that_was_reinvested_into_half_a_share_halts_no_desk_and_is_no_loss(rule: str, daily: bool) -> None:
    account, trading = Account(), Trading(broker=RULES[rule])
    d: Desk | DailyDesk = with_shares(account, trading, AAA=10) if daily else at_broker(account, RULES[rule])
    symbol = "AAA" if daily else "SPY"
    account.by_hand("drip-1", symbol, 1, 1, d.at(1))
    account.cash -= 50
    purchase = replace(
        account.orders["drip-1"],
        quantity=Decimal("0.5"),
        filled=Decimal("0.5"),
        average_price=Decimal(100),
        status="filled",
    )
    account.orders["drip-1"] = purchase
    d.put(ev.OrderFound(d.at(1), purchase))
    for second in (10, 20, 30):
        report = account.report(d.at(1, second))
        d.put(report)
    halt = d.state.risk.halt
    assert (halt, d.state.risk.reconciled, d.state.book.cash) == (None, True, account.cash)
    assert d.state.book.transfers == Decimal(-50)


def test_what_comes_late_of_an_order_for_half_a_share_takes_nothing_of_its_cash_back() -> None:
    d = at_broker(account := Account())
    account.by_hand("drip-1", "SPY", 1, 1, d.at(1))
    account.cash -= 50
    new_order = replace(account.orders["drip-1"], quantity=Decimal("0.5"))
    filled_order = replace(new_order, filled=Decimal("0.5"), average_price=Decimal(100), status="filled")
    part = replace(new_order, filled=Decimal("0.2"), average_price=Decimal(100), status="partially_filled")
    account.orders["drip-1"] = filled_order
    for news in (part, filled_order, replace(new_order, status="new"), part, replace(new_order, status="pending_new")):
        d.put(ev.OrderFound(d.at(1), news))
    assert (d.state.book.cash, d.state.book.transfers) == (account.cash, Decimal(-50))


def test_shares_and_a_half_of_another_hand_follow_foreign_orders_with_the_whole_ones() -> None:
    d = at_broker(account := Account())
    many = ev.BrokerPosition("SPY", Decimal("2.5"), Decimal(500))
    for second in (0, 10):
        d.put(replace(account.report(d.at(1, second)), positions=(many,)))
    assert d.halted() == "reconciliation"
    assert "SPY: broker 2.5, book 0 and 0.5 beside it" in str(d.state.risk.halt)


# --- cash ---------------------------------------------------------------------------------------------------------


def unexplained(d: Desk, account: Account, minute: float, amount: str = "-1.01") -> None:
    account.cash += Decimal(amount)
    d.put(account.report(d.at(minute)), account.report(d.at(minute, 10)))


def test_cash_beyond_a_fee_denies_new_risk_and_is_told_before_it_halts() -> None:
    d = at_broker(account := Account())
    unexplained(d, account, 1)
    d.put(account.report(d.at(1, 20)))
    assert (d.halted(), d.state.risk.reconciled, alarms(d.effects)) == ("", False, ["cash_unexplained"])  # once
    d.bar(1)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["not_reconciled"]


@pytest.mark.parametrize(("minute", "halt"), [(30, ""), (31, "cash_difference")])
def test_cash_that_stays_unexplained_halts_after_its_minutes_of_a_session(minute: int, halt: str) -> None:
    d = at_broker(account := Account(), Broker(cash_halt_min=30))
    unexplained(d, account, 1)
    d.put(account.report(d.at(minute)))
    assert d.halted() == halt


def test_a_night_does_not_count_and_the_next_session_s_minutes_do() -> None:
    d = at_broker(account := Account())
    unexplained(d, account, -600)
    for minute in (-500, -1, 29):
        d.put(account.report(d.at(minute)))
        assert d.halted() == ""
    d.put(account.report(d.at(30)))
    assert d.halted() == "cash_difference"


def test_a_line_of_the_ledger_that_explains_it_ends_the_difference_and_the_halt_for_it() -> None:
    for late in (5, 40):
        d = at_broker(account := Account())
        unexplained(d, account, 1, "-3.20")
        d.put(account.report(d.at(35))) if late == 40 else None
        assert d.halted() == ("cash_difference" if late == 40 else "")
        fee = ev.Activity("fee-1", "FEE", "", Decimal(0), None, Decimal("-3.20"), "executed", d.at(late))
        account.lines.append(fee)
        agreed(d, account, late)
        assert (d.halted(), "cash_explained" in alarms(d.effects)) == ("", late == 40)


def test_a_halt_of_any_other_reason_stays_when_the_cash_is_explained() -> None:
    d = at_broker(account := Account())
    unexplained(d, account, 1, "-3.20")
    d.put(account.report(d.at(35)), ev.HaltRequested(d.at(36), "operator", "x", "ann"))
    assert d.halted() == "operator"
    account.lines.append(ev.Activity("f", "FEE", "", Decimal(0), None, Decimal("-3.20"), "executed", d.at(40)))
    agreed(d, account, 40)
    assert d.halted() == "operator"


def test_unexplained_cash_alone_is_no_reason_to_leave_what_is_held() -> None:
    d = holding(account := Account(), RULES["halt"])
    account.cash -= 5
    for minute in range(2, 20):
        d.bar(minute)
        d.put(account.report(d.at(minute, 30)))
        d.tick(minute, 45)
    assert (d.halted(), d.held) == ("", {CALL: 9})


def test_a_difference_of_positions_halts_as_before_whatever_the_cash_says() -> None:
    d = holding(account := Account(), RULES["halt"])
    account.cash -= 5
    account.positions[CALL] = (8, Decimal(2))
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))
    assert d.halted() == "reconciliation"


# --- the edges of it ----------------------------------------------------------------------------------------------


def test_what_the_broker_s_own_call_closes_is_as_much_as_was_there() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.prompt = None
    d.put(account.report(d.at(1)), ev.BrokerLost(d.at(1.1), "stream ended"))
    leave(d, 3.5)
    (sale,) = of(d.tick(3.5, 5), SubmitOrder)
    account.positions["AAA"] = (6, Decimal(100))  # somebody sold four while nothing was heard
    account.cash += 400
    name = account.take(replace(sale, quantity=6), d.state.now_ns)
    d.put(account.found(name, d.at(3.65)), account.fill(name, 6, "100", d.at(3.7)))
    order = d.order(name)
    assert (order.quantity, order.status, d.held) == (6, "filled", {"AAA": 4})


def test_a_cancel_that_is_heard_before_any_session_is_known_halts_nothing() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.due()
    (sale,) = of(d.answer(0, KEEP, KEEP), SubmitOrder)
    d.state = replace(d.state, session=replace(d.state.session, session=None))
    d.put(ev.OrderCanceled(d.at(-10), sale.client_order_id))
    assert halted(d) == ""
    assert account.positions["AAA"] == (10, Decimal(100))


def test_adopted_orders_of_others_are_left_to_them_by_a_panic_and_by_an_acceptance() -> None:
    d = holding(account := Account(), RULES["adopt"])
    account.by_hand("ann-1", PUT, 1, 2, d.at(1, 10))
    d.put(account.found("ann-1", d.at(1, 10)), ev.PanicNoticed(d.at(1, 20), "ann"))
    assert d.order("ann-1").status == "accepted"
    d.put(ev.AcceptBrokerRequested(d.at(1, 30), "x", "ann"), account.report(d.at(1, 40)))
    assert (d.order("ann-1").status, of(d.effects, CancelOrder)) == ("accepted", [])


# --- a resume by a key with a scope -----------------------------------------------------------------------------------


def by_phone(d: DailyDesk, minute: float) -> list[str]:
    request = ev.ResumeRequested(d.at(minute), "go on", "signed/handset #00", scope="phone", seen_ns=d.at(minute))
    return alarms(d.put(request))


def test_a_phone_ends_a_halt_of_a_person_but_none_that_waits_for_the_broker_also_not_by_a_flatten_before_it() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)), ev.HaltRequested(d.at(1.1), "operator", "lunch", "ann"))
    assert (by_phone(d, 1.2), halted(d)) == ([], "")
    d.put(ev.HaltRequested(d.at(1.3), "fill_mismatch", "12 AAA", "x"))
    assert (by_phone(d, 1.4), halted(d)) == (["resume_refused"], "fill_mismatch")
    d.put(ev.FlattenRequested(d.at(1.5), "x", "signed/handset #01"))
    assert halted(d) == "flatten"  # the more urgent one; the other still counts
    assert (by_phone(d, 1.6), halted(d)) == (["resume_refused"], "flatten")
    assert alarms(d.put(ev.ResumeRequested(d.at(1.7), "looked at it", "ann", seen_ns=d.at(1.7)))) == []
    assert halted(d) == ""


def test_after_a_panic_no_phone_resumes_even_when_the_broker_s_word_is_the_book() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    d.put(ev.PanicNoticed(d.at(1.1), "ann"))
    assert by_phone(d, 1.2) == ["resume_refused"]
    sold_by_hand(d, account, "AAA", 10, "99")
    d.put(ev.AcceptBrokerRequested(d.at(2.1), "settled", "ann"))
    assert by_phone(d, 2.15) == ["resume_refused"]
    d.put(account.report(d.at(2.2)))
    assert (by_phone(d, 2.3), halted(d)) == (["resume_refused"], "panic")
    d.put(ev.ResumeRequested(d.at(2.4), "settled", "ann"))
    assert halted(d) == ""


@pytest.mark.parametrize("order", [("operator", "fill_mismatch"), ("fill_mismatch", "operator")])
def test_a_halt_for_the_broker_behind_a_person_s_is_none_for_a_phone_also_after_the_night(
    order: tuple[str, str],
) -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)))
    for second, reason in enumerate(order):
        d.put(ev.HaltRequested(d.at(1.1, second), reason, f"it is {reason}", "ann"))
    assert [halt.reason for halt in d.state.risk.halts] == list(order)
    d.begin(TUESDAY)
    assert (by_phone(d, 2000), halted(d)) == (["resume_refused"], order[0])
    assert alarms(d.put(ev.ResumeRequested(d.at(2001), "looked at it", "ann"))) == []
    assert d.state.risk.halts == ()


@pytest.mark.parametrize(("reason", "detail"), [("rejected_orders", "five in a row"), ("operator", "bad news")])
def test_a_halt_that_came_after_a_person_looked_does_not_end(reason: str, detail: str) -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)), ev.HaltRequested(d.at(1.1), "operator", "lunch", "ann"))
    seen_ns = d.state.now_ns
    d.put(ev.HaltRequested(d.at(1.3), reason, detail, "bob"))
    late = ev.ResumeRequested(d.at(1.4), "go on", "signed/handset #00", scope="phone", seen_ns=seen_ns)
    assert (alarms(d.put(late)), halted(d)) == (["resume_refused"], "operator")
    again = ev.ResumeRequested(d.at(1.5), "go on", "signed/handset #01", scope="phone", seen_ns=d.state.now_ns)
    assert (alarms(d.put(again)), halted(d)) == ([], "")


@pytest.mark.parametrize(("second", "leaves"), [("operator", 0), ("blind", 1)])
def test_a_halt_that_leaves_everything_does_so_behind_one_that_does_not(second: str, leaves: int) -> None:
    d = with_shares(account := Account(), Trading(risk=Risk(daily_loss_flatten=False)), AAA=10)
    d.put(account.report(d.at(0.5)), ev.HaltRequested(d.at(1), "daily_loss", "lost 0.05", "x"))
    assert of(d.quotes(1.5, AAA="100"), SubmitOrder) == []
    sales = of(d.put(ev.HaltRequested(d.at(2), second, "then this", "x")), SubmitOrder)
    assert [halt.reason for halt in d.state.risk.halts] == ["daily_loss", second]
    assert [(order.symbol, order.side, order.quantity) for order in sales] == [("AAA", -1, 10)] * leaves


def test_a_cash_difference_that_is_explained_ends_behind_another_halt_too_and_alone() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(account.report(d.at(1)), ev.HaltRequested(d.at(1.1), "operator", "lunch", "ann"))
    d.put(ev.HaltRequested(d.at(1.2), "cash_difference", "12 USD", "x"))
    assert [halt.reason for halt in d.state.risk.halts] == ["operator", "cash_difference"]
    d.put(account.report(d.at(2)))
    assert [halt.reason for halt in d.state.risk.halts] == ["operator"]
    assert by_phone(d, 2.1) == []
