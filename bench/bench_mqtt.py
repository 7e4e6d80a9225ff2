"""What MQTT costs the desk, what restarts of the broker do to it, and how fast a signed `halt` acts. `make bench`.

A replay of the bundled tape, paced to about 1,000 messages a second, beside a real Mosquitto with the installed
configuration (TLS, password, access list). The reference of each run is the same replay without MQTT.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.cli.remote import Route
from daemon.core.events import Event, HaltRequested
from daemon.core.step import Step
from daemon.engine.engine import Engine, EventSource
from daemon.operator.announce import Announcer
from daemon.operator.mqtt.connection import MqttSettings
from daemon.operator.mqtt.messages import message_of
from daemon.operator.mqtt.mqtt import MqttSide
from daemon.operator.mqtt.outbox import Outbox
from daemon.operator.remote_commands import Judge
from daemon.operator.side_thread import SideThread
from daemon.operator.signing import parse_keys, sign_command
from daemon.operator.submitter import DurableEvent, Submitter
from daemon.tapes import BUNDLED_TAPE
from tests.support.desks.desk_run import Desk, Recorded
from tests.support.outside.mosquitto import Mosquitto, running

FED_PER_S = 420.0  # feed events; each bar makes some two messages
LIMIT = 1000  # of the outbox: less than an outage's messages
OUTAGES_S = (4.0, 11.0, 18.0)  # the broker is killed then, for two seconds
OUTAGE_S = 2.0
STALLED_S = 3.0  # and held still once, before the last
HALTS = 200
KEY = "5a" * 32
S = 1_000_000_000


class Paced:
    """A tape's feed events at an even pace, and before them what an operator puts in."""

    def __init__(self, tape: EventSource, per_s: float) -> None:
        self._tape, self._per_s = tape, per_s
        self._put: deque[Event] = deque()
        self._woken = asyncio.Event()
        self._given = 0
        self._began = 0.0

    def put(self, event: Event) -> None:
        """On the loop's thread."""
        self._put.append(event)
        self._woken.set()

    def _early_s(self) -> float:
        self._began = self._began or time.monotonic()
        return self._began + self._given / self._per_s - time.monotonic()

    def poll(self) -> Event | None:
        if self._put:
            return self._put.popleft()
        if self._early_s() > 0:
            return None
        self._given += 1
        return self._tape.poll()

    async def next(self) -> Event | None:
        while not self._put and (early_s := self._early_s()) > 0:
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), early_s)
            except TimeoutError:
                break
        if self._put:
            return self._put.popleft()
        self._given += 1
        return await self._tape.next()


@dataclass
class PacedRun:
    """A paced run beside a broker, and what was seen of it."""

    outbox: Outbox
    recorded: Recorded = field(default_factory=Recorded)
    halted_ns: list[int] = field(default_factory=list)
    log: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    rss_kib: list[int] = field(default_factory=list)
    side: MqttSide | None = None
    wall_s: float = 0.0


