"""The risk overlay at the desk: what it leaves of a basket, and what it meets.

Each stock moves by 1 % a day, up and down, all in step: the annual volatility is 0.01 x sqrt(252) = 0.158745 of any
mix, and a target of 0.08 caps the exposure at 0.503953 of the equity. All prices are 100.00 and the equity is 10,000
USD, so at most 5,039.53 USD are invested, and nothing is sold up to 5,543.48.
"""

from __future__ import annotations

import json
from dataclasses import replace as changed
from itertools import pairwise

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import CancelOrder, SubmitOrder
from daemon.core.limits import Basket, Trading
from daemon.core.records import OverlayRow
from strategies.kit.contract import Answer, Bar, Rebalance, View
from strategies.kit.quantity import Quantity, exact
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, MIDNIGHT, SYMBOLS, DailyDesk, Shelf, ShelfState, orders
from tests.support.core.daily_live import live, with_shares
from tests.support.core.desk import DAY, HALF_DAY, MONDAY, TUESDAY, alarms, of
from tests.support.core.resting import DISASTER, daily, sales

OVERLAY = Trading(basket=Basket(volatility_target=0.08, volatility_span=2))  # six returns are read: seven closes
VOLATILITY, CAP = 0.1587451, 0.5039526
AT_100 = dict.fromkeys(SYMBOLS, "100")


class Masks(Shelf):
    """The same strategy, which leaves AAA alone."""

    def decide(self, state: ShelfState, answer: Answer, view: View) -> tuple[ShelfState, Rebalance]:
        state, decided = super().decide(state, answer, view)
        return state, replace(decided, notes={"AAA": "unadjusted"})


class Weights(Shelf):
    """The same strategy, whose goals are a whole portfolio."""

    def decide(self, state: ShelfState, answer: Answer, view: View) -> tuple[ShelfState, Rebalance]:
        state, decided = super().decide(state, answer, view)
        return state, replace(decided, whole=True)


def closes(count: int = 8, move: float = 0.01) -> list[float]:
    """Prices that move by this much up and down in turn, the last one 100."""
    prices = [100.0]
    for day in range(count - 1):
        prices.insert(0, prices[0] / (1.0 + (move if day % 2 else -move)))
    return prices


def history(symbol: str, prices: list[float], last_ns: int) -> ev.HistoryAdjusted:
    """The bars of consecutive days, the last one of the day that began at `last_ns`."""
    starts = [last_ns - DAY * (len(prices) - 1 - place) for place in range(len(prices))]
    bars = tuple(Bar(symbol, at, c, c, c, c, 1000.0) for at, c in zip(starts, prices, strict=True))
    return ev.HistoryAdjusted(0, symbol, bars)


def know(d: DailyDesk, **prices: list[float]) -> None:
    """These closes up to the session before this one."""
    sessions = (LAST_FRIDAY, MONDAY, TUESDAY, HALF_DAY)
    before = sessions[sessions.index(d.session) - 1].open_ns - MIDNIGHT
    for symbol, symbol_closes in prices.items():
        d.put(replace(history(symbol, symbol_closes, before), time_ns=d.state.now_ns))


def tuesday(strategy: Shelf | None = None, **shares: int) -> DailyDesk:
    """Tuesday before the open: these shares were bought on Monday without the overlay, which is chosen now."""
    d = DailyDesk(strategy=strategy).fund().holds(**shares)
    d.begin(TUESDAY)
    d.put(ev.RunStarted(d.at(-25), "replay", "desk-1", "shelf", "e1", "code", "sip", OVERLAY))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    return d


def changes_after(d: DailyDesk, *goals: float) -> list[tuple[str, Quantity]]:
    """The changes that the decision comes to: what is wanted less what is held."""
    d.due()
    d.answer(*goals)
    return [(work.symbol, work.goal - d.held.get(work.symbol, 0)) for work in d.state.works.values()]


def row(d: DailyDesk) -> OverlayRow:
    return [one for one in d.rows if isinstance(one, OverlayRow)][-1]


