"""`rltraderctl export`: the tables of a journal, or its option quotes, as Parquet."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from daemon.cli.arguments import add_state_dir, lead_on
from daemon.journal.journal import FILE


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    command.set_defaults(run=run)
    command.add_argument(
        "what",
        choices=("quotes", "tables"),
        help="quotes: bid and ask of options by the minute; tables: trades, decisions, orders, fills, equity and "
        "others as Parquet (docs/DATA.md)",
    )
    add_state_dir(command)
    out = "the file to write, replaced whole; of tables the folder, a file for each"
    command.add_argument("--out", type=Path, required=True, metavar="FILE|DIR", help=out)


def run(options: argparse.Namespace, console: Console) -> int:
    """Write the requested export; returns 0. Raises NotFound, JournalError, OSError."""
    if options.what == "tables":
        from daemon.cli.journal.tables import export_tables

        lead_on(options, "trades")
        return export_tables(options.state_dir / FILE, options.out, console)
    from daemon.cli.journal.quotes import export_quotes

    lead_on(options, "check-quotes", str(options.out), about=(), program="train-and-export")
    return export_quotes(options.state_dir, options.out, console)
