"""`rltraderctl start`: start the desks of a `desks.toml`, here in the foreground or as systemd units.

In the foreground each desk is a daemon of its own, as in its unit: after exit code 1 it is restarted, after a refused
start (2) it is not, and Ctrl-C or SIGTERM stops all of them cleanly.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

from daemon.config.desks import checked_desks
from daemon.config.load import EXIT_CODE, KEYS, ConfigError
from daemon.engine.desks_file import NamedDesk
from rltrader import module_command

DESKS = Path("desks.toml")
AGAIN_S = 5.0  # RestartSec= of the units
LOOK_S = 0.2
UNITS, STATES = Path("/etc/rltrader"), Path("/var/lib/rltrader")
TARGET = "rltrader-desks.target"
BETWEEN, COLOURS = " | ", ("cyan", "magenta", "green", "yellow", "blue")
COLUMNS_LEAST = 60
PRETTY = {"RLTRADER_LOG__FORMAT": "pretty", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0"}  # the last two are Rich's
_CURSOR = re.compile(r"\x1b\[\?25[lh]")  # hide and show the cursor: only this program may


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `start`."""
    command.set_defaults(run=run)
    command.add_argument("--desks", type=Path, default=DESKS, metavar="FILE", help="the start file (./%(default)s)")
    command.add_argument("--desk", action="append", default=[], metavar="NAME", help="this desk alone; may be repeated")
    command.add_argument("--dry-run", action="store_true", help="send no orders, as rltraderd --dry-run does")
    command.add_argument("--check", action="store_true", help="check each desk as rltraderd --check does; run nothing")
    command.add_argument("--systemd", action="store_true", help=f"let systemd run them, with {TARGET}, now and at boot")


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the desks until all have ended. Returns 0, or 2 when one refused to start. Raises ConfigError."""
    desks = _choose(checked_desks(options.desks), options.desk, options.desks)
    if options.systemd:
        return _by_systemd(desks, options)
    for desk in desks:
        if desk.config is None:
            raise ConfigError(
                f"{options.desks}: {desk.name!r} has no config: it can be shown, not started: add config = "
                f'"{desk.name}.toml", or name the others with --desk'
            )
    if not options.dry_run and not options.check:
        _own_keys(desks, options.desks)
    more = [f"--{name}" for name in ("dry-run", "check") if getattr(options, name.replace("-", "_"))]
    return Desks(desks, more, console).run(once=options.check or options.dry_run)


def _choose(desks: Sequence[NamedDesk], names: Sequence[str], path: Path) -> list[NamedDesk]:
    all_names = [desk.name for desk in desks]
    for name in names:
        if name not in all_names:
            raise ConfigError(f"--desk is {name!r}: {path} has no such desk: expected one of {', '.join(all_names)}")
    return [desk for desk in desks if not names or desk.name in names]


def _own_keys(desks: Sequence[NamedDesk], path: Path) -> None:
    """Refuse several desks on the environment's keys: they would share one account."""
    without = [desk.name for desk in desks if desk.credentials is None]
    if len(without) > 1:
        raise ConfigError(
            f"{path}: {' and '.join(without)} have no credentials of their own, so all would trade the account of the "
            f"environment's keys: expected one account for each: write {KEYS[0]} and {KEYS[1]} into a folder for each, "
            "and name it with credentials"
        )


# --- in the foreground --------------------------------------------------------------------------------------------


