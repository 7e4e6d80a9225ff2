"""What systemd would receive, on a real datagram socket. Expected bytes are those of sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.host.service import Service


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end of the notification socket, and a service environment with a watchdog of 20 ms."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "notify"))
    receiver.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    yield receiver
    receiver.close()


def received(systemd: socket.socket) -> list[bytes]:
    messages = []
    while True:
        try:
            messages.append(systemd.recv(4096))
        except BlockingIOError:
            return messages


def fill(sender: socket.socket) -> None:
    """Send until the kernel takes no more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(b"full")


async def stop(guard: asyncio.Task[None]) -> None:
    guard.cancel()
    with pytest.raises(asyncio.CancelledError):
        await guard


def test_each_message_is_what_systemd_expects(systemd: socket.socket) -> None:
    service = Service()
    service.ready()
    service.status("warm, 256 bars –\nREADY=0")
    service.watchdog()
    service.stopping()
    service.close()
    service.close()
    service.ready()
    assert received(systemd) == [
        b"READY=1",
        "STATUS=warm, 256 bars – READY=0".encode(),  # one line: no message can hide in it
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_a_socket_that_nobody_reads_holds_nothing_up_and_readiness_follows(systemd: socket.socket) -> None:
    service = Service()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(systemd.getsockname())
        fill(other)

    def starts() -> None:
        service.ready()
        service.status("reconciled")
        service.watchdog()

    started = threading.Thread(target=starts, daemon=True)
    started.start()
    started.join(20)
    held_up = started.is_alive()
    received(systemd)  # lets a sender go that waits
    assert not held_up
    service.watchdog()
    service.watchdog()
    service.close()
    assert received(systemd) == [b"READY=1\nWATCHDOG=1", b"WATCHDOG=1"]  # lines of one message, as sd_notify(3) has it


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves its socket open
def test_a_socket_that_is_not_there_is_as_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    service = Service()
    service.ready()
    service.close()
    assert service.interval_s is None


def test_an_abstract_socket_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"rltrader-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        service = Service()
        service.ready()
        service.close()
        assert received(receiver) == [b"READY=1"]


async def test_without_systemd_nothing_is_told_and_nothing_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    service = Service()
    service.ready()
    assert service.interval_s is None
    await service.guard(lambda: pytest.fail("a probe was made"), 1, 1)
    service.close()


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [
        ("60000000", "own", 30.0),
        ("60000000", "", 30.0),
        ("60000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
    ],
)
def test_the_interval_is_half_of_the_watchdog_s_time_and_only_for_this_process(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, interval_s: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    service = Service()
    service.close()
    assert service.interval_s == interval_s


async def test_the_watchdog_is_fed_once_for_each_probe_that_came_back(systemd: socket.socket) -> None:
    service, probes, third = Service(), list[int](), asyncio.Event()

    async def probe() -> None:
        assert len(received(systemd)) == min(len(probes), 1)  # fed after the last one, not before this one
        probes.append(1)
        if len(probes) == 3:
            third.set()
            await asyncio.Event().wait()

    guard = asyncio.create_task(service.guard(probe, every_s=3600, deadline_s=3600))  # 10 ms: the watchdog asks for it
    await asyncio.wait_for(third.wait(), 180)
    await stop(guard)
    assert received(systemd) == []  # the third hangs
    service.close()


async def test_a_probe_that_hangs_feeds_nothing_and_the_next_one_is_made(systemd: socket.socket) -> None:
    service, done, probes = Service(), asyncio.Event(), list[int]()

    async def probe() -> None:
        probes.append(1)
        if len(probes) == 1:
            await asyncio.Event().wait()
        if len(probes) == 3:
            done.set()
            await asyncio.Event().wait()

    guard = asyncio.create_task(service.guard(probe, every_s=0.001, deadline_s=0.05))
    await asyncio.wait_for(done.wait(), 180)
    await stop(guard)
    assert received(systemd) == [b"STATUS=no progress within 0.05 s: the watchdog is not fed", b"WATCHDOG=1"]
    service.close()


async def test_a_probe_that_raises_ends_the_guard_with_its_exception(systemd: socket.socket) -> None:
    service = Service()

    async def probe() -> None:
        raise OSError("the journal cannot be written")

    with pytest.raises(OSError, match="the journal cannot be written"):
        await service.guard(probe, 1, 1)
    assert received(systemd) == []
    service.close()
