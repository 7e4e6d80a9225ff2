"""The summary counts what the state counted; the sparkline and the latency histogram answer to hand calculation."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from daemon.core.limits import Trading
from daemon.core.state import Book, Halt, Identity, Model, RiskState, State, Stats
from daemon.host.latency import Latency
from daemon.operator.summary import BLOCKS, Daily, Summary, daily_figures, show, sparkline, summarise

ACTIONS = ("HOLD", "BUY_CALL")
META = {"tape": "t.csv", "synthetic": "synthetic bars"}


def summary(*, halted: bool = False, wall_s: float = 2.0, counted: bool = True, exported: str = "") -> Summary:
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
        export_path=exported,
    )


def test_the_summary_holds_the_states_counts_and_the_runs_times() -> None:
    fields = msgspec.to_builtins(summary())
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
    assert {key: fields[key] for key in expected} == expected


def test_a_run_of_no_time_and_no_decision_divides_nothing() -> None:
    fields = summary(wall_s=0.0, counted=False)
    assert (fields.bars_per_s, fields.actions) == (0.0, {"HOLD": 0, "BUY_CALL": 0})


def test_a_daily_desk_s_figures_are_worked_out_by_hand() -> None:
    closes = [("2024-07-01", 100.0), ("2024-07-02", 110.0), ("2024-07-03", 99.0), ("2024-07-05", 121.0)]
    # returns 0.1, -0.1, 2/9: mean 2/27, deviation sqrt(((7/270)^2 + (47/270)^2 + (4/27)^2) / 2)
    mean, deviation = 2 / 27, (((7 / 270) ** 2 + (47 / 270) ** 2 + (40 / 270) ** 2) / 2) ** 0.5
    figures = daily_figures(closes)
    assert (figures.sessions, figures.first, figures.last) == (3, "2024-07-02", "2024-07-05")
    assert figures.annual_return == pytest.approx(1.21 ** (252 / 3) - 1)
    assert figures.sharpe == pytest.approx(mean / deviation * 252**0.5, abs=1e-4)


@pytest.mark.parametrize("equities", [(), (100.0,), (100.0, 100.0), (100.0, 100.0, 100.0)])
def test_a_daily_desk_that_earned_nothing_has_figures_of_zero(equities: tuple[float, ...]) -> None:
    figures = daily_figures([(f"2024-07-0{day}", equity) for day, equity in enumerate(equities, 1)])
    assert (figures.sessions, figures.annual_return, figures.sharpe) == (max(len(equities) - 1, 0), 0.0, None)
    assert daily_figures([("2024-07-01", 5.0), ("2024-07-02", 0.0)]).annual_return == -1.0
    assert daily_figures([("2024-07-01", 1.0), ("2024-07-02", 1.1), ("2024-07-03", 1.21)]).sharpe is None  # ten % each


def test_the_readable_form_of_a_daily_desk_counts_sessions() -> None:
    console = Console(width=160, record=True, file=None, quiet=False, force_terminal=False)
    run_summary = msgspec.structs.replace(
        summary(), actions={}, daily=Daily(68, "2020-12-31", "2021-04-09", 0.1522, 1.211)
    )
    with console.capture() as captured:
        show(console, run_summary, [Decimal(1)])
        show(
            console, msgspec.structs.replace(run_summary, daily=Daily(0, "", "", 0.0, None), decisions=0), [Decimal(1)]
        )
    text = captured.get()
    assert text.count("Sharpe ratio") == 1
    for part in (
        "68 with decisions, 2020-12-31 to 2021-04-09",
        "+15.22 % a year, Sharpe ratio 1.21",
        "│ 5 ",
        "none decided for",
        "│ none",
    ):
        assert part in text, part
    assert msgspec.to_builtins(run_summary)["daily"]["sessions"] == 68
    assert msgspec.to_builtins(summary())["daily"] is None


@pytest.mark.parametrize(
    ("exported", "sentence"),
    [
        ("", "v1 (not promoted: no real money)"),
        ("passive", "v1 (passive, no lead proven; not promoted: no real money)"),
        ("unproven", "v1 (learned, no lead proven; not promoted: no real money)"),
    ],
)
def test_the_readable_form_says_whether_the_policy_was_learned(exported: str, sentence: str) -> None:
    console = Console(width=160, quiet=False, force_terminal=False)
    with console.capture() as captured:
        show(console, summary(exported=exported), [Decimal(1)])
    assert f"│ {sentence} " in captured.get()


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
        run_summary = msgspec.structs.replace(summary(halted=True), decision_us_p99=12_345)
        show(console, run_summary, [Decimal(1), Decimal(3), Decimal(2)], "1,000 → 900 USD, −10 %", -7.0)
    text = captured.get()
    for part in (
        "SYNTHETIC bars",
        "9 (1 rejected)",
        "5: HOLD 4, BUY_CALL 1",
        "4, 3 (2 partial)",
        "cooldown 7, no_quote 2 (docs/GATES.md)",
        "−3.50 USD after 0.75 USD of fees",
        "9,996.50 USD, largest drawdown −12.35 % of the highest equity so far",
        "1,000 → 900 USD, −10 %",
        "after 0.75 USD of fees, with the parts sold of open trades; what is still held −7.00 USD",
        "decisions p50 20 µs, p99 12.3 ms",
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
    value = latency.percentile(share)
    assert value <= exact
    assert exact - value <= exact * 0.016
    assert latency.count == len(durations)


def test_no_durations_have_percentile_zero() -> None:
    assert Latency().percentile(0.5) == 0
