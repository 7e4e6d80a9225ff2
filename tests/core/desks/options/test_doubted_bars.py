"""A bar that cannot be: it moves no strike, no feature and no answer before quotes or the next bar confirm it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core.effects import SubmitOrder
from daemon.core.events import BarClosed, BarCorrected, QuotesReceived, SessionEnded
from daemon.core.instruments.quotes import implied_spot
from daemon.core.state import encode_state
from strategies.kit.contract import Bar
from tests.support.core.desk import BUY_CALL, CALL, MONDAY, PUT, Desk, alarms, desk, of, questions, quote, sent
from tests.support.examples import examples


def closes(d: Desk, minute: int, close: float, **prices: float) -> list[Any]:
    """The bar that starts at `minute`, and the event that closes it without quotes."""
    values = {"open": close, "high": max(close, *prices.values(), 0), "low": min(close, *prices.values(), close)}
    bar = Bar("SPY", d.at(minute), values["open"], values["high"], values["low"], close, 1000.0)
    end = d.at(minute + 1)
    return d.put(BarClosed(end, bar), QuotesReceived(end, d.at(minute), ()))


def running() -> Desk:
    """A desk that saw three bars at 500."""
    d = desk(mode="live")
    for minute in range(3):
        d.bar(minute)
    return d


@pytest.mark.parametrize("close", [20_000.0, 530.0, 470.0, 12.5])
def test_one_impossible_bar_asks_nothing_and_moves_no_strike(close: float) -> None:
    d = running()
    contracts = d.state.watched
    assert questions(closes(d, 3, close)) == []
    assert (d.state.session.spot, d.state.watched, d.state.strategy.closes) == (500.0, contracts, (500.0,) * 3)
    effects = d.bar(4)
    assert (alarms(effects), len(questions(effects))) == (["bar_rejected"], 1)
    assert (d.state.session.spot, d.state.strategy.closes, d.state.doubted) == (500.0, (500.0,) * 4, None)


def test_an_extreme_within_the_bar_is_doubted_too() -> None:
    d = running()
    closes(d, 3, 500.0, high=20_000.0)
    d.bar(4)
    assert d.state.strategy.closes == (500.0,) * 4


def test_a_leap_that_the_next_bar_confirms_is_seen_whole_and_asked_about_once() -> None:
    d = running()
    assert questions(closes(d, 3, 460.0)) == []
    effects = closes(d, 4, 458.0)
    assert len(questions(effects)) == 1
    assert d.state.strategy.closes == (500.0, 500.0, 500.0, 460.0, 458.0)
    assert (d.state.session.spot, d.state.stats.bars_rejected) == (458.0, 0)


def test_a_fall_that_goes_on_is_followed_one_bar_behind() -> None:
    d = running()
    spots = []
    for minute, close in enumerate((460.0, 420.0, 380.0, 379.0), 3):
        closes(d, minute, close)
        spots.append(d.state.session.spot)
    assert spots == [500.0, 460.0, 420.0, 379.0]


def test_a_leap_to_the_other_side_refuses_the_first_and_is_doubted_itself() -> None:
    d = running()
    closes(d, 3, 20_000.0)
    assert alarms(closes(d, 4, 12.5)) == ["bar_rejected"]
    assert (d.state.session.spot, d.state.strategy.closes) == (500.0, (500.0,) * 3)


def test_quotes_that_imply_the_same_price_confirm_a_leap_at_once() -> None:
    d = running()
    quotes = (quote(CALL, "0.30", "0.32"), quote(PUT, "40.00", "40.40"))  # 500 + 0.31 - 40.20 = 460.11
    effects = d.bar(3, 460.0, quotes=quotes)
    assert (len(questions(effects)), d.state.session.spot) == (1, 460.0)


def test_quotes_from_before_the_bar_or_of_another_price_confirm_nothing() -> None:
    d = running()
    assert questions(d.bar(3, 460.0)) == []  # call and put cost the same: 500
    old = tuple(replace(q, quoted_ns=d.at(3)) for q in (quote(CALL, "0.30", "0.32"), quote(PUT, "40.00", "40.40")))
    d.put(BarClosed(d.at(5), Bar("SPY", d.at(4), 540.0, 540.0, 540.0, 540.0, 1.0)))
    d.put(QuotesReceived(d.at(5), d.at(4), old))
    assert d.state.session.spot == 500.0


def test_the_same_bar_again_is_a_duplicate_and_confirms_nothing() -> None:
    d = running()
    closes(d, 3, 460.0)
    assert alarms(closes(d, 3, 460.0)) == ["bar_rejected"]
    assert (d.state.session.spot, d.state.stats.bars_rejected) == (500.0, 1)


def test_a_correction_mends_a_doubted_bar_and_cannot_bring_a_leap_itself() -> None:
    d = running()
    closes(d, 3, 20_000.0)
    d.put(BarCorrected(d.at(4, 30), Bar("SPY", d.at(3), 501.0, 501.0, 501.0, 501.0, 1000.0)))
    d.bar(4)
    assert d.state.strategy.closes == (500.0, 500.0, 500.0, 501.0, 500.0)
    wild = BarCorrected(d.at(5, 30), Bar("SPY", d.at(4), 500.0, 9000.0, 500.0, 500.0, 1000.0))
    assert alarms(d.put(wild)) == ["bar_rejected"]
    assert d.state.strategy.closes[-1] == 500.0


def test_a_bar_that_is_still_doubted_at_the_end_is_refused() -> None:
    d = running()
    closes(d, 3, 20_000.0)
    assert alarms(d.put(SessionEnded(MONDAY.close_ns, MONDAY.date))) == ["bar_rejected"]
    assert d.state.doubted is None


def test_a_doubted_bar_survives_a_restart() -> None:
    d = running()
    closes(d, 3, 460.0)
    d.state = d.core.decoder().decode(encode_state(d.state))
    assert len(questions(closes(d, 4, 458.0))) == 1


def test_an_entry_at_a_price_that_the_quotes_do_not_support_is_denied() -> None:
    d = desk(mode="live")
    dear = (quote(CALL, "40.00", "40.20"), quote(PUT, "0.30", "0.32"))  # 500 + 40.10 - 0.31: the market is at 539.79
    d.bar(0, 500.0, quotes=dear)  # the first bar of all, with nothing to compare
    assert of(d.answer(BUY_CALL), SubmitOrder) == []
    assert d.state.stats.denials["spot_unsupported"] == 1
    d.bar(1)
    assert sent(d.answer(BUY_CALL)).symbol == CALL


def test_parity_says_what_the_pair_says() -> None:
    quotes = {CALL: quote(CALL, "3.00", "3.10"), PUT: quote(PUT, "1.00", "1.10")}
    assert implied_spot(CALL, quotes) == implied_spot(PUT, quotes) == 502.0
    assert implied_spot("SPY", quotes) is None
    assert implied_spot(CALL, {CALL: quotes[CALL]}) is None
    assert implied_spot(CALL, {**quotes, PUT: quote(PUT, "0", "1.10")}) is None


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.one_of(st.floats(0.01, 460), st.floats(540, 1e6))), max_size=15),
)
def test_lone_impossible_bars_never_reach_strategy_strikes_or_policy(bars: list[tuple[bool, float]]) -> None:
    d, good = running(), 3
    minute = 3
    for bad, price in bars:
        if bad:
            closes(d, minute, price)
            minute += 1
        closes(d, minute, 500.0 + minute % 3)
        good, minute = good + 1, minute + 1
    assert len(d.state.strategy.closes) == good
    assert all(499 < close < 504 for close in d.state.strategy.closes)


def test_a_correction_of_the_newest_bar_moves_the_price_that_strikes_and_worths_follow() -> None:
    d = desk()
    d.bar(0, 500.0)
    d.bar(1, 504.0)
    d.put(BarCorrected(d.at(2, 30), Bar("SPY", d.at(0), 501.0, 501.0, 501.0, 501.0, 1000.0)))  # an older one
    assert d.state.session.spot == 504.0
    d.put(BarCorrected(d.at(2, 30), Bar("SPY", d.at(1), 500.0, 500.0, 500.0, 500.0, 1000.0)))
    assert d.state.session.spot == 500.0
