"""A daemon that starts around the close: the session is ended, reported and copied all the same, whatever was down.

Expected values: the session of 2024-10-31 closes at 16:00 New York; its end of day is due 15 minutes later.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.desks.stage import Stage, Tape, new_york_ns, stage

DAY = "2024-10-31"


def session_ends(desk: Stage) -> list[str]:
    """Dates of the sessions that the journal says have ended."""
    return [event["date"] for event in desk.journaled("SessionEnded")]


def has_report(desk: Stage) -> bool:
    """Whether the day's report was written."""
    return (desk.state_dir / "reports" / f"{DAY}.json").exists()


def restart(desk: Stage, at: str) -> None:
    """End the newest daemon with SIGKILL at New York's `at` and start another one."""
    desk.until_time(new_york_ns(DAY, at))
    desk.daemons[-1].kill()
    desk.daemons[-1].wait(10)
    desk.start()


def test_a_start_between_close_and_end_of_day_still_writes_the_days_report(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, "15:56", tmp_path, lively) as desk:
        desk.start()
        desk.until_true(lambda: DAY in session_ends(desk), "the session's end")
        restart(desk, "16:06")
        desk.until_true(lambda: has_report(desk), "the day's report")
        assert session_ends(desk).count(DAY) == 1


def test_a_session_whose_close_passed_while_history_could_not_be_had_is_ended_all_the_same(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    with stage(bundled, DAY, "15:50", tmp_path, lively) as desk:
        desk.start()
        desk.until_true(lambda: len(desk.journaled("BarClosed")) > 380 + 390, "today's bars")
        down = desk.server.faults.add("http_error", times=10_000, status=503, where={"path": "/v2/stocks/bars*"})
        restart(desk, "15:57")
        desk.until_time(new_york_ns(DAY, "16:04"))
        desk.server.faults.remove(down)
        desk.until_true(lambda: DAY in session_ends(desk), "the session's end")
        desk.until_true(lambda: has_report(desk), "the day's report")
