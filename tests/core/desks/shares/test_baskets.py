"""From a basket to orders: sales into the auction, buys as the cash comes in, what is left given up in time.

A replay's desk with 10,000 USD; limits are ask x 1.002 and bid x 0.998, a buy keeps 0.1 % back for its cost. All sums
are computed by hand.
"""

from __future__ import annotations

from dataclasses import replace as changed
from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.desks.shares.rebalance import (
    affordable,
    buy_limit,
    free_cash,
    price_step,
    reserved_cash,
    sell_limit,
    works_of,
)
from daemon.core.effects import RaiseAlarm, SubmitOrder
from daemon.core.limits import Basket, Broker, Trading
from daemon.core.records import DecisionRow
from strategies.kit.contract import Leg
from tests.support.core.daily_desk import (
    KEEP,
    LAST_FRIDAY,
    SYMBOLS,
    DailyDesk,
    Shelf,
    daily_desk,
    decided,
    orders,
    quote,
    tuesday,
)
from tests.support.core.desk import TUESDAY, alarms, canceling, of

NO_AUCTION = Trading(basket=Basket(auction=False))
BEFORE_CLOSE = Trading(basket=Basket(decide="before_close"))
AT_100 = dict.fromkeys(SYMBOLS, "100")


class Four(Shelf):
    """The strategy with a fourth symbol."""

    spec = replace(
        Shelf.spec,
        symbols=(*SYMBOLS, "DDD"),
        actions=(*SYMBOLS, "DDD"),
        observation_shape=(10,),
        features=(*Shelf.spec.features, "DDD", "DDD price"),
    )


# --- sales first --------------------------------------------------------------------------------------------------


def test_sales_go_into_the_opening_auction_and_buys_wait_for_the_open() -> None:
    d = tuesday(AAA=10, BBB=5)
    d.due()
    sales = of(d.answer(0, 2, 30), SubmitOrder)
    assert [(o.symbol, o.side * o.quantity, o.limit_price, o.auction, o.intent) for o in sales] == [
        ("AAA", -10, None, True, ""),
        ("BBB", -3, None, True, ""),
    ]
    assert {o.valid_until_ns for o in sales} == {d.at(-2)}
    assert orders(d.tick(-1)) == []
    assert orders(d.quotes(0, CCC="100")) == [("CCC", 30, "100.2000")]  # 3,009.01 of 8,500 USD: it need not wait


def test_a_sale_decided_when_the_auction_takes_no_more_goes_out_after_the_open_below_the_bid() -> None:
    d = tuesday(AAA=10)
    assert decided(d, 0, KEEP, KEEP, minute=-2) == []
    assert orders(d.tick(-1)) == []
    assert orders(d.quotes(0, AAA="100/100.02")) == [("AAA", -10, "99.8000")]


@pytest.mark.parametrize("trading", [NO_AUCTION, BEFORE_CLOSE])
def test_no_sale_goes_into_the_auction_where_that_is_not_wanted(trading: Trading) -> None:
    d = tuesday(trading, AAA=10)
    assert decided(d, 0, KEEP, KEEP) == []


def test_a_sale_that_the_auction_did_not_fill_becomes_a_limit_order_then_a_market_order() -> None:
    d = tuesday(AAA=10)
    decided(d, 0, KEEP, KEEP)
    name = next(iter(d.state.orders))
    d.put(ev.OrderCanceled(d.at(0), name))
    assert orders(d.quotes(0, AAA="100")) == [("AAA", -10, "99.8000")]
    assert canceling(d.quotes(0.5, AAA="99")) == []
    assert canceling(d.quotes(1, AAA="99")) == ["e1-shelf-2-0-1"]
    d.put(ev.OrderCanceled(d.at(1), "e1-shelf-2-0-1"))
    assert orders(d.quotes(1, AAA="99")) == [("AAA", -10, "98.8020")]
    d.quotes(2, AAA="98")
    d.put(ev.OrderCanceled(d.at(2), "e1-shelf-2-0-2"))
    assert orders(d.quotes(2, AAA="98")) == [("AAA", -10, None)]  # two limit attempts are allowed
    assert canceling(d.quotes(2.9, AAA="97")) == []
    assert canceling(d.quotes(5, AAA="97")) == ["e1-shelf-2-0-3"]  # it should have filled within a minute
    d.fill("e1-shelf-2-0-3", 10, "97")
    assert (d.held, d.tick(6), d.state.works) == ({}, [], {})


