"""Cash that no line of the ledger explains: by night and for a while it halts nothing, and its line ends it.

One that stays for `broker.cash_halt_min` of a session halts. Expected values are the server's own books and clock.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from daemon.operator.status import differences_of
from tests.support.desks.stage import Stage, Table, Tape, new_york_ns, new_york_time, stage

DAY = "2024-11-01"
TEN_MINUTES: Table = {"broker": {"cash_halt_min": 10}}
MINUTE_NS = 60_000_000_000


def soon(played: Stage, reached: Callable[[], bool], what: str) -> None:
    """Return when `reached`, looked at every ten virtual seconds for twenty minutes."""
    for _ in range(120):
        if reached():
            return
        played.alive()
        played.clock.pass_s(10)
    raise AssertionError(f"waited twenty minutes of virtual time for this: {what}")


def taken(played: Stage, usd: str) -> None:
    """The broker takes cash and does not say what for."""

    def take() -> None:
        played.account.cash -= Decimal(usd)

    played.server.call(take)
    soon(played, lambda: f"cash: broker {played.account.cash} USD" in differences(played), "it is noticed")


def explained(played: Stage, usd: str) -> None:
    """The line of what was taken comes."""
    row = {"activity_type": "FEE", "net_amount": f"-{usd}", "date": DAY, "status": "executed", "description": "Fees"}
    played.server.call(played.account.note, played.clock.now_ns(), row)
    soon(played, lambda: played.books().state.risk.reconciled, "book and broker agree")


def differences(played: Stage) -> str:
    return differences_of(played.books().state)


def halted(played: Stage) -> str:
    halt = played.books().state.risk.halt
    return "" if halt is None else halt.reason


def alarms(played: Stage) -> list[str]:
    return [line["alarm"] for line in played.read_log("alarm")]


def test_unexplained_cash_halts_only_after_its_minutes_of_a_session_and_its_line_ends_it(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, "09:00", tmp_path, lively, TEN_MINUTES) as played:
        played.start()
        soon(played, lambda: bool(played.read_log("run_started")), "the start")
        soon(played, lambda: played.books().state.risk.reconciled, "book and broker agree")
        taken(played, "5.00")  # before the open, for longer than the ten minutes
        played.until_time(new_york_ns(DAY, "09:25"))
        assert (halted(played), "cash_unexplained" in alarms(played)) == ("", True)
        explained(played, "5.00")
        played.until_time(new_york_ns(DAY, "09:40"))
        taken(played, "7.00")  # in the session, for five of them
        played.until_time(new_york_ns(DAY, "09:45"))
        assert (halted(played), played.books().state.risk.reconciled) == ("", False)
        explained(played, "7.00")
        assert halted(played) == ""
        played.until_time(new_york_ns(DAY, "09:48"))
        taken_ns = played.clock.now_ns()
        taken(played, "9.00")  # for good
        soon(played, lambda: bool(halted(played)), "the halt")
        halt = played.books().state.risk.halt
        assert halt is not None
        assert halt.reason == "cash_difference"
        assert 10 <= (halt.since_ns - taken_ns) / MINUTE_NS <= 13, new_york_time(halt.since_ns)  # a report each minute
        assert played.posts() == []
