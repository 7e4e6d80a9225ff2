"""Which contract: the nearest expiry within the days, the strike by rule, nothing where anything is unknown."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core.events import Contract, ContractsListed
from daemon.core.instruments.quotes import candidates, choose_expiry, nearest
from daemon.core.limits import Contracts
from daemon.core.state import OptionChain, SessionState
from tests.support.core.desk import FRIDAY, HALF_DAY, MINUTE, MONDAY, SESSIONS, TUESDAY, chain_of

LATER = SESSIONS[1:]
NOW = MONDAY.open_ns + 60 * MINUTE


def listed(*expiries: str, volatility: float | None = 0.2) -> ContractsListed:
    contracts = tuple(c for expiry in expiries for c in chain_of(expiry))
    return ContractsListed(NOW, MONDAY.date, contracts, volatility)


def expiry_of(min_days: int, max_days: int, *expiries: str) -> str:
    rule = Contracts(min_days=min_days, max_days=max_days)
    return choose_expiry(listed(*expiries), MONDAY, LATER, rule).expiry


ALL = tuple(session.date for session in SESSIONS)


@pytest.mark.parametrize(
    ("days", "expiries", "expected"),
    [
        ((0, 5), ALL, MONDAY.date),
        ((1, 5), ALL, TUESDAY.date),
        ((2, 2), ALL, HALF_DAY.date),
        ((3, 3), ALL, FRIDAY.date),  # the third trading day, four days away: the holiday lies between
        ((1, 5), (MONDAY.date, FRIDAY.date), FRIDAY.date),
        ((1, 2), (MONDAY.date, FRIDAY.date), ""),
        ((4, 9), ALL, ""),
        ((1, 5), (), ""),
    ],
)
def test_the_nearest_expiry_within_the_trading_days_is_chosen(
    days: tuple[int, int], expiries: tuple[str, ...], expected: str
) -> None:
    assert expiry_of(*days, *expiries) == expected


def test_calls_and_puts_are_aligned_by_ascending_strike_and_lonely_strikes_are_left_out() -> None:
    contracts = [c for c in reversed(chain_of(TUESDAY.date)) if (c.right, c.strike) != (1, Decimal(500))]
    chain = choose_expiry(ContractsListed(NOW, MONDAY.date, tuple(contracts), None), MONDAY, LATER, Contracts())
    assert list(chain.strikes) == [495, 496, 497, 498, 499, 501, 502, 503, 504, 505]
    assert [c.strike for c in chain.calls] == [c.strike for c in chain.puts] == [Decimal(int(k)) for k in chain.strikes]
    assert {c.right for c in chain.calls} == {1}
    assert {c.right for c in chain.puts} == {-1}


def test_an_expiry_with_calls_alone_is_passed_over() -> None:
    calls = tuple(c for c in chain_of(TUESDAY.date) if c.right > 0)
    event = ContractsListed(NOW, MONDAY.date, calls + chain_of(FRIDAY.date), 0.2)
    assert choose_expiry(event, MONDAY, LATER, Contracts()).expiry == FRIDAY.date


@pytest.mark.parametrize(
    ("level", "index"), [(490, 0), (495, 0), (495.4, 0), (495.5, 0), (495.51, 1), (500, 5), (505, 10), (900, 10)]
)
def test_the_nearest_strike_is_the_lower_one_on_a_tie(level: float, index: int) -> None:
    assert nearest(tuple(float(k) for k in range(495, 506)), level) == index


def chain(volatility: float | None = 0.2) -> OptionChain:
    return choose_expiry(listed(*ALL, volatility=volatility), MONDAY, LATER, Contracts())


STATE = SessionState(session=MONDAY, upcoming=LATER, spot=501.4)


def strikes(contracts: tuple[Contract, ...]) -> list[tuple[int, int]]:
    return [(contract.right, int(contract.strike)) for contract in contracts]


def test_nearest_takes_the_call_and_the_put_next_to_the_money() -> None:
    assert strikes(candidates(chain(), STATE, NOW, Contracts())) == [(1, 501), (-1, 501)]


def test_a_delta_of_a_quarter_lies_out_of_the_money_on_both_sides() -> None:
    # 330 minutes of 390 x 0.54 + 0.46 + 0.54 days of 252: deviation 0.2 x sqrt(0.005782) = 0.01521.
    # N(0.6745) = 0.75: the call is struck at 501.4 x exp(0.6745 x 0.01521 + 0.000116) = 506.6, the put at 496.4.
    contracts = candidates(chain(), STATE, NOW, Contracts(strike="delta", delta_target=0.25))
    assert strikes(contracts) == [(1, 505), (-1, 496)]


@pytest.mark.parametrize(
    ("state", "book", "now", "rule"),
    [
        (replace(STATE, spot=0.0), chain(), NOW, Contracts()),
        (replace(STATE, session=None), chain(), NOW, Contracts()),
        (STATE, OptionChain(MONDAY.date, "", (), (), (), 0.2), NOW, Contracts()),
        (STATE, chain(None), NOW, Contracts(strike="delta")),
        (STATE, replace(chain(), expiry=MONDAY.date), MONDAY.close_ns, Contracts(strike="delta")),
    ],
    ids=["no spot", "no session", "no strikes", "no volatility", "no time left"],
)
def test_there_is_no_candidate_where_something_is_unknown(
    state: SessionState, book: OptionChain, now: int, rule: Contracts
) -> None:
    assert candidates(book, state, now, rule) == ()
