"""The table of the gates: which desks ask each, and when one that denies now ends by itself."""

from __future__ import annotations

import pytest

from daemon.core.desks.registry import GATES, OPTION_GATES, SHARE_GATES
from daemon.core.gates import LOSSES, Gate, ask_gates
from daemon.core.state import Pause
from tests.support.core.desk import MINUTE, MONDAY, SECOND
from tests.support.core.risk_view import (
    HALF_PAST_ONE_LIMIT,
    NEAR_OPEN,
    NOW,
    At,
    at,
    replace,
)

BY_NAME = {gate.name: gate for gate in OPTION_GATES}


def denied(moment: At, gate: Gate) -> bool:
    return bool(ask_gates(moment.view, moment.intent, (gate,)).denials)


DAY_OPENS = MONDAY.open_ns
ENDS: dict[str, tuple[At, int]] = {
    "paused": (at(risk={"pause": Pause("operator", NOW + 60 * SECOND)}), NOW + 60 * SECOND),
    "consecutive_losses": (at(risk={"pause": Pause(LOSSES, NOW + 90 * SECOND)}), NOW + 90 * SECOND),
    "outside_session": (at(now_ns=DAY_OPENS - MINUTE), DAY_OPENS),
    "near_open": (at(now_ns=DAY_OPENS + MINUTE, limits=NEAR_OPEN), DAY_OPENS + 15 * MINUTE),
    "no_trade_window": (at(now_ns=DAY_OPENS + 160 * MINUTE, limits=HALF_PAST_ONE_LIMIT), DAY_OPENS + 210 * MINUTE),
    "cooldown_trade": (at(risk={"last_trade_ns": NOW - 20 * SECOND}), NOW + 100 * SECOND),
    "cooldown_loss": (at(risk={"last_loss_ns": NOW - 20 * SECOND}), NOW + 280 * SECOND),
    "orders_per_minute": (
        at(risk={"order_times": (NOW - 50 * SECOND, NOW - 10 * SECOND)}, limits={"orders_per_minute": 2}),
        NOW + 10 * SECOND,
    ),
}
NEVER: dict[str, At] = {
    "paused": at(risk={"pause": Pause(LOSSES, NOW + MINUTE)}),
    "consecutive_losses": at(),
    "outside_session": at(now_ns=MONDAY.close_ns),
    "near_open": at(session={"session": None}),
    "no_trade_window": at(limits=HALF_PAST_ONE_LIMIT),
    "orders_per_minute": at(),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_gate_that_ends_by_itself_knows_when_and_lets_through_then(name: str) -> None:
    (view, order_wanted), ends_ns = ENDS[name]
    gate = BY_NAME[name]
    assert gate.ends_ns is not None
    assert denied(At(view, order_wanted), gate)
    assert gate.ends_ns(view) == ends_ns
    assert denied(At(replace(view, now_ns=ends_ns - 1), order_wanted), gate)
    assert not denied(At(replace(view, now_ns=ends_ns), order_wanted), gate)


@pytest.mark.parametrize("name", NEVER)
def test_a_gate_whose_end_is_not_known_says_so(name: str) -> None:
    ends_ns = BY_NAME[name].ends_ns
    assert ends_ns is not None
    assert ends_ns(NEVER[name].view) == 0


def test_each_gate_of_the_table_is_asked_by_some_desk_and_no_desk_asks_a_name_twice() -> None:
    desks = [OPTION_GATES, SHARE_GATES]
    assert {gate.name for gates in desks for gate in gates} == {gate.name for gate in GATES}
    for gates in desks:
        assert len({gate.name for gate in gates}) == len(gates)
    common = [gate.name for gate in GATES if not gate.decides and not gate.holds]
    assert {"halted", "not_reconciled", "daily_loss", "oversell"} <= set(common)
    assert len(common) == len(set(common))
