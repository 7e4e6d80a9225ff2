"""`rltrader-notify`: messages about a desk to Telegram, Discord, ntfy, mail and whatever else Apprise knows.

`alarm` is for the daemon's alarm command, `follow` a process of its own that reads a desk's journal, `test` sends one
message, `listen` answers a person's phone. The daemon depends on none of them. Exit code 1: a service did not take the
message, of an alarm: none did; 2: wrong use; 3: Telegram refuses the token.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from daemon.host.credential import CredentialProblem, credential, leave_no_core_dump
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass
from daemon.host.service import Service
from daemon.host.state_place import configured_state_dir
from daemon.host.version import CommandLine, add_version
from daemon.journal.journal import FILE
from daemon.journal.rows import JournalError
from daemon.notify.listen import KEYS, TOKEN, TOKEN_REFUSED, ListenProblem, listen, listening
from daemon.notify.news import ALARMS, KINDS, NewsReader, Notification, of_alarm
from daemon.notify.trade_news import MERGE_S
from daemon.operator.urgency import Urgency, urgency_of
from daemon.pacing import TokenBucket, back_off_s
from rltrader import called
from rltrader.install import install_line
from strategies.kit.units import SECOND_NS

WAITING_MOST = 200  # messages kept that are not grave, and grave ones of one name; older ones are only counted
NAMED_MOST = 8  # kinds of messages named in a summary
TOGETHER_MOST = 1500  # characters of grave messages that go out as one: Discord takes 2,000 with title and summary
AGAIN_S, AGAIN_MOST_S = 10.0, 300.0  # wait between two tries of grave messages that no service took, doubling
TRIES_MOST = 10  # tries of a grave message while others are taken: no service will take this one
RECENT_S = 300.0  # before a start: a grave alarm raised in this time may have been missed


class Send(Protocol):
    """Sends a message; returns the kinds of the services that did not take it."""

    def __call__(self, title: str, body: str) -> list[str]: ...


class Outgoing:
    """Queue of messages until they may be sent. `problem(kinds)` is called with the services that did not take one.

    A grave message that none of the `services` took is kept and sent again until one does: an outage that cuts off the
    desk cuts off this program too.
    """

    def __init__(
        self,
        send: Send,
        per_minute: int,
        monotonic_ns: Callable[[], int],
        problem: Callable[[list[str]], None],
        services: int = 1,
    ) -> None:
        self._send, self._problem, self._services, self._monotonic_ns = send, problem, services, monotonic_ns
        self._bucket = TokenBucket(monotonic_ns, per_minute, per_minute)
        self._grave: deque[Notification] = deque()
        self._waiting: deque[Notification] = deque()  # those that are not grave
        self._drops: Counter[str] = Counter()
        self._untaken: deque[_Untaken] = deque()
        self._failures, self._again_ns, self._taken = 0, 0, 0

    def put(self, message: Notification) -> None:
        """Take a message; above `WAITING_MOST` drop the oldest of the least urgent."""
        if _urgency(message) == Urgency.GRAVE:
            queue = self._grave
            alike = [other for other in queue if other.what == message.what]
        else:
            queue = self._waiting
            alike = list(queue)
        queue.append(message)
        if len(alike) >= WAITING_MOST:
            oldest = min((*alike, message), key=_urgency)  # the first of equals
            queue.remove(oldest)
            self._drops[oldest.what] += 1

    def turn(self) -> None:
        """Send what the rate allows now: messages one by one, and with the last one a summary of the rest."""
        while (self._grave or self._waiting) and not self._bucket.wait_ns():
            self._bucket.take()
            if self._bucket.wait_ns() and (len(self._waiting) + len(self._grave) > 1 or self._drops):
                self._summary()
                return
            self._out((self._grave or self._waiting).popleft())
        while self._untaken and self._monotonic_ns() >= self._again_ns and not self._bucket.wait_ns():
            self._bucket.take()
            self._out(*self._untaken.popleft())

    def _summary(self) -> None:
        """Send one message in full, the oldest grave ones or the newest of the most urgent, with a count of the others.

        Grave messages of other names wait for their own turn.
        """
        waiting, self._waiting = list(self._waiting), deque()
        if self._grave:
            first = self._grave_together()
        else:
            first = max(reversed(waiting), key=_urgency)  # the newest of equals
            waiting.remove(first)
        counts = Counter(message.what for message in waiting) + self._drops
        self._drops.clear()
        body = first.body
        if counts:
            parts = [f"{count} x {kind}" for kind, count in counts.most_common(NAMED_MOST)]
            more = len(counts) - NAMED_MOST
            body += f"\nHeld back: {', '.join(parts + [f'{more} other kinds'] * (more > 0))}"
        self._out(first._replace(body=body))

    def _grave_together(self) -> Notification:
        """Take the oldest grave message and those of its name, as many as fit: one message with each in full."""
        first = self._grave.popleft()
        bodies, length = [first.body], len(first.body)
        for message in [other for other in self._grave if other.what == first.what]:
            length += len(message.body) + 1
            if length > TOGETHER_MOST:
                break
            self._grave.remove(message)
            bodies.append(message.body)
        if len(bodies) == 1:
            return first
        return first._replace(title=f"{first.title}, {len(bodies)} times", body="\n".join(bodies))

    def _out(self, message: Notification, tries: int = 0, taken_before: int | None = None) -> None:
        """Send a message; keep a grave one that no service took."""
        failed_services = self._send(message.title, message.body)
        if failed_services:
            self._problem(failed_services)
        if len(failed_services) < self._services:
            self._taken += 1
            self._failures = self._again_ns = 0
        elif _urgency(message) == Urgency.GRAVE:
            self._failures += 1
            wait_ns = round(back_off_s(self._failures, AGAIN_S, AGAIN_MOST_S) * SECOND_NS)
            self._again_ns = self._monotonic_ns() + wait_ns
            taken_before = self._taken if taken_before is None else taken_before
            self._keep(_Untaken(message, tries + 1, taken_before))

    def _keep(self, untaken: _Untaken) -> None:
        alike = [other for other in self._untaken if other.message.what == untaken.message.what]
        if untaken.tries >= TRIES_MOST and self._taken > untaken.taken_before:
            self._drops[untaken.message.what] += 1
            return
        if len(alike) >= WAITING_MOST:
            self._untaken.remove(alike[0])
            self._drops[alike[0].message.what] += 1
        self._untaken.append(untaken)


class _Untaken(NamedTuple):
    """A grave message that no service took; `taken_before`: count of other messages taken before its first try."""

    message: Notification
    tries: int
    taken_before: int


def _urgency(message: Notification) -> int:
    """Return a message's urgency: an alarm's by the table, any other's below every alarm."""
    return urgency_of(message.what, halts=None) if message.kind == ALARMS else min(Urgency) - 1


