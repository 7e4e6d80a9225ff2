"""What the gateway adds to an order on its way to the broker: part of `make bench`.

The loopback broker, `rltrader-gateway` in a process of its own, and a desk's REST queue here. In turns an order goes
to the broker at once (an account of its own) and through the gateway; measured is the time until its bytes are at the
broker, and until its answer is back. The gateway journals before it sends: a bare write and fsync of a page, in the
journal's folder in the same run, stands beside. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.bench_latency import percentiles
from daemon.alpaca_api.trading_rest import TradingRest
from daemon.brokers.alpaca.rest.client import Access, RequestQueue
from daemon.brokers.alpaca.trading.trading import TradingOrders
from daemon.core.effects import SubmitOrder
from daemon.host.time.clock import Clock
from daemon.pacing import TokenBucket
from simulator.clock import SimClock
from simulator.serving import RunningServer, serving
from simulator.trading.account import Account
from tests.support.gateway_stage import OPEN_NS, market

PAIR_S = 0.75  # between two orders of a way: the gateway sends at most 100 a minute
CASH = Decimal(10_000_000)
PAGE = bytes(8192)
START_S = 60.0
ARRIVED: dict[str, float] = {}


def stamp_arrivals() -> None:
    """Note when the bytes of an order are at the broker, by its name."""
    submit = TradingRest.submit

    async def submitting(rest: TradingRest[Any], request: web.Request) -> web.Response:
        now = time.monotonic()
        ARRIVED[json.loads(await request.text())["client_order_id"]] = now
        return await submit(rest, request)

    TradingRest.submit = submitting  # type: ignore[method-assign,assignment]


def started(folder: Path, broker: RunningServer, clock: SimClock) -> tuple[subprocess.Popen[str], int, tuple[str, str]]:
    """Start a gateway with one sub-account; returns it, its port and the sub-account's keys."""
    account = broker.server.account
    keys = {"APCA_API_KEY_ID": account.key, "APCA_API_SECRET_KEY": account.secret}
    file, command = folder / "gateway.toml", [sys.executable, "-m", "daemon.gateway", "--config", "gateway.toml"]
    first = [*command, "init", "--url", broker.trading_url, "--sub", "bench:5000000:shares", "--port", "0"]
    environment = os.environ | keys | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    subprocess.run(first, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in clock.settings().items())
    file.write_text(f"{file.read_text()}\n[clock]\n{table}\n[log]\nformat = 'json'\n")
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port, until = 0, time.monotonic() + START_S
    for line in process.stderr:
        entry = json.loads(line)
        port = entry.get("port", port)
        if entry["event"] == "gateway_ready" or time.monotonic() > until:
            break
    key, secret = ((folder / "gateway" / "keys" / "bench" / name).read_text().strip() for name in keys)
    return process, port, (key, secret)


async def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All figures of so many orders on each way."""
    stamp_arrivals()
    clock = SimClock.starting_now(OPEN_NS + 10 * 60_000_000_000)
    accounts = [
        Account("PKGATEWAY00000000000", "s" * 40, cash=CASH, margin=1, account_number="PA1"),
        Account("PKDIRECT000000000000", "t" * 40, cash=CASH, margin=1, account_number="PA2"),
    ]
    with serving(market(), clock, accounts=accounts) as broker:
        gateway, port, keys = await asyncio.to_thread(started, folder, broker, clock)
        try:
            direct = (accounts[1].key, accounts[1].secret)
            ways = {"direct": _way(broker.trading_url, *direct), "gateway": _way(f"http://127.0.0.1:{port}", *keys)}
            took = await _in_turns(ways, rounds, folder)
            for queue, _ in ways.values():
                await queue.close()
        finally:
            gateway.terminate()
            await asyncio.to_thread(gateway.wait)
    added = {
        what: {
            name: round(percentiles(took["gateway", what])[name] - percentiles(took["direct", what])[name], 3)
            for name in ("p50_ms", "p99_ms")
        }
        for what in ("to_broker", "answered")
    }
    figures = {f"{way}_{what}": percentiles(times) for (way, what), times in took.items()}
    return {"rounds": rounds, **figures, "added": added, "aim_ms": "one fsync + 1 (p50), + 3 (p99)"}


def _way(url: str, key: str, secret: str) -> tuple[RequestQueue, TradingOrders]:
    clock = Clock.real()
    queue = RequestQueue("orders", TokenBucket(clock.now_ns, 6000, 1000), clock)
    return queue, TradingOrders(Access(url, key, secret), queue)


async def _in_turns(
    ways: dict[str, tuple[RequestQueue, TradingOrders]], rounds: int, folder: Path
) -> dict[tuple[str, str], list[float]]:
    took: dict[tuple[str, str], list[float]] = {(way, what): [] for way in ways for what in ("to_broker", "answered")}
    took["fsync", "page"] = []
    drawn = random.Random(1)
    with (folder / "block").open("wb", buffering=0) as file:
        for number in range(rounds + 5):
            names = list(ways)
            drawn.shuffle(names)
            for way in names:
                name = f"{way}-{number}"
                order = SubmitOrder(name, "SPY", 1, 1, Decimal("400.00"), "", 2**62)
                began = time.monotonic()
                await ways[way][1].submit(order)
                done = time.monotonic()
                if number >= 5:  # connections and caches are warm
                    took[way, "to_broker"].append(ARRIVED[name] - began)
                    took[way, "answered"].append(done - began)
                await asyncio.sleep(PAIR_S / 2)
            began = time.monotonic()
            file.write(PAGE)
            os.fsync(file.fileno())
            took["fsync", "page"].append(time.monotonic() - began)
    return took


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=80, help="orders on each way (80: a minute)")
    parser.add_argument("--dir", type=Path, help="folder of the journal: its disk is what fsync waits for (a new one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        sys.stdout.write(json.dumps(asyncio.run(measure(Path(folder), options.rounds)), indent=1) + "\n")


if __name__ == "__main__":
    main()
