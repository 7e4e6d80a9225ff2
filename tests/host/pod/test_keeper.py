"""`rltrader-pod` around real programs: restarts, watchdog, probes, signals, and the Lease at an API server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.host.pod.__main__ import main
from daemon.host.pod.keeper import MARGIN_S, Supervisor, Times
from daemon.host.pod.lease import ApiServer, Tenure
from tests.support.deploy.lease_server import LeaseServer
from tests.support.paths import REPOSITORY

LIMIT_S = 120.0
QUICK = Times(restart_s=0.05, renew_s=0.05, look_s=0.02, stop_s=60)
SERVICE = """
import os, signal, socket, sys, time
systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); systemd.connect(os.environ["NOTIFY_SOCKET"])
with open(sys.argv[1], "a") as log: print(os.getpid(), os.environ["WATCHDOG_USEC"], file=log)
def stop(*_):
    systemd.send(b"STOPPING=1")
    with open(sys.argv[1], "a") as log: print("stopped", file=log)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
if len(sys.argv) > 2: exec(sys.argv[2])
systemd.send(b"READY=1\\nSTATUS=up")
while True: systemd.send(b"WATCHDOG=1"); time.sleep(0.02)
"""


def until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Stage:
    """A keeper in a thread, its folder, and what its children wrote."""

    def __init__(self, folder: Path, program: str = "", times: Times = QUICK, tenure: Tenure | None = None) -> None:
        self.folder, self.log, self.code = folder, folder / "log", -1
        self.log.touch()
        command = [sys.executable, "-c", SERVICE, str(self.log), *([program] if program else [])]
        self.keeper = Supervisor(command, folder, times, tenure)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.code = self.keeper.run()

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def ready(self) -> bool:
        return (self.folder / "ready").exists()

    @contextlib.contextmanager
    def running(self) -> Iterator[Stage]:
        self.thread.start()
        try:
            yield self
        finally:
            self.keeper.stop()
            self.thread.join(LIMIT_S)
            assert not self.thread.is_alive()


def test_what_ends_is_started_again_and_ready_follows_its_own_word(tmp_path: Path) -> None:
    with Stage(tmp_path).running() as stage:
        until(lambda: stage.ready, "the child is ready")
        assert (tmp_path / "alive").exists()
        first = stage.lines[0].split()
        assert first[1] == "60000000"
        os.kill(int(first[0]), signal.SIGKILL)
        until(lambda: len(stage.lines) == 2 and stage.ready, "another child is ready")
    assert stage.code == 0
    assert stage.lines[-1] == "stopped"  # cleanly, by SIGTERM
    assert not stage.ready
    assert not (tmp_path / "alive").exists()


def test_a_child_that_refuses_its_settings_is_not_started_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sys.exit(2)")
    with stage.running():
        stage.thread.join(LIMIT_S)
    assert (stage.code, len(stage.lines)) == (2, 1)


def test_a_child_that_makes_no_progress_is_killed_and_started_again(tmp_path: Path) -> None:
    frozen = "systemd.send(b'READY=1'); time.sleep(3600)"
    with Stage(tmp_path, frozen, Times(restart_s=0.05, look_s=0.02, watchdog_s=0.2)).running() as stage:
        until(lambda: len(stage.lines) >= 2, "it was started again")
        assert "stopped" not in stage.lines


def test_a_child_that_is_never_ready_is_killed_and_one_that_needs_time_is_not(tmp_path: Path) -> None:
    mute = "time.sleep(3600)"
    with Stage(tmp_path, mute, Times(start_s=1.0, restart_s=0.05, look_s=0.02, watchdog_s=0.05)).running() as stage:
        until(lambda: len(stage.lines) >= 2, "it was started again")
    slow = tmp_path / "slow"
    slow.mkdir()
    with Stage(slow, "time.sleep(1)", Times(restart_s=0.05, look_s=0.02, watchdog_s=30)).running() as stage:
        until(lambda: stage.ready, "it is ready in the end")
        assert len(stage.lines) == 1


def test_a_child_that_stops_by_itself_long_after_its_start_has_the_time_of_a_stop(tmp_path: Path) -> None:
    work = "began = time.monotonic(); systemd.send(b'READY=1')\n"
    work += "while time.monotonic() - began < 1.2: systemd.send(b'WATCHDOG=1'); time.sleep(0.02)\n"
    work += "systemd.send(b'STOPPING=1'); time.sleep({})\n"
    work += "open(sys.argv[1], 'a').write('closed\\n'); sys.exit(1)"
    times = Times(start_s=1.0, restart_s=60, look_s=0.02, stop_s=60)  # it ran for longer than a start may take
    with Stage(tmp_path, work.format(0.5), times).running() as stage:
        until(lambda: len(stage.lines) == 2, "it closed what it had to")
    assert stage.lines[1] == "closed"
    late = tmp_path / "late"
    late.mkdir()
    times = Times(start_s=60, restart_s=0.05, look_s=0.02, stop_s=0.2)
    with Stage(late, work.format(3600), times).running() as stage:
        until(lambda: len(stage.lines) >= 2, "what does not end is killed, and started again")


def test_a_child_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stage = Stage(tmp_path, deaf, Times(restart_s=0.05, look_s=0.02, stop_s=0.2))
    with stage.running():
        until(lambda: stage.ready, "the child is ready")
    assert (stage.code, len(stage.lines)) == (0, 1)


AS_INIT = """
import ctypes, os, subprocess, sys, time
from daemon.host.pod.keeper import reap_orphans
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans come here, as to process 1
def zombies():
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent, *_ = open(f"/proc/{pid}/stat").read().rpartition(") ")[2].split()
        except OSError:
            continue  # it is gone
        count += state == "Z" and int(parent) == os.getpid()
    return count