def test_an_auction_order_without_news_is_cancelled_a_while_after_the_open() -> None:
    d = tuesday(AAA=10)
    decided(d, 0, KEEP, KEEP)
    assert canceling(d.quotes(0.9, AAA="100")) == []
    assert canceling(d.quotes(1, AAA="100")) == ["e1-shelf-2-0-0"]


def test_a_sale_without_a_quote_or_a_bid_waits() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, KEEP, KEEP)
    assert orders(d.tick(0)) == orders(d.quotes(1, AAA="0/100")) == orders(d.quotes(1, BBB="100")) == []
    assert orders(d.tick(5)) == []  # the quote is older than 90 s


def test_a_sale_is_never_priced_beyond_the_collar() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, KEEP, KEEP)
    assert orders(d.quotes(1, AAA="80/105")) == [("AAA", -10, "95.0000")]  # the mark stays 100, the collar is 5 %


def test_a_bid_far_above_the_last_price_is_not_believed() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, KEEP, KEEP)
    assert orders(d.quotes(1, AAA="110/130")) == []  # too wide for a price, but nobody bids 110 for what costs 100
    assert d.state.marks["AAA"] == 100
    assert orders(d.quotes(1.1, AAA="110/130")) == [("AAA", -10, "109.7800")]  # a bid that stays is one


def test_a_leap_of_the_price_is_traded_on_once_the_next_quote_confirms_it() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, 10, KEEP)
    assert orders(d.quotes(1, AAA="90", BBB="110")) == []
    assert orders(d.quotes(1.1, AAA="90", BBB="110")) == [("AAA", -10, "89.8200"), ("BBB", 10, "110.2200")]


def test_a_sale_that_waits_for_a_leap_to_be_confirmed_holds_up_a_buy_that_needs_its_cash() -> None:
    d = tuesday(NO_AUCTION, AAA=90)
    decided(d, 0, 50, KEEP)  # 5,000 USD, 1,000 of them there
    assert orders(d.quotes(1, AAA="90", BBB="100")) == []


def test_a_rejected_sale_is_sent_again_only_after_the_re_price_interval() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, KEEP, KEEP)
    d.quotes(0, AAA="100")
    d.put(ev.OrderRejected(d.at(0), "e1-shelf-2-0-0", "no"))
    assert orders(d.quotes(0.5, AAA="100")) == []
    assert orders(d.quotes(1, AAA="100")) == [("AAA", -10, "99.8000")]


def test_what_others_hold_back_is_not_sold_and_told_and_holds_no_buy_up() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, 95, KEEP)  # 9,000 USD are 89 at 100.3002
    d.state = replace(d.state, broker=replace(d.state.broker, available={"AAA": 0}))
    effects = d.quotes(0, **AT_100)
    assert (orders(effects), alarms(effects)) == (
        [("BBB", 89, "100.2000")],
        ["exit_held_up"],
    )  # whose cash does not wait


# --- buys in their order ------------------------------------------------------------------------------------------


def test_the_first_buy_that_the_cash_does_not_cover_waits_for_the_sales_and_holds_up_those_after_it() -> None:
    d = tuesday(AAA=60)  # 4,000 USD are left
    decided(d, 0, 70, 5)
    d.quotes(0, **AT_100)
    assert d.working() == [("AAA", -60)]  # BBB: 7,021.01 USD; CCC would be 501.51
    d.fill("e1-shelf-2-0-0", 40, "100")  # 8,000 USD: enough for BBB, and for CCC after it
    assert orders(d.quotes(0.1, **AT_100)) == [("BBB", 70, "100.2000"), ("CCC", 5, "100.2000")]