def _rss_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def paced(desk: Desk, folder: Path, mosquitto: Mosquitto, when_begun: Callable[[], None]) -> PacedRun:
    """Replay with MQTT on; `when_begun` is called on a thread of its own when the desk is under way."""
    side = PacedRun(Outbox(LIMIT))
    announcer = Announcer(side.outbox)
    engines: list[Engine] = []
    sources: list[Paced] = []
    submitters: list[Submitter] = []
    beside = threading.Thread(target=when_begun)

    def submit(event_at: Callable[[int], Event]) -> Future[DurableEvent]:
        return submitters[0].submit_from_thread(event_at)

    def source(tape: EventSource) -> EventSource:
        sources.append(Paced(tape, FED_PER_S))
        return sources[0]

    def engine_made(engine: Engine) -> None:
        engines.append(engine)
        settings = MqttSettings(mosquitto.broker(), "paper-1", commands=True, wait_least_s=0.2, wait_most_s=1.0)
        side.side = MqttSide(
            settings,
            mosquitto.passwords["paper-1"],
            Judge("paper-1", parse_keys(f"ops:{KEY}"), time.time_ns),
            side.outbox,
            submit,
            lambda: engine.machine.state,
            lambda name, **fields: side.log.append((name, fields)),
        )
        side_thread.append(
            SideThread([("mqtt", side.side.run)], lambda name, problem: side.log.append((name, {"": problem})))
        )
        side_thread[0].start()

    def observe(event: Event, step: Step) -> None:
        if not submitters:
            engine = engines[0]
            submitters.append(Submitter(engine, sources[0].put, lambda: engine.machine.state.now_ns))
            beside.start()
        if type(event) is HaltRequested:
            side.halted_ns.append(time.perf_counter_ns())
        submitters[0].observe(event, step)
        announcer.observe(event, step)
        if step.state.seq % 2000 == 0:
            side.rss_kib.append(_rss_kib())

    side_thread: list[SideThread] = []
    began = time.monotonic()
    side.recorded = desk.run(folder, observe=observe, source=source, engine_made=engine_made)
    side.wall_s = time.monotonic() - began
    beside.join()
    end = time.monotonic() + 10.0
    while side.outbox.counts().waiting and time.monotonic() < end:
        time.sleep(0.05)
    if not side_thread[0].stop(10.0):
        raise AssertionError("the side thread does not end")
    if side.recorded.failure is not None:
        raise side.recorded.failure
    return side


def outages(folder: Path, desk: Desk, reference: str) -> dict[str, Any]:
    """The broker is killed three times, and once held still."""
    with running(folder / "mosquitto") as mosquitto:

        def trouble() -> None:
            began = time.monotonic()
            for place, at_s in enumerate(OUTAGES_S):
                if place == len(OUTAGES_S) - 1 and mosquitto.process is not None:
                    mosquitto.process.send_signal(signal.SIGSTOP)
                    time.sleep(STALLED_S)
                    mosquitto.process.send_signal(signal.SIGCONT)
                time.sleep(max(began + at_s - time.monotonic(), 0))
                mosquitto.stop()
                time.sleep(OUTAGE_S)
                mosquitto.start()

        replay = paced(desk, folder / "state", mosquitto, trouble)
    counts = replay.outbox.counts()
    accounted = counts.published + counts.dropped + counts.conflated + counts.refused + counts.waiting
    if replay.recorded.digest != reference:
        raise AssertionError(f"with MQTT the state is {replay.recorded.digest}, without it {reference}")
    if accounted != counts.offered:
        raise AssertionError(f"{counts} does not add up")
    assert replay.side is not None
    return {
        "state_digest_equal": True,
        "seconds": round(replay.wall_s, 1),
        "messages_per_s": round(counts.offered / replay.wall_s),
        **counts._asdict(),
        "accounted": accounted,
        "outbox_limit": LIMIT,
        "reconnects": replay.side.reconnects,
        "mqtt_up": sum(name == "mqtt_up" for name, _ in replay.log),
        "rss_mib": [round(kib / 1024, 1) for kib in (replay.rss_kib[0], max(replay.rss_kib), replay.rss_kib[-1])],
    }


def operate(mosquitto: Mosquitto, halts: int, sent: Any) -> None:
    """The operator's process: halt and resume, one after another, each with its answer."""
    key = parse_keys(f"ops:{KEY}")["ops"]
    route = Route(mosquitto.broker("operator"), mosquitto.passwords["operator"], "rltrader", "paper-1")
    asyncio.run(_operate(route, key, halts, sent))


async def _operate(route: Route, key: Any, halts: int, sent: Any) -> None:
    from daemon.cli.remote import _answer
    from daemon.operator.mqtt.connection import connect, properties

    response = "rltrader/paper-1/response/operator/bench"
    moments: list[int] = []
    rounds: list[int] = []
    async with connect(route.broker, route.password) as client:
        await client.subscribe(response, qos=1)
        for number in range(halts):
            for name in ("halt", "resume"):
                token = secrets.token_bytes(16)
                command = sign_command(key, "ops", "paper-1", name, "a benchmark", time.time_ns(), 30 * S, token)
                began = time.perf_counter_ns()
                how = properties(expiry_s=30, response_topic=response, correlation=token)
                await client.publish("rltrader/paper-1/command", msgspec.json.encode(command), qos=1, properties=how)
                answer = await asyncio.wait_for(_answer(client, token), 10)
                if not answer.ok:
                    raise AssertionError(f"{number}: {answer.error}")
                if name == "halt":
                    moments.append(began)
                    rounds.append(time.perf_counter_ns() - began)
    sent.put((moments, rounds))


