"""`rltrader-publisher`: publishes a desk's experience from its journal to a Redis stream.

A process of its own next to the daemon; it only reads the journal, and waits for it if the desk still waits for its
first model. Exit code 2: wrong use.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from daemon.experience.examine import CHECKED, PUBLISHER, examine
from daemon.experience.link import CREDENTIAL, Link, add_arguments, link_of, password
from daemon.experience.publisher import Publisher
from daemon.host.credential import CredentialProblem, credential
from daemon.host.service import Service
from daemon.host.version import CommandLine, add_version
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError
from daemon.operator.log import Log
from rltrader import called

REPORT_S = 60.0  # between two log lines about the published entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish until a signal ends the process."""
    options = _options(arguments)
    try:
        link = link_of(options.redis, options.redis_user, options.redis_ca_file)
        if options.check:
            return _check(options.state_dir, link)
        client = link.client(password())
        options.own_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (CredentialProblem, JournalError, OSError, ValueError) as error:
        sys.stderr.write(f"rltrader-publisher: {error}\n")
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = Log(options.log_level, options.log_format)
    log("publisher_started", redis=str(link), state_dir=str(options.state_dir))
    _publish(Publisher(options.state_dir, options.own_dir, client, log), Service(), log, stop)
    client.close()
    return 0


def _check(state_dir: Path, link: Link) -> int:
    """Print what Redis permits this process to do, a line each; returns 0, or 2 if it could not work.

    Raises CredentialProblem, JournalError, KeyError, ValueError.
    """
    with closing(JournalReader(state_dir / FILE)) as reader, reading(reader.path):
        desk = reader.meta()["desk"]
    secret, origin = credential(CREDENTIAL)
    lines = examine(link, secret, origin, desk, PUBLISHER)
    for line in lines:
        verdict = "ok" if line.good else "FAIL" if line.subject == CHECKED else "warn"
        sys.stdout.write(f"{line.subject:<11}  {verdict:<4}  {line.text}\n")
    return 0 if lines[0].good else 2


def _publish(publisher: Publisher, service: Service, log: Log, stop: threading.Event) -> None:
    """Take turns until `stop`; each one feeds the watchdog."""
    service.ready()
    last_report_s, count = time.monotonic(), 0
    while not stop.is_set():
        wait_s = publisher.turn()
        service.watchdog()
        now = time.monotonic()
        if publisher.published > count and now - last_report_s >= REPORT_S:
            log("experience_published", entries=publisher.published - count, row=publisher.row)
            last_report_s, count = now, publisher.published
        if wait_s:
            stop.wait(wait_s)
    service.stopping()
    publisher.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandLine(
        prog=called("rltrader-publisher"), description="Carry a desk's experience from its journal to a Redis stream."
    )
    add_version(parser)
    parser.add_argument("--state-dir", type=Path, required=True, metavar="DIR", help="the desk's; it is only read")
    parser.add_argument("--own-dir", type=Path, required=True, metavar="DIR", help="for the publisher's checkpoint")
    add_arguments(parser, "rltrader-publisher")
    parser.add_argument("--check", action="store_true", help="try Redis, print what was found, and end with 0 or 2")
    level, form = "the least that is logged (%(default)s)", "auto: pretty on a terminal, else json (%(default)s)"
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help=level)
    parser.add_argument("--log-format", choices=("auto", "json", "pretty"), default="auto", help=form)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
