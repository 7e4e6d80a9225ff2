"""The labels of the heads, worked out by hand from the bars that followed."""

from __future__ import annotations

from math import isnan, nan

import pytest
from msgspec.structs import replace

from daemon.experience.experience import ActionChoice, Experience, Prices, SymbolTransition
from strategies.kit.units import MINUTE_NS
from strategies.online_dqn.model_config import Ahead, Heads
from strategies.online_dqn.state_vector import shipped
from tests.support.rl.stream_learner import make_experiences
from training.online.labels import HeadLabels

CLOSES = (100.0, 101.0, 99.0, 102.0, 98.0)
LOWS = (99.5, 100.0, 97.0, 98.0, 98.0)


def bar(minute: int, symbol: int = 0) -> Prices:
    return Prices(minute * MINUTE_NS, 100.0, 110.0, LOWS[minute] + symbol, CLOSES[minute] + symbol, 1.0)


def decision(minute: int, symbols: int = 1, late: int = 0) -> Experience:
    """The decision at a bar; the first symbol's own bar may be `late` bars older."""
    holdings = [
        SymbolTransition(str(n), bar(minute, n), bar(minute + 1, n), 0, 0, 1.0, 1.0, 0.0, 0.0) for n in range(symbols)
    ]
    holdings[0] = replace(holdings[0], bar=bar(minute - late))
    choices = (ActionChoice(0, 0, (1.0, 0.0, 0.0)),) * symbols
    return replace(
        make_experiences(1)[0], bar_ns=minute * MINUTE_NS, holdings=tuple(holdings), chosen=choices, terminal=False
    )


def labels(direction: int | None = 3, risk: int | None = 2) -> HeadLabels:
    ahead = [None if bars is None else Ahead(bars) for bars in (direction, risk)]
    return HeadLabels(replace(shipped(), heads=Heads(*ahead)))


def test_they_are_the_close_so_many_bars_later_and_the_largest_fall_until_then() -> None:
    (values,) = labels().of(decision(0), [decision(minute) for minute in (1, 2, 3)])
    assert values == pytest.approx((1.0, 0.03))  # 102 after three bars; the low 97 is within two
    (values,) = labels(direction=2).of(decision(0), [decision(1), decision(2)])
    assert values == pytest.approx((0.0, 0.03))


def test_a_fall_that_never_came_is_none() -> None:
    assert labels(direction=None, risk=1).of(decision(0), [decision(1)]) == [(0.0,)]


def test_the_last_bar_that_was_seen_counts() -> None:
    """Two decisions later three bars are known: the newest one comes with what followed."""
    assert labels(direction=3, risk=None).of(decision(0), [decision(1), decision(2)]) == [(1.0,)]


def test_where_the_session_has_fewer_bars_it_is_not_known() -> None:
    (values,) = labels().of(decision(2), [decision(3)])
    assert isnan(values[0])
    assert values[1] == pytest.approx(1.0 - 98.0 / 99.0)


def test_a_missing_bar_leaves_its_labels_unknown() -> None:
    skipping = replace(decision(0), holdings=(replace(decision(0).holdings[0], next_bar=bar(2)),))
    (values,) = labels(direction=3, risk=2).of(skipping, [decision(2), decision(3)])
    assert all(map(isnan, values))


def test_each_symbol_has_its_own_and_one_without_a_bar_of_this_minute_has_none() -> None:
    first, second = labels(risk=None).of(decision(1, 2, late=1), [decision(2, 2), decision(3, 2)])
    assert isnan(first[0])
    assert second == (0.0,)  # 99 after 102


def test_one_row_for_all_symbols_has_no_labels() -> None:
    whole = replace(decision(0, 2), chosen=decision(0).chosen)
    assert str(labels().of(whole, [decision(1, 2)])) == str([(nan, nan)])


def test_without_heads_nothing_is_looked_at() -> None:
    none = labels(direction=None, risk=None)
    assert (none.ahead, none.of(decision(0), [])) == (0, [()])
    assert labels().ahead == 3