def test_buys_are_cut_in_proportion_to_what_the_cap_leaves() -> None:
    d = tuesday()
    assert changes_after(d, 30, 70, KEEP) == [("AAA", 15), ("BBB", 35)]
    record = row(d)
    assert (record.forecast, record.target, record.asked, record.allowed) == ("ewma", 0.08, 1.0, 0.5)
    assert record.volatility == pytest.approx(VOLATILITY, abs=1e-7)
    assert record.cap == pytest.approx(CAP, abs=1e-7)
    assert (json.loads(record.cut), record.unknown) == ({"AAA": [30, 15], "BBB": [70, 35]}, "")
    assert orders(d.quotes(0, **AT_100)) == [("AAA", 15, "100.2000"), ("BBB", 35, "100.2000")]


def test_a_calm_portfolio_is_left_as_it_is() -> None:
    d = tuesday()
    know(d, **dict.fromkeys(SYMBOLS, closes(move=0.005)))  # 0.0794: below the target
    assert changes_after(d, 30, 60, KEEP) == [("AAA", 30), ("BBB", 60)]
    assert (row(d).cap, row(d).cut) == (1.0, "{}")


@pytest.mark.parametrize(
    ("shares", "goals", "expected"),
    [
        (55, (KEEP, KEEP, KEEP), []),  # within the band
        (55, (KEEP, 10, KEEP), []),  # and no room for more
        (56, (KEEP, KEEP, KEEP), [("AAA", -6)]),  # beyond it: down to the cap
        (60, (KEEP, 20, KEEP), [("AAA", -10)]),
        (60, (55, KEEP, KEEP), [("AAA", -5)]),  # its own sale is enough
        (60, (0, 70, KEEP), [("AAA", -60), ("BBB", 50)]),  # room comes from what is sold
        (40, (KEEP, 20, KEEP), [("BBB", 10)]),
    ],
)
def test_changes_are_cut_and_what_is_held_is_sold_beyond_the_band(
    shares: int, goals: tuple[float, ...], expected: list[tuple[str, int]]
) -> None:
    assert changes_after(tuesday(AAA=shares), *goals) == expected


@pytest.mark.parametrize(
    ("shares", "goals", "expected"),
    [
        (55, (KEEP, KEEP, KEEP), []),
        (56, (KEEP, KEEP, KEEP), [("AAA", -6)]),
        (99, (33, 33, 33), [("AAA", -83), ("BBB", 16), ("CCC", 16)]),  # 33 x 5039.5 / 9900 = 16.8 of each
        (40, (KEEP, 20, KEEP), [("AAA", -7), ("BBB", 16)]),  # 40 + 16 is beyond the band: 33.6 and 16.8
        (39, (KEEP, 19, KEEP), [("BBB", 11)]),  # 39 + 16 is within: 11.4 fit
    ],
)
def test_the_mix_of_a_whole_portfolio_is_kept(
    shares: int, goals: tuple[float, ...], expected: list[tuple[str, int]]
) -> None:
    assert changes_after(tuesday(Weights(), AAA=shares), *goals) == expected


def test_a_limit_of_turnover_keeps_no_sale_of_the_cap_back_and_denies_the_rest() -> None:
    """90 AAA down to 50 is 0.4 of the equity: the limit of 0.3 would keep the exposure above its cap for ever."""
    d = tuesday(AAA=90, BBB=9)
    d.state = replace(d.state, trading=changed(OVERLAY, basket=changed(OVERLAY.basket, turnover_max=0.3)))
    assert changes_after(d, KEEP, 0, KEEP) == [("AAA", -40)]
    assert d.decisions()[-1].outcome == "ordered"
    assert json.loads(d.decisions()[-1].gates or "")["turnover"].startswith("turnover would be 0.49")
    assert changes_after(tuesday(AAA=90), 0, 70, KEEP) == [("AAA", -90), ("BBB", 50)]  # within the usual limit


@pytest.mark.parametrize(
    ("promoted", "feed", "gate"), [(False, "sip", "model_not_promoted"), (True, "iex", "model_other_feed")]
)
def test_a_model_that_may_take_no_risk_keeps_no_sale_of_the_cap_back(promoted: bool, feed: str, gate: str) -> None:
    """A target that is lowered ends a promotion by a stated risk: 90 AAA would stay above both caps."""
    d = with_shares(account := Account(), AAA=90, BBB=9)
    start = ev.RunStarted(d.at(-19), "live", "desk-1", "shelf", "e1", "code", "sip", OVERLAY)
    model = ev.ModelVerified(d.at(-19), "v1", "d", promoted=promoted, feed=feed)
    d.put(start, model, account.report(d.at(-18.5)))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    assert changes_after(d, KEEP, 0, 5) == [("AAA", -40)]
    assert json.loads(d.decisions()[-1].gates or "")[gate]
    d = with_shares(account := Account(), AAA=40, BBB=9)
    d.put(start, model, account.report(d.at(-18.5)))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    assert changes_after(d, KEEP, 0, 5) == []  # the model's own sale is no sale of the cap


