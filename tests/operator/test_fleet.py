"""Several desks at once: what is added, and what never is. Expected sums are worked out by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from daemon.cli.control import show
from daemon.cli.status_table import fleet_table
from daemon.operator.control.client import CommandAnswer
from daemon.operator.fleet import FleetTotal, distinct, fleet_of, folder_names
from daemon.operator.status import DeskStatus, status_of, unreadable_desk
from tests.support.core.daily_desk import DailyDesk

NOW_S = 1_720_000_000.0
DAY = "2024-07-03"


def desk(mode: str, account: str, equity: str, **more: Any) -> DeskStatus:
    """A desk that runs and has gained a tenth of a per cent of nothing: what is not named is zero."""
    status = replace(
        unreadable_desk("", ""),
        strategy="option_scalper",
        mode=mode,
        account=account,
        equity_usd=equity,
        exposed_usd="0.00",
        day_usd="0.00",
        session=DAY,
        reconciled=True,
        time_ns=int(NOW_S - 30) * 10**9,
        process="7",
    )
    return replace(status, **more)


def test_real_money_paper_and_recorded_data_have_totals_of_their_own() -> None:
    fleet = fleet_of(
        [
            ("a", desk("live", "live 111", "1000.00", day_usd="-10.00", exposed_usd="500.00", alarms=2)),
            ("b", desk("live", "live 222", "3000.00", day_usd="25.50", exposed_usd="300.00")),
            ("c", desk("paper", "paper PA1", "50000.00", day_usd="1.00", exposed_usd="60000.00")),
            ("d", desk("replay", "paper", "9999.00")),
        ],
        NOW_S,
    )
    assert fleet.totals == (
        FleetTotal("real money", "live 111", 1, 1000.0, 500.0, 0.5, -10.0, DAY, 1, 2),
        FleetTotal("real money", "live 222", 1, 3000.0, 300.0, 0.1, 25.5, DAY, 1, 0),
        FleetTotal("real money", "", 2, 4000.0, 800.0, 0.2, 15.5, DAY, 2, 2),
        FleetTotal("paper account", "", 1, 50000.0, 60000.0, 1.2, 1.0, DAY, 1, 0),
        FleetTotal("recorded data", "", 1, 9999.0, 0.0, 0.0, 0.0, DAY, 1, 0),
    )
    assert fleet.remarks == (
        "Totals are kept apart: real money, paper account, recorded data are never added to each other.",
    )
    assert [line.lag_s for line in fleet.desks] == [30.0, 30.0, 30.0, None]


def test_an_event_that_is_dated_ahead_of_this_host_is_not_called_new() -> None:
    fleet = fleet_of([("a", desk("live", "live 111", "1000.00"))], NOW_S - 30 - 8 * 3600)
    assert fleet.desks[0].lag_s == -8 * 3600
    screen = io.StringIO()
    Console(file=screen, width=300).print(fleet_table(fleet))
    assert "8 h 0 min ahead of this host" in screen.getvalue()


def test_the_day_s_sum_is_of_the_newest_session_alone() -> None:
    old = desk("dry_run", "paper", "100.00", day_usd="70.00", session="2024-07-02")
    (total,) = fleet_of([("a", desk("dry_run", "paper", "100.00", day_usd="5.00")), ("b", old)], NOW_S).totals
    assert (total.equity_usd, total.day_usd, total.session, total.counted) == (200.0, 5.0, DAY, 1)


def test_an_account_counts_once_as_the_running_desk_has_it() -> None:
    old_status = desk("paper", "paper PA1", "900.00", process="", time_ns=int(NOW_S) * 10**9)
    fleet = fleet_of([("new", desk("paper", "paper PA1", "1000.00")), ("old", old_status)], NOW_S)
    assert [(total.desks, total.equity_usd) for total in fleet.totals] == [(1, 1000.0)]
    assert fleet.remarks == ("new and old are desks of one account (paper PA1): it counts once, as new has it.",)
    unknown = [("x", desk("paper", "paper", "1.00")), ("y", desk("paper", "paper", "2.00"))]  # no number reported yet
    assert fleet_of(unknown, NOW_S).totals[-1].equity_usd == 3.0


def test_a_desk_that_cannot_be_read_counts_in_no_total_and_is_named() -> None:
    fleet = fleet_of([("a", desk("paper", "paper PA1", "10.00")), ("b", unreadable_desk("/s/b", "damaged"))], NOW_S)
    assert [total.equity_usd for total in fleet.totals] == [10.0]
    assert fleet.remarks == ("b could not be read and counts in no total.",)
    assert fleet.desks[1].problem == "damaged"


def test_a_halt_a_pause_and_a_blocked_account_are_said_with_their_reason() -> None:
    halted, paused, blocked = (
        desk("paper", "paper PA1", "1.00", halt="drawdown: 20 %"),
        desk("paper", "p 2", "1.00", pause="lunch"),
        desk("paper", "p 3", "1.00", blocked="trading_blocked"),
    )
    lines = fleet_of([("a", halted), ("b", paused), ("c", blocked)], NOW_S).desks
    assert [(line.trading, line.may_trade) for line in lines] == [
        ("halted: drawdown: 20 %", False),
        ("paused: lunch", False),
        ("blocked by the broker: trading_blocked", False),
    ]


def test_the_answer_to_a_command_names_every_halt_and_the_way_out_though_the_first_is_long() -> None:
    """After a panic of fifty shares the command that leads on stood below fifty lines, the last halt was cut."""
    differences = "; ".join(f"S{number}: broker 0, book 3.1959" for number in range(50))
    status = desk(
        "paper",
        "paper PA1",
        "1.00",
        halt=f"panic: by ann; behind it: reconciliation: {differences}; behind it: accept_broker: over (by ann)",
        differences=differences,
        then="rltraderctl resume --reason TEXT",
    )
    out = io.StringIO()
    show(CommandAnswer(ok=True, seq=7, status=status), Console(file=out, width=10_000))
    first, _, apart, then = out.getvalue().splitlines()
    assert "halted: panic: by ann; behind it: reconciliation: S0: broker 0, book 3.1959; S1" in first
    assert "; behind it: accept_broker: over (by ann)" in first
    assert apart.startswith("book and broker differ: S0: broker 0, book 3.1959; S1")
    assert max(map(len, (first, apart))) < 800
    assert then == "rltraderctl resume --reason TEXT"


def test_a_reason_that_names_each_of_many_holdings_is_cut() -> None:
    reason = "reconciliation: " + "; ".join(f"S{number}: broker 0, book 3.1959" for number in range(50))
    (line,) = fleet_of([("a", desk("paper", "p 1", "1.00", halt=reason))], NOW_S).desks
    assert line.trading == f"halted: {reason}"[:199] + "…"


def test_desks_of_one_name_are_called_as_their_folders() -> None:
    pairs = [("paper-1", "scalper"), ("paper-1", "regime"), ("mine", "x"), ("", "none"), ("paper-1", "regime")]
    assert distinct(pairs) == ["scalper", "regime", "mine", "none", "regime (2)"]
    assert distinct([("a", "a x", "one"), ("a", "a y", "two"), ("a", "a y", "three")]) == ["a x", "two", "three"]
    assert distinct([]) == []


def test_less_than_half_a_cent_below_zero_has_no_sign() -> None:
    status = status_of(DailyDesk().fund("-0.003139").state, "desk")  # what a day's fees leave of a small account
    assert (status.cash_usd, status.equity_usd, status.realized_usd) == ("0.00", "0.00", "0.00")


def test_desks_whose_folders_are_all_called_state_have_the_names_of_the_folders_above(tmp_path: Path) -> None:
    places = [tmp_path / "alpha" / "state", tmp_path / "beta" / "state", tmp_path / "gamma"]
    assert distinct([("paper-1", *folder_names(place)) for place in places]) == ["alpha", "beta", "gamma"]
    others = [tmp_path / "one" / "alpha" / "state", tmp_path / "two" / "alpha" / "state"]
    assert distinct([("paper-1", *folder_names(place)) for place in others]) == ["alpha", "alpha (2)"]