def halts(folder: Path, desk: Desk) -> dict[str, Any]:
    """Latency from the publish of a signed halt in another process to the step that stops new orders."""
    spawn = multiprocessing.get_context("spawn")
    sent = spawn.Queue()
    got: list[tuple[list[int], list[int]]] = []
    with running(folder / "mosquitto") as mosquitto:
        copy = Mosquitto(mosquitto.folder, mosquitto.port, mosquitto.passwords)

        def operator() -> None:
            time.sleep(1.0)  # the connection comes up
            process = spawn.Process(target=operate, args=(copy, HALTS, sent))
            process.start()
            got.append(sent.get(timeout=120))
            process.join()

        replay = paced(desk, folder / "state", mosquitto, operator)
    published_ns, rounds_ns = got[0]
    if not len(published_ns) == len(replay.halted_ns) == HALTS:
        raise AssertionError(f"{len(replay.halted_ns)} halts of {HALTS}")
    ms = (np.array(replay.halted_ns) - np.array(published_ns)) / 1e6
    round_ms = np.array(rounds_ns) / 1e6
    p50, p99 = np.percentile(ms, [50, 99])
    round_p50, round_p99 = np.percentile(round_ms, [50, 99])
    return {
        "halts": HALTS,
        "halted_ms_p50": round(float(p50), 2),
        "halted_ms_p99": round(float(p99), 2),
        "halted_ms_max": round(float(ms.max()), 2),
        "answered_ms_p50": round(float(round_p50), 2),
        "answered_ms_p99": round(float(round_p99), 2),
        "messages_per_s": round(replay.outbox.counts().offered / replay.wall_s),
    }


def cost(folder: Path, desk: Desk) -> dict[str, Any]:
    """Processor time of the trading thread: a step without telemetry, and what leaving its telemetry adds."""
    steps: list[tuple[Event, Step]] = []
    began = time.thread_time()
    recorded = desk.run(folder / "plain")
    plain_s = time.thread_time() - began
    desk.run(folder / "recorded", observe=lambda event, step: steps.append((event, step)))
    best_s = 1e9
    for _ in range(5):
        outbox = Outbox(LIMIT)
        announcer = Announcer(outbox)
        observe = announcer.observe
        began = time.thread_time()
        for event, step in steps:
            observe(event, step)
        best_s = min(best_s, time.thread_time() - began)
    outbox, number = Outbox(LIMIT), 200_000
    began = time.thread_time()
    for _ in range(number):
        outbox.put("bars", steps)
    put_s = time.thread_time() - began
    outbox = Outbox(100_000)
    announcer = Announcer(outbox)
    for event, step in steps[:10_000]:
        announcer.observe(event, step)
    items = asyncio.run(_all(outbox))
    began = time.thread_time()
    for topic, thing in items:
        msgspec.json.encode(message_of(topic, thing, "paper-1"))
    encode_s = time.thread_time() - began
    return {
        "digest": recorded.digest,
        "steps": len(steps),
        "step_us": round(plain_s / len(steps) * 1e6, 2),
        "announce_us": round(best_s / len(steps) * 1e6, 3),
        "announce_share": round(best_s / plain_s, 4),
        "put_us": round(put_s / number * 1e6, 3),
        "encode_us": round(encode_s / len(items) * 1e6, 2),
    }


async def _all(outbox: Outbox) -> list[tuple[str, object]]:
    """What waits, as topic and thing."""
    return [(item.topic, item.thing) for item in [await outbox.get() for _ in range(outbox.counts().waiting)]]


def main() -> None:
    desk = Desk(BUNDLED_TAPE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = cost(folder / "cost", desk)
        figures: dict[str, Any] = {"cost": costs}
        if "halt" not in sys.argv[1:]:
            figures["outages"] = outages(folder / "outages", desk, costs["digest"])
        figures["halt"] = halts(folder / "halts", desk)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