class Desks:
    """Daemons of several desks; each line of output is prefixed with the desk's name."""

    def __init__(self, desks: Sequence[NamedDesk], more: Sequence[str], console: Console) -> None:
        self._desks = desks
        self._more = more
        self._console = console
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._start_times: dict[str, float] = {desk.name: 0.0 for desk in desks}  # time of the next start
        self._readers: list[threading.Thread] = []
        self._stopping = False
        self._stop_requests: set[str] = set()
        self._refused = False
        self._prefix = max(len(desk.name) for desk in desks) + len(BETWEEN)
        self._for_a_person: dict[str, str] = {}
        if console.is_terminal:  # each daemon's tables are as wide as the rest of the terminal
            columns = str(max(console.width - self._prefix, COLUMNS_LEAST))
            self._for_a_person = {**PRETTY, "COLUMNS": columns}

    def run(self, *, once: bool) -> int:
        """Run until all have ended; with `once` none is restarted. Returns the exit code."""
        handlers_before = {kind: signal.signal(kind, self._stop) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._start_times or self._running:
                for desk in self._desks:
                    if self._start_times.get(desk.name, float("inf")) <= time.monotonic():
                        del self._start_times[desk.name]
                        self._start(desk)
                    self._look(desk.name, once=once)
                if self._stopping:
                    self._end_all()
                time.sleep(LOOK_S)
        finally:
            for kind, handler in handlers_before.items():
                signal.signal(kind, handler)
        for reader in self._readers:
            reader.join(5.0)
        return EXIT_CODE if self._refused else 0

    def _stop(self, _: int, __: object) -> None:
        self._stopping = True  # only this: a daemon may be starting at this moment

    def _end_all(self) -> None:
        """Restart none, and send each running daemon one SIGTERM."""
        self._start_times.clear()
        for name in self._running.keys() - self._stop_requests:
            self._stop_requests.add(name)
            self._running[name].send_signal(signal.SIGTERM)

    def _start(self, desk: NamedDesk) -> None:
        command = module_command("daemon", "--config", desk.config, "--state-dir", desk.state_dir)
        process = subprocess.Popen(
            [*command, *self._more],
            env={**_environment(desk, os.environ), **self._for_a_person},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C reaches it once, from here
        )
        self._running[desk.name] = process
        self._say(desk.name, f"started as process {process.pid}")
        assert process.stdout is not None
        reader = threading.Thread(target=self._pass_on, args=(desk.name, process.stdout), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _look(self, name: str, *, once: bool) -> None:
        process = self._running.get(name)
        if process is None or (code := process.poll()) is None:
            return
        del self._running[name]
        self._refused |= code == EXIT_CODE
        if code in (0, EXIT_CODE) or once or self._stopping:
            end_text = "refused to start: mend what it names" if code == EXIT_CODE else f"ended with exit code {code}"
            self._say(name, end_text)
            return
        self._say(name, f"ended with exit code {code}: started again in {AGAIN_S:g} s")
        self._start_times[name] = time.monotonic() + AGAIN_S

    def _pass_on(self, name: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._say(name, line.rstrip("\n"))

    def _say(self, name: str, text: str) -> None:
        colour = COLOURS[[desk.name for desk in self._desks].index(name) % len(COLOURS)]
        prefix = f"{name:<{self._prefix - len(BETWEEN)}}{BETWEEN}"
        line = Text.assemble((prefix, colour), Text.from_ansi(_CURSOR.sub("", text)))
        self._console.print(line, soft_wrap=True)


def _environment(desk: NamedDesk, environment: Mapping[str, str]) -> dict[str, str]:
    variables = {"RLTRADER_DESK__NAME": desk.name}
    if desk.credentials is not None:
        variables["CREDENTIALS_DIRECTORY"] = str(desk.credentials.absolute())
    return {**environment, **variables}


# --- as units -----------------------------------------------------------------------------------------------------


def _by_systemd(desks: Sequence[NamedDesk], options: argparse.Namespace) -> int:
    """Enable each desk's unit in the target and start it. Returns systemctl's exit code. Raises ConfigError."""
    problems = [problem for desk in desks for problem in _unlike_its_unit(desk)]
    if problems:
        raise ConfigError("\n".join(f"{options.desks}: {problem}" for problem in problems))
    units = [f"rltraderd@{desk.name}.service" for desk in desks]
    for command in (["systemctl", "add-wants", TARGET, *units], ["systemctl", "enable", "--now", TARGET]):
        sys.stdout.write(" ".join(command) + "\n")
        if options.check:
            continue
        sys.stdout.flush()
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


def _unlike_its_unit(desk: NamedDesk) -> list[str]:
    """List the paths of the desk that differ from its unit's."""
    places = {"config": (desk.config, UNITS / f"{desk.name}.toml"), "state_dir": (desk.state_dir, STATES / desk.name)}
    return [
        f"{desk.name!r}: {key} is {str(actual) if actual else 'missing'!r}: its unit expects {expected}: move it "
        "there, or start it without --systemd"
        for key, (actual, expected) in places.items()
        if actual is None or actual.absolute() != expected
    ]
