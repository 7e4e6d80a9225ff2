"""The copies of a desk with a real broker, and quotes of contracts that the running desk does not watch: by hand."""

from __future__ import annotations

import math
from decimal import Decimal
from statistics import NormalDist
from typing import Any, TypeVar

import pytest

from daemon.core.effects import AnyEffect
from daemon.core.events import (
    Event,
    HistoryAdjusted,
    PanicNoticed,
    PolicyAnswered,
    PolicyFailed,
    SessionEnded,
    ShadowAnswered,
)
from daemon.core.limits import Sizing, Trading
from daemon.core.step import Machine
from daemon.models.shadow import CopyResult, Shadow, ShadowSession, modelled_quote
from tests.support.core.account import Account
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, Choosy, DailyDesk, bar
from tests.support.core.daily_live import live
from tests.support.core.desk import BUY_CALL, CALL, EXIT, HOLD, MONDAY, PUT, TUESDAY, Desk, logits, quote, sent

NOTHING = CopyResult(Decimal(0), 0, 0)
ONE = Trading(sizing=Sizing(max_contracts=1, take_profit=9.0))
CALL_503 = "SPY240702C00503000"
D = TypeVar("D", Desk, DailyDesk)


def shadowed(d: D) -> tuple[D, Shadow]:
    """The desk on a machine, whose steps a shadow sees."""
    machine, shadow = Machine(d.core, d.state), Shadow("v2")

    def stepped(event: Event) -> list[AnyEffect]:
        if isinstance(event, PolicyAnswered | PolicyFailed):
            machine.queue.popleft()
        step = machine.apply(event)
        d.state = step.state
        shadow.observe(machine, event, step)
        return list(step.effects)

    target: Any = d
    target._step = stepped
    return d, shadow


def candidate(d: Desk | DailyDesk, values: tuple[float, ...]) -> None:
    """The candidate's answer to the newest question."""
    d.put(ShadowAnswered(d.state.now_ns, d.state.decision, values, b"", "v2"))


def compared(shadow: Shadow) -> ShadowSession:
    """Monday's."""
    assert list(shadow.sessions) == [MONDAY.date]
    return shadow.sessions[MONDAY.date]


def real() -> tuple[Desk, Shadow]:
    """An option desk at a real broker on Monday."""
    return shadowed(Desk(ONE, mode="live").fund().begin())


def minute(d: Desk, number: int, live_action: int, action: int, *quotes: Any, spot: float = 500.0) -> list[AnyEffect]:
    """A bar with its quotes, and both answers; what the desk sends is taken by the broker."""
    d.bar(number, spot, quotes or None)
    effects = d.answer(live_action)
    candidate(d, logits(action, 0.9))
    return effects


def close_session(d: Desk | DailyDesk) -> None:
    d.put(SessionEnded(MONDAY.close_ns, MONDAY.date))


def test_at_a_real_broker_both_copies_fill_at_the_quotes_and_never_as_the_broker_did() -> None:
    d, shadow = real()
    order = sent(minute(d, 0, BUY_CALL, BUY_CALL)).client_order_id
    d.fill(order, 1, "1.50")
    minute(d, 1, HOLD, HOLD)
    minute(d, 2, EXIT, EXIT, quote(CALL, "2.50", "2.54"), quote(PUT))
    for number in range(3, 6):  # the exit is repriced down to the bid
        d.bar(number, quotes=(quote(CALL, "2.50", "2.54"), quote(PUT)))
    close_session(d)
    # 250.00 - 202.00, less 0.04685 up to 0.05, less 0.04685 + 0.00279 + 0.0000278 x 250 up to 0.06
    comparison = compared(shadow)
    assert comparison.live == comparison.candidate == (Decimal("47.89"), 2, 0)
    assert (comparison.answered, comparison.failed) == (3, 0)
    assert d.held == {CALL: 1}  # the running desk's own order to leave has no answer of its broker yet


