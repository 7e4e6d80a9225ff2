"""`rltrader-dashboard`: the read-only page about one desk or several, at http://127.0.0.1:8420.

It listens on this host's loopback address only. From another machine, use `ssh -L` or a reverse proxy that checks who
may read. Exit code 2: wrong use.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is loaded, however late that is

from daemon.dashboard.desks import FollowedDesk, add_options, chosen_desks
from daemon.dashboard.server import Dashboard, names, open_door, serve
from daemon.host.own_files import StateDirError
from daemon.host.safe_decode import prepare_types
from daemon.host.version import CommandLine, add_version
from daemon.library.library import PLACES_HELP, RUNS, usual_places
from daemon.models.shipped import to_read
from rltrader import called

PORT = 8420
ONCE = "shown once a desk has its journal there"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the process."""
    options = _options(arguments)
    try:
        desks = chosen_desks(options)
        listening = open_door(options.port)
    except (StateDirError, OSError, ValueError) as error:
        sys.stderr.write(f"rltrader-dashboard: {error}\n")
        return 2
    for problem in filter(None, map(_absence_text, desks.values())):
        sys.stderr.write(f"rltrader-dashboard: {problem}\n")
    for folder in options.runs_dir:
        if not folder.is_dir():
            sys.stderr.write(f"rltrader-dashboard: {folder}: no such folder; name it with --runs-dir\n")
    options.runs_dir = options.runs_dir or _runs()
    options.models_dir = to_read(options.models_dir)
    if not options.models_dir.is_dir():
        sys.stderr.write(f"rltrader-dashboard: {options.models_dir}: no model store here; name it with --models-dir\n")
    prepare_types()
    where = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    serving = f"rltrader-dashboard: {where} shows {names(list(desks.values()))}; Ctrl-C ends it\n"
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(Dashboard(desks, options.models_dir, options.gateway, options.runs_dir), listening, serving))
    return 0


def _absence_text(desk: FollowedDesk) -> str:
    """Return why a desk cannot be shown now; "" if its journal exists."""
    try:
        if not desk.path.exists():
            return f"{desk.path}: no such folder: is it the right --state-dir? {ONCE}"
        return "" if desk.file.exists() else f"{desk.path}: no journal here yet: {ONCE}"
    except OSError as error:
        return f"{desk.path}: {error.strerror}: run it as root or as the desk's user"


def _runs() -> list[Path]:
    """Return the usual folders of runs; an unreadable configuration adds none."""
    try:
        return usual_places()
    except StateDirError:
        return [RUNS]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandLine(prog=called("rltrader-dashboard"), description="The read-only page about your desks.")
    add_version(parser)
    add_options(parser)
    behind = "folder of a gateway (its state_dir): its account on the page of all desks; may be given repeatedly"
    parser.add_argument("--gateway", type=Path, action="append", default=[], metavar="DIR", help=behind)
    parser.add_argument("--runs-dir", type=Path, action="append", default=[], metavar="DIR", help=PLACES_HELP)
    parser.add_argument("--port", type=_port, default=PORT, help="on 127.0.0.1; 0 takes a free one (%(default)s)")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
