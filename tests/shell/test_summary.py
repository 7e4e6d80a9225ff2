"""The summary counts what the state counted; the sparkline and the latency histogram answer to hand calculation."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from daemon.core.limits import Trading
from daemon.core.state import Book, Halt, Identity, Model, RiskState, State, Stats
from daemon.shell.latency import Latency
from daemon.shell.summary import BLOCKS, Summary, show, sparkline, summarise

ACTIONS = ("HOLD", "BUY_CALL")
META = {"tape": "t.csv", "synthetic": "synthetic bars"}


def summary(*, halted: bool = False, wall_s: float = 2.0, counted: bool = True) -> Summary:
    state: State[None] = State(
        None,
        Identity("replay", "paper", "option_scalper", "e", "sip"),
        Trading(),
        seq=77,
        book=Book(realized=Decimal("-3.50"), fees=Decimal("0.75"), equity=Decimal("9996.50"), max_drawdown=0.12345678),
        risk=RiskState(halt=Halt("drawdown", "[/red] too deep", 1) if halted else None),
        model=Model("v1", False, "sip"),
        stats=Stats(9, 1, 5, 4, 3, 2, 1, 0, (4, 1) if counted else (), {"no_quote": 2, "cooldown": 7}),
    )
    latency = Latency()
    for us in (10, 20, 30):
        latency.add(us * 1000)
    return summarise(
        state,
        ACTIONS,
        meta=META,
        wall_s=wall_s,
        bars_run=8,
        latency=latency,
        state_digest="d" * 64,
        stopped_by="",
    )


def test_the_summary_holds_the_states_counts_and_the_runs_times() -> None:
    told = msgspec.to_builtins(summary())
    expected = {
        "strategy": "option_scalper",
        "model": "v1",
        "mode": "replay",
        "tape": "t.csv",
        "synthetic": True,
        "bars": 9,
        "bars_rejected": 1,
        "decisions": 5,
        "actions": {"HOLD": 4, "BUY_CALL": 1},
        "orders": 4,
        "fills": 3,
        "partial_fills": 2,
        "trades": 1,
        "denials": {"cooldown": 7, "no_quote": 2},
        "realized_pnl_usd": -3.5,
        "fees_usd": 0.75,
        "equity_usd": 9996.5,
        "max_drawdown": 0.123457,
        "halted": "",
        "wall_s": 2.0,
        "bars_per_s": 4.0,
        "decision_us_p50": 20,
        "decision_us_p99": 30,
        "journal_events": 77,
        "state_digest": "d" * 64,
        "stopped_by": "",
    }
    assert {key: told[key] for key in expected} == expected


def test_a_run_of_no_time_and_no_decision_divides_nothing() -> None:
    told = summary(wall_s=0.0, counted=False)
    assert (told.bars_per_s, told.actions) == (0.0, {"HOLD": 0, "BUY_CALL": 0})


def test_a_sparkline_rises_and_falls_with_the_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BLOCKS
    assert sparkline([7, 0, 7]) == "█▁█"
    assert sparkline([0, 10, 0, 10], width=2) == "▁▁"  # the last of each half is 10: no range is left
    assert sparkline([0, 1, 0, 10], width=2) == "▁█"
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert sparkline([]) == ""


@given(st.lists(st.floats(-1e9, 1e9), max_size=500), st.integers(min_value=1, max_value=80))
def test_a_sparkline_never_exceeds_its_width_and_uses_blocks_only(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set(BLOCKS)


def test_the_readable_form_says_what_was_decided_denied_and_earned() -> None:
    console = Console(width=160, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        show(console, summary(halted=True), [Decimal(1), Decimal(3), Decimal(2)])
    text = captured.get()
    for part in (
        "SYNTHETIC bars",
        "9 (1 rejected)",
        "5: HOLD 4, BUY_CALL 1",
        "4, 3 (2 partial)",
        "cooldown 7, no_quote 2",
        "-3.50 USD after 0.75 USD of fees",
        "9,996.50 USD, largest drawdown 12.35%",
        "▁█▄",
        "drawdown (docs/OPERATIONS.md",
        "77 events, state dddddddddddddddd",
    ):
        assert part in text, part


@given(st.lists(st.integers(min_value=0, max_value=10**10), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_a_percentile_is_always_within_two_percent_of_the_sorted_value(durations: list[int], share: float) -> None:
    latency = Latency()
    for duration in durations:
        latency.add(duration)
    exact = int(np.sort(durations)[max(0, int(np.ceil(share * len(durations) - 1e-9)) - 1)]) // 1000
    found = latency.percentile(share)
    assert found <= exact
    assert exact - found <= exact * 0.016
    assert latency.count == len(durations)


def test_no_durations_have_percentile_zero() -> None:
    assert Latency().percentile(0.5) == 0
