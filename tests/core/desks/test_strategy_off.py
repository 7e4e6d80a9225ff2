"""A strategy that raised twice is not called for a correction either, until a person resumes."""

from __future__ import annotations

from daemon.core.events import BarCorrected, HaltRequested, ResumeRequested
from daemon.core.step import Core
from strategies.kit.contract import Bar
from tests.support.core.desk import Desk, Pointer, PointerState


class Raising(Pointer):
    """Raises at each correction."""

    def correct(self, state: PointerState, bar: Bar) -> PointerState:
        raise ZeroDivisionError(bar.symbol)


def test_a_correction_is_not_told_to_a_strategy_that_is_off() -> None:
    d = Desk()
    d.core = Core(Raising())
    d.state = d.core.start(d.state.identity, d.state.trading)
    d.fund().begin()
    d.bar(0)
    d.put(HaltRequested(d.at(1), "quarantine", "it raised twice", "rltraderd", strategy=True))
    corrected = BarCorrected(d.at(1), Bar("SPY", d.at(0), 500.5, 500.5, 500.5, 500.5, 1000.0))
    d.put(corrected)
    d.put(ResumeRequested(d.at(2), "op", "mended"))
    assert not d.state.risk.strategy_off
    try:
        d.put(corrected)
    except ZeroDivisionError:
        return
    raise AssertionError("it is asked again after a resume")
