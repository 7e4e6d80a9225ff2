"""A challenger's step in the journal: what it changes in the state, and the size that it trades."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from daemon.core.desks.shares.desk import share_view, sized_view
from daemon.core.draft import Draft
from daemon.core.events import LadderMoved, ModelPromoted
from daemon.core.handlers import JUDGED_MAX
from daemon.core.limits import Basket, Trading
from daemon.core.state import LadderState, encode_state
from strategies.daily_rebalancer import basket_of
from tests.support.core.daily_desk import daily_desk
from tests.support.core.desk import Desk, alarms, desk


def ladder_move(at_ns: int, to_step: str, share: float, version: str = "v2", **changes: Any) -> LadderMoved:
    event = LadderMoved(at_ns, version, "shadow", to_step, "v1", share, 0, "reason", "detail", {"base": 10_000.0})
    return msgspec.structs.replace(event, **changes)


def promoted(d: Desk, version: str = "v2") -> None:
    d.put(ModelPromoted(d.state.now_ns, version, "digest", True, "sip", "v1"))


def test_a_desk_without_a_challenger_keeps_the_bytes_of_its_state() -> None:
    d = desk()
    assert b'"ladder"' not in encode_state(d.state)
    d.put(ladder_move(d.state.now_ns, "canary_10", 0.1))
    assert d.state.ladder == LadderState("v2", "canary_10", "v1", 0.1, 0, {"base": 10_000.0})
    assert d.core.decoder().decode(encode_state(d.state)) == d.state


def test_a_part_of_a_unit_that_is_no_whole_share_enters_nothing() -> None:
    d = daily_desk(Trading(basket=Basket(shares_per_unit=5)))
    d.put(ladder_move(d.state.now_ns, "canary_10", 0.1))
    d.put(ModelPromoted(d.state.now_ns, "v2", "digest", True, "sip", "v1"))
    part = sized_view(Draft(d.state, d.core.desk), d.state.now_ns).portfolio
    assert part is not None
    count = len(part.prices)
    assert basket_of([1.0] * count, [True] * count, part, list(map(str, range(count)))).legs == ()


@pytest.mark.parametrize(("share", "contracts"), [(1.0, 9), (0.5, 4), (0.25, 2)])
def test_a_canary_enters_with_its_part_of_the_size(share: float, contracts: int) -> None:
    """A fifth of 10,000 USD buys 9 contracts at 2.02 x 1.05 = 2.12 (1,908 of 2,000), of 1,000 4, of 500 2."""
    d = desk()
    d.put(ladder_move(d.state.now_ns, "canary_50", share))
    promoted(d)
    assert d.order(d.buys()).quantity == contracts


def test_a_canary_whose_part_buys_no_contract_enters_nothing() -> None:
    d = desk()
    d.put(ladder_move(d.state.now_ns, "canary_10", 0.1))
    promoted(d)  # 200 USD against 212 a contract
    d.bar(0)
    d.answer(1)
    assert d.state.orders == {}


def test_the_champion_keeps_its_whole_size_while_a_challenger_waits() -> None:
    d = desk()
    d.put(ladder_move(d.state.now_ns, "canary_10", 0.1))
    assert d.order(d.buys()).quantity == 9  # v1 still answers


def test_a_basket_is_sized_by_the_part_and_observed_whole() -> None:
    d = daily_desk()
    d.put(ladder_move(d.state.now_ns, "canary_25", 0.25))
    d.put(ModelPromoted(d.state.now_ns, "v2", "digest", True, "sip", "v1"))
    draft = Draft(d.state, d.core.desk)
    whole, part = (view(draft, d.state.now_ns).portfolio for view in (share_view, sized_view))
    assert whole is not None
    assert part is not None
    assert (whole.equity, whole.shares_per_unit) == (10_000.0, 100)
    assert (part.equity, part.shares_per_unit, part.cash) == (2_500.0, 25, whole.cash)
    d.put(ladder_move(d.state.now_ns, "champion", 1.0))
    later = Draft(d.state, d.core.desk)
    assert sized_view(later, d.state.now_ns) == share_view(later, d.state.now_ns)


@pytest.mark.parametrize(
    ("to_step", "names"),
    [("refused", ["ladder_refused"]), ("rolled_back", ["ladder_rolled_back"]), ("champion", []), ("shadow", [])],
)
def test_who_leaves_the_ladder_is_remembered_and_a_fall_is_an_alarm(to_step: str, names: list[str]) -> None:
    d = desk()
    assert alarms(d.put(ladder_move(d.state.now_ns, to_step, 0.1))) == names
    assert isinstance(d.state.ladder, LadderState)
    assert d.state.ladder.judged == (() if to_step == "shadow" else ("v2",))


def test_only_the_newest_versions_are_remembered() -> None:
    d = desk()
    for number in range(JUDGED_MAX + 2):
        d.put(ladder_move(d.state.now_ns, "refused", 1.0, version=f"n{number}"))
    d.put(ladder_move(d.state.now_ns, "refused", 1.0, version="n7"))
    assert isinstance(d.state.ladder, LadderState)
    assert (len(d.state.ladder.judged), d.state.ladder.judged[0], d.state.ladder.judged[-1]) == (JUDGED_MAX, "n2", "n7")