def test_once_no_sale_works_the_cash_is_shared_by_all_buys_in_proportion() -> None:
    d = daily_desk()
    decided(d, 50, 70, 5)
    # 10,000 USD pay for 99.70 of 125 shares at 100.2 x 1.001: 39.88, 55.83 and 3.99 of each; 97 are whole, and the two
    # that are left go to CCC and AAA, which lost most
    assert orders(d.quotes(0, **AT_100)) == [
        ("AAA", 40, "100.2000"), ("BBB", 55, "100.2000"), ("CCC", 4, "100.2000")
    ]  # fmt: skip
    for name, quantity in (("e1-shelf-1-0-0", 40), ("e1-shelf-1-1-0", 55), ("e1-shelf-1-2-0", 4)):
        d.fill(name, quantity, "100", fees=str(Decimal(quantity) / 10))
    assert (d.tick(1), d.state.works, d.held) == ([], {}, {"AAA": 40, "BBB": 55, "CCC": 4})
    assert d.state.book.cash == Decimal(10000) - 9900 - Decimal("9.9")
    assert alarms(d.tick(386)) == []  # what there was no cash for is no unfinished work


def test_a_sale_that_cannot_be_sent_holds_no_buy_up() -> None:
    d = tuesday(NO_AUCTION, AAA=60)
    decided(d, 0, 70, KEEP)
    assert orders(d.quotes(0, BBB="100")) == [("BBB", 39, "100.2000")]  # 4,000 / 100.3002


def test_cash_of_a_sale_that_cannot_be_sent_is_no_buy_s_to_spend_while_another_sale_works() -> None:
    d = DailyDesk(NO_AUCTION, strategy=Four()).fund().begin()
    at_100 = dict.fromkeys(Four.spec.symbols, "100")
    d.bars(LAST_FRIDAY, **dict.fromkeys(at_100, 100.0))
    decided(d, 30, 30, KEEP, KEEP)
    for order in of(d.quotes(0, **at_100), SubmitOrder):
        d.fill(order.client_order_id, 30, "100")  # 4,000 USD are left
    d.end(**dict.fromkeys(at_100, 100.0))
    d.begin(TUESDAY)
    decided(d, 0, 0, 20, 70)  # 90 shares hold back 9,027.02 USD; AAA is halted
    del at_100["AAA"]
    (sale,) = of(d.quotes(0, **at_100), SubmitOrder)
    assert (sale.symbol, sale.quantity) == ("BBB", 30)
    d.fill(sale.client_order_id, 30, "100")
    # 7,000 USD pay for 69.79 of 90 shares: 15.51 and 54.28
    assert orders(d.quotes(0.1, **at_100)) == [("CCC", 15, "100.2000"), ("DDD", 54, "100.2000")]


def test_buys_that_a_sale_pays_for_only_above_its_limit_wait_until_it_is_done() -> None:
    d = DailyDesk(NO_AUCTION).fund().begin()
    closes, opens = {"AAA": 100.0, "BBB": 100.0, "CCC": 7.0}, {"AAA": "100", "BBB": "100", "CCC": "7"}
    d.bars(LAST_FRIDAY, **closes)
    decided(d, 60, KEEP, KEEP)
    d.quotes(0, **opens)
    d.fill("e1-shelf-1-0-0", 60, "100")  # 4,000 USD are left
    d.end(**closes)
    d.begin(TUESDAY)
    decided(d, 30, 39, 439)  # 39 x 100.2 + 439 x 7.014 and 0.1 %: 6,993.94 USD
    # 30 shares bring 2,997 USD at 100, and 2,991.01 at their limit of 99.8
    assert orders(d.quotes(0, **opens)) == [("AAA", -30, "99.8000")]
    d.fill("e1-shelf-2-0-0", 30, "100", fees="3")
    assert orders(d.quotes(0.1, **opens)) == [("BBB", 39, "100.2000"), ("CCC", 439, "7.0140")]


def test_a_sale_between_two_attempts_still_holds_the_buy_up() -> None:
    d = tuesday(NO_AUCTION, AAA=60)
    decided(d, 0, 70, KEEP)
    d.quotes(0, **AT_100)
    d.put(ev.OrderRejected(d.at(0), "e1-shelf-2-0-0", "no"))
    assert orders(d.quotes(0.5, **AT_100)) == []


def test_a_sale_that_neither_fills_nor_ends_holds_a_buy_up_no_longer_than_two_intervals() -> None:
    d = tuesday(NO_AUCTION, AAA=90)
    decided(d, 0, 50, KEEP)  # 5,000 USD, 1,000 of them there
    d.quotes(0, **AT_100)
    assert canceling(d.quotes(1, **AT_100)) == ["e1-shelf-2-0-0"]  # and nothing comes of it
    assert orders(d.quotes(1.9, **AT_100)) == []
    assert orders(d.quotes(2, **AT_100)) == [("BBB", 9, "100.2000")]


