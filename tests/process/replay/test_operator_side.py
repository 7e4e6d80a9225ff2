"""The operator's side as whole processes beside a replaying `rltraderd`: whatever breaks there, the desk goes on alike.

A real broker, a real dashboard, real clients. What is expected is the journal of a run that had none of it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl
from daemon.core.events import BarClosed, Event
from daemon.engine.engine import EventSource
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from daemon.models.pointer import CANDIDATE, CURRENT
from daemon.operator.control.client import CommandRequest, ask
from tests.support.dashboards import serving, slow_pages
from tests.support.desks.desk_run import Desk, chained, command, environment, read_models, table, tape_rows, write_tape
from tests.support.models.swaps import KIND, MODEL, alarms, damage, events, name, publish, publish_malicious
from tests.support.outside.mosquitto import BINARY, PASSWD, Mosquitto, prepared
from tests.support.ports import free_port

LIMIT_S = 300.0
LOOK_S = 0.02
REPLAY_USER = "paper-1-replay"  # at the broker a replay is somebody else than its desk
SPEED = 130_000  # the nights between sessions pass in 0.5 s, a session as fast as it can
RSS_MORE_KIB = 64 * 1024  # for the libraries of all that is switched on, and its queues
HUNDRED = 100
SUBSCRIBER = "mosquitto_sub"


def until(reached: Callable[[], bool], goal: str) -> None:
    """Return when it is so."""
    end = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < end, f"waited {LIMIT_S:g} s for this: {goal}"
        time.sleep(LOOK_S)


@dataclass(slots=True)
class Process:
    """One `rltraderd`, its output in files, its largest memory as the kernel counts it."""

    folder: Path
    running: subprocess.Popen[bytes]
    rss_kib: list[int] = field(default_factory=list)

    def read_log(self, *names: str) -> list[dict[str, Any]]:
        """The whole lines of its log so far with these names."""
        lines = (self.folder / "err").read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n") and line.startswith("{")]
        return [line for line in whole if line["event"] in names]

    def weigh(self) -> None:
        """Note how much memory it has now."""
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.running.pid}/status").read_text().splitlines()
            self.rss_kib.append(int(next(line for line in status if line.startswith("VmRSS")).split()[1]))

    def end(self) -> dict[str, Any]:
        """Wait for its end, which must be clean; returns its summary."""
        end = time.monotonic() + LIMIT_S
        while self.running.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self.weigh()
            time.sleep(LOOK_S)
        assert self.running.returncode == 0, (self.folder / "err").read_text()[-2000:]
        summary: dict[str, Any] = json.loads((self.folder / "out").read_text().splitlines()[-1])
        return summary


@contextlib.contextmanager
def rltraderd(folder: Path, tape: Path, state_dir: Path, *arguments: str, **settings: str) -> Iterator[Process]:
    """A replay under way; killed with the block where it still runs."""
    folder.mkdir(exist_ok=True)
    line = command("daemon", "--dry-run", "--bars", tape, "--state-dir", state_dir, *arguments)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        running = subprocess.Popen(line, cwd=tape.parent, env=environment(**settings), stdout=out, stderr=err)
    try:
        yield Process(folder, running)
    finally:
        running.kill()
        running.wait()


def verified(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether `rltraderctl verify` finds the journal identical."""
    capsys.readouterr()
    code = ctl.main(["verify", "--state-dir", str(state_dir)])
    return code == 0 and capsys.readouterr().out.startswith("identical: ")


