"""History over REST and its cache, against the loopback server: what is asked for, kept, refused and asked for again.

Counts of minutes are the calendar's, by hand: 390 a day, 210 on July 3, 2024.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.brokers.alpaca.market.history import SETTLED_NS
from daemon.brokers.alpaca.rest.client import RestError
from simulator.prices.market import Market
from strategies.kit.contract import Bar
from tests.support.alpaca.market_desk import MINUTE, MarketDesk, bar, calendar, desk, session

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")

DAY, HALF = session("2024-07-02"), session("2024-07-03")


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def past(it: MarketDesk) -> tuple[Bar, ...]:
    return await it.history.session("SPY", DAY, it.clock.now_ns())


async def test_a_past_session_is_fetched_once_and_then_read_from_disk(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-03", -3600) as it:
        first = await past(it)
        assert first == tuple(bar(DAY, minute) for minute in range(390))
        assert await past(it) == first
        assert it.fetches() == 1
        assert names(tmp_path) == ["SPY-sip-2024-07-02.jsonl"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "head", "garbage"])
async def test_a_damaged_cache_file_is_told_and_fetched_again(tmp_path: Path, damage: str) -> None:
    async with desk(tmp_path, "2024-07-03", -3600) as it:
        first = await past(it)
        file = it.history.cache_file("SPY", DAY.date)
        whole = file.read_bytes()
        file.write_bytes(
            {
                "flip": whole.replace(b"545.01", b"545.02", 1),
                "cut": whole[: len(whole) // 2],
                "empty": b"",
                "head": whole.replace(b"2024-07-02", b"2024-07-01", 1),
                "garbage": b"\xff\x00" * 500,
            }[damage]
        )
        assert await past(it) == first
        assert it.fetches() == 2
        assert len(it.log.of("history_cache_bad")) == 1
        assert file.read_bytes() == whole


async def test_a_session_that_ended_just_now_is_not_kept(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", 390 * 60 + 120, rate=1.0) as it:
        assert len(await past(it)) == 390
        assert names(tmp_path) == []
        later_ns = DAY.close_ns + SETTLED_NS
        await it.history.session("SPY", DAY, later_ns)
        assert len(names(tmp_path)) == 1


async def test_a_half_day_has_210_bars_and_nothing_of_the_hours_around(tmp_path: Path) -> None:
    early = Bar("SPY", HALF.open_ns - MINUTE, 545.0, 545.1, 544.9, 545.0, 5.0)
    late = Bar("SPY", HALF.close_ns, 545.0, 545.1, 544.9, 545.0, 5.0)
    bars = [early, *(bar(HALF, minute) for minute in range(210)), late]
    market = Market.from_bars(bars, sessions=calendar().sessions)
    async with desk(tmp_path, "2024-07-05", -3600, market=market) as it:
        session_bars = await it.history.session("SPY", HALF, it.clock.now_ns())
        assert session_bars == tuple(bars[1:-1])


async def test_the_session_so_far_ends_with_the_last_complete_minute(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", 5 * 60 + 30, rate=1.0) as it:
        now_ns = it.clock.now_ns()
        assert await it.history.so_far("SPY", DAY, DAY.open_ns, now_ns) == tuple(bar(DAY, m) for m in range(5))
        assert await it.history.so_far("SPY", DAY, DAY.open_ns + 3 * MINUTE, now_ns) == (bar(DAY, 3), bar(DAY, 4))
        fetches = it.fetches()
        assert await it.history.so_far("SPY", DAY, DAY.open_ns + 5 * MINUTE, now_ns) == ()
        assert await it.history.so_far("SPY", DAY, DAY.open_ns, DAY.open_ns + 59 * MINUTE // 60) == ()
        assert it.fetches() == fetches  # nothing is complete: nothing is asked


async def test_a_bad_bar_of_history_is_told_and_left_out(tmp_path: Path) -> None:
    class Odd:
        """Raw bars as a server with a bad row would give them."""

        async def bars(self, symbol: str, start_ns: int, end_ns: int, feed: str) -> list[dict[str, object]]:
            good = {"t": "2024-07-02T13:31:00Z", "o": 1.0, "h": 2.0, "l": 0.5, "c": 1.5, "v": 10}
            return [good, {**good, "t": "2024-07-02T13:30:00Z"}, {**good, "h": 0.1}, {"t": "odd"}, {**good, "v": 20}]

        async def day_bars(self, *_: object) -> dict[str, list[dict[str, object]]]:
            return {}

    async with desk(tmp_path, "2024-07-02", 600, rate=1.0) as it:
        it.history._reads = Odd()
        session_bars = await it.history.so_far("SPY", DAY, DAY.open_ns, it.clock.now_ns())
        assert [(b.start_ns, b.volume) for b in session_bars] == [(DAY.open_ns, 10.0), (DAY.open_ns + MINUTE, 20.0)]
        assert len(it.log.of("history_bar_bad")) == 2


async def test_what_rest_refuses_is_raised(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-03", -3600) as it:
        it.server.faults.add("http_error", status=500)
        with pytest.raises(RestError):
            await past(it)


async def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with desk(tmp_path / "file", "2024-07-03", -3600) as it:
        assert len(await past(it)) == 390
        assert "history_cache_bad" in it.log.names()
