"""The benchmarks of the live path: small runs of them lose nothing, and what they compute agrees with hand calculation.

How fast they are is for a person to read, not for a test.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.bench_burst import measure
from bench.bench_latency import RATE, STAGES, _chains, after_idle, percentiles
from bench.soak import Look, connections, growth
from tests.support.paths import REPOSITORY


async def test_a_small_burst_is_decided_whole_with_and_without_giving_way(tmp_path: Path) -> None:
    figures = await measure(12, 2, tmp_path)
    assert (figures["decided"], figures["lost"]) == (24, 0)
    assert figures["reference_never_yielding"]["lost"] == 0
    assert figures["bars_stepped"] == figures["bars_put"] == 48  # two minutes measured, two as the reference


def test_what_the_latency_benchmark_wraps_is_there() -> None:
    """In a process of its own, which it changes."""
    code = "from bench.bench_latency import Stamped, Watch; Stamped().install(); Watch(0).install()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([0.001, 0.002, 0.003]) == {"p50_ms": 2.0, "p99_ms": 2.98, "max_ms": 3.0}


def test_only_orders_whose_every_moment_is_known_make_a_chain() -> None:
    stamps = {"received": {"60": 2.0}, "put": {"60": 3.0}, "stepped": {"a": 4.0, "b": 4.0}}
    stamps |= {"released": {"a": 6.0}, "posting": {"a": 7.0}}
    account = {"stamps": stamps, "bar_of": {"a": "60", "b": "60"}}
    (chain,) = _chains(account, {"sent": {"60": 1.0}, "arrived": {"a": 9.0}, "connected": {"a": 0.0}})
    took = {name: chain[end] - chain[begin] for name, (begin, end) in STAGES.items()}
    parts = {"wire": 1.0, "parse": 1.0, "step": 1.0, "journal": 2.0, "queue": 1.0, "post": 2.0}
    assert took == {**parts, "bar_to_order": sum(parts.values())}


def test_the_first_purchase_after_an_idle_hour_is_compared_with_the_next_one() -> None:
    minute_s, chains = 60 / RATE, []
    for hour in range(3):
        for minute, took in enumerate((0.004, 0.009, 0.002, 0.009)):  # purchase, sale, purchase, sale
            send_s = (64 * hour + minute) * minute_s
            connected = send_s + 0.001 if (hour, minute) == (2, 0) else 0.0
            chains.append({"sent": send_s, "arrived": send_s + took, "connected": connected})
    assert after_idle(chains) == {
        "idle_hours": 2,  # before the first one, nobody knows
        "first_order_ms": [4.0, 4.0],
        "second_order_ms": [2.0, 2.0],
        "connections_opened_for_the_first": 1,
    }


def test_growth_compares_the_end_with_the_fifth_session() -> None:
    looks = [Look(f"day {i}", 200.0 + i, 30 + i % 2, 9, 27, 7) for i in range(1, 9)]
    figures = growth(looks)
    assert (figures["resident_mb_warm"], figures["resident_mb_end"]) == (205.0, 208.0)
    assert figures["memory_growth"] == pytest.approx(3 / 205, abs=1e-4)
    assert figures["descriptors"] == {"first": 31, "least": 30, "most": 31, "last": 30}


def test_connections_are_counted_at_the_servers_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        assert connections(port) == 0
        with socket.create_connection(("127.0.0.1", port)):
            assert connections(port) == 1