child = subprocess.Popen(["sh", "-c", "sleep 0.3 & sleep 0.3 & exit 7"])
while zombies() < 3: time.sleep(0.02)  # two orphans, and the child that nobody asked yet
reap_orphans(child)
code = child.wait()
reap_orphans(child)
print(code, zombies())
"""


def test_as_process_1_it_takes_the_orphans_of_its_children_and_leaves_them_their_own_exit_code() -> None:
    result = subprocess.run(
        [sys.executable, "-c", AS_INIT], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.stdout.strip(), result.stderr) == ("7 0", "")


class Clock:
    """This machine's seconds, and what is added by hand."""

    def __init__(self) -> None:
        self.added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LeaseServer]:
    with LeaseServer(tmp_path, "rltraderd").serving() as server:
        yield server


def held_by(cluster: LeaseServer, folder: Path, holder: str, clock: Clock, program: str = "") -> Stage:
    folder.mkdir()
    tenure = Tenure(ApiServer("127.0.0.1", cluster.port, cluster.account, "rltraderd"), holder, 600, clock)
    stage = Stage(folder, program, QUICK, tenure)
    stage.keeper._clock = clock
    return stage


def test_a_second_pod_starts_nothing_until_the_first_one_has_ended(cluster: LeaseServer, tmp_path: Path) -> None:
    one, two = (held_by(cluster, tmp_path / name, name, Clock()) for name in ("one", "two"))
    with one.running():
        until(lambda: one.ready, "the first one runs")
        with two.running():
            requests = len(cluster.asked)
            until(lambda: len(cluster.asked) > requests + 20, "both asked again and again")
            assert (two.lines, (two.folder / "alive").exists()) == ([], True)
            one.keeper.stop()
            one.thread.join(LIMIT_S)
            until(lambda: two.ready, "the second one runs")
            assert one.lines[-1] == "stopped"
    assert cluster.holder("rltraderd") == ""


def test_an_api_server_that_is_away_disturbs_nothing_until_the_time_is_nearly_over(
    cluster: LeaseServer, tmp_path: Path
) -> None:
    clock = Clock()
    with held_by(cluster, tmp_path / "one", "one", clock).running() as stage:
        until(lambda: stage.ready, "it runs")
        cluster.refuse = 503
        requests = len(cluster.asked)
        until(lambda: len(cluster.asked) > requests + 3, "it was asked in vain")
        clock.added += 300
        requests = len(cluster.asked)
        until(lambda: len(cluster.asked) > requests + 3, "it was asked in vain")
        assert stage.ready
        clock.added += 600 - 300 - MARGIN_S - QUICK.stop_s + 1
        until(lambda: stage.lines[-1] == "stopped", "it is stopped cleanly while there is time")
        cluster.refuse = None
        until(lambda: stage.ready, "it runs again under a lease that it could renew")


def test_a_machine_that_slept_kills_no_child_for_a_watchdog_that_slept_too(
    cluster: LeaseServer, tmp_path: Path
) -> None:
    clock = Clock()
    seldom = "systemd.send(b'READY=1')\nwhile True: time.sleep(2); systemd.send(b'WATCHDOG=1')"
    with held_by(cluster, tmp_path / "one", "one", clock, seldom).running() as stage:
        until(lambda: stage.ready, "it runs")
        clock.added += 300
        requests = len(cluster.asked)
        until(lambda: len(cluster.asked) > requests + 3, "the lease is renewed")
        assert len(stage.lines) == 1
        assert stage.ready


def test_what_does_not_stop_is_killed_before_the_lease_runs_out(cluster: LeaseServer, tmp_path: Path) -> None:
    clock = Clock()
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with held_by(cluster, tmp_path / "one", "one", clock, deaf).running() as stage:
        until(lambda: stage.ready, "it runs")
        pid = int(stage.lines[0].split()[0])
        cluster.refuse = 503
        clock.added += 600 - MARGIN_S
        until(lambda: not Path(f"/proc/{pid}").exists(), "it is killed")


def test_a_lease_that_is_taken_away_by_hand_ends_the_child_at_once(cluster: LeaseServer, tmp_path: Path) -> None:
    with held_by(cluster, tmp_path / "one", "one", Clock()).running() as stage:
        until(lambda: stage.ready, "it runs")
        pid = int(stage.lines[0].split()[0])
        until(lambda: _taken(cluster), "somebody else took it")
        until(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")
        assert len(stage.lines) == 1  # killed: another one may run already


def _taken(cluster: LeaseServer) -> bool:
    cluster.change("rltraderd", holderIdentity="somebody")
    return cluster.holder("rltraderd") == "somebody"


def test_the_command_stops_cleanly_by_a_signal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = [sys.executable, "-m", "daemon.host.pod", "--run-dir", str(tmp_path), "--"]
    pod = subprocess.Popen([*line, sys.executable, "-c", SERVICE, str(log)], cwd=REPOSITORY)
    until((tmp_path / "ready").exists, "it is ready")
    pod.terminate()
    assert pod.wait(timeout=LIMIT_S) == 0
    assert log.read_text().splitlines()[-1] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--", "rltrader-nonesuch"], "there is no such program"),
        (["--lease", "rltraderd", "--holder", "", "--", "true"], "set POD_UID"),
        (["--lease", "rltraderd", "--holder", "a", "--lease-s", "60", "--", "true"], "expected 155 or more"),
        (["--lease", "rltraderd", "--holder", "a", "--", "true"], "KUBERNETES_SERVICE_HOST is not set"),
    ],
)
def test_a_wrong_use_is_refused_with_its_cure(
    arguments: list[str], problem: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run-dir", str(tmp_path), *arguments]) == 2
    assert problem in capfd.readouterr().err