@pytest.mark.parametrize(
    ("held", "goals", "expected"),
    [
        ((1.0, KEEP), (1.505, 0.5, 0.015), {"AAA": "0.2534", "BBB": "0.2509"}),  # CCC: 0.0075 of the 51.18 USD left
        ((2.0, 0.03), (KEEP, KEEP, KEEP), {"AAA": "-0.5105"}),  # 203 USD become 151.18; BBB: -0.0077
        ((2.0, 0.03), (KEEP, 0.0, KEEP), {"BBB": "-0.03", "AAA": "-0.4882"}),
    ],
)
def test_what_the_cap_leaves_of_a_fraction_is_no_order_below_a_dollar(
    held: tuple[float, float], goals: tuple[float, ...], expected: dict[str, str]
) -> None:
    rules = Trading(basket=Basket(fractions="on"))
    d = DailyDesk(rules).fund("300").begin(MONDAY)
    d.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    d.due()
    d.answer(*held, KEEP)
    for order in of(d.quotes(0, **AT_100), SubmitOrder):
        d.fill(order.client_order_id, order.quantity, "100")
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(TUESDAY)
    rules = Trading(basket=changed(OVERLAY.basket, fractions="on"))
    d.put(ev.RunStarted(d.at(-25), "replay", "desk-1", "shelf", "e1", "code", "sip", rules))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    assert dict(changes_after(d, *goals)) == {symbol: exact(change) for symbol, change in expected.items()}


def test_the_same_answer_on_the_next_day_trades_nothing_more() -> None:
    """A factor on a change would compound from day to day."""
    d = tuesday()
    assert changes_after(d, 100, KEEP, KEEP) == [("AAA", 50)]
    d.quotes(0, AAA="100")
    d.fill("e1-shelf-2-0-0", 50, "100")
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(HALF_DAY)
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    assert changes_after(d, 100, KEEP, KEEP) == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"AAA": closes(6)}, "fewer than 7 closes, or none of the newest session: AAA"),
        ({"AAA": [float("nan"), *closes(7)[1:]]}, "fewer than 7 closes, or none of the newest session: AAA"),
        (dict.fromkeys(SYMBOLS, [100.0] * 8), "the forecast is 0.0"),
    ],
)
def test_while_the_volatility_is_not_known_nothing_is_bought_and_sales_pass(
    bad: dict[str, list[float]], why: str
) -> None:
    d = tuesday(AAA=60, BBB=20)
    know(d, **bad)
    d.due()
    effects = d.answer(50, 0, 10)
    assert [(work.symbol, work.goal) for work in d.state.works.values()] == [("AAA", 50), ("BBB", 0)]
    assert alarms(effects) == ["volatility_unknown"]
    assert (row(d).unknown, row(d).cap) == (why, None)


def test_a_symbol_without_a_bar_of_the_newest_session_denies_buys_while_it_is_held_and_not_once_it_leaves() -> None:
    for goals, expected in (((KEEP, 10, KEEP), []), ((0, 10, KEEP), [("AAA", -20), ("BBB", 10)])):
        d = tuesday(AAA=20)
        d.put(replace(history("AAA", closes(), LAST_FRIDAY.open_ns - MIDNIGHT), time_ns=d.state.now_ns))
        assert changes_after(d, *goals) == expected


def test_a_held_symbol_that_the_strategy_leaves_alone_denies_buys() -> None:
    d = tuesday(Masks(), AAA=20, BBB=20)
    assert changes_after(d, KEEP, 0, 10) == [("BBB", -20)]
    assert row(d).unknown == "the strategy leaves alone what is held: AAA"
    assert changes_after(tuesday(Masks(), BBB=20), KEEP, KEEP, 10) == [("CCC", 10)]  # it is not held


