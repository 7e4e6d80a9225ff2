"""Faults of all kinds at seeded random times of a live session: each minute is given once, in order, whatever happens.

The seed stands in the test's name; the same seed writes the same script of faults.
"""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.core.events import BarClosed, QuotesReceived
from tests.support.alpaca.market_desk import CALL, DAY, MINUTE, live

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")

MINUTES = 16
FAULTS = 12
OF_BARS = ("bar_gap", "bar_reordered", "bar_duplicated", "bar_late", "bar_corrected")
OF_REST = ("http_error", "http_html", "http_reset", "http_empty_body", "http_429")
OF_SOCKETS = (
    "socket_drop",
    "socket_close",
    "socket_black_hole",
    "socket_stall",
    "slow_client",
    "connection_limit",
    "mute_after_connect",
    "mute_after_auth",
    "mute_after_subscribe",
    "ping_silence",
    "malformed_json",
    "data_null",
    "string_time",
    "unknown_event",
    "unknown_field",
    "oversize_frame",
    "frame_duplicated",
)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_minute_is_lost_doubled_or_out_of_order(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with live(tmp_path) as it:
        it.feed.watch((CALL,))
        for kind in rng.choices(OF_BARS + OF_REST + OF_SOCKETS, k=FAULTS):
            at_ns = DAY.open_ns + int(rng.uniform(0, MINUTES - 6) * MINUTE)
            lasting = kind in {"socket_stall", "connection_limit"}
            where = {"stream": rng.choice(["stock", "option"])} if kind in OF_SOCKETS else None
            it.server.faults.add(kind, from_ns=at_ns, until_ns=at_ns + 2 * MINUTE if lasting else None, where=where)
        await it.until(lambda: max(it.minutes_of(DAY), default=-1) >= MINUTES)
        minutes = it.minutes_of(DAY)
        assert minutes == list(range(len(minutes)))
        for event, after in pairwise(it.events):
            assert event.time_ns <= after.time_ns
            if isinstance(event, BarClosed):
                assert isinstance(after, QuotesReceived)
                assert after.closes_bar_ns == event.bar.start_ns