def test_a_buy_without_a_quote_or_beyond_the_collar_waits_and_holds_nobody_up() -> None:
    d = daily_desk()
    decided(d, 10, 10, 10)
    assert orders(d.quotes(0, BBB="90/105.1", CCC="100")) == [("CCC", 10, "100.2000")]
    assert orders(d.quotes(0, AAA="99/0")) == []


def test_a_buy_s_limit_is_cut_at_the_collar() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    assert orders(d.quotes(0, AAA="90/104.9")) == [("AAA", 10, "105.0000")]  # 104.9 x 1.002 = 105.1098


def test_a_buy_is_priced_anew_after_a_while_for_what_is_missing_of_it() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    d.fill("e1-shelf-1-0-0", 4, "100")
    assert canceling(d.quotes(0.9, AAA="101")) == []
    assert canceling(d.quotes(1, AAA="101")) == ["e1-shelf-1-0-0"]
    d.put(ev.OrderCanceled(d.at(1), "e1-shelf-1-0-0"))
    assert orders(d.quotes(1, AAA="101")) == [("AAA", 6, "101.2020")]


def test_a_late_fill_of_an_ended_attempt_is_booked_and_the_attempt_after_it_shrinks() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    d.put(ev.OrderCanceled(d.at(1), "e1-shelf-1-0-0"))
    d.quotes(1, AAA="100")
    d.fill("e1-shelf-1-0-0", 4, "100")
    assert (d.held, canceling(d.tick(1.1))) == ({"AAA": 4}, ["e1-shelf-1-0-1"])
    d.put(ev.OrderCanceled(d.at(1.2), "e1-shelf-1-0-1"))
    assert orders(d.quotes(1.2, AAA="100")) == [("AAA", 6, "100.2000")]


def test_a_fill_after_its_work_was_closed_is_booked_all_the_same() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    d.tick(385)
    assert d.state.works == {}
    d.fill("e1-shelf-1-0-0", 10, "100")
    assert (d.held, d.state.book.cash) == ({"AAA": 10}, Decimal(9000))


def test_a_rejected_buy_is_not_sent_again() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    d.put(ev.OrderRejected(d.at(0), "e1-shelf-1-0-0", "no"))
    assert (orders(d.quotes(1, AAA="100")), d.state.works) == ([], {})


def test_a_denied_buy_is_told_once_and_asked_again() -> None:
    d = daily_desk(Trading(basket=Basket(order_weight_max=0.05)))
    decided(d, 10, KEEP, KEEP)
    effects = d.quotes(0, AAA="100")
    assert (orders(effects), alarms(effects)) == ([], ["order_denied"])
    assert d.quotes(1, AAA="100") == []
    assert d.state.stats.denials == {"order_weight": 1}
    assert orders(d.quotes(2, AAA="49")) == []  # a leap that the next quote confirms
    assert orders(d.quotes(3, AAA="49")) == [("AAA", 10, "49.0980")]


def test_a_work_that_reached_its_goal_is_closed() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    d.fill("e1-shelf-1-0-0", 10, "100")
    d.tick(0.1)
    assert d.state.works == {}


# --- the end ------------------------------------------------------------------------------------------------------


def test_what_is_not_traded_in_time_is_cancelled_noted_and_told() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, 10, 20)
    d.quotes(0, AAA="100", BBB="100")
    d.fill("e1-shelf-2-0-0", 7, "100")
    assert canceling(d.tick(384.9)) == ["e1-shelf-2-0-0", "e1-shelf-2-1-0"]  # priced anew; the end comes at 385
    effects = d.tick(385)
    detail = "not traded today: -3 AAA, +10 BBB, +20 CCC; may still fill: -3 AAA, +10 BBB"
    assert [e.detail for e in of(effects, RaiseAlarm)] == [detail]
    assert (d.state.works, d.state.basket.given_up) == ({}, {"AAA": -3, "BBB": 10, "CCC": 20})
    assert orders(d.quotes(386, CCC="100")) == []