def test_a_candidate_of_a_real_desk_begins_with_what_the_account_holds() -> None:
    d, shadow = shadowed(Desk(ONE, mode="live").fund().begin())
    order = d.buys()
    d.fill(order, 1, "2.00")
    minute(d, 1, HOLD, EXIT)
    d.bar(2)
    close_session(d)
    comparison = compared(shadow)
    assert comparison.live == NOTHING  # the session ends with what it began with, at the same quotes
    assert comparison.candidate == (Decimal("-2.06"), 1, 0)  # sold at 1.98, marked at 2.00 before; fee 0.05515 up


def test_what_a_copy_holds_or_works_on_is_used_though_the_desk_has_none_of_it() -> None:
    """Its quotes between two bars are those that the desk streams."""
    d, shadow = real()
    assert shadow.symbols_used == set()
    minute(d, 0, HOLD, BUY_CALL)
    assert not d.held
    assert shadow.symbols_used == {CALL}  # its order
    minute(d, 1, HOLD, HOLD)
    assert shadow.symbols_used == {CALL}  # what it bought
    minute(d, 2, HOLD, EXIT)
    minute(d, 3, HOLD, HOLD)
    assert shadow.symbols_used == set()


def test_an_answer_at_which_the_strategy_raises_counts_as_a_failed_one() -> None:
    d, shadow = shadowed(DailyDesk(strategy=Choosy()).fund().holds(AAA=10))
    d.begin(TUESDAY)
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    candidate(d, (99.0, KEEP, KEEP))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    comparison = shadow.sessions[TUESDAY.date]
    assert (comparison.answered, comparison.failed, comparison.candidate.fills) == (0, 1, 0)


def test_a_daily_desk_at_a_real_broker_buys_and_sells_at_the_quotes() -> None:
    d, shadow = shadowed(live(Account()))
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    candidate(d, (10, KEEP, KEEP))
    d.quotes(0, **dict.fromkeys(SYMBOLS, "100"))
    d.quotes(1, **dict.fromkeys(SYMBOLS, "100"))
    d.quotes(2, **dict.fromkeys(SYMBOLS, "104"))
    d.end(**dict.fromkeys(SYMBOLS, 104.0))
    comparison = compared(shadow)
    assert comparison.live == NOTHING
    assert (comparison.candidate.gained, comparison.candidate.fills) == (
        Decimal("38.99"),
        1,
    )  # 10 x 4.00, less 0.1 % of 1,000 and a cent by the day


def test_a_split_of_what_the_candidate_alone_holds_ends_the_copies_without_a_loss() -> None:
    d, shadow = shadowed(live(Account()))
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    candidate(d, (10, KEEP, KEEP))
    d.quotes(0, **dict.fromkeys(SYMBOLS, "100"))
    d.quotes(1, **dict.fromkeys(SYMBOLS, "100"))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(TUESDAY)
    d.put(HistoryAdjusted(d.at(-20), "AAA", tuple(bar("AAA", day, 50.0) for day in (LAST_FRIDAY, MONDAY))))
    for minute, price in ((-15, ""), (1, "50"), (2, "50")):
        if price:
            d.quotes(minute, **dict.fromkeys(SYMBOLS, price))
        else:
            d.due(minute)
            d.answer(KEEP, KEEP, KEEP)
            candidate(d, (KEEP, KEEP, KEEP))
    d.end(**dict.fromkeys(SYMBOLS, 50.0))
    gains = [session.candidate.gained for session in shadow.sessions.values()]
    assert all(abs(gain) < 2 for gain in gains), gains  # a cost of 0.1 % of 1,000; a half of them would be 500


def test_a_question_to_another_model_alone_parts_nothing_and_counts_no_session() -> None:
    d, shadow = real()
    d.bar(0)
    d.answer(BUY_CALL)
    d.put(ShadowAnswered(d.state.now_ns, d.state.decision, logits(HOLD), b"", "v3"))
    close_session(d)
    assert shadow.sessions == {}