def test_a_symbol_that_missed_a_session_of_the_window_counts_with_its_last_close() -> None:
    """Its return of two days comes on the second one. By hand: weights 1, 1/3, ... of the newest returns."""
    d = tuesday()
    series = closes()
    full = history("AAA", series, MONDAY.open_ns - MIDNIGHT)
    d.put(replace(full, time_ns=d.state.now_ns, bars=tuple(bar for at, bar in enumerate(full.bars) if at != 6)))
    changes_after(d, 40, KEEP, KEEP)
    returns = [*(b / a - 1.0 for a, b in pairwise(series[1:6])), 0.0, series[7] / series[5] - 1.0]
    weights = [3.0**-age for age in range(5, -1, -1)]
    variance = sum(w * r * r for w, r in zip(weights, returns, strict=True)) / sum(weights)
    assert row(d).volatility == pytest.approx((252 * variance) ** 0.5, rel=1e-12)


def test_a_split_in_the_window_changes_no_forecast_once_the_history_is_adjusted() -> None:
    d = tuesday()
    know(d, AAA=[price / 2 for price in closes()])
    d.put(ev.QuotesReceived(d.at(-24), 0, ()))
    changes_after(d, 40, 40, KEEP)
    assert row(d).volatility == pytest.approx(VOLATILITY, abs=1e-7)


def test_a_split_that_is_not_booked_yet_adds_no_sale_to_the_basket() -> None:
    """A leg of shares in a split would deny the whole basket, the strategy's own sales too."""
    d = tuesday(AAA=70, BBB=20)
    d.state = replace(d.state, basket=replace(d.state.basket, apart=("AAA",)))
    assert changes_after(d, KEEP, 0, 10) == [("BBB", -20)]
    assert row(d).unknown == "no sure price: AAA"


@pytest.mark.parametrize("wrong", [370.0, 27.0])
def test_a_wrong_newest_bar_sells_nothing_and_the_strategy_s_own_sale_passes(wrong: float) -> None:
    """Quotes say 100.00. The bar alone would put the volatility at 8 or more, and the cap below 1 %."""
    d = with_shares(Account(), AAA=20, BBB=20)
    d.state = replace(d.state, trading=OVERLAY)
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    bad = Bar("AAA", MONDAY.open_ns - MIDNIGHT, wrong, wrong, wrong, wrong, 1000.0)
    d.put(ev.BarCorrected(d.state.now_ns, bad))
    assert changes_after(d, KEEP, 10, 10) == [("BBB", -10)]
    assert row(d).unknown == "the price is far from the newest close: AAA"


@pytest.mark.parametrize(("times", "sells"), [(3.7, False), (0.27, False), (1.9, True)])
def test_a_close_that_stands_alone_in_the_window_sells_nothing(times: float, sells: bool) -> None:
    """Twice its neighbours, or half of them, and back the next day: no market does that. A rise of 90 % counts."""
    d = with_shares(Account(), AAA=20, BBB=20)
    d.state = replace(d.state, trading=OVERLAY)
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    know(d, AAA=[close * times if day == 5 else close for day, close in enumerate(closes())])
    assert (dict(changes_after(d, KEEP, 10, 10)).get("AAA", 0) < 0) == sells
    assert row(d).unknown == ("" if sells else "a close stands alone among its neighbours: AAA")


def wednesday(**last: float) -> DailyDesk:
    """A live desk of 20 AAA and 20 BBB before Wednesday's open, quoted before Tuesday's close at what its bars say."""
    d = with_shares(account := Account(), AAA=20, BBB=20)
    d.state = replace(d.state, trading=OVERLAY)
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    prices = {**dict.fromkeys(SYMBOLS, 100.0), **last}
    for minute in (380, 382):  # a second one confirms a leap, and a report that no split made it
        d.quotes(minute, **{symbol: str(prices[symbol]) for symbol in ("AAA", "BBB")})
        d.put(account.report(d.at(minute + 1)))
    d.end(**prices)
    d.begin(HALF_DAY)
    d.put(account.report(d.at(-20)))
    return d


@pytest.mark.parametrize("wrong", [370.0, 27.0])
def test_a_wrong_newest_bar_of_what_is_not_held_yet_sells_nothing_of_what_is(wrong: float) -> None:
    """Nobody quotes CCC, so the bar is its price too. With 370 the cap would be 1 %."""
    d = wednesday(CCC=wrong)
    assert changes_after(d, KEEP, 10, 3) == [("BBB", -10)]
    assert row(d).unknown == "a close stands alone among its neighbours: CCC"


