"""The percent of a target is a part of the size that the sizing rule allows, and never more."""

from __future__ import annotations

import msgspec
import pytest

from daemon.core.step import Core
from strategies.kit.contract import Answer, Decision, Target, View
from tests.support.core.desk import BUY_CALL, IDENTITY, Desk, Pointer, PointerState, sent


class Part(Pointer):
    """Buys calls at this percent of the size."""

    def __init__(self, percent: int) -> None:
        super().__init__()
        self.percent = percent

    def decide(self, state: PointerState, answer: Answer, view: View) -> tuple[PointerState, Decision]:
        state, decision = super().decide(state, answer, view)
        return state, msgspec.structs.replace(decision, target=Target(+1, self.percent))


@pytest.mark.parametrize(("percent", "contracts"), [(50, 4), (100, 9), (101, 9), (1000, 9)])
def test_no_percent_exceeds_the_sizing_rule(percent: int, contracts: int) -> None:
    d = Desk()
    d.core = Core(Part(percent))
    d.state = d.core.start(IDENTITY, d.state.trading)
    d.fund().begin()
    d.bar(0)
    order = sent(d.answer(BUY_CALL))  # a fifth of 10,000 USD buys 9 at a limit of 2.12
    assert (order.quantity, type(order.quantity)) == (contracts, int)