def test_a_panic_ends_the_copies_with_what_they_came_to() -> None:
    d, shadow = real()
    minute(d, 0, HOLD, BUY_CALL)
    minute(d, 1, HOLD, HOLD)
    minute(d, 2, HOLD, HOLD)
    d.put(PanicNoticed(d.state.now_ns, "a test"))
    d.bar(3, quotes=(quote(CALL, "9.00", "9.04"), quote(PUT)))
    close_session(d)
    assert compared(shadow).candidate == (Decimal("-2.05"), 1, 0)  # bought at 2.02 with a fee of 0.05, marked at 2.00


# --- a contract that is not quoted ------------------------------------------------------------------------------------


def black_scholes_call(spot: float, strike: float, years: float, volatility: float) -> float:
    """The textbook's formula with r = q = 0."""
    normal, deviation = NormalDist(), volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + deviation**2 / 2) / deviation
    return spot * normal.cdf(d1) - strike * normal.cdf(d1 - deviation)


def years_after(minutes: int) -> float:
    """To Tuesday's close, so many minutes after Monday's open: the rest of both days and one night (docs/PAPER.md)."""
    return ((390 - minutes + 390) * 0.54 / 390 + 0.46) / 252


def neighbour(minutes: int, spot: float = 503.0) -> Any:
    """A quote of the call at 503 at a volatility of 0.25, without a spread."""
    value = f"{black_scholes_call(spot, 503.0, years_after(minutes), 0.25):.12f}"
    return quote(CALL_503, value, value)


def test_a_contract_that_the_candidate_alone_holds_is_priced_at_its_neighbour_s_volatility() -> None:
    d, shadow = real()
    minute(d, 0, HOLD, BUY_CALL)
    minute(d, 1, HOLD, HOLD)
    minute(d, 2, HOLD, EXIT, neighbour(3), spot=503.0)
    minute(d, 3, HOLD, HOLD, neighbour(4), spot=503.0)
    minute(d, 4, HOLD, HOLD, neighbour(5, 503.4), spot=503.4)  # above the limit of the sale
    assert CALL not in d.state.quotes
    close_session(d)
    value = black_scholes_call(503.4, 500.0, years_after(5), 0.25)
    bid = math.floor((value - 0.004 * value) * 100) / 100
    fee = math.ceil((0.04685 + 0.00279 + 0.0000278 * bid * 100) * 100) / 100
    comparison = compared(shadow)
    assert float(comparison.candidate.gained) == pytest.approx(bid * 100 - fee - 202.05)
    assert (comparison.candidate.fills, comparison.candidate.modelled) == (2, 3)
    assert comparison.live == NOTHING


def question(spot: float, *quotes: Any) -> Any:
    """The state of a desk after a bar with these quotes."""
    d = Desk().fund().begin()
    d.bar(0, spot, quotes)
    return d.state


def test_a_put_of_the_same_strike_implies_the_same_volatility() -> None:
    call = black_scholes_call(500.4, 500.0, years_after(1), 0.2)
    put = f"{call - 500.4 + 500.0:.12f}"  # put-call parity
    model_quote = modelled_quote(question(500.4, quote(PUT, put, put)), "SPY240702C00502000")
    value = black_scholes_call(500.4, 502.0, years_after(1), 0.2)
    assert model_quote is not None
    assert model_quote.bid == Decimal(str(math.floor((value - 0.005) * 100) / 100))
    assert model_quote.ask == Decimal(str(math.ceil((value + 0.005) * 100) / 100))


def test_a_price_below_its_intrinsic_value_or_without_an_offer_implies_nothing() -> None:
    assert modelled_quote(question(500.4, quote(CALL, "0.10", "0.10")), "SPY240702C00502000") is None
    assert modelled_quote(question(500.4, quote(CALL, "0", "1.00")), "SPY240702C00502000") is None
