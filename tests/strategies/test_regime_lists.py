"""`regime_switcher` for other funds than its own: the 16 regimes by the stated rule, and what a list may be."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import msgspec
import numpy as np
import pytest

from strategies.golden import contract_hash
from strategies.kit.contract import Answer, Bar, Basket, Leg, Portfolio
from strategies.kit.daily_features import regime_table
from strategies.kit.manifest import MANIFEST_FILE, decode
from strategies.regime_switcher import REGIMES, SYMBOLS, RegimeSwitcher, basket_of, inverse_weights, layout, regimes_of
from strategies.registry import configured, declaration, strategy
from tests.support.paths import REPOSITORY
from tests.support.strategies.days import columns_of, days_of, start_of, view_of

FIVE = ("SPY", "QQQ", "IWM", "TLT", "GLD")
W, DAYS = 252, 260


def names(symbols: tuple[str, ...]) -> list[str]:
    return [name for name, _ in regimes_of(symbols)]


def test_the_default_list_keeps_the_contract_that_the_shipped_versions_were_made_for() -> None:
    shipped = sorted((REPOSITORY / "onnx_models" / "regime_switcher").glob(f"*/{MANIFEST_FILE}"))
    assert shipped
    for symbols in ((), SYMBOLS):
        hashes = {decode(path.read_bytes()).contract_hash for path in shipped}
        assert hashes == {contract_hash(strategy("regime_switcher", symbols))}
    assert regimes_of(SYMBOLS) is REGIMES


def test_the_regimes_of_five_funds_follow_from_their_order() -> None:
    assert names(FIVE) == [
        "HOLD", "ALL_CASH", "ALL_SPY", "ALL_QQQ", "ALL_IWM", "ALL_TLT", "ALL_GLD", "EQUAL_WEIGHT", "INVERSE_VOLATILITY",
        "HALF_EQUAL", "HALF_INVERSE", "NO_GLD", "NO_TLT", "NO_IWM", "NO_QQQ", "NO_SPY",
    ]  # fmt: skip
    weights = dict(regimes_of(FIVE))
    assert weights["ALL_TLT"] == (0.0, 0.0, 0.0, 1.0, 0.0)
    assert weights["NO_QQQ"] == (0.25, 0.0, 0.25, 0.25, 0.25)
    assert weights["HALF_EQUAL"] == (0.1,) * 5
    assert (weights["HOLD"], weights["INVERSE_VOLATILITY"], weights["HALF_INVERSE"]) == (None, 1.0, 0.5)


@pytest.mark.parametrize(
    ("funds", "last"),
    [(1, "EQUAL_5"), (2, "EQUAL_30"), (3, "EQUAL_10"), (4, "EQUAL_25"), (6, "NO_C"), (10, "HALF_INVERSE")],
)
def test_from_one_fund_to_ten_there_are_16_regimes_that_leave_no_debt(funds: int, last: str) -> None:
    symbols = tuple("ABCDEFGHIJ"[:funds])
    regimes = regimes_of(symbols)
    assert len(dict(regimes)) == len({weights for _, weights in regimes}) == 16
    assert regimes[-1][0] == last
    assert regimes[:2] == (("HOLD", None), ("ALL_CASH", (0.0,) * funds))
    for name, weights in regimes:
        if isinstance(weights, tuple):
            assert len(weights) == funds, name
            assert min(weights) >= 0.0 <= sum(weights) <= 1.0 + 1e-12, name
    assert len(strategy("regime_switcher", symbols).spec.features) == 64


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        (tuple("ABCDEFGHIJK"), "expected 1 to 10 symbols"),
        (("SPY", "TLT", "SPY"), "expected each symbol once"),
        (("SPY", "CASH"), "expected no CASH"),
    ],
)
def test_a_list_of_which_no_16_regimes_follow_is_refused(symbols: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        strategy("regime_switcher", symbols)


def test_each_list_and_each_order_is_a_contract_of_its_own() -> None:
    lists = [SYMBOLS, FIVE, FIVE[::-1], ("SPY",), ("QQQ", "SPY", "IWM")]
    assert len({contract_hash(strategy("regime_switcher", symbols)) for symbols in lists}) == len(lists)
    specs = [strategy("regime_switcher", symbols).spec for symbols in lists]
    assert [configured(spec) for spec in specs] == [(), *lists[1:]]
    assert declaration("regime_switcher") == declaration("regime_switcher", SYMBOLS)
    assert "inverse" in declaration("regime_switcher", FIVE)
    assert "inverse" not in declaration("regime_switcher", ("SPY",))


def test_the_64_numbers_of_five_funds_have_the_bits_of_the_table() -> None:
    desk = RegimeSwitcher(FIVE)
    bars = days_of(desk.spec, DAYS)
    table = regime_table(columns_of(bars, FIVE, DAYS)["close"])
    state, places = desk.start(), layout(5)
    for day in range(DAYS):
        state = desk.remember(state, tuple(bar for bar in bars if bar.start_ns == start_of(day)))
    holdings = {"cash": 100.0, "equity": 1000.0, "shares": (10, 0, 0, 30, 50), "prices": (10.0,) * 5}
    _, observation = desk.observe(state, (), view_of(desk.spec, DAYS, **holdings))
    assert observation is not None
    values = observation.array()
    assert values[:15].tobytes() == table[-1].tobytes()
    assert values[places.weights].tolist() == pytest.approx([0.1, 0.1, 0.0, 0.0, 0.3, 0.5])
    assert (places.portfolio_return, places.drawdown, places.used) == (21, 22, 23)
    assert desk.spec.features[20:24] == ("weight GLD", "portfolio_return", "drawdown", "reserved 23")
    assert not values[23:].any()


def test_inverse_volatility_by_hand() -> None:
    """One fund moves by 1 % each day, to and fro, the other by 4 %: four times the money in the calm one."""
    desk = RegimeSwitcher(("CALM", "WILD"))
    moves = {"CALM": 0.01, "WILD": 0.04}
    state = desk.start()
    for day in range(W):
        closes = {symbol: 100.0 * (1.0 + move * (day % 2)) for symbol, move in moves.items()}
        state = desk.remember(state, tuple(Bar(s, start_of(day), c, c, c, c, 1.0) for s, c in closes.items()))
    portfolio = {"cash": 1000.0, "equity": 1000.0, "shares": (0, 0), "prices": (1.0, 1.0)}
    view = view_of(desk.spec, W, **portfolio)
    returns = {s: [b / a - 1 for a, b in pairwise([100.0, 100.0 * (1 + m)] * 11)][-20:] for s, m in moves.items()}
    deviations = {s: sqrt(sum((r - sum(v) / 20) ** 2 for r in v) / 19) for s, v in returns.items()}
    calm = deviations["WILD"] / (deviations["CALM"] + deviations["WILD"])
    assert calm == pytest.approx(0.8, abs=0.01)
    for name, part in (("INVERSE_VOLATILITY", 1.0), ("HALF_INVERSE", 0.5)):
        place = desk.spec.actions.index(name)
        _, decided = desk.decide(state, Answer(tuple(float(at == place) for at in range(16))), view)
        assert decided.basket == Basket(
            (Leg("CALM", int(part * calm * 1000)), Leg("WILD", int(part * (1 - calm) * 1000)))
        )


def test_all_stays_as_it_is_while_a_volatility_is_not_known() -> None:
    portfolio = Portfolio(0.0, 1000.0, (100, 0), (10.0, 10.0))
    two, place = ("A", "B"), names(("A", "B")).index("INVERSE_VOLATILITY")
    assert basket_of(place, portfolio, two, (0.1, 0.3)) == Basket((Leg("A", 75), Leg("B", 25)))
    for unknown in ((), (0.0, 0.3), (float("nan"), 0.3)):
        assert basket_of(place, portfolio, two, unknown) == Basket()
    assert np.isnan(inverse_weights([0.0, 0.3])).all()


def test_the_running_session_does_not_change_the_weights_by_volatility() -> None:
    desk = RegimeSwitcher(FIVE)
    bars = days_of(desk.spec, DAYS)
    state = desk.remember(desk.start(), bars[: 5 * W])
    view = view_of(desk.spec, W)
    place = desk.spec.actions.index("INVERSE_VOLATILITY")
    answer = Answer(tuple(float(at == place) for at in range(16)))
    state_after, _ = desk.observe(state, bars[5 * W : 5 * W + 5], view)
    without, _ = desk.observe(state, (), view)
    assert desk.decide(state_after, answer, view)[1] == desk.decide(without, answer, view)[1]
    again = msgspec.json.decode(msgspec.json.encode(state_after), type=desk.state_type)
    assert desk.decide(again, answer, view)[1] == desk.decide(state_after, answer, view)[1]
