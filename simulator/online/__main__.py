"""`make online`: a desk learns while it trades, from no model to a new champion, in about twenty lines."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from simulator.online.processes import ShowError
from simulator.online.show import Show, Story


def main() -> int:
    """Run the demonstration; returns exit code 0 if every line was seen, else 1."""
    line = argparse.ArgumentParser(
        prog="python -m simulator.online",
        description="A desk learns while it trades: a made-up market, a real Redis, all processes. Minutes.",
    )
    line.add_argument("--keep", action="store_true", help="leave the folder with journal, store and logs")
    line.add_argument("--patience", type=float, default=3.0, help="stretches what is waited for (%(default)s)")
    options = line.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="online.")), time.monotonic()
    story = Story(lambda text: print(text, flush=True))
    problem = ""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # raises KeyboardInterrupt: the processes are stopped
    try:
        Show(folder, story, options.patience, _progress).run()
    except (ShowError, KeyboardInterrupt) as error:
        problem = str(error) or "interrupted"
    code = story.end(problem, time.monotonic() - began)
    if code or options.keep:
        print(f"    journal, store and logs: {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text} \r")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