# --- everything breaks --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    """A real broker as it is installed, with a user for a replay; skips where there is none."""
    if BINARY is None or PASSWD is None or shutil.which(SUBSCRIBER) is None:
        pytest.skip("needs Debian's packages mosquitto and mosquitto-clients: apt-get install both")
    broker = prepared(folder)
    broker.passwords[REPLAY_USER] = "5f" * 16
    passwords = str(folder / "rltrader.passwd")
    subprocess.run(
        [PASSWD, "-b", passwords, REPLAY_USER, broker.passwords[REPLAY_USER]], check=True, capture_output=True
    )
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def last_heard(broker: Mosquitto, topic: str) -> dict[str, Any]:
    """The message that the broker retains, as Debian's client hears it."""
    login = ["-u", "monitor", "-P", broker.passwords["monitor"], "--cafile", str(broker.ca_file)]
    where = ["-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5", "-t", topic, "-C", "1", "-W", "10"]
    result = subprocess.run([SUBSCRIBER, *login, *where], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    message: dict[str, Any] = json.loads(result.stdout)
    return message


def broken_scrapes(port: int, stop: threading.Event) -> int:
    """Clients of /metrics that break off, say nonsense, or say nothing; returns how many there were."""
    silent, count = [], 0
    words = (b"", b"GET /metr", b"\x16\x03\x01\x00\xff", b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 300, b"\r\n\r\n")
    while not stop.wait(0.01):
        with contextlib.suppress(OSError):
            client = socket.create_connection(("127.0.0.1", port), 1.0)
            client.sendall(words[count % len(words)])
            if count % HUNDRED == HUNDRED // 2:
                silent.append(client)
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends by a reset
                client.close()
            count += 1
    for client in silent:
        client.close()
    return count


def scraped(port: int) -> bool:
    """Whether a whole scrape comes."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=8) as answer:
        return b"rltrader_mqtt_published_total" in answer.read()
    return False


def begin_killing(broker: Mosquitto, desk: Process) -> threading.Thread:
    """Kill the broker twice while the desk speaks to it, and once more before it comes back."""

    def kill() -> None:
        for times in (1, 2):
            until(partial(_has_logged, desk, "mqtt_up", times), "the broker is reached")
            _gone_for_a_moment(broker)
        _gone_for_a_moment(broker)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def _has_logged(desk: Process, event: str, times: int) -> bool:
    return len(desk.read_log(event)) >= times


def _gone_for_a_moment(broker: Mosquitto) -> None:
    broker.stop()
    time.sleep(0.2)
    broker.start()


def test_whatever_breaks_beside_the_desk_it_ends_as_if_it_had_been_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = write_tape(tmp_path / "tape.csv", tape_rows(10, 390))
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    with rltraderd(tmp_path / "plain", tape, alone, RLTRADER_CONTROL__ENABLED="false") as plain:
        expected = plain.end()
    alarm = tmp_path / "alarm"
    alarm.write_text(f"#!/bin/sh\ntouch {tmp_path / 'alarmed'}\nsleep 600\n")
    alarm.chmod(0o755)
    port, stop = free_port(), threading.Event()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(mosquitto(tmp_path / "mosquitto"))
        dashboard = stack.enter_context(serving(beside))
        blocker = socket.create_server(("127.0.0.1", port))  # the metrics' port is somebody else's at first
        settings = {
            "RLTRADER_MQTT__ENABLED": "true",
            "RLTRADER_MQTT__PORT": str(broker.port),
            "RLTRADER_MQTT__CA_FILE": str(broker.ca_file),
            "RLTRADER_MQTT__USERNAME": REPLAY_USER,
            "RLTRADER_MQTT__QUEUE": "500",
            "MQTT_PASSWORD": broker.passwords[REPLAY_USER],
            "RLTRADER_METRICS__ENABLED": "true",
            "RLTRADER_METRICS__PORT": str(port),
            "RLTRADER_ALARMS__COMMAND": json.dumps([str(alarm)]),
        }
        desk = stack.enter_context(rltraderd(tmp_path / "hurt", tape, beside, "--speed", str(SPEED), **settings))
        killing = begin_killing(broker, desk)
        pages = slow_pages(dashboard.port, 20)
        until(lambda: bool(desk.read_log("task_failed")), "the metrics' port is taken")
        blocker.close()
        until(lambda: scraped(port), "metrics are served")
        hammer = threading.Thread(target=broken_scrapes, args=(port, stop))
        hammer.start()
        for _ in range(HUNDRED):
            assert ask(beside, CommandRequest(1, "status")).ok  # the one command that is no event
            desk.weigh()
        until(lambda: dashboard.json("/api/now")["seq"] > 0, "the dashboard follows")
        dashboard.process.send_signal(signal.SIGKILL)
        killing.join()
        assert desk.running.poll() is None, "it ended before all was broken"
        summary = desk.end()
        telemetry = last_heard(broker, f"rltrader/{REPLAY_USER}/telemetry")
        stop.set()
        hammer.join()
        for page in pages:
            page.close()
    for key in ("state_digest", "journal_events", "orders", "fills", "partial_fills", "decisions", "equity_usd"):
        assert summary[key] == expected[key], key
    assert summary["fills"] > 0
    assert read_models(beside) == read_models(alone)
    assert chained(beside) == chained(alone)
    assert verified(beside, capsys)
    assert max(desk.rss_kib) < max(plain.rss_kib) + RSS_MORE_KIB
    assert not (tmp_path / "alarmed").exists()  # a replay alarms nobody
    outcomes = [telemetry[name] for name in ("published", "dropped", "conflated", "refused", "queued")]
    assert telemetry["offered"] == sum(outcomes)
    assert telemetry["offered"] > 10_000
    assert telemetry["dropped"] > 0
    assert telemetry["refused"] == 0
    assert telemetry["reconnects"] >= 2
    print(f"{telemetry}, RSS {max(plain.rss_kib)} KiB alone, {max(desk.rss_kib)} beside all this")


def test_a_candidate_beside_a_replaying_daemon_changes_no_decision_no_order_no_fill_and_no_cent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, tape = tmp_path / "store", write_tape(tmp_path / "tape.csv", tape_rows(1, 150))
    for version, seed in (("live", 1), ("next", 2)):
        publish(store, version, seed)
    name(store, "live")
    name(store, "next", CANDIDATE)
    settings = {"RLTRADER_PATHS__MODELS_DIR": str(store), "RLTRADER_POLICY__VERSION": CURRENT}
    alone, with_shadow = tmp_path / "alone", tmp_path / "both"
    with (
        rltraderd(tmp_path / "first", tape, alone, **settings) as plain,
        rltraderd(tmp_path / "second", tape, with_shadow, RLTRADER_POLICY__SHADOW=CANDIDATE, **settings) as shadowed,
    ):
        expected, summary = plain.end(), shadowed.end()
    for key in ("orders", "fills", "partial_fills", "decisions", "actions", "equity_usd"):
        assert summary[key] == expected[key], key
    assert summary["fills"] > 0
    assert read_models(with_shadow) == read_models(alone)
    answers = [(event.decision, event.model) for event in events(with_shadow, "ShadowAnswered")]
    assert answers == [(event.decision, "next") for event in events(with_shadow, "PolicyAnswered")]
    assert len(table(with_shadow, "shadows")) == len(answers) == summary["decisions"]
    assert verified(with_shadow, capsys)


# --- models under a running process -------------------------------------------------------------------------------

STUBS_AND_40 = 3 * 86 + 40  # bars after which the fixture's session is under way and its observations are whole
SWAP_SPEED = 100  # a bar each 0.6 s: the tape outlasts ten promotions on a machine that is ten times overloaded


class Beginning:
    """The events of a tape up to its bar number `bars`."""

    def __init__(self, tape: EventSource, bars: int) -> None:
        self._tape, self._bars_left = tape, bars

    def poll(self) -> Event | None:
        event = self._tape.poll() if self._bars_left else None
        self._bars_left -= isinstance(event, BarClosed)
        return event

    async def next(self) -> Event | None:
        return self.poll()


def _answers(state_dir: Path, model: str) -> bool:
    """Whether the newest decision that a model made is this one's; no where the journal cannot be read this moment."""
    with contextlib.suppress(JournalError):
        reader = JournalReader(state_dir / FILE)
        try:
            rows = reader.query("SELECT model FROM decisions WHERE kind = 'policy' ORDER BY decision DESC LIMIT 1")
            return [row["model"] for row in rows] == [model]
        finally:
            reader.close()
    return False


def _refused(state_dir: Path, version: str) -> bool:
    """Whether the journal says that this candidate was refused."""
    with contextlib.suppress(JournalError):
        return version in [event.version for event in events(state_dir, "CandidateRefused")]
    return False


def test_ten_promotions_under_a_running_daemon_miss_no_bar_and_two_broken_ones_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, state_dir = tmp_path / "store", tmp_path / "state"
    for number in range(9):
        publish(store, f"v{number}", number)
    damage(publish(store, "damaged", 50))
    publish_malicious(store, "malicious", "an endless Loop")
    name(store, "v0")
    swaps = ["v1", "v2", "v3", "damaged", "v4", "v5", "malicious", "v6", "v7", "v8"]
    tape = write_tape(tmp_path / "tape.csv", tape_rows(1, 390))
    settings = {"RLTRADER_PATHS__MODELS_DIR": str(store), "RLTRADER_POLICY__VERSION": CURRENT}
    before = Desk(tape, paths__models_dir=store, policy__version=CURRENT)
    assert before.run(state_dir, source=lambda bars: Beginning(bars, STUBS_AND_40)).failure is None
    model = "v0"
    paced = ("--speed", str(SWAP_SPEED))
    with rltraderd(tmp_path / "first", tape, state_dir, *paced, RLTRADER_POLICY__POLL_S="1", **settings) as desk:
        until(lambda: bool(desk.read_log("control_listening")), "it takes commands")
        for version in swaps:
            promoted = ctl.main(["models", "activate", version, "--models-dir", str(store), "--reason", "a test"])
            is_broken = version in ("damaged", "malicious")
            assert promoted == is_broken
            if is_broken:
                name(store, version)  # what the command refuses is written by hand
            else:
                model = version
            if version not in ("v1", "damaged"):  # these are noticed by themselves
                assert ctl.main(["reload", "--state-dir", str(state_dir), "--reason", "now"]) == 0
            if is_broken:
                until(partial(_refused, state_dir, version), f"{version} is refused")
            until(partial(_answers, state_dir, model), f"{model} answers")
        desk.running.send_signal(signal.SIGTERM)
        desk.end()
    with rltraderd(tmp_path / "second", tape, state_dir, **settings) as desk:
        assert desk.end()["bars"] == len(tape.read_text().splitlines()) - 1
    rows = [row for row in table(state_dir, "decisions") if row[KIND] == "policy"]
    assert list(dict.fromkeys(row[MODEL] for row in rows)) == [f"v{number}" for number in range(9)]
    assert [row[MODEL] for row in rows] == sorted(row[MODEL] for row in rows)  # none answered again
    promotions = [(event.previous, event.version) for event in events(state_dir, "ModelPromoted")]
    assert promotions == [(f"v{number}", f"v{number + 1}") for number in range(8)]
    assert [event.version for event in events(state_dir, "CandidateRefused")] == ["damaged", "malicious"]
    assert alarms(state_dir).count("candidate_refused") == 2
    assert verified(state_dir, capsys)