def test_a_fall_by_half_that_quotes_confirm_counts_at_once() -> None:
    """900 of 2,900 USD fell by 0.55, with a weight of 2/3: 2.2158 a year, so 321 of the 8,900 USD may be invested."""
    d = wednesday(AAA=45.0)
    changes_after(d, KEEP, KEEP, KEEP)
    assert (row(d).unknown, json.loads(row(d).cut)) == ("", {"AAA": [20, 2], "BBB": [20, 2]})


@pytest.mark.parametrize("close_count", [7, 8])
@pytest.mark.parametrize("times", [3.7, 0.27])
def test_the_oldest_close_that_is_read_sells_nothing_alone(close_count: int, times: float) -> None:
    """Seven are read. Where an eighth is kept, it is the neighbour before."""
    d = with_shares(Account(), AAA=20, BBB=20)
    d.state = replace(d.state, trading=OVERLAY)
    know(d, **dict.fromkeys(SYMBOLS, closes(close_count)))
    know(d, AAA=[close * times if day == close_count - 7 else close for day, close in enumerate(closes(close_count))])
    assert changes_after(d, KEEP, 10, 10) == [("BBB", -10)]
    assert row(d).unknown == "a close stands alone among its neighbours: AAA"


def test_a_session_without_a_bar_is_no_neighbour_of_a_wrong_close() -> None:
    d = with_shares(Account(), AAA=20, BBB=20)
    d.state = replace(d.state, trading=OVERLAY)
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    bad = history(
        "AAA", [close * (3.7 if day == 4 else 1) for day, close in enumerate(closes())], MONDAY.open_ns - MIDNIGHT
    )
    d.put(replace(bad, time_ns=d.state.now_ns, bars=(*bad.bars[:5], *bad.bars[6:])))
    assert changes_after(d, KEEP, 10, 10) == [("BBB", -10)]
    assert row(d).unknown == "a close stands alone among its neighbours: AAA"


def test_shares_that_the_desk_does_not_trade_deny_buys_until_they_are_gone() -> None:
    d = tuesday(AAA=20)
    book = d.state.book
    spun = replace(book.positions["AAA"], symbol="NEW", quantity=5)
    d.state = replace(d.state, book=replace(book, positions={**book.positions, "NEW": spun}))
    assert changes_after(d, KEEP, 10, KEEP) == []
    assert row(d).unknown == "the desk holds what it does not trade: NEW"


def test_a_delisted_share_that_is_held_keeps_buys_back_until_the_broker_s_line_removes_it() -> None:
    """Its five shares have no bar since Friday: what they may lose is unknown, so is the volatility with them."""
    d = with_shares(account := Account(), AAA=5, BBB=20)
    d.put(account.report(d.at(-25)))
    d.put(ev.RunStarted(d.at(-24), "live", "desk-1", "shelf", "e2", "code", "sip", OVERLAY))
    know(d, BBB=closes(), CCC=closes())
    d.put(replace(history("AAA", closes(), LAST_FRIDAY.open_ns - MIDNIGHT), time_ns=d.state.now_ns))
    d.put(account.report(d.at(-19)))
    d.due()
    assert alarms(d.answer(KEEP, KEEP, 10)) == ["volatility_unknown"]
    assert d.state.works == {}
    d.end(BBB=100.0, CCC=100.0)
    d.begin(HALF_DAY)
    del account.positions["AAA"]
    account.book(line("REORG", "AAA", -5))
    know(d, BBB=closes(), CCC=closes())
    d.put(account.report(d.at(-20)), account.report(d.at(-19)))
    assert changes_after(d, KEEP, KEEP, 10) == [("CCC", 10)]


def test_without_equity_no_buy_is_asked_for_and_a_sale_is() -> None:
    d = tuesday(AAA=20)
    d.due()
    d.state = replace(d.state, book=replace(d.state.book, equity=d.state.book.equity * 0))
    d.answer(0, 10, KEEP)
    assert json.loads(d.decisions()[-1].target or "") == [{"symbol": "AAA", "goal": 0}]
    assert row(d).unknown.startswith("equity is 0")


def test_what_another_party_holds_is_no_exposure_of_the_desk() -> None:
    d = tuesday(AAA=40)
    d.state = replace(d.state, broker=replace(d.state.broker, foreign_held={"BBB": 500}))
    assert changes_after(d, KEEP, 20, KEEP) == [("BBB", 10)]


