"""`rltrader-notify`: messages about a desk to Telegram, Discord, ntfy, mail and whatever else Apprise knows.

`alarm` is for the daemon's alarm command, `follow` a process of its own that reads a desk's journal, `test` sends one
message. The daemon depends on none of them. Exit code 1: a service did not take the message; 2: wrong use.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from daemon.host.own_files import StateDirError
from daemon.host.service import Service
from daemon.host.state_place import configured_state_dir
from daemon.host.version import add_version
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from daemon.notify.news import ALARMS, KINDS, News, of_alarm
from daemon.notify.outgoing import Outgoing
from daemon.notify.services import CREDENTIAL, NotifyProblem, Services, addresses

NOT_SENT, WRONG_USE = 1, 2
LINE_BYTES_MAX = 64 * 1024
LOOK_S = 1.0  # between two looks at the journal
PROBLEM_EVERY_S = 60.0  # between two lines about the same problem


def main(arguments: Sequence[str] | None = None) -> int:
    """Send what the command is about; returns the exit code."""
    options = _options(arguments)
    try:
        services = Services(*addresses(options.urls))
        if options.command == "test":
            return _test(services)
        if options.command == "alarm":
            message = of_alarm(sys.stdin.read(LINE_BYTES_MAX))
            return _sent(services.send(message.title, message.body))
        return _follow(options, services)
    except (NotifyProblem, StateDirError, JournalError, ValueError) as error:
        return _refused(str(error))


def _test(services: Services) -> int:
    code = _sent(services.send("rltrader: a test message", "Messages about your desk will come this way."))
    if not code:
        sys.stdout.write(f"sent to {len(services)} service{'s' * (len(services) != 1)}\n")
    return code


def _sent(failed: list[str]) -> int:
    """Report the services that did not take a message; returns the exit code."""
    if failed:
        sys.stderr.write(f"rltrader-notify: not taken by {', '.join(failed)}: check its address and the network\n")
    return NOT_SENT if failed else 0


def _refused(problem: str) -> int:
    sys.stderr.write(f"rltrader-notify: {problem}\n")
    return WRONG_USE


def _follow(options: argparse.Namespace, services: Services) -> int:
    """Send what the journal says from now on, until a signal. Raises JournalError for one that cannot be read."""
    state_dir, kinds = options.state_dir or configured_state_dir(), _kinds(options.send)
    stop, service, complain = threading.Event(), Service(), _Complaints()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    outgoing = Outgoing(services.send, options.per_minute, time.monotonic_ns, complain.not_taken)
    service.ready()
    waited_ns = _wait_for(state_dir / FILE, stop, service)
    if stop.is_set():
        return 0
    news = News(state_dir, kinds, waited_ns)
    _say(f"follows {news.desk}: {options.send}")
    while not stop.is_set():
        try:
            for message in news.read():
                outgoing.put(message)
        except JournalError as error:  # a rotation, or a disk that fails: looked at again
            complain(str(error))
        outgoing.turn()
        service.watchdog()
        stop.wait(LOOK_S)
    service.stopping()
    return 0


def _wait_for(journal: Path, stop: threading.Event, service: Service) -> int | None:
    """Wait for the journal, or for `stop`. Returns when it began to wait, in nanoseconds since 1970 UTC, or None."""
    if not _absent(journal):
        return None
    began_ns = time.time_ns()
    _say(f"no journal in {journal.parent} yet: waiting until its daemon makes one")
    while _absent(journal) and not stop.is_set():
        service.watchdog()
        stop.wait(LOOK_S)
    return began_ns


def _absent(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:  # a folder that this user may not enter: named when the journal is opened
        return False


def _say(line: str) -> None:
    sys.stdout.write(f"rltrader-notify: {line}\n")
    sys.stdout.flush()


class _Complaints:
    """Lines about problems on standard error, the same one once a minute."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def __call__(self, problem: str) -> None:
        now_s = time.monotonic()
        if now_s - self._told.get(problem, -PROBLEM_EVERY_S) >= PROBLEM_EVERY_S:
            self._told[problem] = now_s
            sys.stderr.write(f"rltrader-notify: {problem}\n")
            sys.stderr.flush()

    def not_taken(self, kinds: list[str]) -> None:
        self(f"a message was not taken by {', '.join(kinds)}: check its address and the network")


def _kinds(text: str) -> list[str]:
    """Raises ValueError for a kind that there is not."""
    found = [kind.strip() for kind in text.split(",") if kind.strip()]
    for kind in found:
        if kind not in KINDS:
            raise ValueError(f"--send {text}: {kind!r} is none of {', '.join(KINDS)}")
    return found or [ALARMS]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    line = argparse.ArgumentParser(
        prog="rltrader-notify",
        description="Messages about a desk to Telegram, Discord, ntfy, mail and other services. docs/MONITORING.md "
        "explains it.",
    )
    add_version(line)
    commands = line.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("test", "send one message, to see whether it arrives"),
        ("alarm", "send the alarm on standard input: for alarms.command of the daemon"),
        ("follow", "send what a desk's journal says from now on, until a signal"),
    ):
        made = commands.add_parser(name, help=text, description=text)
        urls = f"addresses, one a line (the credential {CREDENTIAL})"
        made.add_argument("--urls", type=Path, metavar="FILE", help=urls)
    desk = "the desk's; it is only read (paths.state_dir of ./config.toml and the environment)"
    made.add_argument("--state-dir", type=Path, metavar="DIR", help=desk)
    kinds = f"what, with commas: {'; '.join(f'{kind} ({text})' for kind, text in KINDS.items())} (%(default)s)"
    made.add_argument("--send", default=ALARMS, metavar="KINDS", help=kinds)
    rate = "messages a minute, 1 or more; what is held back is summed up in the last one (%(default)s)"
    made.add_argument("--per-minute", type=_count, default=6, metavar="N", help=rate)
    return line.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; expected 1 to 600")
    return int(text)
