"""The jobs of a daily desk's session. Expected values: New York summer time by hand; July 3 is a half day."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from daemon.core.limits import Basket, Execution
from daemon.host.time.schedule import DayTimes, plan
from strategies.kit.contract import Session
from strategies.kit.units import SECOND_NS


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_NS


HALF_DAY = Session("2024-07-03", utc("2024-07-03T13:30"), utc("2024-07-03T17:00"))


@pytest.mark.parametrize(
    ("basket", "expected"),
    [
        (
            Basket(before_open_min=15, end_before_close_min=5),
            "warm_up 13:00, decide 13:15, open 13:30, give_up 16:55, close 17:05, end_of_day 17:15",
        ),
        (
            Basket(decide="before_close", before_close_min=10, end_before_close_min=3),
            "warm_up 13:00, open 13:30, decide 16:50, give_up 16:57, close 17:05, end_of_day 17:15",
        ),
    ],
)
def test_a_daily_desk_decides_gives_up_and_flattens_nothing(basket: Basket, expected: str) -> None:
    times = DayTimes(Execution(), warm_up_min=30, close_grace_s=300, end_of_day_min=15, basket=basket)
    jobs = plan(HALF_DAY, times)
    text = ", ".join(f"{job.kind} {datetime.fromtimestamp(job.at_ns / SECOND_NS, UTC):%H:%M}" for job in jobs)
    assert text == expected