def test_a_legs_fault_is_left_to_the_gates() -> None:
    d = tuesday()
    d.due()
    d.answer(10, -5, KEEP)
    assert d.decisions()[-1].outcome == "denied"
    assert [one for one in d.rows if isinstance(one, OverlayRow)] == []


@pytest.mark.parametrize("unknown", [False, True])
def test_a_flatten_leaves_everything_whatever_the_overlay_says(unknown: bool) -> None:
    d = tuesday(AAA=60)
    if unknown:
        know(d, AAA=closes(5))
    changes_after(d, KEEP, 10, KEEP)
    d.put(ev.FlattenRequested(d.at(2), "enough", "ann"))
    d.quotes(3, **AT_100)
    assert sum(count for symbol, count in d.working() if symbol == "AAA") == -60


def test_a_restart_in_the_middle_of_a_basket_goes_on_with_what_the_cap_left() -> None:
    d = tuesday(AAA=60)
    assert changes_after(d, KEEP, KEEP, KEEP) == [("AAA", -10)]
    d.reload = True
    d.put(ev.RunStarted(d.at(-10), "replay", "desk-1", "shelf", "e1", "code", "sip", OVERLAY))
    d.fill("e1-shelf-2-0-0", 10, "100")
    d.quotes(1, **AT_100)
    assert (d.held, d.state.works) == ({"AAA": 50}, {})


def test_a_basket_that_a_halt_kept_back_is_traded_under_its_cap_after_the_resume() -> None:
    d = with_shares(account := Account(), OVERLAY)
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    d.put(ev.HaltRequested(d.at(-18), "operator", "look", "ann"))
    d.due()
    d.answer(100, KEEP, KEEP)
    assert d.decisions()[-1].outcome == "denied"
    d.put(ev.ResumeRequested(d.at(-10), "fine", "ann"), account.report(d.at(-9)))
    assert orders(d.quotes(0, AAA="100")) == [("AAA", 50, "100.20")]


def test_a_live_desk_of_fractions_buys_under_its_cap() -> None:
    d = live(Account("300"), Trading(basket=changed(OVERLAY.basket, fractions="on")))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    assert changes_after(d, 3, KEEP, KEEP) == [("AAA", exact("1.5118"))]  # 0.5039526 of 300 USD
    assert row(d).unknown == ""


@pytest.mark.parametrize("limit", [0.1, 2.05])
@pytest.mark.parametrize("kept_back", ["halt", "status"])
def test_the_sales_down_to_the_cap_wait_for_what_passes_whatever_the_turnover(limit: float, kept_back: str) -> None:
    d = with_shares(account := Account(), AAA=90)
    rules = Trading(basket=changed(OVERLAY.basket, turnover_max=limit))
    d.put(ev.RunStarted(d.at(-19), "live", "desk-1", "shelf", "e1", "code", "sip", rules), account.report(d.at(-18.5)))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    if kept_back == "halt":
        d.put(ev.HaltRequested(d.at(-18), "operator", "look", "ann"))
    else:
        d.put(account.report(d.at(-18), blocked="account_blocked"))
    d.due()
    assert orders(d.answer(KEEP, 5, KEEP)) == []
    d.reload = True
    back = [] if kept_back == "status" else d.put(ev.ResumeRequested(d.at(-10), "fine", "ann"))
    assert orders(back + d.put(account.report(d.at(-9)))) == [("AAA", -40, None)]


def test_a_halted_symbol_s_sale_waits_and_is_asked_for_again_the_next_day() -> None:
    d = tuesday(AAA=60)
    assert changes_after(d, KEEP, KEEP, KEEP) == [("AAA", -10)]
    d.tick(386)  # no quote all day: given up five minutes before the close
    d.put(ev.OrderCanceled(d.at(387), "e1-shelf-2-0-0"))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    assert d.held == {"AAA": 60}
    d.begin(HALF_DAY)
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    assert changes_after(d, KEEP, KEEP, KEEP) == [("AAA", -10)]


def test_a_desk_without_a_target_writes_no_row() -> None:
    d = DailyDesk().fund().holds(AAA=60)
    assert [one for one in d.rows if isinstance(one, OverlayRow)] == []