CREDENTIAL = "NOTIFY_URLS"
BYTES_MAX = 64 * 1024
SEND_S = 20.0  # for a message, by each service
ALARM_S = 8.0  # the same for an alarm on standard input: the daemon kills the run after `alarms.timeout_s`, 10 s


class NotifyProblem(Exception):
    """Nothing can be sent. The text names the problem and its cure, and no address."""


def addresses(file: Path | None) -> tuple[list[str], str]:
    """Return the addresses of `file`, or else of the credential NOTIFY_URLS, and their origin.

    Skips empty lines and lines that begin with #. Raises NotifyProblem.
    """
    leave_no_core_dump()
    try:
        text, origin = credential(CREDENTIAL) if file is None else (file.read_text(), str(file))
    except (CredentialProblem, OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NotifyProblem(
            f"{file or CREDENTIAL}: the addresses cannot be read ({why}): name their file with --urls"
        ) from None
    lines = [line.strip() for line in text[:BYTES_MAX].splitlines()]
    urls = [line for line in lines if line and not line.startswith("#")]
    if not urls:
        raise NotifyProblem(
            f"{origin} holds no address: write one of Apprise's a line there, such as tgram://TOKEN/CHAT, or name "
            "another file with --urls"
        )
    return urls, origin


class _Service:
    """One service: sends on a thread of its own, so that one whose answer never ends holds nothing else up."""

    def __init__(self, kind: str, apprise: Any) -> None:
        self.kind, self._apprise = kind, apprise
        self._sending: Future[bool] | None = None

    @property
    def is_sending(self) -> bool:
        """Whether a message is on its way, with no answer yet."""
        return self._sending is not None and not self._sending.done()

    def begin(self, title: str, body: str) -> Future[bool] | None:
        """Start to send a message; None while an earlier one is still on its way."""
        if self.is_sending:
            return None
        sending = self._sending = Future[bool]()

        def send() -> None:
            try:
                sending.set_result(bool(self._apprise.notify(title=title, body=body)))
            except Exception as error:  # noqa: BLE001  of a service: the message was not taken
                sending.set_exception(error)

        threading.Thread(target=send, name=f"notify-{self.kind}", daemon=True).start()
        return sending


class Services:
    """Sends a message to all services at the same time: one that is unreachable delays no other.

    Every service has its own time limits for connecting and reading (4 s each), and `limit_s` for all of its answer.
    """

    def __init__(self, urls: Sequence[str], origin: str) -> None:
        """Load the services. Raises NotifyProblem for an address unknown to Apprise, or if Apprise is missing."""
        try:
            apprise: Any = importlib.import_module("apprise")
        except ImportError:
            raise NotifyProblem(f"apprise is not installed: {install_line('notify')}") from None
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines may hold parts of an address
        _refuse_lost_bodies()
        self._services: list[_Service] = []
        for number, url in enumerate(urls, 1):
            kind, service = url.partition(":")[0], apprise.Apprise()
            try:
                added = service.add(url)
            except Exception:  # noqa: BLE001  Apprise falls over some addresses; its text may hold one
                added = False
            if not added:
                raise NotifyProblem(
                    f"{origin}: address {number} is none that Apprise knows: see https://github.com/caronc/apprise/wiki"
                )
            self._services.append(_Service(kind if kind.isalnum() else "?", service))

    def __len__(self) -> int:
        """Return the number of services."""
        return len(self._services)

    def leave(self, code: int) -> int:
        """Return the exit code; where a service gives no answer, end the process at once.

        Python waits for Apprise's own threads before it ends, as long as the service likes.
        """
        if any(service.is_sending for service in self._services):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    def send(self, title: str, body: str, limit_s: float = SEND_S) -> list[str]:
        """Send to all services; return the kinds of those that did not take the message within `limit_s`."""
        sendings = [(service.kind, service.begin(title, body)) for service in self._services]
        wait([sending for _, sending in sendings if sending is not None], timeout=limit_s)
        return [
            kind
            for kind, sending in sendings
            if sending is None or not sending.done() or sending.exception() is not None or not sending.result()
        ]


@cache
def _refuse_lost_bodies() -> None:
    """Let no redirect turn a message into a question for a page: a proxy's page to log in would count as taken.

    A redirect that keeps the method (307, 308) is followed.
    """
    requests: Any = importlib.import_module("requests")
    session: Any = requests.Session
    rebuild = session.rebuild_method

    def rebuild_method(self: Any, prepared: Any, response: Any) -> None:
        method = prepared.method
        rebuild(self, prepared, response)
        if prepared.method != method:
            raise requests.TooManyRedirects(f"HTTP {response.status_code} leads elsewhere, without the message")

    session.rebuild_method = rebuild_method


NOT_SENT, WRONG_USE = 1, 2
LINE_MOST = 1 << 22  # characters: a halt may name the differences of a thousand symbols
LOOK_S = 1.0  # between two reads of the journal
PROBLEM_EVERY_S = 60.0  # between two lines about the same problem


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _options(arguments)
    try:
        if options.command == "listen":
            return _listen(options)
        services = Services(*addresses(options.urls))
        if options.command == "test":
            return services.leave(_test(services))
        if options.command == "alarm":
            message = of_alarm(sys.stdin.read(LINE_MOST))
            failed_services = services.send(message.title, message.body, ALARM_S)
            code = _exit_code(failed_services)  # for 1 the daemon runs it again: only if no service took it
            return services.leave(code if len(failed_services) == len(services) else 0)
        return services.leave(_follow(options, services))
    except MayPass as error:  # systemd restarts it
        _refuse(str(error))
        return NOT_SENT
    except (NotifyProblem, ListenProblem, StateDirError, JournalError, ValueError) as error:
        return _refuse(str(error))


def _listen(options: argparse.Namespace) -> int:
    """Listen until a signal; report a refused token to the other services, if there are any."""
    code = listen(listening(options.config), _say, _Complaints())
    if code == TOKEN_REFUSED and (options.urls is not None or credential(CREDENTIAL)[0]):
        text = f"Telegram refuses the bot's token. Nothing is heard until {TOKEN} is replaced."
        _exit_code(Services(*addresses(options.urls)).send("rltrader: the phone is not heard", text))
    return code


def _test(services: Services) -> int:
    code = _exit_code(services.send("rltrader: a test message", "Messages about your desk will come this way."))
    if not code:
        sys.stdout.write(f"sent to {len(services)} service{'s' * (len(services) != 1)}\n")
    return code


def _exit_code(failed_services: list[str]) -> int:
    """Report the services that did not take a message; returns the exit code."""
    if failed_services:
        sys.stderr.write(
            f"rltrader-notify: not taken by {', '.join(failed_services)}: check its address and the network\n"
        )
    return NOT_SENT if failed_services else 0


def _refuse(problem: str) -> int:
    sys.stderr.write(f"rltrader-notify: {problem}\n")
    return WRONG_USE


def _follow(options: argparse.Namespace, services: Services) -> int:
    """Send the journal's news from now on, until a signal. Raises JournalError for an unreadable one."""
    state_dir, kinds = options.state_dir or configured_state_dir(), _kinds(options.send)
    stop, service, complain = threading.Event(), Service(), _Complaints()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    send = _fed(services.send, service)
    outgoing = Outgoing(send, options.per_minute, time.monotonic_ns, complain.not_taken, len(services))
    service.ready()
    waited_ns = _wait_for(state_dir / FILE, stop, service)
    if stop.is_set():
        return 0
    news = NewsReader(state_dir, kinds, waited_ns, entries=options.entries, merge_s=options.merge_s)
    _say(f"follows {news.desk}: {options.send}")
    for message in news.grave_since(time.time_ns() - round(RECENT_S * SECOND_NS)):
        outgoing.put(message)
    while not stop.is_set():
        try:
            for message in news.read():
                outgoing.put(message)
        except JournalError as error:  # a rotation, or a failing disk: read again later
            complain(str(error))
        outgoing.turn()
        service.watchdog()
        stop.wait(LOOK_S)
    service.stopping()
    return 0


def _fed(send: Send, service: Service) -> Send:
    """Return `send` with a sign of life after each message: in an outage many of them time out in turn."""

    def sent(title: str, body: str) -> list[str]:
        try:
            return send(title, body)
        finally:
            service.watchdog()

    return sent


def _wait_for(journal: Path, stop: threading.Event, service: Service) -> int | None:
    """Wait for the journal, or for `stop`. Returns the begin of the wait, in nanoseconds since 1970 UTC, or None."""
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
    except OSError:  # a folder that this user may not enter: reported when the journal is opened
        return False


def _say(line: str) -> None:
    sys.stdout.write(f"rltrader-notify: {line}\n")
    sys.stdout.flush()


class _Complaints:
    """Problems on standard error, the same one at most once a minute."""

    def __init__(self) -> None:
        self._last_told: dict[str, float] = {}

    def __call__(self, problem: str) -> None:
        now_s = time.monotonic()
        if now_s - self._last_told.get(problem, -PROBLEM_EVERY_S) >= PROBLEM_EVERY_S:
            self._last_told[problem] = now_s
            sys.stderr.write(f"rltrader-notify: {problem}\n")
            sys.stderr.flush()

    def not_taken(self, kinds: list[str]) -> None:
        self(f"a message was not taken by {', '.join(kinds)}: check its address and the network")


def _kinds(text: str) -> list[str]:
    """Parse kinds of messages, separated by commas. Raises ValueError for an unknown one."""
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()]
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"--send {text}: {kind!r} is none of {', '.join(KINDS)}")
    return kinds or [ALARMS]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    line = CommandLine(
        prog=called("rltrader-notify"),
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
        command = commands.add_parser(name, help=text, description=text)
        urls = f"addresses, one a line (the credential {CREDENTIAL})"
        command.add_argument("--urls", type=_file_of_addresses, metavar="FILE", help=urls)
    desk = "the desk's; it is only read (paths.state_dir of ./config.toml and the environment)"
    command.add_argument("--state-dir", type=Path, metavar="DIR", help=desk)
    kinds = f"what, with commas: {'; '.join(f'{kind} ({text})' for kind, text in KINDS.items())} (%(default)s)"
    command.add_argument("--send", default=ALARMS, metavar="KINDS", help=kinds)
    help_text = "with trades, also what was entered, once no fill was added for --merge-s"
    command.add_argument("--entries", action="store_true", help=help_text)
    seconds = "seconds in which fills of one entry are one message, 1 to 600 (%(default)s)"
    command.add_argument("--merge-s", type=_count, default=round(MERGE_S), metavar="S", help=seconds)
    rate = "messages a minute, 1 or more; what is held back is summed up in the last one (%(default)s)"
    command.add_argument("--per-minute", type=_count, default=6, metavar="N", help=rate)
    text = "answer the listed senders of a Telegram bot, and pass on what they ask of a desk, until a signal"
    command = commands.add_parser("listen", help=text, description=text)
    file = f"who may write and which desks there are; secrets are the credentials {TOKEN} and {KEYS}"
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help=file)
    urls = f"addresses that hear of a token that Telegram refuses (the credential {CREDENTIAL}, where it is)"
    command.add_argument("--urls", type=_file_of_addresses, metavar="FILE", help=urls)
    return line.parse_args(arguments)


def _file_of_addresses(text: str) -> Path:
    if "://" in text:  # not shown: it is a secret
        raise argparse.ArgumentTypeError("this is an address; expected a file that has one a line")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is no such number; expected 1 to 600")
    return int(text)
