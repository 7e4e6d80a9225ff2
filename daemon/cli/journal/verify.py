"""`rltraderctl verify`: replay the journal without model weights and compare every result."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from daemon.cli.arguments import NotFound, add_state_dir, lead_on
from daemon.engine.recover import code_digest, libraries
from daemon.engine.state_dir import check_follows, parts_of
from daemon.engine.verify import verify
from daemon.journal.journal import FILE
from daemon.journal.published import check_signed, compare
from daemon.journal.reader import JournalReader
from strategies.registry import strategy as strategy_named

DIFFERENT = 1


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `verify`."""
    command.set_defaults(run=run)
    add_state_dir(command)
    command.add_argument("--file", type=Path, metavar="FILE", help="another journal file: a rotated or archived one")
    command.add_argument(
        "--against", metavar="FILE|ROW:HEAD", help="compare with heads that were published: a log, a day's report"
    )
    command.add_argument(
        "--public-key", type=Path, metavar="FILE", help="with --against FILE: refuse a head that this key did not sign"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Verify and print the result; returns 0, or 1 for a difference. Raises NotFound, JournalError."""
    path = options.file or options.state_dir / FILE
    if options.public_key is not None:
        if options.against is None:
            raise NotFound("--public-key without --against: name the file of signed heads too")
        check_signed(options.against, options.public_key)
    reader = JournalReader(path)
    total = reader.query("SELECT count(*) AS n FROM events")[0]["n"]
    own_code = code_digest(reader.meta().get("strategy", ""))
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("verify", total=total)
        report = verify(path, own_code, strategy_named, lambda row_count: bar.update(task, completed=row_count))
    if report.before:
        console.print(f"rows up to {report.before:,} are in the file before this one (folder rotated): verify that too")
    for code, rows in report.other_code.items():
        by = "other code" if code != own_code else "this code before its first snapshot"
        console.print(f"{rows:,} rows were written by {by} ({code}): their hashes were checked, not stepped again")
    for versions, rows in report.other_libraries.items():
        console.print(
            f"{rows:,} rows were written with other libraries ({versions}; here {libraries()}) and come to something "
            f"else with these: their hashes were checked; verify them with those versions",
        )
    if report.difference:
        console.print(f"DIFFERENT: {report.difference}")
        return DIFFERENT
    newest = options.file is None
    if options.against is not None and not _against(path, options.against, console, newest=newest):
        return DIFFERENT
    if newest:
        for old, new in pairwise(parts_of(path)):
            check_follows(old, new)
    word = "identical" if not (report.other_code or report.other_libraries or report.before) else "no difference found"
    console.print(
        f"{word}: {report.events:,} events, {report.stepped:,} stepped again, {report.digests:,} state digests, "
        f"{report.snapshots} snapshots, {report.read_model_rows:,} read-model rows",
    )
    lead_on(options, "report")
    return 0


def _against(path: Path, published_file: str, console: Console, *, newest: bool) -> bool:
    """Compare with published heads; returns False if one differs."""
    comparison = compare(path, published_file, newest=newest)
    if comparison.difference:
        console.print(f"DIFFERENT: {comparison.difference}")
        return False
    more = (
        f", {comparison.elsewhere} are of other files of this journal: verify those too" if comparison.elsewhere else ""
    )
    console.print(f"published heads: {comparison.agree} agree{more}")
    return True