def test_a_resting_stop_gives_way_to_the_overlay_s_sale() -> None:
    d, account, name = daily()  # 10 AAA
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(TUESDAY)
    small = changed(OVERLAY.basket, volatility_target=0.008)  # 504 USD
    d.state = replace(d.state, trading=changed(DISASTER, basket=small))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    d.put(account.report(d.at(-20)))
    d.due()
    effects = d.answer(KEEP, KEEP, KEEP)
    assert ([effect.client_order_id for effect in of(effects, CancelOrder)], sales(effects)) == ([name], [])
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(-14), name), account.report(d.at(-13.9)))
    assert [(order.symbol, order.quantity, order.auction) for order in sales(effects)] == [("AAA", 5, True)]


def test_a_broken_claim_leaves_the_overlay_s_sales_and_no_buy() -> None:
    d = tuesday(AAA=60)
    claim = ev.RiskClaim(0.08, 0.06, 0.1, 60, 0.9, 0.1, 0.95, 252)
    d.put(ev.ModelVerified(d.state.now_ns, "v1", "d", promoted=True, feed="sip", claim=claim))
    d.put(ev.ClaimJudged(d.state.now_ns, "v1", "above", "volatility 20.00%", 60, 0.2, 0.0, "no_new_risk"))
    assert changes_after(d, 55, 30, KEEP) == [("AAA", -5)]
    assert d.decisions()[-1].outcome == "ordered"
    d.quotes(0, **AT_100)
    assert [(symbol, count) for symbol, count in d.working() if symbol == "BBB"] == []


def with_45_to_sell(account: Account, *, auction: bool, band: float = 0.1) -> DailyDesk:
    """Before Tuesday's open, live: 45 AAA leave for 50 BBB, which are the whole of the cap."""
    d = with_shares(account, AAA=45)
    rules = changed(OVERLAY.basket, auction=auction, volatility_band=band)
    d.state = replace(d.state, trading=changed(OVERLAY, basket=rules))
    know(d, **dict.fromkeys(SYMBOLS, closes()))
    assert changes_after(d, 0, 50, KEEP) == [("AAA", -45), ("BBB", 50)]
    return d


@pytest.mark.parametrize("auction", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_while_a_sale_finds_no_buyer_no_buy_goes_beyond_the_cap(auction: bool, told: bool) -> None:
    """There is cash for all of them, and 5,543.48 USD may be held: beside 4,500 of AAA ten BBB at 100.20."""
    d = with_45_to_sell(account := Account(), auction=auction)
    if told:
        d.put(ev.TradingStatusChanged(d.at(-10), "AAA", True, "T12"))
    names = [account.take(order, d.state.now_ns) for order in of(d.effects, SubmitOrder) if order.auction]
    for name in names:
        account.end(name, "expired")
    effects = d.put(*(ev.OrderExpired(d.at(0), name) for name in names))
    for second in range(0, 600, 10):
        effects += d.quotes(second / 60, BBB="100") + d.put(account.report(d.at(0, second + 1)))
        for order in of(effects, SubmitOrder):
            if order.client_order_id not in account.orders:
                account.take(order, d.state.now_ns)
                d.put(account.fill(order.client_order_id, order.quantity, "100", d.state.now_ns))
    assert d.held == ({"AAA": 45} if told else {"AAA": 45, "BBB": 10})
    if told:  # once it trades again all goes on
        d.put(ev.TradingStatusChanged(d.at(11), "AAA", False, ""))
        (sale,) = of(d.quotes(11.2, AAA="100", BBB="100"), SubmitOrder)
        d.put(account.fill(account.take(sale, d.state.now_ns), 45, "100", d.state.now_ns))
        effects = d.put(account.report(d.at(11.3))) + d.quotes(11.4, AAA="100", BBB="100")
        assert [order[:2] for order in orders(effects)] == [("BBB", 50)]


def test_a_sale_that_is_done_lets_the_buys_of_the_cap_go_whatever_the_prices_did() -> None:
    d = with_45_to_sell(account := Account(), auction=True, band=0.0)
    (sale,) = [order for order in of(d.effects, SubmitOrder) if order.auction]
    d.put(account.fill(account.take(sale, d.at(0)), 45, "100", d.at(0)), account.report(d.at(0, 1)))
    assert [order[:2] for order in orders(d.quotes(0.1, AAA="100", BBB="104"))] == [("BBB", 50)]