def test_what_is_left_at_the_session_s_end_is_noted_and_its_orders_lapse_by_themselves() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    effects = d.end(AAA=100.0)
    assert (canceling(effects), alarms(effects), d.state.basket.given_up) == ([], ["basket_unfinished"], {"AAA": 10})
    d.put(ev.OrderExpired(d.at(390), "e1-shelf-1-0-0"))
    d.begin(TUESDAY)
    d.due()
    assert (d.state.basket.given_up, d.working()) == ({}, [])


def test_what_was_done_just_before_the_end_is_not_missing() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(384.5, AAA="100")
    d.fill("e1-shelf-1-0-0", 10, "100")
    assert (d.tick(385), d.state.works, d.state.basket.given_up) == ([], {}, {})


def test_the_next_day_starts_from_what_is_held() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    d.fill("e1-shelf-1-0-0", 4, "100")
    d.end(AAA=100.0)
    d.put(ev.OrderExpired(d.at(390), "e1-shelf-1-0-0"))
    d.begin(TUESDAY)
    decided(d, 6, KEEP, KEEP)
    assert orders(d.quotes(0, AAA="100")) == [("AAA", 2, "100.2000")]


# --- rules that leave ---------------------------------------------------------------------------------------------


def test_a_halt_in_mid_basket_cancels_its_sales_and_its_buys() -> None:
    d = tuesday(AAA=10)
    decided(d, 0, 10, 10)
    d.quotes(0, BBB="100")
    effects = d.put(ev.HaltRequested(d.at(0.1), "operator", "x", "ann"))
    assert (canceling(effects), d.state.works) == (["e1-shelf-2-0-0", "e1-shelf-2-1-0"], {})
    d.put(*(ev.OrderCanceled(d.at(0.2), name) for name in canceling(effects)))
    assert orders(d.quotes(1, **AT_100)) == []
    assert d.held == {"AAA": 10}


@pytest.mark.parametrize("stop", [True, False])
def test_a_pause_or_a_stop_cancels_the_buys(stop: bool) -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    now = d.at(0.1)
    effects = d.put(ev.StopRequested(now, "x", flatten=False) if stop else ev.PauseRequested(now, "x", "ann"))
    assert (canceling(effects), d.state.works) == (["e1-shelf-1-0-0"], {})
    assert (alarms(effects), d.state.basket.given_up) == (["basket_unfinished"], {"AAA": 10})


def test_an_operator_s_flatten_sells_all_shares_at_the_market_in_regular_hours() -> None:
    d = tuesday(AAA=10, BBB=5)
    assert orders(d.put(ev.FlattenRequested(d.at(-10), "x", "ann"))) == []
    assert orders(d.tick(0)) == [("AAA", -10, None), ("BBB", -5, None)]
    for name in tuple(d.state.orders):
        d.fill(name, d.order(name).quantity, "99")
    assert (d.held, d.tick(1), d.state.works) == ({}, [], {})


def test_a_flatten_takes_a_basket_s_sale_over_that_waits_for_a_quote() -> None:
    d = tuesday(NO_AUCTION, AAA=10)
    decided(d, 0, KEEP, KEEP)
    assert orders(d.tick(5)) == []  # nobody quotes it
    assert orders(d.put(ev.FlattenRequested(d.at(6), "x", "ann"))) == [("AAA", -10, None)]
    assert [row.action for row in d.rows if isinstance(row, DecisionRow) and row.kind == "rule"] == ["operator"]
    d.tick(7)
    assert len([row for row in d.rows if isinstance(row, DecisionRow) and row.kind == "rule"]) == 1


def test_a_flatten_takes_a_basket_s_buy_of_the_same_symbol_back_before_it_sells() -> None:
    d = tuesday(AAA=10)
    decided(d, 20, KEEP, KEEP)
    d.quotes(0, AAA="100")
    effects = d.put(ev.FlattenRequested(d.at(0.1), "x", "ann"))
    assert (canceling(effects), orders(effects)) == (["e1-shelf-2-0-0"], [])
    assert orders(d.tick(0.2)) == []
    d.put(ev.OrderCanceled(d.at(0.3), "e1-shelf-2-0-0"))
    assert orders(d.tick(0.3)) == [("AAA", -10, None)]


