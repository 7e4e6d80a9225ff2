"""`rltraderctl reference`: print lists and schemas from the code, for the manuals.

No list is kept in git: a manual has the line `<!-- rltraderctl reference NAME -->`, which `reference --into FOLDER`
replaces by the list when the site or an installation is made.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console

from daemon.cli.arguments import NotFound
from daemon.cli.journal.events import EventLine
from daemon.core.paper import fees
from daemon.journal import trade
from daemon.models.drift import DriftResult
from daemon.operator import log_events, status
from daemon.operator.metrics import exposition
from daemon.operator.mqtt import messages
from daemon.operator.summary import Summary
from daemon.reports.end_of_day import DayReport, SessionReport
from daemon.reports.gap import Gap, GapSummary
from daemon.reports.performance.read import Sheet
from daemon.reports.shadow import ShadowReport
from daemon.reports.tables import trades_contract
from daemon.tapes.quotes.calibration_file import Calibration
from daemon.tapes.quotes.coverage import QuoteReport

SCHEMAS = "schemas"
PRINTED: dict[str, Any] = {
    "ctl-day": DayReport,
    "ctl-drift": DriftResult,
    "ctl-events": EventLine,
    "ctl-gap": Gap,
    "ctl-gap-days": GapSummary,
    "ctl-performance": Sheet,
    "ctl-replay": Summary,
    "ctl-report": SessionReport,
    "ctl-shadow": ShadowReport,
    "ctl-status": status.DeskStatus,
    "ctl-trades": trades_contract(),
    "train-and-export-calibrate": Calibration,
    "train-and-export-check-quotes": QuoteReport,
}
"""Name -> type that is printed: by a command's `--json`, by `report` over a span (`performance`), by `gap --days`, by a
replay into a pipe, and into the file `reports/<day>.json` (`day`)."""
_PLACE = re.compile(r"^<!-- rltraderctl reference ([a-z-]+) -->$", re.MULTILINE)


def schemas() -> dict[str, str]:
    """Return the text of each JSON Schema, of messages and of commands' output, by file name."""
    printed = {f"{name}.v1.json": messages.schema_text(messages.schema_of(kind)) for name, kind in PRINTED.items()}
    return dict(sorted({**messages.schemas(), **printed}.items()))


def digests() -> str:
    """Return a line for each schema: the SHA-256 of its text, and its file name, in the form of sha256sum."""
    return "".join(f"{sha256(text.encode()).hexdigest()}  {name}\n" for name, text in schemas().items())


def _list_of_schemas() -> str:
    return "\n".join(f"- [{name.removesuffix('.json')}]({SCHEMAS}/{name})" for name in schemas())


LISTS: dict[str, Callable[[], str]] = {
    "log-events": log_events.table,
    "metrics": exposition.table,
    "trade-columns": trade.table,
    "status-fields": status.table,
    "fees": fees.table,
    SCHEMAS: _list_of_schemas,
}
"""Name -> function that returns its Markdown."""


def fill(folder: Path) -> None:
    """Insert the lists into the manuals of a folder, and write the schemas next to them. Raises OSError."""
    for manual in sorted(folder.glob("*.md")):
        text = manual.read_text()
        new_text = _PLACE.sub(lambda place: LISTS[place[1]](), text)
        if new_text != text:
            manual.write_text(new_text)
    (folder / SCHEMAS).mkdir(exist_ok=True)
    for name, text in schemas().items():
        (folder / SCHEMAS / name).write_text(text)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `reference`."""
    command.set_defaults(run=run)
    choice = command.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "name", nargs="?", metavar="NAME", help=f"print {', '.join(LISTS)}, or the schema of this name (status.v1)"
    )
    choice.add_argument("--digests", action="store_true", help="print the digest of each schema")
    choice.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help="put the lists into a folder's manuals, the schemas next to them",
    )


def run(options: argparse.Namespace, _: Console) -> int:
    """Print a list, a schema or the digests, or fill a folder; returns 0. Raises NotFound, OSError."""
    if options.into is not None:
        fill(options.into)
        return 0
    if options.digests:
        sys.stdout.write(digests())
    elif options.name in LISTS:
        sys.stdout.write(LISTS[options.name]() + "\n")
    elif (text := schemas().get(f"{options.name.removesuffix('.json')}.json")) is not None:
        sys.stdout.write(text)
    else:
        raise NotFound(f"nothing is called {options.name!r}: found {', '.join(LISTS)}, and the schemas {_names()}")
    return 0


def _names() -> str:
    return ", ".join(name.removesuffix(".json") for name in schemas())