def test_a_stop_that_leaves_and_the_daily_loss_sell_all_shares() -> None:
    stop_desk = tuesday(AAA=10)
    assert orders(stop_desk.put(ev.StopRequested(stop_desk.at(5), "x", flatten=True))) == [("AAA", -10, None)]
    loss_desk = tuesday(AAA=90)
    assert orders(loss_desk.quotes(5, AAA="88")) == []  # one quote alone is not believed that far
    assert orders(loss_desk.quotes(6, AAA="88")) == [("AAA", -90, None)]  # 1,080 of 10,000 USD
    assert loss_desk.state.risk.halt is not None
    assert loss_desk.state.risk.halt.reason == "daily_loss"


def test_shares_stay_overnight_and_are_nobody_s_exercise() -> None:
    d = tuesday(Trading(broker=Broker(exercised_shares="close", blind_min=1)), AAA=10)
    assert orders(d.tick(0) + d.tick(100) + d.tick(389)) == []
    assert (d.held, d.state.risk.halt) == ({"AAA": 10}, None)


def test_many_losing_positions_that_a_basket_closes_pause_nothing() -> None:
    d = tuesday(Trading(risk=changed(Trading().risk, consecutive_losses_max=1)), AAA=10, BBB=5)
    decided(d, 0, 0, KEEP)
    for name in tuple(d.state.orders):
        d.fill(name, d.order(name).quantity, "99")
    stats, risk = d.state.stats, d.state.risk
    assert (stats.trades, stats.wins, risk.pause) == (2, 0, None)


# --- the arithmetic -----------------------------------------------------------------------------------------------


def test_a_leg_that_changes_nothing_gives_no_work_and_sales_come_before_buys() -> None:
    legs = (Leg("AAA", 5), Leg("BBB", 0), Leg("CCC", 7), Leg("DDD", 1))
    works = works_of(3, legs, {"AAA": 2, "BBB": 4, "CCC": 7, "DDD": 9}, 11)
    assert [(work.key, work.purpose, work.symbol, work.goal) for work in works] == [
        ("3.1", "exit", "BBB", 0), ("3.3", "exit", "DDD", 1), ("3.0", "entry", "AAA", 5),
    ]  # fmt: skip


def test_live_limits_lie_on_cents_from_a_dollar_on_and_a_replay_s_on_its_finer_grid() -> None:
    rules = Basket()
    dear, cheap = quote("AAA", "100.01/100.03", 0), quote("AAA", "0.5001/0.5003", 0)
    mark = Decimal("100.02")
    assert buy_limit(dear, mark, rules, fine=False) == Decimal("100.24")  # 100.23006
    assert buy_limit(dear, mark, rules, fine=True) == Decimal("100.2301")
    assert sell_limit(dear, mark, rules, fine=False) == Decimal("99.80")  # 99.80998
    assert sell_limit(dear, mark, rules, fine=True) == Decimal("99.8099")
    assert buy_limit(cheap, Decimal("0.5"), rules, fine=False) == Decimal("0.5014")  # 0.5013006
    assert (price_step(Decimal(1), fine=False), price_step(Decimal("0.9999"), fine=False)) == (
        Decimal("0.01"), Decimal("0.0001"),
    )  # fmt: skip


def test_cash_pays_for_whole_shares_and_their_cost_to_the_last_micro_dollar() -> None:
    rate = Decimal("0.001")
    assert reserved_cash(Decimal("100.2"), 49, rate) == Decimal("4914.7098")
    assert affordable(Decimal("4914.7098"), Decimal("100.2"), rate) == 49
    assert affordable(Decimal("4914.7097"), Decimal("100.2"), rate) == 48
    assert (affordable(Decimal(0), Decimal(1), rate), affordable(Decimal(-5), Decimal(1), rate)) == (0, 0)
    # 3 x 0.0003 x 0.001 = 0.0000009 is kept back as 0.000001: what the quotient allows is one too many
    assert affordable(Decimal("0.0009009"), Decimal("0.0003"), rate) == 2


def test_working_buys_keep_back_their_limit_and_those_without_one_the_mark() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, AAA="100")
    working = d.state.orders
    assert free_cash(Decimal(10000), working, {}, Decimal(0)) == Decimal(8998)
    at_market = {name: replace(order, limit_price=None) for name, order in working.items()}
    assert free_cash(Decimal(10000), at_market, {"AAA": Decimal(101)}, Decimal(0)) == Decimal(8990)
